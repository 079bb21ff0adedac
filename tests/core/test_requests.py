"""What native clients say, rule by rule of docs/protocol.md: requests that have an identity, who waits for them, what
is told and kept, and for how long.

Each test cites the sentence that it shows, or says what was found.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import uuid
from typing import Any

import pytest

from relet.core.job import Job
from relet.core.limits import Limits
from relet.core.machine import Machine
from relet.dialects import native
from relet.messages import (
    HEADER_BYTES,
    Cancel,
    CancelJob,
    ClientHello,
    Error,
    Heartbeat,
    Inquire,
    Item,
    JobState,
    Refused,
    Submit,
    Submitted,
)
from relet.store.memory import MemoryStore
from relet.testing import LateStore

MS = 1_000_000
S = 1_000 * MS
HOUR = 3_600 * S


def name(text: bytes) -> bytes:
    """The request id that `submit` makes of a body."""
    return text.ljust(16, b"-")


# --- Submitted


def test_who_asks_for_it_hears_what_became_of_the_request(talk: Any) -> None:
    """`ack`: "answer with `submitted` also when all is well": job id, and how many waited before it."""
    it = talk()
    c = it.client()
    first = c.asks(b"a")
    assert (first.id, len(first.job), first.position, first.joined, first.code) == (name(b"a"), 16, 0, False, "")
    c.submit(b"b")
    assert c.take(Submitted) == []
    assert c.asks(b"c").position == 2
    assert c.asks(b"d", queue="other").position == 0
    it.client_2010().submit(b"e", b"f")
    assert c.asks(b"g").position == 5


def test_positions_of_one_turn_count_each_other(talk: Any) -> None:
    """`position`: "how many jobs waited before it", those of the same message and of the same turn among them."""
    it = talk()
    c, d = it.client(), it.client("d")
    assert [each.position for each in c.submit_many(b"a", b"b", b"c")] == [0, 1, 2]
    c.submit(b"d", turn=False)
    d.submit(b"e", ack=True, turn=False)
    c.submit(b"f", ack=True, queue="other", turn=False)
    c.submit(b"g", ack=True)
    assert [said.jobs[0].position for said in (*d.take(Submitted), *c.take(Submitted))] == [4, 0, 5]


def test_ids_of_jobs_are_of_uuid_version_7(talk: Any) -> None:
    """`.job`: "in the layout of UUIDv7 (RFC 9562)": 48 bits of milliseconds since 1970, version, variant, the rest
    random; so ids grow with time.
    """
    it = talk()
    c = it.client()
    ids = []
    for number in range(5):
        ids.append(c.asks(b"%d" % number).job)
        it.wait(2 * MS)
    for number, job_id in enumerate(ids):
        assert int.from_bytes(job_id[:6], "big") == 6_000_000 + 2 * number
        assert (job_id[6] >> 4, job_id[8] >> 6) == (7, 2)
    assert ids == sorted(ids)
    assert len(set(ids)) == 5


def test_the_id_of_a_job_is_the_same_for_everybody(talk: Any) -> None:
    """`job`: "id of the job, the same at every attempt", and for all who ask."""
    it = talk()
    c, d, w = it.client(), it.client("d"), it.worker(credit=3)
    c.submit(b"a")
    w.fail(b"a")
    w.fail(b"a")
    told = c.asks(b"a").job
    assert {said.job for said, _ in w.jobs} == {told}
    assert d.asks(b"a").job == told


def test_a_refusal_is_told_without_being_asked_for(talk: Any) -> None:
    """`submitted`: "Sent where `ack` was asked for, or where one of the jobs was refused"."""
    it = talk()
    c = it.client()
    c.submit(b"a", b"short")
    ((admitted,),) = [said.jobs for said in c.take(Submitted)]
    assert (admitted.id, admitted.code, admitted.job) == (b"short", "bad_id", b"")
    assert admitted.text


# --- Refusals


@pytest.mark.parametrize("size", [0, 15, 65, 5_000])
def test_ids_have_sixteen_to_sixtyfour_bytes(talk: Any, size: int) -> None:
    """`bad_id`: "has an id that is shorter than 16 or longer than 64 bytes"; no more than 64 bytes are told back."""
    it = talk()
    c = it.client()
    c.says(Submit(id=b"x" * size), b"a")
    ((admitted,),) = [said.jobs for said in c.take(Submitted)]
    assert (admitted.id, admitted.code, admitted.retry_ms) == (b"x" * min(size, 64), "bad_id", 0)
    assert (it.machine.open, it.counters.requests_refused) == (0, 1)
    for good in (16, 64):
        assert c.asks(b"a", b"x" * good).code == ""


BAD = {
    "run_ms": {"run_ms": 7 * 86_400_000 + 1},
    "silence_ms": {"silence_ms": 7 * 86_400_000 + 1},
    "no silence": {"silence_ms": 0},
    "keep_ms": {"keep_ms": 3_600_001},
    "queue": {"queue": "x" * 201},
    "no queue": {"queue": ""},
    "headers": {"headers": {"x": "y" * 8_192}},
}


@pytest.mark.parametrize("fields", BAD.values(), ids=BAD.keys())
def test_what_cannot_be_is_refused_with_what_to_change(talk: Any, fields: Any) -> None:
    """`bad_request`: "says something that cannot be; `text` says what and what to change"."""
    it = talk()
    c = it.client()
    admitted = c.asks(b"a", **fields)
    assert (admitted.code, admitted.job, admitted.retry_ms) == ("bad_request", b"", 0)
    assert next(iter(fields)) in admitted.text or "queue" in admitted.text or "headers" in admitted.text
    assert it.machine.open == 0
    assert c.asks(b"a").code == "", "the id is free"


@pytest.mark.parametrize(
    "fields",
    [
        {"run_ms": 7 * 86_400_000},
        {"silence_ms": 1},
        {"keep_ms": 3_600_000},
        {"queue": "x" * 200},
        {"headers": {"x": "y" * (8_191 - HEADER_BYTES)}},
    ],
)
def test_what_just_can_be_is_taken(talk: Any, fields: Any) -> None:
    """The bounds themselves are allowed."""
    assert talk().client().asks(b"a", **fields).code == ""


def test_a_full_broker_is_busy_before_the_reserve_of_2010(talk: Any) -> None:
    """`busy`: "would exceed a limit of the broker"; 2010 has no word for it, and may go on into the reserve."""
    it = talk(limits=Limits(jobs_max=20))
    c, old = it.client(), it.client_2010()
    c.submit_many(*(b"%d" % number for number in range(20)))
    for fields in ({}, {"ack": True}):
        c.submit(b"more", **fields)
        ((admitted,),) = [said.jobs for said in c.take(Submitted)]
        assert admitted.code == "busy"
        assert admitted.retry_ms > 0
    old.submit(b"x", b"y", b"z")
    assert it.machine.open == 22
    assert c.asks(b"0").joined, "what is known is not refused"
    w = it.worker(credit=5)
    for body in w.got:
        w.complete(body)
    assert c.asks(b"more").code == ""


def test_bytes_have_a_bound_and_one_job_may_be_larger(talk: Any) -> None:
    """`jobs_bytes_max`; a single job that is larger than that can be done while no other is open."""
    it = talk(limits=Limits(jobs_bytes_max=1_000, body_bytes_max=5_000))
    c = it.client()
    assert c.asks(b"x" * 2_000).code == ""
    assert c.asks(b"y").code == "busy"
    w = it.worker(credit=1)
    w.complete(b"x" * 2_000)
    assert c.asks(b"y" * (900 - HEADER_BYTES), headers={"a": "b" * 90}).code == ""
    assert c.asks(b"z" * 10).code == "busy"
    assert c.asks(b"z" * 9).code == ""


def test_the_fast_way_in_keeps_the_bounds(talk: Any) -> None:
    """Nearly all requests are plain: they are counted against the same limits, within a turn and beyond."""
    it = talk(limits=Limits(jobs_max=10))
    c = it.client()
    for number in range(15):
        c.submit(b"%d" % number, turn=False)
    it.turn()
    assert it.machine.open == 10
    assert [said.jobs[0].code for said in c.take(Submitted)] == ["busy"] * 5
    it = talk(limits=Limits(jobs_bytes_max=1_000, body_bytes_max=256))
    c = it.client()
    for number in range(25):
        c.submit(b"%050d" % number, turn=False)
    it.turn()
    assert it.machine.open == 20
    assert [said.jobs[0].code for said in c.take(Submitted)] == ["busy"] * 5


def test_a_broker_whose_disk_is_full_takes_nothing_new(talk: Any) -> None:
    """`disk_full`: "came while the disk of the broker's store is nearly full"; what is open goes on, and may be asked
    for again.
    """
    it = talk()
    c, w = it.client(), it.worker(credit=5)
    c.submit(b"a")
    it.machine.disk_full = True
    admitted = c.asks(b"b")
    assert (admitted.code, admitted.retry_ms) == ("disk_full", 1_000)
    c.submit(b"plain")
    c.submit(b"formed", priority=3)
    assert [said.jobs[0].code for said in c.take(Submitted)] == ["disk_full"] * 2
    assert [each.code for each in c.submit_many(b"x", b"y")] == ["disk_full"] * 2
    assert c.asks(b"a").joined
    w.complete(b"a")
    assert c.told() == [(b"a", "completed", b"done")]
    it.machine.disk_full = False
    assert c.asks(b"b").code == ""


def test_a_broker_that_stops_takes_nothing_new(talk: Any) -> None:
    """`draining`: "came while the broker stops"; who asks again for what is under way is told its outcome."""
    it = talk()
    c, w = it.client(), it.worker(credit=2)
    c.submit(b"a")
    it.draining = True
    admitted = c.asks(b"b")
    assert (admitted.code, admitted.retry_ms > 0) == ("draining", True)
    c.submit(b"plain")
    assert [said.jobs[0].code for said in c.take(Submitted)] == ["draining"]
    assert [each.code for each in c.submit_many(b"x", b"y")] == ["draining"] * 2
    d = it.client("d")
    assert d.asks(b"a").joined
    w.complete(b"a")
    assert c.told() == d.told() == [(b"a", "completed", b"done")]


def test_what_was_too_large_is_refused_by_its_ids(talk: Any) -> None:
    """`too_large`: "has more bytes or frames than a job may have": the pump has thrown its body away."""
    it = talk()
    c = it.client()
    for said in (Submit(id=name(b"a")), Submit(jobs=(Item(id=name(b"b")), Item(id=name(b"c"))))):
        it.clients.refused.append(Refused(c.peer, b"", "too_large", 1, native.encode(said)))
    it.turn()
    one, many = c.take(Submitted)
    assert [(each.id, each.code) for each in one.jobs] == [(name(b"a"), "too_large")]
    assert [(each.id, each.code) for each in many.jobs] == [(name(b"b"), "too_large"), (name(b"c"), "too_large")]


# --- Many in one message


def test_many_jobs_come_in_one_message(talk: Any) -> None:
    """`jobs`: "many jobs on the same terms. The body is their frames, one job after the other"."""
    it = talk()
    c, w = it.client(), it.worker(credit=9)
    items = tuple(Item(id=name(each), frames=frames) for each, frames in ((b"a", 1), (b"b", 3), (b"c", 0), (b"d", 1)))
    c.says(Submit(jobs=items, ack=True, run_ms=5_000, headers={"h": "1"}), (b"1", b"2", b"", b"4", b"5"))
    (said,) = c.take(Submitted)
    assert [each.id for each in said.jobs] == [item.id for item in items]
    assert w.got == [b"1", (b"2", b"", b"4"), (), b"5"]
    assert {(said.run_ms, said.headers["h"]) for said, _ in w.jobs} == {(5_000, "1")}
    for body in w.got:
        w.complete(body, b"did")
    assert [outcome.id for outcome, _ in c.outcomes] == [item.id for item in items]


@pytest.mark.parametrize(
    ("frames", "body"),
    [((1, 1), b"one"), ((2, 1), (b"1", b"2")), ((1,), (b"1", b"2")), ((3, -1), (b"1", b"2")), ((0,), b"one")],
)
def test_frames_that_do_not_come_out_even_are_refused_as_a_whole(talk: Any, frames: Any, body: Any) -> None:
    """`bad_request`: nobody can say which frames are whose. A negative number is no number of frames."""
    it = talk()
    c = it.client()
    items = tuple(Item(id=b"%016d" % index, frames=count) for index, count in enumerate(frames))
    c.says(Submit(jobs=items), body)
    refused = c.take(Submitted)
    codes = {each.code for said in refused for each in said.jobs} | {error.code for error in c.take(Error)}
    assert codes <= {"bad_request", "bad_header"}
    assert codes
    assert it.machine.open == 0


def test_a_message_of_many_has_no_id_of_its_own(talk: Any) -> None:
    """`jobs`: "in the place of `id`"."""
    c = talk().client()
    c.says(Submit(id=name(b"own"), jobs=(Item(id=name(b"a")),)), b"a")
    ((admitted,),) = [said.jobs for said in c.take(Submitted)]
    assert (admitted.id, admitted.code) == (name(b"a"), "bad_request")


def test_an_id_that_stands_twice_refuses_the_message(talk: Any) -> None:
    """`bad_id`: "or that stands twice in the message"."""
    it = talk()
    c = it.client()
    assert [each.code for each in c.submit_many(b"a", b"b", b"a")] == ["bad_id"] * 3
    assert it.machine.open == 0


def test_a_message_has_so_many_jobs(talk: Any) -> None:
    """`limits.ids`: a message with more is refused as a whole, and told of so many of them."""
    it = talk(limits=Limits(ids_per_message_max=3))
    c = it.client()
    assert [each.code for each in c.submit_many(b"a", b"b", b"c", b"d")] == ["bad_request"] * 3
    assert [each.code for each in c.submit_many(b"a", b"b", b"c")] == [""] * 3


def test_a_message_of_many_is_admitted_or_refused_as_a_whole_at_a_limit(talk: Any) -> None:
    """`submitted`: "A message of many is admitted as a whole or refused as a whole where a limit is reached"."""
    it = talk(limits=Limits(jobs_max=4))
    c = it.client()
    c.submit_many(b"a", b"b")
    admitted = c.submit_many(b"c", b"d", b"e")
    assert [each.code for each in admitted] == ["busy"] * 3
    assert all(each.retry_ms > 0 for each in admitted)
    assert it.machine.open == 2
    assert [each.code for each in c.submit_many(b"a", b"c", b"d", b"b")] == [""] * 4, "those known take no place"


def test_headers_count_when_a_message_of_many_is_weighed(talk: Any) -> None:
    """Found by reading: the headers of many jobs were forgotten in the sum, so a part of the message was admitted."""
    it = talk(limits=Limits(jobs_bytes_max=1_000))
    c = it.client()
    c.submit(b"x" * 500)
    admitted = c.submit_many(*(b"%d" % number for number in range(8)), headers={"h": "y" * 99})
    assert [each.code for each in admitted] == ["busy"] * 8
    assert it.machine.open == 1


def test_else_each_job_of_many_stands_for_itself(talk: Any) -> None:
    """`submitted`: "otherwise each job for itself": a bad id, a conflict and a known one beside new ones."""
    it = talk()
    c = it.client()
    c.submit(b"longer", name(b"b"))
    items = (Item(id=name(b"a")), Item(id=name(b"b")), Item(id=b"short"), Item(id=name(b"longer")), Item(id=name(b"c")))
    c.submit(b"longer")
    c.says(Submit(jobs=items), (b"a", b"b", b"x", b"longer", b"c"))
    (said,) = c.take(Submitted)
    assert [each.code for each in said.jobs] == ["", "conflict", "bad_id", "", ""]
    assert it.machine.open == 4


# --- Asking again


def test_asking_again_joins_the_job(talk: Any) -> None:
    """Submit: "it joins the job, or gets its outcome": each asker is told once, the job runs once."""
    it = talk()
    c, d, w = it.client(), it.client("d"), it.worker(credit=5)
    c.submit(b"a")
    assert d.asks(b"a").joined
    for _ in range(3):
        c.submit(b"a", age_ms=5)
    w.complete(b"a")
    assert c.told() == d.told() == [(b"a", "completed", b"done")]
    assert (w.got, it.counters.requests_joined) == ([b"a"], 4)


def test_asking_again_after_the_end_tells_the_outcome_again(talk: Any) -> None:
    """The same, while the outcome is kept; under another number."""
    it = talk(tries=1)
    c, w = it.client(), it.worker(credit=5)
    c.submit(b"a", headers={"x": "1"})
    w.complete(b"a", b"done", headers={"y": "2"})
    c.submit(b"b")
    w.fail(b"b", kind="K", text="T")
    c.submit(b"a", age_ms=1)
    c.submit(b"b", age_ms=1)
    (a, _), (b, _), (a2, body), (b2, _) = c.outcomes
    assert (a.n, b.n, a2.n, b2.n) == (1, 2, 3, 4)
    assert (a2.id, a2.headers, body) == (a.id, a.headers, b"done")
    assert (b2.reason, b2.kind, b2.text, b2.ledger) == (b.reason, b.kind, b.text, b.ledger)
    assert w.got == [b"a", b"b"]


def test_asking_again_without_waiting_only_asks(talk: Any) -> None:
    """`wait`: "tell the outcome when it is there"; without it nobody is told."""
    it = talk()
    c, w = it.client(), it.worker(credit=5)
    assert c.asks(b"a", wait=False).code == ""
    w.complete(b"a")
    assert c.asks(b"a", wait=False).joined
    assert c.told() == []
    assert c.inquire(id=name(b"a"), wait=True) is None
    assert c.told() == [(b"a", "completed", b"done")]


@pytest.mark.parametrize("done", [False, True])
def test_an_id_that_comes_with_another_job_is_refused(talk: Any, done: bool) -> None:
    """Submit: "An id that comes with another queue or another size of body is refused (`conflict`)", also later."""
    it = talk()
    c, w = it.client(), it.worker(credit=5)
    c.submit((b"12", b"", b"34"), name(b"a"))
    if done:
        w.complete((b"12", b"", b"34"))
    for body, queue in ((b"12345", "default"), (b"", "default"), (b"1234", "other")):
        admitted = c.asks(body, name(b"a"), queue=queue)
        assert (admitted.code, admitted.job, admitted.joined) == ("conflict", b"", False)
    assert c.asks(b"1234", name(b"a")).joined
    assert it.counters.requests_refused == 3


def test_requests_are_looked_up_within_a_principal(talk: Any) -> None:
    """Submit: "A request id is looked up among those of the same principal"."""
    it = talk()
    one, other, w = it.client("1", principal="one"), it.client("2", principal="other"), it.worker(credit=5)
    nobody = it.client("3")
    first, second, third = one.asks(b"a"), other.asks(b"a"), nobody.asks(b"a")
    assert not any(each.joined for each in (first, second, third))
    assert len({first.job, second.job, third.job}) == 3
    assert w.got == [b"a"] * 3
    assert one.inquire(job=second.job).state == "unknown"
    assert nobody.inquire(job=second.job).state == "unknown"
    assert other.inquire(job=second.job).state == "held"
    again = it.client("4", principal="one")
    assert again.asks(b"a").joined
    w.says(Heartbeat())
    for said, _ in w.jobs:
        w.complete(said.token, said.token)
    assert [body for _, _, body in one.told()] == [w.jobs[0][0].token] == [body for _, _, body in again.told()]


def test_askers_of_one_job_have_a_bound(talk: Any) -> None:
    """`too_many_askers`: "is asked by as many already as a job may have"; those who are gone make room."""
    it = talk(limits=Limits(askers_per_job_max=2))
    one, two, three = (it.client(each) for each in "123")
    one.submit(b"a")
    two.submit(b"a")
    assert three.asks(b"a").code == "too_many_askers"
    job = two.asks(b"a").job
    assert three.inquire(id=name(b"a"), wait=True) is None
    assert three.inquire(job=job, wait=True) is None
    assert [(error.code, error.id) for error in three.take(Error)] == [
        ("too_many_askers", name(b"a")),
        ("too_many_askers", job),
    ]
    assert three.inquire(id=name(b"a")).state == "available"
    assert two.asks(b"a").joined, "who waits already takes no second place"
    one.lose()
    assert three.asks(b"a").joined


# --- Expired, and again


def test_a_request_older_than_outcomes_are_kept_is_refused(talk: Any) -> None:
    """Submit: "a resend says its `age_ms`, and is refused (`expired`) where an outcome of that age may have been
    forgotten".
    """
    it = talk(limits=Limits(outcome_ns=10 * S))
    it.wait(20 * S)
    c = it.client()
    assert c.asks(b"a", age_ms=10_001).code == "expired"
    assert c.asks(b"a", age_ms=2**60).code == "expired"
    assert c.asks(b"a", age_ms=10_000).code == ""


def test_a_known_request_is_never_too_old(talk: Any) -> None:
    """It has its job."""
    it = talk(limits=Limits(outcome_ns=10 * S))
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.start(b"a")
    it.wait(60 * S)
    assert c.asks(b"a", age_ms=60_000).joined
    w.complete(b"a")
    assert c.told() == [(b"a", "completed", b"done")]


def test_a_request_whose_outcome_a_bound_made_us_forget_is_refused(talk: Any) -> None:
    """The same, where a bound was reached before: what was accepted until then may have been forgotten."""
    it = talk(limits=Limits(outcomes_max=2))
    c, w = it.client(), it.worker(credit=9)
    for body in (b"a", b"b", b"c"):
        it.wait(1 * S)
        c.submit(body)
        w.complete(body)
    assert len(it.machine.requests.outcomes) == 2
    it.wait(10 * S)
    assert c.asks(b"a", age_ms=12_000).code == "expired"
    assert c.asks(b"x", age_ms=12_500).code == "expired", "nobody can tell that it was another"
    assert c.asks(b"y", age_ms=2_001).code == "expired", "the first time it may have been on its way for less"
    assert c.asks(b"z", age_ms=1_999).code == ""
    assert c.asks(b"b", age_ms=11_000).joined


def test_bytes_of_kept_outcomes_have_a_bound(talk: Any) -> None:
    """`outcomes_bytes_max`: the oldest go first."""
    it = talk(limits=Limits(outcomes_bytes_max=5_000))
    c, w = it.client(), it.worker(credit=9)
    for body in (b"a", b"b", b"c"):
        c.submit(body)
        w.complete(body, b"x" * 1_400)
    assert [job.request for job in it.machine.requests.outcomes] == [name(b"b"), name(b"c")]
    c.submit(b"d")
    w.complete(b"d", b"x" * 5_000)
    assert len(it.machine.requests.outcomes) == 0
    assert [said.id for said, _ in c.outcomes] == [name(each) for each in (b"a", b"b", b"c", b"d")], "told all the same"


def test_a_younger_broker_runs_what_it_does_not_know_and_says_so(talk: Any) -> None:
    """Submit: "A broker that began later than the request was first asked, and knows nothing of it, runs it, and says
    `again: true` in the outcome".
    """
    it = talk()
    c, w = it.client(), it.worker(credit=9)
    it.wait(5 * S)
    for body, age_ms in ((b"old", 5_001), (b"young", 4_999), (b"new", 0)):
        c.submit(body, age_ms=age_ms)
        w.complete(body)
    assert [said.again for said, _ in c.outcomes] == [True, False, False]


def test_a_broker_with_a_store_remembers_instead(talk: Any) -> None:
    """The same: "and knows nothing of it": a store remembers for it."""
    it = talk(store=MemoryStore())
    c, w = it.client(), it.worker(credit=9)
    c.submit(b"a")
    w.complete(b"a", b"once", headers={"x": "y"})
    it.begin()
    c = it.client()
    c.submit(b"a", age_ms=10)
    ((said, body),) = c.outcomes
    assert (said.n, said.state, said.attempts, said.headers, said.again, body) == (
        1,
        "completed",
        1,
        {"x": "y"},
        False,
        b"once",
    )


# --- Outcomes and receipts


def test_outcomes_are_numbered_within_a_session(talk: Any) -> None:
    """`n`: "number of this outcome on this session: 1, 2, 3 ..."; a second hello begins a new one."""
    it = talk()
    c, w = it.client(), it.worker(credit=9)
    for body in (b"a", b"b", b"c"):
        c.submit(body)
        w.complete(body)
    assert [said.n for said, _ in c.outcomes] == [1, 2, 3]
    c.hello()
    c.submit(b"d")
    w.complete(b"d")
    c.submit(b"a", age_ms=1)
    assert [(said.n, said.id) for said, _ in c.outcomes[3:]] == [(1, name(b"d")), (2, name(b"a"))]


def test_what_was_received_is_dropped_at_once(talk: Any) -> None:
    """Receipts: "What was received and not asked to be kept is dropped at once"; cumulative, repeats are harmless."""
    it = talk()
    c, w = it.client(), it.worker(credit=9)
    for body in (b"a", b"b", b"c"):
        c.submit(body)
        w.complete(body)
    outcomes = it.machine.requests.outcomes
    c.receive(2)
    assert [job.request for job in outcomes] == [name(b"c")]
    for number in (2, 1, 0):
        c.receive(number)
    assert (len(outcomes), it.counters.outcomes_received) == (1, 2)
    c.submit(b"d", received=3)
    assert (len(outcomes), outcomes.bytes) == (0, 0)
    c.inquire(id=name(b"a"), received=3)
    assert it.counters.outcomes_received == 3


def test_every_message_of_a_client_may_carry_a_receipt(talk: Any) -> None:
    """Receipts: "whatever a client says may carry `received`"."""
    it = talk()
    c, w = it.client(), it.worker(credit=9)
    for number, say in enumerate(
        (
            lambda n: c.says(Heartbeat(received=n)),
            lambda n: c.submit(b"plain", received=n, wait=False),
            lambda n: c.submit(b"acked", received=n, ack=True, wait=False),
            lambda n: c.inquire(id=name(b"zz"), received=n),
            lambda n: c.says(Submit(jobs=(Item(id=name(b"m")),), received=n, wait=False), b"m"),
        ),
        start=1,
    ):
        body = b"%d" % number
        c.submit(body)
        w.ask()
        w.complete(body)
        assert len([job for job in it.machine.requests.outcomes if job.unreceived]) == 1
        say(number)
        assert not [job for job in it.machine.requests.outcomes if job.unreceived]


def test_a_receipt_of_what_was_never_told_is_good_for_what_was(talk: Any) -> None:
    """A number above all that were told: a liar harms nobody else."""
    it = talk()
    c, d, w = it.client(), it.client("d"), it.worker(credit=9)
    for each in (c, d):
        each.submit(b"a" + each.name.encode())
    w.complete(b"ac")
    c.receive(10**9)
    assert it.counters.outcomes_received == 1
    w.complete(b"ad")
    d.receive()
    assert len(it.machine.requests.outcomes) == 0


def test_an_outcome_is_kept_until_all_who_were_told_have_it(talk: Any) -> None:
    """Receipts are of sessions: one asker's says nothing of another's."""
    it = talk()
    c, d, w = it.client(), it.client("d"), it.worker(credit=1)
    c.submit(b"a")
    d.submit(b"a")
    w.complete(b"a")
    c.receive()
    assert len(it.machine.requests.outcomes) == 1
    d.receive()
    assert len(it.machine.requests.outcomes) == 0


def test_an_outcome_that_was_not_received_is_kept_for_who_asks_again(talk: Any) -> None:
    """Receipts: "the rest is kept for `limits.outcome_ms`": its client lost the connection with the outcome on it."""
    it = talk(limits=Limits(outcome_ns=10 * S))
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.complete(b"a")
    c.lose()
    it.wait(9 * S)
    c.connect()
    c.hello()
    c.submit(b"a", age_ms=9_000)
    assert [said.n for said, _ in c.outcomes] == [1, 1]
    c.receive(1)
    assert len(it.machine.requests.outcomes) == 0, "now it has it"


def test_outcomes_are_kept_for_so_long(talk: Any) -> None:
    """Receipts: "the rest is kept for `limits.outcome_ms`", from the end, and not longer."""
    it = talk(limits=Limits(outcome_ns=10 * S))
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.start(b"a")
    it.wait(5 * S)
    w.complete(b"a")
    it.wait(10 * S - 1)
    assert c.inquire(id=name(b"a")).state == "completed"
    it.wait(1)
    assert c.inquire(id=name(b"a")).state == "expired"
    assert len(it.machine.requests.outcomes) == 0


def test_an_outcome_may_be_asked_to_be_kept(talk: Any) -> None:
    """`keep_ms`: "how long the outcome is kept after the end, also when it was received"."""
    it = talk(limits=Limits(outcome_ns=60 * S))
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a", keep_ms=5_000)
    w.start(b"a")
    it.wait(3 * S)
    w.complete(b"a")
    it.wait(1 * S)
    for _ in range(3):
        c.receive()
        c.submit(b"a", age_ms=1)
    c.receive()
    it.wait(4 * S - 1)
    assert c.inquire(id=name(b"a")).state == "completed"
    it.wait(1)
    assert c.inquire(id=name(b"a")).state == "unknown"


def test_an_outcome_to_be_kept_that_nobody_received_is_kept_like_all(talk: Any) -> None:
    """`keep_ms` is a least, not a most."""
    it = talk(limits=Limits(outcome_ns=60 * S))
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a", keep_ms=5_000)
    w.complete(b"a")
    it.wait(60 * S - 1)
    assert c.inquire(id=name(b"a")).state == "completed"
    c.receive()
    assert c.inquire(id=name(b"a")).state in ("completed", "unknown")
    it.turn()
    assert c.inquire(id=name(b"a")).state == "unknown"


def test_an_asker_that_goes_as_the_job_ends_may_ask_again(talk: Any) -> None:
    """Found by reading: the outcome was on its way to somebody whose loss was heard in the same turn; it was counted as
    told, so when it was told again and received, it still was not dropped.
    """
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    c.lose(turn=False)
    w.complete(b"a")
    assert c.told() == []
    c.connect()
    c.hello()
    c.submit(b"a", age_ms=1)
    assert c.told() == [(b"a", "completed", b"done")]
    c.receive(1)
    assert len(it.machine.requests.outcomes) == 0


def test_an_outcome_that_could_not_be_sent_may_be_asked_for_again(talk: Any) -> None:
    """A client that is gone, as the send finds out, is told nothing; who asks again is."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    c.peer.routing_id = b""
    w.complete(b"a")
    assert it.counters.replies_unroutable == 1
    c.connect()
    c.hello()
    c.submit(b"a", age_ms=1)
    assert c.told() == [(b"a", "completed", b"done")]
    c.receive(1)
    assert len(it.machine.requests.outcomes) == 0


