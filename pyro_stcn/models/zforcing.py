"""Z-forcing: an LSTM with latents that are made to tell what comes (Goyal et al. 2017; Tables 1 and 4).

    backwards  b_t = LSTM(E x_t, b_(t+1))                                  reads x_T ... x_t
    prior      z_t ~ N(MLP(h_(t-1)))
    posterior  z_t ~ N(MLP(h_(t-1), b_t))
    recurrence h_t = LSTM([G z_t, E x_(t-1)], h_(t-1))
    emission   x_t ~ head(h_t)
    auxiliary  log N(b_t; tanh(m), exp(v/2)) + weight * log p(x_(t-1) | b_t),  m, v = MLP(h_(t-1), z_t)

The auxiliary cost is for training only; b_t is a constant in its first term. It is part of the objective where the
model is given an ``auxiliary_weight``, which ``evaluate`` and the bounds never do. Means and log-variances are clamped
to [-8, 8], and the head's scale to [0.001, 50] as in all models here.

The released code for Blizzard pairs each input row with the row of another stream as its target, and for TIMIT counts
rows of padding in the mean: neither is done here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..initialise import glorot_uniform_
from ..nets import ClampedGaussian, Gaussian, LSTMCell, orthogonal_recurrence_, run_backwards
from ..observation import HeadConfig, NormalConfig
from .base import check_sizes
from .sequential import LSTMMemory, SequentialGuide, SequentialModel
from .unroll import Prior, Rows, Trajectory, Unroll

__all__ = ["ZForcing", "ZForcingConfig"]


@dataclass(frozen=True)
class ZForcingConfig:
    """A Z-forcing model. The defaults are the original's for TIMIT.

    :param data_dim: channels of a step.
    :param latent_dim: channels of z.
    :param width: units of both LSTMs.
    :param embedding: channels of the linear maps E of x and G of z.
    :param hidden: units of the one hidden layer of prior, posterior and auxiliary network.
    :param auxiliary_sees_state: the auxiliary network reads h_(t-1) beside z_t, as in the authors' runs; without, z_t
        alone, as in the paper's equation.
    :param backward_weight: of log p(x_(t-1) | b_t) within the auxiliary term; 0 in the authors' runs.
    :param observation: the distribution of a step.
    """

    data_dim: int = 200
    latent_dim: int = 256
    width: int = 1024
    embedding: int = 512
    hidden: int = 512
    auxiliary_sees_state: bool = True
    backward_weight: float = 0.0
    observation: HeadConfig = field(default_factory=NormalConfig)

    def __post_init__(self) -> None:
        check_sizes(self, "data_dim", "latent_dim", "width", "embedding", "hidden")
        if self.backward_weight < 0:
            raise ValueError(f"backward_weight must not be negative, it is {self.backward_weight}")

    def build(self) -> ZForcing:
        """Return the model with freshly initialised weights."""
        return ZForcing(self)


class ZForcing(SequentialModel):
    """The model; its guide is :attr:`guide`."""

    guide_sees_future = True
    has_training_term = True

    def __init__(self, config: ZForcingConfig):
        super().__init__()
        self.config, self.data_dim, self.latent_dim = config, config.data_dim, config.latent_dim
        c = config
        self.data_features = nn.Linear(c.data_dim, c.embedding)
        self.latent_features = nn.Linear(c.latent_dim, c.embedding)
        for layer in (self.data_features, self.latent_features):
            glorot_uniform_(layer)
        self.backward_net = nn.LSTM(c.embedding, c.width, batch_first=True)
        self.recurrence = LSTMCell(2 * c.embedding, c.width)
        for recurrence in (self.backward_net, self.recurrence):
            orthogonal_recurrence_(recurrence)
        self.prior_net = ClampedGaussian((c.width,), c.latent_dim, c.hidden, 1)
        self.posterior_net = ClampedGaussian((c.width, c.width), c.latent_dim, c.hidden, 1)
        seen = (c.width, c.latent_dim) if c.auxiliary_sees_state else (c.latent_dim,)
        self.auxiliary_net = ClampedGaussian(seen, c.width, c.hidden, 1)
        self.observation = c.observation.build(c.width, c.data_dim)
        self.backward_observation: nn.Module | None = None
        if c.backward_weight:
            self.backward_observation = c.observation.build(c.width, c.data_dim)
        self.guide = SequentialGuide(self.model)

    def embed(self, frames: Tensor) -> Tensor:
        """E."""
        return self.data_features(frames)

    def recognise(self, frames: Tensor, mask: Tensor | None, contexts: Rows) -> Rows:
        """b_t."""
        return (run_backwards(self.backward_net, frames[:, 1:], mask),)

    def initial_memory(self, lead: torch.Size) -> LSTMMemory:
        """Zeros."""
        return LSTMMemory(*self.recurrence.initial(lead))

    def prior(self, state: LSTMMemory, contexts: Rows) -> Gaussian:
        """p(z_t | h_(t-1))."""
        return self.prior_net(state.h)

    def posterior(self, state: LSTMMemory, contexts: Rows, recognition: Rows, prior: Prior) -> Gaussian:
        """q(z_t | h_(t-1), b_t)."""
        return self.posterior_net(state.h, recognition[0])

    def absorb(self, state: LSTMMemory, contexts: Rows, z: Tensor) -> LSTMMemory:
        """h_t = LSTM([G z_t, E x_(t-1)], h_(t-1))."""
        return LSTMMemory(*self.recurrence((self.latent_features(z), contexts[0]), (state.h, state.c)))

    def emission(self, state: LSTMMemory, contexts: Rows, z: Tensor) -> dist.TorchDistribution:
        """p(x_t | h_t)."""
        return self.observation(state.h)

    def auxiliary(self, x: Tensor, unroll: Unroll, trajectory: Trajectory) -> Tensor:
        """Return log N(b_t; MLP(h_(t-1), z_t)), with b_t a constant, and the weighted log p(x_(t-1) | b_t)."""
        b = unroll.recognition[0]
        seen = (trajectory.before.h, trajectory.z) if self.config.auxiliary_sees_state else (trajectory.z,)
        loc, scale = self.auxiliary_net(*seen)
        terms = dist.Normal(loc.tanh(), scale).log_prob(b.detach()).sum(-1)
        if self.backward_observation is not None:
            past = F.pad(x, (0, 0, 1, 0))[:, :-1]
            terms = terms + self.config.backward_weight * self.backward_observation(b).log_prob(past)
        return terms
