"""How published figures were scored: which steps, which pieces of a recording, and in which unit.

Two figures can be compared only if these agree. None of it changes a model; all of it changes its number. On IAM-OnDB
the unit alone is worth a quarter of the published figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .data.batch import Normaliser, Sequences
from .data.corpus import Corpus
from .data.standardise import Standardiser
from .data.strokes import StrokeNormaliser
from .evaluation import evaluate
from .models import SequenceModel
from .reports import Evaluation, check_standardiser

__all__ = ["PROTOCOLS", "Protocol", "evaluate_as"]

PEN = 2


@dataclass(frozen=True)
class Protocol:
    """A published way of scoring.

    :param name: corpus and where it comes from.
    :param source: who scored so.
    :param normaliser: gives the standardiser that makes the unit, from raw training sequences ``(T, D)``.
    :param unit: that unit in words.
    :param given_first: x_1 is given and T - 1 steps are scored.
    :param segment: cut every sequence into pieces of so many steps, each scored from nothing; what is left at the end
        is dropped, and a recording that is shorter, and a piece of which nothing is observed. None scores whole
        sequences.
    :param caveat: what still differs.
    """

    name: str
    source: str
    normaliser: Normaliser
    unit: str
    given_first: bool = False
    segment: int | None = None
    caveat: str = ""

    def unit_of(self, corpus: Corpus) -> Standardiser:
        """Return the standardiser that makes the unit, of the training data of a corpus.

        :raises ValueError: where the unit needs all training data at once and these are streamed.
        """
        try:
            return corpus.train.unit(self.normaliser, corpus.standardiser)
        except ValueError as error:
            raise ValueError(f"protocol {self.name}, its unit ({self.unit}): {error}") from None

    def cut(self, dataset: Sequences) -> Sequences:
        """Return the sequences that are scored: the whole ones, or pieces of them.

        :raises ValueError: where no sequence is as long as a segment.
        """
        if self.segment is None:
            return dataset
        try:
            return dataset.cut(self.segment)
        except ValueError as error:
            raise ValueError(f"protocol {self.name}: {error}") from None

    def __str__(self) -> str:
        pieces = "whole sequences" if self.segment is None else f"pieces of {self.segment} steps, each from nothing"
        steps = "T - 1 steps, x_1 given" if self.given_first else "all steps"
        more = f"; {self.caveat}" if self.caveat else ""
        return f"{self.name} ({self.source}): {pieces}, {steps}, {self.unit}{more}"


def evaluate_as(protocol: Protocol | str, net: SequenceModel, corpus: Corpus, **options: Any) -> Evaluation:
    """Score the test set under a published protocol, in its unit.

    :param protocol: one, or its name in :data:`PROTOCOLS`.
    :param corpus: what a loader of :mod:`pyro_stcn.data` returns; of your own arrays, ``load_arrays``.
    :param options: of :func:`~pyro_stcn.evaluation.evaluate`.
    :raises ValueError: where the model cannot be scored so: it scores other steps, its figures have no unit, or it
        would be given x_1 and that is no bound for it; or where the data have other channels.
    """
    if isinstance(protocol, str):
        if protocol not in PROTOCOLS:
            raise ValueError(f"there is no protocol {protocol!r}; there are: {', '.join(PROTOCOLS)}")
        protocol = PROTOCOLS[protocol]
    head: Any = net.config.observation
    if not net.scores_first_step and not protocol.given_first:
        raise ValueError(f"protocol {protocol.name} scores all steps, and this model does not score the first one")
    if getattr(head, "discrete", False):
        raise ValueError(f"protocol {protocol.name} is of densities, and this model gives probabilities")
    unit = protocol.unit_of(corpus)
    check_standardiser(unit, corpus.test.data_dim, getattr(head, "without_unit", ()))
    pieces = protocol.cut(corpus.test)
    # A model that is never told x_1 by evaluate because it always is.
    given_first = protocol.given_first and net.scores_first_step
    result = evaluate(net, pieces, standardiser=corpus.standardiser, given_first=given_first, **options)
    if protocol.segment is not None:
        result = replace(result, recordings=tuple(name.rpartition("[")[0] for name in pieces.names))
    return replace(result.in_units_of(unit), protocol=protocol)


def _per_channel_but_pen(sequences: Sequence[np.ndarray]) -> Standardiser:
    return Standardiser.per_channel(sequences, keep=(PEN,))


_SPEECH: dict[str, Any] = {
    "normaliser": Standardiser.scalar,
    "unit": "one mean and standard deviation of all training samples",
}
_SQRT2: dict[str, Any] = {
    "normaliser": StrokeNormaliser.CHUNG.fit,
    "unit": "offsets over sqrt(2) times their standard deviation, one number for both axes",
    "caveat": "published on the set that also stopped the training",
}

#: name -> protocol. The loaders of this library already leave the last frame of a TIMIT test utterance out, as the
#: authors' code does.
PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("timit/stcn", "Aksan & Hilliges 2019, STCN", **_SPEECH),
        Protocol("timit/wavenet", "Aksan & Hilliges 2019, WaveNet", given_first=True, **_SPEECH),
        Protocol(
            "timit/srnn",
            "Fraccaro et al. 2016; Z-forcing, Stochastic WaveNet",
            given_first=True,
            caveat="they score the last frame and leave the first out, these data have it the other way round",
            **_SPEECH,
        ),
        Protocol(
            "blizzard/vrnn",
            "Chung et al. 2015; Aksan & Hilliges 2019",
            segment=40,
            caveat="published with statistics of all rows, whose standard deviation is low by 0.22 per cent "
            "(-17.7 nats per piece)",
            **_SPEECH,
        ),
        Protocol("iamondb/vrnn", "Chung et al. 2015; Aksan & Hilliges 2019, STCN", **_SQRT2),
        Protocol("iamondb/swavenet", "Lai et al. 2018; Dai et al. 2019", given_first=True, **_SQRT2),
        Protocol(
            "deepwriting/stcn",
            "Aksan & Hilliges 2019",
            _per_channel_but_pen,
            "mean and standard deviation of each axis",
            caveat="published on the set that also stopped the training",
        ),
    )
}
