"""Z-forcing against its equations, one sequence and one step at a time: values, and the gradient of all that it trains.

The reference has loops, gates and formulas of its own and shares nothing with the library but its parameters.
"""

import math

import pytest
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch.distributions import kl_divergence

from pyro_stcn.models import ZForcingConfig

from ..small import FixedNoise

D, Z, WIDTH, LENGTHS = 3, 2, 5, (6, 4, 1)
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
pytestmark = pytest.mark.usefixtures("double")

CONFIGS = {
    "given h": {},
    "given z alone": {"auxiliary_sees_state": False},
    "x from b": {"backward_weight": 0.4},
}


def zforcing(**options):
    net = ZForcingConfig(D, Z, WIDTH, 4, 7, **options).build()
    for parameter in net.parameters():  # large enough for the clips and clamps to cut
        torch.nn.init.normal_(parameter, std=2.0)
    return net


def ragged():
    """Return x with NaN in the padding, mask, and the noise of z1."""
    mask = torch.arange(LENGTHS[0]) < torch.tensor(LENGTHS)[:, None]
    x = torch.where(mask.unsqueeze(-1), torch.randn(3, LENGTHS[0], D), math.nan)
    return x, mask, torch.randn(3, LENGTHS[0], Z)


class Reference:
    """One sequence ``(time, dim)``, from the parameters by name."""

    def __init__(self, net):
        self.w, self.config = dict(net.named_parameters()), net.config

    def affine(self, name, x):
        return self.w[f"{name}.weight"] @ x + self.w[f"{name}.bias"]

    def lstm(self, name, suffix, x, h, c):
        parts = [self.w[f"{name}.{part}{suffix}"] for part in ("weight_ih", "bias_ih", "weight_hh", "bias_hh")]
        i, f, g, o = (parts[0] @ x + parts[1] + parts[2] @ h + parts[3]).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def gaussian(self, name, *inputs):
        weight = torch.cat([self.w[f"{name}.hidden.first.{i}.weight"] for i in range(len(inputs))], 1)
        hidden = weight @ torch.cat(inputs) + self.w[f"{name}.hidden.first.0.bias"]
        hidden = torch.where(hidden > 0, hidden, hidden / 3).clamp(-3, 3)
        log_variance = self.affine(f"{name}.log_variance", hidden).clamp(-8, 8)
        return self.affine(f"{name}.loc", hidden).clamp(-8, 8), log_variance.exp().sqrt()

    def head(self, name, h, x):
        scale = (1 + self.affine(f"{name}.scale", h).exp()).log().clamp(1e-3, 50)
        return log_normal(x, self.affine(f"{name}.loc", h), scale)

    def run(self, x, noise):
        steps, zeros = len(x), x.new_zeros(WIDTH)
        seen = [self.affine("data_features", x_t) for x_t in torch.cat([x.new_zeros(1, D), x])]  # row t is E x_t
        b, state = [None] * steps, (zeros, zeros)
        for t in reversed(range(steps)):
            state = self.lstm("backward_net", "_l0", seen[t + 1], *state)
            b[t] = state[0]
        h = c = zeros
        rows = []
        for t in range(steps):
            p, q = self.gaussian("prior_net", h), self.gaussian("posterior_net", h, b[t])
            z = q[0] + q[1] * noise[t]
            loc, scale = self.gaussian("auxiliary_net", *([h, z] if self.config.auxiliary_sees_state else [z]))
            auxiliary = log_normal(b[t].detach(), loc.tanh(), scale)
            if self.config.backward_weight:
                before = x[t - 1] if t else x.new_zeros(D)
                auxiliary = auxiliary + self.config.backward_weight * self.head("backward_observation", b[t], before)
            h, c = self.lstm("recurrence", "", torch.cat([self.affine("latent_features", z), seen[t]]), h, c)
            kl = (q[1] / p[1]) ** 2 + ((q[0] - p[0]) / p[1]) ** 2 - 1 - 2 * (q[1] / p[1]).log()
            rows.append((*p, *q, z, b[t], h, c, self.head("observation", h, x[t]), kl.sum() / 2, auxiliary))
        names = ("p_loc", "p_scale", "q_loc", "q_scale", "z", "b", "h", "c", "log_lik", "kl", "auxiliary")
        return dict(zip(names, map(torch.stack, zip(*rows, strict=True)), strict=True))


