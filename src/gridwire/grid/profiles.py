"""Real quarter-hour energy for the usage points of an imported network: SimBench's measured profiles of 2016.

The files hold relative power for 35,136 quarter hours, stamped in naive local time (CET/CEST): 27 March lacks 02:00 to
02:45, 30 October has them twice. Rows are therefore evenly spaced in UTC, and only the first stamp has to be converted.
A stamp is taken as the START of its quarter hour: so read, the file is exactly the local calendar year 2016, from
01.01. 00:00 to 31.12. 24:00. The first interval thus ends at 2015-12-31T23:15Z.

Energy is rounded to whole watt-hours once, here; every sum made of it elsewhere is exact in integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.reading import timestamp_us
from gridwire.grid.simbench import SimbenchGrids, SimbenchUnavailable, Source, read_csv

INTERVAL_S: Final = 900
"""Length of an interval."""

INTERVALS_PER_YEAR: Final = 35_136
"""Quarter hours of 2016, a leap year."""

ZONE: Final = "Europe/Berlin"
"""Zone of the stamps in the files."""

_INTERVAL_US = INTERVAL_S * 1_000_000
_WH_PER_KW = 250.0  # of a quarter hour


@dataclass(frozen=True, slots=True)
class QuarterHours:
    """Energy of n units in every quarter hour of a year. After the last interval the year starts over; time goes on.

    **Shape**: `profiles` `float64[n_intervals, n_profiles]` relative power, `profile_of_unit` `int32[n]`,
    `power_kw` `float64[n]`.

    Args:
        first_end_us: end of interval 0, microseconds since the epoch.
    """

    first_end_us: int
    profiles: NDArray[np.float64]
    profile_of_unit: NDArray[np.int32]
    power_kw: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.profiles)

    def energy_wh(self, interval: int) -> NDArray[np.int64]:
        """Whole watt-hours of every unit in one interval: imported by loads, exported by generators."""
        relative = self.profiles[interval % len(self.profiles)][self.profile_of_unit]
        energy_wh: NDArray[np.int64] = np.rint(relative * self.power_kw * _WH_PER_KW).astype(np.int64)
        return energy_wh

    def ts_end_us(self, interval: int) -> int:
        """End of an interval, microseconds since the epoch."""
        return self.first_end_us + interval * _INTERVAL_US

    def interval_at(self, ts_end_us: int) -> int:
        """The interval that ends at a time; the nearest one before it if none does."""
        return (ts_end_us - self.first_end_us) // _INTERVAL_US


def load_profiles(grids: SimbenchGrids) -> QuarterHours:
    """Read the profiles the units of `grids` use, and no others.

    Raises:
        SimbenchUnavailable: a file or a profile is missing, or the file is not of the year 2016.
    """
    columns: dict[tuple[bool, str], NDArray[np.float64]] = {}
    first_end_us = 0
    for generator, file, suffix in ((False, "LoadProfile.csv", "_pload"), (True, "RESProfile.csv", "")):
        names = sorted({source.profile for source in grids.sources if source.generator is generator})
        if not names:
            continue
        table = read_csv(grids.folder / file, ("time", *(name + suffix for name in names)))
        first_end_us = _first_end_us(file, table.num_rows, table["time"][0].as_py())
        columns |= {(generator, name): table[name + suffix].to_numpy() for name in names}
    return _quarter_hours(first_end_us, columns, grids.sources)


def _quarter_hours(
    first_end_us: int, columns: dict[tuple[bool, str], NDArray[np.float64]], sources: Sequence[Source]
) -> QuarterHours:
    position = {key: i for i, key in enumerate(columns)}
    profiles = np.column_stack(list(columns.values()))
    if not np.isfinite(profiles).all() or (profiles < 0).any():
        raise SimbenchUnavailable("a profile has gaps or negative power")
    return QuarterHours(
        first_end_us,
        profiles,
        np.array([position[source.generator, source.profile] for source in sources], np.int32),
        np.array([source.power_kw for source in sources], np.float64),
    )


def _first_end_us(file: str, rows: int, first_stamp: str) -> int:
    if rows != INTERVALS_PER_YEAR:
        raise SimbenchUnavailable(f"{file} has {rows} rows instead of {INTERVALS_PER_YEAR}")
    try:
        local = datetime.strptime(first_stamp, "%d.%m.%Y %H:%M").replace(tzinfo=ZoneInfo(ZONE))
    except (TypeError, ValueError):
        raise SimbenchUnavailable(f"{file} starts with {first_stamp!r} instead of a time") from None
    return timestamp_us(local.astimezone(UTC)) + _INTERVAL_US
