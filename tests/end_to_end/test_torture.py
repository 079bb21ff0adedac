"""Real processes under load that are killed at random: a short run of `make torture`, and runs that must end badly."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from relet.testing.torture import Torture, ipc_endpoints, summary

LIMIT_S = 110.0
"""Its usual time is a tenth of that."""


def test_nothing_is_lost_where_broker_workers_and_clients_are_killed() -> None:
    """kill -9 of each, and every job that was acknowledged has one outcome, and an honest one."""
    few = ("--kills", "8", "--pace", "0.6", "--workers", "2", "--old-workers", "1", "--clients", "1", "--ipc")
    command = (sys.executable, "-m", "relet.testing.torture", "--seed", "3", *few)
    run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = dict(re.findall(r"^([a-z ]+?) {2,}(.+)$", run.stdout, re.MULTILINE))
    killed = re.search(r": broker (\d+) .*, worker (\d+), client (\d+)", rows["kills"])
    assert killed is not None
    assert all(int(count) > 0 for count in killed.groups()), rows["kills"]
    assert int(rows["acknowledged"].replace(",", "")) > 100
    assert [rows[kind] for kind in ("lost", "wrong answers", "false failures", "contradicted")] == ["0"] * 4
    assert rows["acknowledged"] == rows["finished"].partition(";")[0]


def test_a_broker_that_loses_its_store_is_caught(tmp_path: Path) -> None:
    """Its jobs were acknowledged, and the next one knows nothing of them."""
    torture = Torture(
        tmp_path,
        "11",  # the broker is the first victim
        ipc_endpoints(tmp_path),
        workers=1,
        old_workers=0,
        clients=1,
        pace_s=0.6,
        before_broker=lambda: [file.unlink() for file in tmp_path.glob("jobs.db*")],
    )
    account = torture.run(kills=2)
    assert torture.kills["broker"] > 0
    assert account.lost, summary(torture, account)
    assert account.lost[0] in summary(torture, account)
    assert not account.wrong
