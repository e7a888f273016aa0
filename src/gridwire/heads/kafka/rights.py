"""Who may ask what: each API's question to the one table of rights, and its way of saying no.

A request is split: what is allowed goes on to the handler, what is not is answered with Kafka's own codes. Produce and
Fetch ask by themselves, on their fast paths. An API without a row takes Manage on the namespace.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from gridwire.auth.model import Action
from gridwire.core.errors import RemoteProtocolError
from gridwire.heads.kafka import operations
from gridwire.heads.kafka.context import Answer, Context, Handled, Request
from gridwire.wire.kafka import codec
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode

Handler = Callable[[Context, Request], Handled]
Guard = Callable[[Handler, Context, Request], Handled]

_NO_TOPIC: Final = ErrorCode.TOPIC_AUTHORIZATION_FAILED
_NO_GROUP: Final = ErrorCode.GROUP_AUTHORIZATION_FAILED
_NO_CLUSTER: Final = ErrorCode.CLUSTER_AUTHORIZATION_FAILED
_NO_TRANSACTION: Final = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
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
    answer = await _settled(guard(handler, context, request))
    if gate is None or gate.sovereign or not operations.asked(request):
        return answer
    return operations.told(request, _decoded(request, answer))


def _complete(request: Request) -> Struct:
    """The body with the fields other versions have."""
    return {"Topics": [], "TopicNames": [], **request.body}


async def _settled(result: Handled) -> Answer:
    return await result if inspect.iscoroutine(result) else result  # type: ignore[return-value]


def _open(handler: Handler, context: Context, request: Request) -> Handled:
    """For everybody who signed in."""
    return handler(context, request)


def _operator(handler: Handler, context: Context, request: Request) -> Handled:
    return handler(context, request) if request.may(Action.OPERATE) else _whole(request, _NO_CLUSTER)


def _inspector(handler: Handler, context: Context, request: Request) -> Handled:
    return handler(context, request) if request.may(Action.INSPECT) else _whole(request, _NO_CLUSTER)


def _whole(request: Request, code: ErrorCode) -> Answer:
    """A refusal of the whole request; the connection ends where the API has no place for one."""
    api = codec.APIS[request.header.key]
    if not any(field.name == "ErrorCode" and field.exists(request.header.version) for field in api.response):
        raise RemoteProtocolError(f"{api.name} takes Manage on the namespace")
    return {"ErrorCode": code}


def _producer_id(handler: Handler, context: Context, request: Request) -> Handled:
    name = request.body["TransactionalId"]
    if name is None:
        allowed, code = request.may(Action.PRODUCE_IDEMPOTENTLY), _NO_CLUSTER
    else:
        allowed, code = request.may(Action.TRANSACT, name), _NO_TRANSACTION
    return handler(context, request) if allowed else {"ErrorCode": code, **_REFUSED_PRODUCER}


_REFUSED_PRODUCER: Final[Struct] = {"ProducerId": -1, "ProducerEpoch": -1}


def _group(action: Action) -> Guard:
    """For requests of one group with one error."""

    def guard(handler: Handler, context: Context, request: Request) -> Handled:
        return handler(context, request) if request.may(action, request.body["GroupId"]) else {"ErrorCode": _NO_GROUP}

    return guard


def _join(handler: Handler, context: Context, request: Request) -> Handled:
    if request.may(Action.USE_GROUP, request.body["GroupId"]):
        return handler(context, request)
    name = None if request.header.version >= 7 else ""
    return {"ErrorCode": _NO_GROUP, "ProtocolName": name, "MemberId": request.body["MemberId"]}


def _each(
    asked: str, answered: str, may: Callable[[Context, Request, Any], bool], refuse: Callable[[Any, ErrorCode], Struct],
    code: ErrorCode = _NO_TOPIC, ask_anyway: bool = False,
) -> Guard:  # fmt: skip
    """For requests about several things that are answered one by one.

    Args:
        ask_anyway: the answer says more than what was asked about, so the handler is called with nothing left too.
    """

    async def split(handler: Handler, context: Context, request: Request, items: list[Any]) -> Answer:
        good = [item for item in items if may(context, request, item)]
        bad = [refuse(item, code) for item in items if not may(context, request, item)]
        answer: Answer = {answered: []}
        if good or not bad or ask_anyway:
            answer = await _settled(handler(context, replace(request, body={**request.body, asked: good})))
        if not bad:
            return answer
        body = _decoded(request, answer)
        return {**body, answered: [*body.get(answered, ()), *bad]}

    def guard(handler: Handler, context: Context, request: Request) -> Handled:
        items = request.body.get(asked)
        if items is None:
            return handler(context, request)
        return split(handler, context, request, items)

    return guard


def _decoded(request: Request, answer: Answer) -> Struct:
    """A body; one that is encoded already is taken apart again."""
    if isinstance(answer, dict):
        return answer
    return codec.decode_response(request.header.key, request.header.version, b"".join(answer))[1]


def _named(action: Action, key: str = "Name") -> Callable[[Context, Request, Any], bool]:
    return lambda _, request, item: request.may(action, item[key])


def _called(action: Action) -> Callable[[Context, Request, Any], bool]:
    return lambda _, request, name: request.may(action, name)


def _parts(name: str = "Name", index: str = "PartitionIndex", answered: str = "") -> Callable[[Any, ErrorCode], Struct]:
    """Refuse every partition of a topic."""

    def refuse(topic: Struct, code: ErrorCode) -> Struct:
        parts = [{answered or index: part[index], "ErrorCode": code} for part in topic["Partitions"]]
        return {key: topic[key] for key in (name, "TopicId") if key in topic} | {"Partitions": parts}

    return refuse


def _topic(item: Struct, code: ErrorCode) -> Struct:
    return {"Name": item["Name"], "ErrorCode": code, "Configs": None}


def _grown(item: Struct, code: ErrorCode) -> Struct:
    return {"Name": item["Name"], "ErrorCode": code}


def _by_name_or_id(action: Action) -> Callable[[Context, Request, Any], bool]:
    """Topics named by name or id; an id nobody has is nobody's secret."""

    def may(context: Context, request: Request, item: Any) -> bool:
        name = item if isinstance(item, str) else item["Name"]
        if not name:
            name = "".join(hub.name for hub in context.hubs_by_id([item["TopicId"]]).values())
        return not name or request.may(action, name)

    return may


