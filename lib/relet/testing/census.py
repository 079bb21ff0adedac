"""The census: what must be true of a machine between any two calls, whatever happened before.

It looks inside on purpose, and shares nothing with the machine but the names of its parts: every job is looked for in
every place where one can be, and every count is counted again. It costs a walk over all open jobs.
"""

# ruff: noqa: SLF001 - the census looks inside: that is what it is for

from __future__ import annotations

from typing import Any

from relet.core.job import AVAILABLE, DELAYED, FINAL, HELD, RUNNING, Job
from relet.core.kept import Kept, beyond_frames
from relet.core.lease import NEVER, Deadlines, Lane, Timer
from relet.core.machine import Machine, held
from relet.core.outcomes import OUTCOME_BYTES, Outcomes
from relet.core.roster import Session, Worker
from relet.messages import body_frames, held_bytes


class InvariantBroken(AssertionError):
    """Something that must always be true is not: a fault of ours, and the text says which."""


def check(machine: Machine, *, loaded: int = 0) -> None:
    """Raises `InvariantBroken` unless everything in `machine` fits together; `loaded` jobs came from a store."""
    waiting = _waiting(machine)
    out = _out(machine, waiting)
    unsafe = _unsafe(machine, waiting, out)
    everywhere = {**waiting, **out, **unsafe}
    counters = machine.counters
    ended = counters.jobs_completed + counters.jobs_discarded + counters.jobs_cancelled
    if machine.open != len(everywhere):
        raise InvariantBroken(f"{len(everywhere)} jobs are open, {machine.open} are counted")
    if counters.jobs_accepted + loaded != machine.open + ended:
        raise InvariantBroken(
            f"{counters.jobs_accepted} jobs accepted, {loaded} loaded, but {machine.open} are open and {ended} ended"
        )
    size = sum(held(job) for job in everywhere.values())
    if machine.open_bytes != size:
        raise InvariantBroken(f"open jobs hold {size} bytes, {machine.open_bytes} are counted")
    _tries(machine, everywhere)
    _timers(machine, out)
    _holders(machine, out)
    _roster(machine)
    _lines(machine)
    limits = machine.limits
    _kept(machine.kept, everywhere, limits.kept_jobs_max, limits.kept_bytes_max)
    _requests(machine, everywhere)


def check_matched(machine: Machine) -> None:
    """Raises `InvariantBroken` when a job waits beside an unspent ask: true only after a turn is over."""
    for queue in machine.queues:
        asks = sum(place.worker.credit for place in queue.line)
        if len(queue) and asks:
            raise InvariantBroken(f"{len(queue)} jobs wait in {queue.name} beside {asks} unspent asks")


def _waiting(machine: Machine) -> dict[int, Job]:
    waiting: dict[int, Job] = {}
    for queue in machine.queues:
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
        if len(queue) != len(waiting) - before:
            raise InvariantBroken(f"{len(waiting) - before} jobs wait in {queue.name}, it counts {len(queue)}")
    return waiting


def _out(machine: Machine, waiting: dict[int, Job]) -> dict[int, Job]:
    """The delayed, held and running jobs; each open job with a token is found by it, and by nothing else."""
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
    for job in (*waiting.values(), *out.values()):
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
            if not (number not in unsafe and number not in waiting and number not in out):
                raise InvariantBroken(f"job {number} is in two places")
            if not (job.state == AVAILABLE and not job.token):
                raise InvariantBroken(f"job {number} was dispatched before its acceptance was safe")
            unsafe[number] = job
    return unsafe


def _tries(machine: Machine, jobs: dict[int, Job]) -> None:
    tries = machine.tries
    for job in jobs.values():
        if job.state == RUNNING:
            if job.attempts < 1:
                raise InvariantBroken(f"job {job.number} runs without an attempt")
            if not (tries is None or job.attempts <= tries):
                raise InvariantBroken(f"job {job.number} runs for the {job.attempts}th time of {tries}")
        elif not (tries is None or job.attempts < tries):
            raise InvariantBroken(f"job {job.number} waits though its {tries} tries are spent")
        if len(job.ledger) > machine.limits.ledger_entries_max:
            raise InvariantBroken(f"the ledger of job {job.number} is too long")


