"""The unmodified azure-eventhub SDK against the AMQP head, from an emulator's connection string."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import pytest
from azure.eventhub import EventData, EventHubConsumerClient, EventHubProducerClient, TransportType
from azure.eventhub.aio import EventHubConsumerClient as AsyncConsumer
from azure.eventhub.aio import EventHubProducerClient as AsyncProducer
from azure.eventhub.amqp import AmqpAnnotatedMessage, AmqpMessageBodyType
from azure.eventhub.exceptions import AuthenticationError, ConnectError, EventHubError

DEADLINE_S = 60.0
ALL = "-1"
ROUND_S = 1.0
"""Between two looks of a consumer client at who reads what. After `close` the SDK's `receive` still waits for the next
look before it returns, 30 to 36 s by default, whatever the service."""


def text(hub: Any, name: str = "anybody", key: str = "secret") -> str:
    address = hub.amqp.removeprefix("amqp://")
    return f"Endpoint=sb://{address};SharedAccessKeyName={name};SharedAccessKey={key};UseDevelopmentEmulator=true;"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, hub_process: Any) -> Iterator[Any]:
    served = hub_process(tmp_path_factory.mktemp("amqp") / "data", "--no-workers")
    yield served
    served.stop()


@pytest.fixture
def name(hub: Any) -> str:
    name = f"h-{uuid.uuid4().hex[:8]}"
    body = json.dumps({"name": name, "partitions": 2}).encode()
    request = urllib.request.Request(f"{hub.http}/v1/hubs", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
        assert answer.status == 201
    return name


def producer(hub: Any, name: str, **options: Any) -> EventHubProducerClient:
    return EventHubProducerClient.from_connection_string(text(hub), eventhub_name=name, **options)


def consumer(hub: Any, name: str, group: str = "$Default", **options: Any) -> EventHubConsumerClient:
    options = {"load_balancing_interval": ROUND_S, **options}
    return EventHubConsumerClient.from_connection_string(text(hub), group, eventhub_name=name, **options)


def send(hub: Any, name: str, values: list[str], **options: Any) -> None:
    with producer(hub, name) as client:
        batch = client.create_batch(**options)
        for value in values:
            batch.add(EventData(value))
        client.send_batch(batch)


class Taken:
    """Events that a client receives in a thread of its own until there are enough."""

    def __init__(self, client: EventHubConsumerClient, count: int, **options: Any) -> None:
        self.client, self.count = client, count
        self.events: list[tuple[str, EventData]] = []
        self.errors: list[BaseException] = []
        self.started, self.full = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._receive, args=(options,), daemon=True)
        self._thread.start()

    def _receive(self, options: dict[str, Any]) -> None:
        self.client.receive(
            on_event=self._event, on_error=lambda _, error: self.errors.append(error),
            on_partition_initialize=lambda _: self.started.set(), **options,
        )  # fmt: skip

    def _event(self, context: Any, event: EventData) -> None:
        self.events.append((context.partition_id, event))
        if len(self.events) >= self.count:
            self.full.set()

    def all(self) -> list[tuple[str, EventData]]:
        assert self.full.wait(DEADLINE_S), (self.events, self.errors)
        self.close()
        return self.events

    def close(self) -> None:
        self.client.close()
        self._thread.join(DEADLINE_S)


def until(condition: Callable[[], Any]) -> None:
    deadline = threading.Event()
    timer = threading.Timer(DEADLINE_S, deadline.set)
    timer.start()
    try:
        while not condition():
            assert not deadline.wait(0.02), "nothing happened in time"
    finally:
        timer.cancel()


def test_send_receive_and_properties(hub: Any, name: str) -> None:
    send(hub, name, ["a", "b", "c"], partition_key="meter-1")
    send(hub, name, ["d"], partition_id="1")
    with producer(hub, name) as client:
        assert client.get_eventhub_properties()["partition_ids"] == ["0", "1"]
        client.send_event(EventData("e"), partition_id="1")
        last = client.get_partition_properties("1")["last_enqueued_sequence_number"]
    taken = Taken(consumer(hub, name), 5, starting_position=ALL).all()
    assert sorted(event.body_as_str() for _, event in taken) == ["a", "b", "c", "d", "e"]
    keyed = [(place, event.body_as_str()) for place, event in taken if event.partition_key == b"meter-1"]
    assert [value for _, value in keyed] == ["a", "b", "c"]
    assert len({place for place, _ in keyed}) == 1
    assert last == max(event.sequence_number for place, event in taken if place == "1")
    assert all(event.enqueued_time is not None for _, event in taken)


@pytest.mark.parametrize("kind", ["offset", "offset inclusive", "sequence number", "time", "start"])
def test_every_position(hub: Any, name: str, kind: str) -> None:
    send(hub, name, ["0", "1", "2", "3"], partition_id="0")
    options: dict[str, Any] = {
        "offset": {"starting_position": "1"},
        "offset inclusive": {"starting_position": "2", "starting_position_inclusive": True},
        "sequence number": {"starting_position": 1},
        "time": {"starting_position": datetime.now(UTC) - timedelta(hours=1)},
        "start": {"starting_position": ALL},
    }[kind]
    expected = ["0", "1", "2", "3"] if kind in ("time", "start") else ["2", "3"]
    taken = Taken(consumer(hub, name), len(expected), partition_id="0", **options).all()
    assert [event.body_as_str() for _, event in taken] == expected


def test_latest_sees_what_comes_afterwards(hub: Any, name: str) -> None:
    send(hub, name, ["before"], partition_id="0")
    taken = Taken(consumer(hub, name), 1, partition_id="0", starting_position="@latest")
    assert taken.started.wait(DEADLINE_S)
    stop = threading.Event()

    def keep_sending() -> None:
        with producer(hub, name) as client:
            while not stop.wait(0.2):
                client.send_event(EventData("after"), partition_id="0")

    sender = threading.Thread(target=keep_sending, daemon=True)
    sender.start()
    try:
        assert {event.body_as_str() for _, event in taken.all()} == {"after"}
    finally:
        stop.set()
        sender.join(DEADLINE_S)


def test_a_higher_owner_level_takes_the_partition_over(hub: Any, name: str) -> None:
    send(hub, name, ["a"], partition_id="0")
    first = Taken(consumer(hub, name), 99, partition_id="0", starting_position=ALL, owner_level=1)
    until(lambda: first.events)
    second = Taken(consumer(hub, name), 1, partition_id="0", starting_position=ALL, owner_level=2)
    assert [event.body_as_str() for _, event in second.all()] == ["a"]
    until(lambda: first.errors)
    assert "stolen" in str(first.errors[0])
    first.close()


def test_asyncio(hub: Any, name: str) -> None:
    async def main() -> list[str]:
        async with AsyncProducer.from_connection_string(text(hub), eventhub_name=name) as client:
            await client.send_batch([EventData("x"), EventData("y")], partition_id="0")
        found: list[str] = []
        enough = asyncio.Event()

        async def on_event(_: Any, event: EventData) -> None:
            found.append(event.body_as_str())
            if len(found) == 2:
                enough.set()

        options = {"eventhub_name": name, "load_balancing_interval": ROUND_S}
        client = AsyncConsumer.from_connection_string(text(hub), "$Default", **options)
        receiving = asyncio.ensure_future(client.receive(on_event=on_event, starting_position=ALL))
        await asyncio.wait_for(enough.wait(), DEADLINE_S)
        await client.close()
        await asyncio.wait_for(receiving, DEADLINE_S)
        return found

    assert asyncio.run(main()) == ["x", "y"]


def test_an_event_is_the_same_in_kafka(hub: Any, name: str) -> None:
    event = EventData(b"\x00body")
    event.properties = {"unit": "kW", "number": 7}
    event.content_type, event.correlation_id = "application/x", "c-1"
    with producer(hub, name) as client:
        client.send_event(event, partition_id="0")
        typed = AmqpAnnotatedMessage(value_body={"kw": 3})
        client.send_event(typed, partition_id="0")
        client.send_event(AmqpAnnotatedMessage(sequence_body=[[1, "two"]]), partition_id="0")
    reader = ck.Consumer({"bootstrap.servers": hub.kafka, "group.id": "g", "auto.offset.reset": "earliest"})
    topic = getattr(hub, "prefix", "") + name  # a gateway's has one
    reader.assign([ck.TopicPartition(topic, 0, 0)])
    message = reader.poll(DEADLINE_S)
    reader.close()
    headers = dict(message.headers())
    assert (message.value(), headers["unit"], headers["content-type"]) == (b"\x00body", b"kW", b"application/x")
    writer = ck.Producer({"bootstrap.servers": hub.kafka})
    writer.produce(topic, b"from kafka", b"k", 0, headers={"colour": "red"})
    assert writer.flush(DEADLINE_S) == 0
    taken = [each for _, each in Taken(consumer(hub, name), 4, partition_id="0", starting_position=ALL).all()]
    assert taken[0].properties == {b"unit": b"kW", b"number": 7}
    assert (taken[0].content_type, taken[0].correlation_id) == ("application/x", "c-1")
    assert [each.body_type for each in taken[:3]] == [
        AmqpMessageBodyType.DATA, AmqpMessageBodyType.VALUE, AmqpMessageBodyType.SEQUENCE,
    ]  # fmt: skip
    assert taken[1].body == {b"kw": 3}
    assert [list(each) for each in taken[2].body] == [[1, b"two"]]
    assert (taken[3].body_as_str(), taken[3].partition_key) == ("from kafka", b"k")
    assert taken[3].properties[b"colour"] in (b"red", "red")


def test_what_is_acknowledged_survives_a_kill(start_hub: Any) -> None:
    killed = start_hub("--no-workers")
    killed.cli("hub", "create", "kept", "--partitions", "1")
    for number in range(3):
        send(killed, "kept", [str(number)], partition_id="0")
    killed.kill()
    again = start_hub("--no-workers", data=killed.data)
    taken = Taken(consumer(again, "kept"), 3, partition_id="0", starting_position=ALL).all()
    assert [event.body_as_str() for _, event in taken] == ["0", "1", "2"]


def test_keys_and_rights(start_hub: Any, tmp_path: Path) -> None:
    closed = start_hub("--no-workers", "--auth", data=tmp_path / "closed")
    connection = (tmp_path / "closed" / "root.connection-string").read_text().strip()
    parts = dict(part.split("=", 1) for part in connection.split(";") if part)
    closed.cli("hub", "create", "h", "--connection-string", connection)

    def client(key: str) -> EventHubProducerClient:
        words = text(closed, parts["SharedAccessKeyName"], key)
        return EventHubProducerClient.from_connection_string(words, eventhub_name="h", retry_total=0)

    with client(parts["SharedAccessKey"]) as good:
        good.send_event(EventData("in"))
    with client("wrong") as bad, pytest.raises((AuthenticationError, ConnectError, EventHubError)):
        bad.send_event(EventData("out"))
    shown = closed.cli("hub", "show", "h", "-o", "json", "--connection-string", connection).stdout
    assert '"end": 1' in shown
    assert '"end": 2' not in shown


def test_up_says_what_the_sdk_is_given(hub: Any, name: str) -> None:
    word, _, connection_string = hub.process.stdout.readline().strip().partition(" ")
    assert word == "event-hubs"
    with EventHubProducerClient.from_connection_string(connection_string, eventhub_name=name) as client:
        client.send_event(EventData("in"), partition_id="0")


def test_an_unknown_hub_is_named(hub: Any) -> None:
    with producer(hub, "nowhere", retry_total=0) as client, pytest.raises(EventHubError, match="nowhere"):
        client.get_eventhub_properties()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"AMQP\x00\x01\x00\x00" + b"\xff" * 64,
        b"AMQP\x03\x01\x00\x00" + b"\x7f\xff\xff\xff\x02\x01\x00\x00",
    ],
)  # fmt: skip
def test_nonsense_is_closed_and_hurts_nobody(hub: Any, name: str, data: bytes) -> None:
    host, _, port = hub.amqp.removeprefix("amqp://").rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE_S) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass
    send(hub, name, ["still here"], partition_id="0")


@pytest.mark.parametrize("way", ["amqps", "websocket"])
def test_over_tls(secured: Any, way: str) -> None:
    name = f"h-{way}"
    secured.cli("hub", "create", name)
    address = f"sb://localhost:{secured.port(way)}"
    options: dict[str, Any] = {
        "eventhub_name": name, "custom_endpoint_address": address, "connection_verify": str(secured.ca),
        "transport_type": TransportType.Amqp if way == "amqps" else TransportType.AmqpOverWebsocket,
    }  # fmt: skip

    async def main() -> str:
        text = secured.text()
        async with AsyncProducer.from_connection_string(text, **options) as client:
            await client.send_event(EventData(way), partition_id="0")
            last = (await client.get_partition_properties("0"))["last_enqueued_sequence_number"]
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def on_event(_: Any, event: EventData) -> None:
            if not found.done():
                found.set_result(event.body_as_str())

        client = AsyncConsumer.from_connection_string(text, "$Default", load_balancing_interval=ROUND_S, **options)
        start = {"partition_id": "0", "starting_position": last, "starting_position_inclusive": True}
        receiving = asyncio.ensure_future(client.receive(on_event=on_event, **start))
        body = await asyncio.wait_for(found, DEADLINE_S)
        await client.close()
        await asyncio.wait_for(receiving, DEADLINE_S)
        return body

    assert asyncio.run(main()) == way


def test_a_page_of_another_site_opens_no_websocket(hub: Any) -> None:
    host, _, port = hub.http.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE_S) as sock:
        sock.sendall(
            b"GET /$servicebus/websocket HTTP/1.1\r\nhost: %s:%s\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"origin: http://evil.example\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"sec-websocket-protocol: AMQPWSB10\r\n\r\n" % (host.encode(), port.encode())
        )
        assert sock.recv(4096).startswith(b"HTTP/1.1 403")
