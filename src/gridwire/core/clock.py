"""Time as a value that is passed in, so that tests never sleep and a jump of the wall clock cannot hurt."""

from __future__ import annotations

import time
from typing import Final, Protocol

JUMP_MS: Final = 60_000
"""A wall clock this far ahead of elapsed time has jumped; less is the usual correction."""

SETTLE_S: Final = 24 * 3600.0
"""How long the wall clock must stay where it jumped to before anything is deleted by it: time to notice a mistake."""


class Clock(Protocol):
    """Two clocks: the wall for timestamps, the monotonic one for timeouts."""

    def now_ms(self) -> int:
        """Wall time, milliseconds since 1970-01-01T00:00Z."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Wall time, milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()


class ManualClock:
    """A clock that moves only when a test moves it."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic = 0.0

    def now_ms(self) -> int:
        """Wall time set by the test."""
        return self._now_ms

    def monotonic(self) -> float:
        """Seconds advanced by the test."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._monotonic += seconds
        self._now_ms += round(seconds * 1000)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or a time server does."""
        self._now_ms += round(seconds * 1000)


class AgeClock:
    """Wall time by which it is decided what is old enough to be deleted: a jump forward makes nothing old.

    It follows the wall clock, back as well, but not over a jump forward: it then goes on with elapsed time until the
    wall clock has stayed there for a day. So what is kept for a time is never deleted early by a clock that is set
    wrong and put right again, and a clock that was wrong before is believed in the end.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._follow(clock.now_ms(), clock.monotonic())

    def _follow(self, wall_ms: int, at_s: float) -> None:
        self._wall_ms, self._at_s = wall_ms, at_s
        self._jump_ms, self._jumped_s = 0, at_s

    @property
    def ahead_ms(self) -> int:
        """How far the wall clock has jumped ahead, as of the last look; 0 when it is followed."""
        return self._jump_ms

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        wall_ms, at_s = self._clock.now_ms(), self._clock.monotonic()
        steady_ms = self._wall_ms + round((at_s - self._at_s) * 1000)
        jump_ms = wall_ms - steady_ms
        if jump_ms <= JUMP_MS:
            self._follow(wall_ms, at_s)
            return wall_ms
        if abs(jump_ms - self._jump_ms) > JUMP_MS:
            self._jump_ms, self._jumped_s = jump_ms, at_s
        elif at_s - self._jumped_s >= SETTLE_S:
            self._follow(wall_ms, at_s)
            return wall_ms
        return steady_ms
