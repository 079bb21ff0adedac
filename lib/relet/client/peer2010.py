"""The 2010 dialect, as a client speaks it.

Each request gets a correlation frame that stands before the delimiter; it is part of the return path, so every broker
brings it back. It begins with bytes that only this client knows and ends with a count, so an answer that names an open
request is the answer to that request, and anything else - a second answer, one that came too late, nonsense - is
counted and dropped.

The dialect knows jobs on the usual terms and nothing else; a client refuses the rest before it comes here.
"""

# ruff: noqa: ARG002 - this dialect has no use for the time
from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import count, islice
from typing import Final

from relet.client.errors import JobFailed
from relet.client.peer import Message, Outcome, Peer, R, answer_of
from relet.dialects.d2010 import DELIMITER
from relet.events import Event

CORRELATION_SECRET_BYTES: Final = 10
CORRELATION_COUNT_BYTES: Final = 6

FAILURE: Final = (b"",)
"""This dialect's way to say that the job was given up: an answer of one empty frame."""


def correlations(secret: bytes) -> Iterator[bytes]:
    """Names for requests.

    Args:
        secret: `CORRELATION_SECRET_BYTES` random bytes, drawn anew for every client.
    """
    if len(secret) != CORRELATION_SECRET_BYTES:
        raise ValueError(f"secret must have {CORRELATION_SECRET_BYTES} bytes")
    return (secret + number.to_bytes(CORRELATION_COUNT_BYTES, "big") for number in count(1))


class Peer2010(Peer[R]):
    """All open requests of one client, and what it says and hears in the 2010 dialect; `names` are `correlations`."""

    def _open_named(self, request: R) -> None:
        raise AssertionError("the 2010 dialect has no names that callers choose")

    @property
    def wants_to_send(self) -> bool:
        """As in the base class."""
        return self.ready and bool(self._unsent)

    def became_connected(self, now: int) -> None:
        """The broker is there: whatever waits may be sent."""
        self.ready = self.reached = True
        self._say(logging.INFO, Event.BROKER_CONNECTED)

    def outgoing(self, messages_max: int, now: int) -> list[Message]:
        """As in the base class: [correlation, delimiter, body] each."""
        if not self.ready or not self._unsent:
            return []
        return [(name, DELIMITER, r.body) for name, r in islice(self._unsent.items(), messages_max)]

    def sent(self, count: int, now: int) -> None:
        """As in the base class."""
        unsent = self._unsent
        if count == len(unsent):
            self._unsent = {}
        else:
            for correlation in list(islice(unsent, count)):
                del unsent[correlation]

    def received(self, messages: Iterable[tuple[bytes, ...]], now: int) -> list[tuple[R, Outcome]]:
        """As in the base class."""
        ended: list[tuple[R, Outcome]] = []
        pop, unsent = self._open.pop, self._unsent
        failed = 0
        for message in messages:
            if len(message) < 2 or message[1]:
                self.counters.frames_refused += 1
                continue
            request = pop(message[0], None)
            if request is None:
                self._answered_late(message[0])
                continue
            if request.timeout_ns is not None:
                self._timed -= 1
            if unsent:
                unsent.pop(message[0], None)
            frames = message[2:]
            if frames == FAILURE:
                failed += 1
                ended.append((request, JobFailed("the broker gave the job up")))
            else:
                ended.append((request, answer_of(frames, multipart=request.multipart)))
        self.counters.answered += len(ended)
        self.counters.failed += failed
        return ended
