"""What tests of the page share: a hub that can be killed, a browser that is watched, and the keyboard.

Every page a test opens is watched: a request to another host, a console error (a CSP violation is one) or an uncaught
exception fails the test. Fixtures are in tests/e2e/conftest.py.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from confluent_kafka import Producer
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_S = 20.0
STREAMS = "gridwire_http_streams "
AXE = Path(__file__).parents[1] / "src/gridwire/web/ui/node_modules/axe-core/axe.min.js"


@dataclass
class RunningHub:
    """One hub process on free ports; it can be killed and started again at the same address."""

    data: Path
    http_port: int = 0
    kafka_port: int = 0
    process: subprocess.Popen[str] | None = None
    flags: tuple[str, ...] = ("--no-workers",)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "gridwire", "up", "--data", str(self.data), *self.flags]
        command += ["--http-port", str(self.http_port), "--kafka-port", str(self.kafka_port), "--amqp-port", "off"]
        with (self.data.parent / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", (self.data.parent / "hub.log").read_text()[-2000:]
        for _ in range(2):
            name, address = self.process.stdout.readline().split()
            setattr(self, f"{name}_port", urlsplit(address if "//" in address else f"//{address}").port)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None

    def post(self, hub: str, events: list[Any], key: str | None = None) -> None:
        params = {} if key is None else {"key": key}
        answer = httpx.post(f"{self.url}/v1/hubs/{hub}/events", json=events, params=params, timeout=30)
        assert answer.status_code == 200, answer.text
        assert answer.json()["durable"] is True

    def quarantine(self, raw: bytes, *, reason: str, form: str, source: str) -> None:
        producer = Producer({"bootstrap.servers": f"127.0.0.1:{self.kafka_port}"})
        headers = [("reason", reason.encode()), ("format", form.encode()), ("source", source.encode())]
        producer.produce("quarantine", value=raw, headers=headers)
        assert producer.flush(30) == 0


@dataclass
class Watched:
    """Opens pages and remembers what went wrong in them."""

    browser: Browser
    wrong: list[str] = field(default_factory=list)
    allowed: Callable[[str], bool] = lambda text: False
    contexts: list[BrowserContext] = field(default_factory=list)

    def context(self, **options: Any) -> BrowserContext:
        context = self.browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        self.contexts.append(context)
        context.on("request", self._request)
        context.on("console", lambda message: self._note(message.type in ("error", "warning"), message.text))
        context.on("weberror", lambda error: self._note(True, str(error.error)))
        context.on("dialog", lambda dialog: (self._note(True, f"dialog {dialog.message}"), dialog.dismiss()))
        return context

    def open(self, url: str, **options: Any) -> Page:
        page = self.context(**options).new_page()
        page.goto(url)
        return page

    def _request(self, request: Any) -> None:
        host = urlsplit(request.url).hostname
        self._note(host != "127.0.0.1", f"request to {request.url}")

    def _note(self, is_wrong: bool, text: str) -> None:
        if is_wrong and not self.allowed(text):
            self.wrong.append(text)


def until(said: Callable[[], bool], what: str) -> None:
    """Ask until it is so; the page moves by itself."""
    deadline = time.monotonic() + WAIT_S
    while not said():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.1)


def number(locator: Locator) -> int:
    digits = "".join(c for c in locator.inner_text() if c.isdigit())
    return int(digits) if digits else -1


def live(page: Page) -> Page:
    expect(page.get_by_test_id("link")).to_have_text("ready")
    return page


def tab_to(page: Page, text: str) -> None:
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()").endswith(text):
            return
    raise AssertionError(f"no Tab reaches {text!r}")


def tab_to_label(page: Page, label: str) -> None:
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.labels?.[0]?.textContent.trim()") == label:
            return
    raise AssertionError(f"no Tab reaches the field {label!r}")


def streams(hub: RunningHub) -> int:
    metrics = httpx.get(f"{hub.url}/metrics").text
    lines = [line for line in metrics.splitlines() if line.startswith(STREAMS)]
    return int(float(lines[0].rsplit(" ", 1)[1]))
