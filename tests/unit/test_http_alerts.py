"""Alerts over HTTP: listing, acknowledging and silencing, over a real broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from gridwire.alerts import SILENCES_MAX, AlertBook, moment, silence
from gridwire.core import batch
from gridwire.core.clock import ManualClock
from gridwire.core.errors import InvalidSetting
from gridwire.core.hubs import TEMPLATES
from gridwire.grid.findings import Finding, FindingState, Severity

T0_US = 1_767_225_600_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(T0_US // 1000)


@pytest.fixture
def hub(http_hub: Any, clock: ManualClock) -> Any:
    return http_hub(clock=clock)


@pytest.fixture
def client(hub: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hub.url) as client:
        yield client


def found(subject: str = "T1", minute: int = 0, kind: str = "outage", **more: Any) -> Finding:
    return Finding(
        kind=kind, subject_kind="transformer", subject=subject, started_us=T0_US + minute * 60_000_000,
        severity=Severity.CRITICAL, confidence=0.9, detector="outages", evidence={"customers": 12}, **more,
    )  # fmt: skip


def tell(hub: Any, *findings: Finding) -> None:
    events = [finding.to_event(T0_US // 1000) for finding in findings]

    async def append() -> None:
        if "grid.alerts" not in {info.name for info in hub.broker.hubs()}:
            await hub.broker.create_hub("grid.alerts", 1)
        await hub.broker.append("grid.alerts", 0, batch.encode(events))

    hub.run(append())


def path(finding: Finding) -> str:
    return f"/v1/alerts/{quote(finding.id, safe='')}"


def test_nothing_has_been_found_yet(client: httpx.Client) -> None:
    assert client.get("/v1/alerts").json() == {"alerts": []}
    assert client.get("/v1/silences").json() == {"silences": []}
    assert client.get("/v1/alerts/none").status_code == 404


def test_the_newest_version_of_each_is_listed_newest_first(hub: Any, client: httpx.Client) -> None:
    tell(hub, found(), found("T2", 5), found("T3", 3, kind="voltage.high"))
    tell(hub, found(version=2, state=FindingState.CLOSED, ended_us=T0_US + 1), found(version=1))
    rows = client.get("/v1/alerts").json()["alerts"]
    assert [row["subject"] for row in rows] == ["T2", "T3"]
    assert rows[0]["evidence"] == {"customers": 12} and rows[0]["acknowledged"] is rows[0]["silenced"] is None
    closed = client.get("/v1/alerts?state=closed").json()["alerts"]
    assert [(row["subject"], row["version"], row["ended"]) for row in closed] == [
        ("T1", 2, "2026-01-01T00:00:00.000001Z")
    ]
    assert len(client.get("/v1/alerts?state=all").json()["alerts"]) == 3
    assert len(client.get("/v1/alerts?state=all&limit=1").json()["alerts"]) == 1
    assert [r["subject"] for r in client.get("/v1/alerts?kind=voltage.*").json()["alerts"]] == ["T3"]
    assert [r["subject"] for r in client.get("/v1/alerts?subject=*/T2").json()["alerts"]] == ["T2"]


def test_an_acknowledgement_is_an_event_that_all_can_see(hub: Any, client: httpx.Client) -> None:
    finding = found()
    tell(hub, finding)
    answer = client.post(f"{path(finding)}/ack", json={"why": "crew sent", "by": "mia"})
    assert answer.status_code == 200 and answer.json()["acknowledged"]["by"] == "mia"
    assert client.get(path(finding)).json()["acknowledged"]["why"] == "crew sent"
    (event,) = client.get("/v1/hubs/grid.alert-notes/events?partition=0&offset=0").json()["events"]
    assert event["key"] == f"ack/{finding.id}" and event["value"]["by"] == "mia"
    assert event["headers"]["ce_type"] == "gridwire.alert.acknowledged"
    assert client.post("/v1/alerts/none/ack", json={}).status_code == 404
    assert client.post(f"{path(finding)}/ack", json={"why": "x" * 1001}).status_code == 400
    assert client.post(f"{path(finding)}/ack", json={"bye": 1}).status_code == 400


def test_the_hub_of_notes_is_compacted() -> None:
    assert TEMPLATES["grid.alert-notes"]["cleanup"] == "compact"


def test_a_silence_marks_and_ends(hub: Any, client: httpx.Client, clock: ManualClock) -> None:
    tell(hub, found(), found("T2"))
    made = client.post("/v1/silences", json={"subject": "transformer/T1", "why": "works", "for_s": 60, "by": "mia"})
    assert made.status_code == 201 and made.json()["until"] == "2026-01-01T00:01:00Z"
    name = made.json()["name"]
    marks = {row["subject"]: row["silenced"] for row in client.get("/v1/alerts").json()["alerts"]}
    assert marks == {"T1": name, "T2": None}
    clock.advance(61)
    assert client.get("/v1/silences").json() == {"silences": []}
    assert client.delete(f"/v1/silences/{name}").status_code == 404
    until = "2026-01-02T00:00:00+01:00"
    again = client.post("/v1/silences", json={"why": "works", "until": until}).json()["name"]
    assert client.delete(f"/v1/silences/{again}").status_code == 204
    assert client.get("/v1/silences").json() == {"silences": []}
    events = client.get("/v1/hubs/grid.alert-notes/events?partition=0&offset=0").json()["events"]
    assert events[-1]["value"]["ended_by"] == "somebody"


@pytest.mark.parametrize(
    "body",
    [
        {"why": "x"},
        {"why": "x", "for_s": 1, "until": "2026-01-02T00:00:00Z"},
        {"why": "x", "until": "2025-01-02T00:00:00Z"},
        {"why": "x", "until": "2026-01-02T00:00:00"},
        {"why": "", "for_s": 10},
        {"why": "x", "for_s": 0},
        {"why": "x", "for_s": 10**12},
        {"why": "x", "for_s": 10, "subject": ""},
        {"why": "x", "for_s": 10, "kind": "x" * 1001},
        {"why": "x", "for_s": 10, "by": "x" * 201},
        {"for_s": 10},
        [],
    ],
)
def test_silences_that_make_no_sense(client: httpx.Client, body: Any) -> None:
    answer = client.post("/v1/silences", json=body)
    assert answer.status_code == 400, answer.text
    assert client.get("/v1/silences").json() == {"silences": []}


def test_findings_of_a_time_are_those_that_went_on_then(hub: Any, client: httpx.Client) -> None:
    tell(hub, found("over", 0, state=FindingState.CLOSED, ended_us=T0_US + 600_000_000), found("open", 5))
    tell(hub, found("withdrawn", 0, state=FindingState.CLOSED))

    def at(minute: int) -> list[str]:
        rows = client.get(f"/v1/alerts?at=2026-01-01T00:{minute:02}:00Z").json()["alerts"]
        return [row["subject"] for row in rows]

    assert [at(minute) for minute in (0, 4, 5, 9, 10)] == [
        ["over"],
        ["over"],
        ["open", "over"],
        ["open", "over"],
        ["open"],
    ]
    assert client.get("/v1/alerts?at=2025-12-31T23:59:59Z").json() == {"alerts": []}


@pytest.mark.parametrize("query", ["state=asleep", "limit=0", "limit=x", "limit=10001", "at=noon"])
def test_questions_that_make_no_sense(client: httpx.Client, query: str) -> None:
    assert client.get(f"/v1/alerts?{query}").status_code == 400


def test_there_are_not_more_silences_than_may_be(client: httpx.Client, hub: Any, clock: ManualClock) -> None:
    from gridwire.alerts import note_event

    now = moment(clock.now_ms())
    notes = [silence(f"k{n}", "*", "me", "x", now, moment(clock.now_ms() + 60_000)) for n in range(SILENCES_MAX)]
    client.post("/v1/silences", json={"why": "the first", "for_s": 1})
    clock.advance(2)

    async def append() -> None:
        await hub.broker.append("grid.alert-notes", 0, batch.encode([note_event(note) for note in notes]))

    hub.run(append())
    assert client.post("/v1/silences", json={"why": "one more", "for_s": 10}).status_code == 409
    clock.advance(61)
    assert client.post("/v1/silences", json={"why": "one more", "for_s": 10}).status_code == 201


def test_a_hub_that_was_made_anew_is_read_from_its_start(hub: Any, client: httpx.Client) -> None:
    tell(hub, found(), found("T2"))
    assert len(client.get("/v1/alerts").json()["alerts"]) == 2
    client.delete("/v1/hubs/grid.alerts")
    tell(hub, found("T3"))
    assert "T3" in {row["subject"] for row in client.get("/v1/alerts").json()["alerts"]}


def test_a_book_forgets_the_oldest_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gridwire.alerts.OPEN_MAX", 3)
    book = AlertBook()
    for number in range(5):
        book.take(found(f"T{number}", number).to_event(0).value)
    book.take(b"nonsense")
    book.take(None)
    assert [row["subject"] for row in book.list("open", "*", "*", 10, moment(0))] == ["T4", "T3", "T2"]
    with pytest.raises(InvalidSetting):
        silence("x", "*", "me", "why", moment(0), moment(0))


def test_values_of_both_sides_agree() -> None:
    """The book reads what detectors write."""
    value = found(ended_us=T0_US, state=FindingState.CLOSED).to_event(0).value or b""
    book = AlertBook()
    book.take(value)
    (row,) = book.list("closed", "*", "*", 1, moment(0))
    plain = json.loads(value)
    assert {name: row[name] for name in plain} == plain
