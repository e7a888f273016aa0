"""The validation rules: each takes a window and says which judged intervals fail it.

A rule that judges a whole local day fails the day's last interval. See `rules.VALIDATION` for what each checks.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar import slots
from gridwire.grid.vee import rules
from gridwire.grid.vee.window import Window

Failed = NDArray[np.bool_]
"""**Shape** `[judged, k]`."""


def consecutive_interval(window: Window, settings: rules.Settings) -> Failed:
    """Measured after a gap."""
    out = np.zeros(window.shape, bool)
    out[1:] = window.missing[:-1] & window.measured[window.judged + 1 :]
    return out


def duplicate(window: Window, settings: rules.Settings) -> Failed:
    """Another value of the same version."""
    return _marked(window, slots.CONFLICT)


def final_measurement_replacement(window: Window, settings: rules.Settings) -> Failed:
    """Another value of a later version."""
    return _marked(window, slots.REPLACED)


def interval_size(window: Window, settings: rules.Settings) -> Failed:
    """A reading of another length."""
    return _marked(window, slots.WRONG_LENGTH)


def negative(window: Window, settings: rules.Settings) -> Failed:
    """A reading below zero."""
    return _marked(window, slots.NEGATIVE)


def uom(window: Window, settings: rules.Settings) -> Failed:
    """A reading of a type that is not expected here."""
    return _marked(window, slots.WRONG_UNIT)


def missing_quantity(window: Window, settings: rules.Settings) -> Failed:
    """Due and not measured."""
    return window.missing.copy()


def prolonged_estimation(window: Window, settings: rules.ProlongedEstimation) -> Failed:
    """The run of unmeasured intervals is as long as that."""
    limit = round(settings.hours * 3600 / window.calendar.interval_s)
    out = np.zeros(window.shape, bool)
    gappy = np.flatnonzero(window.missing.any(axis=0))
    if len(gappy):
        places = np.arange(len(window.energy))[:, None]
        known = np.where(window.measured[:, gappy], places, window.since - 1)
        last = np.maximum.accumulate(known, axis=0)
        out[:, gappy] = window.missing[:, gappy] & ((places - last)[window.judged :] >= limit)
    return out


def inactive_measurement(window: Window, settings: rules.InactiveMeasurement) -> Failed:
    """Energy at a place that is not active."""
    return (window.filled[window.judged :] > settings.floor_kwh) & ~window.active


def sibling_channels(window: Window, settings: rules.SiblingChannels) -> Failed:
    """Import and export at once."""
    if window.sibling is None:
        return np.zeros(window.shape, bool)
    own, other = window.filled[window.judged :], np.nan_to_num(window.sibling[window.judged :])
    less, more = np.minimum(own, other), np.maximum(own, other)
    return (less > settings.floor_kwh) & (less > settings.share * more)


def high_low(window: Window, settings: rules.HighLow) -> Failed:
    """Far above the highest interval of the days before, or below the floor."""
    out = np.zeros(window.shape, bool)
    energy = window.filled
    for day in _judged_days(window):
        limit = np.maximum(settings.high_times * window.highest_before(day), settings.floor_kwh)
        columns = _columns(window, day)
        out[columns.start - window.judged : columns.stop - window.judged] = energy[columns] > limit
    if settings.low_kwh > 0:
        out |= window.measured[window.judged :] & (energy[window.judged :] < settings.low_kwh)
    return out


def interval_spike(window: Window, settings: rules.IntervalSpike) -> Failed:
    """The highest interval of a closed day against the third highest."""
    out = np.zeros(window.shape, bool)
    for day in window.closed.tolist():
        begin = int(window.calendar.starts[day])
        energy = window.filled[begin : int(window.calendar.lasts[day]) + 1]
        if len(energy) < 3:
            continue
        top = np.partition(energy, len(energy) - 3, axis=0)
        third, highest = top[-3], top[-2:].max(axis=0)
        spikes = (highest - third > settings.ratio * third) & (highest > settings.floor_kwh)
        if settings.references:
            spikes &= ~(highest <= window.highest_before(day))
        at = np.argmax(energy, axis=0) + begin - window.judged
        found = np.flatnonzero(spikes & (at >= 0))
        out[at[found], found] = True
    return out


def dynamic_comparison(window: Window, settings: rules.DynamicComparison) -> Failed:
    """A closed, complete day against days like it."""

    def check(day: int, energy: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.bool_]:
        compared = np.maximum(energy, reference) > settings.floor_kwh
        off = (energy < settings.low_ratio * reference) | (energy > settings.high_ratio * reference)
        out: NDArray[np.bool_] = compared & off & window.day_complete[day]
        return out

    return _by_day(window, check)


def multiplier(window: Window, settings: rules.Multiplier) -> Failed:
    """A closed, complete day that is a factor of ten or of the meter away from days like it; or a reading refused."""

    def check(day: int, energy: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.bool_]:
        found = np.zeros(len(energy), bool)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = energy / reference
        for factor in (10.0, 100.0, 1000.0, window.multiplier):
            for wrong in (factor, 1.0 / np.asarray(factor)):
                found |= (np.abs(ratio / wrong - 1) < settings.tolerance) & (np.asarray(factor) != 1.0)
        out: NDArray[np.bool_] = found & (np.maximum(energy, reference) > settings.floor_kwh)
        out &= window.day_complete[day]
        return out

    return _by_day(window, check) | _marked(window, slots.IMPLAUSIBLE)


def zero(window: Window, settings: rules.Zero) -> Failed:
    """A closed day of zeros."""

    def check(day: int, energy: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.bool_]:
        out: NDArray[np.bool_] = window.day_complete[day] & (energy == 0) & window.active
        out &= reference > settings.reference_kwh
        return out

    return _by_day(window, check)


def sum_check(window: Window, settings: rules.SumCheck) -> Failed:
    """Intervals between two registers against the registers' difference; the later register's interval fails."""
    if window.registers is None or window.grown is None:
        return np.zeros(window.shape, bool)
    known = ~np.isnan(window.registers)
    before = previous(known)
    columns, channels = np.nonzero(known & (before >= 0))
    begins = before[columns, channels]
    energy, counts = np.cumsum(window.filled, axis=0), np.cumsum(window.measured, axis=0)
    total = energy[columns, channels] - energy[begins, channels]
    whole: NDArray[np.bool_] = counts[columns, channels] - counts[begins, channels] == columns - begins
    grown = window.grown[columns, channels]
    off = np.abs(total - grown) > np.maximum(settings.share * np.abs(grown), settings.floor_kwh)
    chosen = whole & off & (columns >= window.judged)
    out = np.zeros(window.shape, bool)
    out[columns[chosen] - window.judged, channels[chosen]] = True
    return out


def previous(known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For every place the last known one strictly before it, -1 if none. **Shape** `[n, k]`."""
    places = np.where(known, np.arange(len(known))[:, None], -1)
    out = np.full(known.shape, -1, np.int64)
    out[1:] = np.maximum.accumulate(places, axis=0)[:-1]
    return out


