"""`relet.Admin` against a real broker in a thread, on real sockets."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import zmq

from relet import (
    Admin,
    Backoff,
    Broker,
    Client,
    EndpointError,
    JobFailed,
    JobRefused,
    OrderRefused,
    SettingsError,
    Terms,
    Worker,
    current_job,
)
from relet.client import ClientClosed, UnreadableAnswer
from relet.dialects import native
from relet.messages import SIGNATURE, Heartbeat
from relet.orders import ListQueues, QueuesTold

LIMIT_S = 20.0


@pytest.fixture
def broker() -> Iterator[Broker]:
    """With an administrators' endpoint."""
    with Broker(":0", ":0", ":0", admin=":0", drain=0.0, tries=2) as broker:
        yield broker


@pytest.fixture
def admin(broker: Broker) -> Iterator[Admin]:
    """Of that broker."""
    with Admin(broker.endpoints["admin"], timeout=LIMIT_S, by="ada") as admin:
        yield admin


def test_queues_pauses_and_settings(broker: Broker, admin: Admin) -> None:
    """Said in the words of a configuration file, told in them; clients meet what was set."""
    assert [(queue.name, queue.settings) for queue in admin.queues()] == [("default", None)]
    info = admin.set_queue("mail", {"run": "2500ms", "jobs_max": 1, "backoff": Backoff(base=1, cap=2)})
    assert info.settings["backoff"] == {"curve": "exponential", "base": 1, "cap": 2, "jitter": False}
    with pytest.raises(SettingsError, match=r"settings are given as a mapping of words to values, not \[\]"):
        admin.set_queue("mail", [])
    info = admin.set_queue("mail", {"run": 2.5, "jobs_max": 1})
    assert (info.name, info.settings, info.jobs) == ("mail", {"run": 2.5, "jobs_max": 1}, 0)
    with Client(broker.endpoints["clients"], timeout=LIMIT_S) as client:
        client.enqueue(b"1", terms=Terms(queue="mail"))
        with pytest.raises(JobRefused, match="queue_full"):
            client.enqueue(b"2", terms=Terms(queue="mail"))
        info = admin.pause("mail", "intake")
        assert (info.paused, info.intake_by, info.dispatch_by, info.waiting) == ("intake", "ada", "", 1)
        with pytest.raises(JobRefused, match="paused by ada"):
            client.enqueue(b"2", terms=Terms(queue="mail"))
        info = admin.pause("mail", "dispatch", by="eve")
        assert (info.paused, info.intake_by, info.dispatch_by) == ("both", "ada", "eve")
        info = admin.resume("mail", "intake")
        assert (info.paused, info.intake_by, info.dispatch_by) == ("dispatch", "", "eve")
        assert admin.set_queue("mail", {"paused": ""}).paused == ""
        assert admin.set_queue("mail", None).settings is None
        client.enqueue(b"2", terms=Terms(queue="mail"))
    assert [(queue.name, queue.jobs) for queue in admin.queues()] == [("default", 0), ("mail", 2)]


