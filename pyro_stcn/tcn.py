"""The dilated causal TCN that feeds the ladder (section 3 of the paper; WaveNet, van den Oord et al. 2016).

A *backbone* is any module with these verbs and facts; nothing else in the library asks for more:

* ``backbone(x)`` takes a whole sequence ``(..., time, data_dim)`` and returns the features ``(d1, ..., dL)``, each
  ``(..., time, feature_dims[l])``, where row t has seen the rows up to and including t;
* ``backbone.initial_state(batch_size)`` and ``backbone.step(state, x_t)`` compute the same rows one at a time. State
  is an explicit value that is never changed in place, so an old state can be kept, copied or resumed from;
* ``feature_dims``, one entry per layer of the ladder;
* where long recordings are to be scored window by window, ``backbone.extend(state, x)``: many steps at once, from a
  state to a state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .initialise import glorot_uniform_

__all__ = ["CausalConv1d", "DilatedTCN", "DilatedTCNConfig", "TCNState", "WaveNetBlock"]


class CausalConv1d(nn.Conv1d):
    """A dilated convolution whose output at t depends on the inputs up to t.

    The past before the sequence is zeros, at every layer: ``(kernel_size - 1) * dilation`` zero columns are put in
    front of the *hidden* activations. Tensors are ``(batch, channels, time)``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1):
        super().__init__(in_channels, out_channels, kernel_size, dilation=dilation)
        self.history = (kernel_size - 1) * dilation

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, time)`` to ``(batch, out_channels, time)``."""
        return super().forward(F.pad(x, (self.history, 0)) if self.history else x)

    def extend(self, buffer: Tensor, position: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Many columns, ``(batch, in_channels, time)``, after those in the buffer; see :meth:`step`."""
        if not self.history:
            return buffer, super().forward(x)
        slots = torch.arange(position, position + self.history, device=x.device) % self.history  # oldest first
        seen = torch.cat([buffer[:, slots].transpose(1, 2), x], dim=-1)
        last = seen[..., -self.history :].transpose(1, 2)
        return buffer.index_copy(1, (slots + x.shape[-1]) % self.history, last), super().forward(seen)

    def initial_buffer(self, batch_size: int) -> Tensor:
        """Zeros, ``(batch, history, in_channels)``: the inputs that the next outputs still need."""
        return self.weight.new_zeros(batch_size, self.history, self.in_channels)

    def step(self, buffer: Tensor, position: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """One column: ``(batch, in_channels)`` to ``(batch, out_channels)``, and the buffer with x written into it.

        :param buffer: ring buffer of the last ``history`` inputs; the input of time s lies in slot ``s % history``.
        :param position: the time of ``x``, from 0.
        """
        if not self.history:
            return buffer, F.linear(x, self.weight[..., 0], self.bias)
        dilation = self.dilation[0]
        lags = range(self.history, 0, -dilation)
        window = torch.stack([buffer[:, (position - lag) % self.history] for lag in lags] + [x], dim=-1)
        # One column is a matrix product. As a convolution it would be laid out anew, weights and all, at every step.
        out = F.linear(window.flatten(1), self.weight.flatten(1), self.bias)
        return buffer.select_scatter(x, 1, position % self.history), out


class WaveNetBlock(nn.Module):
    """A gated residual block: ``y = W (tanh(f * x) . sigmoid(g * x))``, output ``y + residual(x)``.

    One 1x1 convolution serves the skip and the residual branch. The residual is the identity where the widths agree
    and a 1x1 convolution elsewhere. Tensors are ``(batch, channels, time)``.
    """

    def __init__(self, in_channels: int, filters: int, kernel_size: int, dilation: int):
        super().__init__()
        # Filter and gate read the same input, so they are one convolution: filter first, then gate.
        self.filter_gate = CausalConv1d(in_channels, 2 * filters, kernel_size, dilation)
        self.out = nn.Conv1d(filters, filters, 1)
        self.residual = nn.Conv1d(in_channels, filters, 1) if in_channels != filters else nn.Identity()
        glorot_uniform_(self.filter_gate, fan_out=kernel_size * filters)
        for conv in (self.out, self.residual):
            if isinstance(conv, nn.Conv1d):
                glorot_uniform_(conv)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (output, skip), each ``(batch, filters, time)``."""
        skip = self.out(_gate(self.filter_gate(x)))
        return skip + self.residual(x), skip

    def extend(self, buffer: Tensor, position: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (buffer, output, skip) of many columns, ``(batch, in_channels, time)``."""
        buffer, hidden = self.filter_gate.extend(buffer, position, x)
        skip = self.out(_gate(hidden))
        return buffer, skip + self.residual(x), skip

    def step(self, buffer: Tensor, position: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (buffer, output, skip) of one column ``(batch, in_channels)``."""
        buffer, hidden = self.filter_gate.step(buffer, position, x)
        skip = F.linear(_gate(hidden), self.out.weight[..., 0], self.out.bias)
        residual = x
        if isinstance(self.residual, nn.Conv1d):
            residual = F.linear(x, self.residual.weight[..., 0], self.residual.bias)
        return buffer, skip + residual, skip


def _gate(hidden: Tensor) -> Tensor:
    signal, gate = hidden.chunk(2, dim=1)
    return torch.tanh(signal) * torch.sigmoid(gate)


class TCNState(NamedTuple):
    """What a TCN remembers of the past: one ring buffer ``(batch, history, channels)`` per block, and the time."""

    buffers: tuple[Tensor, ...]
    position: int


@dataclass(frozen=True)
class DilatedTCNConfig:
    """A stack of WaveNet blocks, in groups: the output of group l is the feature d^l.

    :param dilations: dilations of the blocks of every group, lowest group first. The paper's speech models use
        ``((1, 2, 4, 8, 16),) * 5``, its handwriting models ``((1, 2, 4, 8, 16, 32),) * 5``.
    :param filters: width of every convolution.
    :param kernel_size: taps of the dilated convolutions.
    """

    dilations: tuple[tuple[int, ...], ...] = ((1, 2, 4, 8, 16),) * 5
    filters: int = 256
    kernel_size: int = 2

    def __post_init__(self) -> None:
        if not self.dilations or not all(self.dilations) or min(map(min, self.dilations)) < 1:
            raise ValueError(f"dilations must be non-empty groups of positive integers, not {self.dilations}")
        if self.filters < 1 or self.kernel_size < 1:
            raise ValueError(f"filters and kernel_size must be positive, not {self.filters} and {self.kernel_size}")

    def build(self, data_dim: int) -> DilatedTCN:
        """Return the network for sequences of ``data_dim`` channels."""
        return DilatedTCN(data_dim, self)


class DilatedTCN(nn.Module):
    """Causal gated convolutions over a whole sequence, tapped once per group. There is no initial causal convolution.

    ``autocast_dtype`` (default None) runs the blocks in that type while the module is in training mode; features come
    out in the type of the input, so that latents and log-probabilities keep full precision, and evaluation is
    untouched. Without it an autocast around the call has its way.
    """

    def __init__(self, data_dim: int, config: DilatedTCNConfig):
        super().__init__()
        self.data_dim = data_dim
        self.feature_dims = (config.filters,) * len(config.dilations)
        widths = [data_dim]
        blocks: list[WaveNetBlock] = []
        self._taps = []
        for group in config.dilations:
            for dilation in group:
                blocks.append(WaveNetBlock(widths[-1], config.filters, config.kernel_size, dilation))
                widths.append(config.filters)
            self._taps.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)
        self.autocast_dtype: torch.dtype | None = None

    @property
    def receptive_field(self) -> int:
        """Number of inputs the last feature depends on: 156 for the paper's speech models, 316 for handwriting."""
        return 1 + sum(block.filter_gate.history for block in self.blocks)  # type: ignore[misc]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Features of a whole sequence: ``(..., time, data_dim)`` to L tensors ``(..., time, filters)``."""
        h = x.reshape(-1, *x.shape[-2:]).transpose(1, 2)
        features = [h for i, (h, _) in enumerate(self.each(h)) if i in self._taps]
        return tuple(d.transpose(1, 2).to(x.dtype).reshape(*x.shape[:-1], -1) for d in features)

    def each(self, h: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Run the blocks over whole sequences, ``(batch, channels, time)``; yields (output, skip) of each."""
        mixed = self.training and self.autocast_dtype is not None
        for block in self.blocks:
            with torch.autocast(h.device.type, self.autocast_dtype) if mixed else nullcontext():
                h, skip = block(h)
            yield h, skip

    def each_from(
        self, verb: Callable[..., tuple[Tensor, Tensor, Tensor]], state: TCNState, h: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Run the blocks from a state; yields (buffer, output, skip) of one after another.

        :param verb: ``WaveNetBlock.step`` or ``WaveNetBlock.extend``.
        """
        for block, buffer in zip(self.blocks, state.buffers, strict=True):
            buffer, h, skip = verb(block, buffer, state.position, h)
            yield buffer, h, skip

    def initial_state(self, batch_size: int) -> TCNState:
        """Return the state before the first step."""
        return TCNState(tuple(b.filter_gate.initial_buffer(batch_size) for b in self.blocks), 0)

    def step(self, state: TCNState, x: Tensor) -> tuple[TCNState, tuple[Tensor, ...]]:
        """Features of the next time-step: ``(batch, data_dim)`` to L tensors ``(batch, filters)``."""
        buffers, features = [], []
        for i, (buffer, h, _) in enumerate(self.each_from(WaveNetBlock.step, state, x)):
            buffers.append(buffer)
            if i in self._taps:
                features.append(h)
        return TCNState(tuple(buffers), state.position + 1), tuple(features)

    def extend(self, state: TCNState, x: Tensor) -> tuple[TCNState, tuple[Tensor, ...]]:
        """Features of the next time-steps: ``(batch, time, data_dim)`` to L tensors ``(batch, time, filters)``."""
        buffers, features = [], []
        for i, (buffer, h, _) in enumerate(self.each_from(WaveNetBlock.extend, state, x.transpose(1, 2))):
            buffers.append(buffer)
            if i in self._taps:
                features.append(h.transpose(1, 2))
        return TCNState(tuple(buffers), state.position + x.shape[1]), tuple(features)
