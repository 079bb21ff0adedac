"""The census: what must be true of a machine between any two calls, whatever happened before.

It looks inside on purpose, and shares nothing with the machine but the names of its parts: every job is looked for in
every place where one can be, and every count is counted again. It costs a walk over all open jobs, and over all that
have ended and are kept.

Where one is taken after each turn (`Census`), most of it would find what the last one has found. So there is none where
nothing was heard, said or moved since; and what has ended is walked over where something was accepted, has ended or has
gone, and every so often all the same, because nothing should change there at any other time.
"""

# ruff: noqa: SLF001 - the census looks inside: that is what it is for

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from relet.core import timing
from relet.core.job import AVAILABLE, BLOCKED, DELAYED, DISCARDED, FINAL, HELD, RUNNING, Job
from relet.core.kept import Kept, Letter, beyond_frames
from relet.core.lease import MS, NEVER, Deadlines, Lane, Timer
from relet.core.levels import Levels
from relet.core.machine import Machine, held
from relet.core.orders import Order, place_of
from relet.core.outcomes import OUTCOME_BYTES, Outcomes
from relet.core.queue import Place, Queue
from relet.core.roster import Session, Worker
from relet.core.service import Service
from relet.core.unique import held_by
from relet.messages import Body, JobBody, KeptBody, body_frames, held_bytes
from relet.testing.claims import in_memory

ENDED_EVERY: Final = 16
"""Censuses after which what has ended is walked over, though nothing should have changed there."""


class InvariantBroken(AssertionError):
    """Something that must always be true is not: a fault of ours, and the text says which."""


def check(machine: Machine, *, loaded: int = 0) -> None:
    """Raises `InvariantBroken` unless everything in `machine` fits together; `loaded` jobs came from a store."""
    _ended(machine, _open(machine, loaded))


class Census:
    """The censuses of one machine, one after the other."""

    def __init__(self, machine: Machine, loaded: int = 0) -> None:
        """`loaded` jobs came from a store."""
        self._machine = machine
        self._loaded = loaded
        self._counts: tuple[int, ...] = ()
        self._ends: tuple[int, ...] = ()
        self._looks = 0

    def take(self, happened: int) -> None:
        """Raises `InvariantBroken` as `check` and `check_matched` do, where there can be another reason to than the
        last time. `happened`: how much was heard and said so far.
        """
        machine = self._machine
        counts, ends = _counts(machine, happened), _ends(machine)
        if counts == self._counts and ends == self._ends:
            return
        everywhere = _open(machine, self._loaded)
        check_matched(machine)
        self._looks += 1
        if ends != self._ends or self._looks % ENDED_EVERY == 0:
            _ended(machine, everywhere)
        self._counts, self._ends = counts, ends


def _counts(machine: Machine, happened: int) -> tuple[int, ...]:
    """What is another number where a turn has moved anything but ends."""
    recalls, roster = machine.recalls, machine.roster
    lane = 0 if machine._lane is None else len(machine._lane.running)
    return (
        happened,
        machine.away_bytes,
        len(machine.by_token),
        len(machine._unsafe),
        len(machine._following),
        len(machine.deadlines.running),
        machine.deadlines._count,
        len(recalls.deadlines.running) + len(recalls.lane.running),
        lane + len(machine._reclaim.running) + len(machine._unclaimed.running),
        roster.asks,
        roster.count,
        len(machine.queues),
    )


def _ends(machine: Machine) -> tuple[int, ...]:
    """What is another number where a job was accepted, has ended, is kept no more, or has other requests."""
    requests, kept, counters = machine.requests, machine.kept, machine.counters
    uniques, outcomes = requests.uniques, requests.outcomes
    return (
        machine.open,
        machine.open_bytes,
        counters.jobs_accepted,
        counters.jobs_completed,
        counters.jobs_discarded,
        counters.jobs_cancelled,
        kept.last,
        len(kept),
        kept.bytes,
        len(kept._by_id),
        outcomes.bytes,
        len(outcomes),
        len(requests._jobs),
        len(requests._by_id),
        requests.open,
        len(uniques.live),
        len(uniques.windows),
        len(uniques.guests),
    )


