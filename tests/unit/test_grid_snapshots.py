"""Snapshots in pieces: what did not change is not written again, and nothing that is damaged is believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gridwire.grid import cell_rows
from gridwire.grid.cell_rows import CellRows
from gridwire.grid.snapshots import Snapshot, SnapshotStore

PLACE = ("readings", 0)
EVERYTHING = {PLACE: 2**62}


def snapshot(position: int) -> Snapshot:
    return Snapshot("same", {PLACE: position}, {"small": np.array([position])})


def rows(**values: int) -> dict[str, NDArray[Any]]:
    return {name: np.full(100, value) for name, value in values.items()}


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.npy"))


def content(store: SnapshotStore) -> dict[str, int] | None:
    found = store.newest("same", EVERYTHING)
    return None if found is None else {name: int(array[0]) for name, array in found.arrays.items()}


def test_only_what_changed_is_written_again(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, "loads")
    store.save(snapshot(1), rows(a=1, b=2), {"a", "b"})
    first = files(tmp_path)
    store.save(snapshot(2), rows(a=3, b=2), {"a"})
    assert files(tmp_path) == sorted([*first, "loads-000000000002-a.npy"])
    assert content(store) == {"small": 2, "a": 3, "b": 2}


def test_files_that_no_snapshot_names_are_deleted(tmp_path: Path) -> None:
    SnapshotStore(tmp_path, "loads-0").save(snapshot(1), rows(a=7), {"a"})
    store = SnapshotStore(tmp_path, "loads")
    for number in range(1, 6):
        store.save(snapshot(number), rows(a=number, b=0) if number < 4 else rows(a=number), {"a"})
    assert files(tmp_path) == ["loads-0-000000000001-a.npy", "loads-000000000004-a.npy", "loads-000000000005-a.npy"]
    assert content(SnapshotStore(tmp_path, "loads-0")) == {"small": 1, "a": 7}


def test_a_new_store_goes_on_from_the_snapshot_it_has_read(tmp_path: Path) -> None:
    SnapshotStore(tmp_path, "loads").save(snapshot(1), rows(a=1, b=2), {"a", "b"})
    store = SnapshotStore(tmp_path, "loads")
    assert content(store) == {"small": 1, "a": 1, "b": 2}
    store.save(snapshot(2), rows(a=5, b=2), {"a"})
    assert "loads-000000000002-b.npy" not in files(tmp_path)
    assert content(SnapshotStore(tmp_path, "loads")) == {"small": 2, "a": 5, "b": 2}


def test_a_new_store_that_has_read_nothing_writes_all(tmp_path: Path) -> None:
    SnapshotStore(tmp_path, "loads").save(snapshot(1), rows(a=1), {"a"})
    store = SnapshotStore(tmp_path, "loads")
    store.save(snapshot(2), rows(a=9), set())
    assert content(store) == {"small": 2, "a": 9}


@pytest.mark.parametrize("damage", ["bit", "short", "gone"])
def test_a_snapshot_with_a_damaged_piece_is_passed_over(tmp_path: Path, damage: str) -> None:
    store = SnapshotStore(tmp_path, "loads")
    store.save(snapshot(1), rows(a=1, b=2), {"a", "b"})
    store.save(snapshot(2), rows(a=3, b=2), {"a"})
    path = tmp_path / "loads-000000000002-a.npy"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data if damage == "bit" else data[:-9])
    assert content(SnapshotStore(tmp_path, "loads")) == {"small": 1, "a": 1, "b": 2}
    path = tmp_path / "loads-000000000001-b.npy"
    path.write_bytes(b"")
    assert content(SnapshotStore(tmp_path, "loads")) is None


def test_rows_at_rest_keep_what_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_rows, "IN_MEMORY_BYTES", 0)
    cells = CellRows((4, 2, 5_000), tmp_path)
    if not cells.is_in_file:
        pytest.skip("this system cannot")
    assert list(tmp_path.iterdir()) == [], "the file has no name"
    assert not cells.array.any()
    for row in range(4):
        cells.array[row] = row + 1
        cells.use([row])
    cells.use([])
    assert [int(row.min()) for row in cells.array] == [int(row.max()) for row in cells.array] == [1, 2, 3, 4]


def test_cells_leave_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_rows, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(cell_rows, "FREE_TIMES", 10**12)
    assert not CellRows((4, 2, 5_000), tmp_path).is_in_file


def test_small_cells_and_those_without_a_directory_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not CellRows((4, 2, 5_000), tmp_path).is_in_file
    monkeypatch.setattr(cell_rows, "IN_MEMORY_BYTES", 0)
    assert not CellRows((4, 2, 5_000)).is_in_file
    cells = CellRows((4, 2, 5_000), tmp_path / "nowhere")
    assert not cells.is_in_file
    cells.array[1] = 1
    cells.use([1])
    assert int(cells.array.sum()) == 10_000
