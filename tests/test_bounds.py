"""IWAE against hand computation and Pyro's own estimators, and what it refuses."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from pyro.infer.enum import get_importance_trace
from torch.distributions import kl_divergence

from pyro_stcn.bounds import IWAE, DReG
from pyro_stcn.diagnostics import kl_by_layer
from pyro_stcn.ladder import LadderConfig, base_normal
from pyro_stcn.models import STCNConfig
from pyro_stcn.observation import CausalOutputConfig, GaussianMixtureConfig, PointwiseOutputConfig
from pyro_stcn.tcn import DilatedTCNConfig

pytestmark = pytest.mark.usefixtures("double")
POINTWISE, CAUSAL = PointwiseOutputConfig(2, 8), CausalOutputConfig(2, 8)


def stcn(output=POINTWISE):
    backbone, ladder = DilatedTCNConfig(((1, 2),) * 3, 8), LadderConfig((4, 3, 2), 7)
    return STCNConfig(4, backbone, ladder, output=output, observation=GaussianMixtureConfig(3)).build()


def ragged():
    lengths = torch.tensor([9, 6, 4])
    return torch.randn(3, 9, 4), torch.arange(9) < lengths[:, None], lengths


def hand_weights(net, x, mask, k):
    """log p(x, z) - log q(z | x) of k draws, from the traces alone: (k, batch, time)."""
    weights = []
    for _ in range(k):
        model_trace, guide_trace = get_importance_trace("flat", 2, net.model, net.guide, (x, mask), {})
        p, q = ({n: s for n, s in t.nodes.items() if s["type"] == "sample"} for t in (model_trace, guide_trace))
        total = 0.0
        for name in net.latent_names:
            z, prior, posterior = p[name]["value"], base_normal(p[name]["fn"]), base_normal(q[name]["fn"])
            total = total + (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)
        x_dist = p["x"]["fn"].base_dist if net.pointwise else p["x"]["fn"].base_dist.base_dist
        weights.append(torch.where(mask, total + x_dist.log_prob(x), 0.0).detach())
    return torch.stack(weights)


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize(
    ("output", "keep"),
    [
        (POINTWISE, ("sequences",)),
        (POINTWISE, ("sequences", "time")),
        (POINTWISE, ()),
        (CAUSAL, ("sequences",)),
        (CAUSAL, ()),
    ],
)
def test_iwae_is_what_the_formula_says(output, keep, vectorised):
    net = stcn(output)
    x, mask, _ = ragged()
    elbo = IWAE(5, keep=keep, vectorize_particles=vectorised, max_plate_nesting=2)
    pyro.set_rng_seed(1)
    loss = elbo.loss(net.model, net.guide, x, mask)
    pyro.set_rng_seed(1)
    if vectorised:  # the same draws, laid out as one batch
        weights = elbo.log_weights(net.model, net.guide, x, mask)
        pyro.set_rng_seed(1)
        per_step = vectorised_hand_weights(net, x, mask, 5)
    else:
        per_step = hand_weights(net, x, mask, 5)
        pyro.set_rng_seed(1)
        weights = elbo.log_weights(net.model, net.guide, x, mask)
    reduced = {(): per_step.sum((1, 2)), ("sequences",): per_step.sum(2), ("sequences", "time"): per_step}[keep]
    torch.testing.assert_close(weights, reduced)
    expected = -(reduced.logsumexp(0) - math.log(5)).sum().item()
    assert loss == pytest.approx(expected, abs=1e-9)


def vectorised_hand_weights(net, x, mask, k):
    with pyro.plate("particles", k, dim=-3):
        net.guide(x, mask)
    model_trace, guide_trace = net.guide.get_traces()
    total = 0.0
    for name in net.latent_names:
        z = guide_trace.nodes[name]["value"]
        prior, posterior = (base_normal(t.nodes[name]["fn"]) for t in (model_trace, guide_trace))
        difference = (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)
        total = total + difference.reshape(k, *mask.shape)
    fn = model_trace.nodes["x"]["fn"]
    fn = fn.base_dist if net.pointwise else fn.base_dist.base_dist
    return torch.where(mask, total + fn.log_prob(x).reshape(k, *mask.shape), 0.0).detach()


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize(("output", "keep"), [(POINTWISE, ("sequences", "time")), (CAUSAL, ("sequences",))])
def test_value_and_gradient_are_those_of_pyros_renyi_elbo_where_that_is_right(output, keep, vectorised):
    net = stcn(output)
    x, mask, _ = ragged()
    options = {"num_particles": 6, "vectorize_particles": vectorised, "max_plate_nesting": 2}
    results = []
    for elbo in (IWAE(keep=keep, **options), RenyiELBO(alpha=0, **options)):
        pyro.set_rng_seed(2)
        net.zero_grad()
        loss = elbo.loss_and_grads(net.model, net.guide, x, mask)
        results.append((loss, torch.cat([p.grad.flatten() for p in net.parameters()])))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-9)
    torch.testing.assert_close(results[0][1], results[1][1])


def test_one_particle_is_the_elbo():
    net = stcn()
    x, mask, _ = ragged()
    losses = []
    for elbo in (IWAE(1), Trace_ELBO()):
        pyro.set_rng_seed(3)
        losses.append(elbo.loss(net.model, net.guide, x, mask))
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)


def test_drop_in_for_svi_and_elbo_module():
    net = stcn(CAUSAL)
    x, mask, _ = ragged()
    before = [p.clone() for p in net.parameters()]
    SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-3}), IWAE(3)).step(x, mask)
    assert all((a != b).any() for a, b in zip(before, net.parameters(), strict=True))
    module = IWAE(3)(net, net.guide)
    assert len(list(module.parameters())) == len(before)
    module(x, mask, 0.5).backward()


def test_weights_per_step_are_refused_where_x_looks_back_over_z():
    net = stcn(CAUSAL)
    x, mask, _ = ragged()
    with pytest.raises(ValueError, match="'time'.*not give a bound"):
        IWAE(3, keep=("sequences", "time")).loss(net.model, net.guide, x, mask)


def test_a_site_shared_by_all_sequences_is_refused():
    """Pyro's RenyiELBO turns such a model silently into one weight for the whole batch."""

    def model(x):
        shared = pyro.sample("shared", dist.Normal(0.0, 1.0))
        with pyro.plate("sequences", len(x)):
            pyro.sample("x", dist.Normal(shared, 1.0), obs=x)

    def guide(x):
        pyro.sample("shared", dist.Normal(0.1, 0.9))

    with pytest.raises(ValueError, match="'shared' is not in 'sequences'"):
        IWAE(3).loss(model, guide, torch.zeros(4))
    assert math.isfinite(IWAE(3, keep=()).loss(model, guide, torch.zeros(4)))


