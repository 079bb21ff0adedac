"""Sockets by name: made, attached to addresses, given options, closed, and errors that say what to do."""

from __future__ import annotations

import importlib
import socket
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import zmq
import zmq.asyncio

from relet.sockets import (
    JSON,
    SocketAlreadyExists,
    SocketBindError,
    SocketConnectError,
    SocketError,
    SocketManager,
    SocketNotFound,
)

from .conftest import BOTH, IN, LIMIT_MS, OUT, WITHOUT_GEVENT, Make, pipe


def test_a_socket_is_found_by_the_name_that_it_was_made_with(sockets: SocketManager) -> None:
    """It is the same object each time, of the type that was asked for."""
    made = sockets.create("questions", zmq.REQ)
    assert made.type == zmq.REQ
    assert sockets.get_by_name("questions") is made
    assert sockets.names == ["questions"]
    assert repr(sockets) == "SocketManager(sockets=['questions'])"


def test_a_name_belongs_to_one_socket(sockets: SocketManager) -> None:
    """The error names the manager's sockets and says what to do."""
    sockets.create("questions", zmq.REQ)
    with pytest.raises(SocketAlreadyExists, match=r"sockets=\['questions'\]\) has 'questions' already: take another"):
        sockets.create("questions", zmq.REQ)


def test_a_name_that_is_nobodys_is_not_found(sockets: SocketManager) -> None:
    """By every method; the error names what there is, and what was meant perhaps."""
    sockets.create("requests", zmq.REQ)
    calls: list[Any] = [
        sockets.get_by_name,
        lambda name: sockets.bind(name, "tcp://127.0.0.1:0", IN),
        lambda name: sockets.bind_to_random_port(name, IN),
        lambda name: sockets.connect(name, "tcp://127.0.0.1:4161", IN),
        sockets.disconnect,
        lambda name: sockets.ready(name, IN),
        lambda name: sockets.wait_until_ready(name, IN),
        lambda name: sockets.send_safe(name, 1),
        sockets.recv_safe,
        lambda name: sockets.publish_safe(name, "topic", 1),
        sockets.recv_event_safe,
        sockets.subscribe,
        lambda name: sockets.set_socket_option(name, zmq.LINGER, 0),
        lambda name: sockets.set_topic(name, "topic"),
        sockets.get_log_handler,
        sockets.get_logger,
    ]
    for call in calls:
        with pytest.raises(SocketNotFound, match=r"sockets=\['requests'\]\) has no 'request'; did you mean 'requests'"):
            call("request")
        with pytest.raises(SocketNotFound, match=r"has no 'logs'; make it first: create\('logs', \.\.\.\)") as caught:
            call("logs")
        assert caught.value.socket_name == "logs"


def test_what_is_there_is_taken_and_what_is_not_is_made(sockets: SocketManager) -> None:
    """`get_or_create` registers it as well; one of another type is not taken for it."""
    made = sockets.get_or_create("jobs", zmq.PULL, IN)
    assert sockets.get_or_create("jobs", zmq.PULL, IN) is made
    with pytest.raises(SocketAlreadyExists, match="has 'jobs' already, as a PULL and not a PUSH"):
        sockets.get_or_create("jobs", zmq.PUSH, OUT)
    address = f"tcp://127.0.0.1:{made.bind_to_random_port('tcp://127.0.0.1')}"
    sockets.create("out", zmq.PUSH).connect(address)
    sockets.send_safe("out", 1)
    assert sockets.engage() == {made: IN}


def test_all_errors_have_one_base(sockets: SocketManager) -> None:
    """Which is an `Exception`, so that no `except Exception` is passed by."""
    for error in (SocketAlreadyExists, SocketNotFound, SocketBindError, SocketConnectError):
        assert issubclass(error, SocketError)
    assert issubclass(SocketError, Exception)


def test_a_bound_and_a_connected_socket_exchange_messages(sockets: SocketManager) -> None:
    """Both calls return the socket itself."""
    served = sockets.create("server", zmq.REP)
    assert sockets.bind("server", "tcp://127.0.0.1:0", BOTH) is served
    asked = sockets.create("client", zmq.REQ)
    assert sockets.connect("client", served.get_string(zmq.LAST_ENDPOINT), BOTH) is asked
    assert sockets.send_safe("client", "how are you?")
    assert sockets.recv_safe("server") == "how are you?"
    assert sockets.send_safe("server", "well")
    assert sockets.recv_safe("client") == "well"