def test_who_comes_back_at_once_and_receives_leaves_nothing_behind(talk: Any) -> None:
    """Its first connection went in the same turn, and what that had not receipted is receipted on the second."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.complete(b"a")
    assert c.told() == [(b"a", "completed", b"done")]
    c.lose(turn=False)
    c.connect()
    c.says(ClientHello(), turn=False)
    c.submit(b"a", age_ms=1)
    assert c.told() == [(b"a", "completed", b"done")]
    c.receive(1)
    assert len(it.machine.requests.outcomes) == 0


def test_nothing_is_told_before_it_is_safe(talk: Any) -> None:
    """Decide, write down, then speak: admissions, outcomes and states wait for the store."""
    store = LateStore()
    it = talk(store=store)
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a", ack=True)
    assert c.take(Submitted) == []
    for _ in range(3):
        store.settle(100)
        it.turn()
    assert len(c.take(Submitted)) == 1
    w.complete(b"a")
    c.inquire(id=name(b"a"))
    assert (c.told(), c.take(JobState)) == ([], [])
    store.settle(100)
    it.turn()
    assert [state.state for state in c.take(JobState)] == ["completed"]
    assert c.told() == [(b"a", "completed", b"done")]


# --- Who is gone


def test_a_job_goes_on_when_its_askers_are_gone(talk: Any) -> None:
    """`gone`: "finish": nobody withdraws a job by going away; its outcome waits."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a")
    w.start(b"a")
    c.lose()
    it.wait(60 * S)
    w.complete(b"a")
    c.connect()
    c.hello()
    c.submit(b"a", age_ms=60_000)
    assert c.told() == [(b"a", "completed", b"done")]


