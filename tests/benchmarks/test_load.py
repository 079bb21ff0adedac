"""The load generator against libzmq's proxy, and against brokers that answer wrongly."""

import itertools
import os
import select
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zmq
from benchmarks.figures import Sample
from benchmarks.scenario import Setting

from benchmarks import __main__, flows, load, targets

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="the load generator is in C: no compiler here")

Frames = list[bytes]
PATIENCE_MS = 20_000


class Double(targets.Target):
    """A broker in a thread of the test, as far as the load generator can see."""

    def __init__(self, endpoints: list[str]) -> None:
        self.endpoints = endpoints

    @property
    def pid(self) -> int:
        """The test's own process."""
        return os.getpid()


@contextmanager
def broker(alter: Callable[[Frames], Frames | None]) -> Iterator[Double]:
    """A small broker that gives every job to the next ask; `alter` may change the answer's frames, or drop it."""
    with zmq.Context() as context:
        clients, workers = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
        answers, ends, end = context.socket(zmq.PULL), context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        for socket in (clients, workers, answers, ends, end):
            socket.linger = 0
        ends.bind("inproc://end")
        end.connect("inproc://end")
        ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in (clients, workers, answers)]

        def serve() -> None:
            poller = zmq.Poller()
            for socket in (clients, workers, answers, ends):
                poller.register(socket, zmq.POLLIN)
            waiting: list[Frames] = []
            asks: list[bytes] = []
            numbers = itertools.count()
            running: dict[bytes, bytes] = {}
            while True:
                for socket, _ in poller.poll():
                    if socket is ends:
                        return
                    frames = socket.recv_multipart()
                    if socket is clients:
                        waiting.append(frames)
                    elif socket is workers:
                        asks.append(frames[0])
                    elif (altered := alter(frames[1:])) is not None:
                        clients.send_multipart([running.pop(frames[0]), b"", *altered])
                while waiting and asks:
                    client, _, *body = waiting.pop(0)
                    job = next(numbers).to_bytes(16, "big")
                    running[job] = client
                    workers.send_multipart([asks.pop(0), b"", job, *body])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Double([f"tcp://127.0.0.1:{port}" for port in ports])
        finally:
            end.send(b"")
            thread.join(PATIENCE_MS / 1000)
            for socket in (clients, workers, answers, ends, end):
                socket.close()


def once(change: Callable[[Frames], Frames]) -> Callable[[Frames], Frames]:
    """Changes the first answer only."""
    seen: list[Frames] = []

    def alter(frames: Frames) -> Frames:
        seen.append(frames)
        return change(frames) if len(seen) == 1 else frames

    return alter


def test_jobs_flow_through_the_proxy() -> None:
    """Every job of every size comes back, and the proxy's CPU for it is seen."""
    for body_bytes in (16, 32, 65_536):
        with targets.proxy() as target, load.load(target, body_bytes=body_bytes) as peers:
            sample = flows.flow(target, peers, 300, 50)
        assert sample["jobs"] == 300
        assert 0 < sample["cpu_us"] < 100_000
        assert 0 < sample["p50_ms"] <= sample["p99_ms"] <= sample["max_ms"]


def test_answers_that_are_right_are_counted() -> None:
    """All jobs answered, none wrong."""
    with broker(lambda frames: frames) as target, load.load(target) as peers:
        assert peers.flow(500, 50)["answered"] == 500


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda _: [b""], "1 failed"),
        (lambda frames: [frames[0][:-1]], "1 wrong"),
        (lambda frames: [*frames, b"more"], "1 wrong"),
        (lambda frames: [bytes([frames[0][0] ^ 1]) + frames[0][1:]], "1 wrong"),
    ],
)
def test_an_answer_that_is_wrong_is_said(change: Callable[[Frames], Frames], complaint: str) -> None:
    """A failure, a cut body, a frame too many, another job's number."""
    with (
        broker(once(change)) as target,
        load.load(target) as peers,
        pytest.raises(load.WrongAnswersError, match=complaint),
    ):
        peers.flow(100, 10)


def test_an_answer_that_comes_twice_is_said() -> None:
    """The second answer to a job that is no longer open."""
    kept: list[Frames] = []

    def alter(frames: Frames) -> Frames:
        kept.append(frames)
        return kept[0] if len(kept) == 2 else frames

    with broker(alter) as target, load.load(target) as peers, pytest.raises(load.WrongAnswersError, match="1 twice"):
        peers.flow(100, 10)


def test_held_jobs_are_answered_in_the_end() -> None:
    """Two hundred held, a flow past them, all of them drained."""
    with broker(lambda frames: frames) as target, load.load(target) as peers:
        assert peers.hold(200, 50)["held"] == 200
        assert peers.flow(100, 10)["held"] == 200
        assert peers.drain(50)["answered"] == 200


