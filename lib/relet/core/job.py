"""A job and its states. Everything that moves a job from one state to another is in this file.

`TABLE` is the whole truth: a row for each (state, what happened) that may be, with the state that follows. A missing
row *is* the error: it is raised by name and means a fault of ours, never a peer's. The functions below are named for
what happened; each applies its row and keeps the job's own bookkeeping, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from relet.core.compiling import mypyc_attr
from relet.core.terms import Rules, Terms
from relet.messages import AttemptEnded, Body, JobBody, Key, Path, Peer

if TYPE_CHECKING:
    from relet.core.askers import Asker
    from relet.core.lease import Timer
    from relet.core.levels import FairKey
    from relet.core.queue import Queue
    from relet.core.roster import Worker


class State(IntEnum):
    """Where a job stands. Numbers are stored, so they never change."""

    DELAYED = 1
    """It waits for a moment: it was not to start before, or its last attempt came to nothing, and its worker or its
    terms say when the next may be. The moment moves it on; so do a late answer, the return of a session that was taken
    for lost, the loss of its askers where they want that, and the end of the broker."""
    AVAILABLE = 2
    """It waits for an ask, at its place by age. A dispatch moves it on; so do a late answer and the end of the
    broker."""
    HELD = 3
    """It was handed to a worker that will say when it starts. Its start or any report on it moves it on; so do the
    return of the hand-over - not delivered, recalled, not confirmed by a worker that was lost - and what ends an
    AVAILABLE job."""
    RUNNING = 4
    """A worker has it under a lease. Its answer, its failure, the end of the lease, the loss of the worker or of the
    hand-over, or the end of the broker moves it on."""
    COMPLETED = 5
    """Final: a worker answered, and the client is owed that answer."""
    DISCARDED = 6
    """Final: a budget is spent, or its worker said that it has failed for good. The client is told that it failed; the
    job is kept as a dead letter."""
    CANCELLED = 7
    """Final: it was cancelled, the broker ended before it did, or nobody waits for it who wanted it else. The client is
    told that it failed."""
    BLOCKED = 8
    """Another job of its order key goes first. The end of that one moves it on, unless it was discarded and blocks the
    key: then the end of its dead letter. So does what ends an AVAILABLE job; an answer only where a crash has made the
    broker forget that it was dispatched, and that the one before it had ended."""


# The hot path compares with these: `x == State.MEMBER` costs 77 ns, a module's constant 11.
DELAYED: Final[int] = int(State.DELAYED)
AVAILABLE: Final[int] = int(State.AVAILABLE)
HELD: Final[int] = int(State.HELD)
RUNNING: Final[int] = int(State.RUNNING)
COMPLETED: Final[int] = int(State.COMPLETED)
DISCARDED: Final[int] = int(State.DISCARDED)
CANCELLED: Final[int] = int(State.CANCELLED)
BLOCKED: Final[int] = int(State.BLOCKED)

FINAL: Final = frozenset({COMPLETED, DISCARDED, CANCELLED})

_NOTHING_AGREED: Final = Terms()


class Happened(StrEnum):
    """What can happen to a job after it was accepted."""

    DISPATCHED = "dispatched"
    """It was handed to a worker that had asked and does not say when it starts: the attempt begins."""
    HANDED_OVER = "handed_over"
    """It was handed to a worker that had asked and will say when it starts."""
    STARTED = "started"
    """Its worker has started it: the attempt begins."""
    CLAIMED = "claimed"
    """The session that had it was taken for lost, and is back with it: the attempt goes on."""
    GIVEN_BACK = "given_back"
    """The hand-over never left or never arrived, or was recalled: it costs no attempt."""
    HANDED_BACK = "handed_back"
    """Its worker does not want it, and was not asked for it: it costs no attempt, and waits a little before it goes
    on."""
    ANSWERED = "answered"
    """A worker sent a valid answer: of this attempt, or late, of one before."""
    ATTEMPT_ENDED = "attempt_ended"
    """The attempt failed, its lease ran out or its worker was lost, and there are tries left."""
    POSTPONED = "postponed"
    """The same, and the next attempt is not to be before some moment."""
    DUE = "due"
    """That moment has come."""
    BLOCKED = "blocked"
    """It was accepted, and another job of its order key goes first."""
    UNBLOCKED = "unblocked"
    """It is the first of its order key now."""
    BUDGET_SPENT = "budget_spent"
    """An attempt ended, or one more hand-over was given back, and there is nothing left to spend."""
    FAILED_FOR_GOOD = "failed_for_good"
    """No other attempt shall be made: its worker said so, or the error is of a kind that is final for it."""
    DEADLINE_PASSED = "deadline_passed"
    """It had to have started by now, or to have ended, or would have to start when that is over."""
    DESERTED = "deserted"
    """All who asked for it are gone, and want it to end then."""
    BODY_LOST = "body_lost"
    """Its body is in the store alone, and cannot be read there."""
    CANCELLED = "cancelled"
    """Nobody wants it any more, and that was said, by the last who asked for it or for them; or another replaces it."""
    STOPPED = "stopped"
    """The broker ends."""


class Row(NamedTuple):
    """A row of the table, as the documentation shows it."""

    state: State
    happened: Happened
    to: State
    also: str


TABLE: Final = (
    Row(State.DELAYED, Happened.DUE, State.AVAILABLE, "place by age"),
    Row(State.DELAYED, Happened.CLAIMED, State.RUNNING, "lease goes on, ledger entry struck out"),
    Row(State.DELAYED, Happened.ANSWERED, State.COMPLETED, "late answer; reply"),
    Row(State.DELAYED, Happened.DEADLINE_PASSED, State.DISCARDED, "failure told; dead letter"),
    Row(State.DELAYED, Happened.DESERTED, State.CANCELLED, "failure told"),
    Row(State.DELAYED, Happened.CANCELLED, State.CANCELLED, "failure told"),
    Row(State.DELAYED, Happened.STOPPED, State.CANCELLED, "failure told"),
    Row(State.AVAILABLE, Happened.BLOCKED, State.BLOCKED, "another job of its order key goes first"),
    Row(State.DELAYED, Happened.BLOCKED, State.BLOCKED, "the same; what is left of its delay follows"),
    Row(State.BLOCKED, Happened.UNBLOCKED, State.AVAILABLE, "place by age"),
    Row(State.BLOCKED, Happened.POSTPONED, State.DELAYED, "the same, and its delay is not over"),
    Row(State.BLOCKED, Happened.ANSWERED, State.COMPLETED, "late answer to a hand-over that a crash forgot; reply"),
    Row(State.BLOCKED, Happened.DEADLINE_PASSED, State.DISCARDED, "failure told; dead letter"),
    Row(State.BLOCKED, Happened.DESERTED, State.CANCELLED, "failure told"),
    Row(State.BLOCKED, Happened.CANCELLED, State.CANCELLED, "failure told"),
    Row(State.BLOCKED, Happened.STOPPED, State.CANCELLED, "failure told"),
    Row(State.AVAILABLE, Happened.DISPATCHED, State.RUNNING, "lease, attempt + 1"),
    Row(State.AVAILABLE, Happened.HANDED_OVER, State.HELD, "token"),
    Row(State.AVAILABLE, Happened.CLAIMED, State.RUNNING, "lease goes on, ledger entry struck out"),
    Row(State.AVAILABLE, Happened.ANSWERED, State.COMPLETED, "late answer; reply"),
    Row(State.DELAYED, Happened.BUDGET_SPENT, State.DISCARDED, "too many lost hand-overs; failure told; dead letter"),
    Row(State.AVAILABLE, Happened.BUDGET_SPENT, State.DISCARDED, "too many lost hand-overs; failure told; dead letter"),
    Row(State.AVAILABLE, Happened.DEADLINE_PASSED, State.DISCARDED, "failure told; dead letter"),
    Row(State.AVAILABLE, Happened.BODY_LOST, State.DISCARDED, "failure told; dead letter without a body"),
    Row(State.AVAILABLE, Happened.DESERTED, State.CANCELLED, "failure told"),
    Row(State.AVAILABLE, Happened.CANCELLED, State.CANCELLED, "failure told"),
    Row(State.AVAILABLE, Happened.STOPPED, State.CANCELLED, "failure told"),
    Row(State.HELD, Happened.STARTED, State.RUNNING, "lease, attempt + 1"),
    Row(State.HELD, Happened.GIVEN_BACK, State.AVAILABLE, "handovers + 1, old place"),
    Row(State.HELD, Happened.HANDED_BACK, State.DELAYED, "handovers + 1, up to half of them; a pause that grows"),
    Row(State.HELD, Happened.ANSWERED, State.COMPLETED, "late answer; reply; its holder is told to drop it"),
    Row(State.HELD, Happened.DEADLINE_PASSED, State.DISCARDED, "failure told; its holder is told to drop it"),
    Row(State.HELD, Happened.DESERTED, State.CANCELLED, "failure told; its holder is told to drop it"),
    Row(State.HELD, Happened.CANCELLED, State.CANCELLED, "failure told; its holder is told to drop it"),
    Row(State.HELD, Happened.STOPPED, State.CANCELLED, "failure told"),
    Row(State.RUNNING, Happened.GIVEN_BACK, State.AVAILABLE, "attempt given back, handovers + 1, old place"),
    Row(State.RUNNING, Happened.HANDED_BACK, State.DELAYED, "attempt given back, handovers + 1; a pause that grows"),
    Row(State.RUNNING, Happened.ANSWERED, State.COMPLETED, "lease ends; reply; another holder is told to stop"),
    Row(State.RUNNING, Happened.ATTEMPT_ENDED, State.AVAILABLE, "ledger entry, place by age"),
    Row(State.RUNNING, Happened.POSTPONED, State.DELAYED, "ledger entry"),
    Row(State.RUNNING, Happened.BUDGET_SPENT, State.DISCARDED, "ledger entry; failure told; dead letter"),
    Row(State.RUNNING, Happened.FAILED_FOR_GOOD, State.DISCARDED, "ledger entry; failure told; dead letter"),
    Row(State.RUNNING, Happened.DEADLINE_PASSED, State.DISCARDED, "failure told; its holder is told to stop"),
    Row(State.RUNNING, Happened.DESERTED, State.CANCELLED, "failure told; its holder is told to stop"),
    Row(State.RUNNING, Happened.CANCELLED, State.CANCELLED, "failure told; its holder is told to stop"),
    Row(State.RUNNING, Happened.STOPPED, State.CANCELLED, "failure told"),
)


class Cause(StrEnum):
    """Why an attempt ended without an answer."""

    EXPIRED = "expired"
    """Its time was up."""
    SILENT = "silent"
    """Its worker did not extend or report for longer than the job allows."""
    FAILED = "failed"
    """Its worker said so."""
    WORKER_LOST = "worker_lost"
    """The connection of its worker went, or nothing was heard of it for too long."""
    DEADLINE = "deadline"
    """The job's time was up, not that of the attempt."""


