"""Devices: processes in the middle that only forward, so that peers on both sides need to know one address.

    queue       ROUTER - DEALER    requests go out to whoever serves, replies come back; before a broker, or behind it
    forwarder   XSUB - XPUB        from publishers to subscribers; what nobody subscribes to is not even sent here
    streamer    PULL - PUSH        one way, shared out evenly; such as the answers of workers of 2010

libzmq does the work: `zmq_proxy_steerable(3)`, in a thread that never comes back to Python while it forwards. A second
thread attends: it hears signals, `terminate` and the control endpoint, and costs nothing per message. The control
endpoint is not handed to the proxy itself, because a message there that libzmq does not expect would end it.

A proxy that pauses inside libzmq turns on the spot for as long as a message waits. So a device that pauses leaves
libzmq, and enters it again when it resumes; its sockets stay as they are.

libzmq's tap does not say which way a message went. So a device with a monitor forwards in a loop of its own, on the
frame pump, obeys the same words and counts the same.

A device keeps nothing: what it holds when it ends is lost, and a peer that does not read loses what exceeds the
high-water mark. Nothing that must not be lost should depend on one; jobs do not.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import signal
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from multiprocessing.connection import Connection
from types import MappingProxyType, TracebackType
from typing import Any, Final, Literal, NoReturn, Self, TypedDict, Unpack

import msgspec
import zmq

from relet.transport import attach, pump
from relet.transport.endpoints import (
    LOOPBACK,
    Endpoint,
    EndpointError,
    check_distinct,
    check_text,
    parse_bind,
    parse_connect,
)
from relet.transport.link import Alarm, look_after
from relet.transport.threads import new_context
from relet.transport.wakeups import heard, signal_wakeups

Kind = Literal["queue", "forwarder", "streamer"]
Socket = zmq.Socket[bytes]

KINDS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {"queue": (zmq.ROUTER, zmq.DEALER), "forwarder": (zmq.XSUB, zmq.XPUB), "streamer": (zmq.PULL, zmq.PUSH)}
)
"""kind -> the types of the two sockets, front and back."""
HWM: Final = 1_000
"""Messages that wait for one connection in each direction, where nobody says otherwise: libzmq's own default."""
HWM_MAX: Final = 2**31 - 1
"""zmq_setsockopt(3) takes a C int."""
ANSWER_SECONDS_MAX: Final = 1.0
"""How long a command may take. The proxy hears at once, unless all peers of one side are full."""
END_SECONDS_MAX: Final = 1.0
"""How long a device may take to end by itself, before its context is ended around it."""
PROCESS_SECONDS_MAX: Final = 30.0
"""How long a process may take to start, on a machine that is very busy."""

PAUSE: Final = b"PAUSE"
RESUME: Final = b"RESUME"
TERMINATE: Final = b"TERMINATE"
STATISTICS: Final = b"STATISTICS"
"""The words of zmq_proxy_steerable(3), on the control endpoint too: a REQ sends one, and has one empty frame in return,
or eight of eight bytes. Any other answer is a text that says why not."""
IN: Final = b"in"
OUT: Final = b"out"
"""What stands before each message of the monitor: from front to back, and back."""

_COUNTS: Final = struct.Struct("=8Q")
_NOTHING: Final = (0,) * 8
_INNER: Final = "inproc://control"
_BURST_MESSAGES_MAX: Final = 1_000
"""As libzmq's proxy: so many go one way before the other is looked at."""
_BURST_BYTES_MAX: Final = 16 * 1024 * 1024
_LOOK_MS: Final = 50
"""How often to look, while a command waits for its answer, whether the device has ended meanwhile."""


class DeviceFailed(RuntimeError):
    """The device has ended, by an error or before it was asked to do something; the text says which."""


class Statistics(msgspec.Struct, frozen=True):
    """What went through since the start. A message counts once for each of its frames, as libzmq counts."""

    front_received: int
    """Frames that came in at the front."""
    front_received_bytes: int
    front_sent: int
    """Frames that went out at the front."""
    front_sent_bytes: int
    back_received: int
    """Frames that came in at the back."""
    back_received_bytes: int
    back_sent: int
    """Frames that went out at the back."""
    back_sent_bytes: int


