"""Readings of several places in the order of their days.

A window of days moves with the newest reading of any place. Applied one place after the other, the first one's history
would move it to the end, and the others' would be too old for it. So places go on together, day by day:

* a place with a backlog is waited for, however long it takes;
* one that has nothing to say just now is waited for a moment (`PATIENCE_S`), and by days only that are history
  anyway: whoever loads history sends it piece by piece, and pieces of one time reach one place before another. A place
  that stays silent is not waited for again until it says something.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import inf
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gridwire.broker.port import Place
from gridwire.core.hubs import READINGS

PATIENCE_S: Final = 2.0
"""How long history waits for a place that says nothing."""

DAY_MS: Final = 86_400_000

_NO_DAY: Final = -1


class Stretch(Protocol):
    """Events of a place that are applied together."""

    @property
    def place(self) -> Place:
        """Where they come from."""
        ...

    @property
    def day(self) -> int:
        """None of them is of a later one. Days since 1970, as slots count them."""
        ...

    @property
    def first_offset(self) -> int:
        """Of the first event."""
        ...

    @property
    def next_offset(self) -> int:
        """After the last one."""
        ...


AnyStretch = TypeVar("AnyStretch", bound=Stretch)


class DayOrder:
    """Which day each place has come to. `days`: how many the window has."""

    def __init__(self, days: int) -> None:
        self._days = days
        self._come_to: dict[Place, int] = {}
        """The newest day of each place that has been applied."""
        self._at_hand: dict[Place, int] = {}
        """The same, with what has been read and not applied."""
        self._first_day: int | None = None
        """Of anything there was: a place of which nothing is known may have readings of it."""
        self._quiet: Collection[Place] = ()
        self._silent: set[Place] = set()
        self._now_s, self._live_day = 0.0, 0
        self._waiting_since_s = 0.0
        self._waiting_for: float | None = None
        """The day that is not gone beyond since then; None while nothing waits."""

    def expect(self, places: Collection[Place], now_s: float, now_ms: int) -> None:
        """What is taken next is news: any of these places may have a part of it that has not arrived yet.

        Args:
            now_s: seconds of a clock that only goes forward. now_ms: the time of day.
        """
        self._quiet = [place for place in places if place[0] == READINGS]
        self._now_s, self._live_day = now_s, now_ms // DAY_MS - self._days + 1

    def cut(self, place: Place, days: NDArray[np.int64]) -> tuple[list[int], list[int]]:
        """Where the newest day so far rises in readings of a place.

        Args:
            days: of each reading, in the order of offsets.

        Returns:
            The first reading of each stretch, 0 first, and the stretch's newest day.
        """
        if len(days):
            self._silent.discard(place)
        day = self._at_hand.get(place, _NO_DAY)
        if not len(days) or int(days.max()) <= day:
            return [0], [day]
        newest = np.maximum.accumulate(np.maximum(days, day))
        rises = np.flatnonzero(np.diff(newest, prepend=day))
        self._at_hand[place] = int(newest[-1])
        return [0, *rises.tolist()], [day, *newest[rises].tolist()]

    def take(
        self, stretches: Sequence[AnyStretch], behind: Collection[Place], apply: Callable[[AnyStretch], Any]
    ) -> dict[Place, int]:
        """Apply stretches, those of earlier days first, as far as no place has to be waited for.

        Args:
            behind: places with more of a backlog to come.

        Returns:
            The offset of the first event of each place that has not been applied.
        """
        if self._first_day is None:
            self._first_day = min((each.day for each in stretches if each.day != _NO_DAY), default=None)
        backlog_day = self._last_day([place for place in behind if place[0] == READINGS])
        quiet = [place for place in self._quiet if place not in behind and place not in self._silent]
        quiet_day = self._last_day(quiet)
        positions: dict[Place, int] = {}
        held: set[Place] = set()
        waits = False
        for stretch in sorted(stretches, key=lambda each: each.day):
            if stretch.place in held:
                continue
            early = quiet_day < stretch.day < self._live_day
            if early or stretch.day > backlog_day:
                waits |= early
                positions[stretch.place] = stretch.first_offset
                held.add(stretch.place)
            else:
                apply(stretch)
                positions[stretch.place], self._come_to[stretch.place] = stretch.next_offset, stretch.day
        # What is held comes again, and is then cut from the day its place has really come to.
        self._at_hand = dict(self._come_to)
        self._be_patient(quiet_day if waits else None, quiet)
        self._quiet = ()
        return positions

    def _last_day(self, places: Collection[Place]) -> float:
        """The newest day that may be opened while these may still have something of the day that they have come to."""
        if self._first_day is None:
            return inf
        days = (self._at_hand.get(place, self._first_day) for place in places)
        return min(days, default=inf) + self._days - 1

    def _be_patient(self, waiting_for: float | None, quiet: Collection[Place]) -> None:
        """Wait on while those that are waited for come nearer; then no more, until they say something."""
        if waiting_for != self._waiting_for:
            self._waiting_for, self._waiting_since_s = waiting_for, self._now_s
        elif waiting_for is not None and self._now_s - self._waiting_since_s >= PATIENCE_S:
            self._silent.update(place for place in quiet if self._last_day([place]) <= waiting_for)
            self._waiting_for = None
