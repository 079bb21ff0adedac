"""Both frame pumps through the same conversations: whole messages, bounds, refusals, peers, errors, no leaks."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import signal
import sys
import threading
import time
from typing import Any

import pytest
import zmq

from relet.messages import MAGIC, NO_DESCRIPTOR, SIGNATURE, TOO_LARGE, TOO_MANY_PEERS, UNDELIMITED, body_frames
from relet.transport.plain import pack_path, unpack_path

from .conftest import LIMIT_MS, Net

BODY = b"x" * 100_000


def router_pump(pumps: Any, socket: zmq.Socket[bytes], **bounds: int) -> Any:
    """A RouterPump with bounds that are wide unless given."""
    return pumps.RouterPump(socket, **{"peers_max": 1_000, "frames_max": 1_000, "bytes_max": 1 << 24, **bounds})


def gather(pump: Any, socket: zmq.Socket[bytes], count: int) -> list[Any]:
    """`count` messages, waiting on the socket; refused and native ones count, and stay in the pump."""
    messages: list[Any] = []
    aside = [getattr(pump, "refused", []), getattr(pump, "native", [])]
    while (lacking := count - len(messages) - sum(map(len, aside))) > 0:
        assert socket.poll(LIMIT_MS), f"{count - lacking} of {count} messages came"
        messages += pump.receive(lacking)
    return messages


def pipe(net: Net, pumps: Any, **options: int) -> tuple[Any, zmq.Socket[bytes], Any, zmq.Socket[bytes]]:
    """A DEALER pump and a DEALER pump at the other end."""
    near, endpoint = net.bound(zmq.DEALER)
    far = net.connected(zmq.DEALER, endpoint)
    return pumps.FramePump(near, **options), near, pumps.FramePump(far, **options), far


def plain_bytes(message: tuple[Any, ...]) -> tuple[bytes, ...]:
    """Its frames, large ones copied."""
    return tuple(map(bytes, message))


# --- FramePump


@pytest.mark.parametrize(
    "message",
    [
        (b"one",),
        (b"",),
        (b"", b"", b""),
        (b"path", b"", b"body"),
        tuple(b"%d" % i for i in range(2_000)),
        (b"s", BODY, b"", BODY),
    ],
    ids=["one", "empty", "three-empty", "enveloped", "many", "large"],
)
def test_what_is_sent_arrives(net: Net, pumps: Any, message: tuple[bytes, ...]) -> None:
    """A message arrives with the frames with which it left."""
    far, far_socket, near, _ = pipe(net, pumps)
    assert near.send([message]) == 1
    (heard,) = gather(far, far_socket, 1)
    assert type(heard) is tuple
    assert plain_bytes(heard) == message


def test_nested_tuples_are_flattened(net: Net, pumps: Any) -> None:
    """Tuples among the frames become frames, also empty ones at the beginning, inside and at the end."""
    far, far_socket, near, _ = pipe(net, pumps)
    batch = [((), b"a", (b"b", b"c"), ()), ((b"d",),), [b"e", (b"f",)], (b"g", (), b"h", (), ())]
    assert near.send(batch) == 4
    assert gather(far, far_socket, 4) == [(b"a", b"b", b"c"), (b"d",), (b"e", b"f"), (b"g", b"h")]


def test_receive_of_nothing_is_nothing(net: Net, pumps: Any) -> None:
    """Where nothing is there, `receive` returns at once with an empty list, and `send` of nothing sends nothing."""
    far, _, near, _ = pipe(net, pumps)
    assert far.receive(10) == []
    assert near.send([]) == 0


def test_receive_stops_at_messages_and_at_bytes(net: Net, pumps: Any) -> None:
    """`messages_max` and `bytes_max` end a batch; the rest comes with the next call, nothing is lost between."""
    far, far_socket, near, _ = pipe(net, pumps)
    assert near.send([(b"%03d" % i,) for i in range(100)]) == 100
    heard = gather(far, far_socket, 1)
    while len(heard) < 100:
        assert far_socket.poll(LIMIT_MS)
        few = far.receive(7, 10)  # 3 bytes each: the fourth reaches 10
        assert 1 <= len(few) <= 4
        heard += few
    assert heard == [(b"%03d" % i,) for i in range(100)]
    assert far.receive(0) == []


@pytest.mark.parametrize("bad", [None, 7, "text", bytearray(b"x"), memoryview(b"x"), [b"list"]])
def test_a_wrong_frame_is_found_before_anything_is_sent(net: Net, pumps: Any, bad: Any) -> None:
    """TypeError comes before the first frame of the batch leaves, and the next message is whole."""
    far, far_socket, near, _ = pipe(net, pumps)
    with pytest.raises(TypeError):
        near.send([(b"good",), (b"half", bad)])
    with pytest.raises(TypeError):
        near.send([(b"good",), (b"half", (b"x", bad))])
    with pytest.raises(ValueError, match="at least one frame"):
        near.send([(b"good",), ()])
    with pytest.raises(ValueError, match="at least one frame"):
        near.send([(b"good",), ((), ())])
    assert near.send([(b"whole", b"message")]) == 1
    assert gather(far, far_socket, 1) == [(b"whole", b"message")]


def test_send_stops_where_it_would_block(net: Net, pumps: Any) -> None:
    """At a high-water mark `send` says how many went, and those arrive whole and in order."""
    push, endpoint = net.bound(zmq.PUSH, sndhwm=5)
    pump = pumps.FramePump(push)
    assert pump.send([(b"lonely", b"!")]) == 0  # nobody is there
    pull = net.connected(zmq.PULL, endpoint, rcvhwm=5)
    assert push.poll(LIMIT_MS, zmq.POLLOUT)
    batch = [(b"%d" % i, BODY, b"end") for i in range(1_000)]
    went = pump.send(batch)
    assert 0 < went < 1_000
    heard = [plain_bytes(message) for message in gather(pumps.FramePump(pull), pull, went)]
    assert heard == batch[:went]
    assert not pull.poll(0)


# --- Frames that are not copied


def test_a_large_frame_can_be_looked_at_and_sent_again(net: Net, pumps: Any, is_c: bool) -> None:
    """A large frame has a length, bytes and a read-only buffer, and goes out again and again."""
    far, far_socket, near, near_socket = pipe(net, pumps, frame_copy_bytes_max=1_000)
    near.send([(b"small", BODY)])
    ((small, large),) = gather(far, far_socket, 1)
    assert type(small) is bytes
    assert (type(large) is not bytes) == is_c
    assert len(large) == len(BODY)
    assert bytes(large) == BODY
    view = memoryview(large)
    assert view.readonly
    assert view == BODY
    assert (large == BODY, large == b"x", hash(large) == hash(BODY)) == (True, False, True)
    assert large != "text"
    assert far.send([(large, large), (b"and", (large,))]) == 2
    heard = gather(near, near_socket, 2)
    assert [plain_bytes(message) for message in heard] == [(BODY, BODY), (b"and", BODY)]
    assert bytes(large) == BODY


def test_a_large_frame_outlives_its_socket(pumps: Any) -> None:
    """The memory of a frame is its own: it can be read when socket and context are gone, and sent by another."""
    net, other = Net(), Net()
    far, far_socket, near, _ = pipe(net, pumps, frame_copy_bytes_max=1_000)
    near.send([(BODY,)])
    ((large,),) = gather(far, far_socket, 1)
    net.close()
    assert bytes(large) == BODY
    far, far_socket, near, _ = pipe(other, pumps)
    near.send([(large,)])
    assert plain_bytes(gather(far, far_socket, 1)[0]) == (BODY,)
    other.close()


@pytest.mark.parametrize("size", [0, 1, 29, 30, 33, 34, 64, 8_191, 8_192, 8_193, 40_000])
def test_frames_of_every_kind_of_libzmq_message(net: Net, pumps: Any, size: int) -> None:
    """Very small, in the receive buffer, or in memory of their own: frames stay what they are."""
    far, far_socket, near, near_socket = pipe(net, pumps, frame_copy_bytes_max=0)
    body = os.urandom(size)
    near.send([(body, body)])
    (heard,) = gather(far, far_socket, 1)
    assert far.send([heard, (heard, heard)]) == 2
    assert plain_bytes(heard) == (body, body)
    assert [plain_bytes(message) for message in gather(near, near_socket, 2)] == [(body,) * 2, (body,) * 4]


def test_the_bound_between_copied_and_kept_is_exact(net: Net, pumps: Any, is_c: bool) -> None:
    """Frames below `frame_copy_bytes_max` are bytes; from it on they are not copied (plain Python always copies)."""
    far, far_socket, near, _ = pipe(net, pumps, frame_copy_bytes_max=1_000)
    near.send([(b"x" * 999, b"x" * 1_000)])
    ((below, at),) = gather(far, far_socket, 1)
    assert (type(below) is bytes, type(at) is bytes) == (True, not is_c)


# --- What ends a pump


@pytest.mark.parametrize("kind", ["FramePump", "RouterPump"])
def test_a_closed_socket_is_an_error_not_a_crash(net: Net, pumps: Any, kind: str) -> None:
    """After `close` of its socket a pump raises ENOTSOCK: a raw handle would be freed memory."""
    socket, _ = net.bound(zmq.ROUTER)
    pump = pumps.FramePump(socket) if kind == "FramePump" else router_pump(pumps, socket)
    socket.close()
    with pytest.raises(zmq.ZMQError) as raised:
        pump.receive(1)
    assert raised.value.errno == zmq.ENOTSOCK
    with pytest.raises(zmq.ZMQError) as raised:
        pump.send([(b"x",)] if kind == "FramePump" else [(_Somebody(), b"", b"x")])
    assert raised.value.errno == zmq.ENOTSOCK


class _Somebody:
    routing_id = b"somebody"


@pytest.mark.parametrize("kind", ["FramePump", "RouterPump"])
def test_a_terminated_context_is_an_error(pumps: Any, kind: str) -> None:
    """While its context is being terminated a pump raises ETERM, so that its owner closes the socket."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    pump = pumps.FramePump(socket) if kind == "FramePump" else router_pump(pumps, socket)
    ending = threading.Thread(target=context.term)
    ending.start()
    with pytest.raises(zmq.ZMQError) as raised:  # noqa: PT012 - until the other thread has come so far
        while True:
            pump.receive(1)
    assert raised.value.errno == zmq.ETERM
    socket.close(linger=0)
    ending.join(LIMIT_MS / 1_000)
    assert not ending.is_alive()


