"""`gridwire vee`, `gridwire network meters` and `gridwire readings edit` against a hub, as a user gives them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gridwire.grid import network
from hub_process import HubProcess, run_cli


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path / "data", "--no-workers")
    yield hub
    hub.stop()


def events(url: str, hub: str) -> list[dict[str, Any]]:
    bounds = httpx.get(f"{url}/v1/hubs/{hub}").raise_for_status().json()["bounds"]
    found = []
    for bound in bounds:
        query = {"partition": bound["partition"], "offset": 0, "limit": 100}
        found += httpx.get(f"{url}/v1/hubs/{hub}/events", params=query).raise_for_status().json()["events"]
    return found


def test_settings_meters_and_edits(hub: HubProcess, tmp_path: Path) -> None:
    model = network.Network(
        name="one", transformers=(network.Transformer(id="T"),), feeders=(network.Feeder(id="F", transformer="T"),),
        usage_points=(network.UsagePoint(id="U", transformer="T", feeder="F"),),
    )  # fmt: skip
    (tmp_path / "model.json").write_bytes(network.to_json(model))
    run_cli("network", "import", "json", str(tmp_path / "model.json"), url=hub.http)

    (tmp_path / "bad.toml").write_text("[general]\ngrace_s = -1\n[rules.zeros]\nenabled = false\n")
    done = run_cli("vee", "configure", str(tmp_path / "bad.toml"), url=hub.http, check=False)
    assert done.returncode == 1
    assert "general.grace_s must be at least 0" in done.stderr
    assert "rules.zeros is unknown, did you mean zero?" in done.stderr
    (tmp_path / "good.toml").write_text("[rules.zero]\nreference_kwh = 2.5\n[classes.shop.zero]\nenabled = false\n")
    run_cli("vee", "configure", str(tmp_path / "good.toml"), url=hub.http)
    rows = json.loads(run_cli("vee", "rules", "-o", "json", url=hub.http).stdout)
    assert next(row["settings"] for row in rows if row["rule"] == "zero") == {"enabled": True, "reference_kwh": 2.5}

    (tmp_path / "meters.csv").write_text("meter,usage_point,from,dials\nM,U,2026-01-01T00:00:00Z,5\nM,X,today,5\n")
    done = run_cli("network", "meters", str(tmp_path / "meters.csv"), url=hub.http, check=False)
    assert "unknown usage point" in done.stderr
    assert "no time" in done.stderr
    (tmp_path / "meters.csv").write_text("meter,usage_point,from,dials\nM,U,2026-01-01T00:00:00Z,5\n")
    run_cli("network", "meters", str(tmp_path / "meters.csv"), url=hub.http)

    edit = ["readings", "edit", "U", "2026-01-01T01:15:00+01:00", "0.250", "--why", "test bench", "--by", "ada"]
    run_cli(*edit, "--data", str(hub.data), url=hub.http)
    (reading,), (record,) = events(hub.http, "readings"), events(hub.http, "reading.edits")
    assert reading["key"] == "T"
    assert {name: reading["value"][name] for name in ("ts_end", "version", "quality", "flags", "value")} == {
        "ts_end": "2026-01-01T00:15:00Z", "version": 1, "quality": "3.7.1", "flags": 8, "value": 0.25,
    }  # fmt: skip
    assert (record["value"]["by"], record["value"]["why"], record["value"]["version"]) == ("ada", "test bench", 1)
    newest = network.from_json(json.dumps(events(hub.http, "grid.network")[-1]["value"]).encode())
    assert newest.meters[0].dials == 5
    assert newest.vee["rules"]["zero"]["reference_kwh"] == 2.5
