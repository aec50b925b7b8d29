"""Figure 3: lines of real handwriting beside lines that models write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .. import plots
from ..data import Corpus
from ..models import SequenceModel
from ..writing import raw_lines, written_lines

__all__ = ["draw_figure"]


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
    real = raw_lines(corpus, [corpus.test[i] for i in chosen])
    columns = {"Ground truth": real}
    for name, net in nets.items():
        columns[name] = written_lines(net, corpus, [len(line) for line in real], seed=seed)
    return plots.save(plots.handwriting(columns, invert_y=invert_y)[0].figure, path)
