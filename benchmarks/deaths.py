"""Deaths: from kill -9 of a worker to its job's next start, though the timeout is an hour.

A victim holds a job; another worker has asked and waits. The victim is killed; the clock runs until the other worker
has the job. The victims are REQ and DEALER in turn. Measured with nobody else connected, and beside a crowd of workers
that are all busy (each holds a job on a connection of its own), so that it shows if a death costs something per
connection.
"""

import contextlib
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import zmq

from benchmarks import figures, targets
from benchmarks.figures import Figure, Sample
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

            def connected(kind: int, endpoint: str) -> "zmq.Socket[bytes]":
                socket = stack.enter_context(context.socket(kind))
                socket.linger = 0
                socket.rcvtimeo = PATIENCE_MS
                socket.connect(endpoint)
                return socket

            client, others = connected(zmq.DEALER, clients), connected(zmq.DEALER, clients)
            spare, push = connected(zmq.DEALER, workers), connected(zmq.PUSH, answers)
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
            return Figure(
                scenario=self.name, name=f"{self.title}: {name}", value=value, unit="ms", bar=bar, note=note
            )

        return [
            delay("median", statistics.median(delays_ms), self.bar, f"{len(delays_ms)} kills; aim: 30 ms (grace 20)"),
            delay("worst", figures.percentile(delays_ms, 100), None),
        ]


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


DEATHS: tuple[Deaths, ...] = (
    Deaths("deaths", "kill -9 to next start", 0),
    Deaths("crowd", "the same beside 1,000 busy workers", 1000),
)
