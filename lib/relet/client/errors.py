"""What may come instead of an answer. Beside these there is `TimeoutError`: none came in the time the caller gave."""

from __future__ import annotations

from typing import Final

from relet.messages import Entry


class ClientError(Exception):
    """All of the client's own errors."""


class JobFailed(ClientError):
    """The job has ended, and not well: its tries are spent, it failed for good, or it was cancelled.

    In the 2010 dialect this is one empty frame and carries no reason; a worker that answers with one empty frame looks
    the same. There only the text is set.

    Args:
        message: the text, where there is nothing to make one of.
        state: `discarded` or `cancelled`; "" where it is not known, as for all that follows.
        reason: the rule that ended it: `tries_spent`, `errors_spent`, `timeouts_spent`, `losses_spent`,
            `handovers_spent`, `body_lost`, `failed`, `start_deadline`, `deadline`, `asker_gone`, `cancelled`,
            `replaced`, `detached` (it goes on for others), `broker_stopped`.
        kind: the name of the last failure's error, as its worker said it.
        text: its text.
        attempts: how many counted.
        ledger: the attempts that did not lead to an answer, oldest first.
        request_id: what it was asked under.
        replaced_by: id of the job that took its place.
        job_id: what the broker calls it; b"" where nobody has seen it yet but its client.
    """

    def __init__(
        self,
        message: str = "",
        *,
        state: str = "",
        reason: str = "",
        kind: str = "",
        text: str = "",
        attempts: int = 0,
        ledger: tuple[Entry, ...] = (),
        request_id: bytes = b"",
        replaced_by: bytes = b"",
        job_id: bytes = b"",
    ) -> None:
        super().__init__(message or _line(state, reason, kind, text, attempts, ledger))
        self.state = state
        self.reason = reason
        self.kind = kind
        self.text = text
        self.attempts = attempts
        self.ledger = ledger
        self.request_id = request_id
        self.replaced_by = replaced_by
        self.job_id = job_id


_LAST: Final = {
    "expired": "the time of the last one was up",
    "silent": "nothing was heard of the last one for too long",
    "failed": "the last one failed",
    "worker_lost": "the worker of the last one was lost",
    "deadline": "the deadline of the job ended the last one",
}
"""How an attempt came to its end, by its cause (docs/protocol.md, `outcome`)."""


def _line(state: str, reason: str, kind: str, text: str, attempts: int, ledger: tuple[Entry, ...]) -> str:
    """One line of all that is known, the last failure at its end."""
    line = f"the job was {state}"
    if reason:
        line += f" ({reason})"
    line += f" after {attempts} attempt{'' if attempts == 1 else 's'}"
    last = ": ".join(part for part in (kind, text) if part)
    if not last and ledger:
        cause = ledger[-1].cause
        last = _LAST.get(cause, f"the last one ended with {cause}")
    return " ".join(f"{line}: {last}".split()) if last else line


class JobRefused(ClientError):
    """The broker did not take the job, and would not take it later either; or it did not take who waits for its result.

    `code` is a word for programs (`too_large`, `conflict`, `expired`, `bad_request` ...: docs/protocol.md, messages
    `submitted` and `error`), `text` a sentence for people. `job_id` is that of the job that has the unique key, where
    the code is `duplicate`.
    """

    def __init__(self, code: str, text: str = "", job_id: bytes = b"") -> None:
        super().__init__(f"{code}: {text}" if text else code)
        self.code = code
        self.text = text
        self.job_id = job_id


class JobUnknown(ClientError):
    """The broker knows of no job under this id: nobody has submitted it to this broker, or its outcome is not kept any
    more, because it was received, or the time it was to be kept (`Terms.keep`) is over, or a bound of the broker's made
    it forget.
    """


class JobExpired(ClientError):
    """There may have been a job under this id, and nothing of it is kept any more."""


class BrokerLost(ClientError):
    """The connection went while the job was under way, and `resend` is off. Whether the job was done is not known."""


class ClientClosed(ClientError):
    """The client was closed, or belongs to the process that this one was forked from."""


class UnreadableAnswer(ClientError):
    """The broker has answered an administrator's order, and with something that this library cannot read: it may be of
    another version. The order was carried out, or refused; what it says is not known.
    """


class UnexpectedAnswer(ClientError):
    """`call`, `submit`, `map` and `result` expect an answer of one frame, and this job's has another number of frames.

    `frames` holds the answer; the calls whose names end with `_multipart` take any.
    """

    def __init__(self, frames: tuple[bytes, ...]) -> None:
        super().__init__(f"the answer has {len(frames)} frames, not one: use the call for several, with _multipart")
        self.frames = frames

    def __reduce__(self) -> tuple[type[UnexpectedAnswer], tuple[tuple[bytes, ...]]]:
        return type(self), (self.frames,)  # else it would be made of its text