def test_latents_without_a_reparameterisation_are_refused():
    def model(x):
        with pyro.plate("sequences", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("sequences", len(x)):
            pyro.sample("z", dist.Bernoulli(0.4))

    with pytest.raises(NotImplementedError, match="'z'"):
        IWAE(3).loss(model, guide, torch.zeros(4))


@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_a_weight_per_sequence_stays_outside_the_logarithm(output):
    """A scale of observations and latents alike multiplies the bound; annealing tempers the weights inside."""
    net = stcn(output)
    x, mask, lengths = ragged()
    elbo = IWAE(4)
    pyro.set_rng_seed(4)
    log_weights = elbo.log_weights(net.model, net.guide, x, mask)
    bounds = log_weights.logsumexp(0) - math.log(4)
    scale = (1 / lengths.double()).reshape(-1, *[1] * (-net.sequence_dim - 1))
    pyro.set_rng_seed(4)
    with poutine.scale(scale=scale):
        loss = elbo.loss(net.model, net.guide, x, mask)
    # The weights are recomputed: the first call of an ELBO runs the pair once more to count plates.
    pyro.set_rng_seed(4)
    assert elbo.loss(net.model, net.guide, x, mask) == pytest.approx(-bounds_again(net, x, mask, elbo).sum().item())
    pyro.set_rng_seed(4)
    expected = -(bounds_again(net, x, mask, elbo) / lengths).sum().item()
    assert loss == pytest.approx(expected, abs=1e-9)
    assert bounds.shape == (3,)


def bounds_again(net, x, mask, elbo):
    pyro.set_rng_seed(4)
    return elbo.log_weights(net.model, net.guide, x, mask).logsumexp(0) - math.log(elbo.num_particles)


def test_annealing_tempers_the_weights():
    net = stcn()
    x, mask, _ = ragged()
    elbo = IWAE(4, max_plate_nesting=2)
    pyro.set_rng_seed(5)
    tempered = elbo.log_weights(net.model, net.guide, x, mask, 0.3)
    pyro.set_rng_seed(5)
    with pyro.plate("particles", 4, dim=-3):
        net.guide(x, mask)
    model_trace, guide_trace = net.guide.get_traces()
    expected = model_trace.nodes["x"]["fn"].log_prob(x).sum(-1)
    for name in net.latent_names:
        z = guide_trace.nodes[name]["value"]
        difference = model_trace.nodes[name]["fn"].log_prob(z) - guide_trace.nodes[name]["fn"].log_prob(z)
        expected = expected + 0.3 * difference.sum(-1)
    torch.testing.assert_close(tempered, expected.detach())


@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
@torch.no_grad()
def test_analytic_kl_is_the_monte_carlo_kl_of_every_layer(output):
    """The KL of a layer given the draws above is analytic; drawing the layer itself gives the same on average."""
    net = stcn(output)
    x, mask, _ = ragged()
    draws = 20_000
    with pyro.plate("particles", draws, dim=-3 if net.pointwise else -2):
        net.guide(x, mask)
    model_trace, guide_trace = net.guide.get_traces()
    analytic = kl_by_layer(model_trace, guide_trace, net.latent_names)
    for name in net.latent_names:
        q, p = guide_trace.nodes[name], model_trace.nodes[name]
        sampled = q["fn"].log_prob(q["value"]) - p["fn"].log_prob(q["value"])
        difference = (sampled - analytic[name]).reshape(draws, -1).sum(-1)
        assert abs(difference.mean()) < 4.5 * difference.std() / math.sqrt(draws), name
        assert difference.std() > 0
        by_hand = kl_divergence(base_normal(q["fn"]), base_normal(p["fn"])).sum(-1)
        by_hand = torch.where(mask, by_hand, 0.0)
        by_hand = by_hand if net.pointwise else by_hand.sum(-1)
        torch.testing.assert_close(analytic[name], by_hand.expand(analytic[name].shape))


@pytest.mark.parametrize("bound", [IWAE, DReG])
def test_looped_particles_with_a_subsampling_plate_are_refused(bound):
    """Each would draw its own minibatch, and the mean of weights of different data is no bound."""
    data = torch.randn(20)

    def model():
        with pyro.plate("data", 20, subsample_size=4) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=data[rows])

    def guide():
        with pyro.plate("data", 20, subsample_size=4):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)).expand(4), 1.0))

    with pytest.raises(ValueError, match="'data' around 'z' is subsampled anew for every particle"):
        bound(3, keep=("data",), vectorize_particles=False).loss_and_grads(model, guide)
    assert bound(3, keep=("data",), max_plate_nesting=1).loss(model, guide) > 0
