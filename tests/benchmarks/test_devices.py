"""The devices' scenario: devices stand where the proxy stands, and their figures are what was measured."""

import pytest
from benchmarks.figures import Sample

from benchmarks import devices, load, targets


@pytest.mark.parametrize("options", [(), ("--monitor", "0")])
def test_jobs_flow_through_a_device(options: tuple[str, ...]) -> None:
    """As through the proxy, and its CPU for it is seen."""
    with targets.device("device", *options) as target, load.load(target) as peers:
        before = target.usage()
        peers.flow(2_000, 100)
        assert (target.usage() - before).cpu_ns > 0


@pytest.mark.parametrize(("cpu", "verdict"), [(2.08, "ok"), (2.16, "MISSED")])
def test_a_message_costs_no_more_than_in_the_proxy(cpu: float, verdict: str) -> None:
    """A quarter of what a job costs; the ratio is taken within the rounds."""
    samples: list[Sample] = [
        {"target": target, "cpu_us": cost * scale}
        for scale in (1, 2, 3)
        for target, cost in (("proxy", 2.0), ("device", cpu), ("tapped", 6.0))
    ]
    plain, tapped = devices.Forwarded().figures(samples)
    assert (plain.value, plain.beside, plain.verdict) == (pytest.approx(cpu / 2), 1.0, verdict)
    assert (tapped.ratio, tapped.verdict) == (3.0, "")
