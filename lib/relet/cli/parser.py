"""argparse with the manners of this project: one-line errors, did-you-mean, examples last, no abbreviations."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from relet._version import __version__
from relet.cli.exits import Exit

PROGRAMS = ("broker.py", "testworker.py", "testclient.py")


class Parser(argparse.ArgumentParser):
    """A parser whose errors fit on one line and say what to write instead.

    Args:
        program: its name.
        usage: the arguments in short.
        description: what the program is for.
        examples: command lines, indented.
        exits: exit code -> what it says.
    """

    def __init__(self, program: str, *, usage: str, description: str, examples: str, exits: Mapping[Exit, str]) -> None:
        codes = "\n".join(f"  {code.value:<4} {meaning}" for code, meaning in exits.items())
        super().__init__(
            prog=program,
            usage=f"%(prog)s {usage}",
            description=description,
            epilog=f"examples:\n{examples}\n\nexit codes:\n{codes}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument(
            "--version", action=_Versions, help="show the versions of relet, Python, pyzmq and libzmq, what is compiled"
        )

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The values of the command line; ends the program with `Exit.USAGE` where it cannot be meant."""
        values, unknown = self.parse_known_args(arguments)
        for word in unknown:
            self.error(self._unknown(word))
        return values

    def parse_known_args(  # type: ignore[override]  # any kind of namespace is one to argparse
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As in the base class; the words are remembered for what `error` says."""
        self._words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End with one line on stderr."""
        if message.startswith("the following arguments are required"):
            # A misspelt option is the likelier reason, where there is one.
            options = [word for word in self._words if word.startswith("--")]
            message = next((text for text in map(self._unknown_option, options) if text), message)
        fail(Exit.USAGE, f"{' '.join(message.split())} (--help shows everything)", program=self.prog)

    def _unknown(self, word: str) -> str:
        return self._unknown_option(word) or f"one argument too many: {word!r}"

    def _unknown_option(self, word: str) -> str:
        option = word.partition("=")[0]
        if not option.startswith("-") or option in self._option_string_actions:
            return ""
        from difflib import get_close_matches

        known = [name for name in self._option_string_actions if name.startswith("--")]
        close = get_close_matches(option.lower(), known, n=1)
        return f"there is no option {option}" + (f"; did you mean {close[0]}?" if close else "")


def add_dialect(parser: argparse.ArgumentParser) -> None:
    """Which protocol a test program speaks. The names are those of `transport.link`, which would load ZeroMQ."""
    parser.add_argument(
        "--dialect", choices=("native", "2010"), default="native", help="what to speak to the broker [native]"
    )


class _Versions(argparse.Action):
    """--version: print and end, whatever else stands on the command line."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, *_: object) -> NoReturn:
        """Called by argparse when it meets the option."""
        print(versions())
        sys.exit(Exit.OK)


def versions() -> str:
    """One line with everything that a report of a problem should name."""
    import zmq

    from relet import compiled
    from relet.transport.pump import implementation

    pump = implementation("auto")[0]
    python = ".".join(map(str, sys.version_info[:3]))
    return (
        f"relet {__version__}, pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}, pump {pump}, core {compiled.core},"
        f" Python {python}"
    )


def fail(code: Exit, message: str, *, program: str) -> NoReturn:
    """End the program with one line on stderr."""
    say(f"{program}: {message}")
    sys.exit(code)


def say(text: str) -> None:
    """A line for people, on stderr; nobody has to read it."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text + "\n")  # in one piece, whatever else is written meanwhile
        sys.stderr.flush()


def endpoint(role: str, text: str, parse: Callable[..., Any], *, program: str) -> Any:
    """An endpoint from the command line, by `parse_bind` or `parse_connect`; ends the program where it is refused."""
    try:
        return parse(text, inproc=False)
    except ValueError as error:
        fail(Exit.USAGE, f"{role.upper()}: {error}", program=program)


def sibling(name: str) -> str:
    """How to call another of the three programs, the way this one was called."""
    if os.path.basename(sys.argv[0]) in PROGRAMS:
        return os.path.join(os.path.dirname(sys.argv[0]) or ".", name)
    return f"./{name}"
