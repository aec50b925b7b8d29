"""Pyro's silent traps: what goes wrong in a program by hand, and that this library's own models cannot go there.

Each is shown with numbers known in closed form: plates that promise an independence that is not there, a scale on one
side of the pair, and a latent that all sequences share.
"""

import dataclasses
import inspect
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_stcn.bounds import FIVO, IWAE, DReG, FreeBits
from pyro_stcn.ladder import LadderConfig, base_normal
from pyro_stcn.models import (
    BiLSTMConfig,
    SRNNConfig,
    STCNConfig,
    SWaveNetConfig,
    VRNNConfig,
    ZForcingConfig,
)
from pyro_stcn.observation import CausalOutputConfig, GaussianMixtureConfig, NormalConfig, PointwiseOutputConfig
from pyro_stcn.tcn import DilatedTCNConfig

from ..linear_gaussian import DIM, linear_gaussian_stcn, log_evidence

pytestmark = pytest.mark.usefixtures("double")
PER_STEP = ("sequences", "time")
D, T = 3, 5
STCN = STCNConfig(
    D, DilatedTCNConfig(((1,), (2,)), 6), LadderConfig((2, 2), 6, 1), True, CausalOutputConfig(2, 6), NormalConfig()
)
POINTWISE = STCNConfig(**(vars(STCN) | {"output": PointwiseOutputConfig(1, 6)}))
#: models whose x_t or z_t looks back over z
LOOKING_BACK = {
    "stcn": STCN,
    "stcn, output sees past": STCNConfig(**(vars(STCN) | {"output_sees_past": True})),
    "vrnn": VRNNConfig(D, 2, 5, 2, 6, 4),
    "srnn": SRNNConfig(D, 2, 5, 6),
    "zforcing": ZForcingConfig(D, 2, 5, 4, 6),
    "bilstm": BiLSTMConfig(D, 2, 5, 6),
    "swavenet": SWaveNetConfig(D, 1, 2, 2, 6, 6),
}


def averages(elbo, model, guide, *args, runs):
    """Mean of minus the loss over runs, and its standard error."""
    values = torch.tensor([-elbo.loss(model, guide, *args) for _ in range(runs)])
    return values.mean().item(), values.std().item() / math.sqrt(runs)


# ----------------------------------------------------------------------------------------------------- false time plate


class LookingBack:
    """x_t ~ N(z_t + a z_(t-1), noise), z_t ~ N(0, 1), and a guide whose steps are the posterior's, but wider.

    :param plate: declare time to be a plate, which it is not: x_t looks at two steps of z.
    """

    A, NOISE, WIDER = 0.9, 0.6, 1.3

    def __init__(self, plate, steps):
        self.plate = plate
        self.mixing = torch.eye(steps) + self.A * torch.diag(torch.ones(steps - 1), -1)
        #: in closed form: x is Gaussian with a tridiagonal covariance
        self.evidence = MultivariateNormal(
            torch.zeros(steps), self.mixing @ self.mixing.T + self.NOISE**2 * torch.eye(steps)
        )
        gain = self.mixing.T @ self.evidence.precision_matrix
        self.gain, self.width = gain, self.WIDER * (torch.eye(steps) - gain @ self.mixing).diagonal().sqrt()

    def _plates(self, x, inner):
        dim = -2 if self.plate else -1
        with pyro.plate("sequences", x.shape[0], dim=dim):
            if not self.plate:
                return inner(lambda d: d.to_event(1))
            with pyro.plate("time", x.shape[1], dim=-1):
                return inner(lambda d: d)

    def model(self, x):
        def inner(site):
            z = pyro.sample("z", site(dist.Normal(torch.zeros(x.shape), 1.0)))
            before = torch.cat([torch.zeros_like(z[..., :1]), z[..., :-1]], -1)
            pyro.sample("x", site(dist.Normal(z + self.A * before, self.NOISE)), obs=x)

        self._plates(x, inner)

    def guide(self, x):
        self._plates(x, lambda site: pyro.sample("z", site(dist.Normal(x @ self.gain.T, self.width))))


