"""What models learn from: the lake's facts and weather as matrices of hours by units.

Of several facts of a unit and interval the one with the highest version counts. An hour counts when every interval of
it is there with nearly all of its readings; else it is missing, and nothing stands in for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gridwire.capture import sql as lake
from gridwire.core.errors import GridwireError
from gridwire.core.hubs import FEEDERS, HEALTH, TRANSFORMERS, WEATHER
from gridwire.core.limits import MIB
from gridwire.grid.models.hazard import DAILY, HealthDays
from gridwire.grid.watch.hours import COMPLETE_SHARE

CELLS_MAX: Final = 400_000_000
"""Hours times units: 1.6 GB. A year of 45,000 units; more is trained in parts, by `--from`."""

MEMORY_BYTES: Final = 2048 * MIB
"""What DuckDB may use while it sums up."""

LEVELS: Final = {"transformer": TRANSFORMERS, "feeder": FEEDERS}
"""Levels of units and the tables of their facts."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A transformer that failed on a day: days since the epoch, UTC."""

    transformer: str
    day: int


class TooLittleData(GridwireError):
    """There is nothing, or not enough, to learn from; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Loads:
    """Hourly mean loads of one level.

    **Shape**: `load_kw` `float32[n_hours, n_units]`, NaN where unknown; `station_of_unit` `int64[n_units]`, -1 unknown;
    `rated_kva` `float64[n_units]`, 0 unknown.

    Args:
        first_hour: end of row 0 in hours since the epoch.
    """

    level: str
    ids: tuple[str, ...]
    first_hour: int
    load_kw: NDArray[np.float32]
    station_of_unit: NDArray[np.int64]
    rated_kva: NDArray[np.float64]

    @property
    def hours(self) -> NDArray[np.int64]:
        """Ends of the rows."""
        return self.first_hour + np.arange(len(self.load_kw))


@dataclass(frozen=True, slots=True)
class Dataset:
    """Everything of one training.

    **Shape**: `temperature_c` of each level's hours `float64[n_hours, n_stations]`.

    Args:
        versions: of each table that was read. health: for the model of failures, where failures are known.
    """

    loads: Mapping[str, Loads]
    stations: tuple[str, ...]
    temperature_c: Mapping[str, NDArray[np.float64]]
    versions: Mapping[str, int] = field(default_factory=dict)
    health: HealthDays | None = None

    def temperature_of_units(self, level: str) -> NDArray[np.float64]:
        """**Shape** `[n_hours, n_units]`: temperature at each unit's station, NaN where there is none."""
        return at_units(self.temperature_c[level], self.loads[level].station_of_unit)


def at_units(by_station: NDArray[np.float64], station_of_unit: NDArray[np.int64]) -> NDArray[np.float64]:
    """Columns of stations as columns of units; NaN for units without one."""
    padded = np.column_stack([by_station, np.full(len(by_station), np.nan)])
    found: NDArray[np.float64] = padded[:, np.where(station_of_unit < 0, by_station.shape[1], station_of_unit)]
    return found


def load(
    lake_root: Path,
    *,
    begin: datetime | None = None,
    end: datetime | None = None,
    station_of: Mapping[str, Mapping[str, str]] | None = None,
    failures: Sequence[Failure] = (),
    with_loads: bool = True,
) -> Dataset:
    """Read the lake.

    Args:
        begin, end: hours that end after `begin` and not after `end`.
        failures: of transformers, for the model of failures; with_loads: what all other models learn from.
        station_of: station by unit id, by level, as the network model has it; without one all units belong to the
            station that was seen first.

    Raises:
        TooLittleData: the lake has no facts. SqlError: it cannot be read.
    """
    tables = {info.name: info.version for info in lake.tables(lake_root)}
    stations, observations = _weather(lake_root) if WEATHER in tables else ((), None)
    loads: dict[str, Loads] = {}
    temperatures: dict[str, NDArray[np.float64]] = {}
    for level, hub in LEVELS.items():
        if hub not in tables or not with_loads:
            continue
        found = _loads(lake_root, level, hub, begin, end, stations, (station_of or {}).get(level, {}))
        if found is not None:
            loads[level] = found
            temperatures[level] = _temperatures(found, stations, observations)
    health = _health(lake_root, begin, end, failures) if failures and HEALTH in tables else None
    if not loads and health is None:
        wanted = [*(LEVELS.values() if with_loads else ()), *([HEALTH] if failures else ())]
        raise TooLittleData(f"the lake in {lake_root} has no facts: tables {', '.join(wanted)} are empty")
    used = (*LEVELS.values(), WEATHER, *((HEALTH,) if health else ()))
    versions = {name: tables[name] for name in used if name in tables}
    return Dataset(loads, stations, temperatures, versions, health)


