"""One sequence for a check, wherever it comes from, and recordings of any length in blocks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from . import array_files
from .audio import PCM_16, AudioError, OnwardSoundFile, declared_frames, read_header
from .checks import DataError, printable
from .findings import Finding, Severity, What

_BLOCK = 2**16  # samples of audio read at once
_FULL_SCALE = 32768


@dataclass(frozen=True, eq=False)
class Piece:
    """One sequence.

    :param name: what it is called.
    :param file: the file it is in.
    :param part: "train", "valid" or "test", where the data say so.
    :param width: D.
    :param blocks: its steps in pieces ``(t, D)``; may raise ``DataError`` on the way.
    :param channels: what the channels are called.
    :param rate: samples per second, of audio. A step is one sample then, in units of 16 bits.
    :param required_rate: what it has to be; None if that of the other recordings will do.
    :param format: what the file is.
    :param pen: the channel that is 0 or 1 by the format, if there is one.
    :param discrete: whether channels are notes or labels, 0 or 1.
    """

    name: str
    file: str | None
    part: str | None
    width: int
    blocks: Iterable[np.ndarray]
    channels: tuple[str, ...] | None = None
    rate: int | None = None
    required_rate: int | None = None
    format: str = "array"
    pen: int | None = None
    discrete: bool = False


Found = Iterator[Piece | Finding]


def error(what: What, problem: str | Exception, file: object = None, **where: Any) -> Finding:
    """An error; the path at the beginning of a loader's message is not said twice."""
    detail = str(problem).removeprefix(f"{printable(str(file))}: ")
    return Finding(Severity.ERROR, what, detail, None if file is None else str(file), **where)


def recording(
    file: Path, name: str, part: str | None, frame: int, *, any_encoding: bool, required_rate: int | None = None
) -> Found:
    """A recording of any length, in blocks.

    :param any_encoding: whether the loader takes whatever libsndfile decodes, or 16-bit PCM alone.
    :param required_rate: the rate that the loader wants, None if all have to be alike.
    """
    try:
        if file.is_file() and file.stat().st_size == 0:
            yield error(What.EMPTY, "has 0 bytes", file, sequence=name)
            return
        info = array_files.other_encoding(file) if any_encoding and file.is_file() else None
        if info is not None:
            format, rate, channels = f"{info.format}, {info.subtype}", info.samplerate, info.channels
            plain, declared, present = False, declared_frames(file, info), info.frames
        else:
            header = read_header(file)
            format, rate, channels = f"{header.format}, {header.encoding}", header.sample_rate, header.channels
            plain, declared, present = header.encoding == PCM_16, header.declared // 2, header.present // 2
        if (plain or info is not None) and present < declared:
            detail = f"{declared} samples declared, {present} there"
            yield error(What.TRUNCATED, detail, file, sequence=name, step=present)
            return
    except (AudioError, OSError) as problem:
        yield error(What.UNREADABLE, problem, file, sequence=name)
        return
    if not plain and not any_encoding:
        yield error(What.ENCODING, f"{format}, expected {PCM_16}", file, sequence=name)
        return
    if channels != 1:
        yield error(What.STEREO, f"{channels} channels, expected 1", file, sequence=name)
        return
    if declared < frame:
        yield error(What.SHORT, f"{declared} samples, fewer than a step of {frame}", file, sequence=name)
        return
    blocks = _blocks(file, plain, declared)
    yield Piece(name, str(file), part, 1, blocks, ("sample",), rate, required_rate, format)


def _blocks(file: Path, plain: bool, declared: int | None) -> Iterator[np.ndarray]:
    count = 0
    try:
        with OnwardSoundFile(os.fsencode(file)) as audio:  # bytes: not every name is UTF-8
            while len(block := audio.read(_BLOCK, dtype="int16" if plain else "float32", always_2d=True)):
                count += len(block)
                if declared is not None and count > declared:
                    break
                yield block if plain else block * _FULL_SCALE
    except soundfile.SoundFileError as problem:
        raise AudioError(f"{file}: cannot be decoded ({problem}): copy or download it again") from problem
    if declared is not None and count != declared:
        more = " or more" if count > declared else ""
        raise AudioError(f"{file}: its header declares {declared} samples and {count}{more} are there")


def equal_recordings(one: Piece, other: Piece) -> bool:
    """Whether two files hold the same samples."""
    try:
        pairs = zip(
            *(_blocks(Path(str(piece.file)), True, None) for piece in (one, other)), strict=True
        )  # equal blocks, so equal lengths
        return all(np.array_equal(a, b) for a, b in pairs)
    except (DataError, ValueError):
        return False
