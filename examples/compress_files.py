#!/usr/bin/env python3
"""Compress every file below a folder on as many workers as there are, and lose none of them.

    ./broker.py -t 3 -T 30 4161 4162 4163
    .venv/bin/python examples/compress_files.py worker tcp://localhost:4162 tcp://localhost:4163    # several
    .venv/bin/python examples/compress_files.py client tcp://localhost:4161 FOLDER OUT

A job is a file's bytes, its answer the same compressed with LZMA. The client checks every answer by decompressing it,
so that its last line can be trusted. Kill workers while it runs: their files go to others.
"""

from __future__ import annotations

import argparse
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))  # so that it runs from a checkout

from relet import Client, Worker


def work(workers: str, answers: str) -> None:
    """Compress what comes, until Ctrl-C."""
    worker = Worker(workers, answers, lzma.compress)
    try:
        worker.run()
    except KeyboardInterrupt:
        print(f"{worker.counters.answered} files compressed")


def compress(clients: str, folder: Path, out: Path) -> int:
    """Send every file below `folder`, write the answers below `out`; the exit code."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    before = after = failed = 0
    with Client(clients) as client:
        answers: Iterator[bytes | Exception] = client.map(
            (path.read_bytes() for path in files), window=64, return_exceptions=True
        )
        for path, answer in zip(files, answers, strict=True):
            data = path.read_bytes()
            if isinstance(answer, Exception) or lzma.decompress(answer) != data:
                print(f"{path}: {answer if isinstance(answer, Exception) else 'the answer is wrong'}", file=sys.stderr)
                failed += 1
                continue
            target = out / path.relative_to(folder).with_name(path.name + ".xz")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(answer)
            before += len(data)
            after += len(answer)
    print(f"{len(files) - failed} of {len(files)} files, {before:,} bytes in, {after:,} bytes out")
    return 1 if failed else 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    worker = commands.add_parser("worker", help="compress what comes")
    worker.add_argument("workers")
    worker.add_argument("answers")
    client = commands.add_parser("client", help="send files and check the answers")
    client.add_argument("clients")
    client.add_argument("folder", type=Path)
    client.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "client":
        return compress(arguments.clients, arguments.folder, arguments.out)
    work(arguments.workers, arguments.answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
