"""What a detector is: columns of readings, meter events, loads and weather in, findings out.

A detector keeps its state as arrays over the units of one network model. It does no I/O, asks no clock and calls no
random numbers: what it knows is a function of what it was given, and time is what the hub stamped on it. So it can be
made again from the log, run over a past range, and measured on injected truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.findings import Finding
from gridwire.grid.network import NetworkIndex


@dataclass(frozen=True, slots=True)
class SeenReadings:
    """n accepted readings of known usage points, in the order of their hub.

    **Shape**: every array `[n]`. `points`: position in the network model. `types`: id of the registry of reading types.
    `values`: in the type's unit (kWh, V, degC). `received_us`: when the hub took them.
    """

    points: NDArray[np.int32]
    types: NDArray[np.int16]
    ts_end_us: NDArray[np.int64]
    interval_s: NDArray[np.int32]
    values: NDArray[np.float64]
    received_us: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True, slots=True)
class SeenEvents:
    """n meter events of known usage points. `kinds`: position in `gridwire.grid.meter_event.KINDS`."""

    points: NDArray[np.int32]
    kinds: NDArray[np.int8]
    ts_us: NDArray[np.int64]
    received_us: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True, slots=True)
class SeenLoads:
    """n facts of transformers or feeders (`level`), the latest of each (unit, interval) last.

    **Shape**: every array `[n]`. `units`: position in the model's transformers or feeders. `load_kw`: mean of the
    interval, import less export. `counts`, `expected`: readings in the sum and readings due.
    """

    level: str
    units: NDArray[np.int32]
    ts_end_us: NDArray[np.int64]
    interval_s: NDArray[np.int32]
    load_kw: NDArray[np.float64]
    counts: NDArray[np.int32]
    expected: NDArray[np.int32]
    received_us: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.units)


@dataclass(frozen=True, slots=True)
class SeenWeather:
    """n observations of the hub `weather`; NaN where a station does not measure something.

    **Shape**: every array `[n]`. `stations`: ids. `ts_us`: end of the observed interval.
    """

    stations: Sequence[str]
    ts_us: NDArray[np.int64]
    temperature_c: NDArray[np.float64]
    wind_gust_ms: NDArray[np.float64]
    received_us: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.stations)


@dataclass(frozen=True, slots=True)
class UnitFact:
    """What a detector tells all the time, found something or not: one event of a hub, keyed by its unit."""

    hub: str
    key: str
    value: bytes


class Detector:
    """Base of all detectors: it takes everything and finds nothing.

    Args of a subclass: the network model as arrays, then its own settings as a frozen dataclass with documented
    defaults. `name` names it in findings, settings and metrics.
    """

    name = "detector"

    hubs: tuple[str, ...] = ()
    """Hubs it tells facts to."""

    def __init__(self, index: NetworkIndex) -> None:
        self.index = index

    def readings(self, seen: SeenReadings) -> None:
        """Take readings."""

    def events(self, seen: SeenEvents) -> None:
        """Take meter events."""

    def loads(self, seen: SeenLoads) -> None:
        """Take sums of transformers or feeders."""

    def weather(self, seen: SeenWeather) -> None:
        """Take weather."""

    def findings(self, now_us: int) -> list[Finding]:
        """What is new or changed since the last call. `now_us`: the newest `received_us` of anything seen."""
        return []

    def facts(self) -> list[UnitFact]:
        """What is to be told since the last call; a rebuild may tell the same again, byte for byte."""
        return []

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state, for a snapshot."""
        return {}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a snapshot. Raises ValueError or KeyError when it does not fit."""