class Options(TypedDict, total=False):
    """What `Device` takes by name."""

    monitor: str | None
    control: str | None
    hwm: int
    connect_front: bool
    connect_back: bool


class _Commands:
    """What can be said to a device, wherever it runs."""

    def _command(self, word: bytes) -> list[bytes]:
        raise NotImplementedError

    def pause(self) -> None:
        """Nothing goes through from now on; what comes waits, up to the high-water mark."""
        self._command(PAUSE)

    def resume(self) -> None:
        """It goes through again, and what has waited."""
        self._command(RESUME)

    def statistics(self) -> Statistics:
        """What went through so far."""
        return Statistics(*_COUNTS.unpack(b"".join(self._command(STATISTICS))))


class Device(_Commands):
    """A proxy between two endpoints. It runs in this thread (`run`), or in threads of its own (`with Device(...)`).

    Args:
        kind: "queue", "forwarder" or "streamer".
        front: the endpoint towards clients, publishers, or who pushes: `tcp://127.0.0.1:5559`, `5559`, `ipc://PATH`.
        back: the endpoint towards servers, subscribers, or who pulls.
        monitor: where a PUB socket publishes every message that went through, behind a frame `in` or `out`. None: no
            tap, and no cost.
        control: where others say PAUSE, RESUME, TERMINATE and STATISTICS (`Control`): whoever reaches it rules the
            device. None: only this process does.
        hwm: messages that wait for one connection in each direction; 0: no bound. A queue and a forwarder drop what
            exceeds it at a peer that does not read; where nobody reads at the back, or at either side of a streamer,
            the device waits.
        connect_front: connect to `front`, where somebody else has bound it.
        connect_back: likewise: `Device("queue", "5559", broker.endpoints["clients"], connect_back=True)`.

    Raises:
        EndpointError: for an endpoint that cannot be.
        BindError: for one that cannot be had.
        ValueError, TypeError: for a kind or a number that cannot be.
    """

    def __init__(
        self,
        kind: Kind,
        front: str,
        back: str,
        *,
        monitor: str | None = None,
        control: str | None = None,
        hwm: int = HWM,
        connect_front: bool = False,
        connect_back: bool = False,
    ) -> None:
        options = Options(
            monitor=monitor, control=control, hwm=hwm, connect_front=connect_front, connect_back=connect_back
        )
        wanted = _checked(kind, front, back, options)
        self._context = new_context()
        self._sockets: dict[str, Socket] = {}
        self._proxied: list[Socket] = []
        self._lock = threading.Lock()
        """Held by the thread that speaks to the proxy."""
        self._alarm = Alarm()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._begun = self._ending = self._ended = self._closed = False
        self._paused = False
        self._leaving = False
        """libzmq's proxy was told to end because of a pause; the thread that comes back from it takes note."""
        self._before: tuple[int, ...] = _NOTHING
        """What went through until the device was last paused."""
        try:
            self.endpoints: Mapping[str, str] = MappingProxyType(self._open(kind, wanted, options))
        except BaseException:
            self._close()
            raise
        look_after(self)

    def _open(self, kind: str, wanted: Mapping[str, Endpoint], options: Options) -> dict[str, str]:
        types = dict(zip(("front", "back"), KINDS[kind], strict=True)) | {"monitor": zmq.PUB, "control": zmq.REP}
        reached = {}
        for role, endpoint in wanted.items():
            self._sockets[role] = socket = attach.new_socket(self._context, types[role])
            socket.set_hwm(options["hwm"])
            if _connects(role, options):
                attach.keep_alive(socket)
                attach.try_again_soon(socket)
                attach.connect(socket, endpoint)
                reached[role] = endpoint.url
            else:
                attach.listen_well(socket)
                reached[role] = attach.bind(socket, endpoint, role)
        inner = self._sockets["inner"] = self._context.socket(zmq.REP)
        asking = self._sockets["asking"] = self._context.socket(zmq.REQ)
        inner.linger = asking.linger = 0
        asking.req_relaxed = asking.req_correlate = 1  # an answer that comes too late is not taken for the next one
        inner.bind(_INNER)
        asking.connect(_INNER)
        self._proxied = [self._sockets[role] for role in ("front", "back", "monitor", "inner") if role in self._sockets]
        return reached

    # --- Running

    def run(self) -> None:
        """Forwards until somebody says `terminate`. Raises `DeviceFailed` where libzmq ends it."""
        self._begin()
        self._run()
        if self._error is not None:
            raise DeviceFailed(f"libzmq ended the device: {self._error}") from self._error

    def start(self) -> Self:
        """Runs in threads of its own until `close`."""
        self._begin()
        self._thread = threading.Thread(target=self._run, name="relet-device", daemon=True)
        self._thread.start()
        return self

    def _begin(self) -> None:
        if self._begun:
            raise RuntimeError("this device was started before: make another")
        self._begun = True

    def _run(self) -> None:
        proxy = threading.Thread(target=self._forward, name="relet-device-proxy", daemon=True)
        proxy.start()
        try:
            self._attend()
        finally:
            self._end(proxy)

    def terminate(self) -> None:
        """Ends the device soon. From anywhere, signal handlers too; does not wait."""
        self._ending = True
        self._alarm.ring()

    def close(self) -> None:
        """Ends the device and waits for it. Raises `DeviceFailed` where libzmq had ended its thread."""
        self.terminate()
        if self._thread is not None:
            self._thread.join()
            error, self._error = self._error, None
            if error is not None:
                raise DeviceFailed(f"libzmq ended the device: {error}") from error
        elif not self._begun:
            self._close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def at_exit(self) -> None:
        """The interpreter ends: so does the device."""
        if self._thread is not None:
            self.terminate()
            self._thread.join(2 * END_SECONDS_MAX)

    def after_fork(self) -> None:
        """The sockets are the parent's."""
        self._begun = self._ended = self._closed = True
        self._thread = None

    # --- The thread that forwards

    def _forward(self) -> None:
        try:
            # A signal that ends a call of libzmq would have the proxy begin anew, its statistics and pause forgotten.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            front, back, inner = (self._sockets[role] for role in ("front", "back", "inner"))
            if "monitor" in self._sockets:
                _Tapped(front, back, self._sockets["monitor"], inner).run()
            else:
                zmq.proxy_steerable(front, back, None, inner)
                while self._leaving:
                    self._leaving = False
                    if not _resumed(inner):
                        break
                    zmq.proxy_steerable(front, back, None, inner)
        except zmq.ContextTerminated:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by `run`, in the thread that called it
            self._error = error
        finally:
            self._ended = True
            for socket in self._proxied:
                socket.close()
            self._alarm.ring()

    # --- The thread that attends

    def _attend(self) -> None:
        control, alarm = self._sockets.get("control"), self._alarm
        poller = zmq.Poller()
        poller.register(alarm.fileno(), zmq.POLLIN)
        if control is not None:
            poller.register(control, zmq.POLLIN)
        with signal_wakeups() as signals:
            if signals is not None:
                poller.register(signals.fileno(), zmq.POLLIN)
            while True:
                alarm.asleep = True
                if self._ending or self._ended:
                    return
                for ready, _ in poller.poll():
                    if ready is control:
                        self._obey(control)
                    elif ready == alarm.fileno():
                        alarm.heard()
                    elif signals is not None:
                        heard(signals)

    def _obey(self, control: Socket) -> None:
        """One message of the control endpoint. What it says, and whether it can be meant, is nothing to the proxy."""
        said = control.recv_multipart()
        if said == [TERMINATE]:
            self._ending = True
            control.send(b"")
            return
        if len(said) == 1 and said[0] in (PAUSE, RESUME, STATISTICS):
            try:
                control.send_multipart(self._command(said[0]))
            except (DeviceFailed, TimeoutError) as error:
                control.send_string(str(error))
        else:
            control.send_string("say PAUSE, RESUME, TERMINATE or STATISTICS, in one frame")

    def _command(self, word: bytes) -> list[bytes]:
        with self._lock:
            if not self._begun or self._ending or self._ended:
                raise DeviceFailed("the device does not run")
            if "monitor" in self._sockets:
                return self._ask(word)
            if word == STATISTICS:
                packed = _COUNTS.pack(*self._counts())
                return [packed[at : at + 8] for at in range(0, len(packed), 8)]
            pause, resume = _words_of_libzmq()
            if word == RESUME:
                self._paused = False
                return self._ask(resume)
            if not self._paused:
                self._ask(pause)
                self._before = self._counts()
                self._paused = self._leaving = True
                self._ask(TERMINATE)
            return [b""]

    def _counts(self) -> tuple[int, ...]:
        now = _COUNTS.unpack(b"".join(self._ask(STATISTICS)))
        return tuple(before + since for before, since in zip(self._before, now, strict=True))

    def _ask(self, word: bytes) -> list[bytes]:
        """Says a word to the thread that forwards."""
        asking = self._sockets["asking"]
        asking.send(word)
        until = time.monotonic() + ANSWER_SECONDS_MAX
        while not asking.poll(_LOOK_MS):
            if self._ended or self._ending:
                raise DeviceFailed("the device has ended")
            if time.monotonic() > until:
                raise TimeoutError(
                    f"the device did not hear within {ANSWER_SECONDS_MAX:g} s: it waits for peers that do not read;"
                    " what was asked is done when they do"
                )
        return asking.recv_multipart()

    def _end(self, proxy: threading.Thread) -> None:
        self._ending = True
        with self._lock:
            if not self._ended:
                self._sockets["asking"].send(TERMINATE)
        proxy.join(END_SECONDS_MAX)
        self._close()
        proxy.join()

    def _close(self) -> None:
        """Ends the context, and with it a proxy that waits for somebody who does not read."""
        if self._closed:
            return
        self._closed = True
        for socket in self._sockets.values():
            if not self._begun or socket not in self._proxied:
                socket.close()
        self._context.term()


