"""`gridwire dlq`: events that functions could not deal with: look, mend, give them to the function again."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from cyclopts import App

from gridwire.cli.client import HubClient, hub_path
from gridwire.cli.deployed import app_path
from gridwire.cli.output import Common, print_fields, print_json, print_table, say
from gridwire.core.errors import GridwireError
from gridwire.core.hubs import dead_letters_of

GROUP: Final = "dlq.replay"
"""Its positions say how far the letters of each hub were replayed."""

DEAD: Final = "dlq."

dlq = App(name="dlq", help="Dead letters: events that functions could not deal with.")


class _Row(msgspec.Struct):
    """An event as the HTTP API shows it; a JSON value keeps its bytes."""

    offset: int
    timestamp: int
    key: Any
    value: msgspec.Raw
    format: str
    headers: dict[str, Any] = {}


class _Page(msgspec.Struct):
    events: list[_Row]
    next: int
    start: int
    end: int


@dlq.command(name="list")
def list_(*, common: Common = Common()) -> None:  # noqa: B008
    """List functions with dead letters, and how many were not replayed yet."""
    client = common.client()
    rows = []
    for hub in client.get("/v1/hubs")["hubs"]:
        if hub["name"].startswith(DEAD):
            page = _page(client, hub["name"], "earliest", 1)
            waiting = page.end - _replayed(client, hub["name"], page.start)
            rows.append(
                {"function": hub["name"].removeprefix(DEAD), "letters": page.end - page.start, "waiting": waiting}
            )
    if common.json:
        print_json(rows)
    else:
        columns = ("function", "letters", "waiting")
        print_table(columns, [tuple(row.values()) for row in rows], columns[1:])


@dlq.command
def show(function: str, *, offset: int | None = None, limit: int = 20, common: Common = Common()) -> None:  # noqa: B008
    """Show dead letters with the reason; one of them with everything that is known.

    Args:
        function: APP.FUNCTION, as `dlq list` shows it.
        offset: only this one, traceback included.
        limit: the newest so many.
    """
    app, name = _parts(function)
    client, hub = common.client(), dead_letters_of(app, name)
    if hub not in {row["name"] for row in client.get("/v1/hubs")["hubs"]}:
        raise GridwireError(
            f"there are no dead letters of {app}.{name}: `gridwire dlq list` shows the functions that have some"
        )
    start = f"-{limit}" if offset is None else str(offset)
    page = _page(client, hub, start, limit if offset is None else 1)
    rows = [_told(row) for row in page.events]
    if offset is not None and (not rows or rows[0]["offset"] != offset):
        raise GridwireError(
            f"{function} has no dead letter at offset {offset}: there are {page.start} to {page.end - 1}"
        )
    if common.json:
        print_json(rows)
    elif offset is not None:
        print_fields({**rows[0], "traceback": "\n" + rows[0]["traceback"]})
    else:
        columns = ("offset", "hub", "partition", "at", "tries", "reason")
        print_table(
            columns, [tuple(row[name] for name in columns) for row in rows], ("offset", "partition", "at", "tries")
        )


@dlq.command
def replay(function: str, *, offset: int | None = None, common: Common = Common()) -> None:  # noqa: B008
    """Give dead letters to the function again, and to no other reader: all that wait, or one.

    Args:
        function: APP.FUNCTION, as `dlq list` shows it.
        offset: only this one; the others go on waiting.
    """
    app, name = _parts(function)
    body = {} if offset is None else {"offset": offset}
    total = common.client().post(app_path(app, "functions", name, "replay"), body)["replayed"]
    if common.json:
        print_json({"replayed": total})
    else:
        say(f"{total:,} events given to {function} again")


def _parts(function: str) -> tuple[str, str]:
    """App and function. Raises GridwireError."""
    app, dot, name = function.removeprefix(DEAD).partition(".")
    if not dot or not name:
        raise GridwireError(f"name the function as APP.FUNCTION, as `gridwire dlq list` shows it, not {function!r}")
    return app, name


def _page(client: HubClient, hub: str, offset: str, limit: int) -> _Page:
    raw = client.raw(f"{hub_path(hub)}/events", partition=0, offset=offset, limit=limit)
    return msgspec.json.decode(raw, type=_Page)


def _replayed(client: HubClient, hub: str, start: int) -> int:
    """Offset of the first letter that was not replayed."""
    groups = {row["group"] for row in client.get("/v1/groups")["groups"]}
    if GROUP not in groups:
        return start
    partitions = client.get(f"/v1/groups/{GROUP}")["partitions"]
    return max([start, *(int(row["position"]) for row in partitions if row["hub"] == hub)])


def _told(row: _Row) -> dict[str, Any]:
    headers = row.headers
    return {
        "offset": row.offset,
        "function": headers.get("dlq-function", ""),
        "hub": headers.get("dlq-hub", ""),
        "partition": headers.get("dlq-partition", ""),
        "at": headers.get("dlq-offset", ""),
        "tries": headers.get("dlq-tries", ""),
        "reason": headers.get("dlq-reason", ""),
        "key": row.key,
        "value": msgspec.json.decode(row.value),
        "traceback": headers.get("dlq-traceback", ""),
    }
