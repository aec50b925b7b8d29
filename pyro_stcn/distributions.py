"""Distributions of one time-step that Pyro and torch lack: a joint Gaussian mixture and a pen stroke."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import Categorical, MaskedDistribution, Normal, TorchDistribution, constraints
from torch import Tensor

__all__ = ["DiagonalGaussianMixture", "PenStroke", "log_marginals"]


class DiagonalGaussianMixture(TorchDistribution):
    """Mixture of M diagonal Gaussians over all D dims of an event jointly: one component index per event.

    ``log_prob`` is one fused log-sum-exp; any D >= 1.

    :param logits: unnormalised log-weights, ``(..., M)``.
    :param loc: means, ``(..., M, D)``.
    :param scale: standard deviations, ``(..., M, D)``.
    :param floor: smallest value that ``log_prob`` uses for a weight. Only 0 (default) gives a density: the authors'
        code uses 1e-6, which adds up to ``M * floor`` of probability mass, and is offered to reproduce its numbers.
    """

    arg_constraints: ClassVar = {
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, floor: float = 0.0, validate_args=None):
        batch_shape = torch.broadcast_shapes(logits.shape[:-1], loc.shape[:-2], scale.shape[:-2])
        self.logits = logits.log_softmax(-1)
        self.loc = loc
        self.scale = scale
        self.floor = floor
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        """Return the distribution with a larger batch shape, as views."""
        new = self._get_checked_instance(DiagonalGaussianMixture, _instance)
        batch_shape = torch.Size(batch_shape)
        new.logits = self.logits.expand(batch_shape + self.logits.shape[-1:])
        new.loc = self.loc.expand(batch_shape + self.loc.shape[-2:])
        new.scale = self.scale.expand(batch_shape + self.scale.shape[-2:])
        new.floor = self.floor
        super(DiagonalGaussianMixture, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats of ``(..., D)``: shape ``(...)``."""
        if self._validate_args:
            self._validate_sample(value)
        standard = (value.unsqueeze(-2) - self.loc) / self.scale
        log_component = -(0.5 * standard.square() + self.scale.log()).sum(-1)
        log_weight = self.logits.clamp(min=math.log(self.floor)) if self.floor else self.logits
        constant = 0.5 * math.log(2 * math.pi) * self.event_shape[0]
        return (log_weight + log_component).logsumexp(-1) - constant

    def component_log_prob(self, value: Tensor) -> Tensor:
        """Log-density of every dimension in every component: ``(..., M, D)`` of ``(..., D)``."""
        standard = (value.unsqueeze(-2) - self.loc) / self.scale
        return -(0.5 * standard.square() + self.scale.log()) - 0.5 * math.log(2 * math.pi)

    def marginal_log_prob(self, value: Tensor) -> Tensor:
        """Log-density of every dimension by itself: ``(..., D)`` of ``(..., D)``."""
        return (self.logits.unsqueeze(-1) + self.component_log_prob(value)).logsumexp(-2)

    def weighted(self, logits: Tensor) -> DiagonalGaussianMixture:
        """Return the mixture with other log-weights, ``(..., M)``."""
        return DiagonalGaussianMixture(logits, self.loc, self.scale, self.floor)

    def sample(self, sample_shape: tuple[int, ...] = ()):
        """Draw a component, then the event from it."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            index = Categorical(logits=self.logits.expand(*self.batch_shape, -1)).sample(torch.Size(sample_shape))
            index = index[..., None, None].expand(*shape, 1, self.event_shape[0])
            parameters = shape + self.loc.shape[-2:]
            loc = self.loc.expand(parameters).gather(-2, index).squeeze(-2)
            scale = self.scale.expand(parameters).gather(-2, index).squeeze(-2)
            return torch.normal(loc, scale)

    @property
    def mean(self) -> Tensor:
        """Mean of the mixture, ``(..., D)``."""
        mean = (self.logits.exp().unsqueeze(-1) * self.loc).sum(-2)
        return mean.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Marginal variances of the mixture, ``(..., D)``."""
        # About the mean, not about zero: the difference of two large numbers would have no correct digit.
        spread = self.scale.square() + (self.loc - self.mean.unsqueeze(-2)).square()
        return (self.logits.exp().unsqueeze(-1) * spread).sum(-2)


