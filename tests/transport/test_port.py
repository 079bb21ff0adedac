"""Which connections have gone: named right, once, and never a living one, whatever libzmq's monitor is made to say."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from relet.core.limits import Limits
from relet.messages import SIGNATURE, Peer
from relet.transport.attach import BindError
from relet.transport.endpoints import parse_bind
from relet.transport.port import PullPort, RouterPort

from .conftest import LIMIT_MS, Net

LIMITS = Limits(body_bytes_max=1 << 20)

CROWD = """
import os, sys, zmq
endpoint, count = sys.argv[1], int(sys.argv[2])
for number in range(count):
    if os.fork() == 0:
        peer = zmq.Context().socket(zmq.REQ if number % 2 else zmq.DEALER)
        peer.connect(endpoint)
        peer.send_multipart([str(os.getpid()).encode()] if number % 2 else [b"", str(os.getpid()).encode()])
        peer.recv()  # until killed
sys.stdin.read()
"""


class Ears:
    """A port under test, and what it has heard."""

    def __init__(self, port: RouterPort) -> None:
        self.port = port
        self.heard: dict[bytes, Peer] = {}
        self.lost: list[Peer] = []

    def turn(self, wait_ms: int = 0) -> None:
        """Polls, receives, then takes the losses, as the loop does."""
        poller = zmq.Poller()
        poller.register(self.port.socket, zmq.POLLIN)
        poller.register(self.port.monitor.fileno(), zmq.POLLIN)
        if self.port.monitor.fileno() in dict(poller.poll(wait_ms)):
            self.port.monitor.ready = True
        self.hear()

    def hear(self) -> None:
        """A turn after a poll that said nothing: what is here has come since."""
        for peer, _, body in self.port.receive(1_000, 1 << 62):
            self.heard[bytes(body) if type(body) is not tuple else b""] = peer
        self.lost += self.port.take_lost()

    def until(self, done: Callable[[], bool]) -> None:
        """Turns until `done`, for a bounded time."""
        until = time.monotonic() + LIMIT_MS / 1_000
        while not done():
            assert time.monotonic() < until, f"heard {len(self.heard)}, lost {len(self.lost)}"
            self.turn(20)


@pytest.fixture
def ears(net: Net, pumps: Any) -> Iterator[Ears]:
    """A ROUTER port on TCP."""
    port = RouterPort(net.context, "workers", parse_bind("tcp://127.0.0.1:0"), pumps, LIMITS)
    yield Ears(port)
    port.close()


def raw(ears: Ears) -> socket.socket:
    """A plain TCP connection to the port."""
    return socket.create_connection(("127.0.0.1", int(ears.port.endpoint.rpartition(":")[2])), timeout=LIMIT_MS / 1_000)


@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
def test_killed_processes_are_named_right(net: Net, pumps: Any, scheme: str, tmp_path: Path) -> None:
    """Of thirty processes, REQ and DEALER, every killed one is named within moments, and no other is."""
    endpoint = "tcp://127.0.0.1:0" if scheme == "tcp" else f"ipc://{tmp_path}/s"
    port = RouterPort(net.context, "workers", parse_bind(endpoint), pumps, LIMITS)
    ears = Ears(port)
    crowd = subprocess.Popen([sys.executable, "-c", CROWD, port.endpoint, "30"], stdin=subprocess.PIPE)
    pids: list[int] = []
    try:
        ears.until(lambda: len(ears.heard) == 30)
        pids = sorted(map(int, ears.heard))
        assert {peer.socket_type for peer in ears.heard.values()} == {"REQ", "DEALER"}
        assert ears.lost == []
        while pids:
            some = [pids.pop(len(pids) // 2) for _ in range(min(len(pids), 1 + len(pids) // 5))]
            for pid in some:
                os.kill(pid, signal.SIGKILL)
            expected = {ears.heard[b"%d" % pid] for pid in some}
            ears.until(lambda some=some: len(ears.lost) >= len(some))  # type: ignore[misc]
            assert set(ears.lost) == expected
            assert len(ears.lost) == len(some)
            assert all(peer.routing_id == b"" for peer in ears.lost)
            ears.lost.clear()
        assert port.peers == 0
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        crowd.kill()
        crowd.wait()
        assert crowd.stdin
        crowd.stdin.close()
        port.close()


def test_a_silent_connection_that_closes_is_not_taken_for_the_worker_on_its_descriptor(net: Net, ears: Ears) -> None:
    """A port scan closes just before a worker connects and gets its descriptor: the worker is alive, and answered."""
    reused = 0
    for round_ in range(100):
        scan = raw(ears)
        if round_ % 2:
            scan.send(b"GET / HTTP/1.0\r\n\r\n")
        elif round_ % 3:
            scan.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leaves by a reset
        before = os.listdir("/proc/self/fd")  # noqa: PTH208 - names are enough
        scan.close()
        worker = net.connected(zmq.DEALER, ears.port.endpoint)
        worker.send_multipart([b"", b"%d" % round_])
        assert ears.port.socket.poll(LIMIT_MS)
        if round_ % 5:
            ears.turn()
        else:  # it all happened after the poll
            ears.hear()
        peer = ears.heard[b"%d" % round_]
        reused += str(peer.descriptor) in before
        for _ in range(3):
            ears.turn()
        assert ears.lost == []
        assert ears.port.send([(peer, b"", b"", b"job")]) == []
        assert worker.poll(LIMIT_MS)
        assert worker.recv_multipart() == [b"", b"job"]
        worker.close(linger=0)
        ears.until(lambda peer=peer: ears.lost == [peer])  # type: ignore[misc]
        ears.lost.clear()
    assert ears.port.peers == 0


def speaks_and_goes(net: Net, ears: Ears, monkeypatch: pytest.MonkeyPatch) -> Peer:
    """Somebody who is heard when the news of the connection's end has been read: the broker was held up in between."""
    drain, events = ears.port.monitor.drain, list[tuple[int, int]]()

    def noted() -> list[tuple[int, int]]:
        new = drain()
        events.extend(new)
        return new

    with monkeypatch.context() as patch:
        patch.setattr(ears.port.monitor, "drain", noted)
        peer = net.connected(zmq.DEALER, ears.port.endpoint)
        peer.send_multipart([b"", b"hasty"])
        peer.close(linger=LIMIT_MS)
        until = time.monotonic() + LIMIT_MS / 1_000
        while zmq.EVENT_DISCONNECTED not in [event for event, _ in events]:
            assert time.monotonic() < until
            zmq.select([ears.port.monitor.fileno()], [], [], 0.02)
            ears.port.monitor.ready = True
            assert ears.port.take_lost() == []
    ears.until(lambda: b"hasty" in ears.heard)
    return ears.heard.pop(b"hasty")


