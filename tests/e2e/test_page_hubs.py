"""A hub's view: reading, searching, following, sending, taking away and copying events, in a real browser."""

from __future__ import annotations

import io
import json
import shlex
import signal
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fastavro
import httpx
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Locator, Page, expect

from gridwire.core.batch import Event, encode
from page import AXE, CHROMIUM, RunningHub, Watched, live, tab_to, tab_to_label, until

START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
BATCH = {"content-type": "application/vnd.gridwire.batch"}
WHERE = quote("kw >= 90")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def make(hub: RunningHub, name: str, partitions: int = 1) -> None:
    wanted = {"name": name, "partitions": partitions, "settings": {"retention_ms": -1}}
    httpx.post(f"{hub.url}/v1/hubs", json=wanted).raise_for_status()


def put(hub: RunningHub, name: str, partition: int, events: list[Event]) -> None:
    path = f"{hub.url}/v1/hubs/{name}/events?partition={partition}"
    httpx.post(path, content=bytes(encode(events)), headers=BATCH).raise_for_status()


def rows(partition: int, count: int, more: str = "") -> list[Event]:
    """Events a second apart; partition 1 half a second later. Every tenth has 90 kW or more."""
    return [
        Event(
            b'{"n":%d,"kw":%d.5%b}' % (n, n % 10 * 10, more.encode()), b"k%d" % n, (("unit", b"kW"),),
            START_MS + n * 1000 + partition * 500,
        )
        for n in range(count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    running = RunningHub(tmp_path_factory.mktemp("hubs") / "data")
    running.start()
    try:
        make(running, "plant", 2)
        for partition in range(2):
            put(running, "plant", partition, rows(partition, 300))
        yield running
    finally:
        running.stop()


def open_hub(browser: Watched, hub: RunningHub, address: str) -> Page:
    return live(browser.open(f"{hub.url}/#/hubs/{address}"))


def lines(page: Page) -> Locator:
    return page.get_by_test_id("events").locator("tbody tr")


def places(page: Page) -> list[str]:
    return [text.split("\n")[0].split("\t")[0] for text in lines(page).all_inner_texts()]


def events_of(hub: RunningHub, name: str, partition: int = 0) -> list[dict[str, Any]]:
    query = {"partition": partition, "limit": 10_000}
    found: list[dict[str, Any]] = httpx.get(f"{hub.url}/v1/hubs/{name}/events", params=query).json()["events"]
    return found


# Reading


def test_from_a_time_all_partitions_come_in_the_order_of_their_times(hub: RunningHub, browser: Watched) -> None:
    page = open_hub(browser, hub, "plant")
    page.get_by_role("combobox", name="From").select_option("time")
    page.get_by_role("textbox", name="Time, UTC").fill("2026-01-01T00:00:10")
    page.get_by_role("button", name="Show", exact=True).click()
    until(lambda: places(page)[:4] == ["0:10", "1:10", "0:11", "1:11"], "the events of that time")
    expect(lines(page)).to_have_count(100)
    assert "offset=2026-01-01T00%3A00%3A10Z" in page.url
    page.get_by_role("button", name="Newer").click()
    expect(lines(page).first).to_contain_text("0:60")
    page.reload()
    expect(lines(page).first).to_contain_text("0:60")
    page.go_back()
    expect(lines(page).first).to_contain_text("0:10")


def test_a_filter_is_searched_by_the_hub_and_goes_on_where_it_stopped(hub: RunningHub, browser: Watched) -> None:
    make(hub, "long")
    put(hub, "long", 0, rows(0, 1500))
    page = open_hub(browser, hub, "long")
    page.get_by_role("combobox", name="From").select_option("earliest")
    page.get_by_label("Where").fill("kw >= 90 and header.unit = kW")
    page.get_by_label("Where").press("Enter")
    expect(lines(page)).to_have_count(100)
    expect(page.get_by_test_id("searched")).to_contain_text("100 found")
    page.get_by_role("button", name="Go on").click()
    expect(lines(page)).to_have_count(50)
    expect(lines(page).first).to_contain_text("0:1009")
    expect(page.get_by_test_id("searched")).to_contain_text("500 of 500 searched, 50 found")
    expect(page.get_by_role("button", name="Go on")).to_be_disabled()


def test_a_search_is_stopped_and_goes_on_from_there(hub: RunningHub, browser: Watched) -> None:
    """The hub's answers are slow here: the first has searched 120 events, the second never comes."""
    page = open_hub(browser, hub, "plant?partition=0")
    found = {"events": [], "next": 120, "start": 0, "end": 300}
    page.route("**/plant/events?*offset=0*", lambda route: route.fulfill(json=found))
    page.route("**/plant/events?*offset=120*", lambda route: None)
    page.goto(f"{hub.url}/#/hubs/plant?partition=0&offset=0&where={WHERE}")
    expect(page.get_by_test_id("searched")).to_have_text("120 of 300 searched, 0 found")
    page.get_by_role("button", name="Stop").click()
    page.unroute_all(behavior="ignoreErrors")
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_test_id("searched")).to_have_text("180 of 180 searched, 18 found")
    expect(lines(page).first).to_contain_text("0:129")


def test_a_filter_that_is_not_understood_is_said(hub: RunningHub, browser: Watched) -> None:
    browser.allowed = lambda text: "400" in text
    page = open_hub(browser, hub, "plant?offset=earliest&where=kw+is+9")
    expect(page.get_by_role("alert")).to_contain_text("write FIELD OP VALUE")
    page.get_by_role("button", name="Live").click()
    expect(page.get_by_role("alert")).to_contain_text("write FIELD OP VALUE")


def test_a_live_view_filters_too(hub: RunningHub, browser: Watched) -> None:
    make(hub, "live")
    put(hub, "live", 0, rows(0, 400))
    page = open_hub(browser, hub, f"live?where={WHERE}")
    expect(lines(page)).to_have_count(40)
    put(hub, "live", 0, [Event(b'{"kw":95,"n":"new"}'), Event(b'{"kw":1}')])
    expect(lines(page).first).to_contain_text('"new"')
    expect(lines(page)).to_have_count(41)


def test_fields_are_columns(hub: RunningHub, browser: Watched) -> None:
    page = open_hub(browser, hub, "plant?offset=-2&partition=1")
    page.get_by_label("Columns").fill("kw, header.unit, gone")
    page.get_by_role("button", name="Show", exact=True).click()
    head = page.get_by_test_id("events").locator("thead th")
    expect(head).to_have_text(["Offset", "Time, UTC", "Key", "kw", "header.unit", "gone"])
    expect(lines(page).last.locator("td")).to_contain_text(["1:299", "", "k299", "90.5", "kW", ""])


def test_the_command_shown_reads_what_is_shown(hub: RunningHub, browser: Watched) -> None:
    page = open_hub(browser, hub, f"plant?offset=290&where={WHERE}")
    expect(lines(page)).to_have_count(2)
    command = page.get_by_role("group", name="curl command").inner_text()
    answer = subprocess.run(shlex.split(command), capture_output=True, check=True, timeout=30)
    found = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [(event["partition"], event["offset"]) for event in found] == [(0, 299), (1, 299)]


# What bytes mean


def test_avro_is_read_with_its_schema(hub: RunningHub, browser: Watched) -> None:
    schema = {
        "type": "record", "name": "Reading", "fields": [
            {"name": "meter", "type": "string"},
            {"name": "kw", "type": ["null", "double"]},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "tags", "type": {"type": "map", "values": {"type": "array", "items": "int"}}},
            {"name": "next", "type": ["null", "Reading"]},
        ],
    }  # fmt: skip
    httpx.post(f"{hub.url}/v1/schemagroups", json={"name": "grid", "format": "Avro"}).raise_for_status()
    body = {"name": "Reading", "format": "Avro", "definition": json.dumps(schema)}
    made = httpx.post(f"{hub.url}/v1/schemagroups/grid/schemas", json=body).raise_for_status().json()
    inner = {"meter": "inner", "kw": None, "at": 0, "tags": {}, "next": None}
    packed = io.BytesIO()
    value = {"meter": "m-7", "kw": -3.25, "at": START_MS, "tags": {"a": [1, -200]}, "next": inner}
    fastavro.schemaless_writer(packed, fastavro.parse_schema(schema), value)
    make(hub, "avro")
    kind = (("content-type", b"avro/binary+" + made["id"].encode()),)
    put(hub, "avro", 0, [Event(packed.getvalue(), None, kind), Event(b"\xff\xff\xff\xff\xff", None, kind)])
    page = open_hub(browser, hub, "avro?offset=0&columns=meter,kw")
    expect(lines(page).first.locator("td")).to_contain_text(["0:0", "", "", "m-7", "-3.25"])
    page.get_by_role("button", name="Event 0:0").click()
    shown = json.loads(page.get_by_test_id("value").inner_text())
    assert shown == {**value, "at": "2026-01-01T00:00:00.000Z", "next": {**inner, "at": "1970-01-01T00:00:00.000Z"}}
    page.get_by_role("button", name="Event 0:1").click()
    expect(page.get_by_text("it ends too early")).to_be_visible()


