"""The client for programs with an event loop: a thin shell around a `peer.Peer` and what turns it in `looped`."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

import zmq

from relet.client.door import (
    REQUESTS_OPEN_BYTES_MAX,
    REQUESTS_OPEN_MAX,
    USUAL_TERMS,
    WINDOW_DEFAULT,
    Door,
    Timeout,
    check_window,
)
from relet.client.looped import LoopEngine
from relet.client.peer import Counters
from relet.client.terms import Kind, Terms
from relet.client.told import Enqueued, JobStatus
from relet.client.waiting import (
    AsyncJobFuture,
    Awaited,
    Course,
    LoopChannel,
    MultipartAwaited,
    MultipartSubmitted,
    OnPartial,
    OnProgress,
    Step,
    Submitted,
)
from relet.transport.link import BODY_BYTES_MAX, DIALECT_DEFAULT

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: the same names, arguments, outcomes and errors, and what waits there is awaited here.

    It belongs to the event loop in which it is first used, and needs no thread of its own; it may be made before a loop
    runs. Any number of tasks may share it, all of that loop.

        async with AsyncClient("tcp://localhost:4161") as client:
            answer = await client.call(b"resize 1.png")

    A task that is cancelled while it waits gives up what it waits for: as with any exception that interrupts a
    `Client`, a job that was only waited for is left alone, and one of which a future or a `map` was given up is not
    wanted any more, and ends.

    Args and errors are those of `Client`.
    """

    def __init__(
        self,
        clients: str,
        *,
        dialect: str = DIALECT_DEFAULT,
        timeout: float | None = None,
        resend: bool = True,
        terms: Terms = USUAL_TERMS,
        context: zmq.Context[Any] | None = None,
        requests_open_max: int = REQUESTS_OPEN_MAX,
        requests_open_bytes_max: int = REQUESTS_OPEN_BYTES_MAX,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        self._door = door = Door(
            clients,
            dialect=dialect,
            timeout=timeout,
            resend=resend,
            terms=terms,
            context=context,
            requests_open_max=requests_open_max,
            requests_open_bytes_max=requests_open_bytes_max,
            body_bytes_max=body_bytes_max,
        )
        self._engine = LoopEngine(door.endpoint, context, door.new_peer(), door.room)
        self._collected = weakref.finalize(self, self._engine.forget)
        self._collected.atexit = False  # then the engine ends by itself: `at_exit`

    @property
    def connected(self) -> bool:
        """As `Client.connected`. It connects when it is first used."""
        return self._engine.turns.connected

    @property
    def counters(self) -> Counters:
        """What has happened so far; do not write to it."""
        return self._engine.peer.counters

    # --- Call and wait.

    async def call(
        self,
        data: bytes,
        *,
        timeout: Timeout = ...,
        terms: Terms | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: bytes | None = None,
    ) -> bytes:
        """The answer to one job; as `Client.call`. A task that is cancelled here leaves its job alone."""
        door = self._door
        answer: bytes = await self._call(Awaited(door.frame(data), *door.job(timeout, terms, headers, request_id)))
        return answer

    async def call_multipart(
        self,
        frames: Sequence[bytes],
        *,
        timeout: Timeout = ...,
        terms: Terms | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: bytes | None = None,
    ) -> list[bytes]:
        """As `call`, for bodies and answers of several frames."""
        door = self._door
        asked = door.job(timeout, terms, headers, request_id)
        answer: list[bytes] = await self._call(MultipartAwaited(door.frames(frames), *asked))
        return answer

    async def _call(self, call: Awaited) -> Any:
        try:
            await self._engine.submit(call)
            return await call.future
        except (asyncio.CancelledError, GeneratorExit):
            self._engine.abandon([call])
            raise
        finally:
            del call  # an error's traceback would hold the frame that holds it

    # --- Call and look later, in this process.

    async def submit(
        self,
        data: bytes,
        *,
        timeout: Timeout = ...,
        terms: Terms | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: bytes | None = None,
        on_partial: OnPartial | None = None,
        on_progress: OnProgress | None = None,
    ) -> AsyncJobFuture[bytes]:
        """A future for the answer to one job, when there is room for it; as `Client.submit`.

        Awaiting it gives the answer. What is called back runs in the loop, between its tasks. Cancelling the future,
        and so cancelling a task that awaits it, ends the job at the broker.
        """
        asked = self._door.future_job(timeout, terms, headers, request_id, on_partial, on_progress)
        future: AsyncJobFuture[bytes] = AsyncJobFuture(loop=asyncio.get_running_loop())
        return await self._submit(Submitted(self._door.frame(data), asked, future, on_partial, on_progress), future)

    async def submit_multipart(
        self,
        frames: Sequence[bytes],
        *,
        timeout: Timeout = ...,
        terms: Terms | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: bytes | None = None,
        on_partial: OnPartial | None = None,
        on_progress: OnProgress | None = None,
    ) -> AsyncJobFuture[list[bytes]]:
        """As `submit`, for bodies and answers of several frames."""
        asked = self._door.future_job(timeout, terms, headers, request_id, on_partial, on_progress)
        future: AsyncJobFuture[list[bytes]] = AsyncJobFuture(loop=asyncio.get_running_loop())
        request = MultipartSubmitted(self._door.frames(frames), asked, future, on_partial, on_progress)
        return await self._submit(request, future)

    async def _submit(self, request: Submitted, future: AsyncJobFuture[T]) -> AsyncJobFuture[T]:
        future.stands_for(request, self._engine)
        await self._engine.submit(request)  # it does not wait once the request is open
        return future

    # --- Hand over, and ask later, from anywhere.

    async def enqueue(
        self,
        data: bytes | Sequence[bytes],
        *,
        timeout: Timeout = ...,
        terms: Terms | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: bytes | None = None,
    ) -> Enqueued:
        """Hand a job over, and return when the broker has taken it; as `Client.enqueue`."""
        (outcome,) = await self.enqueue_many(
            [data],
            timeout=timeout,
            terms=terms,
            headers=headers,
            request_ids=None if request_id is None else [request_id],
        )
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def enqueue_many(
        self,
        datas: Iterable[bytes | Sequence[bytes]],
        *,
        timeout: Timeout = ...,
        terms: Terms | None = None,
        headers: Mapping[str, str] | None = None,
        request_ids: Sequence[bytes] | None = None,
    ) -> list[Enqueued | Exception]:
        """Hand many jobs over in as few messages as the broker's limits allow; as `Client.enqueue_many`."""
        engine, channel = self._engine, LoopChannel()
        outcomes, requests = self._door.handed_over(datas, timeout, terms, headers, request_ids, channel)
        try:
            left = await engine.submit_all(requests)
            while left:
                if not channel.gathered:
                    await channel.wait()
                batch = channel.take()
                left -= len(batch)
                for index, outcome in batch:
                    outcomes[index] = outcome
        except BaseException:
            engine.abandon(requests)
            raise
        return outcomes

    async def result(
        self, request_id: bytes | None = None, *, job_id: bytes | None = None, timeout: Timeout = ...
    ) -> bytes:
        """The answer to a job that was handed over before; as `Client.result`."""
        asked = self._door.question(Kind.RESULT, request_id, job_id, timeout)
        answer: bytes = await self._call(Awaited(b"", *asked))
        return answer

    async def result_multipart(
        self, request_id: bytes | None = None, *, job_id: bytes | None = None, timeout: Timeout = ...
    ) -> list[bytes]:
        """As `result`, for answers of several frames."""
        asked = self._door.question(Kind.RESULT, request_id, job_id, timeout)
        answer: list[bytes] = await self._call(MultipartAwaited(b"", *asked))
        return answer

    async def state(
        self, request_id: bytes | None = None, *, job_id: bytes | None = None, timeout: Timeout = ...
    ) -> JobStatus:
        """Where a job stands; as `Client.state`."""
        return await self._status(Kind.STATE, request_id, job_id, timeout)

    async def why(
        self, request_id: bytes | None = None, *, job_id: bytes | None = None, timeout: Timeout = ...
    ) -> JobStatus:
        """Where a job stands, and why there; as `Client.why`."""
        return await self._status(Kind.WHY, request_id, job_id, timeout)

    async def cancel(
        self, request_id: bytes | None = None, *, job_id: bytes | None = None, timeout: Timeout = ...
    ) -> JobStatus:
        """This client does not want a job any more: returns what became of it; as `Client.cancel`."""
        return await self._status(Kind.CANCEL, request_id, job_id, timeout)

    async def _status(
        self, kind: Kind, request_id: bytes | None, job_id: bytes | None, timeout: Timeout
    ) -> JobStatus:
        status: JobStatus = await self._call(Awaited(b"", *self._door.question(kind, request_id, job_id, timeout)))
        return status

    # --- Many.

    @overload
    def map(
        self,
        datas: Iterable[bytes] | AsyncIterable[bytes],
        *,
        window: int = ...,
        ordered: bool = ...,
        timeout: Timeout = ...,
        terms: Terms | None = ...,
        headers: Mapping[str, str] | None = ...,
        return_exceptions: Literal[False] = ...,
    ) -> AsyncGenerator[bytes, None]: ...

    @overload
    def map(
        self,
        datas: Iterable[bytes] | AsyncIterable[bytes],
        *,
        window: int = ...,
        ordered: bool = ...,
        timeout: Timeout = ...,
        terms: Terms | None = ...,
        headers: Mapping[str, str] | None = ...,
        return_exceptions: bool,
    ) -> AsyncGenerator[bytes | Exception, None]: ...

    def map(
        self,
        datas: Iterable[bytes] | AsyncIterable[bytes],
        *,
        window: int = WINDOW_DEFAULT,
        ordered: bool = True,
        timeout: Timeout = ...,
        terms: Terms | None = None,
        headers: Mapping[str, str] | None = None,
        return_exceptions: bool = False,
    ) -> AsyncGenerator[bytes, None] | AsyncGenerator[bytes | Exception, None]:
        """The answers to many jobs, while they come; as `Client.map`, to be iterated over with `async for`.

        `datas` may be asynchronous as well; then answers are handed on while it is waited for. As any asynchronous
        generator that is left early it ends soon after; `contextlib.aclosing` ends it, and what is open, at once.
        """
        check_window(window)
        timeout_ns, asking, _ = self._door.job(timeout, terms, headers)
        channel = LoopChannel()
        course = Course(
            channel, timeout_ns, asking, window=window, ordered=ordered, return_exceptions=return_exceptions
        )
        if isinstance(datas, AsyncIterable):
            return self._map_async(aiter(datas), course, channel)
        return self._map(iter(datas), course, channel)

    async def _map(self, datas: Iterator[bytes], course: Course, channel: LoopChannel) -> AsyncGenerator[Any, None]:
        try:
            while (step := course.step()) is not Step.END:
                if step is Step.READ:
                    try:
                        data = next(datas)
                    except StopIteration:
                        course.more = False
                        continue
                    await self._open(course, data)
                elif step is Step.WAIT:
                    await channel.wait()
                else:
                    yield step
                if channel.gathered:
                    course.take(channel.take())
        finally:
            self._leave(course)

    async def _map_async(
        self, datas: AsyncIterator[bytes], course: Course, channel: LoopChannel
    ) -> AsyncGenerator[Any, None]:
        reading: asyncio.Task[tuple[bytes] | None] | None = None
        try:
            while (step := course.step(reading=reading is not None and not reading.done())) is not Step.END:
                if step is Step.READ and reading is None:
                    reading = asyncio.ensure_future(_next(datas))
                    reading.add_done_callback(channel.wake)
                elif step is Step.READ and reading is not None:
                    read, reading = reading.result(), None
                    if read is None:
                        course.more = False
                    else:
                        await self._open(course, read[0])
                elif step is Step.WAIT:
                    await channel.wait()
                else:
                    yield step
                if channel.gathered:
                    course.take(channel.take())
        finally:
            if reading is not None:
                reading.cancel()
            self._leave(course)

    async def _open(self, course: Course, data: bytes) -> None:
        try:
            await self._engine.submit(course.request(self._door.frame(data)))
            course.opened()
        except (TimeoutError, TypeError, ValueError) as error:  # no room, or no body
            course.refused(error)

    def _leave(self, course: Course) -> None:
        if left := course.open():
            self._engine.abandon(left, withdraw=True)

    # --- The end.

    async def close(self) -> None:
        """End the client; idempotent. What is open ends with `ClientClosed`."""
        self._collected.detach()
        self._engine.close()

    async def __aenter__(self) -> Self:
        self._engine.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def _next(datas: AsyncIterator[bytes]) -> tuple[bytes] | None:
    """The next body, as a tuple of one; None where there is none."""
    try:
        return (await anext(datas),)
    except StopAsyncIteration:
        return None