def _deleted(item: Any, code: ErrorCode) -> Struct:
    if isinstance(item, str):
        return {"Name": item, "ErrorCode": code}
    return {"Name": item["Name"], "TopicId": item["TopicId"], "ErrorCode": code}


def _delete_topics(handler: Handler, context: Context, request: Request) -> Handled:
    asked = "Topics" if request.header.version >= 6 else "TopicNames"
    return _each(asked, "Responses", _by_name_or_id(Action.DELETE_HUB), _deleted)(handler, context, request)


def _config(action: Action) -> Callable[[Context, Request, Any], bool]:
    def may(_: Context, request: Request, item: Struct) -> bool:
        if item["ResourceType"] == _TOPIC:
            return request.may(action, item["ResourceName"])
        return request.may(Action.INSPECT_SETTINGS if action is Action.DESCRIBE_SETTINGS else Action.OPERATE)

    return may


def _no_config(item: Struct, _: ErrorCode) -> Struct:
    kind = item["ResourceType"]
    code = _NO_TOPIC if kind == _TOPIC else _NO_CLUSTER
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


_METADATA_TOPICS: Final = _each(
    "Topics", "Topics", _by_name_or_id(Action.DESCRIBE_HUB), _no_metadata, ask_anyway=True
)  # fmt: skip
"""With the brokers, or a Java client ignores the answer."""

_METADATA_TOPICS_AT_FIRST: Final = _each("Topics", "Topics", _by_name_or_id(Action.DESCRIBE_HUB), _no_metadata)
"""In version 0, where asking about nothing means everything."""


def _commit(handler: Handler, context: Context, request: Request) -> Handled:
    if request.may(Action.USE_GROUP, request.body["GroupId"]):
        body = {**request.body, "Topics": context.named(request.body["Topics"])}
        return _COMMIT_TOPICS(handler, context, replace(request, body=body))
    return {"Topics": [_parts()(topic, _NO_GROUP) for topic in request.body["Topics"]]}


def _commit_in_transaction(handler: Handler, context: Context, request: Request) -> Handled:
    if request.may(Action.TRANSACT, request.body["TransactionalId"]):
        return _commit(handler, context, request)
    return {"Topics": [_parts()(topic, _NO_TRANSACTION) for topic in request.body["Topics"]]}


_COMMIT_TOPICS: Final = _each("Topics", "Topics", _by_name_or_id(Action.READ), _parts())


def _positions(handler: Handler, context: Context, request: Request) -> Handled:
    if request.header.version >= 8:
        return _FETCH_GROUPS(handler, context, request)
    if request.may(Action.DESCRIBE_GROUP, request.body["GroupId"]):
        return handler(context, request)
    return {"ErrorCode": _NO_GROUP, "Topics": []}


