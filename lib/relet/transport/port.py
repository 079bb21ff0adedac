"""A bound socket of the broker, with everything the loop asks of it.

`RouterPort` is a ROUTER, its frame pump, its peers and the monitor that tells which of them have gone; `PullPort` is
the PULL on which answers arrive. Nothing here blocks and nothing here decides.

**Deaths have names.** Every message carries the descriptor of its connection, and the monitor's DISCONNECTED event
carries the same number. libzmq writes that event before it closes the descriptor, and accepts the next connection
after. So events and messages can be matched, with two catches. A descriptor is given out again at once: where
DISCONNECTED is followed by ACCEPTED, a peer that was first heard since the drain before may be of the new connection,
and the event speak of an older one that never said a word (a port scan, a health check). And a message may be read
after the news of its connection's end, where that was under way while the monitor was drained: so it is kept in mind
which descriptors nobody has been accepted on since. As long as one I/O thread tells all, ACCEPTED is there before
whatever the connection says; who is first heard on such a descriptor has gone.
"""

from __future__ import annotations

import functools
import resource
import struct
import sys
from typing import Any, Final

import zmq

from relet.core.limits import Limits
from relet.messages import NativeRun, Peer, Refused
from relet.transport.attach import BindError, bind, listen_well, new_socket, watch
from relet.transport.endpoints import Endpoint

HANDSHAKE_FAILED: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
FAILURES: Final = zmq.EVENT_ACCEPTED | HANDSHAKE_FAILED
"""Not ACCEPT_FAILED: where descriptors are spent, libzmq tries and tells without pause, faster than it can be read."""
_EVENT: Final = struct.Struct("=HI")  # zmq_socket_monitor(3): 16 bits of event, 32 bits of value
_DRAIN_MAX: Final = 10_000
"""Monitor events read in one turn: a flood of connections must not hold the loop (about 0.4 us each)."""

FRAME_BYTES_SPARE: Final = 1_024 * 1_024
"""And this much more, for small limits."""

_PROBE_MS: Final = 2_000
"""How long the probe of `tells_descriptors` may take, on a machine that is very busy."""

DESCRIPTORS_SPARE: Final = 4
"""A connection whose descriptor is one of the last few that this process may have means that they are spent."""

HEARTBEAT_INTERVAL_MS: Final = 1_000
HEARTBEAT_TIMEOUT_MS: Final = 3_000
"""A worker that is frozen or cut off is disconnected after interval + timeout at most; no TTL is sent to it.

Not so a client: one that is slow to read stops reading its connection when its own high-water mark is reached, and the
heartbeat with it, so that it would be cut off with all that waits for it. TCP's keepalive finds those that are gone.
"""
WORKER_MESSAGES_MAX: Final = 32_768
"""Messages that wait in libzmq for one connection of workers that does not read. So high that a proxy with thousands of
workers behind it gets all that they have asked for at once; there at all because what a worker is answered is bounded
by nothing else: one that floods and never reads would fill the memory, 300 bytes at a time."""
FRAME_BYTES_FACTOR: Final = 2
"""`MAXMSGSIZE` lies this far above the body limit: a frame up to there is read, refused and answered. Beyond it libzmq
cuts the connection before it has the frame: it must, or one frame could take all memory."""


def _frame_bytes_max(limits: Limits) -> int:
    return FRAME_BYTES_FACTOR * limits.body_bytes_max + FRAME_BYTES_SPARE


def open_socket(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, role: str, endpoint: Endpoint, frame_bytes_max: int
) -> tuple[zmq.Socket[bytes], str]:
    """A socket of the broker, all options set, then bound; and where it is bound. Raises `BindError`."""
    socket = new_socket(context, kind)
    socket.maxmsgsize = frame_bytes_max
    if role != "clients":
        socket.heartbeat_ivl = HEARTBEAT_INTERVAL_MS
        socket.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
    listen_well(socket)
    if kind == zmq.ROUTER:
        socket.router_mandatory = True
        if role == "workers":
            socket.sndhwm = WORKER_MESSAGES_MAX
    try:
        return socket, bind(socket, endpoint, role)
    except BindError:
        socket.close(linger=0)
        raise


