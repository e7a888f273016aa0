"""Schemas, policies and the audit hub on the page, and a page that offers only what whoever looks at it may do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from gridwire.broker.local import report_app
from gridwire.grid.findings import Finding, Severity
from page import AXE, CHROMIUM, RunningHub, Watched, live, tab_to, until

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

START_US = 1_767_225_600_000_000
AVRO = {"type": "record", "name": "Reading", "fields": [{"name": "kw", "type": "double"}]}
WIDER = {**AVRO, "fields": [*AVRO["fields"], {"name": "unit", "type": "string", "default": "kW"}]}
NARROWER = {**AVRO, "fields": [{"name": "needed", "type": "string"}]}


def key_of(connection: str) -> tuple[str, str]:
    """Policy and key of a connection string."""
    parts = dict(part.split("=", 1) for part in connection.split(";") if part)
    return parts["SharedAccessKeyName"], parts["SharedAccessKey"]


class SignedHub(RunningHub):
    """A hub with sign-in."""

    def root(self) -> tuple[str, str]:
        return key_of((self.data / "root.connection-string").read_text().strip())

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(method, f"{self.url}{path}", json=body, auth=self.root()).raise_for_status()
        return answer.json() if answer.content else None

    def policy(self, name: str, *rights: str, hub: str | None = None) -> tuple[str, str]:
        made = self.ask("POST", "/v1/policies", {"name": name, "rights": rights, "hub": hub})
        return name, made["primary_key"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignedHub]:
    running = SignedHub(tmp_path_factory.mktemp("access") / "data", flags=("--no-workers", "--auth"))
    running.start()
    try:
        running.ask("POST", "/v1/hubs", {"name": "plant", "partitions": 1})
        running.ask("POST", "/v1/hubs/plant/events", [{"n": 1}, {"n": 2}])
        running.ask("POST", "/v1/schemagroups", {"name": "shown", "format": "Avro"})
        definition = {"name": "Reading", "format": "Avro", "definition": json.dumps(AVRO)}
        running.ask("POST", "/v1/schemagroups/shown/schemas", definition)
        yield running
    finally:
        running.stop()


def opened(browser: Watched, hub: SignedHub, address: str, who: tuple[str, str] | None = None, **options: Any) -> Page:
    name, key = who or hub.root()
    return live(browser.open(f"{hub.url}/#/{address}", http_credentials={"username": name, "password": key}, **options))


# Schemas


def test_schemas_are_registered_compared_and_deleted(hub: SignedHub, browser: Watched) -> None:
    browser.allowed = lambda text: "400" in text
    page = opened(browser, hub, "schemas")
    page.get_by_role("form", name="New schema group").get_by_label("Name").fill("grid")
    page.get_by_role("combobox", name="Compatibility").select_option("Backward")
    page.get_by_role("button", name="Make group").click()
    group = page.get_by_role("region", name="grid")
    expect(group).to_contain_text("Avro, compatibility backward, 0 schemas")
    group.get_by_text("Add a schema").click()
    for at, (schema, said) in enumerate(
        ((AVRO, "Reading has version 1"), (WIDER, "Reading has version 2"), (NARROWER, "needed"))
    ):
        group.get_by_label("Name").fill("Reading")
        group.get_by_label("Definition").fill(json.dumps(schema))
        group.get_by_role("button", name="Add", exact=True).click()
        expect(page.get_by_test_id("said"), str(at)).to_contain_text(said)
    group.get_by_role("button", name="Reading", exact=True).click()
    expect(page.get_by_test_id("version")).to_have_count(2)
    expect(page.get_by_test_id("version").first).to_contain_text('"unit"')
    assert "schema=grid%2FReading" in page.url
    page.reload()
    expect(page.get_by_test_id("version")).to_have_count(2)
    group.get_by_role("button", name="Delete schema Reading").click()
    group.get_by_role("button", name="Delete schema Reading").click()
    expect(group).to_contain_text("0 schemas")
    group.get_by_role("button", name="Delete group grid").click()
    group.get_by_role("button", name="Keep").click()
    expect(group).to_be_visible()
    group.get_by_role("button", name="Delete group grid").click()
    group.get_by_role("button", name="Delete group grid").click()
    expect(group).to_have_count(0)


# Policies, users, certificates, audit


def test_a_policy_is_made_rotated_and_deleted_and_works(hub: SignedHub, browser: Watched) -> None:
    page = opened(browser, hub, "access")
    form = page.get_by_role("form", name="New policy")
    form.get_by_label("Name").fill("meters")
    form.get_by_label("Send").check()
    form.get_by_label("Listen").uncheck()
    form.get_by_role("textbox", name="Hub").fill("plant")
    form.get_by_role("button", name="Make policy").click()
    keys = page.get_by_test_id("keys").locator("code")
    expect(keys).to_have_count(2)
    first = keys.first.inner_text()
    send = f"{hub.url}/v1/hubs/plant/events"
    assert httpx.post(send, json=1, auth=("meters", first)).status_code == 200
    row = page.get_by_test_id("policies").get_by_role("row", name="meters")
    expect(row).to_contain_text("Send")
    expect(row).to_contain_text("plant")
    row.get_by_role("button", name="New primary key").click()
    row.get_by_role("button", name="New primary key for meters").click()
    expect(keys.first).not_to_have_text(first)
    assert httpx.post(send, json=1, auth=("meters", first)).status_code == 401
    assert httpx.post(send, json=1, auth=("meters", keys.first.inner_text())).status_code == 200
    row.get_by_role("button", name="Delete policy meters").click()
    row.get_by_role("button", name="Delete policy meters").click()
    expect(row).to_have_count(0)
    page.reload()
    expect(page.get_by_test_id("policies")).to_be_visible()
    assert first not in page.content()


def test_users_and_certificates_are_saved_and_deleted_with_the_keyboard(hub: SignedHub, browser: Watched) -> None:
    hub.policy("readers", "Listen")
    page = opened(browser, hub, "access")
    for noun, name, called in (("user", "ada", "Name"), ("certificate", "CN=meter-7", "Subject")):
        form = page.get_by_role("form", name=f"New {noun}")
        form.get_by_label(called).fill(name)
        if noun == "user":
            form.get_by_label("Password").fill("a long enough password")
        form.get_by_role("listbox", name="Policies").select_option("readers")
        form.get_by_role("button", name=f"Save {noun}").press("Enter")
        table = page.get_by_test_id(f"{noun}s")
        expect(table.get_by_role("row", name=name)).to_contain_text("readers")
        table.get_by_role("button", name=f"Delete {noun} {name}").press("Enter")
        expect(table.get_by_role("button", name=f"Delete {noun} {name}")).to_be_focused()
        page.keyboard.press("Enter")
        expect(table).to_contain_text("There is none")


def test_the_audit_hub_is_browsed_like_a_hub(hub: SignedHub, browser: Watched) -> None:
    hub.policy("audited", "Listen")
    page = opened(browser, hub, "access")
    tab_to(page, "__audit")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("__audit")
    table = page.get_by_test_id("events")
    expect(table.locator("thead th")).to_contain_text(["who", "action", "what", "refused"])
    expect(table).to_contain_text("policy.create")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.get_by_role("button", name="Live").click()
    hub.policy("seen.live", "Listen")
    expect(table).to_contain_text("seen.live")


# Rights


def test_a_reader_is_offered_what_a_reader_may_do(hub: SignedHub, browser: Watched) -> None:
    reader = hub.policy("reader", "Listen")
    page = opened(browser, hub, "hubs/plant", reader)
    send = page.get_by_role("button", name="Send")
    expect(send).to_be_disabled()
    expect(send).to_have_attribute("title", "This takes Send on this hub.")
    page.get_by_role("button", name="Export, copy, replay").click()
    page.get_by_label("To hub").fill("elsewhere")
    page.get_by_label("To hub").press("Tab")
    expect(page.get_by_text("To elsewhere: This takes Send on this hub.")).to_be_visible()
    expect(page.get_by_role("button", name="Copy", exact=True)).to_be_disabled()
    page.goto(f"{hub.url}/#/access")
    expect(page.get_by_text("This takes Manage on the namespace.")).to_be_visible()
    page.goto(f"{hub.url}/#/schemas")
    expect(page.get_by_role("button", name="Make group")).to_be_disabled()


def test_a_reader_is_offered_no_change_of_functions_and_alerts(hub: SignedHub, browser: Watched) -> None:
    found = Finding(
        kind="outage", subject_kind="transformer", subject="T-1", started_us=START_US, severity=Severity.CRITICAL,
        confidence=0.9, detector="outages", evidence={},
    )  # fmt: skip
    hub.ask("POST", "/v1/hubs", {"name": "grid.alerts", "partitions": 1})
    hub.ask("POST", "/v1/hubs/grid.alerts/events", json.loads(found.to_event(0).value or b""))
    hub.ask("POST", "/v1/hubs", {"name": "dlq.app.f", "partitions": 1})
    hub.ask("POST", "/v1/hubs/dlq.app.f/events", {"n": 1})
    page = opened(browser, hub, "alerts", hub.policy("looker", "Listen"))
    page.get_by_role("button", name="outage of").click()
    for name in ("Acknowledge", "Silence"):
        expect(page.get_by_role("button", name=name, exact=True)).to_be_disabled()
    expect(page.get_by_text("This takes Send on the hub grid.alert-notes.").first).to_be_visible()
    page.goto(f"{hub.url}/#/functions")
    again = page.get_by_role("button", name="dead letters to f again")
    until(lambda: reported(hub) and again.count() > 0, "the app is shown")
    expect(again).to_be_disabled()


def reported(hub: SignedHub) -> bool:
    """A host that was not deployed says that it lives, as it does every second."""
    report_app(hub.data, {"app": "app", "workers": 1, "functions": [{"name": "f", "trigger": "eventHubTrigger"}]})
    return True


def test_whoever_may_not_see_the_page_is_told_what_it_takes(hub: SignedHub, browser: Watched) -> None:
    browser.allowed = lambda text: "403" in text
    name, key = hub.policy("narrow", "Listen", hub="plant")
    page = browser.open(f"{hub.url}/#/hubs", http_credentials={"username": name, "password": key})
    expect(page.get_by_test_id("banner")).to_have_text(
        "narrow may not see this page: it takes Listen on the namespace."
    )


def test_without_sign_in_the_page_says_so(own_hub: RunningHub, browser: Watched) -> None:
    page = live(browser.open(f"{own_hub.url}/#/access"))
    expect(page.get_by_text("Nobody signs in here")).to_be_visible()


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed (npm ci in src/gridwire/web/ui)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_phones_are_wide_enough(hub: SignedHub, browser: Watched, scheme: str) -> None:
    phone = {"width": 320, "height": 800}
    page = opened(browser, hub, "access", color_scheme=scheme, bypass_csp=True, viewport=phone)
    for view, there in (("access", "policies"), ("schemas?schema=shown%2FReading", "version")):
        page.goto(f"{hub.url}/#/{view}")
        expect(page.get_by_test_id(there)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= phone["width"], view
        page.evaluate(AXE.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        assert [(view, one["id"], one["nodes"][0]["html"]) for one in found] == []