def test_sockets_of_one_process_reach_each_other(sockets: SocketManager) -> None:
    """`inproc` connects before or after it is bound."""
    sockets.ensure_and_connect("out", zmq.PAIR, "inproc://both", BOTH)
    sockets.ensure_and_bind("in", zmq.PAIR, "inproc://both", BOTH)
    assert sockets.send_safe("out", 1)
    assert sockets.recv_safe("in") == 1


def test_files_of_others_are_not_taken(sockets: SocketManager, tmp_path: Path) -> None:
    """Endpoints are those of the whole of relet: libzmq would delete what lies at the path."""
    (tmp_path / "jobs").write_text("somebody's")
    sockets.create("jobs", zmq.PULL)
    with pytest.raises(SocketBindError, match="exists and is no socket"):
        sockets.bind("jobs", f"ipc://{tmp_path}/jobs", IN)
    assert (tmp_path / "jobs").read_text() == "somebody's"
    assert sockets.bind("jobs", f"ipc://{tmp_path}/others", IN)


def test_a_random_port_is_told(sockets: SocketManager) -> None:
    """The socket and its address, which can be connected to."""
    made = sockets.create("in", zmq.PULL)
    bound, address = sockets.bind_to_random_port("in", IN, local_address="tcp://127.0.0.1")
    assert bound is made
    assert address == made.get_string(zmq.LAST_ENDPOINT)
    assert address.startswith("tcp://127.0.0.1:")
    sockets.ensure_and_connect("out", zmq.PUSH, address, OUT)
    sockets.send_safe("out", "hello")
    assert sockets.recv_safe("in") == "hello"


@pytest.mark.parametrize(
    ("local_address", "text"),
    [
        ("tcp://127.0.0.1:4161", "without a port"),
        ("127.0.0.1", "without a port"),
        ("tcp://192.0.2.7", "no such address"),
    ],
)
def test_a_random_port_needs_an_address_of_this_machine(sockets: SocketManager, local_address: str, text: str) -> None:
    """The error says what to write."""
    sockets.create("in", zmq.PULL)
    with pytest.raises(SocketBindError, match=text):
        sockets.bind_to_random_port("in", IN, local_address)


