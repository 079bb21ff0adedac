"""Being ready: what is reported, what is waited for, and that each timeout is what its unit says."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import zmq

from relet.sockets import (
    DEFAULT_POLLING_TIMEOUT,
    DEFAULT_TIMEOUT_IN_SECONDS,
    SocketManager,
    SocketNotFound,
    named,
    polling,
)

from .conftest import BOTH, IN, LIMIT_MS, OUT, Make, pipe


def test_registered_sockets_are_polled_together(sockets: SocketManager) -> None:
    """Those that are ready are told, each with what for."""
    pipe(sockets)
    into, out = sockets.get_by_name("in"), sockets.get_by_name("out")
    assert sockets.wait_until_ready("out", OUT) is out
    assert sockets.engage() == {out: OUT}
    sockets.send_safe("out", 1)
    assert sockets.wait_until_ready("in", IN) is into
    assert sockets.engage() == {into: IN, out: OUT}
    sockets.recv_safe("in")
    assert sockets.engage(0) == {out: OUT}


def test_being_readable_is_told_though_it_is_writable_too(sockets: SocketManager) -> None:
    """And the other way round: the flags are asked for one by one."""
    left = sockets.ensure_and_bind("left", zmq.PAIR, "inproc://pair", BOTH)
    right = sockets.ensure_and_connect("right", zmq.PAIR, "inproc://pair", BOTH)
    sockets.send_safe("right", 1)
    assert sockets.wait_until_ready("left", IN) is left
    assert sockets.engage() == {left: BOTH, right: OUT}
    for wait in (sockets.ready, sockets.wait_until_ready):
        assert wait("left", IN) is left
        assert wait("left", OUT) is left
        assert wait("left", BOTH) is left
        assert wait("right", IN, 0) is None
        assert wait("right", BOTH) is right


def test_a_socket_is_waited_for_whether_it_is_registered_or_not(sockets: SocketManager) -> None:
    """To be registered is for polling together."""
    left = sockets.create("left", zmq.PAIR)
    right = sockets.create("right", zmq.PAIR)
    left.bind("inproc://pair")
    right.connect("inproc://pair")
    right.send(b"")
    assert sockets.wait_until_ready("left", IN) is left
    assert sockets.ready("left", IN) is left
    assert sockets.engage(0) == {}


def test_a_wait_ends_when_the_message_comes(sockets: SocketManager) -> None:
    """Long before its timeout: the subscription that is waited for here is sent by libzmq's own thread."""
    sockets.ensure_and_bind("news", zmq.XPUB, "tcp://127.0.0.1:0", BOTH)
    address = sockets.get_by_name("news").get_string(zmq.LAST_ENDPOINT)
    sockets.ensure_and_connect("events", zmq.SUB, address, IN)
    sockets.set_topic("events", "topic")
    began = time.monotonic()
    assert sockets.wait_until_ready("news", IN, timeout=math.inf) is sockets.get_by_name("news")
    assert time.monotonic() - began < LIMIT_MS


def test_no_wait_ends_early(sockets: SocketManager) -> None:
    """Each takes as long as it was told to, in its own unit."""
    sockets.create("in", zmq.PULL)
    waits: list[tuple[float, Callable[[], Any]]] = [
        (0.025, lambda: sockets.engage(25)),
        (0.025, lambda: sockets.ready("in", IN, 25)),
        (0.025, lambda: sockets.wait_until_ready("in", IN, 0.025)),
        (0.025, lambda: sockets.wait_until_ready("in", IN, 0.025, 1)),
        (0.025, lambda: sockets.recv_safe("in", 0.025)),
        (0.0005, lambda: sockets.recv_safe("in", timeout=0.0005)),
    ]
    for seconds, wait in waits:
        began = time.monotonic()
        assert not wait()
        assert time.monotonic() - began >= seconds


