"""Errors of the model: customers that hang on another transformer or another phase than it says.

Voltages of one transformer and phase move together. For each usage point the voltages of some days are correlated with
the mean of every (transformer, phase) of its neighbourhood; where another one fits clearly better than its own, the
model is probably wrong. What moves the whole neighbourhood is taken out first.

Correlation collapses under load (a customer's own line drops its voltage), so only the half of the intervals counts in
which the voltage of the usage point's own wire is higher: those of low load.

`analyse` is the method, for any window of voltages, from the lake too. The detector runs it live: it collects a window
of as many neighbourhoods as its memory allows, analyses them one by one, and goes on with the next ones.

Source: voltage correlation for mapping meters to transformers and phases, as in T. A. Short, "Advanced metering for
phase identification, transformer identification, and secondary modeling", IEEE Trans. Smart Grid 4(2), 2013.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from gridwire.grid.findings import Finding, FindingState, Severity
from gridwire.grid.network import NetworkIndex
from gridwire.grid.watch.areas import areas
from gridwire.grid.watch.base import Detector, SeenReadings
from gridwire.grid.watch.frames import MISSING, TYPES, UNIT, deviations, pu_of

WINDOW_CELLS_MAX: Final = 100_000_000
"""Voltages held at the same time: 200 MB."""

PIECE_UNITS_MAX: Final = 2_000
"""Largest neighbourhood that is analysed at once (some 50 ms); larger ones are cut between transformers."""

PHASES: Final = 4
"""Wires of a transformer that are told apart: unknown or several, 1, 2, 3."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class MappingSettings:
    """How it is decided.

    Args:
        slots: intervals of a window. grace: intervals it waits for late readings.
        known_share: of them a usage point must have.
        least: correlation of a better place. margin: how much better it must be.
    """

    slots: int = 288
    grace: int = 8
    known_share: float = 0.5
    least: float = 0.5
    margin: float = 0.2


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A better place. `unit`: position in what was analysed. `own`, `best`: correlations."""

    unit: int
    transformer: int
    phase: int
    own: float
    best: float


def analyse(
    off: Floats, transformer: NDArray[np.int32], phase: NDArray[np.int8], settings: MappingSettings | None = None
) -> list[Suggestion]:
    """Where usage points of one neighbourhood seem to hang, if not where the model says.

    Args:
        off: `[slots, n]`, voltages off nominal in pu, NaN unknown. transformer: `[n]`, 0 to some number. phase: `[n]`.

    Returns:
        Suggestions by unit. One with the unit's own transformer names another phase.
    """
    s = settings or MappingSettings()
    own_wire = transformer * PHASES + phase
    usable = np.count_nonzero(~np.isnan(off), axis=0) >= s.known_share * len(off)
    if np.count_nonzero(usable) < 4:
        return []
    heard = off[~np.isnan(off[:, usable]).all(axis=1)]
    common = np.nanmedian(heard[:, usable], axis=1, keepdims=True)
    moves = np.zeros(heard.shape, np.float32)
    own = heard[:, usable] - common
    moves[:, usable] = np.nan_to_num(own - np.nanmean(own, axis=0))  # unknown: as usual
    wires = int(transformer.max() + 1) * PHASES
    fits = _fits(moves, own_wire, wires, usable)
    return _decide(fits, transformer, phase, usable, s)


def _fits(moves: Floats, own_wire: NDArray[Any], wires: int, usable: NDArray[np.bool_]) -> Floats:
    """Correlation of each unit with each wire without it, `[n, wires]`; -1 where a wire has too few others."""
    n = moves.shape[1]
    member = np.zeros((n, wires), np.float32)
    member[np.flatnonzero(usable), own_wire[usable]] = 1.0
    sizes = member.sum(axis=0)
    sums = moves @ member
    fits = np.full((n, wires), -1.0, np.float32)
    common = sums / np.maximum(sizes, 1.0)
    low = common >= np.median(common, axis=0)  # high voltage of a wire: low load
    for wire in np.flatnonzero(sizes > 0).tolist():
        mine = np.flatnonzero(usable & (own_wire == wire))
        rows = low[:, wire]
        others = common[rows][:, sizes >= 2]
        mates = moves[rows][:, mine]
        fits[np.ix_(mine, np.flatnonzero(sizes >= 2))] = _correlate(mates, others)
        if len(mine) >= 3:
            without = (sums[rows, wire][:, None] - mates) / (len(mine) - 1)
            fits[mine, wire] = _pairwise(mates, without)
        else:
            fits[mine, wire] = -1.0
    return fits


def _normal(columns: Floats) -> Floats:
    centred = columns - columns.mean(axis=0)
    scaled: Floats = centred / np.maximum(np.sqrt((centred**2).sum(axis=0)), 1e-9)
    return scaled


def _correlate(a: Floats, b: Floats) -> Floats:
    product: Floats = _normal(a).T @ _normal(b)
    return product


def _pairwise(a: Floats, b: Floats) -> Floats:
    product: Floats = (_normal(a) * _normal(b)).sum(axis=0)
    return product


def _decide(
    fits: Floats, transformer: NDArray[np.int32], phase: NDArray[np.int8], usable: NDArray[np.bool_], s: MappingSettings
) -> list[Suggestion]:
    n = len(fits)
    by_wire = fits.reshape(n, -1, PHASES)
    rows = np.arange(n)
    of_transformer = by_wire.max(axis=2)
    own = of_transformer[rows, transformer]
    others = of_transformer.copy()
    others[rows, transformer] = -1.0
    best = others.argmax(axis=1)
    found = []
    # Where a wire has too few others to compare with, nothing can be said of its units.
    for unit in np.flatnonzero(usable & (by_wire[rows, transformer, phase] > -1.0)).tolist():
        away = float(others[unit, best[unit]])
        if away >= s.least and away - own[unit] >= s.margin:
            place = int(best[unit])
            found.append(Suggestion(unit, place, int(by_wire[unit, place].argmax()), float(own[unit]), away))
            continue
        here = by_wire[unit, transformer[unit]]
        labelled, wire = int(phase[unit]), int(here[1:].argmax()) + 1
        better = wire != labelled and here[wire] >= s.least and here[wire] - here[labelled] >= s.margin
        if labelled and better:
            place = int(transformer[unit])
            found.append(Suggestion(unit, place, wire, float(here[labelled]), float(here[wire])))
    return found


class Mapping(Detector):
    """Findings `mapping.transformer` and `mapping.phase`. Up to 200 MB, and 4 bytes a usage point."""

    name = "mapping"

    def __init__(
        self, index: NetworkIndex, settings: MappingSettings | None = None, cells_max: int = WINDOW_CELLS_MAX
    ) -> None:
        super().__init__(index)
        self.settings = settings or MappingSettings()
        self._pieces = _pieces(index)
        self._units_max = cells_max // self.settings.slots
        self._next = 0
        self._start = -1  # first slot of the window; -1: none has begun
        self._waiting: list[int] = []  # pieces of a full window that are still to be analysed
        self._column = np.full(len(index.unit_ids), -1, np.int32)
        self._window = np.empty((self.settings.slots, 0), np.int16)
        self._known: dict[int, tuple[int, int, int, float]] = {}
        self._open_window()

    def _open_window(self) -> None:
        """The next pieces, as many as memory allows."""
        chosen: list[int] = []
        count = 0
        for step in range(len(self._pieces)):
            at = (self._next + step) % len(self._pieces)
            if chosen and count + len(self._pieces[at]) > self._units_max:
                break
            chosen.append(at)
            count += len(self._pieces[at])
        self._chosen = chosen
        self._next = (chosen[-1] + 1) % len(self._pieces) if chosen else 0
        self._lay_out()
        self._start = -1

    def _lay_out(self) -> None:
        self._column[:] = -1
        units = np.concatenate([self._pieces[at] for at in self._chosen]) if self._chosen else np.empty(0, np.int32)
        self._column[units] = np.arange(len(units))
        if self._window.shape[1] != len(units):
            self._window = np.empty((self.settings.slots, len(units)), np.int16)
        self._window[:] = MISSING

    def readings(self, seen: SeenReadings) -> None:
        """Voltages of the window."""
        rows, slots, off = deviations(seen, self.index, TYPES)
        if not len(rows) or self._waiting:
            return
        if self._start < 0:
            self._start = int(slots[0])
        ends = np.flatnonzero(slots >= self._start + self.settings.slots + self.settings.grace)
        upto = int(ends[0]) if len(ends) else len(rows)
        columns, at = self._column[seen.points[rows[:upto]]], slots[:upto] - self._start
        mine = (columns >= 0) & (at >= 0) & (at < self.settings.slots)
        self._window[at[mine], columns[mine]] = np.rint(off[:upto][mine] / UNIT).astype(np.int16)
        if len(ends):
            self._waiting = list(self._chosen)

    def findings(self, now_us: int) -> list[Finding]:
        """Analyse one piece of a full window: asked often, nobody waits long."""
        if not self._waiting:
            return []
        units = self._pieces[self._waiting.pop(0)]
        index = self.index
        _, local = np.unique(index.transformer_of_unit[units], return_inverse=True)
        off = pu_of(self._window[:, self._column[units]])
        suggestions = analyse(off, local.astype(np.int32), index.phase_of_unit[units], self.settings)
        names = np.unique(index.transformer_of_unit[units])
        found = self._compare(
            units, {int(units[s.unit]): (int(names[s.transformer]), s.phase, s.own, s.best) for s in suggestions}
        )
        if not self._waiting:
            self._open_window()
        return found

    def _compare(self, units: NDArray[np.int32], new: dict[int, tuple[int, int, float, float]]) -> list[Finding]:
        """What was not known before, and what was and is not seen any more."""
        end_us = (self._start + self.settings.slots) * self.index.interval_s * 1_000_000
        found = []
        for unit in units.tolist():
            old, now = self._known.get(unit), new.get(unit)
            if old is not None and (now is None or (now[0], now[1]) != (old[0], old[1])):
                del self._known[unit]
                found.append(self._finding(unit, old, (old[3], old[3]), end_us))
                old = None
            if now is not None and old is None:
                begun = (now[0], now[1], self._start, now[3])
                self._known[unit] = begun
                found.append(self._finding(unit, begun, now[2:], None))
        return found

    def _finding(
        self, unit: int, place: tuple[int, int, int, float], fits: tuple[float, float], ended_us: int | None
    ) -> Finding:
        index, (transformer, phase, start, _) = self.index, place
        own = int(index.transformer_of_unit[unit])
        evidence: dict[str, Any] = {
            "transformer_in_model": index.transformer_ids[own], "phase_in_model": int(index.phase_of_unit[unit]),
            "transformer": index.transformer_ids[transformer], "phase": phase,
            "correlation_in_model": round(fits[0], 3), "correlation": round(fits[1], 3),
        }  # fmt: skip
        return Finding(
            kind="mapping.phase" if transformer == own else "mapping.transformer", subject_kind="usage_point",
            subject=index.unit_ids[unit], started_us=start * index.interval_s * 1_000_000, severity=Severity.INFO,
            confidence=float(np.clip(0.5 + fits[1] - fits[0], 0.5, 0.95)), detector=self.name,
            state=FindingState.OPENED if ended_us is None else FindingState.CLOSED, ended_us=ended_us,
            evidence=evidence,
        )  # fmt: skip

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The whole state."""
        known = [[unit, *place] for unit, place in sorted(self._known.items())]
        notes = {"next": self._next, "start": self._start, "chosen": self._chosen, "waiting": self._waiting,
                 "known": known}  # fmt: skip
        return {"window": self._window, "notes": np.frombuffer(orjson.dumps(notes), np.uint8)}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state."""
        notes = orjson.loads(arrays["notes"].tobytes())
        self._next, self._chosen = int(notes["next"]), list(notes["chosen"])
        self._lay_out()
        self._window[:] = arrays["window"]
        self._start, self._waiting = int(notes["start"]), list(notes["waiting"])
        self._known = {unit: (a, b, c, d) for unit, a, b, c, d in notes["known"]}


def _pieces(index: NetworkIndex) -> list[NDArray[np.int32]]:
    """Neighbourhoods as units sorted by transformer, cut between transformers where they are too large."""
    if not len(index.unit_ids):
        return []
    area, _ = areas(index)
    order = np.lexsort((index.transformer_of_unit, area[index.transformer_of_unit])).astype(np.int32)
    above = index.transformer_of_unit[order]
    first = np.flatnonzero(np.diff(above, prepend=-1))
    pieces, begin = [], 0
    for at in [*first[1:].tolist(), len(order)]:
        full = at - begin >= PIECE_UNITS_MAX
        if at == len(order) or full or area[above[at]] != area[above[begin]]:
            pieces.append(order[begin:at])
            begin = at
    return pieces
