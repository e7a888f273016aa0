"""Facts of days that are over, made again out of the lake.

A day is summed from all of its readings as the live sums would have summed them, under the same rules and the network
models of its time, so its facts have the values and versions that they would have if no reading had been late. Told
are those of units that a late reading belongs to; of the others nothing changed.

    notes -> days, usage points   one question
    a day -> readings             questions of some intervals each, so that memory does not grow with the utility
          -> LoadState -> Facts   peaks last, when the whole day is summed
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gridwire.capture import sql
from gridwire.columnar import cells
from gridwire.core.hubs import READINGS
from gridwire.grid.late import DAY_S, LateReadings, day_number
from gridwire.grid.placed import PlacedValidator
from gridwire.grid.placements import NOWHERE, Timeline
from gridwire.grid.reading_types import EXPORT_KWH, IMPORT_KWH
from gridwire.grid.state import Facts, LoadState
from gridwire.grid.validate import Measured, Reason, Rules

ROWS: Final = 2_000_000
"""About as many readings are looked at together."""

LOOKED_AT_MAX: Final = 500_000
"""Late readings of a day of which it is asked whose they are."""

NAMED_MAX: Final = 5_000
"""Usage points that a question names; of more it takes all there are."""

MEMORY_BYTES: Final = 2 * sql.MEMORY_BYTES

_COLUMNS: Final = f"""
    "partition", "offset", usage_point, epoch_us(ts_end) AS ts_end_us, value, scale, version,
    CASE WHEN reading_type = 'export_kwh' THEN {EXPORT_KWH} ELSE {IMPORT_KWH} END AS type,
    CASE WHEN quality = {sql.TAKEN_BACK} THEN {cells.TAKEN_BACK} WHEN quality >> 16 & 255 IN (8, 12) THEN
      {cells.ESTIMATED} WHEN quality >> 16 & 255 = 11 THEN {cells.DERIVED} ELSE {cells.MEASURED} END AS grade,
    epoch_ms(received_at) AS received_ms"""


def captured(lake: Path, notes: Sequence[LateReadings]) -> bool:
    """Whether the lake has every reading of the notes. Raises SqlError."""
    positions: Mapping[int, int] = {}
    for table in sql.tables(lake):
        if table.name == READINGS:
            positions = table.positions
    return all(positions.get(note.partition, 0) > note.last_offset for note in notes)


class Revision:
    """Facts that late readings change.

    Args:
        notes: what is late; the lake must have all of it.
        timeline: the network models in time.
    """

    def __init__(
        self, lake: Path, notes: Sequence[LateReadings], timeline: Timeline, rules: Rules | None = None
    ) -> None:
        self._lake, self._timeline, self._rules = lake, timeline, rules or Rules()
        self._interval_s = timeline.interval_s
        self._per_day = DAY_S // self._interval_s
        self._late = " OR ".join(f"({_condition(note)})" for note in notes)
        self.readings = 0
        """Late readings found so far."""

    def days(self) -> Iterator[list[Facts]]:
        """Facts of each day, in the order of time. Raises SqlError."""
        found = self._ask(
            f"SELECT epoch_us(ts_end) // {DAY_S * 1_000_000} AS day, count(*) AS n "
            f"FROM {_table(self._interval_s)} AND ({self._late}) GROUP BY day ORDER BY day"
        )
        for day, count in zip(found["day"].to_pylist(), found["n"].to_pylist(), strict=True):
            self.readings += count
            points = self._relatives(day, self._late_points(day)) if count <= LOOKED_AT_MAX else None
            if points is None or points:
                yield self._day(day, points)

    def _late_points(self, day: int) -> list[str]:
        """Usage points with late readings on a day, and one more than can be named if there are too many."""
        found = self._ask(
            f"SELECT DISTINCT usage_point FROM {_table(self._interval_s)} AND ({self._late}) "
            f"AND {_between(day * DAY_S, (day + 1) * DAY_S)} LIMIT {NAMED_MAX + 1}"
        )
        return list(found["usage_point"].to_pylist())

    def _relatives(self, day: int, points: list[str]) -> frozenset[str] | None:
        """Usage points that share a transformer or a feeder with one of these on that day; None: too many to name."""
        if len(points) > NAMED_MAX:
            return None
        units = self._timeline.numbering.units
        numbers = np.array([number for point in points if (number := units.find(point)) >= 0], np.int64)
        chosen = np.zeros(len(units), np.bool_)
        first = day * self._per_day
        for era in self._timeline.eras_between(first, first + self._per_day - 1):
            for column in self._timeline.numbering.unfolded(self._timeline.eras[era].placement):
                touched = np.unique(column[numbers[numbers < len(column)]])
                chosen[: len(column)] |= np.isin(column, touched[touched != NOWHERE])
        found = np.flatnonzero(chosen)
        return None if len(found) > NAMED_MAX else frozenset(units.text(number) for number in found.tolist())

    def _day(self, day: int, points: frozenset[str] | None) -> list[Facts]:
        """Facts of one day. `points`: those that have to be read for it; None: all."""
        state = LoadState(self._timeline, days=1)
        validator = PlacedValidator(self._timeline, self._rules)
        facts: list[Facts] = []
        for rows in self._readings(day, points):
            late_slots, late_points = self._apply(state, validator, rows)
            state.forget_changes()
            state.mark_units(late_slots, late_points)
            facts += state.collect()
            state.let_go_of_cells()
        return [replace(each, peaks=peaks, peak_slots=at) for each in facts for peaks, at in [state.peaks_of(each)]]

    def _readings(self, day: int, points: frozenset[str] | None) -> Iterator[pa.Table]:
        """Readings of energy of a day, some intervals at a time."""
        count = len(self._timeline.numbering.units) if points is None else len(points)
        named = "" if points is None else f" AND usage_point IN ({', '.join(map(_literal, sorted(points)))})"
        step = max(1, min(self._per_day, ROWS // max(1, count)))
        first = day * self._per_day
        for slot in range(first, first + self._per_day, step):
            end = min(slot + step, first + self._per_day)
            yield self._ask(
                f"SELECT {_COLUMNS}, ({self._late}) AS late FROM {_table(self._interval_s)} "
                f"AND {_between(slot * self._interval_s, end * self._interval_s)}{named}"
            )

    def _apply(
        self, state: LoadState, validator: PlacedValidator, rows: pa.Table
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Put readings into the state; slots and usage points of the late ones."""
        rows = rows.combine_chunks()
        columns = {
            name: rows[name].to_numpy() for name in rows.column_names if name not in ("usage_point", "late")
        }  # fmt: skip
        points = self._points(rows["usage_point"])
        order = np.lexsort((columns["offset"], columns["partition"]))
        columns = {name: column[order] for name, column in columns.items()}
        late, points = rows["late"].to_numpy()[order], points[order]
        found = validator.validate(_measured(columns, points, self._interval_s), columns["received_ms"])
        partitions, late = columns["partition"][found.rows], late[found.rows]
        bounds = np.searchsorted(partitions, np.arange(int(partitions.max(initial=-1)) + 2))
        for partition, (begin, end) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
            part = slice(begin, end)
            state.apply(
                partition, found.slots[part], found.points[part], found.channels[part], found.amounts[part],
                found.versions[part], None if found.grades is None else found.grades[part],
            )  # fmt: skip
        return found.slots[late], found.points[late]

    def _points(self, texts: pa.ChunkedArray) -> NDArray[np.int32]:
        array = texts.combine_chunks().cast(pa.large_binary())
        if not len(array):
            return np.zeros(0, np.int32)
        _, offsets, data = array.buffers()
        bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        found: NDArray[np.int32] = self._timeline.numbering.units.lookup(
            np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8),
            bounds[:-1], np.diff(bounds).astype(np.int32),
        )  # fmt: skip
        return found

    def _ask(self, question: str) -> pa.Table:
        return sql.arrow(self._lake, question, memory_bytes=MEMORY_BYTES)


