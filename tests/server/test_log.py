"""What a broker says: nothing while all is well, each trouble at a bounded rate with a count of what was held back."""

from __future__ import annotations

import logging
import time

import zmq

from relet.broker import STALL_NS, LeaseClock
from relet.events import Event

from .conftest import LIMIT_S, Site


def test_a_busy_healthy_broker_says_nothing(site: Site) -> None:
    """At info and above: that the worker came, and not a word about two thousand jobs."""
    site.open(tries=3, timeout=60)
    client = site.client(zmq.DEALER)
    for i in range(2_000):
        client.send_multipart([b"", b"%d" % i])
    site.answer_all(2_000)
    for _ in range(2_000):
        site.hear(client)
    said = set(site.lines.from_info()) - {Event.BROKER_STALLED.value}  # a busy machine is not the broker's doing
    assert said <= {Event.WORKER_ARRIVED.value, Event.WORKER_LOST.value}
    assert len(site.lines.from_info()) < 10


def test_a_flood_is_counted_not_said(site: Site) -> None:
    """A thousand bad messages in a moment make a few lines, and the rest is said as a number soon after, unasked."""
    site.open()
    stranger = site.client(zmq.DEALER)
    began = time.monotonic()
    for number in range(1_000):  # each in a turn of its own, or one line would count them all
        stranger.send_multipart([b"no", b"delimiter"])
        while site.broker.counters.requests_refused <= number:
            site.broker.turn(0.1)
            assert time.monotonic() < began + LIMIT_S
    site.until(lambda: site.broker._publisher.due() is None)
    lines = site.lines.of(Event.REQUEST_REFUSED)
    assert len(lines) <= 6 * (time.monotonic() - began + 1)
    assert any("held_back" in line for line in lines)


def test_an_idle_broker_sleeps(site: Site) -> None:
    """Promise of the benchmark: with nothing to do, nothing wakes it, also after a flood has been said."""
    site.open(timeout=60)
    stranger, client = site.client(zmq.DEALER), site.client()
    client.send(b"waits")
    for _ in range(50):
        stranger.send_multipart([b"no", b"delimiter"])
    site.until(lambda: site.broker.counters.requests_refused == 50)
    site.until(lambda: site.broker._publisher.due() is None)
    site.silent()
    assert site.broker._wait_ms(None) == -1


def test_each_step_of_a_job_is_told_at_debug_where_asked_for(site: Site) -> None:
    """With `trace` the life of a job can be read, and its last line sums it up."""
    site.open(trace=True)
    client = site.client()
    client.send(b"four")
    site.answer_all(1)
    site.hear(client)
    steps = [event for level, event, _ in site.lines.lines if level == logging.DEBUG]
    assert steps == ["job_accepted", "job_dispatched", "job_finished"]
    (finished,) = site.lines.of(Event.JOB_FINISHED)
    assert (finished["outcome"], finished["attempts"], finished["bytes"]) == ("completed", 1, 4)


def test_counters_tell_what_happened(site: Site) -> None:
    """Each answer, refusal and attempt is counted under its name."""
    site.open(tries=2, timeout=0.03)
    client, worker, answers = site.client(), site.worker(), site.answers()
    answers.send_multipart([b"no such job", b"x"])
    answers.send(b"alone")
    answers.send_multipart([b"x" * 16, *[b"many"] * 2_000])
    site.until(lambda: site.broker.counters.answers_refused == 3)
    client.send(b"job")
    for _ in range(2):
        worker.send(b"ask")
        token, _ = site.hear(worker)
    assert site.hear(client) == [b""]
    answers.send_multipart([token, b"after the end"])
    site.until(lambda: site.broker.counters.answers_refused == 4)
    counters = site.broker.counters
    assert (counters.attempts_expired, counters.jobs_discarded, counters.dispatches) == (2, 1, 2)
    (discarded,) = site.lines.of(Event.JOB_DISCARDED)
    assert (discarded["reason"], discarded["causes"]) == ("tries_spent", ["expired", "expired"])


def test_lease_time_goes_on_however_busy_the_broker_is() -> None:
    """Turns that are all too long take something out of lease time, not everything: leases still end."""
    clock = LeaseClock()
    began = clock.now()
    turn = STALL_NS + 10_000_000
    for _ in range(100):  # each turn really lasted so long
        clock.deaf(turn)
    assert clock.deaf_ns <= 100 * (turn - STALL_NS)
    assert clock.now() >= began - 100 * (turn - STALL_NS)


def test_short_delays_are_no_stall() -> None:
    """Ordinary scheduling takes nothing out of lease time."""
    clock = LeaseClock()
    assert not clock.deaf(STALL_NS)
    assert clock.deaf_ns == 0
