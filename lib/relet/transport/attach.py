"""How a socket comes to its endpoint: opened, bound or connected, watched. The same for the broker, the libraries and
named sockets, which differ in the options that they set between opening and attaching.
"""

from __future__ import annotations

import itertools
import os
from typing import Any, Final

import zmq

from relet.transport.endpoints import Endpoint, ipc_obstacle

LINGER_MS: Final = 1_000
"""How long last messages may leave after a socket was closed: libzmq would wait for ever, and with it the program."""
HANDSHAKE_INTERVAL_MS: Final = 2_000
"""Connections that say nothing are closed, before they starve the listener."""
BACKLOG: Final = 4_096
"""Connections that the kernel may hold for us: after a restart all peers come back at once."""
CONNECT_TIMEOUT_MS: Final = 3_000
"""An attempt to connect that the network swallows is given up after this long, and made again."""
RECONNECT_INTERVAL_MS: Final = 100
RECONNECT_INTERVAL_MS_MAX: Final = 1_000
"""libzmq tries again after the first, and doubles it up to the second."""

_serial = itertools.count()


class BindError(OSError):
    """An endpoint could not be bound; the text says which, why, and what to change."""


def new_socket(context: zmq.Context[Any], kind: int) -> zmq.Socket[bytes]:
    """A socket that ends: what was sent may leave within `LINGER_MS` of its closing."""
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.linger = LINGER_MS
    return socket


def listen_well(socket: zmq.Socket[bytes]) -> None:
    """Options of a socket that many connect to, to be set before it is bound."""
    socket.handshake_ivl = HANDSHAKE_INTERVAL_MS
    socket.backlog = BACKLOG
    keep_alive(socket)


def keep_alive(socket: zmq.Socket[bytes]) -> None:
    """The kernel finds peers that have gone without a word, within a minute and a half."""
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle, socket.tcp_keepalive_intvl, socket.tcp_keepalive_cnt = 60, 10, 3


def try_again_soon(socket: zmq.Socket[bytes]) -> None:
    """Options of a socket that finds its peer again whenever that is there, to be set before it connects."""
    socket.reconnect_ivl = RECONNECT_INTERVAL_MS
    socket.reconnect_ivl_max = RECONNECT_INTERVAL_MS_MAX
    socket.connect_timeout = CONNECT_TIMEOUT_MS


def bind(socket: zmq.Socket[bytes], endpoint: Endpoint, role: str) -> str:
    """Bind, unless that would take somebody else's file or socket.

    Args:
        socket: its other options are set.
        endpoint: from `parse_bind`.
        role: what the socket is for, in the error's text.

    Returns:
        Where it is really bound: port 0 has become the one that the system chose.

    Raises:
        BindError: it could not be bound; the socket is as it was.
    """
    obstacle = ipc_obstacle(endpoint)
    if obstacle:
        raise BindError(f"cannot bind {role}: {obstacle}")
    _allow_ipv6(socket, endpoint)
    try:
        socket.bind(endpoint.url)
    except zmq.ZMQError as error:
        raise BindError(_why_not_bound(role, endpoint, error)) from None
    return socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")


def connect(socket: zmq.Socket[bytes], endpoint: Endpoint) -> None:
    """Connect, whether somebody is bound there yet or not. `endpoint` is from `parse_connect`."""
    _allow_ipv6(socket, endpoint)
    socket.connect(endpoint.url)


def watch(socket: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
    """Have libzmq tell of connections: the PAIR on which the `events` of zmq_socket_monitor(3) arrive.

    Whoever has it drains it: it holds any number, for a monitor that is full stops libzmq's I/O thread.
    """
    address = f"inproc://relet-monitor-{os.getpid()}-{next(_serial)}"
    socket.monitor(address, events)
    monitor: zmq.Socket[bytes] = socket.context.socket(zmq.PAIR)
    try:
        monitor.linger = 0
        monitor.rcvhwm = 0  # before connecting
        monitor.connect(address)
    except zmq.ZMQError:  # a context that ends waits for every socket, also for one that is half made
        monitor.close(linger=0)
        raise
    return monitor


def _allow_ipv6(socket: zmq.Socket[bytes], endpoint: Endpoint) -> None:
    if endpoint.is_ipv6:
        socket.ipv6 = True


def _why_not_bound(role: str, endpoint: Endpoint, error: zmq.ZMQError) -> str:
    what = f"cannot bind {role} to {endpoint.text}: "
    if error.errno == zmq.EADDRINUSE:
        if endpoint.scheme == "inproc":
            return what + "another socket of this context is bound there - close that one, or take another name"
        return what + "the address is in use - stop the program that holds it, or take another port"
    if error.errno == zmq.EADDRNOTAVAIL:
        return what + "this machine has no such address - take 127.0.0.1, or * for all its interfaces"
    if error.errno == 13:  # EACCES
        return what + "permission denied - take a port above 1023, or a folder that you may write to"
    if endpoint.scheme == "ipc":
        return what + f"{os.strerror(error.errno or 0)} - the folder must exist, and the path be short (107 bytes)"
    return what + f"{error.strerror} - give tcp://HOST:PORT or ipc://PATH of this machine"
