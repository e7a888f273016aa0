"""`gridwire bench`: how fast is this machine."""

from __future__ import annotations

import time
from typing import Final

from gridwire.cli.output import Common, print_fields, print_json
from gridwire.core.batch import Event, encode

_BATCH_EVENTS: Final = 5000


def bench(*, seconds: float = 5.0, size: int = 100, common: Common = Common()) -> None:  # noqa: B008
    """Send events to a hub of its own over HTTP as fast as one connection can, and say how fast that was.

    The benchmarks behind the figures in the docs are in the source tree: `make bench`.

    Args:
        seconds: how long.
        size: bytes of an event.
    """
    client = common.client()
    hub = f"bench-{time.time_ns() // 1_000_000}"
    client.post("/v1/hubs", {"name": hub, "partitions": 1})
    body = bytes(encode([Event(b"x" * size, timestamp=time.time_ns() // 1_000_000)] * _BATCH_EVENTS))
    try:
        sent, taken = 0, []
        deadline = time.perf_counter() + seconds
        while (start := time.perf_counter()) < deadline:
            client.send(hub, body, "application/vnd.gridwire.batch")
            taken.append(time.perf_counter() - start)
            sent += _BATCH_EVENTS
    finally:
        client.delete(f"/v1/hubs/{hub}")
    taken.sort()
    figures = {
        "events": sent,
        "events a second": round(sent / sum(taken)),
        f"p50 of {_BATCH_EVENTS} events, ms": round(taken[len(taken) // 2] * 1000, 2),
        f"p99 of {_BATCH_EVENTS} events, ms": round(taken[int(len(taken) * 0.99)] * 1000, 2),
    }
    if common.json:
        print_json(figures)
    else:
        print_fields(figures)