def test_jobs_flow_past_others_that_wait() -> None:
    """The flow ends although a hundred jobs more were submitted than asked for."""
    with broker(lambda frames: frames) as target, load.load(target) as peers:
        peers.fill(100)
        assert peers.flow(300, 10)["answered"] == 300


def test_a_target_that_ends_meanwhile_is_said_at_once() -> None:
    """Its name and what it was doing, not the load generator's patience running out."""
    with targets.proxy() as target, load.load(target) as peers:
        peers.flow(10, 1)
        killer = threading.Timer(0.1, target.process.kill)  # while a flow is under way that would take minutes
        killer.start()
        with pytest.raises(targets.TargetError, match=r"^proxy ended at `flow 10000000 1`: ready"):
            peers.flow(10_000_000, 1)
        killer.join()


def test_a_word_it_does_not_know_ends_the_load_with_a_reason() -> None:
    """No silence, no hang."""
    with targets.proxy() as target, load.load(target) as peers, pytest.raises(load.LoadError, match="what is `fill 5`"):
        peers.fill(5)  # a proxy keeps no jobs


def test_a_missing_compiler_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install, no traceback."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(load.LoadError, match=r"^no C compiler [^\n]*install one, or set CC$"):
        load.build()


def test_a_target_that_does_not_start_is_said_with_its_last_words() -> None:
    """The reason comes from the program itself."""
    command = ["/bin/sh", "-c", "echo it is so; echo no luck >&2; exit 3"]
    with pytest.raises(targets.TargetError, match=r"relet did not start \(3\): no luck"), targets.broker(command):
        pass


def test_a_target_is_ended_with_all_that_it_started() -> None:
    """A wrapped broker (perf, strace) is no child of ours: it ends all the same."""
    command = ["/bin/sh", "-c", 'sleep 600 & echo "$! $*"; wait', "wrapper"]
    with targets.broker(command) as target:
        wrapped = os.pidfd_open(int(target.spoken().split()[0]))
    try:
        assert select.select([wrapped], [], [], PATIENCE_MS / 1000)[0], "it still runs"
    finally:
        os.close(wrapped)


def test_a_round_that_was_not_finished_gives_no_samples(capsys: pytest.CaptureFixture[str]) -> None:
    """The first target was measured, the second was not: nothing is kept, and the failure is said."""

    class Half(flows.Pipelined):
        def measure(self, setting: Setting) -> Iterator[Sample]:
            yield {"target": "proxy", "cpu_us": 1.0}
            raise targets.TargetError("gone")

    samples: list[Sample] = []
    failures: dict[str, str] = {}
    __main__._measure(Half("half", "half", 1, 32, 1), Setting(), 1, samples, failures)
    assert samples == []
    assert failures == {"half": "TargetError: gone"}
    assert "half: TargetError: gone" in capsys.readouterr().err


def test_a_round_is_the_mean_of_its_turns_and_the_median_of_their_percentiles() -> None:
    """A dear turn counts in full for the CPU; a slow one does not move the usual latency."""
    turns = [{"jobs": 10, "cpu_us": cpu, "p50_ms": p50} for cpu, p50 in ((1.0, 1.0), (1.0, 2.0), (7.0, 90.0))]
    assert flows.together(turns) == {"jobs": 30, "cpu_us": 3.0, "p50_ms": 2.0}


def test_a_figure_comes_of_interleaved_rounds() -> None:
    """A scenario with two targets gives its figures from samples of both."""
    scenario = flows.Pipelined("name", "title", 10, 32, 10, cpu_bar=3.0)
    samples: list[Sample] = [
        {"target": target, "cpu_us": cpu, "jobs_per_s": 10.0, "p50_ms": 1.0, "p99_ms": 2.0}
        for cpu in (2.0, 4.0, 3.0)
        for target, cpu in (("proxy", cpu), ("relet", cpu * 2))
    ]
    cpu, *_ = scenario.figures(samples)
    assert (cpu.value, cpu.beside, cpu.ratio, cpu.verdict) == (6.0, 3.0, 2.0, "ok")


def test_unknown_scenarios_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, and the names that exist."""
    with pytest.raises(SystemExit, match="2"):
        __main__.main(["--only", "w200,w2000"])
    assert "no scenario w2000; there are: w200," in capsys.readouterr().err


def test_every_scenario_has_a_name_of_its_own() -> None:
    """--only picks by name."""
    names = [scenario.name for scenario in __main__.SCENARIOS]
    assert len(names) == len(set(names))
    assert Setting(quick=True).scaled(10, 3) == 3
