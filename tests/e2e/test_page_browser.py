"""The page in a real browser against a real hub: what a person sees, and what must never happen.

Every page a test opens is watched: a request to another host, a console error (a CSP violation is one) or an uncaught
exception fails the test. Chromium missing skips the file, visibly.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from playwright.sync_api import Page, expect

from gridwire.broker.local import report_app
from gridwire.grid import network
from gridwire.grid.findings import Finding, Severity
from gridwire.grid.network_parts import to_events
from page import AXE, CHROMIUM, WAIT_S, RunningHub, Watched, live, number, streams, tab_to, tab_to_label, until

DAY = "2016-06-14"
VIEWS = ("#/", "#/alerts", "#/grid", "#/hubs", "#/hubs/grid.transformers", "#/functions", "#/quarantine",
         "#/sql", "#/schemas", "#/access", "#/nowhere")  # fmt: skip

FUNCTION = {"name": "f", "trigger": "eventHubTrigger", "reads": "grid.feeders", "last_error": "ValueError: no"}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def fact(unit: str, clock: str, load_kw: float, *, kind: str = "transformer", **more: Any) -> dict[str, Any]:
    ts_end = f"{DAY}T{clock}:00Z"
    event = {
        kind: unit, "ts_end": ts_end, "interval_s": 900, "import_kwh": max(load_kw, 0) / 4,
        "export_kwh": max(-load_kw, 0) / 4, "load_kw": load_kw, "count": 17, "expected": 17, "max_kw": 4.2,
        "peak_kw": load_kw, "peak_at": ts_end, "version": 0,
    }  # fmt: skip
    return event | ({"rated_kva": 160.0} if kind == "transformer" else {}) | more


def finding(kind: str, subject: str, severity: Severity, subject_kind: str = "transformer") -> dict[str, Any]:
    """A finding as detectors tell it."""
    found = Finding(
        kind=kind, subject_kind=subject_kind, subject=subject, started_us=1_465_862_400_000_000, severity=severity,
        confidence=0.97, detector="outages", evidence={"customers": 13},
    )  # fmt: skip
    value: dict[str, Any] = json.loads(found.to_event(0).value or b"")
    return value


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    running = RunningHub(tmp_path_factory.mktemp("page") / "data")
    running.start()
    try:
        clocks = [f"{minute // 60:02}:{minute % 60:02}" for minute in range(15, 8 * 60, 15)]
        running.post("grid.transformers", [fact("T-calm", clock, 40 + i) for i, clock in enumerate(clocks)])
        running.post("grid.transformers", [fact("T-over", clock, 200.0) for clock in clocks])
        running.post("grid.transformers", [fact("T-solar", clock, -64.0) for clock in clocks])
        running.post("grid.feeders", [fact("F-1", c, 20.0, kind="feeder", transformer="T-calm") for c in clocks])
        running.post("grid.feeders", [fact("F-free", clocks[-1], 9.0, kind="feeder")])
        running.post("grid.alerts", [finding("outage", "T-over", Severity.CRITICAL)])
        running.post("grid.alerts", [finding("voltage.low", "F-1", Severity.WARNING, "feeder")])
        running.post("dlq.app.f", [{"n": 1}])
        running.quarantine(b"\x7e\xa0\x05\xff", reason="checksum is wrong", form="dlms", source="frame-7.bin")
        yield running
    finally:
        running.stop()


# What a visitor sees


def test_overview_tells_the_promise_and_moves(hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(hub.url))
    expect(page.get_by_test_id("promise")).to_contain_text("An acknowledgement means: on disk (fsync)")
    expect(page.get_by_test_id("version")).to_have_text(httpx.get(f"{hub.url}/v1/status").json()["version"])
    expect(page.get_by_test_id("frames")).to_contain_text("checksum is wrong")
    kept = page.get_by_test_id("kept-events")
    until(lambda: number(kept) > 0, "events are counted")
    before = number(kept)
    hub.post("overview.moves", [{"n": n} for n in range(500)])
    until(lambda: number(kept) >= before + 500, "the number of kept events moves")
    expect(page.get_by_test_id("hubs").get_by_role("row").filter(has_text="overview.moves")).to_contain_text("500")


def test_overview_shows_the_rate_of_what_comes_in(hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(hub.url))
    rate = page.get_by_test_id("in-events")
    deadline = time.monotonic() + WAIT_S
    while number(rate) <= 0 and time.monotonic() < deadline:
        hub.post("overview.rate", [{"n": n} for n in range(50)])
    assert number(rate) > 0


def test_partitions_of_a_hub_open(hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(hub.url))
    page.get_by_role("button", name="Partitions of grid.transformers").click()
    expect(page.get_by_role("link", name="partition 0").first).to_be_visible()


def test_loads_are_judged_by_rating(hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(f"{hub.url}/#/grid"))
    row = page.locator("tr[data-unit='T-over']")
    expect(row).to_contain_text("125\u00a0%")
    expect(row.locator("[data-level=over]")).to_have_count(1)
    expect(page.locator("tr[data-unit='T-solar']")).to_contain_text("\u221240\u00a0%")
    expect(page.locator("tr[data-unit='T-calm'] + tr[data-unit='F-1']")).to_be_visible()
    expect(page.locator("tr[data-unit='F-free']")).to_be_visible()


def test_the_highest_version_of_an_interval_wins(hub: RunningHub, browser: Watched) -> None:
    hub.post("grid.transformers", [fact("T-corrected", "07:45", 50.0)])
    page = live(browser.open(f"{hub.url}/#/grid"))
    row = page.locator("tr[data-unit='T-corrected']")
    expect(row).to_contain_text("31\u00a0%")
    hub.post("grid.transformers", [fact("T-corrected", "07:45", 80.0, version=2)])
    expect(row).to_contain_text("50\u00a0%")
    hub.post("grid.transformers", [fact("T-corrected", "07:45", 120.0, version=1), fact("T-mark", "07:45", 1.0)])
    expect(page.locator("tr[data-unit='T-mark']")).to_be_visible()
    expect(row).to_contain_text("50\u00a0%")


def test_a_transformer_opens_to_its_chart_and_feeders(hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(f"{hub.url}/#/grid"))
    page.get_by_role("link", name="T-calm").click()
    expect(page).to_have_url(f"{hub.url}/#/grid/T-calm")
    expect(page.get_by_role("img", name="Load of T-calm")).to_be_visible()
    expect(page.get_by_test_id("detail")).to_contain_text("70.0 kW, 44\u00a0% of 160 kVA")
    expect(page.get_by_test_id("grid-feeder").first).to_contain_text("F-1")


def test_grid_time_is_the_newest_interval(hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(f"{hub.url}/#/grid"))
    expect(page.get_by_test_id("grid-time")).to_have_text(f"{DAY} 07:45 UTC")


def test_a_quarantined_frame_opens_to_its_bytes(hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(f"{hub.url}/#/quarantine"))
    page.get_by_role("button", name="checksum is wrong").click()
    expect(page.get_by_test_id("hex")).to_contain_text("7e a0 05 ff")
    expect(page.get_by_test_id("hex")).to_contain_text("~···")
    hub.quarantine(b"/ISk5", reason="telegram has no end", form="dsmr", source="p1")
    expect(page.get_by_role("button", name="telegram has no end")).to_be_visible()
    expect(page.get_by_test_id("hex")).to_contain_text("7e a0 05 ff")


# Alerts


def test_findings_come_live_and_are_filtered_by_the_address(hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(f"{hub.url}/#/alerts?kind=voltage.low"))
    row = page.locator("tr[data-alert*='/F-1/']")
    expect(row).to_contain_text("warning")
    expect(page.locator("tr[data-alert*='/T-over/']")).to_have_count(0)
    hub.post("grid.alerts", [finding("voltage.low", "T-live", Severity.INFO)])
    expect(page.locator("tr[data-alert*='/T-live/']")).to_contain_text("info")
    page.get_by_label("Severity").select_option("warning")
    expect(page).to_have_url(f"{hub.url}/#/alerts?kind=voltage.low&severity=warning")
    expect(page.locator("tr[data-alert*='/T-live/']")).to_have_count(0)
    row.get_by_role("link", name="F-1 in the grid").click()
    expect(page).to_have_url(f"{hub.url}/#/grid/F-1")
    expect(page.get_by_role("img", name="Load of F-1")).to_be_visible()


def test_an_outage_is_marked_in_overview_and_grid(hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(hub.url))
    page.get_by_test_id("alert-line").get_by_role("link", name="critical").click()
    expect(page.locator("tr[data-alert*='/T-over/']")).to_be_visible()
    page.goto(f"{hub.url}/#/grid")
    expect(page.locator("tr[data-unit='T-calm']")).to_be_visible()
    expect(page.locator("tr[data-unit='T-calm'] .mark")).to_have_count(0)
    page.get_by_role("link", name="Alert of T-over: outage, critical").click()
    expect(page.get_by_test_id("alerts").locator("tbody tr")).to_have_count(1)


def test_a_finding_is_acknowledged_and_silenced_with_the_keyboard(hub: RunningHub, browser: Watched) -> None:
    hub.post("grid.alerts", [finding("outage", "T-keys", Severity.CRITICAL)])
    page = live(browser.open(f"{hub.url}/#/alerts?q=T-keys"))
    row = page.locator("tr[data-alert*='/T-keys/']")
    expect(row).to_contain_text("critical")
    tab_to(page, "outage")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("evidence")).to_contain_text("customers13")
    tab_to_label(page, "Reason")
    page.keyboard.type("crew is sent")
    tab_to_label(page, "Your name")
    page.keyboard.type("mia")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("said")).to_have_text("outage of transformer/T-keys is acknowledged.")
    expect(row).to_contain_text("open, acknowledged")
    expect(page.get_by_role("button", name="outage of transformer/T-keys")).to_be_focused()
    expect(page.get_by_test_id("alerts")).to_contain_text("Acknowledged by mia")
    tab_to_label(page, "Reason")
    page.keyboard.type("works")
    page.keyboard.press("Enter")
    expect(row).to_contain_text("open, acknowledged, silenced")
    silences = httpx.get(f"{hub.url}/v1/silences").json()["silences"]
    assert [(one["subject"], one["why"]) for one in silences] == [("transformer/T-keys", "works")]


def test_a_refused_silence_says_why(hub: RunningHub, browser: Watched) -> None:
    browser.allowed = lambda text: "status of 4" in text  # the browser's own line about the refusal
    hub.post("grid.alerts", [finding("outage", "T-past", Severity.WARNING)])
    page = live(browser.open(f"{hub.url}/#/alerts?q=T-past"))
    page.get_by_role("button", name="outage of transformer/T-past").click()
    form = page.get_by_role("form", name="Silence outage of transformer/T-past")
    form.get_by_label("Reason").fill("too late")
    form.get_by_label("Until, UTC").fill("2016-01-01T00:00")
    form.get_by_role("button", name="Silence").click()
    expect(page.get_by_test_id("said")).to_contain_text("ends in the future")
    expect(page.locator("tr[data-alert*='/T-past/']")).not_to_contain_text("silenced")


# Functions

APP = """
import azure.functions as func
app = func.FunctionApp()

