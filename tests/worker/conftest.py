"""A broker's endpoints for workers and answers that do what the test says, and the library's log lines as they come."""

from __future__ import annotations

import queue
import socket as sockets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
import zmq

from relet import Worker

WAIT_MS_MAX = 5_000
WAIT_SECONDS = 5.0


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


class Running:
    """A worker whose `run` is on in a thread, until it is told to end."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

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


@pytest.fixture(autouse=True)
def lines() -> Iterator[Lines]:
    """Log lines of the library."""
    lines = Lines()
    structlog.configure(processors=[lines], cache_logger_on_first_use=False)
    yield lines
    structlog.reset_defaults()
