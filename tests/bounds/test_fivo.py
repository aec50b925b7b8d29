"""FIVO against exact evidence, a filter by hand, IWAE and the ELBO, and what it refuses."""

import csv
import dataclasses
import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from scipy.stats import ks_2samp
from torch.distributions import MultivariateNormal

from pyro_stcn.bounds import FIVO, IWAE, multinomial, systematic
from pyro_stcn.checkpoint import CheckpointError, load_tensors
from pyro_stcn.data import SequenceDataset
from pyro_stcn.models import (
    STCN,
    BiLSTMConfig,
    RNNConfig,
    SRNNConfig,
    SWaveNetConfig,
    VRNNConfig,
    WaveNetConfig,
    ZForcingConfig,
)
from pyro_stcn.training import TrainingConfig, fit

from ..linear_gaussian import DIM, LinearLag, evidence, linear_gaussian_stcn
from ..linear_sequential import linear_model, system
from ..small import CAUSAL, FixedNoise, small_data, small_stcn
from ..test_exactness_sequential import gaussian_hmm, log_evidence

pytestmark = pytest.mark.usefixtures("double")
RESAMPLERS = [systematic, multinomial]
HOLES = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 0, 1, 0], [0, 1, 1, 0, 1]], dtype=torch.bool)
PADDING = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]], dtype=torch.bool)
BOTH = torch.cat([PADDING[1:], HOLES[1:]])


def data(batch=3, steps=5):
    return 0.7 * torch.randn(batch, steps, DIM)


class SteppedLag(LinearLag):
    """The linear output network that looks one step back, one step at a time, too."""

    def initial_state(self, batch_size):
        return self.lag.new_zeros(batch_size, len(self.lag))

    def step(self, state, z):
        return z, z + state @ self.lag


LINEAR = ("stcn", "vrnn", "srnn", "zforcing", "bilstm")


def linear(name):
    """A model whose evidence is known, with a wrong guide."""
    if name != "stcn":
        return linear_model(name, 2)
    net = linear_gaussian_stcn((2, 1), dense=True, lag=True)
    net.output = SteppedLag(3)
    with torch.no_grad():  # data that tell less: weights of which a thousand have a mean
        for parameter in (net.observation.weight, net.output.lag):
            parameter.mul_(0.5)
        net.observation.scale.add_(0.3)
    return net


@torch.no_grad()
def exact_evidence(net, x, mask=None):
    """log p of the observed steps of every sequence."""
    clean = net.clean(x, mask)  # features see zeros in a hole
    if not isinstance(net, STCN):
        return log_evidence(system(net, clean), clean, mask)
    joint, seen = evidence(net, clean), torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
    result = []
    for mean, covariance, row, keep in zip(
        joint.mean, joint.covariance_matrix, clean.flatten(1), seen.repeat_interleave(DIM, 1), strict=True
    ):
        result.append(MultivariateNormal(mean[keep], covariance[keep][:, keep]).log_prob(row[keep]))
    return torch.stack(result)


@torch.no_grad()
def bounds(elbo, net, x, mask=None, copies=1):
    """Estimates of the log evidence, each by a filter of its own: ``(copies, batch)``."""
    mask = None if mask is None else mask.repeat(copies, 1)
    return elbo.log_evidence(net.model, net.guide, x.repeat(copies, 1, 1), mask).reshape(copies, -1)


def mean_and_error(draws):
    return draws.mean(0), draws.std(0) / math.sqrt(len(draws))


def gradients(net):
    return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in net.parameters()])


def run(elbo, net, *args, seed=0):
    """Loss and its gradient."""
    net.zero_grad()
    pyro.set_rng_seed(seed)
    return elbo.loss_and_grads(net.model, net.guide, *args), gradients(net)


def middle(weights):
    """A resampler without chance: systematic, at 1/2. Every column for itself."""
    places = (torch.arange(len(weights)) + 0.5) / len(weights)
    return torch.stack(
        [torch.searchsorted(column.cumsum(0), places).clamp(max=len(weights) - 1) for column in weights.T], 1
    )


# ------------------------------------------------------------------------------------------------ unbiased, and a bound


def assert_unbiased(estimates, exact):
    mean, error = mean_and_error((estimates - exact).exp())
    assert error.max() < 0.03, f"too noisy to tell: {error.tolist()}"
    assert ((mean - 1) / error).abs().max() < 4, f"E exp(bound) / p(x) = {mean.tolist()} ± {error.tolist()}"


