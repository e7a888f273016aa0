"""`gridwire up`, and the worker processes it starts."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from gridwire import config
from gridwire.cli.logs import configure_logs


def _parameter(row: config.Row) -> inspect.Parameter:
    kind: Any = bool if row.kind == "switch" else str
    shown = {True: "on", False: "off"}.get(row.default, row.default) if row.kind == "switch" else row.default
    note = Parameter(help=f"{row.help} ({row.unit}) [default: {shown}]")
    return inspect.Parameter(
        row.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, note]
    )


_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[Path | None, Parameter(help="settings file [default: gridwire.toml if there is one]")],
)


def with_settings(function: Any) -> Any:
    """Give a command one flag for every row of the settings table."""
    own = [p for p in inspect.signature(function).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    rows = [_parameter(row) for row in config.SETTINGS]
    function.__signature__ = inspect.Signature([*own, _CONFIG, *rows])
    function.__annotations__ = {p.name: p.annotation for p in function.__signature__.parameters.values()}
    return function


def load_settings(flags: dict[str, Any]) -> config.Settings:
    """Settings from flags (with `config` among them), environment and file."""
    file = flags.pop("config", None)
    return config.load(flags, config=file)


@with_settings
def up(**flags: Any) -> None:
    """Run the hub in the foreground until Ctrl-C or SIGTERM."""
    from gridwire import app

    settings = load_settings(flags)
    configure_logs()
    app.run(app.serve(settings, announce))


def announce(hub: Any) -> None:
    """Say that every head serves, and where."""
    lines = ["ready", *(f"{name} {address}" for name, address in hub.endpoints().items())]
    if hub.root_key_file is not None:
        lines.append(f"root policy made; its connection string, shown nowhere else, is in {hub.root_key_file}")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def worker(
    name: str,
    *,
    data: Path,
    table: Annotated[list[str], Parameter(consume_multiple=True)] | None = None,
    flush_s: float = 5.0,
    flush_mib: int = 64,
    path: str = config.AVRO_PATH,
    namespace: str = "gridwire",
    window_days: int = 2,
) -> int:
    """Run one worker of a hub; the hub starts these itself.

    Args:
        name: grid, capture or avro.
        data: the hub's data directory.
        table: hub=decoder, for capture; hub, for avro.
        flush_s: seconds until captured events are rows, or in a file.
        flush_mib: events that wait at most, for avro.
        path: pattern of the files' paths, for avro.
        namespace: what {Namespace} stands for in it.
        window_days: how late a reading may be.
    """
    from gridwire import app

    configure_logs()
    options = {
        "tables": table or [], "flush_s": flush_s, "flush_mib": flush_mib, "path": path, "namespace": namespace,
        "window_days": window_days,
    }  # fmt: skip
    return app.run_worker(name, data, options)
