"""The reference: names and parameters are those that AgentZero's users know, and docs/sockets.md shows them all."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import relet
from relet import sockets
from relet.sockets import SocketManager

from .conftest import LIMIT_S

DOCUMENT = (Path(__file__).parents[2] / "docs" / "sockets.md").read_text()
KNOWN = """
SocketManager(zmq, context, serialization_backend=None, polling_timeout=10000, timeout=10)
create(name, socket_type)
get_by_name(name)
get_or_create(name, socket_type, polling_mechanism)
register_socket(socket, polling_mechanism)
bind(socket_name, address, polling_mechanism)
ensure_and_bind(socket_name, socket_type, address, polling_mechanism)
bind_to_random_port(socket_name, polling_mechanism, local_address='tcp://0.0.0.0')
connect(socket_name, address, polling_mechanism)
ensure_and_connect(socket_name, socket_type, address, polling_mechanism)
engage(timeout=None)
send_safe(name, data
recv_safe(name
recv_event_safe(name, topic=False
subscribe(name, topic=None, keep_polling=None
set_socket_option(name, option, value)
set_topic(name, topic)
publish_safe(name, topic, data
ready(name, polling_mechanism, timeout=None)
wait_until_ready(name, polling_mechanism, timeout=None, polling_timeout=None)
get_log_handler(socket_name, topic_name='logs')
get_logger(socket_name, topic_name='logs', logger_name=None)
close(socket_name)
"""
PROGRAM = """
import logging
import zmq
from relet.sockets import (
    JSON, BaseSerializer, Event, SocketError, SocketManager, SocketNotFound, UnreadableMessage, ZMQPubHandler,
    fix_zeromq_tcp_address, get_free_tcp_port,
)

class Text(BaseSerializer):
    def pack(self, data: object) -> bytes:
        return str(data).encode()

    def unpack(self, packed: bytes) -> str:
        return packed.decode()

with SocketManager(zmq, zmq.Context(), Text(), polling_timeout=500, timeout=2.5) as sockets:
    made: zmq.Socket[bytes] = sockets.get_or_create("in", zmq.PULL, zmq.POLLIN | zmq.POLLOUT)
    bound, address = sockets.bind_to_random_port("in", zmq.POLLIN, local_address="tcp://127.0.0.1")
    assert made is bound
    sockets.ensure_and_connect("out", zmq.PUSH, fix_zeromq_tcp_address(address), zmq.POLLOUT)
    sockets.set_socket_option("out", zmq.LINGER, 0)
    flags: dict[zmq.Socket[bytes], int] = sockets.engage(0)
    if sockets.send_safe("out", {"a": get_free_tcp_port()}, 0.5, polling_timeout=100):
        print(sockets.recv_safe("in", timeout=1), flags.get(bound, 0) & zmq.POLLIN)
    event: Event | None = sockets.recv_event_safe("in", timeout=0)
    if event is not None:
        print(event.topic.upper(), event.data)
    for topic, data in sockets.subscribe("in", keep_polling=lambda: False):
        print(topic.upper(), data)
    handler: ZMQPubHandler = sockets.get_log_handler("out", "logs")
    logger: logging.Logger = sockets.get_logger("out", logger_name=__name__)
    logger.removeHandler(handler)
    waited = sockets.wait_until_ready("in", zmq.POLLIN, 0)
    try:
        sockets.disconnect("nobody").close()
    except SocketNotFound as error:
        print(error.socket_name)
    except (UnreadableMessage, SocketError) as error:
        print(error)
    if waited is not None:
        print(waited.recv())
"""


def signature(name: str) -> str:
    """As a call would be written, without types."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(getattr(SocketManager, name, SocketManager)).parameters.values()
        if parameter.name != "self"
    ]
    text = ", ".join(map(str, parameters))
    return f"{name}({text})"


@pytest.mark.parametrize("known", KNOWN.split("\n")[1:-1])
def test_methods_take_what_their_users_know(known: str) -> None:
    """In that order and with these defaults; what is more comes behind."""
    assert signature(known.partition("(")[0]).startswith(known)


def test_the_document_shows_every_method_as_it_is() -> None:
    """With its parameters and defaults."""
    document = DOCUMENT.replace('"', "'")
    methods = [name for name, _ in inspect.getmembers(SocketManager, inspect.isfunction) if not name.startswith("_")]
    missing = [it for it in map(signature, ["SocketManager", *methods]) if f"`{it}`" not in document]
    assert not missing, f"docs/sockets.md does not show {missing}"


def test_the_document_names_everything_that_is_public() -> None:
    """So that nothing has to be looked for in the code."""
    missing = [name for name in sockets.__all__ if not re.search(rf"\b{name}\b", DOCUMENT)]
    assert not missing, f"docs/sockets.md does not name {missing}"


def test_the_program_of_the_document_runs() -> None:
    """As it stands there."""
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S * 3, check=False, env=surroundings())
    assert (ran.returncode, ran.stderr) == (0, "")


def surroundings() -> dict[str, str]:
    """The environment of a child that finds relet."""
    return {**os.environ, "PYTHONPATH": str(Path(relet.__file__).parent.parent)}


def test_the_rest_of_relet_does_without(tmp_path: Path) -> None:
    """The broker, the libraries and the programs do not load the room: their messages do not go through it."""
    program = "import sys, relet, relet.cli.broker; [getattr(relet, name) for name in relet.__all__];"
    program += "sys.exit('relet.sockets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=surroundings(), check=False).returncode == 0


def test_users_programs_are_typed(tmp_path: Path) -> None:
    """What a manager takes and gives passes the strictest check."""
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    options = ["--strict", "--no-error-summary", "--follow-imports=silent", f"--cache-dir={tmp_path}"]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(program)],
        capture_output=True,
        text=True,
        env={"MYPYPATH": str(Path(relet.__file__).parent.parent)},
        check=False,
    )
    assert checked.stdout + checked.stderr == ""
