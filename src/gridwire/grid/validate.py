"""Which readings are to be believed: vectorised checks, the first one that fails is the reason.

Every check looks at one reading, its own event and the network model, never at a clock or at other readings: the same
log always gives the same answer, live, replayed years later or rebuilt. In particular a reading is *from the future*
when it ends later than its event's timestamp plus a tolerance, so replayed history passes and a meter with a wrong
clock does not. An event without a timestamp cannot be judged and passes. (A client stamps its own events unless the
hub's `timestamp_type` is `append`; with `append` no client's clock can push the window away.) Whether a reading is too
old for the window is the one check that needs the others, and is made by `gridwire.grid.state`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar.cells import AMOUNT_MAX, ESTIMATED, TAKEN_BACK, VERSION_MAX
from gridwire.grid.network import NetworkIndex
from gridwire.grid.reading_types import EXPORT_KWH, IMPORT_KWH, READING_TYPES, Accumulation

MILLIWATT_HOUR: Final = -6
"""Power of ten of a milliwatt-hour in kilowatt-hours. Finer readings are rounded to it, halves up."""

EARLIEST_US: Final = 946_684_800 * 1_000_000
"""2000-01-01T00:00Z: a meter that reports an earlier time has lost its clock."""

LATEST_US: Final = 4_102_444_800 * 1_000_000
"""2100-01-01T00:00Z."""

HOUR_S: Final = 3600


class Reason(IntEnum):
    """Why a reading is rejected; the lower one is told when several hold."""

    ACCEPTED = 0
    MALFORMED = 1
    UNKNOWN_READING_TYPE = 2
    UNKNOWN_USAGE_POINT = 3
    TIME_OUT_OF_RANGE = 4
    FROM_THE_FUTURE = 5
    BAD_INTERVAL = 6
    MISALIGNED = 7
    NEGATIVE_VALUE = 8
    IMPLAUSIBLE_VALUE = 9
    BAD_VERSION = 10
    TOO_OLD = 11

    @property
    def text(self) -> str:
        """As it stands in a header or a metric's name."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Rules:
    """What is believed.

    Args:
        power_kw_max: largest plausible power of one usage point.
        rated_times_max: the same as a multiple of its transformer's rating, where that is known: it catches
            watt-hours sent as kilowatt-hours.
        future_s: how much later than its event a reading may end; clocks differ.
    """

    power_kw_max: float = 20_000.0
    rated_times_max: float = 10.0
    future_s: int = HOUR_S


@dataclass(frozen=True, slots=True)
class Measured:
    """n decoded readings, one row an event.

    **Shape**: every array `[n]`. `reasons`: the decoder's own `Reason`; unless it is ACCEPTED, the row's other columns
    mean nothing. `points`: position in the network model, -1 unknown. `types`: id of the registry, -1 unknown. The
    value is `mantissas` x 10^`scales`. `grades`: see `columnar.cells`; None, all are measured.
    """

    reasons: NDArray[np.uint8]
    points: NDArray[np.int32]
    types: NDArray[np.int16]
    ts_end_us: NDArray[np.int64]
    interval_s: NDArray[np.int32]
    mantissas: NDArray[np.int64]
    scales: NDArray[np.int8]
    versions: NDArray[np.int64]
    grades: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Validated:
    """The verdict on every reading, and those to be summed.

    **Shape**: `reasons[n]` (`Reason`), the others `[m]`: `rows` are the readings' positions, `slots` `ts_end` in
    intervals, `channels` 0 import and 1 export, `amounts` milliwatt-hours. Accepted readings that are not summed
    (registers, voltages, other intervals) are n less the rejected less m.
    """

    reasons: NDArray[np.uint8]
    rows: NDArray[np.int64]
    slots: NDArray[np.int64]
    points: NDArray[np.int32]
    channels: NDArray[np.int8]
    amounts: NDArray[np.int64]
    versions: NDArray[np.int16]
    grades: NDArray[np.uint8] | None


_IDS: Final = max(row.id for row in READING_TYPES) + 2  # the last place is that of -1, the unknown type


def _table(default: int, rows: dict[int, int]) -> NDArray[np.int8]:
    table = np.full(_IDS, default, np.int8)
    for id, value in rows.items():
        table[id] = value
    return table


_CHANNEL = _table(-1, {IMPORT_KWH: 0, EXPORT_KWH: 1})
_INTERVAL = _table(0, {row.id: 1 for row in READING_TYPES if row.accumulation is Accumulation.INTERVAL})
_COUNTED = _table(0, {row.id: 1 for row in READING_TYPES if row.accumulation is not Accumulation.INSTANTANEOUS})
_POWER = _table(0, {row.id: 1 for row in READING_TYPES if row.unit in ("kW", "kvar")})

_TEN_TO: Final = np.array([10**e for e in range(19)], np.int64)
_FLOAT_TEN_TO: Final = 10.0 ** np.arange(-128, 128)


