"""Records of a batch to transfers, many at a time: the hot loop of the way out.

    frame header | transfer | [delivery-annotations] message-annotations [properties] [application-properties] body

An event that fits a frame is a handful of slices around its body, which is never looked into. Larger ones go through
`Connection.send_transfer`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from gridwire.core import batch, compression
from gridwire.core.batch import BatchHeader, varint_at
from gridwire.core.errors import InvalidBatch
from gridwire.wire.amqp import types
from gridwire.wire.amqp.connection import Connection
from gridwire.wire.amqp.link import MASK, Link
from gridwire.wire.amqp.mapping import (
    ENQUEUED_TIME,
    KAFKA_KEY,
    OFFSET,
    PARTITION_KEY,
    SEQUENCE_NUMBER,
)
from gridwire.wire.amqp.records import DATA8, DATA32, body_sections, data_section
from gridwire.wire.amqp.sections_out import NO_SECTIONS, sections_of

TURN_BYTES: Final = 256 * 1024
"""Written for one link before others get their turn."""

_I64: Final = struct.Struct(">q")
_U32: Final = struct.Struct(">I")
_SEQUENCE_KEY: Final = types.symbol(SEQUENCE_NUMBER) + b"\x81"
_OFFSET_KEY: Final = types.symbol(OFFSET) + b"\xa1"
_TIME_KEY: Final = types.symbol(ENQUEUED_TIME) + b"\x83"
_KEY_TEXT: Final = types.symbol(PARTITION_KEY)
_KEY_BYTES: Final = types.symbol(KAFKA_KEY)
_FIXED_BYTES: Final = len(_SEQUENCE_KEY) + 8 + len(_OFFSET_KEY) + 1 + len(_TIME_KEY) + 8
"""Our three annotations without the offset's digits."""

_ANNOTATIONS: Final = b"\x00\x53\x72"
_DATA_HEADS: Final = [DATA8 + bytes((size,)) for size in range(256)]


class RecordCursor:
    """Where reading of one batch's records stands."""

    __slots__ = ("append_time", "base_offset", "base_time", "data", "left", "next_offset", "position")

    def __init__(self, data: bytes, header: BatchHeader) -> None:
        self.data = data
        self.position = 0
        self.left = header.record_count
        self.base_offset = header.base_offset
        self.base_time = header.base_timestamp
        self.next_offset = header.next_offset
        self.append_time = header.max_timestamp if header.attributes & batch.LOG_APPEND_TIME else None


def open_batch(data: bytes | memoryview, position: int, header: BatchHeader) -> RecordCursor:
    """The records of the batch at `position`, decompressed. Raises InvalidBatch, MessageTooLarge."""
    view = memoryview(data)[position + batch.HEADER_BYTES : position + header.size]
    return RecordCursor(bytes(compression.decompress(header.codec, view)), header)


