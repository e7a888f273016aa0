"""How fast is validation and estimation beside the sums? The same readings through both pipelines, in one process.

    .venv/bin/python bench/vee_pipeline.py [--points 10000] [--intervals 40] [--rounds 3]

JSON readings of which 1 % are missing, in commits of 20 intervals: `LoadsPipeline` (decode, validate, sum) and
`VeePipeline` (decode, validate, judge every channel with its two weeks of history, estimate) take turns. No log and no
hub: what is compared is the work of the two stages. Ratios are the result.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Any

from gridwire.broker.port import ColumnBatch
from gridwire.columnar.decode import decode
from gridwire.core import batch
from gridwire.core.batch import Event
from gridwire.grid.loads import LoadsPipeline
from gridwire.grid.network import Network
from gridwire.grid.vee.pipeline import VeePipeline
from readings_pipeline import commit_id, machine, utility

COMMIT_INTERVALS = 20


def batches(network: Network, intervals: int) -> list[ColumnBatch]:
    source = random.Random(1)
    found, offset = [], 0
    for number in range(1, intervals + 1):
        day, rest = divmod(number, 96)
        ts_end = f"2016-01-{day + 1:02d}T{rest // 4:02d}:{rest % 4 * 15:02d}:00Z"
        events = [
            Event(
                f'{{"usage_point":"{unit.id}","ts_end":"{ts_end}","interval_s":900,"reading_type":"import_kwh",'
                f'"value":{source.random() / 4 + 0.1:.3f}}}'.encode(), None, (), 0,
            )
            for unit in network.usage_points
            if source.random() > 0.01
        ]  # fmt: skip
        data = bytes(batch.encode(events, base_offset=offset))
        (columns,) = decode(data, 0, len(data), from_offset=offset).columns
        offset += len(events)
        found.append(ColumnBatch("readings", 0, columns, offset))
    return found


def run(pipeline: Any, input: list[ColumnBatch]) -> float:
    """Readings a second."""
    begun_s = time.perf_counter()
    for begin in range(0, len(input), COMMIT_INTERVALS):
        pipeline.take(input[begin : begin + COMMIT_INTERVALS])
        pipeline.outputs(0, lambda hub: 1)
    return sum(len(each.columns) for each in input) / (time.perf_counter() - begun_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--intervals", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    network = utility(options.points)
    input = batches(network, options.intervals)
    print(f"machine {machine()}\ncommit  {commit_id()}")
    run(LoadsPipeline(network), input), run(VeePipeline(network), input)  # compiles, touches memory
    rates = [(run(LoadsPipeline(network), input), run(VeePipeline(network), input)) for _ in range(options.rounds)]
    for name, row in (("sums", [a for a, _ in rates]), ("VEE", [b for _, b in rates])):
        low, middle, high = min(row), statistics.median(row), max(row)
        print(f"{name:<6} readings/s  min {low:>12,.0f}  median {middle:>12,.0f}  max {high:>12,.0f}")
    ratios = [b / a for a, b in rates]
    print(f"ratio  {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})")


if __name__ == "__main__":
    main()
