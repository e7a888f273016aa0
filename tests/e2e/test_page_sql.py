"""The SQL view in a real browser, over a real lake."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.parquet
import pytest
from playwright.sync_api import Locator, Page, expect

from page import AXE, CHROMIUM, RunningHub, Watched, live, tab_to_label, until

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

EVENTS = 3000
QUESTION = "select timestamp, (value_text->>'kw')::double as kw, key_text from site order by timestamp"


@pytest.fixture(scope="module")
def lake_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    running = RunningHub(tmp_path_factory.mktemp("sql") / "data", flags=("--lake-flush", "1"))
    running.start()
    try:
        made = {"name": "site", "partitions": 1, "settings": {"capture": "events"}}
        httpx.post(f"{running.url}/v1/hubs", json=made).raise_for_status()
        running.post("site", [{"kw": n / 4} for n in range(EVENTS)], key="m-1")

        def captured() -> bool:
            told = httpx.post(f"{running.url}/v1/sql", json={"query": "select count(*) from site"}, timeout=60)
            return told.status_code == 200 and told.json()["rows"] == [[EVENTS]]

        until(captured, "the events are in the lake")
        yield running
    finally:
        running.stop()


def opened(browser: Watched, hub: RunningHub, query: str = "", **more: object) -> Page:
    page = live(browser.open(f"{hub.url}/#/sql{query}", **more))
    expect(page.get_by_role("heading", name="SQL", exact=True)).to_be_visible()
    return page


def test_a_question_is_asked_with_the_keyboard_and_only_rows_in_sight_are_drawn(
    lake_hub: RunningHub, browser: Watched
) -> None:
    page = opened(browser, lake_hub)
    tab_to_label(page, "SQL")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_test_id("said")).to_contain_text("3,000 rows in")
    rows = page.get_by_test_id("answer").locator("tbody tr:not([aria-hidden])")
    assert rows.count() < 60
    expect(rows.first).to_contain_text("m-1")
    box = page.get_by_role("group", name="Answer")
    box.evaluate("box => box.scrollTop = box.scrollHeight")
    expect(rows.last).to_contain_text(str((EVENTS - 1) / 4))
    assert rows.count() < 60
    assert "q=select" in page.url
    expect(page.get_by_role("group", name="curl command")).to_contain_text("v1/sql")


def test_an_address_asks_its_question_and_draws_it(lake_hub: RunningHub, browser: Watched) -> None:
    query = httpx.QueryParams({"q": QUESTION, "chart": "1"})
    page = opened(browser, lake_hub, f"?{query}")
    expect(page.get_by_role("img", name="kw over time")).to_be_visible()
    page.get_by_label("Chart").uncheck()
    expect(page.get_by_role("img", name="kw over time")).to_have_count(0)
    until(lambda: "chart" not in page.url, "the address forgets the chart")


def test_tables_and_columns_go_where_the_cursor_is(lake_hub: RunningHub, browser: Watched) -> None:
    page = opened(browser, lake_hub)
    page.get_by_text("Tables", exact=True).click()
    page.get_by_label("SQL", exact=True).fill("select count(*) from ")
    page.get_by_role("button", name="site", exact=True).click()
    expect(page.get_by_label("SQL", exact=True)).to_have_value("select count(*) from site")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_test_id("answer")).to_contain_text(str(EVENTS))


def offers(page: Page) -> Locator:
    return page.get_by_role("listbox", name="Completions").get_by_role("option")


def test_words_are_completed_from_the_lake(lake_hub: RunningHub, browser: Watched) -> None:
    page = opened(browser, lake_hub)
    box = page.get_by_label("SQL", exact=True)
    tab_to_label(page, "SQL")
    page.keyboard.type("select count(*) from ")
    expect(offers(page).filter(has_text=re.compile("^site"))).to_have_count(1)
    page.keyboard.type("si")
    page.keyboard.press("Tab")
    expect(box).to_have_value("select count(*) from site")
    expect(box).to_be_focused()
    expect(page.get_by_role("listbox", name="Completions")).to_be_hidden()
    page.keyboard.type(" s where s.val")
    expect(offers(page).first).to_have_text(re.compile("^value"))
    page.keyboard.press("ArrowDown")
    chosen = box.get_attribute("aria-activedescendant")
    assert chosen and page.locator(f"#{chosen}").get_attribute("aria-selected") == "true"
    page.keyboard.press("Enter")
    expect(box).to_have_value(re.compile(r"select count\(\*\) from site s where s\.value"))
    box.fill("select off from site")
    box.evaluate("box => box.setSelectionRange(10, 10)")
    page.keyboard.press("Control+Space")
    expect(offers(page).first).to_have_text(re.compile('^"offset"'))
    box.fill("select 'si")
    expect(page.get_by_role("listbox", name="Completions")).to_be_hidden()
    box.fill("select c")
    expect(offers(page).first).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("listbox", name="Completions")).to_be_hidden()
    page.keyboard.press("Control+Space")
    expect(offers(page).first).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    expect(box).not_to_be_focused()


def test_names_and_numbers_are_drawn_as_bars(lake_hub: RunningHub, browser: Watched) -> None:
    question = "select 'n' || (\"offset\" % 3) as remainder, count(*) as events from site group by 1 order by 1"
    page = opened(browser, lake_hub, "?" + str(httpx.QueryParams({"q": question, "chart": "1"})))
    bars = page.get_by_role("list", name="events by name").get_by_role("listitem")
    expect(bars).to_have_count(3)
    expect(bars.first).to_contain_text("n0")
    expect(bars.first).to_contain_text("1000")


def test_a_wrong_question_says_why(lake_hub: RunningHub, browser: Watched) -> None:
    browser.allowed = lambda text: "status of 400" in text  # the browser's own line about the refusal
    page = opened(browser, lake_hub, "?q=select+nothing+from+site")
    expect(page.get_by_role("alert")).to_contain_text("nothing")
    page.get_by_label("SQL", exact=True).fill("drop table site")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert")).to_contain_text("is not allowed")


def test_an_answer_is_saved_as_a_file(lake_hub: RunningHub, browser: Watched, tmp_path: Path) -> None:
    page = opened(browser, lake_hub, "?" + str(httpx.QueryParams({"q": QUESTION})))
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as Parquet").click()
    download.value.save_as(tmp_path / "answer.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "answer.parquet").num_rows == EVENTS


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (npm ci in src/gridwire/web/ui)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_phones_are_wide_enough(lake_hub: RunningHub, browser: Watched, scheme: str) -> None:
    phone = {"width": 320, "height": 800}
    query = httpx.QueryParams({"q": QUESTION, "chart": "1"})
    page = opened(browser, lake_hub, f"?{query}", color_scheme=scheme, bypass_csp=True, viewport=phone)
    expect(page.get_by_role("img", name="kw over time")).to_be_visible()
    page.get_by_text("Tables", exact=True).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= phone["width"]
    page.evaluate(AXE.read_text(encoding="utf-8"))
    assert page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"] == []
