"""Finding the sequences in whatever they come in: arrays, ``.npz``, ``.npy``, ``.csv``, audio, a folder of such files.

What a file is, is decided by the end of its name; what an audio file is, by its content.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from .audio import AudioError, check_complete, declared_frames, frames, read_audio
from .checks import DataError, is_constant, printable
from .csv_files import read_csv
from .npz_files import read_npy, read_npz

_ARRAYS = (".npz", ".npy", ".csv")
_AUDIO = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64"),
    *(".rf64", ".sph", ".nist", ".voc"),
)
_FULL_SCALE = 32768  # what 1.0 of other encodings is in the units of 16 bits


@dataclass(frozen=True, eq=False)
class Source:
    """The sequences of one argument.

    :param sequences: real arrays of shape ``(T_i, D)``, not yet checked; samples for audio, in units of 16 bits.
    :param names: one name for each.
    :param channels: what the channels are called, if the files say so.
    :param sample_rate: samples per second, for audio.
    :param dropped: samples of audio at ends of files that do not fill a step.
    """

    sequences: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    channels: tuple[str, ...] | None = None
    sample_rate: int | None = None
    dropped: int = 0


@dataclass(frozen=True)
class Reading:
    """How files are read.

    :param frame: samples of audio per step.
    :param sequence_column: see ``csv_files``.
    :param max_bytes: the largest file, and the largest unpacked data of a file, to accept.
    """

    frame: int
    sequence_column: str | int | None
    max_bytes: int


def find_sequences(argument: str, given: Any, how: Reading) -> Source:
    """The sequences of an argument of ``load_arrays``, which says what may be given.

    :param argument: its name, for messages.
    :raises DataError: if it is none of these, or a file cannot be read.
    """
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        if path.is_dir():
            return _folder(path, how)
        return read_file(path, printable(path.stem), how)
    if isinstance(given, np.ndarray | torch.Tensor):
        array = _array(given)
        if array.ndim != 3:
            raise DataError(
                f"{argument} is one array of shape {array.shape}, expected (N, T, D), sequences by steps by channels: "
                f"give [{argument}] if it is one sequence, {argument}[..., None] for N sequences of one channel"
            )
        return Source(tuple(array), tuple(str(i) for i in range(len(array))))
    if isinstance(given, Sequence) and not isinstance(given, bytes | bytearray):
        if given and all(isinstance(item, str | os.PathLike) for item in given):
            paths = [Path(item) for item in given]
            return join([read_file(path, n, how) for path, n in zip(paths, names_of(paths), strict=True)], paths)
        arrays = tuple(_array(item) for item in given)
        return Source(tuple(_column(a) for a in arrays), tuple(str(i) for i in range(len(arrays))))
    raise DataError(
        f"{argument} is a {type(given).__name__}: expected a list of arrays or of paths, an array (N, T, D), or the "
        "path of a file or folder"
    )


def names_of(paths: Sequence[Path]) -> list[str]:
    """What to call the files of a list: their paths from the folder that all are in, as those of a folder are called.

    Figures are reported by these names, and where a folder lies on a machine is no part of the data.
    """
    folder = os.path.commonpath([path.absolute().parent for path in paths])
    names = [path.absolute().relative_to(folder) for path in paths]
    short = [str(name.with_suffix("")) for name in names]
    return [printable(name) for name in (short if len(set(short)) == len(short) else map(str, names))]


def _array(item: Any) -> Any:
    if isinstance(item, np.ma.MaskedArray) and item.dtype.kind in "fiub":  # what is under a mask is no value
        return np.ma.filled(item.astype(np.float64), np.nan)
    return item.detach().cpu().numpy() if isinstance(item, torch.Tensor) else item


def _column(array: Any) -> Any:
    """One channel as ``(T, 1)``."""
    return array[:, None] if isinstance(array, np.ndarray) and array.ndim == 1 else array


def is_audio(path: Path) -> bool:
    """Whether the end of its name says so."""
    return path.suffix.lower() in _AUDIO


def is_read(path: Path) -> bool:
    """Whether the end of its name says that it holds arrays or sound."""
    return path.suffix.lower() in _ARRAYS + _AUDIO


def list_files(path: Path) -> tuple[list[Path], list[str], list[Path]]:
    """The files of a folder and its subfolders that are read, what each is called, and the other files.

    :raises DataError: if there is none that is read.
    """
    files = sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith("."))
    known = [f for f in files if is_read(f)]
    if not known:
        ends = ", ".join(sorted({f.suffix or f.name for f in files})[:12]) or "nothing"
        raise DataError(
            f"{path}: holds no file that is read ({ends}): expected {', '.join(_ARRAYS)} or audio ({', '.join(_AUDIO)})"
        )
    names = [str(f.relative_to(path).with_suffix("")) for f in known]
    if len(set(names)) < len(names):  # a.csv and a.npy
        names = [str(f.relative_to(path)) for f in known]
    taken = set(known)
    return known, [printable(name) for name in names], [f for f in files if f not in taken]


def _folder(path: Path, how: Reading) -> Source:
    known, names, _ = list_files(path)
    audio = [f for f in known if is_audio(f)]
    if audio and len(audio) < len(known):
        other = next(f for f in known if f not in audio)
        raise DataError(f"{path}: holds audio ({audio[0].name}) and arrays ({other.name}): put them into two folders")
    return join([read_file(f, name, how) for f, name in zip(known, names, strict=True)], known)


def join(parts: list[Source], where: Sequence[object]) -> Source:
    """Sequences of several files as one; rates and channels' names must agree.

    :param where: what to call each part in messages.
    """
    first = parts[0]
    for place, part in zip(where, parts, strict=True):
        if part.sample_rate != first.sample_rate:
            raise AudioError(
                f"{place}: was sampled at {part.sample_rate} Hz and {where[0]} at {first.sample_rate} Hz: resample "
                f"one, ffmpeg -i IN -ar {first.sample_rate} -c:a pcm_s16le OUT.wav"
            )
        if part.channels is not None and first.channels is not None and part.channels != first.channels:
            raise DataError(
                f"{place}: has the columns {', '.join(part.channels)[:200]} and {where[0]} has "
                f"{', '.join(first.channels)[:200]}: the files need the same columns in the same order"
            )
    return replace(
        first,
        sequences=tuple(s for part in parts for s in part.sequences),
        names=tuple(name for part in parts for name in part.names),
        dropped=sum(part.dropped for part in parts),
    )


def read_file(path: Path, name: str, how: Reading) -> Source:
    """The sequences of one file.

    :param name: what it is called in the names of sequences.
    :raises DataError: naming the file, if it cannot be read.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise DataError(f"{path}: {'is neither a file nor a folder' if path.exists() else 'does not exist'}")
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path}: is empty (0 bytes): leave it out, or copy it again")
    if size > how.max_bytes:
        raise DataError(f"{path}: has {size} bytes, and max_bytes is {how.max_bytes}: raise it if this is right")
    if is_audio(path):
        return _audio(path, name, how)
    if suffix == ".csv":
        sequences, labels, channels = read_csv(path, how.sequence_column)
        return Source(sequences, tuple(f"{name}/{printable(label)}" if label else name for label in labels), channels)
    if suffix == ".npy":
        return _members(path, {name: read_npy(path, max_bytes=how.max_bytes)})
    if suffix == ".npz":
        arrays = read_npz(path, max_bytes=how.max_bytes)
        if {"train_points", "train_lengths"} <= arrays.keys():
            raise DataError(f"{path}: holds pen strokes in the stroke-3 format: read it with load_strokes or load_own")
        return _members(
            path, {f"{name}/{printable(member)}": a for member, a in arrays.items() if isinstance(a, np.ndarray)}
        )
    raise DataError(f"{path}: expected {', '.join(_ARRAYS)} or audio ({', '.join(_AUDIO)})")


