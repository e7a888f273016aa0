"""How many readings a second go from JSON events in the log to committed transformer sums, on one core?

    python bench/readings_pipeline.py [--quick] [--rounds N]

A synthetic utility of 50,000 usage points (50 to a transformer, 10 transformers to a feeder) sends 40 quarter hours
through an unmodified Kafka client, keyed by transformer, to a hub that runs as its own process with fsync. Two readers
of the same hub then take turns:

    gridwire   the loads worker: columns, validation, state, facts, position and facts committed together
    peer       the same work as a plain Python loop: confluent-kafka messages, orjson, dictionaries, facts produced,
               offsets committed (not atomically: a plain consumer cannot)

Each round reads everything from the first event, with a group of its own. The clock runs from the first poll to the
answer to the last commit. The peer reads a part of the events, its rate does not depend on how many. Absolute figures
are of this machine and moment; the ratio is the result. CPU is that of the reading process only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import numpy as np
import orjson

from gridwire.broker.local import LocalSource
from gridwire.broker.port import ColumnBatch, Output, Place
from gridwire.grid import worker
from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint, to_json

FIRST = 1_451_606_400  # 2016-01-01T00:00Z
INTERVAL_S = 900
PARTITIONS = 8
POINTS_PER_TRANSFORMER = 50
TRANSFORMERS_PER_FEEDER = 10
PEER_COMMIT_MESSAGES = 100_000


def utility(points: int) -> Network:
    transformers = points // POINTS_PER_TRANSFORMER
    feeders = -(-transformers // TRANSFORMERS_PER_FEEDER)
    return Network(
        name="bench",
        interval_s=INTERVAL_S,
        transformers=tuple(Transformer(id=f"T{i:05d}", rated_kva=400.0) for i in range(transformers)),
        feeders=tuple(Feeder(id=f"F{i:04d}") for i in range(feeders)),
        usage_points=tuple(
            UsagePoint(id=f"UP{i:08d}", transformer=f"T{t:05d}", feeder=f"F{t // TRANSFORMERS_PER_FEEDER:04d}")
            for i in range(points)
            for t in [i // POINTS_PER_TRANSFORMER]
        ),
    )


class Hub:
    """`gridwire up` as a process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = (directory.parent / "hub.log").open("wb")
        command = [sys.executable, "-m", "gridwire", "up", "--data", str(directory), "--kafka-port", "0"]
        command += ["--amqp-port", "off"]
        command += ["--http-port", "0", "--no-workers"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, cwd=directory.parent)
        self.endpoints: dict[str, str] = {}
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            name, _, address = raw.decode().strip().partition(" ")
            self.endpoints[name] = address
            if {"ready", "kafka", "http"} <= self.endpoints.keys():
                break
        else:
            raise SystemExit(f"the hub did not start, see {self.log.name}")

    def create(self, name: str, partitions: int) -> None:
        self.post("/v1/hubs", json.dumps({"name": name, "partitions": partitions}).encode())

    def post(self, path: str, body: bytes) -> None:
        request = urllib.request.Request(self.endpoints["http"] + path, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.log.close()


def send(bootstrap: str, points: int, intervals: int) -> tuple[dict[tuple[str, str], int], int]:
    """Send everything; returns watt-hours by (transformer, ts_end) and the bytes of all values."""
    producer = ck.Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 20, "batch.size": 1_000_000, "partitioner": "murmur2_random",
         "queue.buffering.max.messages": 2_000_000, "queue.buffering.max.kbytes": 1_000_000}
    )  # fmt: skip
    rng = np.random.default_rng(1)
    keys = [f"T{i // POINTS_PER_TRANSFORMER:05d}".encode() for i in range(points)]
    heads = [b'{"usage_point":"UP%08d","ts_end":"' % i for i in range(points)]
    sums: dict[tuple[str, str], int] = {}
    size = 0
    for interval in range(1, intervals + 1):
        ts_end = datetime.fromtimestamp(FIRST + interval * INTERVAL_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        middle = ts_end.encode() + b'","interval_s":900,"reading_type":"import_kwh","value":'
        amounts = rng.integers(0, 1_500, points)
        for transformer, total in enumerate(amounts.reshape(-1, POINTS_PER_TRANSFORMER).sum(axis=1).tolist()):
            sums[f"T{transformer:05d}", ts_end] = total
        for head, key, amount in zip(heads, keys, amounts.tolist(), strict=True):
            value = b"%b%b%d.%03d}" % (head, middle, amount // 1000, amount % 1000)
            producer.produce("readings", value, key)
            size += len(value)
        producer.poll(0)
        producer.flush() if interval % 10 == 0 else None
    if producer.flush(120):
        raise SystemExit("not everything was sent")
    return sums, size


class Timed(LocalSource):
    """The worker's source, with the time of the first poll for readings and of the last commit."""

    begun_s = ended_s = begun_cpu_s = ended_cpu_s = 0.0
    hub_s = 0.0
    expected = 0
    stop: threading.Event
    facts: list[bytes]

    def poll(self, timeout_s: float, bytes_max: int = 32 * 1024 * 1024) -> list[ColumnBatch]:
        if not type(self).begun_s and ("readings", 0) in self.positions():
            type(self).begun_s, type(self).begun_cpu_s = time.perf_counter(), time.process_time()
        return super().poll(timeout_s, bytes_max)

    def commit(self, positions: Mapping[Place, int], outputs: Sequence[Output] = (), note: str = "") -> None:
        begun_s = time.perf_counter()
        super().commit(positions, outputs, note)
        cls = type(self)
        cls.ended_s, cls.ended_cpu_s = time.perf_counter(), time.process_time()
        cls.hub_s += cls.ended_s - begun_s
        cls.facts += [e.value or b"" for output in outputs if output.hub == "grid.transformers" for e in output.events]
        if sum(offset for (hub, _), offset in positions.items() if hub == "readings") >= cls.expected:
            cls.stop.set()


def run_worker(data: Path, group: str, count: int, sums: dict[tuple[str, str], int]) -> dict[str, float]:
    class Round(Timed):
        expected = count
        stop = threading.Event()
        facts: list[bytes] = []  # noqa: RUF012

    metrics: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as work:
        opened = partial(_open, Round, data)
        worker.run(opened, work, Round.stop, worker.WorkerSettings(group=group, snapshot_s=1e9), metrics=metrics)
    told = {(fact["transformer"], fact["ts_end"]): fact for fact in map(orjson.loads, Round.facts)}
    wrong = [key for key, total in sums.items() if key not in told or round(told[key]["import_kwh"] * 1000) != total]
    if wrong or metrics["readings_new"] != count:
        raise SystemExit(f"{len(wrong)} sums are wrong, {metrics['readings_new']} of {count} readings summed")
    seconds = Round.ended_s - Round.begun_s
    return {
        "readings_s": count / seconds,
        "readings_cpu_s": count / (Round.ended_cpu_s - Round.begun_cpu_s),
        "commit_share": Round.hub_s / seconds,
        "commits": metrics["commits"],
        "facts": metrics["facts"],
    }


def _open(kind: type[Timed], data: Path, group: str, hubs: list[str], follow: list[str]) -> Timed:
    return kind(data, group, hubs, follow=follow)


class Peer:
    """The same work, message by message."""

    def __init__(self, network: Network) -> None:
        self.transformer = {point.id: point.transformer for point in network.usage_points}
        self.feeder = {point.id: point.feeder for point in network.usage_points}
        self.cells: dict[tuple[str, str], float] = {}
        self.sums: dict[tuple[str, str], list[float]] = {}
        self.touched: set[tuple[str, str]] = set()
        self.rejected: list[bytes] = []

    def take(self, value: bytes, timestamp_ms: int) -> None:
        try:
            reading = orjson.loads(value)
            point, ts_end, amount = reading["usage_point"], reading["ts_end"], reading["value"]
            end_s = datetime.fromisoformat(ts_end).timestamp()
            good = (
                point in self.transformer and reading["reading_type"] == "import_kwh"
                and reading["interval_s"] == INTERVAL_S and end_s % INTERVAL_S == 0
                and 0 <= amount < 1000 and end_s * 1000 <= timestamp_ms + 3_600_000
            )  # fmt: skip
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            self.rejected.append(value)
            return
        old = self.cells.get((point, ts_end))
        self.cells[point, ts_end] = amount
        for unit in (self.transformer[point], self.feeder[point]):
            key = (unit, ts_end)
            entry = self.sums.setdefault(key, [0.0, 0, 0.0])
            entry[0] += amount - (old or 0.0)
            entry[1] += old is None
            entry[2] = max(entry[2], amount)
            self.touched.add(key)

    def facts(self) -> list[tuple[str, bytes, bytes]]:
        out = []
        for unit, ts_end in self.touched:
            total, count, largest = self.sums[unit, ts_end]
            hub = "grid.transformers" if unit[0] == "T" else "grid.feeders"
            fact = {"unit": unit, "ts_end": ts_end, "import_kwh": total, "count": count, "max_kw": largest * 4}
            out.append((hub, unit.encode(), orjson.dumps(fact)))
        self.touched.clear()
        return out


def run_peer(bootstrap: str, group: str, network: Network, count: int) -> dict[str, float]:
    consumer = ck.Consumer(
        {"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest",
         "enable.auto.commit": False, "fetch.min.bytes": 100_000, "queued.max.messages.kbytes": 200_000,
         # By default the client stops fetching for a second each time 100,000 messages wait: not what is asked here.
         "queued.min.messages": 1_000_000, "fetch.queue.backoff.ms": 1}
    )  # fmt: skip
    producer = ck.Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000})
    consumer.subscribe(["readings"])
    messages = consumer.consume(1, timeout=30)  # joining the group is not part of the work
    peer, done, due = Peer(network), 0, PEER_COMMIT_MESSAGES
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    while done < count:
        for message in messages:
            peer.take(message.value(), message.timestamp()[1])
        done += len(messages)
        if done >= due or done >= count:
            for hub, key, value in peer.facts():
                producer.produce(hub, value, key)
            producer.flush(60)
            consumer.commit(asynchronous=False)
            due += PEER_COMMIT_MESSAGES
        messages = consumer.consume(10_000, timeout=10) if done < count else []
    seconds, cpu_s = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
    consumer.close()
    return {"readings_s": done / seconds, "readings_cpu_s": done / cpu_s}


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    system = f"{platform.system()} {platform.release()}"
    return f"{model}, {os.cpu_count()} CPUs, {system}, Python {platform.python_version()}"


