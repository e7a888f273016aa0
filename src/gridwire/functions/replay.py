"""A function over a past range of its hub, beside what it does otherwise.

    source -> Range cut out of it -> the session a live function has -> outputs counted, or published when asked for

The group is a new one and its positions are never committed: a replay moves nobody's position and leaves none behind.
Dead letters are counted, never published.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import numpy as np

from gridwire.broker.port import ColumnBatch, EventSource, Output, Place
from gridwire.core.errors import InvalidSetting, Unavailable, UnknownHub
from gridwire.functions.model import Function
from gridwire.functions.stream import OpenSource, Session, Stream, Workers

PROGRESS_S: Final = 1.0
"""Between two reports of progress."""

JOIN_S: Final = 60.0
"""How long a Kafka cluster may take to let us into a new group."""


@dataclass(frozen=True, slots=True)
class Range:
    """Half open: offsets of each partition, and times in milliseconds; None is no bound."""

    first: int | None = None
    end: int | None = None
    first_ms: int | None = None
    end_ms: int | None = None

    @classmethod
    def parse(cls, begin: str, end: str) -> Range:
        """From `earliest`, an offset or an RFC 3339 time, to `latest`, an offset or a time. Raises InvalidSetting."""
        first, first_ms = _bound(begin, "earliest", "--from")
        last, last_ms = _bound(end, "latest", "--to")
        return cls(first, last, first_ms, last_ms)

    def rows(self, timestamps: np.ndarray) -> np.ndarray:
        """Which events lie in the range by time."""
        chosen = np.ones(len(timestamps), bool)
        if self.first_ms is not None:
            chosen &= timestamps >= self.first_ms
        if self.end_ms is not None:
            chosen &= timestamps < self.end_ms
        return np.flatnonzero(chosen)


def _bound(text: str, word: str, flag: str) -> tuple[int | None, int | None]:
    if text == word:
        return None, None
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text), None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidSetting(f"{flag} is {word}, an offset or an RFC 3339 time, not {text[:40]!r}") from None
    return None, round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a replay did. `offsets`: of the range, gaps included; `passed`: how many of them are dealt with."""

    complete: bool
    offsets: int
    passed: int
    events: int
    failures: int
    dead_letters: int
    outputs: Mapping[str, int]
    published: bool
    took_s: float


