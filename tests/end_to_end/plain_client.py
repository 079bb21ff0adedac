"""A whole client on zmq and msgpack alone: `plain_client.py CLIENTS < jobs` prints an outcome for each line."""

import contextlib
import os
import sys
import time
from typing import Any

import msgpack
import zmq

SIGNATURE = b"\xffrelet/\x01"
NEVER = float("inf")


class Client:
    """Submits jobs on some terms and waits for their outcomes, whatever becomes of connections and brokers."""

    def __init__(self, endpoint: str, **terms: Any) -> None:
        self.endpoint, self.terms = endpoint, terms
        self.open: dict[bytes, list[Any]] = {}  # request id -> [body, first asked when, to be asked (again) when]
        self.outcomes: dict[bytes, tuple[dict[str, Any], list[bytes]]] = {}
        self.received = self.receipt = 0  # outcomes of this session: the last that came, the last that was receipted
        self.heartbeat, self.liveness = 1.0, 4.0  # seconds, until the broker says better
        self.socket: Any = None
        self.connect()

    def connect(self) -> None:
        if self.socket is not None:
            self.socket.close(linger=0)
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.connect(self.endpoint)
        self.heard = time.monotonic()
        self.hello()

    def hello(self) -> None:
        self.welcome = False
        self.say({"t": "hello", "agent": "plain_client"})

    def say(self, header: dict[str, Any], body: tuple[bytes, ...] = ()) -> None:
        self.said = time.monotonic()
        with contextlib.suppress(zmq.Again):  # nobody takes it: so nobody will be heard, and all will be said again
            self.socket.send_multipart([SIGNATURE, msgpack.packb(header), *body], zmq.DONTWAIT)

    def submit(self, *body: bytes, name: bytes = b"") -> bytes:
        name = name or os.urandom(16)
        self.open[name] = [body, None, 0.0]
        return name  # the request id

    def turn(self, wait: float = 0.05) -> None:
        now = time.monotonic()
        if now - self.heard > self.liveness:
            self.connect()
        for name, request in self.open.items() if self.welcome else ():
            body, first, when = request
            if when <= now:
                request[1:] = now if first is None else first, NEVER
                age_ms = 0 if first is None else max(1, round((now - first) * 1000))
                self.receipt = self.received
                self.say({"t": "submit", "id": name, "age_ms": age_ms, "received": self.received, **self.terms}, body)
        if not self.welcome and now - self.said > self.heartbeat:
            self.hello()  # the first one was lost
        elif self.welcome and (now - self.said > self.heartbeat or self.received - self.receipt >= 100):
            self.receipt = self.received
            self.say({"t": "heartbeat", "received": self.received})
        if self.socket.poll(wait * 1000):
            self.heard = time.monotonic()
        while self.socket.poll(0):
            signature, header, *body = self.socket.recv_multipart()
            if signature == SIGNATURE:
                self.take(msgpack.unpackb(header), body)

    def take(self, said: dict[str, Any], body: list[bytes]) -> None:
        if said["t"] == "welcome":  # a new session, which begins at 0 and knows nothing of what is open
            self.welcome, self.received, self.receipt = True, 0, 0
            self.heartbeat, self.liveness = said["heartbeat_ms"] / 1000, said["liveness_ms"] / 1000
            for request in self.open.values():
                request[2] = 0.0
        elif said["t"] == "outcome":
            self.received = said["n"]
            if self.open.pop(said["id"], None):
                self.outcomes[said["id"]] = said, body
        elif said["t"] == "submitted":
            for job in said["jobs"]:
                if job.get("retry_ms") and job["id"] in self.open:
                    self.open[job["id"]][2] = time.monotonic() + job["retry_ms"] / 1000
                elif job.get("code") and self.open.pop(job["id"], None):
                    self.outcomes[job["id"]] = {"state": "refused", "reason": job["code"], **job}, []
        elif said["t"] == "error" and said["code"] == "no_session" and self.welcome:
            self.hello()  # while that is not answered, more such errors say nothing new


if __name__ == "__main__":
    client = Client(sys.argv[1])
    names = [client.submit(line.rstrip(b"\n")) for line in sys.stdin.buffer]
    while client.open:
        client.turn()
    for said, body in map(client.outcomes.__getitem__, names):
        print(said.get("state", "completed"), said.get("reason", ""), *body, flush=True)
