"""Variational Bi-LSTM: a forward LSTM that imagines what a backward one has read (Shabanian et al. 2017; Tables 1, 4).

With u_t = x_(t-1), the frame that is known when x_t is predicted:

    backwards  b_t = LSTM(u_t, b_(t+1))                                    reads x_T ... x_(t-1)
    prior      z_t ~ N(MLP(h_(t-1)))
    posterior  z_t ~ N(MLP(h_(t-1), b_t))
    imagined   b~_t ~ N(MLP(z_t)), drawn so in training and generation alike
    recurrence h_t = LSTM([u_t, z_t, b~_t], h_(t-1))
    emission   x_t ~ head(MLP(h_t))
    auxiliary  alpha log N(b_t; MLP(z_t)) + beta log N(h_(t-1); MLP(z_t))   in training only

b~ is written as a function of z_t and of standard normal noise: the noise is the site "z2", whose posterior is its
prior, so that its KL is 0 as the authors have it. *Skip gradient*: at each step and sequence a coin decides whether the
gradient of the latent's networks flows back into h and b. The text gives no probability for it; here 0.5.

The text is silent on whether the bound it prints includes the auxiliary costs; here no bound does. b_t and h_(t-1) are
constants in these costs, as b_t is in Z-forcing (they would otherwise shrink to be predictable). Means and
log-variances are clamped to [-8, 8] as in Z-forcing, and the head's scale to [0.001, 50] as in all models here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nets import MLP, ClampedGaussian, Gaussian, LSTMCell, orthogonal_recurrence_, run_backwards
from ..observation import HeadConfig, NormalConfig
from .base import check_sizes
from .sequential import LSTMMemory, SequentialGuide, SequentialModel
from .unroll import Prior, Rows, Trajectory, Unroll

__all__ = ["BiLSTM", "BiLSTMConfig"]


@dataclass(frozen=True)
class BiLSTMConfig:
    """A Variational Bi-LSTM. The defaults are the original's for TIMIT.

    :param data_dim: channels of a step.
    :param latent_dim: channels of z.
    :param width: units of both LSTMs.
    :param hidden: units of the one hidden layer of each network.
    :param alpha: weight of log N(b_t; ...) in the auxiliary term.
    :param beta: weight of log N(h_(t-1); ...) in it.
    :param skip_gradient: probability that the latent's gradient does not flow into the recurrent states of a step, in
        training mode; 0 for never.
    :param observation: the distribution of a step.
    """

    data_dim: int = 200
    latent_dim: int = 128
    width: int = 2048
    hidden: int = 1024
    alpha: float = 1.0
    beta: float = 0.0
    skip_gradient: float = 0.5
    observation: HeadConfig = field(default_factory=NormalConfig)

    def __post_init__(self) -> None:
        check_sizes(self, "data_dim", "latent_dim", "width", "hidden")
        if not 0 <= self.skip_gradient <= 1:
            raise ValueError(f"skip_gradient is a probability, not {self.skip_gradient}")
        if self.alpha < 0 or self.beta < 0:
            raise ValueError(f"alpha and beta must not be negative, they are {self.alpha} and {self.beta}")

    def build(self) -> BiLSTM:
        """Return the model with freshly initialised weights."""
        return BiLSTM(self)


class BiLSTM(SequentialModel):
    """The model; its guide is :attr:`guide`."""

    guide_sees_future = True
    has_training_term = True

    def __init__(self, config: BiLSTMConfig):
        super().__init__()
        self.config, self.data_dim, self.latent_dim = config, config.data_dim, config.latent_dim
        c = config

        def gaussian(in_dims: tuple[int, ...], out_dim: int) -> ClampedGaussian:
            return ClampedGaussian(in_dims, out_dim, c.hidden, 1, nn.LeakyReLU)

        self.backward_net = nn.LSTM(c.data_dim, c.width, batch_first=True)
        self.recurrence = LSTMCell(c.data_dim + c.latent_dim + c.width, c.width)
        for recurrence in (self.backward_net, self.recurrence):
            orthogonal_recurrence_(recurrence)
        self.prior_net = gaussian((c.width,), c.latent_dim)
        self.posterior_net = gaussian((c.width, c.width), c.latent_dim)
        self.imagined = gaussian((c.latent_dim,), c.width)
        self.imagined_state = gaussian((c.latent_dim,), c.width) if c.beta else None
        self.output = MLP((c.width,), c.hidden, 1, nn.LeakyReLU)
        self.observation = c.observation.build(c.hidden, c.data_dim)
        self.guide = SequentialGuide(self.model)

    @property
    def latent_names(self) -> tuple[str, ...]:
        """Return "z1" and "z2", the noise of the imagined backward state."""
        return ("z1", "z2")

    def draw_extra(self, x: Tensor, mask: Tensor | None) -> Rows:
        """Draw the noise of b~, and toss the coins of the skip gradient: 1 where the gradient flows."""
        noise = dist.Normal(x.new_zeros(*x.shape[:-1], self.config.width), 1.0).to_event(1)
        noise = noise if mask is None else noise.mask(mask)
        flows = 1 - self.config.skip_gradient if self.training else 1.0
        return pyro.sample("z2", noise.to_event(x.dim() - 2)), torch.bernoulli(torch.full_like(x[..., :1], flows))

    def recognise(self, frames: Tensor, mask: Tensor | None, contexts: Rows) -> Rows:
        """b_t."""
        # One row more than steps: b_t has read u_t = x_(t-1), and x_t to x_T.
        started = None if mask is None else F.pad(mask, (1, 0), value=True)
        return (run_backwards(self.backward_net, frames, started)[:, :-1],)

    def initial_memory(self, lead: torch.Size) -> LSTMMemory:
        """Zeros."""
        return LSTMMemory(*self.recurrence.initial(lead))

    def prior(self, state: LSTMMemory, contexts: Rows) -> Gaussian:
        """p(z_t | h_(t-1))."""
        return self.prior_net(_stop(state.h, contexts))

    def posterior(self, state: LSTMMemory, contexts: Rows, recognition: Rows, prior: Prior) -> Gaussian:
        """q(z_t | h_(t-1), b_t)."""
        return self.posterior_net(_stop(state.h, contexts), _stop(recognition[0], contexts))

    def absorb(self, state: LSTMMemory, contexts: Rows, z: Tensor) -> LSTMMemory:
        """h_t = LSTM([x_(t-1), z_t, b~_t], h_(t-1))."""
        past, noise, _ = contexts
        loc, scale = self.imagined(z)
        return LSTMMemory(*self.recurrence((past, z, loc + scale * noise), (state.h, state.c)))

    def emission(self, state: LSTMMemory, contexts: Rows, z: Tensor) -> dist.TorchDistribution:
        """p(x_t | h_t)."""
        return self.observation(self.output(state.h))

    def auxiliary(self, x: Tensor, unroll: Unroll, trajectory: Trajectory) -> Tensor:
        """``alpha log N(b_t; MLP(z_t)) + beta log N(h_(t-1); MLP(z_t))``."""
        b, z = unroll.recognition[0], trajectory.z
        terms = self.config.alpha * dist.Normal(*self.imagined(z)).log_prob(b.detach()).sum(-1)
        if self.imagined_state is not None:
            target = trajectory.before.h.detach()
            terms = terms + self.config.beta * dist.Normal(*self.imagined_state(z)).log_prob(target).sum(-1)
        return terms


def _stop(value: Tensor, contexts: Rows) -> Tensor:
    """Keep the value, and its gradient only where the coin says so."""
    return torch.where(contexts[2] > 0, value, value.detach())