@functools.cache
def _words_of_libzmq() -> tuple[bytes, bytes]:
    """(what pauses libzmq's proxy, what resumes it): some have the two mixed up (libzmq pull request 4600)."""
    with zmq.Context[Socket]() as context:
        kinds = (zmq.PULL, zmq.PUSH, zmq.REP, zmq.PUSH, zmq.PULL, zmq.REQ)
        front, back, inner, source, sink, asking = sockets = [context.socket(kind) for kind in kinds]
        for name, bound, connected in (("front", front, source), ("back", back, sink), ("control", inner, asking)):
            bound.bind(f"inproc://{name}")
            connected.connect(f"inproc://{name}")
        proxy = threading.Thread(target=zmq.proxy_steerable, args=(front, back, None, inner), daemon=True)
        proxy.start()
        counts: tuple[int, ...] = ()
        # The message is there before the second word is said. Where it goes through, it has when the third is heard.
        for word in (PAUSE, STATISTICS, STATISTICS, STATISTICS, TERMINATE):
            asking.send(word)
            answer = b"".join(asking.recv_multipart())
            if word == PAUSE:
                source.send(b"")
            elif word == STATISTICS:
                counts = _COUNTS.unpack(answer)
        proxy.join()
        for socket in sockets:
            socket.close(linger=0)
    return (RESUME, PAUSE) if counts[0] else (PAUSE, RESUME)


