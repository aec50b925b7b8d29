"""Checks before training: everything that is wrong or odd with data, told at once and with its place.

The loaders refuse what cannot be used and stop at the first such thing; the checks go on through all of it. Sequences
pass one at a time and recordings in blocks, so memory does not grow with a corpus of audio.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from . import deepwriting, timit_files
from .array_files import Reading
from .arrays import Missing
from .checks import DataError, printable
from .corpora import CORPORA
from .findings import Channel, Finding, Report, Severity, Summary, What
from .inspection_pieces import Piece, error
from .inspection_sources import most_bytes, pieces_of
from .npz_files import npz_names
from .tallies import Moments, SequenceTally, gather
from .whole_corpus import Overall, corpus_findings

__all__ = ["inspect_data", "recognise_corpus"]

_CLIP_PAIRS, _CLIP_LEVEL = 5, 0.25  # neighbouring samples at the peak, and the fraction of full scale it has to reach
_FULL_SCALE = 32768
_LEAST = 3  # sequences: one each to train on, to validate and to test
_OFFSET, _OFFSET_LEAST = 0.5, 10.0  # standard deviations, and units of 16 bits
_TAIL, _TAIL_STEPS = 0.25, 8  # fraction of a sequence, and steps, that are copies of its last


def inspect_data(
    data: Any,
    *,
    corpus: str | None = None,
    sequence_column: str | int | None = None,
    frame: int = 200,
    max_bytes: int | None = None,
    missing: Missing | str = Missing.REFUSE,
) -> Report:
    """Check data before training on them: values, lengths, rates, widths, scales, copies, and the files themselves.

    Nothing in a file is executed, and no file ends the check: what cannot be read is a finding.

    :param data: a path, or arrays as ``load_arrays`` takes them, or a dict of such by part, "train", "valid", "test".
    :param corpus: what the path holds, a name of ``CORPORA``; None recognises it.
    :param sequence_column: see ``load_arrays``.
    :param frame: samples per step of audio; shorter recordings are errors.
    :param max_bytes: the largest file other than audio, and the largest unpacked data of a file, to read; None is
        what the loader of the kind accepts.
    :param missing: see ``load_arrays``; with MARK a NaN is no error but a step that is not known.
    :returns: all findings, the worst first, and what the data are.
    :raises DataError: for a name that is not in ``CORPORA``, and for MARK where the loader of the kind refuses missing
        values.
    """
    if corpus is not None and corpus not in CORPORA:
        raise DataError(f"there is no kind of corpus {corpus!r}; there are: {', '.join(CORPORA)}")
    path = Path(data) if isinstance(data, str | os.PathLike) else None
    kind = corpus or (recognise_corpus(path) if path is not None else "arrays")
    if frame < 1:
        raise ValueError(f"frame must be at least 1, not {frame}")
    marked = Missing(missing) is Missing.MARK
    if marked and kind != "arrays":
        raise DataError(f"missing steps are marked in arrays only, and {data} is taken for {kind}")
    inspector = _Inspector(marked)
    found = pieces_of(path or data, kind, Reading(frame, sequence_column, max_bytes or most_bytes(kind)))
    for item in tqdm(found, desc=f"checking {printable(path.name) if path else 'data'}", unit="", disable=None):
        if isinstance(item, Finding):
            inspector.findings.append(item)
        else:
            inspector.look_at(item)
    return inspector.report(str(path) if path is not None else "data in memory", kind)


def recognise_corpus(path: Path) -> str:
    """What kind of corpus a path holds: a name of ``CORPORA``, "arrays" where it looks like no other."""
    if path.is_dir():
        if path.name == "lineStrokes" or (path / "lineStrokes").is_dir():
            return "iamondb"
        if any((path / name).exists() for name in deepwriting.FILES):
            return "deepwriting"
        try:
            timit_files.find_recordings(path)
        except (DataError, OSError):
            return "arrays"
        return "timit"
    if path.is_file() and path.suffix.lower() == ".npz":
        members = npz_names(path)
        if {"train_points", "train_lengths"} <= members or members >= {"train", "valid", "test"}:
            return "strokes"
        if "samples" in members:
            return "deepwriting"
    return "arrays"


@dataclass(eq=False)
class _Inspector:
    """Looks at one sequence after the other and keeps what is needed to judge them together."""

    nan_is_missing: bool
    findings: list[Finding] = field(default_factory=list)
    by_width: dict[int, Overall] = field(default_factory=dict)
    parts: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    rates: dict[int, list[Piece]] = field(default_factory=dict)
    names: dict[str, str | None] = field(default_factory=dict)
    digests: dict[bytes, Piece] = field(default_factory=dict)

    def look_at(self, piece: Piece) -> None:
        """Check one sequence by itself and against those before it."""
        if piece.width not in self.by_width:
            self.by_width[piece.width] = Overall(piece.width)
        overall = self.by_width[piece.width]
        try:
            tally = gather(piece.blocks, piece.width, overall.sample, piece.pen, self.nan_is_missing)
        except (DataError, OSError) as problem:
            self.findings.append(error(What.UNREADABLE, problem, piece.file, sequence=piece.name))
            return
        bare = _without_values(piece)
        overall.add(bare, tally)
        self.formats[piece.format] += 1
        if piece.part is not None:
            self.parts[piece.part] += 1
        if piece.rate is not None:
            self.rates.setdefault(piece.rate, []).append(bare)
        self._values(bare, tally)
        if piece.rate is not None:
            self._audio(bare, tally)
        if piece.name in self.names:
            detail = f"also in {self.names[piece.name]}" if self.names[piece.name] else "there before"
            self.findings.append(error(What.NAMES, detail, piece.file, sequence=piece.name))
        self.names.setdefault(piece.name, piece.file)
        self._copies(bare, tally)

    def _values(self, piece: Piece, tally: SequenceTally) -> None:
        if tally.first_bad is not None:
            step, channel, value = tally.first_bad
            self._add(
                *(Severity.ERROR, What.NOT_FINITE, piece, f"{value}, the first of {tally.bad} such values"),
                **{"step": step, "channel": channel, "count": tally.bad},
            )
        if tally.missing == tally.steps > 0:
            self._add(Severity.ERROR, What.UNKNOWN, piece, f"each of {tally.steps} steps has a missing value")
        elif tally.missing:
            detail = f"{tally.missing} of {tally.steps} steps"
            self._add(Severity.NOTE, What.MISSING, piece, detail, count=tally.missing)
        if tally.first_wrong_pen is not None:
            step, position = tally.first_wrong_pen
            self._add(
                *(Severity.ERROR, What.PEN, piece, f"{position:g}, the first of {tally.wrong_pen} such steps"),
                **{"step": step, "channel": piece.pen, "count": tally.wrong_pen},
            )
        channels = [c for c in range(piece.width) if c != piece.pen]
        low = tally.moments.low
        if tally.bad == 0 and tally.constant[channels].all() and tally.steps >= 2:
            severity = Severity.ERROR if piece.rate is not None else Severity.WARNING
            told = f"all {low[channels[0]]:g}" if len(channels) == 1 else "every channel holds one value"
            self._add(severity, What.SILENT, piece, f"{tally.steps} steps, {told}", count=tally.steps)
        elif tally.tail > max(_TAIL_STEPS, _TAIL * tally.steps):
            detail = f"the last {tally.tail} of {tally.steps} steps are equal"
            self._add(Severity.WARNING, What.PADDED, piece, detail, step=tally.steps - tally.tail, count=tally.tail)

    def _audio(self, piece: Piece, tally: SequenceTally) -> None:
        mean, std = float(tally.moments.mean[0]), float(tally.moments.std[0])
        low, high = float(tally.moments.low[0]), float(tally.moments.high[0])
        if low == high:
            return
        for level, pairs, at in (
            (high, int(tally.stuck_high[0]), tally.high_at),
            (low, int(tally.stuck_low[0]), tally.low_at),
        ):
            if pairs >= _CLIP_PAIRS and abs(level) >= _CLIP_LEVEL * _FULL_SCALE:
                detail = f"{pairs} times two samples in a row at the peak, {level:g}, of 32768"
                self._add(Severity.WARNING, What.CLIPPED, piece, detail, step=int(at[0]), channel=0, count=pairs)
        if abs(mean) > max(_OFFSET * std, _OFFSET_LEAST):
            self._add(Severity.WARNING, What.OFFSET, piece, f"mean {mean:.4g}, standard deviation {std:.4g}", channel=0)

    def _copies(self, piece: Piece, tally: SequenceTally) -> None:
        first = self.digests.setdefault(tally.digest, piece)
        if first is piece or tally.constant.all():
            return
        where = f"{first.name!r}" + (f" in {first.file}" if first.file not in (None, piece.file) else "")
        if first.part != piece.part and None not in (first.part, piece.part):
            detail = f"in {piece.part}, value for value {where} in {first.part}"
            self._add(Severity.WARNING, What.BOTH_PARTS, piece, detail)
        else:
            severity = Severity.WARNING if piece.part is None else Severity.NOTE
            self._add(severity, What.REPEATED, piece, f"value for value {where}")

    def _add(self, severity: Severity, what: What, piece: Piece, detail: str, **where: Any) -> None:
        channel = where.get("channel")
        if channel is not None and piece.channels is not None and piece.width > 1:
            where["channel_name"] = piece.channels[channel]
        self.findings.append(Finding(severity, what, detail, piece.file, piece.name, **where))

    def report(self, source: str, kind: str) -> Report:
        """Judge everything together."""
        read = [overall for overall in self.by_width.values() if overall.pieces]
        main = max(read, key=lambda overall: len(overall.pieces), default=None)
        if main is None:
            if not any(f.severity is Severity.ERROR for f in self.findings):
                self.findings.append(error(What.UNREADABLE, "there are no sequences", source))
            summary = Summary(0, 0, (), {}, (), {}, {})
        else:
            self._minorities(main)
            self.findings += corpus_findings(main)
            count = sum(len(overall.pieces) for overall in read)
            if kind == "arrays" and not self.parts and count < _LEAST:
                self.findings.append(error(What.FEW, f"{count}, from which two parts must be held out", source))
            summary = self._summary(main)
        order = {one: place for kinds in (Severity, What) for place, one in enumerate(kinds)}
        found = sorted(self.findings, key=lambda finding: (order[finding.severity], order[finding.what]))
        return Report(source, kind, summary, tuple(found))

    def _minorities(self, main: Overall) -> None:
        """Sequences of another width, rate or with other columns than most."""
        for width, overall in self.by_width.items():
            for piece in overall.pieces if overall is not main else ():
                detail = f"{width} channels, most have {main.width}"
                self.findings.append(error(What.WIDTH, detail, piece.file, sequence=piece.name))
        columns = Counter(piece.channels for piece in main.pieces)
        most = columns.most_common(1)[0][0]
        for piece in main.pieces if len(columns) > 1 else ():
            if None not in (piece.channels, most) and piece.channels != most:
                differs = [
                    (c, a, b) for c, (a, b) in enumerate(zip(piece.channels or (), most or (), strict=True)) if a != b
                ]
                detail = "; ".join(f"column {c} is {a!r}, most have {b!r}" for c, a, b in differs[:3])
                self.findings.append(error(What.COLUMNS, detail, piece.file, sequence=piece.name))
        usual = max(self.rates, key=lambda rate: len(self.rates[rate]), default=None)
        for rate, pieces in self.rates.items():
            for piece in pieces:
                expected = piece.required_rate or usual
                if rate != expected:
                    detail = f"{rate} Hz, expected {expected} Hz"
                    self.findings.append(error(What.RATE, detail, piece.file, sequence=piece.name))

    def _summary(self, main: Overall) -> Summary:
        every = [length for overall in self.by_width.values() for length in overall.lengths]
        names = next((p.channels for p in main.pieces if p.channels is not None), None)
        moments: Moments = main.moments
        figures = zip(moments.mean, moments.std, moments.low, moments.high, strict=True)
        channels = (
            Channel(printable(names[c]) if names is not None else str(c), *map(float, four))
            for c, four in enumerate(figures)
        )
        return Summary(
            len(every),
            sum(every),
            tuple(float(q) for q in np.quantile(every, (0, 0.25, 0.5, 0.75, 1))),
            dict(self.parts),
            tuple(channels),
            {rate: len(pieces) for rate, pieces in sorted(self.rates.items())},
            {printable(name): count for name, count in self.formats.most_common()},
        )


def _without_values(piece: Piece) -> Piece:
    """The same without its blocks, to keep."""
    return replace(piece, blocks=())
