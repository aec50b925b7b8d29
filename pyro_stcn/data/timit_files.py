"""Finding and reading the recordings of a TIMIT folder, in whichever layout it comes.

Understood, in upper, lower or mixed case and at any depth below the folder given:

* as the LDC distributes it: ``TRAIN/DR1/FVMH0/SA1.WAV``, with TRAIN and TEST;
* as NLTK distributes its sample: ``dr1-fvmh0/sa1.wav``, without that level.

A recording is called "dr1/fvmh0/sa1" in either, and recordings are sorted by that name, so equal recordings give equal
data.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .audio import Audio, AudioError, read_audio
from .checks import DataError

SAMPLE_RATE = 16000
LAYOUTS = "TRAIN/DR1/FVMH0/SA1.WAV (LDC) or dr1-fvmh0/sa1.wav (NLTK), in any case and at any depth"

_DIALECT, _SPEAKER, _SENTENCE = r"dr[1-8]", r"[fm][a-z0-9]{3}[0-9]", r"s[aix][0-9]+"
_LAYOUT = re.compile(
    rf"(?:.*?/)??(?:(?P<part>train|test)/)?(?P<dialect>{_DIALECT})[/-](?P<speaker>{_SPEAKER})"
    rf"/(?P<sentence>{_SENTENCE})(?:\.wav)+"  # some copies hold converted files beside, SA1.WAV.wav
)


@dataclass(frozen=True, eq=False)
class Utterance:
    """One recording.

    :param name: "dialect/speaker/sentence" in lower case.
    :param part: "train" or "test" if a folder of the layout says so, otherwise None.
    :param samples: int16 of shape ``(N,)``, at 16 kHz.
    :param database: what its header says it belongs to, or None.
    """

    name: str
    part: str | None
    samples: np.ndarray
    database: str | None

    @property
    def speaker(self) -> str:
        """The name without the sentence: "dr1/fvmh0"."""
        return self.name.rpartition("/")[0]

    @property
    def sentence(self) -> str:
        """The last part of the name: "sa1"."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, eq=False)
class TimitFiles:
    """All recordings of a folder, one per name, and what had to be decided to get there.

    :param utterances: sorted by name.
    :param remarks: sentences for the description of the corpus: copies and files left aside.
    """

    utterances: tuple[Utterance, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class CopyOfRecording:
    """A file with a recording, of which there may be several.

    :param path: the file.
    :param name: of the recording.
    :param part: "train" or "test" if a folder of the layout says so.
    """

    path: Path
    name: str
    part: str | None


def read_timit_files(root: str | os.PathLike[str]) -> TimitFiles:
    """Find and read all recordings below a folder, with one progress bar on a terminal.

    Where a recording is there more than once, as when converted copies lie beside the originals, the copies must hold
    the same samples, and one is used; copies that cannot be read are left aside if another can.

    :param root: a folder with one of the layouts above, or one that holds such a folder.
    :raises DataError: if the folder is missing or holds no recording, or if copies of one recording differ or lie both
        under TRAIN and under TEST.
    :raises AudioError: the first recording that cannot be read, and how many there are.
    """
    root = Path(root)
    found, others = find_recordings(root)
    utterances, problems, copies = [], [], 0
    for name in tqdm(sorted(found), desc=f"reading {root.name}", unit="file", disable=None):
        try:
            utterances.append(_read_one(found[name]))
        except AudioError as error:
            problems.append(error)
        copies += len(found[name]) - 1
    if problems:
        more = f" ({len(problems)} of {len(found)} recordings cannot be used, this is the first)"
        raise AudioError(str(problems[0]) + (more if len(problems) > 1 else "")) from problems[0]
    remarks = []
    if copies:
        remarks.append(f"{copies} further copies of the recordings were left aside.")
    if others:
        remarks.append(f"{others} other .wav files, in neither layout, were left aside.")
    return TimitFiles(tuple(utterances), tuple(remarks))


def find_recordings(root: Path) -> tuple[dict[str, list[CopyOfRecording]], int]:
    """Files by the name of their recording, and the number of .wav files in neither layout.

    :raises DataError: if the folder is missing or holds no recording.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root}: {what}: give the folder that holds {LAYOUTS}")
    found: dict[str, list[CopyOfRecording]] = defaultdict(list)
    others: list[Path] = []
    for path in walk(root):
        if path.suffix.lower() != ".wav" or path.name.startswith("."):
            continue
        match = _LAYOUT.fullmatch(path.relative_to(root).as_posix().lower())
        if match is None:
            others.append(path)
            continue
        name = "{dialect}/{speaker}/{sentence}".format(**match.groupdict())
        found[name].append(CopyOfRecording(path, name, match["part"]))
    if not found:
        there = f"{len(others)} .wav files, such as {others[0]}" if others else "no .wav file"
        raise DataError(f"{root}: no TIMIT recording below this folder ({there}): expected {LAYOUTS}")
    return found, len(others)


def walk(root: Path) -> Iterator[Path]:
    """All files below ``root``, through links to folders, each folder once."""
    seen = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        true_folder = os.path.realpath(folder)
        if true_folder in seen:
            subfolders.clear()
            continue
        seen.add(true_folder)
        subfolders.sort()
        yield from (Path(folder, file) for file in sorted(files))


def _read_one(files: list[CopyOfRecording]) -> Utterance:
    """Read the recording of which ``files`` are the copies."""
    parts = {file.part for file in files} - {None}
    if len(parts) > 1:
        paths = " and ".join(str(file.path) for file in files)
        raise DataError(f"recording {files[0].name!r} is in TRAIN and in TEST ({paths}): remove it from one")
    first: tuple[CopyOfRecording, Audio] | None = None
    problem: AudioError | None = None
    for file in files:
        try:
            audio = read_audio(file.path, expected_rate=SAMPLE_RATE)
        except AudioError as error:
            problem = problem or error
            continue
        if first is None:
            first = file, audio
        elif not np.array_equal(audio.samples, first[1].samples):
            raise DataError(
                f"recording {file.name!r} is there twice with different samples, in {first[0].path} "
                f"and in {file.path}: keep one of them"
            )
    if first is None:
        assert problem is not None
        raise problem
    file, audio = first
    return Utterance(file.name, next(iter(parts), None), audio.samples, audio.database)
