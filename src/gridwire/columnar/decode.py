"""Record batches to columns: spans into the segment itself, or into an arena for compressed batches.

A walk ends at the last whole batch. Damage is never passed over silently: what lies in front of it is handed out, and
the call that finds it first raises `Corruption` with its place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from fastcrc import crc32
from numpy.typing import NDArray

from gridwire.columnar import kernel as k
from gridwire.columnar.columns import EventColumns
from gridwire.core import batch, compression
from gridwire.core.errors import Corruption, InvalidBatch, MalformedBatch, MessageTooLarge
from gridwire.core.limits import DECOMPRESSED_BYTES_MAX, MIB

if TYPE_CHECKING:
    from mmap import mmap

EVENTS_PER_CALL_MAX: Final = 4 * 1024 * 1024
"""Events one call hands out unless told otherwise (a first batch may be larger): 52 bytes of columns each."""

ARENA_BYTES: Final = 8 * MIB
"""Compressed batches share an arena until it is this large: few, large columns, and bounded copying."""

TABLE_ROWS_MAX: Final = 8192
"""Batches looked at in one go; more are handed out as further columns."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a walk found.

    Args:
        columns: in offset order; none of them empty.
        next_offset: offset to go on from. next_position: where the batch with it starts, or will start.
        damaged: batches left out, only with `skip_damaged`.
    """

    columns: list[EventColumns]
    next_offset: int
    next_position: int
    damaged: list[Corruption] = field(default_factory=list)

    @property
    def events(self) -> int:
        """Events in all columns."""
        return sum(len(columns) for columns in self.columns)


def as_bytes(data: Bytes | bytes | bytearray | memoryview | mmap) -> Bytes:
    """A read-only `uint8[*]` view: one array type, so that every kernel is compiled once."""
    view: Bytes = data.view(np.uint8) if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    view = np.ascontiguousarray(view)[:]
    view.flags.writeable = False
    return view


def decode(
    data: Bytes | bytes | bytearray | memoryview | mmap,
    start: int,
    end: int,
    *,
    from_offset: int,
    hub: str = "?",
    partition: int = -1,
    segment: str = "?",
    check_crc: bool = False,
    events_max: int | None = None,
    skip_damaged: bool = False,
    skip_malformed: bool = False,
) -> Decoded:
    """Turn the whole batches in data[start:end] into columns; a cut-off last batch ends the walk.

    Events before `from_offset` and control batches are left out. The walk also ends in front of a batch that would
    exceed `events_max`, or 128 MiB of decompressed records: call again from `next_position`.

    Args:
        start: where a batch starts. end: first byte that must not be read.
        hub, partition, segment: named by errors.
        skip_damaged: leave damaged batches out and report them, as long as their length still leads to the next one.
        skip_malformed: the same, but only for batches whose CRC-32C is right: nonsense of a producer, not of the disk.

    Raises:
        Corruption: the first batch with something to deliver is damaged. Damage behind delivered events is raised
            by the next call.
    """
    view = as_bytes(data)
    if not 0 <= start <= end <= len(view):
        raise ValueError(f"bytes {start} to {end} are outside of the {len(view)} bytes given")
    limit = EVENTS_PER_CALL_MAX if events_max is None else max(events_max, 1)
    place = {"hub": hub, "partition": partition, "segment": segment}
    skip = _Skip(skip_damaged, skip_malformed)
    walk = _Walk(view, max(from_offset, 0), check_crc or skip_malformed, place, skip)
    walk.run(start, end, limit)
    return Decoded(walk.columns, walk.next_offset, walk.position, walk.damaged)


@dataclass(frozen=True, slots=True)
class _Skip:
    """Which batches are left out instead of ending the walk."""

    damaged: bool
    malformed: bool


class _Damage(Exception):
    """Internal: the batch of a table row cannot be decoded. `malformed`: although its checksum is right."""

    def __init__(self, row: int, reason: str, position: int, *, malformed: bool = False) -> None:
        super().__init__(reason)
        self.malformed = malformed
        self.row = row
        self.reason = reason
        self.position = position


class _Walk:
    """One call of `decode`."""

    def __init__(self, view: Bytes, from_offset: int, check_crc: bool, place: dict[str, Any], skip: _Skip) -> None:
        self.view = view
        self.from_offset = from_offset
        self.check_crc = check_crc
        self.place = place
        self.skip = skip
        self.columns: list[EventColumns] = []
        self.damaged: list[Corruption] = []
        self.next_offset = from_offset
        self.position = 0
        self._arena_bytes = 0

    def run(self, start: int, end: int, limit: int) -> None:
        """Scan and decode table by table until the end, a limit or damage."""
        self.position = start
        floor = 0
        rows_max = min(TABLE_ROWS_MAX, (end - start) // batch.HEADER_BYTES + 1)
        table = np.empty((rows_max, k.TABLE_COLUMNS), np.int64)
        while True:
            rows, events, compressed, position, floor, why = k.scan_batches(
                self.view, self.position, end, self.from_offset, floor, limit, not self.columns, table
            )
            if not self._decode_rows(table[:rows], compressed):
                return
            self.position = position
            self.next_offset = max(self.next_offset, floor)
            limit -= events
            if why in k.REASONS:
                self._report(k.REASONS[why], position)
            if why != k.MORE or self._arena_bytes >= DECOMPRESSED_BYTES_MAX:
                return

    def _report(self, reason: str, position: int, *, malformed: bool = False) -> None:
        """Raise unless there is something to hand out first."""
        if not self.columns:
            raise self._error(reason, position, malformed)

    def _error(self, reason: str, position: int, malformed: bool) -> Corruption:
        return (MalformedBatch if malformed else Corruption)(reason, position=position, **self.place)

    def _decode_rows(self, table: NDArray[np.int64], compressed: int) -> bool:
        """Decode all rows; False when the walk has to end early, with position and next offset set."""
        first = 0
        while first < len(table):
            if self._arena_bytes >= DECOMPRESSED_BYTES_MAX:
                self._stop(table[first])
                return False
            try:
                first = self._decode_run(table, first, compressed)
            except _Damage as damage:
                first = damage.row + 1
                if self.skip.damaged or (self.skip.malformed and damage.malformed):
                    self.damaged.append(self._error(damage.reason, damage.position, damage.malformed))
                    continue
                self._stop(table[damage.row])
                self._report(damage.reason, damage.position, malformed=damage.malformed)
                return False
        return True

    def _stop(self, row: NDArray[np.int64]) -> None:
        self.position = int(row[k.POSITION])
        self.next_offset = max(self.next_offset, int(row[k.BASE_OFFSET]))

    def _decode_run(self, table: NDArray[np.int64], first: int, compressed: int) -> int:
        """Decode rows that share a buffer, and return the row after them."""
        last = len(table)
        if compressed:
            packed = table[first:, k.CODEC] != 0
            others = np.flatnonzero(packed != packed[0])
            last = first + int(others[0]) if len(others) else last
            if packed[0]:
                return self._read_packed(table, first, last)
        if self.check_crc:
            self._check_crc(table[first], first)
            sound = first + 1
            while sound < last and self._crc_matches(table[sound]):
                sound += 1
            last = sound
        self._read(self.view, table, first, last)
        return last

    def _crc_matches(self, row: NDArray[np.int64]) -> bool:
        position, end = int(row[k.POSITION]), int(row[k.RECORDS_END])
        stored = int.from_bytes(self.view[position + 17 : position + batch.CRC_START].tobytes(), "big")
        return bool(crc32.iscsi(self.view[position + batch.CRC_START : end].data) == stored)

    def _check_crc(self, row: NDArray[np.int64], number: int) -> None:
        if not self._crc_matches(row):
            raise _Damage(number, "CRC-32C of the batch does not match its bytes", int(row[k.POSITION]))

    def _read_packed(self, table: NDArray[np.int64], first: int, last: int) -> int:
        """Decompress rows into one arena until it is large enough, and decode them there."""
        parts: list[Bytes] = []
        size = 0
        row = first
        while row < last and size < ARENA_BYTES:
            try:
                part = self._decompress(table[row], row)
            except _Damage:
                if not parts:
                    raise
                break  # deliver what is in front of it; the next run finds it again
            table[row, k.RECORDS_START], table[row, k.RECORDS_END] = size, size + len(part)
            parts.append(part)
            size += len(part)
            row += 1
        self._arena_bytes += size
        arena = as_bytes(parts[0] if len(parts) == 1 else np.concatenate(parts))
        self._read(arena, table, first, row)
        return row

    def _decompress(self, row: NDArray[np.int64], number: int) -> Bytes:
        """Records section of a compressed batch, large enough for the records it claims."""
        position = int(row[k.POSITION])
        if self.check_crc:
            self._check_crc(row, number)
        section = self.view[position + batch.HEADER_BYTES : int(row[k.RECORDS_END])].data
        try:
            records = compression.decompress(int(row[k.CODEC]), section)
        except (InvalidBatch, MessageTooLarge) as error:
            raise _Damage(number, str(error), position, malformed=self.check_crc) from None
        if int(row[k.COUNT]) * k.RECORD_BYTES_MIN > len(records):
            raise _Damage(number, k.REASONS[k.BAD_COUNT], position, malformed=self.check_crc)
        return np.frombuffer(records, np.uint8)

    def _read(self, data: Bytes, table: NDArray[np.int64], first: int, last: int) -> None:
        """Run the kernel over rows [first, last) and keep the columns."""
        room = int(table[first:last, k.COUNT].sum())
        longs = np.empty((k.LONGS, room), np.int64)
        ints = np.empty((k.INTS, room), np.int32)
        n, failed, record = k.read_records(data, table, first, last, self.from_offset, longs, ints)
        if n:
            self.columns.append(_columns(data, longs[:, :n], ints[:, :n]))
        if failed < last:
            position = int(table[failed, k.POSITION])
            inside = record - (position if data is self.view else int(table[failed, k.RECORDS_START]))
            where = "batch" if data is self.view else "decompressed records"
            reason = f"record at byte {inside} of its {where} is malformed"
            raise _Damage(failed, reason, position, malformed=self.check_crc)


def _columns(data: Bytes, longs: NDArray[np.int64], ints: NDArray[np.int32]) -> EventColumns:
    return EventColumns(
        data,
        longs[k.OFFSETS],
        longs[k.TIMESTAMPS],
        longs[k.KEY_STARTS],
        ints[k.KEY_LENGTHS],
        longs[k.VALUE_STARTS],
        ints[k.VALUE_LENGTHS],
        longs[k.HEADER_STARTS],
        ints[k.HEADER_COUNTS],
    )
