"""Order keys: one after the other, in the order of acceptance, whatever becomes of each."""

from __future__ import annotations

import itertools
import random
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from tests.core.conftest import Talk

from relet.core.job import BLOCKED, HELD, RUNNING, Job, Reason
from relet.core.lease import NEVER
from relet.core.limits import Limits
from relet.core.machine import Machine
from relet.core.orders import Orders, place_of
from relet.core.queue import Queue
from relet.core.settings import QueueSettings
from relet.core.terms import Rules, Terms
from relet.events import Event
from relet.messages import CancelJob, ReportRefused
from relet.orders import PurgeDead, RedriveDead, WhyJob
from relet.store.memory import MemoryStore
from relet.testing import census
from relet.testing.stores import LateStore

MS = 1_000_000
S = 1_000 * MS


@given(
    st.lists(
        st.tuples(st.sampled_from(["enter", "enter", "end", "discard", "lift", "redrive"]), st.sampled_from("ab"))
    ),
    st.randoms(use_true_random=False),
)
def test_orders_are_those_of_a_naive_model(steps: list[tuple[str, str]], rng: random.Random) -> None:
    """Of what is open and what blocks the lowest place counts: an open job goes, and a dead letter holds up the others;
    what is made of one has its place.
    """
    orders = Orders()
    waiting: dict[str, list[Job]] = {"a": [], "b": []}
    first: dict[str, Job | None] = {"a": None, "b": None}
    blockers: dict[str, list[Job]] = {"a": [], "b": []}

    def made(number: int, key: str, place: int = 0) -> Job:
        rules = Rules(order=key, place=place)
        job = Job(number, None, b"", b"", 0, Queue(), Terms(), rules=rules)
        job.id = b"%d" % number
        return job

    def follows(key: str) -> Job | None:
        if first[key] is None and waiting[key]:
            lowest = min(waiting[key] + blockers[key], key=place_of)
            if lowest in waiting[key]:
                waiting[key].remove(lowest)
                first[key] = lowest
                return lowest
        return None

    for number, (step, key) in enumerate(steps, 1):
        its_first, its_blockers = first[key], blockers[key]
        if step == "enter" or (step == "redrive" and its_blockers):
            if step == "redrive":
                letter = its_blockers.pop(rng.randrange(len(its_blockers)))
                assert orders.place_kept(letter) == place_of(letter)
                job = made(number, key, place_of(letter))
                orders.handed_on(letter, job)
                assert orders.place_kept(letter) == 0
                assert job not in orders
            else:
                job = made(number, key)
            waiting[key].append(job)
            assert orders.enter(job) == (follows(key) is job)
            assert orders.is_first(job) == (first[key] is job)
            assert orders.enter(job) == (first[key] is job), "saying it twice changes nothing"
        elif step == "lift" and its_blockers:
            assert orders.lift(its_blockers.pop(rng.randrange(len(its_blockers)))) is follows(key)
        elif step in ("end", "discard"):
            there = ([its_first] if its_first is not None else []) + waiting[key]
            if there:
                job = rng.choice(there)
                assert job in orders
                if job is its_first:
                    first[key] = None
                else:
                    waiting[key].remove(job)
                its_blockers += [job] if step == "discard" else []
                assert orders.ended(job, blocks=step == "discard") is follows(key)
                assert job not in orders
        assert sorted(it.number for it in orders.blocked()) == sorted(
            it.number for jobs in waiting.values() for it in jobs
        )
        assert len(orders) == sum(bool(first[key] or blockers[key] or waiting[key]) for key in "ab")


# --- In the machine


def _submit(client: Any, *names: bytes, order: str = "o", **fields: Any) -> None:
    for name in names:
        client.submit(name, order=order, **fields)


def test_jobs_of_an_order_key_go_one_after_the_other(talk: Any) -> None:
    """The next one when the one before has ended, and others meanwhile, whoever asks."""
    it = talk()
    c, w, v = it.client(), it.worker("w", credit=3), it.worker("v", credit=3)
    _submit(c, b"1", b"2", b"3")
    c.submit(b"free")
    _submit(c, b"other", order="p")
    assert sorted(w.got + v.got) == [b"1", b"free", b"other"]
    assert [it.state(body) for body in (b"2", b"3")] == ["BLOCKED", "BLOCKED"]
    holder = w if b"1" in w.got else v
    holder.complete(b"1")
    assert b"2" in w.got + v.got
    assert it.state(b"3") == "BLOCKED"
    (w if b"2" in w.got else v).complete(b"2")
    assert b"3" in w.got + v.got


