"""Sparkplug B: what pysparkplug encodes is what we read, and what no birth explains is kept for later."""

import base64
import json
import struct
from decimal import Decimal

import pytest
from pysparkplug import DataType, DData, Metric, NDeath

import meter_frames as frames
from gridwire.grid.formats import registry
from gridwire.grid.formats.base import BadFrame, Context, Decoded
from gridwire.grid.formats.protobuf import encoded
from gridwire.grid.reading import rfc3339
from gridwire.grid.reading_types import BY_ID

LINES = frames.sparkplug_lines()
ALL = "\n".join(LINES.values()).encode()


def decode(data, **context):
    return list(registry.get("sparkplug").decode(data, context=Context(source="f", **context)))


def rows(items):
    return [
        (r.meter, BY_ID[r.reading_type].alias, Decimal(r.value).scaleb(r.scale), rfc3339(r.ts_end_us))
        for item in items
        for r in item.readings
    ]


EXPECTED = [
    ("edge", "frequency_hz", Decimal("49.98"), "2023-11-14T22:13:20Z"),
    ("meter-7", "import_register_kwh", Decimal("1234.5"), "2023-11-14T22:13:20Z"),
    ("meter-7", "voltage_l1_v", Decimal("230.1"), "2023-11-14T22:13:20Z"),
    ("meter-7", "power_kw", Decimal(-3), "2023-11-14T22:13:20Z"),
    ("meter-7", "voltage_l1_v", Decimal("229.9"), "2023-11-14T22:13:21Z"),
    ("meter-7", "power_kw", Decimal(-7), "2023-11-14T22:13:21Z"),
    ("edge", "frequency_hz", Decimal("50.02"), "2023-11-14T22:13:20Z"),
]


def test_what_pysparkplug_writes_is_read():
    assert rows(decode(ALL)) == EXPECTED
    chunks = [bytes([byte]) for byte in ALL]
    assert rows(registry.get("sparkplug").stream(chunks, Context())) == EXPECTED


def test_json_lines_with_base64_or_hex_say_the_same():
    for code in (lambda raw: base64.b64encode(raw).decode(), bytes.hex):
        told = [line.partition(" ") for line in LINES.values()]
        data = "\n".join(json.dumps({"topic": t, "payload": code(bytes.fromhex(p))}) for t, _, p in told)
        assert rows(decode(data.encode())) == EXPECTED


def test_data_before_its_birth_waits_in_quarantine():
    (bad,) = decode(LINES["DDATA"].encode())
    assert isinstance(bad, BadFrame)
    assert "no birth has named alias 2" in bad.reason
    again = decode(LINES["DBIRTH"].encode() + b"\n" + bad.raw)
    assert rows(again) == EXPECTED[1:6]


def test_a_bad_frame_comes_with_its_births_and_they_measure_nothing():
    unknown = Metric(timestamp=5, name="Energy/what", datatype=DataType.DOUBLE, value=1.0)
    line = f"spBv1.0/plant/DDATA/edge/meter-7 {DData(timestamp=5, seq=3, metrics=(unknown,)).encode().hex()}"
    *_, bad = decode(ALL + b"\n" + line.encode())
    assert "no known reading type" in bad.reason
    assert bad.prelude.count(b"\n") == 2
    assert rows(decode(bad.prelude)) == []
    assert rows(decode(bad.prelude + LINES["DDATA"].encode())) == EXPECTED[4:6]


def test_a_node_that_is_born_again_forgets_its_devices():
    *_, bad = decode(ALL + b"\n" + LINES["NBIRTH"].encode() + b"\n" + LINES["DDATA"].encode())
    assert "no birth has named alias" in bad.reason


def test_deaths_and_births_after_them_are_events():
    death = f"spBv1.0/plant/NDEATH/edge {NDeath(timestamp=1_700_000_009_000, bd_seq_metric=bd_seq()).encode().hex()}"
    told = json.dumps({"topic": death.split()[0], "payload": death.split()[1], "tst": "2026-01-01T00:00:00Z"})
    items = decode("\n".join([LINES["NBIRTH"], told, LINES["NBIRTH"]]).encode())
    events = [(e.kind, e.meter, rfc3339(e.ts_us)) for item in items for e in item.events]
    assert events == [
        ("COMM_LOST", "edge", "2026-01-01T00:00:00Z"),
        ("COMM_RESTORED", "edge", "2023-11-14T22:13:20Z"),
    ]


def bd_seq():
    return Metric(timestamp=5, name="bdSeq", datatype=DataType.INT64, value=0)


def metric_line(metric):
    return f"spBv1.0/g/NDATA/e {encoded([(1, 1_700_000_000_000), (2, metric)]).hex()}".encode()


def test_properties_say_unit_quality_and_interval():
    def prop(kind, number, value):
        return encoded([(1, kind), (number, value)])

    names = [(1, b"engUnit"), (1, b"Quality"), (1, b"interval_s")]
    values = [(2, prop(12, 8, b"Wh")), (2, prop(3, 3, 500)), (2, prop(3, 3, 900))]
    metric = encoded([(1, b"import_kwh"), (4, 7), (9, encoded(names + values)), (10, 250)])
    (item,) = decode(metric_line(metric))
    (reading,) = item.readings
    assert (Decimal(reading.value).scaleb(reading.scale), reading.interval_s) == (Decimal("0.25"), 900)
    assert reading.quality == "5.10.0"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"spBv1.0/g/NDATA/e", "a line must be"),
        (b"spBv1.0/g/NDATA/e 0", "a line must be"),
        (b"spBv1.0/g/NDATA/e ff", "message ends early"),
        (b"spBv1.0/g/NDATA/e/d 00", "names a device"),
        (b"spBv1.0/g/DDATA/e 00", "names no device"),
        (b"other/topic 00", "no Sparkplug B topic"),
        (b'{"topic":"spBv1.0/g/NDATA/e"}', "topic and payload"),
        (b'{"topic":"spBv1.0/g/NDATA/e","payload":"%"}', "neither hex nor base64"),
        (metric_line(encoded([(1, b"import_kwh"), (4, 7), (10, 250)])), "interval_s"),
        (b"spBv1.0/g/NDEATH/e ", "death without a time"),
    ],
)
def test_reasons(line, says):
    (bad,) = decode(line)
    assert isinstance(bad, BadFrame)
    assert says in bad.reason


def test_numbers_are_exact_and_nonsense_is_none():
    for number, text in ((230.1, "230.1"), (1e-3, "0.001"), (16777217.0, "16777216")):
        raw = encoded([(1, b"voltage_l1_v"), (4, 9)]) + b"\x65" + struct.pack("<f", number)
        (item,) = decode(metric_line(raw))
        assert Decimal(item.readings[0].value).scaleb(item.readings[0].scale) == Decimal(text)
    raw = encoded([(1, b"voltage_l1_v"), (4, 9)]) + b"\x65" + struct.pack("<f", float("nan"))
    assert decode(metric_line(raw)) == []


def test_of_host_applications_nothing_is_said():
    assert decode(b"spBv1.0/STATE/host 00\nspBv1.0/g/NCMD/e 00\n\n") == []
    assert all(isinstance(item, Decoded) for item in decode(ALL))
