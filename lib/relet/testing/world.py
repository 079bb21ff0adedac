"""One small world: a broker, its peers, a network and a disk on one seeded clock; faults for a while, then none.

`World(seed)` draws everything from the seed: limits, tries, timeout, peers and their habits, delays, which faults
come how often, whether there is a store and how its disk behaves. `play` runs it to its end and returns an `Outcome`,
or raises `judge.Violation`. The broker is the real one - `Server`, `Machine`, dialect and outbox; simulated are the
sockets under it, the clock around it, and whatever stands behind them.

A world has two acts. In the first, clients submit their jobs while faults happen. Then the faults stop: the network
heals, what is frozen wakes up, workers with bad habits retire and two honest ones begin. Time goes on until nothing
more happens, and the judge looks at what is left. Some worlds end by stopping the broker instead.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from relet.core.askers import Asker
from relet.core.dead import Selection, Sweep
from relet.core.job import Cause, Job
from relet.core.lease import NEVER
from relet.core.limits import Limits
from relet.core.machine import Machine
from relet.core.roster import Session
from relet.core.roster import Worker as RosterWorker
from relet.core.settings import QueueSettings
from relet.messages import Body, CancelJob, ClientHello, Inquire, Path, Peer, PlainSubmitted, Request, Submit
from relet.server import Server
from relet.store import Store
from relet.testing import census, policies
from relet.testing.claims import key_of
from relet.testing.clock import MS, US, Clock, S
from relet.testing.judge import LOST, WALL_NS, WRONG, Judge, Violation
from relet.testing.native_peers import GOOD, NativeClient, NativeHabits, NativeWorker, Wanted
from relet.testing.network import Endpoint, Network, Pull, Router, Wire
from relet.testing.peers import HONEST, Client, Habits, Worker
from relet.testing.policies import Policies
from relet.testing.stores import LateStore, bodies_of

OPEN_MAX: Final = 1_000
"""Open jobs of one world: the census must stay affordable."""
TURN_NS: Final = 30 * US
"""What a turn costs: so messages gather, as in life ..."""
MESSAGE_NS: Final = US
"""... and what each thing that happens in it costs."""
HEARD_NS: Final = 20 * US
"""From a message's arrival to the turn that reads it."""
IDLE_TURNS_MAX: Final = 3_000
"""Turns in a row in which nothing was read, sent or decided: more than any steps of expiry need."""
QUIET_NS_MAX: Final = 900 * S
"""How long the second act may last, simulated."""
REST_NS: Final = 2 * S
"""How long a world of native peers, who never rest, goes on when all is done."""
CENSUS_SHARE: Final = 120
"""Jobs that may be counted again in each turn, on average."""

MachineMaker = Callable[..., Machine]
ServerMaker = Callable[..., Server]


class Config(msgspec.Struct, kw_only=True):
    """What makes one world differ from another. Rates are per simulated second."""

    jobs: int = 300
    tries: int | None = 3
    timeout_ns: int | None = 500 * MS
    limits: Limits = Limits()
    delay_ns: int = 50 * US
    spread_ns: int = 200 * US
    req_clients: int = 4
    dealer_clients: int = 2
    window: int = 20
    think_ns: int = 2 * MS
    patience_ns: int | None = None
    unread_max: int = 1_000
    frames: int = 1
    req_workers: int = 3
    dealer_workers: int = 2
    ahead: int = 5
    proxied: bool = False
    worker_unread_max: int = 1 << 30
    habits: Habits = HONEST
    native_clients: int = 0
    native_window: int = 10
    patience_native_ns: int | None = None
    """After so long without an outcome a native client asks again. None: when the numbers say that one was lost."""
    receipts: tuple[str, ...] = ("prompt",)
    strange: float = 0.0
    """Of native requests, how many are asked for on terms of their own ..."""
    shares: float = 0.0
    """... and how many more than once."""
    queues: tuple[str, ...] = ("default",)
    native_workers: int = 0
    capacity: int = 1
    native_ahead: int = 2
    seats: int = 1
    """Sessions on each connection."""
    minimal: float = 0.0
    """How many native workers lack a feature."""
    native_habits: NativeHabits = GOOD
    faults: float = 0.0
    """Events of the world at large: deaths, freezing, lost connections, garbage ..."""
    freezes: bool = True
    settles_ns: int | None = None
    """None: no store. 0: settles at once. Else: how long its disk takes, at the longest."""
    commits_one: bool = False
    """The store takes nothing while a commit is under way: what happens meanwhile gathers in the machine."""
    keeps_bodies: bool = False
    """The store has bodies where they can be read one by one, and memory lets go of them as soon as it may."""
    crashes: float = 0.0
    stalls: bool = False
    ends_by_stop: bool = False
    policies: Policies | None = None
    """What is wanted beyond the plain; None: nothing."""


