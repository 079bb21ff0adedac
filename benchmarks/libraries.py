"""The libraries: what a job costs from `Client.map` to the result, with one Python worker at the other end.

`Map` asks how many jobs that do nothing go through: client, broker and worker in a process each, everything as it
comes, beside what Python itself has for one process that works for another. All get the same function and the same
bodies; they stand ready together and take turns. `AsyncClient` and
`AsyncWorker` with a broker of their own take their turns, too.

`Calls` asks what a call of a task costs client and worker beyond a job with the same bytes.

`Naps` asks what is lost between two jobs: jobs of 10 ms, one worker, beside a plain loop over the same function in a
process of the same kind. A worker that asks too late shows here.

`Crunch` asks what handlers in processes cost: jobs of 1 ms of Python in two of them, beside Python's own pool of two.
Client, broker and worker have no other processors than these.

users.py is the programs.
"""

import contextlib
import json
import select
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from benchmarks import figures, procfs, targets
from benchmarks.figures import Figure, Sample
from benchmarks.scenario import Setting

PATIENCE_S = 120.0
"""No command takes so long, unless something is broken."""
PYTHONS_OWN = {"pool": "Pool(1).imap_unordered", "executor": "ProcessPoolExecutor(1).map"}


class UserError(RuntimeError):
    """A program of users.py did not do what it was told. One line that says which, and its last words."""


