"""What a test of a user's costs that has jobs, faults and time to pass: `relet.testing.Bench`, in this process.

A hundred jobs of 0.2 s for three workers, of which one dies and is restarted, one freezes for twenty seconds, and one
loses its connection and some answers; the client loses its connection, too. Then time passes, until it is ten minutes.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks import figures
from benchmarks.figures import Figure, Sample
from benchmarks.scenario import Setting
from relet.testing import Bench

JOBS = 100
MINUTES = 10
TESTS = 21
"""In a round; its figure is their median. The first one loads what is loaded when it is first used."""


def backwards(body: bytes) -> bytes:
    """A handler."""
    return body[::-1]


def user_test() -> None:
    """One test, whose outcome is checked."""
    with Bench(tries=3, timeout=2.0) as bench:
        client = bench.client()
        first, second, third = (bench.worker(backwards, takes=0.2) for _ in range(3))
        bench.at(2.1, third.die)
        bench.at(3.0, second.freeze, 20)
        bench.at(4.0, third.restart)
        bench.at(5.0, first.cut)
        bench.at(6.0, first.drop, 3)
        bench.at(7.0, client.cut)
        second.duplicate(5)
        futures = [client.submit(b"%d" % number) for number in range(JOBS)]
        assert [future.result() for future in futures] == [(b"%d" % number)[::-1] for number in range(JOBS)]
        bench.advance(MINUTES * 60 - bench.now)
        assert bench.counters.attempts_lost + bench.counters.attempts_expired >= 3


@dataclass(frozen=True, slots=True)
class UserTest:
    """Its real time, and the processor's."""

    name: str = "usertest"
    bar_ms: float = 50.0
    rounds_max: int = 5

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """Several in a row."""
        took: list[tuple[float, float]] = []
        for _ in range(1 + setting.scaled(TESTS, TESTS // 3)):
            began, used = time.perf_counter(), time.process_time()
            user_test()
            took.append(((time.perf_counter() - began) * 1e3, (time.process_time() - used) * 1e3))
        real, processor = (statistics.median(each) for each in zip(*took[1:], strict=True))
        yield {"target": "relet", "real_ms": real, "cpu_ms": processor}

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """The median of the rounds."""
        title = f"a test with {JOBS} simulated jobs, faults and {MINUTES} minutes"
        return [
            Figure(
                scenario=self.name,
                name=f"{title}: real time",
                value=figures.median(samples, "relet", "real_ms"),
                unit="ms",
                bar=self.bar_ms,
            ),
            Figure(
                scenario=self.name, name=f"{title}: CPU", value=figures.median(samples, "relet", "cpu_ms"), unit="ms"
            ),
        ]


USER_TESTS: tuple[UserTest, ...] = (UserTest(),)
