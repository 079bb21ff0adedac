"""A simulated network: connections that delay, break, freeze and are cut, and the three endpoints at their broker's
end.

It keeps what TCP and libzmq keep, and nothing more. Within one connection messages arrive in order; between two there
is no order. A connection that breaks takes with it what was under way, or only its end, or nothing. What its peer
sent before may still lie unread at the broker afterwards. Descriptors are given out again at once, the lowest first;
routing ids count up from the same value in every broker, so after a restart each belongs to another peer than before.

`Router` and `Pull` are what `relet.server` asks of an endpoint. Whatever passes them is shown to a `Witness`.
"""

from __future__ import annotations

import errno
import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from relet.messages import Body, Native, NativeRun, Path, Peer, Refused
from relet.testing.clock import MS, Clock

ROLES: Final = ("clients", "workers", "answers")


class Owner(Protocol):
    """Who has the far end of a connection."""

    frozen: bool

    def heard(self, wire: Wire, frames: tuple[Any, ...]) -> None:
        """A message of the broker has arrived."""

    def on_closed(self, wire: Wire) -> None:
        """The connection has gone, and this end has noticed."""


class Witness(Protocol):
    """Sees everything that passes the broker's endpoints."""

    def request(self, wire: Wire, path: Path, body: Body) -> None:
        """The broker has read a request."""

    def ask(self, peer: Peer, path: Path) -> None:
        """The broker has read an ask."""

    def answer(self, frames: tuple[Any, ...]) -> None:
        """The broker has read an answer."""

    def native(self, wire: Wire, message: Native) -> None:
        """The broker has read a message of the native dialect."""

    def refused(self, wire: Wire, refused: Refused) -> None:
        """The broker has read what it cannot take."""

    def heeded(self, role: str, refused: Sequence[Refused]) -> None:
        """The broker turns to what it has read before and cannot take."""

    def lost(self, role: str, peers: Sequence[Peer]) -> None:
        """The broker has been told that these have gone."""

    def sent(self, role: str, wire: Wire | None, message: tuple[Any, ...], code: int) -> None:
        """The broker has sent a message, or was told why not (`errno`)."""


class Wire:
    """One connection between a peer and an endpoint of the broker."""

    __slots__ = (
        "_arrives",
        "_delivers",
        "_reset",
        "backlog",
        "cut_until",
        "descriptor",
        "endpoint",
        "gone",
        "inbox",
        "lag_ns",
        "lost",
        "network",
        "owner",
        "peer",
        "reading",
        "routing_id",
        "socket_type",
        "unread",
        "unread_max",
        "up",
    )

    def __init__(self, network: Network, endpoint: Endpoint, owner: Owner, socket_type: str, unread_max: int) -> None:
        self.network = network
        self.endpoint = endpoint
        self.owner = owner
        self.socket_type = socket_type
        self.routing_id = b""
        self.descriptor = network.next_descriptor()
        self.peer: Peer | None = None
        """How the broker's port knows it, once it has spoken."""
        self.up = True
        """The peer's end is open, as far as the peer knows."""
        self.gone = False
        """The broker's end is closed."""
        self.lost = False
        """The broker knows that."""
        self.inbox: deque[tuple[Any, ...]] = deque()
        """At the broker, unread."""
        self.backlog: deque[tuple[Any, ...]] = deque()
        """At the peer, unread: it is frozen or does not read."""
        self.reading = True
        self.unread = 0
        """Sent by the broker and not yet read by the peer."""
        self.unread_max = unread_max
        self.cut_until = 0
        self.lag_ns = 0
        """What the peer says takes so much longer."""
        self._arrives = self._delivers = 0
        self._reset = False

    # --- The peer's side

    def send(self, message: tuple[Any, ...]) -> None:
        """The peer sends; what is sent into a connection that has gone vanishes."""
        if not self.up:
            return
        network = self.network
        when = max(network.clock.now + network.delay() + self.lag_ns, self._arrives + 1, self.cut_until)
        self._arrives = when
        network.clock.at(when, self._arrive, message)

    def _arrive(self, message: tuple[Any, ...]) -> None:
        if self.gone or self._reset:
            self.network.vanished += 1
        else:
            self.endpoint.arrived(self, message)

    def close(self, *, reset: bool) -> None:
        """The peer's process closes or dies; with `reset`, what it sent and what is not there yet is lost."""
        if not self.up:
            return
        self.up = False
        self._ends(reset=reset)

    def resume(self) -> None:
        """The peer reads again."""
        self.reading = True
        backlog, self.backlog = self.backlog, deque()
        while backlog:
            self._read(backlog.popleft())

    # --- The network's side

    def breaks(self, *, reset: bool, after: int = 0) -> None:
        """The connection is lost: the broker notices `after` nanoseconds, the peer somewhat later."""
        self.network.clock.after(after, self._ends_unless, reset)

    def _ends_unless(self, reset: bool) -> None:
        if not self.gone:
            self._ends(reset=reset)

    def _ends(self, *, reset: bool) -> None:
        self._reset = self._reset or reset
        network = self.network
        when = network.clock.now + network.delay()
        if not reset:
            when = max(when, self._arrives + 1)
        network.clock.at(max(when, self.cut_until if self.up else 0), self.fin)

    def fin(self) -> None:
        """The broker's end closes: sends fail from here on, and the descriptor is free for the next connection."""
        if self.gone:
            return
        self.gone = True
        network = self.network
        network.free_descriptor(self.descriptor)
        self.endpoint.closed(self)
        if self.up:
            network.clock.at(max(network.clock.now + network.delay(), self.cut_until), self.peer_notices)

    def fin_with_loss(self) -> None:
        """The broker's process is gone, and what was under way in both directions."""
        self._reset = True
        self.fin()

    def peer_notices(self) -> None:
        """The peer's end closes, when whoever has it can look."""
        if not self.up:
            return
        if self.owner.frozen:
            self.network.clock.after(50 * MS, self.peer_notices)
            return
        self.up = False
        self.owner.on_closed(self)

    # --- The broker's side

    def deliver(self, frames: tuple[Any, ...]) -> None:
        """The broker has sent; it arrives, or goes with the connection."""
        self.unread += 1
        network = self.network
        when = max(network.clock.now + network.delay(), self._delivers + 1, self.cut_until)
        self._delivers = when
        network.clock.at(when, self._read, frames)

    def _read(self, frames: tuple[Any, ...]) -> None:
        if not self.up or self._reset:
            self.network.vanished += 1
        elif self.owner.frozen or not self.reading:
            self.backlog.append(frames)
        else:
            self.unread -= 1
            self.owner.heard(self, frames)


