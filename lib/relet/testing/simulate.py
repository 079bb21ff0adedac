"""`python -m relet.testing.simulate --seed S --jobs N`: plays worlds until so many jobs were submitted in them.

World number *i* of seed *S* is `S/i`: what happens in it depends on nothing else, so a failure is repeated by
`--world S/i`. The worlds are played by as many processes as there are processors. The exit code is 1 when the judge
found anything, in any world, else 0.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from relet.testing.census import InvariantBroken
from relet.testing.judge import FALSE_FAILURE, LOST, ORDER, RATE, SECOND_OUTCOME, WRONG, Violation
from relet.testing.world import KINDS, Outcome, World

WORLDS_AT_ONCE: Final = 8
"""Worlds given to a process at a time."""
PROGRESS_S: Final = 5.0
FAILURES_SHOWN: Final = 5
TEXT_SHOWN: Final = 300
"""Characters of what was found, when it is found."""
FAILURES_MAX: Final = 20
"""After so many worlds that failed there is enough to look at."""

NATIVE: Final = (
    "accepted_natively",
    "accepted_again",
    "joined",
    "inquired",
    "receipts",
    "told_on_the_way",
    "told_state",
    "handed_over",
    "reports",
    "acks",
    "given_back",
    "handed_back",
    "recalled",
    "claimed",
    "ran_again_unawares",
)
"""Counts of what was said natively."""

SESSIONS: Final = (
    "sessions",
    "sessions_resumed",
    "sessions_away",
    "sessions_silent",
    "sessions_goodbye",
    "sessions_replaced",
    "client_sessions",
)

POLICIES: Final = (
    "turns_compared",
    "keys_compared",
    "queue_set_unpaused",
    "queue_set_intake",
    "queue_set_dispatch",
    "queue_set_both",
    "refused_queue_paused",
    "refused_queue_full",
    "refused_2010",
    "errors_spent",
    "timeouts_spent",
    "losses_spent",
    "failed_by_kind",
    "paused",
    "paused_with_jitter",
    "cancelled_waiting",
    "cancelled_held",
    "cancelled_running",
    "detached",
    "delayed",
    "in_order",
    "keys_blocked",
    "redriven",
    "seats_compared",
    "start_deadline",
    "deadline",
    "attempt_deadline",
    "unique_keys",
    "refused_duplicate",
    "shared",
    "shared_after_end",
    "left",
    "replaced",
    "windows",
)
"""Counts of what administrators did and clients asked for beyond the plain, and of what was looked at for it."""

RARE: Final = ("redriven_in_place", "replaced_in_turn")
"""Likewise, of what does not happen in some thousand jobs."""

ENDS: Final = ("attempt_expired", "attempt_silent", "attempt_failed", "attempt_worker_lost")

REFUSALS: Final = ("refused_", "reports_refused_", "cancelled_", "told_", "native_answers_", "gave_up_")
"""How the names of counts begin that say how often something was refused, or told, with which code."""

NO_FAULTS: Final = (
    *NATIVE,
    *SESSIONS,
    *ENDS,
    "failed",
    "asker_gone",
    "asked_again",
    "gaps_repaired",
    "attempts",
    "told_answer",
    "told_failure",
    "tries_spent",
    "handovers_spent",
    "broker_stopped",
    "refused",
    "answers_late",
    "answers_refused",
    "attempts_expired",
    "attempts_lost",
    "replies_unroutable",
    "messages_refused",
    *POLICIES,
    *RARE,
)
"""Counts of what the broker did; all others count what was done to it."""


class Failure(msgspec.Struct):
    """A world in which the broker did wrong."""

    seed: str
    kind: str
    text: str
    where: str


Result: TypeAlias = tuple[Outcome | None, Failure | None]


def play(seed: str, *, watch: bool = False, kinds: tuple[str, ...] = ()) -> Result:
    """Plays one world, of one of these kinds. Whatever it raises is a failure."""
    try:
        return World(seed, watch=watch, kinds=kinds).play(), None
    except Exception as error:  # noqa: BLE001 - a broker that raises has failed, whatever it raises
        kind = error.kind if isinstance(error, Violation) else WRONG
        text = error.text if isinstance(error, Violation) else f"{type(error).__name__}: {error}"
        if isinstance(error, InvariantBroken):
            text = f"invariant: {error}"
        return None, Failure(seed, kind, text, "".join(traceback.format_exception(error, limit=-4)))


def _play_some(seeds: Sequence[str], kinds: tuple[str, ...]) -> list[Result]:
    return [play(seed, kinds=kinds) for seed in seeds]


def _batches(seed: str) -> Iterator[list[str]]:
    first = 0
    while True:
        yield [f"{seed}/{index}" for index in range(first, first + WORLDS_AT_ONCE)]
        first += WORLDS_AT_ONCE


class Summary:
    """What all worlds came to."""

    def __init__(self, kinds: tuple[str, ...] = ()) -> None:
        self.kinds = kinds
        self.jobs = 0
        self.worlds = 0
        self.turns = 0
        self.simulated_s = 0.0
        self.counts: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self._began = time.monotonic()

    def add(self, outcome: Outcome | None, failure: Failure | None) -> None:
        """One world is over."""
        self.worlds += 1
        if outcome is not None:
            self.jobs += outcome.jobs
            self.turns += outcome.turns
            self.simulated_s += outcome.simulated_s
            self.counts.update(outcome.counts)
        if failure is not None:
            self.failures.append(failure)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def found(self, kind: str) -> int:
        """How many worlds ended with a violation of this kind."""
        return sum(failure.kind == kind for failure in self.failures)

    def line(self) -> str:
        """Progress."""
        return f"{self.jobs:,} jobs in {self.worlds:,} worlds, {len(self.failures)} failed, {self.seconds:.0f} s"

    def text(self) -> str:
        """All of it, for people."""
        counts = self.counts
        codes = {name: count for name, count in counts.items() if name.startswith(REFUSALS) and name not in NO_FAULTS}
        faults = {name: count for name, count in counts.items() if name not in NO_FAULTS and name not in codes}
        hours = self.simulated_s / 3600
        rows = {
            "jobs": f"{self.jobs:,} in {self.worlds:,} worlds, {self.turns:,} turns, {hours:,.1f} simulated hours",
            "told": _counted(counts, "told_answer", "told_failure", "refused"),
            "ended badly": _counted(counts, "tries_spent", "handovers_spent", "failed", "asker_gone", "broker_stopped"),
            "attempts": _counted(counts, "attempts", *ENDS),
            "answers": _counted(counts, "answers_late", "answers_refused"),
            "native": _counted(counts, *NATIVE),
            "sessions": _counted(counts, *SESSIONS),
            "policies": _counted(counts, *POLICIES, *RARE),
            "codes": _counted(codes, *sorted(codes)),
            "faults": _counted(faults, *sorted(faults)),
            "lost": str(self.found(LOST)),
            "false failures": str(self.found(FALSE_FAILURE)),
            "second outcomes": str(self.found(SECOND_OUTCOME)),
            "order violated": str(self.found(ORDER)),
            "rate exceeded": str(self.found(RATE)),
            "otherwise wrong": str(self.found(WRONG)),
            "seconds": f"{self.seconds:.1f}",
        }
        lines = [f"{name:<16}{row}" for name, row in rows.items()]
        for failure in self.failures[:FAILURES_SHOWN]:
            again = _again(failure.seed, self.kinds)
            lines += ["", f"world {failure.seed}: {failure.kind}: {failure.text}", f"  again: {again}"]
        if len(self.failures) > FAILURES_SHOWN:
            lines += ["", "failed too: " + " ".join(failure.seed for failure in self.failures[FAILURES_SHOWN:][:50])]
        return "\n".join(lines)


def _counted(counts: Mapping[str, int], *names: str) -> str:
    return ", ".join(f"{name} {counts.get(name, 0):,}" for name in names)


def _again(seed: str, kinds: tuple[str, ...]) -> str:
    return f"python -m relet.testing.simulate --world {seed}" + "".join(f" --kind {kind}" for kind in kinds)


def simulate(seed: str, jobs: int, *, processes: int, progress: bool = False, kinds: tuple[str, ...] = ()) -> Summary:
    """Plays worlds of `seed`, of these `kinds`, until `jobs` jobs were submitted; `processes` 1 plays them here."""
    summary = Summary(kinds)
    said = time.monotonic()
    with contextlib.closing(_played(_batches(seed), processes, kinds)) as played:
        while summary.jobs < jobs and len(summary.failures) < FAILURES_MAX:
            for outcome, failure in next(played):
                summary.add(outcome, failure)
                if progress and failure is not None:
                    sys.stderr.write(f"world {failure.seed}: {failure.kind}: {failure.text[:TEXT_SHOWN]}\n")
            if progress and time.monotonic() - said >= PROGRESS_S:
                said = time.monotonic()
                sys.stderr.write(summary.line() + "\n")
    return summary


def _played(
    batches: Iterator[list[str]], processes: int, kinds: tuple[str, ...]
) -> Generator[list[Result], None, None]:
    """What each batch of worlds came to, in their order."""
    if processes == 1:
        for batch in batches:
            yield _play_some(batch, kinds)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        under_way = [pool.apply_async(_play_some, (next(batches), kinds)) for _ in range(processes * 2)]
        for batch in batches:
            yield under_way.pop(0).get()
            under_way.append(pool.apply_async(_play_some, (batch, kinds)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m relet.testing.simulate",
        description="Play many small faulty worlds around the real broker, on simulated time, and judge what it did.",
    )
    parser.add_argument("--seed", default="1", help="any text; the same seed plays the same worlds (default: 1)")
    parser.add_argument("--jobs", type=int, default=1_000_000, help="how many jobs in all (default: 1,000,000)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one for each processor")
    parser.add_argument("--world", metavar="SEED/NUMBER", help="play this one world, and show where it fails")
    parser.add_argument(
        "--kind", action="append", default=[], choices=sorted(set(KINDS)), help="play only worlds of this kind"
    )
    options = parser.parse_args(arguments)
    kinds = tuple(options.kind)
    if options.world is not None:
        outcome, failure = play(options.world, watch=True, kinds=kinds)
        sys.stdout.write(f"{failure.where if failure is not None else outcome}\n")
        return 0 if failure is None else 1
    sys.stderr.write(f"seed {options.seed}, {options.jobs:,} jobs, {options.processes} processes\n")
    summary = simulate(options.seed, options.jobs, processes=options.processes, progress=True, kinds=kinds)
    sys.stdout.write(summary.text() + "\n")
    return 1 if summary.failures else 0


if __name__ == "__main__":
    sys.exit(main())
