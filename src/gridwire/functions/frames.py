"""Frames between the host and its worker processes, over a socket pair that both inherit.

    size:uint32  kind:uint8  number:uint64  body[size - 9]

    host to worker    CALL   MessagePack of Call                      anything but events
                      BATCH  a batch of events, see below
    worker to host    READY  MessagePack of App                       once, when the app is loaded or known to be broken
                      DONE   MessagePack of Result                    for every CALL and BATCH, any order

A batch is columns, 8-byte aligned, so that a worker reads it in place and makes objects only of what is asked for:

    head:uint32  n:uint32  data:uint64                                 sizes: of the head, events, bytes of data
    MessagePack of Call, padded to 8
    offsets, timestamps, key starts, value starts, header starts       int64[n] each; starts index into the data
    key lengths, value lengths, header counts                          int32[n] each, padded to 8 as a whole; -1 is null
    data

This file is read by workers that run plain event functions: it needs no numpy, which would double their start.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from gridwire.broker.frames import receive_into
from gridwire.core.batch import Headers, headers_at
from gridwire.functions.model import Call

CALL: Final = 1
BATCH: Final = 2
READY: Final = 3
DONE: Final = 4

FRAME_BYTES_MAX: Final = 512 * 1024 * 1024
"""A frame comes from our own process: above this size it is nonsense."""

HEAD: Final = struct.Struct("<IBQ")
SIZES: Final = struct.Struct("<IIQ")

T = TypeVar("T")


def padded(size: int) -> int:
    """The next multiple of 8."""
    return (size + 7) & ~7


@dataclass(slots=True)
class Events:
    """A batch as a worker sees it; the arrays are views of the frame."""

    call: Call
    count: int
    data: memoryview
    offsets: memoryview
    timestamps: memoryview
    key_starts: memoryview
    value_starts: memoryview
    header_starts: memoryview
    key_lengths: memoryview
    value_lengths: memoryview
    header_counts: memoryview

    def headers(self, row: int) -> Headers:
        """Headers of one event, in order."""
        return headers_at(self.data, self.header_starts[row], self.header_counts[row])[0]

    def key(self, row: int) -> bytes | None:
        """Key of one event."""
        start, size = self.key_starts[row], self.key_lengths[row]
        return None if size < 0 else bytes(self.data[start : start + size])


def read_events(body: memoryview) -> Events:
    """A BATCH frame's body."""
    head, n, size = SIZES.unpack_from(body)
    at = SIZES.size
    call = msgspec.msgpack.decode(body[at : at + head], type=Call)
    at += padded(head)
    longs = [body[at + n * 8 * row : at + n * 8 * (row + 1)].cast("q") for row in range(5)]
    at += n * 8 * 5
    ints = [body[at + n * 4 * row : at + n * 4 * (row + 1)].cast("i") for row in range(3)]
    at = padded(at + n * 4 * 3)
    return Events(call, n, body[at : at + size], *longs, *ints)


def head_of(kind: int, number: int, size: int) -> bytes:
    """What comes before a body of so many bytes."""
    return HEAD.pack(size + HEAD.size - 4, kind, number)


class Channel:
    """Whole frames over a blocking socket. One thread may read while another writes."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def receive(self) -> tuple[int, int, memoryview]:
        """The next frame: kind, number, body. Raises ConnectionError when the other side is gone."""
        size, kind, number = HEAD.unpack(self._exactly(HEAD.size))
        if not HEAD.size - 4 <= size <= FRAME_BYTES_MAX:
            raise ConnectionError(f"a frame of {size} bytes is nonsense")
        return kind, number, memoryview(self._exactly(size - HEAD.size + 4))

    def send(self, kind: int, number: int, *parts: bytes | bytearray | memoryview) -> None:
        """One frame. Raises OSError when the other side is gone."""
        parts = (head_of(kind, number, sum(map(len, parts))), *parts)
        for part in [b"".join(parts)] if sum(map(len, parts)) < 65536 else parts:
            self._socket.sendall(part)

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        receive_into(self._socket, memoryview(data))
        return data

    def close(self) -> None:
        """Hang up; the other side's `receive` ends."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()
