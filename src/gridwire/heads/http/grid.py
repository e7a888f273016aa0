"""The grid over HTTP: its network, its past, and the readings of a usage point. The page's Grid view is made of these.

What is in the lake is read by a process of its own (`LakeReader`). The network model comes out of the hub
`grid.network`; only devices and counts are kept of it, usage points are read again from the events that hold them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from gridwire.broker.port import Broker
from gridwire.core.errors import OffsetOutOfRange, UnknownHub
from gridwire.core.hubs import ALERTS, FEEDERS, HEALTH, METER_EVENTS, NETWORK, READINGS, TRANSFORMERS, WEATHER
from gridwire.heads.http import reading
from gridwire.heads.http.alerts import Alerts
from gridwire.heads.http.request import number_of
from gridwire.wire.http.cloudevents import time_ms
from gridwire.wire.http.problems import HttpError

POINTS_MAX: Final = 5_000
"""Usage points of one answer; a transformer has tens, a feeder hundreds."""

INTERVALS_MAX: Final = 2_000
INTERVALS: Final = 192
"""Two days of quarter hours."""

NAME_CHARS_MAX: Final = 1_000

_SHOWN_HUBS: Final = (READINGS, METER_EVENTS, WEATHER, TRANSFORMERS, FEEDERS, HEALTH, ALERTS)
"""Hubs whose offsets at a moment are told."""


class Reader(Protocol):
    """Whoever answers questions about the lake: `gridwire.lake_reader`."""

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Raises UnknownHub, Unavailable."""
        ...


class _Transformer(msgspec.Struct, frozen=True):
    id: str
    rated_kva: float = 0.0
    substation: str = ""
    lon: float | None = None
    lat: float | None = None


class _Feeder(msgspec.Struct, frozen=True):
    id: str
    transformer: str = ""


class _Point(msgspec.Struct, frozen=True):
    id: str
    transformer: str
    feeder: str
    expects: tuple[str, ...] = ("import_kwh",)
    phase: int = 0
    category: str = ""
    active: bool = True


class _Part(msgspec.Struct, frozen=True):
    """An event of `grid.network`: a model, or a part of one; see `gridwire.grid.network_parts`."""

    name: str
    transformers: tuple[_Transformer, ...] = ()
    feeders: tuple[_Feeder, ...] = ()
    usage_points: tuple[_Point, ...] = ()
    interval_s: int = 900
    model: str = ""
    part: int = 0
    parts: int = 1


_PART: Final = msgspec.json.Decoder(_Part)


@dataclass(slots=True)
class _Model:
    """A network as far as it has been read."""

    name: str
    interval_s: int
    model: str
    transformers: dict[str, _Transformer] = field(default_factory=dict)
    feeders: dict[str, _Feeder] = field(default_factory=dict)
    customers: dict[tuple[str, str], int] = field(default_factory=dict)
    """Usage points by transformer and feeder."""

    places: dict[tuple[int, int], set[str]] = field(default_factory=dict)
    """Transformers and feeders whose usage points an event (partition, offset) holds."""

    next_part: int = 0

    def add(self, part: _Part, place: tuple[int, int]) -> bool:
        """Whether it names only what the model has."""
        self.transformers |= {row.id: row for row in part.transformers}
        self.feeders |= {row.id: row for row in part.feeders}
        self.next_part += 1
        units: set[str] = set()
        for point in part.usage_points:
            if point.transformer not in self.transformers or point.feeder not in self.feeders:
                return False
            under = (point.transformer, point.feeder)
            self.customers[under] = self.customers.get(under, 0) + 1
            units.update((f"transformer/{point.transformer}", f"feeder/{point.feeder}"))
        if units:
            self.places[place] = units
        return True

    def shown(self) -> dict[str, Any]:
        """Devices with the number of their usage points; a feeder above several transformers is named by each."""
        of_transformer, of_feeder = dict.fromkeys(self.transformers, 0), dict.fromkeys(self.feeders, 0)
        above: dict[str, list[str]] = {name: [] for name in self.transformers}
        for (transformer, feeder), count in self.customers.items():
            of_transformer[transformer] += count
            of_feeder[feeder] += count
            if not self.feeders[feeder].transformer:
                above[transformer].append(feeder)
        return {
            "name": self.name,
            "interval_s": self.interval_s,
            "transformers": [
                {**msgspec.to_builtins(row), "feeders": above[row.id], "customers": of_transformer[row.id]}
                for row in self.transformers.values()
            ],
            "feeders": [{**msgspec.to_builtins(row), "customers": of_feeder[row.id]} for row in self.feeders.values()],
        }


