"""`gridwire up --broker kafka://...` as its users meet it: two gateways over one cluster, clients of every protocol."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.eventhub import EventData, EventHubProducerClient
from confluent_kafka import Consumer, Producer

from kafka_cluster import KafkaCluster, required

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def gateway(kafka: KafkaCluster, start_hub: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Start gateways of one prefix; each has a directory of its own."""
    prefix = f"t{uuid.uuid4().hex[:12]}."

    def start(name: str, *flags: str) -> Any:
        hub = start_hub("--broker", kafka.url, "--broker-prefix", prefix, "--no-workers", *flags, data=tmp_path / name)
        hub.prefix = prefix
        return hub

    return start


def send_amqp(hub: Any, name: str, bodies: list[str]) -> None:
    text = (
        f"Endpoint=sb://{hub.amqp.removeprefix('amqp://')};SharedAccessKeyName=any;SharedAccessKey=any;"
        "UseDevelopmentEmulator=true"
    )
    with EventHubProducerClient.from_connection_string(text, eventhub_name=name) as producer:
        batch = producer.create_batch(partition_id="0")
        for body in bodies:
            batch.add(EventData(body))
        producer.send_batch(batch)


def read_kafka(hub: Any, topic: str, group: str, count: int) -> list[str]:
    consumer = Consumer(
        {"bootstrap.servers": hub.kafka, "group.id": group, "auto.offset.reset": "earliest", "log_level": 0}
    )
    consumer.subscribe([topic])
    found: list[str] = []
    try:
        for _ in range(120):
            message = consumer.poll(1.0)
            if message is not None and message.error() is None:
                found.append((message.value() or b"").decode())
            if len(found) == count:
                consumer.commit(asynchronous=False)
                break
    finally:
        consumer.close()
    return found


def values(hub: Any, name: str) -> list[Any]:
    return [event["value"] for event in hub.get(f"/v1/hubs/{name}/events?partition=0&offset=0&limit=100")["events"]]


def test_every_protocol_through_two_gateways_and_one_of_them_dies(
    kafka: KafkaCluster, gateway: Callable[..., Any]
) -> None:
    one, two = gateway("one"), gateway("two")
    assert one.kafka == two.kafka == kafka.bootstrap  # Kafka clients go to the cluster itself
    one.cli("hub", "create", "meters", "--partitions", "1")
    one.cli("send", "meters", '{"from":"http"}')
    send_amqp(two, "meters", ['{"from":"amqp"}'])
    producer = Producer({"bootstrap.servers": two.kafka, "acks": "all", "log_level": 0})
    producer.produce(one.prefix + "meters", b'{"from":"kafka"}')
    assert producer.flush(60) == 0
    wanted = [{"from": each} for each in ("http", "amqp", "kafka")]
    assert values(one, "meters") == values(two, "meters") == wanted

    told = read_kafka(one, one.prefix + "meters", one.prefix + "billing", 3)
    assert [json.loads(each) for each in told] == wanted
    groups = json.loads(two.cli("group", "list", "-o", "json").stdout)
    assert [(each["group"], each["lag_events"]) for each in groups] == [("billing", 0)]

    one.kill()
    two.cli("send", "meters", '{"from":"the other"}')
    again = gateway("one")
    assert values(again, "meters") == [*wanted, {"from": "the other"}]


def test_doctor_and_status_say_what_holds_where(gateway: Callable[..., Any]) -> None:
    hub = gateway("one")
    hub.cli("hub", "create", "meters")
    told = hub.cli("doctor").stdout
    assert re.search(r"^warn +ack means +in 1 of 1 brokers", told, re.M)
    assert re.search(r"^ok +rights +gridwire's on its heads; Kafka's own for Kafka clients", told, re.M)
    assert "disk sync" not in told  # a gateway keeps nothing on its disk
    status = hub.get("/v1/status")
    assert status["broker"]["kind"] == "kafka"
    assert status["durability"] == "acks=all, replication 1, min.insync 1"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_gateway_stays_small_and_brings_none_of_the_workers_libraries(gateway: Callable[..., Any]) -> None:
    hub = gateway("one")
    hub.cli("hub", "create", "meters", "--partitions", "2")
    body = b"\n".join(b'{"meter":"m-%d","kw":3.2}' % number for number in range(20_000))
    for _ in range(10):
        request = urllib.request.Request(f"{hub.http}/v1/hubs/meters/events?key_field=meter", body)
        request.add_header("content-type", "application/x-ndjson")
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["count"] == 20_000
    send_amqp(hub, "meters", ["x" * 1000] * 500)
    maps = Path(f"/proc/{hub.process.pid}/maps").read_text()
    assert "uvloop" in maps  # what is imported and compiled does show
    assert not [name for name in ("numpy", "pyarrow", "numba", "confluent_kafka", "rdkafka") if name in maps]
    status = Path(f"/proc/{hub.process.pid}/status").read_text()
    assert int(status.partition("VmHWM:")[2].split()[0]) * 1024 < 150 * 10**6


def test_the_entity_file_over_two_gateways(gateway: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "Config.json"
    entity = {"Name": "eh1", "PartitionCount": "2", "ConsumerGroups": [{"Name": "cg1"}]}
    namespace = {"Type": "EventHub", "Name": "emulatorns1", "Entities": [entity]}
    file.write_text(json.dumps({"UserConfig": {"NamespaceConfig": [namespace]}}))
    for name in ("one", "two"):  # at the second one everything is there
        hub = gateway(name, "--entities", str(file))
        assert [(row["name"], row["partitions"]) for row in hub.get("/v1/hubs")["hubs"]] == [("eh1", 2)]
        assert "cg1" in [row["group"] for row in hub.get("/v1/groups")["groups"]]


def test_no_cluster_there_is_one_sentence(gridwire_cli: Any, tmp_path: Path) -> None:
    flags = ("--kafka-port", "0", "--http-port", "0", "--data", str(tmp_path / "data"))
    done = gridwire_cli("up", "--broker", "kafka://127.0.0.1:1", *flags, check=False)
    assert done.returncode == 3
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(600)
def test_the_demo_on_kafka_agrees(tmp_path: Path) -> None:
    required()
    ports = ("--amqp-port", "0", "--http-port", "0")
    command = [sys.executable, str(ROOT / "scripts" / "demo_on_kafka.py"), "--data", str(tmp_path / "demo")]
    done = subprocess.run(
        [*command, "--seconds", "6", "--pace", "0.25", *ports],
        capture_output=True, text=True, timeout=500, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "live sums, lake and the independent calculation agree" in done.stdout
