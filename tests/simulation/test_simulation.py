"""The simulation itself: it passes with the real broker, repeats itself, and says when something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from relet.core.job import Job
from relet.core.limits import Limits
from relet.core.machine import Machine
from relet.testing import Clock, Config, Violation, World
from relet.testing import simulate as program
from relet.testing.clock import MS, S
from relet.testing.native_peers import NativeClient
from relet.testing.peers import Habits
from relet.testing.simulate import POLICIES


def test_no_job_is_lost_and_no_failure_is_false_in_ten_thousand() -> None:
    """Promises 1 to 7, judged from outside, in many small worlds with faults of every kind."""
    summary = program.simulate("tests", 10_000, processes=1)
    assert not summary.failures, summary.text()
    assert summary.jobs >= 10_000
    for fault in (
        "worker_killed",
        "connection_lost",
        "frozen",
        "cut_off",
        "broker_crashes",
        "handovers_failed",
        "client_slow",
    ):
        assert summary.counts[fault], f"no {fault} happened: this run shows nothing about it"
    for outcome in ("told_answer", "told_failure", "answers_late", "attempts_expired", "attempts_lost", "refused"):
        assert summary.counts[outcome], f"nothing came to {outcome}: this run shows nothing about it"


def test_what_was_agreed_holds_in_four_thousand() -> None:
    """Settings of queues and what jobs ask for beyond the plain, judged from outside, where there is much of it."""
    summary = program.simulate("tests", 4_000, processes=1, kinds=("policies",))
    assert not summary.failures, summary.text()
    for policy in POLICIES:
        assert summary.counts[policy], f"there was no {policy}: this run shows nothing about it"


@pytest.mark.parametrize("seed", ["trace/1", "trace/5", "trace/8"])
def test_same_seed_same_trace(seed: str) -> None:
    """A world that is played twice goes the same way, message for message."""
    one, other = (World(seed, watch=True).play() for _ in range(2))
    assert one == other
    assert one.digest != World("another seed", watch=True).play().digest


TRACES = """
import random
from relet.testing import World
from relet.testing.world import draw
for number in (*range(24), 178):  # the last one is where tokens that were lost were taken from a set
    seed = f"trace/{number}"
    config = draw(random.Random(seed), "native", "both", "policies")
    config.jobs = 60
    print(World(seed, config, watch=True).play().digest)
"""


def test_the_trace_does_not_hang_on_the_process() -> None:
    """The order of sets and the seed of hashes are other ones in each process; the trace is the same."""
    printed = [
        subprocess.run(
            [sys.executable, "-c", TRACES],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]


class _Forgetful(Machine):
    def _ended_badly(self, job: Job) -> None:
        super()._ended_badly(job)
        self.finished.pop()


def test_the_program_exits_with_1_and_says_how_to_repeat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A violation in any world is an exit code of 1, and the command that plays that world again."""
    real = World

    def broken(seed: str, **more: Any) -> World:
        return real(seed, machine=_Forgetful, **more)

    monkeypatch.setattr(program, "World", broken)
    assert program.main(["--seed", "broken", "--jobs", "2000", "--processes", "1"]) == 1
    printed = capsys.readouterr().out
    assert "again: python -m relet.testing.simulate --world broken/" in printed
    seed = printed.split("--world ")[1].split()[0]
    assert program.main(["--world", seed]) == 1
    monkeypatch.undo()
    assert program.main(["--world", seed]) == 0
    assert program.main(["--seed", "tests", "--jobs", "300", "--processes", "1"]) == 0


def test_a_world_without_faults_has_no_failures() -> None:
    """Honest peers on a calm network: every job is answered at its first attempt, unless its worker retires."""
    outcome = World("calm", Config(jobs=500)).play()
    assert outcome.counts["told_answer"] == 500
    retired = outcome.counts["attempts_lost"]  # the first act ends, its workers go, and others take over
    assert outcome.counts["attempts"] - retired == 500
    assert "told_failure" not in outcome.counts


def test_a_world_of_liars_ends_in_failures() -> None:
    """Where every worker drops every job, every job fails after its last try, and not one is lost."""
    config = Config(jobs=100, tries=2, timeout_ns=20 * MS, habits=Habits(drops=1.0))
    outcome = World("liars", config).play()
    assert outcome.counts["told_failure"] + outcome.counts.get("told_answer", 0) == 100
    assert outcome.counts["told_failure"] > 70  # the last ones meet the honest workers of the second act