@app.event_hub_message_trigger(arg_name="events", event_hub_name="in", connection="C", cardinality="many")
@app.event_hub_output(arg_name="$return", event_hub_name="out", connection="C")
def double(events) -> list:
    print("took", len(events))
    if any(event.get_body() == b'{"n":1}' for event in events):
        raise ValueError("<b>one</b> is none")
    return [event.get_body() for event in events]
"""


@pytest.fixture
def working_hub(tmp_path: Path) -> Iterator[RunningHub]:
    running = RunningHub(tmp_path / "data", flags=())
    running.start()
    yield running
    running.stop()


def test_a_deployed_app_is_watched_stopped_and_started(
    working_hub: RunningHub, browser: Watched, tmp_path: Path, gridwire_cli: Any
) -> None:
    hub = working_hub
    httpx.post(f"{hub.url}/v1/hubs", json={"name": "in", "partitions": 1}).raise_for_status()
    directory = tmp_path / "meters"
    directory.mkdir()
    (directory / "function_app.py").write_text(APP)
    page = live(browser.open(f"{hub.url}/#/functions"))
    expect(page.get_by_role("group", name="deploy command")).to_have_text("gridwire fn deploy DIRECTORY")
    gridwire_cli("fn", "deploy", str(directory), url=hub.url)
    panel = page.get_by_role("region", name="meters")
    expect(panel).to_contain_text("version 1, running")
    hub.post("in", [{"n": 1}, {"n": 2}])
    row = page.locator("tr[data-function=double]")
    expect(row.get_by_role("link", name="Dead letters of double")).to_have_text("1")
    expect(panel).to_contain_text("ValueError: <b>one</b> is none")
    panel.get_by_role("button", name="Log of meters").click()
    expect(page.get_by_role("group", name="Log of meters")).to_contain_text("took 2")
    tab_to(page, "Give again")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="1 event is given to double again.")).to_be_visible()
    expect(row.get_by_role("link", name="Dead letters of double")).to_have_text("2")
    panel.get_by_role("button", name="Stop meters").click()
    expect(panel).to_contain_text("version 1, stopped")
    hub.post("in", [{"n": 3}])
    expect(row.get_by_role("cell").nth(4)).to_have_text("1")
    panel.get_by_role("button", name="Start meters").click()
    expect(panel).to_contain_text("version 1, running")
    expect(row.get_by_role("cell").nth(4)).to_have_text("0")
    row.get_by_role("link", name="Dead letters of double").click()
    expect(page.get_by_test_id("events")).to_contain_text('{"n":1}')


def test_hosts_that_were_not_deployed_are_shown_and_cannot_be_stopped(hub: RunningHub, browser: Watched) -> None:
    report_app(hub.data, {"app": "mine", "workers": 2, "functions": [{"name": "g", "trigger": "timerTrigger"}]})
    page = live(browser.open(f"{hub.url}/#/functions"))
    panel = page.get_by_role("region", name="mine")
    expect(panel).to_contain_text("not deployed, running; 2 workers")
    expect(panel.get_by_role("button")).to_have_count(0)


# The message browser


def test_tail_pause_and_resume(hub: RunningHub, browser: Watched) -> None:
    hub.post("browser.tail", [{"n": 1}])
    page = live(browser.open(f"{hub.url}/#/hubs/browser.tail"))
    table = page.get_by_test_id("events")
    expect(table).to_contain_text('{"n":1}')
    page.get_by_role("button", name="Pause").click()
    hub.post("browser.tail", [{"n": 2}])
    expect(page.get_by_role("region", name="About")).to_contain_text("2 events")
    expect(page.get_by_role("group", name="Events").locator("tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Resume").click()
    expect(table).to_contain_text('{"n":2}')


def test_an_event_opens_to_indented_json(hub: RunningHub, browser: Watched) -> None:
    hub.post("browser.open", [{"a": {"b": [1, 2]}}], key="k-1")
    page = live(browser.open(f"{hub.url}/#/hubs/browser.open"))
    page.get_by_role("button", name="Event ").click()
    expect(page.get_by_test_id("value")).to_have_text(json.dumps({"a": {"b": [1, 2]}}, indent=2))


def test_a_hub_too_fast_for_eyes_is_sampled(hub: RunningHub, browser: Watched) -> None:
    hub.post("browser.flood", [{"n": 0}], key="k")
    page = live(browser.open(f"{hub.url}/#/hubs/browser.flood"))
    expect(page.get_by_test_id("events")).to_contain_text('{"n":0}')
    hub.post("browser.flood", [{"n": n} for n in range(1, 4001)], key="k")
    expect(page.get_by_test_id("skipped")).to_contain_text("came faster")
    expect(page.get_by_test_id("events")).to_contain_text('{"n":4000}')
    assert page.get_by_test_id("events").locator("tbody tr").count() <= 500


def test_reading_from_an_offset_pages_and_gives_a_command_that_works(hub: RunningHub, browser: Watched) -> None:
    httpx.post(f"{hub.url}/v1/hubs", json={"name": "browser.pages", "partitions": 2}).raise_for_status()
    events = [{"n": n} for n in range(250)]
    httpx.post(f"{hub.url}/v1/hubs/browser.pages/events?partition=1", json=events).raise_for_status()
    page = live(browser.open(f"{hub.url}/#/hubs/browser.pages?partition=1"))
    page.get_by_role("combobox", name="From").select_option("offset")
    page.get_by_role("textbox", name="Offset").fill("20")
    page.get_by_role("button", name="Show", exact=True).click()
    first = page.get_by_test_id("events").locator("tbody tr").first
    expect(first).to_contain_text('{"n":20}')
    command = page.get_by_role("group", name="curl command").inner_text()
    answer = subprocess.run(shlex.split(command), capture_output=True, check=True, timeout=30)
    assert [event["value"]["n"] for event in json.loads(answer.stdout)["events"]] == list(range(20, 120))
    page.get_by_role("button", name="Newer").click()
    expect(first).to_contain_text('{"n":120}')
    page.go_back()
    expect(first).to_contain_text('{"n":20}')


# Light and dark, phones, keyboards


def background(page: Page) -> int:
    """Brightness of the page's ground, 0 to 765."""
    text = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(int(part) for part in text.removeprefix("rgb(").removesuffix(")").split(","))