def following(known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For every place the first known one at or after it, n if none. **Shape** `[n, k]`."""
    n = len(known)
    places = np.where(known, np.arange(n)[:, None], n)
    return np.minimum.accumulate(places[::-1], axis=0)[::-1]


def _marked(window: Window, mark: int) -> Failed:
    out: Failed = (window.marks[window.judged :] & mark) != 0
    return out


def _judged_days(window: Window) -> list[int]:
    calendar = window.calendar
    return np.flatnonzero(calendar.lasts >= window.judged).tolist()


def _columns(window: Window, day: int) -> slice:
    calendar = window.calendar
    return slice(max(int(calendar.starts[day]), window.judged), int(calendar.lasts[day]) + 1)


_DayCheck = Callable[[int, NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]


def _by_day(window: Window, check: _DayCheck) -> Failed:
    """`check(day, energy, reference)` of every closed day, on its last interval."""
    out = np.zeros(window.shape, bool)
    for day in window.closed.tolist():
        last = int(window.calendar.lasts[day]) - window.judged
        out[last] = check(day, window.day_energy[day], window.reference_energy(day))
    return out


CHECKS: Final[Mapping[str, Callable[[Window, Any], Failed]]] = {
    check.__name__: check
    for check in (
        consecutive_interval, duplicate, dynamic_comparison, sibling_channels, final_measurement_replacement, high_low,
        inactive_measurement, interval_size, interval_spike, multiplier, negative, prolonged_estimation,
        missing_quantity, sum_check, uom, zero,
    )
}  # fmt: skip
"""Every rule of `rules.VALIDATION`."""


ALONE: Final = frozenset((
    "duplicate", "final_measurement_replacement", "inactive_measurement", "interval_size", "negative", "uom",
))  # fmt: skip
"""Rules that ask for nothing but the interval itself."""


def validate(
    window: Window, settings: Mapping[str, rules.Settings], only: Container[str] = CHECKS
) -> NDArray[np.uint32]:
    """All enabled rules of `only`. **Shape** `uint32[judged, k]`, bit `Rule.bit` where a rule fails."""
    failed = np.zeros(window.shape, np.uint32)
    for rule in rules.VALIDATION:
        if rule.name in only and settings[rule.name].enabled:
            failed |= CHECKS[rule.name](window, settings[rule.name]).astype(np.uint32) << np.uint32(rule.bit)
    return failed
