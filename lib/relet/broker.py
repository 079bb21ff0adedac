"""The broker that people run: sockets, poll, time and signals around the loop.

It runs in this thread (`run`), in a thread of its own (`with Broker(...)`), or a turn at a time (`turn`). `stop` may be
called from any thread and from a signal handler: it counts, and rings the alarm that the poll listens to.

**Lease time** is monotonic time minus the time in which the broker could not hear: a process that was stopped, or a
turn that took too long, must not cost jobs their leases. A poll that returns later than it was told to, or a turn that
takes longer than `STALL_NS`, is such a time.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket as sockets
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from itertools import chain, repeat
from numbers import Real
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

import zmq

from relet import compiled
from relet.core.effects import Counters, Notice
from relet.core.job import Job
from relet.core.limits import Limits
from relet.core.machine import Machine
from relet.core.rebuilding import BadRecords
from relet.core.settings import configured
from relet.events import Event
from relet.log import Log, Publisher
from relet.server import Server
from relet.store import Store, StoreUnusable
from relet.transport import pump as pumps
from relet.transport.endpoints import LOOPBACK, Endpoint, check_distinct, check_text, parse_bind
from relet.transport.link import Alarm, default_logger
from relet.transport.port import PullPort, RouterPort, tells_descriptors
from relet.transport.threads import new_context
from relet.transport.wakeups import heard, signal_wakeups

STALL_NS: Final = 50_000_000
"""The poll may return this late, and a turn take this long, before the broker counts as deaf: ordinary scheduling."""

WAIT_NS_MAX: Final = 1_000_000_000
"""The longest wait for a deadline: no more than this is given back when the process was stopped meanwhile, and any
timeout fits the poll, which counts milliseconds in a C int."""

STOPPED_NS: Final = 250_000_000
"""A poll that is later than this was not scheduled late: the process or the machine was stopped."""

STALL_SAID_NS: Final = 1_000_000_000
"""A stall of this length is worth a line."""

FLUSH_NS: Final = 1_000_000_000
"""At the stop, replies may wait this long for clients that do not read."""

SETTLE_NS: Final = 10_000_000_000
"""At the stop, when no job is open any more: so long may a store take to make the last turns safe (what speaks of later
ones is not said), and clients be refused that go on asking."""

_TOKENS_DRAWN: Final = 1_024
_TOKEN: Final = struct.Struct("16s" * _TOKENS_DRAWN)


def _tokens() -> Iterator[bytes]:
    """Unguessable tokens of 16 bytes, drawn in blocks: one call to the system for each token would cost 326 ns."""
    return chain.from_iterable(_TOKEN.unpack(os.urandom(_TOKEN.size)) for _ in repeat(None))


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """A million objects that all stay make the collector look at them again and again, in vain."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _parsed(texts: Mapping[str, str | None]) -> dict[str, Endpoint]:
    """The endpoints of the roles; a role that is None is not there. Raises `TypeError` or `EndpointError`."""
    written = {role: text for role, text in texts.items() if role != "admin" or text is not None}
    for role, text in written.items():
        check_text(role, text, host=LOOPBACK)
    endpoints = {role: parse_bind(str(text)) for role, text in written.items()}
    check_distinct(endpoints)
    return endpoints


def _check_kinds(tries: object, timeout: object, *, drain: object, limits: object) -> None:
    """Raises TypeError where an argument is no number or `Limits` at all; a bool is no number here."""
    expected: list[tuple[str, object, type, str]] = [("drain", drain, Real, "a number of seconds")]
    if tries is not None:
        expected.append(("tries", tries, int, "a whole number of attempts, or None for no limit"))
    if timeout is not None:
        expected.append(("timeout", timeout, Real, "a number of seconds, or None for no timeout"))
    if limits is not None:
        expected.append(("limits", limits, Limits, "a relet.Limits, or None for the defaults"))
    for name, value, kind, what in expected:
        if not isinstance(value, kind) or type(value) is bool:
            raise TypeError(f"{name} is {what}, not {value!r:.100} ({type(value).__name__})")


