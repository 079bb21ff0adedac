"""Policies: what they cost the broker, what they give a tenant beside another, and how punctual a delayed job is.

`Policies` lets the same flow through two brokers, natively: jobs of which nothing is said, and jobs that have a
priority, a fairness key and a backoff, drawn at random over 1,000 queues and 10,000 keys. Both have the same
connections and as many unspent asks. A worker may serve no more than a hundred queues, so there are ten, and with
policies it is a job's queue that says which of them takes it: some have more waiting than they have asked for, so jobs
do wait in their queues, which are otherwise empty, and come and go with their jobs.

`Tenants` asks what a tenant that has one job at a time loses by sharing its queue with another that has 100,000
waiting. *Alone* it has the same workers, and they are as busy, all the time, with jobs of the same length: but these
wait in another queue, of which a worker takes a job only when there is none in the tenant's (queues are served in
strict order). So alone, a job of the tenant waits for the next worker that becomes free, and never behind a job: nobody
could do better without workers that stand idle. Lengths are drawn at random, 0.5 to 1.5 times the same length, or the
workers would stay in step and the wait depend on how they happened to begin. A wait is from the submission to the
arrival at the worker.

`Delayed` fills a broker with jobs that become due evenly over a minute, then takes them as they come. A job is due, by
the clock of who submitted it, so long after it was submitted as it said; lateness is from that moment to its arrival at
the worker. So the way to the broker is part of it, and jobs are submitted no faster than the broker reads them
(waits.h). Arrival before that moment is early, and nothing can explain it.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks import figures, flows, procfs, targets
from benchmarks.figures import Figure, Sample
from benchmarks.flows import FLOW_WINDOW, TURNS, Standing, take_turns
from benchmarks.load import load
from benchmarks.scenario import Setting


@dataclass(frozen=True, slots=True)
class Policies:
    """Jobs with policies beside plain ones."""

    name: str
    window: int
    bar: float | None = None
    jobs: int = 200_000
    connections: int = 10
    queues: int = 1_000
    keys: int = 10_000
    priorities: int = 10
    backoff_ms: int = 1_000
    body_bytes: int = 32
    rounds_max: int = 100

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """Both, in turns."""
        jobs = setting.scaled(self.jobs, self.jobs // 3) // TURNS
        with contextlib.ExitStack() as stack:

            def stand_by(label: str, queues: tuple[int, int] | None) -> Standing:
                target = stack.enter_context(targets.broker(setting.broker))
                opened = load(target, body_bytes=self.body_bytes, connections=self.connections, dialect="native",
                              queues=queues)
                return Standing(label, target, stack.enter_context(opened), jobs)

            each = -(-self.queues // self.connections)
            standing = [stand_by("plain", None), stand_by("policies", (self.queues, each))]
            standing[1].peers.policy(
                queues=self.queues, keys=self.keys, priorities=self.priorities, backoff_ms=self.backoff_ms
            )
            yield from take_turns(standing, self.window)

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """CPU, rate and latency beside plain jobs."""
        title = f"{self.window:,} in flight, {self.queues:,} queues, {self.keys:,} keys"

        def beside_plain(name: str, key: str, unit: str, bar: float | None = None) -> Figure:
            return Figure(
                scenario=self.name,
                name=f"{title}: {name}",
                value=figures.median(samples, "policies", key),
                unit=unit,
                beside=figures.median(samples, "plain", key),
                ratio=figures.ratio(samples, "policies", "plain", key),
                bar=bar,
                note="beside: plain native jobs" if name.startswith("CPU") else "",
            )

        return [
            beside_plain("CPU per job", "cpu_us", "us", self.bar),
            beside_plain("jobs per second", "jobs_per_s", "/s"),
            beside_plain("latency p50", "p50_ms", "ms"),
            beside_plain("latency p99", "p99_ms", "ms"),
        ]


@dataclass(frozen=True, slots=True)
class Tenants:
    """A tenant with one job at a time: alone, and beside one that has a hundred thousand waiting."""

    name: str = "tenants"
    jobs: int = 1_000
    crowd: int = 100_000
    length_us: int = 20_000
    connections: int = 20
    bar: float = 2.0
    rounds_max: int = 3

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """Both, in turns; of one round all waits together."""
        turns = setting.scaled(TURNS, 2)
        jobs = setting.scaled(self.jobs, self.jobs * 2 // 5) // turns
        few = 3 * self.connections
        sides = {"alone": (few, 1), "beside": (setting.scaled(self.crowd, max(few, self.crowd // 10)), 0)}
        waits: dict[str, list[float]] = {label: [] for label in sides}
        busy: dict[str, list[float]] = {label: [] for label in sides}
        with contextlib.ExitStack() as stack:
            standing = {}
            for label in sides:
                target = stack.enter_context(targets.broker(setting.broker))
                opened = load(target, connections=self.connections, dialect="native", queues=(2, 2))
                standing[label] = stack.enter_context(opened)
            for _ in range(turns):
                for label, (crowd, crowd_queue) in sides.items():
                    report = standing[label].tenant(jobs, crowd, self.length_us, crowd_queue)
                    waits[label] += report["waits_ms"]
                    busy[label].append(report["busy"])
        for label, (crowd, _) in sides.items():
            yield {
                "target": label,
                "jobs": len(waits[label]),
                "crowd": crowd,
                "busy_percent": 100 * sum(busy[label]) / turns,
                "p50_ms": figures.percentile(waits[label], 50),
                "p99_ms": figures.percentile(waits[label], 99),
                "max_ms": max(waits[label]),
                "waits_ms": waits[label],
            }

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """The waits, beside those that it has alone."""
        crowd = max(int(sample["crowd"]) for sample in samples)

        def beside_alone(rank: str, bar: float | None, note: str) -> Figure:
            key = f"{rank}_ms"
            return Figure(
                scenario=self.name,
                name=f"one job at a time beside {crowd:,} of another tenant: wait, {rank}",
                value=figures.median(samples, "beside", key),
                unit="ms",
                beside=figures.median(samples, "alone", key),
                ratio=figures.ratio(samples, "beside", "alone", key),
                bar=bar,
                note=note,
            )

        busy, busy_alone = (figures.median(samples, label, "busy_percent") for label in ("beside", "alone"))
        return [
            beside_alone("p50", None, f"workers busy {busy:.1f} % of the time, alone {busy_alone:.1f} %"),
            beside_alone("p99", self.bar, "beside: alone, workers as busy"),
        ]


@dataclass(frozen=True, slots=True)
class Delayed:
    """Delayed jobs, due evenly over a time."""

    name: str = "delayed"
    jobs: int = 1_000_000
    jobs_quick: int = 100_000
    spread_ms: int = 60_000
    spread_quick_ms: int = 6_000
    connections: int = 4
    warm_up_jobs: int = 20_000
    body_bytes: int = 32
    p99_bar_ms: float = 10.0
    memory_bar_bytes: float = 1024
    rounds_max: int = 2

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """Fill, wait for rest, read the memory; then take them as they come."""
        jobs = setting.scaled(self.jobs, self.jobs_quick)
        spread_ms = setting.scaled(self.spread_ms, self.spread_quick_ms)
        with (
            targets.broker(setting.broker) as target,
            load(target, body_bytes=self.body_bytes, connections=self.connections, dialect="native") as peers,
        ):
            warm_up_s = peers.flow(self.warm_up_jobs, FLOW_WINDOW)["seconds"]
            before = procfs.wait_until_quiet(target.pid)
            lead_ms = int(warm_up_s / self.warm_up_jobs * jobs * 1000 * LEAD + LEAD_MS_MIN)
            filled = peers.delay(jobs, spread_ms, lead_ms)
            memory = flows.memory_of(target, before, jobs, self.body_bytes)
            begun = target.usage()
            report = peers.due(FLOW_WINDOW)
            used = target.usage() - begun
            yield {
                "target": "relet",
                "jobs": jobs,
                "spread_ms": spread_ms,
                "early": report["early"],
                "submit_s": filled["seconds"],
                "left_ms": filled["left_ms"],
                "cpu_us": used.cpu_ns / 1000 / jobs,
                **memory,
                **{f"late_{name}_ms": value for name, value in report["late_ms"].items()},
            }

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """Lateness, how many were early, memory."""
        jobs, seconds = int(samples[0]["jobs"]), float(samples[0]["spread_ms"]) / 1000
        title = f"{jobs:,} delayed jobs due over {seconds:g} s"

        def figure(name: str, key: str, unit: str, bar: float | None = None, note: str = "") -> Figure:
            return Figure(
                scenario=self.name,
                name=f"{title}: {name}",
                value=figures.median(samples, "relet", key),
                unit=unit,
                bar=bar,
                note=note,
            )

        return [
            Figure(
                scenario=self.name,
                name=f"{title}: jobs that came early",
                value=sum(figures.values(samples, "relet", "early")),
                unit="",
                bar=0,
                note=f"of {len(samples) * jobs:,}",
            ),
            figure("late, p50", "late_p50_ms", "ms"),
            figure("late, p99", "late_p99_ms", "ms", self.p99_bar_ms),
            figure("late, max", "late_max_ms", "ms"),
            figure("memory per job beyond its body", "memory_bytes", "B", self.memory_bar_bytes),
            figure("CPU to take each of them", "take_us", "us"),
            figure("CPU per job, from due to told", "cpu_us", "us"),
        ]


LEAD = 3
"""The first delayed job is due after as long as this many times as many jobs take to flow, from submission to outcome:
submitting is a part of that, but a broker that grows takes longer, and its memory must be read in between ..."""
LEAD_MS_MIN = 3_000
"""... which takes so long, however few there are."""

POLICIES: tuple[Policies | Tenants | Delayed, ...] = (
    Policies("policies", 200, bar=1.5), Policies("policies1000", 1000), Tenants(), Delayed(),
)
