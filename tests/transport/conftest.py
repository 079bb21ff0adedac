"""Sockets that close themselves, and both frame pumps behind one name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from relet.transport.pump import PumpUnavailable, implementation

LIMIT_MS = 5_000
"""No test waits longer for one thing."""


class Net:
    """A context and the sockets of one test; nothing of it outlives the test."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def socket(self, kind: int, **options: Any) -> zmq.Socket[bytes]:
        """A socket with `options` set, which ends with the test."""
        socket = self.context.socket(kind)
        socket.linger = 0
        for name, value in options.items():
            setattr(socket, name, value)
        self._sockets.append(socket)
        return socket

    def bound(self, kind: int, endpoint: str = "tcp://127.0.0.1:0", **options: Any) -> tuple[zmq.Socket[bytes], str]:
        """(a bound socket, where it can be reached)."""
        socket = self.socket(kind, **options)
        socket.bind(endpoint)
        return socket, socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def connected(self, kind: int, endpoint: str, **options: Any) -> zmq.Socket[bytes]:
        """A connected socket."""
        socket = self.socket(kind, **options)
        socket.connect(endpoint)
        return socket

    def watch(self, socket: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
        """The monitor of a socket."""
        endpoint = f"inproc://watch-{len(self._sockets)}"
        socket.monitor(endpoint, events)
        return self.connected(zmq.PAIR, endpoint, rcvhwm=0)

    def close(self) -> None:
        """Closes everything."""
        for socket in self._sockets:
            socket.close(linger=0)
        self.context.term()


@pytest.fixture
def net() -> Iterator[Net]:
    """Sockets for one test."""
    net = Net()
    yield net
    net.close()


@pytest.fixture(params=["cython", "python"])
def pumps(request: pytest.FixtureRequest) -> Any:
    """The module of each frame pump in turn."""
    try:
        return implementation(request.param)[1]
    except PumpUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def is_c(pumps: Any) -> bool:
    """Whether the pump under test is the C one."""
    return bool(pumps.__name__.endswith("_pump"))
