"""The native protocol of the worker as conversations with itself: no socket, no thread, a clock that the test turns."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from typing import Any

import pytest

from relet.core.limits import Limits
from relet.dialects import native
from relet.messages import (
    SIGNATURE,
    VERSION,
    Ack,
    Cancel,
    Complete,
    Dispatch,
    Error,
    Extend,
    Fail,
    Goodbye,
    HandBack,
    Heartbeat,
    Partial,
    Progress,
    Recall,
    ReportRefused,
    Welcome,
    WorkerAsk,
    WorkerHello,
)
from relet.worker.job import Asides, CurrentJob, Extension, Job, Note, Piece
from relet.worker.outcome import FailJob, Silence, failure_of
from relet.worker.pace import AHEAD_MAX
from relet.worker.peer_native import (
    CLAIM_BYTES,
    GRACE_NS,
    HELLO_PAUSE_NS,
    NUMBER_MAX,
    START_TOLD_NS,
    UNACKNOWLEDGED_BYTES_MAX,
    UNACKNOWLEDGED_MAX,
    WELCOME_NS_MAX,
    Ended,
    NativePeer,
    Trouble,
)

MS = 1_000_000
HEARTBEAT_MS, LIVENESS_MS = 1_000, 4_000


class Talk:
    """A worker's peer, the broker's part in the conversation, the handler's thread, and the clock."""

    def __init__(self, ahead: int | None = 1, queues: tuple[str, ...] = ("default",)) -> None:
        self.peer = NativePeer(b"i" * 16, queues, ahead, "test/1")
        self.now = 1_000 * MS
        self.inbox: collections.deque[Ended] = collections.deque()
        self.seq = 0

    # --- The clock and the connection.

    def turn(self, *messages: Any, room: int = 1_000, goodbye: bool = False) -> list[Any]:
        """One turn of the library's thread; what went out."""
        self.jobs = self._hear(*messages)
        self.peer.take(self.inbox)
        assert self.peer.tick(self.now) is None
        return self.send(room, goodbye=goodbye)

    def _hear(self, *messages: Any) -> list[Job]:
        self.peer.woke(self.now)
        frames = [one if isinstance(one, tuple) else (SIGNATURE, native.encode(one)) for one in messages]
        return self.peer.heard(frames, self.now) if frames else []

    def send(self, room: int = 1_000, *, goodbye: bool = False) -> list[Any]:
        """Send what is due, as much as there is room for."""
        outgoing = self.peer.outgoing(1_000, self.now, goodbye=goodbye)
        assert all(frames[0] == SIGNATURE for frames in outgoing)
        went = outgoing[:room]
        self.peer.sent(len(went), self.now)
        self.bodies = [frames[2] for frames in went if len(frames) > 2]
        return [native.from_worker(VERSION, frames[1]) for frames in went]

    def wait(self, ms: float) -> None:
        """Time passes."""
        self.now += int(ms * MS)

    def due_ms(self) -> float | None:
        """How long the thread would sleep."""
        due = self.peer.due(self.now)
        return None if due is None else (due - self.now) / MS

    def connect(self) -> WorkerHello:
        """The connection stands; the hello that went out."""
        self.peer.became_connected(self.now)
        (hello,) = self.send()
        assert isinstance(hello, WorkerHello)
        return hello

    def welcome(self, **fields: Any) -> list[Any]:
        """The broker welcomes; what the worker says to that."""
        self.seq = fields.get("handed", 0)
        return self.turn(welcome(**fields))

    def ready(self) -> Talk:
        """Connect, and be welcomed."""
        self.connect()
        self.welcome()
        return self

    # --- Jobs.

    def give(self, *tokens: bytes, **fields: Any) -> list[Job]:
        """The broker hands jobs over."""
        for token in tokens:
            self.seq += 1
            frames = (SIGNATURE, native.encode(dispatch(token, self.seq, **fields)), b"body of " + token)
            self.said = self.turn(frames)
            self.given = [*getattr(self, "given", []), *self.jobs]
        given, self.given = self.given, []
        return given

    def start(self, job: Job) -> bool:
        """The handler's thread takes a job."""
        return self.peer.start(job, self.now)

    def end(self, job: Job, outcome: Any = (b"done",)) -> None:
        """The handler's thread is done with it."""
        self.inbox.append((job, outcome, self.now))

    def do(self, job: Job, outcome: Any = (b"done",)) -> list[Any]:
        """Both, at once; what the worker says to that."""
        assert self.start(job)
        self.end(job, outcome)
        return self.turn()


def welcome(**fields: Any) -> Welcome:
    """A broker's welcome."""
    fields = {"epoch": 1, "limits": {"credit": 1_000}, **fields}
    return Welcome(**{"heartbeat_ms": HEARTBEAT_MS, "liveness_ms": LIVENESS_MS, **fields})


def dispatch(token: bytes, seq: int, **fields: Any) -> Dispatch:
    """A hand-over."""
    return Dispatch(**{"token": token, "seq": seq, "job": token.rjust(16, b"j"), "attempt": 1, **fields})


# --- Sessions.


def test_a_worker_says_hello_and_after_the_welcome_asks() -> None:
    """Nothing is said before the hello, and no credit before the welcome; credit counts from `handed`."""
    talk = Talk(3, queues=("fast", "slow"))
    assert talk.send() == []
    hello = talk.connect()
    assert (hello.incarnation, hello.queues, hello.agent) == (b"i" * 16, ("fast", "slow"), "test/1")
    assert (hello.running, hello.held, set(hello.features)) == ((), (), {"starts", "recalls"})
    assert talk.turn() == []
    assert not talk.peer.welcomed
    assert talk.welcome(handed=7) == [WorkerAsk(credit=10, started=7)]
    assert talk.peer.welcomed
    assert talk.turn() == []


def test_one_job_one_report_with_the_next_credit_and_what_was_started() -> None:
    """A short job is started and completed in one message, which asks for the next one."""
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    assert (job.frames, talk.said) == ((b"body of a",), [WorkerAsk(credit=1, started=1)])
    assert talk.do(job) == [Complete(token=b"a", n=1, credit=2, started=1)]
    assert talk.bodies == [(b"done",)]
    assert talk.turn(Ack(ack=1)) == []
    assert talk.peer.counters.answered == 1


def test_the_numbers_ride_on_the_last_message_of_a_batch() -> None:
    """Three reports, one credit."""
    talk = Talk(3).ready()
    for job in talk.give(b"a", b"b", b"c"):
        assert talk.start(job)
        talk.end(job)
    said = talk.turn()
    assert [(one.n, one.credit, one.started) for one in said] == [(1, 0, 0), (2, 0, 0), (3, 6, 3)]


