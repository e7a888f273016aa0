"""OffsetCommit: versions 2 to 10 served. OffsetFetch: versions 1 to 10 served. Both with topic ids from v10.

Missing: nothing. Retention times of old commits are ignored: positions do not expire. The leader epoch
of every position is 0, as it is for every event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    body = {**request.body, "Topics": context.named(request.body["Topics"])}
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
            codes[place] = check_position(context, place, part) if topic["Name"] else _nameless(topic)
            if codes[place] == ErrorCode.NONE:
                positions[place] = Position(part["CommittedOffset"], part["CommittedMetadata"] or "", now_ms)
    if positions:
        try:
            await context.broker.commit(group, positions)
        except GridwireError as problem:
            codes |= dict.fromkeys(positions, coordinator_code_of(problem))
    return _committed(body, codes)


def _nameless(topic: Struct) -> int:
    return ErrorCode.UNKNOWN_TOPIC_ID if "TopicId" in topic else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


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
        topics.append({**_which(topic), "Partitions": parts})
    return {"Topics": topics}


def _which(topic: Struct) -> Struct:
    """A topic as its request names it: by name, id, or both."""
    return {key: topic[key] for key in ("Name", "TopicId") if key in topic}


async def fetch(context: Context, request: Request) -> Answer:
    """Answer OffsetFetch, for one group (to v7) or several."""
    body = request.body
    if request.header.version < 8:
        answer = await _fetch_group(context, body["GroupId"], body["Topics"], body.get("RequireStable", False))
        topics = [{"Name": topic["Name"], "Partitions": topic["Partitions"]} for topic in answer["Topics"]]
        return {"Topics": topics, "ErrorCode": answer.get("ErrorCode", ErrorCode.NONE)}
    return {"Groups": [await _fetch_for(context, group, body["RequireStable"]) for group in body["Groups"]]}


async def _fetch_for(context: Context, group: Struct, stable: bool) -> Struct:
    """Positions for whoever asks; a member of the new protocol must be at its epoch (v9)."""
    name = group["GroupId"]
    error = context.membership.check_position(name, group.get("MemberId"), group.get("MemberEpoch", -1))
    if error is not GroupError.NONE:
        return {"GroupId": name, "ErrorCode": code_of_group(error), "Topics": []}
    topics = group["Topics"]
    return await _fetch_group(context, name, None if topics is None else context.named(topics), stable)


async def _fetch_group(context: Context, group: str, topics: Sequence[Struct] | None, stable: bool) -> dict[str, Any]:
    """Positions of a group; `stable`: not those that an open transaction may still move."""
    unstable = context.broker.transactions.pending_positions(group) if stable else set()
    try:
        positions = await context.broker.positions(group)
    except GridwireError as error:
        return {"GroupId": group, "ErrorCode": coordinator_code_of(error), "Topics": []}
    found = []
    for topic in _committed_topics(context, positions) if topics is None else topics:
        name = topic["Name"]
        found_hub = context.hub(name) if unstable else None
        if not name and "TopicId" in topic:
            parts = [_UNKNOWN_ID | {"PartitionIndex": index} for index in topic["PartitionIndexes"]]
            found.append({**_which(topic), "Partitions": parts})
            continue
        parts = [
            _UNSTABLE | {"PartitionIndex": index}
            if found_hub is not None and (str(found_hub.id), index) in unstable
            else _position(positions.get((name, index)), index)
            for index in topic["PartitionIndexes"]
        ]
        found.append({**_which(topic), "Partitions": parts})
    return {"GroupId": group, "Topics": found}


def _committed_topics(context: Context, positions: Iterable[Place]) -> list[Struct]:
    """Everything a group has positions of; a hub that is deleted meanwhile is left out."""
    indexes: dict[str, list[int]] = {}
    for hub, partition in sorted(positions):
        indexes.setdefault(hub, []).append(partition)
    return [
        {"Name": name, "TopicId": info.id, "PartitionIndexes": partitions}
        for name, partitions in indexes.items()
        if (info := context.hub(name)) is not None
    ]


_UNKNOWN_ID: Final[Struct] = {"CommittedOffset": -1, "Metadata": "", "ErrorCode": ErrorCode.UNKNOWN_TOPIC_ID}
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
