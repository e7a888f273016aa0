"""The Kafka head: a listener, its connections, and what they share."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Final

import structlog

from gridwire.broker.identities import Identities
from gridwire.broker.membership import Membership
from gridwire.broker.port import TransactionalBroker
from gridwire.core.clock import Clock, SystemClock
from gridwire.core.limits import CONNECTIONS_MAX
from gridwire.heads.kafka.connection import Connection
from gridwire.heads.kafka.context import (
    DRAIN_S,
    FRAME_STALL_S,
    HEAD_BYTES_MAX,
    IDLE_S,
    RECEIVE_BYTES,
    ROOM_HELD_S,
    ROOM_STALL_S,
    WRITE_STALL_S,
    Context,
    Counters,
)
from gridwire.heads.listening import Connected, listen

log = structlog.get_logger(__name__)

SWEEP_S: Final = 10.0
"""How often stalled and idle connections are looked for."""

RELIEF_S: Final = 1.0
"""The same for frames that keep others waiting for room."""

_WILDCARDS: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - recognised, not bound


class KafkaHead:
    """Serves the Kafka protocol on one listener.

    Args:
        host, port: where to listen; port 0 picks a free one, found in `.port` after `start`.
        cluster_id: what clients see as the cluster's id.
        advertised_host: address told to clients; by default `host`, or for a wildcard the address each client reached.
        auto_create: create a hub that a client asks metadata for, when the client allows it.
        default_partitions: partitions of hubs created without a number.
        connections_max: connections served at a time; above it a new one is closed at once.
        access: who is known; None lets everybody do everything.
        tls: how connections are encrypted; None for not at all.
    """

    def __init__(
        self,
        broker: TransactionalBroker,
        membership: Membership,
        *,
        host: str,
        port: int,
        cluster_id: str,
        advertised_host: str | None = None,
        auto_create: bool = True,
        default_partitions: int = 4,
        clock: Clock | None = None,
        connections_max: int = CONNECTIONS_MAX,
        access: Identities | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        advertised = advertised_host or ("" if host in _WILDCARDS else host)
        self.context = Context(
            broker, membership, clock or SystemClock(), cluster_id, advertised, port, auto_create, default_partitions
        )
        self.context.access = access
        self._tls = tls
        self.inflight_bytes = 0
        self.shared = bytearray(RECEIVE_BYTES)
        self._host = host
        self._connections: Connected[Connection] = Connected(connections_max, self.context.counters)
        self._hungry: set[Connection] = set()
        self._large: dict[Connection, None] = {}
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._relief: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """The port listened on."""
        return self.context.port

    @property
    def counters(self) -> Counters:
        """What this head has done since it started."""
        return self.context.counters

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be used.
        """
        loop = asyncio.get_running_loop()
        self._server = await listen(lambda: Connection(self), self._host, self.context.port, self._tls)
        self.context.port = self._server.sockets[0].getsockname()[1]
        self._sweeper = loop.call_later(SWEEP_S, self._sweep)

    async def stop(self) -> None:
        """Stop accepting, answer what is pending, close. Close the membership first: its waiting joins then answer."""
        if self._server is None:
            return
        self._server.close()
        for timer in (self._sweeper, self._relief):
            if timer is not None:
                timer.cancel()
        for connection in self._connections:
            connection.drain()
        for wait in list(self.context.waits):
            wait.cancel()
        await self._connections.gone(DRAIN_S)
        await self._connections.abort()
        await self._server.wait_closed()
        self._server = None

    # -- what connections need

    def opened(self, connection: Connection) -> bool:
        """Register a connection; False when there are too many."""
        if self._connections.add(connection):
            return True
        log.warning("kafka_connection_refused", connections=len(self._connections))
        return False

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self._hungry.discard(connection)
        self._large.pop(connection, None)

    def released(self, size: int) -> None:
        """So many bytes are no longer in flight: connections that wait for room may go on."""
        self.inflight_bytes -= size
        if self._hungry:
            enough = self.inflight_bytes < HEAD_BYTES_MAX // 2
            self._wake(list(self._hungry) if enough else [next(iter(self._large), None)])

    def _wake(self, connections: Iterable[Connection | None]) -> None:
        for connection in connections:
            if connection in self._hungry:
                self._hungry.discard(connection)
                asyncio.get_running_loop().call_soon(connection.proceed)

    def grant(self, connection: Connection, size: int) -> bool:
        """Whether a large frame gets so much more room; otherwise its connection goes on once there is some.

        When everything that is held are frames still arriving, the one that began first goes on all the same: else
        all might wait for each other. So it is one frame above the limit at most.
        """
        if self.inflight_bytes + size > HEAD_BYTES_MAX and not self._stuck(connection):
            self._hungry.add(connection)
            if self._relief is None:
                self._relief = asyncio.get_running_loop().call_later(RELIEF_S, self._relieve)
            return False
        self._large[connection] = None
        return True

    def _stuck(self, connection: Connection) -> bool:
        first = next(iter(self._large), None)
        return first is connection and self.inflight_bytes == sum(each.reserved_bytes for each in self._large)

    def settled(self, connection: Connection) -> None:
        """A large frame is whole."""
        self._large.pop(connection, None)

    def _relieve(self) -> None:
        """Give up large frames that arrive too slowly while others wait for room."""
        self._relief = None
        if not self._hungry:
            return
        now_s = self.context.clock.monotonic()
        self._wake([next(iter(self._large), None)])
        for connection in list(self._large):
            since_s = connection.large_since_s
            if since_s is not None and (now_s - connection.moved_s > ROOM_STALL_S or now_s - since_s > ROOM_HELD_S):
                connection.abort("request arrives too slowly while others wait for room")
        self._relief = asyncio.get_running_loop().call_later(RELIEF_S, self._relieve)

    def _sweep(self) -> None:
        """Close connections whose frame or client stalled, and those nobody used for long."""
        now_s = self.context.clock.monotonic()
        for connection in self._connections:
            connection.look()
            quiet_s = now_s - connection.moved_s
            if connection.stranger:
                connection.abort("nobody signed in")
            elif connection.partial and quiet_s > FRAME_STALL_S:
                connection.abort(f"request stalled for {quiet_s:.0f} s")
            elif connection.unread and quiet_s > WRITE_STALL_S:
                connection.abort("client does not read its answers")
            elif connection.idle and quiet_s > IDLE_S:
                connection.abort("")
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
