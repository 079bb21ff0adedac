"""The examples, run as a reader would run them."""

from __future__ import annotations

import json
import lzma
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60
FILES = 60


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended with the test, by their id."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait(LIMIT_S)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def lines(stream: IO[str] | None) -> Iterator[dict[str, object]]:
    """The events of a JSON log, as they come."""
    assert stream is not None
    for line in stream:
        yield json.loads(line)


def test_files_are_compressed_though_workers_are_killed(processes: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    """Every file comes back compressed, though a worker is killed while it holds one of them."""
    folder, out = tmp_path / "in", tmp_path / "out"
    contents = {f"{i % 3}/{i}.txt": (f"line {i}\n" * (20_000 + i)).encode() for i in range(FILES)}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    def start(*command: str | Path, **options: object) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, *command], text=True, **options)  # type: ignore[call-overload]  # options
        processes.append(process)
        return process

    broker = start(
        ROOT / "broker.py", "-t", "3", "--log-level", "debug", "--log-format", "json", "0", "0", "0",
        stderr=subprocess.PIPE,
    )
    log = lines(broker.stderr)
    ready = next(event for event in log if event["event"] == "broker_ready")
    example = ROOT / "examples" / "compress_files.py"
    workers = [start(example, "worker", str(ready["workers"]), str(ready["answers"])) for _ in range(2)]
    client = start(example, "client", str(ready["clients"]), folder, out, stdout=subprocess.PIPE)
    arrived = 0
    for event in log:
        arrived += event["event"] == "worker_arrived"
        if arrived == 2 and event["event"] == "job_dispatched":
            workers[0].kill()
            break
    lost = next(event for event in log if event["event"] == "worker_lost")
    said, _ = client.communicate(timeout=LIMIT_S)
    broker.send_signal(signal.SIGTERM)
    stopped = next(event for event in log if event["event"] == "broker_stopped")

    assert client.returncode == 0
    assert said.startswith(f"{FILES} of {FILES} files")
    assert {path.relative_to(out).as_posix(): lzma.decompress(path.read_bytes()) for path in out.rglob("*.xz")} == {
        name + ".xz": content for name, content in contents.items()
    }
    assert stopped["jobs_completed"] == FILES
    lost_or_returned = stopped.get("attempts_lost", 0) + stopped.get("handovers_returned", 0)
    assert lost_or_returned == lost["jobs_held"], "what it had started cost an attempt, what it had not cost none"
