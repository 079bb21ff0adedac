"""testworker.py and testclient.py as processes, with a broker in this one."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import zmq
from tests.cli.conftest import ROOT, SECONDS_MAX, Connect, Start

from relet import Broker
from relet.cli.exits import Exit

UNREACHABLE_SAID_SECONDS_MAX = 5.0
"""One second is promised; the rest is for starting an interpreter on a busy machine."""


def summary(text: str) -> dict[str, Any]:
    """The one JSON object on stdout."""
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize(
    ("program", "arguments", "hint"),
    [
        ("testclient.py", (), "are required: CLIENTS"),
        ("testclient.py", ("tcp://*:4161",), "CLIENTS: 'tcp://*:4161': '*' means every interface"),
        ("testclient.py", ("inproc://a",), "same process"),
        ("testclient.py", ("--job", "3", "4161"), "did you mean --jobs?"),
        ("testclient.py", ("-n", "0", "4161"), "write 1 or more"),
        ("testclient.py", ("--timeout", "0", "4161"), "write for example 500ms"),
        ("testclient.py", ("--body-size", "1K", "4161"), "did you mean 1KiB?"),
        ("testworker.py", ("4162", "4163"), "are required: DROP_RATE"),
        ("testworker.py", ("4162", "4163", "10"), "did you mean 10%?"),
        ("testworker.py", ("4162", "4162", "0"), "workers and answers have the same endpoint"),
        ("testworker.py", ("4162", "0", "0"), "ANSWERS: '0': port 0 can only be bound"),
        ("testworker.py", ("--crash", "2", "4162", "4163", "0"), "more than all"),
    ],
)
def test_usage_errors(program: str, arguments: tuple[str, ...], hint: str) -> None:
    """A command line that cannot be meant ends with 2 and one line that says what to change."""
    command = [sys.executable, str(ROOT / program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (Exit.USAGE, "", 1)
    assert done.stderr.startswith(f"{program}: ")
    assert hint in done.stderr


def test_a_worker_whose_queue_may_not_be_used_says_so_and_ends() -> None:
    """With 2 and one line, which names the queue and what there is."""
    with Broker(":0", ":0", ":0", queues={"mail": {}}, only_these_queues=True) as broker:
        endpoints = broker.endpoints["workers"], broker.endpoints["answers"]
        command = [sys.executable, str(ROOT / "testworker.py"), *endpoints, "0", "--workers", "2"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("testworker.py: tcp://")
    assert last.endswith("there is no queue 'default', and only those that are configured may be used: 'mail'")
    assert done.stderr.count("no queue") == 1


def test_jobs_are_done_and_checked(start: Start, broker: Broker) -> None:
    """Every thread's jobs are answered and right: exit 0, one JSON object on stdout, a line for each job, a tally."""
    worker = start("testworker.py", broker.endpoints["workers"], broker.endpoints["answers"], "0")
    client = start("testclient.py", "-n", "3", "--jobs", "7", "--window", "2", broker.endpoints["clients"])
    assert client.end() == Exit.OK
    found = summary(client.out.text)
    assert (found["jobs"], found["answered"], found["failed"], found["wrong"], found["open"]) == (21, 21, 0, 0, 0)
    assert found["latency_ms"]["p50"] <= found["latency_ms"]["p99"] <= found["latency_ms"]["max"]
    worker.signal(signal.SIGINT)
    assert worker.end() == Exit.OK
    lines = worker.out.text.splitlines()
    assert lines[-1].startswith("tally: 21 jobs taken, 21 answered, 0 dropped on purpose")
    assert len([line for line in lines if re.search(r"job [123]\.[1-7], 32 B: answered after ", line)]) == 21


def test_a_worker_that_drops_everything(start: Start, broker: Broker) -> None:
    """The broker lets the job three times, then the client is told: exit 1, and the job is named."""
    worker = start("testworker.py", broker.endpoints["workers"], broker.endpoints["answers"], "100%")
    client = start("testclient.py", "--jobs", "1", broker.endpoints["clients"])
    assert client.end() == Exit.JOB_FAILED
    found = summary(client.out.text)
    assert (found["answered"], found["failed"], found["bad"]) == (0, 1, ["1.1 (failed)"])
    worker.signal(signal.SIGTERM)
    assert worker.end() == Exit.OK
    assert worker.out.text.count("job 1.1, 32 B: dropped on purpose (rate 1)") == 3
    assert "3 jobs taken, 0 answered, 3 dropped on purpose" in worker.out.lines[-1]


