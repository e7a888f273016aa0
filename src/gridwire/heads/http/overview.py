"""What the log holds and how far its readers are: the numbers behind /v1/hubs, /v1/groups, /v1/live and /metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gridwire.broker.claims import DEFAULT_GROUP, declared_groups
from gridwire.broker.port import Bounds, GroupDirectory, HubInfo, Journal, Place, Position
from gridwire.core import batch
from gridwire.core.clock import Clock
from gridwire.core.errors import InvalidBatch, MessageTooLarge, OffsetOutOfRange, UnknownHub, UnknownPartition
from gridwire.groups.consumer_protocol import assigned_partitions
from gridwire.groups.model import GroupView
from gridwire.wire.http.problems import HttpError

Status = Callable[[], Mapping[str, Any]]
"""The hub's own state, as /v1/status shows it."""

TIMES_CACHED: Final = 16_384
"""Offsets whose event's time is remembered."""

RUNNING: Final = "running"
"""State of a worker that works, as the supervisor spells it."""


class Overview:
    """Reads the broker, the consumer groups and the hub's status; keeps nothing but a cache of event times."""

    def __init__(self, broker: Journal, groups: GroupDirectory, status: Status, clock: Clock) -> None:
        self._broker = broker
        self._groups = groups
        self._status = status
        self._clock = clock
        self._times: dict[tuple[Place, int], int] = {}

    def status(self) -> Mapping[str, Any]:
        """The hub's own state."""
        return self._status()

    def workers(self) -> list[Mapping[str, Any]]:
        """The hub's worker processes."""
        return list(self._status().get("workers") or ())

    async def hub(self, info: HubInfo) -> dict[str, Any]:
        """One hub with its bounds and settings. Raises UnknownHub."""
        sizes = await self._broker.sizes(info.name)
        found = await self._broker.bounds_of((info.name, partition) for partition in range(len(sizes)))
        rows = [
            {"partition": partition, "start": bounds.start, "end": bounds.end, "bytes": sizes[partition]}
            for (_, partition), bounds in sorted(found.items())
        ]
        return {
            "name": info.name,
            "id": str(info.id),
            "partitions": info.partitions,
            "settings": msgspec.to_builtins(info.settings),
            "internal": info.internal,
            "created_ms": info.created_ms,
            "events": sum(row["end"] - row["start"] for row in rows),
            "bytes": sum(sizes),
            "bounds": rows,
        }

    async def hubs(self) -> list[dict[str, Any]]:
        """All hubs by name; one that is deleted meanwhile is left out. Raises Unavailable."""

        async def one(info: HubInfo) -> dict[str, Any] | None:
            try:
                return await self.hub(info)
            except (UnknownHub, UnknownPartition):
                return None

        found = await asyncio.gather(*(one(info) for info in self._broker.hubs()))
        return [hub for hub in found if hub is not None]

    async def group_details(self) -> list[dict[str, Any]]:
        """All groups by name, with partitions and members. Raises Unavailable."""
        views, with_positions = await asyncio.gather(self._groups.views(), self._broker.group_names())
        names = {*views, *with_positions, *declared_groups(self._broker)}
        workers = self.workers()
        return await asyncio.gather(*(self._describe(name, views.get(name), workers) for name in sorted(names)))

    async def groups(self) -> list[dict[str, Any]]:
        """All groups by name, with the sums of what they have not read."""
        keys = ("group", "state", "lag_events", "lag_seconds")
        return [
            {key: detail[key] for key in keys} | {"members": len(detail["members"])}
            for detail in await self.group_details()
        ]

    async def group(self, name: str) -> dict[str, Any]:
        """One group with partitions and members. Raises HttpError 404."""
        view = await self._groups.view(name)
        detail = await self._describe(name, view, self.workers())
        known = detail["partitions"] or detail["members"] or view is not None
        if not known and name not in {DEFAULT_GROUP, *declared_groups(self._broker)}:
            raise HttpError(404, f"no group {name[:80]!r}: it exists once a consumer joined or committed")
        return detail

    async def _describe(
        self, name: str, view: GroupView | None, workers: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        positions = await self._broker.positions(name)
        found = await self._broker.bounds_of(positions)
        rows = []
        for place, bounds in sorted(found.items()):
            try:
                rows.append(await self._partition(place, positions[place], bounds))
            except (UnknownHub, UnknownPartition, OffsetOutOfRange):  # the hub is being deleted
                continue
        members = _members(view) or _worker_members(name, workers)  # on a cluster workers are members like any other
        state = str(view.state) if view is not None and view.members else "Stable" if members else "Empty"
        return {
            "group": name,
            "state": state,
            "lag_events": sum(row["lag_events"] for row in rows),
            "lag_seconds": max((row["lag_seconds"] for row in rows), default=0.0),
            "partitions": rows,
            "members": members,
        }

    async def _partition(self, place: Place, position: Position, bounds: Bounds) -> dict[str, Any]:
        hub, partition = place
        unread_from = min(max(position.offset, bounds.start), bounds.end)
        lag_events = bounds.end - unread_from
        lag_s = 0.0
        if lag_events:
            first_ms = await self._first_unread_ms(place, unread_from)
            lag_s = max(0, self._clock.now_ms() - first_ms) / 1000
        return {
            "hub": hub,
            "partition": partition,
            "position": position.offset,
            "end": bounds.end,
            "lag_events": lag_events,
            "lag_seconds": lag_s,
        }

    async def _first_unread_ms(self, place: Place, offset: int) -> int:
        """Time of the batch that holds `offset`; remembered, as a group that stands still is asked about for ever."""
        known = self._times.get((place, offset))
        if known is None:
            if len(self._times) >= TIMES_CACHED:
                self._times.clear()
            known = self._times[place, offset] = await self._time_at(place, offset)
        return known

    async def _time_at(self, place: Place, offset: int) -> int:
        found = await self._broker.read(*place, offset, 1)
        try:
            for _, header in batch.iter_headers(found.data):
                if header.next_offset > offset:
                    return header.max_timestamp if header.attributes & batch.LOG_APPEND_TIME else header.base_timestamp
        except (InvalidBatch, MessageTooLarge):
            pass
        return self._clock.now_ms()


def _worker_members(group: str, workers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"id": str(worker.get("name")), "client_id": "worker", "host": "this machine", "partitions": []}
        for worker in workers
        if works_for(worker, group)
    ]


def works_for(worker: Mapping[str, Any], group: str) -> bool:
    """Whether a worker of the hub runs and reads with a group."""
    reads = worker.get("group") == group or group in (worker.get("groups") or ())
    return reads and worker.get("state") == RUNNING


def _members(view: GroupView | None) -> list[dict[str, Any]]:
    if view is None:
        return []
    return [
        {
            "id": member.member_id,
            "client_id": member.client_id,
            "host": member.host,
            "partitions": [
                {"hub": hub, "partitions": places} for hub, places in assigned_partitions(member.assignment).items()
            ],
        }
        for member in view.members
    ]
