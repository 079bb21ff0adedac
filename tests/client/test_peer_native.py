"""The client's native dialect as conversations with itself: no socket, no thread, and time is what the test says."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relet.client.errors import BrokerLost, JobExpired, JobFailed, JobRefused, JobUnknown, UnexpectedAnswer
from relet.client.peer import Request
from relet.client.peer_native import (
    AGAIN_MAX,
    GREETING_NS,
    MISPLACED_NS,
    RECEIPT_BYTES_MAX,
    RECEIPT_QUIET_NS,
    RECEIPTS_MAX,
    STOPPED_NS,
    NativePeer,
    request_ids,
)
from relet.client.terms import Asking, Backoff, Kind, Terms
from relet.client.told import Enqueued, JobStatus, Partial, Progress
from relet.core.job import Cause
from relet.dialects.native import encode, from_client
from relet.messages import (
    SIGNATURE,
    Admitted,
    BackoffMs,
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
    Welcome,
)
from relet.transport.endpoints import EndpointError

MS = 1_000_000
HEARTBEAT_MS = 1_000
LIVENESS_MS = 4_000
SECOND = 1_000 * MS
LIMITS = {"ids": 100, "body_bytes": 2_000, "frames": 200}
"""So small that half of the bytes are left for header and path."""
ENQUEUE = Asking(Kind.ENQUEUE)
RESULT = Asking(Kind.RESULT)
STATE = Asking(Kind.STATE)
NAME = b"a request's own id"


class Several(Request):
    """A request that takes an answer of several frames."""

    multipart = True


class Learning(Request):
    """A request that remembers what came beside its answer."""

    __slots__ = ("learned",)

    def learn(self, headers: dict[str, str] | None, again: bool) -> None:
        self.learned = (headers, again)


class Talk:
    """A peer, the broker's side of the conversation, and the clock."""

    def __init__(self, *, resend: bool = True, welcome: bool = True) -> None:
        self.peer: NativePeer[Request] = NativePeer(
            (b"%016d" % n for n in count()), resend=resend, agent="test", endpoint="tcp://broker:1"
        )
        self.now = SECOND
        self.number = 0
        if welcome:
            self.connect()

    def connect(self, epoch: int = 1) -> None:
        """A new connection, hello and welcome."""
        self.peer.became_connected(self.now)
        assert [type(message) for message in self.said()] == [ClientHello]
        self.welcome(epoch)

    def welcome(self, epoch: int = 1, **limits: int) -> None:
        """The broker begins a session."""
        self.number = 0
        self.hear(Welcome(epoch=epoch, heartbeat_ms=HEARTBEAT_MS, liveness_ms=LIVENESS_MS, limits=LIMITS | limits))

    def submit(self, *requests: Request) -> None:
        """Callers want this."""
        self.peer.submit(requests, self.now)

    def offered(self, messages_max: int = 1_000) -> list[tuple[Any, tuple[bytes, ...]]]:
        """What would be sent: headers decoded, and bodies."""
        told = []
        for signature, header, *body in self.peer.outgoing(messages_max, self.now):
            assert signature == SIGNATURE
            flat: list[bytes] = []
            for part in body:
                flat.extend(part if isinstance(part, tuple) else (part,))
            told.append((from_client(1, header), tuple(flat)))
        return told

    def send(self) -> list[tuple[Any, tuple[bytes, ...]]]:
        """The socket takes everything."""
        wants = self.peer.wants_to_send
        told = self.offered()
        assert wants == bool(told)
        self.peer.sent(len(told), self.now)
        return told

    def said(self) -> list[Any]:
        """The same, the headers alone."""
        return [header for header, _ in self.send()]

    def hear(self, *messages: Any, body: Sequence[bytes] = ()) -> list[tuple[Request, Any]]:
        """The broker says this."""
        return self.peer.received([(SIGNATURE, encode(message), *body) for message in messages], self.now)

    def outcome(self, request: Request, *body: bytes, **fields: Any) -> list[tuple[Request, Any]]:
        """The broker tells an outcome, in the session's numbers."""
        self.number += 1
        return self.hear(Outcome(**{"id": request.name, "n": self.number} | fields), body=body or (b"done",))

    def refuse(self, request: Request, code: str, retry_ms: int = 0) -> list[tuple[Request, Any]]:
        """The broker does not take it."""
        return self.hear(Submitted(jobs=(Admitted(id=request.name, code=code, text="why", retry_ms=retry_ms),)))

    def advance(self, by_ns: int) -> list[tuple[Request, Any]]:
        """Time goes by, and what is due is done."""
        self.now += by_ns
        return self.peer.expire(self.now)

    def events(self) -> list[str]:
        """What would be logged."""
        events = [notice.event for notice in self.peer.notices]
        self.peer.notices.clear()
        return events


@pytest.fixture
def talk() -> Talk:
    """A peer that is welcome."""
    return Talk()


def job(body: bytes = b"job", timeout_ns: int | None = None, **terms: Any) -> Request:
    """A plain job."""
    return Request(body, timeout_ns, Asking(Kind.JOB, Terms(**terms))) if terms else Request(body, timeout_ns)


# --- Sessions.


def test_hello_comes_first_and_nothing_else_before_the_welcome() -> None:
    """It says what the client is and can; what waits goes when the broker has answered."""
    talk = Talk(welcome=False)
    talk.submit(asked := job())
    assert talk.send() == []
    talk.peer.became_connected(talk.now)
    assert talk.said() == [ClientHello(features=("follows",), agent="test")]
    assert talk.said() == []
    assert not talk.peer.ready
    talk.welcome()
    assert talk.peer.ready
    assert talk.send() == [(Submit(id=asked.name), (b"job",))]
    assert talk.said() == []
    assert talk.events() == ["broker_connected"]


def test_a_hello_that_the_socket_does_not_take_is_said_later() -> None:
    """The connection stands, but its pipe is full."""
    talk = Talk(welcome=False)
    talk.peer.became_connected(talk.now)
    talk.offered()
    talk.peer.sent(0, talk.now)
    assert [type(message) for message in talk.said()] == [ClientHello]
    talk.peer.became_connected(talk.now)
    talk.peer.lost("why")
    assert talk.said() == []


def test_a_broker_that_does_not_know_the_dialect_is_told_once_and_asked_again_while_something_waits() -> None:
    """The warning says what to do; a client that wants nothing sleeps then."""
    talk = Talk(welcome=False)
    talk.peer.became_connected(talk.now)
    talk.said()
    assert talk.peer.due == talk.now + GREETING_NS
    talk.advance(GREETING_NS - 1)
    assert talk.events() == []
    talk.advance(1)
    (notice,) = talk.peer.notices
    assert 'dialect="2010"' in notice.fields["text"]
    assert talk.said() == []
    assert talk.peer.due is None
    talk.submit(job())
    for _ in range(3):
        assert talk.peer.due is not None
        talk.advance(max(0, talk.peer.due - talk.now))
        assert [type(message) for message in talk.said()] == [ClientHello]
    assert len(talk.peer.notices) == 1


def test_a_second_welcome_numbers_outcomes_anew_and_sends_nothing_again() -> None:
    """A hello was said twice; both went before anything else."""
    talk = Talk(welcome=False)
    talk.peer.became_connected(talk.now)
    talk.said()
    talk.submit(asked := job())
    talk.advance(GREETING_NS)
    talk.said()
    talk.welcome()
    assert talk.said() == [Submit(id=asked.name)]
    talk.welcome()
    assert talk.said() == []
    assert talk.outcome(asked) == [(asked, b"done")]
    assert talk.peer.counters.outcomes_missed == 0


def test_after_a_loss_all_that_is_open_is_asked_again_in_order_with_its_age(talk: Talk) -> None:
    """Same id, at least one millisecond old; what had never been sent is new."""
    requests = [job(b"%d" % i) for i in range(4)]
    talk.submit(*requests[:3])
    talk.send()
    talk.submit(requests[3])
    talk.outcome(requests[1])
    talk.advance(250 * MS)
    assert talk.peer.lost("why") == []
    assert talk.send() == []
    talk.connect()
    ages = {requests[0]: 250, requests[2]: 250, requests[3]: 0}
    assert talk.send() == [(Submit(id=r.name, age_ms=age), (r.body,)) for r, age in ages.items()]
    assert talk.peer.counters.resent == 2
    talk.peer.lost("why")
    talk.connect()
    assert [message.age_ms for message in talk.said()] == [250, 250, 1]


def test_the_age_counts_from_the_first_asking_not_from_the_wait_before_it() -> None:
    """A request that waited for its broker was not asked then."""
    talk = Talk(welcome=False)
    talk.submit(asked := job())
    talk.advance(3_600 * SECOND)
    talk.connect()
    assert talk.said() == [Submit(id=asked.name)]
    talk.advance(2 * MS)
    talk.peer.lost("why")
    talk.connect()
    assert talk.said() == [Submit(id=asked.name, age_ms=2)]


