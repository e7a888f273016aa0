"""How long until a hub serves, and how much memory does it hold when nobody uses it?

    python bench/start_and_memory.py [--quick] [--rounds N] [--no-peer]

A round starts `gridwire up` on an empty directory, from the new process to its line `ready` (then every head serves),
and leaves it alone for five seconds before its resident memory is read. Beside it, in the same round, Apache Kafka as
it comes, from the new process to its line "Kafka Server started"; its storage is formatted before the clock runs. One
start of each comes first, so that files are in the page cache and compiled Python is there. The last line is JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, Final

import support
from kafka_peer import Kafka, PeerUnavailable
from support import Hub, Spread, spread_text

IDLE_S: Final = 5.0
START_GOAL_S: Final = 1.0
MEMORY_GOAL_MB: Final = 150.0

Start = Callable[[], dict[str, float]]
Runs = dict[str, list[dict[str, float]]]


def observe(server: Hub | Kafka, idle_s: float) -> dict[str, float]:
    """What a server that has just started took and, left alone, holds; stops it."""
    try:
        time.sleep(idle_s)
        return {"start_s": server.start_s, "memory_mb": server.memory_bytes / 1e6}
    finally:
        server.stop()


def start_hub(idle_s: float = IDLE_S) -> dict[str, float]:
    with support.scratch("start") as directory:
        return observe(Hub(directory), idle_s)


def start_kafka(idle_s: float = IDLE_S) -> dict[str, float]:
    with support.scratch("start") as directory:
        return observe(Kafka(directory), idle_s)


def contenders(peer: bool) -> tuple[dict[str, Start], str]:
    """Who takes part, each started once already, and why the peer is missing if it is."""
    start_hub(0)
    found: dict[str, Start] = {"gridwire": start_hub}
    if not peer:
        return found, "left out by --no-peer"
    try:
        start_kafka(0)
    except PeerUnavailable as error:
        return found, str(error)
    return found | {"kafka": start_kafka}, ""


def goal_row(found: Runs, missing: str, field: str, what: str, goal: float) -> dict[str, Any]:
    """What `make bench` puts into its table."""
    ours = [run[field] for run in found["gridwire"]]
    theirs = [run[field] for run in found["kafka"]] if "kafka" in found else missing
    return support.row(what, ours, "kafka", theirs, goal_most=goal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--no-peer", action="store_true", help="without Apache Kafka")
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 7)
    about = support.heading("start_and_memory", rounds=rounds)
    support.touch_memory(1)
    starts, missing = contenders(not options.no_peer)
    if missing:
        print(f"SKIPPED: Apache Kafka, {missing}")
    found = support.interleave(starts, rounds)
    print(f"\nmedian (min to max) of {rounds} starts on an empty directory")
    rows = []
    for shown, field in (("seconds to ready", "start_s"), (f"MB resident after {IDLE_S:.0f} s idle", "memory_mb")):
        rows.append([shown, *(spread_text(Spread.of([run[field] for run in runs])) for runs in found.values())])
    print(support.table(["", *found], rows))
    goals = [
        goal_row(found, missing, "start_s", "start to ready, empty log, s", START_GOAL_S),
        goal_row(found, missing, "memory_mb", f"memory of the idle hub after {IDLE_S:.0f} s, MB", MEMORY_GOAL_MB),
    ]
    support.print_result(about | {"rows": goals})


if __name__ == "__main__":
    main()
