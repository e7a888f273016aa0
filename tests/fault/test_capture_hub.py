"""Capture of a real hub: its restarts, its deletions, a second capture worker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.local import LocalSource
from gridwire.broker.local_server import LocalServer
from gridwire.capture.decoders import events
from gridwire.capture.sql import query, tables
from gridwire.capture.worker import Totals, run
from gridwire.core.batch import Event, encode
from gridwire.core.errors import FencedEpoch

ROWS = 'SELECT partition, "offset", value_text FROM h ORDER BY ALL'


class Hub:
    """A broker and its local server, on a loop of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def start(self) -> None:
        async def opened() -> None:
            self.broker = await EmbeddedBroker.open(self._directory, "os", default_partitions=2)
            self._server = LocalServer(self.broker)
            await self._server.start()

        self.call(opened())

    def stop(self) -> None:
        async def closed() -> None:
            await self._server.stop()
            await self.broker.close()

        self.call(closed())

    def send(self, partition: int, *values: str) -> None:
        async def sent() -> None:
            await self.broker.append("h", partition, encode([Event(value.encode(), timestamp=9) for value in values]))

        self.call(sent())

    def end(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Worker:
    """Capture in a thread until told to stop."""

    def __init__(self, directory: Path, lake: Path) -> None:
        self.stop, self.outcome = threading.Event(), Totals()
        self.error: Exception | None = None
        self._open = lambda: LocalSource(directory, "capture", ["h"])
        self._lake = lake
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcome = run(self._open, self._lake, {"h": events}, self.stop, flush_s=0.05)
        except Exception as error:
            self.error = error

    def end(self) -> Totals:
        self.stop.set()
        self._thread.join(30)
        return self.outcome

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("gridwire.capture.worker.RETRY_S", (0.05,))
    monkeypatch.setattr("gridwire.capture.worker.POLL_S", 0.1)
    hub = Hub(tmp_path / "data")
    hub.start()
    hub.call(hub.broker.create_hub("h"))
    yield hub
    hub.end()


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


@pytest.fixture
def worker(hub: Hub, tmp_path: Path, lake: Path) -> Iterator[Worker]:
    worker = Worker(tmp_path / "data", lake)
    yield worker
    worker.end()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def captured(lake: Path) -> int:
    return sum(table.rows for table in tables(lake) if table.name == "h")


def test_a_hub_that_restarts_is_captured_on(hub: Hub, worker: Worker, lake: Path) -> None:
    hub.send(0, "a", "b")
    hub.send(1, "c")
    until(lambda: captured(lake) == 3, "the first events")
    for number in range(3):
        hub.stop()
        hub.start()
        hub.send(number % 2, f"after restart {number}")
        until(lambda: captured(lake) == 4 + number, "the event after a restart")  # noqa: B023
    until(lambda: len(hub.call(hub.broker.positions("capture"))) == 2, "the group's positions")
    totals = worker.end()
    assert worker.error is None
    assert totals.reopened >= 3
    assert query(lake, ROWS).rows == [
        (0, 0, "a"), (0, 1, "b"), (0, 2, "after restart 0"), (0, 3, "after restart 2"),
        (1, 0, "c"), (1, 1, "after restart 1"),
    ]  # fmt: skip


def test_a_hub_deleted_and_created_again_starts_a_table_of_its_own(hub: Hub, worker: Worker, lake: Path) -> None:
    hub.send(0, "old", "old")
    until(lambda: captured(lake) == 2, "the old hub's events")
    hub.call(hub.broker.delete_hub("h"))
    hub.call(hub.broker.create_hub("h"))
    hub.send(0, "new")
    until(lambda: captured(lake) == 1, "the new hub's event")
    worker.end()
    assert worker.error is None
    assert query(lake, ROWS).rows == [(0, 0, "new")]
    assert [(table.name[:2], table.rows) for table in tables(lake)] == [("h", 1), ("h@", 2)]


def test_a_second_capture_worker_takes_over_and_nothing_is_written_twice(
    hub: Hub, worker: Worker, tmp_path: Path, lake: Path
) -> None:
    hub.send(0, "a")
    until(lambda: captured(lake) == 1, "the first event")
    second = Worker(tmp_path / "data", lake)
    for number in range(20):
        hub.send(number % 2, str(number))
    worker.join()
    assert isinstance(worker.error, FencedEpoch)
    hub.send(0, "z")
    until(lambda: captured(lake) == 22, "the events of both")
    second.end()
    assert second.error is None
    assert query(lake, 'SELECT count(DISTINCT (partition, "offset")) FROM h').rows == [(22,)]