def test_crashes_with_a_slow_disk_lose_nothing_that_was_safe() -> None:
    """The broker crashes again and again while its disk is behind; what was safe goes on in the next one."""
    config = Config(jobs=300, settles_ns=20 * MS, crashes=3.0, timeout_ns=200 * MS, tries=5)
    outcomes = [World(f"crashes/{number}", config).play() for number in range(1, 4)]
    assert sum(outcome.counts["broker_crashes"] for outcome in outcomes) >= 3


def test_what_a_crash_forgets_of_hand_overs_is_answered_and_goes_on() -> None:
    """Jobs take longer than the disk is behind: their workers have them when the next broker begins."""
    config = Config(jobs=300, settles_ns=20 * MS, crashes=20.0, timeout_ns=2 * S, tries=20)
    config.native_clients, config.native_workers, config.capacity, config.habits = 2, 3, 2, Habits(work_ns=30 * MS)
    counts: Counter[str] = Counter()
    for number in range(4):
        counts.update(World(f"forgotten/{number}", config).play().counts)
    assert counts["answers_to_forgotten"] >= 1
    assert counts["resumed"] >= 1


def _hard_of_hearing(**limits: Any) -> Config:
    """Clients that trust in numbers and want more at a time than fits into their sockets and outboxes."""
    return Config(
        req_clients=0,
        dealer_clients=0,
        req_workers=0,
        dealer_workers=0,
        native_clients=3,
        native_window=100,
        native_workers=4,
        capacity=4,
        unread_max=3,
        think_ns=0,
        faults=5.0,
        limits=Limits(outbox_bytes_max=2_000, **limits),
    )


@pytest.mark.parametrize("seed", ["hearing/1", "hearing/2"])
def test_outcomes_that_were_dropped_are_asked_for_again(seed: str) -> None:
    """Nothing but a number that is missing, or what a heartbeat says, shows a client that it must ask again."""
    outcome = World(seed, _hard_of_hearing()).play()
    assert outcome.counts["reply_dropped"] > 100
    assert outcome.counts["gaps_repaired"] > 10
    assert outcome.counts["told_answer"] >= 300


@pytest.mark.parametrize("deaf", ["_misses", "_so_many_were_told"])
def test_a_client_that_does_not_heed_the_numbers_waits_for_ever(deaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of outcomes nor what heartbeats say may be left out: the last outcomes have none behind them."""
    monkeypatch.setattr(NativeClient, deaf, lambda *_: None)
    with pytest.raises(Violation, match="native requests were asked for again and again"):
        World("hearing/1", _hard_of_hearing()).play()


@pytest.mark.parametrize("seed", ["hearing/0", "hearing/10", "hearing/11"])
def test_refusals_that_were_dropped_are_asked_for_again(seed: str) -> None:
    """A broker that is full refuses what it has no room for; the refusal may be dropped, and its request is not."""
    outcome = World(seed, _hard_of_hearing(jobs_max=30)).play()
    assert outcome.counts["refused_busy"]
    assert outcome.counts["told_answer"] >= 300


@pytest.mark.parametrize("seed", ["native-2/3713", "native-2/5009"])
def test_worlds_that_were_judged_wrongly(seed: str) -> None:
    """After a restart the age of an outcome is told by the wall clock, which had gone on while the broker was deaf; and
    of outcomes that ended in one turn any may be the first to be forgotten.
    """
    World(seed, kinds=("2010", "native", "both", "both")).play()


@pytest.mark.parametrize(
    "seed",
    [
        "policies-1/219",
        "policies-1/404",
        "rd/490",
        "policies-3/1985",
        "policies-4/1131",
        "policies-5/3215",
    ],
)
def test_worlds_with_policies_that_were_judged_wrongly(seed: str) -> None:
    """A job goes on in the turn in which the dead letter goes that blocked it; a window that is over may still be known
    when its key is taken again; after a restart nobody may claim the attempt before a hand-over in vain; a dead
    letter is redriven whose body was done, asked for once more, by another job; and a job whose moment came while it
    was not safe goes on when its broker has heard that it is; and of a request that was refused twice, for two jobs,
    the first refusal may have been dropped.
    """
    World(seed, kinds=("policies",)).play()


def test_a_world_in_which_plain_jobs_had_no_turns() -> None:
    """A key whose jobs came one at a time was always first among those of its priority."""
    World("policies-3/1030", kinds=("policies",)).play()


def test_the_clock_keeps_appointments_in_order() -> None:
    """Earlier before later, and those of one moment in the order in which they were made."""
    clock, kept = Clock(), []
    clock.at(2 * S, kept.append, "late")
    clock.at(1 * S, kept.append, "first")
    clock.at(1 * S, kept.append, "second")
    while clock.step():
        pass
    assert kept == ["first", "second", "late"]
    assert clock.now == 2 * S
