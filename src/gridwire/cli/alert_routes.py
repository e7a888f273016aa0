"""`gridwire alert route`: which alerts go to which webhook."""

from __future__ import annotations

import getpass
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from cyclopts import App, Parameter

from gridwire.cli.durations import duration_ms
from gridwire.cli.output import Common, print_fields, print_json, print_table, say
from gridwire.core.errors import GridwireError

route = App(name="route", help="Routes: alerts that are delivered to webhooks.")

State = Literal["opened", "changed", "closed"]

_COLUMNS: Final = ("name", "state", "kind", "subject", "severity", "waiting", "delivered", "failed", "last", "error")


@route.command
def add(
    name: str,
    url: str,
    *,
    kind: str = "*",
    subject: str = "*",
    severity: Literal["info", "warning", "critical"] = "info",
    state: Annotated[list[State] | None, Parameter(consume_multiple=True)] = None,
    silenced: bool = False,
    mode: Literal["structured", "binary", "text"] = "structured",
    header_file: Annotated[Path | None, Parameter(allow_leading_hyphen=True)] = None,
    handshake: bool = True,
    time_limit: str = "24h",
    by: str = "",
    common: Common = Common(),  # noqa: B008
) -> None:
    """Deliver alerts to a webhook, from now on: a POST for every finding that is told, retried until it is taken.

    The receiver is asked first, as CloudEvents' webhooks have it: it answers OPTIONS with WebHook-Allowed-Origin. Chat
    services do not know that question. --no-handshake leaves it out: say it for receivers of your own only, for whoever
    is at the address then gets your alerts without having been asked.

    Args:
        name: of the route.
        url: where to, https://...; http and addresses of your own network take the hub's setting webhook_allow.
        kind: only kinds that match this pattern, such as voltage.*
        subject: only subjects that match this pattern, such as transformer/T1*
        severity: the least.
        state: only findings that are told so [default: all three].
        silenced: also findings that a silence covers.
        mode: structured and binary CloudEvents, or text: {"text": "..."}, which chat services take.
        header_file: file with a header that goes along, `Authorization: Bearer ...`; - reads standard input. It is kept
            sealed, and shown to nobody again.
        handshake: ask the receiver first.
        time_limit: how long a finding is tried, such as 30m or 24h; then it is a dead letter, see `gridwire dlq`.
        by: who you are, where the hub asks nobody to sign in [default: your user name].
    """
    body = {
        "name": name, "url": url, "kind": kind, "subject": subject, "severity": severity, "silenced": silenced,
        "mode": mode, "header": _header(header_file), "handshake": handshake,
        "time_limit_s": duration_ms(time_limit) // 1000, "by": by or getpass.getuser(),
    }  # fmt: skip
    if state:
        body["states"] = state
    made = common.client().post("/v1/alert-routes", body)
    if common.json:
        print_json(made)
    else:
        say(f"route {made['name']} delivers from now on; `gridwire alert route test {made['name']}` sends a sample")


def _header(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return (sys.stdin.read() if str(file) == "-" else file.read_text()).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise GridwireError(f"cannot read {file}: {error}") from None


@route.command(name="list")
def list_(*, common: Common = Common()) -> None:  # noqa: B008
    """List routes: how each is, what waits, what was delivered or given up, and why the last try failed."""
    found = common.client().get("/v1/alert-routes")["routes"]
    if common.json:
        print_json(found)
        return
    rows = [tuple(_when(row["delivered_ms"]) if name == "last" else row[name] for name in _COLUMNS) for row in found]
    print_table(_COLUMNS, rows, ("waiting", "delivered", "failed"))


@route.command
def show(name: str, *, common: Common = Common()) -> None:  # noqa: B008
    """Show everything that is known of a route, but its header's value.

    Args:
        name: as `alert route list` shows it.
    """
    row = common.client().get(_path(name))
    if common.json:
        print_json(row)
        return
    row["states"] = ", ".join(row["states"])
    for at in ("delivered_ms", "error_ms", "created_ms"):
        row[at.replace("_ms", "")] = _when(row.pop(at))
    print_fields({key: value for key, value in row.items() if value not in ("", None)})


@route.command
def test(name: str, *, common: Common = Common()) -> int:  # noqa: B008
    """Send a sample past all filters, and print what the receiver answers. Exit code 1 if it does not take it.

    Args:
        name: as `alert route list` shows it.
    """
    told = common.client().post(f"{_path(name)}/test", {})
    if common.json:
        print_json(told)
    elif told["status"] is None:
        say(f"not delivered: {told['error']}")
    else:
        taken = "taken" if told["delivered"] else "not taken"
        say(f"{taken}: {told['status']} after {told['took_ms']:.0f} ms  {told['answer'][:200].strip()}".rstrip())
    return 0 if told["delivered"] else 1


@route.command
def resume(name: str, *, common: Common = Common()) -> None:  # noqa: B008
    """Go on with a route whose receiver answered 410 and was stopped, from where it was.

    Args:
        name: as `alert route list` shows it.
    """
    common.client().post(f"{_path(name)}/resume", {})
    say(f"route {name} delivers again")


@route.command
def remove(name: str, *, common: Common = Common()) -> None:  # noqa: B008
    """Deliver no more, and forget the route. Its dead letters stay.

    Args:
        name: as `alert route list` shows it.
    """
    common.client().delete(_path(name))
    say(f"route {name} is removed")


def _path(name: str) -> str:
    return f"/v1/alert-routes/{quote(name, safe='')}"


def _when(at_ms: Any) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at_ms else ""
