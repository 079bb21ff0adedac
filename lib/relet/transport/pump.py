"""Chooses the frame pump: the C one where it was built and proves itself here, else the plain one.

The C pump calls the libzmq that pyzmq has loaded. Its functions are resolved through the handle of pyzmq's own
extension module, so that there is never a second libzmq in the process. Whenever a name does not resolve, a version
differs or a round trip over inproc fails, the plain pump runs and `WHY_PLAIN` says why.
"""

from __future__ import annotations

import ctypes
import importlib
from types import ModuleType
from typing import Any, Final

import zmq

from relet.transport import plain

CYTHON: Final = "cython"
PYTHON: Final = "python"
AUTO: Final = "auto"


class PumpUnavailable(ImportError):
    """The pump that was asked for does not run here; the text says why and what to do."""


def _pyzmq_extension() -> ctypes.CDLL:
    for name in ("zmq.backend.cython._zmq", "zmq.backend.cython.socket"):  # pyzmq >= 26; before
        try:
            file = importlib.import_module(name).__file__
        except ImportError:
            continue
        if file:
            return ctypes.CDLL(file)
    msg = "this pyzmq has no Cython backend"
    raise PumpUnavailable(msg)


def _addresses(names: tuple[str, ...]) -> dict[str, int]:
    """The addresses of libzmq's functions, looked up in pyzmq's extension and what it was linked with (dlsym(3))."""
    extension = _pyzmq_extension()
    version = tuple(ctypes.c_int() for _ in range(3))
    try:
        extension.zmq_version(*map(ctypes.byref, version))
        found = {name: ctypes.cast(getattr(extension, name), ctypes.c_void_p).value for name in names}
    except AttributeError as error:
        msg = f"libzmq's functions do not resolve through pyzmq ({error})"
        raise PumpUnavailable(msg) from None
    if tuple(part.value for part in version) != zmq.zmq_version_info():
        msg = "the libzmq that resolves is not the one that pyzmq uses"
        raise PumpUnavailable(msg)
    return {name: address for name, address in found.items() if address}


def _prove(module: Any) -> None:
    """One small and one large message there and back over inproc, through both classes."""
    with zmq.Context() as context:
        router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        router.linger = dealer.linger = 0
        try:
            router.bind("inproc://proof")
            dealer.connect("inproc://proof")
            near = module.FramePump(dealer, frame_copy_bytes_max=8)
            far = module.RouterPump(router, peers_max=1, frames_max=8, bytes_max=1 << 20, frame_copy_bytes_max=8)
            sent = near.send([(b"way", b"", b"small"), (b"way", b"", (b"l" * 64, b"arge"))])
            heard = far.receive(10)
            back = far.send([(peer, path, b"", body) for peer, path, body in heard])
            answers = [tuple(map(bytes, message)) for message in near.receive(10)]
        finally:
            router.close()
            dealer.close()
    if (sent, back, answers) != (2, [], [(b"way", b"", b"small"), (b"way", b"", b"l" * 64, b"arge")]):
        msg = "the round trip of the C pump failed"
        raise PumpUnavailable(msg)


def _load_cython() -> ModuleType:
    try:
        module = importlib.import_module("relet.transport._pump")
    except ImportError:
        msg = "it was not built: install a C compiler and run `make setup` again"
        raise PumpUnavailable(msg) from None
    module.bind(_addresses(module.FUNCTIONS))
    _prove(module)
    return module


_loaded: dict[str, Any] = {PYTHON: plain}
WHY_PLAIN = ""
"""Why the plain pump runs, where it was not asked for; "" while the C pump runs."""


def implementation(name: str = AUTO) -> tuple[str, Any]:
    """(`"cython"` or `"python"`, the module with `FramePump` and `RouterPump`).

    Raises `PumpUnavailable` where `name` is "cython" and that pump does not run here.
    """
    global WHY_PLAIN  # noqa: PLW0603 - found out once, when the first pump is asked for
    if name not in (CYTHON, PYTHON, AUTO):
        msg = f"there is no pump {name!r}: take {CYTHON!r}, {PYTHON!r} or {AUTO!r}"
        raise ValueError(msg)
    if name != PYTHON and CYTHON not in _loaded:
        try:
            _loaded[CYTHON] = _load_cython()
        except (PumpUnavailable, KeyError, OSError) as error:
            if name == CYTHON:
                msg = f"the C frame pump does not run here: {error}"
                raise PumpUnavailable(msg) from None
            WHY_PLAIN = str(error)
            return PYTHON, plain
    chosen = PYTHON if name == PYTHON else CYTHON
    return chosen, _loaded[chosen]