def _open(machine: Machine, loaded: int) -> dict[int, Job]:
    """Returns the open jobs."""
    queues, workers = list(machine.queues), list(machine.roster)
    waiting = _waiting(queues)
    out = _out(machine, waiting)
    unsafe = _unsafe(machine, waiting, out)
    live = {**waiting, **out}
    live |= _blocked(machine, queues, live)
    everywhere = live | unsafe
    counters = machine.counters
    ended = counters.jobs_completed + counters.jobs_discarded + counters.jobs_cancelled
    if machine.open != len(everywhere):
        raise InvariantBroken(f"{len(everywhere)} jobs are open, {machine.open} are counted")
    if counters.jobs_accepted + loaded != machine.open + ended:
        raise InvariantBroken(
            f"{counters.jobs_accepted} jobs accepted, {loaded} loaded, but {machine.open} are open and {ended} ended"
        )
    _queues(machine, queues, everywhere)
    size = away = 0
    for job in everywhere.values():
        size += held(job)
        if type(job.body) is KeptBody:
            away += held_bytes(job.body, b"")
    if machine.open_bytes != size:
        raise InvariantBroken(f"open jobs hold {size} bytes, {machine.open_bytes} are counted")
    if machine.away_bytes != away:
        raise InvariantBroken(f"{away} bytes of bodies are not in memory, {machine.away_bytes} are counted")
    _tries(machine, everywhere)
    _timers(machine, queues, live)
    _holders(machine, workers, out)
    _roster(machine, workers)
    _lines(queues, workers)
    _services(machine, queues)
    _receipts(machine)
    return everywhere


def _ended(machine: Machine, open_jobs: dict[int, Job]) -> None:
    limits = machine.limits
    _kept(machine.kept, open_jobs, limits.kept_jobs_max, limits.kept_bytes_max)
    _requests(machine, open_jobs)


def check_matched(machine: Machine) -> None:
    """Raises `InvariantBroken` when a job waits beside an unspent ask: true only after a turn is over, and not where
    the broker ends: what waits there is given to nobody, and the limits that kept it are lifted.
    """
    if machine._unstopped is not None:
        return
    for queue in machine.queues:
        if queue.is_bare() or not queue.line or queue.paused:
            continue
        asks = sum(place.worker.credit for place in queue.line)
        limited = queue.levels is not None and queue.levels.allowed is not None
        if len(queue) and asks and not limited:
            raise InvariantBroken(f"{len(queue)} jobs wait in {queue.name} beside {asks} unspent asks")


def _queues(machine: Machine, queues: list[Queue], everywhere: dict[int, Job]) -> None:
    by_queue: dict[Queue, list[Job]] = {queue: [] for queue in queues}
    for job in everywhere.values():
        if job.flow is not None and job.state not in (HELD, RUNNING):
            raise InvariantBroken(f"job {job.number} is counted as with a worker, and is not")
        if job.queue not in by_queue:
            raise InvariantBroken(f"job {job.number} is of {job.queue.name}, which is not there")
        by_queue[job.queue].append(job)
    for queue, jobs in by_queue.items():
        if machine.open_in(queue) != len(jobs):
            raise InvariantBroken(f"{len(jobs)} jobs of {queue.name} are open, {machine.open_in(queue)} are counted")
        if queue.levels is not None:
            _allowance(queue.levels, jobs)


def _allowance(levels: Levels, jobs: list[Job]) -> None:
    counted = [job for job in jobs if job.flow is not None]
    allowed = levels.allowed
    if allowed is not None and allowed.counts and len(counted) != sum(job.state in (HELD, RUNNING) for job in jobs):
        raise InvariantBroken("a job is with a worker and is not counted")
    if levels.in_flight != len(counted):
        raise InvariantBroken(f"{len(counted)} jobs are in flight, {levels.in_flight} are counted")
    for key in {job.flow for job in counted if job.flow is not None}:
        if key.in_flight != sum(job.flow is key for job in counted):
            raise InvariantBroken(f"the jobs in flight of key {key.name!r} are miscounted")


