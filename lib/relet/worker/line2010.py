"""A worker's two connections of the dialect of 2010: it asks on one and answers on the other."""

from __future__ import annotations

import collections
import logging
from typing import Any

import zmq

from relet.events import Event
from relet.transport.endpoints import Endpoint
from relet.transport.link import Context, Link, Log, News, earliest
from relet.worker.engine import LOG_EVERY_NS, NO_BOUND, TURN_MESSAGES_MAX, Held, Inbox
from relet.worker.job import Asides
from relet.worker.outcome import Failure, Silence
from relet.worker.peer2010 import ASK, Job, Peer2010


class Line2010:
    """The links around a `Peer2010`.

    Args:
        peer: the protocol.
        workers: the broker's endpoint for workers.
        answers: its endpoint for answers.
    """

    asides: Asides | None = None
    rest_ns = 0
    answer_bytes_max = answer_frames_max = retry_ms_max = NO_BOUND

    def __init__(self, peer: Peer2010, workers: Endpoint, answers: Endpoint) -> None:
        self.peer = peer
        self.url = workers.url
        self.inbox: Inbox = collections.deque()
        self._endpoints = workers, answers
        self._asking: Link | None = None
        self._answering: Link | None = None
        self._stuck = False
        self._asks_stuck = False
        self._answers_unreachable = False
        self._answers_lost = False
        self._refusals_logged = 0
        self._refusals_logged_at = 0
        self._log = Log()

    def start(self, job: Job, now: int) -> bool:  # noqa: ARG002 - as in every line
        """Whether the handler's thread may begin the job."""
        return job.start()

    def ready(self, places: int) -> None:
        """Nobody is told of starts."""

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self.peer.connected

    @property
    def idle(self) -> bool:
        """Whether the broker is there, and ZeroMQ has the answers to all that it has handed over."""
        return self.peer.connected and not (self.peer.held or self.peer.answers or self.inbox)

    def open(self, context: Context, now: int) -> None:
        """Make both sockets."""
        self._asking = Link(context, zmq.DEALER, self._endpoints[0], now)
        self._answering = Link(context, zmq.PUSH, self._endpoints[1], now)

    def turn(self, now: int, *, ending: bool) -> tuple[list[Held], bool]:
        """What has arrived first, then news of the connections, then answers, then asks."""
        asking, answering, peer = self._asking, self._answering, self.peer
        if asking is None or answering is None:
            return [], True
        messages = [] if ending else asking.receive(TURN_MESSAGES_MAX)
        jobs: list[Held] = []
        if messages:
            jobs.extend(peer.received(messages))
            self._log_refusals(now)
        if not ending:
            for news in asking.news(now):
                self._hear(news, asking, now)
        for news in answering.news(now):
            self._hear_answering(news)
        peer.answering = answering.connected
        self._stuck = self._send_answers(answering)
        if not ending:
            self._ask(asking, now)
        return jobs, len(messages) < TURN_MESSAGES_MAX and (self._stuck or not (peer.answers and peer.answering))

    def _ask(self, asking: Link, now: int) -> None:
        peer = self.peer
        if peer.retired:
            peer.closed()
            asking.rebuild(now, peer.pause_ns)
        asks = peer.asks_due()
        self._asks_stuck = False
        if asks > 0:
            asked = asking.send([ASK] * asks)
            peer.asked(asked)
            self._asks_stuck = asked < asks

    def _send_answers(self, answering: Link) -> bool:
        """Send what can be sent; whether more would go if the socket took it."""
        self._take_ended()
        outgoing = self.peer.outgoing(TURN_MESSAGES_MAX)
        if not outgoing:
            return False
        sent = answering.send(outgoing)
        self.peer.sent(sent)
        return sent < len(outgoing)

    def _take_ended(self) -> None:
        peer, inbox = self.peer, self.inbox
        while inbox:
            job, outcome, _ = inbox.popleft()
            if isinstance(outcome, tuple):
                peer.answered(job, outcome)
            elif isinstance(outcome, Failure):
                peer.failed(job)
            elif outcome is Silence.HANDED_BACK:
                peer.handed_back(job)
            elif outcome is Silence.UNANSWERED:
                peer.unanswered(job)

    def due(self, now: int) -> int | None:  # noqa: ARG002 - as in every line
        """Only the links have timers."""
        return earliest(link.due for link in (self._asking, self._answering) if link is not None)

    def watched(self) -> list[tuple[Any, int]]:
        """Both links."""
        if self._asking is None or self._answering is None:
            return []
        return self._asking.watched(writable=self._asks_stuck) + self._answering.watched(writable=self._stuck)

    def retire(self) -> None:
        """An ask cannot be taken back."""

    def take(self) -> None:
        """What handlers have made of their jobs."""
        self._take_ended()

    def give_up(self) -> None:
        """There is no word for it: the broker lets again what this worker had, once its connection has gone."""
        self.peer.give_up()

    @property
    def flushed(self) -> bool:
        """Whether ZeroMQ has all answers, or has nobody to send them to."""
        return not self.peer.answers

    def close(self, linger_ms: int) -> None:
        """Close both; a PUSH that is not connected has nothing to linger for."""
        if self._asking is not None:
            self._asking.close()
        if self._answering is not None:
            self._answering.close(linger_ms if self._answering.connected else 0)
        self._asking = self._answering = None

    def stopped(self) -> None:
        """Nothing is started any more."""
        self.peer.stopped()

    def _hear(self, news: News, asking: Link, now: int) -> None:
        peer, log, endpoint = self.peer, self._log, self.url
        if news is News.CONNECTED:
            peer.became_connected()
            log.say(logging.INFO, Event.BROKER_CONNECTED, endpoint=endpoint)
            self._tell_answers_unreachable()
        elif news is News.LOST:
            peer.lost()
            self._answers_lost = False  # the broker lets again what it still holds of this worker
            asking.rebuild(now)
            log.say(logging.WARNING, Event.BROKER_LOST, endpoint=endpoint)
        else:
            log.say(logging.WARNING, Event.BROKER_UNREACHABLE, endpoint=endpoint)

    def _hear_answering(self, news: News) -> None:
        """The second connection is told of only where the first one stands: else it is the same news twice.

        The same holds for its loss, which retires the first one: not at once, because a broker that ends takes both
        with it, but with the next news, which is that it stands again or that it does not come back.
        """
        if news is News.LOST:
            self._answers_lost = self.peer.connected
        elif self._answers_lost:
            self._answers_lost = False
            self.peer.answers_lost()
        if news is News.UNREACHABLE:
            self._answers_unreachable = True
            self._tell_answers_unreachable()
        elif news is News.CONNECTED:
            self._answers_unreachable = False

    def _tell_answers_unreachable(self) -> None:
        if self._answers_unreachable and self.peer.connected:
            self._log.say(logging.WARNING, Event.BROKER_UNREACHABLE, endpoint=self._endpoints[1].url)

    def _log_refusals(self, now: int) -> None:
        counters = self.peer.counters
        count = counters.jobs_refused + counters.frames_refused
        if count != self._refusals_logged and now - self._refusals_logged_at >= LOG_EVERY_NS:
            new = count - self._refusals_logged
            self._log.say(logging.WARNING, Event.REQUEST_REFUSED, count=new, endpoint=self.url)
            self._refusals_logged = count
            self._refusals_logged_at = now
