"""A bench: the real broker, the real libraries and your handlers on a clock that only the test moves.

    with Bench(tries=3, timeout=2.0) as bench:
        client = bench.client()
        workers = [bench.worker(handler, takes=0.5) for _ in range(3)]
        bench.at(2.1, workers[2].die)
        assert client.call(b"job") == b"done"

Nothing here waits: a minute passes when the test says `advance(60)`, or while it waits for an outcome, and takes as
long as what happens in it. There are no threads and no sockets. The broker is `Server` and its machine, the client is
`relet.Client` with its turns and its protocol, the worker `relet.Worker` with its line and its protocol; simulated are
the network between them, the thread that would turn each of them, and the time.

A handler is called when its job begins, at one moment of simulated time, and its answer leaves when the job has taken
as long as `takes` says. So a worker that dies in between has had all the effects of its handler, and has not answered:
that is the case that programs must bear.

The same test takes the same course each time, but for the ids that are drawn.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

import msgspec

from relet.client import Client, ClientClosed, Terms
from relet.client.door import REQUESTS_OPEN_BYTES_MAX, REQUESTS_OPEN_MAX, USUAL_TERMS, Door
from relet.client.engine import TURN_MESSAGES_MAX
from relet.client.peer import Peer
from relet.client.turns import CLOSED, NO_ROOM, Room, Turns
from relet.client.waiting import Call, Course, JobFuture, Submitted, ThreadChannel, Waiter
from relet.core.effects import Counters, Notice
from relet.core.limits import Limits
from relet.core.machine import Machine
from relet.core.settings import configured
from relet.events import Event
from relet.messages import Peer as BrokersPeer
from relet.messages import Refused
from relet.server import Server
from relet.store.memory import MemoryStore
from relet.testing.asides import UnboundedAsides
from relet.testing.clock import MS, US, Clock, S
from relet.testing.links import SimulatedLink
from relet.testing.network import Endpoint, Network, Pull, Router, Wire
from relet.transport.link import BODY_BYTES_MAX, DIALECT_DEFAULT
from relet.worker import Counters as WorkerCounters
from relet.worker import Handlers, Hook, Worker
from relet.worker.handlers import Calls
from relet.worker.job import Hand, leave_hand, take_hand
from relet.worker.line_native import NativeLine
from relet.worker.outcome import Silence

T = TypeVar("T")

BEGAN_NS: Final = 1_000 * S
"""What the clock shows when a bench begins: no moment of it is 0, which stands for never in places."""
WALL_NS: Final = 1_700_000_000 * S
"""Then, since 1970: in November 2023."""
PATIENCE_S: Final = 3_600.0
"""How long an outcome is waited for where nobody says otherwise, simulated: what has not come then never will."""
HEARD_NS: Final = 20 * US
"""From a message's arrival to the turn that reads it, at either end, so that what comes together is read together."""
LATENCY_S: Final = 0.000_1
FOUND_DEAD_NS: Final = 4 * S
"""A worker that is frozen for longer loses its connection: the broker's heartbeat on it and its timeout."""
SECRET_ENDPOINTS: Final = ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")
"""What the libraries are told, and nobody connects to."""

Takes = float | Callable[[bytes], float]
"""Seconds that a job takes, or what tells it from the first frame of its body."""


class Said(msgspec.Struct, frozen=True):
    """Something that happened on a bench, as a log would have it."""

    at: float
    """Seconds since the bench began."""
    who: str
    """"broker", "client 1", "worker 3" ..."""
    event: Event
    fields: Mapping[str, Any]

    def __str__(self) -> str:
        fields = " ".join(f"{name}={_shown(value)}" for name, value in self.fields.items())
        return f"{self.at:.3f} {self.who}: {self.event.value} {fields}".rstrip()


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