def _waiting(queues: list[Queue]) -> dict[int, Job]:
    waiting: dict[int, Job] = {}
    for queue in queues:
        count = len(queue)
        if not count and queue.is_bare():
            continue
        before = len(waiting)
        for job in queue:
            if job.number in waiting:
                raise InvariantBroken(f"job {job.number} waits twice")
            if job.state != AVAILABLE:
                raise InvariantBroken(f"job {job.number} waits, but its state is {job.state}")
            if job.queue is not queue:
                raise InvariantBroken(f"job {job.number} waits in {queue.name} and belongs to {job.queue.name}")
            if job.holder is not None:
                raise InvariantBroken(f"job {job.number} waits, but {job.holder} holds it")
            waiting[job.number] = job
        if count != len(waiting) - before:
            raise InvariantBroken(f"{len(waiting) - before} jobs wait in {queue.name}, it counts {count}")
    return waiting


def _blocked(machine: Machine, queues: list[Queue], others: dict[int, Job]) -> dict[int, Job]:
    """Of each order key at most one job is on its way, and the others wait for it or for dead letters."""
    blocked: dict[int, Job] = {}
    firsts: set[int] = set()
    for queue in queues:
        for order in queue.orders:
            _order(machine, queue, order)
            if order.first is not None and order.first.state != BLOCKED:
                firsts.add(order.first.number)
            elif order.first is not None:
                if order.first not in machine._following:
                    raise InvariantBroken(f"job {order.first.number} is the first of its key, and does not go on")
                blocked[order.first.number] = order.first
            for job in order.waiting:
                if job.state != BLOCKED or job.token or job.number in others or job.queue is not queue:
                    raise InvariantBroken(f"job {job.number} is blocked and is not")
                blocked[job.number] = job
    ordered = {number for number, job in others.items() if job.rules is not None and job.rules.order}
    if ordered != firsts:
        raise InvariantBroken(f"jobs {ordered} of order keys are on their way, {firsts} should be")
    if machine.ordered != len(ordered) + len(blocked):
        raise InvariantBroken(f"{len(ordered) + len(blocked)} jobs have order keys, {machine.ordered} are counted")
    return blocked


def _order(machine: Machine, queue: Queue, order: Order) -> None:
    """Who is on its way is before all others, and those that wait have something before them."""
    place = place_of(order.first) if order.first is not None else min(map(place_of, order.blockers), default=NEVER)
    if any(place_of(job) <= place for job in order.waiting):
        raise InvariantBroken(f"a job of an order of {queue.name} waits for nothing, or for those behind it")
    if order.first is not None and any(place_of(job) <= place for job in order.blockers):
        raise InvariantBroken(f"job {order.first.number} is on its way behind what blocks its order key")
    for job in order.blockers:
        coming = job.state not in FINAL and job.number > machine._number_safe
        if job not in machine.kept and job not in machine._lifted and not coming:
            raise InvariantBroken(f"an order of {queue.name} is blocked by what is no dead letter")


def _out(machine: Machine, waiting: dict[int, Job]) -> dict[int, Job]:
    """The delayed, held and running jobs; each open job with a token is found by it, and by nothing else. Those that
    nobody has had yet have none.
    """
    out: dict[int, Job] = {}
    for token, job in machine.by_token.items():
        if not token or (job.token != token and token not in job.tokens):
            raise InvariantBroken(f"job {job.number} is filed under a token that is not its own")
        if job.state in FINAL:
            raise InvariantBroken(f"job {job.number} is final and can still be answered")
        if job.state in (DELAYED, HELD, RUNNING):
            if job.number in waiting:
                raise InvariantBroken(f"job {job.number} waits and is out")
            out[job.number] = job
        elif job.number not in waiting:
            raise InvariantBroken(f"job {job.number} can be answered, but neither waits nor runs")
    out |= {job.number: job for job in machine.deadlines.running.values() if job.state == DELAYED}
    for jobs in (waiting, out):
        for job in jobs.values():
            if not job.token and not job.tokens:
                continue
            for token in (job.token, *job.tokens):
                if token and machine.by_token.get(token) is not job:
                    raise InvariantBroken(f"job {job.number} is open, but no answer finds it by one of its tokens")
            if job.tokens and not job.terms.late_any:
                raise InvariantBroken(f"job {job.number} takes its current attempt only, and has older tokens")
    return out


