"""Devices of all kinds: what goes through, what is watched, what they obey, and how they end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq

from relet import BindError, EndpointError, devices
from relet.devices import Control, Device, DeviceFailed, DeviceProcess, Statistics
from relet.transport import attach

from .conftest import LIMIT_S, Connect, Run, Socket

CALLED = 0.2
"""Seconds of processor time that nothing which only waits ever takes."""


def pair(connect: Connect, device: Any) -> tuple[Socket, Socket]:
    """A client and a server of a queue; the server has connected when a request came through."""
    client = connect(zmq.REQ, device.endpoints["front"])
    server = connect(zmq.REP, device.endpoints["back"])
    exchange(client, server)
    return client, server


def exchange(client: Socket, server: Socket) -> None:
    """A request and its reply."""
    client.send_multipart([b"ask", b""])
    assert server.recv_multipart() == [b"ask", b""]
    server.send_multipart([b"reply", b"x" * 100_000])
    assert client.recv_multipart() == [b"reply", b"x" * 100_000]


def first(publisher: Socket, subscriber: Socket, message: list[bytes]) -> list[bytes]:
    """The first message of a subscriber; published again and again, because nobody tells when it has subscribed."""
    limit = time.monotonic() + LIMIT_S
    while not subscriber.poll(5):
        assert time.monotonic() < limit
        publisher.send_multipart(message)
    return subscriber.recv_multipart()


@pytest.mark.parametrize("monitor", [None, ":0"])
def test_a_queue_shares_requests_out_and_returns_replies(connect: Connect, run: Run, monitor: str | None) -> None:
    """Each client gets the reply to its own request, whichever server gave it."""
    device = run("queue", ":0", ":0", monitor=monitor)
    clients = [connect(zmq.REQ, device.endpoints["front"]) for _ in range(3)]
    servers = [connect(zmq.REP, device.endpoints["back"]) for _ in range(2)]
    for round_ in range(10):
        for number, client in enumerate(clients):
            client.send_multipart([b"%d" % number, b"%d" % round_])
        replied = 0
        while replied < len(clients):
            for server in servers:
                if server.poll(1):
                    server.send_multipart([*server.recv_multipart(), b"done"])
                    replied += 1
        for number, client in enumerate(clients):
            assert client.recv_multipart() == [b"%d" % number, b"%d" % round_, b"done"]


@pytest.mark.parametrize("monitor", [None, ":0"])
def test_a_forwarder_sends_only_what_is_subscribed_to(connect: Connect, run: Run, monitor: str | None) -> None:
    """Several publishers, several subscribers; topics are sorted out before the device."""
    device = run("forwarder", ":0", ":0", monitor=monitor)
    publishers = [connect(zmq.PUB, device.endpoints["front"]) for _ in range(2)]
    news = connect(zmq.SUB, device.endpoints["back"], subscribe=b"news")
    for number, publisher in enumerate(publishers):
        topic = b"news%d" % number
        heard = first(publisher, news, [topic, b"x"])
        while heard[0] != topic:
            heard = first(publisher, news, [topic, b"x"])
        assert heard == [topic, b"x"]
    received = device.statistics().front_received
    for publisher in publishers:
        publisher.send_multipart([b"sport", b"x"])
        publisher.send_multipart([b"news!", b"x"])
    ends = 0
    while ends < len(publishers):
        heard = news.recv_multipart()
        assert heard[0].startswith(b"news")
        ends += heard[0] == b"news!"
    assert received + 4 <= device.statistics().front_received, "only what was subscribed to came in"


@pytest.mark.parametrize("monitor", [None, ":0"])
def test_a_streamer_goes_one_way(connect: Connect, run: Run, monitor: str | None) -> None:
    """From all that push to all that pull, each message once."""
    device = run("streamer", ":0", ":0", monitor=monitor)
    pushers = [connect(zmq.PUSH, device.endpoints["front"]) for _ in range(2)]
    pullers = [connect(zmq.PULL, device.endpoints["back"]) for _ in range(2)]
    for number in range(100):
        pushers[number % 2].send(b"%d" % number)
    heard: list[int] = []
    while len(heard) < 100:
        heard += [int(puller.recv()) for puller in pullers if puller.poll(1)]
    assert sorted(heard) == list(range(100))
    assert device.statistics() == Statistics(100, 190, 0, 0, 0, 0, 100, 190)


def test_the_monitor_sees_every_message_and_its_direction(connect: Connect, run: Run) -> None:
    """`in` before what goes from front to back, `out` before what comes back, with the return path."""
    device = run("queue", ":0", ":0", monitor=":0")
    client, server = pair(connect, device)
    tap = connect(zmq.SUB, device.endpoints["monitor"], subscribe=b"")
    limit = time.monotonic() + LIMIT_S
    while not tap.poll(5):
        assert time.monotonic() < limit
        exchange(client, server)
    exchange(client, server)
    heard = [tap.recv_multipart()]
    while heard[-1][0] != b"in":
        heard.append(tap.recv_multipart())
    direction, path, *request = heard[-1]
    assert (direction, request) == (b"in", [b"", b"ask", b""])
    assert tap.recv_multipart() == [b"out", path, b"", b"reply", b"x" * 100_000]


def started(kind: type[Device | DeviceProcess], stack: ExitStack, **options: Any) -> Any:
    """A queue in a thread or in a process."""
    return stack.enter_context(kind("queue", ":0", ":0", **options))


@pytest.mark.parametrize("kind", [Device, DeviceProcess])
@pytest.mark.parametrize("monitor", [None, ":0"])
def test_pause_resume_and_statistics(
    connect: Connect, kind: type[Device | DeviceProcess], monitor: str | None
) -> None:
    """What comes during a pause waits; all is counted in frames, across pauses; said twice is no harm."""
    with ExitStack() as stack:
        device = started(kind, stack, monitor=monitor)
        client, server = pair(connect, device)
        before = Statistics(4, 5 + 3, 4, 5 + 5 + 100_000, 4, 5 + 5 + 100_000, 4, 5 + 3)
        assert device.statistics() == before
        for _ in range(2):
            device.pause()
        client.send(b"later")
        for _ in range(3):
            assert not server.poll(10)
        assert device.statistics() == before
        for _ in range(2):
            device.resume()
        assert server.recv() == b"later"
        server.send(b"")
        assert client.recv() == b""
        for _ in range(50):
            device.pause()
            device.resume()
        after = device.statistics()
        assert (after.front_received, after.front_received_bytes) == (7, 8 + 5 + 5)
        assert (after.front_sent, after.back_sent) == (7, 7)


def test_a_device_that_is_paused_uses_no_processor(connect: Connect, run: Run) -> None:
    """Also while messages wait, where libzmq's own pause turns on the spot."""
    device = run("queue", ":0", ":0")
    client, server = pair(connect, device)
    device.pause()
    client.send(b"waits")
    used, limit = time.process_time(), time.monotonic() + 2 * CALLED
    while time.monotonic() < limit:
        assert not server.poll(100)
    assert time.process_time() - used < CALLED


