"""What the broker of 2010 got wrong, each by name: this one must not."""

from __future__ import annotations

import random
import re
import time
from typing import Any

import pytest
import zmq

from relet import Broker, Limits
from relet.events import Event

from .conftest import Site


def test_without_a_timeout_a_job_in_flight_crashes_nothing(site: Site) -> None:
    """2010: without `-T` it compared None with a number as soon as a job ran. Here a job may run for ever."""
    site.open(tries=3, timeout=None)
    client, worker, answers = site.client(), site.worker(), site.answers()
    worker.send(b"ask")
    client.send(b"job")
    token, _ = site.hear(worker)
    assert site.silent(client, worker)
    answers.send_multipart([token, b"done"])
    assert site.hear(client) == [b"done"]


def test_a_message_without_an_empty_frame_stops_nothing(site: Site) -> None:
    """2010: a client's message without an empty frame raised ValueError. Here it is refused, counted and told."""
    site.open()
    stranger, client = site.client(zmq.DEALER), site.client()
    for frames in ([b"x"], [b"x", b"y"], [b"x" * 300], [b"\0"] * 50):
        stranger.send_multipart(frames)
    site.until(lambda: site.broker.counters.requests_refused == 4)
    assert {line["reason"] for line in site.lines.of(Event.REQUEST_REFUSED)} == {"undelimited"}
    client.send(b"job")
    site.answer_all(1)
    assert site.hear(client) == [b"job"]


def test_an_ask_of_two_frames_stops_nothing(site: Site) -> None:
    """2010: an ask of two frames left REP in the wrong state. Here any message behind the delimiter is one ask."""
    site.open()
    worker, answers, client = site.worker(), site.answers(), site.client()
    worker.send_multipart([b"two", b"frames"])
    client.send(b"job")
    token, body = site.hear(worker)
    answers.send_multipart([token, body])
    assert site.hear(client) == [b"job"]
    undelimited = site.worker(zmq.DEALER)
    undelimited.send_multipart([b"no", b"delimiter"])
    site.until(lambda: site.broker.counters.asks_refused == 1)
    assert site.lines.of(Event.ASK_REFUSED) == [{"reason": "undelimited", "count": 1}]


@pytest.mark.parametrize("kind", [zmq.REQ, zmq.DEALER])
def test_the_ask_of_a_dead_worker_costs_no_attempt_and_no_time(site: Site, kind: int) -> None:
    """2010: the job was handed to the dead worker and came back after a whole timeout, one try poorer."""
    site.open(tries=1, timeout=60)
    dead = [site.worker(kind) for _ in range(20)]
    for worker in dead:
        worker.send_multipart([b"ask"] if kind == zmq.REQ else [b"", b"ask"])
    site.until(lambda: site.broker.counters.workers_arrived == 20)
    for worker in dead:
        worker.close(linger=0)
    # A job that is sent before the system knows of the death may have been started, as far as anybody can tell.
    site.until(lambda: site.broker.counters.workers_lost == 20)
    client, alive, answers = site.client(), site.worker(), site.answers()
    client.send(b"job")
    alive.send(b"ask")
    began = time.monotonic()
    token, body = site.hear(alive)
    assert time.monotonic() - began < 2
    answers.send_multipart([token, body])
    assert site.hear(client) == [b"job"]
    counters = site.broker.counters
    assert (counters.attempts_lost, counters.attempts_expired, counters.jobs_discarded) == (0, 0, 0)


def test_an_answer_that_comes_while_the_job_waits_again_counts(site: Site) -> None:
    """2010: the answer to a job that waited for its next attempt was thrown away, and the job run again."""
    site.open(tries=2, timeout=0.05)
    client, slow, other, answers = site.client(), site.worker(), site.worker(), site.answers()
    slow.send(b"ask")
    client.send(b"job")
    token, _ = site.hear(slow)
    site.until(lambda: site.broker.counters.attempts_expired == 1)
    answers.send_multipart([token, b"late"])
    assert site.hear(client) == [b"late"]
    other.send(b"ask")
    assert site.silent(other)
    assert (site.broker.counters.answers_late, site.broker.counters.dispatches) == (1, 1)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": -1}, {"timeout": float("nan")}, {"tries": 0}])