def test_a_partial_send_loses_nothing_and_says_the_numbers_later() -> None:
    """What the socket did not take goes first next time."""
    talk = Talk(2).ready()
    for job in talk.give(b"a", b"b"):
        assert talk.start(job)
        talk.end(job)
    talk.jobs = []
    assert [one.token for one in talk.turn(room=1)] == [b"a"]
    assert talk.due_ms() == LIVENESS_MS  # a full socket wakes nobody for a heartbeat
    assert talk.turn(room=0) == []
    assert talk.turn() == [Complete(token=b"b", n=2, credit=4, started=2)]


def test_a_hello_that_is_not_answered_gives_the_connection_up() -> None:
    """A broker of 2010 takes it for noise. The next connection says hello again."""
    talk = Talk()
    talk.connect()
    assert talk.due_ms() == WELCOME_NS_MAX / MS
    talk.now += WELCOME_NS_MAX
    assert talk.peer.tick(talk.now) is Trouble.UNWELCOMED
    talk.peer.lost(talk.now)
    assert talk.due_ms() is None
    talk.connect()


def test_welcomes_that_nobody_asked_for_are_refused() -> None:
    """A second one changes nothing, nor does one with numbers that cannot be sent back."""
    talk = Talk(2).ready()
    assert talk.turn(welcome(handed=5)) == []
    assert talk.peer.counters.frames_refused == 1
    talk = Talk()
    talk.connect()
    for wrong in ({"handed": -1}, {"received": NUMBER_MAX + 1}, {"liveness_ms": -5}, {"limits": {"credit": -1}}):
        assert talk.turn(welcome(**wrong)) == []
    assert talk.peer.counters.frames_refused == 4
    assert talk.turn(welcome()) == [WorkerAsk(credit=1)]


def test_only_the_answer_to_the_last_hello_counts() -> None:
    """The claims of the one before are out of date."""
    talk = Talk(2).ready()
    talk.give(b"a")
    talk.wait(200)
    assert [one.running for one in talk.turn(Error(code="no_session"))] == [(b"a",)]
    talk.wait(LIVENESS_MS + 1)
    assert [one.held for one in talk.turn()] == [()]  # it slept, and has dropped what it claimed
    assert talk.turn(welcome(handed=1)) == []
    assert not talk.peer.welcomed
    assert talk.turn(welcome(handed=1)) == [HandBack(token=b"a", n=1, credit=3, started=1)]


def test_no_session_is_answered_with_a_hello_once_and_not_too_often() -> None:
    """All that was said before is answered so; a broker that always says it gets ten hellos a second at most."""
    talk = Talk().ready()
    talk.wait(200)
    said = talk.turn(*[Error(code="no_session")] * 5)
    assert [type(one) for one in said] == [WorkerHello]
    assert talk.turn(Error(code="no_session")) == []
    assert talk.welcome() == [WorkerAsk(credit=1)]
    assert talk.turn(Error(code="no_session")) == []
    assert talk.due_ms() == HELLO_PAUSE_NS / MS
    talk.wait(100)
    assert [type(one) for one in talk.turn()] == [WorkerHello]
    assert talk.peer.counters.errors == 7


def test_other_errors_are_counted_and_kept_for_the_log() -> None:
    """They change nothing."""
    talk = Talk().ready()
    assert talk.turn(Error(code="bad_credit", text="too much")) == []
    assert talk.peer.last_error == Error(code="bad_credit", text="too much")
    assert talk.peer.counters.errors == 1


def test_a_hello_that_is_refused_is_said_again_later() -> None:
    """There are too many workers, or one says what cannot be: the log tells, and the connection stays."""
    talk = Talk()
    talk.connect()
    assert talk.turn(Error(code="too_many_peers", text="come back later")) == []
    assert talk.peer.last_error is not None
    assert talk.due_ms() == WELCOME_NS_MAX / MS
    talk.now += WELCOME_NS_MAX
    assert [type(one) for one in talk.turn()] == [WorkerHello]
    assert talk.welcome() == [WorkerAsk(credit=1)]


@pytest.mark.parametrize(
    "answer",
    [
        Error(code="bad_credit", of="ask"),
        Error(code="too_large", of="complete"),
        Error(code="bad_header"),
        ReportRefused(n=1, token=b"a", code="not_open"),
    ],
)
@pytest.mark.parametrize("slept", [True, False])
def test_an_answer_to_what_was_said_before_the_hello_does_not_answer_it(answer: Any, slept: bool) -> None:
    """It was under way; the welcome comes behind it, and counts."""
    talk = Talk().ready()
    talk.wait(LIVENESS_MS + 1 if slept else 200)
    assert [type(one) for one in talk.turn(*([] if slept else [Error(code="no_session")]))] == [WorkerHello]
    assert talk.turn(answer) == []
    assert not talk.peer.welcomed
    assert talk.due_ms() == WELCOME_NS_MAX / MS
    assert talk.welcome() == [WorkerAsk(credit=1)]


@pytest.mark.parametrize(
    "answer", [Error(code="too_many_peers"), Error(code="bad_version"), Error(code="bad_header", of="hello")]
)
def test_a_welcome_counts_though_a_refusal_came_before_it(answer: Error) -> None:
    """The refusal may have been meant for another message; nothing is said twice."""
    talk = Talk(2).ready()
    talk.give(b"a")
    talk.wait(200)
    talk.turn(Error(code="no_session"))
    assert talk.turn(answer) == []
    talk.wait(GRACE_NS / MS)
    assert talk.turn() == []
    given, beat = talk.welcome(handed=1)
    assert (given, type(beat), beat.credit) == (HandBack(token=b"a", n=1), Heartbeat, 3)
    assert talk.due_ms() == HEARTBEAT_MS


def test_a_refusal_of_the_first_of_two_hellos_leaves_the_other() -> None:
    """The welcome that answers the second one counts."""
    talk = Talk().ready()
    talk.give(b"a")
    talk.wait(200)
    talk.turn(Error(code="no_session"))
    talk.wait(LIVENESS_MS + 1)
    assert [type(one) for one in talk.turn()] == [WorkerHello]
    assert talk.turn(Error(code="too_many_peers")) == []
    assert talk.welcome(handed=1) == [HandBack(token=b"a", n=1, credit=2, started=1)]


def test_garbage_is_counted_and_kills_nothing() -> None:
    """Other signatures, no header, no map, wrong types, unknown messages; bodies may hold anything."""
    talk = Talk(2).ready()
    garbage: list[tuple[bytes, ...]] = [
        (),
        (b"",),
        (SIGNATURE,),
        (b"", b"id", b"body"),
        (SIGNATURE[:7] + b"\2", native.encode(Ack(ack=1))),
        (SIGNATURE, b""),
        (SIGNATURE, b"\xc1"),
        (SIGNATURE, b"\x81\xa1t\xa3job"),
        (SIGNATURE, b"\x81\xa1t\xa4what"),
        (SIGNATURE, bytes(100_000)),
        (SIGNATURE, b"\x82\xa1t\xa3ack\xa1x" + b"\x91" * 5_000),
        (SIGNATURE, b"\x82\xa1t\xa5error\xa4code\xa1\xff"),
        (SIGNATURE, b"\x82\xa1t\xa3ack\xa3ack\xcf" + b"\xff" * 8),
        (SIGNATURE, b"\x82\xa1t\xa3ack\xa3ack\xff"),
    ]
    talk.turn(*garbage)
    assert talk.peer.counters.frames_refused >= 12  # the last two may be acknowledgements, of nothing
    hostile = (SIGNATURE, native.encode(Ack(ack=1)), b"")
    (job,) = talk.peer.heard([(SIGNATURE, native.encode(dispatch(b"a", 1)), *hostile)], talk.now)
    assert job.frames == hostile


