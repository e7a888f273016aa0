"""Bytes to frames and back.

    protocol header:  'A' 'M' 'Q' 'P'  id:uint8  1  0  0           id 0: AMQP, 2: TLS, 3: SASL
    frame:            size:uint32  doff:uint8  type:uint8  channel:uint16  extended header  performative  payload
                      type 0: AMQP, 1: SASL; doff counts the header's 4-byte words

Source: OASIS AMQP 1.0, part 2, section 2.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import msgspec

from gridwire.core.limits import KIB, MIB
from gridwire.wire.amqp.errors import FRAMING_ERROR, AmqpError

AMQP: Final = 0
TLS: Final = 2
SASL: Final = 3

HEADER_BYTES: Final = 8
FRAME_BYTES_LEAST: Final = 512
"""A peer must take frames of this size, and may not offer less."""

FRAME_BYTES_MAX: Final = MIB
"""The largest frame taken; it is offered in open. A batch of a thousand small events fits in one."""

SASL_FRAME_BYTES_MAX: Final = 16 * KIB
"""A frame of somebody who has not signed in. The specification allows 512; tokens in PLAIN are longer."""

PARTS_MAX: Final = 1024
"""Pieces of one frame kept apart: each costs some ten bytes of its own, and a peer may send single bytes."""

_HEADER: Final = struct.Struct(">IBBH")


@dataclass(frozen=True, slots=True)
class ProtocolHeader:
    """The eight bytes that say what follows."""

    id: int
    version: tuple[int, int, int]


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A whole frame: its body is `data[start:end]`. A struct, for there is one for every event."""

    kind: int
    channel: int
    data: bytes
    start: int
    end: int


class FrameReader:
    """Cuts a stream into protocol headers and frames.

    `header_due` says that a protocol header comes next; the connection sets it. `frame_bytes_max` is the limit now.
    """

    def __init__(self) -> None:
        self.header_due = True
        self.frame_bytes_max = SASL_FRAME_BYTES_MAX
        self._data = b""
        self._position = 0
        self._parts: list[bytes] = []
        self._have = 0
        self._need = HEADER_BYTES

    def feed(self, data: bytes) -> None:
        """Add bytes; they are copied only when a frame does not end with them."""
        self._have += len(data)
        self._parts.append(data)
        if len(self._parts) > PARTS_MAX:
            self._parts = [b"".join(self._parts)]

    @property
    def buffered_bytes(self) -> int:
        """Bytes that wait for the rest of their frame."""
        return self._have

    def next(self) -> ProtocolHeader | Frame | None:
        """The next whole header or frame; None when more bytes are needed. Raises AmqpError."""
        if self._have < self._need:
            return None
        if self._parts:
            rest = self._data[self._position :] if self._position < len(self._data) else b""
            self._data = b"".join((rest, *self._parts)) if rest or len(self._parts) > 1 else self._parts[0]
            self._parts.clear()
            self._position = 0
        return self._header() if self.header_due else self._frame()

    def _header(self) -> ProtocolHeader:
        start = self._position
        data = self._data[start : start + HEADER_BYTES]
        if data[:4] != b"AMQP":
            raise AmqpError(FRAMING_ERROR, "the connection does not begin with an AMQP header")
        self._position += HEADER_BYTES
        self._have -= HEADER_BYTES
        self.header_due = False
        return ProtocolHeader(data[4], (data[5], data[6], data[7]))

    def _frame(self) -> Frame | None:
        size, doff, kind, channel = _HEADER.unpack_from(self._data, self._position)
        if size > self.frame_bytes_max:
            raise AmqpError(FRAMING_ERROR, f"a frame of {size} bytes is above the limit of {self.frame_bytes_max}")
        if size < HEADER_BYTES or doff < 2 or doff * 4 > size or kind > 1:
            raise AmqpError(FRAMING_ERROR, "a frame's header is malformed")
        if self._have < size:
            self._need = size
            return None
        start = self._position
        self._position = start + size
        self._have -= size
        self._need = HEADER_BYTES
        return Frame(kind, channel, self._data, start + doff * 4, start + size)


def protocol_header(identifier: int) -> bytes:
    """The header that announces AMQP or SASL."""
    return b"AMQP" + bytes((identifier, 1, 0, 0))


def frame(channel: int, body: bytes, kind: int = 0) -> bytes:
    """A frame around an encoded performative and its payload."""
    return _HEADER.pack(HEADER_BYTES + len(body), 2, kind, channel) + body


EMPTY_FRAME: Final = _HEADER.pack(HEADER_BYTES, 2, 0, 0)
"""A heartbeat."""
