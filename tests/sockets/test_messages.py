"""What is sent and received through serializers: values, events and topics, and what peers send instead."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from relet.sockets import JSON, BaseSerializer, Event, MessagePack, SocketError, SocketManager, UnreadableMessage

from .conftest import BOTH, IN, LIMIT_S, OUT, Make, channel, hear_subscription, pipe

PLAIN = [None, True, 0, -(2**63), 2**64 - 1, 0.5, "", "räder", [], [1, [2, {}]], {}, {"a": {"b": [None]}}]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS.filter(lambda value: value not in (float("inf"), float("-inf"))),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(TEXT, values, max_size=4),
    max_leaves=10,
)


class Reversed(BaseSerializer):
    """A user's own."""

    def pack(self, data: Any) -> bytes:
        """Backwards."""
        return JSON().pack(data)[::-1]

    def unpack(self, packed: bytes) -> Any:
        """And back."""
        return JSON().unpack(packed[::-1])


@pytest.mark.parametrize("serializer", [JSON(), MessagePack(), Reversed()], ids=lambda it: type(it).__name__)
def test_plain_values_arrive_as_they_were_sent(make: Make, serializer: BaseSerializer) -> None:
    """Through each serializer, as messages and as the data of events."""
    sockets = make(serializer, timeout=LIMIT_S)
    pipe(sockets)
    for value in PLAIN[1:]:
        assert sockets.send_safe("out", value) is True
        assert sockets.recv_safe("in") == value
    for value in PLAIN:
        assert serializer.unpack(serializer.pack(value)) == value
        assert sockets.publish_safe("out", "topic", value) is True
        assert sockets.recv_event_safe("in") == ("topic", value)


def test_messagepack_has_bytes_and_json_writes_them_as_text() -> None:
    """As base64 (RFC 4648): JSON knows nothing better."""
    assert MessagePack().unpack(MessagePack().pack(b"\0\xff")) == b"\0\xff"
    assert JSON().unpack(JSON().pack(b"\0\xff")) == "AP8="


def test_json_is_spoken_where_nobody_says_otherwise(sockets: SocketManager) -> None:
    """As any peer reads it: one frame of UTF-8."""
    pipe(sockets)
    sockets.send_safe("out", {"a": "ä"})
    assert sockets.wait_until_ready("in", IN)
    assert sockets.get_by_name("in").recv_multipart() == ['{"a":"ä"}'.encode()]


@pytest.mark.parametrize("serializer", [JSON(), MessagePack()], ids=lambda it: type(it).__name__)
def test_what_a_format_does_not_have_is_not_sent(make: Make, serializer: BaseSerializer) -> None:
    """The error comes before anything is sent."""
    sockets = make(serializer, timeout=LIMIT_S)
    pipe(sockets)
    with pytest.raises(TypeError):
        sockets.send_safe("out", object())
    with pytest.raises(TypeError):
        sockets.publish_safe("out", "topic", object())
    assert sockets.send_safe("out", "next")
    assert sockets.recv_safe("in") == "next"


def test_a_serializer_that_gives_no_bytes_is_named(make: Make) -> None:
    """Before anything is sent."""

    class Wrong(Reversed):
        def pack(self, data: Any) -> Any:
            return str(data)

    sockets = make(Wrong(), timeout=LIMIT_S)
    pipe(sockets)
    with pytest.raises(TypeError, match=r"Wrong.pack gave str, and bytes are sent"):
        sockets.send_safe("out", 1)


def test_what_cannot_be_sent_in_time_is_false_and_was_not_sent(make: Make) -> None:
    """A PUSH without a peer, and a REQ whose question has no answer yet."""
    sockets = make(timeout=0.01)
    address = f"tcp://127.0.0.1:{sockets.create('in', zmq.PULL).bind_to_random_port('tcp://127.0.0.1')}"
    sockets.create("out", zmq.PUSH)
    assert sockets.send_safe("out", "lost") is False
    assert sockets.publish_safe("out", "topic", "lost") is False
    sockets.connect("out", address, OUT)
    assert sockets.send_safe("out", "kept", timeout=LIMIT_S) is True
    assert sockets.recv_safe("in", timeout=LIMIT_S) == "kept"

    sockets.ensure_and_bind("server", zmq.REP, "inproc://server", BOTH)
    sockets.ensure_and_connect("client", zmq.REQ, "inproc://server", BOTH)
    assert sockets.send_safe("server", "nobody asked") is False
    assert sockets.recv_safe("client") is None
    assert sockets.send_safe("client", "first") is True
    assert sockets.send_safe("client", "second") is False
    assert sockets.recv_safe("server") == "first"