class Bench:
    """A broker in this process, and a clock that the test moves.

    Args:
        tries: as for `relet.Broker`: counted attempts of a job. None: no limit.
        timeout: likewise: seconds of one attempt. None: no limit.
        queues: likewise: settings of queues by name.
        only_these_queues: likewise: whether no other may be used.
        limits: likewise.
        store: whether the broker keeps its jobs across `crash`, as with `--store`.
        latency: seconds that a message takes from one end to the other.

    Raises what `relet.Broker` raises of the same arguments.
    """

    def __init__(
        self,
        *,
        tries: int | None = None,
        timeout: float | None = None,
        queues: Mapping[str, Mapping[str, Any]] | None = None,
        only_these_queues: bool = False,
        limits: Limits | None = None,
        store: bool = False,
        latency: float = LATENCY_S,
    ) -> None:
        if tries is not None and (type(tries) is not int or tries < 1):
            raise ValueError(f"tries is a whole number of at least 1, or None for no limit, not {tries!r}")
        self._clock = clock = Clock()
        clock.now = BEGAN_NS
        self._network = _SteadyNetwork(clock, nanoseconds("latency", latency))
        self._log: list[Said] = []
        self._peers: list[_Turned] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._broker = _Broker(
            self,
            tries=tries,
            timeout_ns=None if timeout is None else nanoseconds("timeout", timeout),
            limits=limits or Limits(),
            queues=queues or {},
            only_these_queues=only_these_queues,
            store=MemoryStore() if store else None,
        )

    # --- Time

    @property
    def now(self) -> float:
        """Seconds since the bench began."""
        return (self._clock.now - BEGAN_NS) / S

    def at(self, seconds: float, action: Callable[..., Any], *arguments: Any) -> None:
        """`action(*arguments)` is done when the clock shows `seconds`; at once, when time next moves, if it does."""
        self._clock.at(BEGAN_NS + nanoseconds("seconds", seconds), action, *arguments)

    def after(self, seconds: float, action: Callable[..., Any], *arguments: Any) -> None:
        """`action(*arguments)` is done so many seconds from now."""
        self._clock.after(nanoseconds("seconds", seconds), action, *arguments)

    def advance(self, seconds: float) -> None:
        """So many seconds pass, with all that happens in them."""
        clock = self._clock
        until = clock.now + nanoseconds("seconds", seconds)
        clock.pass_until(until)

    def until(self, condition: Callable[[], Any], patience: float = PATIENCE_S) -> None:
        """Time passes until `condition()` is true.

        Raises:
            TimeoutError: it is not within `patience` seconds of simulated time.
        """
        clock = self._clock
        limit = clock.now + nanoseconds("patience", patience)
        while not condition():
            if not clock.agenda or clock.agenda[0][0] > limit:
                clock.now = max(clock.now, limit)
                raise TimeoutError(f"nothing came of it within {patience:g} simulated seconds")
            clock.step()

    # --- Who is there

    def client(
        self, *, dialect: str = DIALECT_DEFAULT, timeout: float | None = None, resend: bool = True,
        terms: Terms = USUAL_TERMS,
    ) -> BenchClient:  # fmt: skip
        """Another client: a `relet.Client` in all that it does, with the same arguments."""
        client = BenchClient(self, dialect=dialect, timeout=timeout, resend=resend, terms=terms)
        self._peers.append(client._engine)  # noqa: SLF001 - made for this
        return client

    def worker(
        self,
        handler: Handlers | type[Worker],
        *,
        takes: Takes = 0.0,
        queues: Sequence[str] | Mapping[str, int] | None = None,
        concurrency: int = 1,
        ahead: int | None = None,
        hooks: Sequence[Hook] = (),
        dialect: str = DIALECT_DEFAULT,
    ) -> BenchWorker:
        """Another worker, at work at once.

        Args:
            handler: as for `relet.Worker`: a function, a coroutine function, or one for each queue; or a class that is
                derived from `relet.Worker`.
            takes: seconds that a job takes, simulated; or a function of its body that says so.
            queues: as for `relet.Worker`.
            concurrency: likewise: jobs at a time.
            ahead: likewise.
            hooks: likewise.
            dialect: likewise.

        Raises what `relet.Worker` raises.
        """
        options: dict[str, Any] = {
            "queues": queues, "concurrency": concurrency, "ahead": ahead, "hooks": hooks, "dialect": dialect
        }  # fmt: skip
        worker = BenchWorker(self, handler, takes, options)
        self._peers.append(worker)
        return worker

    def crash(self, down: float = 0.5) -> None:
        """The broker is killed, with all that was under way to and from it; another is there `down` seconds later. It
        knows of no job, unless the bench has a store.
        """
        self._broker.crash(nanoseconds("down", down))

    # --- Looking in

    @property
    def counters(self) -> Counters:
        """What the broker has counted since it began; read it and do not write to it."""
        return self._broker.machine.counters

    @property
    def jobs_open(self) -> int:
        """Jobs that were accepted and have not ended."""
        return self._broker.machine.open

    def events(self, event: Event | str | None = None) -> list[Said]:
        """What happened so far, every step of each job included; or what of one kind did. Print them to see the course
        of a test.
        """
        wanted = None if event is None else Event(event)
        return [said for said in self._log if wanted is None or said.event is wanted]

    # --- The end

    def close(self) -> None:
        """Everybody is gone; clients' open requests end with `ClientClosed`."""
        peers, self._peers = self._peers, []
        for peer in peers:
            peer.ends()
        if self._loop is not None:
            self._loop.close()
            self._loop = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- For those on it

    def _record(self, who: str, event: Event | str, fields: Mapping[str, Any]) -> None:
        self._log.append(Said(self.now, who, event if type(event) is Event else Event(event), fields))

    def _run(self, coroutine: Any) -> Any:
        """To its end, in a loop of the bench's."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(coroutine)

    def _name(self, kind: str) -> str:
        return f"{kind} {1 + sum(peer.name.startswith(kind) for peer in self._peers)}"


def nanoseconds(what: str, seconds: object) -> int:
    """Raises TypeError or ValueError where that is no time."""
    if seconds is True or seconds is False or not isinstance(seconds, Real):
        raise TypeError(f"{what} is a number of seconds, not {seconds!r:.100}")
    if not 0 <= float(seconds) <= 10**9:
        raise ValueError(f"{what} is a number of seconds from 0 on, not {seconds!r}")
    return round(float(seconds) * S)


# --- The broker


class _SteadyNetwork(Network):
    """One on which every message takes as long."""

    def __init__(self, clock: Clock, latency_ns: int) -> None:
        super().__init__(clock, random.Random(0), delay_ns=latency_ns, spread_ns=0)  # noqa: S311 - never asked
        self._latency_ns = latency_ns

    def delay(self) -> int:
        """How long a message takes, nanoseconds."""
        return self._latency_ns

    def news_delay(self) -> int:
        """How long the monitor's news take, nanoseconds."""
        return MS


