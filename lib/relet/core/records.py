"""Jobs as records, and back: what a store needs to know of a machine, so that another can be built that equals it in
all that is persisted.

Each record has the whole truth about what it names, so applying one twice changes nothing. Moments are written as
wall-clock time, because lease time ends with the process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from relet.core import timing
from relet.core.job import COMPLETED, DELAYED, RUNNING, Job
from relet.core.settings import QueueSettings
from relet.core.terms import Rules, Terms
from relet.core.unique import Guest, Held, Window
from relet.messages import (
    Accepted,
    Attempt,
    Body,
    Evicted,
    Finished,
    Forgotten,
    Gone,
    Key,
    KeyWindow,
    Numbered,
    QueueSet,
    Record,
    Shared,
    body_bytes,
    body_frames,
)

if TYPE_CHECKING:
    from relet.core.machine import Machine


class BadRecords(Exception):
    """Records that no machine has written: a store is damaged."""


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
    terms = None if job.terms is machine.terms else msgspec.to_builtins(job.terms)
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
        None if job.rules is None else msgspec.to_builtins(job.rules, builtin_types=(bytes,)),
        machine.wall_ms(job.due_ns + 999_999) if job.state == DELAYED else 0,  # never early
    )


def attempt(machine: Machine, job: Job, pause_ns: int = 0) -> Attempt:
    """Where an open job stands. `pause_ns`: how long it waits from now on, where it is DELAYED."""
    due_ms = machine.wall_ms(job.due_ns + 999_999) if job.state == DELAYED else 0  # never early
    if job.extended and job.extended == job.attempts and job.state == RUNNING:
        due_ms = machine.wall_ms(job.ends_ns)
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


def _key(principal: str, request: bytes) -> Key:
    return (principal, request) if principal else request


def queue_set(name: str, settings: QueueSettings | None) -> QueueSet:
    """The settings of a queue: those that say something."""
    if settings is None:
        return QueueSet(name, None)
    usual = QueueSettings()
    said = {it: value for it in settings.__struct_fields__ if (value := getattr(settings, it)) != getattr(usual, it)}
    return QueueSet(name, msgspec.to_builtins(said))


class Ended(NamedTuple):
    """A final job of which something remains."""

    job: Job
    kept: bool
    owed: bool
    redriven_to: bytes


def rebuilt(machine: Machine, records: Iterable[Record], now: int) -> tuple[list[Job], list[Ended]]:
    """The jobs that these records speak of: open ones, by number, and final ones. Raises `BadRecords`."""
    try:
        return _rebuilt(machine, records, now)
    except (LookupError, ValueError, msgspec.MsgspecError) as error:
        raise BadRecords(f"what it says makes no jobs: {type(error).__name__} {error}") from error


def _rebuilt(machine: Machine, records: Iterable[Record], now: int) -> tuple[list[Job], list[Ended]]:
    jobs: dict[int, Job] = {}
    final: dict[int, Ended] = {}
    for record in records:
        match record:
            case Accepted():
                jobs[record.number] = _accepted_again(machine, record, now)
            case Attempt():
                _attempted_again(machine, jobs[record.number], record, now)
            case Finished():
                number = record.number
                job = jobs.pop(number, None) or (final[number].job if number in final else None)
                if job is None:
                    job = Job(number, None, b"", b"", now, machine.queue, machine.terms)
                _finished_again(machine, job, record, now)
                final[number] = Ended(job, record.kept, record.owed, record.redriven_to)
            case Shared(number):
                job = jobs.get(number) or (final[number].job if number in final else None)
                if job is not None:
                    _shared_again(machine, job, record, now)
            case KeyWindow():
                _window_again(machine, record, now)
            case QueueSet(name, settings):
                known = None if settings is None else msgspec.convert(settings, QueueSettings)
                machine.restore_queue(name, known)
            case Numbered(last):
                machine.number = max(machine.number, last)
            case Evicted(accepted_ms):
                age_ns = max(0, machine.wall_ms(now) - accepted_ms) * 1_000_000
                machine.requests.restore_forgotten(now - age_ns)
            case Gone(numbers):
                for number in numbers:
                    jobs.pop(number, None)
                    final.pop(number, None)
            case Forgotten(number, kept, owed):
                if not (kept or owed):
                    final.pop(number, None)
                elif number in final:
                    final[number] = final[number]._replace(kept=kept, owed=owed)
    return [jobs[number] for number in sorted(jobs)], list(final.values())


def _accepted_again(machine: Machine, record: Accepted, now: int) -> Job:
    frames = record.body
    age_ns = max(0, machine.wall_ms(now) - record.accepted_ms) * 1_000_000
    terms = machine.terms if record.terms is None else msgspec.convert(record.terms, Terms)
    body: Body = frames[0] if len(frames) == 1 else frames
    job = Job(record.number, None, b"", body, now - age_ns, machine.queues.named(record.queue), terms)
    job.id, job.headers, job.again = record.id, record.headers, record.again
    job.rules = None if record.rules is None else msgspec.convert(record.rules, Rules)
    if record.due_ms:  # a wall clock that went back makes no delay longer than it was
        left_ms = min(record.due_ms - machine.wall_ms(now), record.due_ms - record.accepted_ms)
        job.state, job.due_ns = DELAYED, now + max(0, left_ms) * 1_000_000
    if timing.has_deadline(terms):  # of the millisecond that was written the end counts: no deadline is early
        job.accepted_ns = min(now, (record.accepted_ms + 1) * 1_000_000 - machine.wall_ns)
    if record.request:
        job.request = (record.principal, record.request) if record.principal else record.request
        job.size = body_bytes(body) if record.size < 0 else record.size
    return job


def _shared_again(machine: Machine, job: Job, record: Shared, now: int) -> None:
    (own, job.size, finished, _), *guests = record.requests
    job.request = _key(record.principal, own)
    if finished:
        machine.requests.uniques.will_finish(job)
    known: dict[Key, Guest] = {}
    for request, size, finishes, asked_ms in guests:
        age_ns = max(0, machine.wall_ms(now) - asked_ms) * 1_000_000
        known[_key(record.principal, request)] = Guest(size, finishes, now - age_ns)
    machine.requests.uniques.guests.pop(job, None)
    if known:
        machine.requests.uniques.guests[job] = known


def _window_again(machine: Machine, record: KeyWindow, now: int) -> None:
    uniques, held = machine.requests.uniques, (record.queue, record.principal, record.key)
    if record.until_ms:
        left_ms = max(0, record.until_ms - machine.wall_ms(now))
        request = _key(record.principal, record.request)
        window = Window(record.number, now + left_ms * 1_000_000, record.job, request)
        for oldest, cut in uniques.begin(held, window):  # the bound may be smaller than it was
            machine.window_cut(oldest, cut)
    elif held in uniques.windows and uniques.windows[held].number == record.number:
        del uniques.windows[held]


def _attempted_again(machine: Machine, job: Job, record: Attempt, now: int) -> None:
    job.state, job.token, job.tokens, job.ledger = record.state, record.token, record.tokens, record.ledger
    job.attempts, job.handovers, job.kind, job.text = record.attempts, record.handovers, record.kind, record.text
    job.seq, job.shared = (1 if record.claimable else -1) if record.session else 0, record.shared
    job.began_ns, job.failures = now, record.failures
    if record.due_ms:
        left_ms = max(0, record.due_ms - machine.wall_ms(now))
        if job.state == DELAYED:  # a wall clock that went back makes no pause longer than it was
            left_ms = min(left_ms, record.pause_ms)
        job.due_ns = job.ends_ns = now + left_ms * 1_000_000
        job.extended = job.attempts if job.state == RUNNING else 0


def _finished_again(machine: Machine, job: Job, record: Finished, now: int) -> None:
    job.state, job.reason, job.attempts, job.ledger = record.state, record.reason, record.attempts, record.ledger
    job.kind, job.text, job.headers = record.kind, record.text, record.headers
    if record.replaced_by:
        job.rules = msgspec.structs.replace(job.rules or Rules(), replaced_by=record.replaced_by)
    job.ended_ns = now - max(0, machine.wall_ms(now) - record.ended_ms) * 1_000_000
    frames = record.answer
    job.answer = frames[0] if len(frames) == 1 else frames
    if job.state == COMPLETED:
        job.body = b""


def _kept_frames(body: Body) -> tuple[bytes, ...]:
    return (body,) if type(body) is bytes else tuple(map(bytes, body_frames(body)))
