"""`gridwire alert`: what was found in the grid, and what people say of it."""

from __future__ import annotations

import getpass
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from cyclopts import App, Parameter

from gridwire.cli.alert_routes import route
from gridwire.cli.alert_rules import rule
from gridwire.cli.durations import duration_ms, moment
from gridwire.cli.output import Common, print_fields, print_json, print_table, say
from gridwire.core.errors import InvalidSetting

alert = App(
    name="alert",
    help="Alerts: findings of the grid's detectors and of rules; acknowledge, silence and deliver them.",
)
alert.command(route)
alert.command(rule)

_COLUMNS: Final = ("started", "state", "severity", "kind", "subject", "confidence", "seen by", "silenced", "id")


@alert.command(name="list")
def list_(
    *,
    state: Literal["open", "closed", "all"] = "open",
    kind: str = "*",
    subject: str = "*",
    limit: int = 100,
    common: Common = Common(),  # noqa: B008
) -> None:
    """List alerts, the newest first.

    Args:
        state: open ones, closed ones, or all.
        kind: only kinds that match this pattern, such as voltage.*
        subject: only subjects that match this pattern, such as transformer/T1*
        limit: at most so many.
    """
    found = common.client().get("/v1/alerts", state=state, kind=kind, subject=subject, limit=limit)["alerts"]
    if common.json:
        print_json(found)
    else:
        print_table(_COLUMNS, map(_row, found), ("confidence",))


def _row(row: dict[str, Any]) -> tuple[Any, ...]:
    seen = row["acknowledged"]["by"] if row["acknowledged"] else ""
    return (
        row["started"], row["state"], row["severity"], row["kind"], f"{row['subject_kind']}/{row['subject']}",
        f"{row['confidence']:.2f}", seen, row["silenced"] or "", row["id"],
    )  # fmt: skip


@alert.command
def show(id: str, *, common: Common = Common()) -> None:  # noqa: B008
    """Show one alert with its evidence and what was said of it.

    Args:
        id: as `alert list` shows it.
    """
    _print(common.client().get(_path(id)), common)


@alert.command
def ack(id: str, *, why: str = "", by: str = "", common: Common = Common()) -> None:  # noqa: B008
    """Say that an alert is seen and somebody deals with it.

    Args:
        id: as `alert list` shows it.
        why: what is done about it.
        by: who you are, where the hub asks nobody to sign in [default: your user name].
    """
    _print(common.client().post(f"{_path(id)}/ack", {"why": why, "by": by or getpass.getuser()}), common)


@alert.command
def silence(
    *,
    why: str,
    kind: str = "*",
    subject: str = "*",
    for_: Annotated[str | None, Parameter(name="--for")] = None,
    until: str | None = None,
    by: str = "",
    common: Common = Common(),  # noqa: B008
) -> None:
    """Expect alerts for a while: they are kept, and marked for all who subscribe to them.

    Args:
        why: the reason, for others.
        kind: pattern of the kinds, such as outage
        subject: pattern of the subjects, such as transformer/T1*
        for_: how long, such as 2h or 30m.
        until: or until when, RFC 3339 with an offset.
        by: who you are, where the hub asks nobody to sign in [default: your user name].
    """
    if (for_ is None) == (until is None):
        raise InvalidSetting("say either --for or --until")
    body: dict[str, Any] = {"why": why, "kind": kind, "subject": subject, "by": by or getpass.getuser()}
    if for_ is not None:
        body["for_s"] = duration_ms(for_) // 1000
    else:
        body["until"] = moment(until or "").isoformat()
    made = common.client().post("/v1/silences", body)
    if common.json:
        print_json(made)
    else:
        say(f"silence {made['name']} until {made['until']}")


@alert.command
def unsilence(name: str, *, common: Common = Common()) -> None:  # noqa: B008
    """End a silence before its time.

    Args:
        name: as `alert silences` shows it.
    """
    common.client().delete(f"/v1/silences/{quote(name, safe='')}")
    say(f"silence {name} ended")


@alert.command
def silences(*, common: Common = Common()) -> None:  # noqa: B008
    """List the silences in effect."""
    found = common.client().get("/v1/silences")["silences"]
    if common.json:
        print_json(found)
        return
    columns = ("name", "kind", "subject", "until", "by", "why")
    print_table(columns, [tuple(row[name] for name in columns) for row in found])


def _path(id: str) -> str:
    return f"/v1/alerts/{quote(id, safe='')}"


def _print(found: dict[str, Any], common: Common) -> None:
    if common.json:
        print_json(found)
        return
    evidence = {f"  {name}": value for name, value in found.pop("evidence").items()}
    ack = found.pop("acknowledged")
    said = {"acknowledged": f"by {ack['by'] or 'somebody'} at {ack['at']}: {ack['why']}" if ack else "no"}
    print_fields({**found, **said, "evidence": "", **evidence})
