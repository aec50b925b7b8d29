"""Where a check gets sequences from: every kind of corpus, one sequence at a time, whatever is wrong with the others.

The loaders stop at the first thing that is wrong. Here what cannot be read is a finding among the sequences that can.
"""

from __future__ import annotations

import inspect
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import array_files, blizzard, deepwriting, iamondb_files, recording_files, stroke_files, timit_files
from .array_files import Reading, find_sequences
from .checks import DataError, check_form, printable
from .corpora import CORPORA
from .findings import Finding, Severity, What
from .inspection_pieces import Found, Piece, equal_recordings, error, recording
from .own import holds_symbols

_PARTS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "test": "test"}
_MOST_BYTES = 2**30  # of a file, for kinds whose loaders have no such limit


def most_bytes(kind: str) -> int:
    """The largest file of a kind that its loader accepts unless told otherwise."""
    option = inspect.signature(CORPORA[kind].load).parameters.get("max_bytes")
    return _MOST_BYTES if option is None else option.default


def pieces_of(given: Any, kind: str, how: Reading) -> Found:
    """All sequences, and what cannot be read.

    :param given: a path, or what ``load_arrays`` takes, or such by part ("train", "valid", "test").
    :param kind: a name in ``CORPORA``.
    """
    if isinstance(given, Mapping):
        for part, one in given.items():
            yield from _arrays(one, how, part)
    elif isinstance(given, str | os.PathLike):
        path = Path(given)
        if not path.exists():
            yield error(What.UNREADABLE, f"{path}: does not exist", path)
        elif kind not in _READERS or (kind == "arrays" and _is_symbolic(path, how)):
            yield from _loaded(path, kind, how)
        else:
            yield from _READERS[kind](path, how)
    else:
        yield from _arrays(given, how, None)


def _is_symbolic(path: Path, how: Reading) -> bool:
    try:
        return holds_symbols(path, how.sequence_column)
    except DataError:
        return False  # the reader of arrays says what is wrong with it


def _loaded(path: Path, kind: str, how: Reading) -> Found:
    """What has no reader of its own here: what its loader gives, or the first thing it refuses."""
    options: dict[str, Any] = {} if how.sequence_column is None else {"sequence_column": how.sequence_column}
    if how.max_bytes < _MOST_BYTES:  # a limit that was asked for; the loaders have their own
        options["max_bytes"] = how.max_bytes
    try:
        corpus = CORPORA[kind].load(path, **options)
    except (DataError, OSError) as problem:
        yield error(What.UNREADABLE, problem, path)
        return
    for part in ("train", "valid", "test"):
        data = getattr(corpus, part)
        for name, values in zip(data.names, data.sequences, strict=True):
            raw = corpus.standardiser.invert(np.asarray(values, dtype=np.float64))
            yield Piece(name, str(path), part, raw.shape[1], [raw], format=kind, discrete=corpus.raw.kind.discrete)


# ------------------------------------------------------------------------------------------------------- arrays, tables


def _arrays(given: Any, how: Reading, part: str | None) -> Found:
    if isinstance(given, str | os.PathLike):
        yield from _array_path(Path(given), how, part)
        return
    try:
        source = find_sequences("data", given, how)
    except DataError as problem:
        yield error(What.FORM, problem)
        return
    prefix = f"{part}/" if part is not None else ""
    yield from _sequences(source, [prefix + name for name in source.names], None, part, "array in memory")


