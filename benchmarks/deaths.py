"""Deaths: from kill -9 of a worker to its job's next start, though the timeout is an hour.

A victim holds a job; another worker has asked and waits. The victim is killed; the clock runs until the other worker
has the job. The victims are REQ and DEALER in turn. Measured with nobody else connected, and beside a crowd of workers
that are all busy (each holds a job on a connection of its own), so that it shows if a death costs something per
connection.

A frozen worker (SIGSTOP) is no dead one: its connection stays. Some hold a job that they have started, others hold
jobs that they have not. All are frozen at once; the clock runs from there until another worker has each job. The other
worker begins to ask only then, so that nothing is called back from a worker before it is frozen. Whether the attempt
was counted is in what the other worker is told: the number of the attempt that it is about to make.
"""

import contextlib
import itertools
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import zmq

from benchmarks import figures, targets
from benchmarks.figures import Figure, Sample
from benchmarks.peers import Native
from benchmarks.scenario import Setting

PATIENCE_MS = 20_000
"""Nothing that is waited for takes so long, unless it is broken."""
ASK_ARRIVES_S = 0.03
"""An ask is not acknowledged: it has arrived after so long on loopback."""


class NeverAgainError(RuntimeError):
    """Something that had to arrive did not: the job at another worker, an answer, a sign of life of a peer."""


@dataclass(frozen=True, slots=True)
class Deaths:
    """Kills, one after the other, beside `crowd` other busy workers."""

    name: str
    title: str
    crowd: int
    kills: int = 20
    bar: float = 50.0
    rounds_max: int = 1

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """All kills on one broker."""
        kills = setting.scaled(self.kills, 6)
        with (
            targets.broker(setting.broker, options=("-T", "3600")) as target,
            zmq.Context() as context,
            contextlib.ExitStack() as stack,
        ):
            clients, workers, answers = target.endpoints
            client, others, spare, push = (
                stack.enter_context(_connected(context, kind, endpoint))
                for kind, endpoint in (
                    (zmq.DEALER, clients),
                    (zmq.DEALER, clients),
                    (zmq.DEALER, workers),
                    (zmq.PUSH, answers),
                )
            )
            if self.crowd:
                for _ in range(self.crowd):
                    others.send_multipart([b"", b"a job of the crowd"])
                _hear(stack.enter_context(_peer("crowd", str(self.crowd), workers)), "busy")
            delays_ms = []
            for kind in itertools.islice(itertools.cycle(("DEALER", "REQ")), kills):
                with _peer("victim", kind, workers) as victim:
                    delays_ms.append(_kill(victim, client, spare, push))
            yield {"target": "relet", "crowd": self.crowd, "delays_ms": delays_ms}

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """The median of all kills, and the worst."""
        delays_ms = [delay for sample in samples for delay in sample["delays_ms"]]

        def delay(name: str, value: float, bar: float | None, note: str = "") -> Figure:
            return Figure(scenario=self.name, name=f"{self.title}: {name}", value=value, unit="ms", bar=bar, note=note)

        return [
            delay("median", statistics.median(delays_ms), self.bar, f"{len(delays_ms)} kills; aim: 30 ms (grace 20)"),
            delay("worst", figures.percentile(delays_ms, 100), None),
        ]


