"""Snapshots of a worker's state: a disposable cache that saves it from reading the whole log again.

A snapshot is one `.npz` file that is complete or absent: written under another name, then renamed. It is not synced to
disk; a file that a power cut left half written fails its checksum and is passed over, as is any that does not fit.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.broker.port import Place

KEPT: Final = 2
"""Snapshots kept; the one before the newest serves when the newest is damaged."""

_META = "meta"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State after everything before `positions` was applied. `identity`: what it was made from."""

    identity: str
    positions: Mapping[Place, int]
    arrays: dict[str, NDArray[Any]]


class SnapshotStore:
    """Snapshots of one worker in a directory of its own."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in directory.glob(f"{name}-*.tmp"):
            leftover.unlink(missing_ok=True)

    def save(self, snapshot: Snapshot) -> Path:
        """Write a snapshot and forget the oldest ones."""
        known = self._numbers()
        path = self._path(max(known, default=0) + 1)
        positions = [[hub, partition, offset] for (hub, partition), offset in snapshot.positions.items()]
        meta = json.dumps({"identity": snapshot.identity, "positions": positions}).encode()
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **{_META: np.frombuffer(meta, np.uint8)}, **snapshot.arrays)
        temporary.replace(path)
        for number in sorted(known, reverse=True)[KEPT - 1 :]:
            self._path(number).unlink(missing_ok=True)
        return path

    def newest(self, identity: str, limits: Mapping[Place, int]) -> Snapshot | None:
        """The newest whole snapshot of this identity whose positions lie within `limits`, or None."""
        for number in sorted(self._numbers(), reverse=True):
            snapshot = self._read(self._path(number))
            if snapshot is None or snapshot.identity != identity:
                continue
            if all(offset <= limits.get(place, -1) for place, offset in snapshot.positions.items()):
                return snapshot
        return None

    def _numbers(self) -> list[int]:
        stems = (path.stem.removeprefix(f"{self._name}-") for path in self._directory.glob(f"{self._name}-*.npz"))
        return [int(stem) for stem in stems if stem.isdecimal()]

    def _path(self, number: int) -> Path:
        return self._directory / f"{self._name}-{number:012d}.npz"

    def _read(self, path: Path) -> Snapshot | None:
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            meta = json.loads(arrays.pop(_META).tobytes())
            positions = {(str(hub), int(partition)): int(offset) for hub, partition, offset in meta["positions"]}
            return Snapshot(str(meta["identity"]), positions, arrays)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None
