"""Unique keys, rule by rule of docs/protocol.md (section Unique keys): one live job of a key, and what becomes of
others.

Each test cites the sentence that it shows, or says what was found.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from relet.core.limits import Limits
from relet.core.unique import Uniques, Window
from relet.messages import Cancel, CancelJob, JobState, KeyWindow, Numbered, Submit, Submitted
from relet.store.memory import MemoryStore
from relet.testing import LateStore, census

MS = 1_000_000
S = 1_000 * MS
HOUR = 3_600 * S
NAME = b"a request".ljust(16, b".")


def name(text: bytes) -> bytes:
    """The request id that `submit` makes of a body."""
    return text.ljust(16, b"-")


def cancel(client: Any, what: bytes = b"", **fields: Any) -> Any:
    """A client cancels; returns the `state` that it was answered with, if it was."""
    client.says(CancelJob(**({"id": name(what)} if what else {}), **fields))
    return next(iter(client.take(JobState)), None)


@pytest.fixture(params=[False, True], ids=["memory only", "with a store"])
def it(talk: Any, request: pytest.FixtureRequest) -> Any:
    """A broker's loop, with and without a store."""
    return talk(store=MemoryStore() if request.param else None)


# --- Reject


def test_a_second_job_of_a_key_is_refused(it: Any) -> None:
    """`reject`: "it is refused with `duplicate`, and `job` is the id of the job that is there"."""
    c, d = it.client("c"), it.client("d")
    first = c.asks(b"a", unique="k")
    refused = d.asks(b"b", unique="k")
    assert (refused.id, refused.code, refused.job, refused.retry_ms) == (name(b"b"), "duplicate", first.job, 0)
    assert "'k'" in refused.text
    d.submit(b"c", unique="k")
    ((told,),) = [said.jobs for said in d.take(Submitted)]
    assert told.code == "duplicate", "a refusal is told without being asked for"
    assert (it.machine.open, it.counters.requests_refused) == (1, 2)
    assert d.inquire(job=first.job).state == "available", "who was refused can look at it"


def test_a_key_is_of_its_queue_and_its_principal(it: Any) -> None:
    """The rule: "holds that key in its queue"; "looked up among those of the same principal"."""
    one, p, q = it.client("one"), it.client("p", principal="p"), it.client("q", principal="q")
    jobs = {client.asks(b"a", unique="k").job for client in (one, p, q)}
    jobs |= {one.asks(b"b", unique="k", queue="other").job, one.asks(b"c", unique="l").job}
    assert len(jobs) == 5
    assert b"" not in jobs
    assert [client.asks(b"x", unique="k").code for client in (one, p, q)] == ["duplicate"] * 3


def test_a_key_lives_as_long_as_its_job_however_often_it_is_tried(it: Any) -> None:
    """The rule: "from its acceptance to its end, however often it is tried"."""
    c, w = it.client("c"), it.worker()
    c.submit(b"a", unique="k")
    for _ in range(3):
        w.ask()
        assert c.asks(b"b", unique="k").code == "duplicate"
        w.fail(b"a", retry_ms=1_000)
        assert c.asks(b"b", unique="k").code == "duplicate"
        it.wait(1 * S)
    w.ask()
    w.complete(b"a")
    assert c.asks(b"b", unique="k").code == ""


ENDS = ("completed", "failed", "cancelled", "deserted", "tries")


@pytest.mark.parametrize("end", ENDS)
def test_a_key_dies_with_its_job_whatever_ends_it(talk: Any, end: str) -> None:
    """The rule: "to its end": of whatever kind; without `unique_ms` the key is free at once."""
    it = talk(tries=1)
    c, d, w = it.client("c"), it.client("d"), it.worker(credit=1)
    c.submit(b"a", unique="k", gone="cancel")
    if end == "completed":
        w.complete(b"a")
    elif end in ("failed", "tries"):
        w.fail(b"a", final=end == "failed")
    elif end == "cancelled":
        cancel(c, b"a")
    else:
        c.lose()
        it.wait(5 * S)
    assert d.asks(b"b", unique="k").code == ""


def test_asking_again_joins_the_own_job_whatever_key_stands_in_it(it: Any) -> None:
    """The rule: "asking again under a known id joins its own job"."""
    c = it.client()
    first = c.asks(b"a", unique="k")
    again = c.asks(b"a", unique="k", age_ms=1)
    assert (again.joined, again.job) == (True, first.job)
    assert c.asks(b"a", unique="l", unique_mode="replace", age_ms=1).job == first.job


