"""A machine to talk to, and peers who do."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from relet.conversation import ACK_NS_MAX
from relet.core.job import COMPLETED, Job, State
from relet.core.limits import Limits
from relet.core.machine import Machine
from relet.dialects import native
from relet.messages import (
    SIGNATURE,
    VERSION,
    Ack,
    Body,
    ClientHello,
    Complete,
    Dispatch,
    Error,
    Extend,
    Fail,
    HandBack,
    Heartbeat,
    Inquire,
    Item,
    JobState,
    Native,
    Outcome,
    Partial,
    Peer,
    Progress,
    Refused,
    ReportRefused,
    Said,
    Submit,
    Submitted,
    TellPartial,
    Welcome,
    WorkerAsk,
    WorkerHello,
)
from relet.server import Server
from relet.store.memory import MemoryStore
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


# --- Native peers: they talk to a whole loop, so that what leaves the broker, and when, is what they hear.


def readable_tokens(life: int = 0) -> Iterator[bytes]:
    """Tokens that a test can read; the first ten bytes differ, because ids of jobs are made of them."""
    for number in itertools.count(1 + life * 1_000_000):
        yield b"%010d-token" % number


class Port:
    """An endpoint: what comes in is written into it, what goes out is handed to who stands at the other end."""

    handshakes_failed = 0
    accepts_failed = 0

    def __init__(self) -> None:
        self.incoming: list[Any] = []
        self.native: list[Native] = []
        self.refused: list[Refused] = []
        self.gone: list[Peer] = []
        self.codes: dict[Peer, int] = {}
        self.ends: dict[Peer, dict[bytes, Any]] = {}

    def receive(self, messages_max: int, bytes_max: int = 1 << 62) -> list[Any]:
        """As a socket: so many, in order."""
        taken, self.incoming = self.incoming[:messages_max], self.incoming[messages_max:]
        return taken

    def take_native(self) -> list[Native]:
        """As a port."""
        native, self.native = self.native, []
        return native

    def take_refused(self) -> list[Refused]:
        """As a port."""
        refused, self.refused = self.refused, []
        return refused

    def take_lost(self) -> list[Peer]:
        """As a port."""
        gone, self.gone = self.gone, []
        return gone

    def forget(self, peer: Peer) -> None:
        """As a port."""
        peer.routing_id = b""

    def send(self, messages: list[tuple[Any, ...]]) -> list[tuple[int, int]]:
        """Who is gone cannot be reached, who has a code gets nothing; all others hear it."""
        failures = []
        for index, (peer, path, delimiter, *frames) in enumerate(messages):
            if not peer.routing_id:
                failures.append((index, errno.EHOSTUNREACH))
            elif peer in self.codes:
                failures.append((index, self.codes[peer]))
            else:
                flat: list[Any] = []
                for frame in frames:
                    flat += frame if isinstance(frame, tuple) else (frame,)
                self.ends[peer][path].hears(delimiter, flat)
        return failures


class NativePeer:
    """What native workers and clients have in common: a connection, a return path, and ears."""

    decode: Any = None

    def __init__(self, talk: Talk, name: str, *, path: bytes = b"", principal: str = "") -> None:
        self.talk = talk
        self.name = name
        self.path = path
        self.principal = principal
        self.heard: list[Any] = []
        """All that was said to it, but jobs and outcomes; a test takes them out (`take`)."""
        self.connect()

    @property
    def port(self) -> Port:
        """Where it is connected."""
        raise NotImplementedError

    def connect(self, beside: NativePeer | None = None) -> None:
        """A new connection; or another return path on that of somebody else."""
        self.peer = self.talk.new_peer(self.principal) if beside is None else beside.peer
        self.port.ends.setdefault(self.peer, {})[self.path] = self

    def says(self, said: Said, body: Body = b"", *, turn: bool = True) -> None:
        """Any message."""
        self.port.native.append((self.peer, self.path, VERSION, native.encode(said), body))
        if turn:
            self.talk.turn()

    def lose(self, *, turn: bool = True) -> None:
        """The connection goes."""
        self.peer.routing_id = b""
        self.port.gone.append(self.peer)
        if turn:
            self.talk.turn()

    def hears(self, delimiter: bytes, frames: list[Any]) -> None:
        """Something was said to it."""
        assert delimiter == SIGNATURE
        header, *rest = frames
        self.noted(type(self).decode(VERSION, header), rest[0] if len(rest) == 1 else tuple(rest))

    def noted(self, said: Said, body: Body) -> None:
        """Sorted by what it is."""
        self.heard.append(said)

    def take(self, kind: type[Said]) -> list[Any]:
        """What was heard of this kind; it is not heard again."""
        taken = [it for it in self.heard if type(it) is kind]
        self.heard = [it for it in self.heard if type(it) is not kind]
        return taken


class NativeWorker(NativePeer):
    """A native worker, by hand: it reports what it is told to, and keeps no rule by itself but its numbers."""

    decode = staticmethod(native.to_worker)

    def __init__(
        self,
        talk: Talk,
        name: str,
        *,
        queues: tuple[str, ...] = ("default",),
        features: tuple[str, ...] = ("starts", "recalls"),
        capacity: int = 1,
        incarnation: bytes = b"",
        **where: Any,
    ) -> None:
        super().__init__(talk, name, **where)
        self.incarnation = incarnation or name.encode().ljust(16, b".")
        self.queues, self.features, self.capacity = queues, features, capacity
        self.jobs: list[tuple[Dispatch, Body]] = []
        """All that it was handed, in order."""
        self.n = self.credit = 0
        self.beats = True
        """Whether it says something in time (`Talk.wait`)."""

    @property
    def port(self) -> Port:
        """The workers'."""
        return self.talk.workers

    def noted(self, said: Said, body: Body) -> None:
        """Jobs are kept apart."""
        if isinstance(said, Dispatch):
            self.jobs.append((said, body))
        elif not isinstance(said, Heartbeat):
            super().noted(said, body)

    @property
    def got(self) -> list[Body]:
        """The bodies of what it was handed, in order."""
        return [body for _, body in self.jobs]

    def last(self, body: Body) -> Dispatch:
        """The last hand-over of the job with this body."""
        return next(said for said, it in reversed(self.jobs) if it == body)

    def token(self, what: bytes) -> bytes:
        """Of the job with this body; else it is a token itself."""
        return self.last(what).token if what in self.got else what

    def hello(self, *, running: tuple[bytes, ...] = (), held: tuple[bytes, ...] = (), **other: Any) -> Any:
        """It says hello and claims these, by body or token; returns what it was answered."""
        fields = {"queues": self.queues, "features": self.features, "capacity": self.capacity, **other}
        tokens = {"running": tuple(map(self.token, running)), "held": tuple(map(self.token, held))}
        self.says(WorkerHello(incarnation=self.incarnation, **tokens, **fields))
        self.talk.ears.add(self)
        (answer,) = [it for it in self.heard if isinstance(it, Welcome | Error)][-1:]
        self.heard.remove(answer)
        if isinstance(answer, Welcome):
            self.credit = answer.handed
        return answer

    def ask(self, more: int = 1, *, turn: bool = True) -> None:
        """It wants so many more."""
        self.credit += more
        self.says(WorkerAsk(credit=self.credit), turn=turn)

    def start(self, body: bytes) -> None:
        """It has started all up to this one."""
        self.says(WorkerAsk(started=self.last(body).seq))

    def reports(self, kind: Any, what: bytes, body: Body, fields: dict[str, Any], *, turn: bool = True) -> int:
        """One report; its number is the next unless `n` is given. Returns the number."""
        self.n = max(self.n + 1, fields.get("n", 0)) if "n" not in fields else max(self.n, fields["n"])
        fields = {"n": self.n, **fields}
        self.says(kind(token=self.token(what), **fields), body, turn=turn)
        number: int = fields["n"]
        return number

    def complete(self, what: bytes, answer: Body = b"done", *, turn: bool = True, **fields: Any) -> int:
        """It has done that job."""
        return self.reports(Complete, what, answer, fields, turn=turn)

    def fail(self, what: bytes, **fields: Any) -> int:
        """It could not do that job."""
        return self.reports(Fail, what, (), fields)

    def hand_back(self, what: bytes, **fields: Any) -> int:
        """It does not want that job."""
        return self.reports(HandBack, what, (), fields)

    def partial(self, what: bytes, piece: Body, **fields: Any) -> int:
        """A piece of the result."""
        return self.reports(Partial, what, piece, fields)

    def progress(self, what: bytes, **fields: Any) -> int:
        """How far it is."""
        return self.reports(Progress, what, (), fields)

    def extend(self, what: bytes, run_ms: int, **fields: Any) -> int:
        """It needs longer."""
        return self.reports(Extend, what, (), {"run_ms": run_ms, **fields})

    def refused(self) -> list[tuple[int, str]]:
        """(number, code) of reports that were refused since the last look."""
        return [(it.n, it.code) for it in self.take(ReportRefused)]

    def acked(self) -> int:
        """The highest number that was acknowledged, in a message of its own or with a job, when it had to be."""
        self.talk.wait(ACK_NS_MAX)
        return max([it.ack for it in self.heard if isinstance(it, Ack)] + [it.ack for it, _ in self.jobs] + [0])


