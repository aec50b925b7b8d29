"""What every loader returns: three sets of standardised sequences and the facts about them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from .batch import Sequences
from .checks import DataError
from .raw import RawFormat, StepKind
from .standardise import Standardiser


@dataclass(frozen=True, eq=False)
class Corpus:
    """A corpus ready for training: no sequence is in two parts.

    :param name: a short name such as "timit".
    :param train: standardised training sequences.
    :param valid: standardised validation sequences.
    :param test: standardised test sequences.
    :param standardiser: the map from raw values to those of the three sets, fitted on training data.
    :param description: which data these are, how many, how they were split, standardised and cut: the text to print
        beside any figure computed on them.
    :param sample_rate: samples per second for audio, None otherwise.
    :param frame: samples per step for framed audio, None otherwise.
    :param kind: what a step is; default: AUDIO where there is a ``frame``, else REAL.
    :param channels: what the channels are called, see ``RawFormat``.
    :raises DataError: if the parts differ in their channels or share a sequence (its name; of streamed windows, a
        sample).
    """

    name: str
    train: Sequences
    valid: Sequences
    test: Sequences
    standardiser: Standardiser
    description: str
    sample_rate: int | None = None
    frame: int | None = None
    kind: StepKind | None = None
    channels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind is None:
            object.__setattr__(self, "kind", StepKind.REAL if self.frame is None else StepKind.AUDIO)
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        dims = {part: dataset.data_dim for part, dataset in parts.items()}
        if len(set(dims.values())) > 1:
            raise DataError(f"the parts of corpus {self.name!r} differ in their channels: {dims}")
        for (part, dataset), (other, others) in combinations(parts.items(), 2):
            if (name := others.shared_with(dataset)) is not None:
                raise DataError(
                    f"sequence {name!r} of corpus {self.name!r} is in {part} and in "
                    f"{other}: a sequence belongs to one part, or the result is not held out"
                )

    @property
    def data_dim(self) -> int:
        """Number of channels D of every sequence."""
        return self.train.data_dim

    @property
    def raw(self) -> RawFormat:
        """What the data were before they were standardised, and the way back."""
        assert self.kind is not None
        return RawFormat(self.kind, self.standardiser, self.channels, self.sample_rate)

    def in_units_of(self, unit: Standardiser) -> Corpus:
        """The same data, standardised in another way.

        :raises DataError: for a standardiser of other channels.
        """
        unit.log_jacobian(self.data_dim)
        parts = (self.train, self.valid, self.test)
        train, valid, test = (part.restandardised(self.standardiser, unit) for part in parts)
        return replace(self, train=train, valid=valid, test=test, standardiser=unit)

    def facts(self) -> dict[str, Any]:
        """What has to stay with a model of these data, JSON-able: ``fit(..., facts=corpus.facts())``.

        ``corpus`` (the name), ``data`` (the description), and what ``RawFormat.from_facts`` reads to get from what the
        model generates back to raw data: ``kind``, ``standardiser``, ``channels``, ``sample_rate``.
        """
        return {"corpus": self.name, "data": self.description, **self.raw.to_dict()}
