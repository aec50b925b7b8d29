"""Sequences of unequal length and the padded batches made of them, in order or shuffled.

The names of the sequences travel with the data from the file to the batch, so that any number computed later can be
traced to its recording.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from .checks import DataError, check_sequences
from .standardise import Standardiser

Normaliser = Callable[[Sequence[np.ndarray]], Standardiser]  # of raw sequences ``(T_i, D)``


class Sequences(Protocol):
    """What training and evaluation need of a set of named sequences ``(T_i, D)``, in memory or not.

    ``SequenceDataset`` is in memory, ``StreamedWindows`` is not: there every ``[i]`` reads, and ``names`` and
    ``sequences`` are made item by item.
    """

    @property
    def sequences(self) -> Sequence[np.ndarray]:
        """The arrays."""

    @property
    def names(self) -> Sequence[str]:
        """Their names, all different."""

    @property
    def lengths(self) -> np.ndarray:
        """Their numbers of steps, int64 of shape ``(N,)``."""

    @property
    def data_dim(self) -> int:
        """Number of channels D."""

    @property
    def steps(self) -> int:
        """Number of steps of all sequences together."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray: ...

    @property
    def observed(self) -> Sequence[np.ndarray | None]:
        """For each sequence which of its steps are observed, None for all; empty where all are of all."""

    def mask(self, index: int) -> np.ndarray:
        """Which steps of a sequence are observed, bool of shape ``(T,)``."""

    def seen(self, index: int) -> np.ndarray:
        """The observed steps of a sequence without the others."""

    def digest(self) -> str:
        """A text that is the same for equal data and for no other."""

    def subset(self, indices: Sequence[int]) -> Sequences:
        """The sequences with these numbers, in this order."""

    def shared_with(self, other: Sequences) -> str | None:
        """The name of a sequence that is in the other set, too, or None."""

    def restandardised(self, before: Standardiser, after: Standardiser) -> Sequences:
        """The same raw data in another unit."""

    def unit(self, normaliser: Normaliser, present: Standardiser) -> Standardiser:
        """The map that a normaliser makes of these data as they were before ``present``."""

    def cut(self, window: int) -> Sequences:
        """The sequences in pieces of ``window`` steps; what is left at the end of each is dropped."""


@dataclass(frozen=True, eq=False)
class SequenceDataset:
    """A set of named sequences with the same channels, checked when it is made.

    :param sequences: arrays of shape ``(T_i, D)``, T_i >= 1, stored as float32 (other real types are converted; float32
        arrays are kept without a copy).
    :param names: one name per sequence, all different; default: "0", "1" and so on.
    :param observed: for each sequence which of its steps are there, bool of shape ``(T_i,)``, or None for all. The
        values of the others may be anything, NaN too, and become 0: batches have them masked out, so they are not
        scored, and later steps of an autoregressive model see zeros in their place. Default: all steps of all.
    :raises DataError: if a sequence is not ``(T, D)``, is empty, is not finite where it is observed (also: beyond the
        range of float32), is not observed at all, differs from the others in D, or if the names or marks do not match
        the sequences.
    """

    sequences: tuple[np.ndarray, ...]
    names: tuple[str, ...] = ()
    observed: tuple[np.ndarray | None, ...] = ()

    def __post_init__(self) -> None:
        names = tuple(self.names) or tuple(str(i) for i in range(len(self.sequences)))
        sequences = tuple(_float32(array) for array in self.sequences)
        sequences, observed = _mark(sequences, names, self.observed)
        check_sequences(sequences, names)
        object.__setattr__(self, "sequences", sequences)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "observed", observed)

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.sequences[index]

    def __repr__(self) -> str:
        return f"SequenceDataset({len(self)} sequences, {self.steps} steps, {self.data_dim} channels)"

    @property
    def data_dim(self) -> int:
        """Number of channels D."""
        return self.sequences[0].shape[1]

    @property
    def lengths(self) -> np.ndarray:
        """Number of steps of each sequence, int64 of shape ``(N,)``."""
        return np.array([len(array) for array in self.sequences], dtype=np.int64)

    @property
    def steps(self) -> int:
        """Number of steps of all sequences together."""
        return int(self.lengths.sum())

    def mask(self, index: int) -> np.ndarray:
        """Which steps of a sequence are observed, bool of shape ``(T,)``."""
        known = self.observed[index] if self.observed else None
        return np.ones(len(self[index]), dtype=bool) if known is None else known

    def seen(self, index: int) -> np.ndarray:
        """The observed steps of a sequence without the others: what statistics of the data are taken of."""
        return self[index][self.mask(index)] if self.observed else self[index]

    @property
    def missing(self) -> np.ndarray:
        """Number of steps of each sequence that are not observed, int64 of shape ``(N,)``."""
        return np.array([(~self.mask(i)).sum() for i in range(len(self))], dtype=np.int64)

    def digest(self) -> str:
        """SHA-256 of all names, values and marks: two datasets with the same one are the same."""
        digest = hashlib.sha256()
        for name, sequence in zip(self.names, self.sequences, strict=True):
            digest.update(f"{name} {sequence.shape}".encode())
            digest.update(np.ascontiguousarray(sequence).tobytes())
        for i in range(len(self)) if self.observed else ():
            digest.update(self.mask(i).tobytes())
        return digest.hexdigest()

    def restandardised(self, before: Standardiser, after: Standardiser) -> SequenceDataset:
        """The same raw data in another unit; missing steps stay missing.

        :param before: the map that has made these sequences of the raw ones.
        :param after: the map to make them by.
        """
        raw = (before.invert(sequence.astype(np.float64)) for sequence in self.sequences)
        return SequenceDataset(tuple(after.apply(sequence) for sequence in raw), self.names, self.observed)

    def unit(self, normaliser: Normaliser, present: Standardiser) -> Standardiser:
        """The map that a normaliser makes of the observed steps as they were before ``present``."""
        return normaliser([present.invert(self.seen(i).astype(np.float64)) for i in range(len(self))])

    def cut(self, window: int) -> SequenceDataset:
        """The sequences in pieces of ``window`` steps, named ``NAME[FIRST:LAST]``, those with an observed step.

        What is left at the end of each sequence is dropped.

        :raises ValueError: if no sequence is as long as a piece.
        """
        pieces: list[np.ndarray] = []
        names: list[str] = []
        observed: list[np.ndarray] = []
        for i, (name, sequence) in enumerate(zip(self.names, self.sequences, strict=True)):
            for start in range(0, len(sequence) - window + 1, window):
                span = slice(start, start + window)
                if (known := self.mask(i)[span]).any():
                    pieces.append(sequence[span])
                    names.append(f"{name}[{start}:{start + window}]")
                    observed.append(known)
        if not pieces:
            raise ValueError(f"pieces of {window} steps are wanted, and no sequence is so long")
        return SequenceDataset(tuple(pieces), tuple(names), tuple(observed))

    def subset(self, indices: Sequence[int]) -> SequenceDataset:
        """The sequences with these numbers, in this order, sharing their memory."""
        parts = (self.sequences, self.names, self.observed)
        return SequenceDataset(*(tuple(part[i] for i in indices) if part else () for part in parts))

    def shared_with(self, other: Sequences) -> str | None:
        """A name that is in the other set, too, or None."""
        return shared_name(self.names, other.names)


