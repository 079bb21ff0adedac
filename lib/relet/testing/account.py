"""What tortured processes write down, and the account that is made of it when all of them have ended.

A process that may be killed at any moment has one thing that its successor can go by: a file to which it adds a line
before it does something, and another one when that has come about. What was written is in the hands of the system, so
`kill -9` takes nothing of it but the end of a line, and a line without its end is no line.

The account knows nothing of the broker but what it promises. It compares what clients were told with what workers say
that they did: a job that was acknowledged has an outcome, the same one whenever it is asked for; an answer is the
answer to that job and was made by a run of it; a failure comes after all tries, or was meant.
"""

from __future__ import annotations

import hashlib
import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

ATTEMPTED: Final = "attempted"
"""job, way, recipe of its body, request id, moment: the client is about to ask."""
ACKNOWLEDGED: Final = "acknowledged"
"""job, moment: the client was told that the broker has it."""
FINISHED: Final = "finished"
"""job, outcome, moment: the client was told how it ended."""
AGAIN: Final = "again"
"""job, outcome, moment: the same, asked once more."""
UNKNOWN: Final = "unknown"
"""job, code, moment: the client was told that there is no such job, or that it is not taken."""
BEGAN: Final = "began"
"""run, job, moment: a worker has a job in hand."""
ENDED: Final = "ended"
"""run, how, moment: and it will answer, or say that it failed."""

ANSWERED: Final = "answered"
"""Outcome, followed by the run that made the answer; also how a run ends."""
FAILED: Final = "failed"
"""Outcome, followed by reason, attempts, and those of them that failed as their workers said; also how a run ends."""
WRONG: Final = "wrong"
"""Outcome, followed by what came instead of the answer."""

WELL: Final = "well"
FLAKY: Final = "flaky"
DOOMED: Final = "doomed"
FINAL: Final = "final"
"""What a job's body asks for: to be done, to fail in half of its runs, in each, and once for good."""

_FIELDS: Final = {ATTEMPTED: 5, ACKNOWLEDGED: 2, FINISHED: 3, AGAIN: 3, UNKNOWN: 3, BEGAN: 3, ENDED: 3}
_END: Final = "."


class Book:
    """A file to which one process, and after it its successor, adds lines. Any thread may.

    Args:
        path: made where there is none.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(self._descriptor, b"\n")  # what a predecessor has left half written ends here

    def write(self, *lines: Sequence[str]) -> None:
        """Add these lines, each a kind and its fields but for the moment, which is now."""
        now = f"{time.monotonic():.4f}"
        text = "".join(f"{' '.join(line)} {now} {_END}\n" for line in lines)
        os.write(self._descriptor, text.encode())

    def close(self) -> None:
        """Nothing more is added."""
        os.close(self._descriptor)


def read_book(path: Path) -> Iterator[list[str]]:
    """The whole lines of a book: kind and fields. What is no line was being written when its process was killed."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as book:
        for line in book:
            words = line.split()
            if len(words) >= 2 and words.pop() == _END and _FIELDS.get(words[0]) == len(words) - 1:
                yield words


def body_of(name: str, recipe: str) -> bytes:
    """A job's body: its name, its recipe, and as much filling as that says."""
    return f"{name} {recipe} ".encode() + b"x" * int(recipe.split(",")[2])


def answer_to(body: bytes, run: str) -> bytes:
    """What a run answers: a proof that it has read the body, and its own name."""
    return f"{hashlib.blake2b(body, digest_size=8).hexdigest()} {run}".encode()


class Told(msgspec.Struct):
    """What is known of one job."""

    recipe: str = ""
    acknowledged: bool = False
    outcomes: tuple[str, ...] = ()
    """All different ones that were told, oldest first."""
    unknown: str = ""
    """The code of the last time that it was not known, where no outcome came later."""
    forgotten: bool = False
    """It was not known although its outcome had been told a moment before, and was to be kept."""


class Life(msgspec.Struct, frozen=True):
    """One process of the broker; moments in seconds of `time.monotonic()`."""

    ready: float | None
    """When it said that it serves; None: it was killed before."""
    ended: float


