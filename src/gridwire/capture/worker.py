"""The capture worker: hubs -> Delta tables, restartable at any instruction.

    poll -> decode -> gather -> (by age or size) one Delta commit per table: rows + positions -> sync
                                                                        `-> commit to the hub, for lag display only

The table's own positions decide where to read, on start and after every failure; the hub's committed position of the
group merely follows. So it does not matter where between two arrows the process dies. A table has one writer: sources
here hand out whole hubs. Workers of one group (`shared`) must reach the same lake: each commit to the hub names the
lake it was for, and a worker that is to go on with a hub in another lake, which lacks what was captured, refuses.

    hub unreachable, storage refused  what was gathered is dropped, everything is opened anew and read again
    a newer owner of the group        raise FencedEpoch: this process must end
    another lake than the group's     raise InvalidSetting: this process must end
    offsets deleted by retention      counted, logged, and noted in the commit as `gridwire.lost_events`
    hubs or partitions come and go    what was gathered is written, the tables are opened anew
    a hub went to another member      likewise; what the other one wrote first is seen by the table, and left out
    hub deleted and created again     likewise, and the table of the old hub is moved aside, see `delta`
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import UUID

import pyarrow as pa
import structlog

from gridwire.broker.port import ColumnBatch, EventSource, Place
from gridwire.capture import durable
from gridwire.capture.delta import After, TableWriter, Upkeep
from gridwire.core.clock import Clock, SystemClock
from gridwire.core.errors import FencedEpoch, InvalidSetting, Rebalanced, StorageFailed, Unavailable, UnknownHub
from gridwire.core.limits import MIB

FLUSH_S: Final = 5.0
"""Age of the oldest event not yet in its table: what makes the lake seconds, not minutes, behind."""

FLUSH_BYTES: Final = 64 * MIB
"""Arrow bytes gathered over all tables; the largest table is written first when they exceed it."""

POLL_S: Final = 1.0
"""Longest wait in one poll, so that a stop is noticed."""

RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses before opening everything anew, the last one for ever."""

Decoder = Callable[[ColumnBatch], pa.RecordBatch]
"""Events of one partition -> rows of a table with columns `partition` int32 and `offset` int64, see `decoders`."""

_RETRIED = (Unavailable, StorageFailed, UnknownHub)


