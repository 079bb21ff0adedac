"""What holds of a client's peer in either dialect: every request ends once, whatever the order of things."""

from __future__ import annotations

from itertools import count

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relet.client.peer import Peer, Request
from relet.client.peer2010 import Peer2010, correlations
from relet.client.peer_native import NativePeer
from relet.dialects.native import encode
from relet.messages import SIGNATURE, Outcome, Welcome

SOON_NS = 1_000_000
"""The model never gets so far: what is due later is greetings, receipts and heartbeats."""


def request(timeout_ns: int | None = None) -> Request:
    """A request of one frame."""
    return Request(b"job", timeout_ns)


class In2010:
    """How a broker of the 2010 dialect speaks."""

    def __init__(self) -> None:
        self.peer: Peer[Request] = Peer2010(correlations(b"0123456789"))

    def connect(self, now: int) -> None:
        self.peer.became_connected(now)

    def name(self, message: tuple[bytes, ...]) -> bytes:
        return message[0]

    def answer(self, name: bytes) -> tuple[bytes, ...]:
        return (name, b"", b"x")


class Natively:
    """How a broker of the native dialect speaks: slowly enough for the client to have nothing else to say."""

    def __init__(self) -> None:
        self.peer: Peer[Request] = NativePeer(b"%016d" % number for number in count())
        self.number = 0

    def connect(self, now: int) -> None:
        self.peer.became_connected(now)
        assert len(self.peer.outgoing(10, now)) == 1
        self.peer.sent(1, now)
        welcome = Welcome(epoch=1, heartbeat_ms=10**9, liveness_ms=10**10, limits={})
        assert self.peer.received([(SIGNATURE, encode(welcome))], now) == []
        self.number = 0

    def name(self, message: tuple[bytes, ...]) -> bytes:
        return message[1].partition(b"id\xc4\x10")[2][:16]

    def answer(self, name: bytes) -> tuple[bytes, ...]:
        self.number += 1
        return (SIGNATURE, encode(Outcome(id=name, n=self.number)), b"x")


class ClientModel(RuleBasedStateMachine):
    """The peer beside a plain list of what must be open."""

    speaks: type[In2010 | Natively]

    def __init__(self) -> None:
        super().__init__()
        self.wire = self.speaks()
        self.peer = self.wire.peer
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
        expected = [r for r in self.opened if r not in self.sent][:offered] if self.peer.ready else []
        messages = self.peer.outgoing(offered, self.now)
        assert [self.wire.name(m) for m in messages] == [r.name for r in expected]
        taken = min(taken, len(messages))
        self.peer.sent(taken, self.now)
        self.sent.update(expected[:taken])

    @precondition(lambda self: not self.peer.ready)
    @rule()
    def connect(self) -> None:
        self.wire.connect(self.now)

    @precondition(lambda self: self.peer.ready)
    @rule()
    def lose(self) -> None:
        assert self.peer.lost("why") == []
        self.sent.clear()

    @precondition(lambda self: self.opened or self.ended)
    @rule(data=st.data(), times=st.integers(1, 2))
    def answer(self, data: st.DataObject, times: int) -> None:
        answered = data.draw(st.sampled_from(self.opened + self.ended))
        got = self.peer.received([self.wire.answer(answered.name) for _ in range(times)], self.now)
        assert [r for r, _ in got] == ([answered] if answered in self.opened else [])
        self.end([r for r, _ in got])

    @precondition(lambda self: self.opened)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        self.end(self.peer.abandon([data.draw(st.sampled_from(self.opened))]))

    @rule(step=st.integers(0, 60))
    def advance(self, step: int) -> None:
        self.now += step
        expired = [request for request, _ in self.peer.expire(self.now)]
        assert set(expired) == {r for r in self.opened if self.deadline.get(r, self.now + 1) <= self.now}
        self.end(expired)

    @invariant()
    def agrees(self) -> None:
        assert len(self.peer) == len(self.opened)
        assert self.peer.unsent == len(self.opened) - len(self.sent)
        due = self.peer.due
        soon = due if due is not None and due < SOON_NS else None
        assert soon == min((self.deadline[r] for r in self.opened if r in self.deadline), default=None)

    def teardown(self) -> None:
        self.end(self.peer.close())
        assert self.opened == []


class Model2010(ClientModel):
    speaks = In2010


class ModelNative(ClientModel):
    speaks = Natively


Test2010 = Model2010.TestCase
Test2010.__doc__ = """Every request ends exactly once, whatever the order of answers, losses and timeouts."""
TestNative = ModelNative.TestCase
TestNative.__doc__ = """The same."""
