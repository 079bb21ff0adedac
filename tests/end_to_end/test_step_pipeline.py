"""The example of a pipeline: its steps say what they do, and one that dies takes no job with it."""

from __future__ import annotations

import ast
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .conftest import LIMIT_S, ROOT, Place, Program

EXAMPLE = ROOT / "examples" / "step_pipeline.py"
FILES = 20


def events(lines: list[str], topic: str) -> list[dict[str, Any]]:
    """What was said of a topic so far."""
    return [ast.literal_eval(line.partition(" ")[2]) for line in lines if line.startswith(topic + " ")]


def begin(place: Place, *files: Path) -> tuple[Program, Callable[[str], Program]]:
    """The pipeline, and what starts a step of it."""
    pipeline = place.program(str(EXAMPLE), "pipeline", *map(str, files), reads="stdout")
    _, *ends = pipeline.wait_for(lambda lines: [line for line in lines if line.startswith("steps ")])[0].split()
    return pipeline, lambda kind: place.program(str(EXAMPLE), kind, *ends, reads="stderr")


def test_no_job_is_lost_when_a_step_dies(place: Place, tmp_path: Path) -> None:
    """The one that it had in hand is done by another one."""
    files = [tmp_path / f"{number}.txt" for number in range(FILES)]
    for number, file in enumerate(files):
        file.write_text("word " * number)
    fifo = tmp_path / "fifo"  # reading it takes until somebody writes to it
    os.mkfifo(fifo)
    pipeline, step = begin(place, fifo, *files)
    reads = step("read")
    step("count")
    with ThreadPoolExecutor(1) as pool:
        reader_is_there = pool.submit(os.open, fifo, os.O_WRONLY)
        descriptor = reader_is_there.result(LIMIT_S)
        reads.signal(signal.SIGKILL)
        assert reads.ended() == -signal.SIGKILL
        os.close(descriptor)
        heir = step("read")
        pool.submit(fifo.write_text, "two words").result(LIMIT_S)
    assert pipeline.ended() == 0

    words = dict(line.split()[1:] for line in pipeline.lines if line.startswith("words "))
    assert words == {str(fifo): "2"} | {str(file): str(number) for number, file in enumerate(files)}
    # What a step said in the moment before it was killed may be lost. Its jobs are not.
    kinds = {event["step"].partition("-")[0] for event in events(pipeline.lines, "available")}
    assert kinds == {"read", "count"}
    assert {event["step"] for event in events(pipeline.lines, "started")} >= {f"read-{heir.process.pid}"}
    assert len(events(pipeline.lines, "succeeded")) >= FILES
    assert all(event["seconds"] >= 0 for event in events(pipeline.lines, "metrics"))


def test_a_step_that_fails_says_so_and_the_job_is_tried_again(place: Place, tmp_path: Path) -> None:
    """In the end the pipeline says why, and has lost nothing else."""
    there = tmp_path / "there.txt"
    there.write_text("three words there")
    pipeline, step = begin(place, tmp_path / "not-there", there)
    step("read")
    step("count")
    assert pipeline.ended() == 0
    assert f"words {there} 3" in pipeline.lines
    (failure,) = (line for line in pipeline.lines if line.startswith(f"words {tmp_path / 'not-there'} "))
    assert "FileNotFoundError" in failure
    assert 2 in [event["attempt"] for event in events(pipeline.lines, "started")]
    assert "FileNotFoundError" in events(pipeline.lines, "failed")[0]["error"]
    logs = events(pipeline.lines, "logs")
    assert {(event["logger"], event["level"]) for event in logs} == {("read", "ERROR")}
    assert all("attempt" in event["message"] and "Traceback" in event["message"] for event in logs)
