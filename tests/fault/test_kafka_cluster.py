"""Three real Kafka brokers, replication factor 3, min.insync 2, gateways and workers on them, and SIGKILL under load.

Readings flow through every head all the time: Kafka directly, HTTP and AMQP through two gateways. A leader dies, a grid
worker, the capture worker that owns the table, a gateway, then two brokers at once: no head acknowledges anything then.
At the end every acknowledged reading is in the hub, every reading of the hub is there once, in the lake once, and in
the facts once: the version of a fact counts the readings that were applied, so it tells a lost one and a doubled one
alike. One feeder lies above all transformers, so its facts are those of the second stage.

`GRIDWIRE_TEST_CLUSTER_ROUNDS` is how often all that happens. Negative control: the same crash with `acks=1` loses
acknowledged events.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from deltalake import DeltaTable

from cluster_load import QUIET, AmqpLoad, Clock, HttpLoad, KafkaLoad, Load
from event_hubs import committed_values
from gridwire.grid import network
from kafka_cluster import KafkaCluster, free_port

ROUNDS = int(os.environ.get("GRIDWIRE_TEST_CLUSTER_ROUNDS", "1"))
WAIT_S = 150.0
QUIET_S = 3.0
PARTITIONS = 4
POINTS = {"kafka": 24, "http": 8, "amqp": 8}
WIDE = "MV"
"""The feeder above all transformers."""

WINDOW_DAYS = 60
"""Longer than any head is held up: 60 days of quarter hours pass in ten minutes here."""

TOPICS = {"readings": PARTITIONS, "grid.network": 1, "grid.transformers": 2, "grid.feeders": 2, "quarantine": 1}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900 * ROUNDS)]


def until(condition: Callable[[], bool], what: str, wait_s: float = WAIT_S, pause_s: float = 0.1) -> None:
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {wait_s} s"
        time.sleep(pause_s)


def points(head: str) -> list[str]:
    return [f"{head}-{n}" for n in range(POINTS[head])]


def place(point: str) -> tuple[str, str]:
    """(transformer, feeder) of a usage point; a transformer's meters share a partition."""
    number = int(point.partition("-")[2])
    return f"T{number % PARTITIONS}", WIDE if number // PARTITIONS % 2 else f"F{number % PARTITIONS}"


def model() -> network.Network:
    numbers = range(PARTITIONS)
    narrow = tuple(network.Feeder(id=f"F{n}", transformer=f"T{n}") for n in numbers)
    return network.Network(
        name="small",
        transformers=tuple(network.Transformer(id=f"T{n}") for n in numbers),
        feeders=(*narrow, network.Feeder(id=WIDE)),
        usage_points=tuple(
            network.UsagePoint(id=point, transformer=place(point)[0], feeder=place(point)[1])
            for head in POINTS
            for point in points(head)
        ),
    )


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
        return self.start("grid", "--window-days", str(WINDOW_DAYS))

    def capture(self) -> subprocess.Popen[bytes]:
        return self.start("capture", "--lake", str(self.lake), "--flush-s", "1", "--table", "readings=readings")

    def victims(self) -> list[subprocess.Popen[bytes]]:
        """The grid worker and the capture worker that have been there longest: the one that has the table."""
        alive = [process for process in self.running if process.poll() is None]
        return [next(each for each in alive if name in each.args) for name in ("grid", "capture")]  # type: ignore[operator]

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


Fact = tuple[float, int, int]
"""kWh, count, version."""


