"""`gridwire up`, and the worker processes it starts."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
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


def with_settings(function: Any, wanted: Callable[[config.Row], bool] = lambda row: True) -> Any:
    """Give a command one flag for every row of the settings table, or for those that are wanted."""
    own = [p for p in inspect.signature(function).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    rows = [_parameter(row) for row in config.SETTINGS if wanted(row)]
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


def event_hubs_text(amqp: str) -> str:
    """Connection string for Azure's SDKs on a hub without sign-in: any name and key will do.

    Args:
        amqp: `amqp://HOST:PORT`.
    """
    address = amqp.removeprefix("amqp://")
    return f"Endpoint=sb://{address};SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true;"


def announce(hub: Any) -> None:
    """Say that every head serves, and where."""
    endpoints = hub.endpoints()
    lines = ["ready", *(f"{name} {address}" for name, address in endpoints.items())]
    if hub.access is None and "amqp" in endpoints:
        lines.append(f"event-hubs {event_hubs_text(endpoints['amqp'])}")
    if hub.root_key_file is not None:
        lines.append(f"root policy made; its connection string, shown nowhere else, is in {hub.root_key_file}")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


@partial(with_settings, wanted=lambda row: row.name.startswith("broker"))
def worker(
    name: str,
    *,
    data: Path = Path("gridwire-data"),
    table: Annotated[list[str], Parameter(consume_multiple=True)] | None = None,
    lake: Path | None = None,
    flush_s: float = 5.0,
    flush_mib: int = 64,
    path: str = config.AVRO_PATH,
    namespace: str = "gridwire",
    window_days: int = 2,
    late: bool = False,
    channels: int = 250_000,
    detectors: str = "all",
    processes: int = 0,
    zone: str = "Europe/Oslo",
    keys: Path | None = None,
    mapping: Path | None = None,
    whole: bool = False,
    supervised: bool = False,
    app: str = "",
    version: int = 0,
    port: int = 0,
    python: str = sys.executable,
    secret_file: Path | None = None,
    webhook_allow: str = "",
    **broker: Any,
) -> int:
    """Run one worker: of the hub of a data directory (the hub starts these itself), or anywhere, on a Kafka cluster.

    With --broker kafka://host:9092,host2:9092 run the same command on as many machines as there are.

    Args:
        name: grid, vee, watch, rules, forecast, capture, avro, decode, router or functions.
        data: the hub's data directory; on a cluster, where this machine keeps what can be made again.
        table: hub=decoder, for capture; hub, for avro; hub=format, for decode.
        lake: where tables or files are [default: lake or capture in data]; for several such workers one they all reach.
        flush_s: seconds until captured events are rows, or in a file.
        flush_mib: events that wait at most, for avro.
        path: pattern of the files' paths, for avro; directory of the app, for functions; file of the rules, for rules.
        namespace: what {Namespace} stands for in it.
        window_days: how late a reading may be for live sums.
        late: sum days again out of the lake that later readings belong to.
        channels: a model's, that are judged by the VEE rules at most.
        detectors: those of the watch worker: all, or names with commas between them.
        processes: that decode frames; 0: one a core.
        zone: of clocks in frames that do not say it.
        keys: TOML file with the keys of encrypted meters.
        mapping: TOML file that says what columns mean, for frames of the format mapped.
        whole: one grid worker gets all readings, the others stand by; for readings that are not keyed by transformer.
        supervised: end when standard input does.
        app: name of a deployed app, for functions. version: of its deployment.
        port: of its HTTP functions, 0 for a free one. python: interpreter of its code.
        secret_file: what secrets of alert routes are sealed with [default: secret.key in data].
        webhook_allow: where the router may deliver besides public addresses.
    """
    from gridwire import app as root

    configure_logs()
    options = {
        "broker": config.load_address(broker, config=broker.pop("config", None)), "supervised": supervised,
        "tables": table or [], "lake": lake, "flush_s": flush_s, "flush_mib": flush_mib, "path": path,
        "namespace": namespace, "window_days": window_days, "late": late, "channels": channels,
        "detectors": detectors, "whole": whole, "processes": processes, "zone": zone, "keys": keys, "mapping": mapping,
        "app": app, "version": version, "port": port, "python": python,
        "secret_file": secret_file, "webhook_allow": webhook_allow,
    }  # fmt: skip
    return root.run_worker(name, data, options)