def test_a_blocked_job_says_so(talk: Any) -> None:
    """`state` is `blocked`."""
    it = talk()
    c = it.client()
    _submit(c, b"1")
    name = c.submit(b"2", order="o")
    assert c.inquire(id=name).state == "blocked"


def test_an_order_waits_for_retries_and_their_pauses(talk: Any) -> None:
    """The first keeps its turn while it is delayed and while it waits again."""
    it = talk(tries=3)
    c, w = it.client(), it.worker(credit=9)
    _submit(c, b"1", b"2")
    w.fail(b"1")
    assert w.got == [b"1", b"1"]
    w.fail(b"1", retry_ms=1_000)
    assert it.state(b"1") == "DELAYED"
    it.wait(1 * S)
    assert w.got == [b"1", b"1", b"1"]
    w.fail(b"1")
    assert w.got[3:] == [b"2"], "discarded: the key goes on without it"


def test_an_order_waits_for_a_job_whose_worker_was_lost(talk: Any) -> None:
    """Between two workers there are never two jobs of a key on their way."""
    it = talk()
    c, w = it.client(), it.worker("w", credit=2)
    _submit(c, b"1", b"2")
    w.start(b"1")
    v = it.worker("v", credit=2)
    w.lose()
    it.wait(1 * S)
    assert v.got == [b"1"]
    v.complete(b"1")
    assert v.got == [b"1", b"2"]


def test_a_late_answer_ends_the_first_and_the_next_one_goes(talk: Any) -> None:
    """While it waits again."""
    it = talk(timeout_ns=100 * MS)
    c, w = it.client(), it.worker(credit=1)
    _submit(c, b"1", b"2")
    w.start(b"1")
    it.wait(100 * MS)
    assert it.state(b"1") == "AVAILABLE"
    w.complete(b"1")
    w.ask()
    assert w.got == [b"1", b"2"]


def test_the_next_one_takes_its_place_by_age(talk: Any) -> None:
    """Behind what was accepted before it, before what was accepted later, within its priority."""
    it = talk()
    c, w = it.client(), it.worker(credit=1)
    _submit(c, b"first")
    c.submit(b"older")
    _submit(c, b"second")
    c.submit(b"younger")
    w.complete(b"first")
    w.ask(3)
    assert w.got == [b"first", b"older", b"second", b"younger"]


def test_a_discarded_job_that_blocks_stops_its_key_and_no_other(talk: Any) -> None:
    """New ones wait, too."""
    it = talk(tries=1)
    c, w = it.client(), it.worker(credit=9)
    _submit(c, b"1", blocks=True)
    _submit(c, b"2")
    _submit(c, b"other", order="p")
    w.fail(b"1")
    _submit(c, b"3")
    assert w.got == [b"1", b"other"]
    assert [it.state(body) for body in (b"2", b"3")] == ["BLOCKED", "BLOCKED"]


def test_a_job_that_blocks_and_is_completed_or_cancelled_blocks_nothing(talk: Any) -> None:
    """Only a dead letter does."""
    it = talk()
    c, gone, w = it.client(), it.client("d"), it.worker(credit=9)
    _submit(c, b"1", blocks=True)
    _submit(gone, b"2", blocks=True, gone="cancel")
    _submit(c, b"3")
    w.complete(b"1")
    gone.lose()
    it.wait(2 * S)
    assert w.got == [b"1", b"2", b"3"]


def _letter(it: Any) -> Job:
    (letter,) = it.machine.kept
    return letter


def test_a_key_goes_on_when_its_dead_letter_is_kept_no_more(talk: Any) -> None:
    """Purged, or gone by a bound."""
    it = talk(tries=1)
    c, w = it.client(), it.worker(credit=9)
    _submit(c, b"1", blocks=True)
    _submit(c, b"2", b"3")
    w.fail(b"1")
    letter = _letter(it)
    it.machine.kept.drop(letter)
    it.machine.forgotten(letter)
    it.turn()
    assert w.got == [b"1", b"2"]


