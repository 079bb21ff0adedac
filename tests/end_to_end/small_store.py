"""`broker.py` with a store whose log is small, so that a few jobs bring everything that a store does to its file."""

from __future__ import annotations

import sys

from relet.cli.broker import main
from relet.store import sqlite

sqlite.WAL_PAGES_MAX = 8  # type: ignore[misc]
sqlite.SqliteStore.__init__.__kwdefaults__["log_bytes_max"] = 2_000
sys.exit(main(sys.argv[1:]))
