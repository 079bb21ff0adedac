"""broker.py as a process: its banner, its errors, its signals and its exit codes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import zmq
from tests.cli.conftest import ROOT, Connect, Program, Start

from relet import Admin, Client, JobRefused
from relet.cli.broker import banner, reachable
from relet.cli.exits import Exit

SECONDS_MAX = 20


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """broker.py with a command line that ends by itself."""
    command = [sys.executable, str(ROOT / "broker.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ((), "are required: CLIENTS, WORKERS, ANSWERS"),
        (("1", "2"), "are required: ANSWERS"),
        (("1", "2", "3", "4"), "one argument too many: '4'"),
        (("--tires", "3", "1", "2", "3"), "did you mean --tries?"),
        (("--tires=3",), "did you mean --tries?"),
        (("--tri", "3", "1", "2", "3"), "did you mean --tries?"),
        (("-t", "0", "1", "2", "3"), "write 1 or more"),
        (("-t", "2s", "1", "2", "3"), "a time is written with -T"),
        (("-T", "0", "1", "2", "3"), "leave the option away"),
        (("-T", "nan", "1", "2", "3"), "500ms, 2s or 1m"),
        (("-T=-1", "1", "2", "3"), "does not run backwards"),
        (("--timeout", "-1", "1", "2", "3"), "does not run backwards"),
        (("--body-bytes-max", "64M", "1", "2", "3"), "did you mean 64MiB?"),
        (("--jobs-max", "0", "1", "2", "3"), "write 1 or more"),
        (("--frames-max", "2", "1", "2", "3"), "at least 3: native messages need as many; set 3 or more"),
        (("--body-bytes-max", "100", "1", "2", "3"), "at least 256"),
        (("--pump", "rust", "1", "2", "3"), "invalid choice: 'rust'"),
        (("70000", "2", "3"), "CLIENTS: '70000': there is no port 70000"),
        (("1", "4161x", "3"), "WORKERS: '4161x' is no endpoint"),
        (("1", "2", "127.0.0.1:4163"), "ANSWERS: '127.0.0.1:4163': the scheme is missing; write tcp://127.0.0.1:4163"),
        (("1", "2", "inproc://answers"), "reaches only sockets of the same process"),
        (("--admin", "4161", "4161", "2", "3"), "have the same endpoint"),
        (("--admin", "4164x", "1", "2", "3"), "ADMIN: '4164x' is no endpoint"),
        (("4161", "tcp://*:4161", "3"), "clients and workers have the same endpoint"),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], hint: str) -> None:
    """A command line that cannot be meant ends with 2 and one line that says what to change."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert done.stderr.startswith("broker.py: ")
    assert done.stderr.count("\n") == 1
    assert hint in done.stderr


def test_an_address_in_use() -> None:
    """Exit 3, and the line names the role and the endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("0", f"{port}", "0")
    assert (done.returncode, done.stderr.count("\n")) == (Exit.UNREACHABLE, 1)
    assert "workers" in done.stderr.lower()
    assert f"{port}" in done.stderr


def test_a_file_at_an_ipc_path_is_not_deleted(tmp_path: Path) -> None:
    """libzmq would remove it without a word."""
    path = tmp_path / "precious"
    path.write_text("data")
    done = run(f"ipc://{path}", "0", "0")
    assert (done.returncode, done.stderr.count("\n")) == (Exit.UNREACHABLE, 1)
    assert "is no socket" in done.stderr
    assert path.read_text() == "data"


def test_the_socket_of_another_broker_is_not_taken(start: Start, tmp_path: Path) -> None:
    """A second broker on the same ipc path would silently steal the first one's clients."""
    first = start("broker.py", f"ipc://{tmp_path}/clients", "0", "0")
    first.endpoint("answers")
    done = run(f"ipc://{tmp_path}/clients", "0", "0")
    assert done.returncode == Exit.UNREACHABLE
    assert "in use" in done.stderr


def test_help_and_versions_go_to_stdout() -> None:
    """Both end with 0; help shows examples, exit codes and the limits with their defaults."""
    shown = run("--help")
    assert (shown.returncode, shown.stderr) == (Exit.OK, "")
    for text in (
        "--tries",
        "--drain",
        "--body-bytes-max SIZE",
        "[64MiB]",
        "examples:",
        "'tcp://*:4161'",
        "exit codes:",
    ):
        assert text in shown.stdout
    versions = run("--version")
    assert versions.returncode == Exit.OK
    for word in ("relet ", "pyzmq ", "libzmq ", "pump "):
        assert word in versions.stdout


def test_help_loads_no_library() -> None:
    """--help has to be instant: zmq, structlog, msgspec and rich together take three times as long as all the rest."""
    for program in ("broker", "testworker", "testclient"):
        code = (
            "import sys, importlib\n"
            f"try: importlib.import_module('relet.cli.{program}').main(['--help'])\n"
            "except SystemExit: pass\n"
            "print(sorted({'zmq', 'structlog', 'msgspec', 'rich', 'asyncio'} & set(sys.modules)))"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            timeout=SECONDS_MAX,
        )
        assert done.stdout.splitlines()[-1] == "[]", program