@pytest.mark.parametrize(
    "fields",
    [
        {"unique_mode": "join"},
        {"unique_ms": 5},
        {"unique": "k" * 201},
        {"unique": "k", "unique_ms": 7 * 86_400_000 + 1},
    ],
)
def test_a_key_that_cannot_be_is_refused_with_what_to_change(talk: Any, fields: Any) -> None:
    """`bad_request`: modes without a key, a key that is too long, a window that is."""
    c = talk().client()
    refused = c.asks(b"a", **fields)
    assert refused.code == "bad_request"
    assert "unique" in refused.text
    assert c.asks(b"a", unique="k" * 200, unique_ms=7 * 86_400_000).code == ""


# --- Join


def test_who_joins_shares_the_outcome_under_its_own_id(it: Any) -> None:
    """`join`: "it shares the job that is there ... told the outcome under its own id"."""
    c, d, w = it.client("c"), it.client("d"), it.worker()
    first = c.asks(b"a", unique="k", unique_mode="join")
    joined = d.asks(b"another body", unique="k", unique_mode="join")
    assert (joined.id, joined.job, joined.joined, joined.code) == (name(b"another body"), first.job, True, "")
    assert (it.machine.open, it.counters.jobs_accepted, it.counters.requests_joined) == (1, 1, 1)
    w.ask()
    assert w.got == [b"a"]
    w.complete(b"a", b"of both")
    assert c.told() == [(b"a", "completed", b"of both")]
    assert d.told() == [(b"another body", "completed", b"of both")]


@pytest.mark.parametrize("end", ["discarded", "cancelled"])
def test_failures_are_shared_too(it: Any, end: str) -> None:
    """Whatever ends it: each is told."""
    c, d, w = it.client("c"), it.client("d"), it.worker(credit=1)
    c.submit(b"a", unique="k")
    d.submit(b"b", unique="k", unique_mode="join")
    if end == "discarded":
        w.fail(b"a", final=True)
        assert (c.told(), d.told()) == ([(b"a", "failed", ())], [(b"b", "failed", ())])
    else:
        assert cancel(c, b"a") is None
        assert cancel(d, b"b") is None
        assert (c.told(), d.told()) == ([(b"a", "detached", ())], [(b"b", "cancelled", ())])


def test_who_joins_asks_again_inquires_and_follows_under_its_own_id(it: Any) -> None:
    """The rule: "asks again, receipts, inquires and cancels under its own id, and is a request like any other"."""
    c, d, w = it.client("c"), it.client("d"), it.worker()
    first = c.asks(b"a", unique="k")
    d.submit(b"bb", unique="k", unique_mode="join", follow=True)
    said = d.inquire(id=name(b"bb"))
    assert (said.state, said.id, said.job) == ("available", name(b"bb"), first.job)
    assert d.asks(b"bb", unique="k", unique_mode="join", follow=True, age_ms=1).joined
    assert d.asks(b"xyz", name(b"bb")).code == "conflict", "its own size is remembered, not that of the other"
    w.ask()
    w.partial(b"a", b"piece")
    assert d.pieces == [b"piece"]
    w.complete(b"a", b"yes")
    assert d.told() == [(b"bb", "completed", b"yes")]
    d.submit(b"bb", age_ms=5)
    assert d.told() == [(b"bb", "completed", b"yes")]


def test_the_outcome_is_kept_until_all_have_received_it(it: Any) -> None:
    """The rule: "an outcome is kept until all who were told have received it"."""
    c, d, w = it.client("c"), it.client("d"), it.worker(credit=1)
    c.submit(b"a", unique="k")
    d.submit(b"b", unique="k", unique_mode="join")
    w.complete(b"a")
    c.receive()
    assert len(it.machine.requests.outcomes) == 1
    d.receive()
    assert len(it.machine.requests.outcomes) == 0
    assert [c.inquire(id=name(body)).state for body in (b"a", b"b")] == ["unknown"] * 2
    assert it.machine.requests.uniques.guests == {}


@pytest.mark.parametrize("waits", ["the first", "the one that joins"])
def test_what_was_not_waited_for_is_kept_for_who_asks_later(it: Any, waits: str) -> None:
    """The rule: "and for who has not waited, as if nobody had": the receipt of one drops nothing of the other."""
    c, d, w = it.client("c"), it.client("d"), it.worker(credit=1)
    c.submit(b"a", unique="k", wait=waits == "the first")
    d.submit(b"b", unique="k", unique_mode="join", wait=waits != "the first")
    w.complete(b"a", b"yes")
    c.receive()
    d.receive()
    other, body = (d, b"b") if waits == "the first" else (c, b"a")
    for client in (c, d):
        client.told()
    assert other.inquire(id=name(body), wait=True) is None
    assert other.told() == [(body, "completed", b"yes")]


