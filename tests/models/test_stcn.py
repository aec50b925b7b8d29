"""STCN as a Pyro program: it runs everywhere, shares its computation, and sees nothing that it should not."""

import contextlib
import copy
import gc
import itertools

import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.importance import vectorized_importance_weights
from torch import nn

from pyro_stcn.bounds import IWAE
from pyro_stcn.ladder import LadderConfig, base_normal
from pyro_stcn.models import MODELS, STCN, Evidence, STCNConfig
from pyro_stcn.observation import (
    BernoulliConfig,
    CausalOutputConfig,
    GaussianMixtureConfig,
    NormalConfig,
    PenStrokeConfig,
    PointwiseOutputConfig,
)
from pyro_stcn.tcn import DilatedTCNConfig

from ..small import FixedNoise

POINTWISE, CAUSAL = PointwiseOutputConfig(2, 8), CausalOutputConfig(2, 8)
HEADS = [NormalConfig(), GaussianMixtureConfig(3), BernoulliConfig(), PenStrokeConfig(GaussianMixtureConfig(3))]


def stcn(output=CAUSAL, head=HEADS[1], **options):
    backbone, ladder = DilatedTCNConfig(((1, 2),) * 3, 8), LadderConfig((4, 3, 2), 7)
    return STCNConfig(
        4, **{"backbone": backbone, "ladder": ladder, "output": output, "observation": head, **options}
    ).build()


def ragged(binary=False, steps=9):
    x = torch.randn(3, steps, 4)
    if binary:
        x = (x > 0).to(x.dtype)
    return x, torch.arange(steps) < torch.tensor([steps, 6, 4])[:, None]


ELBOS = {
    "trace": Trace_ELBO(),
    "trace looped": Trace_ELBO(num_particles=3),
    "trace vectorised": Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=2),
    "meanfield": TraceMeanField_ELBO(),
    "meanfield vectorised": TraceMeanField_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=2),
    "graph": TraceGraph_ELBO(),
    "renyi looped": RenyiELBO(alpha=0, num_particles=3),
    "renyi vectorised": RenyiELBO(alpha=0, num_particles=3, vectorize_particles=True, max_plate_nesting=2),
    "iwae": IWAE(3, max_plate_nesting=2),
    "iwae looped": IWAE(3, vectorize_particles=False),
}


@pytest.mark.parametrize("elbo", list(ELBOS.values()), ids=list(ELBOS))
@pytest.mark.parametrize(("output", "dense"), list(itertools.product([POINTWISE, CAUSAL], [True, False])))
def test_every_elbo_trains_every_parameter(elbo, output, dense):
    net = stcn(output, dense=dense)
    x, mask = ragged()
    before = {name: p.clone() for name, p in net.named_parameters()}
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-2}), elbo)
    for _ in range(2):
        assert torch.isfinite(torch.tensor(svi.step(x, mask, 0.5)))
    unmoved = [name for name, p in net.named_parameters() if torch.equal(p, before[name])]
    assert not unmoved, f"got no gradient: {unmoved}"


@pytest.mark.parametrize("head", HEADS, ids=lambda h: type(h).__name__)
@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_every_observation_model(head, output):
    net = stcn(output, head)
    x, mask = ragged(binary=isinstance(head, BernoulliConfig | PenStrokeConfig))
    loss = TraceMeanField_ELBO()(net, net.guide)(x, mask)
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert net.evidence is Evidence.LOWER_BOUND


@pytest.mark.parametrize("elbo", [e for name, e in ELBOS.items() if "looped" not in name])
@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_backbone_and_prior_networks_run_once_per_step(elbo, output):
    net = stcn(output)
    calls = {}

    def count(name):
        return lambda *_: calls.update({name: calls.get(name, 0) + 1})

    net.backbone.register_forward_hook(count("backbone"))
    for layer in net.ladder:
        layer.prior_net.register_forward_hook(count(f"prior {layer.name}"))
        layer.likelihood_net.register_forward_hook(count(f"likelihood {layer.name}"))
    elbo.loss_and_grads(net.model, net.guide, *ragged())
    assert calls == {"backbone": 1} | {f"{kind} z{i}": 1 for kind in ("prior", "likelihood") for i in (1, 2, 3)}