@pytest.mark.parametrize("state", ["AVAILABLE", "HELD", "RUNNING", "DELAYED", "came back"])
def test_a_job_may_end_with_its_askers(talk: Any, state: str) -> None:
    """`gone`: "what becomes of the job when its last asker is gone: a connection that is away for more than a second";
    wherever it stands.
    """
    it = talk()
    c, w = it.client(), it.worker(credit=0 if state == "AVAILABLE" else 1)
    c.submit(b"a", gone="cancel", keep_ms=60_000)
    if state == "RUNNING":
        w.start(b"a")
    elif state == "DELAYED":
        w.fail(b"a", retry_ms=60_000)
    elif state == "came back":
        w.hand_back(b"a")
    c.lose()
    it.wait(1 * S - 1)
    assert it.machine.open == 1
    it.wait(1)
    assert (it.machine.open, it.counters.jobs_cancelled) == (0, 1)
    assert [said.reason for said in w.take(Cancel)] == (["asker_gone"] if state in ("HELD", "RUNNING") else [])
    c.connect()
    c.hello()
    c.submit(b"a", age_ms=2_000)
    ((said, body),) = c.outcomes
    assert (said.state, said.reason, body) == ("cancelled", "asker_gone", ())
    other = it.worker("other", credit=5)
    assert other.got == []


