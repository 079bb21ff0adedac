"""What only `AsyncClient` has: tasks that are cancelled, a loop that it belongs to, and no thread of its own. What it
shares with `Client` is in test_clients.py and test_native.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import relet
from relet import AsyncClient, Client
from relet.client import ClientClosed
from relet.messages import CancelJob, Heartbeat, Submit, TellProgress

from .conftest import FakeBroker, Library, Lines, NativeBroker

WAIT_SECONDS = 5.0
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def library() -> Library:
    """Clients are made by the tests, in their loops."""
    return Library(AsyncClient)


def run(wanted: Coroutine[Any, Any, None]) -> None:
    """A test in a loop of its own, within bounds."""

    async def bounded() -> None:
        async with asyncio.timeout(2 * WAIT_SECONDS):
            await wanted

    asyncio.run(bounded())


async def heard(broker: FakeBroker) -> list[bytes]:
    """The next request, while the loop turns."""
    return await asyncio.to_thread(broker.hear)


async def said(native: NativeBroker) -> tuple[bytes, Any, list[bytes]]:
    """The next message, while the loop turns."""
    return await asyncio.to_thread(native.hear_said)


async def so(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so that nobody signals."""
    while not condition():  # noqa: ASYNC110 - that is why
        await asyncio.sleep(0)


def test_both_clients_say_the_same_words() -> None:
    """Each call of `Client` is there, with its arguments, and their defaults."""

    def words(kind: type[Any]) -> dict[str, Any]:
        public = {name: call for name, call in vars(kind).items() if not name.startswith("_") or name == "__init__"}
        return {
            name: [(p.name, p.kind, p.default) for p in inspect.signature(call).parameters.values()]
            for name, call in public.items()
            if callable(call)
        } | {name: "property" for name, found in public.items() if isinstance(found, property)}

    assert words(AsyncClient) == words(Client)


# --- Tasks that are cancelled.


def test_a_cancelled_call_leaves_its_job_alone_and_frees_its_place(native: NativeBroker) -> None:
    """The next one finds room; the broker is not told to end anything."""
    native.features = ("cancels",)

    async def test() -> None:
        async with native.client(requests_open_max=1) as client:
            waiting = asyncio.create_task(client.call(b"unwanted"))
            peer, first, _ = await said(native)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            wanted = asyncio.create_task(client.call(b"wanted"))
            _, second, body = await said(native)
            assert isinstance(second, Submit)
            assert body == [b"wanted"]
            native.outcome(peer, first.id, b"late")
            native.outcome(peer, second.id, b"done")
            assert await wanted == b"done"
            assert (client.counters.abandoned, client.counters.withdrawn) == (1, 0)
            assert client.counters.answers_late == 1

    run(test())


@pytest.mark.parametrize("way", ["future", "task", "map", "map that was dropped"])
def test_what_was_submitted_and_given_up_is_ended_at_the_broker(native: NativeBroker, way: str) -> None:
    """The future was cancelled, or the task that awaits it, or a `map` was left."""
    native.features = ("cancels",)

    async def test() -> None:
        async with native.client() as client:
            if way.startswith("map"):
                answers = client.map([b"1", b"2"])
                waiting = asyncio.create_task(anext(answers))
            else:
                future = await client.submit(b"2")
                waiting = asyncio.create_task(asyncio.wait_for(future, None))
            peer, message, body = await said(native)
            if way.startswith("map"):
                native.outcome(peer, message.id, b"one")
                assert await waiting == b"one"
                _, message, body = await said(native)
            assert body == [b"2"]
            if way == "future":
                assert future.cancel()
            elif way == "task":
                waiting.cancel()
            elif way == "map":
                await answers.aclose()
            else:
                del answers, waiting
            _, cancel, _ = await said(native)
            assert isinstance(cancel, CancelJob)
            assert cancel.id == message.id
            if not way.startswith("map"):
                with contextlib.suppress(asyncio.CancelledError):
                    await waiting
            assert client.counters.withdrawn == 1

    run(test())


def test_a_shielded_future_survives_the_task_that_awaits_it(broker: FakeBroker) -> None:
    """As with any future of asyncio."""

    async def test() -> None:
        async with broker.client() as client:
            future = await client.submit(b"job")
            waiting = asyncio.create_task(asyncio.wait_for(asyncio.shield(future), None))
            request = await heard(broker)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            broker.answer(request, b"done")
            assert await future == b"done"

    run(test())


# --- Room.