def test_the_theme_follows_the_system_until_somebody_chooses(hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(hub.url, color_scheme="dark"))
    assert background(page) < 150
    page.emulate_media(color_scheme="light")
    assert background(page) > 600
    page.get_by_role("button", name="Show the dark theme").click()
    assert background(page) < 150
    page.reload()
    assert background(live(page)) < 150
    page.get_by_role("button", name="Show the light theme").click()
    assert background(page) > 600


@pytest.mark.parametrize("width", [390, 320])
def test_no_view_is_wider_than_a_phone(hub: RunningHub, browser: Watched, width: int) -> None:
    page = browser.open(hub.url, viewport={"width": width, "height": 800})
    for view in (*VIEWS, "#/grid/T-calm"):
        report_app(hub.data, {"app": "app", "workers": 1, "functions": [FUNCTION]})
        page.goto(f"{hub.url}/{view}")
        live(page)
        expect(page.get_by_role("heading", level=1)).to_be_attached()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view


def test_everything_is_reached_with_the_keyboard(hub: RunningHub, browser: Watched) -> None:
    hub.post("keyboard", [{"pressed": "Enter"}])
    page = live(browser.open(hub.url))
    focused = "document.activeElement.textContent.trim()"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "Skip to the content"
    tab_to(page, "Hubs")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="Hubs")).to_be_focused()
    tab_to(page, "keyboard")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="keyboard")).to_be_focused()
    expect(page.get_by_test_id("events")).to_contain_text("pressed")
    tab_to(page, ":0")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("value")).to_contain_text('"pressed": "Enter"')
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (npm ci in src/gridwire/web/ui)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(hub: RunningHub, browser: Watched, scheme: str) -> None:
    page = browser.open(hub.url, color_scheme=scheme, bypass_csp=True)
    alert = f"#/alerts?alert={quote(finding('outage', 'T-over', Severity.CRITICAL)['id'], safe='')}"
    for view in (
        *VIEWS,
        alert,
        "#/grid/T-calm",
        "#/quarantine?frame=0%3A0",
        "#/hubs/grid.feeders?offset=0&partition=0",
    ):
        report_app(hub.data, {"app": "app", "workers": 1, "functions": [FUNCTION]})
        page.goto(f"{hub.url}/{view}")
        live(page)
        page.evaluate(AXE.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        assert [(view, one["id"], one["nodes"][0]["html"]) for one in found] == []


# What must never happen


def test_no_view_asks_another_host_or_complains(hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(hub.url))
    for view in VIEWS:
        page.goto(f"{hub.url}/{view}")
        live(page)
    asked = page.evaluate("performance.getEntriesByType('resource').map((entry) => new URL(entry.name).host)")
    assert set(asked) == {urlsplit(hub.url).netloc}


def test_the_watch_sees_a_policy_violation_and_a_foreign_request(hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(hub.url))
    page.evaluate("document.body.setAttribute('onclick', 'window.ran = 1'); document.body.click()")
    page.evaluate("fetch('http://localhost:1/').catch(() => 0)")
    until(lambda: len(browser.wrong) >= 2, "the violations are noted")
    assert page.evaluate("window.ran") is None
    browser.wrong.clear()


def test_no_event_runs_code(hub: RunningHub, browser: Watched) -> None:
    bad = '<img src=x onerror="window.ran=1"><script>window.ran=1</script>'
    hub.post("xss", [{bad: bad}], key=bad)
    hub.post("grid.transformers", [fact(bad, "07:45", 150.0)])
    hub.post("grid.feeders", [fact(f"{bad} f", "07:45", 15.0, kind="feeder", transformer=bad)])
    hub.quarantine(bad.encode(), reason=bad, form=bad, source="javascript:window.ran=1")
    page = live(browser.open(hub.url))
    expect(page.get_by_test_id("frames")).to_contain_text(bad)
    page.goto(f"{hub.url}/#/hubs/xss")
    expect(page.get_by_test_id("events")).to_contain_text(bad)
    page.get_by_role("button", name="Event ").click()
    expect(page.get_by_test_id("value")).to_contain_text("window.ran=1")
    page.goto(f"{hub.url}/#/grid/{quote(bad, safe='')}")
    expect(page.get_by_test_id("detail")).to_be_visible()
    page.goto(f"{hub.url}/#/quarantine?frame=javascript:window.ran=1")
    expect(page.get_by_test_id("quarantine")).to_contain_text(bad)
    assert page.evaluate("window.ran") is None
    assert page.locator("img").count() == 0


def test_tabs_share_the_browser_s_six_connections(hub: RunningHub, browser: Watched) -> None:
    context = browser.context()
    pages = [context.new_page() for _ in range(5)]
    for page in pages:
        page.goto(f"{hub.url}/#/grid")
    for page in pages:
        expect(page.locator("tr[data-unit='T-over']")).to_be_visible()


def test_a_hidden_tab_lets_go_of_its_connection(hub: RunningHub, browser: Watched) -> None:
    page = browser.context().new_page()
    page.clock.install()
    page.goto(hub.url)
    live(page)
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true})"
    changed = "document.dispatchEvent(new Event('visibilitychange'))"
    page.evaluate(f"{hide % 'true'}; {changed}")
    page.clock.fast_forward(25_000)
    expect(page.get_by_test_id("link")).to_have_text("paused")
    until(lambda: streams(hub) == 0, "the stream is closed")
    page.evaluate(f"{hide % 'false'}; {changed}")
    live(page)
    assert streams(hub) == 1


