"""DReG: its gradient is IWAE's on average, by sampling and by quadrature, and less noisy; its value is IWAE's."""

import copy
import dataclasses
import itertools
import math
from contextlib import ExitStack

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.distributions import constraints

from pyro_stcn.bounds import IWAE, DReG
from pyro_stcn.ladder import LadderConfig, base_normal
from pyro_stcn.models import (
    BiLSTMConfig,
    RNNConfig,
    SRNNConfig,
    STCNConfig,
    SWaveNetConfig,
    VRNNConfig,
    ZForcingConfig,
)
from pyro_stcn.models.unroll import StepwiseNormal
from pyro_stcn.observation import CausalOutputConfig, PointwiseOutputConfig
from pyro_stcn.tcn import DilatedTCNConfig

from ..linear_gaussian import DIM, SUMMARY, linear_gaussian_stcn
from ..linear_sequential import linear_model

pytestmark = pytest.mark.usefixtures("double")
SEQUENCES, STEPS = ("sequences",), ("sequences", "time")


class Noise(Messenger):
    """Gives every latent that is drawn (and was not drawn before) ``loc + scale * noise``.

    :param looped: particles come one after the other, and each takes the next row of the noise.
    """

    def __init__(self, noise, looped=False):
        super().__init__()
        self.noise = {name: iter(rows) if looped else itertools.repeat(rows) for name, rows in noise.items()}

    def _pyro_sample(self, msg):
        if msg["name"] in self.noise and not msg["is_observed"] and not msg["done"]:
            fn, noise = msg["fn"], next(self.noise[msg["name"]])
            if isinstance(fn, StepwiseNormal):
                msg["value"] = fn.rsample_from(noise)
            else:
                normal = base_normal(fn)
                msg["value"] = normal.loc + normal.scale * noise
            msg["done"] = True


class DetachedDistributions(DReG):
    """The alternative that is biased for a ladder: constant distributions of the guide in place of constant weights."""

    def _log_guide(self, guide_trace, model_trace):
        for site in guide_trace.nodes.values():
            if site["type"] == "sample":
                normal = base_normal(site["fn"])
                constant = dist.Normal(normal.loc.detach(), normal.scale.detach()).to_event(1)
                site["log_prob"] = constant.log_prob(site["value"]) * site["scale"]
        return super()._log_guide(guide_trace, model_trace)


# --------------------------------------------------------------------------------------------------------- the systems


class Pair:
    """A plain Pyro model and guide over numbers ``(batch,)``, with a parameter that both use.

    z ~ N(theta, 1), x ~ N(z, noise), guide N(slope x + shift theta, width).
    """

    START = {"theta": 0.4, "noise": 0.8, "slope": 0.5, "shift": 0.6, "width": 1.3}
    POSITIVE = ("noise", "width")

    def __init__(self, **start):
        for name, value in (self.START | start).items():
            positive = constraints.positive if name in self.POSITIVE else constraints.real
            pyro.param(name, torch.as_tensor(value, dtype=torch.float64), constraint=positive)

    def parameters(self):
        return [leaf for _, leaf in sorted(pyro.get_param_store().named_parameters())]

    def model(self, x):
        with pyro.plate("sequences", len(x)):
            z = pyro.sample("z", dist.Normal(pyro.param("theta"), 1.0))
            pyro.sample("x", dist.Normal(z, pyro.param("noise")), obs=x)

    def guide(self, x):
        loc = pyro.param("slope") * x + pyro.param("shift") * pyro.param("theta")
        with pyro.plate("sequences", len(x)):
            pyro.sample("z", dist.Normal(loc, pyro.param("width")))


class Likelihood(nn.Module):
    """N([x_t, h_(t-1)] W + shift, scale) for the ladder's guide, to be trained."""

    def __init__(self, dim, **shift):
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(DIM + SUMMARY, dim))
        self.shift = nn.Parameter(torch.zeros(shift.get("shift", (dim,))))
        self.scale = nn.Parameter(torch.full((dim,), 1.7))

    def forward(self, d, above):
        mean = torch.cat([d[..., :DIM], d[..., DIM + SUMMARY :]], -1) @ self.weight + self.shift
        return dist.Normal(mean, self.scale.expand(mean.shape))


