"""A broker's clients' endpoint that does what the test says, and the library's log lines as they come."""

from __future__ import annotations

import queue
import socket as sockets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
import zmq

WAIT_MS_MAX = 5_000


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
    """A ROUTER in the test's own thread: it hears and answers when it is told to, and can go and come back."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context = context
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

    def hear(self) -> list[bytes]:
        """The next message: [routing id, correlation, delimiter, body...]; fails when none comes."""
        assert self.socket.poll(WAIT_MS_MAX), "the client sent nothing"
        return self.socket.recv_multipart()

    def is_silent(self, wait_ms: int = 0) -> bool:
        """Whether nothing has arrived."""
        return not self.socket.poll(wait_ms)

    def say(self, *frames: bytes) -> None:
        """Send any frames, the routing id first."""
        self.socket.send_multipart(frames)

    def answer(self, heard: list[bytes], *answer: bytes) -> None:
        """Answer a message that was heard; without frames, echo its body."""
        self.say(*heard[:3], *(answer or heard[3:]))


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
