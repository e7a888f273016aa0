"""Snapshots of a worker's state: a disposable cache that saves it from reading the whole log again.

A snapshot is one `.npz` file that is complete or absent: written under another name, then renamed. It is not synced to
disk; a file that a power cut left half written fails its checksum and is passed over, as is any that does not fit.

Large arrays of which few change are pieces, each in a file of its own. A snapshot names the files of its pieces with
their checksums; those that did not change since the last one are shared with it.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.broker.port import Place

KEPT: Final = 2
"""Snapshots kept; the one before the newest serves when the newest is damaged."""

_META = "meta"
_UNREADABLE: Final = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile)


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
        self._files: dict[str, tuple[str, int]] = {}
        """File and checksum of each piece of the snapshot that was saved or read last."""
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in directory.glob(f"{name}-*.tmp"):
            leftover.unlink(missing_ok=True)

    def save(
        self, snapshot: Snapshot, pieces: Mapping[str, NDArray[Any]] | None = None, changed: Collection[str] = ()
    ) -> Path:
        """Write a snapshot and forget the oldest ones.

        Args:
            pieces: arrays of which only those `changed` are others than in the snapshot that was saved or read last.
        """
        known = self._numbers()
        number = max(known, default=0) + 1
        path = self._path(number)
        files = {
            name: kept if name not in changed and (kept := self._files.get(name)) else self._write(number, name, array)
            for name, array in (pieces or {}).items()
        }
        positions = [[hub, partition, offset] for (hub, partition), offset in snapshot.positions.items()]
        meta = json.dumps({"identity": snapshot.identity, "positions": positions, "pieces": files}).encode()
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **{_META: np.frombuffer(meta, np.uint8)}, **snapshot.arrays)
        temporary.replace(path)
        self._files = files
        for old in sorted(known, reverse=True)[KEPT - 1 :]:
            self._path(old).unlink(missing_ok=True)
        self._forget_pieces()
        return path

    def _write(self, number: int, name: str, array: NDArray[Any]) -> tuple[str, int]:
        path = self._directory / f"{self._name}-{number:012d}-{name}.npy"
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        return path.name, zlib.crc32(np.ascontiguousarray(array).data)

    def _forget_pieces(self) -> None:
        """Delete files that no snapshot names."""
        named = {file for number in self._numbers() for file, _ in self._pieces_of(number).values()}
        for path in self._directory.glob(f"{self._name}-{'[0-9]' * 12}-*.npy"):
            if path.name not in named:
                path.unlink(missing_ok=True)

    def _pieces_of(self, number: int) -> dict[str, tuple[str, int]]:
        try:
            with np.load(self._path(number), allow_pickle=False) as stored:
                return _pieces(json.loads(stored[_META].tobytes()))
        except _UNREADABLE:
            return {}

    def newest(self, identity: str, limits: Mapping[Place, int]) -> Snapshot | None:
        """The newest whole snapshot of this identity whose positions lie within `limits`, or None."""
        for number in sorted(self._numbers(), reverse=True):
            snapshot = self._read(self._path(number))
            if snapshot is None or snapshot.identity != identity:
                continue
            if all(offset <= limits.get(place, -1) for place, offset in snapshot.positions.items()):
                self._files = self._pieces_of(number)
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
            return Snapshot(str(meta["identity"]), positions, arrays | dict(self._read_pieces(_pieces(meta))))
        except _UNREADABLE:
            return None

    def _read_pieces(self, pieces: Mapping[str, tuple[str, int]]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Pieces as they lie on the disk. Raises ValueError, OSError: damaged or gone."""
        for name, (file, checksum) in pieces.items():
            array = np.load(self._directory / file, mmap_mode="r", allow_pickle=False)
            if zlib.crc32(array.data) != checksum:
                raise ValueError(f"{file} is damaged")
            yield name, array


def _pieces(meta: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    return {str(name): (str(file), int(checksum)) for name, (file, checksum) in meta["pieces"].items()}
