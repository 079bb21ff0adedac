"""The thread behind a blocking client, and what the callers' threads share with it.

The callers put requests into an inbox; the thread takes all that has gathered there since its last turn, hands it to
the peer, and sends it in one call. It owns the socket, sleeps while nothing happens, and runs no code of the user's but
callbacks. Which dialect is spoken is the peer's business.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Sequence
from typing import Final, TypeVar

import zmq

from relet.client.errors import ClientClosed
from relet.client.peer import Outcome, Peer
from relet.client.waiting import Channel, Mapped, Waiter
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
from relet.transport.threads import new_context

TURN_MESSAGES_MAX: Final = 1_000
"""Messages received, and sent, in one turn, so that neither waits for the other."""
CLOSE_SECONDS_MAX: Final = 2.0
"""How long `stop` waits for the thread: only a callback of the user's that does not return can take so long."""
FAREWELL_MS_MAX: Final = 200
"""How long the last words may take to leave the process: they are one short message, which waits only where the network
or the broker is stuck. Then the broker keeps what was received for as long as its bounds let it, and nobody waits."""
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
        peer: Peer[Waiter],
        *,
        open_max: int,
        open_bytes_max: int,
        body_bytes_max: int,
    ) -> None:
        self.peer = peer
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
        self._unwanted: collections.deque[tuple[list[Waiter], bool]] = collections.deque()
        """What nobody wants any more, and whether its jobs are to end."""
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
        self.check(request)
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

    def submit_all(self, requests: Sequence[Waiter]) -> int:
        """Open many requests, each of which was checked, so that they can go in one message; otherwise as `submit`.

        Returns how many were opened: fewer than all where there was no room for the others in time.
        """
        opened = 0
        together: list[Waiter] = []
        with self._lock:
            try:
                for request in requests:
                    if self._open and not self._has_room(request):
                        self._inbox.extend(together)
                        together = []
                        self._alarm.ring()
                        self._await_room(request)
                    if self._closed_because:
                        raise ClientClosed(self._closed_because)
                    self._open += 1
                    self._open_bytes += request.bytes
                    together.append(request)
                    opened += 1
            except TimeoutError:
                pass
            finally:
                self._inbox.extend(together)  # at once, because the thread takes what is there
        self._alarm.ring()
        return opened

    def check(self, request: Waiter) -> None:
        """Raise ValueError where its body is too large."""
        if request.bytes > self._body_bytes_max:
            raise ValueError(
                f"a body of {request.bytes:,} bytes is above body_bytes_max ({self._body_bytes_max:,}): "
                "send less, or raise the broker's --body-bytes-max and the client's"
            )

    def _has_room(self, request: Waiter) -> bool:
        return self._open < self._open_max and self._open_bytes + request.bytes <= self._open_bytes_max

    def _await_room(self, request: Waiter) -> None:
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError("a future's callback must not wait, and too many requests are open to submit another")
        deadline = None if request.timeout_ns is None else time.monotonic_ns() + request.timeout_ns
        self._waiting_for_room += 1
        try:
            while not self._closed_because and self._open and not self._has_room(request):
                left = None if deadline is None else (deadline - time.monotonic_ns()) / 1e9
                if left is not None and left <= 0:
                    raise TimeoutError("too many requests were open all the time")
                self._room.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
        finally:
            self._waiting_for_room -= 1
        if deadline is not None:
            request.timeout_ns = max(0, deadline - time.monotonic_ns())

    def abandon(self, requests: Sequence[Waiter], *, withdraw: bool = False) -> None:
        """Nobody wants the outcomes of these any more. `withdraw`: nor that their jobs are done."""
        if self._closed_because is None:  # else they end by that, and nobody takes them from here
            self._unwanted.append((list(requests), withdraw))
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
        context = self._context or new_context()
        why: BaseException | None = None
        try:
            link = Link(context, zmq.DEALER, self._endpoint, time.monotonic_ns())
            try:
                self._turns(link)
                self._drop(_take_all(self._unwanted))
                if farewell := self.peer.farewell():
                    link.send(farewell)
                    link.close(FAREWELL_MS_MAX)
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
            self._hear(messages, now)
        for news in link.news(now):
            self._learn(news, link, now)
        unwanted = _take_all(self._unwanted)  # before the inbox, where their requests may still be
        if inbox:
            peer.submit(_take_all(inbox), now)
        self._drop(unwanted)
        due = peer.due
        if due is not None and due <= now:
            self._deliver(peer.expire(now))
            if peer.deaf:
                self._lose(link, now, why="the broker was silent for too long")
        stuck = False
        outgoing = peer.outgoing(TURN_MESSAGES_MAX, now)
        if outgoing:
            sent = link.send(outgoing)
            peer.sent(sent, now)
            stuck = sent < len(outgoing)
        self.connected = peer.ready
        self._log_notices()
        self._log_refusals(now)
        return len(messages) < TURN_MESSAGES_MAX and (stuck or not peer.wants_to_send), stuck

    def _drop(self, unwanted: Sequence[tuple[list[Waiter], bool]]) -> None:
        for requests, withdraw in unwanted:
            ended = self.peer.withdraw(requests) if withdraw else self.peer.abandon(requests)
            self._make_room(len(ended), sum(request.bytes for request in ended))
            for request in ended:
                request.dropped()

    def _idle(self) -> bool:
        return not (self._inbox or self._unwanted or self._closed_because)

    def _learn(self, news: News, link: Link, now: int) -> None:
        peer = self.peer
        if news is News.CONNECTED:
            peer.became_connected(now)
        elif news is News.LOST:
            self._lose(link, now, why="the connection went")
        else:
            self._log.say(
                logging.WARNING, Event.BROKER_UNREACHABLE, endpoint=self._endpoint.url, requests_open=len(peer)
            )

    def _lose(self, link: Link, now: int, *, why: str) -> None:
        while messages := link.receive(TURN_MESSAGES_MAX):
            self._hear(messages, now)
        peer, endpoint = self.peer, self._endpoint.url
        self.connected = False
        self._log_notices()
        link.rebuild(now)
        self._log.say(logging.WARNING, Event.BROKER_LOST, endpoint=endpoint, requests_open=len(peer), why=why)
        self._deliver(peer.lost(f"the connection to {endpoint} was lost: {why}"))

    def _hear(self, messages: list[tuple[bytes, ...]], now: int) -> None:
        """Tell callers what these messages mean: followers first, because outcomes come last of all."""
        settled = self.peer.received(messages, now)
        if self.peer.followed:
            self._tell_followers()
        if settled:
            self._deliver(settled)

    def _tell_followers(self) -> None:
        followed = self.peer.followed.copy()
        self.peer.followed.clear()
        for request, told in followed:
            try:
                request.follow(told)
            except Exception as error:  # noqa: BLE001 - the user's
                self._log.say(
                    logging.ERROR, Event.CALLBACK_FAILED, exc_info=True, error=repr(error), endpoint=self._endpoint.url
                )

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

    def _log_notices(self) -> None:
        notices = self.peer.notices
        if notices:
            for notice in notices:
                self._log.say(notice.level, notice.event, endpoint=self._endpoint.url, **notice.fields)
            notices.clear()

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
