"""Units of senders and of reading types, converted exactly: a power of ten, at most times a whole number.

What cannot be converted exactly in int64 is refused, never rounded: a value nobody sent is worse than none.
"""

from __future__ import annotations

import re
from typing import Final

from gridwire.grid.formats.base import Context, Unusable
from gridwire.grid.reading import Reading
from gridwire.grid.reading_types import BY_ALIAS, ReadingType, by_obis

_VALUE_MAX: Final = 2**63 - 1

_BASES: Final[dict[str, tuple[str, int, int]]] = {
    # unit without prefix, lower case: (dimension, factor, power of ten) of the dimension's base unit
    "wh": ("energy", 3600, 0), "j": ("energy", 1, 0), "ws": ("energy", 1, 0),
    "w": ("power", 1, 0), "j/h": ("power per hour", 1, 0),
    "varh": ("reactive energy", 1, 0), "var": ("reactive power", 1, 0),
    "vah": ("apparent energy", 1, 0), "va": ("apparent power", 1, 0),
    "v": ("voltage", 1, 0), "a": ("current", 1, 0), "hz": ("frequency", 1, 0),
    "m3": ("volume", 1, 0), "l": ("volume", 1, -3), "ft3": ("volume", 28_316_846_592, -12),
    "ccf": ("volume", 28_316_846_592, -10), "gal": ("volume", 3_785_411_784, -12),
    "m3/h": ("volume flow", 1, 0), "l/h": ("volume flow", 1, -3), "l/min": ("volume flow", 60, -3),
    "c": ("temperature", 1, 0), "k": ("temperature difference", 1, 0), "1": ("ratio", 1, 0), "%": ("ratio", 1, -2),
}  # fmt: skip
_PREFIXES: Final = {"": 0, "k": 3, "m": 6, "g": 9, "t": 12, "h": 2}
_SPELLINGS: Final = {
    "m³": "m3", "dm3": "l", "litre": "l", "liter": "l", "m^3": "m3", "cf": "ft3", "usgal": "gal", "°c": "c",
    "degc": "c",
    "celsius": "c", "kvar": "kvar", "": "1", "cel": "c", "ampere": "a", "volt": "v", "watt": "w", "hertz": "hz",
    "cbm": "m3", "m3h": "m3/h", "/": "1", "watthour": "wh",
}  # fmt: skip
_MILLI: Final = re.compile(r"m(?=[VAW](?:h|r|rh)?$|l$)")


def parse(unit: str) -> tuple[str, int, int] | None:
    """(dimension, factor, power of ten) of a unit in anybody's spelling; None when it is unknown."""
    text = unit.strip()
    milli = -3 if _MILLI.match(text) and text != "m3" else 0  # mV is a millivolt, MV a megavolt
    plain = (text[1:] if milli else text).lower().replace(" ", "")
    plain = _SPELLINGS.get(plain, plain)
    for prefix, power in _PREFIXES.items():
        base = _BASES.get(plain[len(prefix) :]) if plain.startswith(prefix) else None
        if base is not None:
            dimension, factor, own = base
            return dimension, factor, own + power + milli
    return None


def reading(
    type: ReadingType, value: int, scale: int, unit: str, ts_us: int, meter: str, context: Context,
    interval_s: int = 0, quality: str = "", usage_point: str = "", version: int = 0,
) -> Reading:  # fmt: skip
    """A reading in the unit of its type.

    Args:
        value, scale: `value * 10**scale` in `unit`; an empty unit means the type's own.

    Raises:
        Unusable: the unit is unknown, measures something else, or the value does not fit.
    """
    if unit and unit != type.unit:
        value, scale = converted(value, scale, unit, type.unit)
    if not -_VALUE_MAX <= value <= _VALUE_MAX or not -128 <= scale <= 127:
        raise Unusable(f"{value}e{scale} is too large a number")
    return Reading(
        ts_us, type.id, value, scale, interval_s, usage_point, meter, quality, context.source, version
    )  # fmt: skip


def converted(value: int, scale: int, unit: str, wanted: str) -> tuple[int, int]:
    """`value * 10**scale` of one unit in another.

    Raises:
        Unusable: unknown, of another dimension, or no exact conversion exists.
    """
    source, target = parse(unit), parse(wanted)
    if source is None or target is None:
        raise Unusable(f"unknown unit {unit[:20]!r}")
    if {source[0], target[0]} == {"temperature", "temperature difference"} and "k" in (unit.lower(), wanted.lower()):
        source = ("temperature", *source[1:])
        target = ("temperature", *target[1:])
    if source[0] != target[0]:
        raise Unusable(f"{unit[:20]} is no {target[0]}, which is wanted in {wanted}")
    product = value * source[1]
    if product % target[1]:
        scaled = _finer(product, target[1])
        if scaled is None:
            raise Unusable(f"{value}e{scale} {unit} cannot be told exactly in {wanted}")
        return scaled[0], scale - scaled[1] + source[2] - target[2]
    return product // target[1], scale + source[2] - target[2]


def _finer(product: int, divisor: int) -> tuple[int, int] | None:
    """(quotient, digits) with `quotient / 10**digits == product / divisor`; None when there is none that fits."""
    for digits in range(1, 13):
        product *= 10
        if product % divisor == 0:
            return product // divisor, digits
    return None


DLMS_UNITS: Final = {
    9: "C", 13: "m3", 14: "m3", 15: "m3/h", 16: "m3/h", 19: "l", 27: "W",
    28: "VA", 29: "var", 30: "Wh", 31: "VAh", 32: "varh", 33: "A", 35: "V", 44: "Hz", 25: "J", 26: "J/h",
    255: "", 56: "%",
}  # fmt: skip
"""Units of COSEM registers (IEC 62056-6-2), which SML uses as well."""

_POWER_NAMES: Final = re.compile(r"(?:reactive|power|apparent)")


def type_of_obis(code: str, unit: str) -> ReadingType | None:
    """The reading type of an OBIS code; where codes are reused for heat, cooling and gas the unit must fit."""
    found = by_obis(code)
    if found is None:
        found = _OTHER_MEDIA.get(code.partition("-")[0] + "-" + code.rpartition(":")[2].split("*")[0])
    if found is None or not unit:
        return found
    sent, own = parse(unit), parse(found.unit)
    if sent is None or own is None or sent[0] != own[0]:
        return _BY_DIMENSION.get((found.alias, sent[0])) if sent is not None else None
    return found


_OTHER_MEDIA: Final = {
    code: BY_ALIAS[alias]
    for alias, codes in {
        "gas_register_m3": ("7-3.1.0", "7-3.2.0", "7-1.0.0", "7-24.2.1"),
        "water_register_m3": ("8-2.0.0", "9-1.0.0", "9-2.0.0"),
        "heat_register_gj": ("6-1.0.1", "6-1.8.0"),
        "cooling_register_gj": ("5-1.0.1", "5-1.8.0"),
    }.items()
    for code in codes
}
_BY_DIMENSION: Final = {("heat_register_gj", "volume"): BY_ALIAS["heat_volume_m3"]}
