"""Normalised demand as facts: what each transformer and feeder used on a day, and what it would have in normal weather.

    {"kind":"transformer","unit":"T1","day":"2016-06-01","load_kw":31.2,"normalised_kw":29.0,"temperature_c":24.1,
     "normal_c":18.0,"model":"20160601T000000Z-1a2b3c4d"}

One JSON object a unit and local day in the hub `grid.demand`, told once, when the day's last hour has settled; loads
are means of the day, import less export. `normalised_kw`, `temperature_c` and `normal_c` are absent where the day's
temperature, or that of a normal year, is not known. A day of which more than two hours are missing is not told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from gridwire.core import hubs
from gridwire.core.batch import Event
from gridwire.grid.models.calendar import WORKDAY, local
from gridwire.grid.models.model_log import Stored
from gridwire.grid.models.normal import Daily, NormalModel, day_of_year

DEMAND_HUB: Final = hubs.DEMAND
"""The hub of these facts."""

DAY_HOURS_MIN: Final = 22


class DemandFact(msgspec.Struct, kw_only=True, omit_defaults=True):
    """See the module."""

    kind: str
    unit: str
    day: str
    load_kw: float
    normalised_kw: float | None = None
    temperature_c: float | None = None
    normal_c: float | None = None
    model: str


@dataclass(frozen=True, slots=True)
class DayDemand:
    """One local day of a level. **Shape** `[n_units]`, NaN where unknown."""

    level: str
    day: int
    model: str
    load_kw: NDArray[np.float64]
    normalised_kw: NDArray[np.float64]
    temperature_c: NDArray[np.float64]
    normal_c: NDArray[np.float64]


class Normaliser:
    """The normalisation in effect, in the order of a network's units."""

    def __init__(self, ids: Mapping[str, Sequence[str]]) -> None:
        self._ids = ids
        self._models: dict[str, NormalModel] = {}
        self._zone = "UTC"
        self.version = ""

    def use(self, stored: Stored) -> None:
        """Take a model. Raises InvalidModel when it does not fit; the one before stays then."""
        arrays = stored.arrays()
        found = {level: NormalModel.from_arrays(arrays, level) for level in self._ids}
        self._models = {level: _placed(model, self._ids[level]) for level, model in found.items() if model is not None}
        self._zone = str(stored.manifest.settings.get("zone", "UTC"))
        self.version = stored.manifest.version

    def ended(self, before: int, now: int) -> NDArray[np.int64] | None:
        """Hours of the local day that ended between two closed hours, the later of which is in another day."""
        if not self._models or before < 0:
            return None
        _, _, days = local(np.array([before, now]), self._zone)
        if days[0] == days[1]:
            return None
        hours = np.arange(before - 25, before + 26)
        found: NDArray[np.int64] = hours[local(hours, self._zone)[2] == days[0]]
        return found

    def day(
        self, level: str, hours: NDArray[np.int64], load_kw: NDArray[np.float64], temperature_c: NDArray[np.float64]
    ) -> DayDemand | None:
        """Judge a day. **Shape** `load_kw[n_hours, n_units]`, `temperature_c[n_units]`: mean of the day."""
        model = self._models.get(level)
        if model is None:
            return None
        known = np.isfinite(load_kw)
        mean = np.where(known, load_kw, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        mean = np.where(known.sum(axis=0) >= DAY_HOURS_MIN, mean, np.nan)
        _, kind, days = local(hours[:1], self._zone)
        daily = Daily(days, kind != WORKDAY, mean[None, :], temperature_c[None, :])
        normal = model.normal_c[day_of_year(days)][0]
        normalised = model.normalised(daily)[0]
        return DayDemand(level, int(days[0]), self.version, mean, normalised, temperature_c, normal)


def _placed(model: NormalModel, ids: Sequence[str]) -> NormalModel:
    """The model in the order of a network's units; those it does not know are NaN."""
    at = {id: place for place, id in enumerate(model.ids)}
    places = np.array([at.get(id, -1) for id in ids], np.int64)
    known = places >= 0
    parts, normal = (
        np.where(known, each[:, np.where(known, places, 0)], np.nan) for each in (model.parts, model.normal_c)
    )
    return NormalModel(tuple(ids), parts, normal, np.where(known, model.r2[np.where(known, places, 0)], np.nan))


def events(found: DayDemand, ids: Sequence[str], now_ms: int) -> Iterator[tuple[int, Event]]:
    """(position of the unit, event) of every unit whose day is whole."""
    encode = msgspec.json.Encoder().encode
    day = str(np.datetime64(found.day, "D"))

    def number(value: float) -> float | None:
        return round(float(value), 3) if np.isfinite(value) else None

    for unit in np.flatnonzero(np.isfinite(found.load_kw)).tolist():
        fact = DemandFact(
            kind=found.level, unit=ids[unit], day=day, load_kw=round(float(found.load_kw[unit]), 3), model=found.model,
            normalised_kw=number(found.normalised_kw[unit]), temperature_c=number(found.temperature_c[unit]),
            normal_c=number(found.normal_c[unit]),
        )  # fmt: skip
        yield unit, Event(encode(fact), ids[unit].encode(), (), now_ms)
