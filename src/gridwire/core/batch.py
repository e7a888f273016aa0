"""The event batch: the unit on every hop, and the very bytes on disk.

A batch is a Kafka v2 record batch, all integers big-endian:

    0        8       12       16  17   21      23      27       35       43       51     53      57     61
    | base   | length| leader |mag| crc |attri- | last  | base   | max    |producer| epo- | base | record| records
    | offset | int32 | epoch  |=2 |32C  |butes  | delta | time   | time   | id     | ch   | seq  | count | ...

`length` counts everything after itself. The CRC-32C covers everything after itself (from byte 21), so the base
offset and the leader epoch can be rewritten without touching it. Attributes: bits 0-2 codec, 3 log-append time,
4 transactional, 5 control. A record (inside the possibly compressed records section), all lengths zigzag varints:

    length  attributes:int8  timestamp delta  offset delta  key length|-1  key  value length|-1  value
    header count  { name length  name  value length|-1  value }

Source: Apache Kafka protocol guide, "Record Batch".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from fastcrc import crc32

from gridwire.core import compression
from gridwire.core.errors import InvalidBatch, MessageTooLarge
from gridwire.core.limits import BATCH_BYTES_MAX, RECORDS_PER_BATCH_MAX

HEADER_BYTES: Final = 61
LENGTH_END: Final = 12
CRC_START: Final = 21
MAGIC: Final = 2

CODEC_MASK: Final = 0x07
LOG_APPEND_TIME: Final = 0x08
TRANSACTIONAL: Final = 0x10
CONTROL: Final = 0x20

LEADER_EPOCH: Final = 0
"""The leader epoch of batches that are stored: there is one hub. The field lies outside the CRC."""

CONTINUES: Final = -1
"""Stands in its place where a batch was written together with the one before it: they are synced and acknowledged
together. To clients it says that no epoch is known."""

STORED_EPOCHS: Final = frozenset({LEADER_EPOCH, CONTINUES})

NO_PRODUCER: Final = -1
NO_SEQUENCE: Final = -1

_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH = struct.Struct(">i")
_ATTRIBUTES = struct.Struct(">h")
_INT64 = struct.Struct(">q")
_COUNT_AT: Final = 57
_CRC = struct.Struct(">I")
_PRODUCER = struct.Struct(">qhi")

Headers = tuple[tuple[str, bytes | None], ...]
"""An event's headers: ordered, names may repeat."""


class BatchHeader(msgspec.Struct, frozen=True, gc=False):
    """The fixed part of a batch. `size` is the whole batch in bytes, times are milliseconds since the epoch."""

    base_offset: int
    size: int
    leader_epoch: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    def at(self, base_offset: int) -> BatchHeader:
        """The header once `stamp` has put the batch at an offset."""
        return BatchHeader(
            base_offset,
            self.size,
            LEADER_EPOCH,
            self.crc,
            self.attributes,
            self.last_offset_delta,
            self.base_timestamp,
            self.max_timestamp,
            self.producer_id,
            self.producer_epoch,
            self.base_sequence,
            self.record_count,
        )

    @property
    def next_offset(self) -> int:
        """Offset after the last event of this batch."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def last_sequence(self) -> int:
        """Sequence number of the last event; sequences wrap at 2^31."""
        return (self.base_sequence + self.last_offset_delta) & 0x7FFFFFFF

    @property
    def codec(self) -> int:
        """Compression codec, see `gridwire.core.compression`."""
        return self.attributes & CODEC_MASK

    @property
    def idempotent(self) -> bool:
        """Whether a producer id and a sequence came along."""
        return self.producer_id >= 0 and self.base_sequence >= 0


class Event(msgspec.Struct, frozen=True):
    """One event as the slow path sees it. `timestamp` in milliseconds since the epoch."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    timestamp: int = 0
    offset: int = -1


def whole_size(buffer: bytes | bytearray | memoryview, position: int = 0) -> int | None:
    """Size of the batch that starts at `position`, or None when fewer than 12 bytes of it are there.

    Raises:
        InvalidBatch: the length is impossible. MessageTooLarge: above the batch limit.
    """
    if len(buffer) - position < LENGTH_END:
        return None
    size: int = _LENGTH.unpack_from(buffer, position + 8)[0] + LENGTH_END
    if size < HEADER_BYTES:
        raise InvalidBatch(f"batch length {size - LENGTH_END} is below the smallest possible")
    if size > BATCH_BYTES_MAX:
        raise MessageTooLarge(f"batch of {size} bytes is above the limit of {BATCH_BYTES_MAX}")
    return size


