"""Reading sequences from ``.csv`` files: a row is a step, a column is a channel."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

import numpy as np

from .checks import DataError

MISSING = {"", "nan", "na", "n/a", "null", "none"}  # cells that are read as NaN, in any case
_DELIMITERS = ",;\t"
_LINE = 2**24  # letters; a file without line breaks would be one row


def read_csv(
    path: Path, sequence_column: str | int | None
) -> tuple[tuple[np.ndarray, ...], tuple[str, ...], tuple[str, ...] | None]:
    """Read one file, with or without a header, separated by commas, semicolons or tabs.

    :param path: the file, in UTF-8.
    :param sequence_column: the column that says which sequence a row belongs to, by its name in the header or its
        number from 0; rows keep their order within a sequence, and sequences that of their first rows. None: the file
        is one sequence.
    :returns: float64 arrays of shape ``(T_i, D)``, NaN for missing values; what the column says of each, or "" if
        there is none; and the channels' names, None without a header.
    :raises DataError: naming file, line (from 1, as editors count) and column: no rows, a row of another width, a cell
        that is no number, a column that is not there.
    """
    rows = ((line, [cell.strip() for cell in row]) for line, row in _rows(path))
    first = next(rows)
    header = _header(first[1], sequence_column)
    width = len(first[1])
    column = _column(path, header, width, sequence_column)
    channels = [c for c in range(width) if c != column]
    if not channels:
        raise DataError(f"{path}: has no column beside {sequence_column!r}: at least one channel is needed")
    groups: dict[str, array[float]] = {}
    for line, row in rows if header is not None else chain([first], rows):
        if len(row) != width:
            raise DataError(
                f"{path}: line {line} has {len(row)} cells and line {first[0]} has {width}: every row needs one cell "
                "for each column, empty where a value is missing"
            )
        name = row[column] if column is not None else ""
        if column is not None and not name:
            raise DataError(f"{path}: line {line} names no sequence in the column {sequence_column!r}: fill it in")
        groups.setdefault(name, array("d")).extend([_number(path, line, header, c, row[c]) for c in channels])
    if not groups:
        raise DataError(f"{path}: has a header and no rows: leave it out, or write it again")
    return (
        tuple(np.array(values, dtype=np.float64).reshape(-1, len(channels)) for values in groups.values()),
        tuple(groups),
        None if header is None else tuple(header[c] for c in channels),
    )


def read_labels(path: Path, column: str | None, sequence_column: str | None) -> dict[str, tuple[str, ...]]:
    """Read a table of labels: with a header, or the first label could be taken for one.

    :param column: the column of labels, by name; None: the only one beside ``sequence_column``.
    :param sequence_column: the column that says which sequence a row belongs to; None: the file is one sequence.
    :returns: labels as they are written, by what ``sequence_column`` says, or under "".
    :raises DataError: naming file, line and column: no rows, a row of another width, a label that is empty, a column
        that is not there, a first row that looks like a label.
    """
    (_, header), *body = _rows(path)
    if not body:
        raise DataError(f"{path}: has a header and no rows: leave it out, or write it again")
    group = _column(path, header, len(header), sequence_column)
    others = [name for c, name in enumerate(header) if c != group]
    if column is None and len(others) != 1:
        raise DataError(f"{path}: has the columns {', '.join(others)[:300]}: say which holds the labels, column=...")
    at = _column(path, header, len(header), others[0] if column is None else column)
    assert at is not None
    groups: dict[str, list[str]] = {}
    for line, row in body:
        if len(row) != len(header):
            raise DataError(
                f"{path}: line {line} has {len(row)} cells and the header has {len(header)}: write it again"
            )
        name = row[group] if group is not None else ""
        if row[at] == "" or (group is not None and not name):
            raise DataError(f"{path}: line {line} has no {'label' if row[at] == '' else 'sequence'}: fill it in")
        groups.setdefault(name, []).append(row[at])
    if any(header[at] in labels for labels in groups.values()):
        raise DataError(
            f"{path}: the first row says {header[at]!r}, which is also a label: write a header above the labels"
        )
    return {name: tuple(labels) for name, labels in groups.items()}


def holds_text(path: Path, sequence_column: str | int | None) -> bool:
    """Whether a table has one column beside ``sequence_column``, with a header and no number in the row below."""
    rows = [row for _, row in islice(_rows(path), 2)]
    if len(rows) < 2 or len({len(row) for row in rows}) > 1:
        return False
    group = rows[0].index(sequence_column) if sequence_column in rows[0] else sequence_column
    others = [c for c in range(len(rows[0])) if c != group]
    return len(others) == 1 and all(_float(row[others[0]].strip()) is None for row in rows)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line that each row ends in, and its cells: at least one row, and one at a time, as text takes much memory."""
    empty = True
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = next((line for line in _lines(path, file) if line.strip()), "")
            file.seek(0)
            reader = csv.reader(_lines(path, file), delimiter=max(_DELIMITERS, key=first.count))
            try:
                for row in reader:
                    if row:
                        empty = False
                        yield reader.line_num, row
            except csv.Error as error:
                raise DataError(f"{path}: line {reader.line_num} is not CSV ({error}): save the file again") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text in UTF-8 ({error}): save it again as CSV in UTF-8") from error
    if empty:
        raise DataError(f"{path}: is empty: leave it out, or write it again")


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    while line := file.readline(_LINE + 1):
        if len(line) > _LINE:
            raise DataError(f"{path}: has a line of more than {_LINE} letters: it is no table of numbers")
        yield line


def _float(cell: str) -> float | None:
    if cell.lower() in MISSING:
        return float("nan")
    try:
        return None if "_" in cell else float(cell)  # 1_000 is Python's, not a table's
    except ValueError:
        return None


def _header(row: list[str], sequence_column: str | int | None) -> list[str] | None:
    """The first row, unless it has a number in it beside the sequence's name."""
    if isinstance(sequence_column, str):
        return row
    cells = [cell for c, cell in enumerate(row) if c != sequence_column and cell.lower() not in MISSING]
    return row if cells and all(_float(cell) is None for cell in cells) else None


def _column(path: Path, header: list[str] | None, width: int, sequence_column: str | int | None) -> int | None:
    if sequence_column is None:
        return None
    if isinstance(sequence_column, str):
        found = [c for c, name in enumerate(header or ()) if name == sequence_column]
        if len(found) != 1:
            raise DataError(
                f"{path}: {len(found)} columns are named {sequence_column!r} among {', '.join(header or ())[:300]}: "
                "give the name of one, or its number from 0"
            )
        return found[0]
    if not 0 <= sequence_column < width:
        raise DataError(f"{path}: has {width} columns, counted from 0, and sequence_column is {sequence_column}")
    return sequence_column


def _number(path: Path, line: int, header: list[str] | None, column: int, cell: str) -> float:
    value = _float(cell)
    if value is None:
        name = f" ({header[column]!r})" if header is not None else ""
        raise DataError(
            f"{path}: line {line}, column {column}{name} is {cell[:40]!r}, which is no number: take that column out, "
            "name it with sequence_column if it says which sequence a row belongs to, or correct it (1.5, not 1,5)"
        )
    return value
