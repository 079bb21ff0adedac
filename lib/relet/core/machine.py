"""The machine: it owns every job and decides what becomes of it.

It reads no clock, socket, file or random number. Messages and timers go in with `now`; an iterator of unguessable
tokens is passed in. What it decides comes out as plain lists that the shell carries out in this order: records to
keep, then what promises something - outcomes, acknowledgements - and jobs that were dispatched, then notices to
publish.

The path of one job: `submit` makes it and puts it in its queue; `match` hands it to the worker whose turn it is;
`complete` ends it, or `expire` (its time was up, its worker was lost) lets it again or discards it. One batch of
messages is one call, because a call and an object per message would cost more than the decisions.

What native workers can say beyond that is in `reports`, what native clients can in `requests`: two parts with doors of
their own, which know sessions and identities. What becomes of a job is decided here for both dialects alike.

With a store there is one more step: a job that was accepted may be dispatched only after `settled` has said that its
acceptance is safe. Without one, no records are built at all.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from relet.core import job as happened
from relet.core import records
from relet.core.effects import Counters, Notice, Saying, Told
from relet.core.job import (
    AVAILABLE,
    COMPLETED,
    DELAYED,
    DISCARDED,
    FINAL,
    HELD,
    RUNNING,
    Cause,
    Job,
    Reason,
    State,
    Terms,
)
from relet.core.kept import Kept, ledger_bytes
from relet.core.lease import NEVER, Deadlines, Lane
from relet.core.limits import Limits
from relet.core.queue import Queue, Queues
from relet.core.recalls import Recalls
from relet.core.reports import Reports
from relet.core.requests import Requests
from relet.core.roster import Roster, Session, Worker
from relet.events import Event
from relet.messages import (
    NO_DESCRIPTOR,
    Answer,
    Ask,
    AttemptEnded,
    Evicted,
    Forgotten,
    Peer,
    Record,
    Request,
    body_bytes,
    headers_held,
    held_bytes,
)

RECLAIM_NS: Final = 30 * 10**9
"""How long a job that was running when the broker ended may still be answered, where jobs have no timeout."""
HAND_BACK_NS: Final = 10_000_000
HAND_BACK_NS_MAX: Final = 1_000_000_000
"""How long a job waits after its worker has handed it back unasked: the first, doubled each time up to the second."""
TOKENS_MAX: Final = 100
"""Earlier hand-overs of one job by which a late answer is known; the oldest go first."""


class Machine:
    """Every job of one broker, and the rules. Times are nanoseconds of lease time."""

    def __init__(  # noqa: PLR0915 - a machine is its tables, and each is said what it is for
        self,
        tokens: Iterator[bytes],
        *,
        tries: int | None = None,
        timeout_ns: int | None = None,
        limits: Limits | None = None,
        keeps_records: bool = False,
        trace: bool = False,
        epoch: int = 1,
        began_ns: int = 0,
    ) -> None:
        """Makes an empty machine.

        `tokens` are unguessable, all different, 16 bytes each. `tries` bounds counted attempts, `timeout_ns` is the
        length of a lease; None: no bound. With `trace`, each step of a job is a notice. `epoch` is this life of the
        broker, which began at `began_ns`, lease time.
        """
        self.limits = limits = limits or Limits()
        self.tries = tries
        self.timeout_ns = timeout_ns
        self.terms = Terms(run_ns=timeout_ns)
        """What holds for a job that says nothing else."""
        self.trace = trace
        self.epoch = epoch
        self.began_ns = began_ns
        self.wall_ns = 0
        """What has to be added to lease time for nanoseconds since 1970 (UTC); the shell sets it, every turn."""
        self.draining = False
        """No new jobs."""
        self.counters = Counters()
        self.queues = Queues()
        self.queue = self.queues.default
        """Where the jobs wait that name no queue."""
        self.roster = Roster(
            self.queue,
            asks_max=limits.asks_max,
            asks_per_worker_max=limits.asks_per_worker_max,
            workers_max=limits.peers_max,
            paths_max=limits.paths_per_peer_max,
        )
        self.kept = Kept(jobs_max=limits.kept_jobs_max, bytes_max=limits.kept_bytes_max)
        self.open = 0
        """Jobs that are not final."""
        self.open_bytes = 0
        """Bytes of their bodies, headers and return paths (`held`)."""

        self.finished: list[Job] = []
        """Effect: jobs of 2010 that became final, in that order; their clients are to be told."""
        self.told: list[Told] = []
        """Effect: the same for native clients."""
        self.dispatched: list[Job] = []
        """Effect: jobs to be sent to their holders, workers of 2010."""
        self.handed: list[Job] = []
        """Effect: jobs to be sent to their holders, sessions."""
        self.promised: list[Saying] = []
        """Effect: (to whom, what, body): what is to be said once this turn is safe."""
        self.said: list[Saying] = []
        """Effect: the same, of what promises nothing: to be said at once."""
        self.acks: dict[Session, int] = {}
        """Effect: sessions that reported something, and the number of the last report: to be acknowledged."""
        self.notices: list[Notice] = []
        """Effect: what to publish."""

        self.by_token: dict[bytes, Job] = {}
        """Every token that gives a right to an open job. This is the one place where possession is proven."""
        self.tokens = tokens
        self.stirred: dict[Queue, None] = {}
        """Queues in which something may be matched."""
        self.deadlines = Deadlines()
        """Delays, and leases with an end of their own."""
        self.reports = Reports(self)
        self.requests = Requests(self)
        self._lane = Lane(timeout_ns) if timeout_ns is not None else None
        self._reclaim = Lane(RECLAIM_NS)
        """Jobs of 2010 that were running when an earlier broker ended, where jobs have no timeout."""
        self._unclaimed = Lane(limits.liveness_ns)
        """Jobs that a session had then: it must claim them."""
        self.recalls = Recalls(self)
        self._lost: list[tuple[int, int, Worker]] = []
        """A heap (moment, number, worker): lost ones whose jobs are to be let again then."""
        self._losses = 0
        self._of_lost: list[Job] = []
        """Jobs of the first of these whose leases are being ended, oldest last."""
        self.handovers_max = limits.handovers_of(tries)
        """Hand-overs of one job that may come to nothing."""
        self.number = 0
        """Of the job that was accepted last."""
        self.keeps_records = keeps_records
        self._records: list[Record] = []
        self._number_safe = 0
        """Jobs up to this number may be dispatched, as far as a store goes."""
        self._accepted: list[Job] = []
        """Accepted in this turn, where there is a store."""
        self._unsafe: deque[tuple[int, list[Job]]] = deque()
        """(turn, accepted jobs): not to be dispatched before that turn is safe."""

    def wall_ms(self, now: int) -> int:
        """Milliseconds since 1970 (UTC)."""
        return (now + self.wall_ns) // 1_000_000

    # --- The doors: what peers say

    def submit(self, batch: list[Request], now: int) -> None:
        """Clients of 2010 want these jobs done. The shell asks `room` before it reads them."""
        number, size = self.number, 0
        queue, terms = self.queue, self.terms
        jobs = []
        for peer, path, body in batch:
            number += 1
            # One frame, nearly always: the call would cost more than the sum.
            size += len(body) + len(path) if type(body) is bytes else held_bytes(body, path)
            jobs.append(Job(number, peer, path, body, now, queue, terms))
        self.number = number
        self.open += len(jobs)
        self.open_bytes += size
        self.counters.jobs_accepted += len(jobs)
        if self.keeps_records:
            self._accepted.extend(jobs)
            for job in jobs:  # an id that a worker hears must be the same after a restart
                self.requests.id_of(job, now)
                self._records.append(records.accepted(self, job))
        else:
            queue.fresh.extend(jobs)
        if self.trace:
            for job in jobs:
                self._notice_accepted(job)

    def accept(self, jobs: list[Job], size: int, now: int) -> None:
        """Native clients want these jobs done; `requests` has made them, with the next numbers. `size`: what they
        hold.
        """
        self.number += len(jobs)
        self.open += len(jobs)
        self.open_bytes += size
        self.counters.jobs_accepted += len(jobs)
        if self.keeps_records:
            self._accepted.extend(jobs)
            for job in jobs:  # an id that a worker hears must be the same after a restart
                self.requests.id_of(job, now)
                self._records.append(records.accepted(self, job))
        else:
            default, append, stirred = self.queue, self.queue.fresh.append, self.stirred
            for job in jobs:
                queue = job.queue
                if queue is default:  # which is always looked at
                    append(job)
                else:
                    queue.fresh.append(job)
                    stirred[queue] = None
        if self.trace:
            for job in jobs:
                self._notice_accepted(job)

    def ask(self, batch: list[Ask], now: int) -> None:  # noqa: ARG002 - every door takes the time
        """Workers of 2010 ask, one job a message."""
        arrived, refused = self.roster.ask(batch)
        for worker in arrived:
            self.arrived(worker)
        if refused:
            self.asks_refused(refused, "too_many_asks")

    def arrived(self, worker: Worker) -> None:
        """A worker is new."""
        self.counters.workers_arrived += 1
        peer = worker.peer
        traced = peer.descriptor != NO_DESCRIPTOR
        queues = [place.queue.name for place in worker.places]
        fields = {"worker": worker.name, "socket_type": peer.socket_type or "unknown", "traced": traced}
        self.notices.append((Event.WORKER_ARRIVED, {**fields, "queues": queues}))

    def asks_refused(self, count: int, reason: str) -> None:
        """The shell or the roster could not take so many asks."""
        self.counters.asks_refused += count
        self.notices.append((Event.ASK_REFUSED, {"reason": reason, "count": count}))

    def complete(self, batch: list[Answer], now: int) -> None:
        """Workers of 2010 have done these jobs."""
        by_token = self.by_token
        done: list[Job] = []
        for token, answer in batch:
            job = by_token.get(token)
            if job is None:
                continue
            if job.state != RUNNING or job.token != token:
                if not self.takes_late(job, token):
                    continue
                self.answered_late(job, token, now)
            else:
                del by_token[token]
                holder, timer = job.holder, job.timer
                if holder is not None:
                    if type(holder) is Session:
                        del holder.jobs[job]
                    else:
                        holder.jobs.discard(job)
                if timer is not None:
                    del timer.running[job.number]
                    job.timer = None
            if job.tokens:
                self.forget_tokens(job)
            job.answer = answer
            done.append(job)
        if len(done) != len(batch):
            self.answers_refused(len(batch) - len(done))
        self.complete_all(done, now)

    def takes_late(self, job: Job, token: bytes) -> bool:
        """Whether a token that is not that of a running attempt may complete the job."""
        return job.terms.late_any or (job.token == token and job.state in (HELD, RUNNING))

    def answered_late(self, job: Job, token: bytes, now: int) -> None:
        """Such a token completes the job. That of a hand-over whose start nobody has said is its start, as any report
        on it.
        """
        if job.token == token and job.state in (HELD, RUNNING):
            self.leave(job, "")
            if job.state == HELD:
                happened.started([job], now)
        else:
            self.leave(job, "answered")
            self.counters.answers_late += 1

    def complete_all(self, done: list[Job], now: int, at_once: list[Job] | None = None) -> None:
        """These have their answers, and stand in no table of open jobs any more; those `at_once` had been held."""
        happened.answered(done, now)
        if at_once:
            happened.answered_unheld(at_once, now)
            done = done + at_once if done else at_once
        if self.trace:
            for job in done:
                self._notice_finished(job)
        size = 0
        natively: list[Job] = []
        finished = self.finished
        for job in done:
            body = job.body
            size += len(body) + len(job.path) if type(body) is bytes and job.headers is None else held(job)
            job.body = b""
            (finished if job.request is None else natively).append(job)
        self.open -= len(done)
        self.open_bytes -= size
        self.counters.jobs_completed += len(done)
        if natively:
            self.requests.ended(natively)
        if self.keeps_records:
            for job in done:
                self._record_finished(job)

    def answers_refused(self, count: int) -> None:
        """So many answers named no open job."""
        self.counters.answers_refused += count
        self.notices.append((Event.ANSWER_REFUSED, {"count": count}))

    def lost(self, peer: Peer, now: int) -> None:
        """A connection of a worker has gone. Its asks are void now, its leases after the grace."""
        workers, sessions = self.roster.lost(peer)
        for worker in workers:
            self.notice_lost(worker)
            if worker.jobs:
                self.let_again_at(now + self.limits.worker_grace_ns, worker)
        for session in sessions:
            self.reports.went_away(session, now)

    def notice_lost(self, worker: Worker) -> None:
        """A worker is lost; its jobs will be let again."""
        self.counters.workers_lost += 1
        self.notices.append((Event.WORKER_LOST, {"worker": worker.name, "jobs_held": len(worker.jobs)}))

    def let_again_at(self, moment: int, worker: Worker) -> None:
        """What this lost worker still holds then is let again."""
        self._losses += 1
        heapq.heappush(self._lost, (moment, self._losses, worker))

    # --- The doors: what the shell found out

    def undelivered(self, jobs: Iterable[Job], now: int) -> None:
        """These hand-overs of the last `match` provably never left; their workers cannot be reached until they ask
        again.
        """
        for job in reversed(list(jobs)):
            holder = job.holder
            if job.state not in (HELD, RUNNING) or holder is None:
                continue
            if type(holder) is Session:
                holder.never_got(job)
            self.roster.void(holder)
            self.counters.handovers_undelivered += 1
            self.give_back(job, now)
            if self.trace and job.state == AVAILABLE:
                self.notices.append((Event.JOB_UNDELIVERED, {"job": job.number, "handovers": job.handovers}))

    def untold(self, jobs: Iterable[Job]) -> None:
        """The outcomes of these finished jobs of 2010 reached nobody, because their clients are gone: they are kept."""
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
        if job.state == COMPLETED and job not in self.kept:  # the others are kept already, or were never begun
            self._keep(job)
            if self.keeps_records:
                self._record_finished(job)

    def expire(self, now: int) -> None:
        """Ends the leases whose time is up and those of lost workers whose grace is over, some at a time."""
        budget = self.limits.turn_steps_max
        while self._lost and self._lost[0][0] <= now and budget > 0:
            worker = self._lost[0][2]
            if not self._of_lost:
                if not worker.lost and not self.reports.is_over(worker, now):
                    heapq.heappop(self._lost)
                    continue
                self._of_lost = sorted(worker.jobs, key=_number_of, reverse=True)
            while self._of_lost and budget > 0:
                job = self._of_lost.pop()
                if job.holder is worker:  # else it has ended meanwhile
                    budget -= 1
                    self.let_again(job, Cause.WORKER_LOST, now)
            if not self._of_lost:
                heapq.heappop(self._lost)
        for lane in (self._lane, self._reclaim, self._unclaimed):
            if lane is not None and now >= lane.due and budget > 0:
                cause = Cause.WORKER_LOST if lane is self._unclaimed else Cause.EXPIRED
                for job in lane.take_expired(now, budget):
                    budget -= 1
                    self.let_again(job, cause, now)
        if now >= self.deadlines.due and budget > 0:
            for job in self.deadlines.take_expired(now, budget):
                budget -= 1
                if job.state == DELAYED:
                    happened.due(job)
                    self._waits(job)
                else:
                    self.attempt_failed(job, Cause.EXPIRED if now >= job.ends_ns else Cause.SILENT, now)
        self.recalls.expire(now)
        self.reports.expire(now)
        self.requests.expire(now)

    def next_deadline(self) -> int | None:
        """When `expire` next has something to do; None when nothing is waited for. May be in the past."""
        due = min(
            self._reclaim.due,
            self._unclaimed.due,
            self.recalls.due,
            self.deadlines.due,
            self.reports.due(),
            self.requests.due(),
        )
        if self._lane is not None and self._lane.due < due:
            due = self._lane.due
        if self._lost and self._lost[0][0] < due:
            due = self._lost[0][0]
        return None if due == NEVER else due

    def match(self, now: int) -> None:
        """Hands waiting jobs to waiting asks: the oldest job of each queue to the worker whose turn it is."""
        self._match(self.queue, now)
        if self.stirred:
            stirred, self.stirred = self.stirred, {}
            for queue in stirred:
                self._match(queue, now)
        count = len(self.dispatched) + len(self.handed)
        if count:
            self.counters.dispatches += count

    def _match(self, queue: Queue, now: int) -> None:  # noqa: PLR0915 - the hot path: a call for each job would cost more
        line = queue.line
        if not line:
            return
        by_token, tokens = self.by_token, self.tokens
        jobs: list[Job] = []
        handed: list[Job] = []
        looks = len(line) > 1 and bool(self.roster.sessions)
        while line:
            worker = line[0].worker
            if not worker.credit:
                queue.drop_first()
                continue
            if looks and type(worker) is Session and len(worker.jobs) >= worker.capacity:
                looks = queue.puts_idle_first()  # who only asks ahead comes after who has nothing to do
                continue
            job = _choice(worker) if worker.chooses else queue.take()
            if job is None:
                break
            if type(worker) is Session:
                if job.token:
                    self._renew_token(job, native=True)
                else:
                    job.token = token = next(tokens)
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
                if not job.token:
                    job.token = token = next(tokens)
                    by_token[token] = job
                elif job.seq or not job.terms.late_any:
                    self._renew_token(job, native=False)
                jobs.append(job)
            job.holder = worker
            worker.credit -= 1
            if not worker.credit:
                line.popleft().in_line = False
            elif len(line) > 1:
                line.rotate(-1)
        self.roster.asks -= len(jobs) + len(handed)
        if jobs:
            happened.dispatched(jobs, now)
            self.begin_leases(jobs, now)
            self._sort_out(jobs)
        if handed:
            happened.handed_over(handed, now)
            self.recalls.handed_over(now)
            self.handed += handed
        if self.keeps_records:
            for job in (*jobs, *handed):
                self._record_attempt(job)
        if self.trace:
            for job in (*jobs, *handed):
                self._notice_dispatched(job)

    def _sort_out(self, jobs: list[Job]) -> None:
        """Jobs whose attempts begin with the dispatch: to workers of 2010, or to sessions that do not say starts."""
        if not self.roster.sessions:
            self.dispatched += jobs
            return
        for job in jobs:
            (self.handed if type(job.holder) is Session else self.dispatched).append(job)

    def _renew_token(self, job: Job, *, native: bool) -> None:
        """Another hand-over, another token; the earlier ones stay good for a late answer, where that is allowed.

        The exception are workers of 2010: all their attempts share one, by which a late answer is known.
        """
        old = job.token
        if old and not job.terms.late_any:
            del self.by_token[old]
        elif old:
            if not job.seq:
                job.shared = old
            if old not in job.tokens:
                job.tokens = (*job.tokens, old)
                if len(job.tokens) > TOKENS_MAX:
                    oldest = next(token for token in job.tokens if token != job.shared)
                    job.tokens = tuple(token for token in job.tokens if token != oldest)
                    del self.by_token[oldest]
        job.seq = 0
        if job.shared and not native:
            job.token = job.shared
        else:
            job.token = token = next(self.tokens)
            self.by_token[token] = job

    def forget_tokens(self, job: Job) -> None:
        """Nothing gives a right to this job any more."""
        pop = self.by_token.pop
        pop(job.token, None)
        for token in job.tokens:
            pop(token, None)

    def start(self, jobs: list[Job], now: int) -> None:
        """Their holders have started these, which were held: their attempts begin."""
        for job in jobs:
            self.stop_timer(job)
        happened.started(jobs, now)
        self.begin_leases(jobs, now)
        if self.keeps_records:
            for job in jobs:
                self._record_attempt(job)
        if self.trace:
            for job in jobs:
                self.notices.append((Event.JOB_STARTED, {"job": job.number, "attempt": job.attempts}))

    def heard_of(self, job: Job, now: int) -> None:
        """A running attempt was reported on: a limit on its silence begins again."""
        if job.terms.silence_ns is not None and job.timer is self.deadlines:
            self.deadline(job, now)

    def begin_leases(self, jobs: list[Job], now: int) -> None:
        """The attempts of these begin now, and with them their limits."""
        lane = self._lane
        if self.requests.open:
            own = [job for job in jobs if job.terms is not self.terms]
            for job in own:
                terms = job.terms
                job.ends_ns = NEVER if terms.run_ns is None else now + terms.run_ns
                self.deadline(job, now)
            if own:
                jobs = [job for job in jobs if job.terms is self.terms]
        if lane is not None:
            lane.begin(jobs, now)

    def deadline(self, job: Job, now: int) -> None:
        """Something was heard of a running attempt that has limits of its own: the end of its silence moves."""
        silence_ns = job.terms.silence_ns
        due = job.ends_ns if silence_ns is None else min(job.ends_ns, now + silence_ns)
        if due != NEVER:
            self.deadlines.begin(job, due)

    def extend(self, job: Job, ends_ns: int, now: int) -> None:
        """The run limit of a running attempt ends then, if that is later than it would."""
        if job.timer is self._lane and self._lane is not None:
            del self._lane.running[job.number]
            job.timer = None
            job.ends_ns = job.began_ns + self._lane.lease_ns
        elif job.timer is None:  # it has no limit at all
            return
        job.ends_ns = max(job.ends_ns, ends_ns)
        job.extended = job.attempts
        self.deadline(job, now)
        if self.keeps_records:
            self._record_attempt(job)

    def claim(self, job: Job, session: Session, now: int) -> None:
        """A session is back with a job that it had in another life of the broker, or of itself."""
        if job.state == AVAILABLE:
            job.queue.left(job)
            happened.claimed(job)
            if job.ledger and job.ledger[-1].attempt == job.attempts:
                job.ledger = job.ledger[:-1]
        else:
            self.stop_timer(job)
        # Its lease began before others that stand in the lane already.
        ends_ns = NEVER if job.terms.run_ns is None else job.began_ns + job.terms.run_ns
        job.ends_ns = max(ends_ns, job.ends_ns) if job.extended == job.attempts else ends_ns
        self.deadline(job, now)
        job.holder = session
        session.take(job)
        if self.keeps_records:
            self._record_attempt(job)

    def stop(self, now: int, jobs_max: int) -> int:
        """Ends up to `jobs_max` open jobs, because the broker ends; returns how many are left."""
        for job in list(islice(self.by_token.values(), jobs_max)):
            if job.state not in FINAL:  # else it had several tokens
                self.leave(job, "")
                self._stopped(job, now)
                jobs_max -= 1
        for queue in self.queues:
            while jobs_max > 0 and (waiting := queue.take()) is not None:
                self.forget_tokens(waiting)  # it may have come back
                self._stopped(waiting, now)
                jobs_max -= 1
        for jobs in (self._accepted, *(jobs for _, jobs in self._unsafe)):
            while jobs and jobs_max > 0:
                job = jobs.pop()
                if job.state not in FINAL:
                    self._stopped(job, now)
                    jobs_max -= 1
        return self.open

    def _stopped(self, job: Job, now: int) -> None:
        happened.stopped(job, now)
        self.counters.jobs_cancelled += 1
        self._ended_badly(job)

    def desert(self, job: Job, now: int) -> bool:
        """Nobody waits for this open job any more, and it shall end then. False: not yet, its acceptance is not
        safe.
        """
        if self.keeps_records and job.number > self._number_safe:
            return False
        self.leave(job, "asker_gone")
        happened.deserted(job, now)
        self.counters.jobs_cancelled += 1
        self._ended_badly(job)
        return True

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
        taken, self._records = self._records, []
        return taken

    def settled(self, turn: int) -> None:
        """All turns up to `turn` are safe: what they accepted may be dispatched."""
        while self._unsafe and self._unsafe[0][0] <= turn:
            _, jobs = self._unsafe.popleft()
            for job in jobs:
                job.queue.fresh.append(job)
                self.stirred[job.queue] = None
                self._number_safe = job.number

    def load(self, kept: Iterable[Record], now: int) -> None:
        """Builds an empty machine from records. Jobs come without askers; the leases of running ones begin again."""
        jobs, final = records.rebuilt(self, kept, now)
        for job in jobs:
            self._loaded(job, now)
        final.sort(key=_end_of)  # the oldest go first
        excess: list[Job] = []  # the bounds may be smaller than they were
        for job, is_kept, _ in final:
            if is_kept:
                excess += self.kept.keep(job)
            else:
                job.body = b""
        self.requests.restore_outcomes([job for job, _, is_owed in final if is_owed])
        for job in excess:
            self.forgotten(job)
        numbers = [job.number for job in jobs] + [job.number for job, _, _ in final]
        self.number = self._number_safe = max(numbers, default=0)

    def _loaded(self, job: Job, now: int) -> None:
        self.open += 1
        self.open_bytes += held(job)
        if job.request is not None:
            self.requests.restore(job)
        for token in (job.token, *job.tokens):
            if token:
                self.by_token[token] = job
        if job.state in (HELD, RUNNING):
            if job.seq:
                self._unclaimed.begin((job,), now)
            elif job.terms.run_ns is not None:
                self.begin_leases([job], now)
            else:
                self._reclaim.begin((job,), now)
        elif job.state == DELAYED:
            self.deadlines.begin(job, job.due_ns)
        elif job.token:
            job.queue.came_back(job)
            self.stirred[job.queue] = None
        else:
            job.queue.fresh.append(job)
            self.stirred[job.queue] = None

    def room(self) -> tuple[int, int]:
        """(jobs, bytes) that may still be taken in, the reserve included; 0 or less: read no clients."""
        limits = self.limits
        return (
            limits.jobs_max + limits.jobs_max // 10 - self.open,
            limits.jobs_bytes_max + limits.jobs_bytes_max // 10 - self.open_bytes,
        )

    def jobs(self) -> Iterator[Job]:
        """Every open job, in no order that matters. For inspection: it costs a walk over all of them."""
        yield from {job.number: job for job in self.by_token.values()}.values()
        for queue in self.queues:
            yield from (job for job in queue.fresh if job.state not in FINAL)
        yield from self._accepted
        for _, jobs in self._unsafe:
            yield from jobs

    # --- What doors have in common

    def leave(self, job: Job, why: str) -> None:
        """The job is about to end: it stands in no table of open jobs any more, and a holder is told why."""
        if job.state == AVAILABLE:
            job.queue.left(job)
        else:
            holder = job.holder
            self._end_lease(job)
            if why and holder is not None and holder.recalls:
                self.reports.cancel(holder, job.token, why)
        self.forget_tokens(job)

    def _end_lease(self, job: Job) -> None:
        """A held or running job has no lease any more, a delayed one waits for no moment."""
        if job.holder is not None:
            job.holder.drop(job)
        self.stop_timer(job)

    def stop_timer(self, job: Job) -> None:
        """No deadline stands for this job."""
        timer = job.timer
        if timer is not None:
            timer.running.pop(job.number, None)
            if timer is self.recalls.lane:
                job.queue.recalls -= 1
            job.timer = None

    def _waits(self, job: Job) -> None:
        """The job is available again."""
        job.queue.came_back(job)
        self.stirred[job.queue] = None
        if self.keeps_records:
            self._record_attempt(job)

    def let_again(self, job: Job, cause: Cause, now: int) -> None:
        """Its worker is lost, or its time is up: what was not started costs no attempt."""
        if job.state == HELD:
            self.counters.handovers_returned += 1
            self.give_back(job, now)
        else:
            self.attempt_failed(job, cause, now)

    def give_back(self, job: Job, now: int, *, by_worker: bool = False) -> None:
        """A hand-over came to nothing and costs no attempt: the job waits again, or its budget of those is spent.

        One that its worker has handed back, and was not asked for, does not go out again at once: nobody else may be
        asking, and it would go to and fro. Nor may one that it had not started be spent by that.
        """
        pauses = by_worker and job.timer is not self.recalls.lane
        if pauses:
            counts = job.state == RUNNING or self.may_be_spent(job)
            self._end_lease(job)
            happened.handed_back(job, counts=counts)
        else:
            self._end_lease(job)
            happened.given_back(job)
        if job.handovers >= self.handovers_max:
            self._discard(job, Reason.HANDOVERS_SPENT, now)
        elif pauses:
            doubled = min(max(job.handovers - 1, 0), 30)
            self.deadlines.begin(job, now + min(HAND_BACK_NS << doubled, HAND_BACK_NS_MAX))
            if self.keeps_records:
                self._record_attempt(job)
        else:
            self._waits(job)

    def may_be_spent(self, job: Job) -> bool:
        """Whether one more hand-over of this job may come to nothing by the choice of the broker or of a worker: half
        of its budget is left for what is nobody's choice.
        """
        return 2 * (job.handovers + 1) <= self.handovers_max

    def attempt_failed(
        self,
        job: Job,
        cause: Cause,
        now: int,
        *,
        kind: str = "",
        text: str = "",
        retry_ns: int | None = None,
        final: bool = False,
    ) -> None:
        """An attempt came to nothing: another one, at once or later, or the end."""
        holder = job.holder
        self._end_lease(job)
        if cause in (Cause.EXPIRED, Cause.SILENT):
            self.counters.attempts_expired += 1
            if holder is not None and holder.recalls:
                self.reports.cancel(holder, job.token, cause.value)
        elif cause is Cause.FAILED:
            self.counters.attempts_failed += 1
        else:
            self.counters.attempts_lost += 1
        name = holder.name if holder is not None else ""
        began_ms, ended_ms = self.wall_ms(job.began_ns), self.wall_ms(now)
        entry = AttemptEnded(job.attempts, cause.value, began_ms, ended_ms, name, kind, text)
        job.ledger = self._bounded((*job.ledger, entry))
        job.kind, job.text = kind, text
        if self.trace:
            fields = {"job": job.number, "attempt": job.attempts, "cause": cause.value, "error": kind}
            self.notices.append((Event.ATTEMPT_ENDED, fields))
        if final:
            happened.failed_for_good(job, now)
            self._discarded(job)
        elif self.tries is not None and job.attempts >= self.tries:
            self._discard(job, Reason.TRIES_SPENT, now)
        elif retry_ns:
            happened.postponed(job)
            self.deadlines.begin(job, now + retry_ns)
            if self.keeps_records:
                self._record_attempt(job)
        else:
            happened.attempt_ended(job)
            self._waits(job)

    def _bounded(self, ledger: tuple[AttemptEnded, ...]) -> tuple[AttemptEnded, ...]:
        """The last entries, as many as the bounds of number and bytes allow."""
        limits = self.limits
        ledger = ledger[-limits.ledger_entries_max :]
        while len(ledger) > 1 and ledger_bytes(ledger) > limits.ledger_bytes_max:
            ledger = ledger[1:]
        return ledger

    def _discard(self, job: Job, reason: Reason, now: int) -> None:
        happened.budget_spent(job, reason, now)
        self._discarded(job)

    def _discarded(self, job: Job) -> None:
        self.forget_tokens(job)
        self.counters.jobs_discarded += 1
        causes = [entry.cause for entry in job.ledger[-10:]]
        fields = {
            "job": job.number,
            **_request_of(job),
            "reason": job.reason,
            "attempts": job.attempts,
            "causes": causes,
        }
        self.notices.append((Event.JOB_DISCARDED, fields))
        self._ended_badly(job)

    def _ended_badly(self, job: Job) -> None:
        """DISCARDED or CANCELLED: the client is to be told, and a discarded job is kept."""
        self.open -= 1
        self.open_bytes -= held(job)
        if job.request is None:
            self.finished.append(job)
        else:
            self.requests.ended([job])
        if self.trace:
            self._notice_finished(job)
        if job.state == DISCARDED:
            self._keep(job)
        else:
            job.body = b""
        if self.keeps_records:
            self._record_finished(job)

    def _keep(self, job: Job) -> None:
        for forgotten in self.kept.keep(job):
            self.forgotten(forgotten)

    def evicted(self, job: Job) -> None:
        """A bound made us forget the outcome of this job, and of no younger one, before it was received."""
        if self.keeps_records:
            self._records.append(Evicted(self.wall_ms(job.accepted_ns)))

    def forgotten(self, job: Job) -> None:
        """A final job is not kept here or there any more; nothing is, or something."""
        kept, owed = job in self.kept, job in self.requests.outcomes
        if not kept:
            job.body = b""  # it may still wait to be told, and then needs its answer only
        if self.keeps_records:
            self._records.append(Forgotten(job.number, kept, owed))

    # --- Records and notices

    def _record_attempt(self, job: Job) -> None:
        self._records.append(records.attempt(self, job))

    def _record_finished(self, job: Job) -> None:
        self._records.append(records.finished(self, job))

    def _notice_accepted(self, job: Job) -> None:
        fields = {
            "job": job.number,
            **_request_of(job),
            "queue": job.queue.name,
            "bytes": body_bytes(job.body),
        }
        self.notices.append((Event.JOB_ACCEPTED, fields))

    def _notice_dispatched(self, job: Job) -> None:
        worker = job.holder.name if job.holder is not None else ""
        attempt = job.attempts + (job.state == HELD)
        self.notices.append((Event.JOB_DISPATCHED, {"job": job.number, "attempt": attempt, "worker": worker}))

    def _notice_finished(self, job: Job) -> None:
        began = job.began_ns or job.ended_ns
        fields = {
            "job": job.number,
            **_request_of(job),
            "outcome": State(job.state).name.lower(),
            "reason": job.reason,
            "attempts": job.attempts,
            "wait_s": (began - job.accepted_ns) / 1e9,
            "run_s": (job.ended_ns - began) / 1e9,
            "bytes": body_bytes(job.body),
        }
        self.notices.append((Event.JOB_FINISHED, fields))


def _request_of(job: Job) -> dict[str, str]:
    """For notices: by what a native client knows the job; nothing in the dialect of 2010, which has no word for it."""
    key = job.request
    return {} if key is None else {"request": (key if isinstance(key, bytes) else key[1]).hex()}


def held(job: Job) -> int:
    """What an open job holds in memory because of what it carries, bytes."""
    size = held_bytes(job.body, job.path)
    if job.headers is not None:
        size += headers_held(job.headers)
    return size


def _choice(worker: Worker) -> Job | None:
    """The oldest job of the queue that is the most important to this worker, of those where something waits."""
    for place in worker.places:
        job = place.queue.take()
        if job is not None:
            return job
    return None


def _end_of(final: tuple[Job, bool, bool]) -> int:
    return final[0].ended_ns


def _number_of(job: Job) -> int:
    return job.number