def test_the_banner(start: Start) -> None:
    """Roles with what is really bound, the rules, a warning for what is public, and commands that can be pasted."""
    broker = start("broker.py", "-t", "3", "-T", "500ms", "tcp://*:0", "tcp://127.0.0.1:0", "0")
    bound = {role: broker.endpoint(role) for role in ("clients", "workers", "answers")}
    port = bound["clients"].rpartition(":")[2]
    assert int(port) > 0
    assert bound["clients"] == f"tcp://0.0.0.0:{port}"
    assert broker.err.find(r"^  tries +3\b")
    assert broker.err.find(r"^  timeout +500 ms per attempt")
    assert broker.err.find(r"^  pump +(cython|python)")
    assert broker.err.find(r"warning +clients: .*anyone who reaches it may submit and work")
    worker = shlex.split(broker.err.find(r"^  next +(.*)$")[1])
    assert worker[0].endswith("testworker.py")
    assert worker[1:] == [bound["workers"], bound["answers"], "0.1"]
    client = shlex.split(broker.err.find(r"^ +(\S*testclient.py .*)$")[1])
    assert client[1:] == [f"tcp://127.0.0.1:{port}"]
    broker.signal(signal.SIGTERM)
    assert broker.end() == Exit.OK
    assert broker.out.text == ""


def test_the_endpoint_of_administrators(start: Start) -> None:
    """`--admin`: there only where it was asked for, shown in the banner, and ruled from another process."""
    broker = start("broker.py", "--admin", "0", "0", "0", "0")
    with Admin(broker.endpoint("admin"), timeout=SECONDS_MAX, by="ada") as admin:
        assert admin.pause("default", "intake").intake_by == "ada"
        with Client(broker.endpoint("clients"), timeout=SECONDS_MAX) as client:
            with pytest.raises(JobRefused, match="paused by ada"):
                client.enqueue(b"1")
            admin.resume("default")
            ticket = client.enqueue(b"1")
        assert admin.why(ticket.job_id).code == "no_worker"
        assert admin.cancel(ticket.job_id).state == "cancelled"
    assert not any("warning" in line for line in broker.err.lines)
    broker.signal(signal.SIGTERM)
    assert broker.end() == Exit.OK


def test_the_banner_warns_loudly_of_an_administrators_endpoint_that_is_open() -> None:
    """Beside the warning for the others, which says less."""
    endpoints = {"clients": "tcp://0.0.0.0:1", "workers": "tcp://127.0.0.1:2", "answers": "tcp://127.0.0.1:3"}
    rules = {"tries": None, "timeout": None, "pump": "cython", "hears_deaths": True}
    without = banner(endpoints, public=["clients"], **rules)  # type: ignore[arg-type]
    assert "admin" not in without
    text = banner({**endpoints, "admin": "tcp://0.0.0.0:4"}, public=["clients", "admin"], **rules)  # type: ignore[arg-type]
    assert "\n  admin    tcp://0.0.0.0:4\n" in text
    assert "clients: open to other machines; anyone who reaches it may submit and work" in text
    assert "admin: open to other machines; anyone who reaches it RULES THIS BROKER" in text


def test_the_banner_is_quoted_for_every_shell() -> None:
    """zsh and bash expand * and []: what the banner says to type is quoted where it has to be."""
    endpoints = {"clients": "tcp://[::1]:1", "workers": "tcp://[::]:2", "answers": "ipc:///tmp/a b*"}
    text = banner(endpoints, tries=None, timeout=None, pump="cython", public=["workers"], hears_deaths=True)
    assert "'tcp://[::1]:2' 'ipc:///tmp/a b*' 0.1" in text
    assert "testclient.py 'tcp://[::1]:1'" in text
    assert "no limit" in text
    assert "timeout  none" in text


@pytest.mark.parametrize(
    ("bound", "connected"),
    [
        ("tcp://0.0.0.0:1", "tcp://127.0.0.1:1"),
        ("tcp://[::]:1", "tcp://[::1]:1"),
        ("tcp://10.0.0.1:1", "tcp://10.0.0.1:1"),
        ("ipc:///tmp/a", "ipc:///tmp/a"),
    ],
)
def test_wildcards_are_no_address_to_connect_to(bound: str, connected: str) -> None:
    """The next command to type has to work."""
    assert reachable(bound) == connected


def test_logs_are_json_where_stderr_is_no_terminal(start: Start) -> None:
    """One JSON object a line; with --log-format json nothing else is on stderr."""
    broker = start("broker.py", "--log-format", "json", "0", "0", "0")
    ready = json.loads(broker.err.find("broker_ready").string)
    assert ready["event"] == "broker_ready"
    assert set(ready) >= {"clients", "workers", "answers", "tries", "timeout_s", "pump", "core", "level", "timestamp"}
    broker.signal(signal.SIGTERM)
    assert broker.end() == Exit.OK
    events = [json.loads(line)["event"] for line in broker.err.text.splitlines()]
    assert events == ["broker_ready", "broker_draining", "broker_stopped"]


