"""NEM12, Green Button, CIM: values, times, qualities, broken parts, hostile XML, and the libraries beside them."""

import io
import itertools
import json
import tracemalloc
from decimal import Decimal

import cbor2
import nemreader
import pytest

import meter_frames as frames
from gridwire.core.errors import InvalidSetting
from gridwire.grid import reading_types
from gridwire.grid.formats import registry
from gridwire.grid.formats.base import BadFrame, Context, Decoded
from gridwire.grid.reading import rfc3339


def decode(name, data, **context):
    return list(registry.get(name).decode(data, "f", Context(source="f", **context)))


def rows(items):
    return [
        (reading_types.BY_ID[r.reading_type].alias, Decimal(r.value).scaleb(r.scale), rfc3339(r.ts_end_us),
         r.interval_s, r.usage_point, r.meter, r.quality)
        for item in items for r in item.readings
    ]  # fmt: skip


def test_nem12():
    items = decode("nem12", frames.NEM12)
    found = rows(items)
    assert len(found) == 47 + 48
    assert found[0] == ("import_kwh", Decimal("0.000"), "2025-12-31T14:30:00Z", 1800, "6102000001", "SER123", "")
    assert found[40][6] == "2.8.1014"
    assert found[-1] == ("export_kwh", Decimal("0.047"), "2026-01-01T14:00:00Z", 1800, "6102000001", "SER123", "")


def test_nem12_is_what_nemreader_reads(tmp_path):
    path = tmp_path / "nem12.csv"
    path.write_bytes(frames.NEM12)
    theirs = nemreader.NEMFile(str(path)).nem_data().readings["6102000001"]
    for suffix, alias in (("E1", "import_kwh"), ("B1", "export_kwh")):
        ours = [row for row in rows(decode("nem12", frames.NEM12)) if row[0] == alias]
        shift = 0 if suffix == "E1" else 3
        expected = [r for r in theirs[suffix] if r.quality_method != "N"]
        assert [row[1].scaleb(shift) for row in ours] == [Decimal(str(r.read_value)) for r in expected]


def test_nem12_a_day_that_cannot_be_read_keeps_its_stream():
    data = frames.NEM12.replace(b",5.005,", b",x,")
    bad, good = decode("nem12", data)
    assert bad.reason.startswith("interval 6")
    assert bad.prelude == frames.NEM12.splitlines()[1] + b"\n"
    assert bad.raw in data
    assert isinstance(good, Decoded)
    mended = bad.prelude + bad.raw.replace(b",x,", b",5.005,")
    assert rows(decode("nem12", mended)) == rows(decode("nem12", frames.NEM12))[:47]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((b"E1,N1", b"Z1,N1"), "NMI suffix 'Z1'"), ((b"kWh,30", b"kWh,7"), "interval length '7'"),
        ((b"kWh,30", b"parsec,30"), "unknown unit"), ((b"20260101", b"20261301"), "is no date"),
        ((b"E14", b"X9"), "quality 'X9'"), ((b"400,48,48", b"400,48,99"), "400 record for intervals"),
    ],
)  # fmt: skip
def test_nem12_reasons(change, says):
    items = decode("nem12", frames.NEM12.replace(*change))
    assert any(isinstance(item, BadFrame) and says in item.reason for item in items)


def test_nem13_registers():
    line = b"250,NMI7,1,1,E1,N1,SER9,E,100.5,20260101000000,A,,,112.25,20260201000000,F52,,,11.75,kWh,20260301,,\n"
    found = rows(decode("nem12", line))
    assert [(r[0], r[1], r[2], r[6]) for r in found] == [
        ("import_register_kwh", Decimal("100.5"), "2025-12-31T14:00:00Z", ""),
        ("import_register_kwh", Decimal("112.25"), "2026-01-31T14:00:00Z", "2.8.3052"),
    ]


def test_espi():
    assert rows(decode("espi", frames.ESPI)) == [
        ("import_kwh", Decimal("0.282"), "2012-03-01T05:15:00Z", 900, "9b/01", "", ""),
        ("import_kwh", Decimal("0.323"), "2012-03-02T06:15:00Z", 90_000, "9b/01", "", "5.8.0"),
    ]


def test_espi_is_what_greenbutton_objects_reads():
    from greenbutton_objects.parse import parse_feed

    (point,) = parse_feed(io.BytesIO(frames.ESPI.replace(b".0<", b"<")))
    theirs = [reading for meter in point.meterReadings for reading in meter.intervalReadings]
    ours = rows(decode("espi", frames.ESPI))
    assert [Decimal(str(r.value)) for r in theirs] == [row[1].scaleb(3) for row in ours]


