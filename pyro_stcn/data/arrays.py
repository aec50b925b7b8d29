"""Your own data: a corpus of arrays, tables or recordings.

Missing values are not filled in. By default a sequence with NaN in it is refused, and the message says where the first
is and the ways out, because each of them is a decision: marking changes what is scored, leaving sequences out changes
what is measured, and interpolating makes up data that are then scored as if they had been seen. (``pyro_stcn.impute``
fills gaps after training.)
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

import numpy as np
import torch

from .array_files import Reading, Source, find_sequences, join
from .batch import SequenceDataset
from .checks import Choice, DataError, check_sequences, constant_channels
from .corpus import Corpus
from .parts import HoldOut, full_names, given_parts, place, repeated, split
from .standardise import Standardiser

_Path = str | os.PathLike[str]
Given = _Path | np.ndarray | torch.Tensor | Sequence[np.ndarray | torch.Tensor] | Sequence[_Path]


class Missing(Choice):
    """What to do with missing values: NaN, what is under the mask of a masked array, empty cells of a table.

    REFUSE names the first. MARK leaves the steps that have any out of all that is scored: the likelihood of what is
    left is as if they had not been looked at, and later steps of a model that reads its own past see zeros (the mean,
    where standardised) in their place. A step is marked as a whole, so what *was* observed of it is not scored or
    learned from either: where single channels are missing often, think of leaving these channels out, or of setting
    them to 0 beside a 0/1 channel that marks them (keep).
    """

    REFUSE = "refuse"
    MARK = "mark"


class Scaling(Choice):
    """The unit of the data, fitted on the training part.

    AUTO is SCALAR for audio and CHANNEL for everything else. CHANNEL takes the mean and standard deviation of each
    channel, SCALAR those of all values together, NONE leaves the data as they are.
    """

    AUTO = "auto"
    CHANNEL = "channel"
    SCALAR = "scalar"
    NONE = "none"

    def fit(self, sequences: Sequence[np.ndarray], keep: Collection[int], audio: bool) -> Standardiser:
        """The map of raw to standardised steps.

        :param sequences: arrays of shape ``(T_i, D)``.
        :param keep: channels to leave as they are.
        :param audio: whether they are audio, for AUTO.
        :raises DataError: if a channel that is not kept is constant (SCALAR: if all values are).
        """
        chosen = self if self is not Scaling.AUTO else (Scaling.SCALAR if audio else Scaling.CHANNEL)
        width = sequences[0].shape[1]
        if chosen is Scaling.NONE:
            return Standardiser((0.0,) * width, (1.0,) * width)
        if chosen is Scaling.CHANNEL:
            return Standardiser.per_channel(sequences, keep=keep)
        if not keep:
            return Standardiser.scalar(sequences)
        others = [c for c in range(width) if c not in keep]
        one = Standardiser.scalar([s[:, others] for s in sequences])
        return Standardiser(
            tuple(0.0 if c in keep else one.mean for c in range(width)),  # type: ignore[misc]
            tuple(1.0 if c in keep else one.std for c in range(width)),  # type: ignore[misc]
        )


def load_arrays(
    train: Given,
    valid: Given | None = None,
    test: Given | None = None,
    *,
    standardise: Scaling | str = Scaling.AUTO,
    missing: Missing | str = Missing.REFUSE,
    keep: Collection[int | str] = (),
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    sequence_column: str | int | None = None,
    frame: int = 200,
    max_bytes: int = 2**30,
    name: str = "arrays",
) -> Corpus:
    """Make a corpus of your own data; nothing in a file is executed, and arrays of objects are refused.

    Each of ``train``, ``valid`` and ``test`` may be

    * a list of arrays (NumPy or torch) of shape ``(T_i, D)``, or ``(T_i,)`` for one channel;
    * one array ``(N, T, D)``;
    * the path of an ``.npy`` or ``.npz`` with sequences ``(T, D)``, ``(T,)`` or stacks of them ``(N, T, D)``;
    * the path of a ``.csv``: a row is a step, a column a channel, with or without a header (see ``sequence_column``);
    * the path of a recording that libsndfile reads, mono, cut into steps of ``frame`` samples, the rest dropped; its
      unit is that of 16 bits (a float file's 1.0 is 32768);
    * a list of such paths, or a folder of such files, of arrays or of audio, searched with its subfolders; other files
      in it are ignored.

    A part that is not given is held out of ``train``, whole sequences at random. Sequences of one recording, person or
    day are alike: give parts of your own if yours are such pieces, or the figures are too good.

    :param train: the data to train on, and to hold the other parts out of.
    :param valid: validation data, or None.
    :param test: test data, or None.
    :param standardise: the unit, fitted on what is trained on, see ``Scaling``.
    :param missing: what to do with missing values, see ``Missing``.
    :param keep: channels to leave unscaled, by number from 0 or by name in a header, such as bits.
    :param valid_fraction: fraction of the sequences of ``train`` to hold out for validation, at least one.
    :param test_fraction: the same for test.
    :param seed: chooses what is held out, an integer >= 0.
    :param sequence_column: the column of a ``.csv`` that says which sequence a row belongs to, by name or number. None:
        every file is one sequence.
    :param frame: samples of audio per step, the data's D.
    :param max_bytes: the largest file, and the largest unpacked data of a file, to accept.
    :param name: of the corpus.
    :returns: float32 sequences of shape ``(T, D)``, named by their place or file (after "train/", "valid/" or "test/",
        the argument they were given in, if there is more than one).
    :raises DataError: naming the file, sequence, line, step or channel: missing values (NaN, or cells that are empty or
        say nan, NA or null) unless they are to be marked, and then a sequence in which no step is complete; text,
        ragged rows, mixed widths or columns, an empty file, a constant channel.
    :raises AudioError: if a recording is damaged, silent, not mono, or sampled at another rate than the first.
    :raises ValueError: if an argument is out of range.
    """
    scaling, marking = Scaling(standardise), Missing(missing) is Missing.MARK
    how = HoldOut(valid_fraction, test_fraction, seed)
    if min(frame, max_bytes) < 1:
        raise ValueError(f"frame={frame}, max_bytes={max_bytes}: expected integers >= 1")
    given = given_parts(train, valid, test)
    sources = {part: find_sequences(part, g, Reading(frame, sequence_column, max_bytes)) for part, g in given.items()}
    for part, source in sources.items():
        where = place(part, given[part])
        _check(where, source, marking)
        try:
            _check_rest(source.sequences, [f"{part}/{n}" for n in source.names], marking)
        except DataError as error:
            if where == part:  # arrays: the sequence's name begins with it
                raise
            raise DataError(f"{where}: {error}") from error
    every = join(list(sources.values()), [place(part, given[part]) for part in sources])
    if len(sources) > 1:
        _check_rest(every.sequences, full_names(sources), marking)
    kept = _numbers(keep, every)
    parts, told = split(sources, how)
    audio = every.sample_rate is not None
    marks = {part: tuple(_complete(s) if marking else None for s in data.sequences) for part, data in parts.items()}
    seen = {
        part: [s if known is None else s[known] for s, known in zip(data.sequences, marks[part], strict=True)]
        for part, data in parts.items()
    }
    try:
        standardiser = scaling.fit([s for s in seen["train"] if len(s)], kept, audio)
    except DataError as error:
        raise DataError(f"{place('train', train)}: the training part cannot be standardised: {error}") from error
    sets = {
        part: SequenceDataset(tuple(standardiser.apply(s) for s in data.sequences), data.names, marks[part])
        for part, data in parts.items()
    }
    sentences = [
        f"Own data, {name}: {sets['train'].data_dim} channels"
        + (f", {frame} samples at {every.sample_rate} Hz." if audio else "."),
        *told,
        *(
            f"{part.capitalize()}: {len(data)} sequences, {data.steps} steps{_gaps(data)}."
            for part, data in sets.items()
        ),
        _unit(standardiser, kept, audio),
        *([f"{every.dropped} samples at ends of files fill no step and are left out."] if every.dropped else []),
        *_oddities(seen["train"], kept, standardiser),
        *repeated(parts),
    ]
    return Corpus(
        name,
        sets["train"],
        sets["valid"],
        sets["test"],
        standardiser,
        " ".join(sentences),
        every.sample_rate,
        frame if audio else None,
        channels=every.channels,
    )


def _complete(array: np.ndarray) -> np.ndarray | None:
    """Which steps have no missing value, None where all are such."""
    known = ~np.isnan(array).any(1) if array.dtype.kind == "f" else np.ones(len(array), dtype=bool)
    return None if known.all() else known


def _check_rest(sequences: Sequence[np.ndarray], names: Sequence[str], marking: bool) -> None:
    """Check everything but missing values where these are to be marked."""

    def without_gaps(array: np.ndarray) -> np.ndarray:
        real = isinstance(array, np.ndarray) and array.dtype.kind == "f"
        return np.where(np.isnan(array), 0.0, array) if marking and real else array

    check_sequences([without_gaps(array) for array in sequences], names)


def _gaps(data: SequenceDataset) -> str:
    missing = int(data.missing.sum())
    return f", {missing} of them marked as missing" if missing else ""


def _check(where: str, source: Source, marking: bool) -> None:
    """Name the first missing value, or the first sequence without a step that is complete where gaps are marked.

    ``check_sequences`` finds what else is wrong.
    """
    if not source.sequences:
        raise DataError(f"{where}: there are no sequences: at least one is needed")
    gaps = [
        (name, missing)
        for name, array in zip(source.names, source.sequences, strict=True)
        if isinstance(array, np.ndarray) and array.ndim == 2 and array.dtype.kind == "f"
        for missing in [np.isnan(array)]
        if missing.any()
    ]
    if marking:
        empty = [name for name, missing in gaps if missing.any(1).all()]
        if empty:
            raise DataError(
                f"{where}: sequence {empty[0]!r} has a missing value in every step, so nothing of it can be scored; "
                f"{len(empty)} of {len(source.sequences)} sequences are such: leave them out, or the channels that are "
                "missing"
            )
    elif gaps:
        name, missing = gaps[0]
        step, channel = np.argwhere(missing)[0]
        called = f" ({source.channels[channel]!r})" if source.channels is not None else ""
        raise DataError(
            f"{where}: sequence {name!r} has {missing.sum()} missing values, the first at step {step}, channel "
            f"{channel}{called}; {len(gaps)} of {len(source.sequences)} sequences have some. They are not filled in: "
            "give missing='mark' to leave such steps out of all that is scored, leave these sequences out, cut them at "
            "the gaps, interpolate (numpy.interp; what is made up is then scored like what was seen), or set them to 0 "
            "beside a 0/1 channel that marks them (keep). To fill gaps with a trained model see pyro_stcn.impute"
        )


def _numbers(keep: Collection[int | str], source: Source) -> tuple[int, ...]:
    width, channels = source.sequences[0].shape[1], source.channels
    numbers = []
    for channel in (keep,) if isinstance(keep, str) else keep:
        if isinstance(channel, bool) or not isinstance(channel, int | str | np.integer):
            raise DataError(f"keep names the channel {channel!r}: expected its number from 0, or its name")
        if isinstance(channel, str):
            if channels is None or channel not in channels:
                there = "no names of channels" if channels is None else f"the channels {', '.join(channels)[:200]}"
                raise DataError(f"keep names the channel {channel!r}, and there are {there}: give its number from 0")
            channel = channels.index(channel)
        if not 0 <= channel < width:
            raise DataError(f"keep names the channel {channel}, and there are {width}, counted from 0")
        numbers.append(channel)
    return tuple(sorted(set(numbers)))


def _unit(standardiser: Standardiser, kept: tuple[int, ...], audio: bool) -> str:
    if isinstance(standardiser.mean, float):
        unit = " (units of 16 bits)" if audio else ""
        return (
            f"Standardised with the mean {standardiser.mean:.6g} and standard deviation {standardiser.std:.6g} of all "
            f"training values{unit}."
        )
    if set(standardiser.std) == {1.0} and set(standardiser.mean) == {0.0}:
        return "Not standardised."
    left = f"; channels {', '.join(map(str, kept))} are as they were" if kept else ""
    return f"Standardised with the mean and standard deviation of each channel of the training data{left}."


def _oddities(train: Sequence[np.ndarray], kept: tuple[int, ...], standardiser: Standardiser) -> list[str]:
    """Sentences on what is no error, and bears on what a figure means."""
    varies = set(range(train[0].shape[1])) - set(constant_channels(s for s in train if len(s)))
    bits = [c for c in sorted(varies - set(kept)) if all(np.isin(s[:, c], (0, 1)).all() for s in train)]
    if bits and not isinstance(standardiser.mean, float):
        return [f"Channels {bits} hold only 0 and 1: a likelihood of bits needs them unscaled, keep={bits}."]
    return []
