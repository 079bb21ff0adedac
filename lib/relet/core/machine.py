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
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

import msgspec

from relet.core import job as happened
from relet.core import rebuilding, records, retry, timing
from relet.core.compiling import mypyc_attr
from relet.core.dead import DeadLetters
from relet.core.effects import Counters, Notice, Saying, Told
from relet.core.job import (
    AVAILABLE,
    BLOCKED,
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
)
from relet.core.journal import Journal
from relet.core.kept import Kept, ledger_bytes
from relet.core.lease import NEVER, Deadlines, Lane
from relet.core.limits import Limits
from relet.core.matching import Matching
from relet.core.orders import order_of, place_of
from relet.core.queue import Queue
from relet.core.queues import Queues
from relet.core.recalls import Recalls
from relet.core.reports import Reports
from relet.core.requests import DISK_FULL, QUEUE_FULL, Requests, closed
from relet.core.roster import Roster, Session, Worker
from relet.core.seals import Seals
from relet.core.settings import CAP_OPEN_NS, FROM_CONFIGURATION, QueueSettings, SettingsError
from relet.core.terms import Terms
from relet.core.unique import Held, Window
from relet.events import Event
from relet.messages import (
    NO_DESCRIPTOR,
    Answer,
    Ask,
    AttemptEnded,
    Body,
    Evicted,
    KeptBody,
    Peer,
    Record,
    Request,
    body_bytes,
    headers_held,
    held_bytes,
    kept_body,
)

RECLAIM_NS: Final = 30 * 10**9
"""How long a job that was running when the broker ended may still be answered, where jobs have no timeout."""
HAND_BACK_NS: Final = 10_000_000
HAND_BACK_NS_MAX: Final = 1_000_000_000
"""How long a job waits after its worker has handed it back unasked: the first, doubled each time up to the second."""
TOKENS_MAX: Final = 100
"""Earlier hand-overs of one job by which a late answer is known; the oldest go first."""


