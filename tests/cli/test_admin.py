"""`relet`: what it prints, how it ends, and what it says when it cannot do something."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from relet import Broker, Client, FailJob, JobFailed, Terms, Worker
from relet.cli import admin as program
from relet.cli.exits import Exit
from relet.cli.tables import ago, listing, shown, table
from relet.core.job import Reason
from relet.orders import FromAdmin

ROOT = Path(__file__).parent.parent.parent
LIMIT_S = 20.0


class Ran(NamedTuple):
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        """The words of each line."""
        return [line.split() for line in self.out.splitlines()]


Relet = Callable[..., Ran]


@pytest.fixture
def broker() -> Iterator[Broker]:
    """With an administrators' endpoint."""
    with Broker(":0", ":0", ":0", admin=":0", drain=0.0) as broker:
        yield broker


@pytest.fixture
def client(broker: Broker) -> Iterator[Client]:
    """Of that broker."""
    with Client(broker.endpoints["clients"], timeout=LIMIT_S) as client:
        yield client


@pytest.fixture
def worker(broker: Broker) -> Iterator[Worker]:
    """It fails for good what is bad, and answers the rest."""

    def handler(body: bytes) -> bytes:
        if body.startswith(b"bad"):
            raise FailJob("Oops", "it\nbroke", final=True)
        return b"done"

    worker = Worker(broker.endpoints["workers"], handler=handler, queues=["default", "mail"])
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield worker
    worker.stop()
    thread.join(LIMIT_S)


@pytest.fixture
def relet(broker: Broker, capsys: pytest.CaptureFixture[str]) -> Relet:
    """Runs a command line against that broker."""

    def run(*words: str) -> Ran:
        capsys.readouterr()
        try:
            code = program.main(["--admin", broker.endpoints["admin"], *words])
        except SystemExit as end:
            code = int(end.code or 0)
        return Ran(code, *capsys.readouterr())

    return run


def bury(client: Client, *bodies: bytes, queue: str = "default") -> None:
    """These fail, one after the other."""
    for body in bodies:
        with pytest.raises(JobFailed):
            client.call(body, terms=Terms(queue=queue))


# --- Queues and jobs


def test_queues_stand_in_columns(relet: Relet, client: Client) -> None:
    """One line each; a column that says nothing is not there."""
    for body in (b"1", b"2", b"3"):
        client.enqueue(body, terms=Terms(queue="mail", order="one by one"))
    ran = relet("queues")
    assert (ran.code, ran.err) == (Exit.OK, "")
    assert ran.rows[0] == ["QUEUE", "JOBS", "WAITING", "DELAYED", "BLOCKED", "IN", "FLIGHT", "WORKERS", "ASKS", "DEAD"]
    assert ran.rows[1:] == [["default", *"00000000"], ["mail", *"31020000"]]
    assert [queue["name"] for queue in json.loads(relet("queues", "--json").out)] == ["default", "mail"]


def test_a_queue_is_paused_shown_and_resumed(relet: Relet) -> None:
    """What it is afterwards is printed; the same words before and behind the command."""
    ran = relet("queue", "pause", "mail", "--dispatch", "--by", "ada")
    assert ran.code == Exit.OK
    assert ["paused", "dispatch", "by", "ada"] in ran.rows
    assert "dispatch by ada" in relet("queues").out
    assert json.loads(relet("--json", "queue", "show", "mail").out)["dispatch_by"] == "ada"
    both = relet("queue", "pause", "mail", "--intake", "--by", "eve")
    assert ["paused", "intake", "by", "eve,", "dispatch", "by", "ada"] in both.rows
    assert ["paused", "both", "by", "eve"] in relet("queue", "pause", "mail", "--by", "eve").rows
    assert ["paused", "no"] in relet("queue", "resume", "mail").rows
    missing = relet("queue", "show", "nobody")
    assert (missing.code, missing.out) == (Exit.JOB_FAILED, "")
    assert "there is no queue 'nobody'" in missing.err
    refused = relet("queue", "resume", "nobody")
    assert (refused.code, refused.err.count("\n")) == (Exit.JOB_FAILED, 1)
    assert "(unknown_queue)" in refused.err


