"""Workers: who has asked, and what each of them holds.

A worker of 2010 is a return path on a connection, and its asks are counted one by one. A native worker is a session: it
has an identity of its own, its incarnation, with which it comes back on another connection, and its asks are one
cumulative number. For the machine both are a `Worker` with credit; what a session can do beyond that, it says itself
(`confirms`, `recalls`).

A worker that is lost leaves its credit behind at once, and its place in the line when that comes up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from relet.core.job import HELD, Job
from relet.core.queue import Place, Queue
from relet.core.service import Rounds, Service
from relet.messages import Ask, Path, Peer


class Worker:
    """One return path on one connection, from its first ask until the connection goes."""

    __slots__ = (
        "capacity",
        "confirms",
        "credit",
        "dropped",
        "jobs",
        "lost",
        "path",
        "peer",
        "places",
        "recalls",
        "service",
    )

    def __init__(self, peer: Peer, path: Path, queues: tuple[Queue, ...]) -> None:
        self.peer = peer
        self.path = path
        self.credit = 0
        """Unspent asks."""
        self.lost = False
        self.confirms = False
        """Whether it says when it starts a job."""
        self.recalls = False
        """Whether it heeds a recall, and hears that nobody waits any more."""
        self.capacity = 1
        """How many jobs it does at a time."""
        self.service: Service | Rounds | None = None
        """What it serves, where that are several queues, some more important to it than others."""
        self.places = tuple(Place(self, queue) for queue in queues)
        """Its place in the line of each queue that it serves, in the order of its preference."""
        self.dropped: list[Place] = []
        """Where it serves several queues, its places that are in no line: with credit, there is none."""
        self.jobs: Any = set()
        """The jobs that it holds: a set. A dict would keep their order, which only sessions need, and cost a cache miss
        more beside a million."""

    def __repr__(self) -> str:
        return f"<Worker {self.name} credit={self.credit} jobs={len(self.jobs)}>"

    def take(self, job: Job) -> None:
        """It holds this job."""
        self.jobs.add(job)

    def drop(self, job: Job) -> None:
        """It holds this job no more."""
        self.jobs.remove(job)

    @property
    def name(self) -> str:
        """What logs call it: its descriptor and return path, never anything that opens a door."""
        path = self.path.hex()
        return f"fd{self.peer.descriptor}" + (f"/{path}" if path else "")


class Session(Worker):
    """A native worker, from its hello until it was silent for too long or said goodbye."""

    __slots__ = (
        "acked",
        "agent",
        "away",
        "gone_ns",
        "granted",
        "handed",
        "heard_ns",
        "incarnation",
        "principal",
        "reported",
        "safe",
        "said_credit",
        "said_started",
        "started",
        "weights",
    )

    def __init__(
        self, peer: Peer, path: Path, queues: tuple[Queue, ...], incarnation: bytes, features: tuple[str, ...], now: int
    ) -> None:
        super().__init__(peer, path, queues)
        self.incarnation = incarnation
        self.principal = peer.principal
        self.confirms = "starts" in features
        self.recalls = "recalls" in features
        self.dropped = list(self.places)
        self.weights: tuple[int, ...] = ()
        """Jobs of each of its queues a round; (): they are served in the order of its preference."""
        self.agent = ""
        self.heard_ns = now
        self.away = False
        """Its connection is gone; it may come back on another ..."""
        self.gone_ns = 0
        """... until then."""
        self.granted = 0
        """Hand-overs that it has asked for since it began; `credit` is what of them is left."""
        self.handed = 0
        """Hand-overs made."""
        self.started = 0
        """Hand-overs up to this one were started, or given back."""
        self.said_credit = self.said_started = 0
        """The largest such numbers of the answers in hand."""
        self.jobs = {}
        """The jobs that it holds, as the keys of a dict; those that it has not started in the order of their hand-
        overs."""
        self.reported = 0
        """The last report that was taken."""
        self.safe = 0
        """The last report that is safe ..."""
        self.acked = 0
        """... and that it was told so of."""

    def never_sent(self, job: Job, unsent: Iterable[Job]) -> None:
        """A hand-over will not leave: those after it, none of which has left, move up."""
        for other in unsent:
            if other.holder is self and other.seq > job.seq:
                other.seq -= 1
        self.handed -= 1

    def never_got(self, job: Job) -> None:
        """A hand-over did not leave: if it was the last one, its number is the next one's."""
        self.handed -= job.seq == self.handed

    def oldest_held(self) -> Job | None:
        """Of the jobs that it has and has not started, the one that it has for longest."""
        return next((job for job in self.jobs if job.state == HELD), None)

    def take(self, job: Job) -> None:
        """It holds this job."""
        self.jobs[job] = None

    def drop(self, job: Job) -> None:
        """It holds this job no more."""
        del self.jobs[job]

    @property
    def name(self) -> str:
        """What logs and ledgers call it."""
        return f"{self.agent}/{self.incarnation[:4].hex()}" if self.agent else self.incarnation[:4].hex()


