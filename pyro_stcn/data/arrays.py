"""Your own data: a corpus of arrays, tables or recordings.

Missing values are not filled in. A sequence with NaN in it is refused, and the message says where the first is and the
ways out, because each of them is a decision: leaving sequences out changes what is measured, interpolating makes up
data that are then scored as if they had been seen, and a gap that the model is to fill in is no training data
(``pyro_stcn.impute`` fills gaps after training).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from enum import StrEnum

import numpy as np
import torch

from .array_files import Reading, Source, find_sequences, join
from .batch import SequenceDataset
from .checks import DataError, check_sequences, constant_channels
from .corpus import Corpus
from .standardise import Standardiser

_Path = str | os.PathLike[str]
Given = _Path | np.ndarray | torch.Tensor | Sequence[np.ndarray | torch.Tensor] | Sequence[_Path]
_PARTS = ("train", "valid", "test")


class Scaling(StrEnum):
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
        say nan, NA or null), text, ragged rows, mixed widths or columns, an empty file, a constant channel.
    :raises AudioError: if a recording is damaged, silent, not mono, or sampled at another rate than the first.
    :raises ValueError: if an argument is out of range.
    """
    scaling = Scaling(standardise)
    fractions = (valid_fraction, test_fraction)
    if not all(0 < f < 1 for f in fractions) or sum(fractions) >= 1 or min(frame, max_bytes) < 1 or seed < 0:
        raise ValueError(
            f"valid_fraction={valid_fraction}, test_fraction={test_fraction}, seed={seed}, frame={frame}, "
            f"max_bytes={max_bytes}: expected fractions above 0 and together below 1, a seed >= 0 and integers >= 1"
        )
    how = Reading(frame, sequence_column, max_bytes)
    given = {part: g for part, g in zip(_PARTS, (train, valid, test), strict=True) if g is not None}
    sources = {part: find_sequences(part, g, how) for part, g in given.items()}
    for part, source in sources.items():
        _check(_place(part, given[part]), source)
        try:
            check_sequences(source.sequences, [f"{part}/{n}" for n in source.names])
        except DataError as error:
            if _place(part, given[part]) == part:  # arrays: the sequence's name begins with it
                raise
            raise DataError(f"{_place(part, given[part])}: {error}") from error
    every = join(list(sources.values()), [_place(part, given[part]) for part in sources])
    if len(sources) > 1:
        check_sequences(every.sequences, [f"{part}/{n}" for part, source in sources.items() for n in source.names])
    kept = _numbers(keep, every)
    chosen, told = _split(sources, dict(zip(("valid", "test"), fractions, strict=True)), seed)
    prefixed = len(sources) > 1
    audio = every.sample_rate is not None

    def pick(part: str) -> tuple[list[np.ndarray], tuple[str, ...]]:
        origin, places = chosen[part]
        names = (sources[origin].names[i] for i in places)
        return (
            [sources[origin].sequences[i] for i in places],
            tuple(f"{origin}/{n}" if prefixed else n for n in names),
        )

    raw = {part: pick(part) for part in _PARTS}
    try:
        standardiser = scaling.fit(raw["train"][0], kept, audio)
    except DataError as error:
        raise DataError(f"{_place('train', train)}: the training part cannot be standardised: {error}") from error
    sets = {p: SequenceDataset(tuple(standardiser.apply(s) for s in s_), names) for p, (s_, names) in raw.items()}
    sentences = [
        f"Own data, {name}: {sets['train'].data_dim} channels"
        + (f", {frame} samples at {every.sample_rate} Hz." if audio else "."),
        *told,
        *(f"{part.capitalize()}: {len(data)} sequences, {data.steps} steps." for part, data in sets.items()),
        _unit(standardiser, kept, audio),
        *([f"{every.dropped} samples at ends of files fill no step and are left out."] if every.dropped else []),
        *_oddities(raw, kept, standardiser),
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
    )


def _place(argument: str, given: Given) -> str:
    return str(given) if isinstance(given, str | os.PathLike) else argument


