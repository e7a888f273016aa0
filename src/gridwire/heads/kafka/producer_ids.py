"""InitProducerId: versions 0 to 5 served. Missing: two-phase commit (v6)."""

from __future__ import annotations

from typing import Final

from gridwire.core.errors import GridwireError
from gridwire.heads.kafka.context import Answer, Context, Request
from gridwire.heads.kafka.transactions import transaction_code
from gridwire.wire.kafka.errors import ErrorCode, coordinator_code_of

NAME_BYTES_MAX: Final = 1024
"""A transactional id is kept for ever."""


async def init(context: Context, request: Request) -> Answer:
    """Answer InitProducerId: an id nobody else has, or the next epoch of a transactional id."""
    body = request.body
    name = body["TransactionalId"]
    try:
        if name is None:
            producer_id, epoch = await context.broker.new_producer_id()
        elif not 0 < len(name.encode()) <= NAME_BYTES_MAX:
            return {"ErrorCode": ErrorCode.INVALID_REQUEST, "ProducerEpoch": -1}
        else:
            producer_id, epoch = await context.broker.transactions.begin_producer(
                name, body["TransactionTimeoutMs"], body.get("ProducerId", -1), body.get("ProducerEpoch", -1)
            )
    except GridwireError as error:
        code = coordinator_code_of(error) if name is None else transaction_code(error, 22, request.header.version)
        return {"ErrorCode": code, "ProducerEpoch": -1}
    return {"ProducerId": producer_id, "ProducerEpoch": epoch}