def test_a_plate_that_is_none_gives_bounds_above_the_evidence():
    """In a pair by hand, in this library's IWAE as in Pyro's RenyiELBO: nobody can know that the plate is false."""
    false, honest = LookingBack(True, 6), LookingBack(False, 6)
    x = honest.evidence.sample((50,))  # what holds on average holds for this many
    exact = honest.evidence.log_prob(x).sum().item()
    particles = {"num_particles": 1000, "vectorize_particles": True, "max_plate_nesting": 2}
    for elbo in (IWAE(1000, keep=PER_STEP, max_plate_nesting=2), RenyiELBO(0, **particles)):
        mean, error = averages(elbo, false.model, false.guide, x, runs=20)
        assert mean > exact + 5 > exact + 10 * error, f"{type(elbo).__name__}: {mean} ± {error}, exact {exact}"
    # A weight per sequence is right whatever the plates say, and more of them come nearer from below.
    means = []
    for k in (5, 50, 1000):
        for pair, nesting in ((false, 2), (honest, 1)):
            mean, error = averages(IWAE(k, max_plate_nesting=nesting), pair.model, pair.guide, x, runs=20)
            assert mean < exact + 4 * error, f"IWAE-{k}: {mean} ± {error} is above {exact}"
        means.append(mean)
    assert means == sorted(means)
    for elbo in (IWAE(3, keep=PER_STEP), DReG(3, keep=PER_STEP)):
        with pytest.raises(ValueError, match="'time'.*not give a bound"):
            elbo.loss(honest.model, honest.guide, x)


@pytest.mark.parametrize("bound", [IWAE, DReG])
@pytest.mark.parametrize("name", LOOKING_BACK)
def test_a_model_that_looks_back_over_z_has_no_weight_per_step(name, bound):
    net, x = LOOKING_BACK[name].build(), torch.randn(2, T, D)
    with pytest.raises(ValueError, match="is not in 'time'.*not give a bound"):
        bound(3, keep=PER_STEP).loss_and_grads(net.model, net.guide, x)
    assert math.isfinite(bound(3).loss(net.model, net.guide, x))


@pytest.mark.parametrize("name", LOOKING_BACK)
def test_pyros_renyi_elbo_finds_no_plate_to_take_a_weight_per_step_from(name):
    """It takes one weight a cell of the plates that it finds: here per sequence, as IWAE."""
    net, x = LOOKING_BACK[name].build(), torch.randn(2, T, D)
    losses = []
    for elbo in (IWAE(4, vectorize_particles=False), RenyiELBO(0, num_particles=4)):
        pyro.set_rng_seed(1)
        losses.append(elbo.loss(net.model, net.guide, x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


class KnowsNothing(nn.Module):
    """A likelihood with which the guide is nearly the prior."""

    def forward(self, d, above):
        zero = torch.zeros(*d.shape[:-1], 1)
        return dist.Normal(zero, zero + 5)


def test_a_ladder_whose_output_looks_back_is_bounded_by_weights_per_sequence_where_those_per_step_exceed_it():
    """Weights per step, taken from the densities by force, at data that swing where the model expects them to stay."""
    net, k, runs = linear_gaussian_stcn((1,), dense=True, lag=True), 2000, 20
    net.ladder[0].likelihood_net = KnowsNothing()
    with torch.no_grad():
        net.output.lag.fill_(0.9)
        net.observation.weight.fill_(1.0)
        net.observation.scale.fill_(0.8)
        net.ladder[0].prior_net.scale.fill_(1.0)
        net.ladder[0].prior_net.from_past.zero_()
    swing = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]).unsqueeze(-1)
    x = 1.2 * swing + 0.3 * torch.randn(20, 6, DIM)
    exact = log_evidence(net, x).sum().item()
    forced, honest = [], []
    for _ in range(runs):
        with torch.no_grad(), pyro.plate("particles", k, dim=-2):
            net.guide(x)
        model_trace, guide_trace = net.guide.get_traces()
        drawn, fn = model_trace.nodes["z1"]["value"], model_trace.nodes["x"]["fn"]
        p, q = (base_normal(trace.nodes["z1"]["fn"]) for trace in (model_trace, guide_trace))
        by_step = fn.base_dist.log_prob(x).sum(-1) + (p.log_prob(drawn) - q.log_prob(drawn)).sum(-1)
        forced.append((by_step.logsumexp(0) - math.log(k)).sum().item())
        honest.append((by_step.sum(-1).logsumexp(0) - math.log(k)).sum().item())
    (forced, error), (honest, other) = (
        (torch.tensor(v).mean().item(), torch.tensor(v).std().item() / math.sqrt(runs)) for v in (forced, honest)
    )
    assert forced > exact + 5 > exact + 10 * error, f"{forced} ± {error}, exact {exact}"
    assert honest < exact + 4 * other, f"{honest} ± {other}, exact {exact}"
    mean, error = averages(IWAE(k, max_plate_nesting=1), net.model, net.guide, x, runs=runs)
    assert abs(mean - honest) < 4 * math.hypot(error, other)