def _timers(machine: Machine, out: dict[int, Job]) -> None:
    """Each job stands in the one timer that it names, and in the one that it should."""
    lanes = [machine._reclaim, machine._unclaimed, machine.recalls.lane]
    if machine._lane is not None:
        lanes.append(machine._lane)
    found: dict[int, Any] = {}
    timers: list[Timer] = [*lanes, machine.deadlines]
    for timer in timers:
        for number, job in timer.running.items():
            if number in found or job.timer is not timer or out.get(number) is not job:
                raise InvariantBroken(f"job {number} stands in a timer that is not its own")
            found[number] = timer
    for lane in lanes:
        _lane(lane)
    for number, job in out.items():
        if job.timer is not found.get(number):
            raise InvariantBroken(f"job {number} names a timer in which it does not stand")
        _right_timer(machine, job)
    _deadlines(machine.deadlines)
    for queue in machine.queues:
        recalled = sum(job.queue is queue for job in machine.recalls.lane.running.values())
        if queue.recalls != recalled:
            raise InvariantBroken(f"{recalled} jobs of {queue.name} are recalled, {queue.recalls} are counted")


def _right_timer(machine: Machine, job: Job) -> None:
    timer = job.timer
    if job.state == DELAYED:
        right = timer is machine.deadlines
    elif job.holder is None:
        right = timer in (machine._reclaim, machine._unclaimed, machine._lane, machine.deadlines) and timer is not None
    elif job.state == HELD:
        right = timer is None or timer is machine.recalls.lane
    elif job.terms is machine.terms and machine._lane is not None:
        right = timer in (machine._lane, machine.deadlines)
    elif job.terms.run_ns is None and job.terms.silence_ns is None:
        right = timer is None
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
    earliest: dict[int, int] = {}
    for moment, number in deadlines._heap:
        earliest[number] = min(moment, earliest.get(number, NEVER))
    for number, job in deadlines.running.items():
        if earliest.get(number, NEVER) > job.due_ns:
            raise InvariantBroken(f"the deadline of job {number} will be looked at too late")
    if len(deadlines._heap) > 2 * len(deadlines.running) + 10_000:
        raise InvariantBroken("the heap of deadlines holds little but stale entries")


def _holders(machine: Machine, out: dict[int, Job]) -> None:
    lost: set[Worker] = {worker for _, _, worker in machine._lost}
    count = 0
    for worker in {*machine.roster, *lost}:
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


def _roster(machine: Machine) -> None:
    roster = machine.roster
    asks = count = 0
    for worker in roster:
        count += 1
        asks += worker.credit
        if not (0 <= worker.credit <= machine.limits.asks_per_worker_max):
            raise InvariantBroken(f"{worker} has an impossible credit")
        if worker.lost:
            raise InvariantBroken(f"{worker} is lost and in the roster")
        if worker.peer.asks_one_at_a_time and not isinstance(worker, Session) and worker.credit > 1:
            raise InvariantBroken(f"{worker} is REQ and has asked more than once")
        if isinstance(worker, Session):
            _session(worker)
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
    if held != sorted(held):
        raise InvariantBroken(f"{session} holds {held}: a start would not find some of them")


def _lines(machine: Machine) -> None:
    standing = set()
    for queue in machine.queues:
        if len(queue.line) != len(set(queue.line)):
            raise InvariantBroken(f"a worker stands in the line of {queue.name} twice")
        for place in queue.line:
            standing.add(place)
            if not place.in_line or place.queue is not queue:
                raise InvariantBroken(f"{place.worker} stands in the line of {queue.name} and does not know")
            if place.worker.lost and place.worker.credit:
                raise InvariantBroken(f"{place.worker} is lost and has credit")
        gone = sum(place.worker.lost for place in queue.line)
        if queue.gone != gone:
            raise InvariantBroken(f"{gone} in the line of {queue.name} are lost, {queue.gone} are counted")
    for worker in machine.roster:
        for place in worker.places:
            if (worker.credit and not place.in_line) or (place.in_line and place not in standing):
                raise InvariantBroken(f"{worker} has asked and does not stand in the line of {place.queue.name}")


