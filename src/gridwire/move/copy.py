"""Copies committed events from one side to the other, a transaction at a time.

A transaction holds up to `EVENTS_MAX` events of all partitions and a step of each partition in it, which says where the
events came to lie and where the source is to be read on. Events keep partition, order, key, value, headers and time;
one from the first millisecond of 1970 arrives without a time, since the client cannot write that one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from gridwire.broker.port import Bounds, Place
from gridwire.core.errors import Unavailable, UnknownHub
from gridwire.core.limits import MIB
from gridwire.move.checksum import chained
from gridwire.move.journal import Journal, Run, Step, place_name
from gridwire.move.side import Side, arrived
from gridwire.move.writer import Aborted, Writer

EVENTS_MAX: Final = 20_000
"""Events of one transaction: what is done again at most after a kill."""

BYTES_MAX: Final = 32 * MIB
"""Keys and values of one transaction, which lie in memory until they are written."""

TRANSACTION_S: Final = 1.0
"""How long a transaction waits to become full when events come slowly."""

SILENCE_S: Final = 120.0
"""How long a source may send nothing although there is more to read."""

ATTEMPTS: Final = 5
"""A transaction that the destination aborted (a broker was lost) is tried again this often."""

NO_TIME: Final = -1


def event_time(message: Any) -> int:
    """An event's time, milliseconds; -1 for none."""
    return int(message.timestamp()[1]) or NO_TIME


class Copier:
    """Copies partitions up to given ends. `report` is called after every transaction."""

    def __init__(
        self, source: Side, target: Side, journal: Journal, writer: Writer, report: Callable[[], None]
    ) -> None:
        self._source = source
        self._target = target
        self._journal = journal
        self._writer = writer
        self._report = report
        self._passed: dict[Place, int] = {}
        """Ends that were seen beyond the last event: markers of transactions need not be looked at again."""

    def position(self, place: Place, bounds: Bounds) -> int:
        """Where to read on; what retention took meanwhile is passed over."""
        return max(self._journal.end(place).following, self._passed.get(place, 0), bounds.start)

    def copy(self, bounds: Mapping[Place, Bounds], stop: Callable[[], bool]) -> None:
        """Copy until every partition is at its `end`, or `stop` says so. Raises Unavailable, UnknownHub."""
        aborted = 0
        while True:
            before = sum(step.events for step in self._journal.ends.values())
            try:
                self._copy(bounds, stop)
                return
            except Aborted as error:
                moved = sum(step.events for step in self._journal.ends.values()) > before
                aborted = 1 if moved else aborted + 1
                if aborted == ATTEMPTS:
                    raise Unavailable(f"{self._target} aborts every transaction: {error}") from None

    def _copy(self, bounds: Mapping[Place, Bounds], stop: Callable[[], bool]) -> None:
        wanted = {place: self.position(place, each) for place, each in bounds.items()}
        left = {place for place, offset in wanted.items() if offset < bounds[place].end}
        if not left:
            return
        consumer = self._source.consumer()
        try:
            consumer.assign([self._source.partition(place, wanted[place]) for place in sorted(left)])
            while left and not stop():
                with self._writer.transaction() as producer:
                    load = _Load(self._source, self._target, self._journal, producer)
                    passed = self._fill(load, consumer, bounds, left)
                    self._writer.flush()
                    steps = load.steps()
                    for place, step in steps.items():
                        self._journal.write(producer, "step", place_name(place), step)
                for place, step in steps.items():
                    self._journal.applied("step", place_name(place), step)
                self._passed |= passed
                if load.events:
                    self._report()
        finally:
            consumer.close()

    def _fill(self, load: _Load, consumer: Any, bounds: Mapping[Place, Bounds], left: set[Place]) -> dict[Place, int]:
        """Read into the transaction until it is full, a while has passed, or every partition is at its end."""
        passed: dict[Place, int] = {}
        deadline_s = time.monotonic() + TRANSACTION_S
        silent_s = time.monotonic() + SILENCE_S
        while left and not load.full and (not load.events or time.monotonic() < deadline_s):
            found = arrived(consumer, 2_000, 0.2)
            if time.monotonic() > silent_s and not load.events and not found:
                raise Unavailable(f"{self._source} sends no events although there are more")
            for message in found:
                place = self._source.place(message.topic(), message.partition())
                following = self._following(message)
                if following is None or place not in left:
                    continue
                if message.error() is None:
                    load.add(place, message)
                passed[place] = following
                if following >= bounds[place].end:
                    left.discard(place)
                    consumer.incremental_unassign([self._source.partition(place)])
        return passed

    def _following(self, message: Any) -> int | None:
        """Offset to read on at after a message or the end of a partition; None for trouble that passes."""
        from confluent_kafka import KafkaError

        problem = message.error()
        if problem is None:
            return int(message.offset()) + 1
        if problem.code() == KafkaError._PARTITION_EOF:
            return int(message.offset())
        if problem.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID):
            raise UnknownHub(f"hub of topic {message.topic()!r} is gone at the source")
        if problem.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED or problem.fatal():
            raise Unavailable(f"topic {message.topic()!r} at the source: {problem.str()}")
        return None


