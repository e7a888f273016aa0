"""Readings as columns: JSON events to arrays without an object per reading, and to Arrow for the lake.

`decode_readings` is the hot path of every grid stage. It copies no text: usage points are spans of UTF-8 bytes, to be
looked up in a `TextIndex`. Whatever is not a reading keeps its row, with a status and a reason, so that nothing is
dropped without being told.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gridwire.broker.port import ColumnBatch
from gridwire.columnar import cells
from gridwire.columnar.arrow import binary
from gridwire.columnar.columns import EventColumns
from gridwire.columnar.json_columns import JsonColumns, JsonDecoder, JsonField
from gridwire.columnar.text_index import TextIndex
from gridwire.grid import reading_types
from gridwire.grid.reading import (
    INTERVAL_S_MAX,
    QUARANTINE_HUB,
    READINGS_HUB,
    Reading,
    grade_of,
    pack_quality,
    reading_event,
    reading_json,
)

__all__ = [
    "LAKE_READING", "QUARANTINE_HUB", "READING", "READINGS_HUB", "Reading", "ReadingColumns", "Status",
    "decode_readings", "qualities", "reading_event", "reading_json", "to_arrow",
]  # fmt: skip

READING: Final = pa.schema(
    [
        pa.field("usage_point", pa.dictionary(pa.int32(), pa.utf8())),
        pa.field("meter", pa.dictionary(pa.int32(), pa.utf8())),
        pa.field("ts_end", pa.timestamp("us", "UTC")),
        pa.field("interval_s", pa.int32()),
        pa.field("reading_type", pa.int16()),
        pa.field("value", pa.int64()),
        pa.field("scale", pa.int8()),
        pa.field("quality", pa.uint32()),
        pa.field("flags", pa.uint16()),
        pa.field("source", pa.dictionary(pa.int32(), pa.utf8())),
        pa.field("version", pa.int16()),
        pa.field("received_at", pa.timestamp("us", "UTC")),
    ]
)
"""One reading a row. `ts_end` is the end of the interval; the value is `value * 10**scale` in the type's unit."""

LAKE_READING: Final = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        *(
            pa.field("reading_type", pa.dictionary(pa.int32(), pa.utf8())) if field.name == "reading_type" else field
            for field in READING
        ),
        pa.field("_raw", pa.binary()),
        pa.field("_reason", pa.dictionary(pa.int32(), pa.utf8())),
    ]
)
"""`READING`, where the event lies in its hub, and, of an event that is no reading, its bytes and why.

The reading type is its alias here: in the lake a code must not need our tables to be read.
"""

QUALITY_UNREADABLE: Final = 255 << 16
"""Packed quality of a text that is no CIM quality code: category 255, so that it is not taken for good."""


class Status(IntEnum):
    """What became of one event."""

    OK = 0
    NOT_A_READING = 1
    """Not JSON, or a required field is missing or of another kind; `reason` tells which."""
    UNKNOWN_TYPE = 2
    """`reading_type` is in no table; `reading_type` is -1."""
    BAD_INTERVAL = 3
    """Negative or absurd `interval_s`, or none for energy of an interval."""
    NO_USAGE_POINT = 4
    """`usage_point` is empty."""


_REASONS: Final = {
    Status.OK: "",
    Status.UNKNOWN_TYPE: "unknown reading type",
    Status.BAD_INTERVAL: "interval_s is missing, negative or longer than a year",
    Status.NO_USAGE_POINT: "usage_point is empty",
}

_HOT_FIELDS: Final = (
    JsonField("usage_point", "text", required=True),
    JsonField("ts_end", "timestamp_us", required=True),
    JsonField("interval_s", "int64"),
    JsonField("reading_type", "text", required=True),
    JsonField("value", "decimal", required=True),
    JsonField("version", "int64"),
    JsonField("quality", "text"),
)
_LAKE_FIELDS: Final = (
    *_HOT_FIELDS,
    JsonField("meter", "text"),
    JsonField("flags", "int64"),
    JsonField("source", "text"),
    JsonField("received_at", "timestamp_us"),
)

_Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ReadingColumns:
    """n events as readings; rows that are none have a status and meaningless values.

    **Shape**: every array `[n]`. `usage_point_starts` and `_lengths` are spans of UTF-8 in `data`, which is the
    events' own bytes or, when a text was escaped, a copy with the plain text behind them.

    Args:
        status: `Status` of each row. ts_end_us: microseconds since the epoch.
        reading_type: id, -1 unknown. value, scale: `value * 10**scale`. version: 0 unless the reading is a correction.
        grade: what its quality says it is worth, see `columnar.cells`; None, all are measured.
    """

    events: EventColumns
    data: NDArray[np.uint8]
    status: NDArray[np.int8]
    usage_point_starts: NDArray[np.int64]
    usage_point_lengths: NDArray[np.int32]
    ts_end_us: NDArray[np.int64]
    interval_s: NDArray[np.int32]
    reading_type: NDArray[np.int16]
    value: NDArray[np.int64]
    scale: NDArray[np.int8]
    version: NDArray[np.int64]
    grade: NDArray[np.uint8] | None
    json: JsonColumns

    def __len__(self) -> int:
        return len(self.status)

    def bad_rows(self) -> _Rows:
        """Rows that are not readings, ascending."""
        return np.flatnonzero(self.status).astype(np.int64, copy=False)

    def reason(self, row: int) -> str:
        """Why a row is not a reading; "" if it is one."""
        status = Status(int(self.status[row]))
        return self.json.reason(row) if status is Status.NOT_A_READING else _REASONS[status]


class _Tools(threading.local):
    """Decoders remember what they saw, so each thread has its own; built on first use, not on import."""

    def __init__(self) -> None:
        self.hot = JsonDecoder(_HOT_FIELDS)
        self.lake = JsonDecoder(_LAKE_FIELDS)
        self.type_names = TextIndex(list(reading_types.IDS_BY_NAME))
        self.type_ids = np.array([*reading_types.IDS_BY_NAME.values(), reading_types.UNKNOWN], np.int16)
        self.needs_interval = np.zeros(max(reading_types.BY_ID) + 2, bool)  # the last entry is for id -1
        for row in reading_types.READING_TYPES:
            self.needs_interval[row.id] = row.accumulation is reading_types.Accumulation.INTERVAL


_tools: _Tools | None = None


def _toolbox() -> _Tools:
    global _tools
    if _tools is None:
        _tools = _Tools()
    return _tools


def decode_readings(columns: EventColumns, *, every_field: bool = False) -> ReadingColumns:
    """Decode events of the hub `readings`; arrays only.

    Args:
        every_field: also decode what only the lake keeps; it is then in `json`.
    """
    tools = _toolbox()
    json = (tools.lake if every_field else tools.hot).decode(columns)
    starts, lengths = json.text("usage_point")
    type_starts, type_lengths = json.text("reading_type")
    value, scale = json.decimal("value")
    interval = json.int64("interval_s")
    status = (json.status != 0).astype(np.int8)  # Status.NOT_A_READING is 1
    if json.flawed:  # rows that are not OK have no values: give them lengths the index can look up
        type_lengths = np.where(status == 0, type_lengths, np.int32(-1))
        interval = np.where(status == 0, interval, 0)
    ids = tools.type_names.lookup(json.data, type_starts, type_lengths)
    reading_type = tools.type_ids[ids]  # unknown is -1: the last id
    bad_interval = (interval < 0) | (interval > INTERVAL_S_MAX) | (tools.needs_interval[reading_type] & (interval == 0))
    for flaw, mask in (
        (Status.BAD_INTERVAL, bad_interval),
        (Status.UNKNOWN_TYPE, reading_type < 0),
        (Status.NO_USAGE_POINT, lengths == 0),
    ):
        if mask.any():
            status[mask & (status != Status.NOT_A_READING)] = flaw
    return ReadingColumns(
        events=columns,
        data=json.data,
        status=status,
        usage_point_starts=starts,
        usage_point_lengths=lengths,
        ts_end_us=json.timestamp_us("ts_end"),
        interval_s=np.clip(interval, -1, INTERVAL_S_MAX).astype(np.int32),
        reading_type=reading_type,
        value=value,
        scale=scale,
        version=json.int64("version"),
        grade=_grades(json, status == Status.OK),
        json=json,
    )


