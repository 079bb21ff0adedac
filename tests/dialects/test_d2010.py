"""The dialect of 2010, byte for byte: what `docs/protocol.md` lists, and what no peer should send."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relet.core import job as happened
from relet.core.job import Job, Reason
from relet.core.queue import Queue
from relet.core.roster import Worker
from relet.core.terms import Terms
from relet.dialects import d2010
from relet.messages import Peer
from relet.transport.plain import pack_path, unpack_path

TOKEN = bytes(range(16))
BOUNDS = {"frames_max": 10, "bytes_max": 100}


def on_the_wire(message: tuple[Any, ...]) -> list[str]:
    """The frames that the pump sends for `(peer, path, frame, ...)`, in hex, the routing id first."""
    peer, path, *items = message
    frames = [peer.routing_id, *unpack_path(path)]
    for item in items:
        frames.extend(item if type(item) is tuple else (item,))
    return [frame.hex() for frame in frames]


def job(body: Any = b"job", path: list[bytes] | None = None) -> Job:
    """A job of the client 00 11 22 33 44."""
    return Job(1, Peer(bytes.fromhex("0011223344")), pack_path(path or []), body, 0, Queue(), Terms())


def worker(path: list[bytes] | None = None) -> Worker:
    """The worker 00 aa bb cc dd."""
    return Worker(Peer(bytes.fromhex("00aabbccdd")), pack_path(path or []), (Queue(),))


# --- Byte vectors: jobs to workers


@pytest.mark.parametrize(
    ("path", "body", "frames"),
    [
        ([], b"job", ["00aabbccdd", "", TOKEN.hex(), "6a6f62"]),
        ([], b"", ["00aabbccdd", "", TOKEN.hex(), ""]),
        ([], (), ["00aabbccdd", "", TOKEN.hex()]),
        ([], (b"a", b"", b"b"), ["00aabbccdd", "", TOKEN.hex(), "61", "", "62"]),
        ([b"\0hop1", b"\0hop2"], b"job", ["00aabbccdd", "00686f7031", "00686f7032", "", TOKEN.hex(), "6a6f62"]),
    ],
)
def test_a_job_on_its_way_to_a_worker(path: list[bytes], body: Any, frames: list[str]) -> None:
    """`[path..., "", id, body...]`: a REQ worker sees the id, then the body as it was sent."""
    it = job(body)
    it.token = TOKEN
    it.holder = worker(path)
    happened.dispatched([it], 0)
    assert [on_the_wire(message) for message in d2010.dispatches([it])] == [frames]


# --- Byte vectors: outcomes to clients


@pytest.mark.parametrize(
    ("path", "answer", "frames"),
    [
        ([], b"ok", ["0011223344", "", "6f6b"]),
        ([], b"", ["0011223344", "", ""]),
        ([], (b"a", b"", b"b"), ["0011223344", "", "61", "", "62"]),
        ([b"c1"], b"ok", ["0011223344", "6331", "", "6f6b"]),
        ([b"\0hop", b"c1"], b"ok", ["0011223344", "00686f70", "6331", "", "6f6b"]),
    ],
)
def test_an_answer_on_its_way_to_a_client(path: list[bytes], answer: Any, frames: list[str]) -> None:
    """`[path..., "", answer...]`: the path comes back as it was, the answer as the worker gave it."""
    it = job(path=path)
    it.token = TOKEN
    happened.dispatched([it], 0)
    it.answer = answer
    happened.answered([it], 0)
    assert [on_the_wire(message) for message in d2010.replies([it])] == [frames]


def test_a_failure_is_one_empty_frame() -> None:
    """`[path..., "", ""]` for a job whose tries are spent, for one that the broker's end ends, and for a refusal."""
    spent, stopped = job(path=[b"c1"]), job(path=[b"c1"])
    happened.dispatched([spent], 0)
    happened.budget_spent(spent, Reason.TRIES_SPENT, 0)
    happened.stopped(stopped, 0)
    expected = ["0011223344", "6331", "", ""]
    assert [on_the_wire(message) for message in d2010.replies([spent, stopped])] == [expected, expected]
    refusals = d2010.refusals([(spent.peer, spent.path)])
    assert [on_the_wire(message) for message in refusals] == [expected]


def test_an_answer_of_no_frames_keeps_its_envelope() -> None:
    """The id alone is an answer of one empty frame, so that the client gets a whole envelope."""
    (taken,), refused = d2010.answers([(TOKEN,)], **BOUNDS)
    assert (taken, refused) == ((TOKEN, b""), 0)


# --- Byte vectors: answers of workers


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ((TOKEN, b"ok"), b"ok"),
        ((TOKEN, b""), b""),
        ((TOKEN, b"a", b"b"), (b"a", b"b")),
        ((TOKEN, b"", b""), (b"", b"")),
        ((TOKEN, *[b"x"] * 9), (b"x",) * 9),
    ],
)
def test_an_answer_of_a_worker(message: tuple[bytes, ...], answer: Any) -> None:
    """`[id, answer...]`: one frame stands for itself, several make a tuple."""
    assert d2010.answers([message], **BOUNDS) == ([(TOKEN, answer)], 0)


class Large:
    """Stands for a frame that was not copied."""

    def __len__(self) -> int:
        return 50_000

    def __bytes__(self) -> bytes:
        return bytes(50_000)


@pytest.mark.parametrize(
    "message",
    [(Large(),), (TOKEN, *[b"x"] * 10), (TOKEN, b"x" * 60, b"x" * 60), (TOKEN, Large(), b"x"), (Large(), b"x", b"y")],
    ids=["large-id", "too-many-frames", "too-many-bytes", "too-large-in-frames", "large-id-in-frames"],
)
def test_what_can_be_no_answer_is_counted(message: tuple[Any, ...]) -> None:
    """Frames and bytes of an answer have their bounds; whether an id is ours is the machine's to say."""
    assert d2010.answers([message], **BOUNDS) == ([], 1)


def test_answers_keep_their_order() -> None:
    """The first valid answer wins, so a batch keeps its order whatever the shapes in it."""
    messages = [(b"1", b"a", b"b"), (b"2", b"a"), (b"3",), (b"4", b"a"), (Large(), b"x", b"y"), (b"5", b"a", b"b")]
    taken, refused = d2010.answers(messages, **BOUNDS)
    assert ([token for token, _ in taken], refused) == ([b"1", b"2", b"3", b"4", b"5"], 1)


@given(st.lists(st.lists(st.binary(max_size=20), min_size=1, max_size=14).map(tuple), max_size=20))
def test_any_messages_are_answers_or_are_counted(messages: list[tuple[bytes, ...]]) -> None:
    """Nothing that a PUSH can send raises; each message is taken with its id, in order, or counted."""
    taken, refused = d2010.answers(list(messages), **BOUNDS)
    assert len(taken) + refused == len(messages)
    rest = iter(messages)
    for token, answer in taken:
        frames = answer if type(answer) is tuple else (answer,)
        assert any(message[0] == token and (message[1:] or (b"",)) == frames for message in rest)
