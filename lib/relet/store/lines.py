"""A store as text: JSON lines, one record in a line, for other programs and other places.

    {"relet_store": 1, "version": "1.0", "epoch": 1700000000000}
    {"record": "accepted", "number": 7, "body": ["aGVsbG8="], "queue": "mail", "accepted_ms": 1700000000000}
    {"record": "end", "records": 1}

The first line says the format of the lines and who wrote them; the last one how many records there are, so that nobody
takes a part for the whole. Bytes are written in base64. What is not said has its default.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from relet._version import __version__
from relet.core.job import COMPLETED, FINAL, State
from relet.core.settings import QueueSettings
from relet.core.terms import Backoff, Rules, Terms
from relet.messages import (
    INT_MAX,
    Accepted,
    Attempt,
    AttemptEnded,
    Evicted,
    Finished,
    Forgotten,
    KeyWindow,
    Numbered,
    QueueSet,
    Record,
    Shared,
)
from relet.store import StoreUnusable
from relet.store.examination import check_restorable
from relet.store.file import RESTORE, give_name, size_of
from relet.store.schema import TAGS
from relet.store.sqlite import SqliteStore

FORMAT: Final = 1
RECORDS_A_COMMIT: Final = 1_000
NUMBERS_END: Final = 2**63 // TAGS
"""Numbers of jobs lie below it, because the keys of their rows are made of them."""
KINDS: Final[dict[str, type[Record]]] = {
    "number": Numbered,
    "queue": QueueSet,
    "evicted": Evicted,
    "window": KeyWindow,
    "accepted": Accepted,
    "attempt": Attempt,
    "finished": Finished,
    "forgotten": Forgotten,
    "shared": Shared,
}
"""What a store may load, by the word for it."""
_WORDS: Final = {kind: word for word, kind in KINDS.items()}
_WITHIN: Final[dict[tuple[type, str], type[msgspec.Struct]]] = {
    (Accepted, "terms"): Terms,
    (Accepted, "rules"): Rules,
    (Terms, "backoff"): Backoff,
    (Attempt, "ledger"): AttemptEnded,
    (Finished, "ledger"): AttemptEnded,
}
"""Fields that hold fields of their own; those of a ledger once for each entry."""


class BadLine(Exception):
    """A line from which no store can be made; the text names it by its number."""


# --- Out


def exported(store: SqliteStore) -> Iterator[bytes]:
    """Its lines. Raises `StoreUnusable`; a store that was damaged has no last line."""
    yield _line({"relet_store": FORMAT, "version": __version__, "epoch": store.epoch})
    count = 0
    missing: set[int] = set()
    for it in store.load():
        record = it
        if isinstance(record, Accepted) and record.frames:
            body = store.bodies([record.number])[0]
            if body is None:
                missing.add(record.number)
                record = msgspec.structs.replace(record, frames=0)
            else:
                record = msgspec.structs.replace(record, body=body, size=-1, frames=0)
        elif isinstance(record, Finished) and record.state == COMPLETED:
            missing.discard(record.number)  # nobody needs it any more
        yield _line({"record": _WORDS[type(record)], **_fields(record)})
        count += 1
    if missing:
        raise StoreUnusable("corrupt", f"{store.path} is damaged (the body of job {min(missing)} is gone): {RESTORE}")
    yield _line({"record": "end", "records": count})


def _line(fields: dict[str, Any]) -> bytes:
    return msgspec.json.encode(fields) + b"\n"


def _fields(struct: msgspec.Struct) -> dict[str, Any]:
    """Those that differ from their defaults, by name."""
    said = {}
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        if value == field.default:
            continue
        inner = _WITHIN.get((type(struct), field.name))
        if inner is AttemptEnded:
            value = [_fields(entry) for entry in value]
        elif inner is not None:
            value = _fields(msgspec.convert(value, inner))
        said[field.name] = value
    return said


# --- In


def imported(path: Path, lines: Iterable[bytes]) -> int:
    """Makes a store of lines: a new file, whole or not at all. Returns how many records it holds. Raises `BadLine`, and
    `StoreUnusable` where the file is there already, or cannot be made.
    """
    if path.exists() or size_of(path, "-wal"):
        raise StoreUnusable("unwritable", f"{path} is there already: name a new file, nothing is written over")
    made = path.with_name(f"{path.name}.importing")
    if made.exists():
        raise StoreUnusable("unwritable", f"{made} is in the way: an import that was cut short has left it; remove it")
    try:
        count = _fill(made, lines)
        check_restorable(made)
        try:
            give_name(made, path)
        except FileExistsError:
            raise StoreUnusable("unwritable", f"{path} is there already: somebody else has made it") from None
        return count
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{made}{suffix}").unlink()


def _fill(path: Path, lines: Iterable[bytes]) -> int:
    numbered = enumerate(lines, 1)
    epoch = _head(next(numbered, (1, b""))[1])
    store = SqliteStore(path, threaded=False, log_bytes_max=0)
    try:
        store.take_over(epoch)
        turn = count = 0
        batch: list[Record] = []
        for record in _records(numbered):
            batch.append(record)
            count += 1
            if len(batch) == RECORDS_A_COMMIT:
                turn += 1
                store.append(turn, batch)
                batch = []
        store.append(turn + 1, batch)
    finally:
        store.close()
    return count


def _head(line: bytes) -> int:
    """The epoch that the first line names."""
    head = _object(1, line)
    if "relet_store" not in head:
        raise BadLine("line 1: this is not what `relet store export` writes")
    if head["relet_store"] != FORMAT:
        raise BadLine(f"line 1: these lines have format {head['relet_store']!r:.20}, and this version reads {FORMAT}")
    epoch = head.get("epoch", 0)
    if type(epoch) is not int or not 0 <= epoch <= INT_MAX:
        raise BadLine(f"line 1: the epoch is {epoch!r:.40}")
    return epoch


def _records(lines: Iterable[tuple[int, bytes]]) -> Iterator[Record]:
    """One for each line, but for the last, which says how many there were."""
    accepted: set[int] = set()
    final: set[int] = set()
    count, ended = 0, False
    for number, line in lines:
        if ended:
            raise BadLine(f"line {number}: something follows the end")
        fields = _object(number, line)
        kind = fields.pop("record", None)
        if kind == "end":
            if fields.get("records") != count:
                raise BadLine(f"line {number}: there were {fields.get('records')!r:.20} records, and here are {count}")
            ended = True
            continue
        if not isinstance(kind, str) or kind not in KINDS:
            raise BadLine(f"line {number}: there is no record {kind!r:.40}")
        record = _record(number, KINDS[kind], fields)
        _check_place(number, record, accepted, final)
        count += 1
        yield record
    if not ended:
        raise BadLine(f"line {count + 2}: the end is missing, and who knows what before it")


def _check_place(line: int, record: Record, accepted: set[int], final: set[int]) -> None:
    """A job is accepted once, and first; a final one has not where it stands."""
    if isinstance(record, Accepted):
        if record.number in accepted or record.number in final:
            raise BadLine(f"line {line}: job {record.number} was there before")
        accepted.add(record.number)
    elif isinstance(record, Attempt):
        if record.number not in accepted or record.number in final:
            raise BadLine(f"line {line}: job {record.number} is not open")
    elif isinstance(record, Finished):
        if record.number in final:
            raise BadLine(f"line {line}: job {record.number} has ended before")
        if not (record.kept or record.owed):
            raise BadLine(f"line {line}: nothing is kept of job {record.number}, so no store says that it ended")
        final.add(record.number)
    elif isinstance(record, Forgotten) and record.number not in final:
        raise BadLine(f"line {line}: job {record.number} has not ended")
    elif isinstance(record, Shared) and record.number not in accepted and record.number not in final:
        raise BadLine(f"line {line}: there is no job {record.number}")


def _object(number: int, line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadLine(f"line {number}: {error}") from None


def _record(number: int, kind: type[Record], fields: dict[str, Any]) -> Record:
    try:
        record = msgspec.convert([kind.__struct_config__.tag, *_values(kind, fields)], kind)
        _check(record)
        if isinstance(record, Accepted):
            rules = None if record.rules is None else msgspec.convert(record.rules, Rules)
            if record.terms is not None:
                msgspec.convert(record.terms, Terms)
            if rules is not None:
                packed = tuple(msgspec.to_builtins(rules, builtin_types=(bytes,)))
                record = msgspec.structs.replace(record, rules=packed)
        elif isinstance(record, QueueSet) and record.settings is not None:
            msgspec.convert(record.settings, QueueSettings)
    except (msgspec.MsgspecError, ValueError, TypeError, LookupError, OverflowError) as error:
        raise BadLine(f"line {number}: {error}") from None
    return record


def _check(record: Record) -> None:
    """What the types do not say. Raises `ValueError`, or `OverflowError` where a number is too large to be kept."""
    msgspec.msgpack.encode(record)
    number = getattr(record, "number", getattr(record, "last", 1))
    if not 1 <= number < NUMBERS_END:
        raise ValueError(f"{number} is no number of a job")
    if isinstance(record, Accepted) and record.frames:
        raise ValueError("a body stands in its line, not elsewhere")
    if isinstance(record, Evicted) and not 0 <= record.accepted_ms <= INT_MAX:
        raise ValueError(f"{record.accepted_ms} is no moment")
    if isinstance(record, Attempt) and (record.state not in list(State) or record.state in FINAL):
        raise ValueError(f"{record.state} is no state of an open job")
    if isinstance(record, Finished) and record.state not in FINAL:
        raise ValueError(f"{record.state} is no state of a final job")
    if isinstance(record, Shared) and not record.requests:
        raise ValueError("a job that is shared is known by one request at least")


def _values(kind: type[msgspec.Struct], fields: dict[str, Any]) -> list[Any]:
    """The values of all fields, in order."""
    values = []
    for field in msgspec.structs.fields(kind):
        inner = _WITHIN.get((kind, field.name))
        if field.name not in fields:
            if field.required:
                raise ValueError(f"`{field.name}` is missing")
            values.append(field.default)
            continue
        value = fields[field.name]
        if inner is AttemptEnded:
            value = [_values(inner, _map(field.name, entry)) for entry in _list(field.name, value)]
        elif inner is not None:
            value = _values(inner, _map(field.name, value))
        values.append(value)
    unknown = fields.keys() - set(kind.__struct_fields__)
    if unknown:
        raise ValueError(f"there is no field `{min(unknown)}` in such a record")
    return values


def _map(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"`{name}` holds {value!r:.40} where fields were to be")
    return value


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"`{name}` is {value!r:.40}, no list")
    return value
