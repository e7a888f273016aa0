"""A hub in memory for tests of workers, which can fail at every step.

It keeps a list of events per partition. Committing is atomic, as the port promises: positions and outputs together or
not at all. `step` is called at every step and may raise: `Crash` kills the worker, Unavailable loses the connection.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from gridwire.broker.port import ColumnBatch, Output, Place, Position
from gridwire.columnar.decode import decode
from gridwire.core import batch
from gridwire.core.batch import Event
from gridwire.core.errors import FencedEpoch, UnknownHub


class Crash(BaseException):
    """The process died here."""


class Hub:
    """Events and committed positions; what survives a crash of the worker."""

    def __init__(self, hubs: Mapping[str, int]) -> None:
        self.log: dict[Place, list[Event]] = {(hub, p): [] for hub, n in hubs.items() for p in range(n)}
        self.committed: dict[tuple[str, Place], int] = {}
        self.notes: dict[tuple[str, Place], str] = {}
        self.epochs: dict[str, int] = defaultdict(int)
        self.step: Callable[[str], None] = lambda name: None
        self.split_commit = False
        self.shared = False
        self.poll_events_max = 1_000

    def append(self, hub: str, value: bytes, partition: int = 0, timestamp: int = 0) -> None:
        place = (hub, partition)
        self.log[place].append(Event(value, None, (), timestamp, len(self.log[place])))

    def open(self, group: str, hubs: list[str], follow: list[str]) -> Source:
        self.step("open")
        return Source(self, group, hubs, follow)

    def events(self, hub: str) -> list[Event]:
        return [event for (name, _), events in sorted(self.log.items()) if name == hub for event in events]

    def values(self, hub: str) -> list[Any]:
        return [json.loads(event.value or b"") for event in self.events(hub)]


class Source:
    """`EventSource` over a `Hub`."""

    def __init__(self, hub: Hub, group: str, hubs: list[str], follow: list[str]) -> None:
        self.whole_hubs = not hub.shared
        self._hub, self.group, self._hubs = hub, group, hubs
        if hubs:
            hub.epochs[group] += 1
        self._epoch = hub.epochs[group]
        self._at = {
            p: hub.committed.get((group, p), 0) if p[0] in hubs else 0 for p in hub.log if p[0] in hubs + follow
        }

    def hub_id(self, hub: str) -> UUID:
        return UUID(int=0)

    def create_hub(self, hub: str, partitions: int | None = None) -> None:
        for number in range(partitions or 1):
            self._hub.log.setdefault((hub, number), [])

    def assigned(self) -> dict[Place, int]:
        return {place: 1 for place in self._at if place[0] in self._hubs}

    def committed(self) -> dict[Place, Position]:
        known = {place: self._hub.committed.get((self.group, place)) for place in self.assigned()}
        notes = self._hub.notes
        return {p: Position(at, notes.get((self.group, p), "")) for p, at in known.items() if at is not None}

    def partitions(self, hub: str) -> int:
        count = sum(name == hub for name, _ in self._hub.log)
        if count == 0:
            raise UnknownHub(hub)
        return count

    def positions(self) -> dict[Place, int]:
        return dict(self._at)

    def seek(self, place: Place, offset: int) -> None:
        self._at[place] = offset

    def offsets_at(self, timestamp_ms: int | None) -> dict[Place, int]:
        assert timestamp_ms is None
        return dict.fromkeys(self.assigned(), 0)

    def poll(self, timeout_s: float, bytes_max: int = 0) -> list[ColumnBatch]:
        self._hub.step("poll")
        out = []
        for place, at in self._at.items():
            events = self._hub.log[place][at : at + self._hub.poll_events_max]
            if events:
                data = batch.encode(events, base_offset=at)
                found = decode(bytes(data), 0, len(data), from_offset=at)
                assert len(found.columns) == 1
                self._at[place] = at + len(events)
                out.append(ColumnBatch(*place, found.columns[0], self._at[place]))
        return out

    def commit(self, positions: Mapping[Place, int], outputs: Sequence[Output] = (), note: str = "") -> None:
        self._hub.step("before commit")
        if self._epoch != self._hub.epochs[self.group]:
            raise FencedEpoch(self.group)
        for output in outputs:
            log = self._hub.log[output.hub, output.partition]
            log += [Event(e.value, e.key, e.headers, e.timestamp, len(log) + i) for i, e in enumerate(output.events)]
        if self._hub.split_commit:
            self._hub.step("between outputs and positions")
        self._hub.committed |= {(self.group, place): offset for place, offset in positions.items()}
        self._hub.notes |= {(self.group, place): note for place in positions}
        self._hub.step("after commit")

    def lag(self) -> dict[Place, int]:
        return {place: len(self._hub.log[place]) - at for place, at in self._at.items()}

    def close(self) -> None:
        self._hub.step("close")
