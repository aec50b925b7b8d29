"""One contract for all systems: what follows from the facts that a model states about itself.

A new system is one more row in ``SMALL``. The expectations come from the facts (``latent_names``, ``evidence``,
``pointwise``, ``guide_sees_future``, ``has_training_term``, ``scores_first_step``) and from what a row adds.
"""

import collections
import copy
import dataclasses
import hashlib
import json
import math
from typing import Any

import numpy as np
import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger

from pyro_stcn.bounds import IWAE
from pyro_stcn.checkpoint import load_model, load_tensors, save_model
from pyro_stcn.configs import config_from_dict, config_to_dict
from pyro_stcn.data import SequenceDataset, collate
from pyro_stcn.diagnostics import kl_by_layer
from pyro_stcn.evaluation import evaluate
from pyro_stcn.generation import generate
from pyro_stcn.ladder import LadderConfig, base_normal
from pyro_stcn.lstm import StackedLSTMConfig
from pyro_stcn.models import (
    MODELS,
    BiLSTMConfig,
    Evidence,
    RNNConfig,
    SRNNConfig,
    STCNConfig,
    SWaveNetConfig,
    VRNNConfig,
    WaveNetConfig,
    ZForcingConfig,
)
from pyro_stcn.observation import (
    BernoulliConfig,
    CausalOutputConfig,
    GaussianMixtureConfig,
    NormalConfig,
    PenStrokeConfig,
    PointwiseOutputConfig,
)
from pyro_stcn.posterior import from_pyro_svi, posterior_of
from pyro_stcn.tcn import DilatedTCNConfig
from pyro_stcn.training import TrainingConfig, fit

from ..small import FixedNoise, small_data

D, T, LENGTHS = 4, 7, (7, 5, 3)


@dataclasses.dataclass(frozen=True)
class System:
    """A small configuration, and what only its equations say.

    :param reach: how many steps back p(x_t | z_<=t, x_<t) and the priors of z_t look together.
    :param loop: networks that need the draw before, and so run once per step of time.
    :param training_only: networks that nothing but the training term trains.
    """

    config: Any
    reach: float = math.inf
    loop: tuple[str, ...] = ()
    training_only: tuple[str, ...] = ()


def changed(system, **options):
    """Return the system in another configuration."""
    return dataclasses.replace(system, config=dataclasses.replace(system.config, **options))


POINTWISE, CAUSAL = PointwiseOutputConfig(2, 8), CausalOutputConfig(2, 8)
LADDER, BLOCKS = LadderConfig((3, 2), 8, 1), DilatedTCNConfig(((1,), (2,)), 8)
LATENT_LOOP = ("posterior_net", "latent_features", "recurrence")

#: a small one of every name in MODELS
SMALL = {
    "stcn": System(STCNConfig(D, BLOCKS, LADDER, output=CAUSAL), reach=4),
    "wavenet": System(WaveNetConfig(D, (1, 2), 8, output=POINTWISE), reach=5),
    "rnn": System(RNNConfig(D, 6, 2, 8)),
    "vrnn": System(VRNNConfig(D, 2, 6, 2, 8, 7), loop=LATENT_LOOP),
    "srnn": System(SRNNConfig(D, 2, 6, 8), loop=("prior_net", "posterior_net")),
    "zforcing": System(
        ZForcingConfig(D, 2, 6, 5, 8, backward_weight=0.3),
        loop=LATENT_LOOP,
        training_only=("auxiliary_net", "backward_observation"),
    ),
    "bilstm": System(
        BiLSTMConfig(D, 2, 6, 8, alpha=0.7, beta=0.3),
        loop=("posterior_net", "imagined", "recurrence"),
        training_only=("imagined_state",),
    ),
    "swavenet": System(SWaveNetConfig(D, 1, 2, 2, 8, 9), reach=8),
}
LADDER_RNN = changed(System(SMALL["stcn"].config), backbone=StackedLSTMConfig((1, 2), 6))
#: and the configurations that are systems of their own
SYSTEMS = SMALL | {
    "stcn pointwise": changed(SMALL["stcn"], output=POINTWISE),
    "stcn plain": changed(SMALL["stcn"], dense=False),
    "stcn plain pointwise": changed(SMALL["stcn"], dense=False, output=POINTWISE),
    "stcn output sees past": dataclasses.replace(changed(SMALL["stcn"], output_sees_past=True), reach=6),
    "stcn pointwise output sees past": changed(SMALL["stcn"], output=POINTWISE, output_sees_past=True),
    "ladder rnn": LADDER_RNN,
    "ladder rnn plain": changed(LADDER_RNN, dense=False, output=POINTWISE),
    "wavenet dense": changed(SMALL["wavenet"], taps=(1, 2)),
    "wavenet given x1": changed(SMALL["wavenet"], predicts_first=False),
    "vrnn-i": changed(SMALL["vrnn"], conditional_prior=False),
    "srnn filtering": changed(SMALL["srnn"], smoothing=False),
    "srnn plain": dataclasses.replace(changed(SMALL["srnn"], residual=False), loop=("posterior_net",)),
}
#: configuration, and the channels that are 0 or 1
HEADS = {
    "normal": (NormalConfig(), []),
    "mixture": (GaussianMixtureConfig(3), []),
    "bernoulli": (BernoulliConfig(), [0, 1, 2, 3]),
    "pen": (PenStrokeConfig(GaussianMixtureConfig(3)), [3]),
}
FLOORED = [
    GaussianMixtureConfig(3, floor=1e-6),
    PenStrokeConfig(floor=1e-5),
    PenStrokeConfig(GaussianMixtureConfig(3, floor=1e-6)),
]


