"""What a WebSocket client sends, right and wrong; written anew for the tests."""

from __future__ import annotations

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = bytes.fromhex("37fa213d")


def masked(payload: bytes, key: bytes = KEY) -> bytes:
    """RFC 6455 section 5.3."""
    return bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    final: bool = True,
    reserved: int = 0,
    key: bytes | None = KEY,
    length_bytes: int | None = None,
) -> bytes:
    """A frame with a length of 0, 2 or 8 bytes more, where None says the shortest one; not masked
    where `key` is None."""
    size = len(payload)
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65_536 else 8
    short = {0: size, 2: 126, 8: 127}[length_bytes]
    head = bytes([final << 7 | reserved << 4 | opcode, (key is not None) << 7 | short])
    head += size.to_bytes(length_bytes) if length_bytes else b""
    return head + payload if key is None else head + key + masked(payload, key)


HEADERS = {
    "Host": "127.0.0.1",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Origin": "http://127.0.0.1",
}


def handshake_request(start: str = "GET /ws HTTP/1.1", **changed: str | None) -> bytes:
    """The request of RFC 6455 section 1.2 with some headers others, None for left out."""
    headers: dict[str, str | None] = {**HEADERS}
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [start, *(f"{name}: {value}" for name, value in headers.items() if value is not None)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"
