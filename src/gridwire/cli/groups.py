"""`gridwire group`."""

from __future__ import annotations

from urllib.parse import quote

from cyclopts import App

from gridwire.cli.output import Common, print_json, print_table, say
from gridwire.core.errors import GridwireError

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
def reset(name: str, hub: str, *, to: str, common: Common = Common()) -> None:  # noqa: B008
    """Make a group without active members read a hub again from somewhere.

    Args:
        name: the group.
        hub: the hub to read again.
        to: earliest, latest, or an offset.
    """
    if to not in ("earliest", "latest") and not to.isdigit():
        raise GridwireError(f"--to must be earliest, latest or an offset, not {to!r}")
    target = int(to) if to.isdigit() else to
    answer = common.client().post(f"/v1/groups/{quote(name, safe='')}/reset", {"hub": hub, "to": target})
    if common.json:
        print_json(answer)
    else:
        say(f"group {name} now reads hub {hub} from {to}")
