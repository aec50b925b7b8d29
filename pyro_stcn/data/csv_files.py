"""Reading sequences from ``.csv`` files: a row is a step, a column is a channel."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from .checks import DataError

MISSING = {"", "nan", "na", "n/a", "null", "none"}  # cells that are read as NaN, in any case
_DELIMITERS = ",;\t"


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
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text in UTF-8 ({error}): save it again as CSV in UTF-8") from error
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is not CSV ({error}): save the file again") from error
    if not rows:
        raise DataError(f"{path}: is empty: leave it out, or write it again")
    header = _header(rows[0][1], sequence_column)
    body = rows if header is None else rows[1:]
    if not body:
        raise DataError(f"{path}: has a header and no rows: leave it out, or write it again")
    width = len(rows[0][1])
    column = _column(path, header, width, sequence_column)
    channels = [c for c in range(width) if c != column]
    if not channels:
        raise DataError(f"{path}: has no column beside {sequence_column!r}: at least one channel is needed")
    groups: dict[str, list[list[float]]] = {}
    for line, row in body:
        if len(row) != width:
            raise DataError(
                f"{path}: line {line} has {len(row)} cells and line {rows[0][0]} has {width}: every row needs one cell "
                "for each column, empty where a value is missing"
            )
        name = row[column] if column is not None else ""
        if column is not None and not name:
            raise DataError(f"{path}: line {line} names no sequence in the column {sequence_column!r}: fill it in")
        groups.setdefault(name, []).append([_number(path, line, header, c, row[c]) for c in channels])
    return (
        tuple(np.array(steps, dtype=np.float64) for steps in groups.values()),
        tuple(groups),
        None if header is None else tuple(header[c] for c in channels),
    )


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
