"""The far ends of the simulated network for the real libraries: what `transport.link.Link` is on a real one.

A `SimulatedLink` has the methods that a client's turns and a worker's lines call, connects again as libzmq would, and
wakes its owner instead of a poll. What the libraries send is laid on the wire as the broker's frame pump would have
read it, which is the one thing that is translated here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from relet.messages import SIGNATURE, VERSION, Body
from relet.testing.clock import MS, Clock
from relet.testing.network import Network, Wire
from relet.transport.attach import RECONNECT_INTERVAL_MS
from relet.transport.link import News
from relet.transport.plain import pack_path, unpack_path

_RECONNECT_NS: Final = RECONNECT_INTERVAL_MS * MS
_UNREAD_MAX: Final = 1 << 30
"""Messages of the broker that a peer may leave unread: nothing is lost on a bench that was not told to be."""


class SimulatedLink:
    """One connection to an endpoint of the broker, made again whenever it is lost.

    Args:
        clock: simulated.
        network: likewise.
        role: which endpoint: "clients", "workers" or "answers".
        socket_type: "DEALER" or "PUSH".
        wake: called when there is something to receive, or news.
    """

    def __init__(
        self, clock: Clock, network: Network, role: str, socket_type: str, wake: Callable[[], None]
    ) -> None:
        self.frozen = False
        """Whether what arrives stays in the socket, because its process does nothing."""
        self.twice = False
        """Whether everything is said two times."""
        self.connected = False
        self.due: int | None = None
        """When to look again though nothing came: never, because `wake` says so."""
        self._clock, self._network = clock, network
        self._role, self._socket_type = role, socket_type
        self._wake = wake
        self._wire: Wire | None = None
        self._inbox: list[tuple[bytes, ...]] = []
        self._news: list[News] = []
        self._lag_ns = 0
        self._serial = 0
        """Number of the connection, so that nothing planned for an earlier one happens to a later one."""
        self._open(0)

    # --- As `transport.link.Link`

    def receive(self, messages_max: int) -> list[tuple[bytes, ...]]:
        """What has arrived, each a tuple of frames."""
        taken, self._inbox = self._inbox[:messages_max], self._inbox[messages_max:]
        return taken

    def news(self, now: int) -> list[News]:  # noqa: ARG002 - as in a real one
        """What became of the connection since the last call."""
        news, self._news = self._news, []
        return news

    def send(self, messages: list[tuple[Any, ...]]) -> int:
        """All of them leave, however many there are."""
        wire = self._wire
        if wire is not None:
            for message in messages:
                laid = tuple(_flat(message)) if self._role == "answers" else _as_read(message)
                for _ in range(2 if self.twice else 1):
                    wire.send(laid)
        return len(messages)

    def rebuild(self, now: int, pause_ns: int | None = None) -> None:  # noqa: ARG002 - as in a real one
        """Another connection, with nothing that the old one held."""
        self.close()
        self._clock.after(pause_ns or 0, self._open, self._serial)

    def close(self, linger_ms: int = 0) -> None:  # noqa: ARG002 - what was sent always leaves
        """No connection any more, and none will be made."""
        self._serial += 1
        self.connected = False
        self._inbox.clear()
        self._news.clear()
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close(reset=False)

    def watched(self, *, writable: bool) -> list[tuple[Any, int]]:  # noqa: ARG002 - as in a real one
        """Nobody polls here."""
        return []

    # --- For who plays with it

    def delay(self, lag_ns: int) -> None:
        """What is sent from now on takes so much longer to arrive."""
        self._lag_ns = lag_ns
        if self._wire is not None:
            self._wire.lag_ns = lag_ns

    def breaks(self) -> None:
        """The connection is lost, with all that is under way on it."""
        if self._wire is not None:
            self._wire.breaks(reset=True)

    def freeze(self) -> None:
        """Nothing is read from now on."""
        self.frozen = True

    def is_found_dead(self) -> None:
        """The broker has waited in vain for a heartbeat of the connection."""
        if self.frozen and self._wire is not None:
            self._wire.fin()

    def thaw(self) -> None:
        """It is read again, and what has come meanwhile."""
        self.frozen = False
        if self._wire is not None:
            self._wire.resume()

    # --- As `network.Owner`

    def heard(self, wire: Wire, frames: tuple[Any, ...]) -> None:
        """A message of the broker has arrived."""
        if wire is self._wire:
            path, *rest = frames
            self._inbox.append((*unpack_path(path), *_flat(rest)))
            self._wake()

    def on_closed(self, wire: Wire) -> None:
        """The connection has gone, and this end has noticed."""
        if wire is self._wire:
            self._wire = None
            self._serial += 1
            if self.connected:
                self.connected = False
                self._news.append(News.LOST)
                self._wake()
            if self._socket_type == "PUSH" or not self._news:  # else its owner rebuilds it
                self._clock.after(_RECONNECT_NS, self._open, self._serial)

    # ---

    def _open(self, serial: int) -> None:
        if serial != self._serial:
            return
        wire = self._network.connect(self._role, self, self._socket_type, _UNREAD_MAX)
        if wire is None:  # no broker is there
            self._clock.after(_RECONNECT_NS, self._open, serial)
            return
        self._wire = wire
        wire.lag_ns = self._lag_ns
        self._clock.after(2 * self._network.delay(), self._shaken_hands, serial)

    def _shaken_hands(self, serial: int) -> None:
        if serial == self._serial:
            self.connected = True
            self._news.append(News.CONNECTED)
            self._wake()


def _flat(items: Any) -> list[bytes]:
    """Frames, with those out of tuples among them."""
    frames: list[bytes] = []
    for item in items:
        if type(item) is tuple:
            frames.extend(item)
        else:
            frames.append(item)
    return frames


def _as_read(message: tuple[Any, ...]) -> tuple[Any, ...]:
    """A message as it lies on the wire to a ROUTER (`network.Router.receive`)."""
    if message[0] == SIGNATURE:  # natively, straight from the library
        return b"", VERSION, message[1], _body(_flat(message[2:]))
    frames = _flat(message)
    cut = frames.index(b"")
    return pack_path(frames[:cut]), _body(frames[cut + 1 :])


def _body(frames: list[bytes]) -> Body:
    return frames[0] if len(frames) == 1 else tuple(frames)
