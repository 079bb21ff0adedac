"""The client's library: hand jobs to a broker and get one honest answer for each.

`peer` is what both dialects share, without sockets, threads or clock, `peer_native` and `peer2010` are the dialects;
`blocking` is the shell for programs with threads.
"""

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
)
from relet.client.terms import Terms
from relet.client.told import Enqueued, JobStatus, Partial, Progress
from relet.client.waiting import JobFuture

__all__ = [
    "BrokerLost",
    "Client",
    "ClientClosed",
    "ClientError",
    "Enqueued",
    "JobExpired",
    "JobFailed",
    "JobFuture",
    "JobRefused",
    "JobStatus",
    "JobUnknown",
    "Partial",
    "Progress",
    "Terms",
    "UnexpectedAnswer",
]