KINDS: Final = ("2010", "native", "both", "both", "policies", "policies")
"""Of which kind a world may be, each as often as it stands here."""


def draw(rng: random.Random, *kinds: str) -> Config:
    """A world as it may be: "2010", "native", "both", or "policies", which is one of the latter two and has more to be
    obeyed; of these, one of `kinds`, where any are given.
    """
    pick = rng.choice
    timeout_ns = pick((None, 30 * MS, 200 * MS, 500 * MS, 2 * S, 30 * S))
    bad = pick((0.0, 0.02, 0.1, 0.3))
    work_ns = pick((200 * US, 2 * MS, 2 * MS, 20 * MS))
    late_ns = pick((10 * MS, 200 * MS, timeout_ns or S, 2 * (timeout_ns or S)))
    kind = pick(kinds or KINDS)
    dialects = pick(("native", "both")) if kind == "policies" else kind
    limits = _draw_limits(rng)
    store = rng.random()
    if store >= 0.85:
        limits = msgspec.structs.replace(limits, bodies_memory_bytes_max=1)
    honest = rng.random() < 0.15
    config = Config(
        jobs=rng.randrange(100, 700),
        tries=pick((None, 1, 2, 3, 3, 5)),
        timeout_ns=timeout_ns,
        limits=limits,
        delay_ns=pick((5 * US, 50 * US, 500 * US, 5 * MS)),
        spread_ns=pick((10 * US, 200 * US, 5 * MS, 50 * MS)),
        faults=pick((0.0, 2.0, 10.0, 50.0)),
        freezes=rng.random() < 0.7,
        settles_ns=None if store < 0.7 else pick((0, MS, 10 * MS, 300 * MS)),
        commits_one=0.775 <= store < 0.925,
        keeps_bodies=store >= 0.85,
        crashes=pick((0.0, 0.0, 0.5)),
        stalls=rng.random() < 0.2,
        ends_by_stop=rng.random() < 0.1,
        think_ns=pick((0, 1 * MS, 10 * MS)),
        unread_max=pick((1_000, 1_000, 5)),
        worker_unread_max=pick((1 << 30, 1 << 30, 1 << 30, 3)),
        req_clients=0,
        dealer_clients=0,
        req_workers=0,
        dealer_workers=0,
    )
    if dialects != "native":
        config = _draw_2010(rng, config, 0.0 if honest else bad, work_ns, late_ns)
    if dialects != "2010":
        config = _draw_native(rng, config, 0.0 if honest else bad, work_ns, late_ns)
    if kind == "policies":
        config.jobs = rng.randrange(60, 300)
        # Who is one asker too many hears so after a while: until then nobody knows who has a say in a job.
        windows_max = rng.choice((limits.unique_windows_max, 2))
        config.limits = msgspec.structs.replace(limits, askers_per_job_max=1_000, unique_windows_max=windows_max)
        config.shares = rng.choice((0.0, 0.05, 0.3))
        config.faults = rng.choice((0.0, 0.0, 2.0, 10.0))  # what takes turns does so only where there is some peace
        config.queues = rng.choice((("default",), ("default", "mail", "pictures")))
        config.policies = policies.draw(rng, config.queues, limits.run_ns_max)
    return config


def _draw_limits(rng: random.Random) -> Limits:
    pick = rng.choice
    return Limits(
        jobs_max=pick((1_000_000, 1_000_000, 200, 30, 2)),
        asks_per_worker_max=pick((1_000, 3)),
        turn_messages_max=pick((2_000, 2_000, 7, 50)),
        turn_steps_max=pick((2_000, 2_000, 5)),
        kept_jobs_max=pick((10_000, 20)),
        handovers_max=pick((None, None, 3)),
        worker_grace_ns=pick((20 * MS, 0, 200 * MS)),
        outbox_bytes_max=pick((64 * 1024**2, 64 * 1024**2, 64 * 1024**2, 5_000)),
        session_grace_ns=pick((250 * MS, 250 * MS, 0, 30 * MS)),
        liveness_ns=pick((10 * S, 2 * S, 400 * MS)),
        recall_ns=pick((100 * MS, 100 * MS, 5 * MS)),
        asker_grace_ns=pick((S, 0, 30 * MS)),
        askers_per_job_max=pick((100, 100, 1)),
        outcomes_max=pick((100_000, 100_000, 20)),
        outcome_ns=pick((3_600 * S, 3_600 * S, 2 * S)),
        run_ns_max=pick((7 * 86_400 * S, 7 * 86_400 * S, 500 * MS)),
    )


