"""The observation model f^(o): from latents to p(x_t | z), equation 9.

Two parts, each a config with a ``build`` method and the module that it builds:

* an *output network* turns latents into features: 1x1 convolutions (``PointwiseOutput``: x_t looks at z_t only) or
  causal WaveNet blocks (``CausalOutput``: x_t also looks back over z);
* a *head* turns features into a Pyro distribution with one event dim: ``Normal``, ``GaussianMixture``, ``PenStroke``;
  of bits and categories in ``discrete``, of integers in ``discretised``.

Scales are a softplus clamped to [0.001, 50], as in the authors' code: on standardised data a density can then not run
away.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pyro.distributions as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .discrete import BernoulliConfig, BernoulliHead, CategoricalConfig, CategoricalHead, pen_is_no_bit
from .discretised import DiscretisedMixtureConfig
from .distributions import DiagonalGaussianMixture, PenStroke
from .initialise import glorot_uniform_
from .tcn import DilatedTCN, DilatedTCNConfig, TCNState

__all__ = [
    "BernoulliConfig",
    "BernoulliHead",
    "CategoricalConfig",
    "CategoricalHead",
    "CausalOutput",
    "CausalOutputConfig",
    "GaussianMixtureConfig",
    "GaussianMixtureHead",
    "HeadConfig",
    "NormalConfig",
    "NormalHead",
    "OutputConfig",
    "PenStrokeConfig",
    "PenStrokeHead",
    "PointwiseOutput",
    "PointwiseOutputConfig",
]

MIN_SCALE = 1e-3
MAX_SCALE = 50.0


def _scale(raw: Tensor) -> Tensor:
    return F.softplus(raw).clamp(MIN_SCALE, MAX_SCALE)


def _linear(in_dim: int, out_dim: int) -> nn.Linear:
    layer = nn.Linear(in_dim, out_dim)
    glorot_uniform_(layer)
    return layer


# ---------------------------------------------------------------------------------------------------------------- heads


@dataclass(frozen=True)
class NormalConfig:
    """A diagonal Gaussian over the channels of a step."""

    normalised: ClassVar[bool] = True

    def build(self, in_dim: int, data_dim: int) -> NormalHead:
        """Return the head for features of ``in_dim`` channels."""
        return NormalHead(in_dim, data_dim)


class NormalHead(nn.Module):
    """Features ``(..., in_dim)`` to a Normal with event shape ``(data_dim,)``."""

    def __init__(self, in_dim: int, data_dim: int):
        super().__init__()
        self.loc = _linear(in_dim, data_dim)
        self.scale = _linear(in_dim, data_dim)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x | h)."""
        return dist.Normal(self.loc(h), _scale(self.scale(h))).to_event(1)


@dataclass(frozen=True)
class GaussianMixtureConfig:
    """A mixture of diagonal Gaussians over the channels of a step jointly.

    :param components: number of components; 20 everywhere in the paper.
    :param floor: smallest component weight in ``log_prob``; 0 (default) is a density, 1e-6 reproduces the authors'
        code.
    """

    components: int = 20
    floor: float = 0.0

    @property
    def normalised(self) -> bool:
        """Whether ``log_prob`` integrates to one."""
        return self.floor == 0

    def build(self, in_dim: int, data_dim: int) -> GaussianMixtureHead:
        """Return the head for features of ``in_dim`` channels."""
        return GaussianMixtureHead(in_dim, data_dim, self)


class GaussianMixtureHead(nn.Module):
    """Features ``(..., in_dim)`` to a mixture with event shape ``(data_dim,)``."""

    def __init__(self, in_dim: int, data_dim: int, config: GaussianMixtureConfig):
        super().__init__()
        self.shape = (config.components, data_dim)
        self.floor = config.floor
        self.logits = _linear(in_dim, config.components)
        self.loc = _linear(in_dim, config.components * data_dim)
        self.scale = _linear(in_dim, config.components * data_dim)

    def forward(self, h: Tensor) -> DiagonalGaussianMixture:
        """Return p(x | h)."""
        loc = self.loc(h).unflatten(-1, self.shape)
        scale = _scale(self.scale(h)).unflatten(-1, self.shape)
        return DiagonalGaussianMixture(self.logits(h), loc, scale, self.floor)


@dataclass(frozen=True)
class PenStrokeConfig:
    """Handwriting: a distribution of the pen's movement, and a bit for whether the pen lifts, in the last channel.

    :param stroke: distribution of the movement, all channels but the last.
    :param floor: smallest probability of a pen bit in ``log_prob``; 0 (default) is a density, 1e-5 reproduces the
        authors' code.
    """

    stroke: NormalConfig | GaussianMixtureConfig = field(default_factory=GaussianMixtureConfig)
    floor: float = 0.0

    without_unit: ClassVar[tuple[int, ...]] = (-1,)  # the pen has a probability and no density
    values: ClassVar[str] = "a pen bit, 0 or 1, in the last channel, unscaled (keep)"

    @property
    def normalised(self) -> bool:
        """Whether ``log_prob`` integrates to one."""
        return self.floor == 0 and self.stroke.normalised

    def build(self, in_dim: int, data_dim: int) -> PenStrokeHead:
        """Return the head for features of ``in_dim`` channels.

        :raises ValueError: for fewer than two channels: there must be a movement and a pen bit.
        """
        if data_dim < 2:
            raise ValueError(f"a pen stroke has movement channels and, last, a pen bit; data_dim is {data_dim}")
        return PenStrokeHead(in_dim, data_dim, self)

    def impossible(self, steps: np.ndarray) -> np.ndarray:
        """Where the pen of ``(T, D)`` is no bit: bool of the same shape."""
        return pen_is_no_bit(steps)