def test_without_resend_a_loss_ends_jobs_that_were_sent_and_asks_questions_again() -> None:
    """Jobs not yet sent are kept; asking what became of one runs nothing twice."""
    talk = Talk(resend=False)
    sent, handed, question = job(), Request(b"x", None, ENQUEUE), Request(b"", None, RESULT, NAME)
    talk.submit(sent, handed, question)
    talk.send()
    talk.submit(unsent := job())
    lost = talk.peer.lost("why")
    assert [request for request, _ in lost] == [sent, handed]
    assert {type(error) for _, error in lost} == {BrokerLost}
    talk.connect()
    assert talk.said() == [Inquire(id=NAME, wait=True), Submit(id=unsent.name)]
    talk.refuse(unsent, "busy", retry_ms=100)
    talk.submit(Request(b"", None, STATE, NAME))
    resent = talk.peer.counters.resent
    assert talk.peer.lost("why") == []
    assert talk.peer.counters.resent == resent + 1  # the question that had been sent
    talk.connect()
    assert len(talk.said()) == 3


def test_no_session_is_answered_with_hello_and_everything_again(talk: Talk) -> None:
    """One hello, though the broker says it for every message; what it says meanwhile is heard."""
    first, second = job(), job()
    talk.submit(first, second)
    talk.send()
    talk.advance(5 * MS)
    error = Error(code="no_session", text="say hello")
    talk.hear(error, error)
    assert not talk.peer.ready
    assert [type(message) for message in talk.said()] == [ClientHello]
    talk.hear(error)
    assert talk.refuse(first, "busy", retry_ms=100) == []  # of the session before
    assert talk.said() == []
    talk.welcome(epoch=2)
    assert talk.said() == [Submit(id=first.name, age_ms=5), Submit(id=second.name, age_ms=5)]
    assert talk.peer.counters.errors == 0
    assert talk.events() == ["broker_connected", "broker_connected"]


def test_no_session_without_resend_ends_what_was_sent() -> None:
    """As a lost connection does."""
    talk = Talk(resend=False)
    talk.submit(asked := job())
    talk.send()
    ((request, error),) = talk.hear(Error(code="no_session"))
    assert (request, type(error)) == (asked, BrokerLost)


def test_other_errors_are_counted_and_logged_at_a_bounded_rate(talk: Talk) -> None:
    """They end nothing."""
    talk.submit(job())
    talk.send()
    talk.events()
    for _ in range(100):
        assert talk.hear(Error(code="bad_header", text="x" * 10_000, of="submit")) == []
    assert talk.peer.counters.errors == 100
    assert len(talk.peer.notices) == 1
    assert len(talk.peer.notices[0].fields["text"]) == 500
    assert len(talk.peer) == 1


def test_a_client_at_the_workers_endpoint_ends_what_is_open() -> None:
    """Nobody would ever answer; what is submitted later tries anew, and the log says it once for a connection."""
    talk = Talk(welcome=False)
    talk.peer.became_connected(talk.now)
    talk.submit(asked := job(), handed := Request(b"x", None, ENQUEUE, NAME), waits := Request(b"", None, RESULT, NAME))
    assert talk.said() == [ClientHello(features=("follows",), agent="test")]
    wrong = Error(code="wrong_endpoint", text="connect clients to CLIENTS", of="hello")
    ended = talk.hear(wrong)
    assert [request for request, _ in ended] == [asked, handed, waits]
    assert {(type(outcome), str(outcome)) for _, outcome in ended} == {
        (EndpointError, "tcp://broker:1: connect clients to CLIENTS")
    }
    assert (len(talk.peer), talk.peer.unsent, talk.peer._guests) == (0, 0, {})
    assert talk.events() == ["broker_unreachable"]
    assert talk.peer.due is None
    talk.submit(later := job())
    assert talk.said() == []
    assert talk.peer.due == talk.now + MISPLACED_NS
    talk.advance(MISPLACED_NS)
    assert [type(message) for message in talk.said()] == [ClientHello]
    assert [request for request, _ in talk.hear(wrong)] == [later]
    assert talk.events() == []


def test_a_client_that_is_welcome_is_at_the_right_endpoint(talk: Talk) -> None:
    """Whatever a broker says then."""
    talk.submit(asked := job())
    talk.send()
    assert talk.hear(Error(code="wrong_endpoint")) == []
    assert talk.outcome(asked) == [(asked, b"done")]


# --- Silence.


def test_a_silent_broker_is_asked_and_then_given_up(talk: Talk) -> None:
    """Heartbeats while requests are open, and after the liveness time the connection is called deaf."""
    talk.submit(job())
    talk.send()
    assert talk.peer.due == talk.now + HEARTBEAT_MS * MS
    talk.advance(HEARTBEAT_MS * MS - 1)
    assert talk.said() == []
    for _ in range(3):
        assert not talk.peer.deaf
        assert talk.peer.due is not None
        talk.advance(talk.peer.due - talk.now)
        assert talk.said() == [Heartbeat()]
    talk.advance(HEARTBEAT_MS * MS)
    assert talk.peer.deaf
    talk.peer.lost("it was silent")
    assert not talk.peer.deaf


def test_whatever_the_broker_says_is_a_sign_of_life(talk: Talk) -> None:
    """A heartbeat that is answered begins the time anew."""
    talk.submit(job())
    talk.send()
    for _ in range(10):
        talk.advance(HEARTBEAT_MS * MS)
        assert talk.said() == [Heartbeat()]
        talk.hear(Heartbeat())
    assert not talk.peer.deaf


def test_silence_counts_only_where_it_was_broken_by_a_heartbeat(talk: Talk) -> None:
    """A client whose own thread was away for long asks before it judges."""
    talk.submit(job())
    talk.send()
    talk.advance(10 * LIVENESS_MS * MS)
    assert not talk.peer.deaf
    assert talk.said() == [Heartbeat()]


def test_an_idle_client_is_silent_and_never_wakes_up(talk: Talk) -> None:
    """Nothing open, nothing to receipt: nothing is due, and a request after an hour is no late one."""
    assert talk.peer.due is None
    talk.advance(3_600 * SECOND)
    assert talk.said() == []
    talk.submit(asked := job())
    assert talk.peer.due == talk.now + HEARTBEAT_MS * MS
    assert talk.said() == [Submit(id=asked.name)]


# --- Outcomes.


def test_an_answer_of_one_empty_frame_is_an_answer(talk: Talk) -> None:
    """One empty frame is b"", no frame at all is none; who takes several gets either as it is."""
    one, none, several, nothing, more = job(), job(), Several(b"x"), Several(b"x"), job()
    talk.submit(one, none, several, nothing, more)
    talk.send()
    assert talk.outcome(one, b"") == [(one, b"")]
    assert talk.outcome(several, b"", b"") == [(several, [b"", b""])]
    talk.number += 1
    ((_, unexpected),) = talk.hear(Outcome(id=none.name, n=talk.number))
    assert isinstance(unexpected, UnexpectedAnswer)
    assert unexpected.frames == ()
    talk.number += 1
    assert talk.hear(Outcome(id=nothing.name, n=talk.number)) == [(nothing, [])]
    ((_, unexpected),) = talk.outcome(more, b"a", b"b")
    assert unexpected.frames == (b"a", b"b")


def test_a_failure_carries_all_that_the_broker_says(talk: Talk) -> None:
    """State, reason, the last failure and the ledger; its text is one line."""
    talk.submit(asked := job())
    talk.send()
    ledger = (Entry(attempt=1, cause="worker_lost"), Entry(attempt=2, cause="failed", kind="ValueError", text="no"))
    fields = {"state": "discarded", "reason": "tries_spent", "kind": "ValueError", "text": "no\nway", "attempts": 2}
    ((request, error),) = talk.outcome(asked, ledger=ledger, **fields)
    assert request is asked
    assert isinstance(error, JobFailed)
    assert {name: getattr(error, name) for name in fields} == fields
    assert (error.ledger, error.request_id) == (ledger, asked.name)
    assert str(error) == "the job was discarded (tries_spent) after 2 attempts: ValueError: no way"
    assert talk.peer.counters.failed == 1


def test_a_failure_without_words_says_what_is_known() -> None:
    """The cause of the last attempt, in words, or only the reason."""
    words = {
        Cause.EXPIRED: "the time of the last one was up",
        Cause.SILENT: "nothing was heard of the last one for too long",
        Cause.FAILED: "the last one failed",
        Cause.WORKER_LOST: "the worker of the last one was lost",
        Cause.DEADLINE: "the deadline of the job ended the last one",
        "bored": "the last one ended with bored",
    }
    assert set(Cause) < set(words)
    for cause, text in words.items():
        ledger = (Entry(attempt=1, cause=cause),)
        error = JobFailed(state="discarded", reason="tries_spent", attempts=1, ledger=ledger)
        assert str(error) == f"the job was discarded (tries_spent) after 1 attempt: {text}"
    assert (
        str(JobFailed(state="cancelled", reason="asker_gone")) == "the job was cancelled (asker_gone) after 0 attempts"
    )
    assert str(JobFailed("the broker gave the job up")) == "the broker gave the job up"


def test_headers_and_again_reach_the_request_before_its_outcome(talk: Talk) -> None:
    """A broker younger than the request is logged once, and counted each time."""
    requests = [Learning(b"x") for _ in range(3)]
    talk.submit(*requests)
    talk.send()
    talk.events()
    talk.outcome(requests[0], headers={"trace": "1"})
    assert requests[0].learned == ({"trace": "1"}, False)
    for asked in requests[1:]:
        talk.outcome(asked, again=True)
        assert asked.learned == (None, True)
    assert talk.events() == ["answered_again"]
    assert talk.peer.counters.answered_again == 2


