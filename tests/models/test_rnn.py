"""RNN: its exact log-likelihood by hand, one sequence and one step at a time.

The reference has loops, gates and formulas of its own and shares nothing with the library but its parameters.
"""

import math

import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyro_stcn.bounds import IWAE
from pyro_stcn.models import RNNConfig
from pyro_stcn.observation import GaussianMixtureConfig, NormalConfig

D, WIDTH, COMPONENTS, LENGTHS = 3, 5, 4, (6, 4, 1)
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
HEADS = {"normal": NormalConfig(), "mixture": GaussianMixtureConfig(COMPONENTS)}
heads = pytest.mark.parametrize("head", HEADS)
pytestmark = pytest.mark.usefixtures("double")


def rnn(head="normal", layers=2):
    net = RNNConfig(D, WIDTH, layers, 7, HEADS[head]).build()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.8)
    return net


def ragged():
    """Return x with NaN in the padding, and mask."""
    mask = torch.arange(LENGTHS[0]) < torch.tensor(LENGTHS)[:, None]
    return torch.where(mask.unsqueeze(-1), torch.randn(3, LENGTHS[0], D), math.nan), mask


class Reference:
    """The log-likelihood of every step of one sequence ``(time, dim)``, from the parameters by name."""

    def __init__(self, net):
        self.w, self.config = dict(net.named_parameters()), net.config

    def affine(self, name, x):
        return self.w[f"{name}.weight"] @ x + self.w[f"{name}.bias"]

    def mlp(self, name, x):
        x = self.affine(f"{name}.first.0", x).clamp(min=0)
        for layer in range(1, self.config.layers):
            x = self.affine(f"{name}.rest.{2 * layer - 1}", x).clamp(min=0)
        return x

    def lstm(self, x, h, c):
        of_x = self.w["recurrence.weight_ih_l0"] @ x + self.w["recurrence.bias_ih_l0"]
        i, f, g, o = (of_x + self.w["recurrence.weight_hh_l0"] @ h + self.w["recurrence.bias_hh_l0"]).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def head(self, h, x):
        loc = self.affine("observation.loc", h).view(-1, D)
        scale = (1 + self.affine("observation.scale", h).exp()).log().clamp(1e-3, 50).view(-1, D)
        log_normal = -0.5 * ((x - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)
        if len(loc) == 1:
            return log_normal.sum()
        weights = self.affine("observation.logits", h).exp()
        return (weights / weights.sum() * log_normal.sum(1).exp()).sum().log()

    def run(self, x):
        h = c = x.new_zeros(WIDTH)
        rows = []
        for x_t in x:  # the first step has seen nothing, not even zeros
            rows.append(self.head(self.mlp("output", h), x_t))
            h, c = self.lstm(self.mlp("data_features", x_t), h, c)
        return torch.stack(rows)


@heads
@pytest.mark.parametrize("layers", [1, 3])
def test_the_log_likelihood_of_a_ragged_batch_and_its_gradient(head, layers):
    net = rnn(head, layers)
    x, mask = ragged()
    theirs = torch.stack([Reference(net).run(x[i, :n]).sum() for i, n in enumerate(LENGTHS)])
    site = poutine.trace(net.model).get_trace(x, mask).nodes["x"]
    torch.testing.assert_close(site["fn"].log_prob(site["value"]).sum(-1), theirs, **TIGHT)
    loss = Trace_ELBO().differentiable_loss(net.model, net.guide, x, mask, 0.3)
    torch.testing.assert_close(loss, -theirs.sum(), **TIGHT)
    assert IWAE(3).loss(net.model, net.guide, x, mask) == pytest.approx(-theirs.sum().item(), rel=1e-12)
    names, parameters = zip(*net.named_parameters(), strict=True)
    ours, theirs = (torch.autograd.grad(value, parameters) for value in (loss, -theirs.sum()))
    for name, one, other in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@heads
@pytest.mark.parametrize("masked", [False, True])
def test_a_sequence_of_one_step(head, masked):
    net, x = rnn(head), torch.randn(2, 1, D)
    theirs = sum(Reference(net).run(x_i).sum() for x_i in x)
    mask = torch.ones(2, 1, dtype=torch.bool) if masked else None
    loss = Trace_ELBO().differentiable_loss(net.model, net.guide, x, mask)
    torch.testing.assert_close(loss, -theirs, **TIGHT)
    loss.backward()
    assert {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None} == {"output", "observation"}


@heads
@torch.no_grad()
def test_one_step_at_a_time(head):
    net, x = rnn(head), torch.randn(2, 6, D)
    theirs = torch.stack([Reference(net).run(x_i) for x_i in x])
    state, previous = net.initial_state(2), torch.zeros(2, D)
    for t in range(6):
        state, emission = net.step(state, previous)
        torch.testing.assert_close(emission.log_prob(x[:, t]), theirs[:, t], **TIGHT)
        previous = x[:, t]
