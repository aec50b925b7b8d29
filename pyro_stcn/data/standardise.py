"""Standardising data and turning a density of standardised data into one of raw data.

Published log-likelihoods of speech and handwriting are densities of *standardised* data. They depend on the unit:
``Standardiser.log_jacobian`` is the difference to the same density in raw units.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import torch

from .checks import DataError, constant_channels, is_constant

Values = TypeVar("Values", np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class Standardiser:
    """The map ``x -> (x - mean) / std``, with one pair of numbers for all values or one per channel.

    :param mean: a float, or a tuple of D floats; in the units of the raw data.
    :param std: of the same form, positive; in the units of the raw data.
    :raises DataError: if the two do not have the same form, are not finite, or a std is not positive.
    """

    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]

    def __post_init__(self) -> None:
        if np.ndim(self.mean) > 1 or np.shape(self.mean) != np.shape(self.std):
            raise DataError(
                f"mean has shape {np.shape(self.mean)} and std {np.shape(self.std)}: give two "
                "floats, or two tuples with one float per channel"
            )
        for name in ("mean", "std"):
            value = getattr(self, name)
            plain = float(value) if np.ndim(value) == 0 else tuple(float(v) for v in value)
            object.__setattr__(self, name, plain)
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all()):
            raise DataError(f"mean {self.mean} and std {self.std} must be finite")
        if np.any(np.asarray(self.std) <= 0):
            raise DataError(
                f"std is {self.std}, and every entry must be positive: leave constant channels out "
                "of the data, or give them mean 0 and std 1"
            )

    @classmethod
    def scalar(cls, sequences: Sequence[np.ndarray]) -> Self:
        """One mean and standard deviation over all values of all sequences, in float64.

        :param sequences: arrays of any shape and real type, such as waveforms ``(N,)`` or ``(T, D)``.
        :raises DataError: if there are no values or all values are the same.
        """
        count = sum(array.size for array in sequences)
        if count == 0:
            raise DataError("there are no values to take a mean of: give at least one sequence")
        if is_constant(sequences):
            raise DataError(
                "every value of the data is the same, so their standard deviation is 0: "
                "check that the right files were read"
            )
        # Two passes, one sequence in float64 at a time: exact enough, and no second copy of all.
        mean = math.fsum(array.sum(dtype=np.float64) for array in sequences) / count
        square = math.fsum(np.square(array - np.float64(mean)).sum() for array in sequences)
        return cls(mean, math.sqrt(square / count))

    @classmethod
    def per_channel(cls, sequences: Sequence[np.ndarray], keep: Collection[int] = ()) -> Self:
        """A mean and standard deviation for each channel over all steps, in float64.

        :param sequences: arrays of shape ``(T_i, D)``.
        :param keep: channels to leave as they are (mean 0, std 1), such as the 0/1 pen-up channel of handwriting, whose
            likelihood is a probability and has no unit.
        :raises DataError: if there are no steps, or naming the channels that are constant.
        """
        steps = sum(len(array) for array in sequences)
        if steps == 0:
            raise DataError("there are no steps to take a mean of: give at least one sequence")
        constant = [c for c in constant_channels(a for a in sequences if len(a)) if c not in keep]
        if constant:
            raise DataError(
                f"channels {constant} hold one value at every step, so their standard deviation is "
                f"0: leave them out of the data, or leave them unscaled with keep={constant}"
            )
        mean = np.sum([array.sum(axis=0, dtype=np.float64) for array in sequences], axis=0) / steps
        square = np.sum([np.square(array - mean).sum(axis=0) for array in sequences], axis=0)
        std = np.sqrt(square / steps)
        mean[list(keep)], std[list(keep)] = 0.0, 1.0
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def apply(self, x: Values) -> Values:
        """Raw to standardised.

        :param x: values of shape ``(..., D)``; any shape if the numbers are scalars. An array of any real type gives
            float32; a tensor keeps its type.
        """
        if isinstance(x, torch.Tensor):
            mean, std = self._like(x)
            return (x - mean) / std
        self._check_channels(x.shape)
        return ((x - np.asarray(self.mean)) / np.asarray(self.std)).astype(np.float32)

    def invert(self, x: Values) -> Values:
        """Standardised to raw, for values of shape ``(..., D)`` of a floating type, which is kept."""
        if isinstance(x, torch.Tensor):
            mean, std = self._like(x)
            return x * std + mean
        self._check_channels(x.shape)
        return (x * np.asarray(self.std) + np.asarray(self.mean)).astype(x.dtype)

    def log_jacobian(self, data_dim: int) -> float:
        """Nats per step to add to a log-density of standardised data to get that of the raw data.

        This is minus the sum of log std over the ``data_dim`` channels of a step: a density per raw unit is smaller
        than one per standard deviation by that factor. (Scalars count ``data_dim`` times.)

        :raises DataError: if the number of channels is not that of a per-channel standardiser.
        """
        if isinstance(self.std, float):
            return -data_dim * math.log(self.std)
        self._check_channels((data_dim,))
        return -math.fsum(math.log(value) for value in self.std)

    def to_dict(self) -> dict[str, Any]:
        """The two attributes as floats or lists of floats, which JSON keeps exactly."""
        return {
            "mean": self.mean if isinstance(self.mean, float) else list(self.mean),
            "std": self.std if isinstance(self.std, float) else list(self.std),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """The inverse of ``to_dict``."""
        return cls(state["mean"], state["std"])

    def _like(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self._check_channels(tuple(x.shape))
        return x.new_tensor(self.mean), x.new_tensor(self.std)

    def _check_channels(self, shape: tuple[int, ...]) -> None:
        if isinstance(self.std, tuple) and (not shape or shape[-1] != len(self.std)):
            raise DataError(
                f"data of shape {tuple(shape)} do not fit a standardiser of {len(self.std)} "
                "channels: the last dimension must be the channels"
            )
