"""DescribeLogDirs: versions 1 to 4 served. Missing: further directories; all data lies in one.

DescribeTopicPartitions: version 0 served. Missing: eligible leader replicas, of which one broker has none.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from gridwire.core.errors import GridwireError
from gridwire.heads.kafka.context import Answer, Context, Request
from gridwire.heads.kafka.metadata import NO_ID, TOPIC_OPERATIONS, missing_code, topic_of
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode

PARTITIONS_MAX: Final = 2000
"""Partitions in one answer; the client asks on with the cursor."""


async def describe(context: Context, request: Request) -> Answer:
    """Answer DescribeLogDirs: the sizes of the partitions asked for, or of all."""
    wanted = request.body["Topics"]
    if wanted is None:
        asked = {hub.name: range(hub.partitions) for hub in context.broker.hubs()}
    else:
        asked = {topic["Topic"]: topic["Partitions"] for topic in wanted}
    topics = []
    for name, partitions in asked.items():
        try:
            sizes = await context.broker.sizes(name)
        except GridwireError:
            continue
        parts = [
            {"PartitionIndex": index, "PartitionSize": sizes[index]} for index in partitions if 0 <= index < len(sizes)
        ]
        topics.append({"Name": name, "Partitions": parts})
    directory = context.broker.directory
    total, usable = await asyncio.to_thread(_space, directory)
    row = {"LogDir": str(directory), "Topics": topics, "TotalBytes": total, "UsableBytes": usable}
    return {"Results": [row]}


def _space(directory: Path) -> tuple[int, int]:
    import shutil

    try:
        usage = shutil.disk_usage(directory)
    except OSError:
        return -1, -1
    return usage.total, usage.free


def describe_partitions(context: Context, request: Request) -> Answer:
    """Answer DescribeTopicPartitions, page by page."""
    body = request.body
    names = sorted({topic["Name"] for topic in body["Topics"]} or {hub.name for hub in context.broker.hubs()})
    cursor = body["Cursor"]
    first = 0
    if cursor is not None:
        names = [name for name in names if name >= cursor["TopicName"]]
        first = max(cursor["PartitionIndex"], 0) if names and names[0] == cursor["TopicName"] else 0
    left = min(max(body["ResponsePartitionLimit"], 1), PARTITIONS_MAX)
    topics: list[Struct] = []
    for name in names:
        if left == 0:
            return {"Topics": topics, "NextCursor": {"TopicName": name, "PartitionIndex": 0}}
        topic = _topic(context, name)
        parts = topic["Partitions"]
        topic["Partitions"] = parts[first : first + left]
        topics.append(topic)
        if len(parts) > first + left:
            return {"Topics": topics, "NextCursor": {"TopicName": name, "PartitionIndex": first + left}}
        left -= len(topic["Partitions"])
        first = 0
    return {"Topics": topics, "NextCursor": None}


def _topic(context: Context, name: str) -> Struct:
    hub = context.hub(name)
    if hub is None:
        return {"ErrorCode": missing_code(name), "Name": name, "TopicId": NO_ID, "Partitions": []}
    return topic_of(hub, TOPIC_OPERATIONS) | {"ErrorCode": ErrorCode.NONE}
