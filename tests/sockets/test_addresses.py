"""Addresses: what the system is asked for, and what becomes of what people write."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from relet.sockets import (
    extract_hostname_from_tcp_address,
    fix_zeromq_tcp_address,
    get_default_bind_address,
    get_free_tcp_port,
    get_public_ip_address,
    get_public_zmq_address,
    resolve_hostname,
)
from relet.transport.endpoints import EndpointError, parse_bind, parse_connect


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A name service: name -> its addresses."""
    known: dict[str, list[str]] = {}

    def look_up(host: str, *arguments: Any, **options: Any) -> list[Any]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        families = [(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in known[host]]
        return [(family, socket.SOCK_STREAM, 6, "", (address, 0)) for family, address in families]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


def test_a_free_port_can_be_listened_on() -> None:
    """On every interface."""
    port = get_free_tcp_port()
    with socket.socket() as listener:
        listener.bind(("", port))
        listener.listen()


def test_addresses_to_bind_and_to_announce_can_be_meant() -> None:
    """Both are complete; the second one can be connected to as well."""
    assert parse_bind(get_default_bind_address()).host == "0.0.0.0"  # noqa: S104 - nothing is bound
    announced = get_public_zmq_address()
    assert parse_connect(announced).host == parse_bind(announced).host == get_public_ip_address()


def test_the_public_address_is_one_of_this_machine() -> None:
    """It can be bound."""
    with socket.socket() as listener:
        listener.bind((get_public_ip_address(), 0))


def test_a_machine_without_a_network_has_its_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nobody to reach it from elsewhere."""

    class Unplugged(socket.socket):
        def connect(self, address: Any) -> None:
            raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "socket", Unplugged)
    assert get_public_ip_address() == "127.0.0.1"


def test_hosts_are_looked_up(hosts: dict[str, list[str]]) -> None:
    """IPv4 before IPv6, for that is what peers have."""
    hosts.update({"a.example": ["192.0.2.7"], "b.example": ["2001:db8::7", "192.0.2.8"], "c.example": ["2001:db8::9"]})
    assert resolve_hostname("a.example") == "192.0.2.7"
    assert resolve_hostname("b.example") == "192.0.2.8"
    assert resolve_hostname("c.example") == "2001:db8::9"
    assert get_public_ip_address("a.example") == "192.0.2.7"


def test_a_host_that_is_not_there_is_named(hosts: dict[str, list[str]]) -> None:
    """With the system's reason, as the error that the system has for it."""
    for find in (resolve_hostname, get_public_ip_address):
        with pytest.raises(socket.gaierror, match=r"'d.example' cannot be found \(Name or service not known\)"):
            find("d.example")


def test_a_name_that_is_none_is_no_other_error() -> None:
    """Labels of names have at most 63 characters (RFC 1035), which Python finds out before it asks."""
    with pytest.raises(socket.gaierror, match="cannot be found"):
        resolve_hostname("a" * 64 + ".example")


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("tcp://a.example:4161", "a.example"),
        ("tcp://localhost:0", "localhost"),
        ("tcp://192.0.2.7:4161", "192.0.2.7"),
        ("tcp://[2001:db8::7]:4161", "2001:db8::7"),
        ("tcp://*:4161", "*"),
    ],
)
def test_the_host_of_an_address_is_told(address: str, host: str) -> None:
    """As it was written."""
    assert extract_hostname_from_tcp_address(address) == host


@pytest.mark.parametrize(
    ("address", "fixed"),
    [
        ("tcp://a.example:4161", "tcp://192.0.2.7:4161"),
        ("tcp://c.example:4161", "tcp://[2001:db8::9]:4161"),
        ("tcp://192.0.2.8:4161", "tcp://192.0.2.8:4161"),
        ("tcp://[::1]:4161", "tcp://[::1]:4161"),
        ("tcp://*:4161", "tcp://*:4161"),
        ("tcp://lo:4161", "tcp://lo:4161"),
        ("tcp://a.example:*", "tcp://192.0.2.7:0"),
    ],
)
def test_names_in_addresses_become_addresses(hosts: dict[str, list[str]], address: str, fixed: str) -> None:
    """What libzmq understands stays as it is."""
    hosts.update({"a.example": ["192.0.2.7"], "c.example": ["2001:db8::9"]})
    assert fix_zeromq_tcp_address(address) == fixed


@pytest.mark.parametrize("read", [extract_hostname_from_tcp_address, fix_zeromq_tcp_address])
def test_what_is_no_tcp_address_is_refused(read: Any) -> None:
    """By the one parser of endpoints, with what to write instead."""
    with pytest.raises(EndpointError, match="this is ipc, which has no host; write tcp://HOST:PORT"):
        read("ipc:///tmp/jobs")
    with pytest.raises(EndpointError, match="the port is missing"):
        read("tcp://a.example")
    with pytest.raises(TypeError, match="address is an endpoint as text"):
        read(4161)