@pytest.mark.parametrize(("heartbeat_ms", "liveness_ms"), [(0, 0), (0, 10_000), (10_000, 1), (1, 2**61)])
def test_no_welcome_makes_the_worker_wake_up_all_the_time(heartbeat_ms: int, liveness_ms: int) -> None:
    """Intervals that make no sense are brought into bounds."""
    talk = Talk()
    talk.connect()
    talk.welcome(heartbeat_ms=heartbeat_ms, liveness_ms=liveness_ms)
    due = talk.due_ms()
    assert due is not None
    assert due >= 10


# --- Heartbeats and silence.


def test_a_worker_that_says_nothing_says_heartbeat() -> None:
    """After `heartbeat_ms`, with the numbers; whatever else it says counts as well."""
    talk = Talk().ready()
    assert talk.due_ms() == HEARTBEAT_MS
    talk.wait(HEARTBEAT_MS - 1)
    assert talk.turn() == []
    talk.wait(1)
    assert talk.turn(Heartbeat()) == [Heartbeat(credit=1)]
    assert talk.due_ms() == HEARTBEAT_MS
    talk.wait(600)
    (job,) = talk.give(b"a")
    assert len(talk.do(job)) == 1
    assert talk.due_ms() == HEARTBEAT_MS


def test_a_worker_that_speaks_and_hears_nothing_asks_whether_anybody_is_there() -> None:
    """Progress need not be answered, a heartbeat must be."""
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    assert talk.start(job)
    beats = 0
    for _ in range(30):
        talk.wait(100)
        talk.inbox.append((job, Note(1.0, None, ""), 0))
        beats += sum(isinstance(one, Heartbeat) for one in talk.turn())
    assert beats == 3


def test_a_silent_broker_is_given_up_after_the_liveness_time() -> None:
    """Though it was spoken to; not a millisecond before."""
    talk = Talk().ready()
    for _ in range(3):
        talk.wait(HEARTBEAT_MS)
        assert [type(one) for one in talk.turn()] == [Heartbeat]
    talk.wait(HEARTBEAT_MS - 1)
    assert talk.turn() == []
    talk.wait(1)
    talk.peer.woke(talk.now)
    assert talk.peer.tick(talk.now) is Trouble.SILENT
    assert talk.peer.counters.silences == 1


def test_a_busy_handler_does_not_stop_the_heartbeats() -> None:
    """They are the library's affair, and the job stays the worker's."""
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    assert talk.start(job)
    for _ in range(20):
        talk.wait(HEARTBEAT_MS)
        assert Heartbeat(credit=1, started=1) in talk.turn(Heartbeat())
    assert not job.cancelled


# --- Started.


def test_an_idle_worker_says_that_a_job_is_started_before_the_handler_gets_it() -> None:
    """Whatever the handler does to the process then, the attempt counts; it is said once, and wakes nobody later."""
    talk = Talk(3).ready()
    assert talk.turn(dispatch(b"a", 1), dispatch(b"b", 2)) == [WorkerAsk(credit=3, started=1)]
    one, two = talk.jobs
    assert talk.turn(dispatch(b"c", 3)) == []  # the handler is as good as busy
    assert talk.due_ms() == HEARTBEAT_MS
    assert talk.start(one)
    assert talk.turn() == []
    assert talk.due_ms() == HEARTBEAT_MS
    talk.end(one)
    assert talk.turn() == [Complete(token=b"a", n=1, credit=4, started=2)]  # it is about to begin the next one
    assert talk.start(two)
    assert talk.turn() == []


def test_a_start_that_does_not_leave_is_said_again() -> None:
    """The socket took nothing."""
    talk = Talk().ready()
    (job,) = talk.peer.heard([(SIGNATURE, native.encode(dispatch(b"a", 1)))], talk.now)
    assert talk.send(0) == []
    assert talk.send() == [WorkerAsk(credit=1, started=1)]
    assert talk.start(job)
    assert talk.turn() == []


def test_a_job_that_was_told_to_be_started_and_was_not_is_handed_back() -> None:
    """The broker believes that it runs: silence would cost an attempt."""
    talk = Talk().ready()
    talk.give(b"a")
    talk.peer.retire(talk.now)
    (hello,) = talk.turn()
    assert (hello.running, hello.held) == ((b"a",), ())
    assert talk.welcome(handed=1) == [HandBack(token=b"a", n=1, credit=1, started=1)]
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    talk.wait(LIVENESS_MS + 1)
    (hello,) = talk.turn()
    assert (hello.running, hello.held) == ((b"a",), ())
    assert talk.welcome(handed=1) == [HandBack(token=b"a", n=1, credit=2, started=1)]
    assert not talk.start(job)


