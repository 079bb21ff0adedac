"""Reading what a process has used."""

import os
import socket
import time

import pytest

from benchmarks import procfs


def test_cpu_is_counted_in_nanoseconds_and_agrees_with_the_kernels_clock() -> None:
    """Some milliseconds of work show up, as many as the process clock says."""
    before, cpu_before = procfs.usage(os.getpid()), time.process_time_ns()
    while time.process_time_ns() - cpu_before < 30_000_000:
        pass
    used, cpu_used = procfs.usage(os.getpid()) - before, time.process_time_ns() - cpu_before
    # A time slice that has not ended is missing: at most a tick of the scheduler (10 ms at the slowest) at each end.
    assert abs(used.cpu_ns - cpu_used) < 21_000_000
    assert used.cpu_ns > 0


def test_a_sleep_is_a_wake_up_of_the_main_thread() -> None:
    """Blocking once counts at least once."""
    before = procfs.usage(os.getpid())
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.settimeout(0.001)
        with pytest.raises(TimeoutError):
            reader.recv(1)
    used = procfs.usage(os.getpid()) - before
    assert used.main_wakeups >= 1
    assert used.wakeups >= used.main_wakeups


def test_memory_is_counted_when_it_is_touched() -> None:
    """Sixteen MiB written are sixteen MiB held."""
    before = procfs.usage(os.getpid())
    block = bytearray(b"x") * (16 << 20)
    grown = (procfs.usage(os.getpid()) - before).rss_bytes
    assert len(block) <= grown + (4 << 20)
    assert grown < 2 * len(block)


def test_unread_bytes_of_a_port_are_seen() -> None:
    """What was sent to a port and not read waits there."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            port = server.getsockname()[1]
            assert procfs.unread_bytes(port) == 0
            client.sendall(b"x" * 1000)
            assert procfs.unread_bytes(port) == 1000
            accepted.recv(1000)
            assert procfs.unread_bytes(port) == 0


def test_a_field_that_is_missing_is_said() -> None:
    """A kernel without it gives no silent zero."""
    assert procfs.field("Name:\tx\nVmRSS:\t  120 kB\n", "VmRSS") == 120
    with pytest.raises(ValueError, match="VmHWM"):
        procfs.field("Name:\tx\n", "VmHWM")


@pytest.mark.parametrize(("busy_s", "stolen_s", "disturbed"), [(7.0, 0.0, False), (20.0, 0.0, True), (7.0, 9.0, True)])
def test_what_others_use_disturbs_and_what_we_use_does_not(
    monkeypatch: pytest.MonkeyPatch, busy_s: float, stolen_s: float, disturbed: bool
) -> None:
    """We used eight seconds: a machine that was busy for seven did nothing else; what is stolen counts as others'."""
    monkeypatch.setattr(procfs, "machine_busy_s", iter([(0.0, 0.0), (busy_s, stolen_s)]).__next__)
    monkeypatch.setattr(procfs.Disturbance, "_own", staticmethod(iter([1.0, 9.0]).__next__))
    assert (procfs.Disturbance().share() > 0) is disturbed


def test_the_machine_is_described() -> None:
    """CPU, CPUs and kernel."""
    described = procfs.machine()
    assert described["cpu"]
    assert int(described["cpus"]) >= 1
    assert str(described["kernel"]).startswith("Linux")
