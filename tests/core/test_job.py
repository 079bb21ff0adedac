"""The transition table, all of it: each cell is a row that moves the job, or an error that names state and event."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relet.core import job as jobs
from relet.core.job import FINAL, TABLE, Happened, IllegalTransition, Job, Reason, State
from relet.core.roster import Worker
from relet.messages import Peer

NOW = 7


def _job(state: State) -> Job:
    job = Job(1, None, b"", b"body", 0, state=int(state), attempts=1)
    job.holder = Worker(Peer(b"w"), b"") if state is State.RUNNING else None
    return job


HOW: dict[Happened, Callable[[Job], None]] = {
    Happened.DISPATCHED: lambda job: jobs.dispatched([job], NOW),
    Happened.UNDELIVERED: jobs.undelivered,
    Happened.ANSWERED: lambda job: jobs.answered([job], NOW),
    Happened.ATTEMPT_ENDED: jobs.attempt_ended,
    Happened.BUDGET_SPENT: lambda job: jobs.budget_spent(job, Reason.TRIES_SPENT, NOW),
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
        "AVAILABLE": 2,
        "RUNNING": 4,
        "COMPLETED": 5,
        "DISCARDED": 6,
        "CANCELLED": 7,
    }
    assert int(state) == getattr(jobs, state.name)


def test_a_dispatch_counts_an_attempt_and_a_lost_hand_over_gives_it_back() -> None:
    """An attempt that provably never began costs nothing but a hand-over."""
    job = Job(1, None, b"", b"", 0)
    jobs.dispatched([job], NOW)
    assert (job.attempts, job.handovers, job.began_ns) == (1, 0, NOW)
    jobs.undelivered(job)
    assert (job.attempts, job.handovers, job.holder) == (0, 1, None)


def test_an_end_forgets_the_holder_and_notes_the_time() -> None:
    """Each final transition ends the lease in the job itself, so that no cycle of objects stays behind."""
    for how in (HOW[Happened.ANSWERED], HOW[Happened.BUDGET_SPENT], HOW[Happened.STOPPED]):
        job = _job(State.RUNNING)
        how(job)
        assert job.holder is None
        assert job.ended_ns == NOW
