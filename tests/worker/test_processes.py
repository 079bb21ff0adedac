"""Handlers in processes: which are killed, die, are replaced, and end with their worker. What all pools can is in
test_pools.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from relet import AsyncWorker, Processes, Worker
from relet.messages import Complete, Fail, Goodbye, HandBack, Partial
from relet.worker.child import resident_bytes

from . import handlers
from .conftest import WAIT_SECONDS, Lines, NativeBroker, Running

LONG_S = 600
NAMED = handlers.__name__


def pid_of(broker: NativeBroker, token: bytes, body: bytes = b"process") -> int:
    """In which process the next job was done."""
    broker.give(token, body)
    assert broker.hear(Complete).token == token
    return int(broker.body[0])


@pytest.fixture
def held(tmp_path: Path) -> bytes:
    """The body of a job that does not end by itself."""
    path = tmp_path / "held"
    os.mkfifo(path)
    return b"wait %s" % os.fsencode(path)


def test_an_attempt_that_takes_too_long_is_ended_and_has_failed(
    native_broker: NativeBroker, lines: Lines, held: bytes
) -> None:
    """With a kind of its own; the next job is done by another process."""
    broker = native_broker
    with Running(Worker(broker.workers, handler=handlers.act, concurrency=Processes(1, time_limit=0.5))) as worker:
        broker.begin()
        before = pid_of(broker, b"a")
        broker.give(b"b", held)
        broker.hear(Partial)
        said = broker.hear(Fail)
        assert (said.token, said.kind, said.text) == (b"b", "TimeLimitExceeded", "its process was killed after 0.5 s")
        line = lines.wait_for("handler_failed")
        assert line["error"].startswith("TimeLimitExceeded: ")
        assert bytes.fromhex(line["job"]) == b"b".rjust(16, b"j")
        assert pid_of(broker, b"c") != before
        assert (worker.counters.failed, worker.counters.answered) == (1, 2)
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def test_a_process_that_dies_takes_one_attempt_with_it(native_broker: NativeBroker, held: bytes) -> None:
    """The others go on, and so does the pool."""
    broker = native_broker
    with Running(Worker(broker.workers, handler=handlers.act, concurrency=Processes(2))):
        broker.begin()
        broker.give(b"a", held)
        broker.hear(Partial)
        other = pid_of(broker, b"b")
        broker.give(b"c", b"die")
        said = broker.hear(Fail)
        assert (said.token, said.kind) == (b"c", "ProcessDied")
        assert said.text == "its process was ended by Killed (signal 9)"
        assert pid_of(broker, b"d") != other
        with Path(os.fsdecode(held.removeprefix(b"wait "))).open("wb") as pipe:
            pipe.write(b"done")
        assert broker.hear(Complete).token == b"a"


def test_a_process_is_replaced_after_so_many_jobs(native_broker: NativeBroker) -> None:
    """Its last job is answered as ever, failures count, and no attempt is lost."""
    broker = native_broker
    with Running(Worker(broker.workers, handler=handlers.act, concurrency=Processes(1, jobs_max=2))) as worker:
        broker.begin()
        pids = [pid_of(broker, b"%d" % number) for number in range(3)]
        assert pids[0] == pids[1] != pids[2]
        broker.give(b"x", b"raise")
        assert broker.hear(Fail).kind == "ZeroDivisionError"
        assert pid_of(broker, b"y") not in pids
        assert worker.counters.failed == 1


def test_a_process_that_has_grown_is_replaced(native_broker: NativeBroker) -> None:
    """By the memory that it has when a job ends."""
    broker = native_broker
    limit = resident_bytes() + 200_000_000
    assert limit > 200_000_000
    with Running(Worker(broker.workers, handler=handlers.act, concurrency=Processes(1, rss_bytes_max=limit))):
        broker.begin()
        first = pid_of(broker, b"a")
        assert pid_of(broker, b"b") == first
        assert pid_of(broker, b"c", b"grow %d" % limit) == first
        assert pid_of(broker, b"d") != first


def test_coroutines_run_in_a_loop_of_their_process(native_broker: NativeBroker) -> None:
    """With hooks that are coroutines; functions run in a thread there, too."""
    broker = native_broker
    mapped: Any = {"default": handlers.act_awaited, "mail": handlers.other}
    with Running(
        Worker(broker.workers, handler=mapped, hooks=(handlers.outer_awaited,), concurrency=Processes(1))
    ):
        broker.begin()
        broker.give(b"a", b"echo x")
        broker.hear(Complete)
        assert broker.body == [b"outer(done: x)"]
        broker.give(b"b", b"raise")
        assert broker.hear(Fail).kind == "hooked"
        broker.give(b"c", b"x", queue="mail")
        broker.hear(Complete)
        assert broker.body == [b"outer(other: x)"]


def test_a_process_leaves_signals_to_its_worker(native_broker: NativeBroker, held: bytes) -> None:
    """What a terminal or a supervisor sends to all processes of a program does not end its jobs."""
    broker = native_broker
    with Running(Worker(broker.workers, handler=handlers.act, concurrency=Processes(1))):
        broker.begin()
        pid = pid_of(broker, b"a")
        broker.give(b"b", held)
        broker.hear(Partial)
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
        with Path(os.fsdecode(held.removeprefix(b"wait "))).open("wb") as pipe:
            pipe.write(b"done")
        assert broker.hear(Complete).token == b"b"


# --- What they cannot do.


def nowhere(data: bytes) -> bytes:
    """It is about to be gone."""
    return data


def test_a_handler_that_cannot_be_found_by_name_is_refused_when_the_worker_is_made() -> None:
    """With a sentence that says what to do."""
    workers, processes = "tcp://127.0.0.1:4162", Processes(1)

    def local(data: bytes) -> bytes:
        return data

    class Derived(Worker):
        def process(self, data: bytes) -> bytes:
            return data

    wrong: Any
    for wrong in (local, lambda data: data, handlers.kept.append, Derived):
        with pytest.raises(TypeError, match=r"cannot be imported by name: .* top level of a module"):
            Worker(workers, handler=wrong, concurrency=processes)
        with pytest.raises(TypeError, match=r"cannot be imported by name: .* top level of a module"):
            Worker(workers, handler={"default": wrong}, concurrency=processes)
    with pytest.raises(TypeError, match="local cannot be imported by name"):
        Worker(workers, handler=bytes, hooks=(local,), concurrency=processes)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="do not derive a class"):
        Derived(workers, concurrency=processes)
    with pytest.raises(TypeError, match="for processes take a Worker"):
        AsyncWorker(workers, handler=bytes, concurrency=processes)
    Worker(workers, handler=bytes, concurrency=processes)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"count": 0}, "count"),
        ({"count": 1, "jobs_max": 0}, "jobs_max"),
        ({"count": 1, "rss_bytes_max": 1.5}, "rss_bytes_max"),
        ({"count": 1, "time_limit": 0}, "time_limit"),
        ({"count": 1, "time_limit": "1"}, "time_limit"),
        ({"count": 1, "time_limit": float("inf")}, "time_limit"),
    ],
)
def test_processes_have_bounds(options: dict[str, Any], says: str) -> None:
    """Each is named."""
    with pytest.raises(ValueError, match=rf"Processes\({says}=...\) is a "):
        Processes(**options)
    with pytest.raises(ValueError, match="concurrency must be between 1 and 1000"):
        Worker("tcp://127.0.0.1:4162", handler=bytes, concurrency=Processes(1_001))


def test_a_process_that_cannot_import_its_handler_ends_the_worker(
    native_broker: NativeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says what the import said."""
    worker = Worker(native_broker.workers, handler=nowhere, concurrency=Processes(2))
    assert worker._plan
    monkeypatch.setattr(worker, "_plan", type(worker._plan)(f"{NAMED}:nothing", (), ("default",), None, None))
    running = Running(worker)
    running.join()
    assert isinstance(running.error, RuntimeError)
    assert "cannot import" in str(running.error)
    assert "has no attribute 'nothing'" in str(running.error)


