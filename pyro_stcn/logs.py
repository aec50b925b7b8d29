"""The CSV logs of a training run: one row per logged update, readable while it runs, exact after a resume."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from .whole_files import replacing

__all__ = ["append_row", "keep_rows_up_to"]


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Write one row, after a header if the file is new. The first column is the step."""
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def keep_rows_up_to(path: Path, step: int) -> None:
    """Drop the rows written after the checkpoint, which will be written again, and a last one that was cut short."""
    if path.exists():
        lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        kept = lines[:1] + [line for line in lines[1:] if int(line.split(b",")[0]) <= step]
        with replacing(path) as unfinished:
            unfinished.write_bytes(b"".join(kept))
