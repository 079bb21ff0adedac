"""The physical limit: libzmq's own proxy, ROUTER to DEALER, in a process of its own.

It forwards every message and decides nothing, in C, with four messages a job: the request in and out, the answer in and
out. (A broker that gives jobs only to workers that asked needs a fifth, the ask.)

    python -m benchmarks.proxy FRONT BACK      says "ready" on standard error once both are bound; ends when killed
"""

import sys

import zmq


def main(front_endpoint: str, back_endpoint: str) -> None:
    """Forward between the two endpoints until killed."""
    context = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    for socket, endpoint in ((front, front_endpoint), (back, back_endpoint)):
        socket.set_hwm(0)
        socket.bind(endpoint)
    print(f"ready {front_endpoint} {back_endpoint}", file=sys.stderr, flush=True)
    zmq.proxy(front, back)


if __name__ == "__main__":
    main(*sys.argv[1:])