def test_signals_break_no_message(net: Net, pumps: Any) -> None:
    """A storm of signals interrupts neither a batch that is received nor one that is sent."""
    heard_signals = 0

    def count(_number: int, _frame: object) -> None:
        nonlocal heard_signals
        heard_signals += 1

    far, far_socket, near, near_socket = pipe(net, pumps)
    before = signal.signal(signal.SIGALRM, count)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        sent = received = 0
        while received < 20_000 or heard_signals < 20:
            batch = [(b"%d" % i, b"", b"body") for i in range(sent, sent + 500)]
            sent += near.send(batch)
            if sent == received:
                assert near_socket.poll(LIMIT_MS, zmq.POLLOUT)
                continue
            assert far_socket.poll(LIMIT_MS)
            for message in far.receive(1_000):
                assert message == (b"%d" % received, b"", b"body")
                received += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- RouterPump: envelopes


@pytest.mark.parametrize(
    ("frames", "path", "body"),
    [
        ([b"", b"body"], [], b"body"),
        ([b"", b""], [], b""),
        ([b""], [], ()),
        ([b"", b"a", b"", b"c"], [], (b"a", b"", b"c")),
        ([b"hop", b"", b"body"], [b"hop"], b"body"),
        ([b"a", b"bb", b"c" * 300, b"", b"", b""], [b"a", b"bb", b"c" * 300], (b"", b"")),
        ([b"\0\0\0\4", b"\0", b"", b"x"], [b"\0\0\0\4", b"\0"], b"x"),
        ([b"p" * 4_000, b"q" * 4_000, b"", BODY], [b"p" * 4_000, b"q" * 4_000], BODY),
    ],
)
def test_the_first_empty_frame_cuts_path_from_body(
    net: Net, pumps: Any, frames: list[bytes], path: list[bytes], body: Any
) -> None:
    """Path and body come apart at the first empty frame, one body frame stands alone, a reply finds its way back."""
    router, endpoint = net.bound(zmq.ROUTER)
    dealer = net.connected(zmq.DEALER, endpoint)
    dealer.send_multipart(frames)
    pump = router_pump(pumps, router)
    ((peer, packed, heard),) = gather(pump, router, 1)
    assert unpack_path(packed) == path
    assert packed == pack_path(path)
    assert plain_bytes(heard) == body if type(body) is tuple else bytes(heard) == body
    assert type(heard) is tuple or type(body) is not tuple
    assert pump.send([(peer, packed, b"", heard, b"end")]) == []
    assert dealer.poll(LIMIT_MS)
    assert dealer.recv_multipart() == [*path, b"", *map(bytes, body_frames(heard)), b"end"]


