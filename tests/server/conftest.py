"""A broker that is turned by hand, and plain 2010 peers around it: no thread, no sleep, every wait bounded."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zmq

from relet.broker import Broker
from relet.events import Event
from relet.transport.pump import PumpUnavailable, implementation

LIMIT_S = 10.0
"""No test waits longer for one thing."""


class Lines:
    """A log that remembers: (level, event, fields)."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str, dict[str, Any]]] = []

    def log(self, level: int, event: str, /, **fields: Any) -> None:
        """What structlog would be told."""
        self.lines.append((level, event, fields))

    def of(self, event: Event) -> list[dict[str, Any]]:
        """The fields of each line of one event."""
        return [fields for _, said, fields in self.lines if said == event.value]

    def from_info(self) -> list[str]:
        """The events said at info or above."""
        return [event for level, event, _ in self.lines if level >= logging.INFO]


class Site:
    """A broker on three endpoints and sockets to it; `hear` and `until` turn the broker while they wait."""

    broker: Broker

    def __init__(self, scheme: str, folder: Path, pump: str) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.lines = Lines()
        self._scheme, self._folder, self._pump = scheme, folder, pump
        self._sockets: list[zmq.Socket[bytes]] = []
        self._proxies: list[tuple[zmq.Context[zmq.Socket[bytes]], threading.Thread]] = []
        self._brokers: list[Broker] = []

    def open(self, **options: Any) -> Broker:
        """A broker, bound, not running: `hear` and `until` turn it."""
        endpoints = {
            "tcp": ("tcp://127.0.0.1:0",) * 3,
            "ipc": tuple(f"ipc://{self._folder}/{len(self._brokers)}{role}" for role in "cwa"),
            "inproc": tuple(f"inproc://{len(self._brokers)}{role}" for role in "cwa"),
        }[self._scheme]
        if self._scheme == "inproc":
            options["context"] = self.context
        self.broker = Broker(*endpoints, pump=self._pump, log=self.lines, **options)
        self._brokers.append(self.broker)
        return self.broker

    # --- Peers as of 2010

    def connect(self, kind: int, role: str, **options: Any) -> zmq.Socket[bytes]:
        """A socket to one of the broker's endpoints."""
        return self.connect_to(kind, self.broker.endpoints[role], **options)

    def connect_to(self, kind: int, endpoint: str, **options: Any) -> zmq.Socket[bytes]:
        """A socket to any endpoint."""
        socket = self.context.socket(kind)
        socket.linger = 0
        for name, value in options.items():
            setattr(socket, name, value)
        socket.connect(endpoint)
        self._sockets.append(socket)
        return socket

    def client(self, kind: int = zmq.REQ, **options: Any) -> zmq.Socket[bytes]:
        """A client's socket."""
        return self.connect(kind, "clients", **options)

    def worker(self, kind: int = zmq.REQ, **options: Any) -> zmq.Socket[bytes]:
        """The socket on which a worker asks."""
        return self.connect(kind, "workers", **options)

    def answers(self) -> zmq.Socket[bytes]:
        """The socket on which a worker answers."""
        return self.connect(zmq.PUSH, "answers")

    def proxy(self, endpoint: str) -> str:
        """A ROUTER/DEALER proxy in front of `endpoint`; returns where it listens."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        front.linger = back.linger = 0
        front.bind("tcp://127.0.0.1:0")
        back.connect(endpoint)

        def run() -> None:
            try:
                zmq.proxy(front, back)
            except zmq.ZMQError:
                front.close()
                back.close()

        listens = front.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._proxies.append((context, thread))
        return listens

    # --- Waiting

    def until(self, done: Callable[[], Any]) -> None:
        """Turns the broker until `done()`."""
        limit = time.monotonic() + LIMIT_S
        while not done():
            assert time.monotonic() < limit, f"not in time; the broker said {self.lines.lines[-10:]}"
            self.broker.turn(0.005)

    def hear(self, socket: zmq.Socket[bytes]) -> list[bytes]:
        """The next message on `socket`."""
        limit = time.monotonic() + LIMIT_S
        self.broker.turn()
        while not socket.poll(1):
            assert time.monotonic() < limit, f"not in time; the broker said {self.lines.lines[-10:]}"
            self.broker.turn()
        return socket.recv_multipart()

    def silent(self, *sockets: zmq.Socket[bytes], seconds: float = 0.06) -> bool:
        """Whether nothing comes on `sockets` while the broker turns for so long."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            self.broker.turn(0.005)
        return not any(socket.poll(0) for socket in sockets)

    def answer_all(self, count: int, think: Callable[[list[bytes]], Sequence[bytes]] = lambda body: body) -> None:
        """A worker that asks for many jobs ahead answers `count` of them."""
        worker, answers = self.worker(zmq.DEALER), self.answers()
        done = self.broker.counters.jobs_completed + count
        for begin in range(0, count, 500):
            some = min(500, count - begin)
            for _ in range(some):
                worker.send_multipart([b"", b""])
            for _ in range(some):
                _, token, *body = self.hear(worker)
                answers.send_multipart([token, *think(body)])
        self.until(lambda: self.broker.counters.jobs_completed == done)
        worker.close()
        answers.close()

    def close(self) -> None:
        """Ends everything."""
        for broker in self._brokers:
            broker.close()
        for socket in self._sockets:
            socket.close(linger=0)
        for context, thread in self._proxies:
            context.term()
            thread.join(LIMIT_S)
        self.context.term()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A place for one broker on TCP, with the pump that runs here."""
    site = Site("tcp", tmp_path, "auto")
    yield site
    site.close()


@pytest.fixture(params=["tcp-cython", "tcp-python", "ipc-cython", "inproc-cython", "inproc-python"])
def any_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """The same on every transport and with every pump."""
    scheme, pump = request.param.split("-")
    try:
        implementation(pump)
    except PumpUnavailable as error:
        pytest.skip(str(error))
    site = Site(scheme, tmp_path, pump)
    yield site
    site.close()