class NativeClient(NativePeer):
    """A native client, by hand."""

    decode = staticmethod(native.to_client)

    def __init__(self, talk: Talk, name: str, **where: Any) -> None:
        super().__init__(talk, name, **where)
        self.outcomes: list[tuple[Outcome, Body]] = []
        """All that it was told, in order."""
        self.pieces: list[Body] = []

    @property
    def port(self) -> Port:
        """The clients'."""
        return self.talk.clients

    def noted(self, said: Said, body: Body) -> None:
        """Outcomes and pieces are kept apart."""
        if isinstance(said, Outcome):
            self.outcomes.append((said, body))
        elif not isinstance(said, Heartbeat):
            if isinstance(said, TellPartial):
                self.pieces.append(body)
            super().noted(said, body)

    def hello(self, features: tuple[str, ...] = ("follows",)) -> Any:
        """It says hello; returns what it was answered."""
        self.says(ClientHello(features=features))
        (answer,) = [it for it in self.heard if isinstance(it, Welcome | Error)][-1:]
        self.heard.remove(answer)
        return answer

    def submit(self, body: Body, name: bytes = b"", *, turn: bool = True, **fields: Any) -> bytes:
        """A request; its id is made of the body unless given. Returns the id."""
        name = name or bytes(body if isinstance(body, bytes) else b"".join(map(bytes, body)))[:64].ljust(16, b"-")
        self.says(Submit(id=name, **fields), body, turn=turn)
        return name

    def submit_many(self, *bodies: bytes, **fields: Any) -> Any:
        """Several in one message, of one frame each; returns what became of them."""
        items = tuple(Item(id=body[:64].ljust(16, b"-")) for body in bodies)
        self.says(Submit(jobs=items, ack=True, **fields), bodies)
        (answer,) = self.take(Submitted)
        return answer.jobs

    def asks(self, body: Body, name: bytes = b"", **fields: Any) -> Any:
        """A request with `ack`; returns what became of it."""
        self.submit(body, name, ack=True, **fields)
        (answer,) = self.take(Submitted)
        (admitted,) = answer.jobs
        return admitted

    def inquire(self, **fields: Any) -> Any:
        """Where a job stands; None where the answer was an outcome."""
        self.says(Inquire(**fields))
        return next(iter(self.take(JobState)), None)

    def receive(self, number: int | None = None) -> None:
        """It has all outcomes up to this number; None: all that it was told."""
        number = max((said.n for said, _ in self.outcomes), default=0) if number is None else number
        self.says(Heartbeat(received=number))

    def told(self) -> list[tuple[bytes, str, Body]]:
        """(id, state or reason, result) of the outcomes since the last look."""
        told, self.outcomes = self.outcomes, []
        return [(said.id.rstrip(b"-"), said.reason or said.state, body) for said, body in told]