def _no_group(item: Struct, code: ErrorCode) -> Struct:
    return {"GroupId": item["GroupId"], "ErrorCode": code, "Topics": []}


_FETCH_GROUPS: Final = _each(
    "Groups", "Groups", _named(Action.DESCRIBE_GROUP, "GroupId"), _no_group, _NO_GROUP
)  # fmt: skip


def _coordinator(handler: Handler, context: Context, request: Request) -> Handled:
    action, code = _COORDINATED.get(request.body.get("KeyType", 0), (None, ErrorCode.NONE))
    if action is None:  # refused by the handler, whoever asks
        return handler(context, request)
    if request.header.version >= 4:
        guard = _each("CoordinatorKeys", "Coordinators", _called(action), _no_coordinator, code)
        return guard(handler, context, request)
    if request.may(action, request.body["Key"]):
        return handler(context, request)
    return {"ErrorCode": code, "NodeId": -1, "Host": "", "Port": -1}


_COORDINATED: Final[dict[int, tuple[Action, ErrorCode]]] = {
    0: (Action.DESCRIBE_GROUP, _NO_GROUP),
    1: (Action.DESCRIBE_TRANSACTION, _NO_TRANSACTION),
}
"""By type of coordinator."""


def _no_coordinator(name: str, code: ErrorCode) -> Struct:
    return {"Key": name, "ErrorCode": code, "NodeId": -1, "Host": "", "Port": -1}


async def _list_groups(handler: Handler, context: Context, request: Request) -> Answer:
    body = _decoded(request, await _settled(handler(context, request)))
    return {**body, "Groups": [each for each in body["Groups"] if request.may(Action.DESCRIBE_GROUP, each["GroupId"])]}


def _described(name: str, code: ErrorCode) -> Struct:
    return {"GroupId": name, "ErrorCode": code}


def _log_dirs(handler: Handler, context: Context, request: Request) -> Handled:
    if request.may(Action.INSPECT):
        return handler(context, request)
    return {"ErrorCode": _NO_CLUSTER, "Results": []}


def _quotas(handler: Handler, context: Context, request: Request) -> Handled:
    if request.may(Action.INSPECT_SETTINGS):
        return handler(context, request)
    return {"ErrorCode": _NO_CLUSTER, "Entries": None}


def _alter_quotas(handler: Handler, context: Context, request: Request) -> Handled:
    if request.may(Action.OPERATE):
        return handler(context, request)
    return {"Entries": [{"ErrorCode": _NO_CLUSTER, "Entity": each["Entity"]} for each in request.body["Entries"]]}


def _each_of_cluster(asked: str, answered: str) -> Guard:
    """For changes of who may do what: one thing, answered for each item."""

    def guard(handler: Handler, context: Context, request: Request) -> Handled:
        if request.may(Action.OPERATE):
            return handler(context, request)
        refusal = {"ErrorCode": _NO_CLUSTER, "ErrorMessage": "it takes Manage on the namespace"}
        return {answered: [dict(refusal) for _ in request.body[asked]]}

    return guard


def _alter_users(handler: Handler, context: Context, request: Request) -> Handled:
    if request.may(Action.OPERATE):
        return handler(context, request)
    names = {each["Name"] for each in (*request.body["Deletions"], *request.body["Upsertions"])}
    return {"Results": [{"User": name, "ErrorCode": _NO_CLUSTER} for name in sorted(names)]}


async def _partition_pages(handler: Handler, context: Context, request: Request) -> Answer:
    """Only topics that may be known; asking for all of them means those."""
    body = dict(request.body)
    if not body["Topics"]:
        names = [hub.name for hub in context.broker.hubs() if request.may(Action.DESCRIBE_HUB, hub.name)]
        if not names:
            return {"Topics": [], "NextCursor": None}
        body["Topics"] = [{"Name": name} for name in names]
    guard = _each("Topics", "Topics", _named(Action.DESCRIBE_HUB), _no_page)
    return await _settled(guard(handler, context, replace(request, body=body)))


def _no_page(item: Struct, code: ErrorCode) -> Struct:
    return {"ErrorCode": code, "Name": item["Name"], "Partitions": []}


def _forget_positions(handler: Handler, context: Context, request: Request) -> Handled:
    if not request.may(Action.DELETE_GROUP, request.body["GroupId"]):
        return {"ErrorCode": _NO_GROUP, "Topics": []}
    return handler(context, request)


