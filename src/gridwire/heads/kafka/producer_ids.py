"""InitProducerId: versions 0 to 4 served, for idempotent producers.

Missing: transactions; a transactional id is refused with the one code every client takes as final.
"""

from __future__ import annotations

from gridwire.core.errors import GridwireError
from gridwire.heads.kafka.context import Answer, Context, Request
from gridwire.wire.kafka.errors import ErrorCode, coordinator_code_of


async def init(context: Context, request: Request) -> Answer:
    """Answer InitProducerId with an id nobody else has; a producer that asks again simply gets a new one."""
    if request.body["TransactionalId"] is not None:
        return {"ErrorCode": ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "ProducerEpoch": -1}
    try:
        producer_id, epoch = await context.broker.new_producer_id()
    except GridwireError as error:
        return {"ErrorCode": coordinator_code_of(error), "ProducerEpoch": -1}
    return {"ProducerId": producer_id, "ProducerEpoch": epoch}
