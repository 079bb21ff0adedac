"""The worker's library: ask a broker for jobs, do them, say what became of them.

`peer_native` and `peer2010` are the two protocols without sockets, threads or clock; `line_native` and `line2010` hold
their connections; `engine` is the library's thread; `handlers` is what is called for a job, and `pool`, `loop` and
`processes` are where; `children` and `child` are the two sides of a process; `shell` is what workers of both kinds
have, `blocking` the one for programs with threads, `asynchronous` the one for those with a loop.
"""

from relet.worker.asynchronous import AsyncWorker
from relet.worker.blocking import Worker
from relet.worker.errors import QueueUnknown
from relet.worker.handlers import Handler, Handlers, Hook
from relet.worker.job import CurrentJob, current_job
from relet.worker.outcome import Counters, FailJob, HandBack, NoAnswer
from relet.worker.processes import Processes

__all__ = [
    "AsyncWorker",
    "Counters",
    "CurrentJob",
    "FailJob",
    "HandBack",
    "Handler",
    "Handlers",
    "Hook",
    "NoAnswer",
    "Processes",
    "QueueUnknown",
    "Worker",
    "current_job",
]