def test_who_is_back_in_time_saves_the_job(talk: Any) -> None:
    """The same: by asking again, on another connection or after another hello."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a", gone="cancel")
    for _ in range(3):
        c.lose()
        it.wait(900 * MS)
        c.connect()
        c.hello()
        c.submit(b"a", age_ms=900)
        it.wait(5 * S)
    c.hello()
    c.submit(b"a", age_ms=900)
    it.wait(5 * S)
    w.complete(b"a")
    assert c.told() == [(b"a", "completed", b"done")]


def test_a_hello_anew_without_asking_again_is_to_be_gone(talk: Any) -> None:
    """A client's session: "A second hello on it begins a new one", and what the old one waited for nobody waits for."""
    it = talk()
    c = it.client()
    c.submit(b"a", gone="cancel")
    c.hello()
    it.wait(1 * S)
    assert it.machine.open == 0


def test_the_last_asker_counts(talk: Any) -> None:
    """A job ends with the last of its askers, whoever submitted it."""
    it = talk()
    c, d = it.client(), it.client("d")
    c.submit(b"a", gone="cancel")
    d.submit(b"a")
    c.lose()
    it.wait(5 * S)
    assert it.machine.open == 1
    d.lose()
    it.wait(5 * S)
    assert it.machine.open == 0


