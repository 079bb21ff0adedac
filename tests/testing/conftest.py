"""Benches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from relet.testing import Bench

Make = Callable[..., Bench]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes benches, and clears them away."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Bench(**options))


@pytest.fixture
def bench(make: Make) -> Bench:
    """Three tries of two seconds."""
    return make(tries=3, timeout=2.0)
