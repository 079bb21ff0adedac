"""What administrators may do with dead letters: functions as those of `administration`, for the same table.

A redrive or a purge goes on in the machine's own steps (`core.dead`); here it is begun, and waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from relet.core.administration import Refusal, Steps, Verb, WithBody
from relet.core.dead import NO_LETTER, UNKNOWN_JOB, Selection, Sweep
from relet.core.job import Reason
from relet.core.kept import Letter
from relet.core.lease import NEVER
from relet.core.requests import BAD_REQUEST
from relet.messages import Entry, Said, body_bytes
from relet.orders import (
    DeadJobTold,
    DeadLine,
    DeadTold,
    ListDead,
    OfDead,
    Order,
    PurgeDead,
    RedriveDead,
    ShowDead,
    SweptTold,
)

if TYPE_CHECKING:
    from relet.core.machine import Machine

_REASONS: Final = tuple(reason.value for reason in Reason)


def list_dead(machine: Machine, said: ListDead, now: int) -> Said:
    """A page of them."""
    letters, place = machine.dead.page(_selection(said, now), said.after, said.count)
    return DeadTold(id=said.id, letters=tuple(_line_of(machine, letter) for letter in letters), next=place)


def show_dead(machine: Machine, said: ShowDead, now: int) -> WithBody:  # noqa: ARG001 - every verb takes the time
    """One of them, with all that is known of it."""
    letter = machine.kept.of(said.job)
    if letter is None:
        raise Refusal(UNKNOWN_JOB, NO_LETTER)
    job = letter.job
    key = job.request
    principal, request = key if isinstance(key, tuple) else ("", key or b"")
    told = DeadJobTold(
        id=said.id,
        letter=_line_of(machine, letter),
        text=job.text,
        request=request,
        principal=principal,
        handovers=job.handovers,
        ledger=tuple(Entry(**msgspec.structs.asdict(entry)) for entry in job.ledger),
        headers=job.headers,
    )
    return told, job.body if said.body else ()


def redrive(machine: Machine, said: RedriveDead, now: int) -> Steps:
    """Another job of each."""
    return _swept(machine, said, Sweep(verb="redrive", selection=_selection(said, now), force=said.force))


def purge(machine: Machine, said: PurgeDead, now: int) -> Steps:
    """They are forgotten."""
    return _swept(machine, said, Sweep(verb="purge", selection=_selection(said, now)))


def _swept(machine: Machine, said: RedriveDead | PurgeDead, sweep: Sweep) -> Steps:
    sweep.dry_run = said.dry_run
    sweep.limit = NEVER if said.limit is None else said.limit
    if not machine.dead.begin(sweep):
        raise Refusal(sweep.code, sweep.text)
    while not sweep.over:
        yield
    if said.job and sweep.code:
        raise Refusal(sweep.code, sweep.text)
    return SweptTold(
        id=said.id,
        count=sweep.done,
        skipped=sweep.skipped,
        refused=sweep.refused,
        code=sweep.code,
        text=sweep.text,
        jobs=tuple(sweep.jobs),
    )


def _selection(said: OfDead, now: int) -> Selection:
    if said.reason and said.reason not in _REASONS:
        raise Refusal(BAD_REQUEST, f"reason is {said.reason!r:.100}: it must be one of {', '.join(_REASONS)}")
    if said.newer_ms and said.newer_ms <= said.older_ms:
        both = f"older than {said.older_ms} ms and newer than {said.newer_ms}"
        raise Refusal(BAD_REQUEST, f"nothing is {both}: make `newer_ms` the longer one")
    return Selection(
        queue=said.queue,
        job=said.job,
        reason=said.reason,
        kind=said.kind,
        before_ns=now - said.older_ms * 1_000_000 + 1,
        since_ns=now - said.newer_ms * 1_000_000 + 1 if said.newer_ms else -NEVER,
    )


def _line_of(machine: Machine, letter: Letter) -> DeadLine:
    job = letter.job
    return DeadLine(
        job=job.id,
        number=job.number,
        queue=job.queue.name,
        reason=job.reason,
        kind=job.kind,
        attempts=job.attempts,
        accepted_ms=machine.wall_ms(job.accepted_ns),
        ended_ms=machine.wall_ms(job.ended_ns),
        body_bytes=body_bytes(job.body),
        redriven_from=b"" if job.rules is None else job.rules.redriven_from,
        redriven_to=letter.redriven_to,
    )


VERBS: Final[Mapping[type[Order], Verb]] = {
    ListDead: list_dead,
    ShowDead: show_dead,
    RedriveDead: redrive,
    PurgeDead: purge,
}
"""All that they may do with dead letters."""
