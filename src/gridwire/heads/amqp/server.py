"""The AMQP head: its listeners, its connections, and what they share."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

import structlog

from gridwire.broker.identities import Identities
from gridwire.broker.port import Broker, HubInfo
from gridwire.core.clock import Clock, SystemClock
from gridwire.core.limits import CONNECTIONS_MAX
from gridwire.heads.amqp.appender import Appender
from gridwire.heads.amqp.connection import Connection
from gridwire.heads.amqp.context import DRAIN_S, HEAD_BYTES_MAX, SWEEP_S, Context, Counters
from gridwire.heads.amqp.groups import Readers
from gridwire.heads.amqp.websocket import WebSocketConnection
from gridwire.heads.listening import Connected, listen

log = structlog.get_logger(__name__)

DRAIN_AGAIN_S: Final = 0.05
"""Between two looks at who has nothing under way any more, while the head stops."""

OFF: Final = -1


class AmqpHead:
    """Serves AMQP 1.0.

    Args:
        host, port: where to listen without TLS, -1 for not at all; port 0 picks a free one, see `.port` after `start`.
        tls_port: the same with TLS; needs `tls`.
        auto_create: create a hub that a client first sends to.
        connections_max: connections served at a time; above it a new one is closed at once.
        access: who is known; None lets everybody do everything.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        host: str,
        port: int,
        tls_port: int = OFF,
        tls: ssl.SSLContext | None = None,
        auto_create: bool = True,
        clock: Clock | None = None,
        connections_max: int = CONNECTIONS_MAX,
        access: Identities | None = None,
    ) -> None:
        self.context = Context(broker, clock or SystemClock(), auto_create, access)
        self.context.appender = Appender(self.context)
        self.context.readers = Readers(self.context.counters)
        self.port = port
        self.tls_port = tls_port
        self._host = host
        self._tls = tls
        self._connections: Connected[Connection] = Connected(connections_max, self.context.counters)
        self._hungry: set[Connection] = set()
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._turns: dict[str, int] = {}
        self._turn_due = False

    @property
    def counters(self) -> Counters:
        """What this head has done since it started."""
        return self.context.counters

    async def start(self) -> None:
        """Listen. Raises OSError when an address cannot be used."""
        if self.port != OFF:
            self.port = await self._listen(self.port, None)
        if self.tls_port != OFF and self._tls is not None:
            self.tls_port = await self._listen(self.tls_port, self._tls)
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    async def _listen(self, port: int, tls: ssl.SSLContext | None) -> int:
        server = await listen(lambda: Connection(self), self._host, port, tls)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def websocket(self) -> asyncio.Protocol:
        """The protocol that takes over an HTTP connection whose client asked for AMQP over WebSocket."""
        return WebSocketConnection(Connection(self))

    async def stop(self) -> None:
        """Stop accepting, tell what is on disk, close."""
        for server in self._servers:
            server.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        deadline = asyncio.get_running_loop().time() + DRAIN_S
        while self._connections and asyncio.get_running_loop().time() < deadline:
            for connection in self._connections:
                connection.drain()
            await self._connections.gone(DRAIN_AGAIN_S)
        await self._connections.abort()
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    # -- what connections need

    def opened(self, connection: Connection) -> bool:
        """Register a connection; False when there are too many."""
        if self._connections.add(connection):
            return True
        log.warning("amqp_connection_refused", connections=len(self._connections))
        return False

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self._hungry.discard(connection)
        self.released()

    def turn_of(self, hub: HubInfo) -> int:
        """Partition for events without a key: another one with every turn of the loop, so that a burst is one batch."""
        turn = self._turns.get(hub.name)
        if turn is None:
            turn = self._turns[hub.name] = self._turns.pop("", 0)
        if not self._turn_due:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._next_turn)
        return turn % hub.partitions

    def _next_turn(self) -> None:
        self._turn_due = False
        for name in self._turns:
            self._turns[name] += 1

    def wait_for_room(self, connection: Connection) -> None:
        """Let a connection go on once less is under way."""
        self._hungry.add(connection)

    def released(self) -> None:
        """Less is under way: whoever waits for room may go on."""
        if self._hungry and self.context.pending_bytes < HEAD_BYTES_MAX // 2:
            hungry, self._hungry = self._hungry, set()
            for connection in hungry:
                asyncio.get_running_loop().call_soon(connection.proceed)

    def _sweep(self) -> None:
        now_s = self.context.clock.monotonic()
        for connection in self._connections:
            connection.sweep(now_s)
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
