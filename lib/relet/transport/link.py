"""One connection to the broker, as the libraries see it, and what their thread sleeps on.

A client or a worker has one thread that owns its sockets and never runs the user's code. That thread sleeps without a
timeout until something happens: a message, news of the connection, a timer of its own, or another thread that rings its
`Alarm`. An idle library does not wake up.

A `Link` is one socket that connects, its frame pump and its monitor. libzmq reconnects by itself, but it does not say
what became of the messages under way: some were sent, some are still in its queue, and a queue that survives the broker
delivers yesterday's asks to today's. So a link that has lost its peer is *rebuilt*: the socket is closed with all it
holds and a new one is opened, and whoever owns the link says again what still matters. Nothing is sent before the
handshake has succeeded, so that what was sent and what was not is known at every moment.

Time is an argument: monotonic nanoseconds, read once a turn by the thread.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket as sockets
import struct
import sys
import weakref
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final, Protocol

import structlog
import zmq

from relet.transport import pump
from relet.transport.attach import connect, try_again_soon, watch
from relet.transport.endpoints import Endpoint

DIALECT_NATIVE: Final = "native"
DIALECT_2010: Final = "2010"
DIALECT_DEFAULT: Final = DIALECT_NATIVE
"""What `Client` and `Worker` speak where the program does not say."""
HEARTBEAT_INTERVAL_MS: Final = 1_000
HEARTBEAT_TIMEOUT_MS: Final = 3_000
"""A broker that is frozen or cut off is noticed after interval + timeout at most."""
UNREACHABLE_AFTER_NS: Final = 900_000_000
"""Nobody has answered for this long: time to say so. A second is what a person waits before wondering."""
SHORT_LIFE_NS: Final = 1_000_000_000
"""A connection that lasted less than this did not last: the next one is opened after a pause that grows."""
FLAP_PAUSE_NS: Final = 100_000_000
FLAP_PAUSE_NS_MAX: Final = 1_000_000_000
PIPE_MESSAGES_MAX: Final = 10_000
"""Messages that libzmq may hold in each direction; more of ours wait in our own tables, more of the broker's with
it."""
SLEEP_MS_MAX: Final = 60_000
"""One sleep, because poll takes a C int of milliseconds; who sleeps for longer wakes up early and sleeps again."""
BODY_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of one body or answer that the libraries send: the broker's default limit of a message."""
NEVER_COPY_LESS: Final = 1 << 62
"""`frame_copy_bytes_max`: users get `bytes`, so every frame is copied once, here."""

_EVENTS: Final = zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
_EVENT: Final = struct.Struct("=HI")  # zmq_socket_monitor(3): 16 bits of event, 32 bits of value

Context = zmq.Context[zmq.Socket[bytes]]


class Alarm:
    """Wakes the one thread that sleeps in `Sleeper.sleep`. `ring` may be called by any thread and by signal handlers.

    Ringing costs a system call only while the thread sleeps: `asleep` is set before the thread looks at its inbox for
    the last time, and who rings has put something into the inbox before. So either the thread sees it or it is woken.
    """

    def __init__(self) -> None:
        self.asleep = False
        self._ends: tuple[sockets.socket, sockets.socket] | None = None
        if sys.platform == "linux":
            self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._ends = sockets.socketpair()
            for end in self._ends:
                end.setblocking(False)
            self._descriptor = self._ends[0].fileno()

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._descriptor

    def ring(self) -> None:
        """Wake the thread if it sleeps."""
        if self.asleep:
            self.asleep = False
            try:
                if self._ends is None:
                    os.eventfd_write(self._descriptor, 1)
                else:
                    self._ends[1].send(b"\0")
            except BlockingIOError:
                pass  # it has been rung so often that it is awake for certain

    def heard(self) -> None:
        """The thread is awake; forget that it was rung."""
        try:
            if self._ends is None:
                os.eventfd_read(self._descriptor)
            else:
                self._ends[0].recv(4096)
        except BlockingIOError:
            pass

    def __del__(self) -> None:
        # Not closed before: a descriptor that is closed while somebody rings may already belong to somebody else.
        if self._ends is not None:
            for end in self._ends:
                end.close()
        elif hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class News(Enum):
    """What became of a connection."""

    CONNECTED = "connected"
    """The handshake succeeded: what is sent now goes to a live peer."""
    LOST = "lost"
    """It was connected and is not any more.

    A DEALER has to be rebuilt: read what has arrived, then call `Link.rebuild`. A PUSH is left to libzmq, which
    reconnects and sends what it still has to whoever is there then.
    """
    UNREACHABLE = "unreachable"
    """Nobody has answered for `UNREACHABLE_AFTER_NS`; told once, until it has been connected again."""