UNGUARDED = """
import sys
from relet import Processes, Worker
def handler(data):
    return data
Worker(sys.argv[1], handler=handler, concurrency=Processes(1)).run()
"""
GUARDED = """
import signal, sys, threading
from relet import Processes, Worker, current_job
def handler(data):
    print("in hand", flush=True)
    threading.Event().wait()
def main():
    worker = Worker(sys.argv[1], handler=handler, concurrency=Processes(2), drain=0.01)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    if sys.argv[2] == "thread":
        threading.Thread(target=worker.run, daemon=True).start()
        sys.stdin.readline()
        return
    try:
        worker.run()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print("ended", worker.counters.handed_back, flush=True)
if __name__ == "__main__":
    main()
"""


def program(folder: Path, text: str, *arguments: str) -> subprocess.Popen[bytes]:
    """It as a file, running."""
    file = folder / "program.py"
    file.write_text(text)
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, str(file), *arguments],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        env={"PYTHONPATH": str(Path("lib").resolve())},
    )


def test_a_program_that_does_not_guard_what_it_does_is_told_so(native_broker: NativeBroker, tmp_path: Path) -> None:
    """It does not start processes for ever."""
    with program(tmp_path, UNGUARDED, native_broker.workers) as child:
        _, error = child.communicate(timeout=4 * WAIT_SECONDS)
        assert child.returncode == 1
        assert b'if __name__ == "__main__":' in error


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL", "exit"])
def test_processes_end_with_their_worker(native_broker: NativeBroker, tmp_path: Path, how: str) -> None:
    """However it ends, and whatever they do: its output ends only when they have gone, too."""
    broker = native_broker
    with program(tmp_path, GUARDED, broker.workers, "thread" if how == "exit" else "run") as child:
        try:
            assert child.stdout
            assert child.stdin
            broker.begin()
            broker.give(b"t", b"x")
            assert child.stdout.readline() == b"in hand\n"
            if how == "exit":
                child.stdin.write(b"\n")
                child.stdin.flush()
            else:
                child.send_signal(signal.Signals[how])
            if how in {"SIGINT", "SIGTERM"}:
                assert broker.hear(HandBack).token == b"t"
                broker.hear(Goodbye)
            out, error = child.communicate(timeout=2 * WAIT_SECONDS)
        finally:
            child.kill()
    expected = {"SIGINT": b"interrupted\nended 1\n", "SIGTERM": b"ended 1\n"}
    assert (out, error) == (expected.get(how, b""), b"")
    assert child.returncode == (-signal.SIGKILL if how == "SIGKILL" else 0)
