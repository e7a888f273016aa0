"""Consumer groups on the page: who reads, how far behind, and reading again, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from confluent_kafka import Consumer
from playwright.sync_api import Locator, Page, expect

from page import AXE, CHROMIUM, RunningHub, Watched, live, tab_to

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    running = RunningHub(tmp_path_factory.mktemp("groups") / "data")
    running.start()
    try:
        httpx.post(f"{running.url}/v1/hubs", json={"name": "plant", "partitions": 2}).raise_for_status()
        for partition in range(2):
            path = f"{running.url}/v1/hubs/plant/events?partition={partition}"
            httpx.post(path, json=[{"n": n} for n in range(20)]).raise_for_status()
        yield running
    finally:
        running.stop()


def positions(hub: RunningHub, group: str) -> list[int]:
    found = httpx.get(f"{hub.url}/v1/groups/{group}").raise_for_status().json()
    return [row["position"] for row in found["partitions"]]


def commit(hub: RunningHub, group: str, offset: int) -> None:
    httpx.post(f"{hub.url}/v1/groups/{group}/reset", json={"hub": "plant", "to": offset}).raise_for_status()


def opened(browser: Watched, hub: RunningHub, group: str) -> tuple[Page, Locator]:
    page = live(browser.open(f"{hub.url}/#/hubs"))
    page.get_by_role("button", name=group, exact=True).click()
    return page, page.get_by_role("form", name=f"Reset group {group}")


@pytest.mark.parametrize(
    ("to", "field", "typed", "said", "after"),
    [
        ("earliest", None, "", "5 events again", 0),
        ("latest", None, "", "15 events passed over", 20),
        ("offset", "Offset", "7", "2 events passed over", 7),
        ("time", "Time, UTC", "2020-01-01T00:00:00", "5 events again", 0),
    ],
)
def test_a_reset_shows_what_changes_and_then_does_it(
    hub: RunningHub, browser: Watched, to: str, field: str | None, typed: str, said: str, after: int
) -> None:
    commit(hub, "billing", 5)
    page, form = opened(browser, hub, "billing")
    form.get_by_role("combobox", name="from", exact=True).select_option(to)
    if field is not None:
        form.get_by_role("textbox", name=field).fill(typed)
    form.get_by_role("button", name="Show what changes").click()
    expect(page.get_by_test_id("plan").locator("tbody tr")).to_have_count(2)
    expect(page.get_by_test_id("plan")).to_contain_text(said)
    assert positions(hub, "billing") == [5, 5]
    page.get_by_role("button", name="Reset group billing").click()
    expect(page.get_by_test_id("reset")).to_contain_text("Group billing now reads plant from")
    assert positions(hub, "billing") == [after, after]


def test_one_partition_is_reset_with_the_keyboard(hub: RunningHub, browser: Watched) -> None:
    commit(hub, "typist", 5)
    page = live(browser.open(f"{hub.url}/#/hubs"))
    tab_to(page, "typist")
    page.keyboard.press("Enter")
    expect(page.get_by_role("form", name="Reset group typist")).to_be_visible()
    tab_to(page, "all01")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    tab_to(page, "Show what changes")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("plan").locator("tbody tr")).to_have_count(1)
    tab_to(page, "Reset group typist")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("reset")).to_contain_text("Group typist now reads plant from earliest")
    assert positions(hub, "typist") == [5, 0]


def test_what_a_person_leaves_stays(hub: RunningHub, browser: Watched) -> None:
    commit(hub, "kept", 5)
    page, form = opened(browser, hub, "kept")
    form.get_by_role("button", name="Show what changes").click()
    page.get_by_role("button", name="Leave it as it is").click()
    expect(page.get_by_test_id("plan")).to_have_count(0)
    assert positions(hub, "kept") == [5, 5]


def test_an_offset_that_is_not_there_is_refused_in_a_sentence(hub: RunningHub, browser: Watched) -> None:
    browser.allowed = lambda text: "400" in text
    commit(hub, "beyond", 5)
    page, form = opened(browser, hub, "beyond")
    form.get_by_role("combobox", name="from", exact=True).select_option("offset")
    form.get_by_role("textbox", name="Offset").fill("999")
    form.get_by_role("button", name="Show what changes").click()
    expect(page.get_by_test_id("reset")).to_contain_text("has offsets 0 to 20, not 999")


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (npm ci in src/gridwire/web/ui)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_a_phone_is_wide_enough(hub: RunningHub, browser: Watched, scheme: str) -> None:
    commit(hub, "small", 5)
    phone = {"width": 320, "height": 800}
    page = live(browser.open(f"{hub.url}/#/hubs", color_scheme=scheme, bypass_csp=True, viewport=phone))
    page.get_by_role("button", name="small", exact=True).click()
    page.get_by_role("button", name="Show what changes").click()
    expect(page.get_by_test_id("plan")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= phone["width"]
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []


def test_a_group_with_members_shows_them_and_is_not_reset(hub: RunningHub, browser: Watched) -> None:
    settings = {"bootstrap.servers": f"127.0.0.1:{hub.kafka_port}", "group.id": "busy", "client.id": "reader-7"}
    consumer = Consumer({**settings, "auto.offset.reset": "earliest"})
    try:
        consumer.subscribe(["plant"])
        assert len(consumer.consume(40, 30)) == 40
        consumer.commit(asynchronous=False)
        page, form = opened(browser, hub, "busy")
        expect(page.get_by_test_id("groups")).to_contain_text("member reader-7 on 127.0.0.1: plant 0, 1")
        expect(form).to_contain_text("Group busy has 1 member: stop it, then reset the group.")
        expect(form.get_by_role("button", name="Show what changes")).to_be_disabled()
    finally:
        consumer.close()
    expect(form.get_by_role("button", name="Show what changes")).to_be_enabled()
