"""The file with the settings of queues: what it may say, and what is said of one that cannot be meant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import ROOT, Start

from relet import Broker, Client, JobRefused, SettingsError
from relet import Terms as JobTerms
from relet.cli.exits import Exit
from relet.cli.quantities import QuantityError
from relet.cli.queues import queues_file
from relet.core.settings import configured

WHOLE = """
only_these = true

[queue.default]

[queue.mail]
run = "1m"
jobs_max = 10_000

[queue."tenants/7"]
run = 2.5
backoff = {curve = "linear", base = "500ms", cap = 60}
paused = "dispatch"
"""


def test_a_file_says_what_a_program_would(tmp_path: Path) -> None:
    """Names may be quoted, a table may be empty, and times may have their unit."""
    path = tmp_path / "queues.toml"
    path.write_text(WHOLE)
    file = queues_file(str(path))
    assert (file.path, file.only_these) == (str(path), True)
    assert configured(file.queues) == configured(
        {
            "default": {},
            "mail": {"run": 60.0, "jobs_max": 10_000},
            "tenants/7": {
                "run": 2.5,
                "backoff": {"curve": "linear", "base": 0.5, "cap": 60},
                "paused": "dispatch",
            },
        }
    )


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    """Every queue may be used, as without a file."""
    path = tmp_path / "queues.toml"
    path.write_text("")
    assert queues_file(str(path)) == (str(path), {}, False)


WRONG = {
    "only_these = 1": "only_these is 1: write true or false",
    "only_thees = true": "there is no 'only_thees' at the top; did you mean only_these?",
    "[queues.mail]": "there is no 'queues' at the top; did you mean queue?",
    "[mail]": "there is no 'mail' at the top; did you mean [queue.NAME]?",
    "queue = 3": "queues are tables: write [queue.NAME]",
    "[queue]\nmail = 3": "queue 'mail': settings are given as a mapping of words to values, not 3",
    "[queue.mail]\njobs_mx = 3": "queue 'mail': there is no setting 'jobs_mx'; did you mean 'jobs_max'?",
    "[queue.mail]\njobs_max = -3": "queue 'mail': jobs_max is -3: it must be a whole number, at least 0",
    "[queue.mail]\nrun = '2 parsecs'": "queue 'mail': run: '2 parsecs' is no duration; write seconds",
    "[queue.mail]\nbackoff.base = '2x'": "queue 'mail': base of backoff: '2x' is no duration",
    "[queue.mail]\npaused = 'intakes'": "did you mean 'intake'?",
    '[queue.""]': "queue '': a name has 1 to 200 characters",
    "[queue.mail": "it is no TOML: ",
    "[queue.mail]\n[queue.mail]": "it is no TOML: ",
    "\xff": "it is no UTF-8 text",
}


@pytest.mark.parametrize(("text", "complaint"), WRONG.items(), ids=list(WRONG))
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, complaint: str) -> None:
    """One line: the file, the queue, the setting, and what to write."""
    path = tmp_path / "queues.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(QuantityError) as refused:
        queues_file(str(path))
    assert str(refused.value).startswith(f"{path}: ")
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """And why."""
    with pytest.raises(QuantityError, match="No such file"):
        queues_file(str(tmp_path / "nowhere"))
    with pytest.raises(QuantityError, match="Is a directory"):
        queues_file(str(tmp_path))


def test_the_program_ends_with_one_line(tmp_path: Path) -> None:
    """As with any command line that cannot be meant."""
    path = tmp_path / "queues.toml"
    path.write_text("[queue.mail]\njobs_mx = 3\n")
    command = [sys.executable, str(ROOT / "broker.py"), "--queues", str(path), "0", "0", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (Exit.USAGE, "", 1)
    assert f"{path}: queue 'mail': there is no setting 'jobs_mx'; did you mean 'jobs_max'?" in done.stderr


def test_a_bound_of_the_broker_names_file_and_queue(tmp_path: Path) -> None:
    """And the option that sets it."""
    path = tmp_path / "queues.toml"
    path.write_text("[queue.news]\n[queue.mail]\nrun = '2h'\n")
    command = [sys.executable, str(ROOT / "broker.py"), "--queues", str(path), "--run-max", "1h", "0", "0", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (Exit.USAGE, "", 1)
    assert f"{path}: queue 'mail': run is 7200 s: this broker takes at most 3600 s (--run-max)" in done.stderr


def test_the_program_keeps_to_the_file(start: Start, tmp_path: Path) -> None:
    """Queues that are not in it are refused, those that are in it have its settings."""
    path = tmp_path / "queues.toml"
    path.write_text("only_these = true\n[queue.mail]\njobs_max = 0\n")
    broker = start("broker.py", "--queues", str(path), "0", "0", "0")
    with Client(broker.endpoint("clients"), timeout=20) as client:
        for queue, code in (("male", "unknown_queue"), ("mail", "queue_full"), ("default", "unknown_queue")):
            with pytest.raises(JobRefused) as refused:
                client.enqueue(b"x", terms=JobTerms(queue=queue))
            assert refused.value.code == code


@pytest.mark.parametrize(
    "queues", [{"mail": {"jobs_mx": 3}}, {"mail": 3}, {3: {}}, {"mail": {"run": 10**9}}, [("mail", {})]], ids=str
)
def test_a_broker_refuses_what_cannot_be_set(queues: object) -> None:
    """`Broker(queues=...)`: `SettingsError`, and nothing stays open."""
    with pytest.raises(SettingsError):
        Broker(":0", ":0", ":0", queues=queues)  # type: ignore[arg-type]
