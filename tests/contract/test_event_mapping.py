"""One event, every protocol: each row of docs/reference/event-mapping.md, from each protocol to each, over sockets."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import confluent_kafka
import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "fault"))
from amqp_peer import Peer

from gridwire.wire.amqp import types
from gridwire.wire.amqp.mapping import MAPPING
from gridwire.wire.amqp.performatives import Disposition, Transfer
from gridwire.wire.amqp.sections_in import section
from gridwire.wire.amqp.types import described
from gridwire.wire.http import eventhubs

NAME = "mapped"
WAIT_S = 60
DATA = described(0x75, types.binary(b"body"))
CLOUD_EVENT = "application/cloudevents+json"
OF_THE_HUB = {"x-opt-sequence-number", "x-opt-offset", "x-opt-enqueued-time"}


def properties(place: int, value: bytes) -> bytes:
    return described(0x73, types.list_([types.NULL] * place + [value]))


def pair(code: int, name: str, value: bytes) -> bytes:
    form = types.symbol if code == 0x72 else types.string
    return described(code, types.map_([(form(name), value)]))


Request = tuple[str, dict[str, str], bytes]
"""Path, headers and body."""


def events(query: str = "", headers: dict[str, str] | None = None, body: bytes = b"body") -> Request:
    """What the HTTP API is sent."""
    return f"/v1/hubs/{NAME}/events?partition=0{query}", headers or {}, body


def messages(headers: dict[str, str] | None = None, body: bytes = b"body") -> Request:
    """What Event Hubs' HTTP API is sent: one event, or with `BATCH` a list of them."""
    return f"/{NAME}/messages", headers or {}, body


def batch(**members: Any) -> Request:
    """The same as a batch of one event."""
    return messages({"content-type": eventhubs.BATCH}, json.dumps([{"Body": "body"} | members]).encode())


def broker(**told: str) -> dict[str, str]:
    return {"brokerproperties": json.dumps(told)}


@dataclass(frozen=True)
class Case:
    """An event: as an AMQP message, as a record, and as the requests that can say it, by a name for each."""

    row: str
    amqp: bytes
    headers: dict[str, bytes] = field(default_factory=dict)
    key: bytes | None = None
    value: bytes | None = b"body"
    requests: dict[str, Request] = field(default_factory=dict)


