"""`gridwire fn`: run an app of functions."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from gridwire.cli import deployed
from gridwire.cli.client import HubClient
from gridwire.cli.logs import configure_logs
from gridwire.cli.output import Common, print_json, say
from gridwire.core.errors import FencedEpoch, InvalidSetting

APP_NAME: Final = re.compile(r"[A-Za-z0-9_-]+\Z")
"""What may be a deployed app and not a path."""

fn = App(name="fn", help="Functions: Azure Functions apps in Python, unmodified, and functions over Arrow batches.")

fn.command(deployed.deploy)
fn.command(deployed.list_, name="list")
fn.command(deployed.show)
fn.command(deployed.logs)
fn.command(deployed.keys)
fn.command(deployed.stop)
fn.command(deployed.remove)


@fn.command
def new(
    directory: Path, *, trigger: str = "readings", output: str = "alerts", columns: bool = False,
    common: Common = Common(),  # noqa: B008
) -> None:  # fmt: skip
    """Write a new app to begin with: one function from hub to hub, an ordinary Azure Functions app.

    Args:
        directory: to be made; its name becomes that of the function.
        trigger: the hub it reads. output: the hub it writes to.
        columns: it takes columns of Arrow in place of one event after the other.
    """
    from gridwire.functions import scaffold

    files = scaffold.create(directory, trigger, output, columns=columns)
    if common.json:
        print_json({"files": list(map(str, files))})
        return
    say(f"wrote {', '.join(file.name for file in files)} in {directory}")
    say(f"run it with `gridwire fn start {directory} --reload`, or in a hub with `gridwire fn deploy {directory}`")


@fn.command
def start(
    directory: Path,
    *,
    common: Common = Common(),  # noqa: B008
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
    save_failing: Path | None = None,
    reload: Annotated[bool, Parameter(negative="")] = False,
    version: int | None = None,
) -> int:
    """Run an app in the foreground until Ctrl-C or SIGTERM; or run a deployed app again, or an older version of it.

    Args:
        directory: where function_app.py is; or the name of a deployed app, to which only --url and --version belong.
        hub: the hub's data directory, its HTTP address on this machine, or kafka://HOST:PORT[,HOST:PORT].
        name: the app's name, part of its consumer groups. [default: the directory's name]
        host: address of HTTP functions; other than loopback they ask for keys.
        port: its port; 0 picks a free one.
        workers: worker processes at most; 0 is one a core.
        workers_min: worker processes that stay when there is nothing to do.
        idle_s: seconds without work after which there is no worker process.
        lag_s: age in seconds events may reach before there are more worker processes.
        state: directory for keys, times of timers and blobs. [default: in the data directory, or .gridwire]
        save_failing: directory for batches as they were when they failed first, for `fn run-batch`.
        reload: while developing: run the app anew when its .py and .json files change.
        version: of a deployed app, as `fn show` lists them: this one runs from now on.
    """
    from gridwire.broker.local import report_app
    from gridwire.config import is_loopback
    from gridwire.functions.run import run_host

    if not directory.is_dir() and APP_NAME.match(str(directory)):
        deployed.start_deployed(str(directory), version, common)
        return 0
    if version is not None:
        raise InvalidSetting(f"--version is for deployed apps, and {directory} is a directory: give the app's name")
    configure_logs()
    _check_directory(directory)
    opener, home = _opener(hub)
    app = name or deployed.name_of(directory)
    options: dict[str, Any] = {
        "host": host, "port": port, "workers_max": workers, "workers_min": workers_min, "idle_s": idle_s,
        "lag_s": lag_s, "keys": not is_loopback(host) if keys is None else keys,
        "state": (state or (home or directory / ".gridwire") / "functions" / app).absolute(),
        "save_failing": save_failing and save_failing.absolute(),
    }  # fmt: skip
    tell = None if home is None else partial(report_app, home)
    try:
        run_host(app, directory, opener, options, reload=reload, tell=tell)
    except FencedEpoch as error:
        sys.stderr.write(f"gridwire: {error}\n")
        return 3
    return 0


@fn.command
def replay(
    directory: Path,
    function: str,
    *,
    from_: Annotated[str, Parameter(name="--from")] = "earliest",
    to: str = "latest",
    hub: str = "gridwire-data",
    name: str | None = None,
    workers: int = 1,
    outputs: bool = False,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Run a function over a past range of its hub, beside the app that runs; nobody's position moves.

    The exit code is 1 when it was stopped before the end, or when events failed for good.

    Args:
        directory: where function_app.py is.
        function: its name; it must read a hub.
        from_: earliest, an offset (of every partition), or an RFC 3339 time: the events of that time and later ones.
        to: latest (when the replay begins), an offset or a time; itself not in the range.
        hub: the hub's data directory, its HTTP address on this machine, or kafka://HOST:PORT[,HOST:PORT].
        name: the app's name. [default: the directory's name]
        workers: worker processes.
        outputs: publish what the function hands out; else it is only counted, and blobs it writes are thrown away.
        json_: print the summary as JSON.
    """
    import tempfile

    from gridwire.functions.replay import Range
    from gridwire.functions.replay import replay as run
    from gridwire.functions.saved import opened, stream_of

    configure_logs()
    _check_directory(directory)
    wanted = Range.parse(from_, to)
    opener, home = _opener(hub)
    app = name or deployed.name_of(directory)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory() as scratch:
        kept = None if home is None else (home / "functions" / app / "blobs").absolute()
        written = kept if outputs and kept else Path(scratch)
        with opened(directory.absolute(), written, beneath=kept) as (loaded, pool):
            found = stream_of(loaded, function)
            pool.want(max(1, workers))
            summary = run(app, found, opener, pool, wanted, stop, publish=outputs, progress=_progress)
    _tell_summary(summary, json_)
    return 0 if summary.complete and not summary.dead_letters else 1


