"""Folders that this library makes once and finds again: they appear when they are complete.

An interrupted run leaves nothing behind that could be taken for the whole, and two runs at once do no harm.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """Where made data are kept: ``$PYRO_STCN_CACHE``, or ``~/.cache/pyro-stcn``."""
    chosen = os.environ.get("PYRO_STCN_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "pyro-stcn"


def make_folder_once(root: Path, write: Callable[[Path], object]) -> None:
    """Make a folder unless it is there.

    :param root: the folder; those above it are made.
    :param write: fills a temporary folder beside it, which is renamed when that is done.
    """
    if root.exists():
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        write(unfinished)
        unfinished.chmod(0o755)  # mkdtemp makes a folder nobody else can read
        unfinished.rename(root)
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        # Another process may have finished the same first: then that one is as good.
        if not (isinstance(error, OSError) and root.exists()):
            raise
