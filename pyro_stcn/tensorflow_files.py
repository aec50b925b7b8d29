"""Reading TensorFlow checkpoints without TensorFlow, and without ever running what a file holds.

A checkpoint ``PREFIX`` of the format that TensorFlow 1 and 2 write ("V2", a tensor bundle) is a table of contents,
``PREFIX.index``, and plain arrays one after the other in ``PREFIX.data-00000-of-00001``. The table is a sorted string
table as of LevelDB: blocks of keys and values, a block that says where the blocks are, and 48 bytes at the end that
say where that one is. A value is a protocol buffer: type, shape, file, offset, size and checksum of an array.

TensorFlow itself is not used: it is some hundred times the size of this library, and all that is needed of it is this
page. Every checksum is compared; sizes and places are compared with the files before memory is set aside.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .checkpoint import CheckpointError
from .crc32c import masked_crc32c

__all__ = ["RECIPE", "Entry", "read_arrays", "read_index"]

RECIPE = (
    "where TensorFlow is installed, write the variables to an .npz and give that: "
    "r = tf.train.load_checkpoint(PREFIX); "
    "numpy.savez('variables.npz', **{n: r.get_tensor(n) for n in r.get_variable_to_shape_map()})"
)
MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_FOOTER = 48
# Limits of a table of contents. That of the largest released configuration has some 600 keys in 60,000 bytes.
_INDEX = 2**22  # bytes
_KEYS = 100_000
_KEY = 1000  # bytes of a key: many may share their beginning, which is stored once
_AXES = 8  # of an array; a convolution's kernel has 3
_ITEMS = 2**40  # of an array, were an axis of no length as long as one: NumPy has its limit for these, too
_DAMAGED = "is truncated or damaged: copy or download it again"
_TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # of TensorFlow's DataType, those that are read


class Entry(NamedTuple):
    """Where an array is.

    :param dtype: TensorFlow's number of its type.
    :param shape: its shape.
    :param file: the file that holds it.
    :param offset: of its first byte.
    :param size: in bytes.
    :param crc: the masked checksum of these bytes.
    :param sliced: whether it is stored in parts, under other names.
    """

    dtype: int
    shape: tuple[int, ...]
    file: Path
    offset: int
    size: int
    crc: int
    sliced: bool


def read_index(prefix: Path) -> dict[str, Entry]:
    """Read the table of contents of a checkpoint.

    :param prefix: the path without ``.index``.
    :returns: variable -> where its array is, in alphabetical order.
    :raises CheckpointError: naming the file: missing, truncated, damaged, of another format, or too large.
    """
    path = prefix.with_name(f"{prefix.name}.index")
    data = _read(path, 0, None, _INDEX)
    if len(data) < _FOOTER or data[-8:] != MAGIC:
        raise CheckpointError(f"{path} is no table of contents of a TensorFlow checkpoint, or {_DAMAGED}")
    try:
        _, position = _handle(data, len(data) - _FOOTER)
        where, _ = _handle(data, position)
        entries: dict[str, Entry] = {}
        header: dict[int, Any] = {}
        last, end = None, 0
        for _, value in _entries(data, where, path):
            block, _ = _handle(value, 0)
            if block[0] < end:
                raise ValueError("its blocks are not one after the other")
            end = sum(block)
            for key, value in _entries(data, block, path):
                if (last is not None and key <= last) or len(entries) == _KEYS:
                    raise ValueError(f"its keys are not in order, or more than {_KEYS}")
                last = key
                if key == b"":
                    header = dict(_fields(value))
                else:
                    entries[key.decode(errors="backslashreplace")] = _entry(prefix, header.get(1, 0), value)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a hostile or damaged file provokes
        raise CheckpointError(f"{path} {_DAMAGED} ({error})") from error
    if header.get(2, 0) != 0:
        raise CheckpointError(f"{path} was written on a big-endian machine, which is not read here: {RECIPE}")
    if not entries:
        raise CheckpointError(f"{path} lists no variables")
    return entries


def read_arrays(entries: dict[str, Entry], names: Collection[str], *, max_bytes: int) -> dict[str, np.ndarray]:
    """Read arrays of a checkpoint, of floats of 16, 32 and 64 bits and integers of 32 and 64.

    :param entries: what :func:`read_index` returned: the files must be long enough for all of them.
    :param names: those to read.
    :param max_bytes: refuse to read more than this together.
    :raises CheckpointError: naming file and variable: missing, truncated, damaged, of another type, or too large.
    """
    wanted = {name: entries[name] for name in names}
    total = sum(entry.size for entry in wanted.values())
    if total > max_bytes:
        what = next(iter(wanted.values())).file
        raise CheckpointError(
            f"{what}: its variables have {total} bytes, and max_bytes is {max_bytes}: raise it if right"
        )
    _check_places(entries.values())
    return {name: _array(name, entry) for name, entry in wanted.items()}


def _array(name: str, entry: Entry) -> np.ndarray:
    what = f"{entry.file}: {name!r}"
    if entry.sliced:
        raise CheckpointError(f"{what} is stored in parts, which is not read here: {RECIPE}")
    if entry.dtype not in _TYPES:
        raise CheckpointError(f"{what} has TensorFlow's type {entry.dtype}, and weights are floats")
    dtype = np.dtype(_TYPES[entry.dtype])
    sound = len(entry.shape) <= _AXES and math.prod(max(length, 1) for length in entry.shape) <= _ITEMS
    if not sound or math.prod(entry.shape) * dtype.itemsize != entry.size:
        raise CheckpointError(
            f"{what} should have shape {entry.shape!s:.60}, and has {entry.size} bytes: the file is damaged"
        )
    data = _read(entry.file, entry.offset, entry.size, entry.size)
    if masked_crc32c(data) != entry.crc:
        raise CheckpointError(f"{what} does not match its checksum: the file is damaged, copy or download it again")
    return np.frombuffer(data, dtype).reshape(entry.shape).astype(dtype.newbyteorder("="))


def _check_places(entries: Collection[Entry]) -> None:
    """Refuse arrays that lie outside their file, or on each other: memory is then no more than the files have bytes."""
    ends: dict[Path, int] = {}
    for entry in sorted(entries, key=lambda entry: (entry.file, entry.offset)):
        if not entry.file.is_file():
            raise CheckpointError(f"{entry.file} does not exist: a checkpoint's .index and .data files belong together")
        if entry.offset + entry.size > entry.file.stat().st_size:
            raise CheckpointError(
                f"{entry.file} has {entry.file.stat().st_size} bytes, and an array in it ends at "
                f"{entry.offset + entry.size}: it is truncated, or of another checkpoint"
            )
        if entry.size and entry.offset < ends.get(entry.file, 0):
            raise CheckpointError(f"{entry.file}: two arrays lie on each other at byte {entry.offset}")
        ends[entry.file] = entry.offset + entry.size


def _read(path: Path, offset: int, size: int | None, max_bytes: int) -> bytes:
    if not path.is_file():  # a pipe or a device might never end
        raise CheckpointError(f"{path} {'is not a regular file' if path.exists() else 'does not exist'}")
    if size is None and path.stat().st_size > max_bytes:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes, and such a file has at most {max_bytes}")
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(max_bytes if size is None else size)
    if size is not None and len(data) != size:
        raise CheckpointError(f"{path} {_DAMAGED}")
    return data


# -------------------------------------------------------------------------------------------------- sorted string table


def _entries(data: bytes, where: tuple[int, int], path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Return keys and values of the block at (offset, size); of a key is stored what differs from the one before."""
    begin, size = where
    end = begin + size
    if end + 5 > len(data) - _FOOTER or size < 4:
        raise ValueError("a block is not where it should be")
    if data[end] != 0:
        raise CheckpointError(f"{path} is compressed, as TensorFlow's checkpoints are not: {RECIPE}")
    if masked_crc32c(data[begin : end + 1]) != struct.unpack_from("<I", data, end + 1)[0]:
        raise ValueError("a block does not match its checksum")
    (restarts,) = struct.unpack_from("<I", data, end - 4)
    block = data[begin : end - 4 * (restarts + 1)] if 4 * (restarts + 1) <= size else b""
    key, position = b"", 0
    while position < len(block):
        shared, position = _varint(block, position)
        fresh, position = _varint(block, position)
        length, position = _varint(block, position)
        if shared > len(key) or position + fresh + length > len(block) or shared + fresh > _KEY:
            raise ValueError("a key or a value ends outside its block, or is too long")
        key = key[:shared] + block[position : position + fresh]
        position += fresh
        yield key, block[position : position + length]
        position += length


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return (offset, size), position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, lowest first, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position + shift // 7]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + shift // 7 + 1
    raise ValueError("a number has more than 64 bits")


# ----------------------------------------------------------------------------------------------------- protocol buffers


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Return number and value of every field: an int, or bytes."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value: Any
            value, position = _varint(message, position)
        else:
            if kind == 2:
                size, position = _varint(message, position)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise ValueError(f"a field of kind {kind}")
            value, position = message[position : position + size], position + size
            if position > len(message):
                raise ValueError("a field ends outside its message")
            value = value if kind == 2 else int.from_bytes(value, "little")
        yield number, value


def _entry(prefix: Path, shards: int, message: bytes) -> Entry:
    found = list(_fields(message))
    one = dict(found)
    shape = tuple(dict(_fields(dim)).get(1, 0) for number, dim in _fields(one.get(2, b"")) if number == 2)
    shard, sliced = one.get(3, 0), any(number == 7 for number, _ in found)
    file = prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}")
    dtype, offset, size, crc = (one.get(number, 0) for number in (1, 4, 5, 6))
    if not all(isinstance(value, int) for value in (dtype, offset, size, crc, *shape)):
        raise ValueError("the place or the shape of an array is no number")
    return Entry(dtype, shape, file, offset, size, crc, sliced)
