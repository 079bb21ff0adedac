"""Functions by name: a function is registered on both sides, and called there as it is called here.

    tasks = Tasks()

    @tasks.task(queue="images", tries=3)
    def resize(path: str, width: int = 640) -> Size: ...

    resize("1.png")                                     # here
    resize.on(client).call("1.png", width=320)          # there: a Size
    Worker("tcp://localhost:4162", handler=tasks.handler, queues=tasks.queues).run()

What travels is a name and named arguments as MessagePack (docs/tasks.md); what comes back is the result, likewise.
Neither side imports, unpickles or evaluates anything of what it is sent: a name is looked up among those that are
registered, and arguments and results are decoded by the function's type hints, so that dataclasses, `msgspec.Struct`s,
enums, datetimes and the like come as what they are. What has no hint comes as MessagePack has it.

A call is bound to the parameters by making a struct of it that has the same ones: that is what Python does with the
arguments of a function, at a tenth of the price of `inspect.Signature.bind`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
import typing
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from typing import Any, Final, Generic, ParamSpec, TypeVar, overload

import msgspec

from relet.client import AsyncClient, AsyncJobFuture, Client, ClientError, Enqueued, JobFuture, Terms
from relet.messages import DEFAULT_QUEUE
from relet.worker import FailJob
from relet.worker.handlers import awaitable_of

NAME_CHARACTERS_MAX: Final = 200
"""Characters of a task's name: it is sent with each call."""
UNKNOWN_RETRY_SECONDS: Final = 1.0
"""When a call is tried again whose task a worker does not know: another one may, which was started later."""
TASK_UNKNOWN: Final = "task_unknown"
"""Kind of failure: the worker has no such task."""
TASK_UNREADABLE: Final = "task_unreadable"
"""Kind of failure: the job's body is no call."""
TASK_ARGUMENTS: Final = "task_arguments"
"""Kind of failure: the arguments do not fit the function."""
TASK_RESULT: Final = "task_result"
"""Kind of failure: the function has returned what cannot be sent."""

P = ParamSpec("P")
R = TypeVar("R")
Here = TypeVar("Here")

_encode: Final = msgspec.msgpack.Encoder().encode


class Call(msgspec.Struct):
    """What is sent."""

    task: str
    args: Any
    """A map of parameters to values."""


class _Heard(msgspec.Struct):
    task: str
    args: msgspec.Raw = msgspec.Raw(b"\x80")


_hear: Final = msgspec.msgpack.Decoder(_Heard).decode


class ResultUnreadable(ClientError):
    """The task has ended well, and its result is not what the function's type hints say on this side."""


