"""`gridwire group`."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from cyclopts import App

from gridwire.cli.output import Common, print_json, print_table, say

group = App(name="group", help="Consumer groups: who reads, how far behind, reading again.")


@group.command(name="list")
def list_(*, common: Common = Common()) -> None:  # noqa: B008
    """List groups with their lag."""
    found = common.client().get("/v1/groups")["groups"]
    if common.json:
        print_json(found)
        return
    rows = [(row["group"], row["state"], row["members"], row["lag_events"], row["lag_seconds"]) for row in found]
    print_table(("group", "state", "members", "lag events", "lag s"), rows, ("members", "lag events", "lag s"))


@group.command
def show(name: str, *, common: Common = Common()) -> None:  # noqa: B008
    """Show a group's positions, lag and members.

    Args:
        name: the group.
    """
    found = common.client().get(f"/v1/groups/{quote(name, safe='')}")
    if common.json:
        print_json(found)
        return
    rows = [
        (row["hub"], row["partition"], row["position"], row["end"], row["lag_events"], row["lag_seconds"])
        for row in found["partitions"]
    ]
    columns = ("hub", "partition", "position", "end", "lag events", "lag s")
    print_table(columns, rows, columns[1:])
    if found["members"]:
        print_table(("member", "client", "host"), [(m["id"], m["client_id"], m["host"]) for m in found["members"]])


@group.command
def reset(
    name: str,
    hub: str,
    *,
    to: str,
    partition: int | None = None,
    dry_run: bool = False,
    common: Common = Common(),  # noqa: B008
) -> None:
    """Make a group without active members read a hub again from somewhere.

    Args:
        name: the group.
        hub: the hub to read again.
        to: earliest, latest, an offset, or a time such as 2026-01-01T00:00:00Z.
        partition: only this one.
        dry_run: say what would be read again or passed over, and change nothing.
    """
    wanted: dict[str, Any] = {"hub": hub, "to": int(to) if to.isdigit() else to, "dry_run": dry_run}
    if partition is not None:
        wanted["partition"] = partition
    answer = common.client().post(f"/v1/groups/{quote(name, safe='')}/reset", wanted)
    if common.json:
        print_json(answer)
    elif dry_run:
        moves = [(row["partition"], row["from"], row["to"]) for row in answer["changes"]]
        rows = [(*move, _meaning(*move[1:])) for move in moves]
        print_table(("partition", "position", "would be", "which means"), rows, ("partition", "position", "would be"))
        say("nothing was changed")
    else:
        say(f"group {name} now reads hub {hub} from {to}")


def _meaning(before: int | None, after: int) -> str:
    if before is None or before == after:
        return "a first position" if before is None else "no change"
    return f"{before - after:,} events again" if after < before else f"{after - before:,} events passed over"
