"""Consumer groups and positions of a Kafka cluster: Kafka keeps both, we ask.

Groups of the classic protocol and of the new one (KIP-848) are shown alike. Positions are written as an outsider does,
which Kafka allows while a group has no members.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gridwire.broker import kafka_wire as wire
from gridwire.broker.kafka_client import KafkaClient, topics_of
from gridwire.broker.kafka_errors import failure
from gridwire.broker.port import Place, Position
from gridwire.groups.consumer_protocol import CONSUMER, assigned_partitions, assignment_bytes
from gridwire.groups.model import GroupView, MemberView
from gridwire.wire.kafka.compiler import Struct

GROUP_ID_NOT_FOUND: Final = 69
DEAD: Final = "Dead"
NEW_PROTOCOL: Final = "consumer"


class KafkaGroupState(enum.StrEnum):
    """State of a group, as Kafka spells it; of both kinds of groups."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    ASSIGNING = "Assigning"
    RECONCILING = "Reconciling"
    STABLE = "Stable"
    DEAD = "Dead"
    UNKNOWN = "Unknown"

    @classmethod
    def _missing_(cls, value: object) -> KafkaGroupState:
        return cls.UNKNOWN


class KafkaGroups:
    """Who is in which group, and how far groups are. Only groups and topics with the address's prefix."""

    def __init__(self, client: KafkaClient) -> None:
        self._client = client
        self._address = client.address

    # -- membership: `GroupDirectory` -----------------------------------------------------------------------------

    async def names(self) -> list[str]:
        """All groups, with members or positions."""
        return sorted(await self._kinds())

    async def _kinds(self) -> dict[str, str]:
        """Our name of every group, and which protocol it speaks: `classic` or `consumer`."""

        async def attempt() -> dict[str, str]:
            found: dict[str, str] = {}
            asked = [self._client.ask_node(node, wire.LIST_GROUPS, {"StatesFilter": [], "TypesFilter": []})
                     for node in self._client.brokers]  # fmt: skip
            for told in await asyncio.gather(*asked):
                if told["ErrorCode"]:
                    raise failure(told["ErrorCode"], "list of groups")
                for row in told["Groups"]:
                    name = self._address.group_of(row["GroupId"])
                    if name is not None and row["ProtocolType"] in ("", CONSUMER):
                        found[name] = row.get("GroupType", "classic").lower()
            return found

        return await self._client.trying(attempt)

    async def views(self) -> Mapping[str, GroupView]:
        """All groups by name."""
        kinds = await self._kinds()
        found = await asyncio.gather(*(self._view(name, kind) for name, kind in kinds.items()))
        return {view.group: view for view in found if view is not None}

    async def view(self, group: str) -> GroupView | None:
        """One group; None when there is none of that name."""
        view = await self._view(group, "classic")
        if view is None or view.state is KafkaGroupState.DEAD:
            kind = (await self._kinds()).get(group)
            return None if kind is None else await self._view(group, kind)
        return view

    async def _view(self, name: str, kind: str) -> GroupView | None:
        group = self._address.group(name)
        new = kind == NEW_PROTOCOL
        if new:
            key, body = wire.CONSUMER_GROUP_DESCRIBE, {"GroupIds": [group], "IncludeAuthorizedOperations": False}
        else:
            key, body = wire.DESCRIBE_GROUPS, {"Groups": [group], "IncludeAuthorizedOperations": False}

        def check(told: Struct) -> None:
            code = told["Groups"][0]["ErrorCode"]
            if code not in (0, GROUP_ID_NOT_FOUND):
                raise failure(code, f"group {name!r}", told["Groups"][0].get("ErrorMessage"))

        row = (await self._client.ask_coordinator(group, key, body, check))["Groups"][0]
        if row["ErrorCode"] or row["GroupState"] == DEAD:
            return None
        return self._new_view(name, row) if new else self._classic_view(name, row)

    def _classic_view(self, name: str, row: Struct) -> GroupView:
        members = tuple(
            MemberView(
                each["MemberId"], each.get("GroupInstanceId"), each["ClientId"], each["ClientHost"].lstrip("/"),
                bytes(each["MemberMetadata"]), self._assignment(bytes(each["MemberAssignment"])),
            )
            for each in row["Members"]
        )  # fmt: skip
        state = KafkaGroupState(row["GroupState"])
        return GroupView(name, state, -1, row["ProtocolType"], row["ProtocolData"], "", members)

    def _assignment(self, data: bytes) -> bytes:
        """An assignment with topics as hubs."""
        found = assigned_partitions(data)
        return assignment_bytes(
            (hub, number) for topic, numbers in found.items() if (hub := self._address.hub(topic)) for number in numbers
        )

    def _new_view(self, name: str, row: Struct) -> GroupView:
        members = []
        for each in row["Members"]:
            places = [
                (hub, number)
                for topic in each["Assignment"]["TopicPartitions"]
                if (hub := self._address.hub(topic["TopicName"]))
                for number in topic["Partitions"]
            ]
            host = each["ClientHost"].lstrip("/")
            members.append(
                MemberView(each["MemberId"], each["InstanceId"], each["ClientId"], host, b"", assignment_bytes(places))
            )
        state = KafkaGroupState(row["GroupState"])
        return GroupView(name, state, row["GroupEpoch"], CONSUMER, row["AssignorName"], "", tuple(members))

    # -- positions ------------------------------------------------------------------------------------------------

    async def positions(self, name: str) -> dict[Place, Position]:
        """Committed positions of a group; empty when there are none."""
        group = self._address.group(name)

        def check(told: Struct) -> None:
            if told["Groups"][0]["ErrorCode"] not in (0, GROUP_ID_NOT_FOUND):
                raise failure(told["Groups"][0]["ErrorCode"], f"positions of group {name!r}")

        body = {"Groups": [{"GroupId": group, "Topics": None}], "RequireStable": False}
        told = await self._client.ask_coordinator(group, wire.OFFSET_FETCH, body, check)
        return {
            (hub, part["PartitionIndex"]): Position(part["CommittedOffset"], part["Metadata"] or "")
            for topic in told["Groups"][0]["Topics"]
            if topic["Name"] in self._client.topics and (hub := self._address.hub(topic["Name"]))
            for part in topic["Partitions"]
            if part["ErrorCode"] == 0 and part["CommittedOffset"] >= 0
        }

    async def commit(self, name: str, positions: Mapping[Place, Position]) -> None:
        """Write positions of a group without members. Raises FencedEpoch: it has some."""
        group = self._address.group(name)
        for hub, partition in positions:
            self._client.leader(self._address.topic(hub), partition)
        by_place = {(self._address.topic(hub), number): each for (hub, number), each in positions.items()}

        def row(topic: str, number: int) -> Struct:
            position = by_place[topic, number]
            return {
                "PartitionIndex": number,
                "CommittedOffset": position.offset,
                "CommittedMetadata": position.metadata,
            }

        body = {"GroupId": group, "MemberId": "", "Topics": topics_of(list(by_place), row)}
        await self._client.ask_coordinator(group, wire.OFFSET_COMMIT, body, _check_parts(f"position of group {name!r}"))

    async def forget(self, name: str, places: Sequence[Place]) -> None:
        """Forget single positions of a group."""
        group = self._address.group(name)
        for hub, _ in places:
            self._client.topic(self._address.topic(hub))
        rows = topics_of(
            [(self._address.topic(hub), number) for hub, number in places], lambda _, number: {"PartitionIndex": number}
        )

        def check(told: Struct) -> None:
            if told["ErrorCode"] not in (0, GROUP_ID_NOT_FOUND):
                raise failure(told["ErrorCode"], f"positions of group {name!r}")
            _check_parts(f"position of group {name!r}")(told)

        await self._client.ask_coordinator(group, wire.OFFSET_DELETE, {"GroupId": group, "Topics": rows}, check)

    async def delete(self, name: str) -> None:
        """Forget the group and its positions. Raises FencedEpoch: it has members."""
        group = self._address.group(name)

        def check(told: Struct) -> None:
            code = told["Results"][0]["ErrorCode"]
            if code not in (0, GROUP_ID_NOT_FOUND):
                raise failure(code, f"group {name!r}")

        await self._client.ask_coordinator(group, wire.DELETE_GROUPS, {"GroupsNames": [group]}, check)


def _check_parts(what: str) -> Any:
    def check(told: Struct) -> None:
        for topic in told["Topics"]:
            for part in topic["Partitions"]:
                if part["ErrorCode"]:
                    raise failure(part["ErrorCode"], what)

    return check