def check_is_dataset(argument: str, data: Any) -> None:
    """Refuse what is no set of named sequences, such as a list of arrays.

    :raises TypeError: saying how to make one.
    """
    if data is not None and not hasattr(data, "digest"):
        raise TypeError(
            f"{argument} is a {type(data).__name__}, expected named sequences: SequenceDataset(arrays), each array "
            "(time, channels); load_own(...) also splits and scales them"
        )


def shared_name(names: Iterable[str], others: Iterable[str]) -> str | None:
    """The first of ``names`` that is among ``others``, or None."""
    known = set(others)
    return next((name for name in names if name in known), None)


@dataclass(frozen=True, eq=False)
class SequenceBatch:
    """Sequences padded with zeros at the end to a common length T.

    :param x: float32 tensor of shape ``(B, T, D)``.
    :param mask: bool tensor of shape ``(B, T)``, True where there is data and False on padding and missing steps.
    :param lengths: int64 tensor of shape ``(B,)``, the number of real steps, missing ones among them.
    :param names: the names of the B sequences.
    """

    x: torch.Tensor
    mask: torch.Tensor
    lengths: torch.Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> SequenceBatch:
        """The same batch with its tensors on ``device``, and ``x`` in ``dtype`` if one is given."""
        return SequenceBatch(self.x.to(device, dtype), self.mask.to(device), self.lengths.to(device), self.names)


def collate(dataset: Sequences, indices: Sequence[int]) -> SequenceBatch:
    """Pad the sequences with these numbers into one batch, in the order given.

    :raises ValueError: if there are no indices.
    """
    indices = [int(i) for i in indices]
    if not indices:
        raise ValueError("a batch needs at least one sequence")
    sequences = [dataset[i] for i in indices]  # each read once
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    x = np.zeros((len(indices), lengths.max(), dataset.data_dim), dtype=np.float32)
    for row, sequence in enumerate(sequences):
        x[row, : lengths[row]] = sequence
    mask = np.arange(lengths.max()) < lengths[:, None]
    for row, index in enumerate(indices) if dataset.observed else ():
        mask[row, : lengths[row]] = dataset.mask(index)
    return SequenceBatch(
        torch.from_numpy(x),
        torch.from_numpy(mask),
        torch.from_numpy(lengths),
        tuple(dataset.names[i] for i in indices),
    )


def batches(dataset: Sequences, batch_size: int) -> Iterator[SequenceBatch]:
    """Every sequence once, in order, the last batch as small as it comes: for evaluation.

    :raises ValueError: if ``batch_size`` is less than 1.
    """
    _check_batch_size(batch_size)
    return (
        collate(dataset, range(start, min(start + batch_size, len(dataset))))
        for start in range(0, len(dataset), batch_size)
    )


