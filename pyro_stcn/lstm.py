"""A stack of LSTMs with the verbs of :mod:`pyro_stcn.tcn`: under the ladder of latents it makes LadderRNN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

__all__ = ["LSTMState", "StackedLSTM", "StackedLSTMConfig"]


class LSTMState(NamedTuple):
    """Hidden and cell state of every group, each ``(cells, batch, width)``."""

    groups: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class StackedLSTMConfig:
    """LSTM cells in groups: the output of group l is the feature d^l.

    :param cells: cells stacked in each group, lowest first. The paper's Table 3 has 25 cells of 256, here ``(5,) *
        5``, and 5 cells of 512, here ``(1,) * 5``.
    :param width: units of a cell.
    """

    cells: tuple[int, ...] = (5, 5, 5, 5, 5)
    width: int = 256

    def __post_init__(self) -> None:
        if not self.cells or min(self.cells) < 1:
            raise ValueError(f"cells must be positive numbers, one per layer of the ladder, not {self.cells}")

    def build(self, data_dim: int) -> StackedLSTM:
        """Return the network for sequences of ``data_dim`` channels."""
        return StackedLSTM(data_dim, self)


class StackedLSTM(nn.Module):
    """Each feature has seen the whole past. The state before the first step is zeros."""

    def __init__(self, data_dim: int, config: StackedLSTMConfig):
        super().__init__()
        self.data_dim = data_dim
        self.feature_dims = (config.width,) * len(config.cells)
        in_dims = (data_dim, *self.feature_dims[:-1])
        self.groups = nn.ModuleList(
            nn.LSTM(in_dim, config.width, cells, batch_first=True)
            for in_dim, cells in zip(in_dims, config.cells, strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Features of a whole sequence: ``(batch, time, data_dim)`` to L tensors ``(batch, time, width)``."""
        features = []
        for group in self.groups:
            x, _ = group(x)
            features.append(x)
        return tuple(features)

    def initial_state(self, batch_size: int) -> LSTMState:
        """Return the state before the first step."""
        zeros = next(self.parameters()).new_zeros
        shapes = [(group.num_layers, batch_size, group.hidden_size) for group in self.groups]
        return LSTMState(tuple((zeros(shape), zeros(shape)) for shape in shapes))

    def step(self, state: LSTMState, x: Tensor) -> tuple[LSTMState, tuple[Tensor, ...]]:
        """Features of the next time-step: ``(batch, data_dim)`` to L tensors ``(batch, width)``."""
        state, features = self.extend(state, x.unsqueeze(1))
        return state, tuple(d.squeeze(1) for d in features)

    def extend(self, state: LSTMState, x: Tensor) -> tuple[LSTMState, tuple[Tensor, ...]]:
        """Features of the next time-steps: ``(batch, time, data_dim)`` to L tensors ``(batch, time, width)``."""
        groups, features = [], []
        for group, past in zip(self.groups, state.groups, strict=True):
            x, now = group(x, past)
            groups.append(now)
            features.append(x)
        return LSTMState(tuple(groups)), tuple(features)
