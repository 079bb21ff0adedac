"""Sockets that are called by names: a tool for people who build ZeroMQ programs of their own.

It stands on the transport room that the broker and the libraries stand on, and they do not use it. docs/sockets.md is
its reference.
"""

from relet.sockets.addresses import (
    extract_hostname_from_tcp_address,
    fix_zeromq_tcp_address,
    get_default_bind_address,
    get_free_tcp_port,
    get_public_ip_address,
    get_public_zmq_address,
    resolve_hostname,
)
from relet.sockets.errors import (
    SocketAlreadyExists,
    SocketBindError,
    SocketConnectError,
    SocketError,
    SocketNotFound,
    UnreadableMessage,
)
from relet.sockets.logs import ZMQPubHandler
from relet.sockets.named import DEFAULT_POLLING_TIMEOUT, DEFAULT_TIMEOUT_IN_SECONDS, Event, SocketManager
from relet.sockets.serializers import JSON, BaseSerializer, MessagePack

__all__ = [
    "DEFAULT_POLLING_TIMEOUT",
    "DEFAULT_TIMEOUT_IN_SECONDS",
    "JSON",
    "BaseSerializer",
    "Event",
    "MessagePack",
    "SocketAlreadyExists",
    "SocketBindError",
    "SocketConnectError",
    "SocketError",
    "SocketManager",
    "SocketNotFound",
    "UnreadableMessage",
    "ZMQPubHandler",
    "extract_hostname_from_tcp_address",
    "fix_zeromq_tcp_address",
    "get_default_bind_address",
    "get_free_tcp_port",
    "get_public_ip_address",
    "get_public_zmq_address",
    "resolve_hostname",
]
