"""VRNN: an LSTM whose every step has a latent (Chung et al. 2015; Tables 1 and 4).

    prior      z_t ~ N(MLP(h_(t-1)))                       VRNN-I: N(0, I)
    posterior  z_t ~ N(MLP(phi_x(x_t), h_(t-1)))
    emission   x_t ~ head(MLP(phi_z(z_t), h_(t-1)))
    recurrence h_t = LSTM([phi_x(x_t), phi_z(z_t)], h_(t-1))

The head's scale is clamped to [0.001, 50], as in all models here, so that their densities have the same ceiling; the
original floors it at 1e-4. For handwriting the original's Gaussians are correlated, here they are diagonal. Left out
are its max-norm on weights, its uniform initialisation, and what it does with a gradient that is not a number (0.1
times the parameter is put in its place).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ..nets import MLP, Gaussian, LSTMCell, SoftplusGaussian, orthogonal_recurrence_
from ..observation import HeadConfig, NormalConfig
from .base import check_sizes
from .sequential import SequentialGuide, SequentialModel
from .unroll import Prior, Rows

__all__ = ["VRNN", "VRNNConfig"]


@dataclass(frozen=True)
class VRNNConfig:
    """A VRNN. The defaults are the original's for speech (Blizzard) with a Normal.

    :param data_dim: channels of a step.
    :param latent_dim: channels of z.
    :param width: units of the LSTM.
    :param layers: hidden layers of each of the five networks.
    :param data_width: units of the layers that read x and of those before the observation.
    :param latent_width: units of the layers of prior, posterior and phi_z.
    :param feature_width: units of phi_z; None for ``latent_width``.
    :param conditional_prior: a prior that reads h_(t-1); without, N(0, I), the original's VRNN-I.
    :param observation: the distribution of a step.
    """

    data_dim: int = 200
    latent_dim: int = 200
    width: int = 4000
    layers: int = 4
    data_width: int = 600
    latent_width: int = 500
    feature_width: int | None = None
    conditional_prior: bool = True
    observation: HeadConfig = field(default_factory=NormalConfig)

    def __post_init__(self) -> None:
        check_sizes(self, "data_dim", "latent_dim", "width", "layers", "data_width", "latent_width")

    def build(self) -> VRNN:
        """Return the model with freshly initialised weights."""
        return VRNN(self)


class VRNNMemory(NamedTuple):
    """State of the LSTM, and phi_z(z_t) once z_t is drawn."""

    h: Tensor
    c: Tensor
    latent_features: Tensor


class VRNN(SequentialModel):
    """The model; its guide is :attr:`guide`."""

    guide_sees_future = False

    def __init__(self, config: VRNNConfig):
        super().__init__()
        self.config, self.data_dim, self.latent_dim = config, config.data_dim, config.latent_dim
        c, feature_width = config, config.feature_width or config.latent_width
        self.data_features = MLP((c.data_dim,), c.data_width, c.layers)
        self.latent_features = MLP((c.latent_dim,), feature_width, c.layers)
        self.prior_net: SoftplusGaussian | None = None
        if c.conditional_prior:
            self.prior_net = SoftplusGaussian((c.width,), c.latent_dim, c.latent_width, c.layers)
        self.posterior_net = SoftplusGaussian((c.data_width, c.width), c.latent_dim, c.latent_width, c.layers)
        self.output = MLP((feature_width, c.width), c.data_width, c.layers)
        self.recurrence = LSTMCell(c.data_width + feature_width, c.width)
        orthogonal_recurrence_(self.recurrence)
        self.observation = c.observation.build(c.data_width, c.data_dim)
        self.guide = SequentialGuide(self.model)

    def embed(self, frames: Tensor) -> Tensor:
        """phi_x."""
        return self.data_features(frames)

    def recognise(self, frames: Tensor, mask: Tensor | None, contexts: Rows) -> Rows:
        """phi_x(x_t)."""
        return (frames[:, 1:],)

    def initial_memory(self, lead: torch.Size) -> VRNNMemory:
        """Zeros."""
        h, c = self.recurrence.initial(lead)
        return VRNNMemory(h, c, h.new_zeros(*lead, self.latent_features.out_dim))

    def observe(self, state: VRNNMemory, contexts: Rows) -> VRNNMemory:
        """h_(t-1) = LSTM([phi_x(x_(t-1)), phi_z(z_(t-1))], h_(t-2))."""
        h, c = self.recurrence((contexts[0], state.latent_features), (state.h, state.c))
        return VRNNMemory(h, c, state.latent_features)

    def prior(self, state: VRNNMemory, contexts: Rows) -> Gaussian:
        """p(z_t | h_(t-1))."""
        if self.prior_net is None:
            zeros = state.h.new_zeros(*state.h.shape[:-1], self.latent_dim)
            return Gaussian(zeros, torch.ones_like(zeros))
        return self.prior_net(state.h)

    def posterior(self, state: VRNNMemory, contexts: Rows, recognition: Rows, prior: Prior) -> Gaussian:
        """q(z_t | x_t, h_(t-1))."""
        return self.posterior_net(recognition[0], state.h)

    def absorb(self, state: VRNNMemory, contexts: Rows, z: Tensor) -> VRNNMemory:
        """phi_z(z_t)."""
        return VRNNMemory(state.h, state.c, self.latent_features(z))

    def emission(self, state: VRNNMemory, contexts: Rows, z: Tensor) -> dist.TorchDistribution:
        """p(x_t | z_t, h_(t-1))."""
        return self.observation(self.output(state.latent_features, state.h))
