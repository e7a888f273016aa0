"""The watch worker and the hub are killed while outages come: every one is told, with the same id and versions."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from typing import Any

import httpx
import pytest

from gridwire.grid import network
from gridwire.grid.reading import rfc3339

pytestmark = pytest.mark.timeout(600)

TRANSFORMERS, POINTS = 12, 12
US = 1_000_000


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def until(condition: Any, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.05)


def watcher(hub: Any) -> int:
    return next((row["pid"] or 0 for row in hub.get("/v1/status")["workers"] if row["name"] == "watch"), 0)


def post(hub: Any, name: str, events: list[dict[str, Any]]) -> None:
    httpx.post(
        f"{hub.http}/v1/hubs/{name}/events",
        json=events,
        params={"key_field": "usage_point"},
        timeout=60,
        trust_env=False,
    ).raise_for_status()


def model() -> network.Network:
    return network.Network(
        name="small",
        transformers=tuple(network.Transformer(id=f"T{t}") for t in range(TRANSFORMERS)),
        feeders=tuple(network.Feeder(id=f"F{t}", transformer=f"T{t}") for t in range(TRANSFORMERS)),
        usage_points=tuple(
            network.UsagePoint(id=f"U{t}.{i}", transformer=f"T{t}", feeder=f"F{t}")
            for t in range(TRANSFORMERS)
            for i in range(POINTS)
        ),
    )


def say(hub: Any, transformer: int, kind: str, at_us: int) -> None:
    post(
        hub, "meter.events",
        [{"usage_point": f"U{transformer}.{i}", "kind": kind, "ts_event": rfc3339(at_us)} for i in range(POINTS)],
    )  # fmt: skip


def told(hub: Any) -> list[dict[str, Any]]:
    """Everything in the hub of alerts, in the order of each partition."""
    out: list[dict[str, Any]] = []
    bounds = hub.get("/v1/hubs/grid.alerts")["bounds"]
    for partition in range(len(bounds)):
        page = hub.get(f"/v1/hubs/grid.alerts/events?partition={partition}&offset=earliest&limit=1000")
        assert page["next"] == page["end"]
        out += [event["value"] for event in page["events"]]
    return out


def newest(events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What holds; the same version twice must say the same."""
    out: dict[str, dict[str, Any]] = {}
    for event in events:
        known = out.get(event["id"])
        assert known is None or event["version"] > known["version"] or event == known, (known, event)
        out[event["id"]] = event
    return out


def differences(expected: dict[tuple[str, str], bool], events: list[dict[str, Any]]) -> list[str]:
    """`expected`: (subject, started) -> whether it ended."""
    found = {(each["subject"], each["started"]): each["state"] == "closed" for each in newest(events).values()}
    return [str(each) for each in expected.items() ^ found.items()]


def test_no_outage_is_lost_or_told_as_another_wherever_a_process_dies(start_hub: Any) -> None:
    ports = {"kafka_port": free_port(), "http_port": free_port()}
    hub = start_hub(**ports)
    httpx.post(
        f"{hub.http}/v1/hubs/grid.network/events", content=network.to_json(model()), timeout=60, trust_env=False,
        headers={"content-type": "application/json"},
    ).raise_for_status()  # fmt: skip
    until(lambda: watcher(hub))
    chance = random.Random(int(os.environ.get("GRIDWIRE_TEST_SEED", "7")))
    expected: dict[tuple[str, str], bool] = {}
    start_us = (time.time_ns() // 1_000_000_000 - 3600) * US
    for number in range(TRANSFORMERS):
        at_us = start_us + number * 100 * US
        say(hub, number, "LAST_GASP", at_us)
        ends = number % 2 == 0
        if ends:
            say(hub, number, "POWER_RESTORED", at_us + 60 * US)
        expected[f"F{number}", rfc3339(at_us)] = ends
        if number % 3 == 2:
            time.sleep(chance.uniform(0.0, 0.5))  # anywhere between two commits
            if number % 6 == 2:
                hub.kill()
                hub = start_hub(**ports)
            else:
                until(lambda hub=hub: watcher(hub))  # type: ignore[misc]
                os.kill(watcher(hub), signal.SIGKILL)
    until(lambda: not differences(expected, told(hub)))
    # The negative control: one finding less is noticed, and one that says two things is too.
    events = told(hub)
    gone = events[0]["id"]
    assert differences(expected, [each for each in events if each["id"] != gone])
    with pytest.raises(AssertionError):
        newest([*events, {**json.loads(json.dumps(events[-1])), "confidence": 0.0}])