def _opened(path: str | os.PathLike[str]) -> Store:
    from relet.store.sqlite import SqliteStore  # noqa: PLC0415 - only who has a file pays for the import of sqlite3

    return SqliteStore(path)


class LeaseClock:
    """Lease time, nanoseconds."""

    def __init__(self) -> None:
        self.deaf_ns = 0
        """The time in which the broker could not hear, so far."""

    def now(self) -> int:
        """Lease time now."""
        return time.monotonic_ns() - self.deaf_ns

    def deaf(self, duration_ns: int) -> bool:
        """The broker was late or busy for so long; True when that was a stall, and has been taken out of lease time."""
        if duration_ns <= STALL_NS:
            return False
        # Some time must pass, or an overloaded broker would never expire anything.
        self.deaf_ns += duration_ns - STALL_NS
        return True


class Broker:
    """A job broker on three endpoints, and a fourth one for administrators where `admin` names it: whoever reaches
    that one rules the broker.

    `clients`, `workers` and `answers` are endpoints to bind (`tcp://127.0.0.1:4161`, `4161`, `ipc://...`, and
    `inproc://...` with a `context` shared with the peers). `tries` is the limit on counted attempts, `timeout` the
    seconds of one attempt; None: no limit, as in 2010. `queues` are settings of queues by name, in the words of a
    configuration file (docs/operations.md): `queues={"mail": {"run": "30s", "jobs_max": 1000}}`; with
    `only_these_queues` no other may be used. `drain` is how many seconds `stop` gives to open jobs. `pump`
    is "auto", "cython" or "python". `store` is the file in which jobs are kept, made where there is none, or a `Store`
    (`relet.store.sqlite.SqliteStore(path, sync="normal")`), which the broker closes: open jobs are there again when the
    next broker opens it. None: jobs end with the broker. `log` is a structlog logger; None: structlog as the program
    configured it, else warnings on stderr. With `trace`, each step of a job is logged at debug.

    Raises `EndpointError` for an endpoint that cannot be, `BindError` for one that cannot be had, `SettingsError` for
    settings of a queue that cannot be, `ValueError` for a number that makes no sense, `TypeError` for what is none,
    `PumpUnavailable` where "cython" was asked for and does not run, `StoreUnusable` for a file that cannot be had.
    `run` raises `StoreFailed` when the store did not keep something: nothing of that was acknowledged.
    """

    upgraded: Mapping[str, Any] | None = None
    """What was done to a store of an older format: `version_before`, `version`, and `took_s`, seconds."""

    def __init__(
        self,
        clients: str,
        workers: str,
        answers: str,
        *,
        tries: int | None = None,
        timeout: float | None = None,
        limits: Limits | None = None,
        queues: Mapping[str, Mapping[str, Any]] | None = None,
        only_these_queues: bool = False,
        drain: float = 10.0,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        pump: str = pumps.AUTO,
        log: Log | None = None,
        store: Store | str | os.PathLike[str] | None = None,
        trace: bool = False,
        admin: str | None = None,
    ) -> None:
        endpoints = _parsed({"clients": clients, "workers": workers, "answers": answers, "admin": admin})
        _check_kinds(tries, timeout, drain=drain, limits=limits)
        if tries is not None and tries < 1:
            raise ValueError(f"tries is {tries}: it must be at least 1, or None for no limit")
        if timeout is not None and not 0.001 <= timeout <= 10**9:
            raise ValueError(f"timeout is {timeout} s: it must be at least 0.001, or None for no timeout")
        if not 0 <= drain <= 10**9:
            raise ValueError(f"drain is {drain} s: it must be 0 or more")
        settings = configured({} if queues is None else queues)
        self.open_to_others = [role for role, endpoint in endpoints.items() if endpoint.is_public]
        """The roles that other machines can reach: anyone who does may submit and work; at `admin`, rule the broker."""
        self.tries = tries
        self.timeout = timeout
        self.limits = limits = limits or Limits()
        self.drain = drain
        self.pump, implementation = pumps.implementation(pump)
        self.hears_deaths = tells_descriptors()
        """Whether the loss of a worker's connection is known; else only its timeout tells."""
        self._log = log or default_logger()
        self._publisher = Publisher(self._log, time.monotonic_ns)
        self._context = context or new_context()
        self._closing = contextlib.ExitStack()
        if context is None:
            self._closing.callback(self._context.term)
        self._clock = LeaseClock()
        self.load_seconds = 0.0
        """How long it took to load the store."""
        try:  # before the sockets are bound: who could connect meanwhile would find a silent broker
            self._store = _opened(store) if isinstance(store, str | os.PathLike) else store
            self._machine = self._new_machine(trace=trace)
            self._load()
            self._machine.configure(settings, only_these=only_these_queues)
        except BaseException:
            self._closing.close()
            raise
        self._bind(endpoints, implementation)
        self.endpoints: Mapping[str, str] = MappingProxyType({port.role: port.endpoint for port in self._ports})
        self._server = Server(
            self._machine, self._clients, self._workers, self._answers, self._publisher, self._store, self._admins
        )
        self._alarm = Alarm()
        if self._store is not None:
            self._store.rings(self._alarm.ring)
        self._monitors = {port.monitor.fileno(): port.monitor for port in reversed(self._ports)}
        self._poller = self._make_poller()
        self._polls_clients = True
        self._stops = self._stops_heard = 0
        self._signals: sockets.socket | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._closed = self._running = False

    def _new_machine(self, *, trace: bool) -> Machine:
        machine = Machine(
            _tokens(),
            tries=self.tries,
            timeout_ns=None if self.timeout is None else round(self.timeout * 1e9),
            limits=self.limits,
            keeps_records=self._store is not None,
            trace=trace,
            epoch=time.time_ns() // 1_000_000,
            began_ns=self._clock.now(),
        )
        machine.wall_ns = time.time_ns() - self._clock.now()
        return machine

    def _load(self) -> None:
        """Takes what is in the store, and the store over."""
        if self._store is None:
            return
        self._closing.callback(self._store.close)
        began = time.monotonic_ns()
        try:
            with _without_collector():
                self._machine.load(self._store.load(), self._clock.now(), self._store.seal_key)
        except BadRecords as error:
            text = f"{self._store.name} is damaged ({error}): restore it from a backup, or name another file"
            raise StoreUnusable("corrupt", text) from error
        self._machine.epoch = self._store.take_over(self._machine.epoch)
        self._store.watch(self.limits.disk_free_bytes_min)
        for event, fields in self._store.take_notices():
            if event == Event.STORE_UPGRADED:
                self.upgraded = fields
            self._say(event, **fields)
        self.load_seconds = (time.monotonic_ns() - began) / 1e9

    def _bind(self, endpoints: Mapping[str, Endpoint], pump: Any) -> None:
        limits = self.limits
        try:
            self._clients = RouterPort(self._context, "clients", endpoints["clients"], pump, limits)
            self._closing.callback(self._clients.close)
            self._workers = RouterPort(self._context, "workers", endpoints["workers"], pump, limits)
            self._closing.callback(self._workers.close)
            self._answers = PullPort(self._context, endpoints["answers"], pump, limits)
            self._closing.callback(self._answers.close)
            self._admins: RouterPort | None = None
            if "admin" in endpoints:
                self._admins = RouterPort(self._context, "admin", endpoints["admin"], pump, limits)
                self._closing.callback(self._admins.close)
        except BaseException:
            self._closing.close()
            raise
        ports = (self._clients, self._workers, self._answers, self._admins)
        self._ports = [port for port in ports if port is not None]

    def _make_poller(self) -> zmq.Poller:
        poller = zmq.Poller()
        poller.register(self._workers.socket, zmq.POLLIN)
        poller.register(self._clients.socket, zmq.POLLIN)
        poller.register(self._answers.fileno(), zmq.POLLIN)
        if self._admins is not None:
            poller.register(self._admins.socket, zmq.POLLIN)
        for descriptor in self._monitors:
            poller.register(descriptor, zmq.POLLIN)
        poller.register(self._alarm.fileno(), zmq.POLLIN)
        return poller

    # --- Looking in

    @property
    def counters(self) -> Counters:
        """What has happened so far; live, only to be read."""
        return self._machine.counters

    @property
    def jobs_open(self) -> int:
        """Jobs accepted and not final."""
        return self._machine.open

    @property
    def kept(self) -> list[Job]:
        """Dead letters, and outcomes that reached nobody, oldest first; read them between turns or after the end."""
        return list(self._machine.kept)

    # --- Running

    def run(self) -> int:
        """Serves until `stop`; returns how many jobs the stop ended whose clients were there to be told of failure."""
        signals = self._hear_signals()  # before anybody knows where to connect: it takes two descriptors
        self._running = True
        try:
            self._say(
                Event.BROKER_READY,
                **self.endpoints,
                tries=self.tries,
                timeout_s=self.timeout,
                pump=self.pump,
                core=compiled.core,
                open_to_others=self.open_to_others,
            )
            if not self.hears_deaths:
                self._say(Event.BROKER_DEAF_TO_DEATHS)
            while not self._stops:
                self._turn(None)
            self._drain()
            return self._end()
        finally:
            signals.close()
            self._close()
            self._running = False

    def _hear_signals(self) -> contextlib.ExitStack:
        """Lets signals end the poll by themselves, until the stack is closed."""
        undo = contextlib.ExitStack()
        self._signals = undo.enter_context(signal_wakeups())
        if self._signals is not None:
            self._poller.register(self._signals.fileno(), zmq.POLLIN)
            undo.callback(self._poller.unregister, self._signals.fileno())
        return undo

    def turn(self, wait: float = 0.0) -> None:
        """One turn, after waiting up to `wait` seconds for something to do."""
        self._turn(wait)

    def start(self) -> Self:
        """Runs in a thread of its own until `close`."""
        if self._thread is not None:
            raise RuntimeError("this broker was started before: make another")
        self._thread = threading.Thread(target=self._run_in_thread, name="relet-broker", daemon=True)
        self._thread.start()
        return self

    def _run_in_thread(self) -> None:
        try:
            self.run()
        except BaseException as error:  # noqa: BLE001 - raised again by `close`
            self._error = error
            self._log.log(logging.CRITICAL, Event.BROKER_FAILED.value, exc_info=error)

    def stop(self) -> None:
        """First call: no new jobs, open ones have `drain` seconds. Second call: stops now. From anywhere."""
        self._stops += 1
        self._alarm.ring()

    def close(self) -> None:
        """Stops now and waits until the broker has ended; its clients are told of failure.

        Where `run` is under way in a thread of yours, it is that call which ends: join your thread.

        Raises what ended the thread of `start`, if that was an error: a fault of ours, or of the store.
        """
        while self._stops < 2 and (self._thread is not None or self._running):
            self.stop()
        if self._thread is not None:
            self._thread.join()
            error, self._error = self._error, None
            if error is not None:
                raise error
        elif not self._closed and not self._running:
            self._end()
            self._close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- Turns

    def _turn(self, wait_s: float | None) -> None:
        server, clock = self._server, self._clock
        if self._polls_clients is not server.hears_clients:
            self._polls_clients = server.hears_clients
            self._poller.modify(self._clients.socket, zmq.POLLIN if self._polls_clients else 0)
        wait_ms = self._wait_ms(wait_s)
        began = time.monotonic_ns()
        self._alarm.asleep = True
        if self._stops != self._stops_heard or server.has_settled():  # it was rung while awake
            self._stops_heard = self._stops
            wait_ms = 0
        for ready, _ in self._poller.poll(wait_ms):
            if ready in self._monitors:
                self._monitors[ready].ready = True
            elif ready == self._alarm.fileno():
                self._alarm.heard()
            elif self._signals is not None and ready == self._signals.fileno():
                heard(self._signals)
        self._alarm.asleep = False
        woke = time.monotonic_ns()
        if wait_ms >= 0:
            late = woke - began - wait_ms * 1_000_000
            # A poll that is very late says nothing of when the broker went deaf: none of the wait counts, so that
            # nothing expires in the turn that has not yet heard what came meanwhile.
            self._stalled(late if late < STOPPED_NS else woke - began)
        if self._stops:  # already in this turn: what is read now may have been sent after the stop
            server.draining = True
        server.turn(clock.now(), time.time_ns(), clock.now)
        self._stalled(time.monotonic_ns() - woke)
        self._watch()

    def _wait_ms(self, wait_s: float | None) -> int:
        """How long the poll may wait, rounded up: a timer never fires early, and never spins."""
        if self._server.busy or any(monitor.ready for monitor in self._monitors.values()):
            return 0
        wait_ns = -1 if wait_s is None else round(wait_s * 1e9)
        due = self._server.next_deadline()
        if due is not None:
            until_due = min(max(0, due - self._clock.now()), WAIT_NS_MAX)
            wait_ns = until_due if wait_ns < 0 else min(wait_ns, until_due)
        flush_at = self._publisher.due()
        if flush_at is not None:
            until_flush = max(0, flush_at - time.monotonic_ns())
            wait_ns = until_flush if wait_ns < 0 else min(wait_ns, until_flush)
        return -1 if wait_ns < 0 else -(-wait_ns // 1_000_000)

    def _stalled(self, duration_ns: int) -> None:
        if self._clock.deaf(duration_ns) and duration_ns >= STALL_SAID_NS:
            self._publisher((Event.BROKER_STALLED, {"stalled_s": round(duration_ns / 1e9, 3)}))

    def _watch(self) -> None:
        """The news that no job hangs on: connections that came to nothing, lines that were held back."""
        if self._publisher.due() is not None:
            self._publisher.flush()
        for port in self._ports:
            if port.handshakes_failed:
                self._say(Event.HANDSHAKE_FAILED, role=port.role, count=port.handshakes_failed)
                port.handshakes_failed = 0
            if port.accepts_failed:
                self._say(Event.ACCEPT_FAILED, role=port.role, count=port.accepts_failed)
                port.accepts_failed = 0

    def _drain(self) -> None:
        server, machine = self._server, self._machine
        server.draining = True
        self._say(Event.BROKER_DRAINING, jobs_open=machine.open, drain_s=self.drain)
        until = time.monotonic() + self.drain
        while not server.may_end() and self._stops < 2 and (left := until - time.monotonic()) > 0:
            self._turn(left)

    def _end(self) -> int:
        """Ends what is open, tells everybody, and says what was done."""
        server, machine = self._server, self._machine
        server.draining = True
        stops, until = self._stops, None
        gone_before, cancelled_before = machine.counters.replies_unroutable, machine.counters.jobs_cancelled
        while not server.stop(self._clock.now()):
            if machine.open and not server.leaves_jobs:
                continue
            if until is None:  # from here on only the store, or a client that goes on asking, can hold us up
                until = time.monotonic_ns() + SETTLE_NS
            if time.monotonic_ns() >= until or self._stops != stops:
                break
            if self._store is not None:
                self._poller.poll(1)
        until = time.monotonic_ns() + FLUSH_NS
        while server.outbox and time.monotonic_ns() < until:
            self._turn(0.005)
        self._publisher.flush(all_of_it=True)
        counted = {name: value for name in Counters.__struct_fields__ if (value := getattr(machine.counters, name))}
        gone = machine.counters.replies_unroutable - gone_before
        told = max(0, machine.counters.jobs_cancelled - cancelled_before - gone)  # who has gone is owed nothing
        if server.leaves_jobs:
            counted["jobs_left"] = machine.open
        self._say(Event.BROKER_STOPPED, told_of_failure=told, replies_unread=len(server.outbox), **counted)
        return told

    def _say(self, event: Event, **fields: Any) -> None:
        notice: Notice = (event, fields)
        self._publisher(notice)

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._closing.close()
