"""Discretised mixtures against scipy, sums over the whole grid, their limit, and their own samples."""

import json
import math
from itertools import pairwise

import numpy as np
import pyro
import pytest
import scipy.stats
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch.autograd import gradcheck

import pyro_stcn
from pyro_stcn.configs import config_from_dict, config_to_dict
from pyro_stcn.data import SequenceDataset
from pyro_stcn.data.batch import collate
from pyro_stcn.data.standardise import Standardiser
from pyro_stcn.data.synthetic import synthetic_timit
from pyro_stcn.data.timit import load_timit
from pyro_stcn.discretised import BinShape, DiscretisedMixture, DiscretisedMixtureConfig, IntegerGrid, bits_per_sample
from pyro_stcn.distributions import DiagonalGaussianMixture
from pyro_stcn.generation import generate
from pyro_stcn.models import VRNNConfig

from .small import CAUSAL, POINTWISE, small_stcn

pytestmark = pytest.mark.usefixtures("double")
FALSE_ALARMS = 2e-5  # the rate that Pyro's own tests allow
SCIPY = {BinShape.LOGISTIC: scipy.stats.logistic, BinShape.GAUSSIAN: scipy.stats.norm}
AUDIO = IntegerGrid(-0.37, 548.136, -(2**15), 2**15 - 1)  # the unit of TIMIT
SMALL = IntegerGrid(1.3, 2.7, -12, 9)
both_shapes = pytest.mark.parametrize("shape", BinShape)


def integers(grid, dtype=torch.float64):
    return torch.arange(grid.low, grid.high + 1, dtype=dtype)


def mixture(shape, grid=SMALL, batch=(), components=3, dim=2, scale=1.0):
    loc = torch.randn(*batch, components, dim)
    return DiscretisedMixture(torch.randn(*batch, components), loc, scale * (torch.rand_like(loc) + 0.3), grid, shape)


def scipys(d, integer):
    """Probabilities of raw integers ``(N, D)``: sums of products of differences of scipy's cdf, whichever is exact."""
    upper, lower = (((integer + e - d.grid.mean) / d.grid.std)[:, None] for e in (0.5, -0.5))
    upper, lower = (torch.where(integer == d.grid.high, math.inf, 0)[:, None] + upper).numpy(), lower.numpy()
    lower = np.where((integer == d.grid.low)[:, None], -np.inf, lower)
    law = SCIPY[d.bins](d.loc.numpy(), d.scale.numpy())
    right = law.cdf(lower) > 0.5
    mass = np.where(right, law.sf(lower) - law.sf(upper), law.cdf(upper) - law.cdf(lower))
    return (d.logits.exp().numpy() * mass.prod(-1)).sum(-1)


# -------------------------------------------------------------------------------------------------------- probabilities


@both_shapes
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("scale", [0.05, 1.0, 20.0])
def test_probabilities_are_differences_of_scipys_distribution_functions(shape, dim, scale):
    d = mixture(shape, dim=dim, scale=scale)
    every = torch.cartesian_prod(*[integers(SMALL)] * dim).reshape(-1, dim)
    log_prob = d.log_prob(SMALL.position(every))
    expected = scipys(d, every)
    np.testing.assert_allclose(log_prob.exp().numpy(), expected, rtol=1e-10, atol=1e-15)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12)


@both_shapes
def test_narrow_bins_to_the_last_digits(shape):
    """Where the formula of a Gaussian changes: half a bin is a tenth of the scale, or that from the mean."""
    grid = IntegerGrid(0.25, 1.0, -60, 60)
    for half in (0.02, 0.09, 0.0999, 0.1001):
        d = DiscretisedMixture(torch.zeros(1), torch.zeros(1, 1), torch.full((1, 1), 0.5 / half), grid, shape)
        near = torch.arange(-8.0, 9.0).unsqueeze(-1)
        np.testing.assert_allclose(d.log_prob(grid.position(near)).exp(), scipys(d, near), rtol=2e-14)


@both_shapes
@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 50.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_all_of_16_bits_adds_up_to_one(shape, scale, dtype, tolerance):
    """Also where a component lies outside of the range, and in the type that models compute in."""
    loc = torch.tensor([[0.013], [-3.0], [40.0], [-70.0]], dtype=dtype)
    d = DiscretisedMixture(torch.randn(4, dtype=dtype), loc, torch.full((4, 1), scale, dtype=dtype), AUDIO, shape)
    log_prob = d.log_prob(AUDIO.position(integers(AUDIO, dtype)).unsqueeze(-1))
    assert log_prob.dtype == dtype
    assert log_prob.max() <= 0
    assert log_prob.double().exp().sum().item() == pytest.approx(1, abs=tolerance)


