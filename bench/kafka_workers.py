"""What does a readings pipeline reach on Apache Kafka, with one worker and with two, beside the embedded hub?

    python bench/kafka_workers.py [--quick] [--rounds N]

A synthetic low-voltage utility (50 usage points to a transformer, one feeder under each) has sent its quarter hours,
keyed by transformer, into 8 partitions of both brokers: a hub of ours with fsync, and a real Kafka of one node as it
comes. The same program, `gridwire worker grid`, then makes transformer and feeder facts of them:

    embedded    one worker, on the hub
    kafka 1     one worker, a member of its group
    kafka 2     two workers, which share the partitions

Each round begins anew (a prefix, or a hub, of its own). Workers wait for the network model, which is sent when all run;
the clock starts with the first commit, which tells the model in every partition. Everybody has the same cores: brokers,
workers and this program.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import confluent_kafka as ck
import numpy as np
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

import support
from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint, to_json
from kafka_peer import Kafka, PeerUnavailable
from support import Hub

FIRST: Final = 1_451_606_400  # 2016-01-01T00:00Z
PARTITIONS: Final = 8
POINTS_PER_TRANSFORMER: Final = 50
GROUP: Final = "grid.loads"
TOPICS: Final = {"readings": PARTITIONS, "grid.network": 1, "grid.transformers": 2, "grid.feeders": 2, "quarantine": 1}
WAIT_S: Final = 600.0
START_S: Final = 8.0
"""Until a worker process has imported and looked for a model."""

MODEL_BYTES_MAX: Final = 32 * 1024 * 1024
"""A network model is one event."""


def utility(points: int) -> Network:
    numbers = range(points // POINTS_PER_TRANSFORMER)
    return Network(
        name="bench",
        transformers=tuple(Transformer(id=f"T{n:05d}", rated_kva=400.0) for n in numbers),
        feeders=tuple(Feeder(id=f"F{n:05d}", transformer=f"T{n:05d}") for n in numbers),
        usage_points=tuple(
            UsagePoint(id=f"UP{n:08d}", transformer=f"T{t:05d}", feeder=f"F{t:05d}")
            for n in range(points)
            for t in [n // POINTS_PER_TRANSFORMER]
        ),
    )


def send(address: str, prefix: str, points: int, intervals: int) -> int:
    """The model and all readings; returns how many."""
    producer = ck.Producer(
        {"bootstrap.servers": address, "linger.ms": 20, "batch.size": 1_000_000, "acks": "all",
         "message.max.bytes": MODEL_BYTES_MAX,
         "queue.buffering.max.messages": 2_000_000, "queue.buffering.max.kbytes": 1_000_000}
    )  # fmt: skip
    amounts = np.random.default_rng(1)
    for interval in range(1, intervals + 1):
        ts_end = datetime.fromtimestamp(FIRST + interval * 900, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for point, amount in enumerate(amounts.integers(0, 1_500, points).tolist()):
            value = (
                f'{{"usage_point":"UP{point:08d}","ts_end":"{ts_end}","interval_s":900,'
                f'"reading_type":"import_kwh","value":{amount / 1000}}}'
            )
            transformer = point // POINTS_PER_TRANSFORMER
            producer.produce(prefix + "readings", value, b"T%05d" % transformer, partition=transformer % PARTITIONS)
        if producer.flush(120):
            raise SystemExit("not everything was sent")
    return points * intervals


def send_model(address: str, prefix: str, points: int) -> None:
    producer = ck.Producer({"bootstrap.servers": address, "message.max.bytes": MODEL_BYTES_MAX})
    producer.produce(prefix + "grid.network", to_json(utility(points)), partition=0)
    if producer.flush(60):
        raise SystemExit("the model was not sent")


def committed(consumer: Any, prefix: str) -> int:
    """Readings committed, -1 before every partition has a commit."""
    parts = [ck.TopicPartition(prefix + "readings", number) for number in range(PARTITIONS)]
    try:
        offsets = [part.offset for part in consumer.committed(parts, timeout=10)]
    except ck.KafkaException:
        return -1
    return sum(offsets) if min(offsets) >= 0 else -1


@contextlib.contextmanager
def running(commands: list[list[str]], directory: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    with (directory / "workers.log").open("ab") as log:
        base = [sys.executable, "-m", "gridwire", "worker", "grid"]
        workers = [
            subprocess.Popen([*base, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            for command in commands
        ]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def rate(address: str, prefix: str, points: int, count: int, commands: list[list[str]], directory: Path) -> float:
    """Readings a second that one or more workers commit."""
    consumer = ck.Consumer({"bootstrap.servers": address, "group.id": prefix + GROUP})
    with running(commands, directory) as workers:
        time.sleep(START_S)
        send_model(address, prefix, points)
        begun: tuple[int, float] | None = None
        deadline_s = time.perf_counter() + WAIT_S
        while time.perf_counter() < deadline_s and all(worker.poll() is None for worker in workers):
            now = committed(consumer, prefix)
            if begun is None and now >= 0:
                begun = (now, time.perf_counter())
            if begun is not None and now >= count:
                consumer.close()
                return (count - begun[0]) / (time.perf_counter() - begun[1])
            time.sleep(0.01)
    raise SystemExit(f"not done: {(directory / 'workers.log').read_text(errors='replace')[-2000:]}")


def on_kafka(server: Kafka, points: int, intervals: int, workers: int) -> float:
    prefix = f"b{uuid.uuid4().hex[:8]}."
    admin: Any = AdminClient({"bootstrap.servers": server.kafka})
    config = {"max.message.bytes": str(MODEL_BYTES_MAX)}
    topics = [NewTopic(prefix + name, n, 1, config=config) for name, n in TOPICS.items()]
    for made in admin.create_topics(topics).values():
        made.result(60)
    count = send(server.kafka, prefix, points, intervals)
    with support.scratch("workers") as directory:
        options = ["--broker", f"kafka://{server.kafka}", "--broker-prefix", prefix, "--data"]
        commands = [[*options, str(directory / str(number))] for number in range(workers)]
        return rate(server.kafka, prefix, points, count, commands, directory)


def on_hub(points: int, intervals: int) -> float:
    with support.scratch("hub") as directory:
        hub = Hub(directory, "--no-workers")
        try:
            for name, partitions in TOPICS.items():
                hub.request("POST", "/v1/hubs", {"name": name, "partitions": partitions})
            count = send(hub.kafka, "", points, intervals)
            return rate(hub.kafka, "", points, count, [["--data", str(directory / "data")]], directory)
        finally:
            hub.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    options = parser.parse_args()
    points, intervals = (20_000, 60) if options.quick else (50_000, 80)
    rounds = options.rounds or 3
    about = support.heading("kafka_workers", readings=points * intervals, rounds=rounds)
    try:
        with support.scratch("kafka") as directory:
            server = Kafka(directory)
            try:
                contenders = {
                    "embedded": lambda: on_hub(points, intervals),
                    "kafka 1": lambda: on_kafka(server, points, intervals, 1),
                    "kafka 2": lambda: on_kafka(server, points, intervals, 2),
                }
                rates = support.interleave(contenders, rounds, support.settle)
            finally:
                server.stop()
    except PeerUnavailable as reason:
        support.print_result(about | {"rows": [support.no_row("readings on Kafka", str(reason))]})
        return
    for name, values in rates.items():
        print(f"{name:10} {support.spread_text(support.Spread.of(values))} readings/s")
    rows = [
        support.row("readings on Kafka, one worker, /s", rates["kafka 1"], "embedded hub", rates["embedded"]),
        support.row("readings on Kafka, two workers, /s", rates["kafka 2"], "one worker", rates["kafka 1"]),
    ]
    support.print_result(about | {"rows": rows})


if __name__ == "__main__":
    main()