def test_a_receipt_of_one_who_asked_twice_drops_nothing_of_another(it: Any) -> None:
    """Whose outcome it was that nobody has received is known by nobody: then it is kept."""
    c, d, w = it.client("c"), it.client("d"), it.worker(credit=1)
    c.submit(b"a", unique="k", wait=False)
    d.submit(b"b", unique="k", unique_mode="join")
    w.complete(b"a", b"yes")
    d.submit(b"b", age_ms=1)
    d.receive()
    c.submit(b"a", age_ms=1)
    assert c.told() == [(b"a", "completed", b"yes")]


def test_one_who_lost_its_connection_hears_of_it_again(it: Any) -> None:
    """Beside others: a connection that went takes nobody's outcome with it."""
    c, d, w = it.client("c"), it.client("d"), it.worker(credit=1)
    c.submit(b"a", unique="k")
    d.submit(b"b", unique="k", unique_mode="join")
    d.lose()
    w.complete(b"a", b"yes")
    c.receive()
    d.connect()
    d.hello()
    d.submit(b"b", age_ms=1)
    assert d.told() == [(b"b", "completed", b"yes")]


def test_many_in_one_message_are_one_job(it: Any) -> None:
    """The rule: "`join` makes one job of all", `reject` takes the first, "and with `replace` the last one stays"."""
    c, w = it.client("c"), it.worker()
    joined = c.submit_many(b"a", b"b", b"c", unique="k", unique_mode="join")
    assert ([each.joined for each in joined], len({each.job for each in joined})) == ([False, True, True], 1)
    w.ask()
    w.complete(b"a")
    assert sorted(c.told()) == [(body, "completed", b"done") for body in (b"a", b"b", b"c")]
    rejected = c.submit_many(b"d", b"e", unique="l")
    assert [each.code for each in rejected] == ["", "duplicate"]
    assert rejected[1].job == rejected[0].job
    replaced = c.submit_many(b"f", b"g", unique="m", unique_mode="replace")
    assert [each.code for each in replaced] == ["", ""]
    assert c.told() == [(b"f", "replaced", ())]
    assert it.machine.open == 2


def test_so_many_may_join(talk: Any) -> None:
    """The rule: "As many requests may share a job as may wait for one (`too_many_askers`)", or do not."""
    it = talk(limits=Limits(askers_per_job_max=3))
    c = it.client()
    c.submit(b"a", unique="k", wait=False)
    for body in (b"b", b"c"):
        assert c.asks(body, unique="k", unique_mode="join", wait=False).joined
    refused = c.asks(b"e", unique="k", unique_mode="join", wait=False)
    assert (refused.code, refused.job) == ("too_many_askers", b"")
    assert c.inquire(id=name(b"e")).state == "unknown"


def test_who_wants_it_finished_has_it_finished(talk: Any) -> None:
    """The rule: "a job with `gone: "cancel"` is finished if one of those that joined it says `finish`"."""
    for gone, left in (("finish", 1), ("cancel", 0)):
        it = talk()
        c, d = it.client("c"), it.client("d")
        c.submit(b"a", unique="k", gone="cancel")
        d.submit(b"b", unique="k", unique_mode="join", gone=gone)
        c.lose()
        it.wait(5 * S)
        assert it.machine.open == 1
        d.lose()
        it.wait(5 * S)
        assert it.machine.open == left


def test_who_wants_it_finished_has_it_finished_though_the_one_that_made_it_has_left(it: Any) -> None:
    """The rule: "finished if one of those that joined it says `finish`": also as the only one that is left, and after
    another start of the broker.
    """
    c, d = it.client("c"), it.client("d")
    c.submit(b"a", unique="k", gone="cancel")
    d.submit(b"b", unique="k", unique_mode="join")
    cancel(c, b"a")
    assert c.told() == [(b"a", "detached", ())]
    d.lose()
    it.wait(5 * S)
    assert it.machine.open == 1
    if it.store is not None:
        it.begin()
        e = it.client("e")
        e.submit(b"b", unique="k", unique_mode="join", age_ms=1)
        e.lose()
        it.wait(5 * S)
        assert it.machine.open == 1


def test_joining_needs_no_room(talk: Any) -> None:
    """It is no job more."""
    it = talk(limits=Limits(jobs_max=1))
    c = it.client()
    c.submit(b"a", unique="k")
    assert c.asks(b"x").code == "busy"
    assert c.asks(b"b", unique="k", unique_mode="join").joined


