# cython: language_level=3, boundscheck=False, initializedcheck=False
"""The frame pump in C: whole batches of multipart messages in one call.

Most of a Python broker's time is the price of a call into pyzmq for every frame. Here a batch is one call: the loop over
messages and frames runs in C against the very libzmq that pyzmq has loaded. No headers are needed and no second libzmq
is linked: `bind` receives the addresses of the few functions used, resolved through pyzmq's own extension module.

The same classes stand in plain Python in `plain.py`; both pass the same tests. Three rules keep this file safe:
a batch is checked before its first frame is sent, because an error between two frames would glue the rest to the next
message; `more` is read before a message is moved; the socket is asked on every call whether it is still open, because a
raw handle outlives its socket.
"""

import errno as _errno

import zmq

from relet.messages import (
    DEFAULT_QUEUE, GONE_MAX, MAGIC, NO_DESCRIPTOR, TOO_LARGE, TOO_MANY_PEERS, UNDELIMITED, VERSION, Peer, Refused,
)

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.dict cimport PyDict_GetItem
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uintptr_t
from libc.string cimport memcmp, memcpy

cdef extern from "errno.h" nogil:
    int EAGAIN
    int EHOSTUNREACH
    int EINTR

cdef enum:
    ZMQ_DONTWAIT = 1
    ZMQ_SNDMORE = 2
    ZMQ_SRCFD = 2

ctypedef struct zmq_msg_t:
    unsigned long long words[8]    # 64 bytes, aligned to 8 (zmq.h)

ctypedef int (*fn_msg)(zmq_msg_t *) noexcept nogil
ctypedef int (*fn_msg_recv)(zmq_msg_t *, void *, int) noexcept nogil
ctypedef int (*fn_msg_send)(zmq_msg_t *, void *, int) noexcept nogil
ctypedef void *(*fn_msg_data)(zmq_msg_t *) noexcept nogil
ctypedef size_t (*fn_msg_size)(zmq_msg_t *) noexcept nogil
ctypedef int (*fn_msg_two)(zmq_msg_t *, zmq_msg_t *) noexcept nogil
ctypedef int (*fn_msg_get)(zmq_msg_t *, int) noexcept nogil
ctypedef const char *(*fn_msg_gets)(zmq_msg_t *, const char *) noexcept nogil
ctypedef int (*fn_send)(void *, const void *, size_t, int) noexcept nogil
ctypedef int (*fn_errno)() noexcept nogil

cdef fn_msg msg_init = NULL
cdef fn_msg msg_close = NULL
cdef fn_msg msg_more = NULL
cdef fn_msg_recv msg_recv = NULL
cdef fn_msg_send msg_send = NULL
cdef fn_msg_data msg_data = NULL
cdef fn_msg_size msg_size = NULL
cdef fn_msg_two msg_move = NULL
cdef fn_msg_two msg_copy = NULL
cdef fn_msg_get msg_get = NULL
cdef fn_msg_gets msg_gets = NULL
cdef fn_send raw_send = NULL
cdef fn_errno raw_errno = NULL

FUNCTIONS = (
    "zmq_msg_init", "zmq_msg_close", "zmq_msg_more", "zmq_msg_recv", "zmq_msg_send", "zmq_msg_data", "zmq_msg_size",
    "zmq_msg_move", "zmq_msg_copy", "zmq_msg_get", "zmq_msg_gets", "zmq_send", "zmq_errno",
)