# The grid now and in the past


def grid_model(moved: str = "T-2", since: int = 0) -> network.Network:
    """Two substations; T-1 and T-2 hang on one feeder, T-3 has a feeder of its own. U2.0 hangs where `moved` says."""
    return network.Network(
        name="small",
        transformers=(
            network.Transformer(id="T-1", rated_kva=100.0, substation="S-1", lon=11.0, lat=53.0),
            network.Transformer(id="T-2", rated_kva=100.0, substation="S-1", lon=11.1, lat=53.0),
            network.Transformer(id="T-3", rated_kva=10.0, substation="S-2", lon=11.05, lat=53.1),
        ),
        feeders=(network.Feeder(id="MV"), network.Feeder(id="LV", transformer="T-3")),
        usage_points=(
            *(
                network.UsagePoint(id=id, transformer=moved if id == "U2.0" else f"T-{id[1]}", feeder="MV")
                for id in (f"U{t}.{i}" for t in (1, 2) for i in range(3))
            ),
            *(network.UsagePoint(id=f"U3.{i}", transformer="T-3", feeder="LV") for i in range(3)),
        ),
        valid_from=clock_of(since),
    )


def clock_of(interval: int) -> str:
    return f"{DAY}T{interval // 4:02}:{interval % 4 * 15:02}:00Z"


