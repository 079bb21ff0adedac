"""Jobs as records: what a store needs to know of a machine, so that another can be built that equals it in all that is
persisted (`core.rebuilding`).

Each record has the whole truth about what it names, so applying one twice changes nothing. Moments are written as
wall-clock time, because lease time ends with the process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from relet.core.job import DELAYED, RUNNING, Job
from relet.core.settings import QueueSettings
from relet.core.unique import Held, Window
from relet.messages import (
    Accepted,
    Attempt,
    Finished,
    JobBody,
    KeptBody,
    Key,
    KeyWindow,
    QueueSet,
    Shared,
    body_frames,
)

if TYPE_CHECKING:
    from relet.core.machine import Machine


def accepted(machine: Machine, jobs: Iterable[Job]) -> list[Accepted]:
    """Jobs that were accepted. Most are plain, and came in the same moment."""
    usual, default, wall_ms = machine.terms, machine.queue, machine.wall_ms
    name, heard_ns, heard_ms = default.name, -1, 0
    made = []
    for job in jobs:
        body, rules, key = job.body, job.rules, job.request
        if type(body) is not bytes or rules is not None or job.terms is not usual or job.state == DELAYED:
            made.append(_accepted(machine, job))
            continue
        if job.accepted_ns != heard_ns:
            heard_ns = job.accepted_ns
            heard_ms = wall_ms(heard_ns)
        principal, request = key if isinstance(key, tuple) else ("", key or b"")
        queue = name if job.queue is default else job.queue.name
        made.append(
            Accepted(
                job.number, (body,), queue, heard_ms, None, principal, request, job.id, job.headers, job.again, None, 0
            )
        )
    return made


def _accepted(machine: Machine, job: Job) -> Accepted:
    """One that has terms or rules of its own."""
    terms = None if job.terms is machine.terms else tuple(msgspec.to_builtins(job.terms))
    principal, request = "", b""
    if isinstance(job.request, tuple):
        principal, request = job.request
    elif job.request is not None:
        request = job.request
    return Accepted(
        job.number,
        _kept_frames(job.body),
        job.queue.name,
        machine.wall_ms(job.accepted_ns),
        terms,
        principal,
        request,
        job.id,
        job.headers,
        job.again,
        None if job.rules is None else tuple(msgspec.to_builtins(job.rules, builtin_types=(bytes,))),
        machine.wall_ms(job.due_ns + 999_999) if job.state == DELAYED else 0,  # never early
    )


def attempt(machine: Machine, job: Job, pause_ns: int = 0) -> Attempt:
    """Where an open job stands. `pause_ns`: how long it waits from now on, where it is DELAYED."""
    due_ms = machine.wall_ms(job.due_ns + 999_999) if job.state == DELAYED else 0  # never early
    if job.extended and job.extended == job.attempts and job.state == RUNNING:
        due_ms = machine.wall_ms(job.ends_ns + 999_999)  # likewise
    return Attempt(
        job.number,
        int(job.state),
        job.token,
        job.attempts,
        job.handovers,
        job.ledger,
        job.tokens,
        job.shared,
        bool(job.seq),
        due_ms,
        job.kind,
        job.text,
        job.seq >= 0,
        job.failures,
        -(-pause_ns // 1_000_000),
    )


def finished(machine: Machine, job: Job) -> Finished:
    """How a job ended, and what of it is kept."""
    letter = machine.kept.entries.get(job.number)
    kept, owed, answer = letter is not None, job in machine.requests.outcomes, job.answer
    frames = ((answer,) if type(answer) is bytes else _kept_frames(answer)) if kept or owed else ()
    return Finished(
        job.number,
        int(job.state),
        job.reason,
        job.attempts,
        kept,
        job.ledger,
        frames,
        owed,
        machine.wall_ms(job.ended_ns),
        job.kind,
        job.text,
        job.headers if job.answer_headers is None else job.answer_headers,
        b"" if letter is None else letter.redriven_to,
        b"" if job.rules is None else job.rules.replaced_by,
    )


def shared(machine: Machine, job: Job) -> Shared:
    """By which requests a job is known."""
    uniques = machine.requests.uniques
    principal = job.request[0] if type(job.request) is tuple else ""
    guests = uniques.guests.get(job, {})
    known = [(_request_id(job.request), job.size, not job.terms.ends_alone, machine.wall_ms(job.accepted_ns))]
    for key, guest in guests.items():
        known.append((_request_id(key), guest.size, guest.finishes, machine.wall_ms(guest.asked_ns)))
    return Shared(job.number, principal, tuple(known))


def key_window(machine: Machine, held: Held, window: Window) -> KeyWindow:
    """How long a key is taken after the success of its job."""
    until_ms = machine.wall_ms(window.until_ns + 999_999) if window.until_ns else 0
    return KeyWindow(window.number, *held, window.job, _request_id(window.request), until_ms)


def _request_id(request: Key | None) -> bytes:
    return request[1] if isinstance(request, tuple) else request or b""


def queue_set(name: str, settings: QueueSettings | None) -> QueueSet:
    """The settings of a queue: those that say something."""
    if settings is None:
        return QueueSet(name, None)
    usual = QueueSettings()
    said = {it: value for it in settings.__struct_fields__ if (value := getattr(settings, it)) != getattr(usual, it)}
    return QueueSet(name, msgspec.to_builtins(said))


def _kept_frames(body: JobBody) -> tuple[bytes, ...]:
    if type(body) is KeptBody:
        raise AssertionError(f"the body of job {body.number} is to be written down, and was not read")
    return (body,) if type(body) is bytes else tuple(map(bytes, body_frames(body)))
