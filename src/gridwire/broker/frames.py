"""Frames between the hub and the worker processes of the same machine.

    length:uint32  MessagePack of [request id, operation, arguments]      worker to hub
    length:uint32  MessagePack of [request id, error | null, result]      hub to worker

The socket listens on loopback; the port and a secret lie in the data directory, readable by its owner only, so who may
open the log may also talk to the hub. The first request is `hello` with the secret.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, Final

import msgspec

from gridwire.core.errors import MessageTooLarge

FRAME_BYTES_MAX: Final = 256 * 1024 * 1024
"""A commit carries its outputs in one frame."""

LENGTH: Final = struct.Struct(">I")
ENDPOINT_FILE: Final = "run/local.json"


class Request(msgspec.Struct, frozen=True, array_like=True):
    """What a worker asks."""

    id: int
    operation: str
    arguments: dict[str, Any]


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """An error of `gridwire.core.errors` by name."""

    kind: str
    message: str


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """What the hub answers."""

    id: int
    failure: Failure | None
    result: Any = None


class Endpoint(msgspec.Struct, frozen=True):
    """Where the hub of a data directory listens for its workers."""

    port: int
    secret: str
    pid: int


def receive_into(connected: socket.socket, view: memoryview) -> None:
    """Fill the view from a blocking socket. Raises ConnectionError when the other side is gone, OSError."""
    while view:
        count = connected.recv_into(view)
        if count == 0:
            raise ConnectionError("connection closed")
        view = view[count:]


def pack(message: Request | Reply) -> bytes:
    """One frame."""
    body = msgspec.msgpack.encode(message)
    if len(body) > FRAME_BYTES_MAX:
        raise MessageTooLarge(f"a frame of {len(body)} bytes to the hub is above {FRAME_BYTES_MAX}: commit more often")
    return LENGTH.pack(len(body)) + body
