"""SQL over the lake: DuckDB that sees the lake's tables and nothing else.

Every question gets its own in-memory database. Its tables are views over the Parquet files of Delta snapshots, and
these very files are all that DuckDB may open: every other way out (reading, COPY, ATTACH, INSTALL, LOAD) is switched
off and the switches are locked before the question runs. Since a file that may be opened may also be written, only
statements that read are let through, also behind EXPLAIN. Extensions are never downloaded: json, icu and parquet are
built in.

A hub's table goes by its own name, quoted if need be (`"grid.transformers"`), as schema and table
(`grid.transformers`), and with underscores (`grid_transformers`). A table of exact decimals (columns `value` and
`scale`) is shown with `value` as a number and, for energies of an interval, `kwh`; event tables get `key_text` and
`value_text`. The stored form of both is `<name>_raw`. A table of readings keeps every version: `readings_current` shows
the one that holds of each interval, `readings_as_of(TIMESTAMPTZ '...')` the one that held as far as was known then. Of
captured network models there are `network_versions` and `usage_point_places`, see `gridwire.capture.network_views`.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote

import duckdb
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from gridwire.capture import network_views
from gridwire.core.errors import GridwireError
from gridwire.core.hubs import NETWORK
from gridwire.core.limits import MIB

Answer = TypeVar("Answer")

LIMIT_ROWS: Final = 10_000
TIMEOUT_S: Final = 30.0
BATCH_TIMEOUT_S: Final = 3600.0
"""For jobs such as training, which nobody waits for."""

MEMORY_BYTES: Final = 1024 * MIB
THREADS: Final = 2
OPEN_ATTEMPTS: Final = 3
ARROW_ROWS: Final = 10_000
"""Rows turned into Python values at a time."""


_SETTINGS: Final = {
    "temp_directory": "",
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "TimeZone": "UTC",
}
_QUESTIONS: Final = ("SELECT", "EXPLAIN", "MULTI")
_READING_COLUMNS: Final = frozenset(
    ("usage_point", "reading_type", "ts_end", "interval_s", "version", "quality", "received_at", "partition", "offset")
)
"""A table with these is one of readings."""

_EVENT_COLUMNS: Final = frozenset(("partition", "offset", "timestamp", "value"))

TAKEN_BACK: Final = 3 << 24 | 8 << 16 | 65_535
"""Quality `3.8.65535`, see docs/reference/vee.md."""

GRADE: Final = "CASE WHEN quality >> 16 & 255 IN (8, 12) THEN 0 WHEN quality >> 16 & 255 = 11 THEN 1 ELSE 2 END"
"""What a reading is worth, as `gridwire.columnar.cells` has it: estimated, derived, measured."""

_EXPLAIN: Final = re.compile(r"\s*EXPLAIN(\s+ANALYZE)?\s", re.IGNORECASE)
_ALLOWED: Final = "SELECT, DESCRIBE, SUMMARIZE, SHOW TABLES and EXPLAIN"
_START_CAPTURE: Final = "set `capture` on a hub (`gridwire hub create NAME --capture events`) and send it events"


class SqlError(GridwireError):
    """A question that cannot be answered, with what to do about it."""


@dataclass(frozen=True, slots=True)
class Result:
    """Answer to a question. `types` are DuckDB's names; `truncated`: there were more than `limit_rows` rows."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    truncated: bool
    took_s: float


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table of the lake. `positions`: offset to capture next per partition; `updated_ms`: its newest commit."""

    name: str
    rows: int
    files: int
    size_bytes: int
    version: int
    updated_ms: int
    positions: Mapping[int, int] = field(default_factory=dict)


def query(
    lake_root: Path,
    sql: str,
    *,
    limit_rows: int = LIMIT_ROWS,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
    threads: int = THREADS,
) -> Result:
    """Answer one SQL question over the lake.

    Raises:
        SqlError: not one reading statement, an unknown table, too slow, too large; the message says what to do.
    """
    started = time.monotonic()
    columns, types, rows = _answer(
        lake_root, sql, lambda relation: _rows(relation, limit_rows + 1), timeout_s, memory_bytes, threads
    )
    return Result(
        columns=columns,
        types=types,
        rows=rows[:limit_rows],
        truncated=len(rows) > limit_rows,
        took_s=time.monotonic() - started,
    )


def arrow(
    lake_root: Path,
    sql: str,
    *,
    limit_rows: int | None = None,
    timeout_s: float = BATCH_TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
    threads: int = THREADS,
) -> pa.Table:
    """The answer as Arrow columns, for jobs that read much: all of it, or its first rows. Raises SqlError."""
    return _answer(lake_root, sql, partial(_table, limit_rows), timeout_s, memory_bytes, threads)


def _table(limit_rows: int | None, relation: Any) -> pa.Table:
    with relation.to_arrow_reader(ARROW_ROWS) as reader:
        if limit_rows is None:
            return reader.read_all()
        batches: list[pa.RecordBatch] = []
        while sum(map(len, batches)) < limit_rows and (batch := next(reader, None)) is not None:
            batches.append(batch)
        return pa.Table.from_batches(batches, reader.schema).slice(0, limit_rows)


def _answer(
    lake_root: Path, sql: str, read: Callable[[Any], Answer], timeout_s: float, memory_bytes: int, threads: int
) -> Answer:
    names = _names(Path(lake_root))
    with duckdb.connect(":memory:", config={"memory_limit": f"{memory_bytes // MIB}MiB", "threads": threads}) as con:
        statement = _question(con, sql)
        shown = _snapshots(Path(lake_root), _mentioned(names, sql))
        files = ", ".join(literal(path) for snapshot in shown.values() for path in snapshot.files)
        con.execute(f"SET allowed_paths=[{files}]")
        for setting, value in _SETTINGS.items():
            con.execute(f"SET {setting}='{value}'")
        _show(con, shown)
        con.execute("SET lock_configuration=true")
        timer = threading.Timer(timeout_s, con.interrupt)
        timer.start()
        try:
            return read(con.sql(statement.query))
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise SqlError(_advice(error, names, timeout_s, memory_bytes)) from None
        finally:
            timer.cancel()


def tables(lake_root: Path) -> list[TableInfo]:
    """What the lake holds, by name; tables of deleted hubs have `@` and a date in theirs."""
    root = Path(lake_root)
    described = (_opened(root / name, partial(_info, root / name)) for name in _names(root))
    return [info for info in described if info is not None]


def _opened(path: Path, read: Callable[[DeltaTable], Answer]) -> Answer | None:
    """What `read` makes of the newest version of a table; None when it has none, or was moved aside a moment ago.

    Raises:
        SqlError: it cannot be read, though its writer was given time to finish tidying its log.
    """
    failure: Exception | None = None
    for _ in range(OPEN_ATTEMPTS):
        try:
            return read(DeltaTable(str(path)))
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:  # files listed a moment ago may be gone by now
            failure = error
    if not path.exists():
        return None
    raise SqlError(f"table {_shown(path.name)} cannot be read: {failure}")


def _info(path: Path, table: DeltaTable) -> TableInfo:
    files = pa.table(table.get_add_actions(flatten=True))
    owner = table.metadata().configuration.get("gridwire.hub_id")
    partitions = files["max.partition"].to_pylist() if "max.partition" in files.column_names else []
    known = range(max((p for p in partitions if p is not None), default=-1) + 1)
    positions = {p: table.transaction_version(f"gridwire-{owner}-{p}") for p in known}
    commit = path / "_delta_log" / f"{table.version():020d}.json"
    return TableInfo(
        name=path.name,
        rows=sum(files["num_records"].to_pylist()),
        files=files.num_rows,
        size_bytes=sum(files["size_bytes"].to_pylist()),
        version=table.version(),
        updated_ms=commit.stat().st_mtime_ns // 1_000_000,
        positions={p: offset for p, offset in positions.items() if offset is not None},
    )


def _rows(relation: Any, rows_max: int) -> tuple[tuple[str, ...], tuple[str, ...], list[tuple[Any, ...]]]:
    """Read the first rows by way of Arrow: DuckDB's own conversion of time stamps needs one more package."""
    types = tuple(str(kind) for kind in relation.types)
    rows: list[tuple[Any, ...]] = []
    with relation.to_arrow_reader(min(rows_max, ARROW_ROWS)) as reader:
        for batch in reader:
            columns = [_values(column, kind) for column, kind in zip(batch.columns, types, strict=True)]
            rows += zip(*columns, strict=True)
            if len(rows) >= rows_max:
                break
    return tuple(relation.columns), types, rows[:rows_max]


