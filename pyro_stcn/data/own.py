"""Your own data, whatever they are: one function that sees what it is given and calls the loader for it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .array_files import Reading, Source, find_sequences, is_audio, is_read
from .arrays import load_arrays
from .categories import load_categories
from .checks import DataError
from .corpus import Corpus
from .label_tables import holds_text
from .npz_files import read_npz
from .raw import StepKind
from .rolls import MIDI, PIANO, load_rolls
from .strokes import load_strokes

OWN_LOADERS = (load_arrays, load_strokes, load_rolls, load_categories)
#: what is seen from the end of a name alone
BY_ENDING = {".json": StepKind.ROLL, ".txt": StepKind.CATEGORIES}
_PEN = 2


def load_own(
    train: Any, valid: Any = None, test: Any = None, *, kind: StepKind | str | None = None, **options: Any
) -> Corpus:
    """Make a corpus of your own data by the loader that fits them.

    The loaders say what may be given and what the options are: ``load_arrays``, ``load_strokes``, ``load_rolls`` and
    ``load_categories``. Without ``kind``, what the data are is seen in them:

    * an ``.npz`` in the stroke-3 format, which has all three parts: STROKES;
    * ``.json``, lists of steps that are lists of notes, and arrays of 0 and 1 that are 88 or 128 wide: ROLL;
    * ``.txt``, a ``.csv`` whose only column (beside ``sequence_column``) is text, and arrays of text: CATEGORIES;
    * recordings: AUDIO; everything else: REAL. Whole numbers are taken as numbers, and strings as paths.

    :param train: data or a path of them; with ``valid`` and ``test`` held out of them where those are not given.
    :param kind: what a step is, to say so instead. STROKES of arrays ``(T, 3)`` or files of them leaves the pen alone.
    :param options: of the loader.
    :returns: its corpus; ``corpus.kind`` says what the data were taken for.
    :raises DataError: as the loader does, and for an option that it does not have.
    """
    chosen = StepKind(kind) if kind is not None else recognise_steps(train, options)
    loader = _loader_of(chosen, train)
    _check_options(chosen, loader, options)
    if loader is load_strokes:
        if valid is not None or test is not None:
            raise DataError(f"{train}: a stroke-3 file holds its own parts: give it alone")
        return load_strokes(train, **options)
    if chosen is StepKind.STROKES:
        return _strokes(load_arrays(train, valid, test, keep=(_PEN,), **options))
    corpus = loader(train, valid, test, **options)
    if kind is not None and corpus.kind is not chosen:
        raise DataError(f"these data are {corpus.kind} and not {chosen}")
    return corpus


def _strokes(corpus: Corpus) -> Corpus:
    """Call arrays pen strokes, if they can be any."""
    every = [s for part in (corpus.train, corpus.valid, corpus.test) for s in part.sequences]
    if corpus.data_dim != _PEN + 1 or not all(np.isin(s[:, _PEN], (0, 1)).all() for s in every):
        raise DataError("pen strokes have three channels: dx, dy, and 1 where the pen is lifted, else 0")
    return replace(corpus, kind=StepKind.STROKES)


def _loader_of(kind: StepKind, train: Any) -> Callable[..., Corpus]:
    if kind is StepKind.STROKES:
        return load_strokes if _is_stroke_file(train) else load_arrays
    loaders: dict[StepKind, Callable[..., Corpus]]
    loaders = {StepKind.CATEGORIES: load_categories, StepKind.ROLL: load_rolls}
    return loaders.get(kind, load_arrays)


def _check_options(kind: StepKind, loader: Callable[..., Corpus], options: dict[str, Any]) -> None:
    """Refuse an option that belongs to data of another kind."""
    known = [p.name for p in inspect.signature(loader).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if unknown := [name for name in options if name not in known]:
        raise DataError(
            f"the data are taken for {kind}, whose loader has no option {unknown[0]!r}; it has: {', '.join(known)}"
        )


def recognise_steps(given: Any, options: dict[str, Any]) -> StepKind:
    """Return what data look like, as :func:`load_own` says; of several files the first is looked at.

    :param options: those of the loader; ``sequence_column`` is of use.
    """
    if _is_stroke_file(given):
        return StepKind.STROKES
    paths = _paths(given)
    if paths is None:
        if isinstance(given, Sequence) and given and not isinstance(given, str | bytes):
            if all(isinstance(one, Sequence) for one in given):
                steps = [step for one in given for step in one]
                if any(isinstance(step, str) for step in steps):
                    return StepKind.CATEGORIES
                if steps and all(isinstance(step, Sequence) for step in steps):
                    return StepKind.ROLL
            if all(isinstance(one, np.ndarray) and one.dtype.kind == "U" for one in given):
                return StepKind.CATEGORIES
        if isinstance(given, np.ndarray) and given.dtype.kind == "U":
            return StepKind.CATEGORIES
        return _of_values(find_sequences("train", given, _reading(options)))
    if not paths:
        return StepKind.REAL  # for load_arrays to say what is wrong
    if is_audio(paths[0]):
        return StepKind.AUDIO
    reading = _reading(options)
    if symbols := _symbols(paths[0], reading.sequence_column):
        return symbols
    if not paths[0].is_file():
        return StepKind.REAL
    return _of_values(find_sequences("train", [paths[0]], reading))


def holds_symbols(path: Path, sequence_column: str | int | None) -> bool:
    """Whether a path is one of notes or labels, which are read as a whole by loaders of their own.

    :raises DataError: for a table that cannot be read.
    """
    files = _paths(path)
    return files is not None and len(files) > 0 and _symbols(files[0], sequence_column) is not None


def _symbols(file: Path, sequence_column: str | int | None) -> StepKind | None:
    """What a file of notes or labels holds; None for any other."""
    ending = file.suffix.lower()
    if ending == ".csv" and file.is_file() and holds_text(file, sequence_column):
        return StepKind.CATEGORIES
    return BY_ENDING.get(ending)


def _reading(options: dict[str, Any]) -> Reading:
    return Reading(1, options.get("sequence_column"), options.get("max_bytes", 2**30))


def _paths(given: Any) -> list[Path] | None:
    """The files that are meant, in order; None for what is no path.

    In a folder of recordings or arrays, notes and transcripts beside them are not meant.
    """
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        if not path.is_dir():
            return [path]
        files = sorted(f for f in path.rglob("*") if f.is_file() and f.name[0] != ".")
        return [f for f in files if is_read(f)] or files
    if isinstance(given, Sequence) and given and all(isinstance(item, str | os.PathLike) for item in given):
        return [Path(item) for item in given]
    return None


def _is_stroke_file(given: Any) -> bool:
    if not isinstance(given, str | os.PathLike) or Path(given).suffix.lower() != ".npz" or not Path(given).is_file():
        return False
    # The one small array that tells, and no more: the loader reads the others.
    return bool(read_npz(given, max_bytes=2**30, names=("train_lengths",)))


def _of_values(source: Source) -> StepKind:
    arrays = [a for a in source.sequences if isinstance(a, np.ndarray) and a.ndim == 2]
    width = arrays[0].shape[1] if arrays else 0
    bits = width in (len(PIANO), len(MIDI)) and all(a.dtype.kind in "fiub" and np.isin(a, (0, 1)).all() for a in arrays)
    return StepKind.ROLL if bits else StepKind.REAL