class Roster:
    """All workers: by connection and return path, sessions by incarnation too."""

    __slots__ = (
        "_asks_max",
        "_asks_per_worker_max",
        "_barren",
        "_default",
        "_jobs_per_worker_max",
        "_paths_max",
        "_workers_max",
        "asks",
        "count",
        "routes",
        "services",
        "sessions",
        "sessions_on",
    )

    def __init__(
        self,
        default: Queue,
        *,
        asks_max: int,
        asks_per_worker_max: int,
        jobs_per_worker_max: int,
        workers_max: int,
        paths_max: int,
    ) -> None:
        self._default = (default,)
        self._asks_max = asks_max
        self._asks_per_worker_max = asks_per_worker_max
        self._jobs_per_worker_max = jobs_per_worker_max
        self._workers_max = workers_max
        self._paths_max = paths_max
        self._barren = 0
        """Asks to refuse before looking for room again."""
        self.asks = 0
        """Unspent asks of all workers."""
        self.count = 0
        """Workers that are not lost."""
        self.routes: dict[Peer, dict[Path, Worker]] = {}
        """Workers of 2010."""
        self.sessions_on: dict[Peer, dict[Path, Session]] = {}
        """Sessions whose connection is there."""
        self.sessions: dict[tuple[str, bytes], Session] = {}
        """All sessions by principal and incarnation."""
        self.services: dict[tuple[Queue, ...], Service] = {}
        """What those of them serve that serve several queues."""

    def __iter__(self) -> Iterator[Worker]:
        for paths in self.routes.values():
            yield from paths.values()
        yield from self.sessions.values()

    def ask(self, batch: list[Ask]) -> tuple[list[Worker], int]:
        """Each message is one ask. Returns the workers that asked for the first time, and how many asks were
        refused.
        """
        arrived: list[Worker] = []
        refused = 0
        routes = self.routes
        room, per_worker = self._asks_max - self.asks, self._asks_per_worker_max
        granted = 0
        for peer, path, _ in batch:
            paths = routes.get(peer)
            worker = paths.get(path) if paths is not None else None
            if worker is None:
                if not peer.routing_id:
                    continue  # its connection has gone since it asked
                full = self.count >= self._workers_max or (paths is not None and len(paths) >= self._paths_max)
                if full and not self._make_room(peer):
                    refused += 1
                    continue
                worker = Worker(peer, path, self._default)
                routes.setdefault(peer, {})[path] = worker
                self.count += 1
                arrived.append(worker)
            if worker.credit:
                if peer.asks_one_at_a_time:
                    continue  # the new ask takes the place of the older one
                if worker.credit >= per_worker:
                    refused += 1
                    continue
            if granted >= room:
                refused += 1
                continue
            granted += 1
            place = worker.places[0]
            if not place.in_line:
                place.queue.enter(place)
            worker.credit += 1
        self.asks += granted
        return arrived, refused

    def grant(self, session: Session, credit: int) -> bool:
        """The session says a credit that is higher than before. False when only a part of it could be granted."""
        wanted = more = credit - session.granted
        had = session.credit
        if had + more > self._asks_per_worker_max:
            more = self._asks_per_worker_max - had
        if had + more + len(session.jobs) > self._jobs_per_worker_max:
            more = self._jobs_per_worker_max - had - len(session.jobs)
        if self.asks + more > self._asks_max:
            more = self._asks_max - self.asks
        if more > 0:
            self._stands_in_line(session)
            session.granted += more
            session.credit = had + more
            self.asks += more
        return more >= wanted

    def _stands_in_line(self, worker: Worker) -> None:
        """A worker is to have credit."""
        if worker.service is None:
            place = worker.places[0]
            if not place.in_line:
                place.queue.enter(place)
        elif worker.dropped and not worker.credit:
            for place in worker.dropped:
                place.queue.enter(place)
            worker.dropped.clear()

    def unspent(self, worker: Worker) -> None:
        """A hand-over will not leave: the ask that it was for stands as before."""
        self._stands_in_line(worker)
        worker.credit += 1
        self.asks += 1

    def _make_room(self, peer: Peer) -> bool:
        """Forgets workers that neither ask nor hold anything: return paths behind proxies, which nobody says are gone.

        A look at all of them that found nothing is not repeated for every ask that is refused.
        """
        if self._barren > 0:
            self._barren -= 1
            return False
        before = self.count
        for each, paths in list(self.routes.items()):
            for path, worker in list(paths.items()):
                if not worker.credit and not worker.jobs:
                    del paths[path]
                    self.count -= 1
                    self._leave(worker)
            if not paths:
                del self.routes[each]
        if self.count == before:
            self._barren = before // 16
        return self.count < self._workers_max and len(self.routes.get(peer, ())) < self._paths_max

    def arrive(self, session: Session) -> bool:
        """A session begins on its connection; False when there is no room for it."""
        peer = session.peer
        paths = self.sessions_on.get(peer, {})
        full = self.count >= self._workers_max or len(paths) >= self._paths_max
        if full and not (self._make_room(peer) and len(paths) < self._paths_max):
            return False
        self._settle(session)
        self.sessions[session.principal, session.incarnation] = session
        self.count += 1
        if len(session.places) > 1:
            queues = tuple(place.queue for place in session.places)
            if queues not in self.services:
                self.services[queues] = Service(queues)
            service = self.services[queues]
            service.sessions += 1
            session.service = Rounds(service, session.weights) if session.weights else service
        return True

    def moved(self, session: Session, peer: Peer, path: Path) -> None:
        """The session goes on on this connection."""
        self._depart(session)
        session.peer, session.path, session.away = peer, path, False
        self._settle(session)

    def _settle(self, session: Session) -> None:
        """The session is on its connection."""
        peer, path = session.peer, session.path
        self.sessions_on.setdefault(peer, {})[path] = session
        if not path:
            peer.direct = session

    def _depart(self, session: Session) -> None:
        """The session is not on its connection any more."""
        paths = self.sessions_on.get(session.peer)
        if paths is not None and paths.get(session.path) is session:
            del paths[session.path]
            if not paths:
                del self.sessions_on[session.peer]
            if session.peer.direct is session:
                session.peer.direct = None

    def end(self, session: Session) -> None:
        """The session is over."""
        self._depart(session)
        self.sessions.pop((session.principal, session.incarnation), None)
        self.count -= 1
        self._leave(session)
        service = session.service
        if service is not None:
            service = service.service
            service.sessions -= 1
            if not service.sessions:
                service.end()
                del self.services[service.queues]

    def void(self, worker: Worker) -> None:
        """What the worker asked for is void: it cannot be reached. It may ask again."""
        self.asks -= worker.credit
        worker.credit = 0
        if type(worker) is Session:
            worker.granted = worker.handed

    def _leave(self, worker: Worker) -> None:
        """The worker is lost: its credit is void, its places are left."""
        self.void(worker)
        worker.lost = True
        for place in worker.places:
            place.queue.lost(place)

    def lost(self, peer: Peer) -> tuple[list[Worker], list[Session]]:
        """The connection has gone: workers of 2010 on it with it, in the roster no more; sessions are away."""
        gone = list(self.routes.pop(peer, {}).values())
        for worker in gone:
            self._leave(worker)
        self.count -= len(gone)
        away = list(self.sessions_on.pop(peer, {}).values())
        peer.direct = None
        for session in away:
            session.away = True
            self.void(session)
        return gone, away
