"""Simulated native peers: clients and workers with the habits, bad and good, that programs and libraries have.

A worker has one connection and a seat or two on it, each with a session of its own on its own return path. A client has
one connection and a window of requests; what it does not hear of, it asks for again, with its age, until it knows. Some
clients ask again because time has passed; others, as our library does, only where the numbers of outcomes show that one
was lost, and in every new session.
Their numbers - credit, starts, reports, receipts - are kept as the protocol says; bad habits lie in them now and then.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import msgspec

from relet.dialects import native
from relet.messages import (
    TOO_LARGE,
    VERSION,
    Ack,
    Body,
    Cancel,
    CancelJob,
    ClientHello,
    Complete,
    Dispatch,
    Error,
    Extend,
    Fail,
    Goodbye,
    HandBack,
    Heartbeat,
    Inquire,
    Item,
    JobState,
    Outcome,
    Partial,
    Progress,
    Recall,
    Said,
    Submit,
    Submitted,
    Welcome,
    WorkerAsk,
    WorkerHello,
)
from relet.testing.clock import MS, US
from relet.testing.network import Wire
from relet.testing.peers import Actor, Surroundings
from relet.testing.policies import Policies

GREETING_NS: Final = 3_000 * MS
"""A hello that nobody has answered for so long is said again."""
STOP_NS_MAX: Final = 2_000 * MS
"""A worker that was stopped and has not ended after so long is killed."""
NEVER: Final = 1 << 62
TOO_MUCH: Final = b"a body that is larger than any may be"
"""Stands for one, and is sent as what the broker cannot take."""
RESENT: Final = ("complete", "fail", "hand_back")
FATES: Final = (
    "drops",
    "late",
    "twice",
    "again",
    "dies_before",
    "dies_after",
    "garbles",
    "fails",
    "fails_later",
    "fails_for_good",
    "hands_back",
    "partials",
    "progresses",
    "extends",
    "foreign",
    "overflows",
)


class NativeHabits(msgspec.Struct, frozen=True, kw_only=True):
    """How often, of all jobs, a worker does this; rates from 0 to 1, drawn one after the other."""

    drops: float = 0.0
    """Never reports."""
    late: float = 0.0
    """Answers after `late_ns`."""
    twice: float = 0.0
    """Answers two times, the second time as another report."""
    again: float = 0.0
    """Says its answer two times, word for word."""
    dies_before: float = 0.0
    dies_after: float = 0.0
    garbles: float = 0.0
    """Answers with a token that nobody has given it, too."""
    fails: float = 0.0
    fails_later: float = 0.0
    """Fails, and wants the next attempt after a while."""
    fails_for_good: float = 0.0
    hands_back: float = 0.0
    partials: float = 0.0
    progresses: float = 0.0
    extends: float = 0.0
    foreign: float = 0.0
    """Answers with the token of a job that it had long ago, or of another worker."""
    overflows: float = 0.0
    """Answers with more than an answer may have, of bytes or of headers."""
    mute: float = 0.0
    """Of all heartbeats, how many it forgets."""
    lies: float = 0.0
    """Of all messages, how many have wrong numbers."""
    speaks_first: float = 0.5
    """Of all starts, how many it tells at once; the others show by their reports."""
    work_ns: int = 2 * MS
    late_ns: int = 500 * MS


GOOD = NativeHabits()


class Begun:
    """A job that a seat has got."""

    __slots__ = ("body", "dropped", "lost", "said", "token")

    def __init__(self, token: bytes, said: Dispatch, body: Body) -> None:
        self.token = token
        self.said = said
        self.body = body
        self.dropped = False
        """Its worker has forgotten it, and has not noticed."""
        self.lost = False
        """It is not the worker's any more."""