class NativeAdmin(NativePeer):
    """An administrator, by hand."""

    decode = staticmethod(native.to_admin)
    body: Body = ()
    """Of the last answer."""

    def noted(self, said: Said, body: Body) -> None:
        """With what body."""
        self.body = body
        super().noted(said, body)

    @property
    def port(self) -> Port:
        """The administrators'."""
        return self.talk.admins

    def orders(self, order: Said) -> Any:
        """What the answer to this is."""
        self.says(order)
        (answer,) = self.heard
        self.heard = []
        return answer


class Worker2010:
    """A DEALER of the 2010 dialect at the workers' endpoint."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.peer = talk.new_peer("")
        talk.workers.ends[self.peer] = {b"": self}
        self.jobs: list[tuple[bytes, Body]] = []
        """(id, body)."""

    def ask(self, times: int = 1) -> None:
        """So many asks."""
        self.talk.workers.incoming += [(self.peer, b"", b"")] * times
        self.talk.turn()

    def hears(self, delimiter: bytes, frames: list[Any]) -> None:
        """A job."""
        assert delimiter == b""
        token, *rest = frames
        self.jobs.append((token, rest[0] if len(rest) == 1 else tuple(rest)))

    def answer(self, body: Body, answer: Body = b"done") -> None:
        """It has done the job with this body."""
        token = next(token for token, it in reversed(self.jobs) if it == body)
        frames = answer if isinstance(answer, tuple) else (answer,)
        self.talk.answers.incoming.append((token, *frames))
        self.talk.turn()

    def lose(self) -> None:
        """The connection goes."""
        self.peer.routing_id = b""
        self.talk.workers.gone.append(self.peer)
        self.talk.turn()


class Client2010:
    """A REQ-like client of the 2010 dialect."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.peer = talk.new_peer("")
        talk.clients.ends[self.peer] = {b"": self}
        self.told: list[Body] = []

    def submit(self, *bodies: Body) -> None:
        """Requests."""
        self.talk.clients.incoming += [(self.peer, b"", body) for body in bodies]
        self.talk.turn()

    def hears(self, delimiter: bytes, frames: list[Any]) -> None:
        """An outcome."""
        assert delimiter == b""
        self.told.append(frames[0] if len(frames) == 1 else tuple(frames))


