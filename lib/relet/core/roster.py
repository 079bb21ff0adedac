"""Workers: who has asked, and what each of them holds.

A worker is a return path on a connection. Its credit is the number of its unspent asks; workers with credit stand in
one line and take turns, one job each, so that a worker that asked for a hundred jobs does not get them before another
that asked for one. A worker that is lost leaves its credit behind at once, and its place in the line when that comes
up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from relet.core.job import Job
from relet.messages import Ask, Path, Peer

_STALE_WORTH_REBUILDING = 64
"""Below this a rebuild of the line costs more than the entries it frees."""


class Worker:
    """One return path on one connection, from its first ask until the connection goes."""

    __slots__ = ("credit", "in_line", "jobs", "path", "peer")

    def __init__(self, peer: Peer, path: Path) -> None:
        self.peer = peer
        self.path = path
        self.credit = 0
        """Unspent asks."""
        self.in_line = False
        self.jobs: set[Job] = set()
        """The jobs whose lease it holds. A dict would keep their order, and cost a cache miss more beside a million."""

    def __repr__(self) -> str:
        return f"<Worker {name_of(self)} credit={self.credit} jobs={len(self.jobs)}>"


def name_of(worker: Worker) -> str:
    """What logs call a worker: its descriptor and return path, never anything that opens a door."""
    path = worker.path.hex()
    return f"fd{worker.peer.descriptor}" + (f"/{path}" if path else "")


class Roster:
    """All workers, by connection and return path."""

    __slots__ = (
        "_asks_max",
        "_asks_per_worker_max",
        "_barren",
        "_paths_max",
        "_stale",
        "_workers_max",
        "asks",
        "count",
        "line",
        "routes",
    )

    def __init__(self, *, asks_max: int, asks_per_worker_max: int, workers_max: int, paths_max: int) -> None:
        self._asks_max = asks_max
        self._asks_per_worker_max = asks_per_worker_max
        self._workers_max = workers_max
        self._paths_max = paths_max
        self._barren = 0
        """Asks to refuse before looking for room again."""
        self._stale = 0
        self.asks = 0
        """Unspent asks of all workers."""
        self.count = 0
        """Workers that are not lost."""
        self.routes: dict[Peer, dict[Path, Worker]] = {}
        self.line: deque[Worker] = deque()
        """Workers with credit, next first; and lost ones, without."""

    def __iter__(self) -> Iterator[Worker]:
        for paths in self.routes.values():
            yield from paths.values()

    def ask(self, batch: list[Ask]) -> tuple[list[Worker], int]:
        """Each message is one ask. Returns the workers that asked for the first time, and how many asks were
        refused.
        """
        arrived: list[Worker] = []
        refused = 0
        routes, line = self.routes, self.line
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
                worker = Worker(peer, path)
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
            if not worker.in_line:
                worker.in_line = True
                line.append(worker)
            elif not worker.credit:
                self._stale -= 1
            worker.credit += 1
        self.asks += granted
        return arrived, refused

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
            if not paths:
                del self.routes[each]
        if self.count == before:
            self._barren = before // 16
        return self.count < self._workers_max and len(self.routes.get(peer, ())) < self._paths_max

    def void(self, worker: Worker) -> None:
        """What the worker asked for is void: it cannot be reached. It may ask again."""
        if not worker.credit:
            return
        self.asks -= worker.credit
        worker.credit = 0
        if worker.in_line:
            self._stale += 1
            if self._stale > _STALE_WORTH_REBUILDING and self._stale > len(self.line) // 2:
                for entry in self.line:
                    entry.in_line = entry.credit > 0
                self.line = deque(entry for entry in self.line if entry.credit)
                self._stale = 0

    def drop_first(self) -> None:
        """The first in line has no credit left: it was lost, or could not be reached."""
        self.line.popleft().in_line = False
        self._stale -= 1

    def lost(self, peer: Peer) -> list[Worker]:
        """The connection has gone, and every worker on it. Returns them; they are in the roster no more."""
        gone = list(self.routes.pop(peer, {}).values())
        for worker in gone:
            self.void(worker)
        self.count -= len(gone)
        return gone