def ladder(dims=(1, 1), dense=True, lag=False, **options):
    """A linear-Gaussian STCN whose guide merges the model's own priors with likelihoods of its own, which are wrong."""
    net = linear_gaussian_stcn(dims, dense=dense, lag=lag)
    for layer, dim in zip(net.ladder, dims, strict=True):
        layer.likelihood_net = Likelihood(dim, **options)
    return net


def exact_ladder():
    """A ladder of two layers at which the guide, with weights of its own, is the exact posterior."""
    net = linear_gaussian_stcn((1, 1), dense=False, exact=True)
    read = torch.cat([torch.eye(DIM + 2 * SUMMARY), torch.zeros(1, DIM + 2 * SUMMARY)])
    rows = [*range(DIM), *range(DIM + SUMMARY, DIM + 2 * SUMMARY)]
    for layer in net.ladder:
        exact, learned = layer.likelihood_net(read, None), Likelihood(1)
        learned.weight.data = (exact.loc[:-1] - exact.loc[-1:])[rows].detach()
        learned.shift.data, learned.scale.data = exact.loc[-1].detach(), exact.scale[-1].detach()
        layer.likelihood_net = learned
    return net


def guide_parameters(net):
    return [p for layer in net.ladder for p in layer.likelihood_net.parameters()]


D, T, LENGTHS = 3, 5, (5, 3, 1)
BLOCKS, LADDER = DilatedTCNConfig(((1,), (2,)), 6), LadderConfig((2, 2), 6, 1)
STCN = STCNConfig(D, BLOCKS, LADDER, output=CausalOutputConfig(2, 6))
SYSTEMS = {
    "stcn": STCN,
    "stcn pointwise": STCNConfig(D, BLOCKS, LADDER, output=PointwiseOutputConfig(1, 6)),
    "vrnn": VRNNConfig(D, 2, 5, 2, 6, 4),
    "srnn": SRNNConfig(D, 2, 5, 6),
    "zforcing": ZForcingConfig(D, 2, 5, 4, 6),
    "bilstm": BiLSTMConfig(D, 2, 5, 6),
    "swavenet": SWaveNetConfig(D, 1, 2, 2, 6, 6),
    "rnn": RNNConfig(D, 5, 1, 6),
}


def build(name):
    net = SYSTEMS[name].build().double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def ragged():
    """Sequences of unequal length, with rubbish where they have ended."""
    mask = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    return torch.where(mask.unsqueeze(-1), torch.randn(3, T, D), torch.full((), math.nan)), mask


def gradient(elbo, pair, *args, handlers=(), seed=0):
    """Gradient of the bound for all (unconstrained) parameters, flat, and the bound."""
    leaves = list(pair.parameters())
    for leaf in leaves:
        leaf.grad = None
    pyro.set_rng_seed(seed)
    with ExitStack() as stack:
        for handler in handlers:
            stack.enter_context(handler)
        loss = elbo.loss_and_grads(pair.model, pair.guide, *args)
    return -torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in leaves]), -loss


def mean_and_error(draws):
    return draws.mean(0), draws.std(0) / math.sqrt(len(draws))


def significance(differences):
    """Mean over standard error of every parameter whose differences are not all rounding."""
    mean, error = mean_and_error(differences)
    assert (mean[error < 1e-9].abs() < 1e-8).all()
    return (mean / error)[error >= 1e-9].abs()


# ---------------------------------------------------------------------------------------------------------- by formula


