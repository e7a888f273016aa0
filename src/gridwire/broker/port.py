"""The one port between the log and everything above it.

`Broker` is what heads use inside the hub process; `EventSource` is what a worker process holds. Both speak of hubs,
partitions, offsets, batches and positions, never of a wire protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

import msgspec

from gridwire.core.batch import Event
from gridwire.core.settings import HubSettings
from gridwire.groups.model import GroupView
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
    """Append, read, wait, commit, admin, control state. Every method raises from `gridwire.core.errors`.

    Two implementations: `EmbeddedBroker`, and `KafkaBroker` over any Kafka cluster. With the latter every method that
    is awaited raises Unavailable while the cluster cannot do it.
    """

    on_hubs_changed: Callable[[], None]
    """Called whenever a hub comes, goes or changes, whoever did it. One listener: the composition root."""

    @property
    def durability(self) -> str:
        """What an acknowledgement means: `fsync`, `interval:MS`, `os`, or Kafka's `acks=all, ...`; for people."""
        ...

    @property
    def cluster_id(self) -> str:
        """Never changes, and no other cluster or data directory has it."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why nothing can be served at present; None when all is well."""
        ...

    def durable(self, hub: str) -> bool:
        """Whether what is acknowledged survives a power cut, or the loss of a machine where there are several."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """What a status page says of it: `kind`, and what that kind has to tell."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Running totals since the start, by name."""
        ...

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

    async def bounds(self, hub: str, partition: int) -> Bounds:
        """Raises UnknownHub, UnknownPartition."""
        ...

    async def bounds_of(self, places: Iterable[Place]) -> Mapping[Place, Bounds]:
        """Bounds of many places at once; places that are not there are left out."""
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
        """Return when an event (a decided one) at or after one of the offsets is readable, or the time is up.

        Ends also when one of the hubs goes; then, or by the next call, it raises UnknownHub. Raises UnknownPartition.
        """
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


class TransactionalBroker(Broker, Protocol):
    """What a head that speaks Kafka's own protocol needs besides. On a Kafka cluster its clients go to Kafka itself."""

    directory: Path
    """Where the data lies, for people to be told."""

    transactions: Transactions
    """Who is in which transaction."""

    def append_transactional(
        self, hub: str, partition: int, batches: bytearray | memoryview, transactional_id: str, *, add: bool
    ) -> asyncio.Future[Appended]:
        """As `append`, for batches of a transaction; `add`: the partition becomes part of it if it is not yet.

        Raises (through the future) also: UnknownProducer, InvalidTransaction.
        """
        ...


class GroupDirectory(Protocol):
    """Who is in which consumer group: the hub's own coordinator, or the cluster's."""

    async def views(self) -> Mapping[str, GroupView]:
        """All groups with members, or with members once, by name. Raises Unavailable."""
        ...

    async def view(self, group: str) -> GroupView | None:
        """One group; None when nobody knows of members. Raises Unavailable."""
        ...


class Journal(Broker, Protocol):
    """A broker that also keeps the records of other parts: policies, schemas, claims of partitions."""

    async def change(self, changes: Mapping[str, bytes | None]) -> None:
        """Write keyed changes to the control journal, all or none; durable when it returns. Raises StorageFailed.

        For what does not depend on what is kept; else `update`.
        """
        ...

    async def update(self, decide: Callable[[], Mapping[str, bytes | None]]) -> bool:
        """Write what `decide` makes of what is kept, as one step: no change of anybody comes in between.

        Args:
            decide: reads what is kept, or what `on_change` made of it, and returns changes; none for nothing to do. It
                may be called several times, before each time everything is told that was acknowledged anywhere.

        Returns:
            Whether there was something to write; it is durable then.

        Raises:
            What `decide` raises; nothing is written then. StorageFailed, Unavailable.
        """
        ...

    def kept(self, prefix: str) -> Iterable[tuple[str, bytes]]:
        """Journal entries below a prefix, the rest of the key first."""
        ...

    async def catch_up(self) -> None:
        """Return when `kept` has every change that was acknowledged anywhere before the call. Raises Unavailable."""
        ...

    def on_change(self, listener: Callable[[Mapping[str, bytes | None]], None]) -> None:
        """Call `listener` with every change set once it is in `kept`, whoever made it: other gateways too."""
        ...


