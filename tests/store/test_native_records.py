"""What a store keeps of native jobs: every field of every record, and what a machine makes of them.

The exercise of `test_store.py`, for the fields that only native jobs have.
"""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from relet.core.job import AVAILABLE, CANCELLED, COMPLETED, DELAYED, DISCARDED, HELD, RUNNING
from relet.core.limits import Limits
from relet.core.machine import RECLAIM_NS, Machine
from relet.core.settings import QueueSettings
from relet.core.terms import Backoff, Rules, Terms
from relet.messages import (
    Accepted,
    Attempt,
    AttemptEnded,
    ClientHello,
    Evicted,
    Finished,
    Forgotten,
    Gone,
    Inquire,
    KeyWindow,
    Numbered,
    Peer,
    QueueSet,
    Record,
    Shared,
    Submit,
    WorkerHello,
)
from relet.store import Store
from relet.testing import census

MS = 1_000_000
S = 1_000 * MS
NOW = 1_000 * S
WALL = 5_000 * S
WALL_MS = (NOW + WALL) // MS

ID = b"\x01" * 16
NAME = b"request-of-a-job"
FAILED = AttemptEnded(1, "failed", WALL_MS - 10, WALL_MS, "agent/00ff", "Oops", "it broke")
TERMS = (5_000 * MS, 1_000 * MS, False, True, 60 * S)
RULES = (b"\x02" * 16, "a key", 3, 7 * S, "unique", 5 * S, b"\x03" * 16, "an order")


def _load(store: Store, *, now: int = NOW, **options: Any) -> Machine:
    tokens = (b"%010d-token" % number for number in itertools.count(1))
    machine = Machine(tokens, keeps_records=True, began_ns=now, **options)
    machine.wall_ns = WALL
    machine.load(store.load(), now)
    census.check(machine, loaded=machine.open)
    return machine


def _accepted(number: int = 1, **changes: Any) -> Accepted:
    known = {"queue": "default", "accepted_ms": WALL_MS - 1_000, "request": NAME, "id": ID}
    return Accepted(number, (b"body",), **{**known, **changes})


# --- The records themselves

TEXT = st.text(max_size=5)
BYTES = st.binary(max_size=20)
NUMBERS = st.integers(0, 2**62)
HEADERS = st.none() | st.dictionaries(TEXT, TEXT, max_size=3)
FRAMES = st.lists(BYTES, max_size=3).map(tuple)
ENTRIES = st.lists(st.builds(AttemptEnded, NUMBERS, TEXT, NUMBERS, NUMBERS, TEXT, TEXT, TEXT), max_size=2).map(tuple)
LIMIT = st.none() | NUMBERS
NAMED = st.tuples(BYTES, NUMBERS, st.booleans(), NUMBERS)
RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.builds(
        Accepted,
        NUMBERS,
        FRAMES,
        TEXT,
        NUMBERS,
        st.none() | st.tuples(LIMIT, LIMIT, st.booleans(), st.booleans(), NUMBERS),
        TEXT,
        BYTES,
        BYTES,
        HEADERS,
        st.booleans(),
        st.none() | st.tuples(BYTES, TEXT, NUMBERS, NUMBERS, TEXT, NUMBERS, BYTES, TEXT),
        NUMBERS,
        NUMBERS,
        NUMBERS,
    ),
    st.builds(
        Attempt,
        NUMBERS,
        st.integers(1, 4),
        BYTES,
        NUMBERS,
        NUMBERS,
        ENTRIES,
        FRAMES,
        BYTES,
        st.booleans(),
        NUMBERS,
        TEXT,
        TEXT,
        st.booleans(),
        st.tuples(NUMBERS, NUMBERS, NUMBERS),
        NUMBERS,
    ),
    st.builds(
        Finished,
        NUMBERS,
        st.integers(5, 7),
        TEXT,
        NUMBERS,
        st.booleans(),
        ENTRIES,
        FRAMES,
        st.booleans(),
        NUMBERS,
        TEXT,
        TEXT,
        HEADERS,
        BYTES,
        BYTES,
    ),
    st.builds(Shared, NUMBERS, TEXT, st.lists(NAMED, min_size=1).map(tuple)),
    st.builds(KeyWindow, NUMBERS, TEXT, TEXT, TEXT, BYTES, BYTES, NUMBERS),
    st.builds(Forgotten, NUMBERS, st.booleans(), st.booleans()),
    st.builds(Numbered, NUMBERS),
    st.builds(Gone, st.lists(NUMBERS, max_size=3).map(tuple)),
    st.builds(QueueSet, TEXT, st.none() | st.dictionaries(TEXT, NUMBERS | TEXT, max_size=3)),
)


