"""relet: looks at a broker's queues, jobs and dead letters, and acts on them; at stores that no broker has open; and
runs devices and workers.

    relet queues
    relet job why ID
    relet dead redrive --queue mail --older-than 1h --dry-run

Each command is one question to the administrators' endpoint (`broker.py --admin`). What it found goes to stdout, in
columns or as one JSON document; what could not be done is one line on stderr, and the exit code says so.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from relet.cli import device, store, worker
from relet.cli.exits import Exit
from relet.cli.parser import Parser, endpoint, fail, say
from relet.cli.quantities import count, duration, written_size
from relet.cli.tables import ago, document, listing, shown, table

if TYPE_CHECKING:
    from relet import Admin, BackupInfo, DeadLetter, JobInfo, QueueInfo, Swept

PROGRAM = "relet"
ENDPOINT = "tcp://127.0.0.1:4164"
TIMEOUT_SECONDS = 5.0
LISTED = 100
"""Dead letters that are listed where nobody says how many."""
LOOKED_SECONDS = 0.1
"""How often to look how far a backup is."""
JOB_ID_BYTES = 16
REASONS = (
    "tries_spent",
    "errors_spent",
    "timeouts_spent",
    "losses_spent",
    "start_deadline",
    "deadline",
    "handovers_spent",
    "body_lost",
    "failed",
)
"""Why a job may be discarded: the words of `core.job.Reason` that leave a dead letter. A test holds both against each
other, because --help does not load what it needs not."""
IN_OPTIONS = {
    "force": "--force",
    "newer_ms": "--newer-than",
    "older_ms": "--older-than",
    "dead": "relet dead list",
    "set_queue": "relet.Admin.set_queue",
}
"""What the fields and messages that a refusal of the broker may name are for who types, or programs."""
ELSEWHERE: tuple[tuple[Mapping[str, store.Command | device.Command], Callable[[list[str], list[str]], int]], ...] = (
    (store.COMMANDS, store.main),
    (device.COMMANDS, device.main),
    (worker.COMMANDS, worker.main),
)
"""The commands that ask no administrators' endpoint, and who does them."""
TAKES_VALUE = ("--admin", "--timeout")
"""Options with a value that may stand before the command."""
EXAMPLE_ID = "01a203f60d2376cba7ae8cad79ff0000"
DESCRIPTION = """\
Looks at the queues, jobs and dead letters of a broker that was started with --admin, and acts on them. "relet store"
looks at the file of a broker that does not run, "relet device" runs a proxy, and "relet worker" your functions.
"relet COMMAND --help" tells more of each."""
EXAMPLES = f"""\
  relet queues
      what waits, what runs, who asks, what is paused
  relet queue pause mail --dispatch
      jobs for it are taken and wait
  relet job why {EXAMPLE_ID}
      in words, why this job is where it is
  relet dead list --queue mail --kind TimeoutError
  relet dead redrive --queue mail --kind TimeoutError --limit 10 --dry-run
      how many dead letters would be done again; then the same without --dry-run"""
EXITS = {
    Exit.OK: "all went well",
    Exit.JOB_FAILED: "the broker did not do it, or not all of it; one line on stderr says why",
    Exit.USAGE: "the command line cannot be meant",
    Exit.UNREACHABLE: "no broker answered within --timeout",
    Exit.INTERRUPTED: "ended by Ctrl-C; what was asked may have been done",
}


class Command(NamedTuple):
    """Something that can be done."""

    summary: str
    usage: str
    """Its arguments in short."""
    examples: str
    add: Callable[[argparse.ArgumentParser], None]
    """Its own arguments."""
    run: Callable[[Admin, argparse.Namespace], Exit]


def main(arguments: Sequence[str]) -> int:
    """Does what one command line says; the exit code."""
    words, options = _split(arguments)
    for commands, run_elsewhere in ELSEWHERE:
        if " ".join(words[:2]) in commands or " ".join(words[:1]) in commands:
            return run_elsewhere(words, options)
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else " ".join(words[:1])
    if name not in COMMANDS:
        parser = _overview()
        parser.parse(options)
        parser.error(_no_such(words))
    command = COMMANDS[name]
    parser = _parser(f"{PROGRAM} {name}", command.usage, command.summary, command.examples)
    command.add(parser)
    values = parser.parse([*options, *words[len(name.split()) :]])
    with _errors(values):
        from relet.client import Admin
        from relet.transport.endpoints import parse_connect

        endpoint("admin", values.admin, parse_connect, program=PROGRAM)
        with Admin(values.admin, timeout=values.timeout) as admin:
            return command.run(admin, values)


