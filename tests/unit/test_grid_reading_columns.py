"""Readings as columns: the same as one by one, nothing dropped, everything explained."""

import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from gridwire.broker.port import ColumnBatch
from gridwire.columnar.decode import decode
from gridwire.core.batch import Event, encode
from gridwire.grid import reading as rd
from gridwire.grid.readings import LAKE_READING, QUALITY_UNREADABLE, READING, Status, decode_readings, to_arrow

BASE_MS = 1_451_606_400_000  # 2016-01-01T00:00Z
TS_US = BASE_MS * 1000 + 900_000_000


def columns(*values):
    events = [Event(value, b"k", (), BASE_MS + n) for n, value in enumerate(values)]
    data = bytes(encode(events, base_offset=100))
    decoded = decode(data, 0, len(data), from_offset=0, hub="readings", partition=3)
    return decoded.columns[0] if isinstance(decoded.columns, list | tuple) else decoded.columns


def event(**changes):
    row = {
        "usage_point": "U1", "ts_end": "2016-01-01T00:15:00Z", "interval_s": 900, "reading_type": "import_kwh",
        "value": 0.213,
    } | changes  # fmt: skip
    return json.dumps({name: value for name, value in row.items() if value is not ...}).encode()


def point(readings, row):
    start, size = readings.usage_point_starts[row], readings.usage_point_lengths[row]
    return readings.data[start : start + size].tobytes().decode()


def test_what_the_writer_writes_is_what_the_decoder_reads():
    written = [
        rd.Reading(TS_US + n * 900_000_000, kind, value, scale, 900 if kind < 10 else 0, f"Zürich {n}", version=n)
        for n, (kind, value, scale) in enumerate([(1, 213, -3), (2, 0, -3), (10, 123456789, -3), (60, -2300, -1)])
    ]
    got = decode_readings(columns(*map(rd.reading_json, written)))
    assert got.status.tolist() == [0] * 4
    for row, want in enumerate(written):
        assert point(got, row) == want.usage_point
        assert (got.ts_end_us[row], got.interval_s[row], got.reading_type[row], got.version[row]) == (
            want.ts_end_us, want.interval_s, want.reading_type, want.version,
        )  # fmt: skip
        value = Decimal(int(got.value[row])).scaleb(int(got.scale[row]))
        assert value == Decimal(want.value).scaleb(want.scale)
    assert got.value.dtype == np.int64
    assert got.scale.dtype == np.int8


def test_spellings_of_one_reading():
    got = decode_readings(
        columns(
            event(usage_point="Zürich"),  # json.dumps escapes it
            event(usage_point="Zürich").replace(b"Z\\u00fcrich", "Zürich".encode()),
            event(ts_end="2016-01-01T01:15:00+01:00"),
            event(reading_type="0.0.2.4.1.1.12.0.0.0.0.0.0.0.0.3.72.0"),
            event(reading_type="1-0:1.29.0"),
            event(reading_type="voltage_l1_v", interval_s=...),
        )
    )
    assert got.status.tolist() == [0] * 6
    assert point(got, 0) == point(got, 1) == "Zürich"
    assert set(got.ts_end_us.tolist()) == {TS_US}
    assert got.reading_type.tolist() == [1, 1, 1, 1, 1, 60]


BAD = [
    (b"{", Status.NOT_A_READING, "malformed"),
    (None, Status.NOT_A_READING, "no value"),
    (event(usage_point=...), Status.NOT_A_READING, "usage_point"),
    (event(ts_end="2016-01-01T00:15:00"), Status.NOT_A_READING, "ts_end"),
    (event(value="much"), Status.NOT_A_READING, "value"),
    (event(usage_point=""), Status.NO_USAGE_POINT, "usage_point"),
    (event(reading_type="import"), Status.UNKNOWN_TYPE, "reading type"),
    (event(interval_s=...), Status.BAD_INTERVAL, "interval_s"),
    (event(interval_s=-900), Status.BAD_INTERVAL, "interval_s"),
    (event(interval_s=2**40), Status.BAD_INTERVAL, "interval_s"),
    (event(interval_s=-1, reading_type="voltage_l1_v"), Status.BAD_INTERVAL, "interval_s"),
]


@pytest.mark.parametrize(("value", "status", "reason"), BAD)
def test_what_is_no_reading_says_why(value, status, reason):
    got = decode_readings(columns(event(), value, event()))
    assert got.status.tolist() == [0, status, 0]
    assert reason in got.reason(1)
    assert got.reason(0) == ""
    assert got.bad_rows().tolist() == [1]


def test_no_events():
    got = decode_readings(columns(event()).slice(0, 0))
    assert len(got) == 0
    assert to_arrow(ColumnBatch("readings", 0, columns(event()).slice(0, 0), 0)).num_rows == 0


def lake(*values):
    return to_arrow(ColumnBatch("readings", 3, columns(*values), 0))


def test_rows_for_the_lake():
    optional = {"meter": "m", "quality": "5.4.260", "flags": 3, "source": "head-end", "version": 2}
    full = event(**optional, received_at="2016-01-01T00:20:00Z")
    rows = lake(event(), full)
    assert rows.schema == LAKE_READING
    first, second = rows.to_pylist()
    assert (first["partition"], first["offset"], first["usage_point"], first["meter"]) == (3, 100, "U1", None)
    assert (first["value"], first["scale"], first["reading_type"], first["quality"], first["version"]) == (
        213, -3, "import_kwh", 0, 0,
    )  # fmt: skip
    assert first["received_at"].timestamp() * 1000 == BASE_MS  # the event's own time
    assert (second["meter"], second["flags"], second["source"], second["version"]) == ("m", 3, "head-end", 2)
    assert second["quality"] == 5 << 24 | 4 << 16 | 260
    assert second["received_at"].minute == 20
    assert first["_raw"] is None is first["_reason"]


def test_the_lake_keeps_what_is_no_reading():
    values = [event(), *(value for value, _, _ in BAD), event(version=40_000), event(flags=-1)]
    rows = lake(*values)
    assert rows.num_rows == len(values)
    for value, row in list(zip(values, rows.to_pylist(), strict=True))[1:]:
        assert row["_raw"] == value
        assert row["_reason"]
        assert all(row[field.name] is None for field in READING)
    assert rows.column("offset").to_pylist() == list(range(100, 100 + len(values)))


def test_an_unreadable_quality_is_not_taken_for_good():
    assert lake(event(quality="fine")).column("quality").to_pylist() == [QUALITY_UNREADABLE]


def test_many_distinct_texts_fit():
    values = [event(usage_point=f"U{n}", source=f"s{n}") for n in range(40_000)]
    rows = lake(*values)
    assert rows.column("source").to_pylist()[-1] == "s39999"
    assert isinstance(rows, pa.RecordBatch)
