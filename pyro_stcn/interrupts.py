"""Ctrl-C and SIGTERM as a polite request: finish what you are doing, save, and stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["deferred_interrupts", "sigterm_as_ctrl_c"]


@contextmanager
def deferred_interrupts() -> Iterator[list[str]]:
    """Collect the names of SIGINT and SIGTERM in the list it gives; a second one of the same kind acts as usual."""
    received: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set handlers
        return
    previous: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, frame: Any) -> None:
        received.append(signal.Signals(number).name)
        signal.signal(number, previous[number] or signal.SIG_DFL)

    for number in previous:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM raise ``KeyboardInterrupt``, as Ctrl-C does, for the time of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def receive(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, receive)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)