def read_header(buffer: bytes | bytearray | memoryview, position: int = 0) -> BatchHeader:
    """Read and check the header of a whole batch that starts at `position`.

    Raises:
        InvalidBatch: too short, not format v2, or a field out of range. MessageTooLarge: above the batch limit.
    """
    size = whole_size(buffer, position)
    if size is None or len(buffer) - position < size:
        raise InvalidBatch("batch is cut short")
    (
        base,
        length,
        leader_epoch,
        magic,
        crc,
        attributes,
        last_delta,
        base_time,
        max_time,
        pid,
        epoch,
        sequence,
        count,
    ) = _HEADER.unpack_from(buffer, position)
    if magic != MAGIC:
        raise InvalidBatch(f"record format v{magic} is not supported: send format v2 (Kafka 0.11 and later)")
    if not 0 <= last_delta < RECORDS_PER_BATCH_MAX or not 0 <= count <= last_delta + 1:
        raise InvalidBatch(f"batch claims {count} records and last offset delta {last_delta}")
    return BatchHeader(
        base,
        length + LENGTH_END,
        leader_epoch,
        crc,
        attributes,
        last_delta,
        base_time,
        max_time,
        pid,
        epoch,
        sequence,
        count,
    )


def crc_matches(buffer: bytes | bytearray | memoryview, header: BatchHeader, position: int = 0) -> bool:
    """Whether the CRC-32C in the header is that of the bytes."""
    with memoryview(buffer) as view:
        return bool(crc32.iscsi(view[position + CRC_START : position + header.size]) == header.crc)


def check_produced(buffer: bytes | bytearray | memoryview) -> list[BatchHeader]:
    """Check everything about batches from outside that can be checked without decompressing them.

    Returns:
        One header a batch, in order; the batches lie back to back and fill the buffer.

    Raises:
        InvalidBatch, MessageTooLarge: with the reason.
    """
    headers = []
    position = 0
    while position < len(buffer):
        header = read_header(buffer, position)
        if header.record_count != header.last_offset_delta + 1:
            raise InvalidBatch(f"batch claims {header.record_count} records for {header.last_offset_delta + 1} offsets")
        if not crc_matches(buffer, header, position):
            raise InvalidBatch("CRC-32C of the batch does not match its bytes: it was damaged on the way")
        if header.codec > compression.ZSTD:
            raise InvalidBatch(f"unknown compression codec {header.codec}")
        headers.append(header)
        position += header.size
    if not headers:
        raise InvalidBatch("no record batch in the request")
    return headers


def check_acceptable(
    headers: Sequence[BatchHeader], hub: str, message_bytes_max: int, *, transactional: bool = False
) -> None:
    """Check what a hub takes from outside.

    Raises:
        InvalidBatch: a control batch, or one that is transactional where it should not be, or the other way round.
        MessageTooLarge: above the hub's `message_bytes_max`.
    """
    for header in headers:
        if header.attributes & CONTROL:
            raise InvalidBatch("control batches are not accepted from outside")
        if bool(header.attributes & TRANSACTIONAL) != transactional:
            raise InvalidBatch("a transactional batch needs a transactional id, and only such a batch may have one")
        if transactional and not header.idempotent:
            raise InvalidBatch("a transactional batch needs a producer id and a sequence")
        if header.size > message_bytes_max:
            raise MessageTooLarge(
                f"batch of {header.size} bytes is above message_bytes_max {message_bytes_max} of hub {hub!r}"
            )


def iter_headers(buffer: bytes | bytearray | memoryview) -> Iterator[tuple[int, BatchHeader]]:
    """Yield (position, header) for each whole batch; a cut-off last batch ends the iteration."""
    position = 0
    while True:
        size = whole_size(buffer, position)
        if size is None or position + size > len(buffer):
            return
        yield position, read_header(buffer, position)
        position += size


def empty_until(buffer: bytes | bytearray | memoryview) -> int | None:
    """The offset behind whole stored batches none of which has a record; None if one has, or there is no batch.

    Cheap where it matters: the first batch with a record ends the search.
    """
    position, last = 0, -1
    while position + HEADER_BYTES <= len(buffer):
        if _LENGTH.unpack_from(buffer, position + _COUNT_AT)[0]:
            return None
        last = position
        position += _LENGTH.unpack_from(buffer, position + 8)[0] + LENGTH_END
    return read_header(buffer, last).next_offset if last >= 0 else None


