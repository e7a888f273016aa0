"""How many events a second leave the log as columns, on one core, beside what a per-message client reaches?

    python bench/columnar_read.py [--quick] [--rounds N] [--no-hub]

A hub that runs as its own process is filled through an unmodified Kafka client: events of 100 B with a key of 8 B, one
partition, uncompressed. Readers then take turns, each reading from the first event:

    spans       the segment files, mapped, to offset, timestamp, key, value and header spans
    arrow       the same, copied into Arrow record batches
    confluent   confluent-kafka consume(10,000) over loopback: offset, timestamp, key and value of each message
    aiokafka    aiokafka's compiled record parser over the same bytes in memory, the same four fields
    slow path   core.batch.decode over the same bytes

and, over 130 B readings as JSON in memory:

    columns     JsonDecoder, all five fields typed, exact decimals, timestamps as int64
    + ids       the same and the usage point looked up among 20,000
    msgspec     a typed msgspec decoder, one call a value (timestamps parsed, decimals as float)
    orjson      orjson.loads, one call a value, nothing typed

Slow readers read a part; a rate does not depend on how many. A round of each comes before the clock runs, and a few
gigabytes of memory are touched first. CPU is that of the reading thread, so that a busy machine shows; a busy machine
also slows confluent more than the rest, because it works in three threads and a second process. Absolute figures are
of this machine and moment; the ratios are the result. `--no-hub` leaves confluent out and writes the
segment itself. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
from aiokafka.record.memory_records import MemoryRecords

from gridwire.columnar.arrow import to_arrow
from gridwire.columnar.decode import Decoded, as_bytes
from gridwire.columnar.encode import encode_batch
from gridwire.columnar.json_columns import JsonDecoder, JsonField
from gridwire.columnar.reader import SegmentReader, SegmentSpan
from gridwire.columnar.text_index import TextIndex
from gridwire.core import batch

VALUE_BYTES = 100
BATCH_EVENTS = 8_000
POLL_EVENTS = 250_000
POINTS = 20_000
Reader = Callable[[], int]


def touch_memory(gigabytes: float) -> None:
    """Make the machine hand out its memory before the clock runs."""
    np.ones(int(gigabytes * 2**27), np.int64)


class Hub:
    """`gridwire up` as a process, without workers."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-m", "gridwire", "up", "--data", str(directory), "--kafka-port", "0"]
        command += ["--amqp-port", "off"]
        command += ["--http-port", "0", "--no-workers", "--durability", "os"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("kafka "):
                self.address = line.split()[1]
                break
        else:
            raise RuntimeError("the hub did not start")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def produce(address: str, n: int) -> None:
    import confluent_kafka as ck
    from confluent_kafka.admin import AdminClient, NewTopic

    settings = {"bootstrap.servers": address}
    admin = AdminClient(settings)
    for future in admin.create_topics([NewTopic("bench", 1)]).values():
        future.result(30)
    producer = ck.Producer(
        settings | {"linger.ms": 100, "batch.size": 1_000_000, "batch.num.messages": BATCH_EVENTS,
                    "queue.buffering.max.messages": 2_000_000, "queue.buffering.max.kbytes": 2_000_000}
    )  # fmt: skip
    value = b"x" * VALUE_BYTES
    for row in range(n):
        producer.produce("bench", value, b"%08d" % row)
        if row % 100_000 == 0:
            producer.poll(0)
    if producer.flush(120):
        raise RuntimeError("not everything was acknowledged")


def write_segment(path: Path, n: int) -> None:
    with path.open("wb") as file:
        for first in range(0, n, BATCH_EVENTS):
            rows = range(first, min(first + BATCH_EVENTS, n))
            values, keys = [b"x" * VALUE_BYTES] * len(rows), [b"%08d" % row for row in rows]
            file.write(encode_batch(values, keys, 1_700_000_000_000, base_offset=first))


def spans_of(directory: Path) -> list[SegmentSpan]:
    """The partition's segments up to their last whole batch."""
    spans = []
    for path in sorted(directory.glob("hubs/**/*.log")):
        data = path.read_bytes()
        end = 0
        while end + 12 <= len(data) and int.from_bytes(data[end + 8 : end + 12], "big") > 0:
            end += 12 + int.from_bytes(data[end + 8 : end + 12], "big")
        spans.append(SegmentSpan(str(path), int(path.stem), 0, end))
    return [span for span in spans if span.end]


def decoded(reader: SegmentReader, spans: list[SegmentSpan]) -> Any:
    """Every part of every span, a poll at a time."""
    offset = 0
    for span in spans:
        position = span.start
        while position < span.end:
            part: Decoded = reader.read(
                SegmentSpan(span.path, span.base_offset, position, span.end), from_offset=offset, events_max=POLL_EVENTS
            )
            position, offset = part.next_position, part.next_offset
            yield from part.columns


def read_spans(reader: SegmentReader, spans: list[SegmentSpan]) -> int:
    return sum(len(columns) for columns in decoded(reader, spans))


def read_arrow(reader: SegmentReader, spans: list[SegmentSpan]) -> int:
    return sum(to_arrow(columns).num_rows for columns in decoded(reader, spans))


def read_confluent(address: str, n: int) -> int:
    import confluent_kafka as ck

    consumer = ck.Consumer(
        {"bootstrap.servers": address, "group.id": "bench", "enable.auto.commit": False,
         "queued.max.messages.kbytes": 262_144, "fetch.max.bytes": 52_428_800, "max.partition.fetch.bytes": 16_777_216,
         # By default the client stops fetching for a second each time 100,000 messages wait: not what is asked here.
         "queued.min.messages": 1_000_000, "fetch.queue.backoff.ms": 1}
    )  # fmt: skip
    consumer.assign([ck.TopicPartition("bench", 0, 0)])
    seen = 0
    while seen < n:
        for message in consumer.consume(10_000, 5):
            message.offset(), message.timestamp(), message.key(), message.value()
            seen += 1
    consumer.close()
    return seen


def read_aiokafka(data: bytes) -> int:
    seen = 0
    records = MemoryRecords(data)
    while (part := records.next_batch()) is not None:
        for record in part:
            record.offset, record.timestamp, record.key, record.value  # noqa: B018
            seen += 1
    return seen


def read_slowly(data: bytes) -> int:
    return sum(1 for position, _ in batch.iter_headers(data) for _ in batch.decode(data, position))


class Reading(msgspec.Struct):
    """What the peer decodes a reading to."""

    usage_point: str
    ts_end: str
    interval_s: int
    reading_type: str
    value: float


class Readings:
    """n readings as JSON, one after the other as in a segment."""

    def __init__(self, n: int) -> None:
        rng = random.Random(1)
        rows = [
            b'{"usage_point":"LV1.101 Load %d","ts_end":"2016-01-%02dT%02d:%02d:00Z","interval_s":900,'
            b'"reading_type":"import_kwh","value":%.3f}'
            % (rng.randrange(POINTS), 1 + i // 384_000 % 28, i // 16_000 % 24, i // 4_000 % 4 * 15, rng.random() * 3)
            for i in range(n)
        ]
        self.rows = rows
        self.lengths = np.array([len(row) for row in rows], np.int32)
        self.starts = np.cumsum(self.lengths, dtype=np.int64) - self.lengths
        self.data = as_bytes(b"".join(rows))
        self.decoder = JsonDecoder(
            [
                JsonField("usage_point", "text", True),
                JsonField("ts_end", "timestamp_us", True),
                JsonField("interval_s", "int64"),
                JsonField("reading_type", "text", True),
                JsonField("value", "decimal", True),
            ]
        )
        self.index = TextIndex([f"LV1.101 Load {number}" for number in range(POINTS)])

    def columns(self, ids: bool) -> int:
        for first in range(0, len(self.rows), POLL_EVENTS):
            part = slice(first, first + POLL_EVENTS)
            found = self.decoder.decode_spans(self.data, self.starts[part], self.lengths[part])
            assert found.flawed == 0
            if ids:
                assert self.index.lookup(found.data, *found.text("usage_point")).min() >= 0
        return len(self.rows)

    def msgspec(self, n: int) -> int:
        import datetime

        decode, parse = msgspec.json.Decoder(Reading).decode, datetime.datetime.fromisoformat
        for row in self.rows[:n]:
            parse(decode(row).ts_end)
        return n

    def orjson(self, n: int) -> int:
        for row in self.rows[:n]:
            orjson.loads(row)
        return n


def measure(readers: dict[str, Reader], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Rates of wall clock and of this thread's CPU, events a second, one round of each reader after the other."""
    for read in readers.values():
        read()
    rates: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in readers}
    for _ in range(rounds):
        for name, read in readers.items():
            wall, cpu = time.perf_counter(), time.thread_time()
            n = read()
            rates[name]["wall"].append(n / (time.perf_counter() - wall))
            rates[name]["cpu"].append(n / (time.thread_time() - cpu))
    return rates


def report(title: str, rates: dict[str, dict[str, list[float]]], against: str) -> None:
    base = statistics.median(rates[against]["wall"])
    print(f"\n{title}\n{'':12}{'min':>9}{'median':>9}{'max':>9}  M/s   CPU median   x {against}")
    for name, found in rates.items():
        wall = found["wall"]
        print(
            f"{name:12}{min(wall) / 1e6:9.2f}{statistics.median(wall) / 1e6:9.2f}{max(wall) / 1e6:9.2f}"
            f"{statistics.median(found['cpu']) / 1e6:19.2f}{statistics.median(wall) / base:10.1f}"
        )


def machine() -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    version, name = platform.python_version(), commit.stdout.strip() or "-"
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {version}, commit {name}, {load}"


def event_readers(spans: list[SegmentSpan], address: str | None, part: int) -> dict[str, Reader]:
    data = b"".join(Path(span.path).read_bytes()[: span.end] for span in spans)
    few = _first(data, part)
    readers: dict[str, Reader] = {
        "spans": lambda: read_spans(SegmentReader(), spans),  # mapped anew: page faults are part of the work
        "arrow": lambda: read_arrow(SegmentReader(), spans),
        "aiokafka": lambda: read_aiokafka(data),
        "slow path": lambda: read_slowly(few),
    }
    if address is not None:
        readers["confluent"] = lambda: read_confluent(address, 5 * part)
    return readers


def _first(data: bytes, events: int) -> bytes:
    """Whole batches with about so many events."""
    end = 0
    for position, header in batch.iter_headers(data):
        end = position + header.size
        if header.next_offset >= events:
            break
    return data[:end]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer events and rounds")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--no-hub", action="store_true")
    options = parser.parse_args()
    n, readings, rounds = (500_000, 200_000, 3) if options.quick else (3_000_000, 1_000_000, 5)
    rounds = options.rounds or rounds
    print(machine())
    touch_memory(1 if options.quick else 3)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        directory, address = Path(scratch), None
        if options.no_hub:
            (directory / "hubs").mkdir()
            write_segment(directory / "hubs" / "0.log", n)
        else:
            hub = Hub(directory / "data")
            stack.callback(hub.stop)
            address, directory = hub.address, directory / "data"
            produce(address, n)
        spans = spans_of(directory)
        readers = event_readers(spans, address, n // 20)
        assert readers["spans"]() == readers["arrow"]() == n
        events = measure(readers, rounds)
    source = Readings(readings)
    values = measure(
        {
            "columns": lambda: source.columns(False),
            "+ ids": lambda: source.columns(True),
            "msgspec": lambda: source.msgspec(readings // 5),
            "orjson": lambda: source.orjson(readings // 5),
        },
        rounds,
    )
    peer = "confluent" if address else "aiokafka"
    report(f"events of {VALUE_BYTES} B from the log, n = {n:,}, {rounds} rounds", events, peer)
    report(f"readings as JSON of {source.lengths.mean():.0f} B, n = {readings:,}, {rounds} rounds", values, "msgspec")
    medians = {name: round(statistics.median(found["wall"])) for name, found in (events | values).items()}
    result = {"bench": "columnar_read", "n": n, "readings": readings, "rounds": rounds, "events_per_s": medians}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
