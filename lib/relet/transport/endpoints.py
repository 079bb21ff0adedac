"""Endpoints, as people write them and as libzmq wants them.

libzmq believes too much: it binds port 4464 when told 70000, reads `4161x` as 4161, connects to nobody without a word,
and deletes whatever file it finds where an `ipc://` socket shall lie. So endpoints are parsed here, strictly and before
any socket exists, and each refusal is one line that says what to write instead.

    tcp://*:4161  tcp://127.0.0.1:4161  tcp://[::1]:4161
    tcp://eth0:4161 (bind)  tcp://broker.example:4161 (connect)
    4161  :4161                             port 4161 on the loopback interface
    tcp://127.0.0.1:0  tcp://127.0.0.1:*    a port of the system's choice (bind)
    ipc:///run/relet/clients  ipc://@name   a socket in the file system; an abstract one (Linux)
    inproc://name                           the same process and context only
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec

PORT_MAX = 65535
IPC_PATH_BYTES_MAX = 107
"""`sun_path` of unix(7) holds 108 bytes, one of which ends the name."""
IPC_PROBE_SECONDS_MAX = 0.2
LOOPBACK = "127.0.0.1"
EVERY_INTERFACE = ("*", "0.0.0.0", "::")  # noqa: S104 - recognised here in order to warn of it
HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
DIGITS = re.compile(r"[0-9]+")


class EndpointError(ValueError):
    """An endpoint that cannot be meant; the message is one line that says what is wrong and what to change."""


class Endpoint(msgspec.Struct, frozen=True):
    """An endpoint that was parsed and found well-formed."""

    text: str
    """As it was written."""
    scheme: str
    """`tcp`, `ipc` or `inproc`."""
    host: str = ""
    """For tcp: `*`, an address without brackets, an interface (bind) or a host name (connect)."""
    port: int | None = None
    """For tcp: 1 to 65535; 0 is a port of the system's choice (bind only)."""
    path: str = ""
    """For ipc and inproc: what stands behind the scheme."""

    @property
    def url(self) -> str:
        """What libzmq gets."""
        if self.scheme != "tcp":
            return f"{self.scheme}://{self.path}"
        host = f"[{self.host}]" if self.is_ipv6 else self.host
        return f"tcp://{host}:{self.port}"

    @property
    def is_ipv6(self) -> bool:
        """Whether the host is an IPv6 address, so that the socket needs `ZMQ_IPV6`."""
        return ":" in self.host

    @property
    def has_name(self) -> bool:
        """Whether the host is a name to be looked up: no address, no wildcard, no interface of this machine."""
        if self.scheme != "tcp" or self.host in EVERY_INTERFACE:
            return False
        return not _is_address(self.host) and not _is_interface(self.host)

    @property
    def is_public(self) -> bool:
        """Whether other machines can reach a socket that is bound here."""
        if self.scheme != "tcp":
            return False
        return not (self.host in {"::1", "lo", "lo0"} or self.host.startswith("127."))


def parse_bind(text: str, *, inproc: bool = True) -> Endpoint:
    """An endpoint for a socket that binds.

    Args:
        text: what was written; see the top of this file for the forms.
        inproc: whether `inproc://` makes sense here; it does not on a command line.

    Raises:
        EndpointError: with one line that says what to change.
    """
    endpoint = _parse(text, inproc=inproc, binds=True)
    if endpoint.host == "localhost":
        # libzmq looks up no names when it binds.
        return msgspec.structs.replace(endpoint, host=LOOPBACK)
    if endpoint.has_name:
        raise EndpointError(
            f"{text!r}: {endpoint.host!r} is neither an address nor an interface of this machine; "
            f"bind to tcp://*:{endpoint.port} (all interfaces) or tcp://{LOOPBACK}:{endpoint.port} (this machine only)"
        )
    return endpoint


def parse_connect(text: str, *, inproc: bool = True) -> Endpoint:
    """An endpoint for a socket that connects; parameters and errors as in `parse_bind`."""
    endpoint = _parse(text, inproc=inproc, binds=False)
    if endpoint.scheme == "tcp" and endpoint.host in EVERY_INTERFACE:
        raise EndpointError(
            f"{text!r}: {endpoint.host!r} means every interface and can only be bound; connect to one address, "
            f"for example tcp://{LOOPBACK}:{endpoint.port}"
        )
    return endpoint


