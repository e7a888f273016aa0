"""The one port between the log and everything above it.

`Broker` is what heads use inside the hub process; `EventSource` is what a worker process holds. Both speak of hubs,
partitions, offsets, batches and positions, never of a wire protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

import msgspec

from gridwire.core.batch import Event
from gridwire.core.settings import HubSettings
from gridwire.log.transactions import Aborted

if TYPE_CHECKING:  # the hub process must not pay for numpy
    from gridwire.broker.transactions import Transactions
    from gridwire.columnar.columns import EventColumns

Place = tuple[str, int]
"""(hub name, partition)."""


@dataclass(frozen=True, slots=True)
class HubInfo:
    """What is known of a hub. `id` never changes and is never reused; `internal` hubs are not for clients to write."""

    name: str
    id: UUID
    partitions: int
    settings: HubSettings
    internal: bool = False
    created_ms: int = 0


class Appended(msgspec.Struct, frozen=True, gc=False):
    """An acknowledged append. `append_time_ms` is -1 unless the hub stamps append time."""

    base_offset: int
    append_time_ms: int = -1
    log_start: int = 0
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """`start`: first offset kept. `end`: offset of the next event; everything before it is as durable as promised."""

    start: int
    end: int
    stable: int = -1
    """Where the first undecided transaction begins, else `end`."""


@dataclass(frozen=True, slots=True)
class Position:
    """A committed position: the offset of the next event to read."""

    offset: int
    metadata: str = ""
    committed_ms: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """Whole batches, verbatim and back to back; the first may start before the offset asked for."""

    data: bytes | memoryview
    start: int
    end: int
    stable: int = -1
    aborted: Sequence[Aborted] = ()
    """Aborted transactions the data may belong to; only of committed reads."""


class Broker(Protocol):
    """Append, read, wait, commit, admin. Every method raises from `gridwire.core.errors`."""

    directory: Path
    """Where the data lies, for people to be told."""

    transactions: Transactions
    """Who is in which transaction."""

    durability: str
    """`fsync`, `interval:MS` or `os`."""

    def hubs(self) -> Sequence[HubInfo]:
        """All hubs by name, internal ones included."""
        ...

    def hub(self, name: str) -> HubInfo:
        """Raises UnknownHub."""
        ...

    async def create_hub(
        self, name: str, partitions: int | None = None, settings: Mapping[str, Any] | None = None
    ) -> HubInfo:
        """Durable when it returns. Raises HubExists, InvalidName, InvalidSetting."""
        ...

    async def delete_hub(self, name: str) -> None:
        """Forget the hub and its data. Raises UnknownHub."""
        ...

    async def add_partitions(self, name: str, total: int) -> HubInfo:
        """Grow to `total` partitions. Raises UnknownHub, InvalidSetting."""
        ...

    async def alter_hub(self, name: str, settings: Mapping[str, Any]) -> HubInfo:
        """Change settings live. Raises UnknownHub, InvalidSetting."""
        ...

    def append(self, hub: str, partition: int, batches: bytearray | memoryview) -> asyncio.Future[Appended]:
        """Append whole v2 batches; resolved when they are as durable as promised.

        The buffer is stamped in place and must not be reused before the future is done. Appends are ordered as called.
        Raises (through the future): UnknownHub, UnknownPartition, InvalidBatch, MessageTooLarge, OutOfOrderSequence,
        FencedEpoch, StorageFailed.
        """
        ...

    def append_transactional(
        self, hub: str, partition: int, batches: bytearray | memoryview, transactional_id: str, *, add: bool
    ) -> asyncio.Future[Appended]:
        """As `append`, for batches of a transaction; `add`: the partition becomes part of it if it is not yet.

        Raises (through the future) also: UnknownProducer, InvalidTransaction.
        """
        ...

    async def bounds(self, hub: str, partition: int) -> Bounds:
        """Raises UnknownHub, UnknownPartition."""
        ...

    async def sizes(self, hub: str) -> Sequence[int]:
        """Bytes kept, per partition. Raises UnknownHub."""
        ...

    async def read(self, hub: str, partition: int, offset: int, bytes_max: int, *, committed: bool = False) -> Read:
        """What is there now, at least one whole batch if any. Raises OffsetOutOfRange, UnknownHub, Corruption.

        Args:
            committed: nothing undecided; the reader passes over batches of the aborted transactions it is told.
        """
        ...

    async def wait(self, positions: Mapping[Place, int], timeout_s: float, *, committed: bool = False) -> None:
        """Return when an event (a decided one) at or after one of the offsets is readable, or the time is up."""
        ...

    async def offset_at(self, hub: str, partition: int, timestamp_ms: int) -> tuple[int, int] | None:
        """(offset, timestamp) of the first event with a timestamp >= the given one; None if there is none."""
        ...

    async def newest(self, hub: str, partition: int) -> tuple[int, int] | None:
        """(offset, timestamp) of the first event with the largest timestamp; None if there is no event."""
        ...

    async def delete_records(self, hub: str, partition: int, before: int | None) -> int:
        """Forget events below an offset (None: all); durable when it returns the new start. Raises OffsetOutOfRange."""
        ...

    async def new_producer_id(self) -> tuple[int, int]:
        """A (producer id, epoch) nobody else has."""
        ...

    async def commit(self, group: str, positions: Mapping[Place, Position]) -> None:
        """Durable when it returns."""
        ...

    async def positions(self, group: str) -> Mapping[Place, Position]:
        """Committed positions of a group; empty when there are none."""
        ...

    async def forget_positions(self, group: str, places: Sequence[Place]) -> None:
        """Forget single positions of a group. Raises UnknownHub."""
        ...

    async def group_names(self) -> Sequence[str]:
        """Groups with committed positions."""
        ...

    async def delete_group(self, group: str) -> None:
        """Forget the group's positions."""
        ...


