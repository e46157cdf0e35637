# cython: boundscheck=False, wraparound=False, cdivision=True
"""WebSocket frames of a server (RFC 6455 section 5): bytes in, whole text messages out; sans-I/O.

    decoder = FrameDecoder(128 * KIB)
    for event in decoder.feed(data):      # bytes (a text message), Ping, Close or FrameError
        ...
    socket.send(text_frame(b"..."))

A client's frames are masked and a server's are not. There are no extensions.
"""

from typing import NamedTuple

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from core.errors import PeerError

cdef extern from "Python.h":
    object PyUnicode_DecodeUTF8(const char *, Py_ssize_t, const char *)

cdef enum:
    _CONTINUATION = 0x0
    _TEXT = 0x1
    _BINARY = 0x2
    _CLOSE = 0x8
    _PING = 0x9
    _PONG = 0xA
    _CONTROL = 0x8
    _FINAL = 0x80
    _RESERVED = 0x70
    _MASKED = 0x80
    _CONTROL_MAXIMUM = 125
    _HEADER_MAXIMUM = 14
    _FIRST_ROOM = 512

cdef uint64_t _NOT_ASCII = 0x8080808080808080

CONTROL_MAXIMUM_BYTES = _CONTROL_MAXIMUM
"""The payload of a ping, pong or close frame (RFC 6455 section 5.5)."""

NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
UNACCEPTABLE = 1003
NO_CODE = 1005
BAD_TEXT = 1007
POLICY_VIOLATION = 1008
TOO_BIG = 1009
INTERNAL_ERROR = 1011
# Close codes of RFC 6455 section 7.4.1 and of its registry at IANA.


class Ping(NamedTuple):
    """To be answered by a pong with the same payload."""

    payload: bytes


class Close(NamedTuple):
    """The peer ends the connection; it sends nothing after that. `code` is 1005 where it gave
    none."""

    code: int
    reason: str


class FrameError(PeerError):
    """Frames that can't be read; nothing after them is.

    Attributes:
        close_code: what the close frame that answers them says.
    """

    def __init__(self, close_code: int, message: str) -> None:
        super().__init__(message)
        self.close_code = close_code


cdef inline uint8_t _unmask(
    uint8_t *to, const uint8_t *source, Py_ssize_t size, const uint8_t *key, unsigned int phase
) noexcept nogil:
    """Write `size` bytes of a payload unmasked, the first of which meets byte `phase` of the key
    (RFC 6455 section 5.3). Not 0 where one of them is not ASCII."""
    cdef uint8_t turned[8]
    cdef uint64_t wide_key, word, seen = 0
    cdef Py_ssize_t place = 0
    cdef uint8_t byte, rest = 0
    cdef unsigned int index
    for index in range(8):
        turned[index] = key[(phase + index) & 3]
    memcpy(&wide_key, turned, 8)
    while place + 8 <= size:
        memcpy(&word, source + place, 8)
        word ^= wide_key
        seen |= word
        memcpy(to + place, &word, 8)
        place += 8
    while place < size:
        byte = source[place] ^ turned[place & 7]
        rest |= byte
        to[place] = byte
        place += 1
    return (rest & 0x80) | ((seen & _NOT_ASCII) != 0)


cdef bint _is_close_code(unsigned int code) noexcept nogil:
    """Whether a close frame may have it: RFC 6455 section 7.4, with 1012 to 1014 of IANA's."""
    if 3000 <= code <= 4999:
        return True
    return 1000 <= code <= 1014 and code not in (1004, 1005, 1006)


