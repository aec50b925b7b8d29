"""Facts of sequences gathered block by block, in memory that does not grow with their length."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

_SAMPLE = 2**20  # values of the thinned sample


class Thinned:
    """Every n-th row of all that is added, evenly from beginning to end, n as large as the room demands."""

    def __init__(self, width: int):
        self.room = max(_SAMPLE // max(width, 1), 64)
        self.every, self.seen, self.held = 1, 0, 0
        self.kept: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        """Take in rows of shape ``(T, D)``."""
        self.kept.append(rows[-self.seen % self.every :: self.every].copy())
        self.seen += len(rows)
        self.held += len(self.kept[-1])
        while self.held > self.room:
            self.kept = [self.rows()[::2].copy()]
            self.held = len(self.kept[0])
            self.every *= 2

    def rows(self) -> np.ndarray:
        """What was kept, ``(n, D)``."""
        return np.concatenate(self.kept)


@dataclass(eq=False)
class Moments:
    """Count, mean, sum of squares about it, least and greatest of the finite values of each channel.

    :param width: D.
    """

    width: int
    count: np.ndarray = field(init=False)
    mean: np.ndarray = field(init=False)
    square: np.ndarray = field(init=False)
    low: np.ndarray = field(init=False)
    high: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.count, self.mean, self.square = (np.zeros(self.width) for _ in range(3))
        self.low, self.high = np.full(self.width, np.inf), np.full(self.width, -np.inf)

    @property
    def std(self) -> np.ndarray:
        """Standard deviations; nan where there is no value."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(self.square / self.count)

    def add(self, rows: np.ndarray, finite: np.ndarray) -> None:
        """Take in rows of shape ``(T, D)``, of which only what is finite counts."""
        other = Moments(self.width)
        everything = bool(finite.all())
        other.count = finite.sum(0).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            known = rows if everything else np.where(finite, rows, 0.0)
            other.mean = known.sum(0) / np.maximum(other.count, 1)
            apart = np.square(rows - other.mean)
            other.square = (apart if everything else np.where(finite, apart, 0.0)).sum(0)
        other.low = (rows if everything else np.where(finite, rows, np.inf)).min(0)
        other.high = (rows if everything else np.where(finite, rows, -np.inf)).max(0)
        self.merge(other)

    def merge(self, other: Moments) -> None:
        """Take in what another has seen."""
        total = np.maximum(self.count + other.count, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            apart = other.mean - self.mean
            self.square += other.square + np.square(apart) * self.count * other.count / total
            self.mean += apart * other.count / total
        self.count += other.count
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)


@dataclass(eq=False)
class SequenceTally:
    """Facts of one sequence.

    :param moments: of its channels.
    :param steps: T.
    :param bad: values that are not finite; if NaN is let be, those that are infinite.
    :param missing: steps with a NaN, if that is let be.
    :param first_bad: step, channel and value of the first, or None.
    :param low_at: the step of each channel's least value; ``high_at`` of its greatest.
    :param still: steps at which a channel holds the value of the step before, for each channel.
    :param tail: equal steps at the end, at least 1.
    :param whole: channels with whole numbers only.
    :param bits: channels with 0 and 1 only.
    :param stuck_high: neighbouring pairs of steps that both hold the channel's greatest value; ``stuck_low`` its least.
    :param wrong_pen: steps whose bit (see ``gather``) is neither 0 nor 1; the first of them in ``first_wrong_pen``.
    :param digest: equal for equal values in equal order.
    """

    moments: Moments
    steps: int = 0
    bad: int = 0
    missing: int = 0
    first_bad: tuple[int, int, float] | None = None
    low_at: np.ndarray = field(init=False)
    high_at: np.ndarray = field(init=False)
    still: np.ndarray = field(init=False)
    tail: int = 0
    whole: np.ndarray = field(init=False)
    bits: np.ndarray = field(init=False)
    stuck_high: np.ndarray = field(init=False)
    stuck_low: np.ndarray = field(init=False)
    wrong_pen: int = 0
    first_wrong_pen: tuple[int, float] | None = None
    digest: bytes = b""

    def __post_init__(self) -> None:
        width = self.moments.width
        self.low_at, self.high_at, self.still, self.stuck_high, self.stuck_low = (
            np.zeros(width, np.int64) for _ in range(5)
        )
        self.whole, self.bits = (np.ones(width, bool) for _ in range(2))

    @property
    def constant(self) -> np.ndarray:
        """Channels with one and the same value at every step."""
        return self.moments.low == self.moments.high