def test_a_job_that_follows_another_is_told_to_be_started_within_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a message of its own, once, where the handler began it while the report of the one before was written."""
    talk = Talk(2).ready()
    one, two = talk.give(b"a", b"b")
    assert talk.start(one)
    talk.end(one)
    count = talk.peer._count_started

    def begins_after_that() -> None:
        count()
        monkeypatch.undo()
        assert talk.start(two)

    monkeypatch.setattr(talk.peer, "_count_started", begins_after_that)
    assert talk.turn() == [Complete(token=b"a", n=1, credit=3, started=1)]
    assert talk.due_ms() == START_TOLD_NS / MS
    talk.wait(START_TOLD_NS / MS)
    assert talk.turn() == [WorkerAsk(credit=3, started=2)]
    assert talk.turn() == []


def test_an_attempt_is_not_begun_when_an_earlier_one_is_answered() -> None:
    """The broker lets an expired job to whoever asks, and that may be the worker that still runs it."""
    talk = Talk(4).ready()
    (one,) = talk.give(b"a", job=b"same")
    assert talk.start(one)
    two, three = talk.give(b"b", b"c", job=b"same")
    (four,) = talk.give(b"d")
    one.answered = True
    talk.end(one)
    assert not talk.start(two)  # at once
    talk.end(two, Silence.UNSTARTED)
    assert not talk.start(three)
    talk.end(three, Silence.UNSTARTED)
    assert talk.start(four)
    said = talk.turn()
    assert [type(one) for one in said] == [Complete, HandBack, HandBack]
    assert {one.token for one in said[1:]} == {b"b", b"c"}


def test_an_attempt_is_begun_when_an_earlier_one_failed() -> None:
    """That one was over for the broker, so the next one is due."""
    talk = Talk(2).ready()
    (one,) = talk.give(b"a", job=b"same")
    assert talk.start(one)
    (two,) = talk.give(b"b", job=b"same")
    talk.end(one, failure_of(ValueError("x")))
    assert talk.start(two)
    assert [type(one) for one in talk.turn()] == [Fail]


# --- Credit.


@pytest.mark.parametrize("ahead", [0, -1, AHEAD_MAX + 1])
def test_ahead_has_bounds(ahead: int) -> None:
    """A worker asks for one job at least, and for no more than brokers take."""
    with pytest.raises(ValueError, match="ahead must be between 1 and 1000"):
        Talk(ahead)


def test_credit_stays_within_the_limit_of_the_broker() -> None:
    """More would be refused."""
    talk = Talk(100)
    talk.connect()
    assert talk.welcome(limits={"credit": 10}) == [WorkerAsk(credit=10)]
    talk = Talk(100)
    talk.connect()
    assert talk.welcome(limits={}) == [WorkerAsk(credit=100)]


def test_a_job_without_an_ask_is_handed_back() -> None:
    """The broker believes that it is here; somebody else shall have it."""
    talk = Talk().ready()
    talk.give(b"a")
    assert talk.give(b"b") == []
    assert talk.said == [HandBack(token=b"b", n=1, credit=2, started=1)]  # two were handed over, and one is here
    assert talk.peer.counters.jobs_refused == 1


def test_a_job_that_was_handed_over_before_is_refused() -> None:
    """Numbers grow, and tokens differ."""
    talk = Talk(5).ready()
    talk.give(b"a", b"b")
    for seq, token in ((2, b"c"), (1, b"a"), (3, b"a"), (4, b""), (NUMBER_MAX + 1, b"d"), (-1, b"e")):
        talk.turn(dispatch(token, seq))
        assert talk.jobs == []
    assert talk.peer.counters.jobs_refused == 6


def test_a_worker_learns_how_far_ahead_to_ask() -> None:
    """One job, then two, then as many as the jobs are short; none ahead where they take a second."""

    def learnt(job_ns: int, jobs: int) -> int:
        talk = Talk(None).ready()
        for _ in range(jobs):
            (job,) = talk.give(b"t%d" % talk.seq)
            assert talk.start(job)
            talk.now += job_ns
            talk.end(job)
            talk.turn(Heartbeat())
        return talk.peer._credit - talk.seq

    assert learnt(3_000, 1) == 2
    assert learnt(3_000, 500) == 500
    assert learnt(3_000, 2_000) == 1_000
    assert learnt(100_000, 2_000) == 150
    assert learnt(10_000_000, 50) in {2, 3}
    assert learnt(999_000_000, 3) == 2
    assert learnt(1_000_000_000, 3) == 1


def test_credit_is_never_taken_back() -> None:
    """Jobs that became long shrink what is granted later."""
    talk = Talk(None).ready()
    said = []
    for number in range(100):
        (job,) = talk.give(b"%d" % number)
        assert talk.start(job)
        talk.now += 3_000 if number < 40 else 1_500 * MS
        talk.end(job)
        said += [one.credit for one in talk.turn(Heartbeat()) if one.credit]
    assert said == sorted(said)
    assert said[40] == 80
    assert said[-1] == 100 + 1


@pytest.mark.parametrize("size", [1, UNACKNOWLEDGED_BYTES_MAX // 10])
def test_no_credit_while_too_much_waits_for_the_broker(size: int) -> None:
    """Reports that are not acknowledged are bounded in number and in bytes; an acknowledgement makes room."""
    talk = Talk(10).ready()
    answer = (bytes(size),)
    done = 0
    while talk.peer._credit > talk.seq:
        (job,) = talk.give(b"%d" % done)
        talk.do(job, answer)
        done += 1
        assert done < 3_000
    assert done == (UNACKNOWLEDGED_MAX + 10 if size == 1 else 20)
    assert talk.turn(Ack(ack=done)) == [WorkerAsk(credit=done + 10, started=done)]


# --- What becomes of a job.


def test_a_failure_says_what_and_when_again() -> None:
    """Of any exception its type and its text, bounded and sendable; of `FailJob` what it was told."""
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    (said,) = talk.do(job, failure_of(ZeroDivisionError("on\udcff purpose " + "x" * 9_999)))
    assert isinstance(said, Fail)
    assert (said.token, said.kind, said.retry_ms, said.final, said.credit) == (
        b"a",
        "ZeroDivisionError",
        None,
        False,
        2,
    )
    assert said.text.startswith("on? purpose x")
    assert len(said.text) == Limits().error_text_max
    (job,) = talk.give(b"b")
    (said,) = talk.do(job, failure_of(FailJob("quota", "later", retry_after=1.5)))
    assert (said.kind, said.text, said.retry_ms, said.final) == ("quota", "later", 1_500, False)
    (job,) = talk.give(b"c")
    (said,) = talk.do(job, failure_of(FailJob("broken", final=True)))
    assert (said.retry_ms, said.final) == (None, True)
    assert talk.peer.counters.failed == 3


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), "3", b"3", [3], 3j])
def test_a_failure_is_tried_again_after_a_time_that_exists(wrong: Any) -> None:
    """Said where it is raised."""
    with pytest.raises(ValueError, match="retry_after is a number of seconds"):
        FailJob("x", retry_after=wrong)


def test_an_exception_that_cannot_say_what_it_is_still_fails_its_job() -> None:
    """Its type has a name."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    failure = failure_of(Mute())
    assert (failure.kind, failure.text) == ("Mute", "")


def test_a_job_is_handed_back_or_left_and_the_next_one_asked_for() -> None:
    """`HandBack` is a report; `NoAnswer` is none, so that the credit goes alone."""
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    assert talk.do(job, Silence.HANDED_BACK) == [HandBack(token=b"a", n=1, credit=2, started=1)]
    (job,) = talk.give(b"b")
    assert talk.do(job, Silence.UNANSWERED) == [WorkerAsk(credit=3, started=2)]
    assert (talk.peer.counters.handed_back, talk.peer.counters.unanswered) == (1, 1)


def test_a_job_ends_once() -> None:
    """An interruption between the outcome and its note hands back what was answered: that is not said."""
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    assert talk.start(job)
    talk.end(job)
    talk.end(job, Silence.HANDED_BACK)
    assert [type(one) for one in talk.turn()] == [Complete]


def test_an_interruption_before_the_handler_was_called_hands_back() -> None:
    """The job was neither started nor left."""
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    talk.end(job, Silence.HANDED_BACK)
    assert [type(one) for one in talk.turn()] == [HandBack]
    assert not talk.start(job)


def test_answer_headers_travel_with_the_answer() -> None:
    """None where none were set."""
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    job.answer_headers = {"trace": "1"}
    (said,) = talk.do(job)
    assert said.headers == {"trace": "1"}