class Reason(StrEnum):
    """Why a job ended badly; part of the failure, of the log and of the dead letter."""

    TRIES_SPENT = "tries_spent"
    """As many counted attempts as allowed, none answered."""
    ERRORS_SPENT = "errors_spent"
    """As many of them failed as may (`errors_max`), as their workers said."""
    TIMEOUTS_SPENT = "timeouts_spent"
    """As many of them took too long, or were silent for too long, as may (`timeouts_max`)."""
    LOSSES_SPENT = "losses_spent"
    """As many of them were lost with their worker as may (`losses_max`)."""
    START_DEADLINE = "start_deadline"
    """It had not started when it had to have."""
    DEADLINE = "deadline"
    """It had not ended when it had to have, or its next attempt could not have."""
    HANDOVERS_SPENT = "handovers_spent"
    """Too many hand-overs came to nothing and were given back (`handovers_max`)."""
    BODY_LOST = "body_lost"
    """Its body was in the store alone, and could not be read there: the disk, or the file, is damaged."""
    FAILED = "failed"
    """It has failed for good: its worker said so, or the error is of a kind that is final for it."""
    ASKER_GONE = "asker_gone"
    """All who asked for it are gone, and had said that it shall end then."""
    CANCELLED = "cancelled"
    """The last who asked for it said that they want it no more."""
    REPLACED = "replaced"
    """Another job with its unique key took its place while it waited."""
    DETACHED = "detached"
    """Of no job: what an asker is told that wants it no more, while others do, for whom it goes on."""
    BROKER_STOPPED = "broker_stopped"
    """The broker was stopped, and its drain time was over."""


