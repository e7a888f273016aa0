"""Hubs and groups: list, create, change, delete, browse, reset."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gridwire.broker.claims import check_group
from gridwire.broker.port import Broker, GroupDirectory, HubInfo, Position
from gridwire.core.errors import InvalidSetting, UnknownPartition
from gridwire.core.limits import MIB, PARTITIONS_PER_HUB_MAX, check_name
from gridwire.heads.http import reading
from gridwire.heads.http.options import HttpCounters
from gridwire.heads.http.overview import Overview, works_for
from gridwire.heads.http.request import number_of, parse_json
from gridwire.wire.http import where
from gridwire.wire.http.cloudevents import time_ms
from gridwire.wire.http.problems import Forbidden, HttpError
from gridwire.wire.http.rendering import event_json

BROWSE_EVENTS_DEFAULT: Final = 100
BROWSE_EVENTS_MAX: Final = 10_000
BROWSE_BYTES_MAX: Final = 8 * MIB
"""Rendered events one answer holds; the first always fits, `next` says where to go on."""

SEARCH_EVENTS_MAX: Final = 100_000
"""Events one request searches with a filter: about a second; `next` says where to go on."""


class CreateHub(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/hubs."""

    name: str
    partitions: int | None = None
    settings: dict[str, Any] = {}


class AlterHub(msgspec.Struct, forbid_unknown_fields=True):
    """Body of PATCH /v1/hubs/{hub}."""

    partitions: int | None = None
    settings: dict[str, Any] = {}