def _array_path(path: Path, how: Reading, part: str | None = None) -> Found:
    if not path.is_dir():
        yield from _array_file(path, printable(path.stem), how, part)
        return
    yield from _not_regular(path)
    try:
        known, names, others = array_files.list_files(path)
    except DataError as problem:
        yield error(What.UNREADABLE, problem, path)
        return
    audio = [file for file in known if array_files.is_audio(file)]
    if audio and len(audio) < len(known):
        detail = f"{len(audio)} recordings and {len(known) - len(audio)} files of arrays"
        yield error(What.MIXED, detail, path, count=len(known))
    if others:
        ends = Counter(file.suffix or file.name for file in others).most_common(8)
        detail = f"{len(others)} files are not read: " + ", ".join(f"{n} {end}" for end, n in ends)
        yield Finding(Severity.NOTE, What.IGNORED, detail, str(path), count=len(others))
    for file, name in zip(known, names, strict=True):
        folder = file.relative_to(path).parts[0].lower()
        yield from _array_file(file, name, how, part or _PARTS.get(folder))


def _not_regular(path: Path) -> Found:
    """Pipes, devices and broken links, which the loaders pass over or wait for."""
    for file in sorted(path.rglob("*")):
        if not file.is_file() and not file.is_dir():
            what = "a link that leads nowhere" if file.is_symlink() else "a pipe, a device or a socket"
            yield Finding(Severity.WARNING, What.IRREGULAR, f"{what}, which is not read", str(file))


def _array_file(file: Path, name: str, how: Reading, part: str | None) -> Found:
    if file.is_file() and file.stat().st_size == 0:
        yield error(What.EMPTY, "has 0 bytes", file)
    elif file.is_file() and array_files.is_audio(file):
        yield from recording(file, name, part, how.frame, any_encoding=True)
    else:
        try:
            source = array_files.read_file(file, name, how)
        except DataError as problem:
            yield error(What.UNREADABLE, problem, file)
            return
        yield from _sequences(source, source.names, file, part, file.suffix.lower())


def _sequences(
    source: array_files.Source, names: Sequence[str], file: Path | None, part: str | None, format: str
) -> Found:
    for name, array in zip(names, source.sequences, strict=True):
        try:
            check_form(name, array)
        except DataError as problem:
            yield error(What.FORM, problem, file, sequence=name)
            continue
        yield Piece(
            name, None if file is None else str(file), part, array.shape[1], [array], source.channels, format=format
        )


# ---------------------------------------------------------------------------------------------------------- known kinds


def _timit(path: Path, how: Reading) -> Found:
    try:
        found, others = timit_files.find_recordings(path)
    except DataError as problem:
        yield error(What.UNREADABLE, problem, path)
        return
    if others:
        yield Finding(
            Severity.NOTE, What.IGNORED, f"{others} .wav files in neither layout are not read", str(path), count=others
        )
    for name, copies in sorted(found.items()):
        parts = {copy.part for copy in copies} - {None}
        if len(parts) > 1:
            detail = "in TRAIN and in TEST: " + " and ".join(str(copy.path) for copy in copies)
            yield error(What.BOTH_PARTS, detail, copies[0].path, sequence=name)
        part, readable = next(iter(parts), None), []
        for copy in copies:
            rate = timit_files.SAMPLE_RATE
            items = list(recording(copy.path, name, part, how.frame, any_encoding=False, required_rate=rate))
            pieces = [item for item in items if isinstance(item, Piece)]
            if pieces or len(copies) == 1:
                readable += items
            else:  # the loader uses another copy, if there is one
                yield from (Finding(Severity.WARNING, *_rest(item)) for item in items if isinstance(item, Finding))
        if not readable:
            yield error(What.UNREADABLE, "no copy of the recording can be read", copies[0].path, sequence=name)
        first = next((item for item in readable if isinstance(item, Piece)), None)
        for item in readable:
            if isinstance(item, Finding) or item is first:
                yield item
            elif first is not None and not equal_recordings(first, item):
                yield error(What.COPIES, f"other samples than {first.file}", item.file, sequence=name)


def _blizzard(path: Path, how: Reading) -> Found:
    try:
        found = recording_files.find_recordings(path)
    except DataError as problem:
        yield error(What.UNREADABLE, problem, path)
        return
    rate = blizzard.SAMPLE_RATE
    for name, file in found.items():
        yield from recording(file, name, None, how.frame, any_encoding=True, required_rate=rate)


