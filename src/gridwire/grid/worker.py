"""The loads worker: reads `readings`, keeps the state, publishes facts, and survives anything between two commits.

One commit makes three things durable together: how far each partition was read, the facts that changed, and the
readings that were rejected. The state itself is never committed, because it can be made again:

    start:    newest network model -> newest snapshot that is not ahead of the committed positions (or an empty state)
    rebuild:  read on from there up to the committed positions WITHOUT publishing: state = what it was at that commit
    go on:    read, apply, publish with each commit

A reading is therefore in exactly one commit's effect wherever the process dies: before the commit it is read again,
after it it is only rebuilt. `gridwire.grid.state` is a pure function of the positions, so the facts after a rebuild
continue those before it, versions and peaks included.

A new network model ends the state: it is rebuilt from the log with the new model, then every (unit, interval) of the
window is told again under the next generation of versions. The committed position of `grid.network` says which model
has been told, so a crash in between only tells the same facts again, byte for byte.

What the hubs must keep: `readings` longer than the window, or a rebuild without a snapshot misses what expired;
`grid.network` for ever, or there is no model to start with.

When the hub goes away the worker keeps its state and connects again. Whether a commit that got no answer took place is
then read from the committed positions; it is repeated if it did not.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, runtime_checkable
from uuid import UUID

import structlog

from gridwire.broker.port import ColumnBatch, EventSource, Output, Place
from gridwire.core.clock import Clock, SystemClock
from gridwire.core.errors import FencedEpoch, OffsetOutOfRange, StorageFailed, Unavailable, UnknownHub
from gridwire.grid.facts import FEEDERS_HUB, TRANSFORMERS_HUB
from gridwire.grid.loads import LoadsPipeline, LoadsSettings, rows_between
from gridwire.grid.network import NETWORK_HUB
from gridwire.grid.network_log import NetworkLog
from gridwire.grid.readings import QUARANTINE_HUB, READINGS_HUB
from gridwire.grid.snapshots import Snapshot, SnapshotStore

log = structlog.get_logger(__name__)

IDLE_S: Final = 0.5
"""How long a poll waits when nothing is to be committed; also how soon the stop event is noticed."""

LINGER_S: Final = 0.005
"""How long a poll waits for more when readings wait for their commit: then the input is idle."""

BACKOFF_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Pauses between attempts to reach the hub; the last one repeats."""

SNAPSHOT_SHARE: Final = 20
"""A snapshot is not taken again before this many times its own duration has passed: at most 5 % of the time."""

RESTATED_FACTS_PER_COMMIT: Final = 20_000
"""Facts of one commit while a new network model is told: bounds the memory of the worker and the hub."""

OUTPUT_HUBS: Final = (TRANSFORMERS_HUB, FEEDERS_HUB, QUARANTINE_HUB)
"""Hubs the worker writes; they must exist before it serves."""


class SourceFactory(Protocol):
    """Opens a subscription; taking a group over fences its previous owner."""

    def __call__(self, group: str, hubs: list[str], start: str) -> EventSource:
        """Raises Unavailable when there is no hub."""
        ...


