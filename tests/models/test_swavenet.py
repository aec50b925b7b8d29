"""Stochastic WaveNet: the equations by brute force, what sees what, its bound, and what runs once.

What it shares with all systems is in ``test_contract.py``.
"""

import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from torch import nn

from pyro_stcn.bounds import IWAE
from pyro_stcn.ladder import base_normal
from pyro_stcn.models.swavenet import StochasticLayer, SWaveNetConfig
from pyro_stcn.observation import PenStrokeConfig

SPEECH, INK = (0, 3), (2, 1)  # layers without and with a latent
LAYERS = [SPEECH, INK, (1, 2)]
LENGTHS = (13, 9, 4)


def swavenet(layers=SPEECH, data_dim=4, **options):
    net = SWaveNetConfig(data_dim, *layers, **{"latent_dim": 3, "filters": 6, "hidden": 7, **options}).build()
    for parameter in net.parameters():  # biases start at zero, which would hide what they do
        if parameter.dim() == 1:
            nn.init.normal_(parameter, std=0.3)
    return net


def ragged():
    """Return x and mask of three sequences."""
    return torch.randn(3, LENGTHS[0], 4), torch.arange(LENGTHS[0]) < torch.tensor(LENGTHS)[:, None]


def noise_for(net, batch, steps):
    return {name: torch.randn(batch, steps, net.config.latent_dim) for name in net.latent_names}


