"""Does throughput stay flat as the log, the number of partitions and the number of hubs grow?

    python bench/growth.py [--quick] [--rounds N] [--no-peer]

One unmodified client process (`kafka_client.py`) sends events of 100 B turn by turn to every partition of every hub,
and reads them back:

    partitions    one hub of 1, 10, 100 and 1,000 partitions
    hubs          1, 100 and 1,000 hubs of one partition
    log           one partition that is empty, and one with 100 GB in front (`full_log.py`)

gridwire syncs before every acknowledgement; Apache Kafka runs as it comes, beside it in the same rounds at every point
but the last: it cannot be given 100 GB in the time. All hubs are there from the beginning. The same number of events
goes to each point: the client, which has one request for one partition at a time and five on the way, gets less into
each as partitions become more. The server's memory with all those hubs is read at the end. The last line is JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import full_log
import support
from kafka_client import make_topics, run_client
from kafka_peer import Kafka, PeerUnavailable
from support import Hub, Spread, pairwise, spread_text

VALUE_BYTES: Final = 100
FULL_SEGMENTS: Final = 100
"""Of 1 GB each."""


@dataclass(frozen=True, slots=True)
class Point:
    """Where events go: hubs by `kafka_client.topic_names`, partitions of each, and what lies in front."""

    name: str
    topics: str
    partitions: int
    full: bool = False

    @property
    def places(self) -> int:
        """Partitions in all."""
        return self.partitions * (int(self.topics.split("*")[1]) if "*" in self.topics else 1)


POINTS: Final = (
    Point("1 partition", "p1", 1),
    Point("10 partitions", "p10", 10),
    Point("100 partitions", "p100", 100),
    Point("1,000 partitions", "p1000", 1000),
    Point("100 hubs", "h100*100", 1),
    Point("1,000 hubs", "h1000*1000", 1),
    Point("100 GB in front", "full", 1, full=True),
)
FIRST: Final = POINTS[0]
SHOWN: Final = tuple(point for point in POINTS if point is not FIRST)
OURS, PEER = "gridwire", "kafka"


class Load:
    """Sends and reads at one server; knows where each point's next event goes."""

    def __init__(self, server: Hub | Kafka, count: int, starts: Mapping[str, int]) -> None:
        self._server = server
        self._count = count
        self._next = dict(starts)

    def run(self, point: Point) -> dict[str, float]:
        """Produce and consume at one point, events/s."""
        address, each = self._server.kafka, self._count // point.places
        found = {}
        before_s = self._server.cpu_s
        found["produce"] = run_client(
            "spread", address, point.topics, point.partitions, VALUE_BYTES, each * point.places
        )["events_s"]
        start = self._next.get(point.name, 0)
        self._next[point.name] = start + each
        found["consume"] = run_client("consume", address, point.topics, point.partitions, start, each * point.places)[
            "events_s"
        ]
        found["cpu_us"] = (self._server.cpu_s - before_s) / (each * point.places) * 1e6
        return found


def start_hub(directory: Path) -> tuple[Hub, int, float]:
    """gridwire with every point's hubs, the offset behind 100 GB, and the seconds that creating 1,000 hubs took."""
    hub = Hub(directory, "--no-workers")
    try:
        make_topics(hub.kafka, "full", 1)
    finally:
        hub.stop()
    end = full_log.fill(full_log.directories(directory / "data", 1), FULL_SEGMENTS)
    hub = Hub(directory, "--no-workers")
    return hub, end, make_all(hub.kafka, [point for point in POINTS if not point.full])


def make_all(address: str, points: list[Point]) -> float:
    """Create the hubs of all points; seconds it took for the most of them."""
    seconds = 0.0
    for point in points:
        begun_s = time.perf_counter()
        make_topics(address, point.topics, point.partitions)
        seconds = time.perf_counter() - begun_s
    return seconds


def start_kafka(directory: Path) -> tuple[Kafka, float]:
    """The same with Apache Kafka, but for the 100 GB."""
    kafka = Kafka(directory)
    try:
        return kafka, make_all(kafka.kafka, [point for point in POINTS if not point.full])
    except BaseException:
        kafka.stop()
        raise


