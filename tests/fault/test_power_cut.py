"""The power is cut again and again under load: what was acknowledged with `fsync` is there afterwards.

The hub runs on a file system of our own (power_cut_disk.py) that forgets whatever was not synced: bytes of files, and
names in directories. At a cut every call fails from one moment on, the hub is killed, and the disk comes back with
what was durable; half of the cuts drop every unsynced change, the others keep a random part of them, down to single
sectors. Segments are small, so that rolls are hit too, and between the cuts hubs are created, partitions added,
positions committed and a first event put into each new partition.

Negative controls: with `--durability os` the same cuts lose acknowledged events; so do a disk that lies about its
syncs, and a hub that does not sync directories.

More cuts: GRIDWIRE_TEST_POWER_CUTS=200. Another sequence: GRIDWIRE_TEST_SEED=n.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

CUTS = int(os.environ.get("GRIDWIRE_TEST_POWER_CUTS", "20"))
SEED = int(os.environ.get("GRIDWIRE_TEST_SEED", "20160101"))
CUTS_A_ROUND = 20
RUN_MS = (20, 300)
SEGMENT_BYTES = 128 * 1024
MOUNT_S = 10.0


def load_kill_test() -> ModuleType:
    """The producers, the checker and the hub's process are those of the kill test."""
    path = Path(__file__).with_name("test_kill_hub.py")
    spec = importlib.util.spec_from_file_location("kill_hub_parts", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


kill = load_kill_test()


def why_not() -> str:
    """Why there can be no file system of our own here, if so."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "needs /dev/fuse, readable and writable: not so on this machine"
    try:
        import mfusepy  # noqa: F401
    except ImportError:
        return "needs the package mfusepy (in the dev extra)"
    except OSError as error:
        return f"needs libfuse, package fuse3: {error}"
    return ""


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")


class Disk:
    """The file system's process."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self.place = place
        self.lost_bytes = self.lost_names = 0
        script = Path(__file__).with_name("power_cut_disk.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        deadline_s = time.monotonic() + MOUNT_S
        while not place.is_mount():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.close()
                pytest.skip("this machine does not let the test mount a FUSE file system")
            time.sleep(0.02)

    def _tell(self, line: str) -> dict[str, int]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def lie(self) -> None:
        """Answer every sync at once and do nothing."""
        self._tell("deaf")

    def cut(self, dice: random.Random) -> None:
        """The power goes: nothing reaches the disk from now on."""
        keep = 0.0 if dice.random() < 0.5 else dice.random()
        told = self._tell(f"cut {dice.randrange(2**31)} {keep}")
        self.lost_bytes += told["lost_bytes"]
        self.lost_names += told["lost_names"]

    def back(self) -> None:
        """The power is back."""
        self._tell("on")

    def close(self) -> None:
        """Unmount; the process ends with it."""
        subprocess.run(["umount", "-l", str(self.place)], check=False, capture_output=True)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class PoweredHub(kill.Hub):  # type: ignore[name-defined,misc]
    """A hub whose data directory lies on the forgetful disk."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        super().__init__(directory)
        self.data = disk.place / "data"
        self.durability = "fsync"
        self.http_port = kill.free_port()

    def flags(self) -> list[str]:
        return ["--durability", self.durability, "--http-port", str(self.http_port)]

    def create(self) -> None:
        topic = NewTopic(kill.HUB, kill.PARTITIONS, 1, config={"segment.bytes": str(SEGMENT_BYTES)})
        admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        admin.create_topics([topic])[kill.HUB].result(20)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}{path}", data, {"content-type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)


class Registry:
    """What the control plane acknowledged: hubs, how many partitions they have, and what lies in the last one."""

    def __init__(self) -> None:
        self.partitions: dict[str, int] = {}
        self.positions: dict[str, int] = {}
        self.number = 0

    def change(self, hub: PoweredHub) -> None:
        """A new hub, one partition more for it, an event in that, and a position."""
        self.number += 1
        name = f"extra-{self.number}"
        hub.ask("POST", "/v1/hubs", {"name": name, "partitions": 1})
        self.partitions[name] = 1
        hub.ask("PATCH", f"/v1/hubs/{name}", {"partitions": 2})
        hub.ask("POST", f"/v1/hubs/{name}/events?partition=1", {"number": self.number})
        self.partitions[name] = 2
        hub.ask("POST", f"/v1/groups/group-{self.number}/reset", {"hub": name, "to": 0})
        self.positions[f"group-{self.number}"] = 0

    def missing(self, hub: PoweredHub) -> list[str]:
        """What the hub does not know any more."""
        found = {each["name"]: each for each in hub.ask("GET", "/v1/hubs")["hubs"]}
        groups = {each["group"] for each in hub.ask("GET", "/v1/groups")["groups"]}
        gone = [group for group in self.positions if group not in groups]
        for name, partitions in self.partitions.items():
            if name not in found or found[name]["partitions"] < partitions:
                gone.append(name)
            elif partitions == 2 and found[name]["bounds"][1]["end"] != 1:
                gone.append(f"{name}: the event in its second partition")
        return gone


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.close()


@pytest.fixture
def hub(tmp_path: Path, disk: Disk) -> Iterator[PoweredHub]:
    hub = PoweredHub(tmp_path, disk)
    yield hub
    hub.kill()


def cut_and_restart(hub: PoweredHub, disk: Disk, dice: random.Random) -> None:
    disk.cut(dice)
    hub.kill()
    disk.back()
    hub.start()


def run_round(hub: PoweredHub, disk: Disk, load: Any, cuts: int, dice: random.Random) -> Registry:
    """Cut again and again while the producers work; the hub runs afterwards."""
    registry = Registry()
    for number in range(cuts):
        before = load.acked_bytes()
        if number % 2 == 0:
            registry.change(hub)
        load.wait_for_ack(before, hub)
        time.sleep(dice.uniform(*RUN_MS) / 1000)
        assert hub.running, f"the hub ended by itself\n{hub.complaints()}"
        cut_and_restart(hub, disk, dice)
    return registry


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * CUTS)
def test_what_was_acknowledged_survives_power_cuts(tmp_path: Path, disk: Disk, tell: Any) -> None:
    dice = random.Random(SEED)
    left, told_in_all = CUTS, 0
    while left:
        cuts = min(left, CUTS_A_ROUND)
        directory = tmp_path / f"round-{left}"
        directory.mkdir()
        hub = PoweredHub(directory, disk)
        hub.data = disk.place / f"data-{left}"
        load = None
        try:
            hub.start()
            hub.create()
            load = kill.Load(hub, directory)
            registry = run_round(hub, disk, load, cuts, dice)
            report = load.finish()
            told = load.told()
            findings = kill.check(kill.read_all(hub), told)
            told_in_all += len(told)
            assert not findings.counts, [f"seed {SEED}", dict(findings.counts), findings.examples]
            assert not report["fatal"], report
            assert registry.missing(hub) == []
            assert "kept in place" not in hub.complaints()
        finally:
            if load is not None:
                load.abort()
            hub.kill()
        left -= cuts
    assert disk.lost_bytes > 0
    taken = {"unsynced bytes gone": disk.lost_bytes, "unsynced names gone": disk.lost_names}
    tell("power cut, fsync", cycles=CUTS, acknowledged=told_in_all, lost=0, duplicated=0, **taken)


# Negative controls

NO_DIRECTORY_SYNC = "from gridwire.log import disk; disk.sync_directory = lambda path: None"


def lost_in_one_cut(hub: PoweredHub, disk: Disk, directory: Path) -> int:
    """Acknowledged events that a cut takes which drops everything unsynced. The hub is up and has its topic."""
    load = kill.Load(hub, directory)
    try:
        load.wait_for_ack([200 * kill.ACK.size] * 2, hub)
        disk._tell("cut 1 0")
        hub.kill()
        load.abort()
        told = load.told()
        disk.back()
        hub.durability = "fsync"
        hub.start()
        if kill.HUB not in {each["name"] for each in hub.ask("GET", "/v1/hubs")["hubs"]}:
            return len(told)
        return kill.check(kill.read_all(hub), told).counts["lost"]
    finally:
        load.abort()


@pytest.mark.slow
def test_control_without_syncs_a_cut_loses_acknowledged_events(
    tmp_path: Path, disk: Disk, hub: PoweredHub, tell: Any
) -> None:
    hub.start()
    hub.create()
    assert hub.stop() == 0
    hub.durability = "os"
    hub.start()
    lost = lost_in_one_cut(hub, disk, tmp_path)
    tell("power cut, control: os", cycles=1, lost=lost)
    assert lost > 0


@pytest.mark.slow
def test_control_a_disk_that_lies_loses_acknowledged_events(
    tmp_path: Path, disk: Disk, hub: PoweredHub, tell: Any
) -> None:
    hub.start()
    hub.create()
    disk.lie()
    lost = lost_in_one_cut(hub, disk, tmp_path)
    tell("power cut, control: a disk that lies", cycles=1, lost=lost)
    assert lost > 0


@pytest.mark.slow
def test_control_without_synced_directories_a_cut_loses_events(
    tmp_path: Path, disk: Disk, hub: PoweredHub, tell: Any
) -> None:
    hub.prelude = NO_DIRECTORY_SYNC
    hub.start()
    hub.create()
    lost = lost_in_one_cut(hub, disk, tmp_path)
    tell("power cut, control: no synced directories", cycles=1, lost=lost)
    assert lost > 0