@pytest.mark.parametrize("threshold", [0.5, 1.0])
@pytest.mark.parametrize("resample", RESAMPLERS)
@pytest.mark.parametrize("name", ["stcn", "vrnn", "srnn"])
def test_the_average_estimate_is_the_evidence(name, resample, threshold):
    net, x = linear(name), data(batch=2)
    assert_unbiased(bounds(FIVO(8, threshold, resample), net, x, copies=3000), exact_evidence(net, x))


@pytest.mark.parametrize(("resample", "threshold"), [(systematic, 0.5), (multinomial, 1.0)])
@pytest.mark.parametrize("name", LINEAR)
def test_the_average_estimate_is_the_evidence_of_the_steps_that_are_left(name, resample, threshold):
    """The latent of a hole is integrated out under its prior."""
    net, x = linear(name), data(batch=4)
    estimates = bounds(FIVO(16, threshold, resample), net, x, BOTH, copies=2000)
    assert_unbiased(estimates, exact_evidence(net, x, BOTH))


@pytest.mark.parametrize("resample", RESAMPLERS)
def test_the_average_estimate_is_pyros_evidence_of_a_hidden_markov_model(resample):
    net, x = linear_model("srnn", 2, features=False), data()
    exact = gaussian_hmm(system(net, torch.zeros_like(x))).log_prob(x).detach()
    assert_unbiased(bounds(FIVO(16, 1.0, resample), net, x, copies=2000), exact)


@pytest.mark.parametrize("name", ["stcn", "vrnn", "srnn"])
def test_over_a_long_sequence_the_gap_closes_faster_than_iwaes(name):
    net, x, copies = linear(name), data(batch=1, steps=60), 150
    exact = exact_evidence(net, x).item()
    gaps = {}
    for threshold in (0.0, 0.5):
        for k in (4, 16, 64):
            mean, error = (v.item() for v in mean_and_error(bounds(FIVO(k, threshold), net, x, copies=copies)))
            assert mean < exact + 4 * error, f"threshold {threshold}, K={k}: {mean} ± {error} is above {exact}"
            gaps[threshold, k] = exact - mean, error
    for few, many in ((4, 16), (16, 64)):
        (wide, wide_error), (narrow, narrow_error) = gaps[0.5, few], gaps[0.5, many]
        assert narrow + 4 * math.hypot(wide_error, narrow_error) < wide, gaps
    for k in (4, 16, 64):
        (filtered, error), (weighted, other) = gaps[0.5, k], gaps[0.0, k]
        assert filtered + 4 * math.hypot(error, other) < weighted, gaps
    assert gaps[0.5, 64][0] < gaps[0.0, 64][0] / 2, gaps


# ------------------------------------------------------------------------------------------ IWAE, the ELBO, and by hand


def recorded(monkeypatch, net, elbo, *args):
    """Run FIVO; return its loss, its gradient and the noise behind every latent site.

    The noise of a site is what a guide that is given it draws the same latents from.
    """
    noise, extra = [], []
    if isinstance(net, STCN):
        # All draws come at once, top layer first, in FIVO and in a guide under a plate of particles.
        result = run(elbo, net, *args)
        pyro.set_rng_seed(0)
        shape = (elbo.num_particles, *args[0].shape[:2])
        drawn = {layer.name: torch.randn(*shape, layer.prior_net.scale.numel()) for layer in reversed(net.ladder)}
        return *result, drawn
    randn_like, draw_extra = torch.randn_like, net.draw_extra

    def record(like):
        noise.append(randn_like(like))
        return noise[-1]

    def record_extra(*arguments):
        extra.append(draw_extra(*arguments))
        return extra[-1]

    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn_like", record)
        patch.setattr(net, "draw_extra", record_extra)
        result = run(elbo, net, *args)
    drawn = {"z1": torch.stack(noise, -2)}
    if extra[0]:
        drawn["z2"] = extra[0][0].detach()
    return *result, drawn


@pytest.mark.parametrize("mask", [None, PADDING, HOLES], ids=["complete", "ragged", "holes"])
@pytest.mark.parametrize("annealing", [1.0, 0.3])
@pytest.mark.parametrize("name", LINEAR)
def test_without_resampling_it_is_iwae(monkeypatch, name, annealing, mask):
    """On the same noise: value and gradient."""
    net, x = linear(name), data()
    loss, gradient, noise = recorded(monkeypatch, net, FIVO(6, threshold=0), x, mask, annealing)
    with FixedNoise(noise):
        expected, exact = run(IWAE(6, max_plate_nesting=1), net, x, mask, annealing)
    assert loss == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(gradient, exact, rtol=1e-8, atol=1e-10)
    assert (gradient != 0).sum() > 15