cdef class FrameDecoder:
    """Reads one client's frames.

    Fragments are joined. Pongs are checked and left out: that bytes come shows that the peer lives.

    Args:
        message_maximum_bytes: of a whole message; of a larger one no more than its first fragments
            is taken in.
    """

    cdef:
        readonly Py_ssize_t message_maximum_bytes
        readonly bint is_over
        # Of the frame that is being read: its header as far as it has come, then how much of its
        # payload is still to come.
        uint8_t _header[_HEADER_MAXIMUM]
        int _header_have
        bint _in_payload
        int _opcode
        bint _is_final
        uint8_t _key[4]
        unsigned int _phase
        Py_ssize_t _left
        uint8_t _control[_CONTROL_MAXIMUM]
        Py_ssize_t _control_have
        # Of the message that is being read.
        bint _in_message
        uint8_t _not_ascii
        uint8_t *_message
        Py_ssize_t _have
        Py_ssize_t _room

    def __init__(self, Py_ssize_t message_maximum_bytes):
        assert message_maximum_bytes > 0
        self.message_maximum_bytes = message_maximum_bytes

    def __dealloc__(self):
        PyMem_Free(self._message)

    @property
    def is_midway(self):
        """Whether a frame or a message has begun and is not whole yet."""
        return self._header_have > 0 or self._in_payload or self._in_message

    def feed(self, data):
        """What `data`, any bytes-like object with the next bytes of the stream, completes.

        Returns a list of text messages (bytes, valid UTF-8), `Ping`, `Close` and `FrameError`. The
        last two come last, once; what is fed after them is not looked at.
        """
        cdef Py_buffer view
        events = []
        if self.is_over:
            return events
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self._read(<const uint8_t *>view.buf, view.len, events)
        except FrameError as error:
            self.is_over = True
            events.append(error)
        finally:
            PyBuffer_Release(&view)
        if self.is_over:
            self._forget()
        return events

    cdef void _forget(self) noexcept:
        PyMem_Free(self._message)
        self._message = NULL
        self._have = self._room = 0
        self._in_message = self._in_payload = False
        self._header_have = 0

    cdef int _read(self, const uint8_t *data, Py_ssize_t size, list events) except -1:
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t taken
        # A payload of no bytes is complete as soon as its header is.
        while not self.is_over and (at < size or (self._in_payload and not self._left)):
            if not self._in_payload:
                at += self._read_header(data + at, size - at)
            if not self._in_payload:
                continue
            taken = min(self._left, size - at)
            if self._opcode & _CONTROL:
                self._read_control(data + at, taken, events)
            elif taken == self._left and self._is_final and not self._have:
                self._whole_message(data + at, taken, events)
            else:
                self._read_part(data + at, taken, events)
            at += taken
        return 0

    cdef Py_ssize_t _read_header(self, const uint8_t *data, Py_ssize_t size) except -1:
        """Take in as much of a header as there is, and judge it when it is whole."""
        cdef Py_ssize_t taken = 0
        cdef int need
        while taken < size:
            self._header[self._header_have] = data[taken]
            self._header_have += 1
            taken += 1
            if self._header_have == 1:
                self._judge_first_byte()
                continue
            if self._header_have == 2:
                self._judge_second_byte()
            need = 2 + 4
            if self._header[1] & 0x7F == 126:
                need += 2
            elif self._header[1] & 0x7F == 127:
                need += 8
            if self._header_have == need:
                self._begin_payload(need)
                break
        return taken

    cdef int _judge_first_byte(self) except -1:
        cdef uint8_t first = self._header[0]
        cdef int opcode = first & 0x0F
        if first & _RESERVED:
            raise FrameError(PROTOCOL_ERROR, "no extension was agreed on")
        if opcode & _CONTROL:
            if opcode > _PONG:
                raise FrameError(PROTOCOL_ERROR, "an opcode that is reserved")
            if not first & _FINAL:
                raise FrameError(PROTOCOL_ERROR, "a control frame in fragments")
        elif opcode == _CONTINUATION:
            if not self._in_message:
                raise FrameError(PROTOCOL_ERROR, "a continuation of nothing")
        elif self._in_message:
            raise FrameError(PROTOCOL_ERROR, "a message within another one")
        elif opcode == _BINARY:
            raise FrameError(UNACCEPTABLE, "messages are text")
        elif opcode != _TEXT:
            raise FrameError(PROTOCOL_ERROR, "an opcode that is reserved")
        return 0

    cdef int _judge_second_byte(self) except -1:
        if not self._header[1] & _MASKED:
            raise FrameError(PROTOCOL_ERROR, "a client's frames are masked")
        if self._header[0] & _CONTROL and self._header[1] & 0x7F > _CONTROL_MAXIMUM:
            raise FrameError(PROTOCOL_ERROR, "a control frame that is too long")
        return 0

    cdef int _begin_payload(self, int header_bytes) except -1:
        """The header is whole: what its frame is (RFC 6455 section 5.2)."""
        cdef uint64_t length = self._header[1] & 0x7F
        cdef uint64_t shortest = 0
        cdef int place
        if length >= 126:
            shortest = 126 if length == 126 else 0x10000
            length = 0
            for place in range(2, header_bytes - 4):
                length = length << 8 | self._header[place]
            if length < shortest or length >> 63:
                raise FrameError(PROTOCOL_ERROR, "a length that is not written as it must be")
        self._opcode = self._header[0] & 0x0F
        self._is_final = self._header[0] & _FINAL != 0
        memcpy(self._key, &self._header[header_bytes - 4], 4)
        self._header_have = 0
        if not self._opcode & _CONTROL:
            if length > <uint64_t>(self.message_maximum_bytes - self._have):
                raise FrameError(
                    TOO_BIG, f"a message has {self.message_maximum_bytes} bytes at most"
                )
            self._in_message = True
        self._left = length
        self._phase = 0
        self._in_payload = True
        return 0

    cdef int _whole_message(self, const uint8_t *data, Py_ssize_t size, list events) except -1:
        """The common case: a message whose payload came at once is written where it stays."""
        message = PyBytes_FromStringAndSize(NULL, size)
        cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(message)
        if _unmask(to, data, size, self._key, self._phase):
            _check_text(<const char *>to, size)
        self._in_payload = self._in_message = False
        events.append(message)
        return 0

    cdef int _read_part(self, const uint8_t *data, Py_ssize_t size, list events) except -1:
        if self._have + size > self._room:
            self._make_room(self._have + size)
        self._not_ascii |= _unmask(self._message + self._have, data, size, self._key, self._phase)
        self._have += size
        self._phase = (self._phase + size) & 3
        self._left -= size
        if self._left:
            return 0
        self._in_payload = False
        if self._is_final:
            if self._not_ascii:
                _check_text(<const char *>self._message, self._have)
            events.append(PyBytes_FromStringAndSize(<const char *>self._message, self._have))
            self._not_ascii = 0
            self._forget()
        return 0

    cdef int _make_room(self, Py_ssize_t size) except -1:
        """It doubles with what has come; what is announced alone takes no memory."""
        cdef Py_ssize_t room = min(
            max(_FIRST_ROOM, size, 2 * self._room), max(size, self.message_maximum_bytes)
        )
        cdef uint8_t *moved = <uint8_t *>PyMem_Realloc(self._message, room)
        if moved == NULL:
            raise MemoryError
        self._message = moved
        self._room = room
        return 0

    cdef int _read_control(self, const uint8_t *data, Py_ssize_t size, list events) except -1:
        _unmask(self._control + self._control_have, data, size, self._key, self._phase)
        self._control_have += size
        self._phase = (self._phase + size) & 3
        self._left -= size
        if self._left:
            return 0
        cdef Py_ssize_t have = self._control_have
        self._control_have = 0
        self._in_payload = False
        if self._opcode == _PING:
            events.append(Ping(self._control[:have]))
        elif self._opcode == _CLOSE:
            events.append(self._close(have))
            self.is_over = True
        return 0

    cdef object _close(self, Py_ssize_t size):
        """What a close frame says (RFC 6455 section 5.5.1)."""
        if not size:
            return Close(NO_CODE, "")
        cdef unsigned int code
        if size == 1:
            raise FrameError(PROTOCOL_ERROR, "half of a close code")
        code = self._control[0] << 8 | self._control[1]
        if not _is_close_code(code):
            raise FrameError(PROTOCOL_ERROR, "no close code that may be sent")
        try:
            return Close(code, self._control[2:size].decode("utf-8"))
        except UnicodeDecodeError:
            raise FrameError(BAD_TEXT, "the reason is not UTF-8") from None


