"""Hubs of meter frames become readings, on either broker, each frame once, however often the worker dies."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import Producer

from event_hubs import EmbeddedHubs, KafkaHubs
from gridwire.grid import decode_worker
from gridwire.grid.decode_worker import Feed
from gridwire.grid.formats.base import Context
from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint, to_json
from gridwire.grid.reading import rfc3339

WAIT_S = 120.0
START_US = 1_451_607_300_000_000


def frame(number: int) -> bytes:
    """A CSV file of two readings of one usage point."""
    rows = [
        f"U{number % 3},{rfc3339(START_US + number * 900_000_000)},voltage_l{phase}_v,23{phase}" for phase in (1, 2)
    ]
    return "\n".join(["usage_point,ts_end,reading_type,value", *rows]).encode()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(params=["embedded", "kafka"])
def hubs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedHubs | KafkaHubs]:
    embedded = request.param == "embedded"
    made = EmbeddedHubs(tmp_path) if embedded else KafkaHubs(request.getfixturevalue("kafka").url)
    for hub in ("frames", "readings", "meter.events", "quarantine"):
        made.create(hub)
    made.create("grid.network", 1)
    yield made
    made.close()


def values(hubs: EmbeddedHubs | KafkaHubs, hub: str) -> list[list[Any]]:
    return [[json.loads(value or b"null") for value in hubs.values(hub, partition)] for partition in (0, 1)]


def work(hubs: EmbeddedHubs | KafkaHubs, done: Callable[[], bool]) -> dict[str, int]:
    """Run a worker until something is so; its counters."""
    stop, counters = threading.Event(), dict[str, int]()
    feed = Feed("frames", "csv", Context())
    thread = threading.Thread(
        target=decode_worker.run,
        args=(lambda names, follow: hubs.open("grid.decode", names, follow=follow), [feed], stop),
        kwargs={"processes": 1, "metrics": counters},
        daemon=True,
    )
    thread.start()
    try:
        until(done)
    finally:
        stop.set()
        thread.join(WAIT_S)
    assert not thread.is_alive()
    return counters


def test_frames_become_readings_once(hubs: EmbeddedHubs | KafkaHubs) -> None:
    point = {"transformer": "T", "feeder": "F"}
    network = Network(
        name="n", transformers=(Transformer(id="T"),), feeders=(Feeder(id="F"),),
        usage_points=tuple(UsagePoint(id=f"U{n}", **point) for n in range(3)),
    )  # fmt: skip
    hubs.append("grid.network", 0, to_json(network))
    hubs.append("frames", 0, *(frame(n) for n in range(10)))
    hubs.append("frames", 1, frame(10), b"nonsense")
    found = lambda: sum(map(len, values(hubs, "readings")))  # noqa: E731
    counters = work(hubs, lambda: found() >= 22)
    assert (counters["frames"], counters["readings"], counters["quarantined"]) == (12, 22, 1)
    hubs.append("frames", 1, frame(11))
    assert work(hubs, lambda: found() >= 24)["frames"] == 1  # goes on where the other one stopped
    readings = [each for partition in values(hubs, "readings") for each in partition]
    assert sorted(each["ts_end"] for each in readings) == sorted(
        rfc3339(START_US + n * 900_000_000) for n in range(12) for _ in (1, 2)
    )
    # All usage points hang on one transformer, so their readings share a partition.
    assert sorted(map(len, values(hubs, "readings"))) == [0, 24]
    bad = [value for partition in (0, 1) for value in hubs.values("quarantine", partition)]
    assert bad == [b"nonsense"]


def test_a_worker_that_is_killed_decodes_every_frame_once(start_hub: Callable[..., Any]) -> None:
    hub = start_hub("--decode-processes", "1")
    hub.cli("hub", "create", "frames", "--decode", "csv")
    orphans: list[psutil.Process] = []
    killed: set[int] = set()

    def decoded() -> int:
        found = {each["name"]: each for each in hub.get("/v1/hubs")["hubs"]}
        return int(found["readings"]["events"]) if "readings" in found else 0

    def worker() -> int:
        return next((each["pid"] or 0 for each in hub.get("/v1/status")["workers"] if each["name"] == "decode"), 0)

    for wave in range(4):
        until(lambda: worker() not in killed | {0})
        send_frames(hub.kafka, 500)
        victim = psutil.Process(worker())
        until(lambda victim=victim: bool(victim.children()))  # it has begun to decode, or is done
        killed.add(victim.pid)
        orphans += victim.children()
        victim.send_signal(signal.SIGKILL)
        until(lambda wave=wave: decoded() == 1_000 * (wave + 1))
    assert hub.get("/v1/groups/grid.decode")["lag_events"] == 0
    assert orphans
    assert len(killed) == 4
    until(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in orphans))
    assert decoded() == 4_000


def send_frames(bootstrap: str, count: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    for number in range(count):
        producer.produce("frames", frame(number), key=str(number))
        producer.poll(0)
    assert producer.flush(WAIT_S) == 0
