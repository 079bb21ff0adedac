"""Both clients and what only the native dialect can say, against a broker that is told what to do."""

from __future__ import annotations

import concurrent.futures
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

import relet
from relet.client import (
    Client,
    Enqueued,
    JobExpired,
    JobFailed,
    JobRefused,
    JobStatus,
    JobUnknown,
    Partial,
    Progress,
    Terms,
    UnexpectedAnswer,
    peer_native,
)
from relet.messages import (
    SIGNATURE,
    Admitted,
    ClientHello,
    Entry,
    Error,
    Heartbeat,
    Inquire,
    JobState,
    Outcome,
    Submit,
    Submitted,
    TellPartial,
    TellProgress,
)

from .conftest import FakeBroker, Library, Lines, NativeBroker, until

WAIT_SECONDS = 5.0
NAME = b"a request's own id"
JOB = b"0123456789abcdef"


def taken(message: Submit) -> Submitted:
    """The acknowledgement of a message of one or many."""
    names = [item.id for item in message.jobs] or [message.id]
    return Submitted(jobs=tuple(Admitted(id=name, job=b"j" * 16, position=i) for i, name in enumerate(names)))


@pytest.fixture
def pool() -> Any:
    """Threads for callers that wait."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        yield pool


# --- The session.


def test_nothing_is_sent_before_the_welcome(native: NativeBroker, lines: Lines) -> None:
    """Hello with the program's name; the client is connected when it is welcome, and says so with the epoch."""
    with native.client() as client:
        future = client.submit(b"job")
        peer, hello, _ = native.hear_raw()
        assert isinstance(hello, ClientHello)
        assert hello.agent == f"relet {relet.__version__}"
        assert native.is_silent(20)
        assert not client.connected
        native.welcome(peer)
        native.answer(native.hear(), b"done")
        assert future.result(WAIT_SECONDS) == b"done"
        assert client.connected
        assert lines.wait_for("broker_connected")["epoch"] == 1


