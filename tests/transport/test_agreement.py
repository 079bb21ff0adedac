"""Both frame pumps understand the same bytes in the same way: whatever a raw DEALER sends, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relet.messages import MAGIC, SIGNATURE
from relet.transport import plain
from relet.transport.plain import pack_path, unpack_path
from relet.transport.pump import PumpUnavailable, implementation

from .conftest import LIMIT_MS, Net

END = (b"", b"the end")

# Every branch is near: at most 6 frames and 40 bytes, a path of 12, frames from 8 bytes on are not copied.
BOUNDS = {"peers_max": 9, "frames_max": 6, "bytes_max": 40, "path_bytes_max": 12, "frame_copy_bytes_max": 8}
SIGNATURES = st.one_of(st.just(SIGNATURE), st.integers(0, 255).map(lambda version: MAGIC + bytes([version])))
NEARLY = st.builds(  # seven bytes of a signature and another one, or one byte too few or too many
    lambda at, byte, size: (SIGNATURE[:at] + bytes([byte]) + SIGNATURE[at + 1 :] + b"\1")[:size],
    st.integers(0, 7),
    st.integers(0, 255),
    st.sampled_from([7, 8, 8, 8, 9]),
)
FRAMES = st.one_of(
    st.just(b""),
    st.binary(max_size=9),
    st.binary(min_size=30, max_size=42),
    st.sampled_from([b"\0", b"\0\0\0\1"]),
    SIGNATURES,
    NEARLY,
)
HOPS = st.lists(st.one_of(st.binary(min_size=1, max_size=4), NEARLY), max_size=3)
ENVELOPED = st.builds(  # the way to a cut and beyond it, in either dialect, with what could be a message behind
    lambda hops, cut, rest: [*hops, cut, *rest],
    HOPS,
    st.one_of(st.just(b""), SIGNATURES),
    st.lists(FRAMES, max_size=6),
)
MESSAGES = st.lists(st.one_of(st.lists(FRAMES, min_size=1, max_size=9), ENVELOPED), min_size=1, max_size=8)


def whole(body: Any) -> Any:
    """A body with its large frames copied."""
    return tuple(map(bytes, body)) if type(body) is tuple else bytes(body)


class Ears:
    """A ROUTER with one pump, and a raw DEALER that speaks to it."""

    def __init__(self, net: Net, pumps: Any) -> None:
        self.router, endpoint = net.bound(zmq.ROUTER)
        self.dealer = net.connected(zmq.DEALER, endpoint)
        self.pump = pumps.RouterPump(self.router, **BOUNDS)
        self.frames = pumps.FramePump(self.dealer, frame_copy_bytes_max=8)

    def hear(self, messages: list[list[bytes]]) -> tuple[list[Any], list[Any], list[Any]]:
        """(what was taken of the 2010 dialect, of the native one, what was refused) of `messages`."""
        for message in (*messages, END):
            self.dealer.send_multipart(message)
        heard: list[Any] = []
        while not heard or heard[-1] != ([], b"the end"):
            assert self.router.poll(LIMIT_MS)
            for _, path, body in self.pump.receive(1_000):
                heard.append((unpack_path(path), whole(body)))
        native = [
            (unpack_path(path), version, header, whole(body)) for _, path, version, header, body in self.pump.native
        ]
        assert all(type(header) is bytes for _, _, header, _ in native)
        refused = [
            (it.path if it.path is None else unpack_path(it.path), it.reason, it.version, it.header)
            for it in self.pump.refused
        ]
        self.pump.native.clear()
        self.pump.refused.clear()
        return heard[:-1], native, refused

    def echo(self, message: list[bytes]) -> tuple[bytes, ...]:
        """The frames of a message as they come back from the pump, taken out of and put into envelopes."""
        self.dealer.send_multipart([b"", *message, b"."])
        assert self.router.poll(LIMIT_MS)
        ((peer, path, body),) = self.pump.receive(1)
        assert self.pump.send([(peer, path, b"", body)]) == []
        assert self.dealer.poll(LIMIT_MS)
        (heard,) = self.frames.receive(1)
        return tuple(map(bytes, heard))


@pytest.fixture(scope="module")
def ears() -> Iterator[tuple[Ears, Ears]]:
    """(ears with the C pump, ears with the plain one)."""
    net = Net()
    try:
        c = implementation("cython")[1]
    except PumpUnavailable as error:
        pytest.skip(str(error))
    yield Ears(net, c), Ears(net, plain)
    net.close()


@given(messages=MESSAGES)
@example(
    messages=[
        [SIGNATURE],
        [MAGIC + b"\2"],
        [MAGIC + b"\0", b"header"],
        [b"", SIGNATURE, b"header", b"body"],
        [b"\xffrelet.\1", b"hop", SIGNATURE, b"header"],
        [b"1", b"2", b"3", b"4", b"5", SIGNATURE],
        [b"1", b"2", b"3", b"4", b"5", SIGNATURE, b"header"],
        [b"1", b"2", b"3", b"4", b"5", b"6", SIGNATURE, b"header"],
        [SIGNATURE, b"header larger than forty bytes, all in all"],
        [SIGNATURE, b"header", b"and a body larger than thirty-four bytes"],
        [b"a path too long", SIGNATURE, b"header"],
    ]
)
def test_both_pumps_hear_the_same(ears: tuple[Ears, Ears], messages: list[list[bytes]]) -> None:
    """Arbitrary multipart messages come out of both pumps alike: taken or refused, cut at the same place."""
    c, python = ears
    assert c.hear(messages) == python.hear(messages)


@settings(max_examples=50)
@given(frames=st.lists(st.binary(max_size=12), max_size=4).filter(lambda frames: sum(map(len, frames)) < 40))
def test_both_pumps_send_the_same(ears: tuple[Ears, Ears], frames: list[bytes]) -> None:
    """What was received and is sent again is the same to the byte."""
    for each in ears:
        assert each.echo(frames) == (b"", *frames, b".")


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20))
def test_a_packed_path_is_unpacked_again(frames: list[bytes]) -> None:
    """A return path survives being packed into one value."""
    assert unpack_path(pack_path(frames)) == frames