def readings_of(interval: int) -> list[dict[str, Any]]:
    return [
        {"usage_point": unit.id, "ts_end": clock_of(interval), "interval_s": 900, "reading_type": "import_kwh",
         "value": round(0.1 * interval + 0.01 * place, 3)}
        for place, unit in enumerate(grid_model().usage_points)
    ]  # fmt: skip


INTERVALS = range(4, 16)
MOVED = 12
"""U2.0 hangs on another transformer from the end of this interval on."""


@pytest.fixture(scope="module")
def grid_hub(tmp_path_factory: pytest.TempPathFactory, gridwire_cli: Any) -> Iterator[RunningHub]:
    """A hub with workers, three hours of readings, an outage that is over, and all of it in the lake."""
    running = RunningHub(tmp_path_factory.mktemp("grid") / "data", flags=("--lake-flush", "1", "--detectors", "none"))
    running.start()
    try:
        running.post("grid.network", [json.loads(network.to_json(grid_model()))])
        for interval in INTERVALS:
            running.post("readings", readings_of(interval), key="k")
        last = readings_of(INTERVALS[-1])[0]
        running.post("readings", [{**last, "value": 9.0, "version": 1}], key="k")
        estimate = {"usage_point": "U3.0", "quality": "3.8.4", "source": "gridwire.vee", "value": 1.25}
        running.post("readings", [{**last, "ts_end": clock_of(INTERVALS.stop), **estimate}], key="k")
        over = {**finding("outage", "T-2", Severity.CRITICAL), "state": "closed", "version": 1}
        running.post("grid.alerts", [{**over, "started": clock_of(8), "ended": clock_of(10)}])
        alone = {"customers": 1, "transformer": "T-3", "feeder": "LV"}
        point = {**over, "id": "outage/usage_point/U3.1", "subject_kind": "usage_point", "subject": "U3.1"}
        running.post("grid.alerts", [{**point, "started": clock_of(8), "ended": clock_of(12), "evidence": alone}])
        until(lambda: len(lake(running, gridwire_cli, "select * from readings")) == len(INTERVALS) * 9 + 2, "captured")
        sums = "select ts_end from \"grid.transformers\" where transformer = 'T-1' and import_kwh > 9"
        until(lambda: len(lake(running, gridwire_cli, sums)) == 1, "loads are in the lake")
        newest = f"select ts_end from \"grid.transformers\" where ts_end = TIMESTAMPTZ '{clock_of(INTERVALS.stop)}'"
        until(lambda: bool(lake(running, gridwire_cli, newest)), "the estimate is summed")
        running.post("grid.network", [json.loads(network.to_json(grid_model("T-1", MOVED)))])
        four = "select ts_end from \"grid.transformers\" where transformer = 'T-1' and count = 4"
        until(lambda: len(lake(running, gridwire_cli, four)) == INTERVALS[-1] - MOVED, "sums follow the usage point")
        yield running
    finally:
        running.stop()


