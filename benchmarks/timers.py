"""Time: how late an expired job starts again, and what a broker does while nothing happens.

Lateness is what a worker sees: the second arrival of a job against the first plus the timeout. The broker counts from
the hand-over, a little before the first arrival; so small negative lateness is the way of the first message, and a job
is called early only when it arrives again less than a timeout after it was *submitted*, which no way can explain.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import zmq

from benchmarks import figures, procfs, targets
from benchmarks.figures import Figure, Sample
from benchmarks.load import load
from benchmarks.scenario import Setting

TIMEOUT_MS = 3000
"""Longer than it takes to hand 10,000 jobs out, so that the first expires when the last has long been dispatched."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """All of many running jobs expire, their deadlines spread over a time or (0) as close as they can be."""

    name: str
    title: str
    spread_ms: int
    p99_bar: float | None
    max_bar: float | None
    jobs: int = 10_000
    connections: int = 20
    rounds_max: int = 3

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """Once."""
        options = ("-T", f"{TIMEOUT_MS / 1000:g}")
        with (
            targets.broker(setting.broker, options=options) as target,
            load(target, connections=self.connections) as peers,
        ):
            peers.flow(2000, 100)
            before = target.usage()
            report = peers.expire(self.jobs, self.spread_ms, TIMEOUT_MS)
            used = target.usage() - before
            yield {
                "target": "relet",
                "jobs": self.jobs,
                "early": report["early"],
                "dispatched_over_ms": report["dispatched_over_ms"],
                "cpu_us": used.cpu_ns / 1000 / self.jobs,
                **{f"late_{name}_ms": value for name, value in report["late_ms"].items()},
            }

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """Lateness, and how many were early: none may be."""
        dispatched_ms = figures.median(samples, "relet", "dispatched_over_ms")

        def late(rank: str, bar: float | None, note: str = "") -> Figure:
            return Figure(
                scenario=self.name,
                name=f"{self.title}: late, {rank}",
                value=figures.median(samples, "relet", f"late_{rank}_ms"),
                unit="ms",
                bar=bar,
                note=note,
            )

        return [
            Figure(
                scenario=self.name,
                name=f"{self.title}: jobs that came early",
                value=sum(figures.values(samples, "relet", "early")),
                unit="",
                bar=0,
                note=f"of {len(samples) * self.jobs:,}",
            ),
            late("p50", None, f"dispatched within {dispatched_ms:,.0f} ms"),
            late("p99", self.p99_bar),
            late("max", self.max_bar),
        ]


@dataclass(frozen=True, slots=True)
class Idle:
    """A broker with a few peers connected and asking, and no jobs."""

    name: str = "idle"
    seconds: float = 10.0
    rounds_max: int = 1

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """Connect two clients and four workers, wait for rest, then watch."""
        with targets.broker(setting.broker) as target, zmq.Context() as context:
            clients, workers, _ = target.endpoints
            peers = [_connected(context, clients) for _ in range(2)] + [_connected(context, workers) for _ in range(4)]
            for worker in peers[2:]:
                worker.send_multipart([b"", b"x"])
            before = procfs.wait_until_quiet(target.pid)
            begun = time.monotonic()
            time.sleep(setting.scaled(int(self.seconds), 4))
            used, seconds = target.usage() - before, time.monotonic() - begun
            for peer in peers:
                peer.close(linger=0)
            yield {
                "target": "relet",
                "cpu_ms_per_s": used.cpu_ns / 1e6 / seconds,
                "main_wakeups_per_s": used.main_wakeups / seconds,
                "wakeups_per_s": used.wakeups / seconds,
            }

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """CPU and wake-ups a second. libzmq's own thread wakes for the heartbeats, one a second and connection."""

        def per_second(name: str, key: str, unit: str, bar: float | None, note: str = "") -> Figure:
            value = figures.median(samples, "relet", key)
            return Figure(scenario=self.name, name=f"idle: {name}", value=value, unit=unit, bar=bar, note=note)

        return [
            per_second("CPU per second", "cpu_ms_per_s", "ms", 2.0, "6 peers connected"),
            per_second("wake-ups of the loop per second", "main_wakeups_per_s", "", 0.2),
            per_second("wake-ups of all threads per second", "wakeups_per_s", "", None, "heartbeats"),
        ]


def _connected(context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str) -> "zmq.Socket[bytes]":
    socket = context.socket(zmq.DEALER)
    socket.connect(endpoint)
    return socket


TIMEOUTS: tuple[Timeouts, ...] = (
    Timeouts("timeouts", "10,000 timeouts over a second", 1000, p99_bar=10.0, max_bar=None),
    Timeouts("instant", "10,000 timeouts at once", 0, p99_bar=None, max_bar=150.0),
)