@pytest.mark.parametrize("name", ["stcn", "vrnn"])
def test_without_resampling_it_is_distributed_as_iwae(name):
    net, x, copies = linear(name), data(batch=1, steps=12), 2000
    filtered = bounds(FIVO(4, threshold=0), net, x, copies=copies).flatten()
    weights = IWAE(4, max_plate_nesting=1).log_weights(net.model, net.guide, x.repeat(copies, 1, 1))
    assert ks_2samp(filtered, weights.logsumexp(0) - math.log(4)).pvalue > 1e-3
    resampled = bounds(FIVO(4, threshold=1), net, x, copies=copies).flatten()
    assert ks_2samp(resampled, weights.logsumexp(0) - math.log(4)).pvalue < 1e-6


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", LINEAR)
def test_one_particle_is_the_elbo(monkeypatch, name, threshold):
    """On the same noise, and annealed by the formula of the ELBO."""
    net, x = linear(name), data()
    for weight in (1.0, 0.3):
        loss, gradient, noise = recorded(monkeypatch, net, FIVO(1, threshold), x, HOLES, weight)
        with FixedNoise({site: value[0] for site, value in noise.items()}):
            expected, exact = run(Trace_ELBO(), net, x, HOLES, weight)
            net.guide(x, HOLES)
        assert loss == pytest.approx(expected, abs=1e-9)
        torch.testing.assert_close(gradient, exact, rtol=1e-8, atol=1e-10)
        model_trace, guide_trace = net.guide.get_traces()
        by_hand = model_trace.nodes["x"]["fn"].log_prob(x.where(HOLES.unsqueeze(-1), torch.zeros(())))
        for site in net.latent_names:
            p, q = model_trace.nodes[site], guide_trace.nodes[site]
            by_hand = by_hand + weight * (p["fn"].log_prob(p["value"]) - q["fn"].log_prob(p["value"]))
        assert loss == pytest.approx(-by_hand.sum().item(), abs=1e-9)


def test_one_particle_has_the_mean_of_the_elbo():
    net, x = linear("vrnn"), data(batch=1)
    mean, error = mean_and_error(bounds(FIVO(1), net, x, copies=20_000))
    weights = IWAE(1).log_weights(net.model, net.guide, x.repeat(20_000, 1, 1))[0]
    other, other_error = mean_and_error(weights)
    assert abs(mean - other) < 4 * math.hypot(error, other_error)


def filter_by_hand(net, x, mask, particles, threshold, annealing):
    """The estimate of every sequence, in products of weights."""
    steps = net.filtering(net.clean(x, mask), mask, particles)
    state, weight, estimate = steps.start(), torch.ones(particles, len(x)), torch.ones(len(x))
    resampled = []
    for t in range(x.shape[1]):
        state, terms = steps.advance(t, state)
        increment = (terms.likelihood + annealing * (terms.prior - terms.posterior)).exp()
        weight = torch.where(mask[:, t], weight * increment, weight)
        share = (weight / weight.sum(0)).detach()
        ancestors = torch.arange(particles).unsqueeze(1).repeat(1, len(x))
        for b in range(len(x)):
            if mask[b, t + 1 :].any() and 1 / share[:, b].square().sum() <= threshold * particles + 1e-9:
                factor = torch.ones(len(x))
                factor[b] = 0.0
                estimate = estimate * (factor + (1 - factor) * weight[:, b].mean())
                weight = weight * factor + (1 - factor)
                ancestors[:, b] = middle(share[:, b : b + 1])[:, 0]
                resampled.append((b, t))
        state = steps.select(state, ancestors)
    return (estimate * weight.mean(0)).log(), resampled


