"""Reading labels from ``.csv`` files: a row is a step, and what it says is kept as it is written."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from .checks import DataError
from .csv_files import as_number, column_number, read_rows


def read_labels(path: Path, column: str | None, sequence_column: str | None) -> dict[str, tuple[str, ...]]:
    """Read a table of labels: with a header, or the first label could be taken for one.

    :param column: the column of labels, by name; None: the only one beside ``sequence_column``.
    :param sequence_column: the column that says which sequence a row belongs to; None: the file is one sequence.
    :returns: labels as they are written, by what ``sequence_column`` says, or under "".
    :raises DataError: naming file, line and column: no rows, a row of another width, a label that is empty, a column
        that is not there, a first row that looks like a label.
    """
    (_, header), *body = read_rows(path)
    if not body:
        raise DataError(f"{path}: has a header and no rows: leave it out, or write it again")
    group = column_number(path, header, len(header), sequence_column)
    others = [name for c, name in enumerate(header) if c != group]
    if column is None and len(others) != 1:
        raise DataError(f"{path}: has the columns {', '.join(others)[:300]}: say which holds the labels, column=...")
    at = column_number(path, header, len(header), others[0] if column is None else column)
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
    rows = [row for _, row in islice(read_rows(path), 2)]
    if len(rows) < 2 or len({len(row) for row in rows}) > 1:
        return False
    group = rows[0].index(sequence_column) if sequence_column in rows[0] else sequence_column
    others = [c for c in range(len(rows[0])) if c != group]
    return len(others) == 1 and all(as_number(row[others[0]].strip()) is None for row in rows)