# --- Recall, cancel, and the race with the handler's thread.


def test_a_recall_hands_back_what_has_not_started_and_says_nothing_of_the_rest() -> None:
    """Whoever takes the job out of the table has it."""
    talk = Talk(3).ready()
    one, two, three = talk.give(b"a", b"b", b"c")
    assert talk.start(one)
    said = talk.turn(Recall(tokens=(b"a", b"c", b"?")))
    assert said == [HandBack(token=b"c", n=1, credit=3, started=1)]  # asked for again at once, it would come back
    assert not talk.start(three)
    assert talk.start(two)
    talk.end(one)
    assert [one.credit for one in talk.turn()] == [5]
    assert talk.peer.counters.handed_back == 1


def test_a_recall_from_an_idle_worker_does_not_silence_it() -> None:
    """Nothing will end there that could remind it to ask."""
    talk = Talk().ready()
    talk.give(b"a")
    assert talk.turn(Recall(tokens=(b"a",))) == [HandBack(token=b"a", n=1, credit=2, started=1)]


def test_a_cancelled_job_is_not_started_and_one_in_hand_is_told() -> None:
    """Of neither anything needs to be reported; the place is free again."""
    talk = Talk(2).ready()
    one, two = talk.give(b"a", b"b")
    assert talk.start(one)
    assert talk.turn(Cancel(token=b"b"), Cancel(token=b"a"), Cancel(token=b"?")) == [WorkerAsk(credit=3, started=1)]
    assert not talk.start(two)
    assert one.cancelled
    assert (talk.peer.counters.dropped, talk.peer.counters.cancelled) == (1, 1)
    talk.end(one)
    assert [type(one) for one in talk.turn()] == [Complete]  # checked by the broker like any other


def test_a_job_the_handler_could_not_start_is_not_forgotten() -> None:
    """It was taken away, and nothing happens; or the broker was silent, and it goes back."""
    talk = Talk(2).ready()
    one, two = talk.give(b"a", b"b")
    talk.turn(Cancel(token=b"a"))
    talk.end(one, Silence.UNSTARTED)
    talk.end(two, Silence.UNSTARTED)
    assert talk.turn() == [HandBack(token=b"b", n=1, credit=4, started=2)]


def test_a_refused_report_says_that_the_job_is_lost() -> None:
    """What the handler has in hand is somebody else's by now."""
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    assert talk.start(job)
    talk.turn(ReportRefused(n=1, token=b"a", code="bad_report"))
    assert not job.cancelled
    talk.turn(ReportRefused(n=1, token=b"a", code="not_open"))
    assert job.cancelled
    assert talk.peer.counters.reports_refused == 2
    assert talk.peer.last_refusal is not None


def test_an_answer_that_the_broker_cannot_take_needs_no_other_word() -> None:
    """`refused`: "nothing is to be said": the broker has ended the attempt; what refuses it is kept for the log."""
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    talk.do(job)
    assert talk.turn(ReportRefused(n=1, token=b"a", code="too_large", text="64 MiB"), Ack(ack=1)) == []
    assert talk.peer.last_refusal is not None
    assert talk.peer.last_refusal.text == "64 MiB"
    assert talk.peer.counters.reports_refused == 1


# --- Sleep.


def test_a_worker_that_slept_drops_what_it_holds_and_says_hello() -> None:
    """Neither what it had nor what arrived meanwhile is started; the job in hand is claimed."""
    talk = Talk(3).ready()
    one, two = talk.give(b"a", b"b")
    assert talk.start(one)
    talk.wait(LIVENESS_MS + 1)
    assert not talk.start(two)  # the handler's thread may be the first to go on
    (hello,) = talk.turn(dispatch(b"c", 3))
    assert (hello.running, hello.held, talk.jobs) == ((b"a",), (), [])
    assert not talk.start(two)
    assert talk.peer.counters.sleeps == 1
    assert talk.peer.counters.dropped == 2
    assert talk.welcome(handed=3) == [WorkerAsk(credit=5, started=1)]
    assert talk.do(talk.give(b"d")[0])[0].token == b"d"


def test_a_nap_is_no_sleep() -> None:
    """Up to the liveness time nobody takes the worker for dead."""
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    talk.wait(LIVENESS_MS - 1)
    assert talk.start(job)
    assert talk.turn(Heartbeat()) == [Heartbeat(credit=1, started=1)]


def test_a_disconnected_worker_may_sleep() -> None:
    """It has no timers, so a long time without a turn says nothing."""
    talk = Talk().ready()
    talk.peer.lost(talk.now)
    assert talk.due_ms() is None
    talk.wait(1_000_000)
    talk.peer.woke(talk.now)
    assert talk.peer.counters.sleeps == 0


# --- Lost connections, restarted brokers.


def test_a_worker_that_reconnects_goes_on_with_its_session() -> None:
    """It claims what it has, keeps what is not lost, and counts its credit from `handed`."""
    talk = Talk(4).ready()
    one, two, three = talk.give(b"a", b"b", b"c")
    talk.do(one)
    assert talk.start(two)
    talk.peer.lost(talk.now)
    assert talk.due_ms() == GRACE_NS / MS
    talk.wait(100)
    hello = talk.connect()
    assert (set(hello.running), hello.held) == ({b"a", b"b"}, (b"c",))
    # handed 5: two were lost on their way, and the broker has them back.
    assert talk.welcome(handed=5, received=1) == [WorkerAsk(credit=7, started=2)]
    assert talk.start(three)
    talk.end(two)
    talk.end(three)
    assert [(one.token, one.n) for one in talk.turn()] == [(b"b", 2), (b"c", 3)]
    assert talk.peer.counters.losses == 1
    assert talk.peer.counters.reports_resent == 0


def test_reports_that_were_not_acknowledged_are_sent_again() -> None:
    """Those the broker has not got, under the same numbers, before anything else; pieces and progress are not."""
    talk = Talk(9).ready()
    jobs = talk.give(b"a", b"b", b"c", b"d", b"e")
    talk.do(jobs[0])
    talk.do(jobs[1], failure_of(ValueError("x")))
    talk.do(jobs[2], Silence.HANDED_BACK)
    assert talk.start(jobs[3])
    talk.inbox.append((jobs[3], Piece((b"piece",), 5), 0))
    talk.inbox.append((jobs[3], Note(1.0, None, ""), 0))
    assert [type(one) for one in talk.turn()] == [Partial, Progress]
    talk.turn(Ack(ack=1))
    talk.end(jobs[3])
    talk.peer.take(talk.inbox)  # not sent any more
    talk.peer.lost(talk.now)
    hello = talk.connect()
    assert (set(hello.running), set(hello.held)) == ({b"b", b"c", b"d"}, {b"e"})
    said = talk.welcome(handed=5, received=2)
    assert [(type(one), one.n) for one in said] == [(HandBack, 3), (Complete, 6)]
    assert said[-1].credit == 5 + 9 - 1
    assert talk.peer.counters.reports_resent == 1
    assert talk.turn(dispatch(b"f", 6, ack=6)) == []
    assert len(talk.peer._reports) == 0


