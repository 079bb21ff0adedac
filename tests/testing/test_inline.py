"""The inline client: handlers are called where jobs are submitted."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from relet import Client, ClientClosed, FailJob, HandBack, JobFailed, JobUnknown, NoAnswer, Terms, Worker, current_job
from relet.testing import InlineClient


def handler(body: bytes) -> bytes:
    """It says more than its answer, where it is asked to, or fails."""
    job = current_job()
    if body == b"more":
        job.progress(1, total=2, note="half")
        job.partial([b"a", b"b"])
        job.answer_headers = {"by": threading.current_thread().name}
    if body == b"fail":
        raise FailJob("Bad", "as it was asked to")
    if body == b"back":
        raise HandBack
    if body == b"silent":
        raise NoAnswer
    return body[::-1]


def test_jobs_are_done_in_this_thread_at_once() -> None:
    """Calls, futures, maps; it is a client, for who is given one."""
    with InlineClient(handler) as client:
        assert isinstance(client, Client)
        assert client.connected
        assert client.call(b"ab") == b"ba"
        future = client.submit(b"cd")
        assert future.done()
        assert future.result() == b"dc"
        assert list(client.map([b"ab", b"cd"], window=1)) == [b"ba", b"dc"]
        told: list[Any] = []
        more = client.submit(b"more", on_partial=told.append, on_progress=told.append)
        assert (told[0].done, told[0].total, told[0].note) == (1, 2, "half")
        assert told[1].frames == (b"a", b"b")
        assert dict(more.headers) == {"by": threading.current_thread().name}
        assert (client.counters.submitted, client.counters.answered) == (5, 5)
    assert not client.connected
    with pytest.raises(ClientClosed):
        client.call(b"ab")


def test_handlers_fail_for_good() -> None:
    """After one attempt, with the reason."""
    client = InlineClient(handler)
    with pytest.raises(JobFailed, match="Bad: as it was asked to") as failed:
        client.call(b"fail")
    assert (failed.value.attempts, failed.value.kind, len(failed.value.ledger)) == (1, "Bad", 1)
    with pytest.raises(JobFailed, match="HandBack"):
        client.call(b"back")
    with pytest.raises(TimeoutError, match="unanswered"):
        client.call(b"silent")
    outcomes = list(client.map([b"ab", b"fail"], return_exceptions=True))
    assert outcomes[0] == b"ba"
    assert isinstance(outcomes[1], JobFailed)
    assert client.counters.failed == 3


def test_what_was_enqueued_is_asked_for() -> None:
    """By its request id or its job id; of what there is no broker for, it says so."""
    client = InlineClient(handler)
    one, two = client.enqueue(b"ab"), client.enqueue(b"fail", request_id=b"0123456789abcdef")
    assert client.result(one.request_id) == client.result(job_id=one.job_id) == b"ba"
    assert two.request_id == b"0123456789abcdef"
    with pytest.raises(JobFailed, match="Bad"):
        client.result(two.request_id)
    with pytest.raises(JobUnknown):
        client.result(b"f" * 16)
    assert [type(it) for it in client.enqueue_many([b"1", b"2"])] == [type(one)] * 2
    with pytest.raises(ValueError, match="no broker here to be asked for state"):
        client.state(one.request_id)


def test_queues_hooks_coroutines_and_classes() -> None:
    """As a worker would call them."""

    async def waits(body: bytes) -> bytes:
        return b"awaited " + body

    async def hook(job: Any, call: Any) -> Any:
        return b"%b in %b" % (await call(), job.queue.encode())

    client = InlineClient({"a": waits, "b": handler}, hooks=[hook], terms=Terms(queue="a"))
    assert client.call(b"x") == b"awaited x in a"
    assert client.call(b"xy", terms=Terms(queue="b")) == b"yx in b"
    assert InlineClient(_Frames).call_multipart([b"a", b"b"]) == [b"b", b"a"]
    with pytest.raises(TypeError, match="handler"):
        InlineClient(5)  # type: ignore[arg-type]  # on purpose


class _Frames(Worker):
    def process_multipart(self, frames: list[bytes]) -> list[bytes]:
        return frames[::-1]
