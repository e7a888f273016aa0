"""Readings that are readings already, the registry of formats, and ingesting files of every format."""

import json

import pytest

from gridwire.core.errors import Unsupported
from gridwire.demo.utility import frame_files
from gridwire.grid import ingest as ingesting
from gridwire.grid.formats import registry
from gridwire.grid.formats.base import BAD_FRAME_BYTES_MAX, BadFrame, Context, Decoded
from gridwire.grid.formats.rows import LINE_BYTES_MAX

GOOD = (
    b'{"usage_point":"U","ts_end":"2016-01-01T01:15:00+01:00","interval_s":900,'
    b'"reading_type":"1-0:1.29.0","value":0.2130,"x":1}'
)


def decode(name, data):
    return list(registry.get(name).decode(data, "file"))


def test_json_is_checked_and_passed_on_verbatim():
    (item,) = decode("json", GOOD + b"\r\n\n")
    assert item.verbatim == GOOD
    (reading,) = item.readings
    assert (reading.usage_point, reading.value, reading.scale, reading.interval_s) == ("U", 2130, -4, 900)
    assert reading.ts_end_us == 1_451_607_300_000_000


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"value": "much"}, "value"),
        ({"value": 1e300}, "digits"),
        ({"ts_end": "2016-01-01T00:15:00"}, "offset"),
        ({"ts_end": "yesterday"}, "ts_end"),
        ({"usage_point": ""}, "usage_point"),
        ({"usage_point": 5}, "usage_point"),
        ({"reading_type": "import"}, "reading type"),
        ({"interval_s": 0}, "interval_s"),
        ({"interval_s": -1}, "interval_s"),
        ({"interval_s": 10**9}, "interval_s"),
    ],
)
def test_json_that_is_no_reading(change, says):
    line = json.dumps(json.loads(GOOD) | change).encode()
    before, bad, after = decode("json", GOOD + b"\n" + line + b"\n" + GOOD)
    assert isinstance(bad, BadFrame)
    assert says in bad.reason
    assert (bad.raw, bad.position) == (line, len(GOOD) + 1)
    assert isinstance(before, Decoded)
    assert isinstance(after, Decoded)


def test_a_line_without_an_end_is_bounded():
    data = b"x" * (5 * LINE_BYTES_MAX) + b"\n" + GOOD
    items = decode("json", data)
    assert isinstance(items[-1], Decoded)
    assert max(len(item.raw) for item in items[:-1]) <= BAD_FRAME_BYTES_MAX
    assert b"".join(item.raw for item in items[:-1]) == data[: 5 * LINE_BYTES_MAX]


CSV = b"""\xef\xbb\xbfUsage_Point,ts_end,reading_type,value,interval_s,colour
U,2016-01-01T00:15:00Z,import_kwh,0.213,900,blue
"U, 2",2016-01-01T00:15:00Z,voltage_l1_v,230.0,,
U,never,import_kwh,0.213,900,
U,2016-01-01T00:15:00Z
"""


def test_csv():
    first, second, bad_time, short = decode("csv", CSV)
    assert (first.readings[0].usage_point, first.readings[0].value, first.readings[0].scale) == ("U", 213, -3)
    assert (second.readings[0].usage_point, second.readings[0].interval_s) == ("U, 2", 0)
    assert "ts_end" in bad_time.reason
    assert "2 values for 6 columns" in short.reason
    semicolons = CSV.replace(b",", b";").replace(b"U; 2", b"U, 2")
    assert [item.readings for item in decode("csv", semicolons)[:2]] == [first.readings, second.readings]


def test_csv_without_a_header_is_all_bad():
    items = decode("csv", b"a,b\n1,2\n")
    assert [type(item) for item in items] == [BadFrame, BadFrame]
    assert "header" in items[0].reason


