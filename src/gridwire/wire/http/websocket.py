"""WebSocket (RFC 6455), the server's side without I/O: handshake, frames to messages, messages to frames.

|FIN rsv opcode:4|MASK length:7| [length:16|64] [mask:32] payload          opcodes: 0 more, 1 text, 2 binary, 8 close,
                                                                           9 ping, 10 pong
"""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Final

from gridwire.core.errors import RemoteProtocolError
from gridwire.core.limits import MIB

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PAYLOAD_BYTES_MAX: Final = 2 * MIB
"""One frame: an AMQP frame and some."""

CONTROL_BYTES_MAX: Final = 125
CONTINUED, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def accept_key(key: bytes) -> bytes:
    """What the server answers to a client's key."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def frame(opcode: int, payload: bytes) -> bytes:
    """One whole frame, not masked, as servers send them."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, size))
    elif size < 65536:
        head = struct.pack(">BBH", 0x80 | opcode, 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 127, size)
    return head + payload


class FrameReader:
    """Cuts a stream into frames. Messages are not put together: AMQP's own framing does that."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._in_message = False

    def feed(self, data: bytes) -> None:
        """Add bytes that arrived."""
        self._buffer += data

    def next(self) -> tuple[int, bytes] | None:
        """(opcode, payload) of the next frame, pieces of a binary message as BINARY; None when more is needed.

        Raises:
            RemoteProtocolError: not masked, text, too large, or against the rules otherwise.
        """
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, second = buffer[0], buffer[1]
        opcode, size, start = first & 0x0F, second & 0x7F, 2
        if first & 0x70 or not second & 0x80:
            raise RemoteProtocolError("a WebSocket frame that is not masked, or has reserved bits")
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(buffer) < 2 + width:
                return None
            size, start = int.from_bytes(buffer[2 : 2 + width], "big"), 2 + width
        self._check(opcode, size, bool(first & 0x80))
        end = start + 4 + size
        if len(buffer) < end:
            return None
        payload = _unmasked(bytes(buffer[start + 4 : end]), bytes(buffer[start : start + 4]))
        del buffer[:end]
        if opcode in (BINARY, CONTINUED):
            self._in_message = not first & 0x80
            opcode = BINARY
        return opcode, payload

    def _check(self, opcode: int, size: int, final: bool) -> None:
        if opcode >= CLOSE:
            if opcode > PONG or size > CONTROL_BYTES_MAX or not final:
                raise RemoteProtocolError("a malformed WebSocket control frame")
        elif opcode not in (CONTINUED, BINARY):
            raise RemoteProtocolError("only binary WebSocket messages are served")
        elif (opcode == CONTINUED) != self._in_message:
            raise RemoteProtocolError("WebSocket messages are interleaved")
        if size > PAYLOAD_BYTES_MAX:
            raise RemoteProtocolError(f"a WebSocket frame of {size} bytes; {PAYLOAD_BYTES_MAX} are taken")


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    """XOR with the repeated mask, as one number."""
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")