# -- the report ------------------------------------------------------------------------------------------------------

Found = Mapping[tuple[str, str], list[dict[str, float]]]
"""Rounds by (server, point)."""


def curve_rows(found: Found, missing: str) -> list[dict[str, Any]]:
    """What `make bench` puts into its table: ours beside Kafka's at every point but the first."""
    rows = []
    for point in SHOWN:
        for kind in ("produce", "consume"):
            ours = [each[kind] for each in found[OURS, point.name]]
            if point.full:  # beside itself without them: this is what has to be flat
                peer, theirs = "gridwire, empty partition", [each[kind] for each in found[OURS, FIRST.name]]
            elif (PEER, point.name) in found:
                peer, theirs = "kafka, no fsync", [each[kind] for each in found[PEER, point.name]]
            else:
                rows.append(support.row(f"{kind}, {point.name}, fsync, events/s", ours, "kafka, no fsync", missing))
                continue
            rows.append(support.row(f"{kind}, {point.name}, fsync, events/s", ours, peer, theirs))
    return rows


def print_curves(found: Found, servers: list[str]) -> None:
    for kind in ("produce", "consume"):
        lines = []
        for point in POINTS:
            cells = []
            for name in servers:
                rates = [each[kind] for each in found.get((name, point.name), ())]
                first = [each[kind] for each in found[name, FIRST.name]]
                cells += [spread_text(Spread.of(rates)), _share(rates, first)] if rates else ["", ""]
            lines.append([point.name, *cells])
        head = [cell for name in servers for cell in (name, "of one")]
        print(f"\n{kind}, events/s, and the share of what one partition of one hub reaches in the same round")
        print(support.table(["", *head], lines))
    lines = [
        [point.name, *(_median(found, name, point, "cpu_us") for name in servers)] for point in POINTS
    ]  # fmt: skip
    print("\nCPU of the server, us an event produced and consumed, median")
    print(support.table(["", *servers], lines))


def _share(rates: list[float], first: list[float]) -> str:
    return f"{Spread.of(pairwise(rates, first)).median:.0%}"


def _median(found: Found, name: str, point: Point, field: str) -> str:
    rows = found.get((name, point.name))
    return support.short(Spread.of([row[field] for row in rows]).median) if rows else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer events and rounds")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--no-peer", action="store_true", help="without Apache Kafka")
    options = parser.parse_args()
    rounds, count = options.rounds or (1 if options.quick else 3), 500_000
    about = support.heading("growth", rounds=rounds, events=count)
    support.touch_memory(1)
    with ExitStack() as stack:
        hub, end, created_s = start_hub(stack.enter_context(support.scratch("growth")))
        stack.callback(hub.stop)
        print(f"gridwire created 1,000 hubs in {created_s:.1f} s")
        loads = {OURS: Load(hub, count, {POINTS[-1].name: end})}
        servers: dict[str, Hub | Kafka] = {OURS: hub}
        missing = "" if not options.no_peer else "left out by --no-peer"
        try:
            if not missing:
                kafka, created_s = start_kafka(stack.enter_context(support.scratch("kafka")))
                stack.callback(kafka.stop)
                print(f"kafka created 1,000 hubs in {created_s:.1f} s")
                loads[PEER], servers[PEER] = Load(kafka, count, {}), kafka
        except PeerUnavailable as error:
            missing = str(error)
            print(f"SKIPPED: Apache Kafka, {missing}")
        for load in loads.values():
            load.run(FIRST)
        contenders = {
            (name, point.name): partial(load.run, point)
            for point in POINTS for name, load in loads.items() if name == OURS or not point.full
        }  # fmt: skip
        found = support.interleave(contenders, rounds, partial(support.settle, 0.25))
        memory = {name: server.memory_bytes / 1e6 for name, server in servers.items()}
    print_curves(found, list(servers))
    print("\nmemory at the end, MB: " + ", ".join(f"{name} {value:.0f}" for name, value in memory.items()))
    support.print_result(about | {"rows": curve_rows(found, missing), "memory_mb": memory})


if __name__ == "__main__":
    main()
