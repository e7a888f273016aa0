"""Flat JSON objects to typed columns, straight from the spans of the events.

    decoder = JsonDecoder([JsonField("value", "decimal", required=True), JsonField("quality", "text")])
    readings = decoder.decode(columns)
    mantissa, scale = readings.decimal("value")

Every row gets a status: OK, or what is wrong with it. Members nobody declared are checked and passed over; of members
with the same name the last counts; null is the same as absent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from gridwire.columnar import json_kernel as k
from gridwire.columnar.columns import EventColumns
from gridwire.columnar.decode import Bytes, as_bytes
from gridwire.columnar.gather import bounded
from gridwire.columnar.json_fallback import parse
from gridwire.columnar.machine import kernel

Kind = Literal["text", "decimal", "int64", "timestamp_us", "bool"]

_KINDS: Final = {
    "text": k.TEXT,
    "decimal": k.DECIMAL,
    "int64": k.INT64,
    "timestamp_us": k.TIMESTAMP_US,
    "bool": k.BOOL,
}

Longs = NDArray[np.int64]
Ints = NDArray[np.int32]


class Status(IntEnum):
    """What became of a row."""

    OK = k.OK
    NO_VALUE = k.NO_VALUE
    MALFORMED = k.MALFORMED
    NOT_OBJECT = k.NOT_OBJECT
    NESTED_TOO_DEEP = k.NESTED_TOO_DEEP
    MISSING = k.MISSING
    WRONG_TYPE = k.WRONG_TYPE
    BAD_TIMESTAMP = k.BAD_TIMESTAMP
    OUT_OF_RANGE = k.OUT_OF_RANGE
    BAD_TEXT = k.BAD_TEXT


_REASONS: Final = {
    Status.OK: "",
    Status.NO_VALUE: "the event has no value",
    Status.MALFORMED: "malformed JSON at byte {where}",
    Status.NOT_OBJECT: "JSON, but not an object",
    Status.NESTED_TOO_DEEP: "JSON nested too deeply",
    Status.MISSING: "missing required field {field}",
    Status.WRONG_TYPE: "field {field} has the wrong type: expected {kind}",
    Status.BAD_TIMESTAMP: "field {field} is not an RFC 3339 timestamp with a time zone",
    Status.OUT_OF_RANGE: "number in field {field} has more digits or a larger exponent than can be kept exactly",
    Status.BAD_TEXT: "text in field {field} has half of a surrogate pair",
}

_WORDS: Final = {
    "text": "a string",
    "decimal": "a number",
    "int64": "a whole number",
    "timestamp_us": "a string with a timestamp",
    "bool": "true or false",
}


@dataclass(frozen=True, slots=True)
class JsonField:
    """A member to decode. A row without a required one, or with null for it, is not OK."""

    name: str
    kind: Kind
    required: bool = False


class JsonColumns:
    """n rows of typed columns; rows that are not OK have no values.

    Args:
        data: `uint8[*]`, what the spans of texts point into.
        status: `uint8[n]`, see `Status`.
    """

    def __init__(
        self, fields: Sequence[JsonField], data: Bytes, longs: Longs, ints: Ints, present: Longs,
        status: NDArray[np.uint8], where: Ints, flawed: int,
    ) -> None:  # fmt: skip
        self.fields = tuple(fields)
        self.data = data
        self.status = status
        self.flawed = flawed
        """Rows that are not OK."""
        self._longs = longs
        self._ints = ints
        self._present = present
        self._where = where
        self._index = {field.name: number for number, field in enumerate(self.fields)}

    def __len__(self) -> int:
        return len(self.status)

    def text(self, name: str) -> tuple[Longs, Ints]:
        """(starts, lengths) of UTF-8 text in `data`; a length of -1 is absent."""
        field = self._field(name, "text")
        return self._longs[field], self._ints[field]

    def decimal(self, name: str) -> tuple[Longs, NDArray[np.int8]]:
        """(mantissa, scale): value = mantissa * 10^scale, digits as written; zero where absent, see `valid`."""
        field = self._field(name, "decimal")
        return self._longs[field], self._ints[field].astype(np.int8)

    def int64(self, name: str) -> Longs:
        """Whole numbers; zero where absent, see `valid`."""
        return self._row(name, "int64")

    def timestamp_us(self, name: str) -> Longs:
        """Microseconds since the epoch, UTC; zero where absent, see `valid`."""
        return self._row(name, "timestamp_us")

    def bool(self, name: str) -> NDArray[np.bool_]:
        """Truth values; false where absent, see `valid`."""
        return self._row(name, "bool").astype(np.bool_)

    def valid(self, name: str) -> NDArray[np.bool_]:
        """`bool[n]`: the row is OK and has the field."""
        bit = np.int64(1 << self._index[name])
        return (self._present & bit).astype(np.bool_)

    def bad_rows(self) -> Longs:
        """Rows that are not OK."""
        return np.flatnonzero(self.status).astype(np.int64) if self.flawed else np.empty(0, np.int64)

    def reason(self, row: int) -> str:
        """What is wrong with a row, for the person who sent it; empty when it is OK."""
        status = Status(int(self.status[row]))
        where = int(self._where[row])
        field = self.fields[where] if status >= Status.MISSING else None
        return _REASONS[status].format(
            where=where, field=field.name if field else "", kind=_WORDS[field.kind] if field else ""
        )

    def texts(self, name: str, rows: Sequence[int] | Longs | None = None) -> list[str | None]:
        """Texts as Python strings: the slow way."""
        starts, lengths = self.text(name)
        chosen = range(len(self)) if rows is None else rows
        spans = ((int(starts[row]), int(lengths[row])) for row in chosen)
        return [None if size < 0 else self.data[at : at + size].tobytes().decode() for at, size in spans]

    def _row(self, name: str, kind: Kind) -> Longs:
        row: Longs = self._longs[self._field(name, kind)]
        return row

    def _field(self, name: str, kind: Kind) -> int:
        number = self._index[name]
        if self.fields[number].kind != kind:
            raise TypeError(f"field {name} was declared as {self.fields[number].kind}, not {kind}")
        return number


class JsonDecoder:
    """Decodes rows with the same fields; remembers the order they came in. Not for several threads at once.

    Raises:
        ValueError: too many fields, a repeated, too long or unprintable name, or an unknown kind.
    """

    def __init__(self, fields: Sequence[JsonField]) -> None:
        _check(fields)
        self.fields = tuple(fields)
        self._names = [field.name for field in self.fields]
        self._required = [field.required for field in self.fields]
        self._kinds = [_KINDS[field.kind] for field in self.fields]
        self._required_bits = sum(1 << number for number, field in enumerate(self.fields) if field.required)
        # The epoch, remembered as microsecond 0: a memory of zeros would accept zeros.
        text = b"1970-01-01T00:00:00Z"
        memory = text[:8] + text[8:16] + text[12:20] + bytes(8)
        table = bytearray()
        for field in self.fields:
            name = f'"{field.name}":'.encode()
            table += name.ljust(k.NAME_ROOM, b"\0") + (b"\xff" * len(name)).ljust(k.NAME_ROOM, b"\0")
            table += len(name).to_bytes(8, "little") + _KINDS[field.kind].to_bytes(8, "little") + memory
        self._table = np.frombuffer(table, np.uint8)
        self._order = np.full(k.ORDER_MAX, -1, np.int64)
        self._order[: len(self.fields)] = np.arange(len(self.fields))

    def decode(self, columns: EventColumns) -> JsonColumns:
        """Decode the values of events."""
        return self.decode_spans(columns.data, columns.value_starts, columns.value_lengths)

    def decode_spans(self, data: Bytes, starts: Longs, lengths: Ints) -> JsonColumns:
        """Decode rows given as spans; a length of -1 is an event without a value.

        Raises:
            ValueError: a span lies outside of `data`.
        """
        starts, lengths = np.ascontiguousarray(starts), np.ascontiguousarray(lengths)
        if not bounded(starts, lengths, len(data)):
            raise ValueError("spans lie outside of their data")
        data = as_bytes(data)
        n = len(starts)
        longs = np.empty((len(self.fields), n), np.int64)
        ints = np.empty((len(self.fields), n), np.int32)
        present = np.empty(n, np.int64)
        status = np.empty(n, np.uint8)
        where = np.empty(n, np.int32)
        flawed = k.parse_rows(
            data, starts, lengths, self._table, self._required_bits, self._order.view(np.uint8),
            longs.view(np.uint8).reshape(-1), ints.view(np.uint8).reshape(-1), present, status, where,
        )  # fmt: skip
        found = JsonColumns(self.fields, data, longs, ints, present, status, where, flawed)
        if flawed:
            self._reread(found, starts, lengths)
        return found

    def _reread(self, found: JsonColumns, starts: Longs, lengths: Ints) -> None:
        """Read irregular rows one by one; their texts go to the end of a copy of the data."""
        irregular = np.flatnonzero(found.status == k.IRREGULAR)
        if len(irregular) == 0:
            return
        extra: list[bytes] = []
        size = len(found.data)
        for row in irregular.tolist():
            at = int(starts[row])
            raw = found.data[at : at + int(lengths[row])].tobytes()
            parsed = parse(raw, self._names, self._kinds, self._required)
            found.status[row], found._where[row] = parsed.status, parsed.field
            found.flawed -= parsed.status == k.OK
            for field, cell in enumerate(parsed.values):
                if cell is None:
                    continue
                part, short = cell
                if isinstance(part, bytes):
                    extra.append(part)
                    part, size = size, size + short
                found._longs[field, row], found._ints[field, row] = part, short
                found._present[row] |= 1 << field
        if extra:
            self._extend(found, b"".join(extra))

    def _extend(self, found: JsonColumns, texts: bytes) -> None:
        """Put `texts` behind a copy of that part of the data that spans point into."""
        whole = len(found.data)
        first, last = whole, 0
        fields = [number for number, field in enumerate(self.fields) if field.kind == "text"]
        for field in fields:
            starts, lengths = found._longs[field], found._ints[field]
            inside = (lengths > 0) & (starts < whole)
            first = min(first, int(starts[inside].min(initial=whole)))
            last = max(last, int((starts[inside] + lengths[inside]).max(initial=0)))
        last = max(first, last)
        for field in fields:
            starts, lengths = found._longs[field], found._ints[field]
            starts -= np.where(starts >= whole, whole - (last - first), first)
            starts[lengths <= 0] = 0
        found.data = as_bytes(np.concatenate([found.data[first:last], np.frombuffer(texts, np.uint8)]))


def _check(fields: Sequence[JsonField]) -> None:
    names = [field.name for field in fields]
    if not 0 < len(fields) <= k.FIELDS_MAX or len(set(names)) != len(names):
        raise ValueError(f"give 1 to {k.FIELDS_MAX} fields with different names")
    for field in fields:
        if json.dumps(field.name, ensure_ascii=False) != f'"{field.name}"' or "\x7f" in field.name:
            raise ValueError(f"field name {field.name!r} cannot be written without escapes")
        if len(field.name.encode()) > k.NAME_BYTES_MAX:
            raise ValueError(f"field name {field.name!r} is longer than {k.NAME_BYTES_MAX} bytes")
        if field.kind not in _KINDS:
            raise ValueError(f"unknown kind {field.kind!r} of field {field.name}: choose from {', '.join(_KINDS)}")


_POWERS: Final = np.array([10**power for power in range(19)], np.int64)


def rescale(mantissa: Longs, scale: NDArray[np.int8], to: int) -> tuple[Longs, NDArray[np.bool_]]:
    """Bring decimals to one scale: (value * 10^-to as int64, whether that is exact).

    For example to=-6 turns kWh into whole milliwatt-hours. Where it is not exact the value is zero.
    """
    values = np.empty(len(mantissa), np.int64)
    exact = np.empty(len(mantissa), np.bool_)
    _rescale(np.ascontiguousarray(mantissa), np.ascontiguousarray(scale), to, _POWERS, values, exact)
    return values, exact


@kernel
def _rescale(mantissa: Any, scale: Any, to: int, powers: Any, values: Any, exact: Any) -> None:
    for row in range(len(mantissa)):
        value = mantissa[row]
        shift = np.int64(scale[row]) - to
        power = powers[min(abs(shift), 18)]
        fits = value == 0 or shift == 0
        if not fits and abs(shift) < 19 and value != -(2**63):
            if shift > 0:
                fits = abs(value) <= (2**63 - 1) // power
                value *= power
            else:
                fits = value % power == 0
                value //= power
        values[row] = value if fits else 0
        exact[row] = fits
