"""Sums over samples of a tape: exact, in one pass, in bounded memory, and kept so that the pass is made once.

The samples are whole numbers of 16 bits, so their sums and sums of squares are whole numbers too, and nothing is
rounded before the mean and the standard deviation are.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass

import numpy as np
from tqdm import tqdm

from ..whole_files import replacing
from .checks import DataError
from .standardise import Standardiser
from .tape import Tape

_BLOCK = 2**20  # samples read at once; the sum of their squares is below 2^51, so float64 has it exactly
_FILE = "statistics.json"


@dataclass(frozen=True)
class Sums:
    """Sums over samples.

    :param count: how many.
    :param total: their sum.
    :param squares: the sum of their squares.
    """

    count: int
    total: int
    squares: int

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def standardiser(self) -> Standardiser:
        """Their mean and standard deviation.

        :raises DataError: if all samples are the same.
        """
        spread = self.count * self.squares - self.total**2
        if spread <= 0:
            raise DataError("every sample is the same, so the standard deviation is 0: check that these are recordings")
        return Standardiser(self.total / self.count, math.sqrt(spread / self.count**2))


def sums_of(samples: np.ndarray) -> Sums:
    """Sums over int16 samples ``(N,)``, N <= 2^20."""
    values = samples.astype(np.float64)
    return Sums(len(values), int(values.sum()), int(values @ values))


def sums_over(
    tape: Tape, starts: np.ndarray, samples: int, progress: Callable[[int], object] = lambda count: None
) -> Sums:
    """Sums over windows of ``samples`` samples that begin at ``starts`` and do not overlap, read in the tape's order.

    :param progress: told how many samples were read since it was last called.
    """
    result = Sums(0, 0, 0)
    for start, count in _runs(starts, samples):
        result += sums_of(tape.read(start, count))
        progress(count)
    return result


def kept_sums(tape: Tape, starts: np.ndarray, samples: int) -> Sums:
    """:func:`sums_over`, found in the tape's folder if they were computed before of the same samples."""
    (result,) = kept_blocks(tape, starts, samples, len(starts))
    return result


def kept_blocks(tape: Tape, starts: np.ndarray, samples: int, block: int) -> list[Sums]:
    """:func:`sums_over` for each ``block`` windows in the order given, found again like those of :func:`kept_sums`."""
    of_what = f"{tape.digest()} {samples} {block} ".encode() + starts.astype("<i8").tobytes()
    key = hashlib.sha256(of_what).hexdigest()
    path = None if tape.folder is None else tape.folder / _FILE
    known = {}
    if path is not None:
        try:
            known = json.loads(path.read_text())
            return [Sums(*(int(value) for value in values)) for values in known[key]]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            known = known if isinstance(known, dict) else {}
    with tqdm(total=samples * len(starts), desc="statistics", unit=" samples", unit_scale=True, disable=None) as bar:
        parts = (starts[first : first + block] for first in range(0, len(starts), block))
        found = [sums_over(tape, part, samples, bar.update) for part in parts]
    if path is not None:
        content = json.dumps(known | {key: [astuple(sums) for sums in found]})
        with replacing(path) as unfinished:
            unfinished.write_text(content)
    return found


def _runs(starts: np.ndarray, samples: int) -> Iterator[tuple[int, int]]:
    """The windows as stretches without a gap, none longer than a block: (first sample, number of samples)."""
    order = np.sort(starts)
    breaks = np.flatnonzero(np.diff(order) != samples) + 1
    for first, last in zip(np.r_[0, breaks], np.r_[breaks, len(order)], strict=True):
        begin, end = int(order[first]), int(order[last - 1]) + samples
        for start in range(begin, end, _BLOCK):
            yield start, min(_BLOCK, end - start)
