"""From readings to facts: decode, validate, put into the state, and tell what changed.

    ColumnBatch -> decode_readings -> Validator -> LoadState -> Facts -> Output
                         |                |            |
                         +---- rejected --+------------+-> quarantine, raw bytes with the reason

`LoadsPipeline` holds no position and does no I/O; `gridwire.grid.worker` feeds it and commits what it returns.

Nothing is dropped silently. A rejected reading goes to the hub `quarantine` as the bytes it came in. A flood of them is
bounded per commit: what exceeds the bound is told by one summary event per partition, with a count for each reason and
the offsets between which the readings still lie in their hub. A reading that is good and only too late for the window
is told in a note instead, where somebody sums such days again out of the lake (`tell_late`, see `gridwire.grid.late`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from gridwire.broker.port import ColumnBatch, Output, Place
from gridwire.columnar import cells
from gridwire.columnar.columns import EventColumns
from gridwire.columnar.text_index import TextIndex
from gridwire.core.batch import Event
from gridwire.core.limits import MIB
from gridwire.grid.day_order import DayOrder
from gridwire.grid.facts import HUB_OF_KIND, FactWriter
from gridwire.grid.late import LateNotes, note_of, note_of_models
from gridwire.grid.network import Network, digest
from gridwire.grid.parts import PARTS_HUB, PartWriter
from gridwire.grid.placed import PlacedValidator
from gridwire.grid.placements import Timeline, first_difference
from gridwire.grid.readings import QUARANTINE_HUB, ReadingColumns, Status, decode_readings
from gridwire.grid.state import Facts, LoadState
from gridwire.grid.validate import EARLIEST_US, Measured, Reason, Rules, Validated

QUARANTINE_EVENT_BYTES_MAX: Final = MIB
"""Largest rejected reading that is copied; a larger one is only told of, since the hub may refuse it."""

_REASON_OF_STATUS: Final = np.zeros(len(Status), np.uint8)
_REASON_OF_STATUS[Status.NOT_A_READING] = Reason.MALFORMED
_REASON_OF_STATUS[Status.UNKNOWN_TYPE] = Reason.UNKNOWN_READING_TYPE
_REASON_OF_STATUS[Status.BAD_INTERVAL] = Reason.BAD_INTERVAL
_REASON_OF_STATUS[Status.NO_USAGE_POINT] = Reason.UNKNOWN_USAGE_POINT

_TOTALS: Final = ("facts", "quarantined", "quarantine_overflow", "readings_late")
_OUTCOME_NAMES: Final = ("new", "replaced", "duplicate", "superseded", "too_old")


@dataclass(frozen=True, slots=True)
class LoadsSettings:
    """What can be set.

    Args:
        days: UTC days in the window, today included: late readings count for at least `days - 1` days.
        rules: what is believed of a reading.
        quarantine_events_max, quarantine_bytes_max: rejected readings published in one commit.
        directory: for a file of what is too large to be kept in memory.
        tell_late: readings that are too old for the window are told in the hub `grid.late`; else they are rejected.
    """

    days: int = 2
    rules: Rules = field(default_factory=Rules)
    quarantine_events_max: int = 5_000
    quarantine_bytes_max: int = 8 * MIB
    directory: Path | None = None
    tell_late: bool = False


class _Overflow(msgspec.Struct, kw_only=True):
    """The value of a summary event: what a flood kept out of the quarantine, and where it still lies."""

    hub: str
    partition: int
    first_offset: int
    last_offset: int
    count: int
    reasons: dict[str, int]


class Quarantine:
    """Rejected readings of one commit, up to its bounds."""

    def __init__(self, events_max: int, bytes_max: int) -> None:
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._events: dict[int, list[Event]] = {}
        self._overflow: dict[Place, _Overflow] = {}
        self._count = 0
        self._size_bytes = 0

    def add(self, batch: ColumnBatch, rows: list[int], reason_of: Callable[[int], tuple[Reason, str]]) -> None:
        """Keep these rows of a batch, or count them when the bounds are reached."""
        for row in rows:
            reason, detail = reason_of(row)
            size_bytes = int(batch.columns.value_lengths[row])
            full = self._count >= self._events_max or self._size_bytes >= self._bytes_max
            if full or size_bytes > QUARANTINE_EVENT_BYTES_MAX:
                self._count_only(batch, row, reason)
                continue
            offset = int(batch.columns.offsets[row])
            text = f"{reason.text}: {detail}" if detail else reason.text
            event = Event(
                batch.columns.value(row),
                batch.columns.key(row),
                _headers(text, f"{batch.hub}/{batch.partition}@{offset}"),
            )
            self._events.setdefault(batch.partition, []).append(event)
            self._count += 1
            self._size_bytes += max(0, size_bytes)

    def _count_only(self, batch: ColumnBatch, row: int, reason: Reason) -> None:
        offset = int(batch.columns.offsets[row])
        place = (batch.hub, batch.partition)
        kept = self._overflow.get(place)
        if kept is None:
            kept = self._overflow[place] = _Overflow(
                hub=batch.hub, partition=batch.partition, first_offset=offset, last_offset=offset, count=0, reasons={}
            )
        kept.first_offset, kept.last_offset = min(kept.first_offset, offset), max(kept.last_offset, offset)
        kept.count += 1
        kept.reasons[reason.text] = kept.reasons.get(reason.text, 0) + 1

    def drain(self, now_ms: int, partitions: int) -> tuple[list[Output], int, int]:
        """(outputs, events kept, events only counted) since the last call."""
        outputs = [
            Output(QUARANTINE_HUB, partition % partitions, [Event(e.value, e.key, e.headers, now_ms) for e in events])
            for partition, events in sorted(self._events.items())
        ]
        for overflow in self._overflow.values():
            source = f"{overflow.hub}/{overflow.partition}@{overflow.first_offset}-{overflow.last_offset}"
            text = f"flood: {overflow.count} more rejected readings, left in their hub"
            event = Event(msgspec.json.encode(overflow), None, _headers(text, source, "summary"), now_ms)
            outputs.append(Output(QUARANTINE_HUB, overflow.partition % partitions, (event,)))
        kept, counted = self._count, sum(overflow.count for overflow in self._overflow.values())
        self._events, self._overflow, self._count, self._size_bytes = {}, {}, 0, 0
        return outputs, kept, counted


def _headers(reason: str, source: str, format: str = "reading") -> tuple[tuple[str, bytes | None], ...]:
    return (("reason", reason.encode()), ("format", format.encode()), ("source", source.encode()))


def fingerprint(network: Network, settings: LoadsSettings) -> str:
    """What a snapshot must agree on to be of use: the model and every setting that shapes the state."""
    return hashlib.sha256(digest(network) + b"\0" + settings_fingerprint(settings).encode()).hexdigest()


def settings_fingerprint(settings: LoadsSettings) -> str:
    """Of every setting that shapes the state."""
    return f"{settings.days} {settings.rules}"


@dataclass(frozen=True, slots=True)
class _Judged:
    """A batch, decoded and validated. `refused`: rows and slots of what another model may let pass."""

    batch: ColumnBatch
    readings: ReadingColumns
    found: Validated
    refused: tuple[NDArray[np.int64], NDArray[np.int64]]

    def explain(self, row: int) -> tuple[Reason, str]:
        detail = self.readings.reason(row) if self.readings.status[row] else ""
        return Reason(int(self.found.reasons[row])), detail


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Rows `[begin, end)` of a batch, of which the readings `[first, stop)` are to be summed; none is of a day after
    `day`."""

    judged: _Judged
    day: int
    begin: int
    end: int
    first: int
    stop: int

    @property
    def place(self) -> Place:
        return self.judged.batch.hub, self.judged.batch.partition

    @property
    def first_offset(self) -> int:
        return self._offset(self.begin)

    @property
    def next_offset(self) -> int:
        return self._offset(self.end)

    def _offset(self, row: int) -> int:
        columns = self.judged.batch.columns
        return int(columns.offsets[row]) if row < len(columns) else self.judged.batch.next_offset


