"""What heads with connections of their own share: a listener, and who is connected."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterator
from typing import Final, Generic, Protocol, TypeVar

BACKLOG: Final = 1024
"""Connections waiting to be accepted: a district of meters reconnects at once."""

HANDSHAKE_S: Final = 10.0
"""How long a TLS handshake may take."""


async def listen(
    make: Callable[[], asyncio.BaseProtocol], host: str, port: int, tls: ssl.SSLContext | None
) -> asyncio.Server:
    """Serve connections. Raises OSError when the address cannot be used."""
    handshake_s = None if tls is None else HANDSHAKE_S
    return await asyncio.get_running_loop().create_server(
        make, host or None, port, backlog=BACKLOG, ssl=tls, ssl_handshake_timeout=handshake_s
    )


class Abortable(Protocol):
    """A connection that can be closed at once."""

    def abort(self, reason: str) -> None:
        """Close at once; a reason is logged."""
        ...


class Counted(Protocol):
    """The counters of a head that are kept here."""

    connections: int
    connections_total: int
    connections_refused: int


Connection = TypeVar("Connection", bound=Abortable)


class Connected(Generic[Connection]):
    """Who is connected, and no more than so many."""

    def __init__(self, connections_max: int, counters: Counted) -> None:
        self._most = connections_max
        self._counters = counters
        self._all: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: Connection) -> bool:
        """Let one in; False when there are too many."""
        self._counters.connections_total += 1
        if len(self._all) >= self._most:
            self._counters.connections_refused += 1
            return False
        self._all.add(connection)
        self._empty.clear()
        self._counters.connections = len(self._all)
        return True

    def discard(self, connection: Connection) -> None:
        """Forget one."""
        self._all.discard(connection)
        self._counters.connections = len(self._all)
        if not self._all:
            self._empty.set()

    async def gone(self, within_s: float) -> None:
        """Wait until all have left, but no longer than that."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), within_s)

    async def abort(self) -> None:
        """Close all that are left and wait for that."""
        for connection in self:
            connection.abort("")
        await self._empty.wait()
