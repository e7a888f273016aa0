"""The host's side of a batch: columns of the log, cut into pieces, packed for a worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from gridwire.broker.port import ColumnBatch
from gridwire.columnar.columns import EventColumns
from gridwire.core.batch import Event
from gridwire.functions.frames import SIZES, padded
from gridwire.functions.model import Call

ROW_BYTES: Final = 5 * 8 + 3 * 4
"""Bytes of one event's columns in a frame."""


@dataclass(slots=True)
class Piece:
    """Events of one partition that are given to the function in one call.

    Args:
        parts: in order. first, next_offset: what is behind us once the piece is done; offsets may have gaps.
        tries: how often this very piece failed. deaths: how often the worker died or hung over it.
        whole: nothing was taken apart yet, so the app's own retry policy counts.
    """

    parts: list[EventColumns]
    next_offset: int
    tries: int = 0
    deaths: int = 0
    whole: bool = True
    failure: str = ""
    traceback: str = ""

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def split(self, count: int) -> tuple[Piece, Piece]:
        """The first `count` events, and the rest; as if neither had been tried."""
        first: list[EventColumns] = []
        rest: list[EventColumns] = []
        for part in self.parts:
            here = min(count, len(part))
            if here:
                first.append(part.slice(0, here))
            if here < len(part):
                rest.append(part.slice(here, len(part)))
            count -= here
        boundary = int(rest[0].offsets[0])
        return Piece(first, boundary, whole=False), Piece(rest, self.next_offset, whole=False)

    def events(self) -> list[Event]:
        """The slow way: for dead letters."""
        return [event for part in self.parts for event in part.events()]


@dataclass(slots=True)
class Buffer:
    """What was read of a partition and not yet given to the function."""

    batches: list[ColumnBatch] = field(default_factory=list)
    events: int = 0
    size_bytes: int = 0

    def add(self, batch: ColumnBatch) -> None:
        """Take a batch that follows what is there."""
        self.batches.append(batch)
        self.events += len(batch.columns)
        self.size_bytes += bytes_of(batch.columns)

    def take(self, events_max: int, bytes_max: int) -> Piece:
        """The next piece; at least one event. Must not be empty."""
        parts: list[EventColumns] = []
        count = size = 0
        end = 0
        while self.batches and count < events_max and (size < bytes_max or not parts):
            batch = self.batches[0]
            rows = min(_rows_within(batch.columns, bytes_max - size), events_max - count)
            if rows == 0 and parts:
                break
            rows = max(rows, 1)
            part = batch.columns.slice(0, rows) if rows < len(batch.columns) else batch.columns
            parts.append(part)
            count += rows
            taken = bytes_of(part)
            size += taken
            if rows == len(batch.columns):
                self.batches.pop(0)
                end = batch.next_offset
            else:
                rest = batch.columns.slice(rows, len(batch.columns))
                self.batches[0] = ColumnBatch(batch.hub, batch.partition, rest, batch.next_offset)
                end = int(rest.offsets[0])
        self.events -= count
        self.size_bytes -= size
        return Piece(parts, end)

    @property
    def oldest_ms(self) -> int:
        """Timestamp of the first event."""
        return int(self.batches[0].columns.timestamps[0])


def _rows_within(columns: EventColumns, bytes_max: int) -> int:
    """How many events from the start have values and keys of so many bytes."""
    sizes = np.maximum(columns.value_lengths, 0) + np.maximum(columns.key_lengths, 0)
    return int(np.searchsorted(np.cumsum(sizes, dtype=np.int64), bytes_max, side="right"))


def bytes_of(columns: EventColumns) -> int:
    """Bytes of values and keys."""
    lengths = np.maximum(columns.value_lengths, 0).sum(dtype=np.int64)
    return int(lengths + np.maximum(columns.key_lengths, 0).sum(dtype=np.int64))


def pack(call: Call, parts: Sequence[EventColumns]) -> list[bytes | memoryview]:
    """The body of a BATCH frame, see `frames`. A part's bytes are taken as one stretch: records lie back to back."""
    head = msgspec.msgpack.encode(call)
    stretches: list[bytes | memoryview] = []
    moved, at = [], 0
    for part in parts:
        first, last = _stretch(part)
        stretches.append(part.data[first:last].data)
        moved.append(at - first)
        at += last - first
    n = sum(map(len, parts))

    def longs(name: str, *, starts: bool = False) -> memoryview:
        arrays = [getattr(part, name) + (shift if starts else 0) for part, shift in zip(parts, moved, strict=True)]
        return np.concatenate(arrays).astype(np.int64, copy=False).data.cast("B")

    def ints(name: str) -> memoryview:
        return np.concatenate([getattr(part, name) for part in parts]).astype(np.int32, copy=False).data.cast("B")

    begun = SIZES.size + padded(len(head)) + n * ROW_BYTES
    return [
        SIZES.pack(len(head), n, at) + head + bytes(padded(len(head)) - len(head)),
        longs("offsets"), longs("timestamps"), longs("key_starts", starts=True), longs("value_starts", starts=True),
        longs("header_starts", starts=True), ints("key_lengths"), ints("value_lengths"), ints("header_counts"),
        bytes(padded(begun) - begun), *stretches,
    ]  # fmt: skip


def _stretch(part: EventColumns) -> tuple[int, int]:
    """The bytes of `data` that keys, values and headers lie in; headers come last in a record."""
    if len(part) == 0:
        return 0, 0
    first = int(min(part.key_starts[0], part.value_starts[0], part.header_starts[0]))
    return first, max(first, part.header_end(len(part) - 1))
