"""What administrators may do: one function for each verb, and the table that says which.

A function gets the machine, what was said and `now`, and returns the answer; or it raises `Refusal`. One that would
take long is a generator: it yields after each step of about a millisecond, is told what time it is then, and returns
the answer at its end; the desk goes on with it turn by turn.

What is changed has a record, and the answer leaves when that is safe, as all that promises something.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from heapq import nsmallest
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from relet.core.dead import UNKNOWN_JOB
from relet.core.job import DELAYED, FINAL, HELD, RUNNING, Job, Reason, State
from relet.core.queue import Queue
from relet.core.queues import QUEUE_NOT_EMPTY
from relet.core.requests import BAD_REQUEST
from relet.core.settings import QueueSettings, SettingsError, from_wire, to_wire
from relet.core.why import why
from relet.messages import UNKNOWN_QUEUE, Entry, JobBody, Said, body_bytes
from relet.orders import (
    CancelAnyJob,
    JobTold,
    ListQueues,
    OfJob,
    Order,
    PauseQueue,
    QueueLine,
    QueuesTold,
    QueueTold,
    ResumeQueue,
    SetQueue,
    ShowJob,
    ShowQueue,
    WhyJob,
    WhyTold,
)

if TYPE_CHECKING:
    from relet.core.machine import Machine

LOOKS_MAX: Final = 5_000
"""Jobs looked at in one step of a search: about a millisecond."""

ORDERS_COUNTED_MAX: Final = 1_000
"""A queue with more order keys than this is a step of its own."""
NAMES_LOOKED_MAX: Final = 10_000
"""Names of queues looked at in one step of a list: likewise."""
COUNTED_MAX: Final = 20_000
"""Jobs counted in one step: likewise."""

Steps: TypeAlias = "Generator[None, int, Said]"
WithBody: TypeAlias = "tuple[Said, JobBody]"
"""An answer that has one."""
Verb: TypeAlias = "Callable[[Machine, Any, int], Said | WithBody | Steps]"


class Refusal(Exception):
    """An order that cannot be carried out, and what its giver is told."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


# --- Queues


def list_queues(machine: Machine, said: ListQueues, now: int) -> Steps:  # noqa: ARG001 - every verb takes the time
    """A page of queues, by name."""
    page: list[str] = []
    names = machine.queues.names()
    for begin in range(0, len(names), NAMES_LOOKED_MAX):
        if begin:
            yield
        later = (name for name in names[begin : begin + NAMES_LOOKED_MAX] if name > said.after)
        page = nsmallest(said.count + 1, (*page, *later))
    queues = [queue for name in page[: said.count] if (queue := machine.queues.get(name)) is not None]
    lines = yield from _lines_of(machine, queues)
    return QueuesTold(id=said.id, queues=lines, more=len(page) > said.count)


def show_queue(machine: Machine, said: ShowQueue, now: int) -> Steps:  # noqa: ARG001
    """One of them."""
    return (yield from _line_told(machine, said, _there(machine, said.queue)))


def pause(machine: Machine, said: PauseQueue, now: int) -> Steps:  # noqa: ARG001
    """Beside what is paused already. A queue that may not be used is not made by that: whoever mistypes the name of one
    hears of it.
    """
    settings = _settings_of(machine, said.queue)
    if settings is None:
        if machine.queues.only_these:
            text = f"there is no queue {said.queue!r}, and only those that are configured may be used"
            raise Refusal(UNKNOWN_QUEUE, f"{text}: {machine.queues.offered()}; `set_queue` adds one")
        settings = QueueSettings()
    return (yield from _set(machine, said, settings.pausing(said.what, said.by)))


def resume(machine: Machine, said: ResumeQueue, now: int) -> Steps:  # noqa: ARG001
    """What is left of the pause goes on; a queue of which nothing else was set has no settings any more."""
    queue = _there(machine, said.queue)
    settings = queue.settings
    if settings is None or not settings.paused:
        return (yield from _line_told(machine, said, queue))
    resumed = settings.resuming(said.what)
    nothing_left = resumed == QueueSettings() and not machine.queues.only_these
    return (yield from _set(machine, said, None if nothing_left else resumed))


def set_queue(machine: Machine, said: SetQueue, now: int) -> Steps:  # noqa: ARG001
    """The settings of one queue."""
    before = _settings_of(machine, said.queue)
    if said.settings is None:
        if before is not None:
            _check_empty(machine, said.queue)
        return (yield from _set(machine, said, None))
    try:
        settings = from_wire(said.settings, by=said.by)
    except SettingsError as wrong:
        raise Refusal(BAD_REQUEST, str(wrong)) from None
    if before is not None and "paused" not in said.settings:
        settings = settings.paused_like(before)
    return (yield from _set(machine, said, settings))


def _check_empty(machine: Machine, name: str) -> None:
    """Where only configured queues may be used, the jobs of one that is not any more would wait for workers that may
    not come.
    """
    count = machine.open_in(machine.queues.named(name))
    if machine.queues.only_these and count:
        jobs = f"{count:,} open {'job' if count == 1 else 'jobs'}"
        raise Refusal(
            QUEUE_NOT_EMPTY,
            f"the queue {name!r} has {jobs}, and without settings no worker may come for them (only configured queues"
            " may be used): pause its intake, and say this again when they have ended",
        )


def _there(machine: Machine, name: str) -> Queue:
    queue = machine.queues.get(name)
    if queue is None:
        text = f"there is no queue {name!r}: no job and no worker names it, and it has no settings"
        raise Refusal(UNKNOWN_QUEUE, text)
    return queue


def _settings_of(machine: Machine, name: str) -> QueueSettings | None:
    queue = machine.queues.get(name)
    return None if queue is None else queue.settings


