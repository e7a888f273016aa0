"""Which meter measured which usage point, from when to when: what registers mean.

    {"meter":"M1","usage_point":"U1","from":"2024-05-01T10:00:00Z","to":"2026-03-02T09:30:00Z",
     "start_register":"0","end_register":"12345.6","dials":6,"multiplier":1}

One row is one meter at one place with one multiplier; a swap or a new multiplier ends a row and begins another one. The
rows are part of the network model. `from` and `to` say when it was so in the grid; when it was known is where the model
stands in the log, so both times can be asked for. A new model makes the derived readings of the window again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Final

import msgspec

from gridwire.core.errors import GridwireError
from gridwire.grid import reading_types
from gridwire.grid.reading import timestamp_us

DIALS_MAX: Final = 11
"""Digits before the point that a register may have."""


class InvalidTable(GridwireError):
    """A table of meters that cannot be read; the message lists every problem."""


class MeterInstall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """See the module.

    Args:
        reading_type: alias of the register. begin, end: RFC 3339, `from` and `to` in JSON; "" goes on.
        start_register, end_register: what it showed then, "" unknown.
        dials: digits before the point: at 10^dials it begins at 0 again. 0: it never does.
        multiplier: what its difference is multiplied with, the ratio of its transformers.
    """

    meter: str
    usage_point: str
    begin: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to", default="")
    reading_type: str = "import_register_kwh"
    start_register: str = ""
    end_register: str = ""
    dials: int = 6
    multiplier: float = 1.0

    @property
    def begin_us(self) -> int:
        """Microseconds since the epoch."""
        return timestamp_us(datetime.fromisoformat(self.begin))

    @property
    def end_us(self) -> int:
        """Microseconds since the epoch; far away while it goes on."""
        return timestamp_us(datetime.fromisoformat(self.end)) if self.end else 2**62


def read_table(data: bytes, *, json: bool) -> tuple[MeterInstall, ...]:
    """Rows of a JSON list or of CSV with these names in its first line; empty cells are defaults.

    Raises:
        InvalidTable: with the row that cannot be read.
    """
    try:
        text = data.decode("utf-8-sig")
        found = msgspec.json.decode(text) if json else list(csv.DictReader(io.StringIO(text)))
    except (UnicodeDecodeError, msgspec.MsgspecError, csv.Error) as error:
        raise InvalidTable(f"the table of meters cannot be read: {error}") from None
    if not isinstance(found, list):
        raise InvalidTable("the table of meters must be a list of rows")
    problems, rows = [], []
    for number, row in enumerate(found, 1):
        try:
            cells = {k: v for k, v in row.items() if k and v not in ("", None)} if isinstance(row, dict) else row
            rows.append(msgspec.convert(cells, MeterInstall, strict=False))
        except msgspec.ValidationError as error:
            problems.append(f"row {number}: {error}")
    if problems:
        raise InvalidTable("the table of meters: " + "; ".join(problems))
    return tuple(rows)


def problems_of(installs: Sequence[MeterInstall], usage_points: Collection[str]) -> list[str]:
    """Everything that is wrong with a table: unknown places, times that are none, two meters at once."""
    problems: list[str] = []
    sound: list[MeterInstall] = []
    for install in installs:
        found = list(_faults(install, usage_points))
        problems += [f"meter {install.meter!r} at {install.usage_point!r}: {fault}" for fault in found]
        if not found:
            sound.append(install)
    by_place: dict[tuple[str, str], list[MeterInstall]] = {}
    for install in sound:
        by_place.setdefault((install.usage_point, install.reading_type), []).append(install)
    for (point, _), rows in by_place.items():
        rows.sort(key=lambda row: row.begin_us)
        for one, other in pairwise(rows):
            if one.end_us > other.begin_us:
                problems.append(f"meters {one.meter!r} and {other.meter!r} are both at {point!r} from {other.begin}")
    return problems


def _faults(install: MeterInstall, usage_points: Collection[str]) -> Iterable[str]:
    if install.usage_point not in usage_points:
        yield "unknown usage point"
    kind = reading_types.BY_ALIAS.get(install.reading_type)
    if kind is None or kind.accumulation is not reading_types.Accumulation.REGISTER:
        yield f"{install.reading_type!r} is no register"
    try:
        if install.begin_us >= install.end_us:
            yield f"it ends before it begins: {install.begin} to {install.end}"
    except ValueError as error:
        yield f"from or to is no time with an offset ({error})"
    for name, text in (("start_register", install.start_register), ("end_register", install.end_register)):
        try:
            if text and not 0 <= Decimal(text) < 10**DIALS_MAX:
                yield f"{name} {text!r} is out of range"
        except InvalidOperation:
            yield f"{name} {text!r} is no number"
    if not 0 <= install.dials <= DIALS_MAX:
        yield f"dials must be 0 to {DIALS_MAX}, not {install.dials}"
    if not 0 < install.multiplier < float("inf"):
        yield f"multiplier must be positive, not {install.multiplier}"
