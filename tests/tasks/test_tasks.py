"""Functions by name: called here, and there, with what they take and give as what it is."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
import re
import subprocess
import sys
import threading
import types
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import relet
from relet import AsyncClient, Client, FailJob, JobFailed, Tasks, Terms, Worker
from relet.tasks import ResultUnreadable, Task

if TYPE_CHECKING:
    from decimal import Decimal

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "tcp://127.0.0.1:0"
PATIENCE_S = 10.0


class Color(enum.Enum):
    RED = "red"


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclasses.dataclass
class Ride:
    at: dt.datetime
    by: uuid.UUID
    over: list[Point]
    color: Color | None = None


tasks = Tasks()


@tasks.task
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


@tasks.task(queue="rides", tries=3)
def later(ride: Ride, by: dt.timedelta) -> Ride:
    """The next day's, for example."""
    return Ride(ride.at + by, ride.by, [*ride.over, Point(len(ride.over))], Color.RED)


@tasks.task
def shape(first: int, /, second: int = 2, *, third: int, fourth: int = 4) -> list[int]:
    """What it was given."""
    return [first, second, third, fourth]


@tasks.task
def plain(what):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - that is the point
    """What it was given."""
    return what


@tasks.task
def early() -> Late:
    """Annotated with what comes after it."""
    return Late(1)


class Late(msgspec.Struct):
    value: int


RIDE = Ride(dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), uuid.UUID(int=7), [Point(1, 2)])


def done_here(task: Task[..., Any, Any], *args: Any, **kwargs: Any) -> Any:
    """What the handler makes of a call, read as the caller would."""
    handler: Any = tasks.handler
    return task.read(handler(task.said(*args, **kwargs)))


class Place:
    """A broker, and a worker of these tasks."""

    def __init__(self, tasks: Tasks, **options: Any) -> None:
        self.broker = relet.Broker(LOOPBACK, LOOPBACK, LOOPBACK, tries=1)
        self.broker.start()
        self.clients = self.broker.endpoints["clients"]
        self.worker = Worker(self.broker.endpoints["workers"], handler=tasks.handler, queues=tasks.queues, **options)
        self._thread = threading.Thread(target=self.worker.run)
        self._thread.start()

    def close(self) -> None:
        """Everything ends."""
        self.worker.stop()
        self._thread.join(PATIENCE_S)
        self.broker.close()
        assert not self._thread.is_alive()


@pytest.fixture
def place() -> Iterator[Place]:
    """One for the tasks of this file."""
    place = Place(tasks)
    yield place
    place.close()


# --- Calls.


def test_a_task_is_its_function_and_runs_there_as_it_does_here(place: Place) -> None:
    """By a `Client`: the result, a future for it, and handed over for later."""
    assert add(1, 2) == 3
    assert (add.__name__, add.__doc__) == ("add", "The sum.")
    with Client(place.clients, timeout=PATIENCE_S) as client:
        assert add.on(client).call(1, b=2) == 3
        future = add.on(client).submit(3, 4)
        assert (future.result(), future.done(), len(future.request_id)) == (7, True, 16)
        assert future.job.result() == b"\x07"
        handed = later.on(client, timeout=5).enqueue(RIDE, dt.timedelta(days=1))
        ride = later.on(client, timeout=5).result(handed.request_id)
        assert ride == later(RIDE, dt.timedelta(days=1))
        assert ride.over == [Point(1, 2), Point(1)]


def test_in_a_loop_the_same_words_are_awaited(place: Place) -> None:
    """By an `AsyncClient`."""

    async def test() -> None:
        async with AsyncClient(place.clients, timeout=PATIENCE_S) as client:
            assert await add.on(client).call(1, b=2) == 3
            future = await add.on(client).submit(3, 4)
            assert (await future, future.done(), len(future.request_id)) == (7, True, 16)
            handed = await later.on(client).enqueue(RIDE, dt.timedelta(days=1))
            assert (await later.on(client).result(handed.request_id)).color is Color.RED

    asyncio.run(test())


