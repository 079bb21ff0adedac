"""The scenario of a user's test: it plays, and its figures are what was measured."""

import pytest
from benchmarks.figures import Sample
from benchmarks.scenario import Setting

from benchmarks import user_test


def test_a_users_test_is_measured() -> None:
    """It checks its outcome by itself."""
    (sample,) = user_test.UserTest().measure(Setting(quick=True))
    assert sample["cpu_ms"] > 0
    assert sample["real_ms"] > 0


@pytest.mark.parametrize(("real_ms", "verdict"), [(49.0, "ok"), (51.0, "MISSED")])
def test_it_takes_less_than_a_moment(real_ms: float, verdict: str) -> None:
    """On both sides of the bar."""
    samples: list[Sample] = [{"target": "relet", "real_ms": real_ms, "cpu_ms": 40.0}]
    real, processor = user_test.UserTest().figures(samples)
    assert (real.value, real.verdict, processor.verdict) == (real_ms, verdict, "")
