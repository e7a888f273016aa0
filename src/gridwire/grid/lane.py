"""Readings that are summed together, apart from all others: one state, one history, one snapshot.

A lane is the whole hub where one worker reads all of it, and one partition where partitions are shared out: what a
worker knows must be a function of its places alone, or a place could not move to another worker. The meters of a
transformer, and of its feeder, therefore share a partition where several workers share the hub (docs/decisions/0022).

    start:    newest snapshot that is not ahead of the committed positions, or an empty state
    rebuild:  read on from there up to the committed positions WITHOUT publishing: state = what it was at that commit
    go on:    read, apply, publish with each commit
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import structlog

from gridwire.broker.port import ColumnBatch, Output, Place, Position
from gridwire.grid.loads import LoadsPipeline, LoadsSettings, rows_between
from gridwire.grid.network import InvalidNetwork, Network
from gridwire.grid.network_log import CurrentNetwork
from gridwire.grid.snapshots import Snapshot, SnapshotStore

log = structlog.get_logger(__name__)

RESTATED_FACTS_PER_COMMIT: Final = 20_000
"""Facts of one commit while a new network model is told: bounds the memory of the worker and the hub."""

Pending = tuple[dict[Place, int], list[Output]]
"""A commit: positions and what comes with them."""


class Lane:
    """See the module. It does no I/O but for its snapshots.

    Args:
        places: with the number of their assignment. note: what a commit says that told the facts of this model.
        identity: what a snapshot must have been made from.
    """

    def __init__(
        self,
        name: str,
        places: Mapping[Place, int],
        network: CurrentNetwork,
        settings: LoadsSettings,
        snapshots: SnapshotStore,
        hub_id: str,
    ) -> None:
        self.name = name
        self.places = dict(places)
        self.hub_id = hub_id
        self.note = str(network.ordinal)
        self.pipeline = LoadsPipeline(network.network, settings, network.ordinal)
        self.identity = f"{self.pipeline.fingerprint} {network.ordinal} {hub_id}"
        self.told = False
        self.applied: dict[Place, int] = {}
        self.committed: dict[Place, int] = {}
        self.pending: Pending | None = None
        self.backlog: dict[Place, int] = {}
        self._network, self._settings = network, settings
        self._snapshots = snapshots

    # -- coming to life -----------------------------------------------------------------------------------------

    def load(self, committed: Mapping[Place, Position]) -> bool:
        """Start from the newest snapshot within the committed positions; whether there was one."""
        self.committed = {place: known.offset if (known := committed.get(place)) else 0 for place in self.places}
        self.told = all(place in committed and committed[place].metadata == self.note for place in self.places)
        self.applied = dict.fromkeys(self.places, 0)
        snapshot = self._snapshots.newest(self.identity, self.committed)
        if snapshot is None:
            return False
        try:
            self.pipeline.from_arrays(snapshot.arrays)
        except (ValueError, KeyError, IndexError) as error:
            log.warning("snapshot passed over", reason=str(error))
            self.pipeline = LoadsPipeline(self._network.network, self._settings, self._network.ordinal)
            return False
        self.applied |= snapshot.positions
        return True

    def missing(self) -> set[Place]:
        """Places that are not rebuilt up to their committed position yet."""
        return {place for place, offset in self.committed.items() if self.applied[place] < offset}

    def rebuild(self, batch: ColumnBatch) -> int:
        """Apply what lies before the committed position, silently; the number of readings."""
        place = (batch.hub, batch.partition)
        if self.applied[place] >= self.committed[place]:
            return 0
        columns = rows_between(batch.columns, self.applied[place], self.committed[place])
        self.pipeline.take([ColumnBatch(*place, columns, batch.next_offset)], publish=False)
        self.applied[place] = batch.next_offset
        return len(columns)

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

    def take(self, batches: list[ColumnBatch], lag: Callable[[], Mapping[Place, int]]) -> dict[Place, int] | None:
        """Apply batches of this lane's places.

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
        left = lag() if self.backlog else {}
        behind = [place for place, end in self.backlog.items() if reached[place] < end and left.get(place, 0)]
        self.applied |= self.pipeline.take(fresh, behind=behind)
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
        """Every fact of the window under the model's generation, in the pieces of a commit each."""
        outputs: list[Output] = []
        size = 0
        for row in self.pipeline.state.used_rows():
            self.pipeline.state.mark(row)
            told = self.pipeline.outputs(now_ms, partitions)
            outputs += told
            size += sum(len(output.events) for output in told)
            if size >= RESTATED_FACTS_PER_COMMIT:
                yield outputs
                outputs, size = [], 0
        yield outputs

    def snapshot(self) -> bool:
        """Keep the state of the last commit; False when something has been applied since, or the disk refuses."""
        if self.pending is not None or self.applied != self.committed:
            return False
        try:
            self._snapshots.save(Snapshot(self.identity, dict(self.committed), self.pipeline.to_arrays()))
        except OSError as error:
            log.warning("snapshot not written", reason=str(error))
            return False
        return True


def check_lanes(network: Network) -> None:
    """Whether partitions of readings can be shared out under this model.

    Raises:
        InvalidNetwork: a feeder feeds several transformers, whose readings may lie in different partitions.
    """
    above: dict[str, set[str]] = defaultdict(set)
    for unit in network.usage_points:
        above[unit.feeder].add(unit.transformer)
    wide = next((feeder for feeder, transformers in above.items() if len(transformers) > 1), None)
    if wide is not None:
        raise InvalidNetwork(
            f"feeder {wide!r} lies above several transformers, whose readings several workers would share: "
            "run the grid workers with --whole (one works, the others stand by)"
        )


def _agree(positions: Mapping[Place, int], committed: Mapping[Place, Position]) -> bool:
    """Whether the committed positions are these."""
    return all((committed[place].offset if place in committed else 0) == at for place, at in positions.items())