@runtime_checkable
class _KnowsHubIds(Protocol):
    """A source that can tell a hub from another one created later under the same name."""

    def hub_id(self, hub: str) -> UUID: ...


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What can be set.

    Args:
        commit_interval_ms: longest time between two commits while readings keep coming; without input it is at once.
        commit_readings: readings after which a commit is due whatever the time.
        snapshot_s: seconds between snapshots.
    """

    group: str = "grid.loads"
    commit_interval_ms: int = 250
    commit_readings: int = 1_000_000
    snapshot_s: float = 60.0
    loads: LoadsSettings = field(default_factory=LoadsSettings)


class _StartAgain(Exception):
    """The state no longer fits the log or the model: make it again."""


def run(
    source_factory: SourceFactory,
    work_directory: Path | str,
    stop: threading.Event,
    settings: WorkerSettings | None = None,
    *,
    clock: Clock | None = None,
    metrics: dict[str, int] | None = None,
) -> str:
    """Work until `stop` is set: finish the batch, commit, snapshot, return.

    Args:
        work_directory: for snapshots; may be deleted while the worker is down.
        metrics: filled with the worker's counters after each commit.

    Returns:
        `stopped`, or `fenced` when another worker has taken the group over.
    """
    return LoadsWorker(source_factory, Path(work_directory), stop, settings, clock, metrics).run()


class LoadsWorker:
    """See the module; `run` is the way to use it."""

    def __init__(
        self,
        source_factory: SourceFactory,
        work_directory: Path,
        stop: threading.Event,
        settings: WorkerSettings | None = None,
        clock: Clock | None = None,
        metrics: dict[str, int] | None = None,
    ) -> None:
        self.settings = settings or WorkerSettings()
        self.metrics = metrics if metrics is not None else {}
        self._open = source_factory
        self._stop = stop
        self._clock = clock or SystemClock()
        self._snapshots = SnapshotStore(work_directory, "loads")
        self._pipeline: LoadsPipeline | None = None
        self._networks = NetworkLog()
        self._identity = ""
        self._partitions: dict[str, int] = {}
        self._applied: dict[Place, int] = {}
        self._committed: dict[Place, int] = {}
        self._pending: tuple[dict[Place, int], list[Output]] | None = None
        self._first_wait_s: float | None = None
        self._waiting = 0
        self._backlog: dict[Place, int] = {}
        self._snapshot_due_s = 0.0
        self._served = False
        self._counts = {"commits": 0, "reconnects": 0, "rebuilds": 0, "rebuilt_readings": 0, "snapshots": 0}

    def run(self) -> str:
        """Work until stopped or fenced."""
        attempt = 0
        while not self._stop.is_set():
            try:
                if self._pipeline is None and not self._learn_network():
                    break
                self._session()
                attempt = 0
            except _StartAgain as reason:
                log.info("loads state is made again", reason=str(reason))
                self._forget()
            except OffsetOutOfRange as error:
                log.warning("loads state no longer fits the log", reason=str(error))
                self._forget()
                self._stop.wait(BACKOFF_S[0])
            except FencedEpoch:
                log.warning("another worker has taken over", group=self.settings.group)
                return "fenced"
            except (Unavailable, UnknownHub, StorageFailed) as error:
                # A session that came as far as a commit ends in a new failure, not in one more of the same.
                attempt = 0 if self._served else attempt + 1
                pause_s = BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]
                log.warning("hub unavailable", reason=str(error), retry_s=pause_s)
                self._counts["reconnects"] += 1
                self._stop.wait(pause_s)
        return "stopped"

    def _forget(self) -> None:
        """Drop everything that can be made again."""
        self._pipeline, self._pending = None, None
        self._networks = NetworkLog()
        self._applied, self._committed = {}, {}
        self._first_wait_s, self._waiting = None, 0

    # --- the network model -------------------------------------------------------------------------------------

    def _learn_network(self) -> bool:
        """Read the whole hub of models; wait until there is one. False when stopped first."""
        self._served = False
        networks = NetworkLog()
        source = self._open(self.settings.group, [NETWORK_HUB], "earliest")
        try:
            begun: set[Place] = set()
            while not self._stop.is_set():
                for place in source.positions().keys() - begun:
                    source.seek(place, 0)
                    begun.add(place)
                batches = source.poll(IDLE_S)
                for batch in batches:
                    networks.feed(batch)
                if networks.current is not None and not any(source.lag().values()):
                    self._networks = networks
                    return True
            return False
        finally:
            source.close()

    # --- one connection ----------------------------------------------------------------------------------------

    def _session(self) -> None:
        """Connect, come to where the last commit left off, and work until stopped."""
        self._served = False
        source = self._open(self.settings.group, [READINGS_HUB, NETWORK_HUB], "earliest")
        try:
            self._partitions = {hub: source.partitions(hub) for hub in OUTPUT_HUBS}
            if self._pipeline is None:
                self._recover(source)
            else:
                self._resume(source)
            if self._pipeline is not None:
                self._serve(source, self._pipeline)
        finally:
            source.close()

    def _resume(self, source: EventSource) -> None:
        """After a lost connection: the state is whole; find out about the commit that got no answer."""
        committed = source.positions()
        if self._pending is not None and _agree(self._pending[0], committed):
            self._done(self._pending[0])
        elif not _agree(self._committed, committed):
            raise _StartAgain("the committed positions are not ours")
        for place, offset in self._applied.items():
            source.seek(place, offset)

    def _recover(self, source: EventSource) -> None:
        """Make the state of the committed positions: newest fitting snapshot, then read on without publishing."""
        current = self._networks.current
        assert current is not None
        pipeline = LoadsPipeline(current.network, self.settings.loads, current.ordinal)
        committed = source.positions()
        self._identity = f"{pipeline.fingerprint} {current.ordinal} {_hub_id(source)}"
        limits = {place: offset for place, offset in committed.items() if place[0] == READINGS_HUB}
        snapshot = self._snapshots.newest(self._identity, limits)
        begin = dict.fromkeys(limits, 0)
        if snapshot is not None:
            try:
                pipeline.from_arrays(snapshot.arrays)
                begin |= snapshot.positions
            except (ValueError, KeyError, IndexError) as error:
                log.warning("snapshot passed over", reason=str(error))
                pipeline = LoadsPipeline(current.network, self.settings.loads, current.ordinal)
        if not self._rebuild(source, pipeline, begin, limits):
            return
        pipeline.state.forget_changes()
        self._committed, self._applied = dict(committed), dict(limits)
        for place in committed:
            if place[0] == NETWORK_HUB:
                source.seek(place, self._networks.position(place))
                self._applied[place] = self._networks.position(place)
        for place, offset in limits.items():
            source.seek(place, offset)
        self._pipeline = pipeline
        # The model stays as long as the worker: the garbage collector need not walk it again with every commit.
        gc.collect()
        gc.freeze()
        self._counts["rebuilds"] += 1
        log.info("loads state ready", from_snapshot=snapshot is not None, network=current.network.name)

    def _rebuild(
        self, source: EventSource, pipeline: LoadsPipeline, begin: dict[Place, int], end: dict[Place, int]
    ) -> bool:
        """Apply what lies between two positions; False when stopped first."""
        at = dict(begin)
        for place, offset in source.positions().items():
            # What is not to be rebuilt is parked at its end: the poll must not deliver it.
            source.seek(place, at.get(place, offset))
        missing = {place for place, offset in end.items() if at[place] < offset}
        while missing:
            if self._stop.is_set():
                return False
            batches = source.poll(IDLE_S)
            for batch in batches:
                place = (batch.hub, batch.partition)
                if place in missing:
                    columns = rows_between(batch.columns, at[place], end[place])
                    pipeline.take([ColumnBatch(batch.hub, batch.partition, columns, batch.next_offset)], publish=False)
                    self._counts["rebuilt_readings"] += len(columns)
                    at[place] = batch.next_offset
                    if at[place] >= end[place]:
                        missing.discard(place)
            if not batches:
                lag = source.lag()
                missing = {place for place in missing if lag.get(place, 0)}
        return True

    def _told(self) -> bool:
        """Whether the facts of the window have been told under the current network model."""
        assert self._networks.current is not None
        read = sum(offset for (hub, _), offset in self._committed.items() if hub == NETWORK_HUB)
        return read > self._networks.current.ordinal

    def _restate(self, source: EventSource, pipeline: LoadsPipeline) -> None:
        """Tell every fact of the window under the model's generation, then that the model has been told."""
        readings = {place: offset for place, offset in self._committed.items() if place[0] == READINGS_HUB}
        outputs: list[Output] = []
        size = 0
        for row in pipeline.state.used_rows():
            pipeline.state.mark(row)
            told = self._outputs(pipeline)
            outputs += told
            size += sum(len(output.events) for output in told)
            if size >= RESTATED_FACTS_PER_COMMIT:
                self._commit(source, readings, outputs)
                outputs, size = [], 0
        self._commit(source, dict(self._applied), outputs)

    # --- work --------------------------------------------------------------------------------------------------

    def _serve(self, source: EventSource, pipeline: LoadsPipeline) -> None:
        if self._pending is not None:
            self._commit(source, *self._pending)
        if self._told():
            self._commit_all(source)  # what a lost connection left over, and models that change nothing
        else:
            self._restate(source, pipeline)
        lag = source.lag()
        self._backlog = {place: self._applied.get(place, 0) + lag[place] for place in lag if place[0] == READINGS_HUB}
        self._snapshot_due_s = max(self._snapshot_due_s, self._clock.monotonic() + self.settings.snapshot_s)
        while not self._stop.is_set():
            batches = source.poll(LINGER_S if self._waiting else IDLE_S)
            self._take(source, pipeline, batches)
            if self._waiting and (not batches or self._commit_due()):
                self._commit_all(source)
            if self._clock.monotonic() >= self._snapshot_due_s and not self._waiting:
                self._snapshot()
        self._commit_all(source)
        self._snapshot()

    def _take(self, source: EventSource, pipeline: LoadsPipeline, batches: list[ColumnBatch]) -> None:
        fresh: list[ColumnBatch] = []
        reached = dict(self._applied)
        for batch in batches:
            place = (batch.hub, batch.partition)
            expected = reached.get(place, 0)
            if batch.next_offset < expected:
                raise _StartAgain(f"{batch.hub}/{batch.partition} begins anew")
            if batch.hub == NETWORK_HUB:
                self._take_network(source, batch)
                self._applied[place] = batch.next_offset
            else:
                columns = rows_between(batch.columns, expected, batch.next_offset)
                fresh.append(ColumnBatch(batch.hub, batch.partition, columns, batch.next_offset))
            reached[place] = batch.next_offset
        lag = source.lag() if self._backlog else {}
        behind = [place for place, end in self._backlog.items() if reached.get(place, 0) < end and lag.get(place, 0)]
        for place, offset in pipeline.take(fresh, behind=behind).items():
            self._waiting += offset - self._applied.get(place, 0)
            self._applied[place] = offset
            if offset < reached[place]:
                source.seek(place, offset)
        if not behind:
            self._backlog.clear()
        if batches and self._first_wait_s is None:
            self._first_wait_s = self._clock.monotonic()

    def _take_network(self, source: EventSource, batch: ColumnBatch) -> None:
        before = self._networks.current
        self._networks.feed(batch)
        self._waiting += 1
        if before is None or self._networks.current != before:
            # The commit leaves out the new model's position: it has not been told yet.
            self._commit_all(source)
            raise _StartAgain("the network model changed")

    def _commit_due(self) -> bool:
        if self._waiting >= self.settings.commit_readings or self._first_wait_s is None:
            return True
        return (self._clock.monotonic() - self._first_wait_s) * 1000 >= self.settings.commit_interval_ms

    def _commit_all(self, source: EventSource) -> None:
        assert self._pipeline is not None
        outputs = self._outputs(self._pipeline)
        if outputs or self._applied != self._committed:
            self._commit(source, dict(self._applied), outputs)
        self._waiting, self._first_wait_s = 0, None

    def _outputs(self, pipeline: LoadsPipeline) -> list[Output]:
        return pipeline.outputs(self._clock.now_ms(), self._partitions.__getitem__)

    def _commit(self, source: EventSource, positions: dict[Place, int], outputs: Sequence[Output]) -> None:
        self._pending = (positions, list(outputs))
        source.commit(positions, self._pending[1])
        self._done(positions)
        self._served = True
        self.metrics.update(self._counts)
        self.metrics["lag_events"] = sum(lag for (hub, _), lag in source.lag().items() if hub == READINGS_HUB)
        if self._pipeline is not None:
            self.metrics.update(self._pipeline.counters())

    def _done(self, positions: dict[Place, int]) -> None:
        self._committed |= positions
        self._pending = None
        self._counts["commits"] += 1

    def _snapshot(self) -> None:
        """Keep the state of the last commit, unless something has been applied since."""
        begun_s = self._clock.monotonic()
        positions = {place: offset for place, offset in self._committed.items() if place[0] == READINGS_HUB}
        if self._pipeline is not None and self._pending is None and _agree(positions, self._applied):
            try:
                self._snapshots.save(Snapshot(self._identity, positions, self._pipeline.to_arrays()))
                self._counts["snapshots"] += 1
            except OSError as error:
                log.warning("snapshot not written", reason=str(error))
        took_s = self._clock.monotonic() - begun_s
        self._snapshot_due_s = self._clock.monotonic() + max(self.settings.snapshot_s, SNAPSHOT_SHARE * took_s)


def _agree(positions: dict[Place, int], other: dict[Place, int]) -> bool:
    """Whether both say the same of every place of the first."""
    return all(other.get(place) == offset for place, offset in positions.items())


def _hub_id(source: EventSource) -> str:
    return str(source.hub_id(READINGS_HUB)) if isinstance(source, _KnowsHubIds) else ""
