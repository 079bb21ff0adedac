"""Jobs that flow: what one costs the broker when there is one, when there are hundreds, and past a million others.

`Pipelined` compares with the proxy: so many jobs under way at any time, bodies of one size; one at a time it is
latency that counts. Each dialect has a broker of its own, the same connections (a client and four workers; one worker
where one job is under way at a time) and as many unspent asks, shared out evenly among the workers.

`Waiting` and `Running` compare the broker with itself: the same flow, with a thousand jobs open and with a million.
What is open when the flow begins is open when it ends, so both see a steady state.

What is compared stands ready together and takes turns in short flows (a process whose turn it is not sleeps). A
round's figure is the mean of its turns: what is rare but dear, like laying out a table anew, is part of a job's cost.

Start-up jobs, which are not counted, come first: memory is touched, connections are made, Python has specialised its
byte code.
"""

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks import figures, procfs, targets
from benchmarks.figures import Figure, Sample
from benchmarks.load import Dialect, Load, apart, load
from benchmarks.scenario import Setting

KIB = 1024

HOLD_WINDOW = 1000
"""Jobs under way while a million are taken: as many asks are unspent at any time."""
FLOW_WINDOW = 200
"""Jobs under way in the flow past others."""
TURNS = 5
"""In one round those that are compared take so many turns: what disturbs the machine for a second disturbs all."""
NATIVE = "relet-native"
"""The broker that is spoken to natively, among the samples' targets."""

PERCENTILES = frozenset({"p50_ms", "p99_ms", "max_ms"})


class NotTakenError(RuntimeError):
    """The broker left jobs unread that it should have taken."""


def flow(target: targets.Target, peers: Load, jobs: int, window: int) -> Sample:
    """Let jobs flow. What is read of the target lies between the two ends of this flow."""
    before, load_before = target.usage(), procfs.usage(peers.pid)
    report = peers.flow(jobs, window)
    used, load_used = target.usage() - before, procfs.usage(peers.pid) - load_before
    latency = report["latency_ms"]
    return {
        "jobs": jobs,
        "cpu_us": used.cpu_ns / 1000 / jobs,
        "user_us": used.user_s * 1e6 / jobs,
        "system_us": used.system_s * 1e6 / jobs,
        "load_cpu_us": load_used.cpu_ns / 1000 / jobs,
        "cores_used": used.cpu_ns / 1e9 / report["seconds"],
        "load_cores_used": load_used.cpu_ns / 1e9 / report["seconds"],
        "jobs_per_s": jobs / report["seconds"],
        "wakeups_per_job": used.wakeups / jobs,
        "p50_ms": latency["p50"],
        "p99_ms": latency["p99"],
        "max_ms": latency["max"],
    }


@dataclass(frozen=True, slots=True)
class Standing:
    """A target that stands ready for its turns, with the load that is connected to it."""

    label: str
    target: targets.Target
    peers: Load
    turn_jobs: int


def take_turns(standing: Sequence[Standing], window: int) -> list[Sample]:
    """A start-up flow for each, then TURNS flows in turns, there and back again, so that none always comes first. One
    sample for each: the mean, of percentiles the median.
    """
    for each in standing:
        each.peers.flow(each.turn_jobs, window)
    turns: dict[str, list[Sample]] = {each.label: [] for each in standing}
    for turn in range(TURNS):
        for each in standing if turn % 2 == 0 else reversed(standing):
            turns[each.label].append(flow(each.target, each.peers, each.turn_jobs, window))
    return [{"target": label, **together(samples), "turns": samples} for label, samples in turns.items()]


def together(turns: Sequence[Sample]) -> Sample:
    """The turns of one round as one sample. All have as many jobs: the mean of a cost per job is that of all jobs."""

    def average(key: str) -> float:
        of_turns = [float(turn[key]) for turn in turns]
        return statistics.median(of_turns) if key in PERCENTILES else statistics.fmean(of_turns)

    jobs = sum(turn["jobs"] for turn in turns)
    return {"jobs": jobs, **{key: average(key) for key in turns[0] if key != "jobs"}}


