"""`gridwire sql`."""

from __future__ import annotations

from pathlib import Path

from gridwire.cli.output import Common, print_json, print_table, say


def sql(query: str, *, data: Path = Path("gridwire-data"), limit: int = 1000, common: Common = Common()) -> None:  # noqa: B008
    """Ask the lake with SQL (DuckDB's dialect). Tables are the captured hubs; `show tables` lists them.

    Args:
        query: one SELECT.
        data: the data directory whose lake is asked.
        limit: rows printed at most.
    """
    from gridwire.capture import sql as lake

    result = lake.query(data / "lake", query, limit_rows=limit)
    if common.json:
        print_json([dict(zip(result.columns, row, strict=True)) for row in result.rows])
        return
    print_table(result.columns, result.rows)
    say(f"({len(result.rows)} rows{', cut at the limit' if result.truncated else ''})")