def test_who_is_heard_after_the_end_of_the_connection_is_lost(
    net: Net, ears: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has gone is known, though the news came before the message; who gets the descriptor next is alive."""
    for _ in range(20):
        gone = speaks_and_goes(net, ears, monkeypatch)
        assert (ears.lost, gone.routing_id, ears.port.peers) == ([gone], b"", 0)
        alive = net.connected(zmq.DEALER, ears.port.endpoint)
        alive.send_multipart([b"", b"alive"])
        ears.until(lambda: b"alive" in ears.heard)
        peer = ears.heard.pop(b"alive")
        ears.turn()
        assert (ears.lost, ears.port.send([(peer, b"", b"", b"job")])) == ([gone], [])
        assert alive.poll(LIMIT_MS)
        alive.close(linger=0)
        ears.until(lambda peer=peer: ears.lost[1:] == [peer])  # type: ignore[misc]
        ears.lost.clear()


def test_where_several_threads_tell_nobody_is_taken_for_gone_by_old_news(
    net: Net, pumps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a context of the caller with two I/O threads a message may be here before its ACCEPTED is: a send tells."""
    net.context.set(zmq.IO_THREADS, 2)
    ears = Ears(RouterPort(net.context, "workers", parse_bind("tcp://127.0.0.1:0"), pumps, LIMITS))
    try:
        peer = speaks_and_goes(net, ears, monkeypatch)
        ears.turn()
        assert ears.lost == []
        ears.until(lambda: ears.port.send([(peer, b"", b"", b"job")]) == [(0, errno.EHOSTUNREACH)])
    finally:
        ears.port.close()


def test_churn_loses_each_peer_once(net: Net, ears: Ears) -> None:
    """Connections come, speak and go by the hundred, each is lost once, and nobody is left."""
    for round_ in range(40):
        peers = [net.connected(zmq.DEALER, ears.port.endpoint) for _ in range(10)]
        for number, peer in enumerate(peers):
            peer.send_multipart([b"", b"%d/%d" % (round_, number)])
            peer.close(linger=LIMIT_MS)
        if round_ % 4 == 0:
            ears.until(lambda round_=round_: len(ears.heard) == 10 * round_ + 10)  # type: ignore[misc]
    ears.until(lambda: len(ears.heard) == 400 and not ears.port.peers)
    assert not any(peer.routing_id for peer in ears.heard.values())
    assert len(set(ears.lost)) == len(ears.lost)


def test_a_monitor_that_nobody_reads_does_not_stop_the_port(net: Net, ears: Ears) -> None:
    """Thousands of events lie unread, and messages still come and go: libzmq's I/O thread waits for nobody."""
    for _ in range(1_500):
        raw(ears).close()
    peer = net.connected(zmq.DEALER, ears.port.endpoint)
    peer.send_multipart([b"", b"still here"])
    assert ears.port.socket.poll(LIMIT_MS)
    ears.turn()
    assert ears.lost == []
    assert ears.port.send([(ears.heard[b"still here"], b"", b"", b"you too")]) == []
    assert peer.poll(LIMIT_MS)
    ears.until(lambda: not ears.port.monitor.behind)
    assert ears.lost == []


def test_a_flood_of_events_is_understood_whole(net: Net, ears: Ears, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one call cannot read all events, a living peer is still not taken for the connection before it."""
    monkeypatch.setattr("relet.transport.port._DRAIN_MAX", 3)
    workers = []
    for number in range(20):
        raw(ears).close()
        workers.append(net.connected(zmq.DEALER, ears.port.endpoint))
        workers[-1].send_multipart([b"", b"%d" % number])
    ears.until(lambda: len(ears.heard) == 20)
    ears.until(lambda: not ears.port.monitor.behind)
    ears.turn(20)
    assert ears.lost == []
    assert ears.port.send([(peer, b"", b"", b"job") for peer in ears.heard.values()]) == []
    for worker in workers:
        assert worker.poll(LIMIT_MS)


def test_native_messages_are_taken_once_and_in_order(net: Net, ears: Ears) -> None:
    """What has gathered is handed over whole and then gone, and what was handed over stays as it was."""
    peer = net.connected(zmq.DEALER, ears.port.endpoint)
    assert ears.port.take_native() == []

    def take(sent: int) -> list[bytes]:
        for number in range(sent):
            peer.send_multipart([SIGNATURE, b"%d" % number, b"body"])
        peer.send_multipart([b"", b"sent %d" % sent])
        ears.until(lambda: b"sent %d" % sent in ears.heard)
        taken = ears.port.take_native()
        assert ears.port.take_native() == []
        assert {it[0] for it in taken} == ({ears.heard[b"sent %d" % sent]} if sent else set())
        assert all(it[1] == b"" and it[2] == 1 and it[4] == b"body" for it in taken)
        return [it[3] for it in taken]

    kept = take(3)
    assert (kept, take(0), take(5)) == ([b"0", b"1", b"2"], [], [b"%d" % i for i in range(5)])


def test_what_is_no_zmtp_is_counted(ears: Ears) -> None:
    """A connection whose handshake makes no sense is counted, and disturbs nothing."""
    with raw(ears) as scan:  # the greeting of ZMTP 3.0, with a mechanism that does not exist
        scan.send(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NONSENSE".ljust(20, b"\0") + bytes(32))
        ears.until(lambda: ears.port.handshakes_failed == 1)
    assert ears.lost == []


def test_an_endpoint_in_use_says_what_to_change(net: Net, ears: Ears, pumps: Any) -> None:
    """Binding where somebody is bound is a `BindError` with role, endpoint and advice, and leaves no socket behind."""
    with pytest.raises(BindError, match=r"cannot bind answers to .*in use.*another port"):
        PullPort(net.context, parse_bind(ears.port.endpoint), pumps, LIMITS)