@dataclass(frozen=True, slots=True)
class ColumnBatch:
    """Events of one partition as columns; commit `next_offset` once they are dealt with.

    Args:
        position: what was asked for, -1 if that is the first offset. Offsets may have gaps where nothing was ever to be
            read (markers of transactions, what compaction took); what lies before `position` was deleted by retention.
    """

    hub: str
    partition: int
    columns: EventColumns
    next_offset: int
    position: int = -1

    @property
    def first_offset(self) -> int:
        """Where the batch begins: everything from here to `next_offset` is in it or was never to be read."""
        if self.position >= 0:
            return self.position
        return int(self.columns.offsets[0]) if len(self.columns) else self.next_offset


@dataclass(frozen=True, slots=True)
class Output:
    """Events a worker publishes together with its position."""

    hub: str
    partition: int
    events: Sequence[Event] = field(default_factory=tuple)


class EventSource(Protocol):
    """A member of a group of workers: columns in; position and outputs committed together.

    What a member works on changes while it works, on any broker: members come and go, hubs are created, deleted and
    grow. It is told at one point only, `poll`, and compares `assigned` before and after. What it computed of a place
    that it lost and has not committed is to be thrown away: who has the place now reads from the committed position.
    """

    group: str

    whole_hubs: bool
    """A member has all partitions of a hub or none of them; else each partition by itself."""

    def partitions(self, hub: str) -> int:
        """Number of partitions. Raises UnknownHub."""
        ...

    def create_hub(self, hub: str, partitions: int | None = None) -> None:
        """Create a hub unless it exists."""
        ...

    def hub_id(self, hub: str) -> UUID:
        """The id of a subscribed hub; another one after it was deleted and created again. Raises UnknownHub."""
        ...

    def assigned(self) -> Mapping[Place, int]:
        """Places this member works on. The number is another one whenever the place was assigned anew: somebody else
        may have worked on it in between, or the hub may be another one of the same name."""
        ...

    def committed(self) -> Mapping[Place, Position]:
        """Committed positions of the assigned places, the note of the commit as their metadata."""
        ...

    def positions(self) -> dict[Place, int]:
        """Where the next poll reads: every place assigned or followed."""
        ...

    def seek(self, place: Place, offset: int) -> None:
        """Read from elsewhere; does not change the committed position. Nothing for a place that is not ours."""
        ...

    def offsets_at(self, timestamp_ms: int | None) -> dict[Place, int]:
        """Of every assigned place the first offset whose event is of that time or later, the end where there is none.

        Everything before it is older; what follows may be too, where times are not in order. Nothing is read for it.
        None: the first offset kept.
        """
        ...

    def poll(self, timeout_s: float, bytes_max: int = 32 * 1024 * 1024) -> list[ColumnBatch]:
        """Columns that arrived, woken by the broker; empty when the time is up, and when the assignment changed."""
        ...

    def commit(self, positions: Mapping[Place, int], outputs: Sequence[Output] = (), note: str = "") -> None:
        """Positions and outputs become durable together or not at all.

        Args:
            note: kept with every one of the positions.

        Raises:
            FencedEpoch: another worker has taken the group over. Rebalanced: some of the places are another member's
            now; nothing happened, `poll` tells the rest. Unavailable: no answer, open another source and see.
        """
        ...

    def lag(self) -> dict[Place, int]:
        """Events between the reading position and the end, as last told by the broker."""
        ...

    def close(self) -> None:
        """Leave the group and let go of the broker."""
        ...
