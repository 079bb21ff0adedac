"""What it costs to keep jobs on disk: the same flows through a broker in memory and one with `--store`, which syncs
with each commit, and the proxy.

The files lie in `benchmarks/build/`, on the disk that the checkout is on (a RAM disk would measure nothing). One at a
time, what a store adds is quoted in syncs of that disk, which are timed in the same run: writes of 4 KiB at the end of
a file, each followed by fdatasync(2).
"""

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import figures, targets
from benchmarks.figures import Figure, Sample
from benchmarks.flows import NATIVE, TURNS, Standing, take_turns
from benchmarks.load import BUILD, Dialect, load
from benchmarks.scenario import Setting

SYNCS = 200
"""Syncs that are timed in a round."""
PAGE = 4096
KEPT, KEPT_NATIVE = "relet-store", "relet-store-native"


def sync_ms(folder: Path) -> float:
    """How long this folder's disk takes to write 4 KiB and sync them, milliseconds: the median of many."""
    took = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNCS):
            file.write(bytes(PAGE))
            began = time.perf_counter()
            file.flush()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e3


@dataclass(frozen=True, slots=True)
class Durable:
    """Jobs that go through, `window` at a time, in memory and kept on disk."""

    name: str
    title: str
    window: int
    jobs: int
    cpu_bar: float | None = None
    rate_floor: float | None = None
    syncs_bar: float | None = None
    connections: int = 4
    body_bytes: int = 32
    rounds_max: int = 100

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """The proxy, and brokers in memory and with a store, in both dialects."""
        jobs = setting.scaled(self.jobs, self.jobs // 3) // TURNS
        BUILD.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=BUILD)))

            def stand_by(
                label: str, starting: AbstractContextManager[targets.Target], dialect: Dialect = "2010"
            ) -> Standing:
                target = stack.enter_context(starting)
                peers = load(target, body_bytes=self.body_bytes, dialect=dialect, connections=self.connections)
                return Standing(label, target, stack.enter_context(peers), jobs)

            def kept(name: str) -> AbstractContextManager[targets.Target]:
                options = (*targets.LEASE_LONG, "--store", str(folder / name))
                return targets.broker(setting.broker, options=options)

            standing = [
                stand_by("proxy", targets.proxy()),
                stand_by("relet", targets.broker(setting.broker)),
                stand_by(KEPT, kept("2010.db")),
                stand_by(NATIVE, targets.broker(setting.broker), "native"),
                stand_by(KEPT_NATIVE, kept("native.db"), "native"),
            ]
            samples = take_turns(standing, self.window)
            sync = sync_ms(folder)
        yield from ({**sample, "sync_ms": sync} for sample in samples)

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """CPU beside the proxy's, rate beside that in memory; one at a time, the latency in syncs."""
        made = []
        for dialect, here, memory in (("2010", KEPT, "relet"), ("native", KEPT_NATIVE, NATIVE)):
            made += [
                self._figure(f"CPU per job, {dialect}", samples, here, "proxy", "cpu_us", "us", self.cpu_bar),
                self._figure(
                    f"jobs per second, {dialect}", samples, here, memory, "jobs_per_s", "/s", None, self.rate_floor
                ),
                self._figure(f"latency p50, {dialect}", samples, here, memory, "p50_ms", "ms"),
                self._figure(f"latency p99, {dialect}", samples, here, memory, "p99_ms", "ms"),
            ]
            if self.syncs_bar is not None:
                made.append(self._in_syncs(dialect, samples, here, memory))
        return made

    def _figure(
        self, name: str, samples: Sequence[Sample], target: str, beside: str, key: str, unit: str,
        bar: float | None = None, floor: float | None = None,
    ) -> Figure:
        return Figure(
            scenario=self.name,
            name=f"{self.title}, kept on disk: {name}",
            value=figures.median(samples, target, key),
            unit=unit,
            beside=figures.median(samples, beside, key),
            ratio=figures.ratio(samples, target, beside, key),
            bar=bar,
            floor=floor,
            note="beside: the proxy" if beside == "proxy" else "beside: in memory",
        )

    def _in_syncs(self, dialect: str, samples: Sequence[Sample], target: str, beside: str) -> Figure:
        rounds = zip(
            figures.values(samples, target, "p50_ms"), figures.values(samples, beside, "p50_ms"),
            figures.values(samples, target, "sync_ms"), strict=True,
        )
        added = [(kept - memory) / sync for kept, memory, sync in rounds]
        return Figure(
            scenario=self.name,
            name=f"{self.title}, kept on disk: added latency p50 in syncs of the disk, {dialect}",
            value=statistics.median(added),
            unit="",
            bar=self.syncs_bar,
            note=f"a sync takes {figures.median(samples, target, 'sync_ms'):.3f} ms",
        )


DURABLE = (
    Durable("store200", "200 in flight, 32 B", 200, 150_000, cpu_bar=6),
    Durable("store1000", "1,000 in flight, 32 B", 1_000, 300_000, cpu_bar=5, rate_floor=0.5),
    Durable("store5000", "5,000 in flight, 32 B", 5_000, 400_000, cpu_bar=5, connections=8),
    Durable("storealone", "one at a time, 32 B", 1, 5_000, syncs_bar=2.5),
)
