"""The transition table, all of it: each cell is a row that moves the job, or an error that names state and event."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relet.core import job as jobs
from relet.core.job import FINAL, HELD, TABLE, Happened, IllegalTransition, Job, Reason, State
from relet.core.queue import Queue
from relet.core.roster import Worker
from relet.core.terms import Terms
from relet.messages import Peer

NOW = 7
QUEUE = Queue()
TERMS = Terms()


def _job(state: State) -> Job:
    job = Job(1, None, b"", b"body", 0, QUEUE, TERMS, state=int(state), attempts=1)
    job.holder = Worker(Peer(b"w"), b"", (QUEUE,)) if state in (State.HELD, State.RUNNING) else None
    return job


HOW: dict[Happened, Callable[[Job], None]] = {
    Happened.DISPATCHED: lambda job: jobs.dispatched([job], NOW),
    Happened.HANDED_OVER: lambda job: jobs.handed_over([job], NOW),
    Happened.STARTED: lambda job: jobs.started([job], NOW),
    Happened.CLAIMED: jobs.claimed,
    Happened.GIVEN_BACK: jobs.given_back,
    Happened.HANDED_BACK: jobs.handed_back,
    Happened.POSTPONED: jobs.postponed,
    Happened.DUE: jobs.due,
    Happened.BLOCKED: jobs.blocked,
    Happened.UNBLOCKED: jobs.unblocked,
    Happened.FAILED_FOR_GOOD: lambda job: jobs.failed_for_good(job, NOW),
    Happened.DEADLINE_PASSED: lambda job: jobs.deadline_passed(job, Reason.DEADLINE, NOW),
    Happened.DESERTED: lambda job: jobs.deserted(job, NOW),
    Happened.BODY_LOST: lambda job: jobs.body_lost(job, NOW),
    Happened.ANSWERED: lambda job: jobs.answered([job], NOW),
    Happened.ATTEMPT_ENDED: jobs.attempt_ended,
    Happened.BUDGET_SPENT: lambda job: jobs.budget_spent(job, Reason.TRIES_SPENT, NOW),
    Happened.CANCELLED: lambda job: jobs.cancelled(job, Reason.CANCELLED, NOW),
    Happened.STOPPED: lambda job: jobs.stopped(job, NOW),
}

CELLS = [(state, happened) for state in State for happened in Happened]
ROWS = {(row.state, row.happened): row.to for row in TABLE}


@pytest.mark.parametrize(("state", "happened"), CELLS, ids=lambda it: it.name.lower())
def test_each_cell_moves_or_is_an_error_by_name(state: State, happened: Happened) -> None:
    """Every pair of state and event: a row of the table is applied, a missing one is raised, naming both."""
    job = _job(state)
    if (state, happened) in ROWS:
        HOW[happened](job)
        assert job.state == ROWS[state, happened]
    else:
        with pytest.raises(IllegalTransition, match=f"job 1 is {state.name}: it cannot be {happened.value}"):
            HOW[happened](job)
        assert job.state == state, "an illegal transition changes nothing"


def test_a_final_state_is_final() -> None:
    """Nothing leads out of COMPLETED, DISCARDED or CANCELLED; all others have a way to an end."""
    assert not {row.state for row in TABLE} & FINAL
    open_states = set(State) - {State(number) for number in FINAL}
    assert {row.state for row in TABLE} == open_states
    for state in open_states:
        assert {row.to for row in TABLE if row.state is state} & FINAL


def test_the_table_has_each_row_once() -> None:
    """No (state, event) stands twice, so no row overrules another; each row says what else happens."""
    assert len(ROWS) == len(TABLE)
    assert all(row.also for row in TABLE)


def test_every_event_has_a_function_of_its_name() -> None:
    """A transition is a function named for what happened; there is no other way to set a state."""
    for happened in Happened:
        assert callable(getattr(jobs, happened.value))


@pytest.mark.parametrize("state", list(State), ids=lambda it: it.name.lower())
def test_every_state_says_what_it_means(state: State) -> None:
    """The numbers of states are stored: they never change."""
    assert {it.name: int(it) for it in State} == {
        "DELAYED": 1,
        "AVAILABLE": 2,
        "HELD": 3,
        "RUNNING": 4,
        "COMPLETED": 5,
        "DISCARDED": 6,
        "CANCELLED": 7,
        "BLOCKED": 8,
    }
    assert int(state) == getattr(jobs, state.name)


def test_a_dispatch_counts_an_attempt_and_a_lost_hand_over_gives_it_back() -> None:
    """An attempt that provably never began costs nothing but a hand-over."""
    job = Job(1, None, b"", b"", 0, QUEUE, TERMS)
    jobs.dispatched([job], NOW)
    assert (job.attempts, job.handovers, job.began_ns) == (1, 0, NOW)
    jobs.given_back(job)
    assert (job.attempts, job.handovers, job.holder) == (0, 1, None)


def test_an_attempt_of_a_held_job_counts_from_its_start() -> None:
    """Handing over costs nothing; what comes back unstarted costs a hand-over, and so does what had started."""
    job = Job(1, None, b"", b"", 0, QUEUE, TERMS)
    jobs.handed_over([job], NOW)
    assert (job.state, job.attempts) == (HELD, 0)
    jobs.given_back(job)
    assert (job.attempts, job.handovers) == (0, 1)
    jobs.handed_over([job], NOW)
    jobs.started([job], NOW)
    assert (job.attempts, job.began_ns) == (1, NOW)
    jobs.given_back(job)
    assert (job.attempts, job.handovers) == (0, 2)


def test_an_end_forgets_the_holder_and_notes_the_time() -> None:
    """Each final transition ends the lease in the job itself, so that no cycle of objects stays behind."""
    for how in (HOW[Happened.ANSWERED], HOW[Happened.BUDGET_SPENT], HOW[Happened.STOPPED]):
        job = _job(State.RUNNING)
        how(job)
        assert job.holder is None
        assert job.ended_ns == NOW
