"""Records as jobs: a machine that is loaded equals the one whose records they are, in all that is persisted.

Most of a million jobs are alike, and a start waits for all of them: what many say alike is converted once and is one
object for all (queues, terms, moments, principals), and the plainest have a short way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from relet.core import timing
from relet.core.job import COMPLETED, DELAYED, RUNNING, Job
from relet.core.settings import QueueSettings
from relet.core.terms import Rules, Terms
from relet.core.unique import Guest, Window
from relet.messages import (
    Accepted,
    Attempt,
    Evicted,
    Finished,
    Forgotten,
    Gone,
    JobBody,
    KeptBody,
    Key,
    KeyWindow,
    Numbered,
    QueueSet,
    Record,
    Shared,
    body_bytes,
)

if TYPE_CHECKING:
    from relet.core.machine import Machine

ALIKE_MAX: Final = 10_000
"""Values that are remembered because others may be like them; beyond, each has its own."""


class BadRecords(Exception):
    """Records that no machine has written: a store is damaged."""


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
    again = _Again(machine, now).job
    for record in records:
        if type(record) is Accepted:  # nearly all are
            jobs[record.number] = again(record)
            continue
        match record:
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


class _Again:
    """Makes jobs of the records of their acceptance."""

    def __init__(self, machine: Machine, now: int) -> None:
        self._machine = machine
        self._now = now
        self._wall_ms = machine.wall_ms(now)
        self._queue_name, self._queue = machine.queue.name, machine.queue
        """The queue of the last one."""
        self._heard_ms = self._heard_ns = -1
        """When it was accepted, by the wall clock and in lease time."""
        self._alike: dict[Any, Any] = {}

    def job(self, record: Accepted) -> Job:
        """The job as it was accepted."""
        number, frames, name, heard_ms, packed = (
            record.number, record.body, record.queue, record.accepted_ms, record.terms,
        )  # fmt: skip
        if name != self._queue_name:
            self._queue_name, self._queue = name, self._machine.queues.named(name)
        if heard_ms != self._heard_ms:
            self._heard_ms = heard_ms
            self._heard_ns = self._now - max(0, self._wall_ms - heard_ms) * 1_000_000
        terms = self._machine.terms if packed is None else self._like(packed, Terms)
        body: JobBody = frames[0] if len(frames) == 1 else frames
        if record.frames:
            body = KeptBody(number, record.size, record.frames)
        request = record.request
        if request:
            key: Key = request
            if record.principal:
                key = (self._like(record.principal, str), request)
            size = record.size
            if size < 0:
                size = len(body) if type(body) is bytes else body_bytes(body)
            job = Job(number, None, b"", body, self._heard_ns, self._queue, terms, key, (), size)
        else:
            job = Job(number, None, b"", body, self._heard_ns, self._queue, terms)
        job.id, job.headers, job.again = record.id, record.headers, record.again
        if record.rules is not None:
            job.rules = self._like(record.rules, Rules)
        if record.due_ms:  # a wall clock that went back makes no delay longer than it was
            left_ms = min(record.due_ms - self._wall_ms, record.due_ms - heard_ms)
            job.state, job.due_ns = DELAYED, self._now + max(0, left_ms) * 1_000_000
        if packed is not None and timing.has_deadline(terms):
            # Of the millisecond that was written the end counts: no deadline is early.
            job.accepted_ns = min(self._now, (heard_ms + 1) * 1_000_000 - self._machine.wall_ns)
        return job

    def _like(self, fields: Any, kind: type[Any]) -> Any:
        """What these fields are, the same object for the same fields."""
        key = fields if kind is str else (kind, msgspec.msgpack.encode(fields))
        value = self._alike.get(key)
        if value is None:
            if len(self._alike) >= ALIKE_MAX:
                self._alike.clear()
            value = self._alike[key] = msgspec.convert(fields, kind)
        return value


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


def _key(principal: str, request: bytes) -> Key:
    return (principal, request) if principal else request
