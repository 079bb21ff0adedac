"""Where jobs wait and where workers wait for them: a queue has a name, jobs, and a line of workers.

Jobs leave oldest first, and a job that comes back takes its old place (`flow`). Most are plain: of priority 0, and
without a fairness key; they are one flow, and nothing else is looked at as long as there are no others. What has a
priority or a key stands beside it (`levels`), unless only a few such wait, whose turns are plain to see. What must go
after others stands aside until it is its turn (`orders`).

Workers with credit stand in line and take turns, one job each, so that a worker that asked for a hundred jobs does not
get them before another that asked for one. One that serves several queues has a place in the line of each. A place
without credit is dropped when its turn comes, and somebody else is in line: a worker that has a hundred queues for
itself spends its credit and asks anew all the time, and need not leave a hundred lines for that. Places of lost workers
are counted, so that a line nobody takes jobs from does not grow for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from relet.core.allowance import Allowance
from relet.core.compiling import mypyc_attr
from relet.core.flow import Flow
from relet.core.job import Job
from relet.core.levels import Levels, fair_of
from relet.core.limits import STALE_WORTH_REBUILDING
from relet.core.orders import Orders
from relet.messages import DEFAULT_QUEUE

if TYPE_CHECKING:
    from relet.core.roster import Worker
    from relet.core.service import Service
    from relet.core.settings import QueueSettings
    from relet.core.terms import Terms

FEW_MAX: Final = 8
"""Jobs that are a few: each that comes is compared with the others."""
IDLE_LOOKS_MAX: Final = 100
"""Workers in line that are looked at to find one with nothing to do."""
ASKED_LOOKS_MAX: Final = 1_000
"""Workers in line that are counted for who wants to know."""


class Place:
    """One worker's place in the line of one queue."""

    __slots__ = ("in_line", "queue", "worker")

    def __init__(self, worker: Worker, queue: Queue) -> None:
        self.worker = worker
        self.queue = queue
        self.in_line = False


