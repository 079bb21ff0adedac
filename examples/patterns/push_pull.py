"""PUSH and PULL: a producer, consumers that share its work, and a collector of what they have made of it."""

import threading
from collections import Counter

import zmq

CONSUMERS = 2
NUMBERS = 1_000


def consumer(context: zmq.Context[zmq.Socket[bytes]], name: str, work: str, results: str) -> None:
    """Squares numbers until its context ends."""
    with context.socket(zmq.PULL) as pull, context.socket(zmq.PUSH) as push:
        push.connect(results)
        pull.connect(work)
        try:
            while True:
                push.send_string(f"{name} {int(pull.recv()) ** 2}")
        except zmq.ContextTerminated:
            return


def main() -> None:
    """Produces, then collects; each consumer has got its share."""
    theirs = zmq.Context()
    with zmq.Context() as context, context.socket(zmq.PUSH) as work, context.socket(zmq.PULL) as results:
        results.rcvhwm = 0  # the collector reads when all was produced
        work_at = f"tcp://127.0.0.1:{work.bind_to_random_port('tcp://127.0.0.1')}"
        results_at = f"tcp://127.0.0.1:{results.bind_to_random_port('tcp://127.0.0.1')}"
        consumers = [
            threading.Thread(target=consumer, args=(theirs, f"consumer {number}", work_at, results_at))
            for number in range(CONSUMERS)
        ]
        for thread in consumers:
            thread.start()
        for number in range(NUMBERS):
            work.send_string(f"{number}")
        collected = [results.recv_string().rpartition(" ") for _ in range(NUMBERS)]
    theirs.term()
    for thread in consumers:
        thread.join()
    for name, share in sorted(Counter(name for name, _, _ in collected).items()):
        print(f"{name}: {share} results")
    print(f"sum: {sum(int(square) for _, _, square in collected)}")


if __name__ == "__main__":
    main()