def test_a_batch_finds_every_way_back(net: Net, pumps: Any) -> None:
    """Many peers in one batch: each gets its own answers, in order."""
    router, endpoint = net.bound(zmq.ROUTER)
    pump = router_pump(pumps, router)
    dealers = [net.connected(zmq.DEALER, endpoint) for _ in range(10)]
    for round_ in range(20):
        for number, dealer in enumerate(dealers):
            dealer.send_multipart([b"hop", b"", b"%d of %d" % (round_, number)])
    heard = gather(pump, router, 200)
    assert pump.send([(peer, path, b"", body) for peer, path, body in heard]) == []
    for number, dealer in enumerate(dealers):
        for round_ in range(20):
            assert dealer.poll(LIMIT_MS)
            assert dealer.recv_multipart() == [b"hop", b"", b"%d of %d" % (round_, number)]


def test_a_path_of_many_frames_costs_no_more_than_its_bytes(net: Net, pumps: Any) -> None:
    """A path of a thousand frames is packed once, not copied anew for each frame: 32 MiB cost no second."""
    router, endpoint = net.bound(zmq.ROUTER)
    dealer = net.connected(zmq.DEALER, endpoint)
    pump = router_pump(pumps, router, bytes_max=1 << 26, path_bytes_max=1 << 26)
    frames = [bytes([1 + i % 255]) * 32_768 for i in range(990)]
    dealer.send_multipart([*frames, b"", b"body"])
    assert router.poll(LIMIT_MS)
    began = resource.getrusage(resource.RUSAGE_THREAD).ru_utime
    messages = gather(pump, router, 1)
    spent = resource.getrusage(resource.RUSAGE_THREAD).ru_utime - began
    assert unpack_path(messages[0][1]) == frames
    assert spent < 0.5, f"{spent:.2f} s for one message of 32 MiB: quadratic"


# --- RouterPump: what is refused


def refusal(pump: Any) -> tuple[Any, str]:
    """(path, reason) of the one message that was refused."""
    (refused,) = pump.refused
    return (None if refused.path is None else unpack_path(refused.path)), refused.reason


@pytest.mark.parametrize(
    ("frames", "path", "reason"),
    [
        ([b"no", b"delimiter"], None, UNDELIMITED),
        ([b"alone"], None, UNDELIMITED),
        ([b"hop", b"", b"1", b"2", b"3"], [b"hop"], None),
        ([b"hop", b"", b"1", b"2", b"3", b"4"], [b"hop"], TOO_LARGE),
        ([b"1", b"2", b"3", b"4", b"5", b"6"], None, TOO_LARGE),
        ([b"1", b"2", b"3", b"4", b"5", b"", b"body"], None, TOO_LARGE),
        ([b"", b"x" * 100], [], None),
        ([b"", b"x" * 101], [], TOO_LARGE),
        ([b"hop", b"", b"x" * 97], [b"hop"], None),
        ([b"hop", b"", b"x" * 98], [b"hop"], TOO_LARGE),
        ([b"", b"x" * 60, b"x" * 60], [], TOO_LARGE),
        ([b"p" * 50, b"", b"x" * 50], [b"p" * 50], None),
        ([b"p" * 51, b"", b"x"], None, TOO_LARGE),
        ([b"p" * 30, b"q" * 21, b"", b"x"], None, TOO_LARGE),
        ([b"p" * 51, b"q", b"", b"x"], None, TOO_LARGE),
        ([b"p" * 101, b"q"], None, TOO_LARGE),
    ],
)
def test_bounds_are_exact(net: Net, pumps: Any, frames: list[bytes], path: Any, reason: str | None) -> None:
    """Frames and bytes at a bound pass, one more is refused with its reason, and with its path where that was seen."""
    router, endpoint = net.bound(zmq.ROUTER)
    dealer = net.connected(zmq.DEALER, endpoint)
    pump = router_pump(pumps, router, frames_max=5, bytes_max=100, path_bytes_max=50)
    dealer.send_multipart(frames)
    dealer.send_multipart([b"", b"the next one is whole"])
    heard = gather(pump, router, 2)
    assert plain_bytes(body_frames(heard[-1][2])) == (b"the next one is whole",)
    if reason is None:
        assert unpack_path(heard[0][1]) == path
        assert pump.refused == []
    else:
        assert len(heard) == 1
        assert refusal(pump) == (path, reason)


