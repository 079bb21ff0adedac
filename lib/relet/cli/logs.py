"""Logs: structlog on stderr, for eyes on a terminal and as JSON lines elsewhere.

A log that cannot be written must not stop a broker: when nobody reads stderr any more, lines are dropped. stderr is
looked up for each line, because a live display puts its own stream there and moves out of the way.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from typing import Any

FORMATS = ("console", "json")
LEVELS = ("debug", "info", "warning", "error")
REPEAT_SECONDS = 1.0


class _Stderr:
    """What structlog writes to: today's stderr, whatever it is, and whether anybody reads it or not."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def add_logging(parser: argparse.ArgumentParser) -> None:
    """Add --log-format and --log-level."""
    group = parser.add_argument_group("logging")
    group.add_argument("--log-format", choices=FORMATS, help="[console where stderr is a terminal, else json]")
    group.add_argument("--log-level", choices=LEVELS, default="info", help="[info]")


def wants_colour(stream: Any = None) -> bool:
    """Whether a stream (stderr by default) is a terminal that wants colours; https://no-color.org."""
    stream = sys.stderr if stream is None else stream
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


class _Once:
    """A processor that drops a line which another client or worker of this process has just said."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], float] = {}

    def __call__(self, _logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        from structlog import DropEvent

        key = (str(event.get("event")), str(event.get("endpoint")))
        now = time.monotonic()
        if "endpoint" in event and now - self._said.get(key, -REPEAT_SECONDS) < REPEAT_SECONDS:
            raise DropEvent
        self._said[key] = now
        return event


def configure(values: argparse.Namespace, *, repeats: bool = True) -> None:
    """Set structlog up as the command line and the terminal say.

    Args:
        values: with `log_format` and `log_level`.
        repeats: whether the same event at the same endpoint may be said twice in a second; where many clients share a
            process, once is enough.
    """
    import structlog

    log_format = values.log_format or ("console" if sys.stderr.isatty() else "json")
    processors: list[Any] = [
        *([] if repeats else [_Once()]),
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True) if log_format == "json" else _clock(structlog),
    ]
    if log_format == "json":
        processors += [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=str)]
    else:
        processors.append(
            structlog.dev.ConsoleRenderer(
                colors=wants_colour(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
            )
        )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(values.log_level),
        logger_factory=structlog.WriteLoggerFactory(file=_Stderr()),  # type: ignore[arg-type]  # write and flush are all
        cache_logger_on_first_use=True,
    )


def _clock(structlog: Any) -> Any:
    return structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