def test_submit_goes_through_the_client_of_the_registry(place: Place) -> None:
    """Which has to be chosen."""
    own = Tasks()
    sum_of: Any = own.task(name="add")(add.function)
    with pytest.raises(RuntimeError, match=r"tasks\.use"):
        sum_of.submit(1, 2)

    async def test() -> None:
        with pytest.raises(RuntimeError, match=r"tasks\.use"):
            await sum_of.asubmit(1, 2)
        async with AsyncClient(place.clients, timeout=PATIENCE_S) as client:
            own.use(client)
            assert await (await sum_of.asubmit(1, 2)) == 3

    with Client(place.clients, timeout=PATIENCE_S) as client:
        own.use(client)
        assert sum_of.submit(1, 2).result() == 3
    asyncio.run(test())


def test_arguments_are_bound_as_python_binds_them() -> None:
    """By place, by name, by name only, and left out; what was left out is the worker's own default."""
    assert done_here(shape, 1, third=3) == [1, 2, 3, 4]
    assert done_here(shape, 1, 9, third=3, fourth=0) == [1, 9, 3, 0]
    assert done_here(shape, 1, second=8, third=3) == [1, 8, 3, 4]
    assert msgspec.msgpack.decode(shape.said(1, third=3)) == {"task": "shape", "args": {"first": 1, "third": 3}}
    for args, kwargs in (((), {"third": 1}), ((1, 2, 3), {"third": 1}), ((1,), {}), ((1,), {"third": 1, "fifth": 5})):
        with pytest.raises(TypeError, match="task 'shape'"):
            shape.said(*args, **kwargs)


def test_what_has_no_hint_comes_as_messagepack_has_it() -> None:
    """And what is hinted later in the module is found."""
    assert done_here(plain, {"a": [1, None, b"x", 1.5]}) == {"a": [1, None, b"x", 1.5]}
    assert done_here(plain, RIDE)["over"] == [{"x": 1, "y": 2}]
    assert done_here(early) == Late(1)


def test_terms_are_the_task_s_unless_a_call_says_otherwise() -> None:
    """Those of `task(...)`, with what stands beside them; none at all leaves it to the client."""
    own = Tasks()

    @own.task(name="x.y", terms=Terms(queue="a", priority=5), queue="b", run=3)
    def function() -> None: ...

    assert function.terms == Terms(queue="b", priority=5, run=3)
    assert add.terms is None
    assert (own.names, own.queues) == (("x.y",), ("b",))
    assert tasks.queues == ("default", "rides")
    with Client("tcp://127.0.0.1:1") as client:
        assert function.on(client)._options == {"terms": function.terms}
        other = Terms(queue="c")
        assert function.on(client, terms=other, timeout=3)._options == {"terms": other, "timeout": 3}
        assert add.on(client)._options == {}


# --- What does not fit.


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (b"\xc1", "task_unreadable", "no call of a task"),
        (b"\x93\x01\x02\x03", "task_unreadable", "no call of a task"),
        (b"\x80", "task_unreadable", "no call of a task"),
        (msgspec.msgpack.encode({"task": "ad", "args": {}}), "task_unknown", "no task 'ad': did you mean 'add'?"),
        (msgspec.msgpack.encode({"task": "os.system", "args": {}}), "task_unknown", "no task 'os.system'"),
        (msgspec.msgpack.encode({"task": "add", "args": {"a": 1}}), "task_arguments", "missing required field `b`"),
        (msgspec.msgpack.encode({"task": "add"}), "task_arguments", "missing required field"),
        (msgspec.msgpack.encode({"task": "add", "args": {"a": 1, "b": "x"}}), "task_arguments", "Expected `int`"),
        (msgspec.msgpack.encode({"task": "add", "args": {"a": 1, "b": 2, "c": 3}}), "task_arguments", "unknown field"),
        (msgspec.msgpack.encode({"task": "add", "args": [1, 2]}), "task_arguments", "Expected `object`"),
        (b"\x82\xa4task\xa3add\xa4args\x81\xa1\xff\x01", "task_arguments", "'add'"),
        (msgspec.msgpack.encode({"task": "plain", "args": {"what": 1}, "more": 1}), "", ""),
    ],
)
def test_what_does_not_fit_is_a_failure_that_says_what(body: bytes, kind: str, text: str) -> None:
    """For good, but for a task that is not known here: another worker may know it. What else is in a call is passed
    over, for it may come from a later version.
    """
    handler: Any = tasks.handler
    if not kind:
        assert handler(body) == b"\x01"
        return
    with pytest.raises(FailJob, match=re.escape(text)) as caught:
        handler(body)
    failure = caught.value.failure
    assert failure.kind == kind
    assert (failure.final, failure.retry_ms) == ((False, 1_000) if kind == "task_unknown" else (True, None))