def test_a_socket_that_is_said_to_be_writable_and_is_not_ends_the_wait_in_time(sockets: SocketManager) -> None:
    """An XPUB that shall drop nothing waits for its slowest subscriber, though libzmq always calls it ready."""
    sockets.create("news", zmq.XPUB)
    sockets.create("events", zmq.SUB)
    for name in ("news", "events"):
        sockets.set_socket_option(name, zmq.HWM, 1)
    sockets.set_socket_option("news", zmq.XPUB_NODROP, 1)
    sockets.bind("news", "inproc://news", OUT)
    sockets.connect("events", "inproc://news", IN)
    sockets.set_topic("events", "")
    hear_subscription(sockets)
    sent = 0
    while sockets.publish_safe("news", "topic", sent, timeout=0.02):
        sent += 1
    assert sockets.ready("news", OUT)
    assert [sockets.recv_event_safe("events") for _ in range(sent)] == [("topic", number) for number in range(sent)]
    assert sockets.publish_safe("news", "topic", "next")


def test_what_does_not_come_in_time_is_none(make: Make) -> None:
    """Messages and events alike."""
    sockets = make(timeout=0.01)
    sockets.create("in", zmq.PULL)
    sockets.create("events", zmq.SUB)
    assert sockets.recv_safe("in") is None
    assert sockets.recv_safe("in", 0) is None
    assert sockets.recv_event_safe("events") is None
    assert sockets.recv_event_safe("events", "topic", 0) is None


def test_a_socket_that_cannot_is_refused_at_once(sockets: SocketManager) -> None:
    """No waiting for what will never be: a PULL does not send, a PUSH does not receive."""
    pipe(sockets)
    sockets.create("events", zmq.SUB)
    with pytest.raises(ValueError, match="'in' is a PULL, which does not send"):
        sockets.send_safe("in", 1)
    with pytest.raises(ValueError, match="'out' is a PUSH, which does not receive"):
        sockets.recv_safe("out")
    with pytest.raises(ValueError, match="'events' is a SUB, which does not send"):
        sockets.publish_safe("events", "topic", 1)
    with pytest.raises(ValueError, match=r"zmq.SUBSCRIBE of 'out', a PUSH"):
        sockets.recv_event_safe("out", "topic")


@pytest.mark.parametrize("topic", ["räder", "räder".encode(), "", b""])
def test_topics_are_text_or_bytes(sockets: SocketManager, topic: str | bytes) -> None:
    """To subscribe and to publish; an event says it as text."""
    channel(sockets, topic)
    assert sockets.publish_safe("news", topic, {"a": 1})
    event = sockets.recv_event_safe("events")
    assert event is not None
    assert (event.topic, event.data) == (topic if isinstance(topic, str) else topic.decode(), {"a": 1})


def test_a_topic_that_is_no_text_survives(sockets: SocketManager) -> None:
    """It can be published again as it is."""
    channel(sockets)
    sockets.publish_safe("news", b"\xff\0", 1)
    event = sockets.recv_event_safe("events")
    assert event is not None
    assert event.topic.encode("utf-8", "surrogateescape") == b"\xff\0"
    sockets.publish_safe("news", event.topic, 2)
    assert sockets.recv_event_safe("events") == (event.topic, 2)


@given(topic=st.binary(max_size=20) | TEXT, data=VALUES)
@settings(max_examples=50)
def test_any_event_arrives_as_it_was_published(topic: str | bytes, data: Any) -> None:
    """Whatever the topic is made of, and however deep the data."""
    for serializer in (JSON(), MessagePack()):
        with zmq.Context() as context, SocketManager(zmq, context, serializer) as sockets:
            sockets.ensure_and_bind("in", zmq.PAIR, "inproc://events", IN)
            sockets.ensure_and_connect("out", zmq.PAIR, "inproc://events", OUT)
            assert sockets.publish_safe("out", topic, data)
            event = sockets.recv_event_safe("in")
            assert event is not None
            sent = topic if isinstance(topic, bytes) else topic.encode()
            assert (event.topic.encode("utf-8", "surrogateescape"), event.data) == (sent, data)


def test_only_topics_that_begin_so_are_received(sockets: SocketManager) -> None:
    """As ZeroMQ has it; and what was subscribed twice is unsubscribed once."""
    channel(sockets, "logs")
    sockets.set_topic("events", b"logs")
    for topic in ("metrics", "logs:2016", "logs"):
        sockets.publish_safe("news", topic, 0)
    assert [sockets.recv_event_safe("events"), sockets.recv_event_safe("events")] == [("logs:2016", 0), ("logs", 0)]
    sockets.set_socket_option("events", zmq.UNSUBSCRIBE, "logs")
    assert hear_subscription(sockets) == b"\0logs"
    sockets.set_topic("events", "logs")
    assert hear_subscription(sockets) == b"\1logs"