@given(RECORDS)
def test_every_record_survives_its_encoding(record: Record) -> None:
    """Whatever its fields hold: a store may lay it out as bytes and has it back, of the same kind."""
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=Record) == record


def test_a_record_says_all_of_its_fields() -> None:
    """A new field needs a test here: these are all that there are."""
    kinds = (Accepted, Attempt, Finished, Forgotten, Evicted, QueueSet, Shared, KeyWindow, Numbered, Gone)
    assert {kind.__name__: len(kind.__struct_fields__) for kind in kinds} == {
        "Accepted": 14,
        "Attempt": 15,
        "Finished": 14,
        "Forgotten": 3,
        "Evicted": 1,
        "QueueSet": 2,
        "Shared": 3,
        "KeyWindow": 7,
        "Numbered": 1,
        "Gone": 1,
    }


# --- Settings of queues


def test_settings_come_back(store: Store) -> None:
    """As they were set last, with the pause and who made it; what a queue has lost it has not again."""
    machine = Machine(iter(()), keeps_records=True)
    settings = QueueSettings(run_ns=5 * S, jobs_max=3, paused="dispatch", dispatch_by="ada")
    machine.set_queue("mail", QueueSettings())
    machine.set_queue("mail", settings)
    machine.set_queue("old", QueueSettings(jobs_max=1))
    store.append(1, machine.take_records(1))
    machine.set_queue("old", None)
    store.append(2, machine.take_records(2))
    loaded = _load(store)
    assert {queue.name: queue.settings for queue in loaded.queues} == {"default": None, "mail": settings}
    assert loaded.queues.named("mail").paused


def test_settings_of_a_later_version_are_read_as_far_as_they_are_known(store: Store) -> None:
    """A field that this version does not know is no reason not to start."""
    store.append(1, [QueueSet("mail", {"jobs_max": 3, "colour": "red"})])
    assert _load(store).queues.named("mail").settings == QueueSettings(jobs_max=3)


# --- Accepted


def test_a_request_is_known_by_its_size_when_its_body_is_gone(store: Store) -> None:
    """Of a job that ended well no body is kept; who asks again with the same one is told the outcome, no conflict."""
    known = {"request": NAME, "id": ID}
    store.append(1, [Accepted(1, (b"x" * 3_000,), **known), Accepted(2, (b"small",), request=b"other", id=b"2" * 16)])
    store.append(2, [Finished(1, COMPLETED, "", 1, False, (), (b"answer",), True, WALL_MS)])
    store.append(3, [Finished(2, COMPLETED, "", 1, False, (), (b"answer",), True, WALL_MS)])
    assert {job.number: job.size for job in _load(store).requests.outcomes} == {1: 3_000, 2: 5}


def test_an_accepted_job_comes_back_with_its_terms(store: Store) -> None:
    """Queue, limits, headers, age, identity: what was agreed holds in the next life, too."""
    store.append(1, [_accepted(queue="q", terms=TERMS, headers={"a": "b"}, again=True, rules=RULES)])
    (job,) = _load(store).jobs()
    assert (job.state, job.queue.name, job.terms, job.headers, job.again, job.rules) == (
        AVAILABLE,
        "q",
        Terms(*TERMS),
        {"a": "b"},
        True,
        Rules(*RULES),
    )
    assert (job.request, job.id, job.size, NOW - job.accepted_ns) == (NAME, ID, 4, 1 * S)


def test_an_accepted_job_comes_back_with_its_rules(store: Store) -> None:
    """What was agreed about it alone; a plain job has none."""
    store.append(1, [_accepted(rules=(b"\x02" * 16,)), _accepted(2, request=b"two".ljust(16))])
    first, second = sorted(_load(store).jobs(), key=lambda job: job.number)
    assert first.rules == Rules(redriven_from=b"\x02" * 16)
    assert second.rules is None


