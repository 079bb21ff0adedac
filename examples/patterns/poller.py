"""A poller: one thread listens to a publisher and to commands, and ends when it is told to."""

import threading

import zmq

TOPIC = b"9"
UPDATES, COMMANDS = "inproc://updates", "inproc://commands"


def worker(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Processes updates until the command comes."""
    with context.socket(zmq.SUB) as updates, context.socket(zmq.PULL) as commands:
        commands.connect(COMMANDS)
        updates.connect(UPDATES)
        updates.subscribe(TOPIC)
        poller = zmq.Poller()
        poller.register(commands, zmq.POLLIN)
        poller.register(updates, zmq.POLLIN)
        command = ""
        while command != "exit":
            ready = dict(poller.poll())
            if updates in ready:
                print(f"processes {updates.recv_string()}")
            if commands in ready:
                command = commands.recv_string()
                print(f"is told: {command}")


def main() -> None:
    """Publishes, and commands now and then."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher, context.socket(zmq.PUSH) as commander:
        publisher.bind(UPDATES)
        commander.bind(COMMANDS)
        working = threading.Thread(target=worker, args=(context,))
        working.start()
        publisher.recv()  # unlike a PUB, an XPUB hears of subscriptions, and so misses nobody
        for command in ("continue", "continue", "exit"):
            for number in range(10):
                publisher.send_string(f"{number} before {command}")
            commander.send_string(command)
        working.join()


if __name__ == "__main__":
    main()
