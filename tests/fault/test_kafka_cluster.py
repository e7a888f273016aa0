"""Three real Kafka brokers, replication factor 3, min.insync 2, workers on them, and SIGKILL under load.

Readings flow all the time (idempotent, `acks=all`). A leader dies, a grid worker, the capture worker that owns the
table, then two brokers at once. At the end every acknowledged reading is in the hub once, in the lake once, and in the
facts once: the version of a fact counts the readings that were applied, so it tells a lost one and a doubled one alike.

Negative control: the same crash with `acks=1` loses acknowledged events.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from deltalake import DeltaTable

from event_hubs import committed_values
from gridwire.grid import network
from kafka_cluster import KafkaCluster

WAIT_S = 150.0
PARTITIONS = 4
POINTS = 24
SEND_EVERY_S = 0.05
QUIET: dict[str, Any] = {"error_cb": lambda _: None, "log_level": 0}

TOPICS = {"readings": PARTITIONS, "grid.network": 1, "grid.transformers": 2, "grid.feeders": 2, "quarantine": 1}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def until(condition: Callable[[], bool], what: str, wait_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {wait_s} s"
        time.sleep(0.1)


def model() -> network.Network:
    numbers = range(PARTITIONS)
    return network.Network(
        name="small",
        transformers=tuple(network.Transformer(id=f"T{n}") for n in numbers),
        feeders=tuple(network.Feeder(id=f"F{n}", transformer=f"T{n}") for n in numbers),
        usage_points=tuple(
            network.UsagePoint(id=f"U{n}", transformer=f"T{n % PARTITIONS}", feeder=f"F{n % PARTITIONS}")
            for n in range(POINTS)
        ),
    )


def quarter_text(quarter: int) -> str:
    day, rest = divmod(quarter, 96)
    month, day = divmod(day, 28)
    return f"2016-{month + 1:02d}-{day + 1:02d}T{rest // 4:02d}:{rest % 4 * 15:02d}:00Z"


class Load:
    """Sends a quarter hour of every usage point again and again, until it is stopped; then all is acknowledged."""

    def __init__(self, cluster: KafkaCluster, topic: str) -> None:
        self.acked: list[bytes] = []
        self.failed: list[KafkaError] = []
        self._topic = topic
        self._stop = threading.Event()
        settings = {"enable.idempotence": True, "acks": "all", "delivery.timeout.ms": 600_000, "linger.ms": 5}
        self._producer = Producer({"bootstrap.servers": cluster.bootstrap, **settings, **QUIET})
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        quarter = 0
        while not self._stop.wait(SEND_EVERY_S):
            quarter += 1
            for point in range(POINTS):
                reading = {
                    "usage_point": f"U{point}", "ts_end": quarter_text(quarter), "interval_s": 900,
                    "reading_type": "import_kwh", "value": (quarter * 7 + point) % 50 / 10,
                }  # fmt: skip
                value = json.dumps(reading).encode()
                number = point % PARTITIONS  # a transformer's meters share a partition
                self._producer.produce(self._topic, value, partition=number, on_delivery=self._told(value))
            self._producer.poll(0)

    def _told(self, value: bytes) -> Callable[[KafkaError | None, Any], None]:
        return lambda error, _: self.acked.append(value) if error is None else self.failed.append(error)

    def grows_by(self, count: int) -> None:
        start = len(self.acked)
        until(lambda: len(self.acked) >= start + count, "acknowledgements")

    def end(self) -> list[bytes]:
        self._stop.set()
        self._thread.join(WAIT_S)
        assert self._producer.flush(WAIT_S) == 0
        assert self.failed == []
        return self.acked


class Workers:
    """`gridwire worker NAME --broker ...` processes, each as on a machine of its own; the lake is shared."""

    def __init__(self, cluster: KafkaCluster, prefix: str, directory: Path) -> None:
        self._command = [sys.executable, "-m", "gridwire", "worker"]
        self._options = ["--broker", cluster.url, "--broker-prefix", prefix]
        self._directory = directory
        self.lake = directory / "lake"
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        number = len(self.running)
        data = ["--data", str(self._directory / f"machine{number}")]
        with (self._directory / f"{name}{number}.log").open("ab") as log:
            process = subprocess.Popen(
                [*self._command, name, *self._options, *data, *more], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self.running.append(process)
        return process

    def grid(self) -> subprocess.Popen[bytes]:
        return self.start("grid")

    def capture(self) -> subprocess.Popen[bytes]:
        return self.start("capture", "--lake", str(self.lake), "--flush-s", "1", "--table", "readings=readings")

    def stop(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.terminate()
        for process in self.running:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@pytest.fixture
def prefix(kafka_three: KafkaCluster) -> str:
    kafka_three.start()
    found = f"f{uuid.uuid4().hex[:8]}."
    admin = AdminClient({"bootstrap.servers": kafka_three.bootstrap, **QUIET})
    for future in admin.create_topics([NewTopic(found + name, count) for name, count in TOPICS.items()]).values():
        future.result(60)
    producer = Producer({"bootstrap.servers": kafka_three.bootstrap, "acks": "all", **QUIET})
    producer.produce(found + "grid.network", network.to_json(model()))
    assert producer.flush(60) == 0
    return found


@pytest.fixture
def workers(kafka_three: KafkaCluster, prefix: str, tmp_path: Path) -> Iterator[Workers]:
    found = Workers(kafka_three, prefix, tmp_path)
    yield found
    found.stop()


def captured(lake: Path) -> Counter[tuple[int, int]]:
    if not DeltaTable.is_deltatable(str(lake / "readings")):
        return Counter()
    rows = DeltaTable(str(lake / "readings")).to_pyarrow_table(columns=["partition", "offset"])
    return Counter(zip(rows["partition"].to_pylist(), rows["offset"].to_pylist(), strict=True))


def facts(cluster: KafkaCluster, prefix: str) -> dict[tuple[str, str], tuple[float, int, int]]:
    """(transformer, ts_end) -> (kWh, count, version) that holds; one version never says two things."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for partition in range(TOPICS["grid.transformers"]):
        for value in committed_values(cluster.bootstrap, prefix + "grid.transformers", partition):
            fact = json.loads(value or b"")
            key = (fact["transformer"], fact["ts_end"])
            known = found.get(key)
            assert known is None or fact["version"] > known["version"], f"told twice: {known} {fact}"
            found[key] = fact
    return {key: (fact["import_kwh"], fact["count"], fact["version"]) for key, fact in found.items()}