def test_an_event_can_be_waited_for_by_its_topic(sockets: SocketManager) -> None:
    """The topic is subscribed to first; a SUB that has none hears all, instead of waiting for nothing."""
    sockets.create("events", zmq.SUB)
    _, address = sockets.bind_to_random_port("events", IN, "tcp://127.0.0.1")
    sockets.ensure_and_connect("news", zmq.XPUB, address, OUT)
    assert sockets.recv_event_safe("events", "logs", timeout=0) is None
    assert hear_subscription(sockets) == b"\1logs"
    assert sockets.recv_event_safe("events", False, timeout=0) is None
    sockets.publish_safe("news", "metrics", 1)
    sockets.publish_safe("news", "logs", 2)
    assert sockets.recv_event_safe("events") == Event("logs", 2)

    sockets.create("all", zmq.SUB)
    sockets.connect("all", "inproc://all", IN)
    sockets.bind("news", "inproc://all", OUT)
    assert sockets.recv_event_safe("all", timeout=0) is None
    assert hear_subscription(sockets) == b"\1"
    sockets.publish_safe("news", "metrics", 3)
    assert sockets.recv_event_safe("all") == Event("metrics", 3)


def test_a_subscription_is_a_loop_that_ends_when_it_is_told_to(sockets: SocketManager) -> None:
    """`keep_polling` is asked before each wait, and waits in vain yield nothing."""
    sockets.create("events", zmq.SUB)
    _, address = sockets.bind_to_random_port("events", IN, "tcp://127.0.0.1")
    asked = 0

    def keep_polling() -> bool:
        nonlocal asked
        asked += 1
        if asked == 3:
            sockets.publish_safe("news", "output:1", "more data")
        return asked < 5

    loop = sockets.subscribe("events", "output", keep_polling, timeout=0.05)
    sockets.ensure_and_connect("news", zmq.XPUB, address, OUT)
    hear_subscription(sockets)  # it is subscribed before the first event is asked for
    sockets.publish_safe("news", "output:0", "some data")
    sockets.publish_safe("news", "input", "not for us")
    assert sockets.wait_until_ready("events", IN)
    heard = dict(loop)
    assert heard["output:0"] == "some data"
    assert set(heard) <= {"output:0", "output:1"}
    assert asked == 5


def test_a_subscription_goes_on_until_its_reader_leaves_it(sockets: SocketManager) -> None:
    """Without a condition it has no end; what is left unread is there for the next one."""
    channel(sockets)
    for number in range(4):
        sockets.publish_safe("news", "topic", number)
    for topic, data in sockets.subscribe("events"):
        assert topic == "topic"
        if data == 1:
            break
    assert [next(sockets.subscribe("events")).data for _ in range(2)] == [2, 3]


@pytest.mark.parametrize("serializer", [JSON(), MessagePack()], ids=lambda it: type(it).__name__)
@pytest.mark.parametrize("hostile", [b"", b"\xc1", b'{"', b"\xff\xfe", b"[" * 100_000, pickle.dumps({"a": 1})])
def test_what_cannot_be_read_is_told_with_its_frames(make: Make, serializer: BaseSerializer, hostile: bytes) -> None:
    """It is gone then, and the next message is read as ever."""
    sockets = make(serializer, timeout=LIMIT_S)
    pipe(sockets)
    out = sockets.get_by_name("out")
    assert sockets.wait_until_ready("out", OUT)
    out.send(hostile)
    with pytest.raises(UnreadableMessage, match="received on 'in' what cannot be read: no ") as caught:
        sockets.recv_safe("in")
    assert caught.value.frames == [hostile]
    assert isinstance(caught.value, SocketError)
    out.send_multipart([b"topic", hostile])
    with pytest.raises(UnreadableMessage):
        sockets.recv_event_safe("in")
    sockets.send_safe("out", "next")
    assert sockets.recv_safe("in") == "next"


def test_a_message_of_another_shape_is_told_whole(sockets: SocketManager) -> None:
    """Its later frames are not taken for messages of their own."""
    pipe(sockets)
    out = sockets.get_by_name("out")
    assert sockets.wait_until_ready("out", OUT)
    out.send_multipart([b"1", b"2", b"3"])
    with pytest.raises(UnreadableMessage, match="3 frames, where a message has one") as caught:
        sockets.recv_safe("in")
    assert caught.value.frames == [b"1", b"2", b"3"]
    out.send(b"1")
    with pytest.raises(UnreadableMessage, match="1 frames, where an event has two"):
        sockets.recv_event_safe("in")
    out.send_multipart([b"topic", b"{"])
    sockets.publish_safe("out", "topic", "next")
    with pytest.raises(UnreadableMessage):
        list(sockets.subscribe("in"))
    assert next(sockets.subscribe("in")) == ("topic", "next")


def test_nothing_that_a_peer_sends_is_run(make: Make) -> None:
    """A pickle is bytes that cannot be read, in every format that ships."""

    class Bomb:
        def __reduce__(self) -> Any:
            return pytest.fail, ("it was unpickled",)

    for serializer in (JSON(), MessagePack()):
        sockets = make(serializer, timeout=LIMIT_S)
        pipe(sockets)
        assert sockets.wait_until_ready("out", OUT)
        sockets.get_by_name("out").send(pickle.dumps(Bomb()))
        with pytest.raises(UnreadableMessage):
            sockets.recv_safe("in")
