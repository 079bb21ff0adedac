"""When a job may start, must have started, and must have ended."""

from __future__ import annotations

from typing import Any

import pytest

from relet.core.job import TABLE, Happened, State
from relet.core.limits import Limits
from relet.core.settings import QueueSettings
from relet.messages import Cancel, CancelJob, Extend, Goodbye, Recall
from relet.store.memory import MemoryStore
from relet.testing import LateStore

from .conftest import MS, S, Talk

WALL = 5_000 * S
"""What the play's clocks differ by."""


def _wall_ms(it: Talk) -> int:
    return (it.now + WALL) // MS


# --- Delays


@pytest.mark.parametrize("how", ["delay", "not before", "first asked a second ago"])
def test_a_job_for_later_starts_at_its_moment_and_never_early(talk: type[Talk], how: str) -> None:
    """It is `delayed` until then, and takes its turn at it; a delay counts from the first asking."""
    it = talk()
    client, worker = it.client(), it.worker(credit=1)
    if how == "not before":
        client.submit(b"x", not_before_ms=_wall_ms(it) + 2_000)
    else:
        client.submit(b"x", **{"delay": {"delay_ms": 2_000}}.get(how, {"delay_ms": 3_000, "age_ms": 1_000}))
    assert client.inquire(id=b"x".ljust(16, b"-")).state == "delayed"
    it.wait(2_000 * MS - 1)
    assert (it.state(b"x"), worker.got) == ("DELAYED", [])
    it.wait(1)
    assert worker.got == [b"x"]
    worker.complete(b"x")
    assert client.told() == [(b"x", "completed", b"done")]


def test_a_delay_counts_from_when_all_was_read(talk: type[Talk]) -> None:
    """Found by a benchmark: what came while the sockets were being read was up to a turn too early."""
    it = talk()
    client = it.client()
    client.submit(b"x", delay_ms=1_000, turn=False)
    it.server.turn(it.now, 0, lambda: it.now + 7 * MS)
    assert [job.due_ns - it.now for job in it.machine.jobs()] == [1_007 * MS]
    worker = it.worker(credit=1)
    it.wait(1_006 * MS)
    assert worker.got == []
    it.wait(1 * MS)
    assert worker.got == [b"x"]


@pytest.mark.parametrize("fields", [{"not_before_ms": 1}, {"delay_ms": 500, "age_ms": 500}])
def test_a_moment_that_has_passed_is_no_delay(talk: type[Talk], fields: dict[str, Any]) -> None:
    """It starts at once."""
    it = talk()
    worker = it.worker(credit=1)
    it.client().submit(b"x", **fields)
    assert worker.got == [b"x"]


def test_a_delayed_job_is_open_and_can_be_joined(talk: type[Talk]) -> None:
    """It counts for the limits, and who asks again is told its outcome; the second asking moves nothing."""
    it = talk(limits=Limits(jobs_max=1))
    first, second = it.client("a"), it.client("b")
    first.submit(b"x", delay_ms=1_000)
    assert it.machine.open == 1
    assert second.asks(b"y").code == "busy"
    assert second.asks(b"x", delay_ms=5_000, age_ms=1).joined
    it.wait(1 * S)
    worker = it.worker(credit=1)
    worker.complete(b"x")
    assert [client.told() for client in (first, second)] == [[(b"x", "completed", b"done")]] * 2


def test_a_delayed_job_is_cancelled_by_a_stop(talk: type[Talk]) -> None:
    """As every open job; nobody has had it, so no token finds it."""
    it = talk()
    client = it.client()
    client.submit_many(b"x", b"y", delay_ms=1_000)
    client.submit(b"z")
    it.stop()
    assert sorted(client.told()) == [(name, "broker_stopped", ()) for name in (b"x", b"y", b"z")]
    assert it.machine.open == 0


