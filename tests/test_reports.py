"""Units, repeats, ceilings: the same figures said in other ways, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from pyro_stcn.bounds import FIVO
from pyro_stcn.data import DataError, SequenceDataset, Standardiser
from pyro_stcn.evaluation import evaluate
from pyro_stcn.models import MODELS
from pyro_stcn.observation import DiscretisedMixtureConfig, GaussianMixtureConfig, NormalConfig, PenStrokeConfig
from pyro_stcn.reports import Statistic

from .small import CAUSAL, POINTWISE, small_data, small_stcn

DATA = small_data(6)
UNIT = Standardiser((1.0, 2.0, 3.0, 4.0), (2.0, 4.0, 0.5, 10.0))
quiet = {"progress": False}


def rnn(observation=None, dim=4):
    return MODELS["rnn"](dim, 6, 1, 5, observation or NormalConfig()).build()


def test_a_ratio_and_its_error_against_the_bootstrap():
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 50, 400).astype(float)
    values = 3 * sizes + rng.normal(size=400) * 10
    ratio = Statistic.ratio(values, sizes)
    assert ratio.mean == pytest.approx(values.sum() / sizes.sum())
    picks = rng.integers(0, 400, (2000, 400))
    assert ratio.standard_error == pytest.approx((values[picks].sum(1) / sizes[picks].sum(1)).std(), rel=0.1)
    constant = Statistic.ratio(2 * sizes, sizes)
    assert (constant.mean, constant.standard_error) == (2.0, 0.0), "nats per step do not vary, though lengths do"


def test_units_of_a_figure():
    result = evaluate(rnn(), DATA, standardiser=UNIT, **quiet)
    units = result.in_units()
    total, steps = result.log_likelihood.sum(), DATA.steps
    assert units["nats per sequence"].mean == pytest.approx(total / 6)
    assert units["nats per step"].mean == pytest.approx(total / steps)
    assert units["nats per dimension"].mean == pytest.approx(total / steps / 4)
    jacobian = -math.log(2.0 * 4.0 * 0.5 * 10.0)
    bits = -(total + steps * jacobian) / (steps * 4) / math.log(2)
    assert units["bits per dimension, raw units"].mean == pytest.approx(bits)
    assert "bits per dimension, raw units" in str(result)
    assert "raw units" not in str(evaluate(rnn(), DATA, **quiet))


def test_bits_in_raw_units_do_not_depend_on_the_standardisation():
    """A Normal that is fitted to raw data by hand, seen through two standardisers."""
    rng = np.random.default_rng(0)
    raw = [rng.normal(5, 3, size=(20, 1)) for _ in range(4)]
    bits = []
    for unit in (Standardiser(0.0, 1.0), Standardiser(4.0, 7.0)):
        net = rnn(dim=1)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.zero_()
            net.observation.loc.bias.fill_((5 - unit.mean) / unit.std)
            net.observation.scale.bias.fill_(math.log(math.expm1(3 / unit.std)))
        data = SequenceDataset(tuple(unit.apply(x) for x in raw))
        bits.append(evaluate(net, data, standardiser=unit, **quiet).in_units()["bits per dimension, raw units"].mean)
    expected = -scipy.stats.norm(5, 3).logpdf(np.concatenate(raw)).mean() / math.log(2)
    assert bits == pytest.approx([expected, expected], rel=1e-5)


def test_values_in_the_units_of_another_standardiser():
    other = Standardiser((0.0,) * 4, (2.0, 4.0, 0.5, 5.0))
    result = evaluate(small_stcn(POINTWISE), DATA, particles=4, filter=FIVO(3), standardiser=UNIT, **quiet)
    moved = result.in_units_of(other)
    # The last channel is now in units half as large, so its values are twice as large and densities halve.
    shift = -math.log(2) * result.lengths
    for name in ("objective", "iwae", "iwae_per_step", "log_likelihood"):
        np.testing.assert_allclose(getattr(moved, name), getattr(result, name) + shift, err_msg=name)
    np.testing.assert_allclose(moved.filtered[0], result.filtered[0] + shift)
    np.testing.assert_allclose(moved.kl["z1"], result.kl["z1"])
    a, b = (r.in_units("ELBO")["bits per dimension, raw units"] for r in (result, moved))
    assert a.mean == pytest.approx(b.mean)
    assert a.standard_error == pytest.approx(b.standard_error)
    with pytest.raises(ValueError, match="give evaluate the standardiser"):
        evaluate(rnn(), DATA, **quiet).in_units_of(other)


@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_repeats_tell_what_the_draws_contribute(output):
    net = small_stcn(output)
    one = evaluate(net, DATA, particles=2, **quiet)
    many = evaluate(net, DATA, particles=2, repeats=30, **quiet)
    assert (one.repeats, one.noise) == (1, {})
    assert many.repeats == 30
    assert set(many.noise) == set(many.figures())
    single = [evaluate(net, DATA, particles=2, seed=s, **quiet).objective.mean() for s in range(1, 31)]
    assert many.noise["ELBO"] == pytest.approx(np.std(single, ddof=1) / math.sqrt(30), rel=0.6)
    difference = many.objective.mean() - np.mean(single)
    assert abs(difference) < 4 * math.hypot(many.noise["ELBO"], np.std(single) / math.sqrt(30))
    assert "from the draws" in str(many)
    assert "from the draws" not in str(one)
    assert evaluate(rnn(), DATA, repeats=5, **quiet).repeats == 1, "an exact figure needs no draws"


@pytest.mark.parametrize("observation", [NormalConfig(), GaussianMixtureConfig(3)])
def test_the_share_above_the_ceiling_by_hand(observation):
    net = rnn(observation)
    unit = Standardiser((0.0,) * 4, (0.9, 0.3, 0.2, 1.5))
    result = evaluate(net, DATA, standardiser=unit, batch_size=6, **quiet)
    for i, sequence in enumerate(DATA.sequences):
        x = torch.from_numpy(sequence)[None]
        net.guide(x)
        fn = net.guide.get_traces()[0].nodes["x"]["fn"]
        if isinstance(observation, NormalConfig):
            density = scipy.stats.norm(fn.base_dist.loc.detach(), fn.base_dist.scale.detach()).pdf(x)
        else:
            parts = scipy.stats.norm(fn.loc.detach(), fn.scale.detach()).pdf(x[..., None, :])
            density = (fn.logits.exp().detach().numpy()[..., None] * parts).sum(-2)
        raw = density / np.array(unit.std)  # per raw unit
        assert result.above_ceiling[i] == pytest.approx((raw > 1).mean()), "a probability would be at most 1"
    assert 0 < result.above_ceiling.mean() < 1
    assert "have a density above 1 per raw unit: of integer data that is more than any probability" in str(result)


def test_a_ceiling_is_of_densities_only():
    pen = small_stcn(POINTWISE, data_dim=3, observation=PenStrokeConfig(NormalConfig()))
    rng = np.random.default_rng(0)
    strokes = SequenceDataset(tuple(np.c_[rng.normal(size=(n, 2)), rng.integers(0, 2, n)] for n in (4, 6)))
    tiny = Standardiser((0.0, 0.0, 0.0), (1e-30, 1e-30, 1.0))
    result = evaluate(pen, strokes, particles=2, standardiser=tiny, **quiet)
    np.testing.assert_allclose(result.above_ceiling, 2 / 3, err_msg="the pen bit has a probability")
    grid = rnn(DiscretisedMixtureConfig(3))
    levels = SequenceDataset(tuple(rng.integers(-3, 3, size=(5, 4)).astype(float) for _ in range(2)))
    bounded = evaluate(grid, levels, standardiser=UNIT, **quiet)
    assert bounded.above_ceiling is None
    bits = bounded.in_units()["bits per dimension"].mean
    assert bits == pytest.approx(-bounded.log_likelihood.sum() / (2 * 5 * 4) / math.log(2)), "without a Jacobian"
    assert "raw units" not in str(bounded)
    with pytest.raises(ValueError, match="the same in every unit"):
        bounded.in_units_of(UNIT)


def test_a_pen_bit_has_no_unit():
    """A scalar standardiser would give its probability a Jacobian."""
    pen = small_stcn(POINTWISE, data_dim=3, observation=PenStrokeConfig(NormalConfig()))
    rng = np.random.default_rng(0)
    strokes = SequenceDataset(tuple(np.c_[rng.normal(size=(n, 2)), rng.integers(0, 2, n)] for n in (4, 6)))
    scalar = Standardiser(0.0, 1e3)
    with pytest.raises(ValueError, match="channel 2 is a bit with a probability"):
        evaluate(pen, strokes, standardiser=scalar, **quiet)
    own = evaluate(pen, strokes, particles=2, standardiser=Standardiser((0.0,) * 3, (2.0, 2.0, 1.0)), **quiet)
    with pytest.raises(ValueError, match="channel 2 is a bit with a probability"):
        own.in_units_of(scalar)
    with pytest.raises(DataError):
        evaluate(pen, strokes, standardiser=UNIT, **quiet)


def test_a_kl_has_no_bits_of_the_data():
    result = evaluate(small_stcn(POINTWISE), DATA, particles=2, standardiser=UNIT, **quiet)
    assert list(result.in_units("KL z1")) == ["nats per sequence", "nats per step", "nats per dimension"]


def test_errors_of_pieces_are_over_recordings():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=8), 25) + 0.01 * rng.normal(size=200)
    groups = [f"r{i // 25}" for i in range(200)]
    ones = np.ones(200)
    over = Statistic.ratio(values, ones, groups)
    by_hand = Statistic.of(values.reshape(8, 25).mean(1))
    assert (over.mean, over.standard_error) == pytest.approx((by_hand.mean, by_hand.standard_error))
    assert over.count == 8
    assert over.standard_error > 4 * Statistic.of(values).standard_error


def test_a_head_that_is_no_density_has_one_score_and_no_bounds():
    result = evaluate(rnn(GaussianMixtureConfig(3, floor=1e-3)), DATA, **quiet)
    assert list(result.figures()) == ["score of a head that is no density"]
    assert "NOT BOUNDS" in str(result)


def test_what_is_given_is_in_no_figure():
    narrow = small_stcn(POINTWISE)
    with pytest.raises(ValueError, match="a particle filter scores it always"):
        evaluate(narrow, DATA, filter=FIVO(2), given_first=True, **quiet)
    with pytest.raises(ValueError, match="no sequence has a second step"):
        evaluate(rnn(), SequenceDataset((np.zeros((1, 4)),)), given_first=True, **quiet)
    tiny = Standardiser((0.0,) * 4, (1e-30,) * 4)
    share = evaluate(narrow, DATA, particles=2, given_first=True, standardiser=tiny, **quiet).above_ceiling
    lengths = np.array([len(x) for x in DATA.sequences])
    np.testing.assert_allclose(share, lengths > 1, err_msg="of the scored steps all are above")


def test_a_report_names_its_figures_and_its_unit():
    result = evaluate(small_stcn(POINTWISE), DATA, particles=3, standardiser=UNIT, **quiet)
    assert f"IWAE-3 per step: half of the sequences are above {np.median(result.iwae_per_step):.1f}" in str(result)
    assert "unit: nats of data divided by 2, 4, 0.5, 10" in str(result)
    assert "unit: nats of data divided by 7" in str(result.in_units_of(Standardiser((0.0,) * 4, (7.0,) * 4)))
    one = evaluate(small_stcn(POINTWISE), small_data(1), particles=3, **quiet)
    assert "nan" not in str(one).replace("khat", "")
    assert "half of the sequences" not in str(one)
    with pytest.raises(ValueError, match="there is no figure 'nonsense'; there are: ELBO, "):
        result.in_units("nonsense")


def test_x_1_can_be_given_where_steps_are_independent():
    net = small_stcn(POINTWISE)
    all_steps = evaluate(net, DATA, particles=3, **quiet)
    given = evaluate(net, DATA, particles=3, given_first=True, **quiet)
    first = SequenceDataset(tuple(x[:1] for x in DATA.sequences), DATA.names)
    assert (given.scored == all_steps.lengths - 1).all()
    assert not given.first_step_scored
    assert "all but the first of each sequence scored" in str(given)
    exact = rnn()
    whole, rest, one = (
        evaluate(exact, data, given_first=flag, **quiet).log_likelihood
        for data, flag in ((DATA, False), (DATA, True), (first, False))
    )
    np.testing.assert_allclose(whole, rest + one, rtol=1e-5)
    assert np.isfinite(given.iwae_per_step).all()
    for name, value in given.kl.items():
        assert (value < all_steps.kl[name]).all(), "the KL of the first step is not charged"
    with pytest.raises(ValueError, match="x_1 cannot be given to STCN: later steps look at z_1"):
        evaluate(small_stcn(CAUSAL), DATA, given_first=True, **quiet)