def _draw_2010(rng: random.Random, config: Config, bad: float, work_ns: int, late_ns: int) -> Config:
    """Peers of 2010."""
    pick = rng.choice
    timeout_ns = config.timeout_ns
    habits = Habits(
        drops=bad * rng.random() if timeout_ns is not None else 0.0,
        late=bad * rng.random(),
        twice=bad * rng.random(),
        dies_before=bad * rng.random() * 0.3,
        dies_after=bad * rng.random() * 0.3,
        garbles=bad * rng.random(),
        work_ns=work_ns,
        late_ns=late_ns,
    )
    return msgspec.structs.replace(
        config,
        req_clients=rng.randrange(1, 15),
        dealer_clients=rng.randrange(0, 5),
        window=pick((2, 10, 50, 150)),
        patience_ns=pick((None, None, 100 * MS, 3 * S)),
        frames=pick((1, 1, 1, 3)),
        req_workers=rng.randrange(1, 8),
        dealer_workers=rng.randrange(0, 4),
        ahead=pick((1, 2, 10, 50)),
        proxied=timeout_ns is not None and rng.random() < 0.2,
        habits=habits if bad else HONEST,
    )


def _draw_native(rng: random.Random, config: Config, bad: float, work_ns: int, late_ns: int) -> Config:
    """Native peers."""
    pick, some = rng.choice, rng.random
    habits = NativeHabits(
        drops=bad * some() * 0.3,
        late=bad * some(),
        twice=bad * some(),
        again=bad * some(),
        dies_before=bad * some() * 0.2,
        dies_after=bad * some() * 0.2,
        garbles=bad * some(),
        fails=bad * some(),
        fails_later=bad * some() * 0.5,
        fails_for_good=bad * some() * 0.2,
        hands_back=bad * some(),
        partials=bad * some(),
        progresses=bad * some(),
        extends=bad * some(),
        foreign=bad * some(),
        mute=pick((0.0, 0.0, 0.3, 0.9)) if bad else 0.0,
        lies=pick((0.0, 0.0, 0.05)) if bad else 0.0,
        speaks_first=pick((0.0, 0.5, 1.0)),
        work_ns=work_ns,
        late_ns=late_ns,
    )
    config = msgspec.structs.replace(
        config,
        native_clients=rng.randrange(1, 8),
        native_window=pick((1, 5, 20, 100)),
        patience_native_ns=pick((None, None, 300 * MS, 2 * S, 5 * S)),
        receipts=pick((("prompt",), ("prompt", "lazy", "never"))),
        strange=pick((0.0, 0.1, 0.5)),
        shares=pick((0.0, 0.05)),
        queues=pick((("default",), ("default",), ("default", "mail", "pictures"))),
        native_workers=rng.randrange(1, 8),
        capacity=pick((1, 1, 4)),
        native_ahead=pick((0, 1, 10)),
        seats=pick((1, 1, 2)),
        minimal=pick((0.0, 0.3)),
    )
    habits = msgspec.structs.replace(habits, overflows=bad * pick((0.0, 0.0, 0.0, 0.3)))
    return msgspec.structs.replace(config, native_habits=habits if bad else GOOD)


class Outcome(msgspec.Struct):
    """What a world came to."""

    seed: str
    jobs: int
    turns: int
    simulated_s: float
    counts: dict[str, int]
    digest: str = ""


def tokens_of(rng: random.Random) -> Iterator[bytes]:
    """Tokens as the broker draws them, from the seed."""
    while True:
        yield rng.getrandbits(128).to_bytes(16, "big")


class _Announced:
    """The native clients of a machine, who are heard by the judge when the machine hears them; mixed into whatever is
    on trial. What became of a request is decided when it was heard.
    """

    judge: Judge

    def hello(self, peer: Peer, path: Path, said: ClientHello, now: int) -> Any:
        self.judge.requests.hears(peer, path, said)
        return super().hello(peer, path, said, now)  # type: ignore[misc]  # the class that this is mixed into

    def submit(self, asker: Asker, said: Submit, body: Body, now: int) -> None:
        self.judge.requests.hears(asker.peer, asker.path, said)
        super().submit(asker, said, body, now)  # type: ignore[misc]  # the same
        self.judge.requests.settle()

    def submit_plain(self, batch: list[PlainSubmitted], now: int) -> Any:
        for peer, path, name, received, _ in batch:
            self.judge.requests.hears(peer, path, Submit(id=name, received=received))
        strange = super().submit_plain(batch, now)  # type: ignore[misc]  # the same
        self.judge.requests.settle()
        return strange

    def inquire(self, asker: Asker, said: Inquire, now: int) -> None:
        self.judge.requests.hears(asker.peer, asker.path, said)
        super().inquire(asker, said, now)  # type: ignore[misc]  # the same

    def cancel(self, asker: Asker, said: CancelJob, now: int) -> None:
        self.judge.requests.hears(asker.peer, asker.path, said)
        super().cancel(asker, said, now)  # type: ignore[misc]  # the same


