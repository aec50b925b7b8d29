"""Stochastic WaveNet: the equations by brute force, what sees what, streaming, padding, and every objective."""

import copy
import math

import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from torch import nn

from pyro_stcn.bounds import IWAE
from pyro_stcn.evaluation import evaluate
from pyro_stcn.generation import generate, reconstruct
from pyro_stcn.ladder import base_normal
from pyro_stcn.models.base import Evidence
from pyro_stcn.models.swavenet import StochasticLayer, SWaveNetConfig
from pyro_stcn.observation import BernoulliConfig, GaussianMixtureConfig, NormalConfig, PenStrokeConfig

from ..small import FixedNoise, small_data

SPEECH, INK = (0, 3), (2, 1)  # layers without and with a latent
LAYERS = [SPEECH, INK, (1, 2)]
HEADS = [NormalConfig(), GaussianMixtureConfig(3), BernoulliConfig(), PenStrokeConfig(GaussianMixtureConfig(3))]
Z = 3


def swavenet(layers=SPEECH, head=HEADS[0], data_dim=4, **options):
    sizes = {"latent_dim": Z, "filters": 6, "hidden": 7, **options}
    net = SWaveNetConfig(data_dim, *layers, observation=head, **sizes).build()
    for parameter in net.parameters():  # biases start at zero, which would hide what they do
        if parameter.dim() == 1:
            nn.init.normal_(parameter, std=0.3)
    return net


def ragged(binary=False, steps=9):
    x = torch.randn(3, steps, 4)
    if binary:
        x = (x > 0).to(x.dtype)
    return x, torch.arange(steps) < torch.tensor([steps, 6, 4])[:, None]


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


ELBOS = {
    "trace": Trace_ELBO(),
    "trace looped": Trace_ELBO(num_particles=3),
    "trace vectorised": Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "meanfield": TraceMeanField_ELBO(),
    "meanfield vectorised": TraceMeanField_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "graph": TraceGraph_ELBO(),
    "renyi looped": RenyiELBO(alpha=0, num_particles=3),
    "renyi vectorised": RenyiELBO(alpha=0, num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "iwae": IWAE(3, max_plate_nesting=1),
    "iwae looped": IWAE(3, vectorize_particles=False),
}


@pytest.mark.parametrize("elbo", list(ELBOS.values()), ids=list(ELBOS))
@pytest.mark.parametrize("layers", LAYERS)
def test_every_elbo_trains_every_parameter(elbo, layers):
    net = swavenet(layers)
    x, mask = ragged()
    before = {name: p.clone() for name, p in net.named_parameters()}
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-2}), elbo)
    for _ in range(2):
        assert math.isfinite(svi.step(x, mask, 0.5))
    unmoved = [name for name, p in net.named_parameters() if torch.equal(p, before[name])]
    assert not unmoved, f"got no gradient: {unmoved}"


@pytest.mark.parametrize("head", HEADS, ids=lambda h: type(h).__name__)
def test_every_observation_model(head):
    net = swavenet(head=head)
    x, mask = ragged(binary=isinstance(head, BernoulliConfig | PenStrokeConfig))
    TraceMeanField_ELBO()(net, net.guide)(x, mask).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert net.evidence is Evidence.LOWER_BOUND
    assert generate(net, 5, 2, prefix=x[:2], progress=False).shape == (2, 5, 4)
    assert reconstruct(net, x, mask).shape == x.shape


def test_floors_are_not_a_density_and_say_so():
    assert swavenet(head=GaussianMixtureConfig(3, floor=1e-6)).evidence is Evidence.ESTIMATE


@pytest.mark.parametrize("elbo", [e for name, e in ELBOS.items() if "looped" not in name])
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


def test_plates_tell_the_truth():
    net = swavenet()
    assert not net.pointwise
    assert net.guide_sees_future
    trace = poutine.trace(net.model).get_trace(*ragged())
    names = [name for name, site in trace.nodes.items() if site["type"] == "sample" and name != "sequences"]
    assert tuple(names) == (*net.latent_names, "x") == ("z1", "z2", "z3", "x")
    for name in names:
        site = trace.nodes[name]
        assert {f.name: f.dim for f in site["cond_indep_stack"]} == {"sequences": -1}
        assert site["fn"].batch_shape == (3,)


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive(parallel):
    net = swavenet()
    x, mask = ragged()
    draws = Predictive(net.model, guide=net.guide, num_samples=5, parallel=parallel, return_sites=("z1", "z3"))(x, mask)
    assert {name: tuple(value.shape) for name, value in draws.items()} == {"z1": (5, 3, 9, Z), "z3": (5, 3, 9, Z)}


