"""The record batch kernels: walk batch headers, then turn records into spans.

Both take positions as int64 and compare every one of them with the end of what they may read before they load a byte;
lengths come from outside and are never added up before they are known to fit. The layout is that of `core.batch`.

    scan_batches   header by header: one table row for each batch from the offset asked for
    read_records   row by row: offset, timestamp and spans of key, value and headers of each record

A varint that does not fit moves the position to FAR, which fails every later comparison; one check at the end of the
record therefore finds all damage inside it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gridwire.columnar.machine import as_int, kernel, load8, load16_be, load32_be, load64_be, pointer
from gridwire.core import batch
from gridwire.core.limits import BATCH_BYTES_MAX, RECORDS_PER_BATCH_MAX

# Columns of the batch table, int64[batches, TABLE_COLUMNS].
POSITION: Final = 0
RECORDS_START: Final = 1
RECORDS_END: Final = 2
BASE_OFFSET: Final = 3
NEXT_OFFSET: Final = 4
BASE_TIME: Final = 5
APPEND_TIME: Final = 6
COUNT: Final = 7
CODEC: Final = 8
TABLE_COLUMNS: Final = 9

NO_APPEND_TIME: Final = -(2**63)
"""In APPEND_TIME: the records' own timestamps hold."""

# Rows of the two output blocks: int64[LONGS, n] and int32[INTS, n].
OFFSETS: Final = 0
TIMESTAMPS: Final = 1
KEY_STARTS: Final = 2
VALUE_STARTS: Final = 3
HEADER_STARTS: Final = 4
LONGS: Final = 5
KEY_LENGTHS: Final = 0
VALUE_LENGTHS: Final = 1
HEADER_COUNTS: Final = 2
INTS: Final = 3

# Why a scan ended.
AT_END: Final = 0
MORE: Final = 1  # the table is full
LIMIT: Final = 2  # of events
BAD_LENGTH: Final = 3
BAD_MAGIC: Final = 4
BAD_COUNT: Final = 5
BAD_OFFSET: Final = 6

REASONS: Final = {
    BAD_LENGTH: "batch length is impossible",
    BAD_MAGIC: "batch is not of format v2",
    BAD_COUNT: "batch claims more records than it has room or offsets for",
    BAD_OFFSET: "batch offset is negative or before the end of the batch in front of it",
}

RECORD_BYTES_MIN: Final = 7
"""Smallest record: its length and six one-byte fields. Bounds what a record count may claim."""

_RECORD_BODY_MIN: Final = RECORD_BYTES_MIN - 1
_OFFSET_MAX: Final = 2**62
_FAR: Final = 2**62
_HEADER_BYTES: Final = batch.HEADER_BYTES
_LENGTH_END: Final = batch.LENGTH_END
_CODEC_MASK: Final = batch.CODEC_MASK
_LOG_APPEND_TIME: Final = batch.LOG_APPEND_TIME
_CONTROL: Final = batch.CONTROL
_BATCH_MAX: Final = BATCH_BYTES_MAX
_RECORDS_MAX: Final = RECORDS_PER_BATCH_MAX


@kernel
def signed32(value: int) -> int:
    """An unsigned 32-bit number as the signed one with the same bits."""
    return value - ((value & 0x80000000) << 1)


@kernel
def check_header(data: Any, position: int, size: int, floor: int) -> int:
    """AT_END for a sound header, else the reason it is not. The whole batch is known to be in bounds."""
    if load8(data, position + 16) != 2:
        return BAD_MAGIC
    base = load64_be(data, position)
    if base < floor or base > _OFFSET_MAX:
        return BAD_OFFSET
    last_delta = signed32(load32_be(data, position + 23))
    count = signed32(load32_be(data, position + 57))
    if last_delta < 0 or last_delta >= _RECORDS_MAX or count < 0 or count > last_delta + 1:
        return BAD_COUNT
    plain = (load16_be(data, position + 21) & _CODEC_MASK) == 0
    if plain and count * RECORD_BYTES_MIN > size - _HEADER_BYTES:
        return BAD_COUNT
    return AT_END


@kernel
def scan_batches(
    array: Any, start: int, end: int, from_offset: int, floor: int, events_max: int, exceed: bool, table: Any
) -> tuple[int, int, int, int, int, int]:
    """Walk the batch headers in array[start:end].

    Args:
        from_offset: batches that end before it are passed over. Control batches get a row without records, so that
            their CRC is checked too: a flipped bit must not turn events into something to pass over.
        floor: smallest base offset that may come.
        events_max: stop before the batch that would exceed it, unless it is the first and `exceed` is true.
        table: int64[rows, TABLE_COLUMNS], filled from the top.

    Returns:
        (rows filled, events in them, compressed rows, position reached, next offset, why it ended)
    """
    data = pointer(array)
    rows = events = compressed = 0
    position = start
    while True:
        if end - position < _LENGTH_END:
            return rows, events, compressed, position, floor, AT_END
        size = signed32(load32_be(data, position + 8)) + _LENGTH_END
        if size < _HEADER_BYTES or size > _BATCH_MAX:
            return rows, events, compressed, position, floor, BAD_LENGTH
        if size > end - position:
            return rows, events, compressed, position, floor, AT_END
        reason = check_header(data, position, size, floor)
        if reason != AT_END:
            return rows, events, compressed, position, floor, reason
        base = load64_be(data, position)
        attributes = load16_be(data, position + 21)
        following = base + signed32(load32_be(data, position + 23)) + 1
        count = signed32(load32_be(data, position + 57))
        codec = attributes & _CODEC_MASK
        if attributes & _CONTROL or count == 0:
            count = codec = 0
        if following > from_offset:
            if rows == len(table):
                return rows, events, compressed, position, floor, MORE
            if events + count > events_max and (rows > 0 or not exceed):
                return rows, events, compressed, position, floor, LIMIT
            row = table[rows]
            row[POSITION] = position
            row[RECORDS_START] = position + _HEADER_BYTES
            row[RECORDS_END] = position + size
            row[BASE_OFFSET] = base
            row[NEXT_OFFSET] = following
            row[BASE_TIME] = load64_be(data, position + 27)
            row[APPEND_TIME] = load64_be(data, position + 35) if attributes & _LOG_APPEND_TIME else NO_APPEND_TIME
            row[COUNT] = count
            row[CODEC] = codec
            compressed += codec != 0
            rows += 1
            events += count
        floor = following
        position += size


