"""The native dialect: headers to messages and back, on both sides. `docs/protocol.md` specifies it message by message.

    [path..., signature, header, body...]

The signature stands in the place of the 2010 dialect's empty delimiter, and the pump, which cuts the return path there,
has already told the two apart. The header is one MessagePack map; msgspec decodes it, checks it and builds the message
in one call (0.1 us). Nothing here knows what a message means.
"""

from __future__ import annotations

from typing import Final, TypeGuard, cast, get_args

import msgspec

from relet.messages import (
    DEFAULT_QUEUE,
    REQUEST_ID_BYTES_MAX,
    REQUEST_ID_BYTES_MIN,
    VERSION,
    WRONG_ENDPOINT,
    Complete,
    Error,
    FormedSubmitted,
    FromClient,
    FromWorker,
    Native,
    NativeRun,
    PlainCompleted,
    PlainSubmitted,
    Submit,
    ToClient,
    ToWorker,
)
from relet.orders import FromAdmin, OrderId, ToAdmin

HEADER_BYTES_MAX: Final = 64 * 1024
"""Bytes of one header of a peer: a thousand claims of a worker, or ids of a client, fit. What a broker lists may be
longer - a ledger, a thousand refusals: its own limits bound it."""
HEARTBEAT_NS_MIN: Final = 10_000_000
"""No broker makes a peer of ours speak more often than this."""

BAD_VERSION: Final = "bad_version"
BAD_HEADER: Final = "bad_header"
UNKNOWN_COMMAND: Final = "unknown_command"

