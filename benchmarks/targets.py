"""What is measured: the broker, with either frame pump, and libzmq's proxy. Each runs as a process of its own.

A target is started on loopback ports that were free a moment ago, is ready when it has named all its endpoints on
standard error, and is ended by its process id, whatever happens. Should this program itself be killed, the kernel ends
its children (PR_SET_PDEATHSIG, prctl(2)).
"""

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks import procfs

ROOT = Path(__file__).resolve().parent.parent
BROKER = (sys.executable, str(ROOT / "broker.py"))

START_WITHIN_S = 20.0
"""A target that has not bound by then will not."""
LEASE_LONG = ("-t", "3", "-T", "3600")
"""Tries and timeout as they are in use (every job has a deadline), but nothing expires during a measurement."""

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class TargetError(RuntimeError):
    """A target did not start, or ended by itself. Says which, and its last words."""


def die_with_parent() -> None:
    """Runs in the child before its program starts: the kernel kills it when this process is gone."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A child process for the time of a `with`; killed by its id at the end, with whatever it has started itself.

    It has a session of its own: Ctrl-C in the terminal is for us, and a command may be wrapped (perf, strace).
    """
    options |= {"text": True, "cwd": ROOT, "start_new_session": True}
    child = subprocess.Popen(command, preexec_fn=die_with_parent, **options)  # noqa: PLW1509 - we start no threads
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def free_ports(number: int) -> list[int]:
    """Loopback TCP ports that nobody listens on (another program may still be quicker)."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for taken in sockets:
            taken.bind(("127.0.0.1", 0))
        return [int(taken.getsockname()[1]) for taken in sockets]


@dataclass(slots=True)
class Target:
    """A running target: its process, its endpoints (proxy: front, back; broker: clients, workers, answers)."""

    name: str
    process: subprocess.Popen[str]
    endpoints: list[str]
    words: IO[bytes]

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self.process.pid

    @property
    def clients_port(self) -> int:
        """The TCP port that clients connect to."""
        return int(self.endpoints[0].rpartition(":")[2])

    def usage(self) -> procfs.Usage:
        """What it has used. Raises TargetError if it has ended."""
        if self.process.poll() is not None:
            raise TargetError(f"{self.name} ended by itself ({self.process.returncode}): {self.last_words()}")
        return procfs.usage(self.pid)

    def spoken(self) -> str:
        """All that it has written. (pread: the child shares our place in the file, and must not be moved.)"""
        words = self.words.fileno()
        return os.pread(words, os.fstat(words).st_size, 0).decode(errors="replace")

    def last_words(self) -> str:
        """The last line that it has written to standard error."""
        lines = self.spoken().strip().splitlines()
        return lines[-1].strip() if lines else "(it said nothing)"

    @property
    def pump(self) -> str:
        """The frame pump that its banner names, or ""."""
        found = re.search(r"pump\W+(cython|python)", re.sub(r"\x1b\[[0-9;]*m", "", self.spoken()))
        return found[1] if found else ""


@contextlib.contextmanager
def _started(name: str, command: Sequence[str], endpoints: int) -> Iterator[Target]:
    ports = free_ports(endpoints)
    addresses = [f"tcp://127.0.0.1:{port}" for port in ports]
    with (
        tempfile.TemporaryFile() as words,
        running([*command, *addresses], stdin=subprocess.DEVNULL, stdout=words, stderr=words) as child,
    ):
        target = Target(name, child, addresses, words)
        deadline = time.monotonic() + START_WITHIN_S
        while not all(str(port) in target.spoken() for port in ports):
            if child.poll() is not None:
                raise TargetError(f"{name} did not start ({child.returncode}): {target.last_words()}")
            if time.monotonic() > deadline:
                raise TargetError(f"{name} had not bound after {START_WITHIN_S:g} s: {target.last_words()}")
            time.sleep(0.01)
        yield target


def proxy() -> contextlib.AbstractContextManager[Target]:
    """libzmq's own proxy."""
    return _started("proxy", [sys.executable, "-m", "benchmarks.proxy"], 2)


def device(name: str, *options: str) -> contextlib.AbstractContextManager[Target]:
    """A queue device, as a user starts it, with as much room as the proxy has."""
    return _started(name, [sys.executable, "-m", "relet", "device", "queue", "--hwm", "0", *options], 2)


def broker(
    command: Sequence[str] = BROKER, *, pump: str = "auto", options: Sequence[str] = LEASE_LONG
) -> contextlib.AbstractContextManager[Target]:
    """The broker, as a user starts it."""
    name = "relet-python" if pump == "python" else "relet"
    return _started(name, [*command, "--pump", pump, *options], 3)