@pytest.mark.parametrize("particles", [1, 5])
def test_the_gradient_of_a_ladder_is_what_the_formula_says(particles):
    """Sticking the landing for one particle. By hand, with a frozen copy of the network for the constant weights."""
    net, x = ladder((2, 1)), torch.randn(2, 3, DIM)
    frozen = copy.deepcopy(net).requires_grad_(False)
    noise = {name: torch.randn(particles, 2, 3, dim) for name, dim in (("z1", 2), ("z2", 1))}
    d = net.features(x)[0]

    def densities(weights, draw):
        """log p(x, z) and log q(z | x) per particle and sequence, at ``draw(name, posterior)``."""
        z, log_p, log_q = [], 0.0, 0.0
        for layer in reversed(list(weights.ladder)):
            prior = layer.prior(d[:, :-1], z[-1] if z else None)
            posterior = layer.posterior(prior, d[:, 1:], z[-1] if z else None)
            z.append(draw(layer.name, posterior))
            log_p = log_p + prior.log_prob(z[-1]).sum((-1, -2))
            log_q = log_q + posterior.log_prob(z[-1]).sum((-1, -2))
        return log_p + weights.observation(torch.cat(z, -1)).log_prob(x).sum(-1), log_q

    drawn = {}

    def draw(name, posterior):
        return drawn.setdefault(name, posterior.loc + posterior.scale * noise[name])

    densities(net, draw)
    log_p, log_q = densities(frozen, lambda name, _: drawn[name])
    log_w = log_p - log_q
    live, _ = densities(net, lambda name, _: drawn[name].detach())
    w = log_w.detach().softmax(0)
    parameters = list(net.parameters())
    expected = torch.autograd.grad((w**2 * log_w + w * live).sum(), parameters, materialize_grads=True)
    found, bound = gradient(
        DReG(particles, vectorize_particles=particles > 1, max_plate_nesting=2),
        net,
        x,
        handlers=[Noise(noise, looped=particles == 1)],
    )
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in expected]), rtol=1e-10, atol=1e-12)
    assert bound == pytest.approx((log_w.logsumexp(0) - math.log(particles)).sum().item(), abs=1e-10)
    assert all(g.abs().max() > 1e-3 for g in expected if g.numel())  # nothing lies above the top layer


def test_one_particle_is_sticking_the_landing_in_a_plain_pair():
    pair, x, noise = Pair(), torch.randn(50), torch.randn(50)
    start = Pair.START
    z = start["slope"] * x + start["shift"] * start["theta"] + start["width"] * noise
    along = (start["theta"] - z) + (x - z) / start["noise"] ** 2 + noise / start["width"]  # d log(p/q) / dz
    expected = {
        "noise": ((x - z) ** 2 / start["noise"] ** 2 - 1).sum(),  # for its logarithm
        "shift": (along * start["theta"]).sum(),
        "slope": (along * x).sum(),
        "theta": (along * start["shift"] + z - start["theta"]).sum(),
        "width": (along * start["width"] * noise).sum(),
    }
    found, _ = gradient(DReG(1), pair, x, handlers=[Noise({"z": [noise]}, looped=True)])
    torch.testing.assert_close(found, torch.stack([expected[name] for name in sorted(expected)]))


@pytest.mark.parametrize("particles", [1, 2, 9])
def test_at_the_exact_posterior_the_guide_has_no_gradient_at_all(particles):
    net, x = exact_ladder(), torch.randn(4, 6, DIM)
    for elbo, still in ((DReG(particles), True), (IWAE(particles), False)):
        net.zero_grad()
        elbo.loss_and_grads(net.model, net.guide, x)
        largest = [p.grad.abs().max().item() for p in guide_parameters(net)]
        assert max(largest) < 1e-11 if still else min(largest) > 1e-3, f"{type(elbo).__name__}: {largest}"


# --------------------------------------------------------------------------------------------------------- on average


def systems_for_sampling(name):
    if name == "plain pair":
        return Pair(), (torch.randn(3).repeat(100),), 1
    if name == "ladder":
        return ladder((2, 1)), (torch.randn(2, 3, DIM).repeat(50, 1, 1),), 2
    return linear_model("vrnn", 2), (torch.randn(2, 4, DIM).repeat(50, 1, 1),), 1


def differences(elbo, name, repeats):
    """Per parameter: how the gradient differs from IWAE's on the same draws, in ``repeats`` runs."""
    pair, args, nesting = systems_for_sampling(name)
    ours, iwae = elbo(4, max_plate_nesting=nesting), IWAE(4, max_plate_nesting=nesting)
    return torch.stack(
        [gradient(ours, pair, *args, seed=i)[0] - gradient(iwae, pair, *args, seed=i)[0] for i in range(repeats)]
    )