@dataclass(frozen=True, slots=True)
class Frozen:
    """Workers that are stopped while they hold jobs, at once: `workers` of each kind."""

    name: str = "frozen"
    workers: int = 3
    unstarted: int = 3
    """Jobs that each of those holds that have not started any."""
    rounds_max: int = 1

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """Freeze them all, once."""
        expected = {b"started": 2, b"not started": 1}  # the number of the attempt that comes next
        with (
            targets.broker(setting.broker, options=("-t", "3", "-T", "3600")) as target,
            zmq.Context() as context,
            contextlib.ExitStack() as stack,
        ):
            clients, workers, _ = target.endpoints
            client = Native(stack.enter_context(_connected(context, zmq.DEALER, clients)))
            victims = []
            for body, jobs, started in ((b"started", 1, 1), (b"not started", self.unstarted, 0)) * self.workers:
                victim = stack.enter_context(_peer("native", str(jobs), str(started), workers))
                for _ in range(jobs):  # nobody else asks: they all go to this one
                    client.say("submit", body, id=os.urandom(16))
                _hear(victim, "holds")
                victims.append(victim)
            began = time.monotonic()
            for victim in victims:
                victim.send_signal(signal.SIGSTOP)
            jobs = self.workers * (1 + self.unstarted)
            spare = Native.worker(stack.enter_context(_connected(context, zmq.DEALER, workers)))
            liveness_s = spare.welcome["liveness_ms"] / 1000
            heartbeat_s = spare.welcome["heartbeat_ms"] / 1000
            sample: Sample = {
                "target": "relet",
                "bound_s": liveness_s + heartbeat_s,
                "started_s": [],
                "not started_s": [],
                "miscounted": 0,
                "jobs": jobs,
            }
            for header, body in _starts(spare, jobs, heartbeat_s, began + 2 * (liveness_s + heartbeat_s)):
                sample[f"{body.decode()}_s"].append(time.monotonic() - began)
                sample["miscounted"] += header["attempt"] != expected[body]
            yield sample

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """The worst of either kind; attempts."""

        def worst(kind: str) -> Figure:
            return Figure(
                scenario=self.name,
                name=f"worker frozen, its job {kind}: to the next start, worst",
                value=max(figures.percentile(sample[f"{kind}_s"], 100) for sample in samples),
                unit="s",
                bar=samples[0]["bound_s"],
                note="bar: liveness and one heartbeat",
            )

        return [
            worst("started"),
            worst("not started"),
            Figure(
                scenario=self.name,
                name="worker frozen: attempts counted that were not started, or not counted that were",
                value=sum(figures.values(samples, "relet", "miscounted")),
                unit="",
                bar=0,
                note=f"of {sum(sample['jobs'] for sample in samples)}",
            ),
        ]


def _starts(spare: Native, jobs: int, heartbeat_s: float, given_up: float) -> Iterator[tuple[dict[str, Any], bytes]]:
    """So many jobs as the spare worker gets and answers them, while it lives. `given_up`: in monotonic seconds."""
    spare.say("ask", credit=jobs)
    number = 0
    while number < jobs:
        if not spare.socket.poll(int(heartbeat_s * 500)):
            spare.say("heartbeat", credit=jobs, started=number)
        elif (heard := spare.hear("job")) is not None:
            number += 1
            header, (body,) = heard
            spare.say("complete", body, token=header["token"], n=number, credit=jobs, started=number)
            yield header, body
        if time.monotonic() > given_up:
            raise NeverAgainError(f"{jobs - number} of {jobs} jobs of frozen workers did not start elsewhere")


def _connected(context: "zmq.Context[zmq.Socket[bytes]]", kind: int, endpoint: str) -> "zmq.Socket[bytes]":
    """A socket that waits with patience, and leaves nothing behind."""
    socket = context.socket(kind)
    socket.linger = 0
    socket.rcvtimeo = PATIENCE_MS
    socket.connect(endpoint)
    return socket


@contextlib.contextmanager
def _peer(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "benchmarks.peers", *arguments]
    with targets.running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process


def _hear(peer: "subprocess.Popen[str]", word: str) -> None:
    assert peer.stdout is not None
    poller = zmq.Poller()
    poller.register(peer.stdout, zmq.POLLIN)
    if not poller.poll(PATIENCE_MS) or peer.stdout.readline().strip() != word:
        raise NeverAgainError(f"a worker never said {word!r}")


def _kill(
    victim: "subprocess.Popen[str]", client: "zmq.Socket[bytes]", spare: "zmq.Socket[bytes]", push: "zmq.Socket[bytes]"
) -> float:
    """One death. Returns the time from the kill to the next start, in ms."""
    assert victim.stdin is not None
    _hear(victim, "ready")
    victim.stdin.write("ask\n")
    victim.stdin.flush()
    client.send_multipart([b"", b"a job"])
    _hear(victim, "got")
    spare.send_multipart([b"", b"x"])
    time.sleep(ASK_ARRIVES_S)
    killed = time.monotonic_ns()
    victim.kill()
    try:
        _, job, body = spare.recv_multipart()
        started = time.monotonic_ns()
        push.send_multipart([job, body])
        client.recv_multipart()
    except zmq.Again:
        raise NeverAgainError(f"the job of a killed worker did not come back within {PATIENCE_MS / 1000:g} s") from None
    return (started - killed) / 1e6


DEATHS: tuple[Deaths | Frozen, ...] = (
    Deaths("deaths", "kill -9 to next start", 0),
    Deaths("crowd", "the same beside 1,000 busy workers", 1000),
    Frozen(),
)