def test_a_message_without_any_frame_behind_the_routing_id(net: Net, pumps: Any) -> None:
    """A ROUTER may pass on an id alone only where a peer sent nothing; one empty frame is an ask with an empty path."""
    router, endpoint = net.bound(zmq.ROUTER)
    req = net.connected(zmq.REQ, endpoint)
    req.send(b"")
    pump = router_pump(pumps, router)
    ((peer, path, body),) = gather(pump, router, 1)
    assert (peer.socket_type, path, body) == ("REQ", b"", b"")


def test_too_many_peers_are_refused_and_can_be_told(net: Net, pumps: Any) -> None:
    """Above `peers_max` a new connection is refused with a peer that can be answered; those that are in go on."""
    router, endpoint = net.bound(zmq.ROUTER)
    pump = router_pump(pumps, router, peers_max=2)
    early = [net.connected(zmq.DEALER, endpoint) for _ in range(2)]
    for dealer in early:
        dealer.send_multipart([b"", b"early"])
    assert len(gather(pump, router, 2)) == 2
    late = net.connected(zmq.DEALER, endpoint)
    late.send_multipart([b"hop", b"", b"late"])
    assert gather(pump, router, 1) == []
    (refused,) = pump.refused
    assert refused.reason == TOO_MANY_PEERS
    assert pump.send([(refused.peer, refused.path, b"", b"")]) == []
    assert late.poll(LIMIT_MS)
    assert late.recv_multipart() == [b"hop", b"", b""]
    pump.refused.clear()
    early[0].send_multipart([b"", b"again"])
    assert len(gather(pump, router, 1)) == 1
    assert len(pump.peers) == 2


def test_router_receive_stops_at_messages_and_at_bytes(net: Net, pumps: Any) -> None:
    """A batch ends at `messages_max`, refused ones included, and at `bytes_max`."""
    router, endpoint = net.bound(zmq.ROUTER)
    dealer = net.connected(zmq.DEALER, endpoint)
    pump = router_pump(pumps, router, bytes_max=1_000)
    for i in range(20):
        dealer.send_multipart([b"", b"%010d" % i] if i % 2 else [b"undelimited"])
    dealer.send_multipart([b"", b"last"])
    heard: list[Any] = []
    while not heard or heard[-1][2] != b"last":
        assert router.poll(LIMIT_MS)
        seen = len(pump.refused)
        few = pump.receive(5, 25)
        assert len(few) + len(pump.refused) - seen <= 5
        assert len(few) <= 3  # the third reaches 25 bytes
        heard += few
    assert [int(body) for _, _, body in heard[:-1]] == list(range(1, 20, 2))
    assert len(pump.refused) == 10


# --- RouterPump: the native dialect


@pytest.mark.parametrize(
    ("frames", "path", "version", "header", "body"),
    [
        ([SIGNATURE, b"header", b"body"], [], 1, b"header", b"body"),
        ([SIGNATURE, b"header"], [], 1, b"header", ()),
        ([SIGNATURE], [], 1, b"", ()),
        ([SIGNATURE, b"", b""], [], 1, b"", b""),
        ([SIGNATURE, b"header", b"a", b"", b"c"], [], 1, b"header", (b"a", b"", b"c")),
        ([SIGNATURE, SIGNATURE, SIGNATURE], [], 1, SIGNATURE, SIGNATURE),
        ([SIGNATURE, b"", SIGNATURE, b"x"], [], 1, b"", (SIGNATURE, b"x")),
        ([MAGIC + b"\0", b"header"], [], 0, b"header", ()),
        ([MAGIC + b"\xff", b"header", b"body"], [], 255, b"header", b"body"),
        ([b"hop", SIGNATURE, b"header", b"body"], [b"hop"], 1, b"header", b"body"),
        ([b"a", b"bb", MAGIC + b"\2", b"header", BODY, b"end"], [b"a", b"bb"], 2, b"header", (BODY, b"end")),
        ([b"xrelet/\1", b"\xffrelet.\1", SIGNATURE, b"h"], [b"xrelet/\1", b"\xffrelet.\1"], 1, b"h", ()),
        ([MAGIC, SIGNATURE + b"\0", SIGNATURE, b"h"], [MAGIC, SIGNATURE + b"\0"], 1, b"h", ()),
    ],
)
def test_the_first_signature_cuts_path_from_header(
    net: Net, pumps: Any, frames: list[bytes], path: list[bytes], version: int, header: bytes, body: Any
) -> None:
    """A signature of any version in the delimiter's place makes a message native, and the way back is found."""
    router, endpoint = net.bound(zmq.ROUTER)
    dealer = net.connected(zmq.DEALER, endpoint)
    dealer.send_multipart(frames)
    pump = router_pump(pumps, router)
    assert gather(pump, router, 1) == []
    ((peer, packed, heard_version, heard_header, heard),) = pump.native
    assert (unpack_path(packed), heard_version, heard_header) == (path, version, header)
    assert type(heard_header) is bytes
    assert type(heard) is tuple or type(body) is not tuple
    assert plain_bytes(body_frames(heard)) == body_frames(body)
    assert pump.send([(peer, packed, SIGNATURE, b"answer", heard)]) == []
    assert dealer.poll(LIMIT_MS)
    assert dealer.recv_multipart() == [*path, SIGNATURE, b"answer", *body_frames(body)]


