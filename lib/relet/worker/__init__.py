"""The worker's library: ask a broker for jobs, do them, say what became of them.

`peer_native` and `peer2010` are the two protocols without sockets, threads or clock; `line_native` and `line2010` hold
their connections; `engine` is the library's thread; `blocking` the shell for programs with threads.
"""

from relet.worker.blocking import Worker
from relet.worker.errors import QueueUnknown
from relet.worker.job import CurrentJob, current_job
from relet.worker.outcome import Counters, FailJob, HandBack, NoAnswer

__all__ = ["Counters", "CurrentJob", "FailJob", "HandBack", "NoAnswer", "QueueUnknown", "Worker", "current_job"]
