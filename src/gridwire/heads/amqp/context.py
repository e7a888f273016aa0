"""What every part of the AMQP head is given: its services, limits and counters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gridwire.broker.identities import Identities
from gridwire.broker.port import Broker, HubInfo
from gridwire.core.clock import Clock
from gridwire.core.errors import HubExists, UnknownHub, UnknownPartition
from gridwire.core.limits import MIB, check_name
from gridwire.heads.backlog import Arriving, Backlog

if TYPE_CHECKING:
    from gridwire.heads.amqp.appender import Appender
    from gridwire.heads.amqp.groups import Readers

MESSAGE_BYTES_MAX: Final = MIB
"""One message or batch; the Azure SDKs fill their batches up to what the link says."""

SENDER_CREDIT: Final = 1000
"""Deliveries a sender may have under way on a link; granted again at half."""

CBS_CREDIT: Final = 100
PENDING_BYTES_MAX: Final = 32 * MIB
"""Events of one connection that are not on disk yet; above it nothing more is read from its socket."""

HEAD_BYTES_MAX: Final = 256 * MIB
"""As above, over all connections."""

WRITE_BUFFER_BYTES: Final = MIB
"""Unsent bytes above which a connection's receivers wait."""

HEAD_UNREAD_BYTES_MAX: Final = 256 * MIB
"""Unsent bytes over all connections; above it the one that reads nothing for longest is cut."""

ARRIVING_BYTES_MAX: Final = 32 * MIB
"""Frames and messages of one connection that are not whole yet; above it the connection is closed."""

HEAD_ARRIVING_BYTES_MAX: Final = 256 * MIB
"""As above, over all connections; the one that waits longest for the rest is cut."""

READ_BYTES: Final = 256 * 1024
"""Asked of the log at once for one link; a larger batch comes whole."""

HELD_BYTES_MAX: Final = 128 * MIB
"""Batches that receivers hold while they wait for credit, over all connections. Above it they are read again later."""

UNSETTLED_MAX: Final = 5000
"""Deliveries of one link whose outcome is not known."""

CONNECTION_UNSETTLED_MAX: Final = 20_000
"""As above, over all links of a connection: some 5 MB."""

NON_EPOCH_READERS_MAX: Final = 5
"""Receivers without owner level on one partition of one group: the service's own limit."""

SIGN_IN_S: Final = 30.0
"""How long a connection may take until its open."""

IDLE_TIME_OUT_MS: Final = 120_000
"""Said in open. Twice that without a byte, and a connection without links is gone; the SDKs' producers are silent."""

SILENCE_S: Final = 480.0
"""After so long without any byte a connection with links is given up: TCP may not have told that its peer died."""

SWEEP_S: Final = 1.0
DRAIN_S: Final = 5.0


@dataclass(slots=True)
class Counters:
    """What this head has done since it started."""

    connections: int = 0
    connections_total: int = 0
    connections_refused: int = 0
    links: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    events_in: int = 0
    events_out: int = 0
    errors: int = 0
    deliveries_refused: int = 0
    links_stolen: int = 0


@dataclass(slots=True)
class Context:
    """See the module."""

    broker: Broker
    clock: Clock
    auto_create: bool
    access: Identities | None = None
    container_id: str = "gridwire"
    counters: Counters = field(default_factory=Counters)
    pending_bytes: int = 0
    held_bytes: int = 0
    backlog: Backlog = field(default_factory=lambda: Backlog(HEAD_UNREAD_BYTES_MAX))
    arriving: Arriving = field(default_factory=lambda: Arriving(HEAD_ARRIVING_BYTES_MAX))
    appender: Appender = field(init=False)
    readers: Readers = field(init=False)

    def partition(self, name: str, partition: int) -> HubInfo:
        """The hub, if it has that partition. Raises UnknownHub, UnknownPartition."""
        hub = self.broker.hub(name)
        if partition >= hub.partitions:
            raise UnknownPartition(f"hub {name!r} has partitions 0 to {hub.partitions - 1}, not {partition}")
        return hub

    async def writable(self, name: str) -> HubInfo:
        """The hub to write to, created if that is allowed. Raises UnknownHub, InvalidName."""
        try:
            return self.broker.hub(check_name(name))
        except UnknownHub:
            if not self.auto_create or name.startswith("__"):
                raise
        try:
            return await self.broker.create_hub(name)
        except HubExists:  # somebody was faster
            return self.broker.hub(name)
