"""Files of meter frames and weather into their hubs, what is unusable to `quarantine`, nothing is lost."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final, Protocol

from gridwire.core.batch import Event
from gridwire.grid.formats import registry
from gridwire.grid.formats.base import CHUNK_BYTES, BadFrame, Context, Decoded
from gridwire.grid.meter_event import METER_EVENTS_HUB, meter_event
from gridwire.grid.reading import QUARANTINE_HUB, READINGS_HUB, Reading, reading_event, rfc3339
from gridwire.grid.weather import WEATHER_HUB, weather_event

BATCH_EVENTS: Final = 5_000
"""Events of one request."""

BATCH_BYTES: Final = 4 * 1024 * 1024
"""Bytes of one request, well below the limit of the HTTP head."""


class Sender(Protocol):
    """Where events go. Returns when they are as durable as the hub promises; raises if they are not."""

    def send_events(self, hub: str, events: list[Event]) -> None:
        """Send events to a hub."""
        ...


@dataclass(slots=True)
class IngestReport:
    """What became of the files. `reasons`: bad frames by reason."""

    files: int = 0
    bytes: int = 0
    frames: int = 0
    readings: int = 0
    events: int = 0
    weather: int = 0
    quarantined: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def usage_point_of_meter(mapping: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """How meters become usage points: by `mapping`, else `meter:<id>`."""
    known = mapping or {}
    return lambda meter: known.get(meter) or f"meter:{meter}"


def quarantine_event(bad: BadFrame, format: str, source: str, context: Context | None = None) -> Event:
    """A bad frame as an event of the quarantine hub: its bytes verbatim, what else replaying it needs as headers."""
    headers = [
        ("reason", bad.reason.encode()),
        ("format", format.encode()),
        ("source", source.encode()),
        ("position", str(bad.position).encode()),
    ]
    if bad.prelude:
        headers.append(("prelude", base64.b64encode(bad.prelude)))
    if bad.more:
        headers.append(("more", b"1"))
    if context is not None:
        headers += [("meter", context.meter.encode())] if context.meter else []
        headers += [("zone", context.zone.encode())] if context.zone != Context().zone else []
        headers += [("received_at", rfc3339(context.received_at_us).encode())] if context.received_at_us else []
    return Event(bad.raw, source.encode(), tuple(headers))


def reading_events(
    decoded: Decoded, usage_point: Callable[[str], str], key_of: Callable[[str], str] | None = None
) -> Iterator[Event]:
    """The events of a good frame. `key_of`: the key of a usage point, such as its transformer."""
    for reading in decoded.readings:
        placed = _placed(reading, usage_point)
        key = key_of(placed.usage_point) if key_of else ""
        if decoded.verbatim:
            yield Event(decoded.verbatim, (key or placed.usage_point).encode())
        else:
            yield reading_event(placed, key)


def happened_events(decoded: Decoded, usage_point: Callable[[str], str]) -> Iterator[Event]:
    """The meter events of a good frame."""
    for event in decoded.events:
        yield meter_event(event if event.usage_point else replace(event, usage_point=usage_point(event.meter)))


def weather_events(decoded: Decoded) -> Iterator[Event]:
    """The weather of a good frame."""
    return map(weather_event, decoded.weather)


def _placed(reading: Reading, usage_point: Callable[[str], str]) -> Reading:
    return reading if reading.usage_point else replace(reading, usage_point=usage_point(reading.meter))


def ingest(
    format: str,
    paths: Iterable[str | Path],
    sender: Sender,
    *,
    usage_points: Mapping[str, str] | None = None,
    key_of: Callable[[str], str] | None = None,
    context: Context | None = None,
) -> IngestReport:
    """Decode files and send what comes out; memory stays bounded whatever their size.

    Args:
        usage_points: usage point by meter id.
        context: what the frames leave out (meter, time of receipt, zone); its source is replaced by each file's name.

    Raises:
        Unsupported: no such format. OSError: a file cannot be read; what came before it has been sent.
    """
    decoder = registry.get(format)
    report = IngestReport()
    usage_point = usage_point_of_meter(usage_points)
    outbox = _Outbox(sender)
    for path in map(Path, paths):
        source = path.name
        with path.open("rb") as file:
            for item in decoder.stream(_chunks(file, report), replace(context or Context(), source=source)):
                if isinstance(item, BadFrame):
                    report.quarantined += 1
                    report.reasons[item.reason] += 1
                    outbox.add(QUARANTINE_HUB, [quarantine_event(item, format, source, context)])
                else:
                    report.frames += 1
                    report.readings += len(item.readings)
                    report.events += len(item.events)
                    report.weather += len(item.weather)
                    outbox.add(READINGS_HUB, list(reading_events(item, usage_point, key_of)))
                    outbox.add(METER_EVENTS_HUB, list(happened_events(item, usage_point)))
                    outbox.add(WEATHER_HUB, list(weather_events(item)))
        report.files += 1
    outbox.flush()
    return report


def _chunks(file: IO[bytes], report: IngestReport) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        report.bytes += len(chunk)
        yield chunk


class _Outbox:
    """Collects events per hub into requests of bounded size."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._waiting: dict[str, list[Event]] = {}
        self._bytes: Counter[str] = Counter()

    def add(self, hub: str, events: Sequence[Event]) -> None:
        waiting = self._waiting.setdefault(hub, [])
        waiting.extend(events)
        self._bytes[hub] += sum(len(event.value or b"") for event in events)
        if len(waiting) >= BATCH_EVENTS or self._bytes[hub] >= BATCH_BYTES:
            self.flush(hub)

    def flush(self, hub: str | None = None) -> None:
        for name in [hub] if hub else list(self._waiting):
            events = self._waiting.pop(name, [])
            self._bytes[name] = 0
            if events:
                self._sender.send_events(name, events)
