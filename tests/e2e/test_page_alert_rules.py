"""Alert rules on the page: made, tried, watched, changed and removed, in a real browser over a real worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from page import AXE, CHROMIUM, RunningHub, Watched, live, tab_to, tab_to_label

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"), pytest.mark.timeout(240)]

WAIT_MS = 60_000


@pytest.fixture
def rule_hub(tmp_path: Path) -> Iterator[RunningHub]:
    running = RunningHub(tmp_path / "data", flags=("--lake-flush", "1"))
    running.start()
    try:
        httpx.post(f"{running.url}/v1/hubs", json={"name": "volts", "partitions": 1}).raise_for_status()
        running.post("volts", [{"up": "u1", "v": 190}, {"up": "u2", "v": 230}])
        yield running
    finally:
        running.stop()


@pytest.fixture
def signed_hub(tmp_path: Path) -> Iterator[RunningHub]:
    running = RunningHub(tmp_path / "data", flags=("--no-workers", "--auth"))
    running.start()
    yield running
    running.stop()


def opened(browser: Watched, hub: RunningHub, **more: object) -> Page:
    page = live(browser.open(f"{hub.url}/#/alerts", **more))
    expect(page.get_by_role("heading", name="Rules", exact=True)).to_be_visible()
    return page


def row(page: Page, name: str) -> Locator:
    return page.get_by_test_id("rules").locator(f"tr[data-rule={name}]")


def test_a_threshold_is_tried_made_changed_and_removed(rule_hub: RunningHub, browser: Watched) -> None:
    page = opened(browser, rule_hub)
    expect(page.get_by_text("No rules. A rule opens an alert")).to_be_visible()
    tab_to(page, "Make a rule")
    page.keyboard.press("Enter")
    for label, text in (("Name", "low"), ("Hub", "volts"), ("Field", "v"), ("Value", "210"), ("Subject", "up")):
        tab_to_label(page, label)
        page.keyboard.type(text)
    form = page.get_by_role("form", name="New rule")
    form.get_by_role("combobox", name="Is", exact=True).select_option("<")
    form.get_by_label("What to do").fill("look at the fuse")
    form.get_by_role("button", name="Try").click()
    trial = page.get_by_test_id("trial")
    expect(trial).to_contain_text("low would have opened 1 alert, 1 of them still open; 2 events", timeout=WAIT_MS)
    expect(trial).to_contain_text("up/u1")
    form.get_by_role("button", name="Make").click()
    expect(page.get_by_test_id("rules-said")).to_contain_text("Rule low is made")
    expect(row(page, "low")).to_contain_text("volts: v < 210")
    expect(row(page, "low")).to_contain_text("running", timeout=WAIT_MS)
    rule_hub.post("volts", [{"up": "u3", "v": 200}])
    found = page.get_by_test_id("alerts").locator("tbody tr").first
    expect(found).to_contain_text("rule.low", timeout=WAIT_MS)
    expect(found).to_contain_text("u3")
    found.get_by_role("button").click()
    expect(page.get_by_test_id("evidence")).to_contain_text("look at the fuse")
    expect(row(page, "low").locator("td.num").first).to_have_text("1", timeout=WAIT_MS)

    row(page, "low").get_by_role("button", name="Change rule low").click()
    form = page.get_by_role("form", name="Change rule low")
    expect(form.get_by_label("Value", exact=True)).to_have_value("210")
    form.get_by_label("Value", exact=True).fill("100")
    form.get_by_role("button", name="Change").click()
    expect(row(page, "low")).to_contain_text("volts: v < 100")
    expect(page.get_by_text("Nothing is open.")).to_be_visible(timeout=WAIT_MS)

    row(page, "low").get_by_role("button", name="Remove rule low").click()
    page.get_by_role("button", name="Remove rule low").click()
    expect(page.get_by_text("No rules. A rule opens an alert")).to_be_visible()


def test_a_question_that_fails_says_so_and_everybody_can_use_the_form(rule_hub: RunningHub, browser: Watched) -> None:
    phone = {"width": 320, "height": 800}
    page = opened(browser, rule_hub, color_scheme="dark", bypass_csp=True, viewport=phone)
    page.get_by_text("Make a rule").click()
    form = page.get_by_role("form", name="New rule")
    form.get_by_label("Type").select_option("sql")
    form.get_by_label("Name").fill("many")
    form.get_by_label("Query").fill("select * from nowhere")
    form.get_by_role("button", name="Try").click()
    expect(page.get_by_test_id("trial")).to_contain_text("nowhere", timeout=WAIT_MS)
    form.get_by_role("button", name="Make").click()
    expect(row(page, "many")).to_contain_text("failing", timeout=WAIT_MS)
    expect(row(page, "many")).to_contain_text("nowhere")
    expect(page.get_by_test_id("alerts")).to_contain_text("rule.failed", timeout=WAIT_MS)
    assert page.evaluate("document.documentElement.scrollWidth") <= phone["width"]
    if AXE.exists():  # npm ci in src/gridwire/web/ui
        page.evaluate(AXE.read_text(encoding="utf-8"))
        assert page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"] == []
    browser.allowed = lambda text: "400" in text
    form = page.get_by_role("form", name="New rule")
    form.get_by_label("Name").fill("again")
    form.get_by_label("Type").select_option("threshold")
    form.get_by_role("combobox", name="Hub", exact=True).fill("volts")
    form.get_by_label("Field").fill("v")
    form.get_by_label("Value", exact=True).fill("much")
    form.get_by_role("button", name="Make").click()
    expect(page.get_by_test_id("rules-said")).to_contain_text("compares numbers")


def test_who_may_not_is_told_what_it_takes(signed_hub: RunningHub, browser: Watched) -> None:
    root = _name_and_key((signed_hub.data / "root.connection-string").read_text())
    policy = {"name": "looks", "rights": ["Listen"]}
    made = httpx.post(f"{signed_hub.url}/v1/policies", json=policy, auth=root).raise_for_status().json()
    credentials = {"username": "looks", "password": made["primary_key"]}
    page = opened(browser, signed_hub, http_credentials=credentials)
    page.get_by_text("Make a rule").click()
    expect(page.get_by_role("button", name="Make", exact=True)).to_be_disabled()
    expect(page.get_by_text("This takes Manage on the hub grid.alerts.")).to_be_visible()


def _name_and_key(connection: str) -> tuple[str, str]:
    parts = dict(part.split("=", 1) for part in connection.strip().split(";") if part)
    return parts["SharedAccessKeyName"], parts["SharedAccessKey"]
