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
from msgspec import structs

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


def worker_pid(http: str, name: str) -> int | None:
    for worker in call(f"{http}/v1/status")["workers"]:
        if worker["name"] == name and worker["state"] == "running":
            return int(worker["pid"])
    return None


def kill_worker(http: str, random_s: float, name: str = "grid") -> None:
    """Kill the worker some time after it is seen running; one that was killed before may still be shown."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        while (pid := worker_pid(http, name)) is None:
            assert time.monotonic() < deadline, "the worker did not come back"
            time.sleep(0.02)
        time.sleep(random_s)  # any moment will do: it is drawn, not awaited
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return


def ts_end_of(interval: int) -> str:
    day, rest = divmod(interval, 96)
    return f"2016-01-{day + 1:02d}T{rest // 4:02d}:{rest % 4 * 15:02d}:00Z"


def reading(point: int, interval: int) -> bytes:
    ts_end = ts_end_of(interval)
    fields = {"usage_point": f"U{point}", "ts_end": ts_end, "interval_s": 900, "reading_type": "import_kwh"}
    return json.dumps(fields)[:-1].encode() + b',"value":0.%03d}' % (point + interval)


def stored(bootstrap: str, hub: str) -> list[ck.Message]:
    """Every event of a hub, each partition in its order."""
    group = {"group.id": "check", "auto.offset.reset": "earliest", "enable.partition.eof": True}
    consumer = ck.Consumer({"bootstrap.servers": bootstrap, **group})
    partitions = list(consumer.list_topics(hub, timeout=10).topics[hub].partitions)
    consumer.assign([ck.TopicPartition(hub, p, 0) for p in partitions])
    found: list[ck.Message] = []
    ended: set[int] = set()
    while len(ended) < len(partitions):
        for message in consumer.consume(1000, timeout=10):
            if message.error():
                ended.add(message.partition())
            else:
                found.append(message)
    consumer.close()
    return found


def newest_facts(bootstrap: str) -> tuple[dict[tuple[str, str], dict[str, Any]], Counter[tuple[str, str, int]]]:
    """The fact that holds for every transformer and interval, and how often each version was told."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    told: Counter[tuple[str, str, int]] = Counter()
    for message in stored(bootstrap, "grid.transformers"):
        fact = json.loads(message.value())
        key = (fact["transformer"], fact["ts_end"])
        told[(*key, fact["version"])] += 1
        if key not in newest or fact["version"] > newest[key]["version"]:
            newest[key] = fact
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


def moved(every: int, since: int) -> tuple[Network, int]:
    """A model in which each so many-th usage point hangs on the next transformer, and its first interval."""
    points = tuple(
        structs.replace(point, transformer=f"T{(n + (n % every == 0)) % TRANSFORMERS}")
        for n, point in enumerate(NETWORK.usage_points)
    )
    return structs.replace(NETWORK, usage_points=points, valid_from=ts_end_of(since)), since + 1


@pytest.mark.slow
def test_a_killed_worker_sums_each_interval_under_the_model_of_its_time(tmp_path: Path) -> None:
    """Models come between the readings: one for intervals that have been summed, a correction, one from now on."""
    source = random.Random(3)
    models = [moved(POINTS + 1, 0), moved(7, 30), moved(5, 20), moved(3, 45)]
    with running_hub(tmp_path) as endpoints:
        http = endpoints["http"]
        call(f"{http}/v1/hubs", json.dumps({"name": "grid.network", "partitions": 1}).encode())
        producer = ck.Producer({"bootstrap.servers": endpoints["kafka"], "linger.ms": 5})
        expected: dict[tuple[str, str], int] = {}
        for part, (model, _) in enumerate(models):
            call(f"{http}/v1/hubs/grid.network/events", to_json(model))
            for interval in range(1 + part, INTERVALS + 1, len(models)):
                under = [each for each, first in (models[0], *models[2:]) if first <= interval][-1]
                for point in range(POINTS):
                    producer.produce("readings", reading(point, interval), f"T{point % TRANSFORMERS}".encode())
                    key = (under.usage_points[point].transformer, ts_end_of(interval))
                    expected[key] = expected.get(key, 0) + point + interval
            assert producer.flush(30) == 0
            kill_worker(http, source.uniform(0.0, 1.5))
        deadline = time.monotonic() + DEADLINE_S
        while True:
            facts, _ = newest_facts(endpoints["kafka"])
            found = {key: round(fact["import_kwh"] * 1000) for key, fact in facts.items() if fact["count"]}
            if found == expected or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        wait_until_read(http)
    assert found == expected
    assert sum(fact["count"] for fact in facts.values()) == POINTS * INTERVALS


