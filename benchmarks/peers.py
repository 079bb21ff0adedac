"""Workers for the deaths: plain pyzmq, as a stranger would write them, in processes that can be killed or frozen.

`python -m benchmarks.peers victim REQ|DEALER WORKERS` connects and says "ready"; at the line "ask" on standard input it
asks once, says "got" when it has its job, and holds it.

`python -m benchmarks.peers crowd NUMBER WORKERS` is so many workers (DEALER) in one process, each of which takes a job
and holds it; says "busy" when all have one.

`python -m benchmarks.peers native JOBS STARTED WORKERS` speaks the native dialect: it takes so many jobs, says that it
has started the first STARTED of them, says "holds" when the broker has heard that, and does nothing more.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import zmq

SIGNATURE = b"\xffrelet/\x01"

Header = dict[str, Any]


class PeerError(RuntimeError):
    """The broker said something else than what was waited for."""


class Native:
    """One connection to a broker, in the native dialect (docs/protocol.md), welcomed. `welcome` is what it was told.

    Raises PeerError when the broker says something else, zmq.Again when it says nothing within the socket's patience.
    """

    def __init__(self, socket: "zmq.Socket[bytes]", **hello: Any) -> None:
        self.socket = socket
        self.say("hello", **hello)
        self.welcome, _ = self.wait_for("welcome")

    @classmethod
    def worker(cls, socket: "zmq.Socket[bytes]") -> "Native":
        """A worker that says what it has started."""
        return cls(socket, incarnation=os.urandom(16), features=["starts"], agent="a stranger")

    def say(self, name: str, *body: bytes, **fields: Any) -> None:
        """One message."""
        self.socket.send_multipart([SIGNATURE, msgspec.msgpack.encode({"t": name, **fields}), *body])

    def hear(self, name: str) -> tuple[Header, list[bytes]] | None:
        """The next message, if it is called so; None if it is an acknowledgement or a heartbeat."""
        signature, packed, *body = self.socket.recv_multipart()
        if signature != SIGNATURE:
            raise PeerError("the broker does not answer in the native dialect")
        header = msgspec.msgpack.decode(packed)
        if header["t"] == name:
            return header, body
        if header["t"] in {"ack", "heartbeat"}:
            return None
        raise PeerError(f"waited for {name}, and was told {header}")

    def wait_for(self, name: str) -> tuple[Header, list[bytes]]:
        """The next message of that name."""
        while True:
            if (heard := self.hear(name)) is not None:
                return heard


def victim(kind: str, workers: str) -> None:
    """Hold one job until killed."""
    socket = zmq.Context().socket(getattr(zmq, kind))
    socket.connect(workers)
    print("ready", flush=True)
    sys.stdin.readline()
    socket.send_multipart([b"x"] if kind == "REQ" else [b"", b"x"])
    socket.recv_multipart()
    print("got", flush=True)
    time.sleep(3600)


def crowd(number: str, workers: str) -> None:
    """Hold `number` jobs, one for each connection, until killed."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, int(number) + 10)
    sockets = [context.socket(zmq.DEALER) for _ in range(int(number))]
    for socket in sockets:
        socket.connect(workers)
        socket.send_multipart([b"", b"x"])
    for socket in sockets:
        socket.recv_multipart()
    print("busy", flush=True)
    time.sleep(3600)


def native(jobs: str, started: str, workers: str) -> None:
    """Take jobs and start some of them, then nothing until killed."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(workers)
    peer = Native.worker(socket)
    peer.say("ask", credit=int(jobs))
    for _ in range(int(jobs)):
        peer.wait_for("job")
    peer.say("heartbeat", credit=int(jobs), started=int(started))
    peer.wait_for("heartbeat")
    print("holds", flush=True)
    time.sleep(3600)


KINDS: dict[str, Callable[..., None]] = {"victim": victim, "crowd": crowd, "native": native}

if __name__ == "__main__":
    KINDS[sys.argv[1]](*sys.argv[2:])
