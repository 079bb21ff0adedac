"""The client's 2010 dialect as conversations with itself: no socket, no thread, and time is what the test says."""

from __future__ import annotations

from typing import Any

from relet.client.errors import BrokerLost, JobFailed
from relet.client.peer import STALE_DEADLINES_MIN, Message, Request
from relet.client.peer2010 import Peer2010, correlations

SECRET = b"0123456789"


def request(body: bytes = b"job", timeout_ns: int | None = None) -> Request:
    """A request of one frame."""
    return Request(body, timeout_ns)


class Several(Request):
    """A request that takes an answer of several frames."""

    multipart = True


def ended(told: list[tuple[Request, Any]], kind: type[Exception]) -> list[Request]:
    """The requests that ended, all of them by an error of this kind."""
    assert all(type(outcome) is kind for _, outcome in told)
    return [request for request, _ in told]


def connected(*, resend: bool = True) -> Peer2010[Request]:
    """A peer whose broker is there."""
    peer: Peer2010[Request] = Peer2010(correlations(SECRET), resend=resend)
    peer.became_connected(0)
    return peer


def send_all(peer: Peer2010[Any]) -> list[Message]:
    """What goes out when the socket takes everything."""
    messages = peer.outgoing(1_000, 0)
    peer.sent(len(messages), 0)
    return messages


def test_a_request_is_sent_once_behind_its_own_correlation_and_the_delimiter() -> None:
    """What goes out is [correlation, "", body], and it goes out once."""
    peer = connected()
    one, two = request(b"one"), request(b"two")
    peer.submit([one, two], now=0)
    assert send_all(peer) == [(one.name, b"", b"one"), (two.name, b"", b"two")]
    assert send_all(peer) == []
    assert one.name.startswith(SECRET)
    assert one.name != two.name


def test_nothing_is_sent_before_there_is_a_connection() -> None:
    """Requests wait in the peer, not in a socket that may never meet its broker."""
    peer: Peer2010[Request] = Peer2010(correlations(SECRET))
    peer.submit([request()], now=0)
    assert peer.outgoing(10, 0) == []
    peer.became_connected(0)
    assert len(send_all(peer)) == 1


def test_what_the_socket_did_not_take_is_offered_again() -> None:
    """A partial send loses nothing and keeps the order."""
    peer = connected()
    peer.submit([request(b"%d" % i) for i in range(5)], now=0)
    assert len(peer.outgoing(10, 0)) == 5
    peer.sent(2, 0)
    assert [body for _, _, body in peer.outgoing(10, 0)] == [b"2", b"3", b"4"]


def test_an_answer_ends_its_request_and_a_second_one_is_unknown() -> None:
    """The first answer is delivered; a double one is counted and dropped."""
    peer = connected()
    asked = Several(b"job")
    peer.submit([asked], now=0)
    send_all(peer)
    answer = (asked.name, b"", b"done", b"well")
    assert peer.received([answer, answer], 0) == [(asked, [b"done", b"well"])]
    assert len(peer) == 0
    assert peer.counters.answers_unknown == 1


def test_the_empty_frame_is_what_failure_looks_like() -> None:
    """For who takes one frame, and for who takes several; among several it is a frame like others."""
    peer = connected()
    one, several, more = request(), Several(b"job"), Several(b"job")
    peer.submit([one, several, more], now=0)
    assert ended(peer.received([(r.name, b"", b"") for r in (one, several)], 0), JobFailed) == [one, several]
    assert peer.received([(more.name, b"", b"", b"")], 0) == [(more, [b"", b""])]
    assert peer.counters.failed == 2


def test_garbage_is_counted_and_kills_nothing() -> None:
    """Frames that are no answers leave every request open."""
    peer = connected()
    asked = request()
    peer.submit([asked], now=0)
    garbage = [(b"",), (b"x",), (asked.name,), (asked.name, b"no delimiter", b"x"), (b"", b"", b"x")]
    assert peer.received(garbage, 0) == []
    assert peer.counters.frames_refused == 4
    assert peer.counters.answers_unknown == 1
    assert len(peer) == 1


def test_a_request_expires_at_its_time_and_not_before() -> None:
    """The deadline is submission plus timeout; the late answer is unknown then."""
    peer = connected()
    short, long, endless = request(timeout_ns=10), request(timeout_ns=1_000), request()
    peer.submit([long, endless, short], now=100)
    assert peer.due == 110
    assert peer.expire(109) == []
    assert ended(peer.expire(110), TimeoutError) == [short]
    assert peer.due == 1_100
    assert peer.received([(short.name, b"", b"late")], 0) == []
    assert ended(peer.expire(1 << 60), TimeoutError) == [long]
    assert peer.due is None
    assert len(peer) == 1


def test_an_expired_request_is_not_sent_any_more() -> None:
    """While the broker is away, what has expired leaves nothing behind in the queue."""
    peer: Peer2010[Request] = Peer2010(correlations(SECRET))
    peer.submit([request(b"gone", timeout_ns=1), request(b"kept")], now=0)
    peer.expire(5)
    peer.became_connected(0)
    assert [body for _, _, body in send_all(peer)] == [b"kept"]


def test_after_a_loss_open_requests_are_sent_again_in_order_under_the_same_correlation() -> None:
    """Those sent and those not yet sent, in the order of submission; those answered are not."""
    peer = connected()
    requests = [request(b"%d" % i) for i in range(4)]
    peer.submit(requests, now=0)
    peer.outgoing(10, 0)
    peer.sent(3, 0)
    peer.received([(requests[1].name, b"", b"ok")], 0)
    assert peer.lost("why") == []
    assert peer.outgoing(10, 0) == []
    peer.became_connected(0)
    assert send_all(peer) == [(r.name, b"", r.body) for r in (requests[0], requests[2], requests[3])]
    assert peer.counters.resent == 2


def test_without_resend_a_loss_ends_what_was_sent_and_keeps_what_was_not() -> None:
    """Only requests that may have been done are told of the loss."""
    peer = connected(resend=False)
    sent, unsent = request(b"sent"), request(b"unsent")
    peer.submit([sent, unsent], now=0)
    peer.outgoing(1, 0)
    peer.sent(1, 0)
    assert ended(peer.lost("why"), BrokerLost) == [sent]
    peer.became_connected(0)
    assert [body for _, _, body in send_all(peer)] == [b"unsent"]


def test_an_abandoned_request_is_gone_and_only_once() -> None:
    """Its place is free, its answer unknown, and abandoning it again finds nothing."""
    peer = connected()
    asked, never_submitted = request(), request()
    peer.submit([asked], now=0)
    assert peer.abandon([asked, never_submitted]) == [asked]
    assert peer.abandon([asked]) == []
    assert peer.received([(asked.name, b"", b"x")], 0) == []
    assert send_all(peer) == []


def test_deadlines_of_ended_requests_do_not_pile_up() -> None:
    """A long timeout and quick answers leave a heap that is at most half stale."""
    peer = connected()
    patient = request(timeout_ns=1)
    peer.submit([patient], now=10**15)
    for _ in range(20 * STALE_DEADLINES_MIN):
        quick = request(timeout_ns=10**18)
        peer.submit([quick], now=0)
        peer.received([(quick.name, b"", b"x")], 0)
        assert peer.due == 10**15 + 1
    assert len(peer._deadlines) <= STALE_DEADLINES_MIN + 1
