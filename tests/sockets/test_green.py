"""Greenlets: one that waits for a socket lets the others run, whatever they do with the sockets meanwhile."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import zmq

from relet.sockets import SocketManager, SocketNotFound

from .conftest import IN, LIMIT_MS, LIMIT_S, OUT, WITHOUT_GEVENT, pipe

gevent = pytest.importorskip("gevent", reason=WITHOUT_GEVENT)


@pytest.fixture
def sockets() -> Iterator[SocketManager]:
    """A manager for all greenlets."""
    green = importlib.import_module("zmq.green")
    context = green.Context()
    with SocketManager(green, context, polling_timeout=LIMIT_MS, timeout=LIMIT_S) as sockets:
        yield sockets
    context.destroy(linger=0)


def test_a_greenlet_that_waits_lets_others_run(sockets: SocketManager) -> None:
    """Those that it waits for among them."""
    pipe(sockets)
    said: list[str] = []

    def ask() -> None:
        said.append("waits")
        said.append(sockets.recv_safe("in"))

    def answer() -> None:
        said.append("sends")
        assert sockets.send_safe("out", "arrived")

    gevent.joinall([gevent.spawn(ask), gevent.spawn(answer)], timeout=LIMIT_S, raise_error=True)
    assert said == ["waits", "sends", "arrived"]


def test_greenlets_share_a_manager(sockets: SocketManager) -> None:
    """Many wait at the same time, each for a socket of its own, one for all."""
    names = [str(number) for number in range(10)]
    for name in names:
        sockets.create(f"{name} in", zmq.PULL)
        _, address = sockets.bind_to_random_port(f"{name} in", IN, "tcp://127.0.0.1")
        sockets.ensure_and_connect(f"{name} out", zmq.PUSH, address, OUT)
    sockets.ensure_and_bind("quiet", zmq.PULL, "inproc://quiet", IN)
    readers = [gevent.spawn(sockets.recv_safe, f"{name} in") for name in names]
    writers = [gevent.spawn(sockets.send_safe, f"{name} out", name) for name in names]
    gevent.joinall([*readers, *writers], timeout=LIMIT_S, raise_error=True)
    assert [reader.value for reader in readers] == names
    assert all(writer.value for writer in writers)


def test_a_socket_that_another_greenlet_closes_is_not_found_any_more(sockets: SocketManager) -> None:
    """Whoever waits for it is told, and not left to its timeout; who waits for all goes on without it."""
    closed = sockets.get_or_create("closed", zmq.PULL, IN)
    sockets.get_or_create("open", zmq.PULL, IN)
    waits = [gevent.spawn(sockets.recv_safe, "closed") for _ in range(2)]
    polls = gevent.spawn(sockets.engage, 50)
    closes = gevent.spawn(sockets.close, "closed")
    gevent.joinall([closes])
    assert not closed.closed  # its descriptor is being watched, and gevent ends the process if that goes
    assert sockets.names == ["open"]
    gevent.joinall([*waits, polls], timeout=LIMIT_S)
    assert [type(wait.exception) for wait in waits] == [SocketNotFound] * 2
    assert polls.value == {}
    assert closed.closed
    assert not sockets._polling._polled, "a manager keeps no socket that was closed"


def test_waits_of_greenlets_are_no_longer_than_they_were_told(sockets: SocketManager) -> None:
    """Ten of them at once take as long as one."""
    sockets.create("in", zmq.PULL)
    waits = [gevent.spawn(sockets.recv_safe, "in", 0.05) for _ in range(10)]
    gevent.joinall(waits, timeout=LIMIT_S, raise_error=True)
    assert [wait.value for wait in waits] == [None] * 10