def test_outcomes_of_unknown_ids_and_repetitions_are_counted_and_disturb_nobody(talk: Talk) -> None:
    """A repetition has a number that is known; a stranger's has a new one, and is receipted."""
    talk.submit(asked := job())
    talk.send()
    assert talk.outcome(Request(b"", name=b"never asked for it")) == []
    assert talk.outcome(asked) == [(asked, b"done")]
    assert talk.hear(Outcome(id=asked.name, n=talk.number)) == []
    assert talk.peer.counters.answers_unknown == 2
    assert talk.peer.counters.outcomes_missed == 0
    talk.submit(after := job())
    assert talk.said() == [Submit(id=after.name, received=2)]


@pytest.mark.parametrize(
    "message",
    [
        (),
        (b"",),
        (SIGNATURE,),
        (SIGNATURE[:7] + b"\x02", encode(Heartbeat())),
        (b"", encode(Heartbeat())),
        (SIGNATURE, b""),
        (SIGNATURE, b"\xc1"),
        (SIGNATURE, msgspec.msgpack.encode([1])),
        (SIGNATURE, msgspec.msgpack.encode({"t": "no such word"})),
        (SIGNATURE, msgspec.msgpack.encode({"t": "outcome", "id": "text", "n": 1})),
        (SIGNATURE, msgspec.msgpack.encode({"t": "outcome", "id": b"x", "n": "1"})),
        (SIGNATURE, msgspec.msgpack.encode({"t": "welcome", "epoch": 1})),
        (SIGNATURE, msgspec.msgpack.encode({"t": "submitted", "jobs": [{}]})),
        (SIGNATURE, msgspec.msgpack.encode({"t": "submitted", "jobs": [7]})),
        (SIGNATURE, b"\x82\xa1t\xa9heartbeat\xa1x" + b"\x91" * 50_000 + b"\x01"),
    ],
    ids=range(15),
)
def test_what_cannot_be_read_is_counted_and_kills_nothing(talk: Talk, message: tuple[bytes, ...]) -> None:
    """Between garbage the answer is heard."""
    talk.submit(asked := job())
    talk.send()
    answer = (SIGNATURE, encode(Outcome(id=asked.name, n=1)), b"done")
    assert talk.peer.received([message, answer, message], talk.now) == [(asked, b"done")]
    assert talk.peer.counters.frames_refused == 2


@given(
    epoch=st.integers(-5, 5),
    heartbeat_ms=st.integers(-(2**63), 2**63 - 1),
    liveness_ms=st.integers(-(2**63), 2**63 - 1),
    limits=st.dictionaries(st.sampled_from(["ids", "frames", "body_bytes"]), st.integers(-5, 2**63 - 1)),
)
def test_no_welcome_is_so_absurd_that_it_storms_or_stops(
    epoch: int, heartbeat_ms: int, liveness_ms: int, limits: dict[str, int]
) -> None:
    """Whatever the numbers, jobs are sent, and heartbeats not faster than a bound."""
    talk = Talk(welcome=False)
    talk.peer.became_connected(talk.now)
    talk.said()
    talk.hear(Welcome(epoch=epoch, heartbeat_ms=heartbeat_ms, liveness_ms=liveness_ms, limits=limits))
    talk.submit(asked := job(), Request(b"x", None, ENQUEUE), Request(b"x", None, ENQUEUE))
    assert asked.name in [message.id for message in talk.said()]
    assert talk.peer.due is not None
    assert talk.peer.due >= talk.now + 10 * MS
    talk.advance(10 * MS - 1)
    assert talk.said() == []


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_no_frames_raise(frames: list[bytes]) -> None:
    """Whatever comes behind a signature."""
    Talk().peer.received([tuple(frames), (SIGNATURE, *frames)], 0)


# --- Receipts.


def test_the_receipt_goes_with_the_first_job_of_a_batch(talk: Talk) -> None:
    """It is cumulative, so once is enough; what was not taken by the socket was not said."""
    requests = [job() for _ in range(3)]
    talk.submit(*requests)
    talk.send()
    for asked in requests:
        talk.outcome(asked)
    talk.submit(*(later := [job(), job(), job()]))
    assert [message.received for message, _ in talk.offered()] == [3, 0, 0]
    talk.peer.sent(0, talk.now)
    assert [message.received for message in talk.said()] == [3, 0, 0]
    talk.outcome(later[0])
    talk.submit(job())
    assert [message.received for message in talk.said()] == [4]
    talk.submit(job())
    assert [message.received for message in talk.said()] == [0]
    talk.outcome(later[1])
    talk.submit(Request(b"x", None, ENQUEUE), Request(b"x", None, ENQUEUE), job())
    assert [message.received for message in talk.said()] == [5, 0]


def test_a_client_that_only_listens_receipts_after_so_many(talk: Talk) -> None:
    """One heartbeat for a thousand outcomes."""
    requests = [job() for _ in range(RECEIPTS_MAX)]
    talk.submit(*requests)
    while talk.send():
        pass
    for asked in requests[:-1]:
        talk.outcome(asked)
    assert talk.said() == []
    talk.outcome(requests[-1])
    assert talk.said() == [Heartbeat(received=RECEIPTS_MAX)]
    assert talk.said() == []


