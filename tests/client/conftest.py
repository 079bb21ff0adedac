"""A broker's clients' endpoint that does what the test says, and the library's log lines as they come."""

from __future__ import annotations

import contextlib
import queue
import socket as sockets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
import zmq

from relet import Client
from relet.dialects.native import encode, from_client
from relet.messages import SIGNATURE, VERSION, ClientHello, Heartbeat, Outcome, Submit, Welcome

from .driven import LOOP_THREAD, Driven

WAIT_MS_MAX = 5_000


class Library:
    """The blocking client, or `AsyncClient` driven as if it were one: both pass the same tests."""

    def __init__(self, kind: type[Any] = Client) -> None:
        self.kind = kind
        self.thread_name = "relet-client" if kind is Client else LOOP_THREAD
        """Where callbacks run."""
        self._made: list[Driven] = []

    def __call__(self, *args: Any, **options: Any) -> Any:
        """A client."""
        client = self.kind(*args, **options)
        if isinstance(client, Driven):
            self._made.append(client)
        return client

    def end(self) -> None:
        """The loops end."""
        for driven in self._made:
            driven.end()


def settled(client: Any, broker: FakeBroker) -> None:
    """Return when the library has done all that it was told before: a later request has come and gone."""
    future = client.submit(b"marker")
    while (heard := broker.hear())[3:] != [b"marker"]:
        pass
    broker.answer(heard)
    future.result(WAIT_MS_MAX / 1000)


def until(condition: Callable[[], bool]) -> None:
    """Let the other threads run until something is so that nobody signals; fails when it does not become so."""
    deadline = time.monotonic() + WAIT_MS_MAX / 1000
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0)