def test_plates_tell_the_truth():
    for output, frames, shape in (
        (POINTWISE, {"sequences": -2, "time": -1}, (3, 9)),
        (CAUSAL, {"sequences": -1}, (3,)),
    ):
        net = stcn(output)
        trace = poutine.trace(net.model).get_trace(*ragged())
        for name in (*net.latent_names, "x"):
            site = trace.nodes[name]
            assert {f.name: f.dim for f in site["cond_indep_stack"]} == frames
            assert site["fn"].batch_shape == shape


@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
@pytest.mark.parametrize("parallel", [False, True])
def test_predictive(output, parallel):
    net = stcn(output)
    x, mask = ragged()
    draws = Predictive(net.model, guide=net.guide, num_samples=5, parallel=parallel, return_sites=("z1", "z3"))(x, mask)
    assert {name: tuple(value.shape) for name, value in draws.items()} == {"z1": (5, 3, 9, 4), "z3": (5, 3, 9, 2)}
    new = Predictive(poutine.uncondition(net.model), guide=net.guide, num_samples=5, return_sites=("x",))(x, mask)["x"]
    assert new.shape == (5, 3, 9, 4)
    assert (new.std(0) > 0).all(), "the data came back as their own prediction"


@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_pyros_importance_sampling(output):
    """The trace of the guide holds no data: with them, the likelihood would cancel."""
    net = stcn(output)
    x, mask = ragged()
    assert set(net.latent_names) == {
        n
        for n, s in poutine.trace(net.guide).get_trace(x, mask).nodes.items()
        if "fn" in s and s["type"] == "sample" and n[0] == "z"
    }
    assert "x" not in poutine.trace(net.guide).get_trace(x, mask).nodes
    pyro.set_rng_seed(0)
    log_weights, _, _ = vectorized_importance_weights(
        net.model, net.guide, x, mask, num_samples=4000, max_plate_nesting=2
    )
    ours = IWAE(4000, keep=(), max_plate_nesting=2).log_weights(net.model, net.guide, x, mask)
    difference = log_weights.mean() - ours.mean()
    assert abs(difference) < 5 * ours.std() * (2 / 4000) ** 0.5


def test_condition_and_substitution_of_a_latent():
    net = stcn(POINTWISE)
    x, mask = ragged()
    z = torch.randn(3, 9, 4)
    trace = poutine.trace(poutine.condition(net.model, {"z1": z})).get_trace(x, mask)
    assert trace.nodes["z1"]["value"] is z
    assert trace.nodes["z1"]["is_observed"]


def test_handlers_around_the_call_reach_model_and_guide():
    net = stcn(POINTWISE)
    x, mask = ragged()

    def loss(*handlers):
        pyro.set_rng_seed(0)
        with contextlib.ExitStack() as stack:
            for handler in handlers:
                stack.enter_context(handler)
            return Trace_ELBO().loss(net.model, net.guide, x, mask)

    assert loss(poutine.scale(scale=0.1)) == pytest.approx(0.1 * loss(), rel=1e-5)
    # A latent that is given is no longer drawn: it is scored under its prior.
    z = torch.zeros(3, 9, 2)
    trace = poutine.trace(poutine.condition(net.model, {"z3": z})).get_trace(x, mask)
    with poutine.condition(data={"z3": z}):
        net.guide(x, mask)
    model_trace, guide_trace = net.guide.get_traces()
    assert "z3" not in guide_trace.nodes
    given = model_trace.nodes["z3"]
    torch.testing.assert_close(given["fn"].log_prob(z), trace.nodes["z3"]["fn"].log_prob(z))


