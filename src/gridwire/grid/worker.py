"""The loads worker: reads `readings`, keeps the state, publishes facts, and survives anything between two commits.

One commit makes three things durable together: how far each partition was read, the facts that changed, and the
readings that were rejected. The state itself is never committed, because it can be made again, see `lane`. A reading is
therefore in exactly one commit's effect wherever the process dies: before the commit it is read again, after it it is
only rebuilt. `gridwire.grid.state` is a pure function of the positions, so the facts after a rebuild continue those
before it, versions and peaks included, whichever worker makes it.

    adopt    places assigned: lanes are rebuilt; places lost: their lanes are dropped with all that is not committed
    take     batches -> lanes
    commit   all lanes together

Loads are summed under the network model that held when their interval began. A new model changes what is known of the
intervals from its `valid_from` on: these are summed again out of the readings that are kept, and told under the next
generation of versions. Where that is not enough (a reading was refused that the new model has a place for, another
interval), the state is rebuilt from the log; in other stages than those of loads always, with the model that holds now.
The note on a committed position says under which models the facts of that place have been told, so a crash in between
only tells the same facts again, byte for byte.

What the hubs must keep: `readings` longer than the window, or a rebuild without a snapshot misses what expired;
`grid.network` for ever, or there is no model to start with; `grid.feeder-parts` as long as its stage keeps days.

Where partitions are shared out, feeders above several transformers need a second stage: the same worker again, with
`FEEDERS` in place of `LOADS`.

When the hub goes away the worker keeps its state and connects again. Whether a commit that got no answer took place is
then read from the committed positions; it is repeated if it did not.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

import structlog

from gridwire.broker.port import ColumnBatch, EventSource, Place
from gridwire.core.clock import Clock, SystemClock
from gridwire.core.errors import FencedEpoch, OffsetOutOfRange, Rebalanced, StorageFailed, Unavailable, UnknownHub
from gridwire.grid.facts import FEEDERS_HUB, TRANSFORMERS_HUB
from gridwire.grid.feeder_sums import FeederSums
from gridwire.grid.lane import Lane, Stage
from gridwire.grid.late import LATE_HUB
from gridwire.grid.loads import LoadsPipeline, LoadsSettings
from gridwire.grid.network import NETWORK_HUB
from gridwire.grid.network_log import CurrentNetwork, NetworkLog
from gridwire.grid.parts import PARTS_HUB
from gridwire.grid.placements import placement_digest
from gridwire.grid.readings import QUARANTINE_HUB, READINGS_HUB
from gridwire.grid.rehearsal import rehearse
from gridwire.grid.snapshots import SnapshotStore

log = structlog.get_logger(__name__)

IDLE_S: Final = 0.5
"""How long a poll waits when nothing is to be committed; also how soon the stop event is noticed."""

HELD_S: Final = 0.02
"""Pause after a poll of which nothing could be applied yet: it will be read again."""

LINGER_S: Final = 0.005
"""How long a poll waits for more when readings wait for their commit: then the input is idle."""

BACKOFF_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Pauses between attempts to reach the hub; the last one repeats."""

SNAPSHOT_SHARE: Final = 20
"""A snapshot is not taken again before this many times its own duration has passed: at most 5 % of the time."""

NOBODYS: Final = -1
"""Number of the assignment of a lane whose connection is gone."""

LOADS: Final = Stage(
    "loads", (READINGS_HUB,), (TRANSFORMERS_HUB, FEEDERS_HUB, QUARANTINE_HUB), LoadsPipeline,
    writes_shared=(PARTS_HUB,), make_placed=LoadsPipeline, relevant=placement_digest,
)  # fmt: skip
"""From readings to facts, and to parts of feeders that have readings in several partitions."""

LOADS_AND_LATE: Final = replace(LOADS, writes=(*LOADS.writes, LATE_HUB), creates=(LATE_HUB,))
"""The same, which tells readings that are too old for the window in `grid.late`, see `LoadsSettings.tell_late`."""

