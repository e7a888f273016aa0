"""Capture in Event Hubs' layout: Avro files, each event of a partition in exactly one of them.

    temporary files, synced -> record: positions and the files' final names -> rename -> directories synced

The record, one small file a hub replaced as a whole, is the commit. Before it nothing has happened: temporary files
are thrown away and their events read again. After it everything has: a start finishes the renames it names. So it does
not matter where the process dies, and a file that has its final name is whole and never changes.

A file is named after its first event's time and its partition; where that name is taken, after the next second that is
free. The record belongs to the hub's identity: a hub that was created anew starts over and touches no older file.

Source: learn.microsoft.com/azure/event-hubs, "Capture streaming events", "Explore captured Avro files".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import fastavro
import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from gridwire.capture import durable
from gridwire.capture.layout import Layout, second_of
from gridwire.core.errors import Corruption, StorageFailed
from gridwire.log import disk

STATE: Final = "@state"
"""Directory of records and temporary files; no pattern can reach into it."""

ROWS_AT_ONCE: Final = 4096
"""Rows that are Python objects at the same time."""

_VALUES: Final = {"type": "map", "values": ["long", "double", "string", "bytes"]}
SCHEMA: Final = fastavro.parse_schema(
    {
        "type": "record",
        "name": "EventData",
        "namespace": "Microsoft.ServiceBus.Messaging",
        "fields": [
            {"name": "SequenceNumber", "type": "long"},
            {"name": "Offset", "type": "string"},
            {"name": "EnqueuedTimeUtc", "type": "string"},
            {"name": "SystemProperties", "type": _VALUES},
            {"name": "Properties", "type": _VALUES},
            {"name": "Body", "type": ["null", "bytes"]},
        ],
    }
)
"""The schema Event Hubs writes."""

_SYSTEM: Final = frozenset({"content-type", "content-encoding", "correlation-id", "message-id", "x-opt-publisher"})
"""Headers of an event that are no property of its sender's making."""

_AMQP: Final = "amqp."
"""Headers that keep what AMQP says of an event: system properties, but for those of `amqp.property.`."""


class PartitionRecord(msgspec.Struct, frozen=True):
    """How far a partition is captured. `second`: the time its newest file is named after."""

    position: int
    second: int = -1


class HubRecord(msgspec.Struct, frozen=True):
    """The commit. `renames`: temporary name to final path of the newest files; done long ago, or still to do."""

    hub: str
    partitions: dict[int, PartitionRecord] = {}
    renames: dict[str, str] = {}