def test_tasks_get_room_in_the_order_in_which_they_came(broker: FakeBroker) -> None:
    """Who was cancelled meanwhile is passed over, and a small one does not overtake a large one."""

    async def test() -> None:
        async with broker.client(requests_open_bytes_max=10) as client:
            engine = client._engine
            first = asyncio.create_task(client.call(b"1" * 8))
            request = await heard(broker)
            tasks = [asyncio.create_task(client.call(body)) for body in (b"2", b"3" * 9, b"4")]
            await so(lambda: len(engine._waiting) == 2)  # one byte fits
            broker.answer(await heard(broker))
            assert await tasks[0] == b"2"
            assert len(engine._waiting) == 2
            tasks[1].cancel()  # behind it there is one that fits
            broker.answer(await heard(broker))
            assert await tasks[2] == b"4"
            broker.answer(request)
            await first
            assert (engine._room.open, engine._room.bytes, len(engine._waiting)) == (0, 0, 0)

    run(test())


def test_room_that_came_in_the_moment_of_a_cancellation_is_given_on(broker: FakeBroker) -> None:
    """The task had it, and will not use it."""

    async def test() -> None:
        async with broker.client(requests_open_max=1) as client:
            engine = client._engine
            first = asyncio.create_task(client.call(b"1"))
            request = await heard(broker)
            unlucky, lucky = (asyncio.create_task(client.call(b)) for b in (b"2", b"3"))
            await so(lambda: len(engine._waiting) == 2)
            make_room = engine._make_room

            def and_cancel(ended: int, freed: int) -> None:
                engine.turns._make_room = make_room
                make_room(ended, freed)
                assert len(engine._waiting) == 1
                unlucky.cancel()

            engine.turns._make_room = and_cancel
            broker.answer(request)
            assert await first == b"1"
            next_one = await heard(broker)
            assert next_one[3] == b"3"
            broker.answer(next_one)
            assert await lucky == b"3"
            with pytest.raises(asyncio.CancelledError):
                await unlucky
            assert engine._room.open == 0

    run(test())


# --- The loop.


def test_it_has_no_thread_and_other_tasks_go_on(broker: FakeBroker) -> None:
    """While a call waits, the loop turns, and nothing else was started beside libzmq's own threads."""

    async def test() -> None:
        before = threading.active_count()
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with broker.client() as client, asyncio.TaskGroup() as group:
            counting = group.create_task(count())
            call = group.create_task(client.call(b"job"))
            await so(lambda: broker.socket.poll(0) != 0)
            assert threading.active_count() == before
            broker.answer(await heard(broker))
            seen = turns
            assert await call == b"job"
            assert turns > seen
            counting.cancel()

    run(test())


def test_an_idle_client_neither_wakes_the_loop_nor_sets_a_timer(native: NativeBroker) -> None:
    """After the receipt of what was received nothing is due, and no descriptor stays readable."""

    async def test() -> None:
        async with native.client(timeout=50) as client:
            call = asyncio.create_task(client.call(b"job"))
            native.answer(await heard(native))
            await call
            peer, receipt, _ = await asyncio.to_thread(native.hear_raw)
            assert receipt == Heartbeat(received=1)
            native.tell(peer, Heartbeat())
            engine = client._engine
            await so(lambda: engine._timer is None and engine._soon is None)
            selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
            watched = {key.fd for key, _ in selector.select(0)} & set(engine._watch._descriptors)
            assert engine._watch._descriptors
            assert not watched

    run(test())


def test_it_belongs_to_the_loop_in_which_it_is_first_used(broker: FakeBroker) -> None:
    """Made anywhere; another loop, or none, is an error that says so."""
    client = broker.client()

    async def use() -> None:
        call = asyncio.create_task(client.call(b"job"))
        broker.answer(await heard(broker))
        assert await call == b"job"

    run(use())

    async def use_elsewhere() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            await client.call(b"job")

    run(use_elsewhere())

    async def close() -> None:
        await client.close()
        await client.close()
        with pytest.raises(ClientClosed):
            await client.call(b"late")

    run(close())


def test_one_that_was_never_used_is_closed_like_others() -> None:
    """And refuses afterwards."""

    async def test() -> None:
        client = AsyncClient("tcp://127.0.0.1:1")
        await client.close()
        with pytest.raises(ClientClosed):
            await client.submit(b"late")

    run(test())


def test_a_client_that_nobody_refers_to_ends(broker: FakeBroker) -> None:
    """A forgotten close leaks nothing, and who still waits is told."""

    async def test() -> None:
        client = broker.client()
        engine = client._engine
        future = await client.submit(b"job")
        await heard(broker)
        del client
        gc.collect()
        with pytest.raises(ClientClosed, match="not referenced"):
            await future
        assert engine._link is None
        assert engine._watch._descriptors == []

    run(test())