def log_normal(x, loc, scale):
    return (-0.5 * ((x - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum()


def by_the_equations(net, x, noise):
    return [Reference(net).run(x[i, :n], noise[i, :n]) for i, n in enumerate(LENGTHS)]


def gradients(net, value):
    """Return the gradient of every parameter by name, zeros where there is none."""
    names, parameters = zip(*net.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(value, parameters, materialize_grads=True), strict=True))


def assert_same_gradients(ours, theirs):
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-8, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("config", CONFIGS)
def test_every_quantity_of_a_ragged_batch(config):
    net = zforcing(**CONFIGS[config])
    x, mask, noise = ragged()
    with FixedNoise({"z1": noise}):
        net.guide(x, mask, 1.0, 0.7)
    model_trace, guide_trace = net.guide.get_traces()
    p, q, observed = model_trace.nodes["z1"]["fn"], guide_trace.nodes["z1"]["fn"], model_trace.nodes["x"]
    z, trajectory = guide_trace.nodes["z1"]["value"], p.unroll.trajectory
    per_step = {"p_loc": p.steps(z).loc, "p_scale": p.steps(z).scale, "q_loc": q.steps(z).loc}
    per_step |= {"q_scale": q.steps(z).scale, "z": z, "b": p.unroll.recognition[0]}
    per_step |= {"h": trajectory.after.h, "c": trajectory.after.c}
    totals = {"log_lik": observed["fn"].log_prob(observed["value"]), "kl": kl_divergence(q, p)}
    totals["auxiliary"] = model_trace.nodes["auxiliary"]["fn"].log_factor / 0.7
    for i, theirs in enumerate(by_the_equations(net, x, noise)):
        for name, value in per_step.items():
            torch.testing.assert_close(value[i, : LENGTHS[i]], theirs[name], **TIGHT, msg=lambda m, n=name: f"{n}: {m}")
        for name, value in totals.items():
            torch.testing.assert_close(value[i], theirs[name].sum(), **TIGHT, msg=lambda m, n=name: f"{n}: {m}")
        torch.testing.assert_close(p.log_prob(z)[i], log_normal(theirs["z"], theirs["p_loc"], theirs["p_scale"]))
        torch.testing.assert_close(q.log_prob(z)[i], log_normal(theirs["z"], theirs["q_loc"], theirs["q_scale"]))


@pytest.mark.parametrize("config", CONFIGS)
def test_the_gradient_of_training(config):
    """Through draws, states and recognition, and with b a constant in the first term."""
    net = zforcing(**CONFIGS[config])
    x, mask, noise = ragged()
    with FixedNoise({"z1": noise}):
        loss = TraceMeanField_ELBO().differentiable_loss(net.model, net.guide, x, mask, 0.3, 0.7)
    rows = by_the_equations(net, x, noise)
    theirs = sum((0.3 * r["kl"] - r["log_lik"] - 0.7 * r["auxiliary"]).sum() for r in rows)
    torch.testing.assert_close(loss, theirs, **TIGHT)
    assert_same_gradients(gradients(net, loss), gradients(net, theirs))


@pytest.mark.parametrize("config", CONFIGS)
def test_the_term_itself_pulls_at_b_only_where_b_has_to_tell_x(config):
    """Given z: a b that follows its prediction would make the term large by saying nothing."""
    net = zforcing(**CONFIGS[config])
    x, mask, noise = ragged()
    trace = poutine.trace(poutine.condition(net.model, {"z1": noise})).get_trace(x, mask, 1.0, 1.0)
    ours = gradients(net, trace.nodes["auxiliary"]["fn"].log_factor.sum())
    assert all(gradient.any() for name, gradient in ours.items() if name.startswith("auxiliary_net"))
    pulled = {name for name, gradient in ours.items() if name.startswith("backward_net") and gradient.any()}
    everything = {name for name in ours if name.startswith("backward_net")}
    assert pulled == (everything if net.config.backward_weight else set())
    assert not any(gradient.any() for name, gradient in ours.items() if name.startswith(("prior", "posterior")))


@torch.no_grad()
def test_the_clips_and_clamps_are_reached():
    """Else the comparisons above would not see them."""
    net = zforcing()
    x, _, noise = ragged()
    rows = by_the_equations(net, x, noise)
    assert max(row["q_loc"].abs().max() for row in rows) == 8
    assert max(row["q_scale"].max() for row in rows) == pytest.approx(math.exp(4))
