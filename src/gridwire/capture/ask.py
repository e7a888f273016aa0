"""One question about the lake, answered by a process that ends with it: what the hub runs for `POST /v1/sql`.

    python -m gridwire.capture.ask LAKE  <  {"query":"select ...","limit":1000,"format":"json"}
    {"error":"..."}  or  {} and, from the next line on, the answer in that format

A question without a query is one for the tables there are. The process is what bounds a question besides DuckDB's own
limits: whoever asked may kill it at any time.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from gridwire.capture import sql
from gridwire.capture.sql import SqlError
from gridwire.core.limits import MIB

TIMEOUT_S: Final = 30.0
MEMORY_BYTES: Final = 512 * MIB
_WHOLE: Final = range(-(2**63), 2**64)
"""Integers that JSON has exactly here."""


class Question(msgspec.Struct, frozen=True):
    """What the hub asks."""

    query: str = ""
    limit: int = 10_000
    format: str = "json"


def answer(lake: Path, question: Question) -> bytes:
    """The answer in the format asked for. Raises SqlError."""
    if not question.query:
        return msgspec.json.encode({"tables": tables(lake)})
    if question.format == "json":
        return rows(lake, question)
    found = sql.arrow(lake, question.query, limit_rows=question.limit, timeout_s=TIMEOUT_S, memory_bytes=MEMORY_BYTES)
    return _WRITERS[question.format](found)


def tables(lake: Path) -> list[dict[str, Any]]:
    """Tables with their columns, as questions see them."""
    found = []
    for info in sql.tables(lake):
        name = '"' + info.name.replace('"', '""') + '"'
        described = sql.query(lake, f"DESCRIBE {name}", memory_bytes=MEMORY_BYTES)
        columns = [{"name": row[0], "type": row[1]} for row in described.rows]
        found.append({"name": info.name, "rows": info.rows, "updated_ms": info.updated_ms, "columns": columns})
    return found


def rows(lake: Path, question: Question) -> bytes:
    """Columns, rows and whether there were more than the limit, in JSON."""
    found = sql.query(lake, question.query, limit_rows=question.limit, timeout_s=TIMEOUT_S, memory_bytes=MEMORY_BYTES)
    columns = [{"name": name, "type": kind} for name, kind in zip(found.columns, found.types, strict=True)]
    told = {
        "columns": columns, "rows": [[_plain(value) for value in row] for row in found.rows],
        "truncated": found.truncated, "took_ms": round(found.took_s * 1000, 1),
    }  # fmt: skip
    return msgspec.json.encode(told)


def _plain(value: Any) -> Any:
    """A value as JSON has it: decimals as numbers, integers beyond 64 bits as text, the unknown as text."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, int) and value not in _WHOLE:
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _csv(table: pa.Table) -> bytes:
    out = io.BytesIO()
    names = table.schema.names
    columns = [_cells(table.column(place)) for place in range(len(names))]
    pyarrow.csv.write_csv(pa.Table.from_arrays(columns, names), out)
    return out.getvalue()


def _cells(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column that a line of text can hold; lists and structures as JSON."""
    if not (pa.types.is_nested(column.type) or pa.types.is_binary(column.type)):
        return column
    texts = [None if value is None else msgspec.json.encode(_plain(value)).decode() for value in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _ndjson(table: pa.Table) -> bytes:
    lines = (msgspec.json.encode(_plain(row)) for row in table.to_pylist())
    return b"".join(line + b"\n" for line in lines)


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out, compression="zstd")
    return out.getvalue()


_WRITERS: Final[Mapping[str, Callable[[pa.Table], bytes]]] = {"csv": _csv, "ndjson": _ndjson, "parquet": _parquet}


def main() -> None:
    """See the module."""
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    try:
        found = answer(Path(sys.argv[1]), question)
    except (SqlError, pa.ArrowException, msgspec.MsgspecError) as error:
        sys.stdout.buffer.write(msgspec.json.encode({"error": str(error)}) + b"\n")
        return
    sys.stdout.buffer.write(b"{}\n")
    sys.stdout.buffer.write(found)


if __name__ == "__main__":
    main()
