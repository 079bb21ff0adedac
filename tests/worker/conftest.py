"""A broker's endpoints for workers and answers that do what the test says, and the library's log lines as they come."""

from __future__ import annotations

import contextlib
import queue
import socket as sockets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
import pytest
import structlog
import zmq

from relet import Worker
from relet.dialects import native
from relet.messages import (
    SIGNATURE,
    VERSION,
    Ack,
    Complete,
    Dispatch,
    Extend,
    Fail,
    HandBack,
    Heartbeat,
    Partial,
    Progress,
    Said,
    Welcome,
    WorkerAsk,
    WorkerHello,
)

WAIT_MS_MAX = 20_000
WAIT_SECONDS = 20.0


def until(condition: Callable[[], bool]) -> None:
    """Let the other threads run until something is so that nobody signals; fails when it does not become so."""
    deadline = time.monotonic() + WAIT_SECONDS
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
    """A ROUTER and a PULL in the test's own thread."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context = context
        self.workers = self.answers = "tcp://127.0.0.1:*"
        self.open()

    def open(self) -> None:
        """Bind, the second time to the same ports."""
        self._asks = self._context.socket(zmq.ROUTER)
        self._asks.linger = 0
        self._asks.router_mandatory = True
        self._asks.bind(self.workers)
        self.workers = self._asks.get_string(zmq.LAST_ENDPOINT)
        self.open_answers()

    def open_answers(self) -> None:
        """Bind the second endpoint alone."""
        self._results = self._context.socket(zmq.PULL)
        self._results.linger = 0
        self._results.bind(self.answers)
        self.answers = self._results.get_string(zmq.LAST_ENDPOINT)

    def close_answers(self) -> None:
        """Close the second endpoint alone."""
        shut(self._results, self.answers)

    def close(self) -> None:
        """Go, with all connections."""
        shut(self._asks, self.workers)
        self.close_answers()

    def ask(self) -> bytes:
        """Who asks next; fails when nobody does."""
        assert self._asks.poll(WAIT_MS_MAX), "no worker asked"
        peer, delimiter, *_ = self._asks.recv_multipart()
        assert delimiter == b""
        return peer

    def nobody_asks(self) -> bool:
        """Whether no ask has arrived."""
        return not self._asks.poll(0)

    def give(self, peer: bytes, id_: bytes, *body: bytes) -> None:
        """Hand a job to a worker."""
        self.say(peer, b"", id_, *body)

    def say(self, peer: bytes, *frames: bytes) -> None:
        """Send any frames."""
        self._asks.send_multipart([peer, *frames])

    def answer(self) -> list[bytes]:
        """The next answer: [id, frames...]; fails when none comes."""
        assert self._results.poll(WAIT_MS_MAX), "no answer came"
        return self._results.recv_multipart()

    def nothing_answered(self) -> bool:
        """Whether no answer has arrived."""
        return not self._results.poll(0)


M = TypeVar("M", bound=Said)


class NativeBroker:
    """A ROUTER in the test's own thread that speaks the native dialect with one worker, as the test says."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], workers: str = "tcp://127.0.0.1:*") -> None:
        self._context = context
        self.workers = workers
        self.peer = b""
        """Who spoke last."""
        self.body: list[bytes] = []
        """Behind the header of the last message."""
        self.seq = 0
        self.acks = True
        """Whether every report that is heard is acknowledged at once."""
        self._welcome: Welcome | None = None
        """What was said last to a hello."""
        self.open()

    def open(self) -> None:
        """Bind, the second time to the same port."""
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.router_mandatory = True
        self._socket.bind(self.workers)
        self.workers = self._socket.get_string(zmq.LAST_ENDPOINT)

    def close(self) -> None:
        """Go, with all connections."""
        if self.workers.startswith("tcp:"):
            shut(self._socket, self.workers)
        self._socket.close()

    def hear(self, kind: type[M]) -> M:
        """The next message, which must be of this kind; heartbeats and asks that tell of a start are skipped, and a
        worker that retires is welcome again.
        """
        while True:
            assert self._socket.poll(WAIT_MS_MAX), f"no {kind.__name__} came"
            self.peer, signature, header, *self.body = self._socket.recv_multipart()
            assert signature == SIGNATURE
            said = native.from_worker(VERSION, header)
            if self.acks and isinstance(said, Complete | Fail | HandBack | Partial | Progress | Extend):
                self.say(Ack(ack=said.n))
            if isinstance(said, kind):
                return said
            if self.acks and self._welcome is not None and isinstance(said, WorkerHello):
                with contextlib.suppress(zmq.ZMQError):  # it has ended meanwhile
                    self.say(msgspec.structs.replace(self._welcome, handed=self.seq))
                continue
            assert isinstance(said, Heartbeat) or self._tells(said), f"{said} came, not {kind.__name__}"

    def _tells(self, said: object) -> bool:
        """Whether this ask is there because a job begins, or asks for nothing."""
        return isinstance(said, WorkerAsk) and (said.started > 0 or said.credit == self.seq)

    def hears_nothing(self, ms: int = 0) -> bool:
        """Whether nothing arrives within this time."""
        return not self._socket.poll(ms)

    def say(self, message: Said, *body: bytes) -> None:
        """To who spoke last."""
        self.send(SIGNATURE, native.encode(message), *body)

    def send(self, *frames: bytes) -> None:
        """Any frames to who spoke last."""
        self._socket.send_multipart([self.peer, *frames])

    def welcome(self, **fields: Any) -> WorkerHello:
        """Hear a hello and welcome it; by default as a broker that expects no heartbeats while the test lasts."""
        hello = self.hear(WorkerHello)
        fields = {"epoch": 1, "heartbeat_ms": 60_000, "liveness_ms": 600_000, "limits": {}, **fields}
        self.seq = fields.get("handed", 0)
        self._welcome = Welcome(**fields)
        self.say(self._welcome)
        return hello

    def begin(self, **fields: Any) -> WorkerAsk:
        """Welcome a worker; its first ask."""
        self.welcome(**fields)
        return self.hear(WorkerAsk)

    def give(self, token: bytes, *body: bytes, **fields: Any) -> None:
        """Hand a job over."""
        self.seq += 1
        job = {"token": token, "seq": self.seq, "job": token.rjust(16, b"j"), "attempt": 1, **fields}
        self.say(Dispatch(**job), *body)


