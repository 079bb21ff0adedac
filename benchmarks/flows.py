"""Jobs that flow: what one costs the broker when there is one, when there are hundreds, and past a million others.

`Pipelined` compares with the proxy: so many jobs under way at any time, bodies of one size; one at a time it is
latency that counts. `Waiting` and `Running` compare the broker with itself: the same flow, with a thousand jobs open
and with a million. What is open when the flow begins is open when it ends, so both see a steady state.

Start-up jobs, which are not counted, come first: memory is touched, connections are made, Python has specialised its
byte code.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks import figures, procfs, targets
from benchmarks.figures import Figure, Sample
from benchmarks.load import Load, load
from benchmarks.scenario import Setting

KIB = 1024

HOLD_WINDOW = 1000
"""Jobs under way while a million are taken: as many asks are unspent at any time."""
FLOW_WINDOW = 200
"""Jobs under way in the flow past others."""


TURNS = 5
"""In one round proxy and broker take so many turns: what disturbs the machine for a second disturbs both."""


class NotTakenError(RuntimeError):
    """The broker left jobs unread that it should have taken."""


def flow(target: targets.Target, peers: Load, jobs: int, window: int) -> Sample:
    """Let jobs flow. What is read of the target lies between the two ends of this flow."""
    before, load_before = target.usage(), procfs.usage(peers.pid)
    report = peers.flow(jobs, window)
    used, load_used = target.usage() - before, procfs.usage(peers.pid) - load_before
    latency = report["latency_ms"]
    return {
        "target": target.name,
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
class Pipelined:
    """Jobs that go through, `window` at a time: the proxy, the broker, and its plain pump where that has a bar."""

    name: str
    title: str
    window: int
    body_bytes: int
    jobs: int
    cpu_bar: float | None = None
    p50_bar: float | None = None
    python_bar: float | None = None
    connections: int = 4
    rounds_max: int = 100

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """The proxy, the broker, the broker with the plain pump, in turns; all stand ready from the beginning."""
        jobs = setting.scaled(self.jobs, self.jobs // 3) // TURNS
        with contextlib.ExitStack() as stack:
            ready: list[tuple[targets.Target, Load, int]] = []

            def stand_by(starting: AbstractContextManager[targets.Target], jobs: int) -> None:
                target = stack.enter_context(starting)
                peers = load(target, body_bytes=self.body_bytes, connections=self.connections)
                ready.append((target, stack.enter_context(peers), jobs))

            stand_by(targets.proxy(), jobs)
            stand_by(targets.broker(setting.broker), jobs)
            if self.python_bar is not None:
                stand_by(targets.broker(setting.broker, pump="python"), jobs // 3)
            for _, peers, turn_jobs in ready:
                peers.flow(turn_jobs, self.window)  # start-up
            for _ in range(TURNS):
                for target, peers, turn_jobs in ready:
                    yield flow(target, peers, turn_jobs, self.window)

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
        return made


def _memory(target: targets.Target, before: procfs.Usage, jobs: int, body_bytes: int) -> Sample:
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
    jobs: int = 200_000
    body_bytes: int = 32
    bar: float = 1.3
    rounds_max: int = 5

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """The fewest first."""
        for count in self.counts:
            waiting = setting.scaled(count, max(self.counts[0], count // 10))
            with targets.broker(setting.broker) as target, load(target, body_bytes=self.body_bytes) as peers:
                peers.flow(2000, FLOW_WINDOW)
                before = procfs.wait_until_quiet(target.pid)
                peers.fill(waiting)
                memory = _memory(target, before, waiting, self.body_bytes)
                jobs = setting.scaled(self.jobs, self.jobs // 4)
                peers.flow(jobs // 5, FLOW_WINDOW)  # start-up
                sample = flow(target, peers, jobs, FLOW_WINDOW)
                yield {**sample, **memory, "target": f"{waiting:,}"}

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """CPU per job against the fewest; memory."""
        return _growth(self.name, "waiting", samples, self.bar)


@dataclass(frozen=True, slots=True)
class Running:
    """Jobs that flow while others run: each that starts takes the place of a random one, which is answered."""

    name: str = "running"
    counts: Sequence[int] = (1_000, 1_000_000)
    jobs: int = 400_000
    """A table of a million entries is laid out anew every few hundred thousand changes: that belongs to their cost."""
    body_bytes: int = 32
    bar: float = 2.0
    rounds_max: int = 5

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """The fewest first; at the end all that run are answered, in random order."""
        for count in self.counts:
            running = setting.scaled(count, max(self.counts[0], count // 10))
            with targets.broker(setting.broker) as target, load(target, body_bytes=self.body_bytes) as peers:
                peers.flow(2000, FLOW_WINDOW)
                before = procfs.wait_until_quiet(target.pid)
                peers.hold(running, HOLD_WINDOW)
                memory = _memory(target, before, running, self.body_bytes)
                jobs = setting.scaled(self.jobs, self.jobs // 4)
                peers.flow(jobs // 5, FLOW_WINDOW)  # start-up
                sample = flow(target, peers, jobs, FLOW_WINDOW)
                ending = target.usage()
                peers.drain(FLOW_WINDOW)
                memory["answer_us"] = (target.usage().cpu_ns - ending.cpu_ns) / 1000 / running
                yield {**sample, **memory, "target": f"{running:,}"}

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """CPU per job against the fewest; memory; the answers alone."""
        made = _growth(self.name, "running", samples, self.bar)
        fewest, *_, most = _in_order(samples)
        made.append(
            Figure(
                scenario=self.name,
                name=f"{most} running: CPU to answer each, random order",
                value=figures.median(samples, most, "answer_us"),
                unit="us",
                beside=figures.median(samples, fewest, "answer_us"),
                ratio=figures.ratio(samples, most, fewest, "answer_us"),
            )
        )
        return made


PIPELINED: tuple[Pipelined, ...] = (
    Pipelined("w200", "200 in flight, 32 B", 200, 32, 200_000, cpu_bar=3.0, python_bar=12.0),
    Pipelined("w1000", "1,000 in flight, 32 B", 1000, 32, 400_000, cpu_bar=3.2),
    Pipelined("1kib", "200 in flight, 1 KiB", 200, KIB, 100_000),
    Pipelined("64kib", "50 in flight, 64 KiB", 50, 64 * KIB, 9_000, cpu_bar=1.3),
    Pipelined("alone", "one at a time, 32 B", 1, 32, 3_000, p50_bar=1.25, connections=1),
)
