"""A job and its states. Everything that moves a job from one state to another is in this file.

`TABLE` is the whole truth: a row for each (state, what happened) that may be, with the state that follows. A missing
row *is* the error: it is raised by name and means a fault of ours, never a peer's. The functions below are named for
what happened; each applies its row and keeps the job's own bookkeeping, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from relet.messages import AttemptEnded, Body, Path, Peer

if TYPE_CHECKING:
    from relet.core.roster import Worker


class State(IntEnum):
    """Where a job stands. Numbers are stored, so they never change."""

    AVAILABLE = 2
    """It waits for an ask, at its place by age. A dispatch moves it on; so do a late answer and the end of the
    broker."""
    RUNNING = 4
    """A worker has it under a lease. Its answer, the end of the lease, the loss of the worker or of the hand-over, or
    the end of the broker moves it on."""
    COMPLETED = 5
    """Final: a worker answered, and the client is owed that answer."""
    DISCARDED = 6
    """Final: a budget is spent. The client is told that it failed; the job is kept as a dead letter."""
    CANCELLED = 7
    """Final: the broker ended before the job did. The client is told that it failed."""


# The hot path compares with these: `x == State.MEMBER` costs 77 ns, a module's constant 11.
AVAILABLE: Final[int] = int(State.AVAILABLE)
RUNNING: Final[int] = int(State.RUNNING)
COMPLETED: Final[int] = int(State.COMPLETED)
DISCARDED: Final[int] = int(State.DISCARDED)
CANCELLED: Final[int] = int(State.CANCELLED)

FINAL: Final = frozenset({COMPLETED, DISCARDED, CANCELLED})


class Happened(StrEnum):
    """What can happen to a job after it was accepted."""

    DISPATCHED = "dispatched"
    """It was handed to a worker that had asked."""
    UNDELIVERED = "undelivered"
    """The hand-over provably never left: the attempt is given back."""
    ANSWERED = "answered"
    """A worker sent a valid answer: of this attempt, or late, of one before."""
    ATTEMPT_ENDED = "attempt_ended"
    """The lease ran out or its worker was lost, and there are tries left."""
    BUDGET_SPENT = "budget_spent"
    """The same, or one more hand-over was given back, and there is nothing left to spend."""
    STOPPED = "stopped"
    """The broker ends."""


class Row(NamedTuple):
    """A row of the table, as the documentation shows it."""

    state: State
    happened: Happened
    to: State
    also: str


TABLE: Final = (
    Row(State.AVAILABLE, Happened.DISPATCHED, State.RUNNING, "lease, attempt + 1"),
    Row(State.AVAILABLE, Happened.ANSWERED, State.COMPLETED, "late answer; reply"),
    Row(State.AVAILABLE, Happened.BUDGET_SPENT, State.DISCARDED, "too many lost hand-overs; failure told; dead letter"),
    Row(State.AVAILABLE, Happened.STOPPED, State.CANCELLED, "failure told"),
    Row(State.RUNNING, Happened.UNDELIVERED, State.AVAILABLE, "attempt given back, handovers + 1, old place"),
    Row(State.RUNNING, Happened.ANSWERED, State.COMPLETED, "lease ends; reply"),
    Row(State.RUNNING, Happened.ATTEMPT_ENDED, State.AVAILABLE, "ledger entry, place by age"),
    Row(State.RUNNING, Happened.BUDGET_SPENT, State.DISCARDED, "ledger entry; failure told; dead letter"),
    Row(State.RUNNING, Happened.STOPPED, State.CANCELLED, "failure told"),
)


class Cause(StrEnum):
    """Why an attempt ended without an answer."""

    EXPIRED = "expired"
    """Its time was up."""
    WORKER_LOST = "worker_lost"
    """The connection of its worker went."""


class Reason(StrEnum):
    """Why a job ended badly; part of the failure, of the log and of the dead letter."""

    TRIES_SPENT = "tries_spent"
    """As many counted attempts as allowed, none answered."""
    HANDOVERS_SPENT = "handovers_spent"
    """Too many hand-overs never reached a worker (`handovers_max`)."""
    BROKER_STOPPED = "broker_stopped"
    """The broker was stopped, and its drain time was over."""


class IllegalTransition(AssertionError):
    """A fault of ours: something happened to a job that cannot happen in its state."""


def _moves(happened: Happened) -> tuple[int, ...]:
    """The column of the table for one event, indexed by state; 0 where there is no row."""
    column = [0] * (max(State) + 1)
    for row in TABLE:
        if row.happened is happened:
            column[row.state] = int(row.to)
    return tuple(column)


_DISPATCHED: Final = _moves(Happened.DISPATCHED)
_UNDELIVERED: Final = _moves(Happened.UNDELIVERED)
_ANSWERED: Final = _moves(Happened.ANSWERED)
_ATTEMPT_ENDED: Final = _moves(Happened.ATTEMPT_ENDED)
_BUDGET_SPENT: Final = _moves(Happened.BUDGET_SPENT)
_STOPPED: Final = _moves(Happened.STOPPED)


class Job(msgspec.Struct, gc=False, eq=False):
    """One unit of work, from its acceptance to its outcome.

    `gc=False`: a million open jobs are a million objects that the collector need not visit. It is safe because the only
    cycle, job -> holder -> jobs, is opened whenever a lease ends.
    """

    number: int
    """Acceptance number: 1, 2, 3 ... It is the job's age and its name in logs and records."""
    peer: Peer | None
    """Who is owed the outcome, and with `path` how; None when nobody is: loaded from a store, or its asker is gone."""
    path: Path
    body: Body
    """Opaque frames; what remains of them after the outcome is up to who keeps the job."""
    accepted_ns: int
    """Lease time of the acceptance."""
    state: int = AVAILABLE
    attempts: int = 0
    """Counted attempts, the running one included."""
    handovers: int = 0
    """Hand-overs that provably never left; not counted as attempts."""
    token: bytes = b""
    """What a worker names the job by: drawn at its first dispatch, unguessable, the same for every attempt."""
    holder: Worker | None = None
    """The worker whose lease it is, while RUNNING; None also for a running job loaded from a store."""
    began_ns: int = 0
    """Lease time at which the running attempt was dispatched."""
    ended_ns: int = 0
    answer: Body = b""
    reason: str = ""
    ledger: tuple[AttemptEnded, ...] = ()
    """The attempts that ended badly; the last `ledger_entries_max` of them."""


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


def undelivered(job: Job) -> None:
    """The hand-over never left: the attempt is given back."""
    to = _UNDELIVERED[job.state]
    if not to:
        raise _illegal(job, Happened.UNDELIVERED)
    job.state = to
    job.attempts -= 1
    job.handovers += 1
    job.holder = None


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


def attempt_ended(job: Job) -> None:
    """The attempt came to nothing and another may follow."""
    to = _ATTEMPT_ENDED[job.state]
    if not to:
        raise _illegal(job, Happened.ATTEMPT_ENDED)
    job.state = to
    job.holder = None


def budget_spent(job: Job, reason: Reason, now: int) -> None:
    """There is nothing left to spend on this job."""
    to = _BUDGET_SPENT[job.state]
    if not to:
        raise _illegal(job, Happened.BUDGET_SPENT)
    job.state = to
    job.reason = reason.value
    job.ended_ns = now
    job.holder = None


def stopped(job: Job, now: int) -> None:
    """The broker ends before the job did."""
    to = _STOPPED[job.state]
    if not to:
        raise _illegal(job, Happened.STOPPED)
    job.state = to
    job.reason = Reason.BROKER_STOPPED.value
    job.ended_ns = now
    job.holder = None