@mypyc_attr(allow_interpreted_subclasses=True)
class Queue:
    """Waiting jobs, and the line of workers that ask for them."""

    __slots__ = (
        "_few",
        "gone",
        "levels",
        "line",
        "name",
        "open",
        "orders",
        "paused",
        "plain",
        "recalls",
        "services",
        "settings",
        "terms",
        "wakes_at",
    )

    def __init__(self, name: str = DEFAULT_QUEUE) -> None:
        self.name = name
        self.settings: QueueSettings | None = None
        self.terms: Terms | None = None
        """What holds for a job that says nothing else; None: what the broker has."""
        self.paused = False
        """Nothing is given out."""
        self.open = 0
        """Jobs that are not final; not counted for the default queue, whose are all others (`Machine.open_in`)."""
        self.plain = Flow()
        """The waiting jobs of priority 0 without a key. The machine appends fresh ones there itself, a batch at a time,
        and takes from it alone where there are no others."""
        self.levels: Levels | None = None
        """All others, and the limits of the queue; None where there have been none since the queue was last empty."""
        self.wakes_at = 0
        """When the machine looks whether a rate lets something go; 0, or over: it does not."""
        self.orders = Orders()
        """Jobs that wait for others of their order key; they are not counted among those that wait here."""
        self._few = False
        """What stands in the plain flow, if anything does, are a few jobs that are not plain, in the order of their
        turns: nobody else waits, and levels would be made for nothing."""
        self.line: deque[Place] = deque()
        """Places of workers with credit, next first; and some whose credit is spent."""
        self.gone = 0
        """Places in line whose workers are lost."""
        self.recalls = 0
        """Jobs that were recalled and have been neither given back nor started."""
        self.services: tuple[tuple[Service, int], ...] = ()
        """Of workers that serve other queues, too; and the bit that this one is of theirs."""

    def __repr__(self) -> str:
        return f"<Queue {self.name} jobs={len(self)} line={len(self.line)}>"

    def __len__(self) -> int:
        return len(self.plain) + (0 if self.levels is None else self.levels.count)

    def is_bare(self) -> bool:
        """Nothing waits, and nothing did lately that would have to be looked at: sooner told than the length."""
        plain = self.plain
        return self.levels is None and not plain.fresh and not plain.again

    def __iter__(self) -> Iterator[Job]:
        """The waiting jobs, in no order that matters."""
        yield from self.plain
        if self.levels is not None:
            yield from self.levels

    @property
    def fresh(self) -> deque[Job]:
        """The plain jobs that were never dispatched."""
        if self._few:
            self.settle()
        return self.plain.fresh

    def append(self, job: Job) -> None:
        """A fresh job waits."""
        plain, rules = self.plain, job.rules
        if (rules is None or not rules.fair) and not job.terms.priority:
            self.fresh.append(job)
        elif self.levels is None and self.settings is None and not plain.fresh and not plain.again:
            self._few = True
            plain.fresh.append(job)
        elif not (self._few and self._joins_few(job)):
            self._levels().append(job)

    def _joins_few(self, job: Job) -> bool:
        """It is one more of a few, if their turns are as plain with it as without: of different keys, the first come
        first, as without any key.
        """
        few, priority, fair = self.plain.fresh, job.terms.priority, fair_of(job)
        if len(few) >= FEW_MAX:
            return False
        before, without_key = 0, int(not fair)
        for each in few:
            rules = each.rules
            if rules is None or not rules.fair:
                without_key += 1
            elif rules.fair == fair:
                return False
            before += each.terms.priority >= priority
        if 1 < without_key <= len(few):
            return False
        few.insert(before, job)
        return True

    def settle(self) -> None:
        """The few are not as plain any more: they go where they belong."""
        if self._few:
            self._few = False
            few = list(self.plain)
            self.plain.clear()
            if few:
                levels = self._levels()
                for job in few:
                    levels.append(job)

    def came_back(self, job: Job) -> None:
        """The job waits again, at its place by age."""
        self.settle()
        (self.plain if is_plain(job) else self._levels()).came_back(job)

    def put_back(self, job: Job) -> None:
        """The job was taken just now and goes nowhere: it waits again, and no limit counts it."""
        if self.levels is not None:
            self.levels.goes_nowhere(job)
        self.came_back(job)

    def left(self, job: Job) -> None:
        """A job leaves while it waits: because it ends, or, if it had come back, because it is claimed."""
        (self.plain if self._few or is_plain(job) else self._levels()).left(job)

    def take(self, now: int) -> Job | None:
        """The waiting job whose turn it is, which leaves the queue, and is with a worker now; None when none may go
        now.
        """
        if self.paused:
            return None
        levels = self.levels
        if levels is None:
            return self.plain.take()
        job = levels.take(now, self.settings)
        if not levels.count and levels.idle:
            self.levels = None
        return job

    def allow(self, allowed: Allowance | None) -> None:
        """These are its limits from now on; None: it has none."""
        if allowed is not None or self.levels is not None:
            self._levels().allow(allowed)

    @property
    def counts(self) -> bool:
        """Whether its jobs that are with workers are counted, because it has a limit of them."""
        allowed = None if self.levels is None else self.levels.allowed
        return allowed is not None and allowed.counts

    def lacks(self, now: int) -> bool:
        """Nothing that waits here may go now, if anything does; but what came back from a worker might."""
        if self.paused:
            return False
        return not len(self.plain) if self.levels is None else self.levels.lack(now)

    def takes_back(self, job: Job, now: int) -> bool:
        """Whether this job, which is with a worker, or another of its fairness key might go if it came back."""
        return self.levels is None or self.levels.take_back(job, now)

    def went(self, job: Job) -> None:
        """A job is with a worker, and was not taken from here just now."""
        if self.levels is not None:
            self.levels.went(job)

    def is_back(self, job: Job) -> None:
        """A job that was counted is with no worker any more."""
        if self.levels is not None:
            self.levels.is_back(job)

    def _levels(self) -> Levels:
        self.settle()
        if self.levels is None:
            self.levels = Levels(self.plain)
        return self.levels

    def before(self, job: Job) -> tuple[int, bool]:
        """(how many jobs wait that are given out before this one, which waits here, too; whether there may be more that
        were not counted, so that the look has a bound). About so many, where they are not all alike (`levels`).
        """
        if self._few:
            return self.plain.fresh.index(job), False
        if self.levels is None:
            return self.plain.before(job)
        return self.levels.before(job, plain=is_plain(job))

    def asked(self) -> tuple[int, int]:
        """(workers that ask for a job now, jobs that they ask for); the first thousand in line are counted."""
        asks = [place.worker.credit for place in islice(self.line, ASKED_LOOKS_MAX) if place.worker.credit]
        return len(asks), sum(asks)

    def is_asked(self) -> bool:
        """Whether a worker asks for a job now; likewise."""
        return any(place.worker.credit for place in islice(self.line, ASKED_LOOKS_MAX))

    def enter(self, place: Place) -> None:
        """A worker has credit again."""
        line = self.line
        if line and not line[0].worker.credit:
            self.drop_first()
        place.in_line = True
        line.append(place)

    def is_kept_a_place(self) -> bool:
        """Whether the worker whose turn it is, which has no credit, keeps its place nevertheless."""
        worker = self.line[0].worker
        return len(self.line) == 1 and worker.service is not None and not worker.lost

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

    def another(self, but: str) -> Worker | None:
        """A worker that asks here and is not called so, one with nothing to do where there is one, among the first in
        line. None who would have to take a more important one.
        """
        found: Worker | None = None
        places: dict[Any, int] = dict(self.services)
        for place in islice(self.line, IDLE_LOOKS_MAX):
            worker = place.worker
            if worker.credit and worker.name != but:
                service = worker.service
                if service in places and service is not None and service.service.prefers(places[service]):
                    continue
                if len(worker.jobs) < worker.capacity:
                    return worker
                found = found or worker
        return found

    def drop_first(self) -> None:
        """The first in line has no credit left: it was spent elsewhere, it was lost, or could not be reached."""
        place = self.line.popleft()
        place.in_line = False
        worker = place.worker
        self.gone -= worker.lost
        if worker.service is not None:
            worker.dropped.append(place)

    def lost(self, place: Place) -> None:
        """The worker of this place is lost."""
        if not place.in_line:
            return
        self.gone += 1
        if self.line[0] is place:  # it would keep a queue that nobody names
            self.drop_first()
        if self.gone > STALE_WORTH_REBUILDING and self.gone > len(self.line) // 2:
            self.line = deque(entry for entry in self.line if not entry.worker.lost)
            self.gone = 0


def is_plain(job: Job) -> bool:
    """Whether a job stands with nearly all others, as far as its turn goes."""
    return not job.terms.priority and (job.rules is None or not job.rules.fair)
