"""PUB and SUB: one subscriber of two publishers hears only its topic. Who subscribes late misses what was said before,
so publishers here go on until the subscriber has had enough.
"""

import threading

import zmq

PUBLISHERS = 2
TOPIC = "10001"
UPDATES = 6


def publisher(socket: zmq.Socket[bytes], name: str, enough: threading.Event) -> None:
    """Says the temperature at several places, again and again."""
    with socket:
        socket.linger = 0
        temperature = 0
        while not enough.wait(0.001):
            temperature += 1
            for topic in ("10000", TOPIC, "10002"):
                socket.send_multipart([part.encode() for part in (topic, name, str(temperature))])


def main() -> None:
    """Takes some updates of one topic, from whoever has them."""
    enough = threading.Event()
    with zmq.Context() as context:
        threads = []
        with context.socket(zmq.SUB) as subscriber:
            subscriber.subscribe(TOPIC)
            for number in range(PUBLISHERS):
                socket = context.socket(zmq.PUB)
                port = socket.bind_to_random_port("tcp://127.0.0.1")
                threads.append(threading.Thread(target=publisher, args=(socket, f"publisher {number}", enough)))
                threads[-1].start()
                subscriber.connect(f"tcp://127.0.0.1:{port}")
            heard: dict[str, list[int]] = {}
            while len(heard) < PUBLISHERS or sum(map(len, heard.values())) < UPDATES:
                topic, name, temperature = (part.decode() for part in subscriber.recv_multipart())
                print(f"{topic}: {temperature} from {name}")
                heard.setdefault(name, []).append(int(temperature))
            enough.set()
        for thread in threads:
            thread.join()
        updates = [temperature for several in heard.values() for temperature in several]
        print(f"average of {TOPIC}: {sum(updates) / len(updates):.1f}")


if __name__ == "__main__":
    main()
