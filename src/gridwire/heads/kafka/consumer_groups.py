"""ConsumerGroupHeartbeat 0 to 1 and ConsumerGroupDescribe 0 to 1 served.

Missing: migration of a group that has members from one protocol to the other; with nobody in it a group changes freely.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Final

from gridwire.broker.port import HubInfo, Place
from gridwire.groups.consumer_model import Beat, BeatResult, ConsumerGroup, ConsumerMember, Topology
from gridwire.heads.kafka.context import Answer, Context, Request, code_of_group
from gridwire.heads.kafka.group_admin import GROUP_OPERATIONS
from gridwire.heads.kafka.metadata import NOT_ASKED
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode

_MEMBER_TYPE: Final = 1
"""A member of the new protocol; 0 is one that still speaks the classic one."""

_UNKNOWN_HUB: Final = ""
"""Stands for a topic id nobody knows, so that owning it is still told from owning nothing."""


def heartbeat(context: Context, request: Request) -> Answer:
    """Answer ConsumerGroupHeartbeat."""
    body = request.body
    hubs = tuple(context.broker.hubs())
    beat = Beat(
        member_id=body["MemberId"] or _new_member_id(body, request.header.version),
        epoch=body["MemberEpoch"],
        instance=body["InstanceId"],
        rack=body["RackId"],
        client_id=request.header.client_id or "",
        host="/" + request.peer_host,
        rebalance_timeout_ms=body["RebalanceTimeoutMs"],
        names=None if body["SubscribedTopicNames"] is None else frozenset(body["SubscribedTopicNames"]),
        regex=body.get("SubscribedTopicRegex"),
        assignor=body["ServerAssignor"],
        owned=_owned(body["TopicPartitions"], hubs),
    )
    result = context.membership.beat(body["GroupId"], beat, _topology(context, hubs))
    return _answer(result, {hub.name: hub.id for hub in hubs})


def _new_member_id(body: Struct, version: int) -> str:
    """Version 0 lets the hub choose the id of who joins."""
    return str(uuid.uuid4()) if version == 0 and body["MemberEpoch"] == 0 else ""


def _owned(topics: Sequence[Struct] | None, hubs: Iterable[HubInfo]) -> frozenset[Place] | None:
    if topics is None:
        return None
    names = {hub.id: hub.name for hub in hubs} if topics else {}
    return frozenset(
        (names.get(topic["TopicId"], _UNKNOWN_HUB), number) for topic in topics for number in topic["Partitions"]
    )


def _topology(context: Context, hubs: tuple[HubInfo, ...]) -> Topology:
    """The hubs as groups see them: the same object until one of them changes."""
    known = context.topology
    if known is None or known[0] != hubs:
        partitions = MappingProxyType({hub.name: hub.partitions for hub in hubs})
        ids = MappingProxyType({hub.name: hub.id for hub in hubs})
        known = context.topology = (hubs, Topology(partitions, ids))
    return known[1]


def _answer(result: BeatResult, ids: dict[str, uuid.UUID]) -> Struct:
    assignment = None
    if result.assigned is not None:
        assignment = {
            "TopicPartitions": [
                {"TopicId": ids[hub], "Partitions": numbers}
                for hub, numbers in _by_hub(result.assigned).items()
                if hub in ids
            ]
        }
    return {
        "ErrorCode": code_of_group(result.error),
        "ErrorMessage": result.message,
        "MemberId": result.member_id or None,
        "MemberEpoch": result.epoch,
        "HeartbeatIntervalMs": result.interval_ms,
        "Assignment": assignment,
    }


def _by_hub(places: Iterable[Place]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for hub, number in sorted(places):
        found.setdefault(hub, []).append(number)
    return found


def describe(context: Context, request: Request) -> Answer:
    """Answer ConsumerGroupDescribe; clients ask DescribeGroups about a group that is not found here."""
    operations = GROUP_OPERATIONS if request.body["IncludeAuthorizedOperations"] else NOT_ASKED
    ids = {hub.name: hub.id for hub in context.broker.hubs()}
    groups = []
    for name in request.body["GroupIds"]:
        group = context.membership.consumers.get(name)
        answer = _missing(name) if group is None else _group(group, ids)
        groups.append(answer | {"GroupId": name, "AuthorizedOperations": operations})
    return {"Groups": groups}


def _missing(name: str) -> Struct:
    message = f"there is no group {name!r} of the consumer protocol"
    return {"ErrorCode": ErrorCode.GROUP_ID_NOT_FOUND, "ErrorMessage": message}


def _group(group: ConsumerGroup, ids: dict[str, uuid.UUID]) -> Struct:
    return {
        "GroupState": group.state.value,
        "GroupEpoch": group.epoch,
        "AssignmentEpoch": group.epoch,
        "AssignorName": group.assignor,
        "Members": [_member(member, ids) for member in group.members.values()],
    }


def _member(member: ConsumerMember, ids: dict[str, uuid.UUID]) -> Struct:
    return {
        "MemberId": member.member_id,
        "InstanceId": member.instance,
        "RackId": member.rack,
        "MemberEpoch": member.epoch,
        "ClientId": member.client_id,
        "ClientHost": member.host,
        "SubscribedTopicNames": sorted(member.wish.names),
        "SubscribedTopicRegex": member.wish.regex or None,
        "Assignment": _shown(member.assigned, ids),
        "TargetAssignment": _shown(member.target, ids),
        "MemberType": _MEMBER_TYPE,
    }


def _shown(places: Iterable[Place], ids: dict[str, uuid.UUID]) -> Struct:
    found = _by_hub(places)
    return {
        "TopicPartitions": [
            {"TopicId": ids[hub], "TopicName": hub, "Partitions": found[hub]} for hub in found if hub in ids
        ]
    }
