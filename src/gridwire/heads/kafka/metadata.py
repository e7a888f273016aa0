"""Metadata: versions 0 to 13 served.

Missing: more than one broker. Encoded answers are kept until the hubs change: 600 partitions take a millisecond and a
half, in which nobody else is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from gridwire.broker.port import HubInfo
from gridwire.core.errors import GridwireError, HubExists, InvalidName
from gridwire.core.limits import check_name
from gridwire.heads.kafka.context import LEADER_EPOCH, NODE_ID, Answer, Context, Handled, Request
from gridwire.wire.kafka import codec
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode, code_of

NO_ID: Final = UUID(int=0)

TOPIC_OPERATIONS: Final = sum(1 << bit for bit in (3, 4, 5, 6, 7, 8, 10, 11))
"""READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS: everything a topic knows."""

CLUSTER_OPERATIONS: Final = sum(1 << bit for bit in (5, 7, 8, 9, 10, 11, 12))
"""CREATE, ALTER, DESCRIBE, CLUSTER_ACTION, DESCRIBE_CONFIGS, ALTER_CONFIGS, IDEMPOTENT_WRITE."""

NOT_ASKED: Final = -(2**31)
"""Authorized operations nobody asked for."""

FRAMES_MAX: Final = 64
"""Encoded answers kept; clients ask for few different sets of topics."""

_NULL_NAME_FROM: Final = 12

Wanted = tuple[str | None, UUID]
"""(name, id) of a topic asked for; one of them may be missing."""


def handle(context: Context, request: Request) -> Handled:
    """Answer Metadata; hubs that are missing may be created on the way."""
    body, version = request.body, request.header.version
    wanted = _wanted(body["Topics"], version)
    if wanted is not None and context.auto_create and body.get("AllowAutoTopicCreation", True):
        missing = [name for name, _ in wanted if name and context.hub(name) is None]
        if missing:
            return _create_and_answer(context, request, wanted, missing)
    return _kept_answer(context, request, wanted)


def _wanted(topics: Sequence[Struct] | None, version: int) -> list[Wanted] | None:
    """The topics asked for; None for all of them (null, or an empty list in v0)."""
    if topics is None or (version == 0 and not topics):
        return None
    return [(topic["Name"], topic.get("TopicId", NO_ID)) if topic["Name"] else _by_id(topic) for topic in topics]


def _by_id(topic: Struct) -> Wanted:
    """A topic without a name. The Java client sends an empty one beside an id, and null is its own way to say it."""
    topic_id = topic.get("TopicId", NO_ID)
    return (topic["Name"] if topic_id == NO_ID else None), topic_id


def _kept_answer(context: Context, request: Request, wanted: list[Wanted] | None) -> Answer:
    """The answer as encoded before, if no hub changed since; only the correlation id differs."""
    header, body = request.header, request.body
    hubs = tuple(context.broker.hubs())
    topics = body.get("IncludeTopicAuthorizedOperations"), body.get("IncludeClusterAuthorizedOperations")
    key = (header.version, None if wanted is None else tuple(wanted), topics, request.local_host)
    kept = context.metadata_frames.get(key)
    if kept is None or kept[0] != hubs:
        frame = codec.encode_response(header.key, header.version, 0, _answer(context, request, wanted, {}))
        if len(context.metadata_frames) >= FRAMES_MAX:
            context.metadata_frames.clear()
        kept = context.metadata_frames[key] = (hubs, bytes(frame))
    answer = bytearray(kept[1])
    codec.set_correlation_id(answer, header.correlation_id)
    return [answer]


async def _create_and_answer(context: Context, request: Request, wanted: list[Wanted], missing: list[str]) -> Answer:
    failed: dict[str, ErrorCode] = {}
    for name in missing:
        try:
            await context.broker.create_hub(name, context.default_partitions)
        except HubExists:
            continue
        except GridwireError as error:
            failed[name] = code_of(error)
    return _answer(context, request, wanted, failed)


def _answer(context: Context, request: Request, wanted: list[Wanted] | None, failed: dict[str, ErrorCode]) -> Struct:
    body = request.body
    operations = TOPIC_OPERATIONS if body.get("IncludeTopicAuthorizedOperations") else NOT_ASKED
    if wanted is None:
        topics = [topic_of(hub, operations) for hub in context.broker.hubs()]
    else:
        by_id = {hub.id: hub for hub in context.broker.hubs()} if any(name is None for name, _ in wanted) else {}
        nameless = None if request.header.version >= _NULL_NAME_FROM else ""
        topics = [_wanted_topic(context, each, by_id, failed, operations, nameless) for each in wanted]
    cluster = CLUSTER_OPERATIONS if body.get("IncludeClusterAuthorizedOperations") else NOT_ASKED
    return {
        "Brokers": [broker_of(context, request)],
        "ClusterId": context.cluster_id,
        "ControllerId": NODE_ID,
        "Topics": topics,
        "ClusterAuthorizedOperations": cluster,
    }


def broker_of(context: Context, request: Request) -> Struct:
    """This node as clients reach it."""
    return {"NodeId": NODE_ID, "Host": context.host or request.local_host, "Port": context.port, "Rack": None}


def _wanted_topic(
    context: Context,
    wanted: Wanted,
    by_id: dict[UUID, HubInfo],
    failed: dict[str, ErrorCode],
    operations: int,
    nameless: str | None,
) -> Struct:
    name, topic_id = wanted
    hub = by_id.get(topic_id) if name is None else context.hub(name)
    if hub is not None:
        return topic_of(hub, operations)
    if name is None:
        return {"ErrorCode": ErrorCode.UNKNOWN_TOPIC_ID, "Name": nameless, "TopicId": topic_id}
    return {"ErrorCode": failed.get(name) or missing_code(name), "Name": name, "TopicId": NO_ID}


def missing_code(name: str) -> ErrorCode:
    """What is wrong with a topic that there is not."""
    try:
        check_name(name)
    except InvalidName:
        return ErrorCode.INVALID_TOPIC_EXCEPTION
    return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


_HERE: Final[list[int]] = [NODE_ID]


def topic_of(hub: HubInfo, operations: int) -> dict[str, Any]:
    """A hub as clients are told of it."""
    return {
        "Name": hub.name,
        "TopicId": hub.id,
        "IsInternal": hub.internal,
        "Partitions": [
            {
                "PartitionIndex": index,
                "LeaderId": NODE_ID,
                "LeaderEpoch": LEADER_EPOCH,
                "ReplicaNodes": _HERE,
                "IsrNodes": _HERE,
            }
            for index in range(hub.partitions)
        ],
        "TopicAuthorizedOperations": operations,
    }
