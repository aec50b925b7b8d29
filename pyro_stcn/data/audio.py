"""Reading and writing mono 16-bit recordings: what a file is, is decided by its content.

Speech corpora come as NIST SPHERE and as RIFF, both under the name .wav and sometimes in one folder. A truncated file
of either kind reads without complaint and is merely shorter, and a compressed one can read as noise, so the header is
compared with what is there before the samples are used.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from .audio_containers import declared_bytes
from .checks import DataError, is_constant

_SHORTEN_MAGIC = b"ajkg"
_SPHERE_MAGIC = b"NIST_1A"
PCM_16 = "16-bit PCM"
_PCM, _EXTENSIBLE = 1, 0xFFFE  # format tags of the RIFF "fmt " chunk
_UNFINISHED = 0xFFFFFFFF  # what programs that write to a pipe leave as the length
_SPHERE_HEADER = 2**20  # bytes; nearly all have 1024
_CHUNKS = 1000  # of a RIFF file before its samples: a file of zeros would be as many as its size is eighths
_SAMPLES = 2**48
_KNOWN_CONTENT = {
    b"fLaC": "FLAC audio",
    b"OggS": "Ogg audio",
    b"ID3": "MP3 audio",
    b"FORM": "AIFF audio",
    b"RF64": "RF64 audio",
    b"RIFX": "big-endian RIFF audio",
    b"version https://git-lfs": "a Git LFS pointer in place of the file (fetch it: git lfs pull)",
    b"<": "a web page or XML, perhaps saved in place of a download",
}
_CONVERT = "convert it with: ffmpeg -i IN -c:a pcm_s16le OUT.wav"
_DECODE = "decode it with: sph2pipe -f wav IN OUT.wav (or NIST's w_decode -o pcm IN OUT)"


class AudioError(DataError):
    """A recording that cannot be used: the message names the file, what was found, what to do."""


class AudioFormat(StrEnum):
    """The container a recording was found in."""

    SPHERE = "NIST SPHERE"
    RIFF = "RIFF"


@dataclass(frozen=True, eq=False)
class Audio:
    """A recording as it is in the file.

    :param samples: int16 array of shape ``(N,)``, N >= 1.
    :param sample_rate: samples per second.
    :param format: the container it was found in.
    :param database: the database the header says it belongs to (SPHERE only), or None.
    """

    samples: np.ndarray
    sample_rate: int
    format: AudioFormat
    database: str | None = None


@dataclass(frozen=True)
class AudioHeader:
    """What the header of a SPHERE or RIFF file says, and what is there.

    :param format: the container.
    :param sample_rate: samples per second.
    :param channels: their number.
    :param encoding: :data:`PCM_16`, or in words what it is instead.
    :param offset: the byte where the samples begin.
    :param declared: bytes of samples according to the header.
    :param present: bytes there are from ``offset`` on.
    :param database: as in :class:`Audio`.
    """

    format: AudioFormat
    sample_rate: int
    channels: int
    encoding: str
    offset: int
    declared: int
    present: int
    database: str | None = None


def read_header(path: str | os.PathLike[str]) -> AudioHeader:
    """Read what a NIST SPHERE or RIFF file says of itself, without its samples.

    :raises AudioError: if the file cannot be opened, is no regular file, is empty, is neither format, has a damaged
        header, or is compressed (shorten).
    """
    path = Path(path)
    try:
        check_regular(path)
        with path.open("rb") as file:
            header = _read_header(path, file)
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror or error}") from error
    if header.sample_rate < 1:
        raise AudioError(f"{path}: its header is damaged (a rate of {header.sample_rate} Hz): {_CONVERT}")
    return header


def read_audio(path: str | os.PathLike[str], expected_rate: int | None = None) -> Audio:
    """Read a mono 16-bit recording, NIST SPHERE or RIFF, whatever the file is called.

    :param path: the file.
    :param expected_rate: samples per second it must have, or None for any.
    :raises AudioError: if the file cannot be opened, is empty, is neither format, is compressed (shorten), is
        truncated, has another rate or more than one channel, does not hold 16-bit PCM, or holds nothing but silence
        (all samples equal).
    """
    path = Path(path)
    header = read_header(path)
    if header.encoding != PCM_16:
        raise AudioError(f"{path}: holds {header.encoding}, expected 16-bit PCM: {_CONVERT}")
    check_form(path, header.channels, header.sample_rate, expected_rate)
    check_complete(path, header.declared // 2, header.present // 2)
    try:
        samples, _ = soundfile.read(os.fsencode(path), dtype="int16")  # bytes: not every name is UTF-8
    except soundfile.SoundFileError as error:
        raise AudioError(f"{path}: cannot be decoded ({error}): copy or download it again") from error
    if len(samples) != header.declared // 2:
        raise AudioError(
            f"{path}: its header declares {header.declared // 2} samples and {len(samples)} were "
            "read: the header does not belong to these samples; copy or download the file again"
        )
    if is_constant([samples]):
        raise AudioError(f"{path}: holds silence only ({len(samples)} samples, all {samples[0]}): leave it out")
    return Audio(samples, header.sample_rate, header.format, header.database)


class OnwardSoundFile(soundfile.SoundFile):
    """A file that is read from the beginning to the end.

    A SoundFile seeks after each read, which an MP3 resents: the first samples after it are not those of the whole, and
    its decoder complains on the terminal.
    """

    def seekable(self) -> bool:
        """Say no."""
        return False


def check_regular(path: Path) -> None:
    """Check that a path, if there is anything, is no pipe: opening one waits for who writes to it.

    :raises AudioError: if it is, or a device.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise AudioError(f"{path}: is not a regular file but a pipe or a device: take it out of the folder")


