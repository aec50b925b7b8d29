"""FreeBits: without a floor Pyro's ELBO, with one what the formula says, and what it refuses."""

import csv
import dataclasses
import math
from contextlib import ExitStack

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import SVI, TraceMeanField_ELBO

from pyro_stcn.bounds import FreeBits
from pyro_stcn.checkpoint import CheckpointError, load_tensors
from pyro_stcn.ladder import LadderConfig, base_normal
from pyro_stcn.models import RNNConfig, SRNNConfig, STCNConfig, SWaveNetConfig, VRNNConfig, ZForcingConfig
from pyro_stcn.observation import CausalOutputConfig, NormalConfig, PointwiseOutputConfig
from pyro_stcn.tcn import DilatedTCNConfig
from pyro_stcn.training import TrainingConfig, fit

from ..small import FixedNoise, small_data, small_stcn

pytestmark = pytest.mark.usefixtures("double")
D, T, LENGTHS = 3, 6, (6, 4, 2)
BLOCKS, LADDER = DilatedTCNConfig(((1,), (2,)), 6), LadderConfig((4, 1), 6, 1)
STCN = STCNConfig(D, BLOCKS, LADDER, output=CausalOutputConfig(2, 6), observation=NormalConfig())
POINTWISE = dataclasses.replace(STCN, output=PointwiseOutputConfig(1, 6))
SYSTEMS = {
    "stcn": STCN,
    "stcn pointwise": POINTWISE,
    "stcn pointwise, independent draws": dataclasses.replace(POINTWISE, independent_draws=True),
    "vrnn": VRNNConfig(D, 2, 5, 2, 6, 4),
    "srnn": SRNNConfig(D, 2, 5, 6),
    "zforcing": ZForcingConfig(D, 2, 5, 4, 6),
    "swavenet": SWaveNetConfig(D, 1, 2, 2, 6, 6),
    "rnn": RNNConfig(D, 5, 1, 6),
}
STCNS = ("stcn", "stcn pointwise")


def build(name):
    pyro.set_rng_seed(1)
    net = SYSTEMS[name].build()
    with torch.no_grad():
        for parameter in net.parameters():  # so that no two layers have the same KL
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net


def ragged(hole=False):
    """Sequences of unequal length, with rubbish where they have ended."""
    mask = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    if hole:
        mask[0, 2] = mask[1, 0] = False
    return torch.where(mask.unsqueeze(-1), torch.randn(3, T, D), torch.full((), math.nan)), mask


def by_sequence(net, weights):
    """A number per sequence as a scale of the sites, as ``fit`` does it for ``mean_over_steps``."""
    return torch.as_tensor(weights, dtype=torch.float64).reshape(-1, *[1] * (-net.sequence_dim - 1))


def run(elbo, net, *args, handlers=(), seed=2, **options):
    """Loss and its gradient."""
    net.zero_grad()
    pyro.set_rng_seed(seed)
    with ExitStack() as stack:
        for handler in handlers:
            stack.enter_context(handler)
        loss = elbo.loss_and_grads(net.model, net.guide, *args, **options)
    return loss, gradients(net)


def gradients(net):
    return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in net.parameters()])


# ------------------------------------------------------------------------------------------------------ without a floor


