"""Networks of the recurrent systems: perceptrons over several inputs, Gaussians, recurrences over ragged data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .initialise import glorot_uniform_

__all__ = [
    "MLP",
    "ClampedGaussian",
    "ClippedLeakyReLU",
    "Gaussian",
    "LSTMCell",
    "ResidualGaussian",
    "SoftplusGaussian",
    "lengths",
    "orthogonal_recurrence_",
    "prior_where_masked",
    "run_backwards",
]


class Gaussian(NamedTuple):
    """Mean and standard deviation of a diagonal Gaussian, each ``(..., dim)``; a Pyro Normal without its checks.

    Inside a loop over time these are all that is needed, and building a distribution costs more than computing them.
    """

    loc: Tensor
    scale: Tensor


def prior_where_masked(posterior: Any, prior: Any, mask: Tensor) -> Gaussian:
    """Return the posterior, and the prior at masked steps.

    A masked site is not charged for, so there it must be a draw from the prior: anything else would carry information
    to the steps that look back over z, for free.

    :param posterior: a :class:`Gaussian` or a Normal, ``(..., time, dim)``.
    :param prior: the same of the prior.
    :param mask: True at real steps, ``(..., time)``.
    """
    real = mask.unsqueeze(-1)
    return Gaussian(*(torch.where(real, getattr(posterior, name), getattr(prior, name)) for name in Gaussian._fields))


class ClippedLeakyReLU(nn.Module):
    """Leaky ReLU of slope 1/3, clipped to [-3, 3]: the activation of SRNN and Z-forcing."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it elementwise."""
        return F.leaky_relu(x, 1 / 3).clamp(-3.0, 3.0)


class MLP(nn.Module):
    """Hidden layers over the concatenation of several inputs.

    The first layer is kept as one matrix per input and the products are added, so that inputs of different leading
    shapes broadcast: what reads the data alone is computed once and not once per draw of the latents.

    :param in_dims: channels of each input.
    :param width: units of every layer.
    :param layers: number of layers, each followed by the activation; with 0 the inputs are concatenated.
    :param activation: makes the activation.
    """

    def __init__(
        self, in_dims: tuple[int, ...], width: int, layers: int, activation: Callable[[], nn.Module] = nn.ReLU
    ):
        super().__init__()
        self.out_dim = width if layers else sum(in_dims)
        self.first = nn.ModuleList(nn.Linear(dim, width, bias=i == 0) for i, dim in enumerate(in_dims) if layers)
        self.rest = nn.Sequential()
        for layer in self.first:
            glorot_uniform_(layer, fan_in=sum(in_dims))
        for i in range(layers):
            if i:
                self.rest.append(_linear(width, width))
            self.rest.append(activation())

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map inputs ``(..., in_dims[i])`` to ``(..., out_dim)``."""
        if not self.first:
            lead = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
            return torch.cat([x.expand(*lead, x.shape[-1]) for x in inputs], -1)
        hidden = [layer(x) for layer, x in zip(self.first, inputs, strict=True)]
        return self.rest(sum(hidden[1:], hidden[0]))


def _linear(in_dim: int, out_dim: int) -> nn.Linear:
    layer = nn.Linear(in_dim, out_dim)
    glorot_uniform_(layer)
    return layer


# ------------------------------------------------------------------------------------------------------------ Gaussians


class SoftplusGaussian(nn.Module):
    """Mean and softplus scale from one hidden stack (Chung et al. 2015).

    The scale starts near 1 (its bias is 0.6, as in their code) and is at least ``FLOOR``: theirs adds 1e-4.
    """

    FLOOR = 1e-4

    def __init__(
        self,
        in_dims: tuple[int, ...],
        out_dim: int,
        width: int,
        layers: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ):
        super().__init__()
        self.hidden = MLP(in_dims, width, layers, activation)
        self.loc = _linear(self.hidden.out_dim, out_dim)
        self.scale = _linear(self.hidden.out_dim, out_dim)
        nn.init.constant_(self.scale.bias, 0.6)

    def forward(self, *inputs: Tensor) -> Gaussian:
        """Return the Gaussian given the inputs ``(..., in_dims[i])``."""
        h = self.hidden(*inputs)
        return Gaussian(self.loc(h), F.softplus(self.scale(h)).clamp(min=self.FLOOR))


class ClampedGaussian(nn.Module):
    """Mean and log-variance from one hidden stack, both clamped to [-8, 8] (Goyal et al. 2017)."""

    LIMIT = 8.0

    def __init__(
        self,
        in_dims: tuple[int, ...],
        out_dim: int,
        width: int,
        layers: int,
        activation: Callable[[], nn.Module] = ClippedLeakyReLU,
    ):
        super().__init__()
        self.hidden = MLP(in_dims, width, layers, activation)
        self.loc = _linear(self.hidden.out_dim, out_dim)
        self.log_variance = _linear(self.hidden.out_dim, out_dim)

    def forward(self, *inputs: Tensor) -> Gaussian:
        """Return the Gaussian given the inputs ``(..., in_dims[i])``."""
        h = self.hidden(*inputs)
        log_variance = self.log_variance(h).clamp(-self.LIMIT, self.LIMIT)
        return Gaussian(self.loc(h).clamp(-self.LIMIT, self.LIMIT), (log_variance / 2).exp())


class ResidualGaussian(nn.Module):
    """Mean and log-variance from separate hidden stacks, the mean on top of one that is given (Fraccaro et al. 2016).

    The last layers start near zero, so the Gaussian starts as N(base, 1). The variance is at least 1e-6.
    """

    def __init__(
        self,
        in_dims: tuple[int, ...],
        out_dim: int,
        width: int,
        layers: int,
        activation: Callable[[], nn.Module] = ClippedLeakyReLU,
    ):
        super().__init__()
        self.loc = nn.ModuleList([MLP(in_dims, width, layers, activation), nn.Linear(width, out_dim)])
        self.log_variance = nn.ModuleList([MLP(in_dims, width, layers, activation), nn.Linear(width, out_dim)])
        for last in (self.loc[1], self.log_variance[1]):
            nn.init.uniform_(last.weight, -1e-3, 1e-3)
            nn.init.zeros_(last.bias)

    def forward(self, *inputs: Tensor, base: Tensor | None = None) -> Gaussian:
        """Return the Gaussian given the inputs ``(..., in_dims[i])``; ``base`` is added to its mean."""
        loc, log_variance = (net[1](net[0](*inputs)) for net in (self.loc, self.log_variance))
        # A variance beyond e^20 has long overflowed what standardised data can mean; without a limit exp is infinite.
        return Gaussian(loc if base is None else base + loc, (log_variance.clamp(max=20.0).exp() + 1e-6).sqrt())


# ---------------------------------------------------------------------------------------------------------- recurrences


class LSTMCell(nn.LSTMCell):
    """One step of an LSTM over the concatenation of its inputs, with any leading dimensions."""

    def forward(self, inputs: tuple[Tensor, ...], state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (h, c) after inputs ``(..., dim)`` in state (h, c), each ``(..., hidden_size)``."""
        lead = state[0].shape[:-1]
        x = _join(inputs, lead)
        h, c = super().forward(x.flatten(0, -2), (state[0].flatten(0, -2), state[1].flatten(0, -2)))
        return h.unflatten(0, lead), c.unflatten(0, lead)

    def initial(self, lead: torch.Size) -> tuple[Tensor, Tensor]:
        """Return zeros for h and c, ``(*lead, hidden_size)``."""
        zeros = self.bias_hh.new_zeros(*lead, self.hidden_size)
        return zeros, zeros


