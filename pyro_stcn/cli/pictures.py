"""Sequences as pictures, by what their steps are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from .. import plots
from ..data import RawFormat, StepKind

__all__ = ["draw", "save"]

SHOWN = 8  # sequences in a picture
WINDOW = 0.016  # seconds of the spectrogram's window, which a short sound does not have


def draw(raw: RawFormat, sequences: Mapping[str, np.ndarray], *, prefix: int = 0, apart: bool = False) -> Figure:
    """Draw the first sequences: waveform and spectrogram, ink, a line for each channel, a row for each note or label.

    :param raw: what their steps are.
    :param sequences: standardised, ``(T, D)`` each, by title.
    :param prefix: steps at the beginning that were given.
    :param apart: handwriting in columns with their titles, not as lines of a page.
    """
    shown = dict(list(sequences.items())[:SHOWN])
    if raw.kind is StepKind.STROKES:
        lines = {name: raw.undo(sequence) for name, sequence in shown.items()}
        columns = {name: [line] for name, line in lines.items()} if apart else {"": list(lines.values())}
        return plots.handwriting(columns, prefix=prefix)[0].figure
    if raw.kind is StepKind.AUDIO:
        assert raw.sample_rate is not None
        figure, axes = plt.subplots(2 * len(shown), 1, figsize=(9, 4 * len(shown)), squeeze=False, layout="constrained")
        for i, (name, sequence) in enumerate(shown.items()):
            samples, upper, lower = raw.undo(sequence), axes[2 * i, 0], axes[2 * i + 1, 0]
            plots.waveform(samples, raw.sample_rate, upper).set_title(name, loc="left")
            if len(samples) >= WINDOW * raw.sample_rate:
                plots.spectrogram(samples, raw.sample_rate, lower, WINDOW)
            else:
                lower.set_axis_off()
            if prefix:
                for ax in (upper, lower):
                    ax.axvline(prefix * sequence.shape[1] / raw.sample_rate, color="C1")
        return figure
    figure, axes = plt.subplots(len(shown), 1, figsize=(9, 2.2 * len(shown)), squeeze=False, layout="constrained")
    for ax, (name, sequence) in zip(axes[:, 0], shown.items(), strict=True):
        ax.set_title(name, loc="left")
        if raw.kind is not StepKind.REAL:
            plots.rows(sequence, ax, names=raw.channels, prefix=prefix)
            continue
        plots.channels(raw.standardiser.invert(sequence), ax, names=raw.channels, prefix=prefix)
    return figure


def save(figure: Figure, path: Path, raw: RawFormat) -> list[Path]:
    """Write PATH.png, and of handwriting PATH.svg; returns the paths."""
    paths = [path.with_name(f"{path.name}.png")]
    figure.savefig(paths[0], dpi=120)
    if raw.kind is StepKind.STROKES:
        paths.append(path.with_name(f"{path.name}.svg"))
        with plt.rc_context({"svg.hashsalt": "pyro-stcn"}):  # equal pictures give equal files
            figure.savefig(paths[1], metadata={"Date": None})
    plt.close(figure)
    return paths
