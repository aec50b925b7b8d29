"""Files that are there whole or not at all: after a crash at any instant, the old one or the new one."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["replacing", "write_json"]


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Name an unfinished file beside ``path`` to write to; when the block ends, it is flushed to disk and renamed.

    Where the block raises, it is removed, and what was at ``path`` before is still there. Permissions are those that
    the writer gives, usually of the umask.

    :raises OSError: when the file cannot be written.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # makes the rename itself survive a power cut
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: str | os.PathLike, values: Any) -> None:
    """Write JSON, whole or not at all.

    :raises ValueError: where a number is not finite: JSON has no name for it.
    """
    text = json.dumps(values, indent=1, allow_nan=False)
    with replacing(path) as unfinished:
        unfinished.write_text(f"{text}\n", encoding="utf-8")