class RangeSource:
    """A source that ends: hands out the range, keeps positions to itself, publishes only when told to.

    Args:
        publish: whether outputs go to their hubs. dead_letters: the hub whose events are never published.
    """

    whole_hubs = True

    def __init__(self, inner: EventSource, wanted: Range, *, publish: bool, dead_letters: str) -> None:
        self.group = inner.group
        self.outputs: Counter[str] = Counter()
        self.dead_letters = 0
        self._inner, self._wanted, self._publish, self._dead = inner, wanted, publish, dead_letters
        lag = inner.lag()
        ends = {place: at + lag.get(place, 0) for place, at in inner.positions().items()}
        starts = inner.offsets_at(wanted.first_ms)
        self._end = {place: end if wanted.end is None else min(end, wanted.end) for place, end in ends.items()}
        self._first = {
            place: min(max(starts.get(place, 0), wanted.first or 0), end) for place, end in self._end.items()
        }
        self._at = dict(self._first)
        self._given = dict(self._first)
        self._done = dict(self._first)
        self._identity = dict(inner.assigned())

    @property
    def size(self) -> int:
        """Offsets in the range."""
        return sum(self._end[place] - first for place, first in self._first.items())

    @property
    def passed(self) -> int:
        """Offsets that are dealt with, or were never to be given to the function."""
        return sum(self._reached(place) - first for place, first in self._first.items())

    @property
    def finished(self) -> bool:
        """Whether the whole range was read and all of it is dealt with."""
        return all(self._reached(place) >= end for place, end in self._end.items())

    def _reached(self, place: Place) -> int:
        return self._at[place] if self._done[place] >= self._given[place] else self._done[place]

    def partitions(self, hub: str) -> int:
        """Number of partitions; of a hub that nothing will be written to, one is assumed. Raises UnknownHub."""
        try:
            return self._inner.partitions(hub)
        except UnknownHub:
            if self._publish and hub != self._dead:
                raise
            return 1

    def create_hub(self, hub: str, partitions: int | None = None) -> None:
        """Create a hub for outputs, if they are published."""
        if self._publish and hub != self._dead:
            self._inner.create_hub(hub, partitions)

    def hub_id(self, hub: str) -> uuid.UUID:
        """See `EventSource`."""
        return self._inner.hub_id(hub)

    def assigned(self) -> Mapping[Place, int]:
        """What the range consists of. Raises Unavailable when the hub was deleted or changed meanwhile."""
        now = self._inner.assigned()
        if any(now.get(place) != number for place, number in self._identity.items()):
            raise Unavailable("the hub was changed while it was replayed: start again")
        return self._identity

    def committed(self) -> Mapping[Place, Any]:
        """Nothing ever is."""
        return {}

    def positions(self) -> dict[Place, int]:
        """Where the next poll reads."""
        return dict(self._at)

    def seek(self, place: Place, offset: int) -> None:
        """See `EventSource`."""
        if place in self._at:
            self._at[place] = offset

    def offsets_at(self, timestamp_ms: int | None) -> dict[Place, int]:
        """See `EventSource`."""
        return self._inner.offsets_at(timestamp_ms)

    def lag(self) -> dict[Place, int]:
        """Offsets between the reading position and the end of the range."""
        return {place: max(0, self._end[place] - at) for place, at in self._at.items()}

    def poll(self, timeout_s: float, bytes_max: int = 32 * 1024 * 1024) -> list[ColumnBatch]:
        """What follows within the range. Partitions at their end are parked at the end of the log."""
        lag, there = self._inner.lag(), self._inner.positions()
        for place, at in self._at.items():
            over = at >= self._end[place] and place in there
            self._inner.seek(place, there[place] + lag[place] if over else at)
        batches = self._inner.poll(timeout_s, bytes_max)
        self.assigned()
        open_places = {place for place, at in self._at.items() if at < self._end[place]}
        after = self._inner.positions()
        for place in open_places:
            self._at[place] = min(after[place], self._end[place])
        return [self._cut(batch) for batch in batches if (batch.hub, batch.partition) in open_places]

    def _cut(self, batch: ColumnBatch) -> ColumnBatch:
        place = (batch.hub, batch.partition)
        columns, end = batch.columns, self._end[place]
        if batch.next_offset > end:
            columns = columns.slice(0, int(np.searchsorted(columns.offsets, end)))
        rows = self._wanted.rows(columns.timestamps)
        if len(rows) < len(columns):
            columns = columns.take(rows)
        following = min(batch.next_offset, end)
        if len(columns):
            self._given[place] = following
        return ColumnBatch(batch.hub, batch.partition, columns, following, batch.position)

    def commit(self, positions: Mapping[Place, int], outputs: Sequence[Output] = (), note: str = "") -> None:
        """Outputs become durable if they are published; positions stay here. Raises FencedEpoch, Unavailable."""
        handed_out = [output for output in outputs if output.hub != self._dead]
        if self._publish and handed_out:
            self._inner.commit({}, handed_out)
        for output in handed_out:
            self.outputs[output.hub] += len(output.events)
        self.dead_letters += sum(len(output.events) for output in outputs if output.hub == self._dead)
        self._done |= positions

    def close(self) -> None:
        """Let go of the hub."""
        self._inner.close()


def _await_places(source: EventSource, hub: str, stop: threading.Event) -> None:
    """Return once the group has given us all partitions: on a Kafka cluster that takes a moment. Raises Unavailable."""
    wanted = {(hub, number) for number in range(source.partitions(hub))}
    deadline = time.monotonic() + JOIN_S
    while not (stop.is_set() or wanted <= source.assigned().keys()):
        if time.monotonic() > deadline:
            raise Unavailable(f"group {source.group!r} was not given the partitions of hub {hub!r}")
        source.poll(0.2, 1)


def replay(
    app: str,
    function: Function,
    open_source: OpenSource,
    pool: Workers,
    wanted: Range,
    stop: threading.Event,
    *,
    publish: bool = False,
    progress: Callable[[int, int], None] = lambda passed, size: None,
) -> Summary:
    """Run a function over a range until it is dealt with or `stop` is set.

    Args:
        progress: told about once a second how many offsets of the range are dealt with, and how many there are.

    Raises:
        UnknownHub: the function's hub. Unavailable: the hub went away; outputs published so far stand.
    """
    began = time.monotonic()
    stream = Stream(app, msgspec.structs.replace(function, start_ms=None), open_source, pool, stop)
    inner = open_source(f"replay.{app}.{function.name}.{uuid.uuid4().hex[:12]}", [function.hub])
    try:
        _await_places(inner, function.hub, stop)
        source = RangeSource(inner, wanted, publish=publish, dead_letters=stream.dead_letters)
    except BaseException:
        inner.close()
        raise
    told = began

    def finished() -> bool:
        nonlocal told
        if time.monotonic() - told >= PROGRESS_S:
            told = time.monotonic()
            progress(source.passed, source.size)
        return source.finished

    session = Session(stream, source)
    try:
        session.run(finished)
    finally:
        session.close()
    count = stream.counters
    return Summary(
        source.finished, source.size, source.passed, count["events"],
        count["failures"] + count["deaths"] + count["timeouts"], source.dead_letters, dict(source.outputs), publish,
        time.monotonic() - began,
    )  # fmt: skip
