"""What handlers say beside their answers, where nobody else could make room for it while they say it."""

from __future__ import annotations

from relet.worker.job import PIECE_BYTES, Asides, Job, Piece


class UnboundedAsides(Asides):
    """`Asides` that never wait: handlers run in the one thread that would have to send what they say."""

    def put_piece(self, job: Job, frames: tuple[bytes, ...]) -> None:
        """Say a piece of the result, however much waits."""
        self.put(job, Piece(frames, sum(map(len, frames)) + PIECE_BYTES))

    def freed(self, size: int) -> None:
        """Nobody waits for room."""
