"""Servers and a client as processes of one program: each makes a context of its own."""

import multiprocessing
from multiprocessing.connection import Connection

import zmq

SERVERS = 3
ROUNDS = 2


def server(name: str, ready: Connection) -> None:
    """Says where it is bound, and serves so many requests as it will get."""
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        ready.send(socket.bind_to_random_port("tcp://127.0.0.1"))
        for _ in range(ROUNDS):
            socket.send_string(f"{name} replies to {socket.recv_string()}")


def client(ports: list[int]) -> None:
    """Asks all servers in turn."""
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        for port in ports:
            socket.connect(f"tcp://127.0.0.1:{port}")
        for number in range(ROUNDS * len(ports)):
            socket.send_string(f"request {number}")
            print(socket.recv_string(), flush=True)


def main() -> None:
    """Starts everybody, and waits until they have done."""
    spawning = multiprocessing.get_context("spawn")  # a fork would inherit sockets that are not its own
    ready, theirs = spawning.Pipe(duplex=False)
    processes = [spawning.Process(target=server, args=(f"server {number}", theirs)) for number in range(SERVERS)]
    for process in processes:
        process.start()
    processes.append(spawning.Process(target=client, args=([ready.recv() for _ in range(SERVERS)],)))
    processes[-1].start()
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
