"""Readings that are summed together, apart from all others: one state, one history, one snapshot.

A lane is the whole hub where one worker reads all of it, and one partition where partitions are shared out: what a
worker knows must be a function of its places alone, or a place could not move to another worker. The meters of a
transformer therefore share a partition where several workers share the hub; feeders above several transformers are
summed in a second stage out of what each lane knows of them (docs/decisions/0022, 0025).

    start:    newest snapshot that is not ahead of the committed positions, or an empty state
    rebuild:  read on from there up to the committed positions WITHOUT publishing: state = what it was at that commit
    go on:    read, apply, publish with each commit
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import structlog
from numpy.typing import NDArray

from gridwire.broker.port import ColumnBatch, Output, Place, Position
from gridwire.grid.day_order import DayOrder
from gridwire.grid.loads import LoadsSettings, rows_between
from gridwire.grid.network import Network, digest
from gridwire.grid.network_log import CurrentNetwork
from gridwire.grid.placements import Timeline, first_difference
from gridwire.grid.snapshots import Snapshot, SnapshotStore

log = structlog.get_logger(__name__)

RESTATED_FACTS_PER_COMMIT: Final = 20_000
"""Facts of one commit while a new network model is told: bounds the memory of the worker and the hub."""

LOG_END: Final = 2**63 - 1
"""An offset no place reaches."""

Pending = tuple[dict[Place, int], list[Output]]
"""A commit: positions and what comes with them."""


class State(Protocol):
    """What a lane's restatement goes through, row by row; see `gridwire.grid.state.LoadState`."""

    def forget_changes(self) -> None:
        """What changed was published before."""
        ...

    def used_rows(self) -> list[int]:
        """Rows that hold anything."""
        ...

    def mark(self, row: int) -> None:
        """Tell this row again."""
        ...


class NothingToRestate:
    """The state of a pipeline whose facts are not told again under a new model."""

    def forget_changes(self) -> None:
        """Nothing."""

    def used_rows(self) -> list[int]:
        """None."""
        return []

    def mark(self, row: int) -> None:
        """Nothing."""


@runtime_checkable
class PlacedState(Protocol):
    """A state that goes by the network models in time; its rows are intervals."""

    def rows_since(self, slot: int) -> list[int]:
        """Rows of this interval and later ones that hold anything."""
        ...

    def mark_changed(self, row: int, before: Timeline) -> None:
        """Tell this row again, and what was told of it under the models before and does not hold under those now."""
        ...


class Pipeline(Protocol):
    """Events in, facts out, for one network model; see `gridwire.grid.loads.LoadsPipeline`."""

    fingerprint: str

    @property
    def state(self) -> State:
        """What is known."""
        ...

    def take(
        self, batches: Sequence[ColumnBatch], publish: bool = True, behind: Collection[Place] = ()
    ) -> dict[Place, int]:
        """Apply batches; the offset of the first event of each place that has not been applied."""
        ...

    def recall(self, batches: Sequence[ColumnBatch]) -> None:
        """What was published before, of the hubs `Stage.recalls`, from their start."""
        ...

    def idle(self, now_ms: int) -> None:
        """Everything that the hubs held by now has been taken."""
        ...

    def outputs(self, now_ms: int, partitions: Callable[[str], int]) -> list[Output]:
        """What to publish with the next commit."""
        ...

    def counters(self) -> dict[str, int]:
        """Everything counted, by name."""
        ...

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For a snapshot."""
        ...

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a snapshot. Raises ValueError or KeyError when it does not fit."""
        ...


class MakePipeline(Protocol):
    """Makes a lane's pipeline. `part`: the one partition of a lane that has no other; None: it has the whole hub."""

    def __call__(self, network: Network, settings: LoadsSettings, generation: int, part: int | None) -> Pipeline:
        """An empty one."""
        ...


class MakePlaced(Protocol):
    """The same for a pipeline that goes by the network models in time."""

    def __call__(
        self, network: Network, settings: LoadsSettings, generation: int, part: int | None, timeline: Timeline
    ) -> Pipeline:
        """An empty one."""
        ...