def test_what_was_not_waited_for_is_kept_beside_one_who_joins_after_the_end(it: Any) -> None:
    """The rule: "for who has not waited, as if nobody had": also where the other came in the window."""
    c, d, w = it.client("c"), it.client("d"), it.worker(credit=1)
    c.submit(b"a", unique="k", unique_ms=60_000, wait=False)
    w.complete(b"a", b"yes")
    d.submit(b"b", unique="k", unique_mode="join")
    d.receive()
    assert c.inquire(id=name(b"a"), wait=True) is None
    assert c.told() == [(b"a", "completed", b"yes")]


def test_who_has_not_received_it_hears_it_after_a_restart_though_another_has(talk: Any) -> None:
    """The rule: "kept until all who were told have received it": who did, before the restart, nobody remembers."""
    it = talk(store=MemoryStore())
    c, d, w = it.client("c"), it.client("d"), it.worker(credit=1)
    c.submit(b"a", unique="k")
    d.submit(b"b", unique="k", unique_mode="join")
    w.complete(b"a", b"yes")
    it.begin()
    c, d = it.client("c2"), it.client("d2")
    c.submit(b"a", age_ms=1)
    c.receive()
    d.submit(b"b", age_ms=1)
    assert (c.told(), d.told()) == ([(b"a", "completed", b"yes")], [(b"b", "completed", b"yes")])
    assert it.machine.open == 0


def test_who_has_not_received_it_hears_it_after_a_restart_though_one_that_joins_then_has(talk: Any) -> None:
    """Likewise, where the other comes in the window."""
    it = talk(store=MemoryStore())
    c, w = it.client("c"), it.worker(credit=1)
    c.submit(b"a", unique="k", unique_ms=60_000)
    w.complete(b"a", b"yes")
    it.begin()
    c, d = it.client("c2"), it.client("d2")
    d.submit(b"b", unique="k", unique_mode="join")
    d.receive()
    c.submit(b"a", age_ms=1)
    assert (c.told(), d.told()) == ([(b"a", "completed", b"yes")], [(b"b", "completed", b"yes")])
    assert it.machine.open == 0


# --- Cancelled


def test_each_cancels_for_itself(it: Any) -> None:
    """The rule: "Where it has other requests ... the job goes on for them", whether they are waited for or not."""
    c, d, w = it.client("c"), it.client("d"), it.worker(credit=1)
    c.submit(b"a", unique="k")
    d.submit(b"b", unique="k", unique_mode="join", wait=False)
    cancel(c, b"a")
    assert c.told() == [(b"a", "detached", ())]
    assert w.take(Cancel) == []
    assert c.inquire(id=name(b"a")).state == "unknown", "the id is free"
    said = cancel(d, b"b")
    assert (said.state, said.reason) == ("cancelled", "cancelled")
    assert (len(w.take(Cancel)), it.machine.open) == (1, 0)


def test_the_request_that_made_the_job_may_leave_it(it: Any) -> None:
    """The others stay what they are: known by their ids, sizes and the key, told, received and forgotten."""
    c, d, w = it.client("c"), it.client("d"), it.worker(credit=1)
    c.submit(b"a", unique="k")
    d.submit(b"bb", unique="k", unique_mode="join")
    cancel(c, b"a")
    assert d.asks(b"bb", age_ms=1).joined
    assert d.asks(b"b", name(b"bb")).code == "conflict"
    assert c.asks(b"cc", unique="k").code == "duplicate"
    w.complete(b"a", b"yes")
    d.receive()
    assert d.told() == [(b"bb", "completed", b"yes")]
    assert len(it.machine.requests.outcomes) == 0
    assert c.asks(b"cc", unique="k").code == ""


def test_a_free_id_is_a_new_request(it: Any) -> None:
    """The rule: "where the id was one of several of its job, it is free, and submitted again it is a new request, which
    may join by its key".
    """
    c, d = it.client("c"), it.client("d")
    first = c.asks(b"a", unique="k")
    d.submit(b"b", unique="k", unique_mode="join")
    cancel(d, b"b")
    assert d.told() == [(b"b", "detached", ())]
    assert d.asks(b"b", unique="k", unique_mode="join", age_ms=1).job == first.job
    cancel(d, b"b")
    alone = d.asks(b"b", age_ms=1)
    assert (alone.joined, alone.code) == (False, "")
    assert alone.job != first.job


