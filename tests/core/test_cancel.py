"""Cancelling, rule by rule of docs/protocol.md (message `cancel` of a client): who may end a job, what each hears of
it, and what becomes of the worker that has it.

Each test cites the sentence that it shows, or says what was found.
"""

from __future__ import annotations

from typing import Any

import pytest

from relet.core.job import Job
from relet.core.limits import Limits
from relet.messages import Accepted, Cancel, CancelJob, Error, Finished, JobState, Shared
from relet.store.memory import MemoryStore
from relet.testing import LateStore, census

MS = 1_000_000
S = 1_000 * MS


def name(text: bytes) -> bytes:
    """The request id that `submit` makes of a body."""
    return text.ljust(16, b"-")


def cancel(client: Any, what: bytes = b"", **fields: Any) -> Any:
    """A client cancels, by body or otherwise; returns the `state` that it was answered with, if it was."""
    turn = fields.pop("turn", True)
    client.says(CancelJob(**({"id": name(what)} if what else {}), **fields), turn=turn)
    return next(iter(client.take(JobState)), None)


def bring_to(state: str, worker: Any) -> None:
    """The job `a`, which waits, comes to stand so."""
    if state != "AVAILABLE":
        worker.ask()
    if state == "RUNNING":
        worker.start(b"a")
    elif state == "DELAYED":
        worker.fail(b"a", retry_ms=1_000)


# --- The job ends


@pytest.mark.parametrize("state", ["DELAYED", "AVAILABLE", "HELD", "RUNNING"])
@pytest.mark.parametrize("keeps", [False, True], ids=["memory only", "with a store"])
def test_a_job_that_nobody_else_wants_ends_wherever_it_stands(talk: Any, state: str, keeps: bool) -> None:
    """The rule: "Where nobody else is there who waits for the job, the job ends, wherever it stands"; "It is never
    tried again; a worker that has it is told `cancel`".
    """
    it = talk(store=MemoryStore() if keeps else None, tries=5)
    c, w = it.client(), it.worker()
    c.submit(b"a")
    bring_to(state, w)
    assert it.state(b"a") == state
    token = it.job(b"a").token
    assert cancel(c, b"a") is None, "the outcome is the answer"
    assert c.told() == [(b"a", "cancelled", ())]
    assert [(said.token, said.reason) for said in w.take(Cancel)] == (
        [(token, "cancelled")] if state in ("HELD", "RUNNING") else []
    )
    assert (it.machine.open, it.counters.jobs_cancelled) == (0, 1)
    w.ask(3)
    it.wait(10 * S)
    assert len(w.got) == (state != "AVAILABLE")


def test_the_outcome_says_cancelled_with_its_attempts(talk: Any) -> None:
    """`outcome`: `state` `cancelled`, `reason` `cancelled`, and the attempts that counted."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.start(b"a")
    cancel(c, b"a")
    ((said, body),) = c.outcomes
    assert (said.state, said.reason, said.attempts, said.n, body) == ("cancelled", "cancelled", 1, 1, ())


@pytest.mark.parametrize("report", ["complete", "fail", "hand_back", "partial", "progress"])
def test_a_late_report_is_refused(talk: Any, report: str) -> None:
    """The rule: "its later reports are refused (`not_open`)"; they change nothing."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.start(b"a")
    cancel(c, b"a")
    args = (b"x",) if report in ("complete", "partial") else ()
    n = getattr(w, report)(b"a", *args)
    assert w.refused() == [(n, "not_open")]
    assert c.told() == [(b"a", "cancelled", ())]
    assert (it.counters.jobs_completed, it.machine.open) == (0, 0)


def test_a_late_answer_of_2010_is_refused(talk: Any) -> None:
    """A worker of 2010 hears of no cancel; what it answers is refused and counted."""
    it = talk()
    c, w = it.client(), it.worker_2010()
    w.ask()
    c.submit(b"a")
    cancel(c, b"a")
    w.answer(b"a")
    assert c.told() == [(b"a", "cancelled", ())]
    assert it.counters.answers_refused == 1


def test_who_does_not_heed_recalls_is_told_nothing(talk: Any) -> None:
    """Feature `recalls`: "it heeds `recall` and `cancel`; without it, neither is sent"."""
    it = talk()
    c, w = it.client(), it.worker(credit=1, features=("starts",))
    c.submit(b"a")
    cancel(c, b"a")
    assert w.take(Cancel) == []
    assert c.told() == [(b"a", "cancelled", ())]