class Talk:
    """One broker's loop between three endpoints, and who talks to it. Time goes on by hand; every turn is checked."""

    HEARTBEAT = 2_500 * MS

    def __init__(self, *, store: Any = None, kind: type[Machine] = Machine, **options: Any) -> None:
        self.now = 1_000 * S
        self.store = store
        self._kind, self._options = kind, options
        self._lives = 0
        self.numbers = itertools.count(1)
        self.ears: set[NativeWorker] = set()
        """Workers that have said hello."""
        self.draining = False
        self.begin()

    def begin(self) -> None:
        """A broker starts; with a store, it goes on with what is safe."""
        if self._lives:
            self.keep()
        self._lives += 1
        self.clients, self.workers, self.answers, self.admins = Port(), Port(), Port(), Port()
        self.ears.clear()
        self.machine = self._kind(
            readable_tokens(self._lives),
            keeps_records=self.store is not None,
            epoch=self._lives,
            began_ns=self.now,
            **self._options,
        )
        self.machine.wall_ns = 5_000 * S
        if self.store is not None:
            self.machine.load(self.store.load(), self.now)
        self.loaded = self.machine.open
        self.notices: list[Any] = []
        ports = self.clients, self.workers, self.answers
        self.server = Server(self.machine, *ports, self.notices.append, self.store, self.admins)
        census.check(self.machine, loaded=self.loaded)

    def keep(self) -> None:
        """Time passes until what waits for no commit of its own is in the store, too."""
        if isinstance(self.store, MemoryStore):
            self.store.append(self.store.settled() + 1, self.machine.take_records(self.store.settled() + 1))

    def new_peer(self, principal: str) -> Peer:
        """Another connection."""
        number = next(self.numbers)
        return Peer(b"%04d" % number, number, "DEALER", principal)

    def worker(self, name: str = "w", *, credit: int = 0, hello: bool = True, **options: Any) -> NativeWorker:
        """A native worker, which has said hello and asked for so many."""
        worker = NativeWorker(self, name, **options)
        if hello:
            assert isinstance(worker.hello(), Welcome)
        if credit:
            worker.ask(credit)
        return worker

    def client(self, name: str = "c", *, hello: bool = True, **options: Any) -> NativeClient:
        """A native client, which has said hello."""
        client = NativeClient(self, name, **options)
        if hello:
            assert isinstance(client.hello(), Welcome)
        return client

    def admin(self, name: str = "a", **options: Any) -> NativeAdmin:
        """An administrator."""
        return NativeAdmin(self, name, **options)

    def worker_2010(self) -> Worker2010:
        """A worker of the 2010 dialect."""
        return Worker2010(self)

    def client_2010(self) -> Client2010:
        """A client of the 2010 dialect."""
        return Client2010(self)

    def turn(self) -> None:
        """A turn, and those that it calls for."""
        for _ in range(20):
            self.server.draining = self.draining
            self.server.turn(self.now, self.now + 5_000 * S)
            census.check(self.machine, loaded=self.loaded)
            if not self.server.busy:
                return
        raise AssertionError("the loop never rests")

    def stop(self) -> None:
        """The broker ends: no drain time."""
        self.draining = self.server.draining = True
        while not self.server.stop(self.now):
            pass

    def wait(self, ns: int) -> None:
        """Time goes on; every deadline on the way is kept, and workers beat as long as they do (`beats`)."""
        until = self.now + ns
        beat = self.now + self.HEARTBEAT
        for _ in range(1_000_000):
            due = self.server.next_deadline()
            if self.now >= until and (due is None or due > self.now):
                return
            self.now = min(until, beat, until if due is None else max(due, self.now))
            if self.now == beat:
                beat += self.HEARTBEAT
                for worker in sorted(self.ears, key=lambda it: it.name):
                    if worker.beats and worker.peer.routing_id:
                        worker.says(Heartbeat(), turn=False)
            self.turn()
        raise AssertionError("a deadline that has come is never kept")

    def job(self, body: Body) -> Any:
        """The open job with this body."""
        (job,) = [job for job in self.machine.jobs() if job.body == body]
        return job

    def state(self, body: Body) -> str:
        """Where the open job with this body stands."""
        return State(self.job(body).state).name

    @property
    def counters(self) -> Any:
        """Of the machine."""
        return self.machine.counters


@pytest.fixture
def talk() -> type[Talk]:
    """Makes a loop to talk to natively: `talk(tries=3, timeout_ns=...)`."""
    return Talk


__all__ = ["MS", "Limits", "Play", "S", "Talk", "tokens"]