class FixedValues(Messenger):
    """Gives the named latents a value, as draws and not as data."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg):
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True


# ------------------------------------------------------------------------------------------------------------ equations


def affine(linear, v):
    return linear.weight @ v + linear.bias


def hidden_layer(net, *inputs):
    return (torch.cat([layer.weight for layer in net.first], 1) @ torch.cat(inputs) + net.first[0].bias).relu()


def mlp(net, *inputs):
    return affine(net.rest[1], hidden_layer(net, *inputs))


def gaussian(net, *inputs):
    h = hidden_layer(net.hidden, *inputs)
    return affine(net.loc, h).clamp(-8, 8), affine(net.log_variance, h).clamp(-8, 8).exp().sqrt()


def gated(gate, now, other):
    weight = gate.filter_gate.weight
    signal, opening = (weight[..., 0] @ other + weight[..., 1] @ now + gate.filter_gate.bias).chunk(2)
    return signal.tanh() / (1 + (-opening).exp()) + affine(gate.residual, now)


def by_brute_force(net, x, z):
    """One step and one layer at a time: priors, posteriors and input of the head for one sequence ``(time, dim)``."""
    steps, zeros = len(x), torch.zeros(net.config.filters)
    present = [affine(net.embedding, x_t) for x_t in x]
    c = [affine(net.embedding, x_t).relu() for x_t in torch.cat([torch.zeros(1, x.shape[1]), x[:-1]])]
    skip, dilation = [mlp(net.skips[0], c_t) for c_t in c], 1

    def forwards(gate, c):
        return [gated(gate, c[t], c[t - dilation] if t >= dilation else zeros) for t in range(steps)]

    for gate, out in zip(net.deterministic, net.skips[1:], strict=True):
        c = forwards(gate, c)
        skip = [s + mlp(out, c_t) for s, c_t in zip(skip, c, strict=True)]
        dilation *= 2
    b, r, ahead = {}, present, dilation * 2 ** (len(net.stochastic) - 1)
    for name, layer in reversed(list(zip(net.latent_names, net.stochastic, strict=True))):
        r = [gated(layer.backward_gate, r[t], r[t + ahead] if t + ahead < steps else zeros) for t in range(steps)]
        b[name] = [mlp(layer.backward_net, r[t], present[t]) for t in range(steps)]
        ahead //= 2
    priors, posteriors = {}, {}
    for name, layer in zip(net.latent_names, net.stochastic, strict=True):
        h = forwards(layer.gate, c)
        priors[name] = [gaussian(layer.prior_net, h_t) for h_t in h]
        posteriors[name] = [gaussian(layer.posterior_net, h[t], b[name][t]) for t in range(steps)]
        skip = [skip[t] + mlp(layer.skip, h[t], z[name][t]) for t in range(steps)]
        if layer.above is not None:
            c = [mlp(layer.above, h[t], z[name][t]) for t in range(steps)]
        dilation *= 2
    hidden = [affine(net.output[3], affine(net.output[1], s.relu()).relu()) for s in skip]
    return priors, posteriors, torch.stack(hidden)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("hole", [False, True])
@torch.no_grad()
def test_the_equations(layers, hole):
    """Of a ragged batch: each sequence ends for its guide where it ends, not where the batch does."""
    net, (x, mask) = swavenet(layers), ragged()
    if hole:  # a step like any other with zeros in it, but for its own posterior
        mask[:, 2] = False
    x[~mask] = math.nan
    values = net.guide(x, mask)
    model_trace, guide_trace = net.guide.get_traces()
    for i, steps in enumerate(LENGTHS):
        real = mask[i, :steps]
        alone = torch.where(real.unsqueeze(-1), x[i, :steps], 0.0)
        z = {name: values[name][i, :steps] for name in net.latent_names}
        priors, posteriors, hidden = by_brute_force(net, alone, z)
        for trace, expected in ((model_trace, priors), (guide_trace, posteriors)):
            for name, pairs in expected.items():
                normal = base_normal(trace.nodes[name]["fn"])
                rows = slice(None) if trace is model_trace else real
                for ours, theirs in zip((normal.loc, normal.scale), zip(*pairs, strict=True), strict=True):
                    ours = ours[i, :steps]
                    torch.testing.assert_close(ours[rows], torch.stack(theirs)[rows], rtol=1e-12, atol=1e-12)
        mean = model_trace.nodes["x"]["fn"].mean[i, :steps]
        torch.testing.assert_close(mean, net.observation(hidden).mean, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_latents_are_clamped_on_both_sides_in_prior_and_posterior():
    net, x = swavenet(), torch.randn(2, 13, 4)
    for layer in net.stochastic:
        for network in (layer.prior_net, layer.posterior_net):
            network.loc.weight.mul_(100)
            network.log_variance.weight.mul_(100)
    net.guide(x)
    for trace in net.guide.get_traces():
        normals = [base_normal(trace.nodes[name]["fn"]) for name in net.latent_names]
        loc, scale = torch.cat([n.loc for n in normals]), torch.cat([n.scale for n in normals])
        assert (loc.min(), loc.max()) == (-8, 8)
        assert (scale.min().item(), scale.max().item()) == pytest.approx((math.exp(-4), math.exp(4)))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("hole", [False, True])
@torch.no_grad()
def test_the_bound_is_one(hole):
    """The evidence by draws from the prior, one step at a time, and by the guide: two programs, one number."""
    pyro.set_rng_seed(1)
    net = swavenet((0, 2), data_dim=1, latent_dim=1)  # z1 of the hole reaches x two steps later
    net.stochastic[0].above.first[1].weight.mul_(3)  # so that it matters there
    for layer in net.stochastic:  # and a guide that is near enough for weights of finite variance
        for network in (layer.prior_net, layer.posterior_net):
            network.loc.weight.mul_(0.3)
            network.log_variance.weight.mul_(0.1)
            network.log_variance.bias.zero_()
    x = torch.tensor([0.5, -1.0, 1.5, 0.3]).view(1, 4, 1)
    mask = torch.tensor([[True, not hole, True, True]])
    draws = 100_000
    state, previous, log_weights = net.initial_state(draws), torch.zeros(draws, 1), 0.0
    for t in range(4):
        state, distribution = net.step(state, previous)
        seen = x[0, t].expand(draws, 1) * mask[0, t]
        log_weights = log_weights + distribution.log_prob(seen) * mask[0, t]
        previous = seen

    def estimate(log_weights):
        weights = log_weights.exp()
        return weights.mean().log(), weights.std() / weights.mean() / len(weights) ** 0.5

    evidence, error = estimate(log_weights)
    x[~mask] = float("nan")
    ours, our_error = estimate(IWAE(draws, max_plate_nesting=1).log_weights(net.model, net.guide, x, mask)[:, 0])
    assert error < 0.01
    assert our_error < 0.01
    assert abs(evidence - ours) < 4 * (error**2 + our_error**2).sqrt()
    elbo = -Trace_ELBO(2000, vectorize_particles=True, max_plate_nesting=1).loss(net.model, net.guide, x, mask)
    assert elbo < evidence


def test_a_latent_may_be_given():
    net, (x, mask) = swavenet(), ragged()
    z = torch.zeros(3, LENGTHS[0], 3)
    free = poutine.trace(poutine.condition(net.model, {"z1": z})).get_trace(x, mask)
    with poutine.condition(data={"z1": z}):
        net.guide(x, mask)
    model_trace, guide_trace = net.guide.get_traces()
    assert set(net.latent_names) & set(guide_trace.nodes) == {"z2", "z3"}
    torch.testing.assert_close(model_trace.nodes["z1"]["fn"].log_prob(z), free.nodes["z1"]["fn"].log_prob(z))


# ------------------------------------------------------------------------------------------------------------ causality


def seen_by(function, x):
    """Which steps s of x the row t of the function depends on: bool ``(t, s)``."""
    return torch.autograd.functional.jacobian(function, x)[:, 0].abs().sum(-1) != 0


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("layers", [(0, 3), (3, 1), (1, 3)])
def test_who_sees_what_given_the_latents(layers):
    net = swavenet(layers, filters=24, hidden=24)  # wide: no step may be unseen because its units happen to be dead
    below, stochastic = layers
    steps = net.receptive_field + 4
    x = torch.randn(1, steps, 4)
    z = noise_for(net, 1, steps)
    lag = torch.arange(steps)[:, None] - torch.arange(steps)  # t - s

    def row(name, of):
        def function(x):
            with FixedValues(z):
                net.guide(x)
            fn = net.guide.get_traces()[of].nodes[name]["fn"]
            return (fn.mean if name == "x" else base_normal(fn).loc)[0].sum(-1)

        return function

    assert net.receptive_field == 2 ** sum(layers)
    assert torch.equal(seen_by(row("x", 0), x), (lag >= 1) & (lag <= net.receptive_field))
    for level, name in enumerate(net.latent_names):
        dilation = 2 ** (below + level)
        past = (lag >= 1) & (lag <= 2 * dilation)
        assert torch.equal(seen_by(row(name, 0), x), past), "the prior"
        future = (lag <= 0) & (lag % dilation == 0) & (-lag <= 2 ** (below + stochastic) - dilation)
        assert torch.equal(seen_by(row(name, 1), x), past | future), "the posterior"


@pytest.mark.usefixtures("double")
def test_an_observation_depends_on_no_later_latent_and_on_earlier_ones():
    net = swavenet(filters=24, hidden=24)
    x = torch.randn(1, 12, 4)
    z = noise_for(net, 1, 12)
    lag = torch.arange(12)[:, None] - torch.arange(12)
    for name, lags in (("z1", (0, 2, 4, 6)), ("z2", (0, 4)), ("z3", (0,))):

        def mean(value, name=name):
            trace = poutine.trace(poutine.condition(net.model, {**z, name: value})).get_trace(x)
            return trace.nodes["x"]["fn"].mean[0].sum(-1)

        assert torch.equal(seen_by(mean, z[name]), torch.isin(lag, torch.tensor(lags))), name


# ---------------------------------------------------------------------------------------------------------------- speed


VECTORISED = {"vectorize_particles": True, "max_plate_nesting": 1}


@pytest.mark.parametrize(
    "elbo",
    [
        Trace_ELBO(),
        Trace_ELBO(3, **VECTORISED),
        TraceMeanField_ELBO(3, **VECTORISED),
        TraceGraph_ELBO(),
        RenyiELBO(0, num_particles=3, **VECTORISED),
        IWAE(3, max_plate_nesting=1),
    ],
)
@pytest.mark.parametrize("layers", LAYERS)
def test_every_network_runs_once_per_step_and_what_reads_no_draw_runs_on_no_copies(elbo, layers):
    net = swavenet(layers)
    calls, copies = {}, {}

    def watch(name):
        def hook(_, __, output):
            calls[name] = calls.get(name, 0) + 1
            values = (
                output if isinstance(output, torch.Tensor) else output.loc if hasattr(output, "loc") else output.mean
            )
            copies[name] = values.shape[:-2].numel()  # times 3 sequences

        return hook

    names = []
    for name, module in net.named_modules():
        if name and not isinstance(module, nn.ModuleList | StochasticLayer):
            names.append(name)
            module.register_forward_hook(watch(name))
    elbo.loss_and_grads(net.model, net.guide, *ragged())
    assert calls == dict.fromkeys(names, 1)
    without_draws = {"embedding", "stochastic.0.gate", "stochastic.0.prior_net", "stochastic.0.posterior_net"}
    for i in range(len(net.stochastic)):
        without_draws |= {f"stochastic.{i}.backward_gate", f"stochastic.{i}.backward_net"}
        without_draws |= {f"stochastic.{i}.posterior_net.hidden.first.1"}  # reads b_l
    without_draws |= {"stochastic.0.skip.first.0"} | {f"skips.{i}" for i in range(len(net.skips))}
    assert without_draws <= set(names)
    particles = elbo.num_particles if elbo.vectorize_particles else 1
    assert {name: copies[name] for name in without_draws} == dict.fromkeys(without_draws, 3)
    assert copies["stochastic.0.skip"] == 3 * particles


@pytest.mark.parametrize("layers", LAYERS)
@torch.no_grad()
def test_what_a_step_remembers_does_not_grow(layers):
    net = swavenet(layers)
    state, x = net.initial_state(3), torch.zeros(3, 4)
    assert all((buffer == 0).all() for buffer in state.buffers)
    before = [buffer.untyped_storage().nbytes() for buffer in state.buffers]
    for _ in range(2 * net.receptive_field + 3):
        state, _ = net.step(state, x)
    assert [buffer.untyped_storage().nbytes() for buffer in state.buffers] == before


# -------------------------------------------------------------------------------------------------------- configuration


def test_the_papers_sizes():
    with torch.device("meta"):
        speech, ink = SWaveNetConfig().build(), SWaveNetConfig(3, 5, 1, 200, 200, 200, PenStrokeConfig()).build()
    assert speech.receptive_field == 16
    assert ink.receptive_field == 64
    assert [layer.gate.filter_gate.dilation[0] for layer in speech.stochastic] == [1, 2, 4, 8]
    assert [gate.filter_gate.dilation[0] for gate in ink.deterministic] == [1, 2, 4, 8, 16]
    (top,) = ink.stochastic
    assert top.gate.filter_gate.dilation == top.backward_gate.filter_gate.dilation == (32,)
    assert top.above is None, "nothing reads it"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stochastic_layers": 0}, "stochastic_layers must be at least 1, not 0"),
        ({"deterministic_layers": -1}, "deterministic_layers must not be negative, and is -1"),
        ({"latent_dim": 0}, "latent_dim must be at least 1, not 0"),
    ],
)
def test_sizes_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SWaveNetConfig(**options)
