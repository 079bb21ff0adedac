"""Jobs as records, and back: what a store needs to know of a machine, so that another can be built that equals it in
all that is persisted.

Each record has the whole truth about what it names, so applying one twice changes nothing. Moments are written as
wall-clock time, because lease time ends with the process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from relet.core.job import COMPLETED, DELAYED, RUNNING, Job, Terms
from relet.messages import Accepted, Attempt, Body, Evicted, Finished, Forgotten, Record, body_bytes, body_frames

if TYPE_CHECKING:
    from relet.core.machine import Machine


def accepted(machine: Machine, job: Job) -> Accepted:
    """A job that was accepted."""
    terms = None if job.terms is machine.terms else msgspec.structs.astuple(job.terms)
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
        machine.requests.id_of(job, job.accepted_ns),  # the same in every life of the broker
        job.headers,
        job.again,
    )


def attempt(machine: Machine, job: Job) -> Attempt:
    """Where an open job stands."""
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
    )


def finished(machine: Machine, job: Job) -> Finished:
    """How a job ended, and what of it is kept."""
    kept, owed = job in machine.kept, job in machine.requests.outcomes
    answer = _kept_frames(job.answer) if kept or owed else ()
    return Finished(
        job.number,
        int(job.state),
        job.reason,
        job.attempts,
        kept,
        job.ledger,
        answer,
        owed,
        machine.wall_ms(job.ended_ns),
        job.kind,
        job.text,
        job.headers if job.answer_headers is None else job.answer_headers,
    )


def rebuilt(machine: Machine, records: Iterable[Record], now: int) -> tuple[list[Job], list[tuple[Job, bool, bool]]]:
    """The jobs that these records speak of: open ones, by number, and (job, kept, owed) of final ones."""
    jobs: dict[int, Job] = {}
    final: dict[int, tuple[Job, bool, bool]] = {}
    for record in records:
        match record:
            case Accepted():
                jobs[record.number] = _accepted_again(machine, record, now)
            case Attempt():
                _attempted_again(machine, jobs[record.number], record, now)
            case Finished():
                number = record.number
                job = jobs.pop(number, None) or (final[number][0] if number in final else None)
                if job is None:
                    job = Job(number, None, b"", b"", now, machine.queue, machine.terms)
                _finished_again(machine, job, record, now)
                final[number] = (job, record.kept, record.owed)
            case Evicted(accepted_ms):
                age_ns = max(0, machine.wall_ms(now) - accepted_ms) * 1_000_000
                machine.requests.restore_forgotten(now - age_ns)
            case Forgotten(number, kept, owed):
                if not (kept or owed):
                    final.pop(number, None)
                elif number in final:
                    final[number] = (final[number][0], kept, owed)
    return [jobs[number] for number in sorted(jobs)], list(final.values())


def _accepted_again(machine: Machine, record: Accepted, now: int) -> Job:
    frames = record.body
    age_ns = max(0, machine.wall_ms(now) - record.accepted_ms) * 1_000_000
    terms = machine.terms if record.terms is None else Terms(*record.terms)
    body: Body = frames[0] if len(frames) == 1 else frames
    job = Job(record.number, None, b"", body, now - age_ns, machine.queues.named(record.queue), terms)
    job.id, job.headers, job.again = record.id, record.headers, record.again
    if record.request:
        job.request = (record.principal, record.request) if record.principal else record.request
        job.size = body_bytes(body)
    return job


def _attempted_again(machine: Machine, job: Job, record: Attempt, now: int) -> None:
    job.state, job.token, job.tokens, job.ledger = record.state, record.token, record.tokens, record.ledger
    job.attempts, job.handovers, job.kind, job.text = record.attempts, record.handovers, record.kind, record.text
    job.seq, job.shared = (1 if record.claimable else -1) if record.session else 0, record.shared
    job.began_ns = now
    if record.due_ms:
        job.due_ns = job.ends_ns = now + max(0, record.due_ms - machine.wall_ms(now)) * 1_000_000
        job.extended = job.attempts if job.state == RUNNING else 0


def _finished_again(machine: Machine, job: Job, record: Finished, now: int) -> None:
    job.state, job.reason, job.attempts, job.ledger = record.state, record.reason, record.attempts, record.ledger
    job.kind, job.text, job.headers = record.kind, record.text, record.headers
    job.ended_ns = now - max(0, machine.wall_ms(now) - record.ended_ms) * 1_000_000
    frames = record.answer
    job.answer = frames[0] if len(frames) == 1 else frames
    if job.state == COMPLETED:
        job.body = b""


def _kept_frames(body: Body) -> tuple[bytes, ...]:
    return tuple(map(bytes, body_frames(body)))
