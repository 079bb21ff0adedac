"""The client's protocol as conversations with itself: no socket, no thread, and time is what the test says."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relet.client.peer import FAILURE, STALE_DEADLINES_MIN, ClientPeer, Message, Request

SECRET = b"0123456789"


def request(body: bytes = b"job", timeout_ns: int | None = None) -> Request:
    """A request of one frame."""
    return Request(body, timeout_ns)


def connected(*, resend: bool = True) -> ClientPeer[Request]:
    """A peer whose broker is there."""
    peer: ClientPeer[Request] = ClientPeer(SECRET, resend=resend)
    peer.became_connected()
    return peer


def send_all(peer: ClientPeer[Any]) -> list[Message]:
    """What goes out when the socket takes everything."""
    messages = peer.outgoing(1_000)
    peer.sent(len(messages))
    return messages


def test_a_request_is_sent_once_behind_its_own_correlation_and_the_delimiter() -> None:
    """What goes out is [correlation, "", body], and it goes out once."""
    peer = connected()
    one, two = request(b"one"), request(b"two")
    peer.submit([one, two], now=0)
    assert send_all(peer) == [(one.correlation, b"", b"one"), (two.correlation, b"", b"two")]
    assert send_all(peer) == []
    assert one.correlation.startswith(SECRET)
    assert one.correlation != two.correlation


def test_nothing_is_sent_before_there_is_a_connection() -> None:
    """Requests wait in the peer, not in a socket that may never meet its broker."""
    peer: ClientPeer[Request] = ClientPeer(SECRET)
    peer.submit([request()], now=0)
    assert peer.outgoing(10) == []
    peer.became_connected()
    assert len(send_all(peer)) == 1


def test_what_the_socket_did_not_take_is_offered_again() -> None:
    """A partial send loses nothing and keeps the order."""
    peer = connected()
    peer.submit([request(b"%d" % i) for i in range(5)], now=0)
    assert len(peer.outgoing(10)) == 5
    peer.sent(2)
    assert [body for _, _, body in peer.outgoing(10)] == [b"2", b"3", b"4"]


def test_an_answer_ends_its_request_and_a_second_one_is_unknown() -> None:
    """The first answer is delivered; a double one is counted and dropped."""
    peer = connected()
    asked = request()
    peer.submit([asked], now=0)
    send_all(peer)
    answer = (asked.correlation, b"", b"done", b"well")
    assert peer.received([answer, answer]) == [(asked, (b"done", b"well"))]
    assert len(peer) == 0
    assert peer.counters.answers_unknown == 1


def test_the_empty_frame_is_what_failure_looks_like() -> None:
    """The peer hands the frames on; the constant is the dialect's spelling."""
    peer = connected()
    asked = request()
    peer.submit([asked], now=0)
    assert peer.received([(asked.correlation, b"", b"")]) == [(asked, FAILURE)]


def test_garbage_is_counted_and_kills_nothing() -> None:
    """Frames that are no answers leave every request open."""
    peer = connected()
    asked = request()
    peer.submit([asked], now=0)
    garbage = [(b"",), (b"x",), (asked.correlation,), (asked.correlation, b"no delimiter", b"x"), (b"", b"", b"x")]
    assert peer.received(garbage) == []
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
    assert peer.expire(110) == [short]
    assert peer.due == 1_100
    assert peer.received([(short.correlation, b"", b"late")]) == []
    assert peer.expire(1 << 60) == [long]
    assert peer.due is None
    assert len(peer) == 1


def test_an_expired_request_is_not_sent_any_more() -> None:
    """While the broker is away, what has expired leaves nothing behind in the queue."""
    peer: ClientPeer[Request] = ClientPeer(SECRET)
    peer.submit([request(b"gone", timeout_ns=1), request(b"kept")], now=0)
    peer.expire(5)
    peer.became_connected()
    assert [body for _, _, body in send_all(peer)] == [b"kept"]


def test_after_a_loss_open_requests_are_sent_again_in_order_under_the_same_correlation() -> None:
    """Those sent and those not yet sent, in the order of submission; those answered are not."""
    peer = connected()
    requests = [request(b"%d" % i) for i in range(4)]
    peer.submit(requests, now=0)
    peer.outgoing(10)
    peer.sent(3)
    peer.received([(requests[1].correlation, b"", b"ok")])
    assert peer.lost() == []
    assert peer.outgoing(10) == []
    peer.became_connected()
    assert send_all(peer) == [(r.correlation, b"", r.body) for r in (requests[0], requests[2], requests[3])]
    assert peer.counters.resent == 2


