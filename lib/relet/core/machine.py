"""The machine: it owns every job and decides what becomes of it.

It reads no clock, socket, file or random number. Messages and timers go in with `now`; an iterator of unguessable
tokens is passed in. What it decides comes out as plain lists that the shell carries out in this order: records to
keep, then jobs that finished and jobs that were dispatched to send, then notices to publish.

The path of one job: `submit` makes it and puts it in the queue; `match` hands it to the worker whose turn it is;
`complete` ends it, or `expire` (its time was up, its worker was lost) lets it again or discards it. One batch of
messages is one call, because a call and an object per message would cost more than the decisions.

With a store there is one more step: a job that was accepted may be dispatched only after `settled` has said that its
acceptance is safe. Without one, no records are built at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

import msgspec

from relet.core import job as happened
from relet.core.job import AVAILABLE, COMPLETED, DISCARDED, RUNNING, Cause, Job, Reason, State
from relet.core.kept import Kept
from relet.core.lease import NEVER, Lane
from relet.core.limits import Limits
from relet.core.queue import Queue
from relet.core.roster import Roster, Worker, name_of
from relet.events import Event
from relet.messages import (
    NO_DESCRIPTOR,
    Accepted,
    Answer,
    Ask,
    Attempt,
    AttemptEnded,
    Body,
    Finished,
    Forgotten,
    Peer,
    Record,
    Request,
    body_bytes,
    body_frames,
    held_bytes,
)

RECLAIM_NS: Final = 30 * 10**9
"""How long a job that was running when the broker ended may still be answered, where jobs have no timeout."""


class Counters(msgspec.Struct):
    """What has happened since the broker began. Every number only grows."""

    jobs_accepted: int = 0
    jobs_completed: int = 0
    jobs_discarded: int = 0
    jobs_cancelled: int = 0
    dispatches: int = 0
    attempts_expired: int = 0
    attempts_lost: int = 0
    """Attempts that ended with the connection of their worker."""
    handovers_undelivered: int = 0
    """Hand-overs that provably never left and cost no attempt."""
    answers_late: int = 0
    """Answers to a job that was waiting for its next attempt; they count."""
    answers_refused: int = 0
    """Answers to no open job."""
    asks_refused: int = 0
    requests_refused: int = 0
    """Messages of clients that could never become a job."""
    replies_unroutable: int = 0
    """Outcomes whose client was gone."""
    reply_dropped: int = 0
    """Outcomes whose client did not read while its outbox was full."""
    workers_arrived: int = 0
    workers_lost: int = 0


Notice = tuple[Event, dict[str, Any]]


class Machine:
    """Every job of one broker, and the rules. Times are nanoseconds of lease time."""

    def __init__(
        self,
        tokens: Iterator[bytes],
        *,
        tries: int | None = None,
        timeout_ns: int | None = None,
        limits: Limits | None = None,
        keeps_records: bool = False,
        trace: bool = False,
    ) -> None:
        """Makes an empty machine.

        `tokens` are unguessable, all different. `tries` bounds counted attempts, `timeout_ns` is the length of a lease;
        None: no bound. With `trace`, each step of a job is a notice.
        """
        self.limits = limits = limits or Limits()
        self.tries = tries
        self.timeout_ns = timeout_ns
        self.trace = trace
        self.counters = Counters()
        self.queue = Queue()
        self.roster = Roster(
            asks_max=limits.asks_max,
            asks_per_worker_max=limits.asks_per_worker_max,
            workers_max=limits.peers_max,
            paths_max=limits.paths_per_peer_max,
        )
        self.kept = Kept(jobs_max=limits.kept_jobs_max, bytes_max=limits.kept_bytes_max)
        self.open = 0
        """Jobs that are not final."""
        self.open_bytes = 0
        """Bytes of their bodies and return paths (`held_bytes`)."""

        self.finished: list[Job] = []
        """Effect: jobs that became final, in that order; their clients are to be told."""
        self.dispatched: list[Job] = []
        """Effect: jobs to be sent to their holders."""
        self.notices: list[Notice] = []
        """Effect: what to publish."""

        self._tokens = tokens
        self._by_token: dict[bytes, Job] = {}
        """Every open job that was ever dispatched."""
        self._lane = Lane(timeout_ns) if timeout_ns is not None else None
        self._reclaim = Lane(RECLAIM_NS)
        """Running jobs from a store, where jobs have no timeout."""
        self._lost: deque[tuple[int, Worker]] = deque()
        """(end of the grace, worker): lost ones that still hold leases, in the order of their loss."""
        self._of_lost: list[Job] = []
        """Jobs of the first of these whose leases are being ended, oldest last."""
        self._handovers_max = limits.handovers_of(tries)
        self._number = 0
        self._keeps_records = keeps_records
        self._records: list[Record] = []
        self._accepted: list[Job] = []
        """Accepted in this turn, where there is a store."""
        self._unsafe: deque[tuple[int, list[Job]]] = deque()
        """(turn, accepted jobs): not to be dispatched before that turn is safe."""

    # --- The doors: what peers say

    def submit(self, batch: list[Request], now: int) -> None:
        """Clients want these jobs done. The shell asks `room` before it reads them."""
        number, size = self._number, 0
        jobs = []
        for peer, path, body in batch:
            number += 1
            # One frame, nearly always: the call would cost more than the sum.
            size += len(body) + len(path) if type(body) is bytes else held_bytes(body, path)
            jobs.append(Job(number, peer, path, body, now))
        self._number = number
        self.open += len(jobs)
        self.open_bytes += size
        self.counters.jobs_accepted += len(jobs)
        if self._keeps_records:
            self._accepted.extend(jobs)
            self._records.extend(Accepted(job.number, _kept_frames(job.body)) for job in jobs)
        else:
            self.queue.fresh.extend(jobs)
        if self.trace:
            for job in jobs:
                self.notices.append((Event.JOB_ACCEPTED, {"job": job.number, "bytes": body_bytes(job.body)}))

    def ask(self, batch: list[Ask], now: int) -> None:  # noqa: ARG002 - every door takes the time
        """Workers ask, one job a message."""
        arrived, refused = self.roster.ask(batch)
        if arrived:
            self.counters.workers_arrived += len(arrived)
            for worker in arrived:
                peer = worker.peer
                traced = peer.descriptor != NO_DESCRIPTOR
                fields = {"worker": name_of(worker), "socket_type": peer.socket_type or "unknown", "traced": traced}
                self.notices.append((Event.WORKER_ARRIVED, fields))
        if refused:
            self.asks_refused(refused, "too_many_asks")

    def asks_refused(self, count: int, reason: str) -> None:
        """The shell or the roster could not take so many asks."""
        self.counters.asks_refused += count
        self.notices.append((Event.ASK_REFUSED, {"reason": reason, "count": count}))

    def complete(self, batch: list[Answer], now: int) -> None:
        """Workers have done these jobs. This is the one place where possession is proven: by the token."""
        by_token, lane = self._by_token, self._lane
        done: list[Job] = []
        late: list[Job] = []
        size = 0
        for token, answer in batch:
            job = by_token.pop(token, None)
            if job is None:
                continue
            holder = job.holder
            if holder is not None:
                holder.jobs.discard(job)
            if job.state == RUNNING:
                if lane is not None:
                    del lane.running[job.number]
                elif holder is None:
                    del self._reclaim.running[job.number]
            else:
                late.append(job)
            job.answer = answer
            body = job.body
            size += len(body) + len(job.path) if type(body) is bytes else held_bytes(body, job.path)
            done.append(job)
        happened.answered(done, now)
        for job in late:
            self.queue.left(job)
        self.counters.answers_late += len(late)
        self.finished += done
        self.open -= len(done)
        self.open_bytes -= size
        self.counters.jobs_completed += len(done)
        if len(done) != len(batch):
            self.answers_refused(len(batch) - len(done))
        if self._keeps_records:
            for job in done:
                self._record_finished(job, kept=False)
        if self.trace:
            for job in done:
                self._notice_finished(job)
        for job in done:
            job.body = b""

    def answers_refused(self, count: int) -> None:
        """So many answers named no open job."""
        self.counters.answers_refused += count
        self.notices.append((Event.ANSWER_REFUSED, {"count": count}))

    def lost(self, peer: Peer, now: int) -> None:
        """A connection of a worker has gone. Its asks are void now, its leases after the grace."""
        for worker in self.roster.lost(peer):
            self.counters.workers_lost += 1
            fields = {"worker": name_of(worker), "jobs_held": len(worker.jobs)}
            self.notices.append((Event.WORKER_LOST, fields))
            if worker.jobs:
                self._lost.append((now + self.limits.worker_grace_ns, worker))

    # --- The doors: what the shell found out

    def undelivered(self, jobs: Iterable[Job], now: int) -> None:
        """These hand-overs of the last `match` provably never left; their workers cannot be reached until they ask
        again.
        """
        for job in jobs:
            holder = job.holder
            if job.state != RUNNING or holder is None:
                continue
            self.roster.void(holder)
            self._end_lease(job)
            self.counters.handovers_undelivered += 1
            happened.undelivered(job)
            if job.handovers >= self._handovers_max:
                self._discard(job, Reason.HANDOVERS_SPENT, now)
                continue
            self.queue.came_back(job)
            if self._keeps_records:
                self._record_attempt(job)
            if self.trace:
                self.notices.append((Event.JOB_UNDELIVERED, {"job": job.number, "handovers": job.handovers}))

    def untold(self, jobs: Iterable[Job]) -> None:
        """The outcomes of these finished jobs reached nobody, because their clients are gone: they are kept."""
        for job in jobs:
            self.counters.replies_unroutable += 1
            if self.trace:
                self.notices.append((Event.REPLY_UNROUTABLE, {"job": job.number}))
            self._keep_outcome(job)

    def dropped(self, jobs: Iterable[Job]) -> None:
        """The outcomes of these finished jobs were dropped, because their clients do not read: they are kept."""
        for job in jobs:
            self._keep_outcome(job)

    def _keep_outcome(self, job: Job) -> None:
        if job.state == COMPLETED:  # the others are kept already, or were never begun
            if self._keeps_records:
                self._record_finished(job, kept=True)
            self._keep(job)

    def expire(self, now: int) -> None:
        """Ends the leases whose time is up and those of lost workers whose grace is over, some at a time."""
        budget = self.limits.turn_steps_max
        while self._lost and self._lost[0][0] <= now and budget > 0:
            _, worker = self._lost[0]
            if not self._of_lost:
                self._of_lost = sorted(worker.jobs, key=_number_of, reverse=True)
            while self._of_lost and budget > 0:
                job = self._of_lost.pop()
                if job.holder is worker:  # else it has ended meanwhile
                    budget -= 1
                    self._attempt_failed(job, Cause.WORKER_LOST, now)
            if not self._of_lost:
                self._lost.popleft()
        for lane in (self._lane, self._reclaim):
            if lane is not None and now >= lane.due and budget > 0:
                for job in lane.take_expired(now, budget):
                    budget -= 1
                    self._attempt_failed(job, Cause.EXPIRED, now)

    def next_deadline(self) -> int | None:
        """When `expire` next has something to do; None when nothing is waited for. May be in the past."""
        due = self._reclaim.due
        if self._lane is not None and self._lane.due < due:
            due = self._lane.due
        if self._lost and self._lost[0][0] < due:
            due = self._lost[0][0]
        return None if due == NEVER else due

    def match(self, now: int) -> None:
        """Hands waiting jobs to waiting asks, oldest job to the worker whose turn it is."""
        queue, roster, by_token, tokens = self.queue, self.roster, self._by_token, self._tokens
        line, jobs = roster.line, self.dispatched
        before = len(jobs)
        while line:
            worker = line[0]
            if not worker.credit:
                roster.drop_first()
                continue
            job = queue.take()
            if job is None:
                break
            if not job.token:
                job.token = token = next(tokens)
                by_token[token] = job
            job.holder = worker
            worker.jobs.add(job)
            jobs.append(job)
            worker.credit -= 1
            if not worker.credit:
                line.popleft()
                worker.in_line = False
            elif len(line) > 1:
                line.rotate(-1)
        count = len(jobs) - before
        if not count:
            return
        if before:
            jobs = jobs[before:]
        happened.dispatched(jobs, now)
        if self._lane is not None:
            self._lane.begin(jobs, now)
        roster.asks -= count
        self.counters.dispatches += count
        if self._keeps_records:
            for job in jobs:
                self._record_attempt(job)
        if self.trace:
            for job in jobs:
                self._notice_dispatched(job)

    def stop(self, now: int, jobs_max: int) -> int:
        """Ends up to `jobs_max` open jobs, because the broker ends; returns how many are left."""
        for job in list(islice(self._by_token.values(), jobs_max)):
            running = job.state == RUNNING
            if running:
                self._end_lease(job)
            self._stopped(job, now)
            if not running:
                self.queue.left(job)
            jobs_max -= 1
        never_out = [self.queue.fresh, self._accepted, *(jobs for _, jobs in self._unsafe)]
        for jobs in never_out:
            while jobs and jobs_max > 0:
                self._stopped(jobs.pop(), now)
                jobs_max -= 1
        return self.open

    def _stopped(self, job: Job, now: int) -> None:
        happened.stopped(job, now)
        self.counters.jobs_cancelled += 1
        self._ended_badly(job)

    # --- The doors: what a store keeps

    @property
    def has_records(self) -> bool:
        """Something is to be kept that no turn has given to the store yet."""
        return bool(self._records)

    def take_records(self, turn: int) -> list[Record]:
        """The records of this turn. Jobs accepted in it wait until `settled` says that `turn` is safe."""
        if self._accepted:
            self._unsafe.append((turn, self._accepted))
            self._accepted = []
        records, self._records = self._records, []
        return records

    def settled(self, turn: int) -> None:
        """All turns up to `turn` are safe: what they accepted may be dispatched."""
        while self._unsafe and self._unsafe[0][0] <= turn:
            _, jobs = self._unsafe.popleft()
            self.queue.fresh.extend(jobs)

    def load(self, records: Iterable[Record], now: int) -> None:
        """Builds an empty machine from records. Jobs come without askers; the leases of running ones begin again."""
        jobs: dict[int, Job] = {}
        final: dict[int, Job] = {}
        for record in records:
            match record:
                case Accepted(number, frames):
                    jobs[number] = Job(number, None, b"", frames[0] if len(frames) == 1 else frames, now)
                    self._number = max(self._number, number)
                case Attempt(number, running, token, attempts, handovers, ledger):
                    job = jobs[number]
                    job.state = RUNNING if running else AVAILABLE
                    job.token, job.attempts, job.handovers, job.ledger = token, attempts, handovers, ledger
                    job.began_ns = now
                case Finished(number, state, reason, attempts, kept, ledger, answer):
                    job = jobs.pop(number) if number in jobs else final.get(number) or Job(number, None, b"", b"", now)
                    self._number = max(self._number, number)
                    job.state, job.reason, job.attempts, job.ledger = state, reason, attempts, ledger
                    job.answer = answer[0] if len(answer) == 1 else answer
                    if job.state == COMPLETED:
                        job.body = b""
                    if kept:
                        final[number] = job
                case Forgotten(number):
                    final.pop(number, None)
        for number in sorted(jobs):
            self._loaded(jobs[number], now)
        for job in final.values():
            self.kept.keep(job)

    def _loaded(self, job: Job, now: int) -> None:
        self.open += 1
        self.open_bytes += held_bytes(job.body, job.path)
        if job.token:
            self._by_token[job.token] = job
        if job.state == RUNNING:
            (self._lane or self._reclaim).begin((job,), now)
        elif job.token:
            self.queue.came_back(job)
        else:
            self.queue.fresh.append(job)

    def room(self) -> tuple[int, int]:
        """(jobs, bytes) that may still be taken in, the reserve included; 0 or less: read no clients."""
        limits = self.limits
        return (
            limits.jobs_max + limits.jobs_max // 10 - self.open,
            limits.jobs_bytes_max + limits.jobs_bytes_max // 10 - self.open_bytes,
        )

    def jobs(self) -> Iterator[Job]:
        """Every open job, in no order that matters. For inspection: it costs a walk over all of them."""
        yield from self._by_token.values()
        yield from self.queue.fresh
        yield from self._accepted
        for _, jobs in self._unsafe:
            yield from jobs

    # --- What doors have in common

    def _end_lease(self, job: Job) -> None:
        """A running job has no lease any more."""
        holder = job.holder
        if holder is not None:
            holder.jobs.discard(job)
        lane = self._lane or (self._reclaim if holder is None else None)
        if lane is not None:
            lane.running.pop(job.number, None)

    def _attempt_failed(self, job: Job, cause: Cause, now: int) -> None:
        """An attempt came to nothing: another one, or the end."""
        self._end_lease(job)
        if cause is Cause.EXPIRED:
            self.counters.attempts_expired += 1
        else:
            self.counters.attempts_lost += 1
        entry = AttemptEnded(job.attempts, cause.value, job.began_ns, now)
        job.ledger = (*job.ledger, entry)[-self.limits.ledger_entries_max :]
        if self.trace:
            fields = {"job": job.number, "attempt": job.attempts, "cause": cause.value}
            self.notices.append((Event.ATTEMPT_ENDED, fields))
        if self.tries is not None and job.attempts >= self.tries:
            self._discard(job, Reason.TRIES_SPENT, now)
            return
        happened.attempt_ended(job)
        self.queue.came_back(job)
        if self._keeps_records:
            self._record_attempt(job)

    def _discard(self, job: Job, reason: Reason, now: int) -> None:
        happened.budget_spent(job, reason, now)
        self.counters.jobs_discarded += 1
        causes = [entry.cause for entry in job.ledger[-10:]]
        fields = {"job": job.number, "reason": job.reason, "attempts": job.attempts, "causes": causes}
        self.notices.append((Event.JOB_DISCARDED, fields))
        self._ended_badly(job)

    def _ended_badly(self, job: Job) -> None:
        """DISCARDED or CANCELLED: the client is to be told, and the job is kept."""
        self._by_token.pop(job.token, None)
        self.open -= 1
        self.open_bytes -= held_bytes(job.body, job.path)
        self.finished.append(job)
        if self._keeps_records:
            self._record_finished(job, kept=job.state == DISCARDED)
        if self.trace:
            self._notice_finished(job)
        if job.state == DISCARDED:
            self._keep(job)

    def _keep(self, job: Job) -> None:
        for forgotten in self.kept.keep(job):
            forgotten.body = b""  # it may still wait to be told
            if self._keeps_records:
                self._records.append(Forgotten(forgotten.number))

    # --- Records and notices

    def _record_attempt(self, job: Job) -> None:
        running = job.state == RUNNING
        self._records.append(Attempt(job.number, running, job.token, job.attempts, job.handovers, job.ledger))

    def _record_finished(self, job: Job, *, kept: bool) -> None:
        answer = _kept_frames(job.answer) if kept else ()
        self._records.append(
            Finished(job.number, int(job.state), job.reason, job.attempts, kept, job.ledger, answer)
        )

    def _notice_dispatched(self, job: Job) -> None:
        worker = name_of(job.holder) if job.holder is not None else ""
        fields = {"job": job.number, "attempt": job.attempts, "worker": worker}
        self.notices.append((Event.JOB_DISPATCHED, fields))

    def _notice_finished(self, job: Job) -> None:
        began = job.began_ns or job.ended_ns
        fields = {
            "job": job.number,
            "outcome": State(job.state).name.lower(),
            "reason": job.reason,
            "attempts": job.attempts,
            "wait_s": (began - job.accepted_ns) / 1e9,
            "run_s": (job.ended_ns - began) / 1e9,
            "bytes": body_bytes(job.body),
        }
        self.notices.append((Event.JOB_FINISHED, fields))


def _number_of(job: Job) -> int:
    return job.number


def _kept_frames(body: Body) -> tuple[bytes, ...]:
    return tuple(map(bytes, body_frames(body)))
