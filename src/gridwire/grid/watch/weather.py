"""Which weather station each unit belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.network import NetworkIndex


class Stations:
    """Stations by number in the order seen, and the station of each unit.

    Limited to `STATIONS_MAX`: a sender that makes up ids must not grow a detector without end; observations of further
    stations are passed over.
    """

    STATIONS_MAX = 4096

    def __init__(self, index: NetworkIndex) -> None:
        self._named = {"transformer": index.station_of_transformer, "feeder": stations_of_feeders(index)}
        self.ids: list[str] = []
        self._at: dict[str, int] = {}

    def numbers(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The number of each station, -1 for those beyond the limit."""
        return np.array([self._number(id) for id in ids], np.int64)

    def _number(self, id: str) -> int:
        if id not in self._at and len(self.ids) < self.STATIONS_MAX:
            self._at[id] = len(self.ids)
            self.ids.append(id)
        return self._at.get(id, -1)

    def of_units(self, level: str) -> NDArray[np.int64]:
        """**Shape** `[n_units]`: number of each unit's station; -1 where nothing is known of it yet."""
        first = 0 if self.ids else -1
        return np.array([self._at.get(name, -1) if name else first for name in self._named[level]], np.int64)


def stations_of_feeders(index: NetworkIndex) -> tuple[str, ...]:
    """A feeder's station is its transformer's; above several, that of its first usage point."""
    above = index.transformer_of_feeder.copy()
    places, first = np.unique(index.feeder_of_unit, return_index=True)
    known = np.full(len(above), -1, np.int64)
    known[places] = index.transformer_of_unit[first]
    above = np.where(above >= 0, above, known)
    return tuple(index.station_of_transformer[place] if place >= 0 else "" for place in above.tolist())