def test_large_outcomes_are_receipted_soon(talk: Talk) -> None:
    """The broker holds each until then."""
    talk.submit(job(), several := Several(b"x"))
    asked = talk.offered()[0][0]
    talk.send()
    half = bytes(RECEIPT_BYTES_MAX // 2)
    talk.outcome(Request(b"", name=asked.id), half)
    assert talk.said() == []
    talk.outcome(several, half[:10], half[10:])
    assert talk.said() == [Heartbeat(received=2)]


def test_the_last_receipt_is_said_when_nothing_has_come_for_a_while(talk: Talk) -> None:
    """One message; then the client sleeps, though a request is open all the time it does not speak twice."""
    talk.submit(one := job(), two := job())
    talk.send()
    talk.outcome(one)
    talk.advance(RECEIPT_QUIET_NS - 1)
    assert talk.said() == []
    talk.outcome(two)
    assert talk.peer.due == talk.now + RECEIPT_QUIET_NS
    talk.advance(RECEIPT_QUIET_NS - 1)
    assert talk.said() == []
    talk.advance(1)
    assert talk.said() == [Heartbeat(received=2)]
    assert talk.peer.due is None


def test_a_missing_number_begins_a_new_session_and_asks_for_all_that_is_open(talk: Talk) -> None:
    """Nobody can say which outcome was lost; what came meanwhile counts, and the receipt never covers the gap."""
    lost, told, open_ = job(), job(), job()
    talk.submit(lost, told, open_)
    talk.send()
    talk.events()
    talk.advance(7 * MS)
    talk.number += 1
    assert talk.outcome(told) == [(told, b"done")]
    assert talk.events() == ["outcomes_missed"]
    assert talk.peer.counters.outcomes_missed == 1
    assert [type(message) for message in talk.said()] == [ClientHello]
    talk.welcome()
    assert talk.said() == [Submit(id=lost.name, age_ms=7), Submit(id=open_.name, age_ms=7)]
    assert talk.outcome(lost) == [(lost, b"done")]
    assert talk.outcome(open_) == [(open_, b"done")]
    assert talk.peer.counters.outcomes_missed == 1


def test_each_missing_outcome_is_counted_once(talk: Talk) -> None:
    """While a second gap waits to be repaired; a loss of the connection repairs it, too."""
    talk.submit(asked := job())
    talk.send()
    stranger = Request(b"", name=b"another's request")
    talk.outcome(stranger, n=2)
    talk.said()
    talk.welcome()
    talk.send()
    for number in (3, 4, 8, 9):
        talk.outcome(stranger, n=number)
    assert talk.peer.counters.outcomes_missed == 1 + 2 + 3
    talk.peer.lost("why")
    talk.connect()
    assert [message.id for message in talk.said()] == [asked.name]
    talk.advance(HEARTBEAT_MS * MS)
    assert talk.said() == [Heartbeat()]


def test_a_broker_that_loses_again_and_again_is_not_stormed(talk: Talk) -> None:
    """A second gap waits for its turn, and the request that it hit is answered in the end."""
    for _ in range(3):
        talk.submit(asked := job())
        talk.send()
        talk.number += 5
        talk.outcome(Request(b"", name=b"another's request"))
        if not talk.peer.wants_to_send:
            assert talk.said() == []
            assert talk.peer.due is not None
            talk.advance(talk.peer.due - talk.now)
        assert [type(message) for message in talk.said()] == [ClientHello]
        repaired_at = talk.now
        talk.welcome()
        assert talk.said()[-1].id == asked.name
        assert talk.now >= repaired_at
    assert talk.now >= SECOND + 2 * HEARTBEAT_MS * MS
    assert talk.peer.counters.outcomes_missed == 15


def test_outcomes_dropped_at_the_end_are_found_by_the_answer_to_a_heartbeat(talk: Talk) -> None:
    """No later number shows that they are missing; what the broker says it has told does, and they are asked for."""
    talk.submit(told := job(), lost := job(), also_lost := job())
    talk.send()
    talk.events()
    talk.outcome(told)
    talk.advance(HEARTBEAT_MS * MS)
    assert talk.said() == [Heartbeat(received=1)]
    talk.hear(Heartbeat(told=1))
    assert talk.events() == []
    talk.advance(HEARTBEAT_MS * MS)
    assert talk.said() == [Heartbeat(received=1)]
    talk.hear(Heartbeat(told=3))
    assert talk.events() == ["outcomes_missed"]
    assert talk.peer.counters.outcomes_missed == 2
    assert [type(message) for message in talk.said()] == [ClientHello]
    talk.hear(Heartbeat(told=3))  # of the session before
    talk.welcome()
    assert [message.id for message in talk.said()] == [lost.name, also_lost.name]
    assert talk.outcome(lost) == [(lost, b"done")]
    assert talk.outcome(also_lost) == [(also_lost, b"done")]
    talk.hear(Heartbeat(told=2))
    assert talk.peer.counters.outcomes_missed == 2


def test_progress_of_one_job_does_not_hide_that_another_s_outcome_was_dropped(talk: Talk) -> None:
    """Heartbeats are said while neither outcomes nor their number are heard, whatever else is."""
    talk.submit(far := Request(b"x", None, Asking(follow=True)), job())
    talk.send()
    said = []
    for done in range(30):
        talk.hear(TellProgress(id=far.name, attempt=1, done=done))
        talk.advance(HEARTBEAT_MS * MS // 10)
        said += talk.said()
    assert said == [Heartbeat()] * 3
    assert not talk.peer.deaf
    talk.hear(Heartbeat(told=1))
    assert talk.peer.counters.outcomes_missed == 1


def test_what_was_dropped_is_asked_for_little_by_little(talk: Talk) -> None:
    """Outcomes of all that is open would be dropped again; how many were told is asked for between the parts."""
    requests = [job() for _ in range(2 * AGAIN_MAX + 50)]
    question = Request(b"", None, RESULT, NAME)
    talk.submit(*requests, question)
    while talk.send():
        pass
    talk.hear(Heartbeat(told=7))
    assert [type(message) for message in talk.said()] == [ClientHello]
    talk.welcome()
    assert [type(message) for message in talk.said()] == [Inquire] + [Submit] * (AGAIN_MAX - 1)
    for asked in requests[:5]:
        talk.outcome(asked)
    assert talk.said() == [Heartbeat(received=5)]
    for asked in requests[5:7]:
        talk.outcome(asked)
    assert talk.said() == []
    talk.hear(Heartbeat(told=7))
    assert [message.id for message in talk.said()] == [r.name for r in requests[AGAIN_MAX - 1 : 2 * AGAIN_MAX - 1]]
    assert talk.said() == [Heartbeat(received=7)]
    talk.advance(HEARTBEAT_MS * MS)
    assert talk.said() == [Heartbeat(received=7)], "the answer may have been dropped, too"
    talk.hear(Heartbeat(told=7))
    talk.submit(new := job())
    assert [message.id for message in talk.said()] == [r.name for r in (*requests[2 * AGAIN_MAX - 1 :], new)]
    talk.submit(*(job() for _ in range(AGAIN_MAX + 1)))
    assert len(talk.said()) == AGAIN_MAX + 1, "nothing is held back for ever"


def test_every_round_of_asking_again_gets_some_until_all_is_there(talk: Talk) -> None:
    """A broker that takes up ten outcomes of a session and drops the rest tells all of them in the end."""
    requests = [job() for _ in range(95)]
    talk.submit(*requests)
    talk.send()
    ended: list[tuple[Request, Any]] = []
    rounds = 0
    while len(talk.peer):
        rounds += 1
        waiting = [asked for asked in requests if asked not in {request for request, _ in ended}]
        for asked in waiting[:10]:
            ended += talk.outcome(asked)
        talk.hear(Heartbeat(told=len(waiting)))
        if not len(talk.peer):
            break
        while not talk.peer.wants_to_send or not isinstance(talk.offered()[0][0], ClientHello):
            talk.send()
            due = talk.peer.due
            assert due is not None
            talk.advance(max(0, due - talk.now))
        talk.send()
        talk.welcome()
        assert [message.id for message in talk.said()] == [asked.name for asked in waiting[10:]]
    assert rounds == 10
    assert {request for request, _ in ended} == set(requests)


def test_outcomes_of_what_was_given_up_here_are_counted_apart(talk: Talk) -> None:
    """Timed out, or not wanted any more: the broker does nothing wrong by answering, so nothing is to be logged."""
    talk.submit(slow := job(timeout_ns=5 * MS), unwanted := job(), never_sent := job())
    talk.offered(2)
    talk.peer.sent(2, talk.now)
    talk.advance(5 * MS)
    talk.peer.abandon([unwanted, never_sent])
    for request in (slow, unwanted):
        assert talk.outcome(request) == []
    assert (talk.peer.counters.answers_late, talk.peer.counters.answers_unknown) == (2, 0)
    for request in (slow, never_sent):
        assert talk.outcome(request) == []
    assert (talk.peer.counters.answers_late, talk.peer.counters.answers_unknown) == (2, 2)


# --- Refusals.


@pytest.mark.parametrize("code", ["busy", "draining"])
def test_a_broker_that_is_busy_is_asked_again_when_it_says(talk: Talk, code: str) -> None:
    """Not before, also for other jobs; then in the order of submission, and as new, because it was never taken."""
    first, second = job(), job()
    talk.submit(first, second)
    talk.send()
    talk.events()
    assert talk.refuse(second, code, retry_ms=200) == []
    assert talk.refuse(first, code, retry_ms=200) == []
    talk.submit(third := job())
    assert talk.said() == []
    assert talk.peer.due == talk.now + 200 * MS
    talk.advance(200 * MS - 1)
    assert talk.said() == []
    talk.advance(1)
    assert sorted((m.id, m.age_ms) for m in talk.said()) == sorted((r.name, 0) for r in (first, second, third))
    assert talk.outcome(first) == [(first, b"done")]
    assert talk.peer.counters.refused_busy == 2
    assert talk.events() == ["request_refused"]


def test_what_was_refused_may_be_answered_all_the_same(talk: Talk) -> None:
    """Somebody else asked under the same id; then it is not asked for again."""
    talk.submit(asked := job())
    talk.send()
    talk.refuse(asked, "busy", retry_ms=100)
    assert talk.outcome(asked) == [(asked, b"done")]
    talk.advance(RECEIPT_QUIET_NS)
    assert talk.said() == [Heartbeat(received=1)]
    talk.advance(100 * MS)
    assert talk.said() == []


def test_a_busy_broker_is_logged_once_while_it_lasts(talk: Talk) -> None:
    """And again when it is busy another time."""
    talk.submit(asked := job())
    talk.send()
    talk.events()
    for _ in range(5):
        talk.refuse(asked, "busy", retry_ms=2_000)
        talk.advance(2_000 * MS)
        talk.hear(Heartbeat())
        assert [type(m) for m in talk.said()] == [Submit]
    assert talk.events() == ["request_refused"]
    talk.advance(60 * SECOND)
    talk.refuse(asked, "busy", retry_ms=10)
    assert talk.events() == ["request_refused"]


def test_the_timeout_bounds_the_waiting_for_a_busy_broker(talk: Talk) -> None:
    """The request is offered again only as long as its caller waits."""
    talk.submit(asked := job(timeout_ns=300 * MS))
    talk.send()
    talk.refuse(asked, "busy", retry_ms=200)
    talk.advance(200 * MS)
    assert len(talk.said()) == 1
    talk.refuse(asked, "busy", retry_ms=200)
    ((request, error),) = talk.advance(100 * MS)
    assert (request, type(error)) == (asked, TimeoutError)
    talk.advance(200 * MS)
    assert talk.said() == []


def test_a_job_that_was_asked_before_keeps_its_age_when_it_is_refused(talk: Talk) -> None:
    """An earlier session may have taken it."""
    talk.submit(asked := job())
    talk.send()
    talk.advance(10 * MS)
    talk.peer.lost("why")
    talk.connect()
    talk.send()
    talk.refuse(asked, "busy", retry_ms=30)
    talk.advance(30 * MS)
    assert talk.said() == [Submit(id=asked.name, age_ms=40)]


def test_a_job_that_ended_with_its_broker_is_asked_for_at_the_next_one(talk: Talk) -> None:
    """As after a crash: in the order of submission, with its age, so that the outcome can say `again`."""
    first, second = job(), job()
    talk.submit(first, second)
    talk.send()
    talk.events()
    talk.advance(10 * MS)
    for request in (second, first):
        assert talk.outcome(request, state="cancelled", reason="broker_stopped") == []
    assert talk.events() == ["request_refused"]
    assert talk.said() == []
    assert talk.peer.lost("the connection went") == []
    talk.connect(epoch=2)
    assert [(m.id, m.age_ms) for m in talk.said()] == [(first.name, 10), (second.name, 10)]
    assert talk.outcome(first, again=True) == [(first, b"done")]
    counters = talk.peer.counters
    assert (counters.refused_busy, counters.failed, counters.answered) == (2, 0, 1)


def test_a_stopped_broker_whose_connection_stays_is_greeted_anew_after_a_while(talk: Talk) -> None:
    """Behind a proxy the next broker comes to the same connection; the age stays, though the old one answers yet."""
    talk.submit(asked := job())
    talk.send()
    talk.outcome(asked, state="cancelled", reason="broker_stopped")
    talk.submit(job())
    assert talk.said() == []
    talk.advance(STOPPED_NS)
    assert [type(m) for m in talk.said()] == [ClientHello]
    talk.welcome(epoch=1)
    assert [m.age_ms for m in talk.said()] == [1_000, 0]
    talk.refuse(asked, "draining", retry_ms=1_000)
    talk.advance(1_000 * MS)
    assert [m.age_ms for m in talk.said() if isinstance(m, Submit)] == [2_000]


def test_a_timeout_says_where_no_broker_was_ever_reached() -> None:
    """And nothing of the kind once there was one."""
    talk = Talk(welcome=False)
    talk.submit(job(timeout_ns=300 * MS))
    ((_, error),) = talk.advance(300 * MS)
    assert str(error) == "no answer within 0.3 s: no broker has answered at tcp://broker:1"
    talk.connect()
    talk.peer.lost("the connection went")
    talk.submit(job(timeout_ns=300 * MS))
    ((_, error),) = talk.advance(300 * MS)
    assert str(error) == "no answer within 0.3 s"


def test_the_timeout_bounds_the_waiting_for_the_next_broker(talk: Talk) -> None:
    """A stopped broker, and no other comes."""
    talk.submit(asked := job(timeout_ns=300 * MS))
    talk.send()
    talk.outcome(asked, state="cancelled", reason="broker_stopped")
    ((request, error),) = talk.advance(300 * MS)
    assert (request, type(error)) == (asked, TimeoutError)
    assert len(talk.peer) == 0


def test_without_resend_a_job_has_failed_when_its_broker_stops() -> None:
    """`resend=False`: it is not asked for twice."""
    talk = Talk(resend=False)
    talk.submit(asked := job())
    talk.send()
    ((request, error),) = talk.outcome(asked, state="cancelled", reason="broker_stopped")
    assert (request, type(error), error.reason) == (asked, JobFailed, "broker_stopped")


def test_who_asks_for_the_result_of_a_job_that_ended_with_its_broker_is_told(talk: Talk) -> None:
    """It was handed over before, and no other broker has it; who submitted it in this client waits on."""
    result = Request(b"", asking=RESULT, name=b"r" * 16)
    talk.submit(result)
    talk.send()
    ((request, error),) = talk.outcome(result, state="cancelled", reason="broker_stopped")
    assert (request, type(error), error.reason) == (result, JobFailed, "broker_stopped")
    asked, twin = (Request(b"job", name=b"t" * 16) for _ in range(2))
    result = Request(b"", asking=RESULT, name=b"t" * 16)
    talk.submit(asked, twin, result)
    talk.send()
    assert talk.outcome(asked, state="cancelled", reason="broker_stopped") == []
    talk.peer.lost("the connection went")
    talk.connect(epoch=2)
    assert [type(m) for m in talk.said()].count(Submit) == 2
    assert {request for request, _ in talk.outcome(asked)} == {asked, twin, result}
    assert len(talk.peer) == 0


def test_a_refusal_for_good_ends_the_call(talk: Talk) -> None:
    """With the broker's word and sentence."""
    talk.submit(asked := job())
    talk.send()
    ((request, error),) = talk.refuse(asked, "too_large")
    assert request is asked
    assert isinstance(error, JobRefused)
    assert (error.code, error.text, str(error)) == ("too_large", "why", "too_large: why")
    assert talk.peer.counters.refused == 1
    assert talk.refuse(asked, "too_large") == []


def test_a_loss_while_the_broker_is_busy_forgets_the_hold(talk: Talk) -> None:
    """The next session may be with a broker that has room."""
    talk.submit(asked := job(), other := job())
    talk.send()
    talk.refuse(asked, "busy", retry_ms=5_000)
    talk.peer.lost("why")
    talk.connect()
    assert [message.id for message in talk.said()] == [asked.name, other.name]


# --- Terms.


def test_terms_and_headers_are_said_and_the_usual_ones_left_out(talk: Talk) -> None:
    """Seconds become milliseconds, rounded up; 0 stays what it means."""
    usually = {"queue": "q", "run": 0, "silence": 0.0001, "late": "current", "gone": "cancel", "keep": 1.5}
    terms = Terms(**usually, priority=-3, fair="k", weight=2, order="o", blocks=True)
    asked = Request(b"x", None, Asking(Kind.JOB, terms, {"trace": "1"}))
    usual = job()
    talk.submit(asked, usual)
    (message, _), (other, _) = talk.send()
    assert message == Submit(
        id=asked.name,
        queue="q",
        headers={"trace": "1"},
        run_ms=0,
        silence_ms=1,
        late="current",
        gone="cancel",
        keep_ms=1_500,
        priority=-3,
        fair="k",
        weight=2,
        order="o",
        blocks=True,
    )
    assert msgspec.msgpack.decode(encode(other)) == {"t": "submit", "id": usual.name}


def test_terms_of_retries_are_said_in_the_words_of_the_protocol(talk: Talk) -> None:
    """Seconds of a backoff become milliseconds, rounded up; budgets go as they are."""
    pauses = Backoff(base=0.0005, cap=60, jitter=True)
    terms = Terms(tries=0, errors_max=4, timeouts_max=3, losses_max=2, final_kinds=("E",), backoff=pauses)
    asked = Request(b"x", None, Asking(Kind.JOB, terms))
    talk.submit(asked)
    (message,) = talk.said()
    assert message == Submit(
        id=asked.name,
        tries=0,
        errors_max=4,
        timeouts_max=3,
        losses_max=2,
        final_kinds=("E",),
        backoff=BackoffMs(curve="exponential", base_ms=1, cap_ms=60_000, jitter=True),
    )
    assert Backoff(base=0).in_ms() == BackoffMs(curve="exponential", base_ms=0)


def test_a_unique_key_is_said_in_the_words_of_the_protocol(talk: Talk) -> None:
    """And what is answered of it reaches the caller: which job has the key, which one took its place."""
    asked = Request(b"x", None, Asking(Kind.JOB, Terms(unique="k", unique_mode="replace", unique_for=0.5)))
    other = Request(b"x", None, Asking(Kind.JOB, Terms(unique="k")))
    talk.submit(asked, other)
    assert talk.said() == [
        Submit(id=asked.name, unique="k", unique_mode="replace", unique_ms=500),
        Submit(id=other.name, unique="k"),
    ]
    ((_, refused),) = talk.hear(Submitted(jobs=(Admitted(id=other.name, code="duplicate", job=b"j" * 16),)))
    assert isinstance(refused, JobRefused)
    assert (refused.code, refused.job_id) == ("duplicate", b"j" * 16)
    ((_, failed),) = talk.outcome(asked, state="cancelled", reason="replaced", attempts=0, replaced_by=b"n" * 16)
    assert isinstance(failed, JobFailed)
    assert (failed.reason, failed.replaced_by) == ("replaced", b"n" * 16)


@given(
    headers=st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=3),
    name=st.binary(min_size=16, max_size=64),
    queue=st.text(min_size=1, max_size=20),
)
def test_a_header_that_was_cut_and_put_together_is_the_header(headers: dict[str, str], name: bytes, queue: str) -> None:
    """Whatever the terms, also where they hold what looks like the place of the id."""
    asking = Asking(Kind.JOB, Terms(queue=queue), headers)
    talk = Talk()
    given_id, drawn = Request(b"x", None, asking, name), Request(b"x", None, asking)
    talk.submit(given_id, drawn)
    told = talk.said()
    assert [m.id for m in told] == [name, drawn.name]
    assert all((m.queue, m.headers or {}) == (queue, headers) for m in told)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"queue": ""}, "1 to 200"),
        ({"queue": "x" * 201}, "1 to 200"),
        ({"queue": 5}, "1 to 200"),
        ({"run": -1}, "no limit"),
        ({"run": float("nan")}, "run"),
        ({"run": float("inf")}, "run"),
        ({"run": "5"}, "run"),
        ({"silence": 0}, "above 0"),
        ({"keep": None}, "keep"),
        ({"late": "curent"}, "did you mean 'current'"),
        ({"gone": "cancle"}, "did you mean 'cancel'"),
        ({"tries": -1}, "0 for no limit"),
        ({"tries": 2.0}, "whole number"),
        ({"tries": True}, "whole number"),
        ({"errors_max": -1}, "errors_max must be a whole number of at least 0"),
        ({"timeouts_max": "2"}, "timeouts_max"),
        ({"tries": 3, "losses_max": 4}, "at most tries, 3"),
        ({"final_kinds": "ValueError"}, "tuple of names"),
        ({"final_kinds": (ValueError,)}, "tuple of names"),
        ({"final_kinds": ("",)}, "tuple of names"),
        ({"backoff": 5}, "Backoff or None"),
        ({"priority": 1_001}, "from -1000 to 1000"),
        ({"priority": 0.5}, "whole number"),
        ({"fair": "x" * 201}, "at most 200"),
        ({"fair": None}, "text"),
        ({"fair": "x", "weight": 0}, "from 1 to 1000"),
        ({"weight": 2}, "without fair"),
        ({"delay": -1}, "0 for none"),
        ({"delay": None}, "delay must be a number"),
        ({"start": -1}, "start must be a number of seconds of at least 0"),
        ({"deadline": -1}, "deadline must be a number of seconds of at least 0"),
        ({"takes": True}, "takes must be"),
        ({"not_before": "tomorrow"}, "since 1970, a datetime"),
        ({"not_before": dt.datetime(2026, 1, 1)}, "must have a time zone"),  # noqa: DTZ001 - that is what is tried
        ({"delay": 1, "not_before": 1.0}, "leave one out"),
        ({"start": 3, "deadline": 2}, "start must be at most deadline, 2"),
        ({"takes": 2, "deadline": 2}, "takes must be less than deadline, 2"),
        ({"takes": 2, "deadline": 5, "delay": 3}, "delay must be less than 3"),
        ({"start": 2, "delay": 2}, "delay must be less than 2"),
        ({"unique": 5}, "at most 200"),
        ({"unique": "x" * 201}, "at most 200"),
        ({"unique": "k", "unique_mode": "replaces"}, "did you mean 'replace'"),
        ({"unique_mode": "join"}, "unique_mode says nothing without unique"),
        ({"unique_for": 3}, "unique_for says nothing without unique"),
        ({"unique": "k", "unique_for": -1}, "unique_for must be a number"),
        ({"order": "x" * 201}, "at most 200"),
        ({"blocks": True}, "without order"),
    ],
)
def test_terms_are_checked_where_they_are_made(wrong: dict[str, Any], word: str) -> None:
    """The error says what to change."""
    with pytest.raises(ValueError, match=word):
        Terms(**wrong)