def _check(where: str, source: Source) -> None:
    """Name the first missing value; ``check_sequences`` finds what else is wrong."""
    if not source.sequences:
        raise DataError(f"{where}: there are no sequences: at least one is needed")
    gaps = [
        (name, missing)
        for name, array in zip(source.names, source.sequences, strict=True)
        if isinstance(array, np.ndarray) and array.ndim == 2 and array.dtype.kind == "f"
        for missing in [np.isnan(array)]
        if missing.any()
    ]
    if gaps:
        name, missing = gaps[0]
        step, channel = np.argwhere(missing)[0]
        called = f" ({source.channels[channel]!r})" if source.channels is not None else ""
        raise DataError(
            f"{where}: sequence {name!r} has {missing.sum()} missing values, the first at step {step}, channel "
            f"{channel}{called}; {len(gaps)} of {len(source.sequences)} sequences have some. They are not filled in: "
            "leave these sequences out, cut them at the gaps, interpolate (numpy.interp; what is made up is then "
            "scored like what was seen), or set them to 0 beside a 0/1 channel that marks them (keep). To fill gaps "
            "with a trained model see pyro_stcn.impute"
        )


def _numbers(keep: Collection[int | str], source: Source) -> tuple[int, ...]:
    width, channels = source.sequences[0].shape[1], source.channels
    numbers = []
    for channel in (keep,) if isinstance(keep, str) else keep:
        if isinstance(channel, str):
            if channels is None or channel not in channels:
                there = "no names of channels" if channels is None else f"the channels {', '.join(channels)[:200]}"
                raise DataError(f"keep names the channel {channel!r}, and there are {there}: give its number from 0")
            channel = channels.index(channel)
        if not 0 <= channel < width:
            raise DataError(f"keep names the channel {channel}, and there are {width}, counted from 0")
        numbers.append(channel)
    return tuple(sorted(set(numbers)))


def _split(
    sources: dict[str, Source], fractions: dict[str, float], seed: int
) -> tuple[dict[str, tuple[str, list[int]]], list[str]]:
    """For each part where its sequences come from and which they are, and how that was decided in words."""
    count = len(sources["train"].sequences)
    absent = [part for part in ("valid", "test") if part not in sources]
    if count <= len(absent):
        raise DataError(
            f"train has {count} sequences, and {' and '.join(absent)} must be held out of it: give {len(absent) + 1} "
            "or more, or cut a long one into pieces and give the parts yourself"
        )
    rest = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    chosen: dict[str, tuple[str, list[int]]] = {}
    told = []
    for i, part in enumerate(absent):
        # Something has to be left for the other part and to train on.
        size = min(max(round(fractions[part] * count), 1), len(rest) - (len(absent) - i))
        chosen[part], rest = ("train", sorted(rest[:size])), rest[size:]
        told.append(f"{part.capitalize()} is {size} of the {count} sequences given, held out at random, seed {seed}.")
    chosen["train"] = ("train", sorted(rest))
    for part in ("valid", "test"):
        if part in sources:
            chosen[part] = (part, list(range(len(sources[part].sequences))))
            told.append(f"{part.capitalize()} was given.")
    return chosen, told


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


def _oddities(
    raw: dict[str, tuple[list[np.ndarray], tuple[str, ...]]], kept: tuple[int, ...], standardiser: Standardiser
) -> list[str]:
    """Sentences on what is no error, and bears on what a figure means."""
    found = []
    train = raw["train"][0]
    varies = set(range(train[0].shape[1])) - set(constant_channels(train))
    bits = [c for c in sorted(varies - set(kept)) if all(np.isin(s[:, c], (0, 1)).all() for s in train)]
    if bits and not isinstance(standardiser.mean, float):
        found.append(f"Channels {bits} hold only 0 and 1: a likelihood of bits needs them unscaled, keep={bits}.")
    seen = {np.ascontiguousarray(s).tobytes() for s in train}
    for part in ("valid", "test"):
        again = sum(np.ascontiguousarray(s).tobytes() in seen for s in raw[part][0])
        if again:
            found.append(f"{again} sequences of {part} are also in the training part, value for value.")
    return found