def shut(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Close a bound socket, and return when its port is really free, which libzmq does behind our back."""
    socket.close()
    deadline = time.monotonic() + WAIT_MS_MAX / 1000
    host, port = endpoint.removeprefix("tcp://").split(":")
    while True:
        assert time.monotonic() < deadline, "the port is still held"
        try:
            sockets.create_connection((host, int(port)), timeout=0.1).close()
        except TimeoutError:  # it was taken down just between
            continue
        except OSError:
            return


class FakeBroker:
    """A ROUTER in the test's own thread: it hears and answers when it is told to, and can go and come back.

    It speaks the 2010 dialect; `NativeBroker` the other one, in the same calls.
    """

    dialect = "2010"

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], library: Library) -> None:
        self._context = context
        self._library = library
        self.endpoint = "tcp://127.0.0.1:*"
        self.open()

    def open(self) -> None:
        """Bind, the second time to the same port."""
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.router_mandatory = True
        self.socket.bind(self.endpoint)
        self.endpoint = self.socket.get_string(zmq.LAST_ENDPOINT)

    def close(self) -> None:
        """Go, with all connections."""
        shut(self.socket, self.endpoint)

    def client(self, **options: Any) -> Any:
        """A client of this broker."""
        return self._library(self.endpoint, dialect=self.dialect, **options)

    def hear(self) -> list[bytes]:
        """The next request: [routing id, its name, b"", body...]; fails when none comes."""
        assert self.socket.poll(WAIT_MS_MAX), "the client sent nothing"
        return self.socket.recv_multipart()

    def is_silent(self, wait_ms: int = 0) -> bool:
        """Whether nothing has arrived."""
        return not self.socket.poll(wait_ms)

    def say(self, *frames: bytes) -> None:
        """Send any frames, the routing id first."""
        self.socket.send_multipart(frames)

    def answer(self, heard: list[bytes], *answer: bytes) -> None:
        """Answer a request that was heard; without frames, echo its body."""
        self.say(*heard[:3], *(answer or heard[3:]))

    def fail(self, heard: list[bytes]) -> None:
        """Give the job up."""
        self.answer(heard, b"")


class NativeBroker(FakeBroker):
    """The same in the native dialect: it welcomes who says hello, and answers heartbeats, while it hears."""

    dialect = "native"

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], library: Library) -> None:
        self.epoch = 0
        self.heartbeat_ms = 10_000
        self.liveness_ms = 40_000
        self.features: tuple[str, ...] = ()
        self.limits = {"ids": 1_000, "frames": 1_000, "body_bytes": 1 << 20}
        super().__init__(context, library)

    def open(self) -> None:
        """As a broker that was started anew."""
        super().open()
        self.epoch += 1
        self.numbers: dict[bytes, int] = {}
        """Of the last outcome, by routing id."""

    def hear_raw(self) -> tuple[bytes, Any, list[bytes]]:
        """Whatever comes next: routing id, header, body."""
        peer, signature, header, *body = super().hear()
        assert signature == SIGNATURE
        return peer, from_client(VERSION, header), body

    def hear_said(self) -> tuple[bytes, Any, list[bytes]]:
        """The next message that is neither hello nor heartbeat."""
        while True:
            peer, message, body = self.hear_raw()
            if isinstance(message, ClientHello):
                self.welcome(peer)
            elif isinstance(message, Heartbeat):
                with contextlib.suppress(zmq.ZMQError):  # who closes says one, and may have gone
                    self.tell(peer, Heartbeat())
            else:
                return peer, message, body

    def hear(self) -> list[bytes]:
        """As in the base class."""
        peer, message, body = self.hear_said()
        assert isinstance(message, Submit), message
        return [peer, message.id, b"", *body]

    def welcome(self, peer: bytes) -> None:
        """Begin a session."""
        self.numbers[peer] = 0
        self.tell(
            peer,
            Welcome(
                epoch=self.epoch,
                heartbeat_ms=self.heartbeat_ms,
                liveness_ms=self.liveness_ms,
                limits=self.limits,
                features=self.features,
            ),
        )

    def tell(self, peer: bytes, message: Any, *body: bytes) -> None:
        """Say this to a client."""
        self.say(peer, SIGNATURE, encode(message), *body)

    def outcome(self, peer: bytes, name: bytes, *body: bytes, **fields: Any) -> None:
        """Tell the next outcome of its session."""
        self.numbers[peer] += 1
        self.tell(peer, Outcome(**{"id": name, "n": self.numbers[peer]} | fields), *body)

    def answer(self, heard: list[bytes], *answer: bytes) -> None:
        """As in the base class."""
        self.outcome(heard[0], heard[1], *(answer or heard[3:]))

    def fail(self, heard: list[bytes]) -> None:
        """As in the base class."""
        self.outcome(heard[0], heard[1], state="discarded", reason="tries_spent")


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """A context of the test's own."""
    with zmq.Context() as context:
        yield context
        context.destroy(linger=0)


@pytest.fixture(params=[Client, Driven], ids=["blocking", "asyncio"])
def library(request: pytest.FixtureRequest) -> Iterator[Library]:
    """Either client."""
    library = Library(request.param)
    yield library
    library.end()


@pytest.fixture(params=[FakeBroker, NativeBroker], ids=["2010", "native"])
def broker(context: zmq.Context[zmq.Socket[bytes]], library: Library, request: pytest.FixtureRequest) -> FakeBroker:
    """A fake broker that listens, in either dialect."""
    made: FakeBroker = request.param(context, library)
    return made


@pytest.fixture
def broker_2010(context: zmq.Context[zmq.Socket[bytes]], library: Library) -> FakeBroker:
    """One that speaks the 2010 dialect."""
    return FakeBroker(context, library)


@pytest.fixture
def native(context: zmq.Context[zmq.Socket[bytes]], library: Library) -> NativeBroker:
    """One that speaks the native dialect."""
    return NativeBroker(context, library)


class Lines:
    """The log lines that the library has written."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def __call__(self, _logger: object, level: str, line: Any) -> Any:
        self._queue.put({**line, "level": level})
        raise structlog.DropEvent

    def wait_for(self, event: str) -> dict[str, Any]:
        """The next line of this event; others before it are skipped."""
        while (line := self._queue.get(timeout=WAIT_MS_MAX / 1000))["event"] != event:
            pass
        return line

    def rest(self) -> list[dict[str, Any]]:
        """What has not been looked at yet."""
        lines = []
        while not self._queue.empty():
            lines.append(self._queue.get())
        return lines


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Log lines; ask for it before making the client."""
    lines = Lines()
    structlog.configure(processors=[lines], cache_logger_on_first_use=False)
    yield lines
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> None:
    """Where a test does not look at the log, keep it out of the way."""
    if "lines" not in request.fixturenames:
        request.getfixturevalue("lines")