def _unsafe(machine: Machine, waiting: dict[int, Job], out: dict[int, Job]) -> dict[int, Job]:
    unsafe: dict[int, Job] = {}
    for jobs in (machine._accepted, *(jobs for _, jobs in machine._unsafe)):
        for job in jobs:
            number = job.number
            if job.state in FINAL:  # it was cancelled before it was safe, and leaves the list when that is
                continue
            if not (number not in unsafe and number not in waiting and number not in out):
                raise InvariantBroken(f"job {number} is in two places")
            if not (job.state in (AVAILABLE, DELAYED) and not job.token and job.timer is None):
                raise InvariantBroken(f"job {number} was dispatched before its acceptance was safe")
            unsafe[number] = job
    return unsafe


def _tries(machine: Machine, jobs: dict[int, Job]) -> None:
    for job in jobs.values():
        tries = job.terms.tries
        if job.state == RUNNING:
            if job.attempts < 1:
                raise InvariantBroken(f"job {job.number} runs without an attempt")
            if not (tries is None or job.attempts <= tries):
                raise InvariantBroken(f"job {job.number} runs for the {job.attempts}th time of {tries}")
        elif not (tries is None or job.attempts < tries):
            raise InvariantBroken(f"job {job.number} waits though its {tries} tries are spent")
        if len(job.ledger) > machine.limits.ledger_entries_max:
            raise InvariantBroken(f"the ledger of job {job.number} is too long")


def _timers(machine: Machine, queues: list[Queue], live: dict[int, Job]) -> None:
    """Each job stands in the one timer that it names, and in the one that it should."""
    lanes = [machine._reclaim, machine._unclaimed, machine.recalls.lane]
    singles = [machine.deadlines, machine.recalls.deadlines]
    if machine._lane is not None:
        lanes.append(machine._lane)
    found: dict[int, Any] = {}
    timers: list[Timer] = [*lanes, *singles]
    for timer in timers:
        for number, job in timer.running.items():
            if number in found or job.timer is not timer or live.get(number) is not job:
                raise InvariantBroken(f"job {number} stands in a timer that is not its own")
            found[number] = timer
    for lane in lanes:
        _lane(lane)
    for number, job in live.items():
        if job.timer is not found.get(number):
            raise InvariantBroken(f"job {number} names a timer in which it does not stand")
        _right_timer(machine, job)
    for single in singles:
        _deadlines(single)
    recalls = [job.queue for timer in timers if timer.recalled for job in timer.running.values()]
    for queue in queues:
        recalled = recalls.count(queue)
        if queue.recalls != recalled:
            raise InvariantBroken(f"{recalled} jobs of {queue.name} are recalled, {queue.recalls} are counted")


def _right_timer(machine: Machine, job: Job) -> None:
    timer = job.timer
    until = timing.waits_until(job) if job.state in (AVAILABLE, BLOCKED, DELAYED) else timing.out_until(job)
    if until != NEVER and not (timer in (machine.deadlines, machine.recalls.deadlines) and job.due_ns <= until):
        raise InvariantBroken(f"job {job.number} in state {job.state} will miss its deadline")
    if job.state == DELAYED:
        right = timer is machine.deadlines
    elif job.state in (AVAILABLE, BLOCKED):
        right = timer is None or (timer is machine.deadlines and job.due_ns == until)
    elif job.holder is None:
        right = timer in (machine._reclaim, machine._unclaimed, machine._lane, machine.deadlines) and timer is not None
    elif job.state == HELD:
        right = timer is None or timer.recalled or timing.has_deadline(job.terms)
    elif job.terms.silence_ns is not None or job.terms.total_ns is not None:
        right = timer is machine.deadlines
    elif job.terms.run_ns is None:
        right = timer is None
    elif job.terms.run_ns == machine.terms.run_ns:
        right = timer in (machine._lane, machine.deadlines)
    else:
        right = timer is machine.deadlines
    if not right:
        raise InvariantBroken(f"job {job.number} in state {job.state} has the wrong timer: {timer}")


