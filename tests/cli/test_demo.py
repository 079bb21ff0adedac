"""make demo: the whole play, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import ROOT, SECONDS_MAX, Stream

from relet.cli.exits import Exit


def children(pid: int) -> set[int]:
    """The processes that a process has started and that still run."""
    tasks = Path(f"/proc/{pid}/task")
    return {int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()}


def runs(pid: int) -> bool:
    """Whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to see what was started")
@pytest.mark.parametrize("interrupted", [False, True], ids=["to its end", "interrupted"])
def test_the_demonstration(interrupted: bool) -> None:
    """Drops are shown, every job has an honest end, the summary explains itself; Ctrl-C ends everything too."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "relet.cli.demo", "--jobs", "12", "--seed", "21"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    assert demo.stdout is not None
    out = Stream(demo.stdout)
    try:
        out.find(r"^worker [12] \| job .* dropped on purpose")
        started = children(demo.pid)
        assert len(started) == 3
        if interrupted:
            demo.send_signal(signal.SIGINT)
        code = demo.wait(SECONDS_MAX)
    finally:
        demo.kill()
        demo.wait()
        out.close()
    assert not {pid for pid in started if runs(pid)}
    assert code == (Exit.INTERRUPTED if interrupted else Exit.OK)
    assert "answered, and right" in out.text
    assert ("(interrupted)" in out.text) == interrupted
    if not interrupted:
        assert "48 jobs" in out.text
        assert "The broker let these again after 2 s" in out.text