@pytest.mark.parametrize(
    "where", ["asyncio.run(main())", "threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()"]
)
def test_the_interpreter_ends_though_close_was_forgotten(broker: FakeBroker, where: str) -> None:
    """Also while the loop turns in a thread that nobody waits for."""
    program = f"""
import asyncio, threading
from relet import AsyncClient
client = AsyncClient({broker.endpoint!r}, dialect={broker.dialect!r})
async def main():
    future = await client.submit(b"x")
    await asyncio.to_thread(input)
{where}
if threading.active_count() > 1:
    input()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, env={"PYTHONPATH": "lib"}) as child:
        broker.hear()
        assert child.stdin
        child.stdin.write(b"\n\n")
        child.stdin.close()
        assert child.wait(WAIT_SECONDS) == 0


def test_a_forked_child_is_told_to_make_its_own_client(broker: FakeBroker) -> None:
    """It does not touch the parent's sockets; the parent goes on."""
    program = f"""
import asyncio, os, sys, warnings
warnings.simplefilter("ignore")
from relet import AsyncClient, ClientClosed
client = AsyncClient({broker.endpoint!r}, dialect={broker.dialect!r})
async def submit():
    return await client.submit(b"before")
async def call():
    await client.call(b"in the child")
async def wait():
    assert await future == b"before"
    await client.close()
with asyncio.Runner() as runner:
    future = runner.run(submit())
    child = os.fork()
    if not child:
        try:
            asyncio.run(call())
        except ClientClosed as error:
            os._exit(7 if "after the fork" in str(error) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    runner.run(wait())
"""
    with subprocess.Popen([sys.executable, "-c", program], env={"PYTHONPATH": "lib"}) as child:
        broker.answer(broker.hear())
        assert child.wait(WAIT_SECONDS) == 0


def test_a_callback_that_exits_ends_the_loop_and_tells_all_callers(native: NativeBroker, lines: Lines) -> None:
    """SystemExit goes on to who runs the loop; nobody waits for ever."""
    futures: list[Any] = []

    def leave(_: object) -> None:
        raise SystemExit("on purpose")

    async def test() -> None:
        client = native.client()
        futures.append(await client.submit(b"1", on_progress=leave))
        futures.append(await client.submit(b"2"))
        peer, first, _ = await said(native)
        native.tell(peer, TellProgress(id=first.id, attempt=1))
        await futures[1]

    with pytest.raises(SystemExit, match="on purpose"):
        run(test())
    for future in futures:
        assert isinstance(future.exception(), ClientClosed)
    lines.wait_for("library_failed")


# --- map


def test_map_hands_on_what_is_there_while_its_jobs_are_slow_to_come(broker: FakeBroker) -> None:
    """An asynchronous source may wait for the answer to what it gave before."""
    answered = asyncio.Event()

    async def datas() -> AsyncIterator[bytes]:
        yield b"1"
        await answered.wait()
        yield b"2"

    async def test() -> None:
        async with broker.client() as client:
            got: list[bytes] = []

            async def iterate() -> None:
                async for answer in client.map(datas()):
                    got.append(answer)
                    answered.set()

            iterating = asyncio.create_task(iterate())
            broker.answer(await heard(broker))
            broker.answer(await heard(broker))
            await iterating
            assert got == [b"1", b"2"]

    run(test())


def test_an_error_of_an_asynchronous_source_ends_the_map(broker: FakeBroker) -> None:
    """What was open is given up."""

    async def datas() -> AsyncIterator[bytes]:
        yield b"1"
        raise ZeroDivisionError

    async def test() -> None:
        async with broker.client() as client:
            with pytest.raises(ZeroDivisionError):
                await anext(client.map(datas(), return_exceptions=True))
            await so(lambda: client.counters.abandoned == 1)

    run(test())


# --- What the README shows.


def test_the_readme_s_program_does_what_it_says() -> None:
    """As it stands there, with a broker and a worker of ours."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (program,) = (block for block in blocks if "AsyncClient(" in block)
    local = "tcp://127.0.0.1:0"
    with relet.Broker(local, local, local) as broker:
        text = program.replace("tcp://localhost:4161", broker.endpoints["clients"])
        names: dict[str, Any] = {"files": [b"1", b"2"], "answers": []}
        body = "async def main():\n" + textwrap.indent(text.replace("...", "answers.append(answer)"), "    ")
        body += "    return answer, await future, answers\n"
        exec(compile(body, "README.md", "exec"), names)  # noqa: S102 - our own

        async def test() -> None:
            async with relet.AsyncWorker(broker.endpoints["workers"], handler=lambda data: data[::-1]):
                assert await names["main"]() == (b"2", b"gnp.2 eziser", [b"1", b"2"])

        run(test())