@mypyc_attr(allow_interpreted_subclasses=True)  # the simulation looks over its shoulder
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
        self.timeout_ns = timeout_ns
        self.terms = Terms(run_ns=timeout_ns, tries=tries)
        """What holds for a job that says nothing else."""
        self.trace = trace
        self.epoch = epoch
        self.began_ns = began_ns
        self.heard_ns = 0
        """All that this turn has read had come by then; never before `now` where something may be early otherwise."""
        self.wall_ns = 0
        """What has to be added to lease time for nanoseconds since 1970 (UTC); the shell sets it, every turn."""
        self.draining = False
        self.disk_full = False
        """The store has no room for new jobs."""
        """No new jobs."""
        self.counters = Counters()
        self.queues = Queues(queues_max=limits.queues_max)
        self.queue = self.queues.default
        """Where the jobs wait that name no queue."""
        self.roster = Roster(
            self.queue,
            asks_max=limits.asks_max,
            asks_per_worker_max=limits.asks_per_worker_max,
            jobs_per_worker_max=limits.jobs_per_worker_max,
            workers_max=limits.peers_max,
            paths_max=limits.paths_per_peer_max,
        )
        self.kept = Kept(jobs_max=limits.kept_jobs_max, bytes_max=limits.kept_bytes_max, age_ns_max=limits.kept_ns)
        self.open = 0
        """Jobs that are not final."""
        self.open_bytes = 0
        """Bytes of their bodies, headers and return paths (`held`)."""
        self.away_bytes = 0
        """Those of them that are not in memory: bodies that the store alone has."""
        self._following: deque[Job] = deque()
        """Blocked jobs that are the first of their order keys now, and are to go on."""
        self._lifted: list[Job] = []
        """Jobs with an order key that are kept no more: if they blocked it, it is free."""
        self.ordered = 0
        """Open jobs with an order key, of those that are in their queues."""
        self.elsewhere = 0
        """Open jobs in other queues than the default one."""
        self._terms_differ = False
        """Jobs of 2010 may be on other terms than `terms`, because their queue has, or had, settings."""

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
        self.seals: Seals | None = None
        """Where there is a store that outlives the process: its tokens, and what earlier brokers have handed over."""
        self.stirred: dict[Queue, None] = {}
        """Queues in which something may be matched."""
        self.deadlines = Deadlines()
        """Delays, moments by which jobs must have started or ended, and leases with an end of their own."""
        self._matching = Matching(self)
        self.reports = Reports(self)
        self.requests = Requests(self)
        self.dead = DeadLetters(self)
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
        self._unstopped: list[Queue] | None = None
        """While the broker ends: queues in which jobs may still wait."""
        self.number = 0
        """Of the job that was accepted last."""
        self.keeps_records = keeps_records
        self.journal = Journal(self)
        self._number_safe = 0
        """Jobs up to this number may be dispatched, as far as a store goes."""
        self._accepted: list[Job] = []
        """Accepted in this turn, where there is a store."""
        self.untaken_bytes = 0
        """Bytes of what was accepted since records were taken."""
        self._unsafe: deque[tuple[int, list[Job]]] = deque()
        """(turn, accepted jobs): not to be dispatched before that turn is safe."""
        self.apart_bytes_min = NEVER
        """Bodies from this size on a store keeps where they can be read one by one; the shell says it."""
        self._large: deque[tuple[int, list[Job]]] = deque()
        """(turn, accepted jobs with such bodies): to be let go from memory, if need be, once they are there."""
        self.borrowed: list[Job] = []
        """Effect: jobs that were made with the bodies of others, which are to be read (`fetched`) before records are
        taken."""

    def wall_ms(self, now: int) -> int:
        """Milliseconds since 1970 (UTC)."""
        return (now + self.wall_ns) // 1_000_000

    # --- The doors: what peers say

    def submit(self, batch: list[Request], now: int) -> None:
        """Clients of 2010 want these jobs done. The shell asks `room` before it reads them."""
        number, size = self.number, 0
        queue = self.queue
        terms = queue.terms or self.terms
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
            self.untaken_bytes += size
            self.requests.draw_ids(jobs, now)  # an id that a worker hears must be the same after a restart
            self.journal.accepted(jobs)
        elif terms.priority or timing.has_deadline(terms):
            for job in jobs:
                self._goes_live(job)
        else:
            queue.fresh.extend(jobs)
        if self.trace:
            for job in jobs:
                self._notice_accepted(job)

    def accept(self, jobs: list[Job], size: int, now: int, *, plain: bool = True, waits: bool = False) -> None:
        """Native clients want these jobs done; `requests` has made them, with the next numbers. `size`: what they
        hold; `plain`: whether they all are; `waits`: whether one of them waits for more than its turn.
        """
        self.number += len(jobs)
        self.open += len(jobs)
        self.open_bytes += size
        self.counters.jobs_accepted += len(jobs)
        default = self.queue
        if self.keeps_records:
            self._accepted.extend(jobs)
            self.untaken_bytes += size
            self.requests.draw_ids(jobs, now)  # an id that a worker hears must be the same after a restart
            for job in jobs:
                if job.queue is not default:
                    self._entered(job.queue)
            self.journal.accepted(jobs)
        elif waits:
            for job in jobs:
                if job.queue is not default:
                    self._entered(job.queue)
                self._goes_live(job)
        elif not plain:
            stirred, count = self.stirred, 0
            for job in jobs:
                queue = job.queue
                if queue is not default:
                    queue.open += 1
                    count += 1
                queue.append(job)
                stirred[queue] = None
            self.elsewhere += count
        else:
            append, stirred = default.fresh.append, self.stirred
            for job in jobs:
                queue = job.queue
                if queue is default:  # which is always looked at
                    append(job)
                else:
                    self._entered(queue)
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
            if job is None and (job := self.recollected(token)) is None:
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

    def recollected(self, token: bytes) -> Job | None:
        """The open job of a token that stands nowhere, because a crash has made the broker before forget that
        hand-over. It is answered: until that has ended it, the token stands where all do.
        """
        if self.seals is None or (job := self.seals.job_of(token)) is None:
            return None
        self.seals.ended((job,))
        if job.token and job.token not in self.by_token:  # another answer of this batch has done that already
            return None
        job.tokens = (*job.tokens, token)
        self.by_token[token] = job
        return job

    def resumed(self, token: bytes, now: int) -> Job | None:
        """The same where the hand-over was to a session, which says that it has started the job and goes on with it.
        Where the job waits, and for no other of its order key, it is with that session as before, and is to be claimed.
        """
        job = None if self.seals is None else self.seals.job_of(token)
        if job is None or job.state not in (AVAILABLE, DELAYED) or order_of(job):
            return None
        if job.state == AVAILABLE:
            job.queue.left(job)
        else:
            happened.due(job)
        self.stop_timer(job)
        self.renew_token(job, native=True, token=token)
        job.seq = 1
        happened.handed_over([job], now)
        return job

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
        finished, default, elsewhere = self.finished, self.queue, 0
        for job in done:
            body, queue = job.body, job.queue
            if type(body) is bytes and job.headers is None:
                size += len(body) + len(job.path)
            else:
                size += held(job)
                if type(body) is KeptBody:
                    self._is_away(job, -1)
            job.body = b""
            (finished if job.request is None else natively).append(job)
            if queue is not default:
                queue.open -= 1
                elsewhere += 1
        self.open -= len(done)
        self.open_bytes -= size
        self.elsewhere -= elsewhere
        if self.queues.count:
            for job in done:
                if job.flow is not None:
                    self._is_back(job)
        if self.ordered:
            self._orders_go_on(done)
        if self.seals is not None:
            self.seals.ended(done)
        self.counters.jobs_completed += len(done)
        if natively:
            self.requests.ended(natively)
        if self.keeps_records:
            self.journal.ended(done)

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

    def body_lost(self, job: Job, unsent: Iterable[Job], now: int) -> None:
        """The body of this hand-over of the last `match` cannot be read, so it will not leave, and the job ends. Its
        worker has its ask back. `unsent`: hand-overs of that match that have not left either.
        """
        holder = job.holder
        if job.state not in (HELD, RUNNING) or holder is None:
            return
        if type(holder) is Session:
            holder.never_sent(job, unsent)
        self.roster.unspent(holder)
        self.stirred.update((place.queue, None) for place in holder.places)
        self._end_lease(job)
        happened.given_back(job)
        happened.body_lost(job, now)
        self._discarded(job)

    def borrows(self, job: Job) -> None:
        """A new job has the body of another, which is in the store alone, until it has one of its own."""
        self.borrowed.append(job)
        self._is_away(job)

    def fetched(self, job: Job, body: Body | None, now: int) -> None:
        """The body of this job, which was `borrowed`; None: it cannot be read, so the job ends."""
        if job.state in FINAL:
            return
        self._is_away(job, -1)
        if body is not None:
            job.body = body
            return
        self.open_bytes -= held_bytes(job.body, b"")
        job.body = b""
        self._never_enters(job)
        happened.body_lost(job, now)
        self._discarded(job)

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
            gone = self._keep(job)
            if self.keeps_records:
                self.journal.ended([job])
            for it in gone:
                self.forgotten(it)

    def expire(self, now: int) -> None:
        """Ends the leases whose time is up and those of lost workers whose grace is over, some at a time."""
        budget = self.limits.turn_steps_max
        self._matching.expire(now)
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
                if job.state not in FINAL:  # else it was behind one of these that ended, and came too late itself
                    self._came_up(job, now)
        self.recalls.expire(now)
        self.reports.expire(now)
        self.requests.expire(now)
        self.dead.expire(now)
        if self._following or self._lifted:
            self._go_on(now)

    def _came_up(self, job: Job, now: int) -> None:
        """The moment has come at which something was to be decided of this job: a delay is over, or a deadline, or a
        limit of its attempt, or a worker that had it before the broker began has not claimed it.
        """
        if job.state in (DELAYED, AVAILABLE, BLOCKED):
            if now >= timing.waits_until(job):
                self.missed(job, now)
            elif job.state == DELAYED:
                happened.due(job)
                self._waits(job, now)
        elif now >= timing.out_until(job):
            if job.state == HELD:
                self.missed(job, now)
            else:
                self.attempt_failed(job, Cause.DEADLINE, now)
        elif job.holder is None and job.seq:
            self.let_again(job, Cause.WORKER_LOST, now)
        elif job.state == HELD:  # it has not started in time, but was handed over
            self.watch_held(job)
        else:
            self.attempt_failed(job, Cause.EXPIRED if now >= job.ends_ns else Cause.SILENT, now)

    def watch_held(self, job: Job) -> None:
        """A held job has no timer; it may have a deadline."""
        until = timing.out_until(job)
        if until != NEVER:
            self.deadlines.begin(job, until)

    def missed(self, job: Job, now: int) -> None:
        """A job that waits or is held comes too late: a holder is told to drop it."""
        reason = timing.too_late(job)
        self.leave(job, "deadline")
        happened.deadline_passed(job, reason, now)
        self._discarded(job)

    def next_deadline(self) -> int | None:
        """When `expire` next has something to do; None when nothing is waited for. May be in the past."""
        due = min(
            self._reclaim.due,
            self._unclaimed.due,
            self.recalls.due,
            self.deadlines.due,
            self._matching.due,
            self.reports.due(),
            self.requests.due(),
            self.dead.due(),
        )
        if self._lane is not None and self._lane.due < due:
            due = self._lane.due
        if self._lost and self._lost[0][0] < due:
            due = self._lost[0][0]
        if self._following or self._lifted:
            due = -NEVER
        return None if due == NEVER else due

    def match(self, now: int) -> None:
        """Hands waiting jobs to waiting asks: the first job of each queue to the worker whose turn it is."""
        if self._following or self._lifted:
            self._go_on(now)
        self._matching.match(now)
        while self.stirred:  # by what ended meanwhile, because its time is up
            self._matching.match(now)
        count = len(self.dispatched) + len(self.handed)
        if count:
            self.counters.dispatches += count

    def renew_token(self, job: Job, *, native: bool, token: bytes = b"") -> None:
        """Another hand-over, another token; the earlier ones stay good for a late answer, where that is allowed.
        `token`: that of a hand-over of which we hear only now.

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
            token = token or (next(self.tokens) if self.seals is None else self.seals.token_of(job))
            job.token = token
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
            if job.timer is not None:
                self.stop_timer(job)
        happened.started(jobs, now)
        self.begin_leases(jobs, now)
        if self.keeps_records:
            self.journal.handed_over(jobs, now)
        if self.trace:
            for job in jobs:
                self.notices.append((Event.JOB_STARTED, {"job": job.number, "attempt": job.attempts}))

    def heard_of(self, job: Job, now: int) -> None:
        """A running attempt was reported on: a limit on its silence begins again."""
        if job.terms.silence_ns is not None and job.timer is self.deadlines:
            self.deadline(job, now)

    def begin_leases(self, jobs: list[Job], now: int) -> None:
        """The attempts of these begin now, and with them their limits."""
        lane, usual = self._lane, self.terms
        if self.requests.open or self._terms_differ:
            own = [job for job in jobs if job.terms is not usual]
            if own:
                jobs = [job for job in jobs if job.terms is usual]
            for job in own:
                terms = job.terms
                if terms.run_ns == usual.run_ns and terms.silence_ns is None and terms.total_ns is None:
                    if job.timer is not None:
                        self.stop_timer(job)
                    jobs.append(job)  # a lease like all others
                else:
                    job.ends_ns = NEVER if terms.run_ns is None else now + terms.run_ns
                    self.deadline(job, now)
        if lane is not None:
            lane.begin(jobs, now)

    def deadline(self, job: Job, now: int) -> None:
        """Something was heard of a running attempt that has limits of its own: the end of its silence moves."""
        terms = job.terms
        due = job.ends_ns if terms.silence_ns is None else min(job.ends_ns, now + terms.silence_ns)
        if terms.total_ns is not None:
            due = min(due, timing.ends_at(job))
        if due != NEVER:
            self.deadlines.begin(job, due)
        else:
            self.stop_timer(job)

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
            self.journal.changed(job)

    def claim(self, job: Job, session: Session, now: int) -> None:
        """A session is back with a job that it had in another life of the broker, or of itself."""
        self.stop_timer(job)
        if job.state in (AVAILABLE, DELAYED):
            if job.state == AVAILABLE:
                job.queue.left(job)
            happened.claimed(job)
            if job.ledger and job.ledger[-1].attempt == job.attempts:
                job.ledger = job.ledger[:-1]
                retry.count(job, Cause.WORKER_LOST, -1)
        # Its lease began before others that stand in the lane already.
        ends_ns = NEVER if job.terms.run_ns is None else job.began_ns + job.terms.run_ns
        job.ends_ns = max(ends_ns, job.ends_ns) if job.extended == job.attempts else ends_ns
        self.deadline(job, now)
        job.holder = session
        session.take(job)
        job.queue.went(job)
        if self.keeps_records:
            self.journal.changed(job)

    def stop(self, now: int, jobs_max: int) -> int:
        """Ends up to `jobs_max` open jobs, because the broker ends; returns how many are left."""
        jobs_max = self._stop_some(now, jobs_max)
        if jobs_max > 0 and self.open:  # what waited for another that has ended waits in its queue now
            self._unstopped = None
            self._stop_some(now, jobs_max)
        return self.open

    def _stop_some(self, now: int, jobs_max: int) -> int:
        """The same; returns how many more might have been ended. Queues that are empty are not looked at again."""
        for job in list(islice(self.by_token.values(), jobs_max)):
            if job.state not in FINAL:  # else it had several tokens
                self.leave(job, "")
                self._stopped(job, now)
                jobs_max -= 1
        if self._unstopped is None:
            self._unstopped = list(self.queues)[::-1]
        while self._unstopped and jobs_max > 0:
            queue = self._unstopped[-1]
            queue.paused = False
            queue.allow(None)
            while jobs_max > 0 and (waiting := queue.take(now)) is not None:
                self.forget_tokens(waiting)  # it may have come back
                self.stop_timer(waiting)
                self._stopped(waiting, now)
                jobs_max -= 1
            for blocked in list(islice(queue.orders.blocked(), max(0, jobs_max))):  # by dead letters
                self.leave(blocked, "")
                self._stopped(blocked, now)
                jobs_max -= 1
            if jobs_max > 0:
                self._unstopped.pop()
        for job in list(islice(self.deadlines.running.values(), max(0, jobs_max))):  # delayed ones that nobody has had
            self.leave(job, "")
            self._stopped(job, now)
            jobs_max -= 1
        for jobs in (self._accepted, *(jobs for _, jobs in self._unsafe)):
            while jobs and jobs_max > 0:
                job = jobs.pop()
                if job.state not in FINAL:
                    self._never_enters(job)
                    self._stopped(job, now)
                    jobs_max -= 1
        return jobs_max

    def _never_enters(self, job: Job) -> None:
        """It ends before its acceptance is safe: it stands in no queue yet, and the place that was kept for it in its
        order key is free.
        """
        if job.rules is not None and job.rules.place:
            self._lifted.append(job)

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

    def cancel(self, job: Job, reason: Reason, now: int) -> None:
        """This open job is wanted no more: it ends at once, wherever it stands, and a holder is told to stop."""
        if job.state != AVAILABLE or not self.keeps_records or job.number <= self._number_safe:
            self.leave(job, "cancelled")
        else:
            self._never_enters(job)
        happened.cancelled(job, reason, now)
        self.counters.jobs_cancelled += 1
        self._ended_badly(job)

    # --- The doors: what a store keeps

    def take_records(self, turn: int) -> list[Record]:
        """The records of this turn. Jobs accepted in it wait until `settled` says that `turn` is safe."""
        if self._accepted:
            large = self.apart_bytes_min
            if large != NEVER:
                jobs = [job for job in self._accepted if len(job.body) >= large or type(job.body) is tuple]
                if jobs:
                    self._large.append((turn, jobs))
            self._unsafe.append((turn, self._accepted))
            self._accepted, self.untaken_bytes = [], 0
        return self.journal.take()

    def promoted(self, turn: int) -> None:
        """Of all turns up to this one, the store has bodies that are not small where they can be read one by one: they
        are let go from memory where there are too many. The oldest stay: they are needed first.
        """
        large, bytes_min = self._large, self.apart_bytes_min
        room = self.limits.bodies_memory_bytes_max - (self.open_bytes - self.away_bytes)
        while large and large[0][0] <= turn:
            for job in large.popleft()[1]:
                body = job.body
                if room < 0 and job.state not in FINAL and type(body) is not KeptBody and body_bytes(body) >= bytes_min:
                    job.body = kept_body(job.number, body, job.size)
                    room += self._is_away(job)

    def _is_away(self, job: Job, times: int = 1) -> int:
        """The body of an open job is in the store alone; `times` -1: not any more. Returns its bytes."""
        size = held_bytes(job.body, b"")
        self.away_bytes += times * size
        return size

    def settled(self, turn: int) -> None:
        """All turns up to `turn` are safe: what they accepted may be dispatched."""
        while self._unsafe and self._unsafe[0][0] <= turn:
            _, jobs = self._unsafe.popleft()
            usual, default = self.terms, self.queue
            simple = not (usual.priority or timing.has_deadline(usual))
            for job in jobs:
                self._number_safe = job.number
                if job.state in FINAL:  # it was cancelled meanwhile
                    continue
                plain = simple and job.terms is usual and job.queue is default and job.rules is None
                if plain and job.state == AVAILABLE:
                    default.fresh.append(job)  # asked for each time: one between them may have moved what waits
                else:
                    self._goes_live(job)

    def load(self, kept: Iterable[Record], now: int, seal_key: bytes = b"") -> None:
        """Builds an empty machine from records. Jobs come without askers; the leases of running ones begin again.
        `seal_key`: that of the store, if it has one.
        """
        jobs, final = rebuilding.rebuilt(self, kept, now)
        if seal_key:
            self.seals = Seals(seal_key, jobs, self.tokens)
        for it in final:
            if it.kept and it.job.state == DISCARDED and not (it.job.terms.skips or it.redriven_to):
                self._name(it.job)
                it.job.queue.orders.block(it.job)
        for job in sorted(filter(order_of, jobs), key=_place_in_order):
            job.queue.orders.enter(job)
        self._load_all(jobs, now)
        final.sort(key=_end_of)  # the oldest go first
        excess: list[Job] = []  # the bounds may be smaller than they were
        for it in final:
            if it.kept:
                self._name(it.job)
                excess += self.kept.keep(it.job, it.redriven_to)
            else:
                it.job.body = b""
            if not it.owed:
                self.requests.uniques.guests.pop(it.job, None)
        self.requests.restore_outcomes([it.job for it in final if it.owed])
        for job in excess:
            self.forgotten(job)
        for job in jobs:
            if job.state == BLOCKED and job.queue.orders.is_first(job):
                self._follows(job)
        self._go_on(now)
        numbers = [*(it.job.number for it in final), jobs[-1].number if jobs else 0]
        self.number = self._number_safe = max(self.number, *numbers)  # as a store has said

    def _load_all(self, jobs: list[Job], now: int) -> None:
        """These jobs are open, by number. Where there are many, nobody has had nearly all of them yet, and they wait
        for nothing but their turn: for such, what `_loaded` does is done for many at once.
        """
        alike: list[Job] = []
        queue, terms, waits = self.queue, self.terms, False
        for job in jobs:
            if job.terms is not terms:
                terms = job.terms
                waits = terms.priority != 0 or timing.has_deadline(terms)
            if job.token or job.rules is not None or waits or job.state != AVAILABLE or job.queue is not queue:
                self._load_alike(queue, alike)
                alike.clear()
                queue = job.queue
                if job.token or job.rules is not None or waits or job.state != AVAILABLE:
                    self._loaded(job, now)
                    continue
            alike.append(job)
        self._load_alike(queue, alike)

    def _load_alike(self, queue: Queue, jobs: list[Job]) -> None:
        """Plain jobs of one queue, that nobody has had yet."""
        if not jobs:
            return
        usual, differ, size, away = self.terms, False, 0, 0
        for job in jobs:
            body = job.body
            if type(body) is KeptBody:
                away += body.size if body.frames == 1 else held_bytes(body, b"")
                if job.headers is not None:
                    size += headers_held(job.headers)
            else:
                size += len(body) if type(body) is bytes and job.headers is None else held(job)
            if job.terms is not usual:
                differ = True
        self._terms_differ |= differ
        self.open += len(jobs)
        self.open_bytes += size + away
        self.away_bytes += away
        if queue is not self.queue:
            queue.open += len(jobs)
            self.elsewhere += len(jobs)
        self.requests.restore_all([job for job in jobs if job.request is not None])
        queue.fresh.extend(jobs)
        self.stirred[queue] = None

    def _loaded(self, job: Job, now: int) -> None:
        self.open += 1
        if job.queue is not self.queue:
            self._entered(job.queue)
        self._terms_differ |= job.terms is not self.terms
        self.open_bytes += held(job)
        if type(job.body) is KeptBody:
            self._is_away(job)
        if job.request is not None:
            self.requests.restore(job)
        for token in (job.token, *job.tokens):
            if token:
                self.by_token[token] = job
        if job.state in (HELD, RUNNING):
            job.queue.went(job)
            if job.seq and timing.ends_at(job) != NEVER:
                self.deadlines.begin(job, min(now + self._unclaimed.lease_ns, timing.out_until(job)))
            elif job.seq:
                self._unclaimed.begin((job,), now)
            elif job.terms.run_ns is not None:
                self.begin_leases([job], now)
            elif timing.ends_at(job) != NEVER:
                job.ends_ns = now + RECLAIM_NS
                self.deadline(job, now)
            else:
                self._reclaim.begin((job,), now)
        else:
            self._goes_live(job)
            return
        if order_of(job):
            self.ordered += 1

    def _goes_live(self, job: Job) -> None:
        """A job that waits, for its turn, for others or for its moment, begins to; its acceptance is safe."""
        until = timing.waits_until(job)
        if order_of(job) and not self._is_first(job):
            if until != NEVER:
                self.deadlines.begin(job, until)
            return
        if job.state == DELAYED:
            self.deadlines.begin(job, min(job.due_ns, until))
            return
        if until != NEVER:
            self.deadlines.begin(job, until)
        if job.token:
            job.queue.came_back(job)
        else:
            job.queue.append(job)
        self.stirred[job.queue] = None

    # --- The doors: settings of queues

    def configure(self, queues: Mapping[str, QueueSettings], *, only_these: bool = False) -> None:
        """The broker begins with these settings; after `load`. What somebody has paused stays so. Raises
        `SettingsError`.
        """
        self.queues.only_these = only_these
        for name, settings in queues.items():
            queue = self.queues.get(name)
            if queue is None and len(self.queues) >= self.limits.queues_max:
                raise SettingsError(f"there are more queues than may be: {self.limits.queues_max} (--queues-max)")
            before = None if queue is None else queue.settings
            chosen = settings if before is None else settings.paused_like(before, but=FROM_CONFIGURATION)
            try:
                chosen = self._fitted(chosen)
            except SettingsError as wrong:
                raise SettingsError(f"queue {name!r}: {wrong}") from None
            if chosen != before:
                self.set_queue(name, chosen)

    def set_queue(self, name: str, settings: QueueSettings | None) -> Queue:
        """The queue of this name has these settings from now on; None: none of its own, and it is gone when nobody
        names it. Raises `SettingsError` where a bound of the broker is against it.
        """
        if settings is not None:
            settings = self._fitted(settings)
        queue = self.restore_queue(name, settings)
        if self.keeps_records:
            self.journal.other(records.queue_set(name, settings))
        return queue

    def _fitted(self, settings: QueueSettings) -> QueueSettings:
        """These settings, with the broker's limit where they leave it open. Raises `SettingsError` where a job could
        not ask for that itself.
        """
        limits, backoff = self.limits, settings.backoff
        if backoff is not None and backoff.cap_ns == CAP_OPEN_NS:
            backoff = msgspec.structs.replace(backoff, cap_ns=limits.retry_ns_max)
            settings = msgspec.structs.replace(settings, backoff=backoff)
        for word, ns, most, option in (
            ("run", settings.run_ns, limits.run_ns_max, "--run-max"),
            ("start", settings.start_ns, limits.ahead_ns_max, "--ahead-max"),
            ("deadline", settings.total_ns, limits.ahead_ns_max, "--ahead-max"),
            ("base of backoff", None if backoff is None else backoff.base_ns, limits.retry_ns_max, "--retry-max"),
            ("cap of backoff", None if backoff is None else backoff.cap_ns, limits.retry_ns_max, "--retry-max"),
        ):
            if ns is not None and ns > most:
                text = f"{word} is {ns / 1e9:.15g} s: this broker takes at most {most / 1e9:.15g} s ({option})"
                raise SettingsError(text)
        return settings

    def restore_queue(self, name: str, settings: QueueSettings | None) -> Queue:
        """The same for settings that come out of a store."""
        terms = None if settings is None else settings.terms(self.terms)
        queue = self.queues.named(name)
        counted = queue.counts
        self.queues.set(name, settings, None if terms is self.terms else terms)
        self._terms_differ |= self.queue.terms is not None
        self.stirred[queue] = None  # it may have been paused
        if queue.counts and not counted:
            for job in self.by_token.values():
                if job.queue is queue and job.state in (HELD, RUNNING):
                    queue.went(job)
        self.kept.bounds_changed(queue)
        return queue

    def open_in(self, queue: Queue) -> int:
        """Jobs of this queue that are not final."""
        return self.open - self.elsewhere if queue is self.queue else queue.open

    def is_safe(self, job: Job) -> bool:
        """Whether it may be dispatched, as far as a store goes."""
        return not self.keeps_records or job.number <= self._number_safe

    def unsafe_in(self, queue: Queue) -> int:
        """Jobs of this queue whose acceptance is not safe yet."""
        unsafe = (self._accepted, *(jobs for _, jobs in self._unsafe))
        return sum(job.queue is queue and job.state not in FINAL for jobs in unsafe for job in jobs)

    def told_of(self) -> list[Job]:
        """All jobs of which somebody may know the id: those that workers had, and those that came natively. Some of
        them twice.
        """
        return [*self.by_token.values(), *self.requests.all(), *self.kept]

    def room_2010(self) -> tuple[int, str]:
        """How many jobs of clients of 2010 the disk and the settings of their queue admit, and why no more; the shell
        asks before it submits them.
        """
        if self.disk_full:
            return 0, DISK_FULL
        settings = self.queue.settings
        if settings is None:
            refusal = self.queues.refusal(self.queue.name)
            return (NEVER, "") if refusal is None else (0, refusal[0])
        open_jobs = self.open_in(self.queue)
        refused = closed(self.queue.name, settings, open_jobs)
        if refused is not None:
            return 0, refused[0]
        return (NEVER if settings.jobs_max is None else settings.jobs_max - open_jobs), QUEUE_FULL

    def _entered(self, queue: Queue) -> None:
        """A job was accepted in a queue that is not the default one."""
        queue.open += 1
        self.elsewhere += 1

    def _left_queues(self, jobs: Iterable[Job]) -> None:
        """These have ended."""
        default, count = self.queue, 0
        for job in jobs:
            queue = job.queue
            if queue is not default:
                queue.open -= 1
                count += 1
        self.elsewhere -= count

    # --- Looking in

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
            yield from (job for job in queue if not job.token)
            yield from queue.orders.blocked()
        yield from (job for job in self.deadlines.running.values() if job.state == DELAYED and not job.token)
        for jobs in (self._accepted, *(jobs for _, jobs in self._unsafe)):
            yield from (job for job in jobs if job.state not in FINAL)

    # --- What doors have in common

    def leave(self, job: Job, why: str) -> None:
        """The job is about to end: it stands in no table of open jobs any more, and a holder is told why."""
        if job.state == AVAILABLE:
            job.queue.left(job)
        holder = job.holder
        self._end_lease(job)
        if why and holder is not None and holder.recalls:
            self.reports.cancel(holder, job.token, why)
        self.forget_tokens(job)

    def _end_lease(self, job: Job) -> None:
        """A held or running job has no lease any more, one that waits no moment to wait for."""
        if job.holder is not None:
            job.holder.drop(job)
        if job.flow is not None:
            self._is_back(job)
        self.stop_timer(job)

    def _is_back(self, job: Job) -> None:
        """A job is with no worker any more, and was counted as one that is: another may go."""
        job.queue.is_back(job)
        self.stirred[job.queue] = None

    def stop_timer(self, job: Job) -> None:
        """No deadline stands for this job."""
        timer = job.timer
        if timer is not None:
            timer.running.pop(job.number, None)
            if timer.recalled:
                job.queue.recalls -= 1
            job.timer = None

    def _waits(self, job: Job, now: int) -> None:
        """The job is available again, if it is not too late."""
        job.queue.came_back(job)
        until = timing.waits_until(job)
        if now >= until:
            self.missed(job, now)
            return
        if until != NEVER:
            self.deadlines.begin(job, until)
        self.stirred[job.queue] = None
        if self.keeps_records:
            self.journal.changed(job)

    def _is_first(self, job: Job) -> bool:
        """Whether no other job of its order key goes before this one, which begins to wait."""
        self.ordered += 1
        goes = job.queue.orders.enter(job)
        if job.state != BLOCKED:  # one that was before this broker began goes on when all are loaded
            if goes:
                return True
            happened.blocked(job)
            if self.keeps_records:
                self.journal.changed(job)
        job.ends_ns = job.due_ns  # its timer is for its deadline now
        return False

    def _orders_go_on(self, ended: Iterable[Job]) -> None:
        """These have ended: where one was the first of its order key, the next one is."""
        for job in ended:
            if order_of(job) and job in job.queue.orders:  # else its acceptance was not safe
                blocks = job.state == DISCARDED and not job.terms.skips and job in self.kept
                self.ordered -= 1
                self._follows(job.queue.orders.ended(job, blocks=blocks))

    def _follows(self, job: Job | None) -> None:
        """This job, if any, is the first of its order key now, and goes on soon: it may be too late, and the next one
        after it, and so on, which is too much for whoever ended the one before.
        """
        if job is not None:
            self._following.append(job)

    def _go_on(self, now: int) -> None:
        """Those that have become the first of their order keys, and those whose keys are lifted; some at a time."""
        lifted, self._lifted = self._lifted, []
        for letter in lifted:
            self._follows(letter.queue.orders.lift(letter))
        steps = self.limits.turn_steps_max
        while self._following and steps > 0:
            steps -= 1
            job = self._following.popleft()
            if job.state == BLOCKED:  # else it has ended meanwhile
                self._goes_on(job, now)

    def _goes_on(self, job: Job, now: int) -> None:
        """This job waits for no other any more."""
        due_ns, job.ends_ns = job.ends_ns, 0
        if due_ns > now:
            happened.postponed(job)
            self.deadlines.begin(job, min(due_ns, timing.waits_until(job)))
            if self.keeps_records:
                self.journal.changed(job, due_ns - now)
        else:
            happened.unblocked(job)
            self._waits(job, now)

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
        pauses = by_worker and not (job.timer is not None and job.timer.recalled)
        if pauses:
            counts = job.state == RUNNING or self.may_be_spent(job)
            self._end_lease(job)
            happened.handed_back(job, counts=counts)
        else:
            self._end_lease(job)
            happened.given_back(job)
        if job.handovers >= self._handovers_max(job):
            self._discard(job, Reason.HANDOVERS_SPENT, now)
        elif pauses:
            doubled = min(max(job.handovers - 1, 0), 30)
            self._waits_for(job, min(HAND_BACK_NS << doubled, HAND_BACK_NS_MAX), now)
        else:
            self._waits(job, now)

    def may_be_spent(self, job: Job) -> bool:
        """Whether one more hand-over of this job may come to nothing by the choice of the broker or of a worker: half
        of its budget is left for what is nobody's choice.
        """
        return 2 * (job.handovers + 1) <= self._handovers_max(job)

    def _handovers_max(self, job: Job) -> int:
        """Hand-overs of this job that may come to nothing."""
        return self.limits.handovers_of(job.terms.tries)

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
        if cause in (Cause.EXPIRED, Cause.SILENT, Cause.DEADLINE):
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
        retry.count(job, cause)
        if self.trace:
            fields = {"job": job.number, "attempt": job.attempts, "cause": cause.value, "error": kind}
            self.notices.append((Event.ATTEMPT_ENDED, fields))
        if final or (cause is Cause.FAILED and kind in job.terms.final_kinds):
            happened.failed_for_good(job, now)
            self._discarded(job)
        elif cause is Cause.DEADLINE:
            happened.deadline_passed(job, Reason.DEADLINE, now)
            self._discarded(job)
        elif (reason := retry.spent(job)) is not None:
            self._discard(job, reason, now)
        elif pause_ns := self._pause_ns(job, now) if retry_ns is None else retry_ns:
            happened.postponed(job)
            self._waits_for(job, pause_ns, now)
        else:
            happened.attempt_ended(job)
            self._waits(job, now)

    def _waits_for(self, job: Job, pause_ns: int, now: int) -> None:
        """The job is delayed for so long, if it is not too late then."""
        due = max(now, self.heard_ns) + pause_ns
        if due >= timing.waits_until(job):
            self.missed(job, now)
            return
        self.deadlines.begin(job, due)
        if self.keeps_records:
            self.journal.changed(job, pause_ns)

    def _pause_ns(self, job: Job, now: int) -> int:
        """How long its terms let the job wait before the next attempt."""
        backoff = job.terms.backoff
        return 0 if backoff is None else retry.pause_ns(backoff, self.requests.id_of(job, now), job.attempts)

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
        self._name(job)
        causes = [entry.cause for entry in job.ledger[-10:]]
        fields = {
            "job": job.number,
            "job_id": job.id.hex(),
            **_request_of(job),
            "queue": job.queue.name,
            "kind": job.kind,
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
        if type(job.body) is KeptBody:
            self._is_away(job, -1)
        self._left_queues((job,))
        if self.seals is not None:
            self.seals.ended((job,))
        gone: list[Job] = []
        if job.state == DISCARDED:
            gone = self._keep(job)
        if job.request is None:
            self.finished.append(job)
        else:
            self.requests.ended([job])
        if self.trace:
            self._notice_finished(job)
        if job.state != DISCARDED:
            job.body = b""
        if self.keeps_records:
            self.journal.ended([job])
        for it in gone:  # the job itself may be among them, and is written down as ended first
            self.forgotten(it)
        if self.ordered:
            self._orders_go_on((job,))

    def _name(self, job: Job) -> None:
        """A dead letter has an id, by which it is looked at; a job of 2010 may have come so far without one."""
        if job.state == DISCARDED:
            self.requests.id_of(job, job.ended_ns)

    def _keep(self, job: Job) -> list[Job]:
        """Returns those that are kept no more for it, of which `forgotten` is to be told."""
        self._name(job)
        return self.kept.keep(job)

    def redriven(self, job: Job) -> None:
        """Of this dead letter another job was made, as its letter says."""
        if self.keeps_records:
            self.journal.ended([job])

    def shared(self, job: Job) -> None:
        """Other requests have this job than before."""
        if self.keeps_records:
            self.journal.shared(job)

    def window_changed(self, held: Held, window: Window) -> None:
        """A unique key is taken for a while after the success of its job; or, where that is over, free."""
        if self.keeps_records:
            self.journal.other(records.key_window(self, held, window))

    def window_cut(self, held: Held, window: Window) -> None:
        """A unique key is free early, because more are taken than may be."""
        self.counters.windows_cut += 1
        self.window_changed(held, window._replace(until_ns=0))

    def evicted(self, asked_ns: int) -> None:
        """The outcome of a job that was asked for then, and of no younger one, was forgotten before it was received."""
        if self.keeps_records:
            self.journal.other(Evicted(self.wall_ms(asked_ns)))

    def forgotten(self, job: Job, *, purged: bool = False) -> None:
        """A final job is not kept here or there any more; nothing is, or something. `purged`: somebody said so."""
        if job not in self.kept:
            job.body = b""  # it may still wait to be told, and then needs its answer only
            if order_of(job):
                self._lifted.append(job)
                if not purged and job.state == DISCARDED and not job.terms.skips and job.queue.orders.knows(job):
                    fields = {"queue": job.queue.name, "order": order_of(job), "job": job.number}
                    self.notices.append((Event.ORDER_UNBLOCKED, {**fields, "job_id": job.id.hex()}))
        if self.keeps_records:
            self.journal.forgotten(job)

    # --- Notices

    def _notice_accepted(self, job: Job) -> None:
        fields = {
            "job": job.number,
            **_request_of(job),
            "queue": job.queue.name,
            "bytes": body_bytes(job.body),
        }
        if job.rules is not None and job.rules.redriven_from:
            fields["redriven_from"] = job.rules.redriven_from.hex()
        self.notices.append((Event.JOB_ACCEPTED, fields))

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
    """What an open job holds because of what it carries, bytes."""
    size = held_bytes(job.body, job.path)
    if job.headers is not None:
        size += headers_held(job.headers)
    return size


def _place_in_order(job: Job) -> tuple[bool, int]:
    """Of loaded jobs of one order key that which was with a worker is on its way, and else the one before all others;
    whether a record says so or not: one that was accepted last may have none.
    """
    return not job.token, place_of(job)


def _end_of(ended: rebuilding.Ended) -> int:
    return ended.job.ended_ns


def _number_of(job: Job) -> int:
    return job.number
