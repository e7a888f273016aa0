"""What a worker does before its first event: one turn on a utility of four meters, so that nothing is compiled later.

The kernels of `gridwire.columnar` become machine code when they are first called, which takes seconds on a machine that
has never run them. A last gasp must not wait for that behind the first reading of a hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gridwire.broker.port import ColumnBatch
from gridwire.columnar.decode import decode
from gridwire.core.batch import Event, encode
from gridwire.core.hubs import FEEDERS, HEALTH, METER_EVENTS, READINGS, TRANSFORMERS, WEATHER
from gridwire.grid.lane import Stage
from gridwire.grid.loads import LoadsSettings
from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint

NETWORK: Final = Network(
    name="rehearsal",
    transformers=(Transformer(id="T", rated_kva=100.0, substation="S"),),
    feeders=(Feeder(id="F", transformer="T"),),
    usage_points=tuple(
        UsagePoint(id=f"U{n}", transformer="T", feeder="F", expects=("import_kwh", "export_kwh", "voltage_v"))
        for n in range(4)
    ),
)

_ENDS: Final = tuple(
    f"2026-01-{day}T{hour:02}:{minute:02}:00Z"
    for day, hours in (("01", (22, 23)), ("02", (0, 1)))
    for hour in hours
    for minute in (0, 15, 30, 45)
)
"""Of two days: what closes one belongs to the turn."""

_NOW_MS: Final = 1_767_319_200_000  # 2026-01-02T02:00:00Z


def _reading(point: str, end: str, type: str, value: str) -> str:
    length = 0 if type == "voltage_v" else 900
    return f'{{"usage_point":"{point}","ts_end":"{end}","interval_s":{length},"reading_type":"{type}","value":{value}}}'


def _fact(kind: str, id: str, end: str) -> str:
    return f'{{"{kind}":"{id}","ts_end":"{end}","interval_s":900,"load_kw":2.5,"count":4,"expected":4}}'


def _health(end: str) -> str:
    return (
        f'{{"transformer":"T","ts_end":"{end}","load_factor":0.1,"hot_spot_c":40.5,"ageing_factor":0.01,'
        f'"loss_of_life_h":1.5,"watched_h":24.0,"signature":"","risk":0.1}}'
    )


_VALUES: Final = (("import_kwh", "0.25"), ("export_kwh", "0"), ("voltage_v", "260.5"))

SAID: Final[Mapping[str, tuple[str, ...]]] = {
    READINGS: tuple(
        _reading(point.id, end, *value) for end in _ENDS for value in _VALUES for point in NETWORK.usage_points
    ),
    METER_EVENTS: tuple(f'{{"ts_event":"{end}","kind":"LAST_GASP","usage_point":"U0"}}' for end in _ENDS),
    TRANSFORMERS: tuple(_fact("transformer", "T", end) for end in _ENDS),
    FEEDERS: tuple(_fact("feeder", "F", end) for end in _ENDS),
    HEALTH: tuple(_health(end) for end in _ENDS),
    WEATHER: tuple(f'{{"station":"W","ts":"{end}","temperature_c":1.5,"wind_gust_ms":3.0}}' for end in _ENDS),
}
"""What each hub says."""


def rehearse(stage: Stage, settings: LoadsSettings) -> None:
    """Let a pipeline of the stage take a turn; nothing of it stays but compiled code."""
    pipeline = stage.make(NETWORK, settings, 0, None)
    pipeline.take([_batch(hub) for hub in stage.hubs if hub in SAID])
    pipeline.idle(_NOW_MS)
    pipeline.outputs(_NOW_MS, lambda hub: 1)
    pipeline.to_arrays()


def _batch(hub: str) -> ColumnBatch:
    events = [Event(value.encode(), b"T", (), _NOW_MS) for value in SAID[hub]]
    data = bytes(encode(events))
    (columns,) = decode(data, 0, len(data), from_offset=0).columns
    return ColumnBatch(hub, 0, columns, len(events))
