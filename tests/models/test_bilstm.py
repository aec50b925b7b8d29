"""Variational Bi-LSTM against its equations, one sequence and one step at a time: values, gradients, skipped gradients.

The reference has loops, gates and formulas of its own and shares nothing with the library but its parameters.
"""

import math

import pytest
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch.distributions import kl_divergence

from pyro_stcn.models import BiLSTMConfig

from ..small import FixedNoise

D, Z, WIDTH, LENGTHS = 3, 2, 5, (6, 4, 1)
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
pytestmark = pytest.mark.usefixtures("double")

WEIGHTS = {"alpha": {"alpha": 0.6}, "alpha and beta": {"alpha": 0.6, "beta": 0.25}, "beta": {"alpha": 0, "beta": 0.25}}
weights = pytest.mark.parametrize("weighted", WEIGHTS)


def bilstm(**options):
    net = BiLSTMConfig(D, Z, WIDTH, 7, **options).build()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.8)
    return net


def ragged():
    """Return x with NaN in the padding, mask, and the noise of both latents."""
    mask = torch.arange(LENGTHS[0]) < torch.tensor(LENGTHS)[:, None]
    x = torch.where(mask.unsqueeze(-1), torch.randn(3, LENGTHS[0], D), math.nan)
    return x, mask, {"z1": torch.randn(3, LENGTHS[0], Z), "z2": torch.randn(3, LENGTHS[0], WIDTH)}


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

    def hidden(self, name, *inputs):
        weight = torch.cat([self.w[f"{name}.first.{i}.weight"] for i in range(len(inputs))], 1)
        hidden = weight @ torch.cat(inputs) + self.w[f"{name}.first.0.bias"]
        return torch.where(hidden > 0, hidden, hidden / 100)

    def gaussian(self, name, *inputs):
        hidden = self.hidden(f"{name}.hidden", *inputs)
        log_variance = self.affine(f"{name}.log_variance", hidden).clamp(-8, 8)
        return self.affine(f"{name}.loc", hidden).clamp(-8, 8), log_variance.exp().sqrt()

    def run(self, x, noise, imagination, flows):
        """Compute everything; where ``flows`` is False the latent's networks send no gradient into h and b."""
        steps, zeros = len(x), x.new_zeros(WIDTH)
        known = torch.cat([x.new_zeros(1, D), x])  # row t is u_t = x_(t-1), and the last one x_T
        b, state = [None] * (steps + 1), (zeros, zeros)
        for t in reversed(range(steps + 1)):
            state = self.lstm("backward_net", "_l0", known[t], *state)
            b[t] = state[0]
        h = c = zeros
        rows = []
        for t in range(steps):
            h_there, b_there = (h, b[t]) if flows[t] else (h.detach(), b[t].detach())
            p, q = self.gaussian("prior_net", h_there), self.gaussian("posterior_net", h_there, b_there)
            z = q[0] + q[1] * noise[t]
            loc, scale = self.gaussian("imagined", z)
            auxiliary = self.config.alpha * log_normal(b[t].detach(), loc, scale)
            if self.config.beta:
                auxiliary += self.config.beta * log_normal(h.detach(), *self.gaussian("imagined_state", z))
            h, c = self.lstm("recurrence", "", torch.cat([known[t], z, loc + scale * imagination[t]]), h, c)
            top = self.hidden("output", h)
            x_scale = (1 + self.affine("observation.scale", top).exp()).log().clamp(1e-3, 50)
            log_lik = log_normal(x[t], self.affine("observation.loc", top), x_scale)
            kl = (q[1] / p[1]) ** 2 + ((q[0] - p[0]) / p[1]) ** 2 - 1 - 2 * (q[1] / p[1]).log()
            rows.append((*p, *q, z, b[t], h, c, log_lik, kl.sum() / 2, auxiliary))
        names = ("p_loc", "p_scale", "q_loc", "q_scale", "z", "b", "h", "c", "log_lik", "kl", "auxiliary")
        return dict(zip(names, map(torch.stack, zip(*rows, strict=True)), strict=True))