class Journal(Broker, Protocol):
    """A broker that also keeps the records of other parts: policies, schemas, claims of partitions."""

    async def change(self, changes: Mapping[str, bytes | None]) -> None:
        """Write keyed changes to the control journal, all or none; durable when it returns. Raises StorageFailed."""
        ...

    def kept(self, prefix: str) -> Iterable[tuple[str, bytes]]:
        """Journal entries below a prefix, the rest of the key first."""
        ...


@dataclass(frozen=True, slots=True)
class ColumnBatch:
    """Events of one partition as columns; commit `next_offset` once they are dealt with."""

    hub: str
    partition: int
    columns: EventColumns
    next_offset: int


@dataclass(frozen=True, slots=True)
class Output:
    """Events a worker publishes together with its position."""

    hub: str
    partition: int
    events: Sequence[Event] = field(default_factory=tuple)


class EventSource(Protocol):
    """A worker's subscription: columns in; position and outputs committed together.

    One owner per group: opening a source takes the group over and fences the previous owner.
    """

    group: str

    def partitions(self, hub: str) -> int:
        """Number of partitions. Raises UnknownHub."""
        ...

    def hub_id(self, hub: str) -> UUID:
        """The id of a subscribed hub; another one after it was deleted and created again. Raises UnknownHub."""
        ...

    def positions(self) -> dict[Place, int]:
        """Where the next poll reads, for every place of the subscription."""
        ...

    def seek(self, place: Place, offset: int) -> None:
        """Read from elsewhere; does not change the committed position."""
        ...

    def poll(self, timeout_s: float, bytes_max: int = 32 * 1024 * 1024) -> list[ColumnBatch]:
        """Columns that arrived, woken by the hub; empty when the time is up."""
        ...

    def commit(self, positions: Mapping[Place, int], outputs: Sequence[Output] = ()) -> None:
        """Positions and outputs become durable together or not at all. Raises FencedEpoch, Unavailable."""
        ...

    def lag(self) -> dict[Place, int]:
        """Events between the reading position and the end, as last told by the hub."""
        ...

    def close(self) -> None:
        """Let go of the hub."""
        ...
