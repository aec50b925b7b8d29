"""Long recordings in a tree of folders: found, checked, and made readable at any place.

RIFF files of mono 16-bit PCM are read where they are. All others that libsndfile reads (MP3, FLAC, Ogg, AIFF ...) are
decoded once, from the beginning to the end, and the copies are read. There is a reason for each:

* MP3: a frame needs bits and overlap of the frames before it, and what libsndfile (1.2.2) gives after a seek depends on
  where it came from. In mp3 files of constant bit rate a third of the half seconds read after a seek differed from the
  decoded whole by one unit; in files of variable rate two thirds did, by up to 6,617 units.
* FLAC: exact, but 15 ms for half a second where a RIFF file takes 0.005 ms.

What was found is noted in a file, so that nothing is read through twice: for each recording its size and time of
change, the number of its samples and their SHA-256. A recording is read again when its size or time is another, and a
copy is made again when it is not as it was left. A change that leaves both as they were goes unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from ..whole_files import replacing
from .audio import (
    PCM_16,
    AudioError,
    AudioFormat,
    OnwardSoundFile,
    as_int16,
    check_complete,
    check_form,
    check_regular,
    declared_frames,
    read_header,
)
from .checks import DataError, printable
from .made_once import cache_folder
from .tape import Recording, Tape
from .timit_files import walk

SUFFIXES = (
    *(".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc"),
    *(".au", ".caf", ".w64", ".rf64", ".sph", ".nist"),
)
_UNASKED = 2 * 2**30  # bytes of copies that are made without being asked for a folder
_BLOCK = 2**18  # samples read at once
_RIFF_MOST = 2**32 - 2**16  # bytes of samples: the length in a RIFF header has 32 bits
_LAST_FRAMES = 2304  # samples of two MP3 frames: programs do not agree about the last ones
_FORM = 1  # of the notes: raise it when they change
_NOTED_EVERY = 10.0  # seconds: notes are written as a whole, after each of many recordings would take most of the time


@dataclass(frozen=True)
class _Plan:
    """How a recording will be read: ``offset`` is where its samples begin, None if they have to be decoded."""

    samples: int  # as declared
    offset: int | None = None
    slack: int = 0  # how many of them may be missing


@dataclass(frozen=True)
class _Note:
    """What is known of a recording, with the size and the time of change of its file and of the copy, if any."""

    sample_rate: int
    size: int
    changed: int
    offset: int
    samples: int
    sha256: str
    copied: bool = False
    copy_size: int = 0
    copy_changed: int = 0


def open_recordings(
    root: str | os.PathLike[str], *, sample_rate: int, decoded: str | os.PathLike[str] | None = None
) -> Tape:
    """Find, check and note all recordings below a folder, with progress bars on a terminal.

    An interrupted run goes on where it was; one that was killed, where it was some seconds before.

    :param root: the folder. Which files are recordings is decided by their ending (:data:`SUFFIXES`), what they are by
        their content; hidden files are left aside.
    :param sample_rate: samples per second that all must have.
    :param decoded: where the notes, and copies of what has to be decoded, are kept, in a subfolder named after
        ``root``. Default: the cache (``$PYRO_STCN_CACHE`` or ~/.cache/pyro-stcn); there without being asked only if
        they take no more than 2 GiB or ``$PYRO_STCN_CACHE`` is set.
    :returns: the recordings in the order of their names, the paths below ``root`` without ending.
    :raises DataError: if the folder is missing or holds no recording, a recording is there in two formats, the copies
        would be below ``root``, or there is no room for them.
    :raises AudioError: for the first recording that cannot be used, and how many there are.
    """
    root = Path(root)
    found = find_recordings(root)
    kept = Path(decoded) if decoded is not None else cache_folder()
    place = root.resolve()
    if kept.resolve().is_relative_to(place):
        raise DataError(
            f"{kept}: is below {root}, where copies would be taken for recordings the next time: give a folder outside "
            "of it, decoded=FOLDER or PYRO_STCN_CACHE"
        )
    folder = kept / f"recordings-{place.name}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:12]}"
    notes = {n: note for n, note in _read_notes(folder / "recordings.json").items() if n in found}
    todo = [name for name, path in found.items() if not _is_current(notes.get(name), name, path, folder, sample_rate)]
    problems: list[AudioError] = []
    plans: dict[str, _Plan] = {}
    for name in tqdm(todo, desc=f"checking {root.name}", unit="file", disable=None, leave=False):
        try:
            plans[name] = _examine(found[name], sample_rate)
        except AudioError as error:
            problems.append(error)
    _raise_first(problems, len(found))
    _make_room(folder, [2 * plan.samples for plan in plans.values() if plan.offset is None], decoded is not None)
    folder.mkdir(parents=True, exist_ok=True)
    bar = tqdm(
        total=sum(plan.samples for plan in plans.values()) // sample_rate,
        desc=f"reading {root.name}",
        unit=" s of sound",
        unit_scale=True,
        disable=None,
    )
    noted = time.monotonic()
    try:
        with bar:
            for name, plan in plans.items():
                try:
                    notes[name] = _read_through(found[name], folder, name, plan, sample_rate)
                except AudioError as error:
                    problems.append(error)
                    continue
                bar.update(plan.samples // sample_rate)
                if time.monotonic() - noted > _NOTED_EVERY:
                    _write_notes(folder, notes)
                    noted = time.monotonic()
    finally:
        if plans:
            _write_notes(folder, notes)
    _raise_first(problems, len(found))
    return Tape([_recording(name, found[name], notes[name], folder) for name in found], folder)


def find_recordings(root: Path) -> dict[str, Path]:
    """The files by the names of their recordings, sorted.

    :raises DataError: as :func:`open_recordings`.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root}: {what}: give the folder that holds the recordings, at any depth")
    found: dict[str, Path] = {}
    others = 0
    for path in walk(root):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            others += 1
            continue
        name = printable(path.relative_to(root).with_suffix("").as_posix())
        if name in found:
            raise DataError(
                f"recording {name!r} is there twice, {found[name].name} and {path.name} in {path.parent}: keep one, or "
                "give a folder that holds only the copies to use"
            )
        found[name] = path
    if not found:
        raise DataError(
            f"{root}: no recording below this folder ({others} other files): expected files that end in "
            f"{', '.join(SUFFIXES)}"
        )
    return dict(sorted(found.items()))


