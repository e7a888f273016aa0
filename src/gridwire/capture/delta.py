"""The only writer of one Delta table: rows and the positions they stand for in one commit.

Every commit carries a Delta application transaction per partition, `gridwire-<hub id>-<partition>` with the offset to
read next as its version. Rows and position therefore become visible together or not at all, and the table, not the
hub, is the authority on where to go on reading. What a crash leaves behind is at worst a data file no commit names;
vacuum removes it.

Two things keep a second writer out. The writer holds a lock file, because checkpoints and vacuum of two processes at
once are what damages Delta tables. And it never retries a commit on top of another's: it fails instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    PostCommitHookProperties,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError

from gridwire.capture import durable
from gridwire.core.clock import Clock, SystemClock
from gridwire.core.errors import FencedEpoch, StorageFailed
from gridwire.core.limits import MIB, check_name

HUB_ID_PROPERTY: Final = "gridwire.hub_id"
ROW_GROUP_ROWS: Final = 256 * 1024
"""Small enough that a question about one day skips most of a large file, large enough to compress well."""

_NO_HOOKS: Final = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
_WRITER: Final = WriterProperties(
    compression="ZSTD",
    compression_level=3,
    max_row_group_size=ROW_GROUP_ROWS,
    column_properties={"offset": ColumnProperties(dictionary_enabled=False, encoding="DELTA_BINARY_PACKED")},
)

_FIRST: Final = ("partition", "offset")
_SIGNED: Final = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64()}

After = Callable[[str], None]
"""Told the name of each step once it is done; tests use it to die there."""


def _nothing(step: str) -> None:
    """The step hook outside tests."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """When a table is tidied, counted in its own versions, so that restarts do not postpone it.

    Small files are merged in two tiers: often into `small_bytes`, seldom into `large_bytes`; each row is so rewritten
    about three times, whatever the flush interval. Versions of the last `keep_hours` stay readable; the log, the
    checkpoints and the memory of the writer grow with that number.
    """

    compact_versions: int = 64
    merge_versions: int = 1024
    checkpoint_versions: int = 100
    vacuum_versions: int = 720
    small_bytes: int = 16 * MIB
    large_bytes: int = 128 * MIB
    keep_hours: int = 4


class TableWriter:
    """Appends rows of one hub to one table of the lake, each event exactly once.

    Args:
        lake_root: directory of the lake; the table lies in `lake_root/<hub>`.
        hub_id: identity of the hub. A table that belongs to another one is moved aside, not continued.

    Raises:
        Unavailable: another process is writing this table. Corruption: the table's log is damaged.
    """

    def __init__(
        self,
        lake_root: Path,
        hub: str,
        hub_id: UUID,
        *,
        upkeep: Upkeep | None = None,
        clock: Clock | None = None,
        after: After = _nothing,
    ) -> None:
        self.hub = hub
        self.hub_id = hub_id
        self.path = Path(lake_root) / check_name(hub)
        self.moved_to: Path | None = None
        self._upkeep = upkeep or Upkeep()
        self._clock = clock or SystemClock()
        self._after = after
        self._positions: dict[int, int | None] = {}
        Path(lake_root).mkdir(parents=True, exist_ok=True)
        self._lock = durable.lock(self.path)
        try:
            self.repaired = durable.repair(self.path)
            self._table = self._open()
        except BaseException:
            self.close()
            raise
        self._tended = max(self.version, 0)
        self._synced = self.version

    @property
    def version(self) -> int:
        """Version of the table, -1 before its first rows."""
        return -1 if self._table is None else self._table.version()

    def position(self, partition: int) -> int | None:
        """Offset to read next, as the table has it; None when it has nothing of this partition."""
        if partition not in self._positions:
            found = None if self._table is None else self._table.transaction_version(self._app_id(partition))
            self._positions[partition] = found
        return self._positions[partition]

    def append(self, batches: Sequence[pa.RecordBatch], positions: Mapping[int, int], lost: int = 0) -> int:
        """Add rows and move the positions in one commit, durable when it returns; rows below a position are left out.

        Args:
            batches: at least one, of one partition each, with columns `partition` int32 and `offset` int64.
            positions: offset to read next, per partition.
            lost: events retention deleted before they could be read; noted in the commit.

        Returns:
            Number of rows added.

        Raises:
            FencedEpoch: somebody else wrote to this table. StorageFailed: the disk refused; open a new writer.
        """
        batches = [_storable(batch) for batch in batches]
        fresh = [kept for batch in batches if (kept := self._unseen(batch)).num_rows]
        moved = {p: offset for p, offset in positions.items() if offset > (self.position(p) or 0)}
        if not moved:
            return 0
        try:
            self._write(fresh or [batches[0].slice(0, 0)], moved, lost)
            self._after("appended")
            self._sync()
        except CommitFailedError as error:
            raise FencedEpoch(f"another process wrote to lake table {self.hub!r}: {error}") from None
        except (DeltaError, OSError) as error:
            raise StorageFailed(f"lake table {self.hub!r} cannot be written: {error}") from error
        self._positions.update(moved)
        self._after("synced")
        return sum(batch.num_rows for batch in fresh)

    def tend(self) -> list[str]:
        """Merge small files, write a checkpoint, remove what is no longer needed: whatever is due by now.

        Returns:
            What was done: `compacted`, `checkpointed`, `vacuumed`.
        """
        if self._table is None or self.version == self._tended:
            return []
        done, since = [], self._tended
        self._tended = self.version
        plan = self._upkeep
        try:
            if self._due(since, plan.compact_versions):
                self._compact(plan.large_bytes if self._due(since, plan.merge_versions) else plan.small_bytes)
                done.append("compacted")
            if self._due(since, plan.checkpoint_versions):
                self._checkpoint()
                done.append("checkpointed")
            if self._due(since, plan.vacuum_versions):
                self.vacuum()
                done.append("vacuumed")
        except CommitFailedError as error:
            raise FencedEpoch(f"another process wrote to lake table {self.hub!r}: {error}") from None
        except (DeltaError, OSError) as error:
            raise StorageFailed(f"lake table {self.hub!r} cannot be tidied: {error}") from error
        return done

    def vacuum(self, keep_hours: int | None = None) -> list[str]:
        """Remove data files that no version of the last `keep_hours` names, those of crashed writes included."""
        if self._table is None:
            return []
        removed: list[str] = self._table.vacuum(
            retention_hours=self._upkeep.keep_hours if keep_hours is None else keep_hours,
            dry_run=False,
            enforce_retention_duration=False,
            full=True,
            commit_properties=CommitProperties(max_commit_retries=0),
            post_commithook_properties=_NO_HOOKS,
        )
        self._sync()
        self._after("vacuumed")
        return removed

    def close(self) -> None:
        """Give the table up to the next writer."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _open(self) -> DeltaTable | None:
        if not DeltaTable.is_deltatable(str(self.path)):
            return None
        table = DeltaTable(str(self.path))
        owner = table.metadata().configuration.get(HUB_ID_PROPERTY)
        if owner == str(self.hub_id):
            return table
        self.moved_to = _move_aside(self.path, owner, self._clock)
        return None

    def _create(self, schema: pa.Schema) -> DeltaTable:
        configuration = {
            HUB_ID_PROPERTY: str(self.hub_id),
            "delta.logRetentionDuration": f"interval {self._upkeep.keep_hours} hours",
            "delta.deletedFileRetentionDuration": f"interval {self._upkeep.keep_hours} hours",
        }
        table = DeltaTable.create(
            str(self.path),
            schema,
            name=self.hub,
            description=f"events of hub {self.hub}, captured by gridwire",
            configuration=configuration,
            raise_if_key_not_exists=False,
        )
        self._after("created")
        return table

    def _write(self, batches: Sequence[pa.RecordBatch], moved: Mapping[int, int], lost: int) -> None:
        if self._table is None:
            self._table = self._create(batches[0].schema)
        transactions = [Transaction(self._app_id(p), offset) for p, offset in moved.items()]
        write_deltalake(
            self._table,
            pa.RecordBatchReader.from_batches(batches[0].schema, batches),
            mode="append",
            schema_mode="merge",
            writer_properties=_WRITER,
            commit_properties=CommitProperties(
                app_transactions=transactions,
                max_commit_retries=0,
                custom_metadata={"gridwire.lost_events": str(lost)} if lost else None,
            ),
            post_commithook_properties=_NO_HOOKS,
        )

    def _unseen(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Rows whose offsets the table does not have yet; usually all of them, decided by looking at one."""
        if not batch.num_rows:
            return batch
        known = self.position(batch.column("partition")[0].as_py())
        if known is None or batch.column("offset")[0].as_py() >= known:
            return batch
        return batch.filter(pc.greater_equal(batch.column("offset"), known))

    def _app_id(self, partition: int) -> str:
        return f"gridwire-{self.hub_id}-{partition}"

    def _due(self, since: int, every: int) -> bool:
        return self._tended // every > since // every

    def _sync(self) -> None:
        version = self.version
        durable.sync_commits(self.path, range(self._synced + 1, version + 1))
        self._synced = version

    def _compact(self, size_bytes: int) -> None:
        assert self._table is not None
        self._table.optimize.compact(
            target_size=size_bytes,
            max_concurrent_tasks=1,
            writer_properties=_WRITER,
            commit_properties=CommitProperties(max_commit_retries=0),
            post_commithook_properties=_NO_HOOKS,
        )
        self._after("compacting")
        self._sync()
        self._after("compacted")

    def _checkpoint(self) -> None:
        assert self._table is not None
        self._table.create_checkpoint()
        self._after("checkpointing")
        durable.sync_checkpoint(self.path, self.version)
        self._table.cleanup_metadata()
        self._reopen()
        self._after("checkpointed")

    def _reopen(self) -> None:
        """Start from the checkpoint: the library's picture of a table grows with every commit since it was opened."""
        version = self.version
        self._table = DeltaTable(str(self.path))
        if self.version != version:
            raise FencedEpoch(f"another process wrote to lake table {self.hub!r}")


def _storable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with where they come from first and without unsigned integers, which Delta does not have."""
    names = [*_FIRST, *(name for name in batch.schema.names if name not in _FIRST)]
    rows = batch.select(names)
    for place, column in enumerate(rows.schema):
        signed = _SIGNED.get(column.type)
        if signed is not None:
            rows = rows.set_column(place, column.with_type(signed), rows.column(place).cast(signed))
    return rows


def _move_aside(table: Path, owner: str | None, clock: Clock) -> Path:
    """Rename the table of an earlier hub of the same name; `@` cannot occur in a hub's name, so nothing collides."""
    moment = datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
    target = table.with_name(f"{table.name}@{moment:%Y%m%dT%H%M%SZ}-{(owner or 'unknown')[:8]}")
    table.rename(target)
    durable.sync_path(table.parent)
    return target