@pytest.mark.parametrize(
    ("schema", "data", "why"),
    [
        ({"type": "array", "items": "null"}, b"\x80\x80\x80\x80\x80\x40", "more than 100000 items"),
        ({"type": "record", "name": "R", "fields": [{"name": "r", "type": "R"}]}, b"", "nested too deep"),
        ("bytes", b"\xfe\xff\xff\xff\x0f", "ends too early"),
        ("bytes", b"\x01", "ends too early"),
        ("long", b"\xff" * 11, "too long"),
        ("int", b"\x02\x02", "follows its end"),
        (["null", "int"], b"\x08", "does not have"),
    ],
)
def test_hostile_avro_costs_nothing(hub: RunningHub, browser: Watched, schema: Any, data: bytes, why: str) -> None:
    name = f"hostile.{zlib.crc32(json.dumps(schema).encode() + data)}"
    httpx.post(f"{hub.url}/v1/schemagroups", json={"name": name, "format": "Avro"}).raise_for_status()
    body = {"name": "S", "format": "Avro", "definition": json.dumps(schema)}
    made = httpx.post(f"{hub.url}/v1/schemagroups/{name}/schemas", json=body).raise_for_status().json()
    make(hub, name)
    put(hub, name, 0, [Event(data, None, (("content-type", b"avro/binary+" + made["id"].encode()),))])
    page = open_hub(browser, hub, f"{name}?offset=0")
    page.get_by_role("button", name="Event 0:0").click()
    expect(page.get_by_text(why)).to_be_visible()