@pytest.mark.parametrize("mask", [PADDING, HOLES], ids=["ragged", "holes"])
@pytest.mark.parametrize("threshold", [0.6, 1.0])
@pytest.mark.parametrize("name", LINEAR)
def test_it_is_what_the_formula_says(name, threshold, mask):
    """With a resampler that is a function of the weights; also the gradient, which does not see the ancestors."""
    net, x = linear(name), data()
    loss, gradient = run(FIVO(8, threshold, middle), net, x, mask, 0.8)
    net.zero_grad()
    pyro.set_rng_seed(0)
    expected, resampled = filter_by_hand(net, x, mask, 8, threshold, 0.8)
    (-expected.sum()).backward()
    assert loss == pytest.approx(-expected.sum().item(), abs=1e-10)
    torch.testing.assert_close(gradient, gradients(net), rtol=1e-8, atol=1e-10)
    possible = [(b, t) for t in range(5) for b in range(3) if mask[b, t + 1 :].any()]
    assert resampled == possible if threshold == 1 else 0 < len(resampled) < len(possible)


@pytest.mark.parametrize("name", LINEAR)
def test_the_gradient_is_the_derivative_at_fixed_ancestors(name):
    net, x = linear(name), data()
    elbo, parameters = FIVO(6, 1.0, middle), list(net.parameters())
    with torch.no_grad():
        for p in parameters:
            p.add_(0.05 * torch.randn_like(p))  # away from the kink of a ReLU whose input is zero
    direction = [torch.randn_like(p) for p in parameters]
    _, gradient = run(elbo, net, x, HOLES)
    values = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for p, v in zip(parameters, direction, strict=True):
                p.add_(step * v)
        values.append(run(elbo, net, x, HOLES)[0])
    along = torch.cat([v.flatten() for v in direction]) @ gradient
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(along.item(), rel=1e-5)


@pytest.mark.parametrize("resample", RESAMPLERS)
def test_where_steps_are_independent_resampling_at_every_step_is_a_weight_per_step(resample):
    """Nothing is handed on from step to step, so the ancestors do not matter, and the draws are those of IWAE."""
    net, x = linear_gaussian_stcn((2, 1), dense=True), data()
    per_step = IWAE(6, keep=("sequences", "time"), max_plate_nesting=2)
    for mask in (PADDING, HOLES):
        loss, gradient = run(FIVO(6, 1.0, resample), net, x, mask)
        expected, exact = run(per_step, net, x, mask)
        assert loss == pytest.approx(expected, abs=1e-9)
        torch.testing.assert_close(gradient, exact, rtol=1e-8, atol=1e-10)
    assert run(FIVO(6, 0.0), net, x, mask)[0] == pytest.approx(run(IWAE(6, max_plate_nesting=2), net, x, mask)[0])


def test_resampling_costs_nats_where_the_guide_knows_what_comes():
    """With a guide that is the exact posterior one weight a sequence is exact, and a filter is a bound and is not."""
    torch.manual_seed(0)
    net, x = linear_model("zforcing", exact=True), 1.5 * torch.randn(4, 30, DIM)
    exact = exact_evidence(net, x)
    weights = IWAE(4, max_plate_nesting=2).log_weights(net.model, net.guide, x)
    torch.testing.assert_close(weights, exact.expand(weights.shape), rtol=0, atol=1e-9)
    found = torch.stack([FIVO(4).log_evidence(net.model, net.guide, x) for _ in range(100)])
    gap, error = exact - found.mean(0), found.std(0) / 10
    assert gap.mean() > 10, "docs/which_number.md: 12 nats"
    assert (gap > 4 * error).all()


# ----------------------------------------------------------------------------------------------------- ragged sequences


def alone(x, mask):
    """Every sequence as a batch of its own."""
    return [row[None, : keep.sum()] for row, keep in zip(x, mask, strict=True)]


@pytest.mark.parametrize("name", [name for name in LINEAR if name != "stcn"])
def test_a_padded_sequence_has_the_evidence_that_it_has_alone(name):
    """The exact posterior knows the future: all weights are equal at the end, and on the way they are not."""
    net, x = linear_model(name, exact=True), data()
    exact = torch.cat([exact_evidence(net, row) for row in alone(x, PADDING)])
    x[~PADDING] = math.nan
    found = bounds(FIVO(7, threshold=0), net, x, PADDING)[0]
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)
    assert_unbiased(bounds(FIVO(7, threshold=1), net, x, PADDING, copies=2000), exact)


