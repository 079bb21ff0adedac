"""The C pump reads the headers that nearly all native messages have: it reads them as the dialect does, or not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgpack
import msgspec
import pytest
import zmq
from hypothesis import example, given
from hypothesis import strategies as st

from relet.dialects import native
from relet.messages import INT_MAX, MAGIC, SIGNATURE, VERSION, BackoffMs, Complete, Submit
from relet.transport.pump import PumpUnavailable, implementation

from .conftest import LIMIT_MS, Net

ID = b"i" * 16
NUMBERS = st.sampled_from([0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, INT_MAX, 2**63, 2**64 - 1, -1])
VALUES = st.one_of(
    NUMBERS,
    st.sampled_from(["complete", "submit", "heartbeat", ID, b"", b"l" * 255, b"l" * 256, None, True, 1.0, [1]]),
)
KEYS = st.sampled_from(["t", "token", "id", "n", "credit", "started", "received", "queue", "fair", "priority", "x"])
DEEP: list[Any] = []
for _ in range(12):
    DEEP = [DEEP]
USUAL = {
    "t": st.sampled_from(["complete", "submit"]),
    "token": st.binary(max_size=20),
    "id": st.binary(max_size=20),
    "n": NUMBERS,
    "credit": NUMBERS,
    "started": NUMBERS,
    "received": NUMBERS,
}
TERMS = {
    "queue": st.sampled_from(["", "default", "images", "q" * 31, "q" * 32, "ä" * 60, b"images", 7, None]),
    "fair": st.sampled_from(["", "key", "ä" * 20, b"key", ["key"]]),
    "priority": st.sampled_from([0, -1, 5, -1000, "high", None]),
    "weight": st.sampled_from([1, 1000, -(2**40), 2**40]),
    "backoff": st.sampled_from([{"curve": "fixed", "base_ms": 1}, {"curve": "fixed"}, {}, None]),
    "final_kinds": st.sampled_from([[], ["E"], ["E"] * 20, {"E": 1}]),
    "ack": st.booleans(),
    "headers": st.sampled_from([None, {}, {"a": "b"}]),
    "later": st.sampled_from([1.5, [1, [2, {"a": None}]], b"x" * 20, DEEP, {str(n): n for n in range(20)}]),
}


def packed(pairs: list[tuple[str, Any]]) -> bytes:
    """A map as MessagePack; a key may stand in it twice."""
    return bytes([0x80 | len(pairs)]) + b"".join(msgpack.packb(key) + msgpack.packb(value) for key, value in pairs)


PAIRS = st.lists(st.one_of([st.tuples(st.just(key), values) for key, values in USUAL.items()]), max_size=6)
TERMED = st.builds(
    lambda usual, terms, order: packed(order.sample(pairs := [*usual, *terms], len(pairs))),
    st.just([("t", "submit"), ("id", ID)]),
    st.lists(st.one_of([st.tuples(st.just(key), values) for key, values in TERMS.items()]), max_size=6),
    st.randoms(use_true_random=False),
)
NEARLY = st.one_of(
    PAIRS.map(packed),
    TERMED,
    st.builds(lambda header, at, byte: header[:at] + byte + header[at + 1 :], TERMED, st.integers(0, 80),
              st.binary(max_size=2)),
    st.builds(lambda header, size: header[:size], TERMED, st.integers(0, 80)),
    st.lists(st.tuples(KEYS, VALUES), max_size=6).map(packed),
    st.builds(lambda header, at, byte: header[:at] + byte + header[at + 1 :], PAIRS.map(packed), st.integers(0, 40),
              st.binary(max_size=2)),
    st.builds(lambda header, size: header[:size], PAIRS.map(packed), st.integers(0, 40)),
)  # fmt: skip
COMPLETED = st.builds(
    Complete,
    token=st.binary(max_size=64),
    n=st.integers(1, INT_MAX),
    credit=st.integers(0, INT_MAX),
    started=st.integers(0, INT_MAX),
)
SUBMITTED = st.builds(Submit, id=st.binary(min_size=1, max_size=64), received=st.integers(0, INT_MAX))
FORMED = st.builds(
    Submit,
    id=st.binary(min_size=1, max_size=64),
    received=st.integers(0, INT_MAX),
    queue=st.sampled_from(["", "images", "ä" * 20]),
    fair=st.sampled_from(["", "key"]),
    priority=st.sampled_from([None, -1, 7]),
    backoff=st.sampled_from([None, BackoffMs(curve="linear", base_ms=100, jitter=True)]),
    final_kinds=st.sampled_from([(), ("ValueError", "KeyError")]),
)


class Ear:
    """A ROUTER with the C pump, and a raw DEALER that speaks to it."""

    def __init__(self, net: Net) -> None:
        self.router, endpoint = net.bound(zmq.ROUTER)
        self.dealer = net.connected(zmq.DEALER, endpoint)
        pumps = implementation("cython")[1]
        self.pump = pumps.RouterPump(self.router, peers_max=9, frames_max=6, bytes_max=10_000)

    def hear(self, *messages: list[bytes]) -> list[Any]:
        """The runs that the pump makes of `messages`."""
        for message in messages:
            self.dealer.send_multipart(message)
        heard = 0
        while heard < len(messages):
            assert self.router.poll(LIMIT_MS)
            self.pump.receive(len(messages) - heard)
            heard = sum(len(run) if type(run) is list else 1 for run in self.pump.native)
        runs = list(self.pump.native)
        self.pump.native.clear()
        return runs


@pytest.fixture(scope="module")
def ear() -> Iterator[Ear]:
    """The C pump and somebody who speaks to it."""
    try:
        implementation("cython")
    except PumpUnavailable as error:
        pytest.skip(str(error))
    net = Net()
    yield Ear(net)
    net.close()


def decoded(decode: Any, header: bytes) -> Any:
    """What the dialect makes of a header; None where it cannot be read."""
    try:
        return decode(VERSION, header)
    except native.BadMessage:
        return None


@given(headers=st.lists(NEARLY, min_size=1, max_size=8))
@example(headers=[packed([("t", "submit"), ("id", ID), ("id", b"another"), ("received", 1)])])
@example(headers=[packed([("t", "complete"), ("token", ID), ("n", 0)]), packed([("t", "complete"), ("token", ID)])])
@example(headers=[packed([("t", "submit"), ("id", ID)]) + b"\0", b"\x80", b"", b"\x81\xa1t", b"\xc1"])
@example(headers=[packed([("t", "submit"), ("token", ID)]), packed([("t", "complete"), ("id", ID), ("n", 1)])])
@example(headers=[packed([("t", "submit"), ("id", ID), ("n", 1)]), packed([("id", ID), ("received", 1)])])
def test_what_the_pump_reads_is_what_the_dialect_reads(ear: Ear, headers: list[bytes]) -> None:
    """Whatever a peer writes: the pump makes the same of it, or hands it on as it came."""
    messages = [message for run in ear.hear(*([SIGNATURE, header, b"body"] for header in headers))
                for message in (run if type(run) is list else [run])]  # fmt: skip
    assert len(messages) == len(headers)
    for header, (_, path, *fields, body) in zip(headers, messages, strict=True):
        assert (path, body) == (b"", b"body")
        match fields:
            case [version, heard]:
                assert (version, heard) == (VERSION, header) or decoded(native.from_client, header) == Submit(
                    id=version, received=heard
                )
            case [token, n, credit, started]:
                said = Complete(token=token, n=n, credit=credit, started=started)
                assert decoded(native.from_worker, header) == said
            case [name, received, queue, fair, form]:
                shared = native.form_of(form)
                whole = decoded(native.from_client, header)
                read = {"id": name, "received": received, "queue": queue, "fair": fair}
                assert whole == (None if shared is None else msgspec.structs.replace(shared, **read))
                ((*_, again, _),) = native.messages_of([(None, path, *fields, body)])
                assert decoded(native.from_client, again) == whole


@given(said=st.lists(st.one_of(COMPLETED, SUBMITTED, FORMED), min_size=1, max_size=6))
def test_what_the_dialect_writes_the_pump_reads(ear: Ear, said: list[Complete | Submit]) -> None:
    """Runs of one kind are one list each, and say what was said."""
    runs = ear.hear(*([SIGNATURE, native.encode(each), b"body"] for each in said))
    assert all(native.is_completed(run) or native.is_submitted(run) or native.is_formed(run) for run in runs)
    assert all(len(one[0]) != len(other[0]) for one, other in itertools.pairwise(runs))
    messages = [message for run in runs for message in native.messages_of(run)]
    headers = [message[3] for message in messages]
    assert [decoded(native.from_worker, it) or decoded(native.from_client, it) for it in headers] == said


def test_what_is_of_one_request_is_in_no_form(ear: Ear) -> None:
    """Such a request is handed on as it came; else a client would have as many forms as requests."""
    alone = [
        {"ack": True}, {"jobs": []}, {"age_ms": 1}, {"headers": {}}, {"order": "o"}, {"unique": "u"}, {"delay_ms": 1},
        {"not_before_ms": 1},
    ]  # fmt: skip
    headers = [native.encode({"t": "submit", "id": ID, "queue": "images", **fields}) for fields in alone]
    assert [run[3] for run in ear.hear(*([SIGNATURE, header] for header in headers))] == headers


def test_requests_of_one_form_differ_in_what_is_read_of_them(ear: Ear) -> None:
    """Wherever it stands in the header: the rest is the same bytes."""
    first = packed([("t", "submit"), ("id", ID), ("queue", "a"), ("priority", 3), ("fair", "x"), ("late", "any")])
    second = packed([("priority", 3), ("received", 7), ("t", "submit"), ("late", "any"), ("id", b"j" * 16)])
    ((one, other),) = ear.hear([SIGNATURE, first, b"1"], [SIGNATURE, second, b"2"])
    assert one[2:6] == (ID, 0, "a", "x")
    assert other[2:6] == (b"j" * 16, 7, "default", "")
    assert one[6] == other[6] == packed([("t", "submit"), ("priority", 3), ("late", "any")])


def test_bodies_and_return_paths_of_a_run(ear: Ear) -> None:
    """A plain header changes nothing about the frames around it."""
    header = native.encode(Submit(id=ID, received=7))
    (run,) = ear.hear(
        [SIGNATURE, header],
        [SIGNATURE, header, b"a", b""],
        [b"hop", SIGNATURE, header, b"body"],
    )
    assert [(path, name, number, body) for _, path, name, number, body in run] == [
        (b"", ID, 7, ()),
        (b"", ID, 7, (b"a", b"")),
        (b"\0\0\0\3hop", ID, 7, b"body"),
    ]


def test_what_is_not_plain_ends_a_run(ear: Ear) -> None:
    """Order is kept: a message of another kind, of another version or without a header stands between two runs."""
    submit, complete = native.encode(Submit(id=ID)), native.encode(Complete(token=ID, n=1))
    other = native.encode(Submit(id=ID, ack=True))
    runs = ear.hear(
        [SIGNATURE, submit],
        [SIGNATURE, submit],
        [SIGNATURE, other],
        [SIGNATURE, complete],
        [MAGIC + b"\2", complete],
        [SIGNATURE],
        [SIGNATURE, complete],
        [SIGNATURE, submit],
    )
    assert [[len(message) for message in run] if type(run) is list else run[3] for run in runs] == [
        [5, 5],
        other,
        [7],
        complete,
        b"",
        [7],
        [5],
    ]


def test_a_plain_header_of_a_message_that_is_refused(ear: Ear) -> None:
    """Where the body is too large, the header is handed on as it came: who sent it is told about it."""
    header = native.encode(Submit(id=ID, received=7))
    ear.dealer.send_multipart([SIGNATURE, header, b"x" * 20_000])
    assert ear.router.poll(LIMIT_MS)
    ear.pump.receive(1)
    (refused,) = ear.pump.refused
    ear.pump.refused.clear()
    assert (refused.version, refused.header, ear.pump.native) == (VERSION, header, [])