def test_values_are_shown_as_what_they_are_and_as_asked(hub: RunningHub, browser: Watched) -> None:
    make(hub, "kinds")
    reading = b'{"usage_point":"U1","ts_end":"2026-01-01T00:00:00Z","reading_type":"import_kwh","value":0.25}'
    event = (("ce_specversion", b"1.0"), ("ce_id", b"7"), ("ce_source", b"/head-end"), ("ce_type", b"outage"))
    put(hub, "kinds", 0, [Event(reading), Event(b"{}", None, event), Event(b"caf\xc3\xa9"), Event(b"\x00\xff")])
    page = open_hub(browser, hub, "kinds?offset=0")
    for offset, kind, part in ((0, "Reading", "usage_point"), (1, "CloudEvent", "/head-end")):
        page.get_by_role("button", name=f"Event 0:{offset}").click()
        expect(page.get_by_role("combobox", name="As", exact=True).locator("option").first).to_have_text(kind)
        expect(page.get_by_test_id("facts")).to_contain_text(part)
        page.get_by_role("button", name=f"Event 0:{offset}").click()
    page.get_by_role("combobox", name="Values as").select_option("hex")
    expect(lines(page).nth(2)).to_contain_text("63 61 66 c3 a9")
    assert "show=hex" in page.url
    page.get_by_role("combobox", name="Values as").select_option("")
    page.get_by_role("button", name="Event 0:3").click()
    expect(page.get_by_test_id("hex")).to_contain_text("00 ff")


# Following


def test_a_thousand_events_a_second_stay_readable(hub: RunningHub, browser: Watched) -> None:
    hub.post("fast", [{"n": -1}], key="k")
    page = open_hub(browser, hub, "fast")
    expect(page.get_by_test_id("events")).to_contain_text('{"n":-1}')
    for at in range(10):
        hub.post("fast", [{"n": at * 1000 + n} for n in range(1000)], key="k")
    expect(page.get_by_test_id("events")).to_contain_text('{"n":9999}')
    expect(page.get_by_text("events/s come in")).to_be_visible()
    assert lines(page).count() <= 500
    page.get_by_role("button", name="Pause").click()
    before = places(page)
    hub.post("fast", [{"n": "paused"}], key="k")
    expect(page.get_by_role("region", name="About")).to_contain_text("10,002 events")
    assert places(page) == before
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_test_id("events")).to_contain_text("paused")


# Sending


