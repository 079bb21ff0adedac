"""The client's library: hand jobs to a broker and get one honest answer for each.

`peer` is what both dialects share, without sockets, threads or clock, `peer_native` and `peer2010` are the dialects;
`turns` is what a client does with it, whoever turns it: `blocking` is the shell for programs with threads, with the
thread in `engine`, and `asynchronous` that for event loops, with its callbacks in `looped`. `door` is the door of both.
"""

from relet.client.admin import Admin, BackupInfo, DeadLetter, Explanation, JobInfo, OrderRefused, QueueInfo, Swept
from relet.client.asynchronous import AsyncClient
from relet.client.blocking import Client
from relet.client.errors import (
    BrokerLost,
    ClientClosed,
    ClientError,
    JobExpired,
    JobFailed,
    JobRefused,
    JobUnknown,
    UnexpectedAnswer,
    UnreadableAnswer,
)
from relet.client.terms import Backoff, Terms
from relet.client.told import Enqueued, JobStatus, Partial, Progress
from relet.client.waiting import AsyncJobFuture, JobFuture

__all__ = [
    "Admin",
    "AsyncClient",
    "AsyncJobFuture",
    "Backoff",
    "BackupInfo",
    "BrokerLost",
    "Client",
    "ClientClosed",
    "ClientError",
    "DeadLetter",
    "Enqueued",
    "Explanation",
    "JobExpired",
    "JobFailed",
    "JobFuture",
    "JobInfo",
    "JobRefused",
    "JobStatus",
    "JobUnknown",
    "OrderRefused",
    "Partial",
    "Progress",
    "QueueInfo",
    "Swept",
    "Terms",
    "UnexpectedAnswer",
    "UnreadableAnswer",
]