_FROM_WORKER: Final[msgspec.msgpack.Decoder[FromWorker]] = msgspec.msgpack.Decoder(FromWorker)
_FROM_CLIENT: Final[msgspec.msgpack.Decoder[FromClient]] = msgspec.msgpack.Decoder(FromClient)
_TO_WORKER: Final[msgspec.msgpack.Decoder[ToWorker]] = msgspec.msgpack.Decoder(ToWorker)
_TO_CLIENT: Final[msgspec.msgpack.Decoder[ToClient]] = msgspec.msgpack.Decoder(ToClient)
_FROM_ADMIN: Final[msgspec.msgpack.Decoder[FromAdmin]] = msgspec.msgpack.Decoder(FromAdmin)
_TO_ADMIN: Final[msgspec.msgpack.Decoder[ToAdmin]] = msgspec.msgpack.Decoder(ToAdmin)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that somebody else has made: a text that is no UTF-8 and a nesting that is too deep are
no DecodeError."""
encode: Final = msgspec.msgpack.Encoder().encode
"""`encode(message) -> bytes`: the header of a message."""


_COMPLETED_FIELDS: Final = 7
_SUBMITTED_FIELDS: Final = 5
_FORMED_FIELDS: Final = 8
"""Of a message in a run."""
_LEFT_OUT: Final = {"received": 0, "queue": DEFAULT_QUEUE, "fair": ""}
"""What fields of a request say that are not there."""


class _Named(msgspec.Struct):
    t: str = ""


class _Identified(msgspec.Struct):
    id: OrderId = b""


class _Asked(msgspec.Struct):
    id: bytes = b""
    job: bytes = b""
    jobs: tuple[_Identified, ...] = ()


_NAME: Final = msgspec.msgpack.Decoder(_Named)
_ID: Final = msgspec.msgpack.Decoder(_Identified)
_IDS: Final = msgspec.msgpack.Decoder(_Asked)
NOT_NATIVE: Final = Error(code=BAD_HEADER, text="administrators speak the native dialect: signature, header, no body")


_ORDERS: Final = frozenset(str(order.__struct_config__.tag) for order in get_args(FromAdmin))
_HELLO: Final = frozenset({"hello"})
_FOR_ADMINISTRATORS: Final = "this is no endpoint for administrators: connect to the one that broker.py --admin names"
_FOR_OTHERS: Final = (
    "this is the endpoint for administrators: connect clients to the endpoint for clients, workers to that for workers"
)


class BadMessage(Exception):
    """A message that the dialect cannot read; `error` is what to answer. `requests` are the ids of those that it wanted
    done, where these at least can be read.
    """

    def __init__(self, error: Error, requests: tuple[bytes, ...] = ()) -> None:
        super().__init__(error.text)
        self.error = error
        self.requests = requests


def from_worker(version: int, header: bytes) -> FromWorker:
    """What a worker says. Raises `BadMessage`."""
    try:
        if version == VERSION and len(header) <= HEADER_BYTES_MAX:
            return _FROM_WORKER.decode(header)
    except _UNREADABLE as error:
        raise BadMessage(_misplaced(_why(version, header, error), _ORDERS, _FOR_ADMINISTRATORS)) from None
    raise BadMessage(_why(version, header, None))


def from_client(version: int, header: bytes) -> FromClient:
    """What a client says. Raises `BadMessage`, which knows whom it is about where that can be read."""
    try:
        if version == VERSION and len(header) <= HEADER_BYTES_MAX:
            return _FROM_CLIENT.decode(header)
    except _UNREADABLE as error:
        raise _about(_misplaced(_why(version, header, error), _ORDERS, _FOR_ADMINISTRATORS), header) from None
    raise BadMessage(_why(version, header, None))


def to_worker(version: int, header: bytes) -> ToWorker:
    """What a broker says to a worker. Raises `BadMessage`."""
    try:
        if version == VERSION:
            return _TO_WORKER.decode(header)
    except _UNREADABLE as error:
        raise BadMessage(_why(version, header, error)) from None
    raise BadMessage(_why(version, header, None))


def to_client(version: int, header: bytes) -> ToClient:
    """What a broker says to a client. Raises `BadMessage`."""
    try:
        if version == VERSION:
            return _TO_CLIENT.decode(header)
    except _UNREADABLE as error:
        raise BadMessage(_why(version, header, error)) from None
    raise BadMessage(_why(version, header, None))


def from_admin(version: int, header: bytes) -> FromAdmin:
    """What an administrator says. Raises `BadMessage`, whose error has the id of the order where that can be read."""
    try:
        if version == VERSION and len(header) <= HEADER_BYTES_MAX:
            return _FROM_ADMIN.decode(header)
    except _UNREADABLE as error:
        wrong = _misplaced(_why(version, header, error), _HELLO, _FOR_OTHERS)
        raise BadMessage(_with_id(wrong, header)) from None
    raise BadMessage(_why(version, header, None))


def to_admin(version: int, header: bytes) -> ToAdmin:
    """What a broker says to an administrator. Raises `BadMessage`, its error with the id of the order if it has one."""
    try:
        if version == VERSION:
            return _TO_ADMIN.decode(header)
    except _UNREADABLE as error:
        raise BadMessage(_with_id(_why(version, header, error), header)) from None
    raise BadMessage(_why(version, header, None))


def is_completed(run: NativeRun) -> TypeGuard[list[PlainCompleted]]:
    """Whether this is a run of `Complete`."""
    return type(run) is list and len(run[0]) == _COMPLETED_FIELDS


def is_submitted(run: NativeRun) -> TypeGuard[list[PlainSubmitted]]:
    """Whether this is a run of `Submit`."""
    return type(run) is list and len(run[0]) == _SUBMITTED_FIELDS


def is_formed(run: NativeRun) -> TypeGuard[list[FormedSubmitted]]:
    """Whether this is a run of `Submit` with terms."""
    return type(run) is list and len(run[0]) == _FORMED_FIELDS


def form_of(form: bytes) -> Submit | None:
    """What all requests of a form say; None where that cannot be read."""
    try:
        said = from_client(VERSION, form)
    except BadMessage:
        return None
    return said if isinstance(said, Submit) else None


def messages_of(run: NativeRun) -> list[Native]:
    """The messages of a run, as they were before the pump read their headers: it stands where nobody says such."""
    if type(run) is tuple:
        return [run]
    if is_completed(run):
        return [
            (peer, path, VERSION, encode(Complete(token=token, n=number, credit=credit, started=started)), body)
            for peer, path, token, number, credit, started, body in run
        ]
    if is_formed(run):
        return [
            (peer, path, VERSION, _whole(form, {"id": name, "received": n, "queue": queue, "fair": fair}), body)
            for peer, path, name, n, queue, fair, form, body in run
        ]
    submitted = cast("list[PlainSubmitted]", run)
    return [(peer, path, VERSION, encode(Submit(id=name, received=n)), body) for peer, path, name, n, body in submitted]


def _misplaced(error: Error, elsewhere: frozenset[str], text: str) -> Error:
    """What is unknown here and known at another endpoint has come to the wrong one."""
    if error.code != UNKNOWN_COMMAND or error.of not in elsewhere:
        return error
    return msgspec.structs.replace(error, code=WRONG_ENDPOINT, text=text)


def _with_id(error: Error, header: bytes) -> Error:
    try:
        return msgspec.structs.replace(error, id=_ID.decode(header).id)
    except _UNREADABLE:
        return error


def _about(error: Error, header: bytes) -> BadMessage:
    """A message of a client that says something that cannot be: of which requests, or which job."""
    try:
        asked = _IDS.decode(header)
    except _UNREADABLE:
        return BadMessage(error)
    names = [item.id for item in asked.jobs] or [asked.id]
    if not all(REQUEST_ID_BYTES_MIN <= len(name) <= REQUEST_ID_BYTES_MAX for name in names):
        names = []
    if error.of == "submit":
        return BadMessage(error, tuple(names))
    if error.of in ("inquire", "cancel"):
        return BadMessage(msgspec.structs.replace(error, id=(asked.id or asked.job)[:REQUEST_ID_BYTES_MAX]))
    return BadMessage(error)


def _whole(form: bytes, read: dict[str, bytes | int | str]) -> bytes:
    """The header of a request of that form, with the fields that were read of it. What they say when they are left out
    is left out: so there are no more of them than there were, and a short map holds them.
    """
    pairs = [(key, value) for key, value in read.items() if value != _LEFT_OUT.get(key)]
    return bytes([form[0] + len(pairs)]) + form[1:] + b"".join(encode(part) for pair in pairs for part in pair)


def _why(version: int, header: bytes, error: Exception | None) -> Error:
    if version != VERSION:
        text = f"this broker speaks version {VERSION} of the protocol, not {version}"
        return Error(code=BAD_VERSION, text=text)
    if error is None:
        return Error(code=BAD_HEADER, text=f"a header has at most {HEADER_BYTES_MAX} bytes, not {len(header)}")
    try:
        name = _NAME.decode(header).t
    except _UNREADABLE:
        return Error(code=BAD_HEADER, text=f"the header is no MessagePack map with a text `t`: {error}")
    known = "Invalid value" not in str(error) or "$.t" not in str(error)
    return Error(code=BAD_HEADER if known else UNKNOWN_COMMAND, text=str(error)[:500], of=name[:100])