def test_by_the_id_of_a_shared_job_only_what_is_waited_for_is_cancelled(it: Any) -> None:
    """The rule: "`job` those for which this session waits, and where it waits for none, the only one"."""
    c, d, e = it.client("c"), it.client("d"), it.client("e")
    job = c.asks(b"a", unique="k", wait=False).job
    d.submit(b"b", unique="k", unique_mode="join")
    assert cancel(e, job=job).state == "available"
    cancel(d, job=job)
    assert d.told() == [(b"b", "detached", ())]
    assert d.inquire(id=name(b"b")).state == "unknown"
    assert cancel(e, job=job).state == "cancelled"


# --- Replace


def test_a_waiting_job_is_replaced(it: Any) -> None:
    """`replace`: "it ends for the new one: `cancelled`, reason `replaced`, and whoever waits for it is told so with the
    id of the new job (`replaced_by`)".
    """
    c, d, w = it.client("c"), it.client("d"), it.worker()
    c.submit(b"a", unique="k")
    d.submit(b"b", unique="k", unique_mode="join")
    new = c.asks(b"c", unique="k", unique_mode="replace")
    assert (new.code, new.joined, new.position) == ("", False, 0)
    told = [said for client in (c, d) for said, _ in client.outcomes]
    assert [(said.state, said.reason, said.replaced_by) for said in told] == [("cancelled", "replaced", new.job)] * 2
    assert (it.machine.open, it.counters.jobs_cancelled, it.counters.jobs_replaced) == (1, 1, 1)
    w.ask(2)
    assert w.got == [b"c"]
    w.complete(b"c")
    assert c.told()[-1] == (b"c", "completed", b"done")


def test_a_delayed_job_is_replaced_too(it: Any) -> None:
    """The rule: "where the job that is there is with no worker": it waits for its next attempt, and a late answer is
    refused.
    """
    c, w = it.client("c"), it.worker(credit=1)
    c.submit(b"a", unique="k")
    w.fail(b"a", retry_ms=10_000)
    assert c.asks(b"b", unique="k", unique_mode="replace").code == ""
    assert c.told() == [(b"a", "replaced", ())]
    n = w.complete(b"a")
    assert w.refused() == [(n, "not_open")]


@pytest.mark.parametrize("running", [False, True], ids=["held", "running"])
def test_what_a_worker_has_is_not_replaced(it: Any, running: bool) -> None:
    """The rule: "Where a worker has it, held or running, the new one is refused with `duplicate`"."""
    c, w = it.client("c"), it.worker(credit=1)
    first = c.asks(b"a", unique="k")
    if running:
        w.start(b"a")
    refused = c.asks(b"b", unique="k", unique_mode="replace")
    assert (refused.code, refused.job) == ("duplicate", first.job)
    assert "worker" in refused.text
    w.complete(b"a")
    assert c.told() == [(b"a", "completed", b"done")]


def test_a_replaced_request_that_asks_again_is_told_again(it: Any) -> None:
    """Its outcome is kept as any, with the id of the job that took its place, across a restart as well."""
    c = it.client("c")
    c.submit(b"a", unique="k")
    new = c.asks(b"b", unique="k", unique_mode="replace").job
    if it.store is not None:
        it.begin()
        c.connect()
        c.hello()
    c.submit(b"a", unique="k", unique_mode="replace", age_ms=1)
    said, _ = c.outcomes[-1]
    assert (said.id, said.reason, said.replaced_by) == (name(b"a"), "replaced", new)
    assert it.machine.open == 1


def test_a_replacement_takes_the_room_of_what_it_replaces(talk: Any) -> None:
    """A full broker, or a full queue, is no reason to keep the old one."""
    it = talk(limits=Limits(jobs_max=1))
    c = it.client()
    c.submit(b"a", unique="k")
    assert c.asks(b"b", unique="k", unique_mode="replace").code == ""
    assert c.asks(b"c", unique="l", unique_mode="replace").code == "busy"


def test_a_replacement_that_cannot_be_changes_nothing(talk: Any) -> None:
    """It is refused before anything ends."""
    it = talk()
    c = it.client()
    c.submit(b"a", unique="k")
    assert c.asks(b"b", unique="k", unique_mode="replace", headers={"x": "y" * 10_000}).code == "bad_request"
    assert (c.told(), it.machine.open) == ([], 1)