def test_a_dead_letter_knows_as_what_it_was_redriven(store: Store) -> None:
    """`Finished` comes again with the id of the new job, and holds when something of it is forgotten."""
    store.append(1, [_accepted(), ENDS[DISCARDED]])
    assert [letter.redriven_to for letter in _load(store).kept.walk("", 0)] == [b""]
    again = msgspec.structs.replace(ENDS[DISCARDED], redriven_to=b"\x02" * 16)
    store.append(2, [again, Forgotten(1, kept=True, owed=False)])
    (letter,) = _load(store).kept.walk("default", 0)
    assert (letter.redriven_to, letter.job.id, letter.job.body) == (b"\x02" * 16, ID, b"body")


def test_loaded_jobs_go_in_the_order_of_their_priorities_and_keys(store: Store) -> None:
    """The next life hands them out as this one would have: what came back at its place, the weights as last said."""
    places: list[Any] = [
        (0, None),
        (2, (b"", "a", 1)),
        (2, (b"", "b", 1)),
        (2, (b"", "a", 2)),
        (2, (b"", "a", 2)),
        (9, None),
    ]
    places.append((2, (b"", "a", 2)))
    for number, (priority, rules) in enumerate(places, 1):
        terms = None if not priority else tuple(msgspec.to_builtins(Terms(priority=priority)))
        store.append(number, [_accepted(number, request=b"%016d" % number, terms=terms, rules=rules)])
    store.append(10, [Attempt(2, AVAILABLE, b"token", 1, 0, ())])
    machine = _load(store)
    taken = [machine.queue.take(NOW) for _ in range(8)]
    assert [job and job.number for job in taken] == [6, 2, 3, 4, 5, 7, 1, None]


def test_terms_of_the_broker_are_those_of_today(store: Store) -> None:
    """A job that asked for nothing else has the limits that the broker has now."""
    store.append(1, [_accepted()])
    machine = _load(store, timeout_ns=7 * S)
    (job,) = machine.jobs()
    assert job.terms is machine.terms


def test_a_job_that_came_back_can_be_asked_for(store: Store) -> None:
    """By its request, within its principal, and by its id; whoever asks first is the first asker."""
    store.append(1, [_accepted(), _accepted(2, principal="p", id=b"\x02" * 16)])
    machine = _load(store)
    answers = []
    for principal in ("", "p", "other"):
        peer = Peer(principal.encode() + b"!", principal=principal)
        machine.requests.hello(peer, b"", ClientHello(), NOW)
        asker = machine.requests.askers.on(peer, b"")
        assert asker is not None
        machine.requests.inquire(asker, Inquire(id=NAME), NOW)
        machine.requests.inquire(asker, Inquire(job=ID), NOW)
        answers.append([said.state for _, said, _ in machine.promised])
        machine.promised = []
        machine.requests.submit(asker, Submit(id=NAME, age_ms=1_000), b"body", NOW)
        census.check(machine, loaded=2)
    assert answers == [["available", "available"], ["available", "unknown"], ["unknown", "unknown"]]
    assert machine.counters.requests_joined == 2
    assert machine.counters.jobs_accepted == 1


def test_a_wall_clock_that_went_back_makes_no_job_younger_than_now(store: Store) -> None:
    """Moments from the future count as now."""
    store.append(1, [_accepted(accepted_ms=WALL_MS + 10**6), _accepted(2, request=b"two".ljust(16))])
    store.append(2, [Finished(2, COMPLETED, "", 1, False, (), (b"x",), True, WALL_MS + 10**6)])
    machine = _load(store)
    assert [job.accepted_ns for job in machine.jobs()] == [NOW]
    assert [job.ended_ns for job in machine.requests.outcomes] == [NOW]


def test_a_job_for_later_comes_back_for_later(store: Store) -> None:
    """One that nobody has had yet: what is left of its delay, by the wall clock, and never more than all of it."""
    store.append(1, [_accepted(due_ms=WALL_MS + 1_500)])
    machine = _load(store)
    (job,) = machine.jobs()
    assert (job.state, machine.next_deadline()) == (DELAYED, NOW + 1_500 * MS)
    machine.expire(NOW + 1_500 * MS - 1)
    assert job.state == DELAYED
    machine.expire(NOW + 1_500 * MS)
    assert job.state == AVAILABLE
    store.append(2, machine.take_records(2))
    (again,) = _load(store, now=NOW + 1_500 * MS).jobs()
    assert again.state == AVAILABLE, "it has been written down that it is due"


