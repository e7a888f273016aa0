"""What guards of Kafka's APIs are made of: questions about one thing or several, and the refusals of those that are not
allowed. `rights` says which API asks what.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from gridwire.auth.model import Action
from gridwire.core.errors import RemoteProtocolError
from gridwire.heads.kafka.context import Answer, Context, Handled, Request
from gridwire.wire.kafka import codec
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode

Handler = Callable[[Context, Request], Handled]
"""Answers a request that is allowed."""

Guard = Callable[[Handler, Context, Request], Handled]
"""Asks for the right, then the handler, or refuses."""

NO_TOPIC: Final = ErrorCode.TOPIC_AUTHORIZATION_FAILED
NO_GROUP: Final = ErrorCode.GROUP_AUTHORIZATION_FAILED
NO_CLUSTER: Final = ErrorCode.CLUSTER_AUTHORIZATION_FAILED
NO_TRANSACTION: Final = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


async def settled(result: Handled) -> Answer:
    """What a handler answers, which may take a while."""
    return await result if inspect.iscoroutine(result) else result  # type: ignore[return-value]


def refused(request: Request, code: ErrorCode) -> Answer:
    """A refusal of the whole request; the connection ends where the API has no place for one."""
    api = codec.APIS[request.header.key]
    if not any(field.name == "ErrorCode" and field.exists(request.header.version) for field in api.response):
        raise RemoteProtocolError(f"{api.name} takes Manage on the namespace")
    return {"ErrorCode": code}


def of_group(action: Action) -> Guard:
    """For requests of one group with one error."""

    def guard(handler: Handler, context: Context, request: Request) -> Handled:
        return handler(context, request) if request.may(action, request.body["GroupId"]) else {"ErrorCode": NO_GROUP}

    return guard


def of_each(
    asked: str, answered: str, may: Callable[[Context, Request, Any], bool], refuse: Callable[[Any, ErrorCode], Struct],
    code: ErrorCode = NO_TOPIC, ask_anyway: bool = False,
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
            answer = await settled(handler(context, replace(request, body={**request.body, asked: good})))
        if not bad:
            return answer
        body = decoded(request, answer)
        return {**body, answered: [*body.get(answered, ()), *bad]}

    def guard(handler: Handler, context: Context, request: Request) -> Handled:
        items = request.body.get(asked)
        if items is None:
            return handler(context, request)
        return split(handler, context, request, items)

    return guard


def decoded(request: Request, answer: Answer) -> Struct:
    """A body; one that is encoded already is taken apart again."""
    if isinstance(answer, dict):
        return answer
    return codec.decode_response(request.header.key, request.header.version, b"".join(answer))[1]


def named(action: Action, key: str = "Name") -> Callable[[Context, Request, Any], bool]:
    """Whether something may be done to an item, which says its name under `key`."""
    return lambda _, request, item: request.may(action, item[key])


def called(action: Action) -> Callable[[Context, Request, Any], bool]:
    """The same of an item that is a name."""
    return lambda _, request, name: request.may(action, name)


def parts_refused(
    name: str = "Name", index: str = "PartitionIndex", answered: str = ""
) -> Callable[[Any, ErrorCode], Struct]:
    """Refuse every partition of a topic."""

    def refuse(topic: Struct, code: ErrorCode) -> Struct:
        parts = [{answered or index: part[index], "ErrorCode": code} for part in topic["Partitions"]]
        return {key: topic[key] for key in (name, "TopicId") if key in topic} | {"Partitions": parts}

    return refuse


def by_name_or_id(action: Action) -> Callable[[Context, Request, Any], bool]:
    """Topics named by name or id; an id nobody has is nobody's secret."""

    def may(context: Context, request: Request, item: Any) -> bool:
        name = item if isinstance(item, str) else item["Name"]
        if not name:
            name = "".join(hub.name for hub in context.hubs_by_id([item["TopicId"]]).values())
        return not name or request.may(action, name)

    return may