def test_a_delayed_job_can_be_cancelled_and_deserted(talk: type[Talk]) -> None:
    """Its timer goes with it."""
    it = talk()
    client, leaving = it.client("a"), it.client("b")
    client.submit(b"x", delay_ms=60_000)
    client.says(CancelJob(id=b"x".ljust(16, b"-")))
    leaving.submit(b"y", delay_ms=60_000, gone="cancel")
    leaving.lose()
    it.wait(1 * S)
    assert client.told() == [(b"x", "cancelled", ())]
    assert (it.machine.open, it.machine.deadlines.running) == (0, {})


def test_delayed_jobs_take_their_place_by_age(talk: type[Talk]) -> None:
    """The order is that of the acceptance, also among jobs that were accepted later and wait already."""
    it = talk()
    client = it.client()
    client.submit(b"1")
    client.submit(b"2", delay_ms=1_000)
    client.submit(b"3")
    client.submit(b"4", delay_ms=500)
    it.wait(1 * S)
    assert it.worker(credit=4).got == [b"1", b"2", b"3", b"4"]


def test_many_that_are_due_at_one_instant_come_in_steps(talk: type[Talk]) -> None:
    """`turn_steps_max` of them a turn; all come."""
    it = talk(limits=Limits(turn_steps_max=3))
    client = it.client()
    client.submit_many(*(b"%d" % number for number in range(10)), delay_ms=1_000)
    it.now += 1 * S
    it.server.turn(it.now, it.now + WALL)
    assert len(it.machine.queue) == 3
    it.wait(0)
    assert len(it.machine.queue) == 10


def test_jobs_of_other_queues_and_of_one_message_are_delayed_too(talk: type[Talk]) -> None:
    """Beside others of the same message's turn that are not."""
    it = talk()
    client = it.client()
    client.submit(b"now", queue="q", turn=False)
    client.submit(b"later", queue="q", delay_ms=1_000)
    worker = it.worker(queues=("q",), credit=2)
    assert worker.got == [b"now"]
    it.wait(1 * S)
    assert worker.got == [b"now", b"later"]


def test_a_delayed_job_waits_until_its_acceptance_is_safe_and_until_it_is_due(talk: type[Talk]) -> None:
    """Whichever comes last."""
    store = LateStore()
    it = talk(store=store)
    worker = it.worker(credit=2)
    client = it.client()
    client.submit(b"short", delay_ms=1_000)
    it.wait(2 * S)
    assert worker.got == []
    store.settle()
    it.turn()
    it.wait(0)
    assert worker.got == [b"short"]


def test_a_job_for_later_survives_a_restart(talk: type[Talk]) -> None:
    """It starts at its moment, in the next broker's life."""
    it = talk(store=MemoryStore())
    it.client().submit(b"x", delay_ms=2_000)
    it.wait(1 * S)
    it.begin()
    worker = it.worker(credit=1)
    it.wait(1 * S - 1)
    assert worker.got == []
    it.wait(2 * MS)
    assert worker.got == [b"x"]


# --- The start deadline


@pytest.mark.parametrize("age_ms", [0, 400])
def test_a_job_that_has_not_started_in_time_ends(talk: type[Talk], age_ms: int) -> None:
    """At the moment, and never early; it counts from the first asking."""
    it = talk()
    client = it.client()
    client.submit(b"x", start_ms=1_000, age_ms=age_ms)
    it.wait((1_000 - age_ms) * MS - 1)
    assert it.state(b"x") == "AVAILABLE"
    it.wait(1)
    ((outcome, _),) = client.outcomes
    assert (outcome.state, outcome.reason, outcome.attempts) == ("discarded", "start_deadline", 0)
    assert len(it.machine.kept) == 1
    assert it.worker(credit=1).got == []


def test_a_job_that_was_handed_over_counts_as_started(talk: type[Talk]) -> None:
    """Held, and then started long after: nothing ends it."""
    it = talk()
    client, worker = it.client(), it.worker(credit=1)
    client.submit(b"x", start_ms=1_000)
    it.wait(5 * S)
    assert it.state(b"x") == "HELD"
    assert it.job(b"x").timer is None
    worker.complete(b"x")
    assert client.told() == [(b"x", "completed", b"done")]


