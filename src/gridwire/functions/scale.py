"""How many worker processes an app has: decided from lag in seconds and from how long somebody waits. No I/O.

    up    batches wait for a worker, and events are older than the target, for `UP_S`: one more
    down  no batch waited for a worker during `DOWN_S`: one less
    zero  nothing was to do during `idle_s`: none; the first event or request starts one again

The gap between `UP_S` and `DOWN_S` is the hysteresis. Never more processes than partitions that have work, and never
more than the cores allow: a further one could not get a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

UP_S: Final = 0.5
DOWN_S: Final = 15.0
IDLE_S: Final = 30.0
LAG_S: Final = 1.0
"""Age an event may reach before more workers are wanted."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the controller sees.

    Args:
        lag_s: age of the oldest event that is not done. starved_s: how long batches have waited for a worker.
        idle_s: how long nothing was to do. partitions: that can be worked on side by side.
    """

    lag_s: float
    starved_s: float
    idle_s: float
    partitions: int


class Controller:
    """Keeps the number between two limits.

    Args:
        least: workers that stay even when there is nothing to do. most: whatever the load.
    """

    def __init__(self, most: int, least: int = 0, lag_s: float = LAG_S, idle_s: float = IDLE_S) -> None:
        self._most, self._least = max(1, most), least
        self._lag_s, self._idle_s = lag_s, idle_s
        self._short_since: float | None = None
        self._ample_since: float | None = None

    def decide(self, load: Load, workers: int, now: float) -> int:
        """How many there should be."""
        if load.idle_s >= self._idle_s:
            self._short_since = self._ample_since = None
            return self._least
        short = load.starved_s >= UP_S and load.lag_s > self._lag_s
        self._short_since = (self._short_since if self._short_since is not None else now) if short else None
        ample = load.starved_s == 0
        self._ample_since = (self._ample_since if self._ample_since is not None else now) if ample else None
        most = min(self._most, max(1, load.partitions))
        if self._short_since is not None and workers < most:
            self._short_since = None
            return workers + 1
        if workers > most:
            return most
        if self._ample_since is not None and now - self._ample_since >= DOWN_S and workers > max(1, self._least):
            self._ample_since = now
            return workers - 1
        return workers
