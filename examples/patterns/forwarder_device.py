"""A forwarder device: publishers and subscribers come and go, and it is there. What nobody has subscribed to is not
even sent to it.
"""

import threading

import zmq

from relet.devices import Device

PUBLISHERS = 2
UPDATES = 4


def publisher(context: zmq.Context[zmq.Socket[bytes]], name: str, front: str, enough: threading.Event) -> None:
    """Says something on every topic, again and again."""
    with context.socket(zmq.PUB) as socket:
        socket.linger = 0
        socket.connect(front)
        while not enough.wait(0.001):
            for topic in range(10):
                socket.send_string(f"{topic} from {name}")


def main() -> None:
    """Hears one topic of all publishers, through the device."""
    enough = threading.Event()
    with zmq.Context() as context, Device("forwarder", ":0", ":0") as device:
        publishers = [
            threading.Thread(target=publisher, args=(context, f"publisher {it}", device.endpoints["front"], enough))
            for it in range(PUBLISHERS)
        ]
        for thread in publishers:
            thread.start()
        with context.socket(zmq.SUB) as subscriber:
            subscriber.connect(device.endpoints["back"])
            subscriber.subscribe("9")
            heard: list[str] = []
            while len(set(heard)) < PUBLISHERS or len(heard) < UPDATES:
                heard.append(subscriber.recv_string())
                print(heard[-1])
        enough.set()
        for thread in publishers:
            thread.join()


if __name__ == "__main__":
    main()