def to_arrow(batch: ColumnBatch) -> pa.RecordBatch:
    """Events of the hub `readings` as rows for the lake, schema `LAKE_READING`, one row an event.

    An event that is no reading has nulls, its bytes in `_raw` and a text in `_reason`. What does not fit a column of
    the schema (a version above int16) makes an event no reading too.
    """
    columns = batch.columns
    readings = decode_readings(columns, every_field=True)
    json = readings.json
    good = readings.status == Status.OK
    numbers: dict[str, NDArray[Any]] = {}
    for name, kind in (("flags", np.uint16), ("version", np.int16)):
        limits = np.iinfo(kind)
        values = json.int64(name)
        good = good & ~(json.valid(name) & ((values < limits.min) | (values > limits.max)))
        numbers[name] = np.where(good & json.valid(name), values, 0).astype(kind)
    bad = ~good
    received = np.where(json.valid("received_at"), json.timestamp_us("received_at"), columns.timestamps * 1000)
    texts = {name: _texts(json, name, good) for name in ("usage_point", "meter", "source")}
    arrays = [
        pa.array(np.full(len(columns), batch.partition, np.int32)),
        pa.array(columns.offsets),
        texts["usage_point"],
        texts["meter"],
        _instants(readings.ts_end_us, bad),
        pa.array(readings.interval_s, mask=bad),
        _aliases(readings.reading_type, bad),
        pa.array(readings.value, mask=bad),
        pa.array(readings.scale, mask=bad),
        _quality(json, good),
        pa.array(numbers["flags"], mask=bad),
        texts["source"],
        pa.array(numbers["version"], mask=bad),
        _instants(received, bad),
        binary(columns.data, columns.value_starts, np.where(bad, columns.value_lengths, np.int32(-1))),
        _reasons(readings, bad),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=LAKE_READING)


def _instants(values_us: NDArray[np.int64], missing: NDArray[np.bool_]) -> pa.Array:
    return pa.array(values_us, pa.timestamp("us"), mask=missing).cast(pa.timestamp("us", "UTC"))


def _aliases(reading_types_of_rows: NDArray[np.int16], missing: NDArray[np.bool_]) -> pa.Array:
    rows = reading_types.READING_TYPES
    place = np.zeros(max(reading_types.BY_ID) + 2, np.int32)  # the last entry is for id -1, which is missing
    for number, row in enumerate(rows):
        place[row.id] = number
    indices = pa.array(place[reading_types_of_rows], mask=missing)
    return pa.DictionaryArray.from_arrays(indices, pa.array([row.alias for row in rows]))


def _texts(json: JsonColumns, name: str, good: NDArray[np.bool_]) -> pa.Array:
    """A text field as dictionary array; null where absent and in rows that are no readings."""
    starts, lengths = json.text(name)
    present = good & json.valid(name)
    raw = binary(json.data, starts, np.where(present, lengths, np.int32(-1)).astype(np.int32))
    encoded = raw.dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices, encoded.dictionary.cast(pa.utf8()))


def qualities(readings: ReadingColumns) -> NDArray[np.uint32] | None:
    """Packed quality of every reading, 0 is good; None: nobody says anything."""
    if not readings.json.valid("quality").any():
        return None
    packed = _quality(readings.json, readings.status == Status.OK).fill_null(0)
    out: NDArray[np.uint32] = packed.to_numpy().astype(np.uint32)
    return out


def _grades(json: JsonColumns, good: NDArray[np.bool_]) -> NDArray[np.uint8] | None:
    """Few readings have a quality: the common case costs one look."""
    present = json.valid("quality")
    if not present.any():
        return None
    texts = _texts(json, "quality", good)
    by_text = np.array([*(grade_of(text) for text in texts.dictionary.to_pylist()), cells.MEASURED], np.uint8)
    grades = by_text[texts.indices.fill_null(len(by_text) - 1).to_numpy()]
    return None if (grades == cells.MEASURED).all() else grades


def _quality(json: JsonColumns, good: NDArray[np.bool_]) -> pa.Array:
    texts = _texts(json, "quality", good)
    codes = [pack_quality(text) for text in texts.dictionary.to_pylist()]
    packed = pa.array([code if code >= 0 else QUALITY_UNREADABLE for code in codes], pa.uint32())
    quality = pc.fill_null(packed.take(texts.indices), 0)  # good is assumed unless stated
    return pc.if_else(pa.array(good), quality, pa.scalar(None, pa.uint32()))


def _reasons(readings: ReadingColumns, bad: NDArray[np.bool_]) -> pa.Array:
    rows = np.flatnonzero(bad)
    if len(rows) == 0:
        return pa.nulls(len(bad), LAKE_READING.field("_reason").type)
    texts = np.full(len(bad), None, object)
    texts[rows] = [readings.reason(row) or "flags or version does not fit its column" for row in rows.tolist()]
    return pa.array(texts, pa.utf8()).dictionary_encode()