@kernel
def long_varint(data: Any, position: int, end: int) -> tuple[int, int]:
    """Zigzag varint of any length up to ten bytes: (value, position after it or FAR)."""
    value = np.uint64(0)
    shift = 0
    while position < end and shift < 64:
        byte = load8(data, position)
        position += 1
        if shift == 63 and byte > 1:
            break
        value |= np.uint64(byte & 0x7F) << np.uint64(shift)
        if byte < 0x80:
            return as_int(value >> np.uint64(1)) ^ -as_int(value & np.uint64(1)), position
        shift += 7
    return 0, _FAR


@kernel
def varint(data: Any, position: int, end: int) -> tuple[int, int]:
    """Zigzag varint: (value, position after it or FAR). One and two bytes, nearly all there are, come first."""
    if position < end - 1:
        low = load8(data, position)
        if low < 0x80:
            return (low >> 1) ^ -(low & 1), position + 1
        high = load8(data, position + 1)
        if high < 0x80:
            low = (low & 0x7F) | (high << 7)
            return (low >> 1) ^ -(low & 1), position + 2
    return long_varint(data, position, end)


@kernel
def skip_headers(data: Any, position: int, end: int, count: int) -> int:
    """Position after `count` headers, or FAR when they are damaged."""
    if count < 0 or count > end - position:
        return _FAR
    for _ in range(count):
        size, position = varint(data, position, end)
        if size < 0 or size > end - position:
            return _FAR
        size, position = varint(data, position + size, end)
        if size > end - position:
            return _FAR
        position += max(size, 0)
    return position


@kernel
def read_records(
    array: Any, table: Any, first: int, last: int, from_offset: int, longs: Any, ints: Any
) -> tuple[int, int, int]:
    """Decode the batches of table rows [first, last) into the two output blocks.

    The caller made sure that RECORDS_START to RECORDS_END lie inside `array` and that the blocks have room for COUNT
    records of every batch.

    Returns:
        (events written, `last` or the row of the first damaged batch, position of its damaged record). Of a damaged
        batch nothing is kept.
    """
    data = pointer(array)
    offsets, timestamps = longs[OFFSETS], longs[TIMESTAMPS]
    key_starts, value_starts, header_starts = longs[KEY_STARTS], longs[VALUE_STARTS], longs[HEADER_STARTS]
    key_lengths, value_lengths, header_counts = ints[KEY_LENGTHS], ints[VALUE_LENGTHS], ints[HEADER_COUNTS]
    written = 0
    for row in range(first, last):
        position = table[row, RECORDS_START]
        end = table[row, RECORDS_END]
        base_offset = table[row, BASE_OFFSET]
        base_time = table[row, BASE_TIME]
        append_time = table[row, APPEND_TIME]
        delta_end = table[row, NEXT_OFFSET] - base_offset
        previous = -1
        kept = written
        for _ in range(table[row, COUNT]):
            record = position
            size, position = varint(data, position, end)
            if size < _RECORD_BODY_MIN or size > end - position:
                return kept, row, record
            stop = position + size
            time_delta, position = varint(data, position + 1, stop)
            offset_delta, position = varint(data, position, stop)
            key_size, key_start = varint(data, position, stop)
            if key_size > stop - key_start:
                return kept, row, record
            value_size, value_start = varint(data, key_start + max(key_size, 0), stop)
            if value_size > stop - value_start:
                return kept, row, record
            header_count, header_start = varint(data, value_start + max(value_size, 0), stop)
            position = header_start
            if header_count != 0:
                position = skip_headers(data, header_start, stop, header_count)
            timestamp = base_time + time_delta
            overflow = ((base_time ^ timestamp) & (time_delta ^ timestamp)) < 0
            if position != stop or overflow or offset_delta <= previous or offset_delta >= delta_end:
                return kept, row, record
            previous = offset_delta
            offsets[written] = base_offset + offset_delta
            timestamps[written] = timestamp if append_time == NO_APPEND_TIME else append_time
            key_starts[written] = key_start
            value_starts[written] = value_start
            header_starts[written] = header_start
            key_lengths[written] = max(key_size, -1)
            value_lengths[written] = max(value_size, -1)
            header_counts[written] = header_count
            # Branch-free skip of the events in front of from_offset: the next record overwrites them.
            written += base_offset + offset_delta >= from_offset
    return written, last, 0
