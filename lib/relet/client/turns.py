"""One turn of a client, whoever turns it: the thread behind a `Client`, or the event loop of an `AsyncClient`.

A turn reads first, then learns the news of the connection, then does what is due, then sends what callers want. It
waits for nothing. Who turns it sleeps between the turns, until a message, a timer or a caller wakes it, and never has
two of them at a time.

What callers want comes through two deques, because with a thread it comes from other threads: requests in `inbox`, and
in `unwanted` those that nobody wants any more.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from relet.client.errors import ClientClosed
from relet.client.peer import Outcome, Peer
from relet.client.waiting import Channel, Mapped, Waiter
from relet.events import Event
from relet.transport.endpoints import Endpoint
from relet.transport.link import Link, Log, News

FAREWELL_MS_MAX: Final = 200
"""How long the last words may take to leave the process: they are one short message, which waits only where the network
or the broker is stuck. Then the broker keeps what was received for as long as its bounds let it, and nobody waits."""
REFUSALS_LOGGED_EVERY_NS: Final = 1_000_000_000
"""Bad frames and unknown answers are logged at most this often, with their count."""
NO_ROOM: Final = "too many requests were open all the time"
CLOSED: Final = "the client was closed"
FORGOTTEN: Final = "the client was not referenced any more"
OF_THE_PARENT: Final = "the client belongs to the parent process; make one after the fork"
CONTEXT_ENDED: Final = "the context of the client was terminated"

T = TypeVar("T")


class Room:
    """How many requests may be open at a time, and how many bytes of bodies; one alone may be as large as it likes."""

    __slots__ = ("_bytes_max", "_open_max", "bytes", "open")

    def __init__(self, open_max: int, bytes_max: int) -> None:
        self._open_max = open_max
        self._bytes_max = bytes_max
        self.open = 0
        self.bytes = 0

    def has(self, request: Waiter) -> bool:
        """Whether there is room for this one."""
        return not self.open or (self.open < self._open_max and self.bytes + request.bytes <= self._bytes_max)

    def take(self, request: Waiter) -> None:
        """It is open."""
        self.open += 1
        self.bytes += request.bytes

    def give(self, ended: int, freed: int) -> None:
        """So many have ended, which had so many bytes."""
        self.open -= ended
        self.bytes -= freed


class Turns:
    """What a client does, turn by turn.

    Args:
        endpoint: where the broker is to be.
        peer: the dialect, and all open requests.
        messages_max: received, and sent, in one turn, so that neither waits for the other.
        make_room: called with how many requests have ended, and their bytes, before their callers are told.
    """

    def __init__(
        self, endpoint: Endpoint, peer: Peer[Waiter], messages_max: int, make_room: Callable[[int, int], None]
    ) -> None:
        self.peer = peer
        self.connected = False
        self.inbox: collections.deque[Waiter] = collections.deque()
        self.unwanted: collections.deque[tuple[list[Waiter], bool]] = collections.deque()
        """What nobody wants any more, and whether its jobs are to end."""
        self.endpoint = endpoint
        self.log = Log()
        self._messages_max = messages_max
        self._make_room = make_room
        self._refusals_logged = 0
        self._refusals_logged_at = 0

    def turn(self, link: Link, now: int) -> tuple[bool, bool]:
        """One turn. Returns whether nothing is left to do, and whether more would go if the socket took it."""
        peer, inbox = self.peer, self.inbox
        messages = link.receive(self._messages_max)
        if messages:
            self._hear(messages, now)
        for news in link.news(now):
            self._learn(news, link, now)
        unwanted = _take_all(self.unwanted)  # before the inbox, where their requests may still be
        if inbox:
            peer.submit(_take_all(inbox), now)
        self._drop(unwanted)
        due = peer.due
        if due is not None and due <= now:
            self._deliver(peer.expire(now))
            if peer.deaf:
                self._lose(link, now, why="the broker was silent for too long")
        stuck = False
        outgoing = peer.outgoing(self._messages_max, now)
        if outgoing:
            sent = link.send(outgoing)
            peer.sent(sent, now)
            stuck = sent < len(outgoing)
        self.connected = peer.ready
        self._log_notices()
        self._log_refusals(now)
        return len(messages) < self._messages_max and (stuck or not peer.wants_to_send), stuck

    def say_farewell(self, link: Link) -> None:
        """The last words, after the last turn; `link` is closed."""
        self._drop(_take_all(self.unwanted))
        if farewell := self.peer.farewell():
            link.send(farewell)
            link.close(FAREWELL_MS_MAX)
        else:
            link.close()

    def fail(self, error: BaseException) -> str:
        """What nobody has foreseen ends the client: logged, and said to all callers."""
        self.log.say(logging.ERROR, Event.LIBRARY_FAILED, exc_info=True, endpoint=self.endpoint.url)
        return f"the client failed: {error!r}"

    def end(self, why: str, cause: BaseException | None, late: Sequence[Waiter]) -> None:
        """All that is open ends with `ClientClosed`, and so does what came too late."""
        self.connected = False
        self._deliver([(request, _caused(ClientClosed(why), cause)) for request in [*self.peer.close(), *late]])

    def _drop(self, unwanted: Sequence[tuple[list[Waiter], bool]]) -> None:
        for requests, withdraw in unwanted:
            ended = self.peer.withdraw(requests) if withdraw else self.peer.abandon(requests)
            self._make_room(len(ended), sum(request.bytes for request in ended))
            for request in ended:
                request.dropped()

    def _learn(self, news: News, link: Link, now: int) -> None:
        peer = self.peer
        if news is News.CONNECTED:
            peer.became_connected(now)
        elif news is News.LOST:
            self._lose(link, now, why="the connection went")
        else:
            self.log.say(
                logging.WARNING, Event.BROKER_UNREACHABLE, endpoint=self.endpoint.url, requests_open=len(peer)
            )

    def _lose(self, link: Link, now: int, *, why: str) -> None:
        while messages := link.receive(self._messages_max):
            self._hear(messages, now)
        peer, endpoint = self.peer, self.endpoint.url
        self.connected = False
        self._log_notices()
        link.rebuild(now)
        self.log.say(logging.WARNING, Event.BROKER_LOST, endpoint=endpoint, requests_open=len(peer), why=why)
        self._deliver(peer.lost(f"the connection to {endpoint} was lost: {why}"))

    def _hear(self, messages: list[tuple[bytes, ...]], now: int) -> None:
        """Tell callers what these messages mean: followers first, because outcomes come last of all."""
        settled = self.peer.received(messages, now)
        try:
            if self.peer.followed:
                self._tell_followers()
        finally:
            if settled:
                self._deliver(settled)

    def _tell_followers(self) -> None:
        followed = self.peer.followed.copy()
        self.peer.followed.clear()
        for request, told in followed:
            try:
                request.follow(told)
            except Exception as error:  # noqa: BLE001 - the user's
                self.log.say(
                    logging.ERROR, Event.CALLBACK_FAILED, exc_info=True, error=repr(error), endpoint=self.endpoint.url
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

    def _log_notices(self) -> None:
        notices = self.peer.notices
        if notices:
            for notice in notices:
                self.log.say(notice.level, notice.event, endpoint=self.endpoint.url, **notice.fields)
            notices.clear()

    def _log_refusals(self, now: int) -> None:
        counters = self.peer.counters
        count = counters.answers_unknown + counters.frames_refused
        if count != self._refusals_logged and now - self._refusals_logged_at >= REFUSALS_LOGGED_EVERY_NS:
            self.log.say(
                logging.WARNING, Event.ANSWER_REFUSED, count=count - self._refusals_logged, endpoint=self.endpoint.url
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