class IllegalTransition(Exception):
    """A fault of ours: something happened to a job that cannot happen in its state."""


def _moves(happened: Happened) -> tuple[int, ...]:
    """The column of the table for one event, indexed by state; 0 where there is no row."""
    column = [0] * (max(State) + 1)
    for row in TABLE:
        if row.happened is happened:
            column[row.state] = int(row.to)
    return tuple(column)


_DISPATCHED: Final = _moves(Happened.DISPATCHED)
_HANDED_OVER: Final = _moves(Happened.HANDED_OVER)
_STARTED: Final = _moves(Happened.STARTED)
_GIVEN_BACK: Final = _moves(Happened.GIVEN_BACK)
_ANSWERED: Final = _moves(Happened.ANSWERED)


NONE_FAILED: Final = (0, 0, 0)
"""(errors, timeouts, losses): attempts that came to nothing, by kind. All jobs share it until the first one does."""


Asked: TypeAlias = "tuple[Asker, bytes, bool]"
"""(who, the id by which the outcome is told, whether partial results and progress are wanted)."""


@mypyc_attr(acyclic=True)
class Job:
    """One unit of work, from its acceptance to its outcome.

    `acyclic`: a million open jobs are a million objects that the collector need not visit. It is safe because the only
    cycle, job -> holder -> jobs, is opened whenever a lease ends.
    """

    __slots__ = (
        "accepted_ns",
        "again",
        "answer",
        "answer_headers",
        "askers",
        "attempts",
        "began_ns",
        "body",
        "due_ns",
        "ended_ns",
        "ends_ns",
        "extended",
        "failures",
        "flow",
        "handovers",
        "headers",
        "holder",
        "id",
        "kept_bytes",
        "kind",
        "ledger",
        "number",
        "orphans",
        "partials",
        "path",
        "peer",
        "queue",
        "reason",
        "request",
        "rules",
        "seq",
        "shared",
        "size",
        "state",
        "terms",
        "text",
        "timer",
        "token",
        "tokens",
        "unreceived",
    )

    def __init__(  # noqa: PLR0915 - what there is to know of a job, and what it is from the beginning
        self,
        number: int,
        peer: Peer | None,
        path: Path,
        body: JobBody,
        accepted_ns: int,
        queue: Queue,
        terms: Terms,
        request: Key | None = None,
        askers: tuple[Asked, ...] = (),
        size: int = 0,
        headers: dict[str, str] | None = None,
        *,
        state: int = AVAILABLE,
        attempts: int = 0,
        rules: Rules | None = None,
    ) -> None:
        self.number = number
        """Acceptance number: 1, 2, 3 ... It is the job's age and its name in logs and records."""
        self.peer = peer
        """Who is owed the outcome in the dialect of 2010, and with `path` how; None when nobody is: it came in the
        native dialect, or from a store."""
        self.path = path
        self.body = body
        """Opaque frames, in memory or in the store; what remains of them after the outcome is up to who keeps the
        job."""
        self.accepted_ns = accepted_ns
        """Lease time of the acceptance."""
        self.queue = queue
        self.terms = terms
        self.request = request
        """What a native client asks for it by; None: nobody can ask."""
        self.askers = askers
        """Who is owed the outcome natively."""
        self.size = size
        """Bytes of the body when it was asked for natively, to know it again."""
        self.headers = headers
        self.state = state
        self.attempts = attempts
        """Counted attempts, the running one included."""
        self.handovers = 0
        """Hand-overs that came to nothing and were given back; not counted as attempts."""
        self.token = b""
        """The right to report on it, unguessable: of the current hand-over, or, where that was to a worker of 2010, of
        all hand-overs to such workers."""
        self.tokens: tuple[bytes, ...] = ()
        """Tokens of earlier hand-overs that are good for a late answer."""
        self.shared = b""
        """Of all tokens that of the workers of 2010, where sessions have had the job, too."""
        self.holder: Worker | None = None
        """The worker that has it, while HELD or RUNNING; None also for a job loaded from a store."""
        self.seq = 0
        """Number of the hand-over in its holder's session; negative once that was given back, so that nobody claims
        it."""
        self.timer: Timer | None = None
        """Where its deadline stands, if it has one."""
        self.began_ns = 0
        """Lease time at which the running attempt began; of a held job, at which it was handed over or recalled."""
        self.due_ns = 0
        """When something is to happen to it, where its timer keeps single deadlines."""
        self.ends_ns = 0
        """When its run limit ends, in that case."""
        self.extended = 0
        """The attempt whose run limit was extended to there, the last one."""
        self.ended_ns = 0
        self.answer: Body = b""
        self.reason = ""
        self.kind = ""
        """Of the last failure, as its worker said it."""
        self.text = ""
        self.ledger: tuple[AttemptEnded, ...] = ()
        """The attempts that ended badly; the last `ledger_entries_max` of them."""
        self.failures: tuple[int, int, int] = NONE_FAILED
        """How many of all that did, of each kind (`core.retry`)."""
        self.id = b""
        """Laid out as UUIDv7; drawn when somebody is first told of it."""
        self.unreceived = 0
        """Of them, those that were told and have not said that they received it."""
        self.orphans = 0
        """And those who went without having received it, and did not ask again."""
        self.answer_headers: dict[str, str] | None = None
        """What its worker gave with the answer."""
        self.partials = 0
        """Partial results of the running attempt."""
        self.kept_bytes = 0
        """What its outcome counts for as long as that is kept for who asks again; 0: it is not."""
        self.again = False
        """It was first asked before this broker began: an earlier one may have had it done."""
        self.flow: FairKey | None = None
        """Of whose jobs it is counted as one that is with a worker; None: it is not counted."""
        self.rules = rules
        """What was agreed about this one alone."""

    def __repr__(self) -> str:
        return f"<Job {self.number} {State(self.state).name} attempts={self.attempts}>"


