"""The grid over HTTP: its network, its past, and the readings of a usage point. The page's Grid view is made of these.

What is in the lake is read by a process of its own (`LakeReader`). Network models come out of the hub `grid.network`.
Of each version its times, counts and place in the hub are kept; of a few models devices and counts. Other models are
read again when somebody asks for their time, usage points always, from the events that hold them.
"""

from __future__ import annotations

import asyncio
import hashlib
from bisect import insort
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import msgspec

from gridwire.broker.port import Broker
from gridwire.core.clock import Clock, SystemClock
from gridwire.core.errors import OffsetOutOfRange, UnknownHub
from gridwire.core.hubs import ALERTS, FEEDERS, HEALTH, METER_EVENTS, NETWORK, READINGS, TRANSFORMERS, WEATHER
from gridwire.core.timeline import holding, in_effect, instant_us
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

VERSIONS_MAX: Final = 10_000
"""Versions of the network model that are known, the newest ones: one a day for 27 years."""

VERSIONS: Final = 100
MODELS_MAX: Final = 3
"""Models kept in memory: the newest, and those that were asked for last."""

_DAY_S: Final = 86_400
_VOID: Final = -1
"""The next part of a model that contradicts itself: none."""

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
    valid_from: str = ""
    model: str = ""
    part: int = 0
    parts: int = 1


_PART: Final = msgspec.json.Decoder(_Part)


@dataclass(frozen=True, slots=True, order=True)
class _Version:
    """A model and the events it lies in; sorts as in the hub, between partitions by time.

    Args:
        published_ms: time of its event, or of an earlier one of its partition that was later.
        offset: of its last event.
        ahead: it was published before the time from which it holds.
    """

    published_ms: int
    partition: int
    offset: int
    first_offset: int
    digest: bytes
    valid_from_us: int
    ahead: bool
    name: str
    model: str
    transformers: int
    feeders: int
    usage_points: int