cdef int _check_text(const char *text, Py_ssize_t size) except -1:
    try:
        PyUnicode_DecodeUTF8(text, size, NULL)
    except UnicodeDecodeError:
        raise FrameError(BAD_TEXT, "the message is not UTF-8") from None
    return 0


cdef bytes _frame(uint8_t opcode, const uint8_t *payload, Py_ssize_t size):
    """A frame of a server's: final, not masked."""
    cdef int header_bytes = 2 if size < 126 else 4 if size < 0x10000 else 10
    frame = PyBytes_FromStringAndSize(NULL, header_bytes + size)
    cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(frame)
    cdef uint64_t length = size
    cdef int place
    to[0] = _FINAL | opcode
    to[1] = size if size < 126 else 126 if size < 0x10000 else 127
    for place in range(header_bytes - 1, 1, -1):
        to[place] = length & 0xFF
        length >>= 8
    memcpy(to + header_bytes, payload, size)
    return frame


def text_frame(bytes message not None) -> bytes:
    """A text message, valid UTF-8, as one frame."""
    return _frame(_TEXT, message, len(message))


def ping_frame(bytes payload not None) -> bytes:
    """A ping; at most 125 bytes."""
    assert len(payload) <= _CONTROL_MAXIMUM
    return _frame(_PING, payload, len(payload))


def pong_frame(bytes payload not None) -> bytes:
    """The answer to a ping; at most 125 bytes."""
    assert len(payload) <= _CONTROL_MAXIMUM
    return _frame(_PONG, payload, len(payload))


def close_frame(unsigned int code, str reason not None = "") -> bytes:
    """The end of what is sent. 1005 stands for no code; the reason has at most 123 bytes."""
    if code == NO_CODE:
        assert not reason
        return _frame(_CLOSE, b"", 0)
    assert _is_close_code(code)
    payload = code.to_bytes(2, "big") + reason.encode()
    assert len(payload) <= _CONTROL_MAXIMUM
    return _frame(_CLOSE, payload, len(payload))
