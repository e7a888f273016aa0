"""What happened to a meter: power lost or back, a cover opened, a clock set; one JSON object of the hub `meter.events`.

    {"event_id":"a1b2...","meter":"M1","ts_event":"2026-01-01T00:00:00Z","kind":"LAST_GASP","event_type":"3.26.0.47",
     "native_code":"1","severity":"high","source":"head-end 1"}

`event_type` is the CIM EndDeviceEventType `type.domain.subDomain.eventOrAction` where the sender has one. The action
numbers differ between head-ends, so `kind` is what readers go by; a code nobody mapped has the kind OTHER and keeps its
code. `event_id` is the sender's, else a digest of the content: the same event sent twice has the same id.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import orjson

from gridwire.core import hubs
from gridwire.core.batch import Event
from gridwire.grid.reading import rfc3339

METER_EVENTS_HUB: Final = hubs.METER_EVENTS
"""The hub meter events are sent to."""

KINDS: Final = (
    "LAST_GASP", "POWER_RESTORED", "MOMENTARY", "TAMPER", "COVER_OPEN", "MAGNETIC", "REVERSE_FLOW", "VOLTAGE_HIGH",
    "VOLTAGE_LOW", "PHASE_LOSS", "CLOCK_SET", "METER_SWAP", "FIRMWARE", "COMM_LOST", "COMM_RESTORED", "OTHER",
)  # fmt: skip
"""What an event may be."""

_KIND_OF_TYPE: Final = {
    "3.26.0.47": "LAST_GASP", "3.26.136.47": "LAST_GASP", "3.26.136.66": "LAST_GASP",
    "3.26.0.85": "LAST_GASP", "3.26.0.216": "POWER_RESTORED", "3.26.136.216": "POWER_RESTORED",
}  # fmt: skip
"""Codes seen in use, by the whole EndDeviceEventType; others are OTHER until a feed says more."""


@dataclass(frozen=True, slots=True)
class MeterEvent:
    """One event of one meter.

    Args:
        ts_us: when it happened, microseconds since the epoch, UTC.
        kind: one of `KINDS`. event_type: the CIM code as sent. native_code: the sender's own.
        details: further name and value pairs as sent.
    """

    ts_us: int
    kind: str
    meter: str = ""
    usage_point: str = ""
    event_type: str = ""
    native_code: str = ""
    severity: str = ""
    event_id: str = ""
    source: str = ""
    details: tuple[tuple[str, str], ...] = ()


def kind_of(event_type: str) -> str:
    """The kind of a CIM EndDeviceEventType."""
    return _KIND_OF_TYPE.get(event_type, "OTHER")


def event_json(event: MeterEvent) -> bytes:
    """The event as the value of one event of the hub."""
    fields = {
        name: getattr(event, name)
        for name in ("usage_point", "meter", "kind", "event_type", "native_code", "severity", "source")
        if getattr(event, name)
    }
    fields["ts_event"] = rfc3339(event.ts_us)
    if event.details:
        fields["details"] = dict(event.details)
    content = orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
    fields["event_id"] = event.event_id or hashlib.sha256(content).hexdigest()[:32]
    return orjson.dumps(fields)


def meter_event(event: MeterEvent, key: str = "") -> Event:
    """The event keyed by its meter or usage point."""
    return Event(event_json(event), (key or event.usage_point or event.meter).encode())
