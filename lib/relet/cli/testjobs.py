"""What testclient.py and testworker.py have agreed on: the body of a job, and the answer that proves it was done.

A body begins with the job's label, `THREAD.NUMBER`, and is filled up with dots to the wanted size. The right answer is
the word `done`, a blank and the body: it comes from a worker that saw exactly this body, and no other job has it.
"""

from __future__ import annotations

DONE = b"done "
LABEL_BYTES_MAX = 40


def body_of(thread: int, number: int, size_bytes: int) -> bytes:
    """The body of a thread's job; longer than `size_bytes` where its label is."""
    return b"%d.%d" % (thread, number) + b"." * max(0, size_bytes - len(f"{thread}.{number}"))


def answer_to(body: bytes) -> bytes:
    """The one right answer."""
    return DONE + body


def label_of(body: bytes) -> str:
    """What to call a job in a line for people, whoever sent it."""
    label = body[:LABEL_BYTES_MAX].rstrip(b".")
    text = label.decode("ascii", "replace")
    return text if text and label.isascii() and text.isprintable() else repr(label)