def reference(shape, scale, n):
    """Log-probability of integer n of the audio grid at location 0, by differences of logs of scipy's tails."""
    law = SCIPY[shape](0, scale)
    n, sign = abs(n + 0.37), -1
    outer, inner = (law.logcdf(sign * (n + e) / AUDIO.std) for e in (0.5, -0.5))
    return inner + np.log(-np.expm1(outer - inner))


@both_shapes
@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1.0, 50.0])
@pytest.mark.parametrize("n", [-30000, -700, -3, 0, 1, 40, 5000, 32766])
def test_single_precision_in_the_tails_and_at_the_peak(shape, scale, n):
    single = torch.tensor([[0.0]], dtype=torch.float32)
    d = DiscretisedMixture(single[0], single, single + scale, AUDIO, shape)
    x = AUDIO.position(torch.tensor([float(n)])).float()
    assert d.log_prob(x).item() == pytest.approx(reference(shape, scale, n), rel=5e-6, abs=2e-6)


@pytest.mark.parametrize("dim", [1, 2, 50])
def test_a_fine_grid_is_the_density_of_the_papers_mixture(dim):
    """The difference falls with the square of the bin's width; the coarse one is there to show that it does."""
    errors = []
    logits, loc = torch.randn(4), torch.randn(4, dim)
    scale, draws = torch.rand_like(loc) + 0.5, torch.randn(200, dim)
    for std in (4, 40, 400):
        grid = IntegerGrid(0.4, float(std), -(2**15), 2**15 - 1)
        x = grid.snap(draws)
        density = DiagonalGaussianMixture(logits, loc, scale).log_prob(x) + dim * math.log(grid.width)
        d = DiscretisedMixture(logits, loc, scale, grid, BinShape.GAUSSIAN)
        errors.append((d.log_prob(x) - density).abs().max().item())
    assert errors[2] < 1e-5 * dim
    for coarse, fine in pairwise(errors):
        assert 50 < coarse / fine < 200


@both_shapes
def test_never_above_zero_and_free_where_a_component_is_sure(shape):
    for dtype in (torch.float32, torch.float64):
        for scale in (1e-6, 1e-4, 1e-3):
            loc = AUDIO.position(torch.randint(-9, 9, (500, 1, 3))).to(dtype).expand(500, 7, 3)
            d = DiscretisedMixture(torch.randn(500, 7, dtype=dtype), loc, torch.full_like(loc, scale), AUDIO, shape)
            log_prob = d.log_prob(loc[:, 0])
            assert log_prob.max() <= 0
            assert scale > 1e-5 or log_prob.min() > -1e-6


def test_the_unit_does_not_matter():
    """The same integers under two standardisations: the same probability, while a density changes."""
    n, values = torch.randint(-3000, 3000, (20, 5)), []
    loc, scale = 1000 * torch.randn(3, 5), 800 * torch.rand(3, 5) + 1
    for grid in (AUDIO, IntegerGrid(100.0, 77.0, AUDIO.low, AUDIO.high)):
        d = DiscretisedMixture(torch.zeros(3), grid.position(loc), scale / grid.std, grid)
        values.append(d.log_prob(grid.position(n)))
    torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=1e-10)


def test_bits_per_sample_of_a_uniform_distribution():
    steps, channels = 7, 5
    nats = -steps * channels * math.log(2**16)
    assert bits_per_sample(nats, steps * channels) == pytest.approx(16)
    assert pyro_stcn.bits_per_sample is bits_per_sample
    array = bits_per_sample(np.array([nats, 2 * nats]), np.array([35, 35]))
    np.testing.assert_allclose(array, [16, 32])


# ------------------------------------------------------------------------------------------------------------ gradients


@both_shapes
@pytest.mark.parametrize("std", [0.5, 2.7, 300.0])
def test_gradcheck(shape, std):
    """Wide and narrow bins, the mean inside and outside, and both ends."""
    grid = IntegerGrid(1.3, std, -12, 9)
    x = grid.position(torch.tensor([[-12.0, 0.0], [9.0, 9.0], [3.0, -5.0], [1.0, 2.0]]))

    def log_prob(logits, loc, raw):
        return DiscretisedMixture(logits, loc, raw.exp(), grid, shape).log_prob(x)

    assert gradcheck(log_prob, [torch.randn(s, requires_grad=True) for s in ((4, 3), (4, 3, 2), (4, 3, 2))])


