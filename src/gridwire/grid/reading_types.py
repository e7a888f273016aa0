"""What a reading measures: one table of reading types, found by alias, CIM ReadingType code or OBIS code.

A row's id is stored with every reading, so ids are never changed or reused. The CIM code is the 18-number form of
IEC 61968-9: macro period, aggregate, measuring period, accumulation, flow direction, commodity, kind, two numbers each
for interharmonic and argument, time of use, critical peak, tier, phases, multiplier, unit, currency. The table below is
gridwire's own choice of codes for what its formats deliver. OBIS codes are IEC 62056-6-1 `A-B:C.D.E`, without the
billing period.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Accumulation(StrEnum):
    """How a value relates to time."""

    INTERVAL = "interval"
    """What passed between `ts_end - interval_s` and `ts_end`."""
    REGISTER = "register"
    """A counter's reading at `ts_end`; it only grows, until it rolls over or the meter is changed."""
    INSTANTANEOUS = "instantaneous"
    """A momentary value at `ts_end`."""


class Direction(StrEnum):
    """Which way energy flows, seen from the grid: import is delivered to the customer."""

    IMPORT = "import"
    EXPORT = "export"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ReadingType:
    """One row of the registry. `phase` is 1 to 3 or 0 for all; `tariff` is 1 to 8 or 0 for the total.

    Args:
        cim: the code we write. cim_accepted: further codes we read as the same type (other measuring periods).
        obis: codes we read, the first is the one we write; empty when OBIS has none.
    """

    id: int
    alias: str
    unit: str
    accumulation: Accumulation
    direction: Direction
    cim: str
    obis: tuple[str, ...] = ()
    phase: int = 0
    tariff: int = 0
    cim_accepted: tuple[str, ...] = ()


# CIM enumerations used below, by position in the code.
_BULK, _DELTA, _INSTANT = 1, 4, 12  # accumulation
_FLOW = {Direction.IMPORT: 1, Direction.EXPORT: 19, Direction.NONE: 0}
_NET, _TOTAL, _MAXIMUM = 4, 20, 8  # flow of imports less exports, of both added; aggregate
_ELECTRICITY, _GAS, _WATER, _HEAT = 1, 7, 9, 13  # commodity
_CURRENT, _ENERGY, _POWER, _POWER_FACTOR, _VOLTAGE, _VOLUME, _FREQUENCY = 4, 12, 37, 38, 54, 58, 15  # kind
_DEMAND, _TEMPERATURE, _VOLUME_FLOW = 8, 46, 59
_COOLING = 14  # commodity
_PHASES = {0: 0, 1: 128, 2: 64, 3: 32}
_PHASES_TO_NEUTRAL = {0: 0, 1: 129, 2: 65, 3: 33}
_QUARTER_HOUR = 2
_OTHER_PERIODS = (3, 6, 1, 5, 7, 4)  # 1, 5, 10, 30, 60 minutes, 24 hours
_NO_UNIT, _AMPERE, _VOLT, _HERTZ, _JOULE, _WATT, _CUBIC_METRE, _VAR, _WATT_HOUR, _VAR_HOUR = (
    0, 5, 29, 33, 31, 38, 42, 63, 72, 73,
)  # fmt: skip
_VOLT_AMPERE, _VOLT_AMPERE_HOUR, _CELSIUS, _CUBIC_METRE_AN_HOUR = 61, 71, 23, 125
_KILO, _GIGA = 3, 9


def _code(
    period: int, accumulation: int, flow: int, kind: int, unit: int, *,
    commodity: int = _ELECTRICITY, phases: int = 0, tariff: int = 0, multiplier: int = 0, aggregate: int = 0,
) -> str:  # fmt: skip
    first = f"0.{aggregate}.{period}.{accumulation}.{flow}.{commodity}.{kind}"
    return f"{first}.0.0.0.0.{tariff}.0.0.{phases}.{multiplier}.{unit}.0"


def _interval(
    id: int, alias: str, unit: str, direction: Direction, cim_unit: int, quantity: int, flow: int | None = None
) -> ReadingType:
    return _delta(
        id, alias, unit, direction, cim_unit, _ENERGY, f"1-0:{quantity}.29.0", multiplier=_KILO,
        flow=_FLOW[direction] if flow is None else flow,
    )  # fmt: skip