def test_without_resend_a_loss_ends_what_was_sent_and_keeps_what_was_not() -> None:
    """Only requests that may have been done are told of the loss."""
    peer = connected(resend=False)
    sent, unsent = request(b"sent"), request(b"unsent")
    peer.submit([sent, unsent], now=0)
    peer.outgoing(1)
    peer.sent(1)
    assert peer.lost() == [sent]
    peer.became_connected()
    assert [body for _, _, body in send_all(peer)] == [b"unsent"]


def test_an_abandoned_request_is_gone_and_only_once() -> None:
    """Its place is free, its answer unknown, and abandoning it again finds nothing."""
    peer = connected()
    asked, never_submitted = request(), request()
    peer.submit([asked], now=0)
    assert peer.abandon([asked, never_submitted]) == [asked]
    assert peer.abandon([asked]) == []
    assert peer.received([(asked.correlation, b"", b"x")]) == []
    assert send_all(peer) == []


def test_deadlines_of_ended_requests_do_not_pile_up() -> None:
    """A long timeout and quick answers leave a heap that is at most half stale."""
    peer = connected()
    patient = request(timeout_ns=1)
    peer.submit([patient], now=10**15)
    for _ in range(20 * STALE_DEADLINES_MIN):
        quick = request(timeout_ns=10**18)
        peer.submit([quick], now=0)
        peer.received([(quick.correlation, b"", b"x")])
        assert peer.due == 10**15 + 1
    assert len(peer._deadlines) <= STALE_DEADLINES_MIN + 1


class ClientModel(RuleBasedStateMachine):
    """The peer beside a plain list of what must be open."""

    def __init__(self) -> None:
        super().__init__()
        self.peer: ClientPeer[Request] = ClientPeer(SECRET)
        self.now = 0
        self.opened: list[Request] = []
        self.deadline: dict[Request, int] = {}
        self.sent: set[Request] = set()
        self.ended: list[Request] = []

    def end(self, requests: list[Request]) -> None:
        for ended in requests:
            assert ended not in self.ended, "a request ended twice"
            self.opened.remove(ended)
            self.sent.discard(ended)
            self.ended.append(ended)

    @rule(timeouts=st.lists(st.none() | st.integers(1, 50), max_size=4))
    def submit(self, timeouts: list[int | None]) -> None:
        requests = [request(timeout_ns=timeout) for timeout in timeouts]
        self.peer.submit(requests, self.now)
        self.opened.extend(requests)
        self.deadline.update((r, self.now + r.timeout_ns) for r in requests if r.timeout_ns is not None)

    @rule(offered=st.integers(1, 5), taken=st.integers(0, 5))
    def send(self, offered: int, taken: int) -> None:
        expected = [r for r in self.opened if r not in self.sent][:offered] if self.peer.connected else []
        messages = self.peer.outgoing(offered)
        assert [m[0] for m in messages] == [r.correlation for r in expected]
        taken = min(taken, len(messages))
        self.peer.sent(taken)
        self.sent.update(expected[:taken])

    @rule()
    def connect(self) -> None:
        self.peer.became_connected()

    @precondition(lambda self: self.peer.connected)
    @rule()
    def lose(self) -> None:
        assert self.peer.lost() == []
        self.sent.clear()

    @precondition(lambda self: self.opened or self.ended)
    @rule(data=st.data(), times=st.integers(1, 2))
    def answer(self, data: st.DataObject, times: int) -> None:
        answered = data.draw(st.sampled_from(self.opened + self.ended))
        got = self.peer.received([(answered.correlation, b"", b"x")] * times)
        assert [r for r, _ in got] == ([answered] if answered in self.opened else [])
        self.end([r for r, _ in got])

    @precondition(lambda self: self.opened)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        self.end(self.peer.abandon([data.draw(st.sampled_from(self.opened))]))

    @rule(step=st.integers(0, 60))
    def advance(self, step: int) -> None:
        self.now += step
        expired = self.peer.expire(self.now)
        assert set(expired) == {r for r in self.opened if self.deadline.get(r, self.now + 1) <= self.now}
        self.end(expired)

    @invariant()
    def agrees(self) -> None:
        assert len(self.peer) == len(self.opened)
        assert self.peer.unsent == len(self.opened) - len(self.sent)
        assert self.peer.due == min((self.deadline[r] for r in self.opened if r in self.deadline), default=None)

    def teardown(self) -> None:
        self.end(self.peer.close())
        assert self.opened == []


TestClientModel = ClientModel.TestCase
TestClientModel.__doc__ = """Every request ends exactly once, whatever the order of answers, losses and timeouts."""