def _values(column: pa.Array, kind: str) -> list[Any]:
    if kind in ("HUGEINT", "UHUGEINT"):  # sums of integers; Arrow has them as decimals without a fraction
        return [None if value is None else int(value) for value in column.to_pylist()]
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return list(column.to_pylist())


def _names(lake_root: Path) -> list[str]:
    if not lake_root.is_dir():
        return []
    return sorted(path.name for path in lake_root.iterdir() if (path / "_delta_log").is_dir())


def _question(con: Any, sql: str) -> Any:
    """The one statement of `sql`, parsed before any table is opened."""
    try:
        statements = con.extract_statements(sql)
    except duckdb.Error as error:
        raise SqlError(_first_line(error)) from None
    if len(statements) != 1:
        raise SqlError("give one SQL statement at a time, such as SHOW TABLES")
    if statements[0].type.name not in _QUESTIONS:
        kind = statements[0].type.name.replace("_", " ")
        raise SqlError(f"{kind} is not allowed: the lake is read with {_ALLOWED}")
    explained = _EXPLAIN.match(sql)
    if statements[0].type.name == "EXPLAIN":
        if explained is None:
            raise SqlError("write EXPLAIN or EXPLAIN ANALYZE in front of a SELECT")
        _question(con, sql[explained.end() :])
    return statements[0]


