from __future__ import annotations

import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import duckdb
import pyarrow as pa
import pytest

from gridwire.capture import sql
from gridwire.capture.delta import TableWriter
from gridwire.capture.sql import SqlError, query, tables


def fill(lake: Path, hub: str, rows: dict[str, pa.Array]) -> None:
    count = len(next(iter(rows.values())))
    places = {"partition": pa.array([0] * count, pa.int32()), "offset": pa.array(range(count), pa.int64())}
    writer = TableWriter(lake, hub, UUID(int=1))
    writer.append([pa.record_batch(places | rows)], {0: count})
    writer.close()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = tmp_path_factory.mktemp("lake")
    quarter = pa.array([1_451_607_300_000_000 + 900_000_000 * n for n in range(4)], pa.timestamp("us", "UTC"))
    readings = {
        "usage_point": pa.array(["A", "A", "B", "B"]),
        "ts_end": quarter,
        "interval_s": pa.array([900, 900, 0, 900], pa.int32()),
        "reading_type": pa.array(["import_kwh", "import_kwh", "import_register_kwh", "voltage_l1_v"]),
        "value": pa.array([213, 1, 70001, 2301], pa.int64()),
        "scale": pa.array([-3, -1, 1, -1], pa.int8()),
    }
    fill(lake, "readings", readings)
    fill(lake, "grid.transformers", {"transformer": pa.array(["T"]), "load_kw": pa.array([10.8])})
    events = {"key": pa.array([b"k"]), "value": pa.array([b'{"a":{"b":5}}']), "timestamp": quarter.slice(0, 1)}
    fill(lake, "site-log", events)
    fill(lake, "audit-log", {"x": pa.array([2])})
    fill(lake, "Audit-Log", {"x": pa.array([1])})
    return lake


def test_readings_are_numbers_and_exact_energies(lake: Path) -> None:
    answer = query(lake, 'SELECT usage_point, value, kwh FROM readings ORDER BY "offset"')
    assert answer.columns == ("usage_point", "value", "kwh")
    assert answer.types == ("VARCHAR", "DOUBLE", "DECIMAL(18,6)")
    assert answer.rows == [
        ("A", 0.213, Decimal("0.213000")), ("A", 0.1, Decimal("0.100000")), ("B", 700010.0, None), ("B", 230.1, None),
    ]  # fmt: skip
    assert query(lake, "SELECT value, scale FROM readings_raw WHERE scale > 0").rows == [(70001, 1)]


@pytest.mark.parametrize(
    "name", ['"grid.transformers"', "grid.transformers", "grid_transformers", "GRID_TRANSFORMERS", "Grid.Transformers"]
)
def test_a_name_with_a_dot_is_spelt_as_one_likes(lake: Path, name: str) -> None:
    assert query(lake, f"SELECT load_kw FROM {name}").rows == [(10.8,)]


def test_bytes_are_shown_as_text_and_text_as_json(lake: Path) -> None:
    answer = query(lake, "SELECT key, key_text, value_text->'$.a'->>'$.b' FROM site_log")
    assert answer.rows == [(b"k", "k", "5")]


def test_names_that_differ_only_in_case_are_told_apart(lake: Path) -> None:
    names = {row[0] for row in query(lake, "SHOW TABLES").rows}
    assert {"Audit-Log", "audit-log_", "readings", "readings_raw", "grid.transformers"} <= names
    assert query(lake, 'SELECT x FROM "Audit-Log"').rows == [(1,)]
    assert query(lake, 'SELECT x FROM "audit-log_"').rows == [(2,)]


