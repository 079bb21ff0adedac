"""Devices: what a message costs that goes through one, beside `zmq.proxy`, without the tap and with it.

The load is that of plain jobs through the proxy: four messages each. All stand ready together and take turns. With the
tap somebody listens to it, in a process that throws away what it hears.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks import figures, targets
from benchmarks.figures import Figure, Sample
from benchmarks.flows import Standing, take_turns
from benchmarks.load import load
from benchmarks.scenario import Setting

MESSAGES = 4
"""Of one job: request and reply, in and out."""
WINDOW = 200
DEVICE = "device"
TAPPED = "tapped"
LISTENER = """
import sys, zmq
tap = zmq.Context().socket(zmq.SUB)
tap.connect(sys.argv[1])
tap.subscribe(b"")
while True:
    tap.recv()
"""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A queue device."""

    name: str = "devices"
    jobs: int = 200_000
    body_bytes: int = 32
    bar: float = 1.05
    rounds_max: int = 5

    def measure(self, setting: Setting) -> Iterator[Sample]:
        """The proxy, a device, and one with a tap."""
        jobs = setting.scaled(self.jobs, self.jobs // 4) // 5
        monitor = f"tcp://127.0.0.1:{targets.free_ports(1)[0]}"
        with contextlib.ExitStack() as stack:
            standing = []
            for label, starting, share in (
                ("proxy", targets.proxy(), 1),
                (DEVICE, targets.device(DEVICE), 1),
                (TAPPED, targets.device(TAPPED, "--monitor", monitor), 4),
            ):
                target = stack.enter_context(starting)
                peers = stack.enter_context(load(target, body_bytes=self.body_bytes))
                standing.append(Standing(label, target, peers, jobs // share))
            stack.enter_context(targets.running([sys.executable, "-c", LISTENER, monitor]))
            yield from take_turns(standing, WINDOW)

    def figures(self, samples: Sequence[Sample]) -> list[Figure]:
        """CPU per message beside the proxy's."""

        def beside_proxy(name: str, target: str, bar: float | None) -> Figure:
            return Figure(
                scenario=self.name,
                name=f"queue device{name}, {WINDOW} in flight, {self.body_bytes} B: CPU per message",
                value=figures.median(samples, target, "cpu_us") / MESSAGES,
                unit="us",
                beside=figures.median(samples, "proxy", "cpu_us") / MESSAGES,
                ratio=figures.ratio(samples, target, "proxy", "cpu_us"),
                bar=bar,
                note="beside: the proxy",
            )

        return [beside_proxy("", DEVICE, self.bar), beside_proxy(" with a tap", TAPPED, None)]


DEVICES: tuple[Forwarded, ...] = (Forwarded(),)
