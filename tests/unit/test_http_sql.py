"""SQL over HTTP: the real head, and a process for each question over a real lake."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest

from api_document import FILE, by_name
from gridwire.capture.ask import Question, answer
from gridwire.capture.delta import TableWriter

ROWS = 500


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lake")
    times = pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * ROWS, pa.timestamp("us", "UTC"))
    columns = {
        "partition": pa.array([0] * ROWS, pa.int32()), "offset": pa.array(range(ROWS), pa.int64()),
        "ended": times, "meter": pa.array([f"m{n % 5}" for n in range(ROWS)]),
        "kw": pa.array([n / 4 for n in range(ROWS)]),
    }  # fmt: skip
    writer = TableWriter(root, "grid.loads", UUID(int=1))
    writer.append([pa.record_batch(columns)], {0: ROWS})
    writer.close()
    return root


@pytest.fixture
def ask(lake: Path, http_hub: Any) -> Any:
    served = http_hub(sql=(sys.executable, "-m", "gridwire.capture.ask", str(lake)))

    def post(query: str, **more: Any) -> httpx.Response:
        return httpx.post(f"{served.url}/v1/sql", json={"query": query, **more}, timeout=60)

    post.url = served.url  # type: ignore[attr-defined]
    return post


def test_answers_are_what_the_document_of_the_api_says(ask: Any) -> None:
    known = by_name(json.loads(FILE.read_text()))
    for form in ("json", "csv", "ndjson", "parquet"):
        known["askLake"].check(ask('select * from "grid.loads"', limit=3, format=form).raise_for_status())
    known["askLake"].check(ask("select nothing"))
    known["listTables"].check(httpx.get(f"{ask.url}/v1/sql/tables", timeout=60).raise_for_status())


def test_rows_come_with_their_types(ask: Any) -> None:
    told = ask('select meter, sum(kw) as kw, max(ended) as ended from "grid.loads" group by 1 order by 1').json()
    assert told["columns"] == [
        {"name": "meter", "type": "VARCHAR"}, {"name": "kw", "type": "DOUBLE"},
        {"name": "ended", "type": "TIMESTAMP WITH TIME ZONE"},
    ]  # fmt: skip
    assert told["rows"][0] == ["m0", sum(n / 4 for n in range(0, ROWS, 5)), "2026-01-01T00:00:00Z"]
    assert (len(told["rows"]), told["truncated"]) == (5, False)
    cut = ask("from grid_loads", limit=10).json()
    assert (len(cut["rows"]), cut["truncated"]) == (10, True)


def test_files(ask: Any) -> None:
    question = "select meter, kw, [1, 2] as list from grid_loads order by kw"
    csv = ask(question, format="csv", limit=2)
    assert csv.text.splitlines() == ['"meter","kw","list"', '"m0",0,"[1,2]"', '"m1",0.25,"[1,2]"']
    assert csv.headers["content-disposition"] == 'attachment; filename="answer.csv"'
    lines = ask(question, format="ndjson", limit=2).content.splitlines()
    assert [orjson.loads(line) for line in lines] == [
        {"meter": "m0", "kw": 0.0, "list": [1, 2]}, {"meter": "m1", "kw": 0.25, "list": [1, 2]},
    ]  # fmt: skip
    table = pyarrow.parquet.read_table(io.BytesIO(ask(question, format="parquet", limit=1000).content))
    assert (table.num_rows, table.column("kw")[-1].as_py()) == (ROWS, (ROWS - 1) / 4)


def test_tables_and_columns(ask: Any) -> None:
    [table] = httpx.get(f"{ask.url}/v1/sql/tables", timeout=60).json()["tables"]
    assert (table["name"], table["rows"]) == ("grid.loads", ROWS)
    assert {"name": "kw", "type": "DOUBLE"} in table["columns"]


@pytest.mark.parametrize(
    ("query", "part"),
    [
        ("select nonsense from grid_loads", "nonsense"),
        ("select 1; select 2", "one SQL statement"),
        ("copy (select 1) to '/tmp/x'", "not allowed"),
        ("select * from read_csv('/etc/passwd')", "nothing else"),
        ("attach '/tmp/x.db'", "not allowed"),
        ("set memory_limit='9GB'", "not allowed"),
        ("from nothing", "the lake has"),
        ("  ", "query is one SQL statement"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(ask: Any, query: str, part: str) -> None:
    answer = ask(query)
    assert answer.status_code == 400
    assert part in answer.json()["detail"]


def test_wrong_bodies_and_a_hub_without_a_lake(ask: Any, http_hub: Any) -> None:
    assert ask("select 1", limit=0).status_code == 400
    assert ask("select 1", limit=10**6).status_code == 400
    assert ask("select 1", format="xlsx").status_code == 400
    assert ask("select 1", more=1).status_code == 400
    url = http_hub().url
    bare = httpx.post(f"{url}/v1/sql", json={"query": "select 1"}, timeout=60)
    assert (bare.status_code, "no lake here" in bare.text) == (404, True)


def test_values_that_json_does_not_have(lake: Path) -> None:
    values = "1.50::decimal(4, 2), 170141183460469231731687303715884105727::hugeint, 'nan'::double, '\\xFF'::blob"
    [row] = orjson.loads(answer(lake, Question(f"select {values}")))["rows"]
    assert row == [1.5, "170141183460469231731687303715884105727", None, "/w=="]