def test_who_pauses_is_the_user_unless_somebody_else_is_named(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name; by number where that has none; never longer than a broker takes it, nor what cannot be sent."""
    users = ((lambda: "ada", "ada"), (lambda: "x" * 300, "x" * 200), (lambda: "a\udcff", "a?"), (nobody, "uid 7"))
    for user, by in users:
        monkeypatch.setattr("getpass.getuser", user)
        monkeypatch.setattr("os.getuid", lambda: 7)
        with Admin(broker.endpoints["admin"], timeout=LIMIT_S) as admin:
            assert admin.pause("mail").intake_by == by


def nobody() -> str:
    """As `getpass.getuser` where the number of the user has no name."""
    raise KeyError("getpwuid(): uid not found: 7")


def test_one_queue(admin: Admin) -> None:
    """As it is in the list."""
    admin.pause("mail")
    assert admin.queue("mail") == list(admin.queues())[1]
    with pytest.raises(OrderRefused, match="unknown_queue: there is no queue 'male'"):
        admin.queue("male")


def test_more_queues_than_a_page(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is told once, by name."""
    monkeypatch.setattr("relet.client.admin.PAGE", 3)
    for number in range(7):
        admin.set_queue(f"q{number}", {})
    assert [queue.name for queue in admin.queues()] == ["default", *(f"q{number}" for number in range(7))]


def test_jobs_are_shown_explained_and_cancelled(broker: Broker, admin: Admin) -> None:
    """By the id of the job or of the request; who waits for it is told."""
    before = time.time()
    with Client(broker.endpoints["clients"], timeout=LIMIT_S) as client:
        ticket = client.enqueue(b"1")
        shown = admin.job(ticket.job_id)
        assert (shown.job_id, shown.request_id, shown.state) == (ticket.job_id, ticket.request_id, "available")
        assert (shown.queue, shown.tries, shown.body_bytes, shown.began, shown.ended) == ("default", 2, 1, None, None)
        assert shown.accepted is not None
        assert before - 1 < shown.accepted < time.time() + 1
        why = admin.why(request_id=ticket.request_id)
        assert (why.job_id, why.state, why.code) == (ticket.job_id, "available", "no_worker")
        assert why.text == "no worker asks for a job of the queue 'default'; 0 jobs are before it"
        for status in (client.why(ticket.request_id), client.why(job_id=ticket.job_id)):
            assert (status.state, status.code, status.text) == ("available", why.code, why.text)
        assert client.state(ticket.request_id).code == ""
        assert client.why(b"u" * 16).state == "unknown"
        waiting = client.submit(b"2", request_id=b"r" * 16)
        ended = wait_for(lambda: admin.cancel(request_id=b"r" * 16))
        assert (ended.state, ended.reason) == ("cancelled", "cancelled")
        with pytest.raises(JobFailed) as failed:
            waiting.result(LIMIT_S)
        assert (failed.value.state, failed.value.reason) == ("cancelled", "cancelled")


def wait_for(order: Any) -> Any:
    """What an order returns once the job is there of which it speaks."""
    limit = time.monotonic() + LIMIT_S
    while True:
        try:
            return order()
        except OrderRefused:
            if time.monotonic() > limit:
                raise


def test_a_worker_is_told_to_stop_by_a_cancel(broker: Broker, admin: Admin) -> None:
    """The job that it does is shown as its own, and ends under its hands."""
    began, cancelled, ended = threading.Event(), threading.Event(), threading.Event()

    def handler(_: bytes) -> bytes:
        job, limit = current_job(), time.monotonic() + LIMIT_S
        began.set()
        while not job.cancelled and time.monotonic() < limit:
            ended.wait(0.005)
        if job.cancelled:
            cancelled.set()
        return b""

    worker = Worker(broker.endpoints["workers"], handler=handler)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        with Client(broker.endpoints["clients"], timeout=LIMIT_S) as client:
            future = client.submit(b"1", request_id=b"r" * 16)
            assert began.wait(LIMIT_S)
            shown = admin.job(request_id=b"r" * 16)
            assert shown.state in ("held", "running")
            assert shown.worker
            assert admin.why(request_id=b"r" * 16).code in (shown.state, "running")  # it may start meanwhile
            admin.cancel(request_id=b"r" * 16)
            with pytest.raises(JobFailed):
                future.result(LIMIT_S)
            assert cancelled.wait(LIMIT_S)
    finally:
        worker.stop()
        thread.join(LIMIT_S)


def test_what_cannot_be_is_refused_here_or_there(admin: Admin) -> None:
    """Before it is sent where that can be known."""
    with pytest.raises(SettingsError, match="did you mean 'jobs_max'"):
        admin.set_queue("mail", {"jobs_mx": 3})
    with pytest.raises(OrderRefused) as refused:
        admin.set_queue("mail", {"run": 10**8})
    assert refused.value.code == "bad_request"
    assert repr(pickle.loads(pickle.dumps(refused.value))) == repr(refused.value)  # noqa: S301 - our own
    with pytest.raises(OrderRefused, match="unknown_queue"):
        admin.resume("mail")
    with pytest.raises(OrderRefused, match="unknown_job"):
        admin.job(b"j" * 16)
    with pytest.raises(OrderRefused, match="bad_header"):
        admin.pause("")
    with pytest.raises(ValueError, match="say which job"):
        admin.why()
    with pytest.raises(ValueError, match="say which job"):
        admin.why(b"j" * 16, request_id=b"r" * 16)
    with pytest.raises(TypeError, match="an id is bytes"):
        admin.why("j")  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [0, -1, "2", None, True, float("nan")])
