"""`gridwire alert rule`: alert conditions of users' own, thresholds on a hub and questions about the lake."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import quote

from cyclopts import App

from gridwire.cli.durations import duration_ms
from gridwire.cli.output import Common, print_fields, print_json, print_table, say
from gridwire.core.errors import InvalidSetting

rule = App(name="rule", help="Alert rules: thresholds on a hub and questions about the lake.")

_COLUMNS: Final = ("name", "type", "severity", "of", "state", "open", "last run", "error")

Severity = Literal["info", "warning", "critical"]


@rule.command
def add(
    name: str,
    *,
    hub: str = "",
    field: str = "",
    op: Literal[">", ">=", "<", "<=", "=", "!="] = ">",
    value: str = "",
    subject: str = "",
    subject_kind: str = "",
    where: str = "",
    for_count: int = 1,
    closes_at: float | None = None,
    quiet: str = "",
    query: str = "",
    every: str = "60s",
    severity: Severity = "warning",
    text: str = "",
    replace: bool = False,
    common: Common = Common(),  # noqa: B008
) -> None:
    """Make a rule: of a hub with --hub, --field, --op and --value, or of the lake with --query.

    Args:
        name: what its alerts are called: rule.NAME
        hub: the hub whose events are looked at.
        field: what is compared, such as load_kw or header.x
        op: the alert opens when `field op value` holds.
        value: a number; with = and != it may be a text.
        subject: the field that names who the alert is about, such as transformer; else the whole hub is one.
        subject_kind: what that is [default: the field's name].
        where: only events that match this filter, such as "reading_type = voltage_v".
        for_count: so many values in a row.
        closes_at: the alert closes when `field op closes_at` holds no more [default: value].
        quiet: it closes when nothing is heard of the subject for so long, such as 1h.
        query: one SELECT; each row is an open alert, its column `subject` says about whom.
        every: how often it is asked.
        severity: how soon somebody should look.
        text: what to do about it, shown with the alert.
        replace: change the rule of that name.
    """
    body = _body(name, severity, text, subject_kind, query, every) if query else _threshold(
        {"name": name, "severity": severity, "text": text, "hub": hub, "field": field, "op": op, "subject": subject,
         "subject_kind": subject_kind, "where": where, "for_count": for_count, "closes_at": closes_at}, value, quiet,
    )  # fmt: skip
    client = common.client()
    made = client.put_json(_path(name), body) if replace else client.post("/v1/alert-rules", body)
    if common.json:
        print_json(made)
    else:
        say(f"alert rule {made['name']} {'changed' if replace else 'made'}")


def _body(name: str, severity: str, text: str, subject_kind: str, query: str, every: str) -> dict[str, Any]:
    return {"type": "sql", "name": name, "severity": severity, "text": text, "subject_kind": subject_kind,
            "query": query, "every_s": duration_ms(every) // 1000}  # fmt: skip


def _threshold(body: dict[str, Any], value: str, quiet: str) -> dict[str, Any]:
    if not body["hub"] or not body["field"] or not value:
        raise InvalidSetting("say --hub, --field and --value, or --query")
    if quiet:
        body["quiet_s"] = duration_ms(quiet) // 1000
    return {"type": "threshold", **body, "value": _number(value)}


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


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
    common: Common = Common(),  # noqa: B008
) -> None:
    """Say what a rule would have found, without an alert: of a hub's past events, or of the lake now.

    Args:
        name: a rule, see `alert rule list`; POST /v1/alert-rules/try takes one that is not made yet.
        hours: how far back the hub is looked at.
        events: at most so many, the newest.
    """
    client = common.client()
    known = client.get(_path(name))
    made = {key: value for key, value in known.items() if key not in ("revision", "changed_ms", "changed_by", "status")}
    found = client.post("/v1/alert-rules/try", {"rule": made, "hours": hours, "events": events})
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


def _evidence(row: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in row["evidence"].items())[:100]


def _path(name: str) -> str:
    return f"/v1/alert-rules/{quote(name, safe='')}"
