"""RNN: an autoregressive LSTM without latents (Chung et al. 2015; Tables 1 and 4).

    h_t = LSTM(MLP(x_t), h_(t-1)),    x_t ~ head(MLP(h_(t-1))),    h_0 = 0

There are no latents, so what is computed is the exact log-likelihood and not a bound. All steps of a sequence are
computed by one call of the LSTM. The head's scale is clamped to [0.001, 50], as in all models here. For handwriting
the original's Gaussians are correlated, here they are diagonal; its max-norm on weights is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nets import MLP, orthogonal_recurrence_
from ..observation import GaussianMixtureConfig, HeadConfig
from .base import DeterministicModel, check_sizes

__all__ = ["RNN", "RNNConfig", "RNNState"]


@dataclass(frozen=True)
class RNNConfig:
    """An RNN. The defaults are the original's for speech (Blizzard) with a GMM.

    :param data_dim: channels of a step.
    :param width: units of the LSTM.
    :param layers: layers before the LSTM, and as many after it.
    :param hidden: units of these layers.
    :param observation: the distribution of a step.
    """

    data_dim: int = 200
    width: int = 4000
    layers: int = 4
    hidden: int = 700
    observation: HeadConfig = field(default_factory=GaussianMixtureConfig)

    def __post_init__(self) -> None:
        check_sizes(self, "data_dim", "width", "layers", "hidden")

    def build(self) -> RNN:
        """Return the model with freshly initialised weights."""
        return RNN(self)


class RNNState(NamedTuple):
    """Output and cell of the LSTM, ``(batch, width)``, and whether a step was made."""

    h: Tensor
    c: Tensor
    started: bool


class RNN(DeterministicModel):
    """p(x_t | x_<t) from an LSTM."""

    def __init__(self, config: RNNConfig):
        super().__init__()
        self.config, self.data_dim = config, config.data_dim
        self.data_features = MLP((config.data_dim,), config.hidden, config.layers)
        self.recurrence = nn.LSTM(self.data_features.out_dim, config.width, batch_first=True)
        orthogonal_recurrence_(self.recurrence)
        self.output = MLP((config.width,), config.hidden, config.layers)
        self.observation = config.observation.build(self.output.out_dim, config.data_dim)

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
        :param begins: whether ``x`` is the beginning of its sequence; to this model it makes no difference.
        """
        pyro.module(self.pyro_name, self)
        if hidden is None:
            x = self.clean(x, mask)
            seen, _ = self.recurrence(self.data_features(x[:, :-1])) if x.shape[1] > 1 else (self._no_steps(x), None)
            hidden = F.pad(seen, (0, 0, 1, 0))
        with self.plates(x):
            pyro.sample("x", self.over_time(self.observation(self.output(hidden)), mask), obs=x)

    def _no_steps(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], 0, self.config.width)

    def extend(self, state: RNNState, past: Tensor) -> tuple[Tensor, RNNState]:
        """Return what the head reads at many steps; see :meth:`DeterministicModel.extend`."""
        if not state.started:  # the zeros before x_1 are not read
            state = state._replace(started=True)
            if past.shape[1] == 1:
                return state.h.unsqueeze(1), state
            hidden, after = self.extend(state, past[:, 1:])
            return torch.cat([state.h.unsqueeze(1), hidden], dim=1), after
        hidden, (h, c) = self.recurrence(self.data_features(past), (state.h.unsqueeze(0), state.c.unsqueeze(0)))
        return hidden, RNNState(h.squeeze(0), c.squeeze(0), True)

    def initial_state(self, batch_size: int) -> RNNState:
        """Return the state before the first step."""
        zeros = self.recurrence.weight_hh_l0.new_zeros(batch_size, self.config.width)
        return RNNState(zeros, zeros, False)

    def step(self, state: RNNState, x_previous: Tensor) -> tuple[RNNState, dist.TorchDistribution]:
        """Return p(x_t | x_<t); see :meth:`SequenceModel.step`."""
        if state.started:
            carried: Any = (state.h.unsqueeze(0), state.c.unsqueeze(0))
            _, (h, c) = self.recurrence(self.data_features(x_previous).unsqueeze(1), carried)
            state = RNNState(h.squeeze(0), c.squeeze(0), True)
        return state._replace(started=True), self.observation(self.output(state.h))