@pytest.mark.parametrize(("layers", "dense"), [(1, True), (2, True), (3, False)])
def test_a_padded_ladder_has_the_evidence_that_it_has_alone(layers, dense):
    """Pointwise, the exact posterior makes all weights equal at every step."""
    net, x = linear_gaussian_stcn((1,) * layers, dense=dense, exact=True), data()
    exact = torch.cat([exact_evidence(net, row) for row in alone(x, PADDING)])
    x[~PADDING] = math.nan
    for threshold in (0.0, 0.5, 1.0):
        found = bounds(FIVO(7, threshold, multinomial), net, x, PADDING)[0]
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("threshold", [0.6, 1.0])
@pytest.mark.parametrize("name", ["vrnn", "srnn", "zforcing"])
def test_a_sequence_is_filtered_as_if_it_were_alone(monkeypatch, name, threshold):
    """With the same noise: whatever lies behind its end and whoever is beside it."""
    net, x = linear_model(name, 2), data()
    noise = torch.randn(5, 8, 3, 2)
    elbo = FIVO(8, threshold, middle)

    def estimate(rows, x, mask=None):
        draws = iter(noise[:, :, rows])
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn_like", lambda like: next(draws))
            return bounds(elbo, net, x, mask)[0]

    apart = torch.cat([estimate([i], row) for i, row in enumerate(alone(x, PADDING))])
    x[~PADDING] = math.nan
    torch.testing.assert_close(estimate([0, 1, 2], x, PADDING), apart, rtol=0, atol=1e-11)


@pytest.mark.parametrize("mask", [PADDING, HOLES], ids=["ragged", "holes"])
@pytest.mark.parametrize("name", LINEAR)
def test_what_is_masked_out_is_never_read(name, mask):
    net, x = linear(name), data()
    results = []
    for content in (0.0, 1e6, math.inf, math.nan):
        x[~mask] = content
        results.append(run(FIVO(6, 0.7, multinomial), net, x, mask))
    for loss, gradient in results[1:]:
        assert loss == results[0][0]
        assert torch.equal(gradient, results[0][1])
    assert results[0][1].isfinite().all()


def test_a_sequence_without_observations_has_an_evidence_of_one():
    net, x, mask = linear("vrnn"), data(), PADDING.clone()
    mask[1] = False
    found = bounds(FIVO(6, 1.0), net, x, mask)[0]
    assert found[1] == 0
    assert (found[[0, 2]] < -1).all()


# ------------------------------------------------------------------------------------------------- what acts on a bound


def small(name):
    """The library's own networks, small, as they are built."""
    configs = {
        "vrnn": VRNNConfig(4, 2, 5, 2, 6, 4),
        "srnn": SRNNConfig(4, 2, 5, 6),
        "zforcing": ZForcingConfig(4, 2, 5, 4, 6),
        "bilstm": BiLSTMConfig(4, 2, 5, 6),
    }
    if name in configs:
        return configs[name].build().double()
    return (small_stcn(CAUSAL) if name == "stcn" else small_stcn()).double()


SMALL = ("stcn", "stcn pointwise", "vrnn", "srnn", "zforcing", "bilstm")


def ragged():
    mask = torch.arange(6) < torch.tensor([6, 4, 1])[:, None]
    return torch.randn(3, 6, 4), mask


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_that_has_a_gradient_in_iwae_has_one(name):
    net, (x, mask) = small(name), ragged()
    with_gradient = []
    for elbo in (FIVO(4, 0.7), IWAE(4)):
        _, gradient = run(elbo, net, x, mask)
        assert gradient.isfinite().all()
        moved = [n for n, p in net.named_parameters() if p.grad is not None and (p.grad != 0).any()]
        with_gradient.append(moved)
    assert with_gradient[0] == with_gradient[1]
    assert len(moved) > 10


@pytest.mark.parametrize("name", SMALL)
def test_a_scale_around_the_call_multiplies_the_bound(name):
    net, (x, mask) = small(name), ragged()
    elbo, parameters = FIVO(4, 0.7), list(net.parameters())
    pyro.set_rng_seed(0)
    bound = elbo.log_evidence(net.model, net.guide, x, mask)
    assert bound.shape == (3,)
    weights = torch.tensor([0.25, 3.0, 1.5])
    vector = weights.reshape(-1, *[1] * (-net.sequence_dim - 1))
    for scale, factor in ((1.0, 1.0), (0.3, 0.3), (vector, weights)):
        with poutine.scale(scale=scale):
            loss, gradient = run(elbo, net, x, mask)
        expected = -(factor * bound).sum()
        assert loss == pytest.approx(expected.item(), abs=1e-10)
        exact = torch.autograd.grad(expected, parameters, retain_graph=True, materialize_grads=True)
        torch.testing.assert_close(gradient, torch.cat([g.flatten() for g in exact]), rtol=1e-9, atol=1e-11)


