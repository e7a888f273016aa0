"""Columns to the records section of a batch: how workers publish millions of events a second.

    records = encode_values(values, keys, timestamps)
    batch = encode_batch(values, keys, timestamps, codec=compression.LZ4)

Values and keys are either sequences of bytes (None is null) or spans (data, starts, lengths), a length of -1 being
null. The layout is that of `core.batch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar.decode import Bytes, as_bytes
from gridwire.columnar.gather import bounded
from gridwire.columnar.machine import as_int, copy, copy16, kernel, pointer, store8
from gridwire.core import batch, compression
from gridwire.core.limits import BATCH_BYTES_MAX, RECORDS_PER_BATCH_MAX

Spans = tuple[Bytes, NDArray[np.int64], NDArray[np.int32]]
Texts = Sequence[bytes | None] | Spans
Timestamps = int | Sequence[int] | NDArray[np.int64]

_SLACK: Final = 16
"""Bytes behind the output, so that short fields may be moved 16 bytes at a time."""


@kernel
def varint_size(value: int) -> int:
    """Bytes of a zigzag varint."""
    rest = np.uint64((value << 1) ^ (value >> 63)) >> np.uint64(7)
    size = 1
    while rest != 0:
        rest >>= np.uint64(7)
        size += 1
    return size


@kernel
def put_varint(out: Any, position: int, value: int) -> int:
    """Write a zigzag varint and return the position after it."""
    rest = np.uint64((value << 1) ^ (value >> 63))
    while rest > np.uint64(0x7F):
        store8(out, position, as_int((rest & np.uint64(0x7F)) | np.uint64(0x80)))
        rest >>= np.uint64(7)
        position += 1
    store8(out, position, as_int(rest))
    return position + 1


@kernel
def put_field(out: Any, position: int, data: Any, start: int, size: int, readable: int) -> int:
    """Write a length and so many bytes; `readable` is the last place where 16 bytes may be read."""
    position = put_varint(out, position, size)
    if size <= 0:
        return position
    if size <= 128 and start + size <= readable:
        moved = 0
        while moved < size:
            copy16(out, position + moved, data, start + moved)
            moved += 16
    else:
        copy(out, position, data, start, size)
    return position + size


@kernel
def body_size(offset_delta: int, time_delta: int, key_size: int, value_size: int) -> int:
    """Bytes of a record after its length: attributes, deltas, fields and no headers."""
    fields = varint_size(key_size) + max(key_size, 0) + varint_size(value_size) + max(value_size, 0)
    return 2 + varint_size(time_delta) + varint_size(offset_delta) + fields


@kernel
def measure_records(key_lengths: Any, value_lengths: Any, timestamps: Any) -> int:
    """Bytes of the records section."""
    total = 0
    base = timestamps[0] if len(timestamps) > 0 else 0
    for row in range(len(value_lengths)):
        size = body_size(row, timestamps[row] - base, as_int(key_lengths[row]), as_int(value_lengths[row]))
        total += varint_size(size) + size
    return total


@kernel
def write_records(
    key_bytes: Any, key_starts: Any, key_lengths: Any, value_bytes: Any, value_starts: Any, value_lengths: Any,
    timestamps: Any, target: Any,
) -> int:  # fmt: skip
    """Write all records into `target`, which has room for them and _SLACK bytes more; return the bytes written."""
    keys, values, out = pointer(key_bytes), pointer(value_bytes), pointer(target)
    keys_readable, values_readable = len(key_bytes) - _SLACK, len(value_bytes) - _SLACK
    position = 0
    for row in range(len(value_lengths)):
        time_delta = timestamps[row] - timestamps[0]
        key_size, value_size = as_int(key_lengths[row]), as_int(value_lengths[row])
        position = put_varint(out, position, body_size(row, time_delta, key_size, value_size))
        store8(out, position, 0)
        position = put_varint(out, position + 1, time_delta)
        position = put_varint(out, position, row)
        position = put_field(out, position, keys, key_starts[row], key_size, keys_readable)
        position = put_field(out, position, values, value_starts[row], value_size, values_readable)
        store8(out, position, 0)
        position += 1
    return position


def encode_values(values: Texts, keys: Texts | None = None, timestamps: Timestamps = 0) -> bytes:
    """Records section of a batch for `core.batch.assemble`, offsets counting up from its base, without headers.

    Args:
        keys: as many as values; None is no keys.
        timestamps: milliseconds since the epoch, one for all or one each; the first is the batch's base timestamp.

    Raises:
        ValueError: the columns do not fit each other, or the records do not fit one batch.
    """
    return bytes(_records(_spans(values), keys, _times(timestamps, _count(values))))


def encode_batch(
    values: Texts,
    keys: Texts | None = None,
    timestamps: Timestamps = 0,
    *,
    codec: int = compression.NONE,
    base_offset: int = 0,
    producer_id: int = batch.NO_PRODUCER,
    producer_epoch: int = -1,
    base_sequence: int = batch.NO_SEQUENCE,
) -> bytearray:
    """One whole batch from columns, the same bytes as `core.batch.encode` makes of events.

    Raises:
        ValueError: as `encode_values`, and for no events.
    """
    count = _count(values)
    if count == 0:
        raise ValueError("a batch needs at least one event")
    times = _times(timestamps, count)
    records: bytes | memoryview = _records(_spans(values), keys, times)
    if codec != compression.NONE:
        records = compression.compress(codec, bytes(records))
    return batch.assemble(
        records,
        record_count=count,
        base_timestamp=int(times[0]),
        max_timestamp=int(times.max()),
        base_offset=base_offset,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
        attributes=codec,
    )


def _records(values: Spans, keys: Texts | None, times: NDArray[np.int64]) -> memoryview:
    value_data, value_starts, value_lengths = values
    n = len(value_lengths)
    if keys is None:
        key_spans = _spans((np.empty(0, np.uint8), np.zeros(n, np.int64), np.full(n, -1, np.int32)))
    else:
        key_spans = _spans(keys)
    key_data, key_starts, key_lengths = key_spans
    if len(key_lengths) != n or len(times) != n:
        raise ValueError(f"{len(key_lengths)} keys and {len(times)} timestamps do not fit {n} values")
    size = measure_records(key_lengths, value_lengths, times)
    if size > BATCH_BYTES_MAX - batch.HEADER_BYTES or n > RECORDS_PER_BATCH_MAX:
        raise ValueError(f"{n} records of {size} bytes do not fit one batch of at most {BATCH_BYTES_MAX} bytes")
    target = np.empty(size + _SLACK, np.uint8)
    write_records(key_data, key_starts, key_lengths, value_data, value_starts, value_lengths, times, target)
    return target.data[:size]


def _count(texts: Texts) -> int:
    return len(texts[2]) if isinstance(texts, tuple) and _is_spans(texts) else len(texts)


def _is_spans(texts: tuple[Any, ...]) -> bool:
    return len(texts) == 3 and isinstance(texts[0], np.ndarray)


def _spans(texts: Texts) -> Spans:
    """Spans of checked bounds, whatever the form."""
    if isinstance(texts, tuple) and _is_spans(texts):
        data, starts, lengths = texts
        starts = np.ascontiguousarray(starts, np.int64)
        lengths = np.ascontiguousarray(lengths, np.int32)
        if len(starts) != len(lengths) or not bounded(starts, lengths, len(data)):
            raise ValueError("spans lie outside of their data")
        return as_bytes(data), starts, lengths
    n = len(texts)
    try:
        joined = b"".join(texts)  # type: ignore[arg-type]
        kept = lengths = np.fromiter(map(len, texts), np.int32, n)  # type: ignore[arg-type]
    except TypeError:  # there are nulls
        joined = b"".join(text or b"" for text in texts)  # type: ignore[misc]
        lengths = np.fromiter((-1 if text is None else len(text) for text in texts), np.int32, n)
        kept = np.maximum(lengths, 0)
    return as_bytes(joined), np.cumsum(kept, dtype=np.int64) - kept, lengths


def _times(timestamps: Timestamps, count: int) -> NDArray[np.int64]:
    if isinstance(timestamps, int):
        return np.full(count, timestamps, np.int64)
    return np.ascontiguousarray(timestamps, np.int64)