class _Nobody:
    """A witness that does not look (`network.Witness`)."""

    def request(self, wire: Wire, path: bytes, body: Any) -> None:
        pass

    def ask(self, peer: BrokersPeer, path: bytes) -> None:
        pass

    def answer(self, frames: tuple[Any, ...]) -> None:
        pass

    def native(self, wire: Wire, message: Any) -> None:
        pass

    def refused(self, wire: Wire, refused: Refused) -> None:
        pass

    def heeded(self, role: str, refused: Sequence[Refused]) -> None:
        pass

    def lost(self, role: str, peers: Sequence[BrokersPeer]) -> None:
        pass

    def sent(self, role: str, wire: Wire | None, message: tuple[Any, ...], code: int) -> None:
        pass


class _Turning:
    """What is turned where a loop or a thread would be: soon after it was woken, and when it is due."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._life = 0
        """What an earlier life had planned is not done in a later one."""
        self._frozen = False
        self._woken = False
        self._wanted: int | None = None
        """When it is to turn though nothing comes ..."""
        self._armed: int | None = None
        """... and when it looks next whether that is now."""

    def _turn(self, now: int) -> None:
        raise NotImplementedError

    def _due(self, now: int) -> int | None:
        """When to turn again though nothing comes."""
        raise NotImplementedError

    def _wake(self) -> None:
        """It turns soon."""
        if not self._woken:
            self._woken = True
            self._clock.after(HEARD_NS, self._turns, self._life)

    def _turns(self, life: int) -> None:
        if life != self._life:
            return
        self._woken = False
        if not self._frozen:
            self._turn(self._clock.now)
            self._arm()

    def _arm(self) -> None:
        self._wanted = due = self._due(self._clock.now)
        if due is not None and (self._armed is None or due < self._armed):
            self._armed = due
            self._clock.at(due, self._rings, self._life, due)

    def _rings(self, life: int, due: int) -> None:
        if life != self._life or due != self._armed:
            return
        self._armed = None
        wanted = self._wanted
        if self._frozen or wanted is None:
            return
        if wanted > self._clock.now:
            self._armed = wanted
            self._clock.at(wanted, self._rings, life, wanted)
        elif not self._woken:
            self._turns(life)

    def _ends_life(self) -> None:
        """Nothing that was planned happens."""
        self._life += 1
        self._frozen = self._woken = False
        self._wanted = self._armed = None


class _Broker(_Turning):
    """The loop around `Server` that `relet.Broker` is on real time."""

    def __init__(
        self,
        bench: Bench,
        *,
        tries: int | None,
        timeout_ns: int | None,
        limits: Limits,
        queues: Mapping[str, Mapping[str, Any]],
        only_these_queues: bool,
        store: MemoryStore | None,
    ) -> None:
        super().__init__(bench._clock)  # noqa: SLF001 - a part of it
        self._bench, self._network = bench, bench._network  # noqa: SLF001 - likewise
        self._tries, self._timeout_ns, self._limits = tries, timeout_ns, limits
        self._settings, self._only_these = configured(queues), only_these_queues
        self._store = store
        self._tokens = _tokens(random.Random(0))  # noqa: S311 - each test takes the same course
        self._epoch = 0
        self._start()

    def _start(self) -> None:
        self._epoch += 1
        self.machine = machine = Machine(
            self._tokens,
            tries=self._tries,
            timeout_ns=self._timeout_ns,
            limits=self._limits,
            keeps_records=self._store is not None,
            trace=True,
            epoch=self._epoch,
            began_ns=self._clock.now,
        )
        machine.wall_ns = WALL_NS
        if self._store is not None:
            machine.load(self._store.load(), self._clock.now)
        machine.configure(self._settings, only_these=self._only_these)
        witness = _Nobody()
        self._clients = Router(self._network, "clients", witness)
        self._workers = Router(self._network, "workers", witness)
        self._answers = Pull(self._network, witness)
        make: Callable[..., Server] = Server  # what it asks for are routers, as the frame pump has them
        self._server = make(machine, self._clients, self._workers, self._answers, self._publish, self._store)
        endpoints: dict[str, Endpoint] = {"clients": self._clients, "workers": self._workers, "answers": self._answers}
        self._network.listen(endpoints)
        self._network.wake = self._hears
        self._wake()

    def crash(self, down_ns: int) -> None:
        self._ends_life()
        self._network.crash()
        self._clock.after(down_ns, self._start)

    def _publish(self, notice: Notice) -> None:
        self._bench._record("broker", *notice)  # noqa: SLF001 - a part of it

    def _hears(self, role: str) -> None:
        """Something can be read there."""
        if role != "clients" or self._server.hears_clients or self._clients.has_news:
            self._wake()

    def _turn(self, now: int) -> None:
        server = self._server
        server.turn(now, WALL_NS + now)
        clients = self._clients.has_news or (bool(self._clients.ready) and server.hears_clients)
        if server.busy or clients or self._workers.readable or self._answers.readable:
            self._wake()

    def _due(self, now: int) -> int | None:
        """As the poll does, in whole milliseconds from now: never early."""
        due = self._server.next_deadline()
        return None if due is None else now + -(-max(0, due - now) // MS) * MS


def _tokens(rng: random.Random) -> Iterator[bytes]:
    while True:
        yield rng.getrandbits(128).to_bytes(16, "big")


# --- Peers


class _Recorder:
    """The log of one of the libraries."""

    def __init__(self, bench: Bench, who: str) -> None:
        self._bench, self._who = bench, who

    def say(self, _level: int, event: Event | str, /, **fields: Any) -> None:
        self._bench._record(self._who, event, fields)  # noqa: SLF001 - a part of it

    log = say


class _Turned(_Turning):
    """A process that can freeze and die, with connections that can break."""

    def __init__(self, bench: Bench, name: str) -> None:
        super().__init__(bench._clock)  # noqa: SLF001 - a part of it
        self.name = name
        self.alive = True
        self._bench, self._network = bench, bench._network  # noqa: SLF001 - likewise
        self._links: list[SimulatedLink] = []
        self._lag_ns = 0
        self._postponed: list[tuple[int, Callable[..., None], tuple[Any, ...]]] = []

    # --- What it does

    def ends(self) -> None:
        """The bench is cleared away."""
        raise NotImplementedError

    def _link(self, role: str, socket_type: str) -> SimulatedLink:
        link = SimulatedLink(self._clock, self._network, role, socket_type, self._wake)
        link.delay(self._lag_ns)
        self._links.append(link)
        return link

    def _later(self, delay_ns: int, action: Callable[..., None], *arguments: Any) -> None:
        self._clock.after(delay_ns, self._do, self._life, action, arguments)

    def _do(self, life: int, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if life != self._life:
            return
        if self._frozen:
            self._postponed.append((life, action, arguments))
        else:
            action(*arguments)

    # --- What is done to it

    def die(self) -> None:
        """Its process is killed. What it has sent before arrives all the same; what it had in hand is never said."""
        if not self.alive:
            return
        self.alive = False
        self._ends_life()
        self._postponed.clear()
        links, self._links = self._links, []
        for link in links:
            link.close()

    def cut(self) -> None:
        """Its connection is lost, with all that is under way on it. It connects again by itself."""
        for link in self._links:
            link.breaks()

    def delay(self, seconds: float) -> None:
        """What it says from now on takes so many seconds longer to arrive; 0: no longer than usual."""
        self._lag_ns = nanoseconds("seconds", seconds)
        for link in self._links:
            link.delay(self._lag_ns)

    def freeze(self, seconds: float) -> None:
        """It does nothing for so many seconds, as a process that is stopped: it neither reads, nor works, nor beats."""
        if not self.alive or self._frozen:
            return
        duration_ns = nanoseconds("seconds", seconds)
        self._frozen = True
        for link in self._links:
            link.freeze()
        if duration_ns > FOUND_DEAD_NS and isinstance(self, BenchWorker):
            for link in self._links:
                self._clock.after(FOUND_DEAD_NS, link.is_found_dead)
        self._clock.after(duration_ns, self._thaw, self._life)

    def _thaw(self, life: int) -> None:
        if life != self._life:
            return
        self._frozen = False
        for link in self._links:
            link.thaw()
        postponed, self._postponed = self._postponed, []
        for then, action, arguments in postponed:
            self._do(then, action, arguments)
        self._wake()


class _BenchQueue(queue.SimpleQueue[Any]):
    """What somebody waits at while time passes."""

    bench: Bench

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if block and self.empty():
            self.bench.until(lambda: not self.empty())
        return super().get(block=False, timeout=timeout)


def _waited_at(bench: Bench, channel: ThreadChannel) -> None:
    channel.batches = batches = _BenchQueue()
    batches.bench = bench


class _BenchDoor(Door):
    """The door of a client on a bench."""

    bench: Bench

    def handed_over(self, *arguments: Any) -> Any:
        """As in the base class."""
        _waited_at(self.bench, arguments[-1])
        return super().handed_over(*arguments)


class _ClientEngine(_Turned):
    """What `relet.client.engine.Engine` is on real time."""

    def __init__(self, bench: Bench, door: Door) -> None:
        super().__init__(bench, bench._name("client"))  # noqa: SLF001 - a part of it
        self.peer: Peer[Waiter] = door.new_peer()
        self.turns = Turns(door.endpoint, self.peer, TURN_MESSAGES_MAX, door.room.give)
        self.turns.log = _Recorder(bench, self.name)  # type: ignore[assignment]  # the one method that is asked of it
        self._room: Room = door.room
        self._closed_because = ""
        self._turning = False
        self._socket: Any = self._link("clients", "DEALER")

    def submit(self, request: Waiter) -> None:
        """As in the real one; while it waits for room, time passes."""
        room = self._room
        if not room.has(request):
            patience = PATIENCE_S if request.timeout_ns is None else request.timeout_ns / S
            with _instead(TimeoutError(NO_ROOM)):
                self._bench.until(lambda: room.has(request) or self._closed_because, patience)
        if self._closed_because:
            raise ClientClosed(self._closed_because)
        room.take(request)
        self.turns.inbox.append(request)
        self._wake()

    def submit_all(self, requests: Sequence[Waiter]) -> int:
        """As in the real one."""
        opened = 0
        with contextlib.suppress(TimeoutError):
            for request in requests:
                self.submit(request)
                opened += 1
        return opened

    def abandon(self, requests: Sequence[Waiter], *, withdraw: bool = False) -> None:
        """As in the real one."""
        if not self._closed_because:
            self.turns.unwanted.append((list(requests), withdraw))
            self._wake()

    def must_not_wait(self) -> None:
        """As in the real one."""
        if self._turning:
            raise RuntimeError("a future's callback must not wait for another answer: use submit")

    def stop(self) -> None:
        """The client was closed."""
        if self._closed_because:
            return
        self._closed_because = CLOSED
        if self.alive:
            self.turns.say_farewell(self._socket)
        self.die()
        late = list(self.turns.inbox)
        self.turns.inbox.clear()
        self.turns.end(CLOSED, None, late)

    ends = stop

    def _turn(self, now: int) -> None:
        self._turning = True
        try:
            while not self.turns.turn(self._socket, now)[0]:
                pass
        finally:
            self._turning = False
        if self.turns.inbox or self.turns.unwanted:  # put there by callbacks
            self._wake()

    def _due(self, now: int) -> int | None:  # noqa: ARG002 - as in every peer
        return self.peer.due


@contextlib.contextmanager
def _instead(error: TimeoutError) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise error from None


class BenchFuture(JobFuture[T]):
    """A `JobFuture` that lets time pass while it is waited for."""

    _bench: Bench

    def result(self, timeout: float | None = None) -> T:
        """As in the base class; `timeout` is in simulated seconds."""
        self._wait(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As in the base class; `timeout` is in simulated seconds."""
        self._wait(timeout)
        return super().exception(0)

    def _wait(self, timeout: float | None) -> None:
        if timeout is None:
            self._bench.until(self.done)
        else:
            with contextlib.suppress(TimeoutError):
                self._bench.until(self.done, timeout)


