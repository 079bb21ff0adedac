"""A manager of named sockets, on ZeroMQ as it is and on its green twin, and two ends that know each other."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import zmq

from relet.sockets import BaseSerializer, SocketManager

IN, OUT, BOTH = zmq.POLLIN, zmq.POLLOUT, zmq.POLLIN | zmq.POLLOUT
WITHOUT_GEVENT = "zmq.green needs gevent, which is not installed"
LIMIT_S = 10
"""No test waits longer for one thing."""
LIMIT_MS = LIMIT_S * 1_000

Make = Callable[..., SocketManager]


@pytest.fixture(params=["zmq", "zmq.green"])
def library(request: pytest.FixtureRequest) -> ModuleType:
    """The module whose sockets are named."""
    if request.param == "zmq.green":
        pytest.importorskip("gevent", reason=WITHOUT_GEVENT)
    return importlib.import_module(request.param)


@pytest.fixture
def make(library: ModuleType) -> Iterator[Make]:
    """Managers in one context; what they have is closed at the end."""
    context = library.Context()
    made: list[SocketManager] = []

    def make(serializer: BaseSerializer | None = None, **options: float) -> SocketManager:
        made.append(SocketManager(library, context, serializer, **options))
        return made[-1]

    yield make
    for sockets in made:
        with sockets:
            pass
    context.destroy(linger=0)


@pytest.fixture
def sockets(make: Make) -> SocketManager:
    """A manager that waits for as long as a test may."""
    return make(polling_timeout=LIMIT_MS, timeout=LIMIT_S)


def pipe(sockets: SocketManager) -> str:
    """A PULL named `in` that is bound, and a PUSH named `out` that is connected to it; the address."""
    sockets.create("in", zmq.PULL)
    _, address = sockets.bind_to_random_port("in", IN, "tcp://127.0.0.1")
    sockets.ensure_and_connect("out", zmq.PUSH, address, OUT)
    return address


def channel(sockets: SocketManager, topic: str | bytes = "") -> str:
    """A SUB named `events` that is bound and subscribed, and an XPUB named `news` that knows of it; the address."""
    sockets.create("events", zmq.SUB)
    sockets.set_topic("events", topic)
    _, address = sockets.bind_to_random_port("events", IN, "tcp://127.0.0.1")
    sockets.ensure_and_connect("news", zmq.XPUB, address, OUT)
    hear_subscription(sockets)
    return address


def hear_subscription(sockets: SocketManager) -> bytes:
    """What `news` is told of the next subscription: libzmq drops events that are published before.

    A SUB says it as soon as its own thread looks after it; of that one this is the thread as well.
    """
    while not sockets.ready("news", IN, timeout=1):
        sockets.engage(timeout=0)
    return sockets.get_by_name("news").recv()
