"""The administrators' side: one question at a time to the endpoint that `broker.py --admin` names.

    with Admin("tcp://localhost:4164") as admin:
        for queue in admin.queues():
            print(queue.name, queue.jobs, queue.workers)
        admin.pause("mail", "dispatch", by="ada")
        print(admin.why(job_id=job_id).text)

It has no thread and keeps nothing. An order is never sent twice: where no answer comes in time, `TimeoutError` says so,
and whether it was carried out shows in what is asked next.
"""

from __future__ import annotations

import getpass
import os
import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

import msgspec
import zmq

from relet.client.errors import ClientClosed, ClientError, UnreadableAnswer
from relet.core.settings import from_wire, from_words, to_wire, to_words
from relet.dialects import native
from relet.messages import NO_SESSION, SIGNATURE, VERSION, WRONG_ENDPOINT, Entry, Error, Said
from relet.orders import (
    BY_CHARACTERS_MAX,
    BackUp,
    BackupTold,
    CancelAnyJob,
    DeadJobTold,
    DeadLine,
    DeadTold,
    JobTold,
    ListDead,
    ListQueues,
    Order,
    PauseQueue,
    PurgeDead,
    QueueLine,
    QueuesTold,
    QueueTold,
    RedriveDead,
    ResumeQueue,
    SetQueue,
    ShowDead,
    ShowJob,
    ShowQueue,
    SweptTold,
    WhyJob,
    WhyTold,
)
from relet.transport.attach import connect
from relet.transport.endpoints import EndpointError, check_text, parse_connect

PAGE: Final = 1_000
"""Queues that are asked for at a time."""
ID_BYTES: Final = 8
_ELSEWHERE: Final = {
    WRONG_ENDPOINT: "",
    NO_SESSION: "this is no endpoint for administrators: connect to the one that broker.py --admin names",
}
"""Codes that no endpoint for administrators answers with, and what is said of them; "": what the broker says."""

Answer = TypeVar("Answer", bound=Said)
What = Literal["intake", "dispatch", "both"]


class OrderRefused(ClientError):
    """The broker did not carry an order out; `code` is a word for programs, `text` a sentence for people."""

    def __init__(self, code: str, text: str = "") -> None:
        super().__init__(f"{code}: {text}" if text else code)
        self.code = code
        self.text = text

    def __reduce__(self) -> tuple[type[OrderRefused], tuple[str, str]]:
        return type(self), (self.code, self.text)


class QueueInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A queue, as it is at the moment."""

    name: str
    settings: dict[str, Any] | None = None
    """In the words of a configuration file, times in seconds; None: it has none. The pause stands beside it."""
    paused: str = ""
    """`intake`, `dispatch`, `both`, or "": it is not."""
    intake_by: str = ""
    """Who has paused that it takes jobs ..."""
    dispatch_by: str = ""
    """... and who that it gives them out: the last one who did, as each has said."""
    jobs: int = 0
    """That are not final: the sum of the next four."""
    waiting: int = 0
    delayed: int = 0
    blocked: int = 0
    """Behind another one of their order key."""
    in_flight: int = 0
    """With workers."""
    workers: int = 0
    """That ask for a job now; counted up to a thousand."""
    asks: int = 0
    """Jobs that these ask for."""
    dead: int = 0
    """Dead letters."""


class JobInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker knows of a job. Moments are seconds since 1970; None: not yet."""

    job_id: bytes
    number: int
    """How the broker's log calls it."""
    request_id: bytes
    """b"" for a job of 2010."""
    queue: str
    state: str
    reason: str
    attempts: int
    tries: int | None
    """None: any number."""
    worker: str
    """Who has it; "" where nobody does."""
    accepted: float | None
    began: float | None
    due: float | None
    """When its delay is over."""
    ended: float | None
    body_bytes: int
    """As long as the body is kept."""
    askers: int
    """Connections that wait for it."""
    kind: str
    text: str
    ledger: tuple[Entry, ...]
    headers: dict[str, str] | None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job is where it is."""

    job_id: bytes
    state: str
    code: str
    """A word for programs (docs/protocol.md)."""
    text: str
    """A sentence for people."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A job that was discarded, and is kept as evidence. Moments are seconds since 1970. What follows `redriven_to` is
    told by `Admin.dead_letter` alone.
    """

    job_id: bytes
    number: int
    """How the broker's log calls it."""
    queue: str
    reason: str
    kind: str
    """What its worker called the last failure."""
    attempts: int
    accepted: float
    ended: float
    body_bytes: int
    redriven_from: bytes
    """Id of the dead letter that the job was made of; b"": of none."""
    redriven_to: bytes
    """Id of the job that was made of it, the last one; b"": none was."""
    text: str = ""
    """What its worker said of the last failure."""
    request_id: bytes = b""
    handovers: int = 0
    """That came to nothing and cost no attempt."""
    ledger: tuple[Entry, ...] = ()
    headers: dict[str, str] | None = None
    body: tuple[bytes, ...] | None = None
    """Its frames, where they were asked for."""


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a redrive or a purge."""

    count: int
    """Of how many it was done, or would have been."""
    skipped: int
    """How many had been redriven before."""
    refused: int
    """Of how many the broker took no new job: it stopped there where that would be so of all."""
    code: str
    """Why, in a word, the last reason ..."""
    text: str
    """... and in a sentence."""
    job_ids: tuple[bytes, ...]
    """Of new jobs, the first thousand."""


class BackupInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of a broker's store."""

    path: str
    """On the broker's machine."""
    state: str
    """`running`, `done` or `failed`."""
    done_bytes: int
    total_bytes: int
    """As the store is now: it may grow meanwhile."""
    text: str
    """Why it failed."""