def _health(
    lake_root: Path, begin: datetime | None, end: datetime | None, failures: Sequence[Failure]
) -> HealthDays | None:
    """Days of the facts of `grid.health`; None where there is none."""
    newest = (
        "SELECT transformer, ts_end, arg_min(struct_pack(load_factor, hot_spot_c, ageing_factor, signature, risk, "
        'loss_of_life_h, watched_h), "offset") AS fact '
        f'FROM "{HEALTH}" WHERE {_range(begin, end)} AND transformer IS NOT NULL GROUP BY transformer, ts_end'
    )
    table = lake.arrow(
        lake_root,
        "SELECT transformer, CAST(floor((epoch(ts_end) - 0.5) / 86400) AS BIGINT) AS day, count(*) AS hours, "
        "max(fact.load_factor) AS load, max(fact.hot_spot_c) AS hot_spot_c, sum(fact.ageing_factor) AS ageing, "
        "count(*) FILTER (fact.signature <> '') AS sign, sum(fact.risk) AS risk, "
        "arg_max(fact.loss_of_life_h / greatest(fact.watched_h, 1), ts_end) AS wear "
        f"FROM ({newest}) GROUP BY transformer, day",
        memory_bytes=MEMORY_BYTES,
    )
    if not len(table):
        return None
    ids = tuple(sorted(pc.unique(table["transformer"]).to_pylist()))
    unit = pc.index_in(table["transformer"], value_set=pa.array(ids)).to_numpy()
    day = table["day"].to_numpy()
    first, count = int(day.min()), int(day.max() - day.min()) + 1
    if count * len(ids) * len(DAILY) > CELLS_MAX // 2:
        raise TooLittleData(f"{count:,} days of {len(ids):,} transformers are more than fit: train with --from")
    days = np.zeros((len(DAILY), count, len(ids)))
    for row, name in enumerate(DAILY):
        days[row, day - first, unit] = np.nan_to_num(table[name].to_numpy(zero_copy_only=False))
    at = {id: number for number, id in enumerate(ids)}
    failed = [(at[each.transformer], each.day - first) for each in failures if each.transformer in at]
    known = np.array([row for row in failed if 0 <= row[1] < count], np.int64).reshape(-1, 2)
    return HealthDays(ids, first, days, known)


def _range(begin: datetime | None, end: datetime | None) -> str:
    def text(moment: datetime) -> str:
        return f"TIMESTAMPTZ '{moment.astimezone(UTC).isoformat()}'"

    tests = ["ts_end IS NOT NULL"]
    tests += [f"ts_end > {text(begin)}"] if begin else []
    tests += [f"ts_end <= {text(end)}"] if end else []
    return " AND ".join(tests)


def _loads(
    lake_root: Path, level: str, hub: str, begin: datetime | None, end: datetime | None,
    stations: tuple[str, ...], station_of: Mapping[str, str],
) -> Loads | None:  # fmt: skip
    newest = (
        f"SELECT {level} AS unit, ts_end, max(interval_s) AS interval_s, max(rated_kva) AS rated, "
        f"arg_max(load_kw, version) AS kw, arg_max(count, version) >= {COMPLETE_SHARE} * arg_max(expected, version) "
        f'AS whole FROM "{hub}" WHERE {_range(begin, end)} AND {level} IS NOT NULL AND interval_s > 0 '
        f"AND interval_s <= 3600 GROUP BY {level}, ts_end"
    )
    table = lake.arrow(
        lake_root,
        f"SELECT unit, CAST(ceil(epoch(ts_end) / 3600) AS BIGINT) AS hour, avg(kw) AS kw, max(rated) AS rated "
        f"FROM ({newest}) WHERE whole GROUP BY unit, hour HAVING count(*) * max(interval_s) = 3600",
        memory_bytes=MEMORY_BYTES,
    )
    if not len(table):
        return None
    ids = tuple(sorted(pc.unique(table["unit"]).to_pylist()))
    column = pc.index_in(table["unit"], value_set=pa.array(ids)).to_numpy()
    hours = table["hour"].to_numpy()
    first, last = int(hours.min()), int(hours.max())
    if (last - first + 1) * len(ids) > CELLS_MAX:
        raise TooLittleData(
            f"{last - first + 1:,} hours of {len(ids):,} units are more than fit: train on fewer, with --from"
        )
    matrix = np.full((last - first + 1, len(ids)), np.nan, np.float32)
    matrix[hours - first, column] = table["kw"].to_numpy()
    rated = np.zeros(len(ids))
    np.maximum.at(rated, column, np.nan_to_num(table["rated"].to_numpy(zero_copy_only=False)))
    at = {station: number for number, station in enumerate(stations)}
    default = 0 if stations else -1
    of_unit = np.array([at.get(station_of[id], -1) if station_of.get(id) else default for id in ids], np.int64)
    return Loads(level, ids, first, matrix, of_unit, rated)


def _weather(lake_root: Path) -> tuple[tuple[str, ...], pa.Table]:
    """Stations in the order in which they were seen, and their hourly temperatures."""
    table = lake.arrow(
        lake_root,
        "SELECT station, CAST(ceil(epoch(coalesce(ts, ts_end)) / 3600) AS BIGINT) AS hour, avg(temperature_c) AS c, "
        f'min("offset") AS seen FROM "{WEATHER}" WHERE station IS NOT NULL AND coalesce(ts, ts_end) IS NOT NULL '
        "AND temperature_c BETWEEN -90 AND 60 GROUP BY station, hour",
    )
    first: dict[str, int] = {}
    for station, seen in zip(table["station"].to_pylist(), table["seen"].to_pylist(), strict=True):
        first[station] = min(seen, first.get(station, seen))
    return tuple(sorted(first, key=lambda station: first[station])), table


def _temperatures(loads: Loads, stations: tuple[str, ...], observations: pa.Table | None) -> NDArray[np.float64]:
    found = np.full((len(loads.load_kw), len(stations)), np.nan)
    if observations is None or not stations:
        return found
    column = pc.index_in(observations["station"], value_set=pa.array(stations)).to_numpy()
    rows = observations["hour"].to_numpy() - loads.first_hour
    inside = (rows >= 0) & (rows < len(found))
    found[rows[inside], column[inside]] = observations["c"].to_numpy()[inside]
    return found
