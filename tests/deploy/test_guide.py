"""docs/howto/one-box-to-three-brokers.md: every command of it, run in order against a real three-broker cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import Consumer, TopicPartition

import guide
from gridwire import config
from kafka_cluster import KafkaCluster, free_port

PAGE: Final = "one-box-to-three-brokers.md"
BROKERS: Final = "b1.example:9092,b2.example:9092,b3.example:9092"
GATEWAY: Final = "http://127.0.0.1:8701"
GATEWAYS: Final = "broker" in {row.name for row in config.SETTINGS}
EVENTS: Final = 300


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_every_command_of_the_guide(start_hub: Any, kafka_three: KafkaCluster, tmp_path: Path) -> None:
    hub = start_hub("--durability", "os", "--no-workers")
    port = free_port()
    instead = {
        BROKERS: kafka_three.bootstrap, GATEWAY: f"http://127.0.0.1:{port}", "--http-port 8701": f"--http-port {port}",
    }  # fmt: skip
    shell = guide.Shell(tmp_path, hub.http, instead)
    lines = [json.dumps({"meter": f"m-{i % 7}", "kw": i}) for i in range(EVENTS)]
    (tmp_path / "readings.ndjson").write_text("\n".join(lines) + "\n")
    told: dict[str, list[str]] = {}
    left_out = []
    try:
        for each in guide.commands(PAGE):
            heading, command = each.heading, each.text
            if heading.startswith("4.") and heading not in told:
                hub.cli("send", "readings", "--file", str(tmp_path / "readings.ndjson"))
            if not GATEWAYS and ("--broker" in command or GATEWAY in command):
                left_out.append(command)
                continue
            told.setdefault(heading, []).append(shell.run(command))
        assert all(process.poll() is None for process in shell.background)
    finally:
        shell.stop()
    check_moved(told, kafka_three)
    if left_out:
        pytest.skip(f"this version has no gateways, left out: {left_out}")


def check_moved(told: dict[str, list[str]], cluster: KafkaCluster) -> None:
    """Twice the events are in the cluster, on three brokers; the group reads on at the first of the second half."""
    assert sum(rows(told["2. Copy, while everything goes on"][0]).values()) == EVENTS
    assert sum(rows(told["4. Switch over"][0]).values()) == 2 * EVENTS
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "billing"})
    try:
        described = consumer.list_topics("readings", timeout=30).topics["readings"]
        assert all(len(each.replicas) == 3 for each in described.partitions.values())
        places = [TopicPartition("readings", number) for number in described.partitions]
        committed = consumer.committed(places, timeout=30)
        left = 0
        for place in committed:
            low, high = consumer.get_watermark_offsets(place, timeout=30)
            assert low <= place.offset <= high
            left += sum(1 for _ in range(place.offset, high))
        assert EVENTS <= left <= EVENTS + 4 * 3  # and markers of transactions
    finally:
        consumer.close()


def rows(table: str) -> dict[tuple[str, str], int]:
    """Events by (hub, partition) of what `gridwire move` prints."""
    found = {}
    for line in table.split("\n\n")[0].splitlines()[1:]:
        hub, partition, events, _ = line.split("\t")
        found[hub, partition] = int(events.replace(",", ""))
    return found