def test_a_worker_that_is_late(start: Start, broker: Broker) -> None:
    """Its answer comes after the broker's timeout, and counts."""
    worker = start(
        "testworker.py", broker.endpoints["workers"], broker.endpoints["answers"], "0", "--late=700ms", "--late-rate=1"
    )
    client = start("testclient.py", "--jobs", "1", broker.endpoints["clients"])
    worker.out.find("job 1.1, 32 B: its answer is held back for 700 ms on purpose")
    assert client.end() == Exit.OK
    assert summary(client.out.text)["latency_ms"]["max"] >= 700
    assert broker.counters.attempts_expired >= 1


def test_a_worker_that_crashes(start: Start, broker: Broker) -> None:
    """The process is gone while it holds the job, with an exit code of its own; another one does the job."""
    crashing = start(
        "testworker.py", broker.endpoints["workers"], broker.endpoints["answers"], "0", "--crash", "1", "--quiet"
    )
    client = start("testclient.py", "--jobs", "1", broker.endpoints["clients"])
    assert crashing.end() == Exit.CRASHED
    assert "job 1.1, 32 B: crashing on purpose while it is in hand" in crashing.out.text
    start("testworker.py", broker.endpoints["workers"], broker.endpoints["answers"], "0")
    assert client.end() == Exit.OK


def test_several_workers_in_one_process(start: Start, broker: Broker) -> None:
    """Each is a worker of its own to the broker, and the tally is of all."""
    worker = start(
        "testworker.py",
        *(broker.endpoints["workers"], broker.endpoints["answers"], "0"),
        *("--workers", "3", "--ahead", "2", "--slow", "10ms"),
    )
    client = start("testclient.py", "--jobs", "30", "--window", "12", broker.endpoints["clients"])
    assert client.end() == Exit.OK
    assert broker.counters.workers_arrived == 3
    worker.signal(signal.SIGINT)
    assert worker.end() == Exit.OK
    assert {line[:8] for line in worker.out.text.splitlines()[:-1]} == {"worker 1", "worker 2", "worker 3"}
    assert worker.out.lines[-1].startswith("tally: 30 jobs taken, 30 answered")


def test_a_seed_decides_the_same_again(start: Start, broker: Broker) -> None:
    """The same jobs in the same order are dropped in every run with the same seed."""
    runs = []
    for _ in range(2):
        worker = start("testworker.py", broker.endpoints["workers"], broker.endpoints["answers"], "0.3", "--seed", "11")
        client = start("testclient.py", "--jobs", "5", broker.endpoints["clients"])
        client.end()
        worker.signal(signal.SIGINT)
        worker.end()
        runs.append(re.findall(r"(job 1\.\d+).*?: (answered|dropped)", worker.out.text))
    assert runs[0] == runs[1]
    assert {"answered", "dropped"} == {what for _, what in runs[0]}


def test_a_wrong_answer_is_noticed(start: Start, broker: Broker, connect: Connect) -> None:
    """A worker that answers something else: exit 1, and the summary shows what came."""
    client = start("testclient.py", "--jobs", "1", broker.endpoints["clients"])
    worker = connect(zmq.REQ, broker.endpoints["workers"])
    worker.send(b"")
    token, _body = worker.recv_multipart()
    connect(zmq.PUSH, broker.endpoints["answers"]).send_multipart([token, b"nonsense"])
    assert client.end() == Exit.JOB_FAILED
    found = summary(client.out.text)
    assert (found["wrong"], found["bad"]) == (1, ["1.1 (wrong answer: b'nonsense')"])


def test_an_answer_that_does_not_come(start: Start, broker: Broker) -> None:
    """With --timeout the client ends in any case, and counts the job apart from failures."""
    client = start("testclient.py", "--jobs", "1", "--timeout", "200ms", broker.endpoints["clients"])
    assert client.end() == Exit.JOB_FAILED
    assert summary(client.out.text)["unanswered"] == 1


def test_an_interrupted_client_tells_so_far(start: Start, broker: Broker) -> None:
    """Ctrl-C: the summary of what was done, and 130."""
    client = start("testclient.py", "--jobs", "1", broker.endpoints["clients"])
    client.err.find("broker_connected")
    client.signal(signal.SIGINT)
    assert client.end() == Exit.INTERRUPTED
    found = summary(client.out.text)
    assert (found["interrupted"], found["open"], found["answered"]) == (True, 1, 0)


