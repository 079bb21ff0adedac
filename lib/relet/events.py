"""The names of everything that relet logs: constant, in the past tense, one enum. They are an interface for who reads
logs.

The broker's own life and its workers are told at info, jobs that end badly and refusals too, but at a bounded rate with
a count of what was held back. Each step of a job is told at debug. A busy and healthy broker writes nothing at info.
"""

from __future__ import annotations

from enum import StrEnum


class Event(StrEnum):
    """What happened. The fields of each stand in its line."""

    # The broker's life (info).
    BROKER_READY = "broker_ready"
    """It is bound and serves. clients, workers, answers, tries, timeout_s, pump, open_to_others (roles that other
    machines can reach: anyone who does may submit and work)"""
    BROKER_DRAINING = "broker_draining"
    """It takes no new jobs and finishes those it has. jobs_open, drain_s"""
    BROKER_STOPPED = "broker_stopped"
    """It has ended. told_of_failure, and every counter that is not 0"""
    BROKER_FAILED = "broker_failed"
    """A fault of ours, or of the store, ended it (critical, with the traceback)."""
    BROKER_STALLED = "broker_stalled"
    """It could not hear for a while; leases were prolonged by as much (warning). stalled_s"""
    BROKER_DEAF_TO_DEATHS = "broker_deaf_to_deaths"
    """This libzmq does not tell the descriptor of a connection: dead workers are found by the timeout alone
    (warning)."""
    INTAKE_PAUSED = "intake_paused"
    """A limit and its reserve are full: clients are not read until there is room (warning). jobs_open, bytes_open"""
    INTAKE_RESUMED = "intake_resumed"
    """There is room again. jobs_open, bytes_open"""

    STORE_UPGRADED = "store_upgraded"
    """The file was of an older format, and has this one's now. store, version_before, version, took_s"""

    DISK_FILLED = "disk_filled"
    """The disk of the store has less room than `disk_free_bytes_min`: new jobs are refused, open ones go on (warning).
    store, free_bytes, free_bytes_min"""
    DISK_CLEARED = "disk_cleared"
    """There is room again: new jobs are taken. store, free_bytes, free_bytes_min"""
    BACKUP_FINISHED = "backup_finished"
    """A copy of the store was made, on an administrator's word. path, bytes, took_s"""
    BACKUP_FAILED = "backup_failed"
    """A copy of the store came to nothing, and nothing is left of it (warning). path, error"""

    # Workers (info, bounded rate).
    WORKER_ARRIVED = "worker_arrived"
    """The first ask on a connection or return path, or a native hello. worker, queues, socket_type, traced (False: the
    loss of this connection cannot be known, only its timeout tells: a peer of ZMTP 2.0 or older, or of this process)"""
    WORKER_LOST = "worker_lost"
    """Its connection has gone. worker, jobs_held"""

    # What peers did wrong, and what was refused (warning, bounded rate).
    REQUEST_REFUSED = "request_refused"
    """A message that can never be a job; answered with failure where it has a return path. reason"""
    ASK_REFUSED = "ask_refused"
    """An ask above a limit, or not an ask at all. reason"""
    ANSWER_REFUSED = "answer_refused"
    """An answer to no open job: a second one, one after the end, or nonsense. count"""
    REPORT_REFUSED = "report_refused"
    """A native worker said something of a job that is not its own, or not any more. worker, reason"""
    MESSAGE_REFUSED = "message_refused"
    """A native message that could not be taken; its sender was told. reason, count"""
    HANDSHAKE_FAILED = "handshake_failed"
    """Connections that did not speak ZMTP, or not in time. role, count"""
    ACCEPT_FAILED = "accept_failed"
    """Connections took the last descriptors that the process may have; the next ones must wait. role, count"""
    REPLY_DROPPED = "reply_dropped"
    """A client does not read and its outbox is full. count, jobs (the first ten)"""
    OUTCOME_FORGOTTEN = "outcome_forgotten"
    """Outcomes had to go before they were received: `outcomes_max` or `outcomes_bytes_max` is reached. count"""
    REPLY_UNROUTABLE = "reply_unroutable"
    """The client is gone; the outcome is kept for inspection (debug). job"""

    # Jobs that end badly (warning, bounded rate).
    JOB_DISCARDED = "job_discarded"
    """Its budget is spent, or it failed for good; the client was told. job, job_id (by which its dead letter is found),
    request (native jobs: the request id, hexadecimal), queue, kind (of the last failure), reason, attempts, causes"""
    BODY_LOST = "body_lost"
    """The body of a job was in the store alone and cannot be read there: a job that was to be handed over is discarded
    (error). job, bytes"""
    ORDER_UNBLOCKED = "order_unblocked"
    """A bound of dead letters took one that blocked its order key, or was to: the key goes on without it. queue, order,
    job, job_id"""

    # What was done with dead letters on somebody's word (info, bounded rate).
    DEAD_LETTERS_REDRIVEN = "dead_letters_redriven"
    """Jobs were made of them. queue ("": of all), count, skipped (had been redriven before), refused, reason (of the
    last refusal)"""
    DEAD_LETTERS_PURGED = "dead_letters_purged"
    """They are not kept any more. queue ("": of all), count"""

    # Each step of a job (debug).
    JOB_ACCEPTED = "job_accepted"
    """job, request (native jobs), queue, bytes, redriven_from (where it was made of a dead letter: the id of that)"""
    JOB_DISPATCHED = "job_dispatched"
    """job, attempt, worker"""
    JOB_STARTED = "job_started"
    """Its worker says so. job, attempt"""
    JOB_UNDELIVERED = "job_undelivered"
    """The hand-over never left; the attempt is given back. job, handovers"""
    ATTEMPT_ENDED = "attempt_ended"
    """Without an answer. job, attempt, cause, error"""
    JOB_FINISHED = "job_finished"
    """The one canonical line of a job. job, request (native jobs), outcome, reason, attempts, wait_s, run_s, bytes"""

    # The libraries. They say `answer_refused` and `request_refused` with a count, too, of what a broker sent and they
    # could not take.
    BROKER_UNREACHABLE = "broker_unreachable"
    """Nobody answers at the endpoint yet; trying on (warning). endpoint"""
    BROKER_CONNECTED = "broker_connected"
    """endpoint"""
    BROKER_LOST = "broker_lost"
    """The connection went; trying to get it back (warning). endpoint"""
    ANSWERED_AGAIN = "answered_again"
    """An outcome of a broker that is younger than its request: the job may have been done before (warning). endpoint,
    text"""
    OUTCOMES_MISSED = "outcomes_missed"
    """The broker dropped outcomes that were not read in time; they are asked for again (warning). endpoint, count"""
    CALLBACK_FAILED = "callback_failed"
    """A callback for partial results or progress raised (error, with the traceback). error"""
    LIBRARY_FAILED = "library_failed"
    """A fault of ours: the library's own thread has ended (error, with the traceback). endpoint"""
    HANDLER_FAILED = "handler_failed"
    """The worker's handler raised; natively the broker is told, else the job is not answered (error, with the
    traceback; natively job, queue, attempt). error"""
    RETRY_SHORTENED = "retry_shortened"
    """A handler wanted a longer pause before the next attempt than the broker gives, which cuts it. asked_s, given_s"""