def test_an_earlier_attempt_cannot_answer_it_any_more(talk: Any) -> None:
    """All tokens of the job are void, that of an attempt before among them."""
    it = talk()
    c, w = it.client(), it.worker(credit=2)
    c.submit(b"a")
    first = w.last(b"a").token
    w.start(b"a")
    w.fail(b"a")
    cancel(c, b"a")
    for token in {first, w.last(b"a").token}:
        assert w.refused() in ([], [(1, "not_open")])
        n = w.complete(token)
        assert w.refused() == [(n, "not_open")]


def test_a_cancel_frees_its_room(talk: Any) -> None:
    """What is cancelled counts in no limit any more."""
    it = talk(limits=Limits(jobs_max=2))
    c = it.client()
    c.submit_many(b"a", b"b")
    assert c.asks(b"c").code == "busy"
    cancel(c, b"a")
    assert c.asks(b"c").code == ""


# --- It goes on for others


def test_it_goes_on_for_who_else_waits(talk: Any) -> None:
    """The rule: "Where somebody else is there who waits for it ... the job goes on for them"; who cancelled hears
    `detached`.
    """
    it = talk()
    c, d, w = it.client("c"), it.client("d"), it.worker(credit=1)
    c.submit(b"a")
    d.submit(b"a")
    assert cancel(c, b"a") is None
    assert c.told() == [(b"a", "detached", ())]
    assert w.take(Cancel) == []
    w.complete(b"a", b"yes")
    assert (c.told(), d.told()) == ([], [(b"a", "completed", b"yes")])
    assert it.counters.jobs_cancelled == 0


def test_the_last_who_leaves_ends_it(talk: Any) -> None:
    """However many there are: each leaves with `detached`, and the job ends with the last one."""
    it = talk()
    clients = [it.client(f"c{number}") for number in range(4)]
    for client in clients:
        client.submit(b"a")
    for client in clients:
        cancel(client, b"a")
    assert [client.told() for client in clients] == [[(b"a", "detached", ())]] * 3 + [[(b"a", "cancelled", ())]]
    assert it.machine.open == 0


def test_one_session_that_waits_by_two_names_leaves_by_each(talk: Any) -> None:
    """The rule: "on this session by another name": by its id, then by the job's id."""
    it = talk()
    c = it.client()
    job_id = c.asks(b"a").job
    assert c.inquire(job=job_id, wait=True).state == "available"
    cancel(c, b"a")
    assert c.told() == [(b"a", "detached", ())]
    cancel(c, job=job_id)
    assert c.told() == [(job_id, "cancelled", ())]


def test_by_the_id_of_the_job_all_that_is_waited_for_is_cancelled(talk: Any) -> None:
    """The rule: "under `job`, all that it waits for of that job": an outcome for each name."""
    it = talk()
    c = it.client()
    job_id = c.asks(b"a").job
    c.inquire(job=job_id, wait=True)
    assert cancel(c, job=job_id) is None
    assert sorted(c.told()) == sorted([(b"a", "cancelled", ()), (job_id, "cancelled", ())])


def test_who_only_knows_the_name_cannot_take_it_from_who_waits(talk: Any) -> None:
    """A session that waits for nothing ends no job that somebody waits for; it hears where it stands."""
    it = talk()
    c, d = it.client("c"), it.client("d")
    c.submit(b"a")
    said = cancel(d, b"a")
    assert (said.id, said.state) == (name(b"a"), "available")
    assert (c.told(), d.told(), it.machine.open) == ([], [], 1)


def test_detached_is_told_once_and_owed_no_receipt_of_the_job(talk: Any) -> None:
    """The rule: "It is told that once, and it is kept nowhere": the job's own outcome waits for its own receipts."""
    it = talk()
    c, d, w = it.client("c"), it.client("d"), it.worker(credit=1)
    c.submit(b"a")
    d.submit(b"a")
    cancel(c, b"a")
    w.complete(b"a")
    d.receive()
    assert len(it.machine.requests.outcomes) == 0
    c.receive()
    assert [said.n for said, _ in c.outcomes] == [1]