def _members(path: Path, arrays: dict[str, np.ndarray]) -> Source:
    """Sequences ``(T, D)`` and ``(T,)``, and stacks of them ``(N, T, D)``."""
    if not arrays:
        raise DataError(f"{path}: holds no arrays: write one for each sequence, numpy.savez(path, a=..., b=...)")
    sequences: list[np.ndarray] = []
    names: list[str] = []
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub" or array.ndim not in (1, 2, 3):
            raise DataError(
                f"{path}: {name!r} has shape {array.shape} and dtype {array.dtype}, expected numbers of shape (T, D), "
                "(T,) or (N, T, D): leave it out"
            )
        stack = array if array.ndim == 3 else [_column(array)]
        sequences.extend(stack)
        names += [f"{name}/{i}" for i in range(len(stack))] if array.ndim == 3 else [name]
    return Source(tuple(sequences), tuple(names))


def other_encoding(path: Path) -> Any:
    """What libsndfile says of a recording that is not 16-bit PCM in RIFF or SPHERE; None of one that is, or is none."""
    try:
        info = soundfile.info(os.fsencode(path))  # bytes: not every name is UTF-8
    except soundfile.SoundFileError:
        return None
    return None if info.format in ("WAV", "WAVEX", "NIST") and info.subtype == "PCM_16" else info


def _audio(path: Path, name: str, how: Reading) -> Source:
    info = other_encoding(path)
    if info is None:
        audio = read_audio(path)  # compares the header with what is there, and says what cannot be read
        samples, rate = audio.samples, audio.sample_rate
    else:
        samples, rate = _decode(path, info, how.max_bytes), info.samplerate
    rows = frames(samples, how.frame)
    if len(rows) == 0:
        raise AudioError(f"{path}: has {len(samples)} samples, fewer than a step of {how.frame}: give a smaller frame")
    return Source((rows,), (name,), sample_rate=rate, dropped=len(samples) - rows.size)


def _decode(path: Path, info: Any, max_bytes: int) -> np.ndarray:
    """What libsndfile reads, in the units of 16 bits."""
    if info.channels != 1:
        raise AudioError(
            f"{path}: has {info.channels} channels, expected 1: choose a channel or mix them, "
            "ffmpeg -i IN -ac 1 OUT.wav"
        )
    if not 0 < info.frames * 4 <= max_bytes:
        raise AudioError(f"{path}: declares {info.frames} samples, expected 1 to {max_bytes // 4} (see max_bytes)")
    check_complete(path, declared_frames(path, info), info.frames)
    try:
        samples, _ = soundfile.read(os.fsencode(path), dtype="float32")
    except soundfile.SoundFileError as error:
        raise AudioError(f"{path}: cannot be decoded ({error}): copy or download it again") from error
    if len(samples) < info.frames:
        raise AudioError(f"{path}: is truncated: {info.frames} samples declared, {len(samples)} there: copy it again")
    if is_constant([samples]):
        raise AudioError(f"{path}: holds silence only ({len(samples)} samples, all {samples[0]:g}): leave it out")
    return samples * _FULL_SCALE