def _examine(path: Path, sample_rate: int) -> _Plan:
    """Check what can be checked without decoding."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror or error}") from error
    if head.startswith((b"RIFF", b"NIST_1A")) or not head:
        header = read_header(path)
        check_form(path, header.channels, header.sample_rate, sample_rate)
        if header.encoding == PCM_16:
            check_complete(path, header.declared // 2, header.present // 2)
            if header.format is AudioFormat.RIFF:
                return _Plan(header.declared // 2, header.offset)
    try:
        info = soundfile.info(os.fsencode(path))  # bytes: not every name is UTF-8
    except soundfile.SoundFileError as error:
        raise AudioError(
            f"{path}: is no recording that can be read ({error}): copy or download it again, or convert it with: "
            "ffmpeg -i IN -c:a pcm_s16le OUT.wav"
        ) from error
    check_form(path, info.channels, info.samplerate, sample_rate)
    check_complete(path, declared_frames(path, info), info.frames)
    if 2 * info.frames > _RIFF_MOST:
        raise AudioError(f"{path}: has {info.frames} samples, more than a RIFF file can hold: cut it into pieces")
    return _Plan(info.frames, slack=_LAST_FRAMES if info.format == "MP3" else 0)


def _make_room(folder: Path, sizes: list[int], asked: bool) -> None:
    """Refuse to write many copies where nobody asked for them, or where they have no room."""
    needed = sum(sizes)
    what = (
        f"{len(sizes)} recordings cannot be read at any place as they are and would be decoded once, {needed:,} bytes"
    )
    if needed > _UNASKED and not asked and not os.environ.get("PYRO_STCN_CACHE"):
        raise DataError(
            f"{what}: give the folder to keep them in, decoded=FOLDER, or set PYRO_STCN_CACHE to one (see "
            f"pyro_stcn.data.recording_files); here they would be in {folder}"
        )
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise DataError(f"{what}, and {free:,} bytes are free in {there}: give another folder, decoded=FOLDER")


def _read_through(path: Path, folder: Path, name: str, plan: _Plan, sample_rate: int) -> _Note:
    """Read a recording from the beginning to the end, once: hash it, check it, and copy it where it must be."""
    state, tally = path.stat(), _Tally()
    of_file = {"sample_rate": sample_rate, "size": state.st_size, "changed": state.st_mtime_ns}
    if plan.offset is not None:
        for block in _plain_blocks(path, plan.offset, plan.samples):
            tally.add(block)
        return _Note(**of_file, offset=plan.offset, samples=tally.read, sha256=tally.finish(path, plan))

    copy = _copy(folder, name)
    with replacing(copy) as unfinished:
        with soundfile.SoundFile(os.fsencode(unfinished), "w", sample_rate, 1, "PCM_16", format="WAV") as file:
            for block in _decoded_blocks(path):
                tally.add(block)
                file.write(block)
        tally.finish(path, plan)
    made = copy.stat()
    return _Note(
        **of_file,
        offset=read_header(copy).offset,
        samples=tally.read,
        sha256=tally.finish(path, plan),
        copied=True,
        copy_size=made.st_size,
        copy_changed=made.st_mtime_ns,
    )


class _Tally:
    """What a reading has come to."""

    def __init__(self) -> None:
        self.read, self.low, self.high = 0, 2**15, -(2**15)
        self.hash = hashlib.sha256()

    def add(self, block: np.ndarray) -> None:
        self.read += len(block)
        self.low, self.high = min(self.low, int(block.min())), max(self.high, int(block.max()))
        self.hash.update(block.astype("<i2", copy=False).tobytes())

    def finish(self, path: Path, plan: _Plan) -> str:
        """The SHA-256 of all samples.

        :raises AudioError: if there were fewer than declared, or all are the same.
        """
        if self.read + plan.slack < plan.samples:
            check_complete(path, plan.samples, self.read)
        if self.low >= self.high:
            raise AudioError(f"{path}: holds silence only ({self.read} samples, all {self.low}): leave it out")
        return self.hash.hexdigest()


def _decoded_blocks(path: Path) -> Iterator[np.ndarray]:
    try:
        with OnwardSoundFile(os.fsencode(path)) as file:
            # Floats, because libsndfile turns the samples of a float file into int16 without scaling them.
            while len(block := file.read(_BLOCK, dtype="float32")):
                yield as_int16(path, block)
    except soundfile.SoundFileError as error:
        raise AudioError(f"{path}: cannot be decoded ({error}): copy or download it again") from error


def _plain_blocks(path: Path, offset: int, samples: int) -> Iterator[np.ndarray]:
    tape = Tape([Recording(path.name, path, offset, samples, "")])
    for start in range(0, samples, _BLOCK):
        yield tape.read(start, min(_BLOCK, samples - start))


def _is_current(note: _Note | None, name: str, path: Path, folder: Path, sample_rate: int) -> bool:
    if note is None or note.sample_rate != sample_rate or not _is_as_noted(path, note.size, note.changed):
        return False
    return not note.copied or _is_as_noted(_copy(folder, name), note.copy_size, note.copy_changed)


def _is_as_noted(path: Path, size: int, changed: int) -> bool:
    try:
        state = path.stat()
    except OSError:
        return False
    return (state.st_size, state.st_mtime_ns) == (size, changed)


def _recording(name: str, path: Path, note: _Note, folder: Path) -> Recording:
    readable = _copy(folder, name) if note.copied else path
    return Recording(name, readable, note.offset, note.samples, note.sha256)


def _copy(folder: Path, name: str) -> Path:
    return folder / f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:24]}.wav"


def _read_notes(path: Path) -> dict[str, _Note]:
    """The notes, or none where there are none that can be read: then all is read again."""
    try:
        content = json.loads(path.read_text())
        if content["form"] != _FORM:
            return {}
        return {name: _Note(**note) for name, note in content["recordings"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _write_notes(folder: Path, notes: dict[str, _Note]) -> None:
    content = {"form": _FORM, "recordings": {name: vars(note) for name, note in sorted(notes.items())}}
    with replacing(folder / "recordings.json") as unfinished:
        unfinished.write_text(json.dumps(content))


def _raise_first(problems: list[AudioError], count: int) -> None:
    if problems:
        more = f" ({len(problems)} of {count} recordings cannot be used, this is the first)"
        raise AudioError(str(problems[0]) + (more if len(problems) > 1 else "")) from problems[0]
