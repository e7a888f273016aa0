"""From last gasps over HTTP to an alert that is acknowledged, silenced and counted: the real program."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx

from gridwire.grid import network
from gridwire.grid.reading import rfc3339

US = 1_000_000


def until(condition: Any, seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.05)
    return found


def model() -> network.Network:
    return network.Network(
        name="small",
        transformers=(network.Transformer(id="T0"), network.Transformer(id="T1")),
        feeders=(network.Feeder(id="F0"), network.Feeder(id="F1")),
        usage_points=tuple(
            network.UsagePoint(id=f"U{t}.{i}", transformer=f"T{t}", feeder=f"F{t}") for t in range(2) for i in range(20)
        ),
    )


def test_an_outage_from_the_first_message_to_the_indices(start_hub: Any) -> None:
    hub = start_hub("--lake-flush", "1")
    with httpx.Client(base_url=hub.http, timeout=60, trust_env=False) as client:

        def say(transformer: int, kind: str, at_us: int) -> None:
            events = [
                {"usage_point": f"U{transformer}.{i}", "kind": kind, "ts_event": rfc3339(at_us)} for i in range(20)
            ]
            client.post("/v1/hubs/meter.events/events", json=events, params={"key": "k"}).raise_for_status()

        def alerts(state: str = "open") -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = hub.get(f"/v1/alerts?state={state}")["alerts"]
            return found

        client.post("/v1/hubs/grid.network/events", json=json.loads(network.to_json(model()))).raise_for_status()
        until(lambda: any(row["name"] == "watch" and row["pid"] for row in hub.get("/v1/status")["workers"]))
        start_us = time.time_ns() // 1_000_000_000 * US
        say(0, "LAST_GASP", start_us)
        (first,) = until(alerts)
        assert (first["subject_kind"], first["subject"], first["kind"]) == ("transformer", "T0", "outage")
        assert json.loads(hub.cli("alert", "list", "-o", "json").stdout) == [first]
        hub.cli("alert", "ack", first["id"], "--why", "crew sent", "--by", "mia")
        assert "by mia" in hub.cli("alert", "show", first["id"]).stdout
        made = json.loads(
            hub.cli("alert", "silence", "--subject", "*/T1", "--why", "works", "--for", "1h", "-o", "json").stdout
        )
        assert made["name"] == hub.get("/v1/silences")["silences"][0]["name"]
        say(1, "LAST_GASP", start_us + US)
        until(lambda: len(alerts()) == 2)
        pages = [hub.get(f"/v1/hubs/grid.alerts/events?partition={p['partition']}&offset=earliest")["events"]
                 for p in hub.get("/v1/hubs/grid.alerts")["bounds"]]  # fmt: skip
        marks = {e["headers"]["ce_subject"]: e["headers"].get("ce_silenced") for page in pages for e in page}
        assert marks["transformer/T1"] == made["name"] and marks["transformer/T0"] is None
        hub.cli("alert", "unsilence", made["name"])
        say(0, "POWER_RESTORED", start_us + 3600 * US)
        until(lambda: len(alerts("closed")) == 1)
        told = json.loads(hub.cli("reliability", "-o", "json").stdout)
        assert told["customers"] == 40 and told["going_on"] == 1
        assert "began outside of this time: 1," in hub.cli("reliability", "--to", "2000-01-01T00:00:00Z").stdout
        assert told["all"]["saidi_min"] == 30.0 and told["all"]["saifi"] == 0.5 and told["all"]["caidi_min"] == 60.0

        def of_lake() -> bool:
            done = hub.cli(
                "reliability", "--lake", str(hub.data / "lake"), "--customers", "40", "-o", "json", check=False
            )
            return done.returncode == 0 and json.loads(done.stdout)["all"] == told["all"]

        until(of_lake)
