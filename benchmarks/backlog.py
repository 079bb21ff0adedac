"""Backlogs on disk: more waiting jobs than memory would hold with their bodies, and how soon a broker that was killed
serves again.

The files lie in `benchmarks/build/`, as those of `durable` do; the largest takes up to 17 GB there.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import figures, procfs, targets
from benchmarks.figures import Figure, Sample
from benchmarks.flows import FLOW_WINDOW, KIB, flow
from benchmarks.load import BUILD, Load, load
from benchmarks.scenario import Setting

FILL_BYTES = 64 * KIB * KIB
"""Submitted at a time: what the broker has not read yet lies in the load generator."""
FLOW_BYTES = 32 * KIB * KIB
"""Of a flow, because its outcomes may all become safe at once, and a client's outbox holds 64 MiB."""
FLOWS = 5
READ_WITHIN_S = 300.0
POLL_S = 0.02


class NotReadError(RuntimeError):
    """The broker did not read what was submitted."""


def _options(store: Path) -> tuple[str, ...]:
    return (*targets.LEASE_LONG, "--store", str(store), "--jobs-max", "4000000", "--jobs-bytes-max", "32GiB")


def _fill(target: targets.Target, peers: Load, jobs: int, body_bytes: int) -> None:
    """Submits them, some at a time, and waits until the broker has them. Raises NotReadError."""
    some = max(1, FILL_BYTES // (body_bytes + 64))
    deadline = time.monotonic() + READ_WITHIN_S * (1 + jobs * body_bytes / 2**30)
    for begin in range(0, jobs, some):
        peers.fill(min(some, jobs - begin))
        while procfs.unread_bytes(target.clients_port):
            if time.monotonic() > deadline:
                raise NotReadError(f"{target.name} does not read what was submitted: {target.last_words()}")
            time.sleep(POLL_S)


def _held_bytes(pid: int, name: str) -> int:
    return procfs.field((Path("/proc") / str(pid) / "status").read_text(), name) * KIB


@contextlib.contextmanager
def _killed(setting: Setting, store: Path, jobs: int, body_bytes: int) -> Iterator[Sample]:
    """A broker took these jobs and let some flow past them; its figures. At the end it is killed."""
    with targets.broker(setting.broker, options=_options(store)) as target:
        idle_bytes = procfs.wait_until_quiet(target.pid).rss_bytes
        with load(target, body_bytes=body_bytes, dialect="native") as peers:
            peers.flow(2000, FLOW_WINDOW)
            before, begun = procfs.wait_until_quiet(target.pid), time.monotonic()
            _fill(target, peers, jobs, body_bytes)
            taken_s = time.monotonic() - begun
            after = procfs.wait_until_quiet(target.pid)
            each = max(1000, min(FLOW_BYTES // body_bytes, 20_000))
            flows = [flow(target, peers, each, FLOW_WINDOW) for _ in range(FLOWS)]
            yield {
                "jobs": jobs,
                "idle_bytes": idle_bytes,
                "taken_per_s": jobs / taken_s,
                "take_us": (after.cpu_ns - before.cpu_ns) / 1000 / jobs,
                "rss_mib": _held_bytes(target.pid, "VmRSS") / KIB / KIB,
                "rss_most_mib": _held_bytes(target.pid, "VmHWM") / KIB / KIB,
                "file_bytes": sum(it.stat().st_size for it in store.parent.iterdir()) / jobs,
                "cpu_us": sum(it["cpu_us"] for it in flows) / FLOWS,
                "jobs_per_s": FLOWS / sum(1 / it["jobs_per_s"] for it in flows),
            }
        target.process.kill()
        target.process.wait()


def _restarted(setting: Setting, store: Path, jobs: int, idle_bytes: int) -> Sample:
    """What the next broker takes until it serves; its memory beyond that of one that has no jobs."""
    begun = time.monotonic()
    with targets.broker(setting.broker, options=_options(store)) as target:
        serves_s = time.monotonic() - begun
        used = procfs.wait_until_quiet(target.pid)
        return {
            "serves_s": serves_s,
            "load_s": used.cpu_ns / 1e9,
            "held_bytes": (used.rss_bytes - idle_bytes) / jobs,
            "held_most_bytes": (_held_bytes(target.pid, "VmHWM") - idle_bytes) / jobs,
        }


@dataclass(frozen=True, slots=True)
class Backlog:
    """Jobs that wait in a store, others that flow past them, a kill, and a start."""

    name: str
    title: str
    jobs: int
    body_bytes: int
    quick: int
    memory_mib_bar: float | None = None
    serves_bar: float | None = None
    held_bar: float | None = None
    rounds_max: int = 1

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """One broker, killed, and the next."""
        jobs = setting.scaled(self.jobs, self.quick)
        BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            store = Path(folder) / "jobs.db"
            with _killed(setting, store, jobs, self.body_bytes) as sample:
                pass
            yield {"target": f"{jobs:,}", **sample, **_restarted(setting, store, jobs, sample["idle_bytes"])}

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """Memory, throughput, the start."""
        (target,) = dict.fromkeys(str(sample["target"]) for sample in samples)

        def made(name: str, key: str, unit: str, bar: float | None = None, note: str = "") -> Figure:
            value = figures.median(samples, target, key)
            title = f"{target} waiting, {self.title}, in a store: {name}"
            return Figure(scenario=self.name, name=title, value=value, unit=unit, bar=bar, note=note)

        return [
            made("memory, at most", "rss_most_mib", "MiB", self.memory_mib_bar),
            made("taken per second", "taken_per_s", "/s"),
            made("CPU to take each of them", "take_us", "us"),
            made("jobs per second past them", "jobs_per_s", "/s"),
            made("CPU per job past them", "cpu_us", "us"),
            made("file, per job", "file_bytes", "B"),
            made("a start after kill -9: until it serves", "serves_s", "s", self.serves_bar),
            made("a start after kill -9: CPU", "load_s", "s"),
            made("a start after kill -9: memory per job", "held_bytes", "B", self.held_bar),
            made("a start after kill -9: memory per job, at most", "held_most_bytes", "B"),
        ]


BACKLOGS = (
    Backlog("backlog", "4 KiB", 2_000_000, 4 * KIB, 100_000, memory_mib_bar=2048),
    Backlog("restart32", "32 B", 1_000_000, 32, 100_000, serves_bar=6, held_bar=1024),
    Backlog("restart4kib", "4 KiB", 1_000_000, 4 * KIB, 50_000, serves_bar=6, held_bar=1024),
)
