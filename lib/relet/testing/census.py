"""The census: what must be true of a machine between any two calls, whatever happened before.

It looks inside on purpose, and shares nothing with the machine but the names of its parts: every job is looked for in
every place where one can be, and every count is counted again. It costs a walk over all open jobs.
"""

# ruff: noqa: SLF001 - the census looks inside: that is what it is for

from __future__ import annotations

from typing import Any

from relet.core.job import AVAILABLE, FINAL, RUNNING, Job
from relet.core.lease import NEVER, Lane
from relet.core.machine import Machine
from relet.core.roster import Worker
from relet.messages import body_frames, held_bytes


class InvariantBroken(AssertionError):
    """Something that must always be true is not: a fault of ours, and the text says which."""


def check(machine: Machine, *, loaded: int = 0) -> None:
    """Raises `InvariantBroken` unless everything in `machine` fits together; `loaded` jobs came from a store."""
    waiting = _waiting(machine)
    running = _running(machine, waiting)
    unsafe = _unsafe(machine, waiting, running)
    everywhere = {**waiting, **running, **unsafe}
    counters = machine.counters
    ended = counters.jobs_completed + counters.jobs_discarded + counters.jobs_cancelled
    if machine.open != len(everywhere):
        raise InvariantBroken(f"{len(everywhere)} jobs are open, {machine.open} are counted")
    if counters.jobs_accepted + loaded != machine.open + ended:
        raise InvariantBroken(
            f"{counters.jobs_accepted} jobs accepted, {loaded} loaded, but {machine.open} are open and {ended} ended"
        )
    size = sum(held_bytes(job.body, job.path) for job in everywhere.values())
    if machine.open_bytes != size:
        raise InvariantBroken(f"open jobs hold {size} bytes, {machine.open_bytes} are counted")
    _tries(machine, everywhere)
    _lanes(machine, running)
    _holders(machine, running)
    _roster(machine)
    _kept(machine, everywhere)


def check_matched(machine: Machine) -> None:
    """Raises `InvariantBroken` when a job waits beside an unspent ask: true only after a turn is over."""
    if len(machine.queue) and machine.roster.asks:
        raise InvariantBroken(f"{len(machine.queue)} jobs wait beside {machine.roster.asks} unspent asks")


def _waiting(machine: Machine) -> dict[int, Job]:
    waiting: dict[int, Job] = {}
    for job in machine.queue:
        if job.number in waiting:
            raise InvariantBroken(f"job {job.number} waits twice")
        if job.state != AVAILABLE:
            raise InvariantBroken(f"job {job.number} waits, but its state is {job.state}")
        if job.holder is not None:
            raise InvariantBroken(f"job {job.number} waits, but {job.holder} holds it")
        waiting[job.number] = job
    if len(machine.queue) != len(waiting):
        raise InvariantBroken(f"{len(waiting)} jobs wait, the queue counts {len(machine.queue)}")
    return waiting


def _running(machine: Machine, waiting: dict[int, Job]) -> dict[int, Job]:
    """The running jobs; each open job with a token is found by it."""
    running: dict[int, Job] = {}
    for token, job in machine._by_token.items():
        if not (bool(token) and job.token == token):
            raise InvariantBroken(f"job {job.number} is filed under a token that is not its own")
        if job.state in FINAL:
            raise InvariantBroken(f"job {job.number} is final and can still be answered")
        if job.state == RUNNING:
            if job.number in waiting:
                raise InvariantBroken(f"job {job.number} waits and runs")
            if job.number in running:
                raise InvariantBroken(f"job {job.number} has two tokens")
            running[job.number] = job
        elif job.number not in waiting:
            raise InvariantBroken(f"job {job.number} can be answered, but neither waits nor runs")
    for job in waiting.values():
        if not (not job.token or machine._by_token.get(job.token) is job):
            raise InvariantBroken(f"job {job.number} waits, but no answer finds it")
    return running


def _unsafe(machine: Machine, waiting: dict[int, Job], running: dict[int, Job]) -> dict[int, Job]:
    unsafe: dict[int, Job] = {}
    for jobs in (machine._accepted, *(jobs for _, jobs in machine._unsafe)):
        for job in jobs:
            number = job.number
            if not (number not in unsafe and number not in waiting and number not in running):
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


def _lanes(machine: Machine, running: dict[int, Job]) -> None:
    if machine._lane is not None:
        _lane(machine._lane, running)
        _lane(machine._reclaim, {})
    else:
        _lane(machine._reclaim, {number: job for number, job in running.items() if job.holder is None})


