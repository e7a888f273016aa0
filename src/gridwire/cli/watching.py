"""`gridwire lag`, `gridwire top`: how the hub is doing, once or live."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from gridwire.cli.client import HubClient
from gridwire.cli.output import Common, print_json, print_table, say, size_text
from gridwire.core.errors import GridwireError

TOO_FAR_BEHIND: Final = 5
"""Exit code of `lag --over` when a group is."""


def lag(
    group: str | None = None,
    *,
    over: float | None = None,
    common: Common = Common(),  # noqa: B008
) -> int:
    """Show how far readers are behind, the furthest first.

    Args:
        group: the partitions of this group alone.
        over: seconds; exit code 5 when anything shown is further behind, for monitoring.
    """
    client = common.client()
    columns: tuple[str, ...]
    if group is None:
        rows = client.get("/v1/groups")["groups"]
        columns = ("group", "state", "members", "lag_events", "lag_seconds")
    else:
        rows = client.get(f"/v1/groups/{quote(group, safe='')}")["partitions"]
        columns = ("hub", "partition", "position", "end", "lag_events", "lag_seconds")
    rows = sorted(rows, key=lambda row: (-(row["lag_seconds"] or 0), -(row["lag_events"] or 0)))
    if common.json:
        print_json(rows)
    else:
        names = [column.replace("_", " ") for column in columns]
        print_table(names, [[row[column] for column in columns] for row in rows], names[2:])
    late = over is not None and any((row["lag_seconds"] or 0) > over for row in rows)
    return TOO_FAR_BEHIND if late else 0


@dataclass(frozen=True, slots=True)
class Sample:
    """What the hub said at one moment."""

    at_s: float
    ends: Mapping[str, int]
    hubs: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    status: Mapping[str, Any]


def _sample(client: HubClient) -> Sample:
    hubs = client.get("/v1/hubs")["hubs"]
    ends = {hub["name"]: sum(row["end"] for row in hub["bounds"]) for hub in hubs}
    return Sample(time.monotonic(), ends, hubs, client.get("/v1/groups")["groups"], client.get("/v1/status"))


def rates(before: Sample, now: Sample) -> dict[str, float]:
    """Events a second by hub between two samples."""
    passed_s = max(now.at_s - before.at_s, 1e-9)
    return {name: max(0, end - before.ends.get(name, end)) / passed_s for name, end in now.ends.items()}


def top(
    *,
    every: float = 1.0,
    once: bool = False,
    common: Common = Common(),  # noqa: B008
) -> None:
    """Show rates, lag, workers and memory live, until Ctrl-C.

    Args:
        every: seconds between two looks.
        once: one look, of that length; where output is no terminal it is always one.
    """
    if not every > 0:
        raise GridwireError("--every must be more than 0 seconds")
    client = common.client()
    before = _sample(client)
    if once or common.json or not sys.stdout.isatty():
        time.sleep(every)
        now = _sample(client)
        _print(now, rates(before, now), common)
        return
    from rich.console import Group
    from rich.live import Live

    with Live(screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            now = _sample(client)
            live.update(Group(*_panels(now, rates(before, now))), refresh=True)
            before = now


def _hub_rows(now: Sample, rate: Mapping[str, float]) -> list[tuple[Any, ...]]:
    rows = [(hub["name"], round(rate[hub["name"]], 1), hub["events"], size_text(hub["bytes"])) for hub in now.hubs]
    return sorted(rows, key=lambda row: -row[1])


def _print(now: Sample, rate: Mapping[str, float], common: Common) -> None:
    workers = now.status.get("workers") or []
    if common.json:
        print_json({"rates": rate, "groups": now.groups, "workers": workers, "status": now.status})
        return
    say(_headline(now))
    print_table(("hub", "events/s", "events", "size"), _hub_rows(now, rate), ("events/s", "events", "size"))
    rows = [(row["group"], row["members"], row["lag_events"], row["lag_seconds"]) for row in now.groups]
    print_table(("group", "members", "lag events", "lag s"), rows, ("members", "lag events", "lag s"))
    print_table(("worker", "state", "restarts"), [(w["name"], w["state"], w["restarts"]) for w in workers])


def _headline(now: Sample) -> str:
    status = now.status
    ready = "ready" if status["ready"] else "NOT READY"
    return (
        f"gridwire {status['version']}  {ready}  durability {status['durability']}  "
        f"memory {size_text(status['memory_bytes'])}  disk free {size_text(status['disk_free_bytes'])}"
    )


def _panels(now: Sample, rate: Mapping[str, float]) -> list[Any]:
    from rich.table import Table
    from rich.text import Text

    def table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Table:
        made = Table(box=None, pad_edge=False, header_style="bold")
        for number, column in enumerate(columns):
            made.add_column(column, justify="right" if number else "left")
        for row in rows:
            made.add_row(*(f"{cell:,}" if isinstance(cell, int | float) else str(cell or "-") for cell in row))
        return made

    groups = [(row["group"], row["members"], row["lag_events"], row["lag_seconds"]) for row in now.groups]
    workers = [(w["name"], w["state"], w["restarts"]) for w in now.status.get("workers") or []]
    return [
        Text(_headline(now), style="bold"), Text(""),
        table(("hub", "events/s", "events", "size"), _hub_rows(now, rate)), Text(""),
        table(("group", "members", "lag events", "lag s"), groups), Text(""),
        table(("worker", "state", "restarts"), workers),
    ]  # fmt: skip
