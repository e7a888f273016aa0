"""ListOffsets: versions 1 to 11 served, with every special timestamp of theirs:

    -1 latest   -2 earliest   -3 the event with the largest timestamp (v7)
    -4 earliest local, which is the earliest (v8)   -5 last tiered, which there is none of (v9)
    -6 first not yet tiered, which there is none of either: nothing is on its way anywhere (v11)

OffsetForLeaderEpoch: versions 2 to 4 served; the leader epoch is always 0. Missing of both: nothing.
"""

from __future__ import annotations

from typing import Final

from gridwire.core.errors import GridwireError
from gridwire.heads.kafka.context import LEADER_EPOCH, Answer, Context, Request
from gridwire.heads.kafka.fetch import READ_COMMITTED
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode, code_of

_LATEST: Final = -1
_EARLIEST: Final = -2
_MAX_TIMESTAMP: Final = -3
_EARLIEST_LOCAL: Final = -4
_LATEST_TIERED: Final = -5
_EARLIEST_PENDING: Final = -6
_FIRST_VERSION: Final = {_MAX_TIMESTAMP: 7, _EARLIEST_LOCAL: 8, _LATEST_TIERED: 9, _EARLIEST_PENDING: 11}
_NO_TIMESTAMP: Final = -1

Found = tuple[int, int] | None
"""(offset, timestamp), or None when there is no such event."""


async def list_offsets(context: Context, request: Request) -> Answer:
    """Answer ListOffsets."""
    version = request.header.version
    committed = request.body.get("IsolationLevel") == READ_COMMITTED
    topics = []
    for topic in request.body["Topics"]:
        parts = [await _one(context, topic["Name"], part, version, committed) for part in topic["Partitions"]]
        topics.append({"Name": topic["Name"], "Partitions": parts})
    return {"Topics": topics}


async def _one(context: Context, hub: str, part: Struct, version: int, committed: bool) -> Struct:
    index, asked = part["PartitionIndex"], part["Timestamp"]
    if part.get("CurrentLeaderEpoch", -1) > LEADER_EPOCH:
        return {"PartitionIndex": index, "ErrorCode": ErrorCode.UNKNOWN_LEADER_EPOCH}
    if asked < _EARLIEST_PENDING or version < _FIRST_VERSION.get(asked, 0):
        return {"PartitionIndex": index, "ErrorCode": ErrorCode.UNSUPPORTED_VERSION}
    try:
        found = await _find(context, hub, index, asked, committed)
    except GridwireError as error:
        return {"PartitionIndex": index, "ErrorCode": code_of(error)}
    if found is None:
        return {"PartitionIndex": index}
    return {"PartitionIndex": index, "Offset": found[0], "Timestamp": found[1], "LeaderEpoch": LEADER_EPOCH}


async def _find(context: Context, hub: str, partition: int, asked: int, committed: bool) -> Found:
    """What is asked for; for a reader of committed data the log ends where the first open transaction begins."""
    bounds = await context.broker.bounds(hub, partition)
    if asked == _LATEST:
        return bounds.stable if committed else bounds.end, _NO_TIMESTAMP
    if asked in (_EARLIEST, _EARLIEST_LOCAL):
        return bounds.start, _NO_TIMESTAMP
    if asked in (_LATEST_TIERED, _EARLIEST_PENDING):
        return None
    if asked == _MAX_TIMESTAMP:
        return await context.broker.newest(hub, partition)
    found = await context.broker.offset_at(hub, partition, asked)
    return None if committed and found is not None and found[0] >= bounds.stable else found


async def for_leader_epoch(context: Context, request: Request) -> Answer:
    """Answer OffsetForLeaderEpoch: epoch 0 ends at the end of the log, and there is no other."""
    topics = []
    for topic in request.body["Topics"]:
        parts = [await _epoch_end(context, topic["Topic"], part) for part in topic["Partitions"]]
        topics.append({"Topic": topic["Topic"], "Partitions": parts})
    return {"Topics": topics}


async def _epoch_end(context: Context, hub: str, part: Struct) -> Struct:
    answer: Struct = {"Partition": part["Partition"]}
    if part["CurrentLeaderEpoch"] > LEADER_EPOCH:
        return answer | {"ErrorCode": ErrorCode.UNKNOWN_LEADER_EPOCH}
    try:
        bounds = await context.broker.bounds(hub, part["Partition"])
    except GridwireError as error:
        return answer | {"ErrorCode": code_of(error)}
    if part["LeaderEpoch"] != LEADER_EPOCH:
        return answer
    return answer | {"LeaderEpoch": LEADER_EPOCH, "EndOffset": bounds.end}