def test_what_was_redriven_goes_first(talk: Any) -> None:
    """In the place of the job that blocked its key, though it was accepted last."""
    it = talk(tries=1)
    c, w = it.client(), it.worker(credit=9)
    _submit(c, b"1", blocks=True)
    _submit(c, b"2", b"3")
    w.fail(b"1")
    made = it.machine.requests.redrive(_letter(it), it.now)
    assert isinstance(made, Job)
    it.machine.requests.accept(it.now)
    it.turn()
    assert w.got == [b"1", b"1"]
    w.complete(b"1")
    assert w.got == [b"1", b"1", b"2"]


def test_no_dead_letter_is_kept_and_nothing_is_blocked(talk: Any) -> None:
    """What nobody could redrive or purge must not block for ever."""
    it = talk(tries=1, limits=Limits(kept_bytes_max=1))
    c, w = it.client(), it.worker(credit=9)
    _submit(c, b"a long body", blocks=True)
    _submit(c, b"2")
    w.fail(b"a long body")
    assert w.got == [b"a long body", b"2"]


def test_a_blocked_job_ends_with_its_askers_and_with_the_broker(talk: Any) -> None:
    """Where it was, it leaves no trace; the others of its key go on."""
    it = talk()
    c, gone, w = it.client(), it.client("d"), it.worker(credit=1)
    _submit(c, b"1")
    _submit(gone, b"2", gone="cancel")
    _submit(c, b"3", b"4")
    gone.lose()
    it.wait(2 * S)
    w.complete(b"1")
    w.ask()
    assert w.got == [b"1", b"3"]
    it.stop()
    assert sorted(c.told()) == [
        (b"1", "completed", b"done"),
        (b"3", "broker_stopped", ()),
        (b"4", "broker_stopped", ()),
    ]
    assert (it.machine.open, it.machine.ordered) == (0, 0)


def test_jobs_behind_a_dead_letter_end_with_the_broker(talk: Any) -> None:
    """Nothing unblocks them, and all are told."""
    it = talk(tries=1)
    c, w = it.client(), it.worker(credit=9)
    _submit(c, b"1", blocks=True)
    _submit(c, b"2", b"3")
    w.fail(b"1")
    c.told()
    it.stop()
    assert sorted(c.told()) == [(b"2", "broker_stopped", ()), (b"3", "broker_stopped", ())]


def test_a_blocked_job_has_its_deadline_and_what_is_left_of_its_delay(talk: Any) -> None:
    """It ends in time though it never was the first; one whose moment has not come when it is waits for that."""
    it = talk()
    c, w = it.client(), it.worker(credit=9)
    _submit(c, b"1")
    _submit(c, b"too late", start_ms=500)
    _submit(c, b"later", delay_ms=2_000)
    _submit(c, b"last")
    assert [it.state(body) for body in (b"too late", b"later", b"last")] == ["BLOCKED"] * 3
    it.wait(500 * MS)
    assert c.told() == [(b"too late", "start_deadline", ())]
    w.complete(b"1")
    assert it.state(b"later") == "DELAYED"
    it.wait(1_500 * MS - 1)
    assert w.got == [b"1"]
    it.wait(1)
    w.complete(b"later")
    assert w.got == [b"1", b"later", b"last"]


def test_a_delay_that_is_over_while_a_job_is_blocked_puts_it_off_no_longer(talk: Any) -> None:
    """And the first of a key holds it while it is delayed itself."""
    it = talk()
    c, w = it.client(), it.worker(credit=9)
    _submit(c, b"1", delay_ms=1_000)
    _submit(c, b"2", delay_ms=1_500)
    assert [it.state(body) for body in (b"1", b"2")] == ["DELAYED", "BLOCKED"]
    it.wait(2 * S)
    assert w.got == [b"1"]
    w.complete(b"1")
    assert w.got == [b"1", b"2"]


def test_a_blocked_job_that_blocks_and_comes_too_late_blocks_its_key(talk: Any) -> None:
    """It was discarded, as if it had been its turn: what is behind it waits."""
    it = talk()
    c, w = it.client(), it.worker(credit=9)
    _submit(c, b"1")
    _submit(c, b"2", start_ms=500, blocks=True)
    _submit(c, b"3")
    it.wait(500 * MS)
    w.complete(b"1")
    assert it.state(b"3") == "BLOCKED"
    (letter,) = it.machine.kept
    it.machine.kept.drop(letter)
    it.machine.forgotten(letter)
    it.turn()
    assert w.got == [b"1", b"3"]


