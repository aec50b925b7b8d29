"""Files made to do harm, and what this library says to each: the table of ``docs/hostile_input.md``.

To add a case, append a ``Case`` to ``CASES``: a name, a function that makes it in an empty folder and returns the path
to read, who reads it (a key of ``READERS``), and what the error says, or with ``harmless=True`` what happens instead.
``python -m tests.data.test_hostile`` then writes the table again.
"""

import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from pyro_stcn import checkpoint
from pyro_stcn.checkpoint import load_model, save_model, save_tensors
from pyro_stcn.comparison import Score
from pyro_stcn.data import load_arrays, load_deepwriting, load_iamondb, load_strokes, load_timit, read_audio
from pyro_stcn.data.audio import write_sphere, write_wav
from pyro_stcn.models import Evidence
from pyro_stcn.states import fingerprint, load_continuation

from ..small import small_stcn
from .ink import arrays as ink_arrays
from .test_iamondb import GOOD, document, points, put, stroke

CANARY = "canary"  # beside the folder of a case: it is there if something was run
SAMPLES = (1000 * np.sin(np.arange(4000) / 7)).astype(np.int16)

READERS: dict[str, Callable[[Path], object]] = {
    "load_arrays": load_arrays,
    "load_strokes": load_strokes,
    "load_deepwriting": lambda path: load_deepwriting(path, path),
    "load_iamondb": load_iamondb,
    "load_timit": load_timit,
    "read_audio": read_audio,
    "load_model": load_model,
    "load_continuation": lambda path: load_continuation(path, small_stcn()),
    "Score.load": Score.load,
}
NOT_DATA = ("load_model", "load_continuation", "Score.load")  # what `pyro-stcn data check` has no business with


@dataclass(frozen=True)
class Case:
    """A file or folder made to do harm.

    :param what: the case in words.
    :param reader: a key of ``READERS``.
    :param make: makes it in an empty folder and returns the path to give to the reader.
    :param outcome: a part of the error's message; with ``harmless``, what happens.
    :param harmless: whether it is read, as nothing in it does harm.
    """

    what: str
    reader: str
    make: Callable[[Path], Path]
    outcome: str
    harmless: bool = False


def written(name: str, content: bytes | str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def cut(make: Callable[[Path], Path], keep: float = 0.5) -> Callable[[Path], Path]:
    """The same, truncated."""

    def make_cut(folder: Path) -> Path:
        path = make(folder)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])
        return path

    return make_cut