def test_what_is_not_safe_yet_is_replaced_and_never_handed_over(talk: Any) -> None:
    """With a store that takes its time: neither is told before it is safe."""
    store = LateStore()
    it = talk(store=store)
    c, w = it.client("c"), it.worker(credit=5)
    c.submit(b"a", unique="k", turn=False)
    c.submit(b"b", unique="k", unique_mode="replace")
    assert (c.told(), w.got) == ([], [])
    store.settle(10)
    it.turn()
    assert (c.told(), w.got) == ([(b"a", "replaced", ())], [b"b"])


# --- Windows


def test_a_key_is_taken_for_a_while_after_a_success(it: Any) -> None:
    """The rule: "Within the window `reject` and `replace` are refused with `duplicate`", and not a moment longer."""
    c, w = it.client("c"), it.worker(credit=1)
    first = c.asks(b"a", unique="k", unique_ms=5_000)
    w.complete(b"a")
    for mode in ("reject", "replace"):
        refused = c.asks(b"b", unique="k", unique_mode=mode)
        assert (refused.code, refused.job) == ("duplicate", first.job)
        assert "not long ago" in refused.text
    it.wait(5 * S - 1)
    assert c.asks(b"b", unique="k").code == "duplicate"
    it.wait(1)
    assert c.asks(b"b", unique="k").code == ""
    assert it.machine.requests.uniques.windows == {}


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_what_did_not_end_well_has_no_window(it: Any, end: str) -> None:
    """The rule: "A job that failed or was cancelled has none"."""
    c, w = it.client("c"), it.worker(credit=1)
    c.submit(b"a", unique="k", unique_ms=5_000)
    if end == "failed":
        w.fail(b"a", final=True)
    else:
        cancel(c, b"a")
    assert c.asks(b"b", unique="k").code == ""


def test_who_joins_in_the_window_gets_the_outcome_if_it_is_kept(it: Any) -> None:
    """The rule: "`join` gets the outcome, if it is still kept; if it is not ..., `duplicate` too"."""
    c, d, w = it.client("c"), it.client("d"), it.worker(credit=1)
    first = c.asks(b"a", unique="k", unique_ms=60_000)
    w.complete(b"a", b"yes")
    joined = d.asks(b"b", unique="k", unique_mode="join")
    assert (joined.joined, joined.job) == (True, first.job)
    assert d.told() == [(b"b", "completed", b"yes")]
    c.receive()
    d.submit(b"b", age_ms=1)
    assert d.told() == [(b"b", "completed", b"yes")], "it has not said that it received it"
    d.says(Submit(id=name(b"z"), received=2))
    refused = c.asks(b"c", unique="k", unique_mode="join")
    assert (refused.code, refused.job) == ("duplicate", first.job)


def test_who_joins_in_the_window_and_does_not_wait_finds_it_later(it: Any) -> None:
    """As if it had joined before the end: the receipts of others drop nothing of it."""
    c, d, w = it.client("c"), it.client("d"), it.worker(credit=1)
    c.submit(b"a", unique="k", unique_ms=60_000)
    w.complete(b"a", b"yes")
    assert d.asks(b"b", unique="k", unique_mode="join", wait=False).joined
    c.receive()
    d.inquire(id=name(b"b"), wait=True)
    assert d.told() == [(b"b", "completed", b"yes")]


def test_windows_have_a_bound(talk: Any) -> None:
    """The rule: "The broker remembers so many windows ...; above that the oldest end early"."""
    it = talk(limits=Limits(unique_windows_max=2))
    c, w = it.client("c"), it.worker(credit=9)
    for body in (b"a", b"b", b"c"):
        c.submit(body, unique=body.decode(), unique_ms=60_000)
        w.complete(body)
    assert [c.asks(b"x" + key.encode(), unique=key).code for key in "abc"] == ["", "duplicate", "duplicate"]
    assert it.counters.windows_cut == 1
    it.wait(61 * S)
    assert [c.asks(b"y" + key.encode(), unique=key).code for key in "bc"] == ["", ""]


def test_a_smaller_bound_of_windows_holds_for_what_comes_out_of_a_store(talk: Any) -> None:
    """The oldest end, in the store too: a larger bound in the next life brings none of them back."""
    it = talk(store=MemoryStore(), limits=Limits(unique_windows_max=5))
    c, w = it.client("c"), it.worker(credit=9)
    for key in "abcde":
        c.submit(key.encode(), unique=key, unique_ms=60_000)
        w.complete(key.encode())
    it._options["limits"] = Limits(unique_windows_max=2)
    it.begin()
    it.turn()
    assert it.counters.windows_cut == 3
    assert [it.key for it in it.store.load() if isinstance(it, KeyWindow)] == ["d", "e"]
    it._options["limits"] = Limits(unique_windows_max=5)
    it.begin()
    c = it.client("d")
    assert [c.asks(b"x" + key.encode(), unique=key).code for key in "abcde"] == ["", "", "", "duplicate", "duplicate"]


