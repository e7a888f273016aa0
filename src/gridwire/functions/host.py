"""The host of one app: its streams, timers and HTTP side around a pool of worker processes.

    pool of workers (user code)  <-  streams (a thread each)      ->  hub
                                 <-  web, timers (this loop)      ->  publisher -> hub

The host runs no user code. Several hosts may run the same app: a broker that has groups of members spreads partitions
over them; on an embedded hub the newest host takes over and the older one ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from gridwire.broker.reports import AppReport, FunctionReport
from gridwire.core.errors import FencedEpoch, GridwireError, InvalidSetting
from gridwire.core.hubs import timers_of
from gridwire.functions import model
from gridwire.functions.account import Account
from gridwire.functions.check import host_problems, told, zone_of
from gridwire.functions.frames import CALL
from gridwire.functions.keys import KEYS_FILE, Keys
from gridwire.functions.lease import Lease
from gridwire.functions.model import App, Call, Function, Published, Result
from gridwire.functions.pool import Fate, Pool
from gridwire.functions.publisher import Publisher
from gridwire.functions.retry import decide
from gridwire.functions.scale import IDLE_S, LAG_S, Controller, Load
from gridwire.functions.settings import WORKERS_SETTING, AppSettings, Invalid
from gridwire.functions.stream import DRAIN_S, OpenSource, Stream
from gridwire.functions.timers import Status, Timer
from gridwire.functions.web import Web, listener, server

CONTROL_S: Final = 0.2
"""How often the number of workers is looked at, and whether a stream has lost its group."""

LEASE_S: Final = 0.1
"""How soon a host that keeps the timers from now on begins, and one that does not any more ends."""

log = structlog.get_logger("gridwire.functions")


@dataclass(frozen=True, slots=True)
class HostOptions:
    """How an app is run.

    Args:
        state: directory for keys and blobs. keys: whether HTTP functions ask for theirs.
        workers_max: processes; 0 for one a core. workers_min: those that stay when there is nothing to do.
        idle_s: until an app without work has no process. lag_s: age events may reach before there are more.
        save_failing: directory for batches that fail, see `saved`.
        python: interpreter of the workers, whose environment has gridwire too. keep: descriptors they inherit.
    """

    state: Path
    host: str = "127.0.0.1"
    port: int = 7071
    keys: bool = False
    workers_max: int = 0
    workers_min: int = 0
    idle_s: float = IDLE_S
    lag_s: float = LAG_S
    save_failing: Path | None = None
    python: str = sys.executable
    keep: tuple[int, ...] = ()


class Host:
    """See the module. `learn`, then `serve`."""

    def __init__(
        self,
        name: str,
        directory: Path,
        open_source: OpenSource,
        options: HostOptions,
        *,
        output: Any = None,
        after: Callable[[str], None] = lambda step: None,
    ) -> None:
        self.name = name
        self.directory = directory.absolute()
        self.options = options
        self.port = 0
        self.accounts: dict[str, Account] = {}
        self.app = App()
        self.streams: list[Stream] = []
        self._open_source, self._after = open_source, after
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        try:
            settings = AppSettings(self.directory)
        except Invalid as error:
            raise InvalidSetting(str(error)) from None
        self._settings = settings
        self.pool = Pool(
            self.directory, options.state / "blobs",
            environment={**os.environ, **settings.missing_from(os.environ)}, output=output,
            command=(options.python, "-m", "gridwire.functions.worker"), keep=options.keep,
        )  # fmt: skip
        self.publisher = Publisher(f"fn.{name}", open_source)
        self._lease: Lease | None = None

    def learn(self) -> App:
        """Load the app in a worker. Raises InvalidSetting with every problem of the app, a line each."""
        try:
            app = self.pool.learn()
        except TimeoutError as error:
            raise InvalidSetting(f"{self.name}: {error}") from None
        if problems := app.problems or host_problems(app, self._settings):
            raise InvalidSetting("\n  ".join([f"the app in {self.directory} cannot run:", *problems]))
        self.app = app
        self.accounts = {function.name: Account() for function in app.functions}
        return app

    async def serve(self, stop: asyncio.Event, ready: Callable[[Host], None] = lambda host: None) -> None:
        """Run until `stop` is set, then let calls under way end. Raises FencedEpoch: another host took over."""
        keys = Keys(self.options.state / KEYS_FILE, self.app.functions) if self.options.keys else None
        web = Web(self.app.functions, self.app.route_prefix, self.invoke, keys, self.status, self.metrics)
        try:
            bound = listener(self.options.host, self.options.port)
        except OSError as error:
            raise GridwireError(
                f"cannot listen on {self.options.host}:{self.options.port}: {error.strerror or error}. "
                "Choose another port with --port (0 picks a free one)"
            ) from None
        self.port = bound.getsockname()[1]
        http = server(web)
        serving = asyncio.create_task(http.serve(sockets=[bound]))
        timing = asyncio.create_task(self._keep_time())
        self._start_streams()
        await self._warm_up()
        ready(self)
        try:
            await self._control(stop)
        finally:
            timing.cancel()
            http.should_exit = True
            await asyncio.gather(timing, return_exceptions=True)
            with contextlib.suppress(Exception):
                await serving
            await asyncio.to_thread(self._close)

    def _start_streams(self) -> None:
        for function in self.app.functions:
            if function.trigger in model.STREAMS:
                stream = Stream(
                    self.name, function, self._open_source, self.pool, self._stopping,
                    save_failing=self.options.save_failing, after=self._after,
                )  # fmt: skip
                thread = threading.Thread(target=stream.run, name=function.name, daemon=True)
                self.streams.append(stream)
                self.accounts[function.name] = stream.account
                self._threads.append(thread)
                thread.start()

    def _close(self) -> None:
        self._stopping.set()
        deadline = time.monotonic() + DRAIN_S + 5
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        if self._lease is not None:
            self._lease.close()
        self.publisher.close()
        self.pool.close()

    # -- how many workers -----------------------------------------------------------------------------------------

    async def _control(self, stop: asyncio.Event) -> None:
        controller = Controller(self._most(), self.options.workers_min, self.options.lag_s, self.options.idle_s)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), CONTROL_S)
            fenced = self.publisher.fenced or (self._lease is not None and self._lease.fenced)
            if fenced or any(stream.state == "fenced" for stream in self.streams):
                raise FencedEpoch(f"another host runs app {self.name} now")
            workers = self.pool.count()
            wanted = controller.decide(self._load(), workers, time.monotonic())
            if wanted != workers:
                self.pool.want(wanted)

    def _most(self) -> int:
        stated = self._settings.get(WORKERS_SETTING) or ""
        return self.options.workers_max or (int(stated) if stated.isdigit() else 0) or os.cpu_count() or 1

    def _load(self) -> Load:
        now = time.monotonic()
        starved = [now - stream.starved_since for stream in self.streams if stream.starved_since is not None]
        partitions = sum(stream.places * stream.function.parallel for stream in self.streams)
        lag_s = max((stream.lag_s for stream in self.streams), default=0.0)
        return Load(lag_s, max(starved, default=0.0), self.pool.idle_s(), partitions)

    # -- calls that are not events --------------------------------------------------------------------------------

    async def invoke(self, function: Function, call: Call) -> Result:
        """Call a function once; what it hands out is durable when this returns."""
        return await self._settled(function, await self._called(function, call), self.publisher.publish)

    async def _called(self, function: Function, call: Call) -> Result:
        """Have it called by a worker, by another one when the first was lost before it began."""
        account = self.accounts[function.name]
        account.counters["invocations"] += 1
        parts = [msgspec.msgpack.encode(call)]
        while True:
            future: Future[tuple[Fate, Result]] = Future()
            self.pool.submit(CALL, parts, function.timeout_s, partial(_tell, future))
            fate, result = await asyncio.wrap_future(future)
            if fate != "lost" or self._stopping.is_set():
                break
        account.called(result)
        if result.error:
            account.failed({"died": "deaths", "hung": "timeouts"}.get(fate, "failures"), result.error)
        return result

    async def _settled(
        self, function: Function, result: Result, publish: Callable[[list[Published]], Future[None]]
    ) -> Result:
        """Publish what a call that went well handed out; tell of one that did not."""
        if not result.error:
            try:
                await asyncio.wrap_future(publish(result.published))
            except GridwireError as error:
                result = Result(error=f"outputs cannot be published: {error}")
                self.accounts[function.name].failed("failures", result.error)
        if result.error:
            log.warning("function failed", function=function.name, reason=result.error, traceback=result.traceback)
        return result

    async def _warm_up(self) -> None:
        for function in self.app.functions:
            if function.trigger == model.WARM_UP:
                await self.invoke(function, Call(function.name))

    # -- timers -------------------------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        """Run the app's timers while this host has their lease."""
        functions = [function for function in self.app.functions if function.trigger == model.TIMER]
        if not functions:
            return
        lease = self._lease = Lease(timers_of(self.name), self._open_source)
        begun = True
        while True:
            if not (term := lease.term):
                await asyncio.sleep(LEASE_S)
                continue
            status = Status(lease.note)
            zone = zone_of(self._settings)
            timers = [Timer(each, status, lambda: datetime.now(UTC), zone, begun=begun) for each in functions]
            begun = False
            tasks = [asyncio.create_task(self._run_timer(timer, status, lease, term)) for timer in timers]
            try:
                await self._end_of(lease, term)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _end_of(self, lease: Lease, term: int) -> None:
        while True:
            await asyncio.sleep(LEASE_S)
            if lease.term != term:
                return

    async def _run_timer(self, timer: Timer, status: Status, lease: Lease, term: int) -> None:
        def save(published: list[Published]) -> Future[None]:
            return lease.save(term, published, status.note())

        def fired(published: list[Published]) -> Future[None]:
            timer.fired()
            return save(published)

        await asyncio.wrap_future(save([]))
        while (wait_s := timer.wait_s()) is not None:
            await asyncio.sleep(min(wait_s, 3600.0))
            if wait_s <= 3600.0 and not await self._fire(timer, fired):
                await asyncio.wrap_future(fired([]))

    async def _fire(self, timer: Timer, fired: Callable[[list[Published]], Future[None]]) -> bool:
        """One time, with the app's retries; whether it went well."""
        function, tries, failure = timer.function, 0, ""
        while True:
            call = Call(
                function.name, tries=tries, tries_max=function.retry.count, failure=failure, arguments=timer.arguments()
            )
            result = await self._settled(function, await self._called(function, call), fired)
            if not result.error:
                return True
            tries, failure = tries + 1, result.error
            decision = decide(function.retry, 1, tries, 0, whole=True, lost=False)
            if decision.action != "again":
                return False
            await asyncio.sleep(decision.delay_s)

    # -- what there is to see -------------------------------------------------------------------------------------

    def figures(self) -> dict[str, dict[str, float]]:
        """Counters and gauges of every function."""
        found: dict[str, dict[str, float]] = {name: {**each.counters} for name, each in self.accounts.items()}
        for stream in self.streams:
            lag = {"lag_events": stream.lag_events, "lag_seconds": round(stream.lag_s, 3)}
            found[stream.function.name] |= lag
        return found

    def report(self, version: int = 0) -> AppReport:
        """For the hub. `version`: of the deployment."""
        states = {stream.function.name: stream.state for stream in self.streams}
        functions = []
        for function in self.app.functions:
            account = self.accounts[function.name]
            functions.append(
                FunctionReport(
                    **told(self.app, function), state=states.get(function.name, "running"),
                    counters={**account.counters}, buckets=list(account.buckets),
                    last_error=account.last_error, last_error_ms=account.last_error_ms,
                )
            )  # fmt: skip
        cpu_s = time.process_time() + sum(each.counters["cpu_us"] for each in self.accounts.values()) / 1e6
        url = f"http://{self.options.host}:{self.port}" if self.port else ""
        return AppReport(
            self.name, version, url, os.getpid(), self.pool.count(), self.pool.starts, round(cpu_s, 3), functions
        )

    def status(self) -> Mapping[str, Any]:
        """For `/admin/host/status`."""
        return {
            "id": self.name,
            "state": "Running",
            "workers": self.pool.count(),
            "worker_pids": self.pool.pids(),
            "worker_starts": self.pool.starts,
            "worker_start_s": self.pool.start_s[-1:],
            "functions": self.figures(),
            "streams": {stream.function.name: stream.state for stream in self.streams},
        }

    def metrics(self) -> str:
        """For `/metrics`, in the Prometheus text format."""
        lines = [f'gridwire_function_workers{{app="{self.name}"}} {self.pool.count()}']
        for function, values in self.figures().items():
            for counter, value in sorted(values.items()):
                lines.append(f'gridwire_function_{counter}{{app="{self.name}",function="{function}"}} {value:g}')
        return "\n".join(lines) + "\n"


def _tell(future: Future[tuple[Fate, Result]], fate: Fate, result: Result) -> None:
    if not future.cancelled():
        future.set_result((fate, result))
