"""JoinGroup 0 to 9, SyncGroup 0 to 5, Heartbeat 0 to 4 and LeaveGroup 0 to 5 served.

Missing: nothing of these. The new consumer group protocol is in `consumer_groups`.
"""

from __future__ import annotations

from gridwire.groups.model import GroupError, JoinResult
from gridwire.heads.kafka.context import Answer, Context, Request, code_of_group
from gridwire.wire.kafka.compiler import Struct

_KNOWN_MEMBER_FROM = 4
_SKIPPING_FROM = 9
_NULL_PROTOCOL_FROM = 7


async def join(context: Context, request: Request) -> Answer:
    """Answer JoinGroup when the next generation is complete."""
    body, version = request.body, request.header.version
    rebalance_timeout_ms = body.get("RebalanceTimeoutMs", -1)
    result = await context.membership.join(
        body["GroupId"],
        body["MemberId"],
        body.get("GroupInstanceId"),
        request.header.client_id or "",
        "/" + request.peer_host,
        body["SessionTimeoutMs"],
        body["SessionTimeoutMs"] if rebalance_timeout_ms < 0 else rebalance_timeout_ms,
        body["ProtocolType"],
        [(each["Name"], each["Metadata"]) for each in body["Protocols"]],
        require_known_member=version >= _KNOWN_MEMBER_FROM,
        supports_skipping=version >= _SKIPPING_FROM,
    )
    return _joined(result, version)


def _joined(result: JoinResult, version: int) -> Struct:
    failed = result.error is not GroupError.NONE
    nothing = None if version >= _NULL_PROTOCOL_FROM else ""
    return {
        "ErrorCode": code_of_group(result.error),
        "GenerationId": result.generation,
        "ProtocolType": None if failed else result.protocol_type,
        "ProtocolName": nothing if failed else result.protocol,
        "Leader": result.leader,
        "SkipAssignment": result.skip_assignment,
        "MemberId": result.member_id,
        "Members": [
            {"MemberId": member_id, "GroupInstanceId": instance, "Metadata": metadata}
            for member_id, instance, metadata in result.members
        ],
    }


async def sync(context: Context, request: Request) -> Answer:
    """Answer SyncGroup when the leader has brought the assignment."""
    body = request.body
    result = await context.membership.sync(
        body["GroupId"],
        body["GenerationId"],
        body["MemberId"],
        body.get("GroupInstanceId"),
        body.get("ProtocolType"),
        body.get("ProtocolName"),
        [(each["MemberId"], each["Assignment"]) for each in body["Assignments"]],
    )
    failed = result.error is not GroupError.NONE
    return {
        "ErrorCode": code_of_group(result.error),
        "ProtocolType": None if failed else result.protocol_type,
        "ProtocolName": None if failed else result.protocol,
        "Assignment": result.assignment,
    }


def heartbeat(context: Context, request: Request) -> Answer:
    """Answer Heartbeat."""
    body = request.body
    error = context.membership.heartbeat(
        body["GroupId"], body["GenerationId"], body["MemberId"], body.get("GroupInstanceId")
    )
    return {"ErrorCode": code_of_group(error)}


def leave(context: Context, request: Request) -> Answer:
    """Answer LeaveGroup, for one member (to v2) or several."""
    body = request.body
    members = body["Members"] if request.header.version >= 3 else [{"MemberId": body["MemberId"]}]
    leavers = [(each["MemberId"], each.get("GroupInstanceId"), each.get("Reason")) for each in members]
    error, errors = context.membership.leave(body["GroupId"], leavers)
    if request.header.version < 3:
        return {"ErrorCode": code_of_group(errors[0] if error is GroupError.NONE else error)}
    answers = [
        {"MemberId": member_id, "GroupInstanceId": instance, "ErrorCode": code_of_group(each)}
        for (member_id, instance, _), each in zip(leavers, errors, strict=True)
    ]
    return {"ErrorCode": code_of_group(error), "Members": answers}