@pytest.mark.parametrize(("name", "noisy"), [("plain pair", 4), ("ladder", 20), ("vrnn", 60)])
def test_the_mean_gradient_is_that_of_iwae(name, noisy):
    z = significance(differences(DReG, name, 40))
    assert len(z) >= noisy
    assert z.max() < 4


def test_constant_distributions_of_the_guide_are_found_to_be_biased():
    """The test above has the power to see it."""
    assert significance(differences(DetachedDistributions, "ladder", 40)).max() > 10


# ------------------------------------------------------------------------------------------------------- by quadrature


def normal_nodes(dims, points, negligible=1e-11):
    """Nodes ``(nodes, dims)`` and weights of E f(noise) for standard normal noise."""
    x, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(points))
    nodes, weights = (torch.cartesian_prod(*[a] * dims).reshape(-1, dims) for a in (x, w / w.sum()))
    weights = weights.prod(-1)
    keep = weights > negligible
    return nodes[keep], weights[keep]


def expected_gradient(elbo, net, x, points, mask=None, annealing=1.0):
    """Expectation of the gradient of a two-particle bound over the noise of two draws each, by quadrature.

    Every node is a sequence, and its weight the scale of that sequence. Two draws are z1 and z2 of one step (at each
    step, where steps have weights of their own), or z1 of two steps.
    """
    nodes, weights = normal_nodes(4, points)
    count, steps = len(weights), x.shape[0]
    nodes = nodes.reshape(count, 2, 2).transpose(0, 1)  # (particles, nodes, draws)
    if len(net.latent_names) == 2:
        noise = {name: nodes[..., i, None, None].expand(2, count, steps, 1) for i, name in enumerate(net.latent_names)}
    else:
        noise = {"z1": nodes.unsqueeze(-1)}
    scale = poutine.scale(scale=weights.reshape(-1, *[1] * (-net.sequence_dim - 1)))
    mask = None if mask is None else torch.tensor(mask).expand(count, steps)
    return gradient(elbo, net, x.expand(count, *x.shape), mask, annealing, handlers=[Noise(noise), scale])[0]


def expected_gradients(classes, net, *, points, keep=SEQUENCES, **options):
    x, nesting = torch.randn(2, DIM), -net.sequence_dim
    return [expected_gradient(elbo(2, keep, max_plate_nesting=nesting), net, x, points, **options) for elbo in classes]


@pytest.mark.parametrize("annealing", [1.0, 0.4])
def test_the_expected_gradient_of_a_ladder_is_exactly_that_of_iwae(annealing):
    classes = (IWAE, DReG, DetachedDistributions)
    exact, found, biased = expected_gradients(classes, ladder(), points=14, keep=STEPS, annealing=annealing)
    assert (exact.abs() > 1e-4).all()
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)
    assert (biased - exact).abs().max() > 1e-2


@pytest.mark.parametrize("mask", [None, (True, False), (False, True)], ids=["complete", "padding", "hole"])
@pytest.mark.parametrize("name", ["stcn", "vrnn", "srnn"])
def test_the_expected_gradient_over_two_steps_is_exactly_that_of_iwae(name, mask):
    """In a hole z is drawn from the prior and not charged for, and later steps look back at it."""
    net = ladder((1,), lag=True) if name == "stcn" else linear_model(name, 1)
    exact, found = expected_gradients((IWAE, DReG), net, points=32, mask=mask)
    assert (exact.abs() > 1e-3).sum() > 5
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("particles", [1, 2])
def test_the_expected_gradient_of_a_plain_pair_is_that_of_the_bound_as_a_formula(particles):
    start, x = Pair.START | {"width": 0.9}, 1.3
    pair = Pair(**start)
    nodes, weights = normal_nodes(particles, points=40)
    handlers = [Noise({"z": nodes.T}, looped=particles == 1), poutine.scale(scale=weights)]
    found, value = gradient(DReG(particles, max_plate_nesting=1), pair, torch.full(weights.shape, x), handlers=handlers)
    free = {name: torch.tensor(value, requires_grad=True) for name, value in sorted(start.items())}
    loc = free["slope"] * x + free["shift"] * free["theta"]
    z = loc + free["width"] * nodes.T
    log_joint = dist.Normal(free["theta"], 1.0).log_prob(z) + dist.Normal(z, free["noise"]).log_prob(torch.tensor(x))
    log_w = log_joint - dist.Normal(loc, free["width"]).log_prob(z)
    bound = (weights * (log_w.logsumexp(0) - math.log(particles))).sum()
    exact = torch.autograd.grad(bound, list(free.values()))
    to_logarithm = [value if name in Pair.POSITIVE else 1.0 for name, value in sorted(start.items())]
    exact = torch.stack([g * factor for g, factor in zip(exact, to_logarithm, strict=True)])
    assert exact.abs().min() > 1e-3
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-7)
    assert value == pytest.approx(bound.item(), abs=1e-10)


