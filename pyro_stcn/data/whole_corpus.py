"""What can only be seen of all sequences together: scales, outliers, grids, constant channels, lengths."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from .findings import Finding, Severity, What
from .inspection_pieces import Piece
from .tallies import Moments, SequenceTally, Thinned

_STILL = 0.95  # of the steps
_APART = 1e3  # between a channel's standard deviation and that of the others
_FAR = 20.0  # standard deviations from the mean: worth a note, as long jumps of a pen are
_ALONE, _TAIL, _TAIL_LEAST = (
    10.0,
    0.999,
    5,
)  # times as far as 99.9 % of the values (all but 5, of few): not of the others
_RAGGED, _RAGGED_LEAST = 10.0, 10  # times the median, and sequences there must be
_STUCK_STEPS = 20  # in fewer, a channel may well stay where it is
_DIFFERENT = 0.5  # of the values in a sample: more, and no grid is claimed
_LISTED = 20  # channels that a sentence names


@dataclass(eq=False)
class Overall:
    """All sequences of one width.

    :param width: D.
    """

    width: int
    pieces: list[Piece] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    moments: Moments = field(init=False)
    sample: Thinned = field(init=False)

    def __post_init__(self) -> None:
        width = self.width
        self.moments, self.sample = Moments(width), Thinned(width)
        self.whole, self.bits = np.ones(width, bool), np.ones(width, bool)
        self.still, self.stuck = np.zeros(width), np.zeros(width, np.int64)
        # (number of the sequence, step) of each channel's least and greatest value, and of where it is stuck first
        self.low_at, self.high_at, self.stuck_at = (np.zeros((width, 2), np.int64) for _ in range(3))

    def add(self, piece: Piece, tally: SequenceTally) -> None:
        """Take in one sequence."""
        number = len(self.pieces)
        lower, higher = tally.moments.low < self.moments.low, tally.moments.high > self.moments.high
        self.low_at[lower] = np.column_stack([np.full(lower.sum(), number), tally.low_at[lower]])
        self.high_at[higher] = np.column_stack([np.full(higher.sum(), number), tally.high_at[higher]])
        self.moments.merge(tally.moments)
        self.whole &= tally.whole
        self.bits &= tally.bits
        self.still += tally.still
        if tally.steps >= _STUCK_STEPS:
            self.stuck_at[tally.constant & (self.stuck == 0), 0] = number
            self.stuck += tally.constant
        self.pieces.append(piece)
        self.lengths.append(tally.steps)

    def at(
        self, severity: Severity, what: What, detail: str, channel: int, place: np.ndarray | None = None, **more
    ) -> Finding:
        """A finding about a channel, with its name, and the place (sequence, step) if one is given."""
        names = next((p.channels for p in self.pieces if p.channels is not None and self.width > 1), None)
        piece = None if place is None else self.pieces[int(place[0])]
        return Finding(
            severity,
            what,
            detail,
            None if piece is None else piece.file,
            None if piece is None else piece.name,
            None if place is None else int(place[1]),
            channel,
            None if names is None else names[channel],
            **more,
        )


def corpus_findings(overall: Overall) -> Iterator[Finding]:
    """All that is found of the sequences of one width, at least one."""
    if overall.pieces[0].discrete:  # a note that never sounds is no fault, and there is no scale
        yield from _lengths(overall)
        return
    moments, pen = overall.moments, overall.pieces[0].pen
    audio = overall.pieces[0].rate is not None
    constant = (moments.low == moments.high) | (moments.count == 0)
    huge = ~np.isfinite(moments.std) & (moments.count > 0)
    for c in np.flatnonzero(huge):
        yield overall.at(Severity.ERROR, What.HUGE, f"from {moments.low[c]:g} to {moments.high[c]:g}", int(c))
    plain = ~constant & ~overall.bits & ~huge
    if pen is not None:
        plain[pen] = False
    for c in np.flatnonzero(constant):
        severity = Severity.WARNING if c == pen else Severity.ERROR
        detail = f"{moments.low[c]:g} at all {sum(overall.lengths)} steps" if moments.count[c] else "no finite value"
        if not (audio and len(overall.pieces) == 1):  # a single silent recording is said to be one
            yield overall.at(severity, What.CONSTANT, detail, int(c))
    bits = [int(c) for c in np.flatnonzero(overall.bits & ~constant) if c != pen]
    if bits:
        yield Finding(Severity.NOTE, What.BITS, f"channels {_listed(bits)}: keep={_listed(bits)}", count=len(bits))
    yield from _still(overall, plain)
    yield from _scales(overall, plain)
    yield from _outliers(overall, plain)
    yield from _grid(overall, plain, audio)
    yield from _lengths(overall)


def _listed(channels: list[int]) -> str:
    more = f" and {len(channels) - _LISTED} more" if len(channels) > _LISTED else ""
    return f"[{', '.join(map(str, channels[:_LISTED]))}]{more}"


def _still(overall: Overall, plain: np.ndarray) -> Iterator[Finding]:
    changes = sum(overall.lengths) - len(overall.lengths)
    for c in np.flatnonzero(plain & (overall.still > _STILL * max(changes, 1))):
        share = f"{100 * overall.still[c] / changes:.1f} % of the steps hold the value of the step before"
        yield overall.at(Severity.WARNING, What.STILL, share, int(c), count=int(overall.still[c]))
    if overall.width > 1:  # a sequence of one channel that never changes is told by itself
        for c in np.flatnonzero(plain & (overall.stuck > 0)):
            detail = f"in {overall.stuck[c]} of {len(overall.lengths)} sequences; this is the first"
            yield overall.at(
                Severity.NOTE, What.STUCK, detail, int(c), overall.stuck_at[c], count=int(overall.stuck[c])
            )


def _scales(overall: Overall, plain: np.ndarray) -> Iterator[Finding]:
    std = overall.moments.std
    channels = np.flatnonzero(plain)
    for c in channels if len(channels) > 1 else ():
        others = float(np.median(std[channels[channels != c]]))
        if not others / _APART <= std[c] <= others * _APART:
            detail = f"standard deviation {std[c]:.3g}, the median of the others {others:.3g}"
            yield overall.at(Severity.WARNING, What.SCALE, detail, int(c))
    largest = np.finfo(np.float32).max
    for c in channels:
        size = max(abs(overall.moments.low[c]), abs(overall.moments.high[c]))
        if not size <= largest:
            detail = f"values up to {size:.3g} become infinite in float32 unless standardised"
            yield overall.at(Severity.WARNING, What.SCALE, detail, int(c))


def _outliers(overall: Overall, plain: np.ndarray) -> Iterator[Finding]:
    rows = overall.sample.rows()
    moments = overall.moments
    for c in np.flatnonzero(plain):
        values = rows[np.isfinite(rows[:, c]), c]
        if not len(values):  # a channel with so few that the sample has none of them
            continue
        centre = float(np.median(values))
        size = np.sort(np.abs(values - centre))
        usual = size[max(min(int(_TAIL * (len(size) - 1)), len(size) - 1 - _TAIL_LEAST), 0)]
        for value, place in ((moments.low[c], overall.low_at[c]), (moments.high[c], overall.high_at[c])):
            deviations = abs(value - moments.mean[c]) / moments.std[c]
            if usual > 0 and abs(value - centre) > _ALONE * usual:
                detail = f"{value:.6g}, {abs(value - centre) / usual:.3g} times as far from the median as the others go"
                yield overall.at(Severity.WARNING, What.OUTLIER, detail, int(c), place)
            elif deviations > _FAR:
                detail = f"{value:.6g}, {deviations:.0f} standard deviations from the mean"
                yield overall.at(Severity.NOTE, What.OUTLIER, detail, int(c), place)


def _grid(overall: Overall, plain: np.ndarray, audio: bool) -> Iterator[Finding]:
    """Values that are multiples of a step, and the log-density beyond which it is the rounding that is described."""
    rows = overall.sample.rows()
    steps = {int(c): 1.0 if overall.whole[c] else _step(rows[:, c]) for c in np.flatnonzero(plain)}
    found = {c: step for c, step in steps.items() if step is not None}
    if not found:
        return
    ceiling = math.fsum(math.log(overall.moments.std[c] / step) for c, step in found.items())
    whole = [c for c in found if overall.whole[c]]
    what = "whole numbers" if len(whole) == len(found) else f"multiples of {min(found.values()):.3g} or more"
    where = "" if len(found) == overall.width else f" in {len(found)} of {overall.width} channels"
    unit = "sample" if audio else "step"
    yield Finding(
        Severity.NOTE,
        What.GRID,
        f"{what}{where}; the ceiling is {ceiling:.2f} nats per {unit} of standardised data",
        count=len(found),
    )


def _step(values: np.ndarray) -> float | None:
    """The distance between neighbouring values of a grid, if the values are on one."""
    values = values[np.isfinite(values)]
    different = np.unique(values)
    if len(values) < 100 or not 3 <= len(different) <= _DIFFERENT * len(values):
        return None
    step = float(np.diff(different).min())
    span = (different - different[0]) / step
    if span[-1] > 1e6 or np.abs(span - np.rint(span)).max() > 0.02:
        return None
    return step


def _lengths(overall: Overall) -> Iterator[Finding]:
    lengths = np.array(overall.lengths)
    median = float(np.median(lengths))
    if len(lengths) < _RAGGED_LEAST:
        return
    for severity, far, which, word in (
        (Severity.WARNING, lengths > _RAGGED * median, int(lengths.argmax()), "longest"),
        (Severity.NOTE, lengths < median / _RAGGED, int(lengths.argmin()), "shortest"),
    ):
        if far.any():
            piece = overall.pieces[which]
            detail = f"{far.sum()} of {len(lengths)} sequences, the {word} of {lengths[which]} steps, median {median:g}"
            yield Finding(severity, What.RAGGED, detail, piece.file, piece.name, count=int(far.sum()))
