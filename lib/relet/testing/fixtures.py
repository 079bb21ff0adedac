"""Fixtures for pytest, which finds them by itself where relet is installed (entry point `pytest11`).

    def test_a_dead_worker(relet_bench):
        ...

    @pytest.mark.relet(tries=3, timeout=2.0)
    def test_with_limits(relet_bench):
        ...

Nothing of relet is loaded before a fixture is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from relet.broker import Broker
    from relet.client import Client
    from relet.testing.bench import Bench

WITHIN_S: Final = 30.0
"""How long a call of `relet_client` waits: for a test that fails, that is long enough."""


def pytest_configure(config: pytest.Config) -> None:
    """Called by pytest."""
    config.addinivalue_line(
        "markers", "relet(**options): options for relet_bench (relet.testing.Bench) and relet_broker (relet.Broker)"
    )


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the nearest mark says."""
    mark = request.node.get_closest_marker("relet")
    if mark is not None and mark.args:
        raise TypeError("options of @pytest.mark.relet have names: @pytest.mark.relet(tries=3)")
    return {} if mark is None else dict(mark.kwargs)


@pytest.fixture
def relet_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A `relet.testing.Bench`: a broker, clients and workers on simulated time."""
    from relet.testing.bench import Bench

    with Bench(**_options(request)) as bench:
        yield bench


@pytest.fixture
def relet_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A `relet.Broker` on real time, at ports of the system's choice: `relet_broker.endpoints["clients"]`."""
    from relet.broker import Broker

    with Broker(":0", ":0", ":0", **{"drain": 0.0, **_options(request)}) as broker:
        yield broker


@pytest.fixture
def relet_client(relet_broker: Broker) -> Iterator[Client]:
    """A `relet.Client` of `relet_broker`, whose calls wait `WITHIN_S`."""
    from relet.client import Client

    with Client(relet_broker.endpoints["clients"], timeout=WITHIN_S) as client:
        yield client