def expected(acked: list[bytes]) -> dict[tuple[str, str], tuple[float, int, int]]:
    sums: dict[tuple[str, str], list[int]] = {}
    for value in acked:
        reading = json.loads(value)
        transformer = f"T{int(reading['usage_point'][1:]) % PARTITIONS}"
        sums.setdefault((transformer, reading["ts_end"]), []).append(round(reading["value"] * 10))
    return {key: (sum(values) / 10, len(values), len(values) - 1) for key, values in sums.items()}


def test_leader_workers_and_two_brokers_are_killed(kafka_three: KafkaCluster, prefix: str, workers: Workers) -> None:
    load = Load(kafka_three, prefix + "readings")
    first, _, owner = workers.grid(), workers.grid(), workers.capture()
    until(lambda: len(captured(workers.lake)) > 0, "first rows of the lake")
    workers.capture()

    leader = kafka_three.leader(prefix + "readings")
    leader.kill()
    load.grows_by(1000)
    kill(first)
    kill(owner)
    known = len(captured(workers.lake))
    leader.start()
    workers.grid()
    until(lambda: len(captured(workers.lake)) > known, "another worker takes the table over")

    kafka_three.await_ready()
    two = kafka_three.nodes[:2]
    for node in two:
        node.kill()
    time.sleep(0.5)  # what was acknowledged before may still be on its way to the callback
    silent = len(load.acked)
    time.sleep(3.0)
    assert len(load.acked) == silent, "one broker of three cannot acknowledge"
    for node in two:
        node.start()
    load.grows_by(1000)
    acked = load.end()

    stored = [committed_values(kafka_three.bootstrap, prefix + "readings", p) for p in range(PARTITIONS)]
    assert Counter(value for values in stored for value in values) == Counter(acked), "each once"
    offsets = Counter((p, offset) for p, values in enumerate(stored) for offset in range(len(values)))
    until(lambda: sum(captured(workers.lake).values()) >= len(acked), "the lake has all")
    assert captured(workers.lake) == offsets
    wanted = expected(acked)
    until(lambda: facts(kafka_three, prefix) == wanted, "facts of every acknowledged reading, once")
    assert committed_values(kafka_three.bootstrap, prefix + "quarantine", 0) == []


@pytest.mark.parametrize("acks", ["all", "1"])
def test_a_leader_alone_dies_with_what_it_took(kafka_three: KafkaCluster, prefix: str, acks: str) -> None:
    """Followers stand still, the leader takes events and dies, the followers go on: only `acks=1` has lost any."""
    topic = prefix + "quarantine"
    leader = kafka_three.leader(topic)
    followers = [node for node in kafka_three.nodes if node is not leader]
    settings = {"acks": acks, "delivery.timeout.ms": 6_000, "request.timeout.ms": 5_000, "linger.ms": 0}
    producer = Producer({"bootstrap.servers": kafka_three.bootstrap, **settings, **QUIET})
    acked: list[bytes] = []

    def told(error: KafkaError | None, message: Any) -> None:
        if error is None:
            acked.append(message.value())

    producer.produce(topic, b"before", on_delivery=told)
    producer.flush(60)
    assert acked == [b"before"]
    for node in followers:
        os.kill(node.pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 2.0  # longer than a fetch of a follower that is under way can stay open
        while time.monotonic() < deadline:
            producer.produce(topic, b"at %f" % time.monotonic(), on_delivery=told)
            producer.poll(0.05)
        producer.flush(10)
        leader.kill()
    finally:
        for node in followers:
            os.kill(node.pid, signal.SIGCONT)
    until(lambda: kafka_three_leads(kafka_three, topic, leader.number), "another leader")
    leader.start()
    kafka_three.await_ready()
    lost = Counter(acked) - Counter(committed_values(kafka_three.bootstrap, topic, 0))
    if acks == "all":
        assert acked == [b"before"]
        assert not lost
    else:
        assert len(acked) > 10
        assert lost, "acks=1 acknowledged what only the dead leader had"


def kafka_three_leads(cluster: KafkaCluster, topic: str, dead: int) -> bool:
    """Whether a broker that lives leads the topic."""
    try:
        return cluster.leader(topic).number != dead
    except Exception:  # no broker answers, or nobody leads yet
        return False
