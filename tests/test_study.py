"""A study: runs of rows, resumed and not made twice, and scores that say what they are of."""

import csv
import dataclasses
import signal
from dataclasses import replace

import numpy as np
import pytest
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from pyro_stcn import study
from pyro_stcn.bounds import FIVO, IWAE, FreeBits
from pyro_stcn.checkpoint import CheckpointError, load_model, load_tensors
from pyro_stcn.comparison import Score
from pyro_stcn.data import Corpus, Standardiser
from pyro_stcn.evaluation import evaluate
from pyro_stcn.models import Evidence, RNNConfig
from pyro_stcn.protocols import PROTOCOLS, evaluate_as
from pyro_stcn.study import InterruptedRunError, Row, run
from pyro_stcn.training import TrainingConfig, fit

from .small import CAUSAL, small_data, small_stcn


def corpus(train=0, test=2):
    """Three small sets; a number is the seed of a set."""
    parts = (small_data(count, prefix=p, seed=s) for count, p, s in ((12, "s", train), (4, "v", 1), (3, "t", test)))
    return Corpus("toy", *parts, Standardiser(0.0, 1.0), "sines for tests")


CORPUS = corpus()
QUICK = TrainingConfig(steps=4, batch_size=6, evaluate_every=2, kl_increment=0.2, log_every=1)
ROW = Row("toy-stcn", small_stcn().config, QUICK)


def make(folder, row=ROW, seed=5, data=CORPUS, particles=3, **options):
    return run(row, seed, data, folder, particles=particles, **options)


def without_clock(score):
    return replace(score, seconds_per_step=0.0)


# ---------------------------------------------------------------------------------------------------------------- a run


