"""What generated handwriting has in common with real: statistics of pen strokes, and distances between them.

All functions take raw sequences, ``(T, 3)``: dx and dy in the file's unit (undo the standardisation first:
``corpus.standardiser.invert``), and the pen, 1 at the last point of a stroke, else 0. A *step* is a move with the pen
down, a *jump* one in the air, from the end of a stroke to the next; the first offset of a sequence leads to its first
point and is neither.

Real sequences end, and models have no symbol for it: they go on writing. A generated sequence is therefore given the
length of a real test sequence and ended with the pen-up that is nearest to it (:func:`end_at_pen_up`), since real ones
end with a pen-up, too. That choice matters: where endless lines of real words are cut at given lengths, every last
stroke is broken off and the mean stroke comes out a seventh too short (``gw_online``: 21.9 points instead of 25.6);
ended with the nearest pen-up it has 25.5. What it cannot mend: a real sequence ends for a reason, such as the end of a
word, where the dots are set. So a perfect model would come near to the real figures, not quite to them.

Tablets give places in whole numbers, models any number. That alone sets histograms apart (``gw_online``: real places
moved at random by up to half a unit are at a distance of 0.04 in step lengths and in directions), so bring generated
sequences to the same grid: :func:`is_whole`, :func:`to_whole`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .reports import Statistic

__all__ = [
    "FIGURES",
    "HISTOGRAMS",
    "StrokeStatistics",
    "distance_floor",
    "end_at_pen_up",
    "histogram_distance",
    "is_whole",
    "markdown_table",
    "prefix_length",
    "stroke_edges",
    "stroke_statistics",
    "to_whole",
]

HISTOGRAMS = ("step length", "jump length", "direction")
FIGURES = {  # every one is a sum over sequences divided by a sum over sequences
    "pen-ups per 100 points": ("100 pen-ups", "points"),
    "points per stroke": ("points", "strokes"),
    "ink per stroke": ("ink", "strokes"),
    "strokes": ("strokes", "sequences"),
    "width": ("width", "sequences"),
    "height": ("height", "sequences"),
    "width / height": ("width", "height"),
}
"""Name of a figure: the totals that it is the ratio of."""
_BINS = 20
_COVERED = 0.98  # of the lengths; what is longer goes into the last bin
_SECTORS = 16


@dataclass(frozen=True, eq=False)
class StrokeStatistics:
    """Statistics of N sequences, kept per sequence so that every figure has a standard error over them.

    :param edges: of the bins of every histogram, by name (``HISTOGRAMS``); the last bin of a length takes all that is
        longer, too. Directions are in radians, 0 to the right, a quarter turn in the direction in which y grows.
    :param counts: how many steps or jumps of each sequence fall into each bin, ``(N, bins)``, by the same names.
    :param totals: per sequence, ``(N,)``: "points", "100 pen-ups" (a hundred times their number), "strokes" (one that
        the end breaks off counts), "ink" (length of all steps), "width" and "height" of what is written, all in the
        sequences' unit, and "sequences" (1).
    """

    edges: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    totals: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.totals["sequences"])

    def histogram(self, name: str) -> np.ndarray:
        """The share of each bin, ``(bins,)``; all 0 if there is nothing to count, as jumps where no pen is lifted."""
        counts = self.counts[name].sum(0)
        return counts / max(counts.sum(), 1)

    def figure(self, name: str) -> Statistic:
        """One of ``FIGURES`` with its standard error over sequences, to first order; nan where it divides by 0."""
        above, below = (self.totals[total] for total in FIGURES[name])
        return Statistic.ratio(above, below) if below.sum() > 0 else Statistic(math.nan, math.nan, len(self))


def stroke_edges(sequences: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Bins that fit these sequences, the real ones: lengths in 20 bins up to what 98 % stay below, 16 directions.

    :param sequences: raw, each ``(T, 3)``.
    :returns: the edges of every histogram's bins, by name. The middle of the first direction is to the right.
    :raises ValueError: if there are no sequences, or one is not such a sequence.
    """
    moves = [_moves(sequence) for sequence in _checked(sequences)]
    edges = {}
    for name in ("step length", "jump length"):
        lengths = np.concatenate([move[name] for move in moves])
        top = float(np.quantile(lengths, _COVERED)) if len(lengths) else 0.0
        edges[name] = np.linspace(0, top or 1.0, _BINS + 1)
    return edges | {"direction": (np.arange(_SECTORS + 1) - 0.5) * 2 * np.pi / _SECTORS}


