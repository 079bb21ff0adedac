"""Simulated peers of 2010: clients and workers with the habits, bad and good, of real ones.

Each is a small machine on the simulated clock. What it does with a job is drawn from its `Habits`; what happens to it
- death, freezing, lost connections - is done to it by the world.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any, Protocol

import msgspec

from relet.messages import TOO_LARGE, UNDELIMITED, Body
from relet.testing.clock import MS, US, Clock
from relet.testing.network import Network, Wire


class Surroundings(Protocol):
    """What a peer sees of its world."""

    clock: Clock
    network: Network
    rng: random.Random
    seen_tokens: deque[bytes]
    """Tokens that workers were given lately."""

    def shares(self, client: Any, wanted: Any) -> None:
        """Another native client asks for the same."""

    def next_job(self) -> bytes | None:
        """The first frame of the next job; None when there are enough."""

    def count(self, fault: str) -> None:
        """A fault has happened."""


class Habits(msgspec.Struct, frozen=True, kw_only=True):
    """How often, of all jobs, a worker does what it should not; rates from 0 to 1, drawn one after the other."""

    drops: float = 0.0
    """Asks again and never answers."""
    late: float = 0.0
    """Answers after `late_ns`, most likely too late."""
    twice: float = 0.0
    """Answers two times, differently."""
    dies_before: float = 0.0
    """Its process dies while it works."""
    dies_after: float = 0.0
    """Its process dies right after it has answered."""
    garbles: float = 0.0
    """Answers with an id that nobody has given it."""
    work_ns: int = 2 * MS
    """A job takes up to twice this."""
    late_ns: int = 500 * MS


HONEST = Habits()


class Actor:
    """What clients and workers have in common: a process that can be frozen and can die."""

    def __init__(self, world: Surroundings) -> None:
        self.world = world
        self.frozen = False
        self.alive = True
        self._life = 0
        """What an earlier life had planned is not done in a later one."""
        self._postponed: list[tuple[Any, ...]] = []

    def wires(self) -> list[Wire]:
        """The connections it has."""
        raise NotImplementedError

    def freeze(self, duration_ns: int) -> None:
        """It does nothing for so long: its sockets swallow what comes."""
        if self.frozen or not self.alive:
            return
        self.frozen = True
        self.world.clock.after(duration_ns, self.thaw)

    def thaw(self) -> None:
        """It goes on where it stood."""
        if not self.frozen:
            return
        self.frozen = False
        postponed, self._postponed = self._postponed, []
        for action, *args in postponed:
            action(*args)
        for wire in self.wires():
            wire.resume()

    def _later(self, delay_ns: int, action: Any, *args: Any) -> None:
        self.world.clock.after(delay_ns, self._do, self._life, action, args)

    def _do(self, life: int, action: Any, args: tuple[Any, ...]) -> None:
        if life != self._life or not self.alive:
            return
        if self.frozen:
            self._postponed.append((action, *args))
        else:
            action(*args)

    def die(self, *, reset: bool) -> None:
        """Its process is gone."""
        self.alive = False
        self.frozen = False
        self._life += 1
        self._postponed.clear()
        for wire in self.wires():
            wire.close(reset=reset)


class Client(Actor):
    """A client: REQ with one request at a time, or DEALER with a window of them, each with its own return path."""

    def __init__(
        self,
        world: Surroundings,
        *,
        window: int,
        think_ns: int,
        patience_ns: int | None,
        unread_max: int,
        frames: int,
    ) -> None:
        """`window` 0 is REQ. After `patience_ns` without an answer a REQ client begins anew on another connection."""
        super().__init__(world)
        self.window = window
        self.pending: dict[bytes, bytes] = {}
        """Return path -> job, of what is not answered on this connection."""
        self.done = False
        self.wire: Wire | None = None
        self._think_ns = think_ns
        self._patience_ns = patience_ns
        self._unread_max = unread_max
        self._frames = frames
        self._connect()

    def wires(self) -> list[Wire]:
        """Its one connection."""
        return [self.wire] if self.wire is not None else []

    def _connect(self) -> None:
        socket_type = "DEALER" if self.window else "REQ"
        self.pending.clear()
        self.wire = self.world.network.connect("clients", self, socket_type, self._unread_max)
        if self.wire is None:
            self._later(100 * MS, self._connect)
            return
        for _ in range(self.window or 1):
            self._later(int(self.world.rng.random() * self._think_ns), self._submit, self.wire)

    def _submit(self, wire: Wire) -> None:
        if wire is not self.wire or not wire.up:
            return
        key = self.world.next_job()
        if key is None:
            self.done = True
            return
        path = key[-8:] if self.window else b""
        self.pending[path] = key
        body: Body = key if self._frames == 1 else (key, *[b""] * (self._frames - 1))
        wire.send((path, body))
        if self._patience_ns is not None:
            self._later(self._patience_ns, self._loses_patience, wire, key)

    def _loses_patience(self, wire: Wire, key: bytes) -> None:
        if wire is self.wire and wire.up and key in self.pending.values():
            self.world.count("client_gave_up")
            wire.close(reset=self.world.rng.random() < 0.5)
            self._connect()

    def heard(self, wire: Wire, frames: tuple[Any, ...]) -> None:
        """An outcome: the next job follows."""
        path = frames[0]
        if self.pending.pop(path, None) is None:
            return  # a refusal of something that was no job
        self._later(int(self.world.rng.random() * self._think_ns), self._submit, wire)

    def on_closed(self, wire: Wire) -> None:
        """It connects again, and what it waited for is nobody's any more."""
        if wire is self.wire and self.alive:
            self._later(50 * MS, self._connect)

    def stops_reading(self, duration_ns: int) -> None:
        """It leaves what comes in its socket for so long."""
        wire = self.wire
        if wire is not None and wire.up:
            wire.reading = False
            self._later(duration_ns, self._reads_again, wire)

    def _reads_again(self, wire: Wire) -> None:
        wire.resume()

    def sends_garbage(self) -> None:
        """No delimiter, or far too large; a DEALER can do that."""
        wire = self.wire
        if wire is not None and wire.up and self.window:
            if self.world.rng.random() < 0.5:
                wire.send((None, None, UNDELIMITED))
            else:
                wire.send((None, b"too large", TOO_LARGE))