def test_a_run_leaves_its_score_its_log_and_its_weights(tmp_path):
    score = make(tmp_path)
    folder = tmp_path / "toy-stcn-4-5"
    assert {"score.json", "test.csv", "test.txt", "train.csv", "valid.csv"} < {p.name for p in folder.iterdir()}
    assert Score.load(folder / "score.json") == score
    assert (score.system, score.seed, score.steps, score.evidence) == ("toy-stcn", 5, 4, Evidence.LOWER_BOUND)
    assert score.bound == "IWAE-3 per step"
    assert score.parameters == sum(p.numel() for p in small_stcn().parameters())
    assert score.seconds_per_step > 0
    assert score.identity["test"] == CORPUS.test.digest()
    assert score.identity["training"]["seed"] == 5
    assert score.identity["elbo"]["class"] == "TraceMeanField_ELBO"

    net, facts = load_model(folder / "best.safetensors")
    assert facts["facts"] == CORPUS.facts()
    evaluation = evaluate(net, CORPUS.test, particles=3, standardiser=CORPUS.standardiser, progress=False)
    np.testing.assert_array_equal(score.nats, evaluation.iwae_per_step)
    np.testing.assert_array_equal(score.elbo, evaluation.objective)
    assert list(score.figures) == [name for name, _ in evaluation.rows()]
    np.testing.assert_array_equal(score.figures["KL z2"], evaluation.kl["z2"])
    assert (folder / "test.txt").read_text() == f"{evaluation}\n"
    with open(folder / "test.csv", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["t0", "t1", "t2"]


def test_the_best_weights_are_scored_and_not_the_last(tmp_path):
    """After the last update there is no validation here."""
    score = make(tmp_path, replace(ROW, training=replace(QUICK, steps=5)))
    folder = tmp_path / "toy-stcn-5-5"
    (best, _), (last, _) = (load_model(folder / f"{name}.safetensors") for name in ("best", "last"))
    of_best, of_last = (evaluate(net, CORPUS.test, particles=3, progress=False).objective for net in (best, last))
    np.testing.assert_array_equal(score.elbo, of_best)
    assert not np.array_equal(of_best, of_last)


def test_a_seed_is_weights_batches_and_noise_and_the_same_again(tmp_path):
    first, other, again = make(tmp_path), make(tmp_path, seed=6), make(tmp_path / "elsewhere")
    assert without_clock(first) == without_clock(again)
    assert first.nats != other.nats
    assert sorted(p.name for p in tmp_path.glob("toy*")) == ["toy-stcn-4-5", "toy-stcn-4-6"]


def test_no_run_stops_early(tmp_path):
    """Budgets are equal whatever the patience of the recipe is."""
    impatient = replace(QUICK, steps=8, patience=1, evaluate_every=1, learning_rate=0.5, kl_increment=1.0)
    options = {"elbo": TraceMeanField_ELBO(), "folder": tmp_path / "fit", "progress": False}
    stopped = fit(small_stcn(), CORPUS.train, CORPUS.valid, config=replace(impatient, seed=5), **options)
    assert stopped.step < 8, "such a run would have stopped"
    assert make(tmp_path, replace(ROW, training=impatient)).steps == 8


def test_a_run_shorter_than_its_validations_has_one_at_its_end(tmp_path):
    score = make(tmp_path, replace(ROW, training=replace(QUICK, steps=2, evaluate_every=1000)))
    assert score.steps == 2
    assert load_tensors(tmp_path / "toy-stcn-2-5" / "best.safetensors")[1]["step"] == 2


@pytest.mark.parametrize("elbo", [Trace_ELBO(), IWAE(2), FreeBits(50.0)])
def test_the_objective_is_the_rows(tmp_path, elbo):
    score, default = make(tmp_path, replace(ROW, elbo=elbo)), make(tmp_path / "default")
    assert score.nats != default.nats
    assert score.identity["elbo"]["class"] == type(elbo).__name__


def test_a_filter_is_among_the_figures(tmp_path):
    causal = Row("causal", small_stcn(CAUSAL).config, QUICK)
    score = make(tmp_path, causal, filter=FIVO(4))
    assert score.bound == "FIVO-4"
    assert score.nats == score.figures["FIVO-4"]
    assert "IWAE-3 per sequence" in score.figures
    assert score.identity["filter"]["num_particles"] == 4


def test_a_run_can_be_scored_under_a_published_protocol(tmp_path):
    """In pieces, of which the score knows the recordings; it is another score than that of whole sequences."""
    protocol = replace(PROTOCOLS["blizzard/vrnn"], segment=5)
    score = make(tmp_path, protocol=protocol)
    net, _ = load_model(tmp_path / "toy-stcn-4-5" / "best.safetensors")
    evaluation = evaluate_as(protocol, net, CORPUS, particles=3, progress=False)
    np.testing.assert_array_equal(score.elbo, evaluation.objective)
    assert score.recordings == evaluation.recordings
    assert len(score.recordings) == len(score.nats) > len(CORPUS.test)
    assert Score.load(tmp_path / "toy-stcn-4-5" / "score.json") == score
    for other in (None, replace(protocol, segment=4)):
        with pytest.raises(ValueError, match="another recipe"):
            make(tmp_path, protocol=other)


@pytest.mark.parametrize("filter", [None, FIVO(2)])
def test_a_model_without_latents_has_an_exact_score(tmp_path, filter):
    """With or without a filter, which is for the models that have one."""
    score = make(tmp_path, Row("rnn", RNNConfig(4, 5, 1, 6), QUICK), filter=filter)
    assert (score.evidence, score.bound) == (Evidence.EXACT, "log-likelihood")
    assert score.nats == score.elbo == score.figures["log-likelihood"]


# ------------------------------------------------------------------------------------------------- cut short and again


class Signalling(TraceMeanField_ELBO):
    """Asks to stop in the middle of the update with that number."""

    def __init__(self, update):
        super().__init__()
        self.left = update

    def loss_and_grads(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)
        return super().loss_and_grads(*args, **kwargs)


Signalling.__name__ = "TraceMeanField_ELBO"  # to a checkpoint it is the same objective


@pytest.mark.parametrize("update", [1, 3, 4])
def test_a_run_that_was_cut_short_goes_on_to_the_same_score(tmp_path, update):
    """Also when the signal came in the last update, after which there is nothing left but to score."""
    whole = make(tmp_path / "whole")
    with pytest.raises(InterruptedRunError, match=r"toy-stcn: .* stopped by SIGTERM.*\. Run the same command again"):
        make(tmp_path / "parts", replace(ROW, elbo=Signalling(update)))
    folder = tmp_path / "parts" / "toy-stcn-4-5"
    assert not (folder / "score.json").exists()
    assert load_tensors(folder / "last.safetensors")[1]["step"] == update
    assert without_clock(make(tmp_path / "parts")) == without_clock(whole)
    assert Score.load(folder / "score.json").nats == whole.nats


def test_a_run_that_was_cut_short_does_not_go_on_with_another_recipe(tmp_path):
    with pytest.raises(InterruptedRunError):
        make(tmp_path, replace(ROW, elbo=Signalling(3)))
    with pytest.raises(CheckpointError, match="another elbo"):
        make(tmp_path, replace(ROW, elbo=FreeBits(0.5)))
    with pytest.raises(CheckpointError, match="another data; different: train"):
        make(tmp_path, data=corpus(train=9))


def test_a_run_whose_scoring_failed_is_scored_and_not_trained_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(study, "evaluate", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make(tmp_path)
    before = (tmp_path / "toy-stcn-4-5" / "train.csv").read_text()
    assert without_clock(make(tmp_path)) == without_clock(make(tmp_path / "whole"))
    assert (tmp_path / "toy-stcn-4-5" / "train.csv").read_text() == before


def test_a_finished_run_is_not_made_again(tmp_path, monkeypatch):
    made = make(tmp_path)
    for name in ("fit", "evaluate"):
        monkeypatch.setattr(study, name, lambda *_, **__: pytest.fail("it was made again"))
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "toy-stcn-4-5").iterdir()}
    assert make(tmp_path) == made
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "toy-stcn-4-5").iterdir()} == files


