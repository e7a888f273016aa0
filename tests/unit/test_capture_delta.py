from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from gridwire.capture import durable
from gridwire.capture.delta import HUB_ID_PROPERTY, TableWriter, Upkeep
from gridwire.core.clock import ManualClock
from gridwire.core.errors import Corruption, FencedEpoch, StorageFailed, Unavailable

OLD, NEW = UUID(int=0xA << 124), UUID(int=0xB << 124)


def rows(partition: int, first: int, end: int, **more: pa.Array) -> pa.RecordBatch:
    columns = {
        "partition": pa.array([partition] * (end - first), pa.int32()),
        "offset": pa.array(range(first, end), pa.int64()),
        "ts_end": pa.array(range(first, end), pa.timestamp("ms", "UTC")),
    }
    return pa.record_batch(columns | more)


def offsets(lake: Path, hub: str = "h") -> list[tuple[int, int]]:
    table = DeltaTable(str(lake / hub)).to_pyarrow_table()
    return sorted(zip(table["partition"].to_pylist(), table["offset"].to_pylist(), strict=True))


def test_rows_and_positions_of_all_partitions_go_into_one_commit(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "h", NEW)
    assert (writer.version, writer.position(0)) == (-1, None)
    assert writer.append([rows(0, 0, 3), rows(1, 5, 7)], {0: 3, 1: 7}) == 5
    assert (writer.version, writer.position(0), writer.position(1), writer.position(2)) == (1, 3, 7, None)
    writer.close()
    again = TableWriter(tmp_path, "h", NEW)
    assert (again.version, again.position(0), again.position(1)) == (1, 3, 7)
    again.close()
    assert offsets(tmp_path) == [(0, 0), (0, 1), (0, 2), (1, 5), (1, 6)]


def test_events_the_table_has_are_left_out(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "h", NEW)
    writer.append([rows(0, 0, 10)], {0: 10})
    assert writer.append([rows(0, 0, 10)], {0: 10}) == 0
    assert writer.version == 1, "nothing to say, no commit"
    assert writer.append([rows(0, 4, 12)], {0: 12}) == 2
    assert writer.append([rows(0, 12, 12)], {0: 20}) == 0
    assert writer.position(0) == 20, "a position moves on although no event became a row"
    assert [offset for _, offset in offsets(tmp_path)] == list(range(12))
    writer.close()


def test_columns_are_put_in_order_and_unsigned_ones_signed(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "h", NEW)
    batch = rows(0, 0, 2, quality=pa.array([0, 2**32 - 1], pa.uint32()), flags=pa.array([1, 65535], pa.uint16()))
    writer.append([batch.select(["quality", "offset", "flags", "partition"])], {0: 2})
    table = DeltaTable(str(tmp_path / "h")).to_pyarrow_table()
    assert table.column_names == ["partition", "offset", "quality", "flags"]
    assert (table["quality"].to_pylist(), table["flags"].to_pylist()) == ([0, 2**32 - 1], [1, 65535])
    writer.close()


def test_a_new_column_is_null_in_older_rows(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "h", NEW)
    writer.append([rows(0, 0, 1)], {0: 1})
    writer.append([rows(0, 1, 2, version=pa.array([4], pa.int16()))], {0: 2})
    table = DeltaTable(str(tmp_path / "h")).to_pyarrow_table().sort_by("offset")
    assert table["version"].to_pylist() == [None, 4]
    writer.close()


def test_a_column_of_another_type_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "h", NEW)
    writer.append([rows(0, 0, 1, x=pa.array([1], pa.int64()))], {0: 1})
    with pytest.raises(StorageFailed, match="'h' cannot be written"):
        writer.append([rows(0, 1, 2, x=pa.array([[1]], pa.list_(pa.int64())))], {0: 2})
    writer.close()
    assert offsets(tmp_path) == [(0, 0)]


def test_a_table_has_one_writer(tmp_path: Path) -> None:
    first = TableWriter(tmp_path, "h", NEW)
    with pytest.raises(Unavailable, match="another process"):
        TableWriter(tmp_path, "h", NEW)
    first.close()
    TableWriter(tmp_path, "h", NEW).close()


def test_a_writer_that_lost_its_lock_cannot_add_rows(tmp_path: Path) -> None:
    zombie = TableWriter(tmp_path, "h", NEW)
    zombie.append([rows(0, 0, 2)], {0: 2})
    zombie.close()
    heir = TableWriter(tmp_path, "h", NEW)
    heir.append([rows(0, 2, 4)], {0: 4})
    with pytest.raises(FencedEpoch, match="another process"):
        zombie.append([rows(0, 2, 4)], {0: 4})
    heir.append([rows(0, 4, 5)], {0: 5})
    heir.close()
    assert offsets(tmp_path) == [(0, n) for n in range(5)]


def test_the_table_of_a_hub_created_anew_starts_empty_and_the_old_one_stays_beside_it(tmp_path: Path) -> None:
    clock = ManualClock(1_451_606_400_000)
    old = TableWriter(tmp_path, "h", OLD, clock=clock)
    old.append([rows(0, 0, 9)], {0: 9})
    old.close()
    new = TableWriter(tmp_path, "h", NEW, clock=clock)
    assert new.moved_to == tmp_path / "h@20160101T000000Z-a0000000"
    assert (new.position(0), new.version) == (None, -1)
    new.append([rows(0, 0, 1)], {0: 1})
    new.close()
    assert len(offsets(tmp_path)) == 1
    assert len(offsets(tmp_path, new.moved_to.name)) == 9
    assert DeltaTable(str(tmp_path / "h")).metadata().configuration[HUB_ID_PROPERTY] == str(NEW)


