"""What was agreed about a job when it was accepted: worked out from what it asked for, what its queue had, and what the
broker has, in that order. And what follows from it when an attempt is over.
"""

from __future__ import annotations

import hashlib
from typing import Final

from relet.core.job import Cause, Reason
from relet.core.limits import Limits
from relet.core.settings import QueueSettings
from relet.messages import Submit
from relet.testing.claims import NEVER, WAITS, Agreed, Claim, Pause
from relet.testing.clock import MS

KIND_OF: Final = {
    Cause.FAILED.value: "errors",
    Cause.EXPIRED.value: "timeouts",
    Cause.SILENT.value: "timeouts",
    Cause.DEADLINE.value: "timeouts",
    Cause.WORKER_LOST.value: "losses",
}
"""What an attempt that ended so is counted as."""
_SPENT: Final = {"errors": Reason.ERRORS_SPENT, "timeouts": Reason.TIMEOUTS_SPENT, "losses": Reason.LOSSES_SPENT}
NOTHING_SAID: Final = Submit()


def contradiction(said: Submit, usual: Agreed, now: int, wall_ns: int) -> bool:
    """Whether a request asks for what cannot be, beside what is usual in its queue. `wall_ns`: how much later than
    lease time it is on the wall.
    """
    most = (said.errors_max, said.timeouts_max, said.losses_max)
    if said.tries and any(it is not None and it > said.tries for it in most):
        return True
    if (said.weight != 1 and not said.fair) or (said.blocks and not said.order):
        return True
    backoff = said.backoff
    if backoff is not None and backoff.cap_ms is not None and backoff.cap_ms < backoff.base_ms:
        return True
    if said.start_ms and said.deadline_ms and said.start_ms > said.deadline_ms:
        return True
    return _out_of_time(said, usual, now, wall_ns)


def _out_of_time(said: Submit, usual: Agreed, now: int, wall_ns: int) -> bool:
    """Whether it could only begin, or end, too late."""
    start_ns = usual.start_ns if said.start_ms is None else said.start_ms * MS or None
    total_ns = usual.total_ns if said.deadline_ms is None else said.deadline_ms * MS or None
    if said.takes_ms and (total_ns is None or said.takes_ms * MS >= total_ns):
        return True
    if said.delay_ms and said.not_before_ms:
        return True
    due, asked = due_of(said, now, wall_ns), now - said.age_ms * MS
    ends = NEVER if total_ns is None else asked + total_ns - said.takes_ms * MS
    return due > 0 and due >= min(ends, NEVER if start_ns is None else asked + start_ns)


def due_of(said: Submit, now: int, wall_ns: int) -> int:
    """When a job may begin that is asked for now; 0: at once."""
    due = said.not_before_ms * MS - wall_ns if said.not_before_ms else now - said.age_ms * MS + said.delay_ms * MS
    return due if due > now else 0


def agreed(said: Submit, settings: QueueSettings, tries: int | None, limits: Limits) -> Agreed:
    """What holds for a job that asks for this, in a queue with these settings, at a broker with so many tries."""
    if settings.tries is not None:
        tries = settings.tries or None
    if said.tries is not None:
        tries = said.tries or None
    bounds = {}
    for kind in _SPENT:
        own, usual = getattr(said, f"{kind}_max"), getattr(settings, f"{kind}_max")
        if most := usual if own is None else own:
            bounds[kind] = most
    return Agreed(
        tries=tries,
        bounds=bounds,
        final_kinds=(settings.final_kinds or ()) if said.final_kinds is None else said.final_kinds,
        pause=_pause_of(said, settings, limits),
        start_ns=settings.start_ns if said.start_ms is None else said.start_ms * MS or None,
        total_ns=settings.total_ns if said.deadline_ms is None else said.deadline_ms * MS or None,
        takes_ns=said.takes_ms * MS,
        priority=said.priority if said.priority is not None else settings.priority or 0,
        order=said.order,
        blocks=said.blocks,
        unique=said.unique,
        unique_ns=said.unique_ms * MS,
        fair=said.fair,
        weight=said.weight,
    )


def _pause_of(said: Submit, settings: QueueSettings, limits: Limits) -> Pause | None:
    if said.backoff is None:
        usual = settings.backoff
        return None if usual is None else Pause(usual.curve, usual.base_ns, usual.cap_ns, usual.jitter)
    wanted = said.backoff
    cap_ns = limits.retry_ns_max if wanted.cap_ms is None else wanted.cap_ms * MS
    return Pause(wanted.curve, wanted.base_ms * MS, cap_ns, wanted.jitter) if wanted.base_ms else None


def end_of(claim: Claim, kind: str, *, final: bool) -> Reason | None:
    """Why a job ends with an attempt that was in vain; None: it does not. `kind`: what its worker called it."""
    if final or (claim.cause == Cause.FAILED and kind in claim.agreed.final_kinds):
        return Reason.FAILED
    if claim.cause == Cause.DEADLINE:
        return Reason.DEADLINE
    if claim.agreed.tries is not None and claim.attempts >= claim.agreed.tries:
        return Reason.TRIES_SPENT
    for each, reason in _SPENT.items():
        if claim.failures[each] >= claim.agreed.bounds.get(each, 1 << 62):
            return reason
    return None


def too_late(claim: Claim) -> Reason:
    """Which of its deadlines a job misses first that waits or is held."""
    first = claim.state == WAITS and claim.starts_by <= claim.ends_by - claim.agreed.takes_ns
    return Reason.START_DEADLINE if first else Reason.DEADLINE


def pause_ns(pause: Pause | None, job_id: bytes, attempt: int) -> int:
    """How long a job waits after this attempt, as the protocol says."""
    if pause is None:
        return 0
    times: int = {"fixed": 1, "linear": attempt, "exponential": 1 << attempt - 1}[pause.curve]
    waits_ns = min(pause.base_ns * times, pause.cap_ns)
    if not pause.jitter:
        return waits_ns
    digest = hashlib.blake2b(job_id + attempt.to_bytes(8, "big"), digest_size=8)
    return waits_ns * int(digest.hexdigest(), 16) // 2**64
