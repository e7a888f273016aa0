"""Running the host of one app until it is told to stop: from a directory, anew when files change, or as deployed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from gridwire.broker.reports import AppReport
from gridwire.core.errors import GridwireError, Unavailable
from gridwire.functions.check import when
from gridwire.functions.keys import KEYS_FILE

WATCH_S: Final = 0.3
"""Between two looks at an app's files."""

REPORT_S: Final = 1.0
"""Between two reports to the hub."""

LOCK_S: Final = 30.0
"""How long a version waits for the processes of the one before it."""

Tell = Callable[[Any], None]
"""Takes an `AppReport` as builtins. Raises Unavailable."""

log = structlog.get_logger("gridwire.functions")


def run_host(
    app: str,
    directory: Path,
    opener: Any,
    options: dict[str, Any],
    *,
    reload: bool = False,
    tell: Tell | None = None,
    version: int = 0,
) -> None:
    """Run the host of an app until SIGTERM. Raises InvalidSetting: the app cannot run; FencedEpoch: another host does.

    Args:
        reload: run the app anew whenever its files change and it loads; else the one that runs goes on.
        tell: what tells the hub how the host is. version: of the deployment.
    """
    opener(f"fn.{app}", []).close()  # a hub that is not there is said at once
    host = _learned(app, directory, opener, options)
    while host is not None:
        following = partial(_learned, app, directory, opener) if reload else None
        host = asyncio.run(_serve(host, following, options, partial(_report, tell, version)))


def locked(path: Path) -> int:
    """A lock that holds until this process and all that were given it have ended, however they end.

    So a version of an app never runs beside another one, not even its user code, wherever hub or host were killed.

    Returns:
        The descriptor, for the workers to be given as well.

    Raises:
        Unavailable: the processes of another version are there after `LOCK_S`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES) or time.monotonic() > deadline:
                os.close(descriptor)
                raise Unavailable(f"processes of another version of the app are there and hold {path}") from None
        time.sleep(0.05)


async def _report(tell: Tell | None, version: int, host: Any, stop: asyncio.Event) -> None:
    """Tell the hub how the host is until it stops, and that it has."""
    while tell is not None:
        report = host.report(version) if not stop.is_set() else AppReport(host.name, version, ended=True)
        with contextlib.suppress(GridwireError):
            await asyncio.to_thread(tell, msgspec.to_builtins(report))
        if stop.is_set():
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), REPORT_S)


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


async def _serve(host: Any, following: Any, options: dict[str, Any], reporting: Any) -> Any:
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
    tasks: list[asyncio.Task[None]] = []

    def ready(served: Any) -> None:
        _announce(served)
        tasks.append(asyncio.create_task(reporting(served, stop)))

    try:
        await host.serve(stop, ready)
    finally:
        stop.set()
        await asyncio.gather(*tasks)
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
    lines += [f"function {function.name} {when(host.app, function)}" for function in host.app.functions]
    if host.options.keys:
        lines.append(f"keys {host.options.state / KEYS_FILE}")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
