"""Devices and plain sockets around them; every wait is bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import zmq

from relet.devices import Device

LIMIT_S = 20.0
"""No test waits longer for one thing."""
Socket = zmq.Socket[bytes]
Connect = Callable[..., Socket]
Run = Callable[..., Device]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connects a socket of a kind to an endpoint; what it receives comes within `LIMIT_S`."""
    context = zmq.Context[Socket]()
    sockets: list[Socket] = []

    def connecter(kind: int, endpoint: str, *, subscribe: bytes | None = None, hwm: int = 1_000) -> Socket:
        socket = context.socket(kind)
        sockets.append(socket)
        socket.linger = 0
        socket.set_hwm(hwm)
        socket.rcvtimeo = socket.sndtimeo = int(LIMIT_S * 1000)
        socket.connect(endpoint)
        if subscribe is not None:
            socket.subscribe(subscribe)
        return socket

    yield connecter
    for socket in sockets:
        socket.close()
    context.term()


@pytest.fixture
def run() -> Iterator[Run]:
    """Starts devices, and ends them with the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(Device(*arguments, **options))
