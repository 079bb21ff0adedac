"""Native clients: who has asked, what each was told, and what it has not said to have received.

An asker is a return path on a connection, from its hello until the connection goes. Outcomes are numbered within it,
and whatever the client says carries the number up to which it has them: so a repetition is harmless, and a receipt
costs no message of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from relet.core.job import Job
from relet.messages import Path, Peer

UNRECEIVED_LOOK: Final = 100
"""Outcomes that one client is told between two looks at those that it has not received."""


class Asker:
    """One return path on one connection of a native client."""

    __slots__ = (
        "follows",
        "gone",
        "gone_ns",
        "look_at",
        "path",
        "peer",
        "receipt",
        "received",
        "told",
        "unreceived",
        "watched",
    )

    def __init__(self, peer: Peer, path: Path, *, follows: bool) -> None:
        self.peer = peer
        self.path = path
        self.follows = follows
        """Whether it hears partial results and progress."""
        self.gone = False
        self.gone_ns = 0
        """Since when."""
        self.told = 0
        """Number of the last outcome that it was told, or of another answer that was dropped after it."""
        self.received = 0
        """Outcomes up to this number it has, as it says."""
        self.receipt = 0
        """The largest such number of the messages in hand."""
        self.unreceived: deque[tuple[int, Job]] = deque()
        """(number, job) of outcomes that it was told and has not said to have received, oldest first."""
        self.look_at = UNRECEIVED_LOOK
        """At the outcome of this number it is looked whether those that it has not received are kept at all."""
        self.watched: set[Job] = set()
        """Open jobs that end when nobody waits for them any more."""

    def __repr__(self) -> str:
        return f"<Asker {self.peer} {self.path.hex()} told={self.told}>"


class Askers:
    """All native clients, by connection and return path."""

    __slots__ = ("_paths_max", "count", "parting", "routes")

    def __init__(self, *, paths_max: int) -> None:
        self._paths_max = paths_max
        self.routes: dict[Peer, dict[Path, Asker]] = {}
        """By connection and return path."""
        self.parting: dict[Peer, dict[Path, Asker]] = {}
        """Likewise those whose connection has gone, while what they said before may lie unread, a receipt among it."""
        self.count = 0

    def __iter__(self) -> Iterator[Asker]:
        for paths in self.routes.values():
            yield from paths.values()

    def on(self, peer: Peer, path: Path) -> Asker | None:
        """Who speaks there, if somebody has said hello."""
        paths = self.routes.get(peer)
        return None if paths is None else paths.get(path)

    def arrive(self, peer: Peer, path: Path, *, follows: bool) -> tuple[Asker | None, Asker | None]:
        """Somebody says hello there. Returns who begins (None: no room), and who ends by it."""
        paths = self.routes.get(peer, {})
        before = paths.pop(path, None)
        if before is not None:
            self.count -= 1
            if not path:
                peer.direct = None
        if len(paths) >= self._paths_max:
            return None, before
        asker = Asker(peer, path, follows=follows)
        self.routes.setdefault(peer, paths)[path] = asker
        if not path:
            peer.direct = asker
        self.count += 1
        return asker, before

    def behind(self, peer: Peer) -> list[Asker]:
        """All on one connection, who said hello first first."""
        return list(self.routes.get(peer, {}).values())

    def leave(self, asker: Asker) -> None:
        """Nobody speaks there any more, as far as we know."""
        paths = self.routes.get(asker.peer)
        if paths is not None and paths.get(asker.path) is asker:
            del paths[asker.path]
            self.count -= 1
            if not asker.path:
                asker.peer.direct = None

    def lost(self, peer: Peer) -> list[Asker]:
        """The connection has gone, and every client on it. Those with something to receipt are parting."""
        gone = self.routes.pop(peer, {})
        peer.direct = None
        self.count -= len(gone)
        owing = {path: asker for path, asker in gone.items() if asker.unreceived}
        if owing:
            self.parting[peer] = owing
        return list(gone.values())

    def parted(self, peer: Peer) -> list[Asker]:
        """All that was said on this connection has been heard."""
        return list(self.parting.pop(peer, {}).values())
