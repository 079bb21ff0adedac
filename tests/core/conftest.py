"""A machine to talk to, and peers who do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from relet.core.job import COMPLETED, Job
from relet.core.limits import Limits
from relet.core.machine import Machine
from relet.messages import Body, Peer
from relet.testing import census

MS = 1_000_000
S = 1_000 * MS


def tokens() -> Iterator[bytes]:
    """Tokens that a test can read."""
    for number in itertools.count(1):
        yield b"token-%010d" % number


class Play:
    """A conversation with one machine: who speaks is named, time goes on by hand, and every step is checked."""

    def __init__(self, **options: Any) -> None:
        self.now = 1 * S
        self.machine = Machine(tokens(), **options)
        self.told: list[tuple[str, Body]] = []
        """(client, outcome), in order; a failure is b""."""
        self.given: list[tuple[str, bytes]] = []
        """(worker, first frame of a job), in order."""
        self.token: dict[bytes, bytes] = {}
        self._names: dict[Peer, str] = {}
        self._peers: dict[str, Peer] = {}
        self._numbers = itertools.count(10)
        self.unreachable: set[str] = set()

    def peer(self, name: str, socket_type: str = "REQ") -> Peer:
        """The connection of this name; a new one after it was lost."""
        if name not in self._peers:
            number = next(self._numbers)
            peer = self._peers[name] = Peer(b"%04d" % number, number, socket_type)
            self._names[peer] = name
        return self._peers[name]

    def submit(self, *bodies: bytes, client: str = "client") -> None:
        """A client sends requests."""
        self.machine.submit([(self.peer(client), b"", body) for body in bodies], self.now)
        self._carry_out()

    def ask(self, worker: str, times: int = 1, path: bytes = b"", socket_type: str = "REQ") -> None:
        """A worker asks."""
        peer = self.peer(worker, socket_type)
        self.machine.ask([(peer, path, b"")] * times, self.now)
        self._carry_out()

    def answer(self, body: bytes, answer: Body = b"done") -> None:
        """A worker answers the job with this body."""
        self.machine.complete([(self.token[body], answer)], self.now)
        self._carry_out()

    def lose(self, name: str) -> None:
        """A connection is gone."""
        self.machine.lost(self._peers.pop(name), self.now)
        self._carry_out()

    def wait(self, ns: int) -> None:
        """Time goes on; every deadline on the way is kept."""
        until = self.now + ns
        while (due := self.machine.next_deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            self.machine.expire(self.now)
            self._carry_out()
        self.now = until
        self._carry_out()

    def stop(self, jobs_max: int = 1_000_000) -> int:
        """The broker ends."""
        left = self.machine.stop(self.now, jobs_max)
        self._carry_out(matches=False)
        return left

    def _carry_out(self, *, matches: bool = True) -> None:
        machine = self.machine
        census.check(machine)
        if matches:
            machine.match(self.now)
        while machine.dispatched:
            jobs, machine.dispatched = machine.dispatched, []
            failed = [job for job in jobs if not self._hands_over(job)]
            if failed:
                machine.undelivered(failed, self.now)
                machine.match(self.now)
        finished, machine.finished = machine.finished, []
        for job in finished:
            if job.peer is not None:
                self.told.append((self._names[job.peer], job.answer if job.state == COMPLETED else b""))
        census.check(machine)

    def _hands_over(self, job: Job) -> bool:
        assert job.holder is not None
        name = self._names[job.holder.peer]
        if name in self.unreachable:
            return False
        body = job.body if isinstance(job.body, bytes) else b""
        self.given.append((name, body))
        self.token[body] = job.token
        return True

    @property
    def counters(self) -> Any:
        """Of the machine."""
        return self.machine.counters


@pytest.fixture
def play() -> type[Play]:
    """Makes a conversation: `play(tries=3, timeout_ns=...)`."""
    return Play


__all__ = ["MS", "Limits", "Play", "S", "tokens"]
