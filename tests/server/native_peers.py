"""Native peers as bare as they can be: a DEALER, a path in front, and headers by the structs of `relet.messages`.

They keep no numbers and draw no conclusions; a test says every message itself.
"""

from __future__ import annotations

import os
from typing import Any, TypeVar

import msgpack
import zmq

from relet.dialects import native
from relet.messages import (
    SIGNATURE,
    VERSION,
    Ack,
    ClientHello,
    Dispatch,
    Outcome,
    Said,
    Submit,
    Welcome,
    WorkerAsk,
    WorkerHello,
)

from .conftest import Site

Any_ = TypeVar("Any_", bound=Said)


def name() -> bytes:
    """A request id or an incarnation."""
    return os.urandom(16)


class Native:
    """One return path on one connection."""

    def __init__(
        self, site: Site, role: str, socket: zmq.Socket[bytes] | None = None, path: tuple[bytes, ...] = ()
    ) -> None:
        self.site = site
        self.role = role
        self.socket = socket or site.connect(zmq.DEALER, role)
        self.path = path
        self.welcome: Welcome | None = None
        self._decode = native.to_client if role == "clients" else native.to_worker

    def say(self, said: Said | dict[str, Any] | bytes, *body: bytes, version: int = VERSION) -> None:
        """A header - a struct, a dict for msgpack, or raw bytes - and a body."""
        if isinstance(said, dict):
            header = msgpack.packb(said)
        else:
            header = said if isinstance(said, bytes) else native.encode(said)
        if not self.socket.poll(0, zmq.POLLOUT):  # what it sends fills its queue: the broker must read first
            self.site.until(lambda: self.socket.poll(0, zmq.POLLOUT))
        self.socket.send_multipart([*self.path, SIGNATURE[:-1] + bytes([version]), header, *body])

    def take(self, frames: list[bytes]) -> tuple[Any, list[bytes]]:
        """What a message says, and its body."""
        at = len(self.path)
        assert tuple(frames[:at]) == self.path
        assert frames[at] == SIGNATURE
        return self._decode(VERSION, frames[at + 1]), frames[at + 2 :]

    def hear(self, kind: type[Any_]) -> tuple[Any_, list[bytes]]:
        """The next message, which is of that kind, and its body."""
        said, body = self.take(self.site.hear(self.socket))
        assert isinstance(said, kind), said
        return said, body

    def hear_all(self) -> list[tuple[Any, list[bytes]]]:
        """What comes while the broker turns for a moment."""
        heard = []
        while not self.site.silent(self.socket):
            while self.socket.poll(0):
                heard.append(self.take(self.socket.recv_multipart()))
        return heard


class Client(Native):
    """A client that has said hello."""

    def __init__(self, site: Site, *, features: tuple[str, ...] = (), hello: bool = True, **options: Any) -> None:
        super().__init__(site, "clients", **options)
        if hello:
            self.say(ClientHello(features=features))
            self.welcome, _ = self.hear(Welcome)

    def submit(self, *body: bytes, **fields: Any) -> bytes:
        """One job; its request id."""
        fields.setdefault("id", name())
        self.say(Submit(**fields), *body)
        return bytes(fields["id"])

    def outcome(self) -> tuple[Outcome, list[bytes]]:
        """The next message, which is one."""
        return self.hear(Outcome)


class Worker(Native):
    """A worker that has said hello, and perhaps its first credit."""

    def __init__(
        self,
        site: Site,
        credit: int = 0,
        *,
        features: tuple[str, ...] = ("starts", "recalls"),
        hello: bool = True,
        incarnation: bytes = b"",
        socket: zmq.Socket[bytes] | None = None,
        path: tuple[bytes, ...] = (),
        **fields: Any,
    ) -> None:
        super().__init__(site, "workers", socket, path)
        self.incarnation = incarnation or name()
        if hello:
            self.say(WorkerHello(incarnation=self.incarnation, features=features, **fields))
            self.welcome, _ = self.hear(Welcome)
        if credit:
            self.say(WorkerAsk(credit=credit))

    def job(self) -> tuple[Dispatch, list[bytes]]:
        """The next message but acknowledgements, which is one."""
        while True:
            said, body = self.hear(Said)
            if not isinstance(said, Ack):
                assert isinstance(said, Dispatch), said
                return said, body