def test_delays_and_deadlines_are_said_in_milliseconds(talk: Talk) -> None:
    """Rounded up; a moment is one of the broker's clock, in whichever zone it was written."""
    zone = dt.timezone(dt.timedelta(hours=5))
    moment = dt.datetime(2026, 1, 1, 5, 0, 0, 500, tzinfo=zone)
    terms = Terms(not_before=moment, start=0.0001, deadline=2, takes=0.5)
    asked, other = Request(b"x", None, Asking(Kind.JOB, terms)), Request(b"y", None, Asking(Kind.JOB, Terms(delay=1.5)))
    third = Request(b"z", None, Asking(Kind.JOB, Terms(not_before=1.25)))
    talk.submit(asked, other, third)
    assert talk.said() == [
        Submit(id=asked.name, not_before_ms=1_767_225_600_001, start_ms=1, deadline_ms=2_000, takes_ms=500),
        Submit(id=other.name, delay_ms=1_500),
        Submit(id=third.name, not_before_ms=1_250),
    ]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"base": None}, "base must be a number of seconds"),
        ({"base": -1}, "0 for no pauses"),
        ({"base": 2, "cap": 1}, "cap must be at least base, 2"),
        ({"base": 2, "cap": "3"}, "cap must be a number"),
        ({"base": 1, "curve": "exponentail"}, "did you mean 'exponential'"),
        ({"base": 1, "jitter": 0.5}, "True or False"),
    ],
)
def test_a_backoff_is_checked_where_it_is_made(wrong: dict[str, Any], word: str) -> None:
    """The error says what to change."""
    with pytest.raises(ValueError, match=word):
        Backoff(**wrong)


