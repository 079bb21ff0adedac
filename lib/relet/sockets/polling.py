"""Polling until a time, with `zmq` or `zmq.green`, and closing what may be polled.

libzmq may return a little early, and takes no more than a C int of milliseconds: so a poll is repeated until its time
has come. With gevent several greenlets poll at once, and its loop ends the process when a descriptor goes that it
watches: so a socket that is closed under somebody's poll stays open until the last such poll has left it.
"""

from __future__ import annotations

import time
from collections import Counter
from types import ModuleType
from typing import Any, Final

import zmq

POLL_NS_MIN: Final = 1_000_000
"""A poll of a wait lasts this long at least: one that does not sleep would only burn the processor."""
POLL_MS_MAX: Final = 60_000
"""And this long at most, because poll takes a C int; who waits for longer polls again."""
GREEN_POLL_MS_MAX: Final = 1_000
"""A greenlet that polls notices after this long that another one has closed the socket."""
FOREVER_NS: Final = 1 << 62
"""146 years."""


def check_module(module: ModuleType, context: Any) -> None:
    """Check that a context is of that module: the one's sockets in the other's poller would stop all greenlets.

    Raises:
        TypeError: with what to write instead.
    """
    if not hasattr(module, "Poller") or not hasattr(module, "Context"):
        raise TypeError(f"SocketManager takes the module first, zmq or zmq.green, not {module!r}")
    if not isinstance(context, zmq.Context):
        raise TypeError(f"context is a {module.__name__}.Context, not {context!r}")
    library = next(it for it in type(context).__mro__ if it.__module__.split(".")[0] == "zmq")
    if library is not module.Context:
        raise TypeError(f"context is one of {library.__module__}; make it with {module.__name__}.Context()")


class Polling:
    """The polls of one manager.

    Args:
        module: `zmq` or `zmq.green`.
    """

    def __init__(self, module: ModuleType) -> None:
        self.poller: type[Any] = module.Poller
        """Makes an empty poller."""
        self._poll_ms_max = POLL_MS_MAX if module.Context is zmq.Context else GREEN_POLL_MS_MAX
        self._polled: Counter[zmq.Socket[bytes]] = Counter()
        """How many polls each socket is in."""
        self._leaving: set[zmq.Socket[bytes]] = set()
        """Those of them that were closed."""

    def poll(self, poller: Any, until: int) -> dict[zmq.Socket[bytes], int]:
        """What is ready, as soon as something is, or {} when the time has come, or nothing is left to poll.

        Args:
            poller: from `poller`; sockets that were closed leave it.
            until: monotonic nanoseconds.
        """
        while True:
            for socket, _ in list(poller.sockets):
                if self._is_gone(socket):
                    poller.unregister(socket)
            polled = [socket for socket, _ in poller.sockets]
            left_ms = max(0, -((time.monotonic_ns() - until) // 1_000_000))  # rounded up
            self._polled.update(polled)
            try:
                found = dict(poller.poll(min(left_ms, self._poll_ms_max)))
            finally:
                self._leave(polled)
            there = {socket for socket in polled if not self._is_gone(socket)}
            found = {socket: flags for socket, flags in found.items() if socket in there}
            if found or time.monotonic_ns() >= until or (polled and not there):
                return found

    def close(self, socket: zmq.Socket[bytes]) -> None:
        """Close a socket, at once or when the last poll has left it. Nobody is told that it is ready any more."""
        if self._polled[socket]:
            self._leaving.add(socket)
        else:
            socket.close()

    def _leave(self, polled: list[zmq.Socket[bytes]]) -> None:
        for socket in polled:
            self._polled[socket] -= 1
            if not self._polled[socket]:
                del self._polled[socket]
                if socket in self._leaving:
                    self._leaving.discard(socket)
                    socket.close()

    def _is_gone(self, socket: zmq.Socket[bytes]) -> bool:
        return socket.closed or socket in self._leaving
