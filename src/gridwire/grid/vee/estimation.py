"""The estimation rules: each fills some of the missing intervals of a window, the first one that can does.

    outage, subtractive adjustment, interpolation, averaging, proxy day, profile
    then, between two registers: proration where there was no estimate, else what there is is fitted to them

A missing interval that none fills stays missing and is told so (`gap_creation`). In a storm nothing is estimated but
known outages. See `rules.ESTIMATION` for formulas and sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.vee import rules
from gridwire.grid.vee.validation import following, previous
from gridwire.grid.vee.window import Window

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(slots=True)
class Gaps:
    """The g missing intervals that a rule may fill. **Shape** `[g]`: `at` in the window, `channels`."""

    window: Window
    at: Places
    channels: Places


def outage(gaps: Gaps, settings: rules.Settings) -> Floats:
    """Zero where power is known to have been out."""
    window = gaps.window
    if window.outage is None:
        return _nothing(gaps)
    return np.where(window.outage[gaps.at, gaps.channels], 0.0, np.nan)


def subtractive_adjustment(gaps: Gaps, settings: rules.Settings) -> Floats:
    """What the other channels of the place leave."""
    window = gaps.window
    if window.leftover is None:
        return _nothing(gaps)
    left = window.leftover[gaps.at, gaps.channels]
    return np.where(left >= 0, left, np.nan)


def interpolation(gaps: Gaps, settings: rules.Interpolation) -> Floats:
    """A straight line between trusted neighbours of a short gap."""
    window, at, channels = gaps.window, gaps.at, gaps.channels
    n = len(window.energy)
    limit = int(settings.gap_hours * 3600 / window.calendar.interval_s)
    begin = max(0, window.judged - limit - 1)  # a gap that begins before this is longer
    near = window.measured[begin:]
    before, after = previous(near)[at - begin, channels] + begin, following(near)[at - begin, channels] + begin
    good = (before >= begin) & (after < n) & (after - before - 1 <= limit)
    before, after = np.maximum(before, 0), np.minimum(after, n - 1)
    good &= window.trusted[before, channels] & window.trusted[after, channels]
    low, high = window.filled[before, channels], window.filled[after, channels]
    line = low + (high - low) * (at - before) / np.maximum(after - before, 1)
    return np.where(good, line, np.nan)


def averaging(gaps: Gaps, settings: rules.Averaging) -> Floats:
    """The mean of the nearest days like this one."""
    values, usable = _references(gaps, alike=True)
    usable &= np.cumsum(usable, axis=1) <= settings.days
    counts = usable.sum(axis=1)
    mean = (values * usable).sum(axis=1) / np.maximum(counts, 1)
    return np.where(counts >= settings.days_least, mean, np.nan)


def proxy_day(gaps: Gaps, settings: rules.Settings) -> Floats:
    """The nearest day like this one, else the nearest day."""
    out = _nothing(gaps)
    for alike in (False, True):
        values, usable = _references(gaps, alike=alike)
        nearest = np.argmax(usable, axis=1)
        found = usable[np.arange(len(nearest)), nearest] if len(nearest) else np.zeros(0, bool)
        out = np.where(found, values[np.arange(len(nearest)), nearest], out)
    return out


def profile(gaps: Gaps, settings: rules.Profile) -> Floats:
    """The neighbours' shape at the own level."""
    window = gaps.window
    if window.neighbours is None or not len(gaps.at):
        return _nothing(gaps)
    chosen, place = np.unique(gaps.channels, return_inverse=True)
    energy, levels, members = window.neighbours(chosen)
    counts = window.trusted[:, chosen].sum(axis=0)
    own = (window.filled[:, chosen] * window.trusted[:, chosen]).sum(axis=0) / np.maximum(counts, 1)
    there = (members[gaps.at, place] >= settings.members_least) & (counts[place] >= settings.level_intervals)
    there &= levels[gaps.at, place] > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(there, own[place] * energy[gaps.at, place] / levels[gaps.at, place], np.nan)


METHODS: Final[tuple[tuple[str, Callable[[Gaps, Any], Floats]], ...]] = (
    ("outage", outage),
    ("subtractive_adjustment", subtractive_adjustment),
    ("interpolation", interpolation),
    ("averaging", averaging),
    ("proxy_day", proxy_day),
    ("profile", profile),
)
"""In the order they are tried."""

_BIT: Final = {rule.name: rule.bit for rule in rules.ESTIMATION}
_IN_A_STORM: Final = ("outage", "subtractive_adjustment")


def estimate(window: Window, settings: Mapping[str, rules.Settings]) -> tuple[Floats, NDArray[np.uint8]]:
    """Fill what can be filled.

    **Shape** both `[judged, k]`: energy in kWh, NaN where nothing is estimated; the number of the rule.
    """
    values, methods = np.full(window.shape, np.nan), np.zeros(window.shape, np.uint8)
    gappy = np.flatnonzero(window.missing.any(axis=0))
    if 0 < len(gappy) < window.shape[1]:
        values[:, gappy], methods[:, gappy] = estimate(window.only(gappy), settings)
        return values, methods
    rows, channels = np.nonzero(window.missing)
    if not len(rows):
        return values, methods
    at = rows + window.judged
    held = np.zeros(len(at), bool) if window.storm is None else window.storm[at, channels]
    found, by = np.full(len(at), np.nan), np.zeros(len(at), np.uint8)
    for name, method in METHODS:
        left = np.flatnonzero(np.isnan(found) & (~held if name not in _IN_A_STORM else True))
        if len(left) and settings[name].enabled:
            told = method(Gaps(window, at[left], channels[left]), settings[name])
            found[left] = told
            by[left[~np.isnan(told)]] = _BIT[name]
    if window.registers is not None and not held.any():
        fit_to_registers(window, at, channels, found, by, settings)
    values[rows, channels], methods[rows, channels] = found, by
    return values, methods


