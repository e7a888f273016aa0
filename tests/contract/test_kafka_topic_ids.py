"""Produce 13, Fetch 18, OffsetCommit 10 and OffsetFetch 10 name topics by id: one that was made again is another."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from gridwire.core.batch import Event, encode
from gridwire.wire.kafka import codec
from gridwire.wire.kafka.errors import ErrorCode

Call = Callable[[int, int, dict[str, Any]], dict[str, Any]]
UNKNOWN = UUID(int=7)


@pytest.fixture
def call(start_hub: Any) -> Any:
    hub = start_hub("--durability", "os", http_port="off")
    host, _, port = hub.kafka.rpartition(":")
    with socket.create_connection((host, int(port)), 30) as sock:

        def ask(key: int, version: int, body: dict[str, Any]) -> dict[str, Any]:
            sock.sendall(codec.encode_request(key, version, 1, "t", body))
            with sock.makefile("rb") as file:
                size = file.read(4)
                return codec.decode_response(key, version, size + file.read(struct.unpack(">i", size)[0]))[1]

        yield ask


def make(call: Call) -> UUID:
    body = {"Topics": [{"Name": "a", "NumPartitions": 2, "ReplicationFactor": 1, "Assignments": [], "Configs": []}]}
    [made] = call(19, 7, body)["Topics"]
    assert made["ErrorCode"] == 0
    return UUID(str(made["TopicId"]))


def send(call: Call, topic: UUID) -> tuple[UUID, int, int]:
    records = bytes(encode([Event(b"x", timestamp=1)]))
    data = [{"TopicId": topic, "PartitionData": [{"Index": 0, "Records": records}]}]
    [answer] = call(0, 13, {"Acks": -1, "TimeoutMs": 1, "TopicData": data})["Responses"]
    [part] = answer["PartitionResponses"]
    return answer["TopicId"], part["ErrorCode"], part["BaseOffset"]


def commit(call: Call, topic: UUID, offset: int) -> tuple[UUID, int]:
    parts = [{"PartitionIndex": 0, "CommittedOffset": offset, "CommittedMetadata": "m"}]
    [answer] = call(8, 10, {"GroupId": "g", "Topics": [{"TopicId": topic, "Partitions": parts}]})["Topics"]
    return answer["TopicId"], answer["Partitions"][0]["ErrorCode"]


def committed(call: Call, *topics: UUID) -> list[tuple[UUID, int, int]]:
    asked = [{"TopicId": topic, "PartitionIndexes": [0]} for topic in topics] or None
    [group] = call(9, 10, {"Groups": [{"GroupId": "g", "Topics": asked}], "RequireStable": True})["Groups"]
    return [
        (topic["TopicId"], part["ErrorCode"], part["CommittedOffset"])
        for topic in group["Topics"]
        for part in topic["Partitions"]
    ]


def test_by_id(call: Call) -> None:
    first = make(call)
    assert send(call, first) == (first, 0, 0)
    assert send(call, UNKNOWN) == (UNKNOWN, ErrorCode.UNKNOWN_TOPIC_ID, -1)
    assert commit(call, first, 1) == (first, 0)
    assert commit(call, UNKNOWN, 1) == (UNKNOWN, ErrorCode.UNKNOWN_TOPIC_ID)
    assert committed(call) == [(first, 0, 1)]
    assert committed(call, first, UNKNOWN) == [(first, 0, 1), (UNKNOWN, ErrorCode.UNKNOWN_TOPIC_ID, -1)]
    read = {"Partition": 0, "FetchOffset": 0, "PartitionMaxBytes": 1000}
    asked = {"MaxWaitMs": 0, "MinBytes": 0, "Topics": [{"TopicId": first, "Partitions": [read]}]}
    [topic] = call(1, 18, asked)["Responses"]
    assert (topic["TopicId"], topic["Partitions"][0]["HighWatermark"]) == (first, 1)
    [deleted] = call(20, 6, {"Topics": [{"Name": None, "TopicId": first}], "TimeoutMs": 1})["Responses"]
    assert deleted["ErrorCode"] == 0
    second = make(call)
    assert second != first
    assert send(call, first) == (first, ErrorCode.UNKNOWN_TOPIC_ID, -1)
    assert commit(call, first, 1) == (first, ErrorCode.UNKNOWN_TOPIC_ID)
    assert send(call, second) == (second, 0, 0)
    assert committed(call) == []


def test_nothing_is_on_its_way_to_another_tier(call: Call) -> None:
    make(call)
    parts = [{"PartitionIndex": 0, "Timestamp": asked} for asked in (-6, -1)]
    body = {"ReplicaId": -1, "TimeoutMs": 1, "Topics": [{"Name": "a", "Partitions": parts}]}
    found = call(2, 11, body)["Topics"][0]["Partitions"]
    assert [(part["ErrorCode"], part["Offset"]) for part in found] == [(0, -1), (0, 0)]
    body["Topics"] = [{"Name": "a", "Partitions": parts[:1]}]
    [old] = call(2, 10, body)["Topics"][0]["Partitions"]
    assert old["ErrorCode"] == ErrorCode.UNSUPPORTED_VERSION
