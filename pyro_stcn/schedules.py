"""Schedules: pure functions of the step, which counts from 1 as in the authors' code."""

from __future__ import annotations

import math

__all__ = ["adam_epsilon_hat", "exponential_decay", "kl_weight", "linear"]


def kl_weight(step: int, increment: float = 1e-4, start: float = 0.0) -> float:
    """Weight of the KL terms: ``min(1, start + step * increment)``, the paper's linear annealing with ``start`` 0.

    At step 1 it is ``start + increment``, not 0: as in the authors' code, and Pyro refuses a scale of 0.

    :raises ValueError: for an increment that is not positive. Use 1.0 for no annealing.
    """
    if not increment > 0:
        raise ValueError(f"the KL weight's increment must be positive, not {increment}; 1.0 means no annealing")
    return linear(step, start, 1.0, increment)


def linear(step: int, start: float, end: float, increment: float) -> float:
    """Value that moves from ``start`` towards ``end``, up or down, by ``increment`` a step, and stays there."""
    way = min(step * increment, abs(end - start))
    return start + math.copysign(way, end - start)


def exponential_decay(step: int, initial: float, rate: float, steps: int = 1000) -> float:
    """Learning rate ``initial * rate ** (step / steps)``, decaying at every step."""
    return initial * rate ** (step / steps)


def adam_epsilon_hat(update: int, epsilon: float = 1e-8, beta2: float = 0.999) -> float:
    """Return the epsilon that makes torch's Adam take TensorFlow's step at its ``update``-th update.

    TensorFlow adds epsilon to sqrt(v) before the bias correction, torch afterwards, so theirs is
    ``epsilon / sqrt(1 - beta2 ** update)`` in torch's terms: 32 times as large at the first update, the same in the
    long run.
    """
    return epsilon / math.sqrt(1 - beta2**update)