@pytest.mark.parametrize("when", [500 * MS, 5 * S])
def test_a_hand_over_that_comes_back_is_no_start(talk: type[Talk], when: int) -> None:
    """Before the moment it waits for it again; after it, it ends at once."""
    it = talk()
    client, worker = it.client(), it.worker(credit=1)
    client.submit(b"x", start_ms=1_000)
    it.wait(when)
    worker.says(Goodbye())
    if when < 1 * S:
        assert it.state(b"x") == "AVAILABLE"
        it.wait(1 * S - when - 1)
        assert client.outcomes == []
        it.wait(1)
    assert client.told() == [(b"x", "start_deadline", ())]


def test_a_hand_back_whose_pause_ends_too_late_ends_the_job(talk: type[Talk]) -> None:
    """The next moment at which it could start lies beyond its start deadline."""
    it = talk()
    client, worker = it.client(), it.worker(credit=1)
    client.submit(b"x", start_ms=1_000)
    it.wait(1 * S - 10 * MS)
    worker.hand_back(b"x")
    assert client.told() == [(b"x", "start_deadline", ())]


def test_who_has_had_an_attempt_has_started(talk: type[Talk]) -> None:
    """The start deadline is over and done with, whatever became of the attempt."""
    it = talk()
    client, worker = it.client(), it.worker(credit=1)
    client.submit(b"x", start_ms=1_000)
    worker.fail(b"x")
    it.wait(5 * S)
    assert (it.state(b"x"), client.outcomes) == ("AVAILABLE", [])


def test_a_worker_of_2010_starts_what_it_gets(talk: type[Talk]) -> None:
    """The moment passes unnoticed."""
    it = talk()
    client, worker = it.client(), it.worker_2010()
    worker.ask()
    client.submit(b"x", start_ms=1_000)
    assert it.job(b"x").timer is None
    it.wait(2 * S)
    worker.answer(b"x")
    assert client.told() == [(b"x", "completed", b"done")]


# --- The deadline


@pytest.mark.parametrize("state", ["DELAYED", "AVAILABLE", "HELD", "RUNNING"])
@pytest.mark.parametrize("age_ms", [0, 400])
def test_a_job_ends_at_its_deadline_wherever_it_stands(talk: type[Talk], state: str, age_ms: int) -> None:
    """At the moment, and never early; a worker that has it is told, and what it says then is refused."""
    it = talk()
    client = it.client()
    client.submit(b"x", deadline_ms=2_000, age_ms=age_ms)
    worker = it.worker(credit=1) if state != "AVAILABLE" else None
    if worker is not None and state in ("RUNNING", "DELAYED"):
        worker.start(b"x")
        if state == "DELAYED":
            worker.fail(b"x", retry_ms=1_599)
    assert it.state(b"x") == state
    it.wait(1_599 * MS)
    if state == "DELAYED":
        assert it.state(b"x") == "AVAILABLE"
    it.wait((401 - age_ms) * MS - 1) if age_ms == 0 else it.wait(1 * MS - 1)
    assert client.outcomes == []
    it.wait(1)
    ((outcome, _),) = client.outcomes
    assert (outcome.state, outcome.reason) == ("discarded", "deadline")
    assert it.machine.deadlines.running == {}
    if worker is not None and state != "DELAYED":
        (cancel,) = worker.take(Cancel)
        assert (cancel.token, cancel.reason) == (worker.token(b"x"), "deadline")
        worker.complete(b"x")
        assert worker.refused() == [(worker.n, "not_open")]
    assert [entry.cause for entry in outcome.ledger] == {"RUNNING": ["deadline"], "DELAYED": ["failed"]}.get(state, [])