def _measured(columns: Mapping[str, NDArray[Any]], points: NDArray[np.int32], interval_s: int) -> Measured:
    grades = columns["grade"].astype(np.uint8)
    return Measured(
        reasons=np.full(len(points), Reason.ACCEPTED, np.uint8),
        points=points,
        types=columns["type"].astype(np.int16),
        ts_end_us=columns["ts_end_us"].astype(np.int64),
        interval_s=np.full(len(points), interval_s, np.int32),
        mantissas=columns["value"].astype(np.int64),
        scales=columns["scale"].astype(np.int8),
        versions=columns["version"].astype(np.int64),
        grades=None if (grades == cells.MEASURED).all() else grades,
    )


def _table(interval_s: int) -> str:
    """Readings that sums are made of."""
    return (
        f"readings_raw WHERE usage_point IS NOT NULL AND reading_type IN ('import_kwh', 'export_kwh') "
        f"AND interval_s = {interval_s}"
    )


def _condition(note: LateReadings) -> str:
    """Which rows a note is about."""
    days = _between(day_number(note.first_day) * DAY_S, day_number(note.before_day) * DAY_S)
    return f'"partition" = {note.partition} AND "offset" BETWEEN {note.first_offset} AND {note.last_offset} AND {days}'


def _between(first_s: int, end_s: int) -> str:
    """Intervals that end from one time on, before another."""
    return f"ts_end >= make_timestamptz({first_s * 1_000_000}) AND ts_end < make_timestamptz({end_s * 1_000_000})"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