class BenchClient(Client):
    """A `relet.Client` on a bench: made by `Bench.client`. Whoever waits in one of its methods lets time pass."""

    def __init__(self, bench: Bench, *, dialect: str, timeout: float | None, resend: bool, terms: Terms) -> None:
        door = _BenchDoor(
            SECRET_ENDPOINTS[0],
            dialect=dialect,
            timeout=timeout,
            resend=resend,
            terms=terms,
            context=None,
            requests_open_max=REQUESTS_OPEN_MAX,
            requests_open_bytes_max=REQUESTS_OPEN_BYTES_MAX,
            body_bytes_max=BODY_BYTES_MAX,
        )
        door.bench = self._bench = bench
        self._door = door
        self._engine: Any = _ClientEngine(bench, door)
        self._collected = weakref.finalize(self, _nothing)

    def _call(self, call: Call) -> Any:
        self._engine.must_not_wait()
        self._engine.submit(call)
        self._bench.until(lambda: not call.lock.locked())
        return call.result()

    def _submit(self, request: Submitted, future: JobFuture[T]) -> JobFuture[T]:  # noqa: ARG002 - another stands for it
        waited: BenchFuture[T] = BenchFuture()
        waited._bench = self._bench  # noqa: SLF001 - made for this
        request._future = waited  # noqa: SLF001 - likewise
        return super()._submit(request, waited)

    def _map(self, datas: Iterator[bytes], course: Course, channel: ThreadChannel) -> Any:
        _waited_at(self._bench, channel)
        return super()._map(datas, course, channel)

    # --- What is done to it

    def die(self) -> None:
        """Its process is killed: what it has sent arrives, and it hears of nothing any more."""
        self._engine.die()

    def cut(self) -> None:
        """Its connection is lost, with all that is under way on it. It connects again by itself."""
        self._engine.cut()

    def delay(self, seconds: float) -> None:
        """What it says from now on takes so many seconds longer to arrive; 0: no longer than usual."""
        self._engine.delay(seconds)

    def freeze(self, seconds: float) -> None:
        """It does nothing for so many seconds, as a process that is stopped."""
        self._engine.freeze(seconds)


