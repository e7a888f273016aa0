"""DeleteRecords: versions 0 to 2 served. Missing: nothing.

OffsetDelete: version 0 served. Missing: nothing.
"""

from __future__ import annotations

from typing import Final

from gridwire.broker.port import HubInfo, Place
from gridwire.core.errors import GridwireError
from gridwire.groups.consumer_protocol import CONSUMER, subscribed_hubs
from gridwire.groups.model import GroupView
from gridwire.heads.kafka.context import Answer, Context, Request
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode, code_of, coordinator_code_of

_ALL: Final = -1


async def delete(context: Context, request: Request) -> Answer:
    """Answer DeleteRecords when the new starts are durable."""
    topics = []
    for topic in request.body["Topics"]:
        hub = context.hub(topic["Name"])
        parts = [await _delete(context, topic["Name"], hub, part) for part in topic["Partitions"]]
        topics.append({"Name": topic["Name"], "Partitions": parts})
    return {"Topics": topics}


async def _delete(context: Context, name: str, hub: HubInfo | None, part: Struct) -> Struct:
    index, offset = part["PartitionIndex"], part["Offset"]
    if hub is not None and hub.internal:
        return {"PartitionIndex": index, "ErrorCode": ErrorCode.TOPIC_AUTHORIZATION_FAILED}
    if hub is not None and "delete" not in hub.settings.cleanup:
        return {"PartitionIndex": index, "ErrorCode": ErrorCode.POLICY_VIOLATION}
    if offset < _ALL:
        return {"PartitionIndex": index, "ErrorCode": ErrorCode.OFFSET_OUT_OF_RANGE}
    try:
        start = await context.broker.delete_records(name, index, None if offset == _ALL else offset)
    except GridwireError as error:
        return {"PartitionIndex": index, "ErrorCode": code_of(error)}
    return {"PartitionIndex": index, "LowWatermark": start}


async def delete_positions(context: Context, request: Request) -> Answer:
    """Answer OffsetDelete: forget positions of hubs the group does not read at present."""
    group = request.body["GroupId"]
    view = context.membership.describe(group)
    try:
        known = view is not None or group in await context.broker.group_names()
    except GridwireError as error:
        return {"ErrorCode": coordinator_code_of(error), "Topics": []}
    if not known:
        return {"ErrorCode": ErrorCode.GROUP_ID_NOT_FOUND, "Topics": []}
    if view is not None and view.members and view.protocol_type != CONSUMER:
        return {"ErrorCode": ErrorCode.NON_EMPTY_GROUP, "Topics": []}
    read = _read_now(view)
    answers = []
    for topic in request.body["Topics"]:
        name = topic["Name"]
        codes = [(part["PartitionIndex"], _refusal(context, (name, part["PartitionIndex"]), read))
                 for part in topic["Partitions"]]  # fmt: skip
        wanted = [(name, index) for index, code in codes if code is ErrorCode.NONE]
        try:
            await context.broker.forget_positions(group, wanted)
        except GridwireError as error:
            codes = [(index, code or coordinator_code_of(error)) for index, code in codes]
        parts = [{"PartitionIndex": index, "ErrorCode": code} for index, code in codes]
        answers.append({"Name": name, "Partitions": parts})
    return {"Topics": answers}


def _read_now(view: GroupView | None) -> frozenset[str] | None:
    """Hubs that members subscribe to; None when a member does not say."""
    hubs: set[str] = set()
    for member in view.members if view is not None else ():
        subscribed = subscribed_hubs(member.metadata)
        if subscribed is None:
            return None
        hubs |= subscribed
    return frozenset(hubs)


def _refusal(context: Context, place: Place, read: frozenset[str] | None) -> ErrorCode:
    hub = context.hub(place[0])
    if hub is None or not 0 <= place[1] < hub.partitions:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    if read is None or place[0] in read:
        return ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
    return ErrorCode.NONE
