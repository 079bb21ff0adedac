"""The programs as processes: started by their launchers, watched line by line, ended by their own ids."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
import zmq

from relet import Broker

ROOT = Path(__file__).parent.parent.parent
SECONDS_MAX = 20.0
"""How long a test waits for anything; only a failing test waits that long."""


class Stream:
    """What a process has written to one of its streams, line by line."""

    def __init__(self, source: IO[str]) -> None:
        self.lines: list[str] = []
        self._source = source
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._source:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def find(self, pattern: str) -> re.Match[str]:
        """The first match in any line, once there is one."""
        found: list[re.Match[str]] = []

        def looked() -> bool:
            found.extend(match for line in self.lines if (match := re.search(pattern, line)))
            return bool(found) or self._ended

        with self._changed:
            self._changed.wait_for(looked, SECONDS_MAX)
        assert found, f"no line with {pattern!r} in:\n" + "\n".join(self.lines)
        return found[0]

    @property
    def text(self) -> str:
        """All of it, after the process has ended."""
        self._reader.join(SECONDS_MAX)
        return "\n".join(self.lines)

    def close(self) -> None:
        """Stop reading, whoever still writes."""
        self._reader.join(SECONDS_MAX)
        self._source.close()


class Program:
    """One of the three programs, started by its launcher."""

    def __init__(
        self, name: str, *arguments: str, environment: dict[str, str] | None = None, folder: Path | None = None
    ) -> None:
        command = [sys.executable, str(ROOT / name), *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "COLUMNS": "100", **(environment or {})},
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out = Stream(self.process.stdout)
        self.err = Stream(self.process.stderr)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def end(self) -> int:
        """The exit code, once it has ended by itself."""
        return self.process.wait(SECONDS_MAX)

    def close(self) -> None:
        """End it, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(SECONDS_MAX)
        self.out.close()
        self.err.close()

    def endpoint(self, role: str) -> str:
        """For a broker: what its banner says it has bound."""
        return self.err.find(rf"^  {role} +(\S+)$")[1]


Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs; whatever still runs when the test is over is ended."""
    started: list[Program] = []

    def starter(name: str, *arguments: str, environment: dict[str, str] | None = None) -> Program:
        started.append(Program(name, *arguments, environment=environment))
        return started[-1]

    yield starter
    for program in started:
        program.close()


Connect = Callable[[int, str], "zmq.Socket[bytes]"]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connects a socket of a kind to an endpoint: a plain peer, whose `recv` waits a bounded time."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sockets: list[zmq.Socket[bytes]] = []

    def connecter(kind: int, endpoint: str) -> zmq.Socket[bytes]:
        socket = context.socket(kind)
        sockets.append(socket)
        socket.linger = 0
        socket.rcvtimeo = int(SECONDS_MAX * 1000)
        socket.connect(endpoint)
        return socket

    yield connecter
    for socket in sockets:
        socket.close()
    context.term()


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A broker in this process: three tries of half a second."""
    with Broker("0", "0", "0", tries=3, timeout=0.5) as running:
        yield running