def test_a_broker_of_2010_is_told_with_what_to_do(
    broker_2010: FakeBroker, library: Library, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It drops the hello; the warning names the other dialect."""
    monkeypatch.setattr(peer_native, "GREETING_NS", 20_000_000)
    with library(broker_2010.endpoint, dialect="native") as client:
        future = client.submit(b"job")
        assert 'dialect="2010"' in lines.wait_for("broker_unreachable")["text"]
        assert broker_2010.hear()[1] == SIGNATURE
        assert broker_2010.hear()[1] == SIGNATURE  # it is said again, in case the broker comes to know it
        assert not future.done()
        assert not client.connected
    assert [line["event"] for line in lines.rest()] == []


def test_a_new_broker_is_asked_again_and_its_doubts_are_told(native: NativeBroker, lines: Lines) -> None:
    """Same id, at least a millisecond old; an answer that may be the second one is marked and logged."""
    with native.client() as client:
        future = client.submit(b"job")
        _, first, _ = native.hear_said()
        assert first.age_ms == 0
        native.close()
        native.open()
        peer, again, body = native.hear_said()
        assert (again.id, body) == (first.id, [b"job"])
        assert again.age_ms >= 1
        native.outcome(peer, again.id, b"done", again=True)
        assert future.result(WAIT_SECONDS) == b"done"
        assert future.again
        assert client.counters.answered_again == 1
        lines.wait_for("broker_connected")
        assert lines.wait_for("broker_connected")["restarted"]
        lines.wait_for("answered_again")


def test_a_silent_broker_is_left_and_found_again(native: NativeBroker, lines: Lines) -> None:
    """It neither answers nor closes: after the liveness time the client connects anew and asks again."""
    native.heartbeat_ms, native.liveness_ms = 20, 60
    with native.client() as client:
        future = client.submit(b"job")
        first, request, _ = native.hear_said()
        assert isinstance(native.hear_raw()[1], Heartbeat)
        assert "silent" in lines.wait_for("broker_lost")["why"]
        while (heard := native.hear_raw())[0] == first:
            assert isinstance(heard[1], Heartbeat)
        native.welcome(heard[0])
        peer, again, _ = native.hear_said()
        assert (peer != first, again.id) == (True, request.id)
        native.outcome(peer, again.id, b"done")
        assert future.result(WAIT_SECONDS) == b"done"
        assert client.counters.losses == 1


def test_a_broker_that_has_forgotten_the_session_is_told_everything_again(native: NativeBroker) -> None:
    """On the same connection."""
    with native.client() as client:
        future = client.submit(b"job")
        peer, request, _ = native.hear_said()
        native.tell(peer, Error(code="no_session", text="say hello"))
        again_from, again, _ = native.hear_said()
        assert (again_from, again.id) == (peer, request.id)
        native.outcome(peer, again.id, b"done")
        assert future.result(WAIT_SECONDS) == b"done"
        assert client.counters.losses == 0


def test_rude_brokers_disturb_nobody(native: NativeBroker, lines: Lines) -> None:
    """Garbage, strangers' outcomes, repetitions, and what comes after the end."""
    with native.client() as client:
        future = client.submit(b"job", on_partial=print)
        peer, request, _ = native.hear_said()
        for frames in ([], [b"x"], [SIGNATURE], [SIGNATURE, b"\xc1"], [SIGNATURE, msgspec.msgpack.encode([1])]):
            native.say(peer, *frames)
        native.tell(peer, Error(code="bad_header", text="no map"))
        native.outcome(peer, b"never asked for it", b"x")
        native.outcome(peer, request.id, b"done")
        native.tell(peer, Outcome(id=request.id, n=2), b"again")
        native.tell(peer, TellPartial(id=request.id, attempt=1, seq=1), b"late")
        native.tell(peer, taken(request))
        assert future.result(WAIT_SECONDS) == b"done"
        after = client.submit(b"after")
        native.answer(native.hear())
        assert after.result(WAIT_SECONDS) == b"after"
        counters = client.counters
        assert (counters.frames_refused, counters.answers_unknown, counters.errors) == (4, 2, 1)
    said = {line["event"]: line for line in lines.rest()}
    assert said["request_refused"]["reason"] == "bad_header"
    assert said["answer_refused"]["count"] >= 1


def test_a_lost_outcome_is_asked_for_again(native: NativeBroker, lines: Lines) -> None:
    """The next number tells that one is missing; nobody waits for ever."""
    with native.client() as client:
        futures = [client.submit(b"0"), client.submit(b"1")]
        peer, first, _ = native.hear_said()
        _, second, _ = native.hear_said()
        native.numbers[peer] += 1
        native.outcome(peer, second.id, b"one")
        assert futures[1].result(WAIT_SECONDS) == b"one"
        _, again, _ = native.hear_said()
        assert again.id == first.id
        native.outcome(peer, again.id, b"zero")
        assert futures[0].result(WAIT_SECONDS) == b"zero"
        assert lines.wait_for("outcomes_missed")["count"] == 1


def receives(client: Client, native: NativeBroker, pool: concurrent.futures.Executor) -> None:
    """One call is answered."""
    call = pool.submit(client.call, b"job")
    native.answer(native.hear())
    call.result(WAIT_SECONDS)


def test_a_client_says_at_its_end_what_it_received(
    native: NativeBroker, monkeypatch: pytest.MonkeyPatch, pool: concurrent.futures.Executor
) -> None:
    """A client, in order: "a last `heartbeat` with `received`, and close"; nothing where all is receipted."""
    monkeypatch.setattr(peer_native, "RECEIPT_QUIET_NS", 3_600_000_000_000)
    with native.client() as client:
        receives(client, native, pool)
    assert native.hear_raw()[1] == Heartbeat(received=1)
    with native.client() as client:
        native.welcome(native.hear_raw()[0])
        until(lambda: client.connected)
    assert native.is_silent(20)


def test_the_last_receipt_holds_up_nobody_whose_broker_has_gone(
    native: NativeBroker, monkeypatch: pytest.MonkeyPatch, pool: concurrent.futures.Executor
) -> None:
    """It is lost with the connection; closing ends in time all the same."""
    monkeypatch.setattr(peer_native, "RECEIPT_QUIET_NS", 3_600_000_000_000)
    with native.client() as client:
        receives(client, native, pool)
        native.close()
        began = time.monotonic()
    assert time.monotonic() - began < WAIT_SECONDS
    if isinstance(client, Client):
        assert not client._engine._thread.is_alive()


# --- Answers.


def test_an_empty_answer_is_none_of_a_failure(native: NativeBroker, pool: concurrent.futures.Executor) -> None:
    """One empty frame, several, and no frame at all are three things."""
    with native.client() as client:
        empty = pool.submit(client.call, b"1")
        native.answer(native.hear(), b"")
        assert empty.result(WAIT_SECONDS) == b""
        nothing = pool.submit(client.call_multipart, [b"2"])
        heard = native.hear()
        native.outcome(heard[0], heard[1])
        assert nothing.result(WAIT_SECONDS) == []
        missing = pool.submit(client.call, b"3")
        heard = native.hear()
        native.outcome(heard[0], heard[1])
        with pytest.raises(UnexpectedAnswer, match="0 frames"):
            missing.result(WAIT_SECONDS)


def test_a_failure_says_why(native: NativeBroker, pool: concurrent.futures.Executor) -> None:
    """Reason, last error, attempts and ledger reach the caller; the text is one line."""
    with native.client() as client:
        call = pool.submit(client.call, b"job")
        peer, name, *_ = native.hear()
        ledger = (Entry(attempt=1, cause="failed", worker="w", kind="KeyError", text="'x'"),)
        fields = {"state": "discarded", "reason": "tries_spent", "kind": "KeyError", "text": "'x'", "attempts": 1}
        native.outcome(peer, name, ledger=ledger, **fields)
        with pytest.raises(JobFailed, match=r"discarded \(tries_spent\) after 1 attempt: KeyError: 'x'") as caught:
            call.result(WAIT_SECONDS)
        assert (caught.value.ledger, caught.value.request_id) == (ledger, name)
        assert {key: getattr(caught.value, key) for key in fields} == fields


def test_terms_and_headers_go_out_and_headers_come_back(native: NativeBroker) -> None:
    """A call's terms take the place of the client's; the future has what came beside the answer."""
    with native.client(terms=Terms(queue="usual", run=5)) as client:
        own = client.submit(b"1", terms=Terms(queue="own", keep=1), headers={"trace": "abc"})
        peer, message, _ = native.hear_said()
        assert message == Submit(id=message.id, queue="own", keep_ms=1_000, headers={"trace": "abc"})
        native.outcome(peer, message.id, b"done", headers={"trace": "def"})
        assert own.result(WAIT_SECONDS) == b"done"
        assert (own.headers, own.again) == ({"trace": "def"}, False)
        usual = client.submit_multipart([b"2", b""])
        peer, message, body = native.hear_said()
        assert (message.queue, message.run_ms, body) == ("usual", 5_000, [b"2", b""])
        native.outcome(peer, message.id, b"a", b"b")
        assert usual.result(WAIT_SECONDS) == [b"a", b"b"]
        assert usual.headers == {}
        client.submit(b"3", headers={"only": "headers"})
        _, message, _ = native.hear_said()
        assert (message.queue, message.run_ms, message.headers) == ("usual", 5_000, {"only": "headers"})
        mapped = client.map([b"3"], terms=Terms(queue="mapped"), headers={"n": "3"})
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(next, mapped)
            peer, message, _ = native.hear_said()
            assert (message.queue, message.headers) == ("mapped", {"n": "3"})
            native.outcome(peer, message.id, b"done")
            assert first.result(WAIT_SECONDS) == b"done"


def test_a_future_has_the_id_of_its_request_at_once(native: NativeBroker) -> None:
    """Before anything was sent; the job's own id comes with a failure, and where somebody asks how it stands."""
    with native.client() as client:
        future = client.submit(b"job")
        named = client.submit(b"named", request_id=NAME)
        assert len(future.request_id) == 16
        assert named.request_id == NAME
        assert future.request_id != client.submit(b"job").request_id
        peer, message, _ = native.hear_said()
        assert message.id == future.request_id
        native.outcome(peer, message.id, state="discarded", reason="tries_spent", job=JOB)
        with pytest.raises(JobFailed) as caught:
            future.result(WAIT_SECONDS)
        assert (caught.value.request_id, caught.value.job_id) == (future.request_id, JOB)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            status = pool.submit(client.state, NAME)
            while not isinstance(message, Inquire):
                peer, message, _ = native.hear_said()
            native.tell(peer, JobState(id=NAME, job=JOB, state="running"))
            assert status.result(WAIT_SECONDS).job_id == JOB


def test_a_busy_broker_is_asked_again_without_a_word_to_the_caller(native: NativeBroker, lines: Lines) -> None:
    """It waits as long as the broker says; a refusal for good ends it."""
    with native.client() as client:
        future = client.submit(b"job")
        for _ in range(3):
            peer, message, _ = native.hear_said()
            assert message.age_ms == 0
            native.tell(peer, Submitted(jobs=(Admitted(id=message.id, code="busy", text="full", retry_ms=10),)))
        peer, message, _ = native.hear_said()
        native.tell(peer, Submitted(jobs=(Admitted(id=message.id, code="too_large", text="split it"),)))
        with pytest.raises(JobRefused, match="too_large: split it"):
            future.result(WAIT_SECONDS)
        assert client.counters.refused_busy == 3
        assert [line["event"] for line in lines.rest()].count("request_refused") == 1


def test_a_job_that_ended_with_its_broker_is_done_by_the_next_one(native: NativeBroker, lines: Lines) -> None:
    """The caller sees nothing of it but that it may have been done before."""
    with native.client() as client:
        future = client.submit(b"job")
        peer, first, _ = native.hear_said()
        native.outcome(peer, first.id, state="cancelled", reason="broker_stopped")
        assert lines.wait_for("request_refused")["reason"] == "broker_stopped"
        native.close()
        native.open()
        peer, again, body = native.hear_said()
        assert (again.id, body) == (first.id, [b"job"])
        assert again.age_ms >= 1
        native.outcome(peer, again.id, b"done", again=True)
        assert future.result(WAIT_SECONDS) == b"done"
        assert future.again
        assert client.counters.failed == 0


def test_without_resend_a_job_ends_with_its_broker(native: NativeBroker) -> None:
    """`resend=False`: the caller is told."""
    with native.client(resend=False) as client:
        future = client.submit(b"job")
        peer, message, _ = native.hear_said()
        native.outcome(peer, message.id, state="cancelled", reason="broker_stopped")
        with pytest.raises(JobFailed, match="broker_stopped"):
            future.result(WAIT_SECONDS)


def test_a_request_id_is_the_caller_s_and_asking_twice_is_one_job(native: NativeBroker) -> None:
    """Both futures get the one outcome; another body under the same id is refused at once."""
    with native.client() as client:
        futures = [client.submit(b"job", request_id=NAME) for _ in range(2)]
        peer, message, _ = native.hear_said()
        assert message.id == NAME
        with pytest.raises(JobRefused, match="conflict"):
            client.call(b"another", request_id=NAME)
        native.outcome(peer, NAME, b"done")
        assert [future.result(WAIT_SECONDS) for future in futures] == [b"done", b"done"]


# --- Following.


def test_followers_are_called_in_the_library_s_thread_and_may_fail(
    native: NativeBroker, library: Library, lines: Lines
) -> None:
    """Pieces and notes once each and in their order; what a callback raises is logged and harms nobody."""
    told: list[tuple[Partial | Progress, str]] = []
    heard = threading.Semaphore(0)

    def follow(news: Partial | Progress) -> None:
        told.append((news, threading.current_thread().name))
        heard.release()
        raise KeyError("on purpose")

    with native.client() as client:
        future = client.submit(b"job", on_partial=follow, on_progress=follow)
        only_progress = client.submit(b"other", on_progress=follow)
        peer, message, _ = native.hear_said()
        assert message.follow
        _, other, _ = native.hear_said()
        native.tell(peer, TellPartial(id=other.id, attempt=1, seq=1), b"for nobody")
        native.tell(peer, TellPartial(id=message.id, attempt=1, seq=1), b"a", b"b")
        assert heard.acquire(timeout=WAIT_SECONDS)
        native.tell(peer, TellProgress(id=message.id, attempt=1, done=1, total=2, note="half"))
        assert heard.acquire(timeout=WAIT_SECONDS)
        native.outcome(peer, message.id, b"done")
        native.outcome(peer, other.id, b"done")
        assert future.result(WAIT_SECONDS) == only_progress.result(WAIT_SECONDS) == b"done"
    pieces = [Partial((b"a", b"b"), attempt=1, seq=1), Progress(attempt=1, done=1, total=2, note="half")]
    assert told == [(piece, library.thread_name) for piece in pieces]
    assert "on purpose" in lines.wait_for("callback_failed")["error"]


def test_followers_hear_everything_before_the_answer(native: NativeBroker) -> None:
    """Also where all of it arrives together."""
    order: list[str] = []
    entered, go_on = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        entered.set()
        go_on.wait(WAIT_SECONDS)

    with native.client() as client:
        holding = client.submit(b"holding", on_progress=hold)
        future = client.submit(b"job", on_partial=lambda told: order.append(f"piece {told.seq}"))
        future.add_done_callback(lambda _: order.append("answer"))
        peer, first, _ = native.hear_said()
        _, second, _ = native.hear_said()
        native.tell(peer, TellProgress(id=first.id, attempt=1))
        assert entered.wait(WAIT_SECONDS)
        native.tell(peer, TellPartial(id=second.id, attempt=1, seq=1), b"x")
        native.outcome(peer, second.id, b"done")
        native.tell(peer, Heartbeat())
        native.outcome(peer, first.id, b"done")
        go_on.set()
        assert holding.result(WAIT_SECONDS) == b"done"
    assert order == ["piece 1", "answer"]


# --- Handing over, and asking later.


def test_enqueue_returns_when_the_broker_has_taken_the_job(
    native: NativeBroker, pool: concurrent.futures.Executor
) -> None:
    """With the ids to ask for it, and its place."""
    with native.client(terms=Terms(queue="usual")) as client:
        call = pool.submit(client.enqueue, b"job", terms=Terms(queue="q"), headers={"a": "b"}, request_id=NAME)
        peer, message, body = native.hear_said()
        assert message == Submit(id=NAME, queue="q", headers={"a": "b"}, ack=True, wait=False)
        assert body == [b"job"]
        assert not call.done()
        native.tell(peer, Submitted(jobs=(Admitted(id=NAME, job=JOB, position=3, joined=True),)))
        assert call.result(WAIT_SECONDS) == Enqueued(NAME, job_id=JOB, position=3, joined=True)
        refused = pool.submit(client.enqueue, [b"several", b"frames"])
        peer, message, body = native.hear_said()
        assert (message.queue, body) == ("usual", [b"several", b"frames"])
        native.tell(peer, Submitted(jobs=(Admitted(id=message.id, code="too_large"),)))
        with pytest.raises(JobRefused):
            refused.result(WAIT_SECONDS)


def test_many_are_handed_over_in_one_message(native: NativeBroker, pool: concurrent.futures.Executor) -> None:
    """Each gets its own outcome; more than fit are several messages."""
    with native.client() as client:
        call = pool.submit(
            client.enqueue_many, [b"a", [b"b", b"c"], b"d"], request_ids=[NAME, NAME + b"2", NAME + b"3"]
        )
        peer, message, body = native.hear_said()
        assert [(item.id, item.frames) for item in message.jobs] == [(NAME, 1), (NAME + b"2", 2), (NAME + b"3", 1)]
        assert body == [b"a", b"b", b"c", b"d"]
        first, *_, last = taken(message).jobs
        native.tell(peer, Submitted(jobs=(first, Admitted(id=NAME + b"2", code="expired", text="old"), last)))
        one, two, three = call.result(WAIT_SECONDS)
        assert (one, three) == (Enqueued(NAME, b"j" * 16, 0), Enqueued(NAME + b"3", b"j" * 16, 2))
        assert isinstance(two, JobRefused)
        call = pool.submit(client.enqueue_many, (b"%d" % i for i in range(900)))
        sizes = []
        while sum(sizes) < 900:
            peer, message, _ = native.hear_said()
            sizes.append(len(message.jobs))
            native.tell(peer, taken(message))
        assert sizes == [500, 400]
        assert len({done.request_id for done in call.result(WAIT_SECONDS) if isinstance(done, Enqueued)}) == 900
        assert client.enqueue_many([]) == []


def test_what_is_wrong_with_one_of_many_stands_in_its_place(
    native: NativeBroker, pool: concurrent.futures.Executor
) -> None:
    """The others are handed over as if it were not there; one alone raises it."""
    datas: list[Any] = [b"fine", "text", bytes(101), [], b"also fine", b"no id"]
    names: list[Any] = [NAME + b"%d" % i for i in range(5)] + [b"short"]
    with native.client(body_bytes_max=100) as client:
        call = pool.submit(client.enqueue_many, datas, request_ids=names)
        peer, message, body = native.hear_said()
        assert ([item.id for item in message.jobs], body) == ([names[0], names[4]], [b"fine", b"also fine"])
        native.tell(peer, taken(message))
        outcomes = call.result(WAIT_SECONDS)
        kinds = [Enqueued, TypeError, ValueError, ValueError, Enqueued, ValueError]
        assert [type(outcome) for outcome in outcomes] == kinds
        assert [type(outcome) for outcome in client.enqueue_many(["x"])] == [TypeError]  # type: ignore[list-item]
        with pytest.raises(ValueError, match="body_bytes_max"):
            client.enqueue(bytes(101))


def test_many_that_find_no_room_go_in_parts(native: NativeBroker, pool: concurrent.futures.Executor) -> None:
    """As room is made; who finds none in time is told so in its place."""
    with native.client(requests_open_max=2) as client:
        call = pool.submit(client.enqueue_many, [b"%d" % i for i in range(5)])
        handed = 0
        while handed < 5:
            peer, message, body = native.hear_said()
            handed += len(body)
            native.tell(peer, taken(message))
        assert all(isinstance(done, Enqueued) for done in call.result(WAIT_SECONDS))
        outcomes = client.enqueue_many([b"%d" % i for i in range(5)], timeout=0.02)
        assert [type(outcome) for outcome in outcomes] == [TimeoutError] * 5


def test_the_result_is_there_for_who_asks_later(native: NativeBroker, pool: concurrent.futures.Executor) -> None:
    """By request or by job, of one frame or several; while it is not there, the caller waits."""
    with native.client() as client:
        call = pool.submit(client.result, NAME)
        peer, message, _ = native.hear_said()
        assert message == Inquire(id=NAME, wait=True)
        native.tell(peer, JobState(id=NAME, state="running"))
        native.outcome(peer, NAME, b"done")
        assert call.result(WAIT_SECONDS) == b"done"
        several = pool.submit(client.result_multipart, job_id=JOB)
        peer, message, _ = native.hear_said()
        assert message == Inquire(job=JOB, wait=True)
        native.outcome(peer, JOB, b"a", b"b")
        assert several.result(WAIT_SECONDS) == [b"a", b"b"]
        for state, error in (("unknown", JobUnknown), ("expired", JobExpired)):
            call = pool.submit(client.result, NAME)
            native.hear_said()
            native.tell(peer, JobState(id=NAME, state=state))
            with pytest.raises(error):
                call.result(WAIT_SECONDS)
        failed = pool.submit(client.result, NAME)
        native.hear_said()
        native.outcome(peer, NAME, state="cancelled", reason="asker_gone")
        with pytest.raises(JobFailed, match="asker_gone"):
            failed.result(WAIT_SECONDS)
        with pytest.raises(TimeoutError):
            client.result(NAME, timeout=0.01)


def test_the_state_is_told_as_it_is(native: NativeBroker, pool: concurrent.futures.Executor) -> None:
    """By request or by job."""
    with native.client() as client:
        call = pool.submit(client.state, NAME)
        peer, message, _ = native.hear_said()
        assert message == Inquire(id=NAME)
        native.tell(peer, JobState(id=NAME, state="running", attempts=2))
        assert call.result(WAIT_SECONDS) == JobStatus("running", attempts=2)
        call = pool.submit(client.state, job_id=JOB)
        native.hear_said()
        native.tell(peer, JobState(job=JOB, state="unknown"))
        assert call.result(WAIT_SECONDS) == JobStatus("unknown")


# --- What cannot be.


def test_2010_refuses_what_it_cannot_say(broker_2010: FakeBroker) -> None:
    """Each error says what to change."""
    say_native = 'dialect="native"'
    with pytest.raises(ValueError, match=r"cannot say queue, keep.*" + say_native):
        broker_2010.client(terms=Terms(queue="q", keep=1))
    with broker_2010.client() as client:
        for refused in (
            lambda: client.call(b"x", terms=Terms(run=1)),
            lambda: client.submit(b"x", headers={"a": "b"}),
            lambda: client.submit(b"x", on_progress=print),
            lambda: client.submit(b"x", request_id=NAME),
            lambda: client.map([b"x"], terms=Terms(gone="cancel")),
            lambda: client.enqueue(b"x"),
            lambda: client.enqueue_many([b"x"]),
            lambda: client.result(NAME),
            lambda: client.state(NAME),
        ):
            with pytest.raises(ValueError, match=say_native):
                refused()  # type: ignore[no-untyped-call]
        future = client.submit(b"usual", terms=Terms())
        broker_2010.answer(broker_2010.hear())
        assert future.result(WAIT_SECONDS) == b"usual"


def test_what_nobody_can_mean_is_refused_at_the_door(native: NativeBroker, library: Library) -> None:
    """Dialects, ids and questions."""
    with pytest.raises(ValueError, match="did you mean 'native'"):
        library(native.endpoint, dialect="nativ")
    with native.client() as client:
        for wrong in (b"", b"x" * 15, b"x" * 65):
            with pytest.raises(ValueError, match="16 to 64"):
                client.call(b"x", request_id=wrong)
        with pytest.raises(TypeError, match="bytes"):
            client.call(b"x", request_id="x" * 16)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="16 bytes"):
            client.state(job_id=b"short")
        for neither in ({}, {"request_id": NAME, "job_id": JOB}):
            with pytest.raises(ValueError, match="say which job"):
                client.result(**neither)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="as many request_ids"):
            client.enqueue_many([b"x", b"y"], request_ids=[NAME])
        with pytest.raises(ValueError, match="twice"):
            client.enqueue_many([b"x", b"y", b"z"], request_ids=[NAME, NAME + b"2", bytearray(NAME)])
        assert client.counters.submitted == 0


