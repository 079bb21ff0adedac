"""Bodies that the store alone has: let go from memory, read back for who is to be sent one, and lost with a damaged
disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from relet.core.job import AVAILABLE, Reason
from relet.core.limits import Limits
from relet.events import Event
from relet.messages import CancelJob, Error, KeptBody
from relet.orders import DeadJobTold, PurgeDead, RedriveDead, ShowDead, ShowJob, SweptTold
from relet.store import StoreFailed
from relet.store.memory import MemoryStore
from relet.testing import census
from relet.testing.stores import bodies_of

MS = 1_000_000
S = 1_000 * MS

A, B, C, D = (letter * 2_000 for letter in (b"a", b"b", b"c", b"d"))
FRAMES = (b"x" * 1_500, b"", b"y")
TIGHT = Limits(bodies_memory_bytes_max=1)


class Damaged(MemoryStore):
    """Bodies of these jobs cannot be read."""

    def __init__(self) -> None:
        super().__init__(apart_bytes_min=1_000)
        self.unreadable: set[int] = set()
        self.asked: list[list[int]] = []
        self.fails = False

    def bodies(self, numbers: Sequence[int]) -> list[tuple[bytes, ...] | None]:
        """All others."""
        if self.fails:
            raise StoreFailed("the disk does not work")
        self.asked.append(list(numbers))
        found = super().bodies(numbers)
        return [None if number in self.unreadable else body for number, body in zip(numbers, found, strict=True)]


@pytest.fixture
def store() -> Damaged:
    """Bodies from 1,000 bytes on are apart."""
    return Damaged()


def kept(it: Any) -> list[int]:
    """Numbers of the open jobs whose bodies are not in memory."""
    return sorted(job.number for job in it.machine.jobs() if isinstance(job.body, KeptBody))


def test_what_is_too_much_for_memory_is_let_go(talk: Any, store: Damaged) -> None:
    """`bodies_memory_bytes_max`: the oldest stay, and what is small; all count as open."""
    it = talk(store=store, limits=Limits(bodies_memory_bytes_max=5_000))
    c = it.client()
    c.submit(A)
    c.submit(B)
    assert kept(it) == []
    c.submit(b"small")
    c.submit(C)
    c.submit(D)
    assert kept(it) == [4, 5]
    assert (it.machine.open_bytes, it.machine.away_bytes) == (8_005, 4_000)
    it.worker(credit=5)
    assert it.machine.away_bytes == 4_000, "what was sent is in memory no longer than that"


@pytest.mark.parametrize("dialect", ["2010", "native"])
def test_it_is_handed_over_whole(talk: Any, store: Damaged, dialect: str) -> None:
    """In both dialects, all frames of it, in the order of the jobs."""
    it = talk(store=store, limits=TIGHT)
    client = it.client()
    for body in (A, b"small", FRAMES, B):
        client.submit(body)
    assert kept(it) == [1, 3, 4]
    if dialect == "2010":
        worker = it.worker_2010()
        worker.ask(4)
        assert [body for _, body in worker.jobs] == [A, b"small", FRAMES, B]
        for body in (A, b"small", FRAMES, B):
            worker.answer(body)
    else:
        worker = it.worker(credit=4)
        assert worker.got == [A, b"small", FRAMES, B]
        for body in (A, b"small", FRAMES, B):
            worker.complete(body)
    assert len(client.told()) == 4
    assert (it.machine.open_bytes, it.machine.away_bytes) == (0, 0)
    assert [sorted(asked) for asked in store.asked] == [[1, 3, 4]], "one look for all of a turn"


def test_what_was_let_go_is_let_go_once(talk: Any, store: Damaged) -> None:
    """A job that comes back - unsent, failed, handed back - has its body in the store still, and is handed over from
    there again.
    """
    it = talk(store=store, limits=TIGHT, tries=3)
    it.client().submit(A)
    deaf, worker = it.worker("deaf"), it.worker("w")
    it.workers.codes[deaf.peer] = 113
    deaf.ask()
    assert (deaf.got, kept(it)) == ([], [1])
    worker.ask()
    worker.fail(A, kind="Oops")
    worker.ask()
    worker.hand_back(A)
    assert kept(it) == [1]
    it.wait(2 * S)
    worker.ask()
    worker.complete(A)
    assert worker.got == [A] * 3
    assert it.machine.away_bytes == 0


def test_a_start_leaves_bodies_where_they_are(talk: Any, store: Damaged) -> None:
    """They are read when their jobs are handed over, and a machine that was loaded equals the one before."""
    it = talk(store=store)
    client = it.client()
    for body in (A, b"small", FRAMES):
        client.submit(body)
    find = bodies_of(store)
    before = census.persisted(it.machine, find)
    it.begin()
    assert kept(it) == [1, 3]
    assert store.asked == []
    assert census.persisted(it.machine, find) == before
    assert it.worker(credit=3).got == [A, b"small", FRAMES]


def test_cancelled_jobs_are_counted_out(talk: Any, store: Damaged) -> None:
    """Nothing is read for that."""
    it = talk(store=store, limits=TIGHT)
    c = it.client()
    name = c.submit(A)
    c.submit(B)
    c.says(CancelJob(id=name))
    assert (it.machine.away_bytes, it.machine.open_bytes) == (2_000, 2_000)
    assert store.asked == []


# --- Dead letters


def bury(it: Any, *bodies: Any) -> list[bytes]:
    """These jobs fail for good; their ids."""
    client, worker, ids = it.client("undertaker"), it.worker("gravedigger"), []
    for body in bodies:
        client.submit(body)
        worker.ask()
        ids.append(worker.jobs[-1][0].job)
        worker.fail(body, kind="Oops", text="it broke", final=True)
    client.receive()
    return ids


def test_a_dead_letter_is_shown_with_its_body(talk: Any, store: Damaged) -> None:
    """Its size is known without it."""
    it = talk(store=store, limits=TIGHT)
    (one,) = bury(it, FRAMES)
    store.asked.clear()
    a = it.admin()
    assert a.orders(ShowDead(id=b"x", job=one)).letter.body_bytes == 1_501
    assert store.asked == []
    told = a.orders(ShowDead(id=b"x", job=one, body=True))
    assert (type(told), a.body) == (DeadJobTold, FRAMES)
    store.unreadable.add(1)
    answer = a.orders(ShowDead(id=b"x", job=one, body=True))
    assert (type(answer), answer.code) == (Error, "body_lost")
    assert it.machine.kept.of(one) is not None


def test_a_redriven_job_has_a_body_of_its_own(talk: Any, store: Damaged) -> None:
    """Also where the dead letter goes in the same turn."""
    it = talk(store=store, limits=TIGHT)
    (one,) = bury(it, FRAMES)
    a = it.admin()
    a.says(RedriveDead(id=b"x", job=one), turn=False)
    a.says(PurgeDead(id=b"y", job=one))
    assert [(type(told), told.count) for told in a.take(SweptTold)] == [(SweptTold, 1)] * 2
    assert store.bodies([1, 2]) == [None, FRAMES]
    it.begin()
    assert kept(it) == [2]
    assert it.worker(credit=1).got == [FRAMES]


def test_a_redriven_job_whose_body_is_lost(talk: Any, store: Damaged) -> None:
    """There is nothing to be done again: the new job ends at once, and says why."""
    it = talk(store=store, limits=TIGHT)
    (one,) = bury(it, A)
    store.unreadable.add(1)
    a = it.admin()
    told = a.orders(RedriveDead(id=b"x", job=one))
    (made,) = told.jobs
    it.turn()
    assert it.machine.kept.of(made).job.reason == "body_lost"
    assert (it.machine.open, it.machine.away_bytes) == (0, 0)
    it.begin()
    assert it.machine.kept.of(made).job.body == b""


def test_a_redriven_job_that_is_cancelled_at_once(talk: Any, store: Damaged) -> None:
    """Nobody reads for it."""
    it = talk(store=store, limits=TIGHT)
    (one,) = bury(it, A)
    store.asked.clear()
    made = it.machine.requests.redrive(it.machine.kept.of(one).job, it.now)
    it.machine.requests.accept(it.now)
    assert it.machine.away_bytes == 2_000
    it.machine.cancel(made, Reason.CANCELLED, it.now)
    it.turn()
    assert (store.asked, it.machine.open, it.machine.away_bytes) == ([], 0, 0)


def test_a_redrive_that_is_refused_reads_nothing(talk: Any, store: Damaged) -> None:
    """Its unique key is taken by another job: no new one is made, and nothing is counted."""
    it = talk(store=store, limits=TIGHT)
    client, worker = it.client(), it.worker()
    client.submit(A, unique="key")
    worker.ask()
    worker.fail(A, kind="Oops", final=True)
    client.submit(B, unique="key")
    store.asked.clear()
    (letter,) = it.machine.kept.walk("", 0)
    assert it.admin().orders(RedriveDead(id=b"x", job=letter.job.id)).code == "duplicate"
    assert (store.asked, it.machine.borrowed, it.machine.away_bytes) == ([], [], 2_000)


# --- Damage


def test_a_job_whose_body_cannot_be_read_ends(talk: Any, store: Damaged) -> None:
    """docs/operations.md: "is discarded": its client is told why, the others go on, and the worker has its ask back."""
    it = talk(store=store, limits=TIGHT)
    client = it.client()
    names = [client.submit(body) for body in (A, B, C, D)]
    store.unreadable |= {2, 4}
    worker = it.worker(credit=3)
    assert worker.got == [A, C]
    assert [said.seq for said, _ in worker.jobs] == [1, 2], "no number is left out"
    assert it.machine.roster.asks == 1
    client.submit(b"next")
    assert worker.got == [A, C, b"next"]
    told = {said.id: (said.state, said.reason, said.attempts) for said, _ in client.outcomes}
    assert told == {names[1]: ("discarded", "body_lost", 0), names[3]: ("discarded", "body_lost", 0)}
    lost = [fields for event, fields in it.notices if event == Event.BODY_LOST]
    assert lost == [{"job": 2, "bytes": 2_000}, {"job": 4, "bytes": 2_000}]
    assert it.machine.away_bytes == 4_000
    it.begin()
    assert sorted(letter.job.number for letter in it.machine.kept.walk("", 0)) == [2, 4]


def test_a_worker_of_2010_that_was_to_get_it_gets_another(talk: Any, store: Damaged) -> None:
    """Its one ask is not lost: it would wait for ever."""
    it = talk(store=store, limits=TIGHT)
    client, worker = it.client_2010(), it.worker_2010()
    client.submit(A, B)
    store.unreadable.add(1)
    worker.ask()
    assert [body for _, body in worker.jobs] == [B]
    assert client.told == [b""]
    assert it.machine.roster.asks == 0


def test_a_worker_of_several_queues_is_in_line_again(talk: Any, store: Damaged) -> None:
    """Whatever comes next in any of them."""
    it = talk(store=store, limits=TIGHT)
    client = it.client()
    client.submit(A, queue="one")
    store.unreadable.add(1)
    worker = it.worker(queues=("one", "two"), credit=1)
    assert worker.got == []
    client.submit(B, queue="two")
    assert worker.got == [B]


def test_a_body_of_another_size_is_none(talk: Any, store: Damaged) -> None:
    """What is read is compared with what is known of it."""
    it = talk(store=store, limits=TIGHT)
    it.client().submit(A)
    (job,) = it.machine.jobs()
    job.body = KeptBody(1, 2_000, 2)
    it.machine.open_bytes += 128
    it.machine.away_bytes += 128
    assert it.worker(credit=1).got == []
    assert job.reason == "body_lost"


def test_a_disk_that_does_not_work_stops_the_broker(talk: Any, store: Damaged) -> None:
    """As a failed commit does: nothing is known of any body."""
    it = talk(store=store, limits=TIGHT)
    it.client().submit(A)
    store.fails = True
    with pytest.raises(StoreFailed):
        it.worker(credit=1)


def test_the_state_of_a_job_needs_no_body(talk: Any, store: Damaged) -> None:
    """Administrators see its size."""
    it = talk(store=store, limits=TIGHT)
    it.client().submit(FRAMES)
    (job,) = it.machine.jobs()
    told = it.admin().orders(ShowJob(id=b"x", job=job.id))
    assert (told.body_bytes, told.state) == (1_501, "available")
    assert (job.state, store.asked) == (AVAILABLE, [])