def edited(make: Callable[[Path], Path], edit: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    """The same with other bytes."""

    def make_edited(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(edit(path.read_bytes()))
        return path

    return make_edited


# ---------------------------------------- npz and npy


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch '{self.canary}'",)


def evil(folder: Path, count: int = 4) -> np.ndarray:
    array = np.empty(count, dtype=object)
    array[:] = [Payload(folder.parent / CANARY)] * count
    return array


def npz(**arrays) -> Callable[[Path], Path]:
    """An .npz; an array that is None is a pickled payload."""

    def make(folder: Path) -> Path:
        path = folder / "a.npz"
        np.savez_compressed(path, **{n: evil(folder) if a is None else a for n, a in arrays.items()})
        return path

    return make


def ink(**changes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        return npz(**ink_arrays() | changes)(folder)

    return make


def pickled_npy(folder: Path) -> Path:
    path = folder / "a.npy"
    np.save(path, evil(folder))
    return path


def deep_pickle(folder: Path) -> Path:
    """An array that asks for more of itself than a machine has: lists of lists, each ten times the one before."""
    value: object = [0.0] * 10
    for _ in range(12):
        value = [value] * 10
    array = np.empty(1, dtype=object)
    array[0] = value
    return npz(samples=array)(folder)


def npy_bytes(header: str, data: bytes = b"", length: int | None = None) -> bytes:
    text = header.encode("latin1") + b"\n"
    if length is not None:
        return b"\x93NUMPY\x02\x00" + struct.pack("<I", length) + text + data
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def shaped(shape: str, dtype: str = "'<f8'") -> str:
    return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}"


def archive(*members: tuple[str, bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "a.npz"
        with zipfile.ZipFile(path, "w") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a name is there twice
            for name, content in members:
                file.writestr(zipfile.ZipInfo(name), content)
        return path

    return make


NUMBERS = npy_bytes(shaped("(8, 1)"), np.arange(8.0).tobytes())


def directory(at: int, field: bytes) -> Callable[[bytes], bytes]:
    """Overwrite a field of the last entry of a zip's directory."""

    def edit(content: bytes) -> bytes:
        place = content.rindex(b"PK\1\2") + at
        return content[:place] + field + content[place + len(field) :]

    return edit


def overlapping(folder: Path) -> Path:
    """Two thousand entries of one and the same megabyte."""
    path = folder / "a.npz"
    zeros = npy_bytes(shaped(f"({2**17},)"), bytes(2**20))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("0000.npy", zeros)
        one = file.infolist()[0]
        for i in range(1, 2000):
            info = zipfile.ZipInfo(f"{i:04d}.npy")
            names = ("compress_type", "CRC", "compress_size", "file_size", "header_offset", "external_attr")
            for name in names:
                setattr(info, name, getattr(one, name))
            file.filelist.append(info)
    return path


def bomb(folder: Path) -> Path:
    """An entry that promises a thousand bytes and unpacks to 256 million."""
    path = folder / "a.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("zeros.npy", "w", force_zip64=False) as member,
    ):
        for _ in range(256):
            member.write(bytes(10**6))
    return edited(lambda _: path, directory(24, struct.pack("<I", 1000)))(folder)


def endless_directory(folder: Path) -> Path:
    path = folder / "a.npz"
    with zipfile.ZipFile(path, "w") as file:
        for i in range(200):
            file.writestr(f"{i:03d}" * 15_000 + ".npy", b"")
    return path


def lzma(folder: Path) -> Path:
    path = folder / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("a.npy", NUMBERS)
    return path


ARRAYS = [
    Case(
        "`os.system` in a pickled array",
        "load_arrays",
        npz(a=None),
        "is an array of objects. Such an array is a pickle",
    ),
    Case("the same in an `.npy`", "load_arrays", pickled_npy, "is an array of objects. Such an array is a pickle"),
    Case("the same in place of the points", "load_strokes", ink(train_points=None), "is an array of objects"),
    Case(
        "the same in the layout of sketch-rnn", "load_strokes", npz(train=None, valid=None, test=None), "Convert a file"
    ),
    Case("the same among the samples", "load_deepwriting", npz(samples=None), "is a pickle that asks for posix.system"),
    Case("the same in an array nobody reads", "load_strokes", ink(unused=None), "left alone", harmless=True),
    Case("lists of lists, 10^13 numbers in all", "load_deepwriting", deep_pickle, "holds a list as an element"),
    Case("a bare pickle named `.npz`", "load_arrays", written("a.npz", pickle.dumps([1])), "is no .npz file"),
    Case("0 bytes", "load_arrays", written("a.npz", b""), "is empty (0 bytes)"),
    Case("0 bytes", "load_strokes", written("a.npz", b""), "is not an .npz file"),
    Case("0 bytes", "load_deepwriting", written("a.npz", b""), "is no .npz file"),
    Case("0 bytes, `.npy`", "load_arrays", written("a.npy", b""), "is empty (0 bytes)"),
    Case("truncated", "load_arrays", cut(npz(a=np.arange(99.0))), "is truncated or damaged"),
    Case("truncated", "load_strokes", cut(ink()), "is truncated or damaged"),
    Case("truncated", "load_deepwriting", cut(npz(samples=np.ones((3, 4, 3)))), "is truncated or damaged"),
    Case("truncated, `.npy`", "load_arrays", cut(written("a.npy", NUMBERS), 0.9), "the file is damaged"),
    Case(
        "a directory that promises 2 GiB",
        "load_arrays",
        edited(npz(a=np.arange(99.0)), directory(24, struct.pack("<I", 2**31))),
        "unpacks to 2147483648 bytes, and max_bytes is 1073741824",
    ),
    Case("a directory that promises 1000 bytes of 256 million", "load_arrays", bomb, "cannot be read (Bad CRC-32"),
    Case("2000 entries that overlap", "load_arrays", overlapping, "bytes, and max_bytes is 1073741824"),
    Case(
        "two arrays of one name",
        "load_arrays",
        archive(("a.npy", NUMBERS), ("a.npy", NUMBERS)),
        "holds two arrays named",
    ),
    Case(
        "a member named `../../canary`", "load_arrays", archive(("../../canary", NUMBERS)), "leads out of the archive"
    ),
    Case(
        "a member named `/tmp/canary.npy`",
        "load_arrays",
        archive(("/tmp/canary.npy", NUMBERS)),
        "leads out of the archive",
    ),
    Case(
        "a directory of 9 MB", "load_arrays", endless_directory, "its directory or a value has more than 1048576 bytes"
    ),
    Case("packed with LZMA", "load_arrays", lzma, "packed as numpy never does"),
    Case(
        "a header with a call in it",
        "load_arrays",
        written("a.npy", npy_bytes("{'descr': __import__('os').system('touch ../canary'), 'shape': ()}")),
        "is not a readable array",
    ),
    Case("a header of 900 brackets", "load_arrays", written("a.npy", npy_bytes("(" * 900)), "is not a readable array"),
    Case(
        "a header of 4 GiB",
        "load_arrays",
        written("a.npy", npy_bytes("{}", length=2**32 - 1)),
        "is not a readable array",
    ),
    Case("shape `(2**60,)`", "load_arrays", written("a.npy", npy_bytes(shaped(f"({2**60},)"))), "the file is damaged"),
    Case("shape `(-1, 8)`", "load_arrays", written("a.npy", npy_bytes(shaped("(-1, 8)"), bytes(64))), "is damaged"),
    Case("shape `(-8, -1)`", "load_arrays", written("a.npy", npy_bytes(shaped("(-8, -1)"), bytes(64))), "is damaged"),
    Case(
        "shape `(True,)`",
        "load_arrays",
        written("a.npy", npy_bytes(shaped("(True,)"), bytes(8))),
        "the file is damaged",
    ),
    Case(
        "text of no width", "load_arrays", written("a.npy", npy_bytes(shaped(f"({2**40},)", "'<U0'"))), "has dtype <U0"
    ),
    Case(
        "shape `(2**60,)`",
        "load_strokes",
        archive(
            *(
                (f"{n}.npy", npy_bytes(shaped(f"({2**60}, 3)")) if n == "train_points" else NUMBERS)
                for n in ink_arrays()
            )
        ),
        "the file is damaged",
    ),
]

# ---------------------------------------- csv

TABLES = [
    Case("0 bytes", "load_arrays", written("a.csv", b""), "is empty (0 bytes)"),
    Case(
        "a cell of 2 MB",
        "load_arrays",
        written("a.csv", '1,2\n3,"' + "9" * 2_000_000 + '"\n'),
        "is not CSV (field larger",
    ),
    Case("a quote that is never closed", "load_arrays", written("a.csv", '1,"2\n' + "3,4\n" * 200_000), "is not CSV"),
    Case("one line of 20 MB", "load_arrays", written("a.csv", "1," * 10_000_000), "has a line of more than"),
    Case(
        "NUL bytes",
        "load_arrays",
        written("a.csv", b"1,2\n3,\x004\n"),
        "line 2, column 1 is '\\x004', which is no number",
    ),
    Case("1e400", "load_arrays", written("a.csv", "1,2\n3,1e400\n5,6\n"), "is not finite: inf at step 1, channel 1"),
    Case(
        "a number of 5000 digits", "load_arrays", written("a.csv", "1,2\n3," + "9" * 5000 + "\n"), "is not finite: inf"
    ),
    Case(
        "a call",
        "load_arrays",
        written("a.csv", "1,2\n3,__import__('os')\n"),
        "is \"__import__('os')\", which is no number",
    ),
    Case("no UTF-8", "load_arrays", written("a.csv", b"1,2\n\xff\xfe,3\n"), "cannot be read as text in UTF-8"),
    Case("UTF-16", "load_arrays", written("a.csv", "1,2\n3,4\n".encode("utf-16")), "cannot be read as text in UTF-8"),
    Case("escape sequences", "load_arrays", written("a.csv", "1,2\n3,\x1b[2J\x1b[31m\n"), "is '\\x1b[2J\\x1b[31m'"),
    Case("rows of other widths", "load_arrays", written("a.csv", "1,2\n3\n"), "line 2 has 1 cells and line 1 has 2"),
]

# ---------------------------------------- audio


def wav(folder: Path) -> Path:
    write_wav(folder / "a.wav", SAMPLES, 16000)
    return folder / "a.wav"


def sphere(folder: Path) -> Path:
    write_sphere(folder / "a.wav", SAMPLES, 16000)
    return folder / "a.wav"


def flac(folder: Path) -> Path:
    soundfile.write(folder / "a.flac", SAMPLES, 16000)
    return folder / "a.flac"


CONTAINERS = ("AIFF", "AU", "W64", "RF64", "VOC")


def recorded(container: str) -> Callable[[Path], Path]:
    """A recording in another container."""

    def make(folder: Path) -> Path:
        path = folder / f"a.{container.lower()}"
        soundfile.write(path, SAMPLES, 16000, format=container, subtype="PCM_16")
        return path

    return make


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new, 1)

    return edit


def sphere_with(old: bytes, new: bytes) -> Callable[[Path], Path]:
    """A SPHERE file with another header, of equal length."""
    return edited(sphere, lambda c: replaced(old, new)(c[:1024])[:1024].ljust(1024) + c[1024:])


def at(place: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:place] + new + content[place + len(new) :]


AUDIO = [
    Case("0 bytes", "read_audio", written("a.wav", b""), "is empty (0 bytes)"),
    Case("truncated RIFF", "read_audio", cut(wav), "header declares 4000 samples and 1989 are there"),
    Case("truncated RIFF header", "read_audio", cut(wav, 0.003), "it ends before its samples begin"),
    Case("truncated SPHERE", "read_audio", cut(sphere), "header declares 4000 samples and 1744 are there"),
    Case("truncated SPHERE header", "read_audio", cut(sphere, 0.05), "header is damaged"),
    *(Case(f"truncated {kind}", "load_arrays", cut(recorded(kind)), "is truncated: its header") for kind in CONTAINERS),
    Case("truncated FLAC", "load_arrays", cut(flac), "cannot be decoded"),
    Case("RIFF: 2 GiB of samples", "read_audio", edited(wav, at(40, struct.pack("<I", 2**31))), "4000 are there"),
    Case("RIFF: a rate of 0", "read_audio", edited(wav, at(24, bytes(4))), "a rate of 0 Hz"),
    Case("RIFF: 65535 channels", "read_audio", edited(wav, at(22, b"\xff\xff")), "has 65535 channels, expected 1"),
    Case("RIFF: 0 channels", "read_audio", edited(wav, at(22, bytes(2))), "has 0 channels, expected 1"),
    Case(
        "RIFF: 10 MB of empty chunks",
        "read_audio",
        written("a.wav", b"RIFF\0\0\0\0WAVE" + bytes(10**7)),
        "more than 1000 chunks",
    ),
    Case(
        "SPHERE: 10^9 samples",
        "read_audio",
        sphere_with(b"-i 4000\n", b"-i 1000000000\n"),
        "declares 1000000000 samples",
    ),
    Case(
        "SPHERE: fewer samples than there are",
        "read_audio",
        sphere_with(b"-i 4000", b"-i 3000"),
        "3000 samples and 4000 were read",
    ),
    Case("SPHERE: -4000 samples", "read_audio", sphere_with(b"-i 4000\n", b"-i -4000\n"), "header is damaged"),
    Case(
        "SPHERE: 10^18 samples",
        "read_audio",
        sphere_with(b"-i 4000\n", b"-i 1" + b"0" * 18 + b"\n"),
        "header is damaged",
    ),
    Case("SPHERE: a header of 10^9 bytes", "read_audio", edited(sphere, at(8, b"9999999")), "it declares a header of"),
    Case("SPHERE: a header of -1 bytes", "read_audio", edited(sphere, at(8, b"     -1")), "it declares a header of -1"),
    Case(
        "FLAC: 2^36 samples declared", "load_arrays", edited(flac, at(21, b"\xff" * 5)), "declares 68719476735 samples"
    ),
    Case("noise named `.mp3`", "load_arrays", written("a.mp3", bytes(range(1, 200)) * 99), "unknown content"),
    Case("a web page named `.wav`", "load_arrays", written("a.wav", "<!DOCTYPE html>"), "a web page or XML"),
]

# ---------------------------------------- xml

HEAD = '<?xml version="1.0" encoding="ISO-8859-1"?>\n'
LINES = ("a01-000u-01", "a01-020-01", "b02-111z-01", "c03-007w-01")


def laughs() -> str:
    entities = ['<!ENTITY a0 "ha">', *(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))]
    return document("<Text>&a11;</Text>", f"{HEAD}<!DOCTYPE lolz [{''.join(entities)}]>\n")


def line(content: str | bytes) -> Callable[[Path], Path]:
    """A small IAM-OnDB, one line of which is this."""

    def make(folder: Path) -> Path:
        for name in LINES:
            put(folder, name)
        (folder / "train.txt").write_text("a01-000u\na01-020\nb02-111z\n")
        (folder / "valid.txt").write_text("c03-007w\n")
        put(folder, LINES[1], content)
        return folder

    return make


def line_that_is(special: Callable[[Path], None]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        line(GOOD)(folder)
        path = folder / "lineStrokes/a01/a01-020/a01-020-01.xml"
        path.unlink()
        special(path)
        return folder

    return make


def with_list(content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        line(GOOD)(folder)
        (folder / "train.txt").write_bytes(content)
        return folder

    return make


def endless_list(folder: Path) -> Path:
    line(GOOD)(folder)
    (folder / "train.txt").unlink()
    (folder / "train.txt").symlink_to("/dev/zero")
    return folder


EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n'
XML = [
    Case("a billion laughs", "load_iamondb", line(laughs()), "declares a document type or an entity"),
    Case(
        "an entity that is another file",
        "load_iamondb",
        line(document("<Text>&x;</Text>", HEAD + EXTERNAL)),
        "declares a document type",
    ),
    Case(
        "a document type elsewhere",
        "load_iamondb",
        line(document("", HEAD + '<!DOCTYPE a SYSTEM "http://localhost/a.dtd">\n')),
        "declares a document type",
    ),
    Case(
        "a billion laughs in UTF-16",
        "load_iamondb",
        line(laughs().replace("ISO-8859-1", "UTF-16").encode("utf-16")),
        "holds zero bytes",
    ),
    Case(
        "an encoding there is not",
        "load_iamondb",
        line(GOOD.replace("ISO-8859-1", "rot13")),
        "truncated or damaged, or not XML",
    ),
    Case("100 000 elements in each other", "load_iamondb", line(document("<a>" * 100_000)), "is in 16 elements"),
    Case("0 bytes", "load_iamondb", line(""), "is empty"),
    Case("truncated", "load_iamondb", line(GOOD[: len(GOOD) // 2]), "truncated or damaged, or not XML"),
    Case("a file of 5 MB", "load_iamondb", line(document(" " * 5_000_000)), "has more than 4194304 bytes"),
    Case(
        "a coordinate of 1e400",
        "load_iamondb",
        line(document(stroke(points((1, 2), ("1e400", 3))))),
        "has x '1e400', not a number",
    ),
    Case("a pipe in place of a line", "load_iamondb", line_that_is(os.mkfifo), "is not a regular file"),
    Case("a list that is `/dev/zero`", "load_iamondb", endless_list, "is not a file"),
    Case("a list with a path in it", "load_iamondb", with_list(b"../../etc/passwd\n"), "not a form's id"),
    Case("a list of noise", "load_iamondb", with_list(bytes(range(256)) * 9), "not a form's id"),
]

# ---------------------------------------- folders and names


def folder_of(*makes: Callable[[Path], object]) -> Callable[[Path], Path]:
    """Three good recordings, and what ``makes`` add."""

    def make(folder: Path) -> Path:
        for name in ("x", "y", "z"):
            write_wav(folder / f"{name}.wav", SAMPLES + ord(name), 16000)
        for one in makes:
            one(folder)
        return folder

    return make


def timit_with(special: Callable[[Path], object]) -> Callable[[Path], Path]:
    """A small TIMIT with something beside: ``special`` gets a path where a recording is expected."""

    def make(folder: Path) -> Path:
        for speaker in ("fabc0", "mabc0", "fxyz0"):
            (folder / f"dr1-{speaker}").mkdir()
            write_wav(folder / f"dr1-{speaker}" / "sa1.wav", np.tile(SAMPLES, 5), 16000)
        special(folder / "dr1-fabc0" / "sa2.wav")
        return folder

    return make


NASTY = "a\n\x1b[31mERROR\x1b[0m.wav"
NOT_UTF8 = b"caf\xe9.wav"
SPECIAL = [
    Case(
        "a pipe named `.wav` in a folder",
        "load_arrays",
        folder_of(lambda f: os.mkfifo(f / "pipe.wav")),
        "passed over",
        harmless=True,
    ),
    Case(
        "a pipe named `.wav` in a folder",
        "load_timit",
        timit_with(os.mkfifo),
        "is not a regular file but a pipe or a device",
    ),
    Case("a pipe", "read_audio", lambda f: os.mkfifo(f / "a.wav") or f / "a.wav", "is not a regular file but a pipe"),
    Case("a pipe", "load_arrays", lambda f: os.mkfifo(f / "a.csv") or f / "a.csv", "is neither a file nor a folder"),
    Case(
        "a link to `/dev/zero`",
        "load_timit",
        timit_with(lambda p: p.symlink_to("/dev/zero")),
        "is not a regular file but a pipe or a device",
    ),
    Case(
        "a link to `/dev/zero`",
        "load_arrays",
        lambda f: (f / "a.npy").symlink_to("/dev/zero") or f / "a.npy",
        "is neither a file nor a folder",
    ),
    Case(
        "a link to itself",
        "read_audio",
        lambda f: (f / "a.wav").symlink_to(f / "a.wav") or f / "a.wav",
        "cannot be read",
    ),
    Case(
        "a folder in itself",
        "load_arrays",
        folder_of(lambda f: (f / "again").symlink_to(f)),
        "read once",
        harmless=True,
    ),
    Case(
        "a folder in itself",
        "load_timit",
        timit_with(lambda p: (p.parent / "again").symlink_to(p.parent.parent)),
        "read once",
        harmless=True,
    ),
    Case("line breaks and colours in a name", "read_audio", written(NASTY, b""), "is empty (0 bytes)"),
    Case(
        "line breaks and colours in a name",
        "load_arrays",
        lambda f: folder_of(written(NASTY, b""))(f),
        "is empty (0 bytes)",
    ),
    Case("a name that is no UTF-8", "read_audio", written(os.fsdecode(NOT_UTF8), b""), "is empty (0 bytes)"),
    Case(
        "a good recording of such a name",
        "load_arrays",
        folder_of(lambda f: write_wav(f / "b.wav", SAMPLES, 16000) or (f / "b.wav").rename(f / os.fsdecode(NOT_UTF8))),
        "read, the name as `caf\\udce9`",
        harmless=True,
    ),
]

# ---------------------------------------- checkpoints, states, runs


def model(folder: Path) -> Path:
    save_model(folder / "m.safetensors", small_stcn())
    return folder / "m.safetensors"


def saved(meta: object, **tensors: torch.Tensor) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        save_tensors(folder / "m.safetensors", tensors or {"a": torch.zeros(1)}, meta)
        return folder / "m.safetensors"

    return make


def model_with(**changes: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        net = small_stcn()
        config = checkpoint.config_to_dict(net.config) | changes
        save_tensors(folder / "m.safetensors", checkpoint.model_tensors(net), {"model": config})
        return folder / "m.safetensors"

    return make


def state(**changes) -> Callable[[Path], Path]:
    """The continuation of a model, with other tensors or facts."""

    def make(folder: Path) -> Path:
        meta = {"continuation": fingerprint(small_stcn()), "leaves": [], "steps": 3}
        tensors = {"x": torch.zeros(2, 4)}
        for name, value in changes.items():
            (tensors if isinstance(value, torch.Tensor) else meta)[name] = value
        save_tensors(folder / "s.safetensors", tensors, meta)
        return folder / "s.safetensors"

    return make


def pickled_checkpoint(folder: Path) -> Path:
    torch.save({"a": Payload(folder.parent / CANARY)}, folder / "m.safetensors")
    return folder / "m.safetensors"


def header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


WHOLE = "is not a whole safetensors file"
NO_MODEL = "configuration and weights do not make a model"
NO_SCORE = "is not the score of a run"
SCORE = json.dumps({"system": "a", "nats": [1.0], "elbo": [1.0], "evidence": Evidence.EXACT.value})
OTHERS = [
    Case("`os.system` in a file of torch.save", "load_model", pickled_checkpoint, WHOLE),
    Case("0 bytes", "load_model", written("m.safetensors", b""), WHOLE),
    Case("truncated", "load_model", cut(model), WHOLE),
    Case("a changed weight", "load_model", edited(model, lambda c: c[:-3] + b"\0\1\2"), "its digest does not match"),
    Case("a header of 2^60 bytes", "load_model", written("m.safetensors", header(b"{}", 2**60)), WHOLE),
    Case(
        "a tensor of 2^52 bytes",
        "load_model",
        written("m.safetensors", header(b'{"a":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (2**50, 2**52))),
        WHOLE,
    ),
    Case(
        "100 000 brackets in the header",
        "load_model",
        written("m.safetensors", header(b'{"a":' + b"[" * 100_000)),
        WHOLE,
    ),
    Case(
        "a class of another library",
        "load_model",
        saved({"model": {"type": "Popen", "args": "touch ../canary"}}),
        NO_MODEL,
    ),
    Case("a model of 10^9 channels", "load_model", model_with(data_dim=10**9), NO_MODEL),
    Case(
        "10^9 layers",
        "load_model",
        model_with(output={"type": "PointwiseOutputConfig", "layers": 10**9, "width": 8}),
        "asks for 1000000000 layers",
    ),
    Case(
        "10^9 cells",
        "load_model",
        model_with(backbone={"type": "StackedLSTMConfig", "cells": [10**9], "width": 8}),
        "asks for 1000000000 layers",
    ),
    Case(
        "a pipe",
        "load_model",
        lambda f: os.mkfifo(f / "m.safetensors") or f / "m.safetensors",
        "is not a regular file but a pipe",
    ),
    Case("0 bytes", "load_continuation", written("s.safetensors", b""), WHOLE),
    Case("truncated", "load_continuation", cut(state()), WHOLE),
    Case("facts that are a list", "load_continuation", saved([1]), "holds no continuation"),
    Case("of another model", "load_continuation", state(continuation="0" * 64), "belongs to another model"),
    Case(
        "2^40 sequences of no channels", "load_continuation", state(x=torch.zeros(2**40, 0)), "does not hold the state"
    ),
    Case("no state", "load_continuation", state(), "does not hold the state"),
    Case("leaves that are a number", "load_continuation", state(leaves=3), "does not hold the state"),
    Case("0 bytes", "Score.load", written("score.json", b""), NO_SCORE),
    Case("truncated", "Score.load", cut(written("score.json", SCORE)), NO_SCORE),
    Case("no UTF-8", "Score.load", written("score.json", b'{"system": "\xff"}'), NO_SCORE),
    Case("100 000 brackets", "Score.load", written("score.json", "[" * 100_000), NO_SCORE),
    Case("a list", "Score.load", written("score.json", "[1, 2]"), NO_SCORE),
    Case("a field missing", "Score.load", written("score.json", SCORE), NO_SCORE),
    Case(
        "a field too many",
        "Score.load",
        written("score.json", SCORE[:-1] + ', "__class__": 1}'),
        NO_SCORE,
    ),
    Case("a pipe", "Score.load", lambda f: os.mkfifo(f / "score.json") or f / "score.json", "is not a file"),
]

#: heading of the document -> cases
CASES: dict[str, list[Case]] = {
    "`.npz` and `.npy`": ARRAYS,
    "`.csv`": TABLES,
    "Recordings": AUDIO,
    "XML and lists of IAM-OnDB": XML,
    "Pipes, devices, links and names": SPECIAL,
    "Checkpoints, states and scores": OTHERS,
}
