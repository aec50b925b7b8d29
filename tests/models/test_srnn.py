"""SRNN against its equations, one sequence and one step at a time: values and gradients, in all its configurations.

The reference has loops, gates and formulas of its own and shares nothing with the library but its parameters.
"""

import math

import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch.distributions import kl_divergence

from pyro_stcn.models import SRNNConfig

from ..small import FixedNoise

D, Z, WIDTH, LENGTHS = 3, 2, 5, (6, 4, 1)
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
pytestmark = pytest.mark.usefixtures("double")

CONFIGS = {
    "smoothing": {},
    "filtering": {"smoothing": False},
    "plain": {"residual": False},
    "plain filtering": {"smoothing": False, "residual": False},
}
configs = pytest.mark.parametrize("config", CONFIGS)


def srnn(**options):
    net = SRNNConfig(D, Z, WIDTH, 7, **options).build()
    for parameter in net.parameters():  # large enough for the activation's clip to cut
        torch.nn.init.normal_(parameter, std=1.0)
    return net


def ragged():
    """Return x with NaN in the padding, mask, and the noise of z1."""
    mask = torch.arange(LENGTHS[0]) < torch.tensor(LENGTHS)[:, None]
    x = torch.where(mask.unsqueeze(-1), torch.randn(3, LENGTHS[0], D), math.nan)
    return x, mask, torch.randn(3, LENGTHS[0], Z)


class Reference:
    """One sequence ``(time, dim)``, from the parameters by name."""

    def __init__(self, net):
        self.w, self.config, self.largest = dict(net.named_parameters()), net.config, 0.0

    def affine(self, name, x):
        return self.w[f"{name}.weight"] @ x + self.w[f"{name}.bias"]

    def activate(self, a):
        self.largest = max(self.largest, a.abs().max().item())
        return torch.where(a > 0, a, a / 3).clamp(-3, 3)

    def mlp(self, name, layers, *inputs):
        weight = torch.cat([self.w[f"{name}.first.{i}.weight"] for i in range(len(inputs))], 1)
        hidden = self.activate(weight @ torch.cat(inputs) + self.w[f"{name}.first.0.bias"])
        return self.activate(self.affine(f"{name}.rest.1", hidden)) if layers == 2 else hidden

    def gru(self, name, x, h):
        of_x = (self.w[f"{name}.weight_ih_l0"] @ x + self.w[f"{name}.bias_ih_l0"]).chunk(3)
        of_h = (self.w[f"{name}.weight_hh_l0"] @ h + self.w[f"{name}.bias_hh_l0"]).chunk(3)
        r, u = ((a + b).sigmoid() for a, b in zip(of_x[:2], of_h[:2], strict=True))
        return (1 - u) * (of_x[2] + r * of_h[2]).tanh() + u * h

    def gaussian(self, name, *inputs):
        loc, log_variance = (
            self.affine(f"{name}.{part}.1", self.mlp(f"{name}.{part}.0", 1, *inputs))
            for part in ("loc", "log_variance")
        )
        return loc, (log_variance.exp() + 1e-6).sqrt()

    def run(self, x, noise):
        steps = len(x)
        seen = [self.mlp("data_features", 2, x_t) for x_t in torch.cat([x.new_zeros(1, D), x])]  # row t is psi(x_t)
        d, a, h = [], [None] * steps, x.new_zeros(WIDTH)
        for t in range(steps):
            h = self.gru("deterministic", seen[t], h)
            d.append(h)
        h = x.new_zeros(WIDTH)
        for t in reversed(range(steps)):
            both = torch.cat([d[t], seen[t + 1]])
            h = self.gru("backward_net", both, h) if self.config.smoothing else self.mlp("backward_net", 1, both)
            a[t] = h
        z, rows = x.new_zeros(Z), []
        for t in range(steps):
            p, q = self.gaussian("prior_net", d[t], z), self.gaussian("posterior_net", a[t], z)
            if self.config.residual:
                q = (p[0] + q[0], q[1])
            z = q[0] + q[1] * noise[t]
            top = self.mlp("output", 2, d[t], z)
            x_scale = (1 + self.affine("observation.scale", top).exp()).log().clamp(1e-3, 50)
            log_lik = log_normal(x[t], self.affine("observation.loc", top), x_scale)
            kl = (q[1] / p[1]) ** 2 + ((q[0] - p[0]) / p[1]) ** 2 - 1 - 2 * (q[1] / p[1]).log()
            rows.append((*p, *q, z, d[t], a[t], log_lik, kl.sum() / 2))
        names = ("p_loc", "p_scale", "q_loc", "q_scale", "z", "d", "a", "log_lik", "kl")
        return dict(zip(names, map(torch.stack, zip(*rows, strict=True)), strict=True))