def _join(inputs: tuple[Tensor, ...], lead: torch.Size) -> Tensor:
    return torch.cat([x.expand(*lead, x.shape[-1]) for x in inputs], -1)


def lengths(mask: Tensor) -> Tensor:
    """Number of steps up to the last real one of each row of ``mask`` ``(batch, time)``: int64 ``(batch,)``."""
    return (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)


def run_backwards(rnn: nn.LSTM | nn.GRU, x: Tensor, mask: Tensor | None) -> Tensor:
    """Outputs of a recurrence that reads each sequence from its own last real step down: row t has read x_t ... x_T.

    :param rnn: ``batch_first``, one direction.
    :param x: ``(batch, time, dim)``.
    :param mask: True at real steps; what is returned beyond the last has no meaning.
    :returns: ``(batch, time, hidden_size)``.
    """
    steps = x.shape[1]
    forward = torch.arange(steps, device=x.device)
    if mask is None:
        return rnn(x.flip(1))[0].flip(1)
    # Within its length a sequence is turned round, and what pads it stays behind: no state has read padding.
    last = lengths(mask).unsqueeze(1) - 1
    order = torch.where(forward <= last, last - forward, forward).unsqueeze(-1)
    output, _ = rnn(x.gather(1, order.expand(-1, -1, x.shape[-1])))
    return output.gather(1, order.expand(-1, -1, output.shape[-1]))


def orthogonal_recurrence_(rnn: nn.Module) -> None:
    """Make every recurrent matrix of gates a stack of orthogonal ones (Chung et al., Fraccaro et al.), biases zero."""
    for name, parameter in rnn.named_parameters():
        if "weight_hh" in name:
            for block in parameter.data.split(parameter.shape[1]):
                nn.init.orthogonal_(block)
        elif "bias" in name:
            nn.init.zeros_(parameter)
        else:
            bound = math.sqrt(6 / (parameter.shape[1] + rnn.hidden_size))
            nn.init.uniform_(parameter, -bound, bound)
