"""Rules of users on the real program: a threshold and a question open and close alerts, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.timeout(300)


def until(condition: Any, seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.05)
    return found


def alerts(hub: Any, kind: str, state: str = "open") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = hub.get(f"/v1/alerts?state={state}&kind={kind}")["alerts"]
    return found


def send(hub: Any, *values: dict[str, Any]) -> None:
    httpx.post(
        f"{hub.http}/v1/hubs/volts/events", json=list(values), params={"key_field": "up"}, timeout=60, trust_env=False
    ).raise_for_status()


def read(hub: Any, hour: int, reading_type: str, **values: float) -> None:
    end = f"2026-01-01T{hour:02}:00:00Z"
    readings = [
        {"usage_point": point, "ts_end": end, "reading_type": reading_type, "value": value}
        for point, value in values.items()
    ]
    httpx.post(f"{hub.http}/v1/hubs/readings/events", json=readings, timeout=60, trust_env=False).raise_for_status()


def worker(hub: Any) -> int:
    return next((row["pid"] or 0 for row in hub.get("/v1/status")["workers"] if row["name"] == "rules"), 0)


def make_low(hub: Any) -> None:
    hub.cli(
        "alert", "rule", "add", "low", "--hub", "volts", "--field", "v", "--op", "<", "--value", "210", "--subject",
        "up", "--closes-at", "215", "--severity", "critical", "--text", "look at the fuse",
    )  # fmt: skip


def told(hub: Any) -> list[dict[str, Any]]:
    """Everything in the hub of alerts."""
    pages = [
        hub.get(f"/v1/hubs/grid.alerts/events?partition={row['partition']}&offset=earliest&limit=1000")
        for row in hub.get("/v1/hubs/grid.alerts")["bounds"]
    ]
    return [event["value"] for page in pages for event in page["events"]]


def test_a_threshold_opens_and_closes_an_alert(start_hub: Any) -> None:
    hub = start_hub()
    hub.cli("hub", "create", "volts")
    assert worker(hub) == 0
    send(hub, {"up": "before", "v": 1})
    make_low(hub)
    send(hub, {"up": "a", "v": 200}, {"up": "b", "v": 230})
    (opened,) = until(lambda: alerts(hub, "rule.low"))
    assert (opened["subject_kind"], opened["subject"], opened["severity"]) == ("up", "a", "critical")
    assert opened["evidence"]["text"] == "look at the fuse" and opened["detector"] == "rules"
    hub.cli("alert", "ack", opened["id"], "--by", "mia")
    os.kill(until(lambda: worker(hub)), signal.SIGKILL)
    send(hub, {"up": "a", "v": 212}, {"up": "c", "v": 100})
    until(lambda: len(alerts(hub, "rule.low")) == 2)
    send(hub, {"up": "a", "v": 215})
    (closed,) = until(lambda: alerts(hub, "rule.low", "closed"))
    assert closed["id"] == opened["id"] and closed["version"] == 1 and closed["acknowledged"]["by"] == "mia"
    (row,) = json.loads(hub.cli("alert", "rule", "list", "-o", "json").stdout)
    assert (row["name"], row["status"]["state"], row["status"]["open"]) == ("low", "running", 1)
    assert "running" in hub.cli("alert", "rule", "show", "low").stdout
    tried = json.loads(hub.cli("alert", "rule", "try", "low", "-o", "json").stdout)
    assert tried["opened"] == 3 and tried["open"] == 2 and tried["events"] == 6  # it looks back before the rule
    assert {each["subject"] for each in tried["findings"]} == {"before", "a", "c"}
    flags = ("--hub", "volts", "--field", "v", "--op", ">", "--value", "-5", "--quiet", "1h", "-o", "json")
    assert json.loads(hub.cli("alert", "rule", "try", "new", *flags).stdout)["opened"] == 1  # the hub is one subject
    refused = hub.cli("alert", "rule", "add", "low", *flags[:-2], check=False)
    assert refused.returncode == 1 and "already" in refused.stderr
    assert hub.cli("alert", "rule", "try", "none", check=False).returncode == 1
    hub.cli("alert", "rule", "remove", "low")
    until(lambda: not alerts(hub, "rule.low"))
    until(lambda: worker(hub) == 0)
    versions = [(each["id"], each["version"]) for each in told(hub)]
    assert len(versions) == len(set(versions)) == 4


def test_a_question_and_a_threshold_on_readings_open_and_close_alerts(start_hub: Any) -> None:
    hub = start_hub("--lake-flush", "1")
    hub.cli("hub", "create", "readings")
    query = (
        "select usage_point as subject, max(value) as v from readings group by 1 having arg_max(value, ts_end) > 250"
    )
    hub.cli("alert", "rule", "add", "high", "--query", query, "--every", "10s", "--subject-kind", "usage_point")
    hub.cli(
        "alert", "rule", "add", "beyond", "--hub", "readings", "--where", "reading_type = voltage_v", "--field",
        "value", "--value", "250", "--subject", "usage_point",
    )  # fmt: skip
    (failed,) = until(lambda: alerts(hub, "rule.failed"))
    assert failed["subject"] == "high" and "readings" in failed["evidence"]["error"]
    read(hub, 1, "voltage_v", a=260, b=230)
    read(hub, 1, "import_kwh", b=0.5)
    (opened,) = until(lambda: alerts(hub, "rule.high"))
    assert (opened["subject_kind"], opened["subject"], opened["evidence"]) == ("usage_point", "a", {"v": 260.0})
    (live,) = alerts(hub, "rule.beyond")
    assert (live["subject_kind"], live["subject"], live["evidence"]["value"]) == ("usage_point", "a", 260)
    assert not alerts(hub, "rule.failed")
    assert "a" in hub.cli("alert", "rule", "try", "high").stdout
    read(hub, 2, "voltage_v", a=240)
    until(lambda: alerts(hub, "rule.high", "closed") and alerts(hub, "rule.beyond", "closed"))
    assert not alerts(hub, "rule.*")
    counted = httpx.get(f"{hub.http}/metrics", trust_env=False).text
    assert 'gridwire_alert_rule_open{rule="high"} 0.0' in counted
    assert 'gridwire_alert_rule_failing{rule="high"} 0.0' in counted


def test_nothing_is_doubled_or_lost_when_worker_and_hub_are_killed(start_hub: Any) -> None:
    hub = start_hub()
    hub.cli("hub", "create", "volts", "--partitions", "2")
    make_low(hub)
    for number in range(12):
        send(hub, {"up": f"u{number}", "v": 200}, {"up": f"u{number - 3}", "v": 220})
        if number == 8:
            hub.kill()
            hub = start_hub()
        elif number % 4 == 3:
            os.kill(until(lambda hub=hub: worker(hub)), signal.SIGKILL)
    until(lambda: len(alerts(hub, "rule.low")) == 3 and len(alerts(hub, "rule.low", "closed")) == 9)
    assert sorted((each["subject"], each["version"], each["state"]) for each in told(hub)) == sorted(
        [(f"u{number}", 0, "opened") for number in range(12)] + [(f"u{number}", 1, "closed") for number in range(9)]
    )
