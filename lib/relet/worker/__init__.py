"""The worker's library: ask a broker for jobs, do them, answer.

`peer` is the protocol without sockets, threads or clock; `blocking` the shell for programs with threads.
"""

from relet.worker.blocking import Worker
from relet.worker.peer import NoAnswer

__all__ = ["NoAnswer", "Worker"]