class Polls:
    """A module of ZeroMQ whose polls find nothing, and take simulated time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 10**15
        self.asked: list[int] = []
        self.early_ns = 0
        polls = self

        class Poller(zmq.Poller):
            def poll(self, timeout: int | None = None) -> list[tuple[Any, int]]:
                assert type(timeout) is int
                polls.asked.append(timeout)
                polls.now += timeout * 1_000_000 - polls.early_ns
                polls.early_ns = 0
                return []

        self.module = ModuleType("simulated")
        vars(self.module).update(Poller=Poller, Context=zmq.Context)
        for module in (named, polling):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic_ns=lambda: self.now))

    def of(self, call: Callable[[], Any]) -> list[int]:
        """What a call asks of poll, in milliseconds."""
        self.asked.clear()
        assert not call()
        return self.asked[:]


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> Polls:
    """Polls on simulated time."""
    return Polls(monkeypatch)


def test_polls_count_milliseconds_and_waits_seconds(polls: Polls) -> None:
    """What polls once says milliseconds, what waits says seconds, and a wait consists of polls."""
    with zmq.Context() as context, SocketManager(polls.module, context) as sockets:
        sockets.create("in", zmq.PULL)
        sockets.create("out", zmq.PUSH)
        assert polls.of(lambda: sockets.engage(250)) == [250]
        assert polls.of(lambda: sockets.ready("in", IN, 250)) == [250]
        assert polls.of(lambda: sockets.wait_until_ready("in", IN, 2)) == [2_000]
        assert polls.of(lambda: sockets.wait_until_ready("in", IN, 2, 800)) == [800, 800, 400]
        assert polls.of(lambda: sockets.send_safe("out", 1, 2, 1_500)) == [1_500, 500]
        assert polls.of(lambda: sockets.publish_safe("out", "topic", 1, timeout=0.5)) == [500]
        assert polls.of(lambda: sockets.recv_safe("in", polling_timeout=5_000)) == [5_000, 5_000]
        assert polls.of(lambda: sockets.recv_event_safe("in", timeout=0.25)) == [250]
        answers = iter([True, True, False])
        assert polls.of(lambda: list(sockets.subscribe("in", None, lambda: next(answers), 0.25))) == [250, 250]


def test_a_manager_has_timeouts_of_its_own(polls: Polls) -> None:
    """Ten seconds, unless it is told otherwise; each call may say better."""
    assert (DEFAULT_POLLING_TIMEOUT, DEFAULT_TIMEOUT_IN_SECONDS) == (10_000, 10)
    with zmq.Context() as context:
        with SocketManager(polls.module, context) as sockets:
            sockets.create("in", zmq.PULL)
            assert polls.of(sockets.engage) == [10_000]
            assert polls.of(lambda: sockets.ready("in", IN)) == [10_000]
            assert polls.of(lambda: sockets.wait_until_ready("in", IN)) == [10_000]
            assert polls.of(lambda: sockets.wait_until_ready("in", IN, 20)) == [10_000, 10_000]
        with SocketManager(polls.module, context, polling_timeout=300, timeout=0.5) as sockets:
            sockets.create("in", zmq.PULL)
            assert polls.of(sockets.engage) == [300]
            assert polls.of(lambda: sockets.ready("in", IN)) == [300]
            assert polls.of(lambda: sockets.recv_safe("in")) == [300, 200]


def test_polls_are_whole_milliseconds_and_never_too_short(polls: Polls) -> None:
    """Rounded up; again where libzmq was early; in pieces where a C int would not do; and none is an idle loop."""
    with zmq.Context() as context, SocketManager(polls.module, context) as sockets:
        sockets.create("in", zmq.PULL)
        assert polls.of(lambda: sockets.engage(0)) == [0]
        assert polls.of(lambda: sockets.recv_safe("in", 0)) == [0]
        assert polls.of(lambda: sockets.engage(0.2)) == [1]
        assert polls.of(lambda: sockets.recv_safe("in", 0.003, 0)) == [1, 1, 1]
        polls.early_ns = 700_000
        assert polls.of(lambda: sockets.engage(10)) == [10, 1]
        assert polls.of(lambda: sockets.engage(150_000)) == [60_000, 60_000, 30_000]
        assert polls.of(lambda: sockets.wait_until_ready("in", IN, 150, math.inf)) == [60_000, 60_000, 30_000]


def test_a_socket_that_is_never_ready_is_none(make: Make) -> None:
    """A PULL is never written to, and a PUSH without a peer has nowhere to write."""
    sockets = make(timeout=0.01)
    sockets.create("in", zmq.PULL)
    sockets.create("out", zmq.PUSH)
    assert sockets.wait_until_ready("in", OUT) is None
    assert sockets.wait_until_ready("out", OUT) is None
    assert sockets.ready("out", OUT, 10) is None
    assert sockets.engage(10) == {}


def test_a_socket_that_is_gone_is_not_waited_for(sockets: SocketManager) -> None:
    """Also where it was there before."""
    pipe(sockets)
    sockets.close("in")
    with pytest.raises(SocketNotFound):
        sockets.wait_until_ready("in", IN)