def test_a_job_that_is_handed_back_is_claimed_as_what_it_was() -> None:
    """Started or not: the broker counts an attempt where one began."""
    talk = Talk(3).ready()
    one, *_ = talk.give(b"a", b"b")
    assert talk.start(one)
    talk.turn(Recall(tokens=(b"b",)))
    talk.end(one, Silence.HANDED_BACK)
    talk.turn()
    talk.peer.lost(talk.now)
    hello = talk.connect()
    assert (hello.running, hello.held) == ((b"a",), (b"b",))
    assert [type(one) for one in talk.welcome(handed=2)] == [HandBack, HandBack]


def test_what_is_lost_is_dropped_or_told_to_the_handler() -> None:
    """Answers to lost jobs are still sent: the job may take late ones. Lost jobs need not be given back."""
    talk = Talk(5).ready()
    one, two, three, four = talk.give(b"a", b"b", b"c", b"d")
    talk.do(one)
    talk.do(two, Silence.HANDED_BACK)
    assert talk.start(three)
    talk.peer.lost(talk.now)
    talk.connect()
    said = talk.welcome(handed=4, lost=(b"a", b"b", b"c", b"d", b"?"))
    assert said == [Complete(token=b"a", n=1, credit=8, started=3)]
    assert three.cancelled
    assert not talk.start(four)
    talk.end(three)
    assert [type(one) for one in talk.turn()] == [Complete]


@pytest.mark.parametrize("again", [{"epoch": 2}, {"epoch": 1, "handed": 0}])
def test_in_a_new_session_what_is_held_goes_back_and_numbers_begin_anew(again: dict[str, int]) -> None:
    """Another broker, or one that had forgotten this worker: old numbers would tell of the wrong jobs."""
    talk = Talk(3).ready()
    one, two = talk.give(b"a", b"b")
    assert talk.start(one)
    talk.peer.lost(talk.now)
    talk.connect()
    assert talk.welcome(**again) == [HandBack(token=b"b", n=1, credit=2, started=0)]
    assert not talk.start(two)
    talk.end(one)
    assert [one.started for one in talk.turn()] == [0]  # `a` was begun under another count
    (job,) = talk.give(b"c")
    assert job.seq == 1
    assert [one.started for one in talk.said] == [1]
    assert talk.do(job) == [Complete(token=b"c", n=3, credit=4, started=1)]


def test_while_there_is_no_broker_jobs_are_started_for_a_short_grace_only() -> None:
    """The broker keeps them so long; what has not started by then is dropped, and not claimed."""
    talk = Talk(3)
    talk.connect()
    talk.welcome(limits={"session_grace_ms": 500})
    one, two, three = talk.give(b"a", b"b", b"c")
    assert talk.start(one)
    talk.peer.lost(talk.now)
    talk.wait(499)
    assert talk.start(two)
    assert talk.due_ms() == 1
    talk.wait(1)
    assert not talk.start(three)
    talk.turn()
    assert talk.peer.counters.dropped == 1
    hello = talk.connect()
    assert (set(hello.running), hello.held) == ({b"a", b"b"}, ())


def test_what_a_hello_claimed_and_the_grace_has_ended_before_the_welcome_is_handed_back() -> None:
    """The broker believes that it is here: it would wait for it for ever."""
    talk = Talk(2).ready()
    other, one = talk.give(b"z", b"a")
    assert talk.start(other)
    talk.peer.lost(talk.now)
    assert talk.connect().held == (b"a",)
    talk.wait(GRACE_NS / MS)
    assert not talk.start(one)
    assert talk.turn() == []
    given, beat = talk.welcome(handed=2)
    assert (given, type(beat), beat.credit) == (HandBack(token=b"a", n=1), Heartbeat, 3)
    assert talk.peer.counters.dropped == 0


@pytest.mark.parametrize("why", ["new", "lost", "no_session", "slept", "refused"])
def test_a_job_that_arrives_before_the_welcome_is_not_taken(why: str) -> None:
    """The hello did not claim it, so the broker takes it back by itself. Nothing is said of it, then or later."""
    talk = Talk(2)
    if why == "new":
        talk.connect()
    else:
        talk.ready()
        talk.wait(LIVENESS_MS + 1 if why == "slept" else 200)
        if why == "lost":
            talk.peer.lost(talk.now)
            talk.connect()
        else:
            talk.turn(*([] if why == "slept" else [Error(code="no_session")]))
    if why == "refused":
        talk.turn(Error(code="too_many_peers"))
    before = talk.peer.counters.dropped
    assert talk.turn(dispatch(b"a", 2, ack=1)) == []
    assert talk.jobs == []
    (ask,) = talk.turn(dispatch(b"b", 3), welcome(handed=3))
    assert (type(ask), ask.credit, talk.jobs) == (WorkerAsk, 5, [])
    assert talk.peer.counters.dropped == before + 2
    talk.seq = 3
    (job,) = talk.give(b"c")
    assert talk.do(job) == [Complete(token=b"c", n=1, credit=6, started=4)]


def test_a_hello_claims_no_more_than_its_header_holds() -> None:
    """What is started comes first, then what is held, then what was reported; the rest of what is held is dropped."""
    talk = Talk(1_000).ready()
    size = 200
    jobs = talk.give(*(b"%0*d" % (size, number) for number in range(400)))
    for job in jobs[:3]:
        assert talk.start(job)
    talk.peer.lost(talk.now)
    hello = talk.connect()
    assert hello.running == tuple(job.token for job in jobs[:3])
    assert len(native.encode(hello)) <= native.HEADER_BYTES_MAX
    assert len(hello.held) > 48 * 1024 // (size + CLAIM_BYTES) - 10
    assert talk.peer.counters.dropped == 397 - len(hello.held)
    assert sum(talk.start(job) for job in jobs[3:]) == len(hello.held)


def test_names_of_queues_leave_room_for_claims() -> None:
    """Said when the worker is made."""
    with pytest.raises(ValueError, match="names of all queues"):
        Talk(queues=tuple(chr(1_000 + number) * 200 for number in range(100)))


# --- What a handler says of a job in hand.


def handler_of(talk: Talk, job: Job) -> tuple[CurrentJob, Asides]:
    """What the handler sees of the job, over the inbox of this conversation."""
    asides = Asides(talk.inbox, lambda: talk.now, 1_000)
    job.view = CurrentJob(job, asides)
    return job.view, asides


def test_progress_tells_the_latest_only() -> None:
    """What waits to be sent is replaced, and an outcome says more than any progress."""
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    assert talk.start(job)
    view, _ = handler_of(talk, job)
    for done in range(1_000):
        view.progress(done, 1_000, "note\udcff")
    assert talk.turn(room=0) == []
    view.progress(1_000)
    (said,) = talk.turn()
    assert (type(said), said.done, said.total, said.note, said.credit) == (Progress, 1_000.0, None, "", 1)
    view.progress(3)
    talk.end(job)
    assert [type(one) for one in talk.turn()] == [Complete]