def test_the_last_asker_has_the_whole_grace(talk: Any) -> None:
    """Found by reading: the job ended when the first asker had been gone for a second, and the last one hardly."""
    it = talk()
    c, d = it.client(), it.client("d")
    c.submit(b"a", gone="cancel")
    d.submit(b"a")
    c.lose()
    it.wait(900 * MS)
    d.lose()
    it.wait(1 * S - 1)
    assert it.machine.open == 1
    it.wait(1)
    assert it.machine.open == 0


def test_who_asks_by_the_id_of_the_job_waits_as_well(talk: Any) -> None:
    """`inquire` with `wait` makes an asker."""
    it = talk()
    c, d, w = it.client(), it.client("d"), it.worker(credit=1)
    job = c.asks(b"a", gone="cancel").job
    assert d.inquire(job=job, wait=True).state == "held"
    c.lose()
    it.wait(5 * S)
    w.complete(b"a")
    ((said, _),) = d.outcomes
    assert said.id == job


def test_a_job_that_ended_meanwhile_does_not_end_again(talk: Any) -> None:
    """Its askers go, and it is completed within the grace."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    c.submit(b"a", gone="cancel")
    c.lose()
    it.wait(500 * MS)
    w.complete(b"a")
    it.wait(5 * S)
    assert (it.counters.jobs_completed, it.counters.jobs_cancelled) == (1, 0)


def test_a_job_that_is_not_safe_yet_is_not_deserted(talk: Any) -> None:
    """With a store, its acceptance comes first."""
    store = LateStore()
    it = talk(store=store)
    c = it.client()
    c.submit(b"a", gone="cancel")
    c.lose()
    it.wait(5 * S)
    assert it.machine.open == 1
    store.settle(100)
    it.turn()
    it.wait(1 * S)
    assert it.machine.open == 0


def test_a_stop_after_a_fresh_job_was_deserted(talk: Any) -> None:
    """Found by reading: the queue still counted a job as absent that the stop had thrown out with the others."""
    it = talk()
    c, d = it.client(), it.client("d")
    c.submit(b"a", gone="cancel")
    d.submit(b"b")
    c.lose()
    it.wait(1 * S)
    it.stop()
    it.turn()
    assert d.told() == [(b"b", "broker_stopped", ())]
    assert len(it.machine.queue) == 0
    assert it.machine.queue.take(it.now) is None


def test_the_bodies_of_deserted_jobs_are_not_kept(talk: Any) -> None:
    """Found by reading: they were kept with the outcomes for an hour, and counted nowhere."""
    it = talk()
    c = it.client()
    c.submit(b"x" * 1_000, gone="cancel")
    c.lose()
    it.wait(1 * S)
    (job,) = it.machine.requests.outcomes
    assert job.body == b""


def test_a_stop_tells_native_clients(talk: Any) -> None:
    """`broker_stopped`: "was open when the broker's drain time was over"; wherever it stands."""
    it = talk()
    c, w = it.client(), it.worker(credit=3)
    c.submit_many(b"a", b"b", b"c", b"d")
    w.start(b"a")
    w.fail(b"a", retry_ms=60_000)
    w.start(b"b")
    it.stop()
    assert {(body, reason) for body, reason, _ in c.told()} == {
        (each, "broker_stopped") for each in (b"a", b"b", b"c", b"d")
    }
    assert it.machine.next_deadline() is not None, "sessions live on"
    assert it.machine.by_token == {}


# --- Inquire


def test_states_of_a_job(talk: Any) -> None:
    """`state`: delayed, available, held, running, completed, discarded, cancelled; by the id of the request or job."""
    it = talk(tries=2)
    c, w = it.client(), it.worker()
    job = c.asks(b"a", keep_ms=60_000).job
    seen = []

    def look() -> None:
        by_id, by_job = c.inquire(id=name(b"a")), c.inquire(job=job)
        assert (by_id.state, by_id.attempts, by_id.reason) == (by_job.state, by_job.attempts, by_job.reason)
        assert (by_id.id, by_job.job, by_id.job) == (name(b"a"), job, job)
        seen.append((by_id.state, by_id.attempts))

    look()
    w.ask(2)
    look()
    w.start(b"a")
    look()
    w.fail(b"a", retry_ms=1_000)
    look()
    it.wait(1 * S)
    w.fail(b"a")
    look()
    assert seen == [("available", 0), ("held", 0), ("running", 1), ("delayed", 1), ("discarded", 2)]
    assert c.inquire(id=name(b"a")).reason == "tries_spent"


def test_what_is_not_known_is_unknown_or_expired(talk: Any) -> None:
    """`state`: "`expired` (it may have been, and nothing of it is kept), `unknown`": the id of a job tells its age."""
    it = talk(limits=Limits(outcome_ns=10 * S))
    c, w = it.client(), it.worker(credit=1)
    job = c.asks(b"a").job
    w.complete(b"a")
    assert c.inquire(id=name(b"never")).state == "unknown"
    it.wait(10 * S)
    assert c.inquire(job=job).state == "expired"
    assert c.inquire(id=name(b"a")).state == "expired"
    for never in (b"short", b"\xff" * 16):
        assert c.inquire(job=never).state == "unknown"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"run_ms": 691_200_000}, "run_ms is 691200000: at most 604800000 (--run-max), or 0 for no limit"),
        ({"silence_ms": 0}, "silence_ms is 0: 1 to 604800000 (--run-max), or nil where it may be silent"),
        ({"keep_ms": 7_200_000}, "keep_ms is 7200000: at most 3600000 (--outcome)"),
        ({"unique": "k", "unique_ms": 604_800_001}, "unique_ms is 604800001: at most 604800000 (--unique-max)"),
    ],
)
def test_what_is_out_of_range_is_named_with_its_bound_and_the_option(
    talk: Any, fields: dict[str, Any], text: str
) -> None:
    """`bad_request`: "`text` says what and what to change"."""
    assert talk().client().asks(b"a", **fields).text == text


def test_a_job_that_ends_with_its_askers_goes_on_until_somebody_has_asked(talk: Any) -> None:
    """`gone`: "who says `wait: false` is none"; who waits for it later is one."""
    it = talk()
    c, d = it.client("c"), it.client("d")
    job = c.asks(b"a", wait=False, gone="cancel").job
    c.lose()
    it.wait(5_000_000_000)
    assert d.inquire(id=name(b"a"), wait=True).state == "available"
    d.lose()
    it.wait(5_000_000_000)
    assert it.client("e").inquire(job=job).reason == "asker_gone"


def test_who_asks_for_two_is_told_to_name_one(talk: Any) -> None:
    """`bad_request`: "or both"; the error says which request was meant, or may have been."""
    it = talk()
    c = it.client()
    job = c.asks(b"a").job
    for said in (Inquire(id=name(b"a"), job=job), CancelJob(id=name(b"a"), job=job)):
        c.says(said)
        (error,) = c.take(Error)
        assert (error.code, error.id) == ("bad_request", name(b"a"))
        assert "not both" in error.text
    assert it.machine.open == 1


@pytest.mark.parametrize("wait", [False, True])
def test_who_asks_for_nothing_is_told_what_is_missing(talk: Any, wait: bool) -> None:
    """`bad_request`: "is an `inquire` that names neither a request nor a job"."""
    it = talk()
    c = it.client()
    c.asks(b"a")
    assert c.inquire(wait=wait) is None
    (error,) = c.take(Error)
    assert (error.code, error.of, error.id) == ("bad_request", "inquire", b"")
    assert "`id`" in error.text
    assert "`job`" in error.text


def test_what_a_bound_made_us_forget_is_expired(talk: Any) -> None:
    """The same, where a bound was reached before its time."""
    it = talk(limits=Limits(outcomes_max=1))
    c, w = it.client(), it.worker(credit=5)
    jobs = []
    for body in (b"a", b"b"):
        jobs.append(c.asks(body).job)
        w.complete(body)
        it.wait(1 * S)
        if body == b"a":
            assert c.inquire(id=name(b"never")).state == "unknown"
    assert [c.inquire(job=job).state for job in jobs] == ["expired", "completed"]
    assert [c.inquire(id=name(each)).state for each in (b"a", b"b", b"never")] == ["expired", "completed", "expired"]
    c.receive()
    assert c.inquire(job=jobs[1]).state == "unknown", "it is younger than what was forgotten"
    assert c.inquire(id=name(b"b")).state == "expired", "that cannot be told of a request id"


def test_what_was_received_is_unknown(talk: Any) -> None:
    """`state`: "An outcome that was received is not forgotten in this sense"."""
    it = talk(limits=Limits(outcome_ns=10 * S))
    c, w = it.client(), it.worker(credit=1)
    job = c.asks(b"a").job
    w.complete(b"a")
    c.receive()
    assert c.inquire(id=name(b"a")).state == c.inquire(job=job).state == "unknown"
    it.wait(10 * S)
    assert c.inquire(id=name(b"a")).state == "unknown"
    assert c.inquire(job=job).state == "expired"


def test_who_inquires_may_wait(talk: Any) -> None:
    """`wait`: "tell the outcome: now where there is one, else when it is there"."""
    it = talk()
    c, d, w = it.client(), it.client("d"), it.worker(credit=1)
    job = c.asks(b"a").job
    assert d.inquire(id=name(b"a"), wait=True).state == "held"
    w.complete(b"a")
    assert d.inquire(job=job, wait=True) is None
    assert [(said.id, said.n) for said, _ in d.outcomes] == [(name(b"a"), 1), (job, 2)]
    assert d.inquire(id=name(b"zz"), wait=True).state == "unknown"


# --- Identity after a restart


def test_the_id_of_a_job_survives_a_restart(talk: Any) -> None:
    """Found by reading: an id that was drawn after the acceptance was not kept, so a job had another after a restart.
    `job`: "id of the job, the same at every attempt".
    """
    it = talk(store=MemoryStore())
    c, w = it.client(), it.worker(credit=3)
    c.submit(b"a")
    c.submit(b"b")
    it.client_2010().submit(b"c")
    told = c.asks(b"b").job
    before = {body: said.job for said, body in w.jobs}
    assert before[b"b"] == told
    it.begin()
    w.connect()
    w.hello()
    it.wait(60 * S)
    w.ask(3)
    assert {body: said.job for said, body in w.jobs[3:]} == before
    assert it.client().inquire(job=told).state == "held"


def test_a_delay_is_not_shorter_for_a_restart(talk: Any) -> None:
    """Found by reading: moments are kept as whole milliseconds, and this one was cut off: a timer never fires early."""
    it = talk(store=MemoryStore())
    c, w = it.client(), it.worker(credit=5)
    it.now += 999_999
    c.submit(b"a")
    w.fail(b"a", retry_ms=1_000)
    due = it.now + 1 * S
    it.now += 500_001
    it.begin()
    assert due <= it.machine.next_deadline() <= due + 2 * MS


def test_what_was_kept_is_bounded_by_the_limits_of_today(talk: Any) -> None:
    """Found by reading: after a restart with smaller bounds what had to go could still be asked for, and stayed in the
    store for ever.
    """
    store = MemoryStore()
    it = talk(store=store, tries=1)
    c, w = it.client(), it.worker(credit=9)
    for number in range(6):
        body = b"%d" % number
        c.submit(body)
        (w.fail if number % 2 else w.complete)(body)
    it._options["limits"] = Limits(outcomes_max=2, kept_jobs_max=1)
    it.begin()
    assert [job.request for job in it.machine.requests.outcomes] == [name(b"4"), name(b"5")]
    assert [job.number for job in it.machine.kept] == [6]
    it.turn()
    assert {record.number for record in store.load() if hasattr(record, "number")} == {5, 6}
    c = it.client()
    assert c.asks(b"0", age_ms=1_000).code == "expired"


def test_outcomes_are_forgotten_by_age_after_a_restart(talk: Any) -> None:
    """The oldest end goes first, whatever the numbers of the jobs."""
    it = talk(store=MemoryStore(), limits=Limits(outcome_ns=10 * S))
    c, w = it.client(), it.worker(credit=9)
    c.submit_many(b"a", b"b")
    w.complete(b"b")
    w.start(b"a")
    it.wait(5 * S)
    w.complete(b"a")
    it.begin()
    it.wait(5 * S + MS)
    c = it.client()
    assert [c.inquire(id=name(each)).state for each in (b"a", b"b")] == ["completed", "expired"]


# --- Queues


def test_a_queue_is_there_as_long_as_something_names_it(talk: Any) -> None:
    """Nobody makes queues or ends them: jobs, workers and nothing else keep one."""
    it = talk(limits=Limits(session_grace_ns=0))
    c = it.client()
    for number in range(20):
        c.submit(b"%d" % number, queue=f"q{number}")
    assert len(it.machine.queues) == 21
    w = it.worker(queues=tuple(f"q{number}" for number in range(20)), credit=20)
    for number in range(20):
        w.complete(b"%d" % number)
    c.receive()
    assert len(it.machine.queues) == 21
    w.ask()
    w.lose()
    it.wait(60 * S)
    gc.collect()
    assert len(it.machine.queues) == 1


def test_a_queue_does_not_outlive_its_lost_workers(talk: Any) -> None:
    """Found by reading: a lost session that still stood in line and remembered what it had been handed, jobs of that
    queue, was never freed, because jobs are not seen by the collector.
    """
    it = talk(limits=Limits(session_grace_ns=0))
    c = it.client()
    for number in range(10):
        w = it.worker(f"w{number}", queues=(f"q{number}",), credit=5)
        c.submit(b"%d" % number, queue=f"q{number}", gone="cancel")
        w.start(b"%d" % number)
        c.submit(b"x%d" % number, queue=f"q{number}")
        w.complete(b"x%d" % number)
        w.complete(b"%d" % number)
        c.receive()
        w.lose()
    it.wait(5 * S)
    it.wait(60 * S)
    del w
    gc.collect()
    assert len(it.machine.queues) == 1


def test_the_ids_of_a_turn_differ_and_are_laid_out_as_uuids() -> None:
    """More than a counter holds are drawn in one turn; the next turn begins anew."""
    drawn = (hashlib.sha256(b"%d" % number).digest()[:16] for number in itertools.count())
    machine = Machine(drawn)
    machine.wall_ns = 1_700_000_000_000_000_000
    jobs = [Job(n, None, b"", b"", 0, machine.queue, machine.terms) for n in range(70_000)]
    machine.requests.draw_ids(jobs, 0)
    late = Job(70_000, None, b"", b"", 0, machine.queue, machine.terms)
    machine.requests.draw_ids([jobs[0], late], 5_000_000)
    ids = [job.id for job in (*jobs, late)]
    assert len(set(ids)) == len(ids)
    found = [uuid.UUID(bytes=each) for each in (ids[0], ids[65_535], ids[65_536], ids[-1])]
    assert {each.version for each in found} == {7}
    assert {each.variant for each in found} == {uuid.RFC_4122}
    assert [each.int >> 80 for each in found] == [1_700_000_000_000] * 3 + [1_700_000_000_005]
    assert machine.requests.id_of(jobs[0], 9_000_000) == ids[0]