class Admin:
    """A connection to the administrators' endpoint of one broker; for one thread or several.

    Args:
        endpoint: where the broker's `--admin` is bound.
        timeout: seconds that a call may take.
        by: who you are, for others who find a queue paused; by default the name of the user, or `uid 1000` where that
            user has no name.

    Raises:
        EndpointError: `endpoint` cannot be meant.
    """

    def __init__(self, endpoint: str, *, timeout: float = 5.0, by: str | None = None) -> None:
        check_text("endpoint", endpoint)
        where = parse_connect(endpoint, inproc=False)
        if type(timeout) not in (int, float) or not 0 < timeout <= 10**6:
            raise ValueError(f"timeout is a number of seconds above 0, not {timeout!r}")
        self.endpoint = endpoint
        self._timeout = timeout
        self._by = _user() if by is None else by
        self._lock = threading.Lock()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.immediate = True  # what nobody is there to read is not kept for whoever comes
        connect(self._socket, where)

    # --- Queues

    def queues(self) -> Iterator[QueueInfo]:
        """All queues, by name; asked for a page at a time."""
        after, more = "", True
        while more:
            told = self.call(ListQueues(after=after, count=PAGE), QueuesTold)
            yield from map(_queue_info, told.queues)
            more = told.more and bool(told.queues)
            after = told.queues[-1].name if more else ""

    def queue(self, name: str) -> QueueInfo:
        """One queue. Raises `OrderRefused` (`unknown_queue`) where there is no such queue."""
        return _queue_info(self.call(ShowQueue(queue=name), QueueTold).queue)

    def pause(self, queue: str, what: What = "both", *, by: str | None = None) -> QueueInfo:
        """The queue takes no jobs (`intake`), gives none out (`dispatch`), or both; beside what is paused already. One
        that is not there is made, unless only configured ones may be used: then `OrderRefused` (`unknown_queue`).
        """
        by = self._by if by is None else by
        return _queue_info(self.call(PauseQueue(queue=queue, what=what, by=by), QueueTold).queue)

    def resume(self, queue: str, what: What = "both") -> QueueInfo:
        """It does again. Raises `OrderRefused` (`unknown_queue`) where there is no such queue."""
        return _queue_info(self.call(ResumeQueue(queue=queue, what=what), QueueTold).queue)

    def set_queue(self, queue: str, settings: Mapping[str, Any] | None, *, by: str | None = None) -> QueueInfo:
        """The queue has these settings, and no others: what it had and these do not name is gone, but for its pause,
        which goes on unless they say something of `paused`. A broker without a store forgets all that was set so when
        it ends; the next one has what its own configuration says.

        Args:
            queue: its name, 1 to 200 characters; one that is not there is made.
            settings: in the words of a configuration file (docs/operations.md). A time is a number of seconds, or text
                with its unit ("500ms", "30s", "5m"); `backoff` may be a `relet.Backoff`. {}: it may be used, and has
                nothing of its own. None: it has none, and no pause; where only configured queues may be used, it may
                not be used any more.
            by: who wants it, where it is paused by that.

        Raises:
            SettingsError: they cannot be.
            OrderRefused: they cannot be with this broker (`bad_request`); there are too many queues
                (`too_many_queues`); they would be taken from a queue that has jobs, where only configured ones may be
                used (`queue_not_empty`).
        """
        said = None
        by = self._by if by is None else by
        if settings is not None:
            said = to_wire(from_words(settings, by=by))
            if "paused" in settings:
                said["paused"] = settings["paused"]
        return _queue_info(self.call(SetQueue(queue=queue, settings=said, by=by), QueueTold).queue)

    # --- Jobs

    def job(self, job_id: bytes | None = None, *, request_id: bytes | None = None, principal: str = "") -> JobInfo:
        """What is known of a job. Raises `OrderRefused` (`unknown_job`)."""
        return _job_info(self.call(ShowJob(**_which(job_id, request_id), principal=principal), JobTold))

    def why(self, job_id: bytes | None = None, *, request_id: bytes | None = None, principal: str = "") -> Explanation:
        """Why a job is where it is. Raises `OrderRefused` (`unknown_job`)."""
        told = self.call(WhyJob(**_which(job_id, request_id), principal=principal), WhyTold)
        return Explanation(job_id=told.job, state=told.state, code=told.code, text=told.text)

    def cancel(self, job_id: bytes | None = None, *, request_id: bytes | None = None, principal: str = "") -> JobInfo:
        """The job ends now, whoever waits for it; one that has ended already is told as it is. Raises `OrderRefused`
        (`unknown_job`).
        """
        return _job_info(self.call(CancelAnyJob(**_which(job_id, request_id), principal=principal), JobTold))

    # --- Dead letters

    def dead(
        self,
        queue: str = "",
        *,
        reason: str = "",
        kind: str | None = None,
        older_than: float | None = None,
        newer_than: float | None = None,
    ) -> Iterator[DeadLetter]:
        """Dead letters, oldest first, of one queue or of all; asked for a page at a time.

        Args:
            queue: of this one only.
            reason: whose jobs ended for this reason (`failed`, `tries_spent` ...).
            kind: whose last failure was called this by its worker.
            older_than: whose jobs ended so many seconds ago, or earlier ...
            newer_than: ... and not so many seconds ago.
        """
        which = _which_dead(queue, None, reason, kind, older_than, newer_than)
        after, more = 0, True
        while more:
            told = self.call(ListDead(after=after, count=PAGE, **which), DeadTold)
            yield from map(_dead_letter, told.letters)
            after = told.next
            more = after > 0

    def dead_letter(self, job_id: bytes, *, body: bool = False) -> DeadLetter:
        """What is known of one, with the ledger, and with its body where that is wanted. Raises `OrderRefused`
        (`unknown_job`).
        """
        told, frames = self._exchange(ShowDead(**_which(job_id, None), body=body), DeadJobTold)
        return msgspec.structs.replace(
            _dead_letter(told.letter),
            text=told.text,
            request_id=told.request,
            handovers=told.handovers,
            ledger=told.ledger,
            headers=told.headers,
            body=tuple(frames) if body else None,
        )

    def redrive(
        self,
        queue: str = "",
        *,
        job_id: bytes | None = None,
        reason: str = "",
        kind: str | None = None,
        older_than: float | None = None,
        newer_than: float | None = None,
        everything: bool = False,
        limit: int | None = None,
        dry_run: bool = False,
        force: bool = False,
    ) -> Swept:
        """Another job is made of each of these dead letters, which stay as they are. What was redriven before is
        skipped without `force`. `everything`: of all there are; `limit`: of so many at most; `dry_run`: only counted.

        Raises:
            ValueError: nothing says which, or `everything` stands beside something that does.
            OrderRefused: the one of `job_id` is not there (`unknown_job`), was redriven before (`redriven`), or there
                is no room for it (`busy`, `draining`, `disk_full`, `queue_full`, `queue_paused`).
        """
        which = _which_dead(queue, job_id, reason, kind, older_than, newer_than)
        _check_everything(which, everything)
        return _swept(self.call(RedriveDead(limit=limit, dry_run=dry_run, force=force, **which), SweptTold))

    def purge(
        self,
        queue: str = "",
        *,
        job_id: bytes | None = None,
        reason: str = "",
        kind: str | None = None,
        older_than: float | None = None,
        newer_than: float | None = None,
        everything: bool = False,
        limit: int | None = None,
        dry_run: bool = False,
    ) -> Swept:
        """These dead letters are not kept any more; `everything`: none that the broker has. Raises `OrderRefused`
        (`unknown_job`), and `ValueError` as `redrive` does.
        """
        which = _which_dead(queue, job_id, reason, kind, older_than, newer_than)
        _check_everything(which, everything)
        return _swept(self.call(PurgeDead(limit=limit, dry_run=dry_run, **which), SweptTold))

    # --- The store

    def backup(self, path: str | os.PathLike[str]) -> BackupInfo:
        """Begins a copy of the broker's store in a new file on the broker's machine; `backup_state` says how far it is.
        Raises `OrderRefused` (`no_store`, `exists`, `busy`, `disk_full`, `bad_request`).
        """
        if not os.fspath(path):
            raise ValueError("path is empty: name the file that shall be made")
        return _backup_info(self.call(BackUp(path=os.fspath(path)), BackupTold))

    def backup_state(self) -> BackupInfo | None:
        """How far the last copy is; None: none was asked for since the broker began. Raises `OrderRefused`."""
        told = self.call(BackUp(), BackupTold)
        return _backup_info(told) if told.state else None

    # --- Any order

    def call(self, order: Order, kind: type[Answer]) -> Answer:
        """Sends an order of `relet.orders` and returns its answer, which is of this kind.

        Raises:
            OrderRefused: it was not carried out.
            EndpointError: this is the endpoint for clients, or for workers.
            TimeoutError: no answer came in time; whether it was carried out is not known.
            UnreadableAnswer: it was answered, and this library cannot read the answer.
        """
        return self._exchange(order, kind)[0]

    def _exchange(self, order: Order, kind: type[Answer]) -> tuple[Answer, list[bytes]]:
        order = msgspec.structs.replace(order, id=os.urandom(ID_BYTES))
        until = time.monotonic() + self._timeout
        with self._lock:
            if self._socket.closed:
                raise ClientClosed("this Admin was closed")
            self._wait(zmq.POLLOUT, until, f"no broker at {self.endpoint}")
            self._socket.send_multipart([SIGNATURE, native.encode(order)])
            while True:
                self._wait(zmq.POLLIN, until, f"no answer from {self.endpoint} in {self._timeout:g} s")
                frames = self._socket.recv_multipart()
                answer = _read(frames)
                if isinstance(answer, native.BadMessage) and answer.error.id == order.id:
                    raise UnreadableAnswer(f"{self.endpoint} has answered, but not so that it can be read: {answer}")
                if isinstance(answer, kind) and getattr(answer, "id", b"") == order.id:
                    return answer, frames[2:]
                if isinstance(answer, Error) and answer.code in _ELSEWHERE:
                    raise EndpointError(f"{self.endpoint}: {_ELSEWHERE[answer.code] or answer.text}")
                if isinstance(answer, Error) and answer.id in (order.id, b""):
                    raise OrderRefused(answer.code, answer.text)

    def _wait(self, event: int, until: float, late: str) -> None:
        left = until - time.monotonic()
        if left <= 0 or not self._socket.poll(max(1, round(left * 1_000)), event):
            raise TimeoutError(late)

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._socket.close()
            self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _user() -> str:
    """Who runs this program, for others to read."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):  # there is no name for the number: which it is depends on Python's version
        name = f"uid {os.getuid()}" if hasattr(os, "getuid") else ""
    return name.encode(errors="replace").decode()[:BY_CHARACTERS_MAX]


def _read(frames: list[bytes]) -> Said | native.BadMessage | None:
    """What a broker said, or why that cannot be read; None where nobody has said it who speaks the dialect."""
    if len(frames) < 2 or frames[0] != SIGNATURE:
        return None
    try:
        return native.to_admin(VERSION, frames[1])
    except native.BadMessage as bad:
        return bad


def _which(job_id: bytes | None, request_id: bytes | None) -> dict[str, bytes]:
    if (job_id is None) == (request_id is None):
        raise ValueError("say which job: job_id or request_id, and not both")
    name = job_id if request_id is None else request_id
    if not isinstance(name, bytes) or not name:
        raise TypeError(f"an id is bytes, not {name!r:.100}")
    return {"job": name} if request_id is None else {"request": name}


def _queue_info(line: QueueLine) -> QueueInfo:
    return QueueInfo(
        name=line.name,
        settings=None if line.settings is None else to_words(from_wire(line.settings, by="")),
        paused=line.paused,
        intake_by=line.intake_by,
        dispatch_by=line.dispatch_by,
        jobs=line.jobs,
        waiting=line.waiting,
        delayed=line.delayed,
        blocked=line.blocked,
        in_flight=line.in_flight,
        workers=line.workers,
        asks=line.asks,
        dead=line.dead,
    )


def _job_info(told: JobTold) -> JobInfo:
    return JobInfo(
        job_id=told.job,
        number=told.number,
        request_id=told.request,
        queue=told.queue,
        state=told.state,
        reason=told.reason,
        attempts=told.attempts,
        tries=told.tries,
        worker=told.worker,
        accepted=_moment(told.accepted_ms),
        began=_moment(told.began_ms),
        due=_moment(told.due_ms),
        ended=_moment(told.ended_ms),
        body_bytes=told.body_bytes,
        askers=told.askers,
        kind=told.kind,
        text=told.text,
        ledger=told.ledger,
        headers=told.headers,
    )


def _which_dead(
    queue: str,
    job_id: bytes | None,
    reason: str,
    kind: str | None,
    older_than: float | None,
    newer_than: float | None,
) -> dict[str, Any]:
    which: dict[str, Any] = {} if job_id is None else _which(job_id, None)
    which |= {"queue": queue, "reason": reason, "kind": kind}
    for name, seconds in (("older", older_than), ("newer", newer_than)):
        if seconds is not None:
            if type(seconds) not in (int, float) or not 0.001 <= seconds <= 10**9:
                raise ValueError(f"{name}_than is a number of seconds, at least 0.001, not {seconds!r}")
            which[f"{name}_ms"] = round(seconds * 1_000)
    return which


def _check_everything(which: Mapping[str, Any], everything: bool) -> None:
    """What touches all dead letters is said, and not what is left when an argument was forgotten or is empty."""
    said = any(value is not None and (value != "" or name == "kind") for name, value in which.items())
    if not said and not everything:
        raise ValueError("say which dead letters: a queue, a reason or another filter, or everything=True")
    if said and everything:
        raise ValueError("everything=True takes all dead letters of the broker: leave the other arguments out")


def _dead_letter(line: DeadLine) -> DeadLetter:
    return DeadLetter(
        job_id=line.job,
        number=line.number,
        queue=line.queue,
        reason=line.reason,
        kind=line.kind,
        attempts=line.attempts,
        accepted=line.accepted_ms / 1_000,
        ended=line.ended_ms / 1_000,
        body_bytes=line.body_bytes,
        redriven_from=line.redriven_from,
        redriven_to=line.redriven_to,
    )


def _swept(told: SweptTold) -> Swept:
    return Swept(
        count=told.count,
        skipped=told.skipped,
        refused=told.refused,
        code=told.code,
        text=told.text,
        job_ids=told.jobs,
    )


def _backup_info(told: BackupTold) -> BackupInfo:
    return BackupInfo(
        path=told.path, state=told.state, done_bytes=told.done_bytes, total_bytes=told.total_bytes, text=told.text
    )


def _moment(ms: int) -> float | None:
    return ms / 1_000 if ms else None