def test_pieces_of_a_result_go_in_order_before_it() -> None:
    """Each is a report with a number, sent once; its bytes are free when it was sent."""
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    assert talk.start(job)
    view, asides = handler_of(talk, job)
    view.partial(b"one")
    view.partial([b"two", bytearray(b"three")])
    talk.end(job)
    said = talk.turn()
    assert [(type(one), one.n) for one in said] == [(Partial, 1), (Partial, 2), (Complete, 3)]
    assert talk.bodies == [(b"one",), (b"two", b"three"), (b"done",)]
    assert talk.peer.pieces_freed == asides._bytes
    assert len(talk.peer._reports) == 1
    assert talk.peer.counters.partials == 2


def test_pieces_and_progress_without_a_session_are_dropped() -> None:
    """Who follows would get them late or never; those that waited when the connection went are dropped too."""
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    assert talk.start(job)
    view, asides = handler_of(talk, job)
    view.partial(b"waits")
    view.progress(1)
    talk.turn(room=0)
    talk.peer.lost(talk.now)
    view.partial(b"late")
    view.progress(2)
    talk.turn()
    assert talk.peer.pieces_freed == asides._bytes
    talk.connect()
    assert talk.welcome(handed=1) == [WorkerAsk(credit=1, started=1)]
    assert talk.peer.counters.partials_dropped == 1
    assert talk.peer._reports.bytes == 0


def test_an_extension_counts_from_when_it_was_asked_for() -> None:
    """Also where it is sent later, and again after a loss; of several that wait the longest is sent."""
    talk = Talk().ready()
    (job,) = talk.give(b"a", run_ms=10_000)
    assert talk.start(job)
    view, _ = handler_of(talk, job)
    view.extend(60)
    view.extend(20)
    talk.wait(100)
    (said,) = talk.turn()
    assert (type(said), said.run_ms, said.n) == (Extend, 59_900, 1)
    talk.peer.lost(talk.now)
    talk.wait(900)
    talk.connect()
    (said,) = talk.welcome(handed=1)
    assert (type(said), said.run_ms, said.n) == (Extend, 59_000, 2)
    talk.turn(Ack(ack=2))
    talk.peer.lost(talk.now)
    talk.connect()
    assert talk.welcome(handed=1) == [WorkerAsk(credit=1, started=1)]
    assert talk.peer.counters.extended == 2


def test_a_refused_extension_is_taken_back_from_the_deadline() -> None:
    """The handler sees what holds."""
    talk = Talk().ready()
    (job,) = talk.give(b"a", run_ms=10_000)
    assert talk.start(job)
    view, _ = handler_of(talk, job)
    before = view.deadline
    assert before is not None
    view.extend(1_000)
    assert view.deadline is not None
    assert view.deadline > before + 900
    (said,) = talk.turn()
    talk.turn(ReportRefused(n=said.n, token=b"a", code="ceiling"))
    assert view.deadline == before
    assert not view.cancelled


@pytest.mark.parametrize(("run_ms", "left"), [(10_000, 3), (1_000, 1)])
def test_the_deadline_of_the_job_is_that_of_the_attempt_where_it_is_sooner(run_ms: int, left: int) -> None:
    """It counts from the hand-over, whenever the job is started; no extension moves it."""
    talk = Talk().ready()
    (job,) = talk.give(b"a", run_ms=run_ms, deadline_ms=5_000)
    talk.wait(2_000)
    assert talk.start(job)
    now = time.monotonic()
    view, _ = handler_of(talk, job)
    assert view.deadline is not None
    assert left - 0.5 < view.deadline - now < left + 0.5
    view.extend(1_000)
    assert 2.5 < view.deadline - now < 3.5
    assert not view.cancelled


def test_a_job_may_have_a_deadline_and_no_run_limit() -> None:
    """Then that is the attempt's; 0 ms are some, too."""
    talk = Talk().ready()
    (job,) = talk.give(b"a", deadline_ms=0)
    assert talk.start(job)
    view, _ = handler_of(talk, job)
    assert view.deadline is not None
    assert view.deadline <= time.monotonic()


def extended(talk: Talk, *seconds: float) -> tuple[CurrentJob, float, list[Any]]:
    """A job under way for 10 s at most, and a handler that asks for longer in one turn; its deadline before that."""
    (job,) = talk.give(b"a", run_ms=10_000)
    assert talk.start(job)
    view, _ = handler_of(talk, job)
    before = view.deadline
    assert before is not None
    for each in seconds:
        view.extend(each)
    return view, before, talk.turn()


def test_of_extensions_that_went_as_one_none_is_left_when_it_is_refused() -> None:
    """The deadline is as it was before the first of them."""
    talk = Talk().ready()
    view, before, (said,) = extended(talk, 1_000, 2_000, 500)
    assert view.deadline is not None
    assert view.deadline > before + 1_900
    talk.turn(ReportRefused(n=said.n, token=b"a", code="ceiling"))
    assert view.deadline == before


@pytest.mark.parametrize(
    ("refused", "least", "most"),
    [((), 1_900, 2_100), ((1,), 1_900, 2_100), ((2,), 900, 1_100), ((1, 2), 0, 0), ((2, 1), 0, 0)],
)
def test_the_deadline_is_the_latest_that_was_not_refused(refused: tuple[int, ...], least: float, most: float) -> None:
    """Of two that were asked for one after the other, whichever the broker takes."""
    talk = Talk().ready()
    view, before, (first,) = extended(talk, 1_000)
    view.extend(2_000)
    (second,) = talk.turn()
    assert (first.n, second.n) == (1, 2)
    talk.turn(*(ReportRefused(n=n, token=b"a", code="ceiling") for n in refused), Ack(ack=2))
    assert view.deadline is not None
    assert least <= view.deadline - before <= most
    view.extend(9_000)
    (third,) = talk.turn()
    talk.turn(ReportRefused(n=third.n, token=b"a", code="ceiling"))
    assert least <= view.deadline - before <= most
    assert talk.peer._extended == {}


def test_an_extension_that_the_broker_has_and_has_not_decided_is_asked_for_again() -> None:
    """Its refusal may have gone with the connection; one report stands for all that were sent before."""
    talk = Talk().ready()
    view, before, _ = extended(talk, 1_000)
    view.extend(2_000)
    talk.turn()
    talk.peer.lost(talk.now)
    view.extend(1_500)
    talk.connect()
    (said,) = talk.welcome(handed=1, received=2)
    assert (type(said), said.run_ms, said.n) == (Extend, 2_000_000, 3)
    talk.turn(ReportRefused(n=3, token=b"a", code="ceiling"), Ack(ack=3))
    assert view.deadline == before


