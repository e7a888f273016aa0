"""DescribeConfigs: versions 1 to 4 served, for topics and for broker 1 (read-only).

AlterConfigs: versions 0 to 2 served, for topics; what is not named returns to its default, as the API means it.

IncrementalAlterConfigs: versions 0 and 1 served, for topics. Missing: broker configs, loggers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gridwire.broker.port import HubInfo
from gridwire.core.errors import GridwireError, InvalidSetting
from gridwire.core.limits import BATCH_BYTES_MAX
from gridwire.core.settings import with_changes
from gridwire.heads.kafka import topic_configs
from gridwire.heads.kafka.context import NODE_ID, Answer, Context, Request
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode, code_of

_TOPIC: Final = 2
_BROKER: Final = 4
_SET: Final = 0
_DELETE: Final = 1
_APPEND: Final = 2
_SUBTRACT: Final = 3


def describe(context: Context, request: Request) -> Answer:
    """Answer DescribeConfigs."""
    return {"Results": [_described(context, resource, request.body) for resource in request.body["Resources"]]}


def _described(context: Context, resource: Struct, body: Struct) -> Struct:
    kind, name = resource["ResourceType"], resource["ResourceName"]
    answer: Struct = {"ResourceType": kind, "ResourceName": name}
    wanted = None if resource["ConfigurationKeys"] is None else set(resource["ConfigurationKeys"])
    synonyms, documentation = body["IncludeSynonyms"], body.get("IncludeDocumentation", False)
    if kind == _TOPIC:
        try:
            hub = context.broker.hub(name)
        except GridwireError as error:
            return answer | {"ErrorCode": code_of(error), "ErrorMessage": str(error)}
        rows = topic_configs.describe(hub, wanted, synonyms=synonyms, documentation=documentation)
    elif kind == _BROKER and name in ("", str(NODE_ID)):
        values = _broker_values(context)
        rows = topic_configs.describe_broker(values, wanted, synonyms=synonyms, documentation=documentation)
    else:
        message = f"resources of type {kind} named {name!r} have no configs: ask for topics, or for broker {NODE_ID}"
        return answer | {"ErrorCode": ErrorCode.INVALID_REQUEST, "ErrorMessage": message}
    return answer | {"Configs": rows}


def _broker_values(context: Context) -> dict[str, str]:
    return {
        "node.id": str(NODE_ID),
        "auto.create.topics.enable": str(context.auto_create).lower(),
        "num.partitions": str(context.default_partitions),
        "default.replication.factor": "1",
        "message.max.bytes": str(BATCH_BYTES_MAX),
        "gridwire.durability": context.broker.durability,
    }


async def alter(context: Context, request: Request) -> Answer:
    """Answer IncrementalAlterConfigs."""
    only_check = request.body["ValidateOnly"]
    return {"Responses": [await _altered(context, each, only_check, _wishes) for each in request.body["Resources"]]}


async def replace(context: Context, request: Request) -> Answer:
    """Answer AlterConfigs."""
    only_check = request.body["ValidateOnly"]
    return {"Responses": [await _altered(context, each, only_check, _whole) for each in request.body["Resources"]]}


def _wishes(hub: HubInfo, configs: list[Struct]) -> dict[str, str | None]:
    return {each["Name"]: _value(hub, each) for each in configs}


def _whole(_: HubInfo, configs: list[Struct]) -> dict[str, str | None]:
    """Every config: as named, or its default."""
    for each in configs:
        if each["Value"] is None:
            raise InvalidSetting(f"{each['Name']} cannot be null: leave it out instead")
    return {**dict.fromkeys(topic_configs.NAMES), **{each["Name"]: str(each["Value"]) for each in configs}}


async def _altered(
    context: Context,
    resource: Struct,
    only_check: bool,
    read: Callable[[HubInfo, list[Struct]], dict[str, str | None]],
) -> Struct:
    kind, name = resource["ResourceType"], resource["ResourceName"]
    answer: Struct = {"ResourceType": kind, "ResourceName": name}
    if kind != _TOPIC:
        message = "only configs of topics can be changed"
        return answer | {"ErrorCode": ErrorCode.INVALID_REQUEST, "ErrorMessage": message}
    try:
        hub = context.broker.hub(name)
        if hub.internal:
            message = f"hub {name!r} is internal"
            return answer | {"ErrorCode": ErrorCode.TOPIC_AUTHORIZATION_FAILED, "ErrorMessage": message}
        changes = topic_configs.settings_of(read(hub, resource["Configs"]))
        with_changes(hub.settings, changes)
        if changes and not only_check:
            await context.broker.alter_hub(name, changes)
    except GridwireError as error:
        return answer | {"ErrorCode": code_of(error), "ErrorMessage": str(error)}
    return answer


def _value(hub: HubInfo, config: Struct) -> str | None:
    name, operation = config["Name"], config["ConfigOperation"]
    if operation == _DELETE:
        return None
    if config["Value"] is None:
        raise InvalidSetting(f"{name} cannot be null: delete it instead")
    value = str(config["Value"])
    if operation == _SET:
        return value
    if operation not in (_APPEND, _SUBTRACT):
        raise InvalidSetting(f"there is no operation {operation} on {name}")
    return topic_configs.changed_list(hub, name, value, append=operation == _APPEND)
