"""Make a data directory startable again after damage to its control journal, without losing an event.

What is whole of the journal is kept. Hubs that only the lost part knew are taken over under new names, from their
directories. Whatever the lost part may have handed out is not handed out again: producer ids go on far above, and
owners of worker groups start anew. Positions may be older than they were: readers then see some events twice.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from gridwire.broker.control import JOURNAL, ControlState, HubRecord, pack
from gridwire.core.batch import check_produced, decode
from gridwire.core.errors import GridwireError
from gridwire.core.settings import UNLIMITED, HubSettings
from gridwire.log import disk
from gridwire.log.partition import PartitionLog
from gridwire.log.scan import Damage, scan
from gridwire.log.segment import covered, current_files

PRODUCER_IDS_SKIPPED: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What was done. `kept_at` is the damaged journal, for a second look."""

    change_sets: int
    damaged_places: int
    entries: int
    hubs_taken_over: dict[str, str]
    kept_at: Path


def salvage(directory: Path, now_ms: int) -> Salvaged:
    """Write a new control journal from what is whole of the old one.

    Raises:
        GridwireError: no data directory, or a hub runs on it. OSError.
    """
    if not (directory / "hubs").is_dir():
        raise GridwireError(f"{directory} is no data directory of a hub: name one with --data")
    lock = disk.DirectoryLock(directory)
    try:
        state = ControlState()
        change_sets, damaged = _replay(directory / "control", state)
        taken_over = _take_over(directory / "hubs", state, now_ms)
        _start_anew(state)
        kept_at = directory / f"control.damaged-{now_ms}"
        _write(directory, state, kept_at, now_ms)
        return Salvaged(change_sets, damaged, len(state.entries), taken_over, kept_at)
    finally:
        lock.release()


def _replay(control: Path, state: ControlState) -> tuple[int, int]:
    change_sets = damaged = 0
    for path in current_files(control)[0] if control.is_dir() else ():
        descriptor = disk.open_read(path)
        try:
            for found in scan(descriptor, 0, covered(path)[0]):
                if isinstance(found, Damage):
                    damaged += 1
                    continue
                change_sets += 1
                data = disk.read_at(descriptor, found.header.size, found.position)
                state.apply({(event.key or b"").decode(): event.value for event in decode(data)})
        finally:
            os.close(descriptor)
    return change_sets, damaged


def _take_over(hubs: Path, state: ControlState, now_ms: int) -> dict[str, str]:
    """Name the hubs whose directories have events and no record: name by directory."""
    known = {msgspec.msgpack.decode(value, type=HubRecord).id.replace("-", "") for _, value in state.under("hub/")}
    taken: dict[str, str] = {}
    for path in sorted(hubs.iterdir()):
        numbers = [int(part.name) for part in path.iterdir() if part.name.isdigit()] if path.is_dir() else []
        if path.name in known or not any(file.stat().st_size for file in path.glob("*/*.log")):
            continue
        name = f"recovered.{path.name[:12]}"
        kept = HubSettings(retention_ms=UNLIMITED, retention_bytes=UNLIMITED)
        state.entries[f"hub/{name}"] = pack(HubRecord(str(UUID(path.name)), max(numbers) + 1, kept, created_ms=now_ms))
        taken[path.name] = name
    return taken


def _start_anew(state: ControlState) -> None:
    known = int.from_bytes(state.entries.get("producer", b"\0"), "big")
    state.entries["producer"] = (known + PRODUCER_IDS_SKIPPED).to_bytes(8, "big")
    for group, _ in state.under("owner/"):
        del state.entries[f"owner/{group}"]


def _write(directory: Path, state: ControlState, kept_at: Path, now_ms: int) -> None:
    fresh = directory / "control.new"
    for leftover in fresh.glob("*"):
        leftover.unlink()
    log = PartitionLog(fresh, JOURNAL, 0, HubSettings(retention_ms=UNLIMITED), sync=True, now_ms=now_ms)
    for batch in state.snapshot(now_ms):
        [outcome] = log.append_group([(memoryview(batch), check_produced(batch))], now_ms)
        if isinstance(outcome, GridwireError):
            raise outcome
    log.close()
    if (directory / "control").is_dir():
        (directory / "control").rename(kept_at)
    fresh.rename(directory / "control")
    disk.sync_directory(directory)