def test_the_values_agree_however_they_are_asked_for():
    net, (x, mask) = small("vrnn"), ragged()
    elbo = FIVO(4, 0.7)
    pyro.set_rng_seed(0)
    total = -elbo.log_evidence(net.model, net.guide, x, mask).sum().item()
    pyro.set_rng_seed(0)
    assert elbo.loss(net.model, net.guide, x, mask) == pytest.approx(total, abs=1e-11)
    pyro.set_rng_seed(0)
    assert elbo.differentiable_loss(net.model, net.guide, x, mask).item() == pytest.approx(total, abs=1e-11)
    assert run(elbo, net, x, mask, torch.tensor(1.0))[0] == pytest.approx(total, abs=1e-11)
    net.requires_grad_(False)
    with pytest.warns(UserWarning, match="requires_grad=False"):
        assert run(elbo, net, x, mask)[0] == pytest.approx(total, abs=1e-11)


@pytest.mark.parametrize("handler", ["scale", "mask"])
def test_a_scale_or_mask_by_step_is_refused(handler):
    """A filter has one bound for a sequence. IWAE refuses a scale that differs within a cell, too."""
    net, (x, mask) = small("stcn pointwise"), ragged()
    by_step = {"scale": poutine.scale(scale=torch.rand(3, 6) + 0.5), "mask": poutine.mask(mask=mask)}[handler]
    with by_step, pytest.raises(ValueError):
        FIVO(4).loss(net.model, net.guide, x)


def test_a_handler_on_the_guide_is_not_lost():
    """It acts on IWAE: the guide runs the model. Here it acts or is refused."""
    net, (x, mask) = small("vrnn"), ragged()
    pyro.set_rng_seed(0)
    bound, refusal = FIVO(4).loss(net.model, net.guide, x, mask), ""
    pyro.set_rng_seed(0)
    try:
        scaled = FIVO(4).loss(net.model, poutine.scale(net.guide, scale=0.5), x, mask)
    except (TypeError, ValueError) as error:
        refusal = str(error)
    assert "guide" in refusal if refusal else scaled == pytest.approx(bound / 2)


# ----------------------------------------------------------------------------------------------------------- resamplers


def descendants(ancestors, particles):
    """How many each particle has: ``(particles, batch)``."""
    return torch.zeros(particles, ancestors.shape[1]).scatter_add_(0, ancestors, torch.ones(ancestors.shape))


WEIGHTS = torch.tensor([0.02, 0.5, 0.13, 0.0, 0.3, 0.05], dtype=torch.float64)


