"""A small synthetic pair of files in the format of Deepwriting, for tests and for trying things out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .checks import DataError
from .deepwriting import FILES
from .made_once import cache_folder, make_folder_once
from .stroke_files import read_stroke_file
from .strokes import SYNTHETIC_ORIGIN
from .synthetic_strokes import synthetic_strokes

_VERSION = 1  # part of the folder's name: raise it with any change of what is generated


def synthetic_deepwriting(
    folder: str | os.PathLike[str] | None = None, *, words: tuple[int, int] = (60, 20), seed: int = 0
) -> tuple[Path, Path]:
    """Make a small synthetic pair of files in the format of Deepwriting, or find it where it was made before.

    The words are those of ``synthetic_strokes``, which says how they are made and how little they mean. ``samples`` is
    an array of objects and ``statistics`` a dict, both pickled by NumPy, as published.

    :param folder: where to make it, in a subfolder named by version and arguments; ``cache_folder()`` if not given.
    :param words: sequences in the training and in the validation file.
    :param seed: an integer >= 0.
    :returns: the two files to give to ``load_deepwriting``.
    :raises ValueError: if a file would have no words or the seed is negative.
    :raises DataError: if the folder is there but a file is missing from it.
    """
    if min(words) < 1 or seed < 0:
        raise ValueError(f"words={words}, seed={seed}: at least one word in each file is needed, and a seed >= 0")
    parent = Path(folder) if folder is not None else cache_folder()
    root = parent / f"synthetic-deepwriting-v{_VERSION}-{words[0]}-{words[1]}-words-seed-{seed}"
    make_folder_once(root, lambda folder: _write_corpus(folder, words, seed))
    files = tuple(root / name for name in FILES)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{root}: {' and '.join(missing)} is missing: remove this folder, to have it made again")
    return files[0], files[1]


def _write_corpus(folder: Path, words: tuple[int, int], seed: int) -> None:
    strokes = synthetic_strokes(folder, words=(*words, 1), seed=seed)
    parts = read_stroke_file(strokes, max_bytes=2**31).parts
    strokes.unlink()
    for name, part in zip(FILES, ("train", "valid"), strict=True):
        _write(folder / name, parts[part].sequences)


def _write(path: Path, sequences: tuple[np.ndarray, ...]) -> None:
    samples = np.empty(len(sequences), dtype=object)
    samples[:] = sequences
    every = np.concatenate(sequences).astype(np.float64)
    mean, std = (np.append(statistic[:2], bit) for statistic, bit in ((every.mean(0), 0.0), (every.std(0), 1.0)))
    statistics = {
        "mean_channel": mean.astype(np.float32),
        "std_channel": std.astype(np.float32),
        "mean_all": np.float32(every.mean()),
        "std_all": np.float32(every.std()),
    }
    np.savez_compressed(
        path,
        samples=samples,
        preprocessing=np.array([SYNTHETIC_ORIGIN, "offsets"]),
        statistics=np.array(statistics, dtype=object),
    )
