"""From the numbers that a model is trained on back to what its user gave: units, samples, notes, labels."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from .audio import write_wav
from .checks import Choice, DataError
from .standardise import Standardiser


class StepKind(Choice):
    """What a step of a sequence is.

    REAL: channels of numbers. AUDIO: samples of one recording that follow each other. STROKES: the movement of a pen,
    and last a bit that lifts it. ROLL: a bit for every note that may sound. CATEGORIES: one of several labels, as a 1
    among zeros.
    """

    REAL = "real"
    AUDIO = "audio"
    STROKES = "strokes"
    ROLL = "roll"
    CATEGORIES = "categories"

    @property
    def discrete(self) -> bool:
        """Whether channels are notes or labels, 0 or 1: no reals, and nothing to standardise."""
        return self in (StepKind.ROLL, StepKind.CATEGORIES)


@dataclass(frozen=True)
class RawFormat:
    """What raw sequences look like, and the way back to them; JSON-able, so that it can stay with a model.

    :param kind: what a step is.
    :param standardiser: the map from raw to standardised steps.
    :param channels: what the channels are called, if anything: columns of a table; the labels of CATEGORIES; the MIDI
        note numbers of ROLL.
    :param sample_rate: samples per second, for AUDIO.
    :raises DataError: if what the kind needs is not given.
    """

    kind: StepKind
    standardiser: Standardiser
    channels: tuple[str, ...] | None = None
    sample_rate: int | None = None

    def __post_init__(self) -> None:
        if self.kind.discrete and not self.channels:
            raise DataError(f"data of kind {self.kind} need the names of their channels: there are none")
        if self.kind is StepKind.AUDIO and not self.sample_rate:
            raise DataError("audio needs its sample rate: there is none")

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON-able values."""
        return {
            "kind": self.kind.value,
            "standardiser": self.standardiser.to_dict(),
            "channels": None if self.channels is None else list(self.channels),
            "sample_rate": self.sample_rate,
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Read the facts that were kept with a checkpoint: ``RawFormat.from_facts(load_model(path)[1]["facts"])``.

        :param facts: what ``Corpus.facts`` gave, or at least ``{"standardiser": ...}``.
        :raises DataError: if they do not say how to get back to raw data.
        """
        try:
            channels = facts.get("channels")
            return cls(
                StepKind(facts.get("kind", StepKind.REAL)),
                Standardiser.from_dict(facts["standardiser"]),
                None if channels is None else tuple(str(name) for name in channels),
                facts.get("sample_rate"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"these facts do not say how to get back to raw data ({type(error).__name__}: {error}): they come from "
                "training with fit(..., facts=corpus.facts())"
            ) from error

    def undo(self, x: np.ndarray | torch.Tensor) -> Any:
        """Turn a sequence back into raw data.

        :param x: standardised steps, ``(T, D)``, such as one that was generated.
        :returns: by kind. REAL, STROKES: the values in raw units, ``(T, D)``. AUDIO: the samples joined,
            ``(T * D,)``, in units of 16 bits. ROLL: a list of the MIDI note numbers of each step. CATEGORIES: an array
            of labels, ``(T,)``.
        :raises DataError: for data of another shape, or that are no notes or labels.
        """
        x = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
        x = x.astype(np.float64)  # a mean can be far larger than what is on top of it, as in times of day since 1970
        if x.ndim != 2:
            raise DataError(f"x has shape {x.shape}, expected one sequence (T, D): undo each sequence by itself")
        if self.channels is not None and x.shape[1] != len(self.channels):
            raise DataError(f"x has {x.shape[1]} channels, and the data had {len(self.channels)}")
        raw = self.standardiser.invert(x)
        if self.kind is StepKind.AUDIO:
            return raw.reshape(-1)
        if not self.kind.discrete:
            return raw
        if not np.isin(raw, (0, 1)).all():
            raise DataError(f"data of kind {self.kind} hold only 0 and 1, and here is {raw[~np.isin(raw, (0, 1))][0]}")
        names = np.array(self.channels)
        if self.kind is StepKind.ROLL:
            return [names[step.astype(bool)].astype(int).tolist() for step in raw]
        if not (raw.sum(1) == 1).all():
            step = int(np.argmax(raw.sum(1) != 1))
            raise DataError(f"step {step} holds {int(raw[step].sum())} labels, and every step must hold one")
        return names[raw.argmax(1)]

    def write(self, folder: str | os.PathLike[str], name: str, sequences: Sequence[Any]) -> list[Path]:
        """Write sequences as files in raw units that the loaders of this library read.

        AUDIO: a ``.wav`` each, what is beyond 16 bits clipped. ROLL: one ``.json`` of all, a list of note numbers for
        each step. Others: a ``.csv`` each, a row a step.

        :param folder: made if it is not there.
        :param name: the files are called ``NAME-0`` and so on, or ``NAME`` where there is one for all.
        :param sequences: standardised steps, ``(T_i, D)`` each.
        :returns: the paths.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        raw = [self.undo(x) for x in sequences]
        if self.kind is StepKind.ROLL:
            path = folder / f"{name}.json"
            path.write_text(json.dumps(raw))
            return [path]
        paths = []
        for number, values in enumerate(raw):
            path = folder / f"{name}-{number}{'.wav' if self.kind is StepKind.AUDIO else '.csv'}"
            if self.kind is StepKind.AUDIO:
                assert self.sample_rate is not None
                write_wav(path, np.clip(np.round(values), -32768, 32767).astype(np.int16), self.sample_rate)
            else:
                self._write_table(path, values)
            paths.append(path)
        return paths

    def _write_table(self, path: Path, values: np.ndarray) -> None:
        if self.kind is StepKind.CATEGORIES:
            header, rows = ["label"], [[label] for label in values]
        else:
            width = values.shape[1]
            numbered = [f"channel {c}" for c in range(width)]
            strokes = ["dx", "dy", "pen"] if self.kind is StepKind.STROKES and width == 3 else None
            header = list(self.channels or strokes or numbered)
            rows = [[repr(value) for value in row] for row in values.tolist()]  # whole: a mean may need the digits
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