def test_a_job_that_ends_with_its_askers_goes_on_with_those_who_stay(talk: Any) -> None:
    """`gone: "cancel"` after a detach: it ends when the last one who stayed is gone, not before."""
    it = talk()
    c, d = it.client("c"), it.client("d")
    c.submit(b"a", gone="cancel")
    d.submit(b"a", gone="cancel")
    cancel(c, b"a")
    c.lose()
    it.wait(5 * S)
    assert it.machine.open == 1
    d.lose()
    it.wait(5 * S)
    assert it.machine.open == 0


# --- What was not waited for


def test_what_was_handed_over_is_cancelled_by_its_id_and_by_the_jobs(talk: Any) -> None:
    """The rule: "where it waited for nothing (the job was submitted with `wait: false`, or on another connection),
    `state`, as it stands after the cancel".
    """
    it = talk()
    c, d = it.client("c"), it.client("d")
    c.asks(b"a", wait=False)
    job_id = c.asks(b"b", wait=False).job
    said = cancel(c, b"a")
    assert (said.id, said.state, said.reason) == (name(b"a"), "cancelled", "cancelled")
    said = cancel(d, job=job_id)
    assert (said.job, said.state, said.reason) == (job_id, "cancelled", "cancelled")
    assert (it.machine.open, c.told(), d.told()) == (0, [], [])


def test_who_comes_back_and_cancels_before_it_asks_again_ends_the_job(talk: Any) -> None:
    """The rule: "Whoever is away, and waited for it before, has no say": least of all the one who cancels, on its
    connection of before.
    """
    it = talk()
    c, w = it.client("c"), it.worker(credit=1)
    c.submit(b"a")
    c.lose()
    c.connect()
    c.hello()
    assert cancel(c, b"a").state == "cancelled"
    assert (len(w.take(Cancel)), it.machine.open) == (1, 0)
    c.submit(b"a", age_ms=1)
    assert c.told() == [(b"a", "cancelled", ())]


def test_who_is_away_hears_of_the_end_when_it_asks_again(talk: Any) -> None:
    """The rule: "when it asks again, it is told the outcome"."""
    it = talk()
    c, d = it.client("c"), it.client("d")
    c.submit(b"a")
    d.submit(b"a")
    c.lose()
    cancel(d, b"a")
    assert d.told() == [(b"a", "cancelled", ())]
    c.connect()
    c.hello()
    c.submit(b"a", age_ms=5)
    assert c.told() == [(b"a", "cancelled", ())]


# --- What cannot be cancelled


def test_a_cancel_that_crosses_with_the_outcome_changes_nothing(talk: Any) -> None:
    """The rule: "A cancel that crosses with the outcome finds a job that has ended, and changes nothing": the outcome,
    then `state`.
    """
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.complete(b"a", b"yes", turn=False)
    said = cancel(c, b"a")
    assert (said.state, said.attempts) == ("completed", 1)
    assert c.told() == [(b"a", "completed", b"yes")]
    assert it.counters.jobs_cancelled == 0


def test_a_cancel_that_comes_before_the_answer_in_one_turn_is_too_late(talk: Any) -> None:
    """Workers are heard before clients: an answer that lies there counts, whatever order both came in."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    cancel(c, b"a", turn=False)
    w.complete(b"a", b"yes")
    assert c.told() == [(b"a", "completed", b"yes")]
    assert w.take(Cancel) == []


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_a_job_that_has_ended_otherwise_is_left_alone(talk: Any, end: str) -> None:
    """Saying it twice is harmless, and a failure stays one."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    if end == "failed":
        w.fail(b"a", final=True)
    else:
        cancel(c, b"a")
    assert len(c.told()) == 1
    said = cancel(c, b"a")
    assert said.reason == end
    assert c.told() == []
    assert it.counters.jobs_cancelled == (end == "cancelled")


