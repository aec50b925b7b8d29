"""Heads for bits and for categories: probabilities, which have no unit, and not densities.

Neither may be standardised, and both say what values they have a probability for: ``check_values`` asks them before
anything is learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
from torch import Tensor, nn

from .data.batch import SequenceDataset
from .data.checks import DataError
from .initialise import glorot_uniform_

__all__ = ["BernoulliConfig", "BernoulliHead", "CategoricalConfig", "CategoricalHead", "check_values", "pen_is_no_bit"]


@dataclass(frozen=True)
class BernoulliConfig:
    """Independent bits, such as the notes of a piano roll."""

    normalised: ClassVar[bool] = True
    discrete: ClassVar[bool] = True  # probabilities, which have no unit
    values: ClassVar[str] = "0 and 1: binarise the data, leave these channels unscaled (keep, standardise='none')"

    def build(self, in_dim: int, data_dim: int) -> BernoulliHead:
        """Return the head for features of ``in_dim`` channels."""
        return BernoulliHead(in_dim, data_dim)

    def impossible(self, steps: np.ndarray) -> np.ndarray:
        """Where ``(T, D)`` holds what no bit can be: bool of the same shape."""
        return (steps != 0) & (steps != 1)


class BernoulliHead(nn.Module):
    """Features ``(..., in_dim)`` to Bernoullis with event shape ``(data_dim,)``."""

    def __init__(self, in_dim: int, data_dim: int):
        super().__init__()
        self.logits = nn.Linear(in_dim, data_dim)
        glorot_uniform_(self.logits)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x | h)."""
        return dist.Bernoulli(logits=self.logits(h)).to_event(1)


@dataclass(frozen=True)
class CategoricalConfig:
    """One of several categories a step, in channels of which one is 1 and the others are 0.

    Its log-likelihoods are log-probabilities, and per dimension they are per step: a step is one choice.
    """

    normalised: ClassVar[bool] = True
    discrete: ClassVar[bool] = True
    values_per_step: ClassVar[int] = 1
    values: ClassVar[str] = "steps of one 1 and else 0: load_categories makes them, and they stay unscaled"

    def build(self, in_dim: int, data_dim: int) -> CategoricalHead:
        """Return the head for features of ``in_dim`` channels.

        :raises ValueError: for fewer than two categories.
        """
        if data_dim < 2:
            raise ValueError(f"a category is one of at least two, a channel for each; data_dim is {data_dim}")
        return CategoricalHead(in_dim, data_dim)

    def impossible(self, steps: np.ndarray) -> np.ndarray:
        """Where ``(T, D)`` holds what is no one-hot step: bool of the same shape."""
        bits = (steps == 0) | (steps == 1)
        return ~bits | ((steps.sum(1) != 1) & bits.all(1))[:, None]


class CategoricalHead(nn.Module):
    """Features ``(..., in_dim)`` to a one-hot categorical with event shape ``(data_dim,)``."""

    def __init__(self, in_dim: int, data_dim: int):
        super().__init__()
        self.logits = nn.Linear(in_dim, data_dim)
        glorot_uniform_(self.logits)

    def forward(self, h: Tensor) -> dist.OneHotCategorical:
        """Return p(x | h)."""
        # Masked steps are all zeros, which is no category: their log-probability is computed and then masked out.
        return dist.OneHotCategorical(logits=self.logits(h), validate_args=False)


def pen_is_no_bit(steps: np.ndarray) -> np.ndarray:
    """Where the last channel of ``(T, D)`` is neither 0 nor 1: bool of the same shape."""
    wrong = np.zeros(steps.shape, dtype=bool)
    wrong[:, -1] = BernoulliConfig().impossible(steps[:, -1:])[:, 0]
    return wrong


def check_values(head: Any, dataset: SequenceDataset) -> None:
    """Refuse data that a head gives no probability to, where it says what it does: ``impossible(steps)``.

    Pyro meets such a value, too, and says of a Bernoulli that 0.3 is outside its support, without saying where; and
    with its validation off, it computes something.

    :param head: the config of an observation model.
    :raises DataError: naming the sequence, the step, the channel and what the head takes.
    """
    if not hasattr(head, "impossible"):
        return
    for i, name in enumerate(dataset.names):
        x = dataset[i]
        wrong = head.impossible(x)
        if dataset.observed:
            wrong &= dataset.mask(i)[:, None]
        if wrong.any():
            step, channel = np.argwhere(wrong)[0]
            raise DataError(
                f"sequence {name!r} holds {x[step, channel]:g} at step {step}, channel {channel}, the first "
                f"of {int(wrong.sum())} values that {type(head).__name__} has no probability for. It "
                f"takes {head.values}"
            )
