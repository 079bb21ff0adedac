"""Signals end a poll, whenever they come."""

from __future__ import annotations

import contextlib
import signal
import socket as sockets
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def signal_wakeups() -> Iterator[sockets.socket | None]:
    """A socket that is readable when a signal has come, to be polled beside others; None but in the main thread.

    Python runs a handler between two bytecodes only. A signal that comes after the last one before the poll would lie
    there until something else ends the poll: its byte in a socket does (`signal.set_wakeup_fd`).
    """
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    read, write = sockets.socketpair()
    with read, write:
        for end in (read, write):
            end.setblocking(False)
        before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        try:
            yield read
        finally:
            signal.set_wakeup_fd(before)


def heard(wakeups: sockets.socket) -> None:
    """The handlers run by now; forget that signals came."""
    with contextlib.suppress(BlockingIOError):
        wakeups.recv(4_096)