class ShuffledBatches:
    """Endless shuffled batches that resume exactly where they stopped: for training.

    The order of an epoch is a pure function of the seed and the epoch's number, so the place in the stream is two
    integers and nothing else needs to be saved.

    :param dataset: where the sequences come from.
    :param batch_size: sequences per batch. If the dataset holds fewer, each batch is the whole of it.
    :param seed: an integer >= 0.
    :param drop_last: leave out the sequences that do not fill a last batch (others each epoch); if False, the last
        batch of an epoch may be smaller.
    :raises ValueError: if ``batch_size`` is less than 1 or ``seed`` is negative.
    """

    def __init__(self, dataset: Sequences, batch_size: int, seed: int, drop_last: bool = True) -> None:
        _check_batch_size(batch_size)
        if seed < 0:
            raise ValueError(f"seed is {seed}, expected an integer >= 0")
        self.dataset = dataset
        self.batch_size = min(batch_size, len(dataset))
        self.seed = seed
        self.drop_last = drop_last
        self._epoch = 0
        self._position = 0  # batches of this epoch already given out
        self._order = self.permutation(0)

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches in an epoch, at least 1."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full if self.drop_last or rest == 0 else full + 1

    def order(self, epoch: int) -> list[int]:
        """The order of the sequences in an epoch: a permutation of ``0 .. len(dataset) - 1``."""
        return self.permutation(epoch).tolist()

    def permutation(self, epoch: int) -> np.ndarray:
        """The same as an int64 array."""
        # Neighbouring seeds and epochs must not give related orders, hence the hash of the pair.
        mixed = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1, np.uint64)[0])
        generator = torch.Generator().manual_seed(mixed)
        return torch.randperm(len(self.dataset), generator=generator).numpy()

    def next(self) -> SequenceBatch:
        """The next batch; a new epoch begins by itself."""
        batch = self._read()
        self._move_to(*self.after(self._epoch, self._position))
        return batch

    def close(self) -> None:
        """Let go of what was opened to read ahead: here nothing."""

    def _read(self) -> SequenceBatch:
        start = self._position * self.batch_size
        return collate(self.dataset, self._order[start : start + self.batch_size])

    def after(self, epoch: int, position: int) -> tuple[int, int]:
        """The place one batch further."""
        return (epoch, position + 1) if position + 1 < self.batches_per_epoch else (epoch + 1, 0)

    def __iter__(self) -> ShuffledBatches:
        return self

    def __next__(self) -> SequenceBatch:
        return self.next()

    def state_dict(self) -> dict[str, int]:
        """The place in the stream: the epoch and the number of its batches already given out."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a saved place.

        :raises DataError: if the place does not exist for this dataset and batch size.
        """
        epoch, position = int(state["epoch"]), int(state["position"])
        if epoch < 0 or not 0 <= position < self.batches_per_epoch:
            raise DataError(
                f"cannot resume at epoch {epoch}, batch {position}: an epoch has "
                f"{self.batches_per_epoch} batches here ({len(self.dataset)} sequences, batches of "
                f"{self.batch_size}); resume with the dataset and batch size of the saved run"
            )
        self._move_to(epoch, position)

    def _move_to(self, epoch: int, position: int) -> None:
        if epoch != self._epoch:
            self._order = self.permutation(epoch)
        self._epoch, self._position = epoch, position


def _mark(
    sequences: tuple[np.ndarray, ...], names: tuple[str, ...], observed: tuple[np.ndarray | None, ...]
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray | None, ...]]:
    """Return the sequences with zeros where they are not observed, and the marks; no marks where all is observed."""
    if observed and len(observed) != len(sequences):
        raise DataError(f"there are {len(sequences)} sequences and {len(observed)} marks: give each its own, or None")
    cleaned, marks = list(sequences), list(observed)
    for i, known in enumerate(observed):
        if known is None or not isinstance(sequences[i], np.ndarray):  # the latter is left for check_sequence
            continue
        name = names[i] if i < len(names) else i
        if not isinstance(known, np.ndarray) or known.dtype != bool or known.shape != np.shape(sequences[i])[:1]:
            raise DataError(
                f"the mark of sequence {name!r} must be a bool array of shape (T,), here {np.shape(sequences[i])[:1]}, "
                "True where a step is observed"
            )
        if known.all():
            marks[i] = None
            continue
        if not known.any():
            raise DataError(f"sequence {name!r} has no step that is observed: leave it out")
        cleaned[i] = sequences[i].copy()
        cleaned[i][~known] = 0
    return tuple(cleaned), tuple(marks) if any(known is not None for known in marks) else ()


def _float32(array: np.ndarray) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        return array  # left for check_sequence to name
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is reported as such
        return array.astype(np.float32, copy=False)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected an integer >= 1")
