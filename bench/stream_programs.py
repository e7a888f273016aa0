"""The same stream program on other engines; runs in the virtual environment that `stream_peers` makes.

    python stream_programs.py ENGINE FILE

A file of readings, one JSON object a line with `transformer`, `at` and `value`, in; sums and counts by transformer and
quarter hour out. Prints one JSON object: seconds from the first line read to the last sum, the imports not counted,
and the sums, in thousandths, so that all engines can be compared exactly.

    loop      orjson in a plain loop, one process: what Python can do at most without columns
    duckdb    one batch query: what a database can do at most with the whole file there
    pathway   a static run, grouped by transformer and the time rounded down
    bytewax   an event clock and tumbling windows, one worker
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

Sums = dict[tuple[str, str], list[int]]
"""(transformer, begin of the quarter hour) -> [sum in thousandths, count]."""

QUARTER = timedelta(minutes=15)
START = datetime(2026, 1, 1, tzinfo=UTC)


def begin_of(at: str) -> str:
    """Begin of the quarter hour, `2026-01-05T00:15`."""
    return f"{at[:14]}{int(at[14:16]) // 15 * 15:02d}"


def loop(path: str) -> tuple[float, Sums]:
    import orjson

    began_s = time.perf_counter()
    sums: dict[tuple[str, str], list[float]] = {}
    with open(path, "rb") as lines:
        for line in lines:
            reading = orjson.loads(line)
            found = sums.setdefault((reading["transformer"], begin_of(reading["at"])), [0.0, 0])
            found[0] += reading["value"]
            found[1] += 1
    took_s = time.perf_counter() - began_s
    return took_s, exact((*key, *found) for key, found in sums.items())


def duckdb(path: str) -> tuple[float, Sums]:
    import duckdb as engine

    began_s = time.perf_counter()
    rows = engine.sql(
        "select transformer, strftime(time_bucket(interval 15 minute, \"at\"), '%Y-%m-%dT%H:%M'), sum(value), count(*) "
        f"from read_json('{path}', format = 'newline_delimited', "
        "columns = {transformer: 'varchar', 'at': 'timestamp', value: 'double'}) group by all"
    ).fetchall()
    return time.perf_counter() - began_s, exact(rows)


def pathway(path: str) -> tuple[float, Sums]:
    import pathway as pw

    class Reading(pw.Schema):
        transformer: str
        at: str
        value: float

    with tempfile.TemporaryDirectory() as directory:
        out = os.path.join(directory, "sums.jsonl")
        readings = pw.io.jsonlines.read(path, schema=Reading, mode="static")
        times = readings.at.dt.strptime("%Y-%m-%dT%H:%M:%SZ").dt.floor(QUARTER)
        readings = readings.with_columns(begin=times)
        sums = readings.groupby(pw.this.transformer, pw.this.begin).reduce(
            pw.this.transformer, pw.this.begin, value=pw.reducers.sum(pw.this.value), count=pw.reducers.count()
        )
        pw.io.jsonlines.write(sums, out)
        began_s = time.perf_counter()
        pw.run(monitoring_level=pw.MonitoringLevel.NONE)
        took_s = time.perf_counter() - began_s
        with open(out, "rb") as lines:
            rows = [json.loads(line) for line in lines]
    return took_s, exact((row["transformer"], row["begin"][:16], row["value"], row["count"]) for row in rows)


def bytewax(path: str) -> tuple[float, Sums]:
    import bytewax.operators as op
    import bytewax.operators.windowing as windows
    import orjson
    from bytewax.connectors.files import FileSource
    from bytewax.dataflow import Dataflow
    from bytewax.testing import TestingSink, run_main

    def parsed(line: str) -> tuple[str, dict[str, Any]]:
        reading = orjson.loads(line)
        reading["at"] = datetime.fromisoformat(reading["at"])
        return reading["transformer"], reading

    def fold(sums: list[float], reading: dict[str, Any]) -> list[float]:
        return [sums[0] + reading["value"], sums[1] + 1]

    clock = windows.EventClock(ts_getter=lambda reading: reading["at"], wait_for_system_duration=timedelta(0))
    windower = windows.TumblingWindower(length=QUARTER, align_to=START)
    found: list[Any] = []
    flow = Dataflow("sums")
    lines = op.input("in", flow, FileSource(path, batch_size=1000))
    keyed = op.map("parse", lines, parsed)
    sums = windows.fold_window(
        "sum", keyed, clock, windower, lambda: [0.0, 0], fold, lambda one, two: [one[0] + two[0], one[1] + two[1]]
    )
    op.output("out", sums.down, TestingSink(found))
    began_s = time.perf_counter()
    run_main(flow)
    took_s = time.perf_counter() - began_s
    return took_s, exact(
        (name, (START + number * QUARTER).strftime("%Y-%m-%dT%H:%M"), *values) for name, (number, values) in found
    )


def exact(rows: Iterable[tuple[Any, ...]]) -> Sums:
    """Sums of values of three decimals, free of what floating point adds."""
    return {(transformer, begin): [round(value * 1000), int(count)] for transformer, begin, value, count in rows}


ENGINES: dict[str, Callable[[str], tuple[float, Sums]]] = {
    "loop": loop,
    "duckdb": duckdb,
    "pathway": pathway,
    "bytewax": bytewax,
}


def main() -> None:
    took_s, sums = ENGINES[sys.argv[1]](sys.argv[2])
    told = [[*key, *value] for key, value in sorted(sums.items())]
    print(json.dumps({"seconds": took_s, "sums": told}))


if __name__ == "__main__":
    main()
