"""Raw requests for what is done to logs: positions, directories, partitions page by page."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from gridwire.wire.kafka import codec
from gridwire.wire.kafka.errors import ErrorCode

Call = Callable[[int, int, dict[str, Any]], dict[str, Any]]


@pytest.fixture
def call(start_hub: Any) -> Any:
    hub = start_hub("--durability", "os", http_port="off")
    host, _, port = hub.kafka.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as sock:

        def ask(key: int, version: int, body: dict[str, Any]) -> dict[str, Any]:
            sock.sendall(codec.encode_request(key, version, 1, "t", body))
            with sock.makefile("rb") as file:
                size = file.read(4)
                return codec.decode_response(key, version, size + file.read(struct.unpack(">i", size)[0]))[1]

        for name, count in (("a", 3), ("b", 5)):
            ask(19, 7, {"Topics": [{"Name": name, "NumPartitions": count, "ReplicationFactor": 1, "Configs": []}]})
        yield ask


def test_partitions_are_described_page_by_page(call: Call) -> None:
    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        body = {"Topics": [{"Name": "b"}, {"Name": "a"}, {"Name": "no"}], "ResponsePartitionLimit": 2, "Cursor": cursor}
        answer = call(75, 0, body)
        pages += 1
        for topic in answer["Topics"]:
            assert topic["ErrorCode"] == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if topic["Name"] == "no" else 0)
            seen += [(topic["Name"], part["PartitionIndex"]) for part in topic["Partitions"]]
        cursor = answer["NextCursor"]
    assert seen == [("a", 0), ("a", 1), ("a", 2)] + [("b", index) for index in range(5)]
    assert pages >= 4


@pytest.mark.parametrize("version", range(1, 5))
def test_log_directories_tell_sizes(call: Call, version: int) -> None:
    [row] = call(35, version, {"Topics": [{"Topic": "a", "Partitions": [0, 7]}, {"Topic": "no", "Partitions": [0]}]})[
        "Results"
    ]
    assert row["Topics"] == [
        {
            "Name": "a",
            "Partitions": [{"PartitionIndex": 0, "PartitionSize": 0, "OffsetLag": 0, "IsFutureKey": False}],
        }
    ]
    [row] = call(35, version, {"Topics": None})["Results"]
    assert {topic["Name"]: len(topic["Partitions"]) for topic in row["Topics"]} == {"a": 3, "b": 5}
    assert version < 4 or row["TotalBytes"] > row["UsableBytes"] > 0


def test_positions_of_unread_hubs_are_deleted(call: Call) -> None:
    def commit(*partitions: int) -> None:
        parts = [{"PartitionIndex": index, "CommittedOffset": 1, "CommittedMetadata": ""} for index in partitions]
        body = {"GroupId": "g", "GenerationIdOrMemberEpoch": -1, "Topics": [{"Name": "b", "Partitions": parts}]}
        call(8, 8, body)

    def delete(group: str, *partitions: int) -> dict[str, Any]:
        topics = [{"Name": "b", "Partitions": [{"PartitionIndex": index} for index in partitions]}]
        return call(47, 0, {"GroupId": group, "Topics": topics})

    assert delete("g", 0)["ErrorCode"] == ErrorCode.GROUP_ID_NOT_FOUND
    commit(0, 1)
    [topic] = delete("g", 0, 9)["Topics"]
    assert [part["ErrorCode"] for part in topic["Partitions"]] == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    answer = call(9, 7, {"GroupId": "g", "Topics": None})
    assert [part["PartitionIndex"] for part in answer["Topics"][0]["Partitions"]] == [1]


def test_positions_of_a_hub_that_members_read_stay(call: Call) -> None:
    subscription = struct.pack(">hih", 0, 1, 1) + b"b" + struct.pack(">i", -1)
    body = {
        "GroupId": "busy", "SessionTimeoutMs": 10_000, "RebalanceTimeoutMs": 10_000, "MemberId": "",
        "ProtocolType": "consumer", "Protocols": [{"Name": "range", "Metadata": subscription}],
    }  # fmt: skip
    joined = call(11, 3, body)
    member = {"GroupId": "busy", "GenerationId": joined["GenerationId"], "MemberId": joined["MemberId"]}
    call(14, 3, {**member, "Assignments": [{"MemberId": joined["MemberId"], "Assignment": b""}]})
    topics = [{"Name": name, "Partitions": [{"PartitionIndex": 0}]} for name in ("a", "b")]
    answer = call(47, 0, {"GroupId": "busy", "Topics": topics})
    codes = [topic["Partitions"][0]["ErrorCode"] for topic in answer["Topics"]]
    assert codes == [0, ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC]
