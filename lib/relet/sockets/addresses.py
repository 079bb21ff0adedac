"""Addresses: what is free, what others can reach, and what libzmq wants instead of what people write.

Endpoints are parsed by `relet.transport.endpoints` alone. What is added here asks the system: for ports, and for the
addresses behind names. Names are looked up by the system's resolver, which may take seconds.
"""

from __future__ import annotations

import socket
from typing import Final

import msgspec

from relet.transport.endpoints import LOOPBACK, Endpoint, EndpointError, check_text, parse

_ELSEWHERE: Final = ("192.0.2.1", 9)
"""An address that is nobody's (RFC 5737). A UDP socket that is connected to it sends nothing, and knows its route."""


def get_free_tcp_port() -> int:
    """A TCP port on which nobody listens, on any interface.

    Another program may take it before you do; `SocketManager.bind_to_random_port` leaves no such gap.
    """
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


def get_public_ip_address(hostname: str | None = None) -> str:
    """The address by which other machines reach a host.

    Args:
        hostname: the host; None: this machine, by the interface that leads to the rest of the world. What a router
            makes of it farther out cannot be known here.

    Returns:
        An address without a port: IPv4 where the host has one; 127.0.0.1 where this machine has no network.

    Raises:
        socket.gaierror: there is no such host.
    """
    if hostname is not None:
        return resolve_hostname(hostname)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
        except OSError:
            return LOOPBACK
        address: str = probe.getsockname()[0]
        return address


def get_default_bind_address() -> str:
    """An endpoint to bind: every interface, and a free port (see `get_free_tcp_port`)."""
    return f"tcp://0.0.0.0:{get_free_tcp_port()}"


def get_public_zmq_address() -> str:
    """An endpoint that can be bound here and connected to from elsewhere: the public address, and a free port."""
    return f"tcp://{get_public_ip_address()}:{get_free_tcp_port()}"


def resolve_hostname(hostname: str) -> str:
    """The address of a host: IPv4 where it has one, else IPv6.

    Raises:
        socket.gaierror: there is no such host.
    """
    try:
        found = socket.getaddrinfo(hostname, None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        why = error.strerror if isinstance(error, socket.gaierror) else str(error)
        text = f"the host {hostname!r} cannot be found ({why}); check the name, or write its address"
        raise socket.gaierror(error.errno if isinstance(error, socket.gaierror) else socket.EAI_NONAME, text) from None
    found.sort(key=lambda info: info[0] != socket.AF_INET)
    return str(found[0][4][0])


def extract_hostname_from_tcp_address(address: str) -> str:
    """What stands between `tcp://` and the port: a name, an address (IPv6 without its brackets), or `*`.

    Raises:
        EndpointError: it is no address of tcp.
    """
    return _tcp(address).host


def fix_zeromq_tcp_address(address: str) -> str:
    """The same address with the host looked up: libzmq binds to addresses and interfaces, not to names.

    Args:
        address: `tcp://HOST:PORT`. Addresses, interfaces of this machine and `*` stay as they are.

    Raises:
        EndpointError: it is no address of tcp.
        socket.gaierror: there is no such host.
    """
    return with_address(_tcp(address)).url


def with_address(endpoint: Endpoint) -> Endpoint:
    """The endpoint with its host looked up, if that is a name; otherwise itself."""
    if not endpoint.has_name:
        return endpoint
    return msgspec.structs.replace(endpoint, host=resolve_hostname(endpoint.host))


def _tcp(address: str) -> Endpoint:
    check_text("address", address)
    endpoint = parse(address)
    if endpoint.scheme != "tcp":
        raise EndpointError(f"{address!r}: this is {endpoint.scheme}, which has no host; write tcp://HOST:PORT")
    return endpoint
