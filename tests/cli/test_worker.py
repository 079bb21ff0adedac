"""`relet worker`: what it runs, how it ends, and what becomes of the jobs that it has then."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from relet import Broker, Client, Enqueued, Terms
from relet.cli import admin as program
from relet.cli import worker
from relet.cli.exits import Exit

from .conftest import SECONDS_MAX, Program

JOBS = '''
import time
from pathlib import Path
from relet import Tasks, current_job

tasks = Tasks()
HERE = Path(__file__).parent

@tasks.task
def add(a: int, b: int) -> int:
    return a + b

@tasks.task(queue="other")
async def attempt() -> int | None:
    return current_job().attempt

def shout(data: bytes) -> bytes:
    return data.upper()

def wait(data: bytes) -> bytes:
    """Until the test has made the file of this name."""
    (HERE / "entered").touch()
    while not (HERE / data.decode()).exists():
        time.sleep(0.005)
    return b"%d" % current_job().attempt

handlers = {"loud": shout, "slow": wait}
'''
LOOPBACK = "tcp://127.0.0.1:0"
Start = Callable[..., Program]


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """What a command line in this process configures is as it was."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the jobs' module lies."""
    (tmp_path / "jobs.py").write_text(JOBS)
    return tmp_path


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A broker that gives each job one attempt."""
    with Broker(LOOPBACK, LOOPBACK, LOOPBACK, tries=1) as broker:
        yield broker


@pytest.fixture
def client(broker: Broker) -> Iterator[Client]:
    """Its client."""
    with Client(broker.endpoints["clients"], timeout=SECONDS_MAX) as client:
        yield client


@pytest.fixture
def start(folder: Path, broker: Broker) -> Iterator[Start]:
    """Starts `relet worker` in that folder; whatever still runs when the test is over is ended."""
    started: list[Program] = []

    def starter(*words: str) -> Program:
        words = ("worker", "--workers", broker.endpoints["workers"], *words)
        started.append(Program("tests/cli/relet_as_program.py", *words, folder=folder))
        return started[-1]

    yield starter
    for each in started:
        each.close()


def entered(running: Program, folder: Path) -> None:
    """Return when the worker has a job in hand."""
    running.err.find("asks at")
    while not (folder / "entered").exists():
        assert running.process.poll() is None
    (folder / "entered").unlink()


# --- What it runs.


def test_it_does_all_there_is_and_ends(start: Start, client: Client) -> None:
    """--burst: the tasks of a registry, on all of their queues, functions and coroutines; then 0."""
    bodies = [(b"\x82\xa4task\xa3add\xa4args\x82\xa1a\x01\xa1b" + bytes([number])) for number in range(20)]
    handed = [one for one in client.enqueue_many(bodies) if isinstance(one, Enqueued)]
    other = client.enqueue(b"\x81\xa4task\xa7attempt", terms=Terms(queue="other"))
    running = start("jobs:tasks", "--burst", "--concurrency", "4")
    assert running.end() == Exit.OK
    assert [client.result(one.request_id) for one in handed] == [bytes([1 + number]) for number in range(20)]
    assert client.result(other.request_id) == b"\x01"
    assert "for default, other" in running.err.lines[0]
    assert running.err.lines[-1] == "relet worker: stopped; 21 answered, 0 failed, 0 handed back"


def test_handlers_run_in_processes_too(start: Start, client: Client) -> None:
    """A mapping of queues, one of which is served; and a limit that processes have."""
    running = start("jobs:handlers", "--queue", "loud=2", "--processes", "1", "--jobs-max", "2")
    assert [client.call(b"abc", terms=Terms(queue="loud")) for _ in range(3)] == [b"ABC"] * 3
    running.signal(signal.SIGTERM)
    assert running.end() == Exit.OK


def test_tasks_run_in_processes_too(start: Start, client: Client) -> None:
    """They find the registry by name."""
    start("jobs:tasks", "--processes", "1")
    assert client.call(b"\x81\xa4task\xa7attempt", terms=Terms(queue="other")) == b"\x01"


# --- How it ends.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_hand_is_finished_and_the_rest_goes_back(
    start: Start, client: Client, folder: Path, number: signal.Signals
) -> None:
    """Once it has ended it answers; what waited behind it is done by another, as its first attempt."""
    first = client.submit(b"go")
    running = start("jobs:wait")
    entered(running, folder)
    second = client.submit(b"go")
    running.signal(number)
    (folder / "go").touch()
    assert running.end() == Exit.OK
    assert first.result(SECONDS_MAX) == b"1"
    start("jobs:wait")
    assert second.result(SECONDS_MAX) == b"1"


@pytest.mark.parametrize("how", ["drain", "second signal"])
@pytest.mark.parametrize("options", [(), ("--concurrency", "2"), ("--processes", "1")], ids=str)
def test_what_does_not_end_in_time_is_handed_back(
    start: Start, client: Client, folder: Path, how: str, options: tuple[str, ...]
) -> None:
    """Uncounted: with one try another worker still does it. After the drain time, or at the second signal."""
    future = client.submit(b"go")
    running = start("jobs:wait", "--drain", "50ms" if how == "drain" else "1h", *options)
    entered(running, folder)
    running.signal(signal.SIGTERM)
    if how != "drain":
        running.signal(signal.SIGINT)
    assert running.end() == Exit.OK
    assert running.err.lines[-1].endswith("1 handed back")
    assert not future.done()
    (folder / "go").touch()
    start("jobs:wait")
    assert future.result(SECONDS_MAX) == b"1"


def test_a_burst_needs_a_broker(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It does not wait for one for ever."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(worker, "BURST_CONNECT_SECONDS", 0.05)
    monkeypatch.syspath_prepend(folder)
    try:
        with pytest.raises(SystemExit) as ended:
            program.main(["worker", "jobs:shout", "--burst", "--workers", "tcp://127.0.0.1:1"])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ended.value.code == Exit.UNREACHABLE
    assert "no broker answers at tcp://127.0.0.1:1" in capsys.readouterr().err


def test_while_developing_it_begins_anew_when_a_file_has_changed(start: Start, client: Client, folder: Path) -> None:
    """The next job is done by the new code; also after code that cannot be imported. A signal ends both."""
    running = start("jobs:shout", "--reload")
    assert client.call(b"a") == b"A"
    (folder / "jobs.py").write_text("def shout(")
    running.err.find("jobs.py has changed")
    running.err.find("SyntaxError")
    (folder / "jobs.py").write_text("def shout(data): return data * 2")
    assert client.call(b"a") == b"aa"
    running.signal(signal.SIGTERM)
    assert running.end() == Exit.OK


# --- What cannot be.


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("jobs", "say what to run as shop.jobs:tasks, not 'jobs'"),
        ("jobs:", "say what to run"),
        ("../jobs:tasks", "say what to run"),
        ("jots:tasks", "there is no module 'jots'"),
        ("jobs:taks", "jobs has no 'taks'; did you mean 'tasks'?"),
        ("jobs:LOOP", "jobs has no 'LOOP'"),
        ("jobs:HERE", "a handler is a function of bytes"),
        ("jobs:handlers --queue lout", "no handler for queue 'lout': did you mean 'loud'?"),
        ("jobs:tasks --queue a=x", "a weight is a whole number, not 'x'"),
        ("jobs:tasks --queue a --queue a", "named twice"),
        ("jobs:tasks --queue a=0", "weight"),
        ("jobs:tasks --time-limit 3s", "--time-limit is for processes: add --processes N"),
        ("jobs:tasks --processes 2 --concurrency 2", "leave one out"),
        ("jobs:tasks --burst --reload", "leave one out"),
        ("jobs:tasks --workers tcp://localhost:70000", "WORKERS: "),
        ("jobs:tasks --burts", "did you mean --burst?"),
        ("", "MODULE:NAME"),
    ],
)
def test_a_command_line_that_cannot_be_meant_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, text: str
) -> None:
    """On stderr, with what to change."""
    monkeypatch.chdir(folder)
    monkeypatch.delitem(__import__("sys").modules, "jobs", raising=False)
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(SystemExit) as ended:
        program.main(["worker", *words.split()])
    err = capsys.readouterr().err
    assert (ended.value.code, err.count("\n")) == (Exit.USAGE, 1)
    assert text in err


def test_weights_are_read_with_their_names() -> None:
    """None at all: the order says which is more important. A name may have an equals sign, if a weight follows."""
    assert worker.queues_of(["a", "b"]) == ("a", "b")
    assert worker.queues_of(["a=3", "b"]) == {"a": 3, "b": 1}
    assert worker.queues_of(["a=b=2"]) == {"a=b": 2}
    assert worker.queues_of([]) == ()


def test_what_reload_looks_at(tmp_path: Path) -> None:
    """Source files, not those of environments and caches."""
    for name in ("a.py", "b.txt", ".venv/c.py", "__pycache__/d.py", "e/f.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = {Path(path).relative_to(tmp_path).as_posix() for path, _ in worker.source_files(str(tmp_path))}
    assert found == {"a.py", "e/f.py"}
