"""Sequences of categories: text by the character, labels of a table, whole numbers that count nothing.

A step becomes channels of which one is 1, the head for them is ``CategoricalConfig``, and the labels stay with the
corpus, so that what a model generates can be said in them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .array_files import Source, names_of
from .batch import SequenceDataset
from .checks import DataError
from .corpus import Corpus
from .label_tables import read_labels
from .npz_files import read_npy, read_npz
from .parts import HoldOut, given_parts, place, repeated, split
from .raw import StepKind
from .standardise import Standardiser

FILES = (".txt", ".csv", ".npy", ".npz")
BYTES_OF_LINE = 200  # of memory, for a sequence of one label


@dataclass(frozen=True)
class _Reading:
    """How files are read: see ``load_categories``."""

    column: str | None
    sequence_column: str | None
    max_bytes: int


@dataclass(frozen=True)
class _Labels:
    """Sequences of labels and their names."""

    sequences: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]


def load_categories(
    train: Any,
    valid: Any = None,
    test: Any = None,
    *,
    column: str | None = None,
    sequence_column: str | None = None,
    max_categories: int = 1024,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    max_bytes: int = 2**28,
    name: str = "categories",
) -> Corpus:
    """Make a corpus of categories, for ``CategoricalConfig``; nothing in a file is executed.

    Each of ``train``, ``valid`` and ``test`` may be

    * a list of sequences: each a string (its characters are the categories), a list of strings or whole numbers, or an
      array ``(T,)`` of these (NumPy or torch);
    * one array ``(N, T)``;
    * the path of a ``.txt``: a line is a sequence of characters, lines without any are left out;
    * the path of a ``.csv`` with a header: a row is a step (see ``column`` and ``sequence_column``);
    * the path of an ``.npy`` or ``.npz`` with arrays ``(T,)`` or ``(N, T)`` of whole numbers or text;
    * a folder of such files, or a list of ``pathlib.Path``.

    A part that is not given is held out of ``train``, whole sequences at random.

    :param column: the column of a ``.csv`` that holds the labels, by name. None: the only one beside
        ``sequence_column``.
    :param sequence_column: the column that says which sequence a row belongs to. None: every file is one sequence.
    :param max_categories: refuse more than so many: they would hardly be categories.
    :param valid_fraction: see ``load_arrays``, and so for the next two.
    :param max_bytes: the largest file, and the largest data of all sequences with a channel for each category.
    :param name: of the corpus.
    :returns: float32 sequences ``(T, C)``; ``channels`` has the labels, of all parts, in the order of numbers or of
        text.
    :raises DataError: naming the file and sequence: what is no label, fewer than two categories or too many.
    :raises ValueError: if an argument is out of range.
    """
    how = HoldOut(valid_fraction, test_fraction, seed)
    if min(max_categories, max_bytes) < 1:
        raise ValueError(f"max_categories={max_categories}, max_bytes={max_bytes}: expected integers >= 1")
    given, reading = given_parts(train, valid, test), _Reading(column, sequence_column, max_bytes)
    labels = {part: _find(place(part, g), g, reading) for part, g in given.items()}
    names = _categories(labels, max_categories)
    width = len(names)
    steps = sum(len(s) for found in labels.values() for s in found.sequences)
    if steps * width * 4 > max_bytes:
        raise DataError(
            f"{steps} steps of {width} categories need {steps * width * 4} bytes, and max_bytes is {max_bytes}"
        )
    index = {label: i for i, label in enumerate(names)}
    one_hot = np.eye(width, dtype=np.float32)
    sources = {
        part: Source(tuple(one_hot[[index[label] for label in s]] for s in found.sequences), found.names)
        for part, found in labels.items()
    }
    parts, told = split(sources, how)
    sets = {part: SequenceDataset(data.sequences, data.names) for part, data in parts.items()}
    counts = np.sum([s.sum(0) for s in sets["train"].sequences], axis=0)
    unseen = [label for label, count in zip(names, counts, strict=True) if count == 0]
    share = counts[counts > 0] / counts.sum()
    sentences = [
        f"Categories, {name}: {width}, from {names[0]!r} to {names[-1]!r}.",
        *told,
        *(f"{part.capitalize()}: {len(data)} sequences, {data.steps} steps." for part, data in sets.items()),
        f"Their frequencies alone are worth {(share * np.log(share)).sum():.3f} nats per step of the training part.",
        *(
            [f"{len(unseen)} of them are not in the training part: {', '.join(map(repr, unseen))[:200]}."]
            if unseen
            else []
        ),
        *repeated(parts),
    ]
    unit = Standardiser((0.0,) * width, (1.0,) * width)
    description, kind = " ".join(sentences), StepKind.CATEGORIES
    return Corpus(name, sets["train"], sets["valid"], sets["test"], unit, description, kind=kind, channels=names)


def _categories(labels: dict[str, _Labels], most: int) -> tuple[str, ...]:
    every = {label for found in labels.values() for s in found.sequences for label in s}
    if not 2 <= len(every) <= most:
        some = ", ".join(repr(label) for label in sorted(every)[:5])
        raise DataError(
            f"there are {len(every)} different labels ({some} ...): expected 2 to {most} (max_categories). Numbers "
            "that count or measure are for load_arrays"
        )
    if all(_is_whole(label) for label in every):
        return tuple(sorted(every, key=int))
    return tuple(sorted(every))


def _is_whole(label: str) -> bool:
    return len(label) < 20 and label.removeprefix("-").isdecimal() and str(int(label)) == label


def _find(where: str, given: Any, how: _Reading) -> _Labels:
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu().numpy()
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        found = _folder(path, how) if path.is_dir() else _file(path, path.stem, how)
    elif isinstance(given, Sequence) and given and all(isinstance(item, Path) for item in given):
        found = _join([_file(path, n, how) for path, n in zip(given, names_of(given), strict=True)])
    elif (isinstance(given, np.ndarray) and given.ndim == 2) or (isinstance(given, Sequence) and len(given)):
        found = _Labels(
            tuple(_sequence(f"{where}: sequence {i}", item) for i, item in enumerate(given)),
            tuple(str(i) for i in range(len(given))),
        )
    else:
        shape = f" of shape {given.shape}" if isinstance(given, np.ndarray) else ""
        raise DataError(
            f"{where} is a {type(given).__name__}{shape}: expected a list of strings or of label sequences, an array "
            "(N, T), or the path of a file or folder"
        )
    empty = [name for name, s in zip(found.names, found.sequences, strict=True) if not s]
    if empty or not found.sequences:
        raise DataError(
            f"{where}: {f'sequence {empty[0]!r} is empty' if empty else 'there are no sequences'}: leave it out"
        )
    return found


def _sequence(where: str, item: Any) -> tuple[str, ...]:
    """Labels as strings."""
    if isinstance(item, str):
        return tuple(item)
    array = item.detach().cpu().numpy() if isinstance(item, torch.Tensor) else item
    if isinstance(array, np.ndarray):
        if array.ndim != 1 or array.dtype.kind not in "iubU":
            raise DataError(
                f"{where} has shape {array.shape}, dtype {array.dtype}, expected labels (T,), whole numbers or text; "
                "real numbers are for load_arrays"
            )
        array = array.astype(int).tolist() if array.dtype.kind == "b" else array.tolist()
    if not isinstance(array, Sequence):
        raise DataError(f"{where} is a {type(item).__name__}, expected a string, or a list or array of labels")
    wrong = [label for label in array if not isinstance(label, str | int | np.integer) or label == ""]
    if wrong:
        raise DataError(
            f"{where} holds {wrong[0]!r:.60}, which is no label: expected whole numbers or text that is not empty"
        )
    return tuple(str(int(label)) if isinstance(label, bool) else str(label) for label in array)


def _folder(path: Path, how: _Reading) -> _Labels:
    files = sorted(f for f in path.rglob("*") if f.is_file() and f.suffix.lower() in FILES and f.name[0] != ".")
    if not files:
        raise DataError(f"{path}: holds no file that is read: expected {', '.join(FILES)}")
    return _join([_file(file, str(file.relative_to(path)), how) for file in files])


def _join(found: list[_Labels]) -> _Labels:
    return _Labels(tuple(s for one in found for s in one.sequences), tuple(n for one in found for n in one.names))


def _file(path: Path, name: str, how: _Reading) -> _Labels:
    if not path.is_file():
        raise DataError(f"{path}: {'is no regular file' if path.exists() else 'does not exist'}")
    if path.stat().st_size > how.max_bytes:
        raise DataError(
            f"{path}: has {path.stat().st_size} bytes, and max_bytes is {how.max_bytes}: raise it if this is right"
        )
    suffix = path.suffix.lower()
    if suffix == ".txt":
        try:
            text = path.read_text("utf-8-sig")
            if (count := text.count("\n")) * BYTES_OF_LINE > how.max_bytes:
                raise DataError(
                    f"{path}: has {count} lines, which need {BYTES_OF_LINE} bytes each, and max_bytes is "
                    f"{how.max_bytes}: raise it if this is right"
                )
            lines = text.split("\n")  # splitlines splits at more than what ends a line
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as text in UTF-8 ({error}): save it again in UTF-8") from error
        kept = [number for number, line in enumerate(lines) if line]
        return _Labels(tuple(tuple(lines[n]) for n in kept), tuple(f"{name}/{n + 1}" for n in kept))
    if suffix == ".csv":
        groups = read_labels(path, how.column, how.sequence_column)
        return _Labels(tuple(groups.values()), tuple(f"{name}/{group}" if group else name for group in groups))
    if suffix not in FILES:
        raise DataError(f"{path}: expected {', '.join(FILES)}")
    arrays: dict[str, Any] = {name: read_npy(path, max_bytes=how.max_bytes)} if suffix == ".npy" else {}
    if suffix == ".npz":
        arrays = {f"{name}/{member}": a for member, a in read_npz(path, max_bytes=how.max_bytes).items()}
    sequences: list[tuple[str, ...]] = []
    names: list[str] = []
    for member, array in arrays.items():
        stack = array if array.ndim == 2 else [array]
        sequences += [_sequence(f"{path}: {member!r}", row) for row in stack]
        names += [f"{member}/{i}" for i in range(len(stack))] if array.ndim == 2 else [member]
    return _Labels(tuple(sequences), tuple(names))
