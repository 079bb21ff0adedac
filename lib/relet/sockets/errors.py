"""What can go wrong with a named socket. Each text names the sockets that its manager has.

Arguments that cannot be meant are no matter of these: they are a `TypeError` or a `ValueError`, as everywhere.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Protocol


class HasNames(Protocol):
    """A manager, as its errors know it."""

    @property
    def names(self) -> list[str]:
        """The names of its sockets."""


class SocketError(Exception):
    """The base of the errors of this room.

    Args:
        manager: whose socket it is.
        socket_name: its name.
        what: what happened, and what to change.
    """

    def __init__(self, manager: HasNames, socket_name: str, what: str) -> None:
        super().__init__(f"{manager!r} {what}")
        self.socket_name = socket_name
        """The name that the call was given."""


class SocketAlreadyExists(SocketError):
    """There is a socket of this name, and another was to be made."""

    def __init__(self, manager: HasNames, socket_name: str, but: str = "") -> None:
        what = f"has {socket_name!r} already{but}: take another name, or close that one first"
        super().__init__(manager, socket_name, what)


class SocketNotFound(SocketError):
    """There is no socket of this name: it was never made, or it was closed."""

    def __init__(self, manager: HasNames, socket_name: str) -> None:
        close = get_close_matches(socket_name, manager.names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"make it first: create({socket_name!r}, ...)"
        super().__init__(manager, socket_name, f"has no {socket_name!r}; {hint}")


class SocketBindError(SocketError):
    """A socket could not be bound: the address cannot be meant, cannot be had, or belongs to somebody."""


class SocketConnectError(SocketError):
    """A socket could not be connected, or disconnected from where it never was.

    That nobody is bound at the address is no error: libzmq goes on trying.
    """


class UnreadableMessage(SocketError):
    """A peer sent what the serializer, or the shape of an event, does not allow.

    The message is gone, the socket is fine.

    Args:
        manager: whose socket it is.
        socket_name: its name.
        why: what is wrong with it.
        frames: what arrived.
    """

    def __init__(self, manager: HasNames, socket_name: str, why: str, frames: list[bytes]) -> None:
        super().__init__(manager, socket_name, f"received on {socket_name!r} what cannot be read: {why}")
        self.frames = frames
        """What arrived."""