class Validator:
    """Checks readings against one network and one set of rules."""

    def __init__(self, index: NetworkIndex, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.interval_s = index.interval_s
        # One place more, for the unknown usage point -1.
        self._limit_kw = np.append(
            limits_kw(index.rated_kva[index.transformer_of_unit], self.rules), self.rules.power_kw_max
        )

    def validate(self, readings: Measured, event_ms: NDArray[np.int64]) -> Validated:
        """Judge every reading; `event_ms` are the timestamps of their events."""
        channels = _CHANNEL[readings.types]
        slots = readings.ts_end_us // (self.interval_s * 1_000_000)
        summed = (channels >= 0) & (readings.interval_s == self.interval_s)
        reasons = self._reasons(readings, event_ms, slots, summed)
        summed &= reasons == Reason.ACCEPTED
        rows = np.flatnonzero(summed)
        chosen = np.s_[:] if len(rows) == len(summed) else rows
        amounts = to_milliwatt_hours(readings.mantissas[chosen], readings.scales[chosen])
        grades = None if readings.grades is None else readings.grades[chosen]
        if grades is not None and (back := grades == TAKEN_BACK).any():
            amounts, grades = np.where(back, -1, amounts), np.where(back, np.uint8(ESTIMATED), grades)
        return Validated(
            reasons=reasons,
            rows=rows,
            slots=slots[chosen],
            points=readings.points[chosen],
            channels=channels[chosen],
            amounts=amounts,
            versions=readings.versions[chosen].astype(np.int16),
            grades=grades,
        )

    def _reasons(
        self, readings: Measured, event_ms: NDArray[np.int64], slots: NDArray[np.int64], summed: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        """Write the reasons from the last to the first, so that the first one stands."""
        types, ts_end_us, mantissas = readings.types, readings.ts_end_us, readings.mantissas
        bad_version = (readings.versions < 0) | (readings.versions > VERSION_MAX)
        checks = (
            (Reason.BAD_VERSION, bad_version),
            (Reason.IMPLAUSIBLE_VALUE, self._implausible(readings, self._limits(readings, slots))),
            (Reason.NEGATIVE_VALUE, (mantissas < 0) & (_COUNTED[types] == 1)),
            (Reason.MISALIGNED, self._misaligned(readings, slots, summed)),
            (Reason.FROM_THE_FUTURE, self._from_the_future(ts_end_us, event_ms)),
            (Reason.TIME_OUT_OF_RANGE, (ts_end_us < EARLIEST_US) | (ts_end_us > LATEST_US)),
            (Reason.UNKNOWN_USAGE_POINT, self._unknown(readings, slots) & summed),
        )
        reasons = np.zeros(len(types), np.uint8)
        for reason, failed in checks:
            if failed.any():
                reasons[failed] = reason
        return np.where(readings.reasons == Reason.ACCEPTED, reasons, readings.reasons)

    def _unknown(self, readings: Measured, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Readings of usage points that the model does not have."""
        return readings.points < 0

    def _limits(self, readings: Measured, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        """Largest plausible power of each reading's usage point, kW."""
        found: NDArray[np.float64] = self._limit_kw[readings.points]
        return found

    def _from_the_future(self, ts_end_us: NDArray[np.int64], event_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (ts_end_us > (event_ms + self.rules.future_s * 1000) * 1000) & (event_ms > 0)

    def _misaligned(self, readings: Measured, slots: NDArray[np.int64], summed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Intervals up to an hour that divide it start on multiples of themselves; longer ones follow a local clock."""
        out: NDArray[np.bool_] = (slots * (self.interval_s * 1_000_000) != readings.ts_end_us) & summed
        if summed.all():
            return out
        others = np.flatnonzero(~summed & (_INTERVAL[readings.types] == 1) & (readings.interval_s > 0))
        interval_s = readings.interval_s[others].astype(np.int64)
        out[others] = (HOUR_S % interval_s == 0) & (readings.ts_end_us[others] % (interval_s * 1_000_000) != 0)
        return out

    def _implausible(self, readings: Measured, limit_kw: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Power above what the usage point can take; compared as a float, which is exact enough for a limit."""
        value = readings.mantissas * _FLOAT_TEN_TO[readings.scales.astype(np.intp) + 128]
        energy = (_INTERVAL[readings.types] == 1) & (readings.interval_s > 0)
        if energy.all():
            too_much = value * HOUR_S > limit_kw * readings.interval_s
        else:
            hours = np.where(energy, readings.interval_s, HOUR_S)
            measured = energy | (_POWER[readings.types] == 1)
            too_much = measured & (np.abs(value) * HOUR_S > limit_kw * hours)
        too_large: NDArray[np.bool_] = energy & (value * 10.0**-MILLIWATT_HOUR > AMOUNT_MAX)
        return too_much | too_large


def limits_kw(rated_kva: NDArray[np.float64], rules: Rules) -> NDArray[np.float64]:
    """Largest plausible power under transformers of these ratings, 0 unknown."""
    limit = rules.power_kw_max
    found: NDArray[np.float64] = np.where(rated_kva > 0, np.minimum(rated_kva * rules.rated_times_max, limit), limit)
    return found


def to_milliwatt_hours(mantissas: NDArray[np.int64], scales: NDArray[np.int8]) -> NDArray[np.int64]:
    """Kilowatt-hours as `mantissas` x 10^`scales` in whole milliwatt-hours, halves rounded up.

    Every value must be between 0 and `AMOUNT_MAX` milliwatt-hours.
    """
    if len(scales) == 0:
        return mantissas.astype(np.int64)
    first = int(scales[0])
    out: NDArray[np.int64]
    if first >= MILLIWATT_HOUR and bool((scales == first).all()):
        out = mantissas * _TEN_TO[min(first - MILLIWATT_HOUR, 18)]
        return out
    exponents = scales.astype(np.int64) - MILLIWATT_HOUR
    out = mantissas * _TEN_TO[np.clip(exponents, 0, 18)]
    finer = np.flatnonzero(exponents < 0)
    if len(finer):
        # A mantissa has 19 digits at most: below 10^-18 nothing is left of it.
        divisors = _TEN_TO[np.minimum(-exponents[finer], 18)]
        quotients, rests = np.divmod(mantissas[finer], divisors)
        out[finer] = np.where(exponents[finer] < -18, 0, quotients + (rests >= divisors // 2))
    return out