def _illegal(job: Job, happened: Happened) -> IllegalTransition:
    return IllegalTransition(f"job {job.number} is {State(job.state).name}: it cannot be {happened.value}")


def dispatched(jobs: Iterable[Job], now: int) -> None:
    """Each was handed to its `holder`, which the machine has set; the attempts count from here.

    A batch at a time, as `answered`: these two happen to every job, and a call for each would cost more than they do.
    """
    column = _DISPATCHED
    for job in jobs:
        to = column[job.state]
        if not to:
            raise _illegal(job, Happened.DISPATCHED)
        job.state = to
        job.attempts += 1
        job.began_ns = now


def handed_over(jobs: Iterable[Job], now: int) -> None:
    """Each was handed to its `holder`, which will say when it starts."""
    column = _HANDED_OVER
    for job in jobs:
        to = column[job.state]
        if not to:
            raise _illegal(job, Happened.HANDED_OVER)
        job.state = to
        job.began_ns = now


def started(jobs: Iterable[Job], now: int) -> None:
    """Their holders have started them: the attempts count from here."""
    column = _STARTED
    for job in jobs:
        to = column[job.state]
        if not to:
            raise _illegal(job, Happened.STARTED)
        job.state = to
        job.attempts += 1
        job.began_ns = now
        job.partials = 0