def _delta(
    id: int, alias: str, unit: str, direction: Direction, cim_unit: int, kind: int, obis: str, *,
    flow: int = 1, commodity: int = _ELECTRICITY, multiplier: int = 0,
) -> ReadingType:  # fmt: skip
    first, *others = (
        _code(period, _DELTA, flow, kind, cim_unit, multiplier=multiplier, commodity=commodity)
        for period in (_QUARTER_HOUR, *_OTHER_PERIODS)
    )
    return ReadingType(
        id, alias, unit, Accumulation.INTERVAL, direction, first, (obis,) if obis else (), cim_accepted=tuple(others)
    )


def _plain(
    id: int, alias: str, unit: str, accumulation: Accumulation, cim: str, obis: str = "",
    direction: Direction = Direction.NONE, phase: int = 0,
) -> ReadingType:  # fmt: skip
    return ReadingType(id, alias, unit, accumulation, direction, cim, (obis,) if obis else (), phase)


def _counter(id: int, alias: str, unit: str, flow: int, cim_unit: int, obis: str, direction: Direction) -> ReadingType:
    cim = _code(0, _BULK, flow, _ENERGY, cim_unit, multiplier=_KILO)
    return _plain(id, alias, unit, Accumulation.REGISTER, cim, obis, direction)


def _now(id: int, alias: str, unit: str, cim: str, obis: str = "", phase: int = 0) -> ReadingType:
    return _plain(id, alias, unit, Accumulation.INSTANTANEOUS, cim, obis, phase=phase)


def _register(id: int, direction: Direction, quantity: int, tariff: int = 0, reactive: bool = False) -> ReadingType:
    unit, cim_unit = ("kvarh", _VAR_HOUR) if reactive else ("kWh", _WATT_HOUR)
    suffix = f"_t{tariff}" if tariff else ""
    return ReadingType(
        id, f"{direction}_register{suffix}_{unit.lower()}", unit, Accumulation.REGISTER, direction,
        _code(0, _BULK, _FLOW[direction], _ENERGY, cim_unit, tariff=tariff, multiplier=_KILO),
        (f"1-0:{quantity}.8.{tariff}",), tariff=tariff,
    )  # fmt: skip


def _power(id: int, direction: Direction, quantity: int, phase: int = 0, reactive: bool = False) -> ReadingType:
    unit, cim_unit, name = ("kvar", _VAR, "reactive") if reactive else ("kW", _WATT, "power")
    suffix = f"_l{phase}" if phase else ""
    return ReadingType(
        id, f"{name}_{direction}{suffix}_{unit.lower()}", unit, Accumulation.INSTANTANEOUS, direction,
        _code(0, _INSTANT, _FLOW[direction], _POWER, cim_unit, phases=_PHASES[phase], multiplier=_KILO),
        (f"1-0:{quantity}.7.0",), phase,
    )  # fmt: skip


def _voltage(id: int, phase: int) -> ReadingType:
    cim = _code(0, _INSTANT, 0, _VOLTAGE, _VOLT, phases=_PHASES_TO_NEUTRAL[phase])
    obis = (f"1-0:{12 + 20 * phase}.7.0",)
    return ReadingType(id, f"voltage_l{phase}_v", "V", Accumulation.INSTANTANEOUS, Direction.NONE, cim, obis, phase)


def _current(id: int, phase: int) -> ReadingType:
    cim = _code(0, _INSTANT, 0, _CURRENT, _AMPERE, phases=_PHASES[phase])
    obis = (f"1-0:{11 + 20 * phase}.7.0",)
    return ReadingType(id, f"current_l{phase}_a", "A", Accumulation.INSTANTANEOUS, Direction.NONE, cim, obis, phase)


def _power_factor(id: int, phase: int = 0) -> ReadingType:
    alias = f"power_factor_l{phase}" if phase else "power_factor"
    cim = _code(0, _INSTANT, 0, _POWER_FACTOR, _NO_UNIT, phases=_PHASES[phase])
    obis = (f"1-0:{13 + 20 * phase}.7.0",)
    return ReadingType(id, alias, "1", Accumulation.INSTANTANEOUS, Direction.NONE, cim, obis, phase)


_IN, _OUT, _NONE = Direction.IMPORT, Direction.EXPORT, Direction.NONE

