"""tools/environment.py: makes .venv from whatever state it is in."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.cli.conftest import ROOT


@pytest.fixture
def tool() -> ModuleType:
    """The tool as a module of its own, so that a test may replace parts of it."""
    spec = importlib.util.spec_from_file_location("environment", ROOT / "tools" / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Installed:
    """Stands for pip: remembers its calls and fails as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tool: ModuleType, environment: object) -> None:
        self.calls: list[str] = []
        self.imports = True
        self.interrupted = False
        self._environment = environment
        monkeypatch.setattr(environment, "create", self._create)
        monkeypatch.setattr(environment, "install", self._install)
        monkeypatch.setattr(environment, "is_sound", lambda: self.sound)
        monkeypatch.setattr(tool, "runs", lambda _python, _code: self.imports)
        self.sound = False

    def _create(self) -> None:
        self.calls.append("create")
        self._environment.folder.mkdir(exist_ok=True)  # type: ignore[attr-defined]
        self.sound = True

    def _install(self) -> None:
        self.calls.append("install")
        if self.interrupted:
            raise KeyboardInterrupt


def test_it_is_made_once_and_then_left_alone(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run looks, finds all well and says nothing."""
    environment = tool.Environment(tmp_path)
    pip = Installed(monkeypatch, tool, environment)
    environment.prepare()
    assert pip.calls == ["create", "install"]
    assert "relet: ready" in capsys.readouterr().err
    environment.prepare()
    assert pip.calls == ["create", "install"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["pyproject.toml", "setup.py", "lib/relet/transport/_pump.pyx"])
def test_a_change_of_what_decides_installs_again(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The environment is kept, and brought up to date."""
    environment = tool.Environment(tmp_path)
    pip = Installed(monkeypatch, tool, environment)
    environment.prepare()
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("changed")
    environment.prepare()
    assert pip.calls == ["create", "install", "install"]


def test_a_compiler_that_was_not_there_before_installs_again(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was told to install one and to type `make setup` again gets the compiled pump by that."""
    environment = tool.Environment(tmp_path)
    pip = Installed(monkeypatch, tool, environment)
    monkeypatch.setenv("CC", str(tmp_path / "no-compiler"))
    environment.prepare()
    monkeypatch.setenv("CC", sys.executable)
    environment.prepare()
    assert pip.calls == ["create", "install", "install"]


def test_an_interrupted_installation_leaves_no_stamp(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in pip: the next run does not believe that all is well."""
    environment = tool.Environment(tmp_path)
    pip = Installed(monkeypatch, tool, environment)
    pip.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        environment.prepare()
    pip.interrupted = False
    assert not environment.is_ready()
    environment.prepare()
    assert environment.is_ready()


def test_the_mark_of_an_interruption_begins_from_nothing(tool: ModuleType, tmp_path: Path) -> None:
    """Packages of which one half is there cannot be trusted, however sound the interpreter."""
    environment = tool.Environment(tmp_path)
    environment.folder.mkdir()
    (environment.folder / "bin").symlink_to(Path(sys.prefix) / "bin")
    environment.installing.touch()
    assert not environment.is_sound()


def test_packages_that_do_not_import_are_made_again_once(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it gives up in one line, instead of trying for ever."""
    environment = tool.Environment(tmp_path)
    pip = Installed(monkeypatch, tool, environment)
    pip.imports = False
    with pytest.raises(tool.SetupError, match="do not import"):
        environment.prepare()
    assert pip.calls == ["create", "install", "create", "install"]


@pytest.mark.parametrize("state", ["no pip", "broken interpreter", "no interpreter", "a file"])
def test_a_broken_environment_is_made_again(tool: ModuleType, tmp_path: Path, state: str) -> None:
    """Whatever lies there is unsound, and `create` puts an environment with pip in its place."""
    environment = tool.Environment(tmp_path)
    if state == "a file":
        environment.folder.write_text("?")
    else:
        environment.python.parent.mkdir(parents=True)
    if state == "no pip":
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment.folder], check=True)
    elif state == "broken interpreter":
        environment.python.symlink_to(tmp_path / "gone")
    assert not environment.is_sound()
    if state == "no pip":  # making one takes seconds: once is enough
        environment.create()
        assert environment.is_sound()


def test_without_ensurepip_pip_comes_from_outside(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian without python3-venv: an empty environment, and the system's pip installs into it."""
    commands: list[list[str]] = []

    def quiet(command: list[str]) -> bool:
        commands.append(command[1:4])
        return "--without-pip" in command or "--python" in command

    monkeypatch.setattr(tool, "quiet", quiet)
    monkeypatch.setattr(tool, "runs", lambda _python, _code: True)
    environment = tool.Environment(tmp_path)
    environment.create()
    assert commands == [
        ["-m", "venv", str(environment.folder)],
        ["-m", "venv", "--without-pip"],
        ["-m", "pip", "--python"],
    ]


def test_with_neither_one_line_names_the_package(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No ensurepip, no pip: exit 1, nothing half made is left, and the line says what to install."""
    monkeypatch.setattr(tool, "quiet", lambda command: command[2] == "venv" and bool((tmp_path / ".venv").mkdir()))
    monkeypatch.setattr(tool, "runs", lambda _python, code: "version_info" in code and "pip" not in code)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    assert tool.main([]) == 1
    assert "apt install python3-venv" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / ".venv").exists()


def test_no_python_is_recent_enough(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says which one is needed."""
    monkeypatch.setattr(tool, "runs", lambda _python, _code: False)
    with pytest.raises(tool.SetupError, match=r"Python >= 3\.11 is needed"):
        tool.find_python()