@pytest.fixture
def native_broker(context: zmq.Context[zmq.Socket[bytes]]) -> NativeBroker:
    """A fake broker of the native dialect that listens."""
    return NativeBroker(context)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """A context of the test's own."""
    with zmq.Context() as context:
        yield context
        context.destroy(linger=0)


@pytest.fixture
def broker(context: zmq.Context[zmq.Socket[bytes]]) -> FakeBroker:
    """A fake broker that listens."""
    return FakeBroker(context)


class Gate:
    """A handler that stops in each job until it is let go, and tells which job it has."""

    def __init__(self) -> None:
        self.entered: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.leave: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

    def __call__(self, data: bytes) -> bytes:
        self.entered.put(data)
        said = self.leave.get(timeout=WAIT_SECONDS)
        if isinstance(said, Exception):
            raise said
        return said

    def has(self) -> bytes:
        """Wait until the handler is in a job; its body."""
        return self.entered.get(timeout=WAIT_SECONDS)


class Running:
    """A worker whose `run` is on in a thread, until it is told to end."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def _work(self) -> None:
        self.worker.run()

    def join(self) -> None:
        """Wait until `run` has returned; fails when it does not."""
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive(), "run did not return"

    def __enter__(self) -> Worker:
        return self.worker

    def __exit__(self, *_: object) -> None:
        self.worker.stop()
        self.join()


class Lines:
    """The log lines that the library has written."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def __call__(self, _logger: object, level: str, line: Any) -> Any:
        self._queue.put({**line, "level": level})
        raise structlog.DropEvent

    def wait_for(self, event: str) -> dict[str, Any]:
        """The next line of this event; others before it are skipped."""
        while (line := self._queue.get(timeout=WAIT_SECONDS))["event"] != event:
            pass
        return line

    def events(self) -> list[str]:
        """The events of the lines that are here now; they are not here again."""
        return [self._queue.get()["event"] for _ in range(self._queue.qsize())]


@pytest.fixture(autouse=True)
def lines() -> Iterator[Lines]:
    """Log lines of the library."""
    lines = Lines()
    structlog.configure(processors=[lines], cache_logger_on_first_use=False)
    yield lines
    structlog.reset_defaults()
