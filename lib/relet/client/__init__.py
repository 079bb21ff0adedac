"""The client's library: hand jobs to a broker and get one honest answer for each.

`peer` is the protocol without sockets, threads or clock; `blocking` is the shell for programs with threads.
"""

from relet.client.blocking import Client
from relet.client.errors import BrokerLost, ClientClosed, ClientError, JobFailed, UnexpectedAnswer

__all__ = ["BrokerLost", "Client", "ClientClosed", "ClientError", "JobFailed", "UnexpectedAnswer"]
