"""Events as rows of a file: NDJSON and CSV; for Parquet NDJSON of lists, see `gridwire.columnar.parquet`.

Without chosen fields a row has all of an event, as `rendering` shows it; with them, its place, its time and the fields.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import orjson

from gridwire.core.batch import Event
from gridwire.wire.http.problems import HttpError
from gridwire.wire.http.rendering import event_json, parts_of
from gridwire.wire.http.where import Fields

PLACE: Final = ("partition", "offset", "timestamp")
WHOLE: Final = (*PLACE, "key", "value", "format", "headers")
TYPES: Final = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}

Row = Callable[[int, Event], bytes]


class Rows:
    """How events become rows. `opening`: what stands before the first."""

    def __init__(self, form: str, fields: Fields | None) -> None:
        self.form = form
        self._fields = fields
        columns = WHOLE if fields is None else (*PLACE, *(name for name in fields.names if name not in PLACE))
        self.columns = columns
        self.opening = {"ndjson": b"", "csv": _line(columns), "parquet": orjson.dumps(columns) + b"\n"}[form]
        self.row: Row = {"ndjson": self._ndjson, "csv": self._csv, "parquet": self._list}[form]

    @classmethod
    def parse(cls, form: str, fields: str | None) -> Rows:
        """Rows of a format with chosen fields. Raises HttpError 400."""
        if form not in TYPES:
            raise HttpError(400, f"format must be {', '.join(TYPES)}, not {form[:40]!r}")
        return cls(form, Fields.parse(fields) if fields else None)

    def _cells(self, partition: int, event: Event) -> dict[str, Any]:
        place = {"partition": partition, "offset": event.offset, "timestamp": event.timestamp}
        if self._fields is None:
            return place | {name: _unpacked(found) for name, found in parts_of(event).items()}
        found = zip(self._fields.names, self._fields.of(partition, event), strict=True)
        return {**dict(found), **place}

    def _ndjson(self, partition: int, event: Event) -> bytes:
        if self._fields is None:
            return event_json(partition, event) + b"\n"
        cells = self._cells(partition, event)
        return msgspec.json.encode({name: cells[name] for name in self.columns}) + b"\n"

    def _csv(self, partition: int, event: Event) -> bytes:
        cells = self._cells(partition, event)
        cells["timestamp"] = _moment(event.timestamp)
        return _line([_cell(cells[name]) for name in self.columns])

    def _list(self, partition: int, event: Event) -> bytes:
        cells = self._cells(partition, event)
        whole = self._fields is None
        row = [_cell(cells[name]) if whole and name not in PLACE else cells[name] for name in self.columns]
        return msgspec.json.encode(row) + b"\n"


def _cell(found: Any) -> str | None:
    """A value as the text of one cell."""
    if found is None or isinstance(found, str):
        return found
    return msgspec.json.encode(found).decode()


def _unpacked(found: Any) -> Any:
    """A key or value as it stands in a cell: base64 without its wrapping, as `format` says what it is."""
    return found["base64"] if isinstance(found, dict) and list(found) == ["base64"] else found


def _moment(timestamp_ms: int) -> str:
    """RFC 3339; a time that no calendar has stays a number."""
    try:
        moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return str(timestamp_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _line(cells: Any) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerow(["" if cell is None else cell for cell in cells])
    return out.getvalue().encode("utf-8", "surrogatepass")