def test_what_is_said_of_a_job_that_has_ended_goes_nowhere() -> None:
    """A thread that the handler left behind disturbs nobody."""
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    talk.do(job)
    view, asides = handler_of(talk, job)
    view.extend(5)
    view.progress(5)
    view.partial(b"x")
    assert talk.turn() == []
    assert talk.peer.pieces_freed == asides._bytes
    talk.inbox.append((job, Extension(0, 0.0), 0))
    assert talk.turn() == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda view: view.extend(-1), "an extension is a number of seconds"),
        (lambda view: view.extend(float("nan")), "an extension is a number of seconds"),
        (lambda view: view.progress(float("nan")), "done is a finite number, not nan"),
        (lambda view: view.progress(float("-inf"), 1), "done is a finite number, not -inf"),
        (lambda view: view.progress(1, float("nan")), "total is a finite number, not nan"),
        (lambda view: view.progress(1, 10**400), "total is a finite number, not inf"),
        (lambda view: view.partial("text"), "a frame is bytes"),
        (lambda view: view.partial(bytes(2_000)), "send several"),
        (lambda view: setattr(view, "answer_headers", {"a": 1}), "text to text"),
        (lambda view: setattr(view, "answer_headers", {"a": "x" * 200}), "bytes of headers"),
        (lambda view: setattr(view, "answer_headers", {"a": "", "b": "", "c": ""}), "bytes of headers"),
        (lambda view: setattr(view, "answer_headers", {"a": "\udcff"}), "surrogates"),
    ],
)
def test_what_cannot_be_sent_is_refused_in_the_handler(wrong: Callable[[CurrentJob], None], says: str) -> None:
    """Nothing of it reaches the library's thread."""
    talk = Talk().ready()
    (job,) = talk.give(b"a")
    assert talk.start(job)
    view, asides = handler_of(talk, job)
    asides.headers_bytes_max = 150  # as the broker counts: 64 more for each
    with pytest.raises((ValueError, TypeError), match=says):
        wrong(view)
    assert not talk.inbox


def test_a_handler_sees_its_job() -> None:
    """Ids, attempts, the queue, headers, and when its time is up."""
    talk = Talk().ready()
    (job,) = talk.give(b"a", attempt=2, tries=3, queue="fast", headers={"k": "v"}, run_ms=5_000)
    assert talk.start(job)
    view, _ = handler_of(talk, job)
    assert (view.id, view.uuid) == (b"j" * 15 + b"a", "6a6a6a6a-6a6a-6a6a-6a6a-6a6a6a6a6a61")
    assert (view.attempt, view.tries, view.queue, view.headers, view.cancelled) == (2, 3, "fast", {"k": "v"}, False)
    assert view.answer_headers is None
    assert view.deadline is not None
    (other,) = Talk().ready().give(b"a")
    assert CurrentJob(other, Asides(talk.inbox, lambda: 0, 1)).deadline is None


# --- The end.


def test_a_worker_that_retires_takes_back_its_credit_finishes_and_says_goodbye() -> None:
    """Found by use: its credit stayed, so the broker went on to hand it what it handed back, until the hand-overs of
    every waiting job were spent. Another hello leaves none, and claims only what runs.
    """
    talk = Talk(3).ready()
    one, two = talk.give(b"a", b"b")
    assert talk.start(one)
    talk.peer.retire(talk.now)
    assert not talk.start(two)
    (hello,) = talk.turn()
    assert (type(hello), hello.running, hello.held) == (WorkerHello, (b"a",), ())
    assert talk.turn(dispatch(b"c", 3)) == []
    assert talk.jobs == []
    assert talk.welcome(handed=3) == [WorkerAsk(credit=3, started=1)]
    talk.end(one)
    assert talk.turn() == [Complete(token=b"a", n=1, credit=3, started=1)]
    assert not talk.peer.finished
    assert talk.turn(dispatch(b"d", 4)) == [HandBack(token=b"d", n=2, credit=3, started=1)]
    talk.turn(Ack(ack=1))
    assert not talk.peer.finished
    talk.turn(Ack(ack=2))
    assert talk.peer.finished
    assert talk.turn(goodbye=True) == [Goodbye()]
    assert talk.peer.gone
    assert talk.turn(goodbye=True) == []
    assert talk.peer.farewell() == []


def test_what_the_job_in_hand_says_while_its_worker_retires_is_told_after_the_welcome() -> None:
    """Pieces of its result, progress and the result itself: none is lost with the hello."""
    talk = Talk(3).ready()
    (one,) = talk.give(b"a")
    assert talk.start(one)
    talk.end(one, Piece((b"first",), 5))
    talk.peer.take(talk.inbox)
    talk.peer.retire(talk.now)
    (hello,) = talk.turn()
    assert (type(hello), hello.running) == (WorkerHello, (b"a",))
    talk.end(one, Piece((b"second",), 6))
    talk.end(one, Note(1.0, 2.0, ""))
    assert talk.turn() == []
    said = talk.welcome(handed=1)
    assert [type(it) for it in said] == [Partial, Partial, Progress]
    assert talk.bodies[:2] == [(b"first",), (b"second",)]
    assert talk.peer.counters.partials_dropped == 0
    talk.end(one)
    assert [type(it) for it in talk.turn()] == [Complete]


def test_a_worker_that_retires_and_has_asked_for_nothing_more_says_nothing() -> None:
    """What it granted is spent: there is nothing to take back."""
    talk = Talk(1).ready()
    (one,) = talk.give(b"a")
    assert talk.start(one)
    talk.turn()
    talk.peer.retire(talk.now)
    assert talk.turn() == []
    talk.end(one)
    assert talk.turn() == [Complete(token=b"a", n=1, credit=1, started=1)]


def test_a_worker_that_retires_before_it_is_welcome_hands_back_what_it_has_claimed() -> None:
    """The hello that is under way said that it holds it; and no credit follows."""
    talk = Talk(2).ready()
    one, two = talk.give(b"a", b"b")
    assert talk.start(one)
    talk.turn()
    talk.peer.lost(talk.now)
    hello = talk.connect()
    assert (hello.running, hello.held) == ((b"a",), (b"b",))
    talk.peer.retire(talk.now)
    assert not talk.start(two)
    assert talk.turn() == []
    assert talk.welcome(handed=2) == [HandBack(token=b"b", n=1, credit=2, started=1)]


def test_a_worker_that_cannot_wait_says_goodbye_all_the_same() -> None:
    """Where it is in a session, or has asked for one."""
    talk = Talk()
    assert talk.peer.farewell() == []
    talk.connect()
    assert [native.from_worker(VERSION, one[1]) for one in talk.peer.farewell()] == [Goodbye()]


def test_nothing_is_started_or_said_when_it_has_stopped() -> None:
    """Nor held."""
    talk = Talk(2).ready()
    one, two = talk.give(b"a", b"b")
    talk.do(one)
    talk.peer.stopped()
    assert not talk.start(two)
    assert talk.peer.finished
    assert talk.turn() == []
