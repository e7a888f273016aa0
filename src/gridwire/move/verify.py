"""Reads back what was copied and compares it with what the source gave, step by step.

The sums of the journal are of the events as they came from the source; those made here are of the events as any reader
of the destination gets them. Events that others wrote at the destination lie outside the steps and are passed over.
How far this came is in the journal too, so that a second run reads only what is new.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from typing import Any, Final

from gridwire.broker.port import Place
from gridwire.core.errors import GridwireError, Unavailable
from gridwire.move.checksum import chained
from gridwire.move.copy import event_time
from gridwire.move.journal import Checked, Journal, Step, place_name
from gridwire.move.side import ANSWER_S, Side, arrived
from gridwire.move.writer import Writer

STEPS_MAX: Final = 500
"""Steps that are compared at once, and that is noted as done."""

RUNS_MAX: Final = 1_000_000
"""Their runs in memory; a compacted hub may have a run an event."""


class ChecksumMismatch(GridwireError):
    """Events at the destination are not those of the source."""


class _Expected:
    """Steps of one partition that are to be found at the destination, in order."""

    def __init__(self, place: Place, known: Checked) -> None:
        self.place = place
        self.steps: list[Step] = []
        self.events, self.sum = known.events, known.sum
        self._runs: Iterator[tuple[Step, int, int, bool]] | None = None

    @property
    def end(self) -> int:
        """Where the last step ends at the destination."""
        _, target, count = self.steps[-1].runs[-1]
        return target + count

    def begin(self) -> None:
        """All steps are there."""
        self._runs = chain.from_iterable(
            (
                (step, target, target + count, run == len(step.runs) - 1)
                for run, (_, target, count) in enumerate(step.runs)
            )
            for step in self.steps
        )
        self._next()

    def _next(self) -> None:
        assert self._runs is not None
        self._now = next(self._runs, None)

    @property
    def done(self) -> bool:
        """Whether every step was found."""
        return self._now is None

    def take(self, offset: int, message: Any) -> None:
        """The next event of the partition at the destination. Raises ChecksumMismatch."""
        while self._now is not None and offset >= self._now[2]:  # what the run's end should have held is not there
            self._mismatch(self._now[0])
        if self._now is None or offset < self._now[1]:
            return
        self.sum = chained(self.sum, event_time(message), message.key(), message.value(), message.headers())
        self.events += 1
        step, _, end, last = self._now
        if offset + 1 == end:
            if last and (self.events, self.sum) != (step.events, step.sum):
                self._mismatch(step)
            self._next()

    def missing(self) -> None:
        """The partition ended too early. Raises ChecksumMismatch."""
        if self._now is not None:
            self._mismatch(self._now[0])

    def _mismatch(self, step: Step) -> None:
        hub, partition = self.place
        first, (_, last, count) = step.runs[0], step.runs[-1]
        raise ChecksumMismatch(
            f"partition {partition} of hub {hub!r}: events {first[0]} to {step.following - 1} of the source are not "
            f"the same at the destination (offsets {first[1]} to {last + count - 1}): do not switch over; "
            "delete the hub at the destination and move it again"
        )


def verify(
    target: Side, journal: Journal, writer: Writer, hubs: Collection[str], report: Callable[[int], None]
) -> None:
    """Compare everything of some hubs that was copied and not compared yet. Raises ChecksumMismatch, Unavailable."""
    for window in _windows(journal, hubs):
        target.wait_decided({each.place: each.end for each in window})
        _compare(target, window, report)
        found = {each.place: Checked(each.events, each.sum) for each in window}
        with writer.transaction() as producer:
            for place, checked in found.items():
                journal.write(producer, "checked", place_name(place), checked)
        for place, checked in found.items():
            journal.applied("checked", place_name(place), checked)


def _windows(journal: Journal, hubs: Collection[str]) -> Iterator[list[_Expected]]:
    window: dict[Place, _Expected] = {}
    steps = runs = 0
    for place, step in journal.steps(hubs):
        if step.events <= journal.checked.get(place, Checked()).events:
            continue
        if place not in window:
            window[place] = _Expected(place, journal.checked.get(place, Checked()))
        window[place].steps.append(step)
        steps, runs = steps + 1, runs + len(step.runs)
        if steps >= STEPS_MAX or runs >= RUNS_MAX:
            yield list(window.values())
            window, steps, runs = {}, 0, 0
    if window:
        yield list(window.values())


def _compare(target: Side, window: list[_Expected], report: Callable[[int], None]) -> None:
    from confluent_kafka import KafkaError

    waiting = {each.place: each for each in window}
    consumer = target.consumer()
    counted: dict[Place, int] = defaultdict(int)
    try:
        for each in window:
            each.begin()
        consumer.assign([target.partition(each.place, each.steps[0].runs[0][1]) for each in window])
        while waiting:
            found = arrived(consumer, 2_000, ANSWER_S)
            if not found:
                raise Unavailable(f"{target} sends nothing although there should be more")
            for message in found:
                expected = waiting.get(target.place(message.topic(), message.partition()))
                if expected is None:
                    continue
                problem = message.error()
                if problem is None:
                    counted[expected.place] += 1
                    expected.take(message.offset(), message)
                elif problem.code() == KafkaError._PARTITION_EOF:
                    expected.missing()
                if expected.done:
                    del waiting[expected.place]
                    consumer.incremental_unassign([target.partition(expected.place)])
            report(sum(counted.values()))
    finally:
        consumer.close()
