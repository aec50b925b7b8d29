"""Finding and reading the lines of IAM-OnDB: lists of forms, and one small XML file per line, as the owner offers them.

A line lies at ``lineStrokes/a01/a01-000/a01-000u-01.xml``. Its form is a01-000u: the text a01-000 as one person wrote
it. The letter tells apart who else wrote that text, and many forms have none, so a01-020, a01-020x and a01-020z are
three forms in one folder.

An XML document can name other files, and can grow to any size by entities that stand for entities. All of that has to
be declared in a document type, which no file of IAM-OnDB has: a file with one is refused before it is parsed.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

import numpy as np

from .checks import DataError

LAYOUT = "lineStrokes/a01/a01-000/a01-000u-01.xml"
Forms = str | os.PathLike[str] | Sequence[str]

_TEXT, _FORM = 7, re.compile(r"[a-z]\d\d-\d{3}[a-z]?", re.ASCII)  # a form's id, and how much of it is the text's
_LINE = re.compile(r"(?P<form>[a-z]\d\d-\d{3}[a-z]?)-(?P<number>\d{2,3})\.xml", re.ASCII)
_LIST_BYTES = 2**20  # the published lists have 2 and 15 kB
_CHUNK = 2**18  # bytes parsed at once: the parser goes on to the end of these when a file is refused
_LARGEST = 2.0**24  # a coordinate; beyond it float32 does not hold every whole number
_DEEPEST = 16  # nested elements; a line has 4
_SHOWN = 40  # characters of what a file says that go into a message
_AGAIN = "copy it again, or unpack it again from the owner's archive"


@dataclass(frozen=True)
class Form:
    """A form and where its lines are.

    :param name: as its files have it, "a01-000u".
    :param lines: the files, in the order of their numbers.
    """

    name: str
    lines: tuple[Path, ...]

    @property
    def text(self) -> str:
        """What was to be written: "a01-000"."""
        return self.name[:_TEXT]


@dataclass(frozen=True)
class FormList:
    """The forms of a list, each once, in its order.

    :param source: what the list is called in messages: its path, or "the list given as train".
    :param name: what it is called in the description of a corpus: the same without folders.
    :param forms: at least one.
    :param remarks: sentences for the description of the corpus.
    """

    source: str
    name: str
    forms: tuple[Form, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Line:
    """What a file holds.

    :param name: the file's without ".xml".
    :param steps: float32 of shape ``(N - 1, 3)`` for N >= 2 points: the offset from the point before, x to the right
        and y upwards in the units of the whiteboard, and 1 where the point is the last of its stroke, else 0.
    :param empty: strokes without a point.
    :param origin: who made the data, if the file says so; ours does for synthetic ones.
    """

    name: str
    steps: np.ndarray
    empty: int
    origin: str | None


def find_strokes(root: str | os.PathLike[str]) -> Path:
    """The folder lineStrokes: ``root`` itself or in it.

    :raises DataError: if there is none.
    """
    root = Path(root)
    folder = root if root.name == "lineStrokes" else root / "lineStrokes"
    if not folder.is_dir():
        what = "there is no folder lineStrokes in it" if root.is_dir() else "is not a folder"
        raise DataError(f"{root}: {what}: give the folder that holds {LAYOUT}")
    return folder


def read_forms(given: Forms, part: str, strokes: Path) -> FormList:
    """Read a list and find its forms.

    An id stands for the form of exactly that name. One without a letter for which there is no such form stands for the
    one form of its text, if that is one.

    :param given: ids, or the path of a text file with one on each line; spaces around them and empty lines do not
        matter.
    :param part: what the list is for, "train".
    :param strokes: the folder lineStrokes.
    :raises DataError: if the list is missing, empty or too large, an entry is not an id, or there are no files for it.
    """
    if isinstance(given, str | os.PathLike):
        source, label, entries = str(given), Path(given).name, _read_list(Path(given))
    else:
        source = label = f"the list given as {part}"
        entries = [(f"entry {i}", entry) for i, entry in enumerate(given)]
    if not entries:
        raise DataError(f"{source}: holds no form: give one id such as a01-000u on each line")
    forms: dict[str, Form] = {}
    repeated, instead, problems = 0, [], []
    for where, entry in entries:
        if not isinstance(entry, str) or not _FORM.fullmatch(entry):
            raise DataError(
                f"{source}: {where} is {str(entry)[:_SHOWN]!r}, not a form's id: expected one such as a01-000u or "
                "a01-020, without the number of a line"
            )
        in_folder = _in_folder(strokes, entry)
        others = sorted(in_folder)
        name = entry
        if entry not in in_folder and entry == entry[:_TEXT] and len(others) == 1:
            name = others[0]
            instead.append(f"{entry} ({name})")
        if name not in in_folder:
            there = f"there are {', '.join(others)}" if others else "nothing is"
            problems.append(f"{where}, {entry!r}: {there} in {strokes / entry[:3] / entry[:_TEXT]}")
        elif name in forms:
            repeated += 1
        else:
            forms[name] = in_folder[name]
    if problems:
        more = f" (the first of {len(problems)} such forms out of {len(entries)})" if len(problems) > 1 else ""
        raise DataError(
            f"{source}: no lines of {problems[0]}{more}: complete the folder lineStrokes, or correct the list, where "
            "a letter belongs to the id"
        )
    remarks = []
    if repeated:
        remarks.append(f"{repeated} forms are in {label} more than once and are used once.")
    if instead:
        remarks.append(
            f"{len(instead)} ids without a letter in {label} stand for the only form of their text, as {instead[0]}."
        )
    return FormList(source, label, tuple(forms.values()), tuple(remarks))


def all_forms(strokes: Path) -> dict[str, Form]:
    """Every form that has lines, by name, whatever a list says.

    :param strokes: the folder lineStrokes.
    """
    folders = (folder for folder in sorted(strokes.glob("*/*")) if _FORM.fullmatch(folder.name))
    return {name: form for folder in folders for name, form in sorted(_in_folder(strokes, folder.name).items())}


def read_line(path: Path, max_bytes: int) -> Line:
    """Read and check one file.

    :param max_bytes: refuse a larger one; those of the database have some ten kB.
    :raises DataError: naming the file, and stroke and point (counted from 0) and line (from 1) where it can: missing,
        too large, empty, truncated, not XML, with a document type, of another kind, fewer than 2 points, or a point
        without coordinates or with ones no pen had.
    """
    if not path.is_file():  # a pipe or a device might never end
        raise DataError(f"{path}: is not a regular file: {_AGAIN}")
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}): {_AGAIN}") from error
    if len(data) > max_bytes:
        raise DataError(f"{path}: has more than {max_bytes} bytes: raise max_bytes if this is one line of handwriting")
    if not data.strip():
        raise DataError(f"{path}: is empty: {_AGAIN}")
    # Every encoding the parser takes has the bytes of ASCII, but UTF-16, which has zeros between them.
    if b"\0" in data:
        raise DataError(f"{path}: holds zero bytes, which no text in ISO-8859-1 or UTF-8 does: {_AGAIN}")
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        _refuse_declaration(path)
    reader = _Reader(path)
    try:
        for begin in range(0, len(data), _CHUNK):
            reader.parser.Parse(data[begin : begin + _CHUNK], False)
        reader.parser.Parse(b"", True)
    except DataError:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:  # the latter two from encodings there are not
        raise DataError(f"{path}: is truncated or damaged, or not XML ({str(error)[:200]}): {_AGAIN}") from error
    return reader.line()


class _Reader:
    """Collects the points of a file as the parser comes upon them."""

    def __init__(self, path: Path):
        self.path = path
        self.origin: str | None = None
        self.strokes: list[list[tuple[float, float]]] = []
        self.inside: list[str] = []  # the elements around the place where the parser is
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        # A second guard: what declares one is refused before.
        self.parser.StartDoctypeDeclHandler = lambda *_: _refuse_declaration(path)
        self.parser.EntityDeclHandler = lambda *_: _refuse_declaration(path)
        self.parser.ExternalEntityRefHandler = lambda *_: _refuse_declaration(path)

    def line(self) -> Line:
        """Return the line, once everything is read."""
        lengths = np.array([len(stroke) for stroke in self.strokes], dtype=np.int64)
        if lengths.sum() < 2:
            raise DataError(
                f"{self.path}: holds {len(lengths)} strokes with {lengths.sum()} points, and an offset needs two: "
                f"{_AGAIN}, or leave it out by moving it to another folder"
            )
        points = np.array([point for stroke in self.strokes for point in stroke])
        last = np.zeros(len(points))
        last[np.cumsum(lengths[lengths > 0]) - 1] = 1
        offsets = np.diff(points * (1.0, -1.0), axis=0)  # y grows downwards on the whiteboard
        steps = np.column_stack([offsets, last[1:]]).astype(np.float32)
        return Line(self.path.stem, steps, int((lengths == 0).sum()), self.origin)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        around = self.inside[-1] if self.inside else None
        if around is None:
            if name != "WhiteboardCaptureSession":
                self._fail(f"<{name[:_SHOWN]}>", "is not a line of IAM-OnDB, which is a <WhiteboardCaptureSession>")
            self.origin = attributes.get("origin")
        elif (name == "Stroke" and around != "StrokeSet") or (name == "Point" and around != "Stroke"):
            self._fail(f"<{name}>", f"is in <{around[:_SHOWN]}>, expected <StrokeSet> <Stroke> <Point>")
        elif len(self.inside) == _DEEPEST:
            self._fail(f"<{name[:_SHOWN]}>", f"is in {_DEEPEST} elements, and a point in 3")
        if name == "Stroke":
            self.strokes.append([])
        elif name == "Point":
            x, y = (self._number(axis, attributes.get(axis)) for axis in ("x", "y"))
            self.strokes[-1].append((x, y))
        self.inside.append(name)

    def _end(self, name: str) -> None:
        self.inside.pop()

    def _number(self, axis: str, text: str | None) -> float:
        where = f"stroke {len(self.strokes) - 1}, point {len(self.strokes[-1])}"
        if text is None:
            self._fail(where, f"has no {axis}")
        try:
            value = float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            value = math.nan
        if not abs(value) <= _LARGEST:
            self._fail(where, f"has {axis} {text[:_SHOWN]!r}, not a number between -2^24 and 2^24")
        return value

    def _fail(self, where: str, what: str) -> NoReturn:
        raise DataError(f"{self.path}: line {self.parser.CurrentLineNumber}: {where} {what}: {_AGAIN}")


def _refuse_declaration(path: Path) -> NoReturn:
    raise DataError(
        f"{path}: declares a document type or an entity, which can name other files or grow to any size. No file of "
        "IAM-OnDB has one: do not use this file, unpack it again from the owner's archive"
    )


def _read_list(path: Path) -> list[tuple[str, str]]:
    """What is on each line that is not empty, and where."""
    if not path.is_file():
        raise DataError(f"{path}: is not a file: give a list of forms, a text file with one id such as a01-000u a line")
    with path.open("rb") as file:
        data = file.read(_LIST_BYTES + 1)
    if len(data) > _LIST_BYTES:
        raise DataError(f"{path}: has more than {_LIST_BYTES} bytes, too many for a list of forms: give that instead")
    lines = data.decode("utf-8-sig", errors="replace").splitlines()
    return [(f"line {i}", line.strip()) for i, line in enumerate(lines, 1) if line.strip()]


def _in_folder(strokes: Path, form: str) -> dict[str, Form]:
    """All forms of a form's text, by name."""
    folder = strokes / form[:3] / form[:_TEXT]
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _LINE.fullmatch(path.name)
        if match is not None:
            found.setdefault(match["form"], []).append((int(match["number"]), path))
    return {name: Form(name, tuple(path for _, path in sorted(lines))) for name, lines in found.items()}
