"""A queue device: clients and servers connect to it, and need not know each other."""

import threading

import zmq

from relet.devices import Device

CLIENTS = 2
SERVERS = 2
REQUESTS = 4


def server(context: zmq.Context[zmq.Socket[bytes]], name: str, back: str) -> None:
    """Replies until the context ends."""
    with context.socket(zmq.REP) as socket:
        socket.connect(back)
        try:
            while True:
                socket.send_string(f"{name} replies to {socket.recv_string()}")
        except zmq.ContextTerminated:
            return


def client(context: zmq.Context[zmq.Socket[bytes]], name: str, front: str) -> None:
    """Some requests, one after the other."""
    with context.socket(zmq.REQ) as socket:
        socket.connect(front)
        for number in range(REQUESTS):
            socket.send_string(f"{name}, {number}")
            print(socket.recv_string() + "\n", end="")  # in one piece: others print, too


def main() -> None:
    """The device in a thread, and everybody else in threads, too."""
    clients_context, servers_context = zmq.Context(), zmq.Context()
    with Device("queue", ":0", ":0") as device:
        front, back = device.endpoints["front"], device.endpoints["back"]
        servers = [
            threading.Thread(target=server, args=(servers_context, f"server {it}", back)) for it in range(SERVERS)
        ]
        clients = [
            threading.Thread(target=client, args=(clients_context, f"client {it}", front)) for it in range(CLIENTS)
        ]
        for thread in (*servers, *clients):
            thread.start()
        for thread in clients:
            thread.join()
        print(f"{device.statistics().front_received} frames came in at the front")
    clients_context.term()
    servers_context.term()
    for thread in servers:
        thread.join()


if __name__ == "__main__":
    main()
