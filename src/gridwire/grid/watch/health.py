"""The health of every transformer: temperature and ageing by its load, signs of failure by its customers' voltages.

Beside findings it tells the present state of each transformer once an hour, as one JSON object of the hub
`grid.health`; of several of a transformer and `ts_end` the last holds:

    {"transformer":"T1","ts_end":"2026-01-01T00:00:00Z","load_factor":0.71,"top_oil_c":55.2,"hot_spot_c":66.0,
     "ageing_factor":0.03,"loss_of_life_h":12.1,"watched_h":700.0,"held_h":0.25,"ambient":"observed","signature":"",
     "risk":0.04,"voltage_pu":1.012}

`risk` is 0 to 1 and orders transformers: 1 - (1 - signs)(1 - ageing)(1 - overload). It is no probability of failure:
there was no labelled history to fit one to (`gridwire.grid.models.risk` is, once there is). `voltage_pu`
is the median of its customers in the interval that ends the hour, or in the last one known; null without one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from gridwire.core import hubs
from gridwire.grid.findings import Finding
from gridwire.grid.network import NetworkIndex
from gridwire.grid.reading import rfc3339
from gridwire.grid.watch.ageing import ThermalSettings
from gridwire.grid.watch.alarms import Units
from gridwire.grid.watch.base import Detector, SeenLoads, SeenReadings, SeenWeather, UnitFact
from gridwire.grid.watch.pending import pack, unpack
from gridwire.grid.watch.signatures import NAMES, Signatures, SignatureSettings
from gridwire.grid.watch.thermal import Loading, LoadingSettings

HEALTH_HUB: Final = hubs.HEALTH
"""The hub of health facts."""


class HealthFact(msgspec.Struct, kw_only=True):
    """What is known of a transformer at the end of an hour."""

    transformer: str
    ts_end: str
    load_factor: float
    top_oil_c: float
    hot_spot_c: float
    ageing_factor: float
    loss_of_life_h: float
    watched_h: float
    held_h: float
    ambient: str
    signature: str
    risk: float
    voltage_pu: float | None = None


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """Settings of both parts."""

    loading: LoadingSettings = field(default_factory=LoadingSettings)
    thermal: ThermalSettings = field(default_factory=ThermalSettings)
    signatures: SignatureSettings = field(default_factory=SignatureSettings)


class Health(Detector):
    """Findings `transformer.overload`, `transformer.hot_spot`, `transformer.ageing`, `transformer.failing`."""

    name = "health"
    hubs = (HEALTH_HUB,)

    def __init__(self, index: NetworkIndex, settings: HealthSettings | None = None) -> None:
        super().__init__(index)
        settings = settings or HealthSettings()
        self.loading = Loading(index, settings.loading, settings.thermal)
        self.signatures = Signatures(index, settings.signatures)
        self._overload = settings.loading.overload_open
        self._facts: list[UnitFact] = []

    def loads(self, seen: SeenLoads) -> None:
        """Loads of transformers."""
        self.signatures.loads(seen)
        per_hour = max(1, 3600 // self.index.interval_s)
        for units, slots in self.loading.loads(seen):
            hourly = slots % per_hour == 0
            self._tell(units[hourly], slots[hourly])

    def readings(self, seen: SeenReadings) -> None:
        """Voltages."""
        self.signatures.readings(seen)

    def weather(self, seen: SeenWeather) -> None:
        """Ambient temperature."""
        self.loading.ambient.take(seen)

    def risk(self, units: Units) -> NDArray[np.float64]:
        """See the module."""
        ageing = 1.0 - np.exp(-self.loading.rate[units] / 16.0)
        overload = np.clip((self.loading.peak_pu[units] - self._overload) / 2.0, 0.0, 0.5)
        risks: NDArray[np.float64] = 1.0 - (1.0 - self.signatures.score()[units]) * (1.0 - ageing) * (1.0 - overload)
        return risks

    def _tell(self, units: Units, slots: NDArray[np.int64]) -> None:
        loading, model, sign = self.loading, self.loading.model, self.signatures.sign
        spots, risks = model.hot_spot_c[units], self.risk(units)
        seen = {slot: self.signatures.voltages(slot) for slot in np.unique(slots).tolist()}
        for place, (unit, slot) in enumerate(zip(units.tolist(), slots.tolist(), strict=True)):
            id, volts = self.index.transformer_ids[unit], seen[slot]
            fact = HealthFact(
                transformer=id, ts_end=rfc3339(slot * self.index.interval_s * 1_000_000),
                load_factor=round(float(loading.load_pu[unit]), 4), top_oil_c=round(float(model.top_oil_c[unit]), 2),
                hot_spot_c=round(float(spots[place]), 2), ageing_factor=round(float(loading.factor[unit]), 6),
                loss_of_life_h=round(float(model.loss_of_life_h[unit]), 4),
                watched_h=round(float(loading.watched_h[unit]), 2), held_h=round(float(loading.held_h[unit]), 2),
                ambient="observed" if loading.observed[unit] else "default", signature=NAMES[sign[unit]],
                risk=round(float(risks[place]), 4),
                voltage_pu=None if np.isnan(volts[unit]) else round(float(volts[unit]), 4),
            )  # fmt: skip
            self._facts.append(UnitFact(HEALTH_HUB, id, msgspec.json.encode(fact)))

    def findings(self, now_us: int) -> list[Finding]:
        """Findings of both parts."""
        found = self.loading.found + self.signatures.found
        self.loading.found, self.signatures.found = [], []
        return found

    def facts(self) -> list[UnitFact]:
        """Health facts."""
        told, self._facts = self._facts, []
        return told

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The state of both parts; facts have been taken by then."""
        arrays = {f"loading.{name}": array for name, array in self.loading.to_arrays().items()}
        arrays |= {f"signatures.{name}": array for name, array in self.signatures.to_arrays().items()}
        return arrays | {"pending": pack(self.loading.found + self.signatures.found)}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state."""
        self.loading.from_arrays(_part(arrays, "loading."))
        self.signatures.from_arrays(_part(arrays, "signatures."))
        self.loading.found, self.signatures.found = unpack(arrays["pending"]), []


def _part(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
