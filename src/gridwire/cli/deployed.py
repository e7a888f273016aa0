"""Commands of `gridwire fn` that talk to a running hub: deploy, list, logs, stop, start, remove, invoke."""

from __future__ import annotations

import base64
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

from cyclopts import Parameter

from gridwire.cli.client import HubClient
from gridwire.cli.output import Common, print_fields, print_json, print_table, say, size_text
from gridwire.core.errors import GridwireError

FOLLOW_S: Final = 0.5
"""Between two looks at a log that is followed."""

START_S: Final = 60.0
"""How long `deploy` waits until the new version runs."""


def name_of(directory: Path) -> str:
    """The name of the app in a directory when nobody says another."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", directory.absolute().name).strip("-") or "app"


def app_path(app: str, *more: str) -> str:
    """The API path of an app."""
    return "/".join(["/v1/functions", *(quote(part, safe="") for part in (app, *more))])


def deploy(
    directory: Path,
    *,
    name: str | None = None,
    venv: str | None = None,
    port: int = 0,
    wait: bool = True,
    common: Common = Common(),  # noqa: B008
) -> int:
    """Deploy an app into a running hub, which runs it from then on: a new version of it if it is there already.

    All problems of the app are listed, and nothing is deployed, when it cannot run. Its code runs with the packages of
    the hub's own Python unless you say --venv.

    Args:
        directory: where function_app.py is.
        name: the app's name, part of its consumer groups. [default: the directory's name]
        venv: directory, on the hub's machine, of an environment with gridwire and the app's packages to run it in.
        port: of its HTTP functions, on the hub's loopback address; 0 picks a free one, which `fn list` shows.
        wait: return once the new version runs.
    """
    from gridwire.functions.package import pack

    if not directory.is_dir():
        raise GridwireError(f"{directory} is not a directory")
    app = name or name_of(directory)
    client = common.client()
    query: dict[str, Any] = {"port": port, **({"venv": venv} if venv else {})}
    row = client.put(app_path(app), pack(directory), "application/zip", query)
    if wait:
        row = _running(client, row)
    if common.json:
        print_json(row)
        return 0
    say(f"{row['app']} version {row['version']} is {row['state']} ({size_text(row['bytes'])})")
    for function in row["functions"]:
        say(f"function {function['name']} {function['when']}")
    if any(function["trigger"] == "httpTrigger" for function in row["functions"]):
        say(f"http {client.url}/apps/{app}, with a key of `gridwire fn keys {app}` where the function asks for one")
    return 0


def _running(client: HubClient, row: dict[str, Any]) -> dict[str, Any]:
    """An app once the version runs. Raises GridwireError when it does not."""
    version, deadline = row["version"], time.monotonic() + START_S
    while row["state"] != "running" and row["version"] == version:
        if row["state"] in ("failed", "restarting") or time.monotonic() > deadline:
            tail = client.get(app_path(row["app"], "logs"), lines=10)["lines"]
            what = f"{row['app']} version {version} is deployed, and {row['state']}: {row['reason'] or 'not there yet'}"
            raise GridwireError("\n  ".join([what, *tail]))
        time.sleep(0.1)
        row = client.get(app_path(row["app"]))
    return row


def list_(*, common: Common = Common()) -> None:  # noqa: B008
    """List apps and their functions: those deployed, and those that `fn start` runs on the hub's machine."""
    apps = common.client().get("/v1/functions")["apps"]
    if common.json:
        print_json(apps)
        return
    columns = ("app", "version", "state", "function", "when", "calls", "events", "failures", "letters", "lag", "lag_s")
    rows = []
    for app in apps:
        version = app["version"] if app["deployed"] else "-"
        for function in app["functions"]:
            counts = function["counters"]
            state = app["state"] if app["state"] != "running" else function["state"]
            rows.append(
                (
                    app["app"], version, state, function["name"], function["when"], counts.get("invocations", 0),
                    counts.get("events", 0), counts.get("failures", 0), function["letters_waiting"],
                    function["lag_events"], function["lag_seconds"],
                )
            )  # fmt: skip
    print_table(columns, rows, columns[5:])


def show(app: str, *, common: Common = Common()) -> None:  # noqa: B008
    """Show everything that is known of an app."""
    row = common.client().get(app_path(app))
    if common.json:
        print_json(row)
        return
    functions, versions = row.pop("functions"), row.pop("versions")
    print_fields({name: value for name, value in row.items() if value not in ("", None)})
    if versions:
        say("")
        rows = [
            (each["version"], _when(each["deployed_ms"]), each["deployed_by"], size_text(each["bytes"]))
            for each in versions
        ]
        print_table(("version", "deployed", "by", "size"), rows, ("version", "size"))
    for function in functions:
        say("")
        counters = function.pop("counters")
        function.pop("buckets")
        print_fields({**{name: value for name, value in function.items() if value not in ("", [])}, **counters})


