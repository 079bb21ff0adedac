"""Which waiting job goes to which waiting ask.

A queue is *stirred* when something may go from it that could not before: a job came, a worker asked, a limit was
lifted. Only stirred queues are looked at, all of them once a turn, and in each the first job goes to the worker whose
turn it is. A worker that serves several queues takes from the most important one of them, so what waits in one queue
may be given out by way of another. Where nothing but a rate is in the way, the moment is kept at which it lets
something go.

This is what every job costs, and little of it could be a call of its own.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from relet.core import job as happened
from relet.core import retry
from relet.core.job import HELD, Job
from relet.core.lease import NEVER
from relet.core.queue import Queue
from relet.core.roster import Session, Worker
from relet.events import Event

if TYPE_CHECKING:
    from relet.core.machine import Machine


class Matching:
    """The hand-overs of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._later: list[tuple[int, int, Queue]] = []
        """A heap (moment, number, queue): when a rate lets something go."""
        self._looks = 0

    @property
    def due(self) -> int:
        """When `expire` next has something to do."""
        return self._later[0][0] if self._later else NEVER

    def expire(self, now: int) -> None:
        """Stirs the queues in which a rate lets something go now."""
        while self._later and self._later[0][0] <= now:
            self._machine.stirred[heapq.heappop(self._later)[2]] = None

    def match(self, now: int) -> None:
        """Each of the stirred queues, once."""
        machine = self._machine
        stirred, machine.stirred = machine.stirred, {}
        for queue in (machine.queue, *stirred):  # all of them first: a worker is given the most important of what came
            for service, bit in queue.services:
                service.stirred |= bit
        jobs: list[Job] = []
        handed: list[Job] = []
        self._match(machine.queue, now, jobs, handed)
        for queue in stirred:
            plain, line = queue.plain, queue.line
            if queue.levels is None and not plain.fresh and not plain.again:
                continue  # nothing waits: it was given out by way of another queue
            if line and (line[0].worker.credit or not queue.is_kept_a_place()):
                self._match(queue, now, jobs, handed)
        if jobs or handed:
            self._are_out(jobs, handed, now)

    def _match(  # noqa: PLR0915 - the hot path: a call for each job would cost more
        self, queue: Queue, now: int, jobs: list[Job], handed: list[Job]
    ) -> None:
        """Adds what it hands out to `jobs`, or to `handed` where the worker says when it starts."""
        machine = self._machine
        line = queue.line
        if not line or queue.paused:
            return
        by_token, tokens, seals = machine.by_token, machine.tokens, machine.seals
        levels, plain, fresh = queue.levels, queue.plain, queue.plain.fresh
        looks = len(line) > 1 and bool(machine.roster.sessions)
        overdue = machine.deadlines.due <= now  # more came up in this turn than it could end
        simply = levels is None and plain.is_all_fresh() and not overdue
        while line:
            worker = line[0].worker
            if not worker.credit:
                if queue.is_kept_a_place():
                    break
                queue.drop_first()
                continue
            if looks and type(worker) is Session and len(worker.jobs) >= worker.capacity:
                looks = queue.puts_idle_first()  # who only asks ahead comes after who has nothing to do
                continue
            service = worker.service
            if service is not None:
                job = service.take(now)
            elif simply:
                job = fresh.popleft() if fresh else None
            else:
                job = queue.take(now)
            if job is None:
                if levels is not None:
                    self._look_later(queue, levels.wakes_at(now), now)
                break
            if overdue and job.timer is not None and job.due_ns <= now:
                job.queue.put_back(job)
                machine.missed(job, now)
                continue
            token = job.token
            if token and (other := self._another(job, worker)) is not None:
                self._hand_to(other, job)
                (handed if other.confirms else jobs).append(job)
                continue
            if type(worker) is Session:
                if token:
                    machine.renew_token(job, native=True)
                else:
                    job.token = token = next(tokens) if seals is None else seals.token_of(job)
                    by_token[token] = job
                worker.handed = job.seq = worker.handed + 1
                worker.jobs[job] = None
                if worker.confirms:
                    handed.append(job)
                else:
                    job.partials = 0
                    jobs.append(job)
            else:
                worker.jobs.add(job)
                if not token:
                    job.token = token = next(tokens) if seals is None else seals.token_of(job)
                    by_token[token] = job
                elif job.seq or not job.terms.late_any:
                    machine.renew_token(job, native=False)
                jobs.append(job)
            job.holder = worker
            worker.credit = credit = worker.credit - 1
            if not credit:
                if service is None:
                    line.popleft().in_line = False
            elif len(line) > 1:
                line.rotate(-1)

    def _are_out(self, jobs: list[Job], handed: list[Job], now: int) -> None:
        """These have their holders."""
        machine = self._machine
        machine.roster.asks -= len(jobs) + len(handed)
        if jobs:
            happened.dispatched(jobs, now)
            machine.begin_leases(jobs, now)
            self._sort_out(jobs)
        if handed:
            happened.handed_over(handed, now)
            machine.recalls.handed_over(now)
            machine.handed += handed
        if machine.keeps_records:
            machine.journal.handed_over(jobs, now)
            machine.journal.handed_over(handed, now)
        if machine.trace:
            for job in (*jobs, *handed):
                self._notice_dispatched(job)

    def _look_later(self, queue: Queue, moment: int, now: int) -> None:
        """Something may go from this queue then, though nothing happens."""
        if moment != NEVER and not now < queue.wakes_at <= moment:
            queue.wakes_at = moment
            self._looks += 1
            heapq.heappush(self._later, (moment, self._looks, queue))

    def _another(self, job: Job, worker: Worker) -> Worker | None:
        """Who is to have this job in the place of the worker whose turn it is, because that has just failed it."""
        failed_by = retry.failed_by(job)
        return job.queue.another(failed_by) if failed_by and failed_by == worker.name else None

    def _hand_to(self, worker: Worker, job: Job) -> None:
        """A job that was out before goes to a worker whose turn it is not; its place in the line stays."""
        machine = self._machine
        if type(worker) is Session:
            machine.renew_token(job, native=True)
            worker.handed = job.seq = worker.handed + 1
        elif job.seq or not job.terms.late_any:
            machine.renew_token(job, native=False)
        worker.take(job)
        job.partials = 0
        job.holder = worker
        worker.credit -= 1

    def _sort_out(self, jobs: list[Job]) -> None:
        """Jobs whose attempts begin with the dispatch: to workers of 2010, or to sessions that do not say starts."""
        machine = self._machine
        if not machine.roster.sessions:
            machine.dispatched += jobs
            return
        for job in jobs:
            (machine.handed if type(job.holder) is Session else machine.dispatched).append(job)

    def _notice_dispatched(self, job: Job) -> None:
        worker = job.holder.name if job.holder is not None else ""
        attempt = job.attempts + (job.state == HELD)
        self._machine.notices.append((Event.JOB_DISPATCHED, {"job": job.number, "attempt": attempt, "worker": worker}))