def bind(addresses):
    """Takes the addresses of `FUNCTIONS`, by name, in the libzmq that pyzmq has loaded."""
    global msg_init, msg_close, msg_more, msg_recv, msg_send, msg_data, msg_size, msg_move, msg_copy, msg_get
    global msg_gets, raw_send, raw_errno
    msg_init = <fn_msg><uintptr_t>addresses["zmq_msg_init"]
    msg_close = <fn_msg><uintptr_t>addresses["zmq_msg_close"]
    msg_more = <fn_msg><uintptr_t>addresses["zmq_msg_more"]
    msg_recv = <fn_msg_recv><uintptr_t>addresses["zmq_msg_recv"]
    msg_send = <fn_msg_send><uintptr_t>addresses["zmq_msg_send"]
    msg_data = <fn_msg_data><uintptr_t>addresses["zmq_msg_data"]
    msg_size = <fn_msg_size><uintptr_t>addresses["zmq_msg_size"]
    msg_move = <fn_msg_two><uintptr_t>addresses["zmq_msg_move"]
    msg_copy = <fn_msg_two><uintptr_t>addresses["zmq_msg_copy"]
    msg_get = <fn_msg_get><uintptr_t>addresses["zmq_msg_get"]
    msg_gets = <fn_msg_gets><uintptr_t>addresses["zmq_msg_gets"]
    raw_send = <fn_send><uintptr_t>addresses["zmq_send"]
    raw_errno = <fn_errno><uintptr_t>addresses["zmq_errno"]


cdef class LargeFrame:
    """A received frame that stays in libzmq's memory; sending it again shares that memory."""

    cdef zmq_msg_t message

    def __cinit__(self):
        msg_init(&self.message)

    def __dealloc__(self):
        msg_close(&self.message)

    def __len__(self):
        return <Py_ssize_t>msg_size(&self.message)

    def __bytes__(self):
        return PyBytes_FromStringAndSize(<char *>msg_data(&self.message), <Py_ssize_t>msg_size(&self.message))

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, msg_data(&self.message), <Py_ssize_t>msg_size(&self.message), 1, flags)

    def __eq__(self, other):
        return isinstance(other, (bytes, LargeFrame)) and memoryview(self) == memoryview(other)

    def __hash__(self):
        return hash(bytes(self))

    def __repr__(self):
        return f"<LargeFrame of {len(self)} bytes>"


cdef inline int receive_frame(zmq_msg_t *message, void *handle, int flags) noexcept:
    """0, or the errno. A signal may interrupt libzmq at any frame; half a message is no place to stop."""
    cdef int code
    while msg_recv(message, handle, flags) < 0:
        code = raw_errno()
        if code != EINTR:
            return code
    return 0


cdef inline object frame_of(zmq_msg_t *message, size_t copy_max):
    """The frame as bytes, or as a LargeFrame that takes the message over."""
    cdef size_t size = msg_size(message)
    cdef LargeFrame large
    if size < copy_max:
        return PyBytes_FromStringAndSize(<char *>msg_data(message), <Py_ssize_t>size)
    large = LargeFrame.__new__(LargeFrame)
    msg_move(&large.message, message)
    return large


cdef inline int check_frame(object frame) except -1:
    if type(frame) is not bytes and type(frame) is not LargeFrame:
        raise TypeError(f"a frame must be bytes or a frame that was received, not {type(frame).__name__}")
    return 0


cdef int check_frames(tuple frames, Py_ssize_t start) except -1:
    """Every item is a frame or a tuple of frames, and there is at least one frame."""
    cdef Py_ssize_t i, j, count = 0
    cdef object item
    for i in range(start, PyTuple_GET_SIZE(frames)):
        item = <object>PyTuple_GET_ITEM(frames, i)
        if type(item) is tuple:
            for j in range(PyTuple_GET_SIZE(item)):
                check_frame(<object>PyTuple_GET_ITEM(item, j))
                count += 1
        else:
            check_frame(item)
            count += 1
    if count == 0:
        raise ValueError("a message needs at least one frame")
    return 0


cdef inline int send_frame(void *handle, object frame, int flags) noexcept:
    """0, or the errno. `frame` has been checked."""
    cdef zmq_msg_t message
    cdef int code
    if type(frame) is bytes:
        return send_bytes(handle, PyBytes_AS_STRING(frame), <size_t>PyBytes_GET_SIZE(frame), flags)
    msg_init(&message)
    msg_copy(&message, &(<LargeFrame>frame).message)
    while msg_send(&message, handle, flags | ZMQ_DONTWAIT) < 0:
        code = raw_errno()
        if code != EINTR:
            msg_close(&message)
            return code
    return 0


