"""The I/O threads of our contexts are scheduled in batches, and nothing else is."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
import zmq

import relet
from relet.transport.threads import new_context

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux schedules threads so")


def policies() -> dict[int, int]:
    """The policy of each thread of this process. Threads of other tests may end meanwhile."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            found[int(task.name)] = os.sched_getscheduler(int(task.name))
    return found


def test_io_threads_wait_for_their_turn_and_nobody_else_does() -> None:
    """Those of a new context do; the thread that makes it, and contexts of others, are as they were."""
    before = policies()
    with new_context() as ours:
        mine = {task: policy for task, policy in policies().items() if task not in before}
        assert set(mine.values()) == {os.SCHED_BATCH}
        with zmq.Context() as theirs:
            theirs.socket(zmq.PAIR).close()
            others = {task: policy for task, policy in policies().items() if task not in before | mine}
            assert set(others.values()) == {os.SCHED_OTHER}
        with ours.socket(zmq.PAIR) as one, ours.socket(zmq.PAIR) as other:
            port = one.bind_to_random_port("tcp://127.0.0.1")
            other.connect(f"tcp://127.0.0.1:{port}")
            other.send(b"goes")
            assert one.recv() == b"goes"
        assert all(policy == before.get(task, policy) for task, policy in policies().items() if task not in mine)


def test_a_context_of_the_callers_is_left_alone() -> None:
    """Whoever brings a context has decided about its threads."""
    before = policies()
    with zmq.Context() as theirs, relet.Broker(*("tcp://127.0.0.1:0",) * 3, context=theirs):
        mine = {task: policy for task, policy in policies().items() if task not in before}
        assert os.SCHED_BATCH not in mine.values()


@pytest.mark.parametrize("name", ["sched_getscheduler", "sched_setscheduler"])
def test_where_the_system_refuses_a_context_is_made_all_the_same(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A container may forbid it."""

    def refuses(*_: object) -> None:
        raise PermissionError

    before = policies()
    with monkeypatch.context() as patch:
        patch.setattr(os, name, refuses)
        context = new_context()
    with context, context.socket(zmq.PAIR):
        mine = {task: policy for task, policy in policies().items() if task not in before}
        assert set(mine.values()) == {os.SCHED_OTHER}


def test_who_has_chosen_a_policy_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of a program that runs with another policy inherit that."""
    changed: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_IDLE)
        patch.setattr(os, "sched_setscheduler", lambda *to: changed.append(to))
        new_context().term()
    assert changed == []