class Seat:
    """One session of a worker."""

    def __init__(self, worker: NativeWorker, path: bytes) -> None:
        self.worker = worker
        self.path = path
        self.welcomed = False
        self.hello_at = 0
        self._begins_anew()

    def _begins_anew(self) -> None:
        """As a process that has just been started."""
        self.incarnation = self.worker.world.rng.getrandbits(128).to_bytes(16, "big")
        self.held: dict[bytes, Begun] = {}
        self.running: dict[bytes, Begun] = {}
        self.reports: deque[tuple[int, Any, Body, bool]] = deque()
        """(number, report, body, whether on a job that it had started): not acknowledged."""
        self.n = 0
        self.last = 0
        """Number of the last hand-over that is known."""
        self.started_said = 0
        self.old: deque[bytes] = deque(maxlen=20)
        """Tokens of jobs that it has had."""
        self.retiring = False
        """It finishes what it does, and wants nothing more."""

    # --- The session

    def hello(self) -> None:
        """It says who it is and what it has."""
        worker = self.worker
        self.welcomed = False
        self.hello_at = worker.world.clock.now
        unacked = [report.token for _, report, _, begun in self.reports if begun]
        said = WorkerHello(
            incarnation=self.incarnation,
            queues=worker.queues,
            weights=worker.weights,
            capacity=worker.capacity,
            running=tuple({**dict.fromkeys(self.running), **dict.fromkeys(unacked)}),
            held=tuple(self.held),
            features=worker.features,
            agent="simulated",
        )
        worker.says(self, said)

    def heard(self, said: Any, body: Body) -> None:
        """The broker says something."""
        match said:
            case Dispatch():
                self._got(said, body)
            case Welcome():
                self._welcome(said)
            case Ack():
                self._acked(said.ack)
            case Recall():
                for token in said.tokens:
                    begun = self.held.pop(token, None)
                    if begun is not None:
                        self.report(HandBack(token=token, n=0))
            case Cancel():
                self.held.pop(said.token, None)
                if self.worker.world.rng.random() < 0.5:
                    self._forget(said.token)
                self._fill()
            case Error() if said.code == "no_session":
                if self.welcomed or self.worker.world.rng.random() < 0.2:
                    self.hello()

    def _welcome(self, said: Welcome) -> None:
        worker = self.worker
        worker.epoch, worker.liveness_ns, worker.heartbeat_ns = (
            said.epoch,
            said.liveness_ms * MS,
            said.heartbeat_ms * MS,
        )
        self.welcomed = True
        lost = dict.fromkeys(said.lost)  # in their order: what becomes of each is drawn
        for token in lost:
            self.held.pop(token, None)
            if worker.world.rng.random() < 0.5:
                self._forget(token)
            elif token in self.running:
                self.running[token].lost = True
        self.last = said.handed
        self.started_said = 0
        while self.reports and self.reports[0][0] <= said.received:
            self.reports.popleft()
        for n, report, body, _ in self.reports:
            worker.says(self, msgspec.structs.replace(report, n=n, **self.numbers()), body)
        self.ask()
        self._fill()

    def _acked(self, number: int) -> None:
        while self.reports and self.reports[0][0] <= number:
            self.reports.popleft()

    def _forget(self, token: bytes) -> None:
        begun = self.running.pop(token, None)
        if begun is not None:
            begun.dropped = True

    @property
    def credit(self) -> int:
        """Hand-overs that it wants, all in all."""
        worker = self.worker
        if self.retiring:
            return self.last
        return self.last + max(0, worker.capacity + worker.ahead - len(self.held) - len(self.running))

    @property
    def started(self) -> int:
        """All hand-overs up to here were started, or given back."""
        if not self.held:
            return self.last
        return min(begun.said.seq for begun in self.held.values()) - 1

    def numbers(self) -> dict[str, int]:
        """The numbers that every message may carry."""
        worker, rng = self.worker, self.worker.world.rng
        credit, started = self.credit, self.started if "starts" in worker.features else 0
        self.started_said = started
        lies = worker.habits.lies
        if lies and rng.random() < lies:
            worker.world.count("worker_lies")
            credit = rng.choice((0, credit - 1, credit + 3, 5_000_000)) if rng.random() < 0.5 else credit
            started = rng.choice((0, started + 2, 1 << 40)) if rng.random() < 0.5 else started
        return {"credit": max(0, credit), "started": max(0, started)}

    def ask(self) -> None:
        """It says its numbers and nothing else."""
        if self.welcomed:
            self.worker.says(self, WorkerAsk(**self.numbers()))

    def report(self, report: Any, body: Body = b"", begun: bool = False) -> None:
        """A report, under the next number; with it go the other numbers. `begun`: on a job that it had started."""
        self.n += 1
        report = msgspec.structs.replace(report, n=self.n)
        if type(report) in (Complete, Fail, HandBack):
            self.reports.append((self.n, report, body, begun))
        if self.welcomed:
            self.worker.says(self, msgspec.structs.replace(report, **self.numbers()), body)

    # --- Jobs

    def _got(self, said: Dispatch, body: Body) -> None:
        self._acked(said.ack)
        self.last = said.seq
        if not self.welcomed:  # it was sent before the hello was read, which did not name it: the broker has it back
            return
        self.old.append(said.token)
        worker = self.worker
        worker.world.seen_tokens.append(said.token)
        self.held[said.token] = Begun(said.token, said, body)
        if self.retiring:
            del self.held[said.token]
            self.report(HandBack(token=said.token, n=0))
        elif len(self.running) < worker.capacity:
            worker.later(int(worker.world.rng.random() * 50 * US), self._fill)

    def _fill(self) -> None:
        """It starts what it can."""
        worker = self.worker
        while self.welcomed and self.held and len(self.running) < worker.capacity:
            token = next(iter(self.held))
            begun = self.held.pop(token)
            self.running[token] = begun
            if worker.world.rng.random() < worker.habits.speaks_first:
                self.ask()
            self._does(begun)

    def _does(self, begun: Begun) -> None:
        worker, habits, rng = self.worker, self.worker.habits, self.worker.world.rng
        work_ns = 20 * US + int(rng.random() * 2 * habits.work_ns)
        if habits is not GOOD:
            luck = rng.random()
            for fate in FATES:
                rate = getattr(habits, fate)
                if luck < rate:
                    worker.world.count(f"native_{fate}")
                    self._misbehaves(fate, begun, work_ns)
                    return
                luck -= rate
        worker.later(work_ns, self._completes, begun)

    def _misbehaves(self, fate: str, begun: Begun, work_ns: int) -> None:
        worker, rng = self.worker, self.worker.world.rng
        token = begun.token
        match fate:
            case "drops":
                worker.later(work_ns, self._drops, begun)
            case "late":
                worker.later(worker.habits.late_ns + work_ns, self._completes, begun)
            case "dies_before":
                worker.later(work_ns, worker.killed)
            case "dies_after":
                worker.later(work_ns, self._completes, begun)
                worker.later(work_ns, worker.killed)
            case "twice":
                worker.later(work_ns, self._completes, begun, b"first of two")
                worker.later(work_ns, self.report, Complete(token=token, n=0), b"second of two")
            case "again":
                worker.later(work_ns, self._completes, begun)
                worker.later(work_ns, self._says_again)
            case "garbles":
                wrong = rng.getrandbits(128).to_bytes(16, "big")
                worker.later(work_ns // 2, self.report, Complete(token=wrong, n=0), b"?")
                worker.later(work_ns, self._completes, begun)
            case "foreign":
                others = (*self.old, *worker.world.seen_tokens)
                report = rng.choice((Complete, Fail, HandBack, Progress, Partial))(token=rng.choice(others), n=0)
                worker.later(work_ns // 2, self.report, report, b"old")
                worker.later(work_ns, self._completes, begun)
            case "overflows":
                headers = {"too": "much" * 10_000} if rng.random() < 0.5 else None
                body = b"" if headers else TOO_MUCH
                worker.later(work_ns, self._ends, begun, Complete(token=token, n=0, headers=headers), body)
            case "hands_back":
                worker.later(work_ns, self._ends, begun, HandBack(token=token, n=0))
            case "fails" | "fails_later" | "fails_for_good":
                retry_ms = rng.choice((1, 20, 300)) if fate == "fails_later" else None
                final = fate == "fails_for_good"
                fail = Fail(token=token, n=0, kind="Sim", text="it was drawn", retry_ms=retry_ms, final=final)
                worker.later(work_ns, self._ends, begun, fail)
            case _:
                self._goes_on(fate, begun, work_ns, rng.randrange(1, 4))

    def _goes_on(self, fate: str, begun: Begun, work_ns: int, left: int) -> None:
        """Partial results, progress or extensions, then the answer."""
        if begun.dropped:
            return
        token = begun.token
        if not left:
            self._completes(begun)
            return
        if fate == "partials":
            self.report(Partial(token=token, n=0), b"piece")
        elif fate == "progresses":
            self.report(Progress(token=token, n=0, done=1.0, total=4.0, note="on"))
        else:
            run_ms = self.worker.world.rng.choice((0, 1, 50, 1_000, 1 << 50))
            self.report(Extend(token=token, n=0, run_ms=run_ms))
        self.worker.later(work_ns, self._goes_on, fate, begun, work_ns, left - 1)

    def _drops(self, begun: Begun) -> None:
        """It thinks that it is done with it."""
        self._forget(begun.token)
        self._fill()
        self.ask()

    def _completes(self, begun: Begun, answer: bytes = b"") -> None:
        key = begun.body[0] if type(begun.body) is tuple else begun.body
        world = self.worker.world
        headers = {"by": "sim"} if world.rng.random() < 0.05 else None
        answer = answer or b"did %d %b" % (world.clock.now, bytes(key))  # type: ignore[arg-type]  # frames
        body: Body = answer if world.rng.random() < 0.95 else (answer, b"", b"more")
        self._ends(begun, Complete(token=begun.token, n=0, headers=headers), body)

    def _ends(self, begun: Begun, report: Any, body: Body = b"") -> None:
        """A job has its outcome, and the next one begins."""
        if begun.dropped:
            return
        if self.running.pop(begun.token, None) is None:
            return
        self.report(report, body, begun=True)
        self._fill()

    def _says_again(self) -> None:
        if self.reports and self.welcomed:
            n, report, body, _ = self.reports[-1]
            self.worker.says(self, msgspec.structs.replace(report, n=n, **self.numbers()), body)

    def slept(self) -> None:
        """It slept for so long that it may be taken for lost: what it has not started it must not start."""
        self.held.clear()
        self.hello()

    def retires(self, *, takes_back: bool) -> None:
        """It finishes what it does, and wants nothing more. `takes_back`: by another hello it takes back what it has
        asked for; else it only hands back what comes.
        """
        self.retiring = True
        if takes_back and self.welcomed:
            self.held.clear()
            self.hello()
            return
        for token in list(self.held):
            del self.held[token]
            self.report(HandBack(token=token, n=0))

    @property
    def is_done(self) -> bool:
        """It does nothing, and all that it reported is safe."""
        return not self.running and not self.reports

    def says_goodbye(self) -> None:
        """It ends its session; the next one is another's."""
        if self.welcomed:
            self.worker.says(self, Goodbye())
            for token in list(self.running):
                self._forget(token)
            self._begins_anew()
            self.hello()


class NativeWorker(Actor):
    """A native worker."""

    def __init__(
        self,
        world: Surroundings,
        habits: NativeHabits,
        *,
        queues: tuple[str, ...] = ("default",),
        capacity: int = 1,
        ahead: int = 1,
        features: tuple[str, ...] = ("starts", "recalls"),
        paths: tuple[bytes, ...] = (b"",),
        unread_max: int = 1 << 30,
        weights: tuple[int, ...] = (),
    ) -> None:
        super().__init__(world)
        self.habits = habits
        self.queues = queues
        self.weights = weights
        self.capacity = capacity
        self.ahead = ahead
        self.features = features
        self.epoch = 0
        self.liveness_ns = 10_000 * MS
        self.heartbeat_ns = 2_500 * MS
        self._unread_max = unread_max
        self._restarts = True
        self._stopping = False
        self._heard_at = self._said_at = 0
        self.wire: Wire | None = None
        self.seats = {path: Seat(self, path) for path in paths}
        self._connect()
        self._beat(self._life)

    def wires(self) -> list[Wire]:
        """Its one connection."""
        return [self.wire] if self.wire is not None else []

    def later(self, delay_ns: int, action: Any, *args: Any) -> None:
        """What is done in this life, unless it is frozen then."""
        self._later(delay_ns, action, *args)

    def says(self, seat: Seat, said: Said, body: Body = b"") -> None:
        """A message of one seat."""
        wire = self.wire
        if wire is not None:
            self._said_at = self.world.clock.now
            header = native.encode(said)
            if body is TOO_MUCH:
                wire.send((None, seat.path, TOO_LARGE, VERSION, header))
            else:
                wire.send((seat.path, VERSION, header, body))

    def _connect(self) -> None:
        self.wire = self.world.network.connect("workers", self, "DEALER", self._unread_max)
        if self.wire is None:
            self._later(50 * MS, self._connect)
            return
        self._heard_at = self.world.clock.now
        for seat in self.seats.values():
            seat.hello()

    def heard(self, wire: Wire, frames: tuple[Any, ...]) -> None:
        """The broker says something."""
        if wire is not self.wire:
            return
        self._heard_at = self.world.clock.now
        path, _, header, *rest = frames
        if path in self.seats:
            self.seats[path].heard(native.to_worker(VERSION, header), rest[0] if rest else ())

    def on_closed(self, wire: Wire) -> None:
        """It connects again, and begins nothing until it is welcome there."""
        if wire is self.wire and self.alive:
            for seat in self.seats.values():
                seat.welcomed = False
            self._later(self.world.rng.choice((1, 20, 300, 2_000)) * MS, self._connect)

    def _beat(self, life: int) -> None:
        """It says that it is there, and looks whether the broker is."""
        if life != self._life or not self.alive:
            return
        clock = self.world.clock
        if not self.frozen and self.wire is not None and self.wire.up:
            if clock.now - self._heard_at > self.liveness_ns + self.heartbeat_ns:
                self.world.count("broker_silent")
                self.wire.close(reset=False)
                for seat in self.seats.values():
                    seat.welcomed = False
                self._connect()
            elif self.world.rng.random() >= self.habits.mute:
                for seat in self.seats.values():
                    if seat.welcomed:
                        self.says(seat, Heartbeat(**seat.numbers()))
                    elif seat.hello_at + self.liveness_ns < clock.now:
                        seat.hello()
            else:
                self.world.count("worker_mute")
        clock.after(max(MS, self.heartbeat_ns), self._beat, life)

    def freeze(self, duration_ns: int) -> None:
        """It stops; what it does when it slept for too long is `thaw`'s affair."""
        if not self.frozen and self.alive:
            self._frozen_at = self.world.clock.now
        super().freeze(duration_ns)

    def thaw(self) -> None:
        """It goes on; the very first thing that it does is to look at the clock."""
        if self.frozen and self.world.clock.now - self._frozen_at > self.liveness_ns:
            self.world.count("overslept")
            for seat in self.seats.values():
                seat.slept()
        super().thaw()

    def killed(self) -> None:
        """Its process is killed; it may be started again, as another."""
        if not self.alive:
            return
        self.die(reset=self.world.rng.random() < 0.3)
        if self._restarts:
            self.world.clock.after(100 * MS, self._starts_again)

    def _starts_again(self) -> None:
        if self._restarts and not self.alive:
            self.alive = True
            self._stopping = False
            for seat in self.seats.values():
                seat.welcomed = False
                seat._begins_anew()  # noqa: SLF001 - a seat is part of its worker
            self._connect()
            self._beat(self._life)

    def stopped(self, *, takes_back: bool) -> None:
        """Its process is told to end, as with every new version of a program, and another takes its place."""
        if self.alive and not self.frozen and not self._stopping:
            self._stopping = True
            for seat in self.seats.values():
                seat.retires(takes_back=takes_back)
            self._ends(self.world.clock.now + STOP_NS_MAX)

    def _ends(self, at: int) -> None:
        """It does when it has done what it had, or when who stopped it is out of patience."""
        if self.world.clock.now < at and not all(seat.is_done for seat in self.seats.values()):
            self._later(5 * MS, self._ends, at)
            return
        for seat in self.seats.values():
            if seat.welcomed:
                self.says(seat, Goodbye())
        self.killed()

    def retires(self) -> None:
        """It ends for good: what it holds is let again."""
        self._restarts = False
        if self.alive and self.world.rng.random() < 0.3:
            for seat in self.seats.values():
                seat.says_goodbye()
        self.die(reset=False)

    def sends_garbage(self) -> None:
        """What no broker can read, and what it must not believe."""
        wire, rng = self.wire, self.world.rng
        if wire is None or not wire.up:
            return
        path = rng.choice(tuple(self.seats))
        match rng.randrange(8):
            case 0:
                wire.send((path, VERSION + 1, b"\x80", b""))
            case 1:
                wire.send((path, VERSION, b"no map", b"body"))
            case 2:
                wire.send((path, VERSION, native.encode({"t": "resign"}), b""))
            case 3:
                wire.send((path, VERSION, native.encode({"t": "complete", "token": 7}), b""))
            case 4:
                wire.send((path, VERSION, native.encode(WorkerHello(incarnation=rng.choice((b"short", b"")))), b""))
            case 5:
                wire.send((b"\0\0\0\1x", VERSION, native.encode(WorkerAsk(credit=5)), b""))
            case 6:
                header = native.encode(Complete(token=b"t" * 16, n=0))
                wire.send((None, path, TOO_LARGE, VERSION, header))
            case _:
                for seat in self.seats.values():
                    seat.says_goodbye()


class Wanted:
    """A request of a client, until it knows its outcome."""

    __slots__ = ("asked_at", "body", "cancelled", "due", "joins", "name", "said", "sent")

    def __init__(self, name: bytes, body: Body, said: Submit, asked_at: int) -> None:
        self.name = name
        self.body = body
        self.said = said
        self.asked_at = asked_at
        self.sent = False
        """Whether it was asked before."""
        self.cancelled = False
        """It is not wanted any more."""
        self.due = 0
        """When to ask again; NEVER where the numbers say when."""


class NativeClient(Actor):
    """A native client."""

    def __init__(
        self,
        world: Surroundings,
        *,
        window: int,
        think_ns: int,
        patience_ns: int | None,
        unread_max: int,
        queues: tuple[str, ...] = ("default",),
        receipts: str = "prompt",
        strange: float = 0.0,
        shares: float = 0.0,
        path: bytes = b"",
        policies: Policies | None = None,
    ) -> None:
        """`patience_ns`: how long it waits until it asks again. None: it trusts the numbers, and says nothing but hello
        before it is welcome. `receipts`: "prompt", "lazy" or "never". `strange`: how often it asks for something
        unusual. `shares`: how often another client asks for the same.
        """
        super().__init__(world)
        self.window = window
        self.queues = queues
        self.receipts = receipts
        self.strange = strange
        self.shares = shares
        self.path = path
        self.policies = policies
        self.wanted: dict[bytes, Wanted] = {}
        self.laid: deque[tuple[bytes, int]] = deque(maxlen=50)
        """Requests that it did not wait for, and when it asked."""
        self.done = False
        self.received = 0
        """All outcomes of this session up to this number have come."""
        self.given_up = 0
        self.wire: Wire | None = None
        self._think_ns = think_ns
        self._patience_ns = patience_ns
        self._unread_max = unread_max
        self._welcomed = False
        self._highest = 0
        """Number of the last outcome that came, or is known to be lost."""
        self._session = 0
        self._hello_at = 0
        self._heartbeat_ns = 2_500 * MS
        self._beat_at = 0
        self._counted_at = 0
        """When it heard last of an outcome, or how many there are."""
        self._repaired_at = -NEVER
        self._receipted = 0
        self._ids: dict[bytes, bytes] = {}
        self._connect()
        self._look(self._life)

    def wires(self) -> list[Wire]:
        """Its one connection."""
        return [self.wire] if self.wire is not None else []

    def says(self, said: Said, body: Body = b"") -> None:
        """A message."""
        if self.wire is not None:
            self.wire.send((self.path, VERSION, native.encode(said), body))

    def _connect(self) -> None:
        self._begins_session()
        self.wire = self.world.network.connect("clients", self, "DEALER", self._unread_max)
        if self.wire is None:
            self._later(50 * MS, self._connect)
            return
        self._hello()

    def _begins_session(self) -> None:
        """Whatever it knew of numbers was of the session before."""
        self.received = self._receipted = self._highest = 0
        self._welcomed = False
        self._session += 1

    def _hello(self) -> None:
        self._begins_session()
        self._hello_at = self.world.clock.now
        self.says(ClientHello(features=("follows",), agent="simulated"))
        if self._patience_ns is not None:
            self._goes_on()

    def _welcome(self, said: Welcome) -> None:
        if self._welcomed:  # it had said hello twice, and what it has asked since is of this session
            self._begins_session()
        elif self._patience_ns is None:
            self._welcomed = True
            self._goes_on()
        self._welcomed = True
        self._heartbeat_ns = said.heartbeat_ms * MS
        self._beat_at = self._counted_at = self.world.clock.now

    def _goes_on(self) -> None:
        """It asks for all that is open, and for more."""
        for wanted in list(self.wanted.values()):
            self._asks(wanted)
        self._later(int(self.world.rng.random() * self._think_ns), self._fill)

    @property
    def _may_ask(self) -> bool:
        return self._welcomed or self._patience_ns is not None

    def _fill(self) -> None:
        """It asks for more, one or many at a time."""
        if not self._may_ask:
            return
        world, rng = self.world, self.world.rng
        while len(self.wanted) < self.window and not self.done:
            many = rng.randrange(2, 6) if rng.random() < 0.1 else 1
            several: list[Wanted] = []
            said = self._terms()
            if self.policies is not None:
                said = self.policies.asked(rng, said, world.clock.now)
            for _ in range(many):
                key = world.next_job()
                if key is None:
                    self.done = True
                    break
                name = key.ljust(rng.choice((16, 16, 16, 64)), b".")
                body: Body = key if rng.random() < 0.9 else (key, b"", b"second")
                wanted = Wanted(name, body, said, world.clock.now)
                several.append(wanted)
            if not several:
                return
            if len(several) == 1:
                self._begins(several[0])
            else:
                self._begins_many(several)
            if self._think_ns:
                self._later(int(rng.random() * self._think_ns), self._fill)
                return

    def _terms(self) -> Submit:
        rng = self.world.rng
        queue = rng.choice(self.queues)
        ack = rng.random() < 0.3
        if rng.random() >= self.strange:
            return Submit(queue=queue, ack=ack)
        pick = rng.choice
        return Submit(
            queue=queue,
            ack=ack,
            wait=rng.random() < 0.8,
            follow=rng.random() < 0.3,
            headers=pick((None, None, {"trace": "on"})),
            run_ms=pick((None, None, 0, 20, 200, 2_000)),
            silence_ms=pick((None, None, 10, 500)),
            late=pick(("any", "current")),
            gone=pick(("finish", "finish", "cancel")),
            keep_ms=pick((0, 0, 50, 1_000)),
        )

    def _begins(self, wanted: Wanted) -> None:
        if wanted.said.wait:
            self.wanted[wanted.name] = wanted
        else:
            self.laid.append((wanted.name, wanted.asked_at))
        self._asks(wanted)
        rng = self.world.rng
        if self.policies is not None and rng.random() < self.policies.cancels:
            self._later(int(rng.random() * 50 * MS), self._cancels, wanted)
        if self.shares and rng.random() < self.shares:
            if rng.random() < 0.5:  # without any need
                self._later(int(rng.random() * 5 * MS), self._asks_twice, wanted)
            else:
                self.world.shares(self, wanted)

    def _begins_many(self, several: list[Wanted]) -> None:
        said = several[0].said
        frames: list[Any] = []
        items: list[Item] = []
        for wanted in several:
            wanted.sent = True
            wanted.due = self._due
            if said.wait:
                self.wanted[wanted.name] = wanted
            else:
                self.laid.append((wanted.name, wanted.asked_at))
            parts = wanted.body if type(wanted.body) is tuple else (wanted.body,)
            frames += parts
            items.append(Item(id=wanted.name, frames=len(parts)))
        self.says(msgspec.structs.replace(said, jobs=tuple(items), **self._receipt()), tuple(frames))

    def joins(self, other: Wanted) -> None:
        """Somebody else's request is asked for here, too."""
        if self.alive and other.name not in self.wanted:
            wanted = Wanted(other.name, other.body, msgspec.structs.replace(other.said, wait=True), other.asked_at)
            wanted.sent = True
            self.wanted[wanted.name] = wanted
            if self._may_ask:
                self._asks(wanted)

    def _cancels(self, wanted: Wanted) -> None:
        """It does not want it any more, whether it waits for it or not."""
        if not self._may_ask:
            return
        if wanted.said.wait:
            if self.wanted.get(wanted.name) is not wanted:
                return
            wanted.cancelled = True
        self.world.count("client_cancelled")
        job = self._ids.get(wanted.name, b"")
        if job and self.world.rng.random() < 0.5:
            self.says(CancelJob(job=job, **self._receipt()))
        else:
            self.says(CancelJob(id=wanted.name, **self._receipt()))

    def _asks(self, wanted: Wanted) -> None:
        """It asks, or asks again; or says again that it does not want it."""
        if wanted.cancelled:
            wanted.due = self._due
            self.says(CancelJob(id=wanted.name, **self._receipt()))
            return
        now = self.world.clock.now
        age_ms = max(1, -(-(now - wanted.asked_at) // MS)) if wanted.sent else 0
        wanted.sent = True
        wanted.due = self._due
        said = msgspec.structs.replace(wanted.said, id=wanted.name, age_ms=age_ms, **self._receipt())
        self.says(said, wanted.body)

    @property
    def _due(self) -> int:
        return NEVER if self._patience_ns is None else self.world.clock.now + self._patience_ns

    def _asks_twice(self, wanted: Wanted) -> None:
        if wanted.name in self.wanted and self._may_ask:
            self._asks(wanted)

    def _receipt(self) -> dict[str, Any]:
        if self.receipts != "prompt":
            return {}
        self._receipted = self.received
        return {"received": self.received}

    def heard(self, wire: Wire, frames: tuple[Any, ...]) -> None:
        """The broker says something."""
        path, _, header, *_ = frames
        if wire is not self.wire or path != self.path:
            return
        said = native.to_client(VERSION, header)
        match said:
            case Outcome():
                self._counts(said.n)
                if self.wanted.pop(said.id, None) is not None:
                    self._later(int(self.world.rng.random() * self._think_ns), self._fill)
            case Submitted():
                for each in said.jobs:
                    if each.code:
                        self._is_refused(each.id, each.code, each.retry_ms)
                    elif each.job:
                        self._ids[each.id] = each.job
            case JobState():
                wanted = self.wanted.get(said.id)
                if wanted is not None and wanted.cancelled:
                    del self.wanted[said.id]
            case Heartbeat():
                self._so_many_were_told(said.told)
            case Welcome():
                self._welcome(said)
            case Error() if said.code == "no_session" and self._welcomed:
                self._hello()

    def _counts(self, number: int) -> None:
        """An outcome has come; of the session before, where it is not welcome yet."""
        self._counted_at = self.world.clock.now
        if self._welcomed and number == self.received + 1:
            self.received = number
        else:
            self._misses(number)

    def _so_many_were_told(self, number: int) -> None:
        """Outcomes and heartbeats come in order."""
        self._counted_at = self.world.clock.now
        self._misses(number)

    def _misses(self, number: int) -> None:
        """So many were told; where not all of them have come, it begins a new session and asks again."""
        if not self._welcomed or number <= max(self._highest, self.received):
            return
        self._highest = number
        wait_ns = max(0, self._repaired_at + self._heartbeat_ns - self.world.clock.now)
        self._later(wait_ns, self._repairs, self._session)

    def _repairs(self, session: int) -> None:
        if session == self._session:
            self._repaired_at = self.world.clock.now
            self.world.count("gaps_repaired")
            self._hello()

    def _is_refused(self, name: bytes, code: str, retry_ms: int) -> None:
        wanted = self.wanted.get(name)
        if wanted is None:
            return
        if retry_ms:
            wanted.due = self.world.clock.now + retry_ms * MS
        else:
            self.given_up += 1
            self.world.count(f"gave_up_{code}")
            del self.wanted[name]

    def on_closed(self, wire: Wire) -> None:
        """It connects again, and asks again for what it waits for."""
        if wire is self.wire and self.alive:
            self._later(self.world.rng.choice((10, 50, 1_500)) * MS, self._connect)

    def _look(self, life: int) -> None:
        """Now and then it asks again for what it has not heard of, and says what it has received."""
        if life != self._life or not self.alive:
            return
        clock, rng = self.world.clock, self.world.rng
        clock.after(200 * MS, self._look, life)
        if self.frozen or self.wire is None or not self.wire.up:
            return
        if not self._welcomed and self._hello_at + GREETING_NS <= clock.now:
            self._hello()
        if not self._may_ask:
            return
        for wanted in list(self.wanted.values()):
            if wanted.due <= clock.now:
                self.world.count("asked_again")
                self._asks(wanted)
        self._beats()
        if self.laid and rng.random() < 0.3:
            name, _ = rng.choice(self.laid)
            job = self._ids.get(name, b"")
            wait = rng.random() < 0.5
            self.says(Inquire(job=job, wait=wait) if job and rng.random() < 0.5 else Inquire(id=name, wait=wait))

    def _beats(self) -> None:
        """It says what it has received, and asks how much was told while it waits."""
        now, receipts = self.world.clock.now, self.receipts
        silent = max(self._beat_at, self._counted_at) + self._heartbeat_ns <= now
        due = self.received > self._receipted and (receipts == "prompt" or self.world.rng.random() < 0.1)
        if (due and receipts != "never") or (self.wanted and silent):
            self._beat_at = now
            if receipts != "never":
                self._receipted = self.received
            self.says(Heartbeat(received=self._receipted))

    def stops_reading(self, duration_ns: int) -> None:
        """It leaves what comes in its socket for so long."""
        wire = self.wire
        if wire is not None and wire.up:
            wire.reading = False
            self._later(duration_ns, wire.resume)

    def sends_garbage(self) -> None:
        """What no broker can read, and what can be no request."""
        rng, name = self.world.rng, b"garbage".ljust(16, b".")
        if self.wire is None or not self.wire.up:
            return
        match rng.randrange(10):
            case 0:
                self.wire.send((self.path, VERSION + 6, b"\x80", b""))
            case 1:
                self.wire.send((self.path, VERSION, b"", b"body"))
            case 2:
                self.wire.send((self.path, VERSION, native.encode({"t": "order"}), b""))
            case 3:
                self.says(Submit(id=b"short"), b"garbage")
            case 4:
                self.says(Submit(id=name, run_ms=1 << 60), b"garbage")
            case 5:
                self.says(Submit(jobs=(Item(id=name), Item(id=name))), (b"garbage", b"garbage"))
            case 6:
                self.says(Submit(jobs=(Item(id=name, frames=3),)), (b"garbage", b"garbage"))
            case 7:
                header = native.encode(Submit(id=name))
                self.wire.send((None, self.path, TOO_LARGE, VERSION, header))
            case 8:
                self.wire.send((b"\0\0\0\1y", VERSION, native.encode(Heartbeat()), b""))
            case _:
                if self.wanted:
                    wanted = rng.choice(list(self.wanted.values()))
                    said = msgspec.structs.replace(wanted.said, id=wanted.name, age_ms=1)
                    self.says(said, b"conflict %b" % wanted.name)