class Grid:
    """What the addresses do; results are plain values for JSON. reader: None where there is no lake."""

    def __init__(self, broker: Broker, alerts: Alerts, reader: Reader | None) -> None:
        self._broker, self._alerts, self._reader = broker, alerts, reader
        self._hub_id: Any = None
        self._read: dict[int, int] = {}
        self._current: _Model | None = None
        self._growing: dict[int, _Model] = {}
        self._lock = asyncio.Lock()

    async def network(self) -> dict[str, Any]:
        """The model in effect. Raises HttpError 404."""
        return (await self._model()).shown()

    async def usage_points(self, query: dict[str, str]) -> dict[str, Any]:
        """Usage points of a transformer or feeder, in the model's order. Raises HttpError 400, 404."""
        kind, unit = _unit(query)
        model = await self._model()
        if unit not in (model.transformers if kind == "transformer" else model.feeders):
            raise HttpError(404, f"no {kind} is called {unit[:80]!r}: GET /v1/grid/network lists them")
        found: list[dict[str, Any]] = []
        for (partition, offset), units in list(model.places.items()):
            if f"{kind}/{unit}" not in units:
                continue
            part = await self._part(partition, offset)
            found += [msgspec.to_builtins(point) for point in part.usage_points if getattr(point, kind) == unit]
            if len(found) > POINTS_MAX:
                break
        return {"usage_points": found[:POINTS_MAX], "truncated": len(found) > POINTS_MAX}

    async def times(self) -> dict[str, Any]:
        """The first and last interval of the lake."""
        return await self._ask(ask="times")

    async def at(self, query: dict[str, str]) -> dict[str, Any]:
        """The grid at a time: loads, health, findings, and how far each hub was. Raises HttpError 400, 404."""
        time = _time(query, "time")
        if time is None:
            raise HttpError(400, "say which time: ?time=2016-06-14T07:45:00Z")
        found = await self._ask(ask="at", time=time)
        reached_ms = found.pop("reached_ms")
        return {
            "time": time,
            **found,
            "alerts": (await self._alerts.list({"at": time, "limit": "10000"}))["alerts"],
            "reached_ms": reached_ms,
            "offsets": await self._offsets(reached_ms),
        }

    async def loads(self, query: dict[str, str]) -> dict[str, Any]:
        """A unit's intervals up to a time. Raises HttpError 400, 404."""
        kind, unit = _unit(query)
        until = _time(query, "until") or "9999-12-31T00:00:00Z"
        limit = number_of(query, "limit", INTERVALS, 1, INTERVALS_MAX)
        return await self._ask(ask="loads", kind=kind, unit=unit, until=until, limit=limit)

    async def readings(self, usage_point: str, query: dict[str, str]) -> dict[str, Any]:
        """A usage point's readings. Raises HttpError 400, 404."""
        versions = query.get("versions", "current")
        if versions not in ("current", "all"):
            raise HttpError(400, f"versions is current or all, not {versions[:40]!r}")
        since, until = _time(query, "from"), _time(query, "to")
        found = await self._ask(
            ask="readings", usage_point=_named(usage_point), since=since, until=until, versions=versions
        )
        return {"usage_point": usage_point, **found}

    async def _ask(self, **question: Any) -> dict[str, Any]:
        if self._reader is None:
            raise HttpError(404, "this hub keeps no lake: ask a hub that runs with workers")
        return await self._reader.ask(question)

    async def _offsets(self, reached_ms: int | None) -> list[dict[str, Any]]:
        """Where each partition of the grid's hubs was at a time by the hub's clock; None: where it is now."""
        names = {info.name: info.partitions for info in self._broker.hubs()}
        rows = []
        for hub in _SHOWN_HUBS:
            for partition in range(names.get(hub, 0)):
                try:
                    bounds = await self._broker.bounds(hub, partition)
                    found = None if reached_ms is None else await self._broker.offset_at(hub, partition, reached_ms)
                except UnknownHub:
                    continue
                rows.append({"hub": hub, "partition": partition, "offset": bounds.end if found is None else found[0]})
        return rows

    # -- the network model --------------------------------------------------------------------------------------

    async def _model(self) -> _Model:
        """Raises HttpError 404."""
        async with self._lock:
            try:
                await self._refresh()
            except UnknownHub:
                pass
        if self._current is None:
            raise HttpError(404, "there is no network model yet: `gridwire network import` sends one")
        return self._current

    async def _refresh(self) -> None:
        info = self._broker.hub(NETWORK)
        if info.id != self._hub_id:
            self._hub_id, self._read, self._current, self._growing = info.id, {}, None, {}
        for partition in range(info.partitions):
            bounds = await self._broker.bounds(NETWORK, partition)
            at = max(self._read.get(partition, bounds.start), bounds.start)
            while at < bounds.end:
                stretch = await reading.read(self._broker, NETWORK, partition, at)
                before = at
                for block in stretch.blocks:
                    for event in block.events:
                        self._take(event.value or b"", partition, event.offset)
                        await asyncio.sleep(0)
                    at = block.next_offset
                if at <= before:
                    break
            self._read[partition] = at

    def _take(self, value: bytes, partition: int, offset: int) -> None:
        """A model, or a part that continues the one before it; anything else is passed over."""
        try:
            part = _PART.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        if part.part == 0:
            self._growing[partition] = _Model(part.name, part.interval_s, part.model)
        model = self._growing.get(partition)
        if model is None or (model.model, model.next_part) != (part.model, part.part):
            return
        if not model.add(part, (partition, offset)):
            del self._growing[partition]
        elif model.next_part == part.parts:
            self._current = self._growing.pop(partition)

    async def _part(self, partition: int, offset: int) -> _Part:
        try:
            stretch = await reading.read(self._broker, NETWORK, partition, offset)
        except OffsetOutOfRange:
            stretch = None
        for block in () if stretch is None else stretch.blocks:
            for event in block.events:
                if event.offset == offset:
                    return _PART.decode(event.value or b"")
        raise HttpError(404, "the network model was replaced while it was read: ask again")


def _unit(query: dict[str, str]) -> tuple[str, str]:
    """Kind and name of the one unit a question is about. Raises HttpError 400."""
    named = [kind for kind in ("transformer", "feeder") if kind in query]
    if len(named) != 1:
        raise HttpError(400, "say which transformer or which feeder: ?transformer=T1")
    return named[0], _named(query[named[0]])


def _named(name: str) -> str:
    if not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable():
        raise HttpError(400, f"a name has 1 to {NAME_CHARS_MAX} printable characters, not {name[:40]!a}")
    return name


def _time(query: dict[str, str], name: str) -> str | None:
    """A time of the query, None when it is not there. Raises HttpError 400."""
    text = query.get(name)
    if text is not None and time_ms(text) is None:
        raise HttpError(400, f"{name} is an RFC 3339 time such as 2016-06-14T07:45:00Z, not {text[:40]!r}")
    return text
