"""Writes TensorFlow checkpoints, sound ones and others, for the tests of their reader.

That the sound ones are what TensorFlow writes, the checkpoint in ``fixtures/tensorflow`` shows: it is its own.
"""

import struct

import numpy as np

from pyro_stcn.crc32c import masked_crc32c
from pyro_stcn.tensorflow_files import MAGIC

TYPES = {"f4": 1, "f8": 2, "i4": 3, "i8": 9, "f2": 19}


def varint(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number, value):
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def entry(array=None, *, offset=0, **changes):
    """The protocol buffer of an array; ``changes`` are dtype, shape, shard, size, crc, and what else follows."""
    data = b"" if array is None else array.tobytes()
    facts = {"dtype": 1, "shape": (), "shard": 0, "size": len(data), "crc": masked_crc32c(data), "more": b""}
    if array is not None:
        facts |= {"dtype": TYPES[array.dtype.str[1:]], "shape": array.shape}
    facts |= changes
    shape = b"".join(field(2, field(1, size)) for size in facts["shape"])
    parts = [field(1, facts["dtype"]), field(2, shape), field(3, facts["shard"]), field(4, offset)]
    parts += [field(5, facts["size"]), varint(6 << 3 | 5) + struct.pack("<I", facts["crc"]), facts["more"]]
    return b"".join(parts)


def header(shards=1, endianness=0):
    return field(1, shards) + field(2, endianness)


def block(pairs, *, compression=0, share=True):
    """A block of a sorted string table and what follows it; keys share their beginnings."""
    out, last = b"", b""
    for key, value in pairs:
        same = 0
        while share and same < min(len(key), len(last)) and key[same] == last[same]:
            same += 1
        out += varint(same) + varint(len(key) - same) + varint(len(value)) + key[same:] + value
        last = key
    out += struct.pack("<II", 0, 1) + bytes([compression])
    return out + struct.pack("<I", masked_crc32c(out))


def table(pairs, *, block_size=10**6, compression=0):
    """A sorted string table of (key, value), in blocks of so many pairs."""
    out, handles = b"", []
    for i in range(0, len(pairs), block_size):
        some = pairs[i : i + block_size]
        content = block(some, compression=compression)
        handles.append((some[-1][0], varint(len(out)) + varint(len(content) - 5)))
        out += content
    places = b""
    for content in (block([]), block(handles)):  # first of what describes the table, which nobody reads
        places += varint(len(out)) + varint(len(content) - 5)
        out += content
    return out + places.ljust(40, b"\0") + MAGIC


def write_bundle(prefix, arrays, *, block_size=10**6, **changes):
    """Write arrays by name; ``changes`` are those of :func:`entry`."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    pairs, data = [(b"", header())], b""
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        pairs.append((name.encode(), entry(array, offset=len(data), **changes)))
        data += array.tobytes()
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)
    write_index(prefix, pairs, block_size=block_size)
    return prefix


def write_index(prefix, pairs, **options):
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(pairs, **options))
