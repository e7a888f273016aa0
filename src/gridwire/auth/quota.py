"""Token buckets: how long somebody who used too much has to wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WAIT_S_MAX: Final = 30.0
"""Longest wait asked of a client at once; more would look like a broken connection."""


@dataclass(slots=True)
class Bucket:
    """Fills with `rate` a second up to one second's worth; may be overdrawn, then waited for. Rate 0: no limit."""

    rate: float
    level: float = 0.0
    at_s: float = 0.0

    def __post_init__(self) -> None:
        self.level = self.rate

    def take(self, amount: float, now_s: float) -> float:
        """Use some, and return the seconds to wait before more may be used."""
        if self.rate <= 0:
            return 0.0
        self._fill(now_s)
        self.level -= amount
        return self._wait_s()

    def wait_s(self, now_s: float) -> float:
        """Seconds until something may be used."""
        if self.rate <= 0:
            return 0.0
        self._fill(now_s)
        return self._wait_s()

    def _fill(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self.at_s)
        self.at_s = max(now_s, self.at_s)
        self.level = min(self.rate, self.level + passed_s * self.rate)

    def _wait_s(self) -> float:
        return min(WAIT_S_MAX, -self.level / self.rate) if self.level < 0 else 0.0
