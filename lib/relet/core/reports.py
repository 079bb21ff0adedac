"""What native workers say: sessions, credit, starts, and reports on the jobs they hold.

A session is known by its incarnation, not by its connection: a worker that lost one comes back on another and claims
what it still holds. Two clocks run. Liveness is the session's: a session of which nothing was heard for
`liveness_ns` is lost, however long its jobs may run. The run limit is the job's, and the machine's affair.

Possession is proven at one place, `_open_job`: by the token of the hand-over, and nothing else. What fails there is
refused with a word that says why.

Whatever may be repeated is a number that only grows: the credit, the starts, the reports. So a message that comes twice
does nothing the second time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from relet._version import AGENT
from relet.core.job import AVAILABLE, DELAYED, HELD, RUNNING, Cause, Job
from relet.core.lease import NEVER
from relet.core.limits import STALE_WORTH_REBUILDING
from relet.core.roster import Session, Worker
from relet.events import Event
from relet.messages import (
    INCARNATION_BYTES,
    QUEUE_CHARACTERS_MAX,
    TOO_LARGE,
    WEIGHT_MAX,
    WRONG_ENDPOINT,
    Body,
    Cancel,
    Complete,
    Error,
    Extend,
    Fail,
    HandBack,
    Partial,
    Path,
    Peer,
    PlainCompleted,
    Progress,
    ReportRefused,
    TellPartial,
    TellProgress,
    Welcome,
    WorkerHello,
    headers_held,
)

if TYPE_CHECKING:
    from relet.core.machine import Machine

HEARTBEATS_PER_LIVENESS: Final = 4
"""How often a peer should be heard within its liveness, so that one lost message is no loss."""
FEATURES: Final = ("starts", "recalls")

_INFINITE: Final = float("inf")

TOKEN_BYTES_MAX: Final = 64
"""So much of a token that was never given is repeated to who sent it."""

NOT_OPEN: Final = "not_open"
SUPERSEDED: Final = "superseded"
CEILING: Final = "ceiling"
BAD_REPORT: Final = "bad_report"

_FOR_WORKERS: Final = (
    "this is the endpoint for workers, and a worker's hello has an incarnation: connect clients to the endpoint for"
    " clients (CLIENTS, the first one of broker.py)"
)
_WHY: Final = {
    NOT_OPEN: "no open job has this token: it has ended, or the token was never given",
    SUPERSEDED: "this attempt is over: the job waits for another one, or is with another worker",
}


class Reports:
    """The sessions of one machine, and what they say."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._limits = machine.limits
        self._checks: list[tuple[int, int, Session]] = []
        """A heap (moment, number, session): when it is looked at whether anything was heard of it."""
        self._arrivals = 0

    # --- The doors

    def session_on(self, peer: Peer, path: Path) -> Session | None:
        """Who has said hello there."""
        paths = self._machine.roster.sessions_on.get(peer)
        return None if paths is None else paths.get(path)

    def hello(self, peer: Peer, path: Path, said: WorkerHello, now: int) -> Welcome | Error:
        """A worker announces itself; what to answer."""
        machine, roster = self._machine, self._machine.roster
        if not said.incarnation:
            return Error(code=WRONG_ENDPOINT, text=_FOR_WORKERS, of="hello")
        wrong = self._wrong_with(said)
        if wrong:
            return Error(code="bad_header", text=wrong, of="hello")
        session = roster.sessions.get((peer.principal, said.incarnation))
        there = self.session_on(peer, path)
        if there is not None and there is not session:
            self._lose(there, now)
        if session is None:
            strange = machine.queues.strange(said.queues)
            refused = machine.queues.refusal(*dict.fromkeys(said.queues))
            if refused is not None:
                code, text = refused
                if strange is not None:
                    text = f"{text}: {machine.queues.offered()}"
                return Error(code=code, text=text, of="hello", queue=strange or "")
            queues = tuple(machine.queues.named(name) for name in dict.fromkeys(said.queues))
            session = Session(peer, path, queues, said.incarnation, said.features, now)
            session.agent = said.agent[:100]
            session.weights = said.weights
            if not roster.arrive(session):
                return Error(code="too_many_peers", text="there are as many workers as may be; come back later")
            machine.arrived(session)
            self._arrivals += 1
            self._check(session, now)
        else:
            roster.moved(session, peer, path)
            roster.void(session)
        session.capacity = max(1, said.capacity)
        session.heard_ns = now
        lost = self._reconcile(session, said, now)
        session.acked = session.safe
        limits = {
            **self._machine.requests.limits(),
            "credit": self._limits.asks_per_worker_max,
            "jobs": self._limits.jobs_per_worker_max,
            "run_ms": self._limits.run_ns_max // 1_000_000,
            "retry_ms": self._limits.retry_ns_max // 1_000_000,
        }
        return self.welcome(limits, FEATURES, handed=session.handed, received=session.safe, lost=lost)

    def _check(self, session: Session, now: int) -> None:
        """It is to be looked at when it may have been silent for too long; sessions that have ended need no look."""
        checks = self._checks
        heapq.heappush(checks, (now + self._limits.liveness_ns, self._arrivals, session))
        if len(checks) > 2 * len(self._machine.roster.sessions) + STALE_WORTH_REBUILDING:
            self._checks = sorted(it for it in checks if not it[2].lost)

    def welcome(
        self,
        limits: dict[str, int],
        features: tuple[str, ...],
        *,
        handed: int = 0,
        received: int = 0,
        lost: tuple[bytes, ...] = (),
    ) -> Welcome:
        """What a hello is answered with."""
        liveness_ms = max(1, self._limits.liveness_ns // 1_000_000)
        return Welcome(
            epoch=self._machine.epoch,
            heartbeat_ms=max(1, liveness_ms // HEARTBEATS_PER_LIVENESS),
            liveness_ms=liveness_ms,
            limits=limits,
            features=features,
            agent=AGENT,
            handed=handed,
            received=received,
            lost=lost,
        )

    def _wrong_with(self, said: WorkerHello) -> str:
        queues_max = self._limits.queues_per_worker_max
        if len(said.incarnation) != INCARNATION_BYTES:
            return f"incarnation has {len(said.incarnation)} bytes: it must be {INCARNATION_BYTES} random ones"
        if not 1 <= len(said.queues) <= queues_max:
            return f"queues has {len(said.queues)} names: give 1 to {queues_max}"
        if not all(1 <= len(name) <= QUEUE_CHARACTERS_MAX for name in said.queues):
            return f"a queue's name has 1 to {QUEUE_CHARACTERS_MAX} characters"
        if said.weights and (len(said.weights) != len(said.queues) or len(set(said.queues)) != len(said.queues)):
            return f"weights has {len(said.weights)} for {len(said.queues)} queues: give one each, or leave them out"
        if not all(1 <= weight <= WEIGHT_MAX for weight in said.weights):
            return f"the weight of a queue is 1 to {WEIGHT_MAX}"
        return ""

    def _reconcile(self, session: Session, said: WorkerHello, now: int) -> tuple[bytes, ...]:
        """What the worker says it has, and what we think it has: returns the claims that give no right any more."""
        machine = self._machine
        running, unstarted = set(said.running), set(said.held)
        machine.recalls.forget(session)
        for job in sorted(session.jobs, key=_number_of):
            if job.token in running:
                if job.state == HELD:
                    machine.start([job], now)
            elif job.state != HELD or job.token not in unstarted:  # it never arrived, or the worker knows it no more
                machine.let_again(job, Cause.WORKER_LOST, now)
        lost: list[bytes] = []
        for token in (*said.running, *said.held):
            found = machine.by_token.get(token)
            if found is None and token in running:
                found = machine.resumed(token, now)
            unclaimed = found is not None and found.state == HELD and found.holder is None and found.token == token
            if found is not None and unclaimed and token not in running:
                machine.give_back(found, now)  # of an earlier life of the broker: it has not started, and will not
            mine = found is not None and found.holder is session and found.token == token
            if not mine and (found is None or not self._adopt(session, found, token, token in running, now)):
                lost.append(token)
        return tuple(lost)

    def _adopt(self, session: Session, job: Job, token: bytes, runs: bool, now: int) -> bool:
        """A started job that nobody else has had since is the worker's again, unless its attempt has ended otherwise
        than by the loss of the session.
        """
        mine = runs and job.token == token and job.seq > 0 and job.holder is None
        if not mine or job.state not in (DELAYED, AVAILABLE, HELD, RUNNING):
            return False
        if job.state in (DELAYED, AVAILABLE):
            last = job.ledger[-1] if job.ledger else None
            if last is None or (last.attempt, last.cause) != (job.attempts, Cause.WORKER_LOST):
                return False
        if job.state == HELD:
            self._machine.start([job], now)
        self._machine.claim(job, session, now)
        return True

    def heard(self, session: Session, credit: int, started: int, now: int) -> None:
        """The numbers that every message of a worker may carry, and that it was heard at all."""
        session.heard_ns = now
        if credit > session.granted:
            self._grant(session, credit)
        if started > session.started:
            self._started(session, started, now)

    def _grant(self, session: Session, credit: int) -> None:
        machine = self._machine
        whole = machine.roster.grant(session, credit)
        if session.service is None:
            machine.stirred[session.places[0].queue] = None
        else:
            service = session.service.service
            if service.stirred or service.passed:
                machine.stirred.update(dict.fromkeys(service.ready()))
        if whole:
            return
        asks_max, jobs_max = self._limits.asks_per_worker_max, self._limits.jobs_per_worker_max
        text, wanted = "", credit - session.handed
        if wanted > asks_max:
            text = f"a worker may ask for {asks_max} jobs at a time (--asks-per-worker-max)"
        elif wanted + len(session.jobs) > jobs_max:
            text = f"a worker may have {jobs_max} jobs (--jobs-per-worker-max), and has {len(session.jobs)}"
        if text:
            machine.said.append((session, Error(code="bad_credit", text=f"{text}; so much was granted"), ()))
            machine.asks_refused(1, "too_many_asks")

    def _started(self, session: Session, started: int, now: int) -> None:
        session.started = started = min(started, session.handed)
        jobs: list[Job] = []
        for job in session.jobs:
            if job.state == HELD:
                if job.seq > started:
                    break
                jobs.append(job)
        if jobs:
            self._machine.start(jobs, now)

    def completed(  # noqa: PLR0915 - the hot path: a call for each job would cost more than all of it
        self, batch: Iterable[PlainCompleted], now: int
    ) -> list[PlainCompleted]:
        """Sessions have done these jobs. Returns the messages of those who have said no hello."""
        machine = self._machine
        by_token = machine.by_token
        done: list[Job] = []
        at_once: list[Job] = []
        strange: list[PlainCompleted] = []
        heard: dict[Session, int] = {}
        for message in batch:
            peer, path, token, number, credit, started, body = message
            session: Session | None = self.session_on(peer, path) if path else peer.direct
            if session is None:
                strange.append(message)
                continue
            if credit > session.said_credit:  # noqa: PLR1730 - a call of `max` costs five times as much
                session.said_credit = credit
            if started > session.said_started:  # noqa: PLR1730 - likewise
                session.said_started = started
            if number <= session.reported:
                heard[session] = session.reported
                continue
            session.reported = heard[session] = number
            job = by_token.pop(token, None)
            if job is None and (job := machine.recollected(token)) is None:
                self.refuse(session, number, token, NOT_OPEN)
                continue
            holder = job.holder
            if job.token == token and holder is not None:
                if type(holder) is Session:
                    del holder.jobs[job]
                else:
                    holder.jobs.discard(job)
                timer = job.timer
                if timer is not None:
                    del timer.running[job.number]
                    job.timer = None
                    if timer.recalled:
                        job.queue.recalls -= 1
                if job.tokens:
                    machine.forget_tokens(job)
                job.answer = body
                (at_once if job.state == HELD else done).append(job)
                continue
            by_token[token] = job
            if not machine.takes_late(job, token):
                job.answer_headers = None  # they came with what is refused here
                self.refuse(session, number, token, SUPERSEDED)
                continue
            if job.state == HELD:  # what was said of starts before this answer was so: an attempt that began counts
                machine.complete_all(done, now, at_once)
                done, at_once = [], []
                for holder in heard:
                    if holder.said_started > holder.started:
                        self._started(holder, holder.said_started, now)
            machine.answered_late(job, token, now)
            job.answer = body
            done.append(job)
        if at_once or done:
            machine.complete_all(done, now, at_once)
        machine.acks.update(heard)
        for session in heard:
            credit, started = session.said_credit, session.said_started
            session.said_credit = session.said_started = 0
            session.heard_ns = now
            if credit > session.granted:
                self._grant(session, credit)
            if started > session.started:
                self._started(session, started, now)
        return strange

    def completed_with_headers(self, session: Session, said: Complete, body: Body, now: int) -> None:
        """A session has done a job, and gives headers with the result."""
        if said.n > session.reported:
            size = headers_held(said.headers)
            if size > self._limits.headers_bytes_max:
                text = f"the headers have {size} bytes: at most {self._limits.headers_bytes_max} (--headers-bytes-max)"
                job = self._open_job(session, said.n, said.token, now)
                if job is not None:
                    self._unfit(session, said, job, BAD_REPORT, text, now)
                self.heard(session, said.credit, said.started, now)
                return
            job = self._machine.by_token.get(said.token) or self._machine.recollected(said.token)
            if job is not None:
                job.answer_headers = said.headers
        plain = session.peer, session.path, said.token, said.n, said.credit, said.started, body
        self.completed([plain], now)

    def failed(self, session: Session, said: Fail, now: int) -> None:
        """An attempt has failed, and its worker says so. However long it wants the job to wait, that it has failed is
        so: a refusal would leave the attempt to a worker that has nothing more to say of it.
        """
        job = self._open_job(session, said.n, said.token, now)
        if job is not None:
            text_max, retry_ns_max = self._limits.error_text_max, self._limits.retry_ns_max
            retry_ns = None if said.retry_ms is None else min(said.retry_ms * 1_000_000, retry_ns_max)
            self._machine.attempt_failed(
                job,
                Cause.FAILED,
                now,
                kind=said.kind[:text_max],
                text=said.text[:text_max],
                retry_ns=retry_ns,
                final=said.final,
            )

    def handed_back(self, session: Session, said: HandBack, now: int) -> None:
        """The worker does not want this job any more."""
        job = self._open_job(session, said.n, said.token, now, starts=False)
        if job is not None:
            self._machine.counters.handovers_returned += 1
            self._machine.give_back(job, now, by_worker=True)

    def partial(self, session: Session, said: Partial, body: Body, now: int) -> None:
        """A piece of the result, for those who follow."""
        job = self._open_job(session, said.n, said.token, now)
        if job is not None:
            self._machine.heard_of(job, now)
            job.partials += 1
            for asker, name, follows in job.askers:
                if follows and not asker.gone:
                    told = TellPartial(id=name, attempt=job.attempts, seq=job.partials)
                    self._machine.said.append((asker, told, body))

    def progress(self, session: Session, said: Progress, now: int) -> None:
        """How far an attempt is, for those who follow."""
        job = self._open_job(session, said.n, said.token, now)
        if job is None:
            return
        for field, number in (("done", said.done), ("total", said.total)):
            if number is not None and not -_INFINITE < number < _INFINITE:
                text = f"{field} is {number}: it must be a finite number"
                self.refuse(session, said.n, said.token, BAD_REPORT, text)
                return
        self._machine.heard_of(job, now)
        note = said.note[: self._limits.error_text_max]
        for asker, name, follows in job.askers:
            if follows and not asker.gone:
                told = TellProgress(id=name, attempt=job.attempts, done=said.done, total=said.total, note=note)
                self._machine.said.append((asker, told, ()))

    def extended(self, session: Session, said: Extend, now: int) -> None:
        """The attempt needs longer."""
        job = self._open_job(session, said.n, said.token, now)
        if job is None:
            return
        ceiling_ns = job.began_ns + self._limits.run_ns_max
        ends_ns = now + said.run_ms * 1_000_000
        if said.run_ms < 1:
            self.refuse(session, said.n, said.token, BAD_REPORT, f"run_ms is {said.run_ms}: it must be at least 1")
        elif ends_ns > ceiling_ns:
            left_ms = max(0, ceiling_ns - now) // 1_000_000
            text = f"an attempt may run for {self._limits.run_ns_max // 1_000_000} ms in all; {left_ms} are left"
            self.refuse(session, said.n, said.token, CEILING, text)
        else:
            self._machine.extend(job, ends_ns, now)

    def goodbye(self, session: Session, now: int) -> None:
        """The worker ends its session."""
        self._lose(session, now)

    def _open_job(
        self, session: Session, n: int, token: bytes, now: int, *, starts: bool = True, overtaken: bool = False
    ) -> Job | None:
        """The job whose current hand-over has this token; None where the report has no effect.

        `overtaken`: later reports may have been heard before this one. Then its number says nothing as long as its
        token is good: that is not so any more where a report has ended the attempt.
        """
        machine = self._machine
        job = machine.by_token.get(token)
        current = job is not None and job.token == token and job.state in (HELD, RUNNING)
        if n <= session.reported and not (overtaken and current):  # a repetition
            machine.acks[session] = session.reported
            return None
        session.reported = machine.acks[session] = max(n, session.reported)
        if job is None or not current:
            self.refuse(session, n, token, NOT_OPEN if job is None else SUPERSEDED)
            return None
        if starts and job.state == HELD:
            machine.start([job], now)
        if starts and job.holder is None:  # of an earlier life of the broker: what proves possession is a claim
            machine.claim(job, session, now)
        return job

    def too_large(self, session: Session, said: Complete | Partial, text: str, now: int) -> None:
        """A report whose body nobody has. It is heard when all else of its turn has been."""
        job = self._open_job(session, said.n, said.token, now, overtaken=True)
        if job is not None and isinstance(said, Complete):
            self._unfit(session, said, job, TOO_LARGE, text, now)
        elif job is not None:
            self.refuse(session, said.n, said.token, TOO_LARGE, text)
        self.heard(session, said.credit, said.started, now)

    def _unfit(self, session: Session, said: Complete, job: Job, code: str, text: str, now: int) -> None:
        """The answer of this attempt cannot be taken, and its worker has no other: the attempt has failed."""
        self.refuse(session, said.n, said.token, code, text)
        text = text[: self._limits.error_text_max]
        self._machine.attempt_failed(job, Cause.FAILED, now, kind=f"answer_{code}", text=text)

    def refuse(self, session: Session, n: int, token: bytes, code: str, text: str = "") -> None:
        """A report has no effect, and its worker is told why."""
        machine = self._machine
        machine.counters.reports_refused += 1
        machine.notices.append((Event.REPORT_REFUSED, {"worker": session.name, "reason": code}))
        said = ReportRefused(n=n, token=token[:TOKEN_BYTES_MAX], code=code, text=text or _WHY.get(code, ""))
        machine.said.append((session, said, ()))

    # --- What the machine tells workers

    def cancel(self, worker: Worker, token: bytes, reason: str) -> None:
        """Nobody waits for this attempt any more."""
        if type(worker) is Session and not worker.away:
            machine = self._machine
            promises = reason in ("answered", "cancelled")  # who stops because of an end must not before that is safe
            (machine.promised if promises else machine.said).append((worker, Cancel(token=token, reason=reason), ()))

    # --- Liveness

    def went_away(self, session: Session, now: int) -> None:
        """Its connection has gone; it may be back soon, on another."""
        session.gone_ns = now + self._limits.session_grace_ns
        self._machine.let_again_at(session.gone_ns, session)

    def is_over(self, worker: Worker, now: int) -> bool:
        """Whether a session that went away did not come back in time; then it ends here."""
        if type(worker) is not Session or not worker.away or worker.gone_ns > now:
            return False
        self._end(worker)
        return True

    def _lose(self, session: Session, now: int) -> None:
        """The session ends at once."""
        if not session.lost:
            self._end(session)
            if session.jobs:
                self._machine.let_again_at(now, session)

    def _end(self, session: Session) -> None:
        self._machine.notice_lost(session)
        self._machine.roster.end(session)

    def expire(self, now: int) -> None:
        """Ends the sessions of which nothing was heard for too long."""
        checks, liveness_ns = self._checks, self._limits.liveness_ns
        while checks and checks[0][0] <= now:
            _, number, session = heapq.heappop(checks)
            if session.lost:
                continue
            due = session.heard_ns + liveness_ns
            if due > now:
                heapq.heappush(checks, (due, number, session))
            else:
                self._lose(session, now)

    def due(self) -> int:
        """When somebody is to be looked at."""
        return self._checks[0][0] if self._checks else NEVER


def _number_of(job: Job) -> int:
    return job.number
