"""Builds what is compiled: the frame pump, and the core; everything else about the package stands in pyproject.toml.

The pump in ``lib/relet/transport/_pump.pyx`` is worth a factor of four in CPU per job; the core, which is compiled from
its Python sources by mypyc, a third of a native job (``lib/relet/compiled.py`` says which modules, and how they are
chosen). Neither is worth anything if it keeps somebody from installing. So a build that fails, for want of a compiler
or for any other reason, says so and goes on; ``relet`` then uses the same pump written in Python, and the sources of
the core.

An editable install puts what is built among the sources, where a running broker may have it mapped. It is therefore
never written in place: the new file is completed under another name and renamed over the old one.
"""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PUMP = "relet.transport._pump"
PUMP_SOURCE = "lib/relet/transport/_pump.pyx"
WITHOUT_PUMP = "relet: the compiled frame pump was not built ({}); the plain-Python pump will be used"
WITHOUT_CORE = "relet: the core was not compiled ({}); it runs as Python, at half as much CPU again for a native job"
COMPILED = "lib/relet/compiled.py"
ROOM = "relet._compiled"
MYPY = ("--config-file=", "--follow-imports=silent", "--ignore-missing-imports")
"""Where a package is built not all is installed that the others import: what matters is what is compiled."""


def reason(error: BaseException) -> str:
    """One line about it."""
    return " ".join(str(error).split())[:200] or type(error).__name__


class BuildCompiled(build_ext):
    """Compiles what this machine can, and installs it by renaming."""

    def run(self) -> None:
        """The pump, then the core, if mypyc and a compiler are there."""
        self.core: list[Extension] = []
        self.failed = False
        if Path(COMPILED).exists():
            try:
                self.core = self.translated()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - mypyc ends the process where it cannot go on
                print(WITHOUT_CORE.format(reason(error)), file=sys.stderr)  # noqa: T201
        self.extensions += self.core
        super().run()

    def translated(self) -> list[Extension]:
        """The core in C: one library, and for each module one that refers to it."""
        from mypyc.build import mypycify  # noqa: PLC0415 - its absence is one of the failures

        chosen = runpy.run_path(COMPILED)
        sources = [f"relet/{name.replace('.', '/')}.py" for name in chosen["modules"]()]
        target = Path(self.build_temp, "core").resolve()
        there = Path.cwd()
        said = io.StringIO()
        os.chdir("lib")
        try:
            with contextlib.redirect_stdout(said):
                made = mypycify(
                    [*MYPY, "--cache-dir", str(target / "mypy"), *sources],
                    opt_level="2", debug_level="0", multi_file=True, group_name="relet_core", target_dir=str(target),
                )
        except SystemExit:
            raise RuntimeError(said.getvalue() or "mypyc says nothing about it") from None
        finally:
            os.chdir(there)
        for extension in made:
            extension.name = f"{ROOM}.{extension.name.removeprefix('relet.')}"
            extension._needs_stub = False  # noqa: SLF001 - setuptools expects it on every extension
            extension.optional = True
        return made

    def build_extension(self, ext: Extension) -> None:
        """Compile one extension; report a failure in one line instead of raising it."""
        core = ext in self.core
        if core and self.failed:
            return
        try:
            if not core:
                from Cython.Build import cythonize  # noqa: PLC0415 - its absence is one of the failures

                [built] = cythonize([ext], build_dir=self.build_temp, language_level=3, quiet=True)
                built._needs_stub = False  # noqa: SLF001 - setuptools expects it on every extension
                ext.sources = built.sources
            with several_at_a_time(self.compiler):
                super().build_extension(ext)
            if core and ext is self.core[-1]:
                self.stamped(Path(self.build_lib))
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the package works without
            self.failed |= core
            print((WITHOUT_CORE if core else WITHOUT_PUMP).format(reason(error)), file=sys.stderr)  # noqa: T201

    def stamped(self, root: Path) -> None:
        """Write down of which sources the core was made."""
        chosen = runpy.run_path(COMPILED)
        folder = root / ROOM.replace(".", "/")
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".{chosen['STAMP']}.{os.getpid()}"
        fresh.write_text(chosen["digest"]())
        fresh.replace(folder / chosen["STAMP"])

    def copy_extensions_to_source(self) -> None:
        """Put what was built among the sources (editable installs), atomically; the stamp of the core last."""
        build_py = self.get_finalized_command("build_py")
        folder = Path("lib", ROOM.replace(".", "/"))
        (folder / runpy.run_path(COMPILED)["STAMP"]).unlink(missing_ok=True)
        for old in folder.rglob("*.so"):  # of modules that were compiled before, and are not now
            old.unlink()
        for ext in self.extensions:
            in_place, built = (Path(path) for path in self._get_inplace_equivalent(build_py, ext))
            if not built.exists():
                # A stale binary of older sources would be worse than none.
                in_place.unlink(missing_ok=True)
                continue
            in_place.parent.mkdir(parents=True, exist_ok=True)
            fresh = in_place.with_name(f".{in_place.name}.{os.getpid()}")
            shutil.copyfile(built, fresh)
            fresh.replace(in_place)
        if self.core and not self.failed:
            self.stamped(Path("lib"))


@contextlib.contextmanager
def several_at_a_time(compiler: Any) -> Any:
    """The files of one extension are compiled as many at a time as there are processors; distutils does one."""
    one_by_one = compiler.compile

    def compile_all(sources: list[str], *arguments: Any, **options: Any) -> list[str]:
        with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
            done = list(threads.map(lambda source: one_by_one([source], *arguments, **options), sources))
        return [path for paths in done for path in paths]

    compiler.compile = compile_all
    try:
        yield
    finally:
        compiler.compile = one_by_one


extensions = []
if Path(PUMP_SOURCE).exists():
    extensions.append(Extension(PUMP, [PUMP_SOURCE], optional=True))

setup(ext_modules=extensions, cmdclass={"build_ext": BuildCompiled})