def test_a_2010_body_that_is_a_native_message_is_a_body(net: Net, pumps: Any) -> None:
    """Nothing behind a delimiter is looked at: what would be a native message elsewhere is opaque there."""
    router, endpoint = net.bound(zmq.ROUTER)
    dealer = net.connected(zmq.DEALER, endpoint)
    dealer.send_multipart([b"", SIGNATURE, b"header", b"body"])
    dealer.send_multipart([b"hop", b"", SIGNATURE])
    pump = router_pump(pumps, router)
    heard = [(unpack_path(path), body) for _, path, body in gather(pump, router, 2)]
    assert heard == [([], (SIGNATURE, b"header", b"body")), ([b"hop"], SIGNATURE)]
    assert pump.native == []


def test_a_header_is_bytes_of_any_size(net: Net, pumps: Any, is_c: bool) -> None:
    """A header is copied however large it is; frames of the body stay where they are."""
    router, endpoint = net.bound(zmq.ROUTER)
    dealer = net.connected(zmq.DEALER, endpoint)
    dealer.send_multipart([SIGNATURE, BODY, BODY])
    pump = router_pump(pumps, router, frame_copy_bytes_max=1_000)
    gather(pump, router, 1)
    ((_, _, _, header, body),) = pump.native
    assert type(header) is bytes
    assert header == BODY
    assert (type(body) is not bytes) == is_c
    assert bytes(body) == BODY


@pytest.mark.parametrize(
    ("frames", "path", "version", "header", "refused"),
    [
        ([SIGNATURE, b"header", b"1", b"2", b"3"], [], 1, b"header", False),
        ([SIGNATURE, b"header", b"1", b"2", b"3", b"4"], [], 1, b"header", True),
        ([b"1", b"2", b"3", b"4", MAGIC + b"\7"], [b"1", b"2", b"3", b"4"], 7, b"", False),
        ([b"1", b"2", b"3", b"4", MAGIC + b"\7", b"header"], [b"1", b"2", b"3", b"4"], 7, b"", True),
        ([b"1", b"2", b"3", b"4", b"5", SIGNATURE, b"header"], None, 0, b"", True),
        ([SIGNATURE, b"h" * 100], [], 1, b"h" * 100, False),
        ([SIGNATURE, b"h" * 101], [], 1, b"", True),
        ([SIGNATURE, b"h" * 101, b"body"], [], 1, b"", True),
        ([SIGNATURE, b"h" * 40, b"x" * 60], [], 1, b"h" * 40, False),
        ([SIGNATURE, b"h" * 40, b"x" * 61], [], 1, b"h" * 40, True),
        ([SIGNATURE, b"h" * 40, b"x" * 61, b"y"], [], 1, b"h" * 40, True),
        ([SIGNATURE, b"", b"x" * 101], [], 1, b"", True),
        ([b"hop", SIGNATURE, b"h" * 40, b"x" * 57], [b"hop"], 1, b"h" * 40, False),
        ([b"hop", SIGNATURE, b"h" * 40, b"x" * 58], [b"hop"], 1, b"h" * 40, True),
        ([b"p" * 50, SIGNATURE, b"h" * 50], [b"p" * 50], 1, b"h" * 50, False),
        ([b"p" * 50, SIGNATURE, b"h" * 51], [b"p" * 50], 1, b"", True),
        ([b"p" * 51, SIGNATURE, b"header"], None, 0, b"", True),
    ],
)
def test_bounds_of_native_messages_are_exact(
    net: Net, pumps: Any, frames: list[bytes], path: Any, version: int, header: bytes, refused: bool
) -> None:
    """Native messages meet the same bounds; a refused one keeps its version, and its header where that was read."""
    router, endpoint = net.bound(zmq.ROUTER)
    dealer = net.connected(zmq.DEALER, endpoint)
    pump = router_pump(pumps, router, frames_max=5, bytes_max=100, path_bytes_max=50)
    dealer.send_multipart(frames)
    dealer.send_multipart([SIGNATURE, b"the next one", b"is whole"])
    assert gather(pump, router, 2) == []
    assert pump.native[-1][1:] == (b"", 1, b"the next one", b"is whole")
    if refused:
        (it,) = pump.refused
        assert refusal(pump) == (path, TOO_LARGE)
        assert (it.version, it.header) == (version, header)
    else:
        assert pump.refused == []
        assert len(pump.native) == 2
        assert (unpack_path(pump.native[0][1]), *pump.native[0][2:4]) == (path, version, header)


def test_native_peers_above_the_limit_are_refused_with_their_header(net: Net, pumps: Any) -> None:
    """A native message of one connection too many names its version and header, so that it can be told why."""
    router, endpoint = net.bound(zmq.ROUTER)
    pump = router_pump(pumps, router, peers_max=1)
    early, late = net.connected(zmq.DEALER, endpoint), net.connected(zmq.DEALER, endpoint)
    early.send_multipart([SIGNATURE, b"early"])
    gather(pump, router, 1)
    late.send_multipart([b"hop", SIGNATURE, b"late", b"body"])
    gather(pump, router, 2)
    (refused,) = pump.refused
    assert (refused.reason, refused.version, refused.header) == (TOO_MANY_PEERS, 1, b"late")
    assert pump.send([(refused.peer, refused.path, SIGNATURE, b"no")]) == []
    assert late.poll(LIMIT_MS)
    assert late.recv_multipart() == [b"hop", SIGNATURE, b"no"]
    late.send_multipart([b"", b"2010"])
    gather(pump, router, 3)
    assert (pump.refused[1].version, pump.refused[1].header) == (0, b"")


