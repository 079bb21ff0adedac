"""Why a job is where it is, in a word for programs and a sentence for people.

The first reason that holds is told, in this order: it has ended; somebody has it; it waits for a moment; its queue is
paused; a limit keeps it; no worker asks; others are before it. Nothing is kept for this: it is looked up when somebody
asks, and costs about the same however many jobs there are: where those before it are many, not all of them are counted.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from relet.core import timing
from relet.core.job import BLOCKED, DELAYED, FINAL, HELD, RUNNING, Job, State
from relet.core.lease import NEVER

if TYPE_CHECKING:
    from relet.core.machine import Machine


LETTERS_NAMED_MAX: Final = 3
"""Dead letters that a sentence names, the first ones: who looks after them lists all."""


class Why(StrEnum):
    """The words."""

    ENDED = "ended"
    """It is final."""
    RUNNING = "running"
    """A worker does it."""
    HELD = "held"
    """A worker has it, and has not said that it began."""
    LOST = "lost"
    """It was with a worker when an earlier broker ended; that one may still claim or answer it."""
    RETRY = "retry"
    """An attempt came to nothing, and the next one is not to begin yet."""
    DUE = "due"
    """It is not to begin yet."""
    DEADLINE = "deadline"
    """It waits for a moment that comes after its deadline, so that it ends then."""
    UNSAFE = "unsafe"
    """The store has not said yet that its acceptance is safe."""
    ORDER = "order"
    """Another job of its order key goes first, or a dead letter blocks the key."""
    PAUSED = "paused"
    """Its queue gives nothing out: somebody has paused it."""
    IN_FLIGHT = "in_flight"
    """Its queue, or its fairness key there, has as many jobs with workers as it may have."""
    RATE = "rate"
    """Its queue, or its fairness key there, has given out as many jobs a second as it may."""
    NO_WORKER = "no_worker"
    """No worker asks for a job of its queue."""
    BEHIND = "behind"
    """Others wait before it."""
    NEXT = "next"
    """It is given out next."""


def why(machine: Machine, job: Job, now: int) -> tuple[Why, str]:
    """The reason and the sentence."""
    if job.state in FINAL:
        return _ended(job, now)
    if job.state in (HELD, RUNNING):
        code, text, until = *_with_worker(job, now), timing.out_until(job)
    elif job.state == DELAYED:
        code, text, until = *_delayed(job, now), timing.waits_until(job)
    elif job.state == BLOCKED:
        code, text, until = Why.ORDER, _blocked(machine, job, now), timing.waits_until(job)
    else:
        code, text, until = *_waiting(machine, job, now), timing.waits_until(job)
    if until != NEVER and code is not Why.DEADLINE:
        text += f"; it ends in {_spoken(until - now)} if it has not {'ended' if job.state == RUNNING else 'begun'}"
    return code, text


def _ended(job: Job, now: int) -> tuple[Why, str]:
    word = State(job.state).name.lower()
    reason = f" ({job.reason})" if job.reason else ""
    last = ": ".join(part for part in (job.kind, job.text) if part)
    attempts = f"after {job.attempts} {'attempt' if job.attempts == 1 else 'attempts'}"
    text = f"it was {word}{reason} {_spoken(now - job.ended_ns)} ago, {attempts}" + (f": {last}" if last else "")
    return Why.ENDED, text


def _with_worker(job: Job, now: int) -> tuple[Why, str]:
    since = _spoken(now - job.began_ns)
    if job.holder is None:
        return Why.LOST, f"it was with a worker when an earlier broker ended; nobody has claimed it for {since}"
    name = job.holder.name
    if job.state == HELD:
        return Why.HELD, f"worker {name} has it for {since} and has not said that it began"
    return Why.RUNNING, f"worker {name} does it for {since}; attempt {job.attempts}"


def _delayed(job: Job, now: int) -> tuple[Why, str]:
    left = _spoken(job.due_ns - now)
    if job.due_ns >= timing.waits_until(job):
        return Why.DEADLINE, f"what it waits for comes after its deadline: it ends in {left}"
    if job.attempts or job.handovers:
        return Why.RETRY, f"its last attempt came to nothing; the next one may begin in {left}"
    return Why.DUE, f"it is due in {left}"


def _blocked(machine: Machine, job: Job, now: int) -> str:
    order = job.queue.orders.get(job)
    if order is None or order.first is job:
        return "it is the first of its order key now"
    if order.first is not None:
        before = order.first
        named = machine.requests.id_of(before, now).hex()
        return f"job {named} of its order key goes first, which is {State(before.state).name.lower()}"
    letters = [letter for letter in order.blockers_of(job) if letter.state in FINAL]
    if not letters:
        return "a job that was made of a dead letter goes first: the store has not said yet that its acceptance is safe"
    named = ", ".join(letter.id.hex() for letter in letters[:LETTERS_NAMED_MAX])
    if len(letters) == 1:
        return f"its order key is blocked by {named}, a dead letter: redrive or purge it"
    more = f" and {len(letters) - LETTERS_NAMED_MAX} more" if len(letters) > LETTERS_NAMED_MAX else ""
    return f"its order key is blocked by {len(letters)} dead letters, {named}{more}: redrive or purge them"


def _waiting(machine: Machine, job: Job, now: int) -> tuple[Why, str]:
    queue = job.queue
    if not machine.is_safe(job):
        return Why.UNSAFE, "the store has not said yet that its acceptance is safe"
    if queue.paused:
        by = queue.settings.dispatch_by if queue.settings is not None else ""
        return Why.PAUSED, f"the queue {queue.name!r} gives nothing out: it was paused by {by or 'somebody'}"
    limited = _limited(job, now)
    if limited is not None:
        return limited
    before, cut = queue.before(job)
    about = "at least " if cut else "about " if queue.levels is not None else ""
    behind = f"{about}{before} {'job is' if before == 1 else 'jobs are'} before it"
    if not queue.is_asked():
        return Why.NO_WORKER, f"no worker asks for a job of the queue {queue.name!r}; {behind}"
    if before:
        return Why.BEHIND, f"{behind} in the queue {queue.name!r}"
    return Why.NEXT, f"it is the next one of the queue {queue.name!r}"


def _limited(job: Job, now: int) -> tuple[Why, str] | None:
    """The limit that keeps a waiting job; None where none does."""
    queue, settings = job.queue, job.queue.settings
    if queue.levels is None or settings is None:
        return None
    setting, until = queue.levels.bar(job, now)
    if not setting:
        return None
    of = f"its fairness key in the queue {queue.name!r}" if setting.startswith("key_") else f"the queue {queue.name!r}"
    limit = f"{setting} {getattr(settings, setting):g}"
    if not until:
        return Why.IN_FLIGHT, f"{of} has as many jobs with workers as it may have ({limit}): one has to end first"
    in_time = _spoken(until - now)
    return Why.RATE, f"{of} has given out as many jobs as it may ({limit} a second): the next one in {in_time}"


def _spoken(ns: int) -> str:
    """A duration for reading, rounded up: 0.004 s, 2.5 s, 3 min, 5 h, 2 days."""
    seconds = max(0, ns) / 1e9
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 0.001 else "0.001 s"
