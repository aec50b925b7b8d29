"""Bounds of the models whose latents depend on their own past, against a Kalman filter and Pyro's GaussianHMM."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from scipy.stats import chi2, kstest
from torch.distributions import MultivariateNormal

from pyro_stcn.bounds import IWAE
from pyro_stcn.models.unroll import StepwiseNormal, Unroll

from .linear_sequential import CONFIGS, DIM, WIDTH, ExactFromOneStep, linear_model, system

pytestmark = pytest.mark.usefixtures("double")
EXACT = [(name, 1) for name in CONFIGS] + [("srnn", 2), ("srnn-plain", 2)]
WRONG = [name for name in CONFIGS if name != "srnn-plain"]  # the wrong guide adds to the prior's mean
HOLES = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 0, 1, 0], [0, 1, 1, 0, 1]], dtype=torch.bool)


def data(batch=3, steps=5):
    return torch.randn(batch, steps, DIM)


def log_weights(net, x, mask=None, particles=50):
    return IWAE(particles, max_plate_nesting=1).log_weights(net.model, net.guide, x, mask)


def mean_and_error(draws):
    return draws.mean(0), draws.std(0) / math.sqrt(len(draws))


def log_evidence(linear, x, mask=None):
    """Exact log p(x) of every sequence, by a Kalman filter; a masked step is not observed."""
    batch, steps, _ = x.shape
    mean, covariance = torch.zeros(batch, len(linear.noise)), torch.zeros(batch, *linear.noise.shape)
    mask = torch.ones(batch, steps, dtype=torch.bool) if mask is None else mask
    result = torch.zeros(batch)
    for t in range(steps):
        mean = mean @ linear.transition + linear.offset[:, t]
        covariance = linear.transition.T @ covariance @ linear.transition + linear.noise
        seen, loading = mask[:, t], linear.loading
        spread = loading.T @ covariance @ loading + linear.observation_noise
        expected = mean @ loading + linear.shift[:, t]
        gain = torch.linalg.solve(spread, loading.T @ covariance)
        surprise = torch.where(seen[:, None], x[:, t] - expected, torch.zeros(()))
        result = result + MultivariateNormal(torch.zeros(DIM), spread).log_prob(surprise).where(seen, torch.zeros(()))
        mean = mean + (surprise.unsqueeze(1) @ gain).squeeze(1)
        covariance = torch.where(seen[:, None, None], covariance - covariance @ loading @ gain, covariance)
    return result


def gaussian_hmm(linear, mask=None):
    """Return the same as Pyro's distribution over one sequence or a batch, for a system with noise in all directions.

    Pyro's initial state takes a transition before the first observation: here one that forgets it. A masked step
    observes a standard normal in place of the state.
    """
    n, steps = len(linear.noise), linear.offset.shape[1]
    forgets = torch.arange(steps)[:, None, None] == 0
    loading, scale, shift = linear.loading, linear.observation_noise.diagonal().sqrt(), linear.shift
    if mask is not None:
        real = mask.unsqueeze(-1)
        loading = loading * real.unsqueeze(-1)
        scale, shift = torch.where(real, scale, torch.ones(())), torch.where(real, shift, torch.zeros(()))
    return dist.GaussianHMM(
        dist.Normal(torch.zeros(n), torch.ones(n)).to_event(1),
        torch.where(forgets, torch.zeros(()), linear.transition),
        dist.Normal(linear.offset, linear.noise.diagonal().sqrt()).to_event(1),
        loading,
        dist.Normal(shift, scale).to_event(1),
    )


def hmm_log_prob(linear, x, mask=None):
    """By Pyro; a masked step, which observes a standard normal at 0 there, is taken out again."""
    if mask is None:
        return gaussian_hmm(linear).log_prob(x)
    x = torch.where(mask.unsqueeze(-1), x, torch.zeros(()))
    return gaussian_hmm(linear, mask).log_prob(x) + DIM / 2 * math.log(2 * math.pi) * (~mask).sum(-1)


# ------------------------------------------------------------------------------------------------------------ evidence


@pytest.mark.parametrize("mask", [None, HOLES], ids=["complete", "holes"])
@pytest.mark.parametrize("features", [True, False])
def test_the_filter_agrees_with_pyros_hidden_markov_model(features, mask):
    """Given x_<t, the features are offsets, and an HMM with these offsets has the same density at x."""
    net, x = linear_model("srnn", 2, features=features), data()
    linear = system(net, x)
    assert ((linear.offset - linear.offset[0, 0]).abs().max() > 0.1) == features
    torch.testing.assert_close(log_evidence(linear, x, mask), hmm_log_prob(linear, x, mask), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("name", "latent_dim"), EXACT)
def test_with_the_exact_guide_every_weight_is_the_evidence(name, latent_dim):
    net, x = linear_model(name, latent_dim, exact=True), data()
    exact = log_evidence(system(net, x), x)
    torch.testing.assert_close(log_weights(net, x), exact.expand(50, -1), rtol=0, atol=1e-11)
    for elbo in (Trace_ELBO(), IWAE(7), IWAE(3, vectorize_particles=False)):
        assert elbo.loss(net.model, net.guide, x) == pytest.approx(-exact.sum().item(), abs=1e-10)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "bilstm"])
def test_p_over_q_is_the_evidence_at_any_latents(name):
    """At latents that nobody drew, after a pass that drew others: the densities are then computed without the loop."""
    net, x = linear_model(name, exact=True), data()
    exact = log_evidence(system(net, x), x)
    net.guide(x)
    drawn, posterior = (net.guide.get_traces()[1].nodes["z1"][key] for key in ("value", "fn"))
    prior = StepwiseNormal(posterior.unroll, Unroll.prior, posterior.batch_shape)
    for z in (torch.randn_like(drawn), drawn):
        joint = poutine.trace(poutine.condition(net.model, {"z1": z})).get_trace(x)
        joint.compute_log_prob()
        sites = joint.nodes["x"]["log_prob"], joint.nodes["z1"]["log_prob"]
        torch.testing.assert_close(sum(sites) - posterior.log_prob(z), exact, rtol=0, atol=1e-10)
        torch.testing.assert_close(prior.log_prob(z), sites[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_srnn_without_features_is_pyros_hidden_markov_model(latent_dim):
    net, x = linear_model("srnn", latent_dim, features=False, exact=True), data()
    exact = gaussian_hmm(system(net, torch.zeros_like(x))).log_prob(x)
    torch.testing.assert_close(log_weights(net, x), exact.expand(50, -1), rtol=0, atol=1e-11)


def test_vrnns_own_recognition_of_x_can_be_exact_where_no_later_step_sees_z():
    net, x = linear_model("vrnn"), data()
    net.posterior_net = ExactFromOneStep(net)
    exact = log_evidence(system(net, x), x)
    torch.testing.assert_close(log_weights(net, x), exact.expand(50, -1), rtol=0, atol=1e-11)


def test_given_its_noise_variational_bilstm_is_exact_too():
    x, noise = data(), torch.randn(3, 5, WIDTH)
    net = linear_model("bilstm", exact=True, noise=noise)
    with poutine.condition(data={"z2": noise}):
        net.guide(x)
    model_trace, guide_trace = net.guide.get_traces()
    for trace in (model_trace, guide_trace):
        trace.compute_log_prob()
    assert list(guide_trace.stochastic_nodes) == ["z1"]
    given = sum(model_trace.nodes[site]["log_prob"] for site in ("x", "z1")) - guide_trace.nodes["z1"]["log_prob"]
    torch.testing.assert_close(given, log_evidence(system(net, x, noise), x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_padded_sequence_has_the_evidence_that_it_has_alone(name):
    net, x = linear_model(name, exact=True), data()
    lengths = (5, 1, 3)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    alone = torch.cat([log_evidence(system(net, a[None, :n]), a[None, :n]) for a, n in zip(x, lengths, strict=True)])
    x[~mask] = math.nan
    torch.testing.assert_close(log_weights(net, x, mask), alone.expand(50, -1), rtol=0, atol=1e-11)


# ---------------------------------------------------------------------------------------------------------- wrong guide


@pytest.mark.parametrize("name", WRONG)
@torch.no_grad()
def test_a_wrong_guide_gives_bounds_that_grow_with_k_and_stay_below(name):
    """Fresh draws for every K: on the same draws, grouped, the bound grows by Jensen whatever they are."""
    net, x = linear_model(name, 2), data(batch=2, steps=4)
    exact, means = log_evidence(system(net, x), x).sum().item(), []
    for k in (1, 4, 32, 256):
        copies = min(400, 16_000 // k)
        elbo, data_ = IWAE(k, max_plate_nesting=1), x.repeat(copies, 1, 1)
        mean, error = mean_and_error(np.array([-elbo.loss(net.model, net.guide, data_) / copies for _ in range(10)]))
        assert mean <= exact + 4 * error, f"IWAE-{k} {mean:.3f} ± {error:.3f} is above log p(x) = {exact:.3f}"
        means.append((mean, error))
    for (low, low_error), (high, high_error) in itertools.pairwise(means):
        assert low + 4 * math.hypot(low_error, high_error) < high, f"not growing with K: {means}"
    assert exact - means[-1][0] < 0.2 * (exact - means[0][0]), "256 draws should close most of the gap"


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("name", WRONG)
@torch.no_grad()
def test_the_average_weight_is_the_evidence(name, holes):
    """With holes: of the steps that are left, a hole's latent integrated out under its prior."""
    net, x, mask = linear_model(name, 2), data(steps=4), HOLES[:, :4] if holes else None
    clean = net.clean(x, mask)  # features see zeros in a hole
    ratio = (log_weights(net, x, mask, 60_000) - log_evidence(system(net, clean), clean, mask)).exp()
    mean, error = mean_and_error(ratio)
    assert error.max() < 0.1
    assert ((mean - 1) / error).abs().max() < 4, f"mean weight / p(x) = {mean.tolist()} ± {error.tolist()}"


