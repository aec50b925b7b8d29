"""What a preset is, and the facts about the corpora that all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..observation import GaussianMixtureConfig, HeadConfig, NormalConfig, PenStrokeConfig
from ..training_config import TrainingConfig

__all__ = ["CHANNELS", "INK", "SPEECH", "STROKES", "Preset", "head", "tables"]

SPEECH = ("timit", "blizzard")
INK = ("iamondb", "deepwriting")
CHANNELS = dict.fromkeys(SPEECH, 200) | dict.fromkeys(INK, 3)
STROKES: Mapping[str, NormalConfig | GaussianMixtureConfig] = {
    "normal": NormalConfig(),
    "gmm": GaussianMixtureConfig(20),
}


@dataclass(frozen=True)
class Preset:
    """A model and how to train it.

    :param model: a config of :data:`pyro_stcn.models.MODELS`.
    :param training: the recipe.
    :param source: where the numbers come from.
    """

    model: Any
    training: TrainingConfig
    source: str


def head(corpus: str, values: NormalConfig | GaussianMixtureConfig) -> HeadConfig:
    """Return the observation model of a corpus: handwriting has a pen bit beside its values."""
    return PenStrokeConfig(values) if corpus in INK else values


def tables(corpus: str, kind: str) -> str:
    """Return the paper's tables that print an STCN row for this corpus and this observation model."""
    numbers = ["1"] * (kind == "gmm") + ["3"] * (corpus in ("timit", "iamondb")) + ["4"]
    return f"Table{'s' * (len(numbers) > 1)} {', '.join(numbers)}"
