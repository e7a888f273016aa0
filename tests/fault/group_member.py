"""A member of a consumer group in a process of its own, spoken by hand, so that a test can stop it between any two
steps. Started by test_zombies.py, not a test.

It joins, prints `joined GENERATION`, and sends heartbeats. `commit OFFSET` on standard input commits that position of
partition 0 in the generation it last knew, whatever became of it, and prints Kafka's error code.
"""

from __future__ import annotations

import argparse
import socket
import struct
import sys
import threading
import uuid
from typing import Any

from gridwire.wire.kafka import codec

HEARTBEAT_S = 0.3
PARTITIONS = 1


class Wire:
    """One connection, one request at a time."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), 60)
        self._lock = threading.Lock()
        self._number = 0

    def call(self, key: int, version: int, body: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._number += 1
            self._socket.sendall(codec.encode_request(key, version, self._number, "zombie", body))
            head = self._read(4)
            return codec.decode_response(key, version, head + self._read(struct.unpack(">i", head)[0]))[1]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise ConnectionError("the hub closed the connection")
            data += piece
        return data


class Classic:
    """JoinGroup 5, SyncGroup 3, Heartbeat 3, OffsetCommit 8. The leader takes everything itself."""

    def __init__(self, wire: Wire, options: argparse.Namespace) -> None:
        self._wire, self._group, self._hub = wire, options.group, options.hub
        name = options.hub.encode()
        topic = struct.pack(">h", len(name)) + name
        metadata = struct.pack(">hi", 0, 1) + topic + struct.pack(">i", -1)
        share = struct.pack(">hi", 0, 1) + topic + struct.pack(">iii", 1, 0, -1)
        join = {
            "GroupId": self._group, "SessionTimeoutMs": 2000, "RebalanceTimeoutMs": 5000, "MemberId": "",
            "ProtocolType": "consumer", "Protocols": [{"Name": "range", "Metadata": metadata}],
        }  # fmt: skip
        self.member = wire.call(11, 5, join)["MemberId"]
        joined = wire.call(11, 5, join | {"MemberId": self.member})
        assert joined["ErrorCode"] == 0, joined
        self.epoch = joined["GenerationId"]
        shares = [{"MemberId": self.member, "Assignment": share}]
        synced = wire.call(14, 3, {**self._who("GenerationId"), "Assignments": shares})
        assert synced["ErrorCode"] == 0, synced

    def _who(self, epoch: str) -> dict[str, Any]:
        return {"GroupId": self._group, epoch: self.epoch, "MemberId": self.member, "GroupInstanceId": None}

    def beat(self) -> None:
        self._wire.call(12, 3, self._who("GenerationId"))

    def commit(self, offset: int) -> int:
        part = {"PartitionIndex": 0, "CommittedOffset": offset, "CommittedMetadata": ""}
        topics = [{"Name": self._hub, "Partitions": [part]}]
        told = self._wire.call(8, 8, {**self._who("GenerationIdOrMemberEpoch"), "Topics": topics})
        return int(told["Topics"][0]["Partitions"][0]["ErrorCode"])


class Consumer(Classic):
    """ConsumerGroupHeartbeat 1, OffsetCommit 9."""

    def __init__(self, wire: Wire, options: argparse.Namespace) -> None:
        self._wire, self._group, self._hub = wire, options.group, options.hub
        self.member, self.epoch = str(uuid.uuid4()), 0
        joined = self._heartbeat({"SubscribedTopicNames": [options.hub], "RebalanceTimeoutMs": 5000})
        assert joined["ErrorCode"] == 0, joined
        self.epoch = joined["MemberEpoch"]

    def _heartbeat(self, change: dict[str, Any]) -> dict[str, Any]:
        body = {
            "GroupId": self._group, "MemberId": self.member, "MemberEpoch": self.epoch, "InstanceId": None,
            "RackId": None, "RebalanceTimeoutMs": -1, "SubscribedTopicNames": None, "SubscribedTopicRegex": None,
            "ServerAssignor": None, "TopicPartitions": [] if not self.epoch else None,
        }  # fmt: skip
        return self._wire.call(68, 1, body | change)

    def beat(self) -> None:
        self._heartbeat({})


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "hub", "group", "protocol"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    member = {"classic": Classic, "consumer": Consumer}[options.protocol](Wire(options.bootstrap), options)
    print("joined", member.epoch, flush=True)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_S):
            member.beat()

    threading.Thread(target=beat, daemon=True).start()
    for line in sys.stdin:
        print(member.commit(int(line.split()[1])), flush=True)
    over.set()


if __name__ == "__main__":
    main()
