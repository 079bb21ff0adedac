"""`relet.Admin` and dead letters, against a real broker in a thread, on real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from relet import Admin, Broker, Client, DeadLetter, FailJob, JobFailed, OrderRefused, Terms, Worker
from relet.client import admin as module

LIMIT_S = 20.0
MOOD = {"fails": True}


@pytest.fixture
def broker() -> Iterator[Broker]:
    """With an administrators' endpoint, and a worker that fails for good as long as it is in the mood."""

    def handler(body: bytes) -> bytes:
        if MOOD["fails"]:
            raise FailJob("Oops", "it broke", final=True)
        return b"did " + body

    MOOD["fails"] = True
    with Broker(":0", ":0", ":0", admin=":0", drain=0.0) as broker:
        worker = Worker(broker.endpoints["workers"], handler=handler, queues=["default", "mail"])
        thread = threading.Thread(target=worker.run)
        thread.start()
        yield broker
        worker.stop()
        thread.join(LIMIT_S)


@pytest.fixture
def admin(broker: Broker) -> Iterator[Admin]:
    """Of that broker."""
    with Admin(broker.endpoints["admin"], timeout=LIMIT_S) as admin:
        yield admin


@pytest.fixture
def client(broker: Broker) -> Iterator[Client]:
    """Of that broker."""
    with Client(broker.endpoints["clients"], timeout=LIMIT_S) as client:
        yield client


def bury(client: Client, *bodies: bytes, queue: str = "default") -> None:
    """These fail, one after the other."""
    for body in bodies:
        with pytest.raises(JobFailed):
            client.call(body, terms=Terms(queue=queue))


def test_dead_letters_are_listed_shown_and_done_again(client: Client, admin: Admin) -> None:
    """From the failure to the result of the new job, by ids alone."""
    began = time.time()
    bury(client, b"one", b"two")
    bury(client, b"three", queue="mail")
    letters = list(admin.dead())
    assert [(it.queue, it.reason, it.kind, it.attempts, it.body_bytes) for it in letters] == [
        ("default", "failed", "Oops", 1, 3),
        ("default", "failed", "Oops", 1, 3),
        ("mail", "failed", "Oops", 1, 5),
    ]
    assert all(began - 1 <= it.accepted <= it.ended <= time.time() + 1 for it in letters)
    assert [it.number for it in admin.dead("mail", kind="Oops", reason="failed", newer_than=LIMIT_S * 10)] == [3]
    assert list(admin.dead(kind="Other")) == []
    assert list(admin.dead(older_than=LIMIT_S * 10)) == []
    assert {queue.name: queue.dead for queue in admin.queues()} == {"default": 2, "mail": 1}
    shown = admin.dead_letter(letters[2].job_id, body=True)
    assert type(shown) is DeadLetter
    assert (shown.text, shown.body, shown.ledger[0].kind) == ("it broke", (b"three",), "Oops")
    assert admin.dead_letter(letters[2].job_id).body is None
    MOOD["fails"] = False
    assert admin.redrive("mail", dry_run=True).count == 1
    swept = admin.redrive(job_id=letters[2].job_id)
    assert swept.count == 1
    assert client.result(job_id=swept.job_ids[0]) == b"did three"
    assert admin.dead_letter(letters[2].job_id).redriven_to == swept.job_ids[0]
    with pytest.raises(OrderRefused, match="redriven"):
        admin.redrive(job_id=letters[2].job_id)
    assert admin.redrive("mail", force=True).count == 1
    swept = admin.redrive(everything=True)
    assert (swept.count, swept.skipped, swept.refused, swept.code) == (2, 1, 0, "")


def test_dead_letters_are_purged(client: Client, admin: Admin) -> None:
    """Those that are named, the oldest of them, or all."""
    bury(client, b"1", b"2", b"3", b"4")
    first = next(iter(admin.dead()))
    assert admin.purge(job_id=first.job_id).count == 1
    assert admin.purge(everything=True, limit=1, dry_run=True).count == 1
    assert admin.purge(everything=True, limit=1).count == 1
    assert [it.number for it in admin.dead()] == [3, 4]
    assert admin.purge(everything=True).count == 2
    assert list(admin.dead()) == []
    for call in (admin.purge, admin.redrive):
        with pytest.raises(OrderRefused, match="unknown_job"):
            call(job_id=first.job_id)
    with pytest.raises(OrderRefused, match="unknown_job"):
        admin.dead_letter(first.job_id)


def test_many_are_listed_page_by_page(client: Client, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, in order."""
    monkeypatch.setattr(module, "PAGE", 2)
    bury(client, b"1", b"2", b"3", b"4", b"5")
    assert [it.number for it in admin.dead()] == [1, 2, 3, 4, 5]


def test_what_cannot_be_meant_is_refused(admin: Admin) -> None:
    """Here where that can be known, else by the broker, which says what may be."""
    with pytest.raises(ValueError, match="older_than is a number of seconds"):
        list(admin.dead(older_than=-1))
    with pytest.raises(ValueError, match="newer_than is a number of seconds"):
        admin.purge(newer_than=0)
    for call in (admin.purge, admin.redrive):
        with pytest.raises(ValueError, match="say which dead letters"):
            call()
        with pytest.raises(ValueError, match="say which dead letters"):
            call("", limit=1)
        with pytest.raises(ValueError, match="leave the other arguments out"):
            call("mail", everything=True)
        assert call(kind="").count == 0
    with pytest.raises(OrderRefused, match="must be one of tries_spent"):
        admin.redrive(reason="bad luck")
    with pytest.raises(OrderRefused, match="make `newer_ms` the longer one"):
        admin.purge(older_than=2, newer_than=1)
    with pytest.raises(TypeError, match="an id is bytes"):
        admin.dead_letter("01")  # type: ignore[arg-type]
