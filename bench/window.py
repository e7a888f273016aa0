"""What do two full days of a whole utility take in the worker of sums, and a snapshot of them?

    python bench/window.py [--quick] [--rounds N] [--meters N ...]

For 50 thousand, 500 thousand and 5 million meters: every quarter hour of two days is put into the state as the worker
does it, with its facts collected after each and a snapshot after every fourth, in a process of its own; large cells in
a file, as the worker has them, and in the same round all of them in memory. Told is the largest memory that the process
had of its own (files that it maps not counted), the longest snapshot, how long the last one takes to be read, and the
rate. The state that is read back must tell the same facts. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

import meters
import support

DAYS: Final = 2
GOAL_BYTES: Final = 1_200_000_000
FIGURES: Final = {
    "own_bytes": "memory, bytes",
    "snapshot_s": "longest snapshot, s",
    "read_s": "snapshot read, s",
    "readings_per_s": "put in and summed, readings/s",
}
FIRST_SLOT: Final = 1_767_571_200 // meters.INTERVAL_S
SNAPSHOT_SLOTS: Final = 4


def own_bytes() -> int:
    """Memory of this process that is nobody else's and in no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("no RssAnon in /proc/self/status")


def child(points: int, directory: Path, in_file: bool) -> dict[str, Any]:
    """Fill the window; what it took."""
    from gridwire.grid.loads import LoadsPipeline, LoadsSettings
    from gridwire.grid.placements import Timeline
    from gridwire.grid.snapshots import Snapshot, SnapshotStore

    settings = LoadsSettings(days=DAYS, directory=directory if in_file else None)
    timeline, none = Timeline.of(meters.network(points), 0), meters.network(0)
    pipeline = LoadsPipeline(none, settings, timeline=timeline)
    state, store = pipeline.state, SnapshotStore(directory, "window")
    units, channels = np.arange(points, dtype=np.int32), np.zeros(points, np.int8)
    versions, slots = np.zeros(points, np.int16), np.empty(points, np.int64)
    largest, snapshots_s, told = own_bytes(), [], 0
    begun_s = time.perf_counter()
    for slot in range(FIRST_SLOT, FIRST_SLOT + DAYS * state.per_day):
        slots[:] = slot
        state.apply(0, slots, units, channels, units.astype(np.int64) + slot % 7, versions)
        told += sum(map(len, state.collect()))
        if (slot - FIRST_SLOT) % SNAPSHOT_SLOTS == SNAPSHOT_SLOTS - 1:
            at_s = time.perf_counter()
            snapshot = Snapshot("same", {("readings", 0): slot}, pipeline.to_arrays())
            store.save(snapshot, pipeline.pieces(), pipeline.changed_pieces())
            pipeline.pieces_are_saved()
            snapshots_s.append(time.perf_counter() - at_s)
        largest = max(largest, own_bytes())
    filled_s = time.perf_counter() - begun_s - sum(snapshots_s)
    at_s = time.perf_counter()
    again = LoadsPipeline(none, settings, timeline=timeline)
    found = store.newest("same", {("readings", 0): 2**62})
    assert found is not None
    again.from_arrays(found.arrays)
    read_s = time.perf_counter() - at_s
    row = state.used_rows()[-1]
    for each in (state, again.state):
        each.mark(row)
    same = all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(state.collect(), again.state.collect(), strict=True)
        for name in ("groups", "slots", "imported", "counts", "versions", "peaks")
    )
    if not same:
        raise SystemExit("the state that was read back tells other facts")
    return {
        "meters": points, "in_file": in_file, "own_bytes": largest, "snapshot_s": max(snapshots_s), "read_s": read_s,
        "readings_per_s": points * DAYS * state.per_day / filled_s, "facts": told,
    }  # fmt: skip


def run(points: int, *, in_file: bool) -> dict[str, Any]:
    """One window in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, __file__, "--child", str(points), directory, str(int(in_file))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer meters, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--meters", type=int, nargs="+", default=[50_000, 500_000, 5_000_000])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        points, directory, in_file = options.child
        print(json.dumps(child(int(points), Path(directory), bool(int(in_file)))))
        return
    about = support.heading("window")
    found: list[dict[str, Any]] = []
    for number in range(1 if options.quick else options.rounds):
        for points in [50_000] if options.quick else options.meters:
            for in_file in (True, False) if number % 2 else (False, True):
                found.append(run(points, in_file=in_file))
                report(found[-1])
    support.print_result(about | {"runs": found, "rows": rows(found)})


def report(told: dict[str, Any]) -> None:
    """One run, for people."""
    where = "file" if told["in_file"] else "memory"
    print(
        f"{told['meters']:>9,} meters, {where:6}  {told['own_bytes'] / 1e6:8,.0f} MB own, "
        f"snapshot {told['snapshot_s']:.2f} s, read back in {told['read_s']:.2f} s, "
        f"{told['readings_per_s'] / 1e6:.2f} M readings/s",
        flush=True,
    )


def rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table of all benchmarks."""
    out = []
    for points in sorted({told["meters"] for told in found}):
        pairs = [[told for told in found if told["meters"] == points and told["in_file"] is it] for it in (True, False)]
        for name, what in FIGURES.items():
            ours, theirs = ([told[name] for told in half] for half in pairs)
            goal = {"goal_most": GOAL_BYTES} if (points, name) == (5_000_000, "own_bytes") else {}
            out.append(_row(f"two full days of {points:,} meters: {what}", ours, theirs, goal))
    return out


def _row(what: str, ours: list[float], theirs: list[float], goal: dict[str, float]) -> dict[str, Any]:
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    spreads = {"ours": ours, "theirs": theirs, "ratio": ratios}
    fields = {name: support.Spread.of(values).fields() for name, values in spreads.items()}
    return {"what": what, "peer": "all cells in memory", **fields, **goal}


if __name__ == "__main__":
    main()
