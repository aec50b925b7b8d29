"""Recordings end to end, as one tape that can be read at any place without being in memory."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .audio import AudioError

OPEN_FILES = 64  # of one tape, in one process


@dataclass(frozen=True)
class Recording:
    """A mono recording of which every sample has its place in a file.

    :param name: what it is called, for instance the path below the corpus without the ending.
    :param path: a file that holds the samples as int16, little endian, one after another.
    :param offset: the byte where they begin.
    :param samples: their number, at least 1.
    :param sha256: of the samples in that form, in hexadecimal digits, as they were when they were last read through.
    """

    name: str
    path: Path
    offset: int
    samples: int
    sha256: str


class Tape:
    """Recordings one after another, numbered sample by sample from 0.

    Nothing is kept but open files, of which there are no more than :data:`OPEN_FILES` in a process; those that were
    used last stay open. Threads may share a tape; a worker process, forked or spawned, opens files of its own.

    :param recordings: at least one, in order.
    :param folder: where figures that were computed of these recordings are kept, or None.
    """

    def __init__(self, recordings: Sequence[Recording], folder: Path | None = None) -> None:
        self.recordings = tuple(recordings)
        self.folder = folder
        self.starts = np.concatenate([[0], np.cumsum([r.samples for r in self.recordings], dtype=np.int64)])
        digest = hashlib.sha256()
        for r in self.recordings:
            digest.update(os.fsencode(f"{r.name}\0{r.samples}\0{r.sha256}\0"))
        self._digest = digest.hexdigest()
        self._files = _OpenFiles()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __repr__(self) -> str:
        return f"Tape({len(self.recordings)} recordings, {len(self)} samples)"

    def digest(self) -> str:
        """SHA-256 of the names, the lengths and the samples' own hashes, in order.

        The samples are not read again for it: their hashes are of the time when they were last read through (see
        ``recording_files``).
        """
        return self._digest

    def place(self, sample: int) -> tuple[int, int]:
        """The number of the recording that a sample of the tape is in, and its own number in it."""
        index = int(np.searchsorted(self.starts, sample, side="right")) - 1
        return index, int(sample - self.starts[index])

    def read(self, start: int, count: int) -> np.ndarray:
        """Samples ``start .. start + count - 1``, int16 of shape ``(count,)``, across recordings where it has to be.

        :raises IndexError: if they are not all on the tape.
        :raises AudioError: if a file is gone or shorter than it was.
        """
        if start < 0 or count < 0 or start + count > len(self):
            raise IndexError(f"samples {start} to {start + count} are not on a tape of {len(self)}")
        out = np.empty(count, dtype="<i2")
        index, within = self.place(start) if count else (0, 0)
        done = 0
        while done < count:
            take = min(count - done, self.recordings[index].samples - within)
            self._fill(out[done : done + take], index, within)
            done, index, within = done + take, index + 1, 0
        return out.astype(np.int16, copy=False)

    def _fill(self, out: np.ndarray, index: int, within: int) -> None:
        recording = self.recordings[index]
        if self._files.process != os.getpid():  # a fork shares the position in an open file with its parent
            self._files = _OpenFiles()
        try:
            count = self._files.read(index, recording.path, recording.offset + 2 * within, out)
        except OSError as error:
            raise AudioError(
                f"{recording.path}: cannot be read: {error.strerror or error}; it was there when the corpus was loaded"
            ) from error
        if count < out.nbytes:
            raise AudioError(
                f"{recording.path}: ends before sample {within + len(out)} of {recording.samples}: it was changed "
                "after it was loaded; load the corpus again"
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _files=_OpenFiles())


class _OpenFiles:
    """The files that one process has open, the one used last at the end."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, key: int, path: Path, position: int, out: np.ndarray) -> int:
        """Fill ``out`` from a place in a file and return how many bytes there were."""
        buffer, count = memoryview(out).cast("B"), 0
        with self._lock:
            file = self._open.pop(key, None)
            if file is None:
                if len(self._open) >= OPEN_FILES:
                    self._open.popitem(last=False)[1].close()
                file = path.open("rb", buffering=0)
            self._open[key] = file
            file.seek(position)
            while count < len(buffer) and (got := file.readinto(buffer[count:])):  # type: ignore[attr-defined]
                count += got
        return count

    def __del__(self) -> None:
        for file in getattr(self, "_open", {}).values():
            file.close()
