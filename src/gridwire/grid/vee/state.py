"""What the VEE stage knows: the readings of the last weeks, and what was told of the last days.

The state is a pure function of the network model and of how far each partition of `readings` has been applied, as that
of `gridwire.grid.state` is. What should be told is a function of the state: which rules an interval fails, and what is
estimated for it. `collect` compares it with what was told; so a stage that was killed and made again goes on with the
very same words. Nothing depends on how readings were cut into batches.

    judged   the last `days` UTC days: what is told of them is kept up to date
    history  REFERENCE_DAYS before them, to compare with and to estimate from; a reading that comes at last takes back
             that it was missing

Memory: 9 bytes a channel and interval, 16 days with 96 of them: 14 KB a channel, and 2.3 KB for what was told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar import cells as grades
from gridwire.columnar.slots import put_readings
from gridwire.grid import registers
from gridwire.grid.network import Network, NetworkIndex
from gridwire.grid.reading_types import BY_ID
from gridwire.grid.state import DAY_S, UnsupportedInterval
from gridwire.grid.vee import config
from gridwire.grid.vee.calendar import REFERENCE_DAYS, calendar
from gridwire.grid.vee.channels import NET, OTHER, REGISTERS, SIBLINGS, Channels
from gridwire.grid.vee.estimation import estimate, estimate_registers
from gridwire.grid.vee.rules import BY_NAME, Settings
from gridwire.grid.vee.storm import storms
from gridwire.grid.vee.validation import ALONE, validate
from gridwire.grid.vee.window import Window

CHUNK: Final = 1024
"""Channels that are looked at together: a matrix of them takes 12 MB."""

HISTORY_DAYS: Final = REFERENCE_DAYS + 1
"""Days before the judged ones; one more, for local days begin before or after UTC's."""

NO_ENERGY: Final = -1
TAKEN_BACK: Final = 1
"""Told of an interval: the estimate in the log holds no more. Else (watt-hours + 1) x 32 + the rule's number."""

STORM_BIT: Final = 31
"""Beside the rules that failed: missing in a storm, which is why nothing is estimated."""

DERIVED: Final = 31
"""In place of a rule's number: no estimate, but the difference of two registers."""

_METHOD_BITS = 5

