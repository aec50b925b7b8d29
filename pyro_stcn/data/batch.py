"""Sequences of unequal length and the padded batches made of them, in order or shuffled.

The names of the sequences travel with the data from the file to the batch, so that any number computed later can be
traced to its recording.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from .checks import DataError, check_sequences


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

    def digest(self) -> str:
        """A text that is the same for equal data and for no other."""

    def subset(self, indices: Sequence[int]) -> Sequences:
        """The sequences with these numbers, in this order."""

    def shared_with(self, other: Sequences) -> str | None:
        """The name of a sequence that is in the other set, too, or None."""


@dataclass(frozen=True, eq=False)
class SequenceDataset:
    """A set of named sequences with the same channels, checked when it is made.

    :param sequences: arrays of shape ``(T_i, D)``, T_i >= 1, stored as float32 (other real types are converted; float32
        arrays are kept without a copy).
    :param names: one name per sequence, all different; default: "0", "1" and so on.
    :raises DataError: if a sequence is not ``(T, D)``, is empty, is not finite (also: beyond the range of float32),
        differs from the others in D, or if the names do not match the sequences.
    """

    sequences: tuple[np.ndarray, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = tuple(self.names) or tuple(str(i) for i in range(len(self.sequences)))
        sequences = tuple(_float32(array) for array in self.sequences)
        check_sequences(sequences, names)
        object.__setattr__(self, "sequences", sequences)
        object.__setattr__(self, "names", names)

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

    def digest(self) -> str:
        """SHA-256 of all names and values: two datasets with the same one are the same."""
        digest = hashlib.sha256()
        for name, sequence in zip(self.names, self.sequences, strict=True):
            digest.update(f"{name} {sequence.shape}".encode())
            digest.update(np.ascontiguousarray(sequence).tobytes())
        return digest.hexdigest()

    def subset(self, indices: Sequence[int]) -> SequenceDataset:
        """The sequences with these numbers, in this order, sharing their memory."""
        return SequenceDataset(tuple(self.sequences[i] for i in indices), tuple(self.names[i] for i in indices))

    def shared_with(self, other: Sequences) -> str | None:
        """A name that is in the other set, too, or None."""
        return shared_name(self.names, other.names)


def shared_name(names: Iterable[str], others: Iterable[str]) -> str | None:
    """The first of ``names`` that is among ``others``, or None."""
    known = set(others)
    return next((name for name in names if name in known), None)


@dataclass(frozen=True, eq=False)
class SequenceBatch:
    """Sequences padded with zeros at the end to a common length T.

    :param x: float32 tensor of shape ``(B, T, D)``.
    :param mask: bool tensor of shape ``(B, T)``, True where there is data and False on padding.
    :param lengths: int64 tensor of shape ``(B,)``, the number of real steps.
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


def _float32(array: np.ndarray) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        return array  # left for check_sequence to name
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is reported as such
        return array.astype(np.float32, copy=False)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected an integer >= 1")
