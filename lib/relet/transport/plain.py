"""The frame pump in plain Python, for where no compiler was at hand: the same classes as `_pump.pyx`, the same tests.

It costs about a microsecond a frame, which is what pyzmq's calls cost. Every frame is copied into `bytes`, whatever its
size, so `frame_copy_bytes_max` is accepted and met.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from typing import Any

import zmq

from relet.messages import (
    GONE_MAX,
    MAGIC,
    NO_DESCRIPTOR,
    TOO_LARGE,
    TOO_MANY_PEERS,
    UNDELIMITED,
    Body,
    Frame,
    Native,
    Path,
    Peer,
    Refused,
)

_NO_BOUND = 1 << 62
_AGAIN = (errno.EAGAIN, errno.EINTR)
_MORE = zmq.SNDMORE | zmq.DONTWAIT
_SIGNATURE_BYTES = len(MAGIC) + 1


def pack_path(frames: Iterable[bytes]) -> Path:
    """The frames of a return path as one value: each frame behind its length, four bytes, big-endian."""
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


def unpack_path(path: Path) -> list[bytes]:
    """The frames that `pack_path` packed."""
    frames, at = [], 0
    while at < len(path):
        size = int.from_bytes(path[at : at + 4], "big")
        frames.append(path[at + 4 : at + 4 + size])
        at += 4 + size
    return frames


def _flat(items: Iterable[Frame | tuple[Frame, ...]]) -> list[bytes]:
    """The frames of a message, checked: nothing may go wrong between two frames of a message."""
    frames: list[Any] = []
    for item in items:
        if type(item) is tuple:
            frames.extend(item)
        else:
            frames.append(item)
    if not frames:
        msg = "a message needs at least one frame"
        raise ValueError(msg)
    for frame in frames:
        if type(frame) is not bytes:
            msg = f"a frame must be bytes or a frame that was received, not {type(frame).__name__}"
            raise TypeError(msg)
    return frames


class FramePump:
    """Messages of a socket without routing ids (DEALER, PUSH, PULL): tuples of frames, in and out."""

    def __init__(self, socket: zmq.Socket[bytes], *, frame_copy_bytes_max: int = 16384) -> None:
        self.frame_copy_bytes_max = frame_copy_bytes_max
        self._socket = socket

    def receive(self, messages_max: int, bytes_max: int = _NO_BOUND) -> list[tuple[bytes, ...]]:
        """Up to `messages_max` whole messages, each a tuple of frames; stops after `bytes_max` bytes. Never blocks."""
        socket, taken = self._socket, 0
        messages: list[tuple[bytes, ...]] = []
        try:
            while len(messages) < messages_max and taken < bytes_max:
                message = tuple(socket.recv_multipart(zmq.DONTWAIT))
                messages.append(message)
                taken += sum(map(len, message))
        except zmq.Again:
            pass
        return messages

    def send(self, messages: Sequence[Sequence[Frame | tuple[Frame, ...]]]) -> int:
        """Sends in order until one would block; returns how many went. Never blocks; raises for anything else."""
        batch = [_flat(message) for message in messages]
        for index, frames in enumerate(batch):
            try:
                self._socket.send_multipart(frames, zmq.DONTWAIT)
            except zmq.Again:
                return index
        return len(batch)


class RouterPump:
    """Messages of a ROUTER: `(peer, path, body)` in, `(peer, path, frame, ...)` out.

    Those of the native dialect gather in `native`, as `(peer, path, version, header, body)`, until somebody takes them.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        *,
        peers_max: int,
        frames_max: int,
        bytes_max: int,
        path_bytes_max: int = 8192,
        frame_copy_bytes_max: int = 16384,
    ) -> None:
        self.frame_copy_bytes_max = frame_copy_bytes_max
        self.peers_max = peers_max
        self.frames_max = frames_max
        self.bytes_max = bytes_max
        self.path_bytes_max = path_bytes_max
        self.peers: dict[bytes, Peer] = {}
        self.descriptors: dict[int, Peer] = {}
        self.gone: dict[bytes, Peer] = {}
        self.arrived: list[Peer] = []
        self.replaced: list[Peer] = []
        self.refused: list[Refused] = []
        self.native: list[Native] = []
        self._socket = socket

    def _peer_of(self, routing_id: bytes, frame: zmq.Frame) -> Peer | None:
        """The peer behind a routing id; a new one where the connection is new. None when there are too many."""
        gone = self.gone.get(routing_id)
        if gone is not None:
            return gone  # the last words of a connection that is known to have gone
        descriptor = _descriptor_of(frame)
        found = self.peers.get(routing_id)
        if found is not None:
            if found.descriptor == descriptor:
                return found
            self.replaced.append(found)
            self.forget(found)
        elif len(self.peers) >= self.peers_max and not self._make_room():
            return None
        older = None if descriptor == NO_DESCRIPTOR else self.descriptors.get(descriptor)
        if older is not None and _is_older(routing_id, older.routing_id):
            return Peer(b"", descriptor)  # the last words of a connection whose descriptor has been given out again
        peer = Peer(routing_id, descriptor, _socket_type_of(frame))
        self.peers[routing_id] = peer
        if descriptor != NO_DESCRIPTOR:
            if older is not None:  # its descriptor was given out again, so its connection is gone
                self.replaced.append(older)
                self.forget(older)
            self.descriptors[descriptor] = peer
        self.arrived.append(peer)
        return peer

    def _make_room(self) -> bool:
        """Lets the peer go that was heard first, if no monitor would ever tell that it has gone; it can still be sent
        to.
        """
        routing_id, peer = next(iter(self.peers.items()))
        if peer.descriptor != NO_DESCRIPTOR:
            return False
        del self.peers[routing_id]
        return True

    def forget(self, peer: Peer) -> None:
        """The connection of `peer` is gone. It loses its routing id, so that nothing can be sent to whoever gets that
        next.
        """
        if self.peers.get(peer.routing_id) is peer:
            del self.peers[peer.routing_id]
        if self.descriptors.get(peer.descriptor) is peer:
            del self.descriptors[peer.descriptor]
        if peer.routing_id[:1] == b"\0":
            self.gone[peer.routing_id] = peer
            if len(self.gone) > GONE_MAX:
                del self.gone[next(iter(self.gone))]
        peer.routing_id = b""

    def receive(self, messages_max: int, bytes_max: int = _NO_BOUND) -> list[tuple[Peer, Path, Body]]:
        """Up to `messages_max` messages; stops after `bytes_max` bytes. Never blocks.

        Those of the 2010 dialect are returned as `(peer, path, body)`, native ones gather in `native`; both count. What
        cannot be taken - neither delimiter nor signature, too many frames or bytes, too many peers - goes to `refused`,
        without its body.
        """
        recv, get, peers = self._socket.recv, self._socket.get, self.peers
        messages: list[tuple[Peer, Path, Body]] = []
        taken = 0
        try:
            for _ in range(messages_max):
                if taken >= bytes_max:
                    break
                routing_id = recv(zmq.DONTWAIT)
                # Ids that libzmq draws begin with a zero byte and do not come back while this socket lives. An id that
                # the peer chose may come back on another connection, so there the descriptor is asked for each time.
                peer = peers.get(routing_id) if routing_id[:1] == b"\0" else None
                frames = []
                if peer is None and get(zmq.RCVMORE):
                    frame: zmq.Frame = recv(copy=False)
                    peer = self._peer_of(routing_id, frame)
                    frames.append(frame.bytes)
                while get(zmq.RCVMORE):
                    frames.append(recv())
                taken += self._take(peer, routing_id, frames, messages)
        except zmq.Again:
            pass
        return messages

    def _take(
        self, peer: Peer | None, routing_id: bytes, frames: list[bytes], messages: list[tuple[Peer, Path, Body]]
    ) -> int:
        """One message to `messages`, `native` or `refused`; returns the bytes that are kept."""
        cut = next((i for i, frame in enumerate(frames) if not frame or _is_signature(frame)), None)
        version = frames[cut][-1] if cut is not None and frames[cut] else None
        behind = len(frames) if cut is None else cut + 1
        header = frames[behind] if version is not None and behind < len(frames) else b""
        path_size = sum(map(len, frames[:cut]))
        size = sum(map(len, frames)) - (0 if version is None else _SIGNATURE_BYTES)
        too_large = len(frames) > self.frames_max or size > self.bytes_max or path_size > self.path_bytes_max
        if too_large or cut is None or peer is None:
            # As in C: behind the last frame that may be counted nothing is looked at, a delimiter included.
            seen = cut is not None and cut < self.frames_max and path_size <= self.path_bytes_max
            if not seen or behind >= self.frames_max or path_size + len(header) > self.bytes_max:
                header = b""
            self.refused.append(
                Refused(
                    peer=Peer(routing_id) if peer is None else peer,
                    path=pack_path(frames[:cut]) if seen else None,
                    reason=TOO_LARGE if too_large else UNDELIMITED if cut is None else TOO_MANY_PEERS,
                    version=version if seen and version else 0,
                    header=header,
                )
            )
            return len(header)
        path = pack_path(frames[:cut]) if cut else b""
        first = behind if version is None else behind + 1
        body: Body = frames[-1] if len(frames) == first + 1 else tuple(frames[first:])
        if version is None:
            messages.append((peer, path, body))
        else:
            self.native.append((peer, path, version, header, body))
        return size

    def send(self, messages: Sequence[tuple[Any, ...]]) -> list[tuple[int, int]]:
        """Sends each `(peer, path, frame, ...)`; returns `(index, errno)` of those that were not sent. Never blocks.

        EHOSTUNREACH: that connection is gone. EAGAIN: it does not read; then the later messages of the batch to it are
        not tried, so that none overtakes another. A tuple among the frames is flattened.
        """
        batch = []
        stuck: set[bytes] = set()
        for message in messages:
            if type(message) is not tuple or len(message) < 3 or type(message[1]) is not bytes:
                msg = "a message is (peer, path, frame, ...)"
                raise TypeError(msg)
            peer, path, *items = message
            batch.append([peer.routing_id, *(unpack_path(path) if path else ()), *_flat(items)])
        failures, send = [], self._socket.send
        for index, frames in enumerate(batch):
            if frames[0] in stuck:
                failures.append((index, errno.EAGAIN))
                continue
            last = frames.pop()
            try:
                for frame in frames:
                    send(frame, _MORE)
                send(last, zmq.DONTWAIT)
            except zmq.ZMQError as error:
                if error.errno not in (*_AGAIN, errno.EHOSTUNREACH):
                    raise
                gone = error.errno == errno.EHOSTUNREACH
                failures.append((index, errno.EHOSTUNREACH if gone else errno.EAGAIN))
                if not gone:
                    stuck.add(frames[0])
        return failures


def _is_signature(frame: bytes) -> bool:
    """Of any version."""
    return len(frame) == _SIGNATURE_BYTES and frame.startswith(MAGIC)


def _is_older(one: bytes, other: bytes) -> bool:
    """Both ids were drawn by libzmq, which counts modulo 2**32, and `one` before `other`."""
    if len(one) != 5 or len(other) != 5 or one[0] or other[0]:
        return False
    return 0 < (int.from_bytes(other[1:], "big") - int.from_bytes(one[1:], "big")) % (1 << 32) < 1 << 31


def _descriptor_of(frame: zmq.Frame) -> int:
    try:
        return int(frame.get("__fd"))
    except (zmq.ZMQError, ValueError):  # inproc, or a libzmq that does not tell
        return NO_DESCRIPTOR


def _socket_type_of(frame: zmq.Frame) -> str:
    try:
        return str(frame.get("Socket-Type"))
    except zmq.ZMQError:
        return ""
