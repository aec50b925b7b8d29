"""Windows of long recordings as a dataset that is read as it is used, for corpora larger than memory.

What is kept in memory is 8 bytes a window. Everything that takes a ``SequenceDataset`` takes this as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from .batch import Normaliser, Sequences, shared_name
from .checks import DataError
from .standardise import Standardiser
from .tape import Tape
from .tape_statistics import Sums, kept_sums


@dataclass(frozen=True, eq=False)
class StreamedWindows:
    """Windows of equal length on a tape, in frames, standardised when they are read.

    A window is called "RECORDING[FIRST:LAST]" after the recording where it begins and its samples there, counted from 0
    and without the last; where LAST is beyond the end of the recording it runs on into the next ones.

    :param tape: the recordings.
    :param starts: the sample of the tape where each window begins, int64 of shape ``(N,)``, N >= 1, all different.
    :param window: steps of a window, T.
    :param frame: samples of a step, D.
    :param standardiser: one mean and one standard deviation for all values.
    :raises DataError: if there are no windows, or a window is not on the tape.
    """

    tape: Tape
    starts: np.ndarray
    window: int
    frame: int
    standardiser: Standardiser

    def __post_init__(self) -> None:
        starts = np.asarray(self.starts, dtype=np.int64)
        if self.window < 1 or self.frame < 1:
            raise ValueError(f"window is {self.window} and frame {self.frame}, expected integers >= 1")
        if len(starts) == 0:
            raise DataError("there are no windows: at least one is needed")
        if starts.min() < 0 or starts.max() + self.samples > len(self.tape):
            raise DataError(f"a window of {self.samples} samples is not on a tape of {len(self.tape)}")
        object.__setattr__(self, "starts", starts)

    @property
    def samples(self) -> int:
        """Samples of a window."""
        return self.window * self.frame

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> np.ndarray:
        """Read a window: float32 of shape ``(T, D)``."""
        samples = self.tape.read(int(self.starts[index]), self.samples)
        return self.standardiser.apply(samples).reshape(self.window, self.frame)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"StreamedWindows({len(self)} windows of {self.window} steps, {self.frame} channels, {self.tape})"

    @property
    def sequences(self) -> StreamedWindows:
        """The windows, each read when it is asked for."""
        return self

    @property
    def names(self) -> WindowNames:
        """What the windows are called, each name made when it is asked for."""
        return WindowNames(self.tape, self.starts, self.samples)

    @property
    def data_dim(self) -> int:
        """Number of channels D."""
        return self.frame

    @property
    def lengths(self) -> np.ndarray:
        """Number of steps of each window, int64 of shape ``(N,)``; one number in memory, and not to be written to."""
        return np.broadcast_to(np.int64(self.window), (len(self),))

    @property
    def steps(self) -> int:
        """Number of steps of all windows together."""
        return self.window * len(self)

    @property
    def observed(self) -> tuple[()]:
        """All steps of all windows."""
        return ()

    def mask(self, index: int) -> np.ndarray:
        """Which steps of a window are observed, bool of shape ``(T,)``: all."""
        return np.ones(self.window, dtype=bool)

    def seen(self, index: int) -> np.ndarray:
        """The observed steps of a window: all."""
        return self[index]

    def digest(self) -> str:
        """SHA-256 of what the tape says of its recordings (see :meth:`Tape.digest`), of the windows and their unit."""
        unit = f"{self.tape.digest()} {self.window} {self.frame} {self.standardiser.to_dict()}"
        return hashlib.sha256(unit.encode() + self.starts.astype("<i8").tobytes()).hexdigest()

    def subset(self, indices: Sequence[int] | np.ndarray) -> StreamedWindows:
        """The windows with these numbers, in this order."""
        return replace(self, starts=self.starts[np.asarray(indices, dtype=np.int64)])

    def restandardised(self, before: Standardiser, after: Standardiser) -> StreamedWindows:
        """The same windows in another unit.

        :raises DataError: if that is not one mean and one standard deviation for all values.
        """
        if not isinstance(after.std, float):
            raise DataError("streamed windows are standardised with one mean and one standard deviation for all values")
        return replace(self, standardiser=after)

    def unit(self, normaliser: Normaliser, present: Standardiser) -> Standardiser:
        """The map that a normaliser makes of the samples as they are in the files, read through once, then kept.

        :raises ValueError: if that is not one mean and one standard deviation for all values.
        """
        if normaliser != Standardiser.scalar:
            raise ValueError("of streamed windows only one mean and one standard deviation for all values can be taken")
        return self.sums().standardiser()

    def cut(self, window: int) -> StreamedWindows:
        """The windows in pieces of ``window`` steps; what is left at the end of each is dropped.

        :raises ValueError: if they are shorter than a piece.
        """
        if window == self.window:
            return self
        if window > self.window:
            raise ValueError(f"pieces of {window} steps are wanted, and the windows have {self.window}")
        pieces = np.arange(self.window // window, dtype=np.int64) * window * self.frame
        return replace(self, starts=(self.starts[:, None] + pieces).ravel(), window=window)

    def shared_with(self, other: Sequences) -> str | None:
        """The name of a window of this set of which a sample is in the other, too, or None."""
        if not isinstance(other, StreamedWindows) or other.tape.digest() != self.tape.digest():
            return shared_name(self.names, other.names)
        # Of windows of one length, one that shares a sample with a given one begins right before or after its start.
        theirs = np.sort(other.starts)
        after = np.searchsorted(theirs, self.starts)
        previous, following = theirs[np.maximum(after - 1, 0)], theirs[np.minimum(after, len(theirs) - 1)]
        shared = (after > 0) & (previous + other.samples > self.starts)
        shared |= (after < len(theirs)) & (following < self.starts + self.samples)
        return self.names[int(np.flatnonzero(shared)[0])] if shared.any() else None

    def sums(self) -> Sums:
        """Exact sums over all samples of these windows as they are in the files: read through once, then kept."""
        return kept_sums(self.tape, self.starts, self.samples)


class WindowNames(Sequence[str]):
    """The names of windows; see :class:`StreamedWindows`."""

    def __init__(self, tape: Tape, starts: np.ndarray, samples: int) -> None:
        self._tape, self._starts, self._samples = tape, starts, samples

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> WindowNames: ...
    def __getitem__(self, index: int | slice) -> str | WindowNames:
        if isinstance(index, slice):
            return WindowNames(self._tape, self._starts[index], self._samples)
        number, sample = self._tape.place(int(self._starts[index]))
        return f"{self._tape.recordings[number].name}[{sample}:{sample + self._samples}]"
