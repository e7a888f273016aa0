"""What a network model expects, as channels: the columns of the VEE stage's state."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid import reading_types
from gridwire.grid.meter_install import MeterInstall
from gridwire.grid.network import Network, NetworkIndex
from gridwire.grid.reading_types import BY_ALIAS, BY_ID, Accumulation


class Channels:
    """What is expected of a network, by channel: first all interval energies, then the registers beside them.

    **Shape** `[c]`: `points`, `types`, `transformers`, `areas`, `active`; `at[points, types]` the channel, -1 if none.
    """

    def __init__(self, network: Network, index: NetworkIndex, area: str) -> None:
        kinds = {row.id: row.accumulation for row in reading_types.READING_TYPES}
        accumulation = np.array([kinds[id] is Accumulation.INTERVAL for id in index.channel_type.tolist()], bool)
        register = np.array([kinds[id] is Accumulation.REGISTER for id in index.channel_type.tolist()], bool)
        order = np.concatenate([np.flatnonzero(accumulation), np.flatnonzero(register)]).astype(np.int64)
        self.points = index.channel_unit[order].astype(np.int64)
        self.types = index.channel_type[order].astype(np.int64)
        self.energies = int(accumulation.sum())
        self.transformers = index.transformer_of_unit[self.points]
        self.at = np.full((len(index.unit_ids) + 1, max(BY_ID) + 2), -1, np.int32)  # unknown point, unknown type: -1
        self.at[self.points, self.types] = np.arange(len(order), dtype=np.int32)
        self.area_ids, self.areas = _areas(index, area, self.points)
        self.areas[self.energies :] = -1
        self.active = np.array([unit.active for unit in network.usage_points], bool)[self.points]
        self.groups = self._groups(network)
        self.installs = self._installs(network, index)
        factor = {channel: rows[-1].multiplier for channel, rows in self.installs.items()}
        self.multiplier = np.array([factor.get(each, 1.0) for each in self.counterparts(REGISTERS).tolist()])

    def counterparts(self, types: dict[int, int]) -> NDArray[np.int64]:
        """The same place's channel of another type, -1 where there is none. **Shape** `[energies]`."""
        table = np.full(max(BY_ID) + 2, -1, np.int64)
        for one, other in types.items():
            table[one] = other
        return self.at[self.points[: self.energies], table[self.types[: self.energies]]].astype(np.int64)

    def _groups(self, network: Network) -> dict[tuple[str, str], NDArray[np.int64]]:
        """Interval channels by (zone, category)."""
        found: dict[tuple[str, str], list[int]] = {}
        units = network.usage_points
        for channel, point in enumerate(self.points[: self.energies].tolist()):
            key = (units[point].zone or network.zone, units[point].category)
            found.setdefault(key, []).append(channel)
        return {key: np.array(members, np.int64) for key, members in found.items()}

    def _installs(self, network: Network, index: NetworkIndex) -> dict[int, list[MeterInstall]]:
        """Rows of `meters` by register channel, in order of time."""
        points = {id: at for at, id in enumerate(index.unit_ids)} if network.meters else {}
        found: dict[int, list[MeterInstall]] = {}
        for row in network.meters:
            channel = int(self.at[points[row.usage_point], BY_ALIAS[row.reading_type].id])
            if channel >= 0:
                found.setdefault(channel, []).append(row)
        return {channel: sorted(rows, key=lambda row: row.begin_us) for channel, rows in found.items()}


def _areas(index: NetworkIndex, area: str, points: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int32]]:
    transformers = index.transformer_of_unit[points]
    if area == "feeder":
        return list(index.feeder_ids), index.feeder_of_unit[points].astype(np.int32)
    if area == "transformer":
        return list(index.transformer_ids), transformers.astype(np.int32)
    if area == "network":
        return [""], np.zeros(len(points), np.int32)
    ids = sorted(set(index.substation_of_transformer)) or [""]
    at = np.array([ids.index(each) for each in index.substation_of_transformer] or [0], np.int32)
    return ids, at[transformers]


def _ids(**pairs: str) -> dict[int, int]:
    return {BY_ALIAS[one].id: BY_ALIAS[other].id for one, other in pairs.items()}


REGISTERS: Final = _ids(
    import_kwh="import_register_kwh", export_kwh="export_register_kwh", import_kvarh="import_register_kvarh",
    export_kvarh="export_register_kvarh", import_kvah="import_register_kvah", export_kvah="export_register_kvah",
    net_kwh="net_register_kwh",
)  # fmt: skip
"""Which register counts which energy."""

SIBLINGS: Final = _ids(import_kwh="export_kwh", export_kwh="import_kwh")
NET: Final = _ids(import_kwh="net_kwh")
OTHER: Final = _ids(import_kwh="export_kwh")
"""The other direction; the net of both; what the net is less this one."""