OTHERS = {
    "test set": {"data": corpus(test=9)},
    "training set": {"data": corpus(train=9)},
    "model": {"row": replace(ROW, model=replace(ROW.model, dense=False))},
    "recipe": {"row": replace(ROW, training=replace(QUICK, learning_rate=2e-3))},
    "objective": {"row": replace(ROW, elbo=Trace_ELBO())},
    "floor": {"row": replace(ROW, elbo=FreeBits(0.1))},
    "particles": {"particles": 4},
    "filter": {"filter": FIVO(2)},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    make(folder)
    return folder


@pytest.mark.parametrize("other", OTHERS)
def test_a_score_of_something_else_is_refused(finished, other):
    with pytest.raises(ValueError, match="toy-stcn-4-5 holds a score on other data or of another recipe: name another"):
        make(finished, **OTHERS[other])


def test_what_is_given_by_the_run_does_not_make_another_recipe(finished):
    """The seed is the run's, and patience that of the study; a row that spells out the default is the same."""
    same = Row("toy-stcn", ROW.model, replace(QUICK, seed=77, patience=3), TraceMeanField_ELBO())
    assert make(finished, same) == make(finished)


def test_two_filters_or_objectives_with_other_settings_are_told_apart(tmp_path):
    row = replace(ROW, elbo=FreeBits(0.5))
    make(tmp_path, row, filter=FIVO(2))
    with pytest.raises(ValueError, match="another recipe"):
        make(tmp_path, replace(row, elbo=FreeBits(0.6)), filter=FIVO(2))
    with pytest.raises(ValueError, match="another recipe"):
        make(tmp_path, row, filter=FIVO(2, threshold=0.9))
    assert make(tmp_path, row, filter=FIVO(2)).steps == 4


def test_rows_are_values():
    assert dataclasses.replace(ROW) == ROW
    with pytest.raises(dataclasses.FrozenInstanceError):
        ROW.name = "other"