READING_TYPES: Final[tuple[ReadingType, ...]] = (
    _interval(1, "import_kwh", "kWh", _IN, _WATT_HOUR, 1),
    _interval(2, "export_kwh", "kWh", _OUT, _WATT_HOUR, 2),
    _interval(3, "import_kvarh", "kvarh", _IN, _VAR_HOUR, 3),
    _interval(4, "export_kvarh", "kvarh", _OUT, _VAR_HOUR, 4),
    _interval(5, "import_kvah", "kVAh", _IN, _VOLT_AMPERE_HOUR, 9),
    _interval(6, "export_kvah", "kVAh", _OUT, _VOLT_AMPERE_HOUR, 10),
    _interval(7, "net_kwh", "kWh", _NONE, _WATT_HOUR, 16, _NET),
    *(_register(10 + tariff, _IN, 1, tariff) for tariff in range(9)),
    *(_register(20 + tariff, _OUT, 2, tariff) for tariff in range(9)),
    _register(30, _IN, 3, reactive=True),
    _register(31, _OUT, 4, reactive=True),
    _counter(32, "import_register_kvah", "kVAh", 1, _VOLT_AMPERE_HOUR, "1-0:9.8.0", _IN),
    _counter(33, "export_register_kvah", "kVAh", 19, _VOLT_AMPERE_HOUR, "1-0:10.8.0", _OUT),
    _counter(34, "net_register_kwh", "kWh", _NET, _WATT_HOUR, "1-0:16.8.0", _NONE),
    _counter(35, "absolute_register_kwh", "kWh", _TOTAL, _WATT_HOUR, "1-0:15.8.0", _NONE),
    *(
        _counter(35 + quadrant, f"q{quadrant}_register_kvarh", "kvarh", 14 + quadrant, _VAR_HOUR,
                 f"1-0:{4 + quadrant}.8.0", _NONE)
        for quadrant in (1, 2, 3, 4)
    ),
    *(_power(40 + phase, _IN, 1 + 20 * phase, phase) for phase in range(4)),
    *(_power(44 + phase, _OUT, 2 + 20 * phase, phase) for phase in range(4)),
    *(_power(48 + phase, _IN, 3 + 20 * phase, phase, reactive=True) for phase in range(4)),
    *(_power(52 + phase, _OUT, 4 + 20 * phase, phase, reactive=True) for phase in range(4)),
    *(_voltage(59 + phase, phase) for phase in (1, 2, 3)),
    *(_current(62 + phase, phase) for phase in (1, 2, 3)),
    *(_power_factor(66 + phase, phase) for phase in range(4)),
    ReadingType(
        70, "frequency_hz", "Hz", Accumulation.INSTANTANEOUS, Direction.NONE,
        _code(0, _INSTANT, 0, _FREQUENCY, _HERTZ), ("1-0:14.7.0",),
    ),
    *(
        _now(71 + phase, f"power_l{phase}_kw" if phase else "power_kw", "kW",
             _code(0, _INSTANT, _NET, _POWER, _WATT, phases=_PHASES[phase], multiplier=_KILO),
             f"1-0:{16 + 20 * phase}.7.0", phase)
        for phase in range(4)
    ),
    _now(75, "apparent_import_kva", "kVA", _code(0, _INSTANT, 1, _POWER, _VOLT_AMPERE, multiplier=_KILO), "1-0:9.7.0"),
    _now(76, "apparent_export_kva", "kVA", _code(0, _INSTANT, 19, _POWER, _VOLT_AMPERE, multiplier=_KILO),
         "1-0:10.7.0"),
    _now(77, "voltage_v", "V", _code(0, _INSTANT, 0, _VOLTAGE, _VOLT), "1-0:12.7.0"),
    _now(78, "current_a", "A", _code(0, _INSTANT, 0, _CURRENT, _AMPERE), "1-0:11.7.0"),
    _now(79, "current_neutral_a", "A", _code(0, _INSTANT, 0, _CURRENT, _AMPERE, phases=16), "1-0:91.7.0"),
    ReadingType(
        80, "gas_register_m3", "m3", Accumulation.REGISTER, _IN,
        _code(0, _BULK, 1, _VOLUME, _CUBIC_METRE, commodity=_GAS), ("7-0:3.0.0",),
    ),
    ReadingType(
        81, "water_register_m3", "m3", Accumulation.REGISTER, _IN,
        _code(0, _BULK, 1, _VOLUME, _CUBIC_METRE, commodity=_WATER), ("8-0:1.0.0",),
    ),
    ReadingType(
        82, "heat_register_gj", "GJ", Accumulation.REGISTER, _IN,
        _code(0, _BULK, 1, _ENERGY, _JOULE, commodity=_HEAT, multiplier=_GIGA), ("6-0:1.0.0",),
    ),
    _plain(83, "cooling_register_gj", "GJ", Accumulation.REGISTER,
           _code(0, _BULK, 1, _ENERGY, _JOULE, commodity=_COOLING, multiplier=_GIGA), "5-0:1.0.0", _IN),
    _delta(84, "gas_m3", "m3", _IN, _CUBIC_METRE, _VOLUME, "", commodity=_GAS),
    _delta(85, "water_m3", "m3", _IN, _CUBIC_METRE, _VOLUME, "", commodity=_WATER),
    _delta(86, "heat_gj", "GJ", _IN, _JOULE, _ENERGY, "", commodity=_HEAT, multiplier=_GIGA),
    _plain(87, "heat_volume_m3", "m3", Accumulation.REGISTER,
           _code(0, _BULK, 1, _VOLUME, _CUBIC_METRE, commodity=_HEAT), "6-0:2.0.0", _IN),
    _now(90, "flow_temperature_c", "C", _code(0, _INSTANT, 1, _TEMPERATURE, _CELSIUS, commodity=_HEAT), "6-0:10.0.0"),
    _now(91, "return_temperature_c", "C", _code(0, _INSTANT, 19, _TEMPERATURE, _CELSIUS, commodity=_HEAT),
         "6-0:11.0.0"),
    _now(92, "volume_flow_m3h", "m3/h", _code(0, _INSTANT, 1, _VOLUME_FLOW, _CUBIC_METRE_AN_HOUR, commodity=_HEAT),
         "6-0:9.0.0"),
    _now(93, "heat_power_kw", "kW", _code(0, _INSTANT, 1, _POWER, _WATT, commodity=_HEAT, multiplier=_KILO),
         "6-0:8.0.0"),
    _now(94, "temperature_c", "C", _code(0, _INSTANT, 0, _TEMPERATURE, _CELSIUS, commodity=0)),
    _now(95, "temperature_difference_c", "C", _code(0, _INSTANT, _NET, _TEMPERATURE, _CELSIUS, commodity=_HEAT),
         "6-0:12.0.0"),
    _now(96, "demand_import_kw", "kW",
         _code(0, 6, 1, _DEMAND, _WATT, multiplier=_KILO, aggregate=_MAXIMUM), "1-0:1.6.0"),
    _now(97, "demand_export_kw", "kW",
         _code(0, 6, 19, _DEMAND, _WATT, multiplier=_KILO, aggregate=_MAXIMUM), "1-0:2.6.0"),
)  # fmt: skip
"""Every type, by id."""