def test_the_rows_of_the_table() -> None:
    """From every open state to DISCARDED, and from no other."""
    rows = {row.state: row.to for row in TABLE if row.happened is Happened.DEADLINE_PASSED}
    open_states = (State.DELAYED, State.BLOCKED, State.AVAILABLE, State.HELD, State.RUNNING)
    assert rows == dict.fromkeys(open_states, State.DISCARDED)


@pytest.mark.parametrize(("retry_ms", "ends"), [(1_999, False), (2_000, True), (60_000, True)])
def test_an_attempt_whose_moment_lies_beyond_the_deadline_is_not_waited_for(
    talk: type[Talk], retry_ms: int, ends: bool
) -> None:
    """The client is told at once."""
    it = talk()
    client, worker = it.client(), it.worker(credit=1)
    client.submit(b"x", deadline_ms=2_000)
    worker.fail(b"x", kind="Oops", retry_ms=retry_ms)
    assert client.told() == ([(b"x", "deadline", ())] if ends else [])


@pytest.mark.parametrize("tries", [1, 2])
def test_spent_tries_are_the_reason_before_the_deadline_is(talk: type[Talk], tries: int) -> None:
    """Where both are so."""
    it = talk()
    client, worker = it.client(), it.worker(credit=1)
    client.submit(b"x", deadline_ms=2_000, tries=tries)
    worker.fail(b"x", retry_ms=60_000)
    assert client.told() == [(b"x", "tries_spent" if tries == 1 else "deadline", ())]


@pytest.mark.parametrize(
    ("limits", "moment", "cause"),
    [
        ({"run_ms": 1_000}, 1 * S, "expired"),
        ({"silence_ms": 700}, 700 * MS, "silent"),
        ({"run_ms": 5_000, "silence_ms": 5_000}, 2 * S, "deadline"),
        ({}, 2 * S, "deadline"),
    ],
)
def test_of_several_limits_the_first_one_counts(
    talk: type[Talk], limits: dict[str, int], moment: int, cause: str
) -> None:
    """A job has one timer, for whatever comes first; the deadline still stands when it waits again."""
    it = talk()
    client, worker = it.client(), it.worker(credit=1)
    client.submit(b"x", deadline_ms=2_000, tries=5, **limits)
    worker.start(b"x")
    it.wait(moment - 1)
    assert it.state(b"x") == "RUNNING"
    it.wait(1)
    (job,) = it.machine.kept if cause == "deadline" else it.machine.jobs()
    assert [entry.cause for entry in job.ledger] == [cause]
    it.wait(2 * S - moment)
    assert client.told() == [(b"x", "deadline", ())]


def test_reports_and_extensions_do_not_move_the_deadline(talk: type[Talk]) -> None:
    """Neither the silence that begins anew nor a longer run limit."""
    it = talk()
    client, worker = it.client(), it.worker(credit=1)
    client.submit(b"x", deadline_ms=2_000, run_ms=1_000, silence_ms=900)
    worker.start(b"x")
    for _ in range(3):
        it.wait(600 * MS)
        worker.progress(b"x")
        worker.reports(Extend, b"x", (), {"run_ms": 60_000})
    it.wait(200 * MS - 1)
    assert client.outcomes == []
    it.wait(1)
    assert client.told() == [(b"x", "deadline", ())]


def test_a_late_answer_counts_until_the_deadline(talk: type[Talk]) -> None:
    """And not after it."""
    for late in (False, True):
        it = talk()
        client, worker = it.client(), it.worker(credit=1)
        client.submit(b"x", deadline_ms=2_000, run_ms=500)
        worker.start(b"x")
        it.wait((2_000 if late else 1_999) * MS)
        worker.complete(b"x")
        assert client.told() == [(b"x", "deadline", ()) if late else (b"x", "completed", b"done")]


