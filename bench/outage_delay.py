"""How long from the last gasps of a transformer to the outage event, over a real hub, idle and under load?

    python bench/outage_delay.py [--quick] [--units 50000]

A hub with fsync runs with all its workers on a network of 50 usage points a transformer. Every 0.4 s the last gasps of
half of one transformer's meters go to `meter.events` through an unmodified Kafka client; another one waits on
`grid.alerts`. The delay is from just before they are given to the client until the event of the opened outage arrives:
two commits with a sync each, the detector, and two clients. First nothing else happens; then a client sends readings, a
JSON event each, as fast as the hub takes them. The goal is a 99th percentile below 2 s at full load.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import confluent_kafka as ck

import support
from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint, to_json
from gridwire.grid.reading import rfc3339

POINTS = 50
PER_FEEDER = 10
PARTITIONS = 8
EVERY_S = 0.4
PATIENCE_S = 60.0
GOAL_S = 2.0


def utility(units: int) -> Network:
    transformers = units // POINTS
    return Network(
        name="bench",
        transformers=tuple(Transformer(id=f"T{t}", rated_kva=400.0) for t in range(transformers)),
        feeders=tuple(Feeder(id=f"F{f}") for f in range(-(-transformers // PER_FEEDER))),
        usage_points=tuple(
            UsagePoint(id=f"U{t}.{i}", transformer=f"T{t}", feeder=f"F{t // PER_FEEDER}")
            for t in range(transformers)
            for i in range(POINTS)
        ),
    )


def load(bootstrap: str, units: int) -> None:
    """Send readings of yesterday's quarter hours until somebody ends this process; the count after each on stdout."""
    producer = ck.Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 200_000})
    today = int(time.time()) // 86_400 * 86_400
    sent = 0
    for quarter in range(10**9):
        end = rfc3339((today - 86_400 + quarter % 96 * 900) * 1_000_000)
        for unit in range(units):
            point, transformer = f"U{unit // POINTS}.{unit % POINTS}", f"T{unit // POINTS}"
            value = (
                f'{{"usage_point":"{point}","ts_end":"{end}","interval_s":900,"reading_type":"import_kwh","value":0.2}}'
            )
            while True:
                try:
                    producer.produce("readings", value, transformer)
                    break
                except BufferError:
                    producer.poll(0.05)
            sent += 1
            if sent % 20_000 == 0:
                producer.poll(0)
                print(sent, flush=True)


class Listener:
    """When the first event of each subject came. In a thread of its own."""

    def __init__(self, bootstrap: str, partitions: int) -> None:
        self.came: dict[str, float] = {}
        self.stop = threading.Event()
        self._consumer = ck.Consumer({"bootstrap.servers": bootstrap, "group.id": "bench", "fetch.wait.max.ms": 50})
        self._consumer.assign([ck.TopicPartition("grid.alerts", n, 0) for n in range(partitions)])
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.stop.is_set():
            message = self._consumer.poll(0.05)
            if message is not None and not message.error():
                self.came.setdefault(json.loads(message.value())["subject"], time.perf_counter())
        self._consumer.close()


def probe(bootstrap: str, listener: Listener, transformers: list[int]) -> list[float]:
    """Delays of the outages of these transformers, seconds. Raises RuntimeError: one was never told."""
    producer = ck.Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    sent: dict[str, float] = {}
    for transformer in transformers:
        at = rfc3339(time.time_ns() // 1000)
        sent[f"T{transformer}"] = time.perf_counter()
        for number in range(POINTS // 2):
            event = {"usage_point": f"U{transformer}.{number}", "kind": "LAST_GASP", "ts_event": at}
            producer.produce("meter.events", json.dumps(event), f"T{transformer}")
        producer.flush()
        time.sleep(EVERY_S)
    deadline = time.monotonic() + PATIENCE_S
    while not sent.keys() <= listener.came.keys():
        if time.monotonic() > deadline:
            raise RuntimeError(f"never told: {sorted(sent.keys() - listener.came.keys())[:5]}")
        time.sleep(0.05)
    return [listener.came[name] - at for name, at in sent.items()]


@contextmanager
def loaded(bootstrap: str, units: int) -> Iterator[list[float]]:
    """A process that sends readings; its rate, once it ends, in the list."""
    command = [sys.executable, __file__, "--load", bootstrap, "--units", str(units)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    rate: list[float] = []
    counts: list[int] = []
    assert process.stdout is not None
    lines = process.stdout
    reader = threading.Thread(target=lambda: counts.extend(int(line) for line in lines), daemon=True)
    reader.start()
    started = time.perf_counter()
    try:
        time.sleep(3)
        yield rate
    finally:
        process.kill()
        process.wait()
        reader.join()
        rate.append(counts[-1] / (time.perf_counter() - started) if counts else 0.0)


def until_ready(hub: support.Hub) -> int:
    """Number of partitions of `grid.alerts`, once the watch worker works."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        workers = {row["name"]: row["pid"] for row in hub.request("GET", "/v1/status")["workers"]}
        groups = {row["group"] for row in hub.request("GET", "/v1/groups")["groups"]}
        if workers.get("watch") and "grid.watch" in groups:
            return len(hub.request("GET", "/v1/hubs/grid.alerts")["bounds"])
        time.sleep(0.2)
    raise RuntimeError("the watch worker does not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=50_000)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--load", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load(options.load, options.units)
        return
    count = 20 if options.quick else 45
    places = [number * PER_FEEDER for number in range(options.units // POINTS // PER_FEEDER)]
    figures: dict[str, Any] = {}
    with support.scratch("outage-delay") as directory:
        hub = support.Hub(directory)
        try:
            hub.request("POST", "/v1/hubs", {"name": "readings", "partitions": PARTITIONS})
            hub.request("POST", "/v1/hubs/grid.network/events", json.loads(to_json(utility(options.units))))
            listener = Listener(hub.kafka, until_ready(hub))
            figures["idle"] = probe(hub.kafka, listener, places[:count])
            with loaded(hub.kafka, options.units) as rate:
                figures["full load"] = probe(hub.kafka, listener, places[count : 2 * count])
            listener.stop.set()
            listener.thread.join()
        finally:
            hub.stop()
    rows = []
    for name, delays in figures.items():
        p50, p99 = support.percentile(delays, 0.5), support.percentile(delays, 0.99)
        rows.append([name, str(len(delays)), f"{p50 * 1000:.0f}", f"{p99 * 1000:.0f}", f"{max(delays) * 1000:.0f}"])
    print(support.table(["", "outages", "p50 ms", "p99 ms", "most ms"], rows))
    print(f"readings sent meanwhile: {rate[0]:,.0f}/s; goal at full load: p99 below {GOAL_S * 1000:.0f} ms")
    delays = {name: [round(each, 4) for each in found] for name, found in figures.items()}
    support.print_result({**support.heading("outage_delay"), "readings_s": round(rate[0]), "delays_s": delays})


if __name__ == "__main__":
    main()
