"""Fixtures that more than one kind of test needs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.membership import Membership
from gridwire.core.clock import SystemClock
from gridwire.heads.http.server import HttpHead

T = TypeVar("T")


class HttpHub:
    """A real broker behind a real HTTP endpoint, in a thread with an event loop of its own."""

    def __init__(self, directory: Path, durability: str, options: dict[str, Any]) -> None:
        self.directory = directory
        self.status: dict[str, Any] = {
            "version": "0.0.0",
            "durability": durability,
            "ready": True,
            "uptime_s": 1.0,
            "memory_bytes": 1,
            "disk_free_bytes": 1,
            "workers": [],
        }
        self._durability = durability
        self._options = options
        self._thread = threading.Thread(target=self._serve, name="hub")
        self._started = threading.Event()
        self._error: BaseException | None = None
        self.stopped = False

    def _serve(self) -> None:
        try:
            uvloop.run(self._main())
        except BaseException as error:
            self._error = error
        finally:
            self._started.set()

    async def _main(self) -> None:
        self.broker = await EmbeddedBroker.open(self.directory, self._durability)
        try:
            self.membership = Membership(SystemClock())
            self.head = HttpHead(
                self.broker, self.membership, status=lambda: self.status, **{"port": 0, **self._options}
            )
            await self.head.start()
            self.loop = asyncio.get_running_loop()
            self._over = asyncio.Event()
            self._started.set()
            await self._over.wait()
            self.membership.close()
            await self.head.stop()
        finally:
            await self.broker.close()

    def start(self) -> HttpHub:
        self._thread.start()
        self._started.wait(30)
        if self._error is not None:
            self._thread.join(30)
            raise self._error
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.head.port}"

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float = 30) -> T:
        """Run a coroutine in the hub's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout_s)

    def stop(self) -> None:
        if self.stopped or self._error is not None:
            return
        self.stopped = True
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the hub did not stop"
        if self._error is not None:
            raise self._error


@pytest.fixture
def http_hub(tmp_path: Path) -> Iterator[Callable[..., HttpHub]]:
    """Start hubs with an HTTP endpoint: `http_hub(durability="os", limits=..., host=...)`."""
    hubs: list[HttpHub] = []

    def start(durability: str = "os", **options: Any) -> HttpHub:
        hub = HttpHub(tmp_path / f"hub{len(hubs)}", durability, options).start()
        hubs.append(hub)
        return hub

    yield start
    for hub in hubs:
        hub.stop()