def test_what_is_left_travels_with_the_job(talk: type[Talk]) -> None:
    """Counted from the first asking, less what it waited; nothing is said of what has none."""
    it = talk()
    client = it.client()
    client.submit(b"x", deadline_ms=5_000, age_ms=1_000)
    client.submit(b"y")
    client.submit(b"z", start_ms=5_000)
    it.wait(1_500 * MS)
    worker = it.worker(credit=4)
    assert [said.deadline_ms for said, _ in worker.jobs] == [2_500, None, None]
    it.wait(500 * MS)
    worker.fail(b"x")
    assert worker.jobs[-1][0].deadline_ms == 2_000


@pytest.mark.parametrize("state", ["AVAILABLE", "HELD"])
def test_an_attempt_is_not_begun_when_less_is_left_than_it_takes(talk: type[Talk], state: str) -> None:
    """Where it waits and where it is held; one that has begun may go on to the deadline."""
    it = talk()
    client = it.client()
    client.submit(b"x", deadline_ms=5_000, takes_ms=3_000)
    worker = it.worker(credit=1) if state == "HELD" else None
    it.wait(2_000 * MS - 1)
    assert it.state(b"x") == state
    it.wait(1)
    assert client.told() == [(b"x", "deadline", ())]
    if worker is not None:
        assert [it.reason for it in worker.take(Cancel)] == ["deadline"]


def test_what_an_attempt_takes_does_not_end_one_that_has_begun(talk: type[Talk]) -> None:
    """It has until the deadline."""
    it = talk()
    client, worker = it.client(), it.worker(credit=2)
    client.submit(b"x", deadline_ms=5_000, takes_ms=3_000)
    worker.start(b"x")
    it.wait(5_000 * MS - 1)
    assert client.outcomes == []
    it.wait(1)
    assert client.told() == [(b"x", "deadline", ())]


@pytest.mark.parametrize(("failed_at", "ends"), [(1_999, False), (2_000, True)])
def test_another_attempt_must_have_time_enough(talk: type[Talk], failed_at: int, ends: bool) -> None:
    """A failure with less left than an attempt takes is the end."""
    it = talk()
    client, worker = it.client(), it.worker(credit=2)
    client.submit(b"x", deadline_ms=5_000, takes_ms=3_000)
    worker.start(b"x")
    it.wait(failed_at * MS)
    worker.fail(b"x")
    assert client.told() == ([(b"x", "deadline", ())] if ends else [])
    assert len(worker.jobs) == (1 if ends else 2)


def test_the_start_deadline_is_the_reason_where_it_came_first(talk: type[Talk]) -> None:
    """Of both that passed while the job waited."""
    for fields, reason in (
        ({"start_ms": 1_000, "deadline_ms": 5_000, "takes_ms": 3_000}, "start_deadline"),
        ({"start_ms": 3_000, "deadline_ms": 5_000, "takes_ms": 3_000}, "deadline"),
    ):
        it = talk()
        client = it.client()
        client.submit(b"x", **fields)
        it.wait(10 * S)
        assert client.told() == [(b"x", reason, ())]


def test_a_resend_to_another_broker_moves_no_deadline(talk: type[Talk]) -> None:
    """What is over when the job is asked for again is over: it is told, and not done."""
    it = talk()
    client, worker = it.client(), it.worker(credit=1)
    client.submit(b"x", deadline_ms=2_000, age_ms=2_000)
    it.turn()
    assert client.told() == [(b"x", "deadline", ())]
    assert worker.got == []


def test_more_jobs_than_one_turn_ends_are_not_given_out_meanwhile(talk: type[Talk]) -> None:
    """Three of ten are ended in a turn; a worker that asks in it gets none of the other seven."""
    it = talk(limits=Limits(turn_steps_max=3))
    client = it.client()
    client.submit_many(*(b"%d" % number for number in range(10)), deadline_ms=1_000)
    client.submit(b"other")
    worker = it.worker()
    it.now += 1 * S
    worker.ask(10, turn=False)
    it.server.turn(it.now, it.now + WALL)
    assert worker.got == [b"other"]
    it.wait(0)
    assert [reason for _, reason, _ in client.told()] == ["deadline"] * 10


