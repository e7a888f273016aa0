"""A day of quarter hours out of the log: how long until all of it is validated, summed and in the lake?

    python bench/day.py [--quick] [--rounds N] [--meters N]

A tenth of a large utility: 500,000 meters, 96 quarter hours, 48 million JSON events in a hub that ran without workers.
Then the hub is started with its workers; the clock runs from there, what they need to start included, until every
reading is in a committed sum and in the lake. Sums of the last interval and the rows are compared with what was sent.

The published record of a closed system is 278,000 readings a second (over 1 billion in an hour, on a full rack of its
vendor's hardware, 2011). What a day of 480 million readings would take is that of the scaled day times ten: an
extrapolation, shown as such.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import meters
import support

PARTITIONS = 8
FIRST_S = 1_767_571_200  # 2026-01-05T00:00Z
INTERVALS = 96
RECORD_READINGS_S = 278_000.0
DAY_READINGS = 480_000_000
GOAL_S = 1_800.0
INFLIGHT = 64
"""Frames made and sent at a time."""


def fill(directory: Path, points: int) -> tuple[int, int]:
    """Put the day into the log; (readings in all, watt-hours of the last interval)."""
    hub = support.Hub(directory, "--partitions", str(PARTITIONS), "--no-workers")
    try:
        meters.make_hubs(hub, PARTITIONS)
        meters.publish(hub, points)
        sender = meters.Sender(hub.kafka)
        count = last = 0
        for interval in range(1, INTERVALS + 1):
            frames = meters.frames(points, FIRST_S + interval * meters.INTERVAL_S, PARTITIONS)
            last = 0
            while some := list(itertools.islice(frames, INFLIGHT)):
                sender.send(some)
                count += sum(frame.count for frame in some)
                last += sum(frame.watt_hours for frame in some)
        sender.close()
        return count, last
    finally:
        hub.stop()


def run(points: int, directory: Path) -> dict[str, Any]:
    """One day; seconds by what was reached, what each process used."""
    from gridwire.capture.sql import query

    count, watt_hours = fill(directory, points)
    support.settle()
    begun_s = time.perf_counter()
    hub = support.Hub(directory, "--partitions", str(PARTITIONS))
    try:
        reached = meters.await_groups(hub, begun_s)
        used = meters.processes(hub)
        told = {"meters": points, "readings": count, "seconds": reached, "processes": used}
        report(told)
        found = meters.summed(directory / "data", FIRST_S + INTERVALS * meters.INTERVAL_S)
    finally:
        hub.stop()
    rows = int(query(directory / "data" / "lake", "select count(*) from readings", timeout_s=300).rows[0][0])
    if (found[0], rows) != (watt_hours, count):
        raise SystemExit(f"sums and rows are {found[0]} Wh and {rows}, sent were {watt_hours} Wh and {count}")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="50,000 meters")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--meters", type=int)
    options = parser.parse_args()
    about = support.heading("day")
    found = []
    for _ in range(options.rounds):
        with support.scratch("day") as directory:
            found.append(run(options.meters or (50_000 if options.quick else 500_000), directory))
    support.print_result(about | {"runs": found, "rows": rows(found)})


def report(told: dict[str, Any]) -> None:
    """One run, for people."""
    for name, seconds in told["seconds"].items():
        rate = told["readings"] / seconds
        print(
            f"{told['readings']:,} readings {name} in {seconds:.1f} s: {rate:,.0f}/s, "
            f"{rate / RECORD_READINGS_S:.1f} times the record; "
            f"extrapolated, {DAY_READINGS:,} would take {DAY_READINGS / rate:,.0f} s"
        )
    print(meters.processes_text(told["processes"]), flush=True)


def rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table of all benchmarks: the record is the peer, though of other hardware and another day."""
    out = []
    for name in found[0]["seconds"]:
        rates = [told["readings"] / told["seconds"][name] for told in found]
        out.append(
            {
                "what": f"a scaled day from the log, {name}, readings/s",
                "ours": support.Spread.of(rates).fields(0),
                "peer": "published record of a closed system on a full rack, 2011",
                "theirs": {"median": RECORD_READINGS_S},
                "ratio": support.Spread.of([rate / RECORD_READINGS_S for rate in rates]).fields(2),
                "goal_least": DAY_READINGS / GOAL_S,
            }
        )
    return out


if __name__ == "__main__":
    main()
