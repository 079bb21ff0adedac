"""Endpoints as people write them: what is accepted, what is refused, and that a refusal says what to write instead."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relet.transport.endpoints import (
    Endpoint,
    EndpointError,
    check_distinct,
    ipc_obstacle,
    parse_bind,
    parse_connect,
)

BOUND = [
    # written, what libzmq gets, reachable from other machines
    ("tcp://*:4161", "tcp://*:4161", True),
    ("tcp://0.0.0.0:4161", "tcp://0.0.0.0:4161", True),
    ("tcp://10.1.2.3:4161", "tcp://10.1.2.3:4161", True),
    ("tcp://[::]:4161", "tcp://[::]:4161", True),
    ("tcp://127.0.0.1:4161", "tcp://127.0.0.1:4161", False),
    ("tcp://127.8.8.8:4161", "tcp://127.8.8.8:4161", False),
    ("tcp://localhost:4161", "tcp://127.0.0.1:4161", False),
    ("tcp://lo:4161", "tcp://lo:4161", False),
    ("tcp://[::1]:4161", "tcp://[::1]:4161", False),
    ("tcp://[0:0::1]:4161", "tcp://[::1]:4161", False),
    ("tcp://127.0.0.1:0", "tcp://127.0.0.1:0", False),
    ("tcp://127.0.0.1:*", "tcp://127.0.0.1:0", False),
    ("tcp://127.0.0.1:65535", "tcp://127.0.0.1:65535", False),
    (":4161", "tcp://127.0.0.1:4161", False),
    ("4161", "tcp://127.0.0.1:4161", False),
    ("0", "tcp://127.0.0.1:0", False),
    ("ipc:///tmp/relet", "ipc:///tmp/relet", False),
    ("ipc://relative/path", "ipc://relative/path", False),
    ("ipc://@abstract", "ipc://@abstract", False),
    ("ipc://*", "ipc://*", False),
    ("inproc://clients", "inproc://clients", False),
]

CONNECTED = [
    ("tcp://127.0.0.1:4161", "tcp://127.0.0.1:4161"),
    ("tcp://localhost:4161", "tcp://localhost:4161"),
    ("tcp://broker.example:4161", "tcp://broker.example:4161"),
    ("tcp://my_host-1:1", "tcp://my_host-1:1"),
    ("tcp://[fe80::1]:4161", "tcp://[fe80::1]:4161"),
    (":4161", "tcp://127.0.0.1:4161"),
    ("4161", "tcp://127.0.0.1:4161"),
    ("ipc:///tmp/relet", "ipc:///tmp/relet"),
]

REFUSED_BY_BOTH = [
    # written, what the message has to contain
    ("", "write for example tcp://127.0.0.1:4161"),
    (" tcp://*:4161", "remove it"),
    ("tcp://127.0.0.1:4161\n", "remove it"),
    ("tcp://127.0.0.1:70000", "the largest is 65535"),
    ("70000", "the largest is 65535"),
    ("tcp://127.0.0.1:" + "9" * 5000, "the largest is 65535"),
    ("tcp://127.0.0.1:4161x", "did you mean 4161?"),
    ("tcp://127.0.0.1:4161/", "did you mean 4161?"),
    ("tcp://127.0.0.1:x", "is no port"),
    ("tcp://127.0.0.1:-1", "is no port"),
    ("tcp://127.0.0.1:+1", "is no port"),
    ("tcp://127.0.0.1:٤١٦١", "is no port"),
    ("4161x", "is no endpoint"),
    ("tcp://127.0.0.1:", "the port is missing"),
    ("tcp://127.0.0.1", "tcp://127.0.0.1:4161"),
    ("tcp://[::1]", "tcp://[::1]:4161"),
    ("tcp://4161", "write for example tcp://127.0.0.1:4161"),
    ("tcp://", "the port is missing"),
    ("tcp://:4161", "write tcp://127.0.0.1:4161"),
    ("tcp://::1:4161", "write tcp://[::1]:4161"),
    ("tcp://[::x]:4161", "is no IPv6 address"),
    ("tcp://256.0.0.1:4161", "is no IPv4 address"),
    ("tcp://127.1:4161", "is no IPv4 address"),
    ("tcp://-host:4161", "is no host"),
    ("tcp://a;b:4161", "is no host"),
    ("127.0.0.1:4161", "write tcp://127.0.0.1:4161"),
    ("*:4161", "write tcp://*:4161"),
    ("tcp:127.0.0.1:4161", "write tcp://127.0.0.1:4161"),
    ("tcp:/127.0.0.1:4161", "write tcp://127.0.0.1:4161"),
    ("ipc:/tmp/relet", "write ipc:///tmp/relet"),
    ("/tmp/relet", "write ipc:///tmp/relet"),
    ("@relet", "write ipc://@relet"),
    ("ipc://", "the path is missing"),
    ("ipc:///tmp/", "this is a folder"),
    ("ipc:///tmp/" + "x" * 200, "the system allows 107"),
    ("inproc://", "the name is missing"),
    ("udp://127.0.0.1:4161", "does not speak 'udp'"),
    ("http://127.0.0.1:4161", "use tcp://HOST:PORT"),
    ("TCP://127.0.0.1:4161", "use tcp://HOST:PORT"),
]


@pytest.mark.parametrize(("text", "url", "public"), BOUND)
def test_binds(text: str, url: str, public: bool) -> None:
    """What can be bound is, and whether other machines reach it is known."""
    endpoint = parse_bind(text)
    assert (endpoint.text, endpoint.url, endpoint.is_public) == (text, url, public)


@pytest.mark.parametrize(("text", "url"), CONNECTED)
def test_connects(text: str, url: str) -> None:
    """What can be connected to is, host names included."""
    assert parse_connect(text).url == url


@pytest.mark.parametrize(("text", "hint"), REFUSED_BY_BOTH)
@pytest.mark.parametrize("parse", [parse_bind, parse_connect])
def test_refuses(parse: object, text: str, hint: str) -> None:
    """What libzmq would read wrongly is refused in one line that says what to change."""
    with pytest.raises(EndpointError) as refused:
        parse_bind(text) if parse is parse_bind else parse_connect(text)
    assert hint in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("tcp://*:4161", "tcp://127.0.0.1:4161"),
        ("tcp://0.0.0.0:4161", "tcp://127.0.0.1:4161"),
        ("tcp://127.0.0.1:0", "banner"),
        ("tcp://127.0.0.1:*", "is no port"),
        ("0", "banner"),
        ("ipc://*", "banner"),
    ],
)
def test_refuses_to_connect_to_what_can_only_be_bound(text: str, hint: str) -> None:
    """A wildcard is no address: the message names one, or where to find it."""
    with pytest.raises(EndpointError, match=hint.replace(".", r"\.")):
        parse_connect(text)


def test_refuses_to_bind_to_a_host_that_is_not_here() -> None:
    """libzmq looks up no names when it binds, and its own message would be "No such device"."""
    with pytest.raises(EndpointError, match=r"bind to tcp://\*:4161"):
        parse_bind("tcp://broker.example:4161")


def test_refuses_inproc_where_it_makes_no_sense() -> None:
    """On a command line inproc:// reaches nobody, and the message says why."""
    with pytest.raises(EndpointError, match="same process"):
        parse_bind("inproc://clients", inproc=False)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("tcp://127.0.0.1:4161", "4161", True),
        ("tcp://*:4161", "tcp://127.0.0.1:4161", True),
        ("tcp://localhost:4161", ":4161", True),
        ("tcp://[::1]:4161", "tcp://[0::1]:4161", True),
        ("tcp://127.0.0.1:4161", "tcp://127.0.0.2:4161", False),
        ("tcp://127.0.0.1:4161", "tcp://127.0.0.1:4162", False),
        ("tcp://127.0.0.1:0", "tcp://127.0.0.1:0", False),
        ("ipc:///tmp/a", "ipc:///tmp/../tmp/a", True),
        ("ipc:///tmp/a", "ipc:///tmp/b", False),
        ("ipc://*", "ipc://*", False),
        ("inproc://a", "inproc://a", True),
        ("ipc://a", "inproc://a", False),
    ],
)
def test_tells_endpoints_apart(one: str, other: str, same: bool) -> None:
    """The same endpoint twice is refused with both roles named, however differently it was spelled."""
    endpoints = {"clients": parse_bind(one), "workers": parse_bind("inproc://else"), "answers": parse_bind(other)}
    if same:
        with pytest.raises(EndpointError, match="clients and answers"):
            check_distinct(endpoints)
    else:
        check_distinct(endpoints)