def test_headers_are_text_and_fit_a_message() -> None:
    """What no header can hold is refused before it is sent."""
    with pytest.raises(TypeError, match="text"):
        Asking(headers={"n": 1})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="mapping"):
        Asking(headers=["x"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="in the body"):
        Asking(headers={"x": "y" * 66_000})


# --- Handing over, and asking later.


def test_many_are_handed_over_in_one_message_and_acknowledged_one_by_one(talk: Talk) -> None:
    """Bodies one after the other; some are taken, one is refused, one joins."""
    jobs = [Request(b"a", None, ENQUEUE), Request((b"b", b"c"), None, ENQUEUE), Request(b"d", None, ENQUEUE, NAME)]
    talk.submit(*jobs)
    ((message, body),) = talk.send()
    assert (message.ack, message.wait, message.id) == (True, False, b"")
    assert [(item.id, item.frames) for item in message.jobs] == [(jobs[0].name, 1), (jobs[1].name, 2), (NAME, 1)]
    assert body == (b"a", b"b", b"c", b"d")
    told = Submitted(
        jobs=(
            Admitted(id=jobs[0].name, job=b"j" * 16, position=7),
            Admitted(id=jobs[1].name, code="conflict", text="other size"),
            Admitted(id=NAME, job=b"k" * 16, joined=True),
        )
    )
    (one, taken), (two, refused), (three, joined) = talk.hear(told)
    assert [one, two, three] == jobs
    assert taken == Enqueued(jobs[0].name, job_id=b"j" * 16, position=7)
    assert isinstance(refused, JobRefused)
    assert joined == Enqueued(NAME, job_id=b"k" * 16, joined=True)
    assert len(talk.peer) == 0
    assert talk.hear(told) == []


def test_messages_of_many_keep_within_the_broker_s_limits(talk: Talk) -> None:
    """Ids, bytes, frames, no id twice, and nothing of other terms or another age in between."""

    def sizes(*requests: Request) -> list[int]:
        talk.submit(*requests)
        told = talk.said()
        talk.peer.abandon(requests)
        return [len(message.jobs) or 1 for message in told]

    def handed(body: bytes | tuple[bytes, ...] = b"x", asking: Asking = ENQUEUE, name: bytes = b"") -> Request:
        return Request(body, None, asking, name)

    assert sizes(*(handed() for _ in range(250))) == [100, 100, 50]
    assert sizes(*(handed(bytes(300)) for _ in range(5))) == [3, 2]
    assert sizes(*(handed((b"",) * 40) for _ in range(5))) == [2, 2, 1]
    assert sizes(*(handed(name=NAME) for _ in range(3))) == [1, 1, 1]
    assert sizes(handed(), handed(asking=Asking(Kind.ENQUEUE, Terms(queue="q"))), handed()) == [1, 1, 1]
    assert sizes(handed(), job(), handed(), handed()) == [1, 1, 2]
    talk.welcome(ids=10**6, frames=10**6, body_bytes=10**6)
    assert max(sizes(*(handed(name=b"%064d" % i) for i in range(900)))) < 900
    talk.submit(*(jobs := [handed() for _ in range(3)]))
    talk.send()
    talk.advance(5 * MS)
    talk.peer.lost("why")
    talk.submit(handed())
    talk.connect()
    assert [(len(m.jobs), m.age_ms) for m in talk.said()] == [(3, 5), (0, 0)]
    assert jobs[0].asked_at


def test_a_message_that_was_refused_as_a_whole_is_split(talk: Talk) -> None:
    """What never fits together does in parts; once the broker takes them, messages grow again."""
    room = 20

    def serve() -> list[int]:
        messages = talk.said()
        for message in messages:
            names = [item.id for item in message.jobs] or [message.id]
            code, retry_ms = ("", 0) if len(names) <= room else ("busy", 1)
            talk.hear(Submitted(jobs=tuple(Admitted(id=name, code=code, retry_ms=retry_ms) for name in names)))
        talk.advance(MS)
        return [len(message.jobs) or 1 for message in messages]

    talk.submit(*(Request(b"x", None, ENQUEUE) for _ in range(70)))
    assert [serve(), serve(), serve()] == [[70], [35, 35], [17, 17, 17, 17, 2]]
    assert len(talk.peer) == 0
    room = 100
    sizes = []
    for _ in range(3):
        talk.submit(*(Request(b"x", None, ENQUEUE) for _ in range(100)))
        sizes.append(serve())
    assert sizes == [[34, 34, 32], [68, 32], [100]]


def test_bodies_leave_room_for_what_the_broker_counts_beside_them(talk: Talk) -> None:
    """Header and path are bytes of the message, too."""
    body_bytes = 64 << 20
    talk.welcome(body_bytes=body_bytes)
    talk.submit(*(Request(bytes(1 << 20), None, ENQUEUE) for _ in range(65)))
    told = talk.send()
    assert [len(message.jobs) or 1 for message, _ in told] == [63, 2]
    assert all(sum(map(len, body)) + 72 * 1024 <= body_bytes for _, body in told)


def test_a_message_that_was_too_large_as_a_whole_is_split_for_good(talk: Talk) -> None:
    """Other messages that the broker takes do not let it grow again; what is too large alone is refused."""
    room = 250

    def serve() -> list[tuple[Request, Any]]:
        ended = []
        for message, body in talk.send():
            names = [item.id for item in message.jobs] or [message.id]
            code = "" if sum(map(len, body)) <= room else "too_large"
            assert message.age_ms == 0, "the first asking came to nothing"
            ended += talk.hear(Submitted(jobs=tuple(Admitted(id=name, code=code) for name in names)))
            sizes.append(len(names))
        return ended

    sizes: list[int] = []
    alone = Request(bytes(300), None, ENQUEUE)
    talk.submit(*(Request(bytes(100), None, ENQUEUE) for _ in range(9)), alone)
    talk.advance(5 * MS)
    ended = serve()
    for _ in range(3):
        ended += serve()
    assert sizes == [9, 1, 4, 4, 1, 2, 2, 2, 2]
    refused = [(request, outcome.code) for request, outcome in ended if isinstance(outcome, JobRefused)]
    assert refused == [(alone, "too_large")]
    assert (len(ended), len(talk.peer)) == (10, 0)
    sizes.clear()
    talk.submit(*(Request(bytes(100), None, ENQUEUE) for _ in range(6)))
    assert (len(serve()), sizes) == (6, [2, 2, 2])


def test_what_was_handed_over_and_not_acknowledged_is_handed_over_again(talk: Talk) -> None:
    """Under the same id."""
    talk.submit(handed := Request(b"x", None, ENQUEUE))
    talk.send()
    talk.advance(3 * MS)
    talk.peer.lost("why")
    talk.connect()
    assert talk.said() == [Submit(id=handed.name, ack=True, wait=False, age_ms=3)]


def test_the_result_is_asked_for_and_waited_for(talk: Talk) -> None:
    """While the job runs the broker says so; the outcome ends the question, by request and by job."""
    by_name, by_job = Request(b"", None, RESULT, NAME), Several(b"", None, Asking(Kind.RESULT, by_job=True), b"j" * 16)
    talk.submit(by_name, by_job)
    assert talk.said() == [Inquire(id=NAME, wait=True), Inquire(job=b"j" * 16, wait=True)]
    assert talk.hear(JobState(id=NAME, state="running"), JobState(job=b"j" * 16, state="available")) == []
    assert talk.outcome(by_name) == [(by_name, b"done")]
    assert talk.outcome(by_job, b"a", b"b") == [(by_job, [b"a", b"b"])]


def test_who_asks_why_is_told_so_and_not_the_answer_to_another_question(talk: Talk) -> None:
    """`inquire` with `why`; beside a question of the same name that has no `why`, a state without a reason is that
    one's. A broker that knows no `why` is taken at its word.
    """
    why, state = Request(b"", None, Asking(Kind.WHY), NAME), Request(b"", None, STATE, NAME)
    talk.submit(why, state)
    assert talk.said() == [Inquire(id=NAME, why=True), Inquire(id=NAME)]
    assert talk.hear(JobState(id=NAME, state="available")) == [(state, JobStatus("available"))]
    told = JobState(id=NAME, state="available", code="behind", text="2 jobs are before it")
    assert talk.hear(told) == [(why, JobStatus("available", code="behind", text="2 jobs are before it"))]
    talk.submit(again := Request(b"", None, Asking(Kind.WHY, by_job=True), b"j" * 16))
    assert talk.said() == [Inquire(job=b"j" * 16, why=True)]
    assert talk.hear(JobState(job=b"j" * 16, state="held")) == [(again, JobStatus("held", job_id=b"j" * 16))]


@pytest.mark.parametrize(("state", "error"), [("unknown", JobUnknown), ("expired", JobExpired)])
def test_what_is_not_there_cannot_be_waited_for(talk: Talk, state: str, error: type[Exception]) -> None:
    """Two errors, because they mean different things."""
    talk.submit(question := Request(b"", None, RESULT, NAME))
    talk.send()
    ((request, outcome),) = talk.hear(JobState(id=NAME, state=state))
    assert (request, type(outcome)) == (question, error)


def test_a_question_that_is_refused_ends_with_its_code(talk: Talk) -> None:
    """An `error` with an `id`: the question of that name ends; others wait on, and so does who asks for the state."""
    question, by_job = Request(b"", None, RESULT, NAME), Request(b"", None, Asking(Kind.RESULT, by_job=True), b"j" * 16)
    other, status = Request(b"", None, RESULT, b"another one's own id"), Request(b"", None, STATE, NAME)
    talk.submit(question, by_job, other, status)
    talk.send()
    full = Error(code="too_many_askers", text="100 wait", of="inquire", id=NAME)
    ((request, outcome),) = talk.hear(full)
    assert request is question
    assert isinstance(outcome, JobRefused)
    assert (outcome.code, outcome.text) == ("too_many_askers", "100 wait")
    ((request, outcome),) = talk.hear(Error(code="too_many_askers", of="inquire", id=b"j" * 16))
    assert request is by_job
    assert talk.hear(full) == []
    assert talk.peer.counters.refused == 2
    assert talk.outcome(other) == [(other, b"done")]
    assert talk.hear(JobState(id=NAME, state="running")) == [(status, JobStatus("running"))]


def test_a_question_that_is_refused_waits_with_the_job_that_is_asked_for_here(talk: Talk) -> None:
    """Its outcome comes anyway; and what was not asked yet cannot have been refused."""
    asked, question = Request(b"x", None, name=NAME), Request(b"", None, RESULT, NAME)
    talk.submit(asked, question)
    talk.send()
    assert talk.hear(Error(code="too_many_askers", of="inquire", id=NAME)) == []
    assert {request for request, _ in talk.outcome(asked)} == {asked, question}
    talk.submit(unsent := Request(b"", None, RESULT, NAME))
    assert talk.hear(Error(code="too_many_askers", of="inquire", id=NAME)) == []
    talk.send()
    assert talk.outcome(unsent) == [(unsent, b"done")]


def test_the_state_of_a_job_is_told_as_it_is(talk: Talk) -> None:
    """Also of one that is unknown; one answer ends all questions about it, and no wait for the outcome."""
    talk.submit(*(questions := [Request(b"", None, STATE, NAME) for _ in range(2)]), Request(b"", None, RESULT, NAME))
    assert talk.said() == [Inquire(id=NAME), Inquire(id=NAME), Inquire(id=NAME, wait=True)]
    status = JobStatus("running", attempts=2)
    told = JobState(id=NAME, state="running", attempts=2)
    assert talk.hear(told) == [(question, status) for question in questions]
    assert talk.hear(told) == []
    talk.submit(later := Request(b"", None, STATE, NAME))
    talk.send()
    ended = talk.hear(JobState(id=NAME, state="cancelled", reason="asker_gone"))
    assert ended == [(later, JobStatus("cancelled", reason="asker_gone"))]


def test_a_question_about_a_job_that_is_being_asked_for_here_waits_with_it(talk: Talk) -> None:
    """The broker has not taken the job yet, so it does not know it; the outcome ends both."""
    asked, question = Request(b"x", None, name=NAME), Request(b"", None, RESULT, NAME)
    talk.submit(asked, question)
    talk.send()
    talk.refuse(asked, "busy", retry_ms=100)
    assert talk.hear(JobState(id=NAME, state="unknown")) == []
    assert {request for request, _ in talk.outcome(asked)} == {asked, question}


def unknown(name: bytes = NAME) -> JobState:
    """What the broker says of a job that it has not taken yet."""
    return JobState(id=name, state="unknown")


def test_a_question_that_came_before_the_job_is_asked_again_when_the_job_is_taken(talk: Talk) -> None:
    """The broker forgets who asks for what it does not know; who hands over asks for no outcome."""
    question, handed = Request(b"", None, RESULT, NAME), Request(b"x", None, ENQUEUE, NAME)
    talk.submit(question, handed)
    assert [type(message) for message in talk.said()] == [Inquire, Submit]
    assert talk.hear(unknown()) == []
    ((request, _),) = talk.hear(Submitted(jobs=(Admitted(id=NAME, job=b"j" * 16),)))
    assert request is handed
    assert talk.said() == [Inquire(id=NAME, wait=True)]
    assert talk.outcome(question) == [(question, b"done")]
    assert (len(talk.peer), talk.peer._guests) == (0, {})


@pytest.mark.parametrize("asking", [Asking(Kind.JOB), ENQUEUE])
@pytest.mark.parametrize("end", ["refused", "expired", "abandoned"])
def test_a_question_is_asked_again_when_the_job_it_waited_for_comes_to_nothing(
    talk: Talk, asking: Asking, end: str
) -> None:
    """Otherwise it would wait for ever: nobody is to say more of a job that the broker has not taken."""
    question, asked = Request(b"", None, RESULT, NAME), Request(b"x", SECOND, asking, NAME)
    talk.submit(question, asked)
    talk.send()
    assert talk.hear(unknown()) == []
    if end == "refused":
        assert [request for request, _ in talk.refuse(asked, "bad_request")] == [asked]
    elif end == "expired":
        talk.refuse(asked, "busy", retry_ms=5_000)
        assert [request for request, _ in talk.advance(SECOND)] == [asked]
    else:
        assert talk.peer.abandon([asked]) == [asked]
    assert Inquire(id=NAME, wait=True) in talk.said()
    ((request, outcome),) = talk.hear(unknown())
    assert (request, type(outcome), len(talk.peer)) == (question, JobUnknown, 0)


def test_a_question_asked_again_ends_once_with_the_job_s_outcome(talk: Talk) -> None:
    """Of two that submit one job, one is taken or given up; the other brings the outcome for all."""
    question, handed, asked = (Request(b"x", None, a, NAME) for a in (RESULT, ENQUEUE, Asking(Kind.JOB)))
    talk.submit(question, handed, asked)
    talk.send()
    assert talk.peer.abandon([handed]) == [handed]
    assert {request for request, _ in talk.outcome(asked)} == {question, asked}
    assert talk.said() == []
    assert talk.peer.unsent == 0


def test_an_outcome_acknowledges_nothing_and_tells_no_state(talk: Talk) -> None:
    """Who handed the same job over waits for the acknowledgement."""
    handed, state, question = (
        Request(b"x", None, ENQUEUE, NAME),
        *(Request(b"", None, a, NAME) for a in (STATE, RESULT)),
    )
    talk.submit(handed, state, question)
    talk.send()
    assert talk.outcome(question) == [(question, b"done")]
    assert len(talk.peer) == 2


def test_two_requests_under_one_id_get_one_outcome(talk: Talk) -> None:
    """Each of them; when the first one is abandoned or late, the second is still answered."""
    first, second = Request(b"x", 5 * MS, name=NAME), Several(b"x", name=NAME)
    talk.submit(first, second)
    assert [message.id for message in talk.said()] == [NAME, NAME]
    assert [request for request, _ in talk.advance(5 * MS)] == [first]
    assert talk.outcome(second) == [(second, [b"done"])]
    assert len(talk.peer) == 0
    talk.submit(third := Request(b"x", name=NAME), fourth := Request(b"x", name=NAME))
    talk.send()
    assert {request for request, _ in talk.outcome(third)} == {third, fourth}
    assert talk.peer.counters.answers_unknown == 0


def test_one_id_for_two_different_jobs_is_refused_here(talk: Talk) -> None:
    """The broker could only compare sizes."""
    first = Request(b"x", name=NAME)
    other_body, other_queue = Request(b"y", name=NAME), Request(b"x", None, Asking(Kind.JOB, Terms(queue="q")), NAME)
    talk.submit(first, other_body, other_queue)
    assert talk.peer.due == 0
    ended = talk.advance(0)
    assert [request for request, _ in ended] == [other_body, other_queue]
    assert {outcome.code for _, outcome in ended} == {"conflict"}
    assert talk.said() == [Submit(id=NAME)]
    assert talk.outcome(first) == [(first, b"done")]


# --- Following.


def test_partial_results_and_progress_reach_those_who_follow(talk: Talk) -> None:
    """In the order in which they came, before the outcome; after it they are nobody's."""
    follower = Request(b"x", None, Asking(Kind.JOB, follow=True), NAME)
    bystander = Request(b"x", None, name=NAME)
    talk.submit(follower, bystander)
    assert [message.follow for message in talk.said()] == [True, False]
    piece = (SIGNATURE, encode(TellPartial(id=NAME, attempt=1, seq=1)), b"a", b"")
    note = (SIGNATURE, encode(TellProgress(id=NAME, attempt=1, done=1.5, note="half")))
    outcome = (SIGNATURE, encode(Outcome(id=NAME, n=1)), b"done")
    ended = talk.peer.received([piece, note, outcome, piece, note], talk.now)
    assert {request for request, _ in ended} == {follower, bystander}
    assert talk.peer.followed == [
        (follower, Partial((b"a", b""), attempt=1, seq=1)),
        (follower, Progress(attempt=1, done=1.5, note="half")),
    ]
    assert talk.peer.counters.followed == 2


# --- All together.


def test_request_ids_are_random_and_of_sixteen_bytes() -> None:
    """Across the blocks in which they are drawn."""
    ids = request_ids()
    drawn = {next(ids) for _ in range(5_000)}
    assert len(drawn) == 5_000
    assert {len(name) for name in drawn} == {16}


def test_closing_ends_everything(talk: Talk) -> None:
    """Whatever it waits for."""
    requests = [job(), Request(b"x", None, ENQUEUE), Request(b"", None, RESULT, NAME), Request(b"", None, STATE, NAME)]
    talk.submit(*requests)
    assert talk.peer.close() == requests
    assert len(talk.peer) == talk.peer.unsent == 0


class Conversation(RuleBasedStateMachine):
    """The peer beside a model of a broker that knows what it was told, and may lose, refuse, repeat and forget."""

    def __init__(self) -> None:
        super().__init__()
        self.talk = Talk()
        self.opened: list[Request] = []
        self.ended: dict[Request, Any] = {}
        self.known: set[bytes] = set()
        """What the broker of this session was asked."""
        self.asked_before: set[bytes] = set()
        """What any broker may have taken."""
        self.told = 0

    def end(self, ended: list[tuple[Request, Any]]) -> None:
        for request, outcome in ended:
            assert request not in self.ended, "a request ended twice"
            self.opened.remove(request)
            self.ended[request] = outcome

    @rule(kinds=st.lists(st.sampled_from([Kind.JOB, Kind.JOB, Kind.ENQUEUE, Kind.RESULT]), max_size=4), data=st.data())
    def submit(self, kinds: list[Kind], data: st.DataObject) -> None:
        timeouts = [data.draw(st.sampled_from([None, 40 * MS, 9 * SECOND])) for _ in kinds]
        requests = [
            Request(b"x", timeout, Asking(kind), b"%020d" % len(self.ended) if kind is Kind.RESULT else b"")
            for kind, timeout in zip(kinds, timeouts, strict=True)
        ]
        self.talk.submit(*requests)
        self.opened.extend(requests)

    @rule(taken=st.integers(0, 6))
    def send(self, taken: int) -> None:
        offered = self.talk.offered(6)
        taken = min(taken, len(offered))
        self.talk.peer.sent(taken, self.talk.now)
        for message, _ in offered[:taken]:
            if isinstance(message, ClientHello):
                self.known.clear()
            elif isinstance(message, Submit):
                for name in [item.id for item in message.jobs] or [message.id]:
                    assert (message.age_ms > 0) == (name in self.asked_before), "the age says whether it is new"
                    self.known.add(name)
                    self.asked_before.add(name)
            elif isinstance(message, Inquire):
                self.known.add(message.id)
            if isinstance(message, Submit | Heartbeat):
                assert message.received in (0, self.told), "the receipt is what was told"

    @precondition(lambda self: not self.talk.peer.ready)
    @rule(connect=st.booleans())
    def welcome(self, connect: bool) -> None:
        if connect:
            self.talk.peer.became_connected(self.talk.now)
        if self.talk.peer.wants_to_send:
            self.send(1)
            self.talk.welcome()
            self.told = 0

    @rule()
    def lose(self) -> None:
        self.talk.now += MS
        assert self.talk.peer.lost("why") == []
        self.known.clear()

    @rule()
    def forget_the_session(self) -> None:
        self.talk.now += MS
        assert self.talk.hear(Error(code="no_session")) == []

    @precondition(lambda self: self.known and self.talk.peer.ready)
    @rule(data=st.data(), gap=st.integers(0, 9))
    def answer(self, data: st.DataObject, gap: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.known)))
        here = [r for r in self.opened if r.name == name and r.asking.kind is not Kind.ENQUEUE]
        if gap == 9:
            self.talk.now += MS
            self.talk.number += 1
        elif self.talk.number == self.told:
            self.told += 1
        ended = self.talk.outcome(Request(b"", name=name))
        assert {request for request, _ in ended} == set(here)
        self.end(ended)
        if not self.talk.peer.ready:
            self.known.clear()

    @precondition(lambda self: self.known and self.talk.peer.ready)
    @rule(data=st.data(), retry_ms=st.sampled_from([0, 30]))
    def refuse(self, data: st.DataObject, retry_ms: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.known)))
        before = len(self.opened)
        sent = [r for r in self.opened if r.name == name and r.asking.submits and r.asked_at]
        self.end(self.talk.refuse(Request(b"", name=name), "busy", retry_ms))
        assert retry_ms == 0 or len(self.opened) == before
        if retry_ms and any(r.asked_at == 0 for r in sent):
            self.asked_before.discard(name)

    @precondition(lambda self: self.known and self.talk.peer.ready)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.known)))
        self.end(self.talk.hear(Submitted(jobs=(Admitted(id=name, job=b"j" * 16),))))

    @rule(step=st.sampled_from([MS, 30 * MS, 60 * MS, 900 * MS, 4 * SECOND]))
    def advance(self, step: int) -> None:
        self.end(self.talk.advance(step))
        if self.talk.peer.deaf:
            self.lose()

    @precondition(lambda self: self.opened)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        unwanted = data.draw(st.sampled_from(self.opened))
        assert self.talk.peer.abandon([unwanted]) == [unwanted]
        self.end([(unwanted, None)])

    @invariant()
    def agrees(self) -> None:
        peer = self.talk.peer
        assert len(peer) == len(self.opened)
        guests = sum(len(guests) for guests in peer._guests.values())
        assert guests == sum(r.key != r.name for r in self.opened), "the index knows all guests and no other"
        assert all(peer._guests.values()), "and no name without one"
        assert peer.unsent <= len(self.opened)

    def teardown(self) -> None:
        """Once the broker is there and everything is taken, everything that is open has been asked."""
        if not self.talk.peer.ready:
            self.talk.peer.became_connected(self.talk.now)
            self.talk.said()
            self.talk.welcome()
        for _ in range(9):
            self.end(self.talk.advance(100 * MS))
            self.talk.said()
        assert self.talk.peer.unsent == 0 or not self.talk.peer.ready
        self.end([(request, None) for request in self.talk.peer.close()])
        assert self.opened == []


TestConversation = Conversation.TestCase
TestConversation.__doc__ = """Every request ends once and is asked until then, whatever is lost, refused or repeated."""