@functools.cache
def tells_descriptors() -> bool:
    """Whether messages carry the descriptor of their connection here (`ZMQ_SRCFD`, marked deprecated in `zmq.h`)."""
    with zmq.Context() as context:
        router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        router.linger = dealer.linger = 0
        try:
            port = router.bind_to_random_port("tcp://127.0.0.1")
            dealer.connect(f"tcp://127.0.0.1:{port}")
            dealer.send(b"")
            if not router.poll(_PROBE_MS):
                return False
            frame: zmq.Frame = router.recv_multipart(copy=False)[0]
            return int(frame.get("__fd")) > 0
        except (zmq.ZMQError, ValueError):
            return False
        finally:
            router.close()
            dealer.close()


class Monitor:
    """The connection events of one socket."""

    def __init__(self, socket: zmq.Socket[bytes], pumps: Any, events: int) -> None:
        self._watched = socket
        self.socket = watch(socket, events)
        self.ready = True
        """There may be something to drain: whoever polls `fileno` says so."""
        self._receive = pumps.FramePump(self.socket).receive
        self._events: list[tuple[int, int]] = []

    def drain(self) -> list[tuple[int, int]]:
        """The events since the last call: (event, value), the value being the descriptor for most.

        They can only be understood together, so a flood that one call does not end is kept until a later one has.
        """
        if not self.ready:
            return []
        messages = self._receive(_DRAIN_MAX)
        self._events += [_EVENT.unpack(message[0]) for message in messages]
        if len(messages) == _DRAIN_MAX:
            return []
        self.ready = False
        events, self._events = self._events, []
        return events

    def fileno(self) -> int:
        """A descriptor that is readable while there are events.

        Asking libzmq itself would cost four system calls each time the loop sleeps (`ZMQ_FD`, zmq_getsockopt(3)). Its
        catch, that a send may swallow the signal, is none here: nothing is ever sent on this socket.
        """
        return int(self.socket.get(zmq.FD))

    @property
    def behind(self) -> bool:
        """Events are kept back: the flood has not ended."""
        return bool(self._events)

    def close(self) -> None:
        """Stops the events, then closes."""
        self._receive(_DRAIN_MAX)
        self._watched.disable_monitor()
        self.socket.close(linger=0)


