"""REQ and REP: one client, several servers. Requests go out in turn; each must have its reply before the next."""

import threading

import zmq

SERVERS = 2
REQUESTS = 6


def server(name: str, socket: zmq.Socket[bytes]) -> None:
    """Replies until it is told to stop."""
    with socket:
        while (request := socket.recv_string()) != "stop":
            socket.send_string(f"{name} replies to {request}")
        socket.send_string(f"{name} stops")


def main() -> None:
    """Asks all servers in turn, then stops each."""
    with zmq.Context() as context:
        threads = []
        with context.socket(zmq.REQ) as client:
            for number in range(SERVERS):
                socket = context.socket(zmq.REP)
                port = socket.bind_to_random_port("tcp://127.0.0.1")
                threads.append(threading.Thread(target=server, args=(f"server {number}", socket)))
                threads[-1].start()
                client.connect(f"tcp://127.0.0.1:{port}")
            for number in range(REQUESTS):
                client.send_string(f"request {number}")
                print(client.recv_string())
            client.send_string("stop")
            try:
                client.send_string("stop")
            except zmq.ZMQError as error:
                print(f"not before there is a reply: {error}")
            print(client.recv_string())
            client.send_string("stop")
            print(client.recv_string())
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
