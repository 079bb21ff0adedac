"""What was agreed about a job when it was accepted. Many jobs share one value; durations are nanoseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from relet.messages import KIND_CHARACTERS_MAX

FINAL_KINDS_MAX: Final = 16
"""Kinds of errors that one job may name as final, because terms of jobs are kept in memory and each failure is compared
with them."""
FINAL_KINDS: Final = f"at most {FINAL_KINDS_MAX} names of 1 to {KIND_CHARACTERS_MAX} characters"


def are_final_kinds(kinds: Sequence[object]) -> bool:
    """Whether this is `FINAL_KINDS`."""
    return len(kinds) <= FINAL_KINDS_MAX and all(
        isinstance(kind, str) and 1 <= len(kind) <= KIND_CHARACTERS_MAX for kind in kinds
    )


class Backoff(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How long a job waits after an attempt that came to nothing (`core.retry.pause_ns`)."""

    curve: Literal["fixed", "linear", "exponential"]
    """Whether the pause stays as it is, grows by itself each time, or doubles."""
    base_ns: int
    """The first pause."""
    cap_ns: int
    """No pause is longer. 0 (`settings.CAP_OPEN_NS`) in settings alone, until a broker has them."""
    jitter: bool = False
    """Whether a part of it is waited for, drawn from nothing to all of it."""


class Terms(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What holds for jobs of a kind. The order of the fields is stored: new ones come last, with a default."""

    run_ns: int | None = None
    """Limit of one attempt, from its start; None: none."""
    silence_ns: int | None = None
    """An attempt must be reported on at least so often; None: need not."""
    late_any: bool = True
    """Whether any attempt may complete the job; else the current one only."""
    ends_alone: bool = False
    """Whether it ends when nobody waits for it any more."""
    keep_ns: int = 0
    """How long its outcome is kept also when it was received."""
    tries: int | None = None
    """Counted attempts, of all kinds together; None: no limit."""
    errors_max: int | None = None
    """Of them, those that failed, as their worker said; None: no limit but the tries."""
    timeouts_max: int | None = None
    """Those whose time was up, or that were silent for too long; likewise."""
    losses_max: int | None = None
    """Those whose worker was lost; likewise."""
    final_kinds: tuple[str, ...] = ()
    """An error of one of these kinds is the last one."""
    backoff: Backoff | None = None
    """How long it waits between attempts; None: it does not."""
    priority: int = 0
    """Its place among the jobs of its queue: higher ones go first."""
    start_ns: int | None = None
    """It ends if it has not started so long after it was first asked for; None: it may wait."""
    total_ns: int | None = None
    """It ends so long after that, whatever becomes of it; None: when it ends by itself."""
    takes_ns: int = 0
    """An attempt is not begun when less than this is left of it."""
    skips: bool = True
    """Whether its order key goes on when it was discarded; else its dead letter blocks the key."""


class Rules(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was agreed about one job and no other. Stored as `Terms` are. A plain job has none."""

    redriven_from: bytes = b""
    """Id of the dead letter that it was made of."""
    fair: str = ""
    """Fairness key: jobs of different keys take turns. "": none."""
    weight: int = 1
    """Jobs of that key a round."""
    age_ns: int = 0
    """How long before its acceptance it was first asked for, where that matters (`core.timing`)."""
    unique: str = ""
    """Key of which there is one live job in its queue; "": none."""
    unique_ns: int = 0
    """How long after its success the key is taken."""
    replaced_by: bytes = b""
    """Id of the job that took its place."""
    order: str = ""
    """Order key: of its jobs at most one is on its way. "": none."""
    place: int = 0
    """Its place in that (`core.orders`), where it is not the number of its acceptance."""
