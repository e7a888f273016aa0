"""Routes of alerts over HTTP: what `gridwire alert route` talks to. Takes Manage on `grid.alerts`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import msgspec

from gridwire.broker.alert_routes import (
    STATES,
    TIME_LIMIT_S,
    AlertRoutes,
    RouteNote,
    RouteRecord,
    check_header,
    check_route,
    group_of,
    new_id,
    newest_note,
)
from gridwire.broker.port import Broker, Place, Position
from gridwire.core.errors import GridwireError, InvalidSetting, UnknownHub
from gridwire.core.hubs import ALERTS
from gridwire.heads.http.request import parse_json
from gridwire.wire.http.problems import HttpError

BY_CHARS_MAX: Final = 200


class Receivers(Protocol):
    """Who speaks to receivers for us: heads know nothing of the router."""

    async def agree(self, url: str, headers: dict[str, str]) -> int:
        """Requests a minute that a receiver allows, 0 for no limit. Raises GridwireError: it does not agree."""
        ...

    async def test(self, name: str, record: RouteRecord) -> dict[str, Any]:
        """Send a sample and tell what came back."""
        ...


class NewRoute(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/alert-routes. `header`: `Name: value`, shown to nobody again."""

    name: str
    url: str
    kind: str = "*"
    subject: str = "*"
    severity: str = "info"
    states: list[str] = msgspec.field(default_factory=lambda: list(STATES))
    silenced: bool = False
    mode: str = "structured"
    header: str = ""
    handshake: bool = True
    time_limit_s: int = TIME_LIMIT_S
    by: str = ""


class AlertRoutesApi:
    """What the addresses do; results are plain values for JSON. `who`: whoever asked, empty where nobody signs in."""

    def __init__(self, broker: Broker, routes: AlertRoutes, receivers: Receivers) -> None:
        self._broker, self._routes, self._receivers = broker, routes, receivers

    async def list(self) -> dict[str, Any]:
        """All routes, and how each is."""
        return {"routes": [await self._shown(name, record) for name, record in self._routes.all().items()]}

    async def show(self, name: str) -> dict[str, Any]:
        """One of them. Raises UnknownRoute."""
        return await self._shown(name, self._routes.get(name))

    async def add(self, who: str, body: bytes) -> dict[str, Any]:
        """Make a route, once its receiver agrees. Raises HttpError 400, InvalidSetting, RouteExists."""
        wanted = parse_json(body, NewRoute)
        if len(wanted.by) > BY_CHARS_MAX:
            raise HttpError(400, f"by has more than {BY_CHARS_MAX} characters")
        header, secret = check_header(wanted.header) if wanted.header else ("", "")
        record = RouteRecord(
            id=new_id(), url=wanted.url, kind=wanted.kind, subject=wanted.subject, severity=wanted.severity,
            states=[state for state in STATES if state in wanted.states], silenced=wanted.silenced, mode=wanted.mode,
            header=header, handshake=wanted.handshake, time_limit_s=wanted.time_limit_s, created_by=who or wanted.by,
        )  # fmt: skip
        if unknown := set(wanted.states) - set(STATES):
            raise InvalidSetting(f"there is no state {sorted(unknown)[0][:40]!r}: there are {', '.join(STATES)}")
        check_route(wanted.name, record)
        if wanted.handshake:
            record = msgspec.structs.replace(record, rate_per_min=await self._agreed(wanted.url, header, secret))
        if secret:
            record = msgspec.structs.replace(record, secret=self._routes.sealed(wanted.name, record, secret))
        await self._routes.add(wanted.name, record)
        return await self.show(wanted.name)

    async def _agreed(self, url: str, header: str, secret: str) -> int:
        try:
            return await self._receivers.agree(url, {header: secret} if header else {})
        except GridwireError as error:
            raise HttpError(400, str(error)) from None

    async def remove(self, name: str) -> None:
        """Forget a route. Raises UnknownRoute."""
        await self._routes.remove(name)

    async def resume(self, name: str) -> dict[str, Any]:
        """Go on with a route that was stopped. Raises UnknownRoute."""
        return await self._shown(name, await self._routes.resume(name))

    async def test(self, name: str) -> dict[str, Any]:
        """Send a sample. Raises UnknownRoute."""
        return {"name": name, **await self._receivers.test(name, self._routes.get(name))}

    async def _shown(self, name: str, record: RouteRecord) -> dict[str, Any]:
        positions = await self._broker.positions(group_of(name, record))
        note = newest_note(positions)
        row: dict[str, Any] = msgspec.to_builtins(record)
        row.pop("secret"), row.pop("id")
        return {
            "name": name, **row,
            "state": "stopped" if record.stopped else "failing" if note.error_ms > note.delivered_ms else "on",
            "group": group_of(name, record), "waiting": await self._waiting(positions, note),
            "delivered": note.delivered, "failed": note.failed, "tries_failed": note.tries,
            "delivered_ms": note.delivered_ms or None, "error": note.error, "error_ms": note.error_ms or None,
        }  # fmt: skip

    async def _waiting(self, positions: Mapping[Place, Position], note: RouteNote) -> int:
        """Findings that wait for their delivery, and events nobody has looked at yet."""
        try:
            partitions = self._broker.hub(ALERTS).partitions
        except UnknownHub:
            return 0
        bounds = await self._broker.bounds_of([(ALERTS, number) for number in range(partitions)])
        waiting = sum(len(named) - 1 for named in note.beyond.values() if named)
        for place, each in bounds.items():
            position = positions.get(place)
            read = each.start if position is None else max(each.start, _read(place, position, note))
            waiting += max(0, each.end - read)
        return waiting


def _read(place: Place, position: Position, note: RouteNote) -> int:
    """How far a place was looked at."""
    return position.offset + (note.beyond.get(f"{place[0]}/{place[1]}") or [0])[0]
