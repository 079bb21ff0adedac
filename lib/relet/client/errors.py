"""What may come instead of an answer. Beside these there is `TimeoutError`: none came in the time the caller gave."""

from __future__ import annotations


class ClientError(Exception):
    """All of the client's own errors."""


class JobFailed(ClientError):
    """The broker has given the job up: its tries are spent, or it can never be done.

    In the 2010 dialect this is one empty frame and carries no reason. A worker that answers with one empty frame looks
    the same.
    """


class BrokerLost(ClientError):
    """The connection went while the job was under way, and `resend` is off. Whether the job was done is not known."""


class ClientClosed(ClientError):
    """The client was closed, or belongs to the process that this one was forked from."""


class UnexpectedAnswer(ClientError):
    """`call`, `submit` and `map` expect an answer of one frame, and this job's has another number of frames.

    `frames` holds the answer; `call_multipart` and `submit_multipart` take any.
    """

    def __init__(self, frames: tuple[bytes, ...]) -> None:
        super().__init__(f"the answer has {len(frames)} frames, not one: use call_multipart or submit_multipart")
        self.frames = frames
