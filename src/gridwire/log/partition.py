"""One partition: segments in order, the append plan of the writer thread, reading, recovery, retention."""

from __future__ import annotations

import contextlib
import os
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from gridwire.core.batch import (
    CONTINUES,
    CONTROL,
    LEADER_EPOCH,
    LOG_APPEND_TIME,
    TRANSACTIONAL,
    BatchHeader,
    decode,
    sound_headers,
    stamp,
    whole_size,
)
from gridwire.core.errors import (
    Corruption,
    DuplicateSequence,
    FencedEpoch,
    GridwireError,
    InvalidBatch,
    MessageTooLarge,
    OffsetOutOfRange,
    OutOfOrderSequence,
    StorageFailed,
)
from gridwire.core.settings import UNLIMITED, HubSettings
from gridwire.log import disk
from gridwire.log.producers import Producer, ProducerTable
from gridwire.log.scan import Damage, Found, scan, settled
from gridwire.log.segment import INDEX_INTERVAL_BYTES, Segment, covered, current_files
from gridwire.log.transactions import Aborted, TransactionTable, is_aborted, is_commit

HINTS_MAX: Final = 256
"""Ends of recent groups whose position is remembered: where readers at the tail ask next."""

CHECKPOINT_BYTES: Final = 64 * 1024 * 1024
CHECKPOINT_BATCHES: Final = 16_384
"""What may follow the active segment's last sidecar before there is a new one: a start after a crash scans no more than
some 0.1 s a partition. A sidecar is a few hundred kilobytes at most."""

_REFUSALS: Final = (OutOfOrderSequence, FencedEpoch, DuplicateSequence)


@dataclass(frozen=True, slots=True)
class Span:
    """Readable bytes `[start, end)` of a segment file, whole batches only."""

    path: str
    base_offset: int
    start: int
    end: int


class Stored(msgspec.Struct, frozen=True, gc=False):
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
    transactions: tuple[dict[int, int], int]