class Account:
    """All that the books say, and what is wrong with it.

    Args:
        clients: their books.
        workers: theirs.
        tries: counted attempts before which no job may fail.
    """

    def __init__(self, clients: Iterable[Path], workers: Iterable[Path], *, tries: int) -> None:
        self._tries = tries
        self.jobs: dict[str, Told] = {}
        self.served: list[float] = []
        """The moments at which outcomes were told, in order."""
        self.asked_again = 0
        self.runs: dict[str, int] = {}
        """Job -> runs."""
        self.runs_failed: dict[str, int] = {}
        self._run_of: dict[str, str] = {}
        for book in workers:
            self._read_worker(book)
        for book in clients:
            self._read_client(book)
        self.served.sort()
        self.lost: list[str] = []
        self.wrong: list[str] = []
        self.contradicted: list[str] = []
        self.false_failures: list[str] = []
        self.refused: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.attempts_beyond = 0
        """Attempts of failed jobs beyond the tries: a broker that is killed may forget one that it has let."""
        for name, told in self.jobs.items():
            self._judge(name, told)

    def _read_worker(self, book: Path) -> None:
        for kind, run, what, _moment in read_book(book):
            if kind == BEGAN:
                self._run_of[run] = what
                self.runs[what] = self.runs.get(what, 0) + 1
            elif what == FAILED and run in self._run_of:
                name = self._run_of[run]
                self.runs_failed[name] = self.runs_failed.get(name, 0) + 1

    def _read_client(self, book: Path) -> None:
        for kind, name, *fields in read_book(book):
            if kind == ATTEMPTED:
                self.jobs.setdefault(name, Told(fields[1]))
                continue
            told = self.jobs.get(name)
            if told is None:
                raise ValueError(f"{book}: {kind} {name} stands there without {ATTEMPTED}")
            if kind == ACKNOWLEDGED:
                told.acknowledged = True
            elif kind == UNKNOWN:
                told.unknown = fields[0]
                told.forgotten = told.forgotten or bool(told.outcomes)
            else:
                told.unknown = ""
                self.asked_again += kind == AGAIN
                if fields[0] not in told.outcomes:
                    told.outcomes += (fields[0],)
                self.served.append(float(fields[1]))

    def _judge(self, name: str, told: Told) -> None:
        if told.forgotten or (told.acknowledged and not told.outcomes):
            self.lost.append(name)
        elif told.unknown and not told.outcomes:
            self.refused[told.unknown] += 1
        if len(told.outcomes) > 1:
            self.contradicted.append(name)
        for outcome in told.outcomes:
            how, _, rest = outcome.partition(":")
            plan = told.recipe.partition(",")[0]
            if how == FAILED:
                self._judge_failure(name, plan, *rest.split(":"))
            elif how != ANSWERED or self._run_of.get(rest) != name or plan in (DOOMED, FINAL):
                self.wrong.append(name)

    def _judge_failure(self, name: str, plan: str, reason: str, attempts: str, failed: str) -> None:
        self.failed[reason] += 1
        spent = reason == "tries_spent" and int(attempts) >= self._tries
        meant = reason == "failed" and plan == FINAL
        said = int(failed) <= self.runs_failed.get(name, 0)  # a run writes that down before it says so
        if not (spent or meant) or not said:
            self.false_failures.append(name)
        elif spent:
            self.attempts_beyond += int(attempts) - self._tries

    @property
    def acknowledged(self) -> int:
        """Jobs whose clients were told that they are accepted, or how they ended."""
        return sum(told.acknowledged or bool(told.outcomes) for told in self.jobs.values())

    @property
    def finished(self) -> int:
        """Jobs whose clients were told how they ended."""
        return sum(bool(told.outcomes) for told in self.jobs.values())

    @property
    def repeated(self) -> tuple[int, int]:
        """Jobs that ran more often than once and their failures say, and these runs."""
        extra = [count - 1 - min(self.runs_failed.get(name, 0), count - 1) for name, count in self.runs.items()]
        return sum(count > 0 for count in extra), sum(extra)

    def complaints(self) -> dict[str, list[str]]:
        """What must not be: what is wrong -> the jobs, for all kinds; nothing is wrong where all are empty."""
        return {
            "lost": self.lost,
            "wrong answers": self.wrong,
            "false failures": self.false_failures,
            "contradicted": self.contradicted,
        }

    def evidence(self, name: str) -> str:
        """What is known of one job, in a line."""
        told = self.jobs[name]
        outcomes = " then ".join(told.outcomes) or "no outcome"
        acknowledged = "acknowledged" if told.acknowledged else "not acknowledged"
        unknown = f", {told.unknown}" if told.unknown else ""
        runs = f"{self.runs.get(name, 0)} runs, {self.runs_failed.get(name, 0)} of them failed"
        return f"{name} ({told.recipe}): {acknowledged}, {outcomes}{unknown}; {runs}"

    def downtimes(self, lives: Sequence[Life]) -> list[float]:
        """Seconds from each kill of the broker to the next outcome that a later life of it has told.

        A broker that was killed before it told anything is part of the outage that it was to end.
        """
        found = []
        began: float | None = None
        for life in lives:
            if began is not None and life.ready is not None:
                at = bisect_left(self.served, life.ready)
                if at < len(self.served) and self.served[at] <= life.ended:
                    found.append(self.served[at] - began)
                    began = None
            if began is None:
                began = life.ended
        return found
