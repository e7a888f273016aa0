"""Fixtures for tests that run the real program, or its HTTP endpoint over a real broker in this process."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parent))

from brokers import KafkaStore, store  # noqa: F401 - a fixture
from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.kafka import KafkaBroker
from gridwire.broker.membership import Membership
from gridwire.broker.port import GroupDirectory
from gridwire.core.clock import SystemClock
from gridwire.heads.http.server import HttpHead
from hub_process import HubProcess, run_cli
from kafka_cluster import kafka, kafka_three  # noqa: F401 - fixtures

T = TypeVar("T")

# Hubs of tests run side by side: none may insist on a port.
os.environ.update(GRIDWIRE_AMQP_PORT="0", GRIDWIRE_AMQPS_PORT="0")

# As on most machines: what a process prints into a pipe is kept back until somebody flushes it.
os.environ.pop("PYTHONUNBUFFERED", None)

# The same examples every time, so that a red test is red for everybody; GRIDWIRE_TEST_EXPLORE=1 looks for new ones.
settings.register_profile("same", derandomize=True, database=None)
settings.register_profile("explore")
settings.load_profile("explore" if os.environ.get("GRIDWIRE_TEST_EXPLORE") else "same")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """No garbage is collected beside the clients of a Kafka cluster: with several threads a collection now and then
    crashes the process (confluent-kafka-python, issue 1761)."""
    beside = {"kafka", "kafka_three"}.intersection(getattr(item, "fixturenames", ()))
    if beside:
        gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="session")
def hub_process() -> type[HubProcess]:
    """The class, for fixtures that keep one hub for a whole file."""
    return HubProcess


@pytest.fixture
def start_hub(tmp_path: Path) -> Iterator[Any]:
    """Start hubs; whatever still runs at the end is stopped."""
    started: list[HubProcess] = []

    def start(*flags: str, data: Path | None = None, **options: Any) -> HubProcess:
        hub = HubProcess(data or tmp_path / "data", *flags, **options)
        started.append(hub)
        return hub

    yield start
    for hub in started:
        hub.stop()


@pytest.fixture(scope="session")
def gridwire_cli() -> Any:
    """Run a `gridwire` command without a hub."""
    return run_cli


class HttpHub:
    """A real broker behind a real HTTP endpoint, in a thread with an event loop of its own.

    Args:
        kafka: where on a cluster the broker's things are; None for the embedded broker.
    """

    def __init__(
        self,
        directory: Path,
        durability: str,
        options: dict[str, Any],
        kafka: KafkaStore | None = None,  # noqa: F811
    ) -> None:
        self.directory = directory
        self._kafka = kafka
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
        self.membership = Membership(SystemClock())
        self.groups: GroupDirectory = self.membership
        if self._kafka is None:
            self.broker: Any = await EmbeddedBroker.open(self.directory, self._durability)
        else:
            self.broker = await KafkaBroker.open(self._kafka.address)
            self.groups = self.broker.groups
        try:
            self.head = HttpHead(self.broker, self.groups, status=lambda: self.status, **{"port": 0, **self._options})
            await self.head.start()
            self.loop = asyncio.get_running_loop()
            self._over = asyncio.Event()
            self._started.set()
            await self._over.wait()
            await self.membership.close()
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


@pytest.fixture(scope="session")
def http_hub_class() -> type[HttpHub]:
    """The class, for fixtures that put it over something else."""
    return HttpHub


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
