"""Arrow functions: a batch's values as typed columns, and columns as values again."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.json
from numpy.typing import NDArray

from gridwire.columnar.arrow import binary, to_arrow
from gridwire.columnar.columns import EventColumns
from gridwire.columnar.json_columns import JsonColumns, JsonDecoder, JsonField
from gridwire.functions.frames import Events
from gridwire.functions.model import Function

RAW = "value"


class Rejected(Exception):
    """Rows whose values cannot be decoded: (row, reason) each."""

    def __init__(self, rows: list[tuple[int, str]]) -> None:
        super().__init__(f"{len(rows)} values cannot be decoded; the first: {rows[0][1]}")
        self.rows = rows


def columns_of(events: Events) -> EventColumns:
    """The batch as the kernels see it; nothing is copied."""

    def longs(view: memoryview) -> NDArray[np.int64]:
        return np.frombuffer(view, np.int64)

    def ints(view: memoryview) -> NDArray[np.int32]:
        return np.frombuffer(view, np.int32)

    return EventColumns(
        np.frombuffer(events.data, np.uint8), longs(events.offsets), longs(events.timestamps),
        longs(events.key_starts), ints(events.key_lengths), longs(events.value_starts), ints(events.value_lengths),
        longs(events.header_starts), ints(events.header_counts),
    )  # fmt: skip


class Decoder:
    """Batches of one function to what its argument is annotated with."""

    def __init__(self, function: Function) -> None:
        self._takes = function.takes
        fields = [JsonField(name, kind) for name, kind in function.fields]  # type: ignore[arg-type]
        self._json = JsonDecoder(fields) if fields else None

    def argument(self, events: Events) -> tuple[Any, list[tuple[int, str]]]:
        """The argument without the rows that cannot be decoded, and those; None when no row is left."""
        columns = columns_of(events)
        rows = np.arange(len(columns))
        rejected: list[tuple[int, str]] = []
        while len(rows):
            try:
                return self._shaped(self._decoded(columns)), rejected
            except Rejected as error:
                wrong = [row for row, _ in error.rows]
                rejected += [(int(rows[row]), reason) for row, reason in error.rows]
                rows = np.delete(rows, wrong)
                columns = columns.take(np.delete(np.arange(len(columns)), wrong))
        return None, sorted(rejected)

    def _decoded(self, columns: EventColumns) -> pa.RecordBatch:
        return self._declared(columns) if self._json is not None else inferred(columns)

    def _shaped(self, batch: pa.RecordBatch) -> Any:
        if self._takes == "record_batch":
            return batch
        table = pa.Table.from_batches([batch])
        if self._takes == "table":
            return table
        import polars

        return polars.from_arrow(table)

    def _declared(self, columns: EventColumns) -> pa.RecordBatch:
        assert self._json is not None
        found = self._json.decode(columns)
        if found.flawed:
            raise Rejected([(row, found.reason(row)) for row in found.bad_rows().tolist()])
        arrays = [_ARRAYS[field.kind](found, field.name) for field in found.fields]
        return pa.RecordBatch.from_arrays(arrays, [field.name for field in found.fields])


def _text(found: JsonColumns, name: str) -> pa.Array:
    return binary(found.data, *found.text(name), pa.string())


def _float(found: JsonColumns, name: str) -> pa.Array:
    """Correctly rounded for up to 15 digits, as any JSON reader's floats are."""
    mantissa, scale = found.decimal(name)
    values = mantissa.astype(np.float64)
    down, up = np.minimum(scale, 0), np.maximum(scale, 0)
    if down.any():
        values = values / np.power(10.0, -down)
    if up.any():
        values = values * np.power(10.0, up)
    return _masked(values, found, name)


def _masked(values: Any, found: JsonColumns, name: str) -> pa.Array:
    valid = found.valid(name)
    return pa.array(values) if valid.all() else pa.array(values, mask=~valid)


def _time(found: JsonColumns, name: str) -> pa.Array:
    return _masked(found.timestamp_us(name), found, name).cast(pa.timestamp("us", tz="UTC"))


