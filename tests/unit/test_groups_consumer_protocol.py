"""The consumer protocol's bytes, checked against an independent encoder."""

from __future__ import annotations

import struct

import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from gridwire.groups.consumer_protocol import assigned_partitions, same_subscription, subscribed_hubs


def text(value: str) -> bytes:
    return struct.pack(">h", len(value.encode())) + value.encode()


def assignment(parts: dict[str, list[int]], version: int = 1, user_data: bytes = b"\xff\xff\xff\xff") -> bytes:
    body = b"".join(text(hub) + struct.pack(f">i{len(p)}i", len(p), *p) for hub, p in parts.items())
    return struct.pack(">hi", version, len(parts)) + body + user_data


def subscription(hubs: list[str], tail: bytes = b"\xff\xff\xff\xff") -> bytes:
    return struct.pack(">hi", 1, len(hubs)) + b"".join(map(text, hubs)) + tail


def test_assignments_decode():
    parts = {"readings": [2, 0, 1], "größen": []}
    assert assigned_partitions(assignment(parts)) == {"readings": [0, 1, 2], "größen": []}


def test_an_assignment_made_by_a_client_decodes():
    made = ConsumerProtocolMemberAssignment(0, [("readings", [0, 3])], b"")
    assert assigned_partitions(made.encode()) == {"readings": [0, 3]}


def test_a_subscription_made_by_a_client_decodes():
    made = ConsumerProtocolMemberMetadata(0, ["readings", "alarms"], b"sticky state")
    assert subscribed_hubs(made.encode()) == {"readings", "alarms"}


def test_any_cut_of_an_assignment_is_nothing():
    whole = assignment({"a": [1], "b": [2, 3]}, user_data=b"")
    assert assigned_partitions(whole) == {"a": [1], "b": [2, 3]}
    for end in range(len(whole)):
        assert assigned_partitions(whole[:end]) == {}


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00",
        b"{}",
        b"\xff\xff" + b"\x00" * 20,
        struct.pack(">hi", 0, 2**31 - 1) + b"x" * 50,
        struct.pack(">hi", 0, -1),
        struct.pack(">hih", 0, 1, 2) + b"\xff\xfe" + struct.pack(">i", 0),
        struct.pack(">hih", 0, 1, -1) + struct.pack(">i", 0),
    ],
)
def test_garbage_is_nothing(garbage):
    assert assigned_partitions(garbage) == {}


def test_subscriptions_decode():
    assert subscribed_hubs(subscription(["b", "a"])) == {"a", "b"}
    assert subscribed_hubs(b"\x00") is None


def test_owned_partitions_do_not_make_another_subscription():
    before = subscription(["a"], b"\xff\xff\xff\xff" + struct.pack(">i", 1) + text("a") + struct.pack(">ii", 1, 0))
    assert same_subscription("consumer", before, subscription(["a"]))
    assert not same_subscription("consumer", before, subscription(["a", "b"]))
    assert not same_subscription("connect", before, subscription(["a"])), "only bytes can be compared"
    assert not same_subscription("consumer", b"", b"\x00")
    assert same_subscription("connect", b"x", b"x")