def test_names_of_hosts_are_looked_up_to_bind(sockets: SocketManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """libzmq would not: it knows addresses and interfaces only."""
    asked = []

    def look_up(host: str, *arguments: Any, **options: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    made = sockets.ensure_and_bind("in", zmq.PULL, "tcp://here.example:0", IN)
    assert asked == ["here.example"]
    assert made.get_string(zmq.LAST_ENDPOINT).startswith("tcp://127.0.0.1:")


def test_a_host_that_is_not_found_is_named(sockets: SocketManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the bind like all others."""

    def look_up(host: str, *arguments: Any, **options: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(SocketBindError, match=r"cannot bind 'in': the host 'nobody.example' cannot be found \(Name or"):
        sockets.ensure_and_bind("in", zmq.PULL, "tcp://nobody.example:4161", IN)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("tcp://127.0.0.1:70000", "the largest is 65535"),
        ("127.0.0.1:4161", "write tcp://127.0.0.1:4161"),
        ("tcp://192.0.2.7:4161", "this machine has no such address"),
        ("udp://127.0.0.1:4161", "use tcp://HOST:PORT"),
    ],
)
def test_a_bind_that_fails_says_what_to_change(sockets: SocketManager, address: str, text: str) -> None:
    """One error for all that can be wrong; the socket stays as it was, and is not registered."""
    made = sockets.create("in", zmq.PULL)
    with pytest.raises(SocketBindError, match=r"sockets=\['in'\]\) cannot bind 'in'.*" + text) as caught:
        sockets.bind("in", address, IN)
    assert "\n" not in str(caught.value)
    assert made not in sockets.engage(timeout=0)
    assert sockets.bind("in", "tcp://127.0.0.1:0", IN) is made


def test_an_address_in_use_is_named(sockets: SocketManager) -> None:
    """With what to do about it; of sockets in one process, too."""
    address = pipe(sockets)
    with pytest.raises(SocketBindError, match=r"cannot bind 'other' to .*in use - stop the program"):
        sockets.ensure_and_bind("other", zmq.PULL, address, IN)
    sockets.ensure_and_bind("one", zmq.PULL, "inproc://one", IN)
    with pytest.raises(SocketBindError, match="another socket of this context"):
        sockets.ensure_and_bind("two", zmq.PULL, "inproc://one", IN)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("tcp://*:4161", "connect to one address"),
        ("tcp://127.0.0.1", "the port is missing"),
        ("tcp://127.0.0.1:0", "port 0 can only be bound"),
    ],
)
def test_a_connect_that_fails_says_what_to_change(sockets: SocketManager, address: str, text: str) -> None:
    """That nobody is there is no failure; an address that cannot be meant is."""
    sockets.create("out", zmq.PUSH)
    with pytest.raises(SocketConnectError, match=r"sockets=\['out'\]\) cannot connect 'out'.*" + text):
        sockets.connect("out", address, OUT)
    with pytest.raises(SocketConnectError):
        sockets.ensure_and_connect("out", zmq.PUSH, address, OUT)


def test_what_libzmq_says_of_a_connect_is_passed_on(library: ModuleType) -> None:
    """A context without I/O threads reaches nobody outside its process."""
    with (
        library.Context(io_threads=0) as context,
        SocketManager(library, context) as sockets,
        pytest.raises(SocketConnectError, match=r"cannot connect 'out' to tcp://127.0.0.1:4161: No thread"),
    ):
        sockets.ensure_and_connect("out", zmq.PUSH, "tcp://127.0.0.1:4161", OUT)


def test_what_was_ensured_is_not_done_twice(sockets: SocketManager) -> None:
    """One bind and one connection, however often it is said: a second connection would bring each event twice."""
    served = sockets.ensure_and_bind("news", zmq.XPUB, "tcp://127.0.0.1:0", BOTH)
    assert sockets.ensure_and_bind("news", zmq.XPUB, "tcp://127.0.0.1:0", BOTH) is served
    address = served.get_string(zmq.LAST_ENDPOINT)
    heard = [sockets.ensure_and_connect("events", zmq.SUB, address, IN) for _ in range(2)]
    assert heard[0] is heard[1]
    sockets.set_topic("events", "")
    assert sockets.wait_until_ready("news", IN) is served
    sockets.publish_safe("news", "topic", 1)
    sockets.publish_safe("news", "last", 2)
    assert [sockets.recv_event_safe("events") for _ in range(2)] == [("topic", 1), ("last", 2)]
    with pytest.raises(SocketAlreadyExists, match="has 'news' already, as a XPUB and not a PUB"):
        sockets.ensure_and_bind("news", zmq.PUB, "tcp://127.0.0.1:0", OUT)
    with pytest.raises(SocketAlreadyExists):
        sockets.ensure_and_connect("news", zmq.PUB, address, OUT)


def test_a_disconnected_socket_goes_on_with_its_other_peers(sockets: SocketManager) -> None:
    """By its address, or from all of them; the socket can be connected again."""
    first = pipe(sockets)
    sockets.create("other", zmq.PULL)
    _, second = sockets.bind_to_random_port("other", IN, "tcp://127.0.0.1")
    sockets.connect("out", second, OUT)
    assert sockets.disconnect("out", first) is sockets.get_by_name("out")
    for number in range(3):
        assert sockets.send_safe("out", number)
    assert [sockets.recv_safe("other") for _ in range(3)] == [0, 1, 2]
    sockets.disconnect("out")
    assert not sockets.send_safe("out", 3, timeout=0)
    with pytest.raises(SocketConnectError, match=r"cannot disconnect 'out' from .*: it is connected to nobody"):
        sockets.disconnect("out", first)
    sockets.connect("out", first, OUT)
    with pytest.raises(SocketConnectError, match=r"it is connected only to tcp://127.0.0.1:"):
        sockets.disconnect("out", second)
    assert sockets.send_safe("out", 4)
    assert sockets.recv_safe("in") == 4


def test_a_closed_socket_is_gone_and_its_name_free(sockets: SocketManager) -> None:
    """It is not polled any more; to close what is not there is no error."""
    pipe(sockets)
    out = sockets.get_by_name("out")
    assert sockets.wait_until_ready("out", OUT) is out
    assert sockets.engage(timeout=0) == {out: OUT}
    sockets.close("out")
    sockets.close("out")
    assert out.closed
    assert sockets.engage(timeout=0) == {}
    assert sockets.names == ["in"]
    sockets.create("out", zmq.PUB)


def test_a_socket_that_was_closed_by_other_hands_is_gone_too(sockets: SocketManager) -> None:
    """Its name is free, and nobody polls what libzmq does not know any more."""
    pipe(sockets)
    sockets.get_by_name("out").close()
    assert sockets.engage(timeout=0) == {}
    with pytest.raises(SocketNotFound):
        sockets.get_by_name("out")
    sockets.get_by_name("in").close()
    assert sockets.get_or_create("in", zmq.PUSH, OUT).type == zmq.PUSH


def test_a_with_block_closes_all(make: Make) -> None:
    """What was sent before still leaves; the context is the caller's."""
    with make() as sockets:
        address = pipe(sockets)
        sockets.close("out")
        with make() as others:
            out = others.ensure_and_connect("out", zmq.PUSH, address, OUT)
            others.send_safe("out", "last words")
        assert out.closed
        assert sockets.recv_safe("in") == "last words"
    assert sockets.names == []


def test_a_closed_socket_does_not_hold_up_its_context(sockets: SocketManager) -> None:
    """libzmq would wait for ever for a peer that does not come; one second is the default here, and an option."""
    assert sockets.create("out", zmq.PUSH).linger == 1_000
    sockets.set_socket_option("out", zmq.LINGER, 0)
    assert sockets.get_by_name("out").linger == 0


@pytest.mark.parametrize("value", ["ann", b"ann"])
def test_options_are_numbers_text_or_bytes(sockets: SocketManager, value: str | bytes) -> None:
    """As libzmq knows them."""
    made = sockets.create("questions", zmq.REQ)
    sockets.set_socket_option("questions", zmq.IDENTITY, value)
    sockets.set_socket_option("questions", zmq.RCVBUF, 4096)
    assert made.getsockopt(zmq.IDENTITY) == b"ann"
    assert made.getsockopt(zmq.RCVBUF) == 4096


def test_one_option_sets_both_high_water_marks(sockets: SocketManager) -> None:
    """libzmq has had two since version 3, and refuses the old one."""
    made = sockets.create("in", zmq.PULL)
    sockets.set_socket_option("in", zmq.HWM, 10)
    assert (made.sndhwm, made.rcvhwm) == (10, 10)


@pytest.mark.parametrize(
    ("option", "value", "error", "text"),
    [
        (zmq.LINGER, "long", TypeError, "zmq.LINGER of 'out', a PUSH, cannot be 'long'"),
        (zmq.SUBSCRIBE, "topic", ValueError, "zmq.SUBSCRIBE of 'out', a PUSH, cannot be 'topic'"),
        (99_999, 1, ValueError, "option 99999 of 'out'"),
        (zmq.HWM, -1, ValueError, "zmq.HWM of 'out'"),
    ],
)
def test_an_option_that_cannot_be_is_refused(
    sockets: SocketManager, option: int, value: Any, error: type[Exception], text: str
) -> None:
    """With its name, the socket's, and the value."""
    sockets.create("out", zmq.PUSH)
    with pytest.raises(error, match=text):
        sockets.set_socket_option("out", option, value)


def test_arguments_that_cannot_be_meant_are_refused(sockets: SocketManager) -> None:
    """Each with what to write instead."""
    pipe(sockets)
    anything: Any = sockets
    cases: list[tuple[type[Exception], str, Any]] = [
        (TypeError, "a socket has a name, text such as 'logs', not b'logs'", lambda: anything.create(b"logs", zmq.PUB)),
        (TypeError, "a socket has a name", lambda: sockets.create("", zmq.PUB)),
        (ValueError, "one of zmq.REQ, zmq.PUB, zmq.PAIR ..., not 'PUB'", lambda: anything.create("logs", "PUB")),
        (ValueError, "socket_type is one of", lambda: sockets.get_or_create("in", 99, IN)),
        (ValueError, r"zmq.POLLIN, zmq.POLLOUT or .*, not 0", lambda: sockets.get_or_create("in", zmq.PULL, 0)),
        (ValueError, "polling_mechanism is", lambda: sockets.bind("in", "tcp://127.0.0.1:0", 8)),
        (TypeError, r"takes a socket, such as get_by_name", lambda: anything.register_socket("in", IN)),
        (TypeError, "address is an endpoint as text", lambda: anything.connect("out", 4161, OUT)),
        (TypeError, "local_address is an endpoint as text", lambda: anything.bind_to_random_port("in", IN, 4161)),
        (TypeError, "timeout is a number, not '1'", lambda: anything.engage("1")),
        (ValueError, "timeout is 0 or more, not -1", lambda: sockets.recv_safe("in", timeout=-1)),
        (ValueError, "timeout is 0 or more, not nan", lambda: sockets.ready("in", IN, timeout=float("nan"))),
        (TypeError, "a topic is text or bytes, not 7", lambda: anything.publish_safe("out", 7, 1)),
        (TypeError, "a topic is text or bytes, not True", lambda: anything.recv_event_safe("in", True)),
        (TypeError, "keep_polling is a function", lambda: anything.subscribe("in", keep_polling=True)),
    ]
    for error, text, call in cases:
        with pytest.raises(error, match=text):
            call()
    assert sockets.names == ["in", "out"]


def test_a_manager_takes_a_module_and_its_context(library: ModuleType) -> None:
    """The wrong ones would stop every greenlet, or return futures where messages are due."""
    anything: Any = SocketManager
    with library.Context() as context, zmq.asyncio.Context() as foreign:
        with pytest.raises(TypeError, match=r"takes the module first, zmq or zmq.green"):
            anything(context, library)
        with pytest.raises(TypeError, match=r"context is a zmq.*Context, not None"):
            anything(library, None)
        with pytest.raises(TypeError, match=r"context is one of zmq.*; make it with zmq.*\.Context\(\)"):
            anything(library, foreign)
        with pytest.raises(TypeError, match=r"such as JSON\(\) or MessagePack\(\), not <class"):
            anything(library, context, JSON)
        with pytest.raises(ValueError, match="polling_timeout is 0 or more, not -5"):
            SocketManager(library, context, polling_timeout=-5)


def test_contexts_of_the_two_modules_are_told_apart() -> None:
    """Green sockets in a plain poller would stop every greenlet."""
    pytest.importorskip("gevent", reason=WITHOUT_GEVENT)
    green = importlib.import_module("zmq.green")
    with zmq.Context() as plain, green.Context() as other:
        with pytest.raises(TypeError, match=r"make it with zmq\.Context\(\)"):
            SocketManager(zmq, other)
        with pytest.raises(TypeError, match=r"make it with zmq\.green\.Context\(\)"):
            SocketManager(green, plain)


def test_a_context_that_has_ended_makes_no_sockets(library: ModuleType) -> None:
    """The error says so, where libzmq only says that it cannot."""
    context = library.Context()
    sockets = SocketManager(library, context)
    context.term()
    with pytest.raises(SocketError, match="its context was terminated"):
        sockets.create("in", zmq.PULL)


def test_sockets_of_others_can_be_polled_too(sockets: SocketManager, library: ModuleType) -> None:
    """Whatever was registered last for a socket is what it is polled for."""
    pipe(sockets)
    foreign = sockets.get_by_name("out").context.socket(zmq.PAIR)
    other = sockets.create("pair", zmq.PAIR)
    foreign.bind("inproc://pair")
    other.connect("inproc://pair")
    assert sockets.register_socket(foreign, BOTH) is foreign
    other.send(b"")
    assert sockets.wait_until_ready("out", OUT)
    assert sockets.engage(LIMIT_MS)[foreign] == BOTH
    sockets.register_socket(foreign, IN)
    assert sockets.engage(LIMIT_MS)[foreign] == IN
    foreign.close()
    assert foreign not in sockets.engage(LIMIT_MS)