@pytest.mark.parametrize("resample", RESAMPLERS)
def test_descendants_are_as_many_as_the_weight_says_on_average(resample):
    count, k = 40_000, len(WEIGHTS)
    ancestors = resample(WEIGHTS[:, None].expand(-1, count).clone())
    assert ancestors.shape == (k, count)
    assert ancestors.dtype == torch.int64
    counts = descendants(ancestors, k).T
    mean, error = mean_and_error(counts)
    assert (mean[3], error[3]) == (0, 0)
    assert ((mean - k * WEIGHTS) / error).nan_to_num().abs().max() < 4
    spread = {multinomial: k * WEIGHTS * (1 - WEIGHTS), systematic: (k * WEIGHTS % 1) * (1 - k * WEIGHTS % 1)}
    torch.testing.assert_close(counts.var(0), spread[resample], rtol=0.05, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_systematic_rounds_down_or_up(dtype):
    for k in (2, 3, 10, 100, 1000):
        weights = (3 * torch.randn(k, 200, dtype=dtype)).softmax(0)
        counts, expected = descendants(systematic(weights), k), k * weights.double()
        slack = k * 2 * torch.finfo(dtype).eps * k  # of the sums of k weights
        assert (counts >= (expected - slack).floor()).all()
        assert (counts <= (expected + slack).ceil()).all()
        assert (counts.sum(0) == k).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("resample", RESAMPLERS)
def test_a_particle_with_all_the_weight_is_everybodys_ancestor(resample, dtype):
    weights = torch.eye(7, dtype=dtype).repeat(1, 500)
    expected = torch.arange(7).repeat(500).expand(7, -1)
    assert torch.equal(resample(weights), expected)


@pytest.mark.parametrize("resample", RESAMPLERS)
def test_equal_weights_and_one_particle(resample):
    counts = descendants(resample(torch.full((9, 300), 1 / 9)), 9)
    if resample is systematic:
        assert (counts == 1).all()
    else:
        assert counts.mean() == 1 < counts.max()
    assert torch.equal(resample(torch.ones(1, 4)), torch.zeros(1, 4, dtype=torch.int64))


@pytest.mark.parametrize("resample", RESAMPLERS)
def test_in_float32_a_particle_without_weight_has_no_descendants(resample):
    """The last sum of the weights is not 1, and the first and the last have no weight at all."""
    weights = (5 * torch.randn(2000, 40, dtype=torch.float32)).softmax(0)
    weights[:50], weights[-50:] = 0, 0
    weights = weights / weights.sum(0)
    assert (weights.cumsum(0)[-1] != 1).any()
    ancestors = resample(weights)
    assert (ancestors.min(), ancestors.max()) >= (50, 0)
    assert (weights.gather(0, ancestors) > 0).all()


@pytest.mark.parametrize("heavy", [0, 1])
def test_a_uniform_number_of_zero_revives_no_particle_without_weight(heavy):
    """It comes once in 2^24 draws of a float32: a seed is looked for at which it does."""
    columns = 2**20
    for seed in range(200):
        torch.manual_seed(seed)
        if (torch.empty(1, columns, dtype=torch.float32).uniform_() == 0).any():
            break
    else:
        pytest.fail("no seed gives an exact zero")
    weights = torch.zeros(2, columns, dtype=torch.float32)
    weights[heavy] = 1
    torch.manual_seed(seed)
    assert (systematic(weights) == heavy).all()


def test_sequences_are_resampled_apart():
    """Each has a random number of its own."""
    ancestors = systematic(torch.tensor([[0.5], [0.25], [0.25]]).expand(-1, 200).clone())
    assert 40 < (ancestors[1] == 0).sum() < 160


# ------------------------------------------------------------------------------------------------------------- refusals


def test_models_without_a_filter_are_refused():
    x, mask = ragged()
    config = dataclasses.replace(small_stcn(CAUSAL).config, independent_draws=True)
    for net, reason in (
        (RNNConfig(4, 5, 1, 6).build(), "RNN has no particle filter: its log-likelihood is exact"),
        (WaveNetConfig(4, (1, 2), 8).build(), "WaveNet has no particle filter: its log-likelihood is exact"),
        (SWaveNetConfig(4, 1, 2, 2, 6, 6).build(), "SWaveNet has no particle filter: .*use IWAE"),
        (config.build(), "independent draws"),
    ):
        for elbo in (FIVO(4), FIVO(1)):
            with pytest.raises(NotImplementedError, match=reason):
                elbo.loss(net.double().model, net.guide, x, mask)


def test_a_plain_pair_is_refused():
    def model(x):
        pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))

    with pytest.raises(TypeError, match="conditionals of this library's models"):
        FIVO(4).loss(model, model, torch.zeros(3))
    with pytest.raises(TypeError, match="conditionals of this library's models"):
        FIVO(4).loss(small("vrnn").model, model, torch.zeros(3, 6, 4))


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
def test_a_threshold_is_a_fraction(threshold):
    with pytest.raises(ValueError, match="threshold is a fraction"):
        FIVO(4, threshold)


def test_no_particles_are_refused():
    with pytest.raises(ValueError, match="num_particles must be .*at least 1, not 0"):
        FIVO(0)


def test_a_training_only_term_is_refused():
    net, (x, mask) = small("zforcing"), ragged()
    with pytest.raises(ValueError, match="no place for a training-only term"):
        FIVO(4).loss(net.model, net.guide, x, mask, 1.0, 0.5)
    with pytest.raises(ValueError, match="no place for a training-only term"):
        FIVO(4).loss(net.model, net.guide, x, mask, auxiliary_weight=0.5)
    assert math.isfinite(FIVO(4).loss(net.model, net.guide, x, mask, auxiliary_weight=0.0))


def test_data_are_checked():
    net, (x, mask) = small("vrnn"), ragged()
    x[1, 2, 3] = math.nan
    with pytest.raises(ValueError, match="x is nan at sequence 1, step 2, channel 3"):
        FIVO(4).loss(net.model, net.guide, x, mask)
    with pytest.raises(ValueError, match="mask must be a bool tensor"):
        FIVO(4).loss(net.model, net.guide, x, mask.double())


# ------------------------------------------------------------------------------------------------------------- training


