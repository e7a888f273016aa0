"""How many events a second come out of Apache Kafka as columns, beside what a per-message client reaches?

    python bench/kafka_columnar.py [--quick] [--rounds N]

A real Kafka of one node, as it comes, holds events of 100 B with a key of 8 B in one partition, uncompressed. Two
readers take turns, each from the first event, both reading committed data:

    columns     a worker's source: raw batches from the leader, CRC checked, decoded by the kernel
    confluent   confluent-kafka consume(10,000): offset, timestamp, key and value of each message

The clock runs from the first poll after the place was assigned to the last event. The slow one reads a part; a rate
does not depend on how many. Needs Java and Maven. The last line is JSON.
"""

from __future__ import annotations

import argparse
import time
import uuid
from typing import Final

import confluent_kafka as ck

import support
from gridwire.broker.kafka_address import KafkaAddress
from gridwire.broker.kafka_source import KafkaSource
from kafka_client import make_topics
from kafka_peer import Kafka, PeerUnavailable

TOPIC: Final = "events"
VALUE_BYTES: Final = 100
RATIO_GOAL: Final = 10.0
WHAT: Final = "Kafka to columns, one worker, events/s"


def fill(address: str, count: int) -> None:
    producer = ck.Producer(
        {"bootstrap.servers": address, "linger.ms": 50, "batch.size": 1_000_000, "acks": "all",
         "queue.buffering.max.messages": 1_000_000, "queue.buffering.max.kbytes": 1_000_000}
    )  # fmt: skip
    value = bytes(VALUE_BYTES)
    for number in range(count):
        while True:
            try:
                producer.produce(TOPIC, value, b"%08d" % (number % 100_000_000), partition=0)
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(300):
        raise SystemExit("not everything was acknowledged")


def read_columns(address: str, count: int) -> float:
    """Events a second."""
    source = KafkaSource(KafkaAddress.parse(f"kafka://{address}"), uuid.uuid4().hex, [TOPIC])
    while not source.assigned():
        source.poll(0.1)
    seen, total, begun_s = 0, 0, time.perf_counter()
    while seen < count:
        for batch in source.poll(1.0):
            seen += len(batch.columns)
            total += int(batch.columns.value_lengths.sum())
    seconds = time.perf_counter() - begun_s
    source.close()
    if (seen, total) != (count, count * VALUE_BYTES):
        raise SystemExit(f"{seen} events of {total} bytes are not the {count} that were sent")
    return seen / seconds


def read_messages(address: str, count: int) -> float:
    """Events a second."""
    consumer = ck.Consumer(
        {"bootstrap.servers": address, "group.id": uuid.uuid4().hex, "isolation.level": "read_committed",
         "enable.auto.commit": False, "fetch.message.max.bytes": 8 * 1024 * 1024}
    )  # fmt: skip
    consumer.assign([ck.TopicPartition(TOPIC, 0, 0)])
    seen, total, begun_s = len(consumer.consume(1, 30)), VALUE_BYTES, time.perf_counter()
    while seen < count:
        for message in consumer.consume(min(10_000, count - seen), 1):
            message.offset(), message.timestamp(), message.key()
            total += len(message.value())
            seen += 1
    seconds = time.perf_counter() - begun_s
    consumer.close()
    if total != count * VALUE_BYTES:
        raise SystemExit(f"{total} bytes were read of {count} events")
    return seen / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    options = parser.parse_args()
    count = 1_000_000 if options.quick else 6_000_000
    rounds = options.rounds or (3 if options.quick else 5)
    about = support.heading("kafka_columnar", events=count, rounds=rounds)
    try:
        with support.scratch("kafka") as directory:
            server = Kafka(directory)
            try:
                make_topics(server.kafka, TOPIC, 1)
                fill(server.kafka, count)
                part = count // 5
                readers = {
                    "columns": lambda: read_columns(server.kafka, count),
                    "confluent": lambda: read_messages(server.kafka, part),
                }
                for reader in readers.values():
                    reader()
                rates = support.interleave(readers, rounds, support.settle)
            finally:
                server.stop()
        rows = [support.row(WHAT, rates["columns"], "confluent client", rates["confluent"], goal_ratio=RATIO_GOAL)]
    except PeerUnavailable as reason:
        rows = [support.no_row(WHAT, str(reason))]
    for name, values in (rates if "ours" in rows[0] else {}).items():
        print(f"{name:10} {support.spread_text(support.Spread.of(values))} events/s")
    support.print_result(about | {"rows": rows})


if __name__ == "__main__":
    main()