def gather(
    blocks: Iterable[np.ndarray], width: int, sample: Thinned, pen: int | None = None, nan_is_missing: bool = False
) -> SequenceTally:
    """Go through one sequence.

    :param blocks: its steps in pieces of shape ``(t, D)``, real numbers.
    :param width: D.
    :param sample: takes in what it will of the rows.
    :param pen: the channel that must be 0 or 1, if there is one.
    :param nan_is_missing: NaN is let be.
    """
    tally = SequenceTally(Moments(width))
    digest = hashlib.blake2b(str(width).encode(), digest_size=16)
    before: np.ndarray | None = None
    for block in blocks:
        if not len(block):
            continue
        rows = np.ascontiguousarray(block, dtype=np.float64) + 0.0  # so that there is no -0
        digest.update(rows.tobytes())
        finite = np.isfinite(rows)
        unknown = np.isnan(rows) & nan_is_missing
        tally.missing += int(unknown.any(1).sum())
        bad = ~(finite | unknown)
        if bad.any():
            if tally.first_bad is None:
                step, channel = np.argwhere(bad)[0]
                tally.first_bad = (tally.steps + int(step), int(channel), float(rows[step, channel]))
            tally.bad += int(bad.sum())
        _extremes(tally, rows, finite)
        joined = rows if before is None else np.concatenate([before, rows])
        same = joined[1:] == joined[:-1]
        tally.still += same.sum(0)
        changes = np.flatnonzero(~same.all(1))
        if before is None:
            tally.tail = 1
        tally.tail = tally.tail + len(same) if len(changes) == 0 else len(same) - int(changes[-1])
        for name, edge in (("stuck_high", tally.moments.high), ("stuck_low", tally.moments.low)):
            getattr(tally, name).__iadd__((same & (joined[1:] == edge)).sum(0))
        tally.whole &= ((rows == np.rint(rows)) | unknown).all(0)
        if tally.bits.any():
            tally.bits &= ((rows == 0) | (rows == 1) | unknown).all(0)
        if pen is not None:
            wrong = np.flatnonzero(finite[:, pen] & (rows[:, pen] != 0) & (rows[:, pen] != 1))
            if len(wrong) and tally.first_wrong_pen is None:
                tally.first_wrong_pen = (tally.steps + int(wrong[0]), float(rows[wrong[0], pen]))
            tally.wrong_pen += len(wrong)
        sample.add(rows)
        tally.steps += len(rows)
        before = rows[-1:]
    tally.digest = digest.digest()
    return tally


def _extremes(tally: SequenceTally, rows: np.ndarray, finite: np.ndarray) -> None:
    """Take in the moments, and where the least and greatest values are."""
    low, high = tally.moments.low, tally.moments.high
    tally.moments.add(rows, finite)
    for now, then, at, stuck, fill in (
        (tally.moments.low, low, tally.low_at, tally.stuck_low, np.inf),
        (tally.moments.high, high, tally.high_at, tally.stuck_high, -np.inf),
    ):
        moved = np.flatnonzero(now != then)
        if len(moved):
            values = np.where(finite[:, moved], rows[:, moved], fill)
            at[moved] = tally.steps + (values.argmin(0) if fill > 0 else values.argmax(0))
            stuck[moved] = 0