def _mentioned(names: list[str], sql: str) -> list[str]:
    """Tables the text names; all of them if it names none, as SHOW TABLES does. Opening a table costs some 20 ms."""
    text = sql.lower()
    return [name for name in names if any(alias.lower() in text for alias in _told_by(name))] or names


def _told_by(name: str) -> Iterator[str]:
    """Names under which a table, or something made of it, is asked for."""
    yield from _aliases(name)
    if name == NETWORK:
        yield from network_views.NAMES


def _aliases(name: str) -> Iterator[str]:
    yield name
    plain = re.sub(r"\W", "_", name)
    if plain != name:
        yield plain


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The newest version of a table: its schema and the files that hold it."""

    schema: pa.Schema
    files: tuple[str, ...]


def _snapshots(lake_root: Path, names: Iterable[str]) -> dict[str, _Snapshot]:
    found = {}
    for name in names:
        snapshot = _opened(lake_root / name, _snapshot)
        if snapshot is not None:
            found[name] = snapshot
    return found


def _snapshot(table: DeltaTable) -> _Snapshot:
    files = tuple(str(Path(unquote(uri))) for uri in table.file_uris())
    return _Snapshot(pa.schema(table.schema().to_arrow()), files)


def _show(con: Any, snapshots: Mapping[str, _Snapshot]) -> None:
    """A view of each table under its name, with views for its aliases and its readable form."""
    taken: set[str] = set()
    for name, snapshot in snapshots.items():
        readable = _readable(snapshot.schema)
        raw = _free(taken, f"{name}_raw" if readable else name)
        _stored(con, raw, snapshot)
        select = f"{readable or 'SELECT *'} FROM {_quoted(raw)}"
        for alias in _aliases(name):
            if readable or alias != name:
                con.execute(f"CREATE VIEW {_quoted(_free(taken, alias))} AS {select}")
            if readable and alias != name:
                con.execute(f"CREATE VIEW {_quoted(_free(taken, f'{alias}_raw'))} AS FROM {_quoted(raw)}")
        if set(snapshot.schema.names) >= _READING_COLUMNS:
            _show_versions(con, taken, name, select)
        if name == NETWORK and set(snapshot.schema.names) >= _EVENT_COLUMNS:
            _show_networks(con, taken, raw)
        schema, dot, plain = name.partition(".")
        if dot and "." not in plain and "@" not in name:
            con.execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(schema)}")
            con.execute(f"CREATE VIEW IF NOT EXISTS {_quoted(schema)}.{_quoted(plain)} AS {select}")


def _show_networks(con: Any, taken: set[str], raw: str) -> None:
    """What the captured network models say of their times."""
    for view, select in network_views.views(_quoted(raw)).items():
        con.execute(f"CREATE VIEW {_quoted(_free(taken, view))} AS {select}")


def _show_versions(con: Any, taken: set[str], name: str, select: str) -> None:
    """`<name>_current`, what holds of every interval, and `<name>_as_of(moment)`, what held as far as was known then.

    As in the live sums the highest (grade, version, partition, offset) holds; an estimate that was taken back does not.
    """
    for alias in _aliases(name):
        current, as_of = _free(taken, f"{alias}_current"), _free(taken, f"{alias}_as_of")
        con.execute(f"CREATE VIEW {_quoted(current)} AS {_newest(select, 'true')}")
        con.execute(f"CREATE MACRO {_quoted(as_of)}(moment) AS TABLE {_newest(select, 'received_at <= moment')}")


def _newest(select: str, condition: str) -> str:
    return (
        f"FROM ({select}) WHERE usage_point IS NOT NULL AND {condition} QUALIFY row_number() OVER "
        f"(PARTITION BY usage_point, reading_type, ts_end, interval_s ORDER BY {GRADE} DESC, version DESC, "
        f'"partition" DESC, "offset" DESC) = 1 AND quality <> {TAKEN_BACK}'
    )


def _stored(con: Any, view: str, snapshot: _Snapshot) -> None:
    """The table as it is stored."""
    if not snapshot.files:
        con.register(view, snapshot.schema.empty_table())
        return
    files = ", ".join(map(literal, snapshot.files))
    columns = ", ".join(_quoted(name) for name in snapshot.schema.names)
    source = f"read_parquet([{files}], union_by_name=true, hive_partitioning=false)"
    con.execute(f"CREATE VIEW {_quoted(view)} AS SELECT {columns} FROM {source}")


def _free(taken: set[str], name: str) -> str:
    """DuckDB's names ignore case and hubs' do not: the second of two gets an underscore."""
    while name.lower() in taken:
        name += "_"
    taken.add(name.lower())
    return name


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as it stands in a question."""
    return "'" + text.replace("'", "''") + "'"


