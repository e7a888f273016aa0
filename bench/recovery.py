"""How long until a hub with 100 GB of log serves, after a clean stop and after a crash, and what memory does it hold?

    python bench/recovery.py [--quick] [--rounds N] [--no-peer]

    full       gridwire, 100 GB in ten partitions (`full_log.py`), stopped cleanly
    killed     the same, and 500 MB of new events on top when it is killed with SIGKILL
    empty      gridwire on an empty directory
    kafka      Apache Kafka as it comes, killed with SIGKILL with the same new events and nothing before

A start is timed from the new process to its line `ready`, or Kafka's "Kafka Server started". Everybody holds what it
took in earlier rounds. Memory is resident memory two seconds after the start. Before a kill every event was
acknowledged, so gridwire has synced it and Kafka has not; a kill loses neither, and the offsets after each start are
compared with what was sent. The last line is JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import full_log
import support
from kafka_client import ends, make_topics, run_client
from kafka_peer import Kafka, PeerUnavailable
from support import Hub, Spread, spread_text

PARTITIONS: Final = 10
SEGMENTS: Final = 10
"""Of 1 GB in each partition: 100 GB."""

EVENT_BYTES: Final = 1000
IDLE_S: Final = 2.0
START_GOAL_S: Final = 3.0
TOPIC: Final = "full"
FULL, KILLED, EMPTY, PEER = "full", "killed", "empty", "kafka"

Start = Callable[[Path], Hub | Kafka]


class Stayer:
    """A server on a directory that stays, started again and again.

    Args:
        count: events sent before it is killed; 0: it is stopped cleanly.
    """

    def __init__(self, directory: Path, start: Start, count: int) -> None:
        self._directory, self._start, self._count = directory, start, count
        self._end = 0
        server = start(directory)
        try:
            make_topics(server.kafka, TOPIC, PARTITIONS)
        finally:
            server.stop()

    def fill(self) -> None:
        """Put 100 GB in front."""
        self._end = PARTITIONS * full_log.fill(full_log.directories(self._directory / "data", PARTITIONS), SEGMENTS)

    def run(self) -> dict[str, float]:
        """Bring it into the state asked for and start it again."""
        server = self._start(self._directory)
        try:
            if self._count:
                run_client("spread", server.kafka, TOPIC, PARTITIONS, EVENT_BYTES, self._count)
                self._end += self._count
                server.kill()
            else:
                server.stop()
            support.settle(0.25)
            server = self._start(self._directory)
            found = {"start_s": server.start_s}
            time.sleep(IDLE_S)
            found["memory_mb"] = server.memory_bytes / 1e6
            there = sum(ends(server.kafka, TOPIC, PARTITIONS))
            if there != self._end:
                raise SystemExit(f"{there} events are there after the start, {self._end} were acknowledged")
            return found
        finally:
            server.stop()


def start_hub(directory: Path) -> Hub:
    return Hub(directory, "--no-workers")


def contenders(stack: ExitStack, count: int, peer: bool) -> tuple[dict[str, Callable[[], dict[str, float]]], str]:
    """Who takes part, and why the peer is missing if it is."""
    found: dict[str, Callable[[], dict[str, float]]] = {}
    for name, start, events in ((FULL, start_hub, 0), (KILLED, start_hub, count), (EMPTY, start_hub, 0)):
        stayer = Stayer(stack.enter_context(support.scratch("recovery")), start, events)
        if name is not EMPTY:
            stayer.fill()
        found[name] = stayer.run
    if not peer:
        return found, "left out by --no-peer"
    try:
        stayer = Stayer(stack.enter_context(support.scratch("recovery")), Kafka, count)
    except PeerUnavailable as error:
        return found, str(error)
    return found | {PEER: stayer.run}, ""


def goal_rows(found: dict[str, list[dict[str, float]]], missing: str) -> list[dict[str, Any]]:
    """What `make bench` puts into its table."""

    def of(name: str, field: str) -> list[float]:
        return [each[field] for each in found[name]]

    clean, killed = "start to ready, 100 GB of log", "the same after kill -9 with 500 MB on top"
    kafka_s = of(PEER, "start_s") if PEER in found else missing
    kafka_mb = of(PEER, "memory_mb") if PEER in found else missing
    shown, alone = "gridwire, empty log", "kafka, those 500 MB alone"
    return [
        support.row(f"{clean}, s", of(FULL, "start_s"), shown, of(EMPTY, "start_s"), goal_most=START_GOAL_S),
        support.row(f"{killed}, s", of(KILLED, "start_s"), alone, kafka_s, goal_most=START_GOAL_S),
        support.row("memory with 100 GB of log after that, MB", of(KILLED, "memory_mb"), alone, kafka_mb),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--no-peer", action="store_true", help="without Apache Kafka")
    options = parser.parse_args()
    rounds, count = options.rounds or (1 if options.quick else 3), 500_000
    about = support.heading("recovery", rounds=rounds, events=count)
    support.touch_memory(1)
    with ExitStack() as stack:
        starts, missing = contenders(stack, count, not options.no_peer)
        if missing:
            print(f"SKIPPED: Apache Kafka, {missing}")
        found = support.interleave(starts, rounds, partial(support.settle, 0.25))
    print(f"\nmedian (min to max) of {rounds} starts")
    rows = []
    for shown, field in (("seconds to ready", "start_s"), (f"MB resident after {IDLE_S:.0f} s", "memory_mb")):
        rows.append([shown, *(spread_text(Spread.of([run[field] for run in runs])) for runs in found.values())])
    print(support.table(["", *found], rows))
    support.print_result(about | {"rows": goal_rows(found, missing)})


if __name__ == "__main__":
    main()