def _older_and_younger(it: Any) -> Any:
    """Of four jobs of a key, which came one after the other, the third came too late while the first was out."""
    c, w = it.client(), it.worker(credit=9)
    _submit(c, b"1", b"2", blocks=True)
    _submit(c, b"3", start_ms=500, blocks=True)
    _submit(c, b"4", blocks=True)
    w.start(b"1")
    it.wait(500 * MS)
    return w


def test_older_jobs_go_on_before_the_dead_letter_of_a_younger_one(talk: Any) -> None:
    """Found by use: a job that came too late while it was blocked itself blocked those before it, and what was made of
    it when it was redriven went before them.
    """
    it = talk(tries=1)
    w = _older_and_younger(it)
    w.complete(b"1")
    assert w.got == [b"1", b"2"]
    w.complete(b"2")
    assert (w.got, it.state(b"4")) == ([b"1", b"2"], "BLOCKED")
    made = it.machine.requests.redrive(_letter(it), it.now)
    it.machine.requests.accept(it.now)
    it.turn()
    w.complete(b"3")
    assert w.got == [b"1", b"2", b"3", b"4"]
    assert isinstance(made, Job)


def test_what_was_redriven_keeps_its_place_among_several(talk: Any) -> None:
    """Also where it was redriven before the one ahead of it, and through a restart."""
    it = talk(tries=1, store=MemoryStore())
    w = _older_and_younger(it)
    w.fail(b"1")
    w.complete(b"2")
    for body in (b"3", b"1"):
        assert (w.got, it.state(b"4")) == ([b"1"], "BLOCKED")
        (letter,) = [letter for letter in it.machine.kept.walk("default", 0) if letter.job.body == body]
        made = it.machine.requests.redrive(letter.job, it.now)
        assert isinstance(made, Job)
        letter.redriven_to = made.id
        it.machine.requests.accept(it.now)
        it.machine.redriven(letter.job)
        if body == b"3":
            it.turn()
            it.begin()
            it.turn()
            w = it.worker(credit=9)
            w.jobs = [(None, b"1")]
    it.turn()
    for body in (b"1", b"2", b"3", b"4"):
        assert w.got[-1] == body
        w.complete(body)
    assert it.machine.open == 0


@pytest.mark.parametrize(("kept", "told"), [(1, [b"1"]), (0, [b"1", b"2"])])
def test_a_key_that_a_bound_unblocks_is_told(talk: Any, kept: int, told: list[bytes]) -> None:
    """`order_unblocked`, and what was discarded can be found: `job_discarded` has its id, queue and kind."""
    it = talk(tries=1)
    it.machine.set_queue("q", QueueSettings(kept_jobs_max=kept))
    c, w = it.client(), it.worker(credit=9, queues=("q",))
    _submit(c, b"1", order="o", queue="q", blocks=True)
    _submit(c, b"2", order="p", queue="q", blocks=True)
    ids = {body: c.inquire(id=body.ljust(16, b"-")).job.hex() for body in (b"1", b"2")}
    w.fail(b"1", kind="ValueError")
    w.fail(b"2", kind="ValueError")
    discarded = [fields for event, fields in it.notices if event == Event.JOB_DISCARDED]
    assert [(it["job_id"], it["queue"], it["kind"]) for it in discarded] == [
        (ids[body], "q", "ValueError") for body in (b"1", b"2")
    ]
    unblocked = [(it["order"], it["job_id"]) for event, it in it.notices if event == Event.ORDER_UNBLOCKED]
    assert unblocked == [("o" if body == b"1" else "p", ids[body]) for body in told]


def test_who_purges_or_redrives_is_not_told_that_the_key_goes_on(talk: Any) -> None:
    """They wanted it."""
    it = talk(tries=1)
    c, w, a = it.client(), it.worker(credit=9), it.admin()
    _submit(c, b"1", blocks=True)
    w.fail(b"1")
    a.orders(PurgeDead(job=_letter(it).id))
    assert Event.ORDER_UNBLOCKED not in [event for event, _ in it.notices]


