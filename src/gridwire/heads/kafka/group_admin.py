"""DescribeGroups 0 to 6, ListGroups 0 to 5 and DeleteGroups 0 to 2 served.

Missing: nothing. A group of which only positions are known, because its members left before a restart, is Empty.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from gridwire.core.errors import GridwireError
from gridwire.groups.model import GroupError, GroupState, GroupView
from gridwire.heads.kafka.context import Answer, Context, Request, code_of_group
from gridwire.heads.kafka.metadata import NOT_ASKED
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode, coordinator_code_of

GROUP_OPERATIONS: Final = sum(1 << bit for bit in (3, 6, 8))
"""READ, DELETE, DESCRIBE."""

CONSUMER: Final = "consumer"
CLASSIC: Final = "classic"
_NOT_FOUND_FROM: Final = 6
_DEAD: Final[Struct] = {"GroupState": GroupState.DEAD.value}


async def describe(context: Context, request: Request) -> Answer:
    """Answer DescribeGroups."""
    with_positions = set(await context.broker.group_names())
    operations = GROUP_OPERATIONS if request.body.get("IncludeAuthorizedOperations") else NOT_ASKED
    groups = []
    for name in request.body["Groups"]:
        view = context.membership.describe(name)
        if context.membership.consumers.get(name) is not None:
            answer = dict(_DEAD)
            if request.header.version >= _NOT_FOUND_FROM:
                message = f"group {name!r} is not a classic group"
                answer |= {"ErrorCode": ErrorCode.GROUP_ID_NOT_FOUND, "ErrorMessage": message}
        elif view is not None:
            answer = _view(view)
        elif name in with_positions:
            answer = {"GroupState": GroupState.EMPTY.value, "ProtocolType": CONSUMER}
        else:
            answer = dict(_DEAD)
            if request.header.version >= _NOT_FOUND_FROM:
                answer |= {"ErrorCode": ErrorCode.GROUP_ID_NOT_FOUND, "ErrorMessage": f"there is no group {name!r}"}
        groups.append(answer | {"GroupId": name, "AuthorizedOperations": operations})
    return {"Groups": groups}


def _view(view: GroupView) -> Struct:
    members = [
        {
            "MemberId": member.member_id,
            "GroupInstanceId": member.instance,
            "ClientId": member.client_id,
            "ClientHost": member.host,
            "MemberMetadata": member.metadata,
            "MemberAssignment": member.assignment,
        }
        for member in view.members
    ]
    return {
        "GroupState": view.state.value,
        "ProtocolType": view.protocol_type,
        "ProtocolData": view.protocol,
        "Members": members,
    }


async def list_groups(context: Context, request: Request) -> Answer:
    """Answer ListGroups: groups with members, and groups with positions only."""
    states = {state.lower() for state in request.body.get("StatesFilter", ())}
    types = {kind.lower() for kind in request.body.get("TypesFilter", ())}
    found: dict[str, tuple[str, StrEnum]] = {
        name: (protocol_type, state) for name, protocol_type, state in context.membership.list()
    }
    for name in await context.broker.group_names():
        found.setdefault(name, (CONSUMER, GroupState.EMPTY))
    groups = [
        {"GroupId": name, "ProtocolType": protocol_type, "GroupState": state.value, "GroupType": _type(context, name)}
        for name, (protocol_type, state) in sorted(found.items())
        if (not states or state.value.lower() in states) and (not types or _type(context, name) in types)
    ]
    return {"Groups": groups}


def _type(context: Context, name: str) -> str:
    return CLASSIC if context.membership.consumers.get(name) is None else CONSUMER


async def delete(context: Context, request: Request) -> Answer:
    """Answer DeleteGroups: groups without members are forgotten, positions and all."""
    return {"Results": [await _delete(context, name) for name in request.body["GroupsNames"]]}


async def _delete(context: Context, name: str) -> Struct:
    error = context.membership.delete(name)
    code = code_of_group(error)
    try:
        if error in (GroupError.NONE, GroupError.GROUP_ID_NOT_FOUND) and name in await context.broker.group_names():
            await context.broker.delete_group(name)
            code = ErrorCode.NONE
    except GridwireError as problem:
        code = coordinator_code_of(problem)
    return {"GroupId": name, "ErrorCode": code}