def lake(hub: RunningHub, gridwire_cli: Any, sql: str) -> list[dict[str, Any]]:
    answer = gridwire_cli("sql", sql, "--data", str(hub.data), "-o", "json", check=False)
    rows: list[dict[str, Any]] = json.loads(answer.stdout) if answer.returncode == 0 else []
    return rows


def loads_in_the_lake(hub: RunningHub, gridwire_cli: Any, interval: int) -> dict[str, str]:
    """Load of every transformer at the end of an interval, as the page spells it."""
    rows = lake(
        hub, gridwire_cli,
        f"select transformer, arg_max(load_kw, version) as kw from \"grid.transformers\" "
        f"where ts_end = TIMESTAMPTZ '{clock_of(interval)}' group by 1",
    )  # fmt: skip
    return {row["transformer"]: f"{row['kw']:.1f} kW" for row in rows}


def loads_on_the_page(page: Page) -> dict[str, str]:
    rows = page.locator("[data-node^='transformer/']")
    return {row.locator(".name").inner_text(): row.locator(".load").inner_text().split(",")[0] for row in rows.all()}


def test_the_page_shows_any_time_as_the_lake_has_it(grid_hub: RunningHub, browser: Watched, gridwire_cli: Any) -> None:
    page = live(browser.open(f"{grid_hub.url}/#/grid"))
    expect(page.locator("[data-node='transformer/T-2']")).to_be_visible()
    for interval in (INTERVALS[-1], 9, INTERVALS[0]):
        page.goto(f"{grid_hub.url}/#/grid?at={clock_of(interval)}")
        expect(page.get_by_test_id("grid-time")).to_have_text(f"{clock_of(interval)[:16].replace('T', ' ')} UTC")
        wanted = loads_in_the_lake(grid_hub, gridwire_cli, interval)
        assert len(wanted) == 3
        until(lambda wanted=wanted: loads_on_the_page(page) == wanted, "the page has the loads of the lake")
        row = page.locator("tr[data-unit='T-1']")
        assert f"{row.locator('td.strong').inner_text()} kW" == wanted["T-1"]


def test_an_outage_of_the_past_is_shown_while_it_lasted(grid_hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(f"{grid_hub.url}/#/grid?at={clock_of(9)}"))
    transformer = page.locator("[data-node='transformer/T-2']")
    expect(transformer).to_contain_text("outage 97 %, 13 customers")
    expect(page.get_by_test_id("findings")).to_contain_text("T-2")
    expect(page.get_by_test_id("offsets").get_by_role("link").first).to_be_visible()
    page.get_by_role("button", name="One interval on").click()
    expect(page).to_have_url(f"{grid_hub.url}/#/grid?at={quote(clock_of(10))}")
    expect(transformer).not_to_contain_text("outage")
    page.get_by_role("button", name="Live").click()
    expect(page).to_have_url(f"{grid_hub.url}/#/grid")
    expect(page.get_by_test_id("offsets")).to_have_count(0)