def test_an_event_is_sent_with_key_properties_and_partition(hub: RunningHub, browser: Watched) -> None:
    make(hub, "sent", 3)
    page = open_hub(browser, hub, "sent?open=send")
    form = page.get_by_role("form", name="Send to sent")
    form.get_by_label("Body").fill('{"kw": 3.50}')
    form.get_by_label("Properties").fill("unit = kW\nß = a=b")
    form.get_by_role("textbox", name="Key").fill("m-1")
    form.get_by_role("combobox", name="To partition").select_option("2")
    form.get_by_role("button", name="Send").click()
    expect(page.get_by_test_id("sent")).to_have_text("Sent to partition 2, offset 0; on disk.")
    [event] = events_of(hub, "sent", 2)
    assert (event["key"], event["headers"], event["value"]) == ("m-1", {"unit": "kW", "ß": "a=b"}, {"kw": 3.5})
    expect(lines(page).first).to_contain_text("2:0")
    form.get_by_label("Properties").fill("nothing")
    form.get_by_role("button", name="Send").click()
    expect(page.get_by_test_id("sent")).to_contain_text("write name = value")


# Taking away and copying


@pytest.mark.parametrize("form", ["ndjson", "csv", "parquet"])
def test_what_is_shown_is_taken_away_as_a_file(hub: RunningHub, browser: Watched, form: str, tmp_path: Path) -> None:
    page = open_hub(browser, hub, f"plant?offset=100&where={WHERE}&columns=kw,n&open=range")
    page.get_by_label("To", exact=True).fill("130")
    page.get_by_role("combobox", name="File").select_option(form)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Export", exact=True).click()
    assert waiting.value.suggested_filename == f"plant.{form}"
    file = tmp_path / "file"
    waiting.value.save_as(file)
    wanted = [(p, n) for p in range(2) for n in (109, 119, 129)]
    if form == "parquet":
        found = [(row["partition"], row["n"]) for row in pq.read_table(file).to_pylist()]
    elif form == "csv":
        cells = [line.split(",") for line in file.read_text().splitlines()[1:]]
        found = [(int(cell[0]), int(cell[4])) for cell in cells]
    else:
        parsed = [json.loads(line) for line in file.read_text().splitlines()]
        found = [(row["partition"], row["n"]) for row in parsed]
    assert found == wanted


def test_a_refused_export_says_why(hub: RunningHub, browser: Watched) -> None:
    browser.allowed = lambda text: "400" in text
    page = open_hub(browser, hub, "plant?open=range")
    page.get_by_label("To", exact=True).fill("tomorrow")
    page.get_by_role("button", name="Export", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("to must be earliest, latest")


def test_a_range_is_copied(hub: RunningHub, browser: Watched) -> None:
    page = open_hub(browser, hub, f"plant?offset=100&where={WHERE}&open=range")
    page.get_by_label("To hub").fill("plant.copy")
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_test_id("copied")).to_have_text("40 events are copied to plant.copy.")
    copies = events_of(hub, "plant.copy", 1)
    assert [event["value"]["n"] for event in copies] == list(range(109, 300, 10))
    assert copies[0]["timestamp"] == START_MS + 109_500


def test_a_range_is_replayed_at_its_pace_and_can_be_stopped(hub: RunningHub, browser: Watched) -> None:
    page = open_hub(browser, hub, "plant?offset=0&open=range")
    page.get_by_role("combobox", name="How").select_option("replay")
    page.get_by_label("Times faster").fill("100000")
    page.get_by_label("To hub").fill("plant.fast")
    page.get_by_role("button", name="Replay", exact=True).click()
    expect(page.get_by_test_id("copied")).to_have_text("600 events are copied to plant.fast.")
    assert min(event["timestamp"] for event in events_of(hub, "plant.fast")) > START_MS + 300_000
    page.get_by_label("Times faster").fill("0.01")
    page.get_by_label("To hub").fill("plant.slow")
    page.get_by_role("button", name="Replay", exact=True).click()
    expect(page.get_by_test_id("copied")).to_have_text("1 event so far")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_test_id("copied")).to_have_text("1 event is copied to plant.slow; stopped before the end.")


# Saved views, and what must never happen


