"""What a command says when it cannot go on: a line for what its user can mend, a traceback for what is a bug."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["FAILED", "INTERRUPTED", "friendly"]

FAILED = 1
INTERRUPTED = 130  # what a shell says of a command that Ctrl-C has ended
_DEBUG = "PYRO_STCN_DEBUG"


@contextmanager
def friendly(debug: bool = False) -> Iterator[None]:
    """Turn errors that the user can mend into one line on stderr and exit code 1, and interruptions into 130.

    These are: data, checkpoints and files that cannot be read or written, training that diverged, and an option that
    this library refuses (a ``ValueError`` or ``NotImplementedError`` that it raises itself). Anything else is a bug and
    keeps its traceback.

    :param debug: keep every traceback; so does ``PYRO_STCN_DEBUG=1`` in the environment.
    """
    try:
        yield
    except KeyboardInterrupt:
        _leave("interrupted", INTERRUPTED)
    except Exception as error:
        if debug or os.environ.get(_DEBUG, "0") not in ("", "0"):
            raise
        code = _code(error)
        if code is None:
            raise
        said = f"error: {error}" if code == FAILED else str(error)
        _leave("\n".join([said, *getattr(error, "__notes__", ())]), code)


def _leave(message: str, code: int) -> None:
    print(message, file=sys.stderr, flush=True)
    raise SystemExit(code) from None


def _code(error: Exception) -> int | None:
    """Return the exit code for an error that the user can mend; None for a bug."""
    # Here and not above: a command line that only prints its help should not wait for torch.
    from ..checkpoint import CheckpointError
    from ..data.checks import DataError
    from ..study import InterruptedRunError
    from ..training import NonFiniteError

    if isinstance(error, InterruptedRunError):
        return INTERRUPTED
    if isinstance(error, (CheckpointError, DataError, NonFiniteError, OSError)):
        return FAILED
    if isinstance(error, (ValueError, NotImplementedError)) and _is_ours(error):
        return FAILED
    return None


def _is_ours(error: Exception) -> bool:
    """Whether this library, or the script that runs, has raised it; what comes from deeper down nobody expected."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").partition(".")[0] in (__name__.partition(".")[0], "__main__")
