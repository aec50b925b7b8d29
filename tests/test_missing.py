"""Steps that are marked as missing, through training, evaluation and protocols."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch.distributions import MultivariateNormal

from pyro_stcn.bounds import FIVO, IWAE, DReG
from pyro_stcn.checkpoint import load_tensors
from pyro_stcn.data import Corpus, SequenceDataset, Standardiser, collate
from pyro_stcn.evaluation import evaluate
from pyro_stcn.models import MODELS, WaveNetConfig
from pyro_stcn.observation import NormalConfig, PointwiseOutputConfig
from pyro_stcn.protocols import Protocol, evaluate_as
from pyro_stcn.states import prime
from pyro_stcn.training import TrainingConfig, fit

from .linear_gaussian import DIM, evidence, linear_gaussian_stcn
from .small import CAUSAL, POINTWISE, small_data, small_stcn

HEAD = {"observation": NormalConfig()}
SMALL = {"data_dim": 4, "latent_dim": 3, "width": 6, "layers": 1, "data_width": 5, "latent_width": 5}
MODELS_ = {
    "pointwise": lambda: small_stcn(POINTWISE),
    "causal": lambda: small_stcn(CAUSAL),
    "vrnn": lambda: MODELS["vrnn"](**SMALL, **HEAD).build(),
    "srnn": lambda: MODELS["srnn"](4, 3, 6, 5, **HEAD).build(),
    "wavenet": lambda: WaveNetConfig(4, (1, 2), 6, output=PointwiseOutputConfig(1, 5), **HEAD).build(),
}
QUICK = TrainingConfig(steps=4, batch_size=3, evaluate_every=2, kl_increment=0.5, log_every=1)


def holed(count=6, fill=np.nan, seed=0, prefix="s"):
    """Small data of which a third of the steps is missing, whatever ``fill`` is in their place."""
    rng = np.random.default_rng(seed)
    data = small_data(count, prefix=prefix, seed=seed)
    marks = [rng.random(len(x)) > 0.35 for x in data.sequences]
    for known in marks:
        known[1] = True
        known[2] = False
    sequences = [np.where(known[:, None], x, fill) for x, known in zip(data.sequences, marks, strict=True)]
    return SequenceDataset(tuple(sequences), data.names, tuple(marks))


@pytest.mark.parametrize("mean_over_steps", [False, True])
def test_training_and_its_resumption_do_not_depend_on_what_is_under_a_mark(tmp_path, mean_over_steps):
    config = replace(QUICK, mean_over_steps=mean_over_steps)

    def run(name, fill, steps, **options):
        data = holed(fill=fill), holed(3, fill=fill, seed=1, prefix="v")
        fit(
            small_stcn(CAUSAL),
            *data,
            elbo=TraceMeanField_ELBO(),
            config=replace(config, steps=steps),
            folder=tmp_path / name,
            progress=False,
            **options,
        )
        return load_tensors(tmp_path / name / "last.safetensors")[0]

    whole = run("nan", np.nan, 4)
    run("parts", 1e3, 2)
    parts = run("parts", -np.inf, 4, resume=True)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_mean_over_steps_is_over_the_observed_ones(tmp_path):
    """One sequence: its loss is its bound over the steps that are there."""
    data = holed(1)
    losses = {}
    for mean in (False, True):
        net, folder = small_stcn(POINTWISE), tmp_path / str(mean)
        config = replace(QUICK, steps=1, mean_over_steps=mean, kl_start=1.0)
        fit(net, data, elbo=TraceMeanField_ELBO(), config=config, folder=folder, progress=False)
        losses[mean] = float((folder / "train.csv").read_text().splitlines()[1].split(",")[1])
    assert losses[True] == pytest.approx(losses[False] / (len(data[0]) - data.missing[0]), rel=1e-5)


@pytest.mark.parametrize("elbo", [IWAE(3), DReG(3), FIVO(3)], ids=lambda e: type(e).__name__)
def test_objectives_of_many_draws_train_on_holes(tmp_path, elbo):
    result = fit(small_stcn(CAUSAL), holed(), elbo=elbo, config=QUICK, folder=tmp_path, progress=False)
    assert result.step == 4


@pytest.mark.parametrize("name", MODELS_)
def test_figures_count_the_observed_steps(name):
    net, data = MODELS_[name](), holed()
    result = evaluate(net, data, particles=4, progress=False)
    observed = data.lengths - data.missing
    assert result.scored.tolist() == observed.tolist()
    assert result.missing == data.missing.sum() > 5
    assert result.first_step_scored
    assert f"{data.missing.sum()} of them missing, all others scored" in str(result)
    per_step = result.in_units()["nats per step"].mean
    assert per_step == pytest.approx(result.tightest()[0].sum() / observed.sum())
    again = evaluate(net, holed(fill=7), particles=4, progress=False)
    np.testing.assert_array_equal(again.objective, result.objective)


def test_holes_go_through_windows_and_filters():
    net, data = MODELS_["wavenet"](), holed()
    whole, parts = (evaluate(net, data, window=window, progress=False).log_likelihood for window in (None, 3))
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    for name in ("causal", "vrnn"):
        result = evaluate(MODELS_[name](), data, particles=2, filter=FIVO(3), window=4, progress=False)
        assert np.isfinite(result.filtered[0]).all()


def test_given_a_first_step_the_others_that_are_there_are_scored():
    data = holed()
    result = evaluate(small_stcn(POINTWISE), data, given_first=True, progress=False)
    assert result.scored.tolist() == [int(data.mask(i)[1:].sum()) for i in range(len(data))]
    assert not result.first_step_scored


@pytest.mark.usefixtures("double")
@torch.no_grad()
def test_with_an_exact_guide_the_figure_is_the_density_of_what_is_there():
    """Gaussian, in closed form: the marginal over the steps that are there."""
    net = linear_gaussian_stcn((1, 1), dense=True, exact=True)
    x = torch.randn(3, 5, DIM)
    marks = torch.tensor([[1, 0, 0, 1, 1], [0, 1, 1, 0, 1], [1, 1, 1, 1, 0]], dtype=torch.bool)
    data = SequenceDataset(
        tuple(np.where(m[:, None], a, np.nan) for a, m in zip(x, marks, strict=True)), (), tuple(marks.numpy())
    )
    joint = evidence(net, torch.from_numpy(np.stack(data.sequences)).double())
    exact = []
    for i, known in enumerate(marks):
        keep = known.repeat_interleave(DIM)
        marginal = MultivariateNormal(joint.mean[i][keep], joint.covariance_matrix[i][keep][:, keep])
        exact.append(marginal.log_prob(torch.from_numpy(data[i]).double().flatten()[keep]).item())
    result = evaluate(net, data, particles=7, filter=FIVO(3), progress=False)
    for values in (result.iwae, result.iwae_per_step, result.filtered[0]):
        np.testing.assert_allclose(values, exact, rtol=1e-9)


def test_a_protocols_pieces_keep_their_marks_and_its_unit_is_that_of_what_is_there():
    x = np.random.default_rng(0).normal(3, 2, (12, 4))
    known = np.array([1, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1], dtype=bool)
    unit = Standardiser.scalar([x[known]])
    part = [SequenceDataset((unit.apply(x),), (name,), (known,)) for name in "abc"]
    pieces = Protocol("p", "s", Standardiser.scalar, "u", segment=4).cut(part[0])
    assert pieces.names == ("a[0:4]", "a[8:12]"), "there is nothing to score in the second piece"
    assert pieces.missing.tolist() == [1, 0]
    result = evaluate_as(
        Protocol("p", "s", Standardiser.scalar, "u"),
        small_stcn(POINTWISE),
        Corpus("x", *part, unit, "words"),
        particles=2,
        progress=False,
    )
    assert result.standardiser.mean == pytest.approx(unit.mean, abs=1e-5)
    assert result.standardiser.std == pytest.approx(unit.std, rel=1e-5)


def test_a_beginning_with_holes_is_refused_with_the_way_out():
    x = torch.from_numpy(np.array(small_data(1)[0]))[None].clone()
    x[0, 2, 1] = math.nan
    with pytest.raises(ValueError, match="must be complete: fill it with impute first"):
        prime(small_stcn(), x)


def test_a_batch_of_the_dataset_gives_pyro_the_same_loss_whatever_is_under_the_marks():
    net = small_stcn(CAUSAL)
    batch = collate(holed(), range(6))
    losses = []
    for fill in (0.0, math.nan):
        torch.manual_seed(0)
        x = torch.where(batch.mask.unsqueeze(-1), batch.x, fill)
        losses.append(TraceMeanField_ELBO().loss(net.model, net.guide, x, batch.mask))
    assert losses[0] == losses[1]
