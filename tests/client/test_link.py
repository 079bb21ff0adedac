"""What both libraries stand on: an alarm that is never slept through, and a connection that does not fool itself."""

from __future__ import annotations

import collections
import socket
import threading
import time
from typing import Any

import pytest
import zmq

from relet.transport.endpoints import parse_connect
from relet.transport.link import (
    UNREACHABLE_AFTER_NS,
    Alarm,
    Link,
    News,
    Sleeper,
    _connected_to_itself,
    earliest,
)

from .conftest import FakeBroker

WAIT_NS = 5_000_000_000


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_no_ring_is_slept_through(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is put into an inbox before the alarm is rung is found, with eventfd and with a pair of sockets."""
    with monkeypatch.context() as patch:
        patch.setattr("sys.platform", platform)
        alarm = Alarm()
    inbox: collections.deque[int] = collections.deque()
    got: list[int] = []

    def consume() -> None:
        sleeper = Sleeper(alarm)
        while len(got) < 2_000:
            while inbox:
                got.append(inbox.popleft())
            now = time.monotonic_ns()
            if len(got) < 2_000:
                sleeper.sleep(now + WAIT_NS, now, [], lambda: not inbox)

    thread = threading.Thread(target=consume)
    began = time.monotonic_ns()
    thread.start()
    for number in range(2_000):
        inbox.append(number)
        alarm.ring()
        if number % 100 == 0:
            time.sleep(0)
    thread.join(2 * WAIT_NS / 1e9)
    assert got == list(range(2_000))
    assert time.monotonic_ns() - began < WAIT_NS, "a ring was slept through until the timeout"


def test_timers_round_up() -> None:
    """A sleep until a time never ends before it."""
    alarm = Alarm()
    began = time.monotonic_ns()
    Sleeper(alarm).sleep(began + 1_500_001, began, [], lambda: True)
    assert time.monotonic_ns() >= began + 1_500_001


@pytest.mark.parametrize("far_ns", [2**31 * 1_000_000, 10**308])
def test_a_sleep_may_be_for_any_time(far_ns: int) -> None:
    """Poll takes a C int of milliseconds, 25 days; who sleeps until later is woken all the same."""
    alarm = Alarm()

    def ring_and_stay() -> bool:
        alarm.ring()
        return True

    Sleeper(alarm).sleep(far_ns, 0, [], ring_and_stay)


def test_the_earliest_of_times_some_of_which_are_never() -> None:
    """None is never."""
    assert earliest([None, 3, 2, None]) == 2
    assert earliest([None]) is None


def test_a_connection_to_itself_is_recognised() -> None:
    """TCP lets a socket meet itself when nobody listens; an ordinary connection is none of that."""
    with socket.socket() as lonely:
        lonely.bind(("127.0.0.1", 0))
        lonely.connect(lonely.getsockname())
        assert _connected_to_itself(lonely.fileno())
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ordinary:
        assert not _connected_to_itself(ordinary.fileno())
    assert not _connected_to_itself(ordinary.fileno())


def test_links_that_do_not_last_are_opened_again_more_and_more_slowly(
    context: zmq.Context[zmq.Socket[bytes]], broker_2010: FakeBroker
) -> None:
    """After the first loss at once, then with a pause that doubles up to a second; one that lasted starts over."""
    now = 0
    link = Link(context, zmq.DEALER, parse_connect(broker_2010.endpoint), now)
    pauses = []
    for _ in range(7):
        link._connected_at = now
        link.rebuild(now)
        pauses.append(0 if link.due is None else link.due - now)
        now += max(pauses[-1], 1)
        link.news(now)
    assert [pause // 1_000_000 for pause in pauses] == [0, 100, 200, 400, 800, 1000, 1000]
    now += 2_000_000_000
    link.rebuild(now)
    assert link.socket is not None
    link.close()


def test_nobody_there_is_told_once_and_only_after_its_time(
    context: zmq.Context[zmq.Socket[bytes]], broker_2010: FakeBroker
) -> None:
    """Time is an argument: the second call later says nothing new."""
    broker_2010.close()
    link = Link(context, zmq.DEALER, parse_connect(broker_2010.endpoint), now=0)
    assert link.due == UNREACHABLE_AFTER_NS
    assert link.news(UNREACHABLE_AFTER_NS - 1) == []
    assert link.news(UNREACHABLE_AFTER_NS) == [News.UNREACHABLE]
    assert link.news(10 * UNREACHABLE_AFTER_NS) == []
    assert link.due is None
    link.close()


def test_inproc_is_connected_at_once(context: zmq.Context[Any]) -> None:
    """There are no events for a pipe in the same process."""
    link = Link(context, zmq.DEALER, parse_connect("inproc://here"), now=0)
    assert link.news(0) == [News.CONNECTED]
    assert link.due is None
    link.close()