def test_small_files_are_merged_and_positions_survive_checkpoint_and_log_cleanup(tmp_path: Path) -> None:
    upkeep = Upkeep(compact_versions=4, merge_versions=16, checkpoint_versions=5, vacuum_versions=9, keep_hours=0)
    writer = TableWriter(tmp_path, "h", NEW, upkeep=upkeep)
    done: list[str] = []
    for n in range(30):
        writer.append([rows(n % 2, 10 * n, 10 * n + 10)], {n % 2: 10 * n + 10})
        done += writer.tend()
    writer.close()
    assert set(done) == {"compacted", "checkpointed", "vacuumed"}
    table = DeltaTable(str(tmp_path / "h"))
    assert len(table.file_uris()) <= 5
    log = tmp_path / "h" / "_delta_log"
    assert not (log / f"{0:020d}.json").exists(), "commits below a checkpoint are removed"
    again = TableWriter(tmp_path, "h", NEW)
    assert (again.position(0), again.position(1)) == (290, 300)
    again.close()
    assert [offset for _, offset in sorted(offsets(tmp_path), key=lambda row: row[1])] == list(range(300))


def test_a_young_table_is_left_alone(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "h", NEW)
    for n in range(5):
        writer.append([rows(0, n, n + 1)], {0: n + 1})
        assert writer.tend() == []
    writer.close()


def test_upkeep_that_fell_due_before_a_restart_is_not_postponed_for_ever(tmp_path: Path) -> None:
    done = []
    for n in range(8):
        writer = TableWriter(tmp_path, "h", NEW, upkeep=Upkeep(compact_versions=4))
        writer.append([rows(0, n, n + 1)], {0: n + 1})
        done += writer.tend()
        writer.close()
    assert "compacted" in done


def test_data_files_are_zstd_with_row_groups_small_enough_to_skip(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "h", NEW)
    writer.append([rows(0, 0, 300_000)], {0: 300_000})
    writer.close()
    (uri,) = DeltaTable(str(tmp_path / "h")).file_uris()
    metadata = pq.read_metadata(uri)
    assert metadata.num_row_groups == 2
    assert metadata.row_group(0).column(1).compression == "ZSTD"


def test_lost_events_are_noted_in_the_commit(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "h", NEW)
    writer.append([rows(0, 7, 8)], {0: 8}, lost=7)
    writer.close()
    newest = DeltaTable(str(tmp_path / "h")).history(1)[0]
    assert newest["gridwire.lost_events"] == "7"


# -- what a power cut leaves


def two_commits(lake: Path) -> tuple[Path, Path]:
    """A table of two commits; its directory and the newest data file."""
    writer = TableWriter(lake, "h", NEW)
    writer.append([rows(0, 0, 5)], {0: 5})
    writer.append([rows(0, 5, 9)], {0: 9})
    writer.close()
    actions = [json.loads(line) for line in durable.commit_file(lake / "h", 2).read_text().splitlines()]
    (add,) = (action["add"] for action in actions if "add" in action)
    return lake / "h", lake / "h" / add["path"]


@pytest.mark.parametrize("tear", ["data gone", "data short", "data zeroed", "commit empty", "commit cut"])
def test_a_torn_newest_commit_is_taken_back_and_its_events_are_written_again(tmp_path: Path, tear: str) -> None:
    table, data = two_commits(tmp_path)
    commit = durable.commit_file(table, 2)
    match tear:
        case "data gone":
            data.unlink()
        case "data short":
            data.write_bytes(data.read_bytes()[:100])
        case "data zeroed":
            data.write_bytes(bytes(data.stat().st_size))
        case "commit empty":
            commit.write_bytes(b"")
        case "commit cut":
            commit.write_bytes(commit.read_bytes()[:-40])
    writer = TableWriter(tmp_path, "h", NEW)
    assert writer.repaired == [commit.name]
    assert writer.position(0) == 5
    writer.append([rows(0, 5, 9)], {0: 9})
    writer.close()
    assert offsets(tmp_path) == [(0, n) for n in range(9)]


def test_a_sound_table_is_left_alone(tmp_path: Path) -> None:
    two_commits(tmp_path)
    writer = TableWriter(tmp_path, "h", NEW)
    assert (writer.repaired, writer.position(0)) == ([], 9)
    writer.close()


def test_more_damage_than_a_power_cut_does_is_reported_not_removed(tmp_path: Path) -> None:
    table, _ = two_commits(tmp_path)
    for version in range(3):
        durable.commit_file(table, version).write_bytes(b"{")
    with pytest.raises(Corruption, match="several commits"):
        TableWriter(tmp_path, "h", NEW)
    assert len(list((table / "_delta_log").glob("*.json"))) == 3
    durable.commit_file(table, 0).unlink()  # the lock was given back all the same
    with pytest.raises(Corruption), pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "TORN_COMMITS_MAX", 1)
        TableWriter(tmp_path, "h", NEW)


@pytest.mark.parametrize("tear", ["checkpoint", "pointer"])
def test_a_torn_checkpoint_is_removed_and_the_commits_tell_the_same(tmp_path: Path, tear: str) -> None:
    writer = TableWriter(tmp_path, "h", NEW, upkeep=Upkeep(checkpoint_versions=2))
    for n in range(4):
        writer.append([rows(0, n, n + 1)], {0: n + 1})
        writer.tend()
    writer.close()
    log = tmp_path / "h" / "_delta_log"
    newest = max(log.glob("*.checkpoint.parquet"))
    (newest if tear == "checkpoint" else log / "_last_checkpoint").write_bytes(b"PAR1")
    again = TableWriter(tmp_path, "h", NEW)
    assert "_last_checkpoint" in again.repaired
    assert again.position(0) == 4
    again.close()
    assert len(offsets(tmp_path)) == 4
