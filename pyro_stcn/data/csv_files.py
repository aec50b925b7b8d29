"""Reading sequences from ``.csv`` files: a row is a step, a column is a channel."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from itertools import chain
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
    rows = ((line, [cell.strip() for cell in row]) for line, row in read_rows(path))
    first = next(rows)
    header = _header(first[1], sequence_column)
    width = len(first[1])
    column = column_number(path, header, width, sequence_column)
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


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
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


def as_number(cell: str) -> float | None:
    """What a cell says, NaN where it says that there is nothing, and None for text."""
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
    return row if cells and all(as_number(cell) is None for cell in cells) else None


def column_number(path: Path, header: list[str] | None, width: int, sequence_column: str | int | None) -> int | None:
    """The number of the column that ``sequence_column`` names, or None.

    :raises DataError: if there is no such column, or more than one.
    """
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
    value = as_number(cell)
    if value is None:
        name = f" ({header[column]!r})" if header is not None else ""
        raise DataError(
            f"{path}: line {line}, column {column}{name} is {cell[:40]!r}, which is no number: take that column out, "
            "name it with sequence_column if it says which sequence a row belongs to, or correct it (1.5, not 1,5)"
        )
    return value
