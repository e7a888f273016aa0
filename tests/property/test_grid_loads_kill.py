"""The real worker process of a real hub dies by SIGKILL again and again while readings come in.

Fault model: the worker process ends between any two instructions, also while it starts; the hub lives on. Every
reading is sent once, with a value of its own, so that the final sum of each transformer and interval tells a reading
that is missing from one that was counted twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import pytest

from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint, to_json

POINTS, TRANSFORMERS, INTERVALS, KILLS = 120, 6, 60, 4
DEADLINE_S = 90.0

NETWORK = Network(
    name="kill",
    transformers=tuple(Transformer(id=f"T{i}") for i in range(TRANSFORMERS)),
    feeders=(Feeder(id="F"),),
    usage_points=tuple(UsagePoint(id=f"U{i}", transformer=f"T{i % TRANSFORMERS}", feeder="F") for i in range(POINTS)),
)


@contextmanager
def running_hub(directory: Path) -> Iterator[dict[str, str]]:
    command = [sys.executable, "-m", "gridwire", "up", "--data", str(directory / "data")]
    with (directory / "hub.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--kafka-port", "0", "--http-port", "0"], stdout=subprocess.PIPE, stderr=log, cwd=directory
        )
        try:
            endpoints: dict[str, str] = {}
            assert process.stdout is not None
            while not {"kafka", "http"} <= endpoints.keys():
                line = process.stdout.readline().decode()
                assert line, (directory / "hub.log").read_text()
                name, _, address = line.strip().partition(" ")
                endpoints[name] = address
            yield endpoints
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def call(url: str, body: bytes | None = None) -> Any:
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def worker_pid(http: str) -> int | None:
    for worker in call(f"{http}/v1/status")["workers"]:
        if worker["name"] == "grid" and worker["state"] == "running":
            return int(worker["pid"])
    return None


def kill_worker(http: str, random_s: float) -> None:
    """Kill the worker some time after it is seen running; one that was killed before may still be shown."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        while (pid := worker_pid(http)) is None:
            assert time.monotonic() < deadline, "the worker did not come back"
            time.sleep(0.02)
        time.sleep(random_s)  # any moment will do: it is drawn, not awaited
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return


def reading(point: int, interval: int) -> bytes:
    day, rest = divmod(interval, 96)
    ts_end = f"2016-01-{day + 1:02d}T{rest // 4:02d}:{rest % 4 * 15:02d}:00Z"
    fields = {"usage_point": f"U{point}", "ts_end": ts_end, "interval_s": 900, "reading_type": "import_kwh"}
    return json.dumps(fields)[:-1].encode() + b',"value":0.%03d}' % (point + interval)


def newest_facts(bootstrap: str) -> tuple[dict[tuple[str, str], dict[str, Any]], Counter[tuple[str, str, int]]]:
    """The fact that holds for every transformer and interval, and how often each version was told."""
    group = {"group.id": "check", "auto.offset.reset": "earliest", "enable.partition.eof": True}
    consumer = ck.Consumer({"bootstrap.servers": bootstrap, **group})
    partitions = list(consumer.list_topics("grid.transformers", timeout=10).topics["grid.transformers"].partitions)
    consumer.assign([ck.TopicPartition("grid.transformers", p, 0) for p in partitions])
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    told: Counter[tuple[str, str, int]] = Counter()
    ended: set[int] = set()
    while len(ended) < len(partitions):
        for message in consumer.consume(1000, timeout=10):
            if message.error():
                ended.add(message.partition())
                continue
            fact = json.loads(message.value())
            key = (fact["transformer"], fact["ts_end"])
            told[(*key, fact["version"])] += 1
            if key not in newest or fact["version"] > newest[key]["version"]:
                newest[key] = fact
    consumer.close()
    return newest, told


@pytest.mark.slow
def test_a_killed_worker_neither_loses_nor_repeats_a_reading(tmp_path: Path) -> None:
    source = random.Random(1)
    with running_hub(tmp_path) as endpoints:
        http = endpoints["http"]
        call(f"{http}/v1/hubs", json.dumps({"name": "grid.network", "partitions": 1}).encode())
        call(f"{http}/v1/hubs/grid.network/events", to_json(NETWORK))
        producer = ck.Producer({"bootstrap.servers": endpoints["kafka"], "linger.ms": 5})
        expected: dict[tuple[str, str], int] = {}
        for part in range(KILLS + 1):
            for interval in range(1 + part, INTERVALS + 1, KILLS + 1):
                for point in range(POINTS):
                    value = reading(point, interval)
                    producer.produce("readings", value, f"T{point % TRANSFORMERS}".encode())
                    key = (f"T{point % TRANSFORMERS}", json.loads(value)["ts_end"])
                    expected[key] = expected.get(key, 0) + point + interval
            assert producer.flush(30) == 0
            if part < KILLS:
                kill_worker(http, source.uniform(0.0, 1.5))
        wait_until_read(http)
        facts, told = newest_facts(endpoints["kafka"])
    assert {key: round(fact["import_kwh"] * 1000) for key, fact in facts.items()} == expected
    assert {fact["count"] for fact in facts.values()} == {POINTS // TRANSFORMERS}
    assert set(told.values()) == {1}, "a version was told twice"


def wait_until_read(http: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        groups = {group["group"]: group for group in call(f"{http}/v1/groups")["groups"]}
        ends = {row["name"]: row for row in call(f"{http}/v1/hubs")["hubs"]}
        if "grid.loads" in groups and groups["grid.loads"]["lag_events"] == 0 and ends["readings"]["events"]:
            return
        assert time.monotonic() < deadline, groups
        time.sleep(0.1)