# ----------------------------------------------------------------------------------------------------- signal and noise


def signal_to_noise(elbo, pair, leaves, x, particles, nesting):
    """Mean and standard deviation of the gradient, ``(K, leaves)`` each.

    Each sequence has guide parameters of its own, so one run gives as many gradients as there are sequences.
    """
    rows = []
    for k in particles:
        gradient(elbo(k, max_plate_nesting=nesting), pair, x)
        draws = torch.stack([leaf.grad.flatten() for leaf in leaves], -1)
        rows.append(torch.stack([draws.mean(0).abs(), draws.std(0)]))
    return torch.stack(rows, 1)


def slope(particles, signal, noise):
    """Of log(signal / noise) in log K."""
    log_k = torch.tensor(particles, dtype=torch.float64).log()
    log_k = log_k - log_k.mean()
    return log_k @ (signal / noise).log() / log_k.square().sum()


def test_the_signal_does_not_drown_as_k_grows():
    count, particles = 10_000, (8, 16, 32, 64)
    own = {"slope": torch.full((count,), 0.6), "width": torch.full((count,), 1.1)}
    pair, x = Pair(noise=1.5, shift=2.5, **own), torch.full((count,), 1.3)
    leaves = [leaf for leaf in pair.parameters() if leaf.dim()]
    slopes = {}
    for elbo in (IWAE, DReG):
        signal, noise = signal_to_noise(elbo, pair, leaves, x, particles, 1)
        assert (signal > 4 * noise / math.sqrt(count)).all(), "too few sequences to see the signal"
        slopes[elbo.__name__] = slope(particles, signal, noise)
    assert ((slopes["IWAE"] + 0.5).abs() < 0.1).all(), slopes
    assert (slopes["DReG"] > 0.3).all(), slopes


def test_the_signal_of_a_ladder_does_not_drown_as_k_grows():
    """For a guide that is wide enough for its weights to have a variance. The signal of both is that of DReG."""
    count, particles = 4000, (4, 8, 16, 32, 64)
    net, x = ladder(shift=(count, 1, 1)), torch.randn(1, 1, DIM).expand(count, -1, -1)
    leaves = [layer.likelihood_net.shift for layer in net.ladder]
    for layer in net.ladder:
        nn.init.constant_(layer.likelihood_net.shift, 1.5)
        nn.init.constant_(layer.likelihood_net.scale, 3.0)
    signal, noise = signal_to_noise(DReG, net, leaves, x, particles, 2)
    assert (signal > 10 * noise / math.sqrt(count)).all(), "too few sequences to see the signal"
    _, of_iwae = signal_to_noise(IWAE, net, leaves, x, particles, 2)
    assert ((slope(particles, signal, of_iwae) + 0.5).abs() < 0.1).all(), slope(particles, signal, of_iwae)
    assert (slope(particles, signal, noise) > 0).all(), slope(particles, signal, noise)


# --------------------------------------------------------------------------------------- the value, and what acts on it


DRAWN = {"z1": 2, "z2": 2}  # the channels of every latent of the systems that read no coins