def test_a_caller_hears_what_did_not_fit(place: Place) -> None:
    """As `JobFailed`, with the kind; and what the function raises as ever."""
    with Client(place.clients, timeout=PATIENCE_S) as client:
        with pytest.raises(JobFailed, match="Expected `int`, got `str`") as caught:
            add.on(client).call("x", 1)  # type: ignore[arg-type]
        assert (caught.value.kind, caught.value.reason) == ("task_arguments", "failed")
        with pytest.raises(JobFailed, match="this worker has no task 'unheard'") as caught:
            Tasks().task(name="unheard")(add.function).on(client).call(1, 2)
        assert caught.value.kind == "task_unknown"
        with pytest.raises(JobFailed, match="OverflowError") as caught:
            later.on(client).call(RIDE, dt.timedelta(days=999_999_999))
        with pytest.raises(TypeError, match="type object"):
            add.on(client).call(object(), 1)  # type: ignore[arg-type]


def test_results_that_cannot_be_said_or_read_are_errors() -> None:
    """One side fails for good, the other one says so."""
    own = Tasks()

    @own.task
    def odd() -> object:
        return object()

    handler: Any = own.handler
    with pytest.raises(FailJob, match="cannot be sent") as caught:
        handler(odd.said())
    assert (caught.value.failure.kind, caught.value.failure.final) == ("task_result", True)
    with pytest.raises(ResultUnreadable, match=r"'add'.*Expected `int`"):
        add.read(b"\xa1x")
    with pytest.raises(ResultUnreadable):
        add.read(b"")


def test_only_functions_with_named_parameters_are_taken() -> None:
    """Each under a name of its own; each error says what to change."""
    own = Tasks()
    for wrong in (print, Point, 3):
        with pytest.raises(TypeError, match="a task is a function"):
            own.task(wrong)  # type: ignore[call-overload]

    def some(*things: int) -> None: ...
    def named(**things: int) -> None: ...

    for function in (some, named):
        with pytest.raises(TypeError, match=r"\*things.*list or a dict"):
            own.task(function)
    own.task(add.function)
    with pytest.raises(ValueError, match="a task 'add' already"):
        own.task(add.function)
    for name in ("", "x" * 201):
        with pytest.raises(ValueError, match="1 to 200 characters"):
            own.task(name=name)(add.function)
    with pytest.raises(ValueError, match="tries"):
        own.task(tries=-1)(add.function)

    @own.task
    def unresolved(amount: Decimal) -> None: ...

    handler: Any = own.handler
    with pytest.raises(TypeError, match="TYPE_CHECKING"):
        handler(unresolved.said(1))


# --- Workers.


def test_coroutines_and_functions_stand_beside_each_other() -> None:
    """A function does not hold up the loop, and knows its job."""
    own = Tasks()
    entered, go_on = threading.Event(), threading.Event()

    @own.task
    async def wait(value: int) -> int:
        await asyncio.to_thread(entered.wait, PATIENCE_S)
        go_on.set()
        return value

    @own.task
    def block(value: int) -> str:
        entered.set()
        assert go_on.wait(PATIENCE_S)
        return f"{value} at {relet.current_job().attempt}"

    place = Place(own, concurrency=2)
    try:
        with Client(place.clients, timeout=PATIENCE_S) as client:
            first, second = wait.on(client).submit(1), block.on(client).submit(2)
            assert (first.result(), second.result()) == (1, "2 at 1")
    finally:
        place.close()
    assert asyncio.run(wait(5)) == 5


def test_processes_find_a_registry_by_name() -> None:
    """That of a module of its tasks."""
    place = Place(tasks, concurrency=relet.Processes(1))
    try:
        with Client(place.clients, timeout=PATIENCE_S) as client:
            assert add.on(client).call(1, 2) == 3
    finally:
        place.close()


