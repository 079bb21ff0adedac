"""A worker's one connection of the native dialect."""

from __future__ import annotations

import collections
import logging
from typing import Any, Final

import zmq

from relet.events import Event
from relet.messages import UNKNOWN_QUEUE, WRONG_ENDPOINT
from relet.transport.endpoints import Endpoint, EndpointError
from relet.transport.link import Context, Link, Log, News, earliest
from relet.worker.engine import LOG_EVERY_NS, NO_BOUND, TURN_MESSAGES_MAX, Held, Inbox, clock
from relet.worker.errors import QueueUnknown
from relet.worker.job import Asides, Job
from relet.worker.peer_native import NativePeer, Trouble

NO_WELCOME: Final = (
    "the broker does not answer in the native dialect; where it speaks the dialect of 2010 only, use dialect='2010'"
)


class NativeLine:
    """The link around a `NativePeer`.

    Args:
        peer: the protocol.
        workers: the broker's endpoint for workers.
        answer_bytes_max: bytes of an answer, or of a piece of one, that the program will send.
    """

    def __init__(self, peer: NativePeer, workers: Endpoint, answer_bytes_max: int) -> None:
        self.peer = peer
        self.url = workers.url
        self.inbox: Inbox = collections.deque()
        self.asides: Asides | None = Asides(self.inbox, clock, answer_bytes_max)
        self.start = peer.start
        self.answer_bytes_max = self.answer_frames_max = self.retry_ms_max = NO_BOUND
        self._endpoint = workers
        self._link: Link | None = None
        self._stuck = False
        self._told_unwelcomed = False
        self._logged = 0
        self._logged_at = 0
        self._log = Log()

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self.peer.welcomed

    @property
    def idle(self) -> bool:
        """Whether the broker is there, and all that it has handed over has ended and was acknowledged."""
        return self.peer.welcomed and self.peer.finished and not self.inbox

    def ready(self, places: int) -> None:
        """So many handlers could begin a job at once."""
        self.peer.idle_max = places

    def open(self, context: Context, now: int) -> None:
        """Make the socket."""
        self._link = Link(context, zmq.DEALER, self._endpoint, now)

    def turn(self, now: int, *, ending: bool) -> tuple[list[Held], bool]:
        """What has arrived first, then news of the connection, then the handler's words, then time, then sending."""
        peer, link = self.peer, self._link
        if link is None:
            return [], True
        peer.woke(now)
        messages = link.receive(TURN_MESSAGES_MAX)
        jobs: list[Held] = []
        if messages:
            jobs.extend(self._heard(messages, now))
        for news in link.news(now):
            jobs.extend(self._hear(news, link, now))
        peer.take(self.inbox)
        trouble = peer.tick(now)
        if trouble is not None:
            self._give_up(trouble, link, now)
        outgoing = peer.outgoing(TURN_MESSAGES_MAX, now, goodbye=ending and peer.finished)
        sent = link.send(outgoing) if outgoing else 0
        peer.sent(sent, now)
        self._tell_asides()
        self._stuck = sent < len(outgoing)
        self._log_refusals(now)
        return jobs, len(messages) < TURN_MESSAGES_MAX and (self._stuck or len(outgoing) < TURN_MESSAGES_MAX)

    def _heard(self, messages: list[tuple[bytes, ...]], now: int) -> list[Job]:
        peer = self.peer
        jobs = peer.heard(messages, now)
        error = peer.last_error
        if error is not None and error.code == WRONG_ENDPOINT and not peer.welcomed:  # nor will it ever be
            raise EndpointError(f"{self.url}: {error.text or error.code}")
        if error is not None and error.code == UNKNOWN_QUEUE and not peer.was_welcomed:
            raise QueueUnknown(error.queue, error.text and f"{self.url}: {error.text}")
        if peer.welcomed:
            self._told_unwelcomed = False
            limits = peer.limits
            self.answer_bytes_max = limits.get("body_bytes") or NO_BOUND
            self.answer_frames_max = limits.get("frames") or NO_BOUND
            self.retry_ms_max = limits.get("retry_ms", NO_BOUND)
            if self.asides is not None:
                self.asides.headers_bytes_max = limits.get("headers_bytes", 0)
        return jobs

    def _tell_asides(self) -> None:
        """There is room for pieces of results."""
        peer, asides = self.peer, self.asides
        if asides is not None and peer.pieces_freed:
            asides.freed(peer.pieces_freed)
            peer.pieces_freed = 0

    def _hear(self, news: News, link: Link, now: int) -> list[Job]:
        """Jobs that were still unread when the connection went are ours: the next hello claims them."""
        peer, log = self.peer, self._log
        jobs: list[Job] = []
        if news is News.CONNECTED:
            peer.became_connected(now)
            log.say(logging.INFO, Event.BROKER_CONNECTED, endpoint=self.url)
        elif news is News.LOST:
            while messages := link.receive(TURN_MESSAGES_MAX):
                jobs += self._heard(messages, now)
            peer.lost(now)
            link.rebuild(now)
            log.say(logging.WARNING, Event.BROKER_LOST, endpoint=self.url)
        else:
            log.say(logging.WARNING, Event.BROKER_UNREACHABLE, endpoint=self.url)
        return jobs

    def _give_up(self, trouble: Trouble, link: Link, now: int) -> None:
        """Connect anew. A broker that does not know the dialect is told of once."""
        self.peer.lost(now)
        link.rebuild(now)
        if trouble is Trouble.SILENT:
            self._log.say(logging.WARNING, Event.BROKER_LOST, endpoint=self.url, reason=trouble.value)
        elif not self._told_unwelcomed:
            self._told_unwelcomed = True
            self._log.say(
                logging.WARNING, Event.BROKER_UNREACHABLE, endpoint=self.url, reason=trouble.value, advice=NO_WELCOME
            )

    def due(self, now: int) -> int | None:
        """The peer's timers and the link's."""
        return earliest((self.peer.due(now), self._link.due if self._link is not None else None))

    @property
    def rest_ns(self) -> int:
        """As the peer says."""
        return self.peer.rest_ns

    def watched(self) -> list[tuple[Any, int]]:
        """The link."""
        return self._link.watched(writable=self._stuck) if self._link is not None else []

    def retire(self) -> None:
        """Take back what was asked for, and give up what was not started."""
        if not self.peer.retiring:
            self.peer.retire(clock())

    def take(self) -> None:
        """What handlers have made of their jobs."""
        self.peer.take(self.inbox)

    def give_up(self) -> None:
        """What is in hand is handed back."""
        self.peer.give_up()

    @property
    def flushed(self) -> bool:
        """Whether all reports are safe and goodbye was said, or there is nobody to say it to."""
        return self.peer.gone or (self.peer.finished and not self.peer.connected)

    def close(self, linger_ms: int) -> None:
        """Say goodbye, if that was not done because an acknowledgement is missing, and close."""
        link, self._link = self._link, None
        if link is not None:
            if linger_ms:
                link.send(self.peer.farewell())
            link.close(linger_ms)

    def stopped(self) -> None:
        """Nothing is started any more."""
        self.peer.stopped()

    def _log_refusals(self, now: int) -> None:
        """What this side could not take, what the broker could not, and what it refused: each a line, if it is new."""
        counters = self.peer.counters
        count = counters.jobs_refused + counters.frames_refused + counters.errors
        count += counters.reports_refused - counters.reports_late
        if count == self._logged or now - self._logged_at < LOG_EVERY_NS:
            return
        fields: dict[str, Any] = {"count": count - self._logged, "endpoint": self.url}
        error, refusal = self.peer.last_error, self.peer.last_refusal
        self.peer.last_error = self.peer.last_refusal = None
        self._logged, self._logged_at = count, now
        if error is not None:
            self._log.say(logging.WARNING, Event.REQUEST_REFUSED, code=error.code, text=error.text[:500], **fields)
        elif refusal is not None:
            self._log.say(logging.WARNING, Event.ANSWER_REFUSED, code=refusal.code, text=refusal.text[:500], **fields)
        else:
            self._log.say(logging.WARNING, Event.REQUEST_REFUSED, **fields)
