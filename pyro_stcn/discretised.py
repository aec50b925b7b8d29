"""Probabilities of integer data, such as 16-bit audio: a mixture integrated over the bin of each integer.

A density of standardised integers has no upper limit and depends on the unit. The probability of an integer is at most
1 and has no unit: log-likelihoods are then comparable between systems, whatever their standardisation and floors, and
:func:`bits_per_sample` is all the conversion they need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from pyro.distributions import Categorical, TorchDistribution, constraints
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .data.standardise import Standardiser
from .initialise import glorot_uniform_

__all__ = [
    "BinShape",
    "DiscretisedMixture",
    "DiscretisedMixtureConfig",
    "DiscretisedMixtureHead",
    "IntegerGrid",
    "bits_per_sample",
]

TOLERANCE = 0.05  # of a bin: how far from an integer a value may be; float32 loses at most 0.03 within RANGE
RANGE = 2**17
MIN_SCALE = 0.05  # of a bin: a bin then has a probability of up to 0.9999, and the head costs no bits on silence
MAX_SCALE = 50.0  # in standardised units, as in the other heads


def bits_per_sample(nats: Any, samples: Any) -> Any:
    """Return ``-nats / (samples * log 2)``: bits per integer, lower is better.

    For log-probabilities of a :class:`DiscretisedMixture` there is no Jacobian: the standardisation cancels. A lower
    bound in nats gives an upper bound in bits. Log-*densities* of standardised data need ``+ log2(std)``, and are a
    code length only where the density is flat within a bin.

    :param nats: log-probability in nats, such as of a sequence; a number, array or tensor.
    :param samples: how many integers that covers: steps times channels.
    """
    return -nats / (samples * math.log(2))


@dataclass(frozen=True)
class IntegerGrid:
    """Where the integers ``low ... high`` lie after ``x -> (x - mean) / std``.

    :param mean: in raw units, as all of these.
    :param std: positive; a bin is ``1 / std`` wide in standardised units.
    :param low: smallest integer.
    :param high: largest integer.
    :raises ValueError: for anything that is no such grid, or one too fine for standardised data in float32.
    """

    mean: float
    std: float
    low: int
    high: int

    def __post_init__(self) -> None:
        if not (isinstance(self.mean, int | float) and isinstance(self.std, int | float)):
            raise ValueError(
                f"mean is {self.mean!r} and std {self.std!r}: discretised data need one number each for all channels; "
                "standardise with Standardiser.scalar instead of per_channel"
            )
        if not 0 < self.std < math.inf or not -RANGE <= self.low < self.high <= RANGE:
            raise ValueError(
                f"std is {self.std} and the integers are {self.low} to {self.high}: expected a positive std and "
                f"low < high within ±{RANGE}, which is what float32 can tell apart"
            )
        if not self.low <= self.mean <= self.high:
            raise ValueError(f"mean is {self.mean}, outside of the integers {self.low} to {self.high}")

    @property
    def width(self) -> float:
        """Width of a bin in standardised units."""
        return 1 / self.std

    def raw(self, value: Tensor) -> Tensor:
        """Standardised to raw units, not rounded."""
        return value * self.std + self.mean

    def nearest(self, value: Tensor) -> Tensor:
        """The integer whose bin a standardised value lies in, of the same floating type; the end bins have no end."""
        return self.raw(value).round().clamp(self.low, self.high)

    def position(self, integer: Tensor) -> Tensor:
        """Integers to standardised units."""
        return (integer - self.mean) / self.std

    def snap(self, value: Tensor) -> Tensor:
        """Move standardised values onto the grid, exactly where :class:`Standardiser` puts the integers."""
        return self.position(self.nearest(value).double()).to(value.dtype)


# ------------------------------------------------------------------------------------------------------- shapes of bins


class BinShape(StrEnum):
    """The distribution that a component integrates over bins."""

    LOGISTIC = "logistic"
    GAUSSIAN = "gaussian"


class _Shape(Protocol):
    variance: float  # at scale 1

    def log_mass(self, centre: Tensor, half: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        """Log of the mass within ``centre ± half`` at location 0 and scale 1; the end bins go on to infinity."""

    def noise(self, like: Tensor) -> Tensor:
        """Draw at location 0 and scale 1."""


class _Logistic:
    variance = math.pi**2 / 3

    def log_mass(self, centre: Tensor, half: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        # F(b) - F(a) = F(b) F(-a) (1 - exp(a - b)): nothing cancels, however narrow the bin or far the tail.
        zero = centre.new_zeros(())
        below_upper = torch.where(highest, zero, F.logsigmoid(centre + half))
        above_lower = torch.where(lowest, zero, F.logsigmoid(half - centre))
        bounded = torch.where(lowest | highest, zero, torch.log(-torch.expm1(-2 * half)))
        return below_upper + above_lower + bounded

    def noise(self, like: Tensor) -> Tensor:
        return torch.rand_like(like).logit(eps=torch.finfo(like.dtype).eps)


class _Gaussian:
    variance = 1.0

    def log_mass(self, centre: Tensor, half: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        return _GaussianLogMass.apply(*torch.broadcast_tensors(centre, half, lowest, highest))

    def noise(self, like: Tensor) -> Tensor:
        return torch.randn_like(like)


class _GaussianLogMass(torch.autograd.Function):
    """Value and gradient (once differentiable) without cancellation.

    By symmetry the bin is taken to lie right of the mean: ``near`` is its edge nearer to the mean, negative where the
    mean is in the bin. The mass beyond an edge e > 0 is ``exp(-e^2 / 2) erfcx(e / sqrt 2) / 2``; the exponential goes
    before the bracket, so that the difference of two tails survives where both underflow.

    A function of its own and not left to autograd, which would keep 33 tensors instead of 2, and pass on NaN from the
    branches not taken.
    """

    NARROW = 0.1

    @staticmethod
    def forward(ctx: Any, centre: Tensor, half: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        end, distance, zero = lowest | highest, centre.abs(), centre.new_zeros(())
        near = torch.where(lowest, -centre, torch.where(highest, centre, distance)) - half
        inside = near <= 0
        decay = torch.where(end, zero, torch.exp(-2 * distance * half))  # density at the far edge over that at the near
        beyond = decay * torch.special.erfcx((distance + half) / math.sqrt(2))
        tails = torch.special.erfcx(near.abs() / math.sqrt(2)) + torch.where(inside, beyond, -beyond)
        exponent = -0.5 * near.square()
        log_mass = torch.where(
            inside, torch.log1p(-0.5 * exponent.exp() * tails), exponent + torch.log(0.5 * tails.clamp(min=0))
        )
        # Density at the near edge over the mass.
        hazard = torch.where(
            inside, torch.exp(exponent - log_mass) / math.sqrt(2 * math.pi), math.sqrt(2 / math.pi) / tails
        )
        by_half, by_distance = hazard * (1 + decay), -hazard * torch.where(end, 1, -torch.expm1(-2 * distance * half))

        # A narrow bin is the density in its middle, corrected for the curvature.
        narrow = ~end & (half <= _GaussianLogMass.NARROW) & (distance * half <= _GaussianLogMass.NARROW)
        curvature = _curvature(centre, half)
        density = -0.5 * distance.square() - 0.5 * math.log(2 * math.pi)
        log_mass = torch.where(narrow, density + torch.log(2 * half) + torch.log1p(curvature), log_mass)
        edge = torch.exp(-0.5 * half.square()) / (half * (1 + curvature))
        by_half = torch.where(narrow, edge * torch.cosh(distance * half), by_half)
        by_distance = torch.where(narrow, -edge * torch.sinh(distance * half), by_distance)
        sign = torch.where(lowest, -1, torch.where(highest, 1, centre.sign()))
        ctx.save_for_backward(by_distance * sign, by_half)
        return log_mass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_centre, by_half = ctx.saved_tensors
        return gradient * by_centre, gradient * by_half, None, None


def _curvature(c: Tensor, w: Tensor) -> Tensor:
    """Mean of the standard normal density over ``c ± w``, over its value at c, minus 1; to 1e-14 for w and cw <= 0.1.

    The k-th of the four terms is ``He_2k(c) w^2k / (2k + 1)!``, from the Taylor series of the density.
    """
    p, q = (c * w).square(), w.square()
    second = p.square() - 6 * p * q + 3 * q.square()
    third = p**3 - 15 * p.square() * q + 45 * p * q.square() - 15 * q**3
    fourth = p**4 - 28 * p**3 * q + 210 * (p * q).square() - 420 * p * q**3 + 105 * q**4
    return (p - q) / 6 + second / 120 + third / 5040 + fourth / 362880


_SHAPES: dict[BinShape, _Shape] = {BinShape.LOGISTIC: _Logistic(), BinShape.GAUSSIAN: _Gaussian()}


# ----------------------------------------------------------------------------------------------------- the distribution


class DiscretisedMixture(TorchDistribution):
    """Mixture of M discretised logistics or Gaussians over all D dims of an event jointly: one index per event.

    With bins of width h and F the distribution function at location 0 and scale 1::

        log p(x) = logsumexp_m [log pi_m + sum_d log(F((x_d + h/2 - mu_md) / s_md) - F((x_d - h/2 - mu_md) / s_md))]

    where the first and last bin reach to infinity. The bins are those of PixelCNN++ (Salimans et al. 2017, per channel
    there, for 8-bit images) and of Havtorn et al. 2022 (for audio); one index per event as in the mixture density of
    the STCN paper, which Gaussian bins converge to: ``log p(x) -> log density(x) + D log h`` as ``h / s -> 0``.

    Values are standardised integers, as data are everywhere in this library. What lies between two integers counts as
    the nearest: ``log_prob`` is flat in ``value``.

    :param logits: unnormalised log-weights, ``(..., M)``.
    :param loc: locations in standardised units, ``(..., M, D)``.
    :param scale: scales in standardised units, ``(..., M, D)``; a logistic has standard deviation ``scale pi/sqrt 3``.
    :param grid: where the integers lie.
    :param shape: logistic or Gaussian; gradients of the latter are of first order only.
    """

    arg_constraints: ClassVar = {
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        grid: IntegerGrid,
        shape: BinShape = BinShape.LOGISTIC,
        validate_args=None,
    ):
        batch_shape = torch.broadcast_shapes(logits.shape[:-1], loc.shape[:-2], scale.shape[:-2])
        self.logits = logits.log_softmax(-1)
        self.loc = loc
        self.scale = scale
        self.grid = grid
        self.bins = BinShape(shape)  # `shape` is a method of Pyro's distributions
        super().__init__(batch_shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        """Return the distribution with a larger batch shape, as views."""
        new = self._get_checked_instance(DiscretisedMixture, _instance)
        batch_shape = torch.Size(batch_shape)
        new.logits = self.logits.expand(batch_shape + self.logits.shape[-1:])
        new.loc = self.loc.expand(batch_shape + self.loc.shape[-2:])
        new.scale = self.scale.expand(batch_shape + self.scale.shape[-2:])
        new.grid, new.bins = self.grid, self.bins
        super(DiscretisedMixture, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability in nats, at most 0, of ``(..., D)``: shape ``(...)``.

        :raises ValueError: with validation on, for a value that is no standardised integer of the grid. A step that is
            zero in all channels is let pass: that is what padding looks like.
        """
        if self._validate_args:
            self._validate_sample(value)
            self._check_grid(value)
        # The weights add up to one up to rounding only.
        return (self.logits + self.component_log_prob(value).sum(-1)).logsumexp(-1).clamp(max=0.0)

    def component_log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of every dimension in every component: ``(..., M, D)`` of ``(..., D)``."""
        integer = self.grid.nearest(value).to(self.loc.dtype).unsqueeze(-2)
        centre = (self.grid.position(integer) - self.loc) / self.scale
        half = 0.5 * self.grid.width / self.scale
        return _SHAPES[self.bins].log_mass(centre, half, integer == self.grid.low, integer == self.grid.high)

    def weighted(self, logits: Tensor) -> DiscretisedMixture:
        """Return the mixture with other log-weights, ``(..., M)``."""
        return DiscretisedMixture(logits, self.loc, self.scale, self.grid, self.bins)

    def _check_grid(self, value: Tensor) -> None:
        raw = self.grid.raw(value)
        off = (raw - self.grid.nearest(value)).abs() > TOLERANCE
        off &= (value != 0).any(-1, keepdim=True)
        if off.any():
            index = tuple(off.nonzero()[0].tolist())
            raise ValueError(
                f"the value {value[index].item():.6g} at {list(index)} (the last number is the channel) is "
                f"{raw[index].item():.6g} in raw units, which is no integer from {self.grid.low} to {self.grid.high}: "
                f"the data must be integers, standardised with the mean {self.grid.mean} and std {self.grid.std} that "
                "this likelihood was given"
            )

    def sample(self, sample_shape: tuple[int, ...] = ()):
        """Draw a component, then the event from it, then round to the grid."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            index = Categorical(logits=self.logits.expand(*self.batch_shape, -1)).sample(torch.Size(sample_shape))
            index = index[..., None, None].expand(*shape, 1, self.event_shape[0])
            parameters = shape + self.loc.shape[-2:]
            loc = self.loc.expand(parameters).gather(-2, index).squeeze(-2)
            scale = self.scale.expand(parameters).gather(-2, index).squeeze(-2)
            return self.grid.snap(loc + scale * _SHAPES[self.bins].noise(loc))

    @property
    def mean(self) -> Tensor:
        """Mean before rounding, ``(..., D)``, of locations moved into the range.

        Rounding moves a mean by less than half a bin; by less than a millionth where scales are above one bin.
        """
        mean = (self.logits.exp().unsqueeze(-1) * self._inside()).sum(-2)
        return mean.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Marginal variances, ``(..., D)``: before rounding, plus ``h^2 / 12`` for it (Sheppard's correction).

        With scales above one bin, and away from the ends, that is right to a millionth of a squared bin; a standard
        deviation is always right to a bin.
        """
        variance = self.scale.square() * _SHAPES[self.bins].variance
        spread = variance + (self._inside() - self.mean.unsqueeze(-2)).square()
        variance = (self.logits.exp().unsqueeze(-1) * spread).sum(-2)
        return variance + self.grid.width**2 / 12

    def _inside(self) -> Tensor:
        low, high = ((end - self.grid.mean) / self.grid.std for end in (self.grid.low, self.grid.high))
        return self.loc.clamp(low, high)


# ------------------------------------------------------------------------------------------------------------- the head


@dataclass(frozen=True)
class DiscretisedMixtureConfig:
    """A mixture of discretised logistics or Gaussians over the channels of a step jointly, for integer data.

    Compare systems by bits per sample, :func:`bits_per_sample`; no Jacobian is needed. Not to be compared with a
    log-density of standardised data.

    :param components: number of components.
    :param mean: what was taken off the integers, one number for all channels.
    :param std: what they were then divided by, likewise.
    :param low: smallest integer.
    :param high: largest integer.
    :param shape: what is integrated over the bins; Gaussian with 20 components is the paper's mixture, made discrete.
    :raises ValueError: for no components, a mean and std per channel, or anything else that is no grid.
    """

    components: int = 10
    mean: float = 0.0
    std: float = 1.0
    low: int = -(2**15)
    high: int = 2**15 - 1
    shape: BinShape = BinShape.LOGISTIC

    normalised: ClassVar[bool] = True
    discrete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", BinShape(self.shape))  # JSON gives a plain string
        if self.components < 1:
            raise ValueError(f"components must be at least 1, not {self.components}")
        _ = self.grid  # checks the rest

    @classmethod
    def for_integers(cls, standardiser: Standardiser, **options: Any) -> DiscretisedMixtureConfig:
        """Return the config for integers standardised like this, such as ``corpus.standardiser`` of ``load_timit``.

        :param standardiser: with one mean and std for all channels.
        :param options: the other fields; the range is int16's unless given.
        :raises ValueError: for a standardiser per channel.
        """
        return cls(mean=standardiser.mean, std=standardiser.std, **options)

    @property
    def grid(self) -> IntegerGrid:
        """Where the integers lie in standardised units."""
        return IntegerGrid(self.mean, self.std, self.low, self.high)

    def build(self, in_dim: int, data_dim: int) -> DiscretisedMixtureHead:
        """Return the head for features of ``in_dim`` channels."""
        return DiscretisedMixtureHead(in_dim, data_dim, self)


class DiscretisedMixtureHead(nn.Module):
    """Features ``(..., in_dim)`` to a discretised mixture with event shape ``(data_dim,)``.

    Scales are a softplus clamped to [0.05 bins, 50 standardised units].
    """

    def __init__(self, in_dim: int, data_dim: int, config: DiscretisedMixtureConfig):
        super().__init__()
        self.grid, self.bins = config.grid, config.shape
        self.sizes = (config.components, data_dim)
        self.logits = nn.Linear(in_dim, config.components)
        self.loc = nn.Linear(in_dim, config.components * data_dim)
        self.scale = nn.Linear(in_dim, config.components * data_dim)
        for layer in (self.logits, self.loc, self.scale):
            glorot_uniform_(layer)

    def forward(self, h: Tensor) -> DiscretisedMixture:
        """Return p(x | h)."""
        loc = self.loc(h).unflatten(-1, self.sizes)
        scale = F.softplus(self.scale(h)).clamp(MIN_SCALE * self.grid.width, MAX_SCALE).unflatten(-1, self.sizes)
        return DiscretisedMixture(self.logits(h), loc, scale, self.grid, self.bins)