def parse(text: str) -> Endpoint:
    """An endpoint for neither side in particular: well-formed, whether or not it can be had here.

    Errors as in `parse_bind`.
    """
    return _parse(text, inproc=True, binds=True)


def check_text(role: str, endpoint: object, *, host: str = "localhost") -> None:
    """Check that the endpoint of a role is text at all.

    Args:
        role: the name of the argument.
        endpoint: what was given.
        host: what stands in the example.

    Raises:
        TypeError: naming the role, with an example.
    """
    if not isinstance(endpoint, str):
        example = f"tcp://{host}:{endpoint if type(endpoint) is int else 4161}"
        raise TypeError(
            f"{role} is an endpoint as text, such as {example!r}, not {endpoint!r:.100} ({type(endpoint).__name__})"
        )


def check_distinct(endpoints: Mapping[str, Endpoint]) -> None:
    """Check that no two roles share an endpoint.

    Args:
        endpoints: role -> endpoint.

    Raises:
        EndpointError: naming both roles.
    """
    seen: list[tuple[str, Endpoint]] = []
    for role, endpoint in endpoints.items():
        for other_role, other in seen:
            if _overlap(endpoint, other):
                both = other.text if other.text == endpoint.text else f"{other.text} and {endpoint.text}"
                raise EndpointError(
                    f"{other_role} and {role} have the same endpoint ({both}); give each of them one of its own"
                )
        seen.append((role, endpoint))


def ipc_obstacle(endpoint: Endpoint) -> str | None:
    """Why an `ipc://` endpoint must not be bound now, in one line; None where nothing is in the way.

    libzmq removes what it finds at the path before it binds: somebody's file, or the socket of a broker that runs.
    """
    path = endpoint.path
    if endpoint.scheme != "ipc" or path == "*" or path.startswith("@"):
        return None
    folder = Path(path).parent
    if not folder.is_dir():
        return f"{endpoint.text}: there is no folder {str(folder)!r}; make it, or choose another path"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{endpoint.text}: the folder {str(folder)!r} may not be written to; choose another path"
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return None
    if not stat.S_ISSOCK(mode):
        return f"{endpoint.text}: {path!r} exists and is no socket; choose another path, or remove it"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(IPC_PROBE_SECONDS_MAX)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return None  # left behind by a broker that was killed
        except OSError:
            pass  # it answers slowly, or not to us: somebody's all the same
    return f"{endpoint.text}: the address is in use; stop the program that holds it, or choose another path"


def _parse(text: str, *, inproc: bool, binds: bool) -> Endpoint:
    if not text:
        raise EndpointError(f"an empty endpoint; write for example tcp://{LOOPBACK}:4161")
    if not text.isprintable() or " " in text:
        raise EndpointError(f"{text!r}: there is a blank or a control character in this endpoint; remove it")
    bare_port = text.removeprefix(":")
    if bare_port.isdecimal():
        return Endpoint(text, "tcp", LOOPBACK, _port(text, bare_port, LOOPBACK, binds=binds))
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise EndpointError(_without_scheme(text))
    if scheme == "tcp":
        return _parse_tcp(text, rest, binds=binds)
    if scheme == "ipc":
        return _parse_ipc(text, rest, binds=binds)
    if scheme == "inproc":
        if not inproc:
            raise EndpointError(
                f"{text!r}: inproc:// reaches only sockets of the same process (an embedded relet.Broker); "
                f"use tcp://{LOOPBACK}:PORT or ipc://PATH here"
            )
        if not rest:
            raise EndpointError(f"{text!r}: the name is missing; write for example inproc://clients")
        return Endpoint(text, "inproc", path=rest)
    raise EndpointError(f"{text!r}: relet does not speak {scheme!r}; use tcp://HOST:PORT or ipc://PATH")


def _without_scheme(text: str) -> str:
    for scheme in ("tcp", "ipc", "inproc"):
        if re.match(rf"{scheme}[:/]", text):
            rest = text.removeprefix(scheme).lstrip(":/") if scheme != "ipc" else text[len(scheme) :].lstrip(":")
            return f"{text!r}: two slashes belong behind the colon; write {scheme}://{rest}"
    if text.startswith(("/", "./", "@")):
        return f"{text!r}: the scheme is missing; write ipc://{text}"
    if ":" in text:
        return f"{text!r}: the scheme is missing; write tcp://{text.lstrip('/')}"
    return f"{text!r} is no endpoint; write for example tcp://{LOOPBACK}:4161, ipc:///tmp/relet or 4161"