@pytest.mark.parametrize("delay", [0, 2_000])
def test_a_blocked_job_keeps_its_moments_through_a_restart(talk: Any, delay: int) -> None:
    """Deadline and delay count on."""
    it = talk(store=MemoryStore())
    c = it.client()
    _submit(c, b"1", deadline_ms=1_000)
    _submit(c, b"2", delay_ms=delay)
    _submit(c, b"3", start_ms=800)
    it.wait(500 * MS)
    it.begin()
    it.turn()
    assert it.state(b"2") == "BLOCKED"
    it.wait(501 * MS)
    w = it.worker(credit=9)
    assert w.got == ([] if delay else [b"2"])
    it.wait(1 * S)
    assert w.got == [b"2"]
    w.complete(b"2")
    assert it.machine.open == 0, "both others came too late"


@pytest.mark.parametrize(
    ("fields", "text"),
    [({"order": "x" * 201}, "at most 200"), ({"blocks": True}, "without order")],
)
def test_an_order_that_cannot_be_is_refused(talk: Any, fields: dict[str, Any], text: str) -> None:
    """`bad_request`, and the text says what to change."""
    admitted = talk().client().asks(b"job", **fields)
    assert admitted.code == "bad_request"
    assert text in admitted.text


# --- Through a restart


def test_an_order_holds_through_a_restart(talk: Any) -> None:
    """Whichever was with a worker is the first; what was blocked is so, in its order."""
    it = talk(store=MemoryStore())
    c, w = it.client(), it.worker(credit=9)
    _submit(c, b"1", b"2", b"3")
    w.start(b"1")
    assert w.got == [b"1"]
    it.begin()
    v = it.worker("v", credit=9)
    assert v.got == []
    it.wait(60 * S)
    assert v.got == [b"1"]
    v.complete(b"1")
    v.complete(b"2")
    assert v.got == [b"1", b"2", b"3"]


def test_a_dead_letter_blocks_through_a_restart(talk: Any) -> None:
    """And what was accepted behind it waits; a key whose dead letter was redriven does not."""
    it = talk(tries=1, store=MemoryStore())
    c, w = it.client(), it.worker(credit=9)
    for key in "ab":
        _submit(c, key.encode(), order=key, blocks=True)
        _submit(c, key.encode() + b" next", order=key)
        w.fail(key.encode())
    (letter,) = [job for job in it.machine.kept if job.body == b"b"]
    it.machine.requests.redrive(letter, it.now)
    it.machine.requests.accept(it.now)
    for entry in it.machine.kept.walk("default", 0):
        if entry.job is letter:
            entry.redriven_to = b"\x01" * 16
    it.machine.redriven(letter)
    it.turn()
    it.begin()
    it.turn()
    assert [it.state(body) for body in (b"a next", b"b next")] == ["BLOCKED", "BLOCKED"]
    v = it.worker("v", credit=9)
    it.wait(60 * S)
    assert (b"a next" in v.got, b"b" in v.got) == (False, True)


def test_what_was_accepted_last_is_blocked_though_no_record_says_so(talk: Any) -> None:
    """The broker ended between the acceptance and the record of the blocking."""
    it = talk(store=MemoryStore())
    c = it.client()
    _submit(c, b"1", b"2")
    kept = [record for record in it.store.load() if type(record).__name__ == "Accepted"]
    it.store = MemoryStore()
    it.store.append(1, kept)
    it.begin()
    assert [it.state(body) for body in (b"1", b"2")] == ["AVAILABLE", "BLOCKED"]
    assert [job.state for job in it.machine.queue.orders.blocked()] == [BLOCKED]
    census.check(it.machine, loaded=2)


@pytest.mark.parametrize("fields", [{"start_ms": 1_000}, {"deadline_ms": 1_000}])
@pytest.mark.parametrize("keeps", [True, False])
def test_jobs_of_one_key_that_are_all_too_late_end_once(talk: Any, fields: dict[str, int], keeps: bool) -> None:
    """At one moment, each because the one before has ended, and because its own time is up."""
    it = talk(tries=3, timeout_ns=10 * S, store=MemoryStore() if keeps else None)
    c = it.client()
    c.submit_many(b"a", b"b", b"c", order="k", **fields)
    it.wait(2 * S)
    assert sorted(name for name, _, _ in c.told()) == [b"a", b"b", b"c"]
    assert (it.machine.open, it.machine.counters.jobs_discarded) == (0, 3)


