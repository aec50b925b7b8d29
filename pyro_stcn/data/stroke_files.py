"""Reading and writing pen strokes in the stroke-3 format, without ever running what a file holds.

A file is an ``.npz`` with ``{train,valid,test}_points``, float32 of shape ``(N, 3)``, all sequences of a part one after
the other, and ``{train,valid,test}_lengths``, integers that say where to cut them. A point is ``(dx, dy, pen)``: the
offset from the point before, and 1 at the last point of a stroke, else 0. There may be ``*_text``, what was written.

A zip archive can unpack to a thousand times its size, an array's header can promise what is not there, and an array of
objects is a pickle, which runs code when it is read. So sizes and types are taken from the headers and checked first.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..whole_files import replacing
from .careful_files import HEADER_READERS, HEADER_SIZE, FrugalReader, strings_of
from .checks import DataError

PARTS = ("train", "valid", "test")
AXES = ("dx", "dy", "pen")
CONVERSION = (  # run by whoever trusts the file, with `path` and `new` given
    "import numpy as np; from pyro_stcn.data import write_strokes; "
    "z = np.load(path, allow_pickle=True, encoding='latin1'); "
    "write_strokes(new, *([np.asarray(s, 'f4') for s in z[part]] for part in ('train', 'valid', 'test')))"
)
_PICKLED = (
    "is an array of objects, as in the files of sketch-rnn. Such an array is a pickle, which can run any code when it "
    f"is read, and is not read here. Convert a file that you trust yourself: {CONVERSION}"
)
_ORIGIN = "pyro_stcn_origin"
_TEXT = 20  # characters of the text that go into a sequence's name


@dataclass(frozen=True, eq=False)
class StrokePart:
    """The sequences of one part of a file, in its order.

    :param sequences: float32 arrays of shape ``(T_i, 3)``, T_i >= 1: dx and dy in the file's units, the pen 0 or 1.
    :param names: "train/0", or with the text "train/0 letters" (no more than 20 characters of it).
    """

    sequences: tuple[np.ndarray, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class StrokeFile:
    """What a file holds.

    :param parts: the sequences of "train", "valid" and "test".
    :param origin: who made the data, if the file says so; ours does for synthetic ones.
    """

    parts: dict[str, StrokePart]
    origin: str | None


def read_stroke_file(path: str | os.PathLike[str], max_bytes: int) -> StrokeFile:
    """Read and check a file; arrays beside those above are left alone.

    :param max_bytes: refuse what is larger than this, on disk or unpacked.
    :raises DataError: naming the file and what is wrong with it: not an ``.npz``, truncated, too large, an array
        missing or of another type or shape; and by part, sequence, step and channel, counted from 0, what no pen did.
    """
    path = Path(path)
    arrays = read_stroke_arrays(path, max_bytes)
    parts = {part: _part(path, part, arrays) for part in PARTS}
    return StrokeFile(parts, " ".join(strings_of(path, _ORIGIN, arrays[_ORIGIN])) if _ORIGIN in arrays else None)


def read_stroke_arrays(path: Path, max_bytes: int) -> dict[str, np.ndarray]:
    """Read the arrays of a file, before anything is known of their shapes and values.

    :raises DataError: as ``read_stroke_file`` for what concerns the file and the types of its arrays.
    """
    if not path.is_file():  # a pipe or a device might never end
        what = "is not a regular file" if path.exists() else "does not exist"
        raise DataError(f"{path}: {what}: give an .npz file with pen strokes in the stroke-3 format")
    if path.stat().st_size > max_bytes:
        raise DataError(
            f"{path}: has {path.stat().st_size} bytes, and max_bytes is {max_bytes}: raise it if this is right"
        )
    with FrugalReader(io.FileIO(path)) as file:
        return _read_arrays(path, file, max_bytes)


def write_strokes(
    path: str | os.PathLike[str],
    train: Sequence[np.ndarray],
    valid: Sequence[np.ndarray],
    test: Sequence[np.ndarray],
    *,
    texts: Mapping[str, Sequence[str]] | None = None,
    origin: str | None = None,
) -> Path:
    """Write a file for ``load_strokes``: complete and correct, or not at all.

    :param train: arrays of shape ``(T_i, 3)``: dx, dy in any unit, and 1 at the last point of a stroke, else 0.
    :param valid: the same.
    :param test: the same.
    :param texts: what was written, one string per sequence, by part ("train", "valid", "test").
    :param origin: who made the data.
    :returns: the path.
    :raises DataError: as in reading, if the data are not such strokes.
    :raises ValueError: if there are texts for another part.
    :raises OSError: if the file cannot be written.
    """
    path = Path(path)
    if texts is not None and not set(texts) <= set(PARTS):
        raise ValueError(f"there are texts for {', '.join(texts)}: expected {', '.join(PARTS)}")
    arrays: dict[str, np.ndarray] = {}
    for part, sequences in zip(PARTS, (train, valid, test), strict=True):
        wrong = [i for i, s in enumerate(sequences) if np.ndim(s) != 2 or np.shape(s)[1] != 3]
        if wrong:
            raise DataError(
                f"{path}: sequence '{part}/{wrong[0]}' has shape {np.shape(sequences[wrong[0]])}, expected (T, 3): dx, "
                "dy and the pen-up bit"
            )
        points = _as_float32(np.concatenate(sequences)) if len(sequences) else np.zeros((0, 3), np.float32)
        lengths = np.array([len(s) for s in sequences], dtype=np.int64)
        arrays |= {f"{part}_points": points, f"{part}_lengths": lengths}
        if texts is not None and part in texts:
            arrays[f"{part}_text"] = np.array(texts[part], dtype=str)
        _part(path, part, arrays)
    if origin is not None:
        arrays[_ORIGIN] = np.array(origin)

    with replacing(path) as unfinished, open(unfinished, "wb") as file:  # to a path NumPy would add .npz
        np.savez_compressed(file, **arrays)
    return path


def _read_arrays(path: Path, file: BinaryIO, max_bytes: int) -> dict[str, np.ndarray]:
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:
        file.seek(0)
        begins = file.read(4)
        if begins[:2] == b"PK":
            raise DataError(f"{path}: is truncated or damaged ({error}): copy or download it again") from error
        raise DataError(
            f"{path}: is not an .npz file (a zip archive), it begins with {begins!r}: write one with write_strokes"
        ) from error
    with archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        needed = [f"{part}_{what}" for part in PARTS for what in ("points", "lengths")]
        missing = [name for name in needed if name not in members]
        if missing and members.keys() >= set(PARTS):
            raise DataError(f"{path}: 'train' {_PICKLED}")
        if missing:
            raise DataError(
                f"{path}: there is no {', '.join(missing)} among {', '.join(sorted(members)[:12]) or 'no arrays'}: "
                "write such a file with write_strokes"
            )
        wanted = [name for name in (*needed, *(f"{part}_text" for part in PARTS), _ORIGIN) if name in members]
        unpacked = sum(members[name].file_size for name in wanted)
        if unpacked > max_bytes:
            raise DataError(
                f"{path}: unpacks to {unpacked} bytes, and max_bytes is {max_bytes}: raise it if this is right"
            )
        return {name: _read_array(path, name, archive, members[name]) for name in wanted}


def _read_array(path: Path, name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise DataError(f"{path}: {name} is encrypted or packed as numpy never does: write the file with write_strokes")
    try:
        with archive.open(info) as member:
            version = np.lib.format.read_magic(member)
            shape, _, dtype = HEADER_READERS[version](member, max_header_size=HEADER_SIZE)
            begin = member.tell()
    except Exception as error:  # whatever a hostile header provokes
        raise DataError(f"{path}: {name} is not a readable array ({error}): copy or download the file again") from error
    if dtype.hasobject:
        raise DataError(f"{path}: {name} {_PICKLED}")
    kinds, meaning = {"points": ("fiub", "real numbers"), "lengths": ("iu", "integers")}.get(
        name.rpartition("_")[2], ("U", "strings")
    )
    if dtype.kind not in kinds:
        raise DataError(f"{path}: {name} has dtype {dtype}, expected {meaning}: convert it with array.astype")
    # A header may promise more than there is: memory for it would be set aside before that is noticed.
    promised = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or dtype.itemsize == 0 or begin + promised != info.file_size:
        raise DataError(
            f"{path}: {name} should have {promised} bytes, of shape {shape} and dtype {dtype}, and has "
            f"{info.file_size - begin}: the file is damaged, copy or download it again"
        )
    try:
        with archive.open(info) as member:
            return np.lib.format.read_array(member, allow_pickle=False, max_header_size=HEADER_SIZE)
    except Exception as error:
        raise DataError(f"{path}: {name} cannot be read ({error}): copy or download the file again") from error


def _part(path: Path, part: str, arrays: Mapping[str, np.ndarray]) -> StrokePart:
    """Cut the points of a part into sequences, checking all of it."""
    cut = cut_part(path, part, arrays)
    points = np.concatenate(cut.sequences)
    ends = np.cumsum([len(s) for s in cut.sequences])

    def check(good: np.ndarray, what: str, way_out: str) -> None:
        if not good.all():
            row, channel = np.argwhere(~good)[0]
            index = int(np.searchsorted(ends, row, side="right"))
            step = row - ends[index] + len(cut.sequences[index])
            raise DataError(
                f"{path}: {part}_points: sequence '{part}/{index}', step {step}, "
                f"channel {channel} ({AXES[channel]}) is {points[row, channel]}, {what}, the first of {np.sum(~good)} "
                f"such values: {way_out}"
            )

    check(np.isfinite(points), "not a finite float32", "leave the sequence out, or cut it before that step")
    pen = np.isin(points, (0, 1)) | (np.arange(3) < 2)
    check(pen, "neither 0 nor 1", "the third column must be 1 at the last point of a stroke and 0 elsewhere")
    return cut


def cut_part(path: Path, part: str, arrays: Mapping[str, np.ndarray]) -> StrokePart:
    """Cut the points of a part into sequences, whatever their values are.

    :param arrays: those of the file, by name.
    :raises DataError: naming part and sequence, if the arrays of the part do not belong together.
    """
    points, lengths, text = arrays[f"{part}_points"], arrays[f"{part}_lengths"], arrays.get(f"{part}_text")
    if points.ndim != 2 or points.shape[1] != 3:
        raise DataError(f"{path}: {part}_points has shape {points.shape}, expected (N, 3): dx, dy and the pen-up bit")
    if lengths.ndim != 1 or len(lengths) == 0:
        raise DataError(
            f"{path}: {part}_lengths has shape {lengths.shape}, expected one number per sequence, at least 1"
        )
    for wrong, problem in (
        (lengths < 1, "at least one step is needed"),
        (lengths > len(points), "more than there are"),
    ):
        if wrong.any():
            index = int(wrong.argmax())
            raise DataError(
                f"{path}: sequence '{part}/{index}' has {lengths[index]} steps of the {len(points)} in {part}_points, "
                f"{problem}: leave it out, or correct {part}_lengths"
            )
    ends = np.cumsum(lengths, dtype=np.int64)
    if ends[-1] != len(points):
        raise DataError(
            f"{path}: {part}_lengths sum to {ends[-1]}, and {part}_points has {len(points)} rows: the arrays do not "
            "belong together, make the file again"
        )
    names = [f"{part}/{i}" for i in range(len(lengths))]
    if text is not None:
        if text.shape != lengths.shape:
            raise DataError(
                f"{path}: {part}_text has shape {text.shape}, and there are {len(lengths)} sequences: leave it out"
            )
        texts = strings_of(path, f"{part}_text", text)
        names = [f"{name} {t[:_TEXT]}".rstrip() for name, t in zip(names, texts, strict=True)]
    return StrokePart(tuple(np.split(_as_float32(points), ends[:-1])), tuple(names))


def _as_float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes infinite, and is reported as such
        return np.asarray(array).astype(np.float32, copy=False)