# ------------------------------------------------------------------------------------------------------ one-sided scale


BETA = 0.3


class ByHand:
    """z ~ N(0, 1), x ~ N(z, 1), guide N(x / 3, 0.6): annealed on both sides, or on one, which is wrong."""

    def __init__(self, scaled):
        self.scaled = scaled

    def _scale(self, side):
        return poutine.scale(scale=BETA if side in self.scaled else 1.0)

    def model(self, x):
        with pyro.plate("sequences", len(x)):
            with self._scale("model"):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("sequences", len(x)), self._scale("guide"):
            pyro.sample("z", dist.Normal(x / 3, 0.6))

    @staticmethod
    def annealed(x):
        """E[-log p(x | z)] + beta KL, in closed form."""
        q, p = dist.Normal(x / 3, 0.6), dist.Normal(torch.zeros(len(x)), 1.0)
        likelihood = dist.Normal(q.loc, 1.0).log_prob(x) - 0.5 * q.scale**2
        return (BETA * kl_divergence(q, p) - likelihood).sum().item()


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO])
def test_a_scale_on_one_side_is_silently_another_objective_of_pyros(elbo):
    """In a pair by hand: nothing is raised, and the KL is wrong in a way that depends on the ELBO."""
    x = 1.5 * torch.ones(400)
    off = {}
    for scaled in (("model", "guide"), ("model",), ("guide",)):
        pair = ByHand(scaled)
        mean, error = averages(elbo(), pair.model, pair.guide, x, runs=100)
        off[scaled] = (-mean - ByHand.annealed(x)) / len(x), error / len(x)
    difference, error = off["model", "guide"]
    assert abs(difference) < 4 * error + 1e-9
    wrong = {side for (side, *other), (d, e) in off.items() if not other and abs(d) > 0.05 + 4 * e}
    assert wrong == ({"model"} if elbo is TraceMeanField_ELBO else {"model", "guide"})


@pytest.mark.parametrize("elbo", [IWAE, DReG])
@pytest.mark.parametrize("side", ["model", "guide"])
def test_here_a_scale_on_one_side_is_refused(elbo, side):
    """Of a pair by hand, too: with 50 particles it would be 0.9 nats above log p(x)."""
    pair, x = ByHand((side,)), 1.5 * torch.ones(400)
    with pytest.raises(ValueError, match="latent 'z' is scaled by .* in the model and by .* in the guide"):
        elbo(50).loss(pair.model, pair.guide, x)
    both = ByHand(("model", "guide"))
    assert math.isfinite(elbo(50).loss(both.model, both.guide, x))