@pytest.mark.parametrize("end", ["answer", "cancel"])
def test_a_long_chain_of_late_jobs_ends_some_at_a_time(talk: Any, end: str) -> None:
    """Each makes the next one the first of its key, which is too late, too: no turn does more than its steps."""
    it = talk(tries=3, timeout_ns=10 * S, limits=Limits(turn_steps_max=100))
    c, w = it.client(), it.worker(credit=1)
    for first in range(0, 1_000, 500):
        c.submit_many(*[b"%04d" % number for number in range(first, first + 500)], order="k", start_ms=1_000)
    it.now += 2 * S  # no turn has found them late yet
    if end == "answer":
        w.complete(b"0000", turn=False)
    else:
        c.says(CancelJob(id=b"0000".ljust(16, b"-")), turn=False)
    before = it.machine.open
    it.server.turn(it.now, it.now)
    assert before > it.machine.open >= before - 400  # by their own deadlines, and one after the other, twice
    while it.server.busy or (it.machine.next_deadline() or NEVER) <= it.now:
        it.turn()
    assert it.machine.open == 0
    assert len(c.told()) == 1_000


# --- The places of jobs


def _names(talk: Any, worker: Any, count: int) -> list[bytes]:
    """What this many asks in turn bring, each job done at once."""
    del worker.jobs[:]
    for _ in range(count):
        worker.ask(1)
        worker.complete(worker.jobs[-1][0].token)
    return list(worker.got)


def test_a_dead_letter_does_not_block_what_was_accepted_before_it(talk: Any) -> None:
    """A job that comes too late while it waits behind older ones holds up those behind it, and not them."""
    it = talk(tries=1)
    c, w = it.client(), it.worker(credit=1)
    _submit(c, b"0", b"1")
    _submit(c, b"2", start_ms=500, blocks=True)
    _submit(c, b"3")
    it.wait(600 * MS)
    w.complete(b"0")
    w.ask(3)
    assert w.got == [b"0", b"1"]
    w.complete(b"1")
    assert w.got == [b"0", b"1"]
    assert it.state(b"3") == "BLOCKED"
    it.admin().orders(RedriveDead(id=b"r"))
    w.complete(b"2")
    assert w.got == [b"0", b"1", b"2", b"3"]


def test_what_is_redriven_together_goes_in_the_order_of_acceptance(talk: Any) -> None:
    """After an outage: one failed and blocked the others, which came too late then; not the last one first."""
    it = talk(tries=1, timeout_ns=50 * S)
    c, w = it.client(), it.worker(credit=1)
    _submit(c, b"A", blocks=True)
    for after, name in enumerate((b"D", b"C", b"B")):
        _submit(c, name, blocks=True, deadline_ms=1_002 - after)
    w.fail(b"A")
    it.wait(2 * S)
    assert [job.body for job in it.machine.kept] == [b"A", b"B", b"C", b"D"], "as they have ended"
    it.admin().orders(RedriveDead(id=b"r"))
    assert _names(it, w, 4) == [b"A", b"D", b"C", b"B"], "as they were accepted"


def test_one_that_is_redriven_waits_for_the_dead_letters_before_it(talk: Any) -> None:
    """It takes the place of its own, not the first; and fails there, and blocks there, again."""
    it = talk(tries=1)
    c, w, a = it.client(), it.worker(credit=1), it.admin()
    _submit(c, b"A", blocks=True)
    _submit(c, b"B", blocks=True, deadline_ms=1_000)
    _submit(c, b"C")
    w.fail(b"A")
    it.wait(2 * S)
    first, second = it.machine.kept
    w.ask(1)
    a.orders(RedriveDead(id=b"r", job=second.id))
    assert w.got == [b"A"]
    assert it.state(b"B") == "BLOCKED"
    a.orders(RedriveDead(id=b"r", job=first.id))
    assert w.got == [b"A", b"A"]
    w.complete(w.jobs[-1][0].token)
    w.ask(1)
    assert w.got == [b"A", b"A", b"B"]
    w.fail(b"B")
    w.ask(1)
    assert w.got == [b"A", b"A", b"B"]
    a.orders(PurgeDead(id=b"p"))
    assert w.got == [b"A", b"A", b"B", b"C"]


