"""relet store: looks at the file in which a broker keeps its jobs, makes it small, and takes it elsewhere.

    relet store check /var/lib/relet/jobs.db

No broker may have the file open meanwhile; the same lock sees to that.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from relet.cli.exits import Exit
from relet.cli.parser import Parser, fail, say
from relet.cli.quantities import written_size
from relet.cli.tables import document, listing, shown

PROGRAM = "relet"
EXITS = {
    Exit.OK: "all went well",
    Exit.JOB_FAILED: "it was not done; one line on stderr says why",
    Exit.USAGE: "the command line cannot be meant",
    Exit.STORE_IN_USE: "a broker has the file, or another command",
    Exit.STORE_NEWER: "it was written by a later version",
    Exit.STORE_FOREIGN: "it is no store",
    Exit.STORE_CORRUPT: "it is damaged",
    Exit.STORE_UNWRITABLE: "it is not there, or cannot be opened, read or written",
    Exit.STORE_FAILED: "the disk did not take what was written",
    Exit.INTERRUPTED: "ended by Ctrl-C; nothing was done",
}


class Command(NamedTuple):
    """Something that can be done with a file."""

    summary: str
    usage: str
    """Its arguments in short."""
    examples: str
    add: Callable[[argparse.ArgumentParser], None]
    """Its own arguments."""
    run: Callable[[Path, argparse.Namespace], Exit]


def main(words: Sequence[str], options: Sequence[str]) -> int:
    """Does what a command line says that begins with `store` and a word of `COMMANDS`; the exit code."""
    name = " ".join(words[:2])
    command = COMMANDS[name]
    parser = Parser(
        f"{PROGRAM} {name}",
        usage=command.usage,
        description=command.summary,
        examples=command.examples,
        exits=EXITS,
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the file that `broker.py --store` names")
    command.add(parser)
    values = parser.parse([*options, *words[2:]])
    with _errors():
        return command.run(values.file, values)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """What can go wrong, on one line."""
    from relet.store import StoreFailed, StoreUnusable
    from relet.store.lines import BadLine

    try:
        yield
        sys.stdout.flush()
    except StoreUnusable as error:
        fail(Exit[f"STORE_{error.code.upper()}"], shown(str(error)), program=PROGRAM)
    except StoreFailed as error:
        fail(Exit.STORE_FAILED, shown(str(error)), program=PROGRAM)
    except BadLine as error:
        fail(Exit.JOB_FAILED, f"{shown(str(error))}; no store was made", program=PROGRAM)
    except KeyboardInterrupt:
        fail(Exit.INTERRUPTED, "ended; nothing was done", program=PROGRAM)
    except BrokenPipeError:  # whoever read it has seen enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
        sys.exit(Exit.OK)
    except OSError as error:
        fail(Exit.JOB_FAILED, shown(str(error)), program=PROGRAM)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document in place of lines")


def _to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", type=Path, metavar="PATH", help="write a new file [standard output]")


def _from(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="source", type=Path, metavar="PATH", help="read a file [standard input]")


def check(path: Path, values: argparse.Namespace) -> Exit:
    """All of it is read, as a broker would; nothing is changed."""
    from relet.store.examination import DAMAGES_MAX, examine

    found = examine(path)
    fields: dict[str, object] = {
        "file": found.file,
        "format": found.format,
        "size": f"{written_size(found.bytes)}, {written_size(found.free_bytes)} of it free",
        "log": f"{written_size(found.log_bytes)} beside it: its broker was killed" if found.log_bytes else "",
    }
    if not found.damages:
        fields |= {
            "jobs open": found.jobs_open,
            "dead letters": found.dead_letters,
            "evidence": found.evidence,
            "outcomes": found.outcomes,
            "queues set": found.queues,
        }
    for line in [document(found)] if values.json else listing(fields):
        print(line)
    for damage in found.damages:
        say(f"{PROGRAM}: {path}: {shown(damage)}")
    if len(found.damages) == DAMAGES_MAX:
        say(f"{PROGRAM}: {path}: and who knows what else")
    return Exit.STORE_CORRUPT if found.damages else Exit.OK


def compact(path: Path, values: argparse.Namespace) -> Exit:
    """The file is written anew."""
    from relet.store.examination import compact as compacted

    done = compacted(path)
    line = f"{done.file}: {written_size(done.bytes_before)} before, {written_size(done.bytes)} now"
    print(document(done) if values.json else line)
    return Exit.OK


def export(path: Path, values: argparse.Namespace) -> Exit:
    """Lines for each record."""
    from relet.store.lines import exported
    from relet.store.sqlite import SqliteStore

    store = SqliteStore(path, threaded=False, make=False)
    try:
        if values.to is None:
            for line in exported(store):
                sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            return Exit.OK
        return _export_to(values.to, exported(store))
    finally:
        store.close()


def _export_to(path: Path, lines: Iterator[bytes]) -> Exit:
    try:
        out = path.open("xb")
    except FileExistsError:
        fail(Exit.JOB_FAILED, f"{path} is there already: nothing is written over", program=PROGRAM)
    try:
        with out:
            for line in lines:
                out.write(line)
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        path.unlink()
        raise
    return Exit.OK


def import_(path: Path, values: argparse.Namespace) -> Exit:
    """A store is made of them."""
    from relet.store.lines import imported

    source: IO[bytes] = sys.stdin.buffer if values.source is None else values.source.open("rb")
    with source:
        count = imported(path, source)
    say(f"{PROGRAM}: {path}: {count:,} {'record' if count == 1 else 'records'}")
    return Exit.OK


COMMANDS: dict[str, Command] = {
    "store check": Command(
        "whether all of a store can be read, and what is in it; nothing is changed",
        "[--json] FILE",
        "  relet store check /var/lib/relet/jobs.db",
        _json,
        check,
    ),
    "store compact": Command(
        "a store takes no more room than it needs",
        "[--json] FILE",
        "  relet store compact /var/lib/relet/jobs.db",
        _json,
        compact,
    ),
    "store export": Command(
        "a store as JSON lines, bodies and other bytes in base64; nothing is changed",
        "[--to PATH] FILE",
        "  relet store export jobs.db | grep '\"record\":\"accepted\"'\n"
        "  relet store export jobs.db | relet store import elsewhere.db",
        _to,
        export,
    ),
    "store import": Command(
        "such lines become a store: a new file, whole or not at all",
        "[--from PATH] FILE",
        "  relet store import elsewhere.db --from jobs.jsonl",
        _from,
        import_,
    ),
}
"""All that can be done, in the order in which --help shows it."""