def wait_until_read(http: str, names: tuple[str, ...] = ("grid.loads",)) -> None:
    """Until the groups have read everything; what one of them wrote for the other too."""
    deadline = time.monotonic() + DEADLINE_S
    seen = -1
    while True:
        groups = {group["group"]: group for group in call(f"{http}/v1/groups")["groups"]}
        ends = {row["name"]: row for row in call(f"{http}/v1/hubs")["hubs"]}
        written = ends["readings"]["events"]
        if written and all(name in groups and groups[name]["lag_events"] == 0 for name in names):
            if written == seen or len(names) == 1:
                return
            seen = written
        assert time.monotonic() < deadline, groups
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_vee_worker_tells_what_one_that_lived_would_have_told(tmp_path: Path) -> None:
    """Gaps that are estimated, late readings that correct them, and the worker killed twice meanwhile."""
    source = random.Random(2)
    gaps = {(point, interval) for point in range(POINTS) for interval in range(9, 30) if source.random() < 0.03}
    late = set(source.sample(sorted(gaps), len(gaps) // 3))
    with running_hub(tmp_path) as endpoints:
        http = endpoints["http"]
        call(f"{http}/v1/hubs", json.dumps({"name": "grid.network", "partitions": 1}).encode())
        call(f"{http}/v1/hubs/grid.network/events", to_json(NETWORK))
        producer = ck.Producer({"bootstrap.servers": endpoints["kafka"], "linger.ms": 5})
        for part in range(3):
            rows = [(i, p) for i in range(1 + part * 20, 21 + part * 20) for p in range(POINTS) if (p, i) not in gaps]
            for interval, point in rows if part < 2 else sorted((i, p) for p, i in late):
                producer.produce("readings", reading(point, interval), f"T{point % TRANSFORMERS}".encode())
            assert producer.flush(30) == 0
            if part < 2:
                kill_worker(http, source.uniform(0.0, 1.5), "vee")
        wait_until_read(http, ("grid.vee", "grid.loads"))
        facts, _ = newest_facts(endpoints["kafka"])
        told = {}
        for message in stored(endpoints["kafka"], "grid.vee"):
            row = json.loads(message.value())
            told[row["usage_point"], row["ts_end"]] = row
        log = stored(endpoints["kafka"], "readings")
    expected = judged_in_one_piece(log)
    assert {key: row for key, row in told.items() if row["failed"] or "estimated_by" in row} == expected
    estimated = Counter(
        (f"T{int(point[1:]) % TRANSFORMERS}", ts_end)
        for (point, ts_end), row in expected.items()
        if "estimated_by" in row
    )
    assert sum(estimated.values()) == len(gaps - late)
    assert {key: fact["estimated"] for key, fact in facts.items() if "estimated" in fact} == dict(estimated)
    assert all(fact["count"] + fact.get("estimated", 0) == POINTS // TRANSFORMERS for fact in facts.values())


def judged_in_one_piece(log: list[ck.Message]) -> dict[tuple[str, str], dict[str, Any]]:
    """What a pipeline that is given the whole log at once tells."""
    from gridwire.broker.port import ColumnBatch
    from gridwire.columnar.decode import decode
    from gridwire.core import batch
    from gridwire.core.batch import Event
    from gridwire.grid.vee.pipeline import VeePipeline

    pipeline = VeePipeline(NETWORK)
    for partition in sorted({message.partition() for message in log}):
        events = [Event(m.value(), m.key(), (), m.timestamp()[1]) for m in log if m.partition() == partition]
        data = bytes(batch.encode(events, base_offset=0))
        columns = decode(data, 0, len(data), from_offset=0).columns
        pipeline.take([ColumnBatch("readings", partition, each, len(events)) for each in columns])
    outputs = pipeline.outputs(0, lambda hub: 1)
    rows = [json.loads(event.value or b"") for output in outputs if output.hub == "grid.vee" for event in output.events]
    return {(row["usage_point"], row["ts_end"]): row for row in rows}
