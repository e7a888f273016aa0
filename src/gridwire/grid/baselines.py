"""Demand response: what a unit would have used, and so what it delivered.

    CAISO 10-of-10        the mean of the last 10 days of the same kind (workdays, or weekends) without an event
    ERCOT middle 8-of-10  the same 10 days without the one with the highest and the one with the lowest use

Both are adjusted to the day: the baseline is scaled by how the load of the hours before the event compares with the
baseline there, within a cap. Delivered is baseline less load, summed over the event.

**Source**: CAISO Tariff 4.13.4.1 (10 of 10, adjustment by the ratio of the second to fourth hour before the event,
capped at 20 %, at least 5 days);
ERCOT "Default Baseline Methodologies" (middle 8 of 10). The tariffs differ in details that
are settings here; a settlement follows the tariff, this follows it as far as `Method` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

DAYS_BACK_MAX: Final = 45
"""How far back days are looked for."""


@dataclass(frozen=True, slots=True)
class Method:
    """How a baseline is made.

    Args:
        days: of the same kind without event that are taken; days_min: fewer than these give no baseline.
        drop_highest, drop_lowest: days left out of them, by their use in the event's hours.
        adjust_from_h, adjust_to_h: hours before the event's start between which the day is compared.
        cap: largest adjustment, as a share; 0 adjusts nothing.
    """

    name: str
    days: int = 10
    days_min: int = 5
    drop_highest: int = 0
    drop_lowest: int = 0
    adjust_from_h: int = 4
    adjust_to_h: int = 1
    cap: float = 0.2


CAISO: Final = Method("caiso-10-of-10")
"""CAISO's 10 of 10."""

ERCOT: Final = Method("ercot-middle-8-of-10", days_min=10, drop_highest=1, drop_lowest=1)
"""ERCOT's middle 8 of 10."""

METHODS: Final = {method.name: method for method in (CAISO, ERCOT)}
"""By name."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one event delivered. **Shape** `[n_intervals]`; `days` those the baseline was made of.

    Args:
        baseline_kw: adjusted. adjustment: factor it was scaled by. delivered_kwh: may be negative.
    """

    baseline_kw: NDArray[np.float64]
    load_kw: NDArray[np.float64]
    adjustment: float
    delivered_kwh: float
    days: tuple[date, ...]


class NoBaseline(ValueError):
    """There are too few days, or the event's own load is not known."""


def deliver(
    loads_kw: NDArray[np.float64], first_day: date, on: date, start: int, stop: int, method: Method,
    excluded: Sequence[date] = (),
) -> Delivered:  # fmt: skip
    """Judge one event of one unit.

    Args:
        loads_kw: `[n_days, n_intervals]`, by local day from `first_day` on; NaN where unknown.
        on: day of the event. start, stop: its intervals `[start, stop)`.
        excluded: days of other events and holidays.

    Raises:
        NoBaseline: it cannot be judged.
    """
    per_hour = loads_kw.shape[1] / 24
    row = (on - first_day).days
    if not 0 <= row < len(loads_kw) or not 0 <= start < stop <= loads_kw.shape[1]:
        raise NoBaseline("the event lies outside of the loads")
    actual = loads_kw[row, start:stop]
    if not np.isfinite(actual).all():
        raise NoBaseline("the load of the event is not known completely")
    rows = _days(loads_kw, first_day, row, start, stop, method, frozenset(excluded))
    baseline = loads_kw[rows].mean(axis=0)
    before = slice(
        max(0, int(start - method.adjust_from_h * per_hour)), max(0, int(start - method.adjust_to_h * per_hour))
    )
    factor = _adjustment(loads_kw[row, before], baseline[before], method.cap)
    adjusted = baseline[start:stop] * factor
    days = tuple(first_day + timedelta(days=int(each)) for each in rows)
    return Delivered(adjusted, actual, factor, float((adjusted - actual).sum() / per_hour), days)


def _days(
    loads_kw: NDArray[np.float64], first_day: date, row: int, start: int, stop: int, method: Method,
    excluded: frozenset[date],
) -> NDArray[np.int64]:  # fmt: skip
    """Rows the baseline is the mean of."""
    weekend = (first_day + timedelta(days=row)).weekday() >= 5
    found: list[int] = []
    for each in range(row - 1, max(-1, row - 1 - DAYS_BACK_MAX), -1):
        day = first_day + timedelta(days=each)
        if (day.weekday() >= 5) == weekend and day not in excluded and np.isfinite(loads_kw[each, :stop]).all():
            found.append(each)
        if len(found) == method.days:
            break
    if len(found) < method.days_min:
        raise NoBaseline(f"{len(found)} days like it are known, {method.days_min} are needed")
    rows = np.array(found, np.int64)
    by_use = rows[np.argsort(loads_kw[rows, start:stop].sum(axis=1), kind="stable")]
    return np.sort(by_use[method.drop_lowest : len(by_use) - method.drop_highest])


def _adjustment(actual: NDArray[np.float64], baseline: NDArray[np.float64], cap: float) -> float:
    """How the day compares with the baseline, within the cap; 1 where that says nothing."""
    known = np.isfinite(actual)
    if not known.any() or baseline[known].sum() <= 0:
        return 1.0
    return float(np.clip(actual[known].sum() / baseline[known].sum(), 1.0 - cap, 1.0 + cap))
