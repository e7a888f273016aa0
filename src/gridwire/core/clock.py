"""Time as a value that is passed in, so that tests never sleep and a jump of the wall clock cannot hurt."""

from __future__ import annotations

import time
from typing import Protocol


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
