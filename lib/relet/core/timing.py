"""When a job may start, must have started, and must have ended.

All counts from the moment at which the job was first asked for. What a client says again after a broker was lost says
how long ago that was (`Rules.age_ns`), so a deadline does not move because a message was sent again; nor does a restart
move it, because a store keeps the moment of the acceptance.

A job that waits has one moment until which it is of use to hand it over (`waits_until`): its start deadline, or its end
less what an attempt takes. That moment stands in `Machine.deadlines`, as the end of a delay, a run limit or a silence
does: a job has one timer, for whatever comes first, and what that means is decided when it comes up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from relet.core.job import HELD, RUNNING, Job, Reason
from relet.core.lease import NEVER

if TYPE_CHECKING:
    from relet.core.limits import Limits
    from relet.core.terms import Terms
    from relet.messages import Submit

NS_PER_MS: Final = 1_000_000


def has_deadline(terms: Terms) -> bool:
    """Whether jobs on these terms must have started or ended by some moment."""
    return terms.total_ns is not None or terms.start_ns is not None


def asked_ns(job: Job) -> int:
    """When it was first asked for; lease time."""
    return job.accepted_ns - (0 if job.rules is None else job.rules.age_ns)


def ends_at(job: Job) -> int:
    """When the job ends, if it did not before."""
    total_ns = job.terms.total_ns
    return NEVER if total_ns is None else asked_ns(job) + total_ns


def waits_until(job: Job) -> int:
    """When the job ends if it waits until then: handed over later it would come too late."""
    terms = job.terms
    if terms.total_ns is None and terms.start_ns is None:
        return NEVER
    until = ends_at(job) - terms.takes_ns
    return until if terms.start_ns is None or job.attempts else min(until, asked_ns(job) + terms.start_ns)


def out_until(job: Job) -> int:
    """When a job ends that a worker has. One that was handed over counts as started for the start deadline; but where
    it has not been started, it must not be any more when less is left than an attempt takes.
    """
    until = ends_at(job)
    return until - job.terms.takes_ns if job.state == HELD and until != NEVER else until


def too_late(job: Job) -> Reason:
    """Why a job ends that is still open at its moment."""
    start_ns = job.terms.start_ns
    if start_ns is None or job.attempts or job.state in (HELD, RUNNING):
        return Reason.DEADLINE
    return Reason.START_DEADLINE if asked_ns(job) + start_ns <= ends_at(job) - job.terms.takes_ns else Reason.DEADLINE


def due_ns(said: Submit, now: int, wall_ns: int) -> int:
    """When a job may start that is asked for now; 0: at once."""
    if said.not_before_ms:
        due = said.not_before_ms * NS_PER_MS - wall_ns
    elif said.delay_ms:
        due = now + (said.delay_ms - said.age_ms) * NS_PER_MS
    else:
        return 0
    return due if due > now else 0


def wrong_with(said: Submit, limits: Limits) -> str:
    """What of a request's deadlines cannot be, and what to change; "" where nothing is wrong."""
    most_ms = limits.ahead_ns_max // NS_PER_MS
    for name, value in (("start_ms", said.start_ms), ("deadline_ms", said.deadline_ms)):
        if value is not None and value > most_ms:
            return f"{name} is {value}: at most {most_ms} (--ahead-max)"
    if said.start_ms and said.deadline_ms and said.start_ms > said.deadline_ms:
        return f"start_ms is {said.start_ms}, later than deadline_ms, {said.deadline_ms}: what starts then has ended"
    return ""


def wrong_beside(said: Submit, terms: Terms, now: int, wall_ns: int, limits: Limits) -> str:
    """What of its delay, and of the time that an attempt takes, cannot be on these terms."""
    if said.takes_ms and (terms.total_ns is None or terms.takes_ns >= terms.total_ns):
        total = "there is none" if terms.total_ns is None else f"here {terms.total_ns // NS_PER_MS}"
        return f"takes_ms is {said.takes_ms}: it must be less than the deadline_ms of the job ({total})"
    if said.delay_ms and said.not_before_ms:
        return "delay_ms and not_before_ms both say when the job may start: leave one out"
    due = due_ns(said, now, wall_ns)
    if not due:
        return ""
    name = "delay_ms" if said.delay_ms else "not_before_ms"
    if due - now > limits.ahead_ns_max:
        return f"{name} lies too far ahead: at most {limits.ahead_ns_max // NS_PER_MS} ms (--ahead-max)"
    asked = now - said.age_ms * NS_PER_MS
    start = NEVER if terms.start_ns is None else asked + terms.start_ns
    end = NEVER if terms.total_ns is None else asked + terms.total_ns - terms.takes_ns
    if due >= min(start, end):
        return f"{name} lets the job start when its deadline is over, or so near that it cannot end: make it smaller"
    return ""