def stroke_statistics(
    sequences: Sequence[np.ndarray], edges: Mapping[str, np.ndarray] | None = None
) -> StrokeStatistics:
    """Statistics of raw sequences.

    :param sequences: each ``(T, 3)``, in the unit of the file.
    :param edges: bins of the histograms; to compare with real data give those of the real ones, ``real.edges``.
        Default: :func:`stroke_edges` of these sequences.
    :raises ValueError: if there are no sequences, or one is not such a sequence.
    """
    sequences = _checked(sequences)
    edges = dict(edges) if edges is not None else stroke_edges(sequences)
    moves = [_moves(sequence) for sequence in sequences]
    counts = {name: np.array([_count(name, move[name], edges[name]) for move in moves]) for name in HISTOGRAMS}
    points = [np.cumsum(sequence[:, :2], axis=0, dtype=np.float64) for sequence in sequences]
    width, height = np.array([np.ptp(p, axis=0) for p in points]).T
    pen_ups = np.array([np.sum(_up(sequence)) for sequence in sequences])
    totals = {
        "points": np.array([len(sequence) for sequence in sequences]),
        "100 pen-ups": 100 * pen_ups,
        "strokes": pen_ups + np.array([not _up(sequence)[-1] for sequence in sequences]),
        "ink": np.array([np.sum(move["step length"]) for move in moves]),
        "width": width,
        "height": height,
        "sequences": np.ones(len(sequences)),
    }
    return StrokeStatistics(edges, counts, totals)


def histogram_distance(
    a: StrokeStatistics, b: StrokeStatistics, name: str, *, draws: int = 400, seed: int = 0
) -> Statistic:
    """Total variation between two histograms: the share that would have to be moved, from 0 (equal) to 1 (disjoint).

    Two samples of the same writer are not at distance 0: see :func:`distance_floor`.

    :param name: one of ``HISTOGRAMS``.
    :param draws: bootstrap draws over the sequences of both, for the standard error.
    :returns: the distance, its standard error (nan if either is a single sequence), and the smaller number of
        sequences. Where one side has nothing to count, such as no jumps, it is 1; where both have nothing, 0.
    :raises ValueError: if the bins differ.
    """
    if not np.array_equal(a.edges[name], b.edges[name]):
        raise ValueError(f"the bins of {name!r} differ: give stroke_statistics(..., edges=real.edges)")
    rng = np.random.default_rng(seed)
    distance = float(_variation(a.counts[name].sum(0), b.counts[name].sum(0)))
    count = min(len(a), len(b))
    if count < 2:
        return Statistic(distance, math.nan, count)
    drawn = [rng.multinomial(len(s), np.full(len(s), 1 / len(s)), size=draws) @ s.counts[name] for s in (a, b)]
    return Statistic(distance, float(np.std(_variation(*drawn), ddof=1)), count)


def distance_floor(real: StrokeStatistics, name: str, *, splits: int = 100, seed: int = 0) -> Statistic:
    """Total variation between two halves of the same sequences: what distance from real data even real data have.

    Halves are half as many sequences as the whole, so this floor is a little above that of two whole sets.

    :param name: one of ``HISTOGRAMS``.
    :param splits: random halvings.
    :returns: the mean over the halvings, their standard deviation in place of a standard error, and the number of
        sequences in a half; nan with fewer than two sequences.
    """
    half = len(real) // 2
    if not half:
        return Statistic(math.nan, math.nan, 0)
    rng = np.random.default_rng(seed)
    orders = (rng.permutation(len(real)) for _ in range(splits))
    counts = real.counts[name]
    values = [_variation(counts[order[:half]].sum(0), counts[order[half : 2 * half]].sum(0)) for order in orders]
    return Statistic(float(np.mean(values)), float(np.std(values, ddof=1)) if splits > 1 else math.nan, half)


def markdown_table(real: StrokeStatistics, systems: Mapping[str, StrokeStatistics]) -> str:
    """Return a table of real data and systems, one per row, every figure with its standard error over sequences.

    :param real: of the real sequences, usually the test set.
    :param systems: by name, with the bins of ``real``.
    :raises ValueError: if the bins differ.
    """
    distances = {
        system: [histogram_distance(made, real, name) for name in HISTOGRAMS] for system, made in systems.items()
    }
    rows = {"real": real, **systems}
    distances = {"real": [distance_floor(real, name) for name in HISTOGRAMS], **distances}
    heads = ["system", "sequences", *FIGURES, *(f"distance, {name}" for name in HISTOGRAMS)]
    lines = [
        "Mean ± standard error over sequences; lengths in the unit of the file. A distance is the total variation "
        "between the histograms of a system and of real data, from 0 (equal) to 1 (disjoint), with a bootstrap "
        "standard error over sequences; in the row of real data it is between two halves of "
        f"{len(real) // 2} sequences, mean ± standard deviation over random halvings: the floor.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
    ]
    for system, made in rows.items():
        cells = [system, f"{len(made)}", *(_text(made.figure(name)) for name in FIGURES)]
        lines.append(f"| {' | '.join([*cells, *(_text(distance, 3) for distance in distances[system])])} |")
    return "\n".join(lines)


