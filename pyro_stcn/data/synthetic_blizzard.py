"""A synthetic corpus in the form of Blizzard 2013, made on this machine in seconds.

It exists so that everything that reads and streams Blizzard can be run and tested without it. It is a tree of long
recordings, a folder for each book, MP3 and RIFF in turn. One voice reads them: the sentences of a book are made once,
and each chapter says some of them again with other pauses. No figure measured on it says anything about speech.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import soundfile

from .audio import write_wav
from .blizzard import SYNTHETIC_MARK
from .checks import DataError
from .made_once import cache_folder, make_folder_once
from .synthesis import SAMPLE_RATE, Speaker, random_sentence, synthesise

_VERSION = 1  # part of the folder's name: raise it with any change of what is generated
_SENTENCES = 10  # of a book, about two seconds each
_READER = Speaker(pitch=205.0, tract=1.13, tempo=0.95, loudness=600.0, breath=0.02, noise=2.0)


def synthetic_blizzard(
    folder: str | os.PathLike[str] | None = None,
    *,
    books: int = 3,
    chapters: int = 4,
    seconds: float = 45.0,
    seed: int = 0,
) -> Path:
    """Make the synthetic corpus, or find it where it was made before.

    :param folder: where to make it, in a subfolder named by version and arguments; ``cache_folder()`` if not given.
    :param books: number of folders.
    :param chapters: recordings in each.
    :param seconds: length of the shortest chapter; others are up to a quarter longer.
    :param seed: an integer >= 0. Equal arguments give equal bytes (on one kind of machine, numpy and libsndfile).
    :returns: the folder to give to ``load_blizzard``. The default corpus has 12 recordings, ten minutes, 13 MB.
    :raises ValueError: if there would be no book, chapter or sound, or the seed is negative.
    :raises DataError: if the folder is there but recordings are missing from it.
    """
    if min(books, chapters) < 1 or not seconds > 0 or seed < 0:
        raise ValueError(
            f"books={books}, chapters={chapters}, seconds={seconds}, seed={seed}: at least one book and chapter, some "
            "sound and a seed >= 0 are needed"
        )
    parent = Path(folder) if folder is not None else cache_folder()
    root = parent / f"synthetic-blizzard-v{_VERSION}-{books}-books-{chapters}-chapters-{seconds:g}-s-seed-{seed}"
    make_folder_once(root, lambda made: _write_corpus(made, books, chapters, seconds, seed))
    there = sum(1 for _ in root.rglob("chapter-*"))
    if there != books * chapters:
        raise DataError(
            f"{root}: {there} of {books * chapters} recordings are there: remove the folder to have it made again"
        )
    return root


def _write_corpus(root: Path, books: int, chapters: int, seconds: float, seed: int) -> None:
    (root / SYNTHETIC_MARK).write_text("Synthetic speech, made by pyro-stcn; not the Blizzard corpus.\n")
    for book in range(books):
        # Each book and each chapter has a stream of its own: more of them leave the others as they are.
        rng = np.random.default_rng([seed, 0, book])
        sentences = [synthesise(random_sentence(rng, 10), _READER, rng) for _ in range(_SENTENCES)]
        folder = root / f"book-{book + 1:02d}"
        folder.mkdir()
        for chapter in range(chapters):
            rng = np.random.default_rng([seed, 1, book, chapter])
            samples = _chapter(sentences, int(seconds * rng.uniform(1, 1.25) * SAMPLE_RATE), rng)
            path = folder / f"chapter-{chapter + 1:02d}"
            if (book + chapter) % 2:
                write_wav(path.with_suffix(".wav"), samples, SAMPLE_RATE)
            else:
                soundfile.write(path.with_suffix(".mp3"), samples, SAMPLE_RATE, subtype="MPEG_LAYER_III", format="MP3")


def _chapter(sentences: list[np.ndarray], length: int, rng: np.random.Generator) -> np.ndarray:
    """Sentences in an order of its own, each with the pause after it, int16 of shape ``(length,)``."""
    pieces: list[np.ndarray] = []
    done = 0
    while done < length:
        sentence = sentences[int(rng.integers(len(sentences)))] * rng.uniform(0.7, 1.2)
        pause = np.zeros(int(rng.uniform(0.1, 0.6) * SAMPLE_RATE))
        pieces += [sentence, pause]
        done += len(sentence) + len(pause)
    sound = np.concatenate(pieces)[:length] + _READER.noise * rng.standard_normal(length)
    return np.clip(np.rint(sound), -(2**15), 2**15 - 1).astype(np.int16)
