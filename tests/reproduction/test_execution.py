"""Running a plan: resumed, not made twice, failures reported, weights loaded."""

import dataclasses
import signal

import numpy as np
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO

from pyro_stcn import study
from pyro_stcn.checkpoint import CheckpointError, load_model, save_model
from pyro_stcn.evaluation import NonFiniteFigureError
from pyro_stcn.protocols import evaluate_as
from pyro_stcn.reproduction import BUDGETS, csv_table, markdown_report, plan, reproduce
from pyro_stcn.reproduction import execution as module
from pyro_stcn.study import InterruptedRunError
from pyro_stcn.training import NonFiniteError

from .toy import strokes

CORPUS = strokes()
TINY = BUDGETS["tiny"]
ROWS = ("rnn-gmm", "vrnn-normal", "stcn-dense-gmm")


def planned(table="table1", corpus=CORPUS, systems=ROWS, **options):
    return plan(table, "strokes", corpus, TINY, systems=systems, **options)


def texts(made, results):
    return markdown_report(made, CORPUS, results), csv_table(made, CORPUS, results)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted reproduction of three rows, four updates each."""
    folder = tmp_path_factory.mktemp("whole")
    made = planned(steps=4)
    return folder, made, reproduce(made, CORPUS, folder)


def test_every_row_is_scored_under_its_protocol(whole):
    folder, made, results = whole
    assert [result.row for result in results] == list(made.rows)
    for result in results:
        (score,), (checkpoint,) = result.scores, result.checkpoints
        net, _ = load_model(checkpoint)
        evaluation = evaluate_as(result.row.protocol, net, CORPUS, particles=2, progress=False)
        np.testing.assert_array_equal(score.elbo, evaluation.objective)
        assert score.identity["protocol"] == str(result.row.protocol)
        assert score.steps == 4
        assert score.parameters == result.row.parameters
    assert {path.name for path in folder.iterdir()} == {f"iamondb-{name}-small-4-0" for name in ROWS}


class Signalling(TraceMeanField_ELBO):
    """Asks to stop in an update, counted over all rows."""

    left = 0

    def loss_and_grads(self, *args, **kwargs):
        type(self).left -= 1
        if type(self).left == 0:
            signal.raise_signal(self.signal)
        return super().loss_and_grads(*args, **kwargs)


Signalling.__name__ = "TraceMeanField_ELBO"  # to a checkpoint it is the same objective


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("update", [1, 6, 8, 11])
def test_cut_short_in_the_middle_of_a_row_it_goes_on_to_the_same_table(tmp_path, monkeypatch, whole, update, number):
    _, made, results = whole
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(Signalling, "left", update)
        patch.setattr(Signalling, "signal", number, raising=False)
        patch.setattr(study, "TraceMeanField_ELBO", Signalling)
        with pytest.raises(InterruptedRunError, match=f"stopped by {signal.Signals(number).name}"):
            reproduce(made, CORPUS, tmp_path, after_row=lambda rows: seen.append(len(rows)))
    assert seen == list(range(1, (update - 1) // 4 + 1)), "the rows before it are finished"
    again = reproduce(made, CORPUS, tmp_path)
    for one, other in zip(results, again, strict=True):
        assert dataclasses.replace(one.scores[0], seconds_per_step=0) == dataclasses.replace(
            other.scores[0], seconds_per_step=0
        )
    assert texts(made, again) == texts(made, results)


@pytest.fixture
def ctrl_c():
    """Python's own answer to SIGINT; in a job in the background of a shell it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_cut_short_while_scoring_it_goes_on_too(tmp_path, monkeypatch, whole, number):
    _, made, results = whole
    with monkeypatch.context() as patch:
        patch.setattr(study, "evaluate_as", lambda *_, **__: signal.raise_signal(number))
        with pytest.raises(InterruptedRunError, match="rnn-gmm-small: stopped while it was not training"):
            reproduce(made, CORPUS, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert texts(made, reproduce(made, CORPUS, tmp_path)) == texts(made, results)


def test_cut_short_while_the_last_row_is_written_it_goes_on_too(whole):
    folder, made, _ = whole

    def write(results):
        if len(results) == len(made.rows):
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match="stopped while it was not training"):
        reproduce(made, CORPUS, folder, after_row=write)


def test_a_finished_row_is_never_made_again_also_for_another_table(whole, monkeypatch):
    folder, made, results = whole
    for name in ("fit", "evaluate_as"):
        monkeypatch.setattr(study, name, lambda *_, **__: pytest.fail("it was made again"))
    again = reproduce(made, CORPUS, folder)
    assert [(r.scores[0].figures, r.checkpoints) for r in again] == [
        (r.scores[0].figures, r.checkpoints) for r in results
    ]
    of_table_2 = reproduce(planned("table2", systems=("stcn-dense-gmm",), steps=4), CORPUS, folder)
    assert of_table_2[0].scores[0].figures == results[2].scores[0].figures


