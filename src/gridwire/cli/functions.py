"""`gridwire fn`: run an app of functions."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from gridwire.cli.client import HubClient
from gridwire.cli.logs import configure_logs
from gridwire.core.errors import FencedEpoch, GridwireError, InvalidSetting

fn = App(name="fn", help="Functions: Azure Functions apps in Python, unmodified, and functions over Arrow batches.")


@fn.command
def start(
    directory: Path,
    *,
    hub: str = "gridwire-data",
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7071,
    workers: int = 0,
    workers_min: int = 0,
    idle_s: float = 30.0,
    lag_s: float = 1.0,
    keys: Annotated[bool | None, Parameter(help="whether HTTP functions ask for keys")] = None,
    state: Path | None = None,
) -> int:
    """Run an app in the foreground until Ctrl-C or SIGTERM.

    Args:
        directory: where function_app.py is.
        hub: the hub's data directory, its HTTP address on this machine, or kafka://HOST:PORT[,HOST:PORT].
        name: the app's name, part of its consumer groups. [default: the directory's name]
        host: address of HTTP functions; other than loopback they ask for keys.
        port: its port; 0 picks a free one.
        workers: worker processes at most; 0 is one a core.
        workers_min: worker processes that stay when there is nothing to do.
        idle_s: seconds without work after which there is no worker process.
        lag_s: age in seconds events may reach before there are more worker processes.
        state: directory for keys, times of timers and blobs. [default: in the data directory, or .gridwire]
    """
    from gridwire.config import is_loopback

    configure_logs()
    if not directory.is_dir():
        raise InvalidSetting(f"{directory} is not a directory")
    opener, home = _opener(hub)
    app = name or re.sub(r"[^A-Za-z0-9_-]+", "-", directory.absolute().name).strip("-") or "app"
    options: dict[str, Any] = {
        "host": host, "port": port, "workers_max": workers, "workers_min": workers_min, "idle_s": idle_s,
        "lag_s": lag_s, "keys": not is_loopback(host) if keys is None else keys,
        "state": (state or (home or directory / ".gridwire") / "functions" / app).absolute(),
    }  # fmt: skip
    return run_host(app, directory, opener, options)


def _opener(hub: str) -> tuple[Any, Path | None]:
    """What opens sources of a hub, and its data directory where there is one. Raises GridwireError."""
    if hub.startswith("kafka://"):
        from gridwire.broker.kafka_address import KafkaAddress
        from gridwire.broker.kafka_source import KafkaSource

        return partial(KafkaSource, KafkaAddress.parse(hub)), None
    from gridwire.broker.local import LocalSource

    data = _data_directory(hub)
    return partial(LocalSource, data), data


def _data_directory(hub: str) -> Path:
    """The data directory of a hub on this machine. Raises GridwireError."""
    if not hub.startswith(("http://", "https://")):
        return Path(hub).absolute()
    return Path(HubClient(hub).get("/v1/status")["data_dir"])


def run_host(app: str, directory: Path, opener: Any, options: dict[str, Any]) -> int:
    """Run the host of an app until SIGTERM; returns the exit code."""
    from gridwire.functions.host import Host, HostOptions

    host = Host(app, directory, opener, HostOptions(**options))
    try:
        opener(f"fn.{app}", []).close()  # a hub that is not there is said at once
        host.learn()
    except BaseException:
        host.publisher.close()
        host.pool.close(kill=True)
        raise
    try:
        asyncio.run(_serve(host))
    except FencedEpoch as error:
        sys.stderr.write(f"gridwire: {error}\n")
        return 3
    return 0


async def _serve(host: Any) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:
            raise GridwireError("functions need Linux or macOS") from None
    await host.serve(stop, _announce)


def _announce(host: Any) -> None:
    lines = ["ready", f"http http://{host.options.host}:{host.port}"]
    lines += [f"function {function.name} {_trigger(host, function)}" for function in host.app.functions]
    if host.options.keys:
        lines.append(f"keys {host.options.state / 'keys.json'}")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _trigger(host: Any, function: Any) -> str:
    if function.hub:
        return f"reads hub {function.hub}"
    if function.schedule:
        return f"runs at {function.schedule}"
    if function.trigger == "httpTrigger":
        return f"answers /{'/'.join(part for part in (host.app.route_prefix, function.route) if part)}"
    return str(function.trigger)
