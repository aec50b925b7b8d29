"""The checksum of TensorFlow's files, against the vectors of RFC 3720 and bit by bit."""

import pytest

from pyro_stcn.crc32c import LANE, POLYNOMIAL, crc32c, masked_crc32c


def bit_by_bit(data):
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (POLYNOMIAL if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_vectors(data, expected):
    assert crc32c(data) == expected


@pytest.mark.parametrize("size", [1, LANE - 1, LANE, LANE + 1, 3 * LANE, 5 * LANE + 7])
def test_every_length_bit_by_bit(size):
    data = bytes((i * i + 7 * i) % 251 for i in range(size))
    assert crc32c(data) == bit_by_bit(data)
    assert crc32c(memoryview(data)) == crc32c(data)


def test_a_changed_bit_is_seen_wherever_it_is():
    data = bytearray(range(256)) * 3
    whole = crc32c(data)
    for place in range(0, len(data), 97):
        data[place] ^= 1
        assert crc32c(data) != whole
        data[place] ^= 1


def test_mask():
    crc = crc32c(b"foo")
    assert masked_crc32c(b"foo") != crc
    rotated = (masked_crc32c(b"foo") - 0xA282EAD8) & 0xFFFFFFFF
    assert (rotated >> 17 | rotated << 15) & 0xFFFFFFFF == crc