def test_logs_for_eyes_on_demand(start: Start) -> None:
    """--log-format console anywhere, without colours where stderr is no terminal."""
    broker = start("broker.py", "--log-format", "console", "0", "0", "0")
    line = broker.err.find("broker_ready").string
    assert "\x1b" not in line
    assert "{" not in line


def test_a_level_that_is_off_is_silent(start: Start) -> None:
    """With --log-level error a healthy broker says nothing but its banner and its end."""
    broker = start("broker.py", "--log-level", "error", "0", "0", "0")
    broker.err.find(r"testclient.py")
    broker.signal(signal.SIGINT)
    assert broker.end() == Exit.OK
    assert "broker_" not in broker.err.text


def test_nobody_has_to_read_stderr() -> None:
    """`./broker.py ... 2>&1 | head -1`: a log that cannot be written is no reason to stop."""
    reader, writer = os.pipe()
    broker = subprocess.Popen(
        [sys.executable, str(ROOT / "broker.py"), "--log-level", "debug", "0", "0", "0"], stderr=writer
    )
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"r"
        os.close(reader)
        for _ in range(3):  # its last words, into a pipe that nobody reads
            broker.send_signal(signal.SIGTERM)
        assert broker.wait(SECONDS_MAX) == Exit.OK
    finally:
        broker.kill()
        broker.wait()


def submitted(broker: Program, connect: Connect) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """A client that has a job with a worker that holds it: (client, worker)."""
    client, worker = connect(zmq.REQ, broker.endpoint("clients")), connect(zmq.REQ, broker.endpoint("workers"))
    client.send(b"job")
    worker.send(b"")
    return client, worker


def test_an_idle_broker_stops_at_once(start: Start) -> None:
    """Nobody is owed anything: exit 0, also after SIGTERM."""
    broker = start("broker.py", "0", "0", "0")
    broker.err.find("broker_ready")
    broker.signal(signal.SIGTERM)
    assert broker.end() == Exit.OK
    assert "no job is open" in broker.err.text


def test_a_job_is_finished_while_draining(start: Start, connect: Connect) -> None:
    """The first signal says what is still open; when that is done the broker ends with 0."""
    broker = start("broker.py", "0", "0", "0")
    client, worker = submitted(broker, connect)
    token, body = worker.recv_multipart()
    broker.signal(signal.SIGINT)
    broker.err.find(r"draining: 1 open job goes on for up to 10 s")
    answers = connect(zmq.PUSH, broker.endpoint("answers"))
    answers.send_multipart([token, b"done " + body])
    assert client.recv() == b"done job"
    assert broker.end() == Exit.OK


def test_a_drain_time_that_ends(start: Start, connect: Connect) -> None:
    """Who is still owed an answer then is told of the failure, and the broker ends with 4."""
    broker = start("broker.py", "--drain", "100ms", "0", "0", "0")
    client, worker = submitted(broker, connect)
    worker.recv_multipart()
    broker.signal(signal.SIGTERM)
    assert client.recv() == b""
    assert broker.end() == Exit.OWED
    assert "stopped; 1 " in broker.err.text


def test_the_second_signal_stops_now(start: Start, connect: Connect) -> None:
    """Nobody waits for an hour of drain time against his will."""
    broker = start("broker.py", "--drain", "1h", "0", "0", "0")
    client, worker = submitted(broker, connect)
    worker.recv_multipart()
    broker.signal(signal.SIGINT)
    broker.err.find("draining: 1 open job")
    broker.signal(signal.SIGINT)
    assert client.recv() == b""
    assert broker.end() == Exit.OWED
    assert "stopping now: 1 open job" in broker.err.text


def test_the_plain_pump_on_demand(start: Start, connect: Connect) -> None:
    """--pump python runs the same broker without the compiled module, and says so."""
    broker = start("broker.py", "--pump", "python", "0", "0", "0")
    assert broker.err.find(r"^  pump +python\b")
    _client, worker = submitted(broker, connect)
    assert worker.recv_multipart()[1] == b"job"


def test_the_banner_says_when_deaths_are_not_heard() -> None:
    """Where libzmq does not tell whose connection has gone, the banner says what that means."""
    endpoints = dict.fromkeys(("clients", "workers", "answers"), "tcp://127.0.0.1:4161")
    silent = banner(endpoints, tries=3, timeout=2.0, pump="cython", public=(), hears_deaths=True)
    warned = banner(endpoints, tries=3, timeout=2.0, pump="cython", public=(), hears_deaths=False)
    assert "wait for their timeout" in warned
    assert "warning" not in silent
