"""Fixtures of tests that look at the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from page import ARGUMENTS, CHROMIUM, WAIT_S, RunningHub, Watched


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    expect.set_options(timeout=WAIT_S * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Watched]:
    watched = Watched(chromium)
    yield watched
    for context in watched.contexts:
        context.close()
    assert watched.wrong == []


@pytest.fixture
def own_hub(tmp_path: Path) -> Iterator[RunningHub]:
    running = RunningHub(tmp_path / "data")
    running.start()
    yield running
    running.stop()
