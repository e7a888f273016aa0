"""The watch worker: everything the grid says, to every detector, and what they find to the hub `grid.alerts`.

    readings, meter.events, grid.transformers, grid.feeders, weather
        -> columns (`seen`) -> detectors -> findings -> versions (`told`) -> grid.alerts
    grid.alert-notes -> silences -> findings they cover are marked

It is the worker of `gridwire.grid.worker` with another stage: lanes, commits, snapshots and rebuilds are the same. One
owner reads all hubs, on a Kafka cluster too: an outage is found where its readings and its last gasps meet.

Time is what the hubs stamped on their events. It goes on by itself only when everything has been read: then silence is
silence, and not a backlog. A backlog is taken in steps of `STEP_S` over all hubs, so that no hub is hours ahead of
another. What is the same after a rebuild and what may differ: docs/decisions/0047.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from gridwire.alerts import SILENCED_HEADER, Notes, moment
from gridwire.broker.port import ColumnBatch, Output, Place
from gridwire.core.batch import Event
from gridwire.core.clock import Clock, SystemClock
from gridwire.core.hubs import ALERT_NOTES, METER_EVENTS, WEATHER
from gridwire.grid.findings import ALERTS_HUB, Finding, FindingState
from gridwire.grid.lane import NothingToRestate, Stage
from gridwire.grid.loads import LoadsSettings
from gridwire.grid.network import Network, NetworkIndex
from gridwire.grid.network import digest as network_digest
from gridwire.grid.watch import registry
from gridwire.grid.watch.ahead import Ahead
from gridwire.grid.watch.base import Detector, SeenReadings
from gridwire.grid.watch.seen import HUBS, Decoders, Seen, give, part_of
from gridwire.grid.watch.told import Told, from_json, to_json

STEP_S: Final = 60
"""In a backlog all hubs are taken up to the end of the same step of time; then detectors are asked."""

ASK_MS: Final = 200
"""While readings pour in, detectors are asked this often; meter events are asked about at once."""

_US: Final = 1_000_000

MakeDetectors = Callable[[NetworkIndex], Sequence[Detector]]


_Content = Seen | list[bytes | None]
"""What a hub said; of the hub of notes the values themselves."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows of a batch received within one step of time."""

    place: Place
    step: int
    newest_us: int
    content: _Content
    begin_offset: int
    next_offset: int


