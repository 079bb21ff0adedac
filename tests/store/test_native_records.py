"""What a store keeps of native jobs: every field of every record, and what a machine makes of them.

The exercise of `test_store.py`, for the fields that only native jobs have.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from relet.core.job import AVAILABLE, CANCELLED, COMPLETED, DELAYED, DISCARDED, HELD, RUNNING, Terms
from relet.core.limits import Limits
from relet.core.machine import RECLAIM_NS, Machine
from relet.messages import (
    Accepted,
    Attempt,
    AttemptEnded,
    ClientHello,
    Evicted,
    Finished,
    Forgotten,
    Inquire,
    Peer,
    Record,
    Submit,
    WorkerHello,
)
from relet.store import Store
from relet.store.memory import MemoryStore
from relet.testing import census

MS = 1_000_000
S = 1_000 * MS
NOW = 1_000 * S
WALL = 5_000 * S
WALL_MS = (NOW + WALL) // MS

STORES: dict[str, Callable[[], Store]] = {"memory": MemoryStore}
"""As in `test_store.py`."""

ID = b"\x01" * 16
NAME = b"request-of-a-job"
FAILED = AttemptEnded(1, "failed", WALL_MS - 10, WALL_MS, "agent/00ff", "Oops", "it broke")
TERMS = (5_000 * MS, 1_000 * MS, False, True, 60 * S)


@pytest.fixture(params=STORES.values(), ids=STORES.keys())
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """One store after the other."""
    store: Store = request.param()
    yield store
    store.close()


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
    ),
    st.builds(Forgotten, NUMBERS, st.booleans(), st.booleans()),
)


@given(RECORDS)
def test_every_record_survives_its_encoding(record: Record) -> None:
    """Whatever its fields hold: a store may lay it out as bytes and has it back, of the same kind."""
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=Record) == record


def test_a_record_says_all_of_its_fields() -> None:
    """A new field needs a test here: these are all that there are."""
    kinds = (Accepted, Attempt, Finished, Forgotten, Evicted)
    assert {kind.__name__: len(kind.__struct_fields__) for kind in kinds} == {
        "Accepted": 10,
        "Attempt": 13,
        "Finished": 12,
        "Forgotten": 3,
        "Evicted": 1,
    }


# --- Accepted


def test_an_accepted_job_comes_back_with_its_terms(store: Store) -> None:
    """Queue, limits, headers, age, identity: what was agreed holds in the next life, too."""
    store.append(1, [_accepted(queue="q", terms=TERMS, headers={"a": "b"}, again=True)])
    (job,) = _load(store).jobs()
    assert (job.state, job.queue.name, job.terms, job.headers, job.again) == (
        AVAILABLE,
        "q",
        Terms(*TERMS),
        {"a": "b"},
        True,
    )
    assert (job.request, job.id, job.size, NOW - job.accepted_ns) == (NAME, ID, 4, 1 * S)


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
    assert list(store.load()) == []


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