def test_two_instances_never_share_parameters():
    first, second = stcn(), stcn()
    frozen = [p.clone() for p in first.parameters()]
    SVI(second.model, second.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(*ragged())
    assert all(torch.equal(a, b) for a, b in zip(frozen, first.parameters(), strict=True))
    third = copy.deepcopy(second)
    assert third.guide.net is third
    frozen = [p.clone() for p in second.parameters()]
    SVI(third.model, third.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(*ragged())
    assert all(torch.equal(a, b) for a, b in zip(frozen, second.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(frozen, third.parameters(), strict=True))


def test_a_deleted_model_leaves_the_parameter_store():
    net = stcn()
    net.model(*ragged())
    assert len(pyro.get_param_store()) > 0
    del net
    gc.collect()
    assert len(pyro.get_param_store()) == 0


def test_one_scale_anneals_model_and_guide():
    """E[-log p(x | z)] + beta KL, for sampled and for analytic KL."""
    net = stcn(POINTWISE)
    x, mask = ragged()

    def loss(elbo, beta):
        pyro.set_rng_seed(0)
        return elbo.loss(net.model, net.guide, x, mask, beta)

    for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
        at_half, at_one, near_zero = (loss(elbo, beta) for beta in (0.5, 1.0, 1e-9))
        assert at_half == pytest.approx((at_one + near_zero) / 2, rel=1e-5)
        assert at_one > near_zero
        tensor = loss(elbo, torch.tensor(0.5))
        assert tensor == pytest.approx(at_half, rel=1e-6)


# ------------------------------------------------------------------------------------------------------------ causality


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_prior_sees_the_past_and_posterior_the_present_and_neither_the_future(output):
    net = stcn(output)
    steps = 16
    noise = {name: torch.randn(1, steps, n) for name, n in zip(net.latent_names, (4, 3, 2), strict=True)}

    def parameters(x):
        with FixedNoise(noise):
            net.guide(x)
        p, q = net.guide.get_traces()
        return tuple(
            torch.cat([base_normal(t.nodes[name]["fn"]).loc for name in net.latent_names], -1)[0].sum(-1)
            for t in (p, q)
        )

    x = torch.randn(1, steps, 4)
    prior, posterior = (j[:, 0].abs().sum(-1) for j in torch.autograd.functional.jacobian(parameters, x))
    reach = net.backbone.receptive_field
    assert reach == 10
    for t, s in itertools.product(range(steps), range(steps)):
        # Draws of layers above carry what their posterior saw, the present too; their own noise is fixed.
        sees_prior = prior_of_top(net, x, noise)[t, s]
        assert (sees_prior != 0) == (t - reach <= s < t), f"prior at {t} and x at {s}: {sees_prior}"
        assert (posterior[t, s] != 0) == (t - reach <= s <= t), f"posterior at {t} and x at {s}"
        if s > t:
            assert prior[t, s] == 0


def prior_of_top(net, x, noise, cache={}):  # noqa: B006 (one Jacobian serves all pairs)
    if id(net) not in cache:

        def top(x):
            return base_normal(poutine.trace(net.model).get_trace(x).nodes["z3"]["fn"]).loc[0].sum(-1)

        cache.clear()
        cache[id(net)] = torch.autograd.functional.jacobian(top, x)[:, 0].abs().sum(-1)
    return cache[id(net)]


# -------------------------------------------------------------------------------------------------------------- padding


def loss_and_gradients(net, x, mask, noise):
    net.zero_grad()
    with FixedNoise(noise):
        loss = TraceMeanField_ELBO()(net, net.guide)(x, mask)
    loss.backward()
    model_trace, _ = net.guide.get_traces()
    return loss.item(), [p.grad.clone() for p in net.parameters()], model_trace.nodes["x"]["log_prob"].detach()


@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
@settings(max_examples=20, deadline=None)
@given(
    padding=st.integers(0, 12),
    content=st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30, 0.0, -3.0]),
    order=st.permutations(range(3)),
    seed=st.integers(0, 99),
)
def test_padding_of_any_length_and_content_changes_nothing(output, padding, content, order, seed):
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(seed)
        net = stcn(output)
        x, mask = ragged()
        noise = {name: torch.randn(3, 9, n) for name, n in zip(net.latent_names, (4, 3, 2), strict=True)}
        loss, gradients, _ = loss_and_gradients(net, x, mask, noise)

        order = list(order)
        wide = torch.full((3, 9 + padding, 4), content)
        wide[:, :9] = torch.where(mask.unsqueeze(-1), x, content)
        wide_mask = nn.functional.pad(mask, (0, padding))
        wide_noise = {name: nn.functional.pad(e, (0, 0, 0, padding)) for name, e in noise.items()}
        permuted = {name: e[order] for name, e in wide_noise.items()}
        again, other, _ = loss_and_gradients(net, wide[order], wide_mask[order], permuted)
        assert again == pytest.approx(loss, rel=1e-12)
        for a, b in zip(gradients, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("output", [POINTWISE, CAUSAL])
def test_a_sequence_does_not_depend_on_its_batch_mates(output):
    net = stcn(output)
    x, mask = ragged()
    noise = {name: torch.randn(3, 9, n) for name, n in zip(net.latent_names, (4, 3, 2), strict=True)}
    *_, together = loss_and_gradients(net, x, mask, noise)
    for i, length in enumerate((9, 6, 4)):
        alone_noise = {name: e[i : i + 1, :length] for name, e in noise.items()}
        *_, alone = loss_and_gradients(net, x[i : i + 1, :length], None, alone_noise)
        torch.testing.assert_close(alone.sum(), together[i].sum(), rtol=1e-12, atol=1e-12)


# ----------------------------------------------------------------------------------------------- your own parts, errors


class GRUBackbone(nn.Module):
    """A backbone of the user's own: one GRU per layer of the ladder."""

    feature_dims = (6, 5)

    def __init__(self, data_dim):
        super().__init__()
        self.lower, self.upper = nn.GRU(data_dim, 6, batch_first=True), nn.GRU(6, 5, batch_first=True)

    def forward(self, x):
        d1, _ = self.lower(x)
        d2, _ = self.upper(d1)
        return d1, d2

    def initial_state(self, batch_size):
        zeros = self.lower.weight_hh_l0.new_zeros
        return zeros(1, batch_size, 6), zeros(1, batch_size, 5)

    def step(self, state, x):
        d1, lower = self.lower(x.unsqueeze(1), state[0])
        d2, upper = self.upper(d1, state[1])
        return (lower, upper), (d1.squeeze(1), d2.squeeze(1))


class GRUConfig:
    def build(self, data_dim):
        return GRUBackbone(data_dim)


def test_any_backbone_goes_under_the_ladder():
    net = stcn(POINTWISE, backbone=GRUConfig(), ladder=LadderConfig((3, 2), 7))
    x, mask = ragged()
    TraceMeanField_ELBO()(net, net.guide)(x, mask).backward()
    assert all(p.grad is not None for p in net.parameters())
    _, distribution = net.step(net.initial_state(3), x[:, 0])
    assert distribution.batch_shape == (3,)
    assert distribution.event_shape == (4,)
    with pytest.raises(ValueError, match="3 layers needs as many features, but the backbone gives 2"):
        stcn(POINTWISE, backbone=GRUConfig())


def test_the_top_prior_can_be_fixed_and_the_likelihood_not_recursive():
    ladder = LadderConfig((4, 3, 2), 7, fixed_top_prior=True, recursive_likelihood=False, merge="likelihood")
    net = stcn(POINTWISE, ladder=ladder)
    trace = poutine.trace(net.model).get_trace(*ragged())
    top = base_normal(trace.nodes["z3"]["fn"])
    assert (top.loc == 0).all()
    assert (top.scale == 1).all()
    TraceMeanField_ELBO()(net, net.guide)(*ragged()).backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(("output", "dense"), list(itertools.product([POINTWISE, CAUSAL], [True, False])))
def test_independent_draws_are_labelled(output, dense):
    net = stcn(output, dense=dense, independent_draws=True)
    assert net.evidence is (Evidence.ESTIMATE if dense else Evidence.LOWER_BOUND)
    trace = poutine.trace(net.model).get_trace(*ragged())
    copies = {name for name in trace.nodes if name.endswith(("_below", "_guide"))}
    assert copies == ({"z2_below", "z3_below"} if dense else set()) | {"z2_guide", "z3_guide"}
    trace.compute_log_prob()
    assert all((trace.nodes[name]["log_prob"] == 0).all() for name in copies), "a further draw was charged for"
    for elbo in ELBOS.values():
        if dense and isinstance(elbo, IWAE):
            with pytest.raises(ValueError, match="give no bound"):
                elbo.loss_and_grads(net.model, net.guide, *ragged())
        else:
            elbo.loss_and_grads(net.model, net.guide, *ragged())


def test_floors_are_not_a_density_and_say_so():
    assert stcn(head=GaussianMixtureConfig(3, floor=1e-6)).evidence is Evidence.ESTIMATE


def test_bad_input_is_refused_with_its_place():
    net = stcn()
    x, mask = ragged()
    x[1, 3, 2] = float("nan")
    with pytest.raises(ValueError, match="nan at sequence 1, step 3, channel 2"):
        net.model(x, mask)
    with pytest.raises(ValueError, match=r"x must be \(batch, time, 4\)"):
        net.model(x[..., :3], mask)
    with pytest.raises(ValueError, match="mask must be a bool tensor of shape"):
        net.guide(x, mask.float())
    net.model(x, mask & ~torch.isnan(x).any(-1))


def test_registry():
    assert MODELS["stcn"] is STCNConfig
    assert isinstance(
        MODELS["stcn"](data_dim=2, backbone=DilatedTCNConfig(((1,),), 4), ladder=LadderConfig((2,), 4)).build(), STCN
    )