def given_back(job: Job) -> None:
    """The hand-over came to nothing: an attempt that had begun is given back."""
    to = _GIVEN_BACK[job.state]
    if not to:
        raise _illegal(job, Happened.GIVEN_BACK)
    if job.state == RUNNING:
        _uncounted(job)
    job.state = to
    job.handovers += 1
    job.holder = None
    job.seq = -abs(job.seq)


def handed_back(job: Job, *, counts: bool = True) -> None:
    """Its worker does not want it; it waits for its `due_ns`. `counts`: whether that is a hand-over in vain."""
    if job.state == RUNNING:
        _uncounted(job)
    _moved(job, Happened.HANDED_BACK)
    job.handovers += counts
    job.seq = -abs(job.seq)


def _uncounted(job: Job) -> None:
    """The next attempt has the number of this one, and not its extension."""
    job.attempts -= 1
    job.extended = 0


def answered(jobs: Iterable[Job], now: int) -> None:
    """A valid answer came for each, which the machine has set as its `answer`; it is the outcome."""
    column = _ANSWERED
    for job in jobs:
        to = column[job.state]
        if not to:
            raise _illegal(job, Happened.ANSWERED)
        job.state = to
        job.ended_ns = now
        job.holder = None


def answered_unheld(jobs: Iterable[Job], now: int) -> None:
    """Held jobs were started and answered in one breath, by the holders that had them."""
    column = _ANSWERED
    for job in jobs:
        to = column[job.state] if job.state == HELD else 0
        if not to:
            raise _illegal(job, Happened.ANSWERED)
        job.state = to
        job.attempts += 1
        job.ended_ns = now
        job.holder = None


