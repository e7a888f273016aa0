"""Trying quarantined frames again, each exactly once.

A frame's identity is a digest of its format, source, bytes and what it needs to be read; the same frame in quarantine
twice is one frame. What a replay does is written to the hub `quarantine.replays` around what it sends:

    {"begun":[identity, ...],"ends":{"readings":{"0":120,"1":98}}}     before anything is sent
    {"done":[identity, ...]}                                           when everything is durable

Every event sent carries its frame's identity and its number in the frame as headers. A replay that finds a beginning
without its end looks through what came after those offsets and sends only what is not there. One replay runs at a time.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Protocol

import orjson

from gridwire.core.batch import Event
from gridwire.core.errors import Unsupported
from gridwire.core.hubs import QUARANTINE, QUARANTINE_REPLAYS, READINGS, WEATHER
from gridwire.grid.formats import registry
from gridwire.grid.formats.base import BadFrame, Context, Decoded, Item
from gridwire.grid.ingest import happened_events, reading_events, weather_events
from gridwire.grid.meter_event import METER_EVENTS_HUB
from gridwire.grid.reading import timestamp_us

BATCH_FRAMES: Final = 500
"""Frames replayed between two records of the replay hub."""

_OUTPUTS: Final = (READINGS, METER_EVENTS_HUB, WEATHER)
_FRAME_HEADER, _NUMBER_HEADER = "frame", "frame_number"


class Stored(Protocol):
    """An event read back."""

    @property
    def offset(self) -> int:
        """Its offset."""
        ...

    @property
    def value(self) -> bytes:
        """Its bytes."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers."""
        ...


class Hubs(Protocol):
    """What a replay needs of a hub server."""

    def stored(self, hub: str, partition: int, offset: int) -> Iterator[Stored]:
        """Events from an offset to the end."""
        ...

    def ends(self, hub: str) -> dict[int, int]:
        """End offset by partition; empty for a hub that does not exist."""
        ...

    def send_events(self, hub: str, events: list[Event]) -> None:
        """Send events; durable when it returns."""
        ...


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame in quarantine: its pieces put together. `offset`: of the first piece."""

    offset: int
    raw: bytes
    reason: str
    format: str
    source: str
    position: str
    prelude: bytes = b""
    meter: str = ""
    zone: str = ""
    received_at: str = ""

    @property
    def identity(self) -> str:
        """What makes it the same frame."""
        digest = hashlib.sha256()
        for part in (self.format.encode(), self.source.encode(), self.prelude, self.raw):
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()[:32]


@dataclass(slots=True)
class ReplayReport:
    """What became of the frames. `still_bad`: offset and today's reason."""

    frames: int = 0
    replayed: int = 0
    already: int = 0
    readings: int = 0
    events: int = 0
    weather: int = 0
    still_bad: list[tuple[int, str]] = field(default_factory=list)


def frames(hubs: Hubs) -> Iterator[Frame]:
    """Frames in quarantine, oldest first."""
    begun: Frame | None = None
    for partition in sorted(hubs.ends(QUARANTINE)):
        for event in hubs.stored(QUARANTINE, partition, 0):
            headers = event.headers
            if begun is None:
                begun = Frame(
                    event.offset, event.value, headers.get("reason", ""), headers.get("format", ""),
                    headers.get("source", ""), headers.get("position", ""),
                    base64.b64decode(headers.get("prelude", "")), headers.get("meter", ""), headers.get("zone", ""),
                    headers.get("received_at", ""),
                )  # fmt: skip
            else:
                begun = replace(begun, raw=begun.raw + event.value)
            if not headers.get("more"):
                yield begun
                begun = None
    if begun is not None:
        yield begun


def decoded(frame: Frame, told: Context) -> list[Item]:
    """A frame tried again. What was told at its ingest holds unless `told` says otherwise."""
    received_us = told.received_at_us or (_instant_us(frame.received_at) if frame.received_at else None)
    zone = frame.zone if frame.zone and told.zone == Context().zone else told.zone
    meter = told.meter or frame.meter
    context = replace(told, source=frame.source, meter=meter, zone=zone, fragment=True, received_at_us=received_us)
    chunks = (frame.prelude, frame.raw)
    return list(registry.get(frame.format).stream(iter(chunks), context))


def _instant_us(text: str) -> int:
    return timestamp_us(datetime.fromisoformat(text))


