"""`gridwire fn`: run an app of functions."""

from __future__ import annotations

import asyncio
import contextlib
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

from gridwire.cli.client import HubClient
from gridwire.cli.logs import configure_logs
from gridwire.core.errors import FencedEpoch, GridwireError, InvalidSetting

WATCH_S: Final = 0.3
"""Between two looks at an app's files."""

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
    save_failing: Path | None = None,
    reload: Annotated[bool, Parameter(negative="")] = False,
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
        save_failing: directory for batches as they were when they failed first, for `fn run-batch`.
        reload: while developing: run the app anew when its .py and .json files change.
    """
    from gridwire.config import is_loopback

    configure_logs()
    _check_directory(directory)
    opener, home = _opener(hub)
    app = name or _name_of(directory)
    options: dict[str, Any] = {
        "host": host, "port": port, "workers_max": workers, "workers_min": workers_min, "idle_s": idle_s,
        "lag_s": lag_s, "keys": not is_loopback(host) if keys is None else keys,
        "state": (state or (home or directory / ".gridwire") / "functions" / app).absolute(),
        "save_failing": save_failing and save_failing.absolute(),
    }  # fmt: skip
    return run_host(app, directory, opener, options, reload=reload)


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
        outputs: publish what the function hands out; else it is only counted, and blobs are thrown away.
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
    app = name or _name_of(directory)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory() as scratch:
        blobs = home / "functions" / app / "blobs" if outputs and home else Path(scratch)
        with opened(directory.absolute(), blobs) as (loaded, pool):
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
def invoke(directory: Path, function: str, *events: str, key: str | None = None) -> int:
    """Run a function that reads a hub once, over given events and without a hub; nothing is published.

    HTTP functions are called over HTTP while `fn start` runs.

    Args:
        directory: where function_app.py is.
        function: its name.
        events: the events' bodies; one that is `-` is read from standard input.
        key: key of every event.
    """
    from gridwire.functions.saved import invoke as run

    _check_directory(directory)
    values = [sys.stdin.buffer.read() if event == "-" else event.encode() for event in events]
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


def _name_of(directory: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", directory.absolute().name).strip("-") or "app"


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


def run_host(app: str, directory: Path, opener: Any, options: dict[str, Any], *, reload: bool = False) -> int:
    """Run the host of an app until SIGTERM; returns the exit code.

    Args:
        reload: run the app anew whenever its files change and it loads; else the one that runs goes on.
    """
    opener(f"fn.{app}", []).close()  # a hub that is not there is said at once
    host = _learned(app, directory, opener, options)
    try:
        while host is not None:
            following = partial(_learned, app, directory, opener) if reload else None
            host = asyncio.run(_serve(host, following, options))
    except FencedEpoch as error:
        sys.stderr.write(f"gridwire: {error}\n")
        return 3
    return 0


def _learned(app: str, directory: Path, opener: Any, options: dict[str, Any]) -> Any:
    """A host that has loaded its app. Raises InvalidSetting."""
    from gridwire.functions.host import Host, HostOptions

    host = Host(app, directory, opener, HostOptions(**options))
    try:
        host.learn()
    except BaseException:
        _discard(host)
        raise
    return host


def _discard(host: Any) -> None:
    host.publisher.close()
    host.pool.close(kill=True)


async def _serve(host: Any, following: Any, options: dict[str, Any]) -> Any:
    """Run a host until told to stop; returns the one to run next when the app has changed."""
    stop = asyncio.Event()
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        told.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, end)
        except NotImplementedError:
            raise GridwireError("functions need Linux or macOS") from None
    watching = asyncio.create_task(_watch(host, following, options, stop)) if following else None
    try:
        await host.serve(stop, _announce)
    finally:
        stop.set()
        fresh = await watching if watching else None
        if fresh is not None and (told.is_set() or sys.exc_info()[0]):
            await asyncio.to_thread(_discard, fresh)
            fresh = None
    return fresh


async def _watch(host: Any, following: Any, options: dict[str, Any], stop: asyncio.Event) -> Any:
    """Load the app anew when its files change; the running one is told to stop only once that went well."""
    from gridwire.functions.reload import Watch

    watch = Watch(host.directory)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), WATCH_S)
        if stop.is_set() or not host.port or not await asyncio.to_thread(watch.changed):
            continue
        try:
            fresh = await asyncio.to_thread(following, {**options, "port": host.port})
        except GridwireError as error:
            sys.stderr.write(f"gridwire: not reloaded: {error}\n")
            continue
        stop.set()
        return fresh
    return None


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
