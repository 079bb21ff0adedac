"""One exercise for all stores: what was appended and settled comes back as the same jobs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from relet.core.job import AVAILABLE, COMPLETED, DISCARDED, RUNNING
from relet.core.machine import Machine
from relet.messages import (
    Accepted,
    Attempt,
    AttemptEnded,
    Finished,
    Forgotten,
    Gone,
    KeptBody,
    Numbered,
    Peer,
    Record,
)
from relet.store import Store
from relet.store.memory import MemoryStore
from relet.testing import LateStore, census
from relet.testing.stores import bodies_of

ENDED = AttemptEnded(1, "expired", 5, 9)


def _load(store: Store, **options: Any) -> Machine:
    machine = Machine((b"%016d" % number for number in itertools.count(1)), keeps_records=True, **options)
    machine.load(store.load(), 1_000)
    census.check(machine, loaded=machine.open)
    return machine


def _jobs(machine: Machine) -> dict[int, Any]:
    return {job.number: job for job in machine.jobs()}


def test_an_empty_store_loads_nothing(store: Store) -> None:
    """Nothing was ever appended: nothing is safe, nothing comes back."""
    assert list(store.load()) == []
    assert store.settled() == 0
    assert _load(store).open == 0


def test_turns_settle_in_order(store: Store) -> None:
    """`settled` names the last turn that is safe; it only grows."""
    seen = [store.settled()]
    for turn in (1, 2, 5, 9):
        store.append(turn, [Accepted(turn, (b"body",))])
        seen.append(store.settled())
    assert seen == sorted(seen)
    assert seen[-1] == 9


def test_an_accepted_job_comes_back_waiting(store: Store) -> None:
    """Bodies of no, one and several frames, empty ones and large ones among them."""
    bodies = [(), (b"",), (b"one",), (b"", b""), (b"a", b"", b"x" * 100_000)]
    store.append(1, [Accepted(number, body) for number, body in enumerate(bodies, start=1)])
    jobs = _jobs(_load(store))
    found = [bodies_of(store)(job.body) for _, job in sorted(jobs.items())]
    assert [body if isinstance(body, tuple) else (body,) for body in found] == bodies
    assert all(job.state == AVAILABLE and job.peer is None and not job.token for job in jobs.values())


LARGE = (b"x" * 3_000, b"", b"y")


def test_bodies_that_are_apart_are_read_one_by_one(store: Store) -> None:
    """What is loaded says how large they are; they are there until their jobs have ended well, or are gone."""
    small, dead = (b"small",), Finished(5, DISCARDED, "failed", 1, True, ())
    store.append(1, [Accepted(2, small), *(Accepted(number, LARGE) for number in (1, 3, 4, 5))])
    store.append(2, [Finished(3, COMPLETED, "", 1, False, (), (b"answer",), True), Gone((4,)), dead])
    for turn in range(3, 6):  # each trims what was before, where a log is as short as can be
        store.append(turn, [Accepted(10 + turn, LARGE)])
    jobs = _jobs(_load(store))
    assert jobs[2].body == small[0]
    if store.apart_bytes_min > 3_000:  # it has none apart
        assert jobs[1].body == LARGE
        return
    assert jobs[1].body == KeptBody(1, 3_001, 3)
    assert store.promoted() == 5
    assert store.bodies([5, 3, 1, 4, 99, 1]) == [LARGE, None, LARGE, None, None, LARGE]
    assert store.bodies([]) == []
    store.append(6, [Gone((1,)), Forgotten(5)])
    store.append(7, [Gone((5,))])
    list(store.load())
    assert store.bodies([1, 5, 13]) == [None, None, LARGE]


def test_the_last_attempt_wins(store: Store) -> None:
    """Attempt records carry absolute numbers: a repeated or a later one replaces what was known."""
    first = Attempt(1, RUNNING, b"token", 1, 0, ())
    store.append(1, [Accepted(1, (b"a",)), first, first])
    store.append(2, [Attempt(1, AVAILABLE, b"token", 1, 2, (ENDED,))])
    (job,) = _load(store).jobs()
    assert (job.state, job.token, job.attempts, job.handovers, job.ledger) == (AVAILABLE, b"token", 1, 2, (ENDED,))


def test_a_running_job_comes_back_running_and_its_answer_counts(store: Store) -> None:
    """Somebody may still have it: an answer with its id is accepted, else it is let again when its lease is over."""
    store.append(1, [Accepted(1, (b"a",)), Attempt(1, RUNNING, b"token", 1, 0, ())])
    machine = _load(store, timeout_ns=500)
    (job,) = machine.jobs()
    assert job.state == RUNNING
    machine.expire(1_499)
    assert job.state == RUNNING
    machine.expire(1_500)
    assert job.state == AVAILABLE
    machine.complete([(b"token", b"late")], 2_000)
    assert job.state == COMPLETED


def test_a_finished_job_is_gone_or_kept(store: Store) -> None:
    """What was told is forgotten; dead letters and what reached nobody are kept with what is known of them."""
    store.append(1, [Accepted(number, (b"%d" % number,)) for number in (1, 2, 3)])
    store.append(2, [Finished(1, COMPLETED, "", 1, False, ())])
    store.append(3, [Finished(2, DISCARDED, "tries_spent", 3, True, (ENDED,))])
    store.append(4, [Finished(3, COMPLETED, "", 1, False, ()), Finished(3, COMPLETED, "", 1, True, (), (b"a", b"b"))])
    machine = _load(store)
    assert machine.open == 0
    letter, told_nobody = sorted(machine.kept, key=lambda job: job.number)
    assert (letter.body, letter.reason, letter.attempts, letter.ledger) == (b"2", "tries_spent", 3, (ENDED,))
    assert (told_nobody.answer, told_nobody.body) == ((b"a", b"b"), b"")


def test_a_forgotten_job_is_gone(store: Store) -> None:
    """Its retention is over, and forgetting it again changes nothing."""
    store.append(1, [Accepted(1, (b"a",)), Finished(1, DISCARDED, "tries_spent", 3, True, ())])
    store.append(2, [Gone((1,)), Gone((1,))])
    assert list(store.load()) == [Numbered(1)]


def test_nothing_is_forgotten_of_an_open_job(store: Store) -> None:
    """It ends by `Finished`, which may say afterwards that it is kept with all that was known of it."""
    store.append(1, [Accepted(1, (b"a",)), Forgotten(1, kept=True), Accepted(2, (b"b",)), Forgotten(2, owed=True)])
    assert set(_jobs(_load(store))) == {1, 2}
    store.append(2, [Finished(1, DISCARDED, "tries_spent", 3, True, ()), Finished(2, DISCARDED, "", 1, False, ())])
    machine = _load(store)
    assert [(job.number, job.body) for job in machine.kept] == [(1, b"a")]
    assert machine.open == 0


def test_applying_records_twice_changes_nothing(store: Store) -> None:
    """Each record has the whole truth about what it names."""
    records: list[Record] = [
        Accepted(1, (b"a",)),
        Attempt(1, RUNNING, b"t", 1, 0, ()),
        Accepted(2, (b"b",)),
        Finished(2, DISCARDED, "tries_spent", 1, True, (ENDED,)),
    ]
    store.append(1, records)
    once = census.persisted(_load(store))
    store.append(2, records[1:2] + records[3:])
    assert census.persisted(_load(store)) == once


def test_numbers_go_on_where_they_were(store: Store) -> None:
    """After a restart a new job is younger than every one that is known."""
    store.append(1, [Accepted(7, (b"a",)), Accepted(9, (b"b",)), Finished(9, DISCARDED, "tries_spent", 1, True, ())])
    machine = _load(store)
    machine.submit([(Peer(b"c"), b"", b"new")], 2_000)
    assert max(_jobs(machine)) == 10


def test_no_number_is_given_a_second_time(store: Store) -> None:
    """Though nothing is known of its job any more, and in a store that was filled from this one either."""
    store.append(1, [Accepted(8, (b"a",)), Accepted(9, (b"b",)), Finished(9, COMPLETED, "", 1, False, ())])
    store.append(2, [Finished(8, COMPLETED, "", 1, False, ())])
    assert (_load(store).open, _load(store).number) == (0, 9)
    store.append(3, [Accepted(3, (b"c",)), Numbered(7)])
    assert _load(store).number == 9
    other = MemoryStore()
    other.append(1, list(store.load()))
    assert list(other.load()) == list(store.load())


def test_old_jobs_are_dispatched_before_new_ones(store: Store) -> None:
    """Age counts across a restart: what came back before what never ran, and both by number."""
    store.append(1, [Accepted(number, (b"%d" % number,)) for number in (1, 2, 3)])
    store.append(2, [Attempt(1, AVAILABLE, b"token", 1, 0, ())])
    machine = _load(store)
    machine.submit([(Peer(b"c"), b"", b"new")], 2_000)
    machine.take_records(3)
    machine.settled(3)
    machine.ask([(Peer(b"w", socket_type="DEALER"), b"", b"")] * 4, 2_000)
    machine.match(2_000)
    assert [job.number for job in machine.dispatched] == [1, 2, 3, 4]


def test_the_late_store_settles_when_told_and_forgets_in_a_crash() -> None:
    """The double that the loop is tried with: what was not settled is not there after a crash."""
    store = LateStore()
    for turn in (1, 2, 3):
        store.append(turn, [Accepted(turn, (b"x",))])
    assert store.settled() == 0
    store.settle(1)
    assert store.settled() == 1
    store.crash(survives=1)
    assert [record.number for record in store.load() if isinstance(record, Accepted)] == [1, 2]
    assert store.settled() == 2
    store.append(4, [])
    with pytest.raises(AssertionError, match="turn 4 came after turn 4"):
        store.append(4, [])