def test_a_job_that_is_recalled_keeps_its_deadline(talk: type[Talk]) -> None:
    """Whichever is sooner: that, or the moment by which it must be back."""
    for deadline_ms, reason in ((2_000, "deadline"), (60_000, "recalled")):
        it = talk(limits=Limits(recall_ns=100 * MS, liveness_ns=5 * S))
        client, busy = it.client(), it.worker("busy", credit=2)
        client.submit(b"long")
        client.submit(b"x", deadline_ms=deadline_ms)
        busy.start(b"long")
        idle = it.worker("idle", credit=1)
        it.wait(500 * MS)
        assert len(busy.take(Recall)) == 1
        assert it.machine.queue.recalls == 1
        it.wait(1_500 * MS - 1)
        assert idle.got == []
        it.wait(5 * S)
        assert [cancel.reason for cancel in busy.take(Cancel)] == [reason]
        assert it.machine.queue.recalls == 0
        assert idle.got == ([b"x"] if reason == "recalled" else [])
        assert client.told() == ([(b"x", "deadline", ())] if reason == "deadline" else [])


def test_a_recall_that_is_forgotten_leaves_the_deadline(talk: type[Talk]) -> None:
    """A session that begins on another connection has not heard it; the job is held as before."""
    it = talk(limits=Limits(recall_ns=100 * MS))
    client, busy = it.client(), it.worker("busy", credit=2)
    client.submit(b"long")
    client.submit(b"x", deadline_ms=3_000)
    busy.start(b"long")
    it.worker("idle", credit=1)
    it.wait(500 * MS)
    assert len(busy.take(Recall)) == 1
    busy.hello(running=(b"long",), held=(b"x",))
    it.wait(2_500 * MS)
    assert client.told() == [(b"x", "deadline", ())]


def test_a_session_that_is_back_claims_no_longer_than_the_deadline(talk: type[Talk]) -> None:
    """The deadline of a claimed attempt is watched on."""
    it = talk()
    client, worker = it.client(), it.worker(credit=1)
    client.submit(b"x", deadline_ms=20_000)
    worker.start(b"x")
    worker.beats = False
    it.wait(10 * S)
    assert it.state(b"x") == "AVAILABLE"
    worker.beats = True
    assert worker.hello(running=(b"x",)).lost == ()
    it.wait(10 * S - 1)
    assert it.state(b"x") == "RUNNING"
    it.wait(1)
    assert client.told() == [(b"x", "deadline", ())]


def test_a_deadline_waits_until_the_acceptance_is_safe(talk: type[Talk]) -> None:
    """What is not known to be kept does not end; then it does at once."""
    store = LateStore()
    it = talk(store=store)
    client, worker = it.client(), it.worker(credit=1)
    client.submit(b"x", deadline_ms=1_000)
    it.wait(5 * S)
    assert client.outcomes == []
    store.settle()
    it.turn()
    it.wait(0)
    store.settle()
    it.turn()
    assert client.told() == [(b"x", "deadline", ())]
    assert worker.got == []


def test_a_queue_may_say_when_its_jobs_end(talk: type[Talk]) -> None:
    """Where the job does not; jobs of 2010 in it, too."""
    it = talk()
    it.machine.set_queue("default", QueueSettings(start_ns=1 * S, total_ns=5 * S))
    client, old = it.client(), it.client_2010()
    client.submit(b"queue's")
    client.submit(b"own", start_ms=3_000)
    old.submit(b"old")
    it.wait(1 * S)
    assert client.told() == [(b"queue's", "start_deadline", ())]
    assert old.told == [b""]
    it.wait(2 * S)
    assert client.told() == [(b"own", "start_deadline", ())]


