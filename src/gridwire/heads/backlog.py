"""What the connections of a head hold, and who has to go when it is too much.

`Backlog`: answers that clients have not read yet. `Arriving`: what has come and is not whole yet.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)


class Backlog:
    """Bounds what waits in the write buffers of connections whose clients read too slowly.

    A client that reads leaves the backlog again and again; one that never does stays where it was, at the front. So
    when there is too much, the connections that wait longest are cut, and whoever reads is not hurt.

    Args:
        bytes_max: unread bytes over all connections above which the slowest is cut.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        """Unread bytes, each connection's as of the moment it stopped reading: never fewer than there are."""
        self.dropped = 0
        """Connections cut since the start."""
        self._held: dict[asyncio.WriteTransport, int] = {}

    def paused(self, transport: asyncio.WriteTransport) -> None:
        """A transport's buffer has become too full."""
        self.resumed(transport)
        self._hold(transport)
        if self.bytes > self.bytes_max:
            self._relieve()

    def resumed(self, transport: asyncio.WriteTransport) -> None:
        """Its client caught up, or is gone."""
        self.bytes -= self._held.pop(transport, 0)

    def _hold(self, transport: asyncio.WriteTransport) -> None:
        size = transport.get_write_buffer_size()
        self._held[transport] = size
        self.bytes += size

    def _relieve(self) -> None:
        """Look how much is really left, and cut connections until it is little enough."""
        held, self._held, self.bytes = self._held, {}, 0
        for transport in held:  # in the order in which they stopped reading
            self._hold(transport)
        before = self.dropped
        while self.bytes > self.bytes_max:
            slowest = next(iter(self._held))
            self.resumed(slowest)
            slowest.abort()
            self.dropped += 1
        if self.dropped > before:
            log.warning("clients_that_do_not_read_dropped", connections=self.dropped - before)


class Holder(Protocol):
    """A connection that holds bytes."""

    def abort(self, reason: str) -> None:
        """Close at once."""
        ...


class Arriving:
    """Bounds what has come of frames and messages that are not whole yet, over all connections of a head.

    Whose message becomes whole goes to the back, so when there is too much those that wait longest for theirs are cut.

    Args:
        bytes_max: bytes over all connections above which the slowest is cut.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        self._held: dict[Holder, int] = {}

    def holds(self, connection: Holder, size: int, *, moved: bool) -> None:
        """So many bytes wait now for the rest of theirs; `moved`: something became whole since the last call."""
        before = self._held.pop(connection, 0) if moved or not size else self._held.get(connection, 0)
        self.bytes += size - before
        if size:
            self._held[connection] = size
        while self.bytes > self.bytes_max:
            slowest = next(iter(self._held))
            self.holds(slowest, 0, moved=False)
            slowest.abort("its message arrives too slowly, and too much waits for the rest of theirs")