def _epoch_ends(handler: Handler, context: Context, request: Request) -> Handled:
    guard = _each("Topics", "Topics", _named(Action.LOOK_UP_OFFSETS, "Topic"), _parts("Topic", "Partition"))
    return guard(handler, context, request)


def _subscription(handler: Handler, context: Context, request: Request) -> Handled:
    """ConsumerGroupHeartbeat. What is subscribed to must be readable; a pattern could name anything."""
    body = request.body
    if not request.may(Action.USE_GROUP, body["GroupId"]):
        return {"ErrorCode": _NO_GROUP}
    names = body.get("SubscribedTopicNames") or ()
    if any(not request.may(Action.READ, name) for name in names):
        return {"ErrorCode": _NO_TOPIC}
    if body.get("SubscribedTopicRegex") and not request.may(Action.SUBSCRIBE_BY_PATTERN):
        return {"ErrorCode": _NO_TOPIC, "ErrorMessage": "a pattern takes Listen on the namespace"}
    return handler(context, request)


def _join_transaction(handler: Handler, context: Context, request: Request) -> Handled:
    """AddPartitionsToTxn: all or nothing, as the API has it."""
    topics = request.body["V3AndBelowTopics"]
    if not request.may(Action.TRANSACT, request.body["V3AndBelowTransactionalId"]):
        return {"ResultsByTopicV3AndBelow": [_not_joined(topic, _NO_TRANSACTION) for topic in topics]}
    if all(request.may(Action.SEND, topic["Name"]) for topic in topics):
        return handler(context, request)
    results = []
    for topic in topics:
        code = ErrorCode.OPERATION_NOT_ATTEMPTED if request.may(Action.SEND, topic["Name"]) else _NO_TOPIC
        results.append(_not_joined(topic, code))
    return {"ResultsByTopicV3AndBelow": results}


def _not_joined(topic: Struct, code: ErrorCode) -> Struct:
    parts = [{"PartitionIndex": index, "PartitionErrorCode": code} for index in topic["Partitions"]]
    return {"Name": topic["Name"], "ResultsByPartition": parts}


def _join_group_in_transaction(handler: Handler, context: Context, request: Request) -> Handled:
    if not request.may(Action.TRANSACT, request.body["TransactionalId"]):
        return {"ErrorCode": _NO_TRANSACTION}
    return _group(Action.USE_GROUP)(handler, context, request)


def _end_transaction(handler: Handler, context: Context, request: Request) -> Handled:
    if request.may(Action.TRANSACT, request.body["TransactionalId"]):
        return handler(context, request)
    return {"ErrorCode": _NO_TRANSACTION}


GUARDS: Final[dict[int, Guard]] = {
    1: _open,  # Fetch asks for each topic
    2: _each("Topics", "Topics", _named(Action.LOOK_UP_OFFSETS), _parts()),
    3: _metadata,
    8: _commit,
    9: _positions,
    10: _coordinator,
    11: _join,
    12: _group(Action.USE_GROUP),
    13: _group(Action.USE_GROUP),
    14: _group(Action.USE_GROUP),
    15: _each("Groups", "Groups", _called(Action.DESCRIBE_GROUP), _described, _NO_GROUP),
    16: _list_groups,
    18: _open,
    19: _each("Topics", "Topics", _named(Action.CREATE_HUB), _topic),
    20: _delete_topics,
    21: _each("Topics", "Topics", _named(Action.DELETE_EVENTS), _parts()),
    22: _producer_id,
    23: _epoch_ends,
    24: _join_transaction,
    25: _join_group_in_transaction,
    26: _end_transaction,
    28: _commit_in_transaction,
    29: _inspector,
    30: _each_of_cluster("Creations", "Results"),
    31: _each_of_cluster("Filters", "FilterResults"),
    32: _each("Resources", "Results", _config(Action.DESCRIBE_SETTINGS), _no_config),
    33: _each("Resources", "Responses", _config(Action.ALTER_HUB), _no_config),
    35: _log_dirs,
    37: _each("Topics", "Results", _named(Action.GROW_HUB), _grown),
    42: _each("GroupsNames", "Results", _called(Action.DELETE_GROUP), _described, _NO_GROUP),
    44: _each("Resources", "Responses", _config(Action.ALTER_HUB), _no_config),
    47: _forget_positions,
    48: _quotas,
    49: _alter_quotas,
    50: _inspector,
    51: _alter_users,
    60: _open,
    68: _subscription,
    69: _each("GroupIds", "Groups", _called(Action.DESCRIBE_GROUP), _described, _NO_GROUP),
    75: _partition_pages,
}
"""By API key."""
