"""Reading ``.npz`` and ``.npy`` files with limits and without ever running what they hold.

The sizes that a file declares are compared with each other and with a limit before memory is set aside;
``stroke_files`` says why. Arrays of objects are refused, or read by ``safe_pickle`` where a caller asks for that.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .careful_files import HEADER_READERS, HEADER_SIZE, FrugalReader
from .checks import DataError
from .safe_pickle import Objects, read_objects

_KINDS = "fiubU"  # real numbers and text
_LARGEST = 2**48  # of a shape
_PIECE = 2**18  # bytes read at once
_PICKLE = (
    "is an array of objects. Such an array is a pickle, which can run any code when it is read, and is not read here: "
    "write the sequences as arrays of their own, numpy.savez(path, **{str(i): s for i, s in enumerate(sequences)})"
)


def read_npz(
    path: str | os.PathLike[str], *, max_bytes: int, names: Collection[str] | None = None, pickles: bool = False
) -> dict[str, np.ndarray | Objects]:
    """Read arrays of an ``.npz`` file.

    :param path: the file.
    :param max_bytes: refuse what is larger than this, on disk or unpacked.
    :param names: the arrays to read if they are there; the others are left alone. None reads all.
    :param pickles: read arrays of objects as far as they hold numbers, see ``safe_pickle``, instead of refusing them.
    :returns: arrays of real numbers or text, and ``Objects``, in the file's order.
    :raises DataError: naming file and array: not an ``.npz``, truncated, too large, an array that is not readable.
    """
    path = Path(path)
    with FrugalReader(_open(path, max_bytes)) as file:
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:
            file.seek(0)
            begins = file.read(4)
            what = "is truncated or damaged" if begins[:2] == b"PK" else f"is no .npz file, it begins with {begins!r}"
            raise DataError(f"{path}: {what} ({error}): copy or download it again") from error
        with archive:
            members: dict[str, zipfile.ZipInfo] = {}
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name in members:
                    raise DataError(f"{path}: holds two arrays named {name[:100]!r}: write it with numpy.savez")
                if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
                    # Nothing is unpacked to the disk here; but names become those of sequences, and go further.
                    raise DataError(
                        f"{path}: holds {name[:100]!r}, a name that leads out of the archive, which numpy never writes:"
                        " do not use this file, or write it with numpy.savez"
                    )
                members[name] = info
            wanted = [name for name in members if names is None or name in names]
            unpacked = sum(members[name].file_size for name in wanted)
            if unpacked > max_bytes:
                raise DataError(
                    f"{path}: unpacks to {unpacked} bytes, and max_bytes is {max_bytes}: raise it if this is right"
                )
            found: dict[str, np.ndarray | Objects] = {}
            for name in wanted:
                info, where = members[name], f"{path}: {name[:100]!r}"
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
                    raise DataError(f"{where} is encrypted or packed as numpy never does: write it with numpy.savez")
                try:
                    with archive.open(info) as member:
                        data = b"".join(iter(partial(member.read, _PIECE), b""))  # ends where the directory says
                except Exception as error:  # whatever a hostile archive provokes
                    raise DataError(f"{where} cannot be read ({error}): copy or download the file again") from error
                found[name] = _read_array(data, where, max_bytes, pickles)
            return found


def npz_names(path: str | os.PathLike[str]) -> set[str]:
    """The names of the arrays of an ``.npz`` file; none where it is no such file."""
    try:
        with FrugalReader(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except Exception:  # whatever a damaged archive provokes is told by who reads it
        return set()


def read_npy(path: str | os.PathLike[str], *, max_bytes: int) -> np.ndarray:
    """Read an ``.npy`` file that holds real numbers or text.

    :param max_bytes: refuse what is larger than this.
    :raises DataError: as for ``read_npz``.
    """
    path = Path(path)
    with _open(path, max_bytes) as file:
        data = file.read(os.fstat(file.fileno()).st_size)  # max_bytes would be set aside for a small file, too
        array = _read_array(data, str(path), max_bytes, pickles=False)
    assert isinstance(array, np.ndarray)
    return array


def _open(path: Path, max_bytes: int) -> io.FileIO:
    if not path.is_file():  # a pipe or a device might never end
        raise DataError(f"{path}: {'is not a regular file' if path.exists() else 'does not exist'}")
    size = path.stat().st_size
    if size > max_bytes:
        raise DataError(f"{path}: has {size} bytes, and max_bytes is {max_bytes}: raise it if this is right")
    return io.FileIO(path)


def _read_array(data: bytes, where: str, max_bytes: int, pickles: bool) -> np.ndarray | Objects:
    file: BinaryIO = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = HEADER_READERS[version](file, max_header_size=HEADER_SIZE)
    except Exception as error:  # whatever a hostile header provokes
        raise DataError(f"{where} is not a readable array ({error}): copy or download the file again") from error
    begin = file.tell()
    if dtype.hasobject:
        if not pickles or dtype.kind != "O":
            raise DataError(f"{where} {_PICKLE}")
        objects = read_objects(data[begin:], where, max_bytes=max_bytes)
        if objects.shape != shape:
            raise DataError(f"{where} should have shape {shape}, and has {objects.shape}: the file is damaged")
        return objects
    if dtype.kind not in _KINDS or dtype.itemsize == 0:
        raise DataError(f"{where} has dtype {dtype}, expected real numbers: convert it with array.astype")
    promised = math.prod(shape) * dtype.itemsize
    if not all(type(n) is int and 0 <= n < _LARGEST for n in shape) or begin + promised != len(data):
        raise DataError(
            f"{where} should have {promised} bytes, of shape {shape} and dtype {dtype}, and has {len(data) - begin}: "
            "the file is damaged, copy or download it again"
        )
    if promised == 0:
        raise DataError(f"{where} has shape {shape} and holds nothing: leave it out")
    array = np.frombuffer(data, dtype, offset=begin).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="))
