"""The joint mixture and the pen stroke against torch, scipy, quadrature and their own samples."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine
from torch.autograd import gradcheck
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from pyro_stcn.distributions import DiagonalGaussianMixture, PenStroke

pytestmark = pytest.mark.usefixtures("double")
FALSE_ALARMS = 2e-5  # the rate that Pyro's own tests allow


def mixture(batch=(), components=3, dim=2, floor=0.0):
    loc = 2 * torch.randn(*batch, components, dim)
    return DiagonalGaussianMixture(torch.randn(*batch, components), loc, torch.rand_like(loc) + 0.3, floor)


def stroke(batch=(), dim=2, floor=0.0):
    return PenStroke(mixture(batch, dim=dim), torch.randn(batch), floor)


def torchs(d):
    return MixtureSameFamily(Categorical(logits=d.logits), Independent(Normal(d.loc, d.scale), 1))


def both(batch=()):
    """Return one of each distribution, with a value of its support."""
    strokes = stroke(batch)
    return [(mixture(batch), torch.randn(*batch, 2)), (strokes, strokes.sample())]


# ----------------------------------------------------------------------------------------------------------- densities


@pytest.mark.parametrize("components", [1, 4])
@pytest.mark.parametrize("dim", [1, 2, 200])
def test_mixture_and_its_gradients_are_those_of_torch(components, dim):
    shapes = [(5, components), (5, components, dim), (5, components, dim), (5, dim)]
    logits, loc, raw, x = leaves = [torch.randn(s, requires_grad=True) for s in shapes]
    ours = DiagonalGaussianMixture(logits, loc, raw.exp()).log_prob(x)
    theirs = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(loc, raw.exp()), 1)).log_prob(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    gradients = zip(*(torch.autograd.grad(y.sum(), leaves) for y in (ours, theirs)), strict=True)
    for name, (a, b) in zip(("logits", "loc", "scale", "x"), gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def test_pen_stroke_is_the_product_of_movement_and_bit():
    d = stroke((50,))
    x = d.sample()
    bit = scipy.stats.bernoulli(torch.sigmoid(d.pen_logits).numpy()).logpmf(x[:, -1].numpy())
    expected = torchs(d.stroke).log_prob(x[:, :-1]) + torch.from_numpy(bit)
    torch.testing.assert_close(d.log_prob(x), expected, rtol=1e-12, atol=1e-12)


def grid(dim, half_width=14.0, points=1201):
    """Points of a regular grid, ``(points ** dim, dim)``, and the volume of a cell."""
    axis = torch.linspace(-half_width, half_width, points)
    return torch.cartesian_prod(*[axis] * dim).reshape(-1, dim), (2 * half_width / (points - 1)) ** dim


@pytest.mark.parametrize(("dim", "points"), [(1, 4001), (2, 601)])
@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_integral_is_one_or_what_the_floors_add(dim, points, floor):
    movement = mixture(components=4, dim=dim, floor=floor)
    x, cell = grid(dim, points=points)
    mass = movement.logits.exp().clamp(min=floor).sum().item()
    assert (mass > 1.01) == (floor > 0)
    assert movement.log_prob(x).exp().sum().item() * cell == pytest.approx(mass, abs=1e-9)
    pen = PenStroke(movement, torch.tensor(3.0), floor)
    both_bits = [
        pen.log_prob(torch.cat([x, torch.full_like(x[:, :1], bit)], -1)).exp().sum().item() * cell for bit in (0, 1)
    ]
    probability = torch.tensor([3.0, -3.0]).sigmoid().clamp(min=floor).sum().item()
    assert sum(both_bits) == pytest.approx(mass * probability, abs=1e-9)


@pytest.mark.parametrize("shape", [(), (5,)])
def test_a_floor_bounds_what_a_confident_mistake_costs(shape):
    d = DiagonalGaussianMixture(torch.tensor([0.0, -100.0]), torch.tensor([[0.0], [30.0]]), torch.ones(2, 1), 1e-6)
    peak = torch.full(shape, -0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(d.expand(shape).log_prob(torch.tensor([30.0])), math.log(1e-6) + peak)
    never = torch.tensor(-100.0)
    for floor, cost in ((1e-5, math.log(1e-5)), (0.0, -100.0)):
        pen = PenStroke(d, never, floor).expand(shape)
        torch.testing.assert_close(pen.log_prob(torch.tensor([0.0, 1.0])), cost + peak)


# ------------------------------------------------------------------------------------------------- samples and moments


def goodness_of_fit(d, x):
    """p-value of samples ``(count, dim)`` of a mixture: their Rosenblatt transform is uniform on the cube (chi-square).

    Channel by channel, each through its distribution function given those before it.
    """
    log_weights, uniform = d.logits.expand(len(x), -1), []
    for channel in range(x.shape[1]):
        normal, value = Normal(d.loc[:, channel], d.scale[:, channel]), x[:, channel, None]
        uniform.append((log_weights.softmax(-1) * normal.cdf(value)).sum(-1))
        log_weights = log_weights + normal.log_prob(value)
    bins = {1: 100, 2: 10, 3: 5}[x.shape[1]]
    counts, _ = np.histogramdd(torch.stack(uniform, -1).numpy(), bins, [(0, 1)] * x.shape[1])
    return scipy.stats.chisquare(counts.ravel()).pvalue


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_samples_match_the_density(dim):
    d = mixture(dim=dim)
    x = d.sample((20_000,))
    assert goodness_of_fit(d, x) > FALSE_ALARMS
    moved = DiagonalGaussianMixture(d.logits, d.loc + 0.2, d.scale)
    assert goodness_of_fit(moved, x) < FALSE_ALARMS
    if dim > 1:  # an index per channel instead of one per event has the same margins, and must be found out
        x[:, 0] = x[:, 0].roll(1)
        assert goodness_of_fit(d, x) < FALSE_ALARMS


def test_samples_of_a_pen_stroke_match_its_density():
    d = stroke()
    x = d.sample((40_000,))
    up = x[:, -1] == 1
    probability = torch.sigmoid(d.pen_logits).item()
    assert scipy.stats.binomtest(int(up.sum()), len(x), probability).pvalue > FALSE_ALARMS
    for half in (up, ~up):  # movement and pen are independent
        assert goodness_of_fit(d.stroke, x[half, :-1]) > FALSE_ALARMS


def test_moments():
    d = mixture((3, 4), components=5)
    torch.testing.assert_close(d.mean, torchs(d).mean)
    torch.testing.assert_close(d.variance, torchs(d).variance)
    pen = PenStroke(d, torch.randn(3, 4))
    bit = dist.Bernoulli(logits=pen.pen_logits)
    torch.testing.assert_close(pen.mean, torch.cat([d.mean, bit.mean.unsqueeze(-1)], -1))
    torch.testing.assert_close(pen.variance, torch.cat([d.variance, bit.variance.unsqueeze(-1)], -1))


def test_variance_survives_a_mean_far_from_zero():
    d = DiagonalGaussianMixture(torch.zeros(2), torch.full((2, 1), 1000.0), torch.full((2, 1), 0.01))
    single = DiagonalGaussianMixture(*(p.float() for p in (d.logits, d.loc, d.scale)))
    assert single.variance.item() == pytest.approx(1e-4, rel=1e-5)


# -------------------------------------------------------------------------------------------------------------- shapes


def test_parameters_broadcast():
    logits, loc, scale = torch.randn(3), torch.randn(4, 1, 3, 2), torch.rand(5, 3, 2) + 0.3
    d = DiagonalGaussianMixture(logits, loc, scale)
    full = DiagonalGaussianMixture(logits.expand(4, 5, 3), loc.expand(4, 5, 3, 2), scale.expand(4, 5, 3, 2))
    pen = PenStroke(DiagonalGaussianMixture(logits, loc[0, 0], scale[0]), torch.randn(4, 5))
    for wide in (d, pen):
        assert wide.batch_shape == (4, 5)
        assert wide.sample((7,)).shape == (7, 4, 5, *wide.event_shape)
        assert wide.mean.shape == wide.variance.shape == (4, 5, *wide.event_shape)
        assert wide.log_prob(wide.sample()).shape == (4, 5)
    x = torch.randn(4, 5, 2)
    torch.testing.assert_close(d.log_prob(x), full.log_prob(x))
    narrow = DiagonalGaussianMixture(logits, torch.randn(3, 2), scale)
    assert narrow.mean.shape == narrow.variance.shape == narrow.sample().shape == (5, 2)


@pytest.mark.parametrize("which", [0, 1])
def test_expand_mask_to_event_and_particles(which):
    d, _ = both((4, 5))[which]
    wide = d.expand((6, 4, 5))
    x = wide.sample()
    assert x.shape == (6, 4, 5, *d.event_shape)
    assert (x[0] != x[1]).any(), "an expanded distribution draws independently"
    log_prob = d.log_prob(x)  # a value with particles in front
    assert log_prob.shape == (6, 4, 5)
    torch.testing.assert_close(wide.log_prob(x), log_prob)
    torch.testing.assert_close(wide.to_event(1).log_prob(x), log_prob.sum(-1))
    mask = torch.rand(4, 5) < 0.5
    torch.testing.assert_close(wide.mask(mask).log_prob(x), torch.where(mask, log_prob, 0.0))
    torch.testing.assert_close(wide.mask(mask).to_event(2).log_prob(x), torch.where(mask, log_prob, 0.0).sum((-1, -2)))


@pytest.mark.parametrize("which", [0, 1])
def test_inside_plates(which):
    d, x = both((4, 5))[which]
    mask = torch.rand(4, 5) < 0.5

    def model(x=None):
        with pyro.plate("particles", 3, dim=-3), pyro.plate("sequences", 4, dim=-2), pyro.plate("time", 5, dim=-1):
            return pyro.sample("x", d.mask(mask), obs=x)

    assert model().shape == (3, 4, 5, *d.event_shape)
    trace = poutine.trace(model).get_trace(x)
    assert trace.log_prob_sum().item() == pytest.approx(3 * d.log_prob(x)[mask].sum().item())


# ---------------------------------------------------------------------------------------------- numbers at the extremes


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("sigmas", [0.0, 1e4])
def test_extremes_are_finite_and_right_in_single_precision(scale, sigmas):
    logits, loc, spread, x = leaves = [
        torch.tensor(v, dtype=torch.float32, requires_grad=True)
        for v in ([1e4, 0.0, -1e4], [[0.0]] * 3, [[scale]] * 3, [sigmas * scale])
    ]
    log_prob = DiagonalGaussianMixture(logits, loc, spread).log_prob(x)
    assert log_prob.item() == pytest.approx(scipy.stats.norm(0, scale).logpdf(sigmas * scale), rel=1e-5)
    pen = PenStroke(DiagonalGaussianMixture(logits, loc, spread), spread[0, 0] * 1e6)
    total = log_prob + pen.log_prob(torch.cat([x, torch.zeros(1, dtype=torch.float32)]))
    gradients = torch.autograd.grad(total, leaves)
    assert all(torch.isfinite(g).all() for g in (total, *gradients))


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_gradcheck(floor):
    def mixed(logits, loc, raw, x):
        return DiagonalGaussianMixture(logits, loc, raw.exp(), floor).log_prob(x)

    def penned(pen, *others):
        logits, loc, raw, x = others
        d = PenStroke(DiagonalGaussianMixture(logits, loc, raw.exp(), floor), pen, floor)
        return d.log_prob(torch.cat([x, torch.tensor([[0.0], [1.0]])], -1))

    leaves = [torch.randn(s, requires_grad=True) for s in ((2, 3), (2, 3, 2), (2, 3, 2), (2, 2))]
    assert gradcheck(mixed, leaves)
    assert gradcheck(penned, [torch.randn(2, requires_grad=True), *leaves])


# ---------------------------------------------------------------------------------------------------------- validation


def test_what_validation_refuses():
    d = mixture()
    with pytest.raises(ValueError, match="loc"):
        DiagonalGaussianMixture(d.logits, d.loc * math.nan, d.scale)
    with pytest.raises(ValueError, match="scale"):
        DiagonalGaussianMixture(d.logits, d.loc, -d.scale)
    with pytest.raises(ValueError, match="support"):
        d.log_prob(torch.tensor([0.0, math.nan]))
    with pytest.raises(ValueError, match="pen_logits"):
        PenStroke(d, torch.tensor(math.nan))


def test_a_standardised_pen_bit_is_refused():
    d = stroke()
    standardised = (torch.tensor([1.0, 0.0]) - 0.04) / 0.2
    for bit in (*standardised, torch.tensor(math.nan)):
        with pytest.raises(ValueError, match="0 or 1; it may have been standardised"):
            d.log_prob(torch.tensor([0.0, 0.0, bit]))
    assert torch.isfinite(d.log_prob(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))).all()