def fit_to_registers(
    window: Window, at: Places, channels: Places, found: Floats, by: NDArray[np.uint8],
    settings: Mapping[str, rules.Settings],
) -> None:  # fmt: skip
    """Between two registers the intervals must add up: spread or scale what is missing, in place.

    Outages and exact differences stay as they are.
    """
    assert window.registers is not None and window.grown is not None
    known = ~np.isnan(window.registers)
    ends, begins = following(known)[at, channels], previous(known)[at, channels]
    inside = (ends < len(known)) & (begins >= 0)
    if not inside.any():
        return
    energy, counts = np.cumsum(window.filled, axis=0), np.cumsum(window.measured, axis=0)
    spans, span_of = np.unique(np.stack((channels[inside], ends[inside], begins[inside])), axis=1, return_inverse=True)
    channel, end, begin = spans
    span_of = span_of.reshape(-1)
    fixed = np.isin(by[inside], (_BIT["outage"], _BIT["subtractive_adjustment"]))
    values = np.nan_to_num(found[inside])
    rest = window.grown[end, channel] - (energy[end, channel] - energy[begin, channel])
    rest -= np.bincount(span_of, values * fixed, len(channel))
    measured = counts[end, channel] - counts[begin, channel]
    whole = np.bincount(span_of, minlength=len(channel)) + measured == end - begin
    open_ = ~fixed
    blank = np.bincount(span_of, open_ & np.isnan(found[inside]), len(channel)) > 0
    total = np.bincount(span_of, values * open_, len(channel))
    number = np.bincount(span_of, open_, len(channel))
    usable = whole & (rest >= 0) & (number > 0)
    even = usable & (blank | (total <= 0)) & settings["proration"].enabled
    name = np.where(measured == 0, _BIT["scalar_profile"], _BIT["adjust_from_scalar"])
    allowed = np.where(measured == 0, settings["scalar_profile"].enabled, settings["adjust_from_scalar"].enabled)
    scaled = usable & ~blank & (total > 0) & allowed
    spread = rest / np.maximum(number, 1)
    factor = rest / np.where(total > 0, total, 1.0)
    new = np.where(even[span_of], spread[span_of], values * factor[span_of])
    place = np.flatnonzero(inside)[open_ & (even | scaled)[span_of]]
    chosen = open_ & (even | scaled)[span_of]
    found[place] = new[chosen]
    by[place] = np.where(even[span_of], _BIT["proration"], name[span_of])[chosen]


def estimate_registers(
    registers: Floats, energy: Floats, wanted: NDArray[np.bool_], settings: Mapping[str, rules.Settings], per_day: int
) -> tuple[Floats, NDArray[np.uint8]]:
    """Registers that are wanted and missing: from the one before and the intervals since, else from its mean growth.

    **Shape** all `[n, k]`; `energy` is measured or estimated, NaN where neither.
    """
    known = ~np.isnan(registers)
    out, by = np.full(registers.shape, np.nan), np.zeros(registers.shape, np.uint8)
    at, channels = np.nonzero(wanted & ~known)
    begins = previous(known)[at, channels]
    there = begins >= 0
    at, channels, begins = at[there], channels[there], begins[there]
    total, counts = np.cumsum(np.nan_to_num(energy), axis=0), np.cumsum(~np.isnan(energy), axis=0)
    base = registers[begins, channels]
    from_intervals = base + total[at, channels] - total[begins, channels]
    whole = (counts[at, channels] - counts[begins, channels] == at - begins) & settings["scalar_from_interval"].enabled
    scalar = settings["scalar_estimation"]
    assert isinstance(scalar, rules.Scalar)
    oldest = _earliest_within(known, begins, channels, scalar.days * per_day)
    span = np.maximum(begins - oldest, 1)
    growth = (base - registers[oldest, channels]) / span
    grown = (oldest < begins) & scalar.enabled
    values = np.where(whole, from_intervals, np.where(grown, base + growth * (at - begins), np.nan))
    out[at, channels] = values
    number = np.where(whole, _BIT["scalar_from_interval"], _BIT["scalar_estimation"])
    by[at, channels] = np.where(np.isnan(values), 0, number)
    return out, by


def _earliest_within(
    known: NDArray[np.bool_], begins: Places, channels: Places, reach: int
) -> Places:  # fmt: skip
    """The earliest known place not more than `reach` before each begin."""
    first = following(known)
    return first[np.maximum(begins - reach, 0), channels]


def _nothing(gaps: Gaps) -> Floats:
    return np.full(len(gaps.at), np.nan)


def _references(gaps: Gaps, *, alike: bool) -> tuple[Floats, NDArray[np.bool_]]:
    """Energy of the reference days and which of them may be used. **Shape** both `[g, days]`."""
    window, calendar = gaps.window, gaps.window.calendar
    places = calendar.references[gaps.at]
    usable = (places >= 0) & window.trusted[np.maximum(places, 0), gaps.channels[:, None]]
    if alike:
        usable &= calendar.alike[gaps.at]
    return window.filled[np.maximum(places, 0), gaps.channels[:, None]], usable