ATTRIBUTES = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
STRUCTURED = ATTRIBUTES | {"data_base64": base64.b64encode(b"body").decode()}
NESTED = types.encode({"a": [1, 2]})
SEQUENCE = described(0x76, types.list_([types.long(1), types.string("b")]))
CASES = [
    Case("body", DATA, requests={
        "http": events(), "send": messages(), "send batch": batch(),
        "send batch base64": batch(Body=base64.b64encode(b"body").decode(), IsBodyBase64=True)}),
    Case("body of several data sections", described(0x75, types.binary(b"bo")) + described(0x75, types.binary(b"dy")),
         {"amqp.body": b"data:2,2"}),
    Case("body that is a string value", described(0x77, types.string("body")), {"amqp.body": b"value:a1"}),
    Case("body that is a binary value", described(0x77, types.binary(b"body")), {"amqp.body": b"value:a0"}),
    Case("body that is any other value", described(0x77, NESTED), {"amqp.body": b"value"}, value=NESTED),
    Case("body of sequences", SEQUENCE, {"amqp.body": b"sequence"}, value=SEQUENCE),
    Case("no body (tombstone)", described(0x77, types.NULL), {"amqp.body": b"null"}, value=None),
    Case("key, if it is text", pair(0x72, "x-opt-partition-key", types.string("k")) + DATA, key=b"k",
         requests={"http": events("&key=k"), "send": messages(broker(PartitionKey="k")),
                   "send batch": batch(BrokerProperties={"PartitionKey": "k"})}),
    Case("key, if it is not", pair(0x72, "x-opt-kafka-key", types.binary(b"\xff")) + DATA, key=b"\xff"),
    Case("content type", properties(6, types.symbol("text/x")) + DATA, {"content-type": b"text/x"},
         requests={"http": events("", {"content-type": "text/x"}), "send": messages({"content-type": "text/x"}),
                   "send as told": messages(broker(ContentType="text/x")),
                   "send batch": batch(BrokerProperties={"ContentType": "text/x"})}),
    Case("content encoding", properties(7, types.symbol("br")) + DATA, {"content-encoding": b"br"}),
    Case("correlation", properties(5, types.string("c")) + DATA, {"correlation-id": b"c"}, requests={
        "send": messages(broker(CorrelationId="c")), "send batch": batch(BrokerProperties={"CorrelationId": "c"})}),
    Case("message id", properties(0, types.ulong(7)) + DATA, {"amqp.types": b"80", "message-id": b"7"}),
    Case("message id", properties(0, types.string("m")) + DATA, {"message-id": b"m"}, requests={
        "send": messages(broker(MessageId="m")), "send batch": batch(BrokerProperties={"MessageId": "m"})}),
    Case("other properties", properties(3, types.string("s")) + DATA, {"amqp.subject": b"s"}),
    Case("durable, priority, ttl",
         described(0x70, types.list_([types.boolean(True), types.ubyte(7), types.uint(9000)])) + DATA,
         {"amqp.durable": b"true", "amqp.priority": b"7", "amqp.ttl": b"9000"}),
    Case("CloudEvents attribute",
         described(0x74, types.map_((types.string(f"cloudEvents:{name}"), types.string(value))
                                    for name, value in ATTRIBUTES.items())) + DATA,
         {f"ce_{name}": value.encode() for name, value in ATTRIBUTES.items()},
         requests={"http binary": events("", {f"ce-{name}": value for name, value in ATTRIBUTES.items()}),
                   "http structured": events("", {"content-type": CLOUD_EVENT}, json.dumps(STRUCTURED).encode()),
                   "http batched": events("", {"content-type": "application/cloudevents-batch+json"},
                                          json.dumps([STRUCTURED]).encode())}),
    Case("CloudEvent as JSON", properties(6, types.symbol(CLOUD_EVENT)) + DATA, {"content-type": CLOUD_EVENT.encode()},
         requests={"send": messages({"content-type": CLOUD_EVENT})}),
    Case("property that is bytes", pair(0x74, "p", types.binary(b"b")) + DATA, {"p": b"b"},
         requests={"send": messages({"p": '"b"'}), "send batch": batch(UserProperties={"p": "b"})}),
    Case("property of another type", pair(0x74, "p", types.binary(b"7")) + DATA, {"p": b"7"},
         requests={"send": messages({"p": "7"}), "send batch": batch(UserProperties={"p": 7})}),
    Case("property of another type", pair(0x74, "p", types.long(-5)) + DATA, {"amqp.types": b"81", "p": b"-5"}),
    Case("property whose name means something here", pair(0x74, "content-type", types.binary(b"b")) + DATA,
         {"amqp.property.content-type": b"b"}),
    Case("annotation of the sender", pair(0x72, "x-a", types.binary(b"b")) + DATA, {"amqp.annotation.x-a": b"b"}),
    Case("footer", DATA + pair(0x78, "f", types.binary(b"b")),
         {"amqp.footer": pair(0x78, "f", types.binary(b"b"))}),
]  # fmt: skip
TOMBSTONE = Case("no body (tombstone)", described(0x75, types.binary(b"")), value=None)
"""An empty data section is no tombstone when it comes over AMQP: this one goes in by Kafka only."""
UNTRUE = [
    Case("footer", DATA, {"amqp.footer": untrue}) for untrue in (b"body", DATA, b"\x00\x53\x78\xc1")
] + [
    Case("body", DATA, {"amqp.body": untrue}) for untrue in (b"sequence", b"value", b"data:9,9", b"nonsense")
]  # fmt: skip
"""Headers that say what is not so; anybody can write them over Kafka, and an AMQP reader must get a whole message."""

CELLS = [(case, way) for case in CASES for way in ("amqp", "kafka", *case.requests)]
CELLS += [(case, "kafka") for case in (TOMBSTONE, *UNTRUE)]


def sections(message: bytes) -> list[tuple[int, Any]]:
    """Sections with what is in them; without the hub's own annotations and trailing nulls."""
    found: list[tuple[int, Any]] = []
    position = 0
    while position < len(message):
        code, at = section(message, position, len(message))
        value, position = types.decode(message, at)
        if code == 0x72:
            value = {key: each for key, each in value.items() if key not in OF_THE_HUB}
        while code in (0x70, 0x73) and value and not value[-1]:
            value = value[:-1]
        if value or code not in (0x70, 0x72):
            found.append((code, value))
    return found