class Task(Generic[P, R, Here]):
    """A function that can be called here, and there. `Tasks.task` makes it.

    `task(...)` is the function. `task.on(client)` is the same elsewhere. `submit` and `asubmit` are short for that with
    the clients that the registry was given (`Tasks.use`).
    """

    def __init__(self, tasks: Tasks, function: Callable[P, Here], name: str, terms: Terms | None) -> None:
        functools.update_wrapper(self, function)
        self.name = name
        self.terms = terms
        """On what terms it is called, unless a call says otherwise; None: on those of the client."""
        self.function = function
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self._tasks = tasks
        self._parameters = _parameters_of(function)
        self._is_plain = all(p.kind is not p.KEYWORD_ONLY and p.default is p.empty for p in self._parameters)
        """Whether every argument is given, and may be given by place."""
        by_place = [p for p in self._parameters if p.kind is not p.KEYWORD_ONLY]
        by_name = [p for p in self._parameters if p.kind is p.KEYWORD_ONLY]
        self._places = [(p.name, p.default, p.kind is p.POSITIONAL_ONLY) for p in (*by_place, *by_name)]
        """As `_struct` has them."""
        self._given = _struct(name, self._parameters, {})

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Here:
        """Run it here."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.name!r}>"

    @overload
    def on(
        self,
        client: Client,
        *,
        timeout: float | None = ...,
        terms: Terms | None = ...,
        headers: Mapping[str, str] | None = ...,
        request_id: bytes | None = ...,
    ) -> Remote[P, R]: ...

    @overload
    def on(
        self,
        client: AsyncClient,
        *,
        timeout: float | None = ...,
        terms: Terms | None = ...,
        headers: Mapping[str, str] | None = ...,
        request_id: bytes | None = ...,
    ) -> AsyncRemote[P, R]: ...

    def on(self, client: Client | AsyncClient, **options: Any) -> Remote[P, R] | AsyncRemote[P, R]:
        """The same task, done by a worker.

        Args:
            client: whose broker has it done.
            options: `timeout`, `terms`, `headers` and `request_id`, as in `Client.call`; `terms` take the place of the
                task's own.
        """
        if options.get("terms") is None and self.terms is not None:
            options["terms"] = self.terms
        return AsyncRemote(self, client, options) if isinstance(client, AsyncClient) else Remote(self, client, options)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[R]:
        """`task.on(client).submit(...)` with the registry's `Client`. Raises RuntimeError where it has none."""
        return self.on(self._tasks.client).submit(*args, **kwargs)

    async def asubmit(self, *args: P.args, **kwargs: P.kwargs) -> AsyncTaskFuture[R]:
        """`await task.on(client).submit(...)` with the registry's `AsyncClient`. Raises RuntimeError where it has
        none.
        """
        return await self.on(self._tasks.async_client).submit(*args, **kwargs)

    # --- What travels.

    def said(self, *args: P.args, **kwargs: P.kwargs) -> bytes:
        """The job's body for a call.

        Raises:
            TypeError: the arguments do not fit the parameters, or cannot be said in MessagePack.
        """
        try:
            given = self._given(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"task {self.name!r}: {error}") from None
        return _encode(Call(self.name, given))

    def read(self, answer: bytes) -> R:
        """The result in an answer. Raises `ResultUnreadable`."""
        try:
            return self._result(answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ResultUnreadable(f"the result of task {self.name!r} cannot be read here: {error}") from error

    def arguments(self, raw: bytes | msgspec.Raw) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the function is called with: by place, and by name. Raises `FailJob`."""
        try:
            taken = self._take(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FailJob(TASK_ARGUMENTS, f"task {self.name!r}: {error}", final=True) from error
        values = msgspec.structs.astuple(taken)
        return (values, {}) if self._is_plain else self._placed(values)

    def _placed(self, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """By place what has no name to be called by, the rest by name as far as it was given."""
        places: list[Any] = []
        names: dict[str, Any] = {}
        for (name, default, is_placed), value in zip(self._places, values, strict=True):
            if is_placed:
                places.append(default if value is msgspec.UNSET else value)
            elif value is not msgspec.UNSET:
                names[name] = value
        return tuple(places), names

    @functools.cached_property
    def _hints(self) -> dict[str, Any]:
        """Looked up late: a function may be annotated with what its module defines after it."""
        try:
            return typing.get_type_hints(self.function, include_extras=True)
        except NameError as error:
            raise TypeError(
                f"the type hints of task {self.name!r} cannot be looked up: {error}; what they name is needed when the"
                " program runs, so import it outside `if TYPE_CHECKING`"
            ) from error

    @functools.cached_property
    def _take(self) -> Callable[[bytes | msgspec.Raw], msgspec.Struct]:
        return msgspec.msgpack.Decoder(_struct(self.name, self._parameters, self._hints)).decode

    @functools.cached_property
    def _result(self) -> Callable[[bytes], R]:
        return msgspec.msgpack.Decoder(self._hints.get("return", Any)).decode


class Tasks:
    """Functions by name, for those who call them and for workers.

    `handler` is what a worker takes, with `queues`:

        Worker("tcp://localhost:4162", handler=tasks.handler, queues=tasks.queues)
    """

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any, Any]] = {}
        self._client: Client | None = None
        self._async_client: AsyncClient | None = None

        def handler(data: bytes) -> bytes:
            return self._do(data)

        async def handler_awaited(data: bytes) -> bytes:
            return await self._do_awaited(data)

        self._handlers: Final = (handler, handler_awaited)

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R, R]: ...

    @overload
    def task(
        self,
        *,
        name: str | None = ...,
        queue: str | None = ...,
        tries: int | None = ...,
        run: float | None = ...,
        terms: Terms | None = ...,
    ) -> _Register: ...

    def task(
        self,
        function: Any = None,
        *,
        name: str | None = None,
        queue: str | None = None,
        tries: int | None = None,
        run: float | None = None,
        terms: Terms | None = None,
    ) -> Any:
        """Register a function: `@tasks.task`, or `@tasks.task(queue="images", tries=3)`.

        Args:
            function: a function or a coroutine function whose parameters all have names: no `*args`, no `**kwargs`.
            name: what it is called on the wire, 1 to 200 characters; None: the function's own name.
            queue: where its calls wait.
            tries: attempts that count.
            run: seconds that one attempt may take.
            terms: on what other terms it is called; `queue`, `tries` and `run` take the place of what they say.

        Raises:
            TypeError: it is no such function.
            ValueError: the name is taken, or no name; the terms cannot be.
        """
        chosen = {key: value for key, value in (("queue", queue), ("tries", tries), ("run", run)) if value is not None}
        if chosen:
            terms = msgspec.structs.replace(Terms() if terms is None else terms, **chosen)
        register = _Register(self, name, terms)
        return register if function is None else register(function)

    def register(self, function: Callable[P, Here], name: str | None, terms: Terms | None) -> Task[P, Any, Here]:
        """As `task`, which is meant for people."""
        if not (inspect.isfunction(function) or inspect.ismethod(function)):
            raise TypeError(f"a task is a function, not {type(function).__name__}")
        named = getattr(function, "__name__", "") if name is None else name
        if not isinstance(named, str) or not 1 <= len(named) <= NAME_CHARACTERS_MAX:
            raise ValueError(f"a task has a name of 1 to {NAME_CHARACTERS_MAX} characters, not {named!r:.250}")
        if named in self._tasks:
            raise ValueError(f"there is a task {named!r} already: give one of them another name=")
        task: Task[P, Any, Here] = Task(self, function, named, terms)
        self._tasks[named] = task
        return task

    def use(self, client: Client | AsyncClient) -> None:
        """From now on `task.submit` goes through this client, or `task.asubmit` where it is an `AsyncClient`."""
        if isinstance(client, AsyncClient):
            self._async_client = client
        else:
            self._client = client

    @property
    def client(self) -> Client:
        """What `submit` goes through. Raises RuntimeError where there is none."""
        if self._client is None:
            raise RuntimeError("no client was chosen: call tasks.use(Client(...)), or task.on(client).submit(...)")
        return self._client

    @property
    def async_client(self) -> AsyncClient:
        """What `asubmit` goes through. Raises RuntimeError where there is none."""
        if self._async_client is None:
            raise RuntimeError("no client was chosen: call tasks.use(AsyncClient(...)), or task.on(client).submit(...)")
        return self._async_client

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tasks."""
        return tuple(self._tasks)

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues of all tasks, for `Worker(queues=...)`."""
        queues = dict.fromkeys(task.terms.queue if task.terms else DEFAULT_QUEUE for task in self._tasks.values())
        return tuple(queues) or (DEFAULT_QUEUE,)

    @property
    def handler(self) -> Callable[[bytes], bytes] | Callable[[bytes], Awaitable[bytes]]:
        """What a worker calls for each job: a coroutine function where one of the tasks is, else a function.

        What a task raises is an outcome as it is of any handler. Beside that a job fails for good whose body is no call
        (`task_unreadable`), whose arguments do not fit (`task_arguments`), or whose result cannot be sent
        (`task_result`); one whose task is not registered here fails (`task_unknown`), and is tried again in a second.

        Where the registry stands at the top level of a module of its tasks, processes find the handler there by name.
        """
        handler = self._handlers[any(task.is_coroutine for task in self._tasks.values())]
        for module in {task.function.__module__ for task in self._tasks.values()}:
            for name, found in vars(sys.modules.get(module, object)).items():
                if found is self:
                    handler.__module__, handler.__qualname__ = module, f"{name}.handler"
        return handler

    def _do(self, data: bytes) -> bytes:
        task, raw = self._find(data)
        places, names = task.arguments(raw)
        return _answer(task, task.function(*places, **names))

    async def _do_awaited(self, data: bytes) -> bytes:
        task, raw = self._find(data)
        places, names = task.arguments(raw)
        if task.is_coroutine:
            return _answer(task, await task.function(*places, **names))
        return _answer(task, await awaitable_of(lambda _: task.function(*places, **names))(data))

    def _find(self, data: bytes) -> tuple[Task[..., Any, Any], msgspec.Raw]:
        try:
            heard = _hear(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FailJob(TASK_UNREADABLE, f"the job is no call of a task: {error}", final=True) from error
        task = self._tasks.get(heard.task)
        if task is None:
            raise FailJob(TASK_UNKNOWN, self._unknown(heard.task), retry_after=UNKNOWN_RETRY_SECONDS)
        return task, heard.args

    def _unknown(self, name: str) -> str:
        close = difflib.get_close_matches(name, self._tasks, n=1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        return f"this worker has no task {name!r:.250}{hint}"


class _Register:
    """What `@tasks.task(...)` puts a function into."""

    def __init__(self, tasks: Tasks, name: str | None, terms: Terms | None) -> None:
        self._tasks = tasks
        self._name = name
        self._terms = terms

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Task[P, R, Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(self, function: Callable[P, R]) -> Task[P, R, R]: ...

    def __call__(self, function: Callable[..., Any]) -> Task[..., Any, Any]:
        return self._tasks.register(function, self._name, self._terms)


class Remote(Generic[P, R]):
    """A task as a `Client` has it done."""

    def __init__(self, task: Task[P, R, Any], client: Client, options: dict[str, Any]) -> None:
        self._task = task
        self._client = client
        self._options = options

    def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result. Raises as `Client.call`, TypeError where the arguments do not fit, and `ResultUnreadable`."""
        return self._task.read(self._client.call(self._task.said(*args, **kwargs), **self._options))

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[R]:
        """A future for the result. Raises as `Client.submit`, and TypeError where the arguments do not fit."""
        return TaskFuture(self._task, self._client.submit(self._task.said(*args, **kwargs), **self._options))

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Enqueued:
        """Hand it over. Raises as `Client.enqueue`, and TypeError where the arguments do not fit."""
        return self._client.enqueue(self._task.said(*args, **kwargs), **self._options)

    def result(self, request_id: bytes) -> R:
        """The result of a call that was handed over before. Raises as `Client.result`, and `ResultUnreadable`."""
        timeout = {key: value for key, value in self._options.items() if key == "timeout"}
        return self._task.read(self._client.result(request_id, **timeout))


class AsyncRemote(Generic[P, R]):
    """A task as an `AsyncClient` has it done: as `Remote`, to be awaited."""

    def __init__(self, task: Task[P, R, Any], client: AsyncClient, options: dict[str, Any]) -> None:
        self._task = task
        self._client = client
        self._options = options

    async def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result."""
        return self._task.read(await self._client.call(self._task.said(*args, **kwargs), **self._options))

    async def submit(self, *args: P.args, **kwargs: P.kwargs) -> AsyncTaskFuture[R]:
        """A future for the result, to be awaited in turn."""
        future = await self._client.submit(self._task.said(*args, **kwargs), **self._options)
        return AsyncTaskFuture(self._task, future)

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Enqueued:
        """Hand it over."""
        return await self._client.enqueue(self._task.said(*args, **kwargs), **self._options)

    async def result(self, request_id: bytes) -> R:
        """The result of a call that was handed over before."""
        timeout = {key: value for key, value in self._options.items() if key == "timeout"}
        return self._task.read(await self._client.result(request_id, **timeout))


class TaskFuture(Generic[R]):
    """A result that comes. It is decoded by who asks for it, because types may run code of yours."""

    def __init__(self, task: Task[..., R, Any], job: JobFuture[bytes]) -> None:
        self._task = task
        self.job = job
        """The future of the job behind it, for `concurrent.futures.wait`, callbacks, headers ..."""

    @property
    def request_id(self) -> bytes:
        """What the job was asked for under."""
        return self.job.request_id

    def result(self, timeout: float | None = None) -> R:
        """The result. Raises as `JobFuture.result`, and `ResultUnreadable`."""
        return self._task.read(self.job.result(timeout))

    def done(self) -> bool:
        """Whether it is there, or will never be."""
        return self.job.done()

    def cancel(self) -> bool:
        """As `JobFuture.cancel`: the job ends at the broker."""
        return self.job.cancel()


class AsyncTaskFuture(Generic[R]):
    """A result that comes; awaiting it gives it."""

    def __init__(self, task: Task[..., R, Any], job: AsyncJobFuture[bytes]) -> None:
        self._task = task
        self.job = job
        """The future of the job behind it, for `asyncio.wait`, callbacks, headers ..."""

    @property
    def request_id(self) -> bytes:
        """What the job was asked for under."""
        return self.job.request_id

    def __await__(self) -> Generator[Any, None, R]:
        """The result. Raises as the job's future, and `ResultUnreadable`."""
        return self._task.read((yield from self.job))

    def done(self) -> bool:
        """Whether it is there, or will never be."""
        return self.job.done()

    def cancel(self) -> bool:
        """The job ends at the broker."""
        return self.job.cancel()


def _parameters_of(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    """Raises TypeError where one has no name."""
    parameters = tuple(inspect.signature(function).parameters.values())
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(
                f"the parameters of a task have names, and {parameter} stands for any number of others: take a list or"
                " a dict instead"
            )
    return parameters


def _struct(name: str, parameters: tuple[inspect.Parameter, ...], hints: Mapping[str, Any]) -> type[msgspec.Struct]:
    """A struct with the same parameters; those that have a default may be left out, and are not sent then."""
    by_place: list[Any] = []
    by_name: list[Any] = []
    for parameter in parameters:
        hint = hints.get(parameter.name, Any)
        fields = by_name if parameter.kind is parameter.KEYWORD_ONLY else by_place
        if parameter.default is parameter.empty:
            fields.append((parameter.name, hint))
        else:
            fields.append((parameter.name, typing.Union[hint, msgspec.UnsetType], msgspec.UNSET))  # noqa: UP007 - a value
    base = msgspec.defstruct(name, by_name, kw_only=True)
    return msgspec.defstruct(name, by_place, bases=(base,), forbid_unknown_fields=True)


def _answer(task: Task[..., Any, Any], result: Any) -> bytes:
    try:
        return _encode(result)
    except (TypeError, ValueError, OverflowError) as error:
        raise FailJob(TASK_RESULT, f"the result of task {task.name!r} cannot be sent: {error}", final=True) from error