def log_normal(x, loc, scale):
    return (-0.5 * ((x - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum()


def by_the_equations(net, x, noise):
    return [Reference(net).run(x[i, :n], noise[i, :n]) for i, n in enumerate(LENGTHS)]


def compare(net):
    x, mask, noise = ragged()
    with FixedNoise({"z1": noise}):
        net.guide(x, mask)
    model_trace, guide_trace = net.guide.get_traces()
    p, q, observed = model_trace.nodes["z1"]["fn"], guide_trace.nodes["z1"]["fn"], model_trace.nodes["x"]
    z = guide_trace.nodes["z1"]["value"]
    per_step = {"p_loc": p.steps(z).loc, "p_scale": p.steps(z).scale, "q_loc": q.steps(z).loc}
    per_step |= {"q_scale": q.steps(z).scale, "z": z, "d": p.unroll.contexts[0], "a": p.unroll.recognition[0]}
    totals = {"log_lik": observed["fn"].log_prob(observed["value"]), "kl": kl_divergence(q, p)}
    rows = by_the_equations(net, x, noise)
    for i, theirs in enumerate(rows):
        for name, value in per_step.items():
            torch.testing.assert_close(value[i, : LENGTHS[i]], theirs[name], **TIGHT, msg=lambda m, n=name: f"{n}: {m}")
        for name, value in totals.items():
            torch.testing.assert_close(value[i], theirs[name].sum(), **TIGHT, msg=lambda m, n=name: f"{n}: {m}")
    return rows


@configs
@torch.no_grad()
def test_every_quantity_of_a_ragged_batch(config):
    compare(srnn(**CONFIGS[config]))


@torch.no_grad()
def test_the_smallest_variances():
    """Far below 1e-6 without what is added to them."""
    net = srnn()
    for network in (net.prior_net, net.posterior_net):
        network.log_variance[1].weight.mul_(0.1)
        network.log_variance[1].bias.fill_(-17)
    rows = compare(net)
    scales = torch.cat([row[name].flatten() for row in rows for name in ("p_scale", "q_scale")])
    assert 1e-3 < scales.min() < 1.05e-3


@torch.no_grad()
def test_the_clip_is_reached():
    """Else the comparisons above would not see it."""
    net, (x, _, noise) = srnn(), ragged()
    reference = Reference(net)
    reference.run(x[0], noise[0])
    assert reference.largest > 6


@configs
def test_the_gradient_of_training(config):
    net = srnn(**CONFIGS[config])
    x, mask, noise = ragged()
    with FixedNoise({"z1": noise}):
        loss = TraceMeanField_ELBO().differentiable_loss(net.model, net.guide, x, mask, 0.3)
    theirs = sum((0.3 * row["kl"] - row["log_lik"]).sum() for row in by_the_equations(net, x, noise))
    torch.testing.assert_close(loss, theirs, **TIGHT)
    names, parameters = zip(*net.named_parameters(), strict=True)
    ours, theirs = (torch.autograd.grad(value, parameters) for value in (loss, theirs))
    for name, one, other in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")
