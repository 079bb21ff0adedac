"""Log records as events: whoever subscribes to their topic follows the log of a program from elsewhere."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from relet.sockets.named import SocketManager

DEFAULT_TOPIC: Final = "logs"


class ZMQPubHandler(logging.Handler):
    """Publishes each record as the event (topic, {"logger", "level", "message", "time"}).

    `message` is what the handler's formatter makes of the record, the traceback included; `time` is seconds since the
    epoch. A record never waits: one that the socket cannot take at once, or that cannot be serialized, is lost as
    `logging` loses records (`Handler.handleError`).

    A socket of ZeroMQ is for one thread at a time. Where several threads log, give the handler a manager of its own
    that is used for nothing else: `logging` then lets one thread in at a time.

    Args:
        manager: whose socket it is.
        socket_name: its name; a PUB as a rule.
        topic_name: the topic of the events, text or bytes.
    """

    def __init__(self, manager: SocketManager, socket_name: str, topic_name: str | bytes = DEFAULT_TOPIC) -> None:
        super().__init__()
        self.socket_name = socket_name
        self.topic_name = topic_name
        self._manager = manager

    def emit(self, record: logging.LogRecord) -> None:
        """Publish it."""
        try:
            data = {
                "logger": record.name,
                "level": record.levelname,
                "message": self.format(record),
                "time": record.created,
            }
            if not self._manager.publish_safe(self.socket_name, self.topic_name, data, timeout=0):
                raise BlockingIOError(f"{self.socket_name!r} cannot take a log record now")
        except Exception:  # noqa: BLE001 - a log must not stop the program that writes it
            self.handleError(record)