def _set(machine: Machine, said: PauseQueue | ResumeQueue | SetQueue, settings: QueueSettings | None) -> Steps:
    if settings is not None and machine.queues.get(said.queue) is None:
        refused = machine.queues.refusal_of_room(1)
        if refused is not None:
            raise Refusal(*refused)
    try:
        queue = machine.set_queue(said.queue, settings)
    except SettingsError as wrong:
        raise Refusal(BAD_REQUEST, str(wrong)) from None
    return (yield from _line_told(machine, said, queue))


def _line_told(machine: Machine, said: Order, queue: Queue) -> Steps:
    (line,) = yield from _lines_of(machine, [queue])
    return QueueTold(id=said.id, queue=line)


def _lines_of(machine: Machine, queues: list[Queue]) -> Generator[None, int, tuple[QueueLine, ...]]:
    """Queues, as they are shown. How many jobs of each are delayed nobody counts but who asks."""
    delayed = dict.fromkeys(queues, 0)
    timed = list(machine.deadlines.running.values())
    for begin in range(0, len(timed), COUNTED_MAX):
        for job in timed[begin : begin + COUNTED_MAX]:
            if job.state == DELAYED and job.queue in delayed:
                delayed[job.queue] += 1
        yield
    lines: list[QueueLine] = []
    for queue, count in delayed.items():
        if len(queue.orders) > ORDERS_COUNTED_MAX:
            yield
        lines.append(_line_of(machine, queue, count))
    return tuple(lines)


def _line_of(machine: Machine, queue: Queue, delayed: int) -> QueueLine:
    settings = queue.settings
    shown = None
    if settings is not None:
        shown = {name: value for name, value in to_wire(settings).items() if name != "paused"}
    jobs, unsafe = machine.open_in(queue), machine.unsafe_in(queue)
    blocked = sum(len(order.waiting) for order in queue.orders)
    workers, asks = queue.asked()
    return QueueLine(
        name=queue.name,
        settings=shown,
        paused="" if settings is None else settings.paused,
        intake_by="" if settings is None else settings.intake_by,
        dispatch_by="" if settings is None else settings.dispatch_by,
        jobs=jobs,
        waiting=len(queue) + unsafe,
        delayed=delayed,
        blocked=blocked,
        in_flight=max(0, jobs - len(queue) - unsafe - delayed - blocked),
        workers=workers,
        asks=asks,
        dead=machine.kept.of_queue(queue.name)[0],
    )


# --- Jobs


def show_job(machine: Machine, said: ShowJob, now: int) -> Steps:
    """What is known of it."""
    job, now = yield from _found(machine, said, now)
    return _told(machine, said, job, now)


def why_job(machine: Machine, said: WhyJob, now: int) -> Steps:
    """Why it is where it is."""
    job, now = yield from _found(machine, said, now)
    code, text = why(machine, job, now)
    job_id = machine.requests.shown_id(job, now)
    return WhyTold(id=said.id, job=job_id, state=State(job.state).name.lower(), code=code, text=text)


def cancel_job(machine: Machine, said: CancelAnyJob, now: int) -> Steps:
    """It ends now, whoever waits for it; one that has ended already is as it is."""
    job, now = yield from _found(machine, said, now)
    if job.state not in FINAL:
        machine.cancel(job, Reason.CANCELLED, now)
    return _told(machine, said, job, now)


def _found(machine: Machine, said: OfJob, now: int) -> Generator[None, int, tuple[Job, int]]:
    """The job that is meant, and what time it is when it is found: an id that no client was told is in no table."""
    if bool(said.job) == bool(said.request):
        raise Refusal(BAD_REQUEST, "say which job: its id in `job`, or that of its request in `request`, and not both")
    job = machine.requests.known(said.job, said.request, said.principal)
    if job is None and said.job:
        candidates = machine.told_of()
        for begin in range(0, len(candidates), LOOKS_MAX):
            job = next((it for it in candidates[begin : begin + LOOKS_MAX] if it.id == said.job), None)
            if job is not None:
                break
            now = yield
    if job is None:
        raise Refusal(UNKNOWN_JOB, "no job has this id: it was never given, or the outcome is not kept any more")
    return job, now


def _told(machine: Machine, said: OfJob, job: Job, now: int) -> JobTold:
    key = job.request
    principal, request = key if isinstance(key, tuple) else ("", key or b"")
    began = job.began_ns if job.state in (HELD, RUNNING) else 0
    return JobTold(
        id=said.id,
        job=machine.requests.shown_id(job, now),
        number=job.number,
        request=request,
        principal=principal,
        queue=job.queue.name,
        state=State(job.state).name.lower(),
        reason=job.reason,
        attempts=job.attempts,
        tries=job.terms.tries,
        worker=job.holder.name if job.holder is not None and job.state in (HELD, RUNNING) else "",
        accepted_ms=machine.wall_ms(job.accepted_ns),
        began_ms=machine.wall_ms(began) if began else 0,
        due_ms=machine.wall_ms(job.due_ns) if job.state == DELAYED else 0,
        ended_ms=machine.wall_ms(job.ended_ns) if job.state in FINAL else 0,
        body_bytes=body_bytes(job.body),
        askers=len(job.askers),
        kind=job.kind,
        text=job.text,
        ledger=tuple(Entry(**msgspec.structs.asdict(entry)) for entry in job.ledger),
        headers=job.headers,
    )


VERBS: Final[Mapping[type[Order], Verb]] = {
    ListQueues: list_queues,
    ShowQueue: show_queue,
    PauseQueue: pause,
    ResumeQueue: resume,
    SetQueue: set_queue,
    ShowJob: show_job,
    WhyJob: why_job,
    CancelAnyJob: cancel_job,
}
"""All that administrators may do."""