@pytest.mark.parametrize("independent", [False, True], ids=["", "independent draws"])
@pytest.mark.parametrize("name", ["stcn", "stcn pointwise", "vrnn", "srnn", "zforcing", "swavenet"])
def test_what_is_drawn_in_the_padding_moves_no_gradient(name, independent):
    """The same noise at the real steps, a hole among them, and other noise behind the last of them."""
    if independent and not name.startswith("stcn"):
        pytest.skip("draws are shared in this system")
    net = build(name)
    if independent:
        net = dataclasses.replace(SYSTEMS[name], independent_draws=True, dense=False).build().double()
    x, mask = torch.randn(3, T, D), torch.tensor([[True, True, False, True, False]] * 3)
    extra = ("z2_guide",) if independent else ()
    noise = {name: torch.randn(4, 3, T, 2) for name in (*DRAWN, *extra)}
    elbo = DReG(4, max_plate_nesting=-net.sequence_dim)

    def moved(step):
        """How far other noise at a step moves the gradient."""
        other = {name: rows.clone() for name, rows in noise.items()}
        for rows in other.values():
            rows[:, :, step] = torch.randn(4, 3, 2)
        first, second = (gradient(elbo, net, x, mask, handlers=[Noise(n)])[0] for n in (noise, other))
        return ((second - first).norm() / first.norm()).item()

    assert moved(4) < 1e-12
    assert moved(1) > 1e-3
    assert (moved(2) > 1e-6) == (not net.pointwise)  # later steps look at what was drawn in the hole


@pytest.mark.parametrize(
    ("name", "vectorised"),
    [(name, True) for name in SYSTEMS]
    # Looped, Bi-LSTM's coins of the runs that follow come between the draws of two particles.
    + [(name, False) for name in SYSTEMS if name != "bilstm"],
)
def test_every_system_has_iwaes_value_and_a_gradient_for_the_same_parameters(name, vectorised):
    net, (x, mask) = build(name), ragged()
    options = {"vectorize_particles": vectorised, "max_plate_nesting": -net.sequence_dim}
    values, with_gradient = [], []
    for elbo in (IWAE(3, **options), DReG(3, **options)):
        found, value = gradient(elbo, net, x, mask, 0.7)
        assert found.isfinite().all()
        values.append(value)
        with_gradient.append([n for n, p in net.named_parameters() if p.grad is not None and (p.grad != 0).any()])
    assert values[1] == pytest.approx(values[0], abs=1e-10)
    assert with_gradient[1] == with_gradient[0]
    assert len(with_gradient[1]) > 5
    pyro.set_rng_seed(3)
    bound = IWAE(3, **options).loss(net.model, net.guide, x, mask)
    pyro.set_rng_seed(3)
    assert DReG(3, **options).loss(net.model, net.guide, x, mask) == pytest.approx(bound, abs=1e-10)
    pyro.set_rng_seed(3)
    log_weights = DReG(3, **options).log_weights(net.model, net.guide, x, mask)
    pyro.set_rng_seed(3)
    torch.testing.assert_close(log_weights, IWAE(3, **options).log_weights(net.model, net.guide, x, mask))


def test_the_plates_that_are_counted_cost_no_other_draws():
    pair, x = Pair(), torch.randn(5)
    assert gradient(DReG(4), pair, x)[1] == pytest.approx(gradient(IWAE(4), pair, x)[1], abs=1e-12)


@pytest.mark.parametrize("name", ["ladder", "vrnn"])
def test_looped_particles_are_vectorised_ones(name):
    """On the same noise; so also on average."""
    net = ladder((2, 1)) if name == "ladder" else linear_model("vrnn", 2)
    x, mask = torch.randn(3, 4, DIM), torch.arange(4) < torch.tensor([4, 2, 3])[:, None]
    noise = {site: torch.randn(5, 3, 4, dim) for site, dim in (("z1", 2), ("z2", 1))}
    results = []
    for vectorised in (True, False):
        elbo = DReG(5, vectorize_particles=vectorised, max_plate_nesting=-net.sequence_dim)
        results.append(gradient(elbo, net, x, mask, handlers=[Noise(noise, looped=not vectorised)]))
    torch.testing.assert_close(*(g for g, _ in results), rtol=1e-9, atol=1e-12)
    assert results[0][1] == pytest.approx(results[1][1], abs=1e-10)