def test_the_place_is_kept_until_what_was_made_is_safe(talk: Any) -> None:
    """The dead letter may be purged meanwhile, and the new job be cancelled: then the key goes on."""
    for cancelled in (False, True):
        store = LateStore()
        it = talk(tries=1, store=store)
        c, w, a = it.client(), it.worker(), it.admin()
        for names in ((b"A",), (b"B",)):
            _submit(c, *names, blocks=True)
        store.settle(100)
        it.turn()
        w.ask(1)
        w.fail(b"A")
        store.settle(100)
        it.turn()
        a.says(RedriveDead(id=b"r"))
        (made,) = [job for job in it.machine.jobs() if job.body == b"A"]
        a.says(PurgeDead(id=b"p"))
        a.says(WhyJob(id=b"w", job=it.job(b"B").id))
        w.ask(1)
        assert w.got == [b"A"]
        if cancelled:
            it.machine.cancel(made, Reason.CANCELLED, it.now)
        store.settle(100)
        it.turn()
        assert w.got == [b"A", b"B" if cancelled else b"A"]


def test_the_next_one_goes_before_the_end_of_the_one_before_is_safe(talk: Any) -> None:
    """docs/guarantees.md, 6: the one exception to the order. A broker that is killed before that end is safe has the
    first job done again while the next is still with its worker; what that worker says is refused, and its job follows.
    """
    store = LateStore()
    it = talk(store=store, timeout_ns=10 * S)
    c, w = it.client(), it.worker(credit=2)
    _submit(c, b"1", b"2", b"3")
    store.settle(100)
    it.turn()
    w.complete(b"1")
    assert w.got == [b"1", b"2"]
    w.start(b"2")
    assert (it.machine.open, it.state(b"2"), it.state(b"3")) == (2, "RUNNING", "BLOCKED")
    store.crash()
    it.begin()
    assert (it.state(b"1"), it.state(b"2"), it.state(b"3")) == ("AVAILABLE", "BLOCKED", "BLOCKED")
    token, back = w.last(b"2").token, it.worker("back", incarnation=w.incarnation, hello=False)
    assert back.hello(running=(token,)).lost == (token,)
    back.complete(token)
    assert [said.code for said in back.take(ReportRefused)] == ["not_open"]
    assert it.state(b"2") == "BLOCKED"
    n = it.worker("n", credit=3)
    for body in (b"1", b"2", b"3"):
        n.complete(body)
        store.settle(100)
        it.turn()
    assert n.got == [b"1", b"2", b"3"]


@pytest.mark.parametrize("tried", [False, True])
def test_a_letter_behind_what_is_on_its_way_does_not_block_that_after_a_restart(talk: Any, tried: bool) -> None:
    """Whether a worker had it when the broker ended, or it waits for another attempt."""
    it = talk(store=MemoryStore(), tries=3, timeout_ns=100 * S)
    c, w = it.client(), it.worker(credit=1)
    _submit(c, b"A")
    _submit(c, b"B", blocks=True, deadline_ms=1_000)
    _submit(c, b"C")
    if tried:
        w.fail(b"A")
    it.wait(2 * S)
    before = census.persisted(it.machine)
    it.begin()
    assert census.persisted(it.machine) == before
    n = it.worker("w")
    if tried:
        n.ask(1)
        assert n.got == [b"A"]
        n.complete(b"A")
    n.ask(1)
    assert it.state(b"C") == "BLOCKED"
    it.admin().orders(PurgeDead(id=b"p"))
    assert it.state(b"C") == ("HELD" if tried else "BLOCKED")
    if not tried:
        it.wait(100 * S)
        assert n.got == [b"A"]


def test_a_late_answer_after_a_restart_ends_the_one_before_a_letter(talk: Any) -> None:
    """It waits for another attempt, and its token is good still."""
    it = talk(store=MemoryStore(), tries=3, timeout_ns=100 * S)
    c, w = it.client(), it.worker(credit=1)
    _submit(c, b"A")
    _submit(c, b"B", blocks=True, deadline_ms=1_000)
    w.fail(b"A")
    it.wait(2 * S)
    it.begin()
    n = it.worker("w")
    n.complete(w.last(b"A").token)
    assert it.machine.open == 0


def test_a_job_accepted_just_before_the_end_comes_after_those_that_wait(talk: Any) -> None:
    """That it waits, too, no record says yet."""
    it = talk(store=MemoryStore(), tries=3, timeout_ns=10 * S)
    c = it.client()
    _submit(c, b"V", b"W")
    c.submit(b"X", order="o", turn=False)
    it.server.turn(it.now, it.now + 5_000 * S)
    it.begin()
    assert _names(it, it.worker(), 3) == [b"V", b"W", b"X"]


