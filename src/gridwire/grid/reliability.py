"""Reliability of supply by IEEE 1366, from outages that have ended.

    SAIDI  = customer minutes of sustained interruptions / customers served         minutes a customer
    SAIFI  = customers interrupted, sustained / customers served                    interruptions a customer
    CAIDI  = SAIDI / SAIFI                                                          minutes an interruption
    MAIFI  = customers interrupted, momentary / customers served                    interruptions a customer
    ASAI   = 1 - SAIDI / minutes of the period
    T_MED  = exp(a + 2.5 b), a and b mean and standard deviation of ln(SAIDI of a day) over up to five years

A day whose SAIDI is above T_MED is a major event day; indices are told with and without them. An interruption belongs
to the UTC day it began on. Days without interruption are left out of T_MED.

**Source**: IEEE Std 1366 (definitions and the 2.5 beta method); five minutes as the border of a momentary interruption.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gridwire.core.errors import GridwireError
from gridwire.grid.findings import Finding, FindingState
from gridwire.grid.watch.told import from_json

DAY_US: Final = 86_400 * 1_000_000
MED_YEARS: Final = 5
_MINUTE_US: Final = 60 * 1_000_000


@dataclass(frozen=True, slots=True)
class Interruption:
    """An outage that has ended. `customer_minutes`: the sum of its customers' own durations."""

    id: str
    started_us: int
    customers: int
    customer_minutes: float
    sustained: bool


@dataclass(frozen=True, slots=True)
class Indices:
    """Of one period. Minutes are a customer's; `nan` where nobody was interrupted."""

    interruptions: int
    momentary: int
    saidi_min: float
    saifi: float
    caidi_min: float
    maifi: float
    asai: float


@dataclass(frozen=True, slots=True)
class Report:
    """Indices of a period with everything, and without its major event days.

    Args:
        t_med_min: above it a day is a major event day; None without two days of interruptions to know it from.
        t_med_days: days it was made from.
    """

    customers: int
    from_us: int
    to_us: int
    all: Indices
    without_major: Indices
    t_med_min: float | None
    t_med_days: int
    major_days: tuple[int, ...]


def interruptions(values: Iterable[bytes]) -> tuple[list[Interruption], int]:
    """Outages that have ended, and the number of those that go on, from events of the hub `grid.alerts`.

    Of several versions the highest counts. What turned out to be another device's outage, or none, is left out.
    """
    newest: dict[str, Finding] = {}
    for value in values:
        try:
            finding = from_json(value)
        except ValueError:
            continue
        known = newest.get(finding.id)
        if finding.kind == "outage" and (known is None or finding.version >= known.version):
            newest[finding.id] = finding
    ended, going_on = [], 0
    for finding in newest.values():
        evidence = finding.evidence
        if finding.state is not FindingState.CLOSED:
            going_on += 1
        elif not evidence.keys() & {"part_of", "unconfirmed", "withdrawn"}:
            minutes = float(evidence.get("customer_minutes", 0.0))
            ended.append(
                Interruption(
                    finding.id, finding.started_us, int(evidence.get("customers", 0)), minutes,
                    bool(evidence.get("sustained", False)),
                )
            )  # fmt: skip
    return ended, going_on


def report(found: Sequence[Interruption], customers: int, from_us: int, to_us: int) -> Report:
    """Indices of what began in `[from_us, to_us)`; T_MED is made from the five years before `to_us`.

    Raises:
        GridwireError: no customers, or a period that ends before it begins.
    """
    if customers < 1 or to_us <= from_us:
        raise GridwireError("indices need at least one customer and a period that ends after it begins")
    by_day: dict[int, float] = defaultdict(float)
    for each in found:
        if each.sustained and to_us - MED_YEARS * 365.25 * DAY_US <= each.started_us < to_us:
            by_day[each.started_us // DAY_US] += each.customer_minutes / customers
    t_med = major_event_threshold(list(by_day.values()))
    inside = [each for each in found if from_us <= each.started_us < to_us]
    days = {each.started_us // DAY_US for each in inside}
    major = sorted(day for day in days if t_med is not None and by_day.get(day, 0.0) > t_med)
    calm = [each for each in inside if each.started_us // DAY_US not in major]
    whole_min = (to_us - from_us) / _MINUTE_US
    return Report(
        customers, from_us, to_us, _indices(inside, customers, whole_min),
        _indices(calm, customers, whole_min - len(major) * DAY_US / _MINUTE_US), t_med,
        sum(value > 0 for value in by_day.values()), tuple(day * DAY_US for day in major),
    )  # fmt: skip


def major_event_threshold(saidi_of_days: Sequence[float]) -> float | None:
    """T_MED in minutes; None with fewer than two days that had an interruption."""
    logs = [math.log(value) for value in saidi_of_days if value > 0]
    if len(logs) < 2:
        return None
    return math.exp(statistics.mean(logs) + 2.5 * statistics.stdev(logs))


def _indices(found: Sequence[Interruption], customers: int, period_min: float) -> Indices:
    sustained = [each for each in found if each.sustained]
    momentary = [each for each in found if not each.sustained]
    saidi = sum(each.customer_minutes for each in sustained) / customers
    saifi = sum(each.customers for each in sustained) / customers
    return Indices(
        interruptions=len(sustained),
        momentary=len(momentary),
        saidi_min=saidi,
        saifi=saifi,
        caidi_min=saidi / saifi if saifi else math.nan,
        maifi=sum(each.customers for each in momentary) / customers,
        asai=1 - saidi / period_min if period_min > 0 else math.nan,
    )