def test_others_say_what_it_shall_do_on_its_control_endpoint(connect: Connect, run: Run) -> None:
    """The words of zmq_proxy_steerable(3); what cannot be meant is answered, and ends nothing."""
    device = run("queue", ":0", ":0", control=":0")
    client, server = pair(connect, device)
    asks = connect(zmq.REQ, device.endpoints["control"])
    for nonsense in ([b"PAUSE", b"PAUSE"], [b"pause"], [b""], [b"\xff" * 1_000]):
        asks.send_multipart(nonsense)
        assert asks.recv_multipart() == [b"say PAUSE, RESUME, TERMINATE or STATISTICS, in one frame"]
    asks.send(b"STATISTICS")
    assert [len(frame) for frame in asks.recv_multipart()] == [8] * 8
    exchange(client, server)
    with Control(device.endpoints["control"], timeout=LIMIT_S) as control:
        assert control.statistics() == device.statistics()
        control.pause()
        client.send(b"later")
        assert not server.poll(20)
        control.resume()
        assert server.recv() == b"later"
        control.terminate()
        device.close()
    with pytest.raises(DeviceFailed, match="does not run"):
        device.pause()


def test_nobody_answers_at_a_control_endpoint(run: Run) -> None:
    """In time, that is; and an answer that says why not is an error."""
    with Control("tcp://127.0.0.1:1", timeout=0.01) as control, pytest.raises(TimeoutError, match="no device answered"):
        control.pause()


def test_a_device_runs_in_this_thread_until_it_is_told_to_end(connect: Connect) -> None:
    """Told by another thread; once more it does not run."""
    device = Device("queue", ":0", ":0")
    done: list[bool] = []

    def use() -> None:
        exchange(connect(zmq.REQ, device.endpoints["front"]), connect(zmq.REP, device.endpoints["back"]))
        done.append(True)
        device.terminate()

    thread = threading.Thread(target=use)
    thread.start()
    device.run()
    thread.join(LIMIT_S)
    assert done
    with pytest.raises(RuntimeError, match="started before"):
        device.run()
    with pytest.raises(RuntimeError, match="started before"):
        device.start()


def test_a_signal_ends_a_device_in_this_thread() -> None:
    """Whenever it comes: the handler runs, and the device hears it."""
    device = Device("queue", ":0", ":0")
    before = signal.signal(signal.SIGUSR1, lambda *_: device.terminate())
    timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        timer.start()
        device.run()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("monitor", [None, ":0"])