@pytest.mark.parametrize(
    ("program", "arguments"), [("testclient.py", ("4161",)), ("testworker.py", ("4162", "4163", "0"))]
)
def test_a_broker_that_is_not_there_is_said(
    start: Start, program: str, arguments: tuple[str, ...], tmp_path: Any
) -> None:
    """Within a second, once, and it goes on trying."""
    nowhere = [f"ipc://{tmp_path}/{word}" if word.isdecimal() and len(word) > 1 else word for word in arguments]
    began = time.monotonic()
    peer = start(program, *nowhere)
    peer.err.find("broker_unreachable")
    assert time.monotonic() - began < UNREACHABLE_SAID_SECONDS_MAX
    assert peer.process.poll() is None
    peer.signal(signal.SIGINT)
    assert peer.end() in {Exit.OK, Exit.INTERRUPTED}
    assert len([line for line in peer.err.text.splitlines() if "broker_unreachable" in line]) == 1


@pytest.mark.parametrize(
    ("program", "role", "advice"),
    [("testclient.py", "workers", "connect clients to"), ("testworker.py", "clients", "connect workers to")],
)
def test_the_endpoint_of_the_others_is_a_usage_error(
    start: Start, broker: Broker, program: str, role: str, advice: str
) -> None:
    """The broker says so, and the program ends with 2 and says what to change."""
    more = (broker.endpoints["answers"], "0") if program == "testworker.py" else ()
    peer = start(program, broker.endpoints[role], *more)
    assert peer.end() == Exit.USAGE
    assert peer.err.text.splitlines()[-1].startswith(f"{program}: {broker.endpoints[role]}: this is the endpoint for")
    assert advice in peer.err.text
    assert peer.out.text == ""


def test_a_client_need_not_wait_for_ever(start: Start, tmp_path: Any) -> None:
    """With --wait it ends with 3 when no broker comes."""
    client = start("testclient.py", "--wait", "300ms", f"ipc://{tmp_path}/nowhere")
    assert client.end() == Exit.UNREACHABLE
    assert "no broker answered" in client.err.text
    assert client.out.text == ""


def on_terminal(*command: str) -> tuple[int, str]:
    """Exit code and screen of a command that runs on a terminal of 100 columns."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(COLUMNS="100", LINES="40", TERM="xterm", NO_COLOR="")
        os.execv(sys.executable, [sys.executable, *command])  # noqa: S606 - the child of a pty
    screen = b""
    until = time.monotonic() + SECONDS_MAX
    while select.select([terminal], [], [], max(0.0, until - time.monotonic()))[0]:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the program has ended, and the terminal with it
            break
        if not piece:
            break
        screen += piece
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), screen.decode()


def test_a_terminal_shows_a_live_line_and_a_table(start: Start, broker: Broker) -> None:
    """On a terminal: the line with rate, failures and latency, then outcomes, percentiles and the chart; no JSON."""
    start("testworker.py", broker.endpoints["workers"], broker.endpoints["answers"], "0", "--slow", "20ms")
    code, screen = on_terminal(str(ROOT / "testclient.py"), "--jobs", "20", broker.endpoints["clients"])
    assert code == Exit.OK
    assert re.search(r"\d+/20\S* .*/s  0 bad  p50 \d.*p99", screen)
    for text in ("20 jobs", "answered, and right", "100.00%", "latency", "p90", "up to", "█"):
        assert text in screen
    assert "{" not in screen


def test_a_terminal_shows_json_on_demand(start: Start, broker: Broker) -> None:
    """--json, where a person wants what a script gets."""
    start("testworker.py", broker.endpoints["workers"], broker.endpoints["answers"], "0")
    command = ("--json", "--jobs", "2", "--log-level", "error", broker.endpoints["clients"])
    code, screen = on_terminal(str(ROOT / "testclient.py"), *command)
    assert code == Exit.OK
    assert summary(screen)["answered"] == 2


def test_a_closed_stdout_is_no_traceback() -> None:
    """`testclient.py ... >&-` says what it has to say on stderr, and nothing more."""
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} {ROOT / 'testclient.py'} --wait 100ms tcp://127.0.0.1:1 >&-"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