class _Journal:
    """What replays have done: identities that are done, and those begun with the ends of the output hubs then."""

    def __init__(self, hubs: Hubs) -> None:
        self._hubs = hubs
        self.done: set[str] = set()
        self.begun: dict[str, dict[str, dict[str, int]]] = {}
        for partition in hubs.ends(QUARANTINE_REPLAYS):
            for event in hubs.stored(QUARANTINE_REPLAYS, partition, 0):
                record = orjson.loads(event.value)
                self.done.update(record.get("done", ()))
                for identity in record.get("begun", ()):
                    self.begun.setdefault(identity, record["ends"])  # the first attempt may have sent something

    def begin(self, identities: list[str]) -> None:
        ends = {hub: {str(p): end for p, end in self._hubs.ends(hub).items()} for hub in _OUTPUTS}
        self._append({"begun": identities, "ends": ends})

    def end(self, identities: list[str]) -> None:
        self._append({"done": identities})
        self.done.update(identities)

    def _append(self, record: dict[str, Any]) -> None:
        self._hubs.send_events(QUARANTINE_REPLAYS, [Event(orjson.dumps(record), b"replay")])

    def sent(self, identities: Iterable[str]) -> set[tuple[str, str, str]]:
        """(hub, identity, number) of what interrupted replays of these have sent."""
        wanted = {identity: self.begun[identity] for identity in identities if identity in self.begun}
        found = set()
        for hub in _OUTPUTS if wanted else ():
            for partition in self._hubs.ends(hub):
                first = min(ends.get(hub, {}).get(str(partition), 0) for ends in wanted.values())
                for event in self._hubs.stored(hub, partition, first):
                    identity = event.headers.get(_FRAME_HEADER)
                    if identity in wanted:
                        found.add((hub, identity, event.headers.get(_NUMBER_HEADER, "")))
        return found


def replay(
    hubs: Hubs, told: Context, usage_point: Callable[[str], str], wanted: Callable[[Frame], bool] = lambda _: True
) -> ReplayReport:
    """Try quarantined frames again and send what can be read now; what still cannot stays where it is.

    A frame counts as replayed when all of it can be read. Interrupted at any point, the next replay goes on without
    repeating an event.
    """
    journal = _Journal(hubs)
    report = ReplayReport()
    ready: dict[str, list[Decoded]] = {}
    for frame in frames(hubs):
        if not wanted(frame):
            continue
        report.frames += 1
        if frame.identity in journal.done or frame.identity in ready:
            report.already += 1
            continue
        good = _good(frame, told, report)
        if good:
            ready[frame.identity] = good
        if len(ready) >= BATCH_FRAMES:
            _send(hubs, journal, ready, usage_point, report)
            ready = {}
    if ready:
        _send(hubs, journal, ready, usage_point, report)
    return report


def _good(frame: Frame, told: Context, report: ReplayReport) -> list[Decoded]:
    try:
        found = decoded(frame, told)
    except Unsupported as error:
        report.still_bad.append((frame.offset, str(error)))
        return []
    bad = [item for item in found if isinstance(item, BadFrame)]
    good = [item for item in found if isinstance(item, Decoded)]
    if bad or not good:
        report.still_bad.append((frame.offset, bad[0].reason if bad else "frame carries no reading"))
        return []
    return good


def _send(
    hubs: Hubs,
    journal: _Journal,
    ready: dict[str, list[Decoded]],
    usage_point: Callable[[str], str],
    report: ReplayReport,
) -> None:
    sent = journal.sent(ready)
    journal.begin(list(ready))
    outputs: dict[str, list[Event]] = {hub: [] for hub in _OUTPUTS}
    for identity, items in ready.items():
        for hub, made in (
            (READINGS, [e for item in items for e in reading_events(item, usage_point)]),
            (METER_EVENTS_HUB, [e for item in items for e in happened_events(item, usage_point)]),
            (WEATHER, [e for item in items for e in weather_events(item)]),
        ):
            for number, event in enumerate(made):
                if (hub, identity, str(number)) not in sent:
                    marks = ((_FRAME_HEADER, identity.encode()), (_NUMBER_HEADER, str(number).encode()))
                    outputs[hub].append(Event(event.value, event.key, (*event.headers, *marks)))
    for hub, events in outputs.items():
        for start in range(0, len(events), 5000):
            hubs.send_events(hub, events[start : start + 5000])
    journal.end(list(ready))
    report.replayed += len(ready)
    report.readings += len(outputs[READINGS])
    report.events += len(outputs[METER_EVENTS_HUB])
    report.weather += len(outputs[WEATHER])