class _Load:
    """Events of one transaction on their way."""

    def __init__(self, source: Side, target: Side, journal: Journal, producer: Any) -> None:
        self._target = target
        self._journal = journal
        self._producer = producer
        self._source_offsets: dict[Place, list[int]] = {}
        self._target_offsets: dict[Place, list[int]] = {}
        self._sums: dict[Place, bytes] = {}
        self._problem: Any = None
        self.events = 0
        self.bytes = 0

    @property
    def full(self) -> bool:
        return self.events >= EVENTS_MAX or self.bytes >= BYTES_MAX

    def add(self, place: Place, message: Any) -> None:
        """Send an event on."""
        key, value, headers, time_ms = message.key(), message.value(), message.headers(), event_time(message)
        if place not in self._sums:
            self._sums[place] = self._journal.end(place).sum
            self._source_offsets[place], self._target_offsets[place] = [], []
        self._sums[place] = chained(self._sums[place], time_ms, key, value, headers)
        self._source_offsets[place].append(message.offset())
        self._send(place, key, value, headers, time_ms)
        self.events += 1
        self.bytes += len(key or b"") + len(value or b"")

    def _send(self, place: Place, key: bytes | None, value: bytes | None, headers: Any, time_ms: int) -> None:
        topic = self._target.address.topic(place[0])
        while True:
            try:
                self._producer.produce(
                    topic, value, key, place[1], on_delivery=self._delivered, timestamp=time_ms, headers=headers
                )
                return
            except BufferError:
                self._producer.poll(0.1)

    def _delivered(self, error: Any, message: Any) -> None:
        """An event lies at the destination; in the order of its partition."""
        if error is not None:
            self._problem = self._problem or error
            return
        self._target_offsets[self._target.place(message.topic(), message.partition())].append(message.offset())

    def steps(self) -> dict[Place, Step]:
        """What the transaction copied, once it is flushed. Raises KafkaException: an event was refused."""
        from confluent_kafka import KafkaException

        if self._problem is not None:
            raise KafkaException(self._problem)
        found = {}
        for place, offsets in self._source_offsets.items():
            events = self._journal.end(place).events + len(offsets)
            pairs = zip(offsets, self._target_offsets[place], strict=True)
            found[place] = Step(offsets[-1] + 1, events, self._sums[place], runs_of(pairs))
        return found


def runs_of(pairs: Any) -> list[Run]:
    """Pairs of (source offset, target offset), both rising, as runs."""
    runs: list[list[int]] = []
    for source, target in pairs:
        if runs and source == runs[-1][0] + runs[-1][2] and target == runs[-1][1] + runs[-1][2]:
            runs[-1][2] += 1
        else:
            runs.append([source, target, 1])
    return [(source, target, count) for source, target, count in runs]
