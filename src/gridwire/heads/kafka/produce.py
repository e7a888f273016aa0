"""Produce: versions 3 to 13 served; 0 to 2 are advertised and refused (see the ledger).

From v12 on a partition joins the sender's transaction by being written to. Batches go to the
broker as views of the received frame; the answer leaves when every partition's append is as durable as promised.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from functools import partial
from typing import Final
from uuid import UUID

import structlog

from gridwire.auth.model import Action
from gridwire.broker.port import Appended
from gridwire.core.batch import CONTROL, HEADER_BYTES, LENGTH_END, TRANSACTIONAL
from gridwire.core.errors import GridwireError, RemoteProtocolError, Unavailable
from gridwire.heads.kafka.context import Context
from gridwire.heads.kafka.sasl import Gate
from gridwire.wire.kafka.codec import RequestHeader
from gridwire.wire.kafka.errors import ErrorCode, code_of
from gridwire.wire.kafka.ledger import PRODUCE_SERVED_FROM
from gridwire.wire.kafka.produce import PartResult, ProduceRequest, decode_produce, encode_produce_response

log = structlog.get_logger(__name__)

Finish = Callable[[bytearray | None], None]
"""Called once with the response, or with None when acks=0 failed and the client can only be told by closing."""

_ACKS: Final = (-1, 0, 1)
JOINS_FROM: Final = 12
"""Version of the second transaction protocol."""

_BATCH = struct.Struct(">8xi9xh34xi")


class _Pending:
    """One produce while its appends are under way."""

    __slots__ = ("context", "failed", "finish", "header", "left", "silent", "topics")

    def __init__(self, context: Context, header: RequestHeader, silent: bool, finish: Finish) -> None:
        self.context = context
        self.header = header
        self.silent = silent
        self.finish = finish
        self.failed = False
        self.left = 1
        self.topics: list[tuple[str | UUID, list[PartResult]]] = []

    def refuse(self, result: PartResult, code: ErrorCode, message: str) -> None:
        """Answer a partition with an error."""
        result.error, result.message = code, message
        self.failed = True
        self.context.counters.errors += 1

    def appended(self, result: PartResult, events: int, future: asyncio.Future[Appended]) -> None:
        """Take one partition's outcome."""
        error = Unavailable("the hub is shutting down") if future.cancelled() else future.exception()
        if error is None:
            done = future.result()
            result.base_offset, result.append_time_ms = done.base_offset, done.append_time_ms
            result.log_start = done.log_start
            self.context.counters.events_in += 0 if done.duplicate else events
        else:
            if not isinstance(error, GridwireError):
                log.error("kafka_append_failed", exc_info=error)
            self.refuse(result, code_of(error), str(error))
        self.settle()

    def settle(self) -> None:
        """One thing less to wait for."""
        self.left -= 1
        if self.left:
            return
        if self.silent:
            self.finish(None if self.failed else bytearray())
        else:
            self.finish(encode_produce_response(self.header.version, self.header.correlation_id, self.topics))


def decode(header: RequestHeader, frame: bytearray) -> ProduceRequest:
    """Decode; records stay views of the frame.

    Raises:
        RemoteProtocolError: it is malformed.
    """
    return decode_produce(header.version, memoryview(frame), header.body_at)


def start(
    context: Context, header: RequestHeader, request: ProduceRequest, finish: Finish, gate: Gate | None = None
) -> None:
    """Append everything asked, in order and at once; `finish` is called when all is settled."""
    pending = _Pending(context, header, request.acks == 0, finish)
    refusal = _refusal(header, request)
    if refusal is None and request.transactional_id is not None and gate is not None:
        refusal = _transaction_refusal(gate, request.transactional_id)
    by_id = context.hubs_by_id(topic for topic, _ in request.topics if isinstance(topic, UUID))
    for topic, parts in request.topics:
        results = []
        hub = by_id.get(topic) if isinstance(topic, UUID) else context.hub(topic)
        name = hub.name if hub is not None else str(topic)
        for index, records in parts:
            result = PartResult(index)
            results.append(result)
            if refusal is not None:
                pending.refuse(result, *refusal)
            elif hub is None and isinstance(topic, UUID):  # an id nobody has is nobody's secret
                pending.refuse(result, ErrorCode.UNKNOWN_TOPIC_ID, f"there is no hub with id {name}")
            elif gate is not None and not gate.may(Action.SEND, name):
                pending.refuse(result, ErrorCode.TOPIC_AUTHORIZATION_FAILED, f"sending to {name!r} takes Send")
            elif hub is None:
                pending.refuse(result, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"there is no hub {name!r}")
            elif hub.internal:
                pending.refuse(result, ErrorCode.TOPIC_AUTHORIZATION_FAILED, f"hub {name!r} is internal")
            else:
                _append(pending, name, result, records, request.transactional_id)
        pending.topics.append((topic, results))
    pending.settle()


def _refusal(header: RequestHeader, request: ProduceRequest) -> tuple[ErrorCode, str] | None:
    """Why the whole request is refused, if it is."""
    if header.version < PRODUCE_SERVED_FROM:
        return ErrorCode.UNSUPPORTED_VERSION, "record formats before v2 are not served"
    if request.acks not in _ACKS:
        return ErrorCode.INVALID_REQUIRED_ACKS, f"acks={request.acks}"
    if request.transactional_id is not None and request.acks != -1:
        return ErrorCode.INVALID_REQUIRED_ACKS, "a transaction needs acks=all"
    return None


def _transaction_refusal(gate: Gate, transactional_id: str) -> tuple[ErrorCode, str] | None:
    if gate.may(Action.TRANSACT, transactional_id):
        return None
    code = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    return code, f"a transaction of {transactional_id[:80]!r} takes Send, or WRITE on that id"


def _append(
    pending: _Pending, hub: str, result: PartResult, records: memoryview | None, transactional_id: str | None
) -> None:
    try:
        events, transactional = _check_one_batch(records)
        if transactional and transactional_id is None:
            raise RemoteProtocolError("a transactional batch without a transactional id")
    except RemoteProtocolError as error:
        pending.refuse(result, ErrorCode.INVALID_RECORD, str(error))
        return
    assert records is not None
    pending.left += 1
    broker = pending.context.broker
    if transactional and transactional_id is not None:
        add = pending.header.version >= JOINS_FROM
        future = broker.append_transactional(hub, result.index, records, transactional_id, add=add)
    else:
        future = broker.append(hub, result.index, records)
    future.add_done_callback(partial(pending.appended, result, events))


def _check_one_batch(records: memoryview | None) -> tuple[int, bool]:
    """Events of the one batch a partition may get per request, and whether it is transactional.

    The broker checks the batch itself.

    Raises:
        RemoteProtocolError: none or several batches, or one that only a broker may write.
    """
    if records is None or len(records) < HEADER_BYTES:
        raise RemoteProtocolError("no record batch for this partition")
    length, attributes, count = _BATCH.unpack_from(records)
    if length + LENGTH_END != len(records):
        raise RemoteProtocolError("exactly one record batch a partition is expected")
    if attributes & CONTROL:
        raise RemoteProtocolError("only the hub writes control batches")
    return int(count), bool(attributes & TRANSACTIONAL)
