"""AMQP inside WebSocket: takes over an HTTP connection, answers its handshake, and passes bytes both ways."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from gridwire.core.errors import RemoteProtocolError
from gridwire.heads.amqp.connection import Connection
from gridwire.wire.http import websocket

WEBSOCKET_PATH: Final = "/$servicebus/websocket"
SUBPROTOCOLS: Final = (b"AMQPWSB10", b"amqp")
"""What the Azure SDKs ask for, and the registered name."""


class WebSocketTransport:
    """What a `Connection` sees of its socket: every write becomes one binary message."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def write(self, data: bytes) -> None:
        """Send one message."""
        self._transport.write(websocket.frame(websocket.BINARY, data))

    def close(self) -> None:
        """Say goodbye, then close."""
        if not self._transport.is_closing():
            self._transport.write(websocket.frame(websocket.CLOSE, (1000).to_bytes(2, "big")))
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class WebSocketConnection(asyncio.Protocol):
    """See the module. `headers` of the request come with the first bytes, see `gridwire.heads.http.upgrade`."""

    def __init__(self, inner: Connection) -> None:
        self._inner = inner
        self._reader = websocket.FrameReader()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket; the handshake is answered already."""
        self._transport = cast(asyncio.Transport, transport)
        self._inner.connection_made(cast(asyncio.Transport, WebSocketTransport(self._transport)))

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Frames came."""
        self._reader.feed(data)
        try:
            while not self._transport.is_closing() and (found := self._reader.next()) is not None:
                self._take(*found)
        except RemoteProtocolError as error:
            self._inner.abort(str(error))

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == websocket.BINARY:
            self._inner.data_received(payload)
        elif opcode == websocket.PING:
            self._transport.write(websocket.frame(websocket.PONG, payload))
        elif opcode == websocket.CLOSE:
            self._transport.write(websocket.frame(websocket.CLOSE, payload[:2]))
            self._transport.close()

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._inner.resume_writing()