def _rest(finding: Finding) -> tuple[Any, ...]:
    return finding.what, finding.detail, finding.file, finding.sequence, finding.step


def _strokes(path: Path, how: Reading) -> Found:
    try:
        if path.is_file() and path.stat().st_size == 0:
            yield error(What.EMPTY, "has 0 bytes", path)
            return
        arrays = stroke_files.read_stroke_arrays(path, how.max_bytes)
    except (DataError, OSError) as problem:
        yield error(What.UNREADABLE, problem, path)
        return
    for part in stroke_files.PARTS:
        try:
            cut = stroke_files.cut_part(path, part, arrays)
        except DataError as problem:
            yield error(What.FORM, problem, path)
            continue
        for name, values in zip(cut.names, cut.sequences, strict=True):
            yield Piece(name, str(path), part, 3, [values], stroke_files.AXES, format="stroke-3", pen=2)


def _iamondb(path: Path, how: Reading) -> Found:
    try:
        strokes = iamondb_files.find_strokes(path)
    except DataError as problem:
        yield error(What.UNREADABLE, problem, path)
        return
    root = path.parent if strokes == path else path
    part_of: dict[str, str] = {}
    for part in ("train", "valid"):
        try:
            listed = [form.name for form in iamondb_files.read_forms(root / f"{part}.txt", part, strokes).forms]
        except (DataError, OSError) as problem:
            yield error(What.LIST, problem, root / f"{part}.txt")
            continue
        both = [name for name in listed if part_of.get(name, part) != part]
        if both:
            detail = f"{len(both)} forms are also in train.txt, such as {both[0]!r}"
            yield error(What.BOTH_PARTS, detail, root / f"{part}.txt", count=len(both))
        part_of |= dict.fromkeys(listed, part)
    forms = iamondb_files.all_forms(strokes)
    unlisted = [name for name in forms if name not in part_of] if part_of else []
    if unlisted:
        detail = f"{len(unlisted)} of {len(forms)} forms are in neither list, such as {unlisted[0]!r}"
        yield Finding(Severity.NOTE, What.IGNORED, detail, str(strokes), count=len(unlisted))
    for name, form in forms.items():
        if name in unlisted:
            continue
        for file in form.lines:
            if file.is_file() and file.stat().st_size == 0:
                yield error(What.EMPTY, "has 0 bytes", file, sequence=file.stem)
                continue
            try:
                line = iamondb_files.read_line(file, how.max_bytes)
            except DataError as problem:
                yield error(What.UNREADABLE, problem, file, sequence=file.stem)
                continue
            yield Piece(
                line.name, str(file), part_of.get(name), 3, [line.steps], stroke_files.AXES, format="XML", pen=2
            )


def _deepwriting(path: Path, how: Reading) -> Found:
    files = [path / name for name in deepwriting.FILES] if path.is_dir() else [path]
    for number, file in enumerate(files):
        part = ("train", "valid")[number] if len(files) == 2 else None
        try:
            if file.is_file() and file.stat().st_size == 0:
                yield error(What.EMPTY, "has 0 bytes", file)
                continue
            items, _ = deepwriting.read_items(file, how.max_bytes)
        except (DataError, OSError) as problem:
            yield error(What.UNREADABLE, problem, file)
            continue
        for index, item in enumerate(items):
            name = f"{part or file.stem}/{index}"
            try:
                values = deepwriting.as_sequence(file, index, item)
            except DataError as problem:
                yield error(What.FORM, problem, file, sequence=name)
                continue
            yield Piece(name, str(file), part, 3, [values], stroke_files.AXES, format="npz", pen=2)


_READERS: dict[str, Callable[[Path, Reading], Found]] = {
    "timit": _timit,
    "blizzard": _blizzard,
    "iamondb": _iamondb,
    "deepwriting": _deepwriting,
    "strokes": _strokes,
    "arrays": _array_path,
}