def test_a_wall_clock_that_went_back_puts_no_job_off(store: Store) -> None:
    """What is left is at most what it was when the job was accepted."""
    store.append(1, [_accepted(accepted_ms=WALL_MS + 3_600_000, due_ms=WALL_MS + 3_601_000)])
    assert _load(store).next_deadline() == NOW + 1_000 * MS


@pytest.mark.parametrize(("age_ms", "left_ms"), [(0, 4_001), (2_500, 1_501), (4_000, 1), (60_000, -55_999)])
@pytest.mark.parametrize("field", ["start_ns", "total_ns"])
def test_deadlines_go_on_in_the_next_life(store: Store, field: str, age_ms: int, left_ms: int) -> None:
    """They count from the first asking, across the restart; of the millisecond that was written the end counts."""
    terms = tuple(msgspec.to_builtins(Terms(**{field: 5 * S})))
    rules = tuple(msgspec.to_builtins(Rules(age_ns=age_ms * MS)))
    store.append(1, [_accepted(terms=terms, rules=rules)])
    machine = _load(store)
    (job,) = machine.jobs()
    due = machine.next_deadline()
    assert due == NOW + left_ms * MS
    if left_ms > 0:
        machine.expire(due - 1)
        assert job.state == AVAILABLE
    machine.expire(max(due, NOW))
    assert (job.state, job.reason) == (DISCARDED, {"start_ns": "start_deadline", "total_ns": "deadline"}[field])


def test_a_wall_clock_that_went_back_makes_no_deadline_later_than_it_was(store: Store) -> None:
    """A job from the future was accepted now."""
    terms = tuple(msgspec.to_builtins(Terms(total_ns=5 * S)))
    store.append(1, [_accepted(accepted_ms=WALL_MS + 3_600_000, terms=terms)])
    assert _load(store).next_deadline() == NOW + 5 * S


@pytest.mark.parametrize("state", [HELD, RUNNING])
@pytest.mark.parametrize("session", [True, False])
@pytest.mark.parametrize(("total", "ends"), [(2 * S, "deadline"), (3_600 * S, "")])
def test_the_deadline_of_a_job_that_is_out_holds_in_the_next_life(
    store: Store, state: int, session: bool, total: int, ends: str
) -> None:
    """Nobody has claimed it yet: it ends at its deadline, if that is sooner than it is taken for lost."""
    if state == HELD and not session:
        return  # workers of 2010 say no starts
    terms = tuple(msgspec.to_builtins(Terms(total_ns=total)))
    out = Attempt(1, state, b"token", int(state == RUNNING), 0, (), (), b"", session)
    store.append(1, [_accepted(terms=terms), out])
    machine = _load(store, limits=Limits(liveness_ns=4 * S))
    (job,) = machine.jobs()
    lost = NOW + (4 * S if session else RECLAIM_NS)
    due = NOW - 1 * S + 1 * MS + total if ends else lost
    assert machine.next_deadline() == due
    machine.expire(due - 1)
    assert job.state == state
    machine.expire(due)
    assert (job.state, job.reason) == ((DISCARDED, ends) if ends else (AVAILABLE, ""))
    if not ends and state == RUNNING:
        assert [it.cause for it in job.ledger] == ["worker_lost" if session else "expired"]
    census.check(machine, loaded=1)


def test_terms_of_retries_come_back(store: Store) -> None:
    """All fields, the backoff among them, though a store has them as plain lists."""
    backoff = Backoff("exponential", 1 * S, 60 * S, jitter=True)
    terms = Terms(*TERMS, 5, 4, 3, 2, ("ValueError",), backoff, 7, 10 * S, 20 * S, 3 * S, False)
    record = _accepted(terms=tuple(msgspec.to_builtins(terms)))
    store.append(1, [msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=Accepted)])
    (job,) = _load(store).jobs()
    assert job.terms == terms


# --- Attempt


