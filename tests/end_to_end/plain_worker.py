"""A whole worker of the native dialect on zmq and msgpack alone, written from docs/protocol.md.

    plain_worker.py WORKERS [JOBS_AT_A_TIME [JOBS_AHEAD]]        answers each job with its body

Jobs run in threads, so that the worker is heard while they do; a job is held until there is a thread for it.
"""

import contextlib
import os
import socket
import sys
import time
from threading import Thread
from typing import Any

import msgpack
import zmq

SIGNATURE = b"\xffrelet/\x01"


class Worker:
    """Does jobs with `handler(frames) -> frames`, whatever becomes of connections and brokers meanwhile."""

    def __init__(self, endpoint: str, handler: Any, capacity: int = 1, ahead: int = 1) -> None:
        self.endpoint, self.handler, self.capacity, self.ahead = endpoint, handler, capacity, ahead
        self.incarnation, self.socket = os.urandom(16), None
        self.held: list[Any] = []  # (token, number of the hand-over, body)
        self.running: set[bytes] = set()  # tokens
        self.reports: dict[int, Any] = {}  # that are not acknowledged: number -> (header, body)
        self.handed = self.reported = self.sent = 0  # numbers: the last hand-over, report, report on this connection
        self.ended: list[Any] = []  # what the threads are ready with: the arguments of a report
        self.bell, self.ring = socket.socketpair()  # a thread that is ready ends the wait
        self.heartbeat, self.liveness = 1.0, 4.0  # seconds, until the broker says better
        self.connect()

    def connect(self) -> None:
        if self.socket is not None:
            self.socket.close(linger=0)
        self.socket: Any = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.connect(self.endpoint)
        self.heard = self.looked = time.monotonic()
        self.hello()

    def hello(self) -> None:
        self.welcome, features, held = False, ["starts", "recalls"], [token for token, _, _ in self.held]
        running = [*self.running, *(header["token"] for header, _ in self.reports.values())]
        claims = {"running": running, "held": held, "features": features}
        self.send({"t": "hello", "incarnation": self.incarnation, **claims})

    def send(self, header: dict[str, Any], body: Any = ()) -> None:
        self.said = time.monotonic()
        with contextlib.suppress(zmq.Again):  # nobody takes it: so nobody will be heard, and all will be said again
            self.socket.send_multipart([SIGNATURE, msgpack.packb(header), *body], zmq.DONTWAIT)

    def numbers(self) -> dict[str, int]:  # how many jobs may come; up to where all were started or given back
        free = max(0, self.capacity + self.ahead - len(self.running) - len(self.held))
        return {"credit": self.handed + free, "started": self.held[0][1] - 1 if self.held else self.handed}

    def report(self, word: str, token: bytes, body: Any = (), **fields: Any) -> None:
        self.reported += 1
        self.reports[self.reported] = {"t": word, "token": token, "n": self.reported, **fields}, body

    def turn(self, wait: float = 1.0) -> None:
        now, slept, self.looked = time.monotonic(), time.monotonic() - self.looked, time.monotonic()
        if slept > self.liveness:  # what it holds is somebody else's by now
            self.held.clear()
            self.hello()
        elif now - self.heard > self.liveness:
            self.connect()
        while self.welcome and self.held and len(self.running) < self.capacity:
            token, _, body = self.held.pop(0)
            self.running.add(token)
            Thread(target=self.work, args=(token, body), daemon=True).start()
        for number, (header, body) in self.reports.items() if self.welcome else ():
            if number > self.sent:
                self.sent, self.told = number, self.numbers()
                self.send({**header, **self.told}, body)
        if self.welcome and (self.numbers() != self.told or now - self.said > self.heartbeat):
            self.send({"t": "ask" if self.told != self.numbers() else "heartbeat", **self.numbers()})
            self.told = self.numbers()
        elif not self.welcome and now - self.said > self.heartbeat:
            self.hello()  # the first one was lost
        if self.bell in zmq.select([self.socket, self.bell], [], [], min(wait, self.heartbeat / 2))[0]:
            self.bell.recv(4096)
        while self.ended:
            self.running.discard(self.ended[0]["token"])
            self.report(**self.ended.pop(0))
        while self.socket.poll(0):
            self.heard = time.monotonic()
            signature, header, *body = self.socket.recv_multipart()
            self.take(msgpack.unpackb(header) if signature == SIGNATURE else {"t": "of another version"}, body)

    def work(self, token: bytes, body: list[bytes]) -> None:
        try:
            self.ended.append({"word": "complete", "token": token, "body": self.handler(body)})
        except Exception as error:  # noqa: BLE001 - whatever it is, the broker is told
            self.ended.append({"word": "fail", "token": token, "kind": type(error).__name__, "text": str(error)})
        self.ring.send(b"!")

    def take(self, said: dict[str, Any], body: list[bytes]) -> None:
        word, safe = said["t"], said.get("ack", said.get("received", 0))
        self.reports = {number: report for number, report in self.reports.items() if number > safe}
        if word == "job" and self.welcome:  # what was sent before the welcome was not claimed, and is not ours
            self.handed = said["seq"]
            self.held.append((said["token"], said["seq"], body))
        elif word == "welcome":
            self.welcome, self.handed, self.sent, self.told = True, said.get("handed", 0), 0, {}
            self.heartbeat, self.liveness = said["heartbeat_ms"] / 1000, said["liveness_ms"] / 1000
            self.held = [it for it in self.held if it[0] not in said.get("lost", ())]
        elif word in ("recall", "cancel"):
            for job in [it for it in self.held if it[0] in said.get("tokens", [said.get("token")])]:
                self.held.remove(job)
                self.report("hand_back", job[0]) if word == "recall" else None
        elif word == "error" and said["code"] == "no_session" and self.welcome:
            self.hello()


if __name__ == "__main__":
    worker = Worker(sys.argv[1], lambda body: body, *map(int, sys.argv[2:]))
    while True:
        worker.turn()
