"""Workers that serve several queues: the most important first, and nobody looks at those that are empty."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relet.core.flow import Flow
from relet.core.job import COMPLETED, Job
from relet.core.queue import Queue
from relet.core.service import Service
from relet.core.settings import QueueSettings
from relet.core.terms import Terms

from .conftest import S


def _job(number: int, priority: int = 0, body: bytes = b"") -> Job:
    return Job(number, None, b"", body, 0, Queue(), Terms(priority=priority))


@given(st.lists(st.tuples(st.sampled_from(["comes", "take", "pause", "go on"]), st.integers(0, 4)), max_size=60))
def test_a_service_gives_the_most_important_job_that_may_go(steps: list[tuple[str, int]]) -> None:
    """Whatever comes and goes, as long as each queue is stirred when something may go again."""
    queues = tuple(Queue(str(number)) for number in range(5))
    service, waiting, numbers = Service(queues), [0] * 5, itertools.count(1)
    for step, index in steps:
        queue = queues[index]
        if step == "comes":
            queue.append(_job(next(numbers), body=b"%d" % index))
            waiting[index] += 1
            service.stirred |= 1 << index
        elif step == "take":
            job = service.take(0)
            first = next((index for index in range(5) if waiting[index] and not queues[index].paused), None)
            assert (None if job is None else job.body) == (None if first is None else b"%d" % first)
            if first is not None:
                waiting[first] -= 1
        else:
            queue.paused = step == "pause"
            service.stirred |= 1 << index
        there = {queue for index, queue in enumerate(queues) if waiting[index] and not queue.paused}
        assert there <= set(service.ready())


@pytest.mark.interpreted
def test_a_job_costs_no_look_at_empty_queues(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred queues, two workers that serve all of them: a job is looked for where it is, and once more in vain."""
    it = talk()
    queues = tuple(f"q{number}" for number in range(100))
    workers = [it.worker(name, queues=queues, credit=1) for name in "uv"]
    c = it.client()
    looks = 0
    take = Flow.take

    def counted(flow: Flow) -> Any:
        nonlocal looks
        looks += 1
        return take(flow)

    c.submit(b"first", queue="q0")  # until then each of them might have had something
    workers[0].complete(b"first")
    monkeypatch.setattr(Flow, "take", counted)
    for number in range(50):
        c.submit(b"%d" % number, queue=f"q{(number * 37) % 100}")
        worker = next(worker for worker in workers if worker.got and worker.got[-1] == b"%d" % number)
        worker.ask()
        worker.complete(b"%d" % number)
    assert 50 <= looks <= 150


def test_what_came_in_one_turn_is_given_out_by_importance(talk: Any) -> None:
    """Not in the order in which it came."""
    it = talk()
    w, c = it.worker(queues=("a", "b", "c"), credit=3), it.client()
    for queue in ("c", "a", "b"):
        c.submit(queue.encode(), queue=queue, turn=False)
    it.turn()
    assert w.got == [b"a", b"b", b"c"]


def test_what_waited_before_the_first_worker_came(talk: Any) -> None:
    """A service that begins looks at all of its queues."""
    it = talk()
    c = it.client()
    c.submit(b"b", queue="b")
    c.submit(b"a", queue="a")
    assert it.worker(queues=("a", "b", "c"), credit=2).got == [b"a", b"b"]


def test_what_was_paused_is_found_when_it_goes_on(talk: Any) -> None:
    """Though the worker had looked there in vain."""
    it = talk()
    c, w = it.client(), it.worker(queues=("a", "b"), credit=2)
    it.machine.set_queue("a", QueueSettings(paused="dispatch"))
    c.submit(b"a", queue="a")
    c.submit(b"b", queue="b")
    assert w.got == [b"b"]
    it.machine.set_queue("a", None)
    it.turn()
    assert w.got == [b"b", b"a"]


