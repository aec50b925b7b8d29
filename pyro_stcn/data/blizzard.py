r"""Blizzard 2013 as raw frames, streamed from the recordings.

About 315 hours of one speaker reading books, "unsegmented": long recordings in a tree of folders. The organisers of the
Blizzard Challenge 2013 (the Centre for Speech Technology Research, University of Edinburgh, with Lessac Technologies)
offer it to those who register and sign its licence: https://www.synsig.org/index.php/Blizzard_Challenge_2013. Nothing
is downloaded here.

Recordings have to be mono and of 16 kHz. A tree of others is converted with::

    cd IN && find . -name '*.mp3' -exec sh -c 'mkdir -p "OUT/$(dirname "$1")" &&
        ffmpeg -i "$1" -ar 16000 -ac 1 -c:a pcm_s16le "OUT/${1%.mp3}.wav"' _ {} \;

Published protocol (Chung et al. 2015; Z-forcing, Stochastic WaveNet and STCN use its files): a step is 200 consecutive
samples, a row 40 steps (half a second). The recordings, 200 at a time, are joined and cut into 128 equal streams, and
streams into rows; rows are numbered so that 128 in succession go on with the 128 before them. The first 90 % of the
rows are for training, then come 5 % for validation and 5 % for test; of 2,267,008 rows the boundaries are 2,040,064,
2,152,704 and 2,266,880.

Where this loader differs from the published scripts:

* The recordings are in the order of their names, not in that of a directory listing, so which rows are in which part is
  another: published figures are comparable in kind, not row by row.
* A row is one sequence; nothing carries a state from one to the next, and training shuffles them.
* The scripts take the mean and standard deviation of all rows; here it is of the training rows unless
  ``BlizzardNormaliser.PUBLISHED`` is asked for.
* The released iterators of two later papers pair a row with the next row, of another stream, as its target. Here a
  model predicts the row it is given.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from .checks import Choice, DataError
from .corpus import Corpus
from .recording_files import open_recordings
from .standardise import Standardiser
from .streamed import StreamedWindows
from .tape import Recording, Tape
from .tape_statistics import kept_blocks, kept_sums

SAMPLE_RATE = 16000
SYNTHETIC_MARK = "SYNTHETIC.txt"  # a file in a corpus that this library made
_ROWS, _VALID, _TEST = 17711, 880, 892  # of each of the 128 streams, as published; one more is left out at the end
_BLOCK = 10_000  # rows of which the published statistics are taken at once
_HOURS = 300  # fewer are not the whole corpus


class BlizzardSplit(Choice):
    """What is held out.

    PUBLISHED holds out the last rows of the streams, as the published results do. They are neighbours of training rows:
    a row of the test set goes on with a sentence that training may have begun, in a chapter that it knows, and
    recordings are in two parts. A figure says how well a model predicts more of the books it was trained on.

    RECORDINGS holds out whole recordings, drawn at random, so no half second has a neighbour in another part. Other
    chapters of the same books stay in training.

    FOLDERS holds out whole folders, which in this corpus are books: texts and recording days are new.

    In all three the voice is the same: there is one.
    """

    PUBLISHED = "published"
    RECORDINGS = "recordings"
    FOLDERS = "folders"


class BlizzardNormaliser(Choice):
    """Whose mean and standard deviation make the unit.

    TRAINING: those of all samples of the training rows, exact.

    PUBLISHED: a running estimate over all rows, those of the test set among them, 10,000 at a time; the first block
    adds nothing to the variance, so on the whole corpus the standard deviation is low by 0.22 %, which is -17.7 nats
    per row. It needs more than 10,000 rows, and the published split.
    """

    TRAINING = "training"
    PUBLISHED = "published"


def load_blizzard(
    root: str | os.PathLike[str],
    *,
    split: BlizzardSplit | str = BlizzardSplit.PUBLISHED,
    normaliser: BlizzardNormaliser | str = BlizzardNormaliser.TRAINING,
    frame: int = 200,
    segment: int = 40,
    streams: int = 128,
    group: int = 200,
    valid_fraction: float = _VALID / _ROWS,
    test_fraction: float = _TEST / _ROWS,
    decoded: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Corpus:
    """Read Blizzard 2013, or any tree of long recordings, without holding it in memory.

    The first call reads everything through once, with a progress bar, and notes what it found: later ones start at
    once. What is not RIFF with 16-bit PCM is copied then, see ``recording_files``: for the whole corpus 36 GB.

    :param root: a folder with recordings at any depth, in any format that libsndfile reads.
    :param split: what is held out.
    :param normaliser: whose mean and standard deviation make the unit.
    :param frame: samples per step, the data's D.
    :param segment: steps per sequence.
    :param streams: into how many streams the recordings of a group are cut (published split only). The rows go 128
        after 128; a script that rebuilt the files later had 100.
    :param group: recordings that are joined (published split only).
    :param valid_fraction: fraction of the rows, or of the sound, that is held out for validation.
    :param test_fraction: the same for test.
    :param decoded: a folder for the notes and the copies; see ``open_recordings``.
    :param seed: chooses what is held out, not for the published split.
    :returns: sequences of shape ``(segment, frame)``, read when they are used (``StreamedWindows``), standardised. Each
        is named "RECORDING[FIRST:LAST]" after its samples.
    :raises DataError: as ``open_recordings``; if there is too little sound for the split; if a recording and a
        copy of it would be held out into two parts.
    :raises AudioError: for recordings that cannot be used, as ``open_recordings``.
    :raises ValueError: if an argument is out of range.
    """
    split, normaliser = BlizzardSplit(split), BlizzardNormaliser(normaliser)
    if min(frame, segment, streams, group) < 1:
        raise ValueError(f"frame={frame}, segment={segment}, streams={streams}, group={group}: integers >= 1 expected")
    if not (valid_fraction > 0 and test_fraction > 0 and valid_fraction + test_fraction < 1):
        raise ValueError(f"fractions {valid_fraction} and {test_fraction}: expected above 0 and together below 1")
    if normaliser is BlizzardNormaliser.PUBLISHED and split is not BlizzardSplit.PUBLISHED:
        raise ValueError("the published normaliser is of the rows of the published split")

    tape = open_recordings(root, sample_rate=SAMPLE_RATE, decoded=decoded)
    row = frame * segment
    if split is BlizzardSplit.PUBLISHED:
        rows = _streams(tape, row, streams, group)
        starts, how = _published(rows, valid_fraction, test_fraction)
        how = f"{group} recordings at a time were cut into {streams} streams; {how}"
    else:
        starts, how = _held_out(tape, row, split, valid_fraction, test_fraction, seed)
    if normaliser is BlizzardNormaliser.PUBLISHED:
        standardiser, whose = _running(tape, rows.ravel(), row), "a running estimate over all rows, as published"
    else:
        standardiser, whose = kept_sums(tape, starts["train"], row).standardiser(), "all samples of the training part"
    parts = {part: StreamedWindows(tape, begin, segment, frame, standardiser) for part, begin in starts.items()}
    name, opening = _identity(Path(root), tape)
    sentences = [
        opening,
        how,
        f"A step is {frame} consecutive samples at {SAMPLE_RATE} Hz, a sequence {segment} steps.",
        *(f"{part.title()}: {len(data)} sequences, {data.steps} steps." for part, data in parts.items()),
        f"Standardised with the mean {standardiser.mean:.4f} and standard deviation {standardiser.std:.4f} (int16 "
        f"units) of {whose}.",
        *_copies(tape),
    ]
    return Corpus(name, **parts, standardiser=standardiser, description=" ".join(sentences), sample_rate=SAMPLE_RATE,
                  frame=frame)  # fmt: skip


def _identity(root: Path, tape: Tape) -> tuple[str, str]:
    """Name of the corpus, and the sentence that says which data these are."""
    hours = len(tape) / SAMPLE_RATE / 3600
    count = f"{len(tape.recordings)} recordings, {hours:.2f} hours"
    if (root / SYNTHETIC_MARK).is_file():
        return "synthetic-blizzard", f"Synthetic speech in the form of Blizzard 2013, not Blizzard: {count}."
    if hours < _HOURS:
        return "blizzard", (
            f"A part of Blizzard 2013, or other recordings: {count} out of about 315: results are not comparable with "
            "those published on the whole."
        )
    return "blizzard", f"Blizzard 2013, unsegmented: {count}."


def _streams(tape: Tape, row: int, streams: int, group: int) -> np.ndarray:
    """Where each row begins, int64 of shape ``(C, streams)``, in the published order."""
    blocks = []
    for first in range(0, len(tape.recordings), group):
        begin, end = tape.starts[first], tape.starts[min(first + group, len(tape.recordings))]
        length = (end - begin) // streams
        count = max((length - 1) // row, 0)  # as published: a stream of exactly C rows gives C - 1
        stream = np.arange(streams, dtype=np.int64) * length
        blocks.append(begin + np.arange(count, dtype=np.int64)[:, None] * row + stream)
    return np.concatenate(blocks)


def _published(rows: np.ndarray, valid_fraction: float, test_fraction: float) -> tuple[dict[str, np.ndarray], str]:
    """The rows of each part, and a sentence about them."""
    count, streams = rows.shape
    valid, test = (max(round(fraction * count), 1) for fraction in (valid_fraction, test_fraction))
    train = count - 1 - valid - test  # the last row of each stream is in no part, as published
    if train < 1:
        raise DataError(
            f"{count} rows in each of {streams} streams are too few to hold out {valid} and {test}: give fewer streams "
            "or hold out recordings (split='recordings')"
        )
    parts = np.split(rows, np.cumsum([train, valid, test]))
    sentence = (
        f"the first {train} rows of each are for training, then come {valid} for validation and {test} for test, as "
        "published: held-out rows are neighbours of training rows."
    )
    return {name: part.ravel() for name, part in zip(("train", "valid", "test"), parts, strict=False)}, sentence


def _held_out(
    tape: Tape, row: int, split: BlizzardSplit, valid_fraction: float, test_fraction: float, seed: int
) -> tuple[dict[str, np.ndarray], str]:
    """The rows of each part where whole recordings are held out, and a sentence about them."""
    by_folder = split is BlizzardSplit.FOLDERS
    unit_of: Callable[[Recording], str] = (lambda r: r.name.rpartition("/")[0]) if by_folder else (lambda r: r.name)
    sizes: dict[str, int] = {}
    for r in tape.recordings:
        sizes[unit_of(r)] = sizes.get(unit_of(r), 0) + r.samples // row
    usable = [name for name, count in sizes.items() if count]
    if len(usable) < 3:
        raise DataError(f"{len(usable)} {split} as long as a row of {row} samples: three are needed, one for each part")
    order = torch.randperm(len(usable), generator=torch.Generator().manual_seed(seed)).tolist()
    total, part_of, at = sum(sizes.values()), {}, 0
    for part, fraction, others in (("test", test_fraction, 2), ("valid", valid_fraction, 1)):
        held = 0
        while at < len(usable) - others and (held == 0 or held < fraction * total):
            held += sizes[usable[order[at]]]
            part_of[usable[order[at]]] = part
            at += 1
    windows: dict[str, list[np.ndarray]] = {"train": [], "valid": [], "test": []}
    where: dict[str, tuple[str, str]] = {}
    for r, begin in zip(tape.recordings, tape.starts, strict=False):
        part = part_of.get(unit_of(r), "train")
        copy, other = where.setdefault(r.sha256, (r.name, part))
        if other != part:
            raise DataError(
                f"recordings {copy!r} and {r.name!r} hold the same samples, and would be in {other} and in {part}: "
                "keep one of them"
            )
        windows[part].append(begin + np.arange(r.samples // row, dtype=np.int64) * row)
    starts = {part: np.concatenate(found) for part, found in windows.items()}
    counts = {p: sum(part_of.get(name, "train") == p for name in usable) for p in starts}
    sentence = (
        f"Whole {split} are held out, drawn with seed {seed}: {counts['train']} for training, {counts['valid']} for "
        f"validation, {counts['test']} for test."
    )
    return starts, sentence


def _running(tape: Tape, rows: np.ndarray, row: int) -> Standardiser:
    """The published estimate: block means count alike, and each block but the first adds its spread to the variance."""
    blocks = kept_blocks(tape, rows, row, _BLOCK)
    if len(blocks) < 2:
        raise DataError(
            f"{len(rows)} rows are one block of {_BLOCK}, and the published estimate gives it no variance: use "
            "BlizzardNormaliser.TRAINING"
        )
    mean, variance = blocks[0].total / blocks[0].count, 0.0
    for number, sums in enumerate(blocks[1:], 2):
        of_block, square = sums.total / sums.count, sums.squares / sums.count
        moved = mean + (of_block - mean) / number
        variance += square - (mean + moved) * of_block + mean * moved
        mean = moved
    return Standardiser(mean, math.sqrt(variance / len(blocks)))


def _copies(tape: Tape) -> list[str]:
    count = len(tape.recordings) - len({r.sha256 for r in tape.recordings})
    return [f"{count} recordings hold the same samples as another."] if count else []
