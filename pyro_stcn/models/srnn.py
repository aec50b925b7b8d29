"""SRNN: a state-space layer of latents over a deterministic RNN (Fraccaro et al. 2016; Tables 1 and 4).

    deterministic d_t = GRU(psi(x_(t-1)), d_(t-1))
    prior         z_t ~ N(MLP(d_t, z_(t-1)))
    backwards     a_t = GRU([d_t, psi(x_t)], a_(t+1))                 filtering: MLP([d_t, psi(x_t)])
    posterior     z_t ~ N(prior mean + MLP(a_t, z_(t-1)), ...)        without ``residual``: N(MLP(a_t, z_(t-1)))
    emission      x_t ~ head(MLP(d_t, z_t))

d does not see z, so d and a are computed for all steps at once and only the chain of z is a loop. The state is not
carried from one training segment to the next; the head's scale is clamped to [0.001, 50], as in all models here, where
the original has no limit, and its last layer starts at Glorot's size, not near zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..nets import MLP, ClippedLeakyReLU, Gaussian, ResidualGaussian, orthogonal_recurrence_, run_backwards
from ..observation import HeadConfig, NormalConfig
from .base import check_sizes
from .sequential import SequentialGuide, SequentialModel
from .unroll import Prior, Rows

__all__ = ["SRNN", "SRNNConfig"]


@dataclass(frozen=True)
class SRNNConfig:
    """An SRNN. The defaults are the original's for TIMIT.

    :param data_dim: channels of a step.
    :param latent_dim: channels of z.
    :param width: units of the deterministic GRU and of the backward one.
    :param hidden: units of all hidden layers: two that read x, one in each network of the latents, two before the
        observation.
    :param smoothing: a posterior that sees the future; without, it sees x_<=t.
    :param residual: the posterior's network adds to the prior's mean.
    :param observation: the distribution of a step.
    """

    data_dim: int = 200
    latent_dim: int = 256
    width: int = 1024
    hidden: int = 512
    smoothing: bool = True
    residual: bool = True
    observation: HeadConfig = field(default_factory=NormalConfig)

    def __post_init__(self) -> None:
        check_sizes(self, "data_dim", "latent_dim", "width", "hidden")

    def build(self) -> SRNN:
        """Return the model with freshly initialised weights."""
        return SRNN(self)


class SRNNMemory(NamedTuple):
    """z_(t-1), and z_t once it is drawn."""

    z: Tensor


class SRNN(SequentialModel):
    """The model; its guide is :attr:`guide`."""

    def __init__(self, config: SRNNConfig):
        super().__init__()
        self.config, self.data_dim, self.latent_dim = config, config.data_dim, config.latent_dim
        self.guide_sees_future = config.smoothing
        c, seen = config, (config.width, config.latent_dim)
        self.data_features = MLP((c.data_dim,), c.hidden, 2, ClippedLeakyReLU)
        self.deterministic = nn.GRU(c.hidden, c.width, batch_first=True)
        orthogonal_recurrence_(self.deterministic)
        self.prior_net = ResidualGaussian(seen, c.latent_dim, c.hidden, 1)
        if c.smoothing:
            self.backward_net: nn.Module = nn.GRU(c.width + c.hidden, c.width, batch_first=True)
            orthogonal_recurrence_(self.backward_net)
        else:
            self.backward_net = MLP((c.width + c.hidden,), c.width, 1, ClippedLeakyReLU)
        self.posterior_net = ResidualGaussian(seen, c.latent_dim, c.hidden, 1)
        self.output = MLP(seen, c.hidden, 2, ClippedLeakyReLU)
        self.observation = c.observation.build(c.hidden, c.data_dim)
        self.guide = SequentialGuide(self.model)

    def embed(self, frames: Tensor) -> Tensor:
        """Psi."""
        return self.data_features(frames)

    def contexts(self, past: Tensor, carried: Any = None) -> tuple[Rows, Any]:
        """d_t."""
        d, carried = self.deterministic(past, carried)
        return (d,), carried

    def recognise(self, frames: Tensor, mask: Tensor | None, contexts: Rows) -> Rows:
        """a_t."""
        seen = torch.cat([contexts[0], frames[:, 1:]], -1)
        return (run_backwards(self.backward_net, seen, mask) if self.config.smoothing else self.backward_net(seen),)

    def initial_memory(self, lead: torch.Size) -> SRNNMemory:
        """z_0 = 0."""
        return SRNNMemory(next(self.parameters()).new_zeros(*lead, self.latent_dim))

    def prior(self, state: SRNNMemory, contexts: Rows) -> Gaussian:
        """p(z_t | d_t, z_(t-1))."""
        return self.prior_net(contexts[0], state.z)

    def posterior(self, state: SRNNMemory, contexts: Rows, recognition: Rows, prior: Prior) -> Gaussian:
        """q(z_t | a_t, z_(t-1))."""
        return self.posterior_net(recognition[0], state.z, base=prior().loc if self.config.residual else None)

    def absorb(self, state: SRNNMemory, contexts: Rows, z: Tensor) -> SRNNMemory:
        """z_t is all there is to remember."""
        return SRNNMemory(z)

    def emission(self, state: SRNNMemory, contexts: Rows, z: Tensor) -> dist.TorchDistribution:
        """p(x_t | d_t, z_t)."""
        return self.observation(self.output(contexts[0], z))