_ARRAYS: dict[str, Callable[[JsonColumns, str], pa.Array]] = {
    "text": _text,
    "decimal": _float,
    "int64": lambda found, name: _masked(found.int64(name), found, name),
    "timestamp_us": _time,
    "bool": lambda found, name: _masked(found.bool(name), found, name),
}


# -- without a declaration ----------------------------------------------------------------------------------------

_IPC_STREAM = b"\xff\xff\xff\xff"
_IPC_FILE = b"ARROW1"
_AVRO_FILE = b"Obj\x01"


def inferred(columns: EventColumns) -> pa.RecordBatch:
    """The first value's look decides: Arrow IPC, an Avro container, JSON objects; else the events as they are."""
    first = (columns.value(0) or b"") if len(columns) else b""
    if first.startswith((_IPC_STREAM, _IPC_FILE)):
        return _from_arrow(columns)
    if first.startswith(_AVRO_FILE):
        return _from_avro(columns)
    if first.lstrip()[:1] == b"{":
        return _from_json(columns)
    return to_arrow(columns)


def _from_json(columns: EventColumns) -> pa.RecordBatch:
    """Types as pyarrow infers them from the whole batch, lists and objects included."""
    values = [columns.value(row) for row in range(len(columns))]
    text = b"\n".join(value or b"" for value in values)
    options = pa.json.ParseOptions(newlines_in_values=b"\n" in b"".join(v or b"" for v in values))
    try:
        table = pa.json.read_json(io.BytesIO(text), parse_options=options)
        if table.num_rows == len(columns):
            return _one(table)
    except pa.ArrowInvalid:
        pass
    wrong = [(row, reason) for row, value in enumerate(values) if (reason := _not_an_object(value))]
    if wrong:
        raise Rejected(wrong)
    return _one(pa.Table.from_pylist([orjson.loads(value or b"null") for value in values]))


def _not_an_object(value: bytes | None) -> str:
    try:
        return "" if isinstance(orjson.loads(value or b""), dict) else "JSON, but not an object"
    except orjson.JSONDecodeError as error:
        return f"malformed JSON: {error}"


def _from_arrow(columns: EventColumns) -> pa.RecordBatch:
    return _one(
        pa.concat_tables([_whole(columns, row, _read_ipc) for row in range(len(columns))], promote_options="default")
    )


def _from_avro(columns: EventColumns) -> pa.RecordBatch:
    return _one(
        pa.concat_tables([_whole(columns, row, _read_avro) for row in range(len(columns))], promote_options="default")
    )


def _whole(columns: EventColumns, row: int, read: Callable[[bytes], pa.Table]) -> pa.Table:
    try:
        return read(columns.value(row) or b"")
    except Exception as error:  # any reader fails in its own ways on foreign bytes
        raise Rejected([(row, f"{type(error).__name__}: {error}")]) from None


def _read_ipc(value: bytes) -> pa.Table:
    opened = pa.ipc.open_file(value) if value.startswith(_IPC_FILE) else pa.ipc.open_stream(value)
    return opened.read_all()


def _read_avro(value: bytes) -> pa.Table:
    import fastavro

    return pa.Table.from_pylist(list(fastavro.reader(io.BytesIO(value))))


def _one(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


# -- back to events -----------------------------------------------------------------------------------------------


def rows_to_json(columns: Any) -> list[Any]:
    """A table's rows as events: a column `value` of bytes as it is; without one, rows become JSON objects."""
    if type(columns).__module__.partition(".")[0] == "polars":
        columns = columns.to_arrow()
    if RAW in columns.schema.names and pa.types.is_binary(columns.schema.field(RAW).type):
        return list(columns.column(RAW).to_pylist())
    names = columns.schema.names
    lists = [columns.column(name).to_pylist() for name in names]
    return [orjson.dumps(dict(zip(names, row, strict=True)), default=str) for row in zip(*lists, strict=True)]