class Endpoint:
    """What routers and the pull have in common: connections, and a fair queue of those with something to read."""

    def __init__(self, network: Network, role: str) -> None:
        self.role = role
        self.network = network
        self.ready: deque[Wire] = deque()
        self.wires: dict[bytes, Wire] = {}
        self.handshakes_failed = 0
        self.accepts_failed = 0
        self._gone: list[Wire] = []
        self._ids = 0

    def connected(self, wire: Wire) -> None:
        """A connection is new here: it gets the next routing id."""
        self._ids += 1
        wire.routing_id = b"\0" + self._ids.to_bytes(4, "big")
        self.wires[wire.routing_id] = wire

    def closed(self, wire: Wire) -> None:
        """A connection has gone: sends fail at once, the monitor says so a little later."""
        self.wires.pop(wire.routing_id, None)
        network = self.network
        network.clock.after(network.news_delay(), self._told, wire)

    def _told(self, wire: Wire) -> None:
        self._gone.append(wire)
        self.network.wake(self.role)

    def arrived(self, wire: Wire, message: tuple[Any, ...]) -> None:
        """A message can be read."""
        if not wire.inbox:
            self.ready.append(wire)
        wire.inbox.append(message)
        self.network.wake(self.role)

    def _next(self) -> tuple[Wire, tuple[Any, ...]]:
        ready = self.ready
        wire = ready[0]
        message = wire.inbox.popleft()
        if not wire.inbox:
            ready.popleft()
        elif len(ready) > 1:
            ready.rotate(-1)
        return wire, message

    @property
    def readable(self) -> bool:
        """A poll would return."""
        return bool(self.ready) or bool(self._gone)

    @property
    def has_news(self) -> bool:
        """The monitor's part of that: it wakes the poll also when requests do not."""
        return bool(self._gone)