class Writer(Protocol):
    """What writes the events of one hub, each exactly once; `TableWriter` and `AvroWriter` do."""

    hub: str
    moved_to: Path | None
    repaired: list[str]

    @property
    def version(self) -> int:
        """Grows with what is written."""
        ...

    def position(self, partition: int) -> int | None:
        """Offset to read next, as what was written says; None when there is nothing of this partition."""
        ...

    def append(self, batches: Sequence[pa.RecordBatch], positions: Mapping[int, int], lost: int = 0) -> int:
        """Write events and move positions, both or neither; returns the number of events. Raises StorageFailed."""
        ...

    def tend(self) -> list[str]:
        """Whatever upkeep is due; returns what was done."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...


@dataclass(slots=True)
class Totals:
    """What one run did."""

    rows: int = 0
    commits: int = 0
    lost_events: int = 0
    reopened: int = 0


@dataclass(slots=True)
class _Table:
    """A table with what was gathered for it."""

    writer: Writer
    decode: Decoder
    batches: list[pa.RecordBatch] = field(default_factory=list)
    positions: dict[int, int] = field(default_factory=dict)
    size_bytes: int = 0
    since: float = 0.0
    lost_events: int = 0

    def expected(self, partition: int) -> int:
        """Offset the next event of the partition should have."""
        return self.positions.get(partition) or self.writer.position(partition) or 0

    def clear(self) -> None:
        """Forget what was gathered."""
        self.batches.clear()
        self.positions.clear()
        self.size_bytes = self.lost_events = 0


def run(
    source_factory: Callable[[], EventSource],
    lake_root: Path,
    tables: Mapping[str, Decoder],
    stop: threading.Event,
    *,
    flush_s: float = FLUSH_S,
    flush_bytes: int = FLUSH_BYTES,
    upkeep: Upkeep | None = None,
    clock: Clock | None = None,
    after: After = lambda step: None,
    open_writer: Callable[[str, UUID], Writer] | None = None,
    shared: bool = False,
) -> Totals:
    """Capture hubs into the lake until `stop` is set; what was read by then is written before it returns.

    Args:
        source_factory: opens a source over the captured hubs that hands out whole hubs; called again whenever the hub
            was lost.
        tables: decoder per hub; a hub the source does not carry is left alone.
        flush_s: seconds. flush_bytes: Arrow bytes over all tables.
        after: told each step once it is done, for tests that die there.
        open_writer: hub and its identity to what writes its events; a Delta table in the lake unless said.
        shared: others work in this group; when one of them was faster at a table that is no reason to end.

    Raises:
        FencedEpoch: a newer capture worker took over. Corruption: a table's log is damaged. InvalidSetting: the group
        captures into another lake.
    """
    totals = Totals()
    lake = durable.identity(lake_root) if shared else ""
    log = structlog.get_logger("gridwire.capture")
    failures = 0
    retried = (*_RETRIED, FencedEpoch) if shared else _RETRIED
    source: EventSource | None = None
    clock = clock or SystemClock()
    if open_writer is None:
        open_writer = partial(_open_table, lake_root, upkeep=upkeep, clock=clock, after=after)
    while not stop.is_set():
        before = totals.commits
        session = _Session(open_writer, tables, flush_s, flush_bytes, clock, after, totals, log, lake)
        try:
            source = source or source_factory()
            session.open(source)
            while not stop.is_set() and session.step():
                pass
            session.flush_all()
        except retried as error:
            session.close()
            _let_go(source)
            source = None
            failures = 0 if totals.commits > before else failures + 1
            totals.reopened += 1
            pause = RETRY_S[min(failures, len(RETRY_S) - 1)]
            log.warning("capture reopens", reason=str(error), pause_s=pause)
            stop.wait(pause)
        except BaseException:
            _let_go(source)
            raise
        finally:
            session.close()
    _let_go(source)
    return totals


def _open_table(lake_root: Path, hub: str, hub_id: UUID, **options: Any) -> Writer:
    return TableWriter(lake_root, hub, hub_id, **options)


def _let_go(source: EventSource | None) -> None:
    if source is not None:
        try:
            source.close()
        except Unavailable:
            pass  # the hub is gone; so is what it held for us


@dataclass(slots=True)
class _Session:
    """One source and its tables, from opening them to the first failure."""

    open_writer: Callable[[str, UUID], Writer]
    decoders: Mapping[str, Decoder]
    flush_s: float
    flush_bytes: int
    clock: Clock
    after: After
    totals: Totals
    log: Any
    lake: str = ""
    source: EventSource | None = None
    tables: dict[str, _Table] = field(default_factory=dict)
    places: dict[Place, tuple[UUID, int]] = field(default_factory=dict)

    def open(self, source: EventSource) -> None:
        """Open the table of every hub, read on where the tables say, and let the hub's positions follow.

        A commit to the hub that a restart swallowed would otherwise show as lag until the partition gets an event.
        """
        self.source = source
        self.places = self._subscribed()
        captured: dict[Place, int] = {}
        for (hub, partition), (hub_id, _) in self.places.items():
            if hub not in self.tables:
                self.tables[hub] = self._open_table(hub, hub_id)
            position = self.tables[hub].writer.position(partition)
            self._check_lake(hub, partition, position or 0)
            source.seek((hub, partition), position or 0)
            if position is not None:
                captured[hub, partition] = position
        self._tell(captured)
        self.after("opened")

    def _check_lake(self, hub: str, partition: int, position: int) -> None:
        """Raise InvalidSetting when the hub was captured into another lake, and further."""
        assert self.source is not None
        known = self.source.committed().get((hub, partition))
        if self.lake and known is not None and known.metadata not in ("", self.lake) and known.offset > position:
            raise InvalidSetting(
                f"hub {hub!r} is captured into another lake: partition {partition} up to {known.offset} there, up to "
                f"{position} here. Let all capture workers reach one directory and name it with --lake; if that lake "
                f"is gone for good, stop them and say `gridwire group reset {self.source.group} {hub} --to earliest`"
            )

    def _tell(self, positions: dict[Place, int]) -> None:
        """Let the group's positions follow; whoever has the places by now does so as well."""
        assert self.source is not None
        try:
            if positions:
                self.source.commit(positions, note=self.lake)
        except Rebalanced as reason:
            self.log.info("positions are another member's to tell", reason=str(reason))

    def _subscribed(self) -> dict[Place, tuple[UUID, int]]:
        """Every place to capture, with the identity of its hub and the number of its assignment."""
        assert self.source is not None
        assigned = self.source.assigned()
        places = sorted(place for place in assigned if place[0] in self.decoders)
        return {place: (self.source.hub_id(place[0]), assigned[place]) for place in places}

    def _open_table(self, hub: str, hub_id: UUID) -> _Table:
        writer = self.open_writer(hub, hub_id)
        if writer.moved_to is not None:
            self.log.warning("hub was created anew, old table moved aside", hub=hub, to=writer.moved_to.name)
        if writer.repaired:
            self.log.warning("what a crash left of a hub's files was put right", hub=hub, files=writer.repaired)
        return _Table(writer, self.decoders[hub])

    def step(self) -> bool:
        """Wait for events, gather them, write what is due.

        Returns:
            False when hubs or partitions came or went, so that this session has to end.
        """
        assert self.source is not None
        batches = self.source.poll(self._wait_s())
        if self._subscribed() != self.places:
            return False
        if batches:
            self.after("polled")
        for batch in batches:
            if batch.hub in self.tables:
                self._gather(self.tables[batch.hub], batch)
        now = self.clock.monotonic()
        due = [t for t in self.tables.values() if t.batches and now - t.since >= self.flush_s]
        self._flush(due)
        while sum(table.size_bytes for table in self.tables.values()) > self.flush_bytes:
            self._flush([max(self.tables.values(), key=lambda table: table.size_bytes)])
        return True

    def flush_all(self) -> None:
        """Write everything gathered, even of a hub that was deleted meanwhile."""
        self._flush([table for table in self.tables.values() if table.batches])

    def _wait_s(self) -> float:
        waiting = [table.since + self.flush_s for table in self.tables.values() if table.batches]
        return min(POLL_S, max(0.0, min(waiting) - self.clock.monotonic())) if waiting else POLL_S

    def _gather(self, table: _Table, batch: ColumnBatch) -> None:
        expected = table.expected(batch.partition)
        if batch.next_offset <= expected:
            self._warn("hub has fewer events than its table: skipped", batch, batch.next_offset, expected)
            return
        first = batch.first_offset
        if first > expected:
            table.lost_events += first - expected
            self._warn("retention deleted events before they were captured", batch, expected, first)
        rows = table.decode(batch)
        if not table.batches:
            table.since = self.clock.monotonic()
        table.batches.append(rows)
        table.positions[batch.partition] = batch.next_offset
        table.size_bytes += rows.nbytes

    def _warn(self, what: str, batch: ColumnBatch, from_offset: int, to_offset: int) -> None:
        self.log.warning(what, hub=batch.hub, partition=batch.partition, from_offset=from_offset, to_offset=to_offset)

    def _flush(self, due: list[_Table]) -> None:
        assert self.source is not None
        reached: dict[Place, int] = {}
        for table in due:
            places = {(table.writer.hub, p): offset for p, offset in table.positions.items()}
            self._write(table)
            reached |= {place: offset for place, offset in places.items() if self._is_same(place)}
        if reached:
            self._tell(reached)
            self.after("committed")
        for table in due:
            done = table.writer.tend()
            if done:
                self.log.info("table tidied", table=table.writer.hub, version=table.writer.version, done=done)

    def _is_same(self, place: Place) -> bool:
        """Whether the hub of a place is still the one that was captured: another one's position is not ours to set."""
        return self._subscribed().get(place) == self.places[place]

    def _write(self, table: _Table) -> None:
        started = self.clock.monotonic()
        rows = table.writer.append(table.batches, table.positions, table.lost_events)
        self.totals.rows += rows
        self.totals.commits += 1
        self.totals.lost_events += table.lost_events
        self.log.info(
            "captured",
            table=table.writer.hub, rows=rows, size_bytes=table.size_bytes, version=table.writer.version,
            lost_events=table.lost_events, took_ms=round((self.clock.monotonic() - started) * 1000, 1),
        )  # fmt: skip
        table.clear()

    def close(self) -> None:
        """Let go of the tables, whatever state they are in."""
        for table in self.tables.values():
            table.writer.close()
        self.tables.clear()
