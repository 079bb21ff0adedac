"""A queue device that is watched: a subscriber sees each message that goes through, and which way."""

import threading

import zmq

from relet.devices import Device

REQUESTS = 3


def server(context: zmq.Context[zmq.Socket[bytes]], back: str) -> None:
    """Replies until it is told to stop."""
    with context.socket(zmq.REP) as socket:
        socket.connect(back)
        while (request := socket.recv_string()) != "stop":
            socket.send_string(f"reply to {request}")
        socket.send(b"")


def main() -> None:
    """A client and a watcher in this thread, the server in another one."""
    with (
        zmq.Context() as context,
        Device("queue", ":0", ":0", monitor=":0") as device,
        context.socket(zmq.REQ) as client,
        context.socket(zmq.SUB) as watcher,
    ):
        serving = threading.Thread(target=server, args=(context, device.endpoints["back"]))
        serving.start()
        watcher.connect(device.endpoints["monitor"])
        watcher.subscribe(b"")
        client.connect(device.endpoints["front"])
        while not watcher.poll(1):  # nobody says when a subscription has arrived
            client.send_string("does anybody watch?")
            client.recv()
        for number in range(REQUESTS):
            client.send_string(f"request {number}")
            client.recv()
        last = f"reply to request {REQUESTS - 1}"
        body = ""
        while body != last:
            direction, _path, _delimiter, text = watcher.recv_multipart()
            body = text.decode()
            print(f"{direction.decode():<3} {body}")
        client.send_string("stop")
        client.recv()
        serving.join()


if __name__ == "__main__":
    main()