class _Port:
    """A bound socket and its monitor."""

    def __init__(self, role: str, bound: tuple[zmq.Socket[bytes], str], pumps: Any, events: int) -> None:
        self.role = role
        self.socket, self.endpoint = bound
        self.monitor = Monitor(self.socket, pumps, events)
        self.handshakes_failed = 0
        """Connections that did not speak ZMTP, or not in time, since somebody set this to 0."""
        self.accepts_failed = 0
        """Connections that took the last descriptors, so that the next ones cannot be accepted, likewise."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._last_descriptors = sys.maxsize if soft == resource.RLIM_INFINITY else soft - DESCRIPTORS_SPARE

    def _count(self, event: int, value: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self.accepts_failed += value >= self._last_descriptors
        elif event & HANDSHAKE_FAILED:
            self.handshakes_failed += 1

    def close(self) -> None:
        """Closes the monitor, then the socket; what was sent may leave within `LINGER_MS`."""
        self.monitor.close()
        self.socket.close()


class RouterPort(_Port):
    """The clients' or the workers' endpoint."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        role: str,
        endpoint: Endpoint,
        pumps: Any,
        limits: Limits,
    ) -> None:
        bound = open_socket(context, zmq.ROUTER, role, endpoint, _frame_bytes_max(limits))
        super().__init__(role, bound, pumps, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | FAILURES)
        self._pump = pumps.RouterPump(
            self.socket,
            peers_max=limits.peers_max,
            frames_max=limits.frames_max,
            bytes_max=limits.body_bytes_max,
            path_bytes_max=limits.path_bytes_max,
            frame_copy_bytes_max=limits.frame_copy_bytes_max,
        )
        self.send = self._pump.send
        """`send([(peer, path, frame, ...)]) -> [(index, errno)]` of what could not be sent."""
        self.receive = self._pump.receive
        """`receive(messages_max, bytes_max) -> [(peer, path, body)]`: messages of the 2010 dialect; never blocks.
        Native ones count in both bounds as well, and wait for `take_native`."""
        self._ended: set[int] = set()
        """Descriptors whose last connection has gone, as far as the monitor has told."""
        self._tells_in_order = context.get(zmq.IO_THREADS) == 1
        """Else a connection may speak before its ACCEPTED is there, and only what one drain shows is taken for so."""

    def take_refused(self) -> list[Refused]:
        """What was read since the last call and could not be taken."""
        refused: list[Refused] = self._pump.refused
        if not refused:
            return refused
        taken = refused[:]
        refused.clear()
        return taken

    def take_native(self) -> list[NativeRun]:
        """The native messages that `receive` has read since the last call, in the order of their arrival."""
        native: list[NativeRun] = self._pump.native
        if not native:
            return []
        taken = native[:]
        native.clear()
        return taken

    def take_lost(self) -> list[Peer]:
        """The peers whose connections have gone since the last call, each once.

        To be called after `receive`, and applied before what was received.
        """
        pump = self._pump
        lost: list[Peer] = []
        if pump.replaced:
            lost.extend(pump.replaced)
            pump.replaced.clear()
        if pump.arrived:  # they connected after the poll, perhaps: what their descriptors were before must be known now
            self.monitor.ready = True
        events = self.monitor.drain()
        if self.monitor.behind or not (events or pump.arrived):
            return lost
        arrived, ended = pump.arrived[:], self._ended
        pump.arrived.clear()
        fresh = set(arrived)
        if not self._tells_in_order:
            ended.clear()
        for event, value in events:
            if event == zmq.EVENT_DISCONNECTED:
                ended.add(value)
                peer = pump.descriptors.get(value)
                if peer is not None and peer not in fresh:
                    pump.forget(peer)
                    lost.append(peer)
                continue
            if event == zmq.EVENT_ACCEPTED:
                ended.discard(value)
            self._count(event, value)
        for peer in arrived:
            if peer.descriptor in ended and pump.descriptors.get(peer.descriptor) is peer:
                pump.forget(peer)
                lost.append(peer)
        return lost

    def forget(self, peer: Peer) -> None:
        """`peer` turned out to be gone: a send said so. The monitor knows by now who went with it."""
        self._pump.forget(peer)
        self.monitor.ready = True

    @property
    def peers(self) -> int:
        """How many connections have spoken and not gone."""
        return len(self._pump.peers)


class PullPort(_Port):
    """The endpoint of the answers."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: Endpoint, pumps: Any, limits: Limits) -> None:
        bound = open_socket(context, zmq.PULL, "answers", endpoint, _frame_bytes_max(limits))
        super().__init__("answers", bound, pumps, FAILURES)
        self._pump = pumps.FramePump(self.socket, frame_copy_bytes_max=limits.frame_copy_bytes_max)

    def fileno(self) -> int:
        """A descriptor that is readable while there are answers, for as long as every turn drains them (`ZMQ_FD`)."""
        return int(self.socket.get(zmq.FD))

    def receive(self, messages_max: int, bytes_max: int = 1 << 62) -> list[tuple[Any, ...]]:
        """Messages as tuples of frames; never blocks."""
        if self.monitor.ready:
            for event, value in self.monitor.drain():
                self._count(event, value)
        messages: list[tuple[Any, ...]] = self._pump.receive(messages_max, bytes_max)
        return messages
