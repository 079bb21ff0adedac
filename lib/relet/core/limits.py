"""Every bound of the broker: its name, its unit and its reason. What exceeds one is refused, pushed back or told."""

from __future__ import annotations

import msgspec

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
DAY_NS = 86_400_000_000_000

FRAMES_LEAST = 3
"""Frames of the smallest native message with a body: signature, header, one frame. Below it no native client could
submit a job. Each hop behind which a peer stands is one more."""
BODY_BYTES_LEAST = 256
"""Bytes that a native message may need without any body: the hello of a worker with its agent and two queues has 132, a
request with all its terms 145. Below it native peers are told `too_large` for all that they say."""

KEYS_RESTING_MAX = 100_000
"""Fairness keys of one queue that are remembered for their rate alone, because nobody takes from a queue without
workers, and each costs about 400 bytes. Above it the one whose bucket would be full soonest begins with its burst."""

STALE_WORTH_REBUILDING = 64
"""Entries of a heap or a line that mean nothing any more. Below this a rebuild costs more than it frees."""


class LimitError(ValueError):
    """A limit that cannot be; the text names it and says what it may be."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one broker. Units last: `_max` alone counts things, `_bytes_max` bytes, `_ns` nanoseconds."""

    jobs_max: int = 1_000_000
    """Open jobs. Above it lies a reserve of a tenth; when that is full too, clients are not read until there is
    room."""
    jobs_bytes_max: int = 4 * GIB
    """Bytes of the bodies, return paths and headers of all open jobs together, in memory or on disk, because one of
    the two must hold them; the same reserve, the same push-back. Ledgers are not in it: `ledger_bytes_max` bounds
    each."""
    bodies_memory_bytes_max: int = 128 * MIB
    """Bytes of bodies of open jobs that are kept in memory besides the store, where there is one: above it, bodies of
    1 KiB and more are let go from memory once they have rows of their own, and read back when their jobs are handed
    over. The youngest 8 MiB of records have no rows yet."""
    body_bytes_max: int = 64 * MIB
    """Bytes of one message, its return path included: a larger request can never be accepted and is answered at
    once. At least 256, the headers of native messages."""
    path_bytes_max: int = 8 * KIB
    """Bytes of a return path beyond the first hop, because every open job keeps its own: 32 hops of the longest ids."""
    frames_max: int = 1_000
    """Frames of one message, because each costs an object; more are refused as too large. At least 3: a native
    message's signature, header and body."""
    asks_per_worker_max: int = 1_000
    """Unspent asks of one worker, so that a worker that only asks cannot fill the roster."""
    asks_max: int = 1_000_000
    """Unspent asks of all workers together."""
    jobs_per_worker_max: int = 3_000
    """Jobs that one native worker may have, unspent asks among them: what its hello can claim after a loss of the
    connection, because a header has at most 64 KiB."""
    peers_max: int = 65_536
    """Connections that may speak on one endpoint, and return paths of workers behind proxies; each is kept until
    it goes."""
    paths_per_peer_max: int = 4_096
    """Return paths of workers behind one connection, so that one proxy, or one liar, cannot fill the roster."""
    outbox_bytes_max: int = 64 * MIB
    """Bytes of replies that wait for one client that does not read; further ones to it are dropped, logged and
    counted."""
    outboxes_bytes_max: int = 512 * MIB
    """Bytes of replies that wait for all such clients together."""
    turn_messages_max: int = 2_000
    """Messages taken from one socket in one turn, so that no socket waits for another."""
    turn_steps_max: int = 2_000
    """Jobs that one turn expires, lets again or tells of an end: about 2 ms of work."""
    disk_free_bytes_min: int = 64 * MIB
    """Bytes to be free on the disk of the store, so that open jobs can end and be kept: with less, new jobs are
    refused until there is a quarter more. 0: it is not looked at."""
    frame_copy_bytes_max: int = 16 * KIB
    """Frames below this are copied, larger ones stay in libzmq's memory, whose smallest piece is about 8 KiB."""
    handovers_max: int | None = None
    """Hand-overs of one job that may come to nothing and be given back; None stands for ten times the tries, 100 where
    tries are unlimited."""
    kept_jobs_max: int = 10_000
    """Dead letters and outcomes that reached nobody of 2010, kept for inspection; the oldest go first."""
    kept_bytes_max: int = 64 * MIB
    """Bytes of their bodies and answers."""
    kept_ns: int = 14 * DAY_NS
    """How long they are kept, two weeks: somebody has looked at them by then, or nobody will."""
    ledger_entries_max: int = 100
    """Failed attempts remembered of one job; the oldest go first."""
    ledger_bytes_max: int = 16 * KIB
    """Bytes of what workers said of them, because every open job keeps its own; `jobs_max` times that in all, which no
    other limit counts."""
    worker_grace_ns: int = 20_000_000
    """How long the leases of a lost worker of 2010 outlive its connection: its last answer may be under way on the
    other one."""
    session_grace_ns: int = 100_000_000
    """How long a native worker keeps its session without a connection: a live one is back sooner, on another."""
    liveness_ns: int = 10_000_000_000
    """How long nothing may be heard of a native worker; it says something four times as often. An extension module
    that holds the interpreter lock for longer makes its worker look dead."""
    recall_ns: int = 100_000_000
    """How long a native worker may hold a job unstarted while another has nothing to do: less would take back what is
    about to start."""
    asker_grace_ns: int = 1_000_000_000
    """How long a native client may be away before jobs that shall end with it do."""
    askers_per_job_max: int = 100
    """Connections that may wait for the outcome of one job, because each is told."""
    outcomes_max: int = 100_000
    """Outcomes that native clients have not received yet, or asked to be kept; the oldest go first."""
    outcomes_bytes_max: int = 256 * MIB
    """Bytes of their results, because they are kept in memory."""
    outcome_ns: int = 3_600_000_000_000
    """How long an outcome is kept for who asks again, an hour: connections and programs come back within it."""
    unique_ns_max: int = 7 * DAY_NS
    """The longest time after a success in which its unique key is taken."""
    unique_windows_max: int = 100_000
    """Unique keys that are taken after the success of their jobs; the oldest is free early."""
    run_ns_max: int = 7 * DAY_NS
    """The longest run limit, and the ceiling of its extensions: a week. A job that may run for longer has none."""
    retry_ns_max: int = 7 * DAY_NS
    """The longest pause before the next attempt, whatever its worker asks for: a job must not be put off for ever."""
    ahead_ns_max: int = 366 * DAY_NS
    """How far ahead a delay or a deadline may lie, a year: what is to be kept for longer belongs into a calendar."""
    headers_bytes_max: int = 8 * KIB
    """Bytes of the headers of one job or answer, names and values, because every open job keeps its own."""
    ids_per_message_max: int = 1_000
    """Jobs in one message, because they are admitted in one turn."""
    queues_per_worker_max: int = 100
    """Queues that one native worker may serve, because it has a place in the line of each."""
    queues_max: int = 100_000
    """Queues that are there at a time, because each costs about 2 KiB: those with settings, and those that a job or a
    worker names."""
    error_text_max: int = 1_000
    """Characters of what a worker may say of a failure; the rest is cut off."""

    def __post_init__(self) -> None:
        leasts = dict.fromkeys(("worker_grace_ns", "session_grace_ns", "asker_grace_ns", "recall_ns"), 0)
        leasts |= {"disk_free_bytes_min": 0, "frames_max": FRAMES_LEAST, "body_bytes_max": BODY_BYTES_LEAST}
        for field in self.__struct_fields__:
            value, least = getattr(self, field), leasts.get(field, 1)
            if value is None and field == "handovers_max":
                continue
            if type(value) is not int or value < least:
                why = f": native messages need as many; set {least} or more" if least > 1 else ""
                raise LimitError(f"{field} is {value!r}: it must be a whole number, at least {least}{why}")

    def handovers_of(self, tries: int | None) -> int:
        """The hand-overs that a job with so many tries may lose."""
        if self.handovers_max is not None:
            return self.handovers_max
        return 100 if tries is None else 10 * tries
