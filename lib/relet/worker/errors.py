"""What may end `Worker.run` beside `stop`, an `EndpointError`, and what a handler raises that is no `Exception`."""

from __future__ import annotations


class QueueUnknown(Exception):
    """The broker lets only queues be used that it has settings for, and a queue of this worker is none of them.

    `queue` is its name, "" where the broker does not say which one it is; `text` is a sentence for people, which names
    queues that there are.
    """

    def __init__(self, queue: str, text: str = "") -> None:
        super().__init__(text or f"the broker knows no queue {queue!r}, and takes no worker for it")
        self.queue = queue
        self.text = text

    def __reduce__(self) -> tuple[type[QueueUnknown], tuple[str, str]]:
        return type(self), (self.queue, self.text)
