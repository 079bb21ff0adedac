"""All queues by name. Nobody makes queues or ends them: one is there as long as a job or a worker names it, or it has
settings.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from relet.core.allowance import allowance
from relet.core.queue import Queue
from relet.messages import UNKNOWN_QUEUE

if TYPE_CHECKING:
    from relet.core.settings import QueueSettings
    from relet.core.terms import Terms

OFFERED_MAX: Final = 10
"""Names of queues that a sentence names."""

TOO_MANY_QUEUES: Final = "too_many_queues"
QUEUE_NOT_EMPTY: Final = "queue_not_empty"


class Named(Queue):
    """A queue that can be referred to without keeping it, which a compiled class cannot."""

    __slots__ = ("__weakref__",)


class Queues:
    """All queues by name. One without settings that no job and no worker refers to is gone."""

    __slots__ = ("_configured", "_queues_max", "by_name", "count", "default", "only_these")

    def __init__(self, *, queues_max: int) -> None:
        self.default: Queue = Named()
        self.count = False
        """Some queue counts, or has counted, its jobs that are with workers."""
        self.only_these = False
        """Only queues with settings may be used, and the default one where it has some."""
        self._queues_max = queues_max
        self.by_name: dict[str, weakref.KeyedRef[str, Queue]] = {}
        """References that keep no queue: `weakref.WeakValueDictionary` is the same, with a call for each look."""
        self._add(self.default)
        self._configured: dict[str, Queue] = {}
        """Those that have settings, which keeps them."""

    def _add(self, queue: Queue) -> None:
        self.by_name[queue.name] = weakref.KeyedRef(queue, _forgetting(self.by_name), queue.name)

    def __len__(self) -> int:
        return len(self.by_name)

    def names(self) -> list[str]:
        """Of all of them."""
        return list(self.by_name)

    def __iter__(self) -> Iterator[Queue]:
        queues = (known() for known in list(self.by_name.values()))
        return iter([queue for queue in queues if queue is not None])

    def get(self, name: str) -> Queue | None:
        """The queue of that name, if it is there."""
        known = self.by_name.get(name)
        return None if known is None else known()

    def named(self, name: str) -> Queue:
        """The queue of that name, made where it is not there."""
        queue = self.get(name)
        if queue is None:
            queue = Named(name)
            self._add(queue)
        return queue

    def refusal(self, *names: str) -> tuple[str, str] | None:
        """Why queues of these names may not be used, as (code, text); None where they may."""
        strange = self.strange(names)
        if strange is not None:
            return UNKNOWN_QUEUE, f"there is no queue {strange!r}, and only those that are configured may be used"
        return self.refusal_of_room(sum(self.get(name) is None for name in names))

    def strange(self, names: Iterable[str]) -> str | None:
        """The first of these names that may not be used because it is not configured; None where all may."""
        if not self.only_these:
            return None
        return next((name for name in names if name not in self._configured), None)

    def offered(self) -> str:
        """Queues with settings, for a sentence: the first few names, and how many there are beyond these."""
        names = ", ".join(map(repr, islice(self._configured, OFFERED_MAX))) or "there are none"
        more = len(self._configured) - OFFERED_MAX
        return f"{names} and {more} more" if more > 0 else names

    def refusal_of_room(self, fresh: int) -> tuple[str, str] | None:
        """The same where so many more are to be made."""
        if fresh and len(self) + fresh > self._queues_max:
            return TOO_MANY_QUEUES, f"there are as many queues as may be: {self._queues_max} (--queues-max)"
        return None

    def set(self, name: str, settings: QueueSettings | None, terms: Terms | None) -> Queue:
        """The queue of this name has these settings, and its jobs these terms, from now on; None: none of its own."""
        allowed = allowance(settings)  # all is worked out before anything is another
        queue = self.named(name)
        queue.settle()
        queue.settings, queue.terms = settings, terms
        queue.paused = settings is not None and settings.dispatch_paused
        self.count |= allowed is not None and allowed.counts
        queue.allow(allowed)
        if settings is None:
            self._configured.pop(name, None)
        else:
            self._configured[name] = queue
        return queue


def _forgetting(by_name: dict[str, weakref.KeyedRef[str, Queue]]) -> Callable[[weakref.ref[Queue]], None]:
    """What happens to the entry of a queue that is gone."""

    def forget(gone: weakref.ref[Queue]) -> None:
        name = gone.key  # type: ignore[attr-defined]  # a KeyedRef, as it was made
        if by_name.get(name) is gone:  # else there is another one of that name
            del by_name[name]

    return forget