def test_other_data_in_the_same_folder_are_refused(whole):
    folder, made, _ = whole
    with pytest.raises(
        ValueError, match="rnn-gmm-small-4-0 holds a score on other data .*Different: test, train, valid$"
    ):
        reproduce(made, strokes(seed=9), folder)


@pytest.mark.parametrize(
    "error",
    [
        NonFiniteError("loss nan at step 2"),
        NonFiniteFigureError("of 1 sequence"),
        MemoryError("no more"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    ],
)
def test_a_row_that_fails_is_reported_and_does_not_end_the_others(tmp_path, monkeypatch, error):
    made = planned()
    fit = study.fit

    def failing(net, *args, **kwargs):
        if type(net).__name__ == "VRNN":
            raise error
        return fit(net, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(study, "fit", failing)
        results = reproduce(made, CORPUS, tmp_path)
    assert [len(result.scores) for result in results] == [1, 0, 1]
    assert results[1].failures == (f"seed 0 failed, {type(error).__name__}: {error}",)
    markdown, table = texts(made, results)
    assert str(error) in markdown
    assert str(error) in table
    assert "| VRNN (Normal) |  | failed |" in markdown
    again = reproduce(made, CORPUS, tmp_path)
    assert [len(result.scores) for result in again] == [1, 1, 1], "the next call tries it again"


def test_a_seed_that_fails_leaves_the_others(tmp_path, monkeypatch):
    made = planned(systems=("rnn-gmm",), seeds=(0, 1))
    fit = study.fit

    def failing(*args, config, **kwargs):
        if config.seed == 0:
            raise NonFiniteError("loss nan")
        return fit(*args, config=config, **kwargs)

    monkeypatch.setattr(study, "fit", failing)
    (result,) = reproduce(made, CORPUS, tmp_path)
    assert [score.seed for score in result.scores] == [1]
    assert "seed 0 failed, NonFiniteError: loss nan" in markdown_report(made, CORPUS, [result])


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), KeyError("a bug")])
def test_a_bug_is_not_reported_as_a_failed_row(tmp_path, monkeypatch, error):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr(study, "fit", failing)
    with pytest.raises(type(error)):
        reproduce(planned(), CORPUS, tmp_path)


# ------------------------------------------------------------------------------------------------------------ loading


def test_rows_are_loaded_from_another_reproduction(tmp_path, monkeypatch, whole):
    folder, made, results = whole
    monkeypatch.setattr(study, "fit", lambda *_, **__: pytest.fail("it was trained"))
    loaded = reproduce(made, CORPUS, tmp_path, weights=folder)
    assert [r.scores[0].nats for r in loaded] == [r.scores[0].nats for r in results]
    assert loaded[0].notes == ("weights loaded from best.safetensors, not trained here",)
    assert loaded[0].scores[0].steps == 4
    monkeypatch.setattr(module, "score", lambda *_, **__: pytest.fail("it was scored again"))
    assert [r.scores[0].nats for r in reproduce(made, CORPUS, tmp_path, weights=folder)] == [
        r.scores[0].nats for r in results
    ]


def test_a_single_file_is_one_run_whatever_the_seeds_and_the_rest_is_trained(tmp_path):
    made = planned(systems=("rnn-gmm", "vrnn-normal"), seeds=(3, 4))
    net = dataclasses.replace(made.rows[0].study.model, width=5).build()
    save_model(tmp_path / "weights" / "iamondb-rnn-gmm-small.safetensors", net)
    rnn, vrnn = reproduce(made, CORPUS, tmp_path / "runs", weights=tmp_path / "weights")
    assert len(rnn.scores) == 1
    assert rnn.scores[0].parameters == sum(p.numel() for p in net.parameters())
    assert "their configuration is not that of the preset" in rnn.notes
    assert any("does not say how the data of these weights were standardised" in note for note in rnn.notes)
    assert [score.seed for score in vrnn.scores] == [3, 4]
    assert not vrnn.notes


def test_weights_of_other_units_or_other_channels_are_refused(tmp_path):
    made = planned(systems=("rnn-gmm",))
    path = tmp_path / "iamondb-rnn-gmm-small.safetensors"
    save_model(path, made.rows[0].study.model.build(), standardiser={"mean": 0.0, "std": 1.0})
    with pytest.raises(CheckpointError, match="standardised in another way"):
        reproduce(made, CORPUS, tmp_path / "runs", weights=tmp_path)
    from pyro_stcn.presets import preset

    save_model(path, preset("timit/rnn-gmm-small").model.build())
    with pytest.raises(CheckpointError, match="data with 200 channels, and 'toy' has 3"):
        reproduce(made, CORPUS, tmp_path / "runs", weights=tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder of weights"):
        reproduce(made, CORPUS, tmp_path / "runs", weights=tmp_path / "nowhere")
