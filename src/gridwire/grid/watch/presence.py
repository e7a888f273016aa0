"""Who is silent: usage points that have not sent an interval that most others have.

Silence is measured against the others, not against a clock: an interval is due once a quorum of those who usually
report have sent it and a grace has passed, or the next one has its quorum. So it holds for feeds of any delay, and for
a replay of the past. When the silent are many and nobody told why, it is the way to us that failed, not the supply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

DAY_S: Final = 86_400

KnownOut = Callable[[], NDArray[np.bool_]]
"""Which usage points have another sign of an outage, when somebody wants to know. **Shape**: `[n]`."""


@dataclass(frozen=True, slots=True)
class PresenceSettings:
    """What can be set.

    Args:
        quorum: share of the usage points heard in the last day that must have sent an interval before it is due.
        grace_s: how much longer others may take.
        failure_share: share of silent usage points without another sign of an outage above which it is the
            communication that failed; it has ended at half of it.
        miss_share: share of intervals that are usually missing, to begin with; it is learned.
    """

    quorum: float = 0.5
    grace_s: int = 120
    failure_share: float = 0.15
    miss_share: float = 0.02


class Presence:
    """Interval readings of every usage point. Times are seconds since 2000, as `int32`.

    `ends`: end of the newest interval of each usage point, 0 if there was none. `due`: end of the newest interval that
    is due; who has not sent it is silent. `failed`: the communication has failed.
    """

    def __init__(self, units: int, interval_s: int, settings: PresenceSettings) -> None:
        self.ends = np.zeros(units, np.int32)
        self.due = 0
        self.failed = False
        self.miss = settings.miss_share
        self._interval_s, self._settings = interval_s, settings
        self._newest = 0
        self._quorum_end = 0
        self._quorum_us = 0

    def take(self, points: NDArray[np.int32], ends: NDArray[np.int32]) -> None:
        """Interval readings came."""
        if len(points):
            np.maximum.at(self.ends, points, ends)
            self._newest = max(self._newest, int(ends.max()))

    def advance(self, now_us: int, known_out: KnownOut) -> bool:
        """Whether an interval has become due."""
        end = self._newest
        while end > self._quorum_end and not self._has_quorum(end):
            end -= self._interval_s
            if end < self._newest - 4 * self._interval_s:
                return self._judge(now_us, known_out)
        if end > self._quorum_end:
            if self._quorum_end > self.due:
                self._set_due(self._quorum_end, known_out)
                self._quorum_end, self._quorum_us = end, now_us
                return True
            self._quorum_end, self._quorum_us = end, now_us
        return self._judge(now_us, known_out)

    def _has_quorum(self, end: int) -> bool:
        active = int(np.count_nonzero(self.ends > end - DAY_S))
        return int(np.count_nonzero(self.ends >= end)) >= max(1, self._settings.quorum * active)

    def _judge(self, now_us: int, known_out: KnownOut) -> bool:
        waited = now_us - self._quorum_us >= self._settings.grace_s * 1_000_000
        if self._quorum_end > self.due and waited:
            self._set_due(self._quorum_end, known_out)
            return True
        return False

    def _set_due(self, end: int, known_out: KnownOut) -> None:
        self.due = end
        active = (self.ends > end - DAY_S) & ~known_out()
        share = float(np.count_nonzero(active & (self.ends < end))) / max(1, int(np.count_nonzero(active)))
        limit = self._settings.failure_share
        self.failed = share > (limit / 2 if self.failed else limit)
        if not self.failed:
            self.miss = float(np.clip(0.9 * self.miss + 0.1 * share, 0.002, 0.2))

    def silent(self, units: NDArray[np.int32] | slice = slice(None)) -> NDArray[np.bool_]:
        """Which of them have not sent the interval that is due, though they did send in the day before."""
        ends = self.ends[units]
        return (ends < self.due) & (ends > self.due - DAY_S)

    def fell_silent(self) -> NDArray[np.int32]:
        """Usage points whose first missing interval is the one that is due."""
        new = (self.ends < self.due) & (self.ends >= self.due - self._interval_s)
        return np.flatnonzero(new).astype(np.int32)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For a snapshot."""
        numbers = [self.due, int(self.failed), self._newest, self._quorum_end, self._quorum_us]
        return {"ends": self.ends, "presence": np.array(numbers, np.int64), "miss": np.array([self.miss])}

    def from_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a snapshot."""
        self.ends[:] = arrays["ends"]
        self.due, failed, self._newest, self._quorum_end, self._quorum_us = arrays["presence"].tolist()
        self.failed, self.miss = bool(failed), float(arrays["miss"][0])
