"""What is counted of one function, and how a host tells the hub of all of them."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from gridwire.broker.reports import DURATION_BUCKETS_S
from gridwire.functions.model import Result

ERROR_CHARS_MAX: Final = 500
"""Of a last error: the log and the dead letter have all of it."""


@dataclass(slots=True)
class Account:
    """Running totals of one function since its host started."""

    counters: Counter[str] = field(default_factory=Counter)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BUCKETS_S) + 1))
    last_error: str = ""
    last_error_ms: int = 0

    def called(self, result: Result) -> None:
        """A call has ended, one way or the other, and says how long it took."""
        self.counters["busy_us"] += result.took_us
        self.counters["cpu_us"] += result.cpu_us
        self.buckets[bisect_left(DURATION_BUCKETS_S, result.took_us / 1e6)] += 1

    def failed(self, kind: str, reason: str) -> None:
        """A call has failed. `kind`: the counter, one of failures, timeouts and deaths."""
        self.counters[kind] += 1
        self.last_error = reason[:ERROR_CHARS_MAX]
        self.last_error_ms = time.time_ns() // 1_000_000