def sound_headers(
    buffer: bytes | bytearray | memoryview, expected: int | None = None, *, crc: bool = True
) -> Iterator[BatchHeader]:
    """Headers of stored batches that lie back to back, up to the first that is cut off or damaged.

    Args:
        expected: base offset of the first, if that is known; every other one continues its predecessor's.
        crc: also check each batch's bytes. The base offset and the leader epoch lie outside the CRC.
    """
    position = 0
    while position < len(buffer):
        try:
            header = read_header(buffer, position)
        except (InvalidBatch, MessageTooLarge):
            return
        if expected is not None and header.base_offset != expected:
            return
        if crc and (header.leader_epoch not in STORED_EPOCHS or not crc_matches(buffer, header, position)):
            return
        yield header
        position += header.size
        expected = header.next_offset


def stamp(
    buffer: bytearray | memoryview, base_offset: int, leader_epoch: int = LEADER_EPOCH, position: int = 0
) -> None:
    """Write the assigned base offset and leader epoch in place; both lie outside the CRC."""
    _INT64.pack_into(buffer, position, base_offset)
    _LENGTH.pack_into(buffer, position + LENGTH_END, leader_epoch)


def set_append_time(buffer: bytearray | memoryview, now_ms: int, position: int = 0) -> None:
    """Switch a batch to log-append time: rewrite attributes and max timestamp, then the CRC."""
    view = memoryview(buffer)
    size = _LENGTH.unpack_from(view, position + 8)[0] + LENGTH_END
    attributes = _ATTRIBUTES.unpack_from(view, position + 21)[0] | LOG_APPEND_TIME
    _ATTRIBUTES.pack_into(view, position + 21, attributes)
    _INT64.pack_into(view, position + 35, now_ms)
    _CRC.pack_into(view, position + 17, crc32.iscsi(view[position + CRC_START : position + size]))


def set_producer(
    buffer: bytearray | memoryview, producer_id: int, producer_epoch: int, base_sequence: int, position: int = 0
) -> None:
    """Say who a batch comes from and which of his it is, so that sending it twice is noticed; then the CRC."""
    view = memoryview(buffer)
    size = _LENGTH.unpack_from(view, position + 8)[0] + LENGTH_END
    _PRODUCER.pack_into(view, position + 43, producer_id, producer_epoch, base_sequence)
    _CRC.pack_into(view, position + 17, crc32.iscsi(view[position + CRC_START : position + size]))


def merged(batches: Sequence[bytes | bytearray | memoryview]) -> bytearray:
    """Several uncompressed batches as one, with the events of all in order."""
    return encode([event for each in batches for event in decode(each)])


def varint(value: int) -> bytes:
    """A number as records have it: a zigzag varint."""
    value = (value << 1) ^ (value >> 63)
    if 0 <= value < 0x80:
        return _SMALL[value]
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL: Final = [bytes([i]) for i in range(128)]


def varint_at(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """(a record's number, position after it). Raises InvalidBatch: it runs past the end, or is longer than 64 bits."""
    value = shift = 0
    while shift <= 63 and position < len(data):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), position
        shift += 7
    raise InvalidBatch("record field runs past the end of its batch")


def _field(data: bytes | None) -> bytes:
    return b"\x01" if data is None else varint(len(data)) + data


def _record(event: Event, offset_delta: int, timestamp_delta: int) -> bytes:
    parts = [b"\x00", varint(timestamp_delta), varint(offset_delta), _field(event.key), _field(event.value)]
    parts.append(varint(len(event.headers)))
    for name, value in event.headers:
        parts.append(_field(name.encode()))
        parts.append(_field(value))
    body = b"".join(parts)
    return varint(len(body)) + body


def encode(
    events: Sequence[Event],
    *,
    codec: int = compression.NONE,
    base_offset: int = 0,
    producer_id: int = NO_PRODUCER,
    producer_epoch: int = -1,
    base_sequence: int = NO_SEQUENCE,
    attributes: int = 0,
) -> bytearray:
    """Build one batch from events in order; offsets count up from `base_offset`.

    Raises:
        ValueError: no event.
    """
    if not events:
        raise ValueError("a batch needs at least one event")
    base_time = events[0].timestamp
    records = b"".join(_record(event, i, event.timestamp - base_time) for i, event in enumerate(events))
    records = compression.compress(codec, records)
    max_time = max(event.timestamp for event in events)
    return assemble(
        records,
        record_count=len(events),
        base_timestamp=base_time,
        max_timestamp=max_time,
        base_offset=base_offset,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
        attributes=attributes | codec,
    )