def test_weights_that_give_no_bound_are_refused_with_the_reason():
    config = dataclasses.replace(POINTWISE, dense=True, independent_draws=True)
    floored = dataclasses.replace(POINTWISE, observation=GaussianMixtureConfig(2, floor=1e-6))
    for net, elbos, why in (
        (config.build(), (IWAE(5), IWAE(5, keep=("sequences", "time")), DReG(5)), "drawn once for the guide and again"),
        (floored.build(), (IWAE(5), DReG(5), FIVO(5)), "has a floor, so it is no density"),
    ):
        for elbo in elbos:
            with pytest.raises(ValueError, match=why):
                elbo.loss(net.model, net.guide, torch.randn(2, T, D))
            with pytest.raises(ValueError, match=why):
                elbo.loss_and_grads(net.model, net.guide, torch.randn(2, T, D))


ALL = LOOKING_BACK | {"stcn pointwise": POINTWISE}


@pytest.mark.parametrize("name", ALL)
def test_here_one_factor_scales_a_latent_on_both_sides(name):
    """The guide runs the model, so a latent of the pair has one scale; the data keep that of the call."""
    net, x = ALL[name].build(), torch.randn(2, T, D)
    with poutine.scale(scale=5.0):
        net.guide(x, None, BETA)
    for trace in net.guide.get_traces():
        assert {trace.nodes[site]["scale"] for site in net.latent_names} == {5.0 * BETA}
    traces = net.guide.get_traces()
    for trace in traces:
        trace.compute_log_prob()
    assert traces[0].nodes["x"]["scale"] == 5.0
    for site in net.latent_names:
        p, q = (trace.nodes[site] for trace in traces)
        for side in (p, q):
            torch.testing.assert_close(side["log_prob"], 5.0 * BETA * side["fn"].log_prob(side["value"]))


@pytest.mark.parametrize("name", ALL)
def test_here_every_elbo_anneals_alike(name):
    """On the same draw: minus log p(x | z) plus the factor times what Pyro's two kinds of ELBO take for the KL."""
    net, x = ALL[name].build(), torch.randn(2, T, D)

    def loss(elbo):
        pyro.set_rng_seed(2)
        return elbo.loss(net.model, net.guide, x, None, BETA)

    pyro.set_rng_seed(2)
    net.guide(x)
    p, q = net.guide.get_traces()
    likelihood = p.nodes["x"]["fn"].log_prob(x).sum()
    of_p, of_q = (sum(t.nodes[s]["fn"].log_prob(p.nodes[s]["value"]).sum() for s in net.latent_names) for t in (p, q))
    analytic = sum(kl_divergence(q.nodes[s]["fn"], p.nodes[s]["fn"]).sum() for s in net.latent_names)
    for elbo in (Trace_ELBO(), TraceGraph_ELBO(), IWAE(1), DReG(1)):
        assert loss(elbo) == pytest.approx((BETA * (of_q - of_p) - likelihood).item(), rel=1e-9), type(elbo)
    for elbo in (TraceMeanField_ELBO(), FreeBits(0.0)):
        assert loss(elbo) == pytest.approx((BETA * analytic - likelihood).item(), rel=1e-9), type(elbo)


@pytest.mark.parametrize("name", ALL)
def test_a_scale_around_the_model_alone_reaches_nothing_and_around_the_guide_both(name):
    """An ELBO runs the guide, and that the model it was built on: a handler on one side cannot split the pair.

    The README says so: the handler goes around the call.
    """
    net, x = ALL[name].build(), torch.randn(2, T, D)

    def loss(model, guide, around=1.0):
        pyro.set_rng_seed(2)
        with poutine.scale(scale=around):
            return Trace_ELBO().loss(model, guide, x)

    whole = loss(net.model, net.guide)
    assert loss(poutine.scale(net.model, scale=BETA), net.guide) == pytest.approx(whole, rel=1e-10)
    assert loss(net.model, net.guide, BETA) == pytest.approx(BETA * whole, rel=1e-10)
    assert loss(net.model, poutine.scale(net.guide, scale=BETA)) == pytest.approx(BETA * whole, rel=1e-10)


