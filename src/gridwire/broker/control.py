"""Control state: an append-only journal of keyed changes, replayed into one dictionary.

Everything the hub knows besides events lives here: hubs, committed positions, producer ids, owners of groups,
outputs on their way. A change set is one record batch of `(key, value | null)` events in an internal partition, so
it is durable and atomic like any batch: after a crash all of it is there or none.

Compaction: when the journal's segment rolls, the live keys are written once more at the start of the new segment and,
when they are durable, the older segments are deleted. A crash in between leaves both, which replays to the same state.

    hub/<name>                          HubRecord
    position/<group>/<hub id>/<part>    PositionRecord
    start/<hub id>/<part>               first offset kept, where events were deleted by request
    producer                            next producer id
    transaction/<id>                    TransactionRecord (`gridwire.broker.transactions`)
    owner/<group>                       OwnerRecord
    group/<group>                       a consumer group that is there although nobody has read with it yet
    claim/<group>/<hub id>/<part>       who works on a partition: see `gridwire.broker.claims`
    schemagroup/<group>, schema/...     the schema registry: see `gridwire.broker.schemas`
    alertrule/<name>                    alert rules of users: see `gridwire.broker.alert_rules`
    function/<app>, functionpackage/...  deployed apps of functions: see `gridwire.broker.deployments`
    alertroute/<name>                   routes of alerts: see `gridwire.broker.alert_routes`
    identity/<kind>/<name>              policies, users, lists, quotas: see `gridwire.broker.identities`
    outbox/<group>/<n>                  OutboxRecord: a batch of outputs, committed but perhaps not yet in its hub
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from gridwire.broker.port import Journal
from gridwire.core.batch import Event, Headers, decode, encode, iter_headers
from gridwire.core.limits import MIB
from gridwire.core.settings import HubSettings
from gridwire.log.partition import PartitionLog

JOURNAL = "__control"
_SNAPSHOT_BATCH_EVENTS = 10_000
_SNAPSHOT_BATCH_BYTES = 4 * MIB

Changes = Mapping[str, bytes | None]


class HubRecord(msgspec.Struct, frozen=True):
    """A hub as the journal keeps it."""

    id: str
    partitions: int
    settings: HubSettings
    internal: bool = False
    created_ms: int = 0


class PositionRecord(msgspec.Struct, frozen=True, array_like=True):
    """A committed position."""

    offset: int
    metadata: str = ""
    committed_ms: int = 0


class OwnerRecord(msgspec.Struct, frozen=True, array_like=True):
    """Who owns a worker group: its producer id and the epoch that fences earlier owners."""

    producer_id: int
    epoch: int


class OutboxRecord(msgspec.Struct, frozen=True, array_like=True):
    """One batch of outputs, ready to append: producer id, epoch and sequence make the append idempotent."""

    hub_id: str
    partition: int
    batch: bytes


def pack(value: Any) -> bytes:
    """A record as journal bytes."""
    return msgspec.msgpack.encode(value)


class Entries:
    """The dictionary that change sets make."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}

    def apply(self, changes: Changes) -> None:
        """Take a change set that is durable."""
        for key, value in changes.items():
            if value is None:
                self.entries.pop(key, None)
            else:
                self.entries[key] = value

    def under(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Entries whose key starts with `prefix`, the rest of the key first."""
        for key, value in list(self.entries.items()):
            if key.startswith(prefix):
                yield key[len(prefix) :], value


class ControlState(Entries):
    """The journal's dictionary. Pure bookkeeping: the broker appends, then applies."""

    def replay(self, log: PartitionLog) -> None:
        """Apply the whole journal in order."""
        offset = log.start_offset
        while offset < log.end_offset:
            data = log.read(offset, 8 * 1024 * 1024)
            for position, header in iter_headers(data):
                self.apply({(event.key or b"").decode(): event.value for event in decode(data, position)})
                offset = header.next_offset

    def snapshot(self, now_ms: int) -> Iterator[bytearray]:
        """The live entries as batches for the start of a fresh segment."""
        items: list[tuple[str, bytes | None]] = []
        size = 0
        for key, value in list(self.entries.items()):
            if items and (len(items) == _SNAPSHOT_BATCH_EVENTS or size + len(value) > _SNAPSHOT_BATCH_BYTES):
                yield change_batch(items, now_ms)
                items, size = [], 0
            items.append((key, value))
            size += len(value)
        if items:
            yield change_batch(items, now_ms)


Take = Callable[[str, bytes | None], None]
"""Takes the value of a key, or that it is gone; the key without its prefix."""


def follow(journal: Journal, prefix: str, take: Take) -> None:
    """Hand over what is kept below a prefix, and from now on every change of it, whoever makes it: the one way in which
    control state gets into the parts that use it."""

    def changed(changes: Changes) -> None:
        for key, value in changes.items():
            if key.startswith(prefix):
                take(key[len(prefix) :], value)

    for rest, value in journal.kept(prefix):
        take(rest, value)
    journal.on_change(changed)


def change_batch(changes: Iterable[tuple[str, bytes | None]], now_ms: int, headers: Headers = ()) -> bytearray:
    """A change set as one record batch. `headers`: of each of its records."""
    return encode([Event(value, key.encode(), headers, now_ms) for key, value in changes])