def check_form(path: Path, channels: int, sample_rate: int, expected_rate: int | None) -> None:
    """Check that a recording is mono and has the rate that is expected, if any.

    :raises AudioError: if not, with the command that mends it.
    """
    if channels != 1:
        raise AudioError(
            f"{path}: has {channels} channels, expected 1: choose a channel or mix them, ffmpeg -i IN -ac 1 OUT.wav"
        )
    if expected_rate is not None and sample_rate != expected_rate:
        raise AudioError(
            f"{path}: was sampled at {sample_rate} Hz, expected {expected_rate} Hz: "
            f"resample it with: ffmpeg -i IN -ar {expected_rate} -c:a pcm_s16le OUT.wav"
        )


def check_complete(path: Path, declared: int, present: int) -> None:
    """Check that as many samples are there as the header declares, and at least one.

    :raises AudioError: if not.
    """
    if declared == 0:
        raise AudioError(f"{path}: holds no samples: leave it out")
    if present < declared:
        raise AudioError(
            f"{path}: is truncated: its header declares {declared} samples and "
            f"{present} are there: copy or download the file again"
        )


def declared_frames(path: Path, info: Any) -> int:
    """How many samples of each channel a recording should have.

    libsndfile takes a RIFF, SPHERE, AIFF, AU, W64 or VOC file to be as long as what is there of it: the header knows
    better.

    :param info: what ``soundfile.info`` says of it.
    :raises AudioError: as :func:`read_header`.
    """
    if info.format not in ("WAV", "WAVEX", "NIST"):
        declared, present = declared_bytes(path, info.format) or 0, path.stat().st_size
        return int(info.frames if declared <= present else max(info.frames * declared // present, info.frames + 1))
    header = read_header(path)
    return int(max(info.frames * header.declared // max(header.present, 1), info.frames))


def write_wav(path: str | os.PathLike[str], samples: np.ndarray, sample_rate: int) -> None:
    """Write a mono RIFF file of 16-bit PCM.

    :param path: the file; one that is there is replaced.
    :param samples: shape ``(N,)``; int16, written as they are, or floats, where -1..1 is full scale and what is beyond
        is clipped.
    :param sample_rate: samples per second.
    :raises AudioError: if the samples have another shape or type, or are not finite.
    """
    soundfile.write(path, as_int16(path, samples), sample_rate, format="WAV", subtype="PCM_16")


def write_sphere(
    path: str | os.PathLike[str], samples: np.ndarray, sample_rate: int, database: str = "unknown"
) -> None:
    """Write a mono NIST SPHERE file: an ASCII header of 1024 bytes, then 16-bit PCM, little endian.

    :param path: the file; one that is there is replaced.
    :param samples: as for ``write_wav``.
    :param sample_rate: samples per second.
    :param database: written to the header as the database the recording belongs to.
    :raises AudioError: if the samples have another shape or type, or are not finite.
    """
    samples = as_int16(path, samples)
    fields = [
        f"database_id -s{len(database)} {database}",
        "channel_count -i 1",
        f"sample_count -i {len(samples)}",
        f"sample_rate -i {sample_rate}",
        "sample_n_bytes -i 2",
        "sample_byte_format -s2 01",
        "sample_sig_bits -i 16",
        "end_head",
    ]
    header = "\n".join(["NIST_1A", "   1024", *fields, ""]).encode("ascii")
    Path(path).write_bytes(header.ljust(1024) + samples.astype("<i2").tobytes())


def frames(samples: np.ndarray, size: int) -> np.ndarray:
    """Cut samples ``(N,)`` into rows of shape ``(N // size, size)``; an incomplete tail is dropped."""
    count = len(samples) // size
    return samples[: count * size].reshape(count, size)


def as_int16(path: str | os.PathLike[str], samples: np.ndarray) -> np.ndarray:
    """Samples ``(N,)`` as int16: as they are, or from floats, where -1..1 is full scale and what is beyond is clipped.

    :param path: the file they are of, for messages.
    :raises AudioError: if they have another shape or type, or are not finite.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1 or not (samples.dtype == np.int16 or samples.dtype.kind == "f"):
        raise AudioError(
            f"{path}: cannot write samples of shape {samples.shape} and type {samples.dtype}: give "
            "shape (N,), as int16 or as floats in -1..1"
        )
    if samples.dtype == np.int16:
        return samples
    if not np.isfinite(samples).all():
        first = int(np.flatnonzero(~np.isfinite(samples))[0])
        raise AudioError(f"{path}: cannot write: sample {first} is {samples[first]}, not finite")
    return np.clip(np.round(samples.astype(np.float64) * 32768), -32768, 32767).astype(np.int16)


def _read_header(path: Path, file: BinaryIO) -> AudioHeader:
    size = os.fstat(file.fileno()).st_size
    head = file.read(64)
    if not head:
        raise AudioError(f"{path}: is empty (0 bytes): copy or download the file again")
    if head.startswith(_SPHERE_MAGIC):
        return _read_sphere_header(path, file, size)
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return _read_riff_header(path, file, size)
    if head.startswith(_SHORTEN_MAGIC):
        raise AudioError(f"{path}: is compressed with shorten: {_DECODE}")
    known = (what for magic, what in _KNOWN_CONTENT.items() if head.startswith(magic))
    what = next(known, f"unknown content, beginning with {head[:12]!r}")
    raise AudioError(f"{path}: expected NIST SPHERE or RIFF audio and found {what}; {_CONVERT}")


def _read_sphere_header(path: Path, file: BinaryIO, size: int) -> AudioHeader:
    file.seek(0)
    lines = file.read(16).split(b"\n")
    try:
        length = int(lines[1])
        if not 16 <= length <= _SPHERE_HEADER:
            raise ValueError(f"it declares a header of {length} bytes")
        file.seek(0)
        text = file.read(length).decode("latin-1")
        if len(text) < length or "end_head" not in text:
            raise ValueError("the header is not complete")
        # A field is "name -type value": -i an integer, -r a real, -s<n> a string of n letters.
        lines_with_value = (line.split(None, 2) for line in text.split("end_head")[0].splitlines()[2:])
        fields = {parts[0]: parts[2] for parts in lines_with_value if len(parts) == 3}
        rate, count = int(fields["sample_rate"]), int(fields["sample_count"])
        channels = int(fields.get("channel_count", "1"))
        width = int(fields.get("sample_n_bytes", "2"))
        if not (0 <= count < _SAMPLES and 1 <= channels < _SAMPLES and 1 <= width < _SAMPLES):
            raise ValueError(f"sample_count is {fields['sample_count'][:20]}, channels {channels}, bytes {width}"[:200])
    except (ValueError, IndexError, KeyError) as error:
        raise AudioError(
            f"{path}: its NIST SPHERE header is damaged ({error}): copy or download the file again"
        ) from error
    coding = fields.get("sample_coding", "pcm").strip()
    if "shorten" in coding or file.read(4) == _SHORTEN_MAGIC:
        raise AudioError(f"{path}: its samples are compressed with shorten: {_DECODE}")
    encoding = f"{8 * width}-bit PCM" if coding == "pcm" else f"samples in the coding {coding!r}"
    return AudioHeader(
        AudioFormat.SPHERE,
        rate,
        channels,
        encoding,
        offset=length,
        declared=count * width * channels,
        present=size - length,
        database=fields.get("database_id", "").strip() or None,
    )


def _read_riff_header(path: Path, file: BinaryIO, size: int) -> AudioHeader:
    position, layout, chunks = 12, None, 0
    while position + 8 <= size:
        chunks += 1
        if chunks > _CHUNKS:
            raise AudioError(f"{path}: its RIFF header is damaged (more than {_CHUNKS} chunks before the samples)")
        file.seek(position)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind == b"fmt ":
            layout = file.read(min(length, 40))
        elif kind == b"data":
            break
        position += 8 + length + length % 2  # chunks begin at even positions
    else:
        raise AudioError(f"{path}: is truncated: it ends before its samples begin: copy or download it again")
    if layout is None or len(layout) < 16:
        raise AudioError(f"{path}: its RIFF header is damaged (no format): copy or download it again")
    tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", layout[:16])
    if tag == _EXTENSIBLE and len(layout) >= 26:
        tag = struct.unpack("<H", layout[24:26])[0]  # the true tag begins the sub-format's identifier
    offset = position + 8
    present = size - offset
    if length == _UNFINISHED or (length == 0 and present > 0):
        raise AudioError(
            f"{path}: its length was never written, so it cannot be told whether it is complete "
            f"(it was written to a pipe, or the writer was stopped): {_CONVERT}"
        )
    encoding = f"{bits}-bit PCM" if tag == _PCM else f"{bits}-bit samples with RIFF format tag {tag}"
    return AudioHeader(AudioFormat.RIFF, rate, channels, encoding, offset, length, present)