def run() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command with what follows, and the options before it."""
    index = 0
    while index < len(arguments) and arguments[index].startswith("-"):
        index += 2 if arguments[index] in TAKES_VALUE else 1
    return list(arguments[index:]), list(arguments[:index])


def _overview() -> Parser:
    summaries = {name: command.summary for name, command in COMMANDS.items()}
    summaries |= {name: command.summary for commands, _ in ELSEWHERE for name, command in commands.items()}
    width = max(map(len, summaries))
    commands = "\n".join(f"  {name.ljust(width)}  {summary}" for name, summary in summaries.items())
    text = f"{DESCRIPTION}\n\ncommands:\n{commands}"
    return _parser(PROGRAM, "[options] COMMAND ...", text, EXAMPLES)


def _parser(program: str, usage: str, description: str, examples: str) -> Parser:
    parser = Parser(program, usage=usage, description=description, examples=examples, exits=EXITS)
    parser.add_argument(
        "--admin", metavar="ENDPOINT", default=ENDPOINT, help=f"the broker's endpoint for administrators [{ENDPOINT}]"
    )
    parser.add_argument(
        "--timeout",
        type=duration,
        default=TIMEOUT_SECONDS,
        metavar="TIME",
        help=f"how long to wait for the broker [{TIMEOUT_SECONDS:g}s]",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document in place of columns")
    return parser


def _no_such(words: list[str]) -> str:
    if not words:
        return "say what to do: relet queues"
    from difflib import get_close_matches

    names = [*COMMANDS, *(name for commands, _ in ELSEWHERE for name in commands)]
    said = " ".join(takewhile(lambda word: not word.startswith("-"), words[:2]))
    below = [name for name in names if name.split()[0] == words[0]]
    if below and said == words[0]:
        return f"{said!r} needs a word more: {', '.join(below)}"
    close = get_close_matches(said, below or names, n=1, cutoff=0.7)
    close = close or get_close_matches(words[0], [] if below else names, n=1)
    if close:
        return f"there is no command {said!r}; did you mean {close[0]}?"
    if below:
        return f"there is no command {said!r}, but there is {', '.join(below)}"
    return f"there is no command {words[0]!r}; there are {', '.join(names)}"


@contextmanager
def _errors(values: argparse.Namespace) -> Iterator[None]:
    """What can go wrong, on one line."""
    from relet.client import OrderRefused, UnreadableAnswer
    from relet.transport.endpoints import EndpointError

    try:
        yield
        sys.stdout.flush()
    except OrderRefused as refused:
        fail(Exit.JOB_FAILED, _refusal(refused.code, refused.text), program=PROGRAM)
    except EndpointError as misplaced:
        fail(Exit.USAGE, f"ADMIN: {shown(str(misplaced))}", program=PROGRAM)
    except UnreadableAnswer as unreadable:
        fail(Exit.JOB_FAILED, shown(str(unreadable)), program=PROGRAM)
    except TimeoutError as late:
        text = f"{late}; start the broker with --admin, or say here where it is (--admin {values.admin})"
        fail(Exit.UNREACHABLE, text, program=PROGRAM)
    except KeyboardInterrupt:
        fail(Exit.INTERRUPTED, "ended; what was asked may have been done", program=PROGRAM)
    except BrokenPipeError:  # whoever read it has seen enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
        sys.exit(Exit.OK)


def _refusal(code: str, text: str) -> str:
    """What a broker says of an order, whose fields stand in backquotes there: here they are options."""
    text = re.sub("`([a-z_]+)`", lambda found: IN_OPTIONS.get(found[1], found[0]), text)
    return f"{shown(text)} ({shown(code)})"


def _tell(values: argparse.Namespace, plain: Any, lines: Sequence[str]) -> None:
    """What was found, the one way or the other."""
    for line in [document(plain)] if values.json else lines:
        print(line)


# --- Arguments that several commands have


class _Once(argparse.Action):
    """An option that says which dead letters. Of two the last would hold in silence, and one may have meant both."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Called by argparse for each time that it is said."""
        said = vars(namespace).setdefault("said", set())
        if self.dest in said:
            parser.error(f"{option} is said twice: only one can be meant; run the command once for each")
        said.add(self.dest)
        setattr(namespace, self.dest, values)