class EventWriter:
    """Writes events to one link. `lead`: delivery annotations before each event, encoded."""

    def __init__(self, connection: Connection, link: Link) -> None:
        self._connection = connection
        self._link = link
        handle = types.uint(link.handle)
        tag = b"\xa0\x00" if link.settled else b"\xa0\x04"
        mode = b"\x43" + types.boolean(link.settled) + b"\x42" + b"\x40" * 5
        size = 1 + len(handle) + 5 + len(tag) + (0 if link.settled else 4) + len(mode)
        self._before_id = (
            b"\x02\x00"
            + link.session.channel.to_bytes(2, "big")
            + b"\x00\x53\x14\xc0"
            + bytes((size, 11))
            + handle
            + b"\x70"
        )
        self._tag, self._mode = tag, mode
        self._lead: bytes | None = None
        self.lead = b""

    def _prepare(self) -> None:
        """Structures for the lead in force."""
        self._lead = self.lead
        after = self._mode + self.lead + _ANNOTATIONS + b"\xc1"
        if self._link.settled:
            after = self._tag + after
        self._after_id = after
        tagged = "" if self._link.settled else f"{len(self._tag)}sI"
        front = f">I{len(self._before_id)}sI{tagged}{len(after)}sBB"
        self._whole = struct.Struct(f"{front}{len(_SEQUENCE_KEY)}sq{len(_OFFSET_KEY)}sB")

    def write(
        self, cursor: RecordCursor, first: int, room: int, offsets: list[int] | None = None, failed: int = 0
    ) -> int:
        """Write events from offset `first` on, at most `room`, at most a turn's bytes; returns how many.

        Args:
            offsets: gets the offset of each event written, in the order of their delivery ids.
            failed: deliveries of them that failed before.

        Raises:
            InvalidBatch, AmqpError: the stored records are malformed.
        """
        if self._lead is not self.lead:
            self._prepare()
        try:
            return self._write(cursor, first, room, offsets, failed)
        except IndexError:
            raise InvalidBatch("the records end before their count") from None

    def _write(self, cursor: RecordCursor, first: int, room: int, offsets: list[int] | None, failed: int) -> int:
        """The loop itself: one function, because a call an event would cost as much as the event."""
        link, session, out = self._link, self._link.session, self._connection.out
        data, position, left = cursor.data, cursor.position, cursor.left
        base_offset, base_time, append_time = cursor.base_offset, cursor.base_time, cursor.append_time
        whole, before, after, settled, tag = self._whole, self._before_id, self._after_id, link.settled, self._tag
        fixed = whole.size + len(_TIME_KEY) + 8
        frame_max, heads = self._connection.peer_frame_bytes_max, _DATA_HEADS
        delivery, written, fast, size_out, end = session.next_delivery_id, 0, 0, 0, len(data)
        length, head, digits = -1, b"", b""
        seen_delta, time_bytes = None, b""
        while left and written < room and size_out < TURN_BYTES:
            size, at = varint_at(data, position) if data[position] >= 0x80 else (data[position] >> 1, position + 1)
            stop = at + size
            if size < 5 or stop > end:
                raise InvalidBatch("record runs past the end of its batch")
            position = stop
            left -= 1
            if data[at + 1] < 0x80:
                delta, at = (data[at + 1] >> 1) ^ -(data[at + 1] & 1), at + 2
            else:
                delta, at = varint_at(data, at + 1)
            if data[at] < 0x80:
                offset, at = base_offset + (data[at] >> 1), at + 1
            elif data[at + 1] < 0x80:
                offset, at = base_offset + (((data[at] & 0x7F) | (data[at + 1] << 7)) >> 1), at + 2
            else:
                offset, at = varint_at(data, at)
                offset += base_offset
            if offset < first:
                continue
            if delta != seen_delta:
                seen_delta = delta
                time_bytes = _TIME_KEY + _I64.pack(base_time + delta if append_time is None else append_time)
            key_at = at
            if (
                data[at] == 1 and data[stop - 1] == 0 and not data[at + 1] & 1 and not failed
            ):  # no key; a value; no headers perhaps
                length, at = data[at + 1], at + 2
                if length < 0x80:
                    length >>= 1
                else:
                    length, at = varint_at(data, at - 1)
            else:
                length = -1
            if at + length + 1 == stop and length >= 0:
                digits = b"%d" % offset
                head = heads[length] if length < 256 else DATA32 + _U32.pack(length)
                size = fixed + len(digits) + len(head) + length
            else:
                size = frame_max + 1
            if size > frame_max:
                fast, delivery = self._slow(data, key_at, stop, offset, time_bytes, fast, delivery, failed)
                if not fast:  # it took many frames, and may have used up the window
                    room = min(room, written + 1 + session.room)
            elif settled:
                width = len(digits)
                ours = _FIXED_BYTES + 1 + width
                front = whole.pack(size, before, delivery, after, ours, 6, _SEQUENCE_KEY, offset, _OFFSET_KEY, width)
                out += (front, digits, time_bytes, head, data[at : at + length])
                fast, delivery = fast + 1, (delivery + 1) & MASK
            else:
                width = len(digits)
                ours = _FIXED_BYTES + 1 + width
                front = whole.pack(
                    size, before, delivery, tag, delivery, after, ours, 6, _SEQUENCE_KEY, offset, _OFFSET_KEY, width
                )
                out += (front, digits, time_bytes, head, data[at : at + length])
                fast, delivery = fast + 1, (delivery + 1) & MASK
            written += 1
            size_out += stop - key_at
            if offsets is not None:
                offsets.append(offset)
        cursor.position, cursor.left = position, left
        self._count(fast, delivery)
        return written

    def _count(self, frames: int, delivery: int) -> None:
        """Take note of so many frames of one delivery each; `delivery` is the id of the next."""
        link, session = self._link, self._link.session
        session.next_delivery_id = delivery
        session.sent(frames)
        link.delivery_count = (link.delivery_count + frames) & MASK
        link.credit = max(0, link.credit - frames)

    def _slow(
        self, data: bytes, at: int, stop: int, offset: int, time_bytes: bytes, fast: int, delivery: int, failed: int
    ) -> tuple[int, int]:
        """Write an event with a key, headers or a large body; returns how far `fast` and `delivery` are then."""
        payload = event_sections(data, at, stop, offset, time_bytes, self.lead, failed)
        front = self._before_id + _U32.pack(delivery) + self._tag
        if not self._link.settled:
            front += _U32.pack(delivery)
        front += self._mode
        size = 4 + len(front) + len(payload)
        if size <= self._connection.peer_frame_bytes_max:
            self._connection.out += (_U32.pack(size), front, payload)
            return fast + 1, (delivery + 1) & MASK
        self._count(fast, delivery)
        tag = b"" if self._link.settled else _U32.pack(delivery)
        self._connection.send_transfer(self._link, payload, tag)
        return 0, self._link.session.next_delivery_id