def test_a_job_is_shown_explained_and_cancelled(relet: Relet, client: Client) -> None:
    """By its id or that of its request; one that has ended is not cancelled, and the exit code says so."""
    enqueued = client.enqueue(b"1", terms=Terms(queue="mail"))
    name = enqueued.job_id.hex()
    assert ["state", "available"] in relet("job", "show", name).rows
    assert ["queue", "mail"] in relet("job", "show", "--request", enqueued.request_id.hex()).rows
    why = relet("job", "why", name)
    assert (why.code, why.out.count("\n")) == (Exit.OK, 1)
    assert why.out.endswith("(no_worker)\n")
    assert json.loads(relet("job", "why", name, "--json").out)["code"] == "no_worker"
    cancelled = relet("job", "cancel", name)
    assert cancelled.code == Exit.OK
    assert ["state", "cancelled", "(cancelled)"] in cancelled.rows
    unknown = relet("job", "show", "00ff" * 8)
    assert (unknown.code, unknown.out) == (Exit.JOB_FAILED, "")
    assert "(unknown_job)" in unknown.err


def test_a_job_that_had_ended_is_not_cancelled(relet: Relet, client: Client, worker: Worker) -> None:
    """It is shown as it is."""
    bury(client, b"bad")
    name = json.loads(relet("dead", "list", "--json").out)[0]["job_id"]
    ran = relet("job", "cancel", name)
    assert (ran.code, ran.err) == (Exit.JOB_FAILED, "relet: it had ended before: discarded\n")


# --- Dead letters


def test_dead_letters_are_listed_and_shown(relet: Relet, client: Client, worker: Worker) -> None:
    """In columns, with filters; what a worker said moves nobody's cursor."""
    bury(client, b"bad 1", b"bad 2")
    bury(client, b"bad 3", queue="mail")
    ran = relet("dead", "list")
    assert ran.rows[0] == ["JOB", "QUEUE", "ENDED", "REASON", "KIND", "ATTEMPTS", "BYTES"]
    assert [row[1] for row in ran.rows[1:]] == ["default", "default", "mail"]
    assert len(relet("dead", "list", "--queue", "mail", "--kind", "Oops", "--newer-than", "1h").rows) == 2
    none = relet("dead", "list", "--older-than", "1h")
    assert (none.code, none.out, none.err) == (Exit.OK, "", "relet: there are none\n")
    some = relet("dead", "list", "--limit", "2")
    assert (len(some.rows), some.err) == (3, "relet: these are the oldest 2; --limit lists more\n")
    name = ran.rows[1][0]
    shown = relet("dead", "show", name, "--body")
    assert ["error", "Oops:", "it\\nbroke"] in shown.rows
    assert ["body", "1", "bad", "1"] in shown.rows
    assert shown.rows[-2] == ["ATTEMPT", "CAUSE", "ENDED", "WORKER", "ERROR"]
    told = json.loads(relet("dead", "show", name, "--body", "--json").out)
    assert (told["job_id"], told["text"], told["body"]) == (name, "it\nbroke", ["YmFkIDE="])
    assert json.loads(relet("dead", "list", "--older-than", "1h", "--json").out) == []
    assert len(relet("dead", "list", "--reason", "failed").rows) == 4
    assert relet("dead", "list", "--reason", "deadline").rows == []


def test_dead_letters_are_redriven(relet: Relet, client: Client, worker: Worker) -> None:
    """Counted first, then done; what was done before is left alone, and the exit code tells what was refused."""
    bury(client, b"bad 1", b"bad 2", queue="mail")
    names = [row["job_id"] for row in json.loads(relet("dead", "list", "--json").out)]
    assert relet("dead", "redrive", "--queue", "mail", "--dry-run").out == "2 dead letters would be redriven\n"
    assert relet("dead", "redrive", names[0]) == (Exit.OK, "1 dead letter was redriven\n", "")
    again = relet("dead", "redrive", names[0])
    assert (again.code, again.out) == (Exit.JOB_FAILED, "0 dead letters were redriven\n")
    assert names[0] in again.err
    assert again.err.endswith(": say --force to do that again (redriven)\n")
    assert relet("dead", "redrive", names[0], "--force").code == Exit.OK
    relet("queue", "pause", "mail", "--intake", "--by", "ada")
    ran = relet("dead", "redrive", "--queue", "mail", "--json")
    told = json.loads(ran.out)
    assert (ran.code, told["count"], told["refused"], told["codes"]) == (Exit.JOB_FAILED, 0, 1, ["queue_paused"])
    assert "paused by ada" in ran.err
    relet("queue", "resume", "mail")
    ran = relet("dead", "redrive", "--queue", "mail", "--limit", "1")
    assert (ran.code, ran.out.splitlines()[0]) == (Exit.OK, "1 dead letter was redriven")
    assert ran.out.splitlines()[1].endswith("left alone (--force)")


