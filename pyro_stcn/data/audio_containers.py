"""How long files of the less common containers say that they are: libsndfile believes what is there of them."""

from __future__ import annotations

import struct
from pathlib import Path

_HEAD = 64  # bytes: what is said of the length is among the first
_UNKNOWN = 0xFFFFFFFF  # in an AU file: a stream, whose writer did not know


def declared_bytes(path: Path, container: str) -> int | None:
    """The length that a file declares, in bytes; None where it says none, or cannot be understood.

    :param container: as ``soundfile.info`` calls it.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    try:
        if container == "AIFF" and head[:4] == b"FORM":
            return struct.unpack_from(">I", head, 4)[0] + 8
        if container == "AU" and head[:4] == b".snd":
            offset, size = struct.unpack_from(">II", head, 4)
            return None if size == _UNKNOWN else offset + size
        if container == "W64" and head[:4] == b"riff":
            return struct.unpack_from("<Q", head, 16)[0]
        if container == "RF64" and head[12:16] == b"ds64":
            return struct.unpack_from("<Q", head, 20)[0] + 8
        if container == "VOC" and head[:8] == b"Creative":
            (first,) = struct.unpack_from("<H", head, 20)
            return first + 4 + int.from_bytes(head[first + 1 : first + 4], "little")  # of the first block, at least
    except struct.error:
        pass
    return None