def test_what_is_not_known_is_unknown(talk: Any) -> None:
    """The rule: "A job that the broker does not know ... is `unknown` or `expired` in that `state`"."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    assert cancel(c, b"a").state == "unknown"
    assert cancel(c, job=b"\x01" * 16).state == "unknown"
    c.submit(b"a")
    w.complete(b"a")
    c.receive()
    assert cancel(c, b"a").state == "unknown"
    old = c.asks(b"b", wait=False).job
    w.ask()
    w.complete(b"b")
    it.wait(3_601 * S)
    assert (cancel(c, b"b").state, cancel(c, job=old).state) == ("expired", "expired")


def test_nobody_cancels_the_job_of_another_principal(talk: Any) -> None:
    """The rule: "or that belongs to another principal, is `unknown`", by either name, and the job goes on."""
    it = talk()
    c, d = it.client("c", principal="p"), it.client("d", principal="q")
    job_id = c.asks(b"a").job
    assert [cancel(d, b"a").state, cancel(d, job=job_id).state] == ["unknown", "unknown"]
    assert it.machine.open == 1
    cancel(c, job=job_id)
    assert c.told() == [(b"a", "cancelled", ())]


def test_a_cancel_that_names_nothing_is_a_bad_request(talk: Any) -> None:
    """`bad_request`: "is an `inquire` or a `cancel` that names neither a request nor a job"."""
    it = talk()
    c = it.client()
    c.says(CancelJob())
    ((said),) = c.take(Error)
    assert (said.code, said.of) == ("bad_request", "cancel")
    assert said.text


def test_who_has_no_session_is_told_so(talk: Any) -> None:
    """A `cancel` before a hello: `no_session`."""
    it = talk()
    c = it.client(hello=False)
    c.says(CancelJob(id=name(b"a")))
    ((said),) = c.take(Error)
    assert (said.code, said.of) == ("no_session", "cancel")


def test_a_cancel_carries_a_receipt(talk: Any) -> None:
    """`received`: cumulative, as in whatever a client says."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.complete(b"a")
    assert len(it.machine.requests.outcomes) == 1
    cancel(c, b"b", received=1)
    assert len(it.machine.requests.outcomes) == 0


