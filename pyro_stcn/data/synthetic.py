"""A synthetic speech corpus in TIMIT's layout and format, made on this machine in seconds.

It exists so that everything that reads TIMIT can be run and tested without TIMIT. It shares TIMIT's shape (SPHERE files
by dialect, speaker and sentence, TRAIN and TEST, the two SA sentences read by everybody, waveforms of similar level)
and is no substitute for it: no figure measured on it says anything about speech.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .audio import write_sphere
from .checks import DataError
from .made_once import cache_folder, make_folder_once
from .synthesis import SAMPLE_RATE, Speaker, random_sentence, synthesise
from .timit import SYNTHETIC_DATABASE

_VERSION = 1  # part of the folder's name: raise it with any change of what is generated
_SA_SYLLABLES = (11, 9)


def synthetic_timit(
    folder: str | os.PathLike[str] | None = None,
    *,
    speakers: tuple[int, int] = (14, 4),
    sentences: int = 8,
    seed: int = 0,
) -> Path:
    """Make the synthetic corpus, or find it where it was made before.

    The files are written to a temporary folder that is renamed when complete, so an interrupted run leaves nothing
    behind that could be taken for a corpus, and two runs at once do no harm.

    :param folder: where to make it, in a subfolder named by version and arguments; ``cache_folder()`` if not given.
    :param speakers: number of speakers in TRAIN and in TEST.
    :param sentences: sentences per speaker, each of about two seconds; the first two are SA1 and SA2.
    :param seed: an integer >= 0. Equal arguments give equal bytes (on one kind of machine and numpy).
    :returns: the folder to give to ``load_timit``. The default corpus has 144 recordings, 9 MB.
    :raises ValueError: if there would be no speaker in a part, no sentence, or the seed is negative.
    :raises DataError: if the folder is there but recordings are missing from it.
    """
    if min(speakers) < 1 or sentences < 1 or seed < 0:
        raise ValueError(
            f"speakers={speakers}, sentences={sentences}, seed={seed}: at least one speaker in each "
            "part and one sentence are needed, and a seed >= 0"
        )
    parent = Path(folder) if folder is not None else cache_folder()
    train, test = speakers
    root = parent / f"synthetic-timit-v{_VERSION}-{train}-{test}-speakers-{sentences}-sentences-seed-{seed}"
    make_folder_once(root, lambda folder: _write_corpus(folder, speakers, sentences, seed))
    there = sum(1 for _ in root.rglob("*.WAV"))
    if there != (train + test) * sentences:
        raise DataError(
            f"{root}: {there} of {(train + test) * sentences} recordings are there: remove the folder "
            "to have it made again"
        )
    return root


def _write_corpus(root: Path, speakers: tuple[int, int], sentences: int, seed: int) -> None:
    readers = [("TRAIN", i) for i in range(speakers[0])]
    readers += [("TEST", speakers[0] + i) for i in range(speakers[1])]
    texts = np.random.default_rng([seed, 0])
    shared = [random_sentence(texts, syllables) for syllables in _SA_SYLLABLES]
    for part, number in readers:
        # Each speaker and sentence has a stream of its own: more speakers leave the others as they are.
        voice = np.random.default_rng([seed, 1, number])
        female = number % 2 == 0
        speaker = _draw_speaker(voice, female)
        initials = "".join(voice.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), 3))
        name = f"{'F' if female else 'M'}{initials}{number // 16 % 10}"
        folder = root / part / f"DR{number // 2 % 8 + 1}" / name
        folder.mkdir(parents=True)
        for k in range(sentences):
            rng = np.random.default_rng([seed, 2, number, k])
            phones = shared[k] if k < 2 else random_sentence(rng, int(rng.integers(6, 13)))
            samples = synthesise(phones, speaker, rng)
            path = folder / f"{_sentence_name(number, k, sentences)}.WAV"
            write_sphere(path, samples, SAMPLE_RATE, database=SYNTHETIC_DATABASE)


def _draw_speaker(rng: np.random.Generator, female: bool) -> Speaker:
    return Speaker(
        pitch=float(rng.uniform(175, 240) if female else rng.uniform(90, 140)),
        tract=float(rng.uniform(1.08, 1.20) if female else rng.uniform(0.94, 1.05)),
        tempo=float(rng.uniform(0.85, 1.15)),
        loudness=float(500 * np.exp(0.3 * rng.standard_normal())),
        breath=float(rng.uniform(0.01, 0.04)),
        noise=float(rng.uniform(1.5, 4.0)),
    )


def _sentence_name(speaker: int, k: int, sentences: int) -> str:
    """SA1 and SA2, then numbers no two speakers share: SX as a rule, SI for every third."""
    if k < 2:
        return f"SA{k + 1}"
    number = speaker * sentences + k
    return f"SI{number}" if k % 3 == 2 else f"SX{number}"