class PartitionLog:
    """An append-only log of record batches.

    `append_group` and `checkpoint` are called by the writer thread only; everything else by any thread. Readers see
    offsets below `end_offset`, which moves only when the writer publishes a group as durable.
    """

    def __init__(
        self,
        directory: Path,
        hub: str,
        partition: int,
        settings: HubSettings,
        *,
        sync: bool,
        now_ms: int,
        log_start: int = 0,
    ) -> None:
        self.directory = directory
        self.hub = hub
        self.partition = partition
        self.settings = settings
        self.failed: StorageFailed | None = None
        self._sync = sync
        self._lock = threading.Lock()
        self._producers = ProducerTable()
        self._transactions = TransactionTable()
        self._closed = False
        self.cleaning = threading.Lock()
        self._damage: dict[int, tuple[Damage, ...]] = {}
        self._hints: dict[int, tuple[Segment, int]] = {}
        self._saved_bytes = self._unsaved_batches = 0
        self._segments = self._open_segments(now_ms)
        self.recovery = self._recover()
        self.end_offset = self._active.next_offset
        self._active.readable = self._active.size
        self.stable_offset = self._transactions.stable(self.end_offset)
        self._log_start = min(log_start, self.end_offset)

    # -- opening ------------------------------------------------------------------------------------------------

    def _open_segments(self, now_ms: int) -> list[Segment]:
        self.directory.mkdir(parents=True, exist_ok=True)
        files = self._tidy()
        if not files:
            segment = Segment(self.directory, 0, now_ms)
            segment.create()
        if self._sync:  # also when there is nothing new: a kill may have come between a name and its sync
            disk.sync_directory(self.directory)
        if not files:
            return [segment]
        return [Segment(self.directory, covered(path)[0], now_ms, path.name) for path in files]

    def _tidy(self) -> list[Path]:
        """The segment files in order; what an interrupted compaction left behind is removed."""
        files, replaced = current_files(self.directory)
        for path in replaced:
            path.with_suffix(".meta").unlink(missing_ok=True)
            path.unlink()
        for path in self.directory.glob("*.cleaning"):
            path.unlink()
        return files

    def _recover(self) -> Recovery:
        truncated, damage = 0, list[Damage]()
        for segment, after in zip(self._segments, self._segments[1:], strict=False):
            damage += self._load(segment)
            damage += self._expect_end(segment, after.base_offset)
            segment.readable = segment.size
            segment.close()
            segment.distrust()
        active = self._active
        damage += self._load(active)
        active.distrust()
        file_size = active.path.stat().st_size
        truncated = file_size - active.size
        if truncated:
            os.ftruncate(active.descriptor, active.size)
        if self._sync:  # readers will see all of it: not only what was acknowledged before a kill
            disk.sync_data(active.descriptor)
        return Recovery(truncated, tuple(damage))

    def _expect_end(self, segment: Segment, next_base: int) -> list[Damage]:
        """A sealed segment reaches to where the next begins: what is missing at its end is damage, no torn tail."""
        if segment.next_offset == next_base:
            return []
        found = Damage(segment.size, max(segment.size, segment.path.stat().st_size))
        self._damage[segment.base_offset] = (*self._damage.get(segment.base_offset, ()), found)
        segment.size, segment.next_offset = found.end, next_base
        return [found]

    def _load(self, segment: Segment) -> list[Damage]:
        """Take the sidecar and scan what it does not cover. Producers carry over from segment to segment."""
        saved = segment.load_meta()
        if saved is None:  # one that is ahead of the file must not fit it by chance later
            segment.meta_path.unlink(missing_ok=True)
        else:
            self._producers = ProducerTable.load(saved[0])
            self._transactions = TransactionTable.load(saved[1])
            if segment is self._active:
                self._saved_bytes = segment.size
            elif segment.size == segment.path.stat().st_size:
                return []
        damage = []
        pieces = scan(segment.descriptor, segment.size, segment.next_offset)
        for found in settled(pieces) if segment is self._active else pieces:
            if isinstance(found, Damage):
                damage.append(found)
                continue
            segment.note(found.header, found.position)
            self._unsaved_batches += 1
            if found.header.idempotent:
                self._producers.record(found.header, found.header.base_offset)
            if found.header.attributes & (TRANSACTIONAL | CONTROL):
                batch = disk.read_at(segment.descriptor, found.header.size, found.position)
                self._note_transaction(found.header, batch)
        if damage:
            self._damage[segment.base_offset] = tuple(damage)
        return damage

    def _note_transaction(self, header: BatchHeader, buffer: bytes | memoryview, position: int = 0) -> None:
        control = bool(header.attributes & CONTROL)
        self._transactions.note(header, commit=control and is_commit(buffer, position))
        if control:
            self._producers.fence(header.producer_id, header.producer_epoch)

    @property
    def _active(self) -> Segment:
        return self._segments[-1]

    # -- what it holds ------------------------------------------------------------------------------------------

    @property
    def start_offset(self) -> int:
        """First offset kept."""
        return max(self._segments[0].base_offset, self._log_start)

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
            One result a request. After a failed write nothing that failed remains: neither in memory nor in the file.
        """
        if self.failed is not None:
            return [self.failed] * len(requests)
        active = self._active
        undo = _Undo(active.size, active.next_offset, active.max_timestamp, {}, self._transactions.keep())
        results: list[Stored | GridwireError] = []
        pending: list[memoryview] = []
        start = active.size
        sealed = 0
        try:
            for buffer, headers in requests:
                if self._must_roll(len(buffer), now_ms) or (not headers and self._active.size):
                    self._write(pending, start)
                    self._roll(now_ms)
                    pending, start, sealed = [], 0, len(results)
                    kept = self._transactions.keep()
                    undo = _Undo(0, self._active.next_offset, self._active.max_timestamp, {}, kept)
                if headers:
                    results.append(self._plan(buffer, headers, pending, undo))
                else:
                    results.append(Stored(self._active.next_offset))
            self._write(pending, start)
        except OSError as error:
            failure = disk.storage_error(error, f"writing {self.hub}/{self.partition}")
            return [*results[:sealed], *self._undo(undo, failure, len(requests) - sealed)]
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
        self._unsaved_batches += len(headers)
        first = active.next_offset
        at = 0
        for header in headers:
            offset = active.next_offset
            stamp(buffer, offset, CONTINUES if at or pending else LEADER_EPOCH, position=at)
            placed = header.at(offset)
            active.note(placed, active.size)
            if header.idempotent:
                undo.producers.setdefault(header.producer_id, self._producers.remembered(header.producer_id))
                self._producers.record(placed, offset)
            if header.attributes & (TRANSACTIONAL | CONTROL):
                undo.producers.setdefault(header.producer_id, self._producers.remembered(header.producer_id))
                self._note_transaction(placed, buffer, at)
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
        self._transactions.undo(undo.transactions)
        try:
            os.ftruncate(self._active.descriptor, undo.size)
        except OSError as second:
            self.failed = disk.storage_error(second, f"cutting back {self.hub}/{self.partition}; restart the hub")
        return [error] * count

    def _roll(self, now_ms: int) -> None:
        """Seal the active segment and start the next one. Its sidecar comes last: it must not shrink after that."""
        old = self._active
        segment = Segment(self.directory, old.next_offset, now_ms)
        if self._sync:
            self._sync_or_fail(old)
        try:
            segment.create()
            if self._sync:
                disk.sync_directory(self.directory)
        except OSError:
            segment.retire()
            raise
        self._transactions.forget_before(self.start_offset)
        with self._lock:
            self._segments = [*self._segments, segment]
        self._save(old)
        self._saved_bytes = 0

    def _save(self, segment: Segment) -> None:
        """Write a segment's sidecar. Without it, or with an older one, the next start scans more."""
        self._unsaved_batches, self._saved_bytes = 0, segment.size
        with contextlib.suppress(OSError):
            segment.save_meta(self._producers.dump(), self._transactions.dump(), sync=False)

    def checkpoint(self) -> None:
        """Keep the next recovery short. The writer thread calls it when all that was appended is on the disk: a sidecar
        that survives a power cut must not speak of bytes that did not."""
        active = self._active
        much = self._unsaved_batches >= CHECKPOINT_BATCHES or active.size - self._saved_bytes >= CHECKPOINT_BYTES
        if much and self.failed is None and not self._closed:
            self._save(active)

    def sync(self) -> None:
        """Bring what was written to the disk.

        After a failure the partition is read-only: the kernel may have dropped the pages.

        Raises:
            StorageFailed: nothing that waits for this sync may be acknowledged.
        """
        if self.failed is not None:
            raise self.failed
        with contextlib.suppress(OSError):
            self._sync_or_fail(self._active)
        if self.failed is not None:
            raise self.failed

    def _sync_or_fail(self, segment: Segment) -> None:
        try:
            disk.sync_data(segment.descriptor)
        except OSError as error:
            failure = disk.storage_error(error, f"syncing {self.hub}/{self.partition}")
            self.failed = StorageFailed(f"{failure}; the partition is read-only until the hub restarts")
            raise

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
        self.stable_offset = self._transactions.stable(active.next_offset)

    # -- reading ------------------------------------------------------------------------------------------------

    def _segment_of(self, offset: int) -> tuple[Segment, list[Segment]]:
        segments = self._segments
        end = self.end_offset
        start = max(segments[0].base_offset, self._log_start)
        if not start <= offset <= end:
            raise OffsetOutOfRange(
                f"offset {offset} of {self.hub}/{self.partition} is not in {start}..{end}", start=start, end=end
            )
        row = bisect_right([segment.base_offset for segment in segments], offset) - 1
        return segments[row], segments[row + 1 :]

    def spans(self, offset: int, bytes_max: int) -> list[Span]:
        """Where the committed bytes from `offset` on lie, for a reader that maps them.

        The first batch may start before the offset. Batches of aborted transactions are left out. There is always a
        batch that ends after the offset unless there is nothing committed after it, so that the reader moves on.

        Raises:
            OffsetOutOfRange, Corruption.
        """
        stable = self.stable_offset
        if offset == self.end_offset:
            return []
        segment, later = self._segment_of(offset)
        if offset >= stable:
            return []
        aborted = self._transactions.overlapping(offset, stable)
        start = self._near(segment, offset)
        spans: list[Span] = []
        for current in (segment, *later):
            limit = self._committed_end(current, stable)
            if aborted:
                found = self._spans_without(current, start, limit, bytes_max, offset, aborted)
            else:
                found = self._span(current, start, limit, bytes_max, offset)
            spans += found
            bytes_max -= sum(span.end - span.start for span in found)
            if bytes_max <= 0 or limit < current.readable or (found and found[-1].end < current.readable):
                break
            start = 0
        return spans

    def _span(self, segment: Segment, start: int, limit: int, bytes_max: int, offset: int) -> list[Span]:
        end = min(segment.boundary(start + bytes_max), limit)
        if end <= start < limit:
            start = self._position_of(segment, offset) if offset > segment.base_offset else start
            end = self._walk_end(segment, start, bytes_max)
        return [Span(str(segment.path), segment.base_offset, start, end)] if end > start else []

    def _spans_without(
        self, segment: Segment, start: int, limit: int, bytes_max: int, offset: int, aborted: Sequence[Aborted]
    ) -> list[Span]:
        """The bytes between batches of aborted transactions, up to about `bytes_max` of them."""
        spans: list[Span] = []
        path, base = str(segment.path), segment.base_offset
        taken = 0
        for position, header in self._headers(segment, start):
            if position >= limit or taken >= bytes_max:
                break
            if header.next_offset <= offset or is_aborted(header, aborted):
                continue
            end = position + header.size
            taken += header.size
            if spans and spans[-1].end == position:
                spans[-1] = Span(path, base, spans[-1].start, end)
            else:
                spans.append(Span(path, base, position, end))
        return spans

    def _committed_end(self, segment: Segment, stable: int) -> int:
        """Where in a segment the first undecided batch starts, or what is readable ends."""
        if stable >= self.end_offset or stable >= segment.next_offset:
            return segment.readable
        if stable <= segment.base_offset:
            return 0
        return min(self._position_of(segment, stable), segment.readable)

    def open_transactions(self) -> dict[int, int]:
        """Epoch by producer of every open transaction."""
        return {pid: self._producers.epoch(pid) for pid in self._transactions.open}

    def aborted(self, start: int, end: int) -> list[Aborted]:
        """Aborted transactions with something in [start, end)."""
        return self._transactions.overlapping(start, end)

    def read(self, offset: int, bytes_max: int, *, committed: bool = False) -> bytes | memoryview:
        """Whole batches from the one that holds `offset` on: at least one if there is any, about `bytes_max` otherwise.

        Args:
            committed: end before the first batch of a transaction that is not decided.

        Raises:
            OffsetOutOfRange, Corruption.
        """
        stable = self.stable_offset
        if offset == self.end_offset:
            return b""
        segment, later = self._segment_of(offset)
        if committed and offset >= stable:
            return b""
        while segment.readable <= (start := self._position_of(segment, offset)):
            if not later:
                return b""
            segment, later = later[0], later[1:]
        end = segment.boundary(start + bytes_max)
        if end <= start:
            end = self._walk_end(segment, start, bytes_max)
        if committed:
            end = min(end, self._committed_end(segment, stable))
        return self._fetch(segment, start, end) if end > start else b""

    def _fetch(self, segment: Segment, start: int, end: int) -> bytes:
        """Bytes of whole batches; those this process did not write are checked before they are handed out."""
        for damage in self._damage.get(segment.base_offset, ()):
            if damage.start <= start < damage.end:
                raise self._corrupt("damaged batch", segment, damage.start)
            if start < damage.start < end:
                end = damage.start
        try:
            data = disk.read_at(segment.descriptor, end - start, start)
        except OSError as error:
            raise disk.storage_error(error, f"reading {self.hub}/{self.partition}") from None
        return data if segment.is_known(start, end) else self._checked(segment, start, end, data)

    def _checked(self, segment: Segment, start: int, end: int, data: bytes) -> bytes:
        """The sound batches at the beginning of what was read. Raises Corruption if there is none."""
        good, expected = 0, segment.indexed_offset(start)
        for header in sound_headers(data, expected):
            good += header.size
            expected = header.next_offset
        segment.learn(start, start + good)
        if start + good < end:
            self._find_damage(segment, start + good, expected)
        if not good:
            raise self._corrupt("damaged batch", segment, start)
        return data if good == len(data) else data[:good]

    def _find_damage(self, segment: Segment, position: int, expected: int | None) -> None:
        """What lies at `position` is no sound batch: find out where the next one is, and refuse the bytes up to it."""
        end = segment.readable
        low = segment.offset_before(position) if expected is None else expected
        for found in scan(segment.descriptor, position, low):
            if isinstance(found, Found):
                raise self._corrupt("batch changed while it was read", segment, position)
            end = min(found.end, end)
            break
        with self._lock:
            if all(not damage.start <= position < damage.end for damage in self._damage.get(segment.base_offset, ())):
                self.report_damage(segment, Damage(position, end))

    def _corrupt(self, reason: str, segment: Segment, position: int) -> Corruption:
        return Corruption(reason, hub=self.hub, partition=self.partition, segment=segment.path.name, position=position)

    def _headers(self, segment: Segment, position: int) -> Iterator[tuple[int, BatchHeader]]:
        """Batches of a segment from `position` on, read in small windows; damage is noticed and stepped over."""
        expected = segment.indexed_offset(position)
        while True:
            clear, stop = self._clear_of_damage(segment, position)
            if clear >= stop:
                return
            expected = expected if clear == position else None
            position = clear
            taken = 0
            window = self._window(segment, position, stop)
            for header in sound_headers(window, expected, crc=position < segment.written_from):
                yield position + taken, header
                taken += header.size
                expected = header.next_offset
            if taken == 0:
                self._find_damage(segment, position, expected)
            position += taken

    def _clear_of_damage(self, segment: Segment, position: int) -> tuple[int, int]:
        """(`position` or the end of the damage it lies in, start of the next damage or the end of what is readable)."""
        stop = segment.readable
        for damage in sorted(self._damage.get(segment.base_offset, ()), key=lambda damage: damage.start):
            if damage.start <= position < damage.end:
                position = damage.end
            elif position < damage.start < stop:
                stop = damage.start
        return position, stop

    def _window(self, segment: Segment, position: int, stop: int) -> bytes:
        """Some batches, at least one whole one."""
        try:
            window = disk.read_at(segment.descriptor, min(4 * INDEX_INTERVAL_BYTES, stop - position), position)
            size = whole_size(window)
            if size is not None and len(window) < size <= stop - position:
                return disk.read_at(segment.descriptor, size, position)
        except (InvalidBatch, MessageTooLarge):
            return window
        except OSError as error:
            raise disk.storage_error(error, f"reading {self.hub}/{self.partition}") from None
        return window

    def _position_of(self, segment: Segment, offset: int) -> int:
        """Position of the batch that holds `offset`, or of the next one after a gap."""
        hint = self._hints.get(offset)
        if hint is not None and hint[0] is segment:
            return hint[1]
        end = min(segment.next_offset, self.end_offset)
        for position, header in self._headers(segment, segment.position_before(offset)):
            if header.next_offset > offset:
                self._refuse_damaged(segment, position, header, offset)
                return position
        if offset < end:
            raise self._corrupt("damaged or missing end", segment, segment.readable)
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
        start = self.start_offset
        for segment in self._segments:
            if segment.max_timestamp < timestamp_ms or segment.readable == 0:
                continue
            for position, header in self._headers(segment, segment.position_before_time(timestamp_ms)):
                if header.max_timestamp < timestamp_ms or header.next_offset <= start or not header.record_count:
                    continue
                if header.attributes & LOG_APPEND_TIME:
                    return max(header.base_offset, start), header.max_timestamp
                for event in decode(self._fetch(segment, position, position + header.size)):
                    if event.timestamp >= timestamp_ms and event.offset >= start:
                        return event.offset, event.timestamp
        return None

    def newest(self) -> tuple[int, int] | None:
        """(offset, timestamp) of the first event with the largest timestamp; None when there is no event."""
        best = max(self._segments, key=lambda segment: segment.max_timestamp)
        found = self.offset_at(best.max_timestamp) if best.readable else None
        return found or self._newest_kept()

    def _newest_kept(self) -> tuple[int, int] | None:
        """As `newest` by looking at every event: the batch with the largest timestamp begins below the log's start."""
        best: tuple[int, int] | None = None
        start = self.start_offset
        for segment in self._segments:
            for position, header in self._headers(segment, segment.position_before(start)):
                if header.next_offset <= start or (best is not None and header.max_timestamp <= best[1]):
                    continue
                for event in decode(self._fetch(segment, position, position + header.size)):
                    if event.offset >= start and (best is None or event.timestamp > best[1]):
                        best = event.offset, event.timestamp
        return best

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
            for segment in segments[:-1] if "delete" in self.settings.cleanup else ():
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
        return self._drop(doomed)

    def _drop(self, doomed: Sequence[Segment]) -> int:
        for segment in doomed:
            self._damage.pop(segment.base_offset, None)
            segment.retire()
            if self._sync:  # in order also after a power cut: no gap before segments that are kept
                with contextlib.suppress(OSError):
                    disk.sync_directory(self.directory)
        return sum(segment.size for segment in doomed)

    def advance_start(self, offset: int) -> int:
        """Let nobody read below `offset` any more and delete sealed segments that lie below it; returns bytes freed.

        The caller has made the new start durable, and hands it in again when the partition is opened.
        """
        with self._lock:
            self._log_start = max(self._log_start, min(offset, self.end_offset))
            bases = [segment.base_offset for segment in self._segments[1:]]
            count = bisect_right(bases, self._log_start)
            doomed, self._segments = self._segments[:count], self._segments[count:]
        return self._drop(doomed)

    def wants_roll(self, now_ms: int) -> bool:
        """Whether the active segment holds events that retention would drop were it sealed."""
        active = self._active
        deletes = "delete" in self.settings.cleanup and self.settings.retention_ms != UNLIMITED
        expired = deletes and active.max_timestamp < now_ms - self.settings.retention_ms
        return active.size > 0 and (expired or now_ms - active.created_ms > self.settings.segment_ms)

    def drop_before(self, segment_base: int) -> None:
        """Delete sealed segments that start before `segment_base`."""
        with self._lock:
            doomed = [segment for segment in self._segments[:-1] if segment.base_offset < segment_base]
            self._segments = self._segments[len(doomed) :]
        self._drop(doomed)

    # -- compaction ---------------------------------------------------------------------------------------------

    def sealed(self) -> list[Segment]:
        """Segments that nothing is appended to any more and whose transactions are all decided, up to damage."""
        found = []
        for segment in self._segments[:-1]:
            if segment.next_offset > self.stable_offset or segment.base_offset in self._damage:
                break
            found.append(segment)
        return found

    def last_batches(self) -> dict[int, int]:
        """Base offset of the last batch of every producer the log remembers."""
        return self._producers.last_batches()

    def report_damage(self, segment: Segment, damage: Damage) -> None:
        """Refuse a batch that turned out to be damaged; its segment is not compacted any more."""
        self._damage[segment.base_offset] = (*self._damage.get(segment.base_offset, ()), damage)

    @property
    def closed(self) -> bool:
        """Whether the log is closed, or about to be: long work should end."""
        return self._closed

    def replace(self, group: Sequence[Segment], compacted: Segment) -> bool:
        """Let readers see a compacted segment instead of a run of sealed ones; False if these are gone meanwhile."""
        with self._lock:
            segments = self._segments
            first = next((row for row, each in enumerate(segments) if each is group[0]), len(segments))
            if self._closed or segments[first : first + len(group)] != list(group):
                return False
            self._segments = [*segments[:first], compacted, *segments[first + len(group) :]]
        for offset, (segment, _) in list(self._hints.items()):
            if segment in group:
                self._hints.pop(offset, None)
        self._drop(group)
        return True

    def close(self) -> None:
        """Sync, save the index and close. Opening again then scans nothing."""
        self._closed = True
        with self.cleaning:
            self._close()

    def _close(self) -> None:
        if self.failed is None and self._active.size:
            disk.sync_data(self._active.descriptor)
            self._save(self._active)
        for segment in self._segments:
            segment.close()

    def delete(self) -> None:
        """Remove all files of this partition."""
        self._closed = True
        with self.cleaning, self._lock:
            for segment in self._segments:
                segment.retire()
            for path in self.directory.iterdir():
                path.unlink()
        self.directory.rmdir()
