"""A quarter hour's readings of a whole utility arrive at once: how long until they are validated, summed, in the lake?

    python bench/burst.py [--quick] [--rounds N] [--meters N ...]

For 50 thousand, 500 thousand and 5 million meters: a hub with fsync and its workers as `gridwire up` runs them, the
network model published, one small interval sent to warm up. Then every meter's reading of the next interval is sent at
once, one JSON event a reading in batches of a mebibyte, keyed by transformer, over four connections of the Kafka
protocol. The clock runs from the first byte until

    accepted     the hub has acknowledged the last batch: all of it is on disk
    summed       validated, added up, and the facts of every transformer and feeder committed with the position
    in the lake  a row of the table `readings`

The batches are made before the clock runs; the client shares the machine. Each time the sums in the hub must be those
of what was sent, and the lake must have every row. Memory is what each process has of its own after the burst, files
that it maps not counted; CPU seconds are those of the burst.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import meters
import support

PARTITIONS = 8
GOAL_S = 20.0
GOAL_BYTES = 1_000_000_000
FIRST_S = 1_767_571_200  # 2026-01-05T00:00Z


def run(points: int, directory: Path) -> dict[str, Any]:
    """One burst; seconds by what was reached, what each process used for it."""
    hub = support.Hub(directory, "--partitions", str(PARTITIONS))
    try:
        meters.make_hubs(hub, PARTITIONS)
        begun_s = time.perf_counter()
        events = meters.publish(hub, points)
        published_s = time.perf_counter() - begun_s
        sender = meters.Sender(hub.kafka)
        begun_s = time.perf_counter()
        warm = list(meters.frames(min(points, 10_000), FIRST_S + 900, PARTITIONS))
        sender.send(warm)
        meters.await_groups(hub, begun_s)
        ready_s = time.perf_counter() - begun_s
        burst = list(meters.frames(points, FIRST_S + 1800, PARTITIONS))
        support.settle()
        before = meters.processes(hub)
        begun_s = time.perf_counter()
        accepted_s = sender.send(burst)
        reached = {"accepted": accepted_s} | meters.await_groups(hub, begun_s)
        sender.close()
        used = meters.processes(hub)
        for name, row in used.items():
            row["cpu_s"] -= before.get(name, {"cpu_s": 0})["cpu_s"]
        _check(directory, burst, points)
        model = {"model_events": events, "model_published_s": published_s, "workers_ready_s": ready_s}
        return {"meters": points, "seconds": reached, "processes": used, **model}
    finally:
        hub.stop()


def _check(directory: Path, burst: list[meters.Frame], points: int) -> None:
    from gridwire.capture.sql import query

    wanted = (sum(frame.watt_hours for frame in burst), sum(frame.count for frame in burst))
    found = meters.summed(directory / "data", FIRST_S + 1800)
    if found != wanted:
        raise SystemExit(f"sums of {points} meters (watt-hours, readings) are {found}, sent were {wanted}")
    sql = f"select count(*) from readings where ts_end = to_timestamp({FIRST_S + 1800})"
    rows = int(query(directory / "data" / "lake", sql, timeout_s=300).rows[0][0])
    if rows != wanted[1]:
        raise SystemExit(f"the lake has {rows} of {wanted[1]} readings")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without 5 million meters")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--meters", type=int, nargs="+")
    options = parser.parse_args()
    about = support.heading("burst")
    sizes = options.meters or [50_000, 500_000] + ([] if options.quick else [5_000_000])
    found: list[dict[str, Any]] = []
    for points in sizes:
        for _ in range(options.rounds):
            with support.scratch("burst") as directory:
                found.append(run(points, directory))
            report(found[-1])
    support.print_result(about | {"runs": found, "rows": rows(found)})


def report(told: dict[str, Any]) -> None:
    """One run, for people."""
    seconds = "  ".join(f"{name} {value:.2f} s" for name, value in told["seconds"].items())
    used = meters.processes_text(told["processes"])
    model = f"model: {told['model_events']} events in {told['model_published_s']:.1f} s, "
    model += f"workers ready {told['workers_ready_s']:.1f} s later"
    print(f"{told['meters']:>9,} meters  {seconds}\n           {used}\n           {model}", flush=True)


def rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table of all benchmarks."""
    out = []
    for points in sorted({told["meters"] for told in found}):
        mine = [told for told in found if told["meters"] == points]
        largest = points == 5_000_000
        for name in mine[0]["seconds"]:
            goal = {"goal_most": GOAL_S} if largest else {}
            out.append(_row(points, f"{name}, s", [told["seconds"][name] for told in mine], goal))
        cpu_s = [sum(used["cpu_s"] for used in told["processes"].values()) for told in mine]
        out.append(_row(points, "CPU seconds of hub and workers", cpu_s, {}))
        held = [told["processes"]["grid"]["bytes"] for told in mine]
        out.append(
            _row(points, "memory of the loads worker, bytes", held, {"goal_most": GOAL_BYTES} if largest else {})
        )
    return out


def _row(points: int, what: str, values: list[float], goal: dict[str, float]) -> dict[str, Any]:
    ours = support.Spread.of(values).fields()
    return {"what": f"burst of {points:,} meters: {what}", "ours": ours, "skipped": "none", "peer": ""} | goal


if __name__ == "__main__":
    main()