@pytest.mark.parametrize("data", ["complete", "ragged", "holes"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_without_a_floor_it_is_pyros_elbo_with_analytic_kl(name, data):
    """Loss and gradient, annealed or not, with a training term or not, and whatever a sequence weighs."""
    net = build(name)
    x, mask = ragged(hole=data == "holes")
    args = (x, mask) if data != "complete" else (torch.randn(3, T, D), None)
    weights = by_sequence(net, [0.3, 1.2, 2.0])
    for annealing in (1.0, 0.3, torch.tensor(0.3)):
        for scale in (1.0, 0.1, weights):
            options = {"auxiliary_weight": 0.7} if net.has_training_term else {}
            of = {"handlers": [poutine.scale(scale=scale)], **options}
            loss, gradient = run(FreeBits(0.0), net, *args, annealing, **of)
            expected, exact = run(TraceMeanField_ELBO(), net, *args, annealing, **of)
            assert loss == pytest.approx(expected, rel=1e-10)
            torch.testing.assert_close(gradient, exact, rtol=1e-9, atol=1e-11)
            assert gradient.any()


@pytest.mark.parametrize("name", STCNS)
def test_a_latent_that_is_conditioned_on_has_no_kl_and_no_floor(name):
    net, x = build(name), torch.randn(3, T, D)
    for floor, more in ((0.0, 0.0), (50.0, 1.0)):
        given = poutine.condition(data={"z2": torch.randn(3, T, 1)})
        loss, _ = run(FreeBits(floor), net, x, handlers=[given])
        expected, _ = run(TraceMeanField_ELBO(), net, x, handlers=[given])
        p, q = (trace.nodes["z1"]["fn"] for trace in net.guide.get_traces())
        below = torch.distributions.kl_divergence(q, p).sum().item()
        assert loss == pytest.approx(expected + more * (floor * 3 * T - below), rel=1e-10)


# ------------------------------------------------------------------------------------------------------ by the formula


def terms(net, x, mask, weights, seed=2):
    """Minus the log-likelihood, and the KL of every layer by hand, summed over real steps with a weight a sequence."""
    pyro.set_rng_seed(seed)
    net.guide(x, mask)
    model_trace, guide_trace = net.guide.get_traces()
    clean = torch.where(mask.unsqueeze(-1), x, torch.zeros(()))

    def total(by_step):
        return (torch.where(mask, by_step, torch.zeros(())).sum(1) * weights).sum()

    fn = model_trace.nodes["x"]["fn"]
    while hasattr(fn, "base_dist"):  # a Normal in masks and events
        fn = fn.base_dist
    kl = {}
    for name in net.latent_names:
        p, q = (base_normal(trace.nodes[name]["fn"]) for trace in (model_trace, guide_trace))
        ratio = (q.scale / p.scale) ** 2
        kl[name] = total((0.5 * (ratio + ((q.loc - p.loc) / p.scale) ** 2 - 1 - ratio.log())).sum(-1))
    return -total(fn.log_prob(clean).sum(-1)), kl


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), tuple(1 / n for n in LENGTHS)], ids=["sum", "mean over steps"])
@pytest.mark.parametrize("hole", [False, True], ids=["ragged", "holes"])
@pytest.mark.parametrize("name", STCNS)
def test_a_layer_below_the_floor_costs_the_floor_and_one_above_its_kl(name, hole, weights):
    """A layer below has no gradient of its KL, one above all of it."""
    net, annealing = build(name), 0.3
    x, mask = ragged(hole)
    weight = torch.tensor(weights)
    parameters = list(net.parameters())
    cost, kl = terms(net, x, mask, weight)
    steps = (mask.sum(1) * weight).sum().item()
    low, high = sorted(kl, key=lambda layer: kl[layer].item())
    between = (kl[low] * kl[high]).sqrt().item() / steps
    assert 1.1 * kl[low] < between * steps < kl[high] / 1.1, "two layers too much alike to tell"
    for floor, expected in (
        (0.0, cost + annealing * (kl[low] + kl[high])),
        (between, cost + annealing * (between * steps + kl[high])),
        (1e3, cost + annealing * 2e3 * steps),
    ):
        exact = torch.autograd.grad(expected, parameters, retain_graph=True, materialize_grads=True)
        scale = poutine.scale(scale=by_sequence(net, weights))
        loss, gradient = run(FreeBits(floor), net, x, mask, annealing, handlers=[scale])
        assert loss == pytest.approx(expected.item(), rel=1e-10)
        torch.testing.assert_close(gradient, torch.cat([g.flatten() for g in exact]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", STCNS)
def test_the_floor_is_for_the_average_over_the_batch(name):
    """A sequence below it beside one above pays for nothing more, where both together are above."""
    net = build(name)
    x, mask = ragged()
    _, kl = terms(net, x, mask, torch.ones(3))
    of_each = [terms(net, x, mask, F.one_hot(torch.tensor(i), 3).double())[1] for i in range(3)]
    per_step = {layer: kl[layer].item() / sum(LENGTHS) for layer in kl}
    floor = 0.999 * min(per_step.values())
    alone = [one[layer].item() / n for one, n in zip(of_each, LENGTHS, strict=True) for layer in kl]
    assert min(alone) < floor, "no sequence is below the floor by itself"
    assert run(FreeBits(floor), net, x, mask)[0] == pytest.approx(run(TraceMeanField_ELBO(), net, x, mask)[0])


def noise_for(net):
    """Noise for the latents of three sequences."""
    pyro.set_rng_seed(3)
    net.guide(torch.randn(3, T, D))
    nodes = net.guide.get_traces()[0].nodes
    return {name: torch.randn_like(nodes[name]["value"]) for name in net.latent_names}


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("floor", [0.05, 1e3])
@pytest.mark.parametrize("name", [*STCNS, "vrnn"])
def test_the_floor_counts_real_steps_only(name, floor, by_name):
    """Padding adds nothing, nor does a hole, whether the mask is given by place or by name."""
    net = build(name)
    x, mask = ragged(hole=True)
    noise = noise_for(net)

    def of(x, mask, noise):
        with FixedNoise(noise):
            if by_name:
                return run(FreeBits(floor), net, x, mask=mask)
            return run(FreeBits(floor), net, x, mask)

    loss, gradient = of(x, mask, noise)
    if floor == 1e3:  # above all layers
        observed = net.guide.get_traces()[0].nodes["x"]
        likelihood = observed["fn"].log_prob(observed["value"]).sum().item()
        assert loss == pytest.approx(len(noise) * floor * mask.sum().item() - likelihood, rel=1e-10)
    wide, wide_mask = F.pad(x, (0, 0, 0, 5), value=math.nan), F.pad(mask, (0, 5))
    again, same = of(wide, wide_mask, {layer: F.pad(e, (0, 0, 0, 5), value=0.7) for layer, e in noise.items()})
    assert again == pytest.approx(loss, rel=1e-10)
    torch.testing.assert_close(same, gradient, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("floor", [0.05, 1e3])
@pytest.mark.parametrize("name", [*STCNS, "vrnn"])
def test_a_sequence_that_a_handler_masks_out_has_no_floor(name, floor):
    net, noise, rest = build(name), noise_for(build(name)), [0, 2]
    x, mask = ragged()
    with FixedNoise({layer: e[rest] for layer, e in noise.items()}):
        loss, gradient = run(FreeBits(floor), net, x[rest], mask[rest])
    handler = poutine.mask(mask=by_sequence(net, [1, 0, 1]).bool())
    with FixedNoise(noise):
        again, same = run(FreeBits(floor), net, x, mask, handlers=[handler])
    assert again == pytest.approx(loss, rel=1e-10)
    torch.testing.assert_close(same, gradient, rtol=1e-9, atol=1e-10)


def test_it_is_never_above_the_elbo():
    net = build("stcn")
    x, mask = ragged()
    losses = [run(FreeBits(floor), net, x, mask)[0] for floor in (0.0, 0.01, 0.1, 1.0, 10.0)]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("floor", [-0.1, math.nan])
def test_a_negative_floor_is_refused(floor):
    with pytest.raises(ValueError, match="floor must not be negative, it is"):
        FreeBits(floor)


def test_a_guide_that_belongs_to_no_model_of_this_library_is_refused():
    def model(x):
        with pyro.plate("sequences", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("sequences", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(TypeError, match="this guide belongs to none of them"):
        FreeBits(0.1).loss(model, guide, torch.zeros(4))


def test_layers_annealed_apart_within_themselves_are_refused():
    net, x = build("stcn"), torch.randn(3, T, D)
    with pytest.raises(ValueError, match="one annealing factor for all of 'z"):
        FreeBits(0.1).loss(net.model, net.guide, x, None, by_sequence(net, [0.1, 0.2, 0.3]))


# ------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", ["stcn", "stcn pointwise", "vrnn", "rnn"])
def test_svi_and_the_elbo_as_a_module_take_every_parameter(name):
    net = build(name)
    x, mask = ragged()
    _, expected = run(FreeBits(0.0), net, x, mask, 0.5)
    net.zero_grad()
    pyro.set_rng_seed(2)
    FreeBits(0.0)(net, net.guide)(x, mask, 0.5).backward()
    torch.testing.assert_close(gradients(net), expected)
    before = [p.detach().clone() for p in net.parameters()]
    SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-3}), FreeBits(0.0)).step(x, mask)
    assert all((a != b).any() for a, b in zip(before, net.parameters(), strict=True))


QUICK = TrainingConfig(steps=4, batch_size=8, evaluate_every=2, kl_increment=1.0, log_every=1)


def train(folder, elbo, net=None, **options):
    torch.set_default_dtype(torch.float32)
    options = {"config": QUICK, "progress": False, **options}
    net = small_stcn() if net is None else net
    return net, fit(net, small_data(20), small_data(6, prefix="v", seed=1), elbo=elbo, folder=folder, **options)


def rows(path):
    with open(path, newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("mean_over_steps", [False, True])
def test_fit_trains_with_it_and_the_log_has_the_elbo(tmp_path, mean_over_steps):
    """The loss holds the floor of both layers, the objective that is logged and validated does not."""
    floor = 1e3
    config = dataclasses.replace(QUICK, mean_over_steps=mean_over_steps)
    _, result = train(tmp_path, FreeBits(floor), config=config)
    assert result.stopped == "all steps made"
    for row in rows(tmp_path / "train.csv"):
        assert abs(row["objective"] - (row["log_likelihood"] - row["kl"])) < 1e-3
        assert 0 < row["kl"] < 100
        if mean_over_steps:
            assert row["loss"] == pytest.approx(2 * floor, abs=50), "per step"
        else:
            assert 2 * floor * 5 < row["loss"], "at least five steps a sequence"
    assert all(abs(row["objective"]) < 1e3 for row in rows(tmp_path / "valid.csv"))


def test_fit_with_a_floor_keeps_more_kl(tmp_path):
    config = dataclasses.replace(QUICK, steps=60, learning_rate=1e-2, evaluate_every=60)
    kept = {}
    for floor in (0.0, 2.0):
        train(tmp_path / str(floor), FreeBits(floor), config=config)
        kept[floor] = sum(row["kl"] for row in rows(tmp_path / str(floor) / "train.csv")[-10:]) / 10
    assert kept[2.0] > 1.2 * kept[0.0], kept


def test_fit_trains_a_model_without_latents_as_without_a_floor(tmp_path):
    results = []
    for elbo in (FreeBits(0.5), TraceMeanField_ELBO()):
        torch.set_default_dtype(torch.float32)
        pyro.set_rng_seed(3)
        net, _ = train(tmp_path / type(elbo).__name__, elbo, RNNConfig(4, 5, 1, 6).build())
        results.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    torch.testing.assert_close(*results)


def test_a_run_with_it_that_is_resumed_is_the_undisturbed_one_and_another_floor_is_refused(tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(whole, FreeBits(0.5))
    train(halves, FreeBits(0.5), config=dataclasses.replace(QUICK, steps=2))
    with pytest.raises(CheckpointError, match="another elbo; different: floor"):
        train(halves, FreeBits(0.6), resume=True)
    train(halves, FreeBits(0.5), resume=True)
    ours, theirs = (load_tensors(folder / "last.safetensors")[0] for folder in (halves, whole))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
