"""The worker of late readings: notes of `grid.late` in, facts of days that are over out.

It waits until the lake has what the notes are about, and a moment longer while more of them come, so that history which
is loaded late is summed in few rounds. The position is committed after the last facts of a round: a crash in between
tells some of them again, with the same versions and values.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import structlog

from gridwire.broker.port import ColumnBatch, EventSource, Output
from gridwire.core.clock import Clock, SystemClock
from gridwire.core.errors import FencedEpoch, GridwireError
from gridwire.grid.facts import HUB_OF_KIND, FactWriter
from gridwire.grid.late import LATE_HUB, LateNotes, LateReadings
from gridwire.grid.loads import fact_outputs
from gridwire.grid.network import NETWORK_HUB
from gridwire.grid.network_log import NetworkLog
from gridwire.grid.parts import PARTS_HUB, PartWriter
from gridwire.grid.placements import Timeline, placement_digest
from gridwire.grid.state import Facts

if TYPE_CHECKING:
    from gridwire.grid.revision import Day

log = structlog.get_logger(__name__)

IDLE_S: Final = 1.0
"""How long a poll waits."""

QUIET_S: Final = 2.0
"""No further note for so long: the round begins."""

GATHER_S: Final = 60.0
"""Or so long after its first note, whatever comes."""

LAKE_S: Final = 3600.0
"""How long a round waits for the lake before its notes are given up: they may be of a hub that is no more."""

BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0, 10.0, 30.0)
"""Pauses between attempts; the last one repeats."""

FACTS_PER_COMMIT: Final = 20_000
"""Bounds the memory of the worker and the hub."""

Opener = Callable[[str, list[str], list[str]], EventSource]
"""Opens a subscription of a group to hubs, and to others that are read from their start."""


def run(
    opener: Opener,
    group: str,
    lake: Path,
    stop: threading.Event,
    *,
    shared: bool = False,
    clock: Clock | None = None,
    metrics: dict[str, int] | None = None,
) -> str:
    """Work until `stop` is set.

    Args:
        shared: facts of feeders above several transformers are made of parts, see `gridwire.grid.parts`.

    Returns:
        `stopped`, or `fenced` when another worker has taken the group over.
    """
    metrics = {} if metrics is None else metrics
    return LateWorker(opener, group, lake, stop, clock or SystemClock(), metrics, shared=shared).run()


@dataclass(slots=True)
class _Round:
    """Notes that are worked on together. `end`: offset after the last one."""

    notes: LateNotes = field(default_factory=LateNotes)
    end: int = 0
    first_s: float = 0.0
    newest_s: float = 0.0

    def add(self, note: LateReadings, now_s: float) -> None:
        """One more note."""
        if not len(self.notes):
            self.first_s = now_s
        self.notes.add(note)
        self.newest_s = now_s

    def is_due(self, now_s: float) -> bool:
        """Whether to wait no more for others."""
        return len(self.notes) > 0 and (now_s - self.newest_s >= QUIET_S or now_s - self.first_s >= GATHER_S)


class LateWorker:
    """See the module; `run` is the way to use it."""

    def __init__(
        self, opener: Opener, group: str, lake: Path, stop: threading.Event, clock: Clock, metrics: dict[str, int], *,
        shared: bool,
    ) -> None:  # fmt: skip
        self.metrics = metrics
        self._shared = shared
        self._open = opener
        self._group, self._lake, self._stop, self._clock = group, lake, stop, clock
        self._counts: Counter[str] = Counter({"rounds": 0, "days": 0, "facts": 0, "readings": 0, "notes_given_up": 0})

    def run(self) -> str:
        """Work until stopped or fenced."""
        failures = 0
        while not self._stop.is_set():
            rounds = self._counts["rounds"]
            try:
                self._session()
            except FencedEpoch:
                log.warning("another worker has taken over", group=self._group)
                return "fenced"
            except Exception as error:  # whatever it is: live sums, which share the process, must go on
                failures = 0 if self._counts["rounds"] > rounds else failures + 1
                pause_s = BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]
                unexpected = not isinstance(error, GridwireError)
                log.warning("late readings wait", reason=str(error), retry_s=pause_s, exc_info=unexpected)
                self._stop.wait(pause_s)
        return "stopped"

    def _session(self) -> None:
        """Connect, read the notes, and work until stopped."""
        source = self._open(self._group, [LATE_HUB], [])
        try:
            found = _Round()
            for place, position in source.committed().items():
                source.seek(place, position.offset)
            while not self._stop.is_set():
                self._listen(source, found, IDLE_S)
                if not source.assigned():
                    found = _Round()
                elif found.is_due(self._clock.monotonic()) and self._has_lake(found):
                    found = self._work(source, found)
        finally:
            source.close()

    def _listen(self, source: EventSource, found: _Round, timeout_s: float) -> None:
        """Take notes into a round."""
        for batch in source.poll(timeout_s):
            self._gather(found, batch)

    def _models(self) -> NetworkLog | None:
        """All network models: read for each round, since those of a large utility take memory. None when stopped."""
        networks = NetworkLog(True, placement_digest)
        source = self._open(self._group, [], [NETWORK_HUB])
        try:
            return networks if networks.read_all(source, self._stop, IDLE_S) else None
        finally:
            source.close()

    def _gather(self, found: _Round, batch: ColumnBatch) -> None:
        for row in range(len(batch.columns)):
            try:
                note = msgspec.json.decode(batch.columns.value(row) or b"", type=LateReadings)
            except msgspec.MsgspecError as error:
                log.warning("no note of late readings", offset=int(batch.columns.offsets[row]), reason=str(error))
                continue
            found.add(note, self._clock.monotonic())
        found.end = batch.next_offset

    def _has_lake(self, found: _Round) -> bool:
        """Whether the lake has what the round is about, or will not have it any more."""
        from gridwire.grid.revision import captured  # what reads the lake takes memory: where nothing is late, none

        if captured(self._lake, list(found.notes)):
            return True
        if self._clock.monotonic() - found.first_s < LAKE_S:
            return False
        log.warning("the lake does not get the readings of these notes", notes=len(found.notes), waited_s=LAKE_S)
        self._counts["notes_given_up"] += len(found.notes)
        found.notes = LateNotes()
        return True

    def _work(self, source: EventSource, found: _Round) -> _Round:
        """Make and tell the facts of a round; when stopped, all of it is made again after the next start.

        Returns:
            What came meanwhile: a group on a cluster must hear of its members now and then.
        """
        from gridwire.grid.revision import Revision

        begun_s, now_ms = self._clock.monotonic(), self._clock.now_ms()
        networks, meanwhile = self._models(), _Round(end=found.end)
        if networks is None:
            return meanwhile
        current = networks.now(now_ms)
        assert current is not None
        assert current.timeline is not None
        notes, known = list(found.notes), networks.timeline_of
        revision = Revision(self._lake, notes, current.timeline, shared=self._shared, timeline_of=known)
        teller = _Teller(current.timeline, now_ms, source)
        before = source.committed()[LATE_HUB, 0].offset if source.committed() else 0
        for day in revision.days() if len(found.notes) else ():
            for outputs in teller.pieces(day):
                source.commit({(LATE_HUB, 0): before}, outputs)
                self._counts["facts"] += sum(len(output.events) for output in outputs)
            self._counts["days"] += 1
            if self._stop.is_set():
                return meanwhile
            self._listen(source, meanwhile, 0.0)
        source.commit({(LATE_HUB, 0): found.end})
        self._counts["rounds"] += 1
        self._counts["readings"] += revision.readings
        self.metrics.update({f"late_{name}": count for name, count in self._counts.items()})
        log.info(
            "late readings summed",
            readings=revision.readings, took_s=round(self._clock.monotonic() - begun_s, 3),
        )  # fmt: skip
        return meanwhile


class _Teller:
    """Writes what is told of a day, in the pieces of a commit each."""

    def __init__(self, timeline: Timeline, now_ms: int, source: EventSource) -> None:
        self._timeline, self._now_ms, self._source = timeline, now_ms, source
        self._writer = FactWriter(timeline)

    def pieces(self, day: Day) -> Iterator[list[Output]]:
        """Facts, then parts."""
        for facts in map(_cut, day.facts):
            for piece in facts:
                partitions = self._source.partitions(HUB_OF_KIND[piece.kind])
                yield list(fact_outputs(self._writer, piece, self._now_ms, partitions))
        for number, part in day.parts.items():
            writer = PartWriter(self._timeline, number)
            for facts in map(_cut, part):
                for piece in facts:
                    yield list(writer.outputs(piece, self._now_ms, self._source.partitions(PARTS_HUB)))


def _cut(facts: Facts) -> Iterator[Facts]:
    for first in range(0, len(facts), FACTS_PER_COMMIT):
        chosen = np.zeros(len(facts), np.bool_)
        chosen[first : first + FACTS_PER_COMMIT] = True
        yield facts.only(chosen)
