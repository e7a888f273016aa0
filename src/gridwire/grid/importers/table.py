"""A network model as one table, a usage point a line: what a GIS or customer system exports in an hour.

    usage_point,transformer,feeder,substation,rated_kva,expects
    U1,T1,F1,S1,160,import_kwh
    U2,T1,F1,S1,160,import_kwh export_kwh

Needed are `usage_point` and `transformer`. Without `feeder` the transformer's own is meant. `phase` is 1 to 3, and 0
or empty for several or an unknown one; `meter` names the usage point that measures all that the transformer delivers;
`lon` and `lat` are degrees, where the transformer stands. What is said of a transformer may stand on any of its lines
and must not differ between them. Separators are commas, semicolons or tabs.
"""

from __future__ import annotations

import csv
import io
import math
from typing import Final

from gridwire.grid import reading_types
from gridwire.grid.importers.wiring import listed
from gridwire.grid.network import NOMINAL_V, Feeder, InvalidNetwork, Network, Transformer, UsagePoint, check

NEEDED: Final = ("usage_point", "transformer")
COLUMNS: Final = (*NEEDED, "feeder", "substation", "rated_kva", "nominal_v", "meter", "expects", "phase", "lon", "lat")


def read(data: bytes, name: str = "", interval_s: int = 900) -> Network:
    """The network of a table. Raises InvalidNetwork, naming all lines that are wrong, up to a limit."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidNetwork(f"the table is no UTF-8: byte {error.start}") from None
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = [column.strip().lower() for column in next(rows, [])]
        missing = [column for column in NEEDED if column not in header]
        if missing:
            raise InvalidNetwork(f"the table has no column {missing[0]!r}; it may have {', '.join(COLUMNS)}")
        table = _Table(header)
        for values in rows:
            if values:
                table.add(rows.line_num, [value.strip() for value in values])
    except csv.Error as error:
        raise InvalidNetwork(f"line {rows.line_num}: {error}") from None
    return table.network(name or "table", interval_s)


class _Table:
    """What the lines so far have said."""

    def __init__(self, header: list[str]) -> None:
        self._header = header
        self._points: dict[str, UsagePoint] = {}
        self._said: dict[tuple[str, str], str] = {}
        self._under: dict[str, set[str]] = {}
        self._problems: list[str] = []

    def add(self, line: int, values: list[str]) -> None:
        problem = self._add(values)
        if problem:
            self._problems.append(f"line {line}: {problem}")

    def _add(self, values: list[str]) -> str:
        """What is wrong with a line; "" when nothing is."""
        if len(values) != len(self._header):
            return f"{len(values)} values for {len(self._header)} columns"
        row = dict(zip(self._header, values, strict=True))
        id, transformer = row["usage_point"], row["transformer"]
        if not id or not transformer:
            return "usage_point or transformer is empty"
        if id in self._points:
            return f"usage point {id!r} comes twice"
        for column in ("substation", "rated_kva", "nominal_v", "meter", "lon", "lat"):
            said = row.get(column, "")
            if said and self._said.setdefault((transformer, column), said) != said:
                return f"{column} of transformer {transformer!r} differs from {self._said[transformer, column]!r}"
        expects = tuple(row.get("expects", "").split()) or ("import_kwh",)
        unknown = [alias for alias in expects if alias not in reading_types.BY_ALIAS]
        if unknown:
            return f"unknown reading type {unknown[0]!r}"
        if not _number(row.get("rated_kva", ""), 0.0) >= 0:
            return f"rated_kva {row['rated_kva']!r} is no number of kVA"
        if not _number(row.get("nominal_v", ""), NOMINAL_V) > 0:
            return f"nominal_v {row['nominal_v']!r} is no voltage"
        for column in ("lon", "lat"):
            if math.isnan(_number(row.get(column, ""), 0.0)):
                return f"{column} {row[column]!r} is no number of degrees"
        phase = row.get("phase", "") or "0"
        if phase not in ("0", "1", "2", "3"):
            return f"phase {phase!r} is not 0 to 3"
        feeder = row.get("feeder", "") or f"{transformer} feeder"
        self._under.setdefault(feeder, set()).add(transformer)
        self._points[id] = UsagePoint(id=id, transformer=transformer, feeder=feeder, expects=expects, phase=int(phase))
        return ""

    def _degrees(self, transformer: str, column: str) -> float | None:
        said = self._said.get((transformer, column))
        return None if said is None else _number(said, 0.0)

    def network(self, name: str, interval_s: int) -> Network:
        if self._problems:
            raise InvalidNetwork(f"{len(self._problems)} lines are wrong: {listed(self._problems)}")
        transformers = dict.fromkeys(point.transformer for point in self._points.values())
        feeders = [
            Feeder(id=id, transformer=next(iter(over)) if len(over) == 1 else "") for id, over in self._under.items()
        ]
        model = Network(
            name=name,
            interval_s=interval_s,
            transformers=tuple(
                Transformer(
                    id=id,
                    rated_kva=_number(self._said.get((id, "rated_kva"), ""), 0.0),
                    nominal_v=_number(self._said.get((id, "nominal_v"), ""), NOMINAL_V),
                    meter=self._said.get((id, "meter"), ""),
                    substation=self._said.get((id, "substation"), ""),
                    lon=self._degrees(id, "lon"),
                    lat=self._degrees(id, "lat"),
                )
                for id in transformers
            ),
            feeders=tuple(feeders),
            usage_points=tuple(self._points.values()),
        )
        check(model)
        return model


def _number(text: str, default: float) -> float:
    """A number; the default where nothing is said, NaN for what is none."""
    try:
        return float(text.replace(",", ".")) if text else default
    except ValueError:
        return float("nan")
