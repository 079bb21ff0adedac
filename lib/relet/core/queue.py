"""Where jobs wait and where workers wait for them: a queue has a name, jobs, and a line of workers.

Jobs leave oldest first, and a job that comes back takes its old place. They are dispatched in the order of their
numbers, so whatever comes back is older than whatever was never dispatched: the waiting jobs are two things, those that
came back, by number, with a heap of these numbers, usually small or empty; and behind them a plain FIFO of fresh ones.
A job that is completed while it waits leaves its number in the heap, where it is skipped when its turn comes; when more
than half of the heap is like that, it is made anew.

Workers with credit stand in line and take turns, one job each, so that a worker that asked for a hundred jobs does not
get them before another that asked for one. One that serves several queues has a place in the line of each. A place
without credit is dropped when its turn comes; those of lost workers are counted, so that a line nobody takes jobs from
does not grow for ever.

Nobody makes queues or ends them: one is there as long as a job or a worker names it (`Queues`).
"""

from __future__ import annotations

import heapq
import weakref
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from relet.core.job import AVAILABLE, Job
from relet.messages import DEFAULT_QUEUE

if TYPE_CHECKING:
    from relet.core.roster import Worker

IDLE_LOOKS_MAX: Final = 100
"""Workers in line that are looked at to find one with nothing to do."""
_STALE_WORTH_REBUILDING = 64
"""Below this a rebuild costs more than the entries it frees."""


class Place:
    """One worker's place in the line of one queue."""

    __slots__ = ("in_line", "queue", "worker")

    def __init__(self, worker: Worker, queue: Queue) -> None:
        self.worker = worker
        self.queue = queue
        self.in_line = False


class Queue:
    """Waiting jobs, and the line of workers that ask for them."""

    __slots__ = (
        "__weakref__",
        "_absent",
        "_came_back",
        "_numbers",
        "fresh",
        "gone",
        "line",
        "name",
        "recalls",
    )

    def __init__(self, name: str = DEFAULT_QUEUE) -> None:
        self.name = name
        self.fresh: deque[Job] = deque()
        """Never dispatched; the machine appends here itself, a batch at a time."""
        self.line: deque[Place] = deque()
        """Places of workers with credit, next first; and some whose credit is spent."""
        self.gone = 0
        """Places in line whose workers are lost."""
        self.recalls = 0
        """Jobs that were recalled and have been neither given back nor started."""
        self._absent = 0
        """Fresh jobs that have ended while they waited."""
        self._came_back: dict[int, Job] = {}
        self._numbers: list[int] = []
        """A heap: the numbers of those that came back, and of some that have left since."""

    def __repr__(self) -> str:
        return f"<Queue {self.name} jobs={len(self)} line={len(self.line)}>"

    def __len__(self) -> int:
        return len(self.fresh) - self._absent + len(self._came_back)

    def __iter__(self) -> Iterator[Job]:
        """The waiting jobs, in no order that matters."""
        yield from self._came_back.values()
        yield from (job for job in self.fresh if job.state == AVAILABLE)

    def came_back(self, job: Job) -> None:
        """The job waits again, at its old place."""
        self._came_back[job.number] = job
        heapq.heappush(self._numbers, job.number)

    def left(self, job: Job) -> None:
        """A job leaves while it waits: because it ends, or, if it had come back, because it is claimed."""
        if self._came_back.pop(job.number, None) is None:
            self._absent += 1
            absent, count = self._absent, len(self.fresh)
            if absent == count or (absent > _STALE_WORTH_REBUILDING and absent > count // 2):
                # A queue that nobody serves must not keep what has ended, nor be kept by it.
                self.fresh = deque(it for it in self.fresh if it.state == AVAILABLE and it is not job)
                self._absent = 0
        elif len(self._numbers) > 2 * len(self._came_back) + _STALE_WORTH_REBUILDING:
            self._numbers = sorted(self._came_back)

    def take(self) -> Job | None:
        """The oldest waiting job, which leaves the queue; None when there is none."""
        while self._numbers:
            job = self._came_back.pop(heapq.heappop(self._numbers), None)
            if job is not None:
                return job
        while self._absent:
            if self._absent > _STALE_WORTH_REBUILDING and self._absent > len(self.fresh) // 2:
                self.fresh = deque(job for job in self.fresh if job.state == AVAILABLE)
                self._absent = 0
                break
            job = self.fresh.popleft()
            if job.state == AVAILABLE:
                return job
            self._absent -= 1
        return self.fresh.popleft() if self.fresh else None

    def enter(self, place: Place) -> None:
        """A worker has credit again."""
        place.in_line = True
        self.line.append(place)

    def idle_credit(self, but: Worker) -> int:
        """Jobs that workers with nothing to do ask for, among the first in line, save this one."""
        workers = (place.worker for place in islice(self.line, IDLE_LOOKS_MAX))
        return sum(it.credit for it in workers if len(it.jobs) < it.capacity and it is not but)

    def puts_idle_first(self) -> bool:
        """A worker with nothing to do is next in turn now. False: there is none among the first."""
        line = self.line
        for index, place in enumerate(islice(line, IDLE_LOOKS_MAX)):
            worker = place.worker
            if worker.credit and len(worker.jobs) < worker.capacity:
                del line[index]
                line.appendleft(place)
                return True
        return False

    def drop_first(self) -> None:
        """The first in line has no credit left: it was spent elsewhere, it was lost, or could not be reached."""
        place = self.line.popleft()
        place.in_line = False
        self.gone -= place.worker.lost

    def lost(self, place: Place) -> None:
        """The worker of this place is lost."""
        if not place.in_line:
            return
        self.gone += 1
        if self.gone > _STALE_WORTH_REBUILDING and self.gone > len(self.line) // 2:
            self.line = deque(entry for entry in self.line if not entry.worker.lost)
            self.gone = 0


class Queues:
    """All queues by name. One that no job and no worker refers to is gone."""

    __slots__ = ("_by_name", "default")

    def __init__(self) -> None:
        self.default = Queue()
        self._by_name: weakref.WeakValueDictionary[str, Queue] = weakref.WeakValueDictionary()
        self._by_name[DEFAULT_QUEUE] = self.default

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Queue]:
        return iter(list(self._by_name.values()))

    def get(self, name: str) -> Queue | None:
        """The queue of that name, if it is there."""
        return self.default if name == DEFAULT_QUEUE else self._by_name.get(name)

    def named(self, name: str) -> Queue:
        """The queue of that name, made where it is not there."""
        if name == DEFAULT_QUEUE:
            return self.default
        queue = self._by_name.get(name)
        if queue is None:
            queue = self._by_name[name] = Queue(name)
        return queue
