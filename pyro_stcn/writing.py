"""Letting models write: lines of handwriting in the unit of the file, as long as real ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyro

from .data.corpus import Corpus
from .generation import generate
from .handwriting import end_at_pen_up
from .models import SequenceModel

__all__ = ["raw_lines", "written_lines"]

TOGETHER = 256  # lines that are generated at once


def written_lines(
    net: SequenceModel,
    corpus: Corpus,
    lengths: Sequence[int],
    *,
    seed: int = 0,
    temperature: float = 1.0,
    bias: float = 0.0,
) -> list[np.ndarray]:
    """Let a model write, unprimed.

    A model has no symbol for the end of a line: each ends with the pen-up that is nearest to its length.

    :param corpus: of pen strokes, which the model was trained on.
    :param lengths: steps of each line, about.
    :param seed: of the noise; what one model writes does not depend on what was drawn before.
    :param temperature: of strokes and pen: 1 is the model.
    :param bias: towards probable strokes (Graves 2013): 0 is the model.
    :returns: raw lines, each ``(T, 3)``.
    """
    pyro.set_rng_seed(seed)
    written = []
    for start in range(0, len(lengths), TOGETHER):
        wanted = lengths[start : start + TOGETHER]
        steps = max(length + length // 2 for length in wanted)
        lines = generate(net, steps, len(wanted), temperature=temperature, bias=bias).cpu().numpy()
        written += [end_at_pen_up(line, n) for line, n in zip(raw_lines(corpus, lines), wanted, strict=True)]
    return written


def raw_lines(corpus: Corpus, sequences: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
    """Undo the standardisation; the pen stays a bit."""
    return [corpus.standardiser.invert(np.asarray(sequence)) for sequence in sequences]
