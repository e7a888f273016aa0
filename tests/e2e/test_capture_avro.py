"""A hub whose events are kept as Avro files, through a kill of the hub and a stop, as its owner finds them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro

WAIT_S = 120.0


def captured(data: Path) -> list[tuple[int, bytes]]:
    found = []
    for path in data.glob("capture/feeder7/readings/*/*/*/*/*/*/*.avro"):
        with path.open("rb") as file:
            found += [(each["SequenceNumber"], each["Body"]) for each in fastavro.reader(file)]
    return sorted(found)


def wait_for(data: Path, count: int) -> list[tuple[int, bytes]]:
    deadline = time.monotonic() + WAIT_S
    while len(found := captured(data)) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} events captured"
        time.sleep(0.05)
    return found


def test_events_become_files_once_through_a_kill(start_hub: Callable[..., Any], tmp_path: Path) -> None:
    flags = ("--avro-window", "1", "--namespace", "feeder7")
    hub = start_hub(*flags, kafka_port="off")
    hub.cli("hub", "create", "readings", "--partitions", "1", "--capture-avro", "on")
    hub.cli("send", "readings", text="0\n1\n2\n")
    wait_for(tmp_path / "data", 3)
    hub.kill()
    again = start_hub(*flags, kafka_port="off", data=tmp_path / "data")
    again.cli("send", "readings", text="3\n4\n")
    found = wait_for(tmp_path / "data", 5)
    deadline = time.monotonic() + 60
    while not (partitions := again.get("/v1/groups/capture.avro")["partitions"]):  # the position follows the file
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert partitions[0]["hub"] == "readings"
    assert again.stop() == 0
    assert found == captured(tmp_path / "data") == [(n, b"%d" % n) for n in range(5)]


def test_a_path_that_names_two_files_alike_is_refused(gridwire_cli: Callable[..., Any], tmp_path: Path) -> None:
    done = gridwire_cli("up", "--data", str(tmp_path / "data"), "--avro-path", "{EventHub}.avro", check=False)
    assert done.returncode == 1
    assert "avro_path lacks {PartitionId}" in done.stderr
