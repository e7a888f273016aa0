"""`gridwire move` as it is run: killed and started again, followed, over HTTP and from a directory, with sign-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from gridwire.broker.kafka_address import KafkaAddress
from gridwire.move.copy import Copier
from gridwire.move.mover import Mover
from gridwire.move.side import Side
from kafka_cluster import KafkaCluster

pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.timeout(300)]
DEADLINE_S = 120
EVENTS = 90_000


def started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GRIDWIRE_")}
    return subprocess.Popen(
        [sys.executable, "-m", "gridwire", "move", *arguments, "-o", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**clean, **environment},
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, problems = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, problems
    told: dict[str, Any] = json.loads(out.splitlines()[-1])
    return told


def fill(side: Side, hub: str, events: int, partitions: int = 2) -> None:
    side.create(hub, partitions, {})
    producer = side.producer(f"fill-{uuid.uuid4().hex}")
    producer.begin_transaction()
    for i in range(events):
        while True:
            try:
                producer.produce(side.address.topic(hub), b"%d" % i, partition=i % partitions)
                break
            except BufferError:
                producer.poll(0.1)
    producer.commit_transaction(DEADLINE_S)


def numbers(side: Side, hub: str, partition: int) -> list[int]:
    consumer: Consumer = side.consumer()
    consumer.assign([TopicPartition(side.address.topic(hub), partition, 0)])
    found = []
    try:
        while True:
            for message in consumer.consume(10_000, 0.2):
                if message.error() is not None:
                    return found
                found.append(int(message.value()))
    finally:
        consumer.close()


@pytest.fixture
def target(kafka: KafkaCluster) -> KafkaAddress:
    return KafkaAddress.parse(kafka.url, prefix=f"{uuid.uuid4().hex[:8]}.")


def test_killed_anywhere_it_goes_on_without_doubles(
    start_hub: Any, target: KafkaAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = start_hub("--durability", "os", "--no-workers", http_port="off")
    here, there = Side(KafkaAddress.parse(f"kafka://{hub.kafka}")), Side(target)
    fill(here, "readings", EVENTS)
    arguments = ["--from", here.address.url, "--to", target.url, "--to.prefix", target.prefix]
    killed = started(*arguments)
    assert killed.stdout is not None
    first = json.loads(killed.stdout.readline())
    assert first["phase"] == "copy" and 0 < first["events"] < first["of"]
    killed.kill()
    killed.communicate()
    told = finished(started(*arguments))
    assert sum(row["events"] for row in told["partitions"]) == EVENTS
    for partition in (0, 1):
        assert numbers(there, "readings", partition) == list(range(partition, EVENTS, 2))

    # Negative control: a mover that does not know how far it came brings everything again.
    monkeypatch.setattr(Copier, "position", lambda _self, _place, bounds: bounds.start)
    Mover(here, there).copy()
    assert len(numbers(there, "readings", 0)) > EVENTS // 2


def test_a_source_is_followed_until_told_to_stop(start_hub: Any, target: KafkaAddress) -> None:
    hub = start_hub("--durability", "os", "--no-workers")
    here, there = Side(KafkaAddress.parse(f"kafka://{hub.kafka}")), Side(target)
    fill(here, "readings", 100, 1)
    hub.cli("hub", "alter", "readings", "--capture", "events")
    follower = started("--from", hub.http, "--to", target.url, "--to.prefix", target.prefix, "--follow")
    assert follower.stdout is not None
    assert json.loads(follower.stdout.readline())["events"] == 100
    fill(here, "later", 50, 1)
    assert json.loads(follower.stdout.readline())["events"] == 150
    follower.terminate()
    told = finished(follower)
    assert {row["hub"]: row["events"] for row in told["partitions"]} == {"later": 50, "readings": 100}
    assert told["notes"] == [
        "hub readings: capture=events was not moved, Kafka has no such config: give a --to.gateway"
    ]
    assert numbers(there, "later", 0) == list(range(50))


def test_keys_of_policies_go_on_working(start_hub: Any, tmp_path: Path) -> None:
    """From a directory that nobody serves to a hub with sign-in; no key lies anywhere in the clear."""
    old = start_hub("--durability", "os", "--no-workers", "--auth", data=tmp_path / "old", kafka_port="off")
    root = (old.data / "root.connection-string").read_text().strip()
    create = ["policy", "create", "meters", "--rights", "send", "--hub", "readings", "-o", "json"]
    made = json.loads(old.cli(*create, "--connection-string", root).stdout)
    old.cli("hub", "create", "readings", "--connection-string", root)
    definition = tmp_path / "reading.json"
    for text in ({"type": "object"}, {"type": "object", "properties": {"kw": {"type": "number"}}}):
        definition.write_text(json.dumps(text))
        if "properties" not in text:
            old.cli("schema", "create-group", "meters", "--format", "json", "--connection-string", root)
        old.cli("schema", "register", "meters", "reading", str(definition), "--connection-string", root)
    old.stop()
    new = start_hub("--durability", "os", "--no-workers", "--auth", data=tmp_path / "new")
    own = (new.data / "root.connection-string").read_text().strip()
    arguments = ["--from", str(old.data), "--to", new.http]
    process = started(*arguments, GRIDWIRE_TO_CONNECTION_STRING=own)
    told = finished(process)
    assert told["beside"]["policy"] == 2 and told["beside"]["schema"] == 2 and told["notes"] == []
    for which in ("primary_key", "secondary_key"):
        key = f"Endpoint=sb://x/;SharedAccessKeyName=meters;SharedAccessKey={made[which]}"
        new.cli("send", "readings", "--connection-string", key, text="1\n")
        for file in tmp_path.rglob("*"):
            if file.is_file():
                assert made[which].encode() not in file.read_bytes(), file
    assert new.cli("hub", "show", "readings", "--connection-string", root, "-o", "json").stdout  # the old root key
    refused = new.cli("policy", "list", "--connection-string", own, check=False)
    assert refused.returncode == 4 and "wrong" in refused.stderr
