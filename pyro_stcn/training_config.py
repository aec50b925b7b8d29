"""How to train: one frozen set of numbers that goes into every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from .schedules import kl_weight, linear

__all__ = ["TrainingConfig"]


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. The defaults are the paper's for speech.

    :param steps: updates in all.
    :param batch_size: sequences per update.
    :param learning_rate: of Adam, at the start.
    :param decay_rate: the learning rate is multiplied by this every ``decay_steps`` updates, continuously.
    :param decay_steps: updates per decay.
    :param kl_increment: the KL weight is ``min(1, kl_start + step * kl_increment)``; 1 for no annealing.
    :param kl_start: the KL weight before the first update.
    :param auxiliary_start: weight of the training-only term of a model that has one (``net.has_training_term``); it
        moves by ``auxiliary_increment`` a step to ``auxiliary_end``. Other models ignore the three.
    :param auxiliary_end: see there.
    :param auxiliary_increment: see there.
    :param clip_norm: largest global norm of the gradient; ``math.inf`` for no clipping.
    :param mean_over_steps: the loss of a sequence is its mean over the steps that are scored (the authors' handwriting
        models), not their sum (speech).
    :param adam_epsilon: Adam's epsilon.
    :param tensorflow_epsilon: apply Adam's epsilon as TensorFlow does, see
        :func:`~pyro_stcn.schedules.adam_epsilon_hat`.
    :param evaluate_every: updates between validations; also between checkpoints.
    :param patience: validations in a row without a new best after which training stops, counted once annealing
        has ended.
    :param bfloat16_blocks: run the convolution blocks of training steps in bfloat16; latents and log-probabilities
        stay as they are.
    :param log_every: updates between rows of the log.
    :param seed: of the order of the batches and of all noise.
    """

    steps: int = 100_000
    batch_size: int = 20
    learning_rate: float = 1e-3
    decay_rate: float = 0.98
    decay_steps: int = 1000
    kl_increment: float = 1e-4
    kl_start: float = 0.0
    auxiliary_start: float = 1.0
    auxiliary_end: float = 1.0
    auxiliary_increment: float = 1.0
    clip_norm: float = 1.0
    mean_over_steps: bool = False
    adam_epsilon: float = 1e-8
    tensorflow_epsilon: bool = False
    evaluate_every: int = 1000
    patience: int = 10
    bfloat16_blocks: bool = False
    log_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "evaluate_every", "patience", "log_every", "decay_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in (
            "learning_rate",
            "decay_rate",
            "kl_increment",
            "auxiliary_increment",
            "clip_norm",
            "adam_epsilon",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("kl_start", "auxiliary_start", "auxiliary_end"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, it is {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:  # what NumPy and torch both take
            raise ValueError(f"seed must be from 0 to {2**32 - 1}, not {self.seed}")

    def kl_weight(self, step: int) -> float:
        """Weight of the KL terms at an update, from 1."""
        return kl_weight(step, self.kl_increment, self.kl_start)

    def auxiliary_weight(self, step: int) -> float:
        """Weight of the training-only term at an update, from 1."""
        return linear(step, self.auxiliary_start, self.auxiliary_end, self.auxiliary_increment)
