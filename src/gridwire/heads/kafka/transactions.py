"""AddPartitionsToTxn 0 to 3, AddOffsetsToTxn 0 to 4, EndTxn 0 to 5 and TxnOffsetCommit 0 to 5 served.

Both transaction protocols: the first, and from EndTxn 5, TxnOffsetCommit 5 and Produce 12 the second (KIP-890), in
which partitions and groups join by being used and every transaction has an epoch of its own. Missing:
AddPartitionsToTxn from 4, which brokers send to each other.
"""

from __future__ import annotations

from typing import Final

from gridwire.broker.port import Place
from gridwire.broker.transactions import Where
from gridwire.core.errors import FencedEpoch, GridwireError, InvalidSetting, StorageFailed, Unavailable
from gridwire.groups.model import GroupError
from gridwire.heads.kafka.context import Answer, Context, Request, code_of_group
from gridwire.heads.kafka.positions import check_position
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode, code_of

SECOND_PROTOCOL_FROM: Final = {26: 5, 28: 5}
_FENCED_FROM: Final = {22: 4, 24: 2, 25: 2, 26: 2}
"""Versions from which a client understands PRODUCER_FENCED."""


def transaction_code(error: GridwireError, key: int, version: int) -> ErrorCode:
    """The code for a transactional producer; it retries COORDINATOR_NOT_AVAILABLE."""
    if isinstance(error, FencedEpoch):
        understood = version >= _FENCED_FROM.get(key, 1_000)
        return ErrorCode.PRODUCER_FENCED if understood else ErrorCode.INVALID_PRODUCER_EPOCH
    if isinstance(error, StorageFailed | Unavailable):
        return ErrorCode.COORDINATOR_NOT_AVAILABLE
    if isinstance(error, InvalidSetting):
        return ErrorCode.INVALID_TRANSACTION_TIMEOUT
    return code_of(error)


async def add_partitions(context: Context, request: Request) -> Answer:
    """Answer AddPartitionsToTxn when it is durable; one unknown partition refuses all."""
    body = request.body
    topics = body["V3AndBelowTopics"]
    wanted = [(topic["Name"], index) for topic in topics for index in topic["Partitions"]]
    codes: dict[Place, ErrorCode] = {place: _refusal(context, place) for place in wanted}
    if any(codes.values()):
        codes = {place: code or ErrorCode.OPERATION_NOT_ATTEMPTED for place, code in codes.items()}
    else:
        try:
            await context.broker.transactions.add(
                body["V3AndBelowTransactionalId"],
                body["V3AndBelowProducerId"],
                body["V3AndBelowProducerEpoch"],
                [_where(context, place) for place in wanted],
            )
        except GridwireError as error:
            codes = dict.fromkeys(wanted, transaction_code(error, 24, request.header.version))
    answers = []
    for topic in topics:
        name = topic["Name"]
        parts = [{"PartitionIndex": each, "PartitionErrorCode": codes[name, each]} for each in topic["Partitions"]]
        answers.append({"Name": name, "ResultsByPartition": parts})
    return {"ResultsByTopicV3AndBelow": answers}


def _refusal(context: Context, place: Place) -> ErrorCode:
    hub = context.hub(place[0])
    if hub is None or not 0 <= place[1] < hub.partitions:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return ErrorCode.TOPIC_AUTHORIZATION_FAILED if hub.internal else ErrorCode.NONE


def _where(context: Context, place: Place) -> Where:
    return str(context.broker.hub(place[0]).id), place[1]


async def add_offsets(context: Context, request: Request) -> Answer:
    """Answer AddOffsetsToTxn."""
    body = request.body
    try:
        await context.broker.transactions.add_group(
            body["TransactionalId"], body["ProducerId"], body["ProducerEpoch"], body["GroupId"]
        )
    except GridwireError as error:
        return {"ErrorCode": transaction_code(error, 25, request.header.version)}
    return {"ErrorCode": ErrorCode.NONE}


async def end(context: Context, request: Request) -> Answer:
    """Answer EndTxn when every partition has its marker."""
    body, version = request.body, request.header.version
    try:
        producer_id, epoch = await context.broker.transactions.end(
            body["TransactionalId"],
            body["ProducerId"],
            body["ProducerEpoch"],
            commit=body["Committed"],
            raise_epoch=version >= SECOND_PROTOCOL_FROM[26],
        )
    except GridwireError as error:
        return {"ErrorCode": transaction_code(error, 26, version)}
    return {"ErrorCode": ErrorCode.NONE, "ProducerId": producer_id, "ProducerEpoch": epoch}


async def commit_offsets(context: Context, request: Request) -> Answer:
    """Answer TxnOffsetCommit: positions that move if the transaction commits."""
    body, version = request.body, request.header.version
    codes: dict[Place, int] = {}
    positions: dict[Where, tuple[int, str]] = {}
    for topic in body["Topics"]:
        for part in topic["Partitions"]:
            place = (topic["Name"], part["PartitionIndex"])
            codes[place] = check_position(context, place, part)
            if codes[place] == ErrorCode.NONE:
                positions[_where(context, place)] = (part["CommittedOffset"], part["CommittedMetadata"] or "")
    refusal = await _keep(context, body, positions, version)
    if refusal != ErrorCode.NONE:
        codes = {place: code or refusal for place, code in codes.items()}
    topics = []
    for topic in body["Topics"]:
        parts = [
            {"PartitionIndex": part["PartitionIndex"], "ErrorCode": codes[topic["Name"], part["PartitionIndex"]]}
            for part in topic["Partitions"]
        ]
        topics.append({"Name": topic["Name"], "Partitions": parts})
    return {"Topics": topics}


async def _keep(context: Context, body: Struct, positions: dict[Where, tuple[int, str]], version: int) -> int:
    error = _member_error(context, body)
    if error is not GroupError.NONE:
        return code_of_group(error)
    try:
        await context.broker.transactions.add_positions(
            body["TransactionalId"],
            body["ProducerId"],
            body["ProducerEpoch"],
            body["GroupId"],
            positions,
            announce=version >= SECOND_PROTOCOL_FROM[28],
        )
    except GridwireError as problem:
        return transaction_code(problem, 28, version)
    return ErrorCode.NONE


def _member_error(context: Context, body: Struct) -> GroupError:
    """Members must be of the present generation; old clients do not say who they are and are fenced by their epoch."""
    generation, member, instance = body.get("GenerationId", -1), body.get("MemberId", ""), body.get("GroupInstanceId")
    if generation < 0 and not member and instance is None:
        return GroupError.NONE
    return context.membership.check_commit(body["GroupId"], generation, member, instance)