FEEDERS: Final = Stage(
    "feeders", (PARTS_HUB,), (FEEDERS_HUB,), FeederSums, make_placed=FeederSums, relevant=placement_digest
)
"""From parts of feeders to their facts; needed where partitions are shared out."""

FEEDERS_AND_LATE: Final = replace(FEEDERS, writes=(*FEEDERS.writes, LATE_HUB), creates=(LATE_HUB,))
"""The same, which tells parts of days that are kept no more in `grid.late`."""


class SourceFactory(Protocol):
    """Opens a subscription to `hubs`; every worker of the group reads all of `follow`, from its start."""

    def __call__(self, group: str, hubs: list[str], follow: list[str]) -> EventSource:
        """Raises Unavailable when there is no hub."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What can be set.

    Args:
        commit_interval_ms: longest time between two commits while readings keep coming; without input it is at once.
        commit_readings: readings after which a commit is due whatever the time.
        snapshot_s: seconds between snapshots.
    """

    group: str = "grid.loads"
    stage: Stage = LOADS
    commit_interval_ms: int = 250
    commit_readings: int = 1_000_000
    snapshot_s: float = 60.0
    loads: LoadsSettings = field(default_factory=LoadsSettings)


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
        self._directory = work_directory
        self._loads = replace(self.settings.loads, directory=work_directory)
        self._networks = _models_of(self.settings.stage)
        self._current: CurrentNetwork | None = None
        self._stamp: object = None
        self._lanes: dict[str, Lane] = {}
        self._partitions: dict[str, int] = {}
        self._first_wait_s: float | None = None
        self._waiting = 0
        self._snapshot_due_s = 0.0
        self._served = False
        self._counts: Counter[str] = Counter(
            {
                "commits": 0,
                "reconnects": 0,
                "rebuilds": 0,
                "rebuilt_readings": 0,
                "snapshots": 0,
                "rebalances": 0,
                "followed": 0,
            }
        )

    def run(self) -> str:
        """Work until stopped or fenced."""
        attempt = 0
        while not self._stop.is_set():
            try:
                if self._current is None:
                    if not self._learn_network():
                        break
                    rehearse(self.settings.stage, self.settings.loads)
                self._session()
                attempt = 0
            except OffsetOutOfRange as error:
                log.warning("loads state no longer fits the log", reason=str(error))
                self._drop(list(self._lanes))
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

    def _drop(self, names: Collection[str]) -> None:
        """Forget lanes; what they know can be made again."""
        for name in names:
            self._lanes.pop(name, None)

    # --- the network model -------------------------------------------------------------------------------------

    def _learn_network(self) -> bool:
        """Read the whole hub of models; wait until there is one. False when stopped first."""
        self._served = False
        networks = _models_of(self.settings.stage)
        source = self._open(self.settings.group, [], [NETWORK_HUB])
        try:
            if not networks.read_all(source, self._stop, IDLE_S):
                return False
            self._networks, now_ms = networks, self._clock.now_ms()
            self._current, self._stamp = networks.now(now_ms), networks.stamp(now_ms)
            return True
        finally:
            source.close()

    def _take_network(self, source: EventSource, batches: Sequence[ColumnBatch]) -> None:
        """Take models, and go over to another one when it holds: a new one, or one whose time has come."""
        for batch in batches:
            self._networks.feed(batch)
        now_ms = self._clock.now_ms()
        stamp = self._networks.stamp(now_ms)
        if stamp == self._stamp:
            return
        found, self._stamp = self._networks.now(now_ms), stamp
        if found is None or (self._current is not None and found.key == self._current.key):
            return
        log.info("the network model changed", network=found.network.name)
        self._current = found
        try:
            self._commit_all(source)
        except BaseException:
            self._drop(list(self._lanes))
            raise
        self._drop([name for name, lane in self._lanes.items() if not lane.follow(found)])
        for lane in self._lanes.values():
            self._counts["followed"] += 1
            self._restate(source, lane)

    # --- one connection ----------------------------------------------------------------------------------------

    def _session(self) -> None:
        """Connect, come to where the last commits left off, and work until stopped."""
        self._served = False
        source = self._open(self.settings.group, list(self.settings.stage.hubs), [NETWORK_HUB])
        self._drop([name for name, lane in self._lanes.items() if not lane.told])
        for lane in self._lanes.values():
            lane.places = dict.fromkeys(lane.places, NOBODYS)
        try:
            self._partitions = self._written(source)
            self._seek(source)
            self._serve(source)
        finally:
            source.close()

    def _hub_ids(self, source: EventSource) -> str:
        """The hubs that are read, as what a snapshot must have been made from. Raises UnknownHub."""
        return " ".join(str(source.hub_id(hub)) for hub in self.settings.stage.hubs)

    def _written(self, source: EventSource) -> dict[str, int]:
        """Number of partitions of every hub that is written, after making what the stage makes. Raises UnknownHub."""
        stage = self.settings.stage
        for hub in stage.creates:
            _ensure(source, hub)
        found = {hub: source.partitions(hub) for hub in stage.writes}
        for hub in () if source.whole_hubs else stage.writes_shared:
            try:
                found[hub] = source.partitions(hub)
            except UnknownHub:
                source.create_hub(hub, found[FEEDERS_HUB])
                found[hub] = source.partitions(hub)
        return found

    def _serve(self, source: EventSource) -> None:
        self._snapshot_due_s = max(self._snapshot_due_s, self._clock.monotonic() + self.settings.snapshot_s)
        while not self._stop.is_set():
            try:
                self._adopt(source)
                self._turn(source)
            except Rebalanced as reason:
                # Nothing happened. The next poll tells what is still ours, and that is committed again as it is.
                log.info("commit refused while places move between workers", reason=str(reason))
                self._counts["rebalances"] += 1
                self._start_over(source)
        try:
            self._commit_all(source)
            self._snapshot()
        except Rebalanced:
            pass  # whoever has the places now does that work

    def _start_over(self, source: EventSource) -> None:
        """Forget lanes that have told nothing yet. They begin with a commit, so let the source hear of its group first,
        which happens in a poll only: what was refused once would be refused for ever. What the poll gives comes again.
        """
        untold = [name for name, lane in self._lanes.items() if not lane.told]
        wanted = self._wanted(source).keys() - self._lanes.keys()
        self._drop(untold)
        if untold or wanted:
            source.poll(LINGER_S)
            self._seek(source)
            for place in source.positions():
                if place[0] == NETWORK_HUB:
                    source.seek(place, self._networks.position(place))

    # --- assignment --------------------------------------------------------------------------------------------

    def _wanted(self, source: EventSource) -> dict[str, dict[Place, int]]:
        """The lanes of what is assigned: name -> places with the number of their assignment."""
        name = self.settings.stage.name
        wanted: dict[str, dict[Place, int]] = defaultdict(dict)
        for place, number in source.assigned().items():
            wanted[name if source.whole_hubs else f"{name}-{place[1]}"][place] = number
        return wanted

    def _adopt(self, source: EventSource) -> None:
        """Make the lanes those of the assignment; usually there is nothing to do."""
        wanted = self._wanted(source)
        if wanted == {name: lane.places for name, lane in self._lanes.items()}:
            return
        hub_id, committed = self._hub_ids(source), source.committed()
        for name, lane in list(self._lanes.items()):
            if name not in wanted or not (lane.places == wanted[name] or lane.resume(wanted[name], committed, hub_id)):
                log.info("lane dropped", lane=name)
                self._drop([name])
        self._seek(source)
        self._commit_all(source)  # what a lost connection left over, before time goes into rebuilding
        current = self._current
        assert current is not None
        fresh = [
            Lane(
                name, places, current, self._loads, SnapshotStore(self._directory, name), hub_id,
                self.settings.stage, whole=source.whole_hubs, timeline_of=self._networks.timeline_of,
            )
            for name, places in wanted.items()
            if name not in self._lanes
        ]  # fmt: skip
        from_snapshot = [lane.name for lane in fresh if lane.load(committed)]
        if not (self._rebuild(source, fresh) and self._recall(fresh)):
            return
        for lane in fresh:
            lane.ready()
            self._lanes[lane.name] = lane
        self._seek(source)
        lag = source.lag()
        for lane in fresh:
            if not lane.told:
                self._restate(source, lane)
            lane.begin_backlog(lag)
        # The model stays as long as the worker: the garbage collector need not walk it again with every commit.
        gc.collect()
        gc.freeze()
        self._counts["rebuilds"] += len(fresh)
        log.info("loads state ready", lanes=[lane.name for lane in fresh], from_snapshot=from_snapshot)

    def _seek(self, source: EventSource) -> None:
        """Read on where each lane is, and the models."""
        for place in source.positions():
            if place[0] == NETWORK_HUB:
                source.seek(place, self._networks.position(place))
        for lane in self._lanes.values():
            for place, offset in lane.applied.items():
                source.seek(place, offset)

    def _rebuild(self, source: EventSource, lanes: Sequence[Lane]) -> bool:
        """Apply what lies before the committed positions; False when stopped or assigned otherwise meanwhile."""
        assigned = source.assigned()
        lane_of = {place: lane for lane in lanes for place in lane.places}
        for lane in lanes:
            for place, offset in lane.applied.items():
                source.seek(place, offset)
        missing = {place for lane in lanes for place in lane.missing()}
        while missing:
            batches = [batch for batch in source.poll(IDLE_S) if batch.hub in self.settings.stage.hubs]
            if self._stop.is_set() or source.assigned() != assigned:
                return False
            by_lane: dict[str, list[ColumnBatch]] = defaultdict(list)
            for batch in batches:
                if (batch.hub, batch.partition) in lane_of:
                    by_lane[lane_of[batch.hub, batch.partition].name].append(batch)
            for lane in lanes:
                if some := by_lane.get(lane.name):
                    count, again = lane.rebuild(some, source.lag())
                    self._counts["rebuilt_readings"] += count
                    for place, offset in again.items():
                        source.seek(place, offset)
            missing = {place for place in missing if place in lane_of[place].missing()}
            if not batches:
                lag = source.lag()
                missing = {place for place in missing if lag.get(place, 0)}
        return True

    def _recall(self, lanes: Sequence[Lane]) -> bool:
        """Tell the lanes what was published before; False when stopped meanwhile."""
        stage = self.settings.stage
        if not stage.recalls or not lanes:
            return True
        source = self._open(self.settings.group, [], list(stage.recalls))
        try:
            while not self._stop.is_set():
                batches = source.poll(LINGER_S)
                for lane in lanes:
                    lane.pipeline.recall(batches)
                if not batches and not any(source.lag().values()):
                    return True
            return False
        finally:
            source.close()

    def _restate(self, source: EventSource, lane: Lane) -> None:
        """Tell every fact of the window that another model changes, then that the model has been told."""
        pieces = list(lane.restatement(self._clock.now_ms(), self._partitions.__getitem__))
        for outputs in pieces[:-1]:
            source.commit(lane.committed, outputs, lane.told_note)
            self._committed(source)
        lane.pending = (dict(lane.applied), pieces[-1])
        source.commit(*lane.pending, lane.note)
        lane.done()
        lane.told = True
        self._committed(source)

    # --- work --------------------------------------------------------------------------------------------------

    def _turn(self, source: EventSource) -> None:
        """One poll and what follows from it."""
        batches = source.poll(LINGER_S if self._waiting else IDLE_S)
        if self._wanted(source) != {name: lane.places for name, lane in self._lanes.items()}:
            return
        if batches and not self._take(source, batches):
            self._stop.wait(HELD_S)
        if self.settings.stage.timed and not batches and not any(source.lag().values()):
            self._tick(source)
        elif self._waiting and (not batches or self._commit_due()):
            self._commit_all(source)
        if self._clock.monotonic() >= self._snapshot_due_s and not self._waiting:
            self._snapshot()

    def _tick(self, source: EventSource) -> None:
        """Nothing arrives and nothing is left: for who watches for silence time goes on."""
        now_ms = self._clock.now_ms()
        for lane in self._lanes.values():
            lane.pipeline.idle(now_ms)
        self._commit_all(source)

    def _take(self, source: EventSource, batches: list[ColumnBatch]) -> bool:
        """Whether anything was applied."""
        lane_of = {place: lane for lane in self._lanes.values() for place in lane.places}
        by_lane: dict[str, list[ColumnBatch]] = defaultdict(list)
        waiting = self._waiting
        for batch in batches:
            if (owner := lane_of.get((batch.hub, batch.partition))) is not None:
                by_lane[owner.name].append(batch)
        for name, some in by_lane.items():
            lane = self._lanes[name]
            before = sum(lane.applied.values())
            again = lane.take(some, source.lag, self._clock.monotonic(), self._clock.now_ms())
            if again is None:
                log.info("loads state is made again", reason=f"{name} begins anew")
                self._drop([name])
                continue
            self._waiting += sum(lane.applied.values()) - before
            for place, offset in again.items():
                source.seek(place, offset)
        if batches and self._first_wait_s is None:
            self._first_wait_s = self._clock.monotonic()
        moved = self._waiting > waiting
        self._take_network(source, [batch for batch in batches if batch.hub == NETWORK_HUB])
        return moved

    def _commit_due(self) -> bool:
        if self._waiting >= self.settings.commit_readings or self._first_wait_s is None:
            return True
        return (self._clock.monotonic() - self._first_wait_s) * 1000 >= self.settings.commit_interval_ms

    def _commit_all(self, source: EventSource) -> None:
        """One commit for all lanes."""
        now_ms, partitions = self._clock.now_ms(), self._partitions.__getitem__
        ready = [lane for lane in self._lanes.values() if lane.prepare(now_ms, partitions) is not None]
        if ready:
            pending = [lane.pending for lane in ready if lane.pending is not None]
            positions = {place: offset for places, _ in pending for place, offset in places.items()}
            source.commit(positions, [output for _, outputs in pending for output in outputs], ready[0].note)
            for lane in ready:
                lane.done()
            self._committed(source)
        self._waiting, self._first_wait_s = 0, None

    def _committed(self, source: EventSource) -> None:
        self._counts["commits"] += 1
        self._served = True
        self.metrics.update(self._counts)
        self.metrics["lag_events"] = sum(
            lag for (hub, _), lag in source.lag().items() if hub in self.settings.stage.hubs
        )
        total: Counter[str] = Counter()
        for lane in self._lanes.values():
            total.update(lane.pipeline.counters())
        self.metrics.update(total)

    def _snapshot(self) -> None:
        """Keep the state of the last commit of every lane that is at one."""
        begun_s = self._clock.monotonic()
        self._counts["snapshots"] += sum(lane.snapshot() for lane in self._lanes.values())
        took_s = self._clock.monotonic() - begun_s
        self._snapshot_due_s = self._clock.monotonic() + max(self.settings.snapshot_s, SNAPSHOT_SHARE * took_s)


def _models_of(stage: Stage) -> NetworkLog:
    """What a stage needs to know of network models, before any is read."""
    return NetworkLog(stage.make_placed is not None, stage.relevant)


def _ensure(source: EventSource, hub: str) -> None:
    """Make a hub unless it is there; asked first, for who may read it need not be allowed to make one."""
    try:
        source.partitions(hub)
    except UnknownHub:
        source.create_hub(hub)