cdef inline int send_bytes(void *handle, const void *data, size_t size, int flags) noexcept:
    """0, or the errno; tried again where a signal interrupted it."""
    cdef int code
    while raw_send(handle, data, size, flags | ZMQ_DONTWAIT) < 0:
        code = raw_errno()
        if code != EINTR:
            return code
    return 0


cdef int send_frames(void *handle, tuple frames, Py_ssize_t start) noexcept:
    """Sends the frames from `start` on, tuples within flattened; 0 or the errno of the first that failed."""
    cdef Py_ssize_t i, j, inner, last = PyTuple_GET_SIZE(frames) - 1
    cdef object item
    cdef int code
    # An empty tuple at the end means that the frame before it is the last one.
    while last > start and type(<object>PyTuple_GET_ITEM(frames, last)) is tuple \
            and PyTuple_GET_SIZE(<object>PyTuple_GET_ITEM(frames, last)) == 0:
        last -= 1
    for i in range(start, last + 1):
        item = <object>PyTuple_GET_ITEM(frames, i)
        if type(item) is tuple:
            inner = PyTuple_GET_SIZE(item)
            for j in range(inner):
                code = send_frame(handle, <object>PyTuple_GET_ITEM(item, j),
                                  0 if i == last and j == inner - 1 else ZMQ_SNDMORE)
                if code:
                    return code
        else:
            code = send_frame(handle, item, 0 if i == last else ZMQ_SNDMORE)
            if code:
                return code
    return 0


cdef object failure(int code):
    return zmq.ZMQError(code)


cdef bint is_older(bytes one, bytes other):
    """Both ids were drawn by libzmq, which counts modulo 2**32, and `one` before `other`."""
    if PyBytes_GET_SIZE(one) != 5 or PyBytes_GET_SIZE(other) != 5 or one[0] or other[0]:
        return False
    return 0 < (int.from_bytes(other[1:], "big") - int.from_bytes(one[1:], "big")) % (1 << 32) < 1 << 31


cdef bytes _MAGIC = MAGIC
cdef const char *magic = PyBytes_AS_STRING(_MAGIC)
cdef Py_ssize_t magic_size = PyBytes_GET_SIZE(_MAGIC)


cdef inline int version_of(zmq_msg_t *message, Py_ssize_t size) noexcept:
    """The last byte of a native signature; -1 where the frame is none."""
    cdef const unsigned char *data
    if size != magic_size + 1:
        return -1
    data = <const unsigned char *>msg_data(message)
    return data[magic_size] if memcmp(data, magic, <size_t>magic_size) == 0 else -1


cdef int current_version = VERSION

cdef enum:
    SMALL = 256          # Bytes of a header that may be a plain one.
    COMPLETE = 1
    SUBMIT = 2
    HAS_TYPE = 1         # The fields of a plain header.
    HAS_TOKEN = 2
    HAS_N = 4
    HAS_CREDIT = 8
    HAS_STARTED = 16
    HAS_ID = 32
    HAS_RECEIVED = 64
    HAS_QUEUE = 128
    HAS_FAIR = 256
    DEPTH_MAX = 8        # Of values in values that are stepped over here.
    FORM_HEAD = 10       # Bytes: a map that begins with t: submit.


cdef Py_ssize_t behind(const unsigned char *data, Py_ssize_t at, Py_ssize_t size, int depth) noexcept:
    """Where the value ends that begins at `at`; -1: it is cut, too deep, or of a kind that no header has."""
    cdef unsigned char kind
    cdef Py_ssize_t length = 0, values = 0, wide = 0
    if at >= size or depth > DEPTH_MAX:
        return -1
    kind = data[at]
    at += 1
    if kind <= 0x7F or kind >= 0xE0 or kind == 0xC0 or kind == 0xC2 or kind == 0xC3:
        return at
    if kind <= 0x8F:
        values = 2 * (kind & 0x0F)
    elif kind <= 0x9F:
        values = kind & 0x0F
    elif kind <= 0xBF:
        length = kind & 0x1F
    elif 0xCA <= kind <= 0xD3:
        length = 1 << (kind - 0xCC if 0xCC <= kind <= 0xCF else kind - 0xD0 if kind >= 0xD0 else kind - 0xC8)
    elif kind == 0xC4 or kind == 0xD9 or kind == 0xC5 or kind == 0xDA:
        wide = 1 if kind == 0xC4 or kind == 0xD9 else 2
    elif kind == 0xDC:
        wide = 2
    else:
        return -1
    if size - at < wide:
        return -1
    while wide > 0:
        length = length << 8 | data[at]
        at += 1
        wide -= 1
    if kind == 0xDC:
        values, length = length, 0
    while values > 0 and at >= 0:
        at = behind(data, at, size, depth + 1)
        values -= 1
    return at + length if at >= 0 and size - at >= length else -1


