"""`relet` for `conftest.Program`, which starts files of the project."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lib"))

from relet.cli.admin import run

if __name__ == "__main__":
    run()