class ResetGroup(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/groups/{group}/reset.

    Args:
        to: earliest, latest, an offset, or an RFC 3339 time. dry_run: only tell what would change.
    """

    hub: str
    to: int | str
    partition: int | None = None
    dry_run: bool = False


class Admin:
    """What the administrative addresses do; results are plain values for JSON."""

    def __init__(self, broker: Broker, groups: GroupDirectory, overview: Overview, counters: HttpCounters) -> None:
        self._broker = broker
        self._groups = groups
        self._overview = overview
        self._counters = counters

    async def create_hub(self, body: bytes) -> dict[str, Any]:
        """Create a hub. Raises BadBody, Forbidden, HubExists, InvalidName, InvalidSetting."""
        wanted = parse_json(body, CreateHub)
        check_name(wanted.name)
        _check_not_internal(wanted.name)
        _check_partitions(wanted.partitions)
        return await self._overview.hub(await self._broker.create_hub(wanted.name, wanted.partitions, wanted.settings))

    async def show_hub(self, name: str) -> dict[str, Any]:
        """One hub. Raises UnknownHub."""
        return await self._overview.hub(self._broker.hub(name))

    async def alter_hub(self, name: str, body: bytes) -> dict[str, Any]:
        """Change settings, then grow. Raises UnknownHub, BadBody, InvalidSetting, Forbidden."""
        info = self._writable(name)
        wanted = parse_json(body, AlterHub)
        _check_partitions(wanted.partitions)
        if wanted.settings:
            info = await self._broker.alter_hub(name, wanted.settings)
        if wanted.partitions is not None and wanted.partitions != info.partitions:
            info = await self._broker.add_partitions(name, wanted.partitions)
        return await self._overview.hub(info)

    async def delete_hub(self, name: str) -> None:
        """Delete a hub with its data. Raises UnknownHub, Forbidden."""
        self._writable(name)
        await self._broker.delete_hub(name)

    def _writable(self, name: str) -> HubInfo:
        _check_not_internal(name)
        info = self._broker.hub(name)
        if info.internal:
            raise Forbidden(f"hub {name!r} is the platform's own")
        return info

    async def browse(self, name: str, params: Mapping[str, str]) -> bytes:
        """A page of events of one partition, as JSON. Raises UnknownHub, UnknownPartition, HttpError, Corruption."""
        info = self._broker.hub(name)
        partition = number_of(params, "partition", 0, 0, 2**31)
        limit = number_of(params, "limit", BROWSE_EVENTS_DEFAULT, 1, BROWSE_EVENTS_MAX)
        if partition >= info.partitions:
            raise UnknownPartition(f"hub {name!r} has partitions 0 to {info.partitions - 1}, not {partition}")
        text = params.get("offset", "earliest")
        reading.check_place(text, "offset")
        offset = await reading.place(self._broker, name, partition, text)
        chosen = where.parse(params["where"]) if params.get("where") else None
        events, following = await self._page(name, partition, offset, limit, chosen)
        bounds = await self._broker.bounds(name, partition)
        self._counters.events_sent += len(events)
        return b'{"events":[%b],"next":%d,"start":%d,"end":%d}' % (
            b",".join(events), following, bounds.start, bounds.end,
        )  # fmt: skip

    async def _page(
        self, hub: str, partition: int, offset: int, limit: int, chosen: where.Where | None
    ) -> tuple[list[bytes], int]:
        """Rendered events and the offset after them; with a filter, after what was searched for them."""
        out: list[bytes] = []
        size = searched = 0
        while True:
            stretch = await reading.read(self._broker, hub, partition, offset)
            moved = stretch.offset
            for block in stretch.blocks:
                for event in block.events:
                    if chosen is not None and not chosen.matches(partition, event):
                        continue
                    rendered = event_json(partition, event)
                    size += len(rendered)
                    if out and size > BROWSE_BYTES_MAX:
                        return out, event.offset
                    out.append(rendered)
                    if len(out) == limit:
                        return out, event.offset + 1
                searched += len(block.events)
                moved = block.next_offset
                await asyncio.sleep(0)
            if moved <= offset or searched >= SEARCH_EVENTS_MAX:
                return out, moved
            offset = moved

    async def reset(self, group: str, body: bytes) -> dict[str, Any]:
        """Move a group's position in a hub, or tell what that would change.

        Raises:
            BadBody, UnknownHub, UnknownPartition, HttpError 400 and 409: members are at work.
        """
        check_group(group)
        wanted = parse_json(body, ResetGroup)
        info = self._broker.hub(wanted.hub)
        if not wanted.dry_run:
            await self._check_idle(group)
        if wanted.partition is not None and not 0 <= wanted.partition < info.partitions:
            raise UnknownPartition(f"hub {info.name!r} has partitions 0 to {info.partitions - 1}")
        places = range(info.partitions) if wanted.partition is None else (wanted.partition,)
        positions = {(info.name, place): Position(await self._target(info.name, place, wanted.to)) for place in places}
        if wanted.dry_run:
            known = await self._broker.positions(group)
            changes = [
                {"partition": place[1], "from": known[place].offset if place in known else None, "to": at.offset}
                for place, at in positions.items()
            ]
            return {"group": group, "hub": info.name, "dry_run": True, "changes": changes}
        await self._broker.commit(group, positions)
        return await self._overview.group(group)

    async def _check_idle(self, group: str) -> None:
        view = await self._groups.view(group)
        if view is not None and view.members:
            raise HttpError(409, f"group {group!r} has {len(view.members)} members: stop them, then reset it")
        if any(works_for(worker, group) for worker in self._overview.workers()):
            raise HttpError(409, f"group {group!r} is read by a worker of this hub: stop it, then reset the group")

    async def _target(self, hub: str, partition: int, to: int | str) -> int:
        bounds = await self._broker.bounds(hub, partition)
        if isinstance(to, str):
            moment = time_ms(to)
            if moment is not None:
                found = await self._broker.offset_at(hub, partition, moment)
                return bounds.end if found is None else found[0]
            if to not in ("earliest", "latest"):
                raise HttpError(400, f"to must be earliest, latest, an offset or an RFC 3339 time, not {to[:40]!r}")
            return bounds.start if to == "earliest" else bounds.end
        if not bounds.start <= to <= bounds.end:
            raise HttpError(
                400, f"partition {partition} of hub {hub!r} has offsets {bounds.start} to {bounds.end}, not {to}"
            )
        return to


def _check_not_internal(name: str) -> None:
    if name.startswith("__"):
        raise Forbidden(f"hub names that start with '__' are the platform's own, {name[:80]!r} among them")


def _check_partitions(count: int | None) -> None:
    if count is not None and not 1 <= count <= PARTITIONS_PER_HUB_MAX:
        raise InvalidSetting(f"a hub has 1 to {PARTITIONS_PER_HUB_MAX} partitions, not {count}")