@dataclass(frozen=True, slots=True)
class Pipelined:
    """Jobs that go through, `window` at a time: the proxy, the broker, and its plain pump where that has a bar.

    With `native`, the broker once more, in the native dialect.
    """

    name: str
    title: str
    window: int
    body_bytes: int
    jobs: int
    cpu_bar: float | None = None
    p50_bar: float | None = None
    python_bar: float | None = None
    native: bool = False
    native_bar: float | None = None
    in_two_processes: bool = False
    rounds_max: int = 100

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """The proxy, the broker, the broker with the plain pump, the broker in the native dialect."""
        jobs = setting.scaled(self.jobs, self.jobs // 3) // TURNS
        with contextlib.ExitStack() as stack:

            def stand_by(
                starting: AbstractContextManager[targets.Target], turn_jobs: int, dialect: Dialect = "2010"
            ) -> Standing:
                target = stack.enter_context(starting)
                opened: AbstractContextManager[Load]
                opened = (apart if self.in_two_processes else load)(
                    target, body_bytes=self.body_bytes, dialect=dialect
                )
                label = NATIVE if dialect == "native" else target.name
                return Standing(label, target, stack.enter_context(opened), turn_jobs)

            standing = [stand_by(targets.proxy(), jobs), stand_by(targets.broker(setting.broker), jobs)]
            if self.python_bar is not None:
                standing.append(stand_by(targets.broker(setting.broker, pump="python"), jobs // 3))
            if self.native:
                standing.append(stand_by(targets.broker(setting.broker), jobs, "native"))
            yield from take_turns(standing, self.window)

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """CPU, rate and latency beside the proxy's."""

        def beside_proxy(name: str, key: str, unit: str, bar: float | None = None, target: str = "relet") -> Figure:
            return Figure(
                scenario=self.name,
                name=f"{self.title}: {name}",
                value=figures.median(samples, target, key),
                unit=unit,
                beside=figures.median(samples, "proxy", key),
                ratio=figures.ratio(samples, target, "proxy", key),
                bar=bar,
                note="beside: the proxy" if name.startswith("CPU") else "",
            )

        made = [beside_proxy("CPU per job", "cpu_us", "us", self.cpu_bar)]
        if self.python_bar is not None:
            made.append(
                beside_proxy("CPU per job, pump in plain Python", "cpu_us", "us", self.python_bar, "relet-python")
            )
        made.append(beside_proxy("jobs per second", "jobs_per_s", "/s"))
        made.append(beside_proxy("latency p50", "p50_ms", "ms", self.p50_bar))
        made.append(beside_proxy("latency p99", "p99_ms", "ms"))
        if self.native:
            made.append(beside_proxy("CPU per job, native dialect", "cpu_us", "us", self.native_bar, NATIVE))
            made.append(beside_proxy("jobs per second, native dialect", "jobs_per_s", "/s", target=NATIVE))
            made.append(beside_proxy("latency p50, native dialect", "p50_ms", "ms", target=NATIVE))
            made.append(beside_proxy("latency p99, native dialect", "p99_ms", "ms", target=NATIVE))
        return made


def memory_of(target: targets.Target, before: procfs.Usage, jobs: int, body_bytes: int) -> Sample:
    """What `jobs` jobs that were just submitted hold and have cost. Raises NotTakenError."""
    after = procfs.wait_until_quiet(target.pid)
    if unread := procfs.unread_bytes(target.clients_port):
        raise NotTakenError(f"{unread:,} bytes of jobs were not read by {target.name}: {target.last_words()}")
    return {
        "memory_bytes": (after.rss_bytes - before.rss_bytes) / jobs - body_bytes,
        "rss_mib": after.rss_bytes / KIB / KIB,
        "take_us": (after.cpu_ns - before.cpu_ns) / 1000 / jobs,
    }


def _in_order(samples: Sequence[Sample]) -> list[str]:
    return list(dict.fromkeys(str(sample["target"]) for sample in samples))


def _growth(name: str, title: str, samples: Sequence[Sample], bar: float) -> list[Figure]:
    """CPU per job with ever more jobs open, each beside the fewest."""
    fewest, *more = _in_order(samples)
    most = more[-1]
    return [
        *(
            Figure(
                scenario=name,
                name=f"past {target} {title}: CPU per job",
                value=figures.median(samples, target, "cpu_us"),
                unit="us",
                beside=figures.median(samples, fewest, "cpu_us"),
                ratio=figures.ratio(samples, target, fewest, "cpu_us"),
                bar=bar if target == most else None,
                note=f"beside: past {fewest}",
            )
            for target in more
        ),
        Figure(
            scenario=name,
            name=f"{most} {title}: memory per job beyond its body",
            value=figures.median(samples, most, "memory_bytes"),
            unit="B",
            bar=1024,
            note="aim: 500 B",
        ),
        Figure(
            scenario=name,
            name=f"{most} {title}: CPU to take each of them",
            value=figures.median(samples, most, "take_us"),
            unit="us",
        ),
    ]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Jobs that flow past others that wait: in at the end of the queue, out at its head."""

    name: str = "waiting"
    counts: Sequence[int] = (1_000, 100_000, 1_000_000)
    jobs: int = 250_000
    body_bytes: int = 32
    bar: float = 1.3
    rounds_max: int = 5

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """A broker for each count, the fewest first."""
        with contextlib.ExitStack() as stack:
            ready = [_with_others(stack, self, setting, count, Load.fill) for count in self.counts]
            samples = take_turns([standing for standing, _ in ready], FLOW_WINDOW)
            for sample, (_, memory) in zip(samples, ready, strict=True):
                yield {**sample, **memory}

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """CPU per job against the fewest; memory."""
        return _growth(self.name, "waiting", samples, self.bar)


@dataclass(frozen=True, slots=True)
class Running:
    """Jobs that flow while others run: each that starts takes the place of a random one, which is answered."""

    name: str = "running"
    counts: Sequence[int] = (1_000, 1_000_000)
    jobs: int = 400_000
    body_bytes: int = 32
    bar: float = 2.0
    rounds_max: int = 5

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """A broker for each count, the fewest first; at the end all that run are answered, in random order."""
        with contextlib.ExitStack() as stack:
            ready = [_with_others(stack, self, setting, count, _hold) for count in self.counts]
            samples = take_turns([standing for standing, _ in ready], FLOW_WINDOW)
            for sample, (standing, memory) in zip(samples, ready, strict=True):
                before = standing.target.usage()
                answered = standing.peers.drain(FLOW_WINDOW)["answered"]
                answer_us = (standing.target.usage() - before).cpu_ns / 1000 / answered
                yield {**sample, **memory, "answer_us": answer_us}

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """CPU per job against the fewest; memory; the answers alone."""
        fewest, *_, most = _in_order(samples)
        return [
            *_growth(self.name, "running", samples, self.bar),
            Figure(
                scenario=self.name,
                name=f"{most} running: CPU to answer each, random order",
                value=figures.median(samples, most, "answer_us"),
                unit="us",
                beside=figures.median(samples, fewest, "answer_us"),
                ratio=figures.ratio(samples, most, fewest, "answer_us"),
            ),
        ]


def _hold(peers: Load, jobs: int) -> object:
    return peers.hold(jobs, HOLD_WINDOW)


def _with_others(
    stack: contextlib.ExitStack,
    scenario: Waiting | Running,
    setting: Setting,
    count: int,
    open_others: Callable[[Load, int], object],
) -> tuple[Standing, Sample]:
    """A broker with so many jobs open, and what it took to take them."""
    others = setting.scaled(count, max(scenario.counts[0], count // 10))
    target = stack.enter_context(targets.broker(setting.broker))
    peers = stack.enter_context(load(target, body_bytes=scenario.body_bytes))
    peers.flow(2000, FLOW_WINDOW)
    before = procfs.wait_until_quiet(target.pid)
    open_others(peers, others)
    memory = memory_of(target, before, others, scenario.body_bytes)
    return Standing(f"{others:,}", target, peers, setting.scaled(scenario.jobs, scenario.jobs // 4) // TURNS), memory


PIPELINED: tuple[Pipelined, ...] = (
    Pipelined(
        "w200", "200 in flight, 32 B", 200, 32, 200_000, cpu_bar=3.0, python_bar=12.0, native=True, native_bar=4.0
    ),
    Pipelined("w1000", "1,000 in flight, 32 B", 1000, 32, 400_000, cpu_bar=3.2, native=True, native_bar=4.0),
    Pipelined("1kib", "200 in flight, 1 KiB", 200, KIB, 100_000),
    Pipelined("64kib", "50 in flight, 64 KiB", 50, 64 * KIB, 9_000, cpu_bar=1.3),
    Pipelined("alone", "one at a time, 32 B", 1, 32, 3_000, p50_bar=1.25, native=True, in_two_processes=True),
)
