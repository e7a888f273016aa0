"""The worker process of all routes: keeps one runner for each route that is there and is not stopped."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import structlog

from gridwire.broker.alert_routes import RouteRecord, opened_secret
from gridwire.broker.port import EventSource
from gridwire.core.clock import Clock, SystemClock
from gridwire.core.errors import FencedEpoch, GridwireError
from gridwire.router.addresses import Allowed
from gridwire.router.runner import Runner
from gridwire.router.sender import Sender

LOOK_S: Final = 0.5
"""How soon a route that was made, stopped or removed is noticed."""

AGAIN_S: Final = 5.0
"""Pause before a runner that failed is started again."""

log = structlog.get_logger("gridwire.router")


class Keeper(Protocol):
    """Where routes are kept: the hub this worker belongs to, or a cluster. Raises Unavailable."""

    async def routes(self) -> Mapping[str, RouteRecord]:
        """Every route by name."""
        ...

    async def stop(self, name: str, id: str, reason: str) -> None:
        """The receiver wants no more."""
        ...

    async def forget(self, name: str, id: str) -> None:
        """Nobody works for the removed route any more."""
        ...


@dataclass(slots=True)
class _Running:
    record: RouteRecord
    runner: Runner
    sender: Sender
    task: asyncio.Task[None]


class Worker:
    """See the module.

    Args:
        open_source: (group, hubs) to a source. key_file: what secrets were sealed with.
    """

    def __init__(
        self,
        keeper: Keeper,
        open_source: Callable[[str, Sequence[str]], EventSource],
        allowed: Allowed,
        key_file: Path,
        clock: Clock | None = None,
    ) -> None:
        self._keeper, self._open, self._allowed, self._key_file = keeper, open_source, allowed, key_file
        self._clock = clock or SystemClock()
        self._running: dict[str, _Running] = {}
        self._known: dict[str, RouteRecord] = {}

    async def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. Raises FencedEpoch: another worker took over."""
        try:
            while not stop.is_set():
                try:
                    await self._look()
                except FencedEpoch:
                    raise
                except GridwireError as error:
                    log.warning("routes cannot be read", reason=str(error))
                await asyncio.sleep(LOOK_S)
        finally:
            await asyncio.gather(*(self._stop(name) for name in list(self._running)))
            with contextlib.suppress(GridwireError):  # the last route that is removed takes this worker along
                await self._forget_gone(await self._keeper.routes())

    async def _look(self) -> None:
        """Make the runners those of the routes that are there."""
        wanted = dict(await self._keeper.routes())
        for name in list(self._running):
            one = self._running[name]
            if one.task.done():
                await self._stop(name)
                one.task.result()
            elif wanted.get(name) != one.record:
                await self._stop(name)
        await self._forget_gone(wanted)
        self._known = wanted
        for name, record in wanted.items():
            if name not in self._running and not record.stopped:
                self._start(name, record)

    async def _forget_gone(self, wanted: Mapping[str, RouteRecord]) -> None:
        """What a runner committed after its route was removed."""
        for name, record in self._known.items():
            if name not in wanted or wanted[name].id != record.id:
                await self._keeper.forget(name, record.id)

    def _start(self, name: str, record: RouteRecord) -> None:
        sender = Sender(self._allowed)

        def headers() -> Mapping[str, str]:
            return {record.header: opened_secret(self._key_file, name, record)} if record.header else {}

        async def stopped(reason: str) -> None:
            await self._keeper.stop(name, record.id, reason)

        runner = Runner(name, record, self._open, sender, headers, clock=self._clock, stopped=stopped)
        log.info("route begins", route=name)
        self._running[name] = _Running(record, runner, sender, asyncio.create_task(self._guarded(runner)))

    async def _guarded(self, runner: Runner) -> None:
        """A runner that fails by itself holds up nobody else; it begins again after a pause."""
        try:
            await runner.run()
        except FencedEpoch:
            raise
        except Exception:
            log.exception("route failed", route=runner.name)
            await asyncio.sleep(AGAIN_S)

    async def _stop(self, name: str) -> None:
        one = self._running.pop(name)
        one.runner.stop()
        with contextlib.suppress(FencedEpoch):
            await asyncio.shield(one.task)
        await one.sender.close()
        log.info("route ends", route=name)
