"""`gridwire network import|list|show|diff` against a hub: versions of the model in time, as a user gives them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gridwire.grid import network
from hub_process import HubProcess, run_cli


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    hub = HubProcess(tmp_path_factory.mktemp("network") / "data", "--no-workers")
    yield hub
    hub.stop()


def model(moved: str, points: int = 4, name: str = "town") -> network.Network:
    """U0 hangs where `moved` says; T2 is there when something hangs on it."""
    placed = [moved, *("T1" for _ in range(points - 1))]
    used = sorted({"T0", *placed})
    return network.Network(
        name=name,
        transformers=tuple(network.Transformer(id=id, rated_kva=160.0) for id in used),
        feeders=tuple(network.Feeder(id=f"F{id[1:]}", transformer=id) for id in used),
        usage_points=tuple(
            network.UsagePoint(id=f"U{n}", transformer=id, feeder=f"F{id[1:]}") for n, id in enumerate(placed)
        ),
    )


@pytest.fixture(scope="module")
def versions(hub: HubProcess, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A first model, one of March, and a correction of it that has two usage points more."""
    told = [("2026-01-01T00:00:00Z", model("T0")), ("2026-03-01T00:00:00+01:00", model("T1"))]
    told.append(("2026-02-28T23:00:00Z", model("T2", 6)))
    file = tmp_path_factory.mktemp("models") / "model.json"
    for valid_from, found in told:
        file.write_bytes(network.to_json(found))
        done = run_cli("network", "import", "json", str(file), "--valid-from", valid_from, url=hub.http)
    assert "valid from 2026-02-28T23:00:00Z on" in done.stdout
    rows: list[dict[str, Any]] = json.loads(run_cli("network", "list", "-o", "json", url=hub.http).stdout)
    return rows


def test_versions_are_listed_with_what_changed(hub: HubProcess, versions: list[dict[str, Any]]) -> None:
    assert [(row["offset"], row["in_effect"], row["valid_to"]) for row in versions] == [
        (2, True, None), (1, False, None), (0, True, "2026-02-28T23:00:00Z"),
    ]  # fmt: skip
    changed = versions[0]["changes"]
    assert {name: count for name, count in changed.items() if count} == {
        "usage_points_moved": 1, "usage_points_added": 2, "transformers_added": 1, "feeders_added": 1,
    }  # fmt: skip
    assert versions[1]["changes"] is versions[2]["changes"] is None
    table = run_cli("network", "list", url=hub.http).stdout.splitlines()
    assert table[1].endswith("1 usage point moved, 2 usage points added, 1 transformer added, 1 feeder added")
    assert "replaced" in table[2]
    assert len(run_cli("network", "list", "--limit", "1", url=hub.http).stdout.splitlines()) == 2


def test_the_model_of_a_time_is_shown(hub: HubProcess, versions: list[dict[str, Any]]) -> None:
    def shown(*options: str) -> network.Network:
        return network.from_json(run_cli("network", "show", *options, "-o", "json", url=hub.http).stdout.encode())

    assert shown().usage_points[0].transformer == "T2"
    assert shown("--at", "2026-02-28T23:59:59+01:00").usage_points[0].transformer == "T0"
    assert shown("--at", "2016-01-01T00:00:00Z").usage_points[0].transformer == "T0"
    assert "T0\t160.0\t1" in run_cli("network", "show", "--at", "2026-02-01T00:00:00Z", url=hub.http).stdout
    assert "no time" in run_cli("network", "show", "--at", "today", url=hub.http, check=False).stderr


def test_two_versions_are_compared(hub: HubProcess, versions: list[dict[str, Any]]) -> None:
    done = run_cli("network", "diff", "2026-01-01T00:00:00Z", "2", "-o", "json", url=hub.http)
    found = json.loads(done.stdout)
    assert found["usage_points_moved"] == [
        {"usage_point": "U0", "from_transformer": "T0", "from_feeder": "F0", "to_transformer": "T2", "to_feeder": "F2"}
    ]
    assert (found["usage_points_added"], found["transformers_added"]) == (["U4", "U5"], ["T2"])
    limited = json.loads(run_cli("network", "diff", "0", "2", "--limit", "1", "-o", "json", url=hub.http).stdout)
    assert (limited["usage_points_added"], limited["counts"]["usage_points_added"]) == (["U4"], 2)
    table = run_cli("network", "diff", "2", "1", url=hub.http).stdout
    assert "usage point moved\tU0\tT2\tF2\tT1\tF1" in table
    assert "transformer removed\tT2" in table
    assert "nothing hangs elsewhere" in run_cli("network", "diff", "1", "1", url=hub.http).stdout
    for wrong, says in (("7", "has the offset 7"), ("yesterday", "neither the offset")):
        assert says in run_cli("network", "diff", wrong, "1", url=hub.http, check=False).stderr


def test_without_a_model_it_says_how_to_send_one(tmp_path: Path) -> None:
    hub = HubProcess(tmp_path / "data", "--no-workers")
    try:
        for command in (("list",), ("show",), ("diff", "0", "1")):
            assert "network import" in run_cli("network", *command, url=hub.http, check=False).stderr
    finally:
        hub.stop()


def test_a_model_in_parts_is_a_version_like_any_other(tmp_path: Path) -> None:
    hub = HubProcess(tmp_path / "data", "--no-workers")
    try:
        for moved, day in (("T0", "01"), ("T2", "02")):
            file = tmp_path / "model.json"
            file.write_bytes(network.to_json(model(moved, 20_000)))
            run_cli("network", "import", "json", str(file), "--valid-from", f"2026-01-{day}T00:00:00Z", url=hub.http)
        rows = json.loads(run_cli("network", "list", "-o", "json", url=hub.http).stdout)
        assert rows[0]["offset"] - rows[0]["first_offset"] > 0
        assert rows[0]["changes"]["usage_points_moved"] == 1
        counted = run_cli("network", "show", "--at", "2026-01-01T12:00:00Z", url=hub.http).stdout
        assert "T1\t160.0\t19,999" in counted
    finally:
        hub.stop()
