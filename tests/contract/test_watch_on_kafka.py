"""The watch worker on a Kafka cluster: one of two has all hubs, and the other goes on when it is gone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from event_hubs import KafkaHubs
from gridwire.broker.port import EventSource
from gridwire.grid import network
from gridwire.grid.reading import rfc3339
from gridwire.grid.watch.worker import watch_stage
from gridwire.grid.worker import WorkerSettings, run

WAIT_S = 120.0
POINTS = 10


def _open(hubs: KafkaHubs, group: str, names: list[str], follow: list[str]) -> EventSource:
    return hubs.open(group, names, follow=follow, together=True)


class Worker:
    """One in a thread of its own."""

    def __init__(self, hubs: KafkaHubs, directory: Path) -> None:
        self.stop = threading.Event()
        self.metrics: dict[str, int] = {}
        settings = WorkerSettings("grid.watch", watch_stage())

        def work() -> None:
            run(partial(_open, hubs), directory, self.stop, settings, metrics=self.metrics)

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.1)
    return found


def gasps(transformer: int, kind: str, second: int) -> list[bytes]:
    at = rfc3339((1_767_225_600 + second) * 1_000_000)
    return [
        json.dumps({"usage_point": f"U{transformer}.{i}", "kind": kind, "ts_event": at}).encode() for i in range(POINTS)
    ]


def test_outages_are_told_whoever_works(kafka: Any, tmp_path: Path) -> None:
    hubs = KafkaHubs(kafka.url)
    for name in ("readings", "grid.transformers", "grid.feeders", "grid.network"):
        hubs.create(name)
    model = network.Network(
        name="small",
        transformers=tuple(network.Transformer(id=f"T{t}") for t in range(3)),
        feeders=tuple(network.Feeder(id=f"F{t}") for t in range(3)),
        usage_points=tuple(
            network.UsagePoint(id=f"U{t}.{i}", transformer=f"T{t}", feeder=f"F{t}")
            for t in range(3)
            for i in range(POINTS)
        ),
    )
    hubs.append("grid.network", 0, network.to_json(model))
    workers = [Worker(hubs, tmp_path / str(number)) for number in range(2)]
    owner = until(lambda: next((each for each in workers if each.metrics.get("commits")), None))

    def told() -> list[tuple[str, str, int]]:
        values = [json.loads(value or b"") for value in hubs.values("grid.alerts", 0)]
        return [(value["subject"], value["state"], value["version"]) for value in values]

    hubs.append("meter.events", 0, *gasps(0, "LAST_GASP", 0))
    until(lambda: ("T0", "opened", 0) in told())
    owner.end()
    other = next(each for each in workers if each is not owner)
    hubs.append("meter.events", 0, *gasps(1, "LAST_GASP", 100), *gasps(0, "POWER_RESTORED", 200))
    until(lambda: {("T1", "opened", 0), ("T0", "closed", 1)} <= set(told()))
    other.end()
    assert len(told()) == len(set(told())) == 3
