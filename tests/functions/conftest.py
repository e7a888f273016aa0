"""A real broker in a thread, apps written to a directory, and hosts that run them with real worker processes."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.local import LocalSource
from gridwire.broker.local_server import LocalServer
from gridwire.core.batch import Event, decode, encode, iter_headers
from gridwire.functions.host import Host, HostOptions

WAIT_S = 90.0


class Hub:
    """A broker with its local server; `durability` os unless a test is about restarts."""

    def __init__(self, directory: Path, partitions: int = 2) -> None:
        self.directory = directory
        self._partitions = partitions
        self.start()

    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.call(self._open())

    async def _open(self) -> None:
        self.broker = await EmbeddedBroker.open(self.directory, "os", default_partitions=self._partitions)
        self.server = LocalServer(self.broker)
        await self.server.start()

    async def _close(self) -> None:
        await self.server.stop()
        await self.broker.close()

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def create(self, hub: str, partitions: int | None = None) -> None:
        """Its events are of 1970: retention must leave them alone, however long a test takes."""
        self.call(self.broker.create_hub(hub, partitions, {"retention_ms": -1}))

    def append(self, hub: str, partition: int, *values: Any, **event: Any) -> None:
        """Values: bytes, or anything JSON."""
        events = [
            Event(value if isinstance(value, bytes) else json.dumps(value).encode(), **{"timestamp": 1000, **event})
            for value in values
        ]

        async def scenario() -> None:
            await self.broker.append(hub, partition, encode(events))

        self.call(scenario())

    def events(self, hub: str) -> list[Event]:
        async def scenario() -> list[Event]:
            found: list[Event] = []
            for partition in range(self.broker.hub(hub).partitions):
                bounds = await self.broker.bounds(hub, partition)
                at = bounds.start
                while at < bounds.end:
                    read = await self.broker.read(hub, partition, at, 20_000_000)
                    for position, _ in iter_headers(read.data):
                        found += [event for event in decode(read.data, position) if event.offset >= at]
                    at = found[-1].offset + 1
            return found

        if hub not in {info.name for info in self.broker.hubs()}:
            return []
        return self.call(scenario())

    def json(self, hub: str) -> list[Any]:
        return [json.loads(event.value or b"null") for event in self.events(hub)]

    def position(self, group: str, hub: str) -> int:
        """Committed positions of all partitions, added up."""
        positions = self.call(self.broker.positions(group))
        return sum(position.offset for (name, _), position in positions.items() if name == hub)

    def close(self) -> None:
        self.call(self._close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)
        self.loop.close()


class Running:
    """A host on a loop in a thread."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.error: BaseException | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(WAIT_S)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self.error = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self.host.serve(self._stop, lambda host: self._ready.set())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.host.port}"

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(WAIT_S)
            assert not self._thread.is_alive(), "the host did not stop"

    def join(self) -> None:
        self._thread.join(WAIT_S)


def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait for a condition."""
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, what or "the condition did not come true"
        time.sleep(0.02)
    return found


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Any]:
    return until


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(tmp_path / "data")
    yield made
    made.close()


@pytest.fixture
def write_app(tmp_path: Path) -> Callable[..., Path]:
    """Write an app; returns its directory."""

    def write(code: str, host: Any = None, settings: Any = None, name: str = "app", **files: str) -> Path:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        (directory / "function_app.py").write_text(code)
        (directory / "host.json").write_text(json.dumps({"version": "2.0", **(host or {})}))
        values = {"IsEncrypted": False, "Values": settings or {}}
        (directory / "local.settings.json").write_text(json.dumps(values))
        for stem, text in files.items():
            (directory / f"{stem}.py").write_text(text)
        return directory

    return write


@pytest.fixture
def run_app(hub: Hub, tmp_path: Path, write_app: Callable[..., Path]) -> Iterator[Callable[..., Running]]:
    """Write an app and run it against the hub."""
    running: list[Running] = []

    def run(
        code: str, *, after: Any = lambda step: None, options: Any = None, opener: Any = None, **app: Any
    ) -> Running:
        directory = write_app(code, **app)
        given = HostOptions(tmp_path / "state", port=0, **{"workers_max": 2, "idle_s": 60.0, **(options or {})})
        name = app.get("name", "app")
        output = (tmp_path / f"{name}.log").open("ab")
        host = Host(name, directory, opener or partial(LocalSource, hub.directory), given, output=output, after=after)
        try:
            host.learn()
        except BaseException:
            host.publisher.close()
            host.pool.close(kill=True)
            raise
        running.append(Running(host))
        return running[-1]

    yield run
    for each in running:
        each.stop()
