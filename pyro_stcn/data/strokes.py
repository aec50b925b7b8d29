"""Pen strokes: handwriting and drawings as sequences of offsets (dx, dy) and a pen-up bit.

Published results on IAM-OnDB are densities in a unit of their own: see ``StrokeNormaliser.CHUNG``. They are all on its
validation part, on which training was also stopped; here the split is the file's, with a test part.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .batch import SequenceDataset
from .checks import Choice, DataError, constant_channels
from .corpus import Corpus
from .raw import StepKind
from .standardise import Standardiser
from .stroke_files import AXES, StrokePart, read_stroke_file

SYNTHETIC_ORIGIN = "pyro-stcn-synthetic"  # what the files of the synthetic corpus say
_PEN = 2
_OUTLIER = 20.0  # standard deviations beyond which the description mentions an offset


class StrokeNormaliser(Choice):
    """The unit of dx and dy, fitted on the training part. The pen is left alone: its likelihood has no unit.

    CHANNEL takes the mean and standard deviation of each axis.

    CHUNG is what Chung et al. 2015 did and the published figures on IAM-OnDB stand on. Their script divides sums over
    both axes by the number of steps, not of values, so both axes get the mean mx + my and
    ``std = sqrt(E[dx^2] + E[dy^2] - (mx + my)^2)``. With means near 0 that is sqrt(2) times the standard deviation of
    all offsets, which adds ``2 log sqrt(2)``, about 0.693 nats per step, to every log-likelihood; the description of
    the corpus gives the exact difference to CHANNEL. (The script turns y upwards first, which matters to ``mx + my``
    alone. ``load_strokes`` keeps the sign of the file, ``load_iamondb`` does as the script.)
    """

    CHANNEL = "channel"
    CHUNG = "chung"

    def fit(self, sequences: Sequence[np.ndarray]) -> Standardiser:
        """The map of raw to standardised steps.

        :param sequences: arrays of shape ``(T_i, 3)``.
        :raises DataError: if an axis is constant, or CHUNG's formula gives no positive variance.
        """
        constant = [AXES[c] for c in constant_channels(sequences) if c != _PEN]
        if constant:
            raise DataError(f"{' and '.join(constant)} never change: check that the right data were written")
        if self is StrokeNormaliser.CHANNEL:
            return Standardiser.per_channel(sequences, keep=(_PEN,))
        steps = sum(len(s) for s in sequences)
        total = math.fsum(s[:, :_PEN].sum(dtype=np.float64) for s in sequences)
        square = math.fsum(np.square(s[:, :_PEN], dtype=np.float64).sum() for s in sequences)
        mean, variance = total / steps, square / steps - (total / steps) ** 2
        if variance <= 0:
            raise DataError(
                f"the normaliser 'chung' gives the variance {variance:.4g}, as dx and dy drift together more than they "
                "vary: give normaliser='channel'"
            )
        std = math.sqrt(variance)
        return Standardiser((mean, mean, 0.0), (std, std, 1.0))


def load_strokes(
    path: str | os.PathLike[str],
    *,
    normaliser: StrokeNormaliser | str = StrokeNormaliser.CHANNEL,
    max_steps: int | None = None,
    max_bytes: int = 2**28,
) -> Corpus:
    """Read pen strokes from one ``.npz`` file; ``stroke_files`` describes the format, ``write_strokes`` writes it.

    The split is the file's own. Nothing in the file is executed: arrays of objects, as in the files of sketch-rnn, are
    refused with a way to convert them.

    :param path: the file.
    :param normaliser: the unit of dx and dy, see ``StrokeNormaliser``.
    :param max_steps: leave out sequences that are longer, in every part; None keeps all. A test set without its longest
        sequences gives other figures per sequence.
    :param max_bytes: the largest file, and the largest unpacked data, to accept.
    :returns: sequences of shape ``(T, 3)``: standardised dx and dy, and the pen bit, 1 at the last point of a stroke.
        They are named "train/0" by part and place in the file, with the beginning of the text if it holds one.
        ``description`` says how many there are, their unit, and what is odd about them.
    :raises DataError: if the file is not such a file or damaged, or a value cannot be: file, part, sequence, step and
        channel are named.
    :raises ValueError: if an argument is out of range.
    """
    normaliser = StrokeNormaliser(normaliser)
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}, expected an integer >= 1, or None to keep all sequences")
    if max_bytes < 1:
        raise ValueError(f"max_bytes is {max_bytes}, expected an integer >= 1")
    path = Path(path)
    file = read_stroke_file(path, max_bytes)
    kept = {part: _short(path, part, data, max_steps) for part, data in file.parts.items()}
    try:
        standardiser = normaliser.fit(kept["train"].sequences)
    except DataError as error:
        raise DataError(f"{path}: the training part cannot be standardised: {error}") from error
    sets = {
        part: SequenceDataset(tuple(standardiser.apply(s) for s in data.sequences), data.names)
        for part, data in kept.items()
    }
    synthetic = file.origin == SYNTHETIC_ORIGIN
    opening = f"Synthetic pen strokes, not handwriting ({path.name})." if synthetic else f"Pen strokes of {path.name}."
    sentences = [
        f"{opening} A step is dx, dy and 1 where the pen is lifted. The split is the file's own.",
        *(f"{part.capitalize()}: {len(data)} sequences, {data.steps} steps." for part, data in sets.items()),
        *_dropped(file.parts, kept, max_steps),
        unit_of(normaliser, standardiser, kept["train"].sequences),
        *oddities(kept, standardiser),
    ]
    name = "synthetic-strokes" if synthetic else path.name.removesuffix(".npz").removesuffix(".stroke3")
    description, kind = " ".join(sentences), StepKind.STROKES
    return Corpus(name, sets["train"], sets["valid"], sets["test"], standardiser, description, kind=kind)


def _short(path: Path, part: str, data: StrokePart, max_steps: int | None) -> StrokePart:
    """The sequences of no more than ``max_steps``."""
    pairs = [
        (s, name)
        for s, name in zip(data.sequences, data.names, strict=True)
        if max_steps is None or len(s) <= max_steps
    ]
    if not pairs:
        shortest = min(len(s) for s in data.sequences)
        raise DataError(
            f"{path}: no sequence of {part} has {max_steps} steps or fewer, the shortest has {shortest}: raise "
            "max_steps"
        )
    return StrokePart(tuple(s for s, _ in pairs), tuple(name for _, name in pairs))


def _dropped(before: dict[str, StrokePart], after: dict[str, StrokePart], max_steps: int | None) -> list[str]:
    if max_steps is None:
        return []
    counts = (f"{len(before[p].names) - len(after[p].names)} of {len(before[p].names)} in {p}" for p in before)
    return [f"Sequences longer than {max_steps} steps are left out: {', '.join(counts)}."]


def unit_of(normaliser: StrokeNormaliser, standardiser: Standardiser, train: Sequence[np.ndarray]) -> str:
    """Return the unit of the values in words, and what it is worth against that of each axis."""
    assert isinstance(standardiser.mean, tuple)
    assert isinstance(standardiser.std, tuple)
    (mx, my, _), (sx, sy, _) = standardiser.mean, standardiser.std
    if normaliser is StrokeNormaliser.CHANNEL:
        return (
            f"Standardised with the means {mx:.4f}, {my:.4f} and standard deviations {sx:.4f}, {sy:.4f} of the "
            "training dx and dy; the pen is as it was."
        )
    more = StrokeNormaliser.CHANNEL.fit(train).log_jacobian(3) - standardiser.log_jacobian(3)
    return (
        f"Standardised as by Chung et al. 2015, dx and dy with the mean {mx:.4f} and standard deviation {sx:.4f}: a "
        f"log-likelihood is {more:.3f} nats per step above that with one mean and deviation per axis. The pen is as it "
        "was."
    )


def oddities(parts: dict[str, StrokePart], standardiser: Standardiser) -> list[str]:
    """Sentences on what is no error, and bears on what a figure means."""
    everything = [s for data in parts.values() for s in data.sequences]
    found = []
    if not any(s[0, :_PEN].any() for s in everything):
        found.append(
            "Every sequence begins with the offset (0, 0): the first step tells next to nothing, and a figure that "
            "scores it gains."
        )
    if all((s == np.rint(s)).all() for s in everything):
        found.append(
            f"Offsets are whole numbers: a log-density of dx and dy above {-standardiser.log_jacobian(3):.2f} nats "
            "per step describes their rounding."
        )
    far = [
        (float(size[at]), f"{AXES[at[1]]} at step {at[0]} of {name!r}", int((size > _OUTLIER).sum()))
        for data in parts.values()
        for s, name in zip(data.sequences, data.names, strict=True)
        if (size := np.abs(standardiser.apply(s))[:, :_PEN]).max() > _OUTLIER
        for at in [np.unravel_index(size.argmax(), size.shape)]
    ]
    if far:
        size, where, _ = max(far)
        found.append(
            f"{sum(n for *_, n in far)} offsets are beyond {_OUTLIER:.0f} standard deviations; the largest, at "
            f"{size:.0f}, is {where}."
        )
    unfinished = sum(s[-1, _PEN] == 0 for s in everything)
    if unfinished:
        found.append(f"{unfinished} sequences end with the pen down.")
    seen = {s.tobytes() for s in parts["train"].sequences}
    again = {p: sum(s.tobytes() in seen for s in parts[p].sequences) for p in ("valid", "test")}
    if any(again.values()):
        found.append(
            f"Also in the training part, point for point: {again['valid']} of valid and {again['test']} of test."
        )
    return found
