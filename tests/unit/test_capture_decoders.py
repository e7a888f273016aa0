from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from gridwire.broker.port import ColumnBatch
from gridwire.capture.decoders import events, json_decoder
from gridwire.capture.delta import TableWriter
from gridwire.columnar.decode import decode
from gridwire.core.batch import Event, encode

LOAD = pa.schema(
    [
        pa.field("transformer", pa.string(), nullable=False),
        pa.field("ts_end", pa.timestamp("us", "UTC")),
        pa.field("interval_s", pa.int32()),
        pa.field("load_kw", pa.float64()),
        pa.field("import_kwh", pa.decimal128(18, 6)),
        pa.field("estimated", pa.bool_()),
    ]
)


def batch(values: Sequence[bytes | Event | None], first: int = 100) -> ColumnBatch:
    sent = [value if isinstance(value, Event) else Event(value, timestamp=1000 + n) for n, value in enumerate(values)]
    data = bytes(encode(sent, base_offset=first))
    (columns,) = decode(data, 0, len(data), from_offset=first).columns
    return ColumnBatch("h", 2, columns, first + len(sent))


def test_events_keep_key_value_and_headers_as_they_came() -> None:
    rows = events(batch([Event(b"\xff", b"k", (("reason", b"r"), ("reason", None)), 7), None]))
    assert rows.to_pylist() == [
        {
            "partition": 2, "offset": 100, "timestamp": datetime.fromtimestamp(0.007, UTC), "key": b"k",
            "value": b"\xff", "headers": [{"key": "reason", "value": b"r"}, {"key": "reason", "value": None}],
        },
        {
            "partition": 2, "offset": 101, "timestamp": datetime.fromtimestamp(1.001, UTC), "key": None,
            "value": None, "headers": [],
        },
    ]  # fmt: skip


def test_json_objects_become_typed_columns() -> None:
    rows = json_decoder(LOAD)(
        batch(
            [
                b'{"transformer":"MV1.101 \\u00e9","ts_end":"2016-01-01T00:15:00Z","interval_s":900,"load_kw":10.8,'
                b'"import_kwh":3.100001,"estimated":true,"count":13}',
                b'{"transformer":"T2","load_kw":-1e-3,"ts_end":"2016-01-01T01:15:00+01:00","estimated":false}',
                b"{}",
            ]
        )
    ).to_pylist()
    quarter = datetime(2016, 1, 1, 0, 15, tzinfo=UTC)
    assert [row["offset"] for row in rows] == [100, 101, 102]
    assert {row["partition"] for row in rows} == {2}
    assert [list(row.values())[3:] for row in rows] == [
        ["MV1.101 é", quarter, 900, 10.8, Decimal("3.100001"), True, None],
        ["T2", quarter, None, -0.001, None, False, None],
        [None] * 7,
    ]


@pytest.mark.parametrize(
    "value",
    [
        b"not json",
        b"[1]",
        b'{"transformer":7}',
        b'{"transformer":"T","ts_end":"yesterday"}',
        b'{"transformer":"T","interval_s":3000000000}',
        b'{"transformer":"T","import_kwh":0.1234567}',
        b'{"transformer":"T","import_kwh":12345678901234.5}',
        b"\xff\xfe",
        b"",
    ],
)
def test_what_does_not_fit_is_kept_byte_for_byte(value: bytes) -> None:
    good = b'{"transformer":"T","load_kw":1,"import_kwh":-2.5}'
    rows = json_decoder(LOAD)(batch([good, value, good])).to_pylist()
    assert [row["_raw"] for row in rows] == [None, value, None]
    assert list(rows[1].values())[3:] == [None] * 6 + [value]
    assert (rows[0]["transformer"], rows[2]["load_kw"], rows[2]["import_kwh"]) == ("T", 1.0, Decimal("-2.5"))


def test_an_event_without_a_value_is_a_row_of_nulls() -> None:
    (row,) = json_decoder(LOAD)(batch([None])).to_pylist()
    assert list(row.values())[3:] == [None] * 7


def test_a_column_json_has_nothing_for_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="list"):
        json_decoder(pa.schema([pa.field("x", pa.list_(pa.int8()))]))


@pytest.mark.parametrize("decoder", [events, json_decoder(LOAD)])
def test_every_decoders_rows_can_be_stored(tmp_path: Path, decoder: object) -> None:
    rows = decoder(batch([b'{"transformer":"T","import_kwh":2.5}', b"x", None]))  # type: ignore[operator]
    writer = TableWriter(tmp_path, "h", UUID(int=1))
    assert writer.append([rows], {2: 103}) == 3
    writer.close()
    stored = DeltaTable(str(tmp_path / "h")).to_pyarrow_table().to_pylist()
    assert stored == rows.to_pylist()