def _lane(lane: Lane) -> None:
    latest = -NEVER
    for number, job in lane.running.items():
        if job.began_ns < latest:
            raise InvariantBroken(f"the lease of job {number} is out of order")
        if lane.due > job.began_ns + lane.lease_ns:
            raise InvariantBroken(f"the lease of job {number} will be looked at too late")
        latest = job.began_ns


def _deadlines(deadlines: Deadlines) -> None:
    if deadlines.running:
        earliest: dict[int, int] = {}
        for moment, number in deadlines._near:
            earliest[number] = min(moment, earliest.get(number, NEVER))
        for moment, line in deadlines._lines.items():
            for number in line:
                earliest[number] = min(moment * MS, earliest.get(number, NEVER))
        for number, job in deadlines.running.items():
            if earliest.get(number, NEVER) > job.due_ns:
                raise InvariantBroken(f"the deadline of job {number} will be looked at too late")
    if sorted(deadlines._moments) != sorted(deadlines._lines):
        raise InvariantBroken("a line of deadlines is not looked at, or one is that is not there")
    if deadlines._count != len(deadlines._near) + sum(map(len, deadlines._lines.values())):
        raise InvariantBroken("the entries of deadlines are not counted")
    if deadlines._count > 2 * len(deadlines.running) + 10_000:
        raise InvariantBroken("the lines of deadlines hold little but stale entries")


def _holders(machine: Machine, workers: list[Worker], out: dict[int, Job]) -> None:
    lost: set[Worker] = {worker for _, _, worker in machine._lost}
    count = 0
    for worker in {*workers, *lost}:
        count += len(worker.jobs)
        for job in worker.jobs:
            if not (job.holder is worker and out.get(job.number) is job):
                raise InvariantBroken(f"{worker} holds job {job.number} and does not")
    for job in out.values():
        if job.holder is not None:
            if job not in job.holder.jobs:
                raise InvariantBroken(f"job {job.number} is out at {job.holder}, who does not know")
            if job.state == HELD and not job.holder.confirms:
                raise InvariantBroken(f"job {job.number} is held by {job.holder}, who will never say that it starts")
            count -= 1
    if count != 0:
        raise InvariantBroken("a worker holds a job that is not out")


def _roster(machine: Machine, workers: list[Worker]) -> None:
    roster, count = machine.roster, len(workers)
    asks = 0
    for worker in workers:
        asks += worker.credit
        if not (0 <= worker.credit <= machine.limits.asks_per_worker_max):
            raise InvariantBroken(f"{worker} has an impossible credit")
        if worker.lost:
            raise InvariantBroken(f"{worker} is lost and in the roster")
        if isinstance(worker, Session):
            _session(worker)
        elif worker.peer.asks_one_at_a_time and worker.credit > 1:
            raise InvariantBroken(f"{worker} is REQ and has asked more than once")
    if roster.asks != asks:
        raise InvariantBroken(f"there are {asks} unspent asks, {roster.asks} are counted")
    if roster.count != count:
        raise InvariantBroken(f"there are {count} workers, {roster.count} are counted")
    if not (asks <= machine.limits.asks_max and count <= machine.limits.peers_max):
        raise InvariantBroken("the roster is over its bounds")
    there = {session for paths in roster.sessions_on.values() for session in paths.values()}
    if there != {session for session in roster.sessions.values() if not session.away}:
        raise InvariantBroken("a session is on a connection and away, or neither")