class Worker(Actor):
    """A worker: REQ with one job at a time, or DEALER that asks ahead; behind a proxy, on several return paths."""

    def __init__(
        self,
        world: Surroundings,
        habits: Habits,
        *,
        ahead: int = 0,
        paths: tuple[bytes, ...] = (b"",),
        unread_max: int = 1 << 30,
    ) -> None:
        """`ahead` 0 is REQ."""
        super().__init__(world)
        self.habits = habits
        self.ahead = ahead
        self._paths = paths
        self._restarts = True
        """Somebody starts it again when it has died or become deaf."""
        self._unread_max = unread_max
        self._asks: Wire | None = None
        self._answers: Wire | None = None
        self._unsent: deque[tuple[Any, ...]] = deque()
        self._connect_answers()
        self._connect_asks()

    def wires(self) -> list[Wire]:
        """The connection on which it asks, and the one on which it answers."""
        return [wire for wire in (self._asks, self._answers) if wire is not None]

    def _connect_asks(self) -> None:
        socket_type = "DEALER" if self.ahead else "REQ"
        self._asks = self.world.network.connect("workers", self, socket_type, self._unread_max)
        if self._asks is None:
            self._later(100 * MS, self._connect_asks)
            return
        for path in self._paths:
            for _ in range(self.ahead or 1):
                self._asks.send((path, b""))

    def _connect_answers(self) -> None:
        self._answers = self.world.network.connect("answers", self, "PUSH")
        if self._answers is None:
            self._later(100 * MS, self._connect_answers)
            return
        while self._unsent:
            self._answers.send(self._unsent.popleft())

    def on_closed(self, wire: Wire) -> None:
        """It connects again: the answers at once, the asks when they can be asked anew."""
        if not self.alive:
            return
        if wire is self._answers:
            self._later(20 * MS, self._connect_answers)
        elif wire is self._asks:
            # A REQ worker whose ask is gone never asks again; it is started anew when somebody sees that it is deaf.
            self._later((200 if self.ahead else 1_000) * MS, self._connect_asks)

    def heard(self, wire: Wire, frames: tuple[Any, ...]) -> None:
        """A job: what becomes of it is drawn."""
        path, _, token, body = frames
        habits, luck = self.habits, self.world.rng.random()
        work_ns = 20 * US + int(self.world.rng.random() * 2 * habits.work_ns)
        if habits is not HONEST:
            for fate, rate in (
                ("drop", habits.drops),
                ("late", habits.late),
                ("twice", habits.twice),
                ("dies_before", habits.dies_before),
                ("dies_after", habits.dies_after),
                ("garbles", habits.garbles),
            ):
                if luck < rate:
                    self.world.count(f"worker_{fate}")
                    self._misbehaves(fate, wire, path, token, body, work_ns)
                    return
                luck -= rate
        self._later(work_ns, self._answer, wire, path, token, body)

    def _misbehaves(self, fate: str, wire: Wire, path: bytes, token: bytes, body: Body, work_ns: int) -> None:
        if fate == "drop":
            self._later(work_ns, self._ask, wire, path)
        elif fate == "late":
            self._later(self.habits.late_ns + work_ns, self._answer, wire, path, token, body)
        elif fate == "twice":
            self._later(work_ns, self._push, (token, b"first", b"of two"))
            self._later(work_ns, self._answer, wire, path, token, body)
        elif fate == "dies_before":
            self._later(work_ns, self._dies)
        elif fate == "dies_after":
            self._later(work_ns, self._push, (token, self._result(body)))
            self._later(work_ns, self._dies)
        else:
            self._later(work_ns, self._push, (bytes(self.world.rng.getrandbits(8) for _ in range(16)), b"?"))
            self._later(work_ns, self._answer, wire, path, token, body)

    def _result(self, body: Body) -> Body:
        key = body[0] if type(body) is tuple else body
        return b"did %d %b" % (self.world.clock.now, bytes(key))  # type: ignore[arg-type]  # a tuple's items are frames

    def _answer(self, wire: Wire, path: bytes, token: bytes, body: Body) -> None:
        self._push((token, self._result(body)))
        self._ask(wire, path)

    def _push(self, message: tuple[Any, ...]) -> None:
        if self._answers is None or not self._answers.up:
            self._unsent.append(message)
        else:
            self._answers.send(message)

    def _ask(self, wire: Wire, path: bytes) -> None:
        if wire is self._asks:
            wire.send((path, b""))

    def _dies(self) -> None:
        self.die(reset=self.world.rng.random() < 0.3)
        if self._restarts:
            self.world.clock.after(100 * MS, self._starts_again)

    def _starts_again(self) -> None:
        if self._restarts and not self.alive:
            self.alive = True
            self._unsent.clear()
            self._connect_answers()
            self._connect_asks()

    def killed(self) -> None:
        """Its process is killed; it may be started again."""
        if self.alive:
            self._dies()

    def retires(self) -> None:
        """It ends for good: what it holds is let again."""
        self._restarts = False
        self.die(reset=False)

    def sends_garbage(self) -> None:
        """An ask without a delimiter; answers that are none."""
        if self._asks is not None and self.ahead:
            self._asks.send((None, None, UNDELIMITED))
        if self._answers is not None:
            self._answers.send((b"",))
            self._answers.send((b"nobody's",))
            self._answers.send((b"", b"", b""))
