"""The thread behind a blocking client, and what the callers' threads share with it.

The callers put requests into an inbox; the thread takes all that has gathered there since its last turn, hands it to
the peer, and sends it in one call. It owns the socket, sleeps while nothing happens, and runs no code of the user's but
the callbacks of futures.
"""

from __future__ import annotations

import collections
import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Final, TypeVar

import zmq

from relet.client.errors import BrokerLost, ClientClosed, JobFailed, UnexpectedAnswer
from relet.client.peer import CORRELATION_SECRET_BYTES, FAILURE, ClientPeer, Request
from relet.client.waiting import Channel, Mapped, Outcome, Waiter
from relet.events import Event
from relet.transport.endpoints import Endpoint
from relet.transport.link import (
    Alarm,
    Context,
    Link,
    Log,
    News,
    Sleeper,
    earliest,
    look_after,
    was_terminated,
)

TURN_MESSAGES_MAX: Final = 1_000
"""Messages received, and sent, in one turn, so that neither waits for the other."""
CLOSE_SECONDS_MAX: Final = 2.0
"""How long `stop` waits for the thread: only a callback of the user's that does not return can take so long."""
REFUSALS_LOGGED_EVERY_NS: Final = 1_000_000_000
"""Bad frames and unknown answers are logged at most this often, with their count."""

T = TypeVar("T")


