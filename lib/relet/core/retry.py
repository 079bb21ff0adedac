"""Whether and when a job is tried again, after an attempt that came to nothing.

An attempt fails in one of three ways: an *error*, which its worker has said; a *timeout*, because its time was up or it
was silent; a *loss* of its worker. `tries` bounds them all together, and each may have a smaller bound of its own.

The next attempt is another worker's, where another asks: what is wrong with the first one may be wrong with it still.

The pause before the next attempt is a curve over the number of the attempt that failed, with a cap. Jitter spreads
jobs that failed together, and is no dice: it is a hash of the job's id and that number, so every broker, today's and
the next one, comes to the same pause, and who has the id can compute it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from relet.core.job import Cause, Job, Reason
from relet.core.terms import FINAL_KINDS, are_final_kinds

if TYPE_CHECKING:
    from relet.core.limits import Limits
    from relet.core.terms import Backoff
    from relet.messages import Submit

_DOUBLINGS_MAX: Final = 62
"""After so many doublings a pause of a nanosecond is longer than any cap."""
_KINDS: Final = {Cause.FAILED: 0, Cause.EXPIRED: 1, Cause.SILENT: 1, Cause.DEADLINE: 1, Cause.WORKER_LOST: 2}
_SPENT: Final = (Reason.ERRORS_SPENT, Reason.TIMEOUTS_SPENT, Reason.LOSSES_SPENT)


def count(job: Job, cause: Cause, by: int = 1) -> None:
    """An attempt of the job ended so; or, with -1, it did not after all."""
    counts = list(job.failures)
    counts[_KINDS[cause]] += by
    job.failures = (counts[0], counts[1], counts[2])


def spent(job: Job) -> Reason | None:
    """Which of its budgets an attempt that ended badly has used up; None: there is another attempt."""
    terms = job.terms
    if terms.tries is not None and job.attempts >= terms.tries:
        return Reason.TRIES_SPENT
    for failed, most, reason in zip(
        job.failures, (terms.errors_max, terms.timeouts_max, terms.losses_max), _SPENT, strict=True
    ):
        if most is not None and failed >= most:
            return reason
    return None


def failed_by(job: Job) -> str:
    """The worker that the job should not go to while another asks: it has just failed it. "": anyone may have it.

    Once another has had it and given it back - it was recalled, because that one was busy - this is settled: a job must
    not wait behind a long one for a preference.
    """
    return job.ledger[-1].worker if job.ledger and job.seq >= 0 else ""


def pause_ns(backoff: Backoff, job_id: bytes, attempt: int) -> int:
    """How long to wait after this attempt has failed.

    Without jitter it is the base, the base times the attempt, or the base times 2 to the power of (attempt - 1); at
    most the cap. With jitter it is that times a fraction from 0 to 1: BLAKE2b of eight bytes (RFC 7693) over the job's
    id and the attempt, as eight bytes, both numbers in network order, divided by 2 to the power of 64.
    """
    match backoff.curve:
        case "fixed":
            pause = backoff.base_ns
        case "linear":
            pause = backoff.base_ns * attempt
        case "exponential":
            pause = backoff.base_ns << min(attempt - 1, _DOUBLINGS_MAX)
    pause = min(pause, backoff.cap_ns)
    if backoff.jitter:
        drawn = hashlib.blake2b(job_id + attempt.to_bytes(8, "big"), digest_size=8).digest()
        pause = pause * int.from_bytes(drawn, "big") >> 64
    return pause


def wrong_with(said: Submit, limits: Limits) -> str:
    """What of a request's wishes about retries cannot be, and what to change; "" where nothing is wrong."""
    backoff, most_ms = said.backoff, limits.retry_ns_max // 1_000_000
    for name, most in (
        ("errors_max", said.errors_max),
        ("timeouts_max", said.timeouts_max),
        ("losses_max", said.losses_max),
    ):
        if most is not None and said.tries and most > said.tries:
            return f"{name} is {most} and tries is {said.tries}, which bounds all kinds together: at most {said.tries}"
    if not are_final_kinds(said.final_kinds or ()):
        return f"final_kinds is {FINAL_KINDS}"
    if backoff is None:
        return ""
    if backoff.base_ms > most_ms or (backoff.cap_ms or 0) > most_ms:
        return f"base_ms and cap_ms of a backoff are at most {most_ms} (--retry-max)"
    if backoff.cap_ms is not None and backoff.cap_ms < backoff.base_ms:
        return f"the backoff begins at base_ms {backoff.base_ms}: cap_ms is at least that, not {backoff.cap_ms}"
    return ""
