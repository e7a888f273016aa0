"""Fetch: versions 4 to 18 served.

Missing: incremental sessions (session id 0 is always answered, which every client understands).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from gridwire.auth.model import Action
from gridwire.broker.port import Broker, HubInfo, Read
from gridwire.core.batch import empty_until
from gridwire.core.errors import GridwireError, OffsetOutOfRange
from gridwire.core.limits import FETCH_BYTES_MAX
from gridwire.heads.kafka.context import LEADER_EPOCH, Answer, Context, Request
from gridwire.wire.kafka.errors import ErrorCode, code_of
from gridwire.wire.kafka.fetch import TOPIC_ID_FROM, PartData, Topic, encode_fetch_response

READ_COMMITTED: Final = 1


@dataclass(slots=True)
class _Ask:
    """One partition asked for, and its answer."""

    topic: str | UUID
    hub: HubInfo | None
    offset: int
    epoch: int
    bytes_max: int
    data: PartData
    committed: bool


async def handle(context: Context, request: Request) -> Answer:
    """Answer Fetch: at once when there is enough, or anything to complain about; else when there is, or time is up."""
    version, body = request.header.version, request.body
    refusal = _session_error(body)
    asks = [] if refusal else _asks(context, request)
    wait_s = max(body["MaxWaitMs"], 0) / 1000
    deadline_s = context.clock.monotonic() + wait_s
    while asks:
        _check_rights(request, asks)
        size, failed = await _read_all(context, asks, body["MaxBytes"], request.header.correlation_id)
        left_s = deadline_s - context.clock.monotonic()
        if failed or size >= body["MinBytes"] or left_s <= 0 or not await _wait(context, asks, left_s):
            break
    _count_events(context, request, asks)
    return encode_fetch_response(version, request.header.correlation_id, _topics(asks), refusal)


def _session_error(body: dict[str, Any]) -> int:
    if body.get("SessionId", 0) != 0:
        return ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    return ErrorCode.INVALID_FETCH_SESSION_EPOCH if body.get("SessionEpoch", -1) > 0 else 0


def _asks(context: Context, request: Request) -> list[_Ask]:
    version, body = request.header.version, request.body
    committed = body["IsolationLevel"] == READ_COMMITTED
    ids = [topic["TopicId"] for topic in body["Topics"]] if version >= TOPIC_ID_FROM else []
    by_id = context.hubs_by_id(ids)
    asks = []
    for topic in body["Topics"]:
        if version >= TOPIC_ID_FROM:
            key: str | UUID = topic["TopicId"]
            hub = by_id.get(topic["TopicId"])
        else:
            key = topic["Topic"]
            hub = context.hub(topic["Topic"])
        for part in topic["Partitions"]:
            data = PartData(part["Partition"])
            epoch = part.get("CurrentLeaderEpoch", -1)
            asks.append(_Ask(key, hub, part["FetchOffset"], epoch, part["PartitionMaxBytes"], data, committed))
    return asks


def _check_rights(request: Request, asks: list[_Ask]) -> None:
    """Refuse what may not be read: anew after every wait, in which a right may have gone."""
    if request.gate is None:
        return
    request.gate.current()
    for ask in asks:
        name = ask.topic if ask.hub is None else ask.hub.name
        if isinstance(name, str) and not request.may(Action.READ, name):
            ask.data.error, ask.data.records = ErrorCode.TOPIC_AUTHORIZATION_FAILED, b""


async def _read_all(context: Context, asks: list[_Ask], bytes_max: int, turn: int) -> tuple[int, bool]:
    """Read every partition within the limit, starting with another one each time. Returns (bytes, any failed)."""
    limit = max(min(bytes_max, FETCH_BYTES_MAX, context.answer_room()), 0)
    size, failed = 0, False
    first = turn % len(asks)
    for ask in asks[first:] + asks[:first]:
        room = min(max(ask.bytes_max, 0), limit - size)
        try:
            await _read(context, ask, room, first=size == 0)
        except GridwireError as error:
            failed = True
            ask.data.error = _code(ask, error)
            if isinstance(error, OffsetOutOfRange):
                ask.data.start, ask.data.end = error.start, error.end
        size += len(ask.data.records)
        failed = failed or ask.data.error != 0
    return size, failed


def _code(ask: _Ask, error: GridwireError) -> int:
    code = code_of(error)
    if code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION and isinstance(ask.topic, UUID) and ask.hub is None:
        return ErrorCode.UNKNOWN_TOPIC_ID
    return code


async def _read(context: Context, ask: _Ask, room: int, *, first: bool) -> None:
    """Read one partition. The first with data gets a whole batch even above the limits, so that everybody moves on."""
    if ask.data.error == ErrorCode.TOPIC_AUTHORIZATION_FAILED:
        return
    if ask.hub is None:
        is_id = isinstance(ask.topic, UUID)
        ask.data.error = ErrorCode.UNKNOWN_TOPIC_ID if is_id else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        return
    if ask.epoch > LEADER_EPOCH:
        ask.data.error = ErrorCode.UNKNOWN_LEADER_EPOCH
        return
    if room <= 0 and not first:
        bounds = await context.broker.bounds(ask.hub.name, ask.data.index)
        ask.data.start, ask.data.end, ask.data.records = bounds.start, bounds.end, b""
        ask.data.stable, ask.data.aborted = bounds.stable, ()
        return
    read = await _read_events(context.broker, ask, ask.hub.name, room)
    fits = first or len(read.data) <= room
    ask.data.start, ask.data.end, ask.data.records = read.start, read.end, read.data if fits else b""
    ask.data.stable = read.stable
    ask.data.aborted = [(each.producer_id, each.first) for each in read.aborted] if fits else ()


async def _read_events(broker: Broker, ask: _Ask, hub: str, room: int) -> Read:
    """Read from the first batch with records on; where only empty ones are left, the last of them.

    Compaction leaves empty batches. librdkafka takes an answer without records for one that was cut short: it doubles
    its limit, and after ten of these it reports MSG_SIZE_TOO_LARGE. So a reader is handed no answer of empty batches
    but the one that takes it to the end, where it must get for its position to be that of the end.
    """
    read = await broker.read(hub, ask.data.index, ask.offset, room, committed=ask.committed)
    while (past := empty_until(read.data)) is not None:
        await asyncio.sleep(0)  # a long stretch must not keep the others waiting
        later = await broker.read(hub, ask.data.index, past, room, committed=ask.committed)
        if not len(later.data):
            return read
        read = later
    return read


async def _wait(context: Context, asks: list[_Ask], left_s: float) -> bool:
    """Wait for more than was read; False when the head stops."""
    committed = any(ask.committed for ask in asks)
    positions = {
        (ask.hub.name, ask.data.index): max(ask.data.stable if committed else ask.data.end, ask.offset)
        for ask in asks
        if ask.hub is not None
    }
    task = asyncio.ensure_future(context.broker.wait(positions, left_s, committed=committed))
    context.waits.add(task)
    try:
        await task
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            task.cancel()
            raise
        return False
    except GridwireError:
        return True  # a hub went away: reading again tells which
    finally:
        context.waits.discard(task)
    return True


def _topics(asks: list[_Ask]) -> list[Topic]:
    """Answers grouped by topic, in the order asked."""
    topics: list[tuple[str | UUID, list[PartData]]] = []
    for ask in asks:
        if not topics or topics[-1][0] != ask.topic:
            topics.append((ask.topic, []))
        topics[-1][1].append(ask.data)
    return list(topics)


def _count_events(context: Context, request: Request, asks: list[_Ask]) -> None:
    """Count what the client has gone past since it was last given records; batches need not be looked into for it."""
    for ask in asks:
        place = (ask.topic, ask.data.index)
        before = request.reading.pop(place, None)
        if before is not None and before < ask.offset <= ask.data.end:
            context.counters.events_out += ask.offset - before
        if len(ask.data.records):
            request.reading[place] = ask.offset
