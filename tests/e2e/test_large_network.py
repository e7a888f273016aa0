"""A network model above the size of an event, from a file through the command line into a hub and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint, to_json

POINTS = 20_000


def model(name: str, points: int) -> Network:
    return Network(
        name=name,
        transformers=tuple(Transformer(id=f"T{i}", rated_kva=100.0) for i in range(points // 20)),
        feeders=(Feeder(id="MV"),),
        usage_points=tuple(UsagePoint(id=f"U{i}", transformer=f"T{i // 20}", feeder="MV") for i in range(points)),
    )


def test_a_large_model_goes_in_and_comes_back(start_hub: Any, gridwire_cli: Any, tmp_path: Path) -> None:
    hub = start_hub("--no-workers", kafka_port="off")
    small, large = tmp_path / "small.json", tmp_path / "large.json"
    small.write_bytes(to_json(model("Small", 40)))
    large.write_bytes(to_json(model("Large", POINTS)))
    for file, parts in ((small, 1), (large, 2)):
        told = gridwire_cli("network", "import", "json", str(file), "--url", hub.http)
        assert "published network" in told.stdout
        shown = gridwire_cli("network", "show", "--url", hub.http, "-o", "json")
        assert json.loads(shown.stdout) == json.loads(file.read_bytes())
        newest = hub.get("/v1/hubs/grid.network/events?partition=0&offset=-1&limit=1")["events"][-1]["value"]
        assert newest.get("parts", 1) == parts
    table = gridwire_cli("network", "show", "--url", hub.http)
    assert len(table.stdout.splitlines()) == POINTS // 20 + 1
