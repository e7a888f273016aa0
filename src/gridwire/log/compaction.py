"""Compaction: of every key only the last event is kept, without disturbing anybody who reads.

A pass looks at the sealed segments of a partition:

    clean ............... dirty ................ | active
    [start, clean_to)     [clean_to, sealed end)   not touched

It learns the last offset of every key in the dirty part, then rewrites clean and dirty segments without the events that
a later one replaces. What is kept keeps its offset, its bytes and its batch's header; adjacent small segments become
one. Where whole batches are gone, one empty batch covers their offsets, so offsets stay dense: damage is recognised as
in any other segment, and readers move on through the gap. The last batch of a producer stays, if only as a header, as
its sequence must survive a rebuild of the index; so do the markers of transactions. Aborted events go.

An event without a value (a tombstone) deletes its key. It stays for `tombstone_retention_ms` after the first pass that
saw it: a reader that starts from the beginning and is faster than that sees every deletion.

Crash safety: the new file is written beside the old ones as `*.cleaning` and synced whatever the durability of the hub,
then renamed to a name that says which offsets it covers, the directory synced, and only then the old ones removed. A
start removes what is unfinished or replaced. The file `compaction` remembers passes; without it everything is dirty and
tombstones wait once more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from fastcrc import crc32

from gridwire.core import compression
from gridwire.core.batch import (
    CONTROL,
    HEADER_BYTES,
    LOG_APPEND_TIME,
    BatchHeader,
    crc_matches,
    empty,
    read_header,
    rebuilt,
    varint_at,
    whole_size,
)
from gridwire.core.errors import Corruption, GridwireError, InvalidBatch
from gridwire.core.limits import RECORDS_PER_BATCH_MAX
from gridwire.log import disk
from gridwire.log.partition import PartitionLog
from gridwire.log.scan import Damage
from gridwire.log.segment import Segment, covered
from gridwire.log.transactions import Aborted, is_aborted

KEYS_MAX: Final = 200_000
"""Keys one pass looks at, some 40 MB of memory; the next pass goes on behind them."""

KEY_BYTES_MAX: Final = 32
"""Longer keys are remembered by their hash."""

WINDOW_BYTES: Final = 1024 * 1024
"""Read at once."""

PAUSE_BYTES: Final = 256 * 1024
PAUSE_S: Final = 0.002
"""A pass is work of the hub's process: after this many bytes it lets the others run."""

PASSES_MAX: Final = 1000
"""Passes remembered for the sake of their tombstones; above it the oldest ones are taken for later than they were."""

STATE_FILE: Final = "compaction"


class Pass(msgspec.Struct, frozen=True, array_like=True):
    """Offsets below `clean_to` have no key twice; tombstones among them were first seen at `at_ms` or before."""

    clean_to: int
    at_ms: int


class State(msgspec.Struct, array_like=True):
    """What earlier passes did. `tombstone_from`: the first tombstone they kept, or -1."""

    passes: list[Pass] = []
    tombstone_from: int = -1

    @property
    def clean_to(self) -> int:
        """Where the dirty part starts."""
        return self.passes[-1].clean_to if self.passes else 0

    def droppable_to(self, now_ms: int, retention_ms: int) -> int:
        """Tombstones below have waited long enough."""
        return max((each.clean_to for each in self.passes if each.at_ms + retention_ms <= now_ms), default=0)

    def add(self, done: Pass, droppable_to: int) -> None:
        """Remember a pass, and forget those nobody will ask for."""
        later = [each for each in self.passes if each.clean_to > droppable_to]
        known = max((each for each in self.passes if each.clean_to <= droppable_to), default=None, key=_clean_to)
        self.passes = [*([known] if known else []), *later[-PASSES_MAX:], done]


def _clean_to(each: Pass) -> int:
    return each.clean_to


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a pass did."""

    bytes_before: int
    bytes_after: int
    events_removed: int


def load_state(directory: Path) -> State:
    """What is remembered; nothing when the file is missing or damaged."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        data = (directory / STATE_FILE).read_bytes()
        if crc32.iscsi(data[4:]) == int.from_bytes(data[:4], "big"):
            return msgspec.msgpack.decode(data[4:], type=State)
    return State()


