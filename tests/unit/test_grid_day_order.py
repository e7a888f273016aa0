"""History that arrives place after place is applied day by day; news waits for nobody."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gridwire.broker.port import Place
from gridwire.grid.day_order import DAY_MS, PATIENCE_S, DayOrder

A, B, C = (("readings", n) for n in range(3))
PLACES = (A, B, C)
TODAY = 100


@dataclass(frozen=True)
class Stretch:
    place: Place
    day: int
    first_offset: int
    next_offset: int


class Taking:
    """An order of two days, fed with the days of readings at each place; offsets are counted for it."""

    def __init__(self) -> None:
        self.order = DayOrder(2)
        self.applied: list[tuple[Place, int]] = []
        self.left: dict[Place, list[int]] = {place: [] for place in PLACES}
        self.at = dict.fromkeys(PLACES, 0)

    def arrive(self, place: Place, days: list[int]) -> None:
        self.left[place] += days

    def take(self, now_s: float = 0.0, behind: tuple[Place, ...] = ()) -> list[tuple[Place, int]]:
        """What has been applied of all that is there."""
        self.order.expect(PLACES, now_s, TODAY * DAY_MS)
        stretches = []
        for place, days in self.left.items():
            if not days:
                continue
            cuts, newest = self.order.cut(place, np.array(days, np.int64))
            ends = [*cuts[1:], len(days)]
            stretches += [
                Stretch(place, day, self.at[place] + begin, self.at[place] + end)
                for begin, end, day in zip(cuts, ends, newest, strict=True)
                if end > begin
            ]
        before = len(self.applied)
        positions = self.order.take(stretches, behind, lambda each: self.applied.append((each.place, each.day)))
        for place, position in positions.items():
            del self.left[place][: position - self.at[place]]
            self.at[place] = position
        return self.applied[before:]


def test_history_waits_for_places_that_have_said_nothing_yet() -> None:
    taking = Taking()
    taking.arrive(B, [10, 11, 12, 13])
    assert taking.take() == [(B, 10), (B, 11)]
    assert taking.take(1.0) == []
    taking.arrive(A, [10, 11, 12, 13])
    taking.arrive(C, [10, 13])
    late = taking.take(1.1)
    assert [day for _, day in late] == [10, 10, 11, 12, 12, 13, 13, 13]
    assert not any(taking.left.values())


def test_who_stays_silent_is_waited_for_once() -> None:
    taking = Taking()
    taking.arrive(B, [10, 11, 12, 13])
    taking.arrive(C, [10, 11, 12, 13])
    taking.take(0.0)
    assert taking.take(PATIENCE_S - 0.1) == []
    assert taking.take(PATIENCE_S) == []
    assert taking.take(PATIENCE_S) == [(B, 12), (C, 12), (B, 13), (C, 13)]
    taking.arrive(B, [14])
    taking.arrive(C, [20])
    assert taking.take(PATIENCE_S)[0] == (B, 14)
    taking.arrive(A, [19])
    taking.arrive(B, [30])
    assert (B, 30) not in taking.take(PATIENCE_S), "it has spoken and is waited for again"


def test_news_waits_for_nobody() -> None:
    taking = Taking()
    taking.arrive(A, [TODAY - 30])
    taking.arrive(B, [TODAY - 1, TODAY])
    assert taking.take() == [(A, TODAY - 30), (B, TODAY - 1), (B, TODAY)]


def test_a_backlog_is_waited_for_however_long_it_takes() -> None:
    taking = Taking()
    taking.arrive(A, [10, 11, 12])
    assert taking.take(behind=(B,)) == [(A, 10), (A, 11)]
    assert taking.take(10 * PATIENCE_S, behind=(B,)) == []
    assert taking.take(20 * PATIENCE_S, behind=(B,)) == []


def test_as_long_as_the_last_one_comes_nearer_the_others_wait() -> None:
    taking = Taking()
    taking.arrive(A, list(range(10, 30)))
    taking.arrive(C, list(range(10, 30)))
    for day in range(10, 30):
        taking.arrive(B, [day])
        taking.take(1.5 * PATIENCE_S * (day - 9))
    days = [day for _, day in taking.applied]
    assert not any(taking.left.values())
    assert all(day >= newest - 1 for day, newest in zip(days, np.maximum.accumulate(days), strict=True))
