"""Makes the project's virtual environment (.venv) and puts it right when it is half made.

`make` calls this each time, with whatever `python3` the machine has. When all is well it looks, says nothing and is
gone in a moment. There is one stamp file, .venv/.ready: it holds a digest of what decides what is installed, so a
change of it - of these files, or a compiler that was not there before - installs again. While an installation is under
way .venv/.installing stands there; whoever finds it after taking the lock knows that an earlier run was interrupted,
and begins from nothing.

Usage: python3 tools/environment.py [--quick]     --quick: only look, exit 1 when set-up has to run
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DECISIVE_FILES = ("pyproject.toml", "setup.py", "lib/relet/transport/_pump.pyx", "lib/relet/_version.py")
PYTHON_MIN = (3, 11)
CANDIDATES = ("python3", "python3.13", "python3.12", "python3.11", "python3.14")
IMPORTED = ("pip", "zmq", "structlog", "msgspec", "rich", "pytest", "hypothesis", "mypy", "Cython", "relet")
PROBE = "import " + ", ".join(IMPORTED)
GLANCE = "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {!r})))".format(IMPORTED)
PROBE_SECONDS_MAX = 60


class SetupError(Exception):
    """Set-up cannot go on; the message is one line that says what to do."""


def say(text: str) -> None:
    """Tell the user, on stderr, what is going on."""
    print("relet: " + text, file=sys.stderr, flush=True)


def runs(python: "str | Path", code: str) -> bool:
    """Whether this interpreter starts and runs the code without an error."""
    try:
        done = subprocess.run(
            [str(python), "-c", code],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PROBE_SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def digest(root: Path) -> str:
    """What the stamp holds: a digest of what decides what is installed."""
    found = hashlib.sha256()
    for name in DECISIVE_FILES:
        path = root / name
        found.update(name.encode() + b"\0" + (path.read_bytes() if path.exists() else b"absent") + b"\0")
    compiler = shutil.which(os.environ.get("CC", "cc").split()[0])
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    found.update("{} {}".format(compiler, headers).encode())
    return found.hexdigest()


class Environment:
    """The environment of one project folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".venv"
        self.python = self.folder / "bin" / "python"
        self.stamp = self.folder / ".ready"
        self.installing = self.folder / ".installing"

    def is_ready(self) -> bool:
        """Whether the stamp is of today's files and the interpreter runs and finds what was installed."""
        try:
            stamped = self.stamp.read_text()
        except OSError:
            return False
        return stamped == digest(self.root) and runs(self.python, GLANCE)

    def is_sound(self) -> bool:
        """Whether pip can work on what is there: not interrupted, a recent Python that runs, with a pip."""
        code = "import sys, pip; sys.exit(sys.version_info < {!r})".format(PYTHON_MIN)
        return not self.installing.exists() and runs(self.python, code)

    def create(self) -> None:
        """Make an empty environment with pip in it, by the way that this machine offers."""
        if self.folder.is_symlink() or self.folder.is_file():
            self.folder.unlink()
        elif self.folder.exists():
            shutil.rmtree(str(self.folder))
        base = find_python()
        if quiet([base, "-m", "venv", str(self.folder)]) and runs(self.python, "import pip"):
            return
        # Debian without python3-venv: venv is there, ensurepip is not, and a half-made folder stays behind.
        shutil.rmtree(str(self.folder), ignore_errors=True)
        without = quiet([base, "-m", "venv", "--without-pip", str(self.folder)])
        by_pip = [base, "-m", "pip", "--python", str(self.python), "install", "--quiet", "pip"]
        if without and quiet(by_pip) and runs(self.python, "import pip"):
            return
        shutil.rmtree(str(self.folder), ignore_errors=True)
        raise SetupError(
            "{} can make no virtual environment (no ensurepip, and no pip >= 22.3 beside it); "
            "on Debian or Ubuntu type: sudo apt install python3-venv".format(base)
        )

    def install(self) -> None:
        """Install the project and its tools; leaves .installing behind when it is interrupted."""
        self.installing.touch()
        command = [str(self.python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        done = subprocess.run([*command, "--editable", ".[dev]"], cwd=str(self.root), check=False)
        if done.returncode != 0:
            raise SetupError("pip could not install the project (see above); mend that and type: make setup")
        self.installing.unlink()

    def prepare(self) -> None:
        """Bring the environment from whatever state it is in to ready."""
        if self.is_ready():
            return
        wanted = digest(self.root)
        if self.is_sound():
            say("bringing .venv up to date ...")
        else:
            if self.folder.exists():
                say(".venv is incomplete or broken: making it again")
            say("making .venv and installing what relet needs (about a minute) ...")
            self.create()
        self.install()
        if not runs(self.python, PROBE):
            say("what pip installed does not import: making .venv again from nothing")
            self.create()
            self.install()
            if not runs(self.python, PROBE):
                raise SetupError("the installed packages do not import; type: .venv/bin/python -c '{}'".format(PROBE))
        self.stamp.write_text(wanted)
        if (self.root / DECISIVE_FILES[2]).exists() and not runs(self.python, "import relet.transport._pump"):
            say(
                "the compiled frame pump could not be built (is a C compiler there?); the plain-Python pump is used "
                "and costs about four times the CPU per job"
            )
        if not runs(self.python, "import relet.compiled as it; raise SystemExit(it.core != 'compiled')"):
            say(
                "the core was not compiled (`make compile` tries it again and says why); it runs as Python, "
                "which takes half as much CPU again for a native job"
            )
        say("ready")


def find_python() -> str:
    """The first interpreter on the path that is recent enough."""
    code = "import sys; sys.exit(sys.version_info < {!r})".format(PYTHON_MIN)
    for name in CANDIDATES:
        path = shutil.which(name)
        if path and runs(path, code):
            return path
    raise SetupError(
        "Python >= {}.{} is needed, and python3 is older; install one, then type: make setup".format(*PYTHON_MIN)
    )


def quiet(command: "list[str]") -> bool:
    """Run a command without its output; whether it succeeded."""
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


def main(arguments: "list[str]") -> int:
    """Prepare the environment, one process at a time; the exit code."""
    environment = Environment(ROOT)
    if "--quick" in arguments:
        return 0 if environment.is_ready() else 1
    # One at a time: a second `make` must not take the first one's .installing for an interruption.
    with (ROOT / ".venv.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            environment.prepare()
        except SetupError as error:
            say(str(error))
            return 1
        except KeyboardInterrupt:
            say("interrupted; the next `make setup` begins again")
            return 130
    return 0


if __name__ == "__main__":
    os.chdir(str(ROOT))
    sys.exit(main(sys.argv[1:]))