@pytest.mark.parametrize("late_any", [True, False])
def test_tokens_come_back_with_the_job(store: Store, late_any: bool) -> None:
    """Each gives the right that it gave: late answers count across a restart."""
    terms = (None, None, late_any, False, 0)
    tokens = (b"old1", b"old2") if late_any else ()
    store.append(1, [_accepted(terms=terms), Attempt(1, AVAILABLE, b"now", 2, 1, (FAILED,), tokens, b"old1", True)])
    machine = _load(store)
    assert machine.by_token.keys() == {b"now", *tokens}
    (job,) = machine.jobs()
    assert (job.shared, job.attempts, job.handovers, job.ledger) == (b"old1", 2, 1, (FAILED,))
    machine.complete([(b"old2", b"late")], NOW)
    assert (job.state == COMPLETED) == late_any


@pytest.mark.parametrize("state", [HELD, RUNNING])
def test_what_a_session_had_waits_for_it(store: Store, state: int) -> None:
    """It is let again when nobody has claimed it within the liveness of a session: uncounted where it was held."""
    attempts = int(state == RUNNING)
    store.append(1, [_accepted(), Attempt(1, state, b"token", attempts, 0, (), (), b"", True)])
    machine = _load(store, limits=Limits(liveness_ns=4 * S))
    (job,) = machine.jobs()
    machine.expire(NOW + 4 * S - 1)
    assert job.state == state
    assert machine.next_deadline() == NOW + 4 * S
    machine.expire(NOW + 4 * S)
    assert (job.state, job.attempts, job.handovers) == (AVAILABLE, attempts, 1 - attempts)
    assert [entry.cause for entry in job.ledger] == ["worker_lost"] * attempts
    census.check(machine, loaded=1)


@pytest.mark.parametrize("terms", [None, (2 * S, None, True, False, 0), (None, 1 * S, True, False, 0)])
def test_what_a_worker_of_2010_had_runs_on(store: Store, terms: Any) -> None:
    """By its own limit, or for `RECLAIM_NS` where it has none: that worker cannot claim."""
    store.append(1, [_accepted(terms=terms), Attempt(1, RUNNING, b"token", 1, 0, ())])
    machine = _load(store)
    (job,) = machine.jobs()
    limit = 2 * S if terms and terms[0] else RECLAIM_NS
    machine.expire(NOW + limit - 1)
    assert job.state == RUNNING
    machine.expire(NOW + limit)
    assert job.state == AVAILABLE


def test_a_delayed_job_waits_for_its_moment(store: Store) -> None:
    """The moment is wall-clock time: what passed while the broker was down has passed."""
    store.append(1, [_accepted(), Attempt(1, DELAYED, b"token", 1, 0, (FAILED,), (), b"", True, WALL_MS + 1_500)])
    machine = _load(store)
    (job,) = machine.jobs()
    assert (job.state, machine.next_deadline()) == (DELAYED, NOW + 1_500 * MS)
    machine.expire(NOW + 1_500 * MS - 1)
    assert job.state == DELAYED
    machine.expire(NOW + 1_500 * MS)
    assert job.state == AVAILABLE
    (late,) = (later := _load(store, now=NOW + 60 * S)).jobs()
    assert late.state == DELAYED
    later.expire(NOW + 60 * S)
    assert late.state == AVAILABLE


def test_a_wall_clock_that_went_back_makes_no_delay_longer_than_it_was(store: Store) -> None:
    """What is left is never more than all of it."""
    moment = Attempt(
        1, DELAYED, b"token", 1, 0, (FAILED,), (), b"", True, WALL_MS + 3_600_000, "", "", True, (1, 0, 0), 1_500
    )
    store.append(1, [_accepted(), moment])
    assert _load(store).next_deadline() == NOW + 1_500 * MS


def test_failures_by_kind_come_back(store: Store) -> None:
    """A budget that was spent in part is so in the next life, too."""
    terms = tuple(msgspec.to_builtins(Terms(losses_max=2)))
    ran = Attempt(1, RUNNING, b"token", 3, 0, (FAILED,), (), b"", True, 0, "", "", True, (1, 0, 1))
    store.append(1, [_accepted(terms=terms), ran])
    machine = _load(store, limits=Limits(liveness_ns=4 * S))
    (job,) = machine.jobs()
    assert job.failures == (1, 0, 1)
    machine.expire(NOW + 4 * S)
    assert (job.state, job.reason) == (DISCARDED, "losses_spent")


