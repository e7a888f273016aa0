"""The second stage: facts of feeders above several transformers, out of the parts that each partition told.

    grid.feeder-parts -> newest part of each (feeder, interval, partition) -> sums -> grid.feeders

It is run by the same worker as the first stage, with lanes, commits and snapshots of the same kind: a lane is one
partition of the hub of parts, which has all parts of its feeders. Sums, counts and the highest value are those of the
parts together; a fact's version counts the readings that all parts have seen, as it does where one worker has the whole
hub. Parts of another network model than that of their interval are passed over. Those of a model that is not known here
yet wait for it: who tells parts may know of it first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from gridwire.broker.port import ColumnBatch, Output, Place
from gridwire.columnar import cells as kernels
from gridwire.grid.facts import HUB_OF_KIND, FactWriter
from gridwire.grid.late import LateNotes, note_of_part
from gridwire.grid.loads import LoadsSettings, fact_outputs, settings_fingerprint
from gridwire.grid.network import Network
from gridwire.grid.parts import Part
from gridwire.grid.placements import Timeline, first_difference
from gridwire.grid.state import DAY_S, GENERATION_STEP, Facts

DAYS: Final = 8
"""UTC days kept, or the window of readings if that is longer: how far one partition may be behind the others."""

AHEAD_MAX: Final = 50_000
"""Parts that wait for their model, 20 MB; with more of them the state is made again when it comes."""

_IMPORTED, _EXPORTED, _COUNT, _LARGEST, _SEEN, _ESTIMATED, _ESTIMATES, _FIELDS = range(8)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Day:
    """**Shape** `numbers[slots of a day, pairs, fields]`, `loads[1, feeders, slots]`, `changed[slots, feeders]`."""

    numbers: NDArray[np.int64]
    loads: NDArray[np.int64]
    changed: NDArray[np.bool_]


class FeederState:
    """Newest parts of the last days. A pure function of the parts applied. Memory: 56 bytes an interval and pair of a
    feeder and a partition it has readings in.
    """

    def __init__(self, timeline: Timeline, days: int) -> None:
        self.timeline = timeline
        self.days = max(days, DAYS)
        self.per_day = DAY_S // timeline.interval_s
        self.newest_day = -1
        self.silent = False
        self.too_old = 0
        self._feeders = len(timeline.numbering.feeder_ids)
        self._columns: dict[tuple[int, int], int] = {}
        self._room = 1
        self._days: dict[int, _Day] = {}
        self._leaving: list[Facts] = []

    def apply(self, feeder: int, part: Part) -> bool:
        """Take one part; what is older than the one that is known changes nothing. False: its day is kept no more."""
        day, within = divmod(part.slot, self.per_day)
        if day <= self.newest_day - self.days:
            self.too_old += 1
            return False
        if day > self.newest_day:
            self._open(day)
        column = self._column(feeder, part.part)  # may make room in every day
        numbers = self._day(day).numbers[within, column]
        if part.seen > numbers[_SEEN]:
            numbers[:] = (
                part.imported, part.exported, part.count, part.largest, part.seen, part.estimated, part.estimates
            )  # fmt: skip
            self._days[day].changed[within, feeder] = True
        return True

    def _open(self, day: int) -> None:
        self.newest_day = day
        for gone in sorted(each for each in self._days if each <= day - self.days):
            if not self.silent:
                self._leaving += self._collect(gone)
            del self._days[gone]

    def _day(self, day: int) -> _Day:
        if day not in self._days:
            shape = (self.per_day, self._feeders)
            self._days[day] = _Day(
                np.zeros((self.per_day, self._room, _FIELDS), np.int64),
                np.full((1, self._feeders, self.per_day), kernels.NO_LOAD, np.int64),
                np.zeros(shape, np.bool_),
            )
        return self._days[day]

    def _column(self, feeder: int, part: int) -> int:
        column = self._columns.setdefault((feeder, part), len(self._columns))
        if column >= self._room:
            for day in self._days.values():
                day.numbers = np.pad(day.numbers, ((0, 0), (0, self._room), (0, 0)))
            self._room *= 2
        return column

    def follow(self, timeline: Timeline, since: int) -> None:
        """Go on under other models; parts from this slot on were of models that do not hold any more."""
        self.timeline = timeline
        more = len(timeline.numbering.feeder_ids) - self._feeders
        self._feeders += more
        for number, day in self._days.items():
            day.loads = np.pad(day.loads, ((0, 0), (0, more), (0, 0)), constant_values=kernels.NO_LOAD)
            day.changed = np.pad(day.changed, ((0, 0), (0, more)))
            first = min(max(since - number * self.per_day, 0), self.per_day)
            day.numbers[first:] = 0
            day.loads[:, :, first:] = kernels.NO_LOAD
            day.changed[first:] = False

    def collect(self) -> list[Facts]:
        """Facts of every (feeder, interval) whose parts changed since the last call."""
        out, self._leaving = self._leaving, []
        for day in sorted(self._days):
            out += self._collect(day)
        return out

    def forget_changes(self) -> None:
        """Bring the loads up to date without telling: what changed was published before."""
        self.collect()

    def used_rows(self) -> list[int]:
        """Intervals that have a part."""
        return [
            number * self.per_day + within
            for number, day in sorted(self._days.items())
            for within in np.flatnonzero(day.numbers[:, :, _SEEN].any(axis=1)).tolist()
        ]

    def rows_since(self, slot: int) -> list[int]:
        """Intervals from this one on that have a part."""
        return [row for row in self.used_rows() if row >= slot]

    def mark(self, row: int) -> None:
        """Let the next `collect` tell every feeder that has a part in this interval."""
        number, within = divmod(row, self.per_day)
        day = self._days[number]
        for (feeder, _), column in self._columns.items():
            day.changed[within, feeder] |= day.numbers[within, column, _SEEN] > 0

    def mark_changed(self, row: int, before: Timeline) -> None:
        """As `mark`. What was told of a feeder that nothing hangs on any more is not withdrawn."""
        self.mark(row)

    def _collect(self, number: int) -> list[Facts]:
        day = self._days[number]
        within, feeders = np.nonzero(day.changed)
        if not len(within):
            return []
        day.changed[:] = False
        rows, at = np.unique(within, return_inverse=True)
        parts = day.numbers[rows]
        totals = np.zeros((len(rows), self._feeders, _FIELDS), np.int64)
        largest = np.zeros((len(rows), self._feeders), np.int64)
        for (feeder, _), column in self._columns.items():
            totals[:, feeder] += parts[:, column]
            np.maximum(largest[:, feeder], parts[:, column, _LARGEST], out=largest[:, feeder])
        sums = totals[at, feeders]
        imported, exported = sums[:, _IMPORTED], sums[:, _EXPORTED]
        day.loads[0, feeders, within] = imported - exported
        peaks, peak_at = np.empty(len(within), np.int64), np.empty(len(within), np.int64)
        kernels.day_peaks(day.loads, np.zeros(len(within), np.int64), feeders, peaks, peak_at)
        first = number * self.per_day
        versions = self.timeline.ordinals(first + within) * GENERATION_STEP + sums[:, _SEEN] - 1
        counts = sums[:, _COUNT].astype(np.int32)
        return [
            Facts(
                "feeder", feeders, first + within, imported, exported, counts, largest[at, feeders], peaks,
                first + peak_at, versions, sums[:, _ESTIMATED], sums[:, _ESTIMATES].astype(np.int32),
            )
        ]  # fmt: skip

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What a snapshot keeps; loads and peaks are made anew."""
        days, pairs = sorted(self._days), list(self._columns)
        numbers = [self._days[day].numbers[:, : len(pairs)] for day in days]
        return {
            "window": np.array([self.newest_day, self.days, self.per_day, self.too_old], np.int64),
            "days": np.array(days, np.int64),
            "pairs": np.array(pairs, np.int64).reshape(-1, 2),
            "numbers": np.array(numbers, np.int64).reshape(len(days), self.per_day, len(pairs), _FIELDS),
        }

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `to_arrays` of a state of the same network gave. Raises ValueError: another window."""
        newest, days, per_day, too_old = (int(number) for number in arrays["window"])
        if (days, per_day) != (self.days, self.per_day):
            raise ValueError("snapshot of another window")
        self.newest_day, self.too_old = newest, too_old
        for feeder, part in arrays["pairs"].tolist():
            self._column(feeder, part)
        for day, numbers in zip(arrays["days"].tolist(), arrays["numbers"], strict=True):
            self._day(day).numbers[:, : numbers.shape[1]] = numbers
        for row in self.used_rows():
            self.mark(row)
        self.forget_changes()


class FeederSums:
    """Parts in, facts of feeders out; see `gridwire.grid.lane.Pipeline`.

    Args:
        timeline: the models in time; None: `network` always holds, as the model of this `generation`.
    """

    def __init__(
        self, network: Network, settings: LoadsSettings, generation: int = 0, part: int | None = None,
        timeline: Timeline | None = None,
    ) -> None:  # fmt: skip
        timeline = timeline or Timeline.of(network, generation)
        self._settings = settings
        self.state = FeederState(timeline, settings.days)
        self._decode = msgspec.json.Decoder(Part).decode
        self._late = LateNotes()
        self._ahead: list[Part] = []
        self._lost_ahead = False
        self._facts = self._applied = self._passed_over = self._unreadable = 0
        self._go_by(timeline)

    def _go_by(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.fingerprint = f"feeders {settings_fingerprint(self._settings)} {timeline.fingerprint}"
        self._feeder_at = {id: number for number, id in enumerate(timeline.numbering.feeder_ids)}
        self._writer = FactWriter(timeline)

    def follow(self, timeline: Timeline) -> bool:
        """Go on under other models; False when only reading all parts again can give what they would have given."""
        before = self._timeline
        if timeline.numbering is not before.numbering or timeline.interval_s != before.interval_s or self._lost_ahead:
            return False
        since = first_difference(before.key, timeline.key)
        self._go_by(timeline)
        if since is not None:
            self.state.follow(timeline, since)
        waiting, self._ahead = self._ahead, []
        for part in waiting:
            self._take_part(part)
        return True

    def take(
        self, batches: Sequence[ColumnBatch], publish: bool = True, behind: Collection[Place] = ()
    ) -> dict[Place, int]:
        """Apply parts in order. Returns the offset of the first event of each place that has not been applied."""
        self.state.silent = not publish
        before = self.state.too_old
        for batch in batches:
            for row in range(len(batch.columns)):
                self._take(batch.columns.value(row) or b"")
        if publish and self.state.too_old > before and not self._settings.tell_late:
            log.warning(
                "a partition of readings is behind the others by more days than feeders are summed for",
                parts=self.state.too_old - before, days=self.state.days,
            )  # fmt: skip
        return {(batch.hub, batch.partition): batch.next_offset for batch in batches}

    def _take(self, value: bytes) -> None:
        try:
            part = self._decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._unreadable += 1
            return
        self._take_part(part)

    def _take_part(self, part: Part) -> None:
        if part.model > self._timeline.ordinal:
            self._lost_ahead |= len(self._ahead) >= AHEAD_MAX
            if not self._lost_ahead:
                self._ahead.append(part)
            return
        feeder = self._feeder_at.get(part.feeder)
        if feeder is None or part.model != self._timeline.era_at(part.slot).ordinal:
            self._passed_over += 1
            return
        self._applied += 1
        if not self.state.apply(feeder, part) and self._settings.tell_late and not self.state.silent:
            self._late.add(note_of_part(part.part, part.until, part.feeder, part.slot // self.state.per_day))

    def recall(self, batches: Sequence[ColumnBatch]) -> None:
        """Nothing: facts follow from what was read alone."""

    def idle(self, now_ms: int) -> None:
        """Nothing: facts do not change by themselves."""

    def outputs(self, now_ms: int, partitions: Callable[[str], int]) -> list[Output]:
        """Facts that changed since the last call."""
        outputs: list[Output] = []
        for facts in self.state.collect():
            self._facts += len(facts)
            outputs += fact_outputs(self._writer, facts, now_ms, partitions(HUB_OF_KIND[facts.kind]))
        return outputs + self._late.drain(now_ms)

    def counters(self) -> dict[str, int]:
        """Everything counted, by name, since the start of the state, rebuilds included."""
        return {
            "facts": self._facts, "parts_applied": self._applied, "parts_passed_over": self._passed_over,
            "parts_unreadable": self._unreadable, "parts_too_old": self.state.too_old,
        }  # fmt: skip

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """State for a snapshot."""
        return self.state.to_arrays() | {
            "ahead": np.frombuffer(msgspec.json.encode(self._ahead), np.uint8),
            "lost_ahead": np.array([self._lost_ahead]),
        }

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a snapshot. Raises ValueError or KeyError when it does not fit."""
        self.state.from_arrays(arrays)
        self._ahead = msgspec.json.decode(arrays["ahead"].tobytes(), type=list[Part])
        self._lost_ahead = bool(arrays["lost_ahead"][0])