@runtime_checkable
class Following(Protocol):
    """A pipeline that can go on under other network models, see `gridwire.grid.loads.LoadsPipeline.follow`."""

    def follow(self, timeline: Timeline) -> bool:
        """Whether it did; else it is of no use any more."""
        ...


@runtime_checkable
class ByDays(Protocol):
    """A pipeline that takes its places day by day."""

    @property
    def order(self) -> DayOrder:
        """Which day each place has come to."""
        ...


@runtime_checkable
class InPieces(Protocol):
    """A pipeline with large arrays, of which few change between two snapshots."""

    def pieces(self) -> dict[str, NDArray[Any]]:
        """What a snapshot keeps beside `to_arrays`, by name; `from_arrays` gets them with the others."""
        ...

    def changed_pieces(self) -> set[str]:
        """Names of those that changed since `pieces_are_saved`, or since the pipeline began."""
        ...

    def pieces_are_saved(self) -> None:
        """All pieces are kept as they are now."""
        ...


@runtime_checkable
class TellsModels(Protocol):
    """A pipeline that can have days told again that it does not know any more."""

    def tell_models(self, before: Timeline) -> None:
        """Do so with days that other models hold for now than before."""
        ...


@dataclass(frozen=True, slots=True)
class Stage:
    """What a worker does.

    Args:
        name: of its lanes. hubs: what it reads; of several, a worker has the whole or nothing.
        writes: hubs that must exist before it serves.
        writes_shared: hubs that it writes only where partitions are shared out, and then makes itself.
        creates: hubs that it makes where nobody has yet.
        recalls: hubs with what it published before, which a state that is made again needs to go on from.
        make: its pipelines, which go by the network model that holds now. make_placed: those that go by all in time.
        relevant: a digest of what it needs of a network model: another model with the same one is no change.
        timed: its places are taken in the order of time, and time goes on when nothing arrives.
    """

    name: str
    hubs: tuple[str, ...]
    writes: tuple[str, ...]
    make: MakePipeline
    writes_shared: tuple[str, ...] = ()
    creates: tuple[str, ...] = ()
    recalls: tuple[str, ...] = ()
    make_placed: MakePlaced | None = None
    relevant: Callable[[Network], bytes] = digest
    timed: bool = False