def test_a_usage_point_without_supply_leads_to_its_readings(grid_hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(f"{grid_hub.url}/#/grid?at={clock_of(11)}"))
    expect(page.locator("[data-node='transformer/T-3']")).to_contain_text("1 outage below")
    page.get_by_test_id("findings").get_by_role("link", name="U3.1").click()
    expect(page).to_have_url(f"{grid_hub.url}/#/grid/T-3?at={quote(clock_of(11))}&point=U3.1")
    expect(page.get_by_role("region", name="Readings of U3.1")).to_be_visible()
    expect(page.get_by_test_id("usage-points").get_by_role("row", name="U3.1")).to_contain_text("outage")


def test_time_and_diagram_move_with_the_keyboard(grid_hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(f"{grid_hub.url}/#/grid?at={clock_of(9)}"))
    shown = page.get_by_test_id("shown-time")
    expect(shown).to_contain_text("02:15")
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(f"{grid_hub.url}/#/grid?at={quote(clock_of(10))}")
    page.get_by_label("Grid time").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page).to_have_url(f"{grid_hub.url}/#/grid?at={quote(clock_of(8))}")
    page.get_by_test_id("one-line").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-node='feeder/LV']")).to_be_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{grid_hub.url}/#/grid/LV?at={quote(clock_of(8))}")
    expect(page.get_by_role("img", name="Load of LV")).to_be_visible()


def test_the_map_selects_what_is_clicked(grid_hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(f"{grid_hub.url}/#/grid?at={clock_of(9)}"))
    canvas = page.get_by_test_id("map").locator("canvas")
    expect(page.get_by_role("img", name="Map of 3 transformers")).to_be_visible()
    box = canvas.bounding_box()
    assert box is not None
    canvas.click(position={"x": box["width"] / 2, "y": 40})  # in the middle of the northern edge
    expect(page).to_have_url(f"{grid_hub.url}/#/grid/T-3?at={quote(clock_of(9))}")
    expect(page.get_by_test_id("detail")).to_be_visible()
    page.get_by_role("button", name="Closer").click()
    canvas.click(position={"x": box["width"] / 2, "y": 160})  # the selected one is in the middle now
    expect(page).to_have_url(f"{grid_hub.url}/#/grid?at={quote(clock_of(9))}")


def test_readings_tell_estimates_and_versions_apart(grid_hub: RunningHub, browser: Watched, gridwire_cli: Any) -> None:
    at = clock_of(INTERVALS.stop)
    page = live(browser.open(f"{grid_hub.url}/#/grid/T-3?at={at}"))
    page.get_by_role("link", name="U3.0").click()
    table = page.get_by_test_id("readings")
    expect(table.locator("tbody tr")).to_have_count(len(INTERVALS) + 1)
    expect(table.locator("tr.estimate")).to_contain_text("estimated (3.8.4)")
    expect(page.get_by_role("img", name="12 measured and 1 estimated")).to_be_visible()
    told = [float(cell) for cell in table.locator("td.value").all_inner_texts()]
    sql = "select value from readings_current where usage_point = 'U3.0' order by ts_end desc"
    assert told == [row["value"] for row in lake(grid_hub, gridwire_cli, sql)]
    page.goto(f"{grid_hub.url}/#/grid/T-1?at={at}&point=U1.0")
    expect(table.locator("tbody tr").first).to_contain_text("9")
    page.get_by_label("Every version").check()
    expect(table.locator("tr.past")).to_contain_text("replaced")
    expect(table.locator("tbody tr")).to_have_count(len(INTERVALS) + 1)


