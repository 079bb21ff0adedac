#!/usr/bin/env python3
"""A pipeline of steps that say what they do, and that loses no job when one of them dies.

    .venv/bin/python examples/step_pipeline.py pipeline FILE...       # says how to start steps; counts words
    .venv/bin/python examples/step_pipeline.py read EVENTS WORKERS    # and `count`: as many of each as you like

Jobs go through relet: the broker in the pipeline holds on to each until its step has succeeded, and lets it again when
that step fails or dies. What steps *say* (available, started, succeeded, failed, metrics, logs) are events of theirs.
"""

import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import zmq

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))  # so that it runs from a checkout

from relet import Broker, Client, JobFailed, Terms, Worker, current_job
from relet.sockets import MessagePack, SocketManager

STEPS = {"read": lambda body: Path(body.decode()).read_bytes(), "count": lambda body: b"%d" % len(body.split())}


def step(kind: str, events: str, workers: str) -> None:
    """Do jobs of one kind, one at a time, and say so; until Ctrl-C."""
    with SocketManager(zmq, zmq.Context(), MessagePack()) as sockets:
        sockets.ensure_and_connect("events", zmq.XPUB, events, zmq.POLLOUT)
        sockets.wait_until_ready("events", zmq.POLLIN)  # the pipeline has subscribed: from now on it hears everything
        log = sockets.get_logger("events", "logs", kind)

        def say(topic: str, **data: object) -> None:
            sockets.publish_safe("events", topic, {"step": f"{kind}-{os.getpid()}", **data})

        def handle(body: bytes) -> bytes:
            job, began = current_job(), time.monotonic()
            say("started", job=job.uuid, attempt=job.attempt)
            try:
                answer = STEPS[kind](body)
            except Exception as error:
                say("failed", job=job.uuid, error=repr(error))
                log.exception("attempt %s failed", job.attempt)
                raise  # relet tries again
            say("succeeded", job=job.uuid)
            say("metrics", seconds=time.monotonic() - began, answer_bytes=len(answer))
            return answer

        say("available")
        Worker(workers, handler=handle, queues=[kind], ahead=1).run()


def pipeline(files: list[str]) -> None:
    """Take each file through both steps; print what the steps say, and how many words are in which file."""
    def words(file: str) -> str:
        try:
            text = client.call(file.encode(), terms=Terms(queue="read"))
            return client.call(text, terms=Terms(queue="count")).decode()
        except JobFailed as error:
            return str(error)

    def unfinished() -> object:
        return not all(map(Future.done, told)) or sockets.ready("events", zmq.POLLIN, 0)

    with Broker(":0", ":0", ":0", tries=3) as broker, SocketManager(zmq, zmq.Context(), MessagePack()) as sockets:
        sockets.create("events", zmq.SUB)
        _, events = sockets.bind_to_random_port("events", zmq.POLLIN, "tcp://127.0.0.1")
        print("steps", events, broker.endpoints["workers"], flush=True)
        with ThreadPoolExecutor(8) as pool, Client(broker.endpoints["clients"], timeout=None) as client:
            told = [pool.submit(words, file) for file in files]
            for topic, data in sockets.subscribe("events", "", unfinished, timeout=0.1):
                print(topic, data, flush=True)
    for file, future in zip(files, told, strict=True):
        print("words", file, future.result(), flush=True)


if __name__ == "__main__":
    pipeline(sys.argv[2:]) if sys.argv[1:2] == ["pipeline"] else step(*sys.argv[1:4])
