"""Finds the environment in which a program can run; the launchers at the top of the project load this file first.

A launcher is started by whatever `python3` is first on the path. That may be older than relet needs, and it rarely has
pyzmq. So this file must parse on Python 3.6 and imports nothing of relet. In this order:

1. Help needs no more than a recent Python: shown at once, whether the project is set up or not.
2. Inside the project's .venv: run.
3. There is a .venv: replace this process by its interpreter, at most once (a variable marks the second start).
4. No .venv, but everything is installed for this interpreter: run.
5. Otherwise: one line that says what to type.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

PYTHON_MIN = (3, 11)
NEEDED = {"zmq": "pyzmq", "structlog": "structlog", "msgspec": "msgspec"}
RELAUNCHED = "RELET_RELAUNCHED"
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def launch(script: str, module: str) -> "NoReturn":
    """Run `relet.cli.<module>.main` for the launcher `script`; does not return."""
    root = os.path.dirname(os.path.realpath(script))
    # The launcher put this file's folder first, and Python its own: the package takes the place of both.
    sys.path[:2] = [os.path.join(root, "lib")]
    environment = os.path.join(root, ".venv")
    relaunched = os.environ.pop(RELAUNCHED, None) is not None
    inside = os.path.realpath(sys.prefix) == os.path.realpath(environment)
    only_help = sys.version_info >= PYTHON_MIN and any(word in ("-h", "--help") for word in sys.argv[1:])
    if not (inside or relaunched or only_help):
        relaunch(os.path.join(environment, "bin", "python"))
    if sys.version_info < PYTHON_MIN:
        refuse("Python {}.{} is needed, and this is {}.{}".format(*(PYTHON_MIN + sys.version_info[:2])))
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the process ends
    try:
        if not only_help:
            require()
        main = getattr(__import__("relet.cli." + module, fromlist=["main"]), "main")  # noqa: B009 - 3.6 and mypy agree
        sys.exit(main(sys.argv[1:]))
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        if name not in NEEDED:
            raise
        refuse("{} does not work here ({})".format(NEEDED[name], error))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def relaunch(python: str) -> None:
    """Become the environment's interpreter; returns where there is none that can be started."""
    if os.access(python, os.X_OK):
        os.environ[RELAUNCHED] = "1"
        try:
            os.execv(python, [python] + sys.argv)  # noqa: RUF005, S606 - plain on every version
        except OSError:
            del os.environ[RELAUNCHED]


def require() -> None:
    """Refuse in one line where a package is not installed."""
    from importlib.util import find_spec

    missing = [package for name, package in NEEDED.items() if find_spec(name) is None]
    if missing:
        refuse(
            "{} not installed for {}".format(
                " and ".join(missing) + (" is" if len(missing) == 1 else " are"), sys.executable
            )
        )


def refuse(reason: str) -> "NoReturn":
    """Say in one line what is wrong and what to type; does not return."""
    sys.stderr.write("{}: {}; type: make setup\n".format(os.path.basename(sys.argv[0]), reason))
    sys.exit(EXIT_USAGE)