@dataclass(frozen=True, slots=True)
class User:
    """One of the programs of users.py, running."""

    name: str
    process: "subprocess.Popen[str]"
    words: IO[bytes]

    def map(self, jobs: int) -> float:
        """Let it map its function over `jobs` bodies. Returns seconds; raises UserError."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{jobs}\n")
            self.process.stdin.flush()
        in_time = select.select([self.process.stdout], [], [], PATIENCE_S)[0]
        reply = self.process.stdout.readline() if in_time else ""
        if not reply:
            why = "ended" if in_time else f"took more than {PATIENCE_S:g} s"
            self.words.seek(0)
            last = self.words.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise UserError(f"{self.name}: {why} at {jobs} jobs: {last or '(it said nothing)'}")
        return float(json.loads(reply)["seconds"])

    def usage(self) -> procfs.Usage:
        """What its process has used."""
        return procfs.usage(self.process.pid)


@contextlib.contextmanager
def user(kind: str, function: str, *endpoints: str) -> Iterator[User]:
    """A program of users.py for the time of a `with`."""
    command = [sys.executable, "-m", "benchmarks.users", kind, function, *endpoints]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile() as words,
        targets.running(command, stdin=pipe, stdout=pipe, stderr=words) as process,
    ):
        yield User(kind, process, words)


@dataclass(frozen=True, slots=True)
class Chain:
    """Client, broker and one worker."""

    client: User
    broker: targets.Target
    worker: User

    def map(self, jobs: int) -> Sample:
        """Let `jobs` jobs go through, and see what they cost each of the three."""
        before = [part.usage() for part in (self.client, self.broker, self.worker)]
        seconds = self.client.map(jobs)
        after = [part.usage() for part in (self.client, self.broker, self.worker)]
        client_us, broker_us, worker_us = (
            (late - early).cpu_ns / 1000 / jobs for early, late in zip(before, after, strict=True)
        )
        return {"seconds": seconds, "client_us": client_us, "broker_us": broker_us, "worker_us": worker_us}


BLOCKING = ("relet", "worker")
IN_LOOPS = ("asyncio", "asyncworker")
SUBMITTED = ("submit", "worker")
CALLED = ("task", "taskworker")
IN_PROCESSES = ("relet", "processes")
"""Programs of users.py: a client, and a worker."""


@contextlib.contextmanager
def chain(setting: Setting, function: str, kinds: tuple[str, str] = BLOCKING) -> Iterator[Chain]:
    """Client, broker and worker for the time of a `with`."""
    client_kind, worker_kind = kinds
    with targets.broker(setting.broker) as broker:
        clients, workers, answers = broker.endpoints
        with (
            user(worker_kind, function, workers, answers) as worker,
            user(client_kind, function, clients) as client,
        ):
            yield Chain(client, broker, worker)


@dataclass(frozen=True, slots=True)
class Map:
    """Jobs that do nothing, beside Python's own ways."""

    name: str = "map"
    title: str = "Client.map to one worker, 32 B"
    jobs: int = 20_000
    turns: int = 5
    floors: tuple[tuple[str, float], ...] = (("pool", 1.5), ("executor", 5.0))
    loops_floor: float = 0.5
    rounds_max: int = 5

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """All of them, in turns."""
        jobs = setting.scaled(self.jobs, self.jobs // 4)
        with contextlib.ExitStack() as stack:
            ours = stack.enter_context(chain(setting, "same"))
            in_loops = stack.enter_context(chain(setting, "same", IN_LOOPS))
            others = [stack.enter_context(user(kind, "same")) for kind in PYTHONS_OWN]
            ours.map(jobs // 4)
            in_loops.map(jobs // 4)
            for other in others:
                other.map(jobs // 4)
            turns: dict[str, list[Sample]] = {"relet": [], "asyncio": [], **{other.name: [] for other in others}}
            for _ in range(setting.scaled(self.turns, 3)):
                turns["relet"].append(ours.map(jobs))
                turns["asyncio"].append(in_loops.map(jobs))
                for other in others:
                    turns[other.name].append({"seconds": other.map(jobs)})
        for target, samples in turns.items():
            means = {key: statistics.fmean(sample[key] for sample in samples) for key in samples[0]}
            yield {"target": target, "jobs": jobs, "jobs_per_s": jobs / means["seconds"], **means, "turns": samples}

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """Jobs per second beside each of the others'; then where the time goes."""
        return [
            *(
                Figure(
                    scenario=self.name,
                    name=f"{self.title}: jobs per second",
                    value=figures.median(samples, "relet", "jobs_per_s"),
                    unit="/s",
                    beside=figures.median(samples, other, "jobs_per_s"),
                    ratio=figures.ratio(samples, "relet", other, "jobs_per_s"),
                    floor=floor,
                    note=f"beside: {PYTHONS_OWN[other]}",
                )
                for other, floor in self.floors
            ),
            Figure(
                scenario=self.name,
                name="AsyncClient.map to one AsyncWorker, 32 B: jobs per second",
                value=figures.median(samples, "asyncio", "jobs_per_s"),
                unit="/s",
                beside=figures.median(samples, "relet", "jobs_per_s"),
                ratio=figures.ratio(samples, "asyncio", "relet", "jobs_per_s"),
                floor=self.loops_floor,
                note="beside: Client.map to one Worker",
            ),
            *(
                Figure(
                    scenario=self.name,
                    name=f"AsyncClient.map to one AsyncWorker, 32 B: CPU per job of the {part}",
                    value=figures.median(samples, "asyncio", f"{part}_us"),
                    unit="us",
                )
                for part in ("client", "worker")
            ),
            *(
                Figure(
                    scenario=self.name,
                    name=f"{self.title}: CPU per job of the {part}",
                    value=figures.median(samples, "relet", f"{part}_us"),
                    unit="us",
                )
                for part in ("client", "broker", "worker")
            ),
        ]


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of a task that does nothing, beside jobs that do nothing."""

    name: str = "tasks"
    jobs: int = 20_000
    turns: int = 5
    bar_us: float = 15.0
    rounds_max: int = 5

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """Both in turns."""
        jobs = setting.scaled(self.jobs, self.jobs // 4)
        with chain(setting, "same", SUBMITTED) as submitted, chain(setting, "same", CALLED) as called:
            both = {"jobs": submitted, "calls": called}
            for one in both.values():
                one.map(jobs // 4)
            turns: dict[str, list[Sample]] = {target: [] for target in both}
            for _ in range(setting.scaled(self.turns, 3)):
                for target, one in both.items():
                    turns[target].append(one.map(jobs))
        for target, samples in turns.items():
            means = {key: statistics.fmean(sample[key] for sample in samples) for key in samples[0]}
            both_us = means["client_us"] + means["worker_us"]
            yield {"target": target, "jobs": jobs, "jobs_per_s": jobs / means["seconds"], "both_us": both_us, **means}

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """CPU, and calls per second."""
        calls, jobs = (figures.median(samples, target, "both_us") for target in ("calls", "jobs"))
        return [
            Figure(
                scenario=self.name,
                name="a call of a task beyond a job: CPU of client and worker",
                value=calls - jobs,
                unit="us",
                bar=self.bar_us,
                note=f"{calls:.1f} us beside {jobs:.1f} us",
            ),
            Figure(
                scenario=self.name,
                name="calls of a task per second, one worker, a future for each",
                value=figures.median(samples, "calls", "jobs_per_s"),
                unit="/s",
                beside=figures.median(samples, "jobs", "jobs_per_s"),
                ratio=figures.ratio(samples, "calls", "jobs", "jobs_per_s"),
                note="beside: jobs with the same bytes",
            ),
        ]


@dataclass(frozen=True, slots=True)
class Naps:
    """Jobs of 10 ms on one worker, beside a plain loop."""

    name: str = "naps"
    jobs: int = 5_000
    turns: int = 5
    bar_percent: float = 1.0
    rounds_max: int = 1

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """The loop and the worker in turns; a few jobs first, so that all are connected."""
        jobs = setting.scaled(self.jobs, self.jobs // 20)
        with chain(setting, "nap") as ours, user("plain", "nap") as loop:
            ours.map(10)
            loop.map(10)
            seconds = [
                (loop.map(jobs // self.turns), ours.map(jobs // self.turns)["seconds"]) for _ in range(self.turns)
            ]
        for target, spent in zip(("loop", "relet"), zip(*seconds, strict=True), strict=True):
            yield {"target": target, "jobs": jobs, "seconds": sum(spent), "turns": spent}

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """How much longer it takes."""
        ours, loop = (figures.median(samples, target, "seconds") for target in ("relet", "loop"))
        return [
            Figure(
                scenario=self.name,
                name=f"{samples[0]['jobs']:,} jobs of 10 ms, one worker: longer than a plain loop",
                value=(figures.ratio(samples, "relet", "loop", "seconds") - 1) * 100,
                unit="%",
                bar=self.bar_percent,
                note=f"{ours:.2f} s beside {loop:.2f} s",
            )
        ]


@dataclass(frozen=True, slots=True)
class Crunch:
    """Jobs of a millisecond of Python in two processes, beside Python's own pool of two."""

    name: str = "crunch"
    jobs: int = 2_000
    turns: int = 5
    floor: float = 1.0
    rounds_max: int = 3

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """Both in turns; a few jobs first, so that all processes are there."""
        jobs = setting.scaled(self.jobs, self.jobs // 4)
        with chain(setting, "crunch", IN_PROCESSES) as ours, user("executor2", "crunch") as other:
            ours.map(100)
            other.map(100)
            seconds = [(other.map(jobs), ours.map(jobs)["seconds"]) for _ in range(self.turns)]
        for target, spent in zip(("executor", "relet"), zip(*seconds, strict=True), strict=True):
            rate = jobs * self.turns / sum(spent)
            yield {"target": target, "jobs": jobs, "jobs_per_s": rate, "turns": spent}

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """Jobs per second beside the other's."""
        return [
            Figure(
                scenario=self.name,
                name="Jobs of 1 ms of Python in two processes: jobs per second",
                value=figures.median(samples, "relet", "jobs_per_s"),
                unit="/s",
                beside=figures.median(samples, "executor", "jobs_per_s"),
                ratio=figures.ratio(samples, "relet", "executor", "jobs_per_s"),
                floor=self.floor,
                note="beside: ProcessPoolExecutor(2).map",
            )
        ]


LIBRARIES: tuple[Map | Calls | Naps | Crunch, ...] = (Map(), Calls(), Naps(), Crunch())
