"""Routes of alerts in a real browser: added, tested, seen to fail and to work again, removed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Page, expect

from gridwire.core.batch import encode
from gridwire.grid.findings import Finding, Severity
from page import AXE, CHROMIUM, RunningHub, Watched, live, tab_to
from webhook_receiver import Receiver, answering

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    running = RunningHub(tmp_path_factory.mktemp("routes") / "data", flags=())
    running.start()
    httpx.post(f"{running.url}/v1/hubs", json={"name": "grid.alerts", "partitions": 1}).raise_for_status()
    yield running
    running.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver(agrees=True)
    yield made
    made.close()


def tell(hub: RunningHub, subject: str) -> None:
    found = Finding(
        kind="outage", subject_kind="transformer", subject=subject, started_us=1_767_225_600_000_000,
        severity=Severity.CRITICAL, confidence=0.9, detector="outages",
    )  # fmt: skip
    kind = {"content-type": "application/vnd.gridwire.batch"}
    content = bytes(encode([found.to_event(int(time.time() * 1000))]))
    httpx.post(f"{hub.url}/v1/hubs/grid.alerts/events", content=content, headers=kind).raise_for_status()


def opened(browser: Watched, hub: RunningHub, **more: object) -> Page:
    page = live(browser.open(f"{hub.url}/#/alerts", **more))
    expect(page.get_by_role("heading", name="Routes")).to_be_visible()
    return page


def test_a_route_is_added_tested_seen_to_fail_and_removed_with_the_keyboard(
    hub: RunningHub, browser: Watched, receiver: Receiver
) -> None:
    page = opened(browser, hub)
    expect(page.get_by_text("No alert is delivered to anybody.")).to_be_visible()
    tab_to(page, "Add a route")
    page.keyboard.press("Enter")
    page.get_by_label("Name", exact=True).fill("ops")
    page.get_by_label("Address").fill(receiver.url)
    page.get_by_label("Secret header").fill("Authorization: Bearer told-once")
    page.get_by_role("button", name="Add route", exact=True).click()
    expect(page.get_by_test_id("said")).to_have_text("The route ops delivers from now on.")
    row = page.get_by_test_id("routes").get_by_role("row", name="ops")
    expect(row).to_contain_text("everything")
    page.get_by_role("button", name="Test route ops").click()
    expect(page.get_by_test_id("said")).to_contain_text("The sample arrived: the receiver answered 200")
    assert receiver.asked[-1].headers["authorization"] == "Bearer told-once"

    receiver.always(answering(503, body=b"closed for lunch"))
    page.get_by_role("button", name="Test route ops").click()
    expect(page.get_by_test_id("said")).to_contain_text("was not taken: the receiver answered 503")
    tell(hub, "T1")
    expect(row).to_contain_text("failing")
    expect(row).to_contain_text("the receiver answered 503: closed for lunch")
    cells = row.get_by_role("cell")
    expect(cells.nth(2)).to_have_text("1")
    receiver.always(answering(200))
    expect(cells.nth(3)).to_have_text("1")
    expect(cells.nth(2)).to_have_text("0")
    expect(cells.nth(1)).to_have_text("on")

    page.get_by_role("button", name="Remove route ops").click()
    page.get_by_role("button", name="Remove route ops").click()
    expect(page.get_by_test_id("said")).to_have_text("The route ops is removed.")
    expect(page.get_by_text("No alert is delivered to anybody.")).to_be_visible()
    assert "told-once" not in page.content()


def test_a_receiver_that_does_not_agree_is_said_and_leaving_the_question_out_is_warned_of(
    hub: RunningHub, browser: Watched
) -> None:
    browser.allowed = lambda text: "status of 400" in text  # the browser's own line about the refusal
    other = Receiver()
    other.always(answering(404))
    try:
        page = opened(browser, hub)
        page.get_by_role("button", name="Add a route").click()
        page.get_by_label("Name", exact=True).fill("chat")
        page.get_by_label("Address").fill(other.url)
        page.get_by_role("button", name="Add route", exact=True).click()
        expect(page.get_by_test_id("said")).to_contain_text("handshake")
        page.get_by_label("ask the receiver first").uncheck()
        expect(page.get_by_text("without having been asked")).to_be_visible()
        page.get_by_role("combobox", name="As", exact=True).select_option("text")
        page.get_by_role("button", name="Add route", exact=True).click()
        expect(page.get_by_test_id("said")).to_have_text("The route chat delivers from now on.")
        httpx.delete(f"{hub.url}/v1/alert-routes/chat").raise_for_status()
    finally:
        other.close()


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (npm ci in src/gridwire/web/ui)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_phones_are_wide_enough(
    hub: RunningHub, browser: Watched, receiver: Receiver, scheme: str
) -> None:
    phone = {"width": 320, "height": 800}
    body = {"name": "ops", "url": receiver.url, "kind": "voltage.*", "states": ["opened"]}
    httpx.post(f"{hub.url}/v1/alert-routes", json=body).raise_for_status()
    try:
        page = opened(browser, hub, color_scheme=scheme, bypass_csp=True, viewport=phone)
        expect(page.get_by_test_id("routes")).to_contain_text("voltage.*; opened")
        page.get_by_role("button", name="Add a route").click()
        page.get_by_label("ask the receiver first").uncheck()
        assert page.evaluate("document.documentElement.scrollWidth") <= phone["width"]
        page.evaluate(AXE.read_text(encoding="utf-8"))
        assert page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"] == []
    finally:
        httpx.delete(f"{hub.url}/v1/alert-routes/ops").raise_for_status()
