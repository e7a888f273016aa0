"""Ranges of events as files and copies, and what whoever asks may do, over a real broker."""

import csv
import io
import json

import httpx
import pyarrow.parquet as pq
import pytest

from gridwire.core import batch
from gridwire.core.batch import Event
from gridwire.core.clock import ManualClock
from gridwire.heads.http import ranges

START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def hub(http_hub, clock):
    return http_hub(clock=clock)


@pytest.fixture
def client(hub):
    with httpx.Client(base_url=hub.url, timeout=60) as client:
        yield client


def append(hub, name, partition, events):
    async def add():
        return await hub.broker.append(name, partition, batch.encode(events))

    return hub.run(add())


@pytest.fixture
def readings(hub, client):
    """Two partitions of 100 events, a second apart, of which every tenth has more than 90 kW."""
    client.post("/v1/hubs", json={"name": "r", "partitions": 2, "settings": {"retention_ms": -1}}).raise_for_status()
    for partition in range(2):
        events = [
            Event(b'{"n":%d,"kw":%d.5}' % (n, n % 10 * 10), b"k%d" % n, (("h", b"x"),), START_MS + n * 1000)
            for n in range(100)
        ]
        append(hub, "r", partition, events)


def export(client, **params):
    answer = client.get("/v1/hubs/r/events", params=params)
    assert answer.status_code == 200, answer.text
    return answer


def test_ndjson_is_what_browsing_shows(client, readings):
    answer = export(client, format="ndjson", partition=1, offset=5, to=8)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["content-disposition"] == 'attachment; filename="r.ndjson"'
    shown = client.get("/v1/hubs/r/events", params={"partition": 1, "offset": 5, "limit": 3}).json()["events"]
    assert [json.loads(line) for line in answer.text.splitlines()] == shown


def test_csv_of_chosen_fields_of_a_filtered_range_of_all_partitions(client, readings):
    answer = export(client, format="csv", fields="kw, key,header.h,gone", where="kw >= 90", to="2026-01-01T00:00:20Z")
    rows = list(csv.reader(io.StringIO(answer.text)))
    assert rows[0] == ["partition", "offset", "timestamp", "kw", "key", "header.h", "gone"]
    assert [(row[0], row[1]) for row in rows[1:]] == [("0", "9"), ("0", "19"), ("1", "9"), ("1", "19")]
    assert rows[1] == ["0", "9", "2026-01-01T00:00:09.000Z", "90.5", "k9", "x", ""]


def test_csv_keeps_what_has_commas_quotes_and_bytes(hub, client):
    client.post("/v1/hubs", json={"name": "r", "partitions": 1})
    append(hub, "r", 0, [Event(b'{"a":"1,\\"2"}', timestamp=START_MS), Event(b"\xff\x00"), Event(None), Event(b"a\nb")])
    rows = list(csv.DictReader(io.StringIO(export(client, format="csv").text)))
    assert [row["value"] for row in rows] == ['{"a":"1,\\"2"}', "/wA=", "", "a\nb"]
    assert [row["format"] for row in rows] == ["json", "base64", "null", "text"]
    assert rows[0]["timestamp"] == "2026-01-01T00:00:00.000Z"


def test_a_time_that_no_calendar_has_stays_a_number(hub, client):
    client.post("/v1/hubs", json={"name": "r", "partitions": 1})
    append(hub, "r", 0, [Event(b"x", timestamp=2**62)])
    [row] = csv.DictReader(io.StringIO(export(client, format="csv").text))
    assert row["timestamp"] == str(2**62)


def test_parquet_has_types(hub, client, readings):
    append(hub, "r", 0, [Event(b'{"n":"text","kw":1}', timestamp=START_MS)])
    table = pq.read_table(io.BytesIO(export(client, format="parquet", fields="kw,n,gone", partition=0).content))
    assert [str(field.type) for field in table.schema] == [
        "int64", "int64", "timestamp[ms, tz=UTC]", "double", "string", "string",
    ]  # fmt: skip
    assert table.num_rows == 101
    assert table["kw"].to_pylist()[:2] == [0.5, 10.5]
    assert table["n"].to_pylist()[99:] == ["99", "text"]
    whole = pq.read_table(io.BytesIO(export(client, format="parquet", partition=1, to=1).content)).to_pylist()
    assert whole[0]["value"] == '{"n":0,"kw":0.5}'
    assert whole[0]["headers"] == '{"h":"x"}'


def test_an_empty_range_is_an_empty_file(client, readings):
    assert export(client, format="ndjson", offset="latest").content == b""
    assert export(client, format="csv", offset="latest").text.count("\n") == 1
    empty = export(client, format="parquet", offset="latest").content
    assert pq.read_table(io.BytesIO(empty)).num_rows == 0


