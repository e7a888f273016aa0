"""A full disk: clear errors in each protocol, reading goes on, and it heals without a restart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs root to mount a small file system"
)

MIB = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"this machine does not allow mounting: {done.stderr.strip()}")
    yield place
    for _ in range(100):
        if subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError("the small disk is still in use")


def post(hub: Any, value: bytes) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{hub.http}/v1/hubs/full/events?partition=0", value, {"content-type": "application/octet-stream"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def kafka_errors(hub: Any, count: int) -> list[KafkaError | None]:
    told: list[KafkaError | None] = []
    producer = Producer({"bootstrap.servers": hub.kafka, "retries": 0, "linger.ms": 0, "log_level": 0})
    for _ in range(count):
        producer.produce("full", b"k" * (MIB // 2), partition=0, callback=lambda e, m: told.append(e))
        producer.flush(30)
    return told


def test_a_full_disk_refuses_reads_on_and_heals(start_hub: Any, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (12 * MIB))
    hub = start_hub("--partitions", "1", data=small_disk / "data")
    acknowledged: list[int] = []
    status, answer = 200, {}
    for _ in range(100):
        status, answer = post(hub, b"x" * (MIB // 2))
        if status != 200:
            break
        acknowledged.append(answer["offset"])
    assert status == 507
    assert "free space" in answer["detail"]
    assert acknowledged == list(range(len(acknowledged)))
    assert [e.code() for e in kafka_errors(hub, 2) if e is not None] == [KafkaError.KAFKA_STORAGE_ERROR] * 2
    assert hub.get("/v1/hubs/full/events?partition=0&offset=0&limit=1")["end"] == len(acknowledged)
    ballast.unlink()
    status, answer = post(hub, b"after")
    assert (status, answer["offset"]) == (200, len(acknowledged))
    assert kafka_errors(hub, 1) == [None]
    hub.kill()
    hub = start_hub("--partitions", "1", data=small_disk / "data")
    consumer = Consumer({"bootstrap.servers": hub.kafka, "group.id": "g", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition("full", 0, 0)])
    sizes: list[int] = []
    deadline = time.monotonic() + 60
    while len(sizes) < len(acknowledged) + 2 and time.monotonic() < deadline:
        message = consumer.poll(1.0)
        if message is not None and message.error() is None:
            assert message.offset() == len(sizes)
            sizes.append(len(message.value()))
    consumer.close()
    assert sizes == [MIB // 2] * len(acknowledged) + [5, MIB // 2]
    hub.stop()