def test_a_timeout_of_nothing_is_refused(site: Site, options: dict[str, float]) -> None:
    """2010: `-T 0` expired every job at once. Here a number that makes no sense is an error at construction."""
    with pytest.raises(ValueError, match=r"tries is|timeout is"):
        site.open(**options)


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((4161, 4162, 4163), {}, "clients is an endpoint as text, such as 'tcp://127.0.0.1:4161', not 4161"),
        ((":0", b":0", ":0"), {}, "workers is an endpoint as text"),
        ((":0", ":0", None), {}, "answers is an endpoint as text"),
        ((":0",) * 3, {"timeout": "2s"}, "timeout is a number of seconds, or None for no timeout, not '2s'"),
        ((":0",) * 3, {"timeout": True}, "timeout is a number"),
        ((":0",) * 3, {"tries": "3"}, "tries is a whole number of attempts, or None for no limit, not '3'"),
        ((":0",) * 3, {"tries": 2.5}, "tries is a whole number"),
        ((":0",) * 3, {"drain": None}, "drain is a number of seconds, not None"),
        ((":0",) * 3, {"limits": {"jobs_max": 5}}, "limits is a relet.Limits, or None"),
    ],
)
def test_what_is_no_argument_of_a_broker_is_named(arguments: Any, options: dict[str, Any], says: str) -> None:
    """As `Client` and `Worker` do, and before a socket is made."""
    with pytest.raises(TypeError, match=re.escape(says)):
        Broker(*arguments, **options)


def test_the_wall_clock_ends_no_attempt(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """2010: a step of the wall clock expired everything or nothing. Here time is monotonic."""
    site.open(tries=1, timeout=30)
    client, worker, answers = site.client(), site.worker(), site.answers()
    worker.send(b"ask")
    client.send(b"job")
    token, _ = site.hear(worker)
    now = time.time()
    for step in (10**6, -(10**6)):
        monkeypatch.setattr(time, "time", lambda step=step: now + step)
        monkeypatch.setattr(time, "time_ns", lambda step=step: int((now + step) * 1e9))
        assert site.silent(client)
    answers.send_multipart([token, b"done"])
    assert site.hear(client) == [b"done"]


def answer_cost(site: Site, jobs: int, answered: int) -> float:
    """CPU seconds that the broker spends on each of `answered` answers, in random order, while `jobs` run."""
    broker = site.open(tries=1, timeout=600, limits=Limits(asks_per_worker_max=jobs))
    client, worker, answers = site.client(zmq.DEALER), site.worker(zmq.DEALER), site.answers()
    tokens = []
    for begin in range(0, jobs, 500):
        for _ in range(min(500, jobs - begin)):
            client.send_multipart([b"", b"job"])
            worker.send_multipart([b"", b"ask"])
        tokens += [site.hear(worker)[1] for _ in range(min(500, jobs - begin))]
    random.Random(1).shuffle(tokens)
    spent = 0.0
    for token in tokens[:answered]:
        answers.send_multipart([token, b"done"])
    done = 0
    while done < answered:
        began = time.thread_time()
        broker.turn(0.01)
        if broker.counters.jobs_completed != done:
            spent += time.thread_time() - began
            done = broker.counters.jobs_completed
    return spent / answered


def test_an_answer_costs_the_same_however_many_jobs_run(site: Site) -> None:
    """2010: an answer was looked for among all jobs in flight, 666 us at 100,000. Here it is found at once."""
    few = min(answer_cost(site, 500, 250) for _ in range(3))
    many = answer_cost(site, 20_000, 2_000)
    assert many < max(4 * few, 30e-6), f"{few * 1e6:.1f} us among 500, {many * 1e6:.1f} us among 20,000"


def test_no_high_water_mark_drops_a_hand_over(site: Site) -> None:
    """2010: hand-overs above the high-water mark vanished. Here what was asked for arrives, also thousands at once."""
    site.open(tries=1, limits=Limits(asks_per_worker_max=5_000))
    worker, client, answers = site.worker(zmq.DEALER, rcvhwm=10), site.client(zmq.DEALER), site.answers()
    for i in range(4_000):
        worker.send_multipart([b"", b""])
        client.send_multipart([b"", b"%d" % i])
        if i % 500 == 499:
            site.until(lambda i=i: site.broker.counters.dispatches == i + 1)  # type: ignore[misc]
    for _ in range(4_000):
        _, token, body = site.hear(worker)
        answers.send_multipart([token, body])
    answered = [int(site.hear(client)[1]) for _ in range(4_000)]
    assert sorted(answered) == list(range(4_000))
    assert site.broker.counters.handovers_undelivered == 0
    assert site.broker.counters.reply_dropped == 0
