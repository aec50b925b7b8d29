"""TIMIT as raw frames, prepared as the published results on it were.

TIMIT is offered by its owner, the Linguistic Data Consortium, as LDC93S1, against a fee; NLTK distributes a sample of
16 speakers. Nothing is downloaded here.

Published protocol (Fraccaro et al. 2016, reused by all later papers with these tables): a step is 200 consecutive
samples at 16 kHz, without overlap or window; all values are standardised with one mean and one standard deviation of
the training waveform; for training, all waveforms are joined into one and cut into segments of 40 steps wherever those
fall; each test utterance is one sequence, without its incomplete last frame.

Where this loader differs from the published scripts:

* The scripts round the number of segments down to a multiple of 64 and order them so that a recurrent state can be
  carried from batch to batch. Nothing here carries state: all segments are kept. They also join the files in the order
  of a shuffle; here it is the order of the names.
* The scripts validate on 5 % of the training files. Here whole speakers are held out unless ``Validation.FILES`` is
  asked for.
* The scripts never score the last frame of a test utterance. Here it is, unless ``drop_last_frame``.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from .audio import frames
from .batch import SequenceDataset
from .checks import Choice, DataError
from .corpus import Corpus
from .standardise import Standardiser
from .timit_files import SAMPLE_RATE, Utterance, read_timit_files

SYNTHETIC_DATABASE = "pyro-stcn-synthetic"  # what the headers of the synthetic corpus say
_COMPLETE = {"train": 4620, "test": 1680}  # recordings in the parts of LDC93S1


class Validation(Choice):
    """What is held out of the training part for validation.

    SPEAKERS holds out whole speakers, so no voice is in two parts. FILES holds out files at random, as published; their
    speakers, and the texts most of them read, are also in the training data, so a validation figure is better than the
    model does on new voices.
    """

    SPEAKERS = "speakers"
    FILES = "files"


@dataclass(frozen=True)
class _Split:
    train: list[Utterance]
    valid: list[Utterance]
    test: list[Utterance]
    sentences: tuple[str, ...]  # how it was made, for the description


def load_timit(
    root: str | os.PathLike[str],
    *,
    frame: int = 200,
    segment: int | None = 40,
    validation: Validation | str = Validation.SPEAKERS,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.125,
    whole_validation: bool = False,
    drop_last_frame: bool = False,
    include_sa: bool = True,
    seed: int = 0,
) -> Corpus:
    """Read TIMIT, a part of it, or a corpus in its layout (such as the one of ``synthetic_timit``).

    :param root: the folder; see ``timit_files`` for the layouts. Whether a file is SPHERE or RIFF is decided by its
        content.
    :param frame: samples per step, the data's D; 200 (12.5 ms) as published.
    :param segment: steps per training sequence, cut from all waveforms joined. A segment is named after the utterance
        and the sample where it begins, "dr1/fvmh0/sa1+sample 2400", and may run on into the next utterances. None gives
        whole utterances.
    :param validation: what is held out of the training part.
    :param valid_fraction: fraction of the training speakers (at least 2 if there are 8 or more) or files that are held
        out for validation.
    :param test_fraction: fraction of the speakers held out for test where there is no TEST part, with the same minimum.
    :param whole_validation: validation sequences are whole utterances as in the test set, not segments as in training.
    :param drop_last_frame: leave out the last whole frame of each utterance, and of the joined training waveform, as
        published (the scripts pair frames with their successors).
    :param include_sa: keep the sentences SA1 and SA2, as published. Every speaker reads these same two, so with them a
        fifth of the test set has texts that were heard in training.
    :param seed: chooses what is held out, an integer.
    :returns: sequences of shape ``(T, frame)``, standardised, with the facts of the split in ``description``.
    :raises DataError: if nothing is found, there are too few speakers to split, or an utterance is too short to hold a
        frame.
    :raises AudioError: if a recording is damaged, compressed, at another rate, and so on.
    :raises ValueError: if an argument is out of range.
    """
    validation = Validation(validation)
    if frame < 1 or (segment is not None and segment < 1):
        raise ValueError(f"frame is {frame} and segment {segment}, expected integers >= 1")
    for name, fraction in (("valid_fraction", valid_fraction), ("test_fraction", test_fraction)):
        if not 0 < fraction < 1:
            raise ValueError(f"{name} is {fraction}, expected a number between 0 and 1")

    files = read_timit_files(root)
    utterances = [u for u in files.utterances if include_sa or not u.sentence.startswith("sa")]
    if not utterances:
        raise DataError(f"{root}: nothing is left without the SA sentences: give include_sa=True")
    split = _split(utterances, validation, valid_fraction, test_fraction, seed)
    standardiser = Standardiser.scalar([u.samples for u in split.train])
    drop = int(drop_last_frame)

    def whole(part: list[Utterance]) -> SequenceDataset:
        return _whole(part, standardiser, frame, drop)

    def cut(part: list[Utterance]) -> SequenceDataset:
        return whole(part) if segment is None else _segments(part, standardiser, frame, segment, drop)

    train = cut(split.train)
    valid = whole(split.valid) if whole_validation else cut(split.valid)
    test = whole(split.test)
    name, opening = _identity(files.utterances)
    cutting = "whole utterances" if segment is None else f"segments of {segment} frames"
    sentences = [
        opening,
        *split.sentences,
        *([] if include_sa else ["The sentences SA1 and SA2 are left out."]),
        f"A step is {frame} consecutive samples at {SAMPLE_RATE} Hz"
        + (", the last frame dropped as published." if drop_last_frame else "."),
        f"Training sequences are {cutting}, test sequences whole utterances, validation sequences "
        + ("whole utterances." if whole_validation else "as in training."),
        *(
            f"{part}: {len(data)} sequences, {data.steps} steps."
            for part, data in (("Train", train), ("Valid", valid), ("Test", test))
        ),
        f"Standardised with the mean {standardiser.mean:.4f} and standard deviation "
        f"{standardiser.std:.4f} (int16 units) of the training waveform.",
        *files.remarks,
    ]
    return Corpus(name, train, valid, test, standardiser, " ".join(sentences), SAMPLE_RATE, frame)


def _identity(utterances: tuple[Utterance, ...]) -> tuple[str, str]:
    """Name of the corpus, and the sentence that says which data these are."""
    speakers = len({u.speaker for u in utterances})
    count = f"{len(utterances)} recordings of {speakers} speakers"
    if any(u.database == SYNTHETIC_DATABASE for u in utterances):
        return "synthetic-timit", f"Synthetic speech in the layout of TIMIT, not TIMIT: {count}."
    if Counter(u.part for u in utterances) == _COMPLETE:
        return "timit", f"TIMIT (LDC93S1), complete: {count}."
    return "timit", (
        f"A part of TIMIT, {count} out of {sum(_COMPLETE.values())} and 630: results are not "
        "comparable with those published on the whole."
    )


def _split(
    utterances: list[Utterance],
    validation: Validation,
    valid_fraction: float,
    test_fraction: float,
    seed: int,
) -> _Split:
    generator = torch.Generator().manual_seed(seed)
    test = [u for u in utterances if u.part == "test"]
    rest = [u for u in utterances if u.part != "test"]
    if test:
        sentences = [f"Test: the TEST part, {_speakers(test)} speakers."]
    else:
        rest, test = _hold_out_speakers(rest, test_fraction, generator, "test")
        sentences = [
            "There is no TEST part, so the test data are held out by speaker, too: "
            f"{', '.join(sorted({u.speaker for u in test}))}; seed {seed}."
        ]
    if validation is Validation.SPEAKERS:
        train, valid = _hold_out_speakers(rest, valid_fraction, generator, "validation")
        sentences.append(
            f"Validation: {_speakers(valid)} speakers held out of {_speakers(rest)}, seed {seed}; "
            "no speaker is in two parts."
        )
    else:
        train, valid = _hold_out_files(rest, valid_fraction, generator)
        sentences.append(
            f"Validation: {len(valid)} files held out of {len(rest)}, seed {seed}; their speakers "
            "are also in the training data."
        )
    return _Split(train, valid, test, tuple(sentences))


def _hold_out_speakers(
    utterances: list[Utterance], fraction: float, generator: torch.Generator, purpose: str
) -> tuple[list[Utterance], list[Utterance]]:
    speakers = sorted({u.speaker for u in utterances})
    if len(speakers) < 2:
        raise DataError(
            f"{len(speakers)} speakers are not enough to hold out one for {purpose} and train on "
            "another: a corpus needs 3 speakers, or 2 in TRAIN beside a TEST part"
        )
    # One voice is a poor sample of all voices: two where that leaves enough to train on.
    count = max(round(fraction * len(speakers)), 2 if len(speakers) >= 8 else 1)
    held_out = set(_balanced(speakers, generator)[: min(count, len(speakers) - 1)])
    return (
        [u for u in utterances if u.speaker not in held_out],
        [u for u in utterances if u.speaker in held_out],
    )


def _balanced(speakers: list[str], generator: torch.Generator) -> list[str]:
    """Shuffle speakers so that any first few have women and men in the proportion of all.

    The first letter of a speaker's own name, as in "dr1/fvmh0", is f or m.
    """
    keyed = []
    for sex in "fm":
        group = [s for s in speakers if s.rpartition("/")[2].startswith(sex)]
        order = torch.randperm(len(group), generator=generator).tolist()
        keyed += [((rank + 0.5) / len(group), group[i]) for rank, i in enumerate(order)]
    return [speaker for _, speaker in sorted(keyed)]


def _hold_out_files(
    utterances: list[Utterance], fraction: float, generator: torch.Generator
) -> tuple[list[Utterance], list[Utterance]]:
    if len(utterances) < 2:
        raise DataError("one training file is not enough to hold out another for validation")
    order = torch.randperm(len(utterances), generator=generator).tolist()
    held_out = set(order[: max(int(fraction * len(utterances)), 1)])
    return (
        [u for i, u in enumerate(utterances) if i not in held_out],
        [u for i, u in enumerate(utterances) if i in held_out],
    )


def _speakers(utterances: list[Utterance]) -> int:
    return len({u.speaker for u in utterances})


def _whole(utterances: list[Utterance], standardiser: Standardiser, frame: int, drop: int) -> SequenceDataset:
    """One sequence per utterance."""
    sequences = []
    for u in utterances:
        rows = frames(standardiser.apply(u.samples), frame)
        rows = rows[: len(rows) - drop]
        if len(rows) == 0:
            raise DataError(
                f"recording {u.name!r} has {len(u.samples)} samples, too few for {1 + drop} frames "
                f"of {frame}: leave it out or use a smaller frame"
            )
        sequences.append(rows)
    return SequenceDataset(tuple(sequences), tuple(u.name for u in utterances))


def _segments(
    utterances: list[Utterance], standardiser: Standardiser, frame: int, segment: int, drop: int
) -> SequenceDataset:
    """All waveforms joined, and cut into segments of equal length whatever they run across."""
    starts = np.cumsum([0] + [len(u.samples) for u in utterances])
    stream = np.empty(starts[-1], dtype=np.float32)
    for start, u in zip(starts, utterances, strict=False):
        stream[start : start + len(u.samples)] = standardiser.apply(u.samples)
    rows = frames(stream, frame)
    rows = rows[: len(rows) - drop]
    count = len(rows) // segment
    if count == 0:
        raise DataError(
            f"{len(rows)} frames of {frame} samples are too few for a segment of {segment}: give a "
            "smaller segment, or segment=None for whole utterances"
        )
    begin = np.arange(count) * segment * frame  # in samples of the stream
    within = np.searchsorted(starts, begin, side="right") - 1
    names = (f"{utterances[i].name}+sample {b - starts[i]}" for b, i in zip(begin, within, strict=True))
    return SequenceDataset(tuple(rows[: count * segment].reshape(count, segment, frame)), tuple(names))