class Engine:
    """The library's thread, and what the callers' threads share with it. It knows no `Client`, so that one that was
    forgotten can be collected.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        context: Context | None,
        *,
        resend: bool,
        open_max: int,
        open_bytes_max: int,
        body_bytes_max: int,
    ) -> None:
        self.peer: ClientPeer[Waiter] = ClientPeer(os.urandom(CORRELATION_SECRET_BYTES), resend=resend)
        self.connected = False
        self._open_max = open_max
        self._open_bytes_max = open_bytes_max
        self._body_bytes_max = body_bytes_max
        self._open = 0
        self._open_bytes = 0
        self._waiting_for_room = 0
        self._lock = threading.RLock()  # reentrant: a signal handler may close the client in the midst of `submit`
        self._room = threading.Condition(self._lock)
        self._inbox: collections.deque[Waiter] = collections.deque()
        self._unwanted: collections.deque[list[Waiter]] = collections.deque()
        self._closed_because: str | None = None
        self._alarm = Alarm()
        self._endpoint = endpoint
        self._context = context
        self._log = Log()
        self._refusals_logged = 0
        self._refusals_logged_at = 0
        self._thread = threading.Thread(target=self._run, name="relet-client", daemon=True)
        look_after(self)
        self._thread.start()

    # --- Called by any thread.

    def submit(self, request: Waiter) -> None:
        """Open a request; waits while too many are open. Raises `ClientClosed`, `TimeoutError` where the request's
        time is up before there is room, and ValueError where its body is too large.
        """
        if request.bytes > self._body_bytes_max:
            raise ValueError(
                f"a body of {request.bytes:,} bytes is above body_bytes_max ({self._body_bytes_max:,}): "
                "send less, or raise the broker's --body-bytes-max and the client's"
            )
        with self._lock:
            if (self._open >= self._open_max or self._open_bytes + request.bytes > self._open_bytes_max) and self._open:
                self._await_room(request)
            if self._closed_because:
                raise ClientClosed(self._closed_because)
            self._open += 1
            self._open_bytes += request.bytes
            self._inbox.append(request)
        if self._alarm.asleep:
            self._alarm.ring()

    def _await_room(self, request: Waiter) -> None:
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError("a future's callback must not wait, and too many requests are open to submit another")
        deadline = None if request.timeout_ns is None else time.monotonic_ns() + request.timeout_ns
        self._waiting_for_room += 1
        try:
            while (
                not self._closed_because
                and self._open
                and (self._open >= self._open_max or self._open_bytes + request.bytes > self._open_bytes_max)
            ):
                left = None if deadline is None else (deadline - time.monotonic_ns()) / 1e9
                if left is not None and left <= 0:
                    raise TimeoutError("too many requests were open all the time")
                self._room.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
        finally:
            self._waiting_for_room -= 1
        if deadline is not None:
            request.timeout_ns = max(0, deadline - time.monotonic_ns())

    def abandon(self, requests: Sequence[Waiter]) -> None:
        """Nobody wants the outcomes of these any more."""
        if self._closed_because is None:  # else they end by that, and nobody takes them from here
            self._unwanted.append(list(requests))
            self._alarm.ring()

    def must_not_wait(self) -> None:
        """Raise where waiting for an answer would wait for ever."""
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError("a future's callback must not wait for another answer: use submit")

    def stop(self, why: str = "the client was closed") -> None:
        """End the thread and wait for it; open requests end with `ClientClosed`."""
        with self._lock:
            if self._closed_because is None:
                self._closed_because = why
            self._room.notify_all()
        self._alarm.ring()
        if threading.get_ident() != self._thread.ident:
            self._thread.join(CLOSE_SECONDS_MAX)

    def forget(self) -> None:
        """The client was collected: end the thread, without waiting."""
        self._closed_because = self._closed_because or "the client was not referenced any more"
        self._alarm.ring()

    def at_exit(self) -> None:
        """Somebody forgot to close the client."""
        self.stop("the interpreter ended")

    def after_fork(self) -> None:
        """This is the child of a fork: every call but `close` shall say so."""
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._alarm.asleep = False
        self.connected = False
        self._closed_because = "the client belongs to the parent process; make one after the fork"

    # --- The thread.

    def _run(self) -> None:
        context = self._context or Context()
        why: BaseException | None = None
        try:
            link = Link(context, zmq.DEALER, self._endpoint, time.monotonic_ns())
            try:
                self._turns(link)
            finally:
                link.close()
        except BaseException as error:  # noqa: BLE001 - also what a callback raised, after its batch: nobody must wait
            if was_terminated(error, context):
                self._closed_because = "the context of the client was terminated"
            else:
                why = error
                self._closed_because = f"the client's thread failed: {error!r}"
                self._log.say(logging.ERROR, Event.LIBRARY_FAILED, exc_info=True, endpoint=self._endpoint.url)
        self.connected = False
        with self._lock:
            if self._closed_because is None:
                self._closed_because = "the client was closed"
            late = list(self._inbox)
            self._inbox.clear()
            self._room.notify_all()
        closed = self._closed_because
        try:
            self._deliver([(request, _caused(ClientClosed(closed), why)) for request in [*self.peer.close(), *late]])
        finally:
            if self._context is None:
                context.term()

    def _turns(self, link: Link) -> None:
        """Turn until told to stop, and sleep between the turns, where no local holds on to the last one's messages."""
        peer, sleeper = self.peer, Sleeper(self._alarm)
        while self._closed_because is None:
            now = time.monotonic_ns()
            rests, stuck = self._turn(link, now)
            if rests:
                sleeper.sleep(earliest((peer.due, link.due)), now, link.watched(writable=stuck), self._idle)

    def _turn(self, link: Link, now: int) -> tuple[bool, bool]:
        """Read first, then the news of the connection, then time, then what callers want.

        Returns whether nothing is left to do, and whether more would go if the socket took it.
        """
        peer, inbox = self.peer, self._inbox
        messages = link.receive(TURN_MESSAGES_MAX)
        if messages:
            self._answered(messages)
        for news in link.news(now):
            self._hear(news, link, now)
        unwanted = _take_all(self._unwanted)  # before the inbox, where their requests may still be
        if inbox:
            peer.submit(_take_all(inbox), now)
        for requests in unwanted:
            ended = peer.abandon(requests)
            self._make_room(len(ended), sum(request.bytes for request in ended))
            for request in ended:
                request.dropped()
        due = peer.due
        if due is not None and due <= now:
            expired = peer.expire(now)
            self._deliver([(request, _no_answer(request)) for request in expired])
        stuck = False
        outgoing = peer.outgoing(TURN_MESSAGES_MAX)
        if outgoing:
            sent = link.send(outgoing)
            peer.sent(sent)
            stuck = sent < len(outgoing)
        self._log_refusals(now)
        return len(messages) < TURN_MESSAGES_MAX and (stuck or not (peer.connected and peer.unsent)), stuck

    def _idle(self) -> bool:
        return not (self._inbox or self._unwanted or self._closed_because)

    def _hear(self, news: News, link: Link, now: int) -> None:
        peer, log, endpoint = self.peer, self._log, self._endpoint.url
        if news is News.CONNECTED:
            peer.became_connected()
            self.connected = True
            log.say(logging.INFO, Event.BROKER_CONNECTED, endpoint=endpoint)
        elif news is News.LOST:
            while messages := link.receive(TURN_MESSAGES_MAX):
                self._answered(messages)
            self.connected = False
            link.rebuild(now)
            log.say(logging.WARNING, Event.BROKER_LOST, endpoint=endpoint, requests_open=len(peer))
            self._deliver([(request, BrokerLost(f"the connection to {endpoint} was lost")) for request in peer.lost()])
        else:
            log.say(logging.WARNING, Event.BROKER_UNREACHABLE, endpoint=endpoint, requests_open=len(peer))

    def _answered(self, messages: list[tuple[bytes, ...]]) -> None:
        settled: list[tuple[Waiter, Outcome]] = []
        failed = 0
        for request, frames in self.peer.received(messages):
            if len(frames) == 1 and frames[0] and not request.multipart:  # nearly always
                settled.append((request, frames[0]))
            elif frames == FAILURE:
                failed += 1
                settled.append((request, JobFailed("the broker gave the job up")))
            elif request.multipart:
                settled.append((request, list(frames)))
            else:
                settled.append((request, UnexpectedAnswer(frames)))
        self.peer.counters.failed += failed
        if settled:
            self._deliver(settled)

    def _deliver(self, settled: list[tuple[Waiter, Outcome]]) -> None:
        """Make room first, so that who wakes up by an outcome finds it; then tell.

        What a callback raises that is no `Exception` (futures log those), such as SystemExit, is raised at the end: the
        peer has given up all of these requests, so nobody else would tell the rest.
        """
        freed = 0
        for request, _ in settled:
            freed += request.bytes
        self._make_room(len(settled), freed)
        channels: set[Channel] = set()
        raised: BaseException | None = None
        for request, outcome in settled:
            if type(request) is Mapped:
                channel = request.channel
                channel.gathered.append((request.index, outcome))
                channels.add(channel)
            else:
                try:
                    request.settle(outcome)
                except BaseException as error:  # noqa: BLE001 - the first one is raised below
                    raised = raised or error
        for channel in channels:
            channel.flush()
        if raised is not None:
            raise raised

    def _make_room(self, ended: int, freed: int) -> None:
        with self._lock:
            self._open -= ended
            self._open_bytes -= freed
            if self._waiting_for_room:
                self._room.notify_all()

    def _log_refusals(self, now: int) -> None:
        counters = self.peer.counters
        count = counters.answers_unknown + counters.frames_refused
        if count != self._refusals_logged and now - self._refusals_logged_at >= REFUSALS_LOGGED_EVERY_NS:
            self._log.say(
                logging.WARNING, Event.ANSWER_REFUSED, count=count - self._refusals_logged, endpoint=self._endpoint.url
            )
            self._refusals_logged = count
            self._refusals_logged_at = now


def _take_all(items: collections.deque[T]) -> list[T]:
    """What is in a deque now; others may append meanwhile."""
    taken = []
    while items:
        taken.append(items.popleft())
    return taken


def _caused(error: Exception, cause: BaseException | None) -> Exception:
    error.__cause__ = cause
    return error


def _no_answer(request: Request) -> TimeoutError:
    return TimeoutError(f"no answer within {(request.timeout_ns or 0) / 1e9:g} s")