def _when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def logs(
    app: str,
    *,
    follow: Annotated[bool, Parameter(name=["-f", "--follow"], negative="")] = False,
    lines: int = 100,
    common: Common = Common(),  # noqa: B008
) -> None:
    """Print the last lines that a deployed app has logged or printed.

    Args:
        app: its name.
        follow: go on with what comes, until Ctrl-C.
        lines: how many.
    """
    client = common.client()
    page = client.get(app_path(app, "logs"), lines=lines)
    while True:
        if page["skipped"]:
            sys.stderr.write(f"({page['skipped']:,} bytes of the log are gone)\n")
        for line in page["lines"]:
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if not follow:
            return
        if not page["lines"]:
            time.sleep(FOLLOW_S)
        page = client.get(app_path(app, "logs"), after=page["next"], lines=5000)


def stop(app: str, *, common: Common = Common()) -> None:  # noqa: B008
    """Stop a deployed app at the end of its batches; `fn start APP` runs it again, from where it was."""
    _told(common, common.client().post(app_path(app, "stop"), {}))


def start_deployed(app: str, version: int | None, common: Common) -> None:
    """Run a deployed app again that was stopped, or another version of it."""
    client = common.client()
    query = "" if version is None else f"?version={version}"
    _told(common, _running(client, client.post(app_path(app, "start") + query, {})))


def keys(app: str, *, renew: str = "", common: Common = Common()) -> None:  # noqa: B008
    """Show where the HTTP functions of a deployed app answer, and the keys that open them.

    A key goes into the header x-functions-key or the query parameter code.

    Args:
        renew: make a key anew first, so that the one before opens nothing: master, system, host, or a function's name;
            of the last two /NAME may follow, and a new name is a further key.
    """
    client = common.client()
    found = client.get(app_path(app, "keys"))
    if renew:
        found = client.post(app_path(app, "keys"), _key_of(renew))
    if common.json:
        print_json(found)
        return
    own = {
        f"function {function}" + f", {name}" * (name != "default"): key
        for function, named in found["functions"].items()
        for name, key in named.items()
    }
    host = {f"any function, {name}": key for name, key in found["host"].items()}
    opened = {"url": f"{client.url}/apps/{app}", **own, **host}
    print_fields({**opened, "event grid (system)": found["system"], "everything (master)": found["master"]})


def _key_of(text: str) -> dict[str, str]:
    """`SCOPE` or `SCOPE/NAME` as what the hub takes."""
    scope, _, name = text.partition("/")
    told = {"scope": scope} if scope in ("master", "system", "host") else {"scope": "function", "function": scope}
    return told | ({"name": name} if name else {})


def _told(common: Common, row: dict[str, Any]) -> None:
    if common.json:
        print_json(row)
    else:
        say(f"{row['app']} version {row['version']} is {row['state']}")


def remove(app: str, *, common: Common = Common()) -> None:  # noqa: B008
    """Stop a deployed app and forget it. Hubs, positions and dead letters stay: deployed again, it goes on."""
    common.client().delete(app_path(app))
    if common.json:
        print_json({"app": app, "removed": True})
    else:
        say(f"{app} is removed")


def invoke_deployed(app: str, function: str, values: list[bytes], key: str | None, common: Common) -> int:
    """Give events to a function of a deployed app; returns the exit code."""
    events = [{"base64": base64.b64encode(value).decode()} for value in values]
    body: dict[str, Any] = {"events": events, **({} if key is None else {"key": key})}
    told = common.client().post(app_path(app, "functions", function, "invoke"), body)
    if common.json:
        print_json(told)
        return 1 if told["error"] else 0
    for output in told["outputs"]:
        value = output["value"]
        if not isinstance(value, str):
            value = base64.b64decode(value["base64"]).decode("utf-8", "backslashreplace")
        say(f"{output['hub']}  {value}")
    for rejected in told["rejected"]:
        say(f"rejected: event {rejected['event']} of the batch: {rejected['reason']}")
    say(f"{told['done']:,} events in {told['took_ms']:.1f} ms")
    if told["error"]:
        sys.stderr.write(told["traceback"] or told["error"] + "\n")
        return 1
    return 0
