"""The native dialect: headers to messages and back, on both sides. `docs/protocol.md` specifies it message by message.

    [path..., signature, header, body...]

The signature stands in the place of the 2010 dialect's empty delimiter, and the pump, which cuts the return path there,
has already told the two apart. The header is one MessagePack map; msgspec decodes it, checks it and builds the message
in one call (0.1 us). Nothing here knows what a message means.
"""

from __future__ import annotations

from typing import Final, TypeGuard, cast

import msgspec

from relet.messages import (
    VERSION,
    Complete,
    Error,
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

HEADER_BYTES_MAX: Final = 64 * 1024
"""Bytes of one header of a peer: a thousand claims of a worker, or ids of a client, fit. What a broker lists may be
longer - a ledger, a thousand refusals: its own limits bound it."""
REQUEST_ID_BYTES_MIN: Final = 16
REQUEST_ID_BYTES_MAX: Final = 64
"""Bytes of a request id: so few cannot be met by chance, so many hold any hash that is in use."""
INCARNATION_BYTES: Final = 16
QUEUE_CHARACTERS_MAX: Final = 200
"""Characters of a queue's name."""

BAD_VERSION: Final = "bad_version"
BAD_HEADER: Final = "bad_header"
UNKNOWN_COMMAND: Final = "unknown_command"

_FROM_WORKER: Final[msgspec.msgpack.Decoder[FromWorker]] = msgspec.msgpack.Decoder(FromWorker)
_FROM_CLIENT: Final[msgspec.msgpack.Decoder[FromClient]] = msgspec.msgpack.Decoder(FromClient)
_TO_WORKER: Final[msgspec.msgpack.Decoder[ToWorker]] = msgspec.msgpack.Decoder(ToWorker)
_TO_CLIENT: Final[msgspec.msgpack.Decoder[ToClient]] = msgspec.msgpack.Decoder(ToClient)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that somebody else has made: a text that is no UTF-8 and a nesting that is too deep are
no DecodeError."""
encode: Final = msgspec.msgpack.Encoder().encode
"""`encode(message) -> bytes`: the header of a message."""


_COMPLETED_FIELDS: Final = 7
_SUBMITTED_FIELDS: Final = 5
"""Of a message in a run."""


class _Named(msgspec.Struct):
    t: str = ""


_NAME: Final = msgspec.msgpack.Decoder(_Named)


class BadMessage(Exception):
    """A message that the dialect cannot read; `error` is what to answer."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.text)
        self.error = error


def from_worker(version: int, header: bytes) -> FromWorker:
    """What a worker says. Raises `BadMessage`."""
    try:
        if version == VERSION and len(header) <= HEADER_BYTES_MAX:
            return _FROM_WORKER.decode(header)
    except _UNREADABLE as error:
        raise BadMessage(_why(version, header, error)) from None
    raise BadMessage(_why(version, header, None))


def from_client(version: int, header: bytes) -> FromClient:
    """What a client says. Raises `BadMessage`."""
    try:
        if version == VERSION and len(header) <= HEADER_BYTES_MAX:
            return _FROM_CLIENT.decode(header)
    except _UNREADABLE as error:
        raise BadMessage(_why(version, header, error)) from None
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


def is_completed(run: NativeRun) -> TypeGuard[list[PlainCompleted]]:
    """Whether this is a run of `Complete`."""
    return type(run) is list and len(run[0]) == _COMPLETED_FIELDS


def is_submitted(run: NativeRun) -> TypeGuard[list[PlainSubmitted]]:
    """Whether this is a run of `Submit`."""
    return type(run) is list and len(run[0]) == _SUBMITTED_FIELDS


def messages_of(run: NativeRun) -> list[Native]:
    """The messages of a run, as they were before the pump read their headers: it stands where nobody says such."""
    if type(run) is tuple:
        return [run]
    if is_completed(run):
        return [
            (peer, path, VERSION, encode(Complete(token=token, n=number, credit=credit, started=started)), body)
            for peer, path, token, number, credit, started, body in run
        ]
    submitted = cast("list[PlainSubmitted]", run)
    return [(peer, path, VERSION, encode(Submit(id=name, received=n)), body) for peer, path, name, n, body in submitted]


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