def build(system, head="mixture"):
    """Return the model with the same weights every time, in evaluation mode."""
    pyro.set_rng_seed(4)
    net = dataclasses.replace(SYSTEMS[system].config, observation=HEADS[head][0]).build()
    for parameter in net.parameters():  # biases start at zero, which would hide what they do
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


def batch(head="mixture", steps=T):
    """Return x and mask of three sequences."""
    x = torch.randn(3, steps, D)
    for channel in HEADS[head][1]:
        x[..., channel] = (x[..., channel] > 0).to(x.dtype)
    return x, torch.arange(steps) < torch.tensor(LENGTHS)[:, None] + steps - T


LATENT = [name for name in SYSTEMS if build(name).latent_names]
AUXILIARY = [name for name in SYSTEMS if build(name).has_training_term]
systems = pytest.mark.parametrize("system", SYSTEMS)
latent_systems = pytest.mark.parametrize("system", LATENT)
heads = pytest.mark.parametrize("head", HEADS)
double = pytest.mark.usefixtures("double")

ELBOS = {
    "trace": lambda nesting: Trace_ELBO(),
    "analytic": lambda nesting: TraceMeanField_ELBO(),
    "iwae": lambda nesting: IWAE(3, max_plate_nesting=nesting),
    "iwae looped": lambda nesting: IWAE(3, vectorize_particles=False),
    "renyi": lambda nesting: RenyiELBO(0, num_particles=3, vectorize_particles=True, max_plate_nesting=nesting),
    "renyi looped": lambda nesting: RenyiELBO(0, num_particles=3),
}


def objective(name, net):
    """Return an objective for the model."""
    return ELBOS[name](-net.sequence_dim)


def training(net, weight=0.7):
    """Return the further arguments of training."""
    return {"auxiliary_weight": weight} if net.has_training_term else {}


def loss_and_gradients(net, elbo, x, mask, **options):
    """Return the loss and the gradient of every parameter by name, zeros where there is none."""
    net.zero_grad()
    loss = elbo.loss_and_grads(net.model, net.guide, x, mask, 1.0, **options)
    return loss, {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}


def trained(gradients):
    """Return the names of the parameters whose gradient is not zero."""
    return {name for name, gradient in gradients.items() if gradient.any()}


def belonging(net, networks):
    """Return the names of the parameters of these networks."""
    return {name for name, _ in net.named_parameters() if name.split(".")[0] in networks}