@pytest.mark.parametrize("encoding", [b"UTF-7", b"TF-8", b"utf-16", b"idna", b"base64", b"x" * 40])
def test_xml_in_an_encoding_that_is_not_read_is_refused(encoding):
    data = b'<?xml version="1.0" encoding="' + encoding + b'"?>\n' + frames.ESPI[frames.ESPI.index(b"<feed") :]
    items = decode("espi", data)
    assert items[0].reason.startswith(("its encoding", "not well-formed"))
    assert all(isinstance(item, BadFrame) for item in items)


def test_espi_without_reading_type_and_of_a_broken_one():
    start, end = (
        frames.ESPI.index(b'<entry><link rel="self" href="ReadingType'),
        frames.ESPI.index(b'<entry><link rel="up"'),
    )
    found = rows(decode("espi", frames.ESPI[:start] + frames.ESPI[end:]))
    assert found == rows(decode("espi", frames.ESPI))
    items = decode("espi", frames.ESPI.replace(b"uom>72", b"uom>9999"))
    assert [type(item) for item in items] == [BadFrame, BadFrame]
    assert "uom 9999" in items[0].reason
    items = decode("espi", frames.ESPI.replace(b"<value>282", b"<value>many"))
    assert [type(item) for item in items] == [Decoded, BadFrame]
    bad = items[1]
    assert bad.raw.startswith(b"<IntervalReading>") and bad.raw.endswith(b"</IntervalReading>")
    mended = registry.get("espi").stream([bad.prelude, bad.raw.replace(b"many", b"282")], Context(fragment=True))
    assert rows(mended) == rows(decode("espi", frames.ESPI))[:1]


CIM_ROWS = [
    ("import_register_kwh", Decimal("0.12050"), "2026-01-01T00:00:00Z", 0, "U-1", "M-1", ""),
    ("import_kwh", Decimal("0.25"), "2026-01-01T00:15:00Z", 900, "U-1", "M-1", "1.5.257"),
]


@pytest.mark.parametrize(("name", "data"), [("cim", frames.CIM), ("cim-json", frames.CIM_JSON)])
def test_cim(name, data):
    items = decode(name, data)
    assert rows(items) == CIM_ROWS
    (event,) = [event for item in items for event in item.events]
    assert (event.kind, event.meter, event.event_type, event.event_id, event.severity) == (
        "LAST_GASP", "M-1", "3.26.0.47", "e-1", "high",
    )  # fmt: skip


def test_cim_a_bad_reading_does_not_take_its_neighbours():
    data = frames.CIM.replace(b"120.50", b"much")
    items = decode("cim", data)
    assert rows([item for item in items if isinstance(item, Decoded)]) == CIM_ROWS[1:]
    (bad,) = [item for item in items if isinstance(item, BadFrame)]
    assert data[bad.position :].startswith(bad.raw)
    chunks = [bad.prelude, bad.raw.replace(b"much", b"120.50")]
    assert rows(registry.get("cim").stream(chunks, Context(fragment=True))) == CIM_ROWS[:1]
    assert not [i for i in registry.get("cim").stream([bad.prelude, bad.raw[:-20]], Context(fragment=True))
                if isinstance(i, Decoded)]  # fmt: skip


@pytest.mark.parametrize("name", ["cim", "espi"])
def test_entities_are_refused(name):
    bomb = b'<!DOCTYPE a [<!ENTITY x "xx"><!ENTITY y SYSTEM "file:///etc/passwd">]>'
    data = bomb + (frames.CIM if name == "cim" else frames.ESPI).partition(b"?>")[2]
    items = decode(name, data)
    assert items and all(isinstance(item, BadFrame) and "entities are refused" in item.reason for item in items)
    assert b"".join(item.raw for item in items).strip() in data


def test_reading_goes_on_behind_broken_xml():
    one = frames.CIM[frames.CIM.index(b"<m:MeterReading>") : frames.CIM.index(b"<m:EndDeviceEvent>")]
    data = b"<m:MeterReadings>" + one + one.replace(b"</m:value>", b"</m:valeu>", 1) + one * 2 + b"</m:MeterReadings>"
    items = decode("cim", data)
    assert [type(item) for item in items] == [Decoded, BadFrame, Decoded, Decoded]
    assert "not well-formed" in items[1].reason
    cut = decode("cim", data[: -len(one)])
    assert [type(item) for item in cut] == [Decoded, BadFrame, Decoded, BadFrame]