@pytest.mark.parametrize("lag", [False, True])
def test_a_scale_around_the_call_multiplies_bound_and_gradient(lag):
    net, x, weights = ladder(lag=lag), torch.randn(3, 4, DIM), (0.25, 3.0, 1.5)
    noise = {name: torch.randn(5, 3, 4, 1) for name in net.latent_names}
    elbo = DReG(5, max_plate_nesting=-net.sequence_dim)

    def of(rows, *handlers):
        handlers = [Noise({name: value[:, rows] for name, value in noise.items()}), *handlers]
        return gradient(elbo, net, x[rows], handlers=handlers)

    alone = [of([i]) for i in range(3)]
    vector = torch.tensor(weights).reshape(-1, *[1] * (-net.sequence_dim - 1))
    for scale, factors in ((0.3, (0.3,) * 3), (vector, weights)):
        found, bound = of([0, 1, 2], poutine.scale(scale=scale))
        expected = sum(factor * g for factor, (g, _) in zip(factors, alone, strict=True))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        assert bound == pytest.approx(sum(f * b for f, (_, b) in zip(factors, alone, strict=True)), abs=1e-10)


class Subsampled(Pair):
    """A pair that looks at four of its data at a time, each with its own latent."""

    def model(self, x):
        with pyro.plate("sequences", len(x), subsample_size=4) as i:
            z = pyro.sample("z", dist.Normal(pyro.param("theta"), 1.0))
            pyro.sample("x", dist.Normal(z, pyro.param("noise")), obs=x[i])

    def guide(self, x):
        with pyro.plate("sequences", len(x), subsample_size=4) as i:
            loc = pyro.param("slope") * x[i] + pyro.param("shift") * pyro.param("theta")
            pyro.sample("z", dist.Normal(loc, pyro.param("width")))


def test_a_subsampling_plate_keeps_to_its_subsample():
    """The pair runs three times: data and draws must belong together in each."""
    pair, x = Subsampled(), 3 * torch.randn(40)
    for seed in range(5):
        _, bound = gradient(IWAE(6), pair, x, seed=seed)
        assert gradient(DReG(6), pair, x, seed=seed)[1] == pytest.approx(bound, abs=1e-9)
    draws = [gradient(DReG(6), pair, x, seed=i)[0] - gradient(IWAE(6), pair, x, seed=i)[0] for i in range(100)]
    z = significance(torch.stack(draws))
    assert len(z) == 4
    assert z.max() < 4


def test_the_pair_runs_on_one_set_of_draws():
    """The draws are alive in the first run, given in the two that follow, and the same in all."""
    seen = []

    class Spy(Pair):
        def model(self, x):
            with pyro.plate("sequences", len(x)):
                z = pyro.sample("z", dist.Normal(pyro.param("theta"), 1.0))
                pyro.sample("x", dist.Normal(z, pyro.param("noise")), obs=x)
            seen.append((z, z.requires_grad, pyro.param("noise").requires_grad))

    gradient(DReG(3, max_plate_nesting=1), Spy(), torch.randn(4))
    assert [flags for _, *flags in seen] == [[True, True], [True, False], [False, True]]
    assert all(torch.equal(z, seen[0][0]) for z, *_ in seen)


# --------------------------------------------------------------------------------------------------- being a good guest


def test_parameters_are_as_they_were_afterwards():
    net, x = ladder(), torch.randn(2, 3, DIM)
    frozen = net.ladder[1].prior_net.scale.requires_grad_(False)
    with pytest.warns(UserWarning, match="was not registered in the param store because requires_grad=False"):
        gradient(DReG(3), net, x)
    assert [p for p in net.parameters() if not p.requires_grad] == [frozen]
    assert frozen.grad is None
    pair = Pair()
    frozen = pyro.param("noise").unconstrained().requires_grad_(False)
    gradient(DReG(3), pair, torch.randn(4))
    assert [leaf for leaf in pair.parameters() if not leaf.requires_grad] == [frozen]


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_parameters_are_as_they_were_after_an_error(fails):
    class Failing(Pair):
        runs = 0

        def model(self, x):
            Failing.runs += 1
            super().model(x)
            if self.runs == fails:
                raise RuntimeError("no luck")

    pair = Failing()
    with pytest.raises(RuntimeError, match="no luck"):
        gradient(DReG(3, max_plate_nesting=1), pair, torch.randn(4))
    assert Failing.runs == fails
    assert all(leaf.requires_grad for leaf in pair.parameters())
    assert gradient(DReG(3, max_plate_nesting=1), pair, torch.randn(4))[0].abs().min() > 0