@both_shapes
def test_gradients_in_single_precision_are_those_in_double(shape):
    n = torch.tensor([-32768.0, -30000.0, -700.0, -3.0, 0.0, 1.0, 40.0, 5000.0, 32766.0, 32767.0])
    x, results = AUDIO.position(n)[:, None], []
    for dtype in (torch.float32, torch.float64):
        scale = torch.tensor([[[0.05]], [[1.0]], [[50.0]]], dtype=dtype, requires_grad=True)
        loc = torch.full((3, 1, 1), 0.013, dtype=dtype, requires_grad=True)
        d = DiscretisedMixture(torch.zeros(1, dtype=dtype), loc, scale, AUDIO, shape)
        gradients = [torch.autograd.grad(d.log_prob(row).sum(), (loc, scale)) for row in x.to(dtype)]
        results.append(torch.stack([torch.stack(g) for g in gradients]).double())
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


@both_shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e-3, 0.1, 1.0, 50.0, 1e6])
def test_finite_at_the_extremes(shape, dtype, scale):
    for n in (-32768, -32767, -700, -1, 0, 1, 5, 32766, 32767):
        x = AUDIO.position(torch.tensor([float(n)]))
        for at in (x.item(), x.item() + 0.5 * AUDIO.width, 0.0, 59.7, -1000.0):  # on it, on its edge, far away
            logits = torch.tensor([50.0, -50.0], dtype=dtype, requires_grad=True)
            loc, spread = (torch.full((2, 1), v, dtype=dtype, requires_grad=True) for v in (at, scale))
            log_prob = DiscretisedMixture(logits, loc, spread, AUDIO, shape).log_prob(x.to(dtype))
            gradients = torch.autograd.grad(log_prob, (logits, loc, spread))
            assert all(torch.isfinite(g).all() for g in (log_prob, *gradients)), (n, at)
            assert log_prob <= 0


# -------------------------------------------------------------------------------------------------- samples and moments


@both_shapes
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_samples_match_the_probabilities(shape, scale):
    """Chi-square over the joint grid of two channels; an index per channel must be found out."""
    grid = IntegerGrid(0.3, 1.7, -5, 6)
    loc = torch.tensor([[-1.5, 2.0], [0.0, -1.0], [2.5, 2.5]])
    d = DiscretisedMixture(torch.randn(3), loc, scale * (torch.rand_like(loc) + 0.3), grid, shape)
    every = torch.cartesian_prod(integers(grid), integers(grid))
    expected = d.log_prob(grid.position(every)).exp().numpy()
    x = grid.raw(d.sample((20_000,)))

    def p_value(x):
        cells = ((x.round() - grid.low) @ torch.tensor([12.0, 1.0])).long()
        counts = torch.bincount(cells, minlength=144).numpy()
        rare = expected * len(x) < 5
        pooled = [np.append(v[~rare], v[rare].sum()) for v in (counts, expected * len(x))]
        keep = pooled[1] > 0
        return scipy.stats.chisquare(pooled[0][keep], pooled[1][keep] * (len(x) / pooled[1][keep].sum())).pvalue

    assert (x - x.round()).abs().max() < 1e-12
    assert p_value(x) > FALSE_ALARMS
    x[:, 0] = x[:, 0].roll(1)
    assert p_value(x) < FALSE_ALARMS


@both_shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_lie_where_the_standardiser_puts_integers(shape, dtype):
    d = mixture(shape, AUDIO, (50,))
    x = DiscretisedMixture(*(p.to(dtype) for p in (d.logits, d.loc, d.scale)), AUDIO, shape).sample((20,))
    assert x.dtype == dtype
    raw = AUDIO.raw(x.double()).round().numpy().astype(np.int16)
    assert np.array_equal(Standardiser(AUDIO.mean, AUDIO.std).apply(raw), x.float().numpy())
    wild = DiscretisedMixture(torch.zeros(1), torch.tensor([[1e6, -1e6]]), torch.ones(1, 2), AUDIO, shape).sample()
    assert AUDIO.raw(wild).round().tolist() == [AUDIO.high, AUDIO.low]