@pytest.mark.parametrize("name", ["json", "csv"])
@pytest.mark.parametrize("size", [1, 5, 70_000])
def test_chunks_cut_anywhere(name, size):
    data = {"json": (GOOD + b"\n") * 3 + b"{\n" + GOOD, "csv": CSV}[name]
    chunks = (data[i : i + size] for i in range(0, len(data), size))
    assert list(registry.get(name).stream(chunks, Context(source="file"))) == decode(name, data)


def test_the_registry():
    assert registry.NAMES[-2:] == ("json", "csv")
    assert {"dsmr", "han", "dlms", "sml", "mbus", "nem12", "espi", "cim", "cim-json"} < set(registry.NAMES)
    assert registry.by_file("a.cim.json").name == "cim-json"
    assert registry.by_file("NEM12#1.csv").name == "nem12"
    assert all(registry.get(name).name == name for name in registry.NAMES)
    assert registry.by_file("/a/B.CSV").name == "csv"
    assert registry.by_file("x.hex").name == "han"
    assert registry.by_file("x.doc") is None
    with pytest.raises(Unsupported, match="choose from dsmr, han, dlms"):
        registry.get("smoke")


class Hubs:
    """A sender that keeps what it is given."""

    def __init__(self):
        self.requests = []

    def send_events(self, hub, events):
        self.requests.append((hub, list(events)))

    def events(self, hub):
        return [event for name, events in self.requests for event in events if name == hub]


@pytest.fixture
def frames(tmp_path):
    for file in frame_files():
        (tmp_path / file.name).write_bytes(file.data)
    return tmp_path


def test_ingest_telegrams(frames):
    hubs = Hubs()
    paths = [*sorted(frames.glob("dsmr-v[45]*.txt")), frames / "dsmr-damaged.txt"]
    report = ingesting.ingest("dsmr", paths, hubs, usage_points={"K8EG004046395507": "U1"}, key_of={"U1": "T1"}.get)
    assert (report.files, report.frames, report.readings, report.quarantined) == (3, 2, 35, 1)
    assert report.bytes == sum(path.stat().st_size for path in paths)
    readings = [json.loads(event.value) for event in hubs.events("readings")]
    assert {row["usage_point"] for row in readings} == {
        "U1", "meter:2222ABCD123456789", "meter:3960221976967177082151037881335713",
        "meter:4819243993373755377509728609491464",
    }  # fmt: skip
    assert {row["source"] for row in readings} == {"dsmr-v5-iskra.txt", "dsmr-v4.2-kaifa.txt"}
    keys = {event.key for event in hubs.events("readings")}
    assert b"T1" in keys
    assert b"meter:2222ABCD123456789" in keys
    (bad,) = hubs.events("quarantine")
    assert bad.value == (frames / "dsmr-damaged.txt").read_bytes()
    headers = dict(bad.headers)
    assert (headers["format"], headers["source"], headers["position"]) == (b"dsmr", b"dsmr-damaged.txt", b"0")
    assert report.reasons == {headers["reason"].decode(): 1}


def test_ingest_han_with_the_time_of_receipt(frames):
    hubs = Hubs()
    context = Context(received_at_us=1_700_000_000_000_000)
    report = ingesting.ingest("han", [frames / "han-aidon-no.hex", frames / "han-damaged.hex"], hubs, context=context)
    assert (report.frames, report.readings, report.quarantined) == (2, 14, 1)


def test_ingest_passes_json_on_verbatim_in_bounded_requests(tmp_path):
    path = tmp_path / "many.ndjson"
    path.write_bytes((GOOD + b"\n") * 12_000 + b"{\n")
    hubs = Hubs()
    report = ingesting.ingest("json", [path], hubs)
    assert (report.readings, report.quarantined) == (12_000, 1)
    assert [len(events) for hub, events in hubs.requests if hub == "readings"] == [5_000, 5_000, 2_000]
    assert {(event.key, event.value) for event in hubs.events("readings")} == {(b"U", GOOD)}


def test_ingest_of_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError):
        ingesting.ingest("json", [tmp_path / "none"], Hubs())
