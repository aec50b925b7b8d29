"""Pictures of numbers that other modules compute: each function draws into the Axes it is given, or new ones."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .comparison import Score
from .handwriting import HISTOGRAMS, StrokeStatistics
from .models import Evidence

__all__ = [
    "channels",
    "comparison",
    "handwriting",
    "kl_by_layer",
    "rows",
    "save",
    "spectrogram",
    "stroke_histograms",
    "strokes",
    "training_curve",
    "waveform",
]


def training_curve(folder: str | Path, ax: Axes | None = None) -> Axes:
    """Objective of the training batches and of the validations against the step, from the logs that ``fit`` wrote.

    A line marks the end of the KL annealing. The first steps of a run are often far below the rest, so the axis
    begins at the fifth percentile of what was logged.
    """
    ax = ax or plt.subplots(figsize=(7, 4), layout="constrained")[1]
    train_log, valid_log = Path(folder) / "train.csv", Path(folder) / "valid.csv"
    train = _rows(train_log)
    if not train:
        raise ValueError(f"{train_log} has no rows yet: nothing to plot")
    ax.plot(train["step"], train["objective"], lw=0.7, alpha=0.6, label="training batch")
    values = list(train["objective"])
    if valid_log.exists() and (valid := _rows(valid_log)):
        ax.errorbar(
            valid["step"],
            valid["objective"],
            yerr=valid["standard_error"],
            fmt="o-",
            ms=4,
            capsize=2,
            label="validation",
        )
        values += list(valid["objective"])
    annealed = train["step"][train["kl_weight"] >= 1]
    if len(annealed):
        ax.axvline(annealed[0], color="0.6", ls=":", label="KL weight reaches 1")
    low, high = np.percentile(values, 5), max(values)
    if high > low:
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    ax.set(xlabel="step", ylabel="objective at KL weight 1 (nats per sequence)")
    ax.legend()
    return ax


def kl_by_layer(kl: Mapping[str, np.ndarray], ax: Axes | None = None) -> Axes:
    """KL(q || p) of every layer, mean and standard error over sequences, on a logarithmic axis.

    :param kl: one value per sequence for each latent, as in :class:`~pyro_stcn.evaluation.Evaluation`.
    """
    ax = ax or plt.subplots(figsize=(5, 3.5), layout="constrained")[1]
    names = list(kl)
    means = np.array([np.mean(kl[name]) for name in names])
    errors = [np.std(kl[name], ddof=1) / np.sqrt(len(kl[name])) if len(kl[name]) > 1 else 0.0 for name in names]
    bars = ax.barh(names, means, xerr=errors, capsize=3, color="C0")
    ax.bar_label(bars, labels=[f"{mean:,.1f}" if mean >= 1 else f"{mean:.2g}" for mean in means], padding=4)
    floor = max(means[means > 0].min(initial=1.0), 1e-3)
    # Limits first: a logarithmic axis cannot find any where every layer is off.
    ax.set_xlim(min(floor / 3, 0.5), max(means.max(), floor) * 8)
    ax.set_xscale("log")
    ax.set(xlabel="KL(q || p), nats per sequence", ylabel="layer, z1 nearest the data")
    return ax


def comparison(groups: Mapping[str, Sequence[Score]], ax: Axes | None = None) -> Axes:
    """What each system is worth, best on top: mean and standard error over sequences, and a small dot for each seed.

    Points and not bars: a log-density has no zero that a length could start from. Colours tell exact figures from
    bounds.

    :param groups: as :func:`pyro_stcn.comparison.by_system` gives them.
    """
    ax = ax or plt.subplots(figsize=(8, 0.45 * len(groups) + 1.5), layout="constrained")[1]
    rows = sorted(groups.items(), key=lambda item: np.mean([score.nats for score in item[1]]))
    kinds = {kind: f"C{i}" for i, kind in enumerate(Evidence)}
    seen = set()
    for y, (_, group) in enumerate(rows):
        values, kind = np.mean([score.nats for score in group], 0), group[0].evidence
        error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
        label = None if kind in seen else str(kind)
        seen.add(kind)
        ax.errorbar(np.mean(values), y, xerr=error, fmt="o", ms=8, capsize=4, color=kinds[kind], label=label)
        ax.plot([np.mean(score.nats) for score in group], [y] * len(group), "k.", ms=4)
    ax.set_yticks(range(len(rows)), [system for system, _ in rows])
    ax.grid(axis="x", alpha=0.3)
    ax.set(xlabel="nats per sequence, mean over seeds ± s.e. over sequences (small dots: seeds)")
    ax.legend(loc="lower right")
    return ax


def waveform(samples: np.ndarray, rate: int, ax: Axes | None = None, **line) -> Axes:
    """Amplitude against time in seconds.

    :param samples: one-dimensional.
    :param line: passed on to ``Axes.plot``.
    """
    ax = ax or plt.subplots(figsize=(8, 2), layout="constrained")[1]
    ax.plot(np.arange(len(samples)) / rate, samples, **{"lw": 0.4, **line})
    ax.set(xlabel="seconds", ylabel="amplitude", xlim=(0, len(samples) / rate))
    return ax


def spectrogram(samples: np.ndarray, rate: int, ax: Axes | None = None, window: float = 0.016) -> Axes:
    """Power in decibels over time and frequency, 80 dB deep.

    :param samples: one-dimensional, longer than a window.
    :param window: length of the analysis window in seconds.
    """
    ax = ax or plt.subplots(figsize=(8, 3), layout="constrained")[1]
    size = int(window * rate)
    if len(samples) < size:
        raise ValueError(f"{len(samples)} samples are shorter than a window of {size}")
    hop = size // 4
    pieces = np.lib.stride_tricks.sliding_window_view(samples.astype(float), size)[::hop] * np.hanning(size)
    power = 20 * np.log10(np.abs(np.fft.rfft(pieces, n=4 * size, axis=-1)).T + 1e-3)
    extent = (0, len(samples) / rate, 0, rate / 2000)
    ax.imshow(
        power, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=power.max() - 80, vmax=power.max()
    )
    ax.set(xlabel="seconds", ylabel="kHz")
    return ax


def channels(
    sequence: np.ndarray, ax: Axes | None = None, *, names: Sequence[str] | None = None, prefix: int = 0
) -> Axes:
    """Every channel of a sequence against the step, the first ten with a legend.

    :param sequence: shape ``(T, D)``.
    :param names: of the channels; default: their numbers.
    :param prefix: steps at the beginning that were given to a model; a line marks their end.
    """
    ax = ax or plt.subplots(figsize=(8, 2.5), layout="constrained")[1]
    for number, values in enumerate(sequence.T):
        label = f"channel {number}" if names is None else names[number]
        ax.plot(values, lw=0.8, label=label if number < 10 else None)
    if prefix:
        ax.axvline(prefix - 0.5, color="0.4", ls=":")
    ax.set(xlabel="step", xlim=(0, max(len(sequence) - 1, 1)))
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize="small", ncols=5, frameon=False)
    return ax


def strokes(
    sequence: np.ndarray, ax: Axes | None = None, *, marked: np.ndarray | None = None, invert_y: bool = True
) -> Axes:
    """One sequence of pen strokes as ink on paper: a line per stroke, a dot where a stroke is a single point.

    The first offset leads from the origin to the first point, without ink.

    :param sequence: shape ``(T, 3)``: dx, dy in raw units, and the pen, 1 at the last point of a stroke, else 0.
    :param marked: steps to draw in another colour, bool ``(T,)``.
    :param invert_y: y grows downwards, as in most files.
    """
    ax = ax or plt.subplots(figsize=(6, 3), layout="constrained")[1]
    marked = np.zeros(len(sequence), dtype=bool) if marked is None else marked
    _ink(np.cumsum(sequence[:, :2], axis=0), sequence[:, 2], ax, marked)
    ax.set_aspect("equal")
    ax.yaxis.set_inverted(invert_y)
    return ax


def handwriting(
    columns: Mapping[str, Sequence[np.ndarray]],
    axes: np.ndarray | None = None,
    *,
    prefix: int | Sequence[int] = 0,
    invert_y: bool = True,
) -> np.ndarray:
    """Lines of handwriting side by side, all at one scale: a column for each system, ground truth first.

    Lines begin at the left edge of their column, and are in the middle of their row; where the beginning was given, it
    alone counts, so that it is at the same place in the whole row.

    :param columns: lines by the name of their column: raw sequences ``(T, 3)`` as in :func:`strokes`, of which
        ``(0, 3)`` leaves a gap.
    :param axes: one for each column, which should have equal sizes; default: a new figure that fits.
    :param prefix: how many steps at the beginning of the lines were given to the model, one number or one for each row.
        They are drawn in another colour.
    :param invert_y: y grows downwards, as in most files.
    :returns: the Axes, ``(columns,)``.
    :raises ValueError: if nothing is to be drawn, or ``axes`` or ``prefix`` do not fit.
    """
    rows = max((len(lines) for lines in columns.values()), default=0)
    given = [prefix] * rows if isinstance(prefix, int) else list(prefix)
    if len(given) < rows:
        raise ValueError(f"there are {rows} rows and {len(given)} numbers of steps that were given")
    places = {
        name: [_places(line, steps) for line, steps in zip(lines, given, strict=False)]
        for name, lines in columns.items()
    }
    every = [p for lines in places.values() for p in lines if len(p)]
    if not every:
        raise ValueError("there is no handwriting to draw")
    left, right = min(p[:, 0].min() for p in every), max(p[:, 0].max() for p in every)
    # The middle of each row is so far down that no line of it reaches up into the row above.
    across = [[lines[i] for lines in places.values() if i < len(lines) and len(lines[i])] for i in range(rows)]
    sign = 1 if invert_y else -1
    above = [max((-sign * p[:, 1]).max() for p in row) if row else 0.0 for row in across]
    below = [max((sign * p[:, 1]).max() for p in row) if row else 0.0 for row in across]
    gap = 0.15 * max(np.mean(np.add(above, below)), 1e-9)
    down = np.cumsum(np.add(above, [0.0, *below[:-1]]) + gap)
    height, width = down[-1] + below[-1] + gap, max(right - left, 1e-9) + 2 * gap
    if axes is None:
        scale = 0.9 / (height / rows)  # inches: a row is so high, unless the figure would become too large
        scale = min(scale, 24 / (len(columns) * width), 40 / height)
        title = 0.1 * max(len(name) for name in columns)  # inches
        size = (len(columns) * max(width * scale, title, 1.0) + 0.2, max(height * scale, 0.5) + 0.5)
        axes = plt.subplots(1, len(columns), figsize=size, squeeze=False, layout="constrained")[1][0]
    if len(axes) != len(columns):
        raise ValueError(f"there are {len(columns)} columns and {len(axes)} Axes")
    for ax, (name, lines) in zip(axes, columns.items(), strict=True):
        for line, place, y, steps in zip(lines, places[name], down, given, strict=False):
            _ink(place + np.array([0, sign * y]), line[:, 2], ax, np.arange(len(line)) < steps)
        ax.set(xlim=(left - gap, right + gap), ylim=(height, 0) if invert_y else (-height, 0), aspect="equal")
        ax.set_anchor("W")  # under its title
        ax.set_title(name, loc="left")
        ax.set_axis_off()
    return np.asarray(axes)


def rows(bits: np.ndarray, ax: Axes | None = None, *, names: Sequence[str] | None = None, prefix: int = 0) -> Axes:
    """Notes or labels over time: a row for each channel, dark where it is 1.

    :param bits: ``(T, D)``.
    :param names: of the channels; some are written beside their rows.
    :param prefix: steps at the beginning that were given, with a line behind them.
    """
    ax = plt.subplots(figsize=(9, 2.5), layout="constrained")[1] if ax is None else ax
    ax.imshow(bits.T, aspect="auto", origin="lower", interpolation="nearest", cmap="Greys")
    ticks = np.linspace(0, bits.shape[1] - 1, min(bits.shape[1], 12)).astype(int)
    ax.set_yticks(ticks, [str((names or ticks)[i]) for i in ticks])
    ax.set_xlabel("step")
    if prefix:
        ax.axvline(prefix - 0.5, color="C1")
    return ax


def stroke_histograms(
    statistics: Mapping[str, StrokeStatistics], axes: np.ndarray | None = None, *, invert_y: bool = True
) -> np.ndarray:
    """Step lengths, jump lengths and directions of several systems, over the first, which is filled: real data.

    :param statistics: by name, all with the bins of the first.
    :param axes: three; default: new ones.
    :param invert_y: y grows downwards, as in most files.
    :returns: the Axes, ``(3,)``.
    """
    if axes is None:
        axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")[1]
    for ax, name in zip(axes, HISTOGRAMS, strict=True):
        for i, (label, made) in enumerate(statistics.items()):
            edges, shares = made.edges[name], 100 * made.histogram(name)
            if name == "direction":
                edges = np.degrees(edges)
            first = {"fill": True, "color": "0.8"} if i == 0 else {"color": f"C{i - 1}", "lw": 1.2}
            ax.stairs(shares, edges, label=label, **first)
        ax.set(xlabel=f"{name} (last bin: and longer)", ylabel="% of jumps" if "jump" in name else "% of steps")
        ax.set_xlim(edges[0], edges[-1])
    vertical = ("down", "up") if invert_y else ("up", "down")
    axes[-1].set_xticks([0, 90, 180, 270], ["right", vertical[0], "left", vertical[1]])
    axes[-1].set(xlabel="direction of steps")
    axes[0].legend()
    return np.asarray(axes)


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a picture as .png and .svg and close it; equal pictures give equal files.

    :param path: without an ending.
    :returns: the files.
    """
    files = [path.with_name(f"{path.name}.{ending}") for ending in ("png", "svg")]
    figure.savefig(files[0], dpi=120)
    with plt.rc_context({"svg.hashsalt": "pyro-stcn"}):
        figure.savefig(files[1], metadata={"Date": None})
    plt.close(figure)
    return files


