"""Faults that the simulation has found, each as the shortest conversation that shows it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from relet.core.machine import HAND_BACK_NS, Machine
from relet.core.orders import place_of
from relet.messages import Body, CancelJob, ClientHello, Peer, Submit, Submitted
from relet.store.memory import MemoryStore
from relet.testing import LateStore, census

NAME = b"a request".ljust(16, b".")


@pytest.fixture
def machine() -> Machine:
    """A machine without a store."""
    return Machine(number.to_bytes(16, "big") for number in itertools.count(1))


def _submit(machine: Machine, peer: Peer, said: Submit, body: Body, now: int = 0) -> list[Submitted]:
    """What is said to a client that submits."""
    if machine.requests.askers.on(peer, b"") is None:
        machine.requests.hello(peer, b"", ClientHello(), now)
    asker = machine.requests.askers.on(peer, b"")
    assert asker is not None
    machine.requests.submit(asker, said, body, now)
    told = [said for _, said, _ in machine.promised if isinstance(said, Submitted)]
    machine.promised.clear()
    return told


def test_a_request_of_several_frames_can_be_asked_for_again(machine: Machine) -> None:
    """Asking again with the same id and the same body joins the job, of however many frames the body is."""
    body = (b"one", b"", b"three")
    _submit(machine, Peer(b"\0one"), Submit(id=NAME), body)
    (said,) = _submit(machine, Peer(b"\0two"), Submit(id=NAME, age_ms=1, ack=True), body)
    assert (said.jobs[0].code, said.jobs[0].joined) == ("", True)


def test_a_job_that_had_come_back_cannot_be_answered_after_the_stop(talk: Any) -> None:
    """A job that is ended by the stop gives nobody a right to answer it, in however many steps the stop is done."""
    it = talk()
    w = it.worker(credit=3)
    c = it.client()
    c.submit(b"a")
    w.hand_back(b"a")
    it.wait(HAND_BACK_NS)
    c.submit(b"b")
    w.hand_back(b"b")
    it.wait(HAND_BACK_NS)
    tokens = list(it.machine.by_token)
    assert len(tokens) > it.machine.open == 2
    while it.machine.stop(it.now, 2):
        pass
    it.machine.complete([(token, b"late") for token in tokens], it.now)
    assert it.machine.by_token == {}
    assert it.counters.jobs_completed == 0


def test_a_hand_over_that_was_never_started_cannot_be_claimed_as_the_attempt_before_it(talk: Any) -> None:
    """What was held when a session was lost goes back uncounted: that the attempt before it was lost, too, gives no
    right to it.
    """
    it = talk(tries=3)
    v, w = it.worker("v", credit=1), it.worker()
    it.client().submit(b"a")
    v.start(b"a")
    w.ask()
    v.lose()
    it.wait(it.machine.limits.session_grace_ns + 1_000_000)
    assert w.got == [b"a"]
    token = w.token(b"a")
    w.lose()
    it.wait(it.machine.limits.session_grace_ns + 1_000_000)
    assert it.job(b"a").token == token
    w.connect()
    assert w.hello(running=(b"a",)).lost == (token,)
    assert (it.state(b"a"), it.job(b"a").attempts, len(it.job(b"a").ledger)) == ("AVAILABLE", 1, 1)


def test_an_old_token_takes_no_job_from_who_holds_it_now(talk: Any) -> None:
    """After a restart a hand-over that has not started goes back when its own session says that it holds it, and not
    when another names a token that it had for the same job long ago.
    """
    it = talk(store=MemoryStore())
    v, w = it.worker("v", credit=1), it.worker()
    it.client().submit(b"a")
    w.ask()
    old = v.token(b"a")
    v.lose()
    it.wait(it.machine.limits.session_grace_ns + 1_000_000)
    assert w.got == [b"a"]
    it.begin()
    v.connect()
    assert v.hello(held=(old,)).lost == (old,)
    assert it.state(b"a") == "HELD"
    w.connect()
    assert w.hello(running=(b"a",)).lost == ()
    assert (it.state(b"a"), it.job(b"a").attempts) == ("RUNNING", 1)


def test_jobs_of_one_order_key_miss_their_deadlines_in_one_look(talk: Any) -> None:
    """The end of the first lets the next one go on, which comes too late itself: it ends once."""
    it = talk()
    c = it.client()
    for body in (b"a", b"b", b"c"):
        c.submit(body, order="k", start_ms=10)
    it.wait(10_000_000)
    assert [reason for _, reason, _ in c.told()] == ["start_deadline"] * 3
    assert it.counters.jobs_discarded == 3
    assert it.counters.attempts_expired == 0


def test_jobs_of_one_order_key_keep_their_order_though_it_was_not_safe_that_one_is_blocked() -> None:
    """A broker ends when the acceptance of the youngest is safe, and that it is blocked is not: it goes last all the
    same.
    """
    tokens = (number.to_bytes(16, "big") for number in itertools.count(1))
    machine, kept = Machine(tokens, keeps_records=True), MemoryStore()
    for turn, body in enumerate((b"one", b"two", b"three"), 1):
        said = Submit(id=body.ljust(16, b"."), order="k")
        _submit(machine, Peer(b"\0one"), said, body)
        kept.append(turn, machine.take_records(turn))
        machine.settled(turn)
    loaded = Machine(tokens, keeps_records=True)
    loaded.load(kept.load(), 0)
    (order,) = loaded.queue.orders
    assert order.first is not None
    assert [job.body for job in (order.first, *sorted(order.waiting, key=place_of))] == [b"one", b"two", b"three"]


def test_a_delayed_job_on_the_usual_terms_waits_for_its_moment_though_a_store_takes_its_time(talk: Any) -> None:
    """A delay is none of the terms, and one turn makes it and others safe."""
    store = LateStore()
    it = talk(store=store)
    c, w = it.client(), it.worker(credit=5)
    c.submit(b"a", turn=False)
    c.submit(b"b", delay_ms=50)
    store.settle(10)
    it.turn()
    assert (w.got, it.state(b"b")) == ([b"a"], "DELAYED")
    it.wait(51_000_000)
    assert w.got == [b"a", b"b"]


def test_what_is_safe_in_one_turn_waits_where_it_belongs_whatever_comes_between(talk: Any) -> None:
    """Plain jobs stand apart from those with priorities, also where one of these was alone in its queue before."""
    store = LateStore()
    it = talk(store=store)
    c = it.client()
    c.submit(b"urgent", priority=7, turn=False)
    c.submit(b"plain")
    for body in (b"", b"later"):
        if body:
            c.submit(body)
        store.settle(10)
        it.turn()
    c.says(CancelJob(id=b"plain".ljust(16, b"-")))
    census.check(it.machine)
    assert it.worker(credit=6).got == [b"urgent", b"later"]