@pytest.mark.parametrize(
    ("name", "latent_dim", "features"),
    [("srnn", 2, False), ("srnn", 2, True), ("vrnn", 1, True), ("zforcing", 1, True)],
)
@torch.no_grad()
def test_a_hole_is_integrated_out_under_a_guide_that_is_exact_elsewhere(name, latent_dim, features):
    net, x = linear_model(name, latent_dim, features=features, exact=True), data()
    clean = net.clean(x, HOLES)
    exact = log_evidence(system(net, clean), clean, HOLES)
    if name == "srnn":
        torch.testing.assert_close(exact, hmm_log_prob(system(net, clean), x, HOLES), rtol=0, atol=1e-11)
    gaps = log_weights(net, x, HOLES, 40_000) - exact
    mean, error = mean_and_error(gaps)
    assert (mean + 4 * error < 0).all(), "drawing a hole from the prior must cost something"
    mean, error = mean_and_error(gaps.exp())
    assert error.max() < 0.05
    assert ((mean - 1) / error).abs().max() < 4, f"mean weight / p(x) = {mean.tolist()} ± {error.tolist()}"


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("name", WRONG)
@torch.no_grad()
def test_pyros_two_elbos_and_the_weights_have_one_mean(name, holes):
    net, x, mask = linear_model(name, 2), data(), HOLES if holes else None
    options = {"num_particles": 200, "vectorize_particles": True, "max_plate_nesting": 1}
    results = []
    for elbo in (Trace_ELBO(**options), TraceMeanField_ELBO(**options)):
        results.append(mean_and_error(np.array([-elbo.loss(net.model, net.guide, x, mask) for _ in range(40)])))
    mean, error = mean_and_error(log_weights(net, x, mask, 8000).sum(-1))
    results.append((mean.item(), error.item()))
    for (a, a_error), (b, b_error) in itertools.combinations(results, 2):
        assert 0 < abs(a - b) < 4 * math.hypot(a_error, b_error), f"Trace, TraceMeanField, weights: {results}"


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("name", WRONG)
def test_iwae_is_pyros_renyi_elbo(name, vectorised):
    net, x = linear_model(name, 2), data()
    options = {"num_particles": 6, "vectorize_particles": vectorised, "max_plate_nesting": 1}
    results = []
    for elbo in (IWAE(**options), RenyiELBO(alpha=0, **options)):
        pyro.set_rng_seed(2)
        net.zero_grad()
        loss = elbo.loss_and_grads(net.model, net.guide, x, HOLES)
        results.append((loss, gradients(net)))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-10)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-9, atol=1e-11)