# --- Forgotten, and redriven


def test_a_guest_whose_outcome_a_bound_forgot_does_not_run_again(talk: Any) -> None:
    """What was asked until the last one joined may have been it: `expired`, also long after the job was accepted."""
    it = talk(limits=Limits(outcomes_max=1))
    c, w = it.client("c"), it.worker(credit=9)
    c.submit(b"a", unique="k")
    it.wait(60 * S)
    c.submit(b"b", unique="k", unique_mode="join")
    w.complete(b"a")
    c.submit(b"other")
    w.complete(b"other")
    it.wait(20 * S)
    assert c.asks(b"b", unique="k", unique_mode="join", age_ms=20_000).code == "expired"


def test_a_guest_that_joined_after_the_end_does_not_run_again_either(talk: Any) -> None:
    """The outcome is kept for an hour after the end, which is less after that guest."""
    it = talk()
    c, w = it.client("c"), it.worker(credit=9)
    c.submit(b"a", unique="k", unique_ms=3_000_000)
    w.complete(b"a")
    it.wait(2_900 * S)
    assert c.asks(b"b", unique="k", unique_mode="join").joined
    it.wait(800 * S)
    assert c.asks(b"b", unique="k", unique_mode="join", age_ms=800_000).code == "expired"


def test_a_redriven_dead_letter_takes_its_key_again(it: Any) -> None:
    """The rule: "and is refused (`duplicate`) while another has it"."""
    c, w = it.client("c"), it.worker(credit=2)
    c.submit(b"a", unique="k")
    w.fail(b"a", final=True)
    (old,) = it.machine.kept
    c.submit(b"b", unique="k")
    code, text = it.machine.requests.redrive(old, it.now)
    assert code == "duplicate"
    assert "'k'" in text
    w.complete(b"b")
    made = it.machine.requests.redrive(old, it.now)
    it.machine.requests.accept(it.now)
    it.turn()
    assert it.machine.requests.uniques.live == {("default", "", "k"): made}
    assert c.asks(b"c", unique="k").job == made.id


# --- Kept by a store


def test_keys_guests_and_windows_come_back(talk: Any) -> None:
    """A restart changes nothing of who holds a key, who shares a job, and how long a key is taken."""
    it = talk(store=MemoryStore())
    c, w = it.client("c"), it.worker(credit=2)
    c.submit(b"open", unique="open")
    c.submit(b"guest", unique="open", unique_mode="join")
    c.submit(b"left", unique="left")
    c.submit(b"heir", unique="left", unique_mode="join")
    cancel(c, b"left")
    first = c.asks(b"done", unique="done", unique_ms=10_000, queue="q").job
    q = it.worker("q", queues=("q",), credit=1)
    c.submit(b"later", unique="done", unique_mode="join", queue="q")
    q.complete(b"done", b"yes")
    before, uniques = census.persisted(it.machine), it.machine.requests.uniques
    windows = dict(uniques.windows)
    it.begin()
    assert census.persisted(it.machine) == before
    assert it.machine.requests.uniques.windows == windows
    d = it.client("d")
    for body, key in ((b"guest", "open"), (b"heir", "left")):
        assert d.asks(body, unique=key, unique_mode="join", age_ms=1).joined
        assert d.asks(b"new " + body, unique=key).code == "duplicate"
    assert d.inquire(id=name(b"left")).state == "unknown"
    d.submit(b"later", queue="q", age_ms=1)
    assert d.told() == [(b"later", "completed", b"yes")]
    assert d.asks(b"x", unique="done", queue="q").job == first
    it.wait(10 * S)
    assert d.asks(b"x", unique="done", queue="q").code == ""
    assert it.machine.requests.uniques.windows == {}
    w = it.worker("w2", credit=9)
    for body in (b"open", b"left"):
        w.complete(body)
    assert sorted(d.told()) == [(b"guest", "completed", b"done"), (b"heir", "completed", b"done")]


def test_a_window_that_follows_another_of_its_key_is_not_the_oldest() -> None:
    """The rule: "above that the oldest end early": one that is over, and not taken away yet, gives nobody its age."""
    uniques = Uniques(windows_max=2)
    held = {key: ("default", "", key) for key in "abc"}
    for number, key in enumerate("aba"):
        assert uniques.begin(held[key], Window(number, 10 + number, b"job", NAME)) == []
    ((cut, _),) = uniques.begin(held["c"], Window(3, 20, b"job", NAME))
    assert cut == held["b"]


