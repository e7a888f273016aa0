"""What really happened, beside the events: newline JSON for what is rare, Parquet for the sums.

truth/scenario.json       what was simulated, and how far it came
truth/outages.jsonl       id, level, subject, customers, start, end, cause, momentary
truth/theft.jsonl         usage_point, at, metered (share that is still measured)
truth/transformers.jsonl  transformer, at, fails, voltage_shift
truth/shifts.jsonl        transformer, at, factor
truth/swaps.jsonl         usage_point, at
truth/mapping.jsonl       usage_point, believed, real
truth/head_ends.jsonl     head_end, start, end
truth/sums/*.parquet      transformer, ts_end, import_wh, export_wh, load_kw: by the model, over all readings that
                          arrive sooner or later; `load_kw` is what the transformer really delivers, theft included
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from gridwire.core.errors import GridwireError
from gridwire.grid.reading import rfc3339
from gridwire.grid.simulate.arrivals import NEVER, HeadEndOutage
from gridwire.grid.simulate.faults import Changes, Faults
from gridwire.grid.simulate.load import Measured
from gridwire.grid.simulate.scenario import Scenario
from gridwire.grid.simulate.town import Town, point_id, transformer_id

_PROGRESS: Final = "scenario.json"

SUMS: Final = pa.schema(
    [
        pa.field("transformer", pa.string()),
        pa.field("ts_end", pa.timestamp("us", "UTC")),
        pa.field("import_wh", pa.int64()),
        pa.field("export_wh", pa.int64()),
        pa.field("count", pa.int32()),
        pa.field("load_kw", pa.float64()),
    ]
)
"""Columns of the sums."""


class Truth:
    """Writes the truth of one simulation into a directory."""

    def __init__(self, directory: Path, scenario: Scenario, town: Town) -> None:
        self._directory, self._scenario, self._town = directory, scenario, town
        self._ids = pa.array([transformer_id(number) for number in range(town.transformers)])
        (directory / "sums").mkdir(parents=True, exist_ok=True)

    def begin(self, faults: Faults, head_ends: Iterable[HeadEndOutage]) -> int:
        """Write what is known beforehand; the step to go on with.

        Raises:
            GridwireError: the directory holds the truth of another scenario.
        """
        done = self._done()
        town = self._town
        moved = np.flatnonzero(town.believed != town.transformer).tolist()
        tables: dict[str, Iterable[Mapping[str, Any]]] = {
            "outages": _outages(faults),
            "theft": _changes(faults.theft, "usage_point", point_id, "metered"),
            "shifts": _changes(faults.shifts, "transformer", transformer_id, "factor"),
            "swaps": _changes(faults.swaps, "usage_point", point_id, ""),
            "transformers": (
                {"transformer": transformer_id(f.transformer), "at": rfc3339(f.start_us), "fails": rfc3339(f.end_us),
                 "voltage_shift": f.shift}
                for f in faults.failing
            ),
            "mapping": (
                {"usage_point": point_id(u), "believed": transformer_id(int(town.believed[u])),
                 "real": transformer_id(int(town.transformer[u]))}
                for u in moved
            ),
            "head_ends": (
                {"head_end": each.head_end, "start": rfc3339(each.start_us), "end": rfc3339(each.end_us)}
                for each in head_ends
            ),
        }  # fmt: skip
        for name, rows in tables.items():
            data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
            (self._directory / f"{name}.jsonl").write_bytes(data)
        self.done(done)
        return done

    def _done(self) -> int:
        try:
            told = orjson.loads((self._directory / _PROGRESS).read_bytes())
        except FileNotFoundError:
            return 0
        if told.get("scenario") != self._plain():
            raise GridwireError(
                f"{self._directory} holds the truth of another simulation: name another directory, or remove it"
            )
        return int(told["steps"])

    def _plain(self) -> Any:
        return orjson.loads(orjson.dumps(dataclasses.asdict(self._scenario)))

    def done(self, steps: int) -> None:
        """So many steps are with the hub."""
        temporary = self._directory / f"{_PROGRESS}.tmp"
        temporary.write_bytes(orjson.dumps({"scenario": self._plain(), "steps": steps}))
        temporary.replace(self._directory / _PROGRESS)

    def sums(self, measured: Measured, delays: Any) -> None:
        """The sums of one interval, as the model has them."""
        town = self._town
        sent = delays != NEVER
        count = town.transformers
        believed = town.believed[sent]
        columns = [
            self._ids,
            pa.array(np.full(count, measured.ts_end_us), pa.timestamp("us", "UTC")),
            *(
                pa.array(np.bincount(believed, values[sent], minlength=count).astype(np.int64))
                for values in (measured.imported, measured.exported)
            ),
            pa.array(np.bincount(believed, minlength=count).astype(np.int32)),
            pa.array(measured.load_kw),
        ]
        table = pa.Table.from_arrays(columns, schema=SUMS)
        pq.write_table(table, self._directory / "sums" / f"{measured.interval:06d}.parquet")


def _outages(faults: Faults) -> Iterator[dict[str, Any]]:
    for each in faults.outages:
        yield {
            "id": each.number, "level": each.level, "subject": each.subject, "customers": each.last - each.first,
            "first_usage_point": point_id(each.first), "last_usage_point": point_id(each.last - 1),
            "start": rfc3339(each.start_us), "end": rfc3339(each.end_us), "cause": each.cause,
            "momentary": each.momentary,
        }  # fmt: skip


def _changes(changes: Changes, name: str, id_of: Any, factor: str) -> Iterator[dict[str, Any]]:
    for unit, at_us, left in zip(changes.units.tolist(), changes.at_us.tolist(), changes.factors.tolist(), strict=True):
        row = {name: id_of(unit), "at": rfc3339(at_us)}
        yield row | ({factor: round(left, 4)} if factor else {})