def test_copies_and_conditioning():
    net = swavenet()
    x, mask = ragged()
    net.guide(x, mask)
    other = copy.deepcopy(net)
    assert other.guide.net is other
    z = torch.zeros(3, 9, Z)
    free = poutine.trace(poutine.condition(net.model, {"z1": z})).get_trace(x, mask)
    with poutine.condition(data={"z1": z}):
        net.guide(x, mask)
    model_trace, guide_trace = net.guide.get_traces()
    assert set(net.latent_names) & set(guide_trace.nodes) == {"z2", "z3"}
    torch.testing.assert_close(model_trace.nodes["z1"]["fn"].log_prob(z), free.nodes["z1"]["fn"].log_prob(z))


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
    net, x, mask = swavenet(layers), torch.randn(2, 13, 4), torch.ones(2, 13, dtype=torch.bool)
    if hole:  # a step like any other with zeros in it, but for its own posterior
        mask[:, 5] = x[:, 5] = 0
    values = net.guide(x, mask)
    model_trace, guide_trace = net.guide.get_traces()
    for i in range(2):
        priors, posteriors, hidden = by_brute_force(net, x[i], {name: values[name][i] for name in net.latent_names})
        for trace, expected in ((model_trace, priors), (guide_trace, posteriors)):
            for name, pairs in expected.items():
                normal = base_normal(trace.nodes[name]["fn"])
                rows = slice(None) if trace is model_trace else mask[i]
                for ours, theirs in zip((normal.loc, normal.scale), zip(*pairs, strict=True), strict=True):
                    torch.testing.assert_close(ours[i][rows], torch.stack(theirs)[rows], rtol=1e-12, atol=1e-12)
        mean = model_trace.nodes["x"]["fn"].base_dist.base_dist.mean[i]
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


# ------------------------------------------------------------------------------------------------------------ streaming


def steps_given(net, x, z):
    """The priors and the observation, one step at a time."""
    state, previous, rows = net.initial_state(len(x)), torch.zeros(len(x), x.shape[-1]), []
    for t in range(x.shape[1]):
        given_z = poutine.condition(data={name: value[:, t] for name, value in z.items()})
        with poutine.trace() as stepped, given_z:
            state, distribution = net.step(state, previous)
        assert (distribution.batch_shape, distribution.event_shape) == ((len(x),), (x.shape[-1],))
        normals = [base_normal(stepped.trace.nodes[name]["fn"]) for name in net.latent_names] + [distribution.base_dist]
        rows.append(torch.cat([p for normal in normals for p in (normal.loc, normal.scale)], -1))
        previous = x[:, t]
    return torch.stack(rows, 1), state


def whole_given(net, x, z):
    nodes = poutine.trace(poutine.condition(net.model, z)).get_trace(x).nodes
    normals = [base_normal(nodes[name]["fn"]) for name in (*net.latent_names, "x")]
    return torch.cat([p for normal in normals for p in (normal.loc, normal.scale)], -1)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("layers", LAYERS)
@torch.no_grad()
def test_steps_are_the_whole_sequence(layers):
    net = swavenet(layers)
    x = torch.randn(3, 4 * net.receptive_field + 3, 4)
    z = noise_for(net, 3, x.shape[1])
    stepped, state = steps_given(net, x, z)
    torch.testing.assert_close(stepped, whole_given(net, x, z), rtol=1e-12, atol=1e-12)
    start = net.initial_state(3)
    sizes = [[b.untyped_storage().nbytes() for b in s.buffers] for s in (state, start)]
    assert sizes[0] == sizes[1], "what is remembered has grown"
    assert all((b == 0).all() for b in start.buffers)

    kept = [b.clone() for b in state.buffers]
    given_z = {name: value[:, 0] for name, value in z.items()}
    with poutine.condition(data=given_z):
        (_, first), (_, again) = net.step(state, x[:, 0]), net.step(state, x[:, 0])
    assert torch.equal(first.mean, again.mean)
    assert all(torch.equal(a, b) for a, b in zip(kept, state.buffers, strict=True)), "a state was changed in place"


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("steps_before", [0, 1, 11])
@torch.no_grad()
def test_generated_steps_continue_the_prefix(layers, steps_before, monkeypatch):
    net = swavenet(layers)
    prefix = torch.randn(2, steps_before, 4) if steps_before else None
    step, guide = net.step, type(net.guide).__call__
    z, means, drawn = [], [], {}

    def watched(state, x):
        with poutine.trace() as trace:
            state, distribution = step(state, x)
        z.append({name: trace.trace.nodes[name]["value"] for name in net.latent_names})
        means.append(distribution.mean)
        return state, distribution

    monkeypatch.setattr(net, "step", watched)
    monkeypatch.setattr(type(net.guide), "__call__", lambda self, x: drawn.update(guide(self, x)) or dict(drawn))
    generated = generate(net, 9, 2, prefix=prefix, progress=False)
    x = generated if prefix is None else torch.cat([prefix, generated], 1)
    z = {name: torch.stack([step[name] for step in z], 1) for name in net.latent_names}
    trace = poutine.trace(poutine.condition(net.model, z)).get_trace(x)
    torch.testing.assert_close(torch.stack(means, 1), trace.nodes["x"]["fn"].mean, rtol=1e-12, atol=1e-12)
    for name in net.latent_names if steps_before else ():
        assert torch.equal(z[name][:, :steps_before], drawn[name]), "the latents of the prefix are the guide's"


