"""The VEE stage on a real Apache Kafka: a lane a partition, two workers of which one is killed, and the loads worker.

Each worker's verdicts, estimates and positions are one transaction. Estimates lie in the partitions of `readings` that
they stand for, so the sums of the loads worker, which has lanes of its own, get them from there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from event_hubs import committed_values
from gridwire.grid import network
from kafka_cluster import KafkaCluster

TOPICS = {
    "readings": 3, "grid.network": 1, "grid.transformers": 1, "grid.feeders": 1, "quarantine": 1, "grid.vee": 1,
    "grid.feeder-parts": 1, "meter.events": 1,
}  # fmt: skip
POINTS, WAIT_S = 12, 100.0
GAP = range(10, 14)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def prefix(kafka: KafkaCluster) -> str:
    found = f"v{uuid.uuid4().hex[:8]}."
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for future in admin.create_topics([NewTopic(found + name, count) for name, count in TOPICS.items()]).values():
        future.result(60)
    return found


@pytest.fixture
def start(kafka: KafkaCluster, prefix: str, tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []

    def start(name: str) -> subprocess.Popen[bytes]:
        data = tmp_path / f"machine{len(running)}"
        command = [sys.executable, "-m", "gridwire", "worker", name, "--broker", kafka.url, "--broker-prefix", prefix]
        with (tmp_path / f"{len(running)}.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--data", str(data)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.terminate()
    for process in running:
        process.wait(60)


def model() -> network.Network:
    return network.Network(
        name="three",
        transformers=tuple(network.Transformer(id=f"T{n}") for n in range(3)),
        feeders=(network.Feeder(id="F"),),
        usage_points=tuple(network.UsagePoint(id=f"U{n}", transformer=f"T{n % 3}", feeder="F") for n in range(POINTS)),
    )


def reading(point: int, quarter: int) -> bytes:
    ts_end = f"2016-03-01T{quarter // 4:02d}:{quarter % 4 * 15:02d}:00Z"
    fields = {
        "usage_point": f"U{point}",
        "ts_end": ts_end,
        "interval_s": 900,
        "reading_type": "import_kwh",
        "value": 0.5,
    }
    return json.dumps(fields).encode()


def newest(cluster: KafkaCluster, hub: str, *key: str) -> dict[tuple[str, ...], dict[str, Any]]:
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for value in committed_values(cluster.bootstrap, hub, 0):
        row = json.loads(value or b"")
        place = tuple(row[name] for name in key)
        if place not in found or row.get("version", 0) >= found[place].get("version", 0):
            found[place] = row
    return found


def test_estimates_of_two_workers_and_the_sums_they_reach(
    kafka: KafkaCluster, prefix: str, start: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(prefix + "grid.network", network.to_json(model()))

    def send(quarters: range, points: range, wanted: Callable[[int, int], bool]) -> None:
        for quarter in quarters:
            for point in points:
                if wanted(point, quarter):
                    producer.produce(prefix + "readings", reading(point, quarter), partition=point % 3)
        assert producer.flush(60) == 0

    # Every second usage point has a gap; half of these come late.
    send(range(1, 25), range(POINTS), lambda point, quarter: point % 2 == 0 or quarter not in GAP)
    first = start("vee")
    start("vee")
    start("grid")
    until(lambda: len(estimated(kafka, prefix)) == POINTS // 2 * len(GAP), "estimates of every gap")
    first.kill()
    first.wait()
    send(GAP, range(1, POINTS, 4), lambda point, quarter: True)
    send(range(25, 30), range(POINTS), lambda point, quarter: True)
    left = {(f"U{point}", quarter) for point in range(3, POINTS, 4) for quarter in GAP}
    until(lambda: {(p, quarter_of(t)) for p, t in estimated(kafka, prefix)} == left, "corrected verdicts")

    def wrong() -> list[Any]:
        facts = newest(kafka, prefix + "grid.transformers", "transformer", "ts_end").values()
        off = [f for f in facts if (f["import_kwh"], f["count"] + f.get("estimated", 0)) != (2.0, 4)]
        told = sum(fact.get("estimated", 0) for fact in facts)
        return off if off or (len(facts), told) == (3 * 29, len(left)) else [len(facts), told]

    until(lambda: not wrong(), "sums with what is estimated and what came late", wrong)


def estimated(cluster: KafkaCluster, prefix: str) -> set[tuple[str, str]]:
    rows = newest(cluster, prefix + "grid.vee", "usage_point", "ts_end")
    return {(key[0], key[1]) for key, row in rows.items() if row.get("estimate_kwh") == 0.5}


def quarter_of(ts_end: str) -> int:
    return int(ts_end[11:13]) * 4 + int(ts_end[14:16]) // 15


def until(condition: Callable[[], bool], what: str, seen: Callable[[], Any] = lambda: "") -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {WAIT_S} s {seen()}"
        time.sleep(0.2)