def save_state(directory: Path, state: State) -> None:
    """Replace the file; on disk when it returns."""
    body = msgspec.msgpack.encode(state)
    disk.write_atomic(directory / STATE_FILE, crc32.iscsi(body).to_bytes(4, "big") + body)


def compact(log: PartitionLog, now_ms: int) -> Compacted | None:
    """One pass, if there is enough to do. Runs in a thread of its own, one at a time per partition.

    Raises:
        StorageFailed: the disk refused. Nothing is lost: what was replaced is whole. Corruption: a damaged batch; what
        lies before it is compacted next time.
    """
    with log.cleaning:
        if log.closed:
            return None
        try:
            return _Pass(log, now_ms).run()
        except OSError as error:
            raise disk.storage_error(error, f"compacting {log.hub}/{log.partition}") from None


class _Stopped(Exception):
    """The log is being closed."""


class _Pass:
    """One pass over one partition."""

    def __init__(self, log: PartitionLog, now_ms: int) -> None:
        self.log = log
        self.now_ms = now_ms
        self.state = load_state(log.directory)
        self.droppable_to = self.state.droppable_to(now_ms, log.settings.tombstone_retention_ms)
        self.keys: dict[bytes, int] = {}
        self.removed = 0
        self.tombstone_from = -1
        self.number = max((covered(path)[2] for path in log.directory.glob("*.log")), default=0)
        self.last_batches: dict[int, int] = {}
        self.aborted: list[Aborted] = []

    def run(self) -> Compacted | None:
        segments = self._segments()
        if not segments or not self._worth_it(segments):
            return None
        end = segments[-1].next_offset
        self.last_batches = self.log.last_batches()
        self.aborted = self.log.aborted(0, end)
        before = sum(segment.size for segment in segments)
        after = 0
        try:
            clean_to = self._learn(segments, end)
            for group in _groups(segments, self.log.settings.segment_bytes):
                after += self._rewrite(group)
        except _Stopped:
            return None
        self.state.add(Pass(clean_to, self.now_ms), self.droppable_to)
        self.state.tombstone_from = self.tombstone_from
        save_state(self.log.directory, self.state)
        return Compacted(before, after, self.removed)

    def _segments(self) -> list[Segment]:
        """Sealed segments, of the dirty ones those old enough."""
        found = []
        youngest_ms = self.now_ms - self.log.settings.compact_lag_ms
        for segment in self.log.sealed():
            dirty = segment.next_offset > self.state.clean_to
            if dirty and self.log.settings.compact_lag_ms and segment.max_timestamp > youngest_ms:
                break
            found.append(segment)
        return found

    def _worth_it(self, segments: Sequence[Segment]) -> bool:
        dirty = sum(segment.size for segment in segments if segment.next_offset > self.state.clean_to)
        total = sum(segment.size for segment in segments)
        if dirty and dirty * 100 >= self.log.settings.compact_dirty_percent * total:
            return True
        return 0 <= self.state.tombstone_from < self.droppable_to

    # -- reading ------------------------------------------------------------------------------------------------

    def _batches(self, segment: Segment, start: int = 0) -> Iterator[tuple[BatchHeader, bytes]]:
        """Whole batches of a segment, checked."""
        position, expected, since_pause = start, None if start else segment.base_offset, 0
        while position < segment.size:
            window = disk.read_at(segment.descriptor, min(WINDOW_BYTES, segment.size - position), position)
            size = whole_size(window)
            if size is not None and size > len(window):
                window = disk.read_at(segment.descriptor, size, position)
            at = 0
            while (size := whole_size(window, at)) is not None and at + size <= len(window):
                batch = window[at : at + size]
                header = self._checked(segment, batch, position + at, expected)
                yield header, batch
                expected = header.next_offset
                at += size
                since_pause += size
                if since_pause >= PAUSE_BYTES:
                    since_pause = 0
                    self._pause()
            if at == 0:
                raise self._corrupt("segment ends inside a batch", segment, position)
            position += at

    def _pause(self) -> None:
        if self.log.closed:
            raise _Stopped
        time.sleep(PAUSE_S)

    def _checked(self, segment: Segment, batch: bytes, position: int, expected: int | None) -> BatchHeader:
        """The header of a sound batch. A damaged one is kept from readers, and its segment from further passes."""
        try:
            header = read_header(batch)
            if crc_matches(batch, header) and expected in (None, header.base_offset):
                return header
        except GridwireError:
            pass
        self.log.report_damage(segment, Damage(position, position + len(batch)))
        raise self._corrupt("damaged batch", segment, position)

    def _corrupt(self, reason: str, segment: Segment, position: int) -> Corruption:
        return Corruption(
            reason, hub=self.log.hub, partition=self.log.partition, segment=segment.path.name, position=position
        )

    def _learn(self, segments: Sequence[Segment], end: int) -> int:
        """Fill `keys` from the dirty part; returns the offset up to which that was possible."""
        clean_to = self.state.clean_to
        for segment in segments:
            if segment.next_offset <= clean_to:
                continue
            for header, batch in self._batches(segment, segment.position_before(clean_to)):
                if header.next_offset <= clean_to or header.attributes & CONTROL or is_aborted(header, self.aborted):
                    continue
                if len(self.keys) >= KEYS_MAX:
                    return header.base_offset
                for record in records(header, _section(header, batch)):
                    if record.key is not None:
                        self.keys[_name(record.key)] = header.base_offset + record.offset_delta
        return end

    # -- writing ------------------------------------------------------------------------------------------------

    def _rewrite(self, group: Sequence[Segment]) -> int:
        """Replace a run of segments by one without what is obsolete; returns the bytes that are left."""
        base, end = group[0].base_offset, group[-1].next_offset
        self.number += 1
        name = f"{base:020d}-{end:020d}-{self.number}.log"
        compacted = Segment(self.log.directory, base, self.now_ms, name)
        temporary = self.log.directory / f"{name}.cleaning"
        with temporary.open("wb") as file:
            removed = self._write(group, compacted, file)
            file.flush()
            before = sum(segment.size for segment in group)
            needless = len(group) == 1 and not removed and compacted.size >= before
            if not needless:
                os.fsync(file.fileno())
        if needless:
            temporary.unlink()
            return before
        tables = group[-1].saved_tables()
        temporary.replace(compacted.path)
        disk.sync_directory(self.log.directory)
        if tables is not None:
            compacted.save_meta(*tables, sync=False)
        compacted.readable = compacted.size
        if not self.log.replace(group, compacted):
            compacted.retire()
            raise _Stopped
        self.removed += removed
        return compacted.size

    def _write(self, group: Sequence[Segment], compacted: Segment, file: BinaryIO) -> int:
        removed = 0
        for batch, count in self._kept(group):
            file.write(batch)
            compacted.note(read_header(batch), compacted.size)
            removed += count
        return removed

    def _kept(self, group: Sequence[Segment]) -> Iterator[tuple[bytes | bytearray, int]]:
        """(batch to write, events missing from it or before it), in order and dense."""
        expected = group[0].base_offset
        removed = 0
        for segment in group:
            for header, batch in self._batches(segment):
                kept, missing = self._cleaned(header, batch)
                removed += missing
                if kept is None:
                    continue
                for filler in _fillers(expected, header.base_offset):
                    yield filler, 0
                yield kept, removed
                removed = 0
                expected = header.next_offset
        for filler in _fillers(expected, group[-1].next_offset):
            yield filler, removed
            removed = 0

    def _cleaned(self, header: BatchHeader, batch: bytes) -> tuple[bytes | bytearray | None, int]:
        """The batch without obsolete events, None when nothing of it is needed; and how many events went."""
        if header.attributes & CONTROL:
            return batch, 0
        aborted = is_aborted(header, self.aborted)
        section = b"" if aborted or not header.record_count else _section(header, batch)
        kept = [] if aborted else [each for each in records(header, section) if self._keeps(header, each)]
        missing = header.record_count - len(kept)
        if not kept:
            needed = header.producer_id >= 0 and self.last_batches.get(header.producer_id) == header.base_offset
            if not needed:
                return None, missing
            return (rebuilt(header, b"", 0, -1) if missing else batch), missing
        if not missing:
            return batch, 0
        body = b"".join([bytes(section[each.start : each.end]) for each in kept])
        newest = header.base_timestamp + max(each.timestamp_delta for each in kept)
        max_timestamp = header.max_timestamp if header.attributes & LOG_APPEND_TIME else newest
        return rebuilt(header, compression.compress(header.codec, body), len(kept), max_timestamp), missing

    def _keeps(self, header: BatchHeader, record: Record) -> bool:
        """Whether an event is the last of its key; events without a key stay, and tombstones for their time."""
        if record.key is None:
            return True
        offset = header.base_offset + record.offset_delta
        if self.keys.get(_name(record.key), -1) > offset:
            return False
        if record.tombstone:
            if offset < self.droppable_to:
                return False
            if self.tombstone_from < 0:
                self.tombstone_from = offset
        return True