def _session(session: Session) -> None:
    if session.credit != session.granted - session.handed:
        raise InvariantBroken(f"{session} was granted {session.granted}, got {session.handed}: its credit is wrong")
    if session.away and session.credit:
        raise InvariantBroken(f"{session} is away and asks")
    if not session.acked <= session.safe <= session.reported:
        raise InvariantBroken(f"{session} was acknowledged what it never reported")
    held = [job.seq for job in session.jobs if job.state == HELD]
    if len(held) > 1 and held != sorted(held):
        raise InvariantBroken(f"{session} holds {held}: a start would not find some of them")


def _lines(queues: list[Queue], workers: list[Worker]) -> None:
    standing: set[Place] = set()
    for queue in queues:
        gone, before = 0, len(standing)
        for place in queue.line:
            standing.add(place)
            worker = place.worker
            if not place.in_line or place.queue is not queue:
                raise InvariantBroken(f"{worker} stands in the line of {queue.name} and does not know")
            if worker.lost:
                gone += 1
                if worker.credit:
                    raise InvariantBroken(f"{worker} is lost and has credit")
        if len(queue.line) != len(standing) - before:
            raise InvariantBroken(f"a worker stands in the line of {queue.name} twice")
        if queue.gone != gone:
            raise InvariantBroken(f"{gone} in the line of {queue.name} are lost, {queue.gone} are counted")
    for worker in workers:
        for place in worker.places:
            if (worker.credit and not place.in_line) or (place.in_line and place not in standing):
                raise InvariantBroken(f"{worker} has asked and does not stand in the line of {place.queue.name}")


def _services(machine: Machine, queues: list[Queue]) -> None:
    services = machine.roster.services
    served: dict[tuple[Queue, ...], int] = {}
    for session in machine.roster.sessions.values():
        expected = None
        if len(session.places) > 1:
            serves = tuple(place.queue for place in session.places)
            served[serves] = served.get(serves, 0) + 1
            expected = services.get(serves)
        if (session.service and session.service.service) is not expected:
            raise InvariantBroken(f"{session} does not serve what it says")
    if served != {queues: service.sessions for queues, service in services.items()}:
        raise InvariantBroken(f"{served} is served, and something else is known")
    served_by: dict[Queue, list[tuple[Service, int]]] = {}
    for service in services.values():
        for index, each in enumerate(service.queues):
            served_by.setdefault(each, []).append((service, 1 << index))
    for queue in queues:
        there = served_by.get(queue, [])
        if len(there) != len(queue.services) or (there and set(there) != set(queue.services)):
            raise InvariantBroken(f"{queue} does not know who serves it")
        waits = there and len(queue) and queue is not machine.queue and queue not in machine.stirred
        if waits and queue.settings is None and any(queue not in service.ready() for service, _ in there):
            raise InvariantBroken(f"{queue} would not be looked at")


def _kept(kept: Kept, open_jobs: dict[int, Job], jobs_max: int, bytes_max: int) -> None:
    letters, size = list(kept.walk("", 0)), 0
    for letter in letters:
        job = letter.job
        if job.state not in FINAL:
            raise InvariantBroken(f"job {job.number} is kept and not final")
        if job.number in open_jobs:
            raise InvariantBroken(f"job {job.number} is kept and open")
        size += held_bytes(job.body, b"") + _answer_bytes(job)
    if kept.bytes != size:
        raise InvariantBroken(f"kept jobs have {size} bytes, {kept.bytes} are counted")
    if not (len(kept) == len(letters) <= jobs_max and kept.bytes <= bytes_max):
        raise InvariantBroken("more is kept than may be, or counted wrong")
    _letters(kept, letters)


def _answer_bytes(job: Job) -> int:
    """What a final job holds beyond its body."""
    size = held_bytes(job.answer, b"")
    return size + beyond_frames(job) if job.ledger or job.headers or job.answer_headers else size


