"""What becomes of an event in the lake: decoders turn a `ColumnBatch` into Arrow rows of one table.

A decoder's rows have columns `partition` int32 and `offset` int64, in the order of the log, and an event is at most one
row. It never raises because of what an event contains; the decoders here keep what they cannot read verbatim.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gridwire.broker.port import ColumnBatch
from gridwire.capture.worker import Decoder
from gridwire.columnar.arrow import EVENTS, binary, to_arrow
from gridwire.columnar.json_columns import JsonColumns, JsonDecoder, JsonField, Kind, rescale

RAW_COLUMN: Final = "_raw"
"""Value of an event that did not fit its table, byte for byte; null in every other row."""

_PARTITION: Final = pa.field("partition", pa.int32(), nullable=False)
_Bools = NDArray[np.bool_]


def events(batch: ColumnBatch) -> pa.RecordBatch:
    """Every event as it is: partition, offset, timestamp, key, value, headers."""
    rows = to_arrow(batch.columns)
    partition = _repeated(batch.partition, rows.num_rows)
    return pa.RecordBatch.from_arrays([partition, *rows.columns], schema=pa.schema([_PARTITION, *EVENTS]))


def json_decoder(schema: pa.Schema) -> Decoder:
    """A decoder of JSON objects with the fields of `schema`: strings, integers, floats, decimals, booleans, timestamps.

    Before them come `partition`, `offset` and `timestamp`, after them `_raw`. A missing field is null. An event that is
    no JSON object, or has a field of another kind or beyond its column's range, has nulls and its bytes in `_raw`.

    Raises:
        TypeError: a column of a type JSON has nothing for.
    """
    decoder = JsonDecoder([JsonField(field.name, _kind(field.type), False) for field in schema])
    before = [_PARTITION, EVENTS.field("offset"), EVENTS.field("timestamp")]
    target = pa.schema([*before, *(field.with_nullable(True) for field in schema), pa.field(RAW_COLUMN, pa.binary())])

    def decode(batch: ColumnBatch) -> pa.RecordBatch:
        columns = batch.columns
        json = decoder.decode(columns)
        good = np.asarray(json.status) == 0
        taken = [_column(json, field, good) for field in schema]
        for _, fits in taken:
            good = good & fits
        fields = [array if good.all() else _nulled(array, good) for array, _ in taken]
        arrays = [
            _repeated(batch.partition, len(columns)),
            pa.array(columns.offsets),
            pa.array(columns.timestamps, pa.int64()).cast(before[2].type),
            *fields,
            binary(columns.data, columns.value_starts, np.where(good, np.int32(-1), columns.value_lengths)),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=target)

    return decode


def _repeated(partition: int, count: int) -> pa.Array:
    return pa.array(np.full(count, partition, np.int32))


def _kind(column: pa.DataType) -> Kind:
    """The kind of `JsonField` that fills a column."""
    if pa.types.is_string(column):
        return "text"
    if pa.types.is_integer(column):
        return "int64"
    if pa.types.is_floating(column) or pa.types.is_decimal(column):
        return "decimal"
    if pa.types.is_boolean(column):
        return "bool"
    if pa.types.is_timestamp(column):
        return "timestamp_us"
    raise TypeError(f"no JSON value fills a column of type {column}")


def _column(json: JsonColumns, field: pa.Field, good: _Bools) -> tuple[pa.Array, _Bools]:
    """One field of every row and which rows fit the column's type."""
    present = np.asarray(json.valid(field.name)) & good
    kind = _kind(field.type)
    fits = np.ones(len(good), bool)
    if kind == "text":
        return _texts(json, field.name, present), fits
    if kind == "bool":
        return pa.array(json.bool(field.name), pa.bool_(), mask=~present), fits
    if kind == "timestamp_us":
        times = pa.array(json.timestamp_us(field.name), pa.timestamp("us", field.type.tz), mask=~present)
        return times.cast(field.type, safe=False), fits
    if kind == "int64":
        return _integers(json.int64(field.name), field.type, present)
    mantissa, scale = json.decimal(field.name)
    if pa.types.is_floating(field.type):
        return pa.array(_floats(mantissa, scale), mask=~present).cast(field.type), fits
    return _decimals(mantissa, scale, field.type, present)


def _integers(values: NDArray[np.int64], column: pa.DataType, present: _Bools) -> tuple[pa.Array, _Bools]:
    limits = np.iinfo(column.to_pandas_dtype())
    fits = ~present | ((values >= limits.min) & (values <= limits.max))
    return pa.array(np.where(fits & present, values, 0), mask=~(present & fits)).cast(column), fits


def _floats(mantissa: NDArray[np.int64], scale: NDArray[np.int8]) -> NDArray[np.float64]:
    """mantissa * 10^scale, rounded once: powers of ten below 10^22 are exact, their reciprocals are not."""
    power = np.power(10.0, np.abs(scale.astype(np.int64)))
    return np.where(scale < 0, mantissa / power, mantissa * power)


def _decimals(
    mantissa: NDArray[np.int64], scale: NDArray[np.int8], column: Any, present: _Bools
) -> tuple[pa.Array, _Bools]:
    """Exact decimals of a fixed scale; a value with more digits than the column has does not fit."""
    values, exact = rescale(mantissa, scale, -column.scale)
    fits = ~present | (exact & (np.abs(values) < 10 ** min(column.precision, 18)))
    shown = pa.array(np.where(fits & present, values, 0), mask=~(present & fits))
    words = np.zeros((len(values), 2), np.int64)  # a decimal128 is a little-endian 128-bit integer
    words[:, 0] = shown.fill_null(0).to_numpy()
    words[:, 1] = words[:, 0] >> 63
    bits = shown.is_valid().buffers()[1]
    kind = pa.decimal128(column.precision, column.scale)
    return pa.Array.from_buffers(kind, len(values), [bits, pa.py_buffer(words)]), fits


def _texts(json: JsonColumns, name: str, present: _Bools) -> pa.Array:
    starts, lengths = json.text(name)
    raw = binary(json.data, np.asarray(starts), np.where(present, lengths, np.int32(-1)).astype(np.int32))
    encoded = raw.dictionary_encode()
    texts = pa.array([text.decode("utf-8", "replace") for text in encoded.dictionary.to_pylist()], pa.string())
    return texts.take(encoded.indices)


def _nulled(array: pa.Array, good: _Bools) -> pa.Array:
    return pc.if_else(pa.array(good), array, pa.scalar(None, array.type))
