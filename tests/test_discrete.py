"""Bits and categories: their heads, what they refuse, and models of them from training to what is generated."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO

from pyro_stcn.bounds import FIVO
from pyro_stcn.checkpoint import load_model
from pyro_stcn.data import DataError, SequenceDataset, Standardiser
from pyro_stcn.discrete import CategoricalConfig, check_values
from pyro_stcn.evaluation import evaluate
from pyro_stcn.generation import generate, reconstruct
from pyro_stcn.imputation import impute
from pyro_stcn.models import MODELS
from pyro_stcn.observation import BernoulliConfig, PenStrokeConfig
from pyro_stcn.streaming import Stream
from pyro_stcn.training import TrainingConfig, fit

from .small import CAUSAL, POINTWISE, small_data, small_stcn

QUICK = TrainingConfig(steps=4, batch_size=3, evaluate_every=2, kl_increment=0.5)
quiet = {"progress": False}


def cycles(count=8, categories=5, seed=0):
    """One-hot sequences that count upwards, and now and then stay."""
    rng = np.random.default_rng(seed)
    steps = [np.cumsum(rng.random(n) < 0.9) % categories for n in rng.integers(6, 15, count)]
    return SequenceDataset(tuple(np.eye(categories)[s] for s in steps))


def rolls(count=8, width=88, seed=0):
    rng = np.random.default_rng(seed)
    return SequenceDataset(tuple((rng.random((n, width)) < 0.05).astype(float) for n in rng.integers(6, 15, count)))


CASES = {
    "stcn, categories": (lambda: small_stcn(CAUSAL, data_dim=5, observation=CategoricalConfig()), cycles),
    "stcn pointwise, categories": (lambda: small_stcn(POINTWISE, data_dim=5, observation=CategoricalConfig()), cycles),
    "rnn, categories": (lambda: MODELS["rnn"](5, 6, 1, 5, CategoricalConfig()).build(), cycles),
    "vrnn, categories": (lambda: MODELS["vrnn"](5, 3, 6, 1, 5, 5, observation=CategoricalConfig()).build(), cycles),
    "stcn, a piano roll": (lambda: small_stcn(CAUSAL, data_dim=88, observation=BernoulliConfig()), rolls),
    "vrnn, a piano roll": (lambda: MODELS["vrnn"](88, 3, 6, 1, 5, 5, observation=BernoulliConfig()).build(), rolls),
}


@pytest.mark.parametrize("name", CASES)
def test_from_training_to_what_is_generated(name, tmp_path):
    build, data = CASES[name]
    pyro.set_rng_seed(0)
    elbo = TraceMeanField_ELBO()
    result = fit(build(), data(), data(4, seed=1), elbo=elbo, config=QUICK, folder=tmp_path, progress=False)
    net, _ = load_model(result.best)
    assert net.config.observation == build().config.observation, "the checkpoint knows the head"
    test, one = data(4, seed=2), lambda x: bool((x.sum(-1) == 1).all()) or "piano" in name
    report = evaluate(net, test, particles=3, filter=FIVO(2) if net.has_filter else None, **quiet)
    assert report.discrete
    assert (report.log_likelihood < 0).all(), "log-probabilities"
    assert "log-probabilities of discrete values" in str(report)
    for options in ({}, {"temperature": 0.5}, {"bias": 1.0}):
        made = generate(net, 6, 2, prefix=torch.from_numpy(test[0][:3])[None], **options, **quiet)
        assert made.unique().tolist() in ([0.0, 1.0], [0.0])
        assert one(made)
        check_values(net.config.observation, SequenceDataset(tuple(made.numpy())))
    x = torch.from_numpy(test[0])[None]
    mean = reconstruct(net, x)
    assert ((mean >= 0) & (mean <= 1)).all()
    stream = Stream(net, 3)
    state = stream.start()
    for step in made[0]:  # what was generated goes in
        state, nats = stream.observe(state, step[None])
        assert nats.item() < 0
    observed = torch.ones(1, x.shape[1], dtype=torch.bool)
    observed[0, 2:4] = False
    filled = impute(net, torch.where(observed[..., None], x, torch.nan), observed, 5, **quiet)
    assert filled.samples.unique().tolist() == [0.0, 1.0]
    assert one(filled.samples)
    assert torch.equal(filled.samples[:, 0, observed[0]], x[0, observed[0]].expand(5, -1, -1))


def test_a_category_by_hand():
    head = CategoricalConfig().build(6, 3)
    h = torch.randn(4, 6)
    x = torch.eye(3)[[2, 0, 1, 1]]
    logits = h @ head.logits.weight.T + head.logits.bias
    torch.testing.assert_close(head(h).log_prob(x), (logits.log_softmax(-1) * x).sum(-1))
    torch.testing.assert_close(head(h).mean, logits.softmax(-1))


def test_a_categorical_step_is_one_dimension():
    """A model that knows nothing needs log2 C bits for every step; bits have one each."""
    net = CASES["rnn, categories"][0]()
    torch.nn.init.zeros_(net.observation.logits.weight)
    data = cycles()
    report = evaluate(net, data, standardiser=Standardiser((0.0,) * 5, (1.0,) * 5), **quiet)
    units = {name: value.mean for name, value in report.in_units().items()}
    assert units["bits per dimension"] == pytest.approx(math.log2(5))
    assert units["nats per step"] == units["nats per dimension"] == pytest.approx(-math.log(5))
    np.testing.assert_allclose(report.log_likelihood, -data.lengths * math.log(5), rtol=1e-6)
    with pytest.raises(ValueError, match="log-probabilities of discrete values"):
        report.in_units_of(Standardiser((0.0,) * 5, (1.0,) * 5))
    net = MODELS["rnn"](88, 6, 1, 5, BernoulliConfig()).build()
    torch.nn.init.zeros_(net.observation.logits.weight)
    assert evaluate(net, rolls(), **quiet).in_units()["bits per dimension"].mean == pytest.approx(1)


def test_padding_and_missing_steps_are_no_category_and_change_nothing():
    net, data = CASES["stcn, categories"][0](), cycles(4)
    alone = evaluate(net, data, batch_size=1, particles=1, **quiet)
    assert np.isfinite(alone.objective).all()
    marks = tuple(np.arange(len(x)) != 2 for x in data.sequences)
    holed = SequenceDataset(
        tuple(np.where(m[:, None], x, np.nan) for x, m in zip(data.sequences, marks, strict=True)), (), marks
    )
    report = evaluate(net, holed, particles=2, **quiet)
    assert report.scored.tolist() == (data.lengths - 1).tolist()


@pytest.mark.parametrize(
    ("head", "bad", "message"),
    [
        (BernoulliConfig(), [0, 0.3, 1], "holds 0.3 at step 1, channel 1, the first of 2 .* BernoulliConfig .*0 and 1"),
        (CategoricalConfig(), [0, 0.3, 1], "holds 0.3 at step 1, channel 1"),
        (CategoricalConfig(), [1, 0, 1], "holds 1 at step 1, channel 0.*CategoricalConfig.*steps of one 1 and else 0"),
        (CategoricalConfig(), [0, 0, 0], "holds 0 at step 1, channel 0"),
        (PenStrokeConfig(), [0.2, 3, 0.5], "holds 0.5 at step 1, channel 2.*a pen bit, 0 or 1, in the last channel"),
    ],
)
def test_values_without_a_probability_are_named_before_anything_is_learned(head, bad, message, tmp_path):
    x = np.eye(3)[[0, 1, 2]]
    x[1] = bad
    later = np.array([0.0, 0.0, 0.7]) if isinstance(head, BernoulliConfig) else np.eye(3)[2]
    data = SequenceDataset((np.eye(3), np.vstack([x, later])), ("fine", "odd"))
    net = small_stcn(data_dim=3, observation=head)
    with pytest.raises(DataError, match=f"sequence 'odd' {message}"):
        fit(net, data, elbo=TraceMeanField_ELBO(), config=QUICK, folder=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="'odd'"):
        fit(net, cycles(3, 3), data, elbo=TraceMeanField_ELBO(), config=QUICK, folder=tmp_path / "run", progress=False)
    with pytest.raises(DataError, match="'odd'"):
        evaluate(net, data, **quiet)
    marked = SequenceDataset(data.sequences, data.names, (None, np.array([True, False, True, False])))
    check_values(head, marked)  # what is not observed is not looked at


def test_real_data_are_no_bits():
    with pytest.raises(DataError, match="values that BernoulliConfig has no probability for"):
        evaluate(small_stcn(observation=BernoulliConfig()), small_data(2), **quiet)
    check_values(small_stcn().config.observation, small_data(2))


def test_one_category_is_no_choice():
    with pytest.raises(ValueError, match="one of at least two"):
        CategoricalConfig().build(3, 1)
