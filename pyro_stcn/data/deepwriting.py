"""Deepwriting: handwritten lines and words of Aksan et al. 2018, as the STCN paper used them.

The authors offer the data on the page of their project DeepWriting, ETH Zurich, AIT Lab. Nothing is downloaded here.

The published pair of files, ``deepwriting_v2_training.npz`` and ``deepwriting_v2_validation.npz``, has no test part.
The paper stopped training on the validation file and reported its figures on the same: see ``DeepwritingSplit``.

A file holds ``samples``, an array of objects, one ``(T_i, 3)`` array per sequence: dx, dy, and the pen, 0 or 1; or one
array ``(N, T, 3)``, with ``masks`` ``(N, T)`` if it is padded. There may be ``file_ids``, one per sequence,
``preprocessing``, what was done to the data, in words, and ``statistics``, a dict with ``mean_channel`` and
``std_channel``. ``targets`` are not used. The arrays of objects are pickles; they are read by ``safe_pickle``, so that
nothing in them can run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .batch import SequenceDataset
from .careful_files import strings_of
from .checks import Choice, DataError
from .corpus import Corpus
from .npz_files import read_npz
from .raw import StepKind
from .safe_pickle import Objects
from .standardise import Standardiser
from .stroke_files import AXES
from .strokes import SYNTHETIC_ORIGIN, StrokeNormaliser

FILES = ("deepwriting_v2_training.npz", "deepwriting_v2_validation.npz")
_READ = ("samples", "masks", "file_ids", "preprocessing", "statistics")
_TOLERANCE = 0.01  # of a standard deviation: what stored statistics may differ by without a remark
_NOTE = 300  # characters of the preprocessing that the description quotes


class DeepwritingSplit(Choice):
    """What is validated and tested on.

    HELD_OUT validates on a part of the training file and tests on the published validation file, which nothing is then
    chosen by. It trains on less than was published.

    PUBLISHED trains on all of the training file, and validation and test are both the published validation file, as in
    the paper: the figure is of the sequences on which training was stopped, and so too good.
    """

    HELD_OUT = "held out"
    PUBLISHED = "published"


@dataclass(frozen=True, eq=False)
class _File:
    sequences: tuple[np.ndarray, ...]  # float32, (T_i, 3)
    groups: tuple[str, ...] | None  # one name per sequence
    preprocessing: tuple[str, ...]
    statistics: Standardiser | None


def load_deepwriting(
    train: str | os.PathLike[str],
    valid: str | os.PathLike[str],
    *,
    split: DeepwritingSplit | str = DeepwritingSplit.HELD_OUT,
    valid_fraction: float = 0.05,
    seed: int = 0,
    max_bytes: int = 2**31,
) -> Corpus:
    """Read the published pair of files, or the pair that ``synthetic_deepwriting`` makes.

    :param train: the training file.
    :param valid: the validation file.
    :param split: what is validated and tested on, see ``DeepwritingSplit``.
    :param valid_fraction: fraction of the training file to hold out, at least one sequence; of its ``file_ids``, each
        with all of its sequences, if some are there more than once. Not used with the published split.
    :param seed: chooses what is held out, an integer >= 0.
    :param max_bytes: the largest file, and the largest unpacked data of a file, to accept.
    :returns: sequences of shape ``(T, 3)``: dx and dy, standardised with mean and standard deviation of each on the
        data that are trained on, and the pen as it is. They are named "train/0" after their place in the training file
        and "valid/0" in the validation file (its second appearance as the test part "valid again/0"). ``description``
        says how they were split, and whether the statistics in the files are those of their samples.
    :raises DataError: if a file is not such a file, damaged, or holds more than arrays of numbers (nothing in it is
        run); naming file, sequence, step and channel, if a value cannot be.
    :raises ValueError: if an argument is out of range.
    """
    split = DeepwritingSplit(split)
    if not 0 < valid_fraction < 1 or seed < 0 or max_bytes < 1:
        raise ValueError(
            f"valid_fraction={valid_fraction}, seed={seed}, max_bytes={max_bytes}: expected a number between 0 and 1, "
            "an integer >= 0 and one >= 1"
        )
    paths = {"train": Path(train), "valid": Path(valid)}
    files = {part: _read(path, max_bytes) for part, path in paths.items()}
    count = len(files["train"].sequences)
    if split is DeepwritingSplit.HELD_OUT:
        held, how = _hold_out(paths["train"], files["train"], valid_fraction, seed)
        places = [i for i in range(count) if i not in held]
        sources = {
            "train": [(files["train"].sequences[i], f"train/{i}") for i in places],
            "valid": [(files["train"].sequences[i], f"train/{i}") for i in sorted(held)],
            "test": [(s, f"valid/{i}") for i, s in enumerate(files["valid"].sequences)],
        }
        told = f"Validation: {how} of {paths['train'].name}, seed {seed}. Test: {paths['valid'].name}."
    else:
        sources = {"train": [(s, f"train/{i}") for i, s in enumerate(files["train"].sequences)]}
        for part, name in (("valid", "valid"), ("test", "valid again")):
            sources[part] = [(s, f"{name}/{i}") for i, s in enumerate(files["valid"].sequences)]
        told = (
            f"As published, validation and test are the same sequences, those of {paths['valid'].name}: a figure on "
            "them is of data that training was stopped on, not held out."
        )
    try:
        standardiser = StrokeNormaliser.CHANNEL.fit([s for s, _ in sources["train"]])
    except DataError as error:
        raise DataError(f"{paths['train']}: the training part cannot be standardised: {error}") from error
    sets = {
        part: SequenceDataset(tuple(standardiser.apply(s) for s, _ in pairs), tuple(name for _, name in pairs))
        for part, pairs in sources.items()
    }
    synthetic = SYNTHETIC_ORIGIN in files["train"].preprocessing
    assert isinstance(standardiser.mean, tuple)
    assert isinstance(standardiser.std, tuple)
    sentences = [
        "Synthetic pen strokes in the format of Deepwriting, not handwriting."
        if synthetic
        else f"Deepwriting ({paths['train'].name}, {paths['valid'].name}).",
        "A step is dx, dy and the pen.",
        told,
        *(f"{part.capitalize()}: {len(data)} sequences, {data.steps} steps." for part, data in sets.items()),
        "Standardised with the means {:.4f}, {:.4f} and standard deviations {:.4f}, {:.4f} of the training dx and dy; "
        "the pen is as it was.".format(*standardiser.mean[:2], *standardiser.std[:2]),
        *_remarks(paths["train"], files["train"]),
    ]
    name = "synthetic-deepwriting" if synthetic else "deepwriting"
    description, kind = " ".join(sentences), StepKind.STROKES
    return Corpus(name, sets["train"], sets["valid"], sets["test"], standardiser, description, kind=kind)


def _hold_out(path: Path, file: _File, fraction: float, seed: int) -> tuple[set[int], str]:
    """The places that are held out, and what they are in words."""
    count = len(file.sequences)
    groups = file.groups
    if groups is None or len(set(groups)) in (1, count):  # nothing to keep together
        groups = tuple(str(i) for i in range(count))
    different = list(dict.fromkeys(groups))
    if len(different) < 2:
        raise DataError(f"{path}: one sequence is not enough to hold out another for validation")
    order = torch.randperm(len(different), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = {different[i] for i in order[: min(max(round(fraction * len(different)), 1), len(different) - 1)]}
    held = {i for i, group in enumerate(groups) if group in chosen}
    if len(different) == count:
        return held, f"{len(held)} sequences held out of the {count}"
    return held, f"{len(held)} sequences with {len(chosen)} of the {len(different)} file_ids held out of the {count}"


def _read(path: Path, max_bytes: int) -> _File:
    items, arrays = read_items(path, max_bytes)
    sequences = tuple(_sequence(path, i, item) for i, item in enumerate(items))
    preprocessing = _texts(path, "preprocessing", arrays)
    ids = _texts(path, "file_ids", arrays)
    return _File(sequences, ids or None, preprocessing, _statistics(arrays.get("statistics")))


def read_items(path: Path, max_bytes: int) -> tuple[Sequence[object], dict[str, np.ndarray | Objects]]:
    """The elements of ``samples`` before anything is known of them, without padding, and all arrays that are read.

    :raises DataError: naming the file, if it is not such a file or damaged.
    """
    arrays = read_npz(path, max_bytes=max_bytes, names=_READ, pickles=True)
    if "samples" not in arrays:
        raise DataError(
            f"{path}: there is no array 'samples': expected a file such as {' or '.join(FILES)}; load_strokes reads "
            "the stroke-3 format"
        )
    samples = arrays["samples"]
    if not isinstance(samples, Objects) and samples.ndim != 3:
        raise DataError(f"{path}: 'samples' has shape {samples.shape}, expected (N, T, 3) or an array of N objects")
    items = samples.items if isinstance(samples, Objects) else _unpad(path, samples, arrays.get("masks"))
    if not items:
        raise DataError(f"{path}: 'samples' holds no sequences")
    ids = _texts(path, "file_ids", arrays)
    if ids and len(ids) != len(items):
        raise DataError(f"{path}: there are {len(items)} sequences and {len(ids)} file_ids, expected one each")
    return items, arrays


def _unpad(path: Path, samples: np.ndarray, masks: np.ndarray | Objects | None) -> tuple[np.ndarray, ...]:
    """Cut the padding that the masks declare."""
    if masks is None:
        return tuple(samples)
    if isinstance(masks, Objects) or masks.dtype.kind not in "fiub" or masks.shape != samples.shape[:2]:
        raise DataError(f"{path}: 'masks' is not an array of numbers of shape {samples.shape[:2]}, one for each step")
    lengths = (masks != 0).sum(1)
    gaps = np.flatnonzero(((masks != 0) != (np.arange(masks.shape[1]) < lengths[:, None])).any(1))
    if len(gaps):
        raise DataError(f"{path}: sequence {gaps[0]} of 'masks' is masked before its end: cut it into pieces")
    return tuple(s[:n] for s, n in zip(samples, lengths, strict=True))


def as_sequence(path: Path, index: int, item: object) -> np.ndarray:
    """An element as float32 of shape ``(T, 3)``, whatever its values are.

    :raises DataError: if it is nothing of the kind.
    """
    where = f"{path}: sequence {index} of 'samples'"
    real = isinstance(item, np.ndarray) and item.dtype.kind in "fiub"
    if not isinstance(item, np.ndarray) or not real or item.ndim != 2 or item.shape[1] != 3 or len(item) == 0:
        found = (
            f"has shape {item.shape} and dtype {item.dtype}"
            if isinstance(item, np.ndarray)
            else f"is a {type(item).__name__}"
        )
        raise DataError(f"{where} {found}, expected numbers of shape (T, 3), T >= 1: dx, dy and the pen")
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is reported as such
        return item.astype(np.float32)


def _sequence(path: Path, index: int, item: object) -> np.ndarray:
    sequence = as_sequence(path, index, item)
    bad = ~np.isfinite(sequence) | ((np.arange(3) == 2) & ~np.isin(sequence, (0, 1)))
    if bad.any():
        step, channel = np.argwhere(bad)[0]
        raise DataError(
            f"{path}: sequence {index} of 'samples': step {step}, channel {channel} ({AXES[channel]}) is "
            f"{sequence[step, channel]}, expected {'0 or 1' if channel == 2 else 'a finite number'}, the first of "
            f"{bad.sum()} such values: correct the file"
        )
    return sequence


def _texts(path: Path, name: str, arrays: dict[str, np.ndarray | Objects]) -> tuple[str, ...]:
    """Texts or numbers as printable texts; none if the array is not there."""
    found = arrays.get(name)
    if isinstance(found, np.ndarray):
        return tuple(strings_of(path, name, found if found.dtype.kind == "U" else found.astype(str)))
    items = () if found is None else found.items
    return tuple("".join(c if c.isprintable() else "?" for c in str(item)) for item in items)


def _statistics(found: np.ndarray | Objects | None) -> Standardiser | None:
    if not isinstance(found, Objects) or len(found.items) != 1 or not isinstance(found.items[0], dict):
        return None
    mean, std = (np.asarray(found.items[0].get(f"{name}_channel")) for name in ("mean", "std"))
    if mean.size != 3 or std.size != 3 or not {mean.dtype.kind, std.dtype.kind} <= set("fiu"):
        return None
    try:
        return Standardiser(tuple(mean.ravel().tolist()), tuple(std.ravel().tolist()))
    except DataError:
        return None


def _remarks(path: Path, file: _File) -> list[str]:
    """Sentences on what a file says about itself."""
    remarks = []
    if file.preprocessing:
        quoted = ", ".join(file.preprocessing)
        remarks.append(f"Preprocessing according to {path.name}: {quoted[:_NOTE]}{'...' * (len(quoted) > _NOTE)}.")
    stored = file.statistics
    if stored is None:
        return [*remarks, f"{path.name} has no statistics per channel."]
    every = np.concatenate(file.sequences).astype(np.float64)
    (mx, my, pen), (sx, sy, pen_std) = np.asarray(stored.mean), np.asarray(stored.std)
    scale = np.maximum(every.std(0)[:2], 1e-12)
    apart = np.abs([every.mean(0)[:2] - (mx, my), every.std(0)[:2] - (sx, sy)]) / scale
    if apart.max() <= _TOLERANCE:
        remarks.append(f"The statistics in {path.name} are those of its samples.")
    else:
        remarks.append(
            f"The statistics in {path.name}, means {mx:.4f}, {my:.4f} and standard deviations {sx:.4f}, {sy:.4f}, are "
            f"not those of its samples, {every.mean(0)[0]:.4f}, {every.mean(0)[1]:.4f} and {every.std(0)[0]:.4f}, "
            f"{every.std(0)[1]:.4f}; they were not used."
        )
    if (pen, pen_std) != (0, 1):
        remarks.append(
            f"It gives the pen the mean {pen:.4f} and standard deviation {pen_std:.4f}; here it stays 0 or 1."
        )
    return remarks