def test_a_redriven_job_has_its_time_before_it(talk: type[Talk]) -> None:
    """Its deadline counts from when it is redriven, however old the first asking was."""
    it = talk()
    client = it.client()
    client.submit(b"x", deadline_ms=2_000, age_ms=1_500)
    it.wait(500 * MS)
    ((letter),) = it.machine.kept
    it.machine.requests.redrive(letter, it.now)
    it.machine.requests.accept(it.now)
    it.wait(2 * S - 1)
    assert it.state(b"x") == "AVAILABLE"
    it.wait(1)
    assert it.machine.open == 0


# --- What is refused, and says what to change


WRONG: dict[str, dict[str, Any]] = {
    "both say when": {"delay_ms": 1, "not_before_ms": 1},
    "delay_ms lies too far ahead": {"delay_ms": 366 * 86_400_000 + 1},
    "not_before_ms lies too far": {"not_before_ms": 10**15},
    "start_ms is 31622400001: at most 31622400000": {"start_ms": 366 * 86_400_000 + 1},
    "(--ahead-max)": {"deadline_ms": 366 * 86_400_000 + 1},
    "later than deadline_ms, 5": {"start_ms": 6, "deadline_ms": 5},
    "takes_ms is 5: it must be less than the deadline_ms of the job (there is none)": {"takes_ms": 5},
    "takes_ms is 5: it must be less than the deadline_ms of the job (here 5)": {"takes_ms": 5, "deadline_ms": 5},
    "delay_ms lets the job start when": {"delay_ms": 5, "deadline_ms": 5},
    "delay_ms lets": {"delay_ms": 3, "deadline_ms": 5, "takes_ms": 2},
    "delay_ms": {"delay_ms": 3, "start_ms": 3},
    "not_before_ms lets the job": {"not_before_ms": 6_000_005, "deadline_ms": 5},
}


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_is_refused_by_name(talk: type[Talk], text: str) -> None:
    """`bad_request`, with what to change; nothing is accepted."""
    it = talk()
    admitted = it.client().asks(b"x", **WRONG[text])
    assert (admitted.code, admitted.job) == ("bad_request", b"")
    assert text in admitted.text
    assert it.machine.open == 0


def test_a_delay_is_held_against_the_deadlines_of_the_queue(talk: type[Talk]) -> None:
    """A job that could never start is refused, whoever has set the deadline."""
    it = talk()
    it.machine.set_queue("q", QueueSettings(total_ns=5 * S))
    client = it.client()
    assert client.asks(b"x", queue="q", delay_ms=5_000).code == "bad_request"
    assert client.asks(b"y", queue="q", delay_ms=4_999).code == ""
    assert client.asks(b"z", queue="q", takes_ms=4_999).code == ""


def test_what_is_at_its_bound_is_taken(talk: type[Talk]) -> None:
    """The farthest of each."""
    it = talk()
    client = it.client()
    year = 366 * 86_400_000
    assert client.asks(b"1", delay_ms=year).code == ""
    assert client.asks(b"2", not_before_ms=_wall_ms(it) + year).code == ""
    assert client.asks(b"3", start_ms=year, deadline_ms=year, takes_ms=year - 1).code == ""


def test_a_job_may_do_without_the_deadlines_of_its_queue(talk: Any) -> None:
    """`start_ms` and `deadline_ms`: "nil: as its queue says; 0: none"."""
    it = talk()
    it.machine.set_queue("q", QueueSettings(start_ns=1 * S, total_ns=2 * S))
    client = it.client()
    client.submit(b"usual", queue="q")
    client.submit(b"waits", queue="q", start_ms=0)
    client.submit(b"takes", queue="q", start_ms=5_000, deadline_ms=0)
    client.submit(b"free", queue="q", start_ms=0, deadline_ms=0)
    it.wait(3 * S)
    assert client.told() == [(b"usual", "start_deadline", ()), (b"waits", "deadline", ())]
    it.wait(3 * S)
    assert client.told() == [(b"takes", "start_deadline", ())]
    it.wait(3_600 * S)
    assert it.machine.open == 1
