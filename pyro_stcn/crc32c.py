"""CRC-32C (Castagnoli), the checksum in TensorFlow's files, in NumPy: zlib has another polynomial.

A byte after another is slow in Python, so the data are cut into lanes of equal length whose registers advance
together. A CRC is linear: the register after two pieces is that of the first, advanced by as many zeros as the second
has bytes, plus (exclusive or) that of the second.
"""

from __future__ import annotations

from functools import cache

import numpy as np

__all__ = ["crc32c", "masked_crc32c"]

POLYNOMIAL = 0x82F63B78  # bits reversed
LANE = 256  # bytes
_ALL = 0xFFFFFFFF


def crc32c(data: bytes | memoryview) -> int:
    """Return the checksum of ``data``, as in RFC 3720: 0xE3069283 of b"123456789"."""
    table, size = _table(), len(data)
    head = size % LANE  # the bytes before the lanes
    register = _ALL
    for byte in bytes(data[:head]):
        register = int(table[(register ^ byte) & 0xFF]) ^ (register >> 8)
    if size == head:
        return register ^ _ALL
    lanes = np.frombuffer(data, np.uint8, offset=head).reshape(-1, LANE)
    registers = np.zeros(len(lanes), np.uint32)
    for column in np.ascontiguousarray(lanes.T):
        registers = table[(registers ^ column) & 0xFF] ^ (registers >> np.uint32(8))
    one, two, three, four = _advance()
    for value in registers.tolist():
        advanced = (
            one[register & 0xFF] ^ two[register >> 8 & 0xFF] ^ three[register >> 16 & 0xFF] ^ four[register >> 24]
        )
        register = advanced ^ value
    return register ^ _ALL


def masked_crc32c(data: bytes | memoryview) -> int:
    """Return the checksum as it is stored: rotated, and with a constant added, so that files hold no CRC of a CRC."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & _ALL


@cache
def _table() -> np.ndarray:
    """Register after one zero byte, by its lowest byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(POLYNOMIAL), table >> 1)
    return table


@cache
def _advance() -> list[list[int]]:
    """Register after a lane of zeros, by each of its four bytes, the lowest first."""
    registers = np.arange(256, dtype=np.uint32) << np.array([[0], [8], [16], [24]], np.uint32)
    for _ in range(LANE):
        registers = _table()[registers & 0xFF] ^ (registers >> np.uint32(8))
    return registers.tolist()