def _letters(kept: Kept, letters: list[Letter]) -> None:
    """The dead letters of each queue are those that are kept of it, in the same order, and are found by id."""
    queues: dict[str, list[Letter]] = {}
    last = count = 0
    for letter in letters:
        job = letter.job
        if kept.entries.get(job.number) is not letter or not last < letter.place <= kept.last:
            raise InvariantBroken(f"the dead letter of job {job.number} is not where it should be")
        last = letter.place
        if job.state == DISCARDED:
            queues.setdefault(job.queue.name, []).append(letter)
            count += 1
            if not job.id or kept.of(job.id) is not letter:
                raise InvariantBroken(f"the dead letter of job {job.number} cannot be found by its id")
    if queues.keys() != kept._lines.keys() or len(kept._by_id) != count:
        raise InvariantBroken("there are dead letters of a queue, or ids of them, that are not kept")
    for queue, several in queues.items():
        if list(kept.walk(queue, 0)) != several:
            raise InvariantBroken(f"the dead letters of {queue} are not those that are kept")
        if kept.of_queue(queue) != (len(several), sum([letter.size for letter in several])):
            raise InvariantBroken(f"the dead letters of {queue} are counted wrong")


def _outcomes(outcomes: Outcomes, open_jobs: dict[int, Job], jobs_max: int, bytes_max: int) -> list[Job]:
    """Returns the jobs whose outcomes are kept."""
    jobs, size = list(outcomes), 0
    for job in jobs:
        if job.state not in FINAL:
            raise InvariantBroken(f"the outcome of job {job.number} is kept, and it is not final")
        if job.number in open_jobs:
            raise InvariantBroken(f"the outcome of job {job.number} is kept, and it is open")
        held = _answer_bytes(job) + OUTCOME_BYTES
        if job.kept_bytes != held:
            raise InvariantBroken(f"the outcome of job {job.number} counts {job.kept_bytes} bytes, not {held}")
        size += held
    if (outcomes.bytes, len(outcomes)) != (size, len(jobs)):
        raise InvariantBroken(f"{len(jobs)} outcomes have {size} bytes; {len(outcomes)}, {outcomes.bytes} are counted")
    if not (len(jobs) <= jobs_max and size <= bytes_max):
        raise InvariantBroken("more outcomes are kept than may be")
    return jobs


def _requests(machine: Machine, open_jobs: dict[int, Job]) -> None:
    requests, limits = machine.requests, machine.limits
    kept = _outcomes(requests.outcomes, open_jobs, limits.outcomes_max, limits.outcomes_bytes_max)
    native = [job for job in open_jobs.values() if job.request is not None]
    if requests.open != len(native):
        raise InvariantBroken(f"{len(native)} open jobs came natively, {requests.open} are counted")
    jobs, guests = requests._jobs, requests.uniques.guests
    for key, job in jobs.items():
        is_its_own = key == job.request or (job in guests and key in guests[job])
        if not (is_its_own and (job.number in open_jobs or job.kept_bytes)):
            raise InvariantBroken(f"job {job.number} can be asked for and is neither open nor kept")
    for job in (*native, *kept):
        is_found = job.request is None or jobs.get(job.request) is job
        if not is_found or (job in guests and any(jobs.get(key) is not job for key in guests[job])):
            raise InvariantBroken(f"nobody can ask for job {job.number}")
    for job_id, job in requests._by_id.items():
        if job.id != job_id or job.request is None or jobs.get(job.request) is not job:
            raise InvariantBroken(f"job {job.number} is known by an id that is not its own")
    _keys(machine, open_jobs)