def _nothing() -> None:
    """There is no thread to be ended when a client was forgotten."""


class BenchWorker(_Turned):
    """A `relet.Worker` on a bench: made by `Bench.worker`."""

    def __init__(
        self, bench: Bench, handler: Handlers | type[Worker], takes: Takes, options: dict[str, Any]
    ) -> None:
        super().__init__(bench, bench._name("worker"))  # noqa: SLF001 - a part of it
        self._takes = takes if callable(takes) else nanoseconds("takes", takes)
        kind: type[Worker] = Worker
        if isinstance(handler, type) and issubclass(handler, Worker):
            kind = handler
        else:
            options["handler"] = handler
        self._make: Callable[[], Worker] = lambda: kind(*SECRET_ENDPOINTS, **options)
        self._drops = self._repeats = 0
        self._begin()

    def _begin(self) -> None:
        self._worker = worker = self._make()
        if worker._processes is not None:  # noqa: SLF001 - the shell of this worker
            raise ValueError("a bench has one process and no time to wait for others: concurrency is a number here")
        self._shift = shift = worker._begin()  # noqa: SLF001 - likewise
        self._line = self._fitted(shift.line)
        self._jobs: deque[Any] = deque()
        self._places = worker._places  # noqa: SLF001 - likewise
        self._busy = 0
        self._stopping: Literal["", "asked", "ending"] = ""

    def _fitted(self, line: Any) -> Any:
        """A line of a worker, opened here: on the simulated network, with the simulated time."""
        fits: dict[str, Any] = {"_log": _Recorder(self._bench, self.name)}
        if isinstance(line, NativeLine):
            fits["_link"] = self._link("workers", "DEALER")
            fits["asides"] = asides = UnboundedAsides(line.inbox, lambda: self._clock.now, BODY_BYTES_MAX)
            asides.wake = self._wake
            hello = line.peer._hello  # noqa: SLF001 - so that the broker's events name it
            line.peer._hello = msgspec.structs.replace(hello, agent=self.name)  # noqa: SLF001 - likewise
        else:
            fits["_asking"], fits["_answering"] = self._link("workers", "DEALER"), self._link("answers", "PUSH")
        for name, part in fits.items():
            setattr(line, name, part)
        return line

    # --- Looking in

    @property
    def counters(self) -> WorkerCounters:
        """What has happened to this life of it; do not write to it."""
        return self._worker.counters

    # --- What is done to it

    def die(self) -> None:
        """Its process is killed. What it has sent before arrives all the same; what it had in hand is never said."""
        if self.alive:
            super().die()
            self._worker._end()  # noqa: SLF001 - the shell of this worker

    def restart(self) -> None:
        """Another process begins in the place of one that died, or was stopped."""
        if not self.alive:
            self.alive = True
            self._begin()
            self._wake()

    def stop(self) -> None:
        """As SIGTERM should: it begins nothing more, finishes what it has in hand, gives back the rest, and goes."""
        if self.alive and not self._stopping:
            self._stopping = "asked"
            self._wake()

    def drop(self, jobs: int = 1) -> None:
        """Of the jobs that end next, so many are never answered; it goes on with others."""
        self._drops += jobs

    def duplicate(self, answers: int = 1) -> None:
        """Of its next answers, so many are said twice."""
        self._repeats += answers

    def ends(self) -> None:
        """The bench is cleared away."""
        self.die()

    # --- Turns

    def _turn(self, now: int) -> None:
        line = self._line
        if self._stopping == "asked":
            self._stopping = "ending"
            self._shift.stopping = True
            self._jobs.clear()  # what was not begun goes back
            if isinstance(line, NativeLine):
                line.peer.retire(now)
            else:
                line.retire()
        ending = bool(self._stopping) and not self._busy
        for _ in range(1_000):
            jobs, rests = line.turn(now, ending=ending)
            self._jobs.extend(jobs)
            if rests:
                break
        for link in self._links:
            link.twice = False
        if ending and line.flushed:
            line.close(1)
            self.die()
            return
        self._do_jobs(now)

    def _due(self, now: int) -> int | None:
        due: int | None = self._line.due(now)
        return due

    def _do_jobs(self, now: int) -> None:
        line, life = self._line, self._life
        while self._jobs and self._busy < self._places and not self._stopping:
            job = self._jobs.popleft()
            if not line.start(job, now):
                self._say(job, Silence.UNSTARTED)
                continue
            self._busy += 1
            outcome = self._do_job(job)
            if life != self._life:  # the handler has had its own process killed
                return
            takes = self._takes
            takes_ns = takes if isinstance(takes, int) else nanoseconds("takes", takes(job.frames[0]))
            self._later(takes_ns, self._ended, job, outcome)

    def _do_job(self, job: Any) -> Any:
        shift = self._shift
        calls: Calls = shift.calls
        hand = Hand(shift.line.asides)
        hand.job = job
        before = take_hand(hand)
        try:
            return self._bench._run(shift.do_awaited(job)) if calls.awaitable else shift.do(job)  # noqa: SLF001 - a part of it
        finally:
            leave_hand(before)

    def _ended(self, job: Any, outcome: Any) -> None:
        self._busy -= 1
        if self._drops:
            self._drops -= 1
            outcome = Silence.UNANSWERED
        elif self._repeats:
            self._repeats -= 1
            for link in self._links:
                link.twice = True
        self._say(job, outcome)

    def _say(self, job: Any, outcome: Any) -> None:
        self._line.inbox.append((job, outcome, self._clock.now))
        self._wake()


__all__ = ["Bench", "BenchClient", "BenchFuture", "BenchWorker", "Said"]
