"""What every test may ask for: seeded randomness is Hypothesis' own affair, ports are the system's choice."""

from __future__ import annotations

import os
import signal
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings

from relet import compiled

# No deadline: two shared cores make single slow examples, and a deadline would report the machine, not the code.
settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile(
    "thorough", deadline=timedelta(seconds=5), max_examples=2000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# A shell without job control starts what is in its background with SIGINT ignored, and so would be whatever we start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the sources of the core is skipped where the compiled one runs: `test_with_the_sources` runs it."""
    if compiled.core == compiled.COMPILED:
        elsewhere = pytest.mark.skip(reason="needs the sources of the core: tests/test_compiled.py runs it with them")
        for item in items:
            if "interpreted" in item.keywords:
                item.add_marker(elsewhere)