# ------------------------------------------------------------------------------ a latent outside the plate of sequences


class Global:
    """A mean that all sequences share: m ~ N(0, 1), z_i ~ N(m, 1), x_i ~ N(z_i, 1); the guide is wrong."""

    def model(self, x):
        m = pyro.sample("m", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("sequences", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        pyro.sample("m", dist.Normal(x.mean() / 2, 0.7))
        with pyro.plate("sequences", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 0.9))

    def log_evidence(self, x):
        n = len(x)
        return MultivariateNormal(torch.zeros(n), 2 * torch.eye(n) + torch.ones(n, n)).log_prob(x).item()


def test_with_a_latent_outside_the_plate_pyros_renyi_elbo_is_one_weight_for_the_batch_without_a_word():
    pair, x, k = Global(), torch.randn(6), 8
    losses = {}
    for name, elbo in (
        ("renyi", RenyiELBO(0, num_particles=k, vectorize_particles=True, max_plate_nesting=1)),
        ("one weight", IWAE(k, keep=(), max_plate_nesting=1)),
    ):
        pyro.set_rng_seed(3)
        losses[name] = elbo.loss(pair.model, pair.guide, x)
    assert losses["renyi"] == pytest.approx(losses["one weight"], rel=1e-10)
    mean, error = averages(IWAE(k, keep=(), max_plate_nesting=1), pair.model, pair.guide, x, runs=400)
    assert mean < pair.log_evidence(x) + 4 * error
    assert error < 0.1


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("bound", [IWAE, DReG])
def test_a_latent_outside_the_plate_is_refused_by_name(bound, vectorised):
    pair, x = Global(), torch.randn(6)
    elbo = bound(4, vectorize_particles=vectorised)
    with pytest.raises(ValueError, match="every sample site inside these plates, but 'm' is not in 'sequences'"):
        elbo.loss(pair.model, pair.guide, x)
    assert math.isfinite(bound(4, keep=(), vectorize_particles=vectorised).loss(pair.model, pair.guide, x))


@pytest.mark.parametrize("bound", [FIVO, FreeBits])
def test_objectives_for_this_librarys_models_take_no_such_pair(bound):
    pair = Global()
    with pytest.raises(TypeError, match="this library's models"):
        bound(4).loss(pair.model, pair.guide, torch.randn(6))


@pytest.mark.parametrize("name", ALL)
def test_here_every_site_is_inside_the_plate_of_sequences(name):
    net, x = ALL[name].build(), torch.randn(2, T, D)
    for program in (net.model, net.guide):
        trace = poutine.trace(program).get_trace(x)
        sites = {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and n not in PER_STEP}
        assert set(net.latent_names) <= set(sites)
        assert all("sequences" in {frame.name for frame in site["cond_indep_stack"]} for site in sites.values())
        assert any("time" in {f.name for f in site["cond_indep_stack"]} for site in sites.values()) == net.pointwise


# ----------------------------------------------------------------------------------------------------------- scale zero


def test_a_scale_of_zero_is_refused_by_pyro_and_schedules_begin_above_it():
    """Annealing from 0 therefore begins with the first increment."""
    net, x = POINTWISE.build(), torch.randn(2, T, D)
    for nothing in (0, 0.0, torch.tensor(0.0)):
        with pytest.raises(ValueError, match="Expected scale > 0"):
            Trace_ELBO().loss(net.model, net.guide, x, None, nothing)
    assert "annealing_factor" in inspect.signature(net.model).parameters
    assert math.isfinite(Trace_ELBO().loss(net.model, net.guide, x, None, 1e-4))
