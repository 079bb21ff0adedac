"""A set of ZeroMQ sockets that are called by their names.

A program of many sockets passes one `SocketManager` around instead. Nothing in it blocks for ever: whatever waits has a
timeout, and says with False or None that it was in vain. Sending and receiving try first and sleep only when there is
nothing to do, so that being ready is found out by libzmq and never guessed.

Milliseconds and seconds stand side by side here, because the names are those of AgentZero, whose users shall find their
way: what polls once (`engage`, `ready`, each `polling_timeout`) counts milliseconds as zmq_poll(3) does, and what waits
for a socket (each other `timeout`) counts seconds. No timeout ends early.

A manager is for one thread at a time, as ZeroMQ's sockets are. With `zmq.green` it is for all greenlets of a thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from types import ModuleType, TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, TypeVar

import zmq

from relet.sockets.addresses import with_address
from relet.sockets.errors import (
    SocketAlreadyExists,
    SocketBindError,
    SocketConnectError,
    SocketError,
    SocketNotFound,
    UnreadableMessage,
)
from relet.sockets.logs import DEFAULT_TOPIC, ZMQPubHandler
from relet.sockets.polling import FOREVER_NS, POLL_NS_MIN, Polling, check_module
from relet.sockets.serializers import JSON, BaseSerializer
from relet.transport import attach
from relet.transport.endpoints import Endpoint, EndpointError, check_text, parse, parse_bind, parse_connect

DEFAULT_POLLING_TIMEOUT: Final = 10_000
"""Milliseconds of one poll."""
DEFAULT_TIMEOUT_IN_SECONDS: Final = 10
"""Seconds of one wait."""
_MECHANISMS: Final = (zmq.POLLIN, zmq.POLLOUT, zmq.POLLIN | zmq.POLLOUT)
_TYPES: Final = tuple(zmq.SocketType)
_NOT_NOW: Final = (zmq.EAGAIN, zmq.EFSM)
"""EFSM: a REQ whose question has no answer yet, a REP without a question."""

Socket = zmq.Socket[bytes]
T = TypeVar("T")


class Event(NamedTuple):
    """What was published."""

    topic: str
    """Bytes that are no UTF-8 are kept as surrogates: `topic.encode("utf-8", "surrogateescape")` is what was sent."""
    data: Any
    """What the serializer made of it."""


@dataclass
class _Named:
    """A socket, and what libzmq does not tell of it."""

    socket: Socket
    type: int
    """`zmq.REQ`, `zmq.PUB` ..."""
    bound: set[str] = field(default_factory=set)
    """As libzmq was told, port 0 included."""
    connected: set[str] = field(default_factory=set)
    topics: set[bytes] = field(default_factory=set)
    logged: list[tuple[logging.Logger, ZMQPubHandler]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return _kind(self.type)


class SocketManager:
    """ZeroMQ sockets by name: made, attached, polled, sent and received on.

    As a context manager it closes them at the end; the context remains yours.

    Args:
        zmq: the module itself, from `import zmq` or `import zmq.green as zmq`.
        context: that module's context, where the sockets are made.
        serialization_backend: for what is sent and received; None: `JSON()`.
        polling_timeout: milliseconds of `engage`, `ready`, and each poll of a wait, where the call does not say.
        timeout: seconds of a wait, where the call does not say. (The manual of AgentZero has it passed to `engage`,
            which counts milliseconds; its value says seconds.)

    Raises:
        TypeError: an argument is something else.
        ValueError: a timeout is negative, or not a number.
    """

    def __init__(
        self,
        zmq: ModuleType,
        context: zmq.Context[Any],
        serialization_backend: BaseSerializer | None = None,
        polling_timeout: float = DEFAULT_POLLING_TIMEOUT,
        timeout: float = DEFAULT_TIMEOUT_IN_SECONDS,
    ) -> None:
        check_module(zmq, context)
        if not isinstance(serialization_backend, BaseSerializer | None):
            raise TypeError(
                f"serialization_backend is a serializer, such as JSON() or MessagePack(), not {serialization_backend!r}"
            )
        self._context = context
        self._polling = Polling(zmq)
        self._serializer = JSON() if serialization_backend is None else serialization_backend
        self._polling_timeout = _duration("polling_timeout", polling_timeout)
        self._timeout = _duration("timeout", timeout)
        self._named: dict[str, _Named] = {}
        self._registered = self._polling.poller()

    def __repr__(self) -> str:
        return f"SocketManager(sockets={self.names})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name in self.names:
            self.close(name)

    @property
    def names(self) -> list[str]:
        """The names of its sockets, the oldest first."""
        return list(self._named)

    # --- Sockets

    def create(self, name: str, socket_type: int) -> Socket:
        """Make a socket. What is sent on it may leave within a second of its closing; `zmq.LINGER` says otherwise.

        Args:
            name: any text; of each one socket.
            socket_type: `zmq.REQ`, `zmq.PUB`, `zmq.PAIR` ...

        Raises:
            SocketAlreadyExists: there is one of this name.
        """
        _check_type(socket_type)
        self._forget_closed(name)
        if name in self._named:
            raise SocketAlreadyExists(self, name)
        if self._context.closed:
            raise SocketError(self, name, f"cannot make {name!r}: its context was terminated; make another manager")
        socket = attach.new_socket(self._context, socket_type)
        self._named[name] = _Named(socket, socket_type)
        return socket

    def get_by_name(self, name: str) -> Socket:
        """The socket of this name. Raises `SocketNotFound`."""
        return self._find(name).socket

    def get_or_create(self, name: str, socket_type: int, polling_mechanism: int) -> Socket:
        """The socket of this name, made if need be, and registered as by `register_socket`.

        Raises:
            SocketAlreadyExists: there is one, of another type.
        """
        _check_mechanism(polling_mechanism)
        return self.register_socket(self._ensure(name, socket_type).socket, polling_mechanism)

    def register_socket(self, socket: Socket, polling_mechanism: int) -> Socket:
        """Let `engage` poll a socket: one of these, or any other.

        Args:
            socket: itself, not its name.
            polling_mechanism: for `zmq.POLLIN`, `zmq.POLLOUT` or `zmq.POLLIN | zmq.POLLOUT`; it takes the place of
                what was registered before.
        """
        _check_mechanism(polling_mechanism)
        if not isinstance(socket, zmq.Socket):
            raise TypeError(f"register_socket takes a socket, such as get_by_name('logs'), not {socket!r}")
        self._registered.register(socket, polling_mechanism)
        return socket

    def set_socket_option(self, name: str, option: int, value: int | str | bytes) -> None:
        """Set an option of zmq_setsockopt(3). Most have an effect on later binds and connects only.

        Args:
            name: of the socket.
            option: `zmq.LINGER`, `zmq.SUBSCRIBE`, `zmq.IDENTITY` ...; `zmq.HWM` sets both high-water marks.
            value: text is sent as UTF-8.

        Raises:
            TypeError: the option wants a value of another type.
            ValueError: the socket has no such option, or the option no such value.
        """
        named = self._find(name)
        given: Any = _encoded(value) if isinstance(value, str) else value
        try:
            if option == zmq.HWM:
                named.socket.set_hwm(given)
            else:
                named.socket.setsockopt(option, given)
        except zmq.ZMQError as error:
            raise ValueError(f"{_option(option)} of {name!r}, a {named.kind}, cannot be {value!r}: {error}") from None
        except TypeError as error:
            raise TypeError(f"{_option(option)} of {name!r}, a {named.kind}, cannot be {value!r}: {error}") from None
        if option == zmq.SUBSCRIBE:
            named.topics.add(given)
        elif option == zmq.UNSUBSCRIBE:
            named.topics.discard(given)

    def set_topic(self, name: str, topic: str | bytes) -> None:
        """Subscribe to the topics that begin so; "" to all. Once is enough: to say it again changes nothing."""
        found = _topic(topic)
        if found not in self._find(name).topics:
            self.set_socket_option(name, zmq.SUBSCRIBE, found)

    def close(self, socket_name: str) -> None:
        """Close a socket if there is one of this name; its name is free then, and loggers made for it do without it."""
        named = self._named.pop(socket_name, None)
        if named is None:
            return
        for logger, handler in named.logged:
            logger.removeHandler(handler)
        if named.socket in self._registered:
            self._registered.unregister(named.socket)
        self._polling.close(named.socket)

    # --- Addresses

    def bind(self, socket_name: str, address: str, polling_mechanism: int) -> Socket:
        """Bind, and register as by `register_socket`.

        Args:
            socket_name: of the socket.
            address: `tcp://HOST:PORT`, `ipc://PATH` or `inproc://NAME`. HOST is `*`, an address, an interface or a
                name, which is looked up; PORT 0 is one of the system's choice.
            polling_mechanism: for what `engage` polls it.

        Raises:
            SocketBindError: it cannot be bound there; it is not registered.
        """
        return self._bind(socket_name, self._find(socket_name), address, polling_mechanism)[0]

    def ensure_and_bind(self, socket_name: str, socket_type: int, address: str, polling_mechanism: int) -> Socket:
        """Make the socket and bind it, as far as that has not been done yet; register it.

        Raises:
            SocketAlreadyExists: there is one, of another type.
            SocketBindError: as from `bind`.
        """
        _check_mechanism(polling_mechanism)
        named = self._ensure(socket_name, socket_type)
        return self._bind(socket_name, named, address, polling_mechanism, again=False)[0]

    def bind_to_random_port(
        self,
        socket_name: str,
        polling_mechanism: int,
        local_address: str = "tcp://0.0.0.0",
    ) -> tuple[Socket, str]:
        """Bind to a port of the system's choice, and register as by `register_socket`.

        Args:
            socket_name: of the socket.
            polling_mechanism: for what `engage` polls it.
            local_address: `tcp://HOST`, without a port; as it is, every machine that reaches this one reaches it.

        Returns:
            The socket, and where it is bound, such as "tcp://192.168.10.24:61432".

        Raises:
            SocketBindError: it cannot be bound there.
        """
        check_text("local_address", local_address)
        try:
            parse(f"{local_address}:0")
        except EndpointError as error:
            what = f"cannot bind {socket_name!r}: local_address is tcp://HOST without a port, not {local_address!r}"
            raise SocketBindError(self, socket_name, what) from error
        return self._bind(socket_name, self._find(socket_name), f"{local_address}:0", polling_mechanism)

    def connect(self, socket_name: str, address: str, polling_mechanism: int) -> Socket:
        """Connect, and register as by `register_socket`. Nobody has to be there yet.

        Args:
            socket_name: of the socket.
            address: `tcp://HOST:PORT`, `ipc://PATH` or `inproc://NAME`.
            polling_mechanism: for what `engage` polls it.

        Raises:
            SocketConnectError: the address cannot be meant, or not connected to; the socket is not registered.
        """
        return self._connect(socket_name, self._find(socket_name), address, polling_mechanism)

    def ensure_and_connect(self, socket_name: str, socket_type: int, address: str, polling_mechanism: int) -> Socket:
        """Make the socket and connect it, as far as that has not been done yet; register it.

        Raises:
            SocketAlreadyExists: there is one, of another type.
            SocketConnectError: as from `connect`.
        """
        _check_mechanism(polling_mechanism)
        named = self._ensure(socket_name, socket_type)
        return self._connect(socket_name, named, address, polling_mechanism, again=False)

    def disconnect(self, socket_name: str, address: str | None = None) -> Socket:
        """Disconnect; messages for that peer that have not left are lost. The socket stays, and stays registered.

        Args:
            socket_name: of the socket.
            address: as it was connected; None: from wherever it is.

        Raises:
            SocketConnectError: it is not connected there.
        """
        named = self._find(socket_name)
        urls = sorted(named.connected) if address is None else [self._connectable(socket_name, address).url]
        for url in urls:
            if url not in named.connected:
                where = f"only to {', '.join(sorted(named.connected))}" if named.connected else "to nobody"
                what = f"cannot disconnect {socket_name!r} from {url}: it is connected {where}"
                raise SocketConnectError(self, socket_name, what)
            named.connected.discard(url)
            named.socket.disconnect(url)
        return named.socket

    # --- Being ready

    def engage(self, timeout: float | None = None) -> dict[Socket, int]:
        """Poll all registered sockets together, until one is ready.

        Args:
            timeout: milliseconds; 0: look, and do not wait; None: the `polling_timeout` of the manager.

        Returns:
            Those that are ready, each with what it is ready for: `zmq.POLLIN`, `zmq.POLLOUT`, or both. {} when none is.
        """
        return self._polling.poll(self._registered, self._poll_until("timeout", timeout))

    def ready(self, name: str, polling_mechanism: int, timeout: float | None = None) -> Socket | None:
        """Poll one socket, registered or not, whatever else it and others are ready for.

        Args:
            name: of the socket.
            polling_mechanism: for `zmq.POLLIN`, `zmq.POLLOUT`, or either of them.
            timeout: milliseconds; 0: look, and do not wait; None: the `polling_timeout` of the manager.

        Returns:
            The socket, or None when it was not ready in time.
        """
        return self._ready(name, polling_mechanism, self._poll_until("timeout", timeout))

    def wait_until_ready(
        self,
        name: str,
        polling_mechanism: int,
        timeout: float | None = None,
        polling_timeout: float | None = None,
    ) -> Socket | None:
        """Wait for one socket, registered or not; other greenlets run meanwhile.

        Args:
            name: of the socket.
            polling_mechanism: for `zmq.POLLIN`, `zmq.POLLOUT`, or either of them.
            timeout: seconds of the whole; 0: look, and do not wait; `math.inf`: for ever; None: the manager's.
            polling_timeout: milliseconds of each poll that the wait consists of, at least 1; None: the manager's.

        Returns:
            The socket, or None when it was not ready in time.
        """
        return self._wait(name, polling_mechanism, self._wait_until(timeout), polling_timeout)

    # --- Messages

    def send_safe(
        self, name: str, data: Any, timeout: float | None = None, polling_timeout: float | None = None
    ) -> bool:
        """Serialize, wait until the socket can take it, and send it as a message of one frame.

        Args:
            name: of the socket.
            data: what the serializer takes.
            timeout: seconds, as of `wait_until_ready`.
            polling_timeout: milliseconds, as of `wait_until_ready`.

        Returns:
            True: libzmq has it. False: the socket could not take it in time, and it was not sent.

        Raises:
            ValueError: sockets of this type do not send.
        """
        return self._send(name, [self._packed(data)], timeout, polling_timeout)

    def recv_safe(self, name: str, timeout: float | None = None, polling_timeout: float | None = None) -> Any:
        """Wait until the socket has a message of one frame, and take it.

        Args:
            name: of the socket.
            timeout: seconds, as of `wait_until_ready`.
            polling_timeout: milliseconds, as of `wait_until_ready`.

        Returns:
            What was sent, or None when nothing came in time.

        Raises:
            UnreadableMessage: a peer sent something else.
            ValueError: sockets of this type do not receive.
        """
        frames = self._receive(name, timeout, polling_timeout)
        if frames is None:
            return None
        if len(frames) != 1:
            raise UnreadableMessage(self, name, f"{len(frames)} frames, where a message has one", frames)
        return self._unpacked(name, frames[0], frames)

    def publish_safe(
        self,
        name: str,
        topic: str | bytes,
        data: Any,
        timeout: float | None = None,
        polling_timeout: float | None = None,
    ) -> bool:
        """Send an event: a frame for the topic, one for the data. Otherwise as `send_safe`.

        A PUB takes every event, and drops it for those who are not connected yet or do not keep up.
        """
        return self._send(name, [_topic(topic), self._packed(data)], timeout, polling_timeout)

    def recv_event_safe(
        self,
        name: str,
        topic: str | bytes | Literal[False] | None = False,
        timeout: float | None = None,
        polling_timeout: float | None = None,
    ) -> Event | None:
        """Wait until the socket has an event, and take it.

        Args:
            name: of the socket.
            topic: subscribe to it first, beside what it is subscribed to. False or None: as it is; a SUB that is
                subscribed to nothing gets all.
            timeout: seconds, as of `wait_until_ready`.
            polling_timeout: milliseconds, as of `wait_until_ready`.

        Returns:
            The event, or None when none came in time.

        Raises:
            UnreadableMessage: a peer sent something else.
        """
        self._listen(name, topic)
        frames = self._receive(name, timeout, polling_timeout)
        if frames is None:
            return None
        if len(frames) != 2:
            raise UnreadableMessage(self, name, f"{len(frames)} frames, where an event has two", frames)
        return Event(frames[0].decode("utf-8", "surrogateescape"), self._unpacked(name, frames[1], frames))

    def subscribe(
        self,
        name: str,
        topic: str | bytes | Literal[False] | None = None,
        keep_polling: Callable[[], object] | None = None,
        timeout: float | None = None,
        polling_timeout: float | None = None,
    ) -> Generator[Event, None, None]:
        """The events of a socket as they come. It is subscribed at once, not with the first event.

        Args:
            name: of the socket.
            topic: as of `recv_event_safe`.
            keep_polling: asked before each wait; what is not true ends the loop. None: it never ends.
            timeout: seconds of one wait, and so the longest time between two questions; a wait in vain yields nothing.
            polling_timeout: milliseconds, as of `wait_until_ready`.

        Raises:
            UnreadableMessage: a peer sent something else. That ends the loop, and the next one misses nothing.
        """
        if keep_polling is not None and not callable(keep_polling):
            raise TypeError(f"keep_polling is a function that is asked whether to go on, not {keep_polling!r}")
        self._listen(name, topic)
        return self._events(name, keep_polling, timeout, polling_timeout)

    def _events(
        self,
        name: str,
        keep_polling: Callable[[], object] | None,
        timeout: float | None,
        polling_timeout: float | None,
    ) -> Generator[Event, None, None]:
        while keep_polling is None or keep_polling():
            event = self.recv_event_safe(name, False, timeout, polling_timeout)
            if event is not None:
                yield event

    # --- Logs

    def get_log_handler(self, socket_name: str, topic_name: str | bytes = DEFAULT_TOPIC) -> ZMQPubHandler:
        """A handler for `logging` that publishes on a socket. Raises `SocketNotFound`."""
        self._find(socket_name)
        _topic(topic_name)
        return ZMQPubHandler(self, socket_name, topic_name)

    def get_logger(
        self, socket_name: str, topic_name: str | bytes = DEFAULT_TOPIC, logger_name: str | None = None
    ) -> logging.Logger:
        """A logger whose records, from INFO on where nobody has said else, are published until the socket is closed.

        Args:
            socket_name: of the socket.
            topic_name: the topic of the events.
            logger_name: None: `socket_name`. To ask again for the same one adds nothing to it.
        """
        named = self._find(socket_name)
        logger = logging.getLogger(socket_name if logger_name is None else logger_name)
        if not any(made is logger and handler.topic_name == topic_name for made, handler in named.logged):
            handler = self.get_log_handler(socket_name, topic_name)
            logger.addHandler(handler)
            named.logged.append((logger, handler))
        if logger.level == logging.NOTSET and not logger.isEnabledFor(logging.INFO):
            logger.setLevel(logging.INFO)
        return logger

    # --- Within

    def _find(self, name: str) -> _Named:
        self._forget_closed(name)
        named = self._named.get(name)
        if named is None:
            raise SocketNotFound(self, name)
        return named

    def _forget_closed(self, name: Any) -> None:
        """A socket that was closed by other hands is no socket any more."""
        if not isinstance(name, str) or not name:
            raise TypeError(f"a socket has a name, text such as 'logs', not {name!r}")
        named = self._named.get(name)
        if named is not None and named.socket.closed:
            self.close(name)

    def _ensure(self, name: str, socket_type: int) -> _Named:
        _check_type(socket_type)
        self._forget_closed(name)
        named = self._named.get(name)
        if named is not None:
            if named.type != socket_type:
                raise SocketAlreadyExists(self, name, f", as a {named.kind} and not a {_kind(socket_type)}")
            return named
        self.create(name, socket_type)
        return self._named[name]

    def _bind(
        self, name: str, named: _Named, address: str, polling_mechanism: int, *, again: bool = True
    ) -> tuple[Socket, str]:
        _check_mechanism(polling_mechanism)
        check_text("address", address)
        try:
            endpoint = parse_bind(with_address(parse(address)).url)
            where = endpoint.url
            if again or where not in named.bound:
                where = attach.bind(named.socket, endpoint, repr(name))
        except EndpointError as error:
            raise SocketBindError(self, name, f"cannot bind {name!r}: {error}") from error
        except OSError as error:  # the name cannot be looked up, or the address not be had
            what = str(error) if isinstance(error, attach.BindError) else f"cannot bind {name!r}: {error.strerror}"
            raise SocketBindError(self, name, what) from error
        named.bound.add(endpoint.url)
        return self.register_socket(named.socket, polling_mechanism), where

    def _connect(
        self, name: str, named: _Named, address: str, polling_mechanism: int, *, again: bool = True
    ) -> Socket:
        _check_mechanism(polling_mechanism)
        endpoint = self._connectable(name, address)
        if again or endpoint.url not in named.connected:
            try:
                attach.connect(named.socket, endpoint)
            except zmq.ZMQError as error:
                what = f"cannot connect {name!r} to {endpoint.text}: {error}"
                raise SocketConnectError(self, name, what) from error
        named.connected.add(endpoint.url)
        return self.register_socket(named.socket, polling_mechanism)

    def _connectable(self, name: str, address: str) -> Endpoint:
        check_text("address", address)
        try:
            return parse_connect(address)
        except EndpointError as error:
            raise SocketConnectError(self, name, f"cannot connect {name!r}: {error}") from error

    def _listen(self, name: str, topic: str | bytes | Literal[False] | None) -> None:
        if topic is not None and topic is not False:
            self.set_topic(name, topic)
            return
        named = self._find(name)
        if named.type == zmq.SUB and not named.topics:
            self.set_topic(name, b"")

    def _packed(self, data: Any) -> bytes:
        packed = self._serializer.pack(data)
        if not isinstance(packed, bytes):
            raise TypeError(f"{type(self._serializer).__name__}.pack gave {type(packed).__name__}, and bytes are sent")
        return packed

    def _unpacked(self, name: str, packed: bytes, frames: list[bytes]) -> Any:
        try:
            return self._serializer.unpack(packed)
        except Exception as error:
            why = f"no {type(self._serializer).__name__} ({error})"
            raise UnreadableMessage(self, name, why, frames) from error

    def _send(self, name: str, frames: list[bytes], timeout: float | None, polling_timeout: float | None) -> bool:
        def send(socket: Socket) -> bool:
            socket.send_multipart(frames, zmq.DONTWAIT)
            return True

        return self._when_ready(name, zmq.POLLOUT, send, timeout, polling_timeout) is not None

    def _receive(self, name: str, timeout: float | None, polling_timeout: float | None) -> list[bytes] | None:
        def receive(socket: Socket) -> list[bytes]:
            return socket.recv_multipart(zmq.DONTWAIT)

        return self._when_ready(name, zmq.POLLIN, receive, timeout, polling_timeout)

    def _when_ready(
        self,
        name: str,
        polling_mechanism: int,
        act: Callable[[Socket], T],
        timeout: float | None,
        polling_timeout: float | None,
    ) -> T | None:
        """What `act` returns, as soon as the socket lets it; None when it did not in time."""
        until = self._wait_until(timeout)
        woken = False
        while True:
            named = self._find(name)
            try:
                return act(named.socket)
            except zmq.ZMQError as error:
                if error.errno == zmq.ENOTSUP:
                    verb = "send" if polling_mechanism == zmq.POLLOUT else "receive"
                    raise ValueError(f"{name!r} is a {named.kind}, which does not {verb}") from None
                if error.errno not in _NOT_NOW:
                    raise
            if woken:  # libzmq was wrong: an XPUB that shall drop nothing is always said to be writable, for example
                self._polling.poll(self._polling.poller(), time.monotonic_ns() + POLL_NS_MIN)
                if time.monotonic_ns() >= until:
                    return None
            if self._wait(name, polling_mechanism, until, polling_timeout) is None:
                return None
            woken = True

    def _wait(self, name: str, polling_mechanism: int, until: int, polling_timeout: float | None) -> Socket | None:
        while True:
            poll_until = max(self._poll_until("polling_timeout", polling_timeout), time.monotonic_ns() + POLL_NS_MIN)
            socket = self._ready(name, polling_mechanism, min(poll_until, until))
            if socket is not None or time.monotonic_ns() >= until:
                return socket

    def _ready(self, name: str, polling_mechanism: int, until: int) -> Socket | None:
        _check_mechanism(polling_mechanism)
        poller = self._polling.poller()
        poller.register(self.get_by_name(name), polling_mechanism)
        found = self._polling.poll(poller, until)
        socket = self.get_by_name(name)  # another greenlet may have closed it meanwhile
        return socket if found else None

    def _wait_until(self, seconds: float | None) -> int:
        """Monotonic nanoseconds."""
        timeout = self._timeout if seconds is None else _duration("timeout", seconds)
        return time.monotonic_ns() + int(min(timeout * 1_000_000_000, FOREVER_NS))

    def _poll_until(self, what: str, milliseconds: float | None) -> int:
        """Monotonic nanoseconds."""
        timeout = self._polling_timeout if milliseconds is None else _duration(what, milliseconds)
        return time.monotonic_ns() + int(min(timeout * 1_000_000, FOREVER_NS))


def _duration(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} is a number, not {value!r}")
    if not value >= 0:
        raise ValueError(f"{what} is 0 or more, not {value!r}; math.inf waits for ever")
    return float(value)


def _check_type(socket_type: int) -> None:
    if socket_type not in _TYPES:
        raise ValueError(f"socket_type is one of zmq.REQ, zmq.PUB, zmq.PAIR ..., not {socket_type!r}")


def _check_mechanism(polling_mechanism: int) -> None:
    if polling_mechanism not in _MECHANISMS:
        raise ValueError(
            f"polling_mechanism is zmq.POLLIN, zmq.POLLOUT or zmq.POLLIN | zmq.POLLOUT, not {polling_mechanism!r}"
        )


def _topic(topic: str | bytes) -> bytes:
    if isinstance(topic, str):
        return _encoded(topic)
    if isinstance(topic, bytes):
        return topic
    raise TypeError(f"a topic is text or bytes, not {topic!r}")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _kind(socket_type: int) -> str:
    return zmq.SocketType(socket_type).name


def _option(option: int) -> str:
    try:
        return f"zmq.{zmq.SocketOption(option).name}"
    except ValueError:
        return f"option {option!r}"
