"""Log records on a socket: what is published, for how long, and that a log never stops its program."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest
import zmq

from relet.sockets import SocketManager, SocketNotFound, ZMQPubHandler

from .conftest import LIMIT_S, Make, channel


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger that is as new at the end as at the beginning."""
    logger = logging.getLogger("relet.tests.sockets")
    yield logger
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def test_a_handler_publishes_records(sockets: SocketManager, logger: logging.Logger) -> None:
    """As events with the logger's name, the level, the message and the time."""
    channel(sockets)
    handler = sockets.get_log_handler("news", topic_name="app_logs")
    assert isinstance(handler, ZMQPubHandler)
    logger.addHandler(handler)
    logger.error("%s is up", "server")
    event = sockets.recv_event_safe("events")
    assert event is not None
    assert event.topic == "app_logs"
    assert event.data.pop("time") > 1.7e9
    assert event.data == {"logger": logger.name, "level": "ERROR", "message": "server is up"}


def test_a_handler_has_levels_and_formats_like_any_other(sockets: SocketManager, logger: logging.Logger) -> None:
    """And tracebacks."""
    channel(sockets)
    handler = sockets.get_log_handler("news", b"logs")
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.setLevel(logging.ERROR)
    logger.addHandler(handler)
    logger.warning("not this one")
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        logger.exception("this one")
    event = sockets.recv_event_safe("events")
    assert event is not None
    assert event.data["message"].startswith("ERROR: this one\nTraceback")
    assert event.data["message"].endswith("ZeroDivisionError: division by zero")


def test_a_logger_publishes_from_info_on(sockets: SocketManager, logger: logging.Logger) -> None:
    """Python's own default would keep back all below WARNING; a level that somebody chose stays."""
    channel(sockets)
    assert sockets.get_logger("news", logger_name=logger.name) is logger
    logger.debug("not this one")
    logger.info("this one")
    event = sockets.recv_event_safe("events")
    assert event is not None
    assert (event.topic, event.data["message"]) == ("logs", "this one")
    for level in (logging.DEBUG, logging.ERROR):
        logger.setLevel(level)
        sockets.get_logger("news", logger_name=logger.name)
        assert logger.level == level


def test_a_pub_publishes_to_whoever_has_subscribed_by_then(sockets: SocketManager, logger: logging.Logger) -> None:
    """What was logged before is not kept for those who come later."""
    sockets.ensure_and_bind("logs", zmq.PUB, "tcp://127.0.0.1:0", zmq.POLLOUT)
    address = sockets.get_by_name("logs").get_string(zmq.LAST_ENDPOINT)
    logger.addHandler(sockets.get_log_handler("logs", "app_logs"))
    logger.error("too early")
    sockets.ensure_and_connect("events", zmq.SUB, address, zmq.POLLIN)
    event = None
    while event is None:
        logger.error("server is up")
        event = sockets.recv_event_safe("events", "app_logs", timeout=0.01)
    assert (event.topic, event.data["message"]) == ("app_logs", "server is up")


def test_a_logger_is_named_for_its_socket_where_nobody_says_else(sockets: SocketManager) -> None:
    """By the reference that AgentZero's users have."""
    sockets.create("relet.tests.named", zmq.PUB)
    assert sockets.get_logger("relet.tests.named").name == "relet.tests.named"


def test_a_logger_that_is_asked_for_twice_says_everything_once(sockets: SocketManager, logger: logging.Logger) -> None:
    """A topic of its own is another matter."""
    channel(sockets)
    for topic in ("logs", "logs", "audit"):
        sockets.get_logger("news", topic, logger.name)
    logger.info("once")
    logger.info("last")
    heard = [sockets.recv_event_safe("events") for _ in range(4)]
    assert sorted((event.topic, event.data["message"]) for event in heard if event) == [
        ("audit", "last"),
        ("audit", "once"),
        ("logs", "last"),
        ("logs", "once"),
    ]


def test_a_logger_does_without_a_socket_that_was_closed(
    sockets: SocketManager, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs log to their very end, when their sockets are closed already."""
    channel(sockets)
    sockets.get_logger("news", logger_name=logger.name)
    sockets.close("news")
    logger.info("the end")
    assert logger.handlers == []
    assert capsys.readouterr().err == ""


def test_a_record_that_cannot_be_published_stops_nothing(
    sockets: SocketManager, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is reported as `logging` reports such things, on stderr, and nobody waits for it."""
    sockets.create("out", zmq.PUSH)  # which nobody is connected to: it never takes a message
    logger.addHandler(sockets.get_log_handler("out"))
    logger.error("nobody hears")
    assert "'out' cannot take a log record now" in capsys.readouterr().err
    sockets.close("out")
    logger.error("gone")
    assert "has no 'out'" in capsys.readouterr().err


def test_a_handler_needs_a_socket(sockets: SocketManager) -> None:
    """Which was made before."""
    with pytest.raises(SocketNotFound, match="has no 'logs'; make it first"):
        sockets.get_log_handler("logs")
    with pytest.raises(SocketNotFound):
        sockets.get_logger("logs")


def test_threads_log_through_a_manager_of_the_handlers_own(make: Make, logger: logging.Logger) -> None:
    """Used for nothing else: `logging` lets one of them in at a time."""
    sockets, own = make(timeout=LIMIT_S), make()
    sockets.create("in", zmq.PULL)
    _, address = sockets.bind_to_random_port("in", zmq.POLLIN, "tcp://127.0.0.1")
    own.ensure_and_connect("logs", zmq.PUSH, address, zmq.POLLOUT)
    own.wait_until_ready("logs", zmq.POLLOUT, LIMIT_S)
    own.get_logger("logs", logger_name=logger.name)

    def log(thread: int) -> None:
        for number in range(50):
            logger.info("%s", [thread, number])

    threads = [threading.Thread(target=log, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    heard = [event.data["message"] for _ in range(200) if (event := sockets.recv_event_safe("in"))]
    for thread in threads:
        thread.join(LIMIT_S)
    assert sorted(heard) == sorted(str([thread, number]) for thread in range(4) for number in range(50))