def _moved(job: Job, happened: Happened) -> None:
    """For what does not happen to every job."""
    to = _COLUMNS[happened][job.state]
    if not to:
        raise _illegal(job, happened)
    job.state = to
    job.holder = None


def claimed(job: Job) -> None:
    """Its attempt had not ended after all."""
    _moved(job, Happened.CLAIMED)


def attempt_ended(job: Job) -> None:
    """The attempt came to nothing and another may follow."""
    _moved(job, Happened.ATTEMPT_ENDED)


def postponed(job: Job) -> None:
    """The same, and it waits for its `due_ns`."""
    _moved(job, Happened.POSTPONED)


def due(job: Job) -> None:
    """The moment it waited for has come."""
    _moved(job, Happened.DUE)


def blocked(job: Job) -> None:
    """Another job of its order key goes first."""
    _moved(job, Happened.BLOCKED)


def unblocked(job: Job) -> None:
    """It is the first of its order key now."""
    _moved(job, Happened.UNBLOCKED)


def budget_spent(job: Job, reason: Reason, now: int) -> None:
    """There is nothing left to spend on this job."""
    _ended(job, Happened.BUDGET_SPENT, reason, now)


def failed_for_good(job: Job, now: int) -> None:
    """No other attempt shall be made."""
    _ended(job, Happened.FAILED_FOR_GOOD, Reason.FAILED, now)


def deadline_passed(job: Job, reason: Reason, now: int) -> None:
    """It comes too late."""
    _ended(job, Happened.DEADLINE_PASSED, reason, now)


def body_lost(job: Job, now: int) -> None:
    """There is nothing to hand over."""
    _ended(job, Happened.BODY_LOST, Reason.BODY_LOST, now)


def deserted(job: Job, now: int) -> None:
    """Nobody waits for it any more."""
    _ended(job, Happened.DESERTED, Reason.ASKER_GONE, now)


def cancelled(job: Job, reason: Reason, now: int) -> None:
    """It is wanted no more."""
    _ended(job, Happened.CANCELLED, reason, now)


def detached(job: Job, now: int) -> Job:
    """What is told to one who wants it no more, while it goes on for others: an end that nobody can ask for."""
    end = Job(
        job.number, None, b"", b"", job.accepted_ns, job.queue, _NOTHING_AGREED, state=CANCELLED, attempts=job.attempts
    )
    end.reason = Reason.DETACHED.value
    end.ended_ns = now
    return end


def stopped(job: Job, now: int) -> None:
    """The broker ends before the job did."""
    _ended(job, Happened.STOPPED, Reason.BROKER_STOPPED, now)


def _ended(job: Job, happened: Happened, reason: Reason, now: int) -> None:
    _moved(job, happened)
    job.reason = reason.value
    job.ended_ns = now


_COLUMNS: Final = {happened: _moves(happened) for happened in Happened}