class WatchPipeline:
    """All hubs in, findings out, for one network model; see `gridwire.grid.lane.Pipeline`.

    Args:
        detectors: makes them; None: all of the registry. clock: no event counts as received later than this says.
    """

    def __init__(
        self, network: Network, settings: LoadsSettings, generation: int = 0, part: int | None = None, *,
        detectors: MakeDetectors | None = None, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        index = network.index()
        self.state = NothingToRestate()
        self.detectors = list(detectors(index) if detectors else registry.make(registry.NAMES, index))
        names = sorted(detector.name for detector in self.detectors)
        self.fingerprint = hashlib.sha256(f"2 {names} {settings.rules}".encode() + network_digest(network)).hexdigest()
        self._clock = clock or SystemClock()
        self._decoders = Decoders(index, settings.rules)
        self._ahead = Ahead(index)
        self._told = Told(names)
        self._notes = Notes()
        self._now_us = self._asked_us = 0
        self._complete_us: int | None = None
        self._urgent = False
        self._open: set[str] = set()
        self._untold: dict[str, Finding] = {}
        self._compared = False
        self._newest_of: dict[Place, int] = {}
        self._findings: Counter[str] = Counter()

    # -- taking -------------------------------------------------------------------------------------------------

    def take(
        self, batches: Sequence[ColumnBatch], publish: bool = True, behind: Collection[Place] = ()
    ) -> dict[Place, int]:
        """Apply batches of all hubs in the order in which hubs took them, step by step.

        Args:
            publish: False while a rebuild repeats facts that were told; what was found is known from the hub of alerts.
            behind: places with more to come: nothing is applied that is of a later step than what they are at.

        Returns:
            The offset of the first event of each place that has not been applied.
        """
        chunks = sorted((c for batch in batches for c in self._chunks(batch)), key=lambda chunk: chunk.step)
        limits = [self._newest_of[place] for place in behind if place in self._newest_of]
        last_step = min(limits) // (STEP_S * _US) if limits else None
        positions = {(batch.hub, batch.partition): batch.next_offset for batch in batches}
        complete_us = min(limits) if limits else None
        held: set[Place] = set()
        for number, chunk in enumerate(chunks):
            if chunk.place in held:
                continue
            # The earliest is always taken, or a place that has nothing to say now would hold all others for ever.
            if number and last_step is not None and chunk.step > last_step:
                positions[chunk.place] = chunk.begin_offset
                held.add(chunk.place)
            else:
                self._apply(chunk)
        self._complete_us = complete_us
        if not publish:  # a rebuild: told with the commit that it repeats
            for detector in self.detectors:
                detector.facts()
        return positions

    def _chunks(self, batch: ColumnBatch) -> Iterator[_Chunk]:
        columns, place = batch.columns, (batch.hub, batch.partition)
        if not len(columns):
            return
        # A producer that stamps its own time must not take everybody's into the future.
        received_us = np.minimum(columns.timestamps, self._clock.now_ms()) * 1000
        steps = np.maximum.accumulate(received_us) // (STEP_S * _US)
        cuts = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(columns)]
        if batch.hub == ALERT_NOTES:
            notes = [columns.value(row) for row in range(len(columns))]
            parts: Iterator[_Content] = (notes[begin:end] for begin, end in pairwise(cuts))
        else:
            seen, rows = self._decoders.decode(batch, received_us)
            parts = (part_of(seen, *ends) for ends in pairwise(np.searchsorted(rows, cuts).tolist()))
        for part, (begin, end) in zip(parts, pairwise(cuts), strict=True):
            following = int(columns.offsets[end]) if end < len(columns) else batch.next_offset
            newest_us = int(received_us[begin:end].max())
            yield _Chunk(place, int(steps[begin]), newest_us, part, int(columns.offsets[begin]), following)
        self._newest_of[place] = int(received_us.max())

    def _apply(self, chunk: _Chunk) -> None:
        if chunk.step > self._now_us // (STEP_S * _US) and self._now_us:
            self._complete_us = None  # all hubs are at the end of a step
            self._ask()
        if isinstance(chunk.content, list):
            for note in chunk.content:
                self._notes.take(note)
        elif len(chunk.content):
            content = chunk.content
            give(self.detectors, self._ahead.only(content) if isinstance(content, SeenReadings) else content)
            self._urgent |= chunk.place[0] == METER_EVENTS
        self._now_us = max(self._now_us, chunk.newest_us)

    def idle(self, now_ms: int) -> None:
        """Everything that the hubs held by now has been taken: time goes on."""
        self._now_us, self._complete_us = max(self._now_us, now_ms * 1000), None
        self._ask()
        if not self._compared:
            self._compared = True
            for finding in self._told.withdrawals(self._open, self._now_us):
                self._untold[finding.id] = finding

    def _ask(self) -> None:
        """Take what the detectors found, as of the time up to which everything has been read."""
        complete_us = self._now_us if self._complete_us is None else min(self._complete_us, self._now_us)
        self._asked_us, self._urgent = max(self._asked_us, complete_us), False
        for detector in self.detectors:
            for finding in detector.findings(self._asked_us):
                self._untold[finding.id] = finding
                if finding.state is FindingState.CLOSED:
                    self._open.discard(finding.id)
                else:
                    self._open.add(finding.id)

    # -- telling ------------------------------------------------------------------------------------------------

    def recall(self, batches: Sequence[ColumnBatch]) -> None:
        """Findings that were told before."""
        for batch in batches:
            if batch.hub == ALERTS_HUB:
                self._told.recall(batch)

    def outputs(self, now_ms: int, partitions: Callable[[str], int]) -> list[Output]:
        """Findings that are new or say something new since the last call. Their time is that of what they go by."""
        if self._urgent or self._now_us - self._asked_us >= ASK_MS * 1000:
            self._ask()
        by_partition: dict[int, list[Event]] = {}
        count = partitions(ALERTS_HUB)
        for finding in self._untold.values():
            told = self._told.next(finding)
            if told is not None:
                self._findings[f"findings_{told.kind}_{told.state}"] += 1
                partition = zlib.crc32(told.subject.encode()) % count
                by_partition.setdefault(partition, []).append(self._event(told))
        self._untold.clear()
        outputs = [Output(ALERTS_HUB, partition, events) for partition, events in sorted(by_partition.items())]
        return outputs + self._facts(partitions)

    def _facts(self, partitions: Callable[[str], int]) -> list[Output]:
        """What detectors tell all the time, each unit in its partition."""
        events: dict[Place, list[Event]] = {}
        for detector in self.detectors:
            for fact in detector.facts():
                key = fact.key.encode()
                place = (fact.hub, zlib.crc32(key) % partitions(fact.hub))
                events.setdefault(place, []).append(Event(fact.value, key, (), self._now_us // 1000))
        return [Output(hub, partition, told) for (hub, partition), told in sorted(events.items())]

    def _event(self, told: Finding) -> Event:
        """The finding's event, marked where somebody silenced it."""
        at_ms = self._now_us // 1000
        event = told.to_event(at_ms)
        name = self._notes.silenced_by(told.kind, f"{told.subject_kind}/{told.subject}", moment(at_ms))
        if not name:
            return event
        self._findings["findings_silenced"] += 1
        return Event(event.value, event.key, (*event.headers, (SILENCED_HEADER, name.encode())), event.timestamp)

    def counters(self) -> dict[str, int]:
        """Everything counted, by name, since the start of the worker."""
        own = {"findings_open": len(self._open), "voltages_ahead": self._ahead.passed_over}
        return {**self._decoders.counts, **self._findings, **own}

    # -- snapshots ----------------------------------------------------------------------------------------------

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """State of all detectors, and which findings are open."""
        notes = {
            "now_us": self._now_us,
            "open": sorted(self._open),
            "silences": [msgspec.json.encode(each).decode() for each in self._notes.silences.values()],
            "untold": [to_json(finding).decode() for finding in self._untold.values()],
            "newest": [[*place, newest_us] for place, newest_us in self._newest_of.items()],
        }
        arrays: dict[str, NDArray[Any]] = {"watch": np.frombuffer(json.dumps(notes).encode(), np.uint8)}
        arrays |= {f"ahead.{name}": array for name, array in self._ahead.to_arrays().items()}
        for detector in self.detectors:
            arrays |= {f"{detector.name}.{name}": array for name, array in detector.to_arrays().items()}
        return arrays

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a snapshot. Raises ValueError or KeyError when it does not fit."""
        notes = json.loads(arrays["watch"].tobytes())
        self._now_us = self._asked_us = int(notes["now_us"])
        self._open = set(notes["open"])
        self._untold = {finding.id: finding for finding in map(from_json, map(str.encode, notes["untold"]))}
        self._newest_of = {(hub, partition): newest for hub, partition, newest in notes["newest"]}
        for silence in notes["silences"]:
            self._notes.take(silence.encode())
        owners: list[tuple[str, Ahead | Detector]] = [("ahead", self._ahead)]
        for name, owner in [*owners, *((each.name, each) for each in self.detectors)]:
            prefix = f"{name}."
            owner.from_arrays({n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)})


def watch_stage(detectors: MakeDetectors | None = None, clock: Clock | None = None) -> Stage:
    """What the worker does that watches."""
    make = partial(WatchPipeline, detectors=detectors, clock=clock)
    creates = (METER_EVENTS, WEATHER, ALERTS_HUB, ALERT_NOTES, *registry.HUBS)
    hubs, writes = (*HUBS, ALERT_NOTES), (ALERTS_HUB, *registry.HUBS)
    return Stage("watch", hubs, writes, make, creates=creates, recalls=(ALERTS_HUB,), timed=True)