@given(st.text(max_size=40) | st.from_regex(r"(tcp|ipc|inproc)://[^\n]{0,20}:[0-9x*]{0,6}", fullmatch=True))
def test_any_text_is_an_endpoint_or_an_endpoint_error(text: str) -> None:
    """No text makes a parser fail in another way, and what is accepted survives being written out and read again."""
    for parse in (parse_bind, parse_connect):
        try:
            endpoint = parse(text)
        except EndpointError as error:
            message = str(error)
        else:
            message = ""
            again: Endpoint = parse(endpoint.url)
            assert (again.url, again.is_public) == (endpoint.url, endpoint.is_public)
        assert message.isprintable()


def test_an_ipc_path_is_not_taken_from_others(tmp_path: Path) -> None:
    """libzmq would delete a file or a living socket at the path; a dead broker's socket is in nobody's way."""
    path = tmp_path / "clients"
    endpoint = parse_bind(f"ipc://{path}")
    assert ipc_obstacle(endpoint) is None
    path.write_text("somebody's data")
    assert "is no socket" in str(ipc_obstacle(endpoint))
    path.unlink()
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        assert "in use" in str(ipc_obstacle(endpoint))
    assert path.exists()
    assert ipc_obstacle(endpoint) is None


def test_an_ipc_folder_has_to_exist(tmp_path: Path) -> None:
    """The message names the folder, where libzmq only says that there is no such file."""
    assert "no folder" in str(ipc_obstacle(parse_bind(f"ipc://{tmp_path}/nowhere/clients")))


@pytest.mark.parametrize("text", ["tcp://127.0.0.1:4161", "ipc://*", "ipc://@abstract", "inproc://a"])
def test_other_endpoints_have_no_file_in_their_way(text: str) -> None:
    """Only a path in the file system can be occupied by a file."""
    assert ipc_obstacle(parse_bind(text)) is None