class PenStrokeHead(nn.Module):
    """Features ``(..., in_dim)`` to a pen stroke with event shape ``(data_dim,)``."""

    def __init__(self, in_dim: int, data_dim: int, config: PenStrokeConfig):
        super().__init__()
        self.stroke = config.stroke.build(in_dim, data_dim - 1)
        self.pen = _linear(in_dim, 1)
        self.floor = config.floor

    def forward(self, h: Tensor) -> PenStroke:
        """Return p(x | h)."""
        return PenStroke(self.stroke(h), self.pen(h).squeeze(-1), self.floor)


HeadConfig = (
    NormalConfig
    | GaussianMixtureConfig
    | BernoulliConfig
    | CategoricalConfig
    | PenStrokeConfig
    | DiscretisedMixtureConfig
)


# ------------------------------------------------------------------------------------------------------ output networks


@dataclass(frozen=True)
class PointwiseOutputConfig:
    """Layers of 1x1 convolutions with ReLU; the paper's handwriting models use 5 of 256."""

    layers: int = 5
    width: int = 256

    def build(self, in_dim: int) -> PointwiseOutput:
        """Return the network for latents of ``in_dim`` channels."""
        return PointwiseOutput(in_dim, self)


class PointwiseOutput(nn.Module):
    """Latents ``(..., in_dim)`` to features ``(..., width)``, each step by itself."""

    receptive_field = 1

    def __init__(self, in_dim: int, config: PointwiseOutputConfig):
        super().__init__()
        widths = [in_dim] + [config.width] * config.layers
        self.layers = nn.ModuleList(_linear(a, b) for a, b in pairwise(widths))
        self.out_dim = widths[-1]

    def forward(self, z: Tensor) -> Tensor:
        """Return the features of a whole sequence."""
        for layer in self.layers:
            z = layer(z).relu()
        return z

    def initial_state(self, batch_size: int) -> tuple[()]:
        """Return the state before the first step: nothing is remembered."""
        return ()

    def step(self, state: tuple[()], z: Tensor) -> tuple[tuple[()], Tensor]:
        """Return (state, features) of one step, ``(batch, in_dim)``."""
        return state, self(z)

    def extend(self, state: tuple[()], z: Tensor) -> tuple[tuple[()], Tensor]:
        """Return (state, features) of many steps, ``(batch, time, in_dim)``."""
        return state, self(z)


@dataclass(frozen=True)
class CausalOutputConfig:
    """WaveNet blocks of dilation 1 over the latents; the paper's speech models use 5 of 256 with kernel size 2."""

    layers: int = 5
    width: int = 256
    kernel_size: int = 2

    def build(self, in_dim: int) -> CausalOutput:
        """Return the network for latents of ``in_dim`` channels."""
        return CausalOutput(in_dim, self)


class CausalOutput(nn.Module):
    """Latents ``(..., time, in_dim)`` to features ``(..., time, width)``; x_t looks back over z.

    It sees z_(t - layers * (kernel_size - 1)) ... z_t. The last residual sum goes to the head as it is, without an
    activation.
    """

    def __init__(self, in_dim: int, config: CausalOutputConfig):
        super().__init__()
        group = ((1,) * config.layers,)
        self.tcn = DilatedTCN(in_dim, DilatedTCNConfig(group, config.width, config.kernel_size))
        self.out_dim = config.width

    @property
    def receptive_field(self) -> int:
        """How many steps of z one x looks at: 6 in the paper's speech models."""
        return self.tcn.receptive_field

    def forward(self, z: Tensor) -> Tensor:
        """Return the features of a whole sequence."""
        return self.tcn(z)[0]

    def initial_state(self, batch_size: int) -> TCNState:
        """Return the state before the first step: no latents yet."""
        return self.tcn.initial_state(batch_size)

    def step(self, state: TCNState, z: Tensor) -> tuple[TCNState, Tensor]:
        """Return (state, features) of one step, ``(batch, in_dim)``."""
        state, (h,) = self.tcn.step(state, z)
        return state, h

    def extend(self, state: TCNState, z: Tensor) -> tuple[TCNState, Tensor]:
        """Return (state, features) of many steps, ``(batch, time, in_dim)``."""
        state, (h,) = self.tcn.extend(state, z)
        return state, h


OutputConfig = PointwiseOutputConfig | CausalOutputConfig