UNKNOWN: Final = -1
"""The id of a reading type that is not in the table."""

IMPORT_KWH: Final = 1
"""Id of energy delivered in an interval."""

EXPORT_KWH: Final = 2
"""Id of energy fed in during an interval."""

BY_ID: Final = {row.id: row for row in READING_TYPES}
"""Rows by id."""

BY_ALIAS: Final = {row.alias: row for row in READING_TYPES}
"""Rows by alias."""

BY_CIM: Final = {code: row for row in READING_TYPES for code in (row.cim, *row.cim_accepted)}
"""Rows by the 18-number code, the one we write and those we accept."""

BY_OBIS: Final = {code: row for row in READING_TYPES for code in row.obis}
"""Rows by OBIS code `A-B:C.D.E`."""

IDS_BY_NAME: Final[dict[str, int]] = {
    name: row.id for table in (BY_ALIAS, BY_CIM, BY_OBIS) for name, row in table.items()
}
"""Every spelling that may stand in a reading's `reading_type`, and its id."""

_OBIS = re.compile(r"(\d{1,3})-(\d{1,3}):(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?:[*.&]\d{1,3})?\Z")


def find(name: str) -> ReadingType | None:
    """Look a type up by any of its spellings; an OBIS billing suffix such as `*255` is ignored."""
    known = IDS_BY_NAME.get(name)
    if known is not None:
        return BY_ID[known]
    return by_obis(name)


def by_obis(code: str) -> ReadingType | None:
    """Look a type up by OBIS code, whatever its channel (B) and billing period (F)."""
    match = _OBIS.match(code)
    if match is None:
        return None
    medium, _, quantity, kind, tariff = (int(part) for part in match.groups())
    return BY_OBIS.get(f"{medium}-0:{quantity}.{kind}.{tariff}")


def markdown_table() -> str:
    """The registry as the table of the reference page, which a test compares with it."""
    lines = ["| id | alias | unit | kind | OBIS | CIM ReadingType |", "| --- | --- | --- | --- | --- | --- |"]
    for row in READING_TYPES:
        obis = ", ".join(f"`{code}`" for code in row.obis) or "-"
        lines.append(f"| {row.id} | `{row.alias}` | {row.unit} | {row.accumulation} | {obis} | `{row.cim}` |")
    return "\n".join(lines) + "\n"