def test_a_uniform_draw_of_zero_is_no_click(monkeypatch):
    """A logistic is the logit of a uniform draw, which is 0 once in 2^24 times: minus infinity, a full-scale sample."""
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)
    d = DiscretisedMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1), AUDIO)
    assert -40 < d.sample().item() < -10


@both_shapes
def test_moments(shape):
    """Against sums over the grid: close for scales of a bin and more, within half a bin and a bin below that."""
    grid = IntegerGrid(0.2, 20.0, -2000, 2000)
    x = grid.position(integers(grid))[:, None, None]
    for scale, mean_tolerance, sd_tolerance in ((1.0, 1e-6, 1e-6), (0.001, 0.5, 1.0)):
        loc = torch.randn(6, 3, 1)
        spread = scale * grid.width * (torch.ones_like(loc) if scale < 1 else 1 + 5 * torch.rand_like(loc))
        d = DiscretisedMixture(torch.randn(6, 3), loc, spread, grid, shape)
        probability = d.log_prob(x).exp()[..., None]
        mean = (probability * x).sum(0)
        sd = (probability * (x - mean).square()).sum(0).sqrt()
        assert (d.mean - mean).abs().max() < mean_tolerance * grid.width
        assert (d.variance.sqrt() - sd).abs().max() < sd_tolerance * grid.width
    outside = DiscretisedMixture(torch.zeros(1), torch.tensor([[1e6]]), torch.ones(1, 1), grid, shape)
    assert grid.raw(outside.mean).item() == pytest.approx(2000)


# -------------------------------------------------------------------------------------------------------------- shapes


@both_shapes
def test_broadcast_expand_and_mask(shape):
    d = DiscretisedMixture(torch.randn(3), torch.randn(4, 1, 3, 2), torch.rand(5, 3, 2) + 0.3, SMALL, shape)
    assert (d.batch_shape, d.event_shape, d.has_rsample) == ((4, 5), (2,), False)
    assert d.mean.shape == d.variance.shape == d.sample().shape == (4, 5, 2)
    wide = d.expand((6, 4, 5))
    x = wide.sample((7,))
    assert x.shape == (7, 6, 4, 5, 2)
    assert (x[0, 0] != x[0, 1]).any(), "an expanded distribution draws independently"
    log_prob = d.log_prob(x)
    assert log_prob.shape == (7, 6, 4, 5)
    torch.testing.assert_close(wide.log_prob(x), log_prob)
    mask = torch.rand(4, 5) < 0.5
    torch.testing.assert_close(wide.mask(mask).to_event(2).log_prob(x), torch.where(mask, log_prob, 0.0).sum((-1, -2)))


# ---------------------------------------------------------------------------------------------------------- validation


def test_values_off_the_grid_are_refused_and_padding_is_not():
    d = mixture(BinShape.LOGISTIC, AUDIO, (3, 4))
    x = d.sample()
    x[1, 2] = 0.0  # a padded step; raw 0 would lie elsewhere
    assert torch.isfinite(d.log_prob(x)).all()
    torch.testing.assert_close(d.log_prob(x.float()), d.log_prob(x), rtol=1e-12, atol=1e-12)
    for wrong, message in (
        (AUDIO.position(torch.tensor(7.4)), "7.4 in raw units, which is no integer from -32768 to 32767"),
        (AUDIO.position(torch.tensor(32769.0)), "32769 in raw units"),
    ):
        bad = x.clone()
        bad[2, 1, 1] = wrong
        with pytest.raises(ValueError, match=r"at \[2, 1, 1\] \(the last number is the channel\)") as error:
            d.log_prob(bad)
        assert message in str(error.value)
        assert "the mean -0.37 and std 548.136" in str(error.value)
    with pytest.raises(ValueError, match="support"):
        d.log_prob(x * math.nan)
    other = Standardiser(0.0, 500.0).apply(torch.randint(-3000, 3000, (3, 4, 2)).double())
    with pytest.raises(ValueError, match="that this likelihood was given"):
        d.log_prob(other)


