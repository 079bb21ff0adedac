"""What is not wanted any more, as a native client says it: cancelled futures, abandoned maps, `Client.cancel`.

The peer alone, without sockets, threads or clock: the test is the broker.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from relet.client.errors import JobFailed, JobRefused
from relet.client.peer import Request
from relet.client.peer_native import NativePeer
from relet.client.terms import Asking, Kind
from relet.client.told import JobStatus
from relet.dialects.native import encode, from_client
from relet.messages import SIGNATURE, CancelJob, ClientHello, Heartbeat, JobState, Outcome, Submit, Welcome

NAME = b"a-name-of-its-own"


class Talk:
    """A peer, the broker's side of the conversation, and the clock."""

    def __init__(self, features: tuple[str, ...] = ("cancels",)) -> None:
        self.peer: NativePeer[Request] = NativePeer(b"%016d" % number for number in count())
        self.features = features
        self.now = 1_000_000_000
        self.number = 0
        self.connect()

    def connect(self) -> None:
        """A new connection, hello and welcome."""
        self.peer.became_connected(self.now)
        assert self.said() == [ClientHello(features=("follows",))]
        self.number = 0
        self.hear(Welcome(epoch=1, heartbeat_ms=2_500, liveness_ms=10_000, limits={"ids": 10}, features=self.features))

    def reconnect(self) -> None:
        """The connection goes, and comes back."""
        self.peer.lost("gone")
        self.connect()

    def submit(self, *requests: Request) -> None:
        """Callers want this."""
        self.peer.submit(requests, self.now)

    def cancels(self, name: bytes, *, by_job: bool = False) -> Request:
        """A caller cancels by a name."""
        request = Request(b"", None, Asking(Kind.CANCEL, by_job=by_job), name)
        self.submit(request)
        return request

    def said(self) -> list[Any]:
        """What the socket takes now; and it must have been announced."""
        wants = self.peer.wants_to_send
        messages = self.peer.outgoing(1_000, self.now)
        assert wants == bool(messages)
        self.peer.sent(len(messages), self.now)
        return [from_client(1, message[1]) for message in messages]

    def hear(self, *messages: Any, body: tuple[bytes, ...] = ()) -> list[tuple[Request, Any]]:
        """The broker says this."""
        return self.peer.received([(SIGNATURE, encode(message), *body) for message in messages], self.now)

    def outcome(self, name: bytes, *body: bytes, **fields: Any) -> list[tuple[Request, Any]]:
        """The broker tells an outcome."""
        self.number += 1
        return self.hear(Outcome(id=name, n=self.number, **fields), body=body)

    def cancelled(self, name: bytes, reason: str = "cancelled") -> list[tuple[Request, Any]]:
        """The broker has heeded a cancel."""
        return self.outcome(name, state="cancelled", reason=reason, attempts=0)

    def due(self) -> list[tuple[Request, Any]]:
        """What is due now."""
        due = self.peer.due
        return self.peer.expire(self.now) if due is not None and due <= self.now else []


@pytest.fixture
def talk() -> Talk:
    """A peer that is welcome at a broker that heeds cancels."""
    return Talk()


def job(name: bytes = b"", kind: Kind = Kind.JOB) -> Request:
    """A plain job."""
    return Request(b"job", None, Asking(kind), name)


# --- Withdrawn: nobody waits for the answer


def test_what_was_sent_is_cancelled_once(talk: Talk) -> None:
    """And what the broker says to it disturbs nobody, and is no late answer."""
    it = job()
    talk.submit(it)
    talk.said()
    assert talk.peer.withdraw([it]) == [it]
    assert talk.said() == [CancelJob(id=it.name)]
    assert talk.said() == []
    assert talk.cancelled(it.name) == []
    counters = talk.peer.counters
    assert (counters.withdrawn, counters.abandoned) == (1, 1)
    assert (counters.answers_late, counters.answers_unknown) == (0, 0)
    talk.reconnect()
    assert talk.said() == []


def test_what_was_never_sent_needs_no_cancel(talk: Talk) -> None:
    """The broker does not know it."""
    it = job()
    talk.submit(it)
    talk.peer.withdraw([it])
    assert talk.said() == []
    assert talk.peer.counters.withdrawn == 0


def test_a_cancel_is_said_on_each_connection_until_it_is_answered(talk: Talk) -> None:
    """Neither it nor its answer need have arrived; the job itself is not submitted again."""
    it = job()
    talk.submit(it)
    talk.said()
    talk.peer.withdraw([it])
    for _ in range(3):
        assert talk.said() == [CancelJob(id=it.name)]
        talk.reconnect()
    assert talk.said() == [CancelJob(id=it.name)]
    talk.hear(JobState(id=it.name, state="unknown"))
    talk.reconnect()
    assert talk.said() == []


def test_an_answer_that_crosses_is_late_and_ends_the_cancel(talk: Talk) -> None:
    """The `state` that follows is an answer to nobody."""
    it = job()
    talk.submit(it)
    talk.said()
    talk.peer.withdraw([it])
    talk.said()
    assert talk.outcome(it.name, b"done") == []
    assert talk.hear(JobState(id=it.name, state="completed")) == []
    assert talk.peer.counters.answers_late == 1
    talk.reconnect()
    assert talk.said() == []