def test_both_dialects_count_in_one_batch(net: Net, pumps: Any) -> None:
    """`messages_max` and `bytes_max` end a batch of mixed dialects; each kind comes in the order of its arrival."""
    router, endpoint = net.bound(zmq.ROUTER)
    dealer = net.connected(zmq.DEALER, endpoint)
    pump = router_pump(pumps, router)
    for i in range(40):
        dealer.send_multipart([SIGNATURE, b"%05d" % i, b"%05d" % i] if i % 2 else [b"", b"%010d" % i])
    heard: list[Any] = []
    seen = 0
    while len(heard) + len(pump.native) < 40:
        assert router.poll(LIMIT_MS)
        few = pump.receive(5, 25)
        assert len(few) + len(pump.native) - seen <= 3  # the third reaches 25 bytes
        few += pump.receive(2)
        heard += few
        assert len(few) + len(pump.native) - seen <= 5
        seen = len(pump.native)
    assert [int(body) for _, _, body in heard] == list(range(0, 40, 2))
    assert [(int(header), int(body)) for _, _, _, header, body in pump.native] == [(i, i) for i in range(1, 40, 2)]


def test_headers_of_refused_messages_count_as_bytes(net: Net, pumps: Any) -> None:
    """Headers that are kept of what is refused end a batch too, so that a flood of them takes no memory without end."""
    router, endpoint = net.bound(zmq.ROUTER)
    dealer = net.connected(zmq.DEALER, endpoint)
    pump = router_pump(pumps, router, bytes_max=1_000)
    for _ in range(20):
        dealer.send_multipart([SIGNATURE, b"h" * 900, b"too large" * 20])
    seen = 0
    while seen < 20:
        assert router.poll(LIMIT_MS)
        assert pump.receive(20, 2_000) == []
        assert 1 <= len(pump.refused) - seen <= 3
        seen = len(pump.refused)
    assert {(len(it.header), it.reason) for it in pump.refused} == {(900, TOO_LARGE)}


# --- RouterPump: what cannot be sent


def test_a_gone_peer_is_unreachable_and_nobody_else(net: Net, pumps: Any) -> None:
    """EHOSTUNREACH names the message to a peer that has gone; the others of the batch arrive whole."""
    router, endpoint = net.bound(zmq.ROUTER, router_mandatory=True)
    pump = router_pump(pumps, router)
    gone, here = net.connected(zmq.DEALER, endpoint), net.connected(zmq.DEALER, endpoint)
    gone.send_multipart([b"", b"gone"])
    here.send_multipart([b"", b"here"])
    peers = {bytes(body): peer for peer, _, body in gather(pump, router, 2)}
    pump.forget(peers[b"gone"])
    assert peers[b"gone"].routing_id == b""
    assert pump.send(
        [(peers[b"here"], b"", b"", b"1"), (peers[b"gone"], b"", b"", b"lost"), (peers[b"here"], b"", b"2")]
    ) == [(1, errno.EHOSTUNREACH)]
    for expected in ([b"", b"1"], [b"2"]):
        assert here.poll(LIMIT_MS)
        assert here.recv_multipart() == expected
    assert not gone.poll(0)


def test_the_last_words_of_a_peer_that_is_known_to_have_gone_are_still_its_own(net: Net, pumps: Any) -> None:
    """They come with the peer that was forgotten, so that what it proves by them can be found; nobody answers it."""
    router, endpoint = net.bound(zmq.ROUTER, router_mandatory=True)
    pump = router_pump(pumps, router)
    gone = net.connected(zmq.DEALER, endpoint)
    gone.send_multipart([b"", b"first"])
    ((peer, _, _),) = gather(pump, router, 1)
    pump.forget(peer)
    gone.send_multipart([b"", b"last"])
    assert gather(pump, router, 1) == [(peer, b"", b"last")]
    assert peer.routing_id == b""
    assert not pump.peers


def test_a_peer_that_does_not_read_is_told_by_eagain(net: Net, pumps: Any) -> None:
    """EAGAIN names each message to a full peer, nothing blocks, and whoever reads gets everything."""
    router, endpoint = net.bound(zmq.ROUTER, router_mandatory=True, sndhwm=100)
    pump = router_pump(pumps, router)
    slow, quick = net.connected(zmq.DEALER, endpoint, rcvhwm=3), net.connected(zmq.DEALER, endpoint)
    slow.send_multipart([b"", b"slow"])
    quick.send_multipart([b"", b"quick"])
    peers = {bytes(body): peer for peer, _, body in gather(pump, router, 2)}
    failed: list[tuple[int, int]] = []
    for i in range(300):
        failures = pump.send([(peers[b"slow"], b"", b"%d" % i, BODY), (peers[b"quick"], b"", b"%d" % i)])
        failed += [failure for failure in failures if failure[0] == 0]
        while (1, errno.EAGAIN) in failures:  # libzmq has not looked yet how far the quick one has read
            router.poll(1, zmq.POLLOUT)
            failures = [(1, code) for _, code in pump.send([(peers[b"quick"], b"", b"%d" % i)])]
        assert quick.poll(LIMIT_MS)
        assert quick.recv() == b"%d" % i
    assert set(failed) == {(0, errno.EAGAIN)}


@pytest.mark.parametrize("bad", [("no peer", b"", b"x"), (None, b"", b"x")])
def test_a_wrong_peer_is_found_before_anything_is_sent(net: Net, pumps: Any, bad: Any) -> None:
    """A batch with something that is no peer sends nothing at all."""
    router, endpoint = net.bound(zmq.ROUTER)
    pump = router_pump(pumps, router)
    dealer = net.connected(zmq.DEALER, endpoint)
    dealer.send_multipart([b"", b"hello"])
    ((peer, _, _),) = gather(pump, router, 1)
    with pytest.raises((TypeError, AttributeError)):
        pump.send([(peer, b"", b"must not leave"), bad])
    assert pump.send([(peer, b"", b"whole")]) == []
    assert dealer.poll(LIMIT_MS)
    assert dealer.recv_multipart() == [b"whole"]