def _resumed(inner: Socket) -> bool:
    """What a device that is paused does: it waits for the word to go on. False: it shall end."""
    _, resume = _words_of_libzmq()
    while True:
        word = inner.recv()
        if word == STATISTICS:
            inner.send_multipart([bytes(8)] * 8)
            continue
        inner.send(b"")
        if word in (resume, TERMINATE):
            return word == resume


class _Lane:
    """One way through a device that is tapped."""

    def __init__(self, source: Socket, sink: Socket, prefix: bytes, pumps: Any) -> None:
        self.source, self.sink, self.prefix = source, sink, prefix
        self.receive: Callable[[int, int], list[tuple[Any, ...]]] = pumps.FramePump(source).receive
        self.send: Callable[[Sequence[tuple[Any, ...]]], int] = pumps.FramePump(sink).send
        self.waiting: list[tuple[Any, ...]] = []
        """What was read and has found no room yet."""
        self.received = [0, 0]
        self.sent = [0, 0]
        """Frames, and their bytes."""

    def forward(self, publish: Callable[[Sequence[tuple[Any, ...]]], int]) -> None:
        """A burst of messages; stops where the sink is full."""
        if not self.waiting:
            self.waiting = self.receive(_BURST_MESSAGES_MAX, _BURST_BYTES_MAX)
            _count(self.received, self.waiting)
        sent = self.send(self.waiting)
        gone, self.waiting = self.waiting[:sent], self.waiting[sent:]
        _count(self.sent, gone)
        publish([(self.prefix, *message) for message in gone])


