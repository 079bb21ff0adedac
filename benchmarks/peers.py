"""Workers for the deaths: plain pyzmq, as a stranger would write them, in processes that can be killed.

`python -m benchmarks.peers victim REQ|DEALER WORKERS` connects and says "ready"; at the line "ask" on standard input it
asks once, says "got" when it has its job, and holds it.

`python -m benchmarks.peers crowd NUMBER WORKERS` is so many workers (DEALER) in one process, each of which takes a job
and holds it; says "busy" when all have one.
"""

import sys
import time

import zmq


def victim(kind: str, workers: str) -> None:
    """Hold one job until killed."""
    socket = zmq.Context().socket(getattr(zmq, kind))
    socket.connect(workers)
    print("ready", flush=True)
    sys.stdin.readline()
    socket.send_multipart([b"x"] if kind == "REQ" else [b"", b"x"])
    socket.recv_multipart()
    print("got", flush=True)
    time.sleep(3600)


def crowd(number: str, workers: str) -> None:
    """Hold `number` jobs, one for each connection, until killed."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, int(number) + 10)
    sockets = [context.socket(zmq.DEALER) for _ in range(int(number))]
    for socket in sockets:
        socket.connect(workers)
        socket.send_multipart([b"", b"x"])
    for socket in sockets:
        socket.recv_multipart()
    print("busy", flush=True)
    time.sleep(3600)


if __name__ == "__main__":
    {"victim": victim, "crowd": crowd}[sys.argv[1]](*sys.argv[2:])