class PenStroke(TorchDistribution):
    """A pen's movement and whether it lifts: ``p(dx, dy) p(pen)``, independent given the latents.

    :param stroke: distribution of the first D channels, with one event dim.
    :param pen_logits: log-odds that the last channel is 1, ``(...)``.
    :param floor: smallest probability of a pen bit that ``log_prob`` uses; see :class:`DiagonalGaussianMixture`.
        The authors' code uses 1e-5, so that a confident mistake costs at most 11.5 nats.
    """

    arg_constraints: ClassVar = {"pen_logits": constraints.real}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, stroke: TorchDistribution, pen_logits: Tensor, floor: float = 0.0, validate_args=None):
        batch_shape = torch.broadcast_shapes(stroke.batch_shape, pen_logits.shape)
        self.stroke = stroke if stroke.batch_shape == batch_shape else stroke.expand(batch_shape)
        self.pen_logits = pen_logits.expand(batch_shape)
        self.floor = floor
        event_shape = torch.Size([stroke.event_shape[0] + 1])
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        """Return the distribution with a larger batch shape, as views."""
        new = self._get_checked_instance(PenStroke, _instance)
        batch_shape = torch.Size(batch_shape)
        new.stroke = self.stroke.expand(batch_shape)
        new.pen_logits = self.pen_logits.expand(batch_shape)
        new.floor = self.floor
        super(PenStroke, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats of ``(..., D + 1)``, last channel 0 or 1: shape ``(...)``."""
        pen = value[..., -1]
        if self._validate_args and not ((pen == 0) | (pen == 1)).all():
            raise ValueError(
                "the last channel of a pen stroke must be 0 or 1; it may have been standardised with the others"
            )
        log_up = torch.nn.functional.logsigmoid(self.pen_logits)
        log_down = torch.nn.functional.logsigmoid(-self.pen_logits)
        if self.floor:
            log_up, log_down = (
                log_up.clamp(min=math.log(self.floor)),
                log_down.clamp(min=math.log(self.floor)),
            )
        return self.stroke.log_prob(value[..., :-1]) + torch.where(pen > 0.5, log_up, log_down)

    def marginal_log_prob(self, value: Tensor) -> Tensor:
        """Log-density of every dimension by itself, of the pen the log-probability: ``(..., D + 1)``."""
        stroke = log_marginals(self.stroke, value[..., :-1])
        assert stroke is not None  # every stroke distribution has them
        sign = 2 * value[..., -1:] - 1
        return torch.cat([stroke, torch.nn.functional.logsigmoid(sign * self.pen_logits.unsqueeze(-1))], dim=-1)

    def sample(self, sample_shape: tuple[int, ...] = ()):
        """Draw the movement and the pen bit."""
        with torch.no_grad():
            probability = torch.sigmoid(self.pen_logits).expand(torch.Size(sample_shape) + self.batch_shape)
            pen = torch.bernoulli(probability)
            return torch.cat([self.stroke.sample(sample_shape), pen.unsqueeze(-1)], dim=-1)

    @property
    def mean(self) -> Tensor:
        """Mean of every channel, ``(..., D + 1)``; for the pen its probability."""
        return torch.cat([self.stroke.mean, torch.sigmoid(self.pen_logits).unsqueeze(-1)], dim=-1)

    @property
    def variance(self) -> Tensor:
        """Variance of every channel, ``(..., D + 1)``."""
        probability = torch.sigmoid(self.pen_logits)
        return torch.cat([self.stroke.variance, (probability * (1 - probability)).unsqueeze(-1)], dim=-1)


def log_marginals(distribution: Any, value: Tensor) -> Tensor | None:
    """Log-density of every dimension of ``value`` by itself, ``(..., D)``; None for what is no density.

    :param distribution: of an event ``(D,)``, masked or with further dimensions made part of the event.
    """
    while isinstance(distribution, (MaskedDistribution, torch.distributions.Independent)):
        distribution = distribution.base_dist
    if isinstance(distribution, Normal):
        return distribution.log_prob(value)
    if isinstance(distribution, (DiagonalGaussianMixture, PenStroke)):
        return distribution.marginal_log_prob(value)
    return None