@pytest.mark.parametrize("name", ["nem12", "espi", "cim"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_chunks_cut_anywhere(name, size):
    data = getattr(frames, name.upper())
    chunks = (data[i : i + size] for i in range(0, len(data), size))
    assert list(registry.get(name).stream(chunks, Context(source="f"))) == decode(name, data)


@pytest.mark.parametrize("name", ["espi", "cim"])
def test_memory_is_bounded(name):
    data = getattr(frames, name.upper())
    first = data.index(b'<entry><link rel="up"') if name == "espi" else data.index(b"<m:MeterReading>")
    last = data.rindex(b"</")
    chunks = itertools.chain([data[:first]], itertools.repeat(data[first:last], 3000), [data[last:]])
    tracemalloc.start()
    count = sum(1 for _ in registry.get(name).stream(chunks, Context(source="f")))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count >= 3000
    assert peak < 3_000_000


SENML_ROWS = [
    ("import_register_kwh", Decimal("1.2345"), "2011-10-30T18:40:00Z", 0, "", "urn:dev:meter-7", ""),
    ("voltage_l1_v", Decimal("230.1"), "2011-10-30T18:40:01Z", 0, "", "urn:dev:meter-7", ""),
]


def test_senml_json_and_cbor():
    (item,) = decode("senml", frames.SENML)
    assert rows([item]) == SENML_ROWS
    labels = {"bn": -2, "bt": -3, "bu": -4, "n": 0, "u": 1, "v": 2, "vs": 3, "t": 6}
    pack = [
        {labels[key]: value for key, value in record.items()}
        for record in json.loads(frames.SENML, parse_float=Decimal)
    ]
    for document in (cbor2.dumps(pack), cbor2.dumps(json.loads(frames.SENML))):
        assert rows(decode("senml-cbor", document)) == SENML_ROWS
        assert rows(registry.get("senml-cbor").stream([bytes([b]) for b in document * 2], Context())) == SENML_ROWS * 2


def test_senml_reasons():
    (bad,) = decode("senml", b'[{"n":"m/voltage_l1_v","v":1}]')
    assert "time of receipt" in bad.reason
    (bad,) = decode("senml", b'[{"n":"m/what","v":1,"t":1.3e9}]')
    assert "no known reading type" in bad.reason
    (bad,) = decode("senml", b'[{"n":"m/voltage_l1_v","v":1,"t":1.3e9,"x_":1}]')
    assert "must be understood" in bad.reason


MAPPING = """
delimiter = ";"
decimal = ","
meter = "serial"
time = "at"
time_format = "%d.%m.%Y %H:%M"
time_is = "start"
zone = "Europe/Berlin"
ambiguous = "RULE"
interval_s = 900
[[values]]
column = "wh"
reading_type = "import_kwh"
unit = "Wh"
"""


@pytest.mark.parametrize(("rule", "utc"), [("first", "2025-10-26T00:45:00Z"), ("second", "2025-10-26T01:45:00Z")])
def test_a_mapping_file(rule, utc):
    data = b"serial;at;wh\nM1;26.10.2025 02:30;1250,5\n"
    items = decode("mapped", data, mapping=MAPPING.replace("RULE", rule))
    assert rows(items) == [("import_kwh", Decimal("1.2505"), utc, 900, "", "M1", "")]


def test_times_that_come_twice_or_never():
    data = b"serial;at;wh\nM1;26.10.2025 02:30;1\nM1;30.03.2025 02:30;1\n"
    twice, never = decode("mapped", data, mapping=MAPPING.replace("RULE", "refuse"))
    assert "comes twice" in twice.reason
    assert "does not exist" in never.reason
    assert twice.prelude == b"serial;at;wh\n"


def test_a_mapping_for_json_lines():
    mapping = 'format = "json"\nmeter = "id"\ntime = "t"\ntime_format = "unix"\ntype_column = "k"\nvalue_column = "v.n"'
    items = decode("mapped", b'{"id":"M","t":1700000000,"k":"1-0:32.7.0","v":{"n":230.10}}\n', mapping=mapping)
    assert rows(items) == [("voltage_l1_v", Decimal("230.10"), "2023-11-14T22:13:20Z", 0, "", "M", "")]
    with pytest.raises(InvalidSetting, match="give --mapping"):
        decode("mapped", b"x")