def test_the_words_of_the_last_failure_come_back(store: Store) -> None:
    """`kind` and `text` are part of the outcome, should the job end without another word."""
    store.append(1, [_accepted(), Attempt(1, AVAILABLE, b"t", 1, 0, (FAILED,), (), b"", True, 0, "Oops", "it broke")])
    (job,) = _load(store).jobs()
    assert (job.kind, job.text, job.ledger) == ("Oops", "it broke", (FAILED,))


def test_a_claim_is_written_down(store: Store) -> None:
    """A second restart finds the job where the claim left it."""
    store.append(1, [_accepted(), Attempt(1, HELD, b"token", 0, 0, (), (), b"", True)])
    machine = _load(store)
    machine.reports.hello(Peer(b"w"), b"", WorkerHello(incarnation=b"i" * 16, running=(b"token",)), NOW)
    store.append(2, machine.take_records(2))
    again = _load(store)
    assert census.persisted(again) == census.persisted(machine)
    (job,) = again.jobs()
    assert (job.state, job.attempts) == (RUNNING, 1)


# --- Finished and Forgotten


ENDS = {
    COMPLETED: Finished(1, COMPLETED, "", 2, False, (FAILED,), (b"an", b"swer"), True, WALL_MS - 5, "", "", {"x": "y"}),
    DISCARDED: Finished(1, DISCARDED, "failed", 1, True, (FAILED,), (), True, WALL_MS - 5, "Oops", "it broke", None),
    CANCELLED: Finished(1, CANCELLED, "asker_gone", 0, False, (), (), True, WALL_MS - 5, "", "", None),
}


@pytest.mark.parametrize("state", ENDS)
def test_an_owed_outcome_is_told_to_who_asks_again(store: Store, state: int) -> None:
    """All of it: state, reason, words, ledger, headers, attempts and the result; and it is told as it was."""
    store.append(1, [_accepted(), ENDS[state]])
    machine = _load(store)
    assert machine.open == 0
    (job,) = machine.requests.outcomes
    end = ENDS[state]
    assert (job.reason, job.attempts, job.ledger, job.kind, job.text, job.headers) == (
        end.reason,
        end.attempts,
        end.ledger,
        end.kind,
        end.text,
        end.headers,
    )
    assert job.answer == (end.answer or ())
    peer = Peer(b"c")
    machine.requests.hello(peer, b"", ClientHello(), NOW)
    asker = machine.requests.askers.on(peer, b"")
    assert asker is not None
    machine.requests.submit(asker, Submit(id=NAME, age_ms=2_000), b"body", NOW)
    assert machine.told == [(asker, NAME, job)]
    machine.requests.submit(asker, Submit(id=NAME, age_ms=2_000), b"another size", NOW)
    assert machine.promised[-1][1].jobs[0].code == "conflict"  # type: ignore[union-attr]


def test_an_owed_outcome_is_forgotten_when_its_time_is_over(store: Store) -> None:
    """The hour counts from the end of the job, across the restart; then nothing of it is left in the store."""
    store.append(1, [_accepted(), ENDS[COMPLETED]])
    machine = _load(store, limits=Limits(outcome_ns=60 * S))
    assert machine.next_deadline() == NOW - 5 * MS + 60 * S
    machine.expire(NOW - 5 * MS + 60 * S)
    assert len(machine.requests.outcomes) == 0
    store.append(2, machine.take_records(2))
    assert list(store.load()) == [Numbered(1)]


@pytest.mark.parametrize(("kept", "owed"), [(True, False), (False, True), (False, False)])
def test_what_is_forgotten_in_part_stays_in_part(store: Store, kept: bool, owed: bool) -> None:
    """`Forgotten` says what goes on being kept, and how; saying so twice changes nothing."""
    store.append(1, [_accepted(), ENDS[DISCARDED]])
    store.append(2, [Forgotten(1, kept, owed)] * 2)
    machine = _load(store)
    assert (len(machine.kept), len(machine.requests.outcomes)) == (int(kept), int(owed))
    bodies = [job.body for job in (*machine.kept, *machine.requests.outcomes)]
    assert bodies == ([b"body"] if kept else [b""] if owed else [])