_WH_PER_KWH = 1000.0
_MWH_PER_KWH = 1e6


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be told anew of n intervals.

    **Shape** `[n]`: `channels` positions in `Channels`; `failed` rules as bits; `values` measured kWh, NaN where none;
    `estimates` watt-hours, `NO_ENERGY` where none; `methods` the rule's number, `DERIVED` is a
    difference of registers; `sent` the estimate is new, `taken_back` an old one holds no more.
    """

    slots: NDArray[np.int64]
    channels: NDArray[np.int64]
    failed: NDArray[np.uint32]
    values: NDArray[np.float64]
    estimates: NDArray[np.int64]
    methods: NDArray[np.int64]
    sent: NDArray[np.bool_]
    taken_back: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.slots)


class VeeState:
    """See the module.

    Raises:
        UnsupportedInterval: the model's interval does not divide a day.
    """

    def __init__(self, network: Network, index: NetworkIndex, days: int = 2) -> None:
        if DAY_S % index.interval_s:
            raise UnsupportedInterval(f"the network's interval_s {index.interval_s} does not divide a day of {DAY_S} s")
        self.config = config.parse(network.vee)
        self.interval_s, self.days = index.interval_s, days
        self.per_day = DAY_S // index.interval_s
        self.ring_days = days + HISTORY_DAYS
        self.channels = Channels(network, index, self.config.general.storm_area)
        count = len(self.channels.points)
        rows = self.ring_days * self.per_day
        self._cells = np.zeros((rows, count), np.int64)
        self._marks = np.zeros((rows, count), np.uint8)
        self._reported = np.zeros((rows, len(self.channels.area_ids)), np.int32)
        self._dirty = np.zeros(count, np.uint8)
        self._served = np.zeros(len(index.transformer_ids), bool)
        self._told_failed = np.zeros((days * self.per_day, count), np.uint32)
        self._told_estimates = np.zeros((days * self.per_day, count), np.int64)
        self._storm = np.zeros((rows, len(self.channels.area_ids)), bool)
        self.newest_day = self.newest_slot = self.first_slot = -1
        self._judged_at = (-1, -1)
        self.silent = False
        self.window_counts = {"due": 0, "missing": 0, "estimated": 0}
        """Intervals of the judged days: whose readings should be here, those that are not, and those estimated."""
        self._leaving: list[Changes] = []
        self._late: list[tuple[NDArray[np.int64], NDArray[np.int32]]] = []
        """Slots of history and channels where a first measured reading came."""
        self._power: dict[int, set[tuple[int, bool]]] = {}

    # -- readings --------------------------------------------

    def apply(
        self,
        partition: int,
        slots: NDArray[np.int64],
        channels: NDArray[np.int32],
        amounts: NDArray[np.int64],
        ranks: NDArray[np.int32],
        bits: NDArray[np.uint8],
    ) -> None:
        """Apply readings of one partition in offset order; amounts in milliwatt-hours, registers' in watt-hours."""
        if not len(slots):
            return
        done = 0
        self._served[self.channels.transformers[channels]] = True
        while True:
            begun = done
            self._note_late(slots[begun:], channels[begun:], ranks[begun:])
            done = put_readings(
                self._cells, self._marks, self._dirty, self.channels.areas, self._reported, slots, channels, amounts,
                ranks, bits, partition, done, self.newest_day, self.ring_days,
            )  # fmt: skip
            if done > begun:
                self._learn_slots(slots[begun:done], ranks[begun:done])
            if done == len(slots):
                return
            self._open_day(int(slots[done]) // self.per_day)

    def _note_late(self, slots: NDArray[np.int64], channels: NDArray[np.int32], ranks: NDArray[np.int32]) -> None:
        """Readings of history whose intervals are not measured so far; those that are put later are noted again."""
        oldest = self.judged - HISTORY_DAYS * self.per_day
        old = np.flatnonzero((slots < self.judged) & (slots >= oldest) & (ranks >> grades.VERSION_BITS != 0))
        if self.silent or self.newest_day < 0 or not len(old):
            return
        held = self._cells[slots[old] % len(self._cells), channels[old]]
        old = old[~_is_measured(held)]
        if len(old):
            self._late.append((slots[old], channels[old]))

    def _learn_slots(self, slots: NDArray[np.int64], ranks: NDArray[np.int32]) -> None:
        measured = slots[ranks >> grades.VERSION_BITS != grades.ESTIMATED]
        if len(measured):
            self.newest_slot = max(self.newest_slot, int(measured.max()))
            earliest = int(measured.min())
            self.first_slot = earliest if self.first_slot < 0 else min(self.first_slot, earliest)

    def _open_day(self, day: int) -> None:
        """Move the window on; what changed in the days that leave is told first."""
        if self.newest_day >= 0 and not self.silent:
            self._leaving = self.collect()
        fresh = self.newest_day < 0  # all is empty, and memory that is not touched is not taken
        for new in () if fresh else range(max(self.newest_day + 1, day - self.ring_days + 1), day + 1):
            rows = slice(new % self.ring_days * self.per_day, (new % self.ring_days + 1) * self.per_day)
            for matrix in (self._cells, self._marks, self._reported, self._storm):
                matrix[rows] = 0
            told = slice(new % self.days * self.per_day, (new % self.days + 1) * self.per_day)
            self._told_failed[told] = 0
            self._told_estimates[told] = 0
        self.newest_day = day
        oldest_us = (day - self.ring_days) * DAY_S * 1_000_000
        kept = {point: {each for each in known if each[0] >= oldest_us} for point, known in self._power.items()}
        self._power = {point: known for point, known in kept.items() if known}

    # -- what is to be told --------------------------------------------

    @property
    def judged(self) -> int:
        """First slot that is judged."""
        return (self.newest_day - self.days + 1) * self.per_day

    @property
    def due(self) -> int:
        """End of the slots whose readings should be here."""
        return self.newest_slot - self.config.general.grace_s // self.interval_s

    def collect(self) -> list[Changes]:
        """What changed since the last call."""
        out, self._leaving = self._leaving, []
        if self.newest_day < 0:
            return out
        moved = self._judged_at != (self.newest_slot, self.newest_day)
        if moved:
            self._dirty[:] = 1  # more is due, days may have closed
        self._judged_at = (self.newest_slot, self.newest_day)
        self._find_storms()
        out += [changes for changes in (*self._taken_back(), *self._judge()) if len(changes)]
        if moved:
            self._count_window()
        return out

    def _taken_back(self) -> Iterator[Changes]:
        """Of intervals of history that were missing and are no more: what their own readings say of them."""
        if not self._late:
            return
        pairs = np.unique(np.concatenate([np.stack((s, c.astype(np.int64)), axis=1) for s, c in self._late]), axis=0)
        self._late = []
        held = self._cells[pairs[:, 0] % len(self._cells), pairs[:, 1]]
        pairs, held = pairs[_is_measured(held)], held[_is_measured(held)]
        slots, channels, count = pairs[:, 0], pairs[:, 1], len(pairs)
        per_kwh = np.where(channels < self.channels.energies, _MWH_PER_KWH, _WH_PER_KWH)
        values = ((held & grades.AMOUNT_MASK) - 1) / per_kwh
        yield Changes(
            slots, channels, self._validate_alone(slots, channels, values), values, np.full(count, NO_ENERGY, np.int64),
            np.zeros(count, np.int64), np.zeros(count, bool), np.zeros(count, bool),
        )  # fmt: skip

    def _validate_alone(
        self, slots: NDArray[np.int64], channels: NDArray[np.int64], values: NDArray[np.float64]
    ) -> NDArray[np.uint32]:
        """Rules that ask for nothing but the interval itself. **Shape** all `[n]`; registers fail none."""
        failed = np.zeros(len(slots), np.uint32)
        for (zone, category), members in self.channels.groups.items():
            chosen = np.flatnonzero(np.isin(channels, members))
            its = channels[chosen]
            window = Window(
                calendar=calendar(zone, self.judged, 1, self.interval_s, self.config.general.holidays),
                judged=0, due=0, since=0, energy=values[None, chosen],
                marks=self._marks[slots[chosen] % len(self._marks), its][None],
                active=self.channels.active[its], multiplier=self.channels.multiplier[its],
            )  # fmt: skip
            failed[chosen] = validate(window, self.config.rules_of(category), ALONE)[0]
        return failed

    def _judge(self) -> Iterator[Changes]:
        touched = np.zeros(len(self._served), bool)
        touched[self.channels.transformers[self._dirty != 0]] = True
        chosen = (touched & self._served)[self.channels.transformers]
        self._dirty[:] = 0
        if not chosen.any():
            return
        for (zone, category), members in self.channels.groups.items():
            todo = members[chosen[members]]
            settings = self.config.rules_of(category)
            for begin in range(0, len(todo), CHUNK):
                channels = todo[begin : begin + CHUNK]
                window = self.window(zone, channels)
                values, methods = estimate(window, settings)
                if window.derived is not None:
                    derived = window.derived[window.judged :]
                    values = np.where(derived, window.energy[window.judged :], values)
                    methods = np.where(derived, np.uint8(DERIVED), methods)
                failed = validate(window, settings)
                if window.storm is not None:
                    failed |= (window.missing & window.storm[window.judged :]).astype(np.uint32) << np.uint32(STORM_BIT)
                measured = window.energy[window.judged :]
                yield self._compare(channels, failed, measured, window.missing, values, methods)
                if window.registers is not None:
                    yield self._judge_registers(window, channels, values, settings)

    def _judge_registers(
        self, window: Window, channels: NDArray[np.int64], values: NDArray[np.float64],
        settings: Mapping[str, Settings],
    ) -> Changes:  # fmt: skip
        """Registers that used to come at the end of a local day and did not."""
        assert window.registers is not None
        beside = self.channels.counterparts(REGISTERS)[channels]
        place = np.flatnonzero(beside >= 0)
        registers_of = window.registers[:, place]
        energy = window.energy[:, place].copy()
        energy[window.judged :] = np.where(np.isnan(energy[window.judged :]), values[:, place], energy[window.judged :])
        wanted = np.zeros(registers_of.shape, bool)
        lasts = window.calendar.lasts
        for day in window.closed.tolist():
            wanted[lasts[day]] = ~np.isnan(registers_of[lasts[day - 1]])
        missing = (wanted & np.isnan(registers_of))[window.judged :]
        energy /= window.multiplier[place]  # registers count before it
        estimates, methods = estimate_registers(registers_of, energy, wanted, settings, self.per_day)
        failed = np.where(missing, np.uint32(1 << BY_NAME["missing_quantity"].bit), np.uint32(0))
        return self._compare(
            beside[place], failed, registers_of[window.judged :], missing, estimates[window.judged :],
            methods[window.judged :],
        )  # fmt: skip

    def _compare(
        self, channels: NDArray[np.int64], failed: NDArray[np.uint32], measured: NDArray[np.float64],
        missing: NDArray[np.bool_], values: NDArray[np.float64], methods: NDArray[np.uint8],
    ) -> Changes:  # fmt: skip
        """What of this differs from what was told, and note it as told. **Shape** `[judged, k]` but for `channels`."""
        estimated = ~np.isnan(values)
        wh = np.where(estimated, np.rint(np.nan_to_num(values) * _WH_PER_KWH), NO_ENERGY).astype(np.int64)
        slots = np.arange(self.judged, self.judged + len(failed))
        held = self._cells[np.ix_(slots % len(self._cells), channels)]
        stale = missing & ~estimated & ((held & grades.AMOUNT_MASK) != 0)
        codes = np.where(estimated, (wh + 1 << _METHOD_BITS) | methods, np.where(stale, TAKEN_BACK, 0))
        rows = slots % len(self._told_failed)
        place = np.ix_(rows, channels)
        old_failed, old_codes = self._told_failed[place], self._told_estimates[place]
        changed = (old_failed != failed) | (old_codes != codes)
        self._told_failed[place], self._told_estimates[place] = failed, codes
        at, column = np.nonzero(changed)
        new, old = codes[at, column], old_codes[at, column]
        gone = missing[at, column] & (new == 0) & (old > TAKEN_BACK)
        return Changes(
            slots[at], channels[column], failed[at, column], measured[at, column], wh[at, column],
            methods[at, column].astype(np.int64), (new != old) & (new > TAKEN_BACK),
            gone | ((new == TAKEN_BACK) & (old != TAKEN_BACK)),
        )  # fmt: skip

    def window(self, zone: str, channels: NDArray[np.int64]) -> Window:
        """The matrix of some interval channels of one zone."""
        count = self.ring_days * self.per_day
        first = self.judged - HISTORY_DAYS * self.per_day
        days = calendar(zone, first, count, self.interval_s, self.config.general.holidays)
        channel = self.channels
        energy = self._energy(first, channels)
        registers_at = channel.counterparts(REGISTERS)[channels]
        counters, grown = self._registers(first, registers_at)
        derived = None
        if counters is not None and grown is not None:
            derived = np.isnan(energy) & ~np.isnan(grown)
            derived[1:] &= ~np.isnan(counters[:-1])
            derived[0] = False
            energy = np.where(derived, grown, energy)
        storm = (
            self._gather(self._storm, first, channel.areas[channels].astype(np.int64)) if self._storm.any() else None
        )
        sibling_at = channel.counterparts(SIBLINGS)[channels]
        return Window(
            calendar=days,
            judged=HISTORY_DAYS * self.per_day,
            due=max(0, self.due - first),
            since=max(0, self.first_slot - first),
            energy=energy,
            marks=self._gather(self._marks, first, channels),
            active=channel.active[channels],
            multiplier=channel.multiplier[channels],
            sibling=self._optional(first, sibling_at),
            leftover=self._leftover(first, channels),
            registers=counters,
            grown=grown,
            derived=derived,
            outage=self._outage(channels, energy, first),
            storm=storm,
            neighbours=lambda chosen: self._neighbours(first, channels[chosen]),
        )

    def _rows(self, first: int) -> NDArray[np.int64]:
        return np.arange(first, first + len(self._cells)) % len(self._cells)

    def _gather(self, matrix: NDArray[Any], first: int, channels: NDArray[np.int64]) -> NDArray[Any]:
        """Columns of a ring, its rows in the order of time."""
        begin, last = int(channels[0]), int(channels[-1])
        chosen = slice(begin, last + 1) if last - begin + 1 == len(channels) and begin >= 0 else channels
        at = first % len(matrix)
        out = np.empty((len(matrix), len(channels)), matrix.dtype)
        out[: len(matrix) - at], out[len(matrix) - at :] = matrix[at:, chosen], matrix[:at, chosen]
        return out

    def _energy(self, first: int, channels: NDArray[np.int64]) -> NDArray[np.float64]:
        """kWh of intervals, NaN where nothing is measured or the channel is -1."""
        found = self._gather(self._cells, first, channels)
        amounts = (found & grades.AMOUNT_MASK) - 1
        measured = (amounts >= 0) & (found >> grades.GRADE_SHIFT != grades.ESTIMATED) & (channels >= 0)
        out: NDArray[np.float64] = amounts / _MWH_PER_KWH
        out[~measured] = np.nan
        return out

    def _optional(self, first: int, channels: NDArray[np.int64]) -> NDArray[np.float64] | None:
        return self._energy(first, channels) if (channels >= 0).any() else None

    def _leftover(self, first: int, channels: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Import is net and export together."""
        net = self._optional(first, self.channels.counterparts(NET)[channels])
        export = self._optional(first, self.channels.counterparts(OTHER)[channels])
        return None if net is None or export is None else net + export

    def _registers(
        self, first: int, channels: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:  # fmt: skip
        if not (channels >= 0).any():
            return None, None
        found = self._gather(self._cells, first, channels)
        measured = (channels >= 0) & (found >> grades.GRADE_SHIFT != grades.ESTIMATED)
        counters = np.where(measured, (found & grades.AMOUNT_MASK) - 1, registers.NOTHING)
        installs = {
            place: self.channels.installs[channel]
            for place, channel in enumerate(channels.tolist())
            if channel in self.channels.installs
        }
        ends_us = np.arange(first, first + len(counters), dtype=np.int64) * self.interval_s * 1_000_000
        grown = registers.growth(counters, ends_us, installs)
        return _thousands(counters), _thousands(grown)

    def power(self, points: NDArray[np.int64], ts_us: NDArray[np.int64], back: NDArray[np.bool_]) -> None:
        """Power that went (`back` False) or came back at usage points: a set of these, whose order does not matter."""
        oldest_us = (self.newest_day - self.ring_days) * DAY_S * 1_000_000
        for point, moment, returned in zip(points.tolist(), ts_us.tolist(), back.tolist(), strict=True):
            if moment >= oldest_us:
                self._power.setdefault(point, set()).add((moment, returned))
                self._dirty[self.channels.points == point] = 1

    def _outage(self, channels: NDArray[np.int64], energy: NDArray[np.float64], first: int) -> NDArray[np.bool_] | None:
        """Intervals that lie in a known outage of their usage point from begin to end.

        An outage lasts until power comes back, or until the first interval with energy after it began.
        """
        if not self._power:
            return None
        out = np.zeros(energy.shape, bool)
        for place, point in enumerate(self.channels.points[channels].tolist()):
            for begin, end in self._outages(point, first, energy[:, place]):
                out[begin:end, place] = True
        return out

    def _outages(self, point: int, first: int, energy: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
        """Intervals `[begin, end)` of the window."""
        interval_us = self.interval_s * 1_000_000
        gone_us = -1
        for moment, back in [*sorted(self._power.get(point, ())), (-1, True)]:
            if not back:
                gone_us = moment if gone_us < 0 else gone_us
            elif gone_us >= 0:
                begin = max(-(-gone_us // interval_us) + 1 - first, 0)
                end = len(energy) if moment < 0 else moment // interval_us + 1 - first
                used = np.flatnonzero(energy[begin : max(end, begin)] > 0)
                yield begin, begin + int(used[0]) if len(used) else max(min(end, len(energy)), begin)
                gone_us = -1

    def _neighbours(
        self, first: int, channels: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:  # fmt: skip
        """Of every channel the others of its type at its transformer."""
        channel = self.channels
        keys = channel.transformers.astype(np.int64) * (max(BY_ID) + 1) + channel.types
        shape = (len(self._cells), len(channels))
        energy, levels, members = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int64)
        for key in np.unique(keys[channels]).tolist():
            group = np.flatnonzero(keys[: channel.energies] == key)
            theirs = self._energy(first, group)
            known = ~np.isnan(theirs)
            filled = np.where(known, theirs, 0.0)
            level = filled.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
            for place in np.flatnonzero(keys[channels] == key).tolist():
                others = group != channels[place]
                energy[:, place] = filled[:, others].sum(axis=1)
                levels[:, place] = (known[:, others] * level[others]).sum(axis=1)
                members[:, place] = known[:, others].sum(axis=1)
        return energy, levels, members

    def _find_storms(self) -> None:
        """Which areas report too little for estimates, interval by interval."""
        general, channel = self.config.general, self.channels
        energies = slice(0, channel.energies)
        there = self._served[channel.transformers[energies]]
        expected = np.bincount(channel.areas[energies][there], minlength=len(channel.area_ids))
        if not (expected >= general.storm_devices).any():
            return
        first = self.judged - HISTORY_DAYS * self.per_day
        rows = self._rows(first)
        found = np.zeros_like(self._storm)
        found[rows] = storms(
            self._reported[rows], expected, general, self.per_day, self.first_slot - first, self.due - first
        )
        changed = (found != self._storm).any(axis=0)
        if changed.any():
            self._dirty[energies][changed[channel.areas[energies]]] = 1
            self._storm = found

    def _count_window(self) -> None:
        """How complete the judged days are, as of the newest interval that came."""
        energies = slice(0, self.channels.energies)
        served = int(np.count_nonzero(self._served[self.channels.transformers[energies]]))
        slots = max(0, self.due - max(self.judged, self.first_slot))
        failed, codes = self._told_failed[:, energies], self._told_estimates[:, energies]
        missing = int(np.count_nonzero(failed & np.uint32(1 << BY_NAME["missing_quantity"].bit)))
        estimated = (codes > TAKEN_BACK) & (codes & (1 << _METHOD_BITS) - 1 != DERIVED)
        self.window_counts = {
            "due": served * slots, "missing": missing, "estimated": int(np.count_nonzero(estimated)),
        }  # fmt: skip

    @property
    def storms(self) -> int:
        """Areas that are in a storm in the newest interval that is due."""
        return int(self._storm[(self.due - 1) % len(self._storm)].sum()) if self.newest_slot >= 0 else 0

    # -- for the lane --------------------------------------------

    def forget_changes(self) -> None:
        """What is to be told now was told before."""
        self.collect()

    def used_rows(self) -> list[int]:
        """All that is told is told in one piece."""
        return [0] if self.newest_day >= 0 else []

    def mark(self, row: int) -> None:
        """Let the next `collect` tell everything."""
        self._told_failed[:] = 0
        self._told_estimates[:] = 0
        self._dirty[:] = 1

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For a snapshot: what arrived; what was told is made anew."""
        window = [self.newest_day, self.newest_slot, self.first_slot, self.days, self.per_day]
        used = np.flatnonzero((self._cells != 0).any(axis=1) | (self._marks != 0).any(axis=1))
        return {
            "window": np.array(window, np.int64), "used": used, "cells": self._cells[used],
            "marks": self._marks[used], "reported": self._reported, "served": self._served,
            "power": np.array(
                [(point, *each) for point, known in sorted(self._power.items()) for each in sorted(known)], np.int64
            ).reshape(-1, 3),
        }  # fmt: skip

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `to_arrays` of a state of the same network gave. Raises ValueError: another window."""
        newest, slot, first, days, per_day = (int(number) for number in arrays["window"])
        if (days, per_day) != (self.days, self.per_day):
            raise ValueError("snapshot of another window")
        self.newest_day, self.newest_slot, self.first_slot = newest, slot, first
        self._cells[arrays["used"]], self._marks[arrays["used"]] = arrays["cells"], arrays["marks"]
        self._reported[:], self._served[:] = arrays["reported"], arrays["served"]
        for point, moment, back in arrays["power"].tolist():
            self._power.setdefault(point, set()).add((moment, bool(back)))
        self._dirty[:] = 1
        self.forget_changes()


def _is_measured(cells: NDArray[np.int64]) -> NDArray[np.bool_]:
    measured: NDArray[np.bool_] = ((cells & grades.AMOUNT_MASK) > 0) & (cells >> grades.GRADE_SHIFT != grades.ESTIMATED)
    return measured


def _thousands(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(numbers == registers.NOTHING, np.nan, numbers / _WH_PER_KWH)