def test_the_receipt_of_one_who_has_gone_counts_and_its_cancel_does_not(talk: Any) -> None:
    """A connection that has gone: what was received counts, though it is read late; nothing else does."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.complete(b"a")
    c.submit(b"b")
    cancel(c, b"b", received=1, turn=False)
    c.lose()
    assert len(it.machine.requests.outcomes) == 0
    assert it.state(b"b") == "AVAILABLE"


# --- Asked again


def test_asked_again_it_is_told_cancelled_until_it_was_received(talk: Any) -> None:
    """The rule: "it is told `cancelled` again as any outcome is, until it was received; after that, the id is a new
    request".
    """
    it = talk()
    c, w = it.client(), it.worker()
    c.submit(b"a")
    cancel(c, b"a")
    c.submit(b"a", age_ms=1)
    assert c.told() == [(b"a", "cancelled", ())] * 2
    c.says(CancelJob(id=name(b"z"), received=2))
    c.submit(b"a", age_ms=2)
    w.ask()
    w.complete(b"a", b"new")
    assert c.told() == [(b"a", "completed", b"new")]


def test_asked_again_after_detached_it_joins_the_job(talk: Any) -> None:
    """The rule: "After `detached` the client has asked for nothing: to submit the id again joins the job"."""
    it = talk()
    c, d, w = it.client("c"), it.client("d"), it.worker(credit=1)
    c.submit(b"a")
    d.submit(b"a")
    cancel(c, b"a")
    assert c.asks(b"a", age_ms=1).joined
    w.complete(b"a", b"yes")
    assert c.told() == [(b"a", "detached", ()), (b"a", "completed", b"yes")]
    assert d.told() == [(b"a", "completed", b"yes")]


def test_cancelled_and_asked_again_in_one_breath(talk: Any) -> None:
    """Messages of one connection count in their order: the job has ended when its id is asked for again."""
    it = talk()
    c = it.client()
    c.submit(b"a", turn=False)
    cancel(c, b"a", turn=False)
    c.submit(b"a", age_ms=1)
    assert c.told() == [(b"a", "cancelled", ())] * 2
    assert it.machine.open == 0


# --- With a store


def test_a_job_whose_acceptance_is_not_safe_yet_is_cancelled_all_the_same(talk: Any) -> None:
    """The rule: "A cancel is heeded also before the acceptance of its job is safe: the job is then never handed over";
    nothing is told before both are safe.
    """
    store = LateStore()
    it = talk(store=store)
    c, w = it.client(), it.worker(credit=2)
    c.submit(b"a", turn=False)
    c.submit(b"b", turn=False)
    cancel(c, b"a", turn=False)
    it.turn()
    assert (it.machine.open, c.told(), w.got) == (1, [], [])
    store.settle(10)
    it.turn()
    assert c.told() == [(b"a", "cancelled", ())]
    assert w.got == [b"b"]
    assert it.counters.jobs_cancelled == 1


def test_a_worker_stops_only_when_the_end_is_safe(talk: Any) -> None:
    """The rule: "a worker that has it is told `cancel` once that is safe": else a broker that dies would let a job
    again whose worker has given it up.
    """
    store = LateStore()
    it = talk(store=store)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    store.settle(10)
    it.turn()
    w.start(b"a")
    cancel(c, b"a")
    it.turn()
    assert (w.take(Cancel), c.told()) == ([], [])
    store.settle(10)
    it.turn()
    assert (len(w.take(Cancel)), len(c.told())) == (1, 1)


def test_the_end_is_kept_across_a_restart(talk: Any) -> None:
    """A cancelled job stays so: it is not run again, and who asks for it is told."""
    it = talk(store=MemoryStore())
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    c.submit(b"b")
    w.start(b"a")
    cancel(c, b"a")
    cancel(c, b"b")
    it.begin()
    assert it.machine.open == 0
    d = it.client("d")
    for body in (b"a", b"b"):
        d.submit(body, age_ms=1)
    assert d.told() == [(b"a", "cancelled", ()), (b"b", "cancelled", ())]


def test_accepted_and_cancelled_in_one_turn_is_written_in_that_order(talk: Any) -> None:
    """A store sees the acceptance before the end, so that a load makes a final job of both."""
    store = MemoryStore()
    seen: list[Any] = []
    append = store.append
    store.append = lambda turn, records: (seen.extend(records), append(turn, records))[1]  # type: ignore[method-assign]
    it = talk(store=store)
    c = it.client()
    c.submit(b"a", turn=False)
    cancel(c, b"a")
    assert [type(record) for record in seen] == [Accepted, Shared, Finished]
    before = census.persisted(it.machine)
    it.begin()
    assert census.persisted(it.machine) == before
    assert [type(job) for job in it.machine.requests.outcomes] == [Job]


def test_a_job_with_a_delay_that_is_not_safe_yet_is_cancelled_too(talk: Any) -> None:
    """It stands in no timer yet: neither its moment nor the store brings it back."""
    store = LateStore()
    it = talk(store=store)
    c, w = it.client(), it.worker(credit=3)
    c.submit(b"a", delay_ms=1_000, turn=False)
    c.submit(b"b", fair="k", priority=5, turn=False)
    cancel(c, b"a", turn=False)
    cancel(c, b"b")
    store.settle(10)
    it.wait(5 * S)
    assert c.told() == [(b"a", "cancelled", ()), (b"b", "cancelled", ())]
    assert (w.got, it.machine.open) == ([], 0)


@pytest.mark.parametrize("fields", [{"delay_ms": 1_000}, {"priority": 5}, {"fair": "k"}, {"deadline_ms": 500}])
def test_whatever_it_waits_for_it_is_cancelled(talk: Any, fields: Any) -> None:
    """A delay, its turn by priority or key, a deadline: nothing of the job stays behind."""
    it = talk()
    c, w = it.client(), it.worker()
    c.submit(b"a", **fields)
    cancel(c, b"a")
    w.ask(3)
    it.wait(5 * S)
    assert c.told() == [(b"a", "cancelled", ())]
    assert (w.got, it.machine.open) == ([], 0)


@pytest.mark.parametrize("keeps", [False, True], ids=["memory only", "with a store"])
def test_a_job_behind_its_order_key_is_cancelled_or_lets_the_next_one_go(talk: Any, keeps: bool) -> None:
    """A blocked one ends where it stands; the end of the one in front lets the one behind it go."""
    it = talk(store=MemoryStore() if keeps else None)
    c, w = it.client(), it.worker()
    for body in (b"a", b"b", b"c"):
        c.submit(body, order="k")
    cancel(c, b"b")
    w.ask()
    w.start(b"a")
    cancel(c, b"a")
    w.ask(5)
    w.complete(b"c", b"yes")
    assert c.told() == [(b"b", "cancelled", ()), (b"a", "cancelled", ()), (b"c", "completed", b"yes")]
    assert (w.got, it.machine.open) == ([b"a", b"c"], 0)
