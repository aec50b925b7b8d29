"""Which of a user's own sequences are for training, validation and test, and how that was decided, in words."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .array_files import Source
from .checks import DataError

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class HoldOut:
    """How parts that are not given are held out of the training part: whole sequences, at random.

    :param valid: fraction of the sequences to hold out for validation, at least one.
    :param test: the same for test.
    :param seed: chooses them, an integer >= 0.
    :raises ValueError: for fractions that are not above 0 and together below 1, or a negative seed.
    """

    valid: float
    test: float
    seed: int

    def __post_init__(self) -> None:
        fractions = (self.valid, self.test)
        if not all(0 < f < 1 for f in fractions) or sum(fractions) >= 1 or self.seed < 0:
            raise ValueError(
                f"valid_fraction={self.valid}, test_fraction={self.test}, seed={self.seed}: expected fractions above 0 "
                "and together below 1, and a seed >= 0"
            )


@dataclass(frozen=True, eq=False)
class Part:
    """The sequences of one part, as they were given.

    :param sequences: of shape ``(T_i, D)``.
    :param names: after "train/", "valid/" or "test/", the argument that they were given in, if there is more than one.
    """

    sequences: tuple[np.ndarray, ...]
    names: tuple[str, ...]


def given_parts(train: Any, valid: Any, test: Any) -> dict[str, Any]:
    """Return the arguments that are not None, by part."""
    return {part: given for part, given in zip(PARTS, (train, valid, test), strict=True) if given is not None}


def place(argument: str, given: Any) -> str:
    """What to call an argument in messages: the path that it is, or its name."""
    return str(given) if isinstance(given, str | os.PathLike) else argument


def full_names(sources: Mapping[str, Source]) -> list[str]:
    """Names of all sequences that tell those of different arguments apart."""
    return [f"{part}/{name}" for part, source in sources.items() for name in source.names]


def split(sources: Mapping[str, Source], how: HoldOut) -> tuple[dict[str, Part], list[str]]:
    """Return train, valid and test, and sentences on how that was decided.

    :param sources: "train", and what else was given.
    :raises DataError: if there are too few sequences to hold some out.
    """
    count = len(sources["train"].sequences)
    absent = [part for part in PARTS[1:] if part not in sources]
    if count <= len(absent):
        raise DataError(
            f"train has {count} sequences, and {' and '.join(absent)} must be held out of it: give {len(absent) + 1} "
            "or more, or cut a long one into pieces and give the parts yourself"
        )
    rest = torch.randperm(count, generator=torch.Generator().manual_seed(how.seed)).tolist()
    fractions = {"valid": how.valid, "test": how.test}
    chosen: dict[str, list[int]] = {}
    told = []
    for i, part in enumerate(absent):
        # Something has to be left for the other part and to train on.
        size = min(max(round(fractions[part] * count), 1), len(rest) - (len(absent) - i))
        chosen[part], rest = sorted(rest[:size]), rest[size:]
        told.append(
            f"{part.capitalize()} is {size} of the {count} sequences given, held out at random, seed {how.seed}."
        )
    chosen["train"] = sorted(rest)
    told += [f"{part.capitalize()} was given." for part in PARTS[1:] if part in sources]

    def pick(part: str) -> Part:
        origin = part if part in sources else "train"
        source, prefix = sources[origin], f"{origin}/" if len(sources) > 1 else ""
        places: Sequence[int] = chosen.get(part, range(len(source.sequences)))
        return Part(tuple(source.sequences[i] for i in places), tuple(f"{prefix}{source.names[i]}" for i in places))

    return {part: pick(part) for part in PARTS}, told


def repeated(parts: Mapping[str, Part]) -> list[str]:
    """Sentences on sequences that are in the training part and in another."""
    seen = {_digest(s) for s in parts["train"].sequences}
    found = []
    for part in PARTS[1:]:
        again = sum(_digest(s) in seen for s in parts[part].sequences)
        if again:
            found.append(f"{again} sequences of {part} are also in the training part, value for value.")
    return found


def _digest(sequence: np.ndarray) -> bytes:
    """Equal for equal values, of whatever type."""
    return hashlib.sha256((sequence.astype(np.float64) + 0.0).tobytes()).digest()  # so that there is no -0
