"""Outcomes on their way to clients. No client is ever waited for.

What a client cannot take now waits in its outbox, in order, and is tried again soon; everybody else is served
meanwhile. An outbox has a bound, and all of them together have one; a reply above it is dropped, and the loop counts
it.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from relet.core.job import Job
from relet.messages import Peer, held_bytes


class Sent(NamedTuple):
    """What did not go out, and never will: the subjects of the messages."""

    unroutable: list[Any]
    """Their clients are gone."""
    dropped: list[Any]
    """Their clients do not read, and the outbox is full."""


class _Box:
    __slots__ = ("bytes", "replies")

    def __init__(self) -> None:
        self.replies: deque[_Waiting] = deque()
        self.bytes = 0


Message = tuple[Any, ...]
"""`(peer, path, frame, ...)`, as the pump sends it."""

_Waiting = tuple[Message, Any, int]
"""(message, what it speaks of, bytes). A refusal speaks of nothing: None."""

_ENTRY_BYTES = 256
"""What a waiting reply costs beyond its frames."""

_RETRY_MAX = 1_000
"""Replies tried in one turn, about 1 us each ..."""
_RETRY_AT_ONCE = 100
"""... and handed to the pump in one call."""


class Outbox:
    """The replies of one endpoint."""

    def __init__(
        self,
        send: Callable[[list[Message]], list[tuple[int, int]]],
        encode: Callable[[Sequence[Job]], list[Message]],
        *,
        bytes_max: int,
        bytes_total_max: int,
    ) -> None:
        self._send = send
        self._encode = encode
        self._bytes_max = bytes_max
        self._bytes_total_max = bytes_total_max
        self._boxes: dict[Peer, _Box] = {}
        self.bytes = 0
        """In all boxes."""

    def __bool__(self) -> bool:
        return bool(self._boxes)

    def __contains__(self, peer: Peer) -> bool:
        """Whether something waits for this client, which does not read."""
        return peer in self._boxes

    def __len__(self) -> int:
        return sum(len(box.replies) for box in self._boxes.values())

    def tell(self, jobs: list[Job]) -> Sent | None:
        """Sends the outcomes of final jobs of 2010, or lets them wait. None when nothing was lost."""
        return self.say(self._encode(jobs), jobs)

    def say(self, messages: list[Message], subjects: Sequence[Any]) -> Sent | None:
        """Sends messages, or lets them wait; each speaks of one subject. None when nothing was lost."""
        behind: list[int] = []
        going = messages
        places: Sequence[int] = range(len(messages))
        if self._boxes:
            boxes = self._boxes
            behind = [index for index, message in enumerate(messages) if message[0] in boxes]
            if behind:
                places = [index for index, message in enumerate(messages) if message[0] not in boxes]
                going = [messages[index] for index in places]
        failures = self._send(going)
        if not failures and not behind:
            return None
        sent = Sent([], [])
        for index, code in failures:
            if code == errno.EHOSTUNREACH:
                sent.unroutable.append(subjects[places[index]])
            else:
                behind.append(places[index])
        for index in sorted(behind):
            if not self._wait(messages[index], subjects[index]):
                sent.dropped.append(subjects[index])
        return sent if sent.unroutable or sent.dropped else None

    def refuse(self, messages: list[Message]) -> list[Message]:
        """Sends what speaks of no job, or lets it wait; returns what was dropped, of those whose peers are there."""
        behind = [message for message in messages if message[0] in self._boxes]
        if behind:
            messages = [message for message in messages if message[0] not in self._boxes]
        behind += [messages[index] for index, code in self._send(messages) if code != errno.EHOSTUNREACH]
        return [message for message in behind if not self._wait(message, None)]

    def _wait(self, message: Message, subject: Any) -> bool:
        peer, path, *frames = message
        size = len(path) + sum(held_bytes(frame, b"") for frame in frames) + _ENTRY_BYTES
        box = self._boxes.get(peer)
        if (box.bytes if box is not None else 0) + size > self._bytes_max or self.bytes + size > self._bytes_total_max:
            return False
        if box is None:
            box = self._boxes[peer] = _Box()
        box.replies.append((message, subject, size))
        box.bytes += size
        self.bytes += size
        return True

    def retry(self) -> list[Any]:
        """Tries what waits, as far as each client reads. Returns the subjects of those whose clients are gone."""
        unroutable: list[Any] = []
        budget = _RETRY_MAX
        for peer, box in list(self._boxes.items()):
            while box.replies and budget > 0:
                batch = [message for message, _, _ in islice(box.replies, min(budget, _RETRY_AT_ONCE))]
                budget -= len(batch)
                failures = self._send(batch)  # one that cannot go holds up those behind it
                for _ in range(len(batch) - len(failures)):
                    _, _, size = box.replies.popleft()
                    box.bytes -= size
                    self.bytes -= size
                if any(code == errno.EHOSTUNREACH for _, code in failures):
                    unroutable.extend(self.drop(peer))
                elif failures:
                    break
            if not box.replies:
                self._boxes.pop(peer, None)
            elif budget > 0:  # it does not read: others are tried first next time
                self._boxes[peer] = self._boxes.pop(peer)
        return unroutable

    def drop(self, peer: Peer) -> list[Any]:
        """The client is gone: its outbox is closed. Returns the subjects of what was in it."""
        box = self._boxes.pop(peer, None)
        if box is None:
            return []
        self.bytes -= box.bytes
        subjects = [subject for _, subject, _ in box.replies if subject is not None]
        box.replies.clear()
        return subjects