def test_workers_of_the_same_queues_share_what_they_serve(talk: Any) -> None:
    """In the same order; and nothing is left when the last one has gone."""
    it = talk()
    services = it.machine.roster.services
    one, two = it.worker("one", queues=("a", "b")), it.worker("two", queues=("a", "b"))
    it.worker("three", queues=("b", "a"))
    it.worker("four", queues=("a",))
    assert sorted(service.sessions for service in services.values()) == [1, 2]
    queue = it.machine.queues.named("a")
    assert len(queue.services) == 2
    for worker in (one, two):
        worker.lose()
    it.wait(60 * S)
    assert [service.sessions for service in services.values()] == [1]
    assert len(queue.services) == 1


@pytest.mark.parametrize("priority", [5, -5])
def test_a_job_that_was_alone_takes_its_place_among_others(priority: int) -> None:
    """Before a plain one, or behind it, whoever came first; also when the plain one came back."""
    for came_back in (False, True):
        queue = Queue()
        alone, plain = _job(1, priority), _job(2, 0)
        queue.append(alone)
        assert queue.levels is None, "nothing is made for one job"
        if came_back:
            queue.came_back(plain)
        else:
            queue.fresh.append(plain)
        first, second = queue.take(0), queue.take(0)
        assert [first, second] == ([alone, plain] if priority > 0 else [plain, alone])


def test_a_job_that_was_alone_and_ended_leaves_nothing() -> None:
    """The next one is alone again."""
    queue = Queue()
    for number in range(1, 5):
        job = _job(number, 3)
        queue.append(job)
        assert (len(queue), queue.levels) == (1, None)
        if number % 2:
            assert queue.take(0) is job
        else:
            job.state = COMPLETED
            queue.left(job)
        assert len(queue) == 0
    queue.append(_job(9, 3))
    queue.append(_job(10, 4))
    assert [job.number for job in (queue.take(0), queue.take(0)) if job] == [10, 9]


def test_a_queue_that_could_not_go_is_looked_at_again_when_a_worker_asks(talk: Any) -> None:
    """A rate holds it back while its worker's last credit is spent elsewhere: nobody else would think of it."""
    it = talk()
    c, w = it.client(), it.worker(queues=("a", "b"), credit=1)
    it.machine.set_queue("a", QueueSettings(rate=1.0, burst=1))
    c.submit(b"a1", queue="a")
    c.submit(b"a2", queue="a", turn=False)
    c.submit(b"b1", queue="b")
    w.ask()
    assert w.got == [b"a1", b"b1"]
    w.ask()
    it.wait(2 * S)
    assert w.got == [b"a1", b"b1", b"a2"]


@pytest.mark.interpreted
def test_a_worker_with_weights_looks_at_no_empty_queue(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are empty lose their turn without a look."""
    it = talk()
    queues = tuple(f"q{number}" for number in range(50))
    w, c = it.worker(queues=queues, hello=False), it.client()
    w.hello(weights=(2,) * 50)
    c.submit(b"first", queue="q0")
    w.ask()
    looks = 0
    take = Flow.take

    def counted(flow: Flow) -> Any:
        nonlocal looks
        looks += 1
        return take(flow)

    w.complete(b"first")
    w.ask()
    monkeypatch.setattr(Flow, "take", counted)
    for number in range(100):
        c.submit(b"%d" % number, queue=f"q{(number * 37) % 50}")
        w.ask()
        w.complete(b"%d" % number)
    assert 100 <= looks <= 2 * 100 + 50


def test_another_worker_is_not_given_a_retry_past_a_more_important_job(talk: Any) -> None:
    """Strict order holds for whoever stands in for the worker that has just failed a job."""
    it = talk()
    c, failing = it.client(), it.worker("failing")
    c.submit(b"x")
    failing.ask(2)
    failing.fail(b"x", retry_ms=100)
    c.submit(b"urgent", queue="urgent")
    other = it.worker("other", queues=("urgent", "default"))
    other.ask(turn=False)
    it.now += 1 * S
    it.turn()
    assert (failing.got, other.got) == ([b"x", b"x"], [b"urgent"])