def assemble(
    records: bytes | memoryview,
    *,
    record_count: int,
    base_timestamp: int,
    max_timestamp: int,
    base_offset: int = 0,
    producer_id: int = NO_PRODUCER,
    producer_epoch: int = -1,
    base_sequence: int = NO_SEQUENCE,
    attributes: int = 0,
    last_offset_delta: int | None = None,
) -> bytearray:
    """Put a header with its CRC before an encoded (and already compressed) records section."""
    out = bytearray(HEADER_BYTES + len(records))
    _HEADER.pack_into(
        out, 0, base_offset, len(out) - LENGTH_END, 0, MAGIC, 0, attributes,
        record_count - 1 if last_offset_delta is None else last_offset_delta,
        base_timestamp, max_timestamp, producer_id, producer_epoch, base_sequence, record_count,
    )  # fmt: skip
    out[HEADER_BYTES:] = records
    _CRC.pack_into(out, 17, crc32.iscsi(memoryview(out)[CRC_START:]))
    return out


def rebuilt(header: BatchHeader, records: bytes, record_count: int, max_timestamp: int) -> bytearray:
    """A batch with other records (already compressed) under the same header: offsets, producer and times stay."""
    return assemble(
        records,
        record_count=record_count,
        base_timestamp=header.base_timestamp,
        max_timestamp=max_timestamp,
        base_offset=header.base_offset,
        producer_id=header.producer_id,
        producer_epoch=header.producer_epoch,
        base_sequence=header.base_sequence,
        attributes=header.attributes,
        last_offset_delta=header.last_offset_delta,
    )


def empty(base_offset: int, offsets: int) -> bytearray:
    """A batch without records that covers offsets whose events are gone."""
    return assemble(
        b"", record_count=0, base_timestamp=-1, max_timestamp=-1, base_offset=base_offset, last_offset_delta=offsets - 1
    )


class _Cursor:
    """Reads a records section with every bound checked."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = data
        self.position = 0
        self.end = len(data)

    def varint(self) -> int:
        value, self.position = varint_at(self.data, self.position)
        return value

    def field(self) -> bytes | None:
        size = self.varint()
        if size < 0:
            return None
        start = self.position
        if size > self.end - start:
            raise InvalidBatch("record field runs past the end of its batch")
        self.position = start + size
        return bytes(self.data[start : start + size])


def _headers(cursor: _Cursor) -> Headers:
    count = cursor.varint()
    if count == 0:
        return ()
    if not 0 < count <= cursor.end - cursor.position:
        raise InvalidBatch(f"record claims {count} headers")
    out = []
    for _ in range(count):
        name = cursor.field()
        if name is None:
            raise InvalidBatch("record header without a name")
        out.append((name.decode("utf-8", "replace"), cursor.field()))
    return tuple(out)


def headers_at(data: memoryview, position: int, count: int) -> tuple[Headers, int]:
    """So many headers of a record as columns know it, and where they end. Raises InvalidBatch."""
    cursor = _Cursor(data)
    cursor.position = position
    found = tuple(((cursor.field() or b"").decode("utf-8", "replace"), cursor.field()) for _ in range(count))
    return found, cursor.position


def decode(buffer: bytes | bytearray | memoryview, position: int = 0) -> Iterator[Event]:
    """Yield the events of the whole batch at `position`, decompressing it if need be.

    Raises:
        InvalidBatch, MessageTooLarge: while iterating, at the damaged place.
    """
    header = read_header(buffer, position)
    section = memoryview(buffer)[position + HEADER_BYTES : position + header.size]
    cursor = _Cursor(compression.decompress(header.codec, section))
    append_time = header.max_timestamp if header.attributes & LOG_APPEND_TIME else None
    for _ in range(header.record_count):
        size = cursor.varint()
        stop = cursor.position + size
        if size < 5 or stop > cursor.end:
            raise InvalidBatch("record runs past the end of its batch")
        cursor.position += 1
        timestamp = header.base_timestamp + cursor.varint()
        offset = header.base_offset + cursor.varint()
        key = cursor.field()
        value = cursor.field()
        event = Event(value, key, _headers(cursor), timestamp if append_time is None else append_time, offset)
        if cursor.position != stop:
            raise InvalidBatch("record length does not match its fields")
        yield event
