"""Figure 3: lines of real handwriting beside lines that models write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyro
from matplotlib.figure import Figure

from .. import plots
from ..data import Corpus
from ..generation import generate
from ..handwriting import end_at_pen_up
from ..models import SequenceModel

__all__ = ["draw_figure", "save_picture", "written_lines"]


def draw_figure(
    nets: Mapping[str, SequenceModel],
    corpus: Corpus,
    path: Path,
    *,
    lines: int = 8,
    seed: int = 0,
    invert_y: bool = True,
) -> list[Path]:
    """Draw real test lines and as many of each model, unprimed, at the models' own spread.

    :param nets: the models by the titles of their columns.
    :param path: without an ending; a .png and an .svg are written.
    :param lines: in a column; fewer where the test set has fewer.
    :param seed: chooses the real lines, and the noise of what is written.
    :param invert_y: y grows downwards in these data.
    :returns: the files.
    """
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(len(corpus.test))[:lines])
    real = [_raw(corpus, corpus.test[i]) for i in chosen]
    columns = {"Ground truth": real}
    for name, net in nets.items():
        columns[name] = written_lines(net, corpus, [len(line) for line in real], seed=seed)
    return save_picture(plots.handwriting(columns, invert_y=invert_y)[0].figure, path)


def written_lines(net: SequenceModel, corpus: Corpus, lengths: list[int], *, seed: int) -> list[np.ndarray]:
    """Let a model write lines of about these lengths, in the unit of the file.

    A model has no symbol for the end of a line: each ends with the pen-up that is nearest to its length.
    """
    pyro.set_rng_seed(seed)  # what one model writes does not depend on who else was asked
    steps = max(length + length // 2 for length in lengths)
    written = generate(net, steps, len(lengths)).cpu().numpy()
    return [end_at_pen_up(_raw(corpus, line), length) for line, length in zip(written, lengths, strict=True)]


def save_picture(figure: Figure, path: Path) -> list[Path]:
    """Write a picture as .png and .svg; equal pictures give equal files."""
    files = [path.with_name(f"{path.name}.{ending}") for ending in ("png", "svg")]
    figure.savefig(files[0], dpi=120)
    with plots.plt.rc_context({"svg.hashsalt": "pyro-stcn"}):
        figure.savefig(files[1], metadata={"Date": None})
    plots.plt.close(figure)
    return files


def _raw(corpus: Corpus, line: np.ndarray) -> np.ndarray:
    return corpus.standardiser.invert(np.asarray(line))
