"""Who may ask what: each API's question to the one table of rights, and its way of saying no.

A request is split: what is allowed goes on to the handler, what is not is answered with Kafka's own codes. Produce and
Fetch ask by themselves, on their fast paths. An API without a row takes Manage on the namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from gridwire.auth.model import Action
from gridwire.heads.kafka import operations
from gridwire.heads.kafka.context import Answer, Context, Handled, Request
from gridwire.heads.kafka.guards import (
    NO_CLUSTER,
    NO_GROUP,
    NO_TOPIC,
    NO_TRANSACTION,
    Guard,
    Handler,
    by_name_or_id,
    called,
    decoded,
    named,
    of_each,
    of_group,
    parts_refused,
    refused,
    settled,
)
from gridwire.wire.kafka import codec
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode

_TOPIC: Final = 2

_AUDITED: Final[dict[int, Callable[[Struct], Sequence[str]]]] = {
    19: lambda body: [each["Name"] for each in body["Topics"]],
    20: lambda body: [str(each["Name"] or each["TopicId"]) for each in body["Topics"]] + list(body["TopicNames"]),
    21: lambda body: [each["Name"] for each in body["Topics"]],
    33: lambda body: [each["ResourceName"] for each in body["Resources"]],
    37: lambda body: [each["Name"] for each in body["Topics"]],
    42: lambda body: body["GroupsNames"],
    44: lambda body: [each["ResourceName"] for each in body["Resources"]],
    47: lambda body: [body["GroupId"]],
}
"""What changes something for others is written down: the names it is done to."""


async def guarded(handler: Handler, context: Context, request: Request) -> Answer:
    """Answer a request as far as whoever sent it may ask it."""
    guard = GUARDS.get(request.header.key, _operator)
    audited = _AUDITED.get(request.header.key)
    gate = request.gate
    if audited is not None and gate is not None and gate.identity is not None:
        name = codec.APIS[request.header.key].name
        gate.access.audit.record(
            gate.identity.name, f"kafka.{name}", ", ".join(audited(_complete(request))), peer=gate.peer
        )
    answer = await settled(guard(handler, context, request))
    if gate is None or gate.sovereign or not operations.asked(request):
        return answer
    return operations.told(request, decoded(request, answer))


def _complete(request: Request) -> Struct:
    """The body with the fields other versions have."""
    return {"Topics": [], "TopicNames": [], **request.body}


def _open(handler: Handler, context: Context, request: Request) -> Handled:
    """For everybody who signed in."""
    return handler(context, request)


def _operator(handler: Handler, context: Context, request: Request) -> Handled:
    return handler(context, request) if request.may(Action.OPERATE) else refused(request, NO_CLUSTER)


def _inspector(handler: Handler, context: Context, request: Request) -> Handled:
    return handler(context, request) if request.may(Action.INSPECT) else refused(request, NO_CLUSTER)


def _producer_id(handler: Handler, context: Context, request: Request) -> Handled:
    name = request.body["TransactionalId"]
    if name is None:
        allowed, code = request.may(Action.PRODUCE_IDEMPOTENTLY), NO_CLUSTER
    else:
        allowed, code = request.may(Action.TRANSACT, name), NO_TRANSACTION
    return handler(context, request) if allowed else {"ErrorCode": code, **_REFUSED_PRODUCER}


_REFUSED_PRODUCER: Final[Struct] = {"ProducerId": -1, "ProducerEpoch": -1}


def _join(handler: Handler, context: Context, request: Request) -> Handled:
    if request.may(Action.USE_GROUP, request.body["GroupId"]):
        return handler(context, request)
    name = None if request.header.version >= 7 else ""
    return {"ErrorCode": NO_GROUP, "ProtocolName": name, "MemberId": request.body["MemberId"]}


def _topic(item: Struct, code: ErrorCode) -> Struct:
    return {"Name": item["Name"], "ErrorCode": code, "Configs": None}


def _grown(item: Struct, code: ErrorCode) -> Struct:
    return {"Name": item["Name"], "ErrorCode": code}


def _deleted(item: Any, code: ErrorCode) -> Struct:
    if isinstance(item, str):
        return {"Name": item, "ErrorCode": code}
    return {"Name": item["Name"], "TopicId": item["TopicId"], "ErrorCode": code}


def _delete_topics(handler: Handler, context: Context, request: Request) -> Handled:
    asked = "Topics" if request.header.version >= 6 else "TopicNames"
    return of_each(asked, "Responses", by_name_or_id(Action.DELETE_HUB), _deleted)(handler, context, request)


def _config(action: Action) -> Callable[[Context, Request, Any], bool]:
    def may(_: Context, request: Request, item: Struct) -> bool:
        if item["ResourceType"] == _TOPIC:
            return request.may(action, item["ResourceName"])
        return request.may(Action.INSPECT_SETTINGS if action is Action.DESCRIBE_SETTINGS else Action.OPERATE)

    return may


def _no_config(item: Struct, _: ErrorCode) -> Struct:
    kind = item["ResourceType"]
    code = NO_TOPIC if kind == _TOPIC else NO_CLUSTER
    message = "not allowed"
    return {"ResourceType": kind, "ResourceName": item["ResourceName"], "ErrorCode": code, "ErrorMessage": message}


def _metadata(handler: Handler, context: Context, request: Request) -> Handled:
    """Only what may be known; what is missing is only created by whom may create it."""
    body, version = dict(request.body), request.header.version
    topics = body["Topics"]
    if topics is None or (version == 0 and not topics):
        names = [hub.name for hub in context.broker.hubs() if request.may(Action.DESCRIBE_HUB, hub.name)]
        if len(names) < len(context.broker.hubs()):
            if version == 0 and not names:  # an empty list means everything there
                names = [""]
            body["Topics"] = [{"Name": name} for name in names]
            body["AllowAutoTopicCreation"] = False
        return handler(context, replace(request, body=body))
    missing = [topic["Name"] for topic in topics if topic["Name"] and context.hub(topic["Name"]) is None]
    if not all(request.may(Action.CREATE_HUB, name) for name in missing):
        body["AllowAutoTopicCreation"] = False
    guard = _METADATA_TOPICS if version else _METADATA_TOPICS_AT_FIRST
    return guard(handler, context, replace(request, body=body))


def _no_metadata(item: Struct, code: ErrorCode) -> Struct:
    unnamed = item["Name"] is None
    return {"ErrorCode": code, "Name": item["Name"], "Partitions": []} | (
        {"TopicId": item["TopicId"]} if unnamed else {}
    )


_METADATA_TOPICS: Final = of_each(
    "Topics", "Topics", by_name_or_id(Action.DESCRIBE_HUB), _no_metadata, ask_anyway=True
)  # fmt: skip
"""With the brokers, or a Java client ignores the answer."""

_METADATA_TOPICS_AT_FIRST: Final = of_each("Topics", "Topics", by_name_or_id(Action.DESCRIBE_HUB), _no_metadata)
"""In version 0, where asking about nothing means everything."""


def _commit(handler: Handler, context: Context, request: Request) -> Handled:
    if request.may(Action.USE_GROUP, request.body["GroupId"]):
        body = {**request.body, "Topics": context.named(request.body["Topics"])}
        return _COMMIT_TOPICS(handler, context, replace(request, body=body))
    return {"Topics": [parts_refused()(topic, NO_GROUP) for topic in request.body["Topics"]]}


def _commit_in_transaction(handler: Handler, context: Context, request: Request) -> Handled:
    if request.may(Action.TRANSACT, request.body["TransactionalId"]):
        return _commit(handler, context, request)
    return {"Topics": [parts_refused()(topic, NO_TRANSACTION) for topic in request.body["Topics"]]}


_COMMIT_TOPICS: Final = of_each("Topics", "Topics", by_name_or_id(Action.READ), parts_refused())


def _positions(handler: Handler, context: Context, request: Request) -> Handled:
    if request.header.version >= 8:
        return _FETCH_GROUPS(handler, context, request)
    if request.may(Action.DESCRIBE_GROUP, request.body["GroupId"]):
        return handler(context, request)
    return {"ErrorCode": NO_GROUP, "Topics": []}


def _no_group(item: Struct, code: ErrorCode) -> Struct:
    return {"GroupId": item["GroupId"], "ErrorCode": code, "Topics": []}


_FETCH_GROUPS: Final = of_each(
    "Groups", "Groups", named(Action.DESCRIBE_GROUP, "GroupId"), _no_group, NO_GROUP
)  # fmt: skip


def _coordinator(handler: Handler, context: Context, request: Request) -> Handled:
    action, code = _COORDINATED.get(request.body.get("KeyType", 0), (None, ErrorCode.NONE))
    if action is None:  # refused by the handler, whoever asks
        return handler(context, request)
    if request.header.version >= 4:
        guard = of_each("CoordinatorKeys", "Coordinators", called(action), _no_coordinator, code)
        return guard(handler, context, request)
    if request.may(action, request.body["Key"]):
        return handler(context, request)
    return {"ErrorCode": code, "NodeId": -1, "Host": "", "Port": -1}


_COORDINATED: Final[dict[int, tuple[Action, ErrorCode]]] = {
    0: (Action.DESCRIBE_GROUP, NO_GROUP),
    1: (Action.DESCRIBE_TRANSACTION, NO_TRANSACTION),
}
"""By type of coordinator."""


def _no_coordinator(name: str, code: ErrorCode) -> Struct:
    return {"Key": name, "ErrorCode": code, "NodeId": -1, "Host": "", "Port": -1}


async def _list_groups(handler: Handler, context: Context, request: Request) -> Answer:
    body = decoded(request, await settled(handler(context, request)))
    return {**body, "Groups": [each for each in body["Groups"] if request.may(Action.DESCRIBE_GROUP, each["GroupId"])]}


def _described(name: str, code: ErrorCode) -> Struct:
    return {"GroupId": name, "ErrorCode": code}


def _log_dirs(handler: Handler, context: Context, request: Request) -> Handled:
    if request.may(Action.INSPECT):
        return handler(context, request)
    return {"ErrorCode": NO_CLUSTER, "Results": []}


def _quotas(handler: Handler, context: Context, request: Request) -> Handled:
    if request.may(Action.INSPECT_SETTINGS):
        return handler(context, request)
    return {"ErrorCode": NO_CLUSTER, "Entries": None}


def _alter_quotas(handler: Handler, context: Context, request: Request) -> Handled:
    if request.may(Action.OPERATE):
        return handler(context, request)
    return {"Entries": [{"ErrorCode": NO_CLUSTER, "Entity": each["Entity"]} for each in request.body["Entries"]]}


def _each_of_cluster(asked: str, answered: str) -> Guard:
    """For changes of who may do what: one thing, answered for each item."""

    def guard(handler: Handler, context: Context, request: Request) -> Handled:
        if request.may(Action.OPERATE):
            return handler(context, request)
        refusal = {"ErrorCode": NO_CLUSTER, "ErrorMessage": "it takes Manage on the namespace"}
        return {answered: [dict(refusal) for _ in request.body[asked]]}

    return guard


def _alter_users(handler: Handler, context: Context, request: Request) -> Handled:
    if request.may(Action.OPERATE):
        return handler(context, request)
    names = {each["Name"] for each in (*request.body["Deletions"], *request.body["Upsertions"])}
    return {"Results": [{"User": name, "ErrorCode": NO_CLUSTER} for name in sorted(names)]}


async def _partition_pages(handler: Handler, context: Context, request: Request) -> Answer:
    """Only topics that may be known; asking for all of them means those."""
    body = dict(request.body)
    if not body["Topics"]:
        names = [hub.name for hub in context.broker.hubs() if request.may(Action.DESCRIBE_HUB, hub.name)]
        if not names:
            return {"Topics": [], "NextCursor": None}
        body["Topics"] = [{"Name": name} for name in names]
    guard = of_each("Topics", "Topics", named(Action.DESCRIBE_HUB), _no_page)
    return await settled(guard(handler, context, replace(request, body=body)))


def _no_page(item: Struct, code: ErrorCode) -> Struct:
    return {"ErrorCode": code, "Name": item["Name"], "Partitions": []}


def _forget_positions(handler: Handler, context: Context, request: Request) -> Handled:
    if not request.may(Action.DELETE_GROUP, request.body["GroupId"]):
        return {"ErrorCode": NO_GROUP, "Topics": []}
    return handler(context, request)


def _epoch_ends(handler: Handler, context: Context, request: Request) -> Handled:
    guard = of_each("Topics", "Topics", named(Action.LOOK_UP_OFFSETS, "Topic"), parts_refused("Topic", "Partition"))
    return guard(handler, context, request)


def _subscription(handler: Handler, context: Context, request: Request) -> Handled:
    """ConsumerGroupHeartbeat. What is subscribed to must be readable; a pattern could name anything."""
    body = request.body
    if not request.may(Action.USE_GROUP, body["GroupId"]):
        return {"ErrorCode": NO_GROUP}
    names = body.get("SubscribedTopicNames") or ()
    if any(not request.may(Action.READ, name) for name in names):
        return {"ErrorCode": NO_TOPIC}
    if body.get("SubscribedTopicRegex") and not request.may(Action.SUBSCRIBE_BY_PATTERN):
        return {"ErrorCode": NO_TOPIC, "ErrorMessage": "a pattern takes Listen on the namespace"}
    return handler(context, request)


def _join_transaction(handler: Handler, context: Context, request: Request) -> Handled:
    """AddPartitionsToTxn: all or nothing, as the API has it."""
    topics = request.body["V3AndBelowTopics"]
    if not request.may(Action.TRANSACT, request.body["V3AndBelowTransactionalId"]):
        return {"ResultsByTopicV3AndBelow": [_not_joined(topic, NO_TRANSACTION) for topic in topics]}
    if all(request.may(Action.SEND, topic["Name"]) for topic in topics):
        return handler(context, request)
    results = []
    for topic in topics:
        code = ErrorCode.OPERATION_NOT_ATTEMPTED if request.may(Action.SEND, topic["Name"]) else NO_TOPIC
        results.append(_not_joined(topic, code))
    return {"ResultsByTopicV3AndBelow": results}


def _not_joined(topic: Struct, code: ErrorCode) -> Struct:
    parts = [{"PartitionIndex": index, "PartitionErrorCode": code} for index in topic["Partitions"]]
    return {"Name": topic["Name"], "ResultsByPartition": parts}


def _join_group_in_transaction(handler: Handler, context: Context, request: Request) -> Handled:
    if not request.may(Action.TRANSACT, request.body["TransactionalId"]):
        return {"ErrorCode": NO_TRANSACTION}
    return of_group(Action.USE_GROUP)(handler, context, request)


def _end_transaction(handler: Handler, context: Context, request: Request) -> Handled:
    if request.may(Action.TRANSACT, request.body["TransactionalId"]):
        return handler(context, request)
    return {"ErrorCode": NO_TRANSACTION}


GUARDS: Final[dict[int, Guard]] = {
    1: _open,  # Fetch asks for each topic
    2: of_each("Topics", "Topics", named(Action.LOOK_UP_OFFSETS), parts_refused()),
    3: _metadata,
    8: _commit,
    9: _positions,
    10: _coordinator,
    11: _join,
    12: of_group(Action.USE_GROUP),
    13: of_group(Action.USE_GROUP),
    14: of_group(Action.USE_GROUP),
    15: of_each("Groups", "Groups", called(Action.DESCRIBE_GROUP), _described, NO_GROUP),
    16: _list_groups,
    18: _open,
    19: of_each("Topics", "Topics", named(Action.CREATE_HUB), _topic),
    20: _delete_topics,
    21: of_each("Topics", "Topics", named(Action.DELETE_EVENTS), parts_refused()),
    22: _producer_id,
    23: _epoch_ends,
    24: _join_transaction,
    25: _join_group_in_transaction,
    26: _end_transaction,
    28: _commit_in_transaction,
    29: _inspector,
    30: _each_of_cluster("Creations", "Results"),
    31: _each_of_cluster("Filters", "FilterResults"),
    32: of_each("Resources", "Results", _config(Action.DESCRIBE_SETTINGS), _no_config),
    33: of_each("Resources", "Responses", _config(Action.ALTER_HUB), _no_config),
    35: _log_dirs,
    37: of_each("Topics", "Results", named(Action.GROW_HUB), _grown),
    42: of_each("GroupsNames", "Results", called(Action.DELETE_GROUP), _described, NO_GROUP),
    44: of_each("Resources", "Responses", _config(Action.ALTER_HUB), _no_config),
    47: _forget_positions,
    48: _quotas,
    49: _alter_quotas,
    50: _inspector,
    51: _alter_users,
    60: _open,
    68: _subscription,
    69: of_each("GroupIds", "Groups", called(Action.DESCRIBE_GROUP), _described, NO_GROUP),
    75: _partition_pages,
}
"""By API key."""
