"""The broker as a process, and peers that can be killed: small programs on plain pyzmq."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import zmq

ROOT = Path(__file__).parents[2]
LIMIT_S = 15.0
"""No test waits longer for one thing."""

WORKER = """
import sys, zmq
kind, workers, answers, answering = sys.argv[1:]
context = zmq.Context()
asks = context.socket(zmq.REQ if kind == "REQ" else zmq.DEALER)
asks.connect(workers)
push = context.socket(zmq.PUSH)
push.connect(answers)
before = [] if kind == "REQ" else [b""]
while True:
    asks.send_multipart([*before, b"ask"])
    print("asked", flush=True)
    frames = asks.recv_multipart()[len(before):]
    print("got", frames[1].decode("latin-1"), flush=True)
    if answering == "echo":
        push.send_multipart(frames)
    else:
        sys.stdin.read()
"""


class Program:
    """A child process whose lines are read as they come; it ends with the test, by its id."""

    def __init__(
        self,
        *command: str,
        reads: str,
        descriptors_max: int | None = None,
        surroundings: Mapping[str, str] | None = None,
    ) -> None:
        """`surroundings`: its environment; None: ours."""
        limits: Callable[[], None] | None = None
        if descriptors_max is not None:

            def limits() -> None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors_max, descriptors_max))

        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if reads == "stdout" else subprocess.DEVNULL,
            stderr=subprocess.PIPE if reads == "stderr" else None,
            env=surroundings,
            preexec_fn=limits,  # noqa: PLW1509 - no thread of the test holds a lock that the child needs
        )
        self.lines: list[str] = []
        self._news = threading.Condition()
        stream = self.process.stdout or self.process.stderr
        assert stream is not None
        self._reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    def _read(self, stream: Any) -> None:
        for line in stream:
            with self._news:
                self.lines.append(line.decode().rstrip("\n"))
                self._news.notify_all()
        stream.close()
        with self._news:
            self._news.notify_all()

    def wait_for(self, found: Callable[[list[str]], Any], limit_s: float = LIMIT_S) -> Any:
        """What `found` makes of the lines, as soon as that is something."""
        with self._news:
            result = self._news.wait_for(lambda: found(self.lines), limit_s)
        assert result, "not in time; the last lines were:\n" + "\n".join(self.lines[-20:])
        return result

    def signal(self, number: int) -> None:
        """Sends a signal to the process."""
        os.kill(self.process.pid, number)

    def ended(self) -> int:
        """Waits for the end; the exit code."""
        code = self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        return code

    def close(self) -> None:
        """Kills it, if it still runs."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        self._reader.join(LIMIT_S)
        assert self.process.stdin is not None
        self.process.stdin.close()


class BrokerProgram(Program):
    """`./broker.py` with JSON lines on stderr."""

    def __init__(self, *arguments: str, descriptors_max: int | None = None) -> None:
        command = (sys.executable, str(ROOT / "broker.py"), "--log-format", "json", *arguments)
        super().__init__(*command, reads="stderr", descriptors_max=descriptors_max)
        self.endpoints = self.event("broker_ready")

    def events(self, name: str, lines: list[str] | None = None) -> list[dict[str, Any]]:
        """The lines of one event, parsed."""
        parsed = [json.loads(line) for line in lines or list(self.lines) if line.startswith("{")]
        return [line for line in parsed if line["event"] == name]

    def event(self, name: str, count: int = 1) -> dict[str, Any]:
        """The `count`-th line of one event, when it comes."""
        found: dict[str, Any] = self.wait_for(lambda lines: self.events(name, lines)[count - 1 :])[0]
        return found


class Place:
    """What one test starts."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._programs: list[Program] = []
        self._sockets: list[zmq.Socket[bytes]] = []

    def broker(self, *arguments: str, at: tuple[str, ...] | None = None, **options: Any) -> BrokerProgram:
        """A broker that is ready."""
        broker = BrokerProgram(*arguments, *(at or ("tcp://127.0.0.1:0",) * 3), **options)
        self._programs.append(broker)
        return broker

    def worker(self, broker: BrokerProgram, kind: str = "REQ", *, answering: str = "echo") -> Program:
        """A worker process that has asked; `answering` is "echo" or "never"."""
        ends = broker.endpoints["workers"], broker.endpoints["answers"]
        worker = Program(sys.executable, "-c", WORKER, kind, *ends, answering, reads="stdout")
        self._programs.append(worker)
        worker.wait_for(lambda lines: "asked" in lines)
        return worker

    def program(self, *command: str, reads: str) -> Program:
        """Any program of Python's, which ends with the test."""
        program = Program(sys.executable, *command, reads=reads)
        self._programs.append(program)
        return program

    def socket(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        """A socket of the test itself."""
        socket = self.context.socket(kind)
        socket.linger = 0
        socket.connect(endpoint)
        self._sockets.append(socket)
        return socket

    def owns(self, socket: zmq.Socket[bytes]) -> None:
        """Ends with the test a socket that was opened elsewhere."""
        self._sockets.append(socket)

    def client(self, broker: BrokerProgram, kind: int = zmq.REQ) -> zmq.Socket[bytes]:
        """A client's socket."""
        return self.socket(kind, broker.endpoints["clients"])

    def close(self) -> None:
        """Ends everything."""
        for program in self._programs:
            program.close()
        for socket in self._sockets:
            socket.close(linger=0)
        self.context.term()


@pytest.fixture
def place() -> Iterator[Place]:
    """Processes and sockets that end with the test."""
    place = Place()
    yield place
    place.close()


def hear(socket: zmq.Socket[bytes], limit_s: float = LIMIT_S) -> list[bytes]:
    """The next message."""
    assert socket.poll(limit_s * 1_000), "no message in time"
    return socket.recv_multipart()


def got(worker: Program, job: str) -> float:
    """Waits until a worker has got `job`; the moment, monotonic seconds."""
    worker.wait_for(lambda lines: f"got {job}" in lines)
    return time.monotonic()