def test_a_wrong_message_is_found_before_anything_is_sent(net: Net, pumps: Any) -> None:
    """Wrong shapes and wrong frames raise before the first frame of the batch leaves; the next message is whole."""
    router, endpoint = net.bound(zmq.ROUTER)
    pump = router_pump(pumps, router)
    dealer = net.connected(zmq.DEALER, endpoint)
    dealer.send_multipart([b"", b"hello"])
    ((peer, _, _),) = gather(pump, router, 1)
    good = (peer, b"", b"must not leave")
    for bad in ((peer, b""), [peer, b"", b"x"], (peer, "path", b"x"), (peer, b"", "text"), (peer, b"", (b"x", None))):
        with pytest.raises(TypeError):
            pump.send([good, bad])
    with pytest.raises(ValueError, match="at least one frame"):
        pump.send([good, (peer, b"", ())])
    assert pump.send([(peer, b"", b"whole", b"message")]) == []
    assert dealer.poll(LIMIT_MS)
    assert dealer.recv_multipart() == [b"whole", b"message"]


# --- RouterPump: peers


def test_a_connection_is_one_peer_with_its_descriptor_and_type(net: Net, pumps: Any) -> None:
    """Every message of a connection names the same Peer, which knows the descriptor and the kind of socket."""
    router, endpoint = net.bound(zmq.ROUTER)
    pump = router_pump(pumps, router)
    dealer, req = net.connected(zmq.DEALER, endpoint), net.connected(zmq.REQ, endpoint)
    for _ in range(3):
        dealer.send_multipart([b"", b"dealer"])
    req.send(b"req")
    heard = gather(pump, router, 4)
    of_dealer = {peer for peer, _, body in heard if body == b"dealer"}
    of_req = {peer for peer, _, body in heard if body == b"req"}
    assert len(of_dealer) == len(of_req) == 1
    (one,), (other,) = of_dealer, of_req
    assert (one.socket_type, one.asks_one_at_a_time) == ("DEALER", False)
    assert (other.socket_type, other.asks_one_at_a_time) == ("REQ", True)
    for peer in (one, other):
        assert os.fstat(peer.descriptor)
        assert pump.peers[peer.routing_id] is peer
        assert pump.descriptors[peer.descriptor] is peer
    assert set(pump.arrived) == {one, other}
    assert pump.replaced == []


def test_an_inproc_peer_has_no_descriptor(net: Net, pumps: Any) -> None:
    """Over inproc there is no descriptor: the peer is told apart by its routing id alone."""
    router, _ = net.bound(zmq.ROUTER, "inproc://here")
    pump = router_pump(pumps, router)
    for _ in range(2):
        net.connected(zmq.DEALER, "inproc://here").send_multipart([b"", b"x"])
    heard = gather(pump, router, 2)
    assert {peer.descriptor for peer, _, _ in heard} == {NO_DESCRIPTOR}
    assert len({peer for peer, _, _ in heard}) == 2
    assert pump.descriptors == {}


