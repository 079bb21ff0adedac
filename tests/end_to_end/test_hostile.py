"""Any bytes from anybody, on every endpoint: the broker lives, and the honest peers beside it lose nothing."""

from __future__ import annotations

import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import zmq

from .conftest import LIMIT_S, BrokerProgram, Place, hear

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def ready(kind: bytes) -> bytes:
    """The READY command of ZMTP 3.0 for one kind of socket (rfc.zeromq.org/spec/23)."""
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    return b"\x04" + bytes([len(body)]) + body


def garbage(dice: random.Random) -> bytes:
    """Bytes that a stranger might send: noise, other protocols, half handshakes, whole ones and then noise."""
    noise = dice.randbytes(dice.choice([0, 1, 9, 64, 300, 5_000]))
    kind = dice.choice([b"REQ", b"DEALER", b"PUSH", b"SUB", b"NONSENSE", b"X" * 200])
    return dice.choice(
        [
            noise,
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00" + noise,
            GREETING[: dice.randrange(64)],
            GREETING + noise,
            GREETING.replace(b"NULL", b"HULL") + noise,
            GREETING + ready(kind)[: dice.randrange(40)],
            GREETING + ready(kind) + noise,
            GREETING + ready(b"REQ") + b"\x00" + bytes([dice.randrange(256)]) + noise,
            GREETING + ready(b"DEALER") + b"\x01\x00\x00\x02hi" * dice.randrange(1, 400),
            GREETING + ready(b"PUSH") + b"\x02" + dice.randbytes(8),
        ]
    )


def message(dice: random.Random) -> list[bytes]:
    """A multipart message of any shape: ids of odd lengths, no frame empty or all, many frames."""
    shapes = [[b""], [b"", b""], [b"x"], [b"x" * 15, b"y"], [b"", b"x" * 17], [b"x" * 16, b"z"], [b""] * 60]
    if dice.random() < 0.4:
        return dice.choice(shapes)
    return [dice.randbytes(dice.choice([0, 0, 1, 5, 16, 255, 3_000])) for _ in range(dice.choice([1, 2, 3, 9, 200]))]


@contextmanager
def enemies(place: Place, broker: BrokerProgram, seed: int) -> Iterator[list[int]]:
    """Raw connections and ZeroMQ peers of every kind that send nonsense to all endpoints; yields how many rounds."""
    rounds = [0, 0]
    stop = threading.Event()

    def raw() -> None:
        dice = random.Random(seed)
        while not stop.is_set():
            port = int(broker.endpoints[dice.choice(["clients", "workers", "answers"])].rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                try:
                    connection.sendall(garbage(dice))
                    if dice.random() < 0.3:
                        connection.settimeout(0.01)
                        connection.recv(100)
                except OSError:
                    pass  # it was shown the door
            rounds[0] += 1

    def peers() -> None:
        dice = random.Random(seed + 1)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        while not stop.is_set():
            kind = dice.choice([zmq.DEALER, zmq.REQ, zmq.PUSH, zmq.ROUTER, zmq.PUB, zmq.PAIR, zmq.REP])
            with context.socket(kind) as peer:
                peer.linger = 20
                peer.sndtimeo = 20
                if dice.random() < 0.3:
                    peer.routing_id = dice.choice([b"chosen", b"\1", b"z" * 255, dice.randbytes(7) + b"!"])
                peer.connect(broker.endpoints[dice.choice(["clients", "workers", "answers"])])
                for _ in range(dice.randrange(20)):
                    try:
                        peer.send_multipart(message(dice))
                    except zmq.ZMQError:
                        break  # this kind of socket cannot
            rounds[1] += 1
        context.term()

    threads = [threading.Thread(target=raw), threading.Thread(target=peers)]
    for thread in threads:
        thread.start()
    try:
        yield rounds
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_honest_peers_lose_nothing_beside_garbage(place: Place) -> None:
    """Promise 7: beside a flood of nonsense on all three endpoints every honest job is answered, once and rightly."""
    broker = place.broker("-T", "1s")  # strangers may ask, too, and take a job that they never answer
    worker = place.socket(zmq.REQ, broker.endpoints["workers"])
    answers = place.socket(zmq.PUSH, broker.endpoints["answers"])
    clients = [place.client(broker) for _ in range(4)]
    with enemies(place, broker, seed=2010) as rounds:
        worker.send(b"ask")
        sent = [0] * len(clients)
        for number, client in enumerate(clients):
            client.send_multipart([b"honest", b"%d" % number, b"0"])
        done = 0
        while done < 300 or min(rounds) < 40:
            token, *body = hear(worker)  # nonsense can be a job, too: whatever has an empty frame
            answers.send_multipart([token, *body])
            worker.send(b"ask")
            for number, client in enumerate(clients):
                if client.poll(0):
                    assert client.recv_multipart() == [b"honest", b"%d" % number, b"%d" % sent[number]]
                    sent[number] += 1
                    done += 1
                    client.send_multipart([b"honest", b"%d" % number, b"%d" % sent[number]])
    left = set(range(len(clients)))
    limit = time.monotonic() + LIMIT_S
    while left:
        assert time.monotonic() < limit, f"clients {left} were not answered; " + "\n".join(broker.lines[-30:])
        if worker.poll(20):
            token, *body = worker.recv_multipart()
            answers.send_multipart([token, *body])
            worker.send(b"ask")
        for number in list(left):
            if clients[number].poll(0):
                assert clients[number].recv_multipart() == [b"honest", b"%d" % number, b"%d" % sent[number]]
                left.remove(number)
    broker.signal(signal.SIGTERM)
    assert broker.ended() in (0, 4)  # nonsense may still wait
    stopped = broker.event("broker_stopped")
    assert stopped["requests_refused"] > 0
    assert stopped["asks_refused"] > 0
    assert stopped["answers_refused"] > 0
    assert "reply_dropped" not in stopped
    assert broker.events("handshake_failed")
    assert len(broker.lines) < 5_000


def test_silent_connections_that_take_all_descriptors_are_shown_the_door(place: Place) -> None:
    """Strangers connect until no descriptor is left: it is said, they are closed, and then honest peers are served."""
    broker = place.broker(descriptors_max=64)
    port = int(broker.endpoints["clients"].rpartition(":")[2])
    strangers = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(90)]
    try:
        broker.event("accept_failed")
        client, worker = place.client(broker), place.socket(zmq.REQ, broker.endpoints["workers"])
        answers = place.socket(zmq.PUSH, broker.endpoints["answers"])
        worker.send(b"ask")
        client.send(b"honest")
        answers.send_multipart(hear(worker))
        assert hear(client) == [b"honest"]
    finally:
        for stranger in strangers:
            stranger.close()
    assert len(broker.lines) < 100
    with open(f"/proc/{broker.process.pid}/statm", encoding="ascii") as statm:  # noqa: PTH123 - one number
        assert int(statm.read().split()[1]) * 4 < 120_000, "KiB: the news of the failures have piled up"
