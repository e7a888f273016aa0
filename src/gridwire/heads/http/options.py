"""What the HTTP endpoint allows, and what it counts."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from gridwire.core.limits import CONNECTIONS_MAX, HTTP_BODY_BYTES_MAX, KIB, MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Limits of the HTTP endpoint; a test makes them small."""

    body_bytes_max: int = HTTP_BODY_BYTES_MAX
    """One request body, before and after decompression."""

    admin_bytes_max: int = MIB
    """One administrative request body."""

    body_bytes_in_flight_max: int = 256 * MIB
    """Bodies in memory at once, over all connections; above it the answer is 429."""

    body_idle_s: float = 10.0
    """Longest pause inside a body: a client that drips holds memory."""

    body_total_s: float = 120.0
    """Longest time one body may take."""

    head_bytes_max: int = 64 * KIB
    """Request line and headers."""

    head_timeout_s: float = 10.0
    """Longest time the request line and headers may take, and an untouched connection may wait."""

    keep_alive_s: int = 75
    """How long an idle connection is kept between two requests."""

    write_stall_s: float = 60.0
    """How long a client may not read before its connection is dropped; nothing queues up behind it meanwhile."""

    unread_bytes_max: int = 256 * MIB
    """Answers that clients have not read yet, over all connections; above it those who read least are cut."""

    discard_bytes_max: int = 64 * MIB
    """What is read and dropped of a body that was refused, so that the client gets to read why."""

    discard_s: float = 30.0
    """How long that may take."""

    connections_max: int = CONNECTIONS_MAX
    """Open connections."""

    streams_max: int = 256
    """Open event streams; each may decode for its client."""

    heartbeat_s: float = 15.0
    """Pause after which a quiet stream says that it is alive."""

    drain_s: float = 5.0
    """How long a stop waits for requests that are being answered."""


APPEND_BUCKETS_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Upper bounds of the append time histogram: a sync takes 0.2 ms on a good disk and a second on a bad day."""


@dataclass(slots=True)
class HttpCounters:
    """Running totals since the start; plain numbers, because the ingest path adds to them."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By (route, status)."""

    problems: Counter[str] = field(default_factory=Counter)
    """Refused or failed requests by problem type."""

    events_received: int = 0
    bytes_received: int = 0
    batches_appended: int = 0
    events_sent: int = 0
    bytes_sent: int = 0
    events_skipped: int = 0
    connections: int = 0
    streams: int = 0
    append_buckets: list[int] = field(default_factory=lambda: [0] * (len(APPEND_BUCKETS_S) + 1))
    append_seconds: float = 0.0

    def appended(self, seconds: float) -> None:
        """Record how long one request waited for its events to become durable."""
        self.append_buckets[bisect_left(APPEND_BUCKETS_S, seconds)] += 1
        self.append_seconds += seconds