def test_svi_and_the_elbo_as_a_module_take_every_parameter():
    net, (x, mask) = small("stcn"), ragged()
    before = [p.detach().clone() for p in net.parameters()]
    SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-3}), FIVO(4)).step(x, mask)
    assert all((a != b).any() for a, b in zip(before, net.parameters(), strict=True))
    module = FIVO(4)(net, net.guide)
    assert len(list(module.parameters())) == len(before)
    _, expected = run(FIVO(4), net, x, mask, 0.5)
    net.zero_grad()
    pyro.set_rng_seed(0)
    module(x, mask, 0.5).backward()
    torch.testing.assert_close(gradients(net), expected)


def short(dataset):
    """The same sequences, of at most six steps."""
    return SequenceDataset(tuple(x[: 3 + i % 4] for i, x in enumerate(dataset.sequences)), dataset.names)


TRAIN, VALID = short(small_data(30)), short(small_data(8, prefix="v", seed=1))
QUICK = TrainingConfig(
    steps=4, batch_size=8, evaluate_every=2, kl_increment=0.2, log_every=1, auxiliary_start=0.0, auxiliary_end=0.0
)


def train(folder, name, elbo, **options):
    options = {"config": QUICK, "progress": False, **options}
    pyro.set_rng_seed(1)
    net = small(name).float()
    return net, fit(net, TRAIN, VALID, elbo=elbo, folder=folder, **options)


def rows(folder):
    with open(folder / "train.csv", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("name", "mean_over_steps"), [(name, False) for name in SMALL] + [("vrnn", True), ("stcn pointwise", True)]
)
def test_fit_trains_with_it(tmp_path, name, mean_over_steps):
    torch.set_default_dtype(torch.float32)
    config = dataclasses.replace(QUICK, mean_over_steps=mean_over_steps)
    net, result = train(tmp_path, name, FIVO(3), config=config)
    assert result.stopped == "all steps made"
    logged = rows(tmp_path)
    assert len(logged) == 4
    assert all(np.isfinite(list(row.values())).all() for row in logged)
    assert all(p.isfinite().all() for p in net.parameters())


def test_fit_with_it_improves_the_bound(tmp_path):
    torch.set_default_dtype(torch.float32)
    config = dataclasses.replace(QUICK, steps=25, learning_rate=3e-2, kl_increment=1.0, evaluate_every=25)
    train(tmp_path, "vrnn", FIVO(4), config=config)
    loss = [row["loss"] for row in rows(tmp_path)]
    assert np.mean(loss[-5:]) < np.mean(loss[:5]) - 2


def test_a_run_with_it_that_is_resumed_is_the_undisturbed_one(tmp_path):
    torch.set_default_dtype(torch.float32)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(whole, "vrnn", FIVO(3))
    train(halves, "vrnn", FIVO(3), config=dataclasses.replace(QUICK, steps=2))
    train(halves, "vrnn", FIVO(3), resume=True)
    ours, theirs = (load_tensors(folder / "last.safetensors")[0] for folder in (halves, whole))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize(
    ("other", "named"), [(FIVO(3, threshold=0.9), "threshold"), (FIVO(3, resample=multinomial), "resample")]
)
def test_resuming_refuses_another_filter(tmp_path, other, named):
    torch.set_default_dtype(torch.float32)
    train(tmp_path, "vrnn", FIVO(3), config=dataclasses.replace(QUICK, steps=2))
    with pytest.raises(CheckpointError, match=f"another elbo; different: {named}"):
        train(tmp_path, "vrnn", other, resume=True)


def test_fit_says_what_to_do_about_a_training_only_term(tmp_path):
    torch.set_default_dtype(torch.float32)
    config = dataclasses.replace(QUICK, auxiliary_start=1.0, auxiliary_end=1.0)
    with pytest.raises(ValueError, match="auxiliary_start and auxiliary_end"):
        train(tmp_path, "zforcing", FIVO(3), config=config)


def test_a_latent_that_is_conditioned_around_the_call_is_refused():
    net, x = small_stcn(CAUSAL), torch.randn(2, 5, 4)
    z1 = net.guide(x)["z1"]
    with poutine.condition(data={"z1": z1}), pytest.raises(ValueError, match="'z1' is conditioned around the call"):
        FIVO(3).loss(net.model, net.guide, x)
    with poutine.condition(data={"other": z1}):
        assert math.isfinite(FIVO(3).loss(net.model, net.guide, x))