def commit_id() -> str:
    root = Path(__file__).parent
    command = ["git", "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "uncommitted"


def spread(name: str, rows: list[dict[str, float]], field: str) -> dict[str, float]:
    values = [row[field] for row in rows]
    out = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    shown = "  ".join(f"{label} {value:>12,.0f}" for label, value in out.items())
    print(f"{name:<28} n={len(values)}  {shown}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the readings, two rounds")
    parser.add_argument("--rounds", type=int, default=0)
    options = parser.parse_args()
    points, intervals, rounds = (10_000, 20, 2) if options.quick else (50_000, 40, 3)
    rounds = options.rounds or rounds
    count, peer_count = points * intervals, min(points * intervals, 100_000 if options.quick else 400_000)
    network = utility(points)
    home = Path(tempfile.mkdtemp(prefix="readings-pipeline-"))
    hub = Hub(home / "data")
    try:
        for name in ("readings", "grid.transformers", "grid.feeders", "quarantine"):
            hub.create(name, PARTITIONS)
        hub.create("grid.network", 1)
        hub.post("/v1/hubs/grid.network/events", to_json(network))
        begun_s = time.perf_counter()
        sums, size = send(hub.endpoints["kafka"], points, intervals)
        print(f"machine {machine()}\ncommit  {commit_id()}")
        took_s = time.perf_counter() - begun_s
        rate = count / took_s
        print(f"sent    {count:,} readings, {size / count:.0f} bytes each, {rate:,.0f}/s through a Kafka client")
        run_worker(hub.directory, "warm-up", count, sums)  # compiles, touches memory
        ours, theirs = [], []
        for number in range(rounds):
            ours.append(run_worker(hub.directory, f"loads-{number}", count, sums))
            theirs.append(run_peer(hub.endpoints["kafka"], f"peer-{number}", network, peer_count))
        report(ours, theirs, count, size / count)
    finally:
        hub.stop()
        shutil.rmtree(home, ignore_errors=True)


def report(ours: list[dict[str, float]], theirs: list[dict[str, float]], count: int, value_bytes: float) -> None:
    result: dict[str, Any] = {"bench": "readings_pipeline", "machine": machine(), "commit": commit_id()}
    result |= {"readings": count, "value_bytes": round(value_bytes), "rounds": len(ours)}
    result["gridwire_readings_s"] = spread("gridwire readings/s", ours, "readings_s")
    result["gridwire_readings_cpu_s"] = spread("gridwire readings/CPU second", ours, "readings_cpu_s")
    result["peer_readings_s"] = spread("peer readings/s", theirs, "readings_s")
    result["peer_readings_cpu_s"] = spread("peer readings/CPU second", theirs, "readings_cpu_s")
    result["commits"], result["facts"] = ours[-1]["commits"], ours[-1]["facts"]
    result["commit_share"] = round(statistics.median(row["commit_share"] for row in ours), 3)
    result["ratio"] = round(result["gridwire_readings_s"]["median"] / result["peer_readings_s"]["median"], 1)
    print(f"{'ratio of the medians':<28} {result['ratio']:.1f} x   (waiting for commits {result['commit_share']:.0%})")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