def _progress(passed: int, size: int) -> None:
    sys.stderr.write(f"{passed:,} of {size:,} offsets ({passed * 100 // max(1, size)} %)\n")


def _tell_summary(summary: Any, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(dataclasses.asdict(summary)) + "\n")
        return
    done = "complete" if summary.complete else "STOPPED BEFORE THE END"
    what = "published" if summary.published else "not published"
    counted = ", ".join(f"{hub} {count:,}" for hub, count in sorted(summary.outputs.items())) or "none"
    lines = [
        f"{done}: {summary.passed:,} of {summary.offsets:,} offsets in {summary.took_s:.1f} s",
        f"events {summary.events:,}, failed calls {summary.failures:,}, failed for good {summary.dead_letters:,}",
        f"outputs ({what}): {counted}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


@fn.command(name="run-batch")
def run_batch(directory: Path, file: Path, *, function: str = "") -> int:
    """Run a function once over a batch that `fn start --save-failing` saved; nothing is published.

    Args:
        directory: where function_app.py is.
        file: the saved batch.
        function: another function of the app. [default: the one that failed]
    """
    from gridwire.functions.saved import run

    _check_directory(directory)
    return _tell_result(run(directory, file, function))


@fn.command
def invoke(
    directory: Path,
    function: str,
    *events: str,
    key: str | None = None,
    common: Common = Common(),  # noqa: B008
) -> int:
    """Run a function that reads a hub once, over given events and apart from what runs; nothing is published.

    HTTP functions are called over HTTP while `fn start` runs.

    Args:
        directory: where function_app.py is; or the name of a deployed app, whose newest version is called.
        function: its name.
        events: the events' bodies; one that is `-` is read from standard input.
        key: key of every event.
    """
    from gridwire.functions.saved import invoke as run

    values = [sys.stdin.buffer.read() if event == "-" else event.encode() for event in events]
    if not directory.is_dir() and APP_NAME.match(str(directory)):
        return deployed.invoke_deployed(str(directory), function, values, key, common)
    _check_directory(directory)
    return _tell_result(run(directory, function, values, key.encode() if key is not None else None))


def _tell_result(result: Any) -> int:
    for published in result.published:
        for value in published.values:
            sys.stdout.write(f"{published.hub}  {value.decode('utf-8', 'backslashreplace')}\n")
    for row, reason in result.rejected:
        sys.stdout.write(f"rejected: event {row} of the batch: {reason}\n")
    sys.stdout.write(f"{result.done:,} events in {result.took_us / 1000:.1f} ms\n")
    if result.error:
        sys.stderr.write(result.traceback or result.error + "\n")
        return 1
    return 0


def _check_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise InvalidSetting(f"{directory} is not a directory")


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