@pytest.mark.parametrize(
    ("params", "status", "reason"),
    [
        ({"format": "xlsx"}, 400, "ndjson, csv, parquet"),
        ({"format": "csv", "fields": ","}, 400, "between commas"),
        ({"format": "csv", "where": "n is 5"}, 400, "not understood"),
        ({"format": "csv", "offset": "yesterday"}, 400, "offset must be"),
        ({"format": "csv", "to": "tomorrow"}, 400, "to must be"),
        ({"format": "csv", "partition": 2}, 404, "partitions 0 to 1"),
        ({"format": "csv"}, 400, "narrow"),
    ],
)
def test_exports_that_are_refused_say_what_to_do(client, readings, monkeypatch, params, status, reason):
    monkeypatch.setattr(ranges, "EXPORT_EVENTS_MAX", 199)
    answer = client.get("/v1/hubs/r/events", params=params)
    assert (answer.status_code, reason in answer.json()["detail"]) == (status, True), answer.text
    assert client.head("/v1/hubs/r/events", params=params).status_code == status


def test_few_files_are_made_at_once(client, readings, monkeypatch):
    monkeypatch.setattr("gridwire.heads.http.streams.DOWNLOADS_MAX", 0)
    assert client.get("/v1/hubs/r/events?format=csv").status_code == 503


def copy(client, status=200, **body):
    answer = client.post("/v1/hubs/r/copy", json={"to_hub": "c", "partition": 0} | body)
    assert answer.status_code == status, answer.text
    return answer.json()


def events_of(client, hub, partition=0):
    return client.get(f"/v1/hubs/{hub}/events", params={"partition": partition, "limit": 10_000}).json()["events"]


def test_a_copy_goes_on_step_by_step_and_keeps_the_events(client, readings, monkeypatch):
    monkeypatch.setattr(ranges, "COPY_EVENTS_MAX", 30)
    first = copy(client, partition=1, to=70, **{"from": 5})
    assert first == {"copied": 30, "next": 35, "end": 70, "next_ms": None}
    assert copy(client, partition=1, to=70, **{"from": 35})["next"] == 65
    assert copy(client, partition=1, to=70, **{"from": 65}) == {"copied": 5, "next": 70, "end": 70, "next_ms": None}
    assert client.get("/v1/hubs/c").json()["partitions"] == 2
    assert client.get("/v1/hubs/c").json()["settings"]["retention_ms"] == -1
    without_offset = [
        [{name: value for name, value in event.items() if name != "offset"} for event in events]
        for events in (events_of(client, "c", 1), events_of(client, "r", 1)[5:70])
    ]
    assert without_offset[0] == without_offset[1]


def test_a_copy_with_a_filter_says_how_far_it_searched(client, readings, monkeypatch):
    monkeypatch.setattr(ranges, "COPY_SEARCH_MAX", 1)
    answer = copy(client, where="kw > 90")
    assert (answer["copied"], answer["next"]) == (10, 100)  # one block is searched whole
    assert [event["value"]["n"] for event in events_of(client, "c")] == list(range(9, 100, 10))


def test_a_copy_waits_where_it_is_told_to(client, clock, readings):
    waiting = copy(client, before="2026-01-01T00:00:00Z")
    assert waiting == {"copied": 0, "next": 0, "end": 100, "next_ms": START_MS}
    going = copy(client, before="2026-01-01T00:00:03Z", stamp="now")
    assert going == {"copied": 3, "next": 3, "end": 100, "next_ms": START_MS + 3000}
    assert {event["timestamp"] for event in events_of(client, "c")} == {clock.now_ms()}


def test_a_copy_to_a_hub_with_other_partitions_goes_by_key(client, readings):
    client.post("/v1/hubs", json={"name": "c", "partitions": 5}).raise_for_status()
    assert copy(client)["copied"] == 100
    assert sorted(len(events_of(client, "c", partition)) > 0 for partition in range(5)) == [True] * 5


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"to_hub": "r"}, 400, "itself"),
        ({"to_hub": "__audit"}, 403, "platform's own"),
        ({"to_hub": "a b"}, 400, "not allowed"),
        ({"partition": 9}, 404, "partitions 0 to 1"),
        ({"before": "soon"}, 400, "before"),
        ({"where": "n is 5"}, 400, "not understood"),
        ({"from": "soon"}, 400, "offset must be"),
        ({"stamp": "mine"}, 400, "stamp"),
    ],
)
def test_copies_that_are_refused_say_why(client, readings, body, status, reason):
    assert reason in copy(client, status, **body)["detail"]


def test_without_sign_in_everything_is_allowed(client):
    answer = client.get("/v1/rights?hub=r").json()
    assert (answer["sign_in"], "events.send" in answer["may"], "namespace.operate" in answer["may"]) == (
        False, True, True,
    )  # fmt: skip
