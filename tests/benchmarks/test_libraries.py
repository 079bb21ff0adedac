"""The libraries' scenarios: their programs do what they are told, and their figures are what was measured."""

import pytest
from benchmarks.figures import Sample
from benchmarks.scenario import Setting

from benchmarks import libraries


@pytest.mark.parametrize("kind", ["plain", "pool", "executor", "executor2"])
def test_pythons_own_ways_map_as_they_are_told(kind: str) -> None:
    """Two commands to one program; the results are checked there."""
    with libraries.user(kind, "same") as program:
        assert program.map(10) > 0
        assert program.map(200) > 0


@pytest.mark.parametrize("kinds", [libraries.BLOCKING, libraries.IN_LOOPS, libraries.IN_PROCESSES])
def test_jobs_go_through_client_broker_and_worker(kinds: tuple[str, str]) -> None:
    """Everything as it comes; each of the three has used CPU for it."""
    with libraries.chain(Setting(), "same", kinds) as chain:
        sample = chain.map(100)
    assert all(sample[key] > 0 for key in ("seconds", "client_us", "broker_us", "worker_us"))


def test_a_program_that_ends_is_said_with_its_last_words() -> None:
    """Which one, at what, and why: one line."""
    with (
        libraries.user("plain", "dance") as program,
        pytest.raises(libraries.UserError, match=r"^plain: ended at 3 jobs: KeyError: 'dance'$"),
    ):
        program.map(3)


def test_more_jobs_a_second_than_others_is_what_is_asked_for() -> None:
    """A floor for each of the others, the ratio taken within the rounds."""
    samples: list[Sample] = [
        {"target": target, "jobs_per_s": rate * scale, "client_us": 1.0, "broker_us": 2.0, "worker_us": 3.0}
        for scale in (1, 2, 3)
        for target, rate in (("relet", 120.0), ("asyncio", 60.0), ("pool", 100.0), ("executor", 10.0))
    ]
    pool, executor, loops, *_ = libraries.Map().figures(samples)
    assert (pool.ratio, pool.verdict) == (1.2, "MISSED")
    assert (executor.ratio, executor.verdict) == (12.0, "ok")
    assert (loops.ratio, loops.verdict) == (0.5, "ok")


@pytest.mark.parametrize(("client_us", "verdict"), [(30.0, "ok"), (36.0, "MISSED")])
def test_what_a_call_costs_is_what_it_takes_beyond_a_job(client_us: float, verdict: str) -> None:
    """Of client and worker together."""
    samples: list[Sample] = [
        {"target": "jobs", "both_us": 20.0, "jobs_per_s": 20_000.0},
        {"target": "calls", "both_us": client_us, "jobs_per_s": 15_000.0},
    ]
    cost, rate = libraries.Calls().figures(samples)
    assert (cost.value, cost.verdict) == (client_us - 20, verdict)
    assert rate.ratio == 0.75


@pytest.mark.parametrize(("seconds", "verdict"), [(50.4, "ok"), (50.6, "MISSED")])
def test_naps_take_as_long_as_a_loop(seconds: float, verdict: str) -> None:
    """In percent of the loop's time, on both sides of the bar."""
    samples: list[Sample] = [
        {"target": "loop", "jobs": 5000, "seconds": 50.0},
        {"target": "relet", "jobs": 5000, "seconds": seconds},
    ]
    (figure,) = libraries.Naps().figures(samples)
    assert figure.value == pytest.approx((seconds / 50 - 1) * 100)
    assert figure.verdict == verdict


def test_as_many_jobs_a_second_as_pythons_own_processes_are_asked_for() -> None:
    """The ratio is taken within the rounds."""
    samples: list[Sample] = [
        {"target": target, "jobs_per_s": rate * scale}
        for scale in (1, 2, 3)
        for target, rate in (("executor", 1_000.0), ("relet", 990.0))
    ]
    (figure,) = libraries.Crunch().figures(samples)
    assert (figure.ratio, figure.verdict) == (pytest.approx(0.99), "MISSED")
