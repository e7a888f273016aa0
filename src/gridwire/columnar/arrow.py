"""Columns to Arrow: offset, timestamp, key, value, headers.

Headers are `list<struct<key, value>>` and not `map`: a Kafka header name may repeat and its order counts, DuckDB
refuses a map with a repeated key, and Delta stores both alike.

Keys and values are `binary`, whose 32-bit offsets end at 2 GiB: `to_arrow_batches` splits there, so that the schema
never depends on the data.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gridwire.columnar import gather as g
from gridwire.columnar.columns import EventColumns

HEADER: Final = pa.struct([pa.field("key", pa.string(), nullable=False), pa.field("value", pa.binary())])
"""One header."""

EVENTS: Final = pa.schema(
    [
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", pa.list_(pa.field("item", HEADER, nullable=False)), nullable=False),
    ]
)
"""Schema of events as Arrow."""

BINARY_BYTES_MAX: Final = 2**31 - 1
"""What one binary array may hold: its offsets are int32."""

_Longs = NDArray[np.int64]
_Ints = NDArray[np.int32]


def to_arrow(columns: EventColumns) -> pa.RecordBatch:
    """Copy the columns into one record batch of schema EVENTS.

    Raises:
        ValueError: more than 2 GiB of keys or values; `to_arrow_batches` splits them.
    """
    size = _largest(columns)
    if size > BINARY_BYTES_MAX:
        raise ValueError(f"{size} bytes do not fit one record batch: use to_arrow_batches")
    n = len(columns)
    arrays = [
        pa.Array.from_buffers(pa.int64(), n, [None, _buffer(columns.offsets)]),
        pa.Array.from_buffers(EVENTS.field("timestamp").type, n, [None, _buffer(columns.timestamps)]),
        binary(columns.data, columns.key_starts, columns.key_lengths),
        binary(columns.data, columns.value_starts, columns.value_lengths),
        headers(columns),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=EVENTS)


def to_arrow_batches(columns: EventColumns, bytes_max: int = BINARY_BYTES_MAX) -> list[pa.RecordBatch]:
    """The same in as many record batches as `bytes_max` of keys or values each ask for, none for no events.

    One event that is larger gets a batch of its own.
    """
    if len(columns) == 0:
        return []
    if _largest(columns) <= bytes_max or len(columns) == 1:
        return [to_arrow(columns)]
    middle = len(columns) // 2
    halves = (columns.slice(0, middle), columns.slice(middle, len(columns)))
    return [part for half in halves for part in to_arrow_batches(half, bytes_max)]


def binary(data: NDArray[np.uint8], starts: _Longs, lengths: _Ints, kind: Any = None) -> pa.Array:
    """Spans as a `binary` array (or one of a type with the same layout); a length of -1 is null.

    Raises:
        ValueError: a span lies outside of `data`, or the total is above 2 GiB.
    """
    n = len(lengths)
    offsets = np.empty(n + 1, np.int32)
    validity = np.zeros((n + 7) // 8, np.uint8)
    starts, lengths = np.ascontiguousarray(starts), np.ascontiguousarray(lengths)
    total, nulls = g.measure(lengths, offsets, validity)
    if total > BINARY_BYTES_MAX or not g.bounded(starts, lengths, len(data)):
        raise ValueError("spans lie outside of their data or exceed 2 GiB")
    values = np.empty(total, np.uint8)
    if total:
        g.gather(data, starts, lengths, offsets, values)
    buffers = [_buffer(validity) if nulls else None, _buffer(offsets), _buffer(values)]
    return pa.Array.from_buffers(kind or pa.binary(), n, buffers, nulls)


def headers(columns: EventColumns) -> pa.Array:
    """The header lists; costs next to nothing when there are none."""
    offsets = np.zeros(len(columns) + 1, np.int32)
    np.cumsum(columns.header_counts, out=offsets[1:])
    spans = np.empty((2, int(offsets[-1])), np.int64)
    lengths = np.empty((2, int(offsets[-1])), np.int32)
    if len(lengths[0]) and not g.header_spans(
        columns.data, np.ascontiguousarray(columns.header_starts), columns.header_counts, spans, lengths
    ):
        raise ValueError("header lists are malformed")
    names = _text(binary(columns.data, spans[0], lengths[0]))
    values = binary(columns.data, spans[1], lengths[1])
    items = pa.StructArray.from_arrays([names, values], fields=list(HEADER))
    kind = EVENTS.field("headers").type
    return pa.ListArray.from_buffers(kind, len(columns), [None, _buffer(offsets)], 0, 0, [items])


def _text(names: pa.Array) -> pa.Array:
    """Names as strings; bytes that are not UTF-8 become replacement characters, as everywhere."""
    try:
        return names.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([name.decode("utf-8", "replace") for name in names.to_pylist()], pa.string())


def _largest(columns: EventColumns) -> int:
    """Bytes of the larger of keys and values."""
    sizes = (np.maximum(lengths, 0).sum(dtype=np.int64) for lengths in (columns.key_lengths, columns.value_lengths))
    return int(max(sizes))


def _buffer(array: NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(np.ascontiguousarray(array))