def post(url: str, body: bytes, headers: dict[str, str]) -> None:
    httpx.post(url, content=body, headers=headers, timeout=WAIT_S).raise_for_status()


def write(hub: Any) -> None:
    """Every cell's event, one after the other: the place in CELLS is the offset."""
    post(f"{hub.http}/v1/hubs", json.dumps({"name": NAME, "partitions": 1}).encode(), {})
    producer = confluent_kafka.Producer({"bootstrap.servers": hub.kafka})
    peer = Peer(hub.amqp)
    peer.attach_sender(0, NAME)
    for number, (case, way) in enumerate(CELLS):
        if way == "amqp":
            peer.transfer(0, number, case.amqp)
            assert peer.wait_for(Disposition).state.__class__.__name__ == "Accepted"
        elif way == "kafka":
            producer.produce(NAME, case.value, case.key, headers=dict(case.headers))
            assert producer.flush(WAIT_S) == 0
        else:
            path, headers, body = case.requests[way]
            post(f"{hub.http}{path}", body, headers)
    peer.close()


def read_amqp(hub: Any) -> list[bytes]:
    peer = Peer(hub.amqp)
    peer.attach_receiver(0, f"{NAME}/ConsumerGroups/$Default/Partitions/0", len(CELLS))
    found: list[bytes] = []
    while len(found) < len(CELLS):
        body, payload = peer.receive()
        if isinstance(body, Transfer):
            found.append(payload)
    peer.close()
    return found


def read_kafka(hub: Any) -> list[Any]:
    consumer = confluent_kafka.Consumer({"bootstrap.servers": hub.kafka, "group.id": "mapped"})
    consumer.assign([confluent_kafka.TopicPartition(NAME, 0, 0)])
    found: list[Any] = []
    while len(found) < len(CELLS):
        found += consumer.consume(len(CELLS) - len(found), WAIT_S)
    consumer.close()
    return found


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory, hub_process: Any) -> Iterator[dict[str, list[Any]]]:
    hub = hub_process(tmp_path_factory.mktemp("mapping") / "data", "--no-workers")
    try:
        write(hub)
        events = hub.get(f"/v1/hubs/{NAME}/events?partition=0&offset=0&limit=1000")["events"]
        yield {"amqp": read_amqp(hub), "kafka": read_kafka(hub), "http": events}
    finally:
        hub.stop()


cells = pytest.mark.parametrize("number", range(len(CELLS)), ids=[f"{case.row} by {way}" for case, way in CELLS])


@cells
def test_out_by_amqp(read: dict[str, list[Any]], number: int) -> None:
    assert sections(read["amqp"][number]) == sections(CELLS[number][0].amqp)


@cells
def test_out_by_kafka(read: dict[str, list[Any]], number: int) -> None:
    case, found = CELLS[number][0], read["kafka"][number]
    headers = {name: value for name, value in found.headers() or [] if name in case.headers or name != "amqp.types"}
    assert (found.key(), found.value(), headers) == (case.key, case.value, case.headers)


@cells
def test_out_by_http(read: dict[str, list[Any]], number: int) -> None:
    case, found = CELLS[number][0], read["http"][number]
    assert found["offset"] == number
    if case.value in (b"body", None):
        assert found["value"] == (None if case.value is None else "body")
    told = {name: value for name, value in case.headers.items() if name not in ("amqp.footer", "amqp.types")}
    assert {name: (found["headers"] or {}).get(name) for name in told} == {
        name: value.decode("utf-8", "replace") for name, value in told.items() if value.isascii()
    }
    assert set(case.headers) <= set(found["headers"] or {})


def test_time_and_place_are_the_same_everywhere(read: dict[str, list[Any]]) -> None:
    for number, (message, record, event) in enumerate(zip(read["amqp"], read["kafka"], read["http"], strict=True)):
        code, at = section(message, 0, len(message))
        if code == 0x70:
            code, at = section(message, types.skip(message, 0, len(message)), len(message))
        annotations, _ = types.decode(message, at)
        assert code == 0x72
        assert annotations["x-opt-sequence-number"] == record.offset() == event["offset"] == number
        assert annotations["x-opt-enqueued-time"] == record.timestamp()[1]


def test_every_row_of_the_table_is_tested() -> None:
    assert {row[0] for row in MAPPING} == {case.row for case, _ in CELLS} | {"place", "time"}
