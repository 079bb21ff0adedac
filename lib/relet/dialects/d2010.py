"""The dialect of 2010, on the broker's side. `docs/protocol.md` specifies it frame by frame.

    client -> clients   [path..., "", body...]         workers <- broker   [path..., "", id, body...]
    client <- broker    [path..., "", answer...]       worker -> answers   [id, answer...]
    worker -> workers   [path..., "", anything...]

The pump has already cut the return path from what follows the first empty frame; nothing behind it is looked at. An
empty frame alone is the failure of a job, which makes a legitimate empty answer look the same: the dialect has no
other word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from relet.core.job import COMPLETED, Job
from relet.messages import Answer, Path, Peer

DELIMITER: Final = b""
FAILURE: Final = b""
ID_BYTES_MAX: Final = 255
"""No id of ours is longer, nor that of any other broker of this dialect."""


def answers(messages: Sequence[tuple[Any, ...]], *, frames_max: int, bytes_max: int) -> tuple[list[Answer], int]:
    """What arrived on the answers' endpoint: (answers, how many were no answers at all).

    The id alone is an answer of one empty frame.
    """
    taken: list[Answer] = [it for it in messages if len(it) == 2 and len(it[1]) <= bytes_max]
    if len(taken) == len(messages):
        return taken, 0
    taken, refused = [], 0  # all over again, in order: of two answers to one job the first is its outcome
    for message in messages:
        token, *frames = message
        if len(message) > frames_max or len(token) > ID_BYTES_MAX or sum(map(len, frames)) > bytes_max:
            refused += 1
        else:
            taken.append((token, b"" if not frames else frames[0] if len(frames) == 1 else tuple(frames)))
    return taken, refused


def replies(jobs: Iterable[Job]) -> list[tuple[Any, ...]]:
    """What finished jobs say to their clients. A native result of no frames becomes an empty one: a REQ socket hears
    nothing of a message that ends with the delimiter.
    """
    return [
        (
            job.peer,
            job.path,
            DELIMITER,
            (job.answer if job.answer != () else b"") if job.state == COMPLETED else FAILURE,
        )
        for job in jobs
    ]


def refusals(askers: Iterable[tuple[Peer, Path]]) -> list[tuple[Any, ...]]:
    """What can be said to who sent something that becomes no job."""
    return [(peer, path, DELIMITER, FAILURE) for peer, path in askers]


def dispatches(jobs: Iterable[Job]) -> list[tuple[Any, ...]]:
    """Jobs on their way to their holders."""
    return [(holder.peer, holder.path, DELIMITER, job.token, job.body) for job in jobs if (holder := job.holder)]