def test_an_answer_after_the_restart_is_owed(store: Store) -> None:
    """Who asked is not connected any more: the outcome waits for whoever asks again."""
    store.append(1, [_accepted(), Attempt(1, RUNNING, b"token", 1, 0, (), (), b"", True)])
    machine = _load(store)
    peer = Peer(b"w")
    machine.reports.hello(peer, b"", WorkerHello(incarnation=b"i" * 16, running=(b"token",)), NOW)
    session = machine.reports.session_on(peer, b"")
    assert session is not None
    machine.reports.completed([(peer, b"", b"token", 1, 0, 0, b"done")], NOW)
    assert machine.told == []
    store.append(2, machine.take_records(2))
    again = _load(store)
    assert census.persisted(again) == census.persisted(machine)
    assert [(job.state, job.answer) for job in again.requests.outcomes] == [(COMPLETED, b"done")]


# --- Unique keys


SHARED = Shared(1, "", ((NAME, 4, False, WALL_MS - 1_000), (b"guest".ljust(16), 9, True, WALL_MS - 7)))
WITH_KEY: Any = tuple(msgspec.to_builtins(Rules(unique="k"), builtin_types=(bytes,)))


def test_who_shares_a_job_comes_back(store: Store) -> None:
    """Under their own ids and sizes; the record is the whole truth, so the last one wins, and twice is once."""
    heir = Shared(1, "", ((b"guest".ljust(16), 9, False, WALL_MS - 1_000),))
    store.append(1, [_accepted(rules=WITH_KEY)])
    for records in ([SHARED], [SHARED], [heir, heir]):
        store.append(2, records)
        machine = _load(store)
        (job,) = machine.jobs()
        said = records[0].requests
        uniques = machine.requests.uniques
        assert [(key, uniques.size_of(job, key)) for key in uniques.requests_of(job)] == [it[:2] for it in said]
        assert (uniques.finishes(job), uniques.live) == (said[-1][2], {("default", "", "k"): job})
        assert NOW - uniques.asked_last_ns(job) == (WALL_MS - said[-1][3]) * MS


def test_the_outcome_of_a_shared_job_is_owed_to_each(store: Store) -> None:
    """After its end as before it; what nobody is owed leaves nothing behind."""
    store.append(1, [_accepted(rules=WITH_KEY), SHARED, ENDS[COMPLETED]])
    machine = _load(store)
    (job,) = machine.requests.outcomes
    peer = Peer(b"c")
    machine.requests.hello(peer, b"", ClientHello(), NOW)
    asker = machine.requests.askers.on(peer, b"")
    assert asker is not None
    for name, body in ((NAME, b"body"), (b"guest".ljust(16), b"nine byte")):
        machine.requests.submit(asker, Submit(id=name, age_ms=2_000), body, NOW)
        assert machine.told[-1] == (asker, name, job)
    store.append(2, [Gone((1,))])
    assert list(store.load()) == [Numbered(1)]
    assert _load(store).requests.uniques.guests == {}


def test_a_dead_letter_that_nobody_is_owed_is_shared_by_nobody(store: Store) -> None:
    """It is evidence, and no more."""
    store.append(1, [_accepted(), SHARED, ENDS[DISCARDED], Forgotten(1, kept=True)])
    machine = _load(store)
    assert (len(machine.kept), machine.requests.uniques.guests) == (1, {})


def test_a_window_is_kept_until_it_is_said_to_be_over(store: Store) -> None:
    """With or without its job; the moment is wall-clock time."""
    window = KeyWindow(7, "q", "p", "k", ID, NAME, WALL_MS + 1_500)
    store.append(1, [window, window])
    machine = _load(store)
    assert machine.requests.uniques.windows["q", "p", "k"].until_ns == NOW + 1_500 * MS
    machine.expire(NOW + 1_500 * MS - 1)
    assert machine.requests.uniques.windows
    machine.expire(NOW + 1_500 * MS)
    store.append(2, machine.take_records(2))
    assert ([it for it in store.load() if not isinstance(it, Numbered)], machine.requests.uniques.windows) == ([], {})


def test_who_took_the_place_of_a_job_is_told_after_a_restart(store: Store) -> None:
    """`replaced_by` is part of the outcome."""
    end = Finished(1, CANCELLED, "replaced", 0, False, (), (), True, WALL_MS, replaced_by=b"\x02" * 16)
    store.append(1, [_accepted(rules=WITH_KEY), end])
    (job,) = _load(store).requests.outcomes
    assert job.rules is not None
    assert job.rules.replaced_by == b"\x02" * 16
