"""The bench, as its users have it: jobs, faults and time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from relet import (
    Backoff,
    ClientClosed,
    CurrentJob,
    Enqueued,
    Event,
    FailJob,
    HandBack,
    JobFailed,
    LimitError,
    Limits,
    NoAnswer,
    SettingsError,
    Terms,
    Worker,
    current_job,
)
from relet.testing import Bench

from .conftest import Make


def backwards(body: bytes) -> bytes:
    """A handler."""
    return body[::-1]


# --- The example of the documents


def test_worker_3_dies_at_2_1_s_and_its_answer_arrives_late(bench: Bench) -> None:
    """Its time is up at 2 s, it answers and dies; another has done the job when its answer comes, 3 s later."""
    calls: list[bytes] = []

    def handler(body: bytes) -> bytes:
        calls.append(body)
        return body.upper()

    client = bench.client()
    for _ in range(2):
        bench.worker(handler, takes=0.5)
    third = bench.worker(handler, takes=2.05)
    bench.at(1.0, third.delay, 3.0)
    bench.at(2.1, third.die)
    answers = [client.submit(body) for body in (b"a", b"b", b"c")]
    assert [answer.result() for answer in answers] == [b"A", b"B", b"C"]
    assert 2.5 < bench.now < 2.6
    bench.advance(10)
    assert calls == [b"a", b"b", b"c", b"c"]
    assert (bench.counters.jobs_completed, bench.counters.attempts_expired) == (3, 1)
    (refused,) = bench.events(Event.REPORT_REFUSED)
    assert refused.at == pytest.approx(5.05, abs=0.01)


# --- Time


def test_time_passes_only_when_the_test_says_so(bench: Bench) -> None:
    """By `advance` and while something is waited for; an hour takes no time."""
    began = time.monotonic()
    assert bench.now == 0.0
    bench.advance(1.5)
    assert bench.now == 1.5
    done: list[tuple[str, float]] = []
    bench.at(3.0, lambda: done.append(("at", bench.now)))
    bench.after(1.0, lambda word: done.append((word, bench.now)), "after")
    bench.at(0.5, lambda: done.append(("past", bench.now)))
    bench.advance(0.0)
    bench.until(lambda: len(done) == 3)
    assert done == [("past", 1.5), ("after", 2.5), ("at", 3.0)]
    with pytest.raises(TimeoutError, match="within 60 simulated seconds"):
        bench.until(lambda: False, patience=60)
    assert bench.now == 63.0
    bench.advance(3_600)
    assert bench.now == 3_663.0
    assert time.monotonic() - began < 60


def test_nobody_comes(bench: Bench) -> None:
    """A job without a worker: who waits for it with a timeout has it, who waits without hears of an hour."""
    client = bench.client()
    with pytest.raises(TimeoutError, match="no answer within 5 s"):
        client.call(b"x", timeout=5)
    assert bench.now == pytest.approx(5.0, abs=0.01)
    future = client.submit(b"x")
    with pytest.raises(TimeoutError):
        future.result(10)
    assert bench.now == pytest.approx(15.0, abs=0.01)
    with pytest.raises(TimeoutError, match="3600 simulated seconds"):
        future.result()


@pytest.mark.parametrize("dialect", ["native", "2010"])
def test_jobs_take_as_long_as_the_test_says(bench: Bench, dialect: str) -> None:
    """One after the other at one worker; two at a time at one with two places; as their bodies say."""
    client = bench.client(dialect=dialect)
    bench.worker(backwards, takes=1.0, dialect=dialect)
    assert client.call(b"ab") == b"ba"
    assert bench.now == pytest.approx(1.0, abs=0.01)
    assert list(client.map([b"1", b"2", b"3"])) == [b"1", b"2", b"3"]
    assert bench.now == pytest.approx(4.0, abs=0.02)


def test_places_and_lengths(make: Make) -> None:
    """Four jobs at two places, of lengths that their bodies tell."""
    bench = make()
    client = bench.client()
    bench.worker(backwards, takes=float, concurrency=2)
    futures = [client.submit(body) for body in (b"1", b"3", b"2", b"0.5")]
    ended = []
    for future in futures:
        future.add_done_callback(lambda _: ended.append(round(bench.now, 1)))
    bench.advance(10)
    assert ended == [1.0, 3.0, 3.0, 3.5]


def test_the_same_test_takes_the_same_course(make: Make) -> None:
    """Event by event, but for ids that are drawn."""

    def course() -> list[tuple[float, str, Event]]:
        bench = make(tries=3, timeout=2.0)
        client = bench.client()
        workers = [bench.worker(backwards, takes=0.3) for _ in range(3)]
        bench.at(1.0, workers[0].die)
        bench.at(1.5, workers[1].freeze, 5)
        for future in [client.submit(b"%d" % number) for number in range(30)]:
            future.result()
        return [(said.at, said.who, said.event) for said in bench.events()]

    assert course() == course()


# --- Clients


@pytest.mark.parametrize("dialect", ["native", "2010"])
def test_a_client_is_a_client(bench: Bench, dialect: str) -> None:
    """Calls, futures, maps, several frames; and it is closed."""
    client = bench.client(dialect=dialect, timeout=60)
    bench.worker(_Frames, dialect=dialect)
    assert client.call(b"a") == b"a"
    assert client.call_multipart([b"a", b"", b"b"]) == [b"b", b"", b"a"]
    assert client.submit(b"b").result() == b"b"
    assert client.submit_multipart([b"a", b"b"]).result(10) == [b"b", b"a"]
    assert list(client.map((b"%d" % number for number in range(50)), window=7)) == [b"%d" % n for n in range(50)]
    assert sorted(client.map([b"1", b"2"], ordered=False)) == [b"1", b"2"]
    assert client.connected
    assert client.counters.answered == 56
    client.close()
    client.close()
    with pytest.raises(ClientClosed):
        client.call(b"a")


class _Frames(Worker):
    def process_multipart(self, frames: list[bytes]) -> list[bytes]:
        return frames[::-1]


def test_a_native_client_asks_later(bench: Bench) -> None:
    """Enqueue, result, state, why, cancel, and who is refused."""
    client = bench.client()
    enqueued = client.enqueue(b"ab", terms=Terms(keep=60))
    assert isinstance(enqueued, Enqueued)
    assert client.state(enqueued.request_id).state == "available"
    assert client.why(job_id=enqueued.job_id).code == "no_worker"
    bench.worker(backwards)
    assert client.result(enqueued.request_id) == b"ba"
    several = client.enqueue_many([b"1", b"2", "three"])  # type: ignore[list-item]  # on purpose
    assert [type(it) for it in several] == [Enqueued, Enqueued, TypeError]
    later = client.submit(b"x", terms=Terms(delay=60))
    bench.advance(1)
    assert later.cancel()
    bench.advance(1)
    assert bench.counters.jobs_cancelled == 1
    waits = client.submit(b"y")
    client.close()
    assert isinstance(waits.exception(), ClientClosed)


def test_waiting_in_a_callback_is_refused(bench: Bench) -> None:
    """As in a real client, whose thread would wait for itself."""
    client = bench.client()
    bench.worker(backwards)
    refused: list[BaseException] = []

    def call(_: object) -> None:
        try:
            client.call(b"y")
        except RuntimeError as error:
            refused.append(error)
        client.submit(b"z").add_done_callback(lambda done: refused.append(done.result()))

    client.submit(b"x").add_done_callback(call)
    bench.advance(1)
    assert len(refused) == 2
    assert refused[1] == b"z"


def test_terms_hold_on_simulated_time(bench: Bench) -> None:
    """Delays, deadlines, backoff."""
    client = bench.client()
    attempts: list[float] = []

    def fails(_: bytes) -> bytes:
        attempts.append(round(bench.now, 1))
        raise FailJob("Oops", "again", retry_after=None)

    bench.worker(fails)
    terms = Terms(delay=60, tries=3, backoff=Backoff(base=10, curve="exponential"))
    with pytest.raises(JobFailed, match=r"tries_spent.*Oops") as failed:
        client.call(b"x", terms=terms)
    assert attempts == [60.0, 70.0, 90.0]
    assert [entry.kind for entry in failed.value.ledger] == ["Oops"] * 3
    bench.advance(10)
    with pytest.raises(JobFailed, match="deadline"):
        client.call(b"x", terms=Terms(queue="nobody", deadline=30))
    assert bench.now == pytest.approx(130, abs=0.1)


# --- Handlers


def test_handlers_have_their_job(bench: Bench) -> None:
    """Its attempt, headers, time; progress and pieces reach who follows; hooks stand around."""
    client = bench.client()
    seen: list[Any] = []

    def hook(job: CurrentJob, call: Any) -> Any:
        seen.append(job.attempt)
        return call()

    def handler(body: bytes) -> bytes:
        job = current_job()
        seen.append((job.headers, job.tries, round((job.deadline or 0) - time.monotonic())))
        job.progress(1, total=2)
        job.partial(b"piece")
        job.extend(30)
        job.answer_headers = {"by": "me"}
        return body

    bench.worker(handler, takes=20.0, hooks=[hook])
    told: list[Any] = []
    future = client.submit(b"x", headers={"a": "b"}, on_partial=told.append, on_progress=told.append)
    assert future.result() == b"x"
    assert seen == [1, ({"a": "b"}, 3, 2)]
    assert {type(it).__name__ for it in told} == {"Progress", "Partial"}
    assert dict(future.headers) == {"by": "me"}
    assert bench.now == pytest.approx(20.0, abs=0.01), "it was extended beyond its two seconds"


def test_what_handlers_raise(bench: Bench) -> None:
    """A failure, for good or not; hand-backs and silence."""
    client = bench.client()
    calls: list[bytes] = []

    def handler(body: bytes) -> bytes:
        calls.append(body)
        attempt = calls.count(body)
        if body == b"for good":
            raise FailJob("Bad", final=True)
        if attempt == 1:
            raise {b"raises": ValueError("no"), b"back": HandBack(), b"silent": NoAnswer()}[body]
        return b"%d" % attempt

    bench.worker(handler)
    with pytest.raises(JobFailed, match="Bad"):
        client.call(b"for good")
    assert [client.call(body) for body in (b"raises", b"back", b"silent")] == [b"2"] * 3
    assert bench.counters.attempts_expired == 1


def test_coroutines_and_handlers_by_queue(bench: Bench) -> None:
    """Each to its end; functions beside them as well."""

    async def waits(body: bytes) -> bytes:
        await asyncio.sleep(0)
        return b"awaited " + body

    client = bench.client()
    bench.worker({"a": waits, "b": backwards}, takes=0.1)
    assert client.call(b"x", terms=Terms(queue="a")) == b"awaited x"
    assert client.call(b"xy", terms=Terms(queue="b")) == b"yx"


# --- Faults


@pytest.mark.parametrize("dialect", ["native", "2010"])
def test_a_worker_dies_with_its_job(bench: Bench, dialect: str) -> None:
    """Its handler was called, and its answer never comes: another does the job as soon as the broker knows."""
    calls: list[float] = []

    def handler(body: bytes) -> bytes:
        calls.append(round(bench.now, 1))
        return body

    client = bench.client(dialect=dialect)
    worker = bench.worker(handler, takes=1.0, dialect=dialect)
    future = client.submit(b"x")
    bench.advance(0.5)
    worker.die()
    worker.die()
    assert not worker.alive
    bench.after(0.3, worker.restart)
    assert future.result() == b"x"
    assert len(calls) == 2
    assert calls[0] == 0.0
    assert calls[1] in {0.8, 0.9}
    assert bench.counters.attempts_lost == 1


@pytest.mark.parametrize("dialect", ["native", "2010"])
def test_a_job_that_kills_its_workers_is_given_up(make: Make, dialect: str) -> None:
    """After as many tries as there are, with the ledger natively."""
    bench = make(tries=2)
    client = bench.client(dialect=dialect)

    def kills(_: bytes) -> bytes:
        victim = next(worker for worker in workers if worker.counters.jobs and worker.alive)
        victim.die()
        return b""

    workers = [bench.worker(kills, takes=1.0, dialect=dialect) for _ in range(3)]
    with pytest.raises(JobFailed) as failed:
        client.call(b"x")
    assert sum(not worker.alive for worker in workers) == 2
    assert [entry.cause for entry in failed.value.ledger] == ([] if dialect == "2010" else ["worker_lost"] * 2)


def test_a_frozen_worker_is_found_and_its_answer_is_late(bench: Bench) -> None:
    """The job goes to another when its time is up; what the frozen one says at last is refused."""
    client = bench.client()
    frozen, other = (bench.worker(backwards, takes=1.0) for _ in range(2))
    other.freeze(0.5)
    future = client.submit(b"ab")
    bench.advance(0.6)
    assert frozen.counters.jobs == 1
    frozen.freeze(30)
    assert future.result() == b"ba"
    assert 2.5 < bench.now < 6
    bench.advance(60)
    assert client.call(b"cd") == b"dc"
    assert bench.counters.jobs_completed == 2


@pytest.mark.parametrize("dialect", ["native", "2010"])
def test_a_late_answer_counts_where_nobody_was_faster(bench: Bench, dialect: str) -> None:
    """Said in time, on its way for long."""
    client = bench.client(dialect=dialect)
    worker = bench.worker(backwards, takes=1.0, dialect=dialect)
    bench.advance(0.1)
    future = client.submit(b"ab")
    bench.advance(0.5)
    worker.delay(5.0)
    bench.advance(0.6)
    worker.die()
    assert future.result() == b"ba"
    assert 6.0 < bench.now < 6.5
    assert bench.counters.attempts_expired == 1


def test_connections_are_cut_and_come_back(bench: Bench) -> None:
    """Of workers and clients; nothing is lost."""
    client = bench.client()
    workers = [bench.worker(backwards, takes=0.3) for _ in range(2)]
    futures = [client.submit(b"%d" % number) for number in range(20)]
    for number in range(5):
        bench.at(0.2 + number, workers[number % 2].cut)
        bench.at(0.5 + number, client.cut)
    assert [future.result() for future in futures] == [(b"%d" % number)[::-1] for number in range(20)]
    bench.advance(5)
    assert len(bench.events(Event.BROKER_LOST)) == 10


@pytest.mark.parametrize("dialect", ["native", "2010"])
def test_answers_are_dropped_and_said_twice(bench: Bench, dialect: str) -> None:
    """A job whose answer is dropped expires, and is done again; one that is answered twice ends once."""
    client = bench.client(dialect=dialect)
    worker = bench.worker(backwards, takes=0.1, dialect=dialect)
    worker.drop()
    assert client.call(b"ab") == b"ba"
    assert bench.counters.attempts_expired == 1
    assert bench.now > 2.0
    worker.duplicate(3)
    assert [client.call(b"ab") for _ in range(4)] == [b"ba"] * 4
    assert bench.counters.jobs_completed == 5


@pytest.mark.parametrize("dialect", ["native", "2010"])
def test_a_worker_stops_when_it_has_done(bench: Bench, dialect: str) -> None:
    """What it has in hand is answered, the rest goes to others."""
    client = bench.client(dialect=dialect)
    first = bench.worker(backwards, takes=1.0, ahead=5, dialect=dialect)
    futures = [client.submit(b"ab") for _ in range(3)]
    bench.advance(0.5)
    first.stop()
    bench.advance(1.0)
    assert not first.alive
    assert [future.done() for future in futures] == [True, False, False]
    bench.worker(backwards, takes=1.0, dialect=dialect)
    assert [future.result() for future in futures] == [b"ba"] * 3
    first.restart()
    assert client.call(b"cd") == b"dc"


def test_a_client_that_died_hears_nothing(bench: Bench) -> None:
    """Its job is done all the same."""
    client = bench.client()
    bench.worker(backwards, takes=1.0)
    future = client.submit(b"ab")
    bench.advance(0.5)
    client.die()
    bench.advance(60)
    assert not future.done()
    assert bench.counters.jobs_completed == 1


def test_a_slow_client_is_heard_later(bench: Bench) -> None:
    """Delayed by a second, frozen for five."""
    client = bench.client()
    bench.worker(backwards)
    bench.advance(0.1)
    client.delay(1.0)
    assert client.call(b"ab") == b"ba"
    assert bench.now == pytest.approx(1.1, abs=0.01)
    client.delay(0)
    client.freeze(5)
    assert client.call(b"ab") == b"ba"
    assert bench.now == pytest.approx(6.1, abs=0.1)


@pytest.mark.parametrize("store", [False, True])
def test_the_broker_crashes(make: Make, store: bool) -> None:
    """With a store the job goes on; without one the client asks again. Either way it has its answer."""
    bench = make(tries=3, timeout=2.0, store=store)
    client = bench.client()
    future = client.submit(b"ab")
    enqueued = client.enqueue(b"cd")
    bench.advance(1)
    assert bench.jobs_open == 2
    bench.crash(down=3.0)
    bench.worker(backwards)
    assert future.result() == b"ba"
    assert bench.now > 4.0
    bench.advance(1)
    assert client.state(enqueued.request_id).state == ("completed" if store else "unknown")


# --- Looking in


def test_what_happened_can_be_read(bench: Bench) -> None:
    """Every step of each job, with its time and who said it."""
    client = bench.client()
    bench.worker(backwards, takes=0.5)
    client.call(b"x")
    (finished,) = bench.events(Event.JOB_FINISHED)
    assert (finished.who, finished.at) == ("broker", pytest.approx(0.5, abs=0.01))
    assert finished.fields["outcome"] == "completed"
    assert str(finished).startswith("0.50")
    assert " broker: job_finished job=1 " in str(finished)
    assert [said.who for said in bench.events("broker_connected")] == ["worker 1", "client 1"]
    assert bench.counters.jobs_completed == 1
    assert bench.jobs_open == 0


def test_settings_and_limits_are_those_of_a_broker(make: Make) -> None:
    """Queues, and what they do not allow."""
    bench = make(queues={"mail": {"run": "1s", "tries": 1}}, only_these_queues=True, limits=Limits(jobs_max=10))
    client = bench.client()
    worker = bench.worker(backwards, takes=5.0, queues=["mail"])
    with pytest.raises(JobFailed, match="tries_spent"):
        client.call(b"x", terms=Terms(queue="mail"))
    assert worker.counters.jobs == 1
    with pytest.raises(SettingsError):
        make(queues={"mail": {"runn": "1s"}})
    with pytest.raises(LimitError):
        make(limits=Limits(jobs_max=0))


def test_what_cannot_be_meant() -> None:
    """Numbers and handlers."""
    with pytest.raises(ValueError, match="tries"):
        Bench(tries=0)
    with pytest.raises(TypeError, match="timeout is a number of seconds"):
        Bench(timeout="2s")  # type: ignore[arg-type]  # on purpose
    with Bench() as bench:
        with pytest.raises(ValueError, match="seconds from 0 on"):
            bench.advance(-1)
        with pytest.raises(TypeError, match="handler"):
            bench.worker(5)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(ValueError, match="did you mean 'native'"):
            bench.client(dialect="nativ")
