"""PAIR: two peers, and nobody else. Each may send whenever it wants, and gets whole messages."""

import threading

import zmq

ROUNDS = 3


def partner(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
    """Answers every message with two."""
    with context.socket(zmq.PAIR) as socket:
        socket.connect(endpoint)
        for _ in range(ROUNDS):
            heard = socket.recv_string()
            socket.send_string(f"{heard}, yes")
            socket.send_string(f"{heard}, and more")


def main() -> None:
    """Talks to the partner in another thread."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.bind("inproc://pair")  # the same process; tcp:// or ipc:// reach further
        other = threading.Thread(target=partner, args=(context, "inproc://pair"))
        other.start()
        for number in range(ROUNDS):
            socket.send_string(f"message {number}")
            print(socket.recv_string())
            print(socket.recv_string())
        other.join()


if __name__ == "__main__":
    main()