@dataclass(slots=True)
class _Model:
    """A network as far as it has been read."""

    name: str
    interval_s: int
    model: str
    valid_from: str
    first_offset: int
    parts: int
    transformers: dict[str, _Transformer] = field(default_factory=dict)
    feeders: dict[str, _Feeder] = field(default_factory=dict)
    customers: dict[tuple[str, str], int] = field(default_factory=dict)
    """Usage points by transformer and feeder."""

    places: dict[int, set[str]] = field(default_factory=dict)
    """Transformers and feeders whose usage points an event (its offset) holds."""

    next_part: int = 0
    hashed: Any = field(default_factory=hashlib.sha256)

    def add(self, part: _Part, offset: int) -> bool:
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
            self.places[offset] = units
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

    def __init__(self, broker: Broker, alerts: Alerts, reader: Reader | None, clock: Clock | None = None) -> None:
        self._broker, self._alerts, self._reader = broker, alerts, reader
        self._clock = clock or SystemClock()
        self._lock = asyncio.Lock()
        self._forget(None)

    async def network(self, query: dict[str, str]) -> dict[str, Any]:
        """The model that holds now, or at a time. Raises HttpError 400, 404."""
        version, model = await self._holding(query)
        return {**model.shown(), **self._told(version)}

    async def networks(self, query: dict[str, str]) -> dict[str, Any]:
        """Versions of the model, the newest first, those that were replaced too. Raises HttpError 400."""
        limit = number_of(query, "limit", VERSIONS, 1, VERSIONS_MAX)
        async with self._lock:
            await self._refresh()
        newest = self._published[: -limit - 1 : -1]
        rows = [{"name": version.name, **self._told(version), **_counts(version)} for version in newest]
        return {"networks": rows, "truncated": len(self._published) > limit}

    async def usage_points(self, query: dict[str, str]) -> dict[str, Any]:
        """Usage points of a transformer or feeder, now or at a time. Raises HttpError 400, 404."""
        kind, unit = _unit(query)
        version, model = await self._holding(query)
        if unit not in (model.transformers if kind == "transformer" else model.feeders):
            raise HttpError(404, f"no {kind} is called {unit[:80]!r}: GET /v1/grid/network lists them")
        found: list[dict[str, Any]] = []
        for offset, units in list(model.places.items()):
            if f"{kind}/{unit}" not in units:
                continue
            part = await self._part(version.partition, offset)
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

    def _forget(self, hub_id: Any) -> None:
        self._hub_id = hub_id
        self._read: dict[int, int] = {}
        self._newest_ms: dict[int, int] = {}
        self._growing: dict[int, _Model] = {}
        self._published: list[_Version] = []
        self._versions: list[_Version] = []
        self._models: dict[_Version, _Model] = {}

    async def _holding(self, query: dict[str, str]) -> tuple[_Version, _Model]:
        """The model that holds at the time of a query, or now. Raises HttpError 400, 404."""
        time = _time(query, "at")
        async with self._lock:
            await self._refresh()
            version = self._now() if time is None else holding(self._versions, instant_us(time.upper()))
            if version is None:
                raise HttpError(404, "there is no network model yet: `gridwire network import` sends one")
            return version, await self._load(version)

    def _now(self) -> _Version | None:
        now_us = self._clock.now_ms() * 1000
        begun = (
            version for version in reversed(self._versions) if not version.ahead or version.valid_from_us <= now_us
        )
        return next(begun, self._versions[0] if self._versions else None)

    def _told(self, version: _Version) -> dict[str, Any]:
        """When a version holds: until `valid_to`, None: until further notice; and where it lies."""
        at = self._versions.index(version) if version in self._versions else None
        after = None if at is None or at + 1 == len(self._versions) else self._versions[at + 1]
        return {
            "valid_from": _text_of(version.valid_from_us),
            "valid_to": None if after is None else _text_of(after.valid_from_us),
            "in_effect": at is not None,
            "first": at == 0,
            "published": _text_of(version.published_ms * 1000),
            "partition": version.partition,
            "first_offset": version.first_offset,
            "offset": version.offset,
        }

    async def _refresh(self) -> None:
        """Read what the hub of models has got since the last time."""
        try:
            info = self._broker.hub(NETWORK)
            if info.id != self._hub_id:
                self._forget(info.id)
            for partition in range(info.partitions):
                await self._refresh_partition(partition)
        except UnknownHub:
            self._forget(None)

    async def _refresh_partition(self, partition: int) -> None:
        bounds = await self._broker.bounds(NETWORK, partition)
        at = max(self._read.get(partition, bounds.start), bounds.start)
        while at < bounds.end:
            stretch = await reading.read(self._broker, NETWORK, partition, at)
            before = at
            for block in stretch.blocks:
                for event in block.events:
                    self._take(event.value or b"", event.timestamp, partition, event.offset)
                    await asyncio.sleep(0)
                at = block.next_offset
            if at <= before:
                break
        self._read[partition] = at

    def _take(self, value: bytes, time_ms: int, partition: int, offset: int) -> None:
        """A model, or a part that continues the one before it; anything else is passed over."""
        published_ms = self._newest_ms[partition] = max(time_ms, self._newest_ms.get(partition, 0))
        model = _continued(self._growing.get(partition), value, offset)
        if model is None:
            return
        self._growing[partition] = model
        if model.next_part == model.parts:
            self._publish(self._growing.pop(partition), published_ms, partition, offset)

    def _publish(self, model: _Model, published_ms: int, partition: int, offset: int) -> None:
        try:
            told_us = instant_us(model.valid_from) if model.valid_from else None
        except ValueError:
            return
        version = _Version(
            published_ms, partition, offset, model.first_offset, model.hashed.digest(),
            published_ms * 1000 if told_us is None else told_us, told_us is not None and told_us > published_ms * 1000,
            model.name, model.model, len(model.transformers), len(model.feeders), sum(model.customers.values()),
        )  # fmt: skip
        insort(self._published, version)
        del self._published[:-VERSIONS_MAX]
        self._versions = in_effect(self._published)
        self._keep(version, model)

    def _keep(self, version: _Version, model: _Model) -> None:
        """Keep a model, and drop the one that was asked for longest ago; not the newest that is in effect."""
        self._models.pop(version, None)
        self._models[version] = model
        newest = self._versions[-1] if self._versions else None
        while len(self._models) > MODELS_MAX:
            del self._models[next(each for each in self._models if each != newest)]

    async def _load(self, version: _Version) -> _Model:
        """The model of a version, read again unless it is kept. Raises HttpError 404."""
        model = self._models.get(version)
        at = version.first_offset
        while model is None or model.next_part < model.parts:
            stretch = await self._stretch(version.partition, at)
            before = at
            for block in () if stretch is None else stretch.blocks:
                for event in block.events:
                    model = _continued(model, event.value or b"", event.offset) or model
                    if model is not None and model.next_part == model.parts:
                        break
                    await asyncio.sleep(0)
                at = block.next_offset
                if model is not None and model.next_part == model.parts:
                    break
            if at <= before:
                raise HttpError(404, "this version of the network model is no longer in its hub")
        self._keep(version, model)
        return model

    async def _stretch(self, partition: int, offset: int) -> reading.Stretch | None:
        try:
            return await reading.read(self._broker, NETWORK, partition, offset)
        except OffsetOutOfRange:
            return None

    async def _part(self, partition: int, offset: int) -> _Part:
        stretch = await self._stretch(partition, offset)
        for block in () if stretch is None else stretch.blocks:
            for event in block.events:
                if event.offset == offset:
                    return _PART.decode(event.value or b"")
        raise HttpError(404, "the network model was replaced while it was read: ask again")


def _continued(model: _Model | None, value: bytes, offset: int) -> _Model | None:
    """A model with the next event of its partition; None when that neither begins one nor continues this one."""
    try:
        part = _PART.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if part.part == 0:
        model = _Model(part.name, part.interval_s, part.model, part.valid_from, offset, part.parts)
    if model is None or (model.model, model.next_part) != (part.model, part.part):
        return None
    if part.interval_s <= 0 or _DAY_S % part.interval_s or not model.add(part, offset):
        model.next_part = _VOID
        return None
    model.hashed.update(value if part.parts > 1 else _undated(value))
    return model


def _undated(value: bytes) -> bytes:
    """A whole model in one spelling, without the time from which it holds."""
    fields = msgspec.json.decode(value)
    fields.pop("valid_from", None)
    return msgspec.json.encode(fields, order="deterministic")


def _counts(version: _Version) -> dict[str, int]:
    return {name: getattr(version, name) for name in ("transformers", "feeders", "usage_points")}


def _text_of(time_us: int) -> str:
    """RFC 3339 in UTC, with a fraction only when there is one."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    return moment.isoformat().removesuffix("+00:00") + "Z"


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