cdef object text_at(const unsigned char *data, Py_ssize_t at, Py_ssize_t end):
    """The short text that is all of data[at:end]; None where that is something else."""
    cdef Py_ssize_t begin = at + 1
    if data[at] == 0xD9:
        begin = at + 2
    elif data[at] & 0xE0 != 0xA0:
        return None
    try:
        return PyUnicode_DecodeUTF8(<const char *>data + begin, end - begin, NULL)
    except UnicodeDecodeError:
        return None


cdef inline bint is_of_one(const unsigned char *key, Py_ssize_t length) noexcept:
    """Whether a field of a request says something that no other says: it belongs to no form."""
    if length == 3:
        return memcmp(key, b"ack", 3) == 0
    if length == 4:
        return memcmp(key, b"jobs", 4) == 0
    if length == 5:
        return memcmp(key, b"order", 5) == 0
    if length == 6:
        return memcmp(key, b"age_ms", 6) == 0 or memcmp(key, b"unique", 6) == 0
    if length == 7:
        return memcmp(key, b"headers", 7) == 0
    if length == 8:
        return memcmp(key, b"delay_ms", 8) == 0
    return length == 13 and memcmp(key, b"not_before_ms", 13) == 0


cdef tuple plain_of(object peer, bytes path, const unsigned char *data, Py_ssize_t size, object body):
    """`PlainCompleted`, `PlainSubmitted` or `FormedSubmitted`; None where the header says anything else, or not in the
    usual way.

    MessagePack as nearly every peer writes these: a fixmap, or a map 16 of as few pairs (msgspec writes one where there
    might have been more), of fixstr keys, each once, bin 8, short texts, and unsigned integers
    (https://github.com/msgpack/msgpack/blob/master/spec.md). What else a `submit` says is gathered unread, as a map of
    its own. Whatever is None here goes to the decoder that knows all.
    """
    cdef Py_ssize_t at = 1, length, pair, pairs, wide, end, form_size = FORM_HEAD
    cdef const unsigned char *key
    cdef int kind = 0, seen = 0, forms = 0, field
    cdef object name = None, queue = DEFAULT_QUEUE, fair = "", text
    cdef unsigned long long value, n = 0, credit = 0, started = 0, received = 0
    cdef unsigned char form[SMALL + FORM_HEAD]
    if size >= 3 and data[0] == 0xDE and data[1] == 0 and data[2] <= 15:
        pairs, at = data[2], 3
    elif size >= 2 and data[0] & 0xF0 == 0x80:
        pairs = data[0] & 0x0F
    else:
        return None
    for pair in range(pairs):
        if at >= size or data[at] & 0xE0 != 0xA0:
            return None
        length = data[at] & 0x1F
        key = data + at + 1
        at += 1 + length
        if at >= size:
            return None
        if length == 1 and key[0] == c"t":
            field = HAS_TYPE
            if data[at] == 0xA8 and size - at > 8 and memcmp(data + at + 1, b"complete", 8) == 0:
                kind = COMPLETE
                at += 9
            elif data[at] == 0xA6 and size - at > 6 and memcmp(data + at + 1, b"submit", 6) == 0:
                kind = SUBMIT
                at += 7
            else:
                return None
        elif (length == 5 and memcmp(key, b"token", 5) == 0) or (length == 2 and memcmp(key, b"id", 2) == 0):
            field = HAS_TOKEN if length == 5 else HAS_ID
            if data[at] != 0xC4 or size - at < 2 or size - at - 2 < data[at + 1]:
                return None
            name = PyBytes_FromStringAndSize(<const char *>data + at + 2, data[at + 1])
            at += 2 + data[at + 1]
        elif not (
            (length == 1 and key[0] == c"n")
            or (length == 6 and memcmp(key, b"credit", 6) == 0)
            or (length == 7 and memcmp(key, b"started", 7) == 0)
            or (length == 8 and memcmp(key, b"received", 8) == 0)
        ):
            end = behind(data, at, size, 0)
            if end < 0 or kind == COMPLETE or is_of_one(key, length):
                return None
            if length == 5 and memcmp(key, b"queue", 5) == 0:
                field = HAS_QUEUE
                queue = text_at(data, at, end)
                if queue is None:
                    return None
            elif length == 4 and memcmp(key, b"fair", 4) == 0:
                field = HAS_FAIR
                fair = text_at(data, at, end)
                if fair is None:
                    return None
            else:
                field = 0
                memcpy(form + form_size, key - 1, <size_t>(end - (key - 1 - data)))
                form_size += end - (key - 1 - data)
                forms += 1
            at = end
        else:
            if data[at] <= 0x7F:
                value = data[at]
                at += 1
            elif 0xCC <= data[at] <= 0xCF:
                wide = 1 << (data[at] - 0xCC)
                if size - at - 1 < wide:
                    return None
                value = 0
                at += 1
                while wide > 0:
                    value = value << 8 | data[at]
                    at += 1
                    wide -= 1
                if value >> 63:
                    return None
            else:
                return None
            if length == 1 and key[0] == c"n":
                field, n = HAS_N, value
            elif length == 6 and memcmp(key, b"credit", 6) == 0:
                field, credit = HAS_CREDIT, value
            elif length == 7 and memcmp(key, b"started", 7) == 0:
                field, started = HAS_STARTED, value
            else:
                field, received = HAS_RECEIVED, value
        if seen & field:
            return None
        seen |= field
    if at != size:
        return None
    if kind == COMPLETE:
        if forms or n == 0 or seen & (HAS_TOKEN | HAS_ID | HAS_RECEIVED | HAS_QUEUE | HAS_FAIR) != HAS_TOKEN:
            return None
        return (peer, path, name, n, credit, started, body)
    if kind != SUBMIT or seen & (HAS_ID | HAS_TOKEN | HAS_N | HAS_CREDIT | HAS_STARTED) != HAS_ID:
        return None
    if not forms and not seen & (HAS_QUEUE | HAS_FAIR):
        return (peer, path, name, received, body)
    form[0] = 0x80 | (forms + 1)
    memcpy(form + 1, b"\xa1t\xa6submit", FORM_HEAD - 1)
    return (peer, path, name, received, queue, fair, PyBytes_FromStringAndSize(<const char *>form, form_size), body)


