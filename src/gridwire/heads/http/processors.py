"""What a processor of Event Hubs' SDKs keeps between its lives: claims of partitions, and the group's positions."""

from __future__ import annotations

from typing import Any

import msgspec

from gridwire.broker.claims import Claim, Claims, check_group
from gridwire.broker.membership import Membership
from gridwire.broker.port import Journal, Place, Position
from gridwire.core.clock import Clock
from gridwire.core.errors import UnknownPartition
from gridwire.wire.http.problems import HttpError


class ClaimPartitions(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/groups/{group}/claims."""

    hub: str
    claims: list[Claim]


class NewPosition(msgspec.Struct, forbid_unknown_fields=True):
    """The offset of the next event a group has to read of a partition."""

    partition: int
    position: int


class CommitPositions(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/groups/{group}/positions."""

    hub: str
    positions: list[NewPosition]


class Processors:
    """What the addresses do; results are plain values for JSON."""

    def __init__(self, broker: Journal, membership: Membership, clock: Clock) -> None:
        self._broker = broker
        self._membership = membership
        self._claims = Claims(broker, clock)

    def claims(self, group: str, hub: str) -> dict[str, Any]:
        """Claims of a group on a hub. Raises UnknownHub, InvalidName."""
        return {"claims": self._claims.held(group, hub)}

    async def claim(self, group: str, wanted: ClaimPartitions) -> dict[str, Any]:
        """Claim partitions; those granted. Raises UnknownHub, UnknownPartition, InvalidName, InvalidSetting."""
        return {"claims": await self._claims.claim(group, wanted.hub, wanted.claims)}

    async def positions(self, group: str, hub: str) -> dict[str, Any]:
        """Committed positions of a group in a hub. Raises UnknownHub, InvalidName."""
        check_group(group)
        self._broker.hub(hub)
        found = await self._broker.positions(group)
        rows = [
            {"partition": partition, "position": position.offset}
            for (name, partition), position in sorted(found.items())
            if name == hub
        ]
        return {"positions": rows}

    async def commit(self, group: str, wanted: CommitPositions) -> dict[str, Any]:
        """Commit positions, as a Kafka client without members would. Raises also HttpError 400 and 409."""
        check_group(group)
        view = self._membership.describe(group)
        if view is not None and view.members:
            raise HttpError(409, f"group {group!r} has Kafka members, who commit its positions themselves")
        info = self._broker.hub(wanted.hub)
        positions: dict[Place, Position] = {}
        for each in wanted.positions:
            if not 0 <= each.partition < info.partitions:
                raise UnknownPartition(f"hub {info.name!r} has partitions 0 to {info.partitions - 1}")
            end = (await self._broker.bounds(info.name, each.partition)).end
            if not 0 <= each.position <= end:
                raise HttpError(400, f"partition {each.partition} of hub {info.name!r} ends at {end}")
            positions[info.name, each.partition] = Position(each.position)
        await self._broker.commit(group, positions)
        return await self.positions(group, wanted.hub)
