"""What differs between two network models: devices that came and went, usage points that came, went and moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.network import Network
from gridwire.grid.placements import NOWHERE, Numbering

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Move:
    """A usage point that hangs elsewhere."""

    usage_point: str
    from_transformer: str
    from_feeder: str
    to_transformer: str
    to_feeder: str


class NetworkDiff:
    """From one model to another, both valid. Only numbers of usage points are kept, so millions fit."""

    def __init__(self, before: Network, after: Network) -> None:
        self._numbering = numbering = Numbering()
        placed = [numbering.place(before), numbering.place(after)]
        self._before, self._after = (each.unfold(len(numbering.units)) for each in placed)
        there, still = self._before[0] != NOWHERE, self._after[0] != NOWHERE
        differs = (self._before[0] != self._after[0]) | (self._before[1] != self._after[1])
        self._moved = np.flatnonzero(there & still & differs)
        self._added, self._removed = np.flatnonzero(~there & still), np.flatnonzero(there & ~still)
        self.transformers_added, self.transformers_removed = _changes(before.transformers, after.transformers)
        self.feeders_added, self.feeders_removed = _changes(before.feeders, after.feeders)
        old = {row.id: row for row in before.transformers}
        self.transformers_changed = [row.id for row in after.transformers if old.get(row.id, row) != row]

    def counts(self) -> dict[str, int]:
        """How many of each."""
        return {
            "usage_points_moved": len(self._moved),
            "usage_points_added": len(self._added),
            "usage_points_removed": len(self._removed),
            "transformers_added": len(self.transformers_added),
            "transformers_removed": len(self.transformers_removed),
            "transformers_changed": len(self.transformers_changed),
            "feeders_added": len(self.feeders_added),
            "feeders_removed": len(self.feeders_removed),
        }

    def moves(self) -> Iterator[Move]:
        """Usage points that moved, in the order of the models."""
        for unit in self._moved.tolist():
            before, after = self._place(self._before, unit), self._place(self._after, unit)
            yield Move(self._numbering.units.text(unit), *before, *after)

    def added(self) -> Iterator[str]:
        """Usage points of the later model only."""
        return map(self._numbering.units.text, self._added.tolist())

    def removed(self) -> Iterator[str]:
        """Usage points of the earlier model only."""
        return map(self._numbering.units.text, self._removed.tolist())

    def _place(self, columns: tuple[Ints, Ints], unit: int) -> tuple[str, str]:
        transformer, feeder = (int(column[unit]) for column in columns)
        return self._numbering.transformer_ids[transformer], self._numbering.feeder_ids[feeder]


def _changes(before: tuple[object, ...], after: tuple[object, ...]) -> tuple[list[str], list[str]]:
    """Ids that came and that went, each in its model's order."""
    old, new = ({str(getattr(row, "id", "")): None for row in rows} for rows in (before, after))
    return [id for id in new if id not in old], [id for id in old if id not in new]
