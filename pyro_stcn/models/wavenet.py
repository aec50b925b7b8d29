"""WaveNet and WaveNet-dense, the paper's deterministic baselines (van den Oord et al. 2016; Tables 1 and 4).

There are no latents, so what is computed is the exact log-likelihood and not a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from ..initialise import glorot_uniform_
from ..observation import GaussianMixtureConfig, HeadConfig, PointwiseOutputConfig
from ..tcn import CausalConv1d, DilatedTCN, DilatedTCNConfig, TCNState, WaveNetBlock
from .base import DeterministicModel

__all__ = ["WaveNet", "WaveNetConfig", "WaveNetState"]


@dataclass(frozen=True)
class WaveNetConfig:
    """A WaveNet. The defaults are the paper's, with a GMM.

    :param data_dim: channels of a step.
    :param dilations: dilation of every block; 25 blocks in the paper, for handwriting too.
    :param filters: width of every convolution.
    :param kernel_size: taps of the dilated convolutions and of the first one.
    :param taps: None for WaveNet, which sums the skip outputs of all blocks. For WaveNet-dense the numbers, from 1,
        of the blocks whose outputs are concatenated instead, (5, 15, 25) in the paper's runs.
    :param output: 1x1 layers between that and the observation.
    :param observation: the distribution of a step.
    :param predicts_first: score x_1 too, from a frame of zeros before it. Without, x_1 is given, as in the published
        runs, and T - 1 steps are scored.
    """

    data_dim: int = 200
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16) * 5
    filters: int = 256
    kernel_size: int = 2
    taps: tuple[int, ...] | None = None
    output: PointwiseOutputConfig = field(default_factory=lambda: PointwiseOutputConfig(2, 256))
    observation: HeadConfig = field(default_factory=GaussianMixtureConfig)
    predicts_first: bool = True

    def __post_init__(self) -> None:
        if self.taps is not None and not (self.taps and all(1 <= tap <= len(self.dilations) for tap in self.taps)):
            raise ValueError(f"taps must number some of the {len(self.dilations)} blocks from 1, not {self.taps}")

    def build(self) -> WaveNet:
        """Return the model with freshly initialised weights."""
        return WaveNet(self)


class WaveNetState(NamedTuple):
    """What generation remembers: last inputs of the first convolution, state of the blocks, and whether it has begun.

    Without ``predicts_first`` no frame of zeros stands before x_1: the networks begin with x_1 itself.
    """

    first: Tensor
    blocks: TCNState
    started: bool


class WaveNet(DeterministicModel):
    """p(x_t | x_<t) from a stack of gated blocks behind an initial causal convolution."""

    def __init__(self, config: WaveNetConfig):
        super().__init__()
        self.config = config
        self.data_dim = config.data_dim
        self.scores_first_step = config.predicts_first
        self.first = CausalConv1d(config.data_dim, config.filters, config.kernel_size)
        glorot_uniform_(self.first)
        self.tcn = DilatedTCN(config.filters, DilatedTCNConfig((config.dilations,), config.filters, config.kernel_size))
        self.gathered = config.filters * len(config.taps or [0])
        self.output = config.output.build(self.gathered)
        self.observation = config.observation.build(self.output.out_dim, config.data_dim)

    @property
    def receptive_field(self) -> int:
        """How many past steps x_t looks at."""
        return self.tcn.receptive_field + self.first.history

    def model(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        annealing_factor: float | Tensor = 1.0,
        *,
        hidden: Tensor | None = None,
        begins: bool = True,
    ) -> None:
        """Generate ``x`` given its own past; there is nothing to anneal. See :meth:`SequenceModel.model`.

        :param hidden: what the head reads at each step of a clean ``x``, if it is known.
        :param begins: whether ``x`` is the beginning of its sequence and not a later window.
        """
        pyro.module(self.pyro_name, self)
        if hidden is None:
            x = self.clean(x, mask)
            if self.config.predicts_first:
                hidden = self._features(F.pad(x, (0, 0, 1, 0))[:, :-1])
            else:
                hidden = x.new_zeros(len(x), 1, self.gathered)  # there is nothing to be said of x_1
                if x.shape[1] > 1:
                    hidden = torch.cat([hidden, self._features(x[:, :-1])], dim=1)
        if begins and not self.config.predicts_first:
            scored = torch.arange(x.shape[1], device=x.device) > 0
            mask = scored.expand(x.shape[:2]) if mask is None else mask & scored
        with self.plates(x):
            pyro.sample("x", self.over_time(self.observation(self.output(hidden)), mask), obs=x)

    def _features(self, x: Tensor) -> Tensor:
        """Return the features of every step, having seen it and the ones before: ``(batch, time, width)``."""
        h = self.first(x.transpose(1, 2))
        outputs, skips = zip(*self.tcn.each(h), strict=True)
        return self._gather(outputs, skips, dim=1).transpose(1, 2).to(x.dtype)

    def _gather(self, outputs: Sequence[Tensor], skips: Sequence[Tensor], dim: int) -> Tensor:
        if self.config.taps is None:
            return torch.stack(skips).sum(0).relu()
        return torch.cat([outputs[tap - 1] for tap in self.config.taps], dim).relu()

    def extend(self, state: WaveNetState, past: Tensor) -> tuple[Tensor, WaveNetState]:
        """Return what the head reads at many steps; see :meth:`DeterministicModel.extend`."""
        if not state.started:  # the zeros before x_1 are not read, and nothing is said of x_1
            if past.shape[1] == 1:
                return past.new_zeros(len(past), 1, self.gathered), state._replace(started=True)
            hidden, state = self.extend(state._replace(started=True), past[:, 1:])
            return F.pad(hidden, (0, 0, 1, 0)), state
        time = state.blocks.position
        first, h = self.first.extend(state.first, time, past.transpose(1, 2))
        buffers, outputs, skips = zip(*self.tcn.each_from(WaveNetBlock.extend, state.blocks, h), strict=True)
        blocks = TCNState(buffers, time + past.shape[1])
        return self._gather(outputs, skips, dim=1).transpose(1, 2), WaveNetState(first, blocks, True)

    def initial_state(self, batch_size: int) -> WaveNetState:
        """Return the state before the first step."""
        first, blocks = self.first.initial_buffer(batch_size), self.tcn.initial_state(batch_size)
        return WaveNetState(first, blocks, self.config.predicts_first)

    def step(self, state: WaveNetState, x_previous: Tensor) -> tuple[WaveNetState, dist.TorchDistribution]:
        """Return p(x_t | x_<t); see :meth:`SequenceModel.step`.

        Without ``predicts_first`` the model says nothing of x_1, and what comes for it is a placeholder.
        """
        if not state.started:
            nothing = x_previous.new_zeros(x_previous.shape[0], self.gathered)
            return state._replace(started=True), self.observation(self.output(nothing))
        time = state.blocks.position
        first, h = self.first.step(state.first, time, x_previous)
        buffers, outputs, skips = zip(*self.tcn.each_from(WaveNetBlock.step, state.blocks, h), strict=True)
        hidden = self._gather(outputs, skips, dim=-1)
        return WaveNetState(first, TCNState(buffers, time + 1), True), self.observation(self.output(hidden))
