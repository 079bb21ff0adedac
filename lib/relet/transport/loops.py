"""What an event loop sleeps on, in the place of `link.Sleeper`: the sockets of a link.

libzmq's descriptor (`ZMQ_FD`, zmq_getsockopt(3)) says no more than that something *may* have happened since it was last
looked at: it becomes readable once, not for as long as there are messages, and any call on the socket may swallow that.
So whoever rests on it first asks for `ZMQ_EVENTS`, after the last call on the socket: that takes in all that has come,
and arms the descriptor for what comes later. Where it names something, there is no rest yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import zmq


class LoopWatch:
    """Has an event loop watch the sockets of one link.

    Args:
        loop: a loop with `add_reader`, such as asyncio's on POSIX, or uvloop.
        wake: called by the loop when something may have happened.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], object]) -> None:
        self._loop = loop
        self._wake = wake
        self._sockets: list[Any] = []
        self._descriptors: list[int] = []

    def rest(self, watched: list[tuple[Any, int]]) -> bool:
        """Watch these sockets, each for its flags (`Link.watched`), and no others.

        Returns whether there is nothing yet; else do that first, and call this again.
        """
        sockets = [socket for socket, _ in watched]
        if sockets != self._sockets:
            self.release()
            self._sockets = sockets
            for socket in sockets:
                descriptor: int = socket.getsockopt(zmq.FD)
                self._loop.add_reader(descriptor, self._wake)
                self._descriptors.append(descriptor)
        return not any(socket.getsockopt(zmq.EVENTS) & flags for socket, flags in watched)

    def release(self) -> None:
        """Watch nothing. Call it before a socket is closed: its descriptor may soon be somebody else's."""
        for descriptor in self._descriptors:
            self._loop.remove_reader(descriptor)
        self._descriptors.clear()
        self._sockets = []
