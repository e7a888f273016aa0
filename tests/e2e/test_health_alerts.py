"""From meters to alerts and health facts: network, readings by a Kafka client, `grid.alerts`, `grid.health`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, Producer

from gridwire.grid import network as net
from gridwire.grid.reading import rfc3339

QUARTER_US = 900_000_000
CUSTOMERS = 6


def model() -> net.Network:
    return net.Network(
        name="Health",
        transformers=(net.Transformer(id="T0", rated_kva=20.0), net.Transformer(id="T1", rated_kva=100.0)),
        feeders=(net.Feeder(id="F0", transformer="T0"), net.Feeder(id="F1", transformer="T1")),
        usage_points=tuple(
            net.UsagePoint(id=f"U{i}", transformer=f"T{i % 2}", feeder=f"F{i % 2}") for i in range(2 * CUSTOMERS)
        ),
    )


def reading(point: int, type: str, ts_us: int, value: float) -> bytes:
    interval_s = 900 if type == "import_kwh" else 0
    return orjson.dumps(
        {"usage_point": f"U{point}", "reading_type": type, "ts_end": rfc3339(ts_us), "interval_s": interval_s,
         "value": value}
    )  # fmt: skip


def send(hub: Any, slots: int) -> None:
    """T0's customers draw twice its rating; T1's have too little voltage, one of T0's too much."""
    producer = Producer({"bootstrap.servers": hub.kafka, "enable.idempotence": True})
    newest = time.time_ns() // 1000 // QUARTER_US
    for slot in range(newest - slots + 1, newest + 1):
        for point in range(2 * CUSTOMERS):
            key = f"T{point % 2}".encode()
            volts = 200.0 if point % 2 else 260.0 if point == 0 else 231.0
            producer.produce("readings", reading(point, "import_kwh", slot * QUARTER_US, 1.6), key)
            producer.produce("readings", reading(point, "voltage_v", slot * QUARTER_US, volts), key)
        assert producer.flush(60) == 0


def receive(hub: Any, wanted: set[tuple[str, str]], hubs: list[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Findings by (kind, subject) and facts by (hub, transformer), until all that is wanted is there."""
    consumer = Consumer(
        {
            "bootstrap.servers": hub.kafka,
            "group.id": "control-room",
            "auto.offset.reset": "earliest",
            "topic.metadata.refresh.interval.ms": 1000,
        }
    )
    consumer.subscribe(hubs)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    deadline = time.monotonic() + 150
    while not wanted <= found.keys() and time.monotonic() < deadline:
        message = consumer.poll(1.0)
        if message is not None and message.error() is None:
            told = json.loads(message.value())
            kind = told.get("kind", message.topic())
            found[kind, told.get("subject", told.get("transformer"))] = told
    consumer.close()
    return found


def test_overload_and_voltages_become_alerts(start_hub: Any, tmp_path: Path) -> None:
    hub = start_hub()
    path = tmp_path / "network.json"
    path.write_bytes(net.to_json(model()))
    hub.cli("network", "import", "json", str(path))
    send(hub, 12)
    wanted = {
        ("transformer.overload", "T0"), ("transformer.hot_spot", "T0"), ("voltage.low", "T1"), ("voltage.high", "U0"),
        ("grid.health", "T0"), ("grid.health", "T1"),
    }  # fmt: skip
    found = receive(hub, wanted, ["grid.alerts", "grid.health"])
    assert wanted <= found.keys()
    assert found["transformer.overload", "T0"]["evidence"]["load_factor"] > 1.5
    assert found["voltage.low", "T1"]["evidence"]["customers_outside"] >= 4
    assert found["voltage.high", "U0"]["evidence"]["worst_v"] == 260.0
    assert found["grid.health", "T0"]["hot_spot_c"] > found["grid.health", "T1"]["hot_spot_c"] + 50.0
    # T1 is well loaded, and its voltage is nobody else's.
    assert ("transformer.overload", "T1") not in found
    assert ("voltage.low", "T0") not in found and ("voltage.high", "T0") not in found
