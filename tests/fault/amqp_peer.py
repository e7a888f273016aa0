"""A raw AMQP 1.0 peer over one blocking socket: what the fault tests need of a client, and what no honest client does.

It speaks with the codec of the hub, whose conformance is tested against other implementations elsewhere. It keeps no
count of windows or credit: tests that break these rules need none, and honest ones stay far below them.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from gridwire.wire.amqp import frames
from gridwire.wire.amqp.frames import Frame, FrameReader
from gridwire.wire.amqp.performatives import (
    AMQP_FRAMES,
    RECEIVER,
    SENDER,
    Attach,
    Begin,
    Composite,
    Flow,
    Open,
    Source,
    Target,
    Transfer,
    decode_frame,
    encode_composite,
)

WAIT_S = 60.0
WINDOW = 1_000_000
DATA = b"\x00\x53\x75\xb0"
"""A data section whose length is four bytes."""


def opening(frame_bytes_max: int = frames.FRAME_BYTES_MAX) -> bytes:
    """Header, open and begin: what a client may send before it is answered."""
    opened = encode_composite(Open("peer", "localhost", frame_bytes_max))
    begun = encode_composite(Begin(None, 0, WINDOW, WINDOW))
    return frames.protocol_header(frames.AMQP) + frames.frame(0, opened) + frames.frame(0, begun)


def message(body: bytes) -> bytes:
    """A message that is one data section."""
    return DATA + struct.pack(">I", len(body)) + body


def address(text: str) -> tuple[str, int]:
    """Host and port of `amqp://host:port` or `host:port`."""
    host, _, port = text.removeprefix("amqp://").rpartition(":")
    return host, int(port)


class Peer:
    """A connection with one session.

    Args:
        where: `amqp://host:port`, or without the scheme.
        frame_bytes_max: said in open.
    """

    def __init__(self, where: str, *, frame_bytes_max: int = frames.FRAME_BYTES_MAX, wait_s: float = WAIT_S) -> None:
        self.socket = socket.create_connection(address(where), wait_s)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.wait_s = wait_s
        self.largest_frame_bytes = 0
        self._reader = FrameReader()
        self._reader.frame_bytes_max = frames.FRAME_BYTES_MAX
        try:
            self.socket.sendall(opening(frame_bytes_max))
            self.wait_for(Begin)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Reset the connection."""
        self.socket.close()

    def write(self, body: Composite, payload: bytes = b"") -> None:
        """Send one frame."""
        self.socket.sendall(frames.frame(0, encode_composite(body) + payload))

    def attach_sender(self, handle: int, target: str) -> Attach:
        """Attach and wait until it is answered and there is credit."""
        self.write(Attach(f"s{handle}", handle, SENDER, 0, 0, Source("peer"), Target(target), initial_delivery_count=0))
        answer = self.wait_for(Attach)
        self.wait_for(Flow)
        return answer

    def attach_receiver(self, handle: int, source: str, credit: int | None = None) -> Attach:
        """Attach, wait until it is answered, and give credit."""
        self.write(Attach(f"r{handle}", handle, RECEIVER, 0, 0, Source(source), Target("peer")))
        answer = self.wait_for(Attach)
        if credit is not None:
            self.give(handle, credit)
        return answer

    def give(self, handle: int, credit: int) -> None:
        """Let the hub send so many messages."""
        self.write(Flow(0, WINDOW, 0, WINDOW, handle, 0, credit))

    def transfer(self, handle: int, number: int, payload: bytes, *, more: bool = False, first: bool = True) -> None:
        """Send a message, or a piece of one."""
        tag = struct.pack(">Q", number) if first else None
        self.write(Transfer(handle, number, tag, 0 if first else None, False, more), payload)

    def arrived(self) -> list[tuple[Composite, bytes]]:
        """Frames that are whole by now. Raises ConnectionError when the hub is gone and all it said was taken."""
        gone = self._read_what_is_there()
        found = []
        while (body := self._next()) is not None:
            found.append(body)
        if gone and not found:
            raise ConnectionResetError("the hub closed the connection")
        return found

    def _read_what_is_there(self) -> bool:
        """Whether the hub is gone."""
        self.socket.setblocking(False)
        try:
            while data := self.socket.recv(1 << 20):
                self._reader.feed(data)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        finally:
            self.socket.settimeout(self.wait_s)
        return True

    def receive(self) -> tuple[Composite, bytes]:
        """The next frame with a body; waits for it. Raises TimeoutError, ConnectionError."""
        while (found := self._next()) is None:
            data = self.socket.recv(1 << 20)
            if not data:
                raise ConnectionResetError("the hub closed the connection")
            self._reader.feed(data)
        return found

    def wait_for(self, kind: type[Composite], condition: Callable[[Any], bool] = lambda _: True) -> Any:
        """The next performative of a kind; others are passed over."""
        deadline_s = time.monotonic() + self.wait_s
        while time.monotonic() < deadline_s:
            body, _ = self.receive()
            if isinstance(body, kind) and condition(body):
                return body
        raise TimeoutError(f"no {kind.__name__} for {self.wait_s:.0f} s")

    def _next(self) -> tuple[Composite, bytes] | None:
        while (found := self._reader.next()) is not None:
            if isinstance(found, Frame) and found.end > found.start:
                self.largest_frame_bytes = max(self.largest_frame_bytes, found.end - found.start + frames.HEADER_BYTES)
                body, payload = decode_frame(found.data, found.start, found.end, AMQP_FRAMES)
                return body, bytes(found.data[payload : found.end])
        return None