@pytest.mark.parametrize("elbo", [DReG, IWAE])
def test_svi_finds_the_exact_posterior_and_stays_there(elbo):
    """DReG's gradient vanishes at the optimum for every draw, and not only on average as IWAE's does."""
    pair, x = Pair(theta=0.0, noise=1.0, slope=0.1), torch.tensor([-1.0, 0.5, 2.0])
    optimiser = pyro.optim.Adam(lambda name: {"lr": 0.1 if name in ("slope", "width") else 0.0})
    svi = SVI(pair.model, pair.guide, optimiser, elbo(5, max_plate_nesting=1))
    for _ in range(120):
        svi.step(x)
    off = max(abs(pyro.param("slope").item() - 0.5), abs(pyro.param("width").item() - math.sqrt(0.5)))
    assert off < 1e-3 if elbo is DReG else off > 0.1


def test_svi_and_the_elbo_as_a_module_take_every_parameter():
    net, x = build("stcn"), ragged()
    before = [p.detach().clone() for p in net.parameters()]
    SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-3}), DReG(3)).step(*x)
    assert all((a != b).any() for a, b in zip(before, net.parameters(), strict=True))
    module = DReG(3, max_plate_nesting=1)(net, net.guide)
    assert len(list(module.parameters())) == len(before)
    expected, _ = gradient(DReG(3, max_plate_nesting=1), net, *x)
    net.zero_grad()
    pyro.set_rng_seed(0)
    module(*x).backward()
    torch.testing.assert_close(-torch.cat([p.grad.flatten() for p in net.parameters()]), expected)


def test_a_pair_whose_parameters_pyro_does_not_know_is_refused():
    """Its weights could not be made constant, and the gradient would be another one."""
    weight = torch.tensor(0.3, requires_grad=True)

    def model(x):
        with pyro.plate("sequences", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(weight, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("sequences", len(x)):
            pyro.sample("z", dist.Normal(weight * x, 1.0))

    x = torch.randn(4)
    with pytest.raises(ValueError, match="no parameters are registered with Pyro: call pyro.module or pyro.param"):
        DReG(3).loss_and_grads(model, guide, x)
    pyro.set_rng_seed(1)
    bound = IWAE(3).loss(model, guide, x)
    pyro.set_rng_seed(1)
    assert DReG(3).loss(model, guide, x) == pytest.approx(bound)  # no gradient, nothing to refuse


def test_what_iwae_refuses_is_refused():
    net, (x, mask) = build("stcn"), ragged()
    with pytest.raises(ValueError, match="'time'.*not give a bound"):
        DReG(3, keep=STEPS).loss_and_grads(net.model, net.guide, x, mask)
    with pytest.raises(ValueError, match="num_particles"):
        DReG(0)

    def model(x):
        p = pyro.param("p", torch.tensor(0.5))
        shared = pyro.sample("shared", dist.Normal(p, 1.0))
        with pyro.plate("sequences", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z + shared, 1.0), obs=x)

    def guide(x):
        pyro.sample("shared", dist.Normal(0.0, 1.0))
        with pyro.plate("sequences", len(x)):
            pyro.sample("z", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="'shared' is not in 'sequences'"):
        DReG(3).loss_and_grads(model, guide, torch.zeros(4))
    with pytest.raises(NotImplementedError, match="'z'"):
        DReG(3, keep=()).loss_and_grads(model, guide, torch.zeros(4))


def test_independent_draws_are_refused_or_have_iwaes_mean_gradient():
    """The draws that nobody is charged for are the guide's, too."""
    net, x = linear_gaussian_stcn((1, 1), dense=True, independent_draws=True), torch.randn(1, 2, DIM).repeat(300, 1, 1)
    options, refusal = {"max_plate_nesting": 2}, ""
    try:
        DReG(4, **options).loss_and_grads(net.model, net.guide, x[:1])
    except (NotImplementedError, ValueError) as error:
        refusal = str(error)
    if refusal:
        assert "independent" in refusal
    else:
        pairs = [[gradient(elbo(4, **options), net, x, seed=i)[0] for elbo in (DReG, IWAE)] for i in range(40)]
        assert significance(torch.stack([a - b for a, b in pairs])).max() < 4