def _count(counts: list[int], messages: list[tuple[Any, ...]]) -> None:
    counts[0] += sum(map(len, messages))
    counts[1] += sum(len(frame) for message in messages for frame in message)


class _Tapped:
    """The loop of a device with a monitor, with the words and the counts of zmq_proxy_steerable(3)."""

    def __init__(self, front: Socket, back: Socket, monitor: Socket, control: Socket) -> None:
        _, pumps = pump.implementation()
        self._lanes = [_Lane(front, back, IN, pumps)]
        if back.type != zmq.PUSH:
            self._lanes.append(_Lane(back, front, OUT, pumps))
        self._publish = pumps.FramePump(monitor).send
        self._control = control
        self._paused = False

    def run(self) -> None:
        """Forwards until the control socket says TERMINATE."""
        poller = zmq.Poller()
        while True:
            wanted = {self._control: zmq.POLLIN}
            for lane in () if self._paused else self._lanes:
                socket, flag = (lane.sink, zmq.POLLOUT) if lane.waiting else (lane.source, zmq.POLLIN)
                wanted[socket] = wanted.get(socket, 0) | flag
            if dict(poller.sockets) != wanted:
                poller = zmq.Poller()
                for socket, flags in wanted.items():
                    poller.register(socket, flags)
            ready = dict(poller.poll())
            if self._control in ready and not self._obeyed():
                return
            for lane in self._lanes:
                socket, flag = (lane.sink, zmq.POLLOUT) if lane.waiting else (lane.source, zmq.POLLIN)
                if ready.get(socket, 0) & flag and not self._paused:
                    lane.forward(self._publish)

    def _obeyed(self) -> bool:
        """Whether it goes on after what the control socket has said."""
        word = self._control.recv()
        if word == STATISTICS:
            there, *others = self._lanes
            sent, received = (others[0].sent, others[0].received) if others else ([0, 0], [0, 0])
            packed = _COUNTS.pack(*there.received, *sent, *received, *there.sent)
            self._control.send_multipart([packed[at : at + 8] for at in range(0, len(packed), 8)])
            return True
        if word in (PAUSE, RESUME):
            self._paused = word == PAUSE
        self._control.send(b"")
        return word != TERMINATE


class Control(_Commands):
    """Says to a device elsewhere, at its control endpoint, what it shall do. For one thread at a time.

    Args:
        endpoint: where the device has bound `control`.
        timeout: seconds to wait for each answer.

    Its methods raise `TimeoutError` where nobody answers in time, and `DeviceFailed` with what the device says where it
    does not do it.
    """

    def __init__(self, endpoint: str, *, timeout: float = 5.0) -> None:
        check_text("endpoint", endpoint)
        parsed = parse_connect(endpoint, inproc=False)
        self._endpoint, self._timeout = endpoint, timeout
        self._context = zmq.Context[Socket]()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.linger = 0
        self._socket.req_relaxed = self._socket.req_correlate = 1
        attach.try_again_soon(self._socket)
        attach.connect(self._socket, parsed)

    def terminate(self) -> None:
        """Ends the device."""
        self._command(TERMINATE)

    def _command(self, word: bytes) -> list[bytes]:
        self._socket.send(word)
        if not self._socket.poll(round(self._timeout * 1000)):
            raise TimeoutError(f"no device answered at {self._endpoint} within {self._timeout:g} s")
        answer = self._socket.recv_multipart()
        if [len(frame) for frame in answer] != ([8] * 8 if word == STATISTICS else [0]):
            raise DeviceFailed(b" ".join(answer).decode(errors="replace"))
        return answer

    def close(self) -> None:
        """Ends the connection, not the device."""
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


# --- A process of its own


