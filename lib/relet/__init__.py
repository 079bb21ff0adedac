"""relet: a pull-based, reliable, retrying job broker on ZeroMQ.

These are the public names; everything else may change between versions. They are imported when first used, so that a
program that prints its help does not load ZeroMQ.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from relet import compiled
from relet._version import __version__

if TYPE_CHECKING:
    from relet.broker import Broker
    from relet.client import (
        Admin,
        AsyncClient,
        AsyncJobFuture,
        Backoff,
        BackupInfo,
        BrokerLost,
        Client,
        ClientClosed,
        ClientError,
        DeadLetter,
        Enqueued,
        Explanation,
        JobExpired,
        JobFailed,
        JobFuture,
        JobInfo,
        JobRefused,
        JobStatus,
        JobUnknown,
        OrderRefused,
        Partial,
        Progress,
        QueueInfo,
        Swept,
        Terms,
        UnexpectedAnswer,
        UnreadableAnswer,
    )
    from relet.core.effects import Counters
    from relet.core.limits import LimitError, Limits
    from relet.core.settings import SettingsError
    from relet.events import Event
    from relet.messages import Entry
    from relet.tasks import Tasks
    from relet.transport.attach import BindError
    from relet.transport.endpoints import EndpointError
    from relet.transport.pump import PumpUnavailable
    from relet.worker import (
        AsyncWorker,
        CurrentJob,
        FailJob,
        HandBack,
        NoAnswer,
        Processes,
        QueueUnknown,
        Worker,
        current_job,
    )

__all__ = [
    "Admin",
    "AsyncClient",
    "AsyncJobFuture",
    "AsyncWorker",
    "Backoff",
    "BackupInfo",
    "BindError",
    "Broker",
    "BrokerLost",
    "Client",
    "ClientClosed",
    "ClientError",
    "Counters",
    "CurrentJob",
    "DeadLetter",
    "EndpointError",
    "Enqueued",
    "Entry",
    "Event",
    "Explanation",
    "FailJob",
    "HandBack",
    "JobExpired",
    "JobFailed",
    "JobFuture",
    "JobInfo",
    "JobRefused",
    "JobStatus",
    "JobUnknown",
    "LimitError",
    "Limits",
    "NoAnswer",
    "OrderRefused",
    "Partial",
    "Processes",
    "Progress",
    "PumpUnavailable",
    "QueueInfo",
    "QueueUnknown",
    "SettingsError",
    "Swept",
    "Tasks",
    "Terms",
    "UnexpectedAnswer",
    "UnreadableAnswer",
    "Worker",
    "__version__",
    "current_job",
]

compiled.choose(__path__)

_WHERE: Final = {
    "Admin": "relet.client",
    "AsyncClient": "relet.client",
    "AsyncJobFuture": "relet.client",
    "AsyncWorker": "relet.worker",
    "Backoff": "relet.client",
    "BindError": "relet.transport.attach",
    "Broker": "relet.broker",
    "BrokerLost": "relet.client",
    "Client": "relet.client",
    "ClientClosed": "relet.client",
    "ClientError": "relet.client",
    "Counters": "relet.core.effects",
    "CurrentJob": "relet.worker",
    "EndpointError": "relet.transport.endpoints",
    "DeadLetter": "relet.client",
    "Enqueued": "relet.client",
    "Entry": "relet.messages",
    "Event": "relet.events",
    "Explanation": "relet.client",
    "FailJob": "relet.worker",
    "HandBack": "relet.worker",
    "JobExpired": "relet.client",
    "JobFailed": "relet.client",
    "JobFuture": "relet.client",
    "JobInfo": "relet.client",
    "JobRefused": "relet.client",
    "JobStatus": "relet.client",
    "JobUnknown": "relet.client",
    "LimitError": "relet.core.limits",
    "Limits": "relet.core.limits",
    "NoAnswer": "relet.worker",
    "OrderRefused": "relet.client",
    "Partial": "relet.client",
    "Processes": "relet.worker",
    "Progress": "relet.client",
    "PumpUnavailable": "relet.transport.pump",
    "QueueInfo": "relet.client",
    "QueueUnknown": "relet.worker",
    "SettingsError": "relet.core.settings",
    "BackupInfo": "relet.client",
    "Swept": "relet.client",
    "Tasks": "relet.tasks",
    "Terms": "relet.client",
    "UnexpectedAnswer": "relet.client",
    "UnreadableAnswer": "relet.client",
    "Worker": "relet.worker",
    "current_job": "relet.worker",
}


def __getattr__(name: str) -> Any:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'relet' has no attribute {name!r}")
    value = getattr(importlib.import_module(where), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