class _Reports:
    """A machine that announces to the judge what it decides, when it does; mixed into whatever machine is on trial."""

    judge: Judge
    requests: Any

    def __init__(self, *what: Any, **more: Any) -> None:
        super().__init__(*what, **more)
        self.requests = type("Announced", (_Announced, type(self.requests)), {"judge": self.judge})(self)

    def submit(self, batch: list[Request], now: int) -> None:
        self.judge.submitted([body for _, _, body in batch])
        super().submit(batch, now)  # type: ignore[misc]  # the machine that this is mixed into

    def accept(self, jobs: list[Job], size: int, now: int, **how: bool) -> None:
        super().accept(jobs, size, now, **how)  # type: ignore[misc]  # the same
        self.judge.accepted(jobs)

    def attempt_failed(self, job: Job, cause: Cause, now: int, **said: Any) -> None:
        self.judge.attempt_failed(job, cause)
        super().attempt_failed(job, cause, now, **said)  # type: ignore[misc]  # the same
        self.judge.waits(job)

    def give_back(self, job: Job, now: int, **how: bool) -> None:
        self.judge.given_back(job)
        super().give_back(job, now, **how)  # type: ignore[misc]  # the same

    def claim(self, job: Job, session: Session, now: int) -> None:
        self.judge.claimed(job, session)
        super().claim(job, session, now)  # type: ignore[misc]  # the same

    def notice_lost(self, worker: RosterWorker) -> None:
        self.judge.session_lost(worker)
        super().notice_lost(worker)  # type: ignore[misc]  # the same

    def shared(self, job: Job) -> None:
        super().shared(job)  # type: ignore[misc]  # the same
        self.judge.shared([key if isinstance(key, bytes) else key[1] for key in self.requests.uniques.requests_of(job)])

    def forgotten(self, job: Job, *, purged: bool = False) -> None:
        super().forgotten(job, purged=purged)  # type: ignore[misc]  # the same
        if job not in self.kept:  # type: ignore[attr-defined]  # likewise
            self.judge.letter_gone(job)

    def _ended_badly(self, job: Job) -> None:
        self.judge.ended_badly(job)
        super()._ended_badly(job)  # type: ignore[misc]  # the same
        if job in self.kept:  # type: ignore[attr-defined]  # likewise
            self.judge.has_letter(job)


