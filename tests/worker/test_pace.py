"""How many jobs to ask for, and how often to speak: plain arithmetic on what has ended."""

from __future__ import annotations

import pytest

from relet.worker.pace import AHEAD_MAX, REST_NS, WORK_NS, Pace

MS = 1_000_000


def after(jobs: int, each_ns: int, places: int) -> Pace:
    """What is known after so many jobs that took so long each."""
    pace = Pace(None, places)
    for _ in range(jobs):
        pace.ended(1, each_ns)
    return pace


@pytest.mark.parametrize(
    ("jobs", "each_ns", "places", "ahead"),
    [
        (0, 1, 1, 1),
        (0, 1, 8, 8),
        (1, MS, 1, 2),
        (5, MS, 1, 5),
        (100, MS, 1, WORK_NS // MS),
        (100, 10 * MS, 1, 2),
        (100, 1_000 * MS, 1, 1),
        (100, MS, 2, 2 + 2 * WORK_NS // MS - 1),
        (3, MS, 2, 4),
        (100, 10 * MS, 8, 8 + 11),
        (100, 500 * MS, 8, 9),
        (100, 1_000 * MS, 8, 8),
        (5_000, 1_000, 1, AHEAD_MAX),
        (5_000, 1_000, AHEAD_MAX, AHEAD_MAX),
    ],
)
def test_each_place_has_a_job_and_all_have_some_time_s_work_ahead(
    jobs: int, each_ns: int, places: int, ahead: int
) -> None:
    """Never more ahead than have ended, and none where they take a second."""
    assert after(jobs, each_ns, places).ahead == ahead


@pytest.mark.parametrize(
    ("each_ns", "places", "held", "rest_ns"),
    [
        (MS, 1, 6, REST_NS),
        (MS, 1, 5, 0),
        (MS, 2, 12, REST_NS),
        (MS, 2, 11, 0),
        (2 * MS, 1, 100, 0),
        (2 * MS, 2, 100, REST_NS),
        (10_000, 1, 1_000, REST_NS),
        (1_000, 1, 1_000, 0),
        (0, 1, 1_000, 0),
    ],
)
def test_who_has_plenty_to_do_speaks_once_a_rest(each_ns: int, places: int, held: int, rest_ns: int) -> None:
    """Where several jobs end in it, and what waits lasts for longer."""
    assert after(10, each_ns, places).rest_ns(held) == rest_ns


def test_what_was_fixed_is_not_learnt() -> None:
    """Then nothing is known of how long jobs take, and there is no rest."""
    pace = Pace(5, 2)
    pace.ended(1, MS)
    assert (pace.ahead, pace.rest_ns(100)) == (5, 0)