class DeviceProcess(_Commands):
    """A device in a process of its own, which ends with this one at the latest. Arguments and errors are those of
    `Device`.

    The process is spawned, not forked: a program that makes one keeps what it does under `if __name__ == "__main__":`
    (docs.python.org/3/library/multiprocessing.html, "Safe importing of main module").
    """

    def __init__(self, kind: Kind, front: str, back: str, **options: Unpack[Options]) -> None:
        _checked(kind, front, back, options)
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        self._lock = threading.Lock()
        self.process = spawning.Process(
            target=_serve, args=(theirs, kind, front, back, options), name=f"relet-device-{kind}", daemon=True
        )
        self.process.start()
        theirs.close()
        try:
            self.endpoints: Mapping[str, str] = MappingProxyType(self._hear(PROCESS_SECONDS_MAX))
        except BaseException:
            self.close()
            raise

    def terminate(self) -> None:
        """Ends the device soon; does not wait."""
        with contextlib.suppress(OSError):
            self._pipe.send_bytes(TERMINATE)

    def close(self) -> None:
        """Ends the device and waits for it."""
        with self._lock:
            self.terminate()
            self.process.join(PROCESS_SECONDS_MAX)
            if self.process.is_alive():
                self.process.kill()
                self.process.join()
            self._pipe.close()

    def _command(self, word: bytes) -> list[bytes]:
        with self._lock:
            try:
                self._pipe.send_bytes(word)
            except OSError:
                self._gone()
            answer: list[bytes] = self._hear(2 * ANSWER_SECONDS_MAX + END_SECONDS_MAX)
            return answer

    def _hear(self, seconds: float) -> Any:
        """What the process says next; raised where it is an error."""
        try:
            if not self._pipe.poll(seconds):
                raise TimeoutError(f"the process of the device did not answer within {seconds:g} s")
            said = self._pipe.recv()
        except TimeoutError:
            raise
        except (EOFError, OSError):
            self._gone()
        if isinstance(said, BaseException):
            raise said
        return said

    def _gone(self) -> NoReturn:
        raise DeviceFailed("the process of the device has ended") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _serve(pipe: Connection, kind: Kind, front: str, back: str, options: Options) -> None:
    """What the process of a device does. When the pipe ends, so has the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: it is for the parent to decide
    try:
        device = Device(kind, front, back, **options)
    except (OSError, ValueError, TypeError) as error:
        pipe.send(error)
        return
    signal.signal(signal.SIGTERM, lambda *_: device.terminate())
    pipe.send(dict(device.endpoints))
    threading.Thread(target=_listen, args=(pipe, device), daemon=True).start()
    device.run()


def _listen(pipe: Connection, device: Device) -> None:
    try:
        while (word := pipe.recv_bytes()) != TERMINATE:
            try:
                pipe.send(device._command(word))  # noqa: SLF001 - the other end of the same object
            except (DeviceFailed, TimeoutError) as error:
                pipe.send(error)
    except (EOFError, OSError):
        pass
    device.terminate()


# --- What was asked for


def _checked(kind: str, front: str, back: str, options: Options) -> dict[str, Endpoint]:
    """The endpoints by role. Raises `EndpointError`, `ValueError` or `TypeError`."""
    if kind not in KINDS:
        close = get_close_matches(str(kind), KINDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(KINDS)}"
        raise ValueError(f"there is no device {kind!r}; {hint}")
    hwm = options.get("hwm", HWM)
    if type(hwm) is not int:
        raise TypeError(f"hwm is a whole number of messages, not {hwm!r:.100} ({type(hwm).__name__})")
    if not 0 <= hwm <= HWM_MAX:
        raise ValueError(f"hwm is {hwm}: it must be from 0 (no bound) to {HWM_MAX}")
    texts = {"front": front, "back": back, "monitor": options.get("monitor"), "control": options.get("control")}
    endpoints = {}
    for role, text in texts.items():
        if text is None and role in ("monitor", "control"):
            continue
        check_text(role, text, host=LOOPBACK)
        parse = parse_connect if _connects(role, options) else parse_bind
        endpoints[role] = parse(str(text), inproc=False)
    check_distinct(endpoints)
    return endpoints


def _connects(role: str, options: Options) -> bool:
    return bool({"front": options.get("connect_front"), "back": options.get("connect_back")}.get(role))


__all__ = [
    "Control",
    "Device",
    "DeviceFailed",
    "DeviceProcess",
    "EndpointError",
    "Kind",
    "Statistics",
]
