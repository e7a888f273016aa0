"""OffsetCommit: versions 2 to 9 served. OffsetFetch: versions 1 to 9 served.

Missing: topic ids (v10 of both). Retention times of old commits are ignored: positions do not expire. The leader epoch
of every position is 0, as it is for every event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gridwire.broker.port import Place, Position
from gridwire.core.errors import GridwireError
from gridwire.groups.model import GroupError
from gridwire.heads.kafka.context import LEADER_EPOCH, Answer, Context, Request, code_of_group
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode, coordinator_code_of

METADATA_BYTES_MAX: Final = 4096
"""What a client may note beside a position; Kafka's `offset.metadata.max.bytes`."""


async def commit(context: Context, request: Request) -> Answer:
    """Answer OffsetCommit when the positions are durable."""
    body = request.body
    group = body["GroupId"]
    error = context.membership.check_commit(
        group, body["GenerationIdOrMemberEpoch"], body["MemberId"], body.get("GroupInstanceId")
    )
    if error is not GroupError.NONE:
        return _committed(body, dict.fromkeys(_places(body), code_of_group(error)))
    codes: dict[Place, int] = {}
    positions: dict[Place, Position] = {}
    now_ms = context.clock.now_ms()
    for topic in body["Topics"]:
        for part in topic["Partitions"]:
            place = (topic["Name"], part["PartitionIndex"])
            codes[place] = check_position(context, place, part)
            if codes[place] == ErrorCode.NONE:
                positions[place] = Position(part["CommittedOffset"], part["CommittedMetadata"] or "", now_ms)
    if positions:
        try:
            await context.broker.commit(group, positions)
        except GridwireError as problem:
            codes |= dict.fromkeys(positions, coordinator_code_of(problem))
    return _committed(body, codes)


def _places(body: Struct) -> list[Place]:
    return [(topic["Name"], part["PartitionIndex"]) for topic in body["Topics"] for part in topic["Partitions"]]


def check_position(context: Context, place: Place, part: Struct) -> int:
    """What is wrong with a position that is to be committed."""
    hub = context.hub(place[0])
    if hub is None or not 0 <= place[1] < hub.partitions:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    if len((part["CommittedMetadata"] or "").encode()) > METADATA_BYTES_MAX:
        return ErrorCode.OFFSET_METADATA_TOO_LARGE
    return ErrorCode.NONE


def _committed(body: Struct, codes: Mapping[Place, int]) -> Struct:
    topics = []
    for topic in body["Topics"]:
        parts = [
            {"PartitionIndex": part["PartitionIndex"], "ErrorCode": codes[topic["Name"], part["PartitionIndex"]]}
            for part in topic["Partitions"]
        ]
        topics.append({"Name": topic["Name"], "Partitions": parts})
    return {"Topics": topics}


async def fetch(context: Context, request: Request) -> Answer:
    """Answer OffsetFetch, for one group (to v7) or several."""
    body = request.body
    if request.header.version < 8:
        answer = await _fetch_group(context, body["GroupId"], body["Topics"], body.get("RequireStable", False))
        answer.pop("GroupId")
        return answer
    return {"Groups": [await _fetch_for(context, group, body["RequireStable"]) for group in body["Groups"]]}


async def _fetch_for(context: Context, group: Struct, stable: bool) -> Struct:
    """Positions for whoever asks; a member of the new protocol must be at its epoch (v9)."""
    name = group["GroupId"]
    error = context.membership.check_position(name, group.get("MemberId"), group.get("MemberEpoch", -1))
    if error is not GroupError.NONE:
        return {"GroupId": name, "ErrorCode": code_of_group(error), "Topics": []}
    return await _fetch_group(context, name, group["Topics"], stable)


async def _fetch_group(context: Context, group: str, topics: Sequence[Struct] | None, stable: bool) -> dict[str, Any]:
    """Positions of a group; `stable`: not those that an open transaction may still move."""
    unstable = context.broker.transactions.pending_positions(group) if stable else set()
    try:
        positions = await context.broker.positions(group)
    except GridwireError as error:
        return {"GroupId": group, "ErrorCode": coordinator_code_of(error), "Topics": []}
    if topics is None:
        indexes: dict[str, list[int]] = {}
        for hub, partition in sorted(positions):
            indexes.setdefault(hub, []).append(partition)
        topics = [{"Name": hub, "PartitionIndexes": partitions} for hub, partitions in indexes.items()]
    found = []
    for topic in topics:
        name = topic["Name"]
        found_hub = context.hub(name) if unstable else None
        parts = [
            _UNSTABLE | {"PartitionIndex": index}
            if found_hub is not None and (str(found_hub.id), index) in unstable
            else _position(positions.get((name, index)), index)
            for index in topic["PartitionIndexes"]
        ]
        found.append({"Name": name, "Partitions": parts})
    return {"GroupId": group, "Topics": found}


_UNSTABLE: Final[Struct] = {"CommittedOffset": -1, "Metadata": "", "ErrorCode": ErrorCode.UNSTABLE_OFFSET_COMMIT}


def _position(position: Position | None, index: int) -> Struct:
    if position is None:
        return {"PartitionIndex": index, "CommittedOffset": -1, "Metadata": ""}
    return {
        "PartitionIndex": index,
        "CommittedOffset": position.offset,
        "CommittedLeaderEpoch": LEADER_EPOCH,
        "Metadata": position.metadata,
    }
