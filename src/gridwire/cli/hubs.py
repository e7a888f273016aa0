"""`gridwire hub`, `gridwire status`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from gridwire.cli.client import hub_path
from gridwire.cli.durations import duration_ms, duration_text, size_bytes
from gridwire.cli.output import Common, print_fields, print_json, print_table, say, size_text, typed

hub = App(name="hub", help="Create, list, show, change and delete hubs.")


@Parameter(name="*")
@dataclass(frozen=True)
class Wanted:
    """Settings of a hub that may be given when it is made and changed later."""

    retention: Annotated[str | None, Parameter(help="how long events are kept: 7d, 12h, forever")] = None
    retention_size: Annotated[str | None, Parameter(help="how much a partition keeps: 10g, unlimited")] = None
    capture: Annotated[
        str | None, Parameter(help="table the lake keeps of it: events, or a kind of its own; or off")
    ] = None
    capture_avro: Annotated[
        Literal["off", "on"] | None,
        Parameter(help="keep its events as Avro files too, in the layout of Event Hubs Capture"),
    ] = None
    decode: Annotated[
        str | None,
        Parameter(help="format of the meter frames sent to it, which become readings as they arrive; or off"),
    ] = None

    def settings(self) -> dict[str, Any]:
        """As the API takes them."""
        wanted: dict[str, Any] = {
            name: value for name in ("capture", "capture_avro", "decode") if (value := getattr(self, name)) is not None
        }
        if self.retention is not None:
            wanted["retention_ms"] = duration_ms(self.retention)
        if self.retention_size is not None:
            wanted["retention_bytes"] = size_bytes(self.retention_size)
        return wanted


@hub.command
def create(
    name: str,
    *,
    partitions: int | None = None,
    cleanup: Literal["delete"] | None = None,
    wanted: Wanted = Wanted(),
    common: Common = Common(),  # noqa: B008
) -> None:
    """Create a hub: at once a Kafka topic and an HTTP event collection of that name.

    Args:
        name: letters, digits, '.', '_' and '-'.
        partitions: how many readers can share the work; can grow later.
        cleanup: what retention does.
    """
    settings = wanted.settings() | ({} if cleanup is None else {"cleanup": cleanup})
    made = common.client().post("/v1/hubs", {"name": name, "partitions": partitions, "settings": settings})
    if common.json:
        print_json(made)
    else:
        say(f"created hub {name} with {made['partitions']} partitions; send to it with `gridwire send {name}`")


@hub.command(name="list")
def list_(*, internal: bool = False, common: Common = Common()) -> None:  # noqa: B008
    """List hubs.

    Args:
        internal: show the hub's own ones too.
    """
    answer = common.client().get("/v1/hubs")
    hubs = [row for row in answer["hubs"] if internal or not row["internal"]]
    if common.json:
        print_json(hubs)
        return
    rows = [
        (
            row["name"],
            row["partitions"],
            row["events"],
            size_text(row["bytes"]),
            *_kept(row["settings"]),
        )
        for row in hubs
    ]
    print_table(("hub", "partitions", "events", "size", "retention", "capture"), rows, ("partitions", "events", "size"))


def _kept(settings: dict[str, Any]) -> tuple[str, str]:
    """Retention and capture, where whoever asks may know settings."""
    return (duration_text(settings["retention_ms"]), settings["capture"]) if settings else ("", "")


@hub.command
def show(name: str, *, common: Common = Common()) -> None:  # noqa: B008
    """Show a hub's settings and partitions.

    Args:
        name: the hub.
    """
    found = common.client().get(hub_path(name))
    if common.json:
        print_json(found)
        return
    print_fields({"hub": found["name"], "id": found["id"], **found["settings"]})
    rows = [(row["partition"], row["start"], row["end"], size_text(row["bytes"])) for row in found["bounds"]]
    print_table(("partition", "start", "end", "size"), rows, ("partition", "start", "end", "size"))


@hub.command
def alter(
    name: str,
    *,
    partitions: int | None = None,
    wanted: Wanted = Wanted(),
    common: Common = Common(),  # noqa: B008
) -> None:
    """Change a hub while it serves.

    Args:
        name: the hub.
        partitions: more than it has.
    """
    body: dict[str, Any] = {"settings": wanted.settings()}
    if partitions is not None:
        body["partitions"] = partitions
    changed = common.client().patch(hub_path(name), body)
    if common.json:
        print_json(changed)
    else:
        say(f"changed hub {name}")


@hub.command
def delete(name: str, *, yes: Annotated[bool, Parameter(negative="")] = False, common: Common = Common()) -> None:  # noqa: B008
    """Delete a hub with all its events.

    Args:
        name: the hub.
        yes: do not ask.
    """
    if not yes and typed(f"delete hub {name} and all its events? Type its name: ") != name:
        say("not deleted")
        return
    common.client().delete(hub_path(name))
    if common.json:
        print_json({"deleted": name})
    else:
        say(f"deleted hub {name}")


def status(*, common: Common = Common()) -> None:  # noqa: B008
    """Show what runs, where, and what an acknowledgement means."""
    found = common.client().get("/v1/status")
    if common.json:
        print_json(found)
        return
    shown = {
        name: value
        for name, value in found.items()
        if name not in ("endpoints", "workers", "memory_bytes", "disk_free_bytes", "started_at")
    }
    print_fields(
        {
            **shown,
            **found["endpoints"],
            "memory": size_text(found["memory_bytes"]),
            "disk free": size_text(found["disk_free_bytes"]),
        }
    )
    rows = [(row["name"], row["state"], row["pid"], row["restarts"], row["group"]) for row in found["workers"]]
    if rows:
        print_table(("worker", "state", "pid", "restarts", "group"), rows)