cdef bytes header_of(bytes header, const unsigned char *small, Py_ssize_t size):
    """The header, which is in `small` where it fits; b"" where there was none."""
    if header is not None:
        return header
    return PyBytes_FromStringAndSize(<const char *>small, size) if size > 0 else b""


cdef bytes pack_path(list hops):
    """The frames of a return path as one value: each frame behind its length, four bytes, big-endian."""
    if hops is None:
        return b""
    return b"".join([len(hop).to_bytes(4, "big") + hop for hop in hops])


cdef class _Pump:
    cdef object socket
    cdef void *handle
    cdef readonly size_t frame_copy_bytes_max

    cdef void *open_handle(self) except NULL:
        if self.socket.closed:
            raise zmq.ZMQError(_errno.ENOTSOCK)
        return self.handle


cdef class FramePump(_Pump):
    """Messages of a socket without routing ids (DEALER, PUSH, PULL): tuples of frames, in and out."""

    def __init__(self, socket, *, size_t frame_copy_bytes_max=16384):
        self.socket = socket
        self.handle = <void *><uintptr_t>socket.underlying
        self.frame_copy_bytes_max = frame_copy_bytes_max

    def receive(self, Py_ssize_t messages_max, Py_ssize_t bytes_max=(1 << 62)):
        """Up to `messages_max` whole messages, each a tuple of frames; stops after `bytes_max` bytes. Never blocks."""
        cdef void *handle = self.open_handle()
        cdef list messages = []
        cdef list frames
        cdef zmq_msg_t message
        cdef Py_ssize_t taken = 0
        cdef int code, more
        msg_init(&message)
        try:
            while len(messages) < messages_max and taken < bytes_max:
                code = receive_frame(&message, handle, ZMQ_DONTWAIT)
                if code == EAGAIN:
                    break
                if code:
                    raise failure(code)
                frames = []
                while True:
                    more = msg_more(&message)
                    taken += <Py_ssize_t>msg_size(&message)
                    frames.append(frame_of(&message, self.frame_copy_bytes_max))
                    if not more:
                        break
                    code = receive_frame(&message, handle, 0)
                    if code:
                        raise failure(code)
                messages.append(tuple(frames))
        finally:
            msg_close(&message)
        return messages

    def send(self, messages):
        """Sends in order until one would block; returns how many went. Never blocks; raises for anything else."""
        cdef void *handle = self.open_handle()
        cdef list batch = [message if type(message) is tuple else tuple(message) for message in messages]
        cdef Py_ssize_t i
        cdef int code
        for i in range(len(batch)):
            check_frames(<tuple>batch[i], 0)
        for i in range(len(batch)):
            code = send_frames(handle, <tuple>batch[i], 0)
            if code == EAGAIN:
                return i
            if code:
                raise failure(code)
        return len(batch)