def test_an_answer_of_several_frames_survives_pickling() -> None:
    """As other errors do: it may come from another process."""
    error = pickle.loads(pickle.dumps(UnexpectedAnswer((b"a", b"b"))))  # noqa: S301 - our own
    assert (type(error), error.frames) == (UnexpectedAnswer, (b"a", b"b"))
    assert str(error) == str(UnexpectedAnswer((b"a", b"b")))


def test_wrong_types_are_named_with_what_to_pass(native: NativeBroker, library: Library) -> None:
    """As TypeErrors, of whatever call they come to."""
    with pytest.raises(TypeError, match=r"'tcp://localhost:4161', not 4161 \(int\)"):
        library(4161)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="endpoint as text"):
        library(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"number of seconds.* not str"):
        library(native.endpoint, timeout="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Terms.* not dict"):
        library(native.endpoint, terms={"queue": "images"})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="body_bytes_max is a whole number of at least 1, not str"):
        library(native.endpoint, body_bytes_max="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="requests_open_max must be at least 1, not 0"):
        library(native.endpoint, requests_open_max=0)
    with pytest.raises(ValueError, match=r"run must be a number of seconds.* not True"):
        Terms(run=True)
    with native.client() as client:
        wrong: Any
        for wrong in (client.call, client.submit, client.enqueue, lambda data, **how: next(client.map([data], **how))):
            with pytest.raises(TypeError, match=r"number of seconds.* not str"):
                wrong(b"x", timeout="1")
            with pytest.raises(TypeError, match=r"Terms.* not dict"):
                wrong(b"x", terms={"queue": "images"})
            with pytest.raises(TypeError, match="is bytes, not str: encode"):
                wrong("x")
            with pytest.raises(TypeError, match=r"bytes.* not int"):
                wrong(7)
        for wrong in (client.call, client.submit, client.enqueue):
            with pytest.raises(TypeError, match="request_id is bytes, not str"):
                wrong(b"x", request_id="x" * 20)
        for wrong in (client.result, client.state):
            with pytest.raises(TypeError, match="request_id is bytes, not str"):
                wrong("x" * 20)
            with pytest.raises(TypeError, match="job_id is bytes, not str"):
                wrong(job_id="x" * 16)
        assert client.counters.submitted == 0


def test_without_resend_a_loss_ends_what_was_under_way(native: NativeBroker) -> None:
    """The caller learns that nobody knows; a question is asked again."""
    with native.client(resend=False) as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = client.submit(b"job")
        native.hear()
        question = pool.submit(client.result, NAME)
        native.hear_said()
        native.close()
        with pytest.raises(relet.BrokerLost):
            future.result(WAIT_SECONDS)
        native.open()
        peer, message, _ = native.hear_said()
        assert message == Inquire(id=NAME, wait=True)
        native.outcome(peer, NAME, b"done")
        assert question.result(WAIT_SECONDS) == b"done"


def test_users_programs_are_typed(tmp_path: Path) -> None:
    """What the client takes and gives passes the strictest check."""
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text("""
import asyncio
from collections.abc import AsyncIterator, Iterator
from relet.client import AsyncClient, AsyncJobFuture, Client, Enqueued, JobFailed, JobFuture, JobStatus
from relet.client import Partial, Progress, Terms

def piece(told: Partial) -> None:
    print(told.frames[0], told.attempt, told.seq)

def far(told: Progress) -> None:
    print(told.done, told.total, told.note)

with Client("tcp://localhost:4161", dialect="native", terms=Terms(queue="q", late="current")) as client:
    one: bytes = client.call(b"x", terms=Terms(run=0), headers={"a": "b"}, request_id=b"0123456789abcdef")
    several: list[bytes] = client.call_multipart([b"x"])
    future: JobFuture[bytes] = client.submit(b"x", on_partial=piece, on_progress=far)
    print(future.headers.get("a"), future.again)
    for answer in client.map([b"x"], headers={"a": "b"}):
        print(answer.decode())
    told: Iterator[bytes | Exception] = client.map([b"x"], return_exceptions=True)
    handed: Enqueued = client.enqueue(b"x")
    many: list[Enqueued | Exception] = client.enqueue_many([b"x", [b"y", b"z"]])
    result: bytes = client.result(handed.request_id)
    status: JobStatus = client.state(job_id=handed.job_id)
    try:
        client.result_multipart(job_id=handed.job_id, timeout=None)
    except JobFailed as error:
        print(error.reason, error.attempts, [entry.cause for entry in error.ledger])

async def bodies() -> AsyncIterator[bytes]:
    yield b"x"

async def main() -> None:
    async with AsyncClient("tcp://localhost:4161", terms=Terms(queue="q")) as client:
        one: bytes = await client.call(b"x", terms=Terms(run=0), headers={"a": "b"}, request_id=b"0123456789abcdef")
        several: list[bytes] = await client.call_multipart([b"x"])
        future: AsyncJobFuture[bytes] = await client.submit(b"x", on_partial=piece, on_progress=far)
        answer: bytes = await future
        print(future.headers.get("a"), future.again, future.request_id)
        async for answer in client.map(bodies(), headers={"a": "b"}):
            print(answer.decode())
        async for told in client.map([b"x"], return_exceptions=True):
            print(told.decode() if isinstance(told, bytes) else told)
        handed: Enqueued = await client.enqueue(b"x")
        many: list[Enqueued | Exception] = await client.enqueue_many([b"x", [b"y", b"z"]])
        status: JobStatus = await client.state(job_id=handed.job_id)
        frames: list[bytes] = await client.result_multipart(handed.request_id)

asyncio.run(main())
""")
    options = ["--strict", "--no-error-summary", "--follow-imports=silent", f"--cache-dir={tmp_path}"]
    env = {"MYPYPATH": str(Path(relet.__file__).parent.parent)}
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(program)], capture_output=True, text=True, env=env, check=False
    )
    assert checked.stdout + checked.stderr == ""