def end_at_pen_up(sequence: np.ndarray, length: int) -> np.ndarray:
    """End a sequence that goes on and on as real ones end: with the pen-up that is nearest to the wanted length.

    :param sequence: ``(T, 3)``, generated up to ``length + length // 2`` steps, so that there are pen-ups behind the
        wanted length as well as before it.
    :param length: wanted number of steps, at least 1. Without a pen-up between half of it and half as much again (and
        the end of what there is), the sequence is cut there, in the middle of a stroke.
    """
    ends = np.flatnonzero(_up(sequence)) + 1
    ends = ends[np.abs(ends - length) <= length // 2]
    return sequence[: ends[np.abs(ends - length).argmin()] if len(ends) else length]


def prefix_length(sequence: np.ndarray) -> int:
    """How many steps of a real sequence to prime a model with: up to the first pen-up in its middle third, or a half.

    :param sequence: ``(T, 3)``, T >= 2.
    """
    steps = len(sequence)
    ends = np.flatnonzero(_up(sequence)) + 1
    ends = ends[(3 * ends >= steps) & (3 * ends <= 2 * steps)]
    return int(ends[0]) if len(ends) else math.ceil(steps / 2)


def is_whole(sequences: Sequence[np.ndarray]) -> bool:
    """Whether all places are whole numbers, but for the rounding of float32 when the standardisation was undone.

    :param sequences: raw, each ``(T, 3)``.
    """
    return all(np.abs(s[:, :2] - np.rint(s[:, :2])).max(initial=0) < 0.01 for s in sequences)


def to_whole(sequence: np.ndarray) -> np.ndarray:
    """Round the places of the pen to whole numbers, as a tablet does; errors do not add up along the sequence.

    :param sequence: raw, ``(T, 3)``; a new one is returned.
    """
    places = np.rint(np.cumsum(sequence[:, :2], axis=0, dtype=np.float64))
    offsets = np.diff(places, axis=0, prepend=0).astype(sequence.dtype)
    return np.concatenate([offsets, sequence[:, 2:]], axis=1)


def _up(sequence: np.ndarray) -> np.ndarray:
    return sequence[:, 2] > 0.5


def _moves(sequence: np.ndarray) -> dict[str, np.ndarray]:
    """What the histograms count: lengths of steps and jumps, directions of the steps that lead anywhere."""
    offsets, air = sequence[1:, :2].astype(np.float64), _up(sequence)[:-1]
    lengths = np.hypot(*offsets.T)
    dx, dy = offsets[~air & (lengths > 0)].T
    return {"step length": lengths[~air], "jump length": lengths[air], "direction": np.arctan2(dy, dx)}


def _count(name: str, values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How many values are in each bin; directions are brought into the turn that the edges make, lengths to the end."""
    if name == "direction":
        values = (values - edges[0]) % (2 * np.pi) + edges[0]
    return np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]


def _variation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Total variation between counts ``(..., bins)``."""
    sums = [counts.sum(-1, keepdims=True) for counts in (a, b)]
    p, q = (counts / np.maximum(total, 1) for counts, total in zip((a, b), sums, strict=True))
    empty = [total[..., 0] == 0 for total in sums]
    return np.where(empty[0] | empty[1], 1.0 * (empty[0] != empty[1]), np.abs(p - q).sum(-1) / 2)


def _text(statistic: Statistic, decimals: int | None = None) -> str:
    """The figure with as many decimals as its error has to two digits, unless they are given."""
    mean, error = statistic.mean, statistic.standard_error
    if decimals is None:
        decimals = min(max(1 - math.floor(math.log10(error)), 0), 4) if 0 < error < math.inf else 2
    return f"{mean:,.{decimals}f} ± {error:.{decimals}f}"


def _checked(sequences: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    if not len(sequences):
        raise ValueError("there are no sequences to take statistics of")
    for i, sequence in enumerate(sequences):
        if np.ndim(sequence) != 2 or np.shape(sequence)[1] != 3 or not len(sequence):
            raise ValueError(
                f"sequence {i} has shape {np.shape(sequence)}, expected (T, 3): dx, dy and the pen, T >= 1"
            )
        if not np.isfinite(sequence).all():
            raise ValueError(f"sequence {i} has values that are not finite")
    return sequences
