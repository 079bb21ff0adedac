"""The poller's program in asyncio: coroutines await the sockets, and a command cancels the one that listens."""

import asyncio

import zmq
from zmq.asyncio import Context, Socket

TOPIC = b"9"
UPDATES, COMMANDS = "inproc://updates", "inproc://commands"


async def listen(updates: Socket, processed: asyncio.Event) -> None:
    """Processes updates until it is cancelled."""
    while True:
        print(f"processes {await updates.recv_string()}")
        processed.set()


async def worker(context: Context, processed: asyncio.Event) -> None:
    """Listens, beside its commands."""
    with context.socket(zmq.SUB) as updates, context.socket(zmq.PULL) as commands:
        commands.connect(COMMANDS)
        updates.connect(UPDATES)
        updates.subscribe(TOPIC)
        listening = asyncio.create_task(listen(updates, processed))
        command = ""
        while command != "exit":
            command = await commands.recv_string()
            print(f"is told: {command}")
        listening.cancel()


async def main() -> None:
    """Publishes, and commands when an update was processed."""
    processed = asyncio.Event()
    with Context() as context, context.socket(zmq.XPUB) as publisher, context.socket(zmq.PUSH) as commander:
        publisher.bind(UPDATES)
        commander.bind(COMMANDS)
        working = asyncio.create_task(worker(context, processed))
        await publisher.recv()  # somebody has subscribed
        for command in ("continue", "continue", "exit"):
            for number in range(10):
                await publisher.send_string(f"{number} before {command}")
            await processed.wait()
            processed.clear()
            await commander.send_string(command)
        await working


if __name__ == "__main__":
    asyncio.run(main())
