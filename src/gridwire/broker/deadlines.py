"""Deadlines of many groups on one timer.

A group is filed under the earliest time at which it may have something to do. Filing a later time changes nothing: the
group is looked at when the earlier one comes, and files its next one then. So a heartbeat costs no timer.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable

from gridwire.core.clock import Clock


class Deadlines:
    """Calls `due(name)` when a name's deadline has come; seconds on the monotonic clock."""

    def __init__(self, clock: Clock, due: Callable[[str], None]) -> None:
        self._clock = clock
        self._call = due
        self._heap: list[tuple[float, str]] = []
        self._filed: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf
        self._closed = False

    def __len__(self) -> int:
        """Entries kept, those that were overtaken by an earlier one included."""
        return len(self._heap)

    def __contains__(self, name: str) -> bool:
        return name in self._filed

    def file(self, name: str, deadline_s: float) -> None:
        """Look at `name` no later than this."""
        if deadline_s < self._filed.get(name, math.inf):
            self._filed[name] = deadline_s
            heapq.heappush(self._heap, (deadline_s, name))
            self._arm()

    def forget(self, name: str) -> None:
        """The name is gone."""
        self._filed.pop(name, None)

    def tick(self) -> None:
        """Call for what is due at the clock's time."""
        now_s = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now_s:
            deadline_s, name = heapq.heappop(self._heap)
            if self._filed.get(name) == deadline_s:
                del self._filed[name]
                self._call(name)
        self._arm()

    def close(self) -> None:
        """Stop the timer for good."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        """Set the one timer to the earliest deadline; an earlier timer that is already set may stay."""
        if self._closed or not self._heap or self._heap[0][0] >= self._timer_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = self._heap[0][0]
        delay_s = max(0.0, self._timer_s - self._clock.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_s = math.inf
        self.tick()
