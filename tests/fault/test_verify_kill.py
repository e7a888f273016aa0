"""`gridwire verify --kill N`, and that it would notice."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gridwire.cli.crash_test import Report, _compare
from gridwire.core.batch import Event, check_produced, encode
from gridwire.core.settings import HubSettings
from gridwire.log.partition import PartitionLog


@pytest.mark.slow
def test_an_operator_kills_a_hub_of_his_own(gridwire_cli: Any, tmp_path: Path) -> None:
    done = gridwire_cli("verify", "--kill", "2", "--data", str(tmp_path / "data"), "-o", "json")
    report = json.loads(done.stdout)
    assert report["kills"] == 2
    assert report["acknowledged"] > 0
    assert (report["lost"], report["duplicated"], report["out_of_order"]) == (0, 0, 0)
    assert 0 < report["recovery_p50_s"] <= report["recovery_max_s"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([0, 1, 2, 3], (0, 0, 0)),
        ([0, 1, 3], (1, 0, 0)),
        ([0, 1, 2, 2, 3], (0, 1, 0)),
        ([0, 2, 1, 3], (0, 0, 1)),
        ([0, 1, 2, 3, 4, 5], (0, 0, 0)),
    ],
    ids=["all", "lost", "doubled", "turned round", "stored but not acknowledged"],
)
def test_control_the_comparison_sees_every_kind_of_fault(
    tmp_path: Path, numbers: list[int], expected: tuple[int, int, int]
) -> None:
    log = PartitionLog(tmp_path / "hubs" / "id" / "0", "hub", 0, HubSettings(), sync=False, now_ms=0)
    for number in numbers:
        data = encode([Event(b"%d" % number)])
        log.append_group([(memoryview(data), check_produced(data))], 0)
    log.close()
    report = Report()
    sender: Any = SimpleNamespace(acknowledged=4, wrong_offset=0)
    _compare(tmp_path, [sender], report)
    assert (report.lost, report.duplicated, report.out_of_order) == expected
    assert report.failed == any(expected)