def _places(line: np.ndarray, given: int) -> np.ndarray:
    """Where the pen is, ``(T, 2)``: the line, or what was given of it, begins at x = 0 and has its middle at y = 0."""
    points = np.cumsum(line[:, :2], axis=0, dtype=np.float64)
    if not len(points):
        return points
    seen = points[: given or None]
    return points - [seen[:, 0].min(), (seen[:, 1].min() + seen[:, 1].max()) / 2]


def _ink(points: np.ndarray, pen: np.ndarray, ax: Axes, marked: np.ndarray) -> None:
    """Draw places of the pen, ``(T, 2)``, as ink, marked steps in another colour."""
    ends = np.flatnonzero(pen > 0.5) + 1
    for stroke, colour in zip(np.split(points, ends), np.split(marked, ends), strict=True):
        turns = np.flatnonzero(np.diff(colour)) + 1
        for piece in np.split(np.arange(len(stroke)), turns):
            if len(piece):
                # What goes on in a stroke begins where the part before it ends.
                line = stroke[max(piece[0] - 1, 0) : piece[-1] + 1]
                marker = "." if len(stroke) == 1 else None
                ax.plot(*line.T, color="C1" if colour[piece[0]] else "k", lw=1, marker=marker, ms=3)


def _rows(path: Path) -> dict[str, np.ndarray]:
    """Columns of a log by name; none where nothing was logged yet."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([float(row[key]) for row in rows]) for key in rows[0]} if rows else {}