class Router(Endpoint):
    """The clients' or the workers' endpoint, as the loop sees it (`server.RouterLike`)."""

    def __init__(self, network: Network, role: str, witness: Witness) -> None:
        super().__init__(network, role)
        self._witness = witness
        self._refused: list[Refused] = []
        self._native: list[NativeRun] = []

    def receive(self, messages_max: int, bytes_max: int) -> list[tuple[Peer, Path, Body]]:
        """Up to so many messages of both dialects; stops after so many bytes of bodies.

        On the wire lie `(path, body)` of 2010, `(path, version, header, body)`, and what cannot be taken as
        `(None, path, reason)` or, natively, `(None, path, reason, version, header)`.
        """
        messages: list[tuple[Peer, Path, Body]] = []
        taken = 0
        for _ in range(messages_max):
            if not self.ready or taken >= bytes_max:
                break
            wire, message = self._next()
            peer = wire.peer
            if peer is None:
                peer = Peer(b"" if wire.gone else wire.routing_id, wire.descriptor, wire.socket_type)
                wire.peer = None if wire.gone else peer
            if message[0] is None:
                refused = Refused(peer, *message[1:])
                self._refused.append(refused)
                self._witness.refused(wire, refused)
                continue
            taken += len(message[-1])
            if len(message) == 4:
                said: Native = (peer, *message)
                self._native.append(said)
                self._witness.native(wire, said)
                continue
            path, body = message
            messages.append((peer, path, body))
            if self.role == "clients":
                self._witness.request(wire, path, body)
            else:
                self._witness.ask(peer, path)
        return messages

    def send(self, messages: list[tuple[Any, ...]]) -> list[tuple[int, int]]:
        """Sends each (peer, path, frame, ...) by its routing id; returns what was not sent, and why."""
        failures: list[tuple[int, int]] = []
        for index, message in enumerate(messages):
            wire = self.wires.get(message[0].routing_id)
            code = 0
            if wire is None:
                code = errno.EHOSTUNREACH
            elif wire.unread >= wire.unread_max:
                code = errno.EAGAIN
            else:
                wire.deliver(message[1:])
            if code:
                failures.append((index, code))
            self._witness.sent(self.role, wire, message, code)
        return failures

    def take_native(self) -> list[NativeRun]:
        """The native messages that `receive` has read since the last call."""
        native, self._native = self._native, []
        return native

    def take_refused(self) -> list[Refused]:
        """What was read since the last call and could not be taken."""
        refused, self._refused = self._refused, []
        if refused:
            self._witness.heeded(self.role, refused)
        return refused

    def take_lost(self) -> list[Peer]:
        """The peers that have gone since the last call. A connection that never spoke has no peer."""
        lost: list[Peer] = []
        for wire in self._gone:
            if wire.peer is not None and not wire.lost:
                wire.lost = True
                wire.peer.routing_id = b""
                lost.append(wire.peer)
        self._gone.clear()
        self._witness.lost(self.role, lost)
        return lost

    def forget(self, peer: Peer) -> None:
        """A send said that `peer` is gone."""
        wire = self.wires.get(peer.routing_id)
        if wire is not None and wire.peer is peer:
            wire.lost = True
        peer.routing_id = b""
        self._witness.lost(self.role, (peer,))


class Pull(Endpoint):
    """The answers' endpoint, as the loop sees it (`server.PullLike`)."""

    def __init__(self, network: Network, witness: Witness) -> None:
        super().__init__(network, "answers")
        self._witness = witness

    def receive(self, messages_max: int, bytes_max: int = 1 << 62) -> list[tuple[Any, ...]]:
        """Up to so many messages as tuples of frames."""
        messages: list[tuple[Any, ...]] = []
        taken = 0
        self._gone.clear()  # a PULL tells nobody who has gone
        for _ in range(messages_max):
            if not self.ready or taken >= bytes_max:
                break
            _, frames = self._next()
            messages.append(frames)
            taken += sum(map(len, frames))
            self._witness.answer(frames)
        return messages


class Network:
    """All connections to one broker, which may crash and come back."""

    def __init__(self, clock: Clock, rng: random.Random, *, delay_ns: int, spread_ns: int) -> None:
        """A message takes `delay_ns` and up to `spread_ns` more; one in fifty takes ten times that."""
        self.clock = clock
        self.endpoints: dict[str, Endpoint] = {}
        self.wake: Callable[[str], None] = lambda _role: None
        """Called when an endpoint has become readable."""
        self.vanished = 0
        """Messages that went with their connections."""
        self._random = rng.random
        self._delay_ns = delay_ns
        self._spread_ns = spread_ns
        self._free: list[int] = []
        self._descriptors = 10

    def delay(self) -> int:
        """How long a message takes, nanoseconds."""
        luck = self._random()
        delay = self._delay_ns + int(luck * self._spread_ns)
        return delay * 10 if luck > 0.98 else delay

    def news_delay(self) -> int:
        """How long the monitor's news take, nanoseconds."""
        return int(self._random() * 2 * MS)

    def next_descriptor(self) -> int:
        """The lowest that is free, as the kernel does."""
        if self._free:
            return heapq.heappop(self._free)
        self._descriptors += 1
        return self._descriptors

    def free_descriptor(self, descriptor: int) -> None:
        """It may be given out again."""
        heapq.heappush(self._free, descriptor)

    def listen(self, endpoints: dict[str, Endpoint]) -> None:
        """A broker is there."""
        self.endpoints = endpoints

    def connect(self, role: str, owner: Owner, socket_type: str, unread_max: int = 1_000) -> Wire | None:
        """A new connection; None while there is no broker. `unread_max` bounds what the peer leaves unread."""
        endpoint = self.endpoints.get(role)
        if endpoint is None:
            return None
        wire = Wire(self, endpoint, owner, socket_type, unread_max)
        endpoint.connected(wire)
        return wire

    def crash(self) -> None:
        """The broker is gone, with everything that was under way to it."""
        endpoints, self.endpoints = self.endpoints, {}
        self.wake = lambda _role: None
        for endpoint in endpoints.values():
            for wire in list(endpoint.wires.values()):
                wire.fin_with_loss()
        self._free, self._descriptors = [], 10