cdef class RouterPump(_Pump):
    """Messages of a ROUTER: `(peer, path, body)` in, `(peer, path, frame, ...)` out.

    Those of the native dialect gather in `native`, as `(peer, path, version, header, body)`, until somebody takes them.
    The headers that nearly all of them have, it reads itself: a run of such messages is one list (`plain_of`).
    """

    cdef readonly dict peers
    cdef readonly dict descriptors
    cdef readonly dict gone
    cdef readonly list arrived
    cdef readonly list replaced
    cdef readonly list refused
    cdef readonly list native
    cdef readonly Py_ssize_t peers_max
    cdef readonly Py_ssize_t frames_max
    cdef readonly Py_ssize_t bytes_max
    cdef readonly Py_ssize_t path_bytes_max

    def __init__(self, socket, *, Py_ssize_t peers_max, Py_ssize_t frames_max, Py_ssize_t bytes_max,
                 Py_ssize_t path_bytes_max=8192, size_t frame_copy_bytes_max=16384):
        self.socket = socket
        self.handle = <void *><uintptr_t>socket.underlying
        self.frame_copy_bytes_max = frame_copy_bytes_max
        self.peers_max = peers_max
        self.frames_max = frames_max
        self.bytes_max = bytes_max
        self.path_bytes_max = path_bytes_max
        self.peers = {}
        self.descriptors = {}
        self.gone = {}
        self.arrived = []
        self.replaced = []
        self.refused = []
        self.native = []

    cdef object peer_of(self, bytes routing_id, zmq_msg_t *message):
        """The peer behind a routing id; a new one where the connection is new. None when there are too many."""
        cdef PyObject *found = PyDict_GetItem(self.peers, routing_id)
        cdef const char *socket_type
        cdef int descriptor
        # Ids that libzmq draws begin with a zero byte and do not come back while this socket lives. An id that the peer
        # chose may come back on another connection, so there the descriptor is asked for each time.
        if found != NULL and PyBytes_GET_SIZE(routing_id) > 0 and PyBytes_AS_STRING(routing_id)[0] == 0:
            return <object>found
        if routing_id in self.gone:
            return self.gone[routing_id]  # the last words of a connection that is known to have gone
        descriptor = msg_get(message, ZMQ_SRCFD)
        if found != NULL:
            if (<object>found).descriptor == descriptor:
                return <object>found
            self.replaced.append(<object>found)
            self.forget(<object>found)
        elif len(self.peers) >= self.peers_max and not self.make_room():
            return None
        older = None if descriptor == NO_DESCRIPTOR else self.descriptors.get(descriptor)
        if older is not None and is_older(routing_id, older.routing_id):
            return Peer(b"", descriptor)  # the last words of a connection whose descriptor has been given out again
        socket_type = msg_gets(message, b"Socket-Type")
        peer = Peer(routing_id, descriptor, "" if socket_type == NULL else (<bytes>socket_type).decode("latin-1"))
        self.peers[routing_id] = peer
        if descriptor != NO_DESCRIPTOR:
            if older is not None:  # its descriptor was given out again, so its connection is gone
                self.replaced.append(older)
                self.forget(older)
            self.descriptors[descriptor] = peer
        self.arrived.append(peer)
        return peer

    cdef bint make_room(self):
        """Lets the peer go that was heard first, if no monitor would ever tell that it has gone; it can still be sent to."""
        for routing_id, peer in self.peers.items():
            if peer.descriptor == NO_DESCRIPTOR:
                del self.peers[routing_id]
                return True
            break
        return False

    def forget(self, peer):
        """The connection of `peer` is gone. It loses its routing id, so that nothing can be sent to whoever gets that next."""
        if self.peers.get(peer.routing_id) is peer:
            del self.peers[peer.routing_id]
        if self.descriptors.get(peer.descriptor) is peer:
            del self.descriptors[peer.descriptor]
        if peer.routing_id[:1] == b"\0":
            self.gone[peer.routing_id] = peer
            if len(self.gone) > GONE_MAX:
                del self.gone[next(iter(self.gone))]
        peer.routing_id = b""

    def receive(self, Py_ssize_t messages_max, Py_ssize_t bytes_max=(1 << 62)):
        """Up to `messages_max` messages; stops after `bytes_max` bytes. Never blocks.

        Those of the 2010 dialect are returned as `(peer, path, body)`, native ones gather in `native`; both count. What
        cannot be taken - neither delimiter nor signature, too many frames or bytes, too many peers - goes to `refused`,
        without its body.
        """
        cdef void *handle = self.open_handle()
        cdef list messages = []
        cdef zmq_msg_t message
        cdef Py_ssize_t taken = 0, rounds = 0
        cdef int code
        msg_init(&message)
        try:
            while rounds < messages_max and taken < bytes_max:
                code = receive_frame(&message, handle, ZMQ_DONTWAIT)
                if code == EAGAIN:
                    break
                if code:
                    raise failure(code)
                rounds += 1
                taken += self.receive_one(handle, &message, messages)
        finally:
            msg_close(&message)
        return messages

    cdef Py_ssize_t receive_one(self, void *handle, zmq_msg_t *message, list messages) except -1:
        """The rest of a message whose first frame is here: to `messages`, `native` or `refused`. Returns the bytes kept."""
        cdef bytes routing_id = PyBytes_FromStringAndSize(<char *>msg_data(message), <Py_ssize_t>msg_size(message))
        cdef object peer = self.peer_of(routing_id, message)
        cdef object body = None, frame
        cdef bytes path, header = None
        cdef tuple plain = None
        cdef object run
        cdef unsigned char small[SMALL]
        cdef Py_ssize_t header_size = -1
        cdef list frames = None, hops = None
        cdef Py_ssize_t size, taken = 0, count = 0
        cdef int code, version = -1
        cdef int more = msg_more(message)
        cdef bint delimited = False, too_large = False
        while more:
            code = receive_frame(message, handle, 0)
            if code:
                raise failure(code)
            more = msg_more(message)
            size = <Py_ssize_t>msg_size(message)
            count += 1
            if count > self.frames_max:
                too_large = True
            elif not delimited:
                if size == 0:
                    delimited = not too_large  # behind what was skipped, no frame is where it seems to be
                elif not too_large and (version := version_of(message, size)) >= 0:
                    delimited = True
                else:
                    taken += size
                    if taken > self.path_bytes_max:
                        too_large = True
                    elif not too_large:
                        if hops is None:
                            hops = []
                        hops.append(PyBytes_FromStringAndSize(<char *>msg_data(message), size))
            else:
                taken += size
                if taken > self.bytes_max:
                    too_large = True
                elif too_large:
                    pass  # nothing of the rest is kept
                elif version >= 0 and header_size < 0:
                    header_size = size
                    if size <= SMALL:
                        memcpy(small, msg_data(message), <size_t>size)
                    else:
                        header = PyBytes_FromStringAndSize(<char *>msg_data(message), size)
                else:
                    frame = frame_of(message, self.frame_copy_bytes_max)
                    if body is None and not more:
                        body = frame
                    elif frames is None:
                        frames = [frame]
                        body = frames
                    else:
                        frames.append(frame)
        if too_large or not delimited or peer is None:
            self.refused.append(Refused(
                peer=Peer(routing_id) if peer is None else peer,
                path=pack_path(hops) if delimited else None,
                reason=TOO_LARGE if too_large else UNDELIMITED if not delimited else TOO_MANY_PEERS,
                version=max(version, 0),
                header=header_of(header, small, header_size),
            ))
            return max(header_size, 0)
        if body is None:
            body = ()
        elif frames is not None:
            body = tuple(frames)
        path = pack_path(hops)
        if version < 0:
            messages.append((peer, path, body))
        else:
            if version == current_version and 0 < header_size <= SMALL:
                plain = plain_of(peer, path, small, header_size, body)
            if plain is None:
                self.native.append((peer, path, version, header_of(header, small, header_size), body))
                return taken
            run = self.native[-1] if self.native else None
            if type(run) is list and PyTuple_GET_SIZE(<tuple>PyList_GET_ITEM(run, 0)) == PyTuple_GET_SIZE(plain):
                (<list>run).append(plain)
            else:
                self.native.append([plain])
        return taken

    def send(self, messages):
        """Sends each `(peer, path, frame, ...)`; returns `(index, errno)` of those that were not sent. Never blocks.

        EHOSTUNREACH: that connection is gone. EAGAIN: it does not read; then the later messages of the batch to it are
        not tried, so that none overtakes another. A tuple among the frames is flattened.
        """
        cdef void *handle = self.open_handle()
        cdef list batch = messages if type(messages) is list else list(messages)
        cdef list failures = []
        cdef set stuck = None
        cdef tuple message
        cdef bytes routing_id, path
        cdef Py_ssize_t i
        cdef int code
        for i in range(PyList_GET_SIZE(batch)):
            message = <tuple?><object>PyList_GET_ITEM(batch, i)
            if PyTuple_GET_SIZE(message) < 3 or type(message[1]) is not bytes or type(message[0].routing_id) is not bytes:
                raise TypeError("a message is (peer, path, frame, ...)")
            check_frames(message, 2)
        for i in range(PyList_GET_SIZE(batch)):
            message = <tuple><object>PyList_GET_ITEM(batch, i)
            routing_id = (<object>PyTuple_GET_ITEM(message, 0)).routing_id
            if stuck is not None and routing_id in stuck:
                failures.append((i, EAGAIN))
                continue
            code = send_frame(handle, routing_id, ZMQ_SNDMORE)
            if code == 0:
                path = <bytes>PyTuple_GET_ITEM(message, 1)
                if PyBytes_GET_SIZE(path):
                    code = send_path(handle, path)
                if code == 0:
                    code = send_frames(handle, message, 2)
            if code:
                if code != EAGAIN and code != EHOSTUNREACH:
                    raise failure(code)
                failures.append((i, code))
                if code == EAGAIN:
                    if stuck is None:
                        stuck = set()
                    stuck.add(routing_id)
        return failures


cdef int send_path(void *handle, bytes path) noexcept:
    """The frames of a packed path, each as (length, frame). 0 or the errno."""
    cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(path)
    cdef Py_ssize_t at = 0, total = PyBytes_GET_SIZE(path)
    cdef size_t size
    cdef int code
    while at + 4 <= total:
        size = (<size_t>data[at] << 24) | (<size_t>data[at + 1] << 16) | (<size_t>data[at + 2] << 8) | <size_t>data[at + 3]
        at += 4
        if <Py_ssize_t>size > total - at:
            size = <size_t>(total - at)
        code = send_bytes(handle, data + at, size, ZMQ_SNDMORE)
        if code:
            return code
        at += <Py_ssize_t>size
    return 0