def test_a_job_accepted_while_its_key_becomes_free_comes_after_those_that_wait(talk: Any) -> None:
    """A dead letter is purged in the turn in which it is accepted, the last one of the broker."""
    it = talk(store=MemoryStore(), tries=1, timeout_ns=10 * S)
    c, w, a = it.client(), it.worker(credit=1), it.admin()
    _submit(c, b"V", blocks=True)
    _submit(c, b"W")
    w.fail(b"V")
    it.turn()
    c.submit(b"X", order="o", turn=False)
    a.says(PurgeDead(id=b"p"), turn=False)
    it.server.turn(it.now, it.now + 5_000 * S)
    it.begin()
    assert _names(it, it.worker(), 2) == [b"W", b"X"]


def test_a_redriven_job_keeps_its_place_through_a_restart(talk: Any) -> None:
    """Though it was accepted last, and its dead letter is gone."""
    it = talk(store=MemoryStore(), tries=1)
    c, w, a = it.client(), it.worker(credit=1), it.admin()
    _submit(c, b"A", blocks=True)
    _submit(c, b"B", blocks=True, deadline_ms=1_000)
    _submit(c, b"C")
    w.fail(b"A")
    it.wait(2 * S)
    a.orders(RedriveDead(id=b"r"))
    a.orders(PurgeDead(id=b"p"))
    before = census.persisted(it.machine)
    it.begin()
    assert census.persisted(it.machine) == before
    assert _names(it, it.worker(), 3) == [b"A", b"B", b"C"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter", "late", "fail", "do", "hand back", "cancel", "redrive", "purge", "restart"]),
        st.booleans(),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(STEPS, st.randoms(use_true_random=False))
def test_whatever_is_done_the_lowest_place_goes_also_after_a_restart(
    steps: list[tuple[str, bool]], rng: random.Random
) -> None:
    """Bodies are places: what is redriven has the body, and the place, of its dead letter."""
    it = Talk(store=MemoryStore(), tries=2)
    bodies = itertools.count(1)
    names = itertools.count(1)

    def open_now() -> dict[bytes, Job]:
        return {job.body: job for job in it.machine.jobs()}

    def letters() -> list[bytes]:
        return [letter.job.body for letter in it.machine.kept.walk("", 0) if not letter.redriven_to]

    c, w, a = it.client(), it.worker("w1"), it.admin()
    for step, flag in steps:
        if step in ("enter", "late"):
            deadline = {"start_ms": 1_000} if step == "late" else {}
            c.submit(b"%03d" % next(bodies), order="o", blocks=True, **deadline)
            if flag:
                it.wait(2 * S)
        elif step in ("fail", "do", "hand back"):
            w.ask(1)
            for job in open_now().values():
                if job.state in (HELD, RUNNING) and job.token in {said.token for said, _ in w.jobs}:
                    if step == "hand back":
                        w.hand_back(job.token)
                    elif step == "do":
                        w.complete(job.token)
                    else:
                        w.fail(job.token, final=flag)
        elif step == "cancel" and open_now():
            body = rng.choice(sorted(open_now()))
            it.machine.cancel(open_now()[body], Reason.CANCELLED, it.now)
        elif step in ("redrive", "purge"):
            chosen = [rng.choice(list(it.machine.kept)).id] if flag and len(it.machine.kept) else [b""]
            for job_id in chosen:
                a.says((RedriveDead if step == "redrive" else PurgeDead)(id=b"x", job=job_id))
        elif step == "restart":
            it.turn()
            it.keep()
            before = census.persisted(it.machine)
            it.begin()
            assert census.persisted(it.machine) == before
            c, w, a = it.client(), it.worker(f"w{next(names)}"), it.admin()
            it.wait(61 * S)
        it.turn()
        goes = [body for body, job in open_now().items() if job.state != BLOCKED]
        lowest = min([*open_now(), *letters()], default=b"")
        assert goes == ([lowest] if lowest in open_now() else [])
        it.keep()
        again = Machine(iter(()), tries=2, keeps_records=True)
        again.wall_ns = it.machine.wall_ns
        again.load(it.store.load(), it.now)
        census.check(again, loaded=again.open)
        assert census.persisted(again) == census.persisted(it.machine)
