"""The patterns in examples/patterns, run as a reader would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

PATTERNS = Path(__file__).resolve().parents[2] / "examples" / "patterns"
LIMIT_S = 60


def lines(name: str) -> list[str]:
    """What a program prints, which ends well and says nothing on stderr."""
    command = [sys.executable, "-W", "error", str(PATTERNS / f"{name}.py")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.splitlines()


def test_every_pattern_is_listed_and_run() -> None:
    """In the table beside them, and here."""
    found = {path.stem for path in PATTERNS.glob("*.py")}
    assert set(re.findall(r"\]\((\w+)\.py\)", (PATTERNS / "README.md").read_text())) == found
    assert set(re.findall(r'lines\("(\w+)"\)', Path(__file__).read_text())) == found


def test_a_pair_talks_both_ways() -> None:
    """Two answers to each message."""
    assert lines("pair") == [f"message {n}{rest}" for n in range(3) for rest in (", yes", ", and more")]


def test_requests_go_to_all_servers_in_turn() -> None:
    """And none before the reply to the last one."""
    *replies, refused, one, two = lines("request_reply")
    assert replies == [f"server {n % 2} replies to request {n}" for n in range(6)]
    assert refused.startswith("not before there is a reply: ")
    assert [one, two] == ["server 0 stops", "server 1 stops"]


def test_a_subscriber_hears_its_topic_from_all_publishers() -> None:
    """Nothing else."""
    *updates, average = lines("publish_subscribe")
    assert {update.partition(" from ")[2] for update in updates} == {"publisher 0", "publisher 1"}
    assert all(update.startswith("10001: ") for update in updates)
    assert average.startswith("average of 10001: ")


def test_results_of_all_consumers_are_collected() -> None:
    """Each number once."""
    *shares, total = lines("push_pull")
    assert sum(int(share.split()[2]) for share in shares) == 1_000
    assert total == f"sum: {sum(n * n for n in range(1_000))}"


def test_clients_reach_servers_through_a_queue_device() -> None:
    """Each request has one reply; three frames of each came in."""
    *replies, counted = lines("queue_device")
    asked = Counter(reply.partition(" replies to ")[2] for reply in replies)
    assert asked == {f"client {client}, {number}": 1 for client in range(2) for number in range(4)}
    assert counted == "24 frames came in at the front"


def test_subscribers_hear_publishers_through_a_forwarder_device() -> None:
    """All of them."""
    assert set(lines("forwarder_device")) == {"9 from publisher 0", "9 from publisher 1"}


def test_workers_share_tasks_through_a_streamer_device() -> None:
    """Each task is done once."""
    done = Counter(line.partition(" does ")[2] for line in lines("streamer_device"))
    assert done == {f"task {number}": 1 for number in range(10)}


def test_a_queue_device_is_watched() -> None:
    """Requests go in, replies out, in order."""
    seen = lines("monitored_queue")
    expected = [line for n in range(3) for line in (f"in  request {n}", f"out reply to request {n}")]
    assert seen[-6:] == expected


def test_servers_are_processes() -> None:
    """Each of them replies in its turn."""
    replies = [line.split() for line in lines("processes")]
    assert [reply[-1] for reply in replies] == ["0", "1", "2", "3", "4", "5"]
    assert Counter(reply[1] for reply in replies) == {"0": 2, "1": 2, "2": 2}


def test_a_poller_hears_updates_and_commands() -> None:
    """All updates that were there before the command to exit, and nothing after it."""
    heard = lines("poller")
    assert [line for line in heard if "9 before" in line] == [
        f"processes 9 before {command}" for command in ("continue", "continue", "exit")
    ]
    assert [line for line in heard if "told" in line] == [f"is told: {it}" for it in ("continue", "continue", "exit")]
    assert heard[-1] == "is told: exit"


def test_coroutines_hear_updates_and_commands() -> None:
    """A command comes when an update was processed."""
    heard = lines("event_loop")
    assert [line for line in heard if "told" in line] == [f"is told: {it}" for it in ("continue", "continue", "exit")]
    assert heard[0] == "processes 9 before continue"
    assert heard[-1] == "is told: exit"