class LoadsPipeline:
    """Readings in, facts and rejected readings out, each interval under the network model of its time.

    Args:
        network: the model that holds, where there is no `timeline`. generation: its ordinal, see
            `state.GENERATION_STEP`.
        part: the one partition whose readings these are; of feeders that have readings in others, parts are told
            instead of facts. None: all readings come here.
        timeline: the models in time.
    """

    def __init__(
        self, network: Network, settings: LoadsSettings | None = None, generation: int = 0, part: int | None = None,
        timeline: Timeline | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings or LoadsSettings()
        self._timeline = timeline or Timeline.of(network, generation)
        self.fingerprint = settings_fingerprint(self.settings)
        # One of several parts has a column for each usage point, too, and uses few: a file would take room for all.
        self.state = LoadState(self._timeline, self.settings.days, self.settings.directory if part is None else None)
        self._points = self._timeline.numbering.units
        self._validator = PlacedValidator(self._timeline, self.settings.rules)
        self._part = part
        self._until = 0
        """Offset of the first reading that has not been applied, of the one partition of a part."""
        self._make_writers()
        self._quarantine = Quarantine(self.settings.quarantine_events_max, self.settings.quarantine_bytes_max)
        self._late = LateNotes()
        self.rejected = np.zeros(len(Reason), np.int64)
        self.not_summed = 0
        self.order = DayOrder(self.settings.days)
        self.totals: Counter[str] = Counter()

    def _make_writers(self) -> None:
        self._writer = FactWriter(self._timeline)
        self._parts = None if self._part is None else PartWriter(self._timeline, self._part)

    def follow(self, timeline: Timeline) -> bool:
        """Go on under other models without reading anything again. What they change is told when it is marked.

        Returns:
            False when only reading again can give what these models would have given: the interval is another one, or a
            reading was judged by a model that does not hold any more for its interval. The pipeline is of no use then.
        """
        if timeline.numbering is not self._timeline.numbering or timeline.interval_s != self._timeline.interval_s:
            return False
        since = first_difference(self._timeline.key, timeline.key)
        self._timeline = timeline
        self._validator.follow(timeline)
        if since is None:
            return True
        if self._validator.refused_slot >= since:
            return False
        self.state.follow(timeline)
        self._make_writers()
        return not self._any_too_much(since)

    def tell_models(self, before: Timeline) -> None:
        """Let the days that have left the window be told again, where these models are others for them than before."""
        state, since = self.state, first_difference(before.key, self._timeline.key)
        window_day = state.newest_day - state.days + 1
        if not self.settings.tell_late or since is None or state.newest_day < 0:
            return
        first_day = max(since, EARLIEST_US // (self._timeline.interval_s * 1_000_000)) // state.per_day
        if first_day < window_day:
            self._late.add(note_of_models(self._part or 0, before.ordinal, first_day, window_day))

    def _any_too_much(self, since: int) -> bool:
        """Whether an amount that was accepted is more than its usage point can take where it hangs now."""
        for row in self.state.rows_since(since):
            slot = int(self.state.slot_of_row(np.array([row], np.int64))[0])
            if self._validator.too_much(slot, *self.state.amounts_of(row)):
                return True
        return False

    def take(
        self, batches: Sequence[ColumnBatch], publish: bool = True, behind: Collection[Place] = ()
    ) -> dict[Place, int]:
        """Apply batches of the hub `readings`, day by day over all partitions, see `DayOrder`.

        Args:
            publish: False while a rebuild repeats what was published before.
            behind: places with more of a backlog to come.

        Returns:
            The offset of the first event of each place that has not been applied.
        """
        self.state.silent = not publish
        stretches = [stretch for batch in batches for stretch in self._stretches(batch)]
        positions = self.order.take(stretches, behind, lambda stretch: self._apply(stretch, publish))
        self._until = max(positions.values(), default=self._until)
        return positions

    def _stretches(self, batch: ColumnBatch) -> Iterator[_Stretch]:
        """Cut a batch where its newest day so far rises."""
        readings = decode_readings(batch.columns)
        found = self._validator.validate(measure(readings, self._points), batch.columns.timestamps)
        judged = _Judged(batch, readings, found, self._validator.refused)
        cuts, days = self.order.cut((batch.hub, batch.partition), found.slots // self.state.per_day)
        ends = [*(int(found.rows[cut]) for cut in cuts[1:]), len(batch.columns)]
        begin = 0
        for day, cut, stop, end in zip(days, cuts, [*cuts[1:], len(found.rows)], ends, strict=True):
            if end > begin or len(batch.columns) == 0:
                yield _Stretch(judged, day, begin, end, cut, stop)
            begin = end

    def _apply(self, stretch: _Stretch, publish: bool) -> None:
        batch, found, chosen = stretch.judged.batch, stretch.judged.found, slice(stretch.first, stretch.stop)
        outcomes = self.state.apply(
            batch.partition, found.slots[chosen], found.points[chosen], found.channels[chosen],
            found.amounts[chosen], found.versions[chosen], None if found.grades is None else found.grades[chosen],
        )  # fmt: skip
        rows, slots = stretch.judged.refused
        if len(rows):
            self.state.touch(slots[(rows >= stretch.begin) & (rows < stretch.end)])
        reasons = found.reasons[stretch.begin : stretch.end]
        self.not_summed += len(reasons) - len(outcomes) - int(np.count_nonzero(reasons))
        too_old = outcomes == cells.TOO_OLD
        if found.grades is not None:  # a late estimate is nobody's loss
            too_old &= found.grades[chosen] != cells.ESTIMATED
        if too_old.any():
            self._too_old(stretch, found.rows[chosen][too_old], found.slots[chosen][too_old], reasons, publish)
        bad_rows = np.flatnonzero(reasons)
        if len(bad_rows):
            self.rejected += np.bincount(reasons[bad_rows], minlength=len(Reason))
            if publish:
                self._quarantine.add(batch, (bad_rows + stretch.begin).tolist(), stretch.judged.explain)

    def _too_old(
        self, stretch: _Stretch, rows: NDArray[np.int64], slots: NDArray[np.int64], reasons: NDArray[np.uint8],
        publish: bool,
    ) -> None:  # fmt: skip
        """Rows of a batch that have no place in the window any more."""
        if not self.settings.tell_late:
            reasons[rows - stretch.begin] = Reason.TOO_OLD
            return
        self.totals["readings_late"] += len(rows)
        if publish:
            batch, state = stretch.judged.batch, self.state
            offsets, days = batch.columns.offsets[rows], slots // state.per_day
            self._late.add(note_of(batch.partition, offsets, days, state.newest_day - state.days + 1))

    def recall(self, batches: Sequence[ColumnBatch]) -> None:
        """Nothing: facts follow from what was read alone."""

    def idle(self, now_ms: int) -> None:
        """Nothing: facts do not change by themselves."""

    def outputs(self, now_ms: int, partitions: Callable[[str], int]) -> list[Output]:
        """What to publish with the next commit: facts that changed and readings that were rejected since the last call.

        Args:
            now_ms: timestamp of the events. partitions: number of partitions of a hub.
        """
        outputs: list[Output] = []
        for facts in self.state.collect():
            if self._parts is not None and facts.kind == "feeder":
                wide = self._parts.wide(facts)
                if wide.any():
                    outputs += self._parts.outputs(facts.only(wide), now_ms, partitions(PARTS_HUB), self._until)
                    facts = facts.only(~wide)
            self.totals["facts"] += len(facts)
            outputs += fact_outputs(self._writer, facts, now_ms, partitions(HUB_OF_KIND[facts.kind]))
        rejected, kept, counted = self._quarantine.drain(now_ms, partitions(QUARANTINE_HUB))
        self.totals["quarantined"] += kept
        self.totals["quarantine_overflow"] += counted
        return [*outputs, *rejected, *self._late.drain(now_ms)]

    def counters(self) -> dict[str, int]:
        """Everything counted, by name. Readings are counted since the start of the state, rebuilds included."""
        out = {f"readings_{name}": int(n) for name, n in zip(_OUTCOME_NAMES, self.state.counts, strict=True)}
        out["readings_not_summed"] = self.not_summed
        for reason in Reason:
            if reason is not Reason.ACCEPTED:
                out[f"rejected_{reason.text}"] = int(self.rejected[reason])
        return out | {name: self.totals[name] for name in _TOTALS}

    def pieces(self) -> dict[str, NDArray[Any]]:
        """What a snapshot keeps beside `to_arrays`, by name."""
        return self.state.pieces()

    def changed_pieces(self) -> set[str]:
        """Names of those that changed since `pieces_are_saved`."""
        return self.state.changed_pieces()

    def pieces_are_saved(self) -> None:
        """All pieces are kept as they are now."""
        self.state.pieces_are_saved()

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """State and counts for a snapshot, and the models that they were made under."""
        numbering = self._timeline.numbering
        return self.state.to_arrays() | {
            "rejected": self.rejected,
            "not_summed": np.array([self.not_summed]),
            "refused_slot": np.array([self._validator.refused_slot]),
            "numbered": np.array([len(numbering.history)]),
            "history": np.frombuffer(numbering.history[-1], np.uint8),
            "eras": np.array([[era.first_slot, era.ordinal] for era in self._timeline.eras], np.int64),
            "digests": np.array([np.frombuffer(era.digest, np.uint8) for era in self._timeline.eras]),
        }

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a snapshot, of other models too where they have not judged otherwise.

        Raises:
            ValueError, KeyError: it does not fit.
        """
        history, numbered = self._timeline.numbering.history, int(arrays["numbered"][0])
        if not 0 < numbered <= len(history) or history[numbered - 1] != arrays["history"].tobytes():
            raise ValueError("snapshot of other network models")
        eras = zip(arrays["eras"].tolist(), arrays["digests"], strict=True)
        then = [(first, ordinal, digest.tobytes()) for (first, ordinal), digest in eras]
        since = first_difference(then, self._timeline.key)
        refused = int(arrays["refused_slot"][0])
        if since is not None and refused >= since:
            raise ValueError("snapshot with readings that another network model refused")
        self.state.from_arrays(arrays)
        if since is not None and self._any_too_much(since):
            raise ValueError("snapshot with readings that the network model refuses")
        self._validator.refused_slot = refused
        self.rejected[:] = arrays["rejected"]
        self.not_summed = int(arrays["not_summed"][0])


def measure(readings: ReadingColumns, points: TextIndex) -> Measured:
    """Decoded readings as what a `Validator` judges. `points`: ids of usage points in the order of the model."""
    reasons = _REASON_OF_STATUS[readings.status]
    lengths = readings.usage_point_lengths
    if reasons.any():
        lengths = np.where(reasons == Reason.ACCEPTED, lengths, np.int32(-1))
    return Measured(
        reasons=reasons,
        points=points.lookup(readings.data, readings.usage_point_starts, lengths),
        types=readings.reading_type,
        ts_end_us=readings.ts_end_us,
        interval_s=readings.interval_s,
        mantissas=readings.value,
        scales=readings.scale,
        versions=readings.version,
        grades=readings.grade,
    )


def fact_outputs(writer: FactWriter, facts: Facts, now_ms: int, partitions: int) -> Iterator[Output]:
    """Facts as what a commit publishes: those of a unit in one partition."""
    by_partition: list[list[Event]] = [[] for _ in range(partitions)]
    for group, event in zip(facts.groups.tolist(), writer.events(facts, now_ms), strict=True):
        by_partition[group % partitions].append(event)
    for partition, events in enumerate(by_partition):
        if events:
            yield Output(HUB_OF_KIND[facts.kind], partition, events)


def rows_between(columns: EventColumns, first: int, end: int) -> EventColumns:
    """The events with offsets in `[first, end)`."""
    start, stop = np.searchsorted(columns.offsets, (first, end))
    return columns if start == 0 and stop == len(columns) else columns.slice(int(start), int(stop))