# --- What is written of it.


def test_the_wire_format_is_as_documented() -> None:
    """docs/tasks.md: each example is what goes out, and comes back."""
    text = (ROOT / "docs" / "tasks.md").read_text()
    examples = [
        bytes.fromhex("".join(re.findall(r"^ {4}((?:[0-9a-f]{2} ?)+)", block, re.MULTILINE)))
        for block in re.findall(r"```hex\n(.*?)```", text, re.DOTALL)
    ]
    own = Tasks()

    @own.task
    def resize(path: str, width: int = 640) -> Point:
        return Point(width, len(path))

    handler: Any = own.handler
    assert examples == [resize.said("1.png", width=320), handler(resize.said("1.png", width=320))]
    for kind in ("task_unknown", "task_unreadable", "task_arguments", "task_result"):
        assert f"`{kind}`" in text


def test_the_readme_s_program_does_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there, with a broker of ours."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (program,) = (block for block in blocks if "Tasks()" in block)
    with relet.Broker(LOOPBACK, LOOPBACK, LOOPBACK) as broker:
        here = broker.endpoints
        text = program.replace("tcp://localhost:4161", here["clients"]).replace("tcp://localhost:4162", here["workers"])
        workers: list[Any] = []
        text = re.sub(r"^(Worker\(.*\))\.run\(\).*$", r"begin(\1)", text, flags=re.MULTILINE)

        def begin(worker: Worker) -> None:
            thread = threading.Thread(target=worker.run)
            thread.start()
            workers.append((worker, thread))

        module = types.ModuleType("readme")
        monkeypatch.setitem(sys.modules, "readme", module)  # where dataclasses look for it
        names: dict[str, Any] = vars(module)
        names["begin"] = begin
        try:
            exec(compile(text, "README.md", "exec", dont_inherit=True), names)  # noqa: S102 - our own
            assert names["size"] == names["Size"](320, 240)
            assert names["future"].result(PATIENCE_S) == names["Size"](640, 480)
            names["client"].close()
        finally:
            for worker, thread in workers:
                worker.stop()
                thread.join(PATIENCE_S)


def test_users_programs_are_typed(tmp_path: Path) -> None:
    """Calls here and there are checked against the function's own signature."""
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text("""
from relet import AsyncClient, Client, Tasks, Terms, Worker
from relet.tasks import AsyncTaskFuture, TaskFuture

tasks = Tasks()

@tasks.task
def add(a: int, b: int = 2) -> int:
    return a + b

@tasks.task(queue="q", tries=3, terms=Terms(priority=3))
async def fetch(url: str) -> list[str]:
    return [url]

def main(client: Client) -> None:
    here: int = add(1, b=2)
    there: int = add.on(client, timeout=3).call(1, b=2)
    future: TaskFuture[int] = add.on(client).submit(1)
    lines: list[str] = fetch.on(client).call("x")
    other: TaskFuture[list[str]] = fetch.submit(url="x")
    add.on(client).call("x")  # type: ignore[arg-type]
    add.on(client).submit(1, 2, 3)  # type: ignore[call-arg]
    fetch.submit(uri="x")  # type: ignore[call-arg]
    print(here, there, future.result() + 1, lines, other.result()[0].upper())

async def main_in_loop(client: AsyncClient) -> None:
    here: list[str] = await fetch("x")
    there: list[str] = await fetch.on(client).call("x")
    future: AsyncTaskFuture[int] = await add.on(client).submit(1)
    print(here, there, await future + 1, await (await fetch.asubmit("x")))
    await add.on(client).call("x")  # type: ignore[arg-type]

Worker("tcp://localhost:4162", handler=tasks.handler, queues=tasks.queues).run()
""")
    options = ["--strict", "--no-error-summary", "--follow-imports=silent", f"--cache-dir={tmp_path}"]
    env = {"MYPYPATH": str(Path(relet.__file__).parent.parent)}
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(program)], capture_output=True, text=True, env=env, check=False
    )
    assert checked.stdout + checked.stderr == ""