def _receipts(machine: Machine) -> None:
    """Of each outcome it is known how many askers have not said that they have it."""
    askers = machine.requests.askers
    owed: dict[Job, int] = {}
    several = list(askers)
    for paths in askers.parting.values():
        several += paths.values()
    for asker in several:
        if not asker.unreceived:
            continue
        last = 0
        for number, job in asker.unreceived:
            if not last < number <= asker.told:
                raise InvariantBroken(f"{asker} was told outcomes out of order")
            last = number
            owed[job] = owed.get(job, 0) + 1
    if machine.told or machine.keeps_records:
        return
    for job in machine.requests.outcomes:
        if job.unreceived != owed.get(job, 0):
            raise InvariantBroken(f"job {job.number} is owed {owed.get(job, 0)} receipts, not {job.unreceived}")


def _keys(machine: Machine, open_jobs: dict[int, Job]) -> None:
    """Of each unique key there is one live job, or a window, and who shares a job is found by it."""
    requests, uniques = machine.requests, machine.requests.uniques
    taken = [(held_by(job), job) for job in open_jobs.values() if job.rules is not None and job.rules.unique]
    holding = dict(taken)
    if holding != uniques.live or len(holding) != len(taken):
        raise InvariantBroken(f"the live keys are {uniques.live}, and open jobs hold {holding}")
    both = uniques.live.keys() & uniques.windows.keys() if uniques.windows else ()
    for key in both:  # a window that is over may not have been taken away yet
        if uniques.windows[key].until_ns > max(uniques.live[key].accepted_ns, machine.began_ns):
            raise InvariantBroken("a key is held by an open job and by one that has ended")
    if len(uniques.windows) > machine.limits.unique_windows_max:
        raise InvariantBroken("more keys are taken after the end of their jobs than may be")
    for job, guests in uniques.guests.items():
        if not guests or not (job.number in open_jobs or job in requests.outcomes):
            raise InvariantBroken(f"requests share job {job.number}, which is neither open nor kept, or none does")


def persisted(machine: Machine, frames_of: Callable[[JobBody], Body] = in_memory) -> tuple[dict[Any, Any], ...]:
    """All that must survive the process: open jobs, kept jobs and owed outcomes by number, and order keys with who is
    on its way, who waits in which order, and what blocks. A loaded machine has the same. `frames_of` finds bodies.
    """

    def carried(body: JobBody) -> tuple[bytes, ...]:
        return _bytes(frames_of(body))

    opened = {
        job.number: (
            carried(job.body),
            job.queue.name,
            job.terms,
            *_names(machine, job),
            job.headers,
            job.again,
            job.rules,
            job.state,
            job.token,
            job.tokens,
            job.shared,
            bool(job.seq),
            job.attempts,
            job.handovers,
            job.ledger,
            job.failures,
            job.kind,
            job.text,
            job.rules,
        )
        for job in machine.jobs()
    }
    kept = {
        letter.job.number: (_kept_of(letter.job, carried(letter.job.body)), letter.redriven_to)
        for letter in machine.kept.entries.values()
    }
    owed = {
        job.number: (
            *_names(machine, job),
            job.state,
            job.reason,
            job.attempts,
            job.ledger,
            _bytes(job.answer),
            job.kind,
            job.text,
        )
        for job in machine.requests.outcomes
    }
    orders = {(queue.name, key): _order_of(order) for queue in machine.queues for key, order in queue.orders.items()}
    return opened, kept, owed, orders


def _order_of(order: Order) -> tuple[Any, ...]:
    lines = ([job.number for job in sorted(line, key=place_of)] for line in (order.waiting, order.blockers))
    return None if order.first is None else order.first.number, *lines


def _names(machine: Machine, job: Job) -> tuple[Any, ...]:
    return job.request, job.size, dict(machine.requests.uniques.guests.get(job, {})), job.rules


def _kept_of(job: Job, body: tuple[bytes, ...]) -> tuple[Any, ...]:
    evidence = (job.state, job.reason, job.attempts, job.ledger, body, _bytes(job.answer))
    if job.state != DISCARDED:  # then nothing is kept of it but its answer
        return evidence
    return (*evidence, job.id, job.queue.name, job.headers, job.terms, job.rules, job.kind, job.text)


def _bytes(body: Any) -> tuple[bytes, ...]:
    return tuple(map(bytes, body_frames(body)))