def test_times_are_utc_and_need_no_further_package(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytz", None)
    question = "SELECT ts_end, date_trunc('hour', ts_end), strftime(ts_end, '%H:%M') FROM readings LIMIT 1"
    (row,) = query(lake, question).rows
    assert row == (datetime(2016, 1, 1, 0, 15, tzinfo=UTC), datetime(2016, 1, 1, tzinfo=UTC), "00:15")


def test_sums_of_integers_are_integers(lake: Path) -> None:
    assert repr(query(lake, 'SELECT sum("offset") FROM readings').rows) == "[(6,)]"
    assert query(lake, "SELECT timestamp_ns '2016-01-01 00:00:00.000000001'").rows == [(datetime(2016, 1, 1),)]


def test_long_answers_are_cut_and_say_so(lake: Path) -> None:
    answer = query(lake, "SELECT * FROM range(25)", limit_rows=10)
    assert (len(answer.rows), answer.truncated) == (10, True)
    answer = query(lake, "SELECT * FROM range(10)", limit_rows=10)
    assert (len(answer.rows), answer.truncated) == (10, False)
    assert query(lake, "SELECT 1 AS one WHERE false").columns == ("one",)


@pytest.mark.parametrize(
    "question",
    [
        "DESCRIBE readings", "SUMMARIZE readings", "FROM readings", "EXPLAIN SELECT * FROM readings",
        "PIVOT readings ON reading_type USING sum(value)", "WITH r AS (FROM readings) SELECT count(*) FROM r;",
    ],
)  # fmt: skip
def test_reading_statements_are_answered(lake: Path, question: str) -> None:
    assert query(lake, question).rows


@pytest.mark.parametrize(
    "attack",
    [
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM read_blob('{secret}')",
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM sniff_csv('{secret}')",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM read_parquet('{lake}/readings/*.parquet')",
        "SELECT * FROM query('COPY readings TO ''{folder}/out.csv''')",
        "SELECT * FROM 'http://127.0.0.1:1/x.parquet'",
        "SELECT * FROM enable_logging(storage='file', storage_path='{folder}/out.csv')",
        "SELECT * FROM delta_scan('{lake}/readings')",
        "EXPLAIN ANALYZE COPY readings TO '{folder}/out.csv'",
        "COPY readings TO '{folder}/out.csv'",
        "COPY readings FROM '{secret}'",
        "ATTACH '{folder}/out.csv'",
        "EXPORT DATABASE '{folder}/out'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access=true",
        "RESET lock_configuration",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "CREATE TABLE t AS SELECT 1",
        "DELETE FROM readings",
        "SELECT 1; COPY readings TO '{folder}/out.csv'",
        "SELECT * FROM secrets",
        "SELECT * FROM lake_variable",
        "SELECT getenv('HOME')",
    ],
)
def test_sql_sees_the_lake_and_nothing_else(lake: Path, tmp_path: Path, attack: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("top secret")
    lake_variable = pa.table({"x": [1]})  # a Python variable must not become a table either
    with pytest.raises(SqlError) as refusal:
        query(lake, attack.format(secret=secret, folder=tmp_path, lake=lake))
    assert "top secret" not in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]
    assert lake_variable.num_rows == 1


@pytest.mark.parametrize(
    "front", ["", "EXPLAIN ANALYZE ", "EXPLAIN (ANALYZE) ", "EXPLAIN ANALYZE -- x\n", "/* */ EXPLAIN "]
)
def test_the_files_of_the_lake_may_be_read_and_not_written(lake: Path, front: str) -> None:
    files = sorted((lake / "readings").glob("**/*.parquet"))
    before = [path.read_bytes() for path in files]
    assert files
    for path in files:
        with pytest.raises(SqlError):
            query(lake, f"{front}COPY (SELECT 1 AS readings) TO '{path}' (FORMAT parquet)")
    assert [path.read_bytes() for path in files] == before
    assert query(lake, "EXPLAIN ANALYZE SELECT count(*) FROM readings").rows


def test_control_without_the_switches_the_same_questions_read_files(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("top secret")
    monkeypatch.setattr(sql, "_SETTINGS", {})
    answer = query(lake, f"SELECT content FROM read_text('{tmp_path}/secret')")
    assert answer.rows == [("top secret",)]


def test_no_extension_is_needed_for_json_and_time_zones() -> None:
    with duckdb.connect(":memory:") as con:
        question = "SELECT extension_name FROM duckdb_extensions() WHERE loaded AND install_mode = 'STATICALLY_LINKED'"
        assert {"json", "icu", "parquet"} <= {row[0] for row in con.execute(question).fetchall()}


def test_a_question_without_end_is_stopped(lake: Path) -> None:
    for endless in ("SELECT count(*) FROM range(1000000), range(1000000)", "FROM range(1000000000000) WHERE range < 0"):
        with pytest.raises(SqlError, match=r"longer than 0\.2 s: ask for a shorter time range"):
            query(lake, endless, timeout_s=0.2)


def test_a_question_too_large_is_stopped(lake: Path) -> None:
    with pytest.raises(SqlError, match="more than 100 MiB: ask for"):
        query(lake, "SELECT list(range) FROM range(100000000)", memory_bytes=100 << 20)


@pytest.mark.parametrize(
    ("question", "advice"),
    [
        ("SELECT * FROM reading", 'no table reading: the lake has "Audit-Log", "audit-log", "grid.transformers", rea'),
        ("SELECT nope FROM readings", 'Referenced column "nope" not found'),
        ("SELEC 1", "syntax error"),
        ("", "give one SQL statement at a time, such as SHOW TABLES"),
        ("SELECT 1; SELECT 2", "give one SQL statement at a time"),
        ("DROP TABLE readings", "DROP is not allowed: the lake is read with SELECT"),
    ],
)
def test_mistakes_are_answered_with_one_sentence_of_advice(lake: Path, question: str, advice: str) -> None:
    with pytest.raises(SqlError) as mistake:
        query(lake, question)
    assert advice in str(mistake.value)
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize("made", [True, False])
def test_an_empty_lake_says_how_to_fill_it(tmp_path: Path, made: bool) -> None:
    root = tmp_path if made else tmp_path / "none"
    with pytest.raises(SqlError, match="the lake is empty, set `capture` on a hub"):
        query(root, "SELECT * FROM readings")
    assert query(root, "SHOW TABLES").rows == []
    assert tables(root) == []


def test_tables_tells_rows_files_bytes_and_positions(lake: Path, tmp_path: Path) -> None:
    names = [table.name for table in tables(lake)]
    assert names == ["Audit-Log", "audit-log", "grid.transformers", "readings", "site-log"]
    writer = TableWriter(tmp_path, "h", UUID(int=9))
    for partition, first, end in ((0, 0, 5), (2, 7, 9), (0, 5, 6)):
        rows = {"partition": pa.array([partition] * (end - first), pa.int32()), "offset": pa.array(range(first, end))}
        writer.append([pa.record_batch(rows)], {partition: end})
    writer.close()
    (table,) = tables(tmp_path)
    assert (table.name, table.rows, table.files, table.version) == ("h", 8, 3, 3)
    assert table.positions == {0: 6, 2: 9}
    on_disk = sum(path.stat().st_size for path in (tmp_path / "h").glob("*.parquet"))
    assert table.size_bytes == on_disk
    assert table.updated_ms > 1_600_000_000_000


def test_a_table_that_is_just_being_made_is_not_there_yet(lake: Path, tmp_path: Path) -> None:
    (tmp_path / "h" / "_delta_log").mkdir(parents=True)
    assert tables(tmp_path) == []
    with pytest.raises(SqlError, match="no table h"):
        query(tmp_path, "FROM h")


def test_questions_see_a_whole_version_while_rows_are_added(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, "h", UUID(int=9))
    for n in range(6):
        rows = {"partition": pa.array([0] * 5, pa.int32()), "offset": pa.array(range(5 * n, 5 * n + 5))}
        writer.append([pa.record_batch(rows)], {0: 5 * n + 5})
        assert query(tmp_path, "SELECT count(*) FROM h").rows == [(5 * n + 5,)]
    writer.close()