def log_normal(x, loc, scale):
    return (-0.5 * ((x - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum()


def by_the_equations(net, x, noise, flows=None):
    flows = torch.ones(x.shape[:2]) if flows is None else flows
    return [
        Reference(net).run(x[i, :n], noise["z1"][i, :n], noise["z2"][i, :n], flows[i]) for i, n in enumerate(LENGTHS)
    ]


def gradients(net, value):
    """Return the gradient of every parameter by name, zeros where there is none."""
    names, parameters = zip(*net.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(value, parameters, materialize_grads=True), strict=True))


def close(ours, theirs, rtol=1e-8):
    return all(torch.allclose(ours[name], theirs[name], rtol=rtol, atol=1e-8) for name in theirs)


def training_loss(net, x, mask, noise):
    with FixedNoise(noise):
        return TraceMeanField_ELBO().differentiable_loss(net.model, net.guide, x, mask, 0.3, 0.7)


def reference_loss(net, x, noise, flows=None):
    rows = by_the_equations(net, x, noise, flows)
    return sum((0.3 * r["kl"] - r["log_lik"] - 0.7 * r["auxiliary"]).sum() for r in rows)


@weights
def test_every_quantity_of_a_ragged_batch(weighted):
    net = bilstm(**WEIGHTS[weighted])
    x, mask, noise = ragged()
    with FixedNoise(noise):
        net.guide(x, mask, 1.0, 0.7)
    model_trace, guide_trace = net.guide.get_traces()
    p, q, observed = model_trace.nodes["z1"]["fn"], guide_trace.nodes["z1"]["fn"], model_trace.nodes["x"]
    z, trajectory = guide_trace.nodes["z1"]["value"], p.unroll.trajectory
    per_step = {"p_loc": p.steps(z).loc, "p_scale": p.steps(z).scale, "q_loc": q.steps(z).loc}
    per_step |= {"q_scale": q.steps(z).scale, "z": z, "b": p.unroll.recognition[0]}
    per_step |= {"h": trajectory.after.h, "c": trajectory.after.c}
    totals = {"log_lik": observed["fn"].log_prob(observed["value"]), "kl": kl_divergence(q, p)}
    totals["auxiliary"] = model_trace.nodes["auxiliary"]["fn"].log_factor / 0.7
    extra = [trace.nodes["z2"]["fn"].log_prob(noise["z2"]) for trace in (model_trace, guide_trace)]
    for i, theirs in enumerate(by_the_equations(net, x, noise)):
        n = LENGTHS[i]
        for name, value in per_step.items():
            torch.testing.assert_close(value[i, :n], theirs[name], **TIGHT, msg=lambda m, k=name: f"{k}: {m}")
        for name, value in totals.items():
            torch.testing.assert_close(value[i], theirs[name].sum(), **TIGHT, msg=lambda m, k=name: f"{k}: {m}")
        for value in extra:
            torch.testing.assert_close(value[i], log_normal(noise["z2"][i, :n], torch.tensor(0.0), torch.tensor(1.0)))


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_the_gradient_of_training(mode, chance):
    """Where the coin says so, prior and posterior send none into h and b; in evaluation it never says so."""
    net = bilstm(alpha=0.6, beta=0.25, skip_gradient=chance).train(mode == "training")
    x, mask, noise = ragged()
    ours = training_loss(net, x, mask, noise)
    coins = net.guide.get_traces()[0].nodes["z1"]["fn"].unroll.contexts[2].squeeze(-1) > 0
    skipped = chance if mode == "training" else 0
    assert (coins.any(), (~coins).any()) == (skipped < 1, skipped > 0)
    theirs, everywhere = (reference_loss(net, x, noise, flows) for flows in (coins, None))
    torch.testing.assert_close(ours, theirs, **TIGHT)
    ours, theirs, everywhere = (gradients(net, loss) for loss in (ours, theirs, everywhere))
    assert close(ours, theirs)
    assert close(ours, everywhere, 1e-6) == (skipped == 0)


def test_every_step_of_every_sequence_has_a_coin_of_its_own():
    net = bilstm(skip_gradient=0.3).train()
    net.guide(torch.zeros(50, 40, D))
    coins = net.guide.get_traces()[0].nodes["z1"]["fn"].unroll.contexts[2]
    assert coins.shape == (50, 40, 1)
    assert coins.mean().item() == pytest.approx(0.7, abs=0.06)  # six standard errors
    assert (coins.std(0) > 0).all()
    assert (coins.std(1) > 0).all()


def test_with_all_gradients_skipped_the_latents_networks_send_none_into_the_states():
    net = bilstm(skip_gradient=1.0).train()
    x, mask, noise = ragged()
    with FixedNoise(noise):
        net.guide(x, mask)
    model_trace, guide_trace = net.guide.get_traces()
    q, p = (trace.nodes["z1"]["fn"] for trace in (guide_trace, model_trace))
    given = [pair(q.unroll.trajectory.z) for pair in (q.steps, p.steps)]
    ours = gradients(net, sum(n.loc.sum() + n.scale.sum() for n in given))
    reached = {name.split(".")[0] for name, gradient in ours.items() if gradient.any()}
    assert reached == {"prior_net", "posterior_net"}


@weights
def test_the_term_itself_does_not_pull_at_the_states(weighted):
    """Given z: states that follow their prediction would make the term large by saying nothing."""
    net = bilstm(**WEIGHTS[weighted])
    x, mask, noise = ragged()
    trace = poutine.trace(poutine.condition(net.model, noise)).get_trace(x, mask, 1.0, 1.0)
    ours = gradients(net, trace.nodes["auxiliary"]["fn"].log_factor.sum())
    reached = {name.split(".")[0] for name, gradient in ours.items() if gradient.any()}
    expected = {"alpha": {"imagined"}, "beta": {"imagined_state"}, "alpha and beta": {"imagined", "imagined_state"}}
    assert reached == expected[weighted]