class Lane:
    """See the module. It does no I/O but for its snapshots.

    Args:
        places: with the number of their assignment. whole: they are all of the hub.
        note: what a commit says that told the facts of these models.
        identity: what a snapshot must have been made from.
        timeline_of: the models in time that an ordinal in a note stands for, see `NetworkLog.timeline_of`.
    """

    def __init__(
        self,
        name: str,
        places: Mapping[Place, int],
        network: CurrentNetwork,
        settings: LoadsSettings,
        snapshots: SnapshotStore,
        hub_id: str,
        stage: Stage,
        *,
        whole: bool,
        timeline_of: Callable[[int], Timeline | None] = lambda ordinal: None,
    ) -> None:
        self.name = name
        self.places = dict(places)
        self.hub_id = hub_id
        self._whole = whole
        self._network, self._settings = network, settings
        self._stage, self._timed = stage, stage.timed
        self._part = None if whole else next(number for _, number in places)
        self.pipeline = self._empty()
        self.identity = self._identity()
        self.told = False
        self.told_note = ""
        """What the facts were told under before; until that is so for these models, too."""
        self._timeline_of = timeline_of
        self.applied: dict[Place, int] = {}
        self.committed: dict[Place, int] = {}
        self.pending: Pending | None = None
        self.backlog: dict[Place, int] = {}
        self._snapshots = snapshots

    def _empty(self) -> Pipeline:
        known, stage = self._network, self._stage
        if stage.make_placed is not None and known.timeline is not None:
            return stage.make_placed(known.network, self._settings, known.ordinal, self._part, known.timeline)
        return stage.make(known.network, self._settings, known.ordinal, self._part)

    @property
    def note(self) -> str:
        """What a commit says that told the facts of the models the lane has."""
        timeline = self._network.timeline
        ordinal = self._network.ordinal if timeline is None else timeline.ordinal
        return str(ordinal) if self._whole else f"{ordinal} shared"  # sharing tells parts as well

    def _identity(self) -> str:
        """What a snapshot must have been made from. A pipeline that goes by models in time finds out by itself."""
        ordinal = self._network.ordinal if self._network.timeline is None else ""
        return f"{self.pipeline.fingerprint} {ordinal} {self.hub_id}"

    def follow(self, network: CurrentNetwork) -> bool:
        """Go on under another model without reading again; False when that cannot be. Everything must be committed."""
        if network.timeline is None or not isinstance(self.pipeline, Following):
            return False
        if not self.told or self.pending is not None or not self.pipeline.follow(network.timeline):
            return False
        self.told_note = self.note
        self._network, self.told = network, False
        self.identity = self._identity()
        return True

    def _told_before(self) -> Timeline | None:
        """The models under which the facts were told; None: they have not been told, or not by such a lane."""
        ordinal, *shared = self.told_note.split(" ", 1)
        if self._network.timeline is None or not ordinal.isdecimal() or shared != self.note.split(" ", 1)[1:]:
            return None
        before = self._timeline_of(int(ordinal))
        return before if before is not None and before.interval_s == self._network.timeline.interval_s else None

    # -- coming to life -----------------------------------------------------------------------------------------

    def load(self, committed: Mapping[Place, Position]) -> bool:
        """Start from the newest snapshot within the committed positions; whether there was one."""
        self.committed = {place: known.offset if (known := committed.get(place)) else 0 for place in self.places}
        notes = {known.metadata if (known := committed.get(place)) else "" for place in self.places}
        self.told_note = notes.pop() if len(notes) == 1 else ""
        self.told = self.told_note == self.note
        self.applied = dict.fromkeys(self.places, 0)
        snapshot = self._snapshots.newest(self.identity, self.committed)
        if snapshot is None:
            return False
        try:
            self.pipeline.from_arrays(snapshot.arrays)
        except (ValueError, KeyError, IndexError) as error:
            log.warning("snapshot passed over", reason=str(error))
            self.pipeline = self._empty()
            return False
        self.applied |= snapshot.positions
        return True

    def missing(self) -> set[Place]:
        """Places that are not rebuilt up to their committed position yet."""
        return {place for place, offset in self.committed.items() if self.applied[place] < offset}

    def rebuild(self, batches: Sequence[ColumnBatch], left: Mapping[Place, int]) -> tuple[int, dict[Place, int]]:
        """Apply what lies before the committed positions, silently.

        Returns:
            The number of events, and the places to read again from an offset.
        """
        fresh: list[ColumnBatch] = []
        reached = dict(self.applied)
        for batch in batches:
            place = (batch.hub, batch.partition)
            if reached[place] < self.committed[place]:
                columns = rows_between(batch.columns, reached[place], self.committed[place])
                fresh.append(ColumnBatch(*place, columns, batch.next_offset))
                reached[place] = batch.next_offset
        behind = [place for place, end in self.committed.items() if reached[place] < end and left.get(place, 0)]
        self.applied |= self.pipeline.take(fresh, publish=False, behind=behind if len(self.places) > 1 else ())
        again = {place: self.applied[place] for place in reached if self.applied[place] < reached[place]}
        return sum(len(batch.columns) for batch in fresh), again

    def ready(self) -> None:
        """The state is that of the committed positions."""
        self.pipeline.state.forget_changes()
        self.applied = dict(self.committed)

    def resume(self, places: Mapping[Place, int], committed: Mapping[Place, Position], hub_id: str) -> bool:
        """Go on with the state after the places were assigned anew; False when somebody worked on them meanwhile."""
        if places.keys() != self.places.keys() or hub_id != self.hub_id:
            return False
        if self.pending is not None and _agree(self.pending[0], committed):
            self.done()
        elif not _agree(self.committed, committed):
            return False
        self.places = dict(places)
        return True

    # -- work ---------------------------------------------------------------------------------------------------

    def begin_backlog(self, lag: Mapping[Place, int]) -> None:
        """Until the ends of now are reached no place may push another one's next day out of the window."""
        if len(self.places) > 1:
            self.backlog = {place: self.applied[place] + lag.get(place, 0) for place in self.places}

    def take(
        self, batches: list[ColumnBatch], lag: Callable[[], Mapping[Place, int]], now_s: float, now_ms: int
    ) -> dict[Place, int] | None:
        """Apply batches of this lane's places.

        Args:
            now_s: seconds of a clock that only goes forward. now_ms: the time of day.

        Returns:
            Places to read again from an offset; None when a place begins anew and the state with it.
        """
        reached = dict(self.applied)
        fresh: list[ColumnBatch] = []
        for batch in batches:
            place = (batch.hub, batch.partition)
            if batch.next_offset < reached[place]:
                return None
            columns = rows_between(batch.columns, reached[place], batch.next_offset)
            fresh.append(ColumnBatch(*place, columns, batch.next_offset))
            reached[place] = batch.next_offset
        left = lag() if self.backlog or self._timed else {}
        ends = dict.fromkeys(self.places, LOG_END) if self._timed else self.backlog
        behind = [place for place, end in ends.items() if reached[place] < end and left.get(place, 0)]
        if len(self.places) > 1 and isinstance(self.pipeline, ByDays):
            self.pipeline.order.expect(self.places, now_s, now_ms)
        self.applied |= self.pipeline.take(fresh, True, behind)
        if not behind:
            self.backlog.clear()
        return {place: self.applied[place] for place in reached if self.applied[place] < reached[place]}

    def prepare(self, now_ms: int, partitions: Callable[[str], int]) -> Pending | None:
        """What is to be committed now, the same again until it is `done`; None when there is nothing."""
        if self.pending is None:
            outputs = self.pipeline.outputs(now_ms, partitions)
            if outputs or self.applied != self.committed or not self.told:
                self.pending = (dict(self.applied), outputs)
        return self.pending

    def done(self) -> None:
        """The commit took place."""
        assert self.pending is not None
        self.committed |= self.pending[0]
        self.pending = None

    def restatement(self, now_ms: int, partitions: Callable[[str], int]) -> Iterator[list[Output]]:
        """Every fact of the window that was not told under its model yet, in the pieces of a commit each."""
        outputs: list[Output] = []
        size = 0
        before = self._told_before()
        for _ in self._rows_to_tell(before):
            told = self.pipeline.outputs(now_ms, partitions)
            outputs += told
            size += sum(len(output.events) for output in told)
            if size >= RESTATED_FACTS_PER_COMMIT:
                yield outputs
                outputs, size = [], 0
        if before is not None and isinstance(self.pipeline, TellsModels):
            self.pipeline.tell_models(before)
        yield outputs + self.pipeline.outputs(now_ms, partitions)

    def _rows_to_tell(self, before: Timeline | None) -> Iterator[int]:
        """Rows with facts to be told again, each one marked. `before`: the models they were told under, if known."""
        state, timeline = self.pipeline.state, self._network.timeline
        if timeline is None or before is None or not isinstance(state, PlacedState):
            for row in state.used_rows():
                state.mark(row)
                yield row
            return
        since = first_difference(before.key, timeline.key)
        for row in [] if since is None else state.rows_since(since):
            state.mark_changed(row, before)
            yield row

    def snapshot(self) -> bool:
        """Keep the state of the last commit; False when something has been applied since, or the disk refuses."""
        if self.pending is not None or self.applied != self.committed:
            return False
        snapshot = Snapshot(self.identity, dict(self.committed), self.pipeline.to_arrays())
        in_pieces = self.pipeline if isinstance(self.pipeline, InPieces) else None
        try:
            if in_pieces is None:
                self._snapshots.save(snapshot)
            else:
                self._snapshots.save(snapshot, in_pieces.pieces(), in_pieces.changed_pieces())
                in_pieces.pieces_are_saved()
        except OSError as error:
            log.warning("snapshot not written", reason=str(error))
            return False
        return True


def _agree(positions: Mapping[Place, int], committed: Mapping[Place, Position]) -> bool:
    """Whether the committed positions are these."""
    return all((committed[place].offset if place in committed else 0) == at for place, at in positions.items())