def test_dead_letters_are_purged(relet: Relet, client: Client, worker: Worker) -> None:
    """Those that are named; the others only where that is said, too."""
    bury(client, b"bad 1", b"bad 2", b"bad 3")
    names = [row["job_id"] for row in json.loads(relet("dead", "list", "--json").out)]
    ran = relet("dead", "purge", names[0], "00ff" * 8, names[1])
    assert (ran.code, ran.out) == (Exit.JOB_FAILED, "2 dead letters were purged\n")
    says = "there is no such dead letter: see relet dead list for those that there are (unknown_job)"
    assert ran.err == f"relet: {'00ff' * 8}: {says}\n"
    assert relet("dead", "purge").code == Exit.USAGE
    assert relet("dead", "purge", names[2], "--all").code == Exit.USAGE
    assert relet("dead", "purge", "--all", "--dry-run").out == "1 dead letter would be purged\n"
    assert relet("dead", "purge", "--all").code == Exit.OK
    assert relet("dead", "list").out == ""


# --- What cannot be meant, and who is not there


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "say what to do: relet queues"),
        (["queus"], "did you mean queues?"),
        (["dead", "lst"], "did you mean dead list?"),
        (["dead"], "'dead' needs a word more: dead list, dead show, dead redrive, dead purge"),
        (["queue", "frobnicate"], "there is queue show, queue pause, queue resume"),
        (["foo", "bar"], "there is no command 'foo'; there are queues, queue show, "),
        (["foo", "--timeout", "3"], "there is no command 'foo'; there are queues, "),
        (["dead", "--json"], "'dead' needs a word more: dead list"),
        (["dead", "show", "xyz"], "'xyz' is no id of a job: that has 32 hexadecimal digits"),
        (["dead", "redrive", "01a203f60d2376cb"], "has 32 hexadecimal digits, as `relet dead list` shows it; this"),
        (["job", "show", "01a203f60d2376cb"], "32 hexadecimal digits, not 16; where it is that of a request, say"),
        (["dead", "list", "--reason", "luck"], "no job is discarded as 'luck'; there are tries_spent, errors_spent"),
        (["dead", "list", "--reason", "tries"], "no job is discarded as 'tries'; did you mean tries_spent?"),
        (["dead", "list", "--newer-than", "1h", "--older-than", "2h"], "make --newer-than the longer one"),
        (["dead", "redrive"], "say which dead letters: ids, --queue and others, or --all"),
        (["dead", "purge", "--limit", "3"], "say which dead letters"),
        (["dead", "purge", "--all", "--queue", "mail"], "--all takes all dead letters of the broker"),
        (["dead", "redrive", "--all", "--older-than", "1h"], "--all takes all dead letters of the broker"),
        (["dead", "list", "--queue", "mail", "--queue", "news"], "--queue is said twice"),
        (["dead", "redrive", "00ff" * 8, "--queue", "mail"], "leave the other options away"),
        (["dead", "redrive", "--al"], "did you mean --all?"),
        (["dead", "list", "--older-than", "soon"], "'soon' is no duration"),
        (["queue", "pause", "mail", "--intake", "--dispatch"], "not allowed with argument"),
        (["--admim", "4164", "queues"], "no option --admim"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_said_on_one_line(relet: Relet, words: list[str], says: str) -> None:
    """Exit code 2, nothing on stdout, and what to write instead."""
    ran = relet(*words)
    assert (ran.code, ran.out, ran.err.count("\n")) == (Exit.USAGE, "", 1)
    assert says in ran.err


def test_the_words_of_reasons_are_those_that_leave_a_dead_letter() -> None:
    """All of `Reason` but those of jobs that are cancelled, or of none."""
    others = {Reason.ASKER_GONE, Reason.CANCELLED, Reason.REPLACED, Reason.DETACHED, Reason.BROKER_STOPPED}
    assert list(program.REASONS) == [it.value for it in Reason if it not in others]


def test_a_refusal_names_options_in_the_place_of_fields() -> None:
    """Those that are on the command line; each is a field or a message of an order."""
    says = program._refusal("some_code", "make `newer_ms` the longer one, `queue`")
    assert says == "make --newer-than the longer one, `queue` (some_code)"
    fields = {name for order in FromAdmin.__args__ for name in (*order.__struct_fields__, order.__struct_config__.tag)}
    assert set(program.IN_OPTIONS) < fields


def test_a_backup_is_made_while_the_broker_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`relet backup` waits for its end; the copy is a store."""
    copy = tmp_path / "copy.db"
    with Broker(":0", ":0", ":0", admin=":0", drain=0.0, store=tmp_path / "jobs.db") as broker:
        with Client(broker.endpoints["clients"], timeout=LIMIT_S) as client:
            client.enqueue(b"kept")
        assert program.main(["backup", str(copy), "--admin", broker.endpoints["admin"]]) == Exit.OK
        assert capsys.readouterr().out.startswith(f"{copy}: ")
        with pytest.raises(SystemExit) as end:
            program.main(["backup", str(copy), "--admin", broker.endpoints["admin"]])
        assert end.value.code == Exit.JOB_FAILED
        assert "is there already" in capsys.readouterr().err
    assert program.main(["store", "check", str(copy), "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["jobs_open"] == 1


def test_a_broker_without_a_store_makes_no_backup(relet: Relet, tmp_path: Path) -> None:
    """It says so."""
    ran = relet("backup", str(tmp_path / "copy.db"))
    assert (ran.code, ran.out) == (Exit.JOB_FAILED, "")
    assert ran.err == "relet: this broker keeps its jobs in memory: start it with --store (no_store)\n"


def test_an_endpoint_that_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """As by all programs."""
    with pytest.raises(SystemExit) as end:
        program.main(["queues", "--admin", "tcp://*:4164"])
    assert end.value.code == Exit.USAGE
    assert capsys.readouterr().err.startswith("relet: ADMIN: ")


def test_the_endpoint_for_clients_is_exit_code_2(broker: Broker, relet: Relet) -> None:
    """On one line, with where to connect instead."""
    ran = relet("--admin", broker.endpoints["clients"], "queues")
    assert (ran.code, ran.out, ran.err.count("\n")) == (Exit.USAGE, "", 1)
    assert "no endpoint for administrators: connect to the one that broker.py --admin names" in ran.err


def test_a_broker_that_is_not_there_is_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    """On one line, with what to do."""
    with pytest.raises(SystemExit) as end:
        program.main(["queues", "--admin", "tcp://127.0.0.1:1", "--timeout", "50ms"])
    assert end.value.code == Exit.UNREACHABLE
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no broker at tcp://127.0.0.1:1; start the broker with --admin" in said


def test_every_command_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    """And stands in that of the program, with all exit codes."""
    with pytest.raises(SystemExit) as end:
        program.main(["--help"])
    assert end.value.code == Exit.OK
    overview = capsys.readouterr().out
    assert all(f"\n  {code.value:<4} " in overview for code in program.EXITS)
    for name, command in program.COMMANDS.items():
        assert f"  {name}" in overview
        with pytest.raises(SystemExit):
            program.main([*name.split(), "--help"])
        text = capsys.readouterr().out
        assert command.summary in " ".join(text.split())
        assert command.examples.split("\n")[0] in text


def test_help_does_not_load_zeromq() -> None:
    """It is there at once."""
    code = "import sys; from relet.cli import admin\ntry: admin.main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'zmq', 'msgspec', 'structlog'} & set(sys.modules)"
    environment = {"PYTHONPATH": str(ROOT / "lib")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL)


def test_it_runs_as_a_module_and_as_a_script(broker: Broker) -> None:
    """`python -m relet`, and what pyproject.toml installs; who closes its output is no error."""
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["relet"]
    assert script == f"{program.__name__}:{program.run.__name__}"
    command = [sys.executable, "-m", "relet", "--admin", broker.endpoints["admin"], "queues"]
    environment = {"PYTHONPATH": str(ROOT / "lib")}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert (ran.returncode, ran.stdout.split()[:2], ran.stderr) == (0, ["QUEUE", "JOBS"], "")


def test_who_has_seen_enough_is_no_error(relet: Relet, monkeypatch: pytest.MonkeyPatch) -> None:
    """`relet queues | head -1`."""

    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    assert relet("queues").code == Exit.OK
    sys.stdout.close()  # what it writes to since


# --- Columns


def test_columns_are_aligned_and_empty_ones_left_out() -> None:
    """Numbers to the right, text to the left."""
    rows = [("a", 1, "", "x"), ("long", 100, "", "")]
    assert table(("NAME", "JOBS", "NONE", "LAST"), rows) == ["NAME  JOBS  LAST", "a        1  x", "long   100"]
    assert listing({"a": 1, "longer": b"\x01", "none": None, "empty": ""}) == ["a       1", "longer  01"]


def test_what_peers_say_is_shown_as_text() -> None:
    """Control characters by their escapes, other languages as they are."""
    assert shown("a\x1b[31m\n\u202eé漢") == "a\\x1b[31m\\n\\u202eé漢"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "now"), (1, "1 s ago"), (119, "119 s ago"), (120, "2 min ago"), (7_200, "2 h ago"), (172_800, "2 d ago")],
)
def test_ages_are_told_in_the_largest_unit(seconds: float, text: str) -> None:
    """That fits twice."""
    assert ago(seconds) == text