# ------------------------------------------------------------------------------------------------------------ gradients


def gradients(net):
    return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in net.parameters()])


def loss_gradients(elbo, net, x):
    net.zero_grad()
    elbo.loss_and_grads(net.model, net.guide, x)
    return -gradients(net)


def evidence_gradients(net, x):
    net.zero_grad()
    log_evidence(system(net, x), x).sum().backward()
    return gradients(net)


@pytest.mark.parametrize("name", CONFIGS)
def test_under_an_exact_guide_every_draw_has_the_gradient_of_the_evidence(name):
    """The guide is a function of the model's parameters that is exact for all of them: log w = log p(x) for all."""
    net, x = linear_model(name, exact=True), data()
    exact = evidence_gradients(net, x)
    assert (exact != 0).sum() > 30
    for elbo in (Trace_ELBO(), IWAE(4, max_plate_nesting=1)):
        torch.testing.assert_close(loss_gradients(elbo, net, x), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("name", ["srnn", "vrnn", "zforcing"])
def test_the_mean_gradient_of_the_elbo_is_that_of_the_evidence(name, elbo):
    """Fisher's identity: the guide does not follow the parameters, and at its optimum need not."""
    net, x = linear_model(name, exact=True, detach=True), data()
    exact = evidence_gradients(net, x)
    elbo = elbo(num_particles=200, vectorize_particles=True, max_plate_nesting=1)
    mean, error = mean_and_error(torch.stack([loss_gradients(elbo, net, x) for _ in range(40)]))
    noisy = error > 1e-9
    assert noisy.sum() > 30
    assert ((mean - exact)[noisy] / error[noisy]).abs().max() < 4.5
    assert (error[noisy] / (exact[noisy].abs() + 1)).max() < 0.1
    torch.testing.assert_close(mean[~noisy], exact[~noisy], rtol=1e-9, atol=1e-8)


# ------------------------------------------------------------------------------------------------------ one step a time


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_steps_conditioned_on_the_latents_have_the_densities_of_the_whole_pass(name):
    net, x = CONFIGS[name](4).build(), data(batch=3, steps=7)
    for parameter in net.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))  # no bias is zero
    z = {"z1": torch.randn(3, 7, 4), "z2": torch.randn(3, 7, net.config.width)}
    z = {site: z[site] for site in net.latent_names}
    whole = poutine.trace(poutine.condition(net.model, z)).get_trace(x)
    whole.compute_log_prob()
    state, past = net.initial_state(3), torch.zeros_like(x)
    past[:, 1:] = x[:, :-1]
    total = dict.fromkeys((*net.latent_names, "x"), torch.zeros(3))
    for t in range(7):
        given = {site: value[:, t] for site, value in z.items()}
        step = poutine.trace(poutine.condition(net.step, given)).get_trace(state, past[:, t])
        step.compute_log_prob()
        state, emission = step.nodes["_RETURN"]["value"]
        total["x"] = total["x"] + emission.log_prob(x[:, t])
        for site in net.latent_names:
            total[site] = total[site] + step.nodes[site]["log_prob"]
    for site, value in total.items():
        torch.testing.assert_close(value, whole.nodes[site]["log_prob"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", WRONG)
@torch.no_grad()
def test_what_is_generated_step_by_step_has_the_distribution_that_the_evidence_is_of(name):
    """The filter's innovations are independent and Gaussian, so log p(x) is a constant less half a chi-square."""
    net, steps, count = linear_model(name, 2), 5, 4000
    state, x = net.initial_state(count), [torch.zeros(count, DIM)]
    for _ in range(steps):
        state, emission = net.step(state, x[-1])
        x.append(emission.sample())
    x = torch.stack(x[1:], 1)
    linear = system(net, x)
    still = replace(linear, offset=torch.zeros_like(linear.offset), shift=torch.zeros_like(linear.shift))
    surprise = 2 * (log_evidence(still, torch.zeros_like(x)) - log_evidence(linear, x))
    assert kstest(surprise.numpy(), chi2(steps * DIM).cdf).pvalue > 1e-3