# -------------------------------------------------------------------------------------------------------------- padding


def loss_and_gradients(net, x, mask, noise):
    net.zero_grad()
    with FixedNoise(noise):
        loss = TraceMeanField_ELBO()(net, net.guide)(x, mask)
    loss.backward()
    return loss.item(), [p.grad.clone() for p in net.parameters()]


@pytest.mark.parametrize("layers", LAYERS)
@settings(max_examples=15, deadline=None)
@given(
    padding=st.integers(0, 12),
    content=st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30, 0.0, -3.0]),
    order=st.permutations(range(3)),
    seed=st.integers(0, 99),
    hole=st.booleans(),
)
def test_padding_of_any_length_and_content_changes_nothing(layers, padding, content, order, seed, hole):
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(seed)
        net = swavenet(layers)
        x, mask = ragged()
        if hole:
            mask[:2, 3] = False
        noise = noise_for(net, 3, 9)
        loss, gradients = loss_and_gradients(net, x, mask, noise)

        order = list(order)
        wide = torch.full((3, 9 + padding, 4), content)
        wide[:, :9] = torch.where(mask.unsqueeze(-1), x, content)
        wide_mask = nn.functional.pad(mask, (0, padding))
        wide_noise = {name: nn.functional.pad(e, (0, 0, 0, padding), value=0.7)[order] for name, e in noise.items()}
        again, other = loss_and_gradients(net, wide[order], wide_mask[order], wide_noise)
        assert again == pytest.approx(loss, rel=1e-12)
        for a, b in zip(gradients, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("hole", [False, True])
def test_a_sequence_does_not_depend_on_its_batch_mates(layers, hole):
    net = swavenet(layers)
    x, mask = ragged()
    if hole:
        mask[:, 2] = False
    noise = noise_for(net, 3, 9)
    together, gradients = loss_and_gradients(net, x, mask, noise)
    alone = [
        loss_and_gradients(
            net,
            x[i : i + 1, :length],
            mask[i : i + 1, :length] if hole else None,
            {name: e[i : i + 1, :length] for name, e in noise.items()},
        )
        for i, length in enumerate((9, 6, 4))
    ]
    assert sum(loss for loss, _ in alone) == pytest.approx(together, rel=1e-12)
    for whole, parts in zip(gradients, zip(*(g for _, g in alone), strict=True), strict=True):
        torch.testing.assert_close(sum(parts), whole, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_in_a_hole_and_in_padding_the_posterior_is_the_prior():
    net = swavenet()
    x, mask = ragged()
    mask[0, 4] = mask[1, 0] = False
    x[~mask] = float("nan")
    net.guide(x, mask)
    prior, posterior = ([base_normal(t.nodes[n]["fn"]) for n in net.latent_names] for t in net.guide.get_traces())
    for p, q in zip(prior, posterior, strict=True):
        assert torch.equal(p.loc[~mask], q.loc[~mask])
        assert torch.equal(p.scale[~mask], q.scale[~mask])
        assert (p.loc[mask] != q.loc[mask]).all()


# -------------------------------------------------------------------------------------------------------- configuration


def test_it_is_evaluated():
    result = evaluate(swavenet(), small_data(6), particles=3, progress=False)
    assert result.evidence is Evidence.LOWER_BOUND


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


def test_bad_input_is_refused_with_its_place():
    net = swavenet()
    x, mask = ragged()
    x[1, 3, 2] = float("nan")
    for program in (net.model, net.guide):
        with pytest.raises(ValueError, match="nan at sequence 1, step 3, channel 2"):
            program(x, mask)
    net.guide(x, mask & ~torch.isnan(x).any(-1))