class World:
    """One world. `machine` and `server` make what is on trial; tests put broken ones there."""

    def __init__(
        self,
        seed: str,
        config: Config | None = None,
        *,
        machine: type[Machine] = Machine,
        server: type[Server] = Server,
        watch: bool = False,
        kinds: tuple[str, ...] = (),
    ) -> None:
        """What is not given is drawn; `kinds` as for `draw`."""
        self.seed = seed
        self.rng = random.Random(seed)  # noqa: S311 - a seeded fate is what a simulation wants
        self.config = config = config or draw(self.rng, *kinds)
        self.clock = Clock()
        self.network = Network(self.clock, self.rng, delay_ns=config.delay_ns, spread_ns=config.spread_ns)
        self.judge = Judge(
            tries=config.tries,
            timeout_ns=config.timeout_ns,
            limits=config.limits,
            has_store=config.settles_ns is not None,
        )
        if watch:
            self.judge.watch()
        self.turns = 0
        self.dropped = 0
        self.loaded = 0
        self._make_machine: MachineMaker = type("Reporting", (_Reports, machine), {"judge": self.judge})
        self._make_server: ServerMaker = server
        self.seen_tokens: deque[bytes] = deque(maxlen=50)
        self._submitted = 0
        self._epoch = 0
        self._census_credit = 0
        self._turn_due = -1
        self._turn_serial = 0
        self._idle_turns = 0
        self._busy_until = 0
        self._deaf_ns = 0
        self._stall_ns = 0
        self._quiet = False
        self._down = False
        self._settling = False
        self._store: LateStore | None = None
        if config.settles_ns is not None:
            apart_bytes_min = 1 if config.keeps_bodies else NEVER
            self._store = LateStore(self._appended, apart_bytes_min=apart_bytes_min, commits_one=config.commits_one)
            self._store.on_settled = self.judge.settled
            self.judge.frames_of = bodies_of(self._store)
            self.judge.is_recorded = self._store.knows
        self._start_broker()
        self.clients: list[Client | NativeClient] = [
            Client(
                self,
                window=0 if index < config.req_clients else config.window,
                think_ns=config.think_ns,
                patience_ns=config.patience_ns if index < config.req_clients else None,
                unread_max=config.unread_max,
                frames=config.frames,
            )
            for index in range(config.req_clients + config.dealer_clients)
        ]
        self.native_clients = [self._native_client() for _ in range(config.native_clients)]
        self.clients += self.native_clients
        self.workers: list[Worker | NativeWorker] = [Worker(self, config.habits) for _ in range(config.req_workers)]
        paths = (b"", *(b"\0\0\0\1%c" % letter for letter in b"abc")) if config.proxied else (b"",)
        self.workers += [
            Worker(self, config.habits, ahead=config.ahead, paths=paths, unread_max=config.worker_unread_max)
            for _ in range(config.dealer_workers)
        ]
        self.workers += [self._native_worker(config.native_habits) for _ in range(config.native_workers)]

    def _native_client(self) -> NativeClient:
        config, rng = self.config, self.rng
        return NativeClient(
            self,
            window=config.native_window,
            think_ns=config.think_ns,
            patience_ns=config.patience_native_ns,
            unread_max=config.unread_max,
            queues=config.queues,
            receipts=rng.choice(config.receipts),
            strange=config.strange,
            shares=config.shares,
            path=rng.choice((b"", b"", b"\0\0\0\1p")),
            policies=config.policies,
        )

    def _native_worker(self, habits: NativeHabits, *, serves_all: bool = False) -> NativeWorker:
        config, rng = self.config, self.rng
        queues = config.queues
        if len(queues) > 1 and not serves_all:
            queues = tuple(rng.sample(queues, rng.randrange(1, len(queues) + 1)))
        features: tuple[str, ...] = ("starts", "recalls")
        if rng.random() < config.minimal:
            features = rng.choice((("starts",), ("recalls",), ()))
        weights: tuple[int, ...] = ()
        if config.policies is not None and config.policies.weights and len(queues) > 1:
            weights = tuple(rng.choice(config.policies.weights) for _ in queues)
        return NativeWorker(
            self,
            habits,
            queues=queues,
            weights=weights,
            capacity=config.capacity,
            ahead=config.native_ahead,
            features=features,
            paths=(b"", b"\0\0\0\1s")[: config.seats],
            unread_max=config.worker_unread_max,
        )

    # --- What peers see (`peers.Surroundings`)

    def next_job(self) -> bytes | None:
        """The first frame of the next job; None when there are enough."""
        if self._submitted >= self.config.jobs:
            return None
        self._submitted += 1
        return b"job %d" % self._submitted

    def count(self, fault: str) -> None:
        """A fault has happened."""
        self.judge.count(fault)

    def shares(self, client: NativeClient, wanted: Wanted) -> None:
        """Another native client asks for the same."""
        others = [other for other in self.native_clients if other is not client]
        if others:
            self.clock.after(int(self.rng.random() * 20 * MS), self.rng.choice(others).joins, wanted)

    # --- The broker and its clock

    def _start_broker(self) -> None:
        config, judge = self.config, self.judge
        self._down = False
        self._epoch += 1
        self.machine = self._make_machine(
            tokens_of(self.rng),
            tries=config.tries,
            timeout_ns=config.timeout_ns,
            limits=config.limits,
            keeps_records=self._store is not None,
            epoch=self._epoch,
            began_ns=self.lease_now,
        )
        self.machine.wall_ns = self._wall - self.lease_now
        store: Store | None = self._store
        self.loaded = 0
        if store is not None:
            self.machine.load(store.load(), self.lease_now, store.seal_key)
            self.loaded = self.machine.open
        self._census = census.Census(self.machine, self.loaded)
        judge.deaf_ns = self._deaf_ns
        settings = {queue.name: queue.settings for queue in self.machine.queues if queue.settings is not None}
        judge.restarted(list(self.machine.jobs()), settings, self.lease_now)
        self._clients = Router(self.network, "clients", judge)
        self._workers = Router(self.network, "workers", judge)
        self._answers = Pull(self.network, judge)
        self.server = self._make_server(self.machine, self._clients, self._workers, self._answers, judge.publish, store)
        endpoints: dict[str, Endpoint] = {"clients": self._clients, "workers": self._workers, "answers": self._answers}
        self.network.listen(endpoints)
        self.network.wake = self._wake
        if config.policies is not None and (store is None or self._epoch == 1):
            for name, several in config.policies.settings.items():
                self._set_queue(name, several[0])
        self._schedule()

    @property
    def lease_now(self) -> int:
        """Lease time: simulated time without what the broker could not hear."""
        return self.clock.now - self._deaf_ns

    @property
    def _wall(self) -> int:
        """Nanoseconds since 1970."""
        return WALL_NS + self.clock.now

    def _wake(self, role: str) -> None:
        if role != "clients" or self.server.hears_clients or self._clients.has_news:
            self._turn_at(self.clock.now + HEARD_NS)

    def _turn_at(self, when: int) -> None:
        when = max(when, self._busy_until)
        if self._down or 0 <= self._turn_due <= when:
            return
        self._turn_due = when
        self._turn_serial += 1
        self.clock.at(when, self._turn, self._turn_serial)

    def _schedule(self) -> None:
        """As the poll would: at once if there is something to read or to do, else when the next deadline comes."""
        server = self.server
        clients = self._clients.has_news or (bool(self._clients.ready) and server.hears_clients)
        if server.busy or clients or self._workers.readable or self._answers.readable:
            self._turn_at(self.clock.now)
            return
        due = server.next_deadline()
        if due is not None:
            wait = max(0, due - self.lease_now)
            self._turn_at(self.clock.now + -(-wait // MS) * MS)

    def _turn(self, serial: int) -> None:
        if serial != self._turn_serial or self._down:
            return
        if self.clock.now < self._busy_until:
            self._turn_due = -1
            self._turn_at(self._busy_until)
            return
        self._turn_due = -1
        self._deaf_ns += self._stall_ns  # as the broker does when its poll returned late
        self._stall_ns = 0
        judge, machine = self.judge, self.machine
        now = self.lease_now
        judge.deaf_ns = self._deaf_ns
        judge.begin_turn(now)
        before = judge.seen
        self.server.turn(now, self._wall)
        self.turns += 1
        self._take_count()
        happened = judge.seen - before
        self._busy_until = self.clock.now + TURN_NS + happened * MESSAGE_NS
        self._idle_turns = 0 if happened else self._idle_turns + 1
        if self._idle_turns > IDLE_TURNS_MAX:
            raise Violation(WRONG, f"the broker spins: nothing has happened in {self._idle_turns} turns")
        self._census_credit += CENSUS_SHARE
        if self._census_credit > machine.open:
            self._census_credit -= machine.open
            self._census.take(judge.seen)
        self._schedule()

    def _take_counters(self) -> None:
        """What this broker has counted goes into the summary; a crash ends its counting."""
        counters = self.machine.counters
        for name in ("answers_late", "attempts_expired", "attempts_lost", "replies_unroutable", "reply_dropped"):
            self.judge.count(name, getattr(counters, name))

    def _take_count(self) -> None:
        counters = self.machine.counters
        self.dropped = max(0, counters.reply_dropped - self.judge.sessions.unsaid)
        if self.machine.open > OPEN_MAX + self.config.limits.jobs_max // 10:
            raise Violation(WRONG, f"{self.machine.open} jobs are open: the world is too large")

    # --- The disk


    def _appended(self, _turn: int) -> None:
        settles_ns = self.config.settles_ns
        if not settles_ns and self._store is not None:
            self._store.settle()
        elif settles_ns and not self._settling:
            self._settling = True
            self.clock.after(int(self.rng.random() * settles_ns), self._settles)

    def _settles(self) -> None:
        self._settling = False
        store = self._store
        if store is None:
            return
        store.settle(self.rng.randrange(1, 5) if self.rng.random() < 0.5 else 1 << 30)
        if not self._down:
            self._turn_at(self.clock.now)
        if store.pending:
            self._settling = True
            self.clock.after(int(self.rng.random() * (self.config.settles_ns or 1)), self._settles)

    # --- The administrator

    def _administers(self) -> None:
        """Some queue gets other settings."""
        wanted = self.config.policies
        if self._quiet or wanted is None or not wanted.settings:
            return
        if not self._down:
            name = self.rng.choice(list(wanted.settings))
            if self.rng.random() < wanted.redrives:
                verb: Any = "redrive" if self.rng.random() < 0.7 and self._may_redrive(name) else "purge"
                self.machine.dead.begin(Sweep(verb=verb, selection=Selection(queue=name), limit=5))
            else:
                self._set_queue(name, self.rng.choice(wanted.settings[name]))
            self._turn_at(self.clock.now)
        self.clock.after(int(self.rng.expovariate(wanted.changes) * S) + 1, self._administers)

    def _may_redrive(self, name: str) -> bool:
        """The judge knows an open job by its body: of one that is done again, or may be, no other may be made."""
        letters = [letter for letter in self.machine.kept.walk(name, 0) if not letter.redriven_to]
        keys = [key_of(self.judge.frames_of(letter.job.body)) for letter in letters]
        wanted = {key_of(it.body) for client in self.native_clients for it in client.wanted.values()}
        is_open = any(self.judge.by_key[key].open for key in keys)
        return len(set(keys)) == len(keys) and not wanted.intersection(keys) and not is_open

    def _set_queue(self, name: str, settings: QueueSettings) -> None:
        self.judge.count(f"queue_set_{settings.paused or 'unpaused'}")
        self.judge.queue_set(name, settings)
        self.machine.set_queue(name, settings)

    # --- Faults

    def _gremlin(self) -> None:
        """Something happens to somebody, and the next time is drawn."""
        if self._quiet:
            return
        rng = self.rng
        self._mischief(rng.random())
        self.clock.after(int(rng.expovariate(self.config.faults) * S) + 1, self._gremlin)

    def _mischief(self, luck: float) -> None:
        rng = self.rng
        worker = rng.choice(self.workers)
        client = rng.choice(self.clients)
        actor = rng.choice((worker, worker, client))
        if luck < 0.08 and isinstance(worker, NativeWorker):
            self.count("worker_stopped")
            worker.stopped(takes_back=luck < 0.04)
        elif luck < 0.2:
            self.count("worker_killed")
            worker.killed()
        elif luck < 0.4:
            wires = [wire for wire in actor.wires() if wire.up]
            if wires:
                self.count("connection_lost")
                rng.choice(wires).breaks(reset=rng.random() < 0.5)
        elif luck < 0.55:
            if self.config.freezes:
                self._freeze(actor, rng.choice((5 * MS, 100 * MS, 2 * S, 10 * S)))
        elif luck < 0.65:
            self._cut(actor, rng.choice((10 * MS, 500 * MS, 8 * S)))
        elif luck < 0.8:
            self.count("client_slow")
            client.stops_reading(rng.choice((5 * MS, 50 * MS, 500 * MS)))
        elif luck < 0.9:
            self.count("garbage")
            client.sends_garbage()
            worker.sends_garbage()
        elif self.config.stalls and not self._down and not self._stall_ns:
            self.count("broker_stalled")
            stall = rng.choice((5 * MS, 100 * MS, 3 * S))
            self._busy_until = max(self._busy_until, self.clock.now) + stall
            self._stall_ns += stall

    def _freeze(self, actor: Client | Worker | NativeClient | NativeWorker, duration_ns: int) -> None:
        self.count("frozen")
        actor.freeze(duration_ns)
        self._miss_heartbeats(actor, duration_ns)

    def _cut(self, actor: Client | Worker | NativeClient | NativeWorker, duration_ns: int) -> None:
        self.count("cut_off")
        for wire in actor.wires():
            wire.cut_until = self.clock.now + duration_ns
        self._miss_heartbeats(actor, duration_ns)

    def _miss_heartbeats(self, actor: Client | Worker | NativeClient | NativeWorker, duration_ns: int) -> None:
        """Heartbeats find a silent worker after 3 to 4 s; clients have none, and keep their connections."""
        if isinstance(actor, Client | NativeClient):
            return
        found_ns = int((3 + self.rng.random()) * S)
        if duration_ns > found_ns:
            for wire in actor.wires():
                self.clock.after(found_ns, wire.fin)

    def _crash(self) -> None:
        if self._quiet or self._down:
            return
        self._down = True
        self._take_counters()
        self._turn_due = -1
        self._stall_ns = 0
        self.judge.crashed()
        self.network.crash()
        if self._store is not None:
            self._store.crash(survives=self.rng.choice((0, 0, 1, 3)))
        self.clock.after(self.rng.choice((20 * MS, 500 * MS)), self._start_broker)
        self.clock.after(int(self.rng.expovariate(self.config.crashes) * S) + S, self._crash)

    # --- The two acts

    def play(self) -> Outcome:
        """Runs the world to its end. Raises `Violation` or `census.InvariantBroken`, with the seed in a note."""
        try:
            self._first_act()
            if self.config.ends_by_stop:
                self._stop_the_broker()
            else:
                self._second_act()
            self._verdict()
        except Exception as error:
            error.add_note(
                f"world {self.seed}, {self.clock.now / S:.6f} simulated seconds, turn {self.turns}: {self.config}"
            )
            raise
        counts = self.judge.counts
        counts["messages_vanished"] = self.network.vanished
        self._take_counters()
        digest = self.judge.digest() if self.judge.trace is not None else ""
        return Outcome(self.seed, self._submitted, self.turns, self.clock.now / S, counts, digest)

    def _first_act(self) -> None:
        config, clock = self.config, self.clock
        if config.faults:
            clock.after(int(self.rng.expovariate(config.faults) * S) + 1, self._gremlin)
        if config.crashes:
            clock.after(int(self.rng.expovariate(config.crashes) * S) + 1, self._crash)
        if config.policies is not None and config.policies.changes:
            clock.after(int(self.rng.expovariate(config.policies.changes) * S) + 1, self._administers)
        until = 60 * S
        while clock.now < until and self._submitted < config.jobs:
            if not clock.step():
                break

    def _second_act(self) -> None:
        self._quiet = True
        clock = self.clock
        for actor in (*self.workers, *self.clients):
            for wire in actor.wires():
                wire.cut_until = 0
            actor.thaw()
        for worker in self.workers:
            worker.retires()
        self.config.jobs = self._submitted  # nobody submits anything new
        self.workers = [Worker(self, HONEST, ahead=20), Worker(self, HONEST)]
        self.config.minimal = 0.0
        if self.config.native_clients:
            self.workers += [self._native_worker(GOOD, serves_all=True) for _ in range(2)]
        self._unpause()
        until = clock.now + QUIET_NS_MAX
        while clock.now < until and clock.step():
            if self.config.native_clients and self._is_done():
                rest = clock.now + REST_NS
                while clock.now < rest and clock.step():
                    pass
                if self._is_done():  # else something was still on its way
                    break
        overdue = self.judge.overdue(10 * S)
        if overdue is not None:
            raise Violation(LOST, f"{overdue.key!r} runs at nobody and its attempt does not end")

    def _unpause(self) -> None:
        """Nothing must wait for ever."""
        if self._down:
            self.clock.after(MS, self._unpause)
            return
        for line in list(self.judge.lines):
            if line.settings.paused:
                self._set_queue(line.name, policies.unpaused(line.settings))
            if any(line.blocked.values()):
                self.machine.dead.begin(Sweep(verb="purge", selection=Selection(queue=line.name)))
        self._turn_at(self.clock.now)
        if self.config.policies is not None and self.config.policies.blocks and not self._is_done():
            self.clock.after(100 * MS, self._unpause)

    def _is_done(self) -> bool:
        """Nobody waits for anything but what was dropped."""
        return (
            not self._down
            and self.judge.open == 0
            and not self.server.outbox
            and not any(client.wanted for client in self.native_clients)
            and sum(len(client.pending) for client in self.clients if isinstance(client, Client)) <= self.dropped
            and self.judge.at_rest(dropped=self.dropped)
        )

    def _stop_the_broker(self) -> None:
        """Draining for a while, then the end."""
        self._quiet = True
        clock = self.clock
        for client in self.clients:
            client.thaw()
        while self._down and clock.step():
            pass
        self.server.draining = self.judge.draining = True
        until = clock.now + self.rng.choice((0, 200 * MS, 5 * S))
        while self.machine.open and clock.now < until and clock.step():
            pass
        self.judge.stopped, self.judge.stopped_at = True, self.lease_now
        self.judge.now = self.lease_now
        for _ in range(100_000):
            self.judge.begin_turn(self.lease_now)
            if self.server.stop(self.lease_now):
                break
            clock.step()
        else:
            raise Violation(WRONG, "the broker was stopped and does not end")
        until = clock.now + 30 * S  # as long as the outboxes are given; here, until who slept or was cut off is back
        while clock.now < until and clock.step():
            self.judge.now = self.lease_now

    def _verdict(self) -> None:
        if self._down:
            raise Violation(WRONG, "the broker did not come back")
        census.check(self.machine, loaded=self.loaded)
        if self.dropped and self.config.limits.outbox_bytes_max > 1_000_000:
            raise Violation(LOST, f"{self.dropped} replies were dropped though no outbox was full")
        self.judge.verdict(dropped=self.dropped, reads=_reads)
        unheard = [
            key
            for client in self.clients
            if isinstance(client, Client)
            if client.wire is not None and client.wire.up and not client.wire.gone and client.wire.reading
            for key in client.pending.values()
        ]
        # What a stopped broker has not read goes with its sockets, which the end of the world does not show.
        if len(unheard) > self.dropped and not self.judge.stopped:
            raise Violation(LOST, f"{len(unheard)} requests of living connections were never answered: {unheard[:3]}")
        waiting = [name for client in self.native_clients for name in client.wanted]
        if waiting and not self.judge.stopped:
            raise Violation(LOST, f"{len(waiting)} native requests were asked for again and again: {waiting[:3]}")


def _reads(wire: Wire) -> bool:
    owner: Any = wire.owner
    return wire.reading and not owner.frozen