def event_sections(
    data: bytes, at: int, stop: int, offset: int, time_bytes: bytes, lead: bytes = b"", failed: int = 0
) -> bytes:
    """The message of a record whose key's length lies at `at`. Raises InvalidBatch, AmqpError.

    Args:
        lead: delivery annotations. failed: deliveries that failed before.
    """
    if data[at] == 1:
        key, at = None, at + 1
    else:
        key, at = _field(data, at, stop)
    value, at = _field(data, at, stop)
    return message(key, value, data[at:stop], offset, time_bytes, lead, failed)


def message_of(key: bytes | None, value: bytes | None, headers: bytes, offset: int, timestamp_ms: int) -> bytes:
    """The message of an event, with all that a receiver is told. `headers`: of a record, count and all.

    Raises:
        AmqpError: the headers are malformed.
    """
    return message(key, value, headers, offset, _TIME_KEY + _I64.pack(timestamp_ms))


def message(
    key: bytes | None, value: bytes | None, headers: bytes, offset: int, time_bytes: bytes, lead: bytes = b"",
    failed: int = 0,
) -> bytes:  # fmt: skip
    """As `message_of`, with the annotation of its time and what comes before it."""
    sections = NO_SECTIONS if headers == b"\x00" else sections_of(headers)
    digits = b"%d" % offset
    ours = (_SEQUENCE_KEY, _I64.pack(offset), _OFFSET_KEY, bytes((len(digits),)), digits, time_bytes)
    pairs = b"".join((b"" if key is None else key_annotation(key), sections.annotation_bytes, *ours))
    count = 6 + (2 if key is not None else 0) + sections.annotations
    if len(pairs) < 255 and count < 256:
        head = bytes((0xC1, len(pairs) + 1, count))
    else:
        head = b"\xd1" + _U32.pack(len(pairs) + 4) + _U32.pack(count)
    body = body_sections(value, sections.body) if sections.body else data_section(value or b"")
    if sections.transport or failed:
        lead = header_section(sections.transport, failed) + lead
    return b"".join((lead, _ANNOTATIONS, head, pairs, sections.before, body, sections.footer))


def header_section(fields: Sequence[bytes], failed: int) -> bytes:
    """The header section: durable, priority and ttl as they came, and how often a delivery failed."""
    fields = fields or [types.NULL] * 3
    if failed:
        fields = [*fields, types.FALSE, types.uint(failed)]
    return types.described(0x70, types.list_(fields))


def key_annotation(key: bytes | None) -> bytes:
    """The annotation that carries a key: text where it is, else bytes."""
    if key is None:
        return b""
    try:
        return _KEY_TEXT + types.string(key.decode())
    except UnicodeDecodeError:
        return _KEY_BYTES + types.binary(key)


def _field(data: bytes, at: int, stop: int) -> tuple[bytes | None, int]:
    size, at = varint_at(data, at)
    if size < 0:
        return None, at
    if at + size > stop:
        raise InvalidBatch("record field runs past the end of its batch")
    return data[at : at + size], at + size
