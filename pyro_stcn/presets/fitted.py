"""The small presets for data of any width and kind."""

from __future__ import annotations

import difflib
from dataclasses import replace

from ..data.raw import StepKind
from .own import HEAD_OF, REAL_HEADS
from .preset import Preset
from .small import small

__all__ = ["fitted"]


def fitted(system: str, kind: StepKind, data_dim: int, observation: str = "gmm") -> tuple[str, Preset]:
    """Return a small system for data of this kind and width, with its name.

    Sizes and recipe are those of the small presets: for audio those of speech, for all else those of handwriting, where
    a step of the data looks at its own latents only and importance weights may be taken per step.

    :param system: one of :func:`pyro_stcn.presets.systems`.
    :param kind: what a step of the data is; it decides the observation model.
    :param data_dim: channels of a step.
    :param observation: of real values, one of :data:`REAL_HEADS`; bits have probabilities, whatever it is.
    :raises ValueError: for another system or observation.
    """
    family = "timit" if kind is StepKind.AUDIO else "iamondb"
    rows = small()
    ending = "-gmm-small"
    systems = [
        name.removeprefix(f"{family}/").removesuffix(ending)
        for name in rows
        if name.startswith(f"{family}/") and name.endswith(ending)
    ]
    if system not in systems:
        near = difflib.get_close_matches(system, systems, 3, 0.6) or systems
        raise ValueError(f"there is no system {system!r}; there are: {', '.join(near)}")
    if observation not in REAL_HEADS:
        raise ValueError(f"there is no observation model {observation!r}; there are: {', '.join(REAL_HEADS)}")
    row = rows[f"{family}/{system}-{observation}-small"]
    model = replace(row.model, data_dim=data_dim, observation=HEAD_OF[kind](REAL_HEADS[observation]))
    # Where the data are discrete it is no observation of real values.
    return f"{system}-small" if kind.discrete else f"{system}-{observation}-small", replace(row, model=model)
