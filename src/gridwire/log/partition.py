"""One partition: segments in order, the append plan of the writer thread, reading, recovery, retention."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gridwire.core.batch import (
    LOG_APPEND_TIME,
    BatchHeader,
    decode,
    iter_headers,
    read_header,
    stamp,
    whole_size,
)
from gridwire.core.errors import (
    Corruption,
    DuplicateSequence,
    FencedEpoch,
    GridwireError,
    InvalidBatch,
    OffsetOutOfRange,
    OutOfOrderSequence,
    StorageFailed,
)
from gridwire.core.settings import UNLIMITED, HubSettings
from gridwire.log import disk
from gridwire.log.producers import Producer, ProducerTable
from gridwire.log.scan import Damage, scan
from gridwire.log.segment import INDEX_INTERVAL_BYTES, Segment

HINTS_MAX: Final = 256
"""Ends of recent groups whose position is remembered: where readers at the tail ask next."""

_REFUSALS: Final = (OutOfOrderSequence, FencedEpoch, DuplicateSequence)


@dataclass(frozen=True, slots=True)
class Span:
    """Readable bytes `[start, end)` of a segment file, whole batches only."""

    path: str
    base_offset: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a request's batches ended up."""

    base_offset: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening a partition found: bytes cut from the torn tail, and damage that was left in place."""

    truncated_bytes: int
    damage: tuple[Damage, ...]


@dataclass(slots=True)
class _Undo:
    size: int
    next_offset: int
    max_timestamp: int
    producers: dict[int, Producer | None]


class PartitionLog:
    """An append-only log of record batches.

    `append_group` is called by the writer thread only; everything else by any thread. Readers see offsets below
    `end_offset`, which moves only when the writer publishes a group as durable.
    """

    def __init__(
        self, directory: Path, hub: str, partition: int, settings: HubSettings, *, sync: bool, now_ms: int
    ) -> None:
        self.directory = directory
        self.hub = hub
        self.partition = partition
        self.settings = settings
        self.failed: StorageFailed | None = None
        self._sync = sync
        self._lock = threading.Lock()
        self._producers = ProducerTable()
        self._damage: dict[int, tuple[Damage, ...]] = {}
        self._hints: dict[int, tuple[Segment, int]] = {}
        self._segments = self._open_segments(now_ms)
        self.recovery = self._recover()
        self.end_offset = self._active.next_offset
        self._active.readable = self._active.size

    # -- opening ------------------------------------------------------------------------------------------------

    def _open_segments(self, now_ms: int) -> list[Segment]:
        self.directory.mkdir(parents=True, exist_ok=True)
        bases = sorted(int(path.stem) for path in self.directory.glob("*.log"))
        if not bases:
            segment = Segment(self.directory, 0, now_ms)
            _ = segment.descriptor
            if self._sync:
                disk.sync_directory(self.directory)
            return [segment]
        return [Segment(self.directory, base, now_ms) for base in bases]

    def _recover(self) -> Recovery:
        truncated, damage = 0, []
        for segment in self._segments[:-1]:
            self._load(segment)
            segment.readable = segment.size
            segment.close()
        active = self._active
        damage = self._load(active)
        file_size = active.path.stat().st_size
        truncated = file_size - active.size
        if truncated:
            os.ftruncate(active.descriptor, active.size)
            if self._sync:
                disk.sync_data(active.descriptor)
        return Recovery(truncated, tuple(damage))

    def _load(self, segment: Segment) -> list[Damage]:
        """Take the sidecar and scan what it does not cover. Producers carry over from segment to segment."""
        saved = segment.load_meta()
        if saved is not None:
            self._producers = ProducerTable.load(saved)
            if segment is not self._active and segment.size == segment.path.stat().st_size:
                return []
        damage = []
        for found in scan(segment.descriptor, segment.size, segment.next_offset):
            if isinstance(found, Damage):
                damage.append(found)
                continue
            segment.note(found.header, found.position)
            if found.header.idempotent:
                self._producers.record(found.header, found.header.base_offset)
        if damage:
            self._damage[segment.base_offset] = tuple(damage)
        return damage

    @property
    def _active(self) -> Segment:
        return self._segments[-1]

    # -- what it holds ------------------------------------------------------------------------------------------

    @property
    def start_offset(self) -> int:
        """First offset kept."""
        return self._segments[0].base_offset

    @property
    def size_bytes(self) -> int:
        """Bytes readable."""
        return sum(segment.readable for segment in self._segments)

    @property
    def next_offset(self) -> int:
        """Offset the writer will assign next; events before it may not be durable yet."""
        return self._active.next_offset

    @property
    def active_base(self) -> int:
        """Base offset of the segment being written."""
        return self._active.base_offset

    # -- appending (writer thread) ------------------------------------------------------------------------------

    def append_group(
        self, requests: Sequence[tuple[memoryview, Sequence[BatchHeader]]], now_ms: int
    ) -> list[Stored | GridwireError]:
        """Write the requests' batches in order with as few system calls as possible; does not sync.

        A request without batches seals the active segment.

        Returns:
            One result a request. After a failed write nothing of the group remains: neither in memory nor in the file.
        """
        if self.failed is not None:
            return [self.failed] * len(requests)
        active = self._active
        undo = _Undo(active.size, active.next_offset, active.max_timestamp, {})
        results: list[Stored | GridwireError] = []
        pending: list[memoryview] = []
        start = active.size
        try:
            for buffer, headers in requests:
                if self._must_roll(len(buffer), now_ms) or (not headers and self._active.size):
                    self._write(pending, start)
                    self._roll(now_ms)
                    pending, start = [], 0
                    undo = _Undo(0, self._active.next_offset, self._active.max_timestamp, {})
                if headers:
                    results.append(self._plan(buffer, headers, pending, undo))
                else:
                    results.append(Stored(self._active.next_offset))
            self._write(pending, start)
        except OSError as error:
            return self._undo(undo, disk.storage_error(error, f"writing {self.hub}/{self.partition}"), len(requests))
        return results

    def _must_roll(self, size: int, now_ms: int) -> bool:
        active = self._active
        if active.size == 0:
            return False
        return active.size + size > self.settings.segment_bytes or now_ms - active.created_ms > self.settings.segment_ms

    def _plan(
        self, buffer: memoryview, headers: Sequence[BatchHeader], pending: list[memoryview], undo: _Undo
    ) -> Stored | GridwireError:
        """Assign offsets to one request, or say why not; a request is taken as a whole."""
        try:
            known = [self._producers.check(header) if header.idempotent else None for header in headers]
        except _REFUSALS as refusal:
            return refusal
        if known[0] is not None:
            return Stored(known[0], duplicate=True)
        active = self._active
        first = active.next_offset
        at = 0
        for header in headers:
            offset = active.next_offset
            stamp(buffer, offset, position=at)
            placed = read_header(buffer, at)
            active.note(placed, active.size)
            if header.idempotent:
                undo.producers.setdefault(header.producer_id, self._producers.remembered(header.producer_id))
                self._producers.record(placed, offset)
            at += header.size
        pending.append(buffer)
        return Stored(first)

    def _write(self, pending: list[memoryview], start: int) -> None:
        if pending:
            disk.write_all(self._active.descriptor, pending, start)

    def _undo(self, undo: _Undo, error: StorageFailed, count: int) -> list[Stored | GridwireError]:
        self._active.rewind(undo.size, undo.next_offset, undo.max_timestamp)
        for producer_id, entry in undo.producers.items():
            self._producers.restore(producer_id, entry)
        try:
            os.ftruncate(self._active.descriptor, undo.size)
        except OSError as second:
            self.failed = disk.storage_error(second, f"cutting back {self.hub}/{self.partition}; restart the hub")
        return [error] * count

    def _roll(self, now_ms: int) -> None:
        """Seal the active segment and start the next one."""
        old = self._active
        if self._sync:
            disk.sync_data(old.descriptor)
        old.save_meta(self._producers.dump(), sync=False)
        segment = Segment(self.directory, old.next_offset, now_ms)
        _ = segment.descriptor
        if self._sync:
            disk.sync_directory(self.directory)
        with self._lock:
            self._segments = [*self._segments, segment]

    def sync(self) -> None:
        """Bring what was written to the disk.

        After a failure the partition is read-only: the kernel may have dropped the pages.

        Raises:
            StorageFailed: nothing that waits for this sync may be acknowledged.
        """
        try:
            disk.sync_data(self._active.descriptor)
        except OSError as error:
            failure = disk.storage_error(error, f"syncing {self.hub}/{self.partition}")
            self.failed = StorageFailed(f"{failure}; the partition is read-only until the hub restarts")
            raise self.failed from None

    def publish(self) -> None:
        """Let readers see everything written so far."""
        for segment in reversed(self._segments):
            if segment.size and segment.readable == segment.size:
                break
            segment.readable = segment.size
        active = self._active
        self._hints[active.next_offset] = (active, active.size)
        if len(self._hints) > HINTS_MAX:
            del self._hints[next(iter(self._hints))]
        self.end_offset = active.next_offset

    # -- reading ------------------------------------------------------------------------------------------------

    def _segment_of(self, offset: int) -> tuple[Segment, list[Segment]]:
        segments = self._segments
        end = self.end_offset
        start = segments[0].base_offset
        if not start <= offset <= end:
            raise OffsetOutOfRange(
                f"offset {offset} of {self.hub}/{self.partition} is not in {start}..{end}", start=start, end=end
            )
        row = bisect_right([segment.base_offset for segment in segments], offset) - 1
        return segments[row], segments[row + 1 :]

    def spans(self, offset: int, bytes_max: int) -> list[Span]:
        """Where the bytes from `offset` on lie, for a reader that maps them: at least the batch that holds it.

        Raises:
            OffsetOutOfRange, Corruption.
        """
        if offset == self.end_offset:
            return []
        segment, later = self._segment_of(offset)
        start = self._position_of(segment, offset)
        spans: list[Span] = []
        for current in (segment, *later):
            end = current.boundary(start + bytes_max)
            if end <= start < current.readable:
                end = self._walk_end(current, start, bytes_max)
            if end > start:
                spans.append(Span(str(current.path), current.base_offset, start, end))
                bytes_max -= end - start
            if bytes_max <= 0 or end < current.readable:
                break
            start = 0
        return spans

    def read(self, offset: int, bytes_max: int) -> bytes | memoryview:
        """Whole batches from the one that holds `offset` on: at least one if there is any, about `bytes_max` otherwise.

        Raises:
            OffsetOutOfRange, Corruption.
        """
        if offset == self.end_offset:
            return b""
        segment, later = self._segment_of(offset)
        while segment.readable <= (start := self._position_of(segment, offset)):
            if not later:
                return b""
            segment, later = later[0], later[1:]
        end = segment.boundary(start + bytes_max)
        if end <= start:
            end = self._walk_end(segment, start, bytes_max)
        return self._fetch(segment, start, end)

    def _fetch(self, segment: Segment, start: int, end: int) -> bytes:
        for damage in self._damage.get(segment.base_offset, ()):
            if damage.start <= start < damage.end:
                raise self._corrupt("damaged batch", segment, damage.start)
            if start < damage.start < end:
                end = damage.start
        try:
            return disk.read_at(segment.descriptor, end - start, start)
        except OSError as error:
            raise disk.storage_error(error, f"reading {self.hub}/{self.partition}") from None

    def _corrupt(self, reason: str, segment: Segment, position: int) -> Corruption:
        return Corruption(reason, hub=self.hub, partition=self.partition, segment=segment.path.name, position=position)

    def _headers(self, segment: Segment, position: int) -> Iterator[tuple[int, BatchHeader]]:
        """Batches of a segment from `position` on, read in small windows; damage is stepped over."""
        damages = self._damage.get(segment.base_offset, ())
        while position < segment.readable:
            stop = segment.readable
            for damage in damages:
                if damage.start <= position < damage.end:
                    position = damage.end
                elif position < damage.start < stop:
                    stop = damage.start
            window = disk.read_at(segment.descriptor, min(4 * INDEX_INTERVAL_BYTES, stop - position), position)
            try:
                size = whole_size(window)
                if size is not None and len(window) < size <= stop - position:
                    window = disk.read_at(segment.descriptor, size, position)
                taken = 0
                for at, header in iter_headers(window):
                    yield position + at, header
                    taken = at + header.size
            except InvalidBatch as error:
                raise self._corrupt(str(error), segment, position) from None
            if taken == 0:
                raise self._corrupt("segment ends inside a batch", segment, position)
            position += taken

    def _position_of(self, segment: Segment, offset: int) -> int:
        """Position of the batch that holds `offset`, or of the next one after a gap."""
        hint = self._hints.get(offset)
        if hint is not None and hint[0] is segment:
            return hint[1]
        for position, header in self._headers(segment, segment.position_before(offset)):
            if header.next_offset > offset:
                self._refuse_damaged(segment, position, header, offset)
                return position
        return segment.readable

    def _refuse_damaged(self, segment: Segment, position: int, header: BatchHeader, offset: int) -> None:
        """An offset whose batch is damaged must not be answered with the batch after it."""
        for damage in self._damage.get(segment.base_offset, ()):
            if damage.end == position and header.base_offset > offset:
                raise self._corrupt("damaged batch", segment, damage.start)

    def _near(self, segment: Segment, offset: int) -> int:
        """A batch start at or shortly before `offset`."""
        hint = self._hints.get(offset)
        return hint[1] if hint is not None and hint[0] is segment else segment.position_before(offset)

    def _walk_end(self, segment: Segment, start: int, bytes_max: int) -> int:
        """End of as many whole batches as fit into `bytes_max`, at least one."""
        end = start
        for position, header in self._headers(segment, start):
            if end > start and position + header.size > start + bytes_max:
                break
            end = position + header.size
            if end >= start + bytes_max:
                break
        return end

    def offset_at(self, timestamp_ms: int) -> tuple[int, int] | None:
        """(offset, timestamp) of the first event at or after a time; looks inside the one batch that has it."""
        for segment in self._segments:
            if segment.max_timestamp < timestamp_ms or segment.readable == 0:
                continue
            for position, header in self._headers(segment, segment.position_before_time(timestamp_ms)):
                if header.max_timestamp < timestamp_ms:
                    continue
                if header.attributes & LOG_APPEND_TIME:
                    return header.base_offset, header.max_timestamp
                for event in decode(self._fetch(segment, position, position + header.size)):
                    if event.timestamp >= timestamp_ms:
                        return event.offset, event.timestamp
        return None

    def newest(self) -> tuple[int, int] | None:
        """(offset, timestamp) of the event with the largest timestamp; None when empty."""
        best = max(self._segments, key=lambda segment: segment.max_timestamp)
        return self.offset_at(best.max_timestamp) if best.readable else None

    def header_at(self, offset: int) -> BatchHeader | None:
        """Header of the batch that holds `offset`; None at the end."""
        if offset >= self.end_offset:
            return None
        segment, later = self._segment_of(offset)
        for current in (segment, *later):
            for _, header in self._headers(current, self._near(current, offset)):
                if header.next_offset > offset:
                    return header
        return None

    # -- housekeeping -------------------------------------------------------------------------------------------

    def expire(self, now_ms: int) -> int:
        """Delete sealed segments that retention by time or size no longer keeps; returns the bytes freed."""
        doomed: list[Segment] = []
        with self._lock:
            segments = self._segments
            kept = self.size_bytes
            for segment in segments[:-1]:
                too_old = (
                    self.settings.retention_ms != UNLIMITED
                    and segment.max_timestamp < now_ms - self.settings.retention_ms
                )
                too_much = (
                    self.settings.retention_bytes != UNLIMITED and kept - segment.size >= self.settings.retention_bytes
                )
                if not (too_old or too_much):
                    break
                kept -= segment.size
                doomed.append(segment)
            self._segments = segments[len(doomed) :]
        for segment in doomed:
            self._damage.pop(segment.base_offset, None)
            segment.delete()
        return sum(segment.size for segment in doomed)

    def wants_roll(self, now_ms: int) -> bool:
        """Whether the active segment holds events that retention would drop were it sealed."""
        active = self._active
        expired = self.settings.retention_ms != UNLIMITED and active.max_timestamp < now_ms - self.settings.retention_ms
        return active.size > 0 and (expired or now_ms - active.created_ms > self.settings.segment_ms)

    def drop_before(self, segment_base: int) -> None:
        """Delete sealed segments that start before `segment_base`."""
        with self._lock:
            doomed = [segment for segment in self._segments[:-1] if segment.base_offset < segment_base]
            self._segments = self._segments[len(doomed) :]
        for segment in doomed:
            segment.delete()

    def close(self) -> None:
        """Sync, save the index and close. Opening again then scans nothing."""
        if self.failed is None and self._active.size:
            disk.sync_data(self._active.descriptor)
            self._active.save_meta(self._producers.dump(), sync=False)
        for segment in self._segments:
            segment.close()

    def delete(self) -> None:
        """Remove all files of this partition."""
        with self._lock:
            for segment in self._segments:
                segment.delete()
        self.directory.rmdir()
