from typing import NamedTuple

from core.errors import PeerError

CONTROL_MAXIMUM_BYTES: int
NORMAL: int
GOING_AWAY: int
PROTOCOL_ERROR: int
UNACCEPTABLE: int
NO_CODE: int
BAD_TEXT: int
POLICY_VIOLATION: int
TOO_BIG: int
INTERNAL_ERROR: int

class Ping(NamedTuple):
    payload: bytes

class Close(NamedTuple):
    code: int
    reason: str

class FrameError(PeerError):
    close_code: int
    def __init__(self, close_code: int, message: str) -> None: ...

class FrameDecoder:
    def __init__(self, message_maximum_bytes: int) -> None: ...
    @property
    def message_maximum_bytes(self) -> int: ...
    @property
    def is_over(self) -> bool: ...
    @property
    def is_midway(self) -> bool: ...
    def feed(
        self, data: bytes | bytearray | memoryview
    ) -> list[bytes | Ping | Close | FrameError]: ...

def text_frame(message: bytes) -> bytes: ...
def ping_frame(payload: bytes) -> bytes: ...
def pong_frame(payload: bytes) -> bytes: ...
def close_frame(code: int, reason: str = "") -> bytes: ...
