"""What a particle filter asks of a model: one step at a time for K particles of every sequence, and selection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["ParticleFilter", "Terms", "gather"]


class Terms(NamedTuple):
    """Log-densities of one step, ``(particles, batch)`` each."""

    prior: Tensor
    posterior: Tensor
    likelihood: Tensor


class ParticleFilter(ABC):
    """A model over one batch, seen by a filter. States are values, never changed in place.

    :param particles: K.
    """

    steps: int

    @abstractmethod
    def start(self) -> Any:
        """Return the state of all particles before the first step."""

    @abstractmethod
    def advance(self, t: int, state: Any) -> tuple[Any, Terms]:
        """Draw the latents of step t (from 0) from the guide; return the new state and the densities of the step."""

    @abstractmethod
    def select(self, state: Any, ancestors: Tensor) -> Any:
        """Return the state in which particle k of a sequence goes on from ``ancestors[k]``, ``(particles, batch)``."""


def gather(value: Tensor, ancestors: Tensor) -> Tensor:
    """Choose among the particles of ``(particles, batch, ...)``."""
    return value[ancestors, torch.arange(ancestors.shape[1], device=value.device)]
