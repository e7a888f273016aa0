"""Fetch requests and what comes back, in the port's terms: whole batches verbatim, bounds, aborted transactions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from gridwire.broker.kafka_errors import failure
from gridwire.core.batch import CONTROL, TRANSACTIONAL, iter_headers
from gridwire.core.errors import OffsetOutOfRange
from gridwire.log.transactions import Aborted, is_commit
from gridwire.wire.kafka.compiler import Struct

OFFSET_OUT_OF_RANGE: Final = 1
NEVER: Final = 2**63 - 1


def fetch_body(
    places: Iterable[tuple[str, int, int]], bytes_max: int, *, wait_s: float = 0.0, committed: bool = False
) -> Struct:
    """A request for (topic, partition, offset) each. The first batch comes whole whatever its size."""
    topics: dict[str, list[Struct]] = {}
    for topic, partition, offset in places:
        row = {"Partition": partition, "FetchOffset": offset, "PartitionMaxBytes": bytes_max}
        topics.setdefault(topic, []).append(row)
    return {
        "MaxWaitMs": int(wait_s * 1000), "MinBytes": 1, "MaxBytes": bytes_max, "IsolationLevel": int(committed),
        "SessionId": 0, "SessionEpoch": -1, "ForgottenTopicsData": [], "RackId": "",
        "Topics": [{"Topic": topic, "Partitions": rows} for topic, rows in topics.items()],
    }  # fmt: skip


def parts(told: Struct) -> Iterable[tuple[str, Struct]]:
    """(topic, answer) of each partition. Raises what the answer as a whole says."""
    if told["ErrorCode"]:
        raise failure(told["ErrorCode"], "fetch")
    for topic in told["Responses"]:
        for part in topic["Partitions"]:
            yield topic["Topic"], part


def part_of(told: Struct, topic: str, partition: int) -> Struct:
    """The one partition that was asked for. Raises OffsetOutOfRange (without bounds), Again and the rest."""
    part = next((part for name, part in parts(told) if (name, part["PartitionIndex"]) == (topic, partition)), None)
    if part is None:
        raise failure(3, f"fetch of {topic}/{partition}")
    if part["ErrorCode"] == OFFSET_OUT_OF_RANGE:
        raise OffsetOutOfRange(f"{topic}/{partition} does not have that offset")
    if part["ErrorCode"]:
        raise failure(part["ErrorCode"], f"fetch of {topic}/{partition}")
    return part


def whole_batches(data: memoryview | None) -> memoryview:
    """Without the cut-off batch that a broker may leave at the end."""
    if data is None:
        return memoryview(b"")
    end = 0
    for position, header in iter_headers(data):
        end = position + header.size
    return data[:end]


def aborted_in(data: memoryview, told: Sequence[Struct] | None) -> list[Aborted]:
    """Aborted transactions with their ends: Kafka tells where they begin; they end at their marker, in the data or
    behind it."""
    open_since = [(row["ProducerId"], row["FirstOffset"]) for row in told or ()]
    if not open_since:
        return []
    ends: dict[int, list[int]] = {}
    for position, header in iter_headers(data):
        if header.attributes & CONTROL and header.attributes & TRANSACTIONAL and not is_commit(data, position):
            ends.setdefault(header.producer_id, []).append(header.base_offset)
    return [
        Aborted(producer_id, first, next((end for end in ends.get(producer_id, ()) if end >= first), NEVER))
        for producer_id, first in open_since
    ]