def test_a_name_that_another_here_asks_for_is_not_cancelled(talk: Talk) -> None:
    """One of two futures under one id: the other still waits on the same session. The last one cancels."""
    one, two = job(NAME), job(NAME)
    talk.submit(one, two)
    talk.said()
    talk.peer.withdraw([one])
    assert talk.said() == []
    talk.peer.withdraw([two])
    assert talk.said() == [CancelJob(id=NAME)]


def test_what_is_abandoned_otherwise_is_left_alone(talk: Talk) -> None:
    """An interrupted call, a timeout, a question: no job is ended by these."""
    it, asked = job(), job(NAME, Kind.RESULT)
    talk.submit(it, asked)
    talk.said()
    talk.peer.abandon([it])
    talk.peer.withdraw([asked])
    assert talk.said() == []


def test_asked_again_under_a_cancelled_id_it_gets_its_own_outcome(talk: Talk) -> None:
    """The answer to the cancel is not taken for that to what was asked after it."""
    one = job(NAME)
    talk.submit(one)
    talk.said()
    talk.peer.withdraw([one])
    talk.said()
    two = job(NAME)
    talk.submit(two)
    assert [type(said) for said in talk.said()] == [Submit]
    assert talk.cancelled(NAME, "detached") == []
    assert talk.outcome(NAME, b"done") == [(two, b"done")]


def test_the_last_words_hold_the_cancels_that_are_not_sent(talk: Talk) -> None:
    """Who cancels and closes at once has cancelled."""
    it = job()
    talk.submit(it)
    talk.said()
    talk.peer.withdraw([it])
    talk.outcome(b"x" * 16, b"y")
    assert [from_client(1, said[1]) for said in talk.peer.farewell()] == [
        CancelJob(id=it.name),
        Heartbeat(received=1),
    ]


def test_a_broker_that_knows_no_cancel_is_told_none() -> None:
    """It says in `welcome` what it knows."""
    talk = Talk(features=())
    it = job()
    talk.submit(it)
    talk.said()
    talk.peer.withdraw([it])
    assert talk.said() == []
    asked = talk.cancels(NAME)
    ((ended, error),) = talk.due()
    assert ended is asked
    assert isinstance(error, JobRefused)
    assert error.code == "unknown_command"
    assert talk.said() == []


# --- Cancelled by name, and somebody waits for the answer


def test_a_cancel_is_answered_by_state(talk: Talk) -> None:
    """By either name."""
    by_id, by_job = talk.cancels(NAME), talk.cancels(b"j" * 16, by_job=True)
    assert talk.said() == [CancelJob(id=NAME), CancelJob(job=b"j" * 16)]
    assert talk.hear(JobState(id=NAME, state="unknown")) == [(by_id, JobStatus("unknown"))]
    said = JobState(job=b"j" * 16, state="cancelled", reason="cancelled", attempts=2)
    status = JobStatus("cancelled", attempts=2, reason="cancelled", job_id=b"j" * 16)
    assert talk.hear(said) == [(by_job, status)]


@pytest.mark.parametrize("reason", ["cancelled", "detached"])
def test_a_cancel_is_answered_by_the_outcome_of_what_waits_here(talk: Talk, reason: str) -> None:
    """Which ends both."""
    it = job(NAME)
    talk.submit(it)
    talk.said()
    asked = talk.cancels(NAME)
    talk.said()
    ended = dict(talk.cancelled(NAME, reason))
    assert ended[asked] == JobStatus("cancelled", reason=reason)
    assert isinstance(ended[it], JobFailed)
    assert ended[it].reason == reason
    assert len(talk.peer) == 0


def test_what_waits_to_be_sent_is_not_sent_after_its_cancel(talk: Talk) -> None:
    """It ends here; whether the broker ever had it the broker will say."""
    it = job(NAME)
    talk.submit(it)
    asked = talk.cancels(NAME)
    ((ended, error),) = talk.due()
    assert ended is it
    assert isinstance(error, JobFailed)
    assert (error.state, error.reason, error.request_id) == ("cancelled", "cancelled", NAME)
    assert talk.said() == [CancelJob(id=NAME)]
    assert talk.hear(JobState(id=NAME, state="unknown")) == [(asked, JobStatus("unknown"))]


def test_after_a_loss_what_is_being_cancelled_is_not_submitted_again(talk: Talk) -> None:
    """A new broker would do it."""
    it = job(NAME)
    talk.submit(it)
    talk.said()
    talk.cancels(NAME)
    talk.cancels(NAME)
    talk.said()
    talk.reconnect()
    assert [ended for ended, _ in talk.due()] == [it]
    assert talk.said() == [CancelJob(id=NAME)] * 2


def test_an_outcome_that_is_there_before_the_cancel_went_is_none_of_its_answer(talk: Talk) -> None:
    """The job's future has its answer; the cancel hears from the broker that it was too late."""
    it = job(NAME)
    talk.submit(it)
    talk.said()
    asked = talk.cancels(NAME)
    assert talk.outcome(NAME, b"done") == [(it, b"done")]
    assert talk.said() == [CancelJob(id=NAME)]
    assert talk.hear(JobState(id=NAME, state="completed", attempts=1)) == [(asked, JobStatus("completed", attempts=1))]