class FixedValues(Messenger):
    """Gives the named latents a value, as draws and not as data."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg):
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def each_step(site):
    """Return the distributions of all steps of a site, batch shape ``(batch, time)``."""
    fn = site["fn"]
    if hasattr(fn, "steps"):  # a trajectory
        return fn.steps(site["value"]).to_event(1)
    return fn if fn.event_dim == 1 else fn.base_dist.to_event(fn.reinterpreted_batch_ndims - 1)


def draw(net, x):
    """Return a draw of all latents from the prior."""
    nodes = poutine.trace(net.model).get_trace(x).nodes
    return {name: nodes[name]["value"].detach() for name in net.latent_names}


def noise_like(values):
    """Return noise for these latents."""
    return {name: torch.randn_like(value) for name, value in values.items()}


# --------------------------------------------------------------------------------------------------------------- facts


def test_every_system_is_here():
    assert {name: type(system.config) for name, system in SMALL.items()} == MODELS


@heads
@systems
def test_sites_and_plates(system, head):
    net = build(system, head)
    assert net.evidence is (Evidence.LOWER_BOUND if net.latent_names else Evidence.EXACT)
    x, mask = batch(head)
    model_trace, guide_trace = (poutine.trace(program).get_trace(x, mask) for program in (net.model, net.guide))
    frames = {"sequences": -2, "time": -1} if net.pointwise else {"sequences": -1}
    for trace, names in ((model_trace, (*net.latent_names, "x")), (guide_trace, net.latent_names)):
        sites = {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and n not in frames}
        assert set(sites) == set(names)
        for site in sites.values():
            assert {frame.name: frame.dim for frame in site["cond_indep_stack"]} == frames
            assert site["fn"].batch_shape == ((3, T) if net.pointwise else (3,))
            assert site["value"].shape[:2] == (3, T)
            assert site["value"].dim() == 3
    assert model_trace.nodes["x"]["value"].shape == x.shape


@systems
def test_a_copy_is_a_model_of_its_own(system):
    net = build(system)
    data = batch()

    def loss(net):
        pyro.set_rng_seed(1)
        return Trace_ELBO().loss(net.model, net.guide, *data)

    other, before = copy.deepcopy(net), loss(net)
    assert loss(other) == before
    SVI(other.model, other.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(*data)
    assert loss(net) == before
    assert loss(other) != before


# ----------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize(
    ("elbo", "head"),
    [(elbo, head) for elbo in ("trace", "analytic") for head in HEADS]
    + [(e, "pen") for e in ELBOS if e not in ("trace", "analytic")],
)
@systems
def test_every_parameter_is_trained(system, elbo, head):
    net = build(system, head).train()
    loss, gradients = loss_and_gradients(net, objective(elbo, net), *batch(head), **training(net))
    assert math.isfinite(loss)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert trained(gradients) == set(gradients)


@systems
def test_what_only_the_training_term_trains(system):
    net = build(system).train()
    _, gradients = loss_and_gradients(net, Trace_ELBO(), *batch())
    assert set(gradients) - trained(gradients) == belonging(net, SYSTEMS[system].training_only)


@pytest.mark.parametrize("elbo", ELBOS)
@pytest.mark.parametrize("system", AUXILIARY)
def test_the_training_term_is_there_where_it_is_asked_for_and_nowhere_else(system, elbo):
    net = build(system).train()
    data = batch()

    def run(**options):
        pyro.set_rng_seed(1)
        return loss_and_gradients(net, objective(elbo, net), *data, **options)

    (without, gradients), (zero, same) = run(), run(auxiliary_weight=0.0)
    assert zero == without
    assert all(torch.equal(gradients[name], same[name]) for name in gradients)
    half, whole = run(auxiliary_weight=0.5)[0], run(auxiliary_weight=1.0)[0]
    assert abs(whole - without) > 1
    if "iwae" not in elbo and "renyi" not in elbo:
        assert half == pytest.approx((without + whole) / 2, rel=1e-5)


@latent_systems
def test_one_factor_anneals_the_latents_alone(system):
    net = build(system)
    data = batch()

    def loss(factor, elbo):
        pyro.set_rng_seed(1)
        return elbo.loss(net.model, net.guide, *data, factor)

    for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
        nothing, one = loss(1e-9, elbo), loss(1.0, elbo)
        assert loss(0.25, elbo) == pytest.approx(0.75 * nothing + 0.25 * one, rel=1e-5)
        likelihood = net.guide.get_traces()[0].nodes["x"]
        assert nothing == pytest.approx(-likelihood["fn"].log_prob(likelihood["value"]).sum().item(), rel=1e-5)


@latent_systems
@torch.no_grad()
def test_the_analytic_kl_is_the_sampled_one_on_average(system):
    net, draws = build(system), 2000
    with pyro.plate("draws", draws, dim=net.sequence_dim - 1):
        net.guide(*batch())
    model_trace, guide_trace = net.guide.get_traces()
    analytic = kl_by_layer(model_trace, guide_trace, net.latent_names)
    for name in net.latent_names:
        p, q = model_trace.nodes[name], guide_trace.nodes[name]
        sampled = q["fn"].log_prob(q["value"]) - p["fn"].log_prob(q["value"])
        difference = (sampled - analytic[name]).reshape(draws, -1).sum(-1)
        assert abs(difference.mean()) <= 4.5 * difference.std() / math.sqrt(draws), name


@systems
def test_it_learns(system):
    net = build(system).train()
    data = batch()
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-2}), TraceMeanField_ELBO())
    losses = [svi.step(*data) for _ in range(30)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


# ----------------------------------------------------------------------------------------------------------- causality


def seen(function, *inputs):
    """Which steps s of the inputs ``(batch, time, dim)`` row t of a function depends on: bool ``(t, s)``."""
    jacobians = torch.autograd.functional.jacobian(function, inputs)
    return sum(jacobian.abs().sum((1, 3)) for jacobian in jacobians) != 0


def rows(trace, names):
    """The sum over sites of the log-density of a fixed value at each step: any parameter of any of them moves it."""
    steps = [each_step(trace.nodes[name]) for name in names]
    return sum(each.log_prob(torch.linspace(-1.5, 2.0, each.event_shape[0])).sum(0) for each in steps)


@double
@systems
def test_the_model_sees_the_past_alone_and_all_of_its_reach(system):
    net, steps = build(system), 11
    x, _ = batch(steps=steps)
    z = draw(net, x)

    def given(x):
        trace = poutine.trace(poutine.condition(net.model, z)).get_trace(x)
        return rows(trace, (*net.latent_names, "x"))

    lag = torch.arange(steps)[:, None] - torch.arange(steps)  # t - s
    assert torch.equal(seen(given, x), (lag >= 1) & (lag <= SYSTEMS[system].reach))


@double
@latent_systems
def test_given_the_past_a_pointwise_model_looks_at_no_other_latents(system):
    net = build(system)
    x, _ = batch()
    z = draw(net, x)

    def given(*values):
        values = dict(zip(net.latent_names, values, strict=True))
        trace = poutine.trace(poutine.condition(net.model, values)).get_trace(x)
        return rows(trace, (*net.latent_names, "x"))

    lag = torch.arange(T)[:, None] - torch.arange(T)
    dependence = seen(given, *z.values())
    assert dependence[lag == 0].all()
    assert not dependence[lag < 0].any()
    assert dependence[lag >= 1].any() != net.pointwise


@double
@latent_systems
def test_the_guide_sees_the_present_and_the_future_only_if_it_says_so(system):
    net = build(system)
    x, _ = batch()
    noise = noise_like(draw(net, x))

    def posterior(x):
        with FixedNoise(noise):
            net.guide(x)
        return rows(net.guide.get_traces()[1], net.latent_names)

    dependence = seen(posterior, x)
    assert dependence.diagonal().all()
    future = dependence.triu(1)
    assert future[:-2].any(1).all() if net.guide_sees_future else not future.any()


# --------------------------------------------------------------------------------------------------- masks and batches


PADDING = [(0, math.nan), (1, math.inf), (5, -math.inf), (12, 1e30), (2, 0.0)]


@double
@pytest.mark.parametrize("elbo", [Trace_ELBO(), TraceMeanField_ELBO()], ids=["trace", "analytic"])
@systems
def test_padding_holes_and_order_change_nothing(system, elbo):
    """Nothing reads what is masked out, at the end or inside."""
    net = build(system)
    x, mask = batch()
    mask[0, 3] = False
    noise = noise_like(draw(net, x))

    def run(x, mask, noise):
        with FixedNoise(noise):
            return loss_and_gradients(net, elbo, x, mask, **training(net))

    loss, gradients = run(x, mask, noise)
    for i, (padding, content) in enumerate(PADDING):
        order = torch.randperm(3)
        wide = torch.full((3, T + padding, D), content)
        wide[:, :T] = torch.where(mask.unsqueeze(-1), x, content)
        wide_noise = {name: F.pad(e, (0, 0, 0, padding), value=0.7 + i)[order] for name, e in noise.items()}
        again, other = run(wide[order], F.pad(mask, (0, padding))[order], wide_noise)
        assert again == pytest.approx(loss, rel=1e-9)
        for name in gradients:
            torch.testing.assert_close(
                other[name], gradients[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )


@double
@pytest.mark.parametrize("hole", [False, True])
@systems
def test_batch_mates_change_nothing(system, hole):
    """Alone and without padding, and so without a mask, a sequence adds the same to loss and gradients."""
    net = build(system)
    x, mask = batch()
    if hole:
        mask[:, 1] = False
        x[:, 1] = math.nan
    noise = noise_like(draw(net, x.nan_to_num()))

    def run(rows, steps, mask):
        with FixedNoise({name: e[rows, :steps] for name, e in noise.items()}):
            return loss_and_gradients(net, Trace_ELBO(), x[rows, :steps], mask, **training(net))

    loss, gradients = run(slice(None), T, mask)
    alone = [run(slice(i, i + 1), n, mask[i : i + 1, :n] if hole else None) for i, n in enumerate(LENGTHS)]
    assert sum(part for part, _ in alone) == pytest.approx(loss, rel=1e-12)
    for name in gradients:
        torch.testing.assert_close(sum(part[name] for _, part in alone), gradients[name], rtol=1e-9, atol=1e-9)


@double
@systems
@torch.no_grad()
def test_a_hole_is_to_all_other_steps_a_step_of_zeros(system):
    net = build(system)
    x, _ = batch()
    z = draw(net, x)
    real = torch.ones(3, T, dtype=torch.bool)
    real[0, 4] = real[1, 0] = real[1, 2] = real[1, 3] = real[2, 1] = False

    def run(x, mask):
        with FixedValues(z):
            net.guide(x, mask)
        p, q = net.guide.get_traces()
        priors, posteriors = (
            [base_normal(each_step(trace.nodes[name])) for name in net.latent_names] for trace in (p, q)
        )
        seen_in_all = [p.nodes["x"]["fn"].mean, *(value for n in priors for value in (n.loc, n.scale))]
        return seen_in_all, [value[real] for n in posteriors for value in (n.loc, n.scale)]

    masked, zeros = run(torch.where(real.unsqueeze(-1), x, math.nan), real), run(x * real.unsqueeze(-1), None)
    torch.testing.assert_close(masked, zeros, rtol=1e-12, atol=1e-12)


@latent_systems
@torch.no_grad()
def test_in_a_hole_the_posterior_is_the_prior(system):
    """A masked step is not charged for, so what is drawn there must not know more than the prior."""
    net = build(system)
    x, mask = batch()
    hole = torch.zeros_like(mask)
    hole[0, 4] = hole[1, 0] = hole[1, 2] = hole[2, 1] = True
    mask &= ~hole
    x[~mask] = math.nan
    net.guide(x, mask)
    differs = torch.zeros(3, T, dtype=torch.bool)
    for name in net.latent_names:
        p, q = (base_normal(each_step(trace.nodes[name])) for trace in net.guide.get_traces())
        assert torch.equal(p.loc[hole], q.loc[hole])
        assert torch.equal(p.scale[hole], q.scale[hole])
        differs |= (p.loc != q.loc).any(-1)
    assert differs[mask].all()


# ------------------------------------------------------------------------------------------ one step at a time, samples


@double
@heads
@systems
@torch.no_grad()
def test_one_step_at_a_time_is_the_whole_pass(system, head):
    net = build(system, head)
    x, _ = batch(head)
    z = draw(net, x)
    names = (*net.latent_names, "x")
    previous, states = F.pad(x, (0, 0, 1, 0)), [net.initial_state(3)]

    def take(t):
        given = poutine.condition(net.step, {name: value[:, t] for name, value in z.items()})
        trace = poutine.trace(given).get_trace(states[t], previous[:, t])
        state, emission = trace.nodes["_RETURN"]["value"]
        assert (emission.batch_shape, emission.event_shape) == ((3,), (D,))
        log_probs = [trace.nodes[name]["fn"].log_prob(z[name][:, t]) for name in net.latent_names]
        return state, torch.stack([*log_probs, emission.log_prob(x[:, t])])

    streamed = []
    for t in range(T):
        state, row = take(t)
        states.append(state)
        streamed.append(row)
    for t, row in enumerate(streamed):
        assert torch.equal(take(t)[1], row), "a state is a value: from an old one comes the same again"

    streamed = torch.stack(streamed, -1)  # (sites, batch, time)
    if not net.scores_first_step:
        streamed[-1, :, 0] = 0
    trace = poutine.trace(poutine.condition(net.model, z)).get_trace(x)
    trace.compute_log_prob()
    for name, ours in zip(names, streamed, strict=True):
        site = trace.nodes[name]
        each = each_step(site).log_prob(site["value"])
        torch.testing.assert_close(each, ours, rtol=1e-10, atol=1e-10)
        assert site["log_prob_sum"].item() == pytest.approx(ours.sum().item(), rel=1e-10)


@heads
@systems
def test_samples(system, head):
    net = build(system, head)
    x, _ = batch(head)
    for prefix in (None, x[:1], x[:2, :1], x[:2]):
        samples = generate(net, 12, 2, prefix=prefix, progress=False)
        assert samples.shape == (2, 12, D)
        assert samples.isfinite().all()
        bits = samples[..., HEADS[head][1]]
        assert ((bits == 0) | (bits == 1)).all()
        assert not torch.equal(samples[0], samples[1])


@pytest.mark.parametrize("parallel", [False, True])
@systems
def test_predictive(system, parallel):
    net = build(system)
    x, mask = batch()
    settings = {"guide": net.guide, "num_samples": 5, "parallel": parallel}
    draws = Predictive(net.model, return_sites=net.latent_names, **settings)(x, mask)
    for name in net.latent_names:
        assert draws[name].shape[:3] == (5, 3, T)
        assert (draws[name].std(0) > 0).all()
    prediction = Predictive(poutine.uncondition(net.model), return_sites=("x",), **settings)(x, mask)["x"]
    assert prediction.shape == (5, 3, T, D)
    assert (prediction.std(0) > 0).all(), "the data came back as their own prediction"


# ---------------------------------------------------------------------------------------------------- files and reports


@heads
@systems
def test_files(system, head, tmp_path):
    net = build(system, head)
    assert config_from_dict(json.loads(json.dumps(config_to_dict(net.config)))) == net.config
    save_model(tmp_path / "net.safetensors", net)
    again, _ = load_model(tmp_path / "net.safetensors")
    data, losses = batch(head), []
    for model in (net, again.eval()):
        pyro.set_rng_seed(3)
        losses.append(Trace_ELBO().loss(model.model, model.guide, *data))
    assert losses[0] == losses[1]


@systems
def test_a_resumed_run_is_the_undisturbed_run(system, tmp_path):
    config = TrainingConfig(steps=6, batch_size=4, evaluate_every=2, kl_increment=0.2, log_every=2)
    data, valid = small_data(11), small_data(3, seed=1)

    def run(folder, steps, **options):
        settings = {"elbo": Trace_ELBO(), "config": dataclasses.replace(config, steps=steps), "progress": False}
        result = fit(build(system), data, valid, folder=tmp_path / folder, **settings, **options)
        assert result.step == steps
        files = [load_tensors(tmp_path / folder / f"{name}.safetensors") for name in ("last", "best")]
        return [
            (meta, {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in tensors.items()})
            for tensors, meta in files
        ]

    whole = run("whole", 6)
    assert run("parts", 3) != whole
    torch.randn(5)
    assert run("parts", 6, resume=True) == whole


@systems
def test_evaluation(system):
    net, data = build(system), small_data(4)
    one = evaluate(net, data, particles=1, seed=3, progress=False)
    x = collate(data, range(4))
    for elbo, values in ((Trace_ELBO(), one.iwae), (TraceMeanField_ELBO(), one.objective)):
        torch.manual_seed(3)  # nothing but the bound is in it, no training term either
        assert values.sum() == pytest.approx(-elbo.loss(net.model, net.guide, x.x, x.mask), rel=1e-5)
    many = evaluate(net, data, particles=50, chunk=50, progress=False)
    assert (many.iwae_per_step is not None) == net.pointwise
    assert many.first_step_scored == net.scores_first_step
    assert tuple(many.kl) == net.latent_names
    if net.evidence is Evidence.EXACT:
        np.testing.assert_allclose(many.log_likelihood, one.log_likelihood, rtol=1e-5)
        np.testing.assert_allclose(many.iwae, one.log_likelihood, rtol=1e-5)
        assert [name for name, _ in many.rows()] == ["log-likelihood"]
    else:
        assert many.objective.mean() < many.iwae.mean()
        assert {"ELBO", "IWAE-50 per sequence"} < dict(many.rows()).keys()


@pytest.mark.parametrize("head", FLOORED)
@systems
def test_a_floored_density_gives_no_bound_and_is_never_called_one(system, head):
    net = dataclasses.replace(SYSTEMS[system].config, observation=head).build()
    assert net.evidence is Evidence.ESTIMATE
    data = small_data(2)
    data = SequenceDataset(tuple(np.where(np.arange(D) == D - 1, x > 0, x) for x in data.sequences))
    report = evaluate(net, data, particles=2, progress=False)
    assert not any("ELBO" in name or "IWAE" in name or name == "log-likelihood" for name, _ in report.rows())
    assert "NOT BOUNDS" in str(report)


@pytest.mark.parametrize("parallel", [False, True])
@latent_systems
def test_arviz(system, parallel):
    net = build(system)
    data = from_pyro_svi(net.model, net.guide, model_args=batch(), num_samples=4, parallel=parallel)
    plates = ("sequences", "time") if net.pointwise else ("sequences",)
    assert set(data.posterior.data_vars) == set(net.latent_names)
    for values in data.posterior.data_vars.values():
        assert values.dims[: 2 + len(plates)] == ("chain", "draw", *plates)
        assert values.shape[:4] == (1, 4, 3, T)
    statistics = data.sample_stats
    assert set(statistics.data_vars) == {"lp", "log_weight", *(f"kl_{name}" for name in net.latent_names)}
    for values in statistics.data_vars.values():
        assert values.dims == ("chain", "draw", *plates)
        assert np.isfinite(values).all()


@latent_systems
def test_arviz_with_every_name(system):
    net = build(system).train()
    data = small_data(2)
    idata = posterior_of(net, collate(data, [1, 0]), 3)
    assert net.training
    assert idata.posterior.sequences.values.tolist() == [data.names[1], data.names[0]]
    for name in net.latent_names:
        assert idata.posterior[name].dims == ("chain", "draw", "sequences", "time", f"{name}_unit")
    assert idata.observed_data["x"].dims == ("sequences", "time", "channel")
    assert idata.constant_data["lengths"].values.tolist() == [len(data[1]), len(data[0])]
    assert idata.sample_stats.attrs["evidence"] == net.evidence


def test_a_model_without_latents_has_no_posterior():
    system = next(name for name in SYSTEMS if not SYSTEMS[name].config.build().latent_names)
    with pytest.raises(ValueError, match="has no latents"):
        posterior_of(build(system), collate(small_data(2), [0]))


# ---------------------------------------------------------------------------------------------------------------- speed


@pytest.mark.parametrize("elbo", [name for name in ELBOS if "looped" not in name])
@systems
def test_networks_run_once_and_in_the_loop_over_time_only_what_has_to(system, elbo):
    net, row = build(system), SYSTEMS[system]
    calls = collections.Counter()
    weighty = {name: m for name, m in net.named_modules() if next(m.parameters(recurse=False), None) is not None}
    for name, module in weighty.items():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))

    def count(steps):
        calls.clear()
        loss_and_gradients(net, objective(elbo, net), *batch(steps=steps), **training(net))
        return dict(calls)

    five, ten = count(5), count(10)
    assert set(five) == set(weighty)
    looped = {name for name in weighty if name.split(".")[0] in row.loop}
    assert {name: ten[name] - five[name] for name in weighty} == {name: 5 * (name in looped) for name in weighty}
    once = dict.fromkeys(set(weighty) - looped, 1)
    assert {name: ten[name] for name in once} == once