def test_a_device_ends_though_nobody_reads_what_it_has(
    connect: Connect, monitor: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """libzmq's proxy may wait for room then, and hears nothing; its end comes all the same."""
    monkeypatch.setattr(devices, "END_SECONDS_MAX", 0.1)
    monkeypatch.setattr(attach, "LINGER_MS", 10)
    front, back = (f"ipc://{tmp_path}/{role}" for role in ("front", "back"))  # the kernel holds much less than for TCP
    with Device("streamer", front, back, hwm=100, monitor=monitor):
        connect(zmq.PULL, back, hwm=1)
        fill(connect(zmq.PUSH, front, hwm=1), 200)


def test_a_proxy_that_does_not_hear_is_said_to_be_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """To who commands it; and its context is ended around it."""

    def waits(front: Socket, *_: object) -> None:
        front.recv()

    monkeypatch.setattr(zmq, "proxy_steerable", waits)
    monkeypatch.setattr(devices, "ANSWER_SECONDS_MAX", 0.1)
    monkeypatch.setattr(devices, "END_SECONDS_MAX", 0.1)
    with Device("queue", ":0", ":0") as device, pytest.raises(TimeoutError, match="do not read"):
        device.statistics()


def test_a_proxy_that_libzmq_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of who runs it, and of who closes it."""

    def ends(*_: object) -> None:
        raise zmq.ZMQError(zmq.EFAULT)

    monkeypatch.setattr(zmq, "proxy_steerable", ends)
    with pytest.raises(DeviceFailed, match="libzmq ended the device: Bad address"):
        Device("queue", ":0", ":0").run()
    device = Device("queue", ":0", ":0").start()
    with pytest.raises(DeviceFailed, match="Bad address"):
        device.close()


def fill(pusher: Socket, least: int) -> None:
    """Until there is no room for a message of 30 kB, anywhere."""
    for _ in range(least):
        pusher.send(b"x" * 30_000)
    pusher.sndtimeo = 100
    with contextlib.suppress(zmq.Again):
        while True:
            pusher.send(b"x" * 30_000)


def test_a_device_that_never_ran_is_closed() -> None:
    """Its endpoints are free again."""
    device = Device("queue", ":0", ":0", monitor=":0", control=":0")
    with pytest.raises(DeviceFailed, match="does not run"):
        device.statistics()
    device.close()
    device.close()
    Device("queue", device.endpoints["front"], ":0").close()


def test_a_process_ends_with_its_owner_and_says_so(connect: Connect) -> None:
    """It is gone after `close`; one that was killed is noticed."""
    with DeviceProcess("queue", ":0", ":0") as device:
        pair(connect, device)
        os.kill(device.process.pid or 0, signal.SIGKILL)
        device.process.join(LIMIT_S)
        with pytest.raises(DeviceFailed, match="process of the device has ended"):
            device.pause()
    assert not device.process.is_alive()
    with DeviceProcess("queue", ":0", ":0", control=":0") as device:
        with Control(device.endpoints["control"], timeout=LIMIT_S) as control:
            control.terminate()
        device.process.join(LIMIT_S)
        assert device.process.exitcode == 0


# --- What cannot be


@pytest.mark.parametrize("kind", [Device, DeviceProcess])
def test_what_cannot_be_is_said_in_one_line(kind: Any) -> None:
    """Kinds, endpoints and numbers, in the words of all endpoints of relet."""
    with pytest.raises(ValueError, match=r"there is no device 'que'; did you mean 'queue'\?"):
        kind("que", ":0", ":0")
    with pytest.raises(ValueError, match="there are queue, forwarder, streamer"):
        kind("x", ":0", ":0")
    with pytest.raises(EndpointError, match="there is no port 70000"):
        kind("queue", "70000", ":0")
    with pytest.raises(EndpointError, match="inproc"):
        kind("queue", "inproc://x", ":0")
    with pytest.raises(EndpointError, match="port 0 can only be bound"):
        kind("queue", ":0", ":0", connect_back=True)
    with pytest.raises(EndpointError, match="front and monitor have the same endpoint"):
        kind("queue", "5559", ":0", monitor="5559")
    with pytest.raises(TypeError, match="back is an endpoint as text"):
        kind("queue", ":0", 5560)
    with pytest.raises(ValueError, match="hwm is -1"):
        kind("queue", ":0", ":0", hwm=-1)
    with pytest.raises(TypeError, match="hwm is a whole number"):
        kind("queue", ":0", ":0", hwm=True)


@pytest.mark.parametrize("kind", [Device, DeviceProcess])
@pytest.mark.parametrize("role", ["front", "back", "monitor", "control"])
def test_an_endpoint_that_somebody_has_is_not_taken(run: Run, kind: Any, role: str, tmp_path: Path) -> None:
    """Of each role; nothing of the device is left behind."""
    taken = run("queue", f"ipc://{tmp_path}/taken", ":0").endpoints["front"]
    endpoints = {"front": ":0", "back": ":0", role: taken}
    front, back = endpoints.pop("front"), endpoints.pop("back")
    with pytest.raises(BindError, match=f"cannot bind {role}.*in use"):
        kind("queue", front, back, **endpoints)
