"""Builds the optional frame pump; everything else about the package stands in pyproject.toml.

The pump in ``lib/relet/transport/_pump.pyx`` is worth a factor of four in CPU per job, and worth nothing if it keeps
somebody from installing. So a build that fails, for want of a compiler or for any other reason, says so and goes
on; ``relet`` then uses the same pump written in Python.

An editable install puts the extension among the sources, where a running broker may have it mapped. It is therefore
never written in place: the new file is completed under another name and renamed over the old one.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PUMP_SOURCE = "lib/relet/transport/_pump.pyx"
WITHOUT = "relet: the compiled frame pump was not built ({reason}); the plain-Python pump will be used"


class BuildPump(build_ext):
    """Compiles the pump if this machine can, and installs it by renaming."""

    def build_extension(self, ext: Extension) -> None:
        """Compile one extension; report a failure in one line instead of raising it."""
        try:
            from Cython.Build import cythonize  # noqa: PLC0415 - its absence is one of the failures

            [built] = cythonize([ext], build_dir=self.build_temp, language_level=3, quiet=True)
            built._needs_stub = False  # noqa: SLF001 - setuptools expects it on every extension
            ext.sources = built.sources
            super().build_extension(ext)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the package works without
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            print(WITHOUT.format(reason=reason), file=sys.stderr)  # noqa: T201

    def copy_extensions_to_source(self) -> None:
        """Put the built extension among the sources (editable installs), atomically."""
        build_py = self.get_finalized_command("build_py")
        for ext in self.extensions:
            in_place, built = (Path(path) for path in self._get_inplace_equivalent(build_py, ext))
            if not built.exists():
                # A stale binary of older sources would be worse than none.
                in_place.unlink(missing_ok=True)
                continue
            fresh = in_place.with_name(f".{in_place.name}.{os.getpid()}")
            shutil.copyfile(built, fresh)
            fresh.replace(in_place)


extensions = []
if Path(PUMP_SOURCE).exists():
    extensions.append(Extension("relet.transport._pump", [PUMP_SOURCE], optional=True))

setup(ext_modules=extensions, cmdclass={"build_ext": BuildPump})