def _parse_tcp(text: str, rest: str, *, binds: bool) -> Endpoint:
    host, colon, port_text = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        example = f"tcp://{LOOPBACK}:{rest}" if rest.isdecimal() else f"tcp://{rest or LOOPBACK}:4161"
        raise EndpointError(f"{text!r}: the port is missing; write for example {example}")
    if not host:
        raise EndpointError(
            f"{text!r}: the host is missing; write tcp://{LOOPBACK}:{port_text}"
            + (f", or tcp://*:{port_text} for all interfaces" if binds else "")
        )
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            host = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host))
        except OSError:
            raise EndpointError(f"{text!r}: {host!r} is no IPv6 address; write for example tcp://[::1]:4161") from None
    elif ":" in host:
        raise EndpointError(f"{text!r}: an IPv6 address stands in brackets; write tcp://[{host}]:{port_text}")
    elif re.fullmatch(r"[0-9.]+", host):
        try:
            socket.inet_pton(socket.AF_INET, host)
        except OSError:
            raise EndpointError(
                f"{text!r}: {host!r} is no IPv4 address; write four numbers from 0 to 255, as in {LOOPBACK}"
            ) from None
    elif host != "*" and not HOST_NAME.fullmatch(host):
        raise EndpointError(f"{text!r}: {host!r} is no host; write for example tcp://{LOOPBACK}:{port_text}")
    return Endpoint(text, "tcp", host, _port(text, port_text, host, binds=binds))


def _port(text: str, port_text: str, host: str, *, binds: bool) -> int:
    if port_text == "*" and binds:
        return 0
    if not port_text:
        raise EndpointError(f"{text!r}: the port is missing; write for example tcp://{host}:4161")
    if not DIGITS.fullmatch(port_text):
        digits = DIGITS.match(port_text)
        hint = f"; did you mean {digits[0]}?" if digits else f"; write a number from {0 if binds else 1} to {PORT_MAX}"
        raise EndpointError(f"{text!r}: {port_text!r} is no port{hint}")
    # Cut before it is read: a port of a million digits is an error too, and not a slow one.
    port = int(port_text.lstrip("0")[:6] or "0")
    if port > PORT_MAX:
        raise EndpointError(f"{text!r}: there is no port {port_text[:12]}; the largest is {PORT_MAX}")
    if port == 0 and not binds:
        raise EndpointError(f"{text!r}: port 0 can only be bound; connect to the one that was chosen (see the banner)")
    return port


def _parse_ipc(text: str, path: str, *, binds: bool) -> Endpoint:
    if path in {"", "@", "/"}:
        raise EndpointError(f"{text!r}: the path is missing; write for example ipc:///tmp/relet-clients")
    if path == "*" and not binds:
        raise EndpointError(f"{text!r}: '*' can only be bound; connect to the path that was chosen (see the banner)")
    if path.endswith("/"):
        raise EndpointError(f"{text!r}: this is a folder; write the path of a socket in it, for example {text}clients")
    size = len(os.fsencode(path))
    if size > IPC_PATH_BYTES_MAX:
        raise EndpointError(
            f"{text!r}: the path has {size} bytes, and the system allows {IPC_PATH_BYTES_MAX}; choose a shorter one"
        )
    return Endpoint(text, "ipc", path=path)


def _is_address(host: str) -> bool:
    return ":" in host or bool(re.fullmatch(r"[0-9.]+", host))


def _is_interface(name: str) -> bool:
    return any(name == known for _, known in socket.if_nameindex())


def _overlap(one: Endpoint, other: Endpoint) -> bool:
    if one.scheme != other.scheme:
        return False
    if one.scheme == "tcp":
        if one.port != other.port or one.port == 0:
            return False
        hosts = {one.host, other.host}
        return len(hosts) == 1 or not hosts.isdisjoint(EVERY_INTERFACE)
    if one.scheme == "ipc":
        return one.path != "*" and os.path.normpath(one.path) == os.path.normpath(other.path)
    return one.path == other.path