def test_the_network_is_that_of_the_time_that_is_looked_at(grid_hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(f"{grid_hub.url}/#/grid/T-1?at={clock_of(MOVED)}"))
    points = page.get_by_test_id("usage-points").locator("tbody th")
    expect(points).to_have_text(["U1.0", "U1.1", "U1.2"])
    expect(page.get_by_test_id("detail")).to_contain_text("3 of 3")
    marks = page.get_by_test_id("network-changes").locator("option")
    expect(marks).to_have_attribute("value", str(MOVED + 1 - INTERVALS[0]))
    diagram = page.get_by_role("region", name="One-line diagram")
    expect(diagram).not_to_contain_text("valid from")
    page.get_by_role("button", name="One interval on").click()
    expect(points).to_have_text(["U1.0", "U1.1", "U1.2", "U2.0"])
    expect(page.get_by_test_id("detail")).to_contain_text("4 of 4")
    expect(diagram).to_contain_text(f"valid from {clock_of(MOVED)[:16].replace('T', ' ')} UTC")
    page.get_by_role("button", name="One interval back").click()
    expect(points).to_have_text(["U1.0", "U1.1", "U1.2"])
    page.get_by_role("button", name="Live").click()
    expect(points).to_have_text(["U1.0", "U1.1", "U1.2", "U2.0"])


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (npm ci in src/gridwire/web/ui)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_the_past(grid_hub: RunningHub, browser: Watched, scheme: str) -> None:
    page = browser.open(grid_hub.url, color_scheme=scheme, bypass_csp=True)
    for view in (f"#/grid?at={clock_of(9)}", f"#/grid/T-1?at={clock_of(15)}&point=U1.0"):
        page.goto(f"{grid_hub.url}/{view}")
        live(page)
        expect(page.get_by_test_id("offsets")).to_be_visible()
        page.evaluate(AXE.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        assert [(view, one["id"], one["nodes"][0]["html"]) for one in found] == []
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, view
        page.set_viewport_size({"width": 1280, "height": 900})


def test_thousands_of_transformers_draw_what_is_in_sight(own_hub: RunningHub, browser: Watched) -> None:
    many = network.Network(
        name="large",
        transformers=tuple(
            network.Transformer(id=f"T{i}", rated_kva=100.0, substation=f"S{i % 4}") for i in range(4000)
        ),
        feeders=tuple(network.Feeder(id=f"F{i}") for i in range(400)),
        usage_points=tuple(
            network.UsagePoint(id=f"U{i}", transformer=f"T{i}", feeder=f"F{i % 400}") for i in range(4000)
        ),
    )
    for part in to_events(many):
        own_hub.post("grid.network", [json.loads(part)])
    page = live(browser.open(f"{own_hub.url}/#/grid"))
    tree = page.get_by_test_id("one-line")
    tree.focus()
    page.keyboard.press("End")
    expect(page.locator("[data-node='feeder/F399']")).to_be_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    expect(tree.get_by_role("treeitem").first).to_be_visible()
    assert tree.get_by_role("treeitem").count() < 60
    page.keyboard.press("End")
    expect(page.locator("[data-node='transformer/T3999']")).to_be_visible()


def test_colours_tell_voltages_where_somebody_asks_for_them(own_hub: RunningHub, browser: Watched) -> None:
    names = {"T-mid": 1.012, "T-high": 1.07, "T-low": 0.93, "T-far": 1.13, "T-mute": None}
    model = network.Network(
        name="volts",
        transformers=tuple(network.Transformer(id=name, rated_kva=100.0, substation="S") for name in names),
        feeders=(network.Feeder(id="F"),),
        usage_points=tuple(network.UsagePoint(id=f"U {name}", transformer=name, feeder="F") for name in names),
    )
    own_hub.post("grid.network", [json.loads(network.to_json(model))])
    told = {"ts_end": "2026-01-01T00:00:00Z", "load_factor": 0.5, "hot_spot_c": 60.0, "ageing_factor": 0.1,
            "loss_of_life_h": 1.0, "signature": "", "risk": 0.0}  # fmt: skip
    own_hub.post("grid.health", [{"transformer": name, "voltage_pu": pu} | told for name, pu in names.items()])
    page = live(browser.open(f"{own_hub.url}/#/grid"))
    tree = page.get_by_test_id("one-line")
    page.get_by_label("Colours").select_option("voltage")
    expect(page).to_have_url(f"{own_hub.url}/#/grid?paint=voltage")
    expect(tree.locator("g.device.over")).to_have_count(1)
    tones = {"T-mid": "normal", "T-high": "high", "T-low": "export", "T-far": "over", "T-mute": "unrated"}
    for name, tone in tones.items():
        row = page.locator(f"[data-node='transformer/{name}']")
        expect(row.locator(".load")).to_have_class(re.compile(tone))
        expect(row.locator(".load")).to_have_text(f"{names[name]:.3f} pu" if names[name] else "")
    expect(page.get_by_role("list", name="Key")).to_contain_text("up to 10 % below")
    page.get_by_label("Colours").select_option("load")
    expect(page).to_have_url(f"{own_hub.url}/#/grid")


# The hub dies and comes back


def test_the_page_recovers_when_a_killed_hub_is_back(own_hub: RunningHub, browser: Watched) -> None:
    browser.allowed = lambda text: "net::ERR_" in text  # whatever a request met that the kill cut off
    own_hub.post("grid.transformers", [fact("T-before", "07:45", 150.0)])
    page = live(browser.open(f"{own_hub.url}/#/grid"))
    row = page.locator("tr[data-unit='T-before']")
    expect(row).to_be_visible()

    own_hub.stop(signal.SIGKILL)
    expect(page.get_by_test_id("banner")).to_contain_text("Reconnecting")
    expect(page.get_by_test_id("link")).to_have_text("reconnecting")
    expect(row).to_be_visible()

    own_hub.start()
    expect(page.get_by_test_id("banner")).to_have_count(0)
    live(page)
    own_hub.post("grid.transformers", [fact("T-after", "07:45", 20.0)])
    expect(page.locator("tr[data-unit='T-after']")).to_be_visible()
    expect(row).to_be_visible()


def test_the_page_notices_a_hub_that_hangs(own_hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(own_hub.url))
    assert own_hub.process is not None
    own_hub.process.send_signal(signal.SIGSTOP)
    try:
        expect(page.get_by_test_id("banner")).to_contain_text("Reconnecting")
    finally:
        own_hub.process.send_signal(signal.SIGCONT)
    live(page)
    expect(page.get_by_test_id("banner")).to_have_count(0)
