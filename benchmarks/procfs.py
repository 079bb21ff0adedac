"""What a process has used, read from /proc (Linux; proc(5)).

CPU comes from each thread's `schedstat`, in nanoseconds; `stat` counts in ticks of 10 ms and is only good for the split
into user and system. Both are exact when the process sleeps, as it does whenever we read: the time slice of a thread
that is running at that moment is added when it ends. Threads that have ended are missing; the broker starts and ends
none while it runs.
"""

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
QUIET_S = 0.25
"""A process that used no CPU worth the name for so long has done what it was given to do."""
QUIET_CPU_NS = 2_000_000
"""... no CPU worth the name: heartbeats and the like."""
QUIET_WITHIN_S = 120.0
"""A process that is still busy after so long will not become quiet: say so."""


class BusyError(RuntimeError):
    """A process that should have come to rest did not."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used since it started. Subtract two of them for what it used in between.

    `main_wakeups` and `wakeups` are voluntary context switches (the thread slept, and was woken) of the main thread and
    of all threads; `rss_bytes` is what it holds now, so that a difference is growth.
    """

    cpu_ns: int
    user_s: float
    system_s: float
    main_wakeups: int
    wakeups: int
    rss_bytes: int

    def __sub__(self, earlier: "Usage") -> "Usage":
        return Usage(*(getattr(self, name) - getattr(earlier, name) for name in self.__slots__))


def field(text: str, name: str) -> int:
    """The number after `name:` in a file like /proc/PID/status. Raises ValueError if there is none."""
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(f"no {name} in {text!r}")


def usage(pid: int) -> Usage:
    """What the process `pid` has used. Raises ProcessLookupError or FileNotFoundError if it has ended."""
    process = Path("/proc") / str(pid)
    # The name of a program, in parentheses, may hold anything; the fields are counted from behind it (proc(5): 14, 15).
    stat = (process / "stat").read_text().rpartition(")")[2].split()
    user_s, system_s = int(stat[11]) * TICK_S, int(stat[12]) * TICK_S
    cpu_ns = 0
    wakeups = {}
    for thread in (process / "task").iterdir():
        cpu_ns += int((thread / "schedstat").read_text().split()[0])
        wakeups[int(thread.name)] = field((thread / "status").read_text(), "voluntary_ctxt_switches")
    rss_bytes = field((process / "status").read_text(), "VmRSS") * 1024
    return Usage(cpu_ns, user_s, system_s, wakeups[pid], sum(wakeups.values()), rss_bytes)


def wait_until_quiet(pid: int) -> Usage:
    """Wait until the process has used no CPU for QUIET_S, and read what it has used until then.

    Raises BusyError after QUIET_WITHIN_S.
    """
    deadline = time.monotonic() + QUIET_WITHIN_S
    before = usage(pid)
    while time.monotonic() < deadline:
        time.sleep(QUIET_S)
        after = usage(pid)
        if after.cpu_ns - before.cpu_ns < QUIET_CPU_NS:
            return after
        before = after
    raise BusyError(f"process {pid} is still busy after {QUIET_WITHIN_S:g} s")


def unread_bytes(port: int) -> int:
    """Bytes that wait in the kernel for the loopback TCP port `port`: sent to it and not read, or not yet sent."""
    unread = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, queues, *_ = line.split()
        if state != "01":  # established
            continue
        sending, receiving = (int(queue, 16) for queue in queues.split(":"))
        if int(local.partition(":")[2], 16) == port:
            unread += receiving
        elif int(remote.partition(":")[2], 16) == port:
            unread += sending
    return unread


def machine_busy_s() -> tuple[float, float]:
    """Since the machine started: seconds that its CPUs were busy, and seconds that a hypervisor kept them from us."""
    _, user, nice, system, _, _, irq, softirq, steal, *_ = Path("/proc/stat").read_text().splitlines()[0].split()
    return sum(map(int, (user, nice, system, irq, softirq))) * TICK_S, int(steal) * TICK_S


class Disturbance:
    """How much of the machine others used while we measured: all that was busy, less what we and our children used."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._busy_s, self._stolen_s = machine_busy_s()
        self._own_s = self._own()

    @staticmethod
    def _own() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(part.ru_utime + part.ru_stime for part in used)

    def share(self) -> float:
        """Since this object was made, of all CPUs, 0..1. Children count as ours once they have ended."""
        busy_s, stolen_s = machine_busy_s()
        others_s = busy_s + stolen_s - self._busy_s - self._stolen_s - (self._own() - self._own_s)
        return max(0.0, others_s / (time.monotonic() - self._begun) / (os.cpu_count() or 1))


def machine() -> dict[str, str | int]:
    """The machine: CPU model, number of CPUs that we may use, kernel."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    system = os.uname()
    return {
        "cpu": models[0] if models else system.machine,
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": f"{system.sysname} {system.release}",
    }
