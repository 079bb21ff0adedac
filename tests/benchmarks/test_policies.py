"""The scenarios of policies, and of the broker before: they run, and their figures are what was measured."""

import shlex
import shutil
from dataclasses import replace
from typing import Any

import pytest
from benchmarks.before import Before
from benchmarks.figures import Sample
from benchmarks.scenario import Setting

from benchmarks import __main__, flows, policies, targets

needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="the load generator is in C: no compiler here")

COSTS = {"jobs_per_s": 10.0, "p50_ms": 1.0, "p99_ms": 2.0}


@needs_compiler
def test_jobs_with_policies_flow_through_the_broker() -> None:
    """A thousand queues, ten workers; both sides have used CPU for their jobs."""
    scenario = replace(policies.POLICIES[0], jobs=1_500)
    plain, ours = scenario.measure(Setting())
    assert (plain["target"], ours["target"]) == ("plain", "policies")
    assert plain["jobs"] == ours["jobs"] == 1_500
    assert plain["cpu_us"] > 0
    assert ours["cpu_us"] > 0


@pytest.mark.parametrize(("cpu_us", "verdict"), [(14.9, "ok"), (15.1, "MISSED")])
def test_policies_may_cost_half_as_much_again(cpu_us: float, verdict: str) -> None:
    """On both sides of the bar."""
    samples: list[Sample] = [
        {"target": "plain", "cpu_us": 10.0, **COSTS}, {"target": "policies", "cpu_us": cpu_us, **COSTS},
    ]
    cpu, *_ = policies.Policies("name", 200, bar=1.5).figures(samples)
    assert cpu.verdict == verdict


@needs_compiler
def test_a_tenant_waits_beside_another() -> None:
    """Every wait of every turn is there, and the workers were busy."""
    scenario = policies.Tenants(jobs=10, crowd=20, length_us=2_000, connections=4)
    alone, beside = scenario.measure(Setting())
    assert (alone["target"], beside["target"]) == ("alone", "beside")
    for sample in (alone, beside):
        assert len(sample["waits_ms"]) == sample["jobs"] == 10
        assert 0 < sample["p50_ms"] <= sample["p99_ms"] <= sample["max_ms"]
        assert 0 < sample["busy_percent"] <= 100


@pytest.mark.parametrize(("p99_ms", "verdict"), [(7.9, "ok"), (8.1, "MISSED")])
def test_a_tenant_may_wait_twice_as_long_as_alone(p99_ms: float, verdict: str) -> None:
    """On both sides of the bar; the note says that the workers were as busy."""
    common: dict[str, Any] = {"p50_ms": 1.0, "crowd": 100_000, "busy_percent": 98.0}
    samples: list[Sample] = [
        {"target": "alone", "p99_ms": 4.0, **common}, {"target": "beside", "p99_ms": p99_ms, **common},
    ]
    p50, p99 = policies.Tenants().figures(samples)
    assert (p50.note, p50.verdict) == ("workers busy 98.0 % of the time, alone 98.0 %", "")
    assert p99.verdict == verdict


@needs_compiler
def test_delayed_jobs_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them come, and their memory was read before."""
    monkeypatch.setattr(policies, "LEAD_MS_MIN", 1_500)
    scenario = policies.Delayed(jobs=500, spread_ms=300, warm_up_jobs=1_000)
    (sample,) = scenario.measure(Setting())
    assert sample["jobs"] == 500
    assert sample["left_ms"] > 0
    assert sample["memory_bytes"] > -32
    assert sample["late_p50_ms"] <= sample["late_p99_ms"] <= sample["late_max_ms"]


@pytest.mark.parametrize(("late_ms", "early", "verdicts"), [(9.9, 0, ["ok", "ok"]), (10.1, 1, ["MISSED", "MISSED"])])
def test_delayed_jobs_may_be_late_by_so_much_and_never_early(late_ms: float, early: int, verdicts: list[str]) -> None:
    """Both bars, on both sides."""
    late = {f"late_{rank}_ms": late_ms for rank in ("p50", "p99", "max")}
    sample: Sample = {
        "target": "relet", "jobs": 100, "spread_ms": 60_000, "early": early, **late,
        "memory_bytes": 500.0, "take_us": 4.0, "cpu_us": 9.0,
    }
    figures = {figure.name.rpartition(": ")[2]: figure for figure in policies.Delayed().figures([sample, sample])}
    assert [figures["jobs that came early"].verdict, figures["late, p99"].verdict] == verdicts
    assert figures["jobs that came early"].note == "of 200"
    assert figures["memory per job beyond its body"].verdict == "ok"


@needs_compiler
def test_two_brokers_take_turns() -> None:
    """This one and another, in both dialects."""
    samples = [*replace(Before(), jobs=1_000).measure(Setting(against=targets.BROKER))]
    assert [sample["target"] for sample in samples] == ["relet", "relet-before", "relet-native", "relet-native-before"]
    assert all(sample["jobs"] == 1_000 and sample["cpu_us"] > 0 for sample in samples)


@pytest.mark.parametrize(("cpu_us", "verdict"), [(10.4, "ok"), (10.6, "MISSED")])
def test_a_plain_job_costs_what_it_did(cpu_us: float, verdict: str) -> None:
    """In the dialect that has become dearer; the other keeps to the bar."""
    samples: list[Sample] = [
        {"target": target, "cpu_us": cpu, **COSTS}
        for target, cpu in (
            ("relet", 10.0), ("relet-before", 10.0), ("relet-native", cpu_us), ("relet-native-before", 10.0),
        )
    ]
    verdicts = [figure.verdict for figure in Before().figures(samples)]
    assert verdicts == ["ok", "", verdict, ""]


def test_each_takes_its_turn_there_and_back_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was last is first in the next turn."""
    order = ""

    class Peers:
        def flow(self, jobs: int, window: int) -> None:
            """A start-up flow."""

    def flow(target: str, *_: Any) -> Sample:
        nonlocal order
        order += target
        return {"jobs": 1}

    monkeypatch.setattr(flows, "flow", flow)
    flows.take_turns([flows.Standing(name, name, Peers(), 1) for name in "abc"], 10)  # type: ignore[arg-type]
    assert order == "abccbaabccbaabc"


def test_a_broker_to_compare_with_is_measured_alone() -> None:
    """Unless other scenarios are asked for; without one there is nothing to compare."""
    command = shlex.join(targets.BROKER)
    assert __main__.arguments(["--against", command]).scenarios == ["before"]
    assert __main__.arguments(["--against", command, "--only", "w200,before"]).scenarios == ["w200", "before"]
    assert "before" not in __main__.arguments([]).scenarios


def test_nothing_to_compare_with_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, and what to say."""
    with pytest.raises(SystemExit, match="2"):
        __main__.main(["--only", "before"])
    assert "say which, --against COMMAND" in capsys.readouterr().err
