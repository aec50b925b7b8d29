"""The objectives of training by name: one place for all that let a user choose one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from .bounds import FIVO, IWAE, DReG, FreeBits
from .bounds.fivo import model_of
from .bounds.objective import refuse_estimates
from .models import SequenceModel
from .training_config import TrainingConfig

__all__ = ["FLOOR", "OBJECTIVES", "ObjectiveKind", "check_objective", "objective"]

FLOOR = 0.05  # nats per step and layer

# The model's plates nest at most two deep; told so, Pyro does not run the pair once more to see.
_PLATES = {"vectorize_particles": True, "max_plate_nesting": 2}


@dataclass(frozen=True)
class ObjectiveKind:
    """A kind of objective.

    :param meaning: what it is, in a line.
    :param build: makes it, from the number of particles and the floor.
    :param particles: how many particles it has where none are asked for.
    """

    meaning: str
    build: Callable[[int, float], ELBO]
    particles: int = 1


def _free_bits(particles: int, floor: float) -> ELBO:
    if particles != 1:
        raise ValueError(f"freebits has one particle, not {particles}")
    return FreeBits(floor)


#: name -> :class:`ObjectiveKind`
OBJECTIVES: dict[str, ObjectiveKind] = {
    "meanfield": ObjectiveKind(
        "Pyro's TraceMeanField_ELBO, with the analytic KL", lambda k, _: TraceMeanField_ELBO(num_particles=k, **_PLATES)
    ),
    "trace": ObjectiveKind("Pyro's Trace_ELBO", lambda k, _: Trace_ELBO(num_particles=k, **_PLATES)),
    "graph": ObjectiveKind("Pyro's TraceGraph_ELBO", lambda k, _: TraceGraph_ELBO(num_particles=k, **_PLATES)),
    "renyi": ObjectiveKind(
        "Pyro's RenyiELBO with alpha 0", lambda k, _: RenyiELBO(alpha=0, num_particles=k, **_PLATES), 5
    ),
    "iwae": ObjectiveKind("importance weights, one per sequence", lambda k, _: IWAE(k, **_PLATES), 5),
    "iwae-per-step": ObjectiveKind(
        "importance weights, one per step, for models whose steps are independent given the past of x",
        lambda k, _: IWAE(k, ("sequences", "time"), **_PLATES),
        5,
    ),
    "dreg": ObjectiveKind("IWAE with doubly reparameterised gradients", lambda k, _: DReG(k, **_PLATES), 5),
    "fivo": ObjectiveKind("a particle filter, for models that have one", lambda k, _: FIVO(k), 5),
    "freebits": ObjectiveKind("the ELBO with a part of every layer's KL free of charge", _free_bits),
}


def objective(name: str, particles: int | None = None, floor: float = FLOOR) -> ELBO:
    """Make an objective by name.

    :param particles: draws per sequence; None for as many as its kind has by default.
    :param floor: of freebits, nats per step and layer; others ignore it.
    :raises ValueError: for a name that is not in :data:`OBJECTIVES`, no particles, or more than it can have.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"there is no objective {name!r}; there are: {', '.join(OBJECTIVES)}")
    kind = OBJECTIVES[name]
    particles = kind.particles if particles is None else particles
    if particles < 1:
        raise ValueError(f"an objective needs at least 1 particle, not {particles}")
    return kind.build(particles, floor)


def check_objective(net: SequenceModel, elbo: ELBO, config: TrainingConfig) -> None:
    """Refuse, before anything is trained, an objective that a model does not have.

    The objectives say the same themselves, when they run.

    :param net: the model; its weights are not looked at, so that it may be on the device "meta".
    :raises ValueError: for a weight per step where steps are not independent, for weights that give no bound, or for a
        particle filter with a training-only term.
    :raises NotImplementedError: for a particle filter of a model that has none.
    """
    system = type(net).__name__
    if isinstance(elbo, FIVO):
        model_of(net.guide)
        if net.has_training_term and (config.auxiliary_start or config.auxiliary_end):
            raise ValueError(
                f"{system} has a training-only term, for which a particle filter has no place: --auxiliary-start 0 "
                "--auxiliary-end 0, or another objective"
            )
    if isinstance(elbo, IWAE) and "time" in elbo.keep and not net.pointwise:
        raise ValueError(
            f"steps of this {system} are not independent given the past of x, and a weight for each would not give a "
            "bound: use fivo, or iwae with a weight per sequence"
        )
    if isinstance(elbo, FIVO | IWAE):
        refuse_estimates(net.guide)