def test_an_admin_that_cannot_be_is_not_made(timeout: Any) -> None:
    """By the name of what is wrong."""
    with pytest.raises(ValueError, match="timeout is a number of seconds above 0"):
        Admin(":1", timeout=timeout)
    with pytest.raises(TypeError, match="endpoint is an endpoint as text"):
        Admin(4164)  # type: ignore[arg-type]
    with pytest.raises(EndpointError):
        Admin("tcp://*:4164")


def test_nobody_there_and_nobody_who_answers() -> None:
    """`TimeoutError` says which; nothing is kept for whoever comes later."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as deaf:
        deaf.linger = 0
        port = deaf.bind_to_random_port("tcp://127.0.0.1")
        with Admin(f":{port}", timeout=0.2) as admin, pytest.raises(TimeoutError, match="no answer from"):
            list(admin.queues())
    with Admin(f":{port}", timeout=0.1) as admin, pytest.raises(TimeoutError, match="no broker at"):
        list(admin.queues())
    with pytest.raises(ClientClosed):
        list(admin.queues())


def test_answers_of_another_order_are_not_taken_for_this_one() -> None:
    """One that came too late, nonsense, and what another time will say."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as other:
        other.linger = 0
        port = other.bind_to_random_port("tcp://127.0.0.1")

        def answers() -> None:
            peer, _, header = other.recv_multipart()
            order = native.from_admin(1, header)
            for frames in (
                [b"what"],
                [SIGNATURE, b"\xc1"],
                [SIGNATURE, native.encode(Heartbeat())],
                [SIGNATURE, native.encode(QueuesTold(id=os.urandom(8), more=True))],
                [SIGNATURE, native.encode(QueuesTold(id=order.id))],
            ):
                other.send_multipart([peer, *frames])

        thread = threading.Thread(target=answers, daemon=True)
        thread.start()
        with Admin(f":{port}", timeout=LIMIT_S) as admin:
            assert admin.call(ListQueues(), QueuesTold).queues == ()
        thread.join(LIMIT_S)


def test_nothing_said_of_a_pause_is_none(admin: Admin) -> None:
    """And nothing said of another setting leaves it out; what is told of it can be read by everybody."""
    admin.pause("mail")
    told = admin.set_queue("mail", {"paused": None, "run": None, "backoff": None, "tries": 3})
    assert (told.paused, told.intake_by, told.dispatch_by, told.settings) == ("", "", "", {"tries": 3})
    assert [queue.paused for queue in admin.queues()] == ["", ""]


def test_an_answer_that_cannot_be_read_is_said_to_be_so() -> None:
    """At once: it is no broker that does not answer."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as other:
        other.linger = 0
        port = other.bind_to_random_port("tcp://127.0.0.1")

        def answers() -> None:
            peer, _, header = other.recv_multipart()
            told = {"t": "queues", "id": native.from_admin(1, header).id, "queues": [{"name": None}]}
            other.send_multipart([peer, SIGNATURE, msgspec.msgpack.encode(told)])

        thread = threading.Thread(target=answers, daemon=True)
        thread.start()
        with Admin(f":{port}", timeout=LIMIT_S) as admin, pytest.raises(UnreadableAnswer, match=r"queues.*name"):
            list(admin.queues())
        thread.join(LIMIT_S)


@pytest.mark.parametrize("role", ["clients", "workers"])
def test_an_endpoint_of_others_says_that_it_is_one(broker: Broker, role: str) -> None:
    """`wrong_endpoint`, as they hear it at this one; no order is carried out there, and nobody waits in vain."""
    with Admin(broker.endpoints[role], timeout=LIMIT_S) as admin:
        for order in (lambda: list(admin.queues()), lambda: admin.cancel(b"j" * 16), lambda: admin.pause("mail")):
            with pytest.raises(EndpointError, match=r"no endpoint for administrators.*--admin"):
                order()
    with pytest.raises(EndpointError, match="connect clients to the endpoint for clients"):
        Client(broker.endpoints["admin"], timeout=LIMIT_S).call(b"1")
    with pytest.raises(EndpointError, match="workers to that for workers"):
        Worker(broker.endpoints["admin"], handler=bytes).run()


def test_several_threads_share_one(admin: Admin) -> None:
    """Each has its own answers."""
    wrong: list[str] = []

    def orders(number: int) -> None:
        for _ in range(20):
            name = admin.set_queue(f"q{number}", {}).name
            if name != f"q{number}":
                wrong.append(name)

    threads = [threading.Thread(target=orders, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert wrong == []
    assert len(list(admin.queues())) == 5