def job_id(text: str) -> bytes:
    """An id in hexadecimal, as this program and the log show it; dashes may stand in it."""
    try:
        found = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        found = b""
    if len(found) != JOB_ID_BYTES:
        digits = f"; this has {2 * len(found)}" if found else ""
        raise argparse.ArgumentTypeError(
            f"{text!r} is no id of a job: that has {2 * JOB_ID_BYTES} hexadecimal digits, as `relet dead list` shows it"
            + digits
        )
    return found


def any_id(text: str) -> bytes:
    """The id of a job, or of a request, whose client has given it one of any length."""
    try:
        return bytes.fromhex(text.replace("-", "")) or job_id(text)
    except ValueError:
        return job_id(text)


def reason(text: str) -> str:
    """Why a job was discarded."""
    if text not in REASONS:
        from difflib import get_close_matches

        close = get_close_matches(text, REASONS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(REASONS)}"
        raise argparse.ArgumentTypeError(f"no job is discarded as {text!r}; {hint}")
    return text


def _nothing(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""
    del parser


def _queue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("queue", metavar="NAME", help="the queue")


def _pause(parser: argparse.ArgumentParser) -> None:
    _queue(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--intake", dest="what", action="store_const", const="intake", help="only that it takes new jobs")
    what.add_argument("--dispatch", dest="what", action="store_const", const="dispatch", help="only that it gives jobs")
    parser.set_defaults(what="both")


def _pause_by(parser: argparse.ArgumentParser) -> None:
    _pause(parser)
    parser.add_argument("--by", metavar="WHO", help="who pauses it, for others to read [the name of the user]")


def _job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", type=any_id, help="id of the job, in hexadecimal")
    parser.add_argument("--request", action="store_true", help="ID is that of the request")
    parser.add_argument("--principal", default="", metavar="WHO", help="whose request it is")


def _choice(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which dead letters", "those of which all that is said is so")
    group.register("action", None, _Once)
    group.add_argument("--queue", default="", metavar="NAME", help="of this queue")
    words = ", ".join(REASONS)
    group.add_argument("--reason", type=reason, metavar="WORD", help=f"that were discarded so: {words}")
    group.add_argument("--kind", metavar="WORD", help="whose last failure was called so by its worker: ValueError")
    group.add_argument("--older-than", type=duration, metavar="TIME", help="that ended at least so long ago: 1h, 2d")
    group.add_argument("--newer-than", type=duration, metavar="TIME", help="that ended less long ago")


def _list(parser: argparse.ArgumentParser) -> None:
    _choice(parser)
    parser.add_argument("--limit", type=count, default=LISTED, metavar="N", help=f"the oldest N of them [{LISTED}]")


def _show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", type=job_id, help="id of the job, in hexadecimal")
    parser.add_argument("--body", action="store_true", help="its body, too, a line for each frame")


def _sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", metavar="ID", type=job_id, nargs="*", help="these jobs, by id in hexadecimal")
    _choice(parser)
    parser.add_argument("--all", action="store_true", help="all dead letters of the broker")
    parser.add_argument("--limit", type=count, metavar="N", help="the oldest N of them at most [no limit]")
    parser.add_argument("--dry-run", action="store_true", help="only say how many")


def _redrive(parser: argparse.ArgumentParser) -> None:
    _sweep(parser)
    parser.add_argument("--force", action="store_true", help="also what was redriven before")


# --- Queues


def queues(admin: Admin, values: argparse.Namespace) -> Exit:
    """All of them."""
    found = list(admin.queues())
    headings = ("QUEUE", "JOBS", "WAITING", "DELAYED", "BLOCKED", "IN FLIGHT", "WORKERS", "ASKS", "DEAD", "PAUSED")
    rows = [
        (it.name, it.jobs, it.waiting, it.delayed, it.blocked, it.in_flight, it.workers, it.asks, it.dead, _paused(it))
        for it in found
    ]
    _tell(values, found, table(headings, rows))
    return Exit.OK


def queue_show(admin: Admin, values: argparse.Namespace) -> Exit:
    """One of them."""
    return _tell_queue(values, admin.queue(values.queue))


def queue_pause(admin: Admin, values: argparse.Namespace) -> Exit:
    """It takes no jobs, gives none, or both."""
    return _tell_queue(values, admin.pause(values.queue, values.what, by=values.by))


def queue_resume(admin: Admin, values: argparse.Namespace) -> Exit:
    """It does again."""
    return _tell_queue(values, admin.resume(values.queue, values.what))


def _tell_queue(values: argparse.Namespace, queue: QueueInfo) -> Exit:
    fields: dict[str, object] = {
        "queue": queue.name,
        "paused": _paused(queue) or "no",
        "jobs": queue.jobs,
        "waiting": queue.waiting,
        "delayed": queue.delayed,
        "blocked": queue.blocked,
        "in flight": queue.in_flight,
        "workers": queue.workers,
        "asks": queue.asks,
        "dead": queue.dead,
    }
    fields |= {f"setting {name}": value for name, value in (queue.settings or {}).items()}
    _tell(values, queue, listing(fields))
    return Exit.OK


def _paused(queue: QueueInfo) -> str:
    halves = {"intake": queue.intake_by, "dispatch": queue.dispatch_by}
    if queue.paused != "both":
        halves = {half: by for half, by in halves.items() if half == queue.paused}
    elif queue.intake_by == queue.dispatch_by:
        halves = {"both": queue.intake_by}
    return ", ".join(f"{half} by {by}" if by else half for half, by in halves.items())


# --- Jobs


def _which(values: argparse.Namespace) -> dict[str, Any]:
    if not values.request and len(values.id) != JOB_ID_BYTES:
        digits = f"the id of a job has {2 * JOB_ID_BYTES} hexadecimal digits, not {2 * len(values.id)}"
        fail(Exit.USAGE, f"{digits}; where it is that of a request, say --request", program=PROGRAM)
    return {"request_id" if values.request else "job_id": values.id, "principal": values.principal}


def job_show(admin: Admin, values: argparse.Namespace) -> Exit:
    """What is known of one."""
    return _tell_job(values, admin.job(**_which(values)))


def job_why(admin: Admin, values: argparse.Namespace) -> Exit:
    """Why it is where it is."""
    why = admin.why(**_which(values))
    _tell(values, why, [f"{shown(why.state)}: {shown(why.text)} ({shown(why.code)})"])
    return Exit.OK


def job_cancel(admin: Admin, values: argparse.Namespace) -> Exit:
    """It ends."""
    job = admin.cancel(**_which(values))
    code = _tell_job(values, job)
    if job.state == "cancelled":
        return code
    say(f"{PROGRAM}: it had ended before: {shown(job.state)}")
    return Exit.JOB_FAILED


def _tell_job(values: argparse.Namespace, job: JobInfo) -> Exit:
    now = time.time()
    moments = {
        name: "" if at is None else f"in {at - now:.1f} s" if at > now else ago(now - at)
        for name, at in (("accepted", job.accepted), ("began", job.began), ("due", job.due), ("ended", job.ended))
    }
    fields: dict[str, object] = {
        "job": job.job_id,
        "number": job.number,
        "request": job.request_id,
        "queue": job.queue,
        "state": f"{job.state} ({job.reason})" if job.reason else job.state,
        "attempts": f"{job.attempts} of {job.tries}" if job.tries else job.attempts,
        "worker": job.worker,
        **moments,
        "bytes": job.body_bytes,
        "askers": job.askers,
        "error": ": ".join(filter(None, (job.kind, job.text))),
        **{f"header {name}": value for name, value in (job.headers or {}).items()},
    }
    _tell(values, job, [*listing(fields), *_ledger(job, now)])
    return Exit.OK


def _ledger(job: JobInfo | DeadLetter, now: float) -> list[str]:
    """The attempts that came to nothing."""
    rows = [
        (it.attempt, it.cause, ago(now - it.ended_ms / 1_000), it.worker, ": ".join(filter(None, (it.kind, it.text))))
        for it in job.ledger
    ]
    return ["", *table(("ATTEMPT", "CAUSE", "ENDED", "WORKER", "ERROR"), rows)] if rows else []


# --- Dead letters


def _chosen(values: argparse.Namespace) -> dict[str, Any]:
    if values.newer_than is not None and values.older_than is not None and values.newer_than <= values.older_than:
        text = "nothing is older than --older-than and newer than --newer-than: make --newer-than the longer one"
        fail(Exit.USAGE, text, program=PROGRAM)
    names = ("queue", "reason", "kind", "older_than", "newer_than")
    return {name: value for name in names if (value := getattr(values, name)) not in (None, "")}


def dead_list(admin: Admin, values: argparse.Namespace) -> Exit:
    """Which there are."""
    found = list(islice(admin.dead(**_chosen(values)), values.limit + 1))
    listed = found[: values.limit]
    now = time.time()
    headings = ("JOB", "QUEUE", "ENDED", "REASON", "KIND", "ATTEMPTS", "BYTES", "REDRIVEN AS")
    rows = [
        (it.job_id, it.queue, ago(now - it.ended), it.reason, it.kind, it.attempts, it.body_bytes, it.redriven_to)
        for it in listed
    ]
    _tell(values, listed, table(headings, rows) if rows else [])
    if len(found) > values.limit:
        say(f"{PROGRAM}: these are the oldest {values.limit}; --limit lists more")
    elif not found and not values.json:
        say(f"{PROGRAM}: there are none")
    return Exit.OK


def dead_show(admin: Admin, values: argparse.Namespace) -> Exit:
    """One of them."""
    letter = admin.dead_letter(values.id, body=values.body)
    now = time.time()
    frames = letter.body or ()
    fields: dict[str, object] = {
        "job": letter.job_id,
        "number": letter.number,
        "request": letter.request_id,
        "queue": letter.queue,
        "reason": letter.reason,
        "error": ": ".join(filter(None, (letter.kind, letter.text))),
        "attempts": letter.attempts,
        "hand-overs": letter.handovers or "",
        "accepted": ago(now - letter.accepted),
        "ended": ago(now - letter.ended),
        "bytes": letter.body_bytes,
        "redriven from": letter.redriven_from,
        "redriven as": letter.redriven_to,
        **{f"header {name}": value for name, value in (letter.headers or {}).items()},
        **{f"body {number}": repr(frame)[2:-1] for number, frame in enumerate(frames, 1)},
    }
    plain = {name: getattr(letter, name) for name in letter.__struct_fields__}
    plain["body"] = None if letter.body is None else [base64.b64encode(frame).decode() for frame in frames]
    _tell(values, plain, [*listing(fields), *_ledger(letter, now)])
    return Exit.OK


def dead_redrive(admin: Admin, values: argparse.Namespace) -> Exit:
    """They are done again."""
    sweep = _one_or_many(admin.redrive, values, force=values.force)
    return _tell_swept(values, "redriven", sweep)


def dead_purge(admin: Admin, values: argparse.Namespace) -> Exit:
    """They are forgotten."""
    return _tell_swept(values, "purged", _one_or_many(admin.purge, values))


def _one_or_many(order: Callable[..., Swept], values: argparse.Namespace, **how: Any) -> list[Swept]:
    """What came of it: of each that is named, or of all that are so."""
    from relet.client import OrderRefused
    from relet.client.admin import Swept

    chosen = _chosen(values)
    if not (values.ids or chosen or values.all):
        fail(Exit.USAGE, "say which dead letters: ids, --queue and others, or --all", program=PROGRAM)
    if values.ids and (chosen or values.all or values.limit):
        fail(Exit.USAGE, "ids say which dead letters: leave the other options away", program=PROGRAM)
    if values.all and chosen:
        fail(Exit.USAGE, "--all takes all dead letters of the broker: leave the other options away", program=PROGRAM)
    how["dry_run"] = values.dry_run
    if not values.ids:
        return [order(**chosen, everything=values.all, limit=values.limit, **how)]
    swept: list[Swept] = []
    for name in values.ids:
        try:
            swept.append(order(job_id=name, **how))
        except OrderRefused as refused:
            text = f"{name.hex()}: {refused.text}"
            swept.append(Swept(count=0, skipped=0, refused=1, code=refused.code, text=text, job_ids=()))
    return swept


def _tell_swept(values: argparse.Namespace, done: str, swept: list[Swept]) -> Exit:
    total = sum(it.count for it in swept)
    skipped = sum(it.skipped for it in swept)
    refused = sum(it.refused for it in swept)
    letters = "1 dead letter" if total == 1 else f"{total} dead letters"
    lines = [f"{letters} {('was' if total == 1 else 'were') if not values.dry_run else 'would be'} {done}"]
    if skipped:
        lines.append(f"{skipped} had been redriven before and {'was' if skipped == 1 else 'were'} left alone (--force)")
    plain = {
        "count": total,
        "skipped": skipped,
        "refused": refused,
        "dry_run": values.dry_run,
        "jobs": [name for it in swept for name in it.job_ids],
        "codes": [it.code for it in swept if it.code],
    }
    _tell(values, plain, lines)
    for it in swept:
        if it.code:
            say(f"{PROGRAM}: {_refusal(it.code, it.text)}")
    return Exit.JOB_FAILED if refused else Exit.OK


# --- The store


def _path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="the new file, on the broker's machine: it begins with /")


def backup(admin: Admin, values: argparse.Namespace) -> Exit:
    """A copy is made; waits for its end."""
    copy: BackupInfo | None = admin.backup(values.path)
    told = 0
    while copy is not None and copy.state == "running":
        time.sleep(LOOKED_SECONDS)
        copy = admin.backup_state()
        tenths = 0 if copy is None or not copy.total_bytes else 10 * copy.done_bytes // copy.total_bytes
        if told < tenths < 10 and not values.json:
            told = tenths
            say(f"{PROGRAM}: {told}0 %")
    if copy is None or copy.state != "done":
        why = "the broker has begun anew meanwhile" if copy is None else copy.text
        fail(Exit.JOB_FAILED, f"{shown(values.path)} was not made: {shown(why)}", program=PROGRAM)
    _tell(values, copy, [f"{shown(copy.path)}: {written_size(copy.done_bytes)}"])
    return Exit.OK


COMMANDS: dict[str, Command] = {
    "queues": Command(
        "all queues, and how many jobs are where", "[options]", "  relet queues --json", _nothing, queues
    ),
    "queue show": Command(
        "one queue, with its settings", "[options] NAME", "  relet queue show mail", _queue, queue_show
    ),
    "queue pause": Command(
        "a queue takes no jobs, gives none, or both",
        "[--intake | --dispatch] [options] NAME",
        "  relet queue pause mail --dispatch --by ada\n      jobs for it are taken and wait; those with workers go on",
        _pause_by,
        queue_pause,
    ),
    "queue resume": Command(
        "it does again", "[--intake | --dispatch] [options] NAME", "  relet queue resume mail", _pause, queue_resume
    ),
    "job show": Command("what is known of a job", "[options] ID", f"  relet job show {EXAMPLE_ID}", _job, job_show),
    "job why": Command(
        "why a job is where it is",
        "[options] ID",
        "  relet job why --request 0123456789abcdef0123456789abcdef",
        _job,
        job_why,
    ),
    "job cancel": Command(
        "a job ends now, whoever waits for it", "[options] ID", f"  relet job cancel {EXAMPLE_ID}", _job, job_cancel
    ),
    "dead list": Command(
        "dead letters, oldest first",
        "[options]",
        "  relet dead list --queue mail --newer-than 1h\n  relet dead list --json | jq -r '.[].job_id'",
        _list,
        dead_list,
    ),
    "dead show": Command(
        "one dead letter, with the ledger of its attempts",
        "[--body] [options] ID",
        f"  relet dead show {EXAMPLE_ID} --body",
        _show,
        dead_show,
    ),
    "dead redrive": Command(
        "another job is made of each of these dead letters, which stay as they are",
        "[options] (ID ... | --queue NAME and other filters | --all)",
        "  relet dead redrive --queue mail --kind TimeoutError --limit 10 --dry-run\n"
        f"  relet dead redrive {EXAMPLE_ID}",
        _redrive,
        dead_redrive,
    ),
    "dead purge": Command(
        "these dead letters are not kept any more",
        "[options] (ID ... | --queue NAME and other filters | --all)",
        "  relet dead purge --queue mail --older-than 2d",
        _sweep,
        dead_purge,
    ),
    "backup": Command(
        "the broker copies its store into a new file, and goes on meanwhile",
        "[options] PATH",
        "  relet backup /var/backups/relet/jobs.db",
        _path,
        backup,
    ),
}
"""All that can be done, in the order in which --help shows it."""