def test_a_view_is_saved_opened_and_forgotten_with_the_keyboard(hub: RunningHub, browser: Watched) -> None:
    page = open_hub(browser, hub, f"plant?offset=10&where={WHERE}&columns=kw")
    tab_to(page, "Saved views")
    page.keyboard.press("Enter")
    tab_to_label(page, "Name")
    page.keyboard.type("high load")
    page.keyboard.press("Enter")
    link = page.get_by_role("link", name="high load")
    expect(link).to_be_visible()
    page.goto(f"{hub.url}/#/hubs/plant?open=views")
    page.reload()
    tab_to(page, "high load")
    page.keyboard.press("Enter")
    expect(lines(page)).to_have_count(58)
    expect(page.get_by_label("Where")).to_have_value("kw >= 90")
    page.get_by_role("button", name="Saved views").click()
    page.get_by_role("button", name="Forget the view high load").click()
    expect(page.get_by_test_id("views")).to_contain_text("No view of this hub is saved")


PANELS = (
    "plant",
    "plant?open=send",
    "plant?open=range&offset=0",
    "plant?open=views",
    f"plant?offset=earliest&where={WHERE}",
)


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (npm ci in src/gridwire/web/ui)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(hub: RunningHub, browser: Watched, scheme: str) -> None:
    page = browser.open(hub.url, color_scheme=scheme, bypass_csp=True)
    for view in PANELS:
        page.goto(f"{hub.url}/#/hubs/{view}")
        expect(lines(live(page)).first).to_be_visible()
        lines(page).first.get_by_role("button").click()
        page.evaluate(AXE.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        assert [(view, one["id"], one["nodes"][0]["html"]) for one in found] == []


@pytest.mark.parametrize("width", [390, 320])
def test_no_panel_is_wider_than_a_phone(hub: RunningHub, browser: Watched, width: int) -> None:
    page = browser.open(hub.url, viewport={"width": width, "height": 800})
    for view in PANELS:
        page.goto(f"{hub.url}/#/hubs/{view}")
        expect(lines(live(page)).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view


def test_many_partitions_come_in_the_order_of_their_times(hub: RunningHub, browser: Watched) -> None:
    make(hub, "many", 50)
    for partition in range(50):
        put(hub, "many", partition, rows(partition, 40))
    page = open_hub(browser, hub, "many?offset=earliest")
    seen: list[str] = []
    while len(seen) < 300:
        expect(page.get_by_role("button", name="Newer")).to_be_enabled()
        times = [text.split("\t")[1] for text in lines(page).all_inner_texts()]
        assert times == sorted(times)
        seen += times
        first = places(page)[0]
        page.get_by_role("button", name="Newer").click()
        expect(page.get_by_role("button", name=f"Event {first}", exact=True)).to_have_count(0)
    assert seen == sorted(seen)


def test_nothing_of_an_event_an_address_or_a_saved_view_runs(hub: RunningHub, browser: Watched) -> None:
    bad = '<img src=x onerror="window.ran=1">'
    make(hub, "bad")
    put(hub, "bad", 0, [Event(json.dumps({bad: bad}).encode(), bad.encode(), ((bad, bad.encode()),))])
    page = open_hub(browser, hub, f"bad?offset=0&columns={quote(bad)}&open=views")
    page.get_by_label("Name").fill(bad)
    page.get_by_role("button", name="Save this view").click()
    expect(page.get_by_test_id("views")).to_contain_text(bad)
    lines(page).first.get_by_role("button").click()
    expect(page.get_by_test_id("value")).to_contain_text("window.ran")
    harmful = [{"name": "x", "hub": "bad", "address": "javascript:window.ran=1"}, 7, None, {"name": {}}]
    page.evaluate("(views) => localStorage.setItem('gridwire.views', JSON.stringify(views))", harmful)
    page.reload()
    expect(page.get_by_test_id("views")).to_contain_text("No view of this hub")
    assert page.evaluate("window.ran") is None
    assert page.locator("img").count() == 0


def test_a_page_of_events_comes_when_the_hub_is_back(own_hub: RunningHub, browser: Watched) -> None:
    browser.allowed = lambda text: "net::ERR_" in text  # whatever a request met that the kill cut off
    own_hub.post("back", [{"n": n} for n in range(3)], key="k")
    page = open_hub(browser, own_hub, "back?offset=0")
    expect(lines(page)).to_have_count(3)
    own_hub.stop(signal.SIGKILL)
    expect(page.get_by_test_id("link")).to_have_text("reconnecting")
    page.get_by_label("Where").fill("n > 0")
    page.get_by_role("button", name="Show", exact=True).click()
    trouble = page.get_by_text("The hub does not answer.", exact=True)
    expect(trouble).to_be_visible()
    own_hub.start()
    expect(lines(page)).to_have_count(2)
    expect(trouble).to_have_count(0)
