"""Alerts over HTTP: what `gridwire alert` talks to. Reading takes Listen on `grid.alerts`, a note Send on its hub."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from gridwire.alerts import SILENCES_MAX, AlertBook, Note, Silenced, acknowledge, moment, note_event, silence
from gridwire.broker.port import Broker, Place
from gridwire.core import batch
from gridwire.core.clock import Clock
from gridwire.core.errors import HubExists, UnknownHub
from gridwire.core.hubs import ALERT_NOTES, ALERTS
from gridwire.heads.http import reading
from gridwire.heads.http.request import parse_json, whole_number
from gridwire.wire.http.cloudevents import time_ms
from gridwire.wire.http.problems import HttpError

LOOK_BACK_EVENTS: Final = 50_000
"""Events of each partition read when somebody asks first: a second of work. What is older is in the lake."""

LIMIT_MAX: Final = 10_000
BY_CHARS_MAX: Final = 200


class NewAcknowledgement(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/alerts/{id}/ack. `by`: where nobody signs in."""

    why: str = ""
    by: str = ""


class NewSilence(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/silences: until a time, or for so many seconds."""

    why: str
    kind: str = "*"
    subject: str = "*"
    until: datetime | None = None
    for_s: int | None = None
    by: str = ""


class Alerts:
    """What the addresses do; results are plain values for JSON. `who`: whoever asked, empty where nobody signs in."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self._broker, self._clock = broker, clock
        self._book = AlertBook()
        self._read: dict[Place, int] = {}
        self._ids: dict[str, Any] = {}
        self._lock = asyncio.Lock()

    async def list(self, query: dict[str, str]) -> dict[str, Any]:
        """Findings. Raises HttpError 400."""
        state = query.get("state", "open")
        if state not in ("open", "closed", "all"):
            raise HttpError(400, f"state is open, closed or all, not {state[:40]!r}")
        at = query.get("at")
        if at is not None and time_ms(at) is None:
            raise HttpError(400, f"at is an RFC 3339 time such as 2016-06-14T07:45:00Z, not {at[:40]!r}")
        limit = whole_number(query.get("limit", "1000"), "limit")
        if not 1 <= limit <= LIMIT_MAX:
            raise HttpError(400, f"limit is 1 to {LIMIT_MAX}")
        await self._refresh()
        kind, subject = query.get("kind", "*"), query.get("subject", "*")
        if at is not None:
            then = datetime.fromisoformat(at.upper())
            return {"alerts": self._book.held(then, kind, subject, limit, self._now())}
        return {"alerts": self._book.list(state, kind, subject, limit, self._now())}

    async def show(self, id: str) -> dict[str, Any]:
        """One finding. Raises HttpError 404."""
        await self._refresh()
        alert = self._book.find(id)
        if alert is None:
            raise HttpError(404, f"no alert has the id {id[:200]!r}: `gridwire alert list --state all` shows them")
        return self._book.shown(alert, self._now())

    async def acknowledge(self, id: str, who: str, body: bytes) -> dict[str, Any]:
        """Say that a finding is seen. Raises HttpError 404, InvalidSetting."""
        wanted = parse_json(body or b"{}", NewAcknowledgement)
        await self.show(id)
        await self._say(acknowledge(id, _by(who, wanted.by), wanted.why, self._now()))
        return await self.show(id)

    async def silences(self) -> dict[str, Any]:
        """Silences in effect."""
        await self._refresh()
        return {"silences": [msgspec.to_builtins(each) for each in self._book.notes.in_effect(self._now())]}

    async def silence(self, who: str, body: bytes) -> dict[str, Any]:
        """Begin a silence. Raises HttpError 400, 409, InvalidSetting."""
        wanted = parse_json(body, NewSilence)
        now = self._now()
        if (wanted.until is None) == (wanted.for_s is None):
            raise HttpError(400, "say either until when or for how many seconds")
        until = wanted.until or now + timedelta(seconds=min(wanted.for_s or 0, 10**9))
        if until.tzinfo is None:
            raise HttpError(400, "until is a time with an offset")
        await self._refresh()
        if len(self._book.notes.in_effect(now)) >= SILENCES_MAX:
            raise HttpError(409, f"there are {SILENCES_MAX} silences: end some, or make one with a pattern")
        made = silence(wanted.kind, wanted.subject, _by(who, wanted.by), wanted.why, now, until)
        await self._say(made)
        plain: dict[str, Any] = msgspec.to_builtins(made)
        return plain

    async def unsilence(self, name: str, who: str) -> None:
        """End a silence. Raises HttpError 404."""
        await self._refresh()
        known = self._book.notes.silences.get(name)
        now = self._now()
        if known is None or known.until <= now:
            raise HttpError(404, f"no silence has the name {name[:40]!r}: `gridwire alert silences` shows them")
        ended: Silenced = msgspec.structs.replace(known, until=now, ended_by=_by(who, "") or "somebody")
        await self._say(ended)

    def _now(self) -> datetime:
        return moment(self._clock.now_ms())

    async def _say(self, note: Note) -> None:
        """Durable when it returns."""
        try:
            self._broker.hub(ALERT_NOTES)
        except UnknownHub:
            try:
                await self._broker.create_hub(ALERT_NOTES)
            except HubExists:
                pass
        event = note_event(note)
        stamped = batch.Event(event.value, event.key, event.headers, self._clock.now_ms())
        await self._broker.append(ALERT_NOTES, 0, batch.encode([stamped]))
        self._book.notes.take(event.value)

    async def _refresh(self) -> None:
        """Read what came since the last time. One reader at a time: the others find it done."""
        async with self._lock:
            for hub in (ALERTS, ALERT_NOTES):
                try:
                    info = self._broker.hub(hub)
                except UnknownHub:
                    continue
                if self._ids.setdefault(hub, info.id) != info.id:  # made anew under the same name
                    self._ids[hub] = info.id
                    self._read = {place: at for place, at in self._read.items() if place[0] != hub}
                for partition in range(info.partitions):
                    await self._read_on(hub, partition)

    async def _read_on(self, hub: str, partition: int) -> None:
        place = (hub, partition)
        take = self._book.take if hub == ALERTS else self._book.notes.take
        bounds = await self._broker.bounds(hub, partition)
        at = self._read.get(place, bounds.start if hub == ALERT_NOTES else bounds.end - LOOK_BACK_EVENTS)
        at = min(max(at, bounds.start), bounds.end)
        while at < bounds.end:
            stretch = await reading.read(self._broker, hub, partition, at)
            before = at
            for block in stretch.blocks:
                for event in block.events:
                    take(event.value)
                at = block.next_offset
                await asyncio.sleep(0)
            if at <= before:
                break
        self._read[place] = at


def _by(who: str, said: str) -> str:
    """Who speaks: whoever signed in, else who the request says."""
    if len(said) > BY_CHARS_MAX:
        raise HttpError(400, f"by has more than {BY_CHARS_MAX} characters")
    return who or said