def come_back(net: Net, router: zmq.Socket[bytes], endpoint: str) -> zmq.Socket[bytes]:
    """A peer that chose its id, heard: the ROUTER ignores it until the old connection of that id has gone."""
    for _ in range(50):
        second = net.connected(zmq.DEALER, endpoint, routing_id=b"chosen")
        second.send_multipart([b"", b"2"])
        if router.poll(LIMIT_MS // 50):
            return second
        second.close(linger=0)
    pytest.fail("the id was never free again")


def test_a_chosen_routing_id_that_reconnects_is_another_peer(net: Net, pumps: Any) -> None:
    """A peer that chose its id and comes back on another connection is a new Peer; the old one can be sent nothing."""
    router, endpoint = net.bound(zmq.ROUTER, router_mandatory=True)
    pump = router_pump(pumps, router)
    watch = net.watch(router, zmq.EVENT_DISCONNECTED)
    first = net.connected(zmq.DEALER, endpoint, routing_id=b"chosen")
    first.send_multipart([b"", b"1"])
    ((old, _, _),) = gather(pump, router, 1)
    spacer = net.connected(zmq.DEALER, endpoint)  # lies on another descriptor when the first one has gone
    spacer.send_multipart([b"", b"spacer"])
    gather(pump, router, 1)
    first.close(linger=0)
    assert watch.poll(LIMIT_MS)
    held: list[int] = []  # whatever descriptor was set free is taken, so that it does not come back
    while old.descriptor not in held:
        held.append(os.open(os.devnull, os.O_RDONLY))
        assert len(held) < 1_000
        if held[-1] > old.descriptor:  # libzmq has told of the end and not closed it yet
            os.close(held.pop())
    try:
        second = come_back(net, router, endpoint)
        ((new, _, _),) = gather(pump, router, 1)
    finally:
        for descriptor in held:
            os.close(descriptor)
    assert new is not old
    assert pump.replaced == [old]
    assert old.routing_id == b""
    assert pump.send([(old, b"", b"for the first one"), (new, b"", b"for the second one")]) == [(0, errno.EHOSTUNREACH)]
    assert second.poll(LIMIT_MS)
    assert second.recv() == b"for the second one"


def reconnect_on_the_same_descriptor(
    net: Net, router: zmq.Socket[bytes], endpoint: str, said: list[bytes]
) -> zmq.Socket[bytes]:
    """A peer says `said` and goes; returns another one, connected, that got its descriptor. Nothing was read yet."""
    watch = net.watch(router, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)

    def next_event() -> tuple[int, int]:
        assert watch.poll(LIMIT_MS)
        event, _ = watch.recv_multipart()
        return int.from_bytes(event[:2], sys.byteorder), int.from_bytes(event[2:6], sys.byteorder)

    first = net.connected(zmq.DEALER, endpoint)
    kind, descriptor = next_event()
    assert kind == zmq.EVENT_ACCEPTED
    for body in said:
        first.send_multipart([b"", body])
    first.close(linger=LIMIT_MS)
    assert next_event() == (zmq.EVENT_DISCONNECTED, descriptor)
    until = time.monotonic() + LIMIT_MS / 1_000
    with contextlib.suppress(OSError):
        while os.fstat(descriptor):  # libzmq tells first and closes then
            assert time.monotonic() < until
            threading.Event().wait(0.001)
    second = net.connected(zmq.DEALER, endpoint)
    assert next_event() == (zmq.EVENT_ACCEPTED, descriptor), "the system gave another descriptor"
    return second


def test_a_descriptor_given_out_again_replaces_the_peer(net: Net, pumps: Any) -> None:
    """A new connection on a known descriptor means that the older one has gone: it loses its routing id."""
    router, endpoint = net.bound(zmq.ROUTER, router_mandatory=True)
    pump = router_pump(pumps, router)
    second = reconnect_on_the_same_descriptor(net, router, endpoint, [b"old"])
    second.send_multipart([b"", b"new"])
    (old, _, _), (new, _, _) = gather(pump, router, 2)
    assert pump.replaced == [old]
    assert old.routing_id == b""
    assert pump.descriptors == {new.descriptor: new}
    assert pump.send([(old, b"", b"x"), (new, b"", b"reply")]) == [(0, errno.EHOSTUNREACH)]
    assert second.poll(LIMIT_MS)
    assert second.recv() == b"reply"


def test_the_last_words_of_a_dead_peer_do_not_cut_off_its_successor(net: Net, pumps: Any) -> None:
    """Unread messages of a dead connection, read between those of a live one on its descriptor, harm nobody."""
    router, endpoint = net.bound(zmq.ROUTER, router_mandatory=True)
    pump = router_pump(pumps, router)
    second = reconnect_on_the_same_descriptor(net, router, endpoint, [b"old 0", b"old 1", b"old 2", b"old 3"])
    for i in range(4):
        second.send_multipart([b"", b"new %d" % i])
    heard = gather(pump, router, 8)
    peers = {bytes(body): peer for peer, _, body in heard}
    new = {peers[b"new %d" % i] for i in range(4)}
    assert len(new) == 1
    (peer,) = new
    assert pump.send([(peer, b"", b"reply")]) == []
    assert second.poll(LIMIT_MS)
    assert second.recv() == b"reply"
    assert all(peers[b"old %d" % i].routing_id != peer.routing_id for i in range(4))
    assert list(pump.peers.values()) == [peer]


def test_forget_of_a_replaced_peer_leaves_its_successor(net: Net, pumps: Any) -> None:
    """News of an old connection that come late take nothing from the one that has its descriptor now."""
    router, endpoint = net.bound(zmq.ROUTER)
    pump = router_pump(pumps, router)
    second = reconnect_on_the_same_descriptor(net, router, endpoint, [b"old"])
    second.send_multipart([b"", b"new"])
    (old, _, _), (new, _, _) = gather(pump, router, 2)
    pump.forget(old)
    pump.forget(old)
    assert pump.descriptors[new.descriptor] is new
    assert pump.peers == {new.routing_id: new}


# --- No leaks


def rss_kib() -> int:
    """Memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - read in a measured loop
        return int(statm.read().split()[1]) * resource.getpagesize() // 1024


def test_memory_is_flat_over_many_messages(net: Net, pumps: Any) -> None:
    """After 100,000 messages through every branch the process is no larger than after the first thousands."""
    router, endpoint = net.bound(zmq.ROUTER)
    dealer = net.connected(zmq.DEALER, endpoint)
    far = router_pump(pumps, router, frames_max=8, bytes_max=3_000, frame_copy_bytes_max=1_000)
    near = pumps.FramePump(dealer, frame_copy_bytes_max=1_000)
    batch = [
        (b"", b"body"),
        (b"hop", b"hop", b"", b"x" * 500, b"y" * 500),
        (b"", b"large" * 400),
        (b"undelimited",),
        (b"", *(b"many",) * 20),
        (b"", b"too large" * 400),
        (SIGNATURE, b"header" * 10, b"body"),
        (b"hop", SIGNATURE, b"header" * 200, b"large" * 200, b"body"),
        (SIGNATURE, b"header", b"too large" * 400),
    ] * 20
    messages = flat_from = 0
    while messages < 100_000:
        assert near.send(batch) == len(batch)
        heard = gather(far, router, len(batch))
        heard += [(peer, path, (header, body)) for peer, path, _, header, body in far.native]
        far.refused.clear()
        far.native.clear()
        assert far.send([(peer, path, b"", *body_frames(body)) for peer, path, body in heard]) == []
        gather(near, dealer, len(heard))
        messages += len(batch) + len(heard)
        if messages >= 20_000 and not flat_from:
            gc.collect()
            flat_from = rss_kib()
    del heard
    gc.collect()
    assert rss_kib() - flat_from < 2_048


def test_nobody_keeps_what_was_sent(net: Net, pumps: Any) -> None:
    """References to bodies, paths and peers are given back, also where a send fails."""
    router, endpoint = net.bound(zmq.ROUTER, router_mandatory=True)
    pump = router_pump(pumps, router)
    dealer = net.connected(zmq.DEALER, endpoint)
    dealer.send_multipart([b"hop", b"", b"x"])
    ((peer, path, _),) = gather(pump, router, 1)
    body, frames = bytes(bytearray(b"body" * 10)), (bytes(bytearray(b"frame")),)
    gone = type(peer)(b"nobody")
    watched = (peer, path, body, frames, frames[0], gone)
    before = [sys.getrefcount(it) for it in watched]
    for _ in range(1_000):
        assert pump.send([(peer, path, body, frames), (gone, path, body)]) == [(1, errno.EHOSTUNREACH)]
        with pytest.raises(TypeError):
            pump.send([(peer, path, body, frames), (peer, path, None)])
        assert dealer.poll(LIMIT_MS)
        dealer.recv_multipart()
    assert [sys.getrefcount(it) for it in watched] == before
