"""Publishing notices: which level each event has, and at what rate the noisy ones may be said.

A flood of bad input must not become a flood of lines. Each event may be said a few times a second; what is held back is
counted, and the count goes with the next line of that event, or with `flush`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

from relet.core.effects import Notice
from relet.events import Event

LINES_MAX: Final = 5
"""Lines of one event in one `WINDOW_NS`."""
WINDOW_NS: Final = 1_000_000_000

_DEBUG: Final = frozenset(
    {
        Event.JOB_ACCEPTED,
        Event.JOB_DISPATCHED,
        Event.JOB_STARTED,
        Event.JOB_UNDELIVERED,
        Event.ATTEMPT_ENDED,
        Event.JOB_FINISHED,
        Event.REPLY_UNROUTABLE,
    }
)
_WARNING: Final = frozenset(
    {
        Event.BROKER_STALLED,
        Event.BROKER_DEAF_TO_DEATHS,
        Event.BACKUP_FAILED,
        Event.DISK_FILLED,
        Event.INTAKE_PAUSED,
        Event.REQUEST_REFUSED,
        Event.ASK_REFUSED,
        Event.ANSWER_REFUSED,
        Event.REPORT_REFUSED,
        Event.MESSAGE_REFUSED,
        Event.HANDSHAKE_FAILED,
        Event.ACCEPT_FAILED,
        Event.REPLY_DROPPED,
        Event.OUTCOME_FORGOTTEN,
        Event.JOB_DISCARDED,
        Event.ORDER_UNBLOCKED,
        Event.BROKER_UNREACHABLE,
        Event.BROKER_LOST,
        Event.ANSWERED_AGAIN,
        Event.OUTCOMES_MISSED,
        Event.RETRY_SHORTENED,
    }
)
_UNLIMITED: Final = _DEBUG | {Event.BROKER_READY, Event.BROKER_DRAINING, Event.BROKER_STOPPED}


def level_of(event: Event) -> int:
    """The level at which an event is said (`logging.DEBUG` ...)."""
    if event in {Event.BODY_LOST, Event.HANDLER_FAILED, Event.CALLBACK_FAILED, Event.LIBRARY_FAILED}:
        return logging.ERROR
    return logging.DEBUG if event in _DEBUG else logging.WARNING if event in _WARNING else logging.INFO


class Log(Protocol):
    """The one method asked of a structlog logger."""

    def log(self, level: int, event: str, /, **fields: Any) -> Any:
        """Says `event` at `level`."""


class Publisher:
    """Says notices to a log, each event at a bounded rate."""

    def __init__(self, log: Log, clock: Callable[[], int]) -> None:
        """`clock` gives nanoseconds that only grow."""
        self._log = log
        self._clock = clock
        self._windows: dict[Event, tuple[int, int]] = {}
        """Event -> (when its window began, lines said in it)."""
        self._held_back: dict[Event, int] = {}

    def __call__(self, notice: Notice) -> None:
        """Says a notice, or holds it back."""
        event, fields = notice
        if event not in _UNLIMITED:
            now = self._clock()
            began, said = self._windows.get(event, (now, 0))
            if now - began >= WINDOW_NS:
                began, said = now, 0
            if said >= LINES_MAX:
                self._held_back[event] = self._held_back.get(event, 0) + 1
                return
            self._windows[event] = (began, said + 1)
            held_back = self._held_back.pop(event, 0)
            if held_back:
                fields = {**fields, "held_back": held_back}
        self._log.log(level_of(event), event.value, **fields)

    def due(self) -> int | None:
        """When `flush` should next be called, by the clock; None while nothing is held back."""
        if not self._held_back:
            return None
        return min(self._windows[event][0] for event in self._held_back) + WINDOW_NS

    def flush(self, *, all_of_it: bool = False) -> None:
        """Says how many lines were held back, of each event whose window is over."""
        now = self._clock()
        for event in list(self._held_back):
            if all_of_it or now - self._windows[event][0] >= WINDOW_NS:
                self._windows[event] = (now, 1)
                self._log.log(level_of(event), event.value, held_back=self._held_back.pop(event))
