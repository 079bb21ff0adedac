"""What administrators may do with dead letters, order by order (docs/protocol.md, "Administrators")."""

from __future__ import annotations

from typing import Any

import pytest

from relet import desk
from relet.core import administration, undertaking
from relet.core.limits import Limits
from relet.messages import Entry, Error
from relet.orders import (
    DeadJobTold,
    DeadLine,
    DeadTold,
    ListDead,
    Order,
    PurgeDead,
    RedriveDead,
    ShowDead,
    ShowJob,
    SweptTold,
)
from relet.store.memory import MemoryStore
from relet.testing import LateStore

MS = 1_000_000
S = 1_000 * MS


def bury(it: Any, *bodies: Any, queue: str = "default", kind: str = "Oops", **terms: Any) -> list[bytes]:
    """These jobs fail for good; their ids."""
    worker = it.worker(f"w{next(it.numbers)}", queues=(queue,))
    client = it.client("undertaker")
    ids = []
    for body in bodies:
        client.submit(body, queue=queue, **terms)
        worker.ask()
        ids.append(worker.jobs[-1][0].job)
        worker.fail(body, kind=kind, text="it broke", final=True)
    client.receive()
    return ids


def wall_ms(it: Any) -> int:
    """Now, as it is told."""
    return int((it.now + 5_000 * S) // MS)


def test_dead_letters_are_listed_with_what_is_known(talk: Any) -> None:
    """Oldest first, of one queue or of all; the id of the order is repeated."""
    it = talk()
    a = it.admin()
    (one,) = bury(it, b"12345", queue="q")
    accepted = wall_ms(it)
    it.wait(2 * S)
    bury(it, b"2")
    answer = a.orders(ListDead(id=b"x", queue="q"))
    line = DeadLine(
        job=one,
        number=1,
        queue="q",
        reason="failed",
        kind="Oops",
        attempts=1,
        accepted_ms=accepted,
        ended_ms=accepted,
        body_bytes=5,
    )
    assert answer == DeadTold(id=b"x", letters=(line,), next=0)
    assert [each.number for each in a.orders(ListDead()).letters] == [1, 2]


def test_dead_letters_are_listed_page_by_page(talk: Any) -> None:
    """`next` of one answer is `after` of the next order; 0 ends it."""
    it = talk()
    a = it.admin()
    bury(it, *[b"%d" % number for number in range(5)])
    numbers, after = [], -1
    while after:
        answer = a.orders(ListDead(count=2, after=max(0, after)))
        numbers.append([each.number for each in answer.letters])
        after = answer.next
    assert numbers == [[1, 2], [3, 4], [5]]


def test_ages_are_counted_from_now(talk: Any) -> None:
    """`older_ms`: at least so long ago; `newer_ms`: less long ago."""
    it = talk()
    a = it.admin()
    bury(it, b"old")
    it.wait(10 * S)
    bury(it, b"new")

    def numbers(**which: Any) -> list[int]:
        return [each.number for each in a.orders(ListDead(**which)).letters]

    assert numbers(older_ms=10_000) == [1]
    assert numbers(older_ms=10_001) == []
    assert numbers(newer_ms=10_000) == [2]
    assert numbers(newer_ms=10_001) == [1, 2]
    assert numbers(older_ms=1, newer_ms=10_001) == [1]


def test_a_dead_letter_is_shown_with_its_ledger(talk: Any) -> None:
    """All that is known of it; its body only where that was asked for, frame by frame."""
    it = talk()
    a = it.admin()
    (job,) = bury(it, (b"two", b"frames"), headers={"x": "y"})
    answer = a.orders(ShowDead(id=b"x", job=job))
    assert type(answer) is DeadJobTold
    assert (answer.id, answer.text, answer.request, answer.headers) == (
        b"x",
        "it broke",
        b"twoframes-------",
        {"x": "y"},
    )
    now = wall_ms(it)
    worker = answer.ledger[0].worker
    assert answer.ledger == (
        Entry(attempt=1, cause="failed", worker=worker, began_ms=now, ended_ms=now, kind="Oops", text="it broke"),
    )
    assert a.body == ()
    a.orders(ShowDead(job=job, body=True))
    assert a.body == (b"two", b"frames")


def test_redriven_jobs_and_their_letters_name_each_other(talk: Any) -> None:
    """In `swept` stands the id of the new job; each letter says where it came from and where it went."""
    it = talk()
    a = it.admin()
    (job,) = bury(it, b"a")
    answer = a.orders(RedriveDead(id=b"x", job=job))
    (new,) = answer.jobs
    assert answer == SweptTold(id=b"x", count=1, jobs=(new,))
    assert a.orders(ShowDead(job=job)).letter.redriven_to == new
    assert a.orders(ShowJob(job=new)).state == "available"
    worker = it.worker("another", credit=1)
    worker.fail(b"a", final=True)
    assert a.orders(ShowDead(job=new)).letter.redriven_from == job


def test_a_redrive_says_what_was_skipped_and_refused(talk: Any) -> None:
    """How many, and why; a dry run says the same of what it would do, as far as that can be known."""
    it = talk(limits=Limits(jobs_max=2))
    a = it.admin()
    bury(it, b"1", b"2", b"3", b"4")
    assert a.orders(RedriveDead(dry_run=True)).count == 4
    assert a.orders(RedriveDead(limit=1)).count == 1
    answer = a.orders(RedriveDead())
    assert (answer.count, answer.skipped, answer.refused, answer.code) == (1, 1, 1, "busy")
    it.worker("another", credit=2).complete(b"1")
    assert a.orders(RedriveDead(force=True)).count == 1


def test_a_purge_takes_what_was_chosen(talk: Any) -> None:
    """And a dry run nothing."""
    it = talk()
    a = it.admin()
    bury(it, b"1", b"2")
    bury(it, b"3", kind="Other")
    assert a.orders(PurgeDead(kind="Oops", dry_run=True)) == SweptTold(count=2)
    assert a.orders(PurgeDead(kind="Oops", limit=1)) == SweptTold(count=1)
    assert [each.number for each in a.orders(ListDead()).letters] == [2, 3]
    assert a.orders(PurgeDead()) == SweptTold(count=2)
    assert a.orders(ListDead()).letters == ()


@pytest.mark.parametrize(
    ("order", "code", "text"),
    [
        (ListDead(reason="tries"), "bad_request", "it must be one of tries_spent"),
        (RedriveDead(reason="tries"), "bad_request", "it must be one of tries_spent"),
        (PurgeDead(older_ms=5, newer_ms=5), "bad_request", "make `newer_ms` the longer one"),
        (ShowDead(job=b"?" * 16), "unknown_job", "see `dead` for those that there are"),
        (RedriveDead(job=b"?" * 16), "unknown_job", "see `dead` for those that there are"),
        (PurgeDead(job=b"?" * 16), "unknown_job", "see `dead` for those that there are"),
    ],
    ids=str,
)
def test_orders_that_cannot_be_carried_out_are_refused(talk: Any, order: Order, code: str, text: str) -> None:
    """With a word for programs, and what to change."""
    it = talk()
    a = it.admin()
    bury(it, b"1")
    answer = a.orders(order)
    assert type(answer) is Error
    assert (answer.code, answer.of) == (code, order.__struct_config__.tag)
    assert text in answer.text
    assert len(it.machine.kept) == 1


def test_one_dead_letter_that_cannot_be_redriven_is_an_error(talk: Any) -> None:
    """Who names one hears why not."""
    it = talk(limits=Limits(jobs_max=1))
    a = it.admin()
    one, two = bury(it, b"1", b"2")
    a.orders(RedriveDead(job=one))
    assert a.orders(RedriveDead(job=one)).code == "redriven"
    assert a.orders(RedriveDead(job=two)).code == "busy"


@pytest.mark.parametrize("order", [RedriveDead(), PurgeDead()], ids=str)
def test_a_long_sweep_is_answered_when_it_is_over(talk: Any, order: Order) -> None:
    """Other orders are answered meanwhile."""
    it = talk(limits=Limits(turn_steps_max=20))
    bury(it, *[b"%d" % number for number in range(40)])
    a, b = it.admin(), it.admin("b")
    a.says(order, turn=False)
    b.says(ListDead(count=1), turn=False)
    it.server.turn(it.now, it.now + 5_000 * S)
    assert (len(a.heard), len(b.heard)) == (0, 1)
    it.turn()
    assert [answer.count for answer in a.heard] == [40]


def test_a_redrive_is_answered_when_it_is_safe(talk: Any) -> None:
    """What a crash would forget is told to nobody."""
    store = LateStore()
    it = talk(store=MemoryStore())
    (job,) = bury(it, b"1")
    rows = it.store
    store.safe = rows
    it.store = it.server._store = store  # the disk becomes slow
    a = it.admin()
    a.says(RedriveDead(job=job))
    assert a.heard == []
    store.settle(100)
    it.turn()
    assert [type(answer) for answer in a.heard] == [SweptTold]


def test_every_order_has_a_function() -> None:
    """No verb is forgotten, and none has two."""
    assert not administration.VERBS.keys() & undertaking.VERBS.keys()
    assert desk.VERBS.keys() == administration.VERBS.keys() | undertaking.VERBS.keys()
