"""Shuffled batches that worker processes read ahead of training: the same batches, in the same order."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from .batch import SequenceBatch, Sequences, ShuffledBatches, collate
from .checks import DataError

AHEAD = 2  # batches that each worker holds ready


class PrefetchedBatches(ShuffledBatches):
    """:class:`ShuffledBatches` read by worker processes, for data that take time to read.

    The place in the stream is that of the batches given out, not of those read ahead, so a run resumes the same with
    any number of workers. At most ``AHEAD * workers`` batches are in memory. Ctrl-C and SIGTERM reach the workers, too,
    which leave it to the training process to end them; they also end when it is gone.

    :param workers: processes, at least 1.
    """

    def __init__(self, dataset: Sequences, batch_size: int, seed: int, drop_last: bool = True, *, workers: int) -> None:
        super().__init__(dataset, batch_size, seed, drop_last)
        if workers < 1:
            raise ValueError(f"workers is {workers}, expected an integer >= 1")
        self.workers = workers
        self._ready: Iterator[SequenceBatch | DataError] | None = None

    def close(self) -> None:
        """End the workers; the next batch starts new ones."""
        self._ready = None  # the iterator of a DataLoader ends its workers when it goes

    def load_state_dict(self, state: Any) -> None:
        """Continue from a saved place; see :class:`ShuffledBatches`."""
        super().load_state_dict(state)
        self.close()

    def _read(self) -> SequenceBatch:
        if self._ready is None:
            loader = DataLoader(
                _Collated(self.dataset),
                batch_size=None,
                sampler=_Places(self),
                num_workers=self.workers,
                prefetch_factor=AHEAD,
                collate_fn=_unchanged,
                worker_init_fn=_leave_signals_to_the_parent,
                generator=torch.Generator(),  # its own: the noise of training must not depend on workers
            )
            self._ready = iter(loader)
        batch = next(self._ready)
        if isinstance(batch, DataError):
            self.close()  # what was read ahead belongs to places behind this one, where the stream still is
            raise batch
        return batch


class _Places:
    """The numbers of the sequences of every batch from the place where a stream is, without end."""

    def __init__(self, stream: PrefetchedBatches) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[list[int]]:
        stream, (epoch, position) = self.stream, self.stream.state_dict().values()
        current, order = epoch, stream.permutation(epoch)
        while True:
            if epoch != current:
                current, order = epoch, stream.permutation(epoch)
            start = position * stream.batch_size
            yield order[start : start + stream.batch_size].tolist()
            epoch, position = stream.after(epoch, position)


class _Collated(Dataset):
    """Batches by the numbers of their sequences. An error of the data is handed over, so that it arrives as it is."""

    def __init__(self, dataset: Sequences) -> None:
        self.dataset = dataset

    def __getitem__(self, indices: list[int]) -> SequenceBatch | DataError:
        try:
            return collate(self.dataset, indices)
        except DataError as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_parent(worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
