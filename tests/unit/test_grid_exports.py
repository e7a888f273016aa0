"""Exports: what is written is read back the same, by our decoders and by others."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import nemreader
import pyarrow as pa
import pytest
from greenbutton_objects import parse as greenbutton_parse

from gridwire.capture.delta import TableWriter
from gridwire.core.errors import Unsupported
from gridwire.grid import exports
from gridwire.grid.formats import registry
from gridwire.grid.reading import Reading, pack_quality
from gridwire.grid.reading_types import BY_ALIAS, BY_ID

NMI = "6102000001"
START_US = 1_767_189_600_000_000  # 2026-01-01 00:00 in market time
START, END = datetime(2025, 12, 31, 14, tzinfo=UTC), datetime(2026, 1, 2, 14, tzinfo=UTC)


def day(alias="import_kwh", count=96, quality=lambda n: ""):
    return [
        Reading(START_US + (n + 1) * 900_000_000, BY_ALIAS[alias].id, n * 7 + 1, -3, 900, NMI, "M1", quality(n))
        for n in range(count)
    ]


def store(lake, readings):
    columns = {
        "partition": pa.array([0] * len(readings), pa.int32()),
        "offset": pa.array(range(len(readings)), pa.int64()),
        "usage_point": pa.array([r.usage_point for r in readings]),
        "meter": pa.array([r.meter or None for r in readings], pa.string()),
        "ts_end": pa.array([r.ts_end_us for r in readings], pa.timestamp("us", "UTC")),
        "interval_s": pa.array([r.interval_s for r in readings], pa.int32()),
        "reading_type": pa.array([BY_ID[r.reading_type].alias for r in readings]).dictionary_encode(),
        "value": pa.array([r.value for r in readings], pa.int64()),
        "scale": pa.array([r.scale for r in readings], pa.int8()),
        "quality": pa.array([pack_quality(r.quality) if r.quality else 0 for r in readings], pa.int64()),
        "version": pa.array([r.version for r in readings], pa.int16()),
        "received_at": pa.array([START_US] * len(readings), pa.timestamp("us", "UTC")),
    }
    writer = TableWriter(lake, "readings", UUID(int=1))
    writer.append([pa.record_batch(columns)], {0: len(readings)})
    writer.close()


def exported(lake, exporter, points=()):
    return "".join(exporter.write(exports.read(lake, exporter.types, START, END, points))).encode()


def facts(readings):
    return sorted(
        (r.usage_point, r.meter, r.reading_type, r.ts_end_us, r.interval_s, Decimal(r.value).scaleb(r.scale), r.quality)
        for r in readings
    )


def decoded(name, data):
    return [r for item in registry.get(name).decode(data) for r in item.readings]


@pytest.mark.parametrize("exporter", [exports.NEM12, exports.CIM], ids=lambda e: e.name)
def test_what_is_written_is_read_back(tmp_path, exporter):
    readings = day(quality=lambda n: "2.8.1014" if n in (3, 4) else "") + day("export_kwh", 50)
    store(tmp_path, readings)
    assert facts(decoded(exporter.name, exported(tmp_path, exporter))) == facts(readings)
    assert decoded(exporter.name, exported(tmp_path, exporter, ["other"])) == []


def test_nem12_is_what_nemreader_reads(tmp_path):
    readings = day(quality=lambda n: "2.8.3052" if n == 9 else "")
    store(tmp_path, readings)
    path = tmp_path / "nem12.csv"
    path.write_bytes(exported(tmp_path, exports.NEM12))
    theirs = nemreader.NEMFile(str(path)).nem_data().readings[NMI]["E1"]
    assert [Decimal(str(r.read_value)) for r in theirs] == [Decimal(r.value).scaleb(r.scale) for r in readings]
    assert [r.quality_method for r in theirs] == ["F52" if n == 9 else "A" for n in range(96)]


def test_the_newest_version_is_written(tmp_path):
    old = day(count=1)
    new = [Reading(old[0].ts_end_us, old[0].reading_type, 5, 0, 900, NMI, "M1", version=1)]
    store(tmp_path, new + old)
    assert facts(exports.read(tmp_path, exports.CIM.types, START, END)) == facts(new)


def test_nem12_refuses_what_it_cannot_tell():
    with pytest.raises(Unsupported, match="is no NMI"):
        list(exports.NEM12.write([Reading(START_US, 1, 1, 0, 900, "short")]))
    with pytest.raises(Unsupported, match="intervals of 7 s"):
        list(exports.NEM12.write([Reading(START_US, 1, 1, 0, 7, NMI)]))
    with pytest.raises(Unsupported, match="no end of a market interval"):
        list(exports.NEM12.write([Reading(START_US + 1, 1, 1, 0, 900, NMI)]))


def test_green_button_is_read_back_without_the_meter(tmp_path):
    readings = [
        Reading(r.ts_end_us, r.reading_type, r.value, r.scale, 900, "LV1 Load/1", "", "5.8.1" if n == 2 else "")
        for n, r in enumerate(day(count=9) + day("export_kwh", 5))
    ]
    store(tmp_path, readings)
    assert facts(decoded("espi", exported(tmp_path, exports.ESPI))) == facts(readings)


def test_green_button_is_what_greenbutton_objects_reads(tmp_path):
    readings = [
        Reading(r.ts_end_us, r.reading_type, r.value, r.scale, 900, point, "", "5.8.1" if n == 2 else "")
        for point in ("A", "LV1 Load/1")
        for n, r in enumerate(day(count=9) + day("export_kwh", 5))
    ]
    path = tmp_path / "greenbutton.xml"
    path.write_text("".join(exports.ESPI.write(readings)))
    points = greenbutton_parse.parse_feed(path)
    assert [point.title for point in points] == ["A", "LV1 Load/1"]
    for point in points:
        streams = sorted(point.meterReadings, key=lambda m: m.title)
        assert [m.readingType.flowDirection.value for m in streams] == [19, 1]
        for stream, alias in zip(streams, ("export_kwh", "import_kwh"), strict=True):
            ours = [r for r in readings if r.usage_point == point.title and BY_ID[r.reading_type].alias == alias]
            found = list(stream.intervalReadings)
            assert [Decimal(repr(r.value)) for r in found] == [Decimal(r.value).scaleb(r.scale + 3) for r in ours]
            assert [r.timePeriod.start.timestamp() for r in found] == [r.ts_end_us / 1e6 - 900 for r in ours]
            assert [len(r.readingQualities) for r in found] == [1 if r.quality else 0 for r in ours]
