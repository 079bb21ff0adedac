"""A streamer device in a process of its own: feeders push tasks into it, and workers pull them out."""

import threading

import zmq

from relet.devices import DeviceProcess

WORKERS = 2
TASKS = 10
END = b""


def worker(context: zmq.Context[zmq.Socket[bytes]], name: str, back: str) -> None:
    """Does what it gets, until it gets nothing more."""
    with context.socket(zmq.PULL) as socket:
        socket.connect(back)
        while (task := socket.recv()) != END:
            print(f"{name} does {task.decode()}\n", end="", flush=True)  # in one piece: others print, too


def main() -> None:
    """Feeds the workers through the device; each of them gets as many tasks, and the end."""
    with DeviceProcess("streamer", ":0", ":0") as device, zmq.Context() as context:
        workers = [
            threading.Thread(target=worker, args=(context, f"worker {it}", device.endpoints["back"]))
            for it in range(WORKERS)
        ]
        for thread in workers:
            thread.start()
        with context.socket(zmq.PUSH) as feeder:
            feeder.connect(device.endpoints["front"])
            for number in range(TASKS):
                feeder.send_string(f"task {number}")
            while any(thread.is_alive() for thread in workers):
                feeder.send(END)
                for thread in workers:
                    thread.join(0.01)


if __name__ == "__main__":  # the process of the device imports this file, and must not run it
    main()