def _readable(schema: pa.Schema) -> str | None:
    """The select list that shows exact decimals as numbers and bytes as text; None when the table needs neither."""
    columns = {column.name: column.type for column in schema}
    if pa.types.is_integer(columns.get("value", pa.null())) and pa.types.is_integer(columns.get("scale", pa.null())):
        return f"SELECT * EXCLUDE (scale) REPLACE ({_number('DOUBLE')} AS value){_kwh(columns)}"
    if "key" in columns and pa.types.is_binary(columns.get("value", pa.null())):
        return "SELECT *, TRY(decode(key)) AS key_text, TRY(decode(value)) AS value_text"
    return None


def _number(kind: str) -> str:
    """value * 10^scale, rounded once: a power of ten below 10^22 is exact in a double, its reciprocal is not."""
    return f"CAST(CASE WHEN scale < 0 THEN value / pow(10, -scale) ELSE value * pow(10, scale) END AS {kind})"


def _kwh(columns: Mapping[str, pa.DataType]) -> str:
    """Energy of an interval as an exact decimal; null for registers, powers and voltages."""
    if "interval_s" not in columns or not pa.types.is_string(columns.get("reading_type", pa.null())):
        return ""
    is_energy = "reading_type LIKE '%kwh%' AND reading_type NOT LIKE '%register%' AND interval_s > 0"
    return f", CASE WHEN {is_energy} THEN {_number('DECIMAL(18, 6)')} END AS kwh"


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0].strip()


def _advice(error: Exception, names: list[str], timeout_s: float, memory_bytes: int) -> str:
    """One sentence that says what to do next."""
    text = _first_line(error)
    if isinstance(error, duckdb.InterruptException) or "Interrupted!" in text:
        return f"the question took longer than {timeout_s:g} s: ask for a shorter time range or fewer columns"
    if isinstance(error, duckdb.OutOfMemoryException):
        return f"the question needs more than {memory_bytes // MIB} MiB: ask for a shorter time range or fewer groups"
    if isinstance(error, duckdb.PermissionException):
        return f"SQL sees the tables of the lake and nothing else ({text})"
    if isinstance(error, OSError) or "No such file" in text:
        return "a table was moved or tidied while it was read: ask again"
    missing = re.search(r"Table with name (.+?) does not exist", text)
    if missing and not names:
        return f"no table {missing[1]}: the lake is empty, {_START_CAPTURE}"
    if missing:
        return f"no table {missing[1]}: the lake has {', '.join(_shown(name) for name in names)}"
    return text


def _shown(name: str) -> str:
    return name if re.fullmatch(r"\w+", name) else _quoted(name)
