"""The administrators' endpoint on real sockets: bare orders, what is none, and jobs that go on beside all of it."""

from __future__ import annotations

import os
from typing import Any

import msgpack
import pytest
import zmq

from relet import Broker, EndpointError
from relet.dialects import native
from relet.dialects.native import HEADER_BYTES_MAX
from relet.messages import SIGNATURE, VERSION, Error
from relet.orders import ListQueues, PauseQueue, QueuesTold, QueueTold

from .conftest import Site


@pytest.fixture
def ruled(site: Site) -> Site:
    """A broker with the endpoint."""
    site.open(admin="tcp://127.0.0.1:0")
    return site


def told(site: Site, socket: zmq.Socket[bytes], *frames: bytes, path: tuple[bytes, ...] = ()) -> Any:
    """The answer to these frames."""
    socket.send_multipart([*path, *frames])
    answer = site.hear(socket)
    assert tuple(answer[: len(path)]) == path
    assert answer[len(path)] == SIGNATURE
    return native.to_admin(VERSION, answer[len(path) + 1])


def test_an_order_has_one_answer(ruled: Site) -> None:
    """Signature and header, there and back; with a path in front, too."""
    admin = ruled.connect(zmq.DEALER, "admin")
    answer = told(ruled, admin, SIGNATURE, native.encode(PauseQueue(id=b"x", queue="mail", by="ada")))
    assert (type(answer), answer.id, answer.queue.paused) == (QueueTold, b"x", "both")
    answer = told(ruled, admin, SIGNATURE, native.encode(ListQueues(id=b"y")), path=(b"\x00there",))
    assert (type(answer), answer.id, len(answer.queues)) == (QueuesTold, b"y", 2)
    answer = told(ruled, admin, SIGNATURE, native.encode(ListQueues(id=b"z")), b"a body", b"that is ignored")
    assert answer.id == b"z"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ((SIGNATURE,), "bad_header"),
        ((SIGNATURE, b""), "bad_header"),
        ((SIGNATURE, b"\xc1" * 100), "bad_header"),
        ((SIGNATURE, msgpack.packb({"t": "queues", "x": b"x" * HEADER_BYTES_MAX})), "bad_header"),
        ((SIGNATURE, msgpack.packb({"t": "queues", "count": 0})), "bad_header"),
        ((SIGNATURE, msgpack.packb({"t": "hello"})), "wrong_endpoint"),
        ((SIGNATURE, msgpack.packb({"t": "submit"})), "unknown_command"),
        ((SIGNATURE[:-1] + b"\x07", msgpack.packb({"t": "queues"})), "bad_version"),
        ((SIGNATURE, msgpack.packb({"t": "queues"}), *[b""] * 2_000), "too_large"),
        ((b"", b"a job of 2010"), "bad_header"),
    ],
    ids=lambda it: it if isinstance(it, str) else "",
)
def test_what_is_no_order_is_refused_and_the_next_one_taken(ruled: Site, frames: tuple[bytes, ...], code: str) -> None:
    """With a code; the connection goes on."""
    admin = ruled.connect(zmq.DEALER, "admin")
    answer = told(ruled, admin, *frames)
    assert (type(answer), answer.code) == (Error, code)
    assert told(ruled, admin, SIGNATURE, native.encode(ListQueues(id=b"y"))).id == b"y"
    assert ruled.broker.counters.messages_refused == 1


def test_noise_and_a_flood_hold_no_job_up(ruled: Site) -> None:
    """Jobs are done while orders nobody reads the answers of pile up, and what cannot be answered is dropped."""
    flood = ruled.connect(zmq.DEALER, "admin", rcvhwm=1)
    for number in range(3_000):
        ruled.until(lambda: flood.poll(0, zmq.POLLOUT))
        flood.send_multipart(
            [SIGNATURE, native.encode(ListQueues(id=b"%d" % number)) if number % 2 else os.urandom(40)]
        )
    client = ruled.client()
    client.send(b"1")
    ruled.answer_all(1)
    assert ruled.hear(client) == [b"1"]
    for frames in ([b"no delimiter"], [b""], [os.urandom(8), os.urandom(100)]):
        flood.send_multipart(frames)
    answer = told(ruled, ruled.connect(zmq.DEALER, "admin"), SIGNATURE, native.encode(ListQueues(id=b"y")))
    assert answer.id == b"y"


def test_an_administrator_that_goes_is_forgotten(ruled: Site) -> None:
    """A search goes on for nobody, and no connection is kept."""
    for _ in range(20):
        admin = ruled.connect(zmq.DEALER, "admin")
        told(ruled, admin, SIGNATURE, native.encode(ListQueues(id=b"y")))
        admin.close()
    port: Any = ruled.broker._admins  # nothing outside shows it
    ruled.until(lambda: port.peers == 0)


def test_there_is_no_such_endpoint_unless_it_is_asked_for(site: Site) -> None:
    """Where it is open to others, the broker says so; it has no endpoint of somebody else's."""
    assert "admin" not in site.open().endpoints
    assert site.open(admin="tcp://127.0.0.1:0").open_to_others == []
    assert site.open(admin="tcp://*:0").open_to_others == ["admin"]
    with pytest.raises(EndpointError, match="have the same endpoint"):
        Broker(":4161", ":0", ":0", admin=":4161")
    with pytest.raises(TypeError, match="admin is an endpoint as text"):
        Broker(":0", ":0", ":0", admin=4164)  # type: ignore[arg-type]