class Link:
    """A socket that connects to one endpoint of the broker, with its pump and its monitor. For one thread.

    Args:
        context: where the sockets are made.
        kind: `zmq.DEALER` or `zmq.PUSH`.
        endpoint: where to connect.
        now: monotonic nanoseconds.
        before_close: called before a socket is closed, for who watches its descriptor.
    """

    def __init__(
        self,
        context: Context,
        kind: int,
        endpoint: Endpoint,
        now: int,
        before_close: Callable[[], None] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.before_close = before_close
        self.connected = False
        self.socket: zmq.Socket[bytes] | None = None
        self.due: int | None = None
        """When `news` has something to do though no event came; None: never."""
        self._context = context
        self._kind = kind
        self._monitor: zmq.Socket[bytes] | None = None
        self._pump: Any = None
        self._connected_at = now
        self._opens_at: int | None = None
        self._flaps = 0
        self._told_unreachable = False
        self._open(now)

    def _open(self, now: int) -> None:
        try:
            self._make_socket()
        except zmq.ZMQError:  # a context that ends waits for every socket, also for one that is half made
            self._close()
            raise
        self._opens_at = None
        self.due = None if self._told_unreachable else now + UNREACHABLE_AFTER_NS
        if self.endpoint.scheme == "inproc":
            self.due = now  # a pipe in this process: connected at once, and without events

    def _make_socket(self) -> None:
        self.socket = socket = self._context.socket(self._kind)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = PIPE_MESSAGES_MAX
        try_again_soon(socket)
        socket.heartbeat_ivl = HEARTBEAT_INTERVAL_MS
        socket.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
        self._monitor = watch(socket, _EVENTS)
        connect(socket, self.endpoint)
        _, pumps = pump.implementation()
        self._pump = pumps.FramePump(socket, frame_copy_bytes_max=NEVER_COPY_LESS)

    def news(self, now: int) -> list[News]:
        """What became of the connection since the last call, in order. Opens the next socket when its time has come."""
        if self._opens_at is not None and now >= self._opens_at:
            self._open(now)
        news: list[News] = []
        for event, value in self._events():
            if event == zmq.EVENT_CONNECTED and _connected_to_itself(value):
                self._close()
                self._open_after(FLAP_PAUSE_NS, now)
                return news
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED and not self.connected:
                news.append(self._became_connected(now))
            elif event == zmq.EVENT_DISCONNECTED and self.connected:
                self.connected = False
                self.due = now + UNREACHABLE_AFTER_NS
                news.append(News.LOST)
                if self._kind == zmq.DEALER:
                    break  # it will be rebuilt: if libzmq was faster than we and is connected again, that is no news
        if self.due is not None and now >= self.due and not self.connected and self.socket is not None:
            if self.endpoint.scheme == "inproc":
                news.append(self._became_connected(now))
            elif News.LOST not in news:
                self.due = None
                self._told_unreachable = True
                news.append(News.UNREACHABLE)
        return news

    def _became_connected(self, now: int) -> News:
        self.connected = True
        self._told_unreachable = False
        self._connected_at = now
        self.due = None
        return News.CONNECTED

    def _events(self) -> list[tuple[int, int]]:
        events: list[tuple[int, int]] = []
        if self._monitor is not None:
            try:
                while True:
                    head = self._monitor.recv(zmq.DONTWAIT)
                    self._monitor.recv()
                    events.append(_EVENT.unpack(head))
            except zmq.Again:
                pass
        return events

    def receive(self, messages_max: int) -> list[tuple[bytes, ...]]:
        """Up to so many messages, each a tuple of frames; [] where none has arrived."""
        if self._pump is None:
            return []
        messages: list[tuple[bytes, ...]] = self._pump.receive(messages_max)
        return messages

    def send(self, messages: list[tuple[Any, ...]]) -> int:
        """Send in order as many as go without waiting; returns how many. Tuples among the frames are flattened."""
        if self._pump is None:
            return 0
        sent: int = self._pump.send(messages)
        return sent

    def rebuild(self, now: int, pause_ns: int | None = None) -> None:
        """Close the socket with all that it holds, and open a new one.

        Args:
            now: monotonic nanoseconds.
            pause_ns: how long to wait before the new one is opened. None, after a loss: not at all, or longer
                and longer while connections do not last.
        """
        self._close()
        if pause_ns is None:
            short = now - self._connected_at < SHORT_LIFE_NS
            self._flaps = self._flaps + 1 if short else 0
            pause_ns = min(FLAP_PAUSE_NS << min(self._flaps - 2, 8), FLAP_PAUSE_NS_MAX) if self._flaps > 1 else 0
            self._told_unreachable = True  # its loss was told; that nobody answers is no news
        self._open_after(pause_ns, now)

    def _open_after(self, pause_ns: int, now: int) -> None:
        if pause_ns <= 0:
            self._open(now)
        else:
            self.due = self._opens_at = now + pause_ns

    def _close(self, linger_ms: int = 0) -> None:
        socket, monitor = self.socket, self._monitor
        if self.before_close is not None:
            self.before_close()
        self.socket = self._monitor = self._pump = None
        self.connected = False
        if socket is not None:
            with contextlib.suppress(zmq.ZMQError):  # where the context was terminated
                socket.disable_monitor()
            socket.close(linger=linger_ms)
        if monitor is not None:
            monitor.close(linger=0)

    def close(self, linger_ms: int = 0) -> None:
        """Close for good; what was sent may leave within `linger_ms`, as long as the process and its context last."""
        self._close(linger_ms)
        self.due = self._opens_at = None

    def watched(self, *, writable: bool) -> list[tuple[Any, int]]:
        """What to poll: the socket for messages - and for room to send, if `writable` - and the monitor."""
        if self.socket is None:
            return []
        reads = zmq.POLLIN if self._kind == zmq.DEALER else 0
        flags = reads | (zmq.POLLOUT if writable and self.connected else 0)
        found: list[tuple[Any, int]] = [(self._monitor, zmq.POLLIN)]
        if flags:
            found.append((self.socket, flags))
        return found


def _connected_to_itself(descriptor: int) -> bool:
    """Whether a TCP connection has the same address at both ends.

    Who connects to a port of the range that the system also gives to clients, while nobody listens there, will sooner
    or later be given that very port and meet himself (libzmq issue 4588). Two DEALERs shake hands, so that a client
    would take its own requests for answers.
    """
    try:
        with sockets.socket(fileno=os.dup(descriptor)) as connection:
            return connection.family != sockets.AF_UNIX and connection.getsockname() == connection.getpeername()
    except OSError:  # it is gone already
        return False


def was_terminated(error: BaseException, context: Context) -> bool:
    """Whether an error says no more than that the context has ended, or is about to."""
    return isinstance(error, zmq.ZMQError) and (error.errno == zmq.ETERM or context.closed)


class Sleeper:
    """What the library's thread sleeps on: its alarm and its links."""

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm
        self._poller = zmq.Poller()
        self._watched: list[tuple[Any, int]] | None = None

    def sleep(self, until: int | None, now: int, watched: list[tuple[Any, int]], idle: Callable[[], bool]) -> None:
        """Sleep until something happens, or until the time `until` (None: without a limit), or for `SLEEP_MS_MAX`.

        Args:
            until: monotonic nanoseconds; rounded up to a millisecond, so that no timer is early.
            now: monotonic nanoseconds.
            watched: `Link.watched` of all links.
            idle: asked after the alarm was set: whether there is still nothing to do.
        """
        if watched != self._watched:
            self._poller = zmq.Poller()
            self._poller.register(self._alarm.fileno(), zmq.POLLIN)
            for socket, flags in watched:
                self._poller.register(socket, flags)
            self._watched = watched
        timeout_ms = None if until is None else min(max(0, -((now - until) // 1_000_000)), SLEEP_MS_MAX)
        alarm = self._alarm
        alarm.asleep = True
        try:
            if idle():
                for descriptor, _ in self._poller.poll(timeout_ms):
                    if descriptor == alarm.fileno():
                        alarm.heard()
        finally:
            alarm.asleep = False


def earliest(times: Iterable[int | None]) -> int | None:
    """The earliest of some times, None where there is none."""
    return min((time for time in times if time is not None), default=None)


class HasThread(Protocol):
    """What owns a thread of the library, and is told when that thread can go on no longer."""

    def at_exit(self) -> None:
        """The interpreter ends: end the thread, which would else be torn out of libzmq, and wait for that within
        bounds.
        """

    def after_fork(self) -> None:
        """This is the child of a fork: the thread is not here, the sockets are the parent's, a lock may be held for
        ever.
        """


_with_threads: weakref.WeakSet[HasThread] = weakref.WeakSet()


def look_after(owner: HasThread) -> None:
    """Tell `owner` of the interpreter's end and of forks, as long as somebody refers to it."""
    _with_threads.add(owner)


@atexit.register
def _at_exit() -> None:
    for owner in list(_with_threads):
        owner.at_exit()


def _after_fork_in_child() -> None:
    for owner in list(_with_threads):
        owner.after_fork()
    _with_threads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def default_logger() -> Any:
    """structlog as the program has configured it; where it has not, to stderr and from warnings on.

    A library must not write to the stdout of somebody's program, which is what structlog does by default. Tracebacks
    are plain: the prettier ones show the values of variables, which are people's jobs.
    """
    if structlog.is_configured():
        return structlog.get_logger("relet")
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(
                colors=False, exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )


class Log:
    """The log of the libraries: one that cannot be written, to a stderr that was closed, must not end their thread."""

    def __init__(self) -> None:
        self._log: Any = default_logger()

    def say(self, level: int, event: str, /, **fields: Any) -> None:
        """One line; `level` is that of `logging`."""
        with contextlib.suppress(Exception):
            self._log.log(level, event, **fields)

    log = say
    """As a `relet.log.Publisher` calls it."""
