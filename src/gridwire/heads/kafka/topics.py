"""CreateTopics 2 to 7, DeleteTopics 1 to 6 and CreatePartitions 0 to 3 served.

Missing: replication factors other than 1, manual assignment to other brokers, topic configs outside the settings table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from gridwire.broker.port import HubInfo
from gridwire.core.errors import GridwireError, HubExists, UnknownHub
from gridwire.core.limits import PARTITIONS_PER_HUB_MAX, check_name
from gridwire.core.settings import HubSettings, with_changes
from gridwire.heads.kafka import topic_configs
from gridwire.heads.kafka.context import NODE_ID, Answer, Context, Request
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode, code_of

_DEFAULT: Final = -1


class _Refused(Exception):
    """A topic request that gets an error code of Kafka's own."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def _failure(error: _Refused | GridwireError) -> Struct:
    code = error.code if isinstance(error, _Refused) else code_of(error)
    return {"ErrorCode": code, "ErrorMessage": str(error)}


async def create(context: Context, request: Request) -> Answer:
    """Answer CreateTopics."""
    only_check = request.body["ValidateOnly"]
    names = [topic["Name"] for topic in request.body["Topics"]]
    answers = []
    for topic in request.body["Topics"]:
        answer: Struct = {"Name": topic["Name"], "Configs": None}
        try:
            if names.count(topic["Name"]) > 1:
                raise _Refused(ErrorCode.INVALID_REQUEST, f"topic {topic['Name']!r} is named twice in the request")
            answer |= await _create(context, topic, only_check)
        except (_Refused, GridwireError) as error:
            answer |= _failure(error)
        answers.append(answer)
    return {"Topics": answers}


async def _create(context: Context, topic: Struct, only_check: bool) -> Struct:
    name = check_name(topic["Name"])
    partitions = _partitions(context, topic)
    changes = topic_configs.settings_of({each["Name"]: each["Value"] for each in topic["Configs"]})
    settings = with_changes(HubSettings(), changes)
    if context.hub(name) is not None:
        raise HubExists(f"hub {name!r} exists")
    if only_check:
        hub = HubInfo(name, UUID(int=0), partitions, settings)
    else:
        hub = await context.broker.create_hub(name, partitions, changes)
    configs = topic_configs.describe(hub, None, synonyms=False, documentation=False)
    shown = ("Name", "Value", "ReadOnly", "ConfigSource")
    return {
        "TopicId": hub.id,
        "NumPartitions": hub.partitions,
        "ReplicationFactor": 1,
        "Configs": [{key: config[key] for key in shown} for config in configs],
    }


def _partitions(context: Context, topic: Struct) -> int:
    """Number of partitions asked for, by count or by assignment."""
    count: int = topic["NumPartitions"]
    if topic["Assignments"]:
        return _assigned(topic["Assignments"])
    if topic["ReplicationFactor"] not in (_DEFAULT, 1):
        raise _Refused(ErrorCode.INVALID_REPLICATION_FACTOR, "there is one broker: the replication factor is 1")
    if count == _DEFAULT:
        return context.default_partitions
    if not 1 <= count <= PARTITIONS_PER_HUB_MAX:
        raise _Refused(ErrorCode.INVALID_PARTITIONS, f"a hub has 1 to {PARTITIONS_PER_HUB_MAX} partitions, not {count}")
    return count


def _assigned(assignments: Sequence[Struct]) -> int:
    indexes = sorted(each["PartitionIndex"] for each in assignments)
    if indexes != list(range(len(indexes))) or any(each["BrokerIds"] != [NODE_ID] for each in assignments):
        message = f"assignments must name partitions 0, 1, 2 and so on, each on broker {NODE_ID}"
        raise _Refused(ErrorCode.INVALID_REPLICA_ASSIGNMENT, message)
    return len(indexes)


async def delete(context: Context, request: Request) -> Answer:
    """Answer DeleteTopics, by name or (v6) by id."""
    body = request.body
    wanted = body["Topics"] if request.header.version >= 6 else [{"Name": name} for name in body["TopicNames"]]
    return {"Responses": [await _delete(context, topic) for topic in wanted]}


async def _delete(context: Context, topic: Struct) -> dict[str, Any]:
    name, topic_id = topic["Name"], topic.get("TopicId", UUID(int=0))
    answer: Struct = {"Name": name, "TopicId": topic_id}
    try:
        hub = _find(context, name, topic_id)
        answer = {"Name": hub.name, "TopicId": hub.id}
        if hub.internal:
            raise _Refused(ErrorCode.TOPIC_AUTHORIZATION_FAILED, f"hub {hub.name!r} is internal")
        await context.broker.delete_hub(hub.name)
    except (_Refused, GridwireError) as error:
        answer |= _failure(error)
    return answer


def _find(context: Context, name: str | None, topic_id: UUID) -> HubInfo:
    if name is not None:
        return context.broker.hub(name)
    for hub in context.broker.hubs():
        if hub.id == topic_id:
            return hub
    raise _Refused(ErrorCode.UNKNOWN_TOPIC_ID, f"there is no hub with id {topic_id}")


async def create_partitions(context: Context, request: Request) -> Answer:
    """Answer CreatePartitions."""
    only_check = request.body["ValidateOnly"]
    answers = []
    for topic in request.body["Topics"]:
        answer: Struct = {"Name": topic["Name"]}
        try:
            await _grow(context, topic, only_check)
        except (_Refused, GridwireError) as error:
            answer |= _failure(error)
        answers.append(answer)
    return {"Results": answers}


async def _grow(context: Context, topic: Struct, only_check: bool) -> None:
    name, total = topic["Name"], topic["Count"]
    hub = context.hub(name)
    if hub is None:
        raise UnknownHub(f"there is no hub {name!r}")
    if hub.internal:
        raise _Refused(ErrorCode.TOPIC_AUTHORIZATION_FAILED, f"hub {name!r} is internal")
    if not hub.partitions < total <= PARTITIONS_PER_HUB_MAX:
        message = f"{name!r} has {hub.partitions} partitions: ask for more, up to {PARTITIONS_PER_HUB_MAX}, not {total}"
        raise _Refused(ErrorCode.INVALID_PARTITIONS, message)
    if topic["Assignments"] is not None and any(each["BrokerIds"] != [NODE_ID] for each in topic["Assignments"]):
        raise _Refused(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"partitions can only be on broker {NODE_ID}")
    if not only_check:
        await context.broker.add_partitions(name, total)