def _lane(lane: Lane, expected: dict[int, Job]) -> None:
    if lane.running.keys() != expected.keys():
        raise InvariantBroken(f"leases {sorted(lane.running.keys() ^ expected.keys())} are wrong")
    latest = -NEVER
    for number, job in lane.running.items():
        if job is not expected[number]:
            raise InvariantBroken(f"the lease of job {number} is another job's")
        if job.began_ns < latest:
            raise InvariantBroken(f"the lease of job {number} is out of order")
        if lane.due > job.began_ns + lane.lease_ns:
            raise InvariantBroken(f"the lease of job {number} will be looked at too late")
        latest = job.began_ns


def _holders(machine: Machine, running: dict[int, Job]) -> None:
    lost: list[Worker] = [worker for _, worker in machine._lost]
    held = 0
    for worker in (*machine.roster, *lost):
        held += len(worker.jobs)
        for job in worker.jobs:
            if not (job.holder is worker and running.get(job.number) is job):
                raise InvariantBroken(f"{worker} holds job {job.number} and does not")
    for job in running.values():
        if job.holder is not None:
            if job not in job.holder.jobs:
                raise InvariantBroken(f"job {job.number} runs at {job.holder}, who does not know")
            held -= 1
    if held != 0:
        raise InvariantBroken("a worker holds a job that does not run")


def _roster(machine: Machine) -> None:
    roster = machine.roster
    in_line = list(roster.line)
    if not (len(in_line) == len(set(in_line))):
        raise InvariantBroken("a worker stands in line twice")
    asks = count = 0
    for worker in roster:
        count += 1
        asks += worker.credit
        if not (0 <= worker.credit <= machine.limits.asks_per_worker_max):
            raise InvariantBroken(f"{worker} has an impossible credit")
        if not (worker.credit == 0 or worker.in_line):
            raise InvariantBroken(f"{worker} has asked and does not stand in line")
        if worker.peer.asks_one_at_a_time and not (worker.credit <= 1):
            raise InvariantBroken(f"{worker} is REQ and has asked more than once")
    for worker in in_line:
        if not worker.in_line:
            raise InvariantBroken(f"{worker} stands in line and does not know")
        if not (worker.credit == 0 or roster.routes.get(worker.peer, {}).get(worker.path) is worker):
            raise InvariantBroken(f"{worker} is lost and has credit")
    stale = sum(worker.credit == 0 for worker in in_line)
    if roster._stale != stale:
        raise InvariantBroken(f"{stale} in line have no credit, {roster._stale} are counted")
    if roster.asks != asks:
        raise InvariantBroken(f"there are {asks} unspent asks, {roster.asks} are counted")
    if roster.count != count:
        raise InvariantBroken(f"there are {count} workers, {roster.count} are counted")
    if not (asks <= machine.limits.asks_max and count <= machine.limits.peers_max):
        raise InvariantBroken("the roster is over its bounds")


def _kept(machine: Machine, open_jobs: dict[int, Job]) -> None:
    kept, limits = machine.kept, machine.limits
    size = 0
    for job in kept:
        if job.state not in FINAL:
            raise InvariantBroken(f"job {job.number} is kept and not final")
        if job.number in open_jobs:
            raise InvariantBroken(f"job {job.number} is kept and open")
        size += held_bytes(job.body, b"") + held_bytes(job.answer, b"")
    if kept.bytes != size:
        raise InvariantBroken(f"kept jobs have {size} bytes, {kept.bytes} are counted")
    if not (len(kept) <= limits.kept_jobs_max and size <= limits.kept_bytes_max):
        raise InvariantBroken("more is kept than may be")


def persisted(machine: Machine) -> tuple[dict[int, Any], dict[int, Any]]:
    """All that must survive the process, by number: (open jobs, kept jobs). A loaded machine has the same."""
    opened = {
        job.number: (
            _bytes(job.body),
            job.state,
            job.token,
            job.attempts,
            job.handovers,
            job.ledger,
        )
        for job in machine.jobs()
    }
    kept = {
        job.number: (_bytes(job.body), job.state, job.reason, job.attempts, job.ledger, _bytes(job.answer))
        for job in machine.kept
    }
    return opened, kept


def _bytes(body: Any) -> tuple[bytes, ...]:
    return tuple(map(bytes, body_frames(body)))
