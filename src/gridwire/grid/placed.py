"""Readings judged by the network model of their time, where several hold one after the other."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from gridwire.grid.placements import FIRST_SLOT, NOWHERE, Timeline
from gridwire.grid.validate import (
    EARLIEST_US,
    HOUR_S,
    LATEST_US,
    Measured,
    Reason,
    Rules,
    Validated,
    Validator,
    limits_kw,
)

NEVER: Final = FIRST_SLOT - 1
"""Before every slot."""

MWH_PER_KWH: Final = 1e6
MARGIN: Final = 1 + 1e-9
"""Amounts that are this close below a limit count as above it: floats are not exact."""


class PlacedValidator(Validator):
    """Checks readings against the models of their times. What it says is the same whenever a model became known, but
    for readings at `refused_slot` and before.

    Args:
        timeline: points of readings are units in its numbering.
    """

    def __init__(self, timeline: Timeline, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.interval_s = timeline.interval_s
        self.refused_slot = NEVER
        """The newest slot of a reading that was rejected for what its model said: another one may have let it pass."""
        self.refused = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        """Rows and slots of those of the last call."""
        self._timeline = timeline
        self._limits_of: dict[int, NDArray[np.float64]] = {}
        self._whole: dict[int, tuple[int, bool]] = {}

    def follow(self, timeline: Timeline) -> None:
        """Judge by other models from now on."""
        self._timeline, self._limits_of, self._whole = timeline, {}, {}

    def validate(self, readings: Measured, event_ms: NDArray[np.int64]) -> Validated:
        """See `Validator.validate`."""
        found = super().validate(readings, event_ms)
        self.refused = self._refused(readings, event_ms, found.reasons)
        if len(self.refused[1]):
            self.refused_slot = max(self.refused_slot, int(self.refused[1].max()))
        return found

    def _refused(
        self, readings: Measured, event_ms: NDArray[np.int64], reasons: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(rows, slots) of what another model may let pass; what none would is left out."""
        rows = np.flatnonzero((reasons == Reason.UNKNOWN_USAGE_POINT) | (reasons == Reason.IMPLAUSIBLE_VALUE))
        ts_end_us = readings.ts_end_us[rows]
        possible = (ts_end_us >= EARLIEST_US) & (ts_end_us <= LATEST_US)
        if len(rows):
            possible &= ~self._from_the_future(ts_end_us, event_ms[rows])
        return rows[possible], ts_end_us[possible] // (self.interval_s * 1_000_000)

    def too_much(self, slot: int, points: NDArray[np.int64], amounts_mwh: NDArray[np.int64]) -> bool:
        """Whether one of these amounts of an interval would be rejected."""
        limit_kw = self._limits_in(int(self._timeline.era_of(np.array([slot]))[0]))[points]
        return bool((amounts_mwh * MARGIN > limit_kw * (self.interval_s / HOUR_S * MWH_PER_KWH)).any())

    def _unknown(self, readings: Measured, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        out = readings.points < 0
        if out.all():
            return out
        for era, rows in self._eras(slots):
            transformer = self._transformers_in(era)
            if transformer is not None:
                out[rows] |= transformer[readings.points[rows]] == NOWHERE
        return out

    def _transformers_in(self, era: int) -> NDArray[np.int32] | None:
        """Of every unit; None where each one has a place."""
        placement = self._timeline.eras[era].placement
        transformer, _ = self._timeline.numbering.unfolded(placement)
        known = self._whole.get(era)
        if known is None or known[0] != len(transformer):
            known = self._whole[era] = (len(transformer), bool((transformer != NOWHERE).all()))
        return None if known[1] else transformer

    def _limits(self, readings: Measured, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        out = np.empty(len(slots), np.float64)
        for era, rows in self._eras(slots):
            out[rows] = self._limits_in(era)[readings.points[rows]]
        return out

    def _eras(self, slots: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64] | slice]]:
        """Eras of some slots and the rows that are in them."""
        if not len(slots):
            return []
        eras = self._timeline.eras_between(int(slots.min()), int(slots.max()))
        if len(eras) == 1:
            return [(eras.start, slice(None))]
        of_row = self._timeline.era_of(slots)
        return [(era, np.flatnonzero(of_row == era)) for era in np.unique(of_row).tolist()]

    def _limits_in(self, era: int) -> NDArray[np.float64]:
        """Of every unit, and one place more for the unknown one."""
        known, units = self._limits_of.get(era), len(self._timeline.numbering.units)
        if known is None or len(known) <= units:
            placement = self._timeline.eras[era].placement
            transformer, _ = self._timeline.numbering.unfolded(placement)
            # A unit that is nowhere is under the transformer -1, which has no rating.
            known = limits_kw(np.append(np.append(placement.rated_kva, 0.0)[transformer], 0.0), self.rules)
            while len(self._limits_of) > 1:
                del self._limits_of[next(iter(self._limits_of))]
            self._limits_of[era] = known
        return known
