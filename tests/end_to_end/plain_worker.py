"""A whole worker on zmq and msgpack alone: `plain_worker.py WORKERS [JOBS_AT_A_TIME [JOBS_AHEAD]]` echoes its jobs."""

import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgpack
import zmq

SIGNATURE = b"\xffrelet/\x01"


class Worker:
    """Does jobs in threads, by `handler(frames) -> frames`, whatever becomes of connections and brokers meanwhile."""

    def __init__(self, endpoint: str, handler: Any, capacity: int = 1, ahead: int = 1) -> None:
        self.endpoint, self.handler, self.capacity, self.places = endpoint, handler, capacity, capacity + ahead
        self.incarnation, self.pool = os.urandom(16), ThreadPoolExecutor(capacity)
        self.held: dict[bytes, tuple[int, list[bytes]]] = {}  # token -> (number of the hand-over, body), oldest first
        self.running: dict[bytes, Future[list[bytes]]] = {}  # by token
        self.reports: dict[int, Any] = {}  # that are not acknowledged: number -> (header, body)
        self.handed = self.reported = self.sent = 0  # numbers: the last hand-over, report, report on this connection
        self.bell, self.ring = os.pipe()  # a job that ends also ends the wait
        self.heartbeat, self.liveness = 1.0, 4.0  # seconds, until the broker says better
        self.hello(connect=True)

    def hello(self, *, connect: bool = False) -> None:
        if connect:
            self.socket: Any = zmq.Context.instance().socket(zmq.DEALER)
            self.socket.connect(self.endpoint)
            self.heard = time.monotonic()
        self.welcome = False
        running = [*self.running, *(header["token"] for header, _ in self.reports.values())]
        claims = {"running": running, "held": [*self.held], "features": ["starts", "recalls"]}
        self.say({"t": "hello", "incarnation": self.incarnation, **claims})

    def say(self, header: dict[str, Any], body: Any = ()) -> None:
        self.said, self.told = time.monotonic(), self.numbers() if self.welcome else {}
        self.socket.send_multipart([SIGNATURE, msgpack.packb({**header, **self.told}), *body])

    def numbers(self) -> dict[str, int]:  # how many jobs may come; up to where they were started or given back
        waiting = [number for number, _ in self.held.values()][self.capacity - len(self.running) :]
        started = waiting[0] - 1 if waiting else self.handed
        return {"credit": self.handed + self.places - len(self.running) - len(self.held), "started": started}

    def report(self, word: str, token: bytes, body: Any = (), **fields: str) -> None:
        self.reported += 1
        self.reports[self.reported] = {"t": word, "token": token, "n": self.reported, **fields}, body

    def turn(self, wait: float = 1.0) -> None:
        if self.bell in zmq.select([self.socket, self.bell], [], [], min(wait, self.heartbeat / 2))[0]:
            os.read(self.bell, 4096)
        now = time.monotonic()
        if now - self.heard > self.liveness:  # or it slept: what it holds is somebody else's by now
            self.held.clear()
            self.socket.close(linger=0)
            self.hello(connect=True)
        while self.socket.poll(0):
            self.heard = now
            signature, header, *body = self.socket.recv_multipart()
            self.take(msgpack.unpackb(header) if signature == SIGNATURE else {"t": "of another version"}, body)
        for token in [token for token, future in self.running.items() if future.done()]:
            if error := (future := self.running.pop(token)).exception():
                self.report("fail", token, kind=type(error).__name__, text=str(error))
            else:
                self.report("complete", token, future.result())
        for number in [number for number in self.reports if self.welcome and number > self.sent]:
            self.sent = number
            self.say(*self.reports[number])
        if self.welcome and (self.told != self.numbers() or now - self.said > self.heartbeat):
            self.say({"t": "heartbeat" if self.told == self.numbers() else "ask"})
        elif not self.welcome and now - self.said > self.heartbeat:
            self.hello()  # the first one was lost
        for token in list(self.held)[: self.capacity - len(self.running)] if self.welcome else ():
            self.running[token] = self.pool.submit(self.handler, self.held.pop(token)[1])  # it was said to be started
            self.running[token].add_done_callback(lambda _: os.write(self.ring, b"!"))

    def take(self, said: dict[str, Any], body: list[bytes]) -> None:
        word, safe = said["t"], said.get("ack", said.get("received", 0))
        self.reports = {number: report for number, report in self.reports.items() if number > safe}
        for token in said.get("tokens", said.get("lost", [said.get("token")])):  # of a recall, a welcome, a cancel
            if self.held.pop(token, None) and word == "recall":
                self.report("hand_back", token)
        if word == "job" and self.welcome:  # what was sent before the welcome was not claimed, and is not ours
            self.handed = said["seq"]
            self.held[said["token"]] = said["seq"], body
        elif word == "welcome":
            self.welcome, self.handed, self.sent = True, said.get("handed", 0), 0
            self.heartbeat, self.liveness = said["heartbeat_ms"] / 1000, said["liveness_ms"] / 1000
        elif word == "error" and said["code"] == "no_session" and self.welcome:
            self.hello()


if __name__ == "__main__":
    worker = Worker(sys.argv[1], lambda body: body, *map(int, sys.argv[2:]))
    while True:
        worker.turn()