def test_a_window_outlives_its_job_in_the_store_and_leaves_nothing_behind(talk: Any) -> None:
    """Its job may be forgotten; when the window is over, the store is empty."""
    store = MemoryStore()
    it = talk(store=store)
    c, w = it.client("c"), it.worker(credit=1)
    first = c.asks(b"a", unique="k", unique_ms=10_000).job
    w.complete(b"a")
    c.receive()
    it.begin()
    c = it.client("d")
    assert c.asks(b"b", unique="k").job == first
    it.wait(10 * S)
    assert list(store.load()) == [Numbered(1)]


def test_windows_of_several_lives_stand_beside_each_other(talk: Any) -> None:
    """No number is given again, though the job that had it is forgotten, and its window is kept by it."""
    it = talk(store=MemoryStore())
    for life in ("one", "two"):
        c, w = it.client(life), it.worker(credit=1)
        c.submit(life.encode(), unique=life, unique_ms=10_000)
        w.complete(life.encode())
        c.receive()
        it.turn()
        it.begin()
    c = it.client("c")
    assert [c.asks(b"again " + key.encode(), unique=key).code for key in ("one", "two")] == ["duplicate"] * 2


def test_a_window_that_ended_while_the_broker_was_down_is_over(talk: Any) -> None:
    """Wall-clock time: what passed has passed."""
    it = talk(store=MemoryStore())
    c, w = it.client("c"), it.worker(credit=1)
    c.submit(b"a", unique="k", unique_ms=10_000)
    w.complete(b"a")
    it.now += 11 * S
    it.begin()
    assert it.client("d").asks(b"b", unique="k").code == ""


# --- All together


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_each_key_has_one_job_and_each_request_one_end(talk: Any, seed: int) -> None:
    """Requests of every mode, cancels, receipts, reconnects, restarts, in any order: the census holds after each turn,
    and everybody who goes on asking is told an end of every request.
    """
    draw = random.Random(seed)
    it = talk(store=MemoryStore() if seed % 2 else None, limits=Limits(unique_windows_max=3, askers_per_job_max=4))
    clients = [it.client(f"c{number}") for number in range(3)]
    worker = it.worker()
    numbers = itertools.count()
    refused: set[bytes] = set()
    asked: dict[bytes, tuple[Any, bytes, dict[str, Any]]] = {}
    done = 0
    for _ in range(150):
        client = draw.choice(clients)
        move = draw.choice(("submit",) * 5 + ("cancel", "again", "receive", "reconnect", "ask", "ask", "done", "wait"))
        if move == "submit":
            body = b"%d" % next(numbers)
            mode = draw.choice(("reject", "join", "join", "replace"))
            fields = {"unique": draw.choice("kl"), "unique_mode": mode, "unique_ms": draw.choice((0, 0, 3_000))}
            if client.asks(body, wait=draw.random() < 0.8, **fields).code:
                refused.add(body)
            else:
                asked[body] = client, body, fields
        elif move in ("cancel", "again") and asked:
            client, body, fields = asked[draw.choice(sorted(asked))]
            if move == "cancel":
                cancel(client, body)
            else:
                client.submit(body, age_ms=1, **fields)
                client.take(Submitted)
        elif move == "receive":
            client.receive()
        elif move == "reconnect":
            client.lose()
            client.connect()
            client.outcomes.clear()
            client.hello()
        elif move == "ask":
            worker.ask()
        elif move == "done" and done < len(worker.jobs):
            said, _ = worker.jobs[done]
            done += 1
            if draw.random() < 0.7:
                worker.complete(said.token)
            else:
                worker.fail(said.token, final=draw.random() < 0.5)
        elif move == "wait":
            it.wait(draw.choice((1, 500, 2_000)) * MS)
    assert refused
    for client in clients:
        client.outcomes.clear()
    for client, body, fields in asked.values():
        client.submit(body, age_ms=1, **fields)
    while done < len(worker.jobs) or it.machine.open:
        worker.ask(5)
        for said, _ in worker.jobs[done:]:
            worker.complete(said.token)
            done += 1
        it.wait(1 * S)
    for client, body, _ in asked.values():
        ends = [said for said, _ in client.outcomes if said.id == name(body)]
        if not ends:  # it was received, and free to be refused by now
            assert client.inquire(id=name(body)).state in ("unknown", "expired")
    assert it.machine.requests.uniques.live == {}
