"""`gridwire sql`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from gridwire.cli.output import Common, print_json, print_table, say

HERE: Final = Path("gridwire-data")
"""The data directory that is asked when none is named."""


def sql(query: str, *, data: Path | None = None, limit: int = 1000, common: Common = Common()) -> None:  # noqa: B008
    """Ask the lake with SQL (DuckDB's dialect). Tables are the captured hubs; `show tables` lists them.

    A data directory on this machine is read as it is, whether its hub runs or not; a hub elsewhere answers over HTTP,
    to whoever may look at it.

    Args:
        query: one SELECT.
        data: the data directory whose lake is asked [default: gridwire-data, where there is one and no --url].
        limit: rows printed at most.
    """
    local = data or (HERE if common.url is None and HERE.is_dir() else None)
    columns, rows, truncated = _asked_hub(query, limit, common) if local is None else _asked(local, query, limit)
    if common.json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    print_table(columns, rows)
    say(f"({len(rows)} rows{', cut at the limit' if truncated else ''})")


def _asked(data: Path, query: str, limit: int) -> tuple[list[str], list[Any], bool]:
    from gridwire.capture import sql as lake

    result = lake.query(data / "lake", query, limit_rows=limit)
    return list(result.columns), list(result.rows), result.truncated


def _asked_hub(query: str, limit: int, common: Common) -> tuple[list[str], list[Any], bool]:
    answer = common.client().post("/v1/sql", {"query": query, "limit": limit})
    return [column["name"] for column in answer["columns"]], answer["rows"], answer["truncated"]
