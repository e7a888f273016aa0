"""What hosts of functions tell the hub of themselves, every second or so: for lists, metrics and the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

STALE_S: Final = 15.0
"""A host that has told nothing for so long is taken for gone."""

HOSTS_MAX: Final = 256
"""Apps that are remembered."""


class FunctionReport(msgspec.Struct, frozen=True):
    """One function of a host.

    Args:
        counters: running totals since the host started. `flushed_REASON`: why batches were given out.
        buckets: calls by how long they took, see `DURATION_BUCKETS_S`.
        last_error: one line. last_error_ms: when.
    """

    name: str
    trigger: str
    when: str = ""
    reads: str = ""
    writes: list[str] = []
    state: str = "running"
    counters: dict[str, float] = {}
    buckets: list[int] = []
    last_error: str = ""
    last_error_ms: int = 0


class AppReport(msgspec.Struct, frozen=True):
    """One host.

    Args:
        version: 0 when it was not deployed. url: of its HTTP functions. cpu_s: of host and workers.
        ended: the host says goodbye.
    """

    app: str
    version: int = 0
    url: str = ""
    pid: int = 0
    workers: int = 0
    worker_starts: int = 0
    cpu_s: float = 0.0
    functions: list[FunctionReport] = []
    ended: bool = False


DURATION_BUCKETS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0)
"""Upper bounds of the histogram of calls: a batch takes milliseconds, and some functions talk to the world."""


class Reports:
    """The newest report of each app."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._found: dict[str, tuple[float, AppReport]] = {}

    def take(self, told: dict[str, Any]) -> None:
        """Remember what a host says. Raises msgspec.ValidationError."""
        report = msgspec.convert(told, AppReport)
        if report.ended:
            self._found.pop(report.app, None)
        elif report.app in self._found or len(self._found) < HOSTS_MAX:
            self._found[report.app] = (self._monotonic(), report)

    def fresh(self) -> dict[str, AppReport]:
        """Reports of hosts that are there, by app."""
        now = self._monotonic()
        self._found = {app: (at, report) for app, (at, report) in self._found.items() if now - at <= STALE_S}
        return {app: report for app, (_, report) in self._found.items()}
