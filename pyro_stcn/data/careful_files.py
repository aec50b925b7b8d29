"""What the readers of NumPy's files share: limits that hold before memory is set aside, and text to be printed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .checks import DataError

#: characters of an array's header; that of a plain array has about 100
HEADER_SIZE = 1000
_CHUNK = 2**20  # bytes read at once; the directory of an honest archive has about a thousand

#: version of the format -> what reads (shape, Fortran order, dtype)
HEADER_READERS: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class FrugalReader(io.BufferedReader):
    """A file of which no large piece is read at once: millions of entries in a directory would take minutes."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most so many bytes.

        :raises ValueError: for a piece that is too large.
        """
        bounded = size is not None and 0 <= size <= _CHUNK
        data = super().read(size if bounded else _CHUNK + 1)
        if len(data) > _CHUNK:
            raise ValueError(f"its directory or a value has more than {_CHUNK} bytes")
        return data


def strings_of(path: Path, name: str, array: np.ndarray) -> list[str]:
    """The strings of an array, with "?" for what cannot be printed."""
    try:
        strings = array.ravel().tolist()
    except (ValueError, SystemError) as error:  # numbers that are no characters
        raise DataError(f"{path}: {name} is not text ({error}): leave it out") from error
    return ["".join(c if c.isprintable() else "?" for c in string) for string in strings]
