"""Rows to a Parquet file: a process of its own, so that the hub stays without pyarrow.

    python -m gridwire.columnar.parquet < rows > file

Rows are lists in NDJSON, the first one the names of the columns. `timestamp` is milliseconds and becomes a time. A
column is int64, double or boolean if all its values are, else text, and values that are no text stand there as JSON. So
all rows are read, into a file without a name, before the first is written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from tempfile import TemporaryFile
from typing import IO, Any, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

ROWS: Final = 20_000
"""Rows of a row group."""

_INT64: Final = range(-(2**63), 2**63)
_TYPES: Final = {"int": pa.int64(), "double": pa.float64(), "bool": pa.bool_(), "text": pa.string()}


def convert(rows: IO[bytes], out: IO[bytes]) -> None:
    """All rows as one Parquet file."""
    names: list[str] = orjson.loads(rows.readline())
    kinds: list[str | None] = [None] * len(names)
    with TemporaryFile() as kept:
        for line in rows:
            kinds = [_joined(kind, cell) for kind, cell in zip(kinds, orjson.loads(line), strict=True)]
            kept.write(line)
        kept.seek(0)
        schema = pa.schema([(name, _type(name, kind)) for name, kind in zip(names, kinds, strict=True)])
        with pq.ParquetWriter(out, schema, compression="zstd") as writer:
            for group in _groups(kept):
                writer.write_table(_table(group, schema, kinds))


def _joined(kind: str | None, cell: Any) -> str | None:
    """What a column is that was of a kind until now, with one more value."""
    if cell is None or kind == "text":
        return kind
    own = "text"
    if isinstance(cell, bool):
        own = "bool"
    elif isinstance(cell, int) and cell in _INT64:
        own = "int"
    elif isinstance(cell, float):
        own = "double"
    if kind in (None, own):
        return own
    return "double" if {kind, own} == {"int", "double"} else "text"


def _type(name: str, kind: str | None) -> pa.DataType:
    if name == "timestamp":
        return pa.timestamp("ms", tz="UTC")
    return _TYPES[kind or "text"]


def _groups(kept: IO[bytes]) -> Iterator[list[list[Any]]]:
    while lines := list(islice(kept, ROWS)):
        yield [orjson.loads(line) for line in lines]


def _table(rows: list[list[Any]], schema: pa.Schema, kinds: list[str | None]) -> pa.Table:
    columns = [
        pa.array([_cell(row[at], kind) for row in rows], type=field.type)
        for at, (field, kind) in enumerate(zip(schema, kinds, strict=True))
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _cell(cell: Any, kind: str | None) -> Any:
    if kind == "text" and cell is not None and not isinstance(cell, str):
        return orjson.dumps(cell).decode()
    return cell


if __name__ == "__main__":
    convert(sys.stdin.buffer, sys.stdout.buffer)