def _kept(kept: Kept, open_jobs: dict[int, Job], jobs_max: int, bytes_max: int) -> None:
    size = 0
    for job in kept:
        if job.state not in FINAL:
            raise InvariantBroken(f"job {job.number} is kept and not final")
        if job.number in open_jobs:
            raise InvariantBroken(f"job {job.number} is kept and open")
        size += held_bytes(job.body, b"") + held_bytes(job.answer, b"") + beyond_frames(job)
    if kept.bytes != size:
        raise InvariantBroken(f"kept jobs have {size} bytes, {kept.bytes} are counted")
    if not (len(kept) <= jobs_max and kept.bytes <= bytes_max):
        raise InvariantBroken("more is kept than may be")


def _outcomes(outcomes: Outcomes, open_jobs: dict[int, Job], jobs_max: int, bytes_max: int) -> None:
    size = count = 0
    for job in outcomes:
        if job.state not in FINAL:
            raise InvariantBroken(f"the outcome of job {job.number} is kept, and it is not final")
        if job.number in open_jobs:
            raise InvariantBroken(f"the outcome of job {job.number} is kept, and it is open")
        held = held_bytes(job.answer, b"") + OUTCOME_BYTES + beyond_frames(job)
        if job.kept_bytes != held:
            raise InvariantBroken(f"the outcome of job {job.number} counts {job.kept_bytes} bytes, not {held}")
        size += job.kept_bytes
        count += 1
    if (outcomes.bytes, len(outcomes)) != (size, count):
        raise InvariantBroken(f"{count} outcomes have {size} bytes; {len(outcomes)}, {outcomes.bytes} are counted")
    if not (count <= jobs_max and size <= bytes_max):
        raise InvariantBroken("more outcomes are kept than may be")


def _requests(machine: Machine, open_jobs: dict[int, Job]) -> None:
    requests, limits = machine.requests, machine.limits
    _outcomes(requests.outcomes, open_jobs, limits.outcomes_max, limits.outcomes_bytes_max)
    native = [job for job in open_jobs.values() if job.request is not None]
    if requests.open != len(native):
        raise InvariantBroken(f"{len(native)} open jobs came natively, {requests.open} are counted")
    for key, job in requests._jobs.items():
        if job.request != key or not (job.number in open_jobs or job in requests.outcomes):
            raise InvariantBroken(f"job {job.number} can be asked for and is neither open nor kept")
    for job in (*native, *requests.outcomes):
        if job.request is not None and requests._jobs.get(job.request) is not job:
            raise InvariantBroken(f"nobody can ask for job {job.number}")
    for job_id, job in requests._by_id.items():
        if job.id != job_id or job.request is None or requests._jobs.get(job.request) is not job:
            raise InvariantBroken(f"job {job.number} is known by an id that is not its own")
    owed: dict[int, int] = {}
    parting = [asker for paths in requests.askers.parting.values() for asker in paths.values()]
    for asker in (*requests.askers, *parting):
        last = 0
        for number, job in asker.unreceived:
            if not last < number <= asker.told:
                raise InvariantBroken(f"{asker} was told outcomes out of order")
            last = number
            owed[job.number] = owed.get(job.number, 0) + 1
    waiting = [job for _, _, job in machine.told]
    for job in requests.outcomes:
        if not waiting and not machine.keeps_records and job.unreceived != owed.get(job.number, 0):
            raise InvariantBroken(f"job {job.number} is owed {owed.get(job.number, 0)} receipts, not {job.unreceived}")


def persisted(machine: Machine) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
    """All that must survive the process, by number: (open jobs, kept jobs, owed outcomes). A loaded machine has the
    same.
    """
    opened = {
        job.number: (
            _bytes(job.body),
            job.queue.name,
            job.terms,
            job.request,
            job.headers,
            job.again,
            job.state,
            job.token,
            job.tokens,
            job.shared,
            bool(job.seq),
            job.attempts,
            job.handovers,
            job.ledger,
            job.kind,
            job.text,
        )
        for job in machine.jobs()
    }
    kept = {
        job.number: (_bytes(job.body), job.state, job.reason, job.attempts, job.ledger, _bytes(job.answer))
        for job in machine.kept
    }
    owed = {
        job.number: (
            job.request,
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
    return opened, kept, owed


def _bytes(body: Any) -> tuple[bytes, ...]:
    return tuple(map(bytes, body_frames(body)))