def test_without_validation_the_nearest_integer_counts():
    d = mixture(BinShape.GAUSSIAN)
    blind = DiscretisedMixture(d.logits, d.loc, d.scale, SMALL, BinShape.GAUSSIAN, validate_args=False)
    off, on = torch.tensor([[2.3, -4.4], [100.0, -100.0]]), torch.tensor([[2.0, -4.0], [9.0, -12.0]])
    assert torch.equal(blind.log_prob(SMALL.position(off)), d.log_prob(SMALL.position(on)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.0, 1.0), "std": (1.0, 2.0)}, "Standardiser.scalar instead of per_channel"),
        ({"std": 0.0}, "positive std"),
        ({"std": math.nan}, "positive std"),
        ({"low": 3, "high": 3}, "low < high"),
        ({"high": 2**23}, "which is what float32 can tell apart"),
        ({"mean": 1e5}, "outside of the integers"),
        ({"mean": math.nan}, "outside of the integers"),
        ({"components": 0}, "components must be at least 1"),
        ({"shape": "triangular"}, "triangular"),
    ],
)
def test_what_a_config_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        DiscretisedMixtureConfig(**options)


def test_config_from_a_standardiser_and_through_json():
    config = DiscretisedMixtureConfig.for_integers(Standardiser(0.25, 548.5), components=7, shape=BinShape.GAUSSIAN)
    assert config == DiscretisedMixtureConfig(7, 0.25, 548.5, -32768, 32767, BinShape.GAUSSIAN)
    assert config.normalised
    back = config_from_dict(json.loads(json.dumps(config_to_dict(config))))
    assert back == config
    assert isinstance(back.shape, BinShape)
    with pytest.raises(ValueError, match="per_channel"):
        DiscretisedMixtureConfig.for_integers(Standardiser((0.0, 1.0), (1.0, 2.0)))


# ------------------------------------------------------------------------------------------------------------ in models


@both_shapes
@torch.no_grad()
def test_head_by_hand(shape):
    head = DiscretisedMixtureConfig(3, 1.3, 2.7, -12, 9, shape).build(6, 2)
    h = torch.randn(6)
    d = head(h)
    loc, raw = (layer(h).reshape(3, 2) for layer in (head.loc, head.scale))
    by_hand = DiscretisedMixture(head.logits(h), loc, torch.log1p(raw.exp()), SMALL, shape)
    every = torch.cartesian_prod(integers(SMALL), integers(SMALL))
    np.testing.assert_allclose(d.log_prob(SMALL.position(every)).exp().numpy(), scipys(by_hand, every), rtol=1e-10)
    scale = head(1e6 * torch.randn(200, 6)).scale
    assert (scale.min().item(), scale.max().item()) == (0.05 / 2.7, 50.0)


def raw_data(steps=(9, 5, 12), dim=4):
    rng = np.random.default_rng(0)
    return [np.round(500 * rng.standard_t(3, size=(t, dim))).clip(-32768, 32767).astype(np.int16) for t in steps]


def models(observation):
    yield small_stcn(POINTWISE, observation=observation)
    yield small_stcn(CAUSAL, observation=observation)
    yield VRNNConfig(4, 3, 8, 1, 8, 8, observation=observation).build()


@both_shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_trains_and_generates_in_every_kind_of_model(shape, dtype, which):
    """With padding, which is off the grid, and validation on."""
    raw = raw_data()
    standardiser = Standardiser.scalar(raw)
    config = DiscretisedMixtureConfig.for_integers(standardiser, components=3, shape=shape)
    net = list(models(config))[which].to(dtype)
    assert net.evidence == "lower bound"
    dataset = SequenceDataset(tuple(standardiser.apply(a) for a in raw))
    batch = collate(dataset, range(3)).to("cpu", dtype)
    assert not batch.mask.all()
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-2}), TraceMeanField_ELBO())
    losses = [svi.step(batch.x, batch.mask) for _ in range(30)]
    assert all(0 < loss < math.inf for loss in losses), "a negative ELBO: probabilities are at most 1"
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    x = generate(net, 6, 2, prefix=batch.x[:1, :5], progress=False)
    integer = config.grid.raw(x.double())
    assert x.shape == (2, 6, 4)
    assert (integer - integer.round()).abs().max() < 1e-2
    assert torch.isfinite(
        net.observation(torch.zeros(net.observation.logits.in_features, dtype=dtype)).log_prob(x)
    ).all()


def test_a_corpus_of_16_bit_audio_is_on_the_grid(tmp_path):
    corpus = load_timit(synthetic_timit(tmp_path, speakers=(3, 1), sentences=3), frame=20)
    config = DiscretisedMixtureConfig.for_integers(corpus.standardiser)
    head = config.build(2, corpus.data_dim).float()
    x = torch.from_numpy(np.concatenate(corpus.test.sequences))
    log_prob = head(torch.zeros(2, dtype=torch.float32)).log_prob(x)
    assert 8 < bits_per_sample(log_prob.sum().item(), x.numel()) < 16
