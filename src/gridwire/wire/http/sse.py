"""Server-sent events: frames out, Last-Event-ID in.

A tail's event id is `partition:offset`: the event's own place first and then the last place sent of every
other partition, comma separated: `1:20,0:11,2:-1`. A client that comes back with it misses nothing anywhere.

Source: WHATWG HTML, "Server-sent events".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

CONTENT_TYPE: Final = "text/event-stream"
HEARTBEAT: Final = b": heartbeat\n\n"

ID_PLACES_MAX: Final = 64
"""Partitions an id lists; with more, an id names its own place only, or it would outweigh the event."""

_ID = re.compile(r"\d{1,5}:(-1|\d{1,19})(,\d{1,5}:(-1|\d{1,19})){0,63}\Z", re.ASCII)


def frame(data: bytes, *, event: str = "", event_id: str = "") -> bytes:
    """One event; `data` must hold no line break."""
    head = f"event: {event}\n" if event else ""
    if event_id:
        head += f"id: {event_id}\n"
    return b"%bdata: %b\n\n" % (head.encode(), data)


def opening(retry_ms: int) -> bytes:
    """First bytes of a stream: how long to wait before coming back; proxies let go of the headers at them."""
    return b"retry: %d\n\n" % retry_ms


def mark(event_id: str) -> bytes:
    """An id without an event: the client remembers it, so that even one that got nothing yet can come back."""
    return b"id: %b\n\n" % event_id.encode()


def place_id(partition: int, offset: int, sent: Mapping[int, int]) -> str:
    """Id of the event at (partition, offset); `sent` has the last offset sent of each partition, -1 for none."""
    own = f"{partition}:{offset}"
    if len(sent) > ID_PLACES_MAX:
        return own
    return ",".join([own, *(f"{p}:{at}" for p, at in sent.items() if p != partition)])


def read_id(text: str) -> dict[int, int]:
    """Last offset seen per partition of a Last-Event-ID; empty when it is none of ours."""
    if not _ID.match(text):
        return {}
    return {int(partition): int(offset) for partition, _, offset in (place.partition(":") for place in text.split(","))}
