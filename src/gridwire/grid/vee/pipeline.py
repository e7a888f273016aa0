"""From readings to verdicts and estimates: the VEE stage's pipeline, in the lanes of `gridwire.grid.lane`.

    ColumnBatch -> decode_readings -> Validator -> VeeState -> Changes -> verdicts   hub grid.vee
                                                                      -> estimates  hub readings

Estimates go where the readings are, into the partition of their usage point, as readings of a quality that says so
(docs/decisions/0045). The stage knows its own by that quality when it reads them again, and never builds on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridwire.broker.port import ColumnBatch, Output, Place
from gridwire.columnar import cells as grades
from gridwire.columnar import slots as marks
from gridwire.core.batch import Event
from gridwire.grid import reading_types
from gridwire.grid.day_order import DayOrder
from gridwire.grid.loads import LoadsSettings, measure
from gridwire.grid.meter_event import KINDS, METER_EVENTS_HUB
from gridwire.grid.network import Network, digest
from gridwire.grid.reading_types import READING_TYPES, Accumulation
from gridwire.grid.readings import READINGS_HUB, ReadingColumns, decode_readings, qualities
from gridwire.grid.validate import Measured, Reason, Validator, to_milliwatt_hours
from gridwire.grid.vee.calendar import DAY_LENGTHS_S
from gridwire.grid.vee.events import VERDICTS_HUB, VeeWriter
from gridwire.grid.vee.rules import VALIDATION
from gridwire.grid.vee.state import DERIVED, Changes, VeeState
from gridwire.grid.watch.base import SeenEvents
from gridwire.grid.watch.seen import Decoders

_LAST_GASP, _POWER_RESTORED = KINDS.index("LAST_GASP"), KINDS.index("POWER_RESTORED")

_POWER_QUALITY = 2
"""Quality category of a reading during whose interval power failed."""

_OWN_SYSTEM = 3
_OWN_CATEGORIES = (8, 11)
"""Quality of what this stage tells itself: estimated, derived."""

_MARKS_OF_REASON = np.zeros(len(Reason), np.uint8)
_MARKS_OF_REASON[Reason.NEGATIVE_VALUE] = marks.NEGATIVE
_MARKS_OF_REASON[Reason.IMPLAUSIBLE_VALUE] = marks.IMPLAUSIBLE

_MOMENTARY = np.zeros(max(reading_types.BY_ID) + 2, bool)
_REGISTER = np.zeros(max(reading_types.BY_ID) + 2, bool)
for _row in READING_TYPES:
    _MOMENTARY[_row.id] = _row.accumulation is Accumulation.INSTANTANEOUS
    _REGISTER[_row.id] = _row.accumulation is Accumulation.REGISTER


class VeePipeline:
    """Readings in, verdicts and estimates out, for one network model; see `gridwire.grid.lane.Pipeline`.

    Args:
        part: the one partition whose readings these are; None: all readings come here.
    """

    def __init__(
        self, network: Network, settings: LoadsSettings | None = None, generation: int = 0, part: int | None = None
    ) -> None:
        settings = settings or LoadsSettings()
        index = network.index()
        self.fingerprint = f"vee {digest(network).hex()} {settings.days} {settings.rules}"
        self.state = VeeState(network, index, settings.days)
        self._points = index.points()
        self._validator = Validator(index, settings.rules)
        self._events = Decoders(index, settings.rules)
        self._interval_s = index.interval_s
        channels = self.state.channels
        self._first_channel = np.full(len(index.unit_ids) + 1, -1, np.int32)
        self._first_channel[channels.points[: channels.energies][::-1]] = np.arange(channels.energies)[::-1]
        self._partition_of_point = np.full(len(index.unit_ids) + 1, -1, np.int32)
        self._partition_of_transformer = np.full(len(index.transformer_ids), -1, np.int32)
        self._transformer_of_point = np.append(index.transformer_of_unit, 0)
        self._writer = VeeWriter(index, self.state.channels, generation)
        self.order = DayOrder(settings.days)
        self.totals: Counter[str] = Counter()
        self.failures = np.zeros(len(VALIDATION), np.int64)

    # -- in --------------------------------------------

    def take(
        self, batches: Sequence[ColumnBatch], publish: bool = True, behind: Collection[Place] = ()
    ) -> dict[Place, int]:
        """Apply batches, day by day over all partitions as `LoadsPipeline.take` does.

        Returns:
            The offset of the first event of each place that has not been applied.
        """
        self.state.silent = not publish
        positions: dict[Place, int] = {}
        for batch in batches:
            if batch.hub == METER_EVENTS_HUB:
                self._take_events(batch)
                positions[batch.hub, batch.partition] = batch.next_offset
        stretches = [stretch for batch in batches if batch.hub == READINGS_HUB for stretch in self._stretches(batch)]
        return positions | self.order.take(stretches, behind, self._apply)

    def recall(self, batches: Sequence[ColumnBatch]) -> None:
        """Nothing that was published is needed to go on."""

    def idle(self, now_ms: int) -> None:
        """Time is what readings say it is."""

    def _take_events(self, batch: ColumnBatch) -> None:
        seen, _ = self._events.decode(batch, batch.columns.timestamps * 1000)
        assert isinstance(seen, SeenEvents)
        rows = np.flatnonzero(np.isin(seen.kinds, (_LAST_GASP, _POWER_RESTORED)))
        self.state.power(seen.points[rows].astype(np.int64), seen.ts_us[rows], seen.kinds[rows] == _POWER_RESTORED)

    def _stretches(self, batch: ColumnBatch) -> list[_Stretch]:
        """Cut a batch where its newest day so far rises."""
        put = self._read(batch)
        place = (batch.hub, batch.partition)
        cuts, days = self.order.cut(place, put.slots // self.state.per_day)
        offsets = batch.columns.offsets
        out = []
        begin = int(offsets[0]) if len(offsets) else batch.next_offset
        for number, (day, cut) in enumerate(zip(days, cuts, strict=True)):
            last = number == len(cuts) - 1
            stop = len(put.slots) if last else cuts[number + 1]
            end = batch.next_offset if last else int(offsets[put.rows[stop]])
            if end > begin or last:
                out.append(_Stretch(place, day, begin, end, put.only(cut, stop)))
            begin = end
        return out

    def _apply(self, stretch: _Stretch) -> None:
        put, partition = stretch.put, stretch.place[1]
        if not len(put.slots):
            return
        points = self.state.channels.points[put.channels]
        self._partition_of_point[points] = partition
        self._partition_of_transformer[self._transformer_of_point[points]] = partition
        self.totals["readings"] += len(put.slots)
        self.state.apply(partition, put.slots, put.channels, put.amounts, put.ranks, put.bits)

    def _read(self, batch: ColumnBatch) -> _Put:
        """What of a batch concerns an expected channel."""
        readings = decode_readings(batch.columns)
        measured = measure(readings, self._points)
        found = self._validator.validate(measured, batch.columns.timestamps)
        channels = self.state.channels.at[measured.points, measured.types]
        slots = measured.ts_end_us // (self._interval_s * 1_000_000)
        bits = _MARKS_OF_REASON[found.reasons]
        good = found.reasons == Reason.ACCEPTED
        plain = (channels >= 0) & good & self._fits(measured, slots)
        others = np.flatnonzero(~plain & (measured.points >= 0) & (measured.types >= 0))
        self._mark_others(others, measured, good, channels, bits)
        ranks = grades.ranks(measured.versions.astype(np.int16), None)
        amounts = np.full(len(slots), marks.ONLY_MARKS, np.int64)
        self._put_amounts(np.flatnonzero(plain), measured, amounts)
        if (quality := qualities(readings)) is not None:
            self._judge_quality(quality, readings, bits, ranks, amounts)
        rows = np.flatnonzero(plain | ((channels >= 0) & (bits != 0)))
        return _Put(rows, slots[rows], channels[rows], amounts[rows], ranks[rows], bits[rows])

    def _fits(self, measured: Measured, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Registers at the end of an interval, energies of the model's interval."""
        aligned = slots * (self._interval_s * 1_000_000) == measured.ts_end_us
        out: NDArray[np.bool_] = aligned & (_REGISTER[measured.types] | (measured.interval_s == self._interval_s))
        return out

    def _mark_others(
        self, rows: NDArray[np.int64], measured: Measured, good: NDArray[np.bool_], channels: NDArray[np.int32],
        bits: NDArray[np.uint8],
    ) -> None:  # fmt: skip
        """Marks of what has no cell of its own, in place: wrong lengths and types."""
        if not len(rows):
            return
        types, unknown = measured.types[rows], channels[rows] < 0
        energy = ~_MOMENTARY[types] & ~_REGISTER[types]
        lengths = measured.interval_s[rows]
        legal = np.isin(lengths, (self._interval_s, *DAY_LENGTHS_S))
        bits[rows[energy & ~unknown & ~legal]] |= marks.WRONG_LENGTH
        bits[rows[energy & unknown & good[rows]]] |= marks.WRONG_UNIT
        astray = rows[unknown & energy]
        channels[astray] = self._first_channel[measured.points[astray]]

    def _put_amounts(self, rows: NDArray[np.int64], measured: Measured, amounts: NDArray[np.int64]) -> None:
        registers = _REGISTER[measured.types[rows]]
        energy, counters = rows[~registers], rows[registers]
        amounts[energy] = to_milliwatt_hours(measured.mantissas[energy], measured.scales[energy])
        if len(counters):  # whole watt-hours; finer digits fall away, so that differences do not drift
            finer = to_milliwatt_hours(measured.mantissas[counters], measured.scales[counters])
            amounts[counters] = np.where(finer // 1000 <= grades.AMOUNT_MAX, finer // 1000, marks.ONLY_MARKS)

    def _judge_quality(
        self, quality: NDArray[np.uint32], readings: ReadingColumns, bits: NDArray[np.uint8], ranks: NDArray[np.int32],
        amounts: NDArray[np.int64],
    ) -> None:  # fmt: skip
        """Estimates and power failures, in place; our own words are never built on."""
        category = quality >> 16 & 255
        bits[category == _POWER_QUALITY] |= marks.POWER_FAILURE
        grade = readings.grade
        if grade is None:
            return
        own = (quality >> 24 == _OWN_SYSTEM) & np.isin(category, _OWN_CATEGORIES)
        low = own | (grade == grades.ESTIMATED) | (grade == grades.TAKEN_BACK)
        version = ranks & grades.VERSION_MAX
        ranks[:] = np.where(low, version, version | grade.astype(np.int32) << grades.VERSION_BITS)
        amounts[(grade == grades.TAKEN_BACK) & (amounts >= 0)] = -1

    # -- out --------------------------------------------

    def outputs(self, now_ms: int, partitions: Callable[[str], int]) -> list[Output]:
        """Verdicts and estimates that changed since the last call."""
        out: dict[Place, list[Event]] = {}
        for changes in self.state.collect():
            self._count(changes)
            self._tell(changes, now_ms, partitions, out)
        return [Output(hub, partition, events) for (hub, partition), events in sorted(out.items())]

    def _count(self, changes: Changes) -> None:
        self.totals["verdicts"] += len(changes)
        for rule in VALIDATION:
            self.failures[rule.bit] += int(np.count_nonzero(changes.failed >> np.uint32(rule.bit) & np.uint32(1)))
        derived = changes.methods == DERIVED
        self.totals["estimates"] += int(np.count_nonzero(changes.sent & ~derived))
        self.totals["derived"] += int(np.count_nonzero(changes.sent & derived))
        self.totals["taken_back"] += int(np.count_nonzero(changes.taken_back))

    def _tell(
        self, changes: Changes, now_ms: int, partitions: Callable[[str], int], out: dict[Place, list[Event]]
    ) -> None:  # fmt: skip
        points = self.state.channels.points[changes.channels]
        transformers = self._transformer_of_point[points]
        homes = np.where(
            self._partition_of_point[points] >= 0, self._partition_of_point[points],
            self._partition_of_transformer[transformers],
        ).tolist()  # fmt: skip
        verdicts = partitions(VERDICTS_HUB)
        for row, event in enumerate(self._writer.verdicts(changes, now_ms)):
            out.setdefault((VERDICTS_HUB, int(transformers[row]) % verdicts), []).append(event)
        for row, event in self._writer.readings(changes, now_ms):
            out.setdefault((READINGS_HUB, max(homes[row], 0)), []).append(event)

    def counters(self) -> dict[str, int]:
        """Everything counted, by name, since the start of the state, rebuilds included."""
        names = ("readings", "verdicts", "estimates", "derived", "taken_back")
        out = {f"vee_{name}": self.totals[name] for name in names} | {"vee_storms": self.state.storms}
        out |= {f"vee_window_{name}": count for name, count in self.state.window_counts.items()}
        return out | {f"vee_failed_{rule.name}": int(self.failures[rule.bit]) for rule in VALIDATION}

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """State for a snapshot."""
        return self.state.to_arrays() | {
            "partition_of_point": self._partition_of_point,
            "partition_of_transformer": self._partition_of_transformer,
        }

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a snapshot. Raises ValueError or KeyError when it does not fit."""
        self._partition_of_point[:] = arrays["partition_of_point"]
        self._partition_of_transformer[:] = arrays["partition_of_transformer"]
        self.state.from_arrays(arrays)
        self.totals.clear()
        self.failures[:] = 0


class _Put:
    """Readings to be put into the state. **Shape** each `[m]`; `rows` in their batch."""

    __slots__ = ("amounts", "bits", "channels", "ranks", "rows", "slots")

    def __init__(
        self, rows: NDArray[np.int64], slots: NDArray[np.int64], channels: NDArray[np.int32],
        amounts: NDArray[np.int64], ranks: NDArray[np.int32], bits: NDArray[np.uint8],
    ) -> None:  # fmt: skip
        self.rows, self.slots, self.channels = rows, slots, channels
        self.amounts, self.ranks, self.bits = amounts, ranks, bits

    def only(self, begin: int, end: int) -> _Put:
        part = slice(begin, end)
        return _Put(
            self.rows[part], self.slots[part], self.channels[part], self.amounts[part], self.ranks[part],
            self.bits[part],
        )  # fmt: skip


class _Stretch:
    """What of a batch may be applied together: none of it is of a day after `day`."""

    __slots__ = ("day", "first_offset", "next_offset", "place", "put")

    def __init__(self, place: Place, day: int, first_offset: int, next_offset: int, put: _Put) -> None:
        self.place, self.day, self.put = place, day, put
        self.first_offset, self.next_offset = first_offset, next_offset