def facts(cluster: KafkaCluster, prefix: str, unit: str) -> dict[tuple[str, str], Fact]:
    """(unit, ts_end) -> the fact that holds; one version never says two things."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    hub = f"grid.{unit}s"
    for partition in range(TOPICS[hub]):
        for value in committed_values(cluster.bootstrap, prefix + hub, partition):
            fact = json.loads(value or b"")
            key = (fact[unit], fact["ts_end"])
            known = found.get(key)
            assert known is None or fact["version"] > known["version"], f"told twice: {known} {fact}"
            found[key] = fact
    return {key: (fact["import_kwh"], fact["count"], fact["version"]) for key, fact in found.items()}


def expected(values: Iterable[bytes], unit: str) -> dict[tuple[str, str], Fact]:
    sums: dict[tuple[str, str], list[int]] = {}
    for value in values:
        reading = json.loads(value)
        id = place(reading["usage_point"])[unit == "feeder"]
        sums.setdefault((id, reading["ts_end"]), []).append(round(reading["value"] * 10))
    return {key: (sum(tenths) / 10, len(tenths), len(tenths) - 1) for key, tenths in sums.items()}


class Gateways:
    """Two of them, with addresses that they keep; they have no workers."""

    def __init__(self, hub_process: Any, cluster: KafkaCluster, prefix: str, directory: Path) -> None:
        self._ports = [(str(free_port()), str(free_port())) for _ in range(2)]
        self._directory = directory
        self._flags = ["--broker", cluster.url, "--broker-prefix", prefix, "--no-workers"]
        self._process = hub_process
        self.running = [self._start(number) for number in range(2)]

    def _start(self, number: int) -> Any:
        http, amqp = self._ports[number]
        data = self._directory / f"gateway{number}"
        return self._process(data, *self._flags, "--amqp-port", amqp, http_port=http)

    def restart(self, number: int) -> None:
        self.running[number] = self._start(number)

    def stop(self) -> None:
        for gateway in self.running:
            gateway.stop()


@pytest.fixture
def gateways(kafka_three: KafkaCluster, prefix: str, hub_process: Any, tmp_path: Path) -> Iterator[Gateways]:
    found = Gateways(hub_process, kafka_three, prefix, tmp_path)
    yield found
    found.stop()


def grow(loads: Iterable[Load], quarters: int = 20) -> None:
    """Every head gets that much more acknowledged."""
    wanted = [(load, len(load.acked) + quarters * PARTITIONS) for load in loads]

    def grown() -> bool:
        for load, _ in wanted:
            assert load.problem is None, load.problem
        return all(len(load.acked) >= count for load, count in wanted)

    until(grown, "acknowledgements through every head")


def falls_silent(loads: Iterable[Load]) -> bool:
    """Whether no head acknowledges anything for a while."""
    before = [len(load.acked) for load in loads]
    time.sleep(QUIET_S)
    return before == [len(load.acked) for load in loads]


def kill_workers(workers: Workers, cluster: KafkaCluster, topic: str, loads: Sequence[Load]) -> None:
    """The leader of a partition dies, then a grid worker and the one that captures; the others take over."""
    leader = cluster.leader(topic)
    leader.kill()
    grow(loads)
    for process in workers.victims():
        kill(process)
    known = len(captured(workers.lake))
    leader.start()
    workers.grid()
    until(lambda: len(captured(workers.lake)) > known, "another worker takes the table over", pause_s=0.5)
    workers.capture()
    cluster.await_ready()


def kill_gateway(gateways: Gateways, number: int, loads: Sequence[Load]) -> None:
    """Its clients go to the other one."""
    gateways.running[number].kill()
    grow(loads)
    gateways.restart(number)


def kill_two_brokers(cluster: KafkaCluster, number: int, loads: Sequence[Load]) -> None:
    """One broker of three cannot acknowledge, whatever the head."""
    two = [node for node in cluster.nodes if node is not cluster.nodes[number]]
    for node in two:
        node.kill()
    until(lambda: falls_silent(loads), "one broker of three does not acknowledge", pause_s=0)
    for node in two:
        node.start()
    grow(loads)
    cluster.await_ready()


def test_whatever_dies_under_load_from_every_head(
    kafka_three: KafkaCluster, prefix: str, workers: Workers, gateways: Gateways, tell: Callable[..., None]
) -> None:
    clock, hub = Clock(), "readings"
    kafka = KafkaLoad(clock, points("kafka"), PARTITIONS, kafka_three.bootstrap, prefix + hub)
    http = HttpLoad(clock, points("http"), PARTITIONS, [each.http for each in gateways.running], hub)
    amqp = AmqpLoad(clock, points("amqp"), PARTITIONS, [each.amqp for each in gateways.running], hub)
    loads = [load.start() for load in (kafka, http, amqp)]
    workers.grid(), workers.grid(), workers.capture()
    until(lambda: len(captured(workers.lake)) > 0, "first rows of the lake", pause_s=0.5)
    workers.capture()
    for number in range(ROUNDS):
        kill_workers(workers, kafka_three, prefix + hub, loads)
        kill_gateway(gateways, number % 2, loads)
        kill_two_brokers(kafka_three, number % 3, loads)
    acked = [value for load in loads for value in load.end()]
    unanswered = http.unanswered + amqp.unanswered
    assert http.unanswered, "its gateway did not die"
    assert amqp.unanswered, "its gateway did not die"

    stored = [committed_values(kafka_three.bootstrap, prefix + hub, p) for p in range(PARTITIONS)]
    values = [value or b"" for each in stored for value in each]
    assert len(values) == len(set(values)), "each once"
    lost = set(acked) - set(values)
    tell("cluster under load", rounds=ROUNDS, acknowledged=len(acked), unanswered=unanswered, lost=len(lost))
    assert not lost
    assert len(values) <= len(acked) + unanswered
    check_effects(kafka_three, prefix, workers, stored)


def check_effects(
    cluster: KafkaCluster, prefix: str, workers: Workers, stored: Sequence[Sequence[bytes | None]]
) -> None:
    """Each reading of the hub is in the lake once, and in the facts once."""
    values = [value or b"" for each in stored for value in each]
    offsets = Counter((p, offset) for p, each in enumerate(stored) for offset in range(len(each)))
    until(lambda: sum(captured(workers.lake).values()) >= len(values), "the lake has all", pause_s=0.5)
    assert captured(workers.lake) == offsets
    for unit in ("transformer", "feeder"):
        wanted = expected(values, unit)
        until(lambda unit=unit, wanted=wanted: facts(cluster, prefix, unit) == wanted, f"facts of {unit}s", pause_s=1)  # type: ignore[misc]
    assert committed_values(cluster.bootstrap, prefix + "quarantine", 0) == []


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
