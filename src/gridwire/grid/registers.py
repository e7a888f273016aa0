"""From registers to consumption: differences that know of rollovers, swapped meters and multipliers.

    same row of `meter_install`    (now - before) x multiplier; below zero the register has passed 10^dials
    another row                    (end of the old meter - before) x its multiplier
                                   + (now - start of the new meter) x its multiplier

A difference below zero that would be more than half of the dial's range is no rollover but a fault: there is none then,
nor where a row's start or end is needed and not known. Registers are whole watt-hours (or thousandths of another unit).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.meter_install import MeterInstall

NOTHING: Final = -1
"""Where there is no register, or no difference."""

_THOUSAND = 1000


def growth(
    registers: NDArray[np.int64], ends_us: NDArray[np.int64], installs: Mapping[int, Sequence[MeterInstall]]
) -> NDArray[np.int64]:
    """By how much each register grew since the one before it.

    Args:
        installs: rows of a channel by their begin; a channel without any has one meter that never rolls over.

    **Shape**: `registers[n, k]`, `ends_us[n]` -> `int64[n, k]`, both `NOTHING` where there is none.
    """
    known = registers != NOTHING
    places = np.where(known, np.arange(len(known))[:, None], -1)
    before = np.full(known.shape, -1, np.int64)
    before[1:] = np.maximum.accumulate(places, axis=0)[:-1]
    at = np.take_along_axis(registers, np.maximum(before, 0), axis=0)
    grown = registers - at
    out = np.where(known & (before >= 0) & (grown >= 0), grown, NOTHING)
    for channel, rows in installs.items():
        out[:, channel] = _of_installs(registers[:, channel], ends_us, rows)
    return out


def _of_installs(
    registers: NDArray[np.int64], ends_us: NDArray[np.int64], rows: Sequence[MeterInstall]
) -> NDArray[np.int64]:
    out = np.full(len(registers), NOTHING, np.int64)
    places = np.flatnonzero(registers != NOTHING)
    begins = np.array([row.begin_us for row in rows], np.int64)
    at = np.searchsorted(begins, ends_us[places], side="right") - 1  # a reading at the very moment is the new meter's
    for i in range(1, len(places)):
        old, new = int(at[i - 1]), int(at[i])
        if old >= 0 and new >= 0:
            then, now = int(registers[places[i - 1]]), int(registers[places[i]])
            out[places[i]] = _within(rows[new], then, now) if old == new else _across(rows[old : new + 1], then, now)
    return out


def _within(row: MeterInstall, then: int, now: int) -> int:
    grown = now - then
    if grown < 0:
        turn = 10**row.dials * _THOUSAND if row.dials else 0
        grown += turn
        if grown < 0 or grown * 2 > turn:
            return NOTHING
    return round(grown * row.multiplier)


def _across(rows: Sequence[MeterInstall], then: int, now: int) -> int:
    """Over all rows from the one of `then` to the one of `now`."""
    total = 0
    for number, row in enumerate(rows):
        begin = then if number == 0 else _thousandths(row.start_register)
        end = now if number == len(rows) - 1 else _thousandths(row.end_register)
        grown = NOTHING if NOTHING in (begin, end) else _within(row, begin, end)
        if grown == NOTHING:
            return NOTHING
        total += grown
    return total


def _thousandths(text: str) -> int:
    return int(Decimal(text) * _THOUSAND) if text else NOTHING
