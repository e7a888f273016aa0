"""Facts of days that are over, made again out of the lake.

A day is summed from all of its readings as the live sums would have summed them, under the same rules and the network
models of its time, so its facts have the values and versions that they would have if no reading had been late. Told
are those of units that a late reading belongs to; of the others nothing changed.

    notes -> days, usage points   one question
    a day -> readings             questions of some intervals each, so that memory does not grow with the utility
          -> LoadState -> Facts   peaks last, when the whole day is summed
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import structlog
from numpy.typing import NDArray

from gridwire.capture import sql
from gridwire.columnar import cells
from gridwire.core.hubs import READINGS
from gridwire.grid.late import LateReadings, day_number
from gridwire.grid.placed import PlacedValidator
from gridwire.grid.placements import NOWHERE, Timeline
from gridwire.grid.reading_types import EXPORT_KWH, IMPORT_KWH
from gridwire.grid.state import DAY_S, Facts, LoadState
from gridwire.grid.validate import Measured, Reason, Rules, Validated

log = structlog.get_logger(__name__)

ROWS: Final = 2_000_000
"""About as many readings are looked at together."""

LOOKED_AT_MAX: Final = 500_000
"""Late readings of which it is asked whose they are; with more, every day is told whole."""

NAMED_MAX: Final = 5_000
"""Usage points that a question names; of more it takes all there are."""

MEMORY_BYTES: Final = 2 * sql.MEMORY_BYTES

_DAY: Final = f"epoch_us(ts_end) // {DAY_S * 1_000_000}"

_COLUMNS: Final = f"""
    "partition", "offset", usage_point, epoch_us(ts_end) AS ts_end_us, value, scale, version,
    CASE WHEN reading_type = 'export_kwh' THEN {EXPORT_KWH} ELSE {IMPORT_KWH} END AS type,
    CASE WHEN quality = {sql.TAKEN_BACK} THEN {cells.TAKEN_BACK} ELSE {sql.GRADE} END AS grade,
    epoch_ms(received_at) AS received_ms"""


def captured(lake: Path, notes: Sequence[LateReadings]) -> bool:
    """Whether the lake has every reading of the notes. Raises SqlError."""
    positions: Mapping[int, int] = {}
    for table in sql.tables(lake):
        if table.name == READINGS:
            positions = table.positions
    return all(positions.get(note.partition, 0) > note.last_offset for note in notes)


@dataclass(frozen=True, slots=True)
class Day:
    """What is to be told of a day. `parts`: of feeders whose facts others make of parts, by partition of readings."""

    facts: list[Facts]
    parts: dict[int, list[Facts]]


@dataclass(frozen=True, slots=True)
class _Scope:
    """What of a day is to be told again.

    Args:
        feeders: numbers of those that are to be told in all of their intervals.
        models: under which the day was told before, where all of it is to be told again.
        points: usage points that have to be read for it; None: all.
    """

    day: int
    feeders: frozenset[int]
    models: tuple[Timeline, ...]
    points: frozenset[str] | None


class _Sums:
    """A day as it is summed up again: all readings, or those of one partition."""

    def __init__(self, timeline: Timeline, day: int) -> None:
        self.state = LoadState(timeline, days=1)
        self.state.open_day(day)
        self._facts: list[Facts] = []

    def tell(self, late: tuple[NDArray[np.int64], NDArray[np.int32]], slots: range, scope: _Scope) -> None:
        """Make facts of some intervals. `late`: slots and usage points of late readings."""
        self.state.forget_changes()
        for before in scope.models:
            for slot in slots:
                self.state.mark_changed(slot % self.state.per_day, before)
        self.state.mark_units(*late)
        self.state.mark_feeders(slots, scope.feeders)
        self._facts += self.state.collect()
        self.state.let_go_of_cells()

    def facts(self) -> list[Facts]:
        """All facts, with the peaks of the whole day."""
        told = ((each, *self.state.peaks_of(each)) for each in self._facts)
        return [replace(each, peaks=peaks, peak_slots=slots) for each, peaks, slots in told]


class Revision:
    """Facts that late readings change.

    Args:
        notes: what is late; the lake must have all of it.
        timeline: the network models in time.
        shared: facts of feeders above several transformers are made of parts, one of each partition: parts are told of
            them, but where a note says that it is too late for these, too.
    """

    def __init__(
        self, lake: Path, notes: Sequence[LateReadings], timeline: Timeline, rules: Rules | None = None, *,
        shared: bool = False, timeline_of: Callable[[int], Timeline | None] = lambda ordinal: None,
    ) -> None:  # fmt: skip
        self._lake, self._timeline, self._rules, self._shared = lake, timeline, rules or Rules(), shared
        self._timeline_of = timeline_of
        self._interval_s = timeline.interval_s
        self._per_day = DAY_S // self._interval_s
        late = [note for note in notes if note.is_of_readings]
        self._late = " OR ".join(f"({_condition(note)})" for note in late) or "false"
        self._late_partitions = {note.partition for note in late}
        self._feeders = self._noted_feeders(notes)
        self._model_notes = [note for note in notes if note.models_before >= 0]
        self.readings = 0
        """Late readings found so far."""

    def _noted_feeders(self, notes: Sequence[LateReadings]) -> dict[int, set[int]]:
        """Numbers of feeders by day."""
        number_of = {id: number for number, id in enumerate(self._timeline.numbering.feeder_ids)}
        found: dict[int, set[int]] = {}
        for note in notes:
            if note.feeder in number_of:
                for day in range(day_number(note.first_day), day_number(note.before_day)):
                    found.setdefault(day, set()).add(number_of[note.feeder])
        return found

    def days(self) -> Iterator[Day]:
        """What is to be told, day by day in the order of time. Raises SqlError."""
        count_of = self._counts()
        named = self._late_points() if sum(count_of.values()) <= LOOKED_AT_MAX else None
        models = self._models_by_day()
        for day in sorted(count_of.keys() | self._feeders.keys() | models.keys()):
            self.readings += count_of.get(day, 0)
            feeders = frozenset(self._feeders.get(day, ()))
            few = None if named is None or day in models else named.get(day, [])
            points = None if few is None else self._relatives(day, few, feeders)
            if points is None or points:
                yield self._day(_Scope(day, feeders, models.get(day, ()), points))

    def _models_by_day(self) -> dict[int, tuple[Timeline, ...]]:
        """Under which models days with readings were told before, where others hold for them now."""
        found: dict[int, dict[int, Timeline]] = {}
        for note in self._model_notes:
            before = self._timeline_of(note.models_before)
            if before is None or before.interval_s != self._interval_s:
                log.warning("models that facts were told under are not known any more", ordinal=note.models_before)
                continue
            days = self._ask(f"SELECT DISTINCT {_DAY} AS day FROM {_table(self._interval_s)} AND {_days(note)}")
            for day in days["day"].to_pylist():
                found.setdefault(day, {})[note.models_before] = before
        return {day: tuple(each.values()) for day, each in found.items()}

    def _counts(self) -> dict[int, int]:
        """Late readings of each day."""
        found = self._ask(
            f"SELECT {_DAY} AS day, count(*) AS n FROM {_table(self._interval_s)} AND ({self._late}) GROUP BY day"
        )
        return dict(zip(found["day"].to_pylist(), found["n"].to_pylist(), strict=True))

    def _late_points(self) -> dict[int, list[str]]:
        """Usage points with late readings on each day."""
        found = self._ask(
            f"SELECT {_DAY} AS day, array_agg(DISTINCT usage_point) AS points FROM {_table(self._interval_s)} "
            f"AND ({self._late}) GROUP BY day"
        )
        return dict(zip(found["day"].to_pylist(), found["points"].to_pylist(), strict=True))

    def _relatives(self, day: int, late: list[str], feeders: frozenset[int]) -> frozenset[str] | None:
        """Usage points of these feeders on that day, and those that share a transformer or a feeder with a late one;
        None: too many to name."""
        if len(late) > NAMED_MAX:
            return None
        units = self._timeline.numbering.units
        numbers = np.array([number for point in late if (number := units.find(point)) >= 0], np.int64)
        chosen = np.zeros(len(units), np.bool_)
        first = day * self._per_day
        for era in self._timeline.eras_between(first, first + self._per_day - 1):
            columns = self._timeline.numbering.unfolded(self._timeline.eras[era].placement)
            for column, more in zip(columns, ((), feeders), strict=True):
                touched = np.union1d(column[numbers[numbers < len(column)]], np.array([*more], np.int32))
                chosen[: len(column)] |= np.isin(column, touched[touched != NOWHERE])
        found = np.flatnonzero(chosen)
        return None if len(found) > NAMED_MAX else frozenset(units.text(number) for number in found.tolist())

    def _day(self, scope: _Scope) -> Day:
        validator = PlacedValidator(self._timeline, self._rules)
        whole = _Sums(self._timeline, scope.day)
        parts: dict[int, _Sums] = {}
        for slots, rows in self._readings(scope):
            found, partitions, late = self._judge(validator, rows)
            for number in np.unique(partitions).tolist():
                chosen = partitions == number
                _apply(whole.state, number, found, chosen)
                if self._shared and (scope.models or number in self._late_partitions):
                    if number not in parts:
                        parts[number] = _Sums(self._timeline, scope.day)
                    _apply(parts[number].state, number, found, chosen)
            whole.tell((found.slots[late], found.points[late]), slots, scope)
            for number, part in parts.items():
                its = late & (partitions == number)
                part.tell((found.slots[its], found.points[its]), slots, replace(scope, feeders=frozenset()))
        return Day(
            [each.only(self._is_told(each, scope)) for each in whole.facts()],
            {number: [each.only(self._is_in_parts(each)) for each in part.facts()] for number, part in parts.items()},
        )

    def _is_in_parts(self, facts: Facts) -> NDArray[np.bool_]:
        """Which of these others make of parts. **Shape** `[n]`."""
        if not self._shared or facts.kind != "feeder":
            return np.zeros(len(facts), np.bool_)
        found: NDArray[np.bool_] = self._timeline.pick("wide", facts.slots, facts.groups)
        return found

    def _is_told(self, facts: Facts, scope: _Scope) -> NDArray[np.bool_]:
        """Which of these are told as they are: not in parts, or of days whose parts are kept no more. **Shape**: n."""
        return ~self._is_in_parts(facts) | np.isin(facts.groups, [*scope.feeders])

    def _readings(self, scope: _Scope) -> Iterator[tuple[range, pa.Table]]:
        """Readings of energy of a day, some intervals at a time."""
        count = len(self._timeline.numbering.units) if scope.points is None else len(scope.points)
        texts = ", ".join(map(sql.literal, sorted(scope.points or ())))
        named = "" if scope.points is None else f" AND usage_point IN ({texts})"
        step = max(1, min(self._per_day, ROWS // max(1, count)))
        first = scope.day * self._per_day
        for slot in range(first, first + self._per_day, step):
            end = min(slot + step, first + self._per_day)
            yield (
                range(slot, end),
                self._ask(
                    f"SELECT {_COLUMNS}, ({self._late}) AS late FROM {_table(self._interval_s)} "
                    f"AND {_between(slot * self._interval_s, end * self._interval_s)}{named}"
                ),
            )

    def _judge(
        self, validator: PlacedValidator, rows: pa.Table
    ) -> tuple[Validated, NDArray[np.int32], NDArray[np.bool_]]:
        """Readings that are summed, in the order of offsets; the partition of each, and whether it is late."""
        rows = rows.combine_chunks()
        columns = {name: rows[name].to_numpy() for name in rows.column_names if name != "usage_point"}
        order = np.lexsort((columns["offset"], columns["partition"]))
        columns = {name: column[order] for name, column in columns.items()}
        points = self._points(rows["usage_point"])[order]
        found = validator.validate(_measured(columns, points, self._interval_s), columns["received_ms"])
        return found, columns["partition"][found.rows], columns["late"][found.rows].astype(np.bool_)

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


def _apply(state: LoadState, partition: int, found: Validated, chosen: NDArray[np.bool_]) -> None:
    state.apply(
        partition, found.slots[chosen], found.points[chosen], found.channels[chosen], found.amounts[chosen],
        found.versions[chosen], None if found.grades is None else found.grades[chosen],
    )  # fmt: skip


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
    first, last = note.first_offset, note.last_offset
    return f'"partition" = {note.partition} AND "offset" BETWEEN {first} AND {last} AND {_days(note)}'


def _days(note: LateReadings) -> str:
    return _between(day_number(note.first_day) * DAY_S, day_number(note.before_day) * DAY_S)


def _between(first_s: int, end_s: int) -> str:
    """Intervals that end from one time on, before another."""
    return f"ts_end >= make_timestamptz({first_s * 1_000_000}) AND ts_end < make_timestamptz({end_s * 1_000_000})"
