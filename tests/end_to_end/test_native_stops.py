"""Workers of the library that are stopped as README says, as processes: no job is lost or spent by it."""

from __future__ import annotations

import signal

import relet

from .conftest import BrokerProgram, Place, Program

WORKER = """
import signal, sys
from relet import Worker

def handler(data):
    if data == b"wait":
        print("waits", flush=True)
        sys.stdin.readline()
    return data

worker = Worker(sys.argv[1], handler=handler, ahead=1_000)
signal.signal(signal.SIGTERM, lambda *_: worker.stop())
worker.run()
"""


def _workers(place: Place, broker: BrokerProgram, count: int) -> list[Program]:
    command = ("-c", WORKER, broker.endpoints["workers"])
    return [place.program(*command, reads="stdout") for _ in range(count)]


def _goes_on(worker: Program) -> None:
    """What it waits with may end."""
    assert worker.process.stdin is not None
    worker.process.stdin.write(b"\n")
    worker.process.stdin.flush()


def test_jobs_wait_while_all_workers_stop_and_others_come(place: Place) -> None:
    """A stopped worker finishes the job in hand. Found by use: it was handed all that waited meanwhile, handed it back,
    and so on, until each job was discarded after 30 hand-overs and no attempt.
    """
    broker = place.broker("-t", "3", "-T", "60s")
    old = _workers(place, broker, 3)
    with relet.Client(broker.endpoints["clients"], timeout=15) as client:
        in_hand = [client.submit(b"wait") for _ in old]
        for worker in old:
            worker.wait_for(lambda lines: "waits" in lines)
        for worker in old:
            worker.signal(signal.SIGTERM)
        receipts = client.enqueue_many([b"%d" % number for number in range(40)])
        states = [client.state(receipt.request_id) for receipt in receipts]
        assert {state.state for state in states} <= {"available", "delayed", "held"}
        for worker in old:
            _goes_on(worker)
        assert [future.result() for future in in_hand] == [b"wait"] * 3
        assert [worker.ended() for worker in old] == [0] * 3
        _workers(place, broker, 3)
        assert [client.result(receipt.request_id) for receipt in receipts] == [b"%d" % number for number in range(40)]
    broker.signal(signal.SIGTERM)
    assert broker.ended() == 0
    counted = broker.event("broker_stopped")
    assert broker.events("job_discarded") == []
    assert counted.get("handovers_returned", 0) <= 3 * 40, "each stopped worker may have had each job once"