class AvroWriter:
    """Writes the files of one hub; takes the place of `TableWriter`.

    Args:
        root: directory of captured files.

    Raises:
        Unavailable: another process writes this hub's files. Corruption: its record cannot be read.
    """

    moved_to: Path | None = None

    def __init__(
        self, root: Path, layout: Layout, hub: str, hub_id: UUID, *, after: Callable[[str], None] = lambda step: None
    ) -> None:
        self.hub = hub
        self.version = 0
        self._root = root
        self._layout = layout
        self._after = after
        self._state = root / STATE
        self._id = hub_id.hex
        _make(self._state, root.parent)
        self._lock = durable.lock(self._state / self._id)
        try:
            self._record = self._read()
            self.repaired = self._finish()
        except BaseException:
            self.close()
            raise

    def position(self, partition: int) -> int | None:
        """Offset to read next; None when nothing of the partition was captured."""
        known = self._record.partitions.get(partition)
        return None if known is None else known.position

    def append(self, batches: Sequence[pa.RecordBatch], positions: Mapping[int, int], lost: int = 0) -> int:
        """Write one file a partition and move the positions; durable when it returns. Events captured are left out.

        Args:
            batches: of one partition each, in the order of the log, as `decoders.events` makes them.
            positions: offset to read next, per partition.
            lost: events retention deleted before they could be read; there is no place for them in a file.

        Returns:
            Number of events written.

        Raises:
            StorageFailed: the disk refused; open a new writer.
        """
        moved = {p: offset for p, offset in positions.items() if offset > (self.position(p) or 0)}
        if not moved:
            return 0
        try:
            return self._commit(batches, moved)
        except OSError as error:
            raise disk.storage_error(error, f"capturing hub {self.hub!r}") from error

    def _commit(self, batches: Sequence[pa.RecordBatch], moved: Mapping[int, int]) -> int:
        partitions, renames, rows = dict(self._record.partitions), {}, 0
        for partition, position in moved.items():
            fresh = self._unseen(batches, partition)
            second = partitions[partition].second if partition in partitions else -1
            if fresh:
                second = self._free_second(partition, fresh[0], second)
                # Never the name of a file that is recorded: a start would rename this one in its stead.
                name = f"{self._id}.{partition}.{self.position(partition) or 0}.tmp"
                rows += self._stage(name, fresh)
                renames[name] = self._layout.path(self.hub, partition, second)
            partitions[partition] = PartitionRecord(position, second)
        disk.sync_directory(self._state)
        self._after("staged")
        record = HubRecord(self.hub, partitions, renames)
        disk.write_atomic(self._state / f"{self._id}.json", msgspec.json.encode(record))
        self._record = record
        self._after("recorded")
        self._rename(renames)
        self.version += 1
        self._after("renamed")
        return rows

    def _unseen(self, batches: Sequence[pa.RecordBatch], partition: int) -> list[pa.RecordBatch]:
        """Events of a partition that are in no file yet."""
        position = self.position(partition) or 0
        own = (batch for batch in batches if batch.num_rows and batch.column("partition")[0].as_py() == partition)
        kept = (batch.filter(pc.greater_equal(batch.column("offset"), position)) for batch in own)
        return [batch for batch in kept if batch.num_rows]

    def _free_second(self, partition: int, first: pa.RecordBatch, newest: int) -> int:
        """The time to name a file after. Later than the newest file's, unless the events themselves are older."""
        second = second_of(first.column("timestamp").cast(pa.int64())[0].as_py())
        if self._taken(partition, second):
            second = max(second, newest) + 1
            while self._taken(partition, second):
                second += 1
        return second

    def _taken(self, partition: int, second: int) -> bool:
        return (self._root / self._layout.path(self.hub, partition, second)).exists()

    def _stage(self, name: str, batches: Sequence[pa.RecordBatch]) -> int:
        with (self._state / name).open("wb") as file:
            fastavro.writer(file, SCHEMA, chain.from_iterable(map(records, batches)), codec="deflate")
            file.flush()
            os.fsync(file.fileno())
        return sum(batch.num_rows for batch in batches)

    def _read(self) -> HubRecord:
        path = self._state / f"{self._id}.json"
        if not path.exists():
            return HubRecord(self.hub)
        try:
            return msgspec.json.decode(path.read_bytes(), type=HubRecord)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise Corruption("the record of captured files cannot be read", hub=self.hub, segment=path.name) from None

    def _finish(self) -> list[str]:
        """Do what the record says and a crash left undone; throw away what it does not name."""
        try:
            done = self._rename(self._record.renames)
            for path in self._state.glob(f"{self._id}.*.tmp"):
                path.unlink()
        except OSError as error:
            raise disk.storage_error(error, f"capturing hub {self.hub!r}") from error
        return done

    def _rename(self, renames: Mapping[str, str]) -> list[str]:
        done = []
        for name, path in renames.items():
            source, target = self._state / name, self._root / path
            if source.exists():
                _make(target.parent, self._root)
                source.rename(target)
                disk.sync_directory(target.parent)
                done.append(path)
        if done:
            disk.sync_directory(self._state)
        return done

    def tend(self) -> list[str]:
        """Nothing: files are never merged or removed; that is their owner's to do."""
        return []

    def close(self) -> None:
        """Let go of the files."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def records(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Events as Event Hubs captures them. `EnqueuedTimeUtc` has no fractions there; `x-opt-enqueued-time` has."""
    for start in range(0, batch.num_rows, ROWS_AT_ONCE):
        part = batch.slice(start, ROWS_AT_ONCE)
        times = part.column("timestamp").cast(pa.int64()).to_pylist()
        columns = (part.column(name).to_pylist() for name in ("offset", "key", "value", "headers"))
        for offset, key, value, headers, time_ms in zip(*columns, times, strict=True):
            system, properties = _properties(key, headers)
            system["x-opt-enqueued-time"] = time_ms
            yield {
                "SequenceNumber": offset,
                "Offset": str(offset),
                "EnqueuedTimeUtc": time_text(time_ms),
                "SystemProperties": system,
                "Properties": properties,
                "Body": value,
            }


def _properties(key: bytes | None, headers: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """System properties and properties. Of headers with the same name the last counts: a map has no other place."""
    system: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    if key is not None:
        text = _value(key)
        system["x-opt-partition-key" if isinstance(text, str) else "x-opt-kafka-key"] = text
    for header in headers:
        name, value = header["key"], _value(header["value"] or b"")
        if name in _SYSTEM:
            system[name] = value
        elif name.startswith(_AMQP + "property."):
            properties[name.removeprefix(_AMQP + "property.")] = value
        elif name.startswith(_AMQP):
            system[name.removeprefix(_AMQP).removeprefix("annotation.")] = value
        else:
            properties[name] = value
    return system, properties


def _value(value: bytes) -> str | bytes:
    """Text where it is text."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def time_text(time_ms: int) -> str:
    """`7/30/2021 5:13:50 AM`, as Event Hubs writes times."""
    moment = datetime.fromtimestamp(second_of(time_ms), UTC)
    hour = moment.hour % 12 or 12
    half = "AM" if moment.hour < 12 else "PM"
    day = f"{moment.month}/{moment.day}/{moment.year:04d}"
    return f"{day} {hour}:{moment.minute:02d}:{moment.second:02d} {half}"


def _make(directory: Path, top: Path) -> None:
    """Make a directory below `top`; its name is durable, and so are those above it."""
    missing = []
    while not directory.exists() and directory != top:
        missing.append(directory)
        directory = directory.parent
    try:
        for each in reversed(missing):
            each.mkdir(parents=True, exist_ok=True)
            disk.sync_directory(each.parent)
    except OSError as error:
        raise StorageFailed(f"directory {missing[0]} cannot be made: {error.strerror}") from error