def _groups(segments: Sequence[Segment], bytes_max: int) -> Iterator[list[Segment]]:
    """Runs of adjacent segments that fit into one."""
    group: list[Segment] = []
    size = 0
    for segment in segments:
        if group and size + segment.size > bytes_max:
            yield group
            group, size = [], 0
        group.append(segment)
        size += segment.size
    if group:
        yield group


def _fillers(start: int, end: int) -> Iterator[bytearray]:
    """Empty batches for offsets [start, end)."""
    while start < end:
        count = min(end - start, RECORDS_PER_BATCH_MAX)
        yield empty(start, count)
        start += count


def _section(header: BatchHeader, batch: bytes) -> bytes | memoryview:
    return compression.decompress(header.codec, memoryview(batch)[HEADER_BYTES:])


def _name(key: bytes) -> bytes:
    """What stands for a key in memory."""
    return key if len(key) <= KEY_BYTES_MAX else b"#" + hashlib.blake2b(key, digest_size=KEY_BYTES_MAX).digest()


@dataclass(frozen=True, slots=True)
class Record:
    """Where a record lies in its section, and what compaction needs to know of it."""

    start: int
    end: int
    timestamp_delta: int
    offset_delta: int
    key: bytes | None
    tombstone: bool


def records(header: BatchHeader, section: bytes | memoryview) -> Iterator[Record]:
    """Walk a decompressed records section.

    Raises:
        InvalidBatch: it does not hold the records the header claims.
    """
    data = bytes(section)
    position = 0
    try:
        for _ in range(header.record_count):
            start = position
            size, position = varint_at(data, position)
            end = position + size
            timestamp_delta, position = varint_at(data, position + 1)
            offset_delta, position = varint_at(data, position)
            key_size, position = varint_at(data, position)
            key = None if key_size < 0 else data[position : position + key_size]
            value_size, _ = varint_at(data, position + max(key_size, 0))
            if end > len(data) or end <= start or key_size > end - position:
                raise InvalidBatch("record runs past the end of its batch")
            yield Record(start, end, timestamp_delta, offset_delta, key, value_size < 0)
            position = end
    except IndexError:
        raise InvalidBatch("record runs past the end of its batch") from None


def keyless(header: BatchHeader, batch: bytes | bytearray | memoryview, position: int = 0) -> bool:
    """Whether a batch holds an event without a key, which a compacted hub cannot keep track of."""
    if header.attributes & CONTROL:
        return False
    section = compression.decompress(header.codec, memoryview(batch)[position + HEADER_BYTES : position + header.size])
    return any(record.key is None for record in records(header, section))
