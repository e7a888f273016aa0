"""Hub and workers are killed while the demo utility sends: facts and lake must agree to the watt-hour."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("simbench") is None, reason="needs gridwire[demo]"),
    pytest.mark.timeout(600),
]

KILLS = int(os.environ.get("GRIDWIRE_TEST_GRID_KILLS", "8"))


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def workers(hub: Any) -> dict[str, int]:
    return {row["name"]: row["pid"] for row in hub.get("/v1/status")["workers"] if row["pid"]}


def until(condition: Any, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.05)


def facts(hub: Any) -> int:
    return sum(row["end"] for row in hub.get("/v1/hubs/grid.transformers")["bounds"])


def test_nothing_is_counted_twice_or_lost_wherever_a_process_dies(start_hub: Any, tmp_path: Path) -> None:
    from gridwire.demo import agreement, replay, utility

    built = utility.build()
    ports = {"kafka_port": free_port(), "http_port": free_port()}
    hub = start_hub("--lake-flush", "1", **ports)
    stop = threading.Event()
    truths: list[Any] = []
    steps: list[int] = []

    def send() -> None:
        truths.append(
            replay.run_replay(
                hub.kafka,
                hub.http,
                built.network,
                built.profiles,
                pace_s=0.1,
                stop=stop,
                late_share=0.05,
                report=lambda progress: steps.append(progress.step),
            )
        )

    sender = threading.Thread(target=send)
    sender.start()
    try:
        until(lambda: {"grid", "capture"} <= workers(hub).keys() and facts(hub) > 0)
        chance = random.Random(int(os.environ.get("GRIDWIRE_TEST_SEED", "7")))
        for number in range(KILLS):
            time.sleep(chance.uniform(0.3, 2.0))
            victim = ("hub", "grid", "capture", "grid")[number % 4]
            if victim == "hub":
                hub.kill()
                hub = start_hub("--lake-flush", "1", **ports)
            else:
                until(lambda hub=hub, victim=victim: victim in workers(hub))  # type: ignore[misc]
                os.kill(workers(hub)[victim], signal.SIGKILL)
        before, sent = facts(hub), len(steps)
        until(lambda: facts(hub) > before)
        until(lambda: len(steps) > sent + 1)  # what was in doubt when the hub died is known to the truth again
    finally:
        stop.set()
        sender.join(60)
    with httpx.Client(base_url=hub.http, timeout=30, trust_env=False) as client:
        agreement.wait_until_caught_up(client)
        found = agreement.compare(client, hub.data / "lake", truths[0])
        assert found.differences == []
        assert found.sums > 100
        # The negative control: one reading more in the truth than in the hub must be noticed.
        truth = truths[0]
        newest = truth.intervals()[-1]
        missing = next(n for n in range(len(built.network.usage_points)) if not truth._sent[newest].all())
        truth._sent[newest][missing] = not truth._sent[newest][missing]
        assert agreement.compare(client, hub.data / "lake", truth).differences
