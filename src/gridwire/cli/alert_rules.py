"""`gridwire alert rule`: alert conditions of users' own, thresholds on a hub and questions about the lake."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from cyclopts import App, Parameter

from gridwire.cli.durations import duration_ms
from gridwire.cli.output import Common, print_fields, print_json, print_table, say
from gridwire.core.errors import InvalidSetting

rule = App(name="rule", help="Alert rules: thresholds on a hub and questions about the lake.")

_COLUMNS: Final = ("name", "type", "severity", "of", "state", "open", "last run", "error")


@Parameter(name="*")
@dataclass(frozen=True)
class Definition:
    """What a rule says: of a hub with --hub, --field, --op and --value, or of the lake with --query."""

    hub: Annotated[str, Parameter(help="the hub whose events are looked at.")] = ""
    field: Annotated[str, Parameter(help="what is compared, such as load_kw or header.x")] = ""
    op: Annotated[
        Literal[">", ">=", "<", "<=", "=", "!="], Parameter(help="the alert opens when `field op value` holds.")
    ] = ">"
    value: Annotated[str, Parameter(help="a number; with = and != it may be a text.", allow_leading_hyphen=True)] = ""
    subject: Annotated[
        str, Parameter(help="the field that names who the alert is about; else the whole hub is one.")
    ] = ""
    subject_kind: Annotated[str, Parameter(help="what the alert calls it; else the field's name.")] = ""
    where: Annotated[str, Parameter(help='only events that match this filter, such as "type = voltage".')] = ""
    for_count: Annotated[int, Parameter(help="so many values in a row.")] = 1
    closes_at: Annotated[
        float | None, Parameter(help="the alert closes when `field op closes_at` holds no more [default: value].")
    ] = None
    quiet: Annotated[str, Parameter(help="it closes when nothing is heard of the subject for so long, such as 1h.")] = (
        ""
    )
    query: Annotated[str, Parameter(help="one SELECT; each row is an open alert, its column `subject` names whom.")] = (
        ""
    )
    every: Annotated[str, Parameter(help="how often it is asked.")] = "60s"
    severity: Annotated[Literal["info", "warning", "critical"], Parameter(help="how soon somebody should look.")] = (
        "warning"
    )
    text: Annotated[str, Parameter(help="what to do about it, shown with the alert.")] = ""

    def body(self, name: str) -> dict[str, Any]:
        """The rule as the API takes it. Raises InvalidSetting."""
        common = {"name": name, "severity": self.severity, "text": self.text, "subject_kind": self.subject_kind}
        if self.query:
            return {"type": "sql", **common, "query": self.query, "every_s": duration_ms(self.every) // 1000}
        if not self.hub or not self.field or not self.value:
            raise InvalidSetting("say --hub, --field and --value, or --query")
        return {
            "type": "threshold", **common, "hub": self.hub, "field": self.field, "op": self.op,
            "value": _number(self.value), "subject": self.subject, "where": self.where, "for_count": self.for_count,
            "closes_at": self.closes_at, "quiet_s": duration_ms(self.quiet) // 1000 if self.quiet else None,
        }  # fmt: skip


def _number(value: str) -> float | str:
    try:
        number = float(value)
    except ValueError:
        return value
    return number if isfinite(number) else value


@rule.command
def add(
    name: str,
    *,
    replace: bool = False,
    definition: Definition = Definition(),
    common: Common = Common(),  # noqa: B008
) -> None:
    """Make a rule: of a hub with --hub, --field, --op and --value, or of the lake with --query.

    Args:
        name: what its alerts are called: rule.NAME
        replace: change the rule of that name; what it has open is closed.
    """
    client, body = common.client(), definition.body(name)
    made = client.put_json(_path(name), body) if replace else client.post("/v1/alert-rules", body)
    if common.json:
        print_json(made)
    else:
        say(f"alert rule {made['name']} {'changed' if replace else 'made'}")


@rule.command(name="list")
def list_(*, common: Common = Common()) -> None:  # noqa: B008
    """List the rules and how they are."""
    found = common.client().get("/v1/alert-rules")["rules"]
    if common.json:
        print_json(found)
    else:
        print_table(_COLUMNS, map(_row, found), ("open",))


def _row(row: dict[str, Any]) -> tuple[Any, ...]:
    status = row["status"]
    of = row["hub"] if row["type"] == "threshold" else f"lake, every {row['every_s']} s"
    error = status["error"].partition("\n")[0][:60]
    return row["name"], row["type"], row["severity"], of, status["state"], status["open"], _when(status), error


def _when(status: dict[str, Any]) -> str:
    if not status["last_ms"]:
        return ""
    return datetime.fromtimestamp(status["last_ms"] / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@rule.command
def show(name: str, *, common: Common = Common()) -> None:  # noqa: B008
    """Show one rule."""
    found = common.client().get(_path(name))
    if common.json:
        print_json(found)
        return
    status = found.pop("status")
    print_fields({**found, "": "", **{f"  {key}": value for key, value in status.items()}})


@rule.command
def remove(name: str, *, common: Common = Common()) -> None:  # noqa: B008
    """Remove a rule; what it has open is closed."""
    common.client().delete(_path(name))
    say(f"alert rule {name} removed")


@rule.command(name="try")
def try_(
    name: str,
    *,
    hours: float = 24,
    events: int = 100_000,
    definition: Definition = Definition(),
    common: Common = Common(),  # noqa: B008
) -> None:
    """Say what a rule would have found, without an alert: of a hub's past events, or of the lake now.

    Args:
        name: a rule that there is; or any name, with the flags of `alert rule add`.
        hours: how far back the hub is looked at.
        events: at most so many, the newest.
    """
    client = common.client()
    body = definition.body(name) if definition != Definition() else _known(client.get(_path(name)))
    found = client.post("/v1/alert-rules/try", {"rule": body, "hours": hours, "events": events})
    if common.json:
        print_json(found)
        return
    columns = ("started", "state", "subject", "evidence")
    rows = [(row["started"], row["state"], f"{row['subject_kind']}/{row['subject']}", _evidence(row))
            for row in found["findings"]]  # fmt: skip
    print_table(columns, rows)
    say(f"{found['events']:,} events or rows, {found['opened']:,} alerts, {found['open']:,} of them open at the end")
    if found["error"]:
        raise InvalidSetting(found["error"])


def _known(row: dict[str, Any]) -> dict[str, Any]:
    """A rule as it was made, without how it is."""
    return {key: value for key, value in row.items() if key not in ("revision", "changed_ms", "changed_by", "status")}


def _evidence(row: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in row["evidence"].items())[:100]


def _path(name: str) -> str:
    return f"/v1/alert-rules/{quote(name, safe='')}"
